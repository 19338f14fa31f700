package agent

import "sync"

// outbox is what the job has written and Keelson has not yet put into the log. Who writes waits while it is full.
type outbox struct {
	mu    sync.Mutex
	moved *sync.Cond
	buf   []byte // from kept on
	kept  int64  // what need not be kept any more
	sent  int64  // what Keelson has received
}

func newOutbox() *outbox {
	o := &outbox{}
	o.moved = sync.NewCond(&o.mu)
	return o
}

func (o *outbox) total() int64 { return o.kept + int64(len(o.buf)) }

// Write takes output of the job. It never fails.
func (o *outbox) Write(p []byte) (int, error) {
	n := len(p)
	o.mu.Lock()
	defer o.mu.Unlock()
	for len(p) > 0 {
		room := logRoom - len(o.buf)
		if room <= 0 {
			o.moved.Wait()
			continue
		}
		part := p[:min(room, len(p))]
		o.buf, p = append(o.buf, part...), p[len(part):]
		o.moved.Broadcast()
	}
	return n, nil
}

// next waits for something to send and gives a copy of it.
func (o *outbox) next(into []byte) (chunk []byte, offset int64) {
	o.mu.Lock()
	defer o.mu.Unlock()
	for o.sent >= o.total() {
		o.moved.Wait()
	}
	return append(into[:0], o.buf[o.sent-o.kept:][:min(LogChunk, o.total()-o.sent)]...), o.sent
}

// took notes what Keelson says that it has. What makes no sense changes nothing.
func (o *outbox) took(s LogState) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if s.Kept > s.Received || s.Received > o.total() {
		return
	}
	if s.Kept > o.kept {
		o.buf = o.buf[:copy(o.buf, o.buf[s.Kept-o.kept:])]
		o.kept = s.Kept
	}
	o.sent = max(s.Received, o.kept)
	o.moved.Broadcast()
}

// again lets all be sent again that has to be kept: Keelson may be another one.
func (o *outbox) again() {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.sent = o.kept
}

// drained waits until Keelson has received all that was written so far.
func (o *outbox) drained() {
	o.mu.Lock()
	defer o.mu.Unlock()
	for all := o.total(); o.sent < all; {
		o.moved.Wait()
	}
}
