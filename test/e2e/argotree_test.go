package e2e

import (
	"fmt"
	"strings"
	"testing"

	argocdv1 "keelson.dev/keelson/api/argocd/v1alpha1"
)

// TestTreeOfApplication: tree and trace judge the objects of an Application, and what was made from them, as its status does: by Argo
// CD's rules and by the scripts of argocd-cm.
func TestTreeOfApplication(t *testing.T) {
	script := `
hs = {status = "Suspended", message = "nobody holds it"}
if obj.spec.holderIdentity ~= nil then hs.status, hs.message = "Healthy", "" end
return hs
`
	apply(t, shared.Kubeconfig, "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: argocd-cm, namespace: argocd}\ndata:\n"+
		"  resource.customizations.health.coordination.k8s.io_Lease: |"+strings.ReplaceAll(script, "\n", "\n    ")+"\n")
	t.Cleanup(func() { shared.kubectl(t, "-n", "argocd", "delete", "configmap", "argocd-cm") })
	paused := strings.Replace(deploymentYAML("paused", "registry.example/web:1", ""), "replicas: 1\n", "replicas: 1\n  paused: true\n", 1)
	c, url := hosted(t, "argo-tree", "app/namespace.yaml", namespaceYAML("argo-tree"), "app/config.yaml", configYAML("settings", "1", ""), "app/paused.yaml", paused,
		"app/sick.yaml", strings.Replace(deploymentYAML("sick", "registry.example/web:1", ""), "labels: {app: sick}}", "labels: {app: sick}, annotations: {keelson.dev/simulate: CrashLoopBackOff}}", 1),
		"app/lease.yaml", "apiVersion: coordination.k8s.io/v1\nkind: Lease\nmetadata: {name: free}\n")
	declareApp(t, "argo-tree", fmt.Sprintf(`
project: default
source: {repoURL: %q, targetRevision: main, path: app}
destination: {server: %s, namespace: argo-tree}
syncPolicy: {automated: {}}
`, url, inCluster))
	commit := c.git("rev-parse", "HEAD")
	awaitApp(t, "argo-tree", "Synced, the script heeded", func(a *argocdv1.Application) bool {
		for _, r := range a.Status.Resources {
			if r.Name == "free" && r.Health != nil && r.Health.Status == "Suspended" {
				return a.Status.Sync.Revision == commit
			}
		}
		return false
	})
	eventually(t, "tree to tell the same", func() error {
		r := shared.keelson("tree", "argo-tree")
		for _, part := range []string{
			"── ConfigMap/argo-tree/settings\n", "── Namespace/argo-tree\n", "── Deployment/argo-tree/paused  Suspended\n",
			"── Lease/argo-tree/free  Suspended\n", "nobody holds it\n", "── Deployment/argo-tree/sick  Progressing\n", "Pod/argo-tree/sick-", "  Degraded\n",
			"container main: CrashLoopBackOff: ",
		} {
			if !strings.Contains(r.out, part) {
				return fmt.Errorf("no %q in:\n%s%s", part, r.out, r.err)
			}
		}
		return nil
	})
	contains(t, shared.must(t, "trace", "deployment/paused", "-n", "argo-tree"), "Object:      Deployment/argo-tree/paused  Suspended\n")
	contains(t, shared.must(t, "trace", "lease/free", "-n", "argo-tree"), "Lease/argo-tree/free  Suspended\n", "nobody holds it\n")
	contains(t, shared.must(t, "trace", "configmap/settings", "-n", "argo-tree"), "ConfigMap/argo-tree/settings  no health\n")
	contains(t, shared.must(t, "trace", "application/argo-tree", "-n", "argocd"), "Application.argoproj.io/argocd/argo-tree  "+readApp(t, "argo-tree").Status.Health.Status+"\n")
	contains(t, shared.must(t, "trace", "configmap/argocd-cm", "-n", "argocd"), "no app manages it", "ConfigMap/argocd/argocd-cm  Healthy\n")
}
