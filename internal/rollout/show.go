package rollout

import (
	"bufio"
	"cmp"
	"context"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/duration"
	typedv1 "k8s.io/client-go/kubernetes/typed/core/v1"

	"keelson.dev/keelson/internal/redact"
)

// The bounds of what is shown of a failure.
const (
	maxShown     = 5        // objects, and Pods of each
	maxEvents    = 10       // of each Pod and object
	maxLog       = 20       // lines of each container
	maxLine      = 500      // characters of a line
	maxLogRead   = 64 << 10 // bytes of a container's log
	maxDetails   = 48 << 10 // bytes of it all
	detailsLimit = 30 * time.Second
)

// report shows what has failed, and gives the error for it.
func (f *follower) report(ctx context.Context, w *world, found []finding, v *finding) error {
	text := redact.Text(v.text)
	f.log.Errorf("%s is %s: %s", v.long(), ErrNotHealthy, text)
	d := f.newDetails(ctx, w)
	defer d.close()
	d.about(*v)
	if v.app != nil {
		d.belongings(found, v.app)
	}
	advice := v.advice
	if advice == "" {
		advice = adviceOf("", "")
	}
	f.log.Printf("What to do: %s.", advice)
	return fmt.Errorf("%s is %w: %s", v.long(), ErrNotHealthy, text)
}

// late shows what is not healthy when the time is over, and gives the error for it.
func (f *follower) late(ctx context.Context, w *world, found []finding) error {
	open := slices.DeleteFunc(slices.Clone(found), func(v finding) bool { return v.phase == done })
	if len(open) == 0 {
		return fmt.Errorf("%w: after %s it is not known how what this job has deployed is doing", ErrNotHealthy, f.Timeout)
	}
	first := open[0]
	d := f.newDetails(ctx, w)
	defer d.close()
	for _, v := range open[:min(len(open), maxShown)] {
		f.log.Errorf("%s is %s after %s: %s", v.long(), ErrNotHealthy, f.Timeout, redact.Text(v.text))
		d.about(v)
		if v.app != nil {
			d.belongings(found, v.app)
		}
	}
	more := ""
	if n := len(open) - 1; n > 0 {
		more = fmt.Sprintf(" (and %d more object%s)", n, plural(n))
	}
	f.log.Printf("What to do: see what hinders it above. If it only needs more time, followTimeout of the environment in the Project gives it; KEELSON_FOLLOW=false in the job's variables lets the job end without waiting.")
	return fmt.Errorf("%s is %w after %s: %s%s", first.long(), ErrNotHealthy, f.Timeout, redact.Text(first.text), more)
}

// details shows Pods, events and logs, within bounds.
type details struct {
	ctx    context.Context //nolint:containedctx // of one report
	close  context.CancelFunc
	log    Log
	core   typedv1.CoreV1Interface // nil: there is none
	world  *world
	since  time.Time // when the job began
	now    time.Time
	room   int // bytes
	said   bool
	events map[types.UID]bool // that were shown
}

func (f *follower) newDetails(ctx context.Context, w *world) *details {
	ctx, cancel := context.WithTimeout(ctx, detailsLimit)
	d := &details{ctx: ctx, close: cancel, log: f.log, world: w, since: f.work.Began.Truncate(time.Second), now: time.Now(), room: maxDetails, events: map[types.UID]bool{}}
	if core, err := typedv1.NewForConfigAndClient(f.Cluster.Config(), f.Cluster.HTTPClient()); err == nil {
		d.core = core
	}
	return d
}

// line shows a line, as long as there is room. Nothing in it can move the cursor or be taken for a mark of the log.
func (d *details) line(format string, args ...any) {
	text := strings.TrimRight(strings.Map(func(r rune) rune {
		if r == '\t' {
			return ' '
		}
		if r < ' ' || r == 0x7f || r >= 0x80 && r < 0xa0 || r == '�' {
			return -1
		}
		return r
	}, redact.Text(fmt.Sprintf(format, args...))), " ")
	if runes := []rune(text); len(runes) > maxLine {
		text = string(runes[:maxLine]) + "…"
	}
	if d.room -= len(text); d.room < 0 {
		if !d.said {
			d.said = true
			d.log.Printf("  … and more, which is too much for this log")
		}
		return
	}
	d.log.Printf("%s", text)
}

// about shows what belongs to an object: its Pods that are in trouble with their events and last words, and its own events.
func (d *details) about(v finding) {
	pods := slices.Clone(v.pods)
	rank := func(p *pod) int {
		switch {
		case v.pod != nil && p.UID == v.pod.UID:
			return 0
		case p.health.Status == "Degraded":
			return 1
		case p.health.Status == "Healthy":
			return 3
		}
		return 2
	}
	slices.SortStableFunc(pods, func(a, b *pod) int { return cmp.Compare(rank(a), rank(b)) })
	pods = slices.DeleteFunc(pods, func(p *pod) bool { return rank(p) == 3 })
	for i, p := range pods {
		if i == maxShown {
			d.line("  and %d more Pods", len(pods)-i)
			break
		}
		d.pod(p)
	}
	if v.live == nil {
		return
	}
	d.eventsOf(v.namespace, v.live.GetUID(), v.short())
	if viaReplicaSets[v.resource.GroupResource()] {
		if rs := newest(v.live, d.world.replicaSets(v.namespace)); rs != nil {
			d.eventsOf(v.namespace, rs.uid, "replicaset/"+rs.name)
		}
	}
}

// belongings shows what of an app is in trouble.
func (d *details) belongings(found []finding, of *app) {
	shown := 0
	for _, v := range found {
		if v.of != of || v.live == nil || !v.runs() || shown == maxShown {
			continue
		}
		if v.phase == done && !slices.ContainsFunc(v.pods, func(p *pod) bool { return p.health.Status == "Degraded" }) {
			continue
		}
		shown++
		d.line("  %s: %s", v.long(), cmp.Or(strings.TrimSpace(v.text), "its Pods are in trouble"))
		d.about(v)
	}
}

// pod shows a Pod with its events, and the last lines of its containers in trouble.
func (d *details) pod(p *pod) {
	d.line("  Pod %s: %s", p.Name, cmp.Or(p.health.Message, string(p.Status.Phase)))
	d.eventsOf(p.Namespace, p.UID, "")
	for _, c := range p.containers() {
		ready := c.State.Running != nil && (c.Ready || c.Started != nil && *c.Started && c.LastTerminationState.Terminated == nil && p.health.Status == "Healthy")
		ended := c.State.Terminated != nil && c.State.Terminated.ExitCode == 0
		began := c.State.Running != nil || c.State.Terminated != nil || c.LastTerminationState.Terminated != nil
		if ready || ended || !began {
			continue
		}
		if c.State.Running != nil && c.LastTerminationState.Terminated != nil {
			d.last(p, c.Name, true)
		}
		d.last(p, c.Name, false)
	}
}

// last shows the last lines of a container: of the one that runs or ran last, or of the one before.
func (d *details) last(p *pod, container string, previous bool) {
	if d.core == nil {
		return
	}
	lines, limit := int64(maxLog), int64(maxLogRead)
	body, err := d.core.Pods(p.Namespace).GetLogs(p.Name, &corev1.PodLogOptions{
		Container: container, Previous: previous, TailLines: &lines, LimitBytes: &limit,
	}).Stream(d.ctx)
	if err != nil {
		d.line("    no log of container %s: %s", container, err)
		return
	}
	defer body.Close()
	which := "container " + container
	if previous {
		which += " before its last restart"
	}
	scanner := bufio.NewScanner(io.LimitReader(body, maxLogRead))
	scanner.Buffer(make([]byte, 4096), maxLogRead)
	var text []string
	for scanner.Scan() {
		text = append(text, scanner.Text())
	}
	if len(text) == 0 {
		d.line("    %s has said nothing", which)
		return
	}
	text = text[max(0, len(text)-maxLog):]
	d.line("    the last %d line%s of %s:", len(text), plural(len(text)), which)
	for _, line := range text {
		d.line("    | %s", line)
	}
}

// eventsOf shows the newest events about an object, the oldest of them first.
func (d *details) eventsOf(namespace string, uid types.UID, name string) {
	if d.core == nil || d.events[uid] {
		return
	}
	d.events[uid] = true
	list, err := d.core.Events(cmp.Or(namespace, metav1.NamespaceDefault)).List(d.ctx, metav1.ListOptions{
		FieldSelector: fields.OneTermEqualSelector("involvedObject.uid", string(uid)).String(), Limit: 500,
	})
	if err != nil {
		d.line("    no events: %s", err)
		return
	}
	events := slices.DeleteFunc(list.Items, func(e corev1.Event) bool { return name != "" && lastOf(e).Before(d.since) }) // those of a Pod tell its story
	slices.SortFunc(events, func(a, b corev1.Event) int { return lastOf(a).Compare(lastOf(b)) })
	events = events[max(0, len(events)-maxEvents):]
	if len(events) > 0 && name != "" {
		d.line("  events of %s:", name)
	}
	for _, e := range events {
		d.line("    %s", told(e, d.now))
	}
}

// lastOf is when an event was seen last.
func lastOf(e corev1.Event) time.Time {
	at := e.LastTimestamp.Time
	if e.Series != nil && e.Series.LastObservedTime.After(at) {
		at = e.Series.LastObservedTime.Time
	}
	if at.IsZero() {
		at = e.EventTime.Time
	}
	if at.IsZero() {
		at = e.CreationTimestamp.Time
	}
	return at
}

// told is an event in a line: "Warning Failed, 3 times, 10s ago: Failed to pull image …".
func told(e corev1.Event, now time.Time) string {
	count := e.Count
	if e.Series != nil {
		count = max(count, e.Series.Count)
	}
	times := ""
	if count > 1 {
		times = fmt.Sprintf(", %d times", count)
	}
	return fmt.Sprintf("%s %s%s, %s ago: %s", e.Type, e.Reason, times, duration.HumanDuration(max(0, now.Sub(lastOf(e)))), strings.Join(strings.Fields(e.Message), " "))
}
