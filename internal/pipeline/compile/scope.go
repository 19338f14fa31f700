package compile

import (
	"strings"

	"keelson.dev/keelson/internal/pipeline"
)

// scope holds the variables that all jobs of a pipeline share. A job's list has, from the weakest to the strongest: predefined
// ones, those of the deployment, of the files (top level, workflow:rules, job, matrix, rules), and those from outside.
type scope struct {
	ctx     *pipeline.Context
	cfg     *pipeline.Config
	start   pipeline.Variables // predefined, as far as they are known before there is a pipeline: what conditions see
	all     pipeline.Variables // predefined
	top     pipeline.Variables // of the files' top level, then of the rule of the workflow that matched
	outside pipeline.Variables
	scratch pipeline.Variables // of the job that is being decided on
	// sound tells that top and outside have no circle, so that only what a job adds can make one.
	sound bool
}

func newScope(cfg *pipeline.Config, c *pipeline.Context) scope {
	s := scope{ctx: c, cfg: cfg}
	s.all = predefined(c)
	for _, v := range s.all {
		if !persisted(v.Name) {
			s.start = append(s.start, v)
		}
	}
	s.top = fileVariables(nil, cfg.Variables, pipeline.OriginTop)
	for _, list := range []pipeline.Variables{c.Instance, c.Group, c.ProjectVars, c.Pipeline} {
		for _, v := range list {
			if !v.Protected || c.Protected {
				s.outside = append(s.outside, v)
			}
		}
	}
	return s
}

// enter adds the variables of the rule of the workflow that matched.
func (s *scope) enter(matched *pipeline.Rule) {
	if matched != nil {
		s.top = fileVariables(s.top, matched.Variables, pipeline.OriginWorkflow)
	}
	_, err := s.pipeline().Sorted()
	s.sound = err == nil
}

// pipeline gives the variables of no job in particular.
func (s *scope) pipeline() pipeline.Variables {
	list := make(pipeline.Variables, 0, len(s.start)+len(s.top)+len(s.outside))
	return append(append(append(list, s.start...), s.top...), s.outside...)
}

// workflowFacts are the variables that workflow:rules see.
func (p *compiler) workflowFacts() *facts {
	return lazyFacts(p.scope.pipeline)
}

// pipelineName expands workflow:name.
func (s *scope) pipelineName() string {
	name := strings.TrimSpace(s.cfg.Workflow.Name.Value)
	if strings.ContainsAny(name, "$%") {
		vars, _ := s.pipeline().Resolved()
		name = strings.TrimSpace(vars.ExpandServerBlank(name))
	}
	return name
}

// lazyFacts expands variables only where a condition asks for it.
func lazyFacts(list func() pipeline.Variables) *facts {
	var raw, expanded pipeline.Variables
	f := &facts{}
	f.raw = func() pipeline.Variables {
		if raw == nil {
			raw = list()
		}
		return raw
	}
	f.expanded = func() pipeline.Variables {
		if expanded == nil {
			expanded, _ = f.raw().Resolved()
		}
		return expanded
	}
	return f
}

// facts are the variables that the conditions of a job see: no persisted ones, and none of its rules. They are valid until the
// next call.
func (s *scope) facts(in *instance) *facts {
	return lazyFacts(func() pipeline.Variables {
		job := in.spec.Job
		job.Name, job.When, job.Node, job.Matrix = in.name, ownWhen(in.spec), in.node, in.matrix
		s.scratch = s.list(s.scratch[:0], s.start, in, &job, nil, nil)
		if in.spec.Environment == nil {
			return s.scratch
		}
		vars := s.scratch
		if strings.ContainsAny(in.spec.Environment.Name, "$%") {
			vars, _ = vars.Resolved()
		}
		env := expandEnvironment(in.spec.Environment, vars)
		s.scratch = s.list(s.scratch[:0], s.start, in, &job, env, nil)
		return s.scratch
	})
}

// values are the variables of a job that runs.
type values struct {
	list        pipeline.Variables
	environment *pipeline.Environment // expanded
	err         error                 // variables that refer to each other in a circle
}

// of gives the variables of a job that runs. rules are those of the rule that matched.
func (s *scope) of(in *instance, job *pipeline.Job, rules []pipeline.VariableSpec) values {
	var v values
	n := len(s.all) + len(s.top) + len(in.spec.Vars) + len(in.matrix) + len(rules) + len(s.outside) + 24
	v.list = s.list(make(pipeline.Variables, 0, n), s.all, in, job, nil, rules)
	if !s.sound || len(in.spec.Vars)+len(in.matrix)+len(rules) > 0 {
		_, v.err = v.list.Sorted()
	}
	if e := in.spec.Environment; e != nil {
		resolved, _ := v.list.Resolved()
		v.environment = expandEnvironment(e, resolved)
		v.list = s.list(v.list[:0], s.all, in, job, v.environment, rules)
		if strings.ContainsAny(e.URL, "$%") {
			resolved, _ = v.list.Sorted()
			v.environment.URL = resolved.ExpandServer(e.URL)
		}
	}
	return v
}

// blank expands a text with unknown references becoming nothing.
func (v *values) blank(text string) string {
	if !strings.ContainsAny(text, "$%") {
		return text
	}
	resolved, _ := v.list.Resolved()
	return resolved.ExpandServerBlank(text)
}

// list builds the variables of a job on a list.
func (s *scope) list(list, first pipeline.Variables, in *instance, job *pipeline.Job, env *pipeline.Environment, rules []pipeline.VariableSpec) pipeline.Variables {
	list = append(list, first...)
	list = append(list, predefinedJob(s.ctx, job, env)...)
	if env != nil && s.ctx.Deployment != nil {
		list = append(list, s.ctx.Deployment(env.Name)...)
	}
	switch inherit := in.spec.InheritVariables; {
	case inherit.None:
	case inherit.Names == nil:
		list = append(list, s.top...)
	default:
		for _, v := range s.top {
			if inherit.Takes(v.Name) {
				list = append(list, v)
			}
		}
	}
	list = fileVariables(list, in.spec.Vars, pipeline.OriginJob)
	for _, kv := range in.matrix {
		v := pipeline.Variable{Name: kv.Key, Value: kv.Value, Public: true, Origin: pipeline.OriginMatrix}
		if in.spec.Parallel != nil {
			v.At = in.spec.Parallel.At
		}
		list = append(list, v)
	}
	list = fileVariables(list, rules, pipeline.OriginRules)
	return append(list, s.outside...)
}

// fileVariables adds variables of the files to a list.
func fileVariables(list pipeline.Variables, specs []pipeline.VariableSpec, origin string) pipeline.Variables {
	for _, v := range specs {
		list = append(list, pipeline.Variable{Name: v.Name, Value: v.Value, Raw: v.Raw, Public: true, Origin: origin, At: v.At})
	}
	return list
}
