package pod

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/types"

	"keelson.dev/keelson/internal/pipeline"
	"keelson.dev/keelson/internal/pipeline/executor"
	"keelson.dev/keelson/internal/pipeline/executor/pod/agent"
)

func (j *job) key() string { return j.plan.namespace + "/" + j.plan.name }

// change wakes all who wait for a change. The lock is held.
func (j *job) change() {
	close(j.changed)
	j.changed = make(chan struct{})
}

// made takes in the Pod as it was made. The watch may have been faster.
func (j *job) made(pod *corev1.Pod) {
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.pod == nil {
		j.take(pod)
	}
}

// see takes in the status of the Pod.
func (j *job) see(pod *corev1.Pod) {
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.mine(pod) && (j.pod == nil || j.pod.UID == pod.UID) {
		j.take(pod)
	}
}

// mine tells whether this Run has made something; an earlier process has made what it goes on with.
func (j *job) mine(o metav1.Object) bool {
	return j.Resume || o.GetAnnotations()[annotationRun] == j.plan.nonce
}

// take reads the status of the Pod. The lock is held.
func (j *job) take(pod *corev1.Pod) {
	j.pod = pod
	j.sight = look(pod, j.plan.limits, j.history)
	if len(pod.Status.ContainerStatuses) < len(pod.Spec.Containers) {
		j.sight.services = len(j.plan.services) == 0
	}
	j.notes = append(j.notes, j.sight.notes...)
	if j.sight.state != "" {
		j.notes = append(j.notes, j.sight.state)
	}
	j.change()
}

// seeGone takes in that the Pod is no more.
func (j *job) seeGone(pod *corev1.Pod) {
	j.mu.Lock()
	defer j.mu.Unlock()
	if !j.mine(pod) || j.pod != nil && j.pod.UID != pod.UID {
		return
	}
	j.gone = true
	if j.sight.end == nil {
		r := executor.Failed(pipeline.RunnerSystemFailure, "the Pod was deleted%s", disruption(pod))
		j.sight.end = &r
	}
	j.change()
}

func (j *job) isDead() bool {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.dead || j.fate() != nil
}

// begun tells whether the agent has begun a phase, or is past it.
func (j *job) begun(p agent.Phase) bool {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.heard && j.status.Phase >= p
}

// deadError says that a job cannot go on, by its Pod.
type deadError struct{ result executor.Result }

func (e *deadError) Error() string { return e.result.Message }

// fate is why the job cannot go on; nil: it can. The lock is held.
func (j *job) fate() *executor.Result {
	if j.sight.end != nil {
		return j.sight.end
	}
	return j.late
}

// maxNotes bounds what the log is told of a Pod.
const maxNotes = 50

// tell writes what is to be told of the Pod into the log, once.
func (j *job) tell() {
	j.mu.Lock()
	var fresh []string
	for _, n := range j.notes {
		if !j.told[n] && len(j.told) < maxNotes {
			j.told[n] = true
			fresh = append(fresh, n)
		}
	}
	j.notes = nil
	j.mu.Unlock()
	for _, n := range fresh {
		j.trace.Warningf("%s", n)
	}
}

// await waits until something is so. Its error is a [deadError] where the Pod says that it will never be, or that of ctx.
func (j *job) await(ctx context.Context, is func() bool) error {
	for {
		j.mu.Lock()
		done, end, changed := is(), j.fate(), j.changed
		j.mu.Unlock()
		switch {
		case done:
			return nil
		case end != nil:
			return &deadError{*end}
		}
		j.tell()
		select {
		case <-changed:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

func (j *job) awaitGone(ctx context.Context) error {
	for {
		j.mu.Lock()
		gone, changed := j.gone, j.changed
		j.mu.Unlock()
		if gone {
			return nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// failed is the result of a job that waited in vain.
func (j *job) failed(ctx context.Context, err error) executor.Result {
	var dead *deadError
	if errors.As(err, &dead) && ctx.Err() == nil {
		j.lastWords()
		return dead.result
	}
	j.mu.Lock()
	j.dead = true
	j.mu.Unlock()
	return j.stopped(ctx)
}

// stopped is the result of a job whose context has ended.
func (j *job) stopped(ctx context.Context) executor.Result {
	var limit scriptTimeout
	switch cause := context.Cause(ctx); {
	case errors.Is(cause, errTimeout):
		return executor.TimedOut(j.Limit())
	case errors.As(cause, &limit):
		return executor.TimedOut(time.Duration(limit))
	case errors.Is(cause, context.DeadlineExceeded):
		return executor.Failed(pipeline.ExecutionTimeout, "the time for the whole run is over")
	default:
		return executor.Canceled()
	}
}

// section begins a section of the log, unless an earlier process has done so, and gives what ends it.
func (j *job) section(p agent.Phase, name, title string) (end func()) {
	if j.begun(p) {
		return func() {}
	}
	return j.trace.Section(name, title, false)
}

// stopPatience is how long an agent may take to say that it has stopped a phase, the grace for the script not counted.
const stopPatience = 15 * time.Second

// doneWith tells whether the agent has carried out an order. The lock is held.
func (j *job) doneWith(order agent.Order) bool {
	return j.heard && j.status.Done(order.Phase) && j.status.Uploads >= order.Uploads
}

// execute lets the agent do a phase, until it is done with it or ctx ends.
func (j *job) execute(ctx context.Context, order agent.Order) executor.Result {
	done := func() bool { return j.doneWith(order) }
	j.mu.Lock()
	over := done()
	if order.Setup == nil && j.status.Phase == agent.Hello {
		order.Setup = &j.setup
	}
	if !over {
		j.order = order
		j.change()
	}
	j.mu.Unlock()
	err := error(nil)
	if !over {
		err = j.await(ctx, done)
	}
	switch {
	case err == nil:
		return j.exit(order.Phase)
	case ctx.Err() == nil || j.life.Err() != nil:
		return j.failed(ctx, err)
	}
	j.trace.Hurry()
	j.mu.Lock()
	j.order.Stop = true
	j.change()
	j.mu.Unlock()
	patience, cancel := context.WithTimeout(j.life, j.x.o.Grace+stopPatience)
	defer cancel()
	if err := j.await(patience, done); err != nil {
		return j.failed(ctx, context.Cause(ctx))
	}
	j.mu.Lock()
	exit := j.status.Exits[order.Phase]
	j.mu.Unlock()
	if exit.Killed {
		j.trace.Warningf("The script did not end within %s after SIGTERM and is killed", j.x.o.Grace)
	}
	return j.stopped(ctx)
}

// exit is the result of a phase that the agent is done with.
func (j *job) exit(p agent.Phase) executor.Result {
	j.mu.Lock()
	exit := j.status.Exits[p]
	j.mu.Unlock()
	switch {
	case exit.Err != "" && exit.Config:
		return executor.Failed(pipeline.ConfigurationError, "%s", short(exit.Err))
	case exit.Err != "":
		return executor.Failed(pipeline.RunnerSystemFailure, "%s", short(exit.Err))
	case exit.Stopped && p <= agent.Script && j.ctx.Err() != nil:
		return j.stopped(j.ctx)
	case exit.Stopped: // while nobody looked
		return executor.TimedOut(j.Limit())
	}
	result := executor.Exited(min(max(exit.Code, 0), 255))
	if exit.OOM && result.Status == pipeline.StatusFailed {
		result.Message = oom(j.plan.limits) + ", " + result.Message
	}
	return result
}

// createTries is how often one tries to make what a cluster does not take just now.
const createTries = 6

// create makes the Pod with its Secret.
func (j *job) create() error {
	data := map[string][]byte{agent.FileURL: []byte(j.x.o.URL + Path + fmt.Sprint(j.ID)), agent.FileToken: []byte(j.x.o.token(j.ID))}
	data[agent.FileCA] = j.x.o.CA // empty: the agent trusts whom the image does
	secrets, pods := j.x.o.Client.CoreV1().Secrets(j.plan.namespace), j.x.o.Client.CoreV1().Pods(j.plan.namespace)
	j.mu.Lock()
	j.making = true
	j.mu.Unlock()
	secret, err := place(j, kindSecret, func() (*corev1.Secret, error) {
		return secrets.Create(j.ctx, j.plan.secret(data), metav1.CreateOptions{})
	}, func() ([]corev1.Secret, error) {
		list, err := secrets.List(j.ctx, j.byName())
		if err != nil {
			return nil, err
		}
		return list.Items, nil
	}, secrets.Delete)
	if err != nil {
		return err
	}
	j.mu.Lock()
	j.secret = secret
	j.mu.Unlock()
	pod, err := place(j, kindPod, func() (*corev1.Pod, error) {
		return pods.Create(j.ctx, j.plan.pod(j.plan.name), metav1.CreateOptions{})
	}, func() ([]corev1.Pod, error) {
		list, err := pods.List(j.ctx, j.byName())
		if err != nil {
			return nil, err
		}
		return list.Items, nil
	}, pods.Delete)
	if err != nil {
		return err
	}
	j.made(pod)
	go j.own(pod)
	go j.watchStart(pod)
	return nil
}

// The kinds of what is made for a job.
const (
	kindSecret = "Secret"
	kindPod    = "Pod"
)

// place makes something by the job's name. What is there already by that name is it, where the cluster's answer was lost; what an earlier Run
// has left makes room; and what somebody else has made is never used.
func place[T any, P interface {
	*T
	metav1.Object
}](j *job, kind string, create func() (P, error), find func() ([]T, error), remove func(context.Context, string, metav1.DeleteOptions) error) (P, error) {
	for try := 1; ; try++ {
		var made P
		err := again(j.ctx, func() (err error) { made, err = create(); return err })
		if err == nil {
			return made, nil
		}
		if !apierrors.IsAlreadyExists(err) || try == createTries {
			return nil, fmt.Errorf("make the job's %s: %w", kind, err)
		}
		found, err := find()
		if err != nil {
			return nil, fmt.Errorf("look at the %s of the job's name: %w", kind, err)
		}
		if len(found) == 0 { // it has gone meanwhile
			continue
		}
		there := P(&found[0])
		switch {
		case j.mine(there):
			return there, nil
		case !j.x.leftBehind(j, there):
			return nil, fmt.Errorf("a %s %s is there already, which is none of Keelson's for this job: it is not used; delete it", kind, j.key())
		}
		uid, now := there.GetUID(), int64(0)
		err = remove(j.ctx, there.GetName(), metav1.DeleteOptions{GracePeriodSeconds: &now, Preconditions: &metav1.Preconditions{UID: &uid}})
		if err != nil && !apierrors.IsNotFound(err) && !apierrors.IsConflict(err) {
			return nil, fmt.Errorf("remove the %s that an earlier run of the job has left: %w", kind, err)
		}
		select {
		case <-time.After(time.Duration(try) * 200 * time.Millisecond): // a Pod takes a while
		case <-j.ctx.Done():
			return nil, j.ctx.Err()
		}
	}
}

// leftBehind tells whether something by a job's name is ours, and of no other job that runs.
func (x *Executor) leftBehind(j *job, o metav1.Object) bool {
	x.mu.Lock()
	defer x.mu.Unlock()
	other := x.jobs[jobOf(o.GetLabels())]
	return o.GetLabels()[LabelInstance] == x.o.instance() && (other == nil || other == j)
}

// again tries something again that the cluster does not do just now.
func again(ctx context.Context, do func() error) error {
	wait := 50 * time.Millisecond
	for try := 1; ; try++ {
		err := do()
		final := err == nil || apierrors.IsAlreadyExists(err) || apierrors.IsNotFound(err) || apierrors.IsForbidden(err) || apierrors.IsInvalid(err) || apierrors.IsBadRequest(err)
		if final || try == createTries {
			return err
		}
		select {
		case <-time.After(wait):
			wait *= 3
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// own lets the Secret go with the Pod.
func (j *job) own(pod *corev1.Pod) {
	yes := true
	patch, err := json.Marshal(map[string]any{"metadata": map[string]any{"ownerReferences": []metav1.OwnerReference{
		{APIVersion: "v1", Kind: "Pod", Name: pod.Name, UID: pod.UID, Controller: &yes},
	}}})
	if err == nil {
		_, err = j.x.o.Client.CoreV1().Secrets(pod.Namespace).Patch(j.life, pod.Name, types.StrategicMergePatchType, patch, metav1.PatchOptions{})
	}
	if err != nil && !apierrors.IsNotFound(err) && j.life.Err() == nil {
		j.x.o.Log.Warn("let a job's Secret go with its Pod", "secret", pod.Namespace+"/"+pod.Name, "error", err)
	}
}

// slowStart is how long a Pod may take to start until its events are looked at.
const slowStart = 2 * time.Second

// helloLimit is how long the agent may take to be heard of, once its container runs.
const helloLimit = 3 * time.Minute

// watchStart tells the log what holds up a Pod that does not start, and ends the job when no node takes it for too long, or when nothing is
// heard of it.
func (j *job) watchStart(pod *corev1.Pod) {
	heard := func() bool { return j.heard }
	within := func(limit time.Duration, is func() bool) (late bool) {
		ctx, cancel := context.WithTimeout(j.ctx, limit)
		defer cancel()
		return j.awaitQuietly(ctx, is) != nil && ctx.Err() != nil && j.ctx.Err() == nil
	}
	fail := func(format string, args ...any) {
		j.mu.Lock()
		defer j.mu.Unlock()
		if j.sight.end == nil && !j.heard {
			r := executor.Failed(pipeline.RunnerSystemFailure, format, args...)
			j.late = &r
			j.change()
		}
	}
	if !within(slowStart, heard) {
		return
	}
	ctx, cancel := context.WithCancel(j.ctx)
	defer cancel()
	go j.events(ctx, pod)
	if within(j.x.o.Pending-slowStart, func() bool { return j.heard || j.pod != nil && j.pod.Spec.NodeName != "" }) {
		j.mu.Lock()
		state := strings.TrimPrefix(j.sight.state, noNode)
		j.mu.Unlock()
		fail("%s", join(fmt.Sprintf("no node took the Pod within %s", j.x.o.Pending), "", state))
		return
	}
	if err := j.awaitQuietly(j.ctx, func() bool { return j.heard || j.sight.runs }); err != nil {
		return
	}
	if within(helloLimit, heard) {
		fail("nothing was heard of the Pod within %s after its container had started: can Pods reach Keelson at %s?", helloLimit, j.x.o.URL)
	}
}

// awaitQuietly waits as await does, and leaves the log alone.
func (j *job) awaitQuietly(ctx context.Context, is func() bool) error {
	for {
		j.mu.Lock()
		done, end, changed := is(), j.fate(), j.changed
		j.mu.Unlock()
		switch {
		case done:
			return nil
		case end != nil:
			return &deadError{*end}
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// toldElsewhere are the events that the Pod's status tells better.
var toldElsewhere = map[string]bool{"Failed": true, "BackOff": true, "FailedScheduling": true, "InspectFailed": true, "Unhealthy": true, "MissingClusterDNS": true}

// events tells the log of the warnings about a Pod.
func (j *job) events(ctx context.Context, pod *corev1.Pod) {
	selector := fields.Set{"involvedObject.uid": string(pod.UID), "type": corev1.EventTypeWarning}.AsSelector().String()
	w, err := j.x.o.Client.CoreV1().Events(pod.Namespace).Watch(ctx, metav1.ListOptions{FieldSelector: selector})
	if err != nil {
		return // the status of the Pod says what it says
	}
	defer w.Stop()
	for {
		select {
		case e, ok := <-w.ResultChan():
			if !ok {
				return
			}
			event, is := e.Object.(*corev1.Event)
			if !is || toldElsewhere[event.Reason] {
				continue
			}
			j.mu.Lock()
			j.notes = append(j.notes, join("", event.Reason, event.Message))
			j.change()
			j.mu.Unlock()
		case <-ctx.Done():
			return
		}
	}
}

// lastWords puts the end of what containers that have failed have said into the log.
func (j *job) lastWords() {
	j.tell()
	j.mu.Lock()
	pod := j.pod
	gone := j.gone
	j.mu.Unlock()
	if pod == nil || gone {
		return
	}
	ctx, cancel := context.WithTimeout(j.life, 5*time.Second)
	defer cancel()
	for _, c := range pod.Status.ContainerStatuses {
		t := c.State.Terminated
		if t == nil || t.ExitCode == 0 || t.Reason == "StartError" {
			continue
		}
		lines, bytes := int64(20), int64(8<<10)
		text, err := j.x.o.Client.CoreV1().Pods(pod.Namespace).GetLogs(pod.Name, &corev1.PodLogOptions{Container: c.Name, TailLines: &lines, LimitBytes: &bytes}).DoRaw(ctx)
		if err != nil || len(text) == 0 {
			continue
		}
		j.trace.Printf("The last lines of container %s (%s):", c.Name, c.Image)
		_, _ = j.trace.Write(append(text, '\n')) // never fails
	}
}
