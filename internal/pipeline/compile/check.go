package compile

import (
	"fmt"
	"slices"
	"strings"

	"keelson.dev/keelson/internal/pipeline"
)

// check finds what is wrong among jobs whatever the event; what is wrong within one, config finds. The messages begin as GitLab's do.
func (js *jobs) check() pipeline.Problems {
	c := checker{jobs: js, hints: 50}
	c.found = append(c.found, js.problems...)
	for i := range js.cfg.Jobs {
		spec := &js.cfg.Jobs[i]
		c.stage(spec)
		c.dependencies(spec)
		c.trigger(spec)
		c.environment(spec)
		c.needs(i)
	}
	c.found = append(c.found, js.cycles(js.list, func(i int) []link { return js.list[i].links })...)
	return c.found.Arrange(js.cfg.Files)
}

// checker collects what is wrong.
type checker struct {
	*jobs
	found pipeline.Problems
	hints int // how many more suggestions are worth their time
}

func (c *checker) report(p pipeline.Problem) { c.found = append(c.found, p) }

// near suggests a name among those of all jobs.
func (c *checker) near(name string) string {
	if c.hints == 0 {
		return ""
	}
	c.hints--
	if pipeline.IsHidden(name) {
		return "jobs whose names begin with a dot are templates and never run"
	}
	if all := c.parallel[strings.TrimRight(name, "0123456789/ ")]; len(all) > 0 {
		const few = 3
		names := make([]string, 0, few)
		for _, at := range all[:min(few, len(all))] {
			names = append(names, "`"+c.list[at].name+"`")
		}
		if more := len(all) - few; more > 0 {
			names = append(names, fmt.Sprintf("%d more", more))
		}
		return "the job runs in parallel as " + strings.Join(names, ", ")
	}
	names := make([]string, 0, len(c.cfg.Jobs))
	for i := range c.cfg.Jobs {
		names = append(names, c.cfg.Jobs[i].Name)
	}
	return pipeline.DidYouMean(name, names)
}

func (c *checker) stage(spec *pipeline.JobSpec) {
	if _, ok := c.stages[spec.Stage]; ok {
		return
	}
	hint := pipeline.DidYouMean(spec.Stage, c.cfg.Stages)
	if hint == "" {
		hint = "add it to `stages`"
	}
	c.report(problemAt(spec, "stage", "unknown-stage", fmt.Sprintf("%s job: chosen stage %s does not exist; available stages are %s",
		spec.Name, spec.Stage, strings.Join(c.cfg.Stages, ", ")), hint))
}

// textProblem is an error within a text, offset bytes from its beginning.
func textProblem(spec *pipeline.JobSpec, t *pipeline.Text, offset int, code, message, hint string) pipeline.Problem {
	p := pipeline.Problem{Severity: pipeline.Error, Code: code, Job: spec.Name, Message: strings.TrimSpace(message), Hint: hint, At: t.At, Via: t.Via}
	if p.At == (pipeline.Position{}) {
		p.At, p.Via = spec.At, spec.Via
	} else if p.At.Column > 0 && t.Plain {
		p.At.Column += offset
	}
	return p
}

func jobPrefix(spec *pipeline.JobSpec) string {
	if spec.Name == "" {
		return ""
	}
	return spec.Name + " job:"
}

func (c *checker) dependencies(spec *pipeline.JobSpec) {
	for _, name := range spec.Dependencies {
		c.dependency(spec, name, c.parallel[name], problemAt(spec, "dependencies", "", "", ""))
	}
}

// dependency checks that a job which another one names is there and not later. targets are its instances if it has several, and at
// has the place.
func (c *checker) dependency(spec *pipeline.JobSpec, name string, targets []int, at pipeline.Problem) {
	if len(targets) == 0 {
		if to, ok := c.byName[name]; ok {
			targets = []int{to}
		}
	}
	if len(targets) == 0 {
		at.Code, at.Message, at.Hint = "undefined-dependency", fmt.Sprintf("%s job: undefined dependency: %s", spec.Name, name), c.near(name)
		c.report(at)
		return
	}
	if c.later(spec, &c.list[targets[0]]) {
		at.Code, at.Message = "dependency-in-later-stage", fmt.Sprintf("%s job: dependency %s is not defined in current or prior stages", spec.Name, name)
		at.Hint = fmt.Sprintf("`%s` is in stage %s, `%s` in %s", name, c.list[targets[0]].spec.Stage, spec.Name, spec.Stage)
		c.report(at)
	}
}

// later tells whether a job is in a later stage than another one. Unknown stages are reported on their own.
func (c *checker) later(spec *pipeline.JobSpec, than *instance) bool {
	own, ok := c.stages[spec.Stage]
	other, known := c.stages[than.spec.Stage]
	return ok && known && other > own
}

func (c *checker) trigger(spec *pipeline.JobSpec) {
	if spec.Trigger == nil {
		return
	}
	for _, include := range spec.Trigger.Include {
		if include.Job == "" {
			continue
		}
		at := problemAt(spec, "trigger", "", "", "")
		if include.At != (pipeline.Position{}) {
			at.At = include.At
		}
		c.dependency(spec, include.Job, nil, at) // GitLab expands no parallel here
	}
}

func (c *checker) environment(spec *pipeline.JobSpec) {
	if spec.Environment == nil || spec.Environment.OnStop == "" {
		return
	}
	name, report := spec.Environment.OnStop, func(code, message, hint string) {
		c.report(problemAt(spec, "environment.on_stop", code, fmt.Sprintf("%s job: on_stop job %s %s", spec.Name, spec.Environment.OnStop, message), hint))
	}
	at, ok := c.byName[name]
	switch {
	case !ok:
		report("on-stop-undefined", "is not defined", c.near(name))
		return
	case c.list[at].spec.Environment == nil:
		report("on-stop-without-environment", "does not have environment defined",
			fmt.Sprintf("give `%s` the environment `%s` with `action: stop`", name, spec.Environment.Name))
		return
	}
	if stop := c.list[at].spec.Environment; stop.Name != spec.Environment.Name {
		report("on-stop-other-environment", "have different environment name",
			fmt.Sprintf("it has `%s`, and `%s` has `%s`", stop.Name, spec.Name, spec.Environment.Name))
	} else if stop.Action != "stop" {
		report("on-stop-without-action", "needs to have action stop defined", "")
	}
}

// needs checks a job's own needs, of all its instances, and those of its rules.
func (c *checker) needs(i int) {
	spec, shared := &c.cfg.Jobs[i], !perInstance(c.cfg.Jobs[i].NeedSpecs)
	for n, at := range c.ofSpec[i] {
		if n == 0 || !shared {
			c.links(spec, c.list[at].links)
		}
	}
	for r := range spec.Rules {
		if needs := spec.Rules[r].Needs; len(needs) > 0 {
			c.links(spec, c.ruleLinks(needs))
		}
	}
}

func (c *checker) links(spec *pipeline.JobSpec, links []link) {
	seen := make(map[string]bool, len(links))
	reported := map[*pipeline.NeedSpec]bool{}
	for _, l := range links {
		if !l.Local() || reported[l.spec] {
			continue
		}
		switch at := needProblem(spec, l.spec, "", "", ""); {
		case seen[l.Job]:
			at.Code, at.Message = "duplicate-need", fmt.Sprintf("%s has the following needs duplicated: %s.", spec.Name, l.Job)
			c.report(at)
		case l.to < 0 && l.Optional:
		case l.to < 0:
			at.Code, at.Message, at.Hint = "undefined-need", fmt.Sprintf("%s job: undefined need: %s", spec.Name, l.Job), c.nearInstance(l)
			c.report(at)
		case c.later(spec, &c.list[l.to]):
			at.Code, at.Message = "need-in-later-stage", fmt.Sprintf("%s job: need %s is not defined in current or prior stages", spec.Name, l.Job)
			at.Hint = fmt.Sprintf("`%s` is in stage %s, `%s` in %s", l.Job, c.list[l.to].spec.Stage, spec.Name, spec.Stage)
			c.report(at)
		default:
			seen[l.Job] = true
			continue
		}
		reported[l.spec] = true
	}
}

// nearInstance suggests what was meant by a need, which may be a wrong instance of the right job.
func (c *checker) nearInstance(l link) string {
	if all := c.parallel[l.spec.Job]; l.spec.Matrix != nil && len(all) > 0 && l.Job != l.spec.Job {
		return fmt.Sprintf("the matrix of `%s` makes `%s` and others", l.spec.Job, c.list[all[0]].name)
	}
	return c.near(l.Job)
}

// cycles finds needs that go round in a circle, one circle for each knot of jobs.
func (js *jobs) cycles(list []instance, links func(int) []link) pipeline.Problems {
	const unseen, open, done = 0, 1, 2
	var found pipeline.Problems
	state := make([]byte, len(list))
	knotted := map[*pipeline.JobSpec]bool{}
	var path []int
	var visit func(int)
	visit = func(i int) {
		state[i] = open
		path = append(path, i)
		for _, l := range links(i) {
			if l.to < 0 || !l.Local() {
				continue
			}
			switch state[l.to] {
			case unseen:
				visit(l.to)
			case open:
				if len(found) == 20 || knotted[list[i].spec] || knotted[list[l.to].spec] {
					continue
				}
				circle := path[slices.Index(path, l.to):]
				found = append(found, circleProblem(list, circle, links))
				for _, at := range circle {
					knotted[list[at].spec] = true
				}
			}
		}
		path = path[:len(path)-1]
		state[i] = done
	}
	for i := range list {
		if state[i] == unseen {
			visit(i)
		}
	}
	return found
}

// circleProblem prints a circle whole, and points at the need that its first job has in it.
func circleProblem(list []instance, circle []int, links func(int) []link) pipeline.Problem {
	first, names := list[circle[0]], make([]string, 0, len(circle)+1)
	for _, at := range circle {
		names = append(names, list[at].name)
	}
	names = append(names, first.name)
	if more := len(names) - 50; more > 0 {
		names = append(names[:40:40], append([]string{fmt.Sprintf("… %d more …", more+1)}, names[len(names)-9:]...)...)
	}
	message := "The pipeline has circular dependencies: " + strings.Join(names, " needs ")
	if len(circle) == 1 {
		message = "The pipeline has circular dependencies: self-dependency: " + first.name
	}
	next := circle[min(1, len(circle)-1)]
	for _, l := range links(circle[0]) {
		if l.to == next {
			return needProblem(first.spec, l.spec, "needs-cycle", message, "")
		}
	}
	return problemAt(first.spec, "needs", "needs-cycle", message, "")
}
