package artifact

import (
	"context"
	"errors"
	"testing"
	"time"
)

// Who holds the store's lock and does not let go keeps nobody waiting who has to end.
func TestLockEndsWithContext(t *testing.T) {
	s, err := Open(t.TempDir(), Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	unlock, err := s.lock(t.Context(), true)
	if err != nil {
		t.Fatal(err)
	}
	defer unlock()
	ctx, stop := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer stop()
	if _, err := s.lock(ctx, false); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("%v", err)
	}
}
