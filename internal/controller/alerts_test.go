package controller_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	notificationv1beta3 "github.com/fluxcd/notification-controller/api/v1beta3"
	eventv1 "github.com/fluxcd/pkg/apis/event/v1beta1"
	corev1 "k8s.io/api/core/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

// inbox is a receiver of webhooks. It keeps what it was sent; answer, where it is set, answers.
type inbox struct {
	*httptest.Server
	mu     sync.Mutex
	got    []eventv1.Event
	raw    []string // METHOD PATH BODY
	answer func(n int, w http.ResponseWriter, r *http.Request)
}

func newInbox(t *testing.T, answer func(n int, w http.ResponseWriter, r *http.Request)) *inbox {
	h := &inbox{answer: answer}
	h.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		b, _ := io.ReadAll(r.Body)
		h.mu.Lock()
		var e eventv1.Event
		_ = json.Unmarshal(b, &e)
		h.got = append(h.got, e)
		h.raw = append(h.raw, r.Method+" "+r.URL.Path+" "+string(b))
		n := len(h.got)
		h.mu.Unlock()
		if h.answer != nil {
			h.answer(n, w, r)
		}
	}))
	t.Cleanup(h.Close)
	return h
}

// lines gives what came in, shortly.
func (h *inbox) lines() []string {
	h.mu.Lock()
	defer h.mu.Unlock()
	var out []string
	for _, e := range h.got {
		out = append(out, fmt.Sprintf("%s %s/%s %s: %s", e.Severity, e.InvolvedObject.Kind, e.InvolvedObject.Name, e.Reason, e.Message))
	}
	return out
}

// with gives the events whose line has every part.
func (h *inbox) with(parts ...string) (found []eventv1.Event) {
	lines := h.lines()
	h.mu.Lock()
	defer h.mu.Unlock()
next:
	for i, line := range lines {
		for _, p := range parts {
			if !strings.Contains(line, p) {
				continue next
			}
		}
		found = append(found, h.got[i])
	}
	return found
}

// comes waits for an event.
func (w *world) comes(h *inbox, parts ...string) eventv1.Event {
	w.Helper()
	var found []eventv1.Event
	w.eventually("notification", func() error {
		if found = h.with(parts...); len(found) == 0 {
			return fmt.Errorf("none of %q has all of %q", h.lines(), parts)
		}
		return nil
	})
	return found[0]
}

// alerts makes a Provider that sends to an address, and an Alert about all Kustomizations.
func (w *world) alerts(name, kind, address, extra string) {
	w.Helper()
	w.apply(fmt.Sprintf(`
apiVersion: notification.toolkit.fluxcd.io/v1beta3
kind: Provider
metadata: {name: %[1]s}
spec: {type: %[2]s, address: "%[3]s", channel: general, secretRef: {name: %[1]s}}
---
apiVersion: notification.toolkit.fluxcd.io/v1beta3
kind: Alert
metadata: {name: %[1]s}
spec:
  providerRef: {name: %[1]s}
  eventSources: [{kind: Kustomization, name: '*'}]
%[4]s`, name, kind, address, extra))
}

func (w *world) secretOf(name string, data map[string]string) {
	w.Helper()
	w.must(w.client.Create(w.ctx, &corev1.Secret{ObjectMeta: w.named(name), StringData: data}))
}

// A failure reaches a webhook once, with what is needed to know which commit it was; then drift that was repaired; and that it is well.
func TestAlerts(t *testing.T) {
	w := newWorld(t)
	h := newInbox(t, nil)
	w.secretOf("hook", map[string]string{"token": "s3cr3t-key"})
	w.alerts("hook", "generic-hmac", h.URL+"/in", "  eventMetadata: {cluster: test}\n")
	forge := newInbox(t, nil)
	w.secretOf("forge", map[string]string{"token": "s3cr3t-key"})
	w.alerts("forge", "gitea", forge.URL+"/shop/web", "")
	w.app("app", "")
	w.apply(strings.ReplaceAll(`
apiVersion: kustomize.toolkit.fluxcd.io/v1
kind: Kustomization
metadata: {name: app, annotations: {event.toolkit.fluxcd.io/team: shop}}
spec: {interval: 1h, retryInterval: 2s, timeout: 20s, path: ./app, prune: true, sourceRef: {kind: GitRepository, name: repo}}
`, "$", ""))
	rev := w.push(map[string]string{"app/a.yaml": w.configMap("a", "1")})
	w.ready("app", rev)
	e := w.comes(h, "info Kustomization/app Progressing", "ConfigMap/"+w.ns+"/a created")
	if e.Metadata["revision"] != rev || e.Metadata["cluster"] != "test" || e.Metadata["team"] != "shop" || e.ReportingController != "keelson" ||
		e.InvolvedObject.Namespace != w.ns || e.InvolvedObject.UID != w.kustomization("app").UID || e.InvolvedObject.APIVersion != "kustomize.toolkit.fluxcd.io/v1" {
		t.Errorf("event %+v", e)
	}
	commit := w.head
	w.eventually("status of the commit", func() error { return forge.said("/statuses/"+commit, `"state":"success"`) })

	bad := w.push(map[string]string{"app/a.yaml": "a: [\n"})
	e = w.comes(h, "error Kustomization/app BuildFailed", "app/a.yaml")
	if e.Metadata["revision"] != bad {
		t.Errorf("the failed revision is %q, want %q", e.Metadata["revision"], bad)
	}
	broken := w.head
	w.eventually("status of the broken commit", func() error { return forge.said("/statuses/"+broken, `"state":"failure"`) })
	w.annotate("app", "reconcile.fluxcd.io/requestedAt", "again") // the same once more
	w.eventually("the request was handled", func() error {
		if got := w.kustomization("app").Status.LastHandledReconcileAt; got != "again" {
			return fmt.Errorf("handled: %q", got)
		}
		return nil
	})

	good := w.push(map[string]string{"app/a.yaml": w.configMap("a", "2")})
	w.ready("app", good)
	e = w.comes(h, "info Kustomization/app ReconciliationSucceeded", "Applied revision: "+good)
	if e.Metadata["revision"] != good {
		t.Errorf("the healed revision is %q, want %q", e.Metadata["revision"], good)
	}
	w.event("app", "ReconciliationSucceeded", good) // and kubectl shows it
	if n := len(h.with("error Kustomization/app")); n != 1 {
		t.Errorf("the failure came %d times: %q", n, h.lines())
	}
	if n := len(h.with(rev, "ReconciliationSucceeded")); n != 0 {
		t.Errorf("what is for commits only came too: %q", h.lines())
	}

	w.must(w.client.Delete(w.ctx, &corev1.ConfigMap{ObjectMeta: w.named("a")}))
	w.value("a", "2")
	w.comes(h, "info Kustomization/app DriftRepaired", "ConfigMap/"+w.ns+"/a repaired", "deleted in the cluster")
	for _, raw := range h.raw {
		if strings.Contains(raw, "s3cr3t-key") {
			t.Errorf("a secret was sent: %s", raw)
		}
	}
}

// said tells whether a request came that has every part.
func (h *inbox) said(parts ...string) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, raw := range h.raw {
		if !slices.ContainsFunc(parts, func(p string) bool { return !strings.Contains(raw, p) }) {
			return nil
		}
	}
	return fmt.Errorf("none of %q has all of %q", h.raw, parts)
}

// What fails is tried again, and told; another receiver and the delivery itself do not wait.
func TestAlertsThatCannotBeSent(t *testing.T) {
	w := newWorld(t)
	fails := newInbox(t, func(n int, rw http.ResponseWriter, _ *http.Request) {
		if n == 1 {
			rw.WriteHeader(http.StatusInternalServerError)
			_, _ = io.WriteString(rw, "no, s3cr3t-key")
		}
	})
	busy := newInbox(t, func(n int, rw http.ResponseWriter, _ *http.Request) {
		if n == 1 {
			rw.Header().Set("Retry-After", "3")
			rw.WriteHeader(http.StatusTooManyRequests)
		}
	})
	release := make(chan struct{})
	slow := newInbox(t, func(_ int, _ http.ResponseWriter, r *http.Request) {
		select {
		case <-release:
		case <-r.Context().Done():
		}
	})
	t.Cleanup(func() { close(release) }) // before the server waits for it
	refuses := newInbox(t, func(_ int, rw http.ResponseWriter, _ *http.Request) { rw.WriteHeader(http.StatusForbidden) })
	fine := newInbox(t, nil)
	for name, h := range map[string]*inbox{"fails": fails, "busy": busy, "slow": slow, "refuses": refuses, "fine": fine} {
		w.secretOf(name, map[string]string{"headers": "X-Key: s3cr3t-key\n"})
		w.alerts(name, "generic", h.URL+"/hidden-path", "  eventSeverity: error\n")
	}
	w.alerts("late", "generic", fine.URL, "  eventSeverity: error\n") // its Secret comes later
	first := w.push(map[string]string{"app/a.yaml": w.configMap("a", "0")})
	w.eventually("source", func() error { // so that the app does not fail for want of it
		c, err := w.sourceReady("repo")
		if err == nil && !strings.Contains(c.Message, first) {
			err = errors.New(c.Message)
		}
		return err
	})
	w.app("app", "")
	w.ready("app", first)
	began := time.Now()
	w.push(map[string]string{"app/a.yaml": "a: [\n"})
	w.comes(fine, "error Kustomization/app BuildFailed")
	w.event("fails", "NotificationDispatchFailed: failed to send notification for Kustomization/"+w.ns+"/app to Provider fails", "it answers 500: no, **REDACTED**; it is tried again")
	w.event("late", "NotificationDispatchFailed", "there is no Secret late (spec.secretRef); it is tried again")
	w.event("refuses", "NotificationDispatchFailed", "it answers 403; it is not tried again")
	w.event("busy", "NotificationDispatchFailed", "it answers 429; it is tried again")
	w.secretOf("late", map[string]string{"address": fine.URL})
	rev := w.push(map[string]string{"app/a.yaml": w.configMap("a", "1")})
	w.ready("app", rev) // while slow holds its request
	w.eventually("second attempts", func() error {
		if a, b, c := len(fails.lines()), len(busy.lines()), len(fine.lines()); a != 2 || b != 2 || c != 2 {
			return fmt.Errorf("%d %d %d", a, b, c)
		}
		return nil
	})
	if took := time.Since(began); took < 3*time.Second {
		t.Errorf("Retry-After was not kept: all after %s", took)
	}
	if n := len(refuses.lines()); n != 1 {
		t.Errorf("what was refused was sent %d times", n)
	}
	for _, name := range []string{"fails", "busy", "slow", "refuses", "late"} {
		for _, e := range w.events(name) {
			if strings.Contains(e, "hidden-path") || strings.Contains(e, "s3cr3t-key") {
				t.Errorf("the event tells a secret: %s", e)
			}
		}
	}
}

// What cannot be had is told where people look.
func TestAlertsThatAreWrong(t *testing.T) {
	w := newWorld(t)
	w.Cleanup(func() { // what is wrong with them is said again at each start, which other tests count
		for _, all := range []client.Object{&notificationv1beta3.Alert{}, &notificationv1beta3.Provider{}} {
			if err := w.client.DeleteAllOf(context.Background(), all, client.InNamespace(w.ns)); err != nil {
				t.Error(err)
			}
		}
	})
	w.alerts("wrong", "sentry", "https://x@sentry.example.com/1", "  exclusionList: ['(']\n  suspend: true\n")
	w.event("wrong", "InvalidConfig: spec.exclusionList[0]: error parsing regexp")
	w.event("wrong", "InvalidConfig: spec.type sentry: not supported; nothing is sent")
	w.apply(`
apiVersion: notification.toolkit.fluxcd.io/v1beta3
kind: Alert
metadata: {name: kinds}
spec:
  providerRef: {name: none}
  eventSources: [{kind: ImagePolicy, name: '*'}, {kind: Application, name: '*'}]
`)
	w.event("kinds", "InvalidConfig: spec.eventSources[0]: no events of the kind ImagePolicy come from Keelson")
	if got := w.events("kinds"); len(got) != 1 {
		t.Errorf("events: %q", got)
	}
}
