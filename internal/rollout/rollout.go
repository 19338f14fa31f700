// Package rollout follows what a job has deployed until it is healthy: the objects that it wrote, and the apps that reconcile what it pushed.
//
//	err := rollout.Follow(ctx, rollout.Options{Cluster: cluster, Timeout: 10 * time.Minute}, rollout.Work{Began: began, Wrote: written}, log)
//
// One straight line, again and again until it is decided:
//
//	plan   -> targets    what is followed: the objects that were written; the apps that reconcile the commits, and what these own
//	watch  -> world      those objects as they are now, with the ReplicaSets and Pods that belong to them
//	decide -> verdicts   pure: healthy, under way, or failed, and why
//	tell                 a line for each object whenever that changes
//
// Nothing is asked for twice: every kind is listed and then watched, in the namespaces concerned only. When everything is healthy it is listed
// once more, all at one time: watches run side by side, and what one of them tells may be older than what made another one content.
//
// An object is as healthy as [health.Of] says, the rules by which the controllers go. What will not get healthy by itself is not waited for: a
// container of the newest revision that crashes again and again, whose image cannot be pulled, or whose configuration is not there. What
// was asked to go is waited for a short while. Secrets, ConfigMaps and other kinds that do nothing have no health, and are never read.
//
// An app that reconciles a commit is waited for until it has applied that commit, or a later one of the same branch, and is healthy. Where it
// does not wait for the health of its objects itself, they are followed as if the job had written them.
package rollout

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"k8s.io/apimachinery/pkg/types"

	"keelson.dev/keelson/internal/delivery"
	"keelson.dev/keelson/internal/kube"
	"keelson.dev/keelson/internal/kube/proxy"
	"keelson.dev/keelson/internal/redact"
)

// DefaultTimeout is how long something may take to get healthy where nobody says anything else.
const DefaultTimeout = 10 * time.Minute

// Options say how to follow. Cluster must be set; the others may be nil together, where no Git host is there.
type Options struct {
	Cluster *kube.Cluster // as who reads
	Timeout time.Duration // 0: [DefaultTimeout]
	// Hosted tells whether a URL is that of a repository on the Git host, and which one.
	Hosted func(url string) (repository string, ok bool)
	// Resolve says which commit a source of the Git host names now.
	Resolve func(ctx context.Context, src delivery.Source) (delivery.Revision, error)
	// Contains tells whether a commit of a repository on the Git host is another one, or comes after it.
	Contains func(ctx context.Context, repository, commit, ancestor string) (bool, error)
	// File reads a file of a repository on the Git host, at a commit.
	File func(ctx context.Context, repository, commit, path string) ([]byte, error)
}

// Work is what a job has deployed.
type Work struct {
	Began  time.Time // when the job began
	Wrote  []proxy.Written
	Pushed []Commit
}

// Commit is one that was pushed to a ref ("refs/heads/main") of a repository on the Git host.
type Commit struct{ Repository, Ref, SHA string }

// Log is told how it goes, line by line.
type Log interface {
	Printf(format string, args ...any)
	Noticef(format string, args ...any)
	Warningf(format string, args ...any)
	Errorf(format string, args ...any)
	// Section begins a part of the log, and gives what ends it.
	Section(name, title string, collapsed bool) (end func())
}

// ErrNotHealthy is wrapped by the error of what did not get healthy, or not in time.
var ErrNotHealthy = errors.New("not healthy")

// maxObjects is how many objects are followed.
const maxObjects = 500

// follower follows what one job has deployed.
type follower struct {
	Options
	log   Log
	work  Work
	wrote []target        // what the work wrote
	swept map[kindIn]bool // of what kinds, and where, the job deleted a number of objects

	begun    time.Time // following
	told     map[key]string
	lines    map[key]int
	waited   map[key]bool
	failing  map[key]failure
	restarts map[container]int32 // of containers that were there before the job, as they were seen first
	running  map[container]run
	contains map[[3]string]bool
	versions map[[3]string]string
	noted    map[string]bool // remarks are made once

	reconciled map[Commit]int // how many apps were found to reconcile a commit
}

// failure is since when an object fails for a reason.
type failure struct {
	reason string
	since  time.Time
}

// run is one start of a container, and when it was seen.
type run struct{ at, seen time.Time }

// container is one of a Pod.
type container struct {
	pod  types.UID
	name string
}

// Follow waits until what a job has deployed is healthy. The error is for people; it wraps [ErrNotHealthy] where that is so, else it says
// why that is not known.
func Follow(ctx context.Context, o Options, w Work, log Log) error {
	if o.Timeout <= 0 {
		o.Timeout = DefaultTimeout
	}
	f := &follower{
		Options: o, log: log, work: w, begun: time.Now(), told: map[key]string{}, lines: map[key]int{}, waited: map[key]bool{},
		failing: map[key]failure{}, restarts: map[container]int32{}, running: map[container]run{}, contains: map[[3]string]bool{}, versions: map[[3]string]string{}, noted: map[string]bool{},
		reconciled: map[Commit]int{},
	}
	f.wrote, f.swept = targetsOf(w.Wrote)
	if len(f.wrote) == 0 && len(w.Pushed) == 0 {
		log.Printf("There is nothing to follow: this job has written nothing through Keelson's way to the cluster that has a health, and has pushed nothing to its Git host.")
		return nil
	}
	defer log.Section("follow_rollout", "Following the rollout", false)()
	if more := len(f.wrote) - maxObjects; more > 0 {
		log.Warningf("the job has written %d objects: %d of them are not followed", len(f.wrote), more)
		f.wrote = f.wrote[:maxObjects]
	}
	timed, cancel := context.WithTimeout(ctx, o.Timeout)
	defer cancel()
	for {
		done, err := f.round(ctx, timed)
		if done || err != nil {
			return err
		}
		// What changes all the time is not planned for all the time.
		select {
		case <-timed.Done():
		case <-time.After(pause):
		}
	}
}

const (
	// pause is that between two rounds, batch how long one waits for more news after some: a rollout makes many at once.
	pause, batch = 100 * time.Millisecond, 50 * time.Millisecond
	// syncLimit is how long the first answers of a cluster may take before it is said that they do.
	syncLimit = 30 * time.Second
)

// round plans and follows until everything is healthy, something has failed, or there is something else to follow. done: everything was
// healthy when it was listed, all at one time.
func (f *follower) round(ctx, timed context.Context) (done bool, err error) {
	targets, err := f.plan(timed)
	if errors.Is(err, ErrNotHealthy) {
		f.log.Errorf("%s", err)
		return false, err
	}
	if err != nil {
		return false, f.ended(ctx, timed, nil, fmt.Errorf("find out what is to be followed: %w", err))
	}
	if len(targets) == 0 {
		return true, nil
	}
	w := newWorld(f.Cluster, targets)
	watching, stop := context.WithCancel(timed)
	defer stop()
	updates := w.watch(watching)
	slow := time.NewTimer(syncLimit)
	defer slow.Stop()
	for fresh := true; ; {
		if !w.synced() {
			select {
			case u := <-updates:
				w.take(u)
			case <-slow.C:
				f.once("the cluster takes long to answer%s", because(w.trouble()))
			case <-timed.Done():
				return false, f.ended(ctx, timed, nil, w.trouble())
			}
			continue
		}
		f.remark(w)
		now := time.Now()
		found := f.decide(w, targets, now)
		f.tell(found)
		if failed := f.failed(found, now); failed != nil {
			return false, f.report(ctx, w, found, failed)
		}
		if f.changed(w, targets) {
			return false, nil
		}
		if settled(found) {
			if fresh {
				f.conclude(found)
			}
			return fresh, nil
		}
		fresh = false
		if err := f.await(timed, w, updates, f.next(found, now)); err != nil {
			return false, f.ended(ctx, timed, func(ctx context.Context) error { return f.late(ctx, w, found) }, w.trouble())
		}
	}
}

// await waits for news, or until something is due; the error says that the time is over.
func (f *follower) await(ctx context.Context, w *world, updates <-chan update, due time.Duration) error {
	timer := time.NewTimer(due)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-timer.C:
		return nil
	case u := <-updates:
		w.take(u)
	}
	more := time.NewTimer(batch)
	defer more.Stop()
	for {
		select {
		case u := <-updates:
			w.take(u)
		case <-more.C:
			return nil
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// ended gives the error of a follower that was ended: by whoever asked it to follow, by its time, or by what went wrong.
func (f *follower) ended(ctx, timed context.Context, late func(context.Context) error, err error) error {
	switch {
	case ctx.Err() != nil:
		return ctx.Err()
	case timed.Err() == nil:
		return err
	case late != nil:
		return late(ctx)
	}
	return fmt.Errorf("%w: after %s it is not known how what this job has deployed is doing%s", ErrNotHealthy, f.Timeout, because(err))
}

func because(err error) string {
	if err == nil {
		return ""
	}
	return ": " + redact.Text(err.Error())
}

// once warns of something, and does not say it again.
func (f *follower) once(format string, args ...any) {
	text := redact.Text(fmt.Sprintf(format, args...))
	if !f.noted[text] {
		f.noted[text] = true
		f.log.Warningf("%s", text)
	}
}

// remark says which kinds cannot be followed.
func (f *follower) remark(w *world) {
	for _, text := range w.refused() {
		f.once("%s", text)
	}
}

// decide gives the verdicts on all targets, in their order.
func (f *follower) decide(w *world, targets []target, now time.Time) []finding {
	out := make([]finding, 0, len(targets))
	for _, t := range targets {
		s := subject{target: t, live: w.object(t.place()), began: f.work.Began, waited: now.Sub(f.begun), has: f.has(t), version: f.versionOf(t)}
		s.refused = w.isRefused(t.kindIn())
		s.swept = f.swept[t.kindIn()]
		if t.app != nil {
			s.source, s.chart = w.object(t.app.source), w.object(t.app.chart)
		} else if s.live != nil {
			s.pods = newestPods(s.live, w.replicaSets(t.namespace), w.pods(t.namespace))
			s.restarts = f.restartsOf(s.pods)
			s.steady = steadiness(s.pods, f.work.Began, now, func(c container, at time.Time) time.Time {
				if f.running[c].at != at {
					f.running[c] = run{at, now}
				}
				return f.running[c].seen
			})
		}
		out = append(out, finding{subject: s, verdict: decide(s)})
	}
	return out
}

// restartsOf gives how often the containers of Pods have been restarted since the job began, as far as that is known.
func (f *follower) restartsOf(pods []*pod) map[container]int32 {
	out := map[container]int32{}
	for _, p := range pods {
		for _, c := range p.containers() {
			id := container{p.UID, c.Name}
			if _, seen := f.restarts[id]; !seen && p.CreationTimestamp.Time.Before(f.work.Began) {
				f.restarts[id] = c.RestartCount
			}
			out[id] = c.RestartCount - f.restarts[id]
		}
	}
	return out
}

// finding is a verdict with what it is about.
type finding struct {
	subject
	verdict
}

// settled tells whether nothing is waited for any more.
func settled(found []finding) bool {
	return !slices.ContainsFunc(found, func(v finding) bool { return v.phase != done })
}

// failed gives what has failed for as long as it takes to say so; nil: nothing has.
func (f *follower) failed(found []finding, now time.Time) *finding {
	var out *finding
	for i := range found {
		v := &found[i]
		k := v.key()
		if v.phase != failed {
			delete(f.failing, k)
			continue
		}
		if f.failing[k].reason != v.reason {
			f.failing[k] = failure{v.reason, now}
		}
		if out == nil && now.Sub(f.failing[k].since) >= v.hold {
			out = v
		}
	}
	return out
}

// next is when something is due without any news.
func (f *follower) next(found []finding, now time.Time) time.Duration {
	due := time.Hour
	for _, v := range found {
		switch {
		case v.phase == failed:
			due = min(due, v.hold-now.Sub(f.failing[v.key()].since))
		case v.phase == waiting && v.gone:
			due = min(due, goneLimit-v.waited)
		case v.phase == waiting && v.due > 0:
			due = min(due, v.due)
		}
	}
	return max(due, time.Millisecond)
}

// maxLines bounds what is said of one object, maxTold what is said of all.
const maxLines, maxTold = 30, 2000

// tell says what has changed. What was healthy all the time is not mentioned, but for what runs something.
func (f *follower) tell(found []finding) {
	several := len(namespaces(found)) > 1
	for _, v := range found {
		k := v.key()
		text := redact.Text(v.text)
		if v.phase == done && !v.remark && !f.waited[k] && !v.runs() || v.beside && v.phase == done {
			f.told[k] = text
			continue
		}
		if f.told[k] == text {
			continue
		}
		f.told[k] = text
		if v.phase != done {
			f.waited[k] = true
		}
		if f.lines[k]++; f.lines[k] > maxLines && v.phase == waiting || len(f.told) > maxTold {
			continue
		}
		switch name := v.label(several); {
		case v.remark:
			f.log.Warningf("%s %s", name, text)
		case v.phase == done:
			f.log.Noticef("%s %s", name, text)
		default:
			f.log.Printf("%s: %s", name, text)
		}
	}
}

func namespaces(found []finding) []string {
	var out []string
	for _, v := range found {
		if v.app == nil && v.namespace != "" && !slices.Contains(out, v.namespace) {
			out = append(out, v.namespace)
		}
	}
	return out
}

// conclude says that it is over.
func (f *follower) conclude(found []finding) {
	quiet := 0
	for _, v := range found {
		if !v.runs() && !f.waited[v.key()] && !v.gone && !v.remark && !v.beside {
			quiet++
		}
	}
	if quiet > 0 {
		f.log.Printf("%d more object%s: nothing to wait for", quiet, plural(quiet))
	}
}

func plural(n int) string {
	if n == 1 {
		return ""
	}
	return "s"
}

// lower is how people write a kind.
func lower(kind string) string { return strings.ToLower(kind) }
