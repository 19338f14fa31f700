package script

import (
	"io"
	"os"
	"sync"
	"syscall"
	"time"
)

// pipeBound is more than a pipe holds, in bytes.
const pipeBound = 1 << 20

// Output carries what the shells of one job say to its log. All of them write to one pipe, so that the order holds; what still
// runs when a script has ended keeps nobody waiting.
type Output struct {
	r, w *os.File
	to   io.Writer
	buf  *[]byte
	done chan struct{} // closed when nothing is being read
}

// NewOutput makes one that writes to a log.
func NewOutput(to io.Writer) (*Output, error) {
	r, w, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	return &Output{r: r, w: w, to: to, buf: buffers.Get().(*[]byte)}, nil
}

// buffers are for what is read; a pipe holds as much.
var buffers = sync.Pool{New: func() any {
	b := make([]byte, 64<<10)
	return &b
}}

// Flow lets output through until it is settled.
func (o *Output) Flow() {
	_ = o.r.SetReadDeadline(time.Time{})
	done := make(chan struct{})
	o.done = done
	go func() {
		defer close(done)
		for {
			n, err := o.r.Read(*o.buf)
			_, _ = o.to.Write((*o.buf)[:n])
			if err != nil {
				return
			}
		}
	}()
}

// Settle waits until all is through that has been written so far, and holds back what comes later.
func (o *Output) Settle() {
	_ = o.r.SetReadDeadline(time.Unix(1, 0))
	<-o.done
	_ = o.r.SetReadDeadline(time.Time{})
	c, err := o.r.SyscallConn()
	if err != nil {
		return
	}
	for total := 0; total < pipeBound; {
		n := 0
		err := c.Read(func(fd uintptr) bool {
			n, _ = syscall.Read(int(fd), *o.buf) // it does not wait: an empty pipe is an error
			return true
		})
		if err != nil || n <= 0 {
			return
		}
		_, _ = o.to.Write((*o.buf)[:n])
		total += n
	}
}

// Writer is what the shells write to.
func (o *Output) Writer() *os.File { return o.w }

// Close lets go of the pipe. Nothing is read any more.
func (o *Output) Close() {
	o.r.Close()
	o.w.Close()
	buffers.Put(o.buf)
}
