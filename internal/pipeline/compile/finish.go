package compile

import (
	"cmp"
	"fmt"
	"maps"
	"strings"

	"keelson.dev/keelson/internal/pipeline"
)

// job finishes an instance that runs. ds tells of all which ones do.
func (p *compiler) job(in *instance, rule int, ds []decision) pipeline.Job {
	job := in.spec.Job
	job.Name, job.Base, job.Node, job.Matrix = in.name, in.spec.Name, in.node, in.matrix
	job.When, job.AllowFailure = ruleWhen(in.spec, rule), allowFailure(in.spec, rule)
	job.Interruptible = interruptible(in.spec, rule)
	if rule >= 0 && in.spec.Rules[rule].StartIn > 0 {
		job.StartIn = in.spec.Rules[rule].StartIn
	}
	if job.When != pipeline.Delayed {
		job.StartIn = 0
	}
	job.Needs = nil
	if rule >= 0 && in.spec.Rules[rule].Needs != nil {
		job.DAG = true
	}
	if len(in.links) > 0 {
		job.Needs = make([]pipeline.Need, len(in.links))
		for i, l := range in.links {
			job.Needs[i] = l.Need
		}
	}
	job.Dependencies = p.expandNames(in.spec.Dependencies, ds)

	var rules []pipeline.VariableSpec
	if rule >= 0 {
		rules = in.spec.Rules[rule].Variables
	}
	v := p.scope.of(in, &job, rules)
	if v.err != nil {
		p.problems = append(p.problems, problemAt(in.spec, "variables", "variables-cycle", fmt.Sprintf("%s: %v", in.name, v.err), ""))
	}
	job.Environment, job.Variables = v.environment, v.list
	p.checkEnvironment(in, job.Environment)
	if strings.ContainsAny(job.ResourceGroup, "$%") { // it is known before there is a pipeline
		job.ResourceGroup = blank(visible(v.list), job.ResourceGroup)
	}
	if tagged := v.list; strings.ContainsAny(strings.Join(job.Tags, ""), "$%") {
		if len(rules) > 0 { // GitLab does not let tags see them (gitlab-org/gitlab#469521)
			tagged = p.scope.of(in, &job, nil).list
		}
		job.Tags = expandTags(job.Tags, tagged)
	}
	for i := range job.Needs {
		if n := &job.Needs[i]; !n.Local() {
			n.Job, n.Project, n.Ref, n.Pipeline = blank(v.list, n.Job), blank(v.list, n.Project), blank(v.list, n.Ref), blank(v.list, n.Pipeline)
		}
	}
	if t := job.Trigger; t != nil && strings.ContainsAny(t.Project+t.Branch, "$%") {
		expanded := *t
		expanded.Project, expanded.Branch = blank(v.list, t.Project), blank(v.list, t.Branch)
		job.Trigger = &expanded
	}
	if p.scope.outline {
		job.Variables = nil
	}
	return job
}

// checkEnvironment warns of a name with which GitLab fails the job when it starts.
func (p *compiler) checkEnvironment(in *instance, e *pipeline.Environment) {
	if e == nil {
		return
	}
	err := pipeline.CheckEnvironmentName(e.Name)
	if err == nil {
		return
	}
	message := fmt.Sprintf("%s job: %v", in.name, err)
	if e.Name == "" {
		message = in.name + " job: the name of its environment is empty here"
	}
	p.problems = append(p.problems, warned(problemAt(in.spec, "environment.name", "environment-name", message,
		fmt.Sprintf("it is written `%s`; a variable in it has no value for this event, or one that does not fit", in.spec.Environment.Name))))
}

// expandTags expands tags as the server does: once, with values as they are written.
func expandTags(tags []string, vars pipeline.Variables) []string {
	if tags == nil {
		return nil
	}
	out := make([]string, len(tags))
	for i, t := range tags {
		out[i] = vars.ExpandServer(t)
	}
	return out
}

// expandEnvironment expands what the server expands of an instance's environment. The URL keeps unknown references: reports of the
// job may yet set them.
func expandEnvironment(in *instance, vars pipeline.Variables) *pipeline.Environment {
	e := in.spec.Environment
	out := *e
	out.Name = blank(vars, e.Name)
	if before := in.environment; before != nil && before.Name == out.Name {
		out.Slug, out.Tier = before.Slug, before.Tier
	} else {
		out.Slug, out.Tier = pipeline.EnvironmentSlug(out.Name), cmp.Or(e.Tier, pipeline.Tier(out.Name))
	}
	out.AutoStopIn = blank(vars, e.AutoStopIn)
	if ns, ok := e.Kubernetes["namespace"].(string); ok {
		out.Kubernetes = maps.Clone(e.Kubernetes)
		out.Kubernetes["namespace"] = blank(vars, ns)
	}
	in.environment = &out
	return &out
}
