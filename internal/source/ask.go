package source

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	"keelson.dev/keelson/internal/delivery"
	"keelson.dev/keelson/internal/git"
)

// maxAskingShare is the share of time, as a divisor, that one repository is asked for at most: 1/20.
const maxAskingShare = 20

// PollAfter is how long to wait until a repository is asked again that should be asked at an interval, and that took some
// time to answer: never so short that asking takes more than a twentieth of the time.
func PollAfter(interval, took time.Duration) time.Duration {
	if took > 0 && took >= interval/maxAskingShare {
		return max(interval, maxAskingShare*min(took, time.Hour))
	}
	return interval
}

// PollAfter is [PollAfter] for a source's repository, by the time that the source's last question about refs took that was
// answered. A repository of the built-in host has nobody to spare.
func (f *Fetcher) PollAfter(src delivery.Source, interval time.Duration) time.Duration {
	u, err := addressOf(src.URL)
	if err != nil {
		return interval
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	return PollAfter(interval, f.took[asker{src.ID, u}])
}

// desk asks one remote with one set of credentials for its refs, one question at a time. Whoever comes while a question is
// under way shares the next one: the answer to the present one may be older than what made them ask.
type desk struct {
	ended func() // nobody waits any more; may be nil

	mu   sync.Mutex
	busy bool
	next *question
}

// question is one exchange for all who share it.
type question struct {
	patterns map[string]bool
	timeout  time.Duration // the longest that one of them waits
	done     chan struct{}
	refs     map[string]string
	err      error
	took     time.Duration
}

// asking is the exchange itself.
type asking func(ctx context.Context, patterns []string) (map[string]string, error)

// ask gives the refs that match the patterns, and maybe others that somebody else asked for.
func (d *desk) ask(ctx context.Context, timeout time.Duration, exchange asking, patterns ...string) (map[string]string, time.Duration, error) {
	d.mu.Lock()
	if d.next == nil {
		d.next = &question{patterns: map[string]bool{}, done: make(chan struct{})}
	}
	q := d.next
	for _, p := range patterns {
		q.patterns[p] = true
	}
	q.timeout = max(q.timeout, timeout)
	if !d.busy {
		d.busy = true
		// A question is not given up with the one who came first; its time is bounded.
		go d.run(context.WithoutCancel(ctx), exchange)
	}
	d.mu.Unlock()
	select {
	case <-q.done:
		return q.refs, q.took, q.err
	case <-ctx.Done():
		return nil, 0, fmt.Errorf("%w: %w", git.ErrUnreachable, ctx.Err())
	}
}

func (d *desk) idle() bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return !d.busy && d.next == nil
}

// run asks until nobody waits.
func (d *desk) run(ctx context.Context, exchange asking) {
	for more := true; more; {
		d.mu.Lock()
		q := d.next
		d.next = nil
		d.mu.Unlock()
		q.exchange(ctx, exchange)
		d.mu.Lock()
		more = d.next != nil
		d.busy = more
		d.mu.Unlock()
		close(q.done)
	}
	if d.ended != nil {
		d.ended()
	}
}

func (q *question) exchange(ctx context.Context, exchange asking) {
	ctx, cancel := context.WithTimeout(ctx, q.timeout)
	defer cancel()
	start := time.Now()
	defer func() {
		if p := recover(); p != nil { // those who wait are to hear of it
			q.refs, q.err = nil, &delivery.Fault{Reason: ReasonGit, Err: fmt.Errorf("ask for refs: internal error: %v", p), Hint: "please report it"}
		}
	}()
	q.refs, q.err = exchange(ctx, slices.Sorted(maps.Keys(q.patterns)))
	q.took = time.Since(start)
}

// lsRemote asks a source's remote for refs that match patterns, together with all who ask it now.
func (f *Fetcher) lsRemote(ctx context.Context, t target, timeout time.Duration, patterns ...string) (map[string]string, error) {
	key := deskKey{t.url, t.auth}
	f.mu.Lock()
	d := f.desks[key]
	if d == nil {
		d = &desk{ended: func() { f.leave(key) }}
		f.desks[key] = d
	}
	f.mu.Unlock()
	refs, took, err := d.ask(ctx, timeout, func(ctx context.Context, patterns []string) (map[string]string, error) {
		return git.LsRemote(ctx, t.remote(), patterns...)
	}, patterns...)
	if err == nil {
		f.mu.Lock()
		defer f.mu.Unlock()
		f.took[asker{t.id, t.url}] = took
	}
	return refs, err
}

// leave drops a desk that nobody waits at: credentials are kept no longer than they are used.
func (f *Fetcher) leave(key deskKey) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if d := f.desks[key]; d != nil && d.idle() {
		delete(f.desks, key)
	}
}

// deskKey tells who is asked, and as whom.
type deskKey struct {
	url  string
	auth git.Auth
}

// asker is a source with the URL that it asks: others may ask the same URL in another way, as through a slow proxy.
type asker struct {
	source delivery.ID
	url    string
}

// forget drops what is known of all askers but the given ones.
func (f *Fetcher) forget(keep map[asker]bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	maps.DeleteFunc(f.took, func(a asker, _ time.Duration) bool { return !keep[a] })
	maps.DeleteFunc(f.subs, func(a asker, _ map[string]bool) bool { return !keep[a] })
}
