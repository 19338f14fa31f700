package deliver

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"keelson.dev/keelson/internal/apply"
	"keelson.dev/keelson/internal/delivery"
	"keelson.dev/keelson/internal/plan"
	"keelson.dev/keelson/internal/redact"
	"keelson.dev/keelson/internal/render"
	"keelson.dev/keelson/internal/telemetry"
)

// Memory is what the engine knows about an app between two steps. The zero Memory knows nothing: the next step
// renders and sends everything once, which the server answers without a change where nothing differs.
type Memory struct {
	Inventory delivery.Inventory // as last written to the cluster
	cluster   string             // where what was applied is; empty: not known
	Ignored   []string           // what the rendered objects ask for and has no effect yet, for people
	Skipped   []string           // rendered objects that are not applied because Keelson takes their place, for people
	made      origin             // what the last completed delivery was made of
	desired   delivery.Inventory // what it gave
	broken    origin             // what the last render that failed was made of; the zero origin: none did
	fault     *delivery.Fault    // why
	pass      rendered           // what this pass rendered; see Release
	judged    string             // the digest of the last snapshot that was rendered or found to change nothing
	applied   map[delivery.Ref]delivery.Applied
	left      map[delivery.Ref]bool // of desired, what Git itself wants to be left alone as it is there
	unsaved   bool                  // made, desired or applied changed since the record was written
	repairs   map[delivery.Ref]repairs
	refused   map[delivery.Ref]refusal
	waves     map[delivery.Ref]int           // of an app with operations: those of desired and of what left Git
	strangers map[delivery.Ref]delivery.Live // what left Git and is not labelled as ours, but is the app's
	removal   *delivery.Operation            // how far its deletion has come
	hooks     delivery.Inventory             // … its hooks
	ignoring  map[delivery.Ref]ignoring
	verdicts  map[delivery.Ref]verdict
	looked    looked // … how it compared when it was looked at last
}

// origin is everything that decides what a render gives. Where none of it has changed the result is the same.
type origin struct {
	spec   string // of the declaration
	vars   string // of the substitution variables
	inputs render.Inputs
}

// rendered is the outcome of a render, kept from one step of a pass to the next.
type rendered struct {
	origin  origin
	digest  string // of the snapshot
	objects []delivery.Object
	secrets *redact.Redactor // knows which values must not be told
}

// repairs counts how often an object had to be repaired, or made anew, lately.
type repairs struct {
	count int
	last  time.Time
}

// refusal is an object that the server did not take.
type refusal struct {
	desired delivery.Hash
	count   int
	until   time.Time
	fault   *delivery.Fault
	// immutable says that it would be taken if it was made anew.
	immutable bool
}

// Variables are an app's substitution variables.
type Variables struct {
	// Key identifies them without telling them.
	Key string
	// Load reads them, and knows which values must not be told. It is called only where something has to be rendered; nil: there are
	// none.
	Load func(context.Context) (map[string]string, *redact.Redactor, error)
}

// specKey identifies a declaration: whatever may make it render otherwise.
func specKey(app delivery.App) string {
	return fmt.Sprintf("%s/%d", app.UID, app.Generation)
}

// same tells whether a render now would give what the one of o gave.
func (o origin) same(req Request) (bool, error) {
	if o.spec != specKey(req.App) || o.vars != req.Vars.Key {
		return false, nil
	}
	return o.inputs.Same(req.Snapshot)
}

// Inputs are what the last completed delivery read of its snapshot.
func (mem *Memory) Inputs() render.Inputs { return mem.made.inputs }

// Done records that the plan of state has been carried out to its end: what was rendered is what is there.
func (mem *Memory) Done(state State) {
	mem.unsaved = mem.unsaved || mem.pass.digest != ""
	mem.made, mem.desired = state.origin, state.Plan.Inventory
	mem.leave(state.Plan)
	for ref := range mem.applied {
		if _, ok := mem.desired[ref]; !ok {
			delete(mem.applied, ref)
			delete(mem.repairs, ref)
		}
	}
	mem.refused = nil
}

// leave notes what the plan left alone. What was sent of it before is forgotten: it is sent again once it is no longer left.
func (mem *Memory) leave(p delivery.Plan) {
	mem.left = nil
	for ref, git := range leftBy(p) {
		delete(mem.applied, ref)
		if _, owned := mem.desired[ref]; owned && git {
			if mem.left == nil {
				mem.left = map[delivery.Ref]bool{}
			}
			mem.left[ref] = true
		}
	}
}

// leftBy gives what a plan leaves alone, and whether Git wants it so; nil: nothing.
func leftBy(p delivery.Plan) map[delivery.Ref]bool {
	var left map[delivery.Ref]bool
	for _, stage := range p.Stages {
		for _, c := range stage.Changes {
			if c.Left == "" {
				continue
			}
			if left == nil {
				left = map[delivery.Ref]bool{}
			}
			left[c.Ref] = c.Left == delivery.LeftByGit
		}
	}
	return left
}

// Made tells what the last completed delivery was made of: the key of its variables, and which declaration; both are empty where that is not known.
func (mem *Memory) Made() (vars, declared string) { return mem.made.vars, mem.made.spec }

// Declared identifies a declaration as [Memory.Made] does.
func Declared(app delivery.App) string { return specKey(app) }

// Same tells whether a request would give what the last completed delivery was made of.
func (mem *Memory) Same(req Request) (bool, error) { return mem.made.same(req) }

// Rendered tells whether a pass has rendered something that [Memory.Release] would free.
func (mem *Memory) Rendered() bool { return mem.pass.digest != "" }

// Secrets knows the values of what the pass has rendered that must not be told; nil: it has rendered nothing.
func (mem *Memory) Secrets() *redact.Redactor { return mem.pass.secrets }

// Move says which cluster the app is delivered to from now on. What is remembered of another one says nothing about it and is
// dropped, but for the inventory; from names that other one. The objects there stay as they are (Flux does the same).
func (mem *Memory) Move(cluster string) (from string, moved bool) {
	from, moved = mem.cluster, mem.cluster != "" && mem.cluster != cluster
	if mem.cluster != cluster {
		mem.made, mem.desired, mem.left, mem.applied, mem.repairs, mem.refused = origin{}, nil, nil, nil, nil, nil
		mem.looked, mem.verdicts, mem.strangers, mem.waves = looked{}, nil, nil, nil
		mem.cluster = cluster
	}
	return from, moved
}

// Release frees the rendered objects of a pass. The caller calls it when it stops stepping, for now or for good.
func (mem *Memory) Release() { mem.pass, mem.ignoring = rendered{}, nil }

// Resend drops what was remembered of render and objects, so that the next step renders anew and sends every object.
func (mem *Memory) Resend() {
	mem.made, mem.broken, mem.applied, mem.refused, mem.looked, mem.verdicts, mem.strangers = origin{}, origin{}, nil, nil, looked{}, nil, nil
}

// remember notes that a snapshot changes nothing for the app.
func (mem *Memory) remember(snap delivery.Snapshot) {
	if mem.judged != snap.Digest {
		mem.judged = snap.Digest
		telemetry.Renders.WithLabelValues(telemetry.Remembered).Inc()
	}
}

// render gives the objects of a request: of this pass where it has rendered them already, the fault of the last render
// where that would only fail again.
func (mem *Memory) render(ctx context.Context, req Request) ([]delivery.Object, origin, error) {
	if p := mem.pass; p.digest == req.Snapshot.Digest && p.digest != "" && p.origin.spec == specKey(req.App) && p.origin.vars == req.Vars.Key {
		return p.objects, p.origin, nil
	}
	if mem.fault != nil {
		again, err := mem.broken.same(req)
		if err != nil || again {
			return nil, origin{}, errors.Join(err, mem.fault)
		}
	}
	vars, secrets := map[string]string(nil), redact.New()
	if req.Vars.Load != nil {
		var err error
		if vars, secrets, err = req.Vars.Load(ctx); err != nil {
			return nil, origin{}, err
		}
	}
	build := req.App.Build
	build.Substitute = req.App.VarsAlways || len(vars) > 0
	start := time.Now()
	spanned, end := telemetry.Span(ctx, "render")
	objects, inputs, err := render.Track(spanned, req.Snapshot, build, vars)
	telemetry.Note(spanned, telemetry.Count("objects", len(objects)))
	mem.judged = req.Snapshot.Digest
	made := origin{spec: specKey(req.App), vars: req.Vars.Key, inputs: inputs}
	mem.broken, mem.fault = origin{}, nil
	if f := (*delivery.Fault)(nil); errors.As(err, &f) && f.Retry == delivery.OnChange {
		mem.broken, mem.fault = made, untold(f, secrets)
		err = mem.fault
		telemetry.Renders.WithLabelValues(telemetry.Failed).Inc()
		telemetry.Took(telemetry.RenderDuration, start, telemetry.Failed)
	}
	end(&err)
	if err != nil {
		return nil, origin{}, err
	}
	telemetry.Renders.WithLabelValues(telemetry.Rendered).Inc()
	telemetry.Took(telemetry.RenderDuration, start, telemetry.Rendered)
	mem.pass = rendered{origin: made, digest: req.Snapshot.Digest, objects: objects, secrets: secrets}
	return objects, made, nil
}

// untold gives a fault without the values that must not be told: it is kept longer than what knows them.
func untold(f *delivery.Fault, secrets *redact.Redactor) *delivery.Fault {
	out := *f
	out.Where, out.Hint = secrets.Text(f.Where), secrets.Text(f.Hint)
	if text := f.Err.Error(); secrets.Text(text) != text {
		out.Err = errors.New(secrets.Text(text))
	}
	return &out
}

const (
	freeRepairs  = 3           // repairs of one object in a row without a pause
	calm         = time.Minute // an object that stayed repaired this long starts anew
	maxRepairGap = 5 * time.Minute
)

// countRepair notes that an object was repaired, or deleted to be made anew.
func (mem *Memory) countRepair(c delivery.Change, now time.Time) {
	if c.Verb != delivery.Repair && c.Verb != delivery.Replace {
		return
	}
	if mem.repairs == nil {
		mem.repairs = map[delivery.Ref]repairs{}
	}
	r := mem.repairs[c.Ref]
	if now.Sub(r.last) > calm+gap(r.count) {
		r.count = 0
	}
	mem.repairs[c.Ref] = repairs{count: r.count + 1, last: now}
	if c.Verb == delivery.Replace {
		return
	}
	telemetry.DriftRepaired.WithLabelValues(c.Ref.Kind).Inc()
	if gap(r.count+1) > 0 {
		telemetry.DriftBackoffs.WithLabelValues(c.Ref.Kind).Inc()
	}
}

// gap is the pause before the repair that follows count repairs in a row.
func gap(count int) time.Duration {
	if count <= freeRepairs {
		return 0
	}
	return min(time.Second<<min(count-freeRepairs-1, 20), maxRepairGap)
}

// notBefore says when each object may be repaired again.
func (mem *Memory) notBefore() map[delivery.Ref]time.Time {
	out := map[delivery.Ref]time.Time{}
	for ref, r := range mem.repairs {
		if g := gap(r.count); g > 0 {
			out[ref] = r.last.Add(g)
		}
	}
	return out
}

// refuse notes that the server did not take an object, and how long it makes no sense to send the same again.
func (mem *Memory) refuse(res apply.Result, f *delivery.Fault, app delivery.App, now time.Time) {
	c := res.Change
	r := mem.refused[c.Ref]
	if r.desired != c.Desired {
		r = refusal{desired: c.Desired}
	}
	r.count++
	r.fault, r.immutable = f, res.Immutable
	r.until = now.Add(Backoff(r.count, app.RetryInterval))
	if f.Retry != delivery.Backoff {
		r.until = now.Add(max(app.RetryInterval, firstBackoff))
	}
	if mem.refused == nil {
		mem.refused = map[delivery.Ref]refusal{}
	}
	mem.refused[c.Ref] = r
}

// refusals are the plan's input of what was refused.
func (mem *Memory) refusals() map[delivery.Ref]plan.Refusal {
	out := make(map[delivery.Ref]plan.Refusal, len(mem.refused))
	for ref, r := range mem.refused {
		out[ref] = plan.Refusal{Desired: r.desired, Until: r.until, Immutable: r.immutable}
	}
	return out
}

// firstBackoff and maxBackoff bound the pause after a failure; the pause doubles from one to the next.
const firstBackoff, maxBackoff = time.Second, 5 * time.Minute

// Backoff gives the pause after a number of failures in a row, no longer than the user's own interval.
func Backoff(failures int, interval time.Duration) time.Duration {
	pause := firstBackoff << min(max(failures-1, 0), 10)
	if interval <= 0 {
		interval = maxBackoff
	}
	return min(pause, max(interval, firstBackoff), maxBackoff)
}

// paused gives the faults of what the plan leaves alone because the server refused it, as one, and when the first is due.
func (mem *Memory) paused(p delivery.Plan) (*delivery.Fault, time.Time) {
	var faults []*delivery.Fault
	var due time.Time
	notBefore := mem.notBefore()
	for _, stage := range p.Stages {
		for _, c := range stage.Changes {
			if c.Verb != delivery.Paused {
				continue
			}
			r := mem.refused[c.Ref]
			faults = append(faults, r.fault)
			until := r.until
			if at := notBefore[c.Ref]; r.immutable && at.After(until) { // it is to be made anew, which has its own pauses
				until = at
			}
			if due.IsZero() || until.Before(due) {
				due = until
			}
		}
	}
	return together(faults), due
}

// together gives several faults of one stage as one: the first one's reason, two of the texts.
func together(faults []*delivery.Fault) *delivery.Fault {
	switch len(faults) {
	case 0:
		return nil
	case 1:
		return faults[0]
	}
	first := *faults[0]
	first.Err = fmt.Errorf("%w (and %d more of this stage failed, the next: %w)", first.Err, len(faults)-1, faults[1])
	return &first
}

// earliest gives the first time after now; zero: none.
func earliest(times map[delivery.Ref]time.Time, now time.Time) time.Time {
	var first time.Time
	for _, t := range slices.SortedFunc(maps.Values(times), time.Time.Compare) {
		if t.After(now) {
			first = t
			break
		}
	}
	return first
}
