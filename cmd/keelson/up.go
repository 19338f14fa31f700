package main

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"keelson.dev/keelson/internal/pipeline/run"
	"keelson.dev/keelson/internal/redact"
)

type upOptions struct {
	foreground bool
	detached   bool // this process is the daemon that keelson up has started
	json       bool
	port       int
	nodes      int
	node       string
	outbound   bool
	runner     string
	jobImage   string
	sample     bool
	pprof      bool
	jobs       int // at a time; 0: as many as the machine takes
	logLimit   int // MiB of a job's log
	policy     policyFlags
	timeout    time.Duration
	keep       retention
	share      share
	given      *pflag.FlagSet // what the person has said
}

func upCommand(g *global) *cobra.Command {
	var opts upOptions
	cmd := &cobra.Command{
		Use:   "up",
		Short: "Start a cluster, a Git host, the controllers and a dashboard, with a sample",
		Long: `Up starts an instance of Keelson on this machine and waits until everything in it is healthy:
an embedded Kubernetes cluster (or, with --kubeconfig, one that you have), a Git host, the controllers and a dashboard.
All of it listens on 127.0.0.1 only and runs on after up has ended; keelson down stops it. Up on a running instance
only prints where it is.`,
		Args: args(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			opts.given = cmd.Flags()
			if !cmd.Flags().Changed("port") {
				opts.port = -1
			} else if opts.port < 0 || opts.port > 65535 {
				return usagef("--port %d: a port is 0 to 65535", opts.port)
			}
			if opts.nodes < 1 || opts.nodes > 5000 {
				return usagef("--nodes %d: it takes 1 to 5000", opts.nodes)
			}
			if opts.logLimit < 1 || opts.logLimit > 10_000 {
				return usagef("--ci-log-limit %d: it takes 1 to 10000", opts.logLimit)
			}
			if opts.jobs < 0 || opts.jobs > 1000 {
				return usagef("--ci-jobs %d: it takes 1 to 1000", opts.jobs)
			}
			if err := errors.Join(opts.checkNode(g), opts.keep.check()); err != nil {
				return err
			}
			if _, err := opts.policy.policy(); err != nil {
				return err
			}
			if opts.foreground {
				return runForeground(cmd.Context(), g, opts)
			}
			return runUp(cmd.Context(), g, opts)
		},
	}
	f := cmd.Flags()
	f.BoolVar(&opts.foreground, "foreground", false, "stay in the foreground until interrupted")
	f.BoolVar(&opts.json, "json", false, `print {"dashboard","git","kubeconfig","token","registry","login"} as the last line`)
	f.IntVar(&opts.port, "port", defaultPort, "the `port` of the Git host and the dashboard; 0: any free one (default: that of the last run)")
	f.IntVar(&opts.nodes, "nodes", 1, "simulated nodes of the embedded cluster")
	f.StringVar(&opts.node, "node", "", "simulated, or real: the embedded cluster's `kind` of node; a real one runs containers, for root on Linux (default: that of the last run)")
	f.BoolVar(&opts.outbound, "outbound", false, "with --node real: pods and image pulls reach what this machine reaches; turns on IPv4 forwarding")
	f.StringVar(&opts.runner, "ci-executor", "", "shell or pod: what runs the `jobs` of projects that do not say; pod with --node real (default: that of the last run, at first shell)")
	f.StringVar(&opts.jobImage, "ci-image", "", "the `image` of jobs that run as Pods where neither they nor their project name one (default: that of the last run)")
	f.BoolVar(&opts.sample, "sample", false, "bring the sample into a cluster given by --kubeconfig, or with a real node, too")
	f.IntVar(&opts.jobs, "ci-jobs", 0, fmt.Sprintf("run at most `N` jobs of pipelines at a time, 1 to 1000 (default %d here)", run.DefaultJobs()))
	f.IntVar(&opts.logLimit, "ci-log-limit", 4, "`MiB` that the log of a job may have, 1 to 10000; what follows is left out")
	f.BoolVar(&opts.pprof, "pprof", false, "serve profiles of the process at /debug/pprof/, beside the dashboard")
	f.DurationVar(&opts.timeout, "timeout", 5*time.Minute, "how long to wait until everything is healthy")
	opts.keep.flags(f, "that of the last run, at first ")
	opts.share.flags(f)
	opts.policy.bind(f)
	f.BoolVar(&opts.detached, "detached", false, "")
	if err := f.MarkHidden("detached"); err != nil {
		panic(err) // the flag is defined one line above
	}
	return cmd
}

// checkNode checks what the flags say about nodes.
func (o upOptions) checkNode(g *global) error {
	switch {
	case o.node != "" && o.node != nodeSimulated && o.node != nodeReal:
		return usagef("--node %s: it is simulated or real", o.node)
	case o.runner != "" && o.runner != runnerShell && o.runner != runnerPod:
		return usagef("--ci-executor %s: it is shell or pod", o.runner)
	case o.outbound && o.node != nodeReal:
		return usagef("--outbound is for --node real: pods of simulated nodes reach nothing")
	case o.node == nodeReal && g.kubeconfig != "":
		return usagef("--node real is for the embedded cluster: the cluster of %s has its own nodes", g.kubeconfig)
	}
	return nil
}

// runForeground is the daemon: the one that a person watches, or the one that runUp has detached.
func runForeground(ctx context.Context, g *global, opts upOptions) error {
	policy, err := opts.policy.policy()
	if err != nil {
		return err
	}
	d := &Daemon{
		Data: g.data, Port: opts.port, Kubeconfig: g.kubeconfig, Nodes: opts.nodes, Node: opts.node, Outbound: opts.outbound,
		Runner: opts.runner, JobImage: opts.jobImage, Sample: opts.sample, Timeout: opts.timeout, Pprof: opts.pprof, Jobs: opts.jobs, LogLimit: int64(opts.logLimit) << 20,
		Keep:   opts.keep,
		Share:  opts.share,
		Policy: policy,
		Logger: slog.New(slog.NewTextHandler(g.err, nil)),
	}
	ready := func() {}
	if opts.detached {
		file := &progressWriter{path: filepath.Join(g.data, progressFile)}
		d.Progress = file.write
	} else {
		d.Logger = slog.New(slog.NewTextHandler(g.err, &slog.HandlerOptions{Level: slog.LevelWarn}))
		ready = func() {
			if err := printInstance(ctx, g, opts.json, d.inst); err != nil {
				d.Logger.Error("print", "error", err)
			}
		}
		d.Progress = func(p progress) { showProgress(g.err, p, ready) }
	}
	err = d.Run(ctx)
	closed := d.Close() // before the end is told: whoever waits for it finds nothing left
	if err != nil && opts.detached && !errors.Is(err, errRunning) {
		d.Progress(progress{PID: os.Getpid(), Error: redact.Text(err.Error()), Hints: hintsOf(err), Code: exitCode(err)})
	}
	return errors.Join(err, closed)
}

func showProgress(w io.Writer, p progress, ready func()) {
	if p.Step != "" {
		fmt.Fprintln(w, "  "+p.Step)
	}
	for _, u := range p.Unhealthy {
		fmt.Fprintln(w, "  not healthy: "+u)
	}
	if p.Ready {
		ready()
	}
}

// progressWriter keeps the progress of this start in a file that runUp reads. The first line replaces what an
// earlier start has left.
type progressWriter struct {
	path string
	file *os.File
}

func (p *progressWriter) write(line progress) {
	b, err := json.Marshal(line)
	if err != nil {
		return
	}
	if p.file == nil {
		tmp := p.path + "." + strconv.Itoa(os.Getpid())
		if p.file, err = os.OpenFile(tmp, os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o600); err != nil {
			return // the log has every step too
		}
		defer func() { _ = os.Rename(tmp, p.path) }()
	}
	_, _ = p.file.Write(append(b, '\n'))
}

// startOnly names the flags that were given and change nothing, as an instance runs already that is otherwise, or whose value nobody knows.
func startOnly(given *pflag.FlagSet, inst instance) (late []string) {
	as := map[string]string{ // what runs
		"port": strconv.Itoa(inst.Port), "kubeconfig": inst.Kubeconfig, "node": cmp.Or(inst.Node, nodeSimulated), "outbound": strconv.FormatBool(inst.Outbound),
		"ci-executor": cmp.Or(inst.Runner, runnerShell), "ci-image": inst.JobImage, "keep-audit": inst.Keep.Audit, "keep-history": inst.Keep.History,
	}
	given.Visit(func(f *pflag.Flag) {
		value := f.Value.String()
		is, known := as[f.Name]
		switch {
		case known && is == value, f.Name == "port" && value == "0": // any
		case slices.Contains([]string{"data", "namespace", "output", "json", "timeout", "foreground", "detached"}, f.Name): // about this command
		default:
			late = append(late, "--"+f.Name)
		}
	})
	return late
}

// runUp starts a daemon unless one runs already, and follows its start.
func runUp(ctx context.Context, g *global, opts upOptions) error {
	pid, started, err := running(ctx, g.data)
	if err != nil {
		return err
	}
	if started {
		inst, err := readInstance(g.data)
		if err != nil {
			return err
		}
		fmt.Fprintln(g.err, "Keelson runs in "+g.data)
		if late := startOnly(opts.given, inst); len(late) > 0 {
			fmt.Fprintf(g.err, "note: %s: what counts at a start only is not changed; keelson down stops this one\n", strings.Join(late, ", "))
		}
		return printInstance(ctx, g, opts.json, inst)
	}
	var child *exec.Cmd
	if pid == 0 {
		if err := checkStart(g); err != nil {
			return err
		}
		if err := checkNode(ctx, opts.node); err != nil {
			return err
		}
		if child, err = detach(g, opts); err != nil {
			return err
		}
		fmt.Fprintln(g.err, "starting Keelson in "+g.data)
	}
	last, err := follow(ctx, g, child)
	if err != nil {
		return err
	}
	inst, err := readInstance(g.data)
	if err != nil {
		return err
	}
	if err := printInstance(ctx, g, opts.json, inst); err != nil {
		return err
	}
	if len(last.Unhealthy) > 0 {
		return withCode(exitUnhealthy, hintf(fmt.Errorf("Keelson runs, but not everything was healthy in time: %s", strings.Join(last.Unhealthy, "; ")), //nolint:staticcheck // a name
			"keelson events tells what happened, keelson get apps how it is now"))
	}
	return nil
}

// running gives the daemon of a data directory, 0 where there is none, and whether its start is over. One that was killed or told to stop
// holds the directory for a moment longer: so a daemon that has started counts only when it answers, and until then this waits for its end.
func running(ctx context.Context, dir string) (pid int, started bool, err error) {
	wait, cancel := context.WithTimeout(ctx, stopPatience)
	defer cancel()
	err = poll(wait, 50*time.Millisecond, func(ctx context.Context) (bool, error) {
		pid, err = daemonPID(dir)
		if started = pid != 0 && hasStarted(dir, pid); err != nil || !started {
			return true, err
		}
		inst, err := readInstance(dir)
		if err != nil {
			return true, err
		}
		return answers(ctx, inst.base()+"/healthz"), nil
	})
	if errors.Is(err, context.DeadlineExceeded) && ctx.Err() == nil {
		err = hintf(fmt.Errorf("the daemon (process %d) holds %s, but does not answer", pid, dir),
			"%s tells what it is doing; keelson down ends it", filepath.Join(dir, logFile))
	}
	return pid, started, err
}

// stopPatience is how long a daemon that stops may take.
const stopPatience = 30 * time.Second

// answers tells whether anything is said at an address.
func answers(ctx context.Context, address string) bool {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, address, http.NoBody)
	if err != nil {
		return false
	}
	resp, err := (&http.Client{Transport: &http.Transport{DisableKeepAlives: true}}).Do(req)
	if err != nil {
		return false
	}
	return resp.Body.Close() == nil
}

// hasStarted says whether the start of the daemon pid is over.
func hasStarted(dir string, pid int) bool {
	lines := readProgress(filepath.Join(dir, progressFile), pid, nil)
	return len(lines) > 0 && lines[len(lines)-1].Ready
}

// checkStart finds out early what a daemon could only write into its log.
func checkStart(g *global) error {
	if _, err := os.Stat(filepath.Join(g.data, instanceFile)); errors.Is(err, os.ErrNotExist) {
		if err := checkFresh(g.data); err != nil {
			return err
		}
	}
	if g.kubeconfig != "" {
		_, err := loadKubeconfig(g.kubeconfig)
		return err
	}
	return nil
}

// maxLog is the size from which a log is put aside at the next start.
const maxLog = 10 << 20

// detach starts this program again, in a session of its own, with its output in the log.
func detach(g *global, opts upOptions) (*exec.Cmd, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, fmt.Errorf("find this program: %w", err)
	}
	if err := os.MkdirAll(filepath.Join(g.data, logDir), 0o700); err != nil {
		return nil, fmt.Errorf("make data directory: %w", err)
	}
	path := filepath.Join(g.data, logFile)
	if info, err := os.Stat(path); err == nil && info.Size() > maxLog {
		if err := os.Rename(path, path+".1"); err != nil {
			return nil, fmt.Errorf("put the old log aside: %w", err)
		}
	}
	log, err := os.OpenFile(path, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return nil, fmt.Errorf("open log: %w", err)
	}
	defer log.Close()
	a := []string{"up", "--foreground", "--detached", "--data", g.data, "--nodes", strconv.Itoa(opts.nodes), "--timeout", opts.timeout.String()}
	if opts.port >= 0 {
		a = append(a, "--port", strconv.Itoa(opts.port))
	}
	if g.kubeconfig != "" {
		a = append(a, "--kubeconfig", g.kubeconfig)
	}
	if opts.node != "" {
		a = append(a, "--node", opts.node, "--outbound="+strconv.FormatBool(opts.outbound))
	}
	if opts.runner != "" {
		a = append(a, "--ci-executor", opts.runner)
	}
	if opts.jobImage != "" {
		a = append(a, "--ci-image", opts.jobImage)
	}
	if opts.sample {
		a = append(a, "--sample")
	}
	a = append(a, "--ci-log-limit", strconv.Itoa(opts.logLimit), "--ci-jobs", strconv.Itoa(opts.jobs))
	if opts.pprof {
		a = append(a, "--pprof")
	}
	if opts.share.selector != "" {
		a = append(a, "--watch-label-selector", opts.share.selector)
	}
	if opts.share.argo != "" {
		a = append(a, "--argocd-namespace", opts.share.argo)
	}
	if opts.share.takeOver {
		a = append(a, "--take-over")
	}
	a = append(append(a, opts.keep.args()...), opts.policy.args()...)
	cmd := exec.Command(self, a...)
	cmd.Stdout, cmd.Stderr = log, log
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("start the daemon: %w", err)
	}
	return cmd, nil
}

// follow shows the progress of the daemon's start until that has ended. child is the daemon if this process has
// started it; it ends at once, without harm, if another one was faster.
func follow(ctx context.Context, g *global, child *exec.Cmd) (last progress, err error) {
	ended := make(chan struct{})
	if child != nil {
		go func() {
			_ = child.Wait() // how it ended stands in its progress or its log
			close(ended)
		}()
	}
	shown := 0
	err = poll(ctx, 50*time.Millisecond, func(context.Context) (bool, error) {
		gone := false
		select {
		case <-ended:
			gone = true
		default:
		}
		pid, err := daemonPID(g.data)
		if err != nil {
			return false, err
		}
		lines := readProgress(filepath.Join(g.data, progressFile), pid, child)
		for _, p := range lines[min(shown, len(lines)):] {
			showProgress(g.err, p, func() {})
			last = p
			shown++
		}
		switch {
		case last.Ready:
			return true, nil
		case last.Error != "":
			return true, failedStart(g, last)
		case pid == 0 && (gone || child == nil):
			return true, failedStart(g, progress{Error: "the daemon ended while it was starting", Code: exitFailure})
		}
		return false, nil
	})
	if ctx.Err() != nil && err != nil {
		err = hintf(errors.New("interrupted while Keelson was starting; it goes on in the background"), "keelson down --data %s stops it", g.data)
	}
	return last, err
}

// readProgress reads the lines of the daemon pid, or of the child that has ended. An older start's are none.
func readProgress(path string, pid int, child *exec.Cmd) []progress {
	b, err := os.ReadFile(path)
	if err != nil {
		return nil
	}
	var lines []progress
	for line := range bytes.Lines(b) {
		var p progress
		if !bytes.HasSuffix(line, []byte("\n")) || json.Unmarshal(line, &p) != nil {
			break
		}
		if p.PID != pid && (child == nil || p.PID != child.Process.Pid) {
			return nil
		}
		lines = append(lines, p)
	}
	return lines
}

// failedStart shows the end of the log and makes the error.
func failedStart(g *global, p progress) error {
	path := filepath.Join(g.data, logFile)
	fmt.Fprintf(g.err, "the last lines of %s:\n", path)
	for _, line := range lastLines(path, 15) {
		fmt.Fprintln(g.err, "  | "+redact.Text(line))
	}
	err := withCode(p.Code, errors.New(p.Error))
	for _, h := range p.Hints {
		err = hintf(err, "%s", h)
	}
	if len(p.Hints) == 0 {
		err = hintf(err, "the whole log is %s", path)
	}
	return err
}

func lastLines(path string, n int) []string {
	f, err := os.Open(path)
	if err != nil {
		return nil
	}
	defer f.Close()
	const tail = 16 << 10
	if info, err := f.Stat(); err == nil && info.Size() > tail {
		if _, err := f.Seek(-tail, io.SeekEnd); err != nil {
			return nil
		}
	}
	b, err := io.ReadAll(io.LimitReader(f, tail))
	if err != nil {
		return nil
	}
	lines := strings.Split(strings.TrimRight(string(b), "\n"), "\n")
	return lines[max(0, len(lines)-n):]
}

// printInstance tells where everything is. Only the JSON form has the token, which programs need.
func printInstance(ctx context.Context, g *global, asJSON bool, inst instance) error {
	v := struct {
		Dashboard  string `json:"dashboard"`
		Git        string `json:"git"`
		Kubeconfig string `json:"kubeconfig"`
		Token      string `json:"token"`
		Registry   string `json:"registry,omitempty"`
		Login      string `json:"login,omitempty"`
	}{inst.dashboard(), inst.git(true), inst.Kubeconfig, inst.Token, inst.registry(), ""}
	link, err := loginLink(ctx, inst)
	if err != nil {
		fmt.Fprintf(g.err, "note: no login link: %v\n", err)
	}
	v.Login = link
	if asJSON {
		return json.NewEncoder(g.out).Encode(v)
	}
	return g.print(v, func(w io.Writer) error {
		_, err := fmt.Fprintf(w, "dashboard   %s\ngit         %s\nkubeconfig  %s\n", v.Dashboard, inst.git(false), v.Kubeconfig)
		if err == nil && v.Login != "" {
			_, err = fmt.Fprintf(w, "log in      %s\n            (works once, for 15 minutes; keelson up prints another one)\n", v.Login)
		}
		if err == nil && v.Registry != "" {
			_, err = fmt.Fprintf(w, "registry    %s\n", v.Registry)
		}
		return err
	})
}
