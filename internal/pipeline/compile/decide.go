package compile

import (
	"fmt"
	"slices"

	"keelson.dev/keelson/internal/pipeline"
	"keelson.dev/keelson/internal/pipeline/rules"
)

// decision is what an event makes of a job.
type decision struct {
	runs   bool
	rule   int // the item of rules that matched; -1: none
	reason string
	rules  []pipeline.RuleVerdict
	err    error // a rule that cannot be evaluated
}

// facts are the variables that conditions see. Most conditions need no expanded ones.
type facts struct {
	raw      func() pipeline.Variables
	expanded func() pipeline.Variables
}

// decide finds the first rule whose clauses all hold, or asks only and except.
func (p *compiler) decide(spec *pipeline.JobSpec, f *facts) decision {
	if spec.Rules == nil {
		return p.policy(spec, f)
	}
	d := p.firstMatch(spec.Rules, f)
	switch when := ruleWhen(spec, d.rule); {
	case d.err != nil || d.rule < 0:
	case when == pipeline.Never:
		d.reason += ", which says `when: never`"
	default:
		d.runs = true
	}
	return d
}

// firstMatch looks at rules in turn.
func (p *compiler) firstMatch(list []pipeline.Rule, f *facts) decision {
	d := decision{rule: -1}
	for i := range list {
		rule := &list[i]
		holds, clauses, err := rules.Check(rule.Clauses, rules.Facts{Raw: f.raw(), Expanded: f.expanded, Context: p.ctx, Cache: &p.cache})
		d.rules = append(d.rules, pipeline.RuleVerdict{At: rule.At, Via: rule.Via, Matches: holds && err == nil, Clauses: clauses})
		if err != nil {
			d.err, d.reason = err, fmt.Sprintf("rule %d of %d cannot be evaluated: %v", i+1, len(list), err)
			return d
		}
		if holds {
			d.rule, d.reason = i, fmt.Sprintf("rule %d of %d matches", i+1, len(list))
			return d
		}
	}
	switch len(list) {
	case 0:
		d.reason = "its list of rules is empty"
	case 1:
		d.reason = "its rule does not match"
	default:
		d.reason = fmt.Sprintf("none of the %d rules matches", len(list))
	}
	return d
}

// ruleWhen is the when of a job whose rule matched, or its own without one.
func ruleWhen(spec *pipeline.JobSpec, rule int) pipeline.When {
	if rule >= 0 && spec.Rules[rule].When != "" {
		return spec.Rules[rule].When
	}
	return ownWhen(spec)
}

func ownWhen(spec *pipeline.JobSpec) pipeline.When {
	switch {
	case spec.OwnWhen != nil:
		return *spec.OwnWhen
	case spec.When != "":
		return spec.When
	default:
		return pipeline.OnSuccess
	}
}

// allowFailure is what a job says of it, or the rule that matched. Only a job's own `when: manual` makes a gate optional; one of
// a rule blocks the pipeline unless it says otherwise.
func allowFailure(spec *pipeline.JobSpec, rule int) pipeline.AllowFailure {
	switch {
	case rule >= 0 && spec.Rules[rule].AllowFailure != nil:
		return *spec.Rules[rule].AllowFailure
	case spec.OwnAllowFailure != nil:
		return *spec.OwnAllowFailure
	default:
		return pipeline.AllowFailure{Allowed: ownWhen(spec) == pipeline.Manual}
	}
}

func interruptible(spec *pipeline.JobSpec, rule int) bool {
	switch {
	case rule >= 0 && spec.Rules[rule].Interruptible != nil:
		return *spec.Rules[rule].Interruptible
	case spec.OwnInterruptible != nil:
		return *spec.OwnInterruptible
	default:
		return spec.Interruptible
	}
}

// same tells whether two instances of a job came to the same for the same reason.
func (d *decision) same(other *decision) bool {
	return d.runs == other.runs && d.rule == other.rule && d.reason == other.reason
}

// verdicts gives what was decided of a job: one verdict, or several where its instances differ. names are those of the instances.
func verdicts(spec *pipeline.JobSpec, names []string, ds []decision) []pipeline.Verdict {
	var list []pipeline.Verdict
	var of []*decision
	for i := range ds {
		d := &ds[i]
		at := slices.IndexFunc(of, d.same)
		if at < 0 {
			at = len(of)
			of = append(of, d)
			v := pipeline.Verdict{Job: spec.Name, Runs: d.runs, Reason: d.reason, Rules: d.rules, At: spec.At}
			if d.runs {
				v.When, v.AllowFailure = ruleWhen(spec, d.rule), allowFailure(spec, d.rule)
			}
			list = append(list, v)
		}
		list[at].Instances = append(list[at].Instances, names[i])
	}
	for i := range list {
		if list[i].Runs {
			list[i].Names = list[i].Instances
		}
	}
	if len(list) == 1 {
		list[0].Instances = nil
	}
	return list
}
