package main

import (
	"context"
	"fmt"
	"io"
	"time"

	"github.com/spf13/cobra"

	"keelson.dev/keelson/internal/pipeline"
	"keelson.dev/keelson/internal/pipeline/compile"
	"keelson.dev/keelson/internal/pipeline/show"
	"keelson.dev/keelson/internal/pipeline/worktree"
)

func ciListCommand(g *global) *cobra.Command {
	var opts ciOptions
	cmd := &cobra.Command{
		Use: "list", Short: "Show which job runs on which event", Args: args(cobra.NoArgs),
		Long: `List compiles the pipeline for a push to the default branch and to another one, a merge request, a tag, a schedule, and a person
who starts it, and shows what each job does. "*" marks jobs for which it matters
which paths have changed.`,
		RunE: func(cmd *cobra.Command, _ []string) error { return runCIList(cmd.Context(), g, opts) },
	}
	opts.bindFiles(cmd.Flags())
	return cmd
}

// ciEvent is an event that people think of, with its name.
type ciEvent struct {
	worktree.Event
	name  string // short, for a heading
	words string
}

// events are those that a pipeline is looked at for.
func (p *ciPipeline) events(ctx context.Context) ([]ciEvent, error) {
	now := time.Now()
	here, err := p.repo.Event(ctx, worktree.Event{DefaultBranch: p.opts.defaultBranch, Now: now})
	if err != nil {
		return nil, err
	}
	main := here.Project.DefaultBranch
	branch := here.Ref
	if branch == main || here.Tag {
		branch = "feature"
	}
	at := func(name, words string, e worktree.Event) ciEvent {
		e.DefaultBranch, e.Now = main, now
		return ciEvent{e, name, words}
	}
	return []ciEvent{
		at(main, "for a push to the default branch", worktree.Event{Source: pipeline.SourcePush, Ref: "refs/heads/" + main}),
		at("branch", "for a push to another branch", worktree.Event{Source: pipeline.SourcePush, Ref: "refs/heads/" + branch}),
		at("merge request", "for a merge request", worktree.Event{Source: pipeline.SourceMergeRequest, Ref: "refs/heads/" + branch}),
		at("tag", "for a tag", worktree.Event{Source: pipeline.SourcePush, Ref: "refs/tags/v1.0.0"}),
		at("schedule", "for a schedule", worktree.Event{Source: pipeline.SourceSchedule, Ref: "refs/heads/" + main}),
		at("web", "for a start by a person", worktree.Event{Source: pipeline.SourceWeb, Ref: "refs/heads/" + main}),
	}, nil
}

func runCIList(ctx context.Context, g *global, opts ciOptions) error {
	opts.ignoreSkip, opts.outline = true, true
	p, err := openPipeline(ctx, g, opts)
	if err != nil {
		return err
	}
	defer p.files.Close()
	events, err := p.events(ctx)
	if err != nil {
		return err
	}
	var jobs []pipeline.JobSpec
	seen := map[string]bool{}
	var columns []show.Event
	for _, e := range events {
		e.Changed = []string{}
		if e.Source != pipeline.SourcePush && e.Source != pipeline.SourceMergeRequest || e.Ref == "refs/tags/v1.0.0" {
			e.Changed = nil // no diff is ever known
		}
		without, err := p.compile(ctx, e.Event)
		if err != nil {
			return err
		}
		if without.config == nil {
			return p.refuse(g, without.Problems)
		}
		some := outcomeOf(without.Result)
		if without.context.Changes != nil && p.files.Mention("changes") {
			all := *without.context
			all.Changes = nil
			some = outcomeOf(compile.Outline(without.config, &all))
		}
		columns = append(columns, column(e.name, some, outcomeOf(without.Result)))
		for _, stage := range without.config.Stages {
			for _, j := range without.config.Jobs {
				if j.Stage == stage && !seen[j.Name] {
					seen[j.Name] = true
					jobs = append(jobs, j)
				}
			}
		}
	}
	columns = show.Redacted(columns, p.secrets())
	return g.print(listOf(jobs, columns), func(w io.Writer) error { return show.Matrix(w, jobs, columns, paint(w)) })
}

// outcome is what is listed of a compiled pipeline.
type outcome struct {
	none string // why there is no pipeline; empty: there is one
	when map[string]pipeline.When
}

func outcomeOf(r compile.Result) outcome {
	switch {
	case r.Problems.Failed():
		return outcome{none: firstError(r.Problems)}
	case r.Workflow != nil && !r.Workflow.Runs:
		return outcome{none: r.Workflow.Reason}
	}
	o := outcome{when: map[string]pipeline.When{}}
	for _, v := range r.Verdicts {
		if _, there := o.when[v.Job]; v.Runs && !there {
			o.when[v.Job] = v.When
		}
	}
	return o
}

// column tells what each job does where all paths have changed, or else where none has, and whether that is the same.
func column(name string, all, none outcome) show.Event {
	e := show.Event{Name: name, Jobs: map[string]show.Cell{}}
	if none.none != "" {
		e.None = all.none
	}
	for job, when := range none.when {
		e.Jobs[job] = show.Cell{When: when, IfChanged: true}
	}
	for job, when := range all.when {
		e.Jobs[job] = show.Cell{When: when, IfChanged: none.when[job] != when}
	}
	return e
}

func firstError(problems pipeline.Problems) string {
	for _, p := range problems {
		if p.Severity == pipeline.Error {
			return p.Error()
		}
	}
	return ""
}

// jobList is the matrix as JSON.
type jobList struct {
	Jobs   []listedName `json:"jobs"`
	Events []show.Event `json:"events"`
}

type listedName struct {
	Name  string            `json:"name"`
	Stage string            `json:"stage"`
	At    pipeline.Position `json:"at"`
}

func listOf(jobs []pipeline.JobSpec, events []show.Event) jobList {
	out := jobList{Jobs: []listedName{}, Events: events}
	for _, j := range jobs {
		out.Jobs = append(out.Jobs, listedName{j.Name, j.Stage, j.At})
	}
	return out
}

func ciGraphCommand(g *global) *cobra.Command {
	var opts ciOptions
	cmd := &cobra.Command{
		Use: "graph", Short: "Show the stages and jobs of a pipeline, and what each waits for", Args: args(cobra.NoArgs),
		Long: `Graph shows the jobs that run for an event by their stages, and what each of them waits for. -o dot is for Graphviz, -o svg draws it
without, -o json is the compiled graph.`,
		Annotations: map[string]string{formatsOf: "dot svg"},
		RunE: func(cmd *cobra.Command, _ []string) error {
			opts.given(cmd.Flags())
			return runCIGraph(cmd.Context(), g, opts)
		},
	}
	opts.bindFiles(cmd.Flags())
	opts.bindEvent(cmd.Flags())
	return cmd
}

func runCIGraph(ctx context.Context, g *global, opts ciOptions) error {
	opts.outline = g.output != "json" && g.output != "yaml"
	c, err := compilePipeline(ctx, g, opts)
	if err != nil {
		return err
	}
	defer c.files.Close()
	graph, err := c.graph()
	if err != nil {
		return err
	}
	graph = show.WithoutSecrets(graph)
	switch g.output {
	case "dot":
		return show.DOT(g.out, graph)
	case "svg":
		return show.SVG(g.out, graph)
	case "json", "yaml":
		return g.print(graph, nil)
	}
	fmt.Fprintln(g.out, show.Headline(graph))
	return show.Graph(g.out, graph, paint(g.out))
}

// graph is the compiled graph, or why there is none.
func (c *compiled) graph() (*pipeline.Graph, error) {
	if c.Graph != nil {
		return c.Graph, nil
	}
	why := "no job runs"
	if c.Workflow != nil && c.Workflow.Reason != "" {
		why = c.Workflow.Reason
	}
	return nil, hintf(fmt.Errorf("there is no pipeline for %s: %s", describeEvent(c.context), why), "keelson ci explain tells why; --ref and --source name another event")
}
