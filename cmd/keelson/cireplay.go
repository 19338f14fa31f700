package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"keelson.dev/keelson/internal/pipeline"
	"keelson.dev/keelson/internal/pipeline/run"
	"keelson.dev/keelson/internal/pipeline/show"
	"keelson.dev/keelson/internal/pipeline/worktree"
	"keelson.dev/keelson/internal/web"
)

func ciReplayCommand(g *global) *cobra.Command {
	var opts ciRunOptions
	cmd := &cobra.Command{
		Use: "replay PIPELINE [JOB...]", Short: "Run a pipeline of the instance again on this machine",
		Long: `Replay runs on this machine what a pipeline of the instance has run: its commit, event, ref, variables and inputs, compiled again from the
commit. The commit has to be in the repository around the current folder; the working tree is neither read nor changed, as each job works in a clone
of its own. Nothing of it is known to the instance.

The instance gives no values of masked and protected variables: which ones are missing is said, and --variable NAME=VALUE gives one. It also takes the
place of any other one. With JOB those jobs run, with all that they wait for; --only runs just them. Manual jobs are left unless --manual plays them.`,
		Args: args(cobra.MinimumNArgs(1)),
		RunE: func(cmd *cobra.Command, a []string) error {
			if err := opts.checkRun(cmd.Flags()); err != nil {
				return err
			}
			return runCIReplay(cmd.Context(), g, opts, a[0], a[1:])
		},
	}
	f := cmd.Flags()
	f.StringArrayVar(&opts.variables, "variable", nil, "the value of a variable, as `NAME=VALUE`; can be repeated")
	f.StringArrayVar(&opts.projects, "project", nil, "where another project is that is included, as `GROUP/NAME=FOLDER-OR-URL`; can be repeated")
	opts.bindRun(f)
	return cmd
}

func runCIReplay(ctx context.Context, g *global, opts ciRunOptions, id string, jobs []string) error {
	if !isNumber(id) {
		return withCode(exitUsage, hintf(fmt.Errorf("%q is no pipeline's number", id), "keelson ci pipelines lists them"))
	}
	if err := opts.askable(g, "replay", jobs); err != nil {
		return err
	}
	var r show.Recipe
	if _, err := g.callAPI(ctx, http.MethodGet, web.PipelinesPath+"pipelines/"+id+"/recipe", nil, &r); err != nil {
		return fmt.Errorf("replay pipeline %s: %w", id, err)
	}
	c, err := openRecipe(ctx, g, opts.ciOptions, r)
	if err != nil {
		return fmt.Errorf("replay pipeline %s: %w", id, err)
	}
	defer c.close()
	graph, err := c.chosen(g, opts, jobs)
	if err != nil {
		return err
	}
	return c.runIn(ctx, g, opts, graph, func(base string) run.Sources { // clones of the commit
		return run.Checkout(run.CheckoutOptions{Repository: c.repo.GitDir(), SHA: c.SHA, Ref: c.Ref, Project: c.Project, URL: c.CloneURL, Base: base})
	})
}

// recipe is a pipeline of the instance that is compiled again.
type recipe struct {
	*compiled
	show.Recipe
	at *worktree.Hosted
}

func (c *recipe) close() {
	c.files.Close()
	c.at.Close()
}

// openRecipe finds the commit of a recipe in the repository here, and compiles its pipeline.
func openRecipe(ctx context.Context, g *global, opts ciOptions, r show.Recipe) (*recipe, error) {
	repo, err := openWorktree(ctx)
	if err != nil {
		return nil, err
	}
	tag := ""
	if strings.HasPrefix(r.Ref, "refs/tags/") {
		tag = r.Ref // jobs get it
	}
	if !repo.Has(ctx, r.SHA, tag) {
		what := "the commit " + r.SHA[:min(8, len(r.SHA))]
		if tag != "" {
			what += " or its tag " + strings.TrimPrefix(tag, "refs/tags/")
		}
		return nil, hintf(fmt.Errorf("%s of project %s is not in %s", what, r.Project, repo.Root()), "git fetch %s %s", cmp.Or(r.CloneURL, "origin"), refspecOf(r))
	}
	at, err := worktree.OpenHosted(worktree.HostedOptions{
		Dir: repo.GitDir(), SHA: r.SHA, Server: pipeline.Server{URL: r.Server},
		Project: pipeline.Project{
			ID: r.ProjectID, NamespaceID: r.ProjectID, Path: r.Project, Title: path.Base(r.Project), Visibility: "private", URL: r.Server + "/" + r.Project,
			CloneURL: r.CloneURL, DefaultBranch: r.DefaultBranch, ConfigPath: r.ConfigPath,
		},
	})
	if err != nil {
		return nil, err
	}
	c := &recipe{compiled: &compiled{ciPipeline: &ciPipeline{opts: opts, repo: repo}}, Recipe: r, at: at}
	if err := c.open(ctx, g); err != nil {
		if c.files != nil {
			c.files.Close()
		}
		return nil, errors.Join(err, at.Close())
	}
	return c, nil
}

// refspecOf is what git fetch has to be told to get a commit.
func refspecOf(r show.Recipe) string {
	short := strings.TrimPrefix(r.Ref, "refs/heads/")
	if short == r.Ref {
		return r.Ref + ":" + r.Ref
	}
	return short
}

// open reads the files of the commit and compiles them for the event.
func (c *recipe) open(ctx context.Context, g *global) error {
	projects, err := pairs("project", c.opts.projects)
	if err != nil {
		return err
	}
	cache, err := os.UserCacheDir()
	if err != nil {
		cache = filepath.Join(os.TempDir(), fmt.Sprintf("keelson-%d", os.Getuid()))
	}
	c.where = worktree.FilesOptions{
		Projects: map[string]string{}, Cache: filepath.Join(cache, "keelson", "ci"), Note: func(text string) { fmt.Fprintln(g.err, "note: "+show.Plain(text)) },
	}
	for _, kv := range projects {
		c.where.Projects[kv.Key] = kv.Value
	}
	c.reads = func(ctx context.Context) *worktree.Files { return c.at.Files(ctx, c.where) }
	c.files = c.reads(ctx)
	if c.first, err = c.files.First(c.ConfigPath); errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("there is no %s in the commit", c.ConfigPath)
	} else if err != nil {
		return err
	}
	variables, err := c.given(g)
	if err != nil {
		return err
	}
	c.context, err = c.at.Event(ctx, worktree.HostedEvent{
		Source: c.Source, Ref: c.Ref, Before: c.Before, Protected: c.Protected, Schedule: c.Schedule, User: pipeline.User{ID: 1, Login: c.User, Name: c.User},
		PipelineID: c.Pipeline, PipelineIID: c.IID, Now: c.Created,
	})
	if err != nil {
		return err
	}
	c.context.IgnoreSkip = true // it was made
	c.context.Instance, c.context.Group, c.context.ProjectVars = c.levels.Instance, c.levels.Group, c.levels.Project
	c.context.Pipeline, c.context.Inputs = variables, c.Inputs
	c.files.For(c.context)
	c.build()
	if c.Problems.Failed() {
		return c.refuse(g, c.Problems)
	}
	return nil
}

// given puts in the values that only the person has, gives the pipeline's variables, and says which values are missing.
func (c *recipe) given(g *global) (pipeline.Variables, error) {
	given, err := pairs("variable", c.opts.variables)
	if err != nil {
		return nil, err
	}
	values, used := map[string]string{}, map[string]bool{}
	for _, kv := range given {
		values[kv.Key] = kv.Value
	}
	var missing []string
	fill := func(s show.Setting) (pipeline.Variable, bool) {
		value, ok := values[s.Name]
		switch {
		case s.Hidden == "":
			return s.Variable(s.Value), true
		case ok:
			used[s.Name] = true
			return s.Variable(value), true
		}
		missing = append(missing, fmt.Sprintf("%s (%s)", show.Plain(s.Name), show.Plain(s.Hidden)))
		return pipeline.Variable{}, false
	}
	for _, s := range c.Settings {
		v, ok := fill(s)
		if !ok {
			continue
		}
		level := &c.levels.Project
		switch s.Origin {
		case pipeline.OriginInstance:
			level = &c.levels.Instance
		case pipeline.OriginGroup:
			level = &c.levels.Group
		}
		*level = append(*level, v)
	}
	var variables pipeline.Variables
	for _, s := range c.Variables {
		if v, ok := fill(s); ok {
			variables = append(variables, v)
		}
	}
	for _, kv := range given {
		if !used[kv.Key] {
			variables = append(variables, pipeline.Variable{Name: kv.Key, Value: kv.Value, Origin: pipeline.OriginPipeline, At: pipeline.Position{File: "--variable"}})
		}
	}
	if slices.Sort(missing); len(missing) > 0 {
		fmt.Fprintf(g.err, "note: the instance gives no values of %s: --variable NAME=VALUE gives one; they are not set\n", strings.Join(slices.Compact(missing), ", "))
	}
	return variables, nil
}
