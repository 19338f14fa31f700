package ci

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"
	_ "time/tzdata" // a machine may have no list of time zones

	cron "github.com/netresearch/go-cron"

	"keelson.dev/keelson/internal/pipeline"
	"keelson.dev/keelson/internal/store"
)

// Schedule makes pipelines of a project at certain times.
type Schedule struct {
	Name      string // CI_PIPELINE_SCHEDULE_DESCRIPTION
	Cron      string // minute, hour, day of the month, month, day of the week
	Zone      string // empty: UTC
	Ref       string // branch or tag; empty: the default branch
	Variables pipeline.Variables
	Suspended bool
}

// Upcoming is how a schedule stands.
type Upcoming struct {
	Project   string    `json:"project"` // path
	Name      string    `json:"name"`
	Cron      string    `json:"cron"`
	Zone      string    `json:"zone"`
	Ref       string    `json:"ref,omitempty"`
	Suspended bool      `json:"suspended,omitempty"`
	Next      time.Time `json:"next,omitzero"`
	Pipeline  int64     `json:"pipeline,omitempty"` // the last one
	Problem   string    `json:"problem,omitempty"`  // why it is never due, or why it made no pipeline when it was due last
}

const (
	// catchUp is how late a schedule may make the pipeline that was due last while nothing was played.
	catchUp = 24 * time.Hour
	// schedulePause is how often one looks whether something is due, at least: clocks are set, and machines sleep.
	schedulePause = time.Minute
	// commandSchedule is the kind of the command that makes the pipeline of a schedule.
	commandSchedule = "schedule"
)

// crontab reads a schedule as cron does: a day counts that either of its two fields names.
var crontab = cron.MustNewParser(cron.Minute | cron.Hour | cron.Dom | cron.Month | cron.Dow | cron.DowOrDom | cron.DowNth | cron.DowLast | cron.DomL)

// descriptors are the names that stand for a schedule.
var descriptors = map[string]string{
	"@yearly": "0 0 1 1 *", "@annually": "0 0 1 1 *", "@monthly": "0 0 1 * *", "@weekly": "0 0 * * 0", "@daily": "0 0 * * *", "@midnight": "0 0 * * *", "@hourly": "0 * * * *",
}

// parse reads when a schedule is due. An error is for whoever has written it.
func (c Schedule) parse() (cron.Schedule, *time.Location, error) {
	zone, err := time.LoadLocation(cmp.Or(c.Zone, "UTC"))
	if err != nil || c.Zone == "Local" {
		return nil, nil, fmt.Errorf("schedule %s: %q is no time zone; write one as Europe/Berlin", c.Name, c.Zone)
	}
	text := strings.TrimSpace(c.Cron)
	if full, ok := descriptors[text]; ok {
		text = full
	}
	if strings.ContainsAny(text, "=@") { // a zone, or what is not a minute's matter
		return nil, nil, fmt.Errorf("schedule %s: %q is not written as \"minute hour day month weekday\"", c.Name, c.Cron)
	}
	when, err := crontab.Parse(text)
	if err != nil {
		return nil, nil, fmt.Errorf("schedule %s: %q is not written as \"minute hour day month weekday\": %w", c.Name, c.Cron, err)
	}
	return when, zone, nil
}

// planned is a schedule that is kept.
type planned struct {
	Upcoming
	known store.Schedule
	when  cron.Schedule // nil: it is never due
	zone  *time.Location
}

// after is when it is due next.
func (p *planned) after(t time.Time) time.Time {
	if p.when == nil {
		return time.Time{}
	}
	next := p.when.Next(t.In(p.zone))
	if next.IsZero() {
		return next
	}
	return next.UTC()
}

// last is when it was due last, of what is not done and not too old; zero: it was not.
func (p *planned) last(now time.Time) (due time.Time) {
	from := p.known.Seen
	if oldest := now.Add(-catchUp); from.Before(oldest) {
		from = oldest
	}
	for next := p.after(from); !next.IsZero() && !next.After(now); next = p.after(next) { // a day has 1440 minutes
		due = next
	}
	return due
}

// calendar is what is due when.
type calendar struct {
	mu   sync.Mutex
	all  map[string]map[string]*planned // path of the project -> name
	wake chan struct{}
}

func newCalendar() *calendar {
	return &calendar{all: map[string]map[string]*planned{}, wake: make(chan struct{}, 1)}
}

func (c *calendar) poke() {
	select {
	case c.wake <- struct{}{}:
	default:
	}
}

// KeepSchedules takes in the schedules of a project as they are declared now, and tells how they stand. The error is about those that are
// written wrongly, and those that cannot be kept.
func (s *Server) KeepSchedules(ctx context.Context, p Project) ([]Upcoming, error) {
	if len(p.Schedules) == 0 && !s.calendar.has(p.Path) {
		if _, err := s.o.Store.Project(ctx, p.Path); errors.Is(err, store.ErrNotFound) {
			return nil, nil
		}
	}
	numbered, err := s.o.Store.EnsureProject(ctx, p.Path)
	if err != nil {
		return nil, err
	}
	all := map[string]*planned{}
	var errs []error
	var names []string
	for _, c := range p.Schedules {
		entry := &planned{Upcoming: Upcoming{
			Project: p.Path, Name: c.Name, Cron: c.Cron, Zone: cmp.Or(c.Zone, "UTC"), Ref: c.Ref, Suspended: c.Suspended || p.Suspended,
		}}
		when, zone, err := c.parse()
		if err == nil {
			names = append(names, c.Name)
			spec := entry.Zone + " " + c.Cron
			if entry.Suspended {
				spec = "suspended"
			}
			entry.known, err = s.o.Store.KeepSchedule(ctx, numbered.ID, c.Name, spec)
		}
		if err != nil {
			entry.Problem = err.Error()
			errs = append(errs, err)
		} else if !entry.Suspended {
			entry.when, entry.zone = when, zone
		}
		entry.Pipeline = entry.known.Pipeline
		all[c.Name] = entry
	}
	errs = append(errs, s.o.Store.ForgetSchedules(ctx, numbered.ID, names...))
	return s.calendar.put(p.Path, all, s.o.Now()), errors.Join(errs...)
}

// ForgetSchedules forgets those of a project that is gone.
func (s *Server) ForgetSchedules(ctx context.Context, path string) error {
	s.calendar.put(path, nil, s.o.Now())
	p, err := s.o.Store.Project(ctx, path)
	if errors.Is(err, store.ErrNotFound) {
		return nil
	}
	if err == nil {
		err = s.o.Store.ForgetSchedules(ctx, p.ID)
	}
	return err
}

func (c *calendar) has(path string) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return len(c.all[path]) > 0
}

// put takes in the schedules of a project, and gives them in the order of their names.
func (c *calendar) put(path string, all map[string]*planned, now time.Time) []Upcoming {
	c.mu.Lock()
	defer c.mu.Unlock()
	defer c.poke()
	for name, p := range all {
		if old := c.all[path][name]; old != nil && p.Problem == "" && old.known.Spec == p.known.Spec {
			p.Problem = old.Problem
		}
		if p.Next = p.after(p.known.Seen); p.Next.Before(now) {
			p.Next = p.after(now)
			if due := p.last(now); !due.IsZero() {
				p.Next = due
			}
		}
	}
	delete(c.all, path)
	if len(all) > 0 {
		c.all[path] = all
	}
	return c.listed(path)
}

func (c *calendar) listed(path string) []Upcoming {
	var out []Upcoming
	for _, name := range slices.Sorted(maps.Keys(c.all[path])) {
		out = append(out, c.all[path][name].Upcoming)
	}
	return out
}

// Schedules tells how all schedules stand, or those of a project.
func (s *Server) Schedules(project string) []Upcoming {
	c := s.calendar
	c.mu.Lock()
	defer c.mu.Unlock()
	if project != "" {
		return c.listed(project)
	}
	var out []Upcoming
	for _, path := range slices.Sorted(maps.Keys(c.all)) {
		out = append(out, c.listed(path)...)
	}
	return out
}

// keepTime has pipelines made when they are due.
func (s *Server) keepTime(ctx context.Context) {
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-timer.C:
		case <-s.calendar.wake:
		}
		s.lookAtTime(ctx)
		wait := schedulePause
		if next, ok := s.calendar.next(); ok {
			wait = min(wait, max(next.Sub(s.o.Now()), 0))
		}
		timer.Reset(max(wait, 10*time.Millisecond)) // a clock that stands is asked no faster
	}
}

func (c *calendar) next() (first time.Time, ok bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, all := range c.all {
		for _, p := range all {
			if !p.Next.IsZero() && (!ok || p.Next.Before(first)) {
				first, ok = p.Next, true
			}
		}
	}
	return first, ok
}

// lookAtTime puts commands into the queue for what is due.
func (s *Server) lookAtTime(ctx context.Context) {
	now := s.o.Now()
	type ripe struct {
		project, name string
		known         store.Schedule
		due           time.Time
	}
	var all []ripe
	c := s.calendar
	c.mu.Lock()
	for path, entries := range c.all {
		for name, p := range entries {
			if p.Next.IsZero() || p.Next.After(now) {
				continue
			}
			if due := p.last(now); !due.IsZero() {
				all = append(all, ripe{path, name, p.known, due})
			}
			p.Next = p.after(now)
		}
	}
	c.mu.Unlock()
	for _, r := range all {
		args, err := json.Marshal(due{Project: r.project, Name: r.name, At: r.due})
		taken := false
		if err == nil {
			taken, err = s.o.Store.Due(ctx, r.known, r.due, store.Command{Kind: commandSchedule, Project: r.known.Project, Args: args})
		}
		if err != nil && ctx.Err() == nil {
			s.o.Log.Error("make the pipeline of a schedule; it is tried again", "project", r.project, "schedule", r.name, "error", err)
		}
		c.change(r.project, r.name, func(p *planned) {
			switch {
			case err != nil:
				p.Next = now.Add(schedulePause)
			case taken && p.known.Spec == r.known.Spec:
				p.known.Seen = r.due
			}
		})
	}
}

// change changes a schedule that is still there.
func (c *calendar) change(project, name string, change func(*planned)) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if p := c.all[project][name]; p != nil {
		change(p)
	}
}

// due are the arguments of a command for a schedule.
type due struct {
	Project string    `json:"project"`
	Name    string    `json:"name"`
	At      time.Time `json:"at"`
}

// queueSchedule makes the pipeline of a schedule that was due, and answers the command.
func (s *Server) queueSchedule(c store.Command) {
	var d due
	if err := json.Unmarshal(c.Args, &d); err != nil {
		s.o.Log.Error("read what a schedule is to do", "error", err)
	}
	s.queue("schedules of "+d.Project, func(ctx context.Context) {
		refusal := ""
		var made store.Pipeline
		var err error
		if !s.again(ctx, c.Created, "make the pipeline of a schedule", d.Project, func() error {
			made, err = s.scheduled(ctx, d, c.Created, "")
			if isFinal(err) {
				return nil
			}
			return err
		}) {
			return // the next process does what is left
		}
		if err != nil {
			refusal = err.Error()
			s.o.Log.Warn("a schedule makes no pipeline", "project", d.Project, "schedule", d.Name, "why", refusal)
		}
		s.calendar.change(d.Project, d.Name, func(p *planned) {
			p.Problem = refusal
			if made.ID != 0 {
				p.Pipeline = made.ID
			}
		})
		if err := s.o.Store.Answer(ctx, c.ID, refusal); err != nil {
			s.o.Log.Error("answer a schedule", "project", d.Project, "error", err)
		}
		if s.o.News != nil {
			s.o.News(d.Project)
		}
	})
}

// PlaySchedule makes the pipeline of a schedule now, for a person.
func (s *Server) PlaySchedule(ctx context.Context, project, name, user string) (store.Pipeline, error) {
	made, err := s.scheduled(ctx, due{Project: project, Name: name}, time.Time{}, user)
	if err == nil && s.o.News != nil {
		s.calendar.change(project, name, func(p *planned) { p.Pipeline = made.ID })
		s.o.News(project)
	}
	return made, err
}

// scheduled makes the pipeline of a schedule, with what the schedule says now.
func (s *Server) scheduled(ctx context.Context, d due, asked time.Time, user string) (store.Pipeline, error) {
	p, err := s.o.Projects.Named(ctx, d.Project)
	if err != nil {
		return store.Pipeline{}, fmt.Errorf("project %s: %w", d.Project, err)
	}
	at := slices.IndexFunc(p.Schedules, func(c Schedule) bool { return c.Name == d.Name })
	switch {
	case at < 0:
		return store.Pipeline{}, finalError{fmt.Errorf("project %s has no schedule %s", d.Project, d.Name)}
	case user == "" && (p.Suspended || p.Schedules[at].Suspended):
		return store.Pipeline{}, finalError{errors.New("it is suspended")}
	}
	schedule := p.Schedules[at]
	if made, ok, err := s.madeByDue(ctx, d, asked); ok || err != nil {
		if ok {
			err = s.playOn(ctx, p, made)
		}
		return made, err
	}
	e := Event{Project: d.Project, Source: pipeline.SourceSchedule, User: user, Schedule: d.Name, Due: d.At, Variables: schedule.Variables, IgnoreSkip: true}
	if e.Ref, err = FullRef(p, schedule.Ref); err != nil {
		return store.Pipeline{}, finalError{err}
	}
	made, err := s.Create(ctx, e)
	if err != nil {
		return store.Pipeline{}, err
	}
	if err := s.o.Store.Scheduled(ctx, made.Project, d.Name, made.ID); err != nil {
		s.o.Log.Error("keep the pipeline of a schedule", "pipeline", made.ID, "error", err)
	}
	return made, nil
}

// madeByDue finds the pipeline that a process which has ended since has made already.
func (s *Server) madeByDue(ctx context.Context, d due, asked time.Time) (store.Pipeline, bool, error) {
	if d.At.IsZero() {
		return store.Pipeline{}, false, nil
	}
	numbered, err := s.o.Store.Project(ctx, d.Project)
	if errors.Is(err, store.ErrNotFound) {
		return store.Pipeline{}, false, nil
	}
	if err != nil {
		return store.Pipeline{}, false, err
	}
	rows, err := s.o.Store.Pipelines(ctx, store.PipelineFilter{Project: numbered.ID, Source: pipeline.SourceSchedule, Top: true, Limit: 20})
	if err != nil {
		return store.Pipeline{}, false, err
	}
	for _, row := range rows {
		if row.Created.Before(asked) {
			break
		}
		from, err := s.o.Store.Saved(ctx, row.ID)
		var e Event
		if err == nil && json.Unmarshal(from.Event, &e) == nil && e.Schedule == d.Name && e.Due.Equal(d.At) {
			return row, true, nil
		}
	}
	return store.Pipeline{}, false, nil
}
