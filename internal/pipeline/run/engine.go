package run

import (
	"context"
	"fmt"
	"io"
	"slices"
	"time"

	"keelson.dev/keelson/internal/pipeline"
	"keelson.dev/keelson/internal/pipeline/executor"
	"keelson.dev/keelson/internal/pipeline/schedule"
	"keelson.dev/keelson/internal/redact"
)

// engine is the goroutine that owns everything: the states of the pipelines, the queue, the resources. Others send it what to do.
type engine struct {
	o         Options
	ctx       context.Context // of jobs: it does not end with the caller's, jobs are canceled one by one
	inbox     chan func()     // what goroutines have to tell; they wait until it is taken
	active    int             // goroutines that will tell something
	free      []int           // slots, the lowest last
	busy      map[string]int  // slots that each project has
	queue     []attempt       // pending jobs, in their order
	pipelines []*play
	byID      map[int64]*play
	todo      []todo // events that are to be applied
	errs      []error
	resources schedule.Resources
	launch    []func() // what starts once all is told
	others    map[int64]*other
	leaving   bool          // nothing that happens is taken in any more
	leave     chan struct{} // closed when the process ends, for jobs that survive it; nil: it does not end so
}

// play is one pipeline that is being played.
type play struct {
	Pipeline // what it was added with; a child has its parent's
	engine   *engine
	id       int64
	graph    *pipeline.Graph
	state    *schedule.State
	index    map[string]int
	running  map[int]context.CancelFunc // what ends a job
	results  []JobResult                // of the attempt that each job is at
	attempts []int                      // which one that is; a state that has been told of several changes is ahead of them
	children map[int]*play              // by the trigger job
	parent   *attempt                   // the trigger job that started it; nil: the first pipeline
	depth    int
	told     bool            // the parent knows how it ended
	silent   bool            // what is being done now has happened before
	auto     map[string]bool // Pipeline.Play

	secrets *redact.Stream // hides the masked values of all its jobs; nil: there are none
}

// attempt is a job of a pipeline at one of its attempts.
type attempt struct {
	play   *play
	job    int
	number int
}

// current tells whether the job is still at this attempt and in this status.
func (a attempt) current(status pipeline.Status) bool {
	j := &a.play.state.Jobs[a.job]
	return j.Attempt == a.number && j.Status == status
}

func (a attempt) name() string { return a.play.graph.Jobs[a.job].Name }

func (a attempt) ref() JobRef {
	return JobRef{Pipeline: a.play.id, Job: a.name(), ID: a.play.results[a.job].ID, Attempt: a.number}
}

// todo is an event with its pipeline.
type todo struct {
	play  *play
	event schedule.Event
	// ignore says that the event may have been overtaken.
	ignore bool
}

func newEngine(ctx context.Context, o Options) *engine {
	e := &engine{o: o, ctx: context.WithoutCancel(ctx), inbox: make(chan func()), byID: map[int64]*play{}, busy: map[string]int{}, others: map[int64]*other{}}
	for i := range o.Jobs {
		e.free = append(e.free, o.Jobs-1-i)
	}
	return e
}

// take takes up a pipeline with the children that it has already.
func (e *engine) take(from Pipeline) *play {
	root := e.add(from, from.Graph, from.ID, from.State, from.IDs, nil)
	for _, c := range from.Children {
		parent := e.byID[c.Parent]
		if parent == nil {
			e.errs = append(e.errs, fmt.Errorf("run: the parent %d of pipeline %d is not here", c.Parent, c.ID))
			continue
		}
		job, ok := parent.index[c.Job]
		if !ok {
			e.errs = append(e.errs, fmt.Errorf("run: pipeline %d has no job %q that could have started pipeline %d", c.Parent, c.Job, c.ID))
			continue
		}
		e.add(from, c.Graph, c.ID, c.State, c.IDs, &attempt{parent, job, c.Attempt})
	}
	if from.State != nil {
		waiting := e.await(from.Followed)
		for _, p := range e.tree(root) {
			e.lost(p, waiting)
		}
	}
	return root
}

// root is the pipeline that all have come of.
func (p *play) root() *play {
	for p.parent != nil {
		p = p.parent.play
	}
	return p
}

// tree gives a pipeline and all that have come of it.
func (e *engine) tree(root *play) []*play {
	out := []*play{root}
	for _, p := range e.pipelines {
		if p.parent != nil && slices.Contains(out, p.parent.play) { // parents come first
			out = append(out, p)
		}
	}
	return out
}

// add takes up one pipeline.
func (e *engine) add(from Pipeline, g *pipeline.Graph, id int64, s *schedule.State, ids map[string]int64, parent *attempt) *play {
	p := &play{
		Pipeline: from, engine: e, id: id, graph: g, state: s, parent: parent, index: make(map[string]int, len(g.Jobs)), running: map[int]context.CancelFunc{},
		results: make([]JobResult, len(g.Jobs)), attempts: make([]int, len(g.Jobs)), children: map[int]*play{}, auto: map[string]bool{},
	}
	for _, name := range from.Play {
		p.auto[name] = true
	}
	var secrets []string
	for i := range g.Jobs {
		p.index[g.Jobs[i].Name] = i
		if p.results[i].ID = ids[g.Jobs[i].Name]; p.results[i].ID == 0 {
			p.results[i].ID = e.o.NextID()
		}
		secrets = append(secrets, executor.Job{Job: g.Jobs[i]}.MaskedValues()...)
	}
	if len(secrets) > 0 {
		slices.Sort(secrets)
		p.secrets = redact.NewStream(io.Discard, slices.Compact(secrets)...)
	}
	if s == nil {
		p.state = schedule.New(g, e.o.Now())
	}
	for i := range p.state.Jobs {
		p.attempts[i] = p.state.Jobs[i].Attempt
	}
	first := Event{Kind: KindPipeline, At: e.o.Now(), JobRef: JobRef{Pipeline: id}, To: p.state.Status}
	if parent != nil {
		p.depth = parent.play.depth + 1
		parent.play.children[parent.job] = p
		ref := parent.ref()
		first.Parent = &ref
	}
	if parent != nil && s == nil && e.o.Born != nil {
		e.o.Born(p.born())
	}
	e.pipelines = append(e.pipelines, p)
	e.byID[id] = p
	p.silent = s != nil
	p.tell(first)
	e.follow(p, p.state.All())
	p.silent = false
	return p
}

// shown gives a text as anybody may see it: names of resource groups and of the pipeline may hold masked values.
func (p *play) shown(text string) string {
	if p.secrets == nil || text == "" {
		return text
	}
	return p.secrets.Text(text)
}

// lost takes up the jobs that another process ran, where they have survived it, and fails the others, but for those that wait for the
// pipelines of other projects.
func (e *engine) lost(p *play, waiting map[attempt]bool) {
	survivor, ok := p.Executor.(executor.Survivor)
	survives := ok && survivor.Survives()
	for i := range p.state.Jobs {
		if waiting[attempt{p, i, p.attempts[i]}] {
			continue
		}
		if child := p.children[i]; child != nil && child.parent.number == p.attempts[i] {
			continue // it has been started, and tells how it ends
		}
		if survives && p.graph.Jobs[i].Trigger == nil {
			switch p.state.Jobs[i].Status {
			case pipeline.StatusRunning, pipeline.StatusCanceling:
				e.resume(attempt{p, i, p.attempts[i]})
				continue
			}
		}
		switch p.state.Jobs[i].Status {
		case pipeline.StatusRunning, pipeline.StatusCanceling:
			p.results[i].Reason = pipeline.RunnerSystemFailure
			e.todo = append(e.todo, todo{play: p, event: schedule.Event{
				Kind: schedule.Drop, Jobs: []string{p.state.Jobs[i].Name}, Reason: pipeline.RunnerSystemFailure,
				Why: "the process that ran it is gone",
			}})
		}
	}
}

// loop plays until nothing more happens by itself.
func (e *engine) loop(ctx context.Context) {
	timer := time.NewTimer(time.Hour)
	defer timer.Stop()
	end, commands := ctx.Done(), e.o.Commands
	cancel := func() {
		end = nil
		for _, p := range e.pipelines {
			e.try(p, schedule.Event{Kind: schedule.Cancel, Why: "canceled"})
		}
	}
	for {
		if end != nil && ctx.Err() != nil { // before anything is started that is canceled at once
			cancel()
		}
		e.settle()
		due, waits := e.nextDue()
		if e.active == 0 && !waits {
			select {
			case c, ok := <-commands: // it came before the end
				if ok {
					e.command(c)
					continue
				}
			default:
			}
			return
		}
		var alarm <-chan time.Time
		if waits {
			timer.Reset(due.Sub(e.o.Now()))
			alarm = timer.C
		}
		select {
		case tell := <-e.inbox:
			tell()
		case <-alarm:
			e.due()
		case c, ok := <-commands:
			if !ok {
				commands = nil
				continue
			}
			e.command(c)
		case <-end:
			cancel()
		}
	}
}

// due tells the states what time it is.
func (e *engine) due() {
	for _, p := range e.pipelines {
		e.push(p, schedule.Event{Kind: schedule.Due})
	}
}

func (e *engine) nextDue() (first time.Time, waits bool) {
	for _, p := range e.pipelines {
		if at, ok := p.state.NextDue(); ok && (!waits || at.Before(first)) {
			first, waits = at, true
		}
	}
	return first, waits
}

// command does what a person wants.
func (e *engine) command(c Command) {
	p := e.byID[c.Pipeline]
	if c.Pipeline == 0 {
		p = e.pipelines[0]
	}
	err := fmt.Errorf("there is no pipeline %d here", c.Pipeline)
	if p != nil {
		err = e.do(p, c.Event)
	}
	if c.Reply != nil {
		c.Reply <- err
	}
}

// do applies what a person wants; who cancels a pipeline cancels what has come of it, also where it is over itself.
func (e *engine) do(p *play, event schedule.Event) error {
	err := e.apply(p, event)
	if event.Kind != schedule.Cancel || len(event.Jobs) > 0 {
		return err
	}
	for _, q := range e.tree(p)[1:] {
		if e.apply(q, event) == nil {
			err = nil
		}
	}
	return err
}

// push lets an event be applied that cannot fail, as it is made of the state that it is for.
func (e *engine) push(p *play, event schedule.Event) {
	e.todo = append(e.todo, todo{play: p, event: event})
}

// try lets an event be applied that may have been overtaken.
func (e *engine) try(p *play, event schedule.Event) {
	e.todo = append(e.todo, todo{play: p, event: event, ignore: true})
}

// settle applies all events and starts what can be started.
func (e *engine) settle() {
	for {
		for len(e.todo) > 0 {
			t := e.todo[0]
			e.todo = e.todo[1:]
			if err := e.apply(t.play, t.event); err != nil && !t.ignore {
				e.errs = append(e.errs, fmt.Errorf("run: %w", err))
			}
		}
		e.start()
		for _, p := range e.pipelines {
			p.report()
		}
		if len(e.todo) > 0 {
			continue
		}
		if e.o.Settled != nil {
			e.o.Settled()
		}
		for _, start := range e.launch {
			go start()
		}
		e.launch = nil
		return
	}
}

// apply tells an event to a state, and does what follows from it.
func (e *engine) apply(p *play, event schedule.Event) error {
	if event.At.IsZero() {
		event.At = e.o.Now()
	}
	changes, err := p.state.Apply(event)
	if err != nil {
		return err
	}
	if e.o.Journal != nil {
		e.o.Journal(p.id, event)
	}
	e.follow(p, changes)
	return nil
}

// follow tells of changes, and does what follows from them.
func (e *engine) follow(p *play, changes []schedule.Change) {
	now := e.o.Now()
	for _, c := range changes {
		event := Event{Kind: KindPipeline, At: now, JobRef: JobRef{Pipeline: p.id}, From: c.From, To: c.To, Why: p.shown(c.Why)}
		switch {
		case c.Job != "":
			e.job(p, p.index[c.Job], c, event)
			continue
		case c.Stage != "":
			event.Kind, event.Stage = KindStage, c.Stage
		}
		p.tell(event)
	}
	uses := p.state.Uses(p.id, changes)
	for i := range uses {
		uses[i].Group = p.Project + " " + uses[i].Group // groups are a project's
	}
	for _, g := range e.resources.Update(uses...) {
		e.try(e.byID[g.Pipeline], schedule.Event{Kind: schedule.Grant, Jobs: []string{g.Job}})
	}
}

// job tells that a job has another status, and does what follows from it.
func (e *engine) job(p *play, i int, c schedule.Change, event Event) {
	j := &p.graph.Jobs[i]
	if c.To == pipeline.StatusCreated && c.From.Completed() && c.From != pipeline.StatusSkipped {
		p.attempts[i]++
		p.results[i] = JobResult{ID: e.o.NextID()}
	}
	a := attempt{p, i, p.attempts[i]}
	switch c.To {
	case pipeline.StatusPending:
		e.queue = append(e.queue, a)
	case pipeline.StatusManual, pipeline.StatusScheduled:
		if p.auto[j.Name] || p.auto[j.Base] {
			e.try(p, schedule.Event{Kind: schedule.Play, Jobs: []string{j.Name}})
		}
	case pipeline.StatusCanceling, pipeline.StatusCanceled:
		if end := p.running[i]; end != nil {
			end()
		}
		if child := p.children[i]; child != nil {
			e.try(child, schedule.Event{Kind: schedule.Cancel, Why: "canceled with the job that started its pipeline"})
		}
		if c.To == pipeline.StatusCanceling && j.Trigger != nil && j.Trigger.Project != "" {
			e.abandon(a)
		}
	}
	if c.From == c.To { // a new pipeline's job that is created
		return
	}
	event.Kind, event.JobRef, event.Stage = KindJob, a.ref(), j.Stage
	if p.state.Jobs[i].Attempt == a.number {
		event.By = p.state.Jobs[i].By
	}
	if c.To.Completed() && c.To != pipeline.StatusSkipped {
		r := p.results[i]
		r.Name, r.Stage, r.Attempt, r.Status, r.Why = j.Name, j.Stage, a.number, c.To, event.Why
		r.Allowed = p.state.Jobs[i].Allowed && c.To != pipeline.StatusSuccess
		event.Result = &r
	}
	p.tell(event)
}

// born is a child pipeline as it begins.
func (p *play) born() Child {
	c := Child{ID: p.id, Parent: p.parent.play.id, Job: p.parent.name(), Attempt: p.parent.number, Graph: p.graph, State: p.state, IDs: map[string]int64{}}
	for i := range p.results {
		c.IDs[p.graph.Jobs[i].Name] = p.results[i].ID
	}
	return c
}

// tell tells the sink what has happened.
func (p *play) tell(event Event) {
	if !p.silent {
		p.engine.o.Sink.Event(event)
	}
}

// start starts pending jobs as long as there are slots. Trigger jobs need none.
func (e *engine) start() {
	queue := e.queue
	e.queue = nil
	var waiting []attempt
	for _, a := range queue {
		switch {
		case !a.current(pipeline.StatusPending):
		case a.play.graph.Jobs[a.job].Trigger != nil:
			e.trigger(a)
		default:
			waiting = append(waiting, a)
		}
	}
	for len(e.free) > 0 {
		i := e.turn(waiting)
		if i < 0 {
			break
		}
		a, slot := waiting[i], e.free[len(e.free)-1]
		waiting, e.free = slices.Delete(waiting, i, i+1), e.free[:len(e.free)-1]
		e.begin(a, slot)
	}
	e.queue = append(waiting, e.queue...)
}

// turn says whose turn it is of those that wait: the project that has the fewest jobs running, and of its jobs the one that waits longest.
// -1: nobody may start.
func (e *engine) turn(waiting []attempt) int {
	first := -1
	for i, a := range waiting {
		has := e.busy[a.play.Project]
		if a.play.Most > 0 && has >= a.play.Most {
			continue
		}
		if first < 0 || has < e.busy[waiting[first].play.Project] {
			first = i
		}
		if has == 0 {
			break
		}
	}
	return first
}

// run tells that a job is started, and gives the context that ends with its cancellation.
func (e *engine) run(a attempt) context.Context {
	p := a.play
	p.results[a.job] = JobResult{ID: p.results[a.job].ID, Started: e.o.Now()}
	ctx, cancel := context.WithCancel(e.ctx)
	p.running[a.job] = cancel
	if err := e.apply(p, schedule.Event{Kind: schedule.Run, Jobs: []string{a.name()}}); err != nil {
		e.errs = append(e.errs, fmt.Errorf("run: %w", err)) // start has looked
	}
	e.active++
	return ctx
}

// over tells that nothing of a job runs any more, and how it ended.
func (e *engine) over(a attempt, r executor.Result, more extras) {
	p := a.play
	e.active--
	if end := p.running[a.job]; end != nil { // else another process has started it
		end()
	}
	delete(p.running, a.job)
	if e.leaving { // whoever comes next finds that it was running
		return
	}
	res := &p.results[a.job]
	res.Message, res.Duration, res.Reason, res.ExitCode = r.Message, e.o.Now().Sub(res.Started), r.Reason, max(r.ExitCode, 0)
	res.Coverage, res.Tests = more.coverage, more.tests
	e.finish(a, r)
}

// begin starts a job in a slot.
func (e *engine) begin(a attempt, slot int) {
	ctx := e.run(a)
	e.launchJob(ctx, a, e.work(a, slot), slot)
}

// noSlot is that of a job that was taken up when all slots were taken.
const noSlot = -1

// resume takes up a job that another process has started. It was running there, so it waits for no slot.
func (e *engine) resume(a attempt) {
	p, slot := a.play, noSlot
	if n := len(e.free); n > 0 {
		slot = e.free[n-1]
		e.free = e.free[:n-1]
	}
	p.results[a.job] = JobResult{ID: p.results[a.job].ID, Started: p.state.Jobs[a.job].StartedAt}
	ctx, cancel := context.WithCancel(e.ctx)
	p.running[a.job] = cancel
	if p.state.Jobs[a.job].Status == pipeline.StatusCanceling {
		cancel()
	}
	e.active++
	w := e.work(a, max(slot, 0))
	w.job.Resume = true
	e.launchJob(ctx, a, w, slot)
}

// launchJob lets the goroutine of a job run once all is told.
func (e *engine) launchJob(ctx context.Context, a attempt, w *work, slot int) {
	e.busy[a.play.Project]++
	e.launch = append(e.launch, func() {
		result, more := w.run(ctx)
		e.inbox <- func() {
			if e.busy[a.play.Project]--; e.busy[a.play.Project] == 0 {
				delete(e.busy, a.play.Project)
			}
			if slot != noSlot {
				e.free = append(e.free, slot)
				slices.SortFunc(e.free, func(x, y int) int { return y - x })
			}
			e.over(a, result, more)
			if w.kept != nil && !e.leaving {
				e.launch = append(e.launch, w.kept) // once it is in the journal
			}
		}
	})
}

// finish tells the scheduler how a job ended.
func (e *engine) finish(a attempt, r executor.Result) {
	jobs := []string{a.name()}
	switch {
	case r.Status == pipeline.StatusSuccess:
		e.push(a.play, schedule.Event{Kind: schedule.Success, Jobs: jobs})
	case r.Status == pipeline.StatusCanceled && a.current(pipeline.StatusRunning): // aborted
		e.push(a.play, schedule.Event{Kind: schedule.Cancel, Jobs: jobs, Force: true, Why: r.Message})
	default:
		e.push(a.play, schedule.Event{Kind: schedule.Drop, Jobs: jobs, ExitCode: r.ExitCode, Reason: r.Reason})
	}
}
