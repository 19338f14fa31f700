package compile

import (
	"fmt"
	"path"
	"regexp"
	"slices"
	"strings"
	"sync"

	"keelson.dev/keelson/internal/pipeline"
)

// secret is what looks like a credential: the prefixes that issuers of tokens have agreed on, and private keys.
var secret = sync.OnceValue(func() *regexp.Regexp {
	return regexp.MustCompile(`\b(?:gl(?:pat|oas|dt|rt|rtr|cbt|ptt|ft|imt|agent|wt|soat|ffct)-[\w-]{16,}|GR1348941[\w-]{16,}|gh[pousr]_\w{30,}|github_pat_\w{30,}|` +
		`AKIA[0-9A-Z]{16}\b|xox[abprs]-[\w-]{16,}|sk_live_\w{16,}|hv[sb]\.[\w-]{20,}|npm_\w{30,}|dop_v1_\w{30,}|SG\.[\w-]{16,}\.[\w-]{16,})|-----BEGIN [A-Z ]*PRIVATE KEY`)
})

// secrets finds credentials in the values of variables, and never shows them.
func (l *linter) secrets(spec *pipeline.JobSpec, vars []pipeline.VariableSpec) {
	for _, v := range vars {
		if len(v.Value) < 16 || !secret().MatchString(v.Value) {
			continue
		}
		l.warn(pipeline.Problem{Code: "secret-in-variable", Job: spec.Name, At: v.At, Via: v.Via,
			Message: fmt.Sprintf("the value of %s looks like a credential, which everybody with the repository can read", v.Name),
			Hint:    "revoke it, and keep the new one as a masked variable of the project"})
	}
}

// ports are images that listen on the same port as others of another name.
var ports = map[string]string{
	"postgresql": "postgres", "postgis": "postgres", "timescaledb": "postgres", "pgvector": "postgres",
	"mariadb": "mysql", "percona": "mysql", "valkey": "redis", "keydb": "redis", "redis-stack-server": "redis", "opensearch": "elasticsearch",
}

// tags finds those with a variable that rules set.
func (l *linter) tags(spec *pipeline.JobSpec) {
	for _, tag := range spec.Tags {
		for _, name := range pipeline.References(tag) {
			if slices.ContainsFunc(spec.Rules, func(r pipeline.Rule) bool {
				return slices.ContainsFunc(r.Variables, func(v pipeline.VariableSpec) bool { return v.Name == name })
			}) {
				l.warn(problemAt(spec, "tags", "tag-without-rules", fmt.Sprintf(
					"%s job: the tag `%s` does not see what rules set for %s: tags are expanded without the variables of rules", spec.Name, tag, name),
					"set it in the job's `variables`, or make a job for each tag"))
			}
		}
	}
}

// services finds two that cannot live beside each other.
func (l *linter) services(spec *pipeline.JobSpec) {
	byPort, byAlias := map[string]*pipeline.Service{}, map[string]bool{}
	for i := range spec.Services {
		s := &spec.Services[i]
		at := problemAt(spec, "services", "service-alias", "", "")
		if s.At != (pipeline.Position{}) {
			at.At = s.At
		}
		for _, alias := range strings.FieldsFunc(s.Alias, func(r rune) bool { return r == ' ' || r == ',' }) {
			if byAlias[alias] {
				at.Message = fmt.Sprintf("%s job: two services have the alias `%s`; only one of them answers to it", spec.Name, alias)
				l.warn(at)
			}
			byAlias[alias] = true
		}
		base, _, _ := strings.Cut(path.Base(s.Name), "@")
		base, _, _ = strings.Cut(base, ":")
		if other, ok := ports[base]; ok {
			base = other
		}
		moved := len(s.Command) > 0 || slices.ContainsFunc(s.Variables, func(v pipeline.Variable) bool { return strings.Contains(v.Name, "PORT") })
		if base == "" || base == "." || strings.Contains(base, "$") || moved {
			continue
		}
		if first := byPort[base]; first != nil {
			at.Code = "service-port"
			at.Message = fmt.Sprintf("%s job: services `%s` and `%s` listen on the same port; on Kubernetes they share one address, and the second one fails",
				spec.Name, first.Name, s.Name)
			at.Hint = "give one of them another port by its `command` or `variables`"
			l.warn(at)
		}
		byPort[base] = s
	}
}

// stop finds environments that are stopped by the pipeline that has just started them.
func (l *linter) stop(spec *pipeline.JobSpec) {
	if spec.Environment == nil || spec.Environment.OnStop == "" {
		return
	}
	at, ok := l.byName[spec.Environment.OnStop]
	if !ok {
		return
	}
	job := l.list[at].spec
	if job.Environment == nil || job.Environment.Action != "stop" {
		return // which is an error
	}
	for _, w := range ways(job) {
		if w.when == pipeline.Manual || w.when == pipeline.OnFailure {
			continue
		}
		p := problemAt(job, "when", "stop-not-manual", fmt.Sprintf(
			"%s job: it stops the environment of `%s` in the same pipeline, because it is not manual", job.Name, spec.Name), "add `when: manual`")
		if w.rule >= 0 {
			p = ruleProblem(job, &job.Rules[w.rule], p.Code, p.Message, p.Hint)
		}
		l.warn(p)
		return
	}
}

// gate finds deployments that do not wait for the gate before them.
func (l *linter) gate(i int) {
	spec := &l.cfg.Jobs[i]
	e := spec.Environment
	if e == nil || e.Action != "" && e.Action != "start" || spec.NeedSpecs == nil || len(spec.NeedSpecs) > 0 {
		return
	}
	own := l.stages[spec.Stage]
	for g := range l.cfg.Jobs {
		gate := &l.cfg.Jobs[g]
		if at, ok := l.stages[gate.Stage]; !ok || at >= own || gate.Environment != nil && gate.Environment.Action == "stop" {
			continue
		}
		if all(ways(gate), func(w way) bool { return w.when == pipeline.Manual && !w.allow.Allowed }) {
			l.warn(problemAt(spec, "needs", "gate-passed", fmt.Sprintf(
				"%s job: with `needs: []` it starts at once and does not wait for the gate `%s` in stage %s", spec.Name, gate.Name, gate.Stage),
				fmt.Sprintf("need `%s`, or leave `needs` out", gate.Name)))
			return
		}
	}
}

// manyNeeds tells of needs that GitLab refuses unless the instance allows more.
func (l *linter) manyNeeds(i int) {
	if len(l.ofSpec[i]) == 0 {
		return
	}
	if n := len(l.list[l.ofSpec[i][0]].links); n > needsLimit {
		name := l.list[l.ofSpec[i][0]].name
		l.warn(problemAt(&l.cfg.Jobs[i], "needs", "many-needs", fmt.Sprintf(
			"%s: one job can only need %d others, but you have listed %d", name, needsLimit, n),
			"that is GitLab's bound unless the instance raises it (ci_needs_size_limit); here it is none"))
	}
}

// optionalGates finds jobs that are skipped because they need a manual job that nobody has to play.
func (l *linter) optionalGates() {
	optional := make([]bool, len(l.cfg.Jobs))
	for i := range l.cfg.Jobs {
		optional[i] = all(ways(&l.cfg.Jobs[i]), way.optional)
	}
	for i := range l.cfg.Jobs {
		spec := &l.cfg.Jobs[i]
		if len(l.ofSpec[i]) == 0 || all(ways(spec), func(w way) bool { return w.when == pipeline.Always }) {
			continue
		}
		for _, need := range l.list[l.ofSpec[i][0]].links {
			if need.to < 0 || !optional[l.list[need.to].of] {
				continue
			}
			l.warn(needProblem(spec, need.spec, "optional-gate", fmt.Sprintf(
				"%s job: it is skipped, and the pipeline succeeds without it, unless `%s` is played: that is manual and optional", spec.Name, need.Job),
				fmt.Sprintf("say `allow_failure: false` in `%s` to make the pipeline wait for it", need.spec.Job)))
			break
		}
	}
}

// onFailure finds jobs that shall run after a failure and do not: a need that is skipped by the failure of another one keeps
// them from running.
func (l *linter) onFailure() {
	skippedBy := map[int][]bool{}
	for i := range l.cfg.Jobs {
		spec := &l.cfg.Jobs[i]
		if len(l.ofSpec[i]) == 0 || !slices.ContainsFunc(ways(spec), func(w way) bool { return w.when == pipeline.OnFailure }) {
			continue
		}
		links := l.list[l.ofSpec[i][0]].links
		for _, failed := range links {
			if failed.to < 0 || len(skippedBy) > 200 {
				continue
			}
			skipped, ok := skippedBy[failed.to]
			if !ok {
				skipped = l.skippedBy(failed.to)
				skippedBy[failed.to] = skipped
			}
			at := slices.IndexFunc(links, func(other link) bool { return other.to >= 0 && other.to != failed.to && skipped[other.to] })
			if at < 0 {
				continue
			}
			l.warn(needProblem(spec, links[at].spec, "on-failure-skipped", fmt.Sprintf(
				"%s job: `when: on_failure` does not run when `%s` fails: it also needs `%s`, which is skipped then, and so is this job",
				spec.Name, failed.Job, links[at].Job),
				"leave `needs` out: a job that waits for stages runs after any failure in them"))
			break
		}
	}
}

// skippedBy tells which instances are skipped when one fails. Jobs of one stage may need each other in any order, so it looks
// again until nothing is added; needs have no circles, or the file has errors anyway.
func (l *linter) skippedBy(failed int) []bool {
	skipped := make([]bool, len(l.list))
	source := l.list[failed].spec
	if all(ways(source), func(w way) bool { return w.allow.Allowed }) {
		return skipped
	}
	const unknown, no, yes = 0, 1, 2
	state := make([]byte, len(l.list))
	var is func(int) bool
	is = func(i int) bool {
		if state[i] != unknown {
			return state[i] == yes
		}
		state[i] = no // also ends circles
		in := &l.list[i]
		onSuccess := all(ways(in.spec), func(w way) bool {
			return w.when == pipeline.OnSuccess || w.when == pipeline.Delayed || w.when == pipeline.Manual
		})
		switch {
		case i == failed || !onSuccess:
		case !in.spec.DAG:
			if l.stages[source.Stage] < l.stages[in.spec.Stage] {
				state[i] = yes
			}
		case slices.ContainsFunc(in.links, func(k link) bool { return k.to >= 0 && (k.to == failed || is(k.to)) }):
			state[i] = yes
		}
		return state[i] == yes
	}
	for i := range l.list {
		skipped[i] = is(i)
	}
	return skipped
}
