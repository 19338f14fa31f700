package controller

import (
	"context"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"time"

	notificationv1 "github.com/fluxcd/notification-controller/api/v1"
	"github.com/fluxcd/pkg/apis/meta"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	apimeta "k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"keelson.dev/keelson/internal/delivery"
	"keelson.dev/keelson/internal/dialect"
	"keelson.dev/keelson/internal/hook"
	"keelson.dev/keelson/internal/live"
	"keelson.dev/keelson/internal/telemetry"
)

// receivers give every Receiver its webhook's path. What comes in there is in hooks.go.
type receivers struct {
	cache    client.Reader
	reader   client.Reader // uncached: Secrets and what filters look at are not kept in memory
	client   client.Client
	live     *live.Live // watches the Secrets
	recorder *recorder
	now      func() time.Time
	life     context.Context //nolint:containedctx // requests that were put off outlive the webhook; this is the controller's life
	log      *slog.Logger
	policy   delivery.Policy
	served   bool // somebody calls receive
	wake     func(delivery.ID)

	mu   sync.Mutex
	gate *hook.Gate

	working chan struct{} // a place for each webhook that is being carried out
}

// receiverRetry is when to look again where the Secret cannot be watched.
const receiverRetry = 10 * time.Second

func receiverID(name types.NamespacedName) delivery.ID {
	return delivery.ID{Kind: notificationv1.ReceiverKind, Namespace: name.Namespace, Name: name.Name}
}

func (r *receivers) empty() *notificationv1.Receiver { return &notificationv1.Receiver{} }

func (r *receivers) about(ctx context.Context, _ *notificationv1.Receiver) context.Context {
	return ctx
}

func (r *receivers) forget(name types.NamespacedName) {
	r.live.Forget(receiverID(name))
	r.mu.Lock()
	defer r.mu.Unlock()
	r.gate.Forget(name.String())
}

func (r *receivers) remove(context.Context, *notificationv1.Receiver) (removal, error) {
	return removal{done: true}, nil
}

func (r *receivers) step(ctx context.Context, obj *notificationv1.Receiver, pen pen) next {
	if err := pen.claim(nil); err != nil {
		if !apierrors.IsConflict(err) && !apierrors.IsNotFound(err) {
			r.log.Warn("write the finalizer", "receiver", client.ObjectKeyFromObject(obj), "error", err)
			return next{after: receiverRetry}
		}
		return next{after: again}
	}
	if obj.Spec.Suspend {
		return next{}
	}
	if out := misconfigured(obj); out.Phase != "" {
		return r.finish(obj, out, obj.Status.WebhookPath, next{})
	}
	if !r.served {
		return r.finish(obj, delivery.Outcome{
			Phase: delivery.Stalled, Reason: "WebhooksNotServed",
			Message: "keelson server was started without --webhooks: no webhook is served (hint: keelson server --webhooks HOST:PORT)",
		}, obj.Status.WebhookPath, next{})
	}
	n := next{after: obj.GetInterval()}
	known, err := r.follow(obj)
	switch {
	case err != nil:
		n.after = receiverRetry // reading it may be allowed all the same
	case !known:
		return next{} // the watch will say
	}
	token, err := r.token(ctx, obj)
	if err != nil {
		return r.finish(obj, dialect.TokenNotFound(err), "", n)
	}
	path := obj.GetWebhookPath(token)
	return r.finish(obj, dialect.ReceiverServed(path), path, n)
}

// misconfigured gives the outcome for a Receiver that cannot be served as it is declared; its phase is empty for another.
func misconfigured(obj *notificationv1.Receiver) delivery.Outcome {
	if names := dialect.ReceiverUnsupported(obj, hook.Supported); len(names) > 0 {
		return delivery.Outcome{
			Phase: delivery.Stalled, Reason: "FieldsNotSupported",
			Message: strings.Join(names, ", ") + ": not supported yet; no webhook is served",
		}
	}
	if err := dialect.ReceiverSpecError(obj); err != nil {
		return dialect.ReceiverMisconfigured(notificationv1.ValidationFailedReason, err)
	}
	if _, err := compiled(obj); err != nil {
		return dialect.ReceiverMisconfigured(meta.InvalidCELExpressionReason, err)
	}
	return delivery.Outcome{}
}

// filters are a Receiver's CEL expressions: its own, and those of its resources. Nil is one that is not there.
type filters struct {
	all *hook.Filter
	of  []*hook.Filter
}

func (f filters) any() bool {
	return f.all != nil || slices.ContainsFunc(f.of, func(f *hook.Filter) bool { return f != nil })
}

func compiled(obj *notificationv1.Receiver) (f filters, err error) {
	compile := func(text string) (*hook.Filter, error) {
		if text == "" {
			return nil, nil //nolint:nilnil // no expression
		}
		return hook.Compile(text)
	}
	if f.all, err = compile(obj.Spec.ResourceFilter); err != nil {
		return f, fmt.Errorf("invalid resourceFilter expression: %w", err)
	}
	f.of = make([]*hook.Filter, len(obj.Spec.Resources))
	for i, res := range obj.Spec.Resources {
		if f.of[i], err = compile(res.Filter); err != nil {
			return f, fmt.Errorf("invalid filter expression for resources[%d] (kind=%q, name=%q): %w", i, res.Kind, res.Name, err)
		}
	}
	return f, nil
}

// follow watches the Receiver's Secret: a change of it is a step. known is false until it is known whether it is there.
func (r *receivers) follow(obj *notificationv1.Receiver) (known bool, err error) {
	id := receiverID(client.ObjectKeyFromObject(obj))
	_, known, err = r.live.Version(id, "Secret", obj.Namespace, obj.Spec.SecretRef.Name)
	r.live.References(id, []delivery.VarsRef{{Kind: "Secret", Name: obj.Spec.SecretRef.Name}})
	return known, err
}

func (r *receivers) token(ctx context.Context, obj *notificationv1.Receiver) (string, error) {
	name := types.NamespacedName{Namespace: obj.Namespace, Name: obj.Spec.SecretRef.Name}
	var secret corev1.Secret
	if err := r.reader.Get(ctx, name, &secret); err != nil {
		return "", fmt.Errorf("unable to read token from secret '%s' error: %w", name, err)
	}
	return dialect.ReceiverToken(name.String(), secret.Data)
}

// finish sets the status and tells what is news.
func (r *receivers) finish(obj *notificationv1.Receiver, out delivery.Outcome, path string, n next) next {
	out.Handled = obj.Annotations[meta.ReconcileRequestAnnotation]
	switch {
	case out.Phase == delivery.Ready:
		if !dialect.ReceiverReady(obj) || obj.Status.WebhookPath != path || obj.Status.ObservedGeneration != obj.Generation ||
			out.Handled != obj.Status.LastHandledReconcileAt {
			n.events = []event{{reason: out.Reason, message: fmt.Sprintf("Reconciliation finished, next run in %s", obj.GetInterval())}}
		}
	case !told(obj.Status.Conditions, out):
		reason := out.Reason
		if out.Phase == delivery.Failing {
			reason = meta.FailedReason
		}
		n.events = []event{{warning: true, reason: reason, message: out.Message}}
	}
	obj.Status = dialect.ReceiverStatus(obj, out, path, r.now())
	return n
}

// receiverWorkers are steps of Receivers at once: each reads a Secret.
const receiverWorkers = 4

// serveReceivers sets the kind up, in a cluster that has it: one that was prepared for an older version goes on without.
func (c *Controller) serveReceivers(ctx context.Context, opts Options, s *shell[*notificationv1.Receiver]) error {
	if opts.LeaveReceivers {
		return nil
	}
	gvk := notificationv1.GroupVersion.WithKind(notificationv1.ReceiverKind)
	if _, err := opts.Cluster.Mapper().RESTMapping(gvk.GroupKind(), gvk.Version); apimeta.IsNoMatchError(err) {
		opts.Log.Warn("webhooks are not served: the cluster lacks the kind Receiver (hint: kubectl apply -f config/crd, then start again)")
		return nil
	} else if err != nil {
		return fmt.Errorf("look up %s: %w", gvk.Kind, err)
	}
	if err := c.mgr.GetFieldIndexer().IndexField(ctx, &notificationv1.Receiver{}, pathIndex, indexPath); err != nil {
		return fmt.Errorf("index Receivers: %w", err)
	}
	c.receivers = &receivers{
		cache: c.mgr.GetClient(), reader: c.mgr.GetAPIReader(), client: c.mgr.GetClient(), live: c.targets.home.engine.Live, recorder: s.recorder,
		now: opts.Now, life: ctx, log: opts.Log, served: opts.Webhooks, policy: opts.Policy, wake: s.enqueue, gate: hook.NewGate(), working: make(chan struct{}, hooksAtOnce),
	}
	s.kind = c.receivers
	return setup(c.mgr, "receiver", s, receiverWorkers, nil)
}

// receiversOf gives the Receivers for the numbers.
func (c *Controller) receiversOf(ctx context.Context) []telemetry.Resource {
	if c.receivers == nil {
		return nil
	}
	var list notificationv1.ReceiverList
	if c.mgr.GetCache().List(ctx, &list, client.UnsafeDisableDeepCopy) != nil {
		return nil // one that cannot be read yet has nothing
	}
	out := make([]telemetry.Resource, len(list.Items))
	for i := range list.Items {
		out[i] = resourceOf(&list.Items[i], notificationv1.ReceiverKind, list.Items[i].Spec.Suspend)
	}
	return out
}
