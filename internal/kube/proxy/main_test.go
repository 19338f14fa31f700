package proxy

import (
	"context"
	"flag"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	authnv1 "k8s.io/api/authentication/v1"
	authzv1 "k8s.io/api/authorization/v1"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"

	"keelson.dev/keelson/test/testcluster"
)

// cluster is shared by the package's tests.
var cluster *testcluster.Cluster

func TestMain(m *testing.M) {
	flag.Parse()
	os.Exit(testcluster.Main(m, &cluster))
}

// limit bounds every wait.
const limit = 30 * time.Second

// world is one test's proxy, with a namespace in which the account "deploy" may work.
type world struct {
	*testing.T
	*Proxy
	admin *kubernetes.Clientset
	ns    string
	url   string
	ca    []byte

	mu   sync.Mutex
	told []string
}

func newWorld(t *testing.T, o Options) *world {
	t.Helper()
	w := &world{T: t}
	var err error
	w.admin, err = kubernetes.NewForConfig(cluster.Config)
	w.must(err)
	w.Proxy, err = New(cluster.Config, o)
	w.must(err)
	w.serve(w.Server())
	ns, err := w.admin.CoreV1().Namespaces().Create(t.Context(), &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{GenerateName: "proxy-"}}, metav1.CreateOptions{})
	w.must(err)
	w.ns = ns.Name
	t.Cleanup(func() {
		_ = w.admin.CoreV1().Namespaces().Delete(context.WithoutCancel(t.Context()), w.ns, metav1.DeleteOptions{})
	})
	_, err = w.admin.CoreV1().ServiceAccounts(w.ns).Create(t.Context(), &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Name: "deploy"}}, metav1.CreateOptions{})
	w.must(err)
	_, err = w.admin.RbacV1().Roles(w.ns).Create(t.Context(), &rbacv1.Role{ObjectMeta: metav1.ObjectMeta{Name: "deploy"}, Rules: []rbacv1.PolicyRule{
		{APIGroups: []string{"", "apps"}, Resources: []string{"configmaps", "deployments", "deployments/scale", "pods"}, Verbs: []string{"*"}},
	}}, metav1.CreateOptions{})
	w.must(err)
	_, err = w.admin.RbacV1().RoleBindings(w.ns).Create(t.Context(), &rbacv1.RoleBinding{
		ObjectMeta: metav1.ObjectMeta{Name: "deploy"},
		Subjects:   []rbacv1.Subject{{Kind: "ServiceAccount", Name: "deploy", Namespace: w.ns}},
		RoleRef:    rbacv1.RoleRef{APIGroup: "rbac.authorization.k8s.io", Kind: "Role", Name: "deploy"},
	}, metav1.CreateOptions{})
	w.must(err)
	w.waitAllowed()
	return w
}

// waitAllowed waits until the server's authorizer has seen the role, which it watches.
func (w *world) waitAllowed() {
	w.Helper()
	for deadline := time.Now().Add(limit); time.Now().Before(deadline); time.Sleep(5 * time.Millisecond) {
		review, err := w.admin.AuthorizationV1().SubjectAccessReviews().Create(w.Context(), &authzv1.SubjectAccessReview{Spec: authzv1.SubjectAccessReviewSpec{
			User:               Account{w.ns, "deploy"}.user(),
			ResourceAttributes: &authzv1.ResourceAttributes{Verb: "create", Resource: "configmaps", Namespace: w.ns},
		}}, metav1.CreateOptions{})
		w.must(err)
		if review.Status.Allowed {
			return
		}
	}
	w.Fatal("the role is not in force")
}

// serve has a server listen, and notes where.
func (w *world) serve(server *http.Server) {
	w.Helper()
	authority, err := OpenAuthority(filepath.Join(w.TempDir(), "authority.pem"), time.Now)
	w.must(err)
	authority.Name("127.0.0.1")
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	w.must(err)
	server.TLSConfig = authority.TLS()
	done := make(chan struct{})
	go func() { defer close(done); _ = server.ServeTLS(listener, "", "") }()
	w.Cleanup(func() { server.Close(); <-done })
	w.url, w.ca = "https://"+listener.Addr().String(), authority.PEM()
}

func (w *world) must(err error) {
	w.Helper()
	if err != nil {
		w.Fatal(err)
	}
}

// grant gives a token of the account deploy, for an hour.
func (w *world) grant(change ...func(*Grant)) (string, func()) {
	w.Helper()
	g := Grant{
		Job: "12", Project: "group/shop", Environment: "production", Account: Account{w.ns, "deploy"}, Expires: time.Now().Add(time.Hour),
		OnWrite: w.hear,
	}
	for _, f := range change {
		f(&g)
	}
	token, revoke, err := w.Grant(g)
	w.must(err)
	w.Cleanup(revoke)
	return token, revoke
}

// hear notes what was written, as a line.
func (w *world) hear(x Written) {
	where := strings.Trim(x.Group+"/"+x.Version, "/") + " " + x.Resource
	if x.Subresource != "" {
		where += "/" + x.Subresource
	}
	line := fmt.Sprintf("%s %s %s/%s", x.Verb, where, strings.Replace(x.Namespace, w.ns, "NS", 1), x.Name)
	for _, more := range []struct {
		name string
		is   bool
	}{{"created", x.Created}, {x.Kind, x.Kind != ""}, {"uid", x.UID != ""}, {"version", x.ResourceVersion != ""}} {
		if more.is {
			line += " " + more.name
		}
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.told = append(w.told, line)
}

// written gives what was told since it was last asked.
func (w *world) written() []string {
	w.mu.Lock()
	defer w.mu.Unlock()
	out := w.told
	w.told = nil
	return out
}

// config is what a client reads from the kubeconfig that a job gets.
func (w *world) config(token string) *rest.Config {
	w.Helper()
	b, err := Access{Server: w.url, CA: w.ca, Contexts: []Context{{Name: "group/shop:production", Token: token, Namespace: w.ns}}}.Kubeconfig()
	w.must(err)
	config, err := clientcmd.RESTConfigFromKubeConfig(b)
	w.must(err)
	config.QPS, config.Burst = -1, -1
	return config
}

func (w *world) client(token string) *kubernetes.Clientset {
	w.Helper()
	c, err := kubernetes.NewForConfig(w.config(token))
	w.must(err)
	return c
}

// secretToken is a real token of a service account, as one that somebody has got hold of.
func (w *world) secretToken(namespace, name string) string {
	w.Helper()
	made, err := w.admin.CoreV1().ServiceAccounts(namespace).CreateToken(w.Context(), name, &authnv1.TokenRequest{}, metav1.CreateOptions{})
	w.must(err)
	return made.Status.Token
}
