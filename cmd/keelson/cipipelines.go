package main

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"keelson.dev/keelson/internal/pipeline"
	"keelson.dev/keelson/internal/pipeline/show"
	"keelson.dev/keelson/internal/store"
	"keelson.dev/keelson/internal/web"
)

type ciPipelinesOptions struct {
	project, ref, status string
	before               int64
	limit                int
}

func ciPipelinesCommand(g *global) *cobra.Command {
	var opts ciPipelinesOptions
	cmd := &cobra.Command{
		Use: "pipelines", Short: "List the pipelines of the instance, the newest first", Args: args(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error { return runCIPipelines(cmd.Context(), g, opts) },
	}
	f := cmd.Flags()
	f.StringVar(&opts.project, "project", "", "only those of this project, by its `path`")
	f.StringVar(&opts.ref, "ref", "", "only those of this `branch` or tag")
	f.StringVar(&opts.status, "status", "", "only those in this `status`: running, success, failed, manual, …")
	f.Int64Var(&opts.before, "before", 0, "the page that begins before this `number`")
	f.IntVar(&opts.limit, "limit", 20, "how many at most")
	return cmd
}

func runCIPipelines(ctx context.Context, g *global, opts ciPipelinesOptions) error {
	q := url.Values{"limit": {strconv.Itoa(opts.limit)}}
	for name, value := range map[string]string{"project": opts.project, "ref": opts.ref, "status": opts.status} {
		if value != "" {
			q.Set(name, value)
		}
	}
	if opts.before > 0 {
		q.Set("before", strconv.FormatInt(opts.before, 10))
	}
	var list web.PipelineList
	if _, err := g.callAPI(ctx, http.MethodGet, web.PipelinesPath+"pipelines?"+q.Encode(), nil, &list); err != nil {
		return fmt.Errorf("list pipelines: %w", err)
	}
	return g.print(list, func(w io.Writer) error {
		t := newTable(w, false, "ID", "PROJECT", "STATUS", "REF", "COMMIT", "TITLE", "SOURCE", "AGE", "TOOK")
		for _, p := range list.Pipelines {
			t.row(strconv.FormatInt(p.ID, 10), show.Plain(p.ProjectPath), p.Status, show.Plain(p.Ref), p.SHA[:min(8, len(p.SHA))], show.Plain(cut(p.Title, 50)), p.Source, ageOf(p.Created), took(p.Started, p.Finished))
		}
		return t.flush()
	})
}

// cut shortens a text to a number of characters.
func cut(text string, n int) string {
	if r := []rune(text); len(r) > n {
		return string(r[:n-1]) + "…"
	}
	return text
}

// took is how long something has taken, or takes by now; "-": it has not begun.
func took(from, to time.Time) string {
	switch {
	case from.IsZero():
		return "-"
	case to.IsZero():
		to = time.Now()
	}
	d := to.Sub(from)
	if d < time.Minute {
		return d.Round(100 * time.Millisecond).String()
	}
	return d.Round(time.Second).String()
}

func ciShowCommand(g *global) *cobra.Command {
	var watch bool
	cmd := &cobra.Command{
		Use: "show ID", Short: "Show a pipeline of the instance with its jobs",
		Long: `Show tells how a pipeline and its jobs stand. With --watch it tells what changes until nothing more happens by itself; it ends with code 1
where the pipeline has failed or was canceled then, and with 0 also where it waits for a person. With -o json that is the pipeline, a line for each change.`,
		Args: args(cobra.ExactArgs(1)),
		RunE: func(cmd *cobra.Command, a []string) error {
			if watch {
				return runCIWatch(cmd.Context(), g, a[0])
			}
			return runCIShow(cmd.Context(), g, a[0])
		},
	}
	cmd.Flags().BoolVarP(&watch, "watch", "w", false, "go on until nothing more happens by itself")
	return cmd
}

// pipelineOf asks for a pipeline by its number.
func (g *global) pipelineOf(ctx context.Context, id string) (web.PipelineDetail, error) {
	var p web.PipelineDetail
	if _, err := strconv.ParseInt(id, 10, 64); err != nil {
		return p, withCode(exitUsage, hintf(fmt.Errorf("%q is no pipeline's number", id), "keelson ci pipelines lists them"))
	}
	if _, err := g.callAPI(ctx, http.MethodGet, web.PipelinesPath+"pipelines/"+id, nil, &p); err != nil {
		return p, fmt.Errorf("show pipeline %s: %w", id, err)
	}
	return p, nil
}

func runCIShow(ctx context.Context, g *global, id string) error {
	p, err := g.pipelineOf(ctx, id)
	if err != nil {
		return err
	}
	return printPipeline(g, p)
}

func printPipeline(g *global, p web.PipelineDetail) error {
	return g.print(p, func(w io.Writer) error {
		fmt.Fprintf(w, "Pipeline:\t%d (#%d of %s)\n", p.ID, p.IID, show.Plain(p.ProjectPath))
		fmt.Fprintf(w, "Status:  \t%s\n", p.Status)
		fmt.Fprintf(w, "Commit:  \t%s on %s, %s, by %s\n", p.SHA[:min(8, len(p.SHA))], show.Plain(p.Ref), show.Plain(p.Title), show.Plain(p.Author))
		fmt.Fprintf(w, "Started: \tby %s, %s ago\n", show.Plain(cmp.Or(p.User, p.Source)), ageOf(p.Created))
		if p.Why != "" {
			fmt.Fprintf(w, "Why:     \t%s\n", indented(p.Why))
		}
		for _, c := range p.Children {
			fmt.Fprintf(w, "Child:   \t%d, %s\n", c.ID, c.Status)
		}
		for _, o := range p.Downstream {
			fmt.Fprintf(w, "Started: \t%d of %s, %s\n", o.ID, show.Plain(o.ProjectPath), o.Status)
		}
		fmt.Fprintln(w)
		t := newTable(w, false, "JOB", "STAGE", "NAME", "STATUS", "TOOK", "WHY")
		for _, j := range p.Jobs {
			name := j.Name
			if j.Attempt > 1 {
				name += fmt.Sprintf(" (attempt %d)", j.Attempt)
			}
			why := j.Why
			if j.Status == string(pipeline.StatusFailed) && j.Message != "" {
				why = j.Message
			}
			t.row(strconv.FormatInt(j.ID, 10), show.Plain(j.Stage), show.Plain(name), j.Status, took(j.Started, j.Finished), show.Plain(why))
		}
		return t.flush()
	})
}

// indented puts what follows the first line below it.
func indented(text string) string {
	lines := strings.Split(text, "\n")
	for i := range lines {
		lines[i] = show.Plain(lines[i])
	}
	return strings.Join(lines, "\n         \t")
}

func ciLogsCommand(g *global) *cobra.Command {
	var follow bool
	cmd := &cobra.Command{
		Use: "logs PIPELINE JOB", Short: "Print the log of a job of the instance",
		Long: `Logs prints what a job has said: its last attempt, where JOB is a name, or the attempt with that number. With -f it goes on until
the job is over.`,
		Args: args(cobra.ExactArgs(2)),
		RunE: func(cmd *cobra.Command, a []string) error { return runCILogs(cmd.Context(), g, a[0], a[1], follow) },
	}
	cmd.Flags().BoolVarP(&follow, "follow", "f", false, "go on until the job is over")
	return cmd
}

// jobOf finds a job by its number or its name, of which the last attempt counts.
func jobOf(p web.PipelineDetail, job string) (store.Job, error) {
	for _, j := range slices.Backward(p.Jobs) {
		if j.Name == job || strconv.FormatInt(j.ID, 10) == job {
			return j, nil
		}
	}
	return store.Job{}, withCode(exitUsage, hintf(fmt.Errorf("pipeline %d has no job %s", p.ID, job), "keelson ci show %d lists them", p.ID))
}

func runCILogs(ctx context.Context, g *global, id, job string, follow bool) error {
	p, err := g.pipelineOf(ctx, id)
	if err != nil {
		return err
	}
	j, err := jobOf(p, job)
	if err != nil {
		return err
	}
	path := fmt.Sprintf("%sjobs/%d/log", web.PipelinesPath, j.ID)
	if follow {
		return g.followLog(ctx, j.Name, path)
	}
	_, res, err := g.openAPI(ctx, http.MethodGet, path, nil)
	if err != nil {
		return fmt.Errorf("log of job %s: %w", job, err)
	}
	defer res.Body.Close()
	_, err = io.Copy(g.out, res.Body)
	return err
}

func ciTriggerCommand(g *global) *cobra.Command {
	var ref string
	var variables []string
	cmd := &cobra.Command{
		Use: "trigger PROJECT", Short: "Make a pipeline of a project of the instance now",
		Long: "Trigger makes a pipeline as GitLab's \"Run pipeline\" does (CI_PIPELINE_SOURCE is web), whatever the commit's message says of [skip ci].",
		Args: args(cobra.ExactArgs(1)),
		RunE: func(cmd *cobra.Command, a []string) error {
			return runCITrigger(cmd.Context(), g, a[0], ref, variables)
		},
	}
	cmd.Flags().StringVar(&ref, "ref", "", "the `branch` or tag (default: the default branch)")
	cmd.Flags().StringArrayVar(&variables, "variable", nil, "a pipeline variable, as `NAME=VALUE`; can be repeated")
	return cmd
}

func runCITrigger(ctx context.Context, g *global, project, ref string, variables []string) error {
	n := web.NewPipeline{Project: project, Ref: ref, Variables: map[string]string{}}
	given, err := pairs("variable", variables)
	if err != nil {
		return err
	}
	for _, kv := range given {
		n.Variables[kv.Key] = kv.Value
	}
	body, err := json.Marshal(n)
	if err != nil {
		return err
	}
	var made store.Pipeline
	if _, err := g.callAPI(ctx, http.MethodPost, web.PipelinesPath+"pipelines", body, &made); err != nil {
		return fmt.Errorf("make a pipeline: %w", err)
	}
	return g.print(made, func(w io.Writer) error {
		_, err := fmt.Fprintf(w, "pipeline %d: %s\n", made.ID, made.Status)
		if made.Why != "" {
			fmt.Fprintln(w, made.Why)
		}
		return err
	})
}

func ciPlayCommand(g *global) *cobra.Command {
	var variables []string
	cmd := &cobra.Command{
		Use: "play PIPELINE JOB...", Short: "Play manual and delayed jobs of the instance",
		Long: `Play starts jobs that wait for a person or for their time, and completed ones of them again. --variable gives them variables that count more
than all others; later attempts keep them. What takes the place of a masked variable is masked too.`,
		Args: args(cobra.MinimumNArgs(2)),
		RunE: func(cmd *cobra.Command, a []string) error {
			given, err := pairs("variable", variables)
			if err != nil {
				return err
			}
			ask := web.Ask{Jobs: a[1:], Variables: map[string]string{}}
			for _, kv := range given {
				ask.Variables[kv.Key] = kv.Value
			}
			return runCIAsk(cmd.Context(), g, a[0], "play", ask)
		},
	}
	cmd.Flags().StringArrayVar(&variables, "variable", nil, "a variable for the jobs, as `NAME=VALUE`; can be repeated")
	return cmd
}

func ciRetryCommand(g *global) *cobra.Command {
	var ask web.Ask
	cmd := &cobra.Command{
		Use: "retry PIPELINE [JOB...]", Short: "Run jobs of the instance again: those that failed or were canceled, or those that are named",
		Args: args(cobra.MinimumNArgs(1)),
		RunE: func(cmd *cobra.Command, a []string) error {
			ask.Jobs = a[1:]
			if ask.Dependants && len(ask.Jobs) == 0 {
				return usagef("--with-dependants wants to know of which jobs")
			}
			return runCIAsk(cmd.Context(), g, a[0], "retry", ask)
		},
	}
	cmd.Flags().BoolVar(&ask.Dependants, "with-dependants", false, "also what comes after the jobs")
	return cmd
}

func ciCancelCommand(g *global) *cobra.Command {
	return &cobra.Command{
		Use: "cancel PIPELINE [JOB...]", Short: "Cancel a pipeline of the instance, or some of its jobs", Args: args(cobra.MinimumNArgs(1)),
		RunE: func(cmd *cobra.Command, a []string) error {
			return runCIAsk(cmd.Context(), g, a[0], "cancel", web.Ask{Jobs: a[1:]})
		},
	}
}

// runCIAsk has something done with a pipeline, and tells how the pipeline stands then.
func runCIAsk(ctx context.Context, g *global, id, action string, ask web.Ask) error {
	p, err := g.pipelineOf(ctx, id)
	if err != nil {
		return err
	}
	for i, name := range ask.Jobs {
		if j, err := jobOf(p, name); err == nil {
			ask.Jobs[i] = j.Name // by its number
		}
	}
	body, err := json.Marshal(ask)
	if err != nil {
		return err
	}
	_, res, err := g.openAPI(ctx, http.MethodPost, fmt.Sprintf("%spipelines/%d/%s", web.PipelinesPath, p.ID, action), body)
	if err != nil {
		return fmt.Errorf("%s: %w", action, err)
	}
	if err := errors.Join(res.Body.Close()); err != nil {
		return err
	}
	return runCIShow(ctx, g, id)
}
