package deliver

import (
	"fmt"

	"keelson.dev/keelson/internal/delivery"
)

// Marks on an object say how it wants to be treated (Flux: Kustomization API, "Controlling the apply behavior of resources").
const (
	reconcileMark = "kustomize.toolkit.fluxcd.io/reconcile"
	ssaMark       = "kustomize.toolkit.fluxcd.io/ssa"
	forceMark     = "kustomize.toolkit.fluxcd.io/force"
)

// marks reads how the rendered objects want to be treated: holds for those that are to be left alone, what has no effect
// yet, and an error for what would do harm if it had none.
func marks(objects []delivery.Object) (holds []delivery.Hold, ignored []string, err error) {
	for _, obj := range objects {
		mark := func(key string) string {
			if v, ok := obj.GetLabels()[key]; ok {
				return v
			}
			return obj.GetAnnotations()[key]
		}
		switch ssa := mark(ssaMark); {
		case mark(reconcileMark) == "disabled":
			holds = append(holds, delivery.Hold{Ref: obj.Ref(), Owner: "whoever manages it", Reason: reconcileMark + " is disabled"})
		case ssa == "Ignore":
			holds = append(holds, delivery.Hold{Ref: obj.Ref(), Owner: "whoever manages it", Reason: ssaMark + " is Ignore"})
		case ssa != "" && ssa != "Merge" && ssa != "Override": // Merge is what we do anyway
			return nil, nil, &delivery.Fault{
				Reason: "FieldsNotSupported", Where: obj.Where(), Retry: delivery.OnChange, Hint: "remove it",
				Err: fmt.Errorf("%s: %s is not supported yet; nothing is applied", ssaMark, ssa),
			}
		}
		if mark(forceMark) == "enabled" {
			ignored = append(ignored, forceMark+" on "+obj.Ref().String())
		}
	}
	return holds, ignored, nil
}
