// Package shell runs jobs in shells on this machine, as GitLab's runner does with its shell executor: one shell (bash, else sh)
// for before_script and script, another one for after_script, both in the job's directory and with its variables in their
// environment.
//
// # What a job sees
//
// Of the environment of who runs it a job gets only what programs need to be found and to work: PATH, HOME, USER, LOGNAME, SHELL,
// LANG, LANGUAGE, LC_*, TERM, TZ, TMPDIR, XDG_RUNTIME_DIR, the proxy variables and SSL_CERT_FILE and SSL_CERT_DIR, and what
// [Options] name, which may add a directory to PATH. Its standard input is empty, and it has no terminal.
//
// # What is left of it
//
// Nothing: whatever a job has started is ended with it, also what left its process group and session. On Linux the executor
// makes its process the reaper of orphans (PR_SET_CHILD_SUBREAPER), for which it finds the job by the session, by a variable in
// the environment, by the output and by the directory.
//
// # Bounds
//
// A job that has more processes than [Options] allow, or that fills the disk, is killed with an explanation. Its log is bounded
// as in package executor. That a fork bomb does not take the machine first is the kernel's work: a cgroup that counts processes
// where one can be made, else RLIMIT_NPROC, which does not hold for root.
//
// # The sandbox
//
// With [Options].Sandbox jobs are kept from the rest of the machine; docs/ci-server.md tells what that means for them. A child process,
// this program again (the keeper), makes a sandbox for each job: a mount, an IPC and a process namespace, whose first process is a
// copy of the keeper that only sleeps. Then it starts the job's shells in there. All of these processes are children of this one,
// not of the keeper's, and are found, ended and reaped as others are, but that orphans stay in the sandbox, and that killing its
// first process ends everything in it.
//
//	view_linux.go    what a sandbox sees of the file system: a list of covers, made by the server, mounted by the keeper
//	spawn_linux.go   what the copies do until they are the shell, or sleep: system calls, one after the other
//	keeper_linux.go  both ends of the socket between the server and the keeper
//	box_linux.go     users, private directories, and what is asked for when
//
// As root each job gets a user of its own. Else the keeper enters a user namespace when it is started, and has the rights to mount
// in there; jobs have not. Nothing of a job runs while the server works in its directory.
package shell

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"keelson.dev/keelson/internal/pipeline"
	"keelson.dev/keelson/internal/pipeline/diskspace"
	"keelson.dev/keelson/internal/pipeline/executor"
	"keelson.dev/keelson/internal/pipeline/executor/script"
	"keelson.dev/keelson/internal/pipeline/scratch"
)

// Bounds of a job where [Options] do not say otherwise.
const (
	DefaultGrace        = 10 * time.Second
	DefaultMaxProcesses = 2000
	DefaultReserve      = diskspace.Reserve
	// cageFactor times the processes of one job is what all jobs of an executor may have together, threads counted too.
	cageFactor = 3
)

// Options are how an [Executor] works. The zero value is what a person's own machine needs.
type Options struct {
	Runner executor.Runner
	// Tools is a directory with programs for jobs: the last one of their PATH, so that those of the machine, and those that a job
	// brings along, come first. Empty: none.
	Tools string
	// Shell is the program that runs scripts: bash or another shell of its kind; empty: bash, else sh.
	Shell string
	// Env names more variables of the own environment that jobs see.
	Env []string
	// IgnoreServices runs jobs with services: without them; else they fail with runner_unsupported.
	IgnoreServices bool
	// TempDir is where private directories for file variables and long scripts are made; empty: the system's.
	TempDir string
	// Grace is how long a script that was told to end may take before it is killed; 0: DefaultGrace.
	Grace time.Duration
	// MaxProcesses is how many processes a job may have at a time; 0: DefaultMaxProcesses, negative: as many as it likes.
	MaxProcesses int
	// Reserve are the bytes that a job leaves free on the file systems it works on; 0: DefaultReserve, negative: none.
	Reserve int64
	// Sandbox keeps jobs from the rest of the machine; nil: they run as who runs them, with all that this may do.
	Sandbox *Sandbox
}

// Executor runs jobs in shells.
type Executor struct {
	o      Options
	shell  string // path
	bash   bool
	passed []string // of the own environment
	null   *os.File // what jobs read
	watch  *watch
	cage   *cage
	box    *box // nil: no sandbox
}

// New makes an executor. On Linux it makes this process adopt the orphans of its descendants. With a sandbox it fails where [Check]
// finds that there can be none; then this program, called with [ChildCommand], has to serve it.
func New(o Options) (*Executor, error) {
	if o.Grace == 0 {
		o.Grace = DefaultGrace
	}
	if o.MaxProcesses == 0 {
		o.MaxProcesses = DefaultMaxProcesses
	}
	if o.Reserve == 0 {
		o.Reserve = DefaultReserve
	}
	if o.Runner.Description == "" {
		o.Runner.Description, _ = os.Hostname()
	}
	x := &Executor{o: o, passed: passed(o.Env), watch: newWatch(o)}
	names := []string{"bash", "sh"}
	if o.Shell != "" {
		names = []string{o.Shell}
	}
	var err error
	for _, name := range names {
		if x.shell, err = exec.LookPath(name); err == nil {
			break
		}
	}
	if err != nil {
		return nil, fmt.Errorf("no shell: %s is not in PATH", strings.Join(names, " or "))
	}
	if x.shell, err = filepath.Abs(x.shell); err != nil {
		return nil, err
	}
	x.bash = strings.Contains(filepath.Base(x.shell), "bash")
	if x.null, err = os.Open(os.DevNull); err != nil {
		return nil, err
	}
	adoptOrphans()
	x.cage = newCage(cageFactor * x.o.MaxProcesses)
	x.watch.cage = x.cage
	if o.Sandbox != nil {
		if x.box, err = newBox(*o.Sandbox, x.cage, o.TempDir); err != nil {
			_ = x.Close()
			return nil, fmt.Errorf("no sandbox for jobs: %w", err)
		}
		x.passed = x.box.passed(x.passed)
	}
	return x, nil
}

// Close lets go of what New took. No job runs any more.
func (x *Executor) Close() error {
	if x.box != nil {
		x.box.close()
	}
	x.cage.close()
	return x.null.Close()
}

// job is one run of a job.
type job struct {
	executor.Job
	x     *Executor
	trace *executor.Trace
	out   *script.Output
	scope *scope
	env   []string
	disks []disk

	ctx  context.Context // ended by the time limit, by a cancel and by a bound that the job breaks
	stop context.CancelCauseFunc

	dir  *scratch.Dir // the private directory; nil: not made
	cell *cell        // the sandbox; nil: none

	bounds *bounds // of CPU and memory; nil: none
}

// errTimeout is the cause with which the context of a job ends that takes too long.
var errTimeout = errors.New("time limit")

// boundError ends a job that takes more of the machine than it may.
type boundError string

func (e boundError) Error() string { return string(e) }

// Run runs a job; see [executor.Executor].
func (x *Executor) Run(ctx context.Context, work executor.Job, log executor.Log) (result executor.Result) {
	start := time.Now()
	trace, done := executor.OpenTrace(log, work)
	defer done()
	defer func() {
		result.Message = trace.Redacted(result.Message)
		result.Duration = time.Since(start)
		trace.Conclude(result)
	}()
	if err := x.refuses(work, trace); err != nil {
		return executor.FailedWith(err)
	}
	out, err := script.NewOutput(trace)
	if err != nil {
		return executor.FailedWith(fmt.Errorf("start the job: %w", err))
	}
	defer out.Close()
	j := &job{x: x, Job: work, trace: trace, out: out}
	ctx, ended := untilAbort(ctx, work.Abort)
	defer ended()
	j.ctx, j.stop = context.WithCancelCause(ctx)
	defer j.stop(nil)
	timer := time.AfterFunc(work.Limit(), func() { j.stop(errTimeout) })
	defer timer.Stop()
	defer context.AfterFunc(j.ctx, trace.Hurry)()
	j.scope = newScope(work.Dir, out.Writer())
	defer j.removeDir()
	if x.box != nil {
		if j.cell, err = x.box.open(j); err != nil {
			return executor.FailedWith(err)
		}
		defer j.cell.close()
	}
	if err := j.prepareEnvironment(start); err != nil {
		return executor.FailedWith(err)
	}
	j.bounds = newBounds(work.CPU, work.Memory, x.o.MaxProcesses, trace)
	defer j.bounds.close()
	j.disks = disks(x.o.Reserve, work.Dir, x.tempDir())
	x.watch.add(j)
	defer x.watch.remove(j)
	return j.play()
}

// tempDir is where private directories are made.
func (x *Executor) tempDir() string {
	if x.o.TempDir == "" {
		return os.TempDir()
	}
	return x.o.TempDir
}

// refuses tells why a job cannot run here, and in its log what of it is not used.
func (x *Executor) refuses(j executor.Job, trace *executor.Trace) error {
	unsupported := func(format string, args ...any) error {
		return &executor.Failure{Reason: pipeline.RunnerUnsupported, Err: fmt.Errorf(format, args...)}
	}
	if err := script.Unsupported(j.Job); err != nil {
		return err
	}
	if info, err := os.Stat(j.Dir); err != nil || !info.IsDir() || !filepath.IsAbs(j.Dir) {
		return fmt.Errorf("the job's directory %q is not there", j.Dir)
	}
	var names []string
	for _, s := range j.Services {
		names = append(names, s.Name)
	}
	if names != nil && !x.o.IgnoreServices {
		return unsupported("services (%s) need containers, which the shell executor has not; start them yourself and have them ignored, or remove them", strings.Join(names, ", "))
	}
	trace.Printf("Using Shell (%s) executor...", filepath.Base(x.shell))
	if j.Image != nil && j.Image.Name != "" {
		trace.Printf("Image %s is not used: the shell executor runs scripts on this machine", j.Variables.Expand(j.Image.Name))
	}
	if names != nil {
		trace.Warningf("Services are ignored, nobody starts them: %s", strings.Join(names, ", "))
	}
	return nil
}

// play runs the parts of a job in their order.
func (j *job) play() executor.Result {
	result, ready := j.prepare()
	if ready {
		result = j.verify(j.script())
		result = j.afterScript(result)
	}
	j.scope.end(j.trace, j.x.o.Grace)
	if j.cell != nil {
		j.cell.stop()
	}
	if j.Finish == nil || j.aborted() {
		return result
	}
	ctx, done := untilAbort(context.WithoutCancel(j.ctx), j.Abort)
	defer done()
	if err := j.Finish(ctx, j.trace, result); err != nil {
		if j.aborted() && result.Status == pipeline.StatusSuccess {
			return executor.Canceled()
		}
		if result.Status == pipeline.StatusSuccess {
			return executor.FailedWith(err)
		}
		j.trace.Warningf("%v", err)
	}
	return result
}

// prepare runs what comes before the script; false: it failed, or the job has to stop.
func (j *job) prepare() (executor.Result, bool) {
	if len(j.PreGet) > 0 {
		end := j.trace.Section("pre_get_sources", "Executing hooks:pre_get_sources_script", false)
		w := script.New(j.dialect())
		w.Commands("section_pre_get_sources", j.PreGet)
		r := j.execute(j.ctx, w.String(), nil, true)
		if end(); r.Status != pipeline.StatusSuccess {
			return r, false
		}
	}
	if j.cell != nil { // what comes now is done by the server: nothing of the job runs beside it
		j.cell.stop()
	}
	if j.Prepare != nil {
		if err := j.Prepare(j.ctx, j.trace); err != nil {
			if j.ctx.Err() != nil {
				return j.stopped(j.ctx), false
			}
			return executor.FailedWith(err), false
		}
	}
	if j.ctx.Err() != nil {
		return j.stopped(j.ctx), false
	}
	if j.cell != nil {
		if err := j.cell.own(j.Dir); err != nil {
			return executor.FailedWith(fmt.Errorf("give the directory to the job: %w", err)), false
		}
	}
	return executor.Succeeded(), true
}

// script runs before_script and script, or the steps.
func (j *job) script() executor.Result {
	ctx := j.ctx
	limit, err := j.ScriptLimit()
	if err != nil {
		j.trace.Warningf("%v", err)
	}
	if limit > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeoutCause(ctx, limit, scriptTimeout(limit))
		defer cancel()
	}
	end := j.trace.Section("step_script", `Executing "step_script" stage of the job script`, false)
	defer end()
	w := script.New(j.dialect())
	w.Commands("section_before_script", j.BeforeScript)
	w.Commands("section_script_step", j.Script)
	w.Steps(j.Job.Run)
	return j.execute(ctx, w.String(), nil, false)
}

// verify asks whether what the script has done is good.
func (j *job) verify(result executor.Result) executor.Result {
	if j.Verify == nil || result.Status != pipeline.StatusSuccess {
		return result
	}
	err := j.Verify(j.ctx, j.trace)
	switch {
	case j.ctx.Err() != nil:
		return j.stopped(j.ctx)
	case err != nil:
		return executor.FailedWith(err)
	}
	return result
}

// scriptTimeout is the cause of the end of a script that took longer than RUNNER_SCRIPT_TIMEOUT.
type scriptTimeout time.Duration

func (t scriptTimeout) Error() string { return "script time limit" }

// afterScript runs after_script, whose outcome counts only with AFTER_SCRIPT_IGNORE_ERRORS=false.
func (j *job) afterScript(result executor.Result) executor.Result {
	if len(j.AfterScript) == 0 || j.aborted() {
		return result
	}
	limit, err := j.AfterScriptLimit()
	if err != nil {
		j.trace.Warningf("%v", err)
	}
	ctx, stop := context.WithCancelCause(context.WithoutCancel(j.ctx))
	defer stop(nil)
	timer := time.AfterFunc(limit, func() { stop(scriptTimeout(limit)) })
	defer timer.Stop()
	j.x.watch.redirect(j, stop)
	end := j.trace.Section("after_script", "Running after_script", false)
	defer end()
	j.trace.Noticef("Running after script...")
	w := script.New(j.dialect())
	if file := j.envFile(); file != "" {
		w.Exports(file)
	}
	w.Commands("section_after_script_step", j.AfterScript)
	after := j.execute(ctx, w.String(), []string{"CI_JOB_STATUS=" + result.JobStatus()}, false)
	switch {
	case after.Status == pipeline.StatusSuccess:
	case result.Status == pipeline.StatusSuccess && !j.Is("AFTER_SCRIPT_IGNORE_ERRORS", true):
		return after
	default:
		j.trace.Warningf("after_script failed, but job will continue unaffected: %s", after.Message)
	}
	return result
}

// untilAbort gives a context that ends with an abort too.
func untilAbort(ctx context.Context, abort <-chan struct{}) (context.Context, context.CancelFunc) {
	ctx, stop := context.WithCancel(ctx)
	if abort != nil {
		go func() {
			select {
			case <-abort:
				stop()
			case <-ctx.Done():
			}
		}()
	}
	return ctx, stop
}

func (j *job) aborted() bool {
	select {
	case <-j.Abort:
		return true
	default:
		return false
	}
}

// stopped is the result of a job whose context has ended.
func (j *job) stopped(ctx context.Context) executor.Result {
	var limit scriptTimeout
	var bound boundError
	switch cause := context.Cause(ctx); {
	case errors.Is(cause, errTimeout):
		return executor.TimedOut(j.Limit())
	case errors.As(cause, &limit):
		return executor.TimedOut(time.Duration(limit))
	case errors.As(cause, &bound):
		return executor.Failed(pipeline.ScriptFailure, "%s", bound)
	case errors.Is(cause, context.DeadlineExceeded):
		return executor.Failed(pipeline.ExecutionTimeout, "the time for the whole run is over")
	default:
		return executor.Canceled()
	}
}

func (j *job) dialect() script.Dialect {
	d := script.DialectOf(j.Job, j.x.bash)
	d.Nproc = j.x.cage.nproc()
	return d
}

// mark makes the value by which the processes of a job are found again.
func mark() string {
	var b [12]byte
	_, _ = rand.Read(b[:]) // never fails
	return hex.EncodeToString(b[:])
}
