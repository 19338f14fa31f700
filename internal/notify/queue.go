package notify

import (
	"cmp"
	"slices"
	"time"

	eventv1 "github.com/fluxcd/pkg/apis/event/v1beta1"
	"k8s.io/apimachinery/pkg/types"
)

// Job is an event that an Alert wants told.
type Job struct {
	Alert    types.NamespacedName
	Provider types.NamespacedName
	News     News          // as it came
	Event    eventv1.Event // as it is told
	Done     int           // requests of it that were taken already

	Attempts int       // that failed
	Began    time.Time // when it came in
	due      time.Time
	seq      int
}

// Limits bound a Queue. The zero value of a field is the default.
type Limits struct {
	Jobs        int           // in all; 10,000
	PerProvider int           // 1,000
	AtOnce      int           // Providers of one namespace that are told something at the same time; 4
	Burst       int           // to one Provider without a pause; 100
	Gap         time.Duration // between two to one Provider after that; 100 ms
	Give        time.Duration // how long one is tried; 1 h
}

// Queue keeps what is not told yet. Each Provider is told one thing at a time, at a bounded rate, and about one object in the order
// in which things happened: what fails is tried again before what came later, while other objects' news go on. Slow Providers of one
// namespace do not hold up those of others.
// A Queue is not safe for concurrent use.
type Queue struct {
	limits  Limits
	outlets map[types.NamespacedName]*outlet
	seq     int
	jobs    int
}

// outlet is what is known of a Provider.
type outlet struct {
	jobs   []*Job // in the order in which they came
	busy   *Job
	paused time.Time
	tokens float64
	filled time.Time
	served int // the seq of the queue when it had its last turn
}

// NewQueue makes an empty Queue.
func NewQueue(l Limits) *Queue {
	l.Jobs, l.PerProvider, l.Burst = cmp.Or(l.Jobs, 10_000), cmp.Or(l.PerProvider, 1_000), cmp.Or(l.Burst, 100)
	l.AtOnce = cmp.Or(l.AtOnce, 4)
	l.Gap, l.Give = cmp.Or(l.Gap, 100*time.Millisecond), cmp.Or(l.Give, time.Hour)
	return &Queue{limits: l, outlets: map[types.NamespacedName]*outlet{}}
}

// Len is how many jobs are waiting or under way.
func (q *Queue) Len() int { return q.jobs }

// Add takes a job in. Where there are too many, one is dropped, of the same Provider or of the one that has most waiting: the oldest
// that is no error, or else the oldest; it is given back.
func (q *Queue) Add(j Job, now time.Time) (dropped *Job) {
	q.seq++
	j.seq, j.Began, j.due = q.seq, now, now
	o := q.outlets[j.Provider]
	if o == nil {
		o = &outlet{tokens: float64(q.limits.Burst), filled: now}
		q.outlets[j.Provider] = o
	}
	o.jobs = append(o.jobs, &j)
	q.jobs++
	if len(o.jobs) <= q.limits.PerProvider {
		if q.jobs <= q.limits.Jobs {
			return nil
		}
		for _, other := range q.outlets {
			if len(other.jobs) > len(o.jobs) {
				o = other
			}
		}
	}
	at := slices.IndexFunc(o.jobs, func(old *Job) bool { return old != o.busy && old.Event.Severity != eventv1.EventSeverityError })
	if at < 0 {
		at = slices.IndexFunc(o.jobs, func(old *Job) bool { return old != o.busy })
	}
	dropped = o.jobs[at]
	o.jobs = slices.Delete(o.jobs, at, at+1)
	q.jobs--
	return dropped
}

// Take gives the next job that may be told now, whose Provider gets nothing else until [Queue.Settle]. Without one, wait is how
// long it is until there may be one; negative: not before something happens.
func (q *Queue) Take(now time.Time) (j Job, wait time.Duration, ok bool) {
	wait = -1
	sooner := func(at time.Time) {
		if d := max(at.Sub(now), 0); wait < 0 || d < wait {
			wait = d
		}
	}
	busy := map[string]int{} // by namespace
	for p, o := range q.outlets {
		if o.busy != nil {
			busy[p.Namespace]++
		}
	}
	var best *outlet
	var chosen *Job
	for p, o := range q.outlets {
		if o.busy != nil || len(o.jobs) == 0 || busy[p.Namespace] >= q.limits.AtOnce {
			continue
		}
		o.fill(now, q.limits)
		head := o.head()
		at := latest(head.due, o.paused)
		if o.tokens < 1 {
			at = latest(at, now.Add(time.Duration((1-o.tokens)*float64(q.limits.Gap))))
		}
		if at.After(now) {
			sooner(at)
			continue
		}
		if best == nil || o.served < best.served {
			best, chosen = o, head
		}
	}
	if best == nil {
		return Job{}, wait, false
	}
	best.busy = chosen
	best.tokens--
	q.seq++
	best.served = q.seq
	return *chosen, 0, true
}

// fill adds what time has added to the right to send.
func (o *outlet) fill(now time.Time, l Limits) {
	if d := now.Sub(o.filled); d > 0 {
		o.tokens = min(o.tokens+float64(d)/float64(l.Gap), float64(l.Burst))
		o.filled = now
	}
}

// head gives the job that is due first, among the first of each object.
func (o *outlet) head() *Job {
	var first *Job
	seen := map[string]bool{}
	for _, j := range o.jobs {
		if key := j.News.Object(); !seen[key] {
			seen[key] = true
			if first == nil || j.due.Before(first.due) {
				first = j
			}
		}
	}
	return first
}

func latest(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}

// Settle notes what became of a job that was taken; done is how many of its requests were taken. It tells when it is tried again;
// zero: it is over.
func (q *Queue) Settle(j Job, r Result, done int, now time.Time) (again time.Time) {
	o := q.outlets[j.Provider]
	if o == nil || o.busy == nil || o.busy.seq != j.seq {
		return time.Time{}
	}
	mine := o.busy
	o.busy = nil
	if r.Pause {
		o.paused = latest(o.paused, now.Add(max(r.After, Backoff(1))))
	}
	if r.Err != nil && r.Retry {
		mine.Attempts++
		mine.Done = done
		mine.due = now.Add(max(r.After, Backoff(mine.Attempts)))
		if mine.due.Sub(mine.Began) <= q.limits.Give {
			return mine.due
		}
	}
	o.jobs = slices.DeleteFunc(o.jobs, func(x *Job) bool { return x == mine })
	q.jobs--
	return time.Time{}
}

// Rest drops what is known of Providers to which nothing is to be sent, where it says no more than that they may get a burst.
func (q *Queue) Rest(now time.Time) {
	for name, o := range q.outlets {
		if o.fill(now, q.limits); o.busy == nil && len(o.jobs) == 0 && o.tokens >= float64(q.limits.Burst) && !o.paused.After(now) {
			delete(q.outlets, name)
		}
	}
}

// Backoff is how long to wait after so many failed attempts: 2 s, 4 s, … 5 min.
func Backoff(attempts int) time.Duration {
	const first, most = 2 * time.Second, 5 * time.Minute
	if attempts < 1 {
		return 0
	}
	if attempts > 8 {
		return most
	}
	return min(first<<(attempts-1), most)
}

// Interval is how long the same event is told once.
const Interval = 5 * time.Minute

// maxSeen bounds what a Seen keeps.
const maxSeen = 20_000

// Seen knows what was told. The same event within [Interval] is no news, unless its object has been well, or has not been well, in
// between: what fails, recovers and fails in the same way is told three times. A Seen is not safe for concurrent use.
type Seen struct {
	told  map[string]bool
	order []told // the oldest first
	faces map[string]face
}

type told struct {
	key string
	at  time.Time
}

// face is how an object last looked to somebody.
type face struct {
	bad  bool
	turn int // how often that has changed
	at   time.Time
}

// NewSeen makes a Seen that knows nothing.
func NewSeen() *Seen { return &Seen{told: map[string]bool{}, faces: map[string]face{}} }

// News tells whether an event is news to somebody (the UID of an Alert), and takes it as told.
func (s *Seen) News(who string, n News, now time.Time) bool {
	s.expire(now)
	object := who + " " + n.Object()
	f := s.faces[object]
	if bad := failed(n.Event); bad || recovered(n.Event) {
		if bad != f.bad {
			f.bad, f.turn = bad, f.turn+1
		}
		f.at = now
		s.faces[object] = f
	}
	key := who + " " + n.Key() + " " + string(rune('0'+f.turn%64))
	if s.told[key] {
		return false
	}
	s.told[key] = true
	s.order = append(s.order, told{key, now})
	return true
}

func (s *Seen) expire(now time.Time) {
	n := 0
	for n < len(s.order) && (now.Sub(s.order[n].at) >= Interval || len(s.order)-n >= maxSeen) {
		delete(s.told, s.order[n].key)
		n++
	}
	if n > 0 {
		s.order = slices.Delete(s.order, 0, n)
	}
	if len(s.faces) < maxSeen {
		return
	}
	for k, f := range s.faces {
		if now.Sub(f.at) >= Interval {
			delete(s.faces, k)
		}
	}
	if len(s.faces) >= maxSeen {
		clear(s.faces)
	}
}
