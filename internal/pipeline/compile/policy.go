package compile

import (
	"fmt"
	"regexp"
	"strings"

	"keelson.dev/keelson/internal/pipeline"
	"keelson.dev/keelson/internal/pipeline/rules"
)

// defaultOnly is the only of a job that says nothing: neither only nor rules, in a file without workflow:rules.
var defaultOnly = []pipeline.Text{{Value: "branches"}, {Value: "tags"}}

// policies gives a job's only and except with their defaults. A nil one decides nothing.
func policies(cfg *pipeline.Config, spec *pipeline.JobSpec) (only, except *pipeline.Policy) {
	if only = spec.Only; only != nil && only.Refs == nil {
		with := *only
		with.Refs, only = defaultOnly, &with
	}
	if only == nil && !spec.HasRules && !cfg.Workflow.HasRules {
		only = &pipeline.Policy{Refs: defaultOnly}
	}
	return only, spec.Except
}

// policy decides by only and except: all that only says must hold, and nothing of what except says.
func (p *compiler) policy(spec *pipeline.JobSpec, f *facts) decision {
	d := decision{runs: true, rule: -1}
	only, except := policies(p.cfg, spec)
	if only != nil {
		v := pipeline.RuleVerdict{Keyword: "only", At: only.At, Matches: true, Clauses: p.specs(only, f)}
		word := "only: "
		if spec.Only == nil {
			word = "by default it runs for branches and tags: "
		}
		for _, c := range v.Clauses {
			if d.reason == "" || v.Matches && !c.Holds {
				d.reason = word + c.Detail
			}
			v.Matches = v.Matches && c.Holds
		}
		d.runs = v.Matches
		d.rules = append(d.rules, v)
	}
	if except != nil {
		v := pipeline.RuleVerdict{Keyword: "except", At: except.At, Clauses: p.specs(except, f)}
		for _, c := range v.Clauses {
			if c.Holds && !v.Matches && d.runs {
				d.reason = "except: " + c.Detail
			}
			v.Matches = v.Matches || c.Holds
		}
		d.runs = d.runs && !v.Matches
		d.rules = append(d.rules, v)
	}
	if d.reason == "" {
		d.reason = "no rules, only or except: it runs in every pipeline"
		if except != nil {
			d.reason = "except: nothing of it holds"
		}
	}
	return d
}

// specs tells what each keyword of a policy comes to; of several values under one, any is enough.
func (p *compiler) specs(policy *pipeline.Policy, f *facts) []pipeline.ClauseVerdict {
	var verdicts []pipeline.ClauseVerdict
	if policy.Refs != nil {
		verdicts = append(verdicts, p.refs(policy.Refs, policy.At))
	}
	if policy.Kubernetes != "" {
		v := pipeline.ClauseVerdict{Kind: "kubernetes", Text: policy.Kubernetes, At: policy.At, Holds: p.ctx.Kubernetes, Detail: "no cluster is connected"}
		if v.Holds {
			v.Detail = "a cluster is connected"
		}
		verdicts = append(verdicts, v)
	}
	if policy.Variables != nil {
		verdicts = append(verdicts, p.variableSpec(policy.Variables, policy.At, f))
	}
	if policy.Changes != nil {
		verdicts = append(verdicts, p.changes(policy.Changes, policy.At))
	}
	return verdicts
}

// refs is only:refs and except:refs.
func (p *compiler) refs(patterns []pipeline.Text, at pipeline.Position) pipeline.ClauseVerdict {
	v := pipeline.ClauseVerdict{Kind: "refs", Text: joined(patterns), At: placed(patterns, at)}
	for _, t := range patterns {
		if why := p.refMatches(t.Value); why != "" {
			v.Holds, v.Detail = true, fmt.Sprintf("`%s` matches: %s", t.Value, why)
			return v
		}
	}
	v.Detail = fmt.Sprintf("none of %s matches: %s", v.Text, p.event())
	if len(patterns) == 1 {
		v.Detail = fmt.Sprintf("`%s` does not match: %s", v.Text, p.event())
	}
	return v
}

// refMatches tells how a word of only or except matches the event; empty: it does not. The words are GitLab's: branches, tags,
// the source in singular or plural, the name of a ref or a pattern of it; each may end in @ with the path of a project.
func (p *compiler) refMatches(word string) string {
	pattern, path, hasPath := strings.Cut(word, "@")
	if hasPath && path != p.ctx.Project.Path {
		return ""
	}
	source := strings.TrimSuffix(p.ctx.Source, "_event")
	branch := !p.ctx.Tag && !ofMergeRequest(p.ctx)
	switch {
	case p.ctx.Tag && pattern == "tags":
		return p.ctx.Ref + " is a tag"
	case branch && pattern == "branches":
		return p.ctx.Ref + " is a branch"
	case source != "" && (pattern == source || pattern == plural(source)):
		return "the source is " + p.ctx.Source
	case !branch && !p.ctx.Tag: // names and patterns of refs mean nothing in merge request pipelines
		return ""
	}
	re, isPattern, err := refPattern(pattern)
	switch {
	case isPattern && err == nil:
		if re.MatchString(p.ctx.Ref) {
			return "the ref is " + p.ctx.Ref
		}
	case pattern == p.ctx.Ref:
		return "the ref is " + p.ctx.Ref
	}
	return ""
}

// plural is what Rails makes of the name of a source.
func plural(source string) string {
	if strings.HasSuffix(source, "sh") {
		return source + "es"
	}
	return source + "s"
}

// refPattern reads /pattern/flags.
func refPattern(text string) (re *regexp.Regexp, isPattern bool, err error) {
	rest, ok := strings.CutPrefix(text, "/")
	end := strings.LastIndexByte(rest, '/')
	if !ok || end < 1 || strings.Trim(rest[end+1:], "ismU") != "" {
		return nil, false, nil
	}
	pattern := rest[:end]
	if flags := rest[end+1:]; flags != "" {
		pattern = "(?" + flags + ")" + pattern
	}
	re, err = regexp.Compile(pattern)
	return re, true, err
}

// event names the event for a reason.
func (p *compiler) event() string {
	switch {
	case ofMergeRequest(p.ctx):
		return "the source is " + p.ctx.Source
	case p.ctx.Tag:
		return fmt.Sprintf("the source is %s, the ref tag %s", p.ctx.Source, p.ctx.Ref)
	default:
		return fmt.Sprintf("the source is %s, the ref branch %s", p.ctx.Source, p.ctx.Ref)
	}
}

// variableSpec is only:variables and except:variables: one of the expressions must be true.
func (p *compiler) variableSpec(expressions []pipeline.Text, at pipeline.Position, f *facts) pipeline.ClauseVerdict {
	v := pipeline.ClauseVerdict{Kind: "variables", Text: joined(expressions), At: placed(expressions, at)}
	for i := range expressions {
		holds, of, _ := rules.Check(pipeline.Clauses{If: &expressions[i]}, rules.Facts{Raw: f.raw(), Context: p.ctx, Cache: &p.cache})
		v.Values = append(v.Values, of[0].Values...)
		if holds {
			v.Holds, v.Detail = true, fmt.Sprintf("`%s` is true", expressions[i].Value)
			return v
		}
	}
	v.Detail = "none of the expressions is true"
	return v
}

// changes is only:changes and except:changes. Unlike those of rules, their paths hold no variables.
func (p *compiler) changes(globs []pipeline.Text, at pipeline.Position) pipeline.ClauseVerdict {
	holds, of, _ := rules.Check(pipeline.Clauses{Changes: &pipeline.Changes{Paths: globs}}, rules.Facts{Context: p.ctx, Cache: &p.cache})
	return pipeline.ClauseVerdict{Kind: "changes", Text: joined(globs), At: placed(globs, at), Holds: holds, Detail: of[0].Detail}
}

func joined(texts []pipeline.Text) string {
	values := make([]string, len(texts))
	for i, t := range texts {
		values[i] = t.Value
	}
	return strings.Join(values, ", ")
}

// placed is where the first of several texts is written.
func placed(texts []pipeline.Text, otherwise pipeline.Position) pipeline.Position {
	if len(texts) > 0 && texts[0].At != (pipeline.Position{}) {
		return texts[0].At
	}
	return otherwise
}
