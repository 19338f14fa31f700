package render

import (
	"bufio"
	"bytes"
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path"
	"runtime"
	"runtime/debug"
	"runtime/metrics"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/fluxcd/pkg/apis/meta"
	k8sjson "k8s.io/apimachinery/pkg/util/json"
	"sigs.k8s.io/kustomize/api/resmap"
	"sigs.k8s.io/kustomize/kyaml/filesys"

	"keelson.dev/keelson/internal/delivery"
)

// What cannot be interrupted runs in a child, which can be ended: a chart's templates and jsonnet, which are programs that
// may loop or take all memory, and a kustomize build that sets the OpenAPI schema, since it sets it for its whole process.
// A child is this program again, with [ChildCommand] as its only argument, no environment, and pipes to its parent and
// nothing else. It has no repository: it asks its parent for every file that it wants, over its standard output, and reads
// the answers from its standard input. The parent answers from the render's own tree, so bounds, links and tracking are
// those of any other render. Messages are JSON after their length.
//
// A child that has done its task waits for another one for a while, since starting one takes longer than most charts;
// unless it has set the schema.

// ChildCommand is the argument under which a program that renders has to call [ServeChild] and end.
const ChildCommand = "render-child"

const (
	childMemory   = 1 << 30           // bytes of a child
	childMessage  = 2 * maxRendered   // bytes of what a child says
	childAnswer   = 2 * maxFileBytes  // bytes of what it is told
	childTask     = 3 * maxInputBytes // bytes of what it is to do
	childExchange = 200_000           // questions of one task
	childIdle     = 10 * time.Second  // how long one waits for another task
	childTasks    = 1_000             // tasks of one child
	childMarker   = "KEELSON_RENDER_CHILD=1"
	// Exit codes of a child.
	childOrphaned, childTooLarge = 3, 4
)

// childTime bounds one task in a child; tests shorten it.
var childTime = 30 * time.Second

// children bounds how many work at once; each takes some 150 MiB.
var children = make(chan struct{}, 2)

// task is what a child is to do; one of these.
type task struct {
	Dir     string   // a kustomize build of this folder
	Chart   *chart   // the templates of this chart
	Jsonnet *snippet // the evaluation of this file

	Templates *templates // the templates of this chart, with all that they are given
}

// what names a task for people.
func (t task) what() string {
	switch {
	case t.Chart != nil, t.Templates != nil:
		return "rendering the chart"
	case t.Jsonnet != nil:
		return "evaluating " + t.Jsonnet.File
	}
	return "the build"
}

// question is what a child says: it wants to know something of the repository, or it is done.
type question struct {
	Op     string // childReady, childRead, …
	Name   string
	Args   []string
	Made   []product
	Texts  map[string]string
	Failed string // why there is no result
	Where  string // where that is, as file:line; may be empty
	Hint   string // what to do about it; may be empty
}

const (
	childReady  = "ready"
	childRead   = "read"
	childIsDir  = "isDir"
	childExists = "exists"
	childAbs    = "abs"
	childLookup = "lookup"
	childDone   = "done"
)

// answer is what a child is told. What it is told without having asked is a task.
type answer struct {
	Task      *task `json:",omitempty"`
	Dir, Base string
	Data      []byte
	OK        bool
	Failed    string
	Absent    bool // Failed means that there is no such file
}

// product is an object that kustomize made, as it was found again by kind, namespace and name, or what is wrong with it.
type product struct {
	Kind, Namespace, Name string
	Object                map[string]any
	Problem               string
	Origin                string // where the child knows it
}

// UnmarshalJSON implements [json.Unmarshaler]: whole numbers stay integers.
func (m *product) UnmarshalJSON(data []byte) error {
	type plain product
	var p struct {
		plain
		Object json.RawMessage
	}
	if err := json.Unmarshal(data, &p); err != nil {
		return err
	}
	*m = product(p.plain)
	return k8sjson.Unmarshal(p.Object, &m.Object)
}

// childFault is a fault of the machine's or of the task's size: it may pass.
func childFault(format string, args ...any) error {
	return &delivery.Fault{Reason: meta.BuildFailedReason, Retry: delivery.Backoff, Err: fmt.Errorf(format, args...),
		Hint: "charts, jsonnet and builds that set openapi run in a process of their own, in bounds; make it smaller"}
}

// runChild is a kustomize build in a child.
func runChild(ctx context.Context, fsys filesys.FileSystem, dir string) ([]product, error) {
	done, err := runTask(ctx, fsys, task{Dir: dir})
	return done.Made, err
}

// runTask has a child do a task, with the files of fsys. The error of a task that failed is a [*childError].
func runTask(ctx context.Context, fsys filesys.FileSystem, t task) (question, error) {
	select {
	case children <- struct{}{}:
		defer func() { <-children }()
	case <-ctx.Done():
		return question{}, ctx.Err()
	}
	limited, cancel := context.WithTimeout(ctx, childTime)
	defer cancel()
	done, err := employ(limited, fsys, t)
	switch {
	case ctx.Err() != nil:
		return question{}, ctx.Err()
	case limited.Err() != nil:
		return question{}, childFault("%s takes longer than %v", t.what(), childTime)
	}
	return done, err
}

// employ finds or starts a child for a task.
func employ(ctx context.Context, fsys filesys.FileSystem, t task) (question, error) {
	for {
		w := spare.take()
		old := w != nil
		if !old {
			var err error
			if w, err = startWorker(); err != nil {
				return question{}, err
			}
		}
		done, alive, err := w.do(ctx, fsys, t)
		if alive && t.Dir == "" && w.tasks < childTasks {
			spare.put(w)
			return done, err
		}
		code := w.end()
		if alive || ctx.Err() != nil {
			return done, err
		}
		if code == childTooLarge {
			return question{}, childFault("%s takes more than %d MiB of memory", t.what(), childMemory>>20)
		}
		if !old { // else it may have died long ago
			return done, err
		}
	}
}

// worker is a child process, seen from its parent.
type worker struct {
	cmd   *exec.Cmd
	in    *bufio.Reader  // what it says
	out   io.WriteCloser // what it is told
	tasks int
	idle  *time.Timer
}

func startWorker() (*worker, error) {
	if os.Getenv(strings.TrimSuffix(childMarker, "=1")) != "" {
		return nil, errors.New("start child: this program is one, and does not serve as such")
	}
	program, err := executable()
	if err != nil {
		return nil, childFault("start child: %w", err)
	}
	cmd := exec.Command(program)
	cmd.Args = []string{os.Args[0], ChildCommand}
	cmd.Env, cmd.Dir = []string{childMarker}, "/"
	in, err := cmd.StdinPipe()
	if err != nil {
		return nil, childFault("start child: %w", err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		return nil, childFault("start child: %w", err)
	}
	if err := cmd.Start(); err != nil {
		return nil, childFault("start child: %w", err)
	}
	return &worker{cmd: cmd, in: bufio.NewReader(out), out: in}, nil
}

// do has the child do a task. alive tells that it can do more.
func (w *worker) do(ctx context.Context, fsys filesys.FileSystem, t task) (done question, alive bool, err error) {
	stop := context.AfterFunc(ctx, func() { _ = w.cmd.Process.Kill() }) // it may have ended
	p := &parent{fsys: fsys, in: w.in, out: w.out, started: w.tasks > 0}
	w.tasks++
	done, err = p.serve(t)
	var failed *childError
	return done, stop() && (err == nil || errors.As(err, &failed)), err
}

// end ends the child and gives its exit code.
func (w *worker) end() int {
	_ = w.cmd.Process.Kill() // it may have ended
	w.out.Close()
	_ = w.cmd.Wait() // how it has ended is told by its state
	return w.cmd.ProcessState.ExitCode()
}

// spareWorkers are children that wait for a task.
type spareWorkers struct {
	mu  sync.Mutex
	all []*worker
}

var spare spareWorkers

func (s *spareWorkers) take() *worker {
	s.mu.Lock()
	defer s.mu.Unlock()
	for len(s.all) > 0 {
		w := s.all[len(s.all)-1]
		s.all = s.all[:len(s.all)-1]
		if w.idle.Stop() {
			return w
		}
	}
	return nil
}

func (s *spareWorkers) put(w *worker) {
	s.mu.Lock()
	defer s.mu.Unlock()
	w.idle = time.AfterFunc(childIdle, func() {
		s.mu.Lock()
		s.all = slices.DeleteFunc(s.all, func(o *worker) bool { return o == w })
		s.mu.Unlock()
		w.end()
	})
	s.all = append(s.all, w)
}

// executable is this program, also where its file has been replaced since it was started.
func executable() (string, error) {
	const self = "/proc/self/exe"
	if _, err := os.Stat(self); err == nil {
		return self, nil
	}
	return os.Executable()
}

// parent answers a child from a file system.
type parent struct {
	fsys    filesys.FileSystem
	in      io.Reader
	out     io.Writer
	started bool    // the child has done a task before
	told    []error // the errors that it was told
}

func (p *parent) serve(t task) (question, error) {
	const broken = "%s in a child process: %w"
	var q question
	if !p.started {
		if err := receive(p.in, childAnswer, &q); err != nil || q.Op != childReady {
			return question{}, childFault(broken, t.what(), errors.Join(errors.New("it did not start"), err))
		}
	}
	if err := send(p.out, answer{Task: &t}); err != nil {
		return question{}, childFault(broken, t.what(), err)
	}
	for range childExchange {
		q = question{}
		if err := receive(p.in, childMessage, &q); err != nil {
			return question{}, childFault(broken, t.what(), err)
		}
		if q.Op == childDone {
			if q.Failed != "" {
				return question{}, p.failure(q)
			}
			return q, nil
		}
		if err := send(p.out, p.answer(q)); err != nil {
			return question{}, childFault(broken, t.what(), err)
		}
	}
	return question{}, childFault("%s asks for more than %d files", t.what(), childExchange)
}

func (p *parent) answer(q question) (a answer) {
	var err error
	switch q.Op {
	case childRead:
		a.Data, err = p.fsys.ReadFile(q.Name)
	case childIsDir:
		a.OK = p.fsys.IsDir(q.Name)
	case childExists:
		a.OK = p.fsys.Exists(q.Name)
	case childLookup:
		l, ok := p.fsys.(cluster)
		if !ok {
			err = errors.New("there is no cluster to look it up in")
			break
		}
		a.Data, err = l.lookup(q.Args)
	case childAbs:
		var dir filesys.ConfirmedDir
		dir, a.Base, err = p.fsys.CleanedAbs(q.Name)
		a.Dir = string(dir)
	default:
		err = fmt.Errorf("unknown question %q", q.Op)
	}
	if err != nil {
		p.told = append(p.told, err)
		a = answer{Failed: err.Error(), Absent: errors.Is(err, fs.ErrNotExist)}
	}
	return a
}

// failure is a child's error, which wraps those that it was told and that it speaks of.
func (p *parent) failure(q question) error {
	e := &childError{text: q.Failed, where: q.Where, hint: q.Hint}
	for _, err := range p.told {
		if strings.Contains(q.Failed, err.Error()) {
			e.causes = append(e.causes, err)
		}
	}
	return e
}

type childError struct {
	text, where, hint string
	causes            []error
}

func (e *childError) Error() string   { return e.text }
func (e *childError) Unwrap() []error { return e.causes }

func send(to io.Writer, message any) error {
	var b bytes.Buffer
	b.Write(make([]byte, 4))
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(message); err != nil {
		return fmt.Errorf("write message: %w", err)
	}
	binary.BigEndian.PutUint32(b.Bytes(), uint32(b.Len()-4)) //nolint:gosec // a message is far smaller
	_, err := to.Write(b.Bytes())
	return err
}

func receive(from io.Reader, limit uint32, message any) error {
	var head [4]byte
	if _, err := io.ReadFull(from, head[:]); err != nil {
		return fmt.Errorf("read message: %w", err)
	}
	size := binary.BigEndian.Uint32(head[:])
	if size > limit {
		return childFault("a message of %d bytes, the limit is %d", size, limit)
	}
	var b bytes.Buffer
	if _, err := io.CopyN(&b, from, int64(size)); err != nil {
		return fmt.Errorf("read message: %w", err)
	}
	return json.Unmarshal(b.Bytes(), message)
}

// ServeChild does the tasks that its parent gives it, and gives the exit code to end with. The process ends early if
// its parent goes, and where a task takes too much time or memory.
func ServeChild(in io.Reader, out io.Writer) int {
	runtime.GOMAXPROCS(1)
	debug.SetMemoryLimit(childMemory / 2)
	go boundMemory()
	answers := make(chan answer)
	go func() { // whatever the task does meanwhile, the end of the input is seen
		in := bufio.NewReader(in)
		for {
			var a answer
			if receive(in, childTask, &a) != nil {
				os.Exit(childOrphaned)
			}
			answers <- a
		}
	}()
	if send(out, question{Op: childReady}) != nil {
		return childOrphaned
	}
	c := childFS{FileSystem: filesys.MakeFsInMemory(), answers: answers, out: out}
	for a := range answers {
		if a.Task == nil {
			return childOrphaned
		}
		late := time.AfterFunc(childTime, func() { os.Exit(childOrphaned) })
		done := a.Task.perform(c)
		late.Stop()
		if err := send(out, done); err != nil {
			return childOrphaned
		}
		if usedMemory() > childMemory/4 { // it may wait for long
			debug.FreeOSMemory()
		}
	}
	return 0
}

// perform does a task.
func (t *task) perform(c childFS) (done question) {
	done.Op = childDone
	var err error
	switch {
	case t.Chart != nil:
		done.Made, err = t.Chart.render()
	case t.Templates != nil:
		done.Texts, err = t.Templates.execute(c.lookup)
	case t.Jsonnet != nil:
		done.Made, err = t.Jsonnet.evaluate(c)
	default:
		var result resmap.ResMap
		if result, err = kustomize(c, t.Dir); err == nil {
			done.Made = convert(result.Resources(), new(sizer))
		}
	}
	if err != nil {
		done.Made, done.Failed = nil, err.Error()
		if f := (*delivery.Fault)(nil); errors.As(err, &f) {
			done.Failed, done.Where, done.Hint = f.Err.Error(), f.Where, f.Hint
		}
	}
	return done
}

func boundMemory() {
	for range time.Tick(20 * time.Millisecond) {
		if usedMemory() > childMemory {
			os.Exit(childTooLarge)
		}
	}
}

// usedMemory is how much the process holds, in bytes.
func usedMemory() uint64 {
	sample := []metrics.Sample{{Name: "/memory/classes/total:bytes"}, {Name: "/memory/classes/heap/released:bytes"}}
	metrics.Read(sample)
	return sample[0].Value.Uint64() - sample[1].Value.Uint64()
}

// childFS is the repository as a child sees it: by asking.
type childFS struct {
	filesys.FileSystem
	answers <-chan answer
	out     io.Writer
}

func (c childFS) ask(op, name string) (answer, error) {
	return c.inquire(question{Op: op, Name: path.Clean(name)})
}

func (c childFS) inquire(q question) (answer, error) {
	if send(c.out, q) != nil {
		os.Exit(childOrphaned)
	}
	a := <-c.answers
	switch {
	case a.Absent:
		return a, absentError(a.Failed)
	case a.Failed != "":
		return a, errors.New(a.Failed)
	}
	return a, nil
}

// absentError is an fs.ErrNotExist in somebody else's words.
type absentError string

func (e absentError) Error() string { return string(e) }
func (absentError) Unwrap() error   { return fs.ErrNotExist }

// ReadFile implements filesys.FileSystem.
func (c childFS) ReadFile(name string) ([]byte, error) {
	a, err := c.ask(childRead, name)
	return a.Data, err
}

// IsDir implements filesys.FileSystem.
func (c childFS) IsDir(name string) bool {
	a, err := c.ask(childIsDir, name)
	return err == nil && a.OK
}

// Exists implements filesys.FileSystem.
func (c childFS) Exists(name string) bool {
	a, err := c.ask(childExists, name)
	return err == nil && a.OK
}

// CleanedAbs implements filesys.FileSystem.
func (c childFS) CleanedAbs(name string) (filesys.ConfirmedDir, string, error) {
	a, err := c.ask(childAbs, name)
	return filesys.ConfirmedDir(a.Dir), a.Base, err
}
