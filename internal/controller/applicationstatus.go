package controller

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"slices"
	"time"

	"k8s.io/apimachinery/pkg/api/equality"

	argocdv1 "keelson.dev/keelson/api/argocd/v1alpha1"
	"keelson.dev/keelson/internal/deliver"
	"keelson.dev/keelson/internal/delivery"
	"keelson.dev/keelson/internal/dialect"
	"keelson.dev/keelson/internal/history"
	"keelson.dev/keelson/internal/render"
)

// warn adds a condition to what is said of the app, which tells it once however often it is added.
func (p *applicationPass) warn(kind, message string) {
	p.news.Conditions = append(p.news.Conditions, argocdv1.ApplicationCondition{Type: kind, Message: p.secrets.Text(message)})
}

// compare looks how the app compares to what it is declared to be, and begins an automated operation where one is due.
func (a *applications) compare(ctx context.Context, p *applicationPass) error {
	p.req.Operation = p.op
	if p.op != nil { // one is under way: nothing is decided before it is over
		return nil
	}
	if err := a.sources(p, p.declared); err != nil {
		return err
	}
	mem, engine := &p.st.mem, p.st.target.engine
	state, known, err := engine.Glance(p.req, mem)
	if err == nil && !known {
		if err = a.enter(ctx, p); err != nil {
			return err
		}
		p.req.Now = a.now()
		a.reg.setConflict(p.app.ID, true)
		state, err = engine.Inspect(ctx, p.req, state, mem)
	}
	a.reg.setConflict(p.app.ID, err == nil && conflicted(state.Plan))
	if err != nil {
		return err
	}
	if state.Waiting != "" {
		p.sooner(recheck)
		return errNotYet
	}
	p.take(state)
	a.orphans(ctx, p)
	if p.news.Operation != nil { // an operation has just ended: the next pass decides about another
		a.wake(p.app.ID)
		return nil
	}
	return a.automate(ctx, p, state)
}

// take notes how the app compares.
func (p *applicationPass) take(state deliver.State) {
	p.news.Known, p.news.Revisions, p.news.InSync = true, p.revs, state.InSync
	p.news.Compared, p.news.Health, p.owned = state.Compared, state.Health, state.Owned
	p.summarize(state.Desired)
	if state.Desired != nil {
		p.expectHooks(state.Desired)
	}
	p.remembered()
	if !state.Retry.IsZero() {
		p.sooner(max(state.Retry.Sub(p.req.Now), time.Millisecond))
	}
	for _, b := range state.Plan.Blocks {
		p.warn(conditionOf(b.Fault), b.Fault.Error())
	}
	if w := p.req.App.Sync; w != nil && !w.Windows.Next.IsZero() {
		p.sooner(max(w.Windows.Next.Sub(p.req.Now), time.Millisecond))
	}
}

// summary is what there is to tell of the objects that Git wants, from when they were rendered last.
type summary struct {
	formats, images, urls []string
	repeated              []string // warnings
}

// summarize notes what there is to tell of the objects that Git wants, where they were rendered, once for each source of the request.
func (p *applicationPass) summarize(desired []delivery.Object) {
	if desired == nil || p.summarized && p.st.summary != nil {
		return
	}
	p.summarized = true
	s := &summary{formats: render.Formats(p.req.Snapshot, p.req.App.Build)}
	s.images, s.urls = dialect.ArgoSummary(desired)
	for _, obj := range desired {
		if ref := obj.Ref(); obj.Repeated > 1 {
			s.repeated = append(s.repeated, fmt.Sprintf("Resource %s/%s/%s/%s appeared %d times among application resources.",
				ref.Group, ref.Kind, ref.Namespace, ref.Name, obj.Repeated))
		}
	}
	p.st.summary = s
}

// remembered has the summary told, perhaps of a pass before this one; what a controller before this one told of it stays.
func (p *applicationPass) remembered() {
	s := p.st.summary
	if p.news.Remembered = s == nil; p.news.Remembered {
		s = &summary{}
		for _, c := range p.obj.Status.Conditions {
			if c.Type == argocdv1.ConditionRepeatedResourceWarning {
				s.repeated = append(s.repeated, c.Message)
			}
		}
	}
	p.news.SourceTypes, p.news.Images, p.news.URLs = s.formats, s.images, s.urls
	for _, text := range s.repeated {
		p.warn(argocdv1.ConditionRepeatedResourceWarning, text)
	}
}

// conditionOf is the type of the condition that tells of a block.
func conditionOf(f *delivery.Fault) string {
	switch f.Reason {
	case "OwnershipConflict":
		return argocdv1.ConditionSharedResourceWarning
	case "ConfirmationRequired":
		return argocdv1.ConditionConfirmationRequiredError
	}
	return argocdv1.ConditionSyncError
}

// fails says what has kept the app from being compared or delivered, and when it is tried again.
func (a *applications) fails(p *applicationPass, err error) {
	f := delivery.FaultOf(err, argocdv1.ConditionComparisonError)
	if p.declared.Invalid() == "" { // else its own conditions say so
		kind := f.Reason
		if !argoConditions[kind] {
			kind = argocdv1.ConditionComparisonError
		}
		p.warn(kind, f.Error())
	}
	switch f.Retry {
	case delivery.Backoff:
		p.st.failures++
		p.sooner(deliver.Backoff(p.st.failures, p.app.RetryInterval))
	case delivery.OnChange:
		p.sooner(cmp.Or(p.app.RetryInterval, defaultInterval))
	case delivery.OnEvent:
	}
	p.busy = p.op != nil
}

// argoConditions are the types of conditions that a fault may have as its reason.
var argoConditions = map[string]bool{
	argocdv1.ConditionComparisonError: true, argocdv1.ConditionInvalidSpecError: true, argocdv1.ConditionSyncError: true,
	argocdv1.ConditionDeletionError: true,
}

// tell settles how the app stands and writes its status, where there is news worth a request.
func (a *applications) tell(p *applicationPass, failed error) next {
	if failed == nil {
		p.st.failures = 0
	}
	if p.op != nil {
		p.news.Operation = p.op
	}
	p.news.Conditions = slices.Concat(p.declared.Conditions, p.news.Conditions)
	if p.op == nil && p.st.last != nil && (p.st.unsaid || running(p.obj)) {
		p.news.Operation = p.st.last // its end could not be written, or was kept back
	}
	if failed == nil && !p.busy && p.news.Known {
		a.own(p)
	}
	healthy := p.news.Health.Status == delivery.Healthy
	a.stands(p.app.ID, stand{
		busy: p.busy, ready: failed == nil && !p.busy && p.news.InSync && healthy,
		applied: p.req.Snapshot.Revision, mounted: p.mounted, inputs: p.st.mem.Inputs(),
	})
	if r := p.st.recording; r != nil && r.d.Status == history.Succeeded {
		a.concludeDelivery(&p.pass, delivery.Outcome{Phase: delivery.Ready, Health: p.news.Health}, delivery.Revision{})
	}
	p.st.untold = append(p.st.untold, p.events...)
	if rest := a.hold(p); rest > 0 {
		if p.unsay != nil {
			p.unsay()
		}
		p.sooner(rest)
		return next{after: p.after}
	}
	was := p.obj.Status
	if p.st.refreshing && a.repos.refreshed(p.app.ID) {
		p.st.refreshing = false
		p.obj.Annotations = maps.Clone(p.obj.Annotations)
		delete(p.obj.Annotations, argocdv1.RefreshAnnotation)
	}
	status := dialect.ArgoStatus(was, p.obj, p.news, a.now())
	if p.busy && failed == nil && !p.news.Known { // how it compares is not known while it changes
		at := status.ReconciledAt
		status.Sync, status.Health, status.Conditions, status.ReconciledAt = was.Sync, was.Health, was.Conditions, was.ReconciledAt
		if !equality.Semantic.DeepEqual(was, status) {
			status.ReconciledAt = at
		}
	}
	p.obj.Status = status
	p.st.told, p.st.unsaid, p.st.mended = p.req.Now, false, time.Time{}
	events := p.st.kept(changedEvents(was, p.obj.Status))
	if failed != nil || p.news.Known { // it is known how it stands
		events = append(events, p.st.reminder.fails(stillFailing(was, p.obj.Status)...)...)
		p.st.reminder = true
	}
	return next{after: p.after, events: p.st.unheard(events, p.obj.Status)}
}

// running tells whether the status says that an operation is under way.
func running(obj *argocdv1.Application) bool {
	s := obj.Status.OperationState
	return s != nil && !delivery.OperationPhase(s.Phase).Over()
}

// own takes in what the app owns when no operation is under way, and remembers how it was compared.
func (a *applications) own(p *applicationPass) {
	mem := &p.st.mem
	if !mem.Inventory.Equal(p.owned) {
		mem.Inventory = p.owned
		_, released := p.st.target.engine.Claims.Set(p.app.ID, claimed(p.declared, p.owned))
		a.released(released)
	}
	if err := a.records.Save(p.app.ID, mem); err != nil {
		a.log.Warn("remember a delivery", "error", err) // a restart will look closer
	}
}

// calmDown is how long the end of an operation is kept back for its objects to get healthy: most do in a moment, and one write
// tells both.
const calmDown = 3 * time.Second

// lull is how long a repair is kept back: what drifts often does so with others, and repairing them comes before writing about it.
const lull = time.Second

// hold tells how long news is kept back; zero: it is told now. An operation under way is told of once in a while; what is
// merely restless is told of once it lasts, and a repair once others have had theirs.
func (a *applications) hold(p *applicationPass) time.Duration {
	if p.urgent {
		return 0
	}
	if p.busy {
		p.st.working = time.Time{}
		return max(p.st.told.Add(haste).Sub(p.req.Now), 0)
	}
	if p.news.Health.Status != delivery.Progressing || !p.news.InSync {
		p.st.working = time.Time{}
		return p.st.breather(p.req.Now)
	}
	if p.st.working.IsZero() {
		p.st.working = p.req.Now
	}
	return max(p.st.working.Add(calmDown).Sub(p.req.Now), 0)
}

// breather is the rest of the time that a repair is kept back for; zero: there is none to tell of, or it is told now.
func (st *appState) breather(now time.Time) time.Duration {
	if !st.unsaid || !st.last.Request.Healing || st.last.Phase != delivery.OperationSucceeded {
		return 0
	}
	if st.mended.IsZero() {
		st.mended = now
	}
	return max(st.mended.Add(lull).Sub(now), 0)
}
