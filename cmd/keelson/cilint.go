package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"runtime"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	"golang.org/x/sync/errgroup"

	"keelson.dev/keelson/internal/pipeline"
	"keelson.dev/keelson/internal/pipeline/compile"
	"keelson.dev/keelson/internal/pipeline/config"
	"keelson.dev/keelson/internal/pipeline/show"
)

type ciLintOptions struct {
	ciOptions
	files  []string
	strict bool
	merged bool
}

func ciLintCommand(g *global) *cobra.Command {
	var opts ciLintOptions
	cmd := &cobra.Command{
		Use:   "lint [FILE...]",
		Short: "Show all that is wrong with a pipeline, and what is seldom meant",
		Long: `Lint reads a pipeline with everything that it includes, and shows every error and every trap at once: where it is, how it came
there (include, extends, !reference, default), and what to do. What would fail only for some events (a need that is not there in merge
requests) is tried for each kind of event, and is a warning unless flags say which event is meant. It ends with code 1 where there are
errors, and with --strict where there are warnings.

-o json is for programs, -o sarif for code hosts and editors. --merged prints the configuration with all of it resolved.`,
		Annotations: map[string]string{formatsOf: "sarif"},
		RunE: func(cmd *cobra.Command, a []string) error {
			opts.given(cmd.Flags())
			if opts.file != "" {
				a = append([]string{opts.file}, a...)
			}
			opts.files = a
			return runCILint(cmd.Context(), g, opts)
		},
	}
	opts.bindFiles(cmd.Flags())
	opts.bindEvent(cmd.Flags())
	cmd.Flags().BoolVar(&opts.strict, "strict", false, "end with code 1 for warnings too")
	cmd.Flags().BoolVar(&opts.merged, "merged", false, "print the configuration with includes, extends and references resolved")
	return cmd
}

// linted is what was found in a pipeline.
type linted struct {
	File     string            `json:"file"`
	Valid    bool              `json:"valid"`
	Files    []pipeline.File   `json:"files"`
	Jobs     int               `json:"jobs"`
	Problems pipeline.Problems `json:"problems"`
	texts    show.Texts
}

func runCILint(ctx context.Context, g *global, opts ciLintOptions) error {
	files := opts.files
	if len(files) == 0 {
		files = []string{""}
	}
	if opts.merged {
		if len(files) > 1 {
			return usagef("--merged takes one file")
		}
		return printMerged(ctx, g, opts, files[0])
	}
	var all []linted
	bad := false
	for _, file := range files {
		opts.file = file
		l, err := lintPipeline(ctx, g, opts.ciOptions)
		if err != nil {
			return err
		}
		all = append(all, l)
		bad = bad || !l.Valid || opts.strict && len(l.Problems) > 0
	}
	if err := printLinted(g, all); err != nil {
		return err
	}
	if bad {
		return withCode(exitFailure, errSilent)
	}
	return nil
}

// lintPipeline collects all problems of a pipeline.
func lintPipeline(ctx context.Context, g *global, opts ciOptions) (linted, error) {
	e, err := opts.event()
	if err != nil {
		return linted{}, err
	}
	opts.ignoreSkip, opts.outline = true, true
	p, err := openPipeline(ctx, g, opts)
	if err != nil {
		return linted{}, err
	}
	defer p.files.Close()
	l := linted{File: p.first.Name, Files: []pipeline.File{}, Problems: pipeline.Problems{}, texts: p.files.Text}
	c, err := p.compile(ctx, e)
	if err != nil {
		return l, err
	}
	here := pipeline.Problems{} // what fails for an event that nobody has asked about
	for _, found := range c.Problems {
		if !opts.eventGiven && ofEvent(found) {
			here = append(here, found)
		} else {
			l.Problems = append(l.Problems, found)
		}
	}
	switch cfg := c.read; {
	case cfg == nil:
	case c.config != nil:
		l.Files, l.Jobs = cfg.Files, len(cfg.Jobs)
		l.Problems = merge(l.Problems, compile.Lint(cfg))
	default:
		l.Files, l.Jobs = cfg.Files, len(cfg.Jobs)
		if !cfg.Partial { // a mistake within a job hides none among the jobs
			l.Problems = merge(l.Problems, compile.Check(cfg))
		}
	}
	if !l.Problems.Failed() {
		words := "for a push to " + c.context.Ref
		if c.context.Tag {
			words = "for a push of tag " + c.context.Ref
		}
		l.warn(words, here)
		if err := p.lintEvents(ctx, &l); err != nil {
			return l, err
		}
	}
	l.Valid = !l.Problems.Failed()
	l.Problems.Sort(l.Files)
	return l, nil
}

// lintEvents finds what fails only for other events than the one that is asked about. It is a warning: not every pipeline is
// meant for every event.
func (p *ciPipeline) lintEvents(ctx context.Context, l *linted) error {
	events, err := p.events(ctx)
	if err != nil {
		return err
	}
	found := make([]pipeline.Problems, len(events))
	var group errgroup.Group
	group.SetLimit(runtime.GOMAXPROCS(0))
	for i, e := range events {
		c := &compiled{ciPipeline: p}
		if c.context, err = p.context(ctx, e.Event); err != nil {
			return err
		}
		build := func() error {
			c.build()
			found[i] = c.Problems // and the graph is let go
			return nil
		}
		if p.single == nil || p.files.Mention("exists") { // files are not looked up by several at once
			_ = build()
		} else {
			group.Go(build)
		}
	}
	_ = group.Wait() // none of them fails
	for i, e := range events {
		l.warn(e.words, found[i])
	}
	return nil
}

// ofEvent tells whether a problem depends on which jobs an event makes run.
func ofEvent(p pipeline.Problem) bool {
	return p.Code == "need-missing" || p.Code == "rule-failed" || p.Code == "needs-cycle"
}

// warn adds what fails for an event as warnings.
func (l *linted) warn(words string, problems pipeline.Problems) {
	for _, found := range problems {
		if found.Severity != pipeline.Error {
			continue
		}
		if slices.ContainsFunc(l.Problems, func(p pipeline.Problem) bool { return p.Code == "need-may-be-missing" && p.At == found.At }) {
			continue // that says it of all events
		}
		found.Severity = pipeline.Warning
		found.Message = words + ": " + found.Message
		l.Problems = merge(l.Problems, pipeline.Problems{found})
	}
}

// merge adds problems that are not there yet. One that is there for another event is not said again.
func merge(to, more pipeline.Problems) pipeline.Problems {
	for _, p := range more {
		if !slices.ContainsFunc(to, func(q pipeline.Problem) bool {
			return q.Code == p.Code && q.At == p.At && q.Job == p.Job && (q.Message == p.Message || afterEvent(q.Message) == afterEvent(p.Message))
		}) {
			to = append(to, p)
		}
	}
	return to
}

// afterEvent takes "for a tag: " off a message.
func afterEvent(message string) string {
	if before, rest, ok := strings.Cut(message, ": "); ok && strings.HasPrefix(before, "for a ") {
		return rest
	}
	return message
}

func printLinted(g *global, all []linted) error {
	switch g.output {
	case "sarif":
		var problems pipeline.Problems
		for _, l := range all {
			problems = append(problems, l.Problems...)
		}
		return show.SARIF(g.out, problems, all[0].File, version)
	case "json", "yaml":
		if len(all) == 1 {
			return g.print(all[0], nil)
		}
		return g.print(all, nil)
	}
	for _, l := range all {
		if err := show.Problems(g.out, l.Problems, l.texts, paint(g.out)); err != nil {
			return err
		}
		if len(l.Problems) > 0 {
			fmt.Fprintln(g.out)
		}
		what := show.Count(l.Jobs, "job") + " in " + show.Count(len(l.Files), "file")
		if _, err := fmt.Fprintf(g.out, "%s: %s (%s)\n", show.Plain(l.File), cmp.Or(show.Summary(l.Problems), "nothing to complain about"), what); err != nil {
			return err
		}
	}
	return nil
}

// printMerged prints a configuration as it is once everything is resolved.
func printMerged(ctx context.Context, g *global, opts ciLintOptions, file string) error {
	opts.file = file
	e, err := opts.event()
	if err != nil {
		return err
	}
	p, err := openPipeline(ctx, g, opts.ciOptions)
	if err != nil {
		return err
	}
	defer p.files.Close()
	c, err := p.context(ctx, e)
	if err != nil {
		return err
	}
	doc, problems := config.Read(p.read(c))
	if problems.Failed() {
		return p.refuse(g, problems)
	}
	if doc == nil || doc.Root == nil {
		return errors.New("there is nothing in it")
	}
	return writeMerged(g.out, doc)
}

func writeMerged(w io.Writer, doc *config.Document) error {
	text, err := show.YAML(doc.Root)
	if err != nil {
		return fmt.Errorf("print the configuration: %w", err)
	}
	_, err = w.Write(text)
	return err
}
