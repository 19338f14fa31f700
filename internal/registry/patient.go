package registry

import (
	"errors"
	"io"
	"net/http"
	"sync"
	"time"
)

const (
	// patience is how long a client may say nothing, and how far it may be behind minRate.
	patience = time.Minute
	minRate  = 4 << 10 // bytes in a second
)

var errGone = errors.New("the upload is gone")

// patient reads the body of a request, and gives up a client that is silent or drips.
type patient struct {
	body  io.Reader
	conn  *http.ResponseController
	begin time.Time
	read  int64

	mu    sync.Mutex
	ended bool
}

func newPatient(w http.ResponseWriter, body io.Reader) *patient {
	return &patient{body: body, conn: http.NewResponseController(w), begin: time.Now()}
}

func (p *patient) Read(b []byte) (int, error) {
	if err := p.wait(); err != nil {
		return 0, err
	}
	n, err := p.body.Read(b)
	if p.read += int64(n); errors.Is(err, io.EOF) {
		_ = p.conn.SetReadDeadline(time.Time{}) // the next request of the connection has its own; not all can
	}
	return n, err
}

// wait sets until when the client may be waited for.
func (p *patient) wait() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.ended {
		return errGone
	}
	_ = p.conn.SetReadDeadline(until(p.begin, time.Now(), p.read)) // not all connections can
	return nil
}

// until is when a client is given up that has sent so many bytes since begin.
func until(begin, now time.Time, read int64) time.Time {
	silent, slow := now.Add(patience), begin.Add(patience+time.Duration(read/minRate)*time.Second)
	if slow.Before(silent) {
		return slow
	}
	return silent
}

// end gives the client up now. It has to be called before the request is answered.
func (p *patient) end() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.ended = true
	_ = p.conn.SetReadDeadline(time.Unix(1, 0)) // not all connections can
}
