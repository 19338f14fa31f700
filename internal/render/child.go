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
	"strings"
	"time"

	"github.com/fluxcd/pkg/apis/meta"
	k8sjson "k8s.io/apimachinery/pkg/util/json"
	"sigs.k8s.io/kustomize/kyaml/filesys"

	"keelson.dev/keelson/internal/delivery"
)

// A build that sets kustomize's OpenAPI schema sets it for its whole process. Such a build runs in a child: this program
// again, with [ChildCommand] as its only argument, no environment, and pipes to its parent and nothing else. It has no
// repository: it asks its parent for every file that kustomize wants, over its standard output, and reads the answers
// from its standard input. The parent answers from the render's own tree, so bounds, links and tracking are those of any
// other build. Messages are JSON after their length.

// ChildCommand is the argument under which a program that renders has to call [ServeChild] and end.
const ChildCommand = "render-child"

const (
	childTime     = 30 * time.Second // of one build in a child
	childMemory   = 1 << 30          // bytes of a child
	childMessage  = 2 * maxRendered  // bytes of what a child says
	childAnswer   = 2 * maxFileBytes // bytes of what it is told
	childExchange = 200_000          // questions of one child
	childMarker   = "KEELSON_RENDER_CHILD=1"
	// Exit codes of a child.
	childOrphaned, childTooLarge = 3, 4
)

// children bounds how many there are at once; each takes some 150 MiB.
var children = make(chan struct{}, 2)

// question is what a child says: it wants to know something of the repository, or it is done.
type question struct {
	Op     string // childReady, childRead, …
	Name   string
	Made   []product
	Failed string // why there is no result
}

const (
	childReady  = "ready"
	childRead   = "read"
	childIsDir  = "isDir"
	childExists = "exists"
	childAbs    = "abs"
	childDone   = "done"
)

// answer is what a child is told. The first one, without having asked, is the folder to build.
type answer struct {
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

// childFault is a fault of the machine's or of the build's size: it may pass.
func childFault(format string, args ...any) error {
	return &delivery.Fault{Reason: meta.BuildFailedReason, Retry: delivery.Backoff, Err: fmt.Errorf(format, args...),
		Hint: "a build that sets openapi runs by itself, in bounds; make it smaller"}
}

// runChild is run in a child process.
func runChild(ctx context.Context, fsys filesys.FileSystem, dir string) ([]product, error) {
	select {
	case children <- struct{}{}:
		defer func() { <-children }()
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	limited, cancel := context.WithTimeout(ctx, childTime)
	defer cancel()
	result, err := converse(limited, fsys, dir)
	switch {
	case ctx.Err() != nil:
		return nil, ctx.Err()
	case limited.Err() != nil:
		return nil, childFault("the build takes longer than %v", childTime)
	}
	return result, err
}

// converse starts a child and answers it until it is done.
func converse(ctx context.Context, fsys filesys.FileSystem, dir string) (result []product, err error) {
	if os.Getenv(strings.TrimSuffix(childMarker, "=1")) != "" {
		return nil, errors.New("start child: this program is one, and does not serve as such")
	}
	program, err := executable()
	if err != nil {
		return nil, childFault("start child: %w", err)
	}
	cmd := exec.CommandContext(ctx, program)
	cmd.Args = []string{os.Args[0], ChildCommand}
	cmd.Env, cmd.Dir = []string{childMarker}, "/"
	cmd.WaitDelay = time.Second
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
	result, err = (&parent{fsys: fsys, in: bufio.NewReader(out), out: in}).serve(dir)
	if err != nil && cmd.Process != nil {
		_ = cmd.Process.Kill() // it may have ended
	}
	in.Close()
	waitErr := cmd.Wait()
	if exit := (*exec.ExitError)(nil); errors.As(waitErr, &exit) && exit.ExitCode() == childTooLarge {
		return nil, childFault("the build takes more than %d MiB of memory", childMemory>>20)
	}
	return result, err
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
	fsys filesys.FileSystem
	in   io.Reader
	out  io.Writer
	told []error // the errors that it was told
}

func (p *parent) serve(dir string) ([]product, error) {
	const broken = "build in a child process: %w"
	var q question
	if err := receive(p.in, childAnswer, &q); err != nil || q.Op != childReady {
		return nil, childFault(broken, errors.Join(errors.New("it did not start"), err))
	}
	if err := send(p.out, answer{Dir: dir}); err != nil {
		return nil, childFault(broken, err)
	}
	for range childExchange {
		q = question{}
		if err := receive(p.in, childMessage, &q); err != nil {
			return nil, childFault(broken, err)
		}
		if q.Op == childDone {
			if q.Failed != "" {
				return nil, p.failure(q.Failed)
			}
			return q.Made, nil
		}
		if err := send(p.out, p.answer(q)); err != nil {
			return nil, childFault(broken, err)
		}
	}
	return nil, childFault("the build asks for more than %d files", childExchange)
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
func (p *parent) failure(text string) error {
	e := &childError{text: text}
	for _, err := range p.told {
		if strings.Contains(text, err.Error()) {
			e.causes = append(e.causes, err)
		}
	}
	return e
}

type childError struct {
	text   string
	causes []error
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

// ServeChild runs the one build that its parent asks for, and gives the exit code to end with. The process ends early if
// its parent goes, and where the build takes too much time or memory.
func ServeChild(in io.Reader, out io.Writer) int {
	runtime.GOMAXPROCS(1)
	debug.SetMemoryLimit(childMemory / 2)
	time.AfterFunc(childTime, func() { os.Exit(childOrphaned) })
	go boundMemory()
	answers := make(chan answer)
	go func() { // whatever the build does meanwhile, the end of the input is seen
		in := bufio.NewReader(in)
		for {
			var a answer
			if receive(in, childAnswer, &a) != nil {
				os.Exit(childOrphaned)
			}
			answers <- a
		}
	}()
	if send(out, question{Op: childReady}) != nil {
		return childOrphaned
	}
	c := childFS{FileSystem: filesys.MakeFsInMemory(), answers: answers, out: out}
	done := question{Op: childDone}
	if result, err := kustomize(c, (<-answers).Dir); err != nil {
		done.Failed = err.Error()
	} else {
		done.Made = convert(result.Resources(), new(sizer))
	}
	if send(out, done) != nil {
		return childOrphaned
	}
	return 0
}

func boundMemory() {
	sample := []metrics.Sample{{Name: "/memory/classes/total:bytes"}, {Name: "/memory/classes/heap/released:bytes"}}
	for range time.Tick(20 * time.Millisecond) {
		if metrics.Read(sample); sample[0].Value.Uint64()-sample[1].Value.Uint64() > childMemory {
			os.Exit(childTooLarge)
		}
	}
}

// childFS is the repository as a child sees it: by asking.
type childFS struct {
	filesys.FileSystem
	answers <-chan answer
	out     io.Writer
}

func (c childFS) ask(op, name string) (answer, error) {
	if send(c.out, question{Op: op, Name: path.Clean(name)}) != nil {
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
