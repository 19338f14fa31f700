package run

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"keelson.dev/keelson/internal/pipeline"
	"keelson.dev/keelson/internal/pipeline/artifact"
	"keelson.dev/keelson/internal/pipeline/executor"
)

// Downstream compiles the pipelines that trigger jobs start. It is safe for concurrent use.
type Downstream interface {
	// Compile gives the graph of a child pipeline. An error says why there is none: its files are wrong, or no job of it runs.
	Compile(ctx context.Context, t Trigger) (*pipeline.Graph, error)
}

// Trigger is a trigger job that is about to start a child pipeline.
type Trigger struct {
	Parent   *pipeline.Graph
	ParentID int64
	Job      *pipeline.Job // its Trigger says what to include
	JobID    int64         // of the attempt
	ID       int64         // of the pipeline that is made
	Depth    int           // 1 for a child, 2 for a child's child
	Project  string        // whose pipeline is made; empty: it is a child
	Branch   string        // of that project; empty: its default branch
	// Variables are those that the child gets as pipeline variables, as trigger:forward says.
	Variables pipeline.Variables
	// File reads a file of the artifacts of a job of the parent (trigger:include:artifact).
	File func(ctx context.Context, job, path string) ([]byte, error)
}

// maxIncluded is how big a file may be that a child pipeline is made of, in bytes.
const maxIncluded = 1 << 20

// maxPipelines is how many pipelines may come of one, by trigger jobs (GitLab's limit of a pipeline's hierarchy).
const maxPipelines = 1000

// trigger starts the pipeline of a trigger job.
func (e *engine) trigger(a attempt) {
	ctx := e.run(a)
	p, j := a.play, &a.play.graph.Jobs[a.job]
	w := e.work(a, 0)
	trace := executor.NewTrace(sinkLog{sink: e.o.Sink, ref: w.ref}, w.job)
	trace.Hurry() // the engine waits for nobody
	over := func(r executor.Result) {
		if r.Status == pipeline.StatusFailed {
			r.Message = trace.Redacted(r.Message)
			trace.Errorf("Job failed: %s", r.Message)
		}
		_ = trace.Close()
		e.over(a, r, extras{})
	}
	switch {
	case j.Trigger.Project != "":
		e.startOther(ctx, a, w, trace, over)
		return
	case p.Downstream == nil:
		over(executor.Failed(pipeline.DownstreamFailure, "child pipelines are not played here"))
		return
	case p.depth+1 > MaxDepth:
		over(executor.Failed("reached_max_descendant_pipelines_depth", "child pipelines go %d levels deep, this would be one more", MaxDepth))
		return
	case len(e.tree(p.root())) >= maxPipelines:
		over(executor.Failed("reached_max_pipeline_hierarchy_size", "%d pipelines belong together already, which is the most", maxPipelines))
		return
	}
	t := Trigger{Parent: p.graph, ParentID: p.id, Job: j, JobID: w.ref.ID, ID: e.o.NextID(), Depth: p.depth + 1, File: e.reader(p)}
	trace.Printf("Making the child pipeline %d", t.ID)
	e.launch = append(e.launch, func() {
		var g *pipeline.Graph
		err := p.may(ctx, t)
		if err == nil {
			err = w.takeVariables(ctx)
		}
		if err == nil {
			t.Variables = forwarded(&w.job.Job)
			g, err = p.Downstream.Compile(ctx, t)
		}
		e.inbox <- func() {
			switch {
			case e.leaving:
				over(executor.Canceled())
			case !a.current(pipeline.StatusRunning): // it was canceled in the meantime
				over(executor.Canceled())
			case err != nil:
				over(unmade("the child pipeline", err))
			case g == nil || len(g.Jobs) == 0:
				over(executor.Failed(pipeline.DownstreamFailure, "the child pipeline has no jobs"))
			case j.Trigger.Strategy == "":
				e.add(p.Pipeline, g, t.ID, nil, nil, &a)
				over(executor.Succeeded())
			default:
				e.add(p.Pipeline, g, t.ID, nil, nil, &a)
				_ = trace.Close()
				e.active-- // the child's jobs count by themselves
			}
		}
	})
}

// may says why a trigger job may not start its pipeline.
func (p *play) may(ctx context.Context, t Trigger) error {
	if p.May == nil {
		return nil
	}
	return p.May(ctx, t)
}

// unmade is what comes of a trigger job whose pipeline cannot be made, or may not be: that is said with nothing of its variables.
func unmade(what string, err error) executor.Result {
	if f := (*executor.Failure)(nil); errors.As(err, &f) {
		return executor.FailedWith(err)
	}
	return executor.Failed(pipeline.DownstreamFailure, "%s cannot be made: %s", what, err)
}

// forwarded are the variables of a trigger job that its pipeline gets: those that the files set, and where it says so those that
// the pipeline was started with. References in them are expanded here, as the child does not know what they refer to.
func forwarded(j *pipeline.Job) pipeline.Variables {
	var out pipeline.Variables
	secrets := executor.Job{Job: *j}.MaskedValues()
	for _, v := range j.Variables {
		switch v.Origin {
		case pipeline.OriginTop, pipeline.OriginWorkflow, pipeline.OriginJob, pipeline.OriginMatrix, pipeline.OriginRules:
			if !j.Trigger.ForwardYAML {
				continue
			}
		case pipeline.OriginPipeline:
			if !j.Trigger.ForwardPipeline {
				continue
			}
		default:
			continue
		}
		if !v.Raw {
			v.Value = j.Variables.ExpandServer(v.Value)
		}
		v.Masked = v.Masked || slices.ContainsFunc(secrets, func(secret string) bool { return secret != "" && strings.Contains(v.Value, secret) })
		v.Origin = pipeline.OriginPipeline
		out = slices.DeleteFunc(out, func(o pipeline.Variable) bool { return o.Name == v.Name })
		out = append(out, v)
	}
	return out
}

// reader gives what reads files of the artifacts of a pipeline's jobs.
func (e *engine) reader(p *play) func(ctx context.Context, job, path string) ([]byte, error) {
	return func(ctx context.Context, job, path string) ([]byte, error) {
		if e.o.Store == nil {
			return nil, fmt.Errorf("the artifacts of job %q are not kept here", job)
		}
		dir, err := os.MkdirTemp("", "keelson-include-")
		if err != nil {
			return nil, err
		}
		defer os.RemoveAll(dir)
		if err := e.o.Store.Restore(ctx, []artifact.Key{p.key(job)}, artifact.Work{Dir: dir}); err != nil {
			return nil, err
		}
		root, err := os.OpenRoot(dir)
		if err != nil {
			return nil, err
		}
		defer func() { _ = root.Close() }() // it was only read
		info, err := root.Stat(filepath.FromSlash(path))
		switch {
		case err != nil || !info.Mode().IsRegular():
			return nil, fmt.Errorf("the artifacts of job %q have no file %s", job, path)
		case info.Size() > maxIncluded:
			return nil, fmt.Errorf("%s of job %q has %d bytes, more than %d", path, job, info.Size(), maxIncluded)
		}
		return root.ReadFile(filepath.FromSlash(path))
	}
}

// report tells the trigger job how its pipeline ended, once it has. With strategy the job is running until then.
func (p *play) report() {
	if !p.state.Status.Completed() || len(p.running) > 0 {
		return
	}
	if f := p.engine.others[p.id]; f != nil {
		p.engine.arrived(p.id, f, p.state.Status)
	}
	if p.parent == nil || p.told {
		return
	}
	p.told = true
	p.engine.conclude(*p.parent, p.id, p.state.Status)
}

// conclude ends a trigger job that has waited for a pipeline.
func (e *engine) conclude(a attempt, id int64, status pipeline.Status) {
	if !a.current(pipeline.StatusRunning) && !a.current(pipeline.StatusCanceling) {
		return
	}
	e.active++ // over counts it out again
	e.over(a, came(id, status), extras{})
}

// came is what comes of a trigger job by how its pipeline ended.
func came(id int64, status pipeline.Status) executor.Result {
	switch status {
	case pipeline.StatusSuccess:
		return executor.Succeeded()
	case pipeline.StatusCanceled:
		return executor.Result{Status: status, ExitCode: executor.NoExitCode, Message: fmt.Sprintf("pipeline %d was canceled", id)}
	default:
		return executor.Failed(pipeline.DownstreamFailure, "pipeline %d: %s", id, status)
	}
}
