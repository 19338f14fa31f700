package main

import (
	keelsonv1 "keelson.dev/keelson/api/v1alpha1"
	"keelson.dev/keelson/internal/pipeline/executor"
)

// jobPlace is what a Project says about where its jobs run.
func jobPlace(p keelsonv1.Project) executor.Place {
	out := executor.Place{Namespace: p.Namespace}
	if x := p.Spec.Executor; x != nil {
		out.Image, out.ServiceAccount, out.NodeSelector = x.Image, x.ServiceAccountName, x.NodeSelector
		for _, s := range x.ImagePullSecrets {
			out.ImagePullSecrets = append(out.ImagePullSecrets, s.Name)
		}
		for _, t := range x.Tolerations {
			out.Tolerations = append(out.Tolerations, executor.Toleration{
				Key: t.Key, Operator: string(t.Operator), Value: t.Value, Effect: string(t.Effect), Seconds: t.TolerationSeconds,
			})
		}
	}
	return out
}
