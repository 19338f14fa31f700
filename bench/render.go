package main

import (
	"context"
	"fmt"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"sync/atomic"
	"time"

	"keelson.dev/keelson/internal/delivery"
	"keelson.dev/keelson/internal/git"
	"keelson.dev/keelson/internal/render"
)

const (
	overlays      = 200 // so that no build is the one before
	renderSamples = 5
	renderWindow  = 4 * time.Second
)

// measureRender builds overlays with the engine's own renderer, in this process, as many at a time as there are
// processors. This is the only measurement that looks inside: what a render costs shows nowhere from outside.
func (b *bench) measureRender(ctx context.Context) error {
	snap, err := b.overlaySnapshot(ctx)
	if err != nil {
		return err
	}
	render.Warm()
	defer debug.SetGCPercent(debug.SetGCPercent(200)) // as keelson server does
	var rate, cpu []float64
	for sample := range renderSamples + 1 {
		from, err := ownCPU()
		if err != nil {
			return err
		}
		start := time.Now()
		var built atomic.Int64
		err = each(ctx, runtime.GOMAXPROCS(0), runtime.GOMAXPROCS(0), func(ctx context.Context, _ int) error {
			for time.Since(start) < renderWindow {
				i := int(built.Add(1)) % overlays
				objects, err := render.Build(ctx, snap, delivery.Build{Path: overlayFolder(i)}, nil)
				if err != nil {
					return err
				}
				if len(objects) != 5 { // four of the base, one generated
					return fmt.Errorf("%s has %d objects", overlayFolder(i), len(objects))
				}
			}
			return nil
		})
		took := time.Since(start)
		if err != nil {
			return err
		}
		to, err := ownCPU()
		if err != nil {
			return err
		}
		if sample > 0 { // the first warms up
			n := float64(built.Load())
			rate, cpu = append(rate, n/took.Seconds()), append(cpu, milliseconds(to-from)/n)
		}
	}
	processors := fmt.Sprintf("%d at a time", runtime.GOMAXPROCS(0))
	if err := b.add(Result{Name: "render", Unit: "builds/s", AtLeast: target(300), Detail: map[string]any{"processors": runtime.GOMAXPROCS(0)},
		What: "overlays built by internal/render from a Git object store, " + processors}, rate); err != nil {
		return err
	}
	return b.add(Result{Name: "render-cpu", Unit: "ms", What: "CPU time of one of these builds, garbage collection included"}, cpu)
}

// overlaySnapshot makes a repository of overlays and opens it as the engine does.
func (b *bench) overlaySnapshot(ctx context.Context) (delivery.Snapshot, error) {
	r := &repo{dir: filepath.Join(b.dir, "overlays"), env: gitEnvironment()}
	if err := r.write(overlayFiles(overlays)); err != nil {
		return delivery.Snapshot{}, err
	}
	if _, err := r.git(ctx, "init", "--quiet", "--initial-branch=main"); err != nil {
		return delivery.Snapshot{}, err
	}
	if _, err := r.commit(ctx, "Begin"); err != nil {
		return delivery.Snapshot{}, err
	}
	if _, err := r.git(ctx, "gc", "--quiet"); err != nil { // a repository is packed sooner or later
		return delivery.Snapshot{}, err
	}
	repository, err := git.Open(filepath.Join(r.dir, ".git"), git.Options{})
	if err != nil {
		return delivery.Snapshot{}, err
	}
	commit, err := repository.Resolve("refs/heads/main")
	if err != nil {
		return delivery.Snapshot{}, err
	}
	tree, err := repository.Tree(commit)
	if err != nil {
		return delivery.Snapshot{}, err
	}
	return delivery.Snapshot{Revision: delivery.Revision{Name: "main", Commit: commit}, FS: tree}, nil
}
