package compile

import (
	"fmt"
	"slices"

	"keelson.dev/keelson/internal/pipeline"
	"keelson.dev/keelson/internal/pipeline/rules"
)

// maxDepth is how deep pipelines may be the children of others; GitLab's bound.
const maxDepth = 2

// Result is what a configuration comes to for an event.
type Result struct {
	Graph    *pipeline.Graph    // nil: no pipeline for this event, and Workflow tells why, or Problems do
	Verdicts []pipeline.Verdict // of all jobs, as in the files; they are there without a graph too
	Workflow *pipeline.Verdict
	Problems pipeline.Problems
}

// Compile makes the graph. A configuration with errors of [Lint] makes none; warnings are Lint's alone.
func Compile(cfg *pipeline.Config, c *pipeline.Context) Result { return compile(cfg, c, false) }

// Outline makes the graph without the variables of its jobs, which are most of it.
func Outline(cfg *pipeline.Config, c *pipeline.Context) Result { return compile(cfg, c, true) }

func compile(cfg *pipeline.Config, c *pipeline.Context, outline bool) Result {
	js := expand(cfg)
	p := &compiler{jobs: js, ctx: c, problems: js.check()}
	p.scope = newScope(cfg, c)
	p.scope.outline = outline
	if !p.bounded() {
		return Result{Workflow: &pipeline.Verdict{Reason: "the configuration is too large"}, Problems: p.problems.Arrange(cfg.Files)}
	}
	p.depth()

	workflow, matched := p.workflow()
	p.scope.enter(matched)
	ds := p.decideAll()
	r := Result{Workflow: &workflow, Verdicts: p.verdicts(ds)}
	if workflow.Runs {
		p.link(ds)
		r.Graph = p.finish(ds, matched)
		if r.Graph != nil && len(r.Graph.Jobs) == 0 {
			r.Graph, workflow.Runs = nil, false
			workflow.Reason = "Pipeline will not run for the selected trigger. The rules configuration prevented any jobs from being added to the pipeline."
			if slices.ContainsFunc(ds, func(d decision) bool { return d.runs }) {
				workflow.Reason += " Jobs in .pre and .post alone are no pipeline."
			}
		}
	}
	if !workflow.Runs {
		withdraw(r.Verdicts)
	}
	r.Problems = p.problems.Arrange(cfg.Files)
	if r.Problems.Failed() {
		r.Graph = nil
	}
	return r
}

// compiler is one run of Compile.
type compiler struct {
	*jobs
	ctx      *pipeline.Context
	scope    scope
	cache    rules.Cache
	problems pipeline.Problems
	whole    bool // every decision has its rules, also where those before it are the same
}

// bounded refuses what would fill the memory: each job has all variables of the pipeline, and each instance asks all its rules.
func (p *compiler) bounded() bool {
	values, conditions := 0, 0
	for i := range p.list {
		spec := p.list[i].spec
		values += len(p.scope.all) + len(p.scope.top) + len(spec.Vars) + len(p.scope.outside)
		conditions += len(spec.Rules)
		what, keyword, bound := "variables", "variables", maxValues
		if conditions > maxRules {
			what, keyword, bound = "rules", "rules", maxRules
		} else if values <= maxValues {
			continue
		}
		p.problems = append(p.problems, problemAt(spec, keyword, "pipeline-too-large",
			fmt.Sprintf("the %s of all jobs are too many with those of `%s` (maximum is %d)", what, spec.Name, bound), ""))
		return false
	}
	return true
}

// depth refuses pipelines that are too deep among others.
func (p *compiler) depth() {
	if p.ctx.Source == pipeline.SourceParent && p.ctx.Upstream != nil && p.ctx.Upstream.Depth > maxDepth {
		p.problems = append(p.problems, pipeline.Problem{Severity: pipeline.Error, Code: "child-too-deep",
			Message: fmt.Sprintf("child pipelines may be %d levels deep; this one would be at level %d", maxDepth, p.ctx.Upstream.Depth)})
	}
}

// decideAll decides on every instance. Decisions are by instance.
func (p *compiler) decideAll() []decision {
	ds := make([]decision, len(p.list))
	for i := range p.list {
		in := &p.list[i]
		d := p.decide(in.spec, p.scope.facts(in))
		if d.err != nil {
			at := d.rules[len(d.rules)-1]
			p.problems = append(p.problems, pipeline.Problem{Severity: pipeline.Error, Code: "rule-failed", Job: in.spec.Name,
				At: at.At, Via: at.Via, Message: fmt.Sprintf("Failed to parse rule for %s: %v", in.spec.Name, d.err)})
		}
		if !p.whole && i > 0 && p.list[i-1].of == in.of && d.same(&ds[i-1]) {
			d.rules = nil // a verdict shows them once
		}
		ds[i] = d
	}
	return ds
}

func (p *compiler) verdicts(ds []decision) []pipeline.Verdict {
	list := make([]pipeline.Verdict, 0, len(p.cfg.Jobs))
	for i := range p.cfg.Jobs {
		own := p.ofSpec[i]
		names, of := make([]string, len(own)), make([]decision, len(own))
		for n, at := range own {
			names[n], of[n] = p.list[at].name, ds[at]
		}
		list = append(list, verdicts(&p.cfg.Jobs[i], names, of)...)
	}
	return list
}

// withdraw tells of jobs that would run that there is no pipeline.
func withdraw(verdicts []pipeline.Verdict) {
	for i := range verdicts {
		if v := &verdicts[i]; v.Runs {
			v.Runs, v.Names, v.Reason = false, nil, v.Reason+", but this event makes no pipeline"
		}
	}
}

// finish makes the graph of the jobs that run. It has no jobs where those are not enough for a pipeline, and is nil where there
// are errors.
func (p *compiler) finish(ds []decision, matched *pipeline.Rule) *pipeline.Graph {
	if p.problems.Failed() {
		return nil
	}
	g := &pipeline.Graph{
		Name: p.scope.pipelineName(), Source: p.ctx.Source, Ref: p.ctx.Ref, SHA: p.ctx.Commit.SHA,
		AutoCancel: autoCancel(p.cfg.Workflow, matched),
	}
	p.scope.named(g.Name)
	order := p.order(ds)
	if !slices.ContainsFunc(order, func(at int) bool { return !isEdge(p.list[at].spec.Stage) }) {
		return g
	}
	g.Jobs = make([]pipeline.Job, 0, len(order))
	for _, at := range order {
		job := p.job(&p.list[at], ds[at].rule, ds)
		g.Jobs = append(g.Jobs, job)
		if n := len(g.Stages); n == 0 || g.Stages[n-1] != job.Stage {
			g.Stages = append(g.Stages, job.Stage)
		}
	}
	return g
}

// order gives the instances that run, by stage and then as in the files.
func (p *compiler) order(ds []decision) []int {
	byStage := make([][]int, len(p.cfg.Stages))
	n := 0
	for i := range p.list {
		if ds[i].runs {
			at := p.stages[p.list[i].spec.Stage]
			byStage[at] = append(byStage[at], i)
			n++
		}
	}
	order := make([]int, 0, n)
	for _, in := range byStage {
		order = append(order, in...)
	}
	return order
}

func isEdge(stage string) bool { return stage == pipeline.StagePre || stage == pipeline.StagePost }
