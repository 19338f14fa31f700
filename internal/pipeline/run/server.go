package run

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"keelson.dev/keelson/internal/pipeline/schedule"
)

// ErrNotHere says that a pipeline is not being played: it rests, or there is none.
var ErrNotHere = errors.New("the pipeline is not being played")

// ErrEnded says that a server plays nothing any more.
var ErrEnded = errors.New("the server of pipelines has ended")

// Server plays pipelines as they come, with one set of slots and resource groups for all of them.
type Server struct {
	e      *engine
	fault  func(error)
	abort  chan struct{}
	cancel context.CancelFunc // ends what jobs wait for
	ended  chan struct{}
	rested map[*play]func([]Outcome)
}

// NewServer makes a server that plays once [Server.Serve] runs. Options.NextID must be set; Options.Abort and Options.Commands are not used.
// fault is told what should never happen.
func NewServer(o Options, fault func(error)) (*Server, error) {
	if err := o.check(); err != nil {
		return nil, err
	}
	if o.NextID == nil {
		return nil, errors.New("run: a server needs numbers")
	}
	s := &Server{fault: fault, abort: make(chan struct{}), ended: make(chan struct{}), rested: map[*play]func([]Outcome){}}
	o.Abort, o.Commands = s.abort, nil
	ctx, cancel := context.WithCancel(context.Background())
	s.e, s.cancel = newEngine(ctx, o), cancel
	s.e.ctx, s.e.leave = ctx, s.abort
	return s, nil
}

// Serve plays until ctx ends. Then all that runs is ended at once, without after_script, and nothing of it is told or journaled: as if
// the process had been killed, whoever takes the states up again finds these jobs running. Jobs of a [executor.Survivor] are let go of, and
// taken up where they are.
func (s *Server) Serve(ctx context.Context) {
	defer close(s.ended)
	e := s.e
	timer := time.NewTimer(time.Hour)
	defer timer.Stop()
	for ctx.Err() == nil {
		e.settle()
		s.rest()
		s.faults()
		var alarm <-chan time.Time
		if due, waits := e.nextDue(); waits {
			timer.Reset(due.Sub(e.o.Now()))
			alarm = timer.C
		}
		select {
		case tell := <-e.inbox:
			tell()
		case <-alarm:
			e.due()
		case <-ctx.Done():
		}
	}
	e.leaving = true
	close(s.abort)
	s.cancel()
	for e.active > 0 {
		(<-e.inbox)()
	}
	s.faults()
}

func (s *Server) faults() {
	for _, err := range s.e.errs {
		s.fault(err)
	}
	s.e.errs = nil
}

// rest lets go of the pipelines in which nothing happens by itself any more, with those that have come of them.
func (s *Server) rest() {
	e := s.e
	for root, rested := range s.rested {
		tree := e.tree(root)
		if slices.ContainsFunc(tree, func(p *play) bool { return len(p.running) > 0 || !p.state.Idle() }) {
			continue
		}
		delete(s.rested, root)
		e.pipelines = slices.DeleteFunc(e.pipelines, func(p *play) bool { return slices.Contains(tree, p) })
		for _, p := range tree {
			delete(e.byID, p.id)
		}
		outcomes := make([]Outcome, len(tree))
		for i, p := range tree {
			outcomes[i] = p.outcome()
		}
		rested(outcomes)
	}
}

// Add plays a pipeline. With events a pipeline that rested is taken up again, for what a person wants of it or of one of its children; their
// error says why that makes no sense now. rested is called by the goroutine that plays, with where the pipeline and, after it, all that have
// come of it are once nothing more happens by itself: they are not here any more then.
func (s *Server) Add(ctx context.Context, p Pipeline, rested func([]Outcome), events ...Command) error {
	if err := p.check(); err != nil {
		return err
	}
	return s.tell(ctx, func() error {
		if s.e.byID[p.ID] != nil {
			return fmt.Errorf("run: pipeline %d is being played already", p.ID)
		}
		root := s.e.take(p)
		s.rested[root] = rested
		for _, c := range events {
			if err := s.do(c); err != nil {
				return err
			}
		}
		return nil
	})
}

// Do does what a person wants of a pipeline; [ErrNotHere]: it has to be added again first.
func (s *Server) Do(ctx context.Context, c Command) error {
	return s.tell(ctx, func() error { return s.do(c) })
}

func (s *Server) do(c Command) error {
	p := s.e.byID[c.Pipeline]
	if p == nil {
		return fmt.Errorf("pipeline %d: %w", c.Pipeline, ErrNotHere)
	}
	if c.Decide == nil {
		return s.e.do(p, c.Event)
	}
	event, wanted := c.Decide(p.state.Clone())
	if !wanted {
		return nil
	}
	return s.e.apply(p, event)
}

// State gives a copy of where a pipeline is; [ErrNotHere]: it is not being played.
func (s *Server) State(ctx context.Context, id int64) (state *schedule.State, err error) {
	err = s.tell(ctx, func() error {
		p := s.e.byID[id]
		if p == nil {
			return fmt.Errorf("pipeline %d: %w", id, ErrNotHere)
		}
		state = p.state.Clone()
		return nil
	})
	return state, err
}

// tell lets the goroutine that plays do something, and waits for what comes of it.
func (s *Server) tell(ctx context.Context, do func() error) error {
	answer := make(chan error, 1)
	tell := func() {
		if s.e.leaving {
			answer <- ErrEnded
			return
		}
		answer <- do()
	}
	select {
	case s.e.inbox <- tell:
	case <-s.ended:
		return ErrEnded
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	return <-answer
}
