package notify

import (
	"errors"
	"fmt"
	"testing"
	"time"

	"k8s.io/apimachinery/pkg/types"
)

var start = time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)

func job(provider, object string, change ...func(*News)) Job {
	n := news(change...)
	n.InvolvedObject.Name = object
	return Job{Provider: types.NamespacedName{Namespace: "apps", Name: provider}, News: n, Event: n.Event}
}

// drive plays a queue: each line of the script is "in SECONDS TEXT"; a provider answers as its name says.
func TestQueueKeepsOrderPerObject(t *testing.T) {
	q := NewQueue(Limits{})
	for i, name := range []string{"a1", "a2", "b1"} {
		j := job("chat", name[:1])
		j.Event.Message = name
		if q.Add(j, start.Add(time.Duration(i))) != nil {
			t.Fatal("dropped")
		}
	}
	now := start.Add(time.Second)
	take := func(want string) Job {
		t.Helper()
		j, wait, ok := q.Take(now)
		if !ok || j.Event.Message != want {
			t.Fatalf("took %q %v (wait %s), want %q", j.Event.Message, ok, wait, want)
		}
		if _, _, ok := q.Take(now); ok {
			t.Fatal("two at once to one provider")
		}
		return j
	}
	fails := Result{Err: errors.New("x"), Retry: true}
	a1 := take("a1")
	if again := q.Settle(a1, fails, 0, now); again != now.Add(2*time.Second) {
		t.Fatalf("again at %s", again)
	}
	b1 := take("b1") // a2 waits for a1, b does not
	q.Settle(b1, Result{}, 1, now)
	if _, wait, ok := q.Take(now); ok || wait != 2*time.Second {
		t.Fatalf("wait %s %v", wait, ok)
	}
	now = now.Add(2 * time.Second)
	a1 = take("a1")
	if a1.Attempts != 1 {
		t.Errorf("attempts: %d", a1.Attempts)
	}
	q.Settle(a1, Result{}, 1, now)
	a2 := take("a2")
	if again := q.Settle(a2, Result{Err: errors.New("never")}, 0, now); !again.IsZero() || q.Len() != 0 {
		t.Errorf("hopeless: again at %s, %d left", again, q.Len())
	}
	if _, wait, ok := q.Take(now); ok || wait >= 0 {
		t.Errorf("an empty queue: wait %s %v", wait, ok)
	}
}

func TestQueueGivesUp(t *testing.T) {
	q := NewQueue(Limits{Give: time.Minute})
	q.Add(job("chat", "a"), start)
	now, tries := start, 0
	var gaps []time.Duration
	for {
		j, wait, ok := q.Take(now)
		if !ok {
			now = now.Add(wait)
			gaps = append(gaps, wait)
			continue
		}
		tries++
		if q.Settle(j, Result{Err: errors.New("x"), Retry: true}, 0, now).IsZero() {
			break
		}
	}
	if want := "[2s 4s 8s 16s]"; fmt.Sprint(gaps) != want || tries != 5 || q.Len() != 0 {
		t.Errorf("%d tries, gaps %v, want %s, %d left", tries, gaps, want, q.Len())
	}
}

func TestQueuePausesAProvider(t *testing.T) {
	q := NewQueue(Limits{})
	q.Add(job("slow", "a"), start)
	q.Add(job("slow", "b"), start)
	q.Add(job("other", "a"), start)
	first, _, _ := q.Take(start)
	if first.Provider.Name != "slow" {
		q.Settle(first, Result{}, 1, start)
		first, _, _ = q.Take(start)
	} else {
		other, _, _ := q.Take(start)
		q.Settle(other, Result{}, 1, start)
	}
	q.Settle(first, Result{Err: errors.New("429"), Retry: true, Pause: true, After: time.Minute}, 0, start)
	if _, wait, ok := q.Take(start.Add(59 * time.Second)); ok || wait != time.Second {
		t.Errorf("within the pause: wait %s %v", wait, ok)
	}
	if _, _, ok := q.Take(start.Add(time.Minute)); !ok {
		t.Error("after the pause")
	}
}

func TestQueueIsBounded(t *testing.T) {
	q := NewQueue(Limits{PerProvider: 3, Jobs: 5})
	q.Add(job("chat", "1"), start)
	busy, _, _ := q.Take(start)
	q.Add(job("chat", "2"), start)
	q.Add(job("chat", "3", info), start)
	if d := q.Add(job("chat", "4"), start); d == nil || d.Event.InvolvedObject.Name != "3" {
		t.Errorf("dropped %+v, want what is no error", d)
	}
	if d := q.Add(job("chat", "5"), start); d == nil || d.Event.InvolvedObject.Name != "2" {
		t.Errorf("dropped %+v, want the oldest that is not under way", d)
	}
	q.Add(job("other", "1"), start)
	q.Add(job("other", "2"), start)
	if d := q.Add(job("third", "1"), start); d == nil || d.Provider.Name != "chat" || q.Len() != 5 {
		t.Errorf("dropped %+v of %d, want one of the Provider that has most", d, q.Len())
	}
	q.Settle(busy, Result{}, 1, start)
	if q.Len() != 4 {
		t.Errorf("%d left", q.Len())
	}
}

func TestQueueLimitsTheRate(t *testing.T) {
	q := NewQueue(Limits{Burst: 3, Gap: time.Second})
	for i := range 6 {
		q.Add(job("chat", fmt.Sprint(i)), start)
	}
	var at []time.Duration
	now := start
	for q.Len() > 0 {
		j, wait, ok := q.Take(now)
		if !ok {
			now = now.Add(wait)
			continue
		}
		at = append(at, now.Sub(start))
		q.Settle(j, Result{}, 1, now)
	}
	if want := "[0s 0s 0s 1s 2s 3s]"; fmt.Sprint(at) != want {
		t.Errorf("sent at %v, want %s", at, want)
	}
	q.Rest(now.Add(time.Second))
	if len(q.outlets) != 1 {
		t.Error("a Provider that may not have a burst yet was forgotten")
	}
	if q.Rest(now.Add(time.Minute)); len(q.outlets) != 0 {
		t.Error("a Provider with nothing to send is kept")
	}
}

func TestQueueIsFair(t *testing.T) {
	q := NewQueue(Limits{})
	for i := range 10 {
		q.Add(job("busy", fmt.Sprint(i)), start)
	}
	q.Add(job("quiet", "x"), start)
	for i := range 2 {
		j, _, _ := q.Take(start)
		if j.Provider.Name == "quiet" {
			return
		}
		q.Settle(j, Result{}, 1, start)
		if i == 1 {
			t.Error("the quiet Provider waits for all of the busy one's")
		}
	}
}

// A namespace with many Providers that do not answer leaves the others theirs.
func TestQueueIsFairToNamespaces(t *testing.T) {
	q := NewQueue(Limits{})
	for i := range 40 {
		q.Add(job(fmt.Sprint("slow", i), "a"), start)
	}
	var busy []Job
	for {
		j, wait, ok := q.Take(start)
		if !ok {
			if wait >= 0 {
				t.Errorf("wait %s, although only an answer helps", wait)
			}
			break
		}
		busy = append(busy, j)
	}
	if len(busy) != 4 {
		t.Fatalf("%d at once in one namespace", len(busy))
	}
	other := job("chat", "a")
	other.Provider.Namespace = "shop"
	q.Add(other, start)
	if j, _, ok := q.Take(start); !ok || j.Provider != other.Provider {
		t.Errorf("took %v %v", j.Provider, ok)
	}
	q.Settle(busy[0], Result{}, 1, start)
	if j, _, ok := q.Take(start); !ok || j.Provider.Namespace != "apps" {
		t.Errorf("after an answer: took %v %v", j.Provider, ok)
	}
}

func TestSeen(t *testing.T) {
	s := NewSeen()
	for i, step := range []struct {
		after  time.Duration
		who    string
		change func(*News)
		want   bool
	}{
		{0, "a", nil, true},
		{0, "a", nil, false},
		{0, "b", nil, true}, // another Alert
		{time.Minute, "a", func(n *News) { n.Message = "else" }, true},
		{0, "a", func(n *News) { n.Metadata["kustomize.toolkit.fluxcd.io/revision"] = "main@sha1:0" }, true},
		{0, "a", func(n *News) { n.InvolvedObject.Name = "another" }, true},
		{0, "a", underway, true}, // says nothing about how it stands
		{0, "a", nil, false},
		{0, "a", info, true}, // it is well
		{0, "a", info, false},
		{0, "a", nil, true}, // and fails again, in the same way
		{0, "a", info, true},
		{Interval, "a", info, true},
	} {
		start = start.Add(step.after)
		n := news()
		if step.change != nil {
			step.change(&n)
		}
		if got := s.News(step.who, n, start); got != step.want {
			t.Errorf("step %d: %v", i, got)
		}
	}
}

func TestSeenIsBounded(t *testing.T) {
	s := NewSeen()
	for i := range 3 * maxSeen {
		n := news()
		n.InvolvedObject.Name = fmt.Sprint(i)
		s.News("a", n, start)
	}
	if len(s.told) > maxSeen || len(s.order) > maxSeen || len(s.faces) > maxSeen {
		t.Errorf("%d %d %d", len(s.told), len(s.order), len(s.faces))
	}
}

func TestBackoff(t *testing.T) {
	var got []time.Duration
	for i := range 11 {
		got = append(got, Backoff(i))
	}
	if want := "[0s 2s 4s 8s 16s 32s 1m4s 2m8s 4m16s 5m0s 5m0s]"; fmt.Sprint(got) != want {
		t.Errorf("got %v", got)
	}
}
