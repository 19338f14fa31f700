package compile

import (
	"slices"
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
	sound   bool
	outline bool // the variables of jobs are not kept
}

func newScope(cfg *pipeline.Config, c *pipeline.Context) scope {
	all := predefined(c)
	return scope{
		ctx: c, cfg: cfg, all: all, start: visible(all),
		top: fileVariables(nil, 0, cfg.Variables, pipeline.OriginTop), outside: outside(c),
	}
}

// enter adds the variables of the rule of the workflow that matched.
func (s *scope) enter(matched *pipeline.Rule) {
	if matched != nil {
		s.top = fileVariables(s.top, 0, matched.Variables, pipeline.OriginWorkflow)
	}
	_, err := s.pipeline().Sorted()
	s.sound = err == nil
}

// pipeline gives the variables of no job in particular: what workflow:rules and workflow:name see.
func (s *scope) pipeline() pipeline.Variables { return workflowVariables(s.ctx, s.top) }

// named gives the pipeline its name, which its jobs find and no condition does.
func (s *scope) named(name string) {
	for i := range s.all {
		if s.all[i].Name == "CI_PIPELINE_NAME" {
			s.all[i].Value = name
		}
	}
}

// pipelineName expands workflow:name.
func (s *scope) pipelineName() string {
	name := strings.TrimSpace(s.cfg.Workflow.Name.Value)
	if strings.ContainsAny(name, "$%") {
		name = strings.TrimSpace(blank(s.pipeline(), name))
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
		env := expandEnvironment(in, s.scratch)
		s.scratch = s.list(s.scratch[:0], s.start, in, &job, env, nil)
		return s.scratch
	})
}

// jobValues are the variables of a job that runs.
type jobValues struct {
	list        pipeline.Variables
	environment *pipeline.Environment // expanded
	err         error                 // variables that refer to each other in a circle
}

// of gives the variables of a job that runs; of an outline they are valid until the next call. rules are those of the rule that
// matched.
func (s *scope) of(in *instance, job *pipeline.Job, rules []pipeline.VariableSpec) jobValues {
	var v jobValues
	first := s.all
	if in.spec.Environment != nil { // its name is known before there is a pipeline
		first = s.start
	}
	list := s.scratch[:0]
	if n := len(s.all) + len(s.top) + len(in.spec.Vars) + len(in.matrix) + len(rules) + len(s.outside) + 24; !s.outline {
		list = make(pipeline.Variables, 0, n)
	}
	v.list = s.list(list, first, in, job, nil, rules)
	if s.outline {
		s.scratch = v.list
	}
	if !s.sound || len(in.spec.Vars)+len(in.matrix)+len(rules) > 0 && mayCircle(v.list) {
		_, v.err = v.list.Sorted()
	}
	if e := in.spec.Environment; e != nil {
		v.environment = expandEnvironment(in, v.list)
		v.list = s.list(v.list[:0], s.all, in, job, v.environment, rules)
		v.list = append(v.list, predefinedEnvironment(v.environment)...)
		if strings.ContainsAny(e.URL, "$%") {
			sorted, _ := relevant(v.list, e.URL).Sorted()
			v.environment.URL, v.environment.RawURL = sorted.ExpandServer(e.URL), e.URL
		}
	}
	return v
}

// mayCircle tells whether a variable that refers to others may refer to one that does so too. It is quick, and mostly says no.
func mayCircle(list pipeline.Variables) bool {
	var some [8]*pipeline.Variable
	n := 0
	for i := range list {
		v := &list[i]
		if v.Raw || !strings.ContainsAny(v.Value, "$%") {
			continue
		}
		for _, other := range some[:n] {
			if strings.Contains(v.Value, other.Name) || strings.Contains(other.Value, v.Name) {
				return true
			}
		}
		if n == len(some) {
			return true
		}
		some[n] = v
		n++
	}
	return false
}

// blank expands a text as the server does, with unknown variables being nothing.
func blank(list pipeline.Variables, text string) string {
	if !strings.ContainsAny(text, "$%") {
		return text
	}
	resolved, _ := relevant(list, text).Resolved()
	return resolved.ExpandServerBlank(text)
}

// relevant picks the variables that a text refers to, and those that they refer to: few of many, which makes it fast to expand them.
// Where they are not few it gives all.
func relevant(list pipeline.Variables, text string) pipeline.Variables {
	const few = 64
	picked := make([]bool, len(list))
	n, names := 0, pipeline.References(text)
	for at := 0; at < len(names); at++ {
		if len(names) > few {
			return list
		}
		for i := range list {
			if v := &list[i]; !picked[i] && v.Name == names[at] {
				picked[i] = true
				n++
				names = append(names, pipeline.References(v.Value)...)
			}
		}
	}
	out := make(pipeline.Variables, 0, n)
	for i := range list {
		if picked[i] {
			out = append(out, list[i])
		}
	}
	return out
}

// list builds the variables of a job on a list.
func (s *scope) list(list, first pipeline.Variables, in *instance, job *pipeline.Job, env *pipeline.Environment, rules []pipeline.VariableSpec) pipeline.Variables {
	list = append(list, first...)
	if in.names == (jobNames{}) {
		in.names = namesOf(job.Name)
	}
	list = predefinedJob(list, job, in.names, env)
	if env != nil && s.ctx.Deployment != nil {
		list = append(list, s.ctx.Deployment(env.Name)...)
	}
	files := len(list) // those of the files begin here
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
	list = fileVariables(list, files, in.spec.Vars, pipeline.OriginJob)
	for _, kv := range in.matrix {
		v := pipeline.Variable{Name: kv.Key, Value: kv.Value, Public: true, Origin: pipeline.OriginMatrix, At: matrixAt(in.spec, kv)}
		list = put(list, files, v)
	}
	list = fileVariables(list, files, rules, pipeline.OriginRules)
	name := ""
	if env != nil {
		name = env.Name
	}
	return append(list, forEnvironment(s.outside, name)...)
}

// fileVariables puts variables of the files into a list, where those of the files begin at from.
func fileVariables(list pipeline.Variables, from int, specs []pipeline.VariableSpec, origin string) pipeline.Variables {
	var at map[string]int // of a name in list; for a few, looking is faster
	if len(specs)*(len(list)-from+len(specs)) > 2000 {
		at = make(map[string]int, len(list)-from+len(specs))
		for i := from; i < len(list); i++ {
			at[list[i].Name] = i
		}
	}
	for _, s := range specs {
		v := pipeline.Variable{Name: s.Name, Value: s.Value, Raw: s.Raw, Public: true, Origin: origin, At: s.At}
		if at == nil {
			list = put(list, from, v)
		} else if i, ok := at[v.Name]; ok {
			list[i] = v
		} else {
			at[v.Name] = len(list)
			list = append(list, v)
		}
	}
	return list
}

// put adds a variable of the files. It takes the place of an earlier one of its name, and never sees its value; that is what tells
// the variables of files from those of different sources.
func put(list pipeline.Variables, from int, v pipeline.Variable) pipeline.Variables {
	for i := from; i < len(list); i++ {
		if list[i].Name == v.Name {
			list[i] = v
			return list
		}
	}
	return append(list, v)
}

// matrixAt is where a value of a matrix is written, as far as it is known: its variable.
func matrixAt(spec *pipeline.JobSpec, kv pipeline.KV) pipeline.Position {
	if spec.Parallel == nil {
		return pipeline.Position{}
	}
	for _, set := range spec.Parallel.Matrix {
		for _, v := range set {
			if v.Name == kv.Key && slices.Contains(v.Values, kv.Value) {
				return v.At
			}
		}
	}
	return spec.Parallel.At
}
