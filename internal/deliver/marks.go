package deliver

import (
	"context"

	"keelson.dev/keelson/internal/delivery"
)

// marks reads how the rendered objects want to be treated: holds for those that are to be left alone, and what has no effect.
// The other marks are read where they matter ([delivery.MarksOf]).
func marks(objects []delivery.Object) (holds []delivery.Hold, ignored []string) {
	for _, obj := range objects {
		if obj.Asks.Has(delivery.MarkLeave) {
			holds = append(holds, delivery.Hold{Ref: obj.Ref(), Owner: "whoever manages it", Reason: "it is marked so in Git"})
		}
		if policy := obj.UnknownPolicy(); policy != "" {
			ignored = append(ignored, delivery.SSAMark+" "+policy+" on "+obj.Ref().String())
		}
	}
	return holds, ignored
}

// present finds which of the objects that are only to be made where they are not there are there, and not labelled as ours: no
// watch shows those.
func (e *Engine) present(ctx context.Context, objects []delivery.Object) (map[delivery.Ref]bool, error) {
	found := map[delivery.Ref]bool{}
	for _, obj := range objects {
		ref := obj.Ref()
		if !obj.Asks.Has(delivery.MarkIfNotPresent) {
			continue
		}
		if _, ours := e.Live.Get(ref); ours {
			continue
		}
		current, err := e.Cluster.Self().Read(ctx, ref, obj.GroupVersionKind().Version)
		if err != nil {
			return nil, err
		}
		found[ref] = current != nil && current.GetDeletionTimestamp() == nil
	}
	return found, nil
}
