package identity

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	"keelson.dev/keelson/internal/web"
)

// How long an answer of the cluster is believed: what is granted or taken away counts within seconds.
const (
	believedYes, believedNo = 5 * time.Second, 2 * time.Second
	reviewLimit             = 5 * time.Second
	maxVerdicts             = 50_000
)

// Review asks a cluster whether a person may do a verb to a target; its answer is not kept.
type Review func(ctx context.Context, who web.Person, verb string, on web.Target) (allowed bool, why string, err error)

// Authorizer asks the cluster what people may do: its RBAC is the one system of rights. It is safe for concurrent use, and keeps answers
// for seconds.
type Authorizer struct {
	review func() (Review, error)
	now    func() time.Time

	mu   sync.Mutex
	kept map[question]verdict
}

type question struct {
	name, groups, verb string
	on                 web.Target
}

type verdict struct {
	allowed bool
	why     string
	until   time.Time
}

// NewAuthorizer makes one. review gives who asks the cluster; its error says why nobody can yet.
func NewAuthorizer(review func() (Review, error), now func() time.Time) *Authorizer {
	if now == nil {
		now = time.Now
	}
	return &Authorizer{review: review, now: now, kept: map[question]verdict{}}
}

// Authorize implements [web.Authorize].
func (a *Authorizer) Authorize(ctx context.Context, who web.Person, verb string, on web.Target) error {
	if who.Name == "" {
		return fmt.Errorf("%w: nobody is logged in", web.ErrForbidden)
	}
	if reserved(who.Name) {
		return fmt.Errorf("%w: %q is no name of a person", web.ErrForbidden, who.Name)
	}
	q := question{who.Name, strings.Join(who.Groups, "\x00"), verb, on}
	v, known := a.remembered(q)
	if !known {
		review, err := a.review()
		if err != nil {
			return fmt.Errorf("ask the cluster what %s may do: %w", who.Name, err)
		}
		ctx, cancel := context.WithTimeout(ctx, reviewLimit)
		defer cancel()
		v.allowed, v.why, err = review(ctx, who, verb, on)
		if err != nil {
			if errors.Is(err, context.DeadlineExceeded) {
				err = errors.New("it does not answer")
			}
			return fmt.Errorf("ask the cluster what %s may do: %w", who.Name, err)
		}
		a.remember(q, v)
	}
	if v.allowed {
		return nil
	}
	return fmt.Errorf("%w: %s may not %s %s: grant it with a Role or ClusterRole and its binding (docs/identity.md)", web.ErrForbidden, who.Name, verb, describe(on))
}

func (a *Authorizer) remembered(q question) (verdict, bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	v, ok := a.kept[q]
	return v, ok && a.now().Before(v.until)
}

func (a *Authorizer) remember(q question, v verdict) {
	a.mu.Lock()
	defer a.mu.Unlock()
	life := believedNo
	if v.allowed {
		life = believedYes
	}
	v.until = a.now().Add(life)
	if len(a.kept) >= maxVerdicts {
		clear(a.kept)
	}
	a.kept[q] = v
}

// describe names a target for people.
func describe(on web.Target) string {
	text := on.Resource
	if on.Group != "" {
		text += "." + on.Group
	}
	if on.Name != "" {
		text += fmt.Sprintf(" %q", on.Name)
	}
	if on.Namespace != "" {
		return text + " in namespace " + on.Namespace
	}
	return text + " of the cluster"
}
