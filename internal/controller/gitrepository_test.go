package controller

import (
	"fmt"
	"testing"

	"keelson.dev/keelson/internal/delivery"
	"keelson.dev/keelson/internal/git"
)

// TestGivesLast: after a start the last known commit stands in for a remote that does not answer, not for one that refuses.
func TestGivesLast(t *testing.T) {
	last := delivery.Revision{Name: "main", Commit: "1234"}
	for cause, want := range map[error]bool{
		nil: false, git.ErrUnreachable: true, git.ErrAuth: false, git.ErrRepoNotFound: false, git.ErrUnknownRef: false, git.ErrCorrupt: false,
	} {
		err := cause
		if cause != nil {
			err = &delivery.Fault{Err: fmt.Errorf("ask for refs: %w", cause)}
		}
		if got := givesLast(last, err); got != want {
			t.Errorf("%v: %t, want %t", cause, got, want)
		}
		if givesLast(delivery.Revision{}, err) {
			t.Errorf("%v: there is no last known commit", cause)
		}
	}
}
