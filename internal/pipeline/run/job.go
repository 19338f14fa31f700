package run

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"

	"keelson.dev/keelson/internal/pipeline"
	"keelson.dev/keelson/internal/pipeline/artifact"
	"keelson.dev/keelson/internal/pipeline/executor"
)

// work is an attempt of a job with all that its goroutine needs; it knows nothing of the engine's state.
type work struct {
	o    Options
	of   Pipeline
	ref  JobRef
	job  executor.Job
	keys []artifact.Key // whose artifacts it takes
	// foreign are the jobs of other pipelines whose artifacts it wants.
	foreign []pipeline.Need
	missing error // why one of them is not there; nil: nobody looks for them here
	scope   artifact.Scope
	notes   []string
	played  pipeline.Variables // that a person has played it with
	life    context.Context    // outlasts a cancel of the job
	kept    func()             // tells the executor that the result is kept; nil: it does not ask
}

// extras is what a job leaves besides its result.
type extras struct {
	coverage *float64
	tests    *artifact.JUnit
}

// work puts together what a job needs to run.
func (e *engine) work(a attempt, slot int) *work {
	p, j := a.play, a.play.graph.Jobs[a.job]
	w := &work{o: e.o, of: p.Pipeline, ref: a.ref(), life: e.ctx}
	w.job = executor.Job{Job: j, ID: w.ref.ID, Started: p.results[a.job].Started, Slot: slot, Abort: e.o.Abort, By: p.state.Jobs[a.job].By}
	if survivor, ok := p.Executor.(executor.Survivor); ok && survivor.Survives() && e.leave != nil {
		kept := make(chan struct{})
		w.job.Abort, w.job.Leave, w.job.Kept, w.kept = nil, e.leave, kept, func() { close(kept) }
	}
	w.scope = artifact.Scope{Project: p.Project, Job: j.Name, Ref: p.graph.Ref, Protected: j.Variables.Predefined("CI_COMMIT_REF_PROTECTED") == "true"}
	for _, kv := range p.state.Jobs[a.job].Variables {
		// What takes the place of a masked variable is as secret as that one.
		old, _ := j.Variables.Get(kv.Key)
		w.played = append(w.played, pipeline.Variable{Name: kv.Key, Value: kv.Value, Masked: old.Masked, Origin: pipeline.OriginPlay})
	}
	w.scope.Pipeline = strconv.FormatInt(w.ref.Pipeline, 10)
	for _, n := range j.Needs {
		if n.Pipeline != "" && n.Job == "" { // the job shows how another pipeline does
			w.foreign = append(w.foreign, n)
		}
	}
	if e.o.Store == nil {
		return w
	}
	names, foreign := artifact.Sources(p.graph, j.Name)
	w.foreign = append(w.foreign, foreign...)
	for _, name := range names {
		if i := p.index[name]; p.graph.Jobs[i].Artifacts != nil && !p.state.Jobs[i].StartedAt.IsZero() { // it has run
			w.keys = append(w.keys, p.key(name))
		}
	}
	return w
}

func (p *play) key(job string) artifact.Key {
	return artifact.Key{Project: p.Project, Pipeline: strconv.FormatInt(p.id, 10), Job: job}
}

// sinkLog is a job's log on its way to the sink.
type sinkLog struct {
	sink     Sink
	ref      JobRef
	coverage *artifact.Coverage // nil: nobody looks for it
}

func (l sinkLog) Write(p []byte) (int, error) {
	if l.coverage != nil {
		_, _ = l.coverage.Write(p) // never fails
	}
	l.sink.Log(l.ref, p)
	return len(p), nil
}

// Hurry implements [executor.Hasty].
func (l sinkLog) Hurry() {
	if h, ok := l.sink.(HastySink); ok {
		h.Hurry(l.ref)
	}
}

// run runs the job to its end.
func (w *work) run(ctx context.Context) (result executor.Result, more extras) {
	log := sinkLog{sink: w.o.Sink, ref: w.ref}
	if w.job.Coverage != "" {
		if c, err := artifact.NewCoverage(w.job.Coverage); err == nil {
			log.coverage = c
		}
	}
	life := ctx
	if w.job.Resume { // it may have been canceled meanwhile, and ends in order all the same
		life = w.life
	}
	var trace *executor.Trace
	defer func() { result.Message = trace.Redacted(result.Message) }()
	place, err := w.of.Sources.Open(w.ref)
	if err == nil {
		defer func() {
			if err := place.Close(); err != nil && result.Status == pipeline.StatusSuccess {
				result = executor.FailedWith(err)
			}
		}()
		w.job.Dir = place.Dir()
		w.findForeign(life)
		err = w.takeVariables(life)
	}
	var attended Attendance
	if err == nil && w.of.Begin != nil {
		if attended, err = w.of.Begin(life, w.ref, &w.job); err == nil && attended.End != nil {
			defer func() {
				if !w.left() {
					attended.End(result)
				}
			}()
		}
	}
	if err == nil && log.coverage != nil && attended.Earlier != nil {
		err = attended.Earlier(log.coverage)
	}
	trace = executor.NewTrace(log, w.job)
	if err != nil {
		trace.Errorf("Job failed: %s", err)
		_ = trace.Close()
		return executor.FailedWith(failure(err)), more
	}
	w.job.Prepare = func(ctx context.Context, trace *executor.Trace) error { return w.prepare(ctx, place, trace) }
	w.job.Verify, w.notes = attended.Verify, attended.Notes
	w.job.Finish = func(ctx context.Context, trace *executor.Trace, r executor.Result) error {
		tests, err := w.finish(ctx, place, trace, r)
		more.tests = redacted(tests, trace)
		return err
	}
	result = w.of.Executor.Run(ctx, w.job, trace)
	if w.left() { // the job goes on, and so does its log: what was held back comes again
		return result, more
	}
	if err := trace.Close(); err != nil && result.Status == pipeline.StatusSuccess {
		result = executor.FailedWith(fmt.Errorf("write the log: %w", err))
	}
	if log.coverage != nil {
		if v, ok := log.coverage.Value(); ok {
			more.coverage = &v
		}
	}
	return result, more
}

// left tells whether the job goes on without this process.
func (w *work) left() bool {
	select {
	case <-w.job.Leave:
		return true
	default:
		return false
	}
}

// redacted gives the tests of a job without its masked values: their names and messages are what it has written.
func redacted(tests *artifact.JUnit, trace *executor.Trace) *artifact.JUnit {
	if tests == nil {
		return nil
	}
	out := *tests
	out.Failing, out.Errors = slices.Clone(tests.Failing), slices.Clone(tests.Errors)
	for i := range out.Failing {
		c := &out.Failing[i]
		for _, text := range []*string{&c.Suite, &c.Class, &c.Name, &c.File, &c.Message, &c.Output} {
			*text = trace.Redacted(*text)
		}
	}
	for i := range out.Errors {
		out.Errors[i] = trace.Redacted(out.Errors[i])
	}
	return &out
}

// failure gives errors of the store the reason that GitLab has for them.
func failure(err error) error {
	var f *executor.Failure
	if err == nil || errors.As(err, &f) {
		return err
	}
	return &executor.Failure{Reason: artifact.Reason(err), Err: err}
}

// findForeign finds the artifacts of other pipelines; what is left of those that it wants is not there.
func (w *work) findForeign(ctx context.Context) {
	if w.of.Foreign == nil || w.o.Store == nil {
		return
	}
	w.foreign = slices.DeleteFunc(w.foreign, func(n pipeline.Need) bool {
		if n.Job == "" {
			return false
		}
		for _, text := range []*string{&n.Project, &n.Ref, &n.Pipeline, &n.Job} {
			*text = w.job.Variables.ExpandServer(*text)
		}
		key, err := w.of.Foreign(ctx, n)
		switch {
		case err == nil:
			w.keys = append(w.keys, key)
			return true
		case !n.Optional && w.missing == nil:
			w.missing = err
		}
		return false
	})
}

// takeVariables adds those of dotenv reports and those of the job that has started, and puts in the values of those that refer to each other.
func (w *work) takeVariables(ctx context.Context) error {
	if len(w.keys) > 0 {
		vars, err := w.o.Store.Dotenv(ctx, w.keys)
		if err != nil {
			return err
		}
		w.job.Variables = w.job.Variables.WithDotenv(vars)
	}
	w.job.Variables = slices.Concat(w.job.Variables, w.played) // they count most
	// Those that refer to each other in a circle stay as they are, as with GitLab.
	w.job.Variables, _ = w.job.Variables.Started(w.job.ID, w.job.Started).Sorted()
	return nil
}

// in says where the job works, for the store.
func (w *work) in(place Workspace, trace *executor.Trace) artifact.Work {
	vars := slices.Clip(w.job.Variables)
	for _, v := range []pipeline.KV{{Key: "CI_PROJECT_DIR", Value: w.job.Dir}, {Key: "CI_JOB_ID", Value: strconv.FormatInt(w.job.ID, 10)}} {
		vars = append(vars, pipeline.Variable{Name: v.Key, Value: v.Value, Raw: true, Origin: pipeline.OriginPredefined})
	}
	return artifact.Work{Dir: w.job.Dir, Vars: vars, Log: trace, InPlace: place.InPlace()}
}

// prepare makes the directory ready.
func (w *work) prepare(ctx context.Context, place Workspace, trace *executor.Trace) error {
	end := trace.Section("get_sources", "Getting the sources", false)
	err := place.Prepare(ctx, w.job, trace)
	end()
	if err != nil {
		return err
	}
	w.warn(trace)
	if w.missing != nil {
		return &executor.Failure{Reason: pipeline.MissingDependency, Err: w.missing}
	}
	if len(w.foreign) > 0 {
		n := w.foreign[0]
		err := fmt.Errorf("the status of pipeline %s is needed, and only this pipeline is here", n.Pipeline)
		switch {
		case n.Project != "":
			err = fmt.Errorf("the artifacts of job %q of project %s are needed, and only those of this pipeline are here", n.Job, n.Project)
		case n.Job != "":
			err = fmt.Errorf("the artifacts of job %q of pipeline %s are needed, and only those of this pipeline are here", n.Job, n.Pipeline)
		}
		if !n.Optional {
			return &executor.Failure{Reason: pipeline.MissingDependency, Err: err}
		}
		trace.Warningf("%s", err)
	}
	if w.o.Store == nil {
		return nil
	}
	in := w.in(place, trace)
	if len(w.job.Caches) > 0 {
		end := trace.Section("restore_cache", "Restoring the cache", false)
		_, err := w.o.Store.RestoreCaches(ctx, w.scope, w.job.Caches, in)
		end()
		if err != nil {
			return failure(err)
		}
	}
	if len(w.keys) > 0 {
		end := trace.Section("download_artifacts", "Downloading artifacts", false)
		err := w.o.Store.Restore(ctx, w.keys, in)
		end()
		if err != nil {
			return failure(err)
		}
	}
	return nil
}

// warn names what a job asks for and nobody does here.
func (w *work) warn(trace *executor.Trace) {
	for _, note := range w.notes {
		trace.Warningf("%s", note)
	}
	for name := range w.job.Secrets {
		trace.Warningf("variable %s is not set: nothing here fetches secrets", name)
	}
	for name := range w.job.IDTokens {
		trace.Warningf("variable %s is not set: nothing here issues id_tokens", name)
	}
	if w.job.Release != nil {
		trace.Warningf("no release is made here (release)")
	}
	if w.job.Identity != "" {
		trace.Warningf("nobody here signs the job in to a cloud (identity: %s)", w.job.Identity)
	}
	if env := w.job.Job.Environment; env != nil && len(env.Kubernetes) > 0 {
		trace.Warningf("nothing is shown of a cluster here (environment:kubernetes)")
	}
}

// finish keeps what the job leaves behind.
func (w *work) finish(ctx context.Context, place Workspace, trace *executor.Trace, r executor.Result) (*artifact.JUnit, error) {
	if w.o.Store == nil {
		return nil, nil
	}
	in, passed := w.in(place, trace), r.Status == pipeline.StatusSuccess
	if len(w.job.Caches) > 0 {
		end := trace.Section("archive_cache", "Saving the cache", false)
		_, err := w.o.Store.SaveCaches(ctx, w.scope, w.job.Caches, in, passed)
		end()
		if err != nil {
			return nil, failure(err)
		}
	}
	if w.job.Artifacts == nil {
		return nil, nil
	}
	end := trace.Section("upload_artifacts", "Uploading artifacts", false)
	defer end()
	key := artifact.Key{Project: w.scope.Project, Pipeline: strconv.FormatInt(w.ref.Pipeline, 10), Job: w.job.Name}
	record, err := w.o.Store.Save(ctx, key, w.job.Artifacts, in, passed)
	if record == nil {
		return nil, failure(err)
	}
	return record.JUnit, failure(err)
}
