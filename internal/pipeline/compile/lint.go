package compile

import (
	"fmt"
	"regexp"
	"slices"
	"strings"
	"sync"

	"keelson.dev/keelson/internal/pipeline"
	"keelson.dev/keelson/internal/pipeline/rules"
)

// Check finds what is wrong among jobs whatever the event. It is for configurations with errors within jobs too: as long as they
// are not [pipeline.Config.Partial], what it says holds.
func Check(cfg *pipeline.Config) pipeline.Problems { return expand(cfg).check() }

// Lint finds what is wrong whatever the event (errors), and what works but is seldom meant (warnings). Each has a code of its own.
func Lint(cfg *pipeline.Config) pipeline.Problems {
	js := expand(cfg)
	found := js.check()
	l := linter{jobs: js, missing: map[*pipeline.NeedSpec]bool{}, doubts: map[string][]doubt{}}
	l.found = append(l.found, js.replaced...)
	l.workflow()
	for i := range cfg.Jobs {
		spec := &cfg.Jobs[i]
		l.rules(spec)
		l.conditions(spec)
		l.services(spec)
		l.tags(spec)
		l.secrets(spec, spec.Vars)
		for r := range spec.Rules {
			l.secrets(spec, spec.Rules[r].Variables)
		}
		l.stop(spec)
		l.gate(i)
		l.manyNeeds(i)
	}
	l.secrets(&pipeline.JobSpec{}, cfg.Variables)
	l.optionalGates()
	l.onFailure()
	if !found.Failed() {
		l.occasions()
	}
	return append(found, l.found...).Arrange(cfg.Files)
}

// linter collects traps.
type linter struct {
	*jobs
	found   pipeline.Problems
	missing map[*pipeline.NeedSpec]bool // needs that have been reported
	doubts  map[string][]doubt          // of the texts of conditions
}

func (l *linter) warn(p pipeline.Problem) { l.found = append(l.found, warned(p)) }

// way is one of the ways in which a job may run: by a rule, or by itself where it has no rules.
type way struct {
	rule  int // -1: it has no rules
	when  pipeline.When
	allow pipeline.AllowFailure
}

// optional tells whether it is a gate that nobody has to play.
func (w way) optional() bool {
	return w.when == pipeline.Manual && w.allow.Allowed && len(w.allow.ExitCodes) == 0
}

// ways gives all the ways in which a job may run; none: no event can make it run.
func ways(spec *pipeline.JobSpec) []way {
	if spec.Rules == nil {
		return []way{{rule: -1, when: ownWhen(spec), allow: allowFailure(spec, -1)}}
	}
	var list []way
	for i := range spec.Rules {
		if when := ruleWhen(spec, i); when != pipeline.Never {
			list = append(list, way{rule: i, when: when, allow: allowFailure(spec, i)})
		}
		if unconditional(&spec.Rules[i]) {
			break
		}
	}
	return list
}

// all tells whether there are ways, and something holds for each.
func all(ways []way, holds func(way) bool) bool {
	return len(ways) > 0 && !slices.ContainsFunc(ways, func(w way) bool { return !holds(w) })
}

func unconditional(r *pipeline.Rule) bool { return r.If == nil && r.Changes == nil && r.Exists == nil }

// ruleProblem is a finding at an item of rules.
func ruleProblem(spec *pipeline.JobSpec, r *pipeline.Rule, code, message, hint string) pipeline.Problem {
	p := problemAt(spec, "rules", code, message, hint)
	if r.At != (pipeline.Position{}) {
		p.At, p.Via = r.At, r.Via
	}
	return p
}

func (l *linter) workflow() {
	list, none := l.cfg.Workflow.Rules, &pipeline.JobSpec{}
	l.unreachable(none, list)
	never := func(r pipeline.Rule) bool { return r.When == pipeline.Never }
	if list != nil && !slices.ContainsFunc(list, func(r pipeline.Rule) bool { return !never(r) }) {
		p := pipeline.Problem{Code: "never-runs", Message: "no event makes a pipeline: all items of workflow:rules say `when: never`",
			Hint: "end the list with `- when: always`"}
		if len(list) > 0 {
			p.At, p.Via = list[0].At, list[0].Via
		}
		l.warn(p)
	}
	for i := range list {
		l.condition(none, list[i].If)
		l.secrets(none, list[i].Variables)
	}
}

// unreachable finds the first item behind one without conditions.
func (l *linter) unreachable(spec *pipeline.JobSpec, list []pipeline.Rule) {
	at := slices.IndexFunc(list, func(r pipeline.Rule) bool { return unconditional(&r) })
	if at < 0 || at == len(list)-1 {
		return
	}
	l.warn(ruleProblem(spec, &list[at+1], "unreachable-rule",
		strings.TrimSpace(fmt.Sprintf("%s rule %d is never reached: rule %d has no condition and always matches", jobPrefix(spec), at+2, at+1)),
		"move the rule without conditions to the end"))
}

func (l *linter) rules(spec *pipeline.JobSpec) {
	if spec.Rules == nil {
		return
	}
	l.unreachable(spec, spec.Rules)
	if len(ways(spec)) == 0 {
		l.warn(problemAt(spec, "rules", "never-runs", fmt.Sprintf("%s job: no event can make it run: none of its rules says when it runs", spec.Name),
			"end the list with `- when: on_success`"))
	}
	for _, w := range ways(spec) {
		r := &spec.Rules[w.rule]
		if w.when == pipeline.Manual && !w.allow.Allowed && r.AllowFailure == nil && spec.OwnAllowFailure == nil {
			l.warn(ruleProblem(spec, r, "manual-blocks",
				fmt.Sprintf("%s job: `when: manual` in rules blocks the pipeline until somebody plays the job", spec.Name),
				"say `allow_failure: true` if the job is optional, or `allow_failure: false` if it is a gate"))
		}
	}
	l.changesAlone(spec)
}

// changesAlone finds rules that look at nothing but changes, which hold whenever no diff is known.
func (l *linter) changesAlone(spec *pipeline.JobSpec) {
	if l.cfg.Workflow.Rules != nil {
		return // it may let no other events through
	}
	for i := range spec.Rules {
		r := &spec.Rules[i]
		if ruleWhen(spec, i) == pipeline.Never || unconditional(r) {
			return // earlier rules may keep the events out
		}
		if r.Changes == nil || r.If != nil || r.Exists != nil || r.Changes.CompareTo != nil {
			continue
		}
		p := ruleProblem(spec, r, "changes-always-true",
			fmt.Sprintf("%s job: `changes` without `if` always matches where no diff is known: tags, schedules, new branches, pipelines from the web or the API", spec.Name),
			"add an `if` to the rule, such as `$CI_PIPELINE_SOURCE == \"merge_request_event\"`, or `compare_to`")
		if r.Changes.At != (pipeline.Position{}) {
			p.At = r.Changes.At
		}
		l.warn(p)
		return
	}
}

// sources are the values of CI_PIPELINE_SOURCE.
var sources = []string{
	"push", "web", "trigger", "schedule", "api", "external", "pipeline", "chat", "webide", "merge_request_event", "external_pull_request_event",
	"parent_pipeline", "ondemand_dast_scan", "ondemand_dast_validation", "security_orchestration_policy", "container_registry_push", "duo_workflow",
	"pipeline_execution_policy_schedule", "pipeline_execution_policy_schedule_test_run", "unknown",
}

var (
	sourceCompared = sync.OnceValue(func() *regexp.Regexp {
		return regexp.MustCompile(`\$CI_PIPELINE_SOURCE\s*[!=]=\s*(?:"([^"]*)"|'([^']*)')|(?:"([^"]*)"|'([^']*)')\s*[!=]=\s*\$CI_PIPELINE_SOURCE\b`)
	})
	stringPattern = sync.OnceValue(func() *regexp.Regexp { return regexp.MustCompile(`[=!]~\s*(?:"([^"]*)"|'([^']*)')`) })
	onlyRequests  = sync.OnceValue(func() *regexp.Regexp {
		return regexp.MustCompile(`\$CI_PIPELINE_SOURCE\s*==\s*["']merge_request_event["']`)
	})
	onlyBranches = sync.OnceValue(func() *regexp.Regexp { return regexp.MustCompile(`\$CI_COMMIT_BRANCH\s*(?:==\s*["'$]|=~)`) })
)

// conditions looks for expressions that are read otherwise than they look.
func (l *linter) conditions(spec *pipeline.JobSpec) {
	for i := range spec.Rules {
		l.condition(spec, spec.Rules[i].If)
	}
	for _, p := range []*pipeline.Policy{spec.Only, spec.Except} {
		for i := 0; p != nil && i < len(p.Variables); i++ {
			l.condition(spec, &p.Variables[i])
		}
	}
}

// doubt is what is odd about the text of a condition.
type doubt struct {
	offset              int // in bytes
	code, message, hint string
}

func (l *linter) condition(spec *pipeline.JobSpec, t *pipeline.Text) {
	if t == nil {
		return
	}
	doubts, known := l.doubts[t.Value]
	if !known {
		doubts = doubtsAbout(t.Value)
		l.doubts[t.Value] = doubts
	}
	for _, d := range doubts {
		l.warn(textProblem(spec, t, d.offset, d.code, strings.TrimSpace(jobPrefix(spec)+" "+d.message), d.hint))
	}
}

// doubtsAbout looks for what is read otherwise than it looks.
func doubtsAbout(text string) []doubt {
	e, err := rules.Parse(text)
	if err != nil {
		return nil
	}
	var list []doubt
	for _, q := range quoted(sourceCompared(), text) {
		if !slices.Contains(sources, q.text) {
			list = append(list, doubt{q.offset, "unknown-source", fmt.Sprintf("CI_PIPELINE_SOURCE is never `%s`", q.text), suggestSource(q.text)})
		}
	}
	for _, q := range quoted(stringPattern(), text) {
		if !strings.HasPrefix(q.text, "/") {
			list = append(list, doubt{q.offset, "text-as-pattern",
				fmt.Sprintf("`%s` is no pattern: with a text on its right side the operator asks whether that text contains the left side", q.text),
				"write /" + q.text + "/"})
		}
	}
	for _, name := range e.Variables() {
		if persisted(name) {
			list = append(list, doubt{max(0, strings.Index(text, "$"+name)), "variable-not-in-rules",
				fmt.Sprintf("%s is not known before the pipeline is made; in conditions it is never set", name), ""})
		}
	}
	if at := onlyBranches().FindStringIndex(text); at != nil && onlyRequests().MatchString(text) && !strings.Contains(text, "||") {
		list = append(list, doubt{at[0], "never-true", "the condition never holds: CI_COMMIT_BRANCH is not set in merge request pipelines",
			"ask for CI_MERGE_REQUEST_SOURCE_BRANCH_NAME or CI_MERGE_REQUEST_TARGET_BRANCH_NAME"})
	}
	return list
}

// quotation is a text in quotes, and where its quote stands.
type quotation struct {
	text   string
	offset int
}

// quoted gives the groups of all matches; each is a text in quotes.
func quoted(re *regexp.Regexp, text string) []quotation {
	var list []quotation
	for _, m := range re.FindAllStringSubmatchIndex(text, -1) {
		for g := 2; g < len(m); g += 2 {
			if m[g] >= 0 {
				list = append(list, quotation{text[m[g]:m[g+1]], m[g] - 1})
			}
		}
	}
	return list
}

func suggestSource(source string) string {
	for _, s := range []string{source + "_event", strings.TrimSuffix(source, "s") + "_event", strings.TrimSuffix(source, "s"), strings.TrimSuffix(source, "es")} {
		if slices.Contains(sources, s) {
			return "did you mean `" + s + "`?"
		}
	}
	return pipeline.DidYouMean(source, sources)
}
