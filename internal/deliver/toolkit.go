package deliver

import (
	"context"

	"keelson.dev/keelson/internal/delivery"
	"keelson.dev/keelson/internal/plan"
)

// toolkit holds back what a repository bootstrapped by Flux brings of Flux itself: its controllers are never installed, because
// Keelson does their work, and definitions of its kinds only where they lose nothing that the cluster's have. skipped
// names what is left out.
func (e *Engine) toolkit(ctx context.Context, app delivery.App, objects []delivery.Object) (holds []delivery.Hold, skipped []string, err error) {
	if app.KubeConfig != (delivery.KubeConfig{}) {
		return nil, nil, nil // what Flux does in another cluster is its business
	}
	for _, obj := range objects {
		hold := delivery.Hold{Ref: obj.Ref(), Owner: "Keelson"}
		switch {
		case plan.IsToolkitController(obj.Unstructured):
			hold.Reason = "it is a controller of Flux, whose work Keelson does"
		case plan.IsToolkitDefinition(obj.Unstructured):
			have, err := e.Cluster.Self().Read(ctx, obj.Ref(), obj.GroupVersionKind().Version)
			if err != nil {
				return nil, nil, err
			}
			if have == nil {
				continue
			}
			lost := plan.Downgrades(have, obj.Unstructured)
			if lost == "" {
				continue
			}
			hold.Reason = "the cluster's definition is newer: it has " + lost
		default:
			continue
		}
		holds = append(holds, hold)
		skipped = append(skipped, obj.Ref().String())
	}
	return holds, skipped, nil
}
