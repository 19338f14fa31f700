package controller

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	notificationv1 "github.com/fluxcd/notification-controller/api/v1"
	"github.com/fluxcd/pkg/apis/meta"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"keelson.dev/keelson/internal/dialect"
	"keelson.dev/keelson/internal/hook"
	"keelson.dev/keelson/internal/kube"
	"keelson.dev/keelson/internal/redact"
	"keelson.dev/keelson/internal/telemetry"
)

const (
	hooksAtOnce  = 16 // that do what was asked for; the others wait for hookPatience
	hookPatience = 5 * time.Second
	hookTimeout  = 30 * time.Second // for what one webhook asks for, however long its sender waits for the answer
	hookTargets  = 1000             // resources that one reference may select
	hookPage     = 250
)

// pathIndex finds a Receiver by the digest of its webhook's path: a lookup takes as long for a path that is nearly right as
// for any other.
const pathIndex = ".status.webhookPath"

func pathDigest(path string) string {
	sum := sha256.Sum256([]byte(path))
	return hex.EncodeToString(sum[:])
}

func indexPath(obj client.Object) []string {
	if r, ok := obj.(*notificationv1.Receiver); ok && r.Status.WebhookPath != "" {
		return []string{pathDigest(r.Status.WebhookPath)}
	}
	return nil
}

// Receive answers a request to a webhook's path. read gives the request; it is called only for a path that there is, and
// within the bounds of what may go on at once.
func (c *Controller) Receive(ctx context.Context, path string, read func() (hook.Request, error)) hook.Answer {
	if c.receivers == nil {
		return hook.Answer{Result: hook.Unknown}
	}
	answer := c.receivers.receive(ctx, path, read)
	telemetry.Webhooks.WithLabelValues(answer.Result.String()).Inc()
	return answer
}

func (r *receivers) receive(ctx context.Context, path string, read func() (hook.Request, error)) hook.Answer {
	var found notificationv1.ReceiverList
	if err := r.cache.List(ctx, &found, client.MatchingFields{pathIndex: pathDigest(path)}); err != nil {
		r.log.Warn("webhook: look for its receiver", "error", err)
		return hook.Answer{Result: hook.NotReady}
	}
	if len(found.Items) == 0 || !hook.Same(found.Items[0].Status.WebhookPath, path) {
		return hook.Answer{Result: hook.Unknown}
	}
	obj := &found.Items[0]
	name := client.ObjectKeyFromObject(obj)
	if obj.Spec.Suspend || !dialect.ReceiverReady(obj) || !obj.DeletionTimestamp.IsZero() {
		r.log.Info("webhook: the receiver is suspended or not ready", "receiver", name)
		return hook.Answer{Result: hook.NotReady}
	}
	wait, ok := r.enter(name.String())
	if !ok {
		return hook.Answer{Result: hook.Busy, Wait: wait}
	}
	defer r.leave(name.String())
	req, err := read()
	if err != nil {
		r.log.Warn("webhook: read the request", "receiver", name, "error", redact.Text(err.Error()))
		return hook.Answer{Result: hook.Unread}
	}
	select { // only now: a slow sender keeps nobody from working
	case r.working <- struct{}{}:
		defer func() { <-r.working }()
	case <-time.After(hookPatience):
		return hook.Answer{Result: hook.Busy, Wait: time.Second}
	case <-ctx.Done():
		return hook.Answer{Result: hook.Unread}
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), hookTimeout)
	defer cancel()
	return r.take(ctx, obj, path, req)
}

func (r *receivers) enter(receiver string) (time.Duration, bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.gate.Enter(receiver, r.now())
}

func (r *receivers) leave(receiver string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.gate.Leave(receiver)
}

// take checks a request and does what it asks for.
func (r *receivers) take(ctx context.Context, obj *notificationv1.Receiver, path string, req hook.Request) hook.Answer {
	name := client.ObjectKeyFromObject(obj)
	log := r.log.With("receiver", name.String(), "type", obj.Spec.Type)
	if obj.Spec.SecretRef == nil { // it is about to be Stalled
		return hook.Answer{Result: hook.NotReady}
	}
	token, err := r.token(ctx, obj) // now: one that was changed counts from this moment
	if err != nil {
		log.Warn("webhook: read the token", "error", err)
		if apierrors.IsNotFound(err) {
			return hook.Answer{Result: hook.Refused}
		}
		return hook.Answer{Result: hook.Failed}
	}
	if !hook.Same(obj.GetWebhookPath(token), path) {
		r.wake(receiverID(name))
		return hook.Answer{Result: hook.Unknown}
	}
	event, err := hook.Check(hook.Rule{Type: obj.Spec.Type, Token: token, Events: obj.Spec.Events}, req)
	if err != nil {
		log.Warn("webhook refused", "error", err)
		return hook.Answer{Result: hook.Refused}
	}
	key := hook.KeyOf(string(obj.UID), event, req)
	isNew := r.claim(key)
	gap := hook.Gap
	switch {
	case isNew:
	case event.ID != "":
		log.Info("webhook: this delivery was here before", "event", event.Name)
		return hook.Answer{}
	case event.Signed: // a replay, or a sender that always says the same
		gap = hook.RepeatGap
	}
	if err := r.request(ctx, obj, req, gap); err != nil {
		r.release(key)
		log.Warn("webhook: request reconciliation", "event", event.Name, "error", redact.Text(err.Error()))
		r.recorder.record(obj, failed(err))
		return hook.Answer{Result: hook.Failed}
	}
	log.Info("webhook accepted", "event", event.Name)
	return hook.Answer{}
}

func failed(err error) event {
	return event{warning: true, reason: meta.FailedReason, message: "unable to request reconciliation: " + redact.Text(err.Error())}
}

func (r *receivers) claim(key hook.Key) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.gate.Claim(key, r.now())
}

func (r *receivers) release(key hook.Key) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.gate.Release(key)
}

// request asks for the reconciliation of everything that the Receiver selects; one that cannot be asked for is no reason to
// leave out the others.
func (r *receivers) request(ctx context.Context, obj *notificationv1.Receiver, req hook.Request, gap time.Duration) error {
	filters, err := compiled(obj)
	if err != nil {
		return err
	}
	var body map[string]any
	if filters.any() {
		if body, err = req.JSON(); err != nil {
			return err
		}
	}
	var errs []error
	for i, res := range obj.Spec.Resources {
		target, err := dialect.ReceiverTarget(obj, res, r.policy)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		chosen, err := r.choose(ctx, target, filters.any())
		if err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", target, err))
			continue
		}
		for j := range chosen {
			accepted, err := accepts(&chosen[j], body, filters.all, filters.of[i])
			if err == nil && accepted {
				err = r.ask(ctx, &chosen[j], gap)
			}
			if err != nil {
				errs = append(errs, fmt.Errorf("%s %s: %w", target.Kind.Kind, client.ObjectKeyFromObject(&chosen[j]), err))
			}
		}
	}
	return errors.Join(errs...)
}

// choose gives the metadata of what a target selects; where nobody looks at it, of a single one no more than its name.
func (r *receivers) choose(ctx context.Context, t dialect.Target, read bool) ([]metav1.PartialObjectMetadata, error) {
	if t.Name != "*" {
		one := metav1.PartialObjectMetadata{ObjectMeta: metav1.ObjectMeta{Namespace: t.Namespace, Name: t.Name}}
		one.SetGroupVersionKind(t.Kind)
		if !read {
			return []metav1.PartialObjectMetadata{one}, nil
		}
		err := r.reader.Get(ctx, client.ObjectKeyFromObject(&one), &one)
		return []metav1.PartialObjectMetadata{one}, err
	}
	var all []metav1.PartialObjectMetadata
	list := &metav1.PartialObjectMetadataList{}
	for {
		list.SetGroupVersionKind(t.Kind.GroupVersion().WithKind(t.Kind.Kind + "List"))
		err := r.reader.List(ctx, list, client.InNamespace(t.Namespace), client.MatchingLabels(t.Labels),
			client.Limit(hookPage), client.Continue(list.Continue))
		if err != nil {
			return nil, err
		}
		for i := range list.Items {
			list.Items[i].SetGroupVersionKind(t.Kind)
		}
		all = append(all, list.Items...)
		if len(all) > hookTargets {
			return nil, fmt.Errorf("the labels select more than %d resources", hookTargets)
		}
		if list.Continue == "" {
			break
		}
	}
	if len(all) == 0 {
		r.log.Warn("webhook: no resource has the labels", "kind", t.Kind.Kind, "namespace", t.Namespace, "labels", t.Labels)
	}
	return all, nil
}

// accepts tells whether every filter accepts a resource.
func accepts(obj *metav1.PartialObjectMetadata, body map[string]any, filters ...*hook.Filter) (bool, error) {
	var resource map[string]any
	for _, f := range filters {
		if f == nil {
			continue
		}
		if resource == nil {
			b, err := json.Marshal(obj)
			if err != nil {
				return false, err
			}
			if err := json.Unmarshal(b, &resource); err != nil {
				return false, err
			}
		}
		if ok, err := f.Accepts(resource, body); !ok || err != nil {
			return false, err
		}
	}
	return true, nil
}

// ask asks for a reconciliation now, or after the gap since the last one; several that would come within it are one.
func (r *receivers) ask(ctx context.Context, obj *metav1.PartialObjectMetadata, gap time.Duration) error {
	key := obj.GroupVersionKind().GroupKind().String() + "/" + obj.Namespace + "/" + obj.Name
	r.mu.Lock()
	wait, ok := r.gate.Ask(key, gap, r.now())
	r.mu.Unlock()
	switch {
	case !ok:
		return nil
	case wait == 0:
		err := r.annotate(ctx, obj)
		if err != nil {
			r.mu.Lock()
			r.gate.Failed(key)
			r.mu.Unlock()
		}
		return err
	}
	time.AfterFunc(wait, func() {
		r.mu.Lock()
		due := r.gate.Due(key, r.now())
		r.mu.Unlock()
		if !due {
			return
		}
		ctx, cancel := context.WithTimeout(r.life, hookTimeout)
		defer cancel()
		if err := r.annotate(ctx, obj); err != nil && r.life.Err() == nil {
			r.log.Warn("webhook: request reconciliation", "object", key, "error", err)
		}
	})
	return nil
}

// annotate requests a reconciliation with the field's own annotation.
func (r *receivers) annotate(ctx context.Context, obj *metav1.PartialObjectMetadata) error {
	patch, err := json.Marshal(map[string]any{"metadata": map[string]any{"annotations": map[string]string{
		meta.ReconcileRequestAnnotation: r.now().Format(time.RFC3339Nano),
	}}})
	if err != nil {
		return err
	}
	out := &metav1.PartialObjectMetadata{ObjectMeta: metav1.ObjectMeta{Namespace: obj.Namespace, Name: obj.Name}}
	out.SetGroupVersionKind(obj.GroupVersionKind())
	return r.client.Patch(ctx, out, client.RawPatch("application/merge-patch+json", patch), client.FieldOwner(kube.FieldManager))
}
