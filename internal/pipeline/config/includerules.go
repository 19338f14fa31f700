package config

import (
	"keelson.dev/keelson/internal/pipeline"
	"keelson.dev/keelson/internal/pipeline/rules"
)

// includeRules are the rules of an include.
var includeRules = ruleSet{keys: []string{"if", "changes", "exists", "when"}, when: []string{"always", "never"}}

// applies tells whether the rules of an include hold: the first rule that does decides, and without one the file is left out.
func (r *reader) applies(f *frame, n *Node) bool {
	list := n.Get("rules")
	if list.IsNull() {
		return true
	}
	d := newDecoder()
	all := d.value("include", n).field("rules").rules(includeRules)
	for _, p := range d.finish() {
		r.in(f)(p)
	}
	if d.problems.Failed() {
		return false
	}
	facts := rules.Facts{Raw: r.o.Variables, Expanded: r.expanded, Context: r.o.Context}
	if facts.Context == nil {
		facts.Context = &pipeline.Context{}
	}
	for _, rule := range all {
		holds, _, err := rules.Check(rule.Clauses, facts)
		if err != nil {
			r.fail(f, rule.At, "invalid-expression", "", "include:%v", err)
			return false
		}
		if holds {
			return rule.When != pipeline.Never
		}
	}
	return false
}

// expanded are the variables with those that they refer to in place.
func (r *reader) expanded() pipeline.Variables {
	if r.sorted == nil {
		sorted, err := r.o.Variables.Resolved()
		if err != nil {
			sorted = r.o.Variables
		}
		r.sorted = sorted
	}
	return r.sorted
}
