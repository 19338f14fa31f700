package compile

import (
	"fmt"

	"keelson.dev/keelson/internal/pipeline"
)

// link settles what the jobs that run wait for: the needs of the rule that matched replace a job's own, and optional needs of
// jobs that do not run are dropped.
func (p *compiler) link(ds []decision) {
	replaced := false
	for i := range p.list {
		in, d := &p.list[i], &ds[i]
		if !d.runs {
			continue
		}
		if d.rule >= 0 && in.spec.Rules[d.rule].Needs != nil {
			in.links, replaced = p.ruleLinks(in.spec.Rules[d.rule].Needs), true
		}
		in.links = p.present(in, ds)
	}
	if replaced && !p.problems.Failed() {
		p.problems = append(p.problems, p.cycles(p.list, func(i int) []link {
			if !ds[i].runs {
				return nil
			}
			return p.list[i].links
		})...)
	}
}

// present leaves out the optional needs of jobs that do not run, and reports the others.
func (p *compiler) present(in *instance, ds []decision) []link {
	whole := true
	for _, l := range in.links {
		whole = whole && (!l.Local() || l.to >= 0 && ds[l.to].runs)
	}
	if whole { // mostly; instances share the list
		return in.links
	}
	var kept []link
	reported := map[*pipeline.NeedSpec]bool{}
	for _, l := range in.links {
		switch {
		case !l.Local() || l.to >= 0 && ds[l.to].runs:
			kept = append(kept, l)
		case l.Optional || reported[l.spec] || l.to < 0: // what is nowhere has been reported
		default:
			reported[l.spec] = true
			hint := fmt.Sprintf("`%s` does not run: %s; give `%s` the same rules, or say `optional: true`", l.Job, ds[l.to].reason, in.spec.Name)
			p.problems = append(p.problems, needProblem(in.spec, l.spec, "need-missing", fmt.Sprintf(
				"'%s' job needs '%s' job, but '%s' does not exist in the pipeline. This might be because of the only, except, or rules keywords. "+
					"To need a job that sometimes does not exist in the pipeline, use needs:optional.", in.name, l.Job, l.Job), hint))
		}
	}
	return kept
}

// expandNames puts the instances in the place of jobs with parallel, and leaves out jobs that do not run (dependencies).
func (p *compiler) expandNames(names []string, ds []decision) []string {
	if names == nil {
		return nil
	}
	expanded := make([]string, 0, len(names))
	for _, name := range names {
		all := p.parallel[name]
		if at, ok := p.byName[name]; ok && len(all) == 0 {
			all = []int{at}
		}
		for _, at := range all {
			if ds[at].runs {
				expanded = append(expanded, p.list[at].name)
			}
		}
	}
	return expanded
}
