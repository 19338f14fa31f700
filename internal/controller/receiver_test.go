package controller_test

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"time"

	notificationv1 "github.com/fluxcd/notification-controller/api/v1"
	sourcev1 "github.com/fluxcd/source-controller/api/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

// receiver gives a Receiver as it is now.
func (w *world) receiver(name string) *notificationv1.Receiver {
	w.Helper()
	r := &notificationv1.Receiver{}
	w.must(w.client.Get(w.ctx, client.ObjectKey{Namespace: w.ns, Name: name}, r))
	return r
}

// served waits until a Receiver has a webhook, and the controller's cache knows it; it gives the path.
func (w *world) served(name, token string) string {
	w.Helper()
	r := &notificationv1.Receiver{ObjectMeta: w.named(name)}
	want := r.GetWebhookPath(token)
	w.eventually("webhook of "+name, func() error {
		w.must(w.client.Get(w.ctx, client.ObjectKeyFromObject(r), r))
		if r.Status.WebhookPath != want {
			return fmt.Errorf("the path is %q", r.Status.WebhookPath)
		}
		return nil
	})
	w.conditionOf(r, metav1.ConditionTrue, "Succeeded", "Receiver initialized for path: "+want)
	return want
}

// post sends a request to a webhook; headers are "Name: value". A webhook that the cache does not know yet is tried again.
func (w *world) post(path, body string, headers ...string) int {
	w.Helper()
	code := 0
	for deadline := time.Now().Add(limit); time.Now().Before(deadline); time.Sleep(10 * time.Millisecond) {
		r := httptest.NewRequest(http.MethodPost, path, strings.NewReader(body))
		for _, line := range headers {
			name, value, _ := strings.Cut(line, ": ")
			r.Header.Set(name, value)
		}
		answer := httptest.NewRecorder()
		running.hooks.ServeHTTP(answer, r)
		if code = answer.Code; code != 404 && code != 503 {
			break
		}
	}
	return code
}

// once sends a request without trying again.
func once(path, body string, headers ...string) int {
	r := httptest.NewRequest(http.MethodPost, path, strings.NewReader(body))
	for _, line := range headers {
		name, value, _ := strings.Cut(line, ": ")
		r.Header.Set(name, value)
	}
	answer := httptest.NewRecorder()
	running.hooks.ServeHTTP(answer, r)
	return answer.Code
}

func githubSigned(token, body string) string {
	mac := hmac.New(sha256.New, []byte(token))
	mac.Write([]byte(body))
	return "X-Hub-Signature-256: sha256=" + hex.EncodeToString(mac.Sum(nil))
}

// requested gives when a source was last asked for.
func (w *world) requested(name string) string {
	w.Helper()
	var g sourcev1.GitRepository
	w.must(w.client.Get(w.ctx, client.ObjectKey{Namespace: w.ns, Name: name}, &g))
	return g.Annotations["reconcile.fluxcd.io/requestedAt"]
}

const githubJSON, githubPush = "Content-Type: application/json", "X-GitHub-Event: push"

func TestReceiverDeliversAPush(t *testing.T) {
	w := newWorld(t)
	w.push(map[string]string{"app/a.yaml": w.configMap("a", "1")})
	w.app("app", "")
	w.value("a", "1")
	w.apply(`
apiVersion: notification.toolkit.fluxcd.io/v1
kind: Receiver
metadata: {name: github}
spec:
  type: github
  events: [push]
  secretRef: {name: hook}
  resources: [{kind: GitRepository, name: repo}]
`)
	w.eventually("Receiver without a Secret", func() error {
		for _, c := range w.receiver("github").Status.Conditions {
			if c.Type == "Ready" && c.Reason == "TokenNotFound" {
				return nil
			}
		}
		return errors.New("it is not TokenNotFound")
	})
	w.event("github", "Failed", "unable to read token from secret", "not found")
	w.secret("hook", "s3cr3t")
	path := w.served("github", "s3cr3t")
	w.event("github", "Succeeded: Reconciliation finished, next run in 10m0s")
	if r := w.receiver("github"); !slices.Contains(r.Finalizers, notificationv1.NotificationFinalizer) || r.Status.ObservedGeneration != 1 {
		t.Errorf("finalizers %v, observed generation %d", r.Finalizers, r.Status.ObservedGeneration)
	}

	w.commit(map[string]string{"app/a.yaml": w.configMap("a", "2")})
	body := `{"ref":"refs/heads/main"}`
	before := w.requested("repo")
	for name, code := range map[string]int{
		"forged":        w.post(path, body, githubJSON, githubPush, githubSigned("guess", body)),
		"unsigned":      w.post(path, body, githubJSON, githubPush),
		"another event": w.post(path, body, githubJSON, "X-GitHub-Event: issues", githubSigned("s3cr3t", body)),
	} {
		if code != 400 {
			t.Errorf("%s: %d", name, code)
		}
	}
	if code := once("/hook/"+strings.Repeat("0", 64), body, githubJSON, githubSigned("s3cr3t", body)); code != 404 {
		t.Errorf("unknown path: %d", code)
	}
	if got := w.requested("repo"); got != before {
		t.Errorf("a refused webhook has asked for a reconciliation at %s", got)
	}
	delivery := []string{githubJSON, githubPush, githubSigned("s3cr3t", body), "X-GitHub-Delivery: 1"}
	if code := w.post(path, body, delivery...); code != 200 {
		t.Fatalf("a good webhook: %d", code)
	}
	w.value("a", "2")

	before = w.requested("repo")
	if code := w.post(path, body, delivery...); code != 200 {
		t.Errorf("a replay: %d", code)
	}
	time.Sleep(1500 * time.Millisecond) // longer than a request can be put off
	if got := w.requested("repo"); got != before {
		t.Errorf("a replay has asked for a reconciliation at %s", got)
	}

	w.secret("hook", "an0ther")
	if next := w.served("github", "an0ther"); next == path {
		t.Error("the path outlives its token")
	}
	if code := once(path, body, delivery...); code != 404 {
		t.Errorf("the old path: %d", code)
	}
	w.apply(`
apiVersion: notification.toolkit.fluxcd.io/v1
kind: Receiver
metadata: {name: github}
spec: {type: github, suspend: true, secretRef: {name: hook}, resources: [{kind: GitRepository, name: repo}]}
`)
	w.eventually("suspended webhook", func() error {
		if code := once(w.receiver("github").Status.WebhookPath, body, githubJSON, githubPush, githubSigned("an0ther", body), "X-GitHub-Delivery: 2"); code != 503 {
			return fmt.Errorf("it answers %d", code)
		}
		return nil
	})
	w.must(w.client.Delete(w.ctx, w.receiver("github")))
	w.eventually("deletion", func() error {
		err := w.client.Get(w.ctx, client.ObjectKey{Namespace: w.ns, Name: "github"}, &notificationv1.Receiver{})
		if err == nil {
			return errors.New("it is still there")
		}
		return client.IgnoreNotFound(err)
	})
}

func (w *world) secret(name, token string) {
	w.Helper()
	w.apply(fmt.Sprintf("apiVersion: v1\nkind: Secret\nmetadata: {name: %s}\nstringData: {token: %s}\n", name, token))
}

// A Receiver asks for what its references, labels and filters select, in its own namespace and in others, and for what it can
// where something is missing.
func TestReceiverSelects(t *testing.T) {
	w := newWorld(t)
	w.secret("hook", "t0ken")
	for _, name := range []string{"shop-a", "shop-b", "blog"} {
		group, _, _ := strings.Cut(name, "-")
		w.apply(fmt.Sprintf("apiVersion: source.toolkit.fluxcd.io/v1\nkind: GitRepository\nmetadata: {name: %s, labels: {group: %s}}\nspec: {interval: 1h, suspend: true, url: %q}\n",
			name, group, w.url()))
	}
	w.apply(`
apiVersion: notification.toolkit.fluxcd.io/v1
kind: Receiver
metadata: {name: labels}
spec:
  type: generic
  secretRef: {name: hook}
  resourceFilter: res.metadata.name.endsWith(req.which) && res.metadata.namespace == '$ns'
  resources: [{kind: GitRepository, name: "*", matchLabels: {group: shop}}]
---
apiVersion: notification.toolkit.fluxcd.io/v1
kind: Receiver
metadata: {name: broken}
spec:
  type: generic
  secretRef: {name: hook}
  resources:
  - {kind: ImageRepository, name: nothing}
  - {kind: GitRepository, name: nobody}
  - {kind: Kustomization, name: nobody}
  - {apiVersion: source.toolkit.fluxcd.io/v1, kind: GitRepository, name: blog, namespace: $ns}
`)
	path := w.served("labels", "t0ken")
	if code := w.post(path, `{"which":"-b"}`, githubJSON); code != 200 {
		t.Errorf("by labels: %d", code)
	}
	if a, b := w.requested("shop-a"), w.requested("shop-b"); a != "" || b == "" || w.requested("blog") != "" {
		t.Errorf("shop-a %q, shop-b %q", a, b)
	}
	if code := w.post(path, `{"which":`, githubJSON); code != 500 {
		t.Errorf("a body that the filter cannot read: %d", code)
	}
	if code := w.post(path, `{}`, githubJSON); code != 500 {
		t.Errorf("a body without what the filter reads: %d", code)
	}
	w.event("labels", "Failed", "no such key: which")

	if code := w.post(w.served("broken", "t0ken"), ""); code != 500 {
		t.Errorf("with something missing: %d", code)
	}
	w.event("broken", "Failed", `no matches for kind "ImageRepository"`, `"nobody" not found`, `apiVersion must be specified for kind "Kustomization"`)
	if w.requested("blog") == "" {
		t.Error("what is there was not asked for")
	}
}

// Many webhooks in a short time are few reconciliations, and the last one is never lost.
func TestReceiverJoinsWebhooks(t *testing.T) {
	w := newWorld(t)
	w.secret("hook", "t0ken")
	w.apply(`
apiVersion: notification.toolkit.fluxcd.io/v1
kind: Receiver
metadata: {name: many}
spec: {type: generic, secretRef: {name: hook}, resources: [{kind: GitRepository, name: repo}]}
`)
	path := w.served("many", "t0ken")
	if code := w.post(path, "0"); code != 200 { // the cache knows it now
		t.Fatal(code)
	}
	_, from := requests(t, 0)
	began := time.Now()
	for i := range 30 {
		if code := once(path, fmt.Sprint(i)); code != 200 {
			t.Errorf("webhook %d: %d", i, code)
		}
	}
	last := time.Now()
	took := last.Sub(began)
	w.eventually("the last reconciliation", func() error {
		at, err := time.Parse(time.RFC3339Nano, w.requested("repo"))
		if err == nil && at.Before(last) {
			err = fmt.Errorf("it was asked for at %s, before %s", at, last)
		}
		return err
	})
	all, _ := requests(t, from)
	patches := 0
	for _, r := range all {
		if r.Verb == "patch" && r.ObjectRef.Resource == "gitrepositories" && r.ObjectRef.Namespace == w.ns && r.ObjectRef.Subresource == "" {
			patches++
		}
	}
	if most := 2 + int(took/time.Second); patches < 1 || patches > most {
		t.Errorf("30 webhooks in %s are %d requests, want 1 to %d", took, patches, most)
	}
}

func TestReceiverThatCannotBeServed(t *testing.T) {
	w := newWorld(t)
	w.secret("hook", "t0ken")
	for name, test := range map[string]struct{ spec, reason, message string }{
		"gcr":    {"type: gcr", "FieldsNotSupported", "spec.type gcr: not supported yet"},
		"filter": {"type: generic, resourceFilter: 'req.x =='", "InvalidCELExpression", "invalid resourceFilter expression"},
		"bool":   {"type: generic, resourceFilter: 'req.x'", "InvalidCELExpression", "not bool"},
	} {
		w.apply(fmt.Sprintf("apiVersion: notification.toolkit.fluxcd.io/v1\nkind: Receiver\nmetadata: {name: %s}\nspec: {%s, secretRef: {name: hook}, resources: [{kind: GitRepository, name: repo}]}\n", name, test.spec))
		r := &notificationv1.Receiver{ObjectMeta: w.named(name)}
		w.conditionOf(r, metav1.ConditionFalse, test.reason, test.message)
		w.event(name, test.reason, test.message)
		if r.Status.WebhookPath != "" {
			t.Errorf("%s has the path %s", name, r.Status.WebhookPath)
		}
	}
}
