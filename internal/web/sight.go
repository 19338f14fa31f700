package web

import (
	"context"
	"errors"
	"strings"
	"sync"
	"time"
)

const (
	sightLasts = 5 * time.Second // how long an answer about who sees what is believed
	sightAsks  = 2 * time.Second // of one question
	maxSights  = 50_000          // answers that are kept
)

// Sight knows who sees which kinds in which namespaces, as the cluster has said a moment ago. It is safe for concurrent use.
type Sight struct {
	authorize Authorize // nil: everybody sees everything

	mu    sync.Mutex
	known map[sightKey]sightAnswer
}

type sightKey struct{ who, kind, namespace string }

type sightAnswer struct {
	sees  bool
	until time.Time
}

// NewSight makes one that asks by a port; nil: everybody sees everything, for tests.
func NewSight(authorize Authorize) *Sight {
	return &Sight{authorize: authorize, known: map[sightKey]sightAnswer{}}
}

// of gives what tells which objects somebody may see, for one request or one stream; it is not for several goroutines at once. failed, if it is
// not nil, is told why it could not be asked about something, which counts as not seen.
func (s *Sight) of(ctx context.Context, who Person, failed func(error)) func(kind, namespace string) bool {
	if s.authorize == nil {
		return func(string, string) bool { return true }
	}
	type place struct{ kind, namespace string }
	name := who.Name + "\x00" + strings.Join(who.Groups, "\x00")
	asked := map[place]sightAnswer{}
	broken := false // then the rest is not asked either
	look := func(at place) bool {
		now := time.Now()
		if a, ok := asked[at]; ok && now.Before(a.until) {
			return a.sees
		}
		if broken {
			return false
		}
		a, err := s.asks(ctx, who, sightKey{name, at.kind, at.namespace}, now)
		if err != nil {
			if broken = failed != nil; broken {
				failed(err)
			}
			return false
		}
		asked[at] = a
		return a.sees
	}
	return func(kind, namespace string) bool {
		return look(place{kind, ""}) || look(place{kind, namespace})
	}
}

// asks tells whether somebody sees a kind in a namespace.
func (s *Sight) asks(ctx context.Context, who Person, key sightKey, now time.Time) (sightAnswer, error) {
	s.mu.Lock()
	answer, ok := s.known[key]
	s.mu.Unlock()
	if ok && now.Before(answer.until) {
		return answer, nil
	}
	answer = sightAnswer{until: now.Add(sightLasts)}
	on, ok := resources[key.kind]
	if !ok {
		return answer, nil
	}
	on.Namespace = key.namespace
	ctx, cancel := context.WithTimeout(ctx, sightAsks)
	defer cancel()
	err := s.authorize(ctx, who, VerbGet, on)
	if err != nil && !errors.Is(err, ErrForbidden) {
		return answer, err
	}
	answer.sees = err == nil
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.known) >= maxSights {
		clear(s.known)
	}
	s.known[key] = answer
	return answer, nil
}
