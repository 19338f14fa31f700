package controller

import (
	"cmp"
	"fmt"
	"time"

	"github.com/fluxcd/pkg/apis/meta"

	"keelson.dev/keelson/internal/apply"
	"keelson.dev/keelson/internal/deliver"
	"keelson.dev/keelson/internal/delivery"
	"keelson.dev/keelson/internal/dialect"
	"keelson.dev/keelson/internal/history"
	"keelson.dev/keelson/internal/kube"
	"keelson.dev/keelson/internal/plan"
	"keelson.dev/keelson/internal/redact"
	"keelson.dev/keelson/internal/release"
)

// Recorder is told what is delivered and what is repaired, for the history of both. Its methods return at once, whatever becomes of what
// they are told: nothing waits for the history.
type Recorder interface {
	// Delivery tells of one when it begins, before the first object is changed, and again whenever something has become of it; the key stays
	// the same. Of its changes only those that have not been told yet are given.
	Delivery(d history.Delivery)
	Repair(r history.Repair)
	// Commit tells what a commit says that a source gives now, whether it changes anything or not.
	Commit(c history.Commit)
	// Parts tells which commits came with a delivery, the oldest first, and what each has changed.
	Parts(key string, parts []history.Part)
}

// recording is a delivery as it is told.
type recording struct {
	d     history.Delivery
	told  string // what of it was told last; empty: nothing
	had   map[delivery.Ref]bool
	done  bool // it is over; only its health may still be told
	quiet bool // that it begins is not worth telling until something has changed
}

// occasion is why an app is delivered.
type occasion struct {
	previous delivery.Revision // that was delivered before; zero: none is known
	trigger  string            // empty: what has changed since then
	actor    string
}

// recordsHistory tells whether anybody keeps a history.
func (a *apps) recordsHistory() bool { return a.history != nil }

// beginsDelivery tells that a delivery begins, or goes on after a failure, unless that is for another reason or since a person has asked for it.
// What is under way to something else is superseded.
func (a *apps) beginsDelivery(p *pass, o occasion) {
	if !a.recordsHistory() {
		return
	}
	st, rev := p.st, p.req.Snapshot.Revision
	r := st.recording
	other := r != nil && r.d.Status == history.Failed && (o.actor != "" || o.trigger != "" && o.trigger != r.d.Trigger)
	if r != nil && !r.done && r.d.Revision == rev.String() && !other {
		r.d.Status, r.d.Message, r.d.Finished = history.Running, "", time.Time{}
		a.tellDelivery(r)
		return
	}
	a.endsDelivery(st, history.Superseded)
	st.recording, st.masks.rotated = a.resumes(p, o), nil
	a.tellDelivery(st.recording)
}

// resumes begins to record a delivery. The first one of a process may be one that a process before has recorded.
func (a *apps) resumes(p *pass, o occasion) *recording {
	r := newRecording(p, o, a.now())
	r.d.Resumes, p.st.recorded = !p.st.recorded, true
	return r
}

// endsDelivery ends what is under way, if anything is.
func (a *apps) endsDelivery(st *appState, status string) {
	if r := st.recording; r != nil && !r.done {
		r.d.Status, r.d.Finished, r.done = status, a.now(), true
		a.tellDelivery(r)
	}
}

func newRecording(p *pass, o occasion, now time.Time) *recording {
	snap := p.req.Snapshot
	rev := snap.Revision
	d := history.Delivery{
		Key: fmt.Sprintf("%s@%d", p.app.UID, now.UnixMicro()), App: history.App(p.app.ID), Environment: p.app.Environment, Cluster: p.app.KubeConfig.String(),
		Revision: rev.String(), Commit: commitOf(snap), Trigger: o.trigger, Actor: o.actor, Status: history.Running, Began: now,
	}
	if o.previous.Commit != rev.Commit {
		d.Previous = o.previous.Commit
	}
	same := o.previous.Commit == rev.Commit
	if d.Trigger == "" {
		d.Trigger = history.BySpec
		if !same {
			d.Trigger = history.ByCommit
		}
	}
	return &recording{d: d, had: map[delivery.Ref]bool{}, quiet: same}
}

// commitOf is what a snapshot's commit says about itself; an archive has no more than its digest.
func commitOf(snap delivery.Snapshot) history.Commit {
	return commitSaid(snap.Revision.Commit, snap.Commit)
}

func commitSaid(sha string, said delivery.Commit) history.Commit {
	c := history.ReadCommit(redact.Text(said.Message))
	c.SHA, c.Author, c.Email, c.Authored = sha, redact.Text(said.Author), redact.Text(said.Email), said.Authored.UTC()
	if said.Authored.IsZero() {
		c.Authored = time.Time{}
	}
	return c
}

// tellDelivery tells of a delivery if there is news.
func (a *apps) tellDelivery(r *recording) {
	if r.quiet && r.d.Objects == 0 {
		return
	}
	now := fmt.Sprintf("%s %s %s %t %d %s", r.d.Status, r.d.Health, r.d.Applied, r.d.Healthy.IsZero(), r.d.Objects, r.d.Message)
	if now == r.told && len(r.d.Changes) == 0 {
		return
	}
	r.told = now
	a.history.Delivery(r.d)
	r.d.Changes = nil // who was told has them
}

// carriedOut takes in what a stage has done.
func (a *apps) carriedOut(p *pass, results []apply.Result, secrets *redact.Redactor, o occasion) {
	if !a.recordsHistory() {
		return
	}
	p.st.masks.rotates(results)
	hide := p.st.masks.hiding(cmp.Or(secrets, p.secrets), p.st.masks.blind(p.app, deliver.Declared(p.app)))
	for _, res := range results {
		c := res.Change
		if res.Err != nil || res.NoOp || c.DryRun || c.Moment != "" || c.First {
			continue
		}
		if c.Verb == delivery.Repair {
			a.history.Repair(repairOf(p, res, hide, a.now()))
			continue
		}
		if p.st.recording == nil || p.st.recording.done { // as when it is told what becomes of an app that is deleted
			p.st.recording = a.resumes(p, o)
		}
		r := p.st.recording
		if !r.had[c.Ref] {
			r.had[c.Ref] = true
			r.d.Objects++
		}
		r.d.Changes = append(r.d.Changes, changeOf(res, hide))
	}
	if r := p.st.recording; r != nil {
		a.tellDelivery(r)
	}
}

// changeOf is what was done to one object.
func changeOf(res apply.Result, hide hiding) history.Change {
	c := history.Change{Object: objectOf(res.Change.Ref), Verb: string(res.Change.Verb)}
	if res.Before != nil && res.Object != nil {
		c.Fields, c.More = fieldsOf(res, hide)
	}
	return c
}

func objectOf(ref delivery.Ref) history.Object {
	return history.Object{Group: ref.Group, Kind: ref.Kind, Namespace: ref.Namespace, Name: ref.Name}
}

// repairOf is drift that was undone: what was found, what it is again, and whose it was.
func repairOf(p *pass, res apply.Result, hide hiding, now time.Time) history.Repair {
	r := history.Repair{
		App: history.App(p.app.ID), SHA: p.req.Snapshot.Revision.Commit, Object: objectOf(res.Change.Ref), Reason: res.Change.Reason,
		Found: p.req.Now, Repaired: now, Times: 1,
	}
	if res.Before != nil && res.Object != nil {
		r.Fields, r.More = fieldsOf(res, hide)
		r.Manager = plan.Overruled(res.Before, res.Object, kube.FieldManager)
	}
	return r
}

// appliedDelivery notes that the cluster has all of what is delivered.
func (a *apps) appliedDelivery(p *pass, health delivery.Health) {
	r := p.st.recording
	if r == nil || r.done || !r.d.Applied.IsZero() || r.d.Status == history.Failed && r.d.Revision != p.req.Snapshot.Revision.String() {
		return
	}
	r.d.Applied, r.d.Health = a.now(), string(health.Status)
	a.tellDelivery(r)
	a.dissects(p, r)
}

// notDeliveries are the reasons of faults before anything of a revision is tried.
var notDeliveries = map[string]bool{
	meta.DependencyNotReadyReason: true, meta.ArtifactFailedReason: true, "AccessDenied": true,
}

// concludeDelivery notes what a step has come to. previous is what was delivered before.
func (a *apps) concludeDelivery(p *pass, out delivery.Outcome, previous delivery.Revision) {
	if !a.recordsHistory() {
		return
	}
	st, rev, r := p.st, p.req.Snapshot.Revision, p.st.recording
	switch out.Phase {
	case delivery.Ready:
		if r == nil {
			return
		}
		if !r.done && r.d.Revision != rev.String() && r.d.Applied.IsZero() { // what is there is something newer, for which nothing had to be done
			a.endsDelivery(st, history.Superseded)
			st.recording = nil
			return
		}
		if !r.done {
			now := a.now()
			r.d.Status, r.d.Message, r.d.Finished, r.done = history.Succeeded, "", now, true
			if r.d.Applied.IsZero() {
				r.d.Applied = now
			}
		}
		if out.Health.Status != "" {
			r.d.Health = string(out.Health.Status)
		}
		if out.Health.Status == delivery.Healthy {
			r.d.Healthy = a.now()
		}
		a.tellDelivery(r)
		if !r.d.Healthy.IsZero() {
			st.recording = nil
		}
	case delivery.Failing, delivery.Stalled:
		if rev.Commit == "" || notDeliveries[out.Reason] {
			return
		}
		if r == nil || r.done || r.d.Revision != rev.String() {
			if previous.Commit == rev.Commit || r != nil && r.d.Revision == rev.String() { // it was delivered, and is in trouble since
				return
			}
			a.endsDelivery(st, history.Superseded)
			r = a.resumes(p, occasion{previous: previous})
			st.recording = r
		}
		if r.d.Message != out.Message || r.d.Status != history.Failed {
			r.d.Status, r.d.Message, r.d.Finished = history.Failed, out.Message, a.now()
		}
		if out.Health.Status != "" {
			r.d.Health = string(out.Health.Status)
		}
		a.tellDelivery(r)
	}
}

// previous is what an app was at before what is under way.
func (k *kustomizations) previous(p *kustomizationPass) delivery.Revision {
	if was := k.reg.standOf(p.app.ID).applied; was.Commit != "" {
		return was
	}
	return delivery.ParseRevision(p.obj.Status.LastAppliedRevision)
}

// occasion tells why an app is delivered.
func (k *kustomizations) occasion(p *kustomizationPass) occasion {
	o := occasion{previous: k.previous(p)}
	if p.st.asked {
		if o.actor = p.app.RequestedBy; o.previous == p.req.Snapshot.Revision {
			o.trigger = history.BySync
		}
	}
	return o
}

// occasion tells why an Application is synced.
func (a *applications) occasion(p *applicationPass, op delivery.Operation) occasion {
	o := occasion{previous: a.previous(p), actor: op.Request.By}
	switch held := p.req.App.Sync != nil && p.req.App.Sync.Held != nil; {
	case op.Request.Healing:
		o.trigger = history.ByDrift
	case op.Request.By != "" && held:
		o.trigger = history.ByRollback
	case op.Request.By != "":
		o.trigger = history.BySync
	}
	return o
}

// previous is what was synced last.
func (a *applications) previous(p *applicationPass) delivery.Revision {
	if was := a.reg.standOf(p.app.ID).applied; was.Commit != "" && a.reg.standOf(p.app.ID).ready {
		return was
	}
	if n := len(p.obj.Status.History); n > 0 {
		return delivery.Revision{Commit: p.obj.Status.History[n-1].Revision}
	}
	return delivery.Revision{}
}

// concludesOperation notes how an operation has ended.
func (a *applications) concludesOperation(p *applicationPass, op delivery.Operation) {
	if op.Request.DryRun {
		return
	}
	out := delivery.Outcome{Phase: delivery.Ready, Reason: string(op.Phase)}
	if op.Phase != delivery.OperationSucceeded {
		out.Phase, out.Message = delivery.Failing, p.secrets.Text(op.Message)
	}
	a.concludeDelivery(&p.pass, out, a.previous(p))
}

// recordAction tells that an action on a release begins that changes it.
func (h *helmReleases) recordAction(p *helmPass, d release.Decision) {
	switch d.Action {
	case release.Install, release.Upgrade, release.TakeOver, release.Rollback, release.Uninstall:
	default:
		return
	}
	o := occasion{}
	if p.app.Requested != p.st.handled && !d.Remedy {
		o.actor = p.app.RequestedBy
	}
	version := p.chart.Version
	if last := p.helm.record.Latest(); last != nil {
		o.previous = delivery.Revision{Commit: last.ChartVersion}
		p.st.masks.past, p.st.masks.made = last.ConfigDigest, last.ConfigDigest
	}
	switch {
	case d.Action == release.Rollback:
		o.trigger = history.ByRollback
		for _, s := range p.helm.record.History {
			if s.Version == d.Version {
				version = s.ChartVersion
			}
		}
	case d.Action == release.Uninstall && d.Remedy:
		o.trigger = history.ByRollback
	}
	parting := !p.obj.DeletionTimestamp.IsZero()
	if last := p.helm.record.Latest(); parting && last != nil {
		version, o.trigger = last.ChartVersion, history.BySpec
	}
	p.req.Snapshot = delivery.Snapshot{Revision: delivery.Revision{Commit: version}}
	if !h.recordsHistory() {
		return
	}
	if r := p.st.parting; parting && r != nil { // it is tried again
		p.st.recording, r.done = r, false
		return
	}
	h.endsDelivery(p.st, history.Superseded)
	h.recordOwn(p, d, o, version, parting)
}

// recordOwn begins to record an action as a delivery of its own: Helm keeps a version for each.
func (h *helmReleases) recordOwn(p *helmPass, d release.Decision, o occasion, version string, parting bool) {
	r := newRecording(&p.pass, o, h.now())
	r.d.Revision, r.d.SHA, r.d.Previous, r.quiet = version, "", "", false
	r.d.Message = string(d.Action) + " of " + p.want.ChartName
	if p.st.recording = r; parting {
		p.st.parting, r.d.Message = r, partingMessage
	}
	h.tellDelivery(r)
}

// recordResult notes what an action has come to.
func (h *helmReleases) recordResult(p *helmPass, a *acting, failed error) {
	if !h.recordsHistory() {
		return
	}
	h.recordMended(p, a.result.Mended)
	r := p.st.recording
	if r == nil || r.done {
		return
	}
	switch a.decision.Action {
	case release.Install, release.Upgrade, release.TakeOver, release.Rollback, release.Uninstall:
	default:
		return
	}
	p.st.masks.rotated = nil
	p.st.masks.rotates(resultsOf(a.result.Changed))
	hide := p.st.masks.hiding(p.secrets, p.st.masks.past != "" && p.st.masks.blind(p.app, p.st.masks.made))
	changes := changesOfRelease(a.result.Changed, hide)
	r.d.Changes = append(r.d.Changes, changes...)
	for _, c := range a.result.Changed {
		if !r.had[c.Ref] {
			r.had[c.Ref] = true
			r.d.Objects++
		}
	}
	now := h.now()
	r.d.Finished, r.done = now, true
	if failed != nil {
		r.d.Status, r.d.Message = history.Failed, p.secrets.Text(failed.Error())
		h.tellDelivery(r)
		p.st.recording = nil
		return
	}
	if r.d.Status, r.d.Applied = history.Succeeded, now; r == p.st.parting {
		r.d.Message = partingMessage
	}
	h.tellDelivery(r)
}

// recordMended tells of drift of a release that was undone.
func (h *helmReleases) recordMended(p *helmPass, mended []release.Changed) {
	hide := p.st.masks.hiding(p.secrets, false) // the manifest is the same, so are its values
	for _, c := range mended {
		r := repairOf(&p.pass, apply.Result{Change: delivery.Change{Ref: c.Ref}, Before: c.Before, Object: c.After}, hide, h.now())
		if c.Before == nil {
			r.Reason = "it had been deleted"
		} else {
			r.Manager = plan.Overruled(c.Before, c.After, dialect.HelmManager)
		}
		h.history.Repair(r)
	}
}

// resultsOf gives what an action has changed of a release's objects as what a stage has.
func resultsOf(all []release.Changed) (out []apply.Result) {
	for _, c := range all {
		out = append(out, apply.Result{Before: c.Before, Object: c.After})
	}
	return out
}

func changesOfRelease(all []release.Changed, hide hiding) (out []history.Change) {
	for _, c := range all {
		change := history.Change{Object: objectOf(c.Ref), Verb: string(delivery.Update)}
		switch {
		case c.Before == nil:
			change.Verb = string(delivery.Create)
		case c.After == nil:
			change.Verb = string(delivery.Delete)
		default:
			change.Fields, change.More = fieldsOf(apply.Result{Before: c.Before, Object: c.After}, hide)
		}
		out = append(out, change)
	}
	return out
}

// RollbackChanges is what a rollback has changed of a release's objects, as the history has it. Which fields have changed is told, and no value of them:
// the version that is back was made with values of Secrets that nobody knows any more, also where the app names none now.
func RollbackChanges(all []release.Changed, secrets *redact.Redactor) []history.Change {
	var m masks
	m.rotates(resultsOf(all))
	out := changesOfRelease(all, m.hiding(secrets, true))
	for _, c := range out {
		for i := range c.Fields {
			if c.Fields[i].After != "" {
				c.Fields[i].After = redact.Mask
			}
		}
	}
	return out
}

// RolledBack is the delivery by which a person has rolled a release back: the app's, with its uid, to a version of the chart, as a version of the
// release. Whoever tells of it tells of the same delivery: who it was knows the API, and that it was done who follows the release.
func RolledBack(app delivery.App, chart string, version int) history.Delivery {
	return history.Delivery{
		Key: fmt.Sprintf("%s@v%d", app.UID, version), App: history.App(app.ID), Environment: app.Environment, Cluster: app.KubeConfig.String(),
		Revision: chart, Trigger: history.ByRollback, Status: history.Running,
	}
}

// recordHeld tells that a person has rolled a release back; nil: it is held for another reason.
func (h *helmReleases) recordHeld(p *helmPass, made *delivery.StoredRelease) {
	if !h.recordsHistory() || made == nil {
		return
	}
	h.endsDelivery(p.st, history.Superseded)
	d := RolledBack(p.app, made.ChartVersion, made.Version)
	d.Began, d.Applied, d.Finished, d.Found = made.LastDeployed, made.LastDeployed, made.LastDeployed, true
	d.Status, d.Message = history.Succeeded, p.secrets.Text(made.Description)
	h.history.Delivery(d)
	p.st.recording = nil
}

// partingMessage is what is said of the delivery that an app's end is.
const partingMessage = "the app was deleted"

// recordParting tells, once, that an app is deleted, and which of its objects are with it.
func (a *apps) recordParting(p *pass) {
	st := p.st
	if !a.recordsHistory() || st.parted {
		return
	}
	st.parted = true
	a.endsDelivery(st, history.Superseded)
	p.req.Snapshot = delivery.Snapshot{Revision: a.reg.standOf(p.app.ID).applied}
	r := newRecording(p, occasion{trigger: history.BySpec}, a.now())
	for _, ref := range st.deleted {
		if r.had[ref] {
			continue
		}
		r.had[ref] = true
		r.d.Changes = append(r.d.Changes, history.Change{Object: objectOf(ref), Verb: string(delivery.Delete)})
	}
	r.d.Objects, r.d.Previous = len(r.d.Changes), ""
	r.d.Message = partingMessage
	r.d.Status, r.d.Applied, r.d.Finished, r.done = history.Succeeded, r.d.Began, r.d.Began, true
	a.tellDelivery(r)
	st.recording = nil
}
