package controller_test

import (
	"context"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	kustomizev1 "github.com/fluxcd/kustomize-controller/api/v1"
	authnv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/rest"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"keelson.dev/keelson/test/testcluster"
)

// other is a second cluster, started with the first test that needs it.
var other struct {
	once    sync.Once
	dir     string
	cluster *testcluster.Cluster
	client  client.Client
	err     error
}

func stopOther() {
	if other.cluster != nil {
		other.cluster.Stop()
	}
	if other.dir != "" {
		os.RemoveAll(other.dir)
	}
}

// remoteWorld is a world with the same namespace in the second cluster, where nobody is known yet but its administrator.
type remoteWorld struct {
	*world
	remote *world // the same corner of the second cluster
}

func newRemoteWorld(t *testing.T) *remoteWorld {
	t.Helper()
	other.once.Do(func() {
		if other.dir, other.err = os.MkdirTemp("", "keelson-other-"); other.err != nil {
			return
		}
		if other.cluster, other.err = testcluster.Start(context.Background(), filepath.Join(other.dir, "cluster")); other.err != nil {
			return
		}
		other.client, other.err = client.New(other.cluster.Config, client.Options{Scheme: running.client.Scheme()})
	})
	if other.err != nil {
		t.Fatal(other.err)
	}
	w := newWorld(t)
	far := *w
	far.client = other.client
	w.must(far.client.Create(w.ctx, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: w.ns}}))
	return &remoteWorld{world: w, remote: &far}
}

// user makes a service account in the second cluster that may do everything, and gives a token of it.
func (w *remoteWorld) user(name string) string {
	w.Helper()
	sa := &corev1.ServiceAccount{ObjectMeta: w.named(name)}
	w.must(w.remote.client.Create(w.ctx, sa))
	w.must(w.remote.client.Create(w.ctx, &rbacv1.ClusterRoleBinding{
		ObjectMeta: metav1.ObjectMeta{Name: w.ns + "-" + name},
		RoleRef:    rbacv1.RoleRef{Kind: "ClusterRole", Name: "cluster-admin"},
		Subjects:   []rbacv1.Subject{{Kind: "ServiceAccount", Namespace: w.ns, Name: name}},
	}))
	request := &authnv1.TokenRequest{}
	w.must(w.remote.client.SubResource("token").Create(w.ctx, sa, request))
	return request.Status.Token
}

// kubeconfig writes the Secret "far" with a kubeconfig.
func (w *remoteWorld) kubeconfig(server string, ca []byte, user map[string]any) {
	w.Helper()
	b, err := json.Marshal(map[string]any{
		"apiVersion": "v1", "kind": "Config", "current-context": "c",
		"contexts": []any{map[string]any{"name": "c", "context": map[string]any{"cluster": "c", "user": "u"}}},
		"clusters": []any{map[string]any{"name": "c", "cluster": map[string]any{"server": server, "certificate-authority-data": ca}}},
		"users":    []any{map[string]any{"name": "u", "user": user}},
	})
	w.must(err)
	secret := &corev1.Secret{ObjectMeta: w.named("far"), Data: map[string][]byte{"value": b}}
	if err := w.client.Create(w.ctx, secret); apierrors.IsAlreadyExists(err) {
		w.must(w.client.Update(w.ctx, secret))
	} else {
		w.must(err)
	}
}

// token writes the kubeconfig of a token's owner in the second cluster.
func (w *remoteWorld) token(token string) {
	w.Helper()
	config := other.cluster.Config
	w.kubeconfig(config.Host, config.CAData, map[string]any{"token": token})
}

const far = "  kubeConfig: {secretRef: {name: far}}"

// programKubeconfig is a Secret whose kubeconfig would have a program run.
const programKubeconfig = `
apiVersion: v1
kind: Secret
metadata: {name: other-cluster}
stringData:
  value: |
    apiVersion: v1
    kind: Config
    current-context: c
    contexts: [{name: c, context: {cluster: c, user: u}}]
    clusters: [{name: c, cluster: {server: "https://127.0.0.1:1"}}]
    users: [{name: u, user: {exec: {apiVersion: client.authentication.k8s.io/v1, command: "true", interactiveMode: Never}}}]
`

func TestDeliverToAnotherCluster(t *testing.T) {
	w := newRemoteWorld(t)
	w.token(w.user("deployer"))
	w.app("app", far)
	rev := w.push(map[string]string{"app/a.yaml": w.configMap("a", "one"), "app/b.yaml": w.configMap("b", "one")})
	w.ready("app", rev)
	w.remote.value("a", "one")
	if w.data("a") != nil {
		t.Error("it was applied to the cluster that declares it")
	}
	if n := len(w.kustomization("app").Status.Inventory.Entries); n != 2 {
		t.Errorf("%d entries in the inventory, want 2", n)
	}

	w.must(w.remote.client.Delete(w.ctx, &corev1.ConfigMap{ObjectMeta: w.named("a")}))
	edited := time.Now()
	w.remote.value("a", "one")
	if took := time.Since(edited); took > time.Second {
		t.Errorf("drift was repaired after %s", took)
	}
	w.event("app", "DriftRepaired", "ConfigMap/"+w.ns+"/a repaired")

	w.ready("app", w.push(map[string]string{"app/b.yaml": ""}))
	w.remote.value("b", "")

	running.stop() // a restart sends nothing anew
	_, audited := requestsIn(t, other.cluster.AuditLog, 0)
	w.must(running.start())
	w.ready("app", w.push(map[string]string{"app/c.yaml": w.configMap("c", "two")}))
	w.remote.value("c", "two")
	sent, _ := requestsIn(t, other.cluster.AuditLog, audited)
	for _, r := range sent {
		if r.ObjectRef.Resource == "configmaps" && r.ObjectRef.Namespace == w.ns && r.Verb != "list" && r.ObjectRef.Name != "c" {
			t.Errorf("after a restart: %s %s", r.Verb, r.RequestURI)
		}
	}
	w.must(w.client.Delete(w.ctx, &kustomizev1.Kustomization{ObjectMeta: w.named("app")}))
	w.remote.value("a", "")
	w.remote.value("c", "")
	w.gone("app")
}

// TestSameObjectInTwoClusters: what an app owns in one cluster is nobody's in another.
func TestSameObjectInTwoClusters(t *testing.T) {
	w := newRemoteWorld(t)
	w.token(w.user("deployer"))
	w.app("near", "")
	w.app("away", far)
	rev := w.push(map[string]string{"near/a.yaml": w.configMap("a", "near"), "away/a.yaml": w.configMap("a", "away")})
	w.ready("near", rev)
	w.ready("away", rev)
	w.value("a", "near")
	w.remote.value("a", "away")
	w.app("rival", far+"\n  dependsOn: [{name: away}]")
	w.push(map[string]string{"rival/a.yaml": w.configMap("a", "rival")})
	w.condition("rival", metav1.ConditionFalse, "OwnershipConflict", "Kustomization/"+w.ns+"/away")
	w.remote.value("a", "away")
}

// TestMoveToAnotherCluster: the objects in the cluster that was left stay, as in Flux, and that is said.
func TestMoveToAnotherCluster(t *testing.T) {
	w := newRemoteWorld(t)
	w.token(w.user("deployer"))
	w.app("app", "")
	w.ready("app", w.push(map[string]string{"app/a.yaml": w.configMap("a", "one")}))
	w.value("a", "one")
	w.app("app", far)
	w.remote.value("a", "one")
	w.event("app", "Orphaned", "up to 1 objects in the cluster that it is declared in are left", other.cluster.Config.Host)
	w.value("a", "one")
	w.ready("app", w.push(map[string]string{"app/a.yaml": w.configMap("a", "two")}))
	w.remote.value("a", "two")
	w.value("a", "one")
	w.app("app", "") // and back
	w.clusterField("app", `{"spec":{"kubeConfig":null}}`)
	w.value("a", "two")
}

// clusterField patches an app.
func (w *world) clusterField(app, patch string) {
	w.Helper()
	w.must(w.client.Patch(w.ctx, &kustomizev1.Kustomization{ObjectMeta: w.named(app)}, client.RawPatch("application/merge-patch+json", []byte(patch))))
}

// TestCredentialsAreRotated: a token that is no longer good fails the app with a word on what to do, and a new one in the
// Secret is used at once.
func TestCredentialsAreRotated(t *testing.T) {
	w := newRemoteWorld(t)
	first := w.user("first")
	w.token(first)
	w.app("app", far)
	w.ready("app", w.push(map[string]string{"app/a.yaml": w.configMap("a", "one")}))
	w.push(map[string]string{"app/a.yaml": w.configMap("a", "two")})
	w.ready("app", "main@sha1:"+w.head)
	w.token("of nobody")
	w.condition("app", metav1.ConditionFalse, "ReconciliationFailed", other.cluster.Config.Host, "renew the credentials in Secret/far")
	w.token(w.user("second"))
	w.ready("app", "main@sha1:"+w.head)
	w.push(map[string]string{"app/a.yaml": w.configMap("a", "three")})
	w.ready("app", "main@sha1:"+w.head)
	w.remote.value("a", "three")
	if strings.Contains(fmt.Sprint(w.events("app")), first) {
		t.Error("an event tells the token")
	}
	w.must(w.client.Delete(w.ctx, &corev1.Secret{ObjectMeta: w.named("far")}))
	w.condition("app", metav1.ConditionFalse, "ReconciliationFailed", "Secret/"+w.ns+"/far", "does not exist")
	w.token(w.user("third"))
	w.ready("app", "main@sha1:"+w.head)
}

// TestImpersonationInAnotherCluster: spec.serviceAccountName is an account of that cluster.
func TestImpersonationInAnotherCluster(t *testing.T) {
	w := newRemoteWorld(t)
	w.token(w.user("admin"))
	w.must(w.remote.client.Create(w.ctx, &corev1.ServiceAccount{ObjectMeta: w.named("limited")}))
	w.app("app", far+"\n  serviceAccountName: limited")
	w.push(map[string]string{"app/a.yaml": w.configMap("a", "one")})
	w.condition("app", metav1.ConditionFalse, "Forbidden", "system:serviceaccount:"+w.ns+":limited")
	w.remote.apply(`
apiVersion: rbac.authorization.k8s.io/v1
kind: RoleBinding
metadata: {name: limited}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: cluster-admin}
subjects: [{kind: ServiceAccount, name: limited, namespace: $ns}]
`)
	w.remote.value("a", "one")
}

// TestUnreachableCluster: an app whose cluster is away fails with the reason and nobody else notices; it goes on by itself
// when the cluster is back. Deleting it says what it waits for, and what lets it go.
func TestUnreachableCluster(t *testing.T) {
	t.Parallel()
	w := newRemoteWorld(t)
	front := newFront(t, nil)
	token := w.user("deployer")
	front.kubeconfig(w, map[string]any{"token": token})
	w.app("app", far)
	w.app("near", "")
	w.ready("app", w.push(map[string]string{"app/a.yaml": w.configMap("a", "one"), "near/n.yaml": w.configMap("n", "one")}))

	front.down()
	w.push(map[string]string{"app/a.yaml": w.configMap("a", "two"), "near/n.yaml": w.configMap("n", "two")})
	w.condition("app", metav1.ConditionFalse, "ReconciliationFailed", front.url, "cannot be reached", "refused")
	w.ready("near", "main@sha1:"+w.head)
	w.value("n", "two")
	front.up()
	w.ready("app", "main@sha1:"+w.head)
	w.remote.value("a", "two")

	front.down()
	w.must(w.client.Delete(w.ctx, &kustomizev1.Kustomization{ObjectMeta: w.named("app")}))
	w.condition("app", metav1.ConditionFalse, "ReconciliationFailed", "deletion waits", "cannot be reached", "deletionPolicy")
	w.event("app", "DeletionFailed", "deletion waits")
	w.clusterField("app", `{"spec":{"deletionPolicy":"Orphan"}}`)
	w.gone("app")
	w.remote.value("a", "two")
}

// TestHangingCluster: apps whose cluster takes requests and never answers leave the workers to the others.
func TestHangingCluster(t *testing.T) {
	w := newRemoteWorld(t)
	front := newFront(t, nil)
	front.kubeconfig(w, map[string]any{"token": w.user("deployer")})
	files := map[string]string{"near/n.yaml": w.configMap("n", "one")}
	const apps = 255 // more than there are workers
	for i := range apps {
		name := fmt.Sprintf("app%d", i)
		w.apply(fmt.Sprintf(`
apiVersion: kustomize.toolkit.fluxcd.io/v1
kind: Kustomization
metadata: {name: %s}
spec: {interval: 1h, path: %s, prune: true, kubeConfig: {secretRef: {name: far}}, sourceRef: {kind: GitRepository, name: repo}}
`, name, name))
		files[name+"/a.yaml"] = w.configMap(name, "one")
	}
	w.app("near", "")
	w.push(files)
	for i := range apps {
		w.ready(fmt.Sprintf("app%d", i), "main@sha1:"+w.head)
	}
	w.ready("near", "main@sha1:"+w.head)
	front.hangs.Store(true)
	for name := range files {
		files[name] = strings.ReplaceAll(files[name], "one", "two")
	}
	pushed := time.Now()
	w.push(files)
	w.value("n", "two")
	if took := time.Since(pushed); took > 15*time.Second {
		t.Errorf("an app of this cluster was delivered after %s", took)
	}
	w.condition("app7", metav1.ConditionFalse, "ReconciliationFailed", front.url, "cannot be reached", "no answer")
	if took := time.Since(pushed); took > 50*time.Second { // half of it on a machine with nothing else to do
		t.Errorf("that the cluster hangs is said after %s", took)
	}
	front.hangs.Store(false)
	w.ready("app7", "main@sha1:"+w.head)
	w.remote.value("app7", "two")
}

// TestKubeconfigThatAsksForMore: a kubeconfig runs no program and reads no file.
func TestKubeconfigThatAsksForMore(t *testing.T) {
	w := newRemoteWorld(t)
	trace := filepath.Join(t.TempDir(), "ran")
	config := other.cluster.Config
	w.kubeconfig(config.Host, config.CAData, map[string]any{"exec": map[string]any{
		"apiVersion": "client.authentication.k8s.io/v1", "command": "touch", "args": []string{trace}, "interactiveMode": "Never",
	}})
	w.app("app", far)
	w.push(map[string]string{"app/a.yaml": w.configMap("a", "one")})
	w.condition("app", metav1.ConditionFalse, "FieldsNotSupported", "user.exec")
	if _, err := os.Stat(trace); err == nil {
		t.Error("the program was run")
	}
	w.kubeconfig(config.Host, config.CAData, map[string]any{"tokenFile": cluster.Kubeconfig})
	w.condition("app", metav1.ConditionFalse, "FieldsNotSupported", "user.tokenFile")
	w.token(w.user("deployer"))
	w.ready("app", "main@sha1:"+w.head)
}

// TestServiceAccountReference: a token of a service account of this cluster is what the other one knows an app by.
func TestServiceAccountReference(t *testing.T) {
	w := newRemoteWorld(t)
	front := newFront(t, []string{"far"})
	w.must(w.client.Create(w.ctx, &corev1.ServiceAccount{ObjectMeta: w.named("courier")}))
	front.account = "system:serviceaccount:" + w.ns + ":courier"
	w.must(w.client.Create(w.ctx, &corev1.ConfigMap{ObjectMeta: w.named("far"), Data: map[string]string{
		"provider": "generic", "address": front.url, "ca.crt": string(front.ca), "serviceAccountName": "courier", "audiences": "far",
	}}))
	w.app("app", "  kubeConfig: {configMapRef: {name: far}}")
	w.ready("app", w.push(map[string]string{"app/a.yaml": w.configMap("a", "one")}))
	w.remote.value("a", "one")
	if front.reviewed.Load() == 0 {
		t.Error("no token was looked at")
	}
	w.must(w.client.Update(w.ctx, &corev1.ConfigMap{ObjectMeta: w.named("far"), Data: map[string]string{"provider": "aws", "cluster": "arn"}}))
	w.condition("app", metav1.ConditionFalse, "FieldsNotSupported", "provider aws")
}

// front is an API server before the second cluster's, which it passes requests on to.
type front struct {
	*testing.T
	url, address string
	ca           []byte
	hangs        atomic.Bool // it takes requests and does not answer
	audiences    []string    // not nil: who comes has to show a token of the first cluster for them
	account      string      // and has to be this one
	reviewed     atomic.Int64
	server       *httptest.Server
	handler      http.Handler
}

func newFront(t *testing.T, audiences []string) *front {
	t.Helper()
	f := &front{T: t, audiences: audiences}
	target, err := url.Parse(other.cluster.Config.Host)
	if err != nil {
		t.Fatal(err)
	}
	config := rest.CopyConfig(other.cluster.Config)
	if audiences == nil {
		config = rest.AnonymousClientConfig(config)
	}
	transport, err := rest.TransportFor(config)
	if err != nil {
		t.Fatal(err)
	}
	proxy := &httputil.ReverseProxy{
		Transport: transport, FlushInterval: -1,
		Rewrite:      func(r *httputil.ProxyRequest) { r.SetURL(target) },
		ErrorHandler: func(rw http.ResponseWriter, _ *http.Request, _ error) { rw.WriteHeader(http.StatusBadGateway) },
	}
	f.handler = http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		if f.hangs.Load() {
			<-r.Context().Done()
			return
		}
		if f.audiences != nil {
			if !f.known(r) {
				http.Error(rw, "who are you?", http.StatusUnauthorized)
				return
			}
			r.Header.Del("Authorization")
		}
		proxy.ServeHTTP(rw, r)
	})
	f.server = httptest.NewTLSServer(f.handler)
	f.url, f.address = f.server.URL, f.server.Listener.Addr().String()
	f.ca = pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: f.server.Certificate().Raw})
	t.Cleanup(func() { f.down() })
	return f
}

// known asks the first cluster whose token a request brings.
func (f *front) known(r *http.Request) bool {
	review := &authnv1.TokenReview{Spec: authnv1.TokenReviewSpec{
		Token: strings.TrimPrefix(r.Header.Get("Authorization"), "Bearer "), Audiences: f.audiences,
	}}
	if err := running.client.Create(r.Context(), review); err != nil {
		return false
	}
	f.reviewed.Add(1)
	return review.Status.Authenticated && review.Status.User.Username == f.account
}

func (f *front) kubeconfig(w *remoteWorld, user map[string]any) {
	w.kubeconfig(f.url, f.ca, user)
}

// down ends the server and every connection with it.
func (f *front) down() {
	f.server.CloseClientConnections()
	f.server.Listener.Close()
}

// up has another one listen at the same address.
func (f *front) up() {
	f.Helper()
	server := httptest.NewUnstartedServer(f.handler)
	server.Listener.Close()
	var err error
	for range 100 { // who had it may not have let it go yet
		if server.Listener, err = net.Listen("tcp", f.address); err == nil {
			break
		}
		time.Sleep(20 * time.Millisecond)
	}
	if err != nil {
		f.Fatal(err)
	}
	server.StartTLS()
	f.server = server
}
