package main

import (
	"cmp"
	"context"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"keelson.dev/keelson/internal/pipeline"
	"keelson.dev/keelson/internal/pipeline/artifact"
	"keelson.dev/keelson/internal/pipeline/executor"
	"keelson.dev/keelson/internal/pipeline/executor/shell"
	"keelson.dev/keelson/internal/pipeline/run"
	"keelson.dev/keelson/internal/pipeline/show"
)

type ciRunOptions struct {
	ciOptions
	only            bool
	isolate         bool
	manual          []string
	jobs            int
	store           string
	env             []string
	withoutServices bool
}

func ciRunCommand(g *global) *cobra.Command {
	var opts ciRunOptions
	cmd := &cobra.Command{
		Use:   "run [JOB...]",
		Short: "Run a pipeline on this machine",
		Long: `Run plays the pipeline of the working tree as a server would, with the jobs in this machine's shell: needs and stages, rules, caches,
artifacts, retries, timeouts, masked values and the rest. The jobs work in the working tree as it is; with --isolate each has a copy.
What cannot be done here is named before anything runs.

With JOB those jobs run, with all that they wait for; --only runs just them. Manual jobs are left unless --manual plays them. It ends
with code 1 where the pipeline failed. The first interrupt cancels the pipeline, and jobs still run their after_script; the second ends
everything at once. -o json prints what happens as JSON lines.`,
		RunE: func(cmd *cobra.Command, a []string) error {
			opts.given(cmd.Flags())
			return runCIRun(cmd.Context(), g, opts, a)
		},
	}
	opts.bindFiles(cmd.Flags())
	opts.bindEvent(cmd.Flags())
	f := cmd.Flags()
	f.BoolVar(&opts.only, "only", false, "run just the named jobs, without what they wait for")
	f.BoolVar(&opts.only, "no-needs", false, "the same as --only")
	f.BoolVar(&opts.isolate, "isolate", false, "give each job a copy of the working tree as it is now")
	f.StringArrayVar(&opts.manual, "manual", nil, "play this manual `job`; can be repeated")
	f.IntVar(&opts.jobs, "jobs", 0, fmt.Sprintf("how many jobs run at a time (default %d here)", run.DefaultJobs()))
	f.StringVar(&opts.store, "store", "", "the `directory` that keeps artifacts and caches (default: keelson/ci/store in the user's cache directory)")
	f.StringArrayVar(&opts.env, "env", nil, "let jobs see this `variable` of the own environment; can be repeated")
	f.BoolVar(&opts.withoutServices, "without-services", false, "run jobs that have services without them")
	return cmd
}

func runCIRun(ctx context.Context, g *global, opts ciRunOptions, jobs []string) error {
	switch {
	case opts.jobs < 0:
		return usagef("--jobs %d: it takes 1 or more", opts.jobs)
	case opts.only && len(jobs) == 0:
		return usagef("--only wants to know which jobs")
	case g.output != "" && g.output != "json":
		return usagef("run prints text or, with -o json, JSON lines")
	}
	opts.ignoreSkip = true
	c, err := compilePipeline(ctx, g, opts.ciOptions)
	if err != nil {
		return err
	}
	defer c.files.Close()
	graph, err := c.pick(jobs, !opts.only)
	if err != nil {
		return err
	}
	for _, name := range opts.manual {
		if _, err := c.job(name); err != nil {
			return err
		}
	}
	store, err := openStore(opts.store)
	if err != nil {
		return err
	}
	defer func() { _ = store.Close() }() // every write of it is whole by itself
	x, err := shell.New(shell.Options{
		Runner: executor.Runner{Version: version, Disposable: opts.isolate}, Env: opts.env, IgnoreServices: opts.withoutServices,
	})
	if err != nil {
		return err
	}
	defer func() { _ = x.Close() }() // its group of processes is empty
	sources := run.InPlace(c.repo.Root())
	if opts.isolate {
		base, err := os.MkdirTemp("", "keelson-ci-")
		if err != nil {
			return err
		}
		defer os.RemoveAll(base)
		sources = run.Isolated(c.repo.Root(), base)
	}
	outcome, err := c.play(ctx, g, graph, run.Options{
		Executor: x, Sources: sources, Store: store, Downstream: downstream{c}, Jobs: opts.jobs, Play: opts.manual,
		Project: c.context.Project.Path, ID: c.context.PipelineID,
	})
	if err != nil {
		return err
	}
	_, _ = store.Sweep(ctx, artifact.SweepOptions{Every: 24 * time.Hour}) // what is left now the next run sweeps
	if outcome.Status == pipeline.StatusFailed || outcome.Status == pipeline.StatusCanceled {
		return withCode(exitFailure, errSilent)
	}
	return nil
}

// pick gives the graph, or that of some of its jobs.
func (c *compiled) pick(jobs []string, needs bool) (*pipeline.Graph, error) {
	graph, err := c.graph()
	if err != nil || len(jobs) == 0 {
		return graph, err
	}
	for _, name := range jobs {
		if _, err := c.job(name); err != nil {
			return nil, err
		}
	}
	return run.Select(graph, jobs, needs)
}

// play runs a graph and shows how it goes.
func (c *compiled) play(ctx context.Context, g *global, graph *pipeline.Graph, o run.Options) (run.Outcome, error) {
	for _, text := range show.Local(graph) {
		fmt.Fprintln(g.err, "note: "+text)
	}
	abort := make(chan struct{})
	o.Abort = abort
	defer onSecondInterrupt(func() { close(abort) })()
	out := newReader(g.out, abort)
	defer out.close() // before one stops to listen to interrupts
	if g.output == "json" {
		o.Sink = newPacedSink(run.JSON(out), out)
		return run.Run(ctx, graph, o)
	}
	o.Sink = newPacedSink(newPlayOutput(out, graph, bool(paint(g.out))), out)
	fmt.Fprintln(out, show.Headline(graph))
	outcome, err := run.Run(ctx, graph, o)
	if err != nil {
		return outcome, err
	}
	return outcome, printOutcome(out, outcome, paint(g.out))
}

// onSecondInterrupt calls do once, at the second interrupt: the first one has ended the context. What it gives ends the waiting.
func onSecondInterrupt(do func()) (stop func()) {
	signals := make(chan os.Signal, 4)
	signal.Notify(signals, os.Interrupt, syscall.SIGTERM)
	done := make(chan struct{})
	go func() {
		for n := 0; n < 2; n++ {
			select {
			case <-signals:
			case <-done:
				return
			}
		}
		do()
	}()
	return func() { signal.Stop(signals); close(done) }
}

func defaultStore() string {
	dir, err := os.UserCacheDir()
	if err != nil {
		dir = filepath.Join(os.TempDir(), fmt.Sprintf("keelson-%d", os.Getuid()))
	}
	return filepath.Join(dir, "keelson", "ci", "store")
}

func openStore(dir string) (*artifact.Store, error) {
	store, err := artifact.Open(cmp.Or(dir, defaultStore()), artifact.Options{})
	if err != nil {
		return nil, hintf(err, "--store names another directory")
	}
	return store, nil
}
