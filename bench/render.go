package main

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"sync/atomic"
	"time"

	"sigs.k8s.io/kustomize/api/krusty"
	"sigs.k8s.io/kustomize/kyaml/filesys"

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
	files := filesys.MakeFsInMemory()
	for name, text := range overlayFiles(overlays) {
		if err := files.WriteFile(name, []byte(text)); err != nil {
			return err
		}
	}
	render.Warm()
	defer debug.SetGCPercent(debug.SetGCPercent(200)) // as keelson server does
	var ours, theirs renderRates
	for sample := range renderSamples + 1 {
		err1 := ours.sample(ctx, sample > 0, func(ctx context.Context, folder string) (int, error) { // the first warms up
			objects, err := render.Build(ctx, snap, delivery.Build{Path: folder}, nil)
			return len(objects), err
		})
		err2 := theirs.sample(ctx, sample > 0, func(_ context.Context, folder string) (int, error) {
			objects, err := krusty.MakeKustomizer(krusty.MakeDefaultOptions()).Run(files, folder)
			if err != nil {
				return 0, err
			}
			return objects.Size(), nil
		})
		if err := errors.Join(err1, err2); err != nil {
			return err
		}
	}
	processors := fmt.Sprintf("%d at a time", runtime.GOMAXPROCS(0))
	return errors.Join(
		b.add(Result{Name: "render", Unit: "builds/s", AtLeast: target(300), Floor: "render-kustomize", Detail: map[string]any{"processors": runtime.GOMAXPROCS(0)},
			What: "overlays built by internal/render from a Git object store, " + processors}, ours.rate),
		b.add(Result{Name: "render-cpu", Unit: "ms", What: "CPU time of one of these builds, garbage collection included"}, ours.cpu),
		b.add(Result{Name: "render-kustomize", Unit: "builds/s", What: "the same overlays built by the kustomize library alone from files in memory, " + processors}, theirs.rate),
		b.add(Result{Name: "render-kustomize-cpu", Unit: "ms", What: "CPU time of one of these builds, garbage collection included"}, theirs.cpu),
	)
}

// renderRates are builds a second and the CPU time of one, one value a sample.
type renderRates struct{ rate, cpu []float64 }

// sample builds overlays for a while, as many at a time as there are processors. What does not count is thrown away.
func (r *renderRates) sample(ctx context.Context, counts bool, build func(ctx context.Context, folder string) (objects int, err error)) error {
	from, err := ownCPU()
	if err != nil {
		return err
	}
	start := time.Now()
	var built atomic.Int64
	err = each(ctx, runtime.GOMAXPROCS(0), runtime.GOMAXPROCS(0), func(ctx context.Context, _ int) error {
		for time.Since(start) < renderWindow {
			folder := overlayFolder(int(built.Add(1)) % overlays)
			objects, err := build(ctx, folder)
			if err != nil {
				return err
			}
			if objects != 5 { // four of the base, one generated
				return fmt.Errorf("%s has %d objects", folder, objects)
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
	if counts {
		n := float64(built.Load())
		r.rate, r.cpu = append(r.rate, n/took.Seconds()), append(r.cpu, milliseconds(to-from)/n)
	}
	return nil
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
