package dialect

import (
	"cmp"
	"fmt"

	kustomizev1 "github.com/fluxcd/kustomize-controller/api/v1"
	"github.com/fluxcd/pkg/apis/meta"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"keelson.dev/keelson/internal/delivery"
)

// healthOf reads what a Kustomization says about health, its own and that of others, into app.
func healthOf(app *delivery.App, k *kustomizev1.Kustomization) error {
	spec := &k.Spec
	for _, d := range spec.DependsOn {
		if d.ReadyExpr != "" {
			if app.ReadyExprs == nil {
				app.ReadyExprs = map[delivery.ID]string{}
			}
			app.ReadyExprs[dependency(k, d)] = d.ReadyExpr
		}
	}
	for _, e := range spec.HealthCheckExprs {
		app.HealthExprs = append(app.HealthExprs, delivery.HealthExpr{
			Group: schema.FromAPIVersionAndKind(e.APIVersion, e.Kind).Group, Kind: e.Kind,
			InProgress: e.InProgress, Failed: e.Failed, Current: e.Current,
		})
	}
	for i, c := range spec.HealthChecks {
		version, err := schema.ParseGroupVersion(cmp.Or(c.APIVersion, "apps/v1")) // the default is upstream's
		if err != nil {
			return &delivery.Fault{
				Reason: meta.HealthCheckFailedReason, Where: fmt.Sprintf("spec.healthChecks[%d].apiVersion", i), Retry: delivery.OnEvent, Err: err,
			}
		}
		app.HealthChecks = append(app.HealthChecks, delivery.HealthCheck{
			Ref:     delivery.Ref{Group: version.Group, Kind: c.Kind, Namespace: c.Namespace, Name: c.Name},
			Version: version.Version,
		})
	}
	return nil
}

func dependency(k *kustomizev1.Kustomization, d kustomizev1.DependencyReference) delivery.ID {
	return delivery.ID{Kind: kustomizev1.KustomizationKind, Namespace: orElse(d.Namespace, k.Namespace), Name: d.Name}
}
