package agent

import (
	"bytes"
	"math/rand/v2"
	"sync"
	"testing"
)

// What is written arrives once and in order, however often Keelson goes away in between, and no more is kept than there is room for.
func TestOutbox(t *testing.T) {
	const size = 3*logRoom + 12345
	all := make([]byte, size)
	for i := range all {
		all[i] = byte(rand.N(256))
	}
	o := newOutbox()
	var wg sync.WaitGroup
	wg.Go(func() {
		for rest := all; len(rest) > 0; {
			n := min(len(rest), 1+rand.N(100_000))
			o.Write(rest[:n])
			rest = rest[n:]
		}
	})
	var got, buf []byte
	received := int64(-1) // as a Keelson that has just started has it
	for int64(len(got)) < size {
		var offset int64
		buf, offset = o.next(buf)
		if len(buf) > LogChunk || len(o.buf) > logRoom {
			t.Fatalf("%d bytes at once, %d kept", len(buf), len(o.buf))
		}
		switch rand.N(10) {
		case 0: // it has got nothing
			o.again()
			continue
		case 1: // another one: what was not kept is gone with the first
			received = -1
			o.again()
			got = got[:min(int64(len(got)), o.kept)]
			continue
		}
		if received < 0 {
			received = offset
			got = got[:offset]
		}
		if offset > received {
			o.took(LogState{Received: received, Kept: received})
			continue
		}
		got = append(got, buf[received-offset:]...)
		received = int64(len(got))
		o.took(LogState{Received: received, Kept: max(0, received-int64(rand.N(5000)))})
	}
	wg.Wait()
	o.drained()
	if !bytes.Equal(got, all) {
		t.Error("it is not what was written")
	}
	for _, s := range []LogState{{Received: size + 1}, {Received: 1, Kept: 2}, {Received: -1, Kept: -5}} {
		before := o.kept
		o.took(s)
		if o.kept != before || o.sent < o.kept {
			t.Errorf("%+v has changed it", s)
		}
	}
}
