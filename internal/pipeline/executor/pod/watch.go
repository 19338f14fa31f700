package pod

import (
	"context"
	"strconv"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/tools/cache"
)

// seen is a Pod as the cluster showed it last.
type seen struct{ pod *corev1.Pod }

// Serve watches the Pods of this executor's jobs until ctx ends. At the beginning it removes what jobs that are over have left.
func (x *Executor) Serve(ctx context.Context) {
	selector := LabelInstance + "=" + x.o.instance()
	pods := x.o.Client.CoreV1().Pods(metav1.NamespaceAll)
	source := &cache.ListWatch{
		ListWithContextFunc: func(ctx context.Context, o metav1.ListOptions) (runtime.Object, error) {
			o.LabelSelector = selector
			return pods.List(ctx, o)
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
		x.sweep(ctx)
	}
	<-ended
	x.ends.Wait()
}

// saw passes the status of a Pod on to its job.
func (x *Executor) saw(pod *corev1.Pod) {
	key := pod.Namespace + "/" + pod.Name
	x.mu.Lock()
	x.pods[key] = &seen{pod}
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

// sweep removes what is left of jobs that are over. What cannot be removed now goes at the next start.
func (x *Executor) sweep(ctx context.Context) {
	if x.o.Over == nil {
		return
	}
	over := map[int64]bool{}
	isOver := func(id int64) bool {
		x.mu.Lock()
		running := x.jobs[id] != nil
		x.mu.Unlock()
		if running {
			return false
		}
		if _, known := over[id]; !known {
			is, err := x.o.Over(ctx, id)
			if err != nil {
				x.o.Log.Warn("look whether a job is over", "job", id, "error", err)
			}
			over[id] = is && err == nil
		}
		return over[id]
	}
	x.mu.Lock()
	left := make([]*corev1.Pod, 0, len(x.pods))
	for _, s := range x.pods {
		left = append(left, s.pod)
	}
	x.mu.Unlock()
	for _, pod := range left {
		if isOver(jobOf(pod.Labels)) {
			x.delete(ctx, pod.Namespace, pod.Name, 0)
		}
	}
	secrets, err := x.o.Client.CoreV1().Secrets(metav1.NamespaceAll).List(ctx, metav1.ListOptions{LabelSelector: LabelInstance + "=" + x.o.instance()})
	if err != nil {
		x.o.Log.Warn("look for what jobs have left", "error", err)
		return
	}
	for _, s := range secrets.Items {
		if isOver(jobOf(s.Labels)) {
			x.deleteSecret(ctx, s.Namespace, s.Name)
		}
	}
}

// deletePatience bounds how long one tries to remove a Pod.
const deletePatience = time.Minute

// delete removes a Pod with its Secret, which the cluster would do as well, but later.
func (x *Executor) delete(ctx context.Context, namespace, name string, grace int64) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), deletePatience)
	defer cancel()
	for wait := 100 * time.Millisecond; ; wait = min(2*wait, 5*time.Second) {
		err := x.o.Client.CoreV1().Pods(namespace).Delete(ctx, name, metav1.DeleteOptions{GracePeriodSeconds: &grace})
		if err == nil || apierrors.IsNotFound(err) {
			break
		}
		select {
		case <-time.After(wait):
			continue
		case <-ctx.Done():
		}
		x.o.Log.Warn("remove the Pod of a job", "pod", namespace+"/"+name, "error", err)
		break
	}
	x.deleteSecret(ctx, namespace, name)
}

func (x *Executor) deleteSecret(ctx context.Context, namespace, name string) {
	err := x.o.Client.CoreV1().Secrets(namespace).Delete(ctx, name, metav1.DeleteOptions{})
	if err != nil && !apierrors.IsNotFound(err) {
		x.o.Log.Warn("remove the Secret of a job", "secret", namespace+"/"+name, "error", err)
	}
}
