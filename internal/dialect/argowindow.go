package dialect

import argocdv1 "keelson.dev/keelson/api/argocd/v1alpha1"

func (r *argoReader) windows(p *argocdv1.AppProject, c ArgoCluster) {}
