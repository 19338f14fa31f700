package appset

import (
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"

	argocdv1 "keelson.dev/keelson/api/argocd/v1alpha1"
)

// A rollout (strategy RollingSync; Argo CD: operator-manual/applicationset/Progressive-Syncs) syncs the Applications of a set
// step by step. Their own automation is off meanwhile; the set asks for each sync. How they come is known by their statuses
// alone: nothing here depends on how much time passes.

// How an Application stands in a rollout.
const (
	Waiting     = "Waiting"     // it is to be synced and its turn has not come
	Pending     = "Pending"     // it has been asked to sync
	Progressing = "Progressing" // it syncs, or gets healthy
	Healthy     = "Healthy"
)

// initiator is who asks for the syncs of a rollout; as in Argo CD.
const initiator = "applicationset-controller"

// Rollout is how a rollout stands.
type Rollout struct {
	Statuses   []argocdv1.ApplicationSetApplicationStatus // by name
	Conditions []argocdv1.ApplicationSetCondition         // RolloutProgressing and InvalidRolloutConfig
	Sync       map[string]*argocdv1.Operation             // what is to be asked of Applications now
}

// Rolls tells whether the Applications of a set are synced step by step.
func Rolls(set *argocdv1.ApplicationSet) bool {
	s := set.Spec.Strategy
	return s != nil && s.Type == "RollingSync" && s.RollingSync != nil
}

// Roll says how a rollout stands and what is next. live are the Applications of the set.
func Roll(set *argocdv1.ApplicationSet, got Generated, live []argocdv1.Application, jq Query, now time.Time) (Rollout, error) {
	r := &rollout{set: set, now: metav1.NewTime(now), desired: map[string]Application{}, live: map[string]*argocdv1.Application{}}
	for _, app := range got.Applications {
		r.desired[app.App.Name] = withoutAutomation(app)
	}
	for i := range live {
		r.live[live[i].Name] = &live[i]
	}
	r.assign(got.Applications)
	var err error
	if r.changed, err = r.changes(jq); err != nil {
		return Rollout{}, err
	}
	for _, name := range slices.Sorted(maps.Keys(r.live)) {
		r.statuses = append(r.statuses, r.status(r.live[name]))
	}
	if r.settled() {
		r.proceed()
	}
	return Rollout{
		Statuses: r.statuses, Sync: r.operations(got),
		Conditions: []argocdv1.ApplicationSetCondition{r.progressing(), r.configured()},
	}, nil
}

// WithoutAutomation gives what was generated with the automation of its Applications off, and what is asked of them.
func (r Rollout) WithoutAutomation(got Generated) Generated {
	out := got
	out.Applications = make([]Application, len(got.Applications))
	for i, app := range got.Applications {
		app = withoutAutomation(app)
		app.App.Operation = r.Sync[app.App.Name]
		out.Applications[i] = app
	}
	return out
}

// withoutAutomation gives an Application that does not sync by itself.
func withoutAutomation(app Application) Application {
	out := Application{App: app.App.DeepCopy(), Object: cloned(app.Object)}
	out.App.Unknown = app.App.Unknown
	if p := out.App.Spec.SyncPolicy; p != nil && p.Automated != nil {
		off := false
		p.Automated.Enabled = &off
		if automated, ok := dig(out.Object, "spec", "syncPolicy", "automated").(map[string]any); ok {
			automated["enabled"] = false
		}
	}
	return out
}

type rollout struct {
	set     *argocdv1.ApplicationSet
	now     metav1.Time
	desired map[string]Application // without automation
	live    map[string]*argocdv1.Application
	changed map[string]bool // the spec is another in the cluster

	steps    [][]string     // names of Applications
	step     map[string]int // of an Application: the first that selects it
	issues   issues
	statuses []argocdv1.ApplicationSetApplicationStatus
}

// issues are what is wrong with the steps.
type issues struct {
	operators []string
	twice     []string
	maxUpdate []string
	empty     []string
}

func (r *rollout) assign(apps []Application) {
	steps := r.set.Spec.Strategy.RollingSync.Steps
	r.steps, r.step = make([][]string, len(steps)), map[string]int{}
	for i, step := range steps {
		for _, m := range step.MatchExpressions {
			if m.Operator != "In" && m.Operator != "NotIn" {
				r.issues.operators = append(r.issues.operators, fmt.Sprintf("step %d: %q", i+1, m.Operator))
			}
		}
		for _, app := range apps {
			name := app.App.Name
			if !selected(step, app.App.Labels) {
				continue
			}
			r.steps[i] = append(r.steps[i], name)
			if first, ok := r.step[name]; ok {
				r.issues.twice = append(r.issues.twice, fmt.Sprintf("%s (steps %d and %d)", name, first+1, i+1))
				continue
			}
			r.step[name] = i
		}
		if len(r.steps[i]) == 0 {
			r.issues.empty = append(r.issues.empty, strconv.Itoa(i+1))
		}
	}
}

// selected tells whether a step is for Applications with these labels.
func selected(step argocdv1.RolloutStep, labels map[string]string) bool {
	for _, m := range step.MatchExpressions {
		value, has := labels[m.Key]
		among := has && slices.Contains(m.Values, value)
		switch m.Operator {
		case "In":
			if !among {
				return false
			}
		case "NotIn":
			if among {
				return false
			}
		default:
			return false
		}
	}
	return true
}

// number is a step as the status has it: from 1; -1 for an Application of none.
func (r *rollout) number(name string) string {
	if i, ok := r.step[name]; ok {
		return strconv.Itoa(i + 1)
	}
	return "-1"
}

// changes finds the Applications whose spec is not as it should be.
func (r *rollout) changes(jq Query) (map[string]bool, error) {
	out := map[string]bool{}
	for name, is := range r.live {
		want, ok := r.desired[name]
		if !ok {
			continue
		}
		before, after, err := compared(r.set, want, is, jq)
		if err != nil {
			return nil, err
		}
		if !reflect.DeepEqual(before["spec"], after["spec"]) {
			out[name] = true
		}
	}
	return out, nil
}

func revisionsOf(app *argocdv1.Application) []string {
	s := app.Status.Sync
	if len(s.Revisions) > 0 {
		return s.Revisions
	}
	if s.Revision != "" {
		return []string{s.Revision}
	}
	return []string{}
}

// stale tells whether an Application has not been compared yet as its spec is now.
func stale(app *argocdv1.Application) bool {
	to := app.Status.Sync.ComparedTo
	if app.Status.Sync.Status == "" {
		return true
	}
	if to.Source == nil && len(to.Sources) == 0 { // whoever compared it does not say with what
		return false
	}
	if len(app.Spec.Sources) > 0 {
		return !sameTree(to.Sources, app.Spec.Sources) || to.Destination != app.Spec.Destination
	}
	return !sameTree(to.Source, app.Spec.Source) || to.Destination != app.Spec.Destination
}

func sameTree(a, b any) bool {
	one, err1 := treeOf(map[string]any{"v": a})
	two, err2 := treeOf(map[string]any{"v": b})
	return err1 == nil && err2 == nil && reflect.DeepEqual(one, two)
}

// broken tells whether an Application cannot be compared or synced until somebody mends it.
func broken(app *argocdv1.Application, types ...string) bool {
	return slices.ContainsFunc(app.Status.Conditions, func(c argocdv1.ApplicationCondition) bool { return slices.Contains(types, c.Type) })
}

// status says how an Application stands, by how it stood.
func (r *rollout) status(app *argocdv1.Application) argocdv1.ApplicationSetApplicationStatus {
	s := argocdv1.ApplicationSetApplicationStatus{
		Application: app.Name, Status: Waiting, LastTransitionTime: &r.now, TargetRevisions: revisionsOf(app),
		Message: "No Application status found, defaulting status to Waiting",
	}
	for _, old := range r.set.Status.ApplicationStatus {
		if old.Application == app.Name {
			s = *old.DeepCopy()
		}
	}
	if s.TargetRevisions == nil {
		s.TargetRevisions = []string{}
	}
	s.Step = r.number(app.Name)
	to := func(status, message string) { s.Status, s.Message, s.LastTransitionTime = status, message, &r.now }

	revisions := revisionsOf(app)
	moved := len(revisions) > 0 && !slices.Equal(s.TargetRevisions, revisions)
	fresh := !stale(app)
	switch {
	case moved && r.changed[app.Name]:
		to(Waiting, "Application has pending changes (revision and spec differ), setting status to Waiting")
	case moved:
		to(Waiting, "Application has pending changes, setting status to Waiting")
	case r.changed[app.Name] && s.Status != Waiting:
		to(Waiting, "Application has pending changes (spec differs), setting status to Waiting")
	}
	if moved {
		s.TargetRevisions = revisions
	}
	synced := app.Status.Sync.Status == argocdv1.Synced && fresh && !r.changed[app.Name]
	healthy := app.Status.Health.Status == "Healthy"
	if s.Status == Waiting && synced {
		if healthy {
			to(Healthy, "Application resource has synced, updating status to Healthy")
		} else {
			to(Progressing, "Application resource has synced, updating status to Progressing")
		}
	}
	if s.Status == Pending {
		switch {
		case began(app, s):
			to(Progressing, "Application resource became Progressing, updating status from Pending to Progressing")
		case broken(app, argocdv1.ConditionInvalidSpecError, argocdv1.ConditionUnknownError):
			to(Progressing, "Application resource has error and cannot sync, updating status to Progressing")
		}
	}
	if s.Status == Progressing && synced && healthy {
		to(Healthy, "Application resource became Healthy, updating status from Progressing to Healthy")
	}
	return s
}

// began tells whether the sync that a rollout asked for has begun. Times have whole seconds: of one in the same second who asked
// for it decides.
func began(app *argocdv1.Application, s argocdv1.ApplicationSetApplicationStatus) bool {
	state := app.Status.OperationState
	if state == nil || s.LastTransitionTime == nil {
		return false
	}
	asked := s.LastTransitionTime.Truncate(time.Second)
	if started := state.StartedAt.Truncate(time.Second); !started.Equal(asked) {
		return started.After(asked)
	}
	sync := state.Operation.Sync
	if state.Operation.InitiatedBy.Username != initiator || sync == nil {
		return false
	}
	return slices.Equal(sync.Revisions, s.TargetRevisions) || len(s.TargetRevisions) > 0 && sync.Revision == s.TargetRevisions[0] ||
		len(s.TargetRevisions) == 0
}

// settled tells whether every Application has been compared with the newest there is: one that has heard of a commit first must
// not be synced before others that are to go ahead of it. Those that cannot be compared do not count.
func (r *rollout) settled() bool {
	seen := map[string]string{}
	for _, s := range r.statuses {
		app := r.live[s.Application]
		if broken(app, argocdv1.ConditionInvalidSpecError, argocdv1.ConditionUnknownError, argocdv1.ConditionComparisonError) ||
			app.Status.Sync.Status == argocdv1.SyncUnknown {
			continue
		}
		if stale(app) && app.Status.Sync.Status != "" {
			return false
		}
		sources := app.Spec.Sources
		if len(sources) == 0 && app.Spec.Source != nil {
			sources = []argocdv1.ApplicationSource{*app.Spec.Source}
		}
		revisions := revisionsOf(app)
		if len(revisions) != len(sources) {
			continue
		}
		for i, source := range sources {
			key := strings.Join([]string{source.RepoURL, source.TargetRevision, source.Chart}, "\n")
			if was, ok := seen[key]; ok && was != revisions[i] {
				return false
			}
			seen[key] = revisions[i]
		}
	}
	return true
}

// allowed lists the Applications whose turn it may be: those of the steps up to the first that is not healthy as a whole.
func (r *rollout) allowed() map[string]bool {
	out := map[string]bool{}
	for _, step := range r.steps {
		done := true
		for _, name := range step {
			out[name] = true
			done = done && slices.ContainsFunc(r.statuses, func(s argocdv1.ApplicationSetApplicationStatus) bool {
				return s.Application == name && s.Status == Healthy
			})
		}
		if !done {
			break
		}
	}
	return out
}

// proceed has Applications whose turn it is wait no longer, as many as a step allows at once.
func (r *rollout) proceed() {
	allowed := r.allowed()
	total, busy := make([]int, len(r.steps)), make([]int, len(r.steps))
	for _, s := range r.statuses {
		if i, ok := r.step[s.Application]; ok {
			total[i]++
			if s.Status == Pending || s.Status == Progressing {
				busy[i]++
			}
		}
	}
	most := make([]int, len(r.steps))
	for i := range r.steps {
		most[i] = r.most(i, total[i])
	}
	for i := range r.statuses {
		s := &r.statuses[i]
		step, ok := r.step[s.Application]
		app := r.live[s.Application]
		if !ok || s.Status != Waiting || !allowed[s.Application] || busy[step] >= most[step] ||
			r.changed[s.Application] || stale(app) { // it is written first, and compared
			continue
		}
		busy[step]++
		s.Status, s.LastTransitionTime = Pending, &r.now
		s.Message = "Application moved to Pending status, watching for the Application resource to start Progressing"
	}
}

// most is how many Applications of a step may be under way at once.
func (r *rollout) most(step, total int) int {
	limit := r.set.Spec.Strategy.RollingSync.Steps[step].MaxUpdate
	if limit == nil {
		return total
	}
	n, err := intstr.GetScaledValueFromIntOrPercent(limit, total, false)
	if err != nil || n < 0 {
		r.issues.maxUpdate = append(r.issues.maxUpdate, fmt.Sprintf("step %d: %q", step+1, limit.String()))
		return 1
	}
	if limit.Type == intstr.String && limit.StrVal != "0%" {
		n = max(n, 1)
	}
	return n
}

// operations gives the syncs that are to be asked for: of what is pending and has not been asked yet.
func (r *rollout) operations(got Generated) map[string]*argocdv1.Operation {
	out := map[string]*argocdv1.Operation{}
	for _, app := range got.Applications {
		name := app.App.Name
		for _, s := range r.statuses {
			if s.Application == name && s.Status == Pending && r.live[name].Operation == nil && !r.changed[name] {
				out[name] = operationFor(app.App, s.TargetRevisions)
			}
		}
	}
	return out
}

// operationFor is a sync of the revisions that the Application stood at when its turn came.
func operationFor(app *argocdv1.Application, revisions []string) *argocdv1.Operation {
	op := &argocdv1.Operation{
		InitiatedBy: argocdv1.OperationInitiator{Username: initiator, Automated: true},
		Info:        []argocdv1.Info{{Name: "Reason", Value: "ApplicationSet RollingSync triggered a sync of this Application resource"}},
		Sync:        &argocdv1.SyncOperation{},
		Retry:       argocdv1.RetryStrategy{Limit: 5},
	}
	switch {
	case len(app.Spec.Sources) > 0:
		op.Sync.Revisions = revisions
	case len(revisions) > 0:
		op.Sync.Revision = revisions[0]
	}
	if p := app.Spec.SyncPolicy; p != nil {
		if p.Retry != nil {
			op.Retry = *p.Retry
		}
		op.Sync.SyncOptions = p.SyncOptions
		if a := p.Automated; a != nil && (a.Enabled == nil || *a.Enabled) && a.Prune != nil {
			op.Sync.Prune = *a.Prune
		}
	}
	return op
}

func (r *rollout) progressing() argocdv1.ApplicationSetCondition {
	healthy := map[string]bool{}
	for _, s := range r.statuses {
		healthy[s.Application] = s.Status == Healthy
	}
	for i, step := range r.steps {
		for _, name := range step {
			if !healthy[name] {
				return argocdv1.ApplicationSetCondition{
					Type: ConditionRollout, Status: "True", Reason: "ApplicationSetModified",
					Message: "ApplicationSet is performing rollout of step " + strconv.Itoa(i+1),
				}
			}
		}
	}
	return argocdv1.ApplicationSetCondition{
		Type: ConditionRollout, Status: "False", Reason: "ApplicationSetRolloutComplete", Message: "ApplicationSet Rollout has completed",
	}
}

func (r *rollout) configured() argocdv1.ApplicationSetCondition {
	var what string
	switch i := r.issues; {
	case len(i.operators) > 0:
		what = "matchExpressions with an operator that is neither In nor NotIn: " + strings.Join(i.operators, ", ")
	case len(i.twice) > 0:
		what = "Applications that are selected by more than one step: " + strings.Join(i.twice[:min(len(i.twice), maxNamed)], ", ")
	case len(i.maxUpdate) > 0:
		what = "maxUpdate is neither a number nor a percentage: " + strings.Join(i.maxUpdate, ", ")
	case len(i.empty) > 0:
		what = "steps without Applications: " + strings.Join(i.empty, ", ")
	default:
		return argocdv1.ApplicationSetCondition{
			Type: ConditionRolloutConfig, Status: "False", Reason: "ApplicationSetValidRolloutConfig", Message: "Rolling Sync Configured correctly",
		}
	}
	return argocdv1.ApplicationSetCondition{
		Type: ConditionRolloutConfig, Status: "True", Reason: "ApplicationSetInvalidRolloutConfig", Message: what,
	}
}

// maxNamed bounds how many Applications a message names.
const maxNamed = 5

// Reversed tells whether the Applications of a set that is deleted go step by step, the last first.
func Reversed(set *argocdv1.ApplicationSet) bool {
	return Rolls(set) && len(set.Spec.Strategy.RollingSync.Steps) > 0 && strings.EqualFold(set.Spec.Strategy.DeletionOrder, "Reverse")
}

// NextDeletions lists the Applications of a set that is deleted which are to go now: those of the last step that any is left of.
// The rest wait for them; left tells how many Applications of steps are left.
func NextDeletions(set *argocdv1.ApplicationSet, live []argocdv1.Application) (names []string, left int) {
	steps := set.Spec.Strategy.RollingSync.Steps
	byStep := make([][]string, len(steps))
	for i := range live {
		app := &live[i]
		if !Owns(set, app) {
			continue
		}
		for j, step := range steps {
			if selected(step, app.Labels) {
				byStep[j] = append(byStep[j], app.Name)
				left++
				break
			}
		}
	}
	for i := len(byStep) - 1; i >= 0; i-- {
		if len(byStep[i]) > 0 {
			slices.Sort(byStep[i])
			return byStep[i], left
		}
	}
	return nil, 0
}
