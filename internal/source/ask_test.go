package source

import (
	"context"
	"errors"
	"maps"
	"net/http"
	"net/http/httptest"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"keelson.dev/keelson/internal/delivery"
	"keelson.dev/keelson/internal/git"
)

func TestPollAfter(t *testing.T) {
	const s = time.Second
	for name, c := range map[string]struct{ interval, took, want time.Duration }{
		"never asked":           {60 * s, 0, 60 * s},
		"fast":                  {60 * s, s / 10, 60 * s},
		"a twentieth":           {60 * s, 3 * s, 60 * s},
		"slow":                  {60 * s, 30 * s, 600 * s},
		"fast, short interval":  {s, s / 10, 2 * s},
		"slower than possible":  {60 * s, 1 << 62, 20 * time.Hour},
		"long interval":         {time.Hour, 30 * s, time.Hour},
		"no interval":           {0, s, 20 * s},
		"no interval, no clock": {0, 0, 0},
	} {
		if got := PollAfter(c.interval, c.took); got != c.want {
			t.Errorf("%s: %v, want %v", name, got, c.want)
		}
	}
}

// TestDeskShares holds one question back while others come: they share the next one, which starts after they have come.
func TestDeskShares(t *testing.T) {
	var d desk
	started, proceed := make(chan []string), make(chan struct{})
	exchange := func(_ context.Context, patterns []string) (map[string]string, error) {
		started <- patterns
		<-proceed
		refs := map[string]string{}
		for _, p := range patterns {
			refs[p] = "id of " + p
		}
		return refs, nil
	}
	var wg sync.WaitGroup
	ask := func(pattern string) {
		wg.Go(func() {
			refs, _, err := d.ask(t.Context(), time.Minute, exchange, pattern)
			if err != nil || refs[pattern] != "id of "+pattern {
				t.Errorf("%s: %v (%v)", pattern, refs, err)
			}
		})
	}
	waiting := func() []string {
		d.mu.Lock()
		defer d.mu.Unlock()
		if d.next == nil {
			return nil
		}
		return slices.Sorted(maps.Keys(d.next.patterns))
	}
	ask("a")
	first := <-started
	for _, p := range []string{"a", "b", "b", "c"} {
		ask(p)
	}
	for !slices.Equal(waiting(), []string{"a", "b", "c"}) {
		time.Sleep(time.Millisecond)
	}
	proceed <- struct{}{}
	second := <-started
	proceed <- struct{}{}
	wg.Wait()
	if diff := cmp.Diff([][]string{{"a"}, {"a", "b", "c"}}, [][]string{first, second}); diff != "" {
		t.Errorf("questions (-want +got):\n%s", diff)
	}
}

// TestDeskOutlivesTheFirst gives up the first asker: whoever shares the question still gets the answer.
func TestDeskOutlivesTheFirst(t *testing.T) {
	var d desk
	started, proceed := make(chan struct{}, 2), make(chan struct{})
	exchange := func(ctx context.Context, _ []string) (map[string]string, error) {
		started <- struct{}{}
		<-proceed
		return map[string]string{"HEAD": "x"}, ctx.Err()
	}
	ctx, cancel := context.WithCancel(t.Context())
	gone := make(chan error, 1)
	go func() {
		_, _, err := d.ask(ctx, time.Minute, exchange, "HEAD")
		gone <- err
	}()
	<-started
	cancel()
	if err := <-gone; !errors.Is(err, context.Canceled) || !errors.Is(err, git.ErrUnreachable) {
		t.Errorf("who gave up got %v", err)
	}
	close(proceed)
	refs, took, err := d.ask(t.Context(), time.Minute, exchange, "HEAD")
	if err != nil || refs["HEAD"] != "x" || took <= 0 {
		t.Errorf("the next one got %v after %v (%v)", refs, took, err)
	}
}

// TestDeskBoundsAQuestion ends a question that is not answered.
func TestDeskBoundsAQuestion(t *testing.T) {
	var d desk
	_, _, err := d.ask(t.Context(), time.Millisecond, func(ctx context.Context, _ []string) (map[string]string, error) {
		<-ctx.Done()
		return nil, ctx.Err()
	}, "HEAD")
	if !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("error = %v", err)
	}
}

// TestDeskIsLeft: when an answer comes after everybody has gone, the desk goes too, and the credentials with it.
func TestDeskIsLeft(t *testing.T) {
	left, proceed := make(chan struct{}), make(chan struct{})
	d := desk{ended: func() { close(left) }}
	ctx, cancel := context.WithCancel(t.Context())
	exchange := func(context.Context, []string) (map[string]string, error) {
		cancel()
		<-proceed
		return nil, nil
	}
	if _, _, err := d.ask(ctx, time.Minute, exchange, "HEAD"); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
	if d.idle() {
		t.Error("idle while the question is under way")
	}
	close(proceed)
	<-left
	if !d.idle() {
		t.Error("not idle at the end")
	}
}

// TestTookIsOfTheAsker: neither a question that failed nor what another source's way to the same URL took makes one wait.
func TestTookIsOfTheAsker(t *testing.T) {
	f, err := New(Options{Dir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	slow := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		time.Sleep(50 * time.Millisecond)
		w.WriteHeader(http.StatusBadGateway)
	}))
	defer slow.Close()
	src := delivery.Source{ID: delivery.ID{Kind: "GitRepository", Namespace: "a", Name: "a"}, URL: slow.URL + "/r.git"}
	if _, err := f.Resolve(t.Context(), src); err == nil {
		t.Fatal("no error")
	}
	if got := f.PollAfter(src, 0); got != 0 {
		t.Errorf("after a question that failed: %v", got)
	}
	f.took[asker{src.ID, src.URL}] = time.Minute
	other := src
	other.ID.Namespace = "b"
	if mine, others := f.PollAfter(src, 0), f.PollAfter(other, 0); mine != 20*time.Minute || others != 0 {
		t.Errorf("own %v, another's %v", mine, others)
	}
}

// TestDeskPanics: a panic is the answer of one question, and the desk goes on.
func TestDeskPanics(t *testing.T) {
	var d desk
	var fault *delivery.Fault
	_, _, err := d.ask(t.Context(), time.Minute, func(context.Context, []string) (map[string]string, error) { panic("ouch") }, "HEAD")
	if !errors.As(err, &fault) {
		t.Errorf("%v", err)
	}
	if _, _, err := d.ask(t.Context(), time.Minute, func(context.Context, []string) (map[string]string, error) { return nil, nil }, "HEAD"); err != nil {
		t.Error(err)
	}
}
