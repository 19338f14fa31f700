package dialect

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"
	_ "time/tzdata" // windows name time zones, and a container may have no list of them

	cron "github.com/netresearch/go-cron"

	argocdv1 "keelson.dev/keelson/api/argocd/v1alpha1"
	"keelson.dev/keelson/internal/delivery"
)

// window is a sync window as it stands at a time.
type window struct {
	*argocdv1.SyncWindow
	name   string // for people
	active bool
	change time.Time // when active may change next; zero: never
}

// windows tells what a project's sync windows say about the Application now (Argo CD: user-guide/sync_windows).
func (r *argoReader) windows(p *argocdv1.AppProject) {
	op := r.a.Status.OperationState
	out := &r.out.App.Sync.Windows
	now, started := r.standings(p, r.in.Now), []window(nil)
	running := op != nil && !delivery.OperationPhase(op.Phase).Over() && !op.StartedAt.IsZero()
	if running {
		started = r.standings(p, op.StartedAt.Time)
	}
	if len(now) == 0 {
		return
	}
	var why string
	out.Automated, why = allows(now, false)
	out.Manual, _ = allows(now, true)
	out.Why = why
	for _, w := range now {
		if !w.change.IsZero() && (out.Next.IsZero() || w.change.Before(out.Next)) {
			out.Next = w.change
		}
	}
	manual := op != nil && !op.Operation.InitiatedBy.Automated
	allowed, then := out.Automated, false
	if manual {
		allowed = out.Manual
	}
	if running {
		then, _ = allows(started, manual)
	}
	out.Overrun = allowed || running && then && overrun(now)
}

// standings gives the project's windows that are about the Application, at a time. One that cannot be read forbids everything, and is told of.
func (r *argoReader) standings(p *argocdv1.AppProject, at time.Time) (out []window) {
	for i := range p.Spec.SyncWindows {
		w := &p.Spec.SyncWindows[i]
		if !r.about(w) {
			continue
		}
		field := fmt.Sprintf("project '%s' spec.syncWindows[%d]", p.Name, i)
		s, zoned, err := standing(w, at)
		if err != nil {
			r.condition(argocdv1.ConditionSyncError, "%s: %v", field, err)
			s = window{SyncWindow: &argocdv1.SyncWindow{Kind: denies, Schedule: w.Schedule}, active: true, name: field + ", which cannot be read"}
		}
		if !zoned {
			r.ignored = append(r.ignored, fmt.Sprintf("%s.timeZone %q, which nobody knows: UTC is used", field, w.TimeZone))
		}
		out = append(out, s)
	}
	return out
}

const allowsKind, denies = "allow", "deny"

// schedules are read as Argo CD does: five fields, and a day counts that either of its two fields names.
var schedules = cron.MustNewParser(cron.Minute | cron.Hour | cron.Dom | cron.Month | cron.Dow | cron.DowOrDom)

// standing tells how a window stands; false: its time zone is not known.
func standing(w *argocdv1.SyncWindow, at time.Time) (s window, zoned bool, err error) {
	if w.Kind != allowsKind && w.Kind != denies {
		return s, true, fmt.Errorf("kind %q is neither allow nor deny", w.Kind)
	}
	if strings.ContainsAny(w.Schedule, "=@") { // time zones and names, which this library reads and Argo CD's does not
		return s, true, fmt.Errorf("schedule %q is not written as \"minute hour day month weekday\"", w.Schedule)
	}
	schedule, err := schedules.Parse(w.Schedule)
	if err != nil {
		return s, true, fmt.Errorf("schedule %q: %w", w.Schedule, err)
	}
	duration, err := time.ParseDuration(w.Duration)
	if err == nil && duration <= 0 {
		err = errors.New("it is not positive")
	}
	if err != nil {
		return s, true, fmt.Errorf("duration %q: %w", w.Duration, err)
	}
	zone, err := time.LoadLocation(w.TimeZone)
	zoned = err == nil
	if !zoned {
		zone = time.UTC
	}
	at = at.In(zone)
	s = window{SyncWindow: w}
	began := schedule.Next(at.Add(-duration))
	s.active = !began.IsZero() && !began.After(at)
	s.name = fmt.Sprintf("%s window %q for %s", w.Kind, w.Schedule, w.Duration)
	if s.active {
		end, known := ending(schedule, began, duration)
		if s.change = end.UTC(); known {
			s.name += ", until " + s.change.Format("2006-01-02 15:04 MST")
		}
	} else if began = schedule.Next(at); !began.IsZero() {
		s.change = began.UTC()
		if w.Kind == allowsKind {
			s.name += ", again at " + s.change.Format("2006-01-02 15:04 MST")
		}
	}
	return s, zoned, nil
}

// maxInARow bounds how many times a window is looked at that begins again before it has ended.
const maxInARow = 120

// ending is when a window that has begun ends: one that begins again before it has ended, as "* * * * *" for an hour, goes on. False: it
// goes on for longer than that, perhaps for ever.
func ending(schedule cron.Schedule, began time.Time, duration time.Duration) (end time.Time, known bool) {
	for range maxInARow {
		end = began.Add(duration)
		if began = schedule.Next(began); began.IsZero() || began.After(end) {
			return end, true
		}
	}
	return end, false
}

// about tells whether a window is about the Application: one of its lists names it or, with andOperator, all that it has do.
func (r *argoReader) about(w *argocdv1.SyncWindow) bool {
	d := r.spec.Destination
	any, all := false, true
	for _, list := range []struct {
		globs []string
		texts []string
	}{
		{w.Applications, []string{r.a.Name}}, {w.Clusters, []string{d.Name, d.Server}}, {w.Namespaces, []string{d.Namespace}},
	} {
		matched := slices.ContainsFunc(list.globs, func(glob string) bool {
			return slices.ContainsFunc(list.texts, func(text string) bool { return text != "" && delivery.MatchGlob(glob, text, "") })
		})
		any = any || matched
		all = all && (matched || len(list.globs) == 0)
	}
	return any && (all || !w.UseAndOperator)
}

// allows tells whether an operation may begin, and by which window not: an active one that denies is the strongest; where there are
// windows that allow, one of them has to be active.
func allows(windows []window, manual bool) (allowed bool, why string) {
	deny := filter(windows, func(w window) bool { return w.active && w.Kind == denies })
	closed := filter(windows, func(w window) bool { return !w.active && w.Kind == allowsKind })
	open := filter(windows, func(w window) bool { return w.active && w.Kind == allowsKind })
	switch {
	case len(deny) > 0:
		closed = deny
	case len(open) > 0 || len(closed) == 0:
		return true, ""
	}
	for _, w := range closed {
		if !manual || !w.ManualSync {
			return false, w.name
		}
	}
	return true, ""
}

// overrun tells whether the windows that forbid an operation let one end that has begun.
func overrun(windows []window) bool {
	forbidding := filter(windows, func(w window) bool { return w.active && w.Kind == denies })
	if len(forbidding) == 0 {
		forbidding = filter(windows, func(w window) bool { return !w.active && w.Kind == allowsKind })
	}
	return !slices.ContainsFunc(forbidding, func(w window) bool { return !w.SyncOverrun })
}

func filter(windows []window, keep func(window) bool) (out []window) {
	for _, w := range windows {
		if keep(w) {
			out = append(out, w)
		}
	}
	return out
}
