// Package lua asks scripts that users wrote how an object is doing.
//
// They run in child processes: this program again, with [ChildCommand] as its only argument, without an environment, files or
// network of their own: a child has a script and an object from its standard input, says a verdict on its standard output, and
// waits for the next. Messages are JSON after their length. Libraries that reach anything outside are not there. A script has one
// second of the processor; one that takes longer, or too much memory, or whose child ends for any other reason, is stopped, and the
// next one has a new child. It is not run again for a while then: neither for the object that it was about, nor, where it is
// stopped for one after the other, for any.
package lua

import (
	"cmp"
	"crypto/sha256"
	"fmt"
	"strings"
	"sync"
	"time"
	"unicode"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"keelson.dev/keelson/internal/delivery"
)

const (
	maxChildren  = 2
	idleTime     = time.Minute      // that a child waits for another question
	answerTime   = 15 * time.Second // within which a child answers: it stops scripts by itself, unless the machine is busy
	startTime    = 30 * time.Second
	maxObject    = 8 << 20 // bytes of what a child is told
	maxAnswer    = 64 << 10
	maxMessage   = 4 << 10 // characters of a script's message
	firstPause   = 10 * time.Second
	maxPause     = 10 * time.Minute
	maxStops     = 3      // in a row, until a script is paused for all objects
	maxPenalties = 10_000 // of objects; beyond, they are forgotten
)

// Pool keeps the child processes. It is safe for concurrent use.
type Pool struct {
	slots chan struct{}
	now   func() time.Time

	mu      sync.Mutex
	idle    []*child
	closed  bool
	objects map[objectKey]penalty
	scripts map[scriptKey]*standing
}

type scriptKey [sha256.Size]byte

type objectKey struct {
	script scriptKey
	ref    delivery.Ref
}

// penalty is why and until when something is not run.
type penalty struct {
	until time.Time
	pause time.Duration
	why   string
}

// standing is how a script has done.
type standing struct {
	penalty
	stops int // in a row
}

// NewPool starts nothing: the first question does.
func NewPool() *Pool {
	return &Pool{
		slots: make(chan struct{}, maxChildren), now: time.Now,
		objects: map[objectKey]penalty{}, scripts: map[scriptKey]*standing{},
	}
}

// Close ends the children. Questions that come later are not answered.
func (p *Pool) Close() {
	p.mu.Lock()
	idle := p.idle
	p.idle, p.closed = nil, true
	p.mu.Unlock()
	for _, c := range idle {
		c.end()
	}
}

// Judge asks a script about an object, and waits for what it says. Whatever goes wrong is a verdict too: Unknown, and why.
func (p *Pool) Judge(script delivery.HealthScript, u *unstructured.Unstructured) delivery.HealthVerdict {
	gk := u.GroupVersionKind().GroupKind()
	key := objectKey{sha256.Sum256([]byte(fmt.Sprint(script.OpenLibs, script.Lua))), delivery.RefOf(u)}
	if v, ok := p.paused(key); ok {
		return v
	}
	p.slots <- struct{}{}
	defer func() { <-p.slots }()
	if v, ok := p.paused(key); ok { // by what it waited for
		return v
	}
	a, err := p.ask(question{Script: script.Lua, OpenLibs: script.OpenLibs, Object: told(u)})
	switch {
	case err != nil:
		return p.stopped(key, fmt.Sprintf("%s was stopped: %v", theScript(gk), err))
	case a.Stopped != "":
		return p.stopped(key, fmt.Sprintf("%s was stopped: %s", theScript(gk), a.Stopped))
	}
	p.worked(key)
	return verdict(gk, a)
}

// theScript names a script for people.
func theScript(gk schema.GroupKind) string {
	return "the health script for " + strings.TrimPrefix(gk.Group+"/"+gk.Kind, "/")
}

// told is what a script may see of an object: all but the bookkeeping of who set which field, which is most of many objects.
func told(u *unstructured.Unstructured) map[string]any {
	metadata, ok := u.Object["metadata"].(map[string]any)
	if _, there := metadata["managedFields"]; !ok || !there {
		return u.Object
	}
	without := func(m map[string]any, key string) map[string]any {
		out := make(map[string]any, len(m))
		for k, v := range m {
			if k != key {
				out[k] = v
			}
		}
		return out
	}
	object := without(u.Object, "metadata")
	object["metadata"] = without(metadata, "managedFields")
	return object
}

// statuses are those that a script may give.
var statuses = map[delivery.HealthStatus]bool{
	delivery.Healthy: true, delivery.Progressing: true, delivery.Degraded: true, delivery.Suspended: true, delivery.Missing: true, delivery.UnknownHealth: true,
}

// verdict reads an answer.
func verdict(gk schema.GroupKind, a answer) delivery.HealthVerdict {
	message, deletion := clean(a.Message), clean(a.Deletion)
	if gk == (schema.GroupKind{Kind: "Secret"}) { // it might tell a value
		message, a.Failed = "", clean(strings.Repeat("its error is not told", min(len(a.Failed), 1)))
		deletion = strings.Repeat("it is being deleted", min(len(deletion), 1))
	}
	unknown := func(text string) delivery.HealthVerdict {
		return delivery.HealthVerdict{Health: delivery.Health{Status: delivery.UnknownHealth, Message: text}}
	}
	switch status := delivery.HealthStatus(a.Status); {
	case a.Failed != "":
		return unknown(theScript(gk) + " failed: " + clean(a.Failed))
	case a.Nothing:
		return delivery.HealthVerdict{}
	case !statuses[status]:
		return unknown(theScript(gk) + " returned an invalid health status")
	default:
		return delivery.HealthVerdict{Health: delivery.Health{Status: status, Message: message}, Deletion: deletion}
	}
}

// clean makes any text fit to be shown and kept.
func clean(text string) string {
	text = strings.Map(func(r rune) rune {
		if r != '\n' && (unicode.IsControl(r) || r == unicode.ReplacementChar) {
			return -1
		}
		return r
	}, strings.ToValidUTF8(text, ""))
	if runes := []rune(text); len(runes) > maxMessage {
		text = string(runes[:maxMessage]) + "…"
	}
	return strings.TrimSpace(text)
}

// paused tells whether a script is not to be run now, for an object or for any.
func (p *Pool) paused(key objectKey) (delivery.HealthVerdict, bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	now, worst := p.now(), p.objects[key]
	if s := p.scripts[key.script]; s != nil && s.until.After(worst.until) {
		worst = s.penalty
	}
	if p.closed {
		worst = penalty{until: now.Add(maxPause), why: "health scripts are no longer run"}
	}
	if !worst.until.After(now) {
		return delivery.HealthVerdict{}, false
	}
	return delivery.HealthVerdict{Health: delivery.Health{Status: delivery.UnknownHealth, Message: worst.why}, Again: worst.until.Sub(now)}, true
}

// stopped notes that a script was stopped for an object.
func (p *Pool) stopped(key objectKey, why string) delivery.HealthVerdict {
	p.mu.Lock()
	defer p.mu.Unlock()
	now := p.now()
	longer := func(old penalty) penalty {
		pause := min(cmp.Or(2*old.pause, firstPause), maxPause)
		return penalty{until: now.Add(pause), pause: pause, why: why}
	}
	if len(p.objects) >= maxPenalties {
		clear(p.objects)
	}
	worst := longer(p.objects[key])
	p.objects[key] = worst
	s := p.scripts[key.script]
	if s == nil {
		s = &standing{}
		p.scripts[key.script] = s
	}
	if s.stops++; s.stops >= maxStops {
		s.penalty = longer(s.penalty)
		if s.until.After(worst.until) {
			worst = s.penalty
		}
	}
	return delivery.HealthVerdict{Health: delivery.Health{Status: delivery.UnknownHealth, Message: why}, Again: worst.pause}
}

// worked notes that a script came to its end.
func (p *Pool) worked(key objectKey) {
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.objects, key)
	delete(p.scripts, key.script)
}
