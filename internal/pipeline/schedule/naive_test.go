package schedule

import (
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"reflect"
	"slices"
	"testing"
	"time"

	"keelson.dev/keelson/internal/pipeline"
)

// naive is the scheduler as the rules are told: after each event it looks at every job of every stage, from the first to the last,
// and takes the statuses of all others together anew. It counts nothing.
type naive struct {
	g        *pipeline.Graph
	status   []pipeline.Status
	allowed  []bool
	attempt  []int
	at       []bool // immediate
	stages   map[string]pipeline.Status
	pipeline pipeline.Status
}

func newNaive(g *pipeline.Graph) *naive {
	n := &naive{g: g, stages: map[string]pipeline.Status{}, pipeline: "created"}
	for _, j := range g.Jobs {
		n.status = append(n.status, "created")
		n.allowed = append(n.allowed, j.AllowFailure.Allowed && len(j.AllowFailure.ExitCodes) == 0)
		n.attempt = append(n.attempt, 1)
		n.at = append(n.at, false)
	}
	for _, s := range g.Stages {
		n.stages[s] = "created"
	}
	n.process()
	return n
}

// status of several jobs, in words.
func (n *naive) of(jobs []int, dag bool) pipeline.Status {
	has := map[string]bool{}
	for _, i := range jobs {
		s := string(n.status[i])
		if n.allowed[i] && (s == "failed" || s == "canceled") {
			s = "warned"
		}
		if n.allowed[i] && s == "manual" {
			s = "ignored"
		}
		has[s] = true
	}
	only := func(names ...string) bool {
		for s := range has {
			if !slices.Contains(names, s) {
				return false
			}
		}
		return true
	}
	switch {
	case len(has) == 0:
		return "success"
	case dag && (has["skipped"] || has["ignored"]):
		return "skipped"
	case only("skipped", "ignored"):
		return "skipped"
	case only("success", "skipped", "warned", "ignored"):
		return "success"
	case only("created", "warned", "ignored"):
		return "created"
	case only("preparing", "warned", "ignored"):
		return "preparing"
	case only("canceled", "success", "skipped", "warned", "ignored"):
		return "canceled"
	case only("pending", "created", "skipped", "warned", "ignored"):
		return "pending"
	case has["running"] || has["pending"]:
		return "running"
	}
	for _, s := range []string{"waiting_for_resource", "waiting_for_callback", "manual", "scheduled", "preparing"} {
		if has[s] {
			return pipeline.Status(s)
		}
	}
	switch {
	case has["created"]:
		return "running"
	case has["canceling"]:
		return "canceling"
	}
	return "failed"
}

func (n *naive) stage(i int) int { return slices.Index(n.g.Stages, n.g.Jobs[i].Stage) }

func (n *naive) needs(i int) (jobs []int) {
	for _, need := range n.g.Jobs[i].Needs {
		if k := slices.IndexFunc(n.g.Jobs, func(j pipeline.Job) bool { return j.Name == need.Job }); k >= 0 {
			jobs = append(jobs, k)
		}
	}
	return jobs
}

func (n *naive) process() {
	for at, name := range n.g.Stages {
		for i := range n.g.Jobs { // the graphs of the test name needs before the jobs that need them
			if n.stage(i) == at && n.status[i] == "created" {
				n.decide(i)
			}
		}
		var of []int
		for i := range n.g.Jobs {
			if n.stage(i) == at {
				of = append(of, i)
			}
		}
		if s := n.of(of, false); s != "created" {
			n.stages[name] = s
		}
	}
	var all []int
	for i := range n.g.Jobs {
		all = append(all, i)
	}
	switch s := n.of(all, false); {
	case s == "created":
	case s == "pending" && slices.Contains([]pipeline.Status{"success", "failed", "canceled", "canceling", "running"}, n.pipeline):
		n.pipeline = "running"
	case s == "canceling" && n.pipeline == "canceled":
	default:
		n.pipeline = s
	}
}

func (n *naive) decide(i int) {
	j, jobs := n.g.Jobs[i], []int(nil)
	if j.DAG {
		jobs = n.needs(i)
	} else {
		for k := range n.g.Jobs {
			if n.stage(k) < n.stage(i) {
				jobs = append(jobs, k)
			}
		}
	}
	before := n.of(jobs, j.DAG)
	if !before.Completed() {
		return
	}
	var starts []pipeline.Status
	switch {
	case j.When == pipeline.OnFailure:
		starts = []pipeline.Status{"failed"}
	case j.When == pipeline.Always:
		starts = []pipeline.Status{"success", "failed", "skipped"}
	case j.DAG:
		starts = []pipeline.Status{"success"}
	default:
		starts = []pipeline.Status{"success", "skipped"}
	}
	switch {
	case !slices.Contains(starts, before):
		n.status[i] = "skipped"
	case n.at[i]:
		n.enqueue(i)
	case j.When == pipeline.Delayed:
		n.status[i] = "scheduled"
	case j.When == pipeline.Manual:
		n.status[i] = "manual"
	default:
		n.enqueue(i)
	}
}

func (n *naive) enqueue(i int) {
	n.status[i] = "pending"
	if n.g.Jobs[i].ResourceGroup != "" {
		n.status[i] = "waiting_for_resource"
	}
}

func (n *naive) again(i int, immediate bool) {
	a := n.g.Jobs[i].AllowFailure
	n.status[i], n.allowed[i], n.at[i] = "created", a.Allowed && len(a.ExitCodes) == 0, immediate
	n.attempt[i]++
}

// dependants of a job through needs, itself among them.
func (n *naive) needing(i int, seen map[int]bool) {
	if seen[i] {
		return
	}
	seen[i] = true
	for k := range n.g.Jobs {
		if n.g.Jobs[k].DAG && slices.Contains(n.needs(k), i) {
			n.needing(k, seen)
		}
	}
}

func (n *naive) reopen(i int) {
	needing := map[int]bool{}
	n.needing(i, needing)
	for k := range n.g.Jobs {
		if n.status[k] == "skipped" && (needing[k] || n.stage(k) > n.stage(i)) {
			n.status[k] = "created"
		}
	}
}

// apply takes an event of one job or of the pipeline that State.Apply has taken.
func (n *naive) apply(e Event) {
	i := -1
	if len(e.Jobs) > 0 {
		i = slices.IndexFunc(n.g.Jobs, func(j pipeline.Job) bool { return j.Name == e.Jobs[0] })
	}
	switch e.Kind {
	case Play:
		if n.status[i].Completed() {
			n.again(i, true)
		} else {
			n.enqueue(i)
		}
		n.reopen(i)
	case Enqueue, Due:
		n.enqueue(i)
	case Grant:
		n.status[i] = "pending"
	case Run:
		n.status[i] = "running"
	case Success:
		n.status[i] = map[bool]pipeline.Status{true: "canceled", false: "success"}[n.status[i] == "canceling"]
	case Drop:
		n.drop(i, e)
	case Cancel:
		for k := range n.g.Jobs {
			if (i < 0 || k == i) && (i >= 0 || !e.Interruptible || n.g.Jobs[k].Interruptible) {
				n.cancel(k)
			}
		}
	case Retry:
		if i >= 0 {
			n.again(i, true)
			n.reopen(i)
			break
		}
		for k := range n.g.Jobs {
			switch n.status[k] {
			case "failed", "canceled":
				n.again(k, false)
			case "skipped":
				n.status[k] = "created"
			}
		}
	case Unschedule:
		n.status[i] = "manual"
	}
	n.process()
}

func (n *naive) cancel(k int) {
	switch {
	case n.status[k] == "running":
		n.status[k] = "canceling"
	case n.status[k] != "canceling" && !n.status[k].Completed():
		n.status[k] = "canceled"
	}
}

func (n *naive) drop(i int, e Event) {
	j := n.g.Jobs[i]
	if n.status[i] == "canceling" {
		n.status[i] = "canceled"
		return
	}
	n.status[i] = "failed"
	if e.ExitCode != 0 && j.AllowFailure.Allows(e.ExitCode) {
		n.allowed[i] = true
	}
	if n.attempt[i] <= j.Retry.Max {
		n.again(i, true)
		n.reopen(i)
		return
	}
	if n.g.AutoCancel.OnJobFailure == "all" && !n.allowed[i] {
		for k := range n.g.Jobs {
			n.cancel(k)
		}
	}
}

// randomGraph makes a small pipeline of anything that the rules know.
func randomGraph(r *rand.Rand) *pipeline.Graph {
	g := &pipeline.Graph{}
	if r.IntN(5) == 0 {
		g.AutoCancel.OnJobFailure = "all"
	}
	for s := range 1 + r.IntN(5) {
		g.Stages = append(g.Stages, fmt.Sprint("stage", s))
		for range 1 + r.IntN(4) {
			j := pipeline.Job{
				Name: fmt.Sprint("job", len(g.Jobs)), Stage: g.Stages[s],
				When:          []pipeline.When{"on_success", "on_success", "on_success", "manual", "always", "on_failure", "delayed"}[r.IntN(7)],
				StartIn:       pipeline.Duration(time.Minute),
				Interruptible: r.IntN(2) == 0,
			}
			switch r.IntN(6) {
			case 0, 1:
				j.AllowFailure.Allowed = true
			case 2:
				j.AllowFailure = pipeline.AllowFailure{Allowed: true, ExitCodes: []int{1}}
			}
			if r.IntN(6) == 0 {
				j.Retry.Max = 1 + r.IntN(2)
			}
			if r.IntN(6) == 0 {
				j.ResourceGroup = "group"
			}
			if r.IntN(2) == 0 {
				j.DAG = true
				for k := range g.Jobs {
					if r.IntN(3) == 0 {
						j.Needs = append(j.Needs, pipeline.Need{Job: g.Jobs[k].Name})
					}
				}
				if r.IntN(8) == 0 {
					j.Needs = append(j.Needs, pipeline.Need{Job: "gone", Optional: true})
				}
			}
			g.Jobs = append(g.Jobs, j)
		}
	}
	return g
}

var kinds = []Kind{Run, Run, Success, Success, Success, Drop, Drop, Grant, Grant, Due, Play, Cancel, Retry, Enqueue, Unschedule}

func randomEvent(r *rand.Rand, s *State, now time.Time) Event {
	e := Event{Kind: kinds[r.IntN(len(kinds))], At: now, ExitCode: r.IntN(3)}
	if (e.Kind == Cancel || e.Kind == Retry) && r.IntN(3) == 0 {
		e.Interruptible = r.IntN(2) == 0
		return e
	}
	e.Jobs = []string{s.Jobs[r.IntN(len(s.Jobs))].Name}
	return e
}

// TestAgainstTheRules plays random events on random graphs, and holds the state against one that is made anew from the rules.
func TestAgainstTheRules(t *testing.T) {
	for seed := range uint64(800) {
		againstTheRules(t, seed, 1)
	}
}

// FuzzAgainstTheRules does so for other seeds.
func FuzzAgainstTheRules(f *testing.F) {
	f.Add(uint64(1), uint64(2))
	f.Fuzz(func(t *testing.T, a, b uint64) { againstTheRules(t, a, b) })
}

func againstTheRules(t *testing.T, seed, other uint64) {
	t.Helper()
	r := rand.New(rand.NewPCG(seed, other))
	g := randomGraph(r)
	s, n, now := New(g, time.Unix(0, 0)), newNaive(g), time.Unix(0, 0)
	events := []Event{{Kind: "init"}}
	for step := 0; ; step++ {
		err := compare(s, n)
		if err == nil {
			err = sound(s)
		}
		if err != nil {
			show(t, seed, g, events)
			t.Fatal(err)
		}
		if step == 60 {
			return
		}
		now = now.Add(time.Hour)
		e := randomEvent(r, s, now)
		before := s.Clone()
		changes, err := s.Apply(e)
		if err != nil {
			if !same(before, s) {
				t.Fatalf("seed %d: %v changed the state although it failed: %v", seed, e, err)
			}
			continue
		}
		events = append(events, e)
		if err := replay(before, s, changes); err != nil {
			show(t, seed, g, events)
			t.Fatal(err)
		}
		n.apply(e)
		if r.IntN(10) == 0 {
			s = resumed(t, g, s)
		}
	}
}

// FuzzResume reads what is no state.
func FuzzResume(f *testing.F) {
	g := randomGraph(rand.New(rand.NewPCG(1, 1)))
	data, err := json.Marshal(New(g, time.Unix(0, 0)))
	if err != nil {
		f.Fatal(err)
	}
	f.Add(data)
	f.Add([]byte(`{"jobs":[{"name":"job0","status":"running"}]}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		s, err := Resume(g, data)
		if err != nil {
			return
		}
		for _, e := range []Event{{Kind: Cancel}, {Kind: Retry}, {Kind: Due, At: time.Unix(1<<40, 0)}} {
			if _, err := s.Apply(e); err != nil {
				continue
			}
			if err := sound(s); err != nil && !errors.Is(err, errWaits) {
				t.Fatal(err)
			}
		}
	})
}

func show(t *testing.T, seed uint64, g *pipeline.Graph, events []Event) {
	t.Helper()
	for _, j := range g.Jobs {
		t.Logf("%s %s %s dag=%v %v allow=%v retry=%d group=%s", j.Name, j.Stage, j.When, j.DAG, j.Needs, j.AllowFailure, j.Retry.Max, j.ResourceGroup)
	}
	for _, e := range events {
		t.Logf("%s %v", e.Kind, e.Jobs)
	}
	t.Logf("seed %d", seed)
}

func compare(s *State, n *naive) error {
	for i := range s.Jobs {
		if s.Jobs[i].Status != n.status[i] || s.Jobs[i].Attempt != n.attempt[i] || s.Jobs[i].Allowed != n.allowed[i] {
			return fmt.Errorf("%s is %s (attempt %d), by the rules %s (attempt %d)", s.Jobs[i].Name, s.Jobs[i].Status, s.Jobs[i].Attempt, n.status[i], n.attempt[i])
		}
	}
	for _, st := range s.Stages {
		if st.Status != n.stages[st.Name] {
			return fmt.Errorf("%s is %s, by the rules %s", st.Name, st.Status, n.stages[st.Name])
		}
	}
	if s.Status != n.pipeline {
		return fmt.Errorf("the pipeline is %s, by the rules %s", s.Status, n.pipeline)
	}
	return nil
}

var errWaits = errors.New("is created and waits for nothing")

// sound holds what must be true of any state: the counters are right, and a created job waits for one that something can move.
func sound(s *State) error {
	fresh := s.Clone()
	fresh.derive()
	if fresh.total != s.total || !reflect.DeepEqual(fresh.counts, s.counts) || !reflect.DeepEqual(fresh.open, s.open) || fresh.frontier != s.frontier ||
		!reflect.DeepEqual(fresh.needsOpen, s.needsOpen) || !reflect.DeepEqual(fresh.needsGone, s.needsGone) || len(s.queue) > 0 || len(s.touched) > 0 {
		return fmt.Errorf("the counters are wrong: %+v, want %+v", s.derived, fresh.derived)
	}
	for i := range s.Jobs {
		if s.Jobs[i].Status != pipeline.StatusCreated {
			continue
		}
		waits, p := false, &s.plan.jobs[i]
		for k := range s.Jobs {
			waits = waits || !p.dag && s.plan.jobs[k].stage < p.stage && !s.category(k).closed() || p.dag && slices.Contains(p.needs, int32(k)) && !s.category(k).closed()
		}
		if !waits {
			return fmt.Errorf("%s %w", s.Jobs[i].Name, errWaits)
		}
	}
	return nil
}

// replay holds the changes against what has changed, and each start against what was to be waited for.
func replay(before, after *State, changes []Change) error {
	jobs, stages, whole := map[string]pipeline.Status{}, map[string]pipeline.Status{}, before.Status
	for _, j := range before.Jobs {
		jobs[j.Name] = j.Status
	}
	for _, st := range before.Stages {
		stages[st.Name] = st.Status
	}
	for _, c := range changes {
		was := &whole
		switch {
		case c.Job != "":
			v := jobs[c.Job]
			was = &v
			jobs[c.Job] = c.To
		case c.Stage != "":
			v := stages[c.Stage]
			was = &v
			stages[c.Stage] = c.To
		}
		if *was != c.From {
			return fmt.Errorf("change %+v, but it was %s", c, *was)
		}
		if c.Job == "" && c.Stage == "" {
			whole = c.To
		}
		if c.Job != "" && c.Why == "" {
			return fmt.Errorf("change %+v does not say why", c)
		}
	}
	for _, j := range after.Jobs {
		if jobs[j.Name] != j.Status {
			return fmt.Errorf("the changes leave %s %s, it is %s", j.Name, jobs[j.Name], j.Status)
		}
	}
	for _, st := range after.Stages {
		if stages[st.Name] != st.Status {
			return fmt.Errorf("the changes leave %s %s, it is %s", st.Name, stages[st.Name], st.Status)
		}
	}
	if whole != after.Status {
		return fmt.Errorf("the changes leave the pipeline %s, it is %s", whole, after.Status)
	}
	return nil
}

func same(a, b *State) bool {
	x, _ := json.Marshal(a)
	y, _ := json.Marshal(b)
	return string(x) == string(y)
}

// resumed writes a state and reads it again.
func resumed(t *testing.T, g *pipeline.Graph, s *State) *State {
	t.Helper()
	data, err := json.Marshal(s)
	if err != nil {
		t.Fatal(err)
	}
	r, err := Resume(g, data)
	if err != nil {
		t.Fatal(err)
	}
	if !same(s, r) {
		t.Fatal("the state is another one after it was read")
	}
	return r
}

// TestRunsOut plays random graphs to their end: whatever can move is moved, and no job starts before what it waits for is over.
func TestRunsOut(t *testing.T) {
	for seed := range uint64(800) {
		r := rand.New(rand.NewPCG(seed, 2))
		g := randomGraph(r)
		s, resources, now := New(g, time.Unix(0, 0)), &Resources{}, time.Unix(0, 0)
		if err := s.share(resources, s.All()); err != nil {
			t.Fatal(err)
		}
		for steps := 0; !s.Status.Completed() || !s.Idle(); steps++ {
			if steps > 10*len(s.Jobs)*4 {
				t.Fatalf("seed %d: no end, the pipeline is %s", seed, s.Status)
			}
			now = now.Add(time.Minute)
			e, ok := next(r, s, now)
			if !ok {
				show(t, seed, g, nil)
				t.Fatalf("seed %d: stuck in %s: %+v", seed, s.Status, s.Jobs)
			}
			was := s.Clone()
			changes, err := s.Apply(e)
			if err != nil {
				t.Fatal(err)
			}
			if e.Kind == Play || e.Kind == Due {
				was = nil // a person may play what waits for nobody any more
			}
			if err := early(s, was, changes); err != nil {
				show(t, seed, g, nil)
				t.Fatalf("seed %d: %v", seed, err)
			}
			if err := s.share(resources, changes); err != nil {
				t.Fatal(err)
			}
		}
	}
}

// next picks something that can happen by itself, or else lets a person play a gate.
func next(r *rand.Rand, s *State, now time.Time) (Event, bool) {
	var can []Event
	for _, i := range r.Perm(len(s.Jobs)) {
		jobs := []string{s.Jobs[i].Name}
		switch s.Jobs[i].Status {
		case pipeline.StatusPending:
			can = append(can, Event{Kind: Run, Jobs: jobs, At: now})
		case pipeline.StatusRunning:
			can = append(can, Event{Kind: []Kind{Success, Drop}[r.IntN(2)], Jobs: jobs, At: now, ExitCode: r.IntN(3)})
		case pipeline.StatusCanceling:
			can = append(can, Event{Kind: Success, Jobs: jobs, At: now})
		case pipeline.StatusScheduled:
			can = append(can, Event{Kind: Due, At: s.Jobs[i].ScheduledAt})
		}
	}
	for i := range s.Jobs {
		if len(can) == 0 && s.Jobs[i].Status == pipeline.StatusManual && !s.Jobs[i].Allowed {
			can = append(can, Event{Kind: Play, Jobs: []string{s.Jobs[i].Name}, At: now})
		}
	}
	if len(can) == 0 {
		return Event{}, false
	}
	return can[r.IntN(len(can))], true
}

// early finds a job that was started by the rules before what it waits for was over. One exception is GitLab's: a need that does
// not run settles the matter at once, and always is content with that.
func early(s, was *State, changes []Change) error {
	if was == nil {
		return nil
	}
	for _, c := range changes {
		if c.Job == "" || c.From != pipeline.StatusCreated || c.To.Completed() {
			continue
		}
		p := &s.plan.jobs[s.plan.index[c.Job]]
		for k := range s.Jobs {
			before := p.dag && slices.Contains(p.needs, int32(k)) || !p.dag && s.plan.jobs[k].stage < p.stage
			if before && !s.category(k).closed() && (!p.dag || p.when != pipeline.Always) {
				return fmt.Errorf("%s is %s although %s is %s", c.Job, c.To, s.Jobs[k].Name, s.Jobs[k].Status)
			}
		}
	}
	return nil
}
