package web

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
)

// Person is who asks: somebody who has been authenticated. The zero value is nobody.
type Person struct {
	Name   string
	Groups []string
}

type personKey struct{}

// visit is a request of a known person: who asks, and by what they were let in, so that what takes long can ask again.
type visit struct {
	who   Person
	still func(context.Context) error // why they are not known any more; nil: they are for ever

	mu      sync.Mutex
	granted []grant
}

// grant is a right that a request was let in by.
type grant struct {
	ask  Authorize
	verb string
	on   Target
}

// ErrGone is wrapped by the error that says why somebody is not known any more: they have logged out, or their session, their token or they
// themselves are over.
var ErrGone = errors.New("not logged in any more")

// WithPerson gives a context in which who is asking.
func WithPerson(ctx context.Context, who Person) context.Context {
	return WithVisitor(ctx, who, nil)
}

// WithVisitor gives a context in which who is asking. still is asked from time to time while they are sent something that does not end; an error
// that wraps [ErrGone] ends it.
func WithVisitor(ctx context.Context, who Person, still func(context.Context) error) context.Context {
	return context.WithValue(ctx, personKey{}, &visit{who: who, still: still})
}

func visitOf(ctx context.Context) *visit {
	v, _ := ctx.Value(personKey{}).(*visit)
	return v
}

// PersonOf tells who is asking in a context; the zero Person if nobody is.
func PersonOf(ctx context.Context) Person {
	if v := visitOf(ctx); v != nil {
		return v.who
	}
	return Person{}
}

// letInBy notes by which right a request was let in.
func letInBy(ctx context.Context, ask Authorize, verb string, on Target) {
	v := visitOf(ctx)
	if v == nil || ask == nil {
		return
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	v.granted = append(v.granted, grant{ask, verb, on})
}

// over says why who asks may not be sent more, if they may not: they are not known any more, or have lost a right that they were let in by.
// Where nobody can tell, they may: what was begun is not ended by a database or a cluster that does not answer.
func over(ctx context.Context) error {
	v := visitOf(ctx)
	if v == nil {
		return nil
	}
	if v.still != nil {
		if err := v.still(ctx); errors.Is(err, ErrGone) {
			return err
		}
	}
	v.mu.Lock()
	granted := slices.Clone(v.granted)
	v.mu.Unlock()
	for _, g := range granted {
		if err := g.ask(ctx, v.who, g.verb, g.on); errors.Is(err, ErrForbidden) {
			return fmt.Errorf("%s is over: %w", g.verb, err)
		}
	}
	return nil
}
