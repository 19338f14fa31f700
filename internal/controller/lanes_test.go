package controller

import (
	"testing"
	"time"
)

// TestLanes: who waits in a full lane takes no place from the others, and a lane that nobody uses is forgotten.
func TestLanes(t *testing.T) {
	l := newLanes(4, 2)
	stuck, fast := lane{"stuck.example", "a"}, lane{"stuck.example", "b"}
	entered := make(chan func(), 100)
	for range 100 {
		go func() { entered <- l.enter(stuck) }()
	}
	leaves := []func(){<-entered, <-entered}
	through := make(chan struct{})
	go func() {
		for range 10 {
			l.enter(fast)()
		}
		close(through)
	}()
	select {
	case <-through:
	case <-time.After(5 * time.Second):
		t.Fatal("a full lane holds up another one")
	}
	if n := len(entered); n != 0 || len(l.all) != 2 {
		t.Errorf("%d more have entered, %d places are taken", n, len(l.all))
	}
	for range 98 {
		leaves[0]()
		leaves = append(leaves[1:], <-entered)
	}
	for _, leave := range leaves {
		leave()
	}
	if len(l.lanes) != 0 || len(l.all) != 0 {
		t.Errorf("%d lanes and %d places are left", len(l.lanes), len(l.all))
	}
}
