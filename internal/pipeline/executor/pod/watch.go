package pod

import (
	"context"
	"fmt"
	"strconv"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/tools/cache"
)

// Serve watches the Pods of this executor's jobs until ctx ends. At the beginning it removes what jobs that are over have left.
func (x *Executor) Serve(ctx context.Context) {
	selector := LabelInstance + "=" + x.o.instance()
	pods := x.o.Client.CoreV1().Pods(metav1.NamespaceAll)
	source := &cache.ListWatch{
		ListWithContextFunc: func(ctx context.Context, o metav1.ListOptions) (runtime.Object, error) {
			o.LabelSelector = selector
			list, err := pods.List(ctx, o)
			x.mu.Lock()
			x.listed = err
			x.mu.Unlock()
			return list, err
		},
		WatchFuncWithContext: func(ctx context.Context, o metav1.ListOptions) (watch.Interface, error) {
			o.LabelSelector = selector
			return pods.Watch(ctx, o)
		},
	}
	_, informer := cache.NewInformerWithOptions(cache.InformerOptions{
		ListerWatcher: source, ObjectType: &corev1.Pod{},
		Handler: cache.ResourceEventHandlerFuncs{
			AddFunc:    func(o any) { x.saw(o.(*corev1.Pod)) },
			UpdateFunc: func(_, o any) { x.saw(o.(*corev1.Pod)) },
			DeleteFunc: func(o any) {
				if gone, ok := o.(cache.DeletedFinalStateUnknown); ok {
					o = gone.Obj
				}
				if pod, ok := o.(*corev1.Pod); ok {
					x.lost(pod)
				}
			},
		},
	})
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		informer.RunWithContext(ctx)
	}()
	if cache.WaitForCacheSync(ctx.Done(), informer.HasSynced) {
		close(x.synced)
		x.tidy(ctx)
	}
	<-ended
	close(x.ended)
	x.ends.Wait()
}

// unsynced is why the Pods of the cluster are not known.
func (x *Executor) unsynced() error {
	x.mu.Lock()
	defer x.mu.Unlock()
	why := "the API server does not answer"
	if x.listed != nil {
		why = x.listed.Error()
	}
	return fmt.Errorf("the Pods of the cluster are not known after %s: may Keelson list and watch pods in all namespaces? %s", x.o.Sync, why)
}

// saw passes the status of a Pod on to its job.
func (x *Executor) saw(pod *corev1.Pod) {
	key := pod.Namespace + "/" + pod.Name
	x.mu.Lock()
	x.pods[key] = pod
	j := x.jobs[jobOf(pod.Labels)]
	x.mu.Unlock()
	if j != nil && j.key() == key {
		j.see(pod)
	}
}

// lost tells a job that its Pod is no more.
func (x *Executor) lost(pod *corev1.Pod) {
	key := pod.Namespace + "/" + pod.Name
	x.mu.Lock()
	delete(x.pods, key)
	j := x.jobs[jobOf(pod.Labels)]
	x.mu.Unlock()
	if j != nil && j.key() == key {
		j.seeGone(pod)
	}
}

// jobOf is the number of the job that something was made for; 0: it does not say.
func jobOf(labels map[string]string) int64 {
	id, err := strconv.ParseInt(labels[LabelJob], 10, 64)
	if err != nil {
		return 0
	}
	return id
}

// tidy removes what is left of jobs that are over, now and from time to time, until ctx ends.
func (x *Executor) tidy(ctx context.Context) {
	x.sweepSecrets(ctx, x.sweep(ctx))
	tick := time.NewTicker(time.Minute)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
			x.sweepSecrets(ctx, x.sweep(ctx))
		case <-ctx.Done():
			return
		}
	}
}

// sweep removes the Pods of jobs that are over and not played here. It gives what tells which jobs these are.
func (x *Executor) sweep(ctx context.Context) (over func(job int64) bool) {
	known := map[int64]bool{}
	over = func(id int64) bool {
		x.mu.Lock()
		played := x.jobs[id] != nil
		x.mu.Unlock()
		if played || x.o.Over == nil {
			return false
		}
		if _, asked := known[id]; !asked {
			is, err := x.o.Over(ctx, id)
			if err != nil {
				x.o.Log.Warn("look whether a job is over", "job", id, "error", err)
			}
			known[id] = is && err == nil
		}
		return known[id]
	}
	x.mu.Lock()
	left := make([]*corev1.Pod, 0, len(x.pods))
	for _, pod := range x.pods {
		left = append(left, pod)
	}
	x.mu.Unlock()
	for _, pod := range left {
		if pod.DeletionTimestamp == nil && x.made(pod) && over(jobOf(pod.Labels)) {
			x.deletePod(ctx, pod, 0)
		}
	}
	return over
}

// made tells whether something has the name that we give to what is made for a job: labels alone may be anybody's.
func (x *Executor) made(o metav1.Object) bool {
	id := jobOf(o.GetLabels())
	return id != 0 && o.GetName() == podName(id, x.o.instance())
}

// sweepSecrets removes the Secrets of jobs that are over: those that no Pod owns, as a process was killed before it could say so.
func (x *Executor) sweepSecrets(ctx context.Context, over func(job int64) bool) {
	secrets, err := x.o.Client.CoreV1().Secrets(metav1.NamespaceAll).List(ctx, metav1.ListOptions{LabelSelector: LabelInstance + "=" + x.o.instance()})
	if err != nil {
		x.o.Log.Warn("look for what jobs have left", "error", err)
		return
	}
	for _, s := range secrets.Items {
		if x.made(&s) && over(jobOf(s.Labels)) {
			x.deleteSecret(ctx, &s)
		}
	}
}

// deletePatience bounds how long one tries to remove a Pod.
const deletePatience = time.Minute

// deletePod removes a Pod, and no other one of its name.
func (x *Executor) deletePod(ctx context.Context, pod metav1.Object, grace int64) {
	uid := pod.GetUID()
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), deletePatience)
	defer cancel()
	for wait := 100 * time.Millisecond; ; wait = min(2*wait, 5*time.Second) {
		err := x.o.Client.CoreV1().Pods(pod.GetNamespace()).Delete(ctx, pod.GetName(), metav1.DeleteOptions{GracePeriodSeconds: &grace, Preconditions: &metav1.Preconditions{UID: &uid}})
		if err == nil || apierrors.IsNotFound(err) || apierrors.IsConflict(err) {
			break
		}
		select {
		case <-time.After(wait):
			continue
		case <-ctx.Done():
		}
		x.o.Log.Warn("remove the Pod of a job", "pod", pod.GetNamespace()+"/"+pod.GetName(), "error", err)
		break
	}
}

// deleteSecret removes a Secret, and no other one of its name. The cluster would do it as well when its Pod is gone, but later.
func (x *Executor) deleteSecret(ctx context.Context, secret metav1.Object) {
	uid := secret.GetUID()
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), deletePatience)
	defer cancel()
	err := x.o.Client.CoreV1().Secrets(secret.GetNamespace()).Delete(ctx, secret.GetName(), metav1.DeleteOptions{Preconditions: &metav1.Preconditions{UID: &uid}})
	if err != nil && !apierrors.IsNotFound(err) && !apierrors.IsConflict(err) {
		x.o.Log.Warn("remove the Secret of a job", "secret", secret.GetNamespace()+"/"+secret.GetName(), "error", err)
	}
}
