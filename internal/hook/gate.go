package hook

import (
	"crypto/sha256"
	"encoding/binary"
	"strings"
	"time"
)

// Bounds of what goes on at once and of what is remembered.
const (
	perSecond, burst = 20, 100 // requests to one receiver, genuine or not
	// Requests under way: in all, of one namespace, so that none has all places, and of one receiver. A slow sender holds one for as
	// long as its body takes. How many do their work at once is the caller's.
	inAll, ofNamespace, ofReceiver = 64, 32, 16
	window                         = 10 * time.Minute
	remembered                     = 8192 // deliveries; the oldest are forgotten first
)

// Gap is the least time between two reconciliations that are asked for of one resource. A body that was here before and has no id
// of its own may be a replay, so it has to wait for longer: it may as well be a sender that always says the same.
const Gap, RepeatGap = time.Second, 5 * time.Second

// Key is a digest of a delivery.
type Key [sha256.Size]byte

// KeyOf gives the digest of a genuine delivery to a receiver: of the sender's id of it, and of the body.
func KeyOf(receiver string, e Event, req Request) Key {
	h := sha256.New()
	for _, part := range [][]byte{[]byte(receiver), []byte(e.ID), req.Body} {
		h.Write(binary.BigEndian.AppendUint64(nil, uint64(len(part))))
		h.Write(part)
	}
	return Key(h.Sum(nil))
}

// Gate keeps what requests may cost within bounds. It is not safe for concurrent use.
type Gate struct {
	receivers map[string]*traffic
	busy      int
	spaces    map[string]int // requests under way, by namespace
	seen      map[Key]time.Time
	order     []Key // of seen, the oldest first; those that were let go of may be among them
	targets   map[string]*turn
}

// traffic is what goes to one receiver.
type traffic struct {
	credit float64
	at     time.Time
	busy   int
}

// turn is when a resource was last asked for, and when it will be again; zero: it will not.
type turn struct{ last, due time.Time }

// NewGate makes a gate that remembers nothing yet.
func NewGate() *Gate {
	return &Gate{receivers: map[string]*traffic{}, spaces: map[string]int{}, seen: map[Key]time.Time{}, targets: map[string]*turn{}}
}

// Enter lets a request to a receiver ("namespace/name") in; the caller has to [Gate.Leave]. Otherwise wait is the time after which it makes sense
// to try again.
func (g *Gate) Enter(receiver string, now time.Time) (wait time.Duration, ok bool) {
	t := g.receivers[receiver]
	if t == nil {
		t = &traffic{credit: burst, at: now}
		g.receivers[receiver] = t
	}
	if since := now.Sub(t.at); since > 0 {
		t.credit, t.at = min(burst, t.credit+since.Seconds()*perSecond), now
	}
	switch {
	case t.credit < 1:
		return time.Second, false
	case g.busy >= inAll || g.spaces[namespaceOf(receiver)] >= ofNamespace || t.busy >= ofReceiver:
		return time.Second, false
	}
	t.credit--
	t.busy++
	g.busy++
	g.spaces[namespaceOf(receiver)]++
	return 0, true
}

// Leave ends what Enter began.
func (g *Gate) Leave(receiver string) {
	g.busy--
	if space := namespaceOf(receiver); g.spaces[space] > 1 {
		g.spaces[space]--
	} else {
		delete(g.spaces, space)
	}
	if t := g.receivers[receiver]; t != nil {
		t.busy--
	}
}

func namespaceOf(receiver string) string {
	namespace, _, _ := strings.Cut(receiver, "/")
	return namespace
}

// Forget drops what is known of a receiver that is gone, unless a request to it is under way.
func (g *Gate) Forget(receiver string) {
	if t := g.receivers[receiver]; t != nil && t.busy == 0 {
		delete(g.receivers, receiver)
	}
}

// Claim notes a delivery; false: it was noted within the last ten minutes.
func (g *Gate) Claim(key Key, now time.Time) bool {
	for len(g.order) > 0 {
		at, ok := g.seen[g.order[0]]
		if ok && now.Sub(at) < window && len(g.order) < remembered {
			break
		}
		delete(g.seen, g.order[0])
		g.order = g.order[1:]
	}
	if _, ok := g.seen[key]; ok {
		return false
	}
	g.seen[key] = now
	g.order = append(g.order, key)
	return true
}

// Release takes a claim back: what was claimed could not be done, so the sender may try again.
func (g *Gate) Release(key Key) { delete(g.seen, key) }

// Ask tells when a resource is to be asked for: now (zero), after a wait, or not at all (ok is false), because it will be
// anyway, and no later. After the wait the caller asks [Gate.Due].
func (g *Gate) Ask(target string, gap time.Duration, now time.Time) (wait time.Duration, ok bool) {
	for name, t := range g.targets { // there are few within a gap
		if t.due.IsZero() && now.Sub(t.last) >= RepeatGap {
			delete(g.targets, name)
		}
	}
	t := g.targets[target]
	if t == nil {
		g.targets[target] = &turn{last: now}
		return 0, true
	}
	if wait = gap - now.Sub(t.last); wait <= 0 {
		*t = turn{last: now} // it does for what was put off, too
		return 0, true
	}
	due := now.Add(wait)
	if !t.due.IsZero() && !t.due.After(due) {
		return 0, false
	}
	t.due = due
	return wait, true
}

// Due tells whether a request that was put off is still to be made, now.
func (g *Gate) Due(target string, now time.Time) bool {
	t := g.targets[target]
	if t == nil || t.due.IsZero() || now.Before(t.due) {
		return false
	}
	*t = turn{last: now}
	return true
}

// Failed notes that the last request could not be made: the next need not wait for it.
func (g *Gate) Failed(target string) {
	if t := g.targets[target]; t != nil && t.due.IsZero() {
		delete(g.targets, target)
	}
}
