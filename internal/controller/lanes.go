package controller

import "sync"

// lane is a host that is asked for a namespace, or for a tenant of it.
type lane struct{ host, namespace string }

// lanes bound the exchanges under way: all together, and those in each lane, so that a host that does not answer holds up
// only the namespace that asks it.
type lanes struct {
	all     chan struct{}
	perLane int

	mu    sync.Mutex
	lanes map[lane]*laneState
}

type laneState struct {
	slots chan struct{}
	users int // those that wait count
}

func newLanes(all, perLane int) *lanes {
	return &lanes{all: make(chan struct{}, all), perLane: perLane, lanes: map[lane]*laneState{}}
}

// enter waits for a place in the lane and then for one of all; leave gives both back.
func (l *lanes) enter(in lane) (leave func()) {
	l.mu.Lock()
	s := l.lanes[in]
	if s == nil {
		s = &laneState{slots: make(chan struct{}, l.perLane)}
		l.lanes[in] = s
	}
	s.users++
	l.mu.Unlock()
	s.slots <- struct{}{}
	l.all <- struct{}{}
	return func() {
		<-l.all
		<-s.slots
		l.mu.Lock()
		defer l.mu.Unlock()
		if s.users--; s.users == 0 {
			delete(l.lanes, in)
		}
	}
}
