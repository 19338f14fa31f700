package controller

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	fluxmeta "github.com/fluxcd/pkg/apis/meta"
	sourcev1 "github.com/fluxcd/source-controller/api/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/types"

	"keelson.dev/keelson/internal/delivery"
	"keelson.dev/keelson/internal/dialect"
)

// included are the snapshots that a source includes, in its order, and what its status says of them.
type included struct {
	snapshots []delivery.Snapshot
	artifacts []*fluxmeta.Artifact
	epoch     int // of the source when they were looked at
}

func includes(src delivery.Source) []delivery.ID {
	var ids []delivery.ID
	for _, inc := range src.Include {
		ids = append(ids, inc.Source)
	}
	return ids
}

// dependencyPause is how long to wait for an included source that tells no news (upstream's requeue of dependencies).
const dependencyPause = 30 * time.Second

// included gives what a source includes. The error is errNotYet where an included source has something that was not
// looked at yet, as after a start; otherwise a [*delivery.Fault] with upstream's reasons.
func (g *declaredSources[T]) included(ctx context.Context, src delivery.Source) (included, error) {
	inc := included{epoch: g.reg.epoch(src.ID)}
	if g.reg.includesItself(src.ID) {
		return inc, &delivery.Fault{Reason: "InvalidInclude", Where: src.ID.String(), Retry: delivery.OnChange,
			Err: errors.New("the sources include each other in a circle"), Hint: "take one of the includes away"}
	}
	for _, id := range includes(src) {
		var obj sourcev1.GitRepository
		err := g.cache.Get(ctx, types.NamespacedName{Namespace: id.Namespace, Name: id.Name}, &obj)
		switch {
		case apierrors.IsNotFound(err):
			return inc, &delivery.Fault{Reason: "NotFound", Err: fmt.Errorf("could not get resource for include '%s': it does not exist", id.Name)}
		case err != nil:
			return inc, fmt.Errorf("read included source %s: %w", id, err)
		}
		snap, why := g.reg.snapshot(id)
		switch {
		case snap.Revision.Commit == "" && why == nil && obj.Status.Artifact != nil:
			return inc, errNotYet
		case snap.Revision.Commit == "":
			return inc, &delivery.Fault{Reason: "NoArtifact", Err: fmt.Errorf("no artifact available for include '%s'", id.Name)}
		}
		inc.snapshots = append(inc.snapshots, snap)
		inc.artifacts = append(inc.artifacts, dialect.IncludedArtifact(&obj, snap))
	}
	return inc, nil
}

// without ends the step of a source that includes what is not there: what it has stays, and news of the other wakes it.
func (g *declaredSources[T]) without(obj T, st *sourceState, src delivery.Source, err error, n next) next {
	if errors.Is(err, errNotYet) {
		n.after = time.Second
		return n
	}
	g.asked(st, src, obj.GetGeneration())
	st.failures++
	n = g.fail(obj, st, src, err)
	n.after = min(max(n.after, time.Second), dependencyPause)
	return n
}

// including lists the sources that include one, and has them look at it anew.
func (r *registry) including(id delivery.ID) []delivery.ID {
	r.mu.Lock()
	defer r.mu.Unlock()
	var ids []delivery.ID
	for other, st := range r.sources {
		for _, inc := range st.include {
			if inc == id {
				st.again = true
				ids = append(ids, other)
				break
			}
		}
	}
	return ids
}

// withdraw empties all sources that include one, or one that includes it: what it gave them is not to be used any more, nor
// is what a fetch under way makes of it. It lists them.
func (r *registry) withdraw(from delivery.ID) []delivery.ID {
	r.mu.Lock()
	defer r.mu.Unlock()
	var holders []delivery.ID
	seen := map[delivery.ID]bool{from: true}
	for todo := []delivery.ID{from}; len(todo) > 0; todo = todo[1:] {
		for id, st := range r.sources {
			if seen[id] || !slices.Contains(st.include, todo[0]) {
				continue
			}
			seen[id] = true
			st.snapshot, st.result = delivery.Snapshot{}, nil
			st.epoch++
			holders, todo = append(holders, id), append(todo, id)
		}
	}
	return holders
}

// epoch of a source changes when what it includes is withdrawn.
func (r *registry) epoch(id delivery.ID) int {
	r.mu.Lock()
	defer r.mu.Unlock()
	if st := r.sources[id]; st != nil {
		return st.epoch
	}
	return 0
}

// ended takes in the result of a fetch; one that began in another epoch is to be made again.
func (r *registry) ended(st *sourceState, epoch int, res *fetchResult) {
	r.mu.Lock()
	defer r.mu.Unlock()
	st.fetching = false
	if st.epoch == epoch {
		st.result = res
	} else {
		st.again = true
	}
}

// includesItself tells whether the includes of a source lead back to it.
func (r *registry) includesItself(id delivery.ID) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	seen := map[delivery.ID]bool{}
	var leads func(at delivery.ID) bool
	leads = func(at delivery.ID) bool {
		st := r.sources[at]
		if st == nil || seen[at] {
			return false
		}
		seen[at] = true
		for _, inc := range st.include {
			if inc == id || leads(inc) {
				return true
			}
		}
		return false
	}
	return leads(id)
}
