package live

import (
	"slices"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	utilruntime "k8s.io/apimachinery/pkg/util/runtime"

	"keelson.dev/keelson/internal/delivery"
	"keelson.dev/keelson/internal/health"
)

// Judge says by which rules of its own the health of an app's objects is judged; nil: by none, or those of its kind. What is known
// already of objects that the rules are about is read once more: until then [Live.Ensure] says that not everything is known.
func (l *Live) Judge(app delivery.ID, rules *health.Rules) {
	l.mu.RLock()
	same := l.rules[app].Same(rules)
	l.mu.RUnlock()
	if same {
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	old := l.rulesOf(app)
	if rules == nil {
		delete(l.rules, app)
	} else {
		l.rules[app] = rules
	}
	l.outdated(old, l.rulesOf(app), func(owner delivery.ID) bool { return owner == app })
}

// JudgeKind says by which rules the objects of all apps of a kind ("Application") are judged that have none of their own; nil: by
// kstatus. It is best said before the first of these apps is there: what is known already is read once more, as by [Live.Judge].
// Rules that are the same as those before change nothing.
func (l *Live) JudgeKind(kind string, rules *health.Rules) {
	l.mu.RLock()
	same := l.kindRules[kind].Same(rules)
	l.mu.RUnlock()
	if same {
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	old := l.kindRules[kind]
	l.kindRules[kind] = rules
	l.outdated(old, rules, func(owner delivery.ID) bool { return owner.Kind == kind && l.rules[owner] == nil })
}

// rulesOf are the rules by which an app's objects are judged. The caller holds the lock.
func (l *Live) rulesOf(app delivery.ID) *health.Rules {
	if rules := l.rules[app]; rules != nil {
		return rules
	}
	return l.kindRules[app.Kind]
}

// outdated has the objects of some apps judged anew that two rules do not judge alike. The caller holds the lock.
func (l *Live) outdated(old, rules *health.Rules, of func(delivery.ID) bool) {
	stale := map[delivery.ID]delivery.Inventory{}
	for gk, records := range l.records {
		if old.Alike(rules, gk) {
			continue
		}
		for key, rec := range records {
			owner := rec.owner.Value()
			if !of(owner) {
				continue
			}
			if stale[owner] == nil {
				stale[owner] = delivery.Inventory{}
			}
			stale[owner][refOf(gk, key)] = rec.version.Value()
		}
	}
	for app, inv := range stale {
		l.rejudging[app]++
		go l.rejudge(app, inv)
	}
}

// rereading bounds how many apps have their objects read once more at a time.
var rereading = make(chan struct{}, 8)

// rejudge reads objects of an app once more, and wakes it.
func (l *Live) rejudge(app delivery.ID, stale delivery.Inventory) {
	rereading <- struct{}{}
	defer func() { <-rereading }()
	for ref, version := range stale {
		if err := l.reread(ref, version); err != nil && l.ctx.Err() == nil {
			utilruntime.HandleError(err) // the next event about the object tells
		}
	}
	l.mu.Lock()
	if l.rejudging[app]--; l.rejudging[app] == 0 {
		delete(l.rejudging, app)
	}
	l.mu.Unlock()
	l.wake([]delivery.ID{app})
}

// reread reads one object and keeps what it says, unless something newer is known. A server that cannot be reached is asked
// again; one that refuses, or no longer has the object or its kind, is not.
func (l *Live) reread(ref delivery.Ref, version string) error {
	for pause := 100 * time.Millisecond; ; pause = min(2*pause, 10*time.Second) {
		resource, err := l.cluster.Self().ResourceOf(ref, version)
		if meta.IsNoMatchError(err) {
			return nil
		}
		if err != nil {
			return err
		}
		u, err := resource.Get(l.ctx, ref.Name, metav1.GetOptions{})
		switch {
		case err == nil:
			rec, err := l.record(u)
			if err != nil {
				return err
			}
			rec.unjudged = rec.asks != nil
			l.mu.Lock()
			defer l.mu.Unlock()
			old, had := l.records[ref.GroupKind()][nameOf(ref)]
			if had && old.version == rec.version && !newer(old.resourceVersion, rec.resourceVersion) {
				l.keep(ref, rec)
			}
			return nil
		case apierrors.IsNotFound(err):
			return nil // its watch tells
		case apierrors.IsForbidden(err):
			return err
		}
		select {
		case <-l.ctx.Done():
			return l.ctx.Err()
		case <-time.After(pause):
		}
	}
}

// Undone tells of an object that goes by itself once it has done its work ([health.Fleeting]) that it went before, or failed.
func (l *Live) Undone(ref delivery.Ref) bool {
	l.mu.RLock()
	defer l.mu.RUnlock()
	return slices.Contains(l.undone[ref.GroupKind()], nameOf(ref))
}

// went notes how an object ended. The caller holds the lock.
func (l *Live) went(ref delivery.Ref, fleeting, done bool) {
	if fleeting && !done && !slices.Contains(l.undone[ref.GroupKind()], nameOf(ref)) {
		l.undone[ref.GroupKind()] = append(l.undone[ref.GroupKind()], nameOf(ref))
	}
}
