package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"time"

	"github.com/spf13/cobra"

	"keelson.dev/keelson/internal/pipeline/show"
	"keelson.dev/keelson/internal/store"
	"keelson.dev/keelson/internal/web"
)

type ciEnvOptions struct {
	project, state string
	limit          int
}

func ciEnvCommand(g *global) *cobra.Command {
	var opts ciEnvOptions
	list := func(cmd *cobra.Command, _ []string) error { return runCIEnvList(cmd.Context(), g, opts) }
	cmd := &cobra.Command{
		Use: "env", Short: "List the environments of the instance, show, stop and roll them back", Args: args(cobra.NoArgs), RunE: list,
	}
	sub := &cobra.Command{Use: "list", Short: "List the environments of the instance", Args: args(cobra.NoArgs), RunE: list}
	for _, c := range []*cobra.Command{cmd, sub} {
		f := c.Flags()
		f.StringVar(&opts.project, "project", "", "only those of this project, by its `path`")
		f.StringVar(&opts.state, "state", "", "only those in this `state`: available, stopping, stopped")
		f.IntVar(&opts.limit, "limit", 100, "how many at most")
	}
	cmd.AddCommand(sub, ciEnvShowCommand(g), ciEnvStopCommand(g), ciEnvRollbackCommand(g))
	return cmd
}

func runCIEnvList(ctx context.Context, g *global, opts ciEnvOptions) error {
	q := url.Values{"limit": {strconv.Itoa(opts.limit)}}
	for name, value := range map[string]string{"project": opts.project, "state": opts.state} {
		if value != "" {
			q.Set(name, value)
		}
	}
	var list web.EnvironmentList
	if _, err := g.callAPI(ctx, http.MethodGet, web.PipelinesPath+"environments?"+q.Encode(), nil, &list); err != nil {
		return fmt.Errorf("list environments: %w", err)
	}
	return g.print(list, func(w io.Writer) error {
		t := newTable(w, false, "PROJECT", "NAME", "TIER", "STATE", "COMMIT", "REF", "DEPLOYED", "STOPS IN", "URL")
		for _, e := range list.Environments {
			commit, ref, age := "-", "-", "-"
			if d := e.Last; d != nil {
				commit, ref, age = short(d.SHA), show.Plain(d.Ref), ageOf(d.Finished)
			}
			t.row(show.Plain(e.ProjectPath), show.Plain(e.Name), e.Tier, e.State, commit, ref, age, stopsIn(e.Environment), show.Plain(e.URL))
		}
		return t.flush()
	})
}

// short is a commit as people write it.
func short(sha string) string { return sha[:min(8, len(sha))] }

// stopsIn is how long an environment lasts; "-": until somebody stops it.
func stopsIn(e store.Environment) string {
	if e.AutoStop.IsZero() {
		return "-"
	}
	left := time.Until(e.AutoStop)
	switch {
	case left <= 0:
		return "now"
	case left < time.Hour:
		return left.Round(time.Second).String()
	case left < 48*time.Hour:
		return fmt.Sprintf("%dh", int(left.Hours()))
	default:
		return fmt.Sprintf("%dd", int(left.Hours()/24))
	}
}

func ciEnvShowCommand(g *global) *cobra.Command {
	return &cobra.Command{
		Use: "show PROJECT NAME", Short: "Show an environment of the instance with its last deployments", Args: args(cobra.ExactArgs(2)),
		RunE: func(cmd *cobra.Command, a []string) error {
			id, err := g.environmentOf(cmd.Context(), a[0], a[1])
			if err != nil {
				return err
			}
			var e web.EnvironmentDetail
			if _, err := g.callAPI(cmd.Context(), http.MethodGet, fmt.Sprintf("%senvironments/%d", web.PipelinesPath, id), nil, &e); err != nil {
				return fmt.Errorf("show environment %s: %w", a[1], err)
			}
			return printEnvironment(g, e)
		},
	}
}

// environmentOf gives the number of a project's environment.
func (g *global) environmentOf(ctx context.Context, project, name string) (int64, error) {
	q := url.Values{"project": {project}, "name": {name}}
	var list web.EnvironmentList
	if _, err := g.callAPI(ctx, http.MethodGet, web.PipelinesPath+"environments?"+q.Encode(), nil, &list); err != nil {
		return 0, fmt.Errorf("environment %s of %s: %w", name, project, err)
	}
	if len(list.Environments) == 0 {
		return 0, hintf(fmt.Errorf("project %s has no environment %s", project, name), "keelson ci env --project %s lists them; a job with environment: %s makes it", project, name)
	}
	return list.Environments[0].ID, nil
}

func printEnvironment(g *global, e web.EnvironmentDetail) error {
	return g.print(e, func(w io.Writer) error {
		fmt.Fprintf(w, "Environment:\t%s of %s\n", show.Plain(e.Name), show.Plain(e.ProjectPath))
		fmt.Fprintf(w, "State:      \t%s, %s\n", e.State, e.Tier)
		if e.URL != "" {
			fmt.Fprintf(w, "URL:        \t%s\n", show.Plain(e.URL))
		}
		if e.OnStop != "" {
			fmt.Fprintf(w, "Stopped by: \t%s, a job of pipeline %d\n", show.Plain(e.OnStop), e.OnStopPipeline)
		}
		if !e.AutoStop.IsZero() {
			fmt.Fprintf(w, "Stops:      \t%s\n", e.AutoStop.Local().Format(time.RFC3339))
		}
		fmt.Fprintln(w)
		t := newTable(w, false, "DEPLOYMENT", "STATUS", "COMMIT", "REF", "PIPELINE", "JOB", "BY", "AGE", "TOOK")
		for _, d := range e.Deployments {
			status := d.Status
			if e.Last != nil && e.Last.ID == d.ID {
				status += ", there now"
			}
			t.row(strconv.FormatInt(d.IID, 10), status, short(d.SHA), show.Plain(d.Ref), strconv.FormatInt(d.Pipeline, 10), show.Plain(d.JobName), show.Plain(d.User),
				ageOf(d.Created), took(d.Started, d.Finished))
		}
		return t.flush()
	})
}

func ciEnvStopCommand(g *global) *cobra.Command {
	var ask web.AskEnvironment
	cmd := &cobra.Command{
		Use: "stop PROJECT NAME", Short: "Stop an environment of the instance",
		Long: `Stop plays the job that stops the environment (environment:on_stop), of the last pipeline that has deployed to it. The environment is stopped once
the job has succeeded. Where there is no such job it is stopped at once.`,
		Args: args(cobra.ExactArgs(2)),
		RunE: func(cmd *cobra.Command, a []string) error {
			return runCIEnvAsk(cmd.Context(), g, a[0], a[1], "stop", ask)
		},
	}
	cmd.Flags().BoolVar(&ask.Force, "force", false, "stop it at once, without its job")
	return cmd
}

func ciEnvRollbackCommand(g *global) *cobra.Command {
	var ask web.AskEnvironment
	cmd := &cobra.Command{
		Use: "rollback PROJECT NAME", Short: "Deploy again what was there before",
		Long: `Rollback retries the job of an earlier deployment, as GitLab's button of that name does: with its commit and its variables. Without --to it is the
last successful deployment of another commit than the one that is there.`,
		Args: args(cobra.ExactArgs(2)),
		RunE: func(cmd *cobra.Command, a []string) error {
			return runCIEnvAsk(cmd.Context(), g, a[0], a[1], "rollback", ask)
		},
	}
	cmd.Flags().Int64Var(&ask.To, "to", 0, "the `deployment`, as keelson ci env show numbers them")
	return cmd
}

// runCIEnvAsk has something done with an environment, and tells how it stands then.
func runCIEnvAsk(ctx context.Context, g *global, project, name, action string, ask web.AskEnvironment) error {
	id, err := g.environmentOf(ctx, project, name)
	if err != nil {
		return err
	}
	body, err := json.Marshal(ask)
	if err != nil {
		return err
	}
	var e web.EnvironmentDetail
	if _, err := g.callAPI(ctx, http.MethodPost, fmt.Sprintf("%senvironments/%d/%s", web.PipelinesPath, id, action), body, &e); err != nil {
		return err
	}
	return printEnvironment(g, e)
}
