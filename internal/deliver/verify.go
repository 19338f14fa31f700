package deliver

import (
	"context"
	"reflect"
	"slices"
	"sync"
	"time"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"keelson.dev/keelson/internal/apply"
	"keelson.dev/keelson/internal/delivery"
	"keelson.dev/keelson/internal/kube"
	"keelson.dev/keelson/internal/plan"
)

// What was applied by somebody else (Argo CD, kubectl, a controller before this one without its records) is not known by hashes: whether
// it is as Git wants it, only the server can tell, by a dry run. An app that repairs what differs applies it instead, which is as cheap
// and makes it known for good; one that waits for a person is to show the truth before. So such objects are looked at once, and then
// again when Git wants something else, when they are seen to have changed, or after a pause that grows: those that are not labelled as
// ours are in no watch.

// verdict is what a look at an object said.
type verdict struct {
	desired         delivery.Hash
	resourceVersion string // empty: it was not there
	equal           bool   // the server would keep it as it is
	health          delivery.Health
	at              time.Time
	pause           time.Duration // until it is looked at again where no watch tells
}

const (
	firstLook, maxLook = time.Minute, time.Hour // pauses between looks at what no watch shows
	maxLooks           = 300                    // objects that are looked at in one step
	restLook           = 200 * time.Millisecond // pause before the rest of them
)

// fresh tells whether a verdict still says how an object is.
func (v verdict) fresh(desired delivery.Hash, rec delivery.Live, watched bool, now time.Time) bool {
	if v.desired != desired {
		return false
	}
	if watched {
		return v.resourceVersion == rec.ResourceVersion
	}
	return now.Before(v.at.Add(v.pause))
}

// look is one object to be looked at.
type look struct {
	change  delivery.Change
	rec     delivery.Live
	watched bool
	verdict verdict
	applied *delivery.Applied // not nil: it is as if we had just sent it
	err     error
}

// verify asks the server about the objects of a comparison that hashes say nothing about, and notes when it is worth to be asked again.
// During an operation, which sends them or has sent them, it is not asked.
func (e *Engine) verify(ctx context.Context, req Request, state *State, mem *Memory) error {
	if req.Operation != nil {
		mem.verdicts = nil
		state.unasked = slices.ContainsFunc(state.Plan.Stages, func(s delivery.Stage) bool {
			return slices.ContainsFunc(s.Changes, func(c delivery.Change) bool { return e.doubtful(req, c, mem) })
		})
		return nil
	}
	verdicts := map[delivery.Ref]verdict{}
	var looks []*look
	var due time.Time
	for _, stage := range state.Plan.Stages {
		for _, c := range stage.Changes {
			if !e.doubtful(req, c, mem) {
				continue
			}
			rec, watched := e.Live.Get(c.Ref)
			v := mem.verdicts[c.Ref]
			switch {
			case v.fresh(c.Desired, rec, watched, req.Now):
				verdicts[c.Ref] = v
			case len(looks) < maxLooks:
				looks = append(looks, &look{change: c, rec: rec, watched: watched, verdict: v})
				continue
			default:
				due = req.Now.Add(restLook)
				continue
			}
			if at := v.at.Add(v.pause); !watched && (due.IsZero() || at.Before(due)) {
				due = at
			}
		}
	}
	if err := e.lookAt(ctx, req, looks, mem); err != nil {
		return err
	}
	for _, l := range looks {
		if l.applied != nil {
			mem.applied[l.change.Ref], mem.unsaved = *l.applied, true
		}
		verdicts[l.change.Ref] = l.verdict
		if at := l.verdict.at.Add(l.verdict.pause); !l.watched && (due.IsZero() || at.Before(due)) {
			due = at
		}
	}
	mem.verdicts = verdicts
	if !due.IsZero() && (state.Retry.IsZero() || due.Before(state.Retry)) {
		state.Retry = due
	}
	return nil
}

// doubtful tells of a change whether the object may be as Git wants it all the same: it was never sent, or Git wants something else
// of it that may be no more than what does not count.
func (e *Engine) doubtful(req Request, c delivery.Change, mem *Memory) bool {
	if c.Object == nil || c.Verb != delivery.Create && c.Verb != delivery.Update {
		return false
	}
	last, sent := mem.applied[c.Ref]
	if sent {
		_, ignores := mem.ignoring[c.Ref]
		return ignores && last.Desired != c.Desired && !heals(req)
	}
	if heals(req) {
		rec, watched := e.Live.Get(c.Ref)
		return watched && rec.Owner == req.App.ID
	}
	_, owned := mem.Inventory[c.Ref]
	return owned || !req.App.Sync.Automated
}

// heals tells whether what differs is repaired without anybody's doing.
func heals(req Request) bool {
	policy := req.App.Sync
	return policy.Automated && policy.SelfHeal && policy.Held == nil
}

// lookAt makes the looks, some at once.
func (e *Engine) lookAt(ctx context.Context, req Request, looks []*look, mem *Memory) error {
	if len(looks) == 0 {
		return nil
	}
	user, err := e.Cluster.As(req.App.Account())
	if err != nil {
		return err
	}
	if mem.applied == nil {
		mem.applied = map[delivery.Ref]delivery.Applied{}
	}
	slots := make(chan struct{}, reads)
	var wg sync.WaitGroup
	for _, l := range looks {
		slots <- struct{}{}
		wg.Go(func() {
			defer func() { <-slots }()
			l.err = e.lookOnce(ctx, req, user, l, mem.ignoring[l.change.Ref])
		})
	}
	wg.Wait()
	for _, l := range looks {
		if l.err != nil {
			return l.err
		}
	}
	return nil
}

// lookOnce looks at one object.
func (e *Engine) lookOnce(ctx context.Context, req Request, user *kube.User, l *look, ig ignoring) error {
	c := l.change
	pause := firstLook
	if l.verdict.desired == c.Desired && l.verdict.pause > 0 {
		pause = min(2*l.verdict.pause, maxLook)
	}
	was := l.verdict
	l.verdict = verdict{desired: c.Desired, at: req.Now, pause: pause}
	current, err := e.Cluster.Self().Read(ctx, c.Ref, c.Version)
	if err != nil || current == nil {
		return err
	}
	l.verdict.resourceVersion, l.verdict.health = current.GetResourceVersion(), e.Live.Judged(req.App.ID, current)
	if was.desired == c.Desired && was.resourceVersion == current.GetResourceVersion() {
		l.verdict.equal = was.equal
		return nil
	}
	obj := *c.Object
	obj.Unstructured = obj.DeepCopy()
	keys := e.unlabel(req.App.ID, obj, l.watched)
	fields, err := ig.fields(ctx, current)
	if err != nil {
		return err
	}
	if ig.respect {
		obj = withFieldsOf(obj, current, fields)
	}
	merged, err := apply.Send(ctx, user, obj, true)
	if err != nil {
		if definite(err) {
			return nil // it differs: the server does not even take it
		}
		return err
	}
	later, err := ig.fields(ctx, merged)
	if err != nil {
		return err
	}
	before, after := without(tidy(current), fields), without(tidy(merged), later)
	for _, u := range []*unstructured.Unstructured{before, after} {
		drop(u, keys)
	}
	if l.verdict.equal = reflect.DeepEqual(before.Object, after.Object); l.verdict.equal && l.watched {
		l.applied, err = e.known(ctx, c, current, merged, ig)
	}
	return err
}

// known gives what an apply of an object would have left behind, where the object is just as that would leave it, also in what is ours of
// it; nil: it is not.
func (e *Engine) known(ctx context.Context, c delivery.Change, current, merged *unstructured.Unstructured, ig ignoring) (*delivery.Applied, error) {
	fields, err := ig.fields(ctx, current)
	if err != nil {
		return nil, err
	}
	have, err := e.Live.Look(current)
	if err != nil {
		return nil, err
	}
	then, err := e.Live.Look(merged)
	if err != nil || have.Owned != then.Owned || have.Owned == (delivery.Hash{}) || have.OwnsReplicas != then.OwnsReplicas {
		return nil, err
	}
	c.Ignored = fields
	out := e.left(apply.Result{Change: c, Object: current}, have)
	if len(fields) > 0 {
		if out.Kept, err = e.Live.Kept(current, fields); err != nil {
			return nil, err
		}
	}
	return &out, nil
}

// unlabel takes away the marks of ownership of what is to be compared with an object that is not labelled as ours, and gives their
// keys: that they are missing is no difference.
func (e *Engine) unlabel(app delivery.ID, obj delivery.Object, ours bool) (keys []string) {
	if ours {
		return nil
	}
	bare := delivery.Object{Unstructured: &unstructured.Unstructured{Object: map[string]any{}}}
	bare.SetGroupVersionKind(obj.GroupVersionKind())
	bare.SetName(obj.GetName())
	bare.SetNamespace(obj.GetNamespace())
	e.Label(app, bare)
	for _, m := range []map[string]string{bare.GetLabels(), bare.GetAnnotations()} {
		for key := range m {
			keys = append(keys, key)
		}
	}
	drop(obj.Unstructured, keys)
	return keys
}

// drop takes away labels and annotations.
func drop(u *unstructured.Unstructured, keys []string) {
	if len(keys) == 0 {
		return
	}
	labels, annotations := u.GetLabels(), u.GetAnnotations()
	for _, key := range keys {
		delete(labels, key)
		delete(annotations, key)
	}
	for field, m := range map[string]map[string]string{"labels": labels, "annotations": annotations} {
		if len(m) == 0 {
			unstructured.RemoveNestedField(u.Object, "metadata", field)
			continue
		}
		_ = unstructured.SetNestedStringMap(u.Object, m, "metadata", field)
	}
}

// strangers finds what left Git and is not labelled as ours, but by another mark the app's all the same ([Engine.Tracks]): an operation may
// delete it. What was labelled when it was seen last is gone.
func (e *Engine) strangers(ctx context.Context, app delivery.ID, want delivery.Inventory, in *plan.Input, mem *Memory) error {
	found := map[delivery.Ref]delivery.Live{}
	for ref, version := range mem.Inventory.Minus(want) {
		if _, ours := e.Live.Get(ref); ours || e.Tracks == nil || mem.looked.seen[ref].uid != "" {
			continue
		}
		rec, known := mem.strangers[ref]
		if !known {
			current, err := e.Cluster.Self().Read(ctx, ref, version)
			if err != nil {
				return err
			}
			if current == nil || !e.Tracks(app, current) {
				continue
			}
			if rec, err = e.Live.Look(current); err != nil {
				return err
			}
			rec.Owner, rec.Health = app, e.Live.Judged(app, current)
		}
		found[ref], in.Live[ref] = rec, rec
	}
	mem.strangers = found
	return nil
}
