package compile

import (
	"fmt"
	"regexp"
	"strings"
	"sync"

	"keelson.dev/keelson/internal/pipeline"
)

// skipped is what a commit message says to have no pipeline.
var skipped = sync.OnceValue(func() *regexp.Regexp { return regexp.MustCompile(`(?i)\[(ci[ _-]skip|skip[ _-]ci)\]`) })

// skip gives the words by which the commit message asks for no pipeline; empty: it does not, or this event does not listen:
// what a person, a schedule or another pipeline starts is never skipped.
func skip(c *pipeline.Context) string {
	switch c.Source {
	case pipeline.SourceWeb, pipeline.SourceTrigger, pipeline.SourceSchedule, pipeline.SourceAPI, pipeline.SourceParent, pipeline.SourcePipeline:
		return ""
	}
	if c.IgnoreSkip || !strings.Contains(c.Commit.Message, "[") {
		return ""
	}
	return skipped().FindString(c.Commit.Message)
}

// workflow decides whether the event makes a pipeline. matched is the item of workflow:rules that says so, nil without rules.
func (p *compiler) workflow() (verdict pipeline.Verdict, matched *pipeline.Rule) {
	if words := skip(p.ctx); words != "" {
		return pipeline.Verdict{Reason: fmt.Sprintf("the commit message says %s", words)}, nil
	}
	if p.cfg.Workflow.Rules == nil {
		return pipeline.Verdict{Runs: true, Reason: "there are no workflow:rules: every event makes a pipeline"}, nil
	}
	d := p.firstMatch(p.cfg.Workflow.Rules, lazyFacts(p.scope.pipeline))
	verdict = pipeline.Verdict{Runs: d.rule >= 0, Reason: "workflow: " + d.reason, Rules: d.rules}
	switch {
	case d.err != nil:
		at := d.rules[len(d.rules)-1]
		p.problems = append(p.problems, pipeline.Problem{Severity: pipeline.Error, Code: "rule-failed", At: at.At, Via: at.Via,
			Message: fmt.Sprintf("Failed to parse rule for workflow: %v", d.err)})
	case d.rule < 0:
		verdict.Reason = "Pipeline filtered out by workflow rules: " + d.reason
	case p.cfg.Workflow.Rules[d.rule].When == pipeline.Never:
		verdict.Runs, verdict.Reason = false, "Pipeline filtered out by workflow rules: "+d.reason+", which says `when: never`"
	default:
		matched = &p.cfg.Workflow.Rules[d.rule]
	}
	return verdict, matched
}

// autoCancel is what the workflow says of it, and over it the rule that matched.
func autoCancel(w pipeline.Workflow, matched *pipeline.Rule) pipeline.AutoCancel {
	a := w.AutoCancel
	if matched == nil {
		return a
	}
	if s := matched.AutoCancel.OnNewCommit; s != "" {
		a.OnNewCommit = s
	}
	if s := matched.AutoCancel.OnJobFailure; s != "" {
		a.OnJobFailure = s
	}
	return a
}
