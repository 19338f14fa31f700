package agent

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/signal"
	"path/filepath"
	"runtime/debug"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"keelson.dev/keelson/internal/pipeline/executor/script"
)

// memoryLimit is what the agent may use before it collects its garbage more eagerly, in bytes: the job has the rest of the container's.
const memoryLimit = 24 << 20

// agent runs the phases of one job.
type agent struct {
	link   *link
	family *family
	log    *outbox
	out    *script.Output
	null   *os.File
	shell  string
	status Status
	setup  Setup
}

// serve runs a job to its end.
func serve() error {
	debug.SetMemoryLimit(memoryLimit)
	term := make(chan os.Signal, 1)
	signal.Notify(term, syscall.SIGTERM, syscall.SIGINT)
	l, err := newLink(JobDir)
	if err != nil {
		return err
	}
	a := &agent{link: l, family: newFamily(), log: newOutbox()}
	go func() { // the Pod is deleted
		<-term
		a.family.end()
		os.Exit(128 + int(syscall.SIGTERM))
	}()
	if a.null, err = os.Open(os.DevNull); err != nil {
		return err
	}
	if a.out, err = script.NewOutput(a.log); err != nil {
		return err
	}
	if a.shell, a.status.Bash, err = shell(); err != nil {
		return errors.New("the image has neither bash nor sh, which a job's script needs")
	}
	go l.sendLog(a.log)
	for {
		order, err := l.poll(context.Background(), a.status, a.setup.Mask)
		if err != nil {
			return err
		}
		switch {
		case order.Phase >= End:
			return nil
		case order.New(a.status):
			a.run(order)
		}
	}
}

// run runs a phase to its end.
func (a *agent) run(o Order) {
	a.status.Phase, a.status.Running = o.Phase, true
	if o.Phase == Upload {
		a.status.Uploads++
	}
	if o.Note != "" {
		a.status.Note = o.Note
	}
	ctx, end := context.WithCancel(context.Background())
	stop := make(chan struct{})
	asked := make(chan struct{})
	go func(status Status) {
		defer close(asked)
		for {
			next, err := a.link.poll(ctx, status, a.setup.Mask)
			if ctx.Err() != nil || err != nil {
				return
			}
			if next.Stop && next.Phase == o.Phase {
				close(stop)
				return
			}
		}
	}(a.status)
	exit := a.phase(o, stop)
	a.log.drained()
	end()
	<-asked
	a.status.Exits[o.Phase], a.status.Running = exit, false
}

func (a *agent) phase(o Order, stop <-chan struct{}) Exit {
	if o.Setup != nil {
		a.setup = *o.Setup
		if err := a.prepare(); err != nil {
			return Exit{Err: err.Error()}
		}
	}
	if o.Stop { // before it began
		return Exit{Stopped: true}
	}
	switch o.Phase {
	case PreGet, Script, AfterScript:
		return a.execute(o, stop)
	case Fetch:
		return a.fetch(o, stop)
	case Upload:
		return a.upload(o, stop)
	}
	return Exit{Err: fmt.Sprintf("there is no phase %d", o.Phase)}
}

// prepare makes the directories of the job.
func (a *agent) prepare() error {
	syscall.Umask(0o022)
	if err := os.MkdirAll(a.setup.Dir, 0o755); err != nil {
		return fmt.Errorf("make the job's directory: %w", err)
	}
	if err := os.MkdirAll(a.setup.Temp, 0o700); err != nil {
		return fmt.Errorf("make the job's directory: %w", err)
	}
	for _, f := range a.setup.Files {
		if err := os.WriteFile(filepath.Join(a.setup.Temp, filepath.Base(f.Name)), []byte(f.Content), 0o600); err != nil {
			return fmt.Errorf("write a file of the job: %w", err)
		}
	}
	return nil
}

// environ is that of the container with the job's variables.
func (a *agent) environ(more []string) []string {
	var env []string
	at := map[string]int{}
	for _, kv := range slices.Concat(os.Environ(), []string{"PWD=" + a.setup.Dir}, a.setup.Env, more) {
		name, _, _ := strings.Cut(kv, "=")
		if i, ok := at[name]; ok {
			env[i] = kv
			continue
		}
		at[name] = len(env)
		env = append(env, kv)
	}
	return env
}

// execute runs a script.
func (a *agent) execute(o Order, stop <-chan struct{}) Exit {
	args := []string{filepath.Base(a.shell), "-c", o.Text}
	if len(o.Text) > script.MaxInline {
		file := filepath.Join(a.setup.Temp, fmt.Sprintf("script-%d", o.Phase))
		if err := os.WriteFile(file, []byte(o.Text), 0o600); err != nil {
			return Exit{Err: fmt.Sprintf("write the script: %v", err)}
		}
		args = []string{args[0], file}
	}
	killed := oomKills()
	pid, exited, err := a.family.start(a.shell, args, a.environ(o.Env), a.setup.Dir, a.null, a.out.Writer())
	if errors.Is(err, syscall.E2BIG) {
		return Exit{Err: errTooLarge.Error(), Config: true}
	}
	if err != nil {
		return Exit{Err: fmt.Sprintf("start the shell: %v", err)}
	}
	a.out.Flow()
	exit := a.await(pid, exited, o.Limit, stop)
	a.out.Settle()
	exit.OOM = oomKills() > killed
	return exit
}

var errTooLarge = errors.New("the variables of the job are too large for the environment of a process; make the large ones file variables")

// await waits for the end of a shell, for which it sees to when the job has to stop.
func (a *agent) await(pid int, exited <-chan int, limit time.Duration, stop <-chan struct{}) Exit {
	var late <-chan time.Time
	if limit > 0 {
		timer := time.NewTimer(limit)
		defer timer.Stop()
		late = timer.C
	}
	select {
	case code := <-exited:
		return Exit{Code: code}
	case <-stop:
	case <-late:
	}
	_ = syscall.Kill(-pid, syscall.SIGTERM)
	grace := time.NewTimer(a.setup.Grace)
	defer grace.Stop()
	select {
	case code := <-exited:
		return Exit{Code: code, Stopped: true}
	case <-grace.C:
	}
	go a.family.end()
	return Exit{Code: <-exited, Stopped: true, Killed: true}
}

// fetch gets the job's directory, and waits for its services.
func (a *agent) fetch(o Order, stop <-chan struct{}) Exit {
	ctx, end := context.WithCancel(context.Background())
	defer end()
	go func() {
		select {
		case <-stop:
			end()
		case <-ctx.Done():
		}
	}()
	err := a.link.download(ctx, a.setup.Dir)
	if ctx.Err() != nil {
		return Exit{Stopped: true}
	}
	if err != nil {
		return Exit{Err: fmt.Sprintf("get the sources: %v", err)}
	}
	a.services(ctx, o.Wait)
	return Exit{Stopped: ctx.Err() != nil}
}

// servicePatience is how long a job waits for its services, as with GitLab's runner.
const servicePatience = 30 * time.Second

// services waits until what the services listen on can be reached; the log tells of those that cannot.
func (a *agent) services(ctx context.Context, ports []Port) {
	ctx, cancel := context.WithTimeout(ctx, servicePatience)
	defer cancel()
	for _, p := range ports {
		for {
			conn, err := (&net.Dialer{}).DialContext(ctx, "tcp", net.JoinHostPort("127.0.0.1", strconv.Itoa(p.Port)))
			if err == nil {
				conn.Close()
				break
			}
			select {
			case <-time.After(50 * time.Millisecond):
				continue
			case <-ctx.Done():
			}
			fmt.Fprintf(a.log, "*** WARNING: Service %s probably didn't start properly: nothing listens on port %d after %s.\n", p.Service, p.Port, servicePatience)
			break
		}
	}
}

// upload ends all that runs, and sends what is wanted of the job's directory.
func (a *agent) upload(o Order, stop <-chan struct{}) Exit {
	if !a.family.end() {
		fmt.Fprintln(a.log, "WARNING: processes of the job cannot be ended; they end with its Pod")
	}
	if len(o.Selected) == 0 {
		return Exit{}
	}
	ctx, end := context.WithCancel(context.Background())
	defer end()
	go func() {
		select {
		case <-stop:
			end()
		case <-ctx.Done():
		}
	}()
	if err := a.link.upload(ctx, a.setup.Dir, o.Selected, o.Tracked); err != nil {
		return Exit{Err: fmt.Sprintf("send what the job leaves: %v", err), Stopped: ctx.Err() != nil}
	}
	return Exit{}
}
