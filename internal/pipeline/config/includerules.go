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
	for _, rule := range all {
		if rule.Changes != nil || rule.Exists != nil {
			r.fail(f, rule.At, "not-supported", "", "include:rules with changes or exists cannot be checked yet")
			return false
		}
		holds := rule.If == nil
		if rule.If != nil {
			expression, err := rules.Parse(rule.If.Value)
			if err != nil {
				r.fail(f, rule.If.At, "invalid-expression", "", "include:%v", err)
				return false
			}
			value, _ := expression.Evaluate(r.o.Variables)
			holds = rules.Truth(value)
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
		sorted, err := r.o.Variables.Sorted()
		if err != nil {
			sorted = r.o.Variables
		}
		r.sorted = sorted
	}
	return r.sorted
}
