// Command bench measures what Keelson promises about speed and size, on real programs: bin/keelson and
// bin/keelson-cluster, plain git, and a watch of its own on the API server. It starts everything that it needs in a
// temporary directory on free ports, and stops and removes it again.
//
//	go run ./bench [-out FILE] [-only NAME,…] [-runs N]
//	go run ./bench -compare BEFORE AFTER
//
// A result is one JSON line; the table at the end has the same figures. docs/performance.md explains what each of them
// means and how the numbers in it came about. A missed target is shown in the table and is no failure of the program.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// bench is one run: the programs under test, and what was started so far.
type bench struct {
	keelson, cluster string // paths
	runs             int
	coldRuns         int           // of each size
	commits          int           // samples of a commit to the fleet
	sizes            []int         // of the fleets, ascending
	repositories     int           // that a fleet is spread over
	window           time.Duration // of the steady state
	dir              string        // temporary; everything is in it
	lines            io.Writer     // gets the JSON lines
	results          []Result

	profiles  bool      // Keelson serves profiles of itself
	shared    *instance // started by the first measurement that needs one
	world     *world    // the same, with the largest fleet
	argoWorld *world    // the same, of Applications
	stops     []func() error
}

// A measurement has a name for -only and adds one result or more.
type measurement struct {
	name string
	run  func(*bench, context.Context) error
}

// measurements in the order in which they are taken: what wants a quiet machine before anything is started comes first.
var measurements = []measurement{
	{"size", (*bench).measureSize},
	{"version", (*bench).measureVersion},
	{"render", (*bench).measureRender},
	{"ci", (*bench).measurePipelines},
	{"up", (*bench).measureUp},
	{"push", (*bench).measurePush},
	{"push-sample", (*bench).measurePushSample},
	{"push-outside", (*bench).measurePushOutside},
	{"ci-push", (*bench).measureCIPush},
	{"ci-api", (*bench).measureCIAPI},
	{"ci-log", (*bench).measureCILog},
	{"ci-pods", (*bench).measureCIPods},
	{"why", (*bench).measureWhy},
	{"audit", (*bench).measureAudit},
	{"drift", (*bench).measureDrift},
	{"steady", (*bench).measureSteady},
	{"cold", (*bench).measureCold},
	{"commit", (*bench).measureCommit},
	{"fleet-steady", (*bench).measureFleetSteady},
	{"fleet-drift", (*bench).measureFleetDrift},
	{"restart", (*bench).measureRestart},
	{"argo-cold", (*bench).measureArgoCold},
	{"argo-large", (*bench).measureArgoLarge},
	{"argo-drift", (*bench).measureArgoDrift},
	{"argo-steady", (*bench).measureArgoSteady},
	{"helm-cold", (*bench).measureHelmCold},
	{"helm-steady", (*bench).measureHelmSteady},
	{"web-list", (*bench).measureWebList},
	{"web-sse", (*bench).measureWebSSE},
	{"web-open", (*bench).measureWebOpen},
	{"web-log", (*bench).measureWebLog},
}

func main() {
	if len(os.Args) > 2 && os.Args[1] == measureVerb {
		exit(measureCommand(os.Args[2:], os.Stdout))
	}
	if len(os.Args) == 3 && os.Args[1] == serveVerb {
		exit(serveApps(os.Stdin, os.Stdout))
	}
	var b bench
	var only, out string
	var compare bool
	var keep keeping
	b.sizes = []int{100, 500, 1000}
	flag.StringVar(&b.keelson, "keelson", "bin/keelson", "`path` of the program; keelson-cluster has to be beside it")
	flag.StringVar(&b.cluster, "cluster", "bin/keelson-cluster", "`path` of the embedded cluster's program")
	flag.IntVar(&b.runs, "runs", 20, "samples of each latency, 1 to 50")
	flag.IntVar(&b.coldRuns, "cold-runs", 3, "cold starts of each size")
	flag.IntVar(&b.commits, "commits", 5, "samples of a commit to the fleet")
	flag.Func("fleet", "`sizes` of the fleets in apps, comma-separated; the largest is what all but the cold start is measured on (default 100,500,1000)", b.readSizes)
	flag.IntVar(&b.repositories, "repositories", 1, "spread a fleet over this many")
	flag.DurationVar(&b.window, "window", 3*time.Minute, "how long the steady state is watched")
	flag.IntVar(&keep.apps, "keep", 0, "measure nothing: bring up a fleet of `N` apps, tell where it is, and leave it alone until interrupted")
	flag.BoolVar(&keep.argo, "keep-argo", false, "the fleet of -keep is of Applications")
	flag.StringVar(&only, "only", "", "measure only these, by `name`, comma-separated: "+strings.Join(names(), ", "))
	flag.StringVar(&out, "out", "", "append the JSON lines to this `file` too")
	flag.BoolVar(&compare, "compare", false, "compare two files of results instead of measuring")
	flag.Parse()
	if compare {
		exit(compareFiles(flag.Args()))
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	if keep.apps > 0 {
		measurements = []measurement{{"keep", func(b *bench, ctx context.Context) error { return b.keep(ctx, keep) }}}
	}
	exit(b.main(ctx, only, out))
}

// readSizes reads a list of fleet sizes.
func (b *bench) readSizes(list string) error {
	b.sizes = nil
	for s := range strings.SplitSeq(list, ",") {
		n, err := strconv.Atoi(s)
		if err != nil || n < 1 || n > 5000 {
			return fmt.Errorf("%q: a fleet has 1 to 5000 apps", s)
		}
		b.sizes = append(b.sizes, n)
	}
	slices.Sort(b.sizes)
	return nil
}

func exit(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
	os.Exit(0)
}

func names() []string {
	var all []string
	for _, m := range measurements {
		all = append(all, m.name)
	}
	return all
}

// main checks the flags, takes the measurements and stops everything, in time or after an error or a signal.
func (b *bench) main(ctx context.Context, only, out string) (err error) {
	chosen, err := choose(only)
	if err != nil {
		return err
	}
	switch {
	case flag.NArg() > 0:
		return fmt.Errorf("unexpected argument %q", flag.Arg(0))
	case b.runs < 1 || b.runs > 50: // one simulated node takes no more Deployments
		return fmt.Errorf("-runs %d: it takes 1 to 50", b.runs)
	case b.coldRuns < 1 || b.commits < 1:
		return errors.New("-cold-runs and -commits take 1 at least")
	case b.repositories < 1 || b.repositories > b.sizes[0]:
		return fmt.Errorf("-repositories %d: it takes 1 to the size of the smallest fleet", b.repositories)
	case b.window < time.Second:
		return fmt.Errorf("-window %s: it takes a second at least", b.window)
	}
	for _, path := range []*string{&b.keelson, &b.cluster} {
		if *path, err = filepath.Abs(*path); err != nil {
			return err
		}
		if _, err := os.Stat(*path); err != nil {
			return fmt.Errorf("%w: make build makes it", err)
		}
	}
	b.lines = os.Stdout
	if out != "" {
		f, err := os.OpenFile(out, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
		if err != nil {
			return err
		}
		defer func() { err = errors.Join(err, f.Close()) }()
		b.lines = io.MultiWriter(os.Stdout, f)
	}
	if b.dir, err = os.MkdirTemp("", "keelson-bench-"); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, b.stop()) }()
	for _, m := range chosen {
		say("%s (load %.1f)", m.name, load())
		if err := m.run(b, ctx); err != nil {
			err = fmt.Errorf("measure %s: %w", m.name, err)
			if len(b.results) == 0 {
				return err
			}
			return errors.Join(err, printTable(os.Stdout, b.results))
		}
	}
	if len(b.results) == 0 {
		return nil
	}
	fmt.Println()
	return printTable(os.Stdout, b.results)
}

func choose(only string) ([]measurement, error) {
	if only == "" {
		return measurements, nil
	}
	var chosen []measurement
	for name := range strings.SplitSeq(only, ",") {
		i := slices.IndexFunc(measurements, func(m measurement) bool { return m.name == name })
		if i < 0 {
			return nil, fmt.Errorf("-only %s: there are %s", name, strings.Join(names(), ", "))
		}
		chosen = append(chosen, measurements[i])
	}
	return chosen, nil
}

func compareFiles(files []string) error {
	if len(files) != 2 {
		return errors.New("-compare takes two files: before and after")
	}
	var runs [2][]Result
	for i, name := range files {
		f, err := os.Open(name)
		if err != nil {
			return err
		}
		defer f.Close()
		if runs[i], err = readResults(f); err != nil {
			return fmt.Errorf("read %s: %w", name, err)
		}
	}
	return printComparison(os.Stdout, runs[0], runs[1])
}

// add computes a result and writes its line.
func (b *bench) add(r Result, samples []float64) error {
	if len(samples) == 0 {
		return fmt.Errorf("%s: nothing was measured", r.Name)
	}
	r.Load, r.Time = load(), time.Now().UTC().Truncate(time.Second)
	r = summarize(r, samples)
	b.results = append(b.results, r)
	line, err := json.Marshal(r)
	if err != nil {
		return err
	}
	_, err = fmt.Fprintf(b.lines, "%s\n", line)
	return err
}

// stop stops what was started, the last first, and removes the directory. A cluster that was killed leaves it, for a look.
func (b *bench) stop() error {
	var errs []error
	for _, stop := range slices.Backward(b.stops) {
		errs = append(errs, stop())
	}
	b.stops = nil
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("%w (%s is left)", err, b.dir)
	}
	return os.RemoveAll(b.dir)
}

func say(format string, a ...any) { fmt.Fprintf(os.Stderr, "bench: "+format+"\n", a...) }

// target makes one: what a figure may be at most, or has to be at least.
func target(v float64) *float64 { return &v }

func milliseconds(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }

// pause lets what a sample has caused come to rest before the next one.
func pause(ctx context.Context, d time.Duration) error {
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(d):
		return nil
	}
}
