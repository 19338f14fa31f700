package web

import "context"

// Person is who asks: somebody who has been authenticated. The zero value is nobody.
type Person struct {
	Name   string
	Groups []string
}

type personKey struct{}

// WithPerson gives a context in which who is asking.
func WithPerson(ctx context.Context, who Person) context.Context {
	return context.WithValue(ctx, personKey{}, who)
}

// PersonOf tells who is asking in a context; the zero Person if nobody is.
func PersonOf(ctx context.Context) Person {
	who, _ := ctx.Value(personKey{}).(Person)
	return who
}
