package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"sync"
	"syscall"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"keelson.dev/keelson/internal/pipeline"
	"keelson.dev/keelson/internal/pipeline/artifact"
	"keelson.dev/keelson/internal/pipeline/executor"
	"keelson.dev/keelson/internal/pipeline/executor/shell"
	"keelson.dev/keelson/internal/pipeline/run"
	"keelson.dev/keelson/internal/pipeline/scratch"
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
everything at once. A closed terminal, and output that nobody reads any more (| head), count as the first. -o json prints what happens as JSON lines.`,
		RunE: func(cmd *cobra.Command, a []string) error {
			opts.given(cmd.Flags())
			if err := opts.checkRun(cmd.Flags()); err != nil {
				return err
			}
			return runCIRun(cmd.Context(), g, opts, a)
		},
	}
	opts.bindFiles(cmd.Flags())
	opts.bindEvent(cmd.Flags())
	opts.bindRun(cmd.Flags())
	f := cmd.Flags()
	f.BoolVar(&opts.only, "no-needs", false, "the same as --only")
	f.BoolVar(&opts.isolate, "isolate", false, "give each job a copy of the working tree as it is now")
	return cmd
}

// bindRun binds the flags that say what of a pipeline runs, and how.
func (o *ciRunOptions) bindRun(f *pflag.FlagSet) {
	f.BoolVar(&o.only, "only", false, "run just the named jobs, without what they wait for")
	f.StringArrayVar(&o.manual, "manual", nil, "play this manual `job`; can be repeated")
	f.IntVar(&o.jobs, "jobs", 0, fmt.Sprintf("how many jobs run at a time (default %d here)", run.DefaultJobs()))
	f.StringVar(&o.store, "store", "", "the `directory` that keeps artifacts and caches (default: keelson/ci/store in the user's cache directory)")
	f.StringArrayVar(&o.env, "env", nil, "let jobs see this `variable` of the own environment; can be repeated")
	f.BoolVar(&o.withoutServices, "without-services", false, "run jobs that have services without them")
}

// checkRun checks the flags of [ciRunOptions.bindRun] that were given.
func (o *ciRunOptions) checkRun(f *pflag.FlagSet) error {
	if f.Changed("jobs") && o.jobs < 1 {
		return usagef("--jobs %d: it takes 1 or more", o.jobs)
	}
	return nil
}

// askable checks what is asked to run, and how it is shown.
func (o *ciRunOptions) askable(g *global, command string, jobs []string) error {
	switch {
	case o.only && len(jobs) == 0:
		return usagef("--only wants to know which jobs")
	case g.output != "" && g.output != "json":
		return usagef("%s prints text or, with -o json, JSON lines", command)
	}
	return nil
}

func runCIRun(ctx context.Context, g *global, opts ciRunOptions, jobs []string) error {
	if err := opts.askable(g, "run", jobs); err != nil {
		return err
	}
	opts.ignoreSkip = true
	c, err := compilePipeline(ctx, g, opts.ciOptions)
	if err != nil {
		return err
	}
	defer c.files.Close()
	graph, err := c.chosen(g, opts, jobs)
	if err != nil {
		return err
	}
	if !opts.isolate {
		return c.run(ctx, g, opts, graph, run.InPlace(c.repo.Root()))
	}
	return c.runIn(ctx, g, opts, graph, func(base string) run.Sources { return run.Isolated(c.repo.Root(), base) })
}

// runIn plays a graph with jobs that work in directories of their own, below one that is there as long.
func (c *compiled) runIn(ctx context.Context, g *global, opts ciRunOptions, graph *pipeline.Graph, sources func(base string) run.Sources) error {
	base, err := scratch.Make(os.TempDir(), scratch.Run)
	if err != nil {
		return err
	}
	defer func() { _ = base.Remove() }() // what cannot be removed now a later run tries again
	opts.isolate = true
	return c.run(ctx, g, opts, graph, sources(base.Path()))
}

// run plays a graph on this machine.
func (c *compiled) run(ctx context.Context, g *global, opts ciRunOptions, graph *pipeline.Graph, sources run.Sources) error {
	store, err := openStore(opts.store)
	if err != nil {
		return err
	}
	defer func() { _ = store.Close() }() // every write of it is whole by itself
	links, err := scratch.Make(os.TempDir(), scratch.Run)
	if err != nil {
		return err
	}
	defer func() { _ = links.Remove() }() // what cannot be removed now a later run tries again
	if err := linkTools(links.Path()); err != nil {
		return err
	}
	x, err := shell.New(shell.Options{
		Runner: executor.Runner{Version: version, Disposable: opts.isolate}, Env: opts.env, IgnoreServices: opts.withoutServices,
		Tools: links.Path(),
	})
	if err != nil {
		return err
	}
	defer func() { _ = x.Close() }() // its group of processes is empty
	defer sweepScratch()()
	outcome, err := c.play(ctx, g, run.Pipeline{
		Graph: graph, Executor: x, Sources: sources, Downstream: downstream{c}, Play: opts.manual, Project: c.repo.Scope(), ID: c.context.PipelineID,
	}, run.Options{Store: store, Jobs: opts.jobs})
	if err != nil {
		return err
	}
	_, _ = store.Sweep(ctx, artifact.SweepOptions{Every: 24 * time.Hour}) // what is left now the next run sweeps
	if outcome.Status == pipeline.StatusFailed || outcome.Status == pipeline.StatusCanceled {
		return withCode(exitFailure, errSilent)
	}
	return nil
}

// chosen is the graph of the jobs that are asked for. Manual jobs that are to be played are checked.
func (c *compiled) chosen(g *global, opts ciRunOptions, jobs []string) (*pipeline.Graph, error) {
	graph, err := c.pick(jobs, !opts.only)
	if err != nil {
		return nil, err
	}
	for _, name := range opts.manual {
		if err := c.manual(g, graph, name); err != nil {
			return nil, err
		}
	}
	return graph, nil
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

// manual checks that there is a job to play, and says so where it is not in the graph that runs.
func (c *compiled) manual(g *global, graph *pipeline.Graph, name string) error {
	j, err := c.job(name)
	if err != nil {
		return err
	}
	named := func(j pipeline.Job) bool { return j.Name == name || j.Base == name }
	switch {
	case !slices.ContainsFunc(c.Graph.Jobs, func(j pipeline.Job) bool {
		return named(j) && (j.When == pipeline.Manual || j.When == pipeline.Delayed)
	}):
		why := "it runs by itself"
		if j.When == pipeline.OnFailure {
			why = "it runs where a job before it fails"
		}
		return usagef("--manual %s: it is no manual job, %s", name, why)
	case !slices.ContainsFunc(graph.Jobs, named):
		fmt.Fprintf(g.err, "note: --manual %s: it is not among the jobs that run\n", show.Plain(name))
	}
	return nil
}

// play runs a graph and shows how it goes.
func (c *compiled) play(ctx context.Context, g *global, p run.Pipeline, o run.Options) (run.Outcome, error) {
	// A pipe that nobody reads any more is an error of the write, and no end of the program. Ignored it would be so for jobs too.
	pipes := make(chan os.Signal, 1)
	signal.Notify(pipes, syscall.SIGPIPE)
	defer signal.Stop(pipes)
	shown := show.WithoutSecrets(p.Graph)
	for _, text := range show.Local(shown) {
		fmt.Fprintln(g.err, "note: "+text)
	}
	abort := make(chan struct{})
	o.Abort = abort
	defer onInterrupts(
		func() {
			fmt.Fprintln(g.err, "cancelling: jobs are told to end; interrupt again to end everything at once")
		},
		func() { close(abort) },
	)()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	w := &checkedWriter{w: g.out, unread: cancel}
	out := newReader(w, abort)
	if g.output == "json" {
		o.Sink = newPacedSink(run.JSON(out), out)
	} else {
		o.Sink = newPacedSink(newPlayOutput(out, p.Graph, bool(paint(g.out))), out)
		fmt.Fprintln(out, show.Headline(shown))
	}
	outcome, err := run.Run(ctx, p, o)
	if err == nil && g.output == "" {
		_ = printOutcome(out, outcome, paint(g.out)) // w keeps the error
	}
	out.close() // before one stops to listen to interrupts
	return outcome, errors.Join(err, w.failure())
}

// checkedWriter keeps the first error of a writer, after which it drops what it is given. One goroutine writes; failure does not wait
// for it.
type checkedWriter struct {
	w      io.Writer
	unread func() // called when nobody reads any more

	mu  sync.Mutex
	err error
}

// Write takes more; its error is that of [checkedWriter.failure].
func (c *checkedWriter) Write(p []byte) (int, error) {
	if err := c.failure(); err != nil {
		return len(p), err
	}
	_, err := c.w.Write(p)
	c.mu.Lock()
	c.err = err
	c.mu.Unlock()
	if errors.Is(err, syscall.EPIPE) {
		c.unread()
	}
	return len(p), err
}

// failure is the first error.
func (c *checkedWriter) failure() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.err
}

// onInterrupts calls first at the first interrupt, which has ended the context, and second at the second one. Of the end of the
// terminal both the kernel and the shell tell: it is never the second one. What it gives ends the waiting.
func onInterrupts(first, second func()) (stop func()) {
	signals := make(chan os.Signal, 4)
	signal.Notify(signals, endSignals()...)
	done := make(chan struct{})
	go func() {
		told := false
		for {
			select {
			case s := <-signals:
				switch {
				case !told:
					told = true
					first()
				case s != syscall.SIGHUP:
					second()
					return
				}
			case <-done:
				return
			}
		}
	}()
	return func() { signal.Stop(signals); close(done) }
}

// sweepScratch removes what runs have left that were killed, beside everything else. What it gives waits for that.
func sweepScratch() (wait func()) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		scratch.Sweep(os.TempDir())
	}()
	return func() { <-done }
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
