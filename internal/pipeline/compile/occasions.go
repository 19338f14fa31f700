package compile

import (
	"fmt"
	"strings"
	"time"

	"keelson.dev/keelson/internal/pipeline"
)

// occasion is an event as every project knows it.
type occasion struct {
	name string
	ctx  pipeline.Context
}

// occasions compiles the file for the events that every project knows, and warns of those with which it goes wrong.
func (l *linter) occasions() {
	project := pipeline.Project{Path: "group/project", DefaultBranch: "main"}
	const branch = "feature/x"
	request := &pipeline.MergeRequest{ID: 1, IID: 1, SourceBranch: branch, TargetBranch: "main", SourceProject: project.Path}
	list := []occasion{
		{"a push to the default branch", pipeline.Context{Source: pipeline.SourcePush, Ref: "main", Protected: true}},
		{"a push to a branch with a merge request", pipeline.Context{Source: pipeline.SourcePush, Ref: branch, OpenMergeRequests: []string{project.Path + "!1"}}},
		{"a merge request", pipeline.Context{Source: pipeline.SourceMergeRequest, Ref: branch, MergeRequest: request}},
		{"a push that changes none of the files", pipeline.Context{Source: pipeline.SourcePush, Ref: "main", Protected: true, Changes: []string{"\x00"}}},
		{"a tag", pipeline.Context{Source: pipeline.SourcePush, Ref: "v1.0.0", Tag: true}},
		{"a schedule", pipeline.Context{Source: pipeline.SourceSchedule, Ref: "main", Protected: true}},
	}
	ran := make([][]decision, len(list))
	for i := range list {
		list[i].ctx.Project, list[i].ctx.Commit.SHA, list[i].ctx.Now = project, strings.Repeat("1", 40), time.Unix(0, 0).UTC()
		ran[i] = l.simulate(list[i])
	}
	if l.cfg.Workflow.Rules == nil {
		l.twoPipelines(ran[1], ran[2])
	}
}

// simulate decides what runs on an occasion; nil: there is no pipeline. It warns of needs of jobs that do not run then.
func (l *linter) simulate(o occasion) []decision {
	p := &compiler{jobs: l.jobs, ctx: &o.ctx, scope: newScope(l.cfg, &o.ctx), whole: true}
	if !p.bounded() {
		l.found = append(l.found, p.problems...)
		return nil
	}
	workflow, matched := p.workflow()
	if !workflow.Runs {
		return nil
	}
	p.scope.enter(matched)
	ds := p.decideAll()
	any := false
	for i := range p.list {
		in, d := &p.list[i], &ds[i]
		any = any || d.runs && !isEdge(in.spec.Stage)
		if !d.runs || d.rule >= 0 && in.spec.Rules[d.rule].Needs != nil {
			continue
		}
		for _, need := range in.links {
			if need.to < 0 || need.Optional || ds[need.to].runs || l.missing[need.spec] || !certain(&ds[need.to]) || !certain(d) {
				continue
			}
			l.missing[need.spec] = true
			l.warn(needProblem(in.spec, need.spec, "need-may-be-missing", fmt.Sprintf(
				"%s job: for %s there is no pipeline: it needs `%s`, which does not run then (%s)", in.spec.Name, o.name, need.spec.Job, ds[need.to].reason),
				"say `optional: true`, or give both jobs the same rules"))
		}
	}
	if !any {
		return nil
	}
	return ds
}

// certain tells whether a decision rests on nothing that only a real event has: files of the repository, and variables that are
// set elsewhere.
func certain(d *decision) bool {
	for _, r := range d.rules {
		for _, c := range r.Clauses {
			if c.Kind == "exists" {
				return false
			}
			for _, v := range c.Values {
				if !v.Set && !strings.HasPrefix(v.Name, "CI_") {
					return false
				}
			}
		}
	}
	return true
}

// twoPipelines warns where one push to the branch of a merge request makes two pipelines.
func (l *linter) twoPipelines(branch, request []decision) {
	if branch == nil || request == nil {
		return
	}
	const hint = "add workflow:rules: `- if: $CI_COMMIT_BRANCH && $CI_OPEN_MERGE_REQUESTS` with `when: never`, then `- if: $CI_PIPELINE_SOURCE == \"merge_request_event\"`, " +
		"`- if: $CI_COMMIT_BRANCH` and `- if: $CI_COMMIT_TAG`"
	first := -1
	for i := range l.list {
		if !request[i].runs {
			continue
		}
		if first < 0 {
			first = i
		}
		if spec := l.list[i].spec; branch[i].runs {
			p := problemAt(spec, "rules", "duplicate-pipelines", fmt.Sprintf(
				"%s job may allow multiple pipelines to run for a single action: it runs in the pipeline of the branch and in that of its merge request, and there are no workflow:rules",
				spec.Name), hint)
			l.warn(p)
			return
		}
	}
	spec := l.list[first].spec
	l.warn(problemAt(spec, "rules", "duplicate-pipelines", fmt.Sprintf(
		"a push to the branch of a merge request makes two pipelines: one with `%s` for the merge request, one with other jobs for the branch, and there are no workflow:rules", spec.Name), hint))
}
