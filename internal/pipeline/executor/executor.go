// Package executor is the port to what runs the jobs of a pipeline: a shell on this machine, or a Pod of a cluster.
//
//	x, err := shell.New(shell.Options{})
//	trace := executor.NewTrace(file, job)           // redacts, bounds, marks sections
//	result := x.Run(ctx, job, trace)
//	err = trace.Close()
//
// Every executor passes the suite of package conformance.
package executor

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"keelson.dev/keelson/internal/pipeline"
)

// Bounds where a job says nothing else.
const (
	DefaultTimeout     = time.Hour       // of a job
	AfterScriptTimeout = 5 * time.Minute // of after_script, on top of the job's; RUNNER_AFTER_SCRIPT_TIMEOUT changes it
	DefaultLogLimit    = 4 << 20         // bytes of a job's log, GitLab's default
)

// Executor runs jobs. It is safe for concurrent use.
type Executor interface {
	// Run runs a job to its end: hooks:pre_get_sources_script, Prepare, before_script with script (or run), Verify, after_script,
	// Finish. It returns when nothing that the job started runs any more. When ctx ends the job is canceled: its script is
	// told to end and is killed after a grace; after_script and Finish still run.
	//
	// What reaches the log is redacted and bounded. A log that is not a [Trace] is wrapped in one; a log that fails does not
	// end the job. Run never panics on what a job says, and its Result holds no masked value.
	Run(ctx context.Context, job Job, log Log) Result
}

// Survivor is an executor whose jobs outlive the process that runs them. Run lets go of a job when its Leave is closed: it goes on, and a
// Run with Resume takes it up again, in this process or another one. It fails with runner_system_failure where the job is gone.
type Survivor interface {
	Executor
	Survives() bool
}

// Log takes what a job says, in order, from one goroutine at a time. Sections are marked in the text as GitLab marks them:
// section_start:UNIX:NAME[collapsed=true]\r\e[0K and section_end:UNIX:NAME\r\e[0K.
type Log interface {
	io.Writer
}

// Hasty is a [Log] whose Write may wait for somebody who reads it. From Hurry on, which an executor calls when a job has to end,
// Write waits no more, also where it was waiting, and drops what it has no room for.
type Hasty interface{ Hurry() }

// Job is a job of a graph with what is known only when it starts.
type Job struct {
	// Job's Variables are the final ones: the graph's, and the dotenv reports of its needs. [Job.Environment] adds those of
	// the runner.
	pipeline.Job

	ID      int64     // CI_JOB_ID
	Started time.Time // CI_JOB_STARTED_AT; zero: when Run is called
	Dir     string    // the working directory with the sources, CI_PROJECT_DIR; absolute
	// BuildsDir is CI_BUILDS_DIR; empty: the parent of Dir.
	BuildsDir string
	Slot      int // CI_CONCURRENT_ID: tells jobs that run at the same time apart

	// CPU and Memory are what the job may take at a time: thousandths of a processor, and bytes; 0: as much as there is. An executor that
	// cannot see to it says so in the log.
	CPU, Memory int64

	Mask     []string // values besides those of masked variables that the log must not show
	LogLimit int64    // bytes; 0: DefaultLogLimit, negative: none

	// Prepare makes the directory ready: sources, caches, artifacts of other jobs. It is called after
	// hooks:pre_get_sources_script and before the script. An error fails the job ([Failure] says with which reason); nil: the
	// directory is ready.
	Prepare func(ctx context.Context, trace *Trace) error
	// Verify says whether what the script has done is good: that what it has deployed is healthy. It is called when the script has succeeded,
	// before after_script. Its ctx ends with the job's time and when it is canceled. An error fails the job ([Failure] says with which reason).
	Verify func(ctx context.Context, trace *Trace) error
	// Finish keeps what the job leaves behind: caches, artifacts, reports. It is called after after_script with the result so
	// far, also of a job that failed or was canceled, but not of one that was aborted. An error fails a job that had
	// succeeded. Its ctx is not ended by the job's timeout or a cancel,
	// but by Abort.
	Finish func(ctx context.Context, trace *Trace, result Result) error
	// Abort ends the job at once when it is closed: no grace, no after_script, no Finish. Nil: never.
	Abort <-chan struct{}

	// By is who has played or retried this attempt, or let it be decided anew; empty: nobody has, or an earlier one was theirs.
	By string
	// Place is what the job's project says about where it runs.
	Place Place
	// Leave lets a [Survivor] go of the job when it is closed: Run returns at once, and what it returns means nothing. It is closed before
	// the context ends. Nil: never.
	Leave <-chan struct{}
	// Kept is closed once the result that Run has given is where another process finds it. Until then, or until Leave is closed, a [Survivor]
	// keeps the job so that another process can take it up at its end. Nil: nobody takes it up.
	Kept <-chan struct{}
	// Resume says that an earlier process has started the job, and Logged how long its log is: it goes on at its end.
	Resume bool
	Logged int64
}

// Place is what a project says about where its jobs run. Executors take what they know of it.
type Place struct {
	Namespace        string
	ServiceAccount   string // of the jobs' Pods; they get no token of it
	Image            string // of jobs that name none
	ImagePullSecrets []string
	NodeSelector     map[string]string
	Tolerations      []Toleration
}

// Toleration lets a Pod onto nodes with a taint, in Kubernetes' words.
type Toleration struct {
	Key, Operator, Value, Effect string
	Seconds                      *int64
}

// NoExitCode stands for the exit code of a script that did not get so far, or was stopped.
const NoExitCode = -1

// Result is how a job ended.
type Result struct {
	Status   pipeline.Status        // success, failed or canceled
	Reason   pipeline.FailureReason // of a failed job
	ExitCode int                    // of the script; 128+n where signal n ended it; NoExitCode where there is none
	// Message says in one sentence why the job did not succeed: "exit code 1", "execution took longer than 1h0m0s".
	Message string
	// Duration is the time that Run took.
	Duration time.Duration
}

// Succeeded is the result of a job that did all it was asked.
func Succeeded() Result { return Result{Status: pipeline.StatusSuccess} }

// Failed is the result of a job that failed before its script could run or beside it.
func Failed(reason pipeline.FailureReason, format string, args ...any) Result {
	return Result{Status: pipeline.StatusFailed, Reason: reason, ExitCode: NoExitCode, Message: fmt.Sprintf(format, args...)}
}

// Exited is the result of a script that ended with a code.
func Exited(code int) Result {
	if code == 0 {
		return Succeeded()
	}
	return Result{Status: pipeline.StatusFailed, Reason: pipeline.ScriptFailure, ExitCode: code, Message: exitMessage(code)}
}

func exitMessage(code int) string {
	switch {
	case code == 126:
		return "exit code 126 (found, but it cannot be executed)"
	case code == 127:
		return "exit code 127 (command not found)"
	case code == 128+9:
		return "exit code 137 (killed; the kernel does that when memory runs out)"
	case code > 128 && code < 128+65:
		if name := signalName(code - 128); name != "" {
			return fmt.Sprintf("exit code %d (%s)", code, name)
		}
	}
	return fmt.Sprintf("exit code %d", code)
}

// signalName names the signals that end programs; empty: another one.
func signalName(n int) string {
	return map[int]string{1: "SIGHUP", 2: "SIGINT", 3: "SIGQUIT", 4: "SIGILL", 6: "SIGABRT", 7: "SIGBUS", 8: "SIGFPE", 11: "SIGSEGV",
		13: "SIGPIPE", 14: "SIGALRM", 15: "SIGTERM", 24: "SIGXCPU", 25: "SIGXFSZ: a file grew beyond its limit"}[n]
}

// TimedOut is the result of a job that took too long.
func TimedOut(limit time.Duration) Result {
	return Failed(pipeline.ExecutionTimeout, "execution took longer than %s", limit)
}

// Canceled is the result of a job that was told to end.
func Canceled() Result {
	return Result{Status: pipeline.StatusCanceled, ExitCode: NoExitCode, Message: "canceled"}
}

// Failure is an error with the reason that a job fails with.
type Failure struct {
	Reason pipeline.FailureReason
	Err    error
}

func (f *Failure) Error() string { return f.Err.Error() }
func (f *Failure) Unwrap() error { return f.Err }

// FailedWith is the result of a job that err ended: with the reason of its [Failure], or else runner_system_failure.
func FailedWith(err error) Result {
	var f *Failure
	if errors.As(err, &f) {
		return Failed(f.Reason, "%s", err)
	}
	return Failed(pipeline.RunnerSystemFailure, "%s", err)
}

// JobStatus is the value of CI_JOB_STATUS that after_script sees, in the runner's words.
func (r Result) JobStatus() string {
	switch {
	case r.Status == pipeline.StatusSuccess:
		return "success"
	case r.Status == pipeline.StatusCanceled:
		return "canceled"
	case r.Reason == pipeline.ExecutionTimeout:
		return "timedout"
	default:
		return "failed"
	}
}
