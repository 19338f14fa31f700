package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"keelson.dev/keelson/internal/pipeline"
	"keelson.dev/keelson/internal/pipeline/compile"
	"keelson.dev/keelson/internal/pipeline/rules"
	"keelson.dev/keelson/internal/pipeline/show"
	"keelson.dev/keelson/internal/pipeline/worktree"
)

func ciExplainCommand(g *global) *cobra.Command {
	var opts ciOptions
	cmd := &cobra.Command{
		Use:   "explain [JOB...]",
		Short: "Show why jobs run for an event, or do not",
		Long: `Explain shows of a job, or of all, each rule that was looked at, each of its conditions, and the values that it looked at with
where they were set. Without flags the event is a push of the working tree as it is; --ref, --source, --changed and --variable say
what else it is.`,
		RunE: func(cmd *cobra.Command, a []string) error {
			opts.given(cmd.Flags())
			return runCIExplain(cmd.Context(), g, opts, a)
		},
	}
	opts.bindFiles(cmd.Flags())
	opts.bindEvent(cmd.Flags())
	return cmd
}

// explained is the answer of explain as JSON.
type explained struct {
	Event    string             `json:"event"`
	Workflow *pipeline.Verdict  `json:"workflow,omitempty"`
	Jobs     []pipeline.Verdict `json:"jobs"`
}

func runCIExplain(ctx context.Context, g *global, opts ciOptions, jobs []string) error {
	opts.outline = true
	c, err := compilePipeline(ctx, g, opts)
	if err != nil {
		return err
	}
	defer c.files.Close()
	out := explained{Event: describeEvent(c.context), Workflow: c.Workflow, Jobs: c.Verdicts}
	if len(jobs) > 0 {
		out.Jobs = nil
		for _, name := range jobs {
			vs, err := c.verdicts(name)
			if err != nil {
				return err
			}
			out.Jobs = append(out.Jobs, vs...)
		}
	}
	out = show.Redacted(out, c.secrets())
	return g.print(out, func(w io.Writer) error {
		fmt.Fprintln(w, "for "+out.Event)
		if wf := out.Workflow; wf != nil && (!wf.Runs || len(wf.Rules) > 0) {
			named := *wf
			named.Job = "the pipeline"
			fmt.Fprintln(w)
			if err := show.Verdict(w, named, paint(w)); err != nil {
				return err
			}
		}
		for _, v := range out.Jobs {
			fmt.Fprintln(w)
			if err := show.Verdict(w, v, paint(w)); err != nil {
				return err
			}
		}
		return nil
	})
}

// verdicts finds what was decided about a job, by its name in the file or in the graph.
func (c *compiled) verdicts(name string) ([]pipeline.Verdict, error) {
	var found []pipeline.Verdict
	var names []string
	for _, v := range c.Verdicts {
		if v.Job == name || slices.Contains(v.Names, name) {
			found = append(found, v)
		}
		names = append(names, v.Job)
	}
	switch {
	case len(found) > 0:
		return found, nil
	case pipeline.IsHidden(name):
		return nil, fmt.Errorf("%s is a template: what begins with a dot never runs", name)
	}
	return nil, hintf(fmt.Errorf("there is no job %s", name), "%s", suggestName(name, names))
}

// suggestName says which name was probably meant, or which there are.
func suggestName(name string, names []string) string {
	if best := pipeline.Nearest(name, names); best != "" {
		return fmt.Sprintf("did you mean %q?", best)
	}
	slices.Sort(names)
	names = slices.Compact(names)
	const most = 20
	if len(names) > most {
		return fmt.Sprintf("there are %s … and %d more", strings.Join(names[:most], ", "), len(names)-most)
	}
	return "there are " + strings.Join(names, ", ")
}

func ciVariablesCommand(g *global) *cobra.Command {
	var opts ciOptions
	cmd := &cobra.Command{
		Use: "variables JOB | PIPELINE [JOB]", Short: "Show the variables that a job sees, and where each comes from", Args: args(cobra.MaximumNArgs(2)),
		Long: `Variables shows what a job of the working tree finds in its environment for an event, with where each value was set. Those that are known
only when the job starts (CI_JOB_ID, dotenv reports of its needs, the runner's) are not among them. Masked values stay masked.

With the number of a pipeline it shows what that one had on the instance: the variables that all its jobs have alike, or those of JOB. With --project
GROUP/NAME alone it shows the variables in the settings of a project of the instance. Values that are masked, protected or in a Secret are not shown.`,
		Example: `  keelson ci variables test --ref feature
  keelson ci variables 12 deploy
  keelson ci variables --project acme/shop`,
		RunE: func(cmd *cobra.Command, a []string) error {
			opts.given(cmd.Flags())
			switch {
			case len(a) == 0 && len(opts.projects) == 1 && !strings.Contains(opts.projects[0], "="):
				return runCISettings(cmd.Context(), g, opts.projects[0])
			case len(a) > 0 && isNumber(a[0]):
				return runCIVariablesOf(cmd.Context(), g, a)
			case len(a) != 1:
				return usagef("whose variables? JOB, PIPELINE [JOB] or --project GROUP/NAME")
			}
			return runCIVariables(cmd.Context(), g, opts, a[0])
		},
	}
	opts.bindFiles(cmd.Flags())
	opts.bindEvent(cmd.Flags())
	return cmd
}

func runCIVariables(ctx context.Context, g *global, opts ciOptions, name string) error {
	c, err := compilePipeline(ctx, g, opts)
	if err != nil {
		return err
	}
	defer c.files.Close()
	job, err := c.job(name)
	if err != nil {
		return err
	}
	return g.print(show.Final(job.Variables), func(w io.Writer) error { return show.Variables(w, job.Variables) })
}

// job finds a job of the graph: by its name there, or the first one of its name in the file.
func (c *compiled) job(name string) (pipeline.Job, error) {
	if c.Graph != nil {
		for _, exact := range []bool{true, false} {
			for _, j := range c.Graph.Jobs {
				if j.Name == name || !exact && j.Base == name {
					return j, nil
				}
			}
		}
	}
	vs, err := c.verdicts(name)
	if err != nil {
		return pipeline.Job{}, err
	}
	return pipeline.Job{}, hintf(fmt.Errorf("%s does not run for %s: %s", name, describeEvent(c.context), vs[0].Reason), "keelson ci explain %s tells more", name)
}

func ciEvalCommand(g *global) *cobra.Command {
	var opts ciOptions
	cmd := &cobra.Command{
		Use: "eval EXPRESSION", Short: "Show what the expression of a rule yields", Args: args(cobra.ExactArgs(1)),
		Long: `Eval evaluates an expression as rules:if has it. Its first line is true or false, then the value that it yields, then the variables
that it looked at. It sees the pipeline's predefined variables, the project's, and those of --variable.`,
		Example: `  keelson ci eval '$CI_COMMIT_BRANCH =~ /^release/ && $DEPLOY' --variable DEPLOY=yes`,
		RunE: func(cmd *cobra.Command, a []string) error {
			opts.given(cmd.Flags())
			return runCIEval(cmd.Context(), g, opts, a[0])
		},
	}
	f := cmd.Flags()
	f.StringArrayVar(&opts.variables, "variable", nil, "a variable, as `NAME=VALUE`; can be repeated")
	f.StringVar(&opts.variablesFile, "variables-file", "", "the `file` with the project's CI/CD variables (default: "+worktree.VariablesFile+", if it is there)")
	f.StringVar(&opts.defaultBranch, "default-branch", "", "the project's default `branch` (default: what the remote says)")
	opts.bindEvent(f)
	return cmd
}

// evaluated is what an expression came to, as JSON.
type evaluated struct {
	Result    bool                 `json:"result"`
	Value     any                  `json:"value"`
	Variables []pipeline.UsedValue `json:"variables"`
}

func runCIEval(ctx context.Context, g *global, opts ciOptions, text string) error {
	expression, err := rules.Parse(text)
	if err != nil {
		return hintf(fmt.Errorf("%s: %w", text, err), "docs/pipelines.md has the language of expressions")
	}
	e, err := opts.event()
	if err != nil {
		return err
	}
	repo, err := openWorktree(ctx)
	if err != nil {
		return err
	}
	p := &ciPipeline{opts: opts, repo: repo, files: repo.Files(ctx, worktree.FilesOptions{})}
	if err := p.readVariables(); err != nil {
		return err
	}
	if p.problems.Failed() {
		return p.refuse(g, p.problems)
	}
	c, err := p.context(ctx, e)
	if err != nil {
		return err
	}
	value, used := expression.Evaluate(compile.ConfigVariables(c))
	out := evaluated{Result: rules.Truth(value), Value: value, Variables: append([]pipeline.UsedValue{}, used...)}
	out = show.Redacted(out, p.secrets())
	return g.print(out, func(w io.Writer) error {
		b, err := json.Marshal(out.Value)
		if err != nil {
			return errors.New("the value cannot be shown")
		}
		fmt.Fprintf(w, "%t\n%s\n", out.Result, b)
		return show.Values(w, out.Variables)
	})
}
