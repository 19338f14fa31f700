package deliver

import (
	"context"
	"sync"
	"time"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"keelson.dev/keelson/internal/delivery"
)

// witnessTime bounds what a stage may wait for the look at what was there before: a delivery goes on without it.
const witnessTime = 2 * time.Second

// witness reads what a stage is about to change, as the caller itself: reading is no business of the app's. What cannot be read is left out.
func (e *Engine) witness(ctx context.Context, stage delivery.Stage) map[delivery.Ref]*unstructured.Unstructured {
	if !e.Witness {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, witnessTime)
	defer cancel()
	var (
		mu    sync.Mutex
		wg    sync.WaitGroup
		slots = make(chan struct{}, atOnce)
		seen  = map[delivery.Ref]*unstructured.Unstructured{}
	)
	for _, c := range stage.Changes {
		rec, there := e.Live.Get(c.Ref)
		if c.Verb != delivery.Update && c.Verb != delivery.Repair || c.DryRun || c.Moment != "" || !there {
			continue
		}
		slots <- struct{}{}
		wg.Go(func() {
			defer func() { <-slots }()
			u, err := e.Cluster.Self().Read(ctx, c.Ref, rec.Version)
			if err != nil || u == nil {
				return
			}
			mu.Lock()
			defer mu.Unlock()
			seen[c.Ref] = u
		})
	}
	wg.Wait()
	return seen
}
