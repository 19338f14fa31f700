package release

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	helmkube "helm.sh/helm/v4/pkg/kube"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/cli-runtime/pkg/resource"
	"k8s.io/client-go/dynamic"

	"keelson.dev/keelson/internal/delivery"
	"keelson.dev/keelson/internal/health"
)

// waiter waits for objects by watching those that are not there yet where they are to be: one watch each, from the version that the
// server returned when it was written. There is no polling. The first object that has failed ends the waiting.
type waiter struct {
	*client
	all bool // for all objects, not only for hooks
}

// GetWaiter implements [helmkube.Interface].
func (c *client) GetWaiter(ws helmkube.WaitStrategy) (helmkube.Waiter, error) {
	return c.GetWaiterWithOptions(ws)
}

// GetWaiterWithOptions implements [helmkube.InterfaceWaitOptions]. The options are the client's own matter.
func (c *client) GetWaiterWithOptions(ws helmkube.WaitStrategy, _ ...helmkube.WaitOption) (helmkube.Waiter, error) {
	return &waiter{client: c, all: ws != helmkube.HookOnlyStrategy}, nil
}

// verdict says how an object is doing, for what is waited for.
type verdict func(u *unstructured.Unstructured) delivery.Health

// Wait implements [helmkube.Waiter].
func (w *waiter) Wait(resources helmkube.ResourceList, timeout time.Duration) error {
	return w.WaitFor(resources, timeout, false)
}

// WaitWithJobs implements [helmkube.Waiter].
func (w *waiter) WaitWithJobs(resources helmkube.ResourceList, timeout time.Duration) error {
	return w.WaitFor(resources, timeout, true)
}

// WaitFor waits until objects are healthy.
func (w *waiter) WaitFor(resources helmkube.ResourceList, timeout time.Duration, jobs bool) error {
	if !w.all {
		return nil
	}
	return w.until(resources, timeout, func(u *unstructured.Unstructured) delivery.Health { return w.readiness(u, jobs) })
}

// readiness is how an object is doing by the rules that the release waits by.
func (w *waiter) readiness(u *unstructured.Unstructured, jobs bool) delivery.Health {
	gk := u.GroupVersionKind().GroupKind()
	switch {
	case gk == jobKind && !jobs:
		return delivery.Health{Status: delivery.Healthy}
	case gk == deploymentKind && paused(u):
		return delivery.Health{Status: delivery.Healthy} // as Helm
	case w.legacy && !legacyKinds[gk]:
		return delivery.Health{Status: delivery.Healthy}
	case !w.legacy && w.rules != nil && w.rules.Kind(gk):
		return w.rules.Of(u)
	}
	return health.Of(u)
}

var (
	jobKind        = schema.GroupKind{Group: "batch", Kind: "Job"}
	deploymentKind = schema.GroupKind{Group: "apps", Kind: "Deployment"}
	podKind        = schema.GroupKind{Kind: "Pod"}
	crdKind        = schema.GroupKind{Group: "apiextensions.k8s.io", Kind: "CustomResourceDefinition"}

	// legacyKinds are the kinds that Helm 3 waited for.
	legacyKinds = map[schema.GroupKind]bool{
		podKind: true, jobKind: true, deploymentKind: true, crdKind: true,
		{Kind: "PersistentVolumeClaim"}: true, {Kind: "Service"}: true, {Kind: "ReplicationController"}: true,
		{Group: "apps", Kind: "DaemonSet"}: true, {Group: "apps", Kind: "StatefulSet"}: true, {Group: "apps", Kind: "ReplicaSet"}: true,
	}
)

func paused(u *unstructured.Unstructured) bool {
	is, _, _ := unstructured.NestedBool(u.Object, "spec", "paused")
	return is
}

// WatchUntilReady implements [helmkube.Waiter], for hooks: Jobs are to complete, Pods to succeed, and anything else is to be there.
func (w *waiter) WatchUntilReady(resources helmkube.ResourceList, timeout time.Duration) error {
	return w.until(resources, timeout, func(u *unstructured.Unstructured) delivery.Health {
		switch gk := u.GroupVersionKind().GroupKind(); {
		case gk == jobKind:
			return health.Of(u)
		case gk == podKind:
			return ofHookPod(u)
		case w.rules != nil && w.rules.Kind(gk):
			return w.rules.Of(u)
		}
		return delivery.Health{Status: delivery.Healthy}
	})
}

// ofHookPod tells how a Pod is doing that is to run to its end.
func ofHookPod(u *unstructured.Unstructured) delivery.Health {
	phase, _, _ := unstructured.NestedString(u.Object, "status", "phase")
	switch corev1.PodPhase(phase) {
	case corev1.PodSucceeded:
		return delivery.Health{Status: delivery.Healthy}
	case corev1.PodFailed:
		return health.OfPod(u)
	}
	text := health.OfPod(u).Message
	if text == "" {
		text = "the Pod is " + strings.ToLower(phase)
	}
	return delivery.Health{Status: delivery.Progressing, Message: text}
}

// WaitForDelete implements [helmkube.Waiter].
func (w *waiter) WaitForDelete(resources helmkube.ResourceList, timeout time.Duration) error {
	if !w.all {
		return nil
	}
	return w.each(resources, timeout, w.gone)
}

// until waits until every object is healthy.
func (w *waiter) until(resources helmkube.ResourceList, timeout time.Duration, judge verdict) error {
	return w.each(resources, timeout, func(ctx context.Context, info *resource.Info) error { return w.healthy(ctx, info, judge) })
}

// each waits for every object at once; the first one that has failed ends it all, and at the end of the time every one is named that is
// not where it is to be.
func (w *waiter) each(resources helmkube.ResourceList, timeout time.Duration, one func(context.Context, *resource.Info) error) error {
	ctx, cancel := context.WithTimeoutCause(w.ctx, timeout, errTimeout)
	defer cancel()
	failed, stop := context.WithCancel(ctx)
	defer stop()
	var wg sync.WaitGroup
	errs := make([]error, len(resources))
	for i, info := range resources {
		wg.Go(func() {
			if errs[i] = one(failed, info); errs[i] != nil && failed.Err() == nil {
				stop()
			}
		})
	}
	wg.Wait()
	var first []error
	for _, err := range errs {
		var late *lateError
		if err != nil && !errors.As(err, &late) {
			first = append(first, err)
		}
	}
	switch {
	case len(first) > 0: // the others were not given their time
		return joined(first)
	case w.ctx.Err() != nil:
		return context.Cause(w.ctx)
	}
	return joined(slices.DeleteFunc(errs, func(err error) bool { return err == nil }))
}

var errTimeout = errors.New("the time is up")

// lateError is that of an object that was not where it is to be when the waiting ended.
type lateError struct {
	where, why string
	timeout    bool
}

// Error implements error.
func (e *lateError) Error() string {
	text := e.where + " is not ready"
	if e.why != "" {
		text += ": " + e.why
	}
	return text
}

// failedError is that of an object that has failed.
type failedError struct{ where, why string }

// Error implements error.
func (e *failedError) Error() string { return e.where + " failed: " + e.why }

// maxNamed bounds how many objects an error names.
const maxNamed = 5

// joined is one error of several, in a stable order.
func joined(errs []error) error {
	if len(errs) == 0 {
		return nil
	}
	if len(errs) == 1 {
		return errs[0]
	}
	texts := make([]string, len(errs))
	for i, err := range errs {
		texts[i] = err.Error()
	}
	slices.Sort(texts)
	if more := len(texts) - maxNamed; more > 0 {
		texts = append(texts[:maxNamed], fmt.Sprintf("and %d more", more))
	}
	return &severalError{text: strings.Join(texts, "; "), errs: errs}
}

type severalError struct {
	text string
	errs []error
}

// Error implements error.
func (e *severalError) Error() string { return e.text }

// Unwrap gives all of them.
func (e *severalError) Unwrap() []error { return e.errs }

// resource is where an object is read and watched, as the action's user.
func (w *waiter) resource(info *resource.Info) dynamic.ResourceInterface {
	r := w.user.Dynamic.Resource(info.Mapping.Resource)
	if info.Namespaced() {
		return r.Namespace(info.Namespace)
	}
	return r
}

func refOf(info *resource.Info) delivery.Ref {
	return delivery.Ref{
		Group: info.Mapping.GroupVersionKind.Group, Kind: info.Mapping.GroupVersionKind.Kind, Namespace: info.Namespace, Name: info.Name,
	}
}

// healthy waits until an object is healthy.
func (w *waiter) healthy(ctx context.Context, info *resource.Info, judge verdict) error {
	u, ok := info.Object.(*unstructured.Unstructured)
	if !ok {
		return fmt.Errorf("wait for %s: unexpected %T", w.where(refOf(info)), info.Object)
	}
	if info.Name == "" { // made of a generateName: the server's answer has the name
		info.Name = u.GetName()
	}
	last := u
	done := func(u *unstructured.Unstructured, gone bool) (bool, error) {
		if gone {
			last = nil
			return false, nil
		}
		last = u
		switch h := judge(u); h.Status {
		case delivery.Healthy:
			return true, nil
		case delivery.Degraded:
			return false, &failedError{where: w.where(refOf(info)), why: w.because(u, h.Message)}
		}
		return false, nil
	}
	if u.GetResourceVersion() == "" { // not as the server returned it
		u = nil
	}
	err := w.follow(ctx, info, u, done)
	if err == nil || ctx.Err() == nil {
		return err
	}
	late := &lateError{where: w.where(refOf(info)), why: "it does not exist", timeout: errors.Is(context.Cause(ctx), errTimeout)}
	if last != nil {
		if late.why = judge(last).Message; late.timeout {
			late.why = w.because(last, late.why)
		}
	}
	return late
}

// gone waits until an object is not there.
func (w *waiter) gone(ctx context.Context, info *resource.Info) error {
	var last *unstructured.Unstructured
	err := w.follow(ctx, info, nil, func(u *unstructured.Unstructured, gone bool) (bool, error) {
		if last != nil && u != nil && u.GetUID() != last.GetUID() {
			gone = true // another one has taken its place
		}
		last = u
		return gone, nil
	})
	if err == nil || ctx.Err() == nil {
		return err
	}
	why := "it is still there"
	if last != nil && len(last.GetFinalizers()) > 0 {
		why += ", held by " + strings.Join(last.GetFinalizers(), ", ")
	}
	return &lateError{where: w.where(refOf(info)), why: why, timeout: errors.Is(context.Cause(ctx), errTimeout)}
}

// follow tells done of an object as it is, and of every change until done is content. from is the object as the server returned it;
// nil: it is asked for.
func (w *waiter) follow(ctx context.Context, info *resource.Info, from *unstructured.Unstructured, done func(u *unstructured.Unstructured, gone bool) (bool, error)) error {
	r := w.resource(info)
	pause := time.Duration(0)
	for {
		u := from
		from = nil
		var err error
		if u == nil {
			u, err = r.Get(ctx, info.Name, metav1.GetOptions{})
		}
		version := ""
		switch {
		case apierrors.IsNotFound(err):
			if ok, err := done(nil, true); ok || err != nil {
				return err
			}
		case err != nil && (apierrors.IsForbidden(err) || ctx.Err() != nil):
			return fmt.Errorf("wait for %s: %w", w.where(refOf(info)), err)
		case err != nil: // the server is away; the time is bounded
			if pause, err = rested(ctx, pause); err != nil {
				return err
			}
			continue
		default:
			version = u.GetResourceVersion()
			if ok, err := done(u, false); ok || err != nil {
				return err
			}
		}
		ok, err := w.watch(ctx, r, info.Name, version, done)
		if ok || err != nil {
			return err
		}
		if pause, err = rested(ctx, pause); err != nil { // the watch ended, as watches do
			return err
		}
	}
}

// rested waits before something is asked for once more, longer each time.
func rested(ctx context.Context, before time.Duration) (time.Duration, error) {
	select {
	case <-time.After(before):
		return min(max(2*before, 50*time.Millisecond), 5*time.Second), nil
	case <-ctx.Done():
		return 0, ctx.Err()
	}
}

// watch tells done of changes; false: the watch has ended and what it watches for has not come.
func (w *waiter) watch(ctx context.Context, r dynamic.ResourceInterface, name, version string, done func(*unstructured.Unstructured, bool) (bool, error)) (bool, error) {
	events, err := r.Watch(ctx, metav1.ListOptions{
		FieldSelector: fields.OneTermEqualSelector(metav1.ObjectNameField, name).String(), ResourceVersion: version,
	})
	if apierrors.IsForbidden(err) {
		return false, fmt.Errorf("watch %s: %w", name, err)
	}
	if err != nil {
		return false, nil //nolint:nilerr // tried again, for as long as there is time
	}
	defer events.Stop()
	for {
		select {
		case e, open := <-events.ResultChan():
			if !open || e.Type == watch.Error {
				return false, nil
			}
			u, ok := e.Object.(*unstructured.Unstructured)
			if !ok || e.Type == watch.Bookmark {
				continue
			}
			if ok, err := done(u, e.Type == watch.Deleted); ok || err != nil {
				return ok, err
			}
		case <-ctx.Done():
			return false, ctx.Err()
		}
	}
}

// lookLimit bounds looking for the reason of a failure.
const lookLimit = 5 * time.Second

// because adds to why an object is not ready what its Pods say.
func (w *waiter) because(u *unstructured.Unstructured, why string) string {
	if u.GroupVersionKind().GroupKind() == podKind {
		return why
	}
	selector := podSelector(u)
	if selector == "" {
		return why
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(w.ctx), lookLimit)
	defer cancel()
	pods, err := w.user.Dynamic.Resource(schema.GroupVersionResource{Version: "v1", Resource: "pods"}).Namespace(u.GetNamespace()).
		List(ctx, metav1.ListOptions{LabelSelector: selector, Limit: 20})
	if err != nil {
		return why // who may not list Pods is told without
	}
	for i := range pods.Items {
		if h := health.OfPod(&pods.Items[i]); h.Status == delivery.Degraded {
			return strings.TrimPrefix(why+"; ", "; ") + "Pod " + pods.Items[i].GetName() + ": " + h.Message
		}
	}
	return why
}

// podSelector selects the Pods that an object makes; empty: it makes none.
func podSelector(u *unstructured.Unstructured) string {
	switch u.GetKind() {
	case "Job":
		return labels.Set{"batch.kubernetes.io/job-name": u.GetName()}.String()
	case "Deployment", "StatefulSet", "DaemonSet", "ReplicaSet":
		match, _, _ := unstructured.NestedStringMap(u.Object, "spec", "selector", "matchLabels")
		return labels.Set(match).String()
	}
	return ""
}
