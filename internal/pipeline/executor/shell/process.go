package shell

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"keelson.dev/keelson/internal/pipeline"
	"keelson.dev/keelson/internal/pipeline/executor"
	"keelson.dev/keelson/internal/pipeline/executor/script"
)

// execute runs a script to its end, or until ctx ends it, with more variables in its environment. In a sandbox the directory may be
// read-only.
func (j *job) execute(ctx context.Context, text string, more []string, readOnly bool) executor.Result {
	if ctx.Err() != nil {
		return j.stopped(ctx)
	}
	args, err := j.arguments(text)
	if err != nil {
		return executor.FailedWith(err)
	}
	env := j.env
	if len(more) > 0 {
		env = slices.Concat(j.env, more) // the last one of several counts
		env = slices.DeleteFunc(env[:len(j.env)], func(kv string) bool {
			name, _, _ := strings.Cut(kv, "=")
			return slices.ContainsFunc(more, func(m string) bool { return strings.HasPrefix(m, name+"=") })
		})
		env = append(env, more...)
	}
	p, err := j.launch(args, env, readOnly)
	switch {
	case errors.Is(err, syscall.E2BIG):
		return executor.Failed(pipeline.ConfigurationError, "the variables of the job are too large for the environment of a process; make the large ones file variables")
	case err != nil:
		return executor.FailedWith(fmt.Errorf("start the shell: %w", err))
	}
	defer context.AfterFunc(ctx, j.trace.Hurry)()
	j.out.Flow()
	exited := make(chan *os.ProcessState, 1)
	go func() {
		state, _ := p.Wait()
		exited <- state
	}()
	state, stopped := j.await(ctx, p.Pid, exited)
	j.scope.exited(p.Pid)
	j.out.Settle()
	if stopped {
		return j.stopped(ctx)
	}
	result := executor.Exited(exitCode(state))
	if killed := j.bounds.exceeded(); killed != "" {
		if result.Status == pipeline.StatusSuccess {
			j.trace.Warningf("%s", killed)
		} else {
			result.Message += "; " + killed
		}
	}
	return result
}

// launch starts a shell in a session of its own: a group that can be ended as one, and no terminal to ask on.
func (j *job) launch(args, env []string, readOnly bool) (*os.Process, error) {
	files := []*os.File{j.x.null, j.out.Writer(), j.out.Writer()}
	if j.cell != nil {
		joins, err := j.bounds.joins()
		if err != nil {
			return nil, err
		}
		defer closeAll(joins)
		return j.cell.start(j.scope, j.x.shell, args, env, j.Dir, append(files, joins...), readOnly)
	}
	return j.scope.start(j.x.cage, j.bounds, j.x.shell, args, &os.ProcAttr{Dir: j.Dir, Env: env, Files: files, Sys: &syscall.SysProcAttr{Setsid: true}})
}

func closeAll(files []*os.File) {
	for _, f := range files {
		f.Close()
	}
}

// arguments are those of a shell that runs a script. A script is no file where it can be an argument.
func (j *job) arguments(text string) ([]string, error) {
	name := filepath.Base(j.x.shell)
	if len(text) <= script.MaxInline {
		return []string{name, "-c", text}, nil
	}
	file, err := j.writePrivate("", text)
	if err != nil {
		return nil, fmt.Errorf("write the script: %w", err)
	}
	return []string{name, file}, nil
}

// await waits for the end of a shell, for which it sees to when the job has to stop.
func (j *job) await(ctx context.Context, pid int, exited <-chan *os.ProcessState) (state *os.ProcessState, stopped bool) {
	select {
	case state = <-exited:
		return state, false
	case <-j.Abort:
	case <-ctx.Done():
		var bound boundError
		if errors.As(context.Cause(ctx), &bound) {
			j.scope.freeze()
			break
		}
		_ = syscall.Kill(-pid, syscall.SIGTERM)
		grace := time.NewTimer(j.x.o.Grace)
		defer grace.Stop()
		select {
		case state = <-exited:
			return state, true
		case <-grace.C:
			j.trace.Warningf("The script did not end within %s after SIGTERM and is killed", j.x.o.Grace)
		case <-j.Abort:
		}
	}
	j.trace.Hurry()
	j.scope.kill()
	return <-exited, true
}

// exitCode is the code of a process as a shell has it: 128+n for one that signal n has ended.
func exitCode(state *os.ProcessState) int {
	if state == nil {
		return executor.NoExitCode
	}
	if status, ok := state.Sys().(syscall.WaitStatus); ok && status.Signaled() {
		return 128 + int(status.Signal())
	}
	return state.ExitCode()
}
