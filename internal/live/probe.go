package live

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/tools/cache"

	"keelson.dev/keelson/internal/delivery"
	"keelson.dev/keelson/internal/health"
)

// probeKey names an object whose health is followed, and the rules that it is judged by; nil: kstatus.
type probeKey struct {
	gvk             schema.GroupVersionKind
	namespace, name string
	rules           *health.Rules
}

// probe is the watch of one object, of which nothing but its health is kept.
type probe struct {
	use
	key    probeKey
	health delivery.Health
	known  bool
	err    error // why it cannot be watched
}

// probing is what one app wants to know the health of.
type probing struct {
	checks  []delivery.HealthCheck
	rules   *health.Rules
	probes  []*probe // of the checks; nil: the cluster does not know the kind
	settled bool     // every check has its probe
	asked   int      // how often the server was asked for a kind in vain
	timer   *time.Timer
}

// The pause before a kind that the cluster does not know is looked for again; it doubles from one to the next.
const firstKindPause, maxKindPause = 2 * time.Second, 2 * time.Minute

// Probe makes checks the objects, mostly not its own, that an app wants to know the health of, in place of those before, and
// tells it as far as it is known. The app is notified of every change. Each object is watched by its name, as Keelson.
func (l *Live) Probe(app delivery.ID, checks []delivery.HealthCheck) []delivery.Health {
	l.mu.RLock()
	p := l.probing[app]
	if p == nil && len(checks) == 0 || p != nil && p.settled && p.rules == l.rulesOf(app) && slices.Equal(p.checks, checks) {
		defer l.mu.RUnlock()
		return p.state()
	}
	l.mu.RUnlock()
	found := make([]served, len(checks))
	errs := make([]error, len(checks))
	for i, c := range checks {
		if found[i], errs[i] = l.serve(c.GroupKind().WithVersion(c.Version)); errs[i] == nil {
			found[i].resource, errs[i] = l.cluster.Self().Resource(found[i].gvk, c.Namespace)
		}
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	next := &probing{checks: checks, rules: l.rulesOf(app), probes: make([]*probe, len(checks)), settled: true}
	for i, c := range checks {
		if errs[i] != nil {
			next.settled = false
			if !meta.IsNoMatchError(errs[i]) && !errors.Is(errs[i], errAbsent) {
				next.probes[i] = &probe{err: errs[i]} // the server could not be asked
			}
			continue
		}
		key := probeKey{gvk: found[i].gvk, namespace: c.Namespace, name: c.Name}
		if next.rules.Kind(c.GroupKind()) {
			key.rules = next.rules
		}
		w, ok := l.probes[key]
		if !ok {
			w = l.startProbe(key, found[i].resource)
		}
		w.acquire()
		next.probes[i] = w
	}
	if p = l.probing[app]; p != nil {
		l.leaveProbes(p)
		next.asked = p.asked
	}
	delete(l.probing, app)
	if len(checks) > 0 {
		l.probing[app] = next
	}
	if !next.settled {
		pause := min(firstKindPause<<min(next.asked, 10), maxKindPause)
		next.asked++
		next.timer = time.AfterFunc(pause, func() { l.wake([]delivery.ID{app}) })
	} else {
		next.asked = 0
	}
	return next.state()
}

// state is the health of every check. The caller holds the lock.
func (p *probing) state() []delivery.Health {
	if p == nil {
		return nil
	}
	out := make([]delivery.Health, len(p.probes))
	for i, w := range p.probes {
		switch {
		case w == nil:
			out[i] = delivery.Health{Status: delivery.Missing, Message: "the cluster does not know its kind"}
		case w.err != nil:
			out[i] = delivery.Health{Status: delivery.UnknownHealth, Message: "it cannot be watched: " + w.err.Error()}
		case !w.known:
			out[i] = delivery.Health{Status: delivery.Progressing, Message: "not looked at yet"}
		default:
			out[i] = w.health
		}
	}
	return out
}

// leaveProbes gives back the watches of checks that no longer hold. The caller holds the lock.
func (l *Live) leaveProbes(p *probing) {
	if p.timer != nil {
		p.timer.Stop()
	}
	for _, w := range p.probes {
		if w != nil && w.cancel != nil {
			w.release(l.opts.Grace, func() { l.stopProbe(w) })
		}
	}
}

func (l *Live) stopProbe(w *probe) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if w.users == 0 && l.probes[w.key] == w {
		w.cancel()
		delete(l.probes, w.key)
	}
}

// startProbe begins the watch of an object. The caller holds the lock.
func (l *Live) startProbe(key probeKey, resource dynamic.ResourceInterface) *probe {
	ctx, cancel := context.WithCancel(l.ctx)
	w := &probe{use: use{cancel: cancel}, key: key}
	l.probes[key] = w
	selector := fields.OneTermEqualSelector(metav1.ObjectNameField, key.name).String()
	lw := &cache.ListWatch{
		ListWithContextFunc: func(ctx context.Context, o metav1.ListOptions) (runtime.Object, error) {
			o.FieldSelector = selector
			list, err := resource.List(ctx, o)
			return list, l.probed(ctx, w, err)
		},
		WatchFuncWithContext: func(ctx context.Context, o metav1.ListOptions) (watch.Interface, error) {
			o.FieldSelector = selector
			events, err := resource.Watch(ctx, o)
			if noWatchList(o, err) {
				return events, err
			}
			return events, l.probed(ctx, w, err)
		},
	}
	expected := &unstructured.Unstructured{}
	expected.SetGroupVersionKind(key.gvk)
	r := cache.NewReflectorWithOptions(lw, expected, &probeStore{live: l, probe: w}, cache.ReflectorOptions{Name: "health of " + key.gvk.Kind})
	go r.RunWithContext(ctx)
	return w
}

// probed takes in how a request of a probe ended and returns the same error. A kind that is served no more has no objects.
func (l *Live) probed(ctx context.Context, w *probe, err error) error {
	if ctx.Err() != nil {
		return err
	}
	if apierrors.IsNotFound(err) {
		l.setProbe(w, delivery.Health{Status: delivery.Missing, Message: "the cluster does not know its kind"})
		return err
	}
	l.mu.Lock()
	tell := differs(w.err, err, w.known)
	if tell {
		w.err = err
	}
	users := l.probeUsers(w)
	l.mu.Unlock()
	if tell {
		l.wake(users)
	}
	return err
}

// probeUsers are the apps that want to know. The caller holds the lock.
func (l *Live) probeUsers(w *probe) []delivery.ID {
	var out []delivery.ID
	for app, p := range l.probing {
		if slices.Contains(p.probes, w) {
			out = append(out, app)
		}
	}
	return out
}

func (l *Live) setProbe(w *probe, h delivery.Health) {
	l.mu.Lock()
	changed := !w.known || w.err != nil || w.health != h
	w.health, w.known, w.err = h, true, nil
	users := l.probeUsers(w)
	l.mu.Unlock()
	if changed {
		l.wake(users)
	}
}

// probeStore is where the reflector of a probe puts what it sees.
type probeStore struct {
	live  *Live
	probe *probe
}

func (s *probeStore) Add(obj any) error    { return s.put(obj) }
func (s *probeStore) Update(obj any) error { return s.put(obj) }
func (s *probeStore) Resync() error        { return nil }

func (s *probeStore) Delete(any) error {
	s.live.setProbe(s.probe, absentObject)
	return nil
}

// absentObject is the health of what is not there.
var absentObject = delivery.Health{Status: delivery.Missing, Message: "it does not exist"}

func (s *probeStore) put(obj any) error {
	u, ok := obj.(*unstructured.Unstructured)
	if !ok {
		return fmt.Errorf("watch %s: unexpected %T", s.probe.key.gvk.Kind, obj)
	}
	s.live.setProbe(s.probe, s.probe.key.rules.Of(u))
	return nil
}

// Replace takes in a list: of the object, or of nothing.
func (s *probeStore) Replace(list []any, _ string) error {
	if len(list) == 0 {
		return s.Delete(nil)
	}
	return s.put(list[0])
}
