package config

import (
	"cmp"
	"slices"
	"strings"
	"time"

	"keelson.dev/keelson/internal/pipeline"
)

// ruleSet says what the rules of a keyword may have.
type ruleSet struct {
	keys []string
	when []string
}

var (
	jobRules = ruleSet{
		keys: []string{"if", "changes", "exists", "when", "start_in", "allow_failure", "variables", "needs", "interruptible"},
		when: []string{"on_success", "on_failure", "always", "never", "manual", "delayed"},
	}
	workflowRules = ruleSet{ // start_in, allow_failure and needs mean nothing there, but GitLab lets them pass
		keys: []string{"if", "changes", "exists", "when", "start_in", "allow_failure", "variables", "needs", "auto_cancel"},
		when: []string{"always", "never"},
	}
)

// maxRulePaths bounds the paths of changes and exists, as in GitLab.
const maxRulePaths = 50

// rules decodes a list of rules, in which !reference leaves lists. It is nil only where there are no rules.
func (v value) rules(set ruleSet) []pipeline.Rule {
	const should = "config should be an array containing hashes and arrays of hashes"
	if v.Kind != List {
		v.wrong(should)
		return nil
	}
	items, ok := v.flat()
	if !ok {
		v.fail(codeType, "%s, and these are more than %d levels deep", should, maxNesting)
		return nil
	}
	if len(v.Items) == 0 {
		v.hint(codeRequired, "remove the keyword, or write `- when: never` for a job that never runs", "config can't be blank")
	}
	rules := make([]pipeline.Rule, 0, len(items))
	for _, item := range items {
		switch {
		case item.Node == nil || item.Kind != Map:
			item.wrong(should)
		case len(item.Pairs) == 0:
			item.fail(codeRequired, "rule config can't be blank")
		default:
			rules = append(rules, item.rule(set))
		}
	}
	return rules
}

func (v value) rule(set ruleSet) pipeline.Rule {
	v = v.placed("rule")
	v.allow(set.keys...)
	r := pipeline.Rule{Clauses: v.clauses(), At: v.keyAt, Via: v.via}
	if when := v.field("when"); when.set() {
		r.When = pipeline.Never // what is not meant does not run
		if when.Kind == String && slices.Contains(set.when, when.Text) {
			r.When = pipeline.When(when.Text)
		} else {
			when.hint(codeValue, pipeline.DidYouMean(when.Text, set.when), "unknown value: %s, should be one of: %s", clip(cmp.Or(when.Text, when.described())), strings.Join(set.when, ", "))
		}
	}
	switch startIn := v.field("start_in"); {
	case r.When == pipeline.Delayed && !startIn.set():
		v.field("when").hint(codeRequired, "add `start_in: 30 minutes`", "is delayed, and start_in can't be blank")
	case r.When != pipeline.Delayed && v.Get("start_in") != nil:
		startIn.hint(codeConflict, "add `when: delayed`", "is for `when: delayed` only: config contains disallowed keys: start_in")
	default:
		r.StartIn = startIn.duration(7*24*time.Hour, "one week")
	}
	if allow := v.field("allow_failure"); allow.set() {
		r.AllowFailure = &pipeline.AllowFailure{Allowed: allow.boolean()}
	}
	if interruptible := v.field("interruptible"); interruptible.set() {
		b := interruptible.boolean()
		r.Interruptible = &b
	}
	r.Variables = v.field("variables").variables(ruleVariables)
	if needs := v.field("needs"); needs.set() {
		r.Needs = needs.needs(ruleNeeds)
	}
	r.AutoCancel = v.field("auto_cancel").autoCancel()
	return r
}

// clauses decodes the conditions of a rule.
func (v value) clauses() pipeline.Clauses {
	var c pipeline.Clauses
	for _, key := range []string{"if", "changes", "exists"} {
		if f := v.field(key); f.Node != nil && !f.set() {
			f.warn(codeNoEffect, "remove it, or write a condition", "is empty, so it holds always")
		}
	}
	if condition := v.field("if"); condition.set() {
		if c.If = condition.text(); c.If != nil {
			condition.expression()
		}
	}
	if changes := v.field("changes"); changes.set() {
		c.Changes = changes.changes()
	}
	if exists := v.field("exists"); exists.set() {
		c.Exists = exists.exists()
	}
	return c
}

// rulePaths is the list of paths of changes and exists.
func (v value) rulePaths() []pipeline.Text {
	paths := v.positioned()
	if len(paths) > maxRulePaths {
		v.fail(codeLimit, "has too many entries (maximum %d)", maxRulePaths)
		return paths[:maxRulePaths]
	}
	return paths
}

func (v value) changes() *pipeline.Changes {
	c := &pipeline.Changes{At: v.keyAt}
	switch v.Kind {
	case List:
		c.Paths = v.rulePaths()
	case Map:
		v.allow("paths", "regexp", "compare_to")
		c.Paths, c.Regexp = v.pathsOrRegexp()
		c.CompareTo = v.field("compare_to").text()
	default:
		v.wrong("should be an array or a hash")
	}
	return c
}

// pathsOrRegexp are the two ways in which a clause may name files; one of them has to be there.
func (v value) pathsOrRegexp() ([]pipeline.Text, *pipeline.Text) {
	paths, pattern := v.field("paths"), v.field("regexp")
	switch {
	case !paths.set() && !pattern.set():
		v.fail(codeRequired, "config missing required keys: paths")
	case paths.set() && pattern.set():
		pattern.fail(codeConflict, "config these keys cannot be used together: paths, regexp")
	}
	text := pattern.text()
	if text != nil {
		if isRegexp(text.Value) {
			pattern.regexp(text.Value)
		} else {
			pattern.regexp("/" + text.Value + "/")
		}
	}
	return paths.rulePaths(), text
}

func (v value) exists() *pipeline.Exists {
	e := &pipeline.Exists{At: v.keyAt}
	switch v.Kind {
	case String:
		e.Paths = []pipeline.Text{v.asText()}
	case List:
		e.Paths = v.rulePaths()
	case Map:
		v.allow("paths", "regexp", "project", "ref")
		e.Paths, e.Regexp = v.pathsOrRegexp()
		e.Project, e.Ref = v.field("project").text(), v.field("ref").text()
		if e.Ref != nil && e.Project == nil {
			v.fail(codeRequired, "config missing required keys: project")
		}
	default:
		v.wrong("should be a string, an array of strings, or a hash")
	}
	return e
}

// policy decodes only or except.
func (v value) policy() *pipeline.Policy {
	p := &pipeline.Policy{At: v.keyAt}
	switch {
	case v.Kind == List:
		p.Refs = v.refs()
	case v.Kind == Map && len(v.Pairs) == 0:
		v.fail(codeRequired, "config can't be blank")
	case v.Kind == Map:
		v.allow("refs", "kubernetes", "variables", "changes")
		if refs := v.field("refs"); refs.set() {
			p.Refs = refs.refs()
		}
		if kubernetes := v.field("kubernetes"); kubernetes.set() {
			p.Kubernetes = kubernetes.oneOf("active")
		}
		variables := v.field("variables")
		p.Variables = variables.positioned()
		for _, item := range variables.items() {
			if item.Node != nil && item.Kind == String {
				item.expression()
			}
		}
		p.Changes = v.field("changes").positioned()
	default:
		hint := ""
		if v.Kind == String {
			hint = "write it as a list: [" + clip(v.Text) + "]"
		}
		v.hint(codeType, hint, "has to be either an array of conditions or a hash, found %s", v.described())
	}
	return p
}

// refs is the list of refs of a policy: names, words such as branches, and regular expressions.
func (v value) refs() []pipeline.Text {
	if v.Kind != List {
		v.wrong("should be an array of strings or regular expressions using re2 syntax")
		return nil
	}
	refs := make([]pipeline.Text, 0, len(v.Items))
	for _, item := range v.items() {
		if item.Node == nil || item.Kind != String {
			item.wrong("should be an array of strings or regular expressions using re2 syntax")
			continue
		}
		if isRegexp(item.Text) {
			item.regexp(item.Text)
		}
		refs = append(refs, item.asText())
	}
	return refs
}
