package controller

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"strings"
	"sync"
	"time"

	helmv2 "github.com/fluxcd/helm-controller/api/v2"
	kustomizev1 "github.com/fluxcd/kustomize-controller/api/v1"
	notificationv1beta3 "github.com/fluxcd/notification-controller/api/v1beta3"
	eventv1 "github.com/fluxcd/pkg/apis/event/v1beta1"
	fluxmeta "github.com/fluxcd/pkg/apis/meta"
	sourcev1 "github.com/fluxcd/source-controller/api/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/apiutil"
	"sigs.k8s.io/controller-runtime/pkg/manager"

	"keelson.dev/keelson/internal/delivery"
	"keelson.dev/keelson/internal/notify"
	"keelson.dev/keelson/internal/notify/send"
	"keelson.dev/keelson/internal/redact"
	"keelson.dev/keelson/internal/telemetry"
)

// alerts tell people what Alerts ask for. What happens comes in through tell; one goroutine, which is run, decides; a few
// others send.
type alerts struct {
	cache    client.Reader
	reader   client.Reader // uncached: Secrets are not kept in memory
	scheme   *runtime.Scheme
	recorder *recorder
	policy   delivery.Policy
	now      func() time.Time
	log      *slog.Logger
	instance string
	sender   send.Sender

	in chan notify.News

	// Only run's from here.
	queue      *notify.Queue
	seen       *notify.Seen
	complaints *notify.Seen // about what could not be sent
	rules      map[types.UID]rule
}

// rule is a compiled Alert, and of which generation.
type rule struct {
	*notify.Rule
	generation int64
}

const (
	newsWaiting   = 4096 // events between the steps and run; more are dropped
	sendsAtOnce   = 32   // a few of each namespace: [notify.Limits]
	secretTimeout = 10 * time.Second
	idle          = 10 * time.Minute // forget what is not needed
)

const (
	dispatchFailed  = "NotificationDispatchFailed"
	dispatchDropped = "NotificationDropped"
	invalidConfig   = "InvalidConfig"
)

// tell takes an event in. It never waits.
func (a *alerts) tell(obj client.Object, e event) {
	n, ok := a.newsOf(obj, e)
	if !ok {
		return
	}
	select {
	case a.in <- n:
	default:
		telemetry.Notifications.WithLabelValues("", telemetry.Dropped).Inc()
	}
}

// newsOf makes an event of Flux's kind; false: nobody can ask for it.
func (a *alerts) newsOf(obj client.Object, e event) (notify.News, bool) {
	gvk, err := apiutil.GVKForObject(obj, a.scheme)
	if err != nil || gvk.Kind == notificationv1beta3.AlertKind || gvk.Kind == notificationv1beta3.ProviderKind { // those of alerts would never end
		return notify.News{}, false
	}
	metadata := map[string]string{}
	for k, v := range obj.GetAnnotations() {
		if strings.HasPrefix(k, eventv1.Group+"/") {
			metadata[k] = v
		}
	}
	revision, origin := appliedOf(obj)
	if r := e.revision.String(); r != "" && r != revision {
		revision, origin = r, ""
	} else if e.revision.Name != "" && r == "" {
		revision = e.revision.Name
	}
	for k, v := range map[string]string{eventv1.MetaRevisionKey: revision, eventv1.MetaOriginRevisionKey: origin} {
		if v != "" {
			metadata[gvk.Group+"/"+k] = v
		}
	}
	if e.aside {
		metadata[gvk.Group+"/"+eventv1.MetaCommitStatusKey] = eventv1.MetaCommitStatusUpdateValue
	}
	severity := eventv1.EventSeverityInfo
	if e.warning {
		severity = eventv1.EventSeverityError
	}
	version, kind := gvk.ToAPIVersionAndKind()
	return notify.News{Labels: obj.GetLabels(), Event: eventv1.Event{
		InvolvedObject: corev1.ObjectReference{
			APIVersion: version, Kind: kind, Namespace: obj.GetNamespace(), Name: obj.GetName(), UID: obj.GetUID(), ResourceVersion: obj.GetResourceVersion(),
		},
		Severity: severity, Timestamp: metav1.NewTime(a.now()), Reason: e.reason, Message: redact.Text(boundedTo(e.message, notify.MaxMessage)),
		Metadata: metadata, ReportingController: notify.Controller, ReportingInstance: a.instance,
	}}, true
}

// appliedOf gives the revision that an object's status tells of, and that of what it was made from.
func appliedOf(obj client.Object) (revision, origin string) {
	switch obj := obj.(type) {
	case *kustomizev1.Kustomization:
		return obj.Status.LastAppliedRevision, obj.Status.LastAppliedOriginRevision
	case *helmv2.HelmRelease:
		return obj.Status.LastAttemptedRevision, ""
	case sourcev1.Source:
		if art := obj.GetArtifact(); art != nil {
			return art.Revision, ""
		}
	}
	return "", ""
}

// run decides and has others send, until ctx ends.
func (a *alerts) run(ctx context.Context) error {
	ends := make(chan sent, sendsAtOnce) // so many that no sender ever waits
	working := 0
	timer := time.NewTimer(idle)
	defer timer.Stop()
	for {
		wait := idle
		for working < sendsAtOnce {
			job, d, ok := a.queue.Take(a.now())
			if !ok {
				if d >= 0 {
					wait = min(wait, d)
				}
				break
			}
			working++
			go func() { ends <- a.send(ctx, job) }()
		}
		timer.Reset(wait)
		select {
		case <-ctx.Done():
			return nil
		case n := <-a.in:
			a.take(ctx, n)
		case s := <-ends:
			working--
			a.settle(s)
		case <-timer.C:
			a.queue.Rest(a.now())
		}
	}
}

// take finds out who wants an event told.
func (a *alerts) take(ctx context.Context, n notify.News) {
	var list notificationv1beta3.AlertList
	if err := a.cache.List(ctx, &list, client.UnsafeDisableDeepCopy); err != nil {
		if ctx.Err() == nil {
			a.log.Warn("look for Alerts", "error", err)
		}
		return
	}
	if len(a.rules) > 2*len(list.Items) {
		clear(a.rules)
	}
	for i := range list.Items {
		alert := &list.Items[i]
		r := a.rules[alert.UID]
		if r.Rule == nil || r.generation != alert.Generation {
			r = rule{notify.Compile(alert, a.policy), alert.Generation}
			a.rules[alert.UID] = r
		}
		if !r.Matches(n) || !a.seen.News(string(alert.UID), n, a.now()) {
			continue
		}
		job := notify.Job{
			Alert: client.ObjectKeyFromObject(alert), Provider: types.NamespacedName{Namespace: alert.Namespace, Name: alert.Spec.ProviderRef.Name},
			News: n, Event: r.Event(n),
		}
		if dropped := a.queue.Add(job, a.now()); dropped != nil {
			telemetry.Notifications.WithLabelValues("", telemetry.Dropped).Inc()
			a.complain(*dropped, dispatchDropped, "there are too many to send to Provider "+dropped.Provider.Name+": some are dropped")
		}
	}
}

// sent is what an attempt has come to.
type sent struct {
	job    notify.Job
	kind   string // of the Provider; empty: it is not known
	result notify.Result
	done   int  // requests that were taken
	silent bool // nobody wants it any more, or it is nothing for this Provider
}

// send makes one attempt. What it needs it reads now: a Provider that was mended counts for the next attempt.
func (a *alerts) send(ctx context.Context, j notify.Job) sent {
	s := sent{job: j, done: j.Done}
	var alert notificationv1beta3.Alert
	if err := a.cache.Get(ctx, j.Alert, &alert); err != nil || alert.Spec.Suspend {
		s.silent = true
		return s
	}
	var provider notificationv1beta3.Provider
	if err := a.cache.Get(ctx, j.Provider, &provider); err != nil {
		s.result = notify.Result{Err: errors.New("there is no such Provider in the Alert's namespace"), Retry: true}
		return s
	}
	s.kind = provider.Spec.Type
	if provider.Spec.Suspend {
		s.silent = true
		return s
	}
	if err := notify.Check(&provider); err != nil {
		s.result.Err = err
		return s
	}
	secrets, err := a.secrets(ctx, &provider)
	if err != nil {
		s.result = notify.Result{Err: err, Retry: true}
		return s
	}
	target, err := notify.Resolve(&provider, secrets)
	if err != nil {
		s.result = notify.Result{Err: err, Retry: true} // the Secret may be put right
		return s
	}
	requests, err := target.Requests(&alert, j.News, j.Event)
	s.result.Err, s.silent = err, err == nil && len(requests) == 0
	for ; s.done < len(requests) && s.result.Err == nil; s.done++ {
		if s.result = a.sender.Send(ctx, target, requests[s.done]); s.result.Err != nil {
			break
		}
	}
	return s
}

// secrets reads the Secrets that a Provider names.
func (a *alerts) secrets(ctx context.Context, p *notificationv1beta3.Provider) (out notify.Secrets, err error) {
	ctx, cancel := context.WithTimeout(ctx, secretTimeout)
	defer cancel()
	for _, s := range []struct {
		field string
		ref   *fluxmeta.LocalObjectReference
		into  *map[string][]byte
	}{
		{"secretRef", p.Spec.SecretRef, &out.Auth}, {"proxySecretRef", p.Spec.ProxySecretRef, &out.Proxy}, {"certSecretRef", p.Spec.CertSecretRef, &out.Cert},
	} {
		if s.ref == nil {
			continue
		}
		var secret corev1.Secret
		switch err := a.reader.Get(ctx, types.NamespacedName{Namespace: p.Namespace, Name: s.ref.Name}, &secret); {
		case apierrors.IsNotFound(err):
			return out, fmt.Errorf("there is no Secret %s (spec.%s)", s.ref.Name, s.field)
		case err != nil:
			return out, fmt.Errorf("read the Secret %s (spec.%s): %w", s.ref.Name, s.field, err)
		}
		if *s.into = secret.Data; secret.Data == nil {
			*s.into = map[string][]byte{}
		}
	}
	return out, nil
}

// settle notes what an attempt has come to, and tells of one that failed.
func (a *alerts) settle(s sent) {
	if s.silent {
		s.result = notify.Result{}
	}
	again := a.queue.Settle(s.job, s.result, s.done, a.now())
	switch {
	case s.silent:
	case s.result.Err == nil:
		telemetry.Notifications.WithLabelValues(s.kind, telemetry.Sent).Inc()
		a.complaints.News(s.job.Alert.String(), complaint(s.job, false, fluxmeta.SucceededReason, ""), a.now())
	case again.IsZero():
		telemetry.Notifications.WithLabelValues(s.kind, telemetry.GivenUp).Inc()
		a.complain(s.job, dispatchFailed, a.failure(s)+"; it is not tried again")
	default:
		telemetry.Notifications.WithLabelValues(s.kind, telemetry.Failed).Inc()
		a.complain(s.job, dispatchFailed, a.failure(s)+"; it is tried again")
	}
}

func (a *alerts) failure(s sent) string {
	return fmt.Sprintf("failed to send notification for %s to Provider %s: %s", s.job.News.Object(), s.job.Provider.Name, redact.Text(s.result.Err.Error()))
}

// complaint is news about an Alert.
func complaint(j notify.Job, bad bool, reason, message string) notify.News {
	e := eventv1.Event{InvolvedObject: corev1.ObjectReference{Kind: notificationv1beta3.AlertKind, Namespace: j.Alert.Namespace, Name: j.Alert.Name}, Reason: reason, Message: message}
	if e.Severity = eventv1.EventSeverityInfo; bad {
		e.Severity = eventv1.EventSeverityError
	}
	return notify.News{Event: e}
}

// complain writes an event about an Alert; the same one not again before long.
func (a *alerts) complain(j notify.Job, reason, message string) {
	if !a.complaints.News(j.Alert.String(), complaint(j, true, reason, message), a.now()) {
		return
	}
	a.log.Warn("notification", "alert", j.Alert.String(), "message", message)
	var alert notificationv1beta3.Alert
	if a.cache.Get(context.Background(), j.Alert, &alert) == nil { // from memory; one that is gone needs no event
		a.recorder.record(&alert, event{warning: true, reason: reason, message: message})
	}
}

// checked tells by events what is wrong with Alerts and Providers, once per generation: neither has a status.
type checked[T client.Object] struct {
	made  func() T
	check func(obj T) []string

	mu   sync.Mutex
	told map[types.NamespacedName]toldOf
}

type toldOf struct {
	uid        types.UID
	generation int64
}

func (k *checked[T]) empty() T                                       { return k.made() }
func (k *checked[T]) about(ctx context.Context, _ T) context.Context { return ctx }
func (k *checked[T]) remove(context.Context, T) (removal, error)     { return removal{done: true}, nil }

func (k *checked[T]) forget(name types.NamespacedName) {
	k.mu.Lock()
	defer k.mu.Unlock()
	delete(k.told, name)
}

func (k *checked[T]) step(_ context.Context, obj T, _ pen) (n next) {
	k.mu.Lock()
	defer k.mu.Unlock()
	name, now := client.ObjectKeyFromObject(obj), toldOf{obj.GetUID(), obj.GetGeneration()}
	if k.told[name] == now {
		return n
	}
	k.told[name] = now
	for _, p := range k.check(obj) {
		n.events = append(n.events, event{warning: true, reason: invalidConfig, message: p})
	}
	return n
}

// serveAlerts makes what serves Alerts and Providers, in a cluster that has the kinds.
func (c *Controller) serveAlerts(opts Options, rec *recorder) error {
	for _, obj := range []client.Object{&notificationv1beta3.Alert{}, &notificationv1beta3.Provider{}} {
		if ok, err := has(opts.Cluster, c.mgr.GetScheme(), obj); err != nil {
			return err
		} else if !ok {
			opts.Log.Warn("no notifications are sent: the cluster lacks the kinds Alert and Provider (hint: kubectl apply -f config/crd, then start again)")
			return nil
		}
	}
	host, _ := os.Hostname() // without a name there is none in messages
	a := &alerts{
		cache: c.mgr.GetClient(), reader: c.mgr.GetAPIReader(), scheme: c.mgr.GetScheme(), recorder: rec, policy: opts.Policy, now: opts.Now, log: opts.Log,
		instance: host, sender: send.Sender{Now: opts.Now}, in: make(chan notify.News, newsWaiting), queue: notify.NewQueue(notify.Limits{}),
		seen: notify.NewSeen(), complaints: notify.NewSeen(), rules: map[types.UID]rule{},
	}
	rec.alerts = a
	if err := c.mgr.Add(manager.RunnableFunc(a.run)); err != nil {
		return fmt.Errorf("add notifications: %w", err)
	}
	err := setup(c.mgr, "alert", &shell[*notificationv1beta3.Alert]{
		client: c.mgr.GetClient(), recorder: rec, log: opts.Log, written: map[types.NamespacedName]*notificationv1beta3.Alert{},
		kind: &checked[*notificationv1beta3.Alert]{
			made: func() *notificationv1beta3.Alert { return &notificationv1beta3.Alert{} }, told: map[types.NamespacedName]toldOf{},
			check: func(obj *notificationv1beta3.Alert) []string { return notify.Compile(obj, opts.Policy).Problems },
		},
	}, 1, nil)
	if err != nil {
		return err
	}
	return setup(c.mgr, "provider", &shell[*notificationv1beta3.Provider]{
		client: c.mgr.GetClient(), recorder: rec, log: opts.Log, written: map[types.NamespacedName]*notificationv1beta3.Provider{},
		kind: &checked[*notificationv1beta3.Provider]{
			made: func() *notificationv1beta3.Provider { return &notificationv1beta3.Provider{} }, told: map[types.NamespacedName]toldOf{},
			check: func(obj *notificationv1beta3.Provider) []string {
				if err := notify.Check(obj); err != nil {
					return []string{err.Error()}
				}
				return nil
			},
		},
	}, 1, nil)
}
