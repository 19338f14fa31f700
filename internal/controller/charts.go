package controller

import (
	"context"
	"errors"
	"fmt"
	"time"

	argocdv1 "keelson.dev/keelson/api/argocd/v1alpha1"
	"keelson.dev/keelson/internal/deliver"
	"keelson.dev/keelson/internal/delivery"
	"keelson.dev/keelson/internal/dialect"
	"keelson.dev/keelson/internal/source"
)

// charts completes the snapshots of one app by what its charts depend on and have not with them. What has to be fetched is fetched
// aside, once for each content. All is read and written with the registry locked.
type charts struct {
	done  map[string]completed
	order []string // oldest first
}

// completed is a snapshot with all that its charts need, or why there is none.
type completed struct {
	running  bool
	snapshot delivery.Snapshot
	err      error
	at       time.Time // of the error, or since when it is running
	failures int
}

const (
	// keptCharts is how many contents are kept: that of the app as declared, as its operation wants it, and those before.
	keptCharts = 4
	// chartsTimeout bounds one fetch of what a snapshot lacks. What it has brought when it is over needs not be brought again.
	chartsTimeout = 2 * time.Minute
	// chartsPatience is how long is waited for charts before it is told.
	chartsPatience = 20 * time.Second
)

// complete gives the snapshot with the dependencies of its charts. The error is errNotYet while they are being fetched, and
// where that takes long one that says so: not to an operation, which waits.
func (a *applications) complete(p *applicationPass, snap delivery.Snapshot) (delivery.Snapshot, error) {
	key := fmt.Sprintf("%s/%d", snap.Digest, p.req.App.Generation)
	var found completed
	var ok bool
	a.reg.with(func() { found, ok = p.st.charts.done[key] })
	switch {
	case ok && found.running:
		rest := found.at.Add(chartsPatience).Sub(a.now())
		if rest <= 0 && p.op == nil && p.asked == nil {
			return snap, &delivery.Fault{
				Reason: argocdv1.ConditionComparisonError, Retry: delivery.OnEvent, Hint: "check that their repositories can be reached, or commit them in the folder charts",
				Err: errors.New("waiting for the charts that its charts depend on"),
			}
		}
		p.sooner(rest)
		return snap, errNotYet
	case ok && found.err == nil:
		return found.snapshot, nil
	case ok && a.now().Before(found.at.Add(deliver.Backoff(found.failures, 0))):
		return snap, found.err
	}
	lacking, err := lacks(snap, p.req.App.Build.Parts)
	if err != nil {
		return snap, err
	}
	if len(lacking) == 0 {
		found = completed{snapshot: snap}
	} else {
		found.running, found.at = true, a.now()
	}
	a.reg.with(func() { p.st.charts.keep(key, found) })
	if !found.running {
		return snap, nil
	}
	a.fetchCharts(p, key, snap, lacking, found.failures)
	p.sooner(chartsPatience)
	return snap, errNotYet
}

// keep takes in a content. The caller holds the registry's lock.
func (c *charts) keep(key string, found completed) {
	if c.done == nil {
		c.done = map[string]completed{}
	}
	if _, ok := c.done[key]; !ok {
		c.order = append(c.order, key)
	}
	c.done[key] = found
	if len(c.order) > keptCharts {
		delete(c.done, c.order[0])
		c.order = c.order[1:]
	}
}

// lacks lists the parts whose charts depend on what is not there.
func lacks(snap delivery.Snapshot, parts []delivery.Part) ([]delivery.Part, error) {
	var out []delivery.Part
	for _, part := range parts {
		if part.Kustomize != nil || part.Directory != nil {
			continue
		}
		missing, err := source.Missing(snap, part.Root, part.Path)
		if err != nil {
			return nil, err
		}
		if len(missing) > 0 {
			out = append(out, part)
		}
	}
	return out, nil
}

// fetchCharts fetches aside what charts depend on; the app is woken when it is there, or cannot be had.
func (a *applications) fetchCharts(p *applicationPass, key string, snap delivery.Snapshot, parts []delivery.Part, failures int) {
	st, id := p.st, p.app.ID
	in := lane{"", id.Namespace + "/" + projectOf(p.obj)} // they may be at any host
	find := dialect.ArgoDependencies(p.obj, a.context(p.held, p.obj, nil))
	go func() {
		defer a.repos.slots.enter(in)()
		ctx, cancel := context.WithTimeout(a.repos.life, chartsTimeout)
		defer cancel()
		done := completed{snapshot: snap}
		for _, part := range parts {
			if done.snapshot, done.err = a.repos.sources.Dependencies(ctx, done.snapshot, part.Root, part.Path, find); done.err != nil {
				done.at, done.failures = a.now(), failures+1
				break
			}
		}
		if a.repos.life.Err() != nil {
			return
		}
		a.reg.with(func() { st.charts.keep(key, done) })
		a.wake(id)
	}()
}
