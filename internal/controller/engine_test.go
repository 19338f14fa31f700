package controller_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	kustomizev1 "github.com/fluxcd/kustomize-controller/api/v1"
	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	dto "github.com/prometheus/client_model/go"
	admissionv1 "k8s.io/api/admission/v1"
	admissionregistrationv1 "k8s.io/api/admissionregistration/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"keelson.dev/keelson/internal/telemetry"
)

// renders tells how often apps were rendered, and how often that was not needed, while f ran.
func renders(f func()) (rendered, remembered int) {
	read := func(outcome string) int { return int(testutil.ToFloat64(telemetry.Renders.WithLabelValues(outcome))) }
	r, m := read(telemetry.Rendered), read(telemetry.Remembered)
	f()
	return read(telemetry.Rendered) - r, read(telemetry.Remembered) - m
}

// TestUntouchedAppsAreNotRendered pushes commits to a repository of four apps: each renders the apps that it changes
// something for, and no other; all of them report it.
func TestUntouchedAppsAreNotRendered(t *testing.T) {
	w := newWorld(t)
	kustomization := func(resources string) string { return "resources: [" + resources + "]\n" }
	for _, app := range []string{"a", "b", "c"} {
		w.app(app, "  wait: true")
	}
	w.app("d", "  wait: true\n  dependsOn: [{name: c}]")
	all := []string{"a", "b", "c", "d"}
	rev := w.push(map[string]string{
		"base/kustomization.yaml": kustomization("cm.yaml"), "base/cm.yaml": "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: base}\ndata: {v: \"1\"}\n",
		"a/kustomization.yaml": "namePrefix: a-\nnamespace: " + w.ns + "\n" + kustomization("../base"),
		"b/kustomization.yaml": "namePrefix: b-\nnamespace: " + w.ns + "\n" + kustomization("../base"),
		"c/c.yaml":             w.configMap("c", "1"), "d/d.yaml": w.configMap("d", "1"),
	})
	for _, app := range all {
		w.ready(app, rev)
	}
	tests := []struct {
		name                 string
		files                map[string]string
		rendered, remembered int
	}{
		{"a file that no app uses", map[string]string{"README.md": "hello"}, 0, 4},
		{"one app's file", map[string]string{"c/c.yaml": w.configMap("c", "2")}, 1, 3},
		{"a base of two", map[string]string{"base/cm.yaml": "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: base}\ndata: {v: \"2\"}\n"}, 2, 2},
		{"a new file in a folder that is listed", map[string]string{"d/e.yaml": w.configMap("e", "1")}, 1, 3},
		{"a file beside those that are named", map[string]string{"base/other.yaml": w.configMap("other", "1")}, 0, 4},
		{"a name that was looked for in vain", map[string]string{"c/kustomization.yaml": kustomization("c.yaml")}, 1, 3},
		{"what is left out", map[string]string{".sourceignore": "d/e.yaml\n"}, 4, 0},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			defer w.in(t)()
			from := w.quiet()
			rendered, remembered := renders(func() {
				rev := w.push(tt.files)
				for _, app := range all {
					w.ready(app, rev)
				}
				w.quiet()
			})
			if rendered != tt.rendered || remembered != tt.remembered {
				t.Errorf("%d rendered and %d remembered, want %d and %d", rendered, remembered, tt.rendered, tt.remembered)
			}
			got, _ := requests(t, from)
			writes := map[string]int{}
			for _, r := range got {
				if r.ObjectRef.Resource == "kustomizations" {
					writes[r.ObjectRef.Name+" "+r.ObjectRef.Subresource]++
				}
			}
			for _, app := range all {
				if writes[app+" status"] != 1 {
					t.Errorf("%d status writes of %s, want 1", writes[app+" status"], app)
				}
			}
		})
	}
}

// TestRestartSendsNothing starts a second controller on what the first one left: it lists and watches, and nothing else.
func TestRestartSendsNothing(t *testing.T) {
	w := newWorld(t)
	w.apply("apiVersion: v1\nkind: Secret\nmetadata: {name: vars}\nstringData: {pass: swordfish}\n")
	files := map[string]string{}
	for i := range 5 {
		w.app(fmt.Sprintf("app%d", i), "  wait: true\n  postBuild: {substituteFrom: [{kind: Secret, name: vars}]}")
		files[fmt.Sprintf("app%d/a.yaml", i)] = w.configMap(fmt.Sprintf("c%d", i), "1")
	}
	files["app0/b.yaml"] = fmt.Sprintf("apiVersion: v1\nkind: ConfigMap\nmetadata: {name: marked, namespace: %s, annotations: {%s: enabled}}\n",
		w.ns, "kustomize.toolkit.fluxcd.io/force") // without effect, which the status says and a restart does not forget
	rev := w.push(files)
	for i := range 5 {
		w.ready(fmt.Sprintf("app%d", i), rev)
	}
	w.quiet()
	running.stop()
	from := w.quiet()
	rendered, _ := renders(func() {
		w.must(running.start())
		w.eventually("a look at every app", func() error {
			if ok, err := running.looked(w.ctx); err != nil || !ok {
				return fmt.Errorf("not yet: %v", err)
			}
			return nil
		})
		w.quiet()
	})
	if rendered != 0 {
		t.Errorf("%d apps were rendered", rendered)
	}
	got, _ := requests(t, from)
	for _, r := range got {
		if r.Verb != "list" && !strings.HasPrefix(r.RequestURI, "/api?") && !strings.HasPrefix(r.RequestURI, "/apis?") && r.ObjectRef.Resource != "" {
			t.Errorf("%s %s", r.Verb, r.RequestURI)
		}
	}
	w.must(w.client.Delete(w.ctx, &corev1.ConfigMap{ObjectMeta: w.named("c3")}))
	w.value("c3", "1")
}

// steps tells how many steps for apps were made while f ran.
func steps(t *testing.T, f func()) uint64 {
	t.Helper()
	count := func() (n uint64) {
		for _, outcome := range []string{"true", "false", "unknown"} {
			var m dto.Metric
			if err := telemetry.Reconciles.WithLabelValues("Kustomization", outcome).(prometheus.Metric).Write(&m); err != nil {
				t.Fatal(err)
			}
			n += m.GetHistogram().GetSampleCount()
		}
		return n
	}
	before := count()
	f()
	return count() - before
}

// TestAppThatIsRefusedIsAtRest: an app whose declaration is not understood waits for another one, and does nothing else.
func TestAppThatIsRefusedIsAtRest(t *testing.T) {
	w := newWorld(t)
	w.push(map[string]string{"app/a.yaml": w.configMap("a", "1")})
	w.apply(programKubeconfig)
	w.app("app", "  kubeConfig: {secretRef: {name: other-cluster}}")
	w.condition("app", metav1.ConditionFalse, "FieldsNotSupported", "user.exec")
	w.eventually("rest", func() error {
		if n := steps(t, func() { time.Sleep(time.Second) }); n > 3 {
			return fmt.Errorf("%d steps in a second", n)
		}
		return nil
	})
}

// TestIntentLargerThanAnAnnotation delivers so many objects that their names do not fit where they are announced otherwise.
func TestIntentLargerThanAnAnnotation(t *testing.T) {
	w := newWorld(t)
	w.app("app", "  wait: true")
	var all strings.Builder
	const objects = 250
	for i := range objects {
		all.WriteString("---\n" + w.configMap(fmt.Sprintf("%s-%d", strings.Repeat("long", 60), i), "1"))
	}
	w.ready("app", w.push(map[string]string{"app/all.yaml": all.String()}))
	k := w.kustomization("app")
	if got := len(k.Status.Inventory.Entries); got != objects {
		t.Errorf("%d objects in the inventory, want %d", got, objects)
	}
	if len(k.Finalizers) != 1 {
		t.Errorf("finalizers: %v", k.Finalizers)
	}
}

// TestReadyOnlyOnceHealthy changes a declaration at the same commit: what follows from it is a delivery like any other.
func TestReadyOnlyOnceHealthy(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.app("app", "  wait: true")
	w.ready("app", w.push(map[string]string{"app/web.yaml": strings.ReplaceAll(deployment, "$ns", w.ns)}))
	w.app("app", `  wait: true
  patches: [{patch: '[{"op": "add", "path": "/spec/template/metadata/annotations", "value": {"keelson.dev/simulate": "CrashLoopBackOff"}}]', target: {kind: Deployment}}]`)
	var seen []string
	w.eventually("what becomes of it", func() error {
		k := w.kustomization("app")
		c := meta.FindStatusCondition(k.Status.Conditions, "Ready")
		if c.ObservedGeneration < k.Generation {
			return errors.New("not looked at yet")
		}
		if now := string(c.Status) + " " + c.Reason; len(seen) == 0 || seen[len(seen)-1] != now {
			seen = append(seen, now)
		}
		if c.Status != metav1.ConditionFalse {
			return errors.New(c.Message)
		}
		return nil
	})
	if diff := cmp.Diff([]string{"Unknown Progressing", "False HealthCheckFailed"}, seen); diff != "" {
		t.Errorf("the status said (-want +got):\n%s", diff)
	}
}

// TestHealthMessagesAreMasked has an object report a value that came from a Secret, long after it was rendered.
func TestHealthMessagesAreMasked(t *testing.T) {
	w := newWorld(t)
	w.apply("apiVersion: v1\nkind: Secret\nmetadata: {name: keys}\nstringData: {PASSWORD: hush-hush}\n")
	w.app("app", "  wait: true\n  postBuild: {substituteFrom: [{kind: Secret, name: keys}]}")
	w.ready("app", w.push(map[string]string{
		"app/w.yaml": strings.ReplaceAll(widget, "$ns", w.ns), "app/crd.yaml": strings.ReplaceAll(crd, "$ns", w.ns), "app/a.yaml": w.configMap("a", "${PASSWORD}"),
	}))
	w.value("a", "hush-hush")
	u, err := w.widget()
	w.must(err)
	u.Object["status"] = map[string]any{"conditions": []any{map[string]any{
		"type": "Stalled", "status": "True", "reason": "LoginFailed", "message": "login with hush-hush failed",
	}}}
	w.must(w.client.Update(w.ctx, u, client.FieldOwner("other")))
	c := w.condition("app", metav1.ConditionFalse, "HealthCheckFailed")
	if strings.Contains(c.Message, "hush") || !strings.Contains(c.Message, "login with") {
		t.Errorf("the status says %q", c.Message)
	}
}

// TestVariablesAreWatched changes what an app's variables come from.
func TestVariablesAreWatched(t *testing.T) {
	w := newWorld(t)
	w.app("app", "\n  postBuild: {substituteFrom: [{kind: ConfigMap, name: vars}, {kind: Secret, name: more, optional: true}]}\n")
	w.push(map[string]string{"app/a.yaml": w.configMap("a", "${region:=none}-${tier:=none}")})
	w.condition("app", metav1.ConditionFalse, "BuildFailed", "vars", "does not exist")
	w.apply("apiVersion: v1\nkind: ConfigMap\nmetadata: {name: vars}\ndata: {region: eu}\n")
	w.value("a", "eu-none")
	w.apply("apiVersion: v1\nkind: Secret\nmetadata: {name: more}\nstringData: {tier: high}\n")
	w.value("a", "eu-high")
	w.apply("apiVersion: v1\nkind: ConfigMap\nmetadata: {name: vars}\ndata: {region: us}\n")
	w.value("a", "us-high")
}

// TestRefusedObjectWaitsAlone has an object that the API server does not take beside one that somebody edits again and
// again: the edits are put back at once, the other one is sent again only when it is due.
func TestRefusedObjectWaitsAlone(t *testing.T) {
	w := newWorld(t)
	w.app("app", "")
	w.ready("app", w.push(map[string]string{"app/a.yaml": w.configMap("a", "1")}))
	bad := "apiVersion: v1\nkind: Service\nmetadata: {name: bad, namespace: " + w.ns + "}\nspec: {ports: [{port: 99999}]}\n"
	k := w.kustomization("app")
	k.Spec.RetryInterval = &metav1.Duration{Duration: time.Hour}
	w.must(w.client.Update(w.ctx, k))
	w.push(map[string]string{"app/bad.yaml": bad})
	w.condition("app", metav1.ConditionFalse, "ReconciliationFailed", "bad", "99999")
	from := w.quiet()
	for range 3 {
		cm := &corev1.ConfigMap{ObjectMeta: w.named("a")}
		w.must(w.client.Patch(w.ctx, cm, client.RawPatch("application/merge-patch+json", []byte(`{"data":{"v":"edited"}}`))))
		w.value("a", "1")
	}
	w.quiet()
	got, _ := requests(t, from)
	for _, r := range got {
		if r.ObjectRef.Resource == "services" {
			t.Errorf("%s of a Service that was just refused", r.Verb)
		}
		if r.ObjectRef.Resource == "kustomizations" {
			t.Errorf("%s %s: the status says nothing new", r.Verb, r.RequestURI)
		}
	}
	w.condition("app", metav1.ConditionFalse, "ReconciliationFailed", "bad", "99999")
	w.ready("app", w.push(map[string]string{"app/bad.yaml": strings.Replace(bad, "99999", "80", 1)}))
}

// TestRevertOfWhatWasAppliedInPart reverts a commit of which the server took one object and refused another: what it took goes back
// too, even where the controller is restarted in between, and where the change is inside of what counts as one field.
func TestRevertOfWhatWasAppliedInPart(t *testing.T) {
	for name, restart := range map[string]bool{"at once": false, "while nobody looked": true} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			w.app("app", "  retryInterval: 1h")
			service := func(color string) string {
				return fmt.Sprintf("apiVersion: v1\nkind: Service\nmetadata: {name: web, namespace: %s}\nspec: {ports: [{port: 80}], selector: {color: %s}}\n", w.ns, color)
			}
			selects := func(color string) {
				t.Helper()
				w.eventually("Service for "+color, func() error {
					var s corev1.Service
					if err := w.client.Get(w.ctx, client.ObjectKey{Namespace: w.ns, Name: "web"}, &s); err != nil {
						return err
					}
					if s.Spec.Selector["color"] != color {
						return fmt.Errorf("it selects %v", s.Spec.Selector)
					}
					return nil
				})
			}
			good := map[string]string{"app/a.yaml": w.configMap("a", "1"), "app/web.yaml": service("blue"), "app/b.yaml": w.configMap("b", "1")}
			w.ready("app", w.push(good))
			w.push(map[string]string{
				"app/a.yaml": w.configMap("a", "2"), "app/web.yaml": service("green"),
				"app/b.yaml": fmt.Sprintf("apiVersion: v1\nkind: ConfigMap\nmetadata: {name: b, namespace: %s}\ndata: {'no key': x}\n", w.ns),
			})
			w.condition("app", metav1.ConditionFalse, "ReconciliationFailed")
			selects("green")
			w.value("a", "2")
			if restart {
				running.stop()
				w.commit(good)
				w.must(running.start())
			} else {
				w.push(good)
			}
			w.ready("app", "main@sha1:"+w.head)
			w.value("a", "1")
			selects("blue")
		})
	}
}

// TestMadeAnewWhileNobodyLooked lets go of an app's objects by hand and declares another app under its name.
func TestMadeAnewWhileNobodyLooked(t *testing.T) {
	w := newWorld(t)
	w.app("app", "")
	w.ready("app", w.push(map[string]string{"app/a.yaml": w.configMap("a", "1"), "app/b.yaml": w.configMap("b", "1"), "app/c.yaml": w.configMap("c", "1")}))
	w.quiet()
	running.stop()
	k := w.kustomization("app")
	w.must(w.client.Patch(w.ctx, k, client.RawPatch("application/merge-patch+json", []byte(`{"metadata":{"finalizers":null}}`))))
	w.must(w.client.Delete(w.ctx, k))
	w.commit(map[string]string{"app/c.yaml": ""})
	w.app("app", "")
	w.must(running.start())
	w.ready("app", "main@sha1:"+w.head)
	k = w.kustomization("app")
	if len(k.Status.Inventory.Entries) != 2 || len(k.Finalizers) != 1 {
		t.Errorf("inventory %v, finalizers %v", k.Status.Inventory.Entries, k.Finalizers)
	}
	w.value("c", "1") // nobody's any more
}

// hook is an admission webhook that lets an object pass only when told to.
type hook struct {
	waiting atomic.Int32
	release chan struct{}
}

func (h *hook) ServeHTTP(rw http.ResponseWriter, r *http.Request) {
	var review admissionv1.AdmissionReview
	if err := json.NewDecoder(r.Body).Decode(&review); err != nil {
		http.Error(rw, err.Error(), http.StatusBadRequest)
		return
	}
	h.waiting.Add(1)
	select {
	case <-h.release:
	case <-r.Context().Done():
	}
	h.waiting.Add(-1)
	review.Response = &admissionv1.AdmissionResponse{UID: review.Request.UID, Allowed: true}
	_ = json.NewEncoder(rw).Encode(review)
}

// startHook serves a hook over TLS on the loopback interface and has the API server ask it about ConfigMaps labelled
// hang=true of the test's namespace.
func (w *world) startHook() *hook {
	w.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	w.must(err)
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "hook"}, IsCA: true, BasicConstraintsValid: true,
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	w.must(err)
	h := &hook{release: make(chan struct{})}
	server := httptest.NewUnstartedServer(h)
	server.TLS = &tls.Config{Certificates: []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: key}}}
	server.StartTLS()
	w.Cleanup(server.Close)
	configuration := &admissionregistrationv1.ValidatingWebhookConfiguration{
		ObjectMeta: metav1.ObjectMeta{Name: w.ns},
		Webhooks: []admissionregistrationv1.ValidatingWebhook{{
			Name: "hang.example.com", TimeoutSeconds: new(int32(30)), AdmissionReviewVersions: []string{"v1"},
			SideEffects:       new(admissionregistrationv1.SideEffectClassNone),
			ObjectSelector:    &metav1.LabelSelector{MatchLabels: map[string]string{"hang": "true"}},
			NamespaceSelector: &metav1.LabelSelector{MatchLabels: map[string]string{corev1.LabelMetadataName: w.ns}},
			ClientConfig: admissionregistrationv1.WebhookClientConfig{
				URL: &server.URL, CABundle: pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}),
			},
			Rules: []admissionregistrationv1.RuleWithOperations{{
				Operations: []admissionregistrationv1.OperationType{admissionregistrationv1.Create},
				Rule:       admissionregistrationv1.Rule{APIGroups: []string{""}, APIVersions: []string{"v1"}, Resources: []string{"configmaps"}},
			}},
		}},
	}
	w.must(w.client.Create(w.ctx, configuration))
	w.Cleanup(func() { _ = w.client.Delete(w.T.Context(), configuration) })
	return h
}

// TestHangingAppsDelayNobody delivers 200 apps, of which 20 hang in the API server with all their objects: the others get
// ready meanwhile, a second commit of theirs too, and the 20 as soon as the server answers.
func TestHangingAppsDelayNobody(t *testing.T) {
	const apps, hanging, objects = 200, 20, 5
	w := newWorld(t)
	h := w.startHook()
	files := func(value string) map[string]string {
		out := map[string]string{}
		for i := range apps {
			for j := range objects {
				text := w.configMap(fmt.Sprintf("c%d-%d", i, j), value)
				if i < hanging {
					text = strings.Replace(text, "metadata: {", "metadata: {labels: {hang: \"true\"}, ", 1)
				}
				out[fmt.Sprintf("app%d/c%d.yaml", i, j)] = text
			}
		}
		return out
	}
	w.commit(files("1"))
	for i := range apps {
		w.app(fmt.Sprintf("app%d", i), "")
	}
	readyAt := func(revision string, from int) error {
		var list kustomizev1.KustomizationList
		if err := w.client.List(w.ctx, &list, client.InNamespace(w.ns)); err != nil {
			return err
		}
		ready := map[string]bool{}
		for _, k := range list.Items {
			ready[k.Name] = k.Status.LastAppliedRevision == revision && meta.IsStatusConditionTrue(k.Status.Conditions, "Ready")
		}
		for i := from; i < apps; i++ {
			if name := fmt.Sprintf("app%d", i); !ready[name] {
				return fmt.Errorf("%s is not ready at %s", name, revision)
			}
		}
		return nil
	}
	w.reconcileSource()
	w.eventually("the first commit", func() error { return readyAt("main@sha1:"+w.head, hanging) })
	rev := w.push(map[string]string{"app100/c0.yaml": w.configMap("c100-0", "2")})
	w.value("c100-0", "2")
	w.eventually("the second commit", func() error { return readyAt(rev, hanging) })
	if n := h.waiting.Load(); n < hanging {
		t.Errorf("%d requests hang, want %d at least: the test proves nothing", n, hanging)
	}
	close(h.release)
	w.eventually("the rest", func() error { return readyAt(rev, 0) })
	if diff := cmp.Diff(int32(0), h.waiting.Load()); diff != "" {
		t.Errorf("requests that still hang:\n%s", diff)
	}
}
