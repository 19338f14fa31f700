package controller

import (
	"context"
	"fmt"
	"runtime/debug"
	"slices"
	"sync"
	"time"

	argocdv1 "keelson.dev/keelson/api/argocd/v1alpha1"
	"keelson.dev/keelson/internal/delivery"
	"keelson.dev/keelson/internal/dialect"
	"keelson.dev/keelson/internal/redact"
	"keelson.dev/keelson/internal/source"
)

const (
	// chartsTimeout bounds the fetch of all that an app's charts depend on; chartsRetry is the pause after one that failed.
	chartsTimeout, chartsRetry = 2 * time.Minute, time.Minute
	// keptCharts is how many snapshots of an app are remembered: the one that is declared, that of an operation, and the last one.
	keptCharts = 3
)

// charts remembers snapshots to which the dependencies of charts were added.
type charts struct {
	mu   sync.Mutex
	made map[delivery.ID][]*completed
}

// completed is a snapshot with the dependencies of an app's charts, or why there is none.
type completed struct {
	of       string // digest of the snapshot without them
	places   []place
	snapshot delivery.Snapshot
	err      error
	running  bool
	at       time.Time
}

// place is a folder that may hold a chart.
type place struct{ root, path string }

// find gives what is known about a snapshot, which may be nothing yet.
func (c *charts) find(app delivery.ID, digest string, places []place) *completed {
	if c.made == nil {
		c.made = map[delivery.ID][]*completed{}
	}
	for _, m := range c.made[app] {
		if m.of == digest && slices.Equal(m.places, places) {
			return m
		}
	}
	m := &completed{of: digest, places: places}
	c.made[app] = append([]*completed{m}, c.made[app][:min(len(c.made[app]), keptCharts-1)]...)
	return m
}

func (c *charts) forget(app delivery.ID) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.made, app)
}

// complete adds to the request's snapshot what its charts depend on and what is not in their folders. It is fetched aside, once for
// each snapshot: until then it is too early.
func (a *applications) complete(p *applicationPass) error {
	var places []place
	for _, part := range p.req.App.Build.Parts {
		if part.Kustomize != nil || part.Directory != nil {
			continue
		}
		missing, err := source.Missing(p.req.Snapshot, part.Root, part.Path)
		if err != nil {
			return err
		}
		if len(missing) > 0 {
			places = append(places, place{part.Root, part.Path})
		}
	}
	if len(places) == 0 {
		return nil
	}
	c := &a.charts
	c.mu.Lock()
	defer c.mu.Unlock()
	m := c.find(p.app.ID, p.req.Snapshot.Digest, places)
	if !m.running && (m.at.IsZero() || m.err != nil && a.now().Sub(m.at) >= chartsRetry) {
		m.running = true
		go a.bringCharts(m, p.app.ID, p.obj.DeepCopy(), p.req.Snapshot, a.argo(p.obj, p.held, nil))
	}
	switch {
	case m.at.IsZero():
		return errNotYet
	case m.err != nil:
		p.sooner(chartsRetry)
		return m.err
	}
	p.req.Snapshot = m.snapshot
	return nil
}

// bringCharts fetches what is missing, and wakes the app.
func (a *applications) bringCharts(m *completed, app delivery.ID, obj *argocdv1.Application, snap delivery.Snapshot, in dialect.Argo) {
	defer a.repos.slots.enter(lane{"dependencies of charts", app.Namespace})()
	ctx, cancel := context.WithTimeout(a.repos.life, chartsTimeout)
	defer cancel()
	var err error
	defer func() {
		if r := recover(); r != nil {
			a.log.Error("panic in a fetch of charts", "app", app.String(), "stack", redact.Text(string(debug.Stack())))
			err = fmt.Errorf("internal error: %v (hint: please report it)", r)
		}
		a.charts.mu.Lock()
		m.snapshot, m.err, m.at, m.running = snap, err, a.now(), false
		a.charts.mu.Unlock()
		a.wake(app)
	}()
	for _, at := range m.places {
		if err == nil {
			snap, err = a.repos.sources.Dependencies(ctx, snap, at.root, at.path, func(named string) (string, delivery.Credentials, error) {
				return dialect.ArgoDependency(obj, in, named)
			})
		}
	}
}
