package live

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	admissionv1 "k8s.io/api/admission/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"

	"keelson.dev/keelson/internal/delivery"
	"keelson.dev/keelson/internal/plan"
)

const webText = `
apiVersion: apps/v1
kind: Deployment
metadata: {name: web}
spec:
  replicas: 1
  paused: true
  strategy: {}
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec: {containers: [{name: web, image: "web:1"}], volumes: []}
`

const hookText = `
apiVersion: admissionregistration.k8s.io/v1
kind: ValidatingWebhookConfiguration
metadata: {name: live-never-drift}
webhooks:
- name: a.example.com
  admissionReviewVersions: [v1]
  sideEffects: None
  objectSelector: {matchLabels: {nobody: has-this}}
  clientConfig: {service: {namespace: default, name: hook}}
  rules: [{apiGroups: [""], apiVersions: [v1], resources: [pods], operations: [CREATE]}]
`

const conversionText = `
apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata: {name: gears.live.example.com}
spec:
  group: live.example.com
  names: {kind: Gear, plural: gears}
  scope: Namespaced
  conversion:
    strategy: Webhook
    webhook: {conversionReviewVersions: [v1], clientConfig: {service: {namespace: default, name: hook}}}
  versions:
  - {name: v1, served: true, storage: true, schema: {openAPIV3Schema: {type: object}}}
`

// TestOthersDoNotDrift shows what others do to our objects that is none of our business.
func TestOthersDoNotDrift(t *testing.T) {
	patch := func(manager, body string, sub ...string) func(*world, *unstructured.Unstructured) {
		return func(w *world, u *unstructured.Unstructured) {
			kind := types.StrategicMergePatchType
			if u.GetKind() == "CustomResourceDefinition" {
				kind = types.MergePatchType
			}
			_, err := w.of(u).Patch(w.ctx, u.GetName(), kind, []byte(body), metav1.PatchOptions{FieldManager: manager}, sub...)
			w.must(err)
		}
	}
	caBundle := base64.StdEncoding.EncodeToString(authority(t).pem)
	tests := map[string]struct {
		text       string
		autoscaled bool
		act        func(*world, *unstructured.Unstructured)
		want       string // what has to be in the object afterwards
	}{
		"an autoscaler scales": {
			text: webText, autoscaled: true, want: `"replicas":3`,
			act: patch("horizontal-pod-autoscaler", `{"spec": {"replicas": 3}}`, "scale"),
		},
		"the CA of a webhook is injected": {
			text: hookText, want: `"caBundle":"` + caBundle,
			act: patch("cert-manager-cainjector", fmt.Sprintf(`{"webhooks": [{"name": "a.example.com", "clientConfig": {"caBundle": %q}}]}`, caBundle)),
		},
		"the CA of a conversion webhook is injected": {
			text: conversionText, want: `"caBundle":"` + caBundle,
			act: patch("cert-manager-cainjector", fmt.Sprintf(`{"spec": {"conversion": {"webhook": {"clientConfig": {"caBundle": %q}}}}}`, caBundle)),
		},
		"another manager annotates": {
			text: webText, want: `"note":"theirs"`, act: patch("kubectl-annotate", `{"metadata": {"annotations": {"note": "theirs"}}}`),
		},
		"a rollout is restarted": {
			text: webText, want: `"restartedAt":"now"`,
			act: patch("kubectl-rollout", `{"spec": {"template": {"metadata": {"annotations": {"restartedAt": "now"}}}}}`),
		},
		"another manager adds a container": {
			text: webText, want: `"sidecar:1"`,
			act: patch("injector", `{"spec": {"template": {"spec": {"containers": [{"name": "sidecar", "image": "sidecar:1"}]}}}}`),
		},
		"another manager fills what we left empty": {
			text: webText, want: `"maxSurge":"50%"`,
			act: patch("operator", `{"spec": {"strategy": {"rollingUpdate": {"maxSurge": "50%"}}, "template": {"spec": {"volumes": [{"name": "x", "emptyDir": {}}]}}}}`),
		},
		"a default is overridden": {
			text: webText, want: `"progressDeadlineSeconds":42`, act: patch("operator", `{"spec": {"progressDeadlineSeconds": 42}}`),
		},
		"a controller writes status": {
			text: webText, want: `"type":"Odd"`,
			act: patch("operator", `{"status": {"conditions": [{"type": "Odd", "status": "True"}]}}`, "status"),
		},
		"another manager applies the same": {
			text: webText, want: `"manager":"operator"`,
			act: func(w *world, u *unstructured.Unstructured) {
				_, err := w.send(u, "operator", false, false)
				w.must(err)
			},
		},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, Options{})
			sent := parse(t, tt.text)
			w.ensure(testApp("a"), sent.GroupVersionKind())
			if tt.autoscaled {
				unstructured.RemoveNestedField(sent.Object, "spec", "replicas")
			}
			if sent.GetKind() == "Deployment" {
				sent.SetNamespace(w.ns)
			} else {
				t.Cleanup(func() { _ = w.of(sent).Delete(context.WithoutCancel(w.ctx), sent.GetName(), metav1.DeleteOptions{}) })
			}
			sent.SetLabels(map[string]string{ownerLabel: "a"})
			left, err := w.repair(sent, tt.autoscaled)
			w.must(err)
			tt.act(w, sent)
			w.eventually("what others did", func() error {
				now, err := w.of(sent).Get(w.ctx, sent.GetName(), metav1.GetOptions{})
				w.must(err)
				if !contains(now, tt.want) {
					return fmt.Errorf("%s is not in %s", tt.want, text(now.Object))
				}
				w.seen(now)
				return nil
			})
			if rec, ok := w.live.Get(delivery.RefOf(sent)); !ok || plan.Drifted(left, rec, tt.autoscaled) {
				t.Errorf("it counts as drifted (there: %v): %+v", ok, rec)
			}
		})
	}
}

func contains(u *unstructured.Unstructured, part string) bool {
	return strings.Contains(text(u.Object), part)
}

// TestSidecarInjection has a mutating webhook put a container into every workload, in our own writes and in others'.
func TestSidecarInjection(t *testing.T) {
	w := newWorld(t, Options{})
	var calls atomic.Int64
	ca := authority(t)
	server := httptest.NewUnstartedServer(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		calls.Add(1)
		injectSidecar(rw, r)
	}))
	server.TLS = &tls.Config{Certificates: []tls.Certificate{ca.server(t)}, MinVersion: tls.VersionTLS12}
	server.StartTLS()
	t.Cleanup(server.Close)
	hook := w.create("admissionregistration.k8s.io/v1", "MutatingWebhookConfiguration", "", fmt.Sprintf(`{
		"metadata": {"generateName": "live-injector-"}, "webhooks": [{
			"name": "injector.example.com", "admissionReviewVersions": ["v1"], "sideEffects": "None", "failurePolicy": "Fail",
			"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": %q}},
			"clientConfig": {"url": %q, "caBundle": %q},
			"rules": [{"apiGroups": ["apps"], "apiVersions": ["v1"], "resources": ["deployments"], "operations": ["CREATE", "UPDATE"]}]
		}]}`, w.ns, server.URL+"/mutate", base64.StdEncoding.EncodeToString(ca.pem)))
	t.Cleanup(func() { _ = w.of(hook).Delete(context.WithoutCancel(w.ctx), hook.GetName(), metav1.DeleteOptions{}) })

	app := testApp("a")
	w.ensure(app, schema.GroupVersionKind{Group: "apps", Version: "v1", Kind: "Deployment"})
	probe := parse(t, webText)
	probe.SetNamespace(w.ns)
	probe.SetName("probe")
	w.eventually("the webhook", func() error { // the API server takes a moment to know of it
		_, err := w.send(probe, "probe", true, true)
		if err == nil && calls.Load() == 0 {
			err = fmt.Errorf("not called yet")
		}
		return err
	})
	sent, left := w.ours(app, webText)
	injected := func() {
		t.Helper()
		now, err := w.of(sent).Get(w.ctx, sent.GetName(), metav1.GetOptions{})
		w.must(err)
		w.seen(now)
		rec, _ := w.live.Get(delivery.RefOf(sent))
		if !contains(now, `"injected:1"`) || plan.Drifted(left, rec, false) {
			t.Errorf("drifted %v, object %s", plan.Drifted(left, rec, false), text(now.Object))
		}
	}
	injected()
	for _, body := range []string{
		`{"metadata": {"annotations": {"note": "theirs"}}}`,
		`{"spec": {"template": {"spec": {"containers": [{"name": "injected", "image": "injected:0"}]}}}}`,
		`{"spec": {"template": {"spec": {"containers": [{"name": "injected", "$patch": "delete"}]}}}}`,
	} {
		_, err := w.of(sent).Patch(w.ctx, sent.GetName(), types.StrategicMergePatchType, []byte(body), metav1.PatchOptions{FieldManager: "operator"})
		w.must(err)
		injected()
	}
	out, err := w.of(sent).Patch(w.ctx, sent.GetName(), types.StrategicMergePatchType,
		[]byte(`{"spec": {"template": {"spec": {"containers": [{"name": "web", "image": "web:2"}]}}}}`), metav1.PatchOptions{FieldManager: "operator"})
	w.must(err)
	w.seen(out)
	if rec, _ := w.live.Get(delivery.RefOf(sent)); !plan.Drifted(left, rec, false) || rec.Rival != "operator" {
		t.Errorf("our own container was changed and it does not count as drifted by operator: %+v", rec)
	}
}

// injectSidecar answers an admission review: the container "injected" is added, or put right.
func injectSidecar(rw http.ResponseWriter, r *http.Request) {
	var review admissionv1.AdmissionReview
	if err := json.NewDecoder(r.Body).Decode(&review); err != nil {
		http.Error(rw, err.Error(), http.StatusBadRequest)
		return
	}
	var u unstructured.Unstructured
	if err := json.Unmarshal(review.Request.Object.Raw, &u.Object); err != nil {
		http.Error(rw, err.Error(), http.StatusBadRequest)
		return
	}
	list, _, _ := unstructured.NestedSlice(u.Object, "spec", "template", "spec", "containers")
	kept := []any{map[string]any{"name": "injected", "image": "injected:1"}}
	for _, c := range list {
		if m, _ := c.(map[string]any); m["name"] != "injected" {
			kept = append(kept, c)
		}
	}
	kind := admissionv1.PatchTypeJSONPatch
	review.Response = &admissionv1.AdmissionResponse{UID: review.Request.UID, Allowed: true, PatchType: &kind, Patch: []byte(text([]any{
		map[string]any{"op": "replace", "path": "/spec/template/spec/containers", "value": kept},
	}))}
	review.Request = nil
	rw.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(rw).Encode(review)
}

// ca is a certificate authority of one test.
type ca struct {
	key  *ecdsa.PrivateKey
	cert *x509.Certificate
	pem  []byte
}

func authority(t *testing.T) ca {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "test authority"}, IsCA: true, BasicConstraintsValid: true,
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), KeyUsage: x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return ca{key, cert, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})}
}

// server gives a certificate for 127.0.0.1.
func (c ca) server(t *testing.T) tls.Certificate {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(2), Subject: pkix.Name{CommonName: "webhook"}, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), KeyUsage: x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, c.cert, &key.PublicKey, c.key)
	if err != nil {
		t.Fatal(err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
}
