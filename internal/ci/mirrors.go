package ci

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"keelson.dev/keelson/internal/git"
	"keelson.dev/keelson/internal/redact"
	"keelson.dev/keelson/internal/store"
)

// Mirrored is a repository of the Git host that is a copy of one of another server.
type Mirrored struct {
	Project    string // path
	Repository string // on the Git host, where nobody pushes to it
	Dir        string // the bare repository
	Remote     git.Remote
	Interval   time.Duration // between looks; 0: a minute
	Asked      string        // another value than before: somebody asks for a look now
}

// MirrorStanding is how a mirror stands.
type MirrorStanding struct {
	Polled  time.Time // when the other server was asked last; zero: not yet
	Problem string    // why the last look failed; empty: it did not
}

const (
	mirrorInterval = time.Minute
	// mirrorLeast is how often one looks at most, unasked.
	mirrorLeast = 10 * time.Second
	// mirrorAsk and mirrorFetch bound an exchange with the other server.
	mirrorAsk, mirrorFetch = time.Minute, 30 * time.Minute
	// mirrorPack is how many bytes of objects may come at once: a first copy is a whole history.
	mirrorPack = 4 << 30
	// mirrorsAtOnce is how many are looked at at the same time.
	mirrorsAtOnce = 4
	// mirrorChanges is how many changes of refs are one push.
	mirrorChanges = 1000
	// mirrorBackoff is the longest pause after failures, where the interval is no longer.
	mirrorBackoff = 10 * time.Minute
)

// mirrors are the copies that are kept up to date.
type mirrors struct {
	mu    sync.Mutex
	all   map[string]*mirror       // by repository
	ends  map[string]chan struct{} // of the last mirrors that were dropped, by repository: closed once they are not looked at any more
	slots chan struct{}
}

// mirror is one that is kept up to date.
type mirror struct {
	of     Mirrored
	now    MirrorStanding
	failed int // looks in a row
	wake   chan struct{}
	stop   context.CancelFunc
	after  chan struct{} // it is not looked at before this is closed; nil: at once
	ended  chan struct{}
}

func newMirrors() *mirrors {
	return &mirrors{all: map[string]*mirror{}, ends: map[string]chan struct{}{}, slots: make(chan struct{}, mirrorsAtOnce)}
}

// KeepMirror keeps a mirror up to date from now on, and tells how it stands. What is new upstream since the first look makes pipelines as a
// push does. The error says that the repository is the mirror of something else.
func (s *Server) KeepMirror(of Mirrored) (MirrorStanding, error) {
	s.mirrors.mu.Lock()
	defer s.mirrors.mu.Unlock()
	m := s.mirrors.all[of.Repository]
	if m != nil {
		if m.of.Project != of.Project {
			return MirrorStanding{}, fmt.Errorf("repository %s is kept as a mirror by project %s already; name another one", of.Repository, m.of.Project)
		}
		if m.of != of {
			if m.of.Remote != of.Remote {
				m.failed = 0
			}
			if m.of.Remote.URL != of.Remote.URL {
				m.now = MirrorStanding{} // nothing is known of that one
			}
			m.of = of
			m.poke()
		}
		return m.now, nil
	}
	m = &mirror{of: of, wake: make(chan struct{}, 1), after: s.mirrors.ends[of.Repository], ended: make(chan struct{})}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.life.Err() != nil {
		return MirrorStanding{}, nil
	}
	var ctx context.Context
	ctx, m.stop = context.WithCancel(context.Background())
	delete(s.mirrors.ends, of.Repository)
	s.mirrors.all[of.Repository] = m
	s.busy.Add(1)
	go func() { defer s.busy.Done(); s.mirror(ctx, m) }()
	return m.now, nil
}

func (m *mirror) poke() {
	select {
	case m.wake <- struct{}{}:
	default:
	}
}

// DropMirrors lets go of the mirrors of a project, but for one repository. Who keeps one of these next waits until the look of now is over.
func (s *Server) DropMirrors(project, but string) {
	s.mirrors.mu.Lock()
	defer s.mirrors.mu.Unlock()
	for name, m := range s.mirrors.all {
		if m.of.Project == project && name != but {
			m.stop()
			s.mirrors.ends[name] = m.ended
			delete(s.mirrors.all, name)
		}
	}
}

// mirror keeps one up to date until ctx or the server ends.
func (s *Server) mirror(ctx context.Context, m *mirror) {
	defer close(m.ended)
	if m.after != nil {
		<-m.after // also where this one is dropped by now: its own successor waits for both
	}
	select {
	case <-s.resumed:
	case <-ctx.Done():
		return
	case <-s.lifetime().Done():
		return
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(s.lifetime(), cancel)()
	for ctx.Err() == nil {
		select {
		case s.mirrors.slots <- struct{}{}:
		case <-ctx.Done():
			return
		}
		s.mirrors.mu.Lock()
		of := m.of
		s.mirrors.mu.Unlock()
		changed, err := s.lookAt(ctx, of)
		<-s.mirrors.slots
		if ctx.Err() != nil {
			return
		}
		timer := time.NewTimer(s.looked(m, of, changed, err))
		select {
		case <-ctx.Done():
		case <-timer.C:
		case <-m.wake:
		}
		timer.Stop()
	}
}

// looked notes what has come of a look, and gives the pause until the next one.
func (s *Server) looked(m *mirror, of Mirrored, changed bool, err error) time.Duration {
	problem := ""
	if err != nil {
		problem = redact.Text(err.Error())
	}
	s.mirrors.mu.Lock()
	first := m.now.Polled.IsZero()
	news := first || changed || m.now.Problem != problem
	if err == nil {
		m.failed = 0
	} else {
		m.failed++
	}
	pause := of.Interval
	if pause <= 0 {
		pause = mirrorInterval
	}
	pause = max(pause, mirrorLeast)
	if m.failed > 1 {
		pause = max(pause, min(pause<<min(m.failed-1, 10), mirrorBackoff))
	}
	m.now = MirrorStanding{Polled: s.o.Now(), Problem: problem}
	s.mirrors.mu.Unlock()
	if news && s.o.News != nil {
		s.o.News(of.Project)
	}
	if err != nil && news {
		s.o.Log.Warn("look at another Git server", "project", of.Project, "error", problem)
	}
	return pause
}

// lookAt brings a mirror up to date, and has pipelines made for what has changed since the first look at that URL.
func (s *Server) lookAt(ctx context.Context, of Mirrored) (changed bool, err error) {
	repo, err := git.Open(of.Dir, git.Options{})
	if err != nil {
		return false, err
	}
	defer func() { _ = repo.Close() }() // it was only read
	ask, done := context.WithTimeout(ctx, mirrorAsk)
	there, head, err := git.Branches(ask, of.Remote)
	done()
	if err != nil {
		return false, unread(of.Remote, err)
	}
	here, err := branches(repo)
	if err != nil {
		return false, err
	}
	if now, err := repo.Head(); !maps.Equal(there, here) || err == nil && head != "" && now != head {
		fetch, done := context.WithTimeout(ctx, mirrorFetch)
		err := repo.Mirror(fetch, of.Remote, head, mirrorPack)
		done()
		if err != nil {
			return false, unread(of.Remote, err)
		}
		if here, err = branches(repo); err != nil {
			return false, err
		}
	}
	from := redact.URL(of.Remote.URL) // what is known of another URL says nothing about this one
	known, seen, err := s.o.Store.Mirror(ctx, of.Repository, from)
	if err != nil || seen && maps.Equal(known, here) {
		return false, err
	}
	var commands []store.Command
	for changes := range slices.Chunk(differences(known, here), mirrorChanges) {
		if !seen {
			break // whatever is there at first is old
		}
		push := Push{Repository: of.Repository, User: "mirror", Changes: changes}
		args, err := json.Marshal(push)
		if err != nil {
			return false, err
		}
		commands = append(commands, store.Command{Kind: commandPush, User: push.User, Args: args})
	}
	if err := s.o.Store.SetMirror(ctx, of.Repository, from, here, commands...); err != nil {
		return false, err
	}
	if s.o.Mirrored != nil {
		s.o.Mirrored(of.Repository)
	}
	return true, nil
}

// unread says for people that another server's repository cannot be read.
func unread(r git.Remote, err error) error {
	where := redact.URL(r.URL)
	switch {
	case errors.Is(err, git.ErrAuth):
		return fmt.Errorf("%s cannot be read with the credentials that there are; see to the Secret of spec.source.secretRef: %w", where, err)
	case errors.Is(err, git.ErrRepoNotFound):
		return fmt.Errorf("%s is not there, or may not be seen; see to spec.source: %w", where, err)
	}
	return fmt.Errorf("%s cannot be read: %w", where, err)
}

// branches are the branches and tags of a repository.
func branches(repo *git.Repository) (map[string]string, error) {
	refs, err := repo.Refs()
	maps.DeleteFunc(refs, func(name, _ string) bool {
		return !strings.HasPrefix(name, "refs/heads/") && !strings.HasPrefix(name, "refs/tags/")
	})
	return refs, err
}

// differences are what has changed from refs to others, in the order of their names.
func differences(before, after map[string]string) (out []RefChange) {
	for _, ref := range slices.Sorted(maps.Keys(after)) {
		if was, there := before[ref]; !there {
			out = append(out, RefChange{Ref: ref, Before: zeroes, After: after[ref]})
		} else if was != after[ref] {
			out = append(out, RefChange{Ref: ref, Before: was, After: after[ref]})
		}
	}
	for _, ref := range slices.Sorted(maps.Keys(before)) {
		if _, there := after[ref]; !there {
			out = append(out, RefChange{Ref: ref, Before: before[ref], After: zeroes})
		}
	}
	return out
}
