package lua

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"time"
)

// ChildCommand is the argument under which a program that asks scripts has to call [ServeChild] and end.
const ChildCommand = "lua-child"

const childMarker = "KEELSON_LUA_CHILD=1"

// The exit codes of a child.
const (
	childCrashed  = 2 // Go's own: out of memory, or of stack
	childOrphaned = 3
	childTooLarge = 4
	childTooLong  = 5
)

// question is what a child is told.
type question struct {
	Script   string
	OpenLibs bool
	Object   map[string]any
}

// answer is what it says: the first one, unasked, that it is ready.
type answer struct {
	Status, Message, Deletion string
	Nothing                   bool   // the script gave nothing
	Failed                    string // it ended with an error
	Stopped                   string // it was stopped
}

// child is one process. Who holds it is the only one to talk to it.
type child struct {
	cmd  *exec.Cmd
	in   io.WriteCloser
	out  *bufio.Reader
	used bool        // it has answered before
	idle *time.Timer // ends it
}

// ask has a child answer. An error is that of the child: the answer is not known.
func (p *Pool) ask(q question) (answer, error) {
	var b bytes.Buffer
	if err := encode(&b, q); err != nil {
		return answer{Failed: err.Error()}, nil //nolint:nilerr // what cannot be told is a failure of the question
	}
	if b.Len() > maxObject {
		return answer{Failed: fmt.Sprintf("the object has more than %d MiB", maxObject>>20)}, nil
	}
	for {
		c, err := p.take()
		if err != nil {
			return answer{}, err
		}
		a, err := c.ask(b.Bytes())
		if err == nil {
			c.used = true
			p.put(c)
			return a, nil
		}
		code := c.kill()
		switch {
		case code == childTooLarge:
			return answer{}, fmt.Errorf("it takes more than %d MiB of memory", scriptMemory>>20)
		case code == childTooLong:
			return answer{}, errors.New(tooLong)
		case !c.used && code == childCrashed:
			return answer{}, errors.New("it takes too much memory, or crashes its process")
		case !c.used:
			return answer{}, err
		}
		// It may have ended while nobody asked it anything: a new one is asked.
	}
}

// take gives a child that waits, or a new one.
func (p *Pool) take() (*child, error) {
	p.mu.Lock()
	if n := len(p.idle); n > 0 {
		c := p.idle[n-1]
		p.idle = p.idle[:n-1]
		p.mu.Unlock()
		c.idle.Stop()
		return c, nil
	}
	p.mu.Unlock()
	return start()
}

// put has a child wait for the next question, for a while.
func (p *Pool) put(c *child) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		c.end()
		return
	}
	p.idle = append(p.idle, c)
	c.idle = time.AfterFunc(idleTime, func() { p.leave(c) })
}

// leave ends a child that nobody has asked anything for a while.
func (p *Pool) leave(c *child) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for i, other := range p.idle {
		if other == c {
			p.idle = append(p.idle[:i], p.idle[i+1:]...)
			c.end()
			return
		}
	}
}

// start starts a child and waits until it is ready.
func start() (*child, error) {
	if os.Getenv(strings.TrimSuffix(childMarker, "=1")) != "" {
		return nil, errors.New("start child: this program is one, and does not serve as such")
	}
	program, err := executable()
	if err != nil {
		return nil, fmt.Errorf("start child: %w", err)
	}
	cmd := exec.Command(program) //nolint:noctx // it outlives the question that it is started for
	cmd.Args = []string{os.Args[0], ChildCommand}
	cmd.Env, cmd.Dir = []string{childMarker}, "/"
	in, err := cmd.StdinPipe()
	if err != nil {
		return nil, fmt.Errorf("start child: %w", err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		return nil, fmt.Errorf("start child: %w", err)
	}
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("start child: %w", err)
	}
	c := &child{cmd: cmd, in: in, out: bufio.NewReader(out)}
	stop := time.AfterFunc(startTime, c.terminate)
	defer stop.Stop()
	if _, err := c.await(); err != nil {
		c.kill()
		return nil, fmt.Errorf("start child: it does not begin: %w", err)
	}
	return c, nil
}

// executable is this program, also where its file has been replaced since it was started.
func executable() (string, error) {
	const self = "/proc/self/exe"
	if _, err := os.Stat(self); err == nil {
		return self, nil
	}
	return os.Executable()
}

// ask has the child answer. A child that takes too long is ended.
func (c *child) ask(message []byte) (a answer, err error) {
	stop := time.AfterFunc(answerTime, c.terminate)
	if _, err = c.in.Write(message); err == nil {
		a, err = c.await()
	}
	if !stop.Stop() {
		return a, fmt.Errorf("it does not answer within %v", answerTime)
	}
	return a, err
}

// await reads what the child says next.
func (c *child) await() (a answer, err error) {
	if err := decode(c.out, maxAnswer, &a); err != nil {
		return a, fmt.Errorf("its process ended: %w", err)
	}
	return a, nil
}

func (c *child) terminate() { _ = c.cmd.Process.Kill() }

// kill ends a child, unless it has ended, and gives its exit code; below 0: it was killed.
func (c *child) kill() int {
	// One that ends by itself, with a code, is just about to.
	stop := time.AfterFunc(time.Second, c.terminate)
	defer stop.Stop()
	c.in.Close()
	_, _ = io.Copy(io.Discard, c.out)
	_ = c.cmd.Wait()
	return c.cmd.ProcessState.ExitCode()
}

// end has a child that waits end, without waiting for that.
func (c *child) end() { go c.kill() }

// encode writes a message after its length.
func encode(to *bytes.Buffer, message any) error {
	to.Write(make([]byte, 4))
	enc := json.NewEncoder(to)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(message); err != nil {
		return fmt.Errorf("write message: %w", err)
	}
	binary.BigEndian.PutUint32(to.Bytes(), uint32(to.Len()-4)) //nolint:gosec // far less
	return nil
}

// decode reads a message.
func decode(from io.Reader, limit uint32, message any) error {
	var head [4]byte
	if _, err := io.ReadFull(from, head[:]); err != nil {
		return fmt.Errorf("read message: %w", err)
	}
	size := binary.BigEndian.Uint32(head[:])
	if size > limit {
		return fmt.Errorf("a message of %d bytes, the limit is %d", size, limit)
	}
	text := make([]byte, size)
	if _, err := io.ReadFull(from, text); err != nil {
		return fmt.Errorf("read message: %w", err)
	}
	if err := json.Unmarshal(text, message); err != nil {
		return fmt.Errorf("read message: %w", err)
	}
	return nil
}
