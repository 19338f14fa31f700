package delivery

import (
	"errors"
	"fmt"
	"strings"
)

// ErrEscapes is wrapped by every error about a path or a symbolic link that leaves the repository.
var ErrEscapes = errors.New("it leaves the repository")

// Retry says when it makes sense to try again after a fault.
type Retry int

const (
	// Backoff: the cause may pass by itself (a network, a missing CRD); try again with growing pauses.
	Backoff Retry = iota
	// OnChange: only a new commit or a new spec can help (malformed YAML, a missing path). Still tried at the app's interval.
	OnChange
	// OnEvent: something that is watched will say so (a dependency, health, a confirmation).
	OnEvent
)

// Fault is an error made for people: what failed, where, and what to do about it.
// Every stage returns one for causes that a user can mend; other errors are taken as Backoff.
type Fault struct {
	Reason string // the condition's reason in upper camel case, upstream's where there is one ("BuildFailed")
	Where  string // "apps/dev/kustomization.yaml:7", "Deployment/dev/web", …; may be empty
	Hint   string // what to do, one sentence; may be empty
	Retry  Retry
	Err    error // what failed
}

// Error is "where: what failed (hint)".
func (f *Fault) Error() string {
	var b strings.Builder
	if f.Where != "" {
		b.WriteString(f.Where)
		b.WriteString(": ")
	}
	b.WriteString(f.Err.Error())
	if f.Hint != "" {
		b.WriteString(" (hint: ")
		b.WriteString(f.Hint)
		b.WriteString(")")
	}
	return b.String()
}

// Unwrap gives the cause.
func (f *Fault) Unwrap() error { return f.Err }

// FaultOf gives err as a Fault: the one it wraps, or a new one with the given reason that is tried again with backoff.
func FaultOf(err error, reason string) *Fault {
	var f *Fault
	if errors.As(err, &f) {
		return f
	}
	return &Fault{Reason: reason, Retry: Backoff, Err: err}
}

// Placed says where err happened, unless its text begins with that already.
func Placed(where string, err error) error {
	if strings.HasPrefix(err.Error(), where) {
		return err
	}
	return fmt.Errorf("%s: %w", where, err)
}
