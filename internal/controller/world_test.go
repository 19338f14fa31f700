package controller_test

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"testing"
	"time"

	helmv2 "github.com/fluxcd/helm-controller/api/v2"
	kustomizev1 "github.com/fluxcd/kustomize-controller/api/v1"
	sourcev1 "github.com/fluxcd/source-controller/api/v1"
	admissionregistrationv1 "k8s.io/api/admissionregistration/v1"
	appsv1 "k8s.io/api/apps/v1"
	authnv1 "k8s.io/api/authentication/v1"
	autoscalingv2 "k8s.io/api/autoscaling/v2"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/yaml"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"keelson.dev/keelson/internal/controller"
	"keelson.dev/keelson/internal/deliver"
	"keelson.dev/keelson/internal/delivery"
	"keelson.dev/keelson/internal/git"
	"keelson.dev/keelson/internal/githost"
	"keelson.dev/keelson/internal/kube"
	"keelson.dev/keelson/internal/lua"
	"keelson.dev/keelson/internal/render"
	"keelson.dev/keelson/internal/source"
	"keelson.dev/keelson/internal/telemetry"
	"keelson.dev/keelson/internal/web"
	"keelson.dev/keelson/test/testcluster"
)

// cluster and running are shared by the package's tests: one control plane, one controller.
var (
	cluster *testcluster.Cluster
	running *instance
)

func TestMain(m *testing.M) {
	if len(os.Args) == 2 && os.Args[1] == render.ChildCommand { // the tests' own program renders charts in a child
		os.Exit(render.ServeChild(os.Stdin, os.Stdout))
	}
	if len(os.Args) == 2 && os.Args[1] == lua.ChildCommand {
		os.Exit(lua.ServeChild(os.Stdin, os.Stdout))
	}
	flag.Parse()
	if f := flag.Lookup("test.parallel"); f.Value.String() == f.DefValue { // these tests wait more than they work
		_ = f.Value.Set("8")
	}
	os.Exit(testcluster.Main(testMain{m}, &cluster))
}

// testMain starts the controller once the cluster is there.
type testMain struct{ *testing.M }

func (m testMain) Run() int {
	if err := installCRDs(); err != nil {
		fmt.Fprintln(os.Stderr, "install CRDs:", err)
		return 1
	}
	dir, err := os.MkdirTemp("", "keelson-controller-")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer os.RemoveAll(dir)
	running, err = newInstance(dir)
	if err != nil {
		fmt.Fprintln(os.Stderr, "start the controller:", err)
		return 1
	}
	defer stopOther()
	defer running.close()
	return m.M.Run()
}

// instance is a Git host and a controller that follows it.
type instance struct {
	dir    string
	host   *githost.Host
	server *httptest.Server
	client client.Client
	policy delivery.Policy     // of the next start
	kept   controller.Recorder // of the next start
	shard  labels.Selector     // of the next start; nil: everything
	stop   func()
	looked func(context.Context) (bool, error)
	state  func() telemetry.State
	hooks  http.Handler
	pushed func(match func(url string) bool)

	cluster *testcluster.Cluster
	log     io.Writer
}

func newInstance(dir string) (*instance, error) {
	log := io.Discard
	if testing.Verbose() {
		log = os.Stderr
	}
	return newInstanceIn(dir, cluster, log)
}

// newInstanceIn is newInstance in any cluster.
func newInstanceIn(dir string, cluster *testcluster.Cluster, log io.Writer) (*instance, error) {
	in := &instance{dir: dir, cluster: cluster, log: log}
	scheme, err := controller.Scheme()
	if err != nil {
		return nil, err
	}
	for _, add := range []func(*runtime.Scheme) error{
		appsv1.AddToScheme, authnv1.AddToScheme, batchv1.AddToScheme, autoscalingv2.AddToScheme, rbacv1.AddToScheme,
		apiextensionsv1.AddToScheme, admissionregistrationv1.AddToScheme,
	} {
		if err := add(scheme); err != nil {
			return nil, err
		}
	}
	in.client, err = client.New(cluster.Config, client.Options{Scheme: scheme})
	if err != nil {
		return nil, err
	}
	in.host, err = githost.New(githost.Options{Root: dir + "/git", Token: "token"})
	if err != nil {
		return nil, err
	}
	in.server = httptest.NewServer(in.host)
	return in, in.start()
}

// start runs a controller; stop ends it as a clean shutdown would.
func (in *instance) start() error {
	ctx, cancel := context.WithCancel(context.Background())
	target, err := kube.NewCluster(in.cluster.Config)
	if err != nil {
		cancel()
		return err
	}
	sources, err := source.New(source.Options{Dir: in.dir + "/mirrors"})
	if err != nil {
		cancel()
		return err
	}
	records, err := deliver.OpenRecords(in.dir+"/records", "test")
	if err != nil {
		cancel()
		return err
	}
	c, err := controller.New(ctx, controller.Options{
		Cluster: target, Sources: sources, Records: records, Policy: in.policy, Shard: in.shard, History: in.kept, Webhooks: true, Log: slog.New(slog.NewTextHandler(in.log, &slog.HandlerOptions{Level: slog.LevelWarn})),
	})
	if err != nil {
		cancel()
		return err
	}
	done := make(chan error, 1)
	go func() { done <- c.Run(ctx) }()
	in.looked, in.state, in.hooks, in.pushed = c.Looked, c.State, web.NewHooks(c), c.Pushed
	in.stop = func() {
		cancel()
		<-done
	}
	return nil
}

func (in *instance) close() {
	in.stop()
	in.server.Close()
}

func installCRDs() error {
	c, err := client.New(cluster.Config, client.Options{})
	if err != nil {
		return err
	}
	for _, name := range []string{"source.toolkit.fluxcd.io_gitrepositories", "source.toolkit.fluxcd.io_ocirepositories", "source.toolkit.fluxcd.io_helmrepositories",
		"source.toolkit.fluxcd.io_helmcharts", "notification.toolkit.fluxcd.io_receivers", "notification.toolkit.fluxcd.io_alerts",
		"notification.toolkit.fluxcd.io_providers", "kustomize.toolkit.fluxcd.io_kustomizations",
		"helm.toolkit.fluxcd.io_helmreleases", "argoproj.io_applications", "argoproj.io_applicationsets", "argoproj.io_appprojects"} {
		if err := installCRD(c, name); err != nil {
			return err
		}
	}
	for _, kind := range []string{"source.toolkit.fluxcd.io/v1 OCIRepositoryList", "source.toolkit.fluxcd.io/v1 HelmRepositoryList", "source.toolkit.fluxcd.io/v1 HelmChartList",
		"kustomize.toolkit.fluxcd.io/v1 KustomizationList", "helm.toolkit.fluxcd.io/v2 HelmReleaseList", "notification.toolkit.fluxcd.io/v1beta3 AlertList",
		"notification.toolkit.fluxcd.io/v1beta3 ProviderList", "argoproj.io/v1alpha1 ApplicationList", "argoproj.io/v1alpha1 AppProjectList"} {
		if err := served(c, kind); err != nil {
			return err
		}
	}
	return c.Create(context.Background(), &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "argocd"}})
}

// installCRD creates the definition in a file of config/crd.
func installCRD(c client.Client, name string) error {
	b, err := os.ReadFile("../../config/crd/" + name + ".yaml")
	if err != nil {
		return err
	}
	for _, u := range objects(string(b)) {
		if err := c.Create(context.Background(), u); err != nil && !apierrors.IsAlreadyExists(err) {
			return err
		}
	}
	return nil
}

// served waits until a kind ("group/version List") can be listed.
func served(c client.Client, kind string) (err error) {
	version, name, _ := strings.Cut(kind, " ")
	for deadline := time.Now().Add(30 * time.Second); time.Now().Before(deadline); time.Sleep(50 * time.Millisecond) {
		list := &unstructured.UnstructuredList{}
		list.SetAPIVersion(version)
		list.SetKind(name)
		if err = c.List(context.Background(), list); err == nil {
			return nil
		}
	}
	return err
}

// objects decodes a stream of YAML documents.
func objects(text string) []*unstructured.Unstructured {
	var out []*unstructured.Unstructured
	d := yaml.NewYAMLOrJSONDecoder(bufio.NewReader(strings.NewReader(text)), 4096)
	for {
		u := &unstructured.Unstructured{}
		if err := d.Decode(&u.Object); errors.Is(err, io.EOF) {
			return out
		} else if err != nil {
			panic(err)
		}
		if len(u.Object) > 0 {
			out = append(out, u)
		}
	}
}

// world is one test's corner: a namespace, a repository and its source.
type world struct {
	*testing.T
	ctx    context.Context
	client client.Client
	ns     string
	repo   *git.Repository
	head   string
}

// limit bounds every wait.
const limit = 60 * time.Second

// newWorld makes a namespace with a repository of its own and a GitRepository "repo" that follows its main branch.
func newWorld(t *testing.T) *world {
	t.Helper()
	w := &world{T: t, ctx: t.Context(), client: running.client}
	ns := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{GenerateName: "test-"}}
	w.must(w.client.Create(w.ctx, ns))
	w.ns = ns.Name
	w.must(running.host.Create(w.ctx, w.ns))
	var err error
	w.repo, err = git.Open(running.host.Dir(w.ns), git.Options{})
	w.must(err)
	t.Cleanup(func() { w.cleanup() })
	w.apply(fmt.Sprintf(`
apiVersion: source.toolkit.fluxcd.io/v1
kind: GitRepository
metadata: {name: repo}
spec: {interval: 1h, url: %s, ref: {branch: main}}
`, w.url()))
	return w
}

func (w *world) url() string { return running.server.URL + "/git/" + w.ns + ".git" }

// cleanup removes the test's apps and sources, so that they cost the other tests nothing.
func (w *world) cleanup() {
	ctx := context.Background()
	_ = w.repo.Close()
	var ks kustomizev1.KustomizationList
	w.must(w.client.List(ctx, &ks, client.InNamespace(w.ns)))
	for i := range ks.Items {
		w.must(client.IgnoreNotFound(w.client.Delete(ctx, &ks.Items[i])))
	}
	w.must(w.client.DeleteAllOf(ctx, &helmv2.HelmRelease{}, client.InNamespace(w.ns)))
	for _, obj := range []client.Object{&sourcev1.GitRepository{}, &sourcev1.OCIRepository{}, &sourcev1.HelmChart{}, &sourcev1.HelmRepository{}} {
		w.must(w.client.DeleteAllOf(ctx, obj, client.InNamespace(w.ns)))
	}
}

func (w *world) must(err error) {
	w.Helper()
	if err != nil {
		w.Fatal(err)
	}
}

// push commits files (an empty content deletes) and has the controller look at the repository, as a push to the
// built-in host or a webhook does. It returns the revision.
func (w *world) push(files map[string]string) string {
	w.Helper()
	w.commit(files)
	w.reconcileSource()
	return "main@sha1:" + w.head
}

// reconcileSource asks for a fetch with the field's own annotation.
func (w *world) reconcileSource() {
	w.Helper()
	patch := fmt.Sprintf(`{"metadata":{"annotations":{"reconcile.fluxcd.io/requestedAt":%q}}}`, time.Now().Format(time.RFC3339Nano))
	w.must(w.client.Patch(w.ctx, &sourcev1.GitRepository{ObjectMeta: w.named("repo")}, client.RawPatch("application/merge-patch+json", []byte(patch))))
}

func (w *world) named(name string) metav1.ObjectMeta {
	return metav1.ObjectMeta{Namespace: w.ns, Name: name}
}

// apply creates or updates objects given as YAML, in the test's namespace unless they name one. "$ns" stands for it.
func (w *world) apply(text string) {
	w.Helper()
	for _, u := range objects(strings.ReplaceAll(text, "$ns", w.ns)) {
		if u.GetNamespace() == "" && u.GetKind() != "Namespace" && !strings.HasPrefix(u.GetKind(), "Cluster") && u.GetKind() != "CustomResourceDefinition" {
			u.SetNamespace(w.ns)
		}
		w.must(w.client.Patch(w.ctx, u, client.Apply, client.FieldOwner("kubectl"), client.ForceOwnership)) //nolint:staticcheck // objects are untyped here
	}
}

// app declares a Kustomization; extra are further lines of its spec.
func (w *world) app(name, extra string) {
	w.Helper()
	w.apply(fmt.Sprintf(`
apiVersion: kustomize.toolkit.fluxcd.io/v1
kind: Kustomization
metadata: {name: %s}
spec:
  interval: 1h
  retryInterval: 2s
  timeout: 20s
  path: ./%s
  prune: true
  sourceRef: {kind: GitRepository, name: repo}
%s`, name, name, extra))
}

func (w *world) kustomization(name string) *kustomizev1.Kustomization {
	w.Helper()
	k := &kustomizev1.Kustomization{}
	w.must(w.client.Get(w.ctx, client.ObjectKey{Namespace: w.ns, Name: name}, k))
	return k
}

// eventually waits until check no longer gives an error.
func (w *world) eventually(what string, check func() error) {
	w.Helper()
	var err error
	for deadline := time.Now().Add(limit); time.Now().Before(deadline); time.Sleep(10 * time.Millisecond) {
		if err = check(); err == nil {
			return
		}
	}
	w.Fatalf("%s: still after %s: %v", what, limit, err)
}

// condition waits until an app's Ready condition has the status and reason and its message contains every part.
func (w *world) condition(app string, status metav1.ConditionStatus, reason string, parts ...string) metav1.Condition {
	w.Helper()
	return w.conditionOf(&kustomizev1.Kustomization{ObjectMeta: w.named(app)}, status, reason, parts...)
}

// sourceReady reads a source's Ready condition.
func (w *world) sourceReady(name string) (metav1.Condition, error) {
	var g sourcev1.GitRepository
	if err := w.client.Get(w.ctx, client.ObjectKey{Namespace: w.ns, Name: name}, &g); err != nil {
		return metav1.Condition{}, err
	}
	c := meta.FindStatusCondition(g.Status.Conditions, "Ready")
	if c == nil {
		return metav1.Condition{}, errors.New("no Ready condition")
	}
	return *c, nil
}

type conditioned interface {
	client.Object
	GetConditions() []metav1.Condition
}

func (w *world) conditionOf(obj conditioned, status metav1.ConditionStatus, reason string, parts ...string) metav1.Condition {
	w.Helper()
	var c *metav1.Condition
	w.eventually("condition of "+obj.GetName(), func() error {
		if err := w.client.Get(w.ctx, client.ObjectKeyFromObject(obj), obj); err != nil {
			return err
		}
		c = meta.FindStatusCondition(obj.GetConditions(), "Ready")
		if c == nil {
			return errors.New("no Ready condition")
		}
		if c.Status != status || c.Reason != reason || c.ObservedGeneration != obj.GetGeneration() {
			return fmt.Errorf("Ready is %s %s %q, want %s %s", c.Status, c.Reason, c.Message, status, reason)
		}
		for _, part := range parts {
			if !strings.Contains(c.Message, part) {
				return fmt.Errorf("message %q, want %q in it", c.Message, part)
			}
		}
		return nil
	})
	return *c
}

// ready waits until an app is ready at a revision.
func (w *world) ready(app, revision string) {
	w.Helper()
	w.condition(app, metav1.ConditionTrue, "ReconciliationSucceeded", revision)
}

// data reads a ConfigMap; nil: it is not there.
func (w *world) data(name string) map[string]string {
	w.Helper()
	var cm corev1.ConfigMap
	err := w.client.Get(w.ctx, client.ObjectKey{Namespace: w.ns, Name: name}, &cm)
	if apierrors.IsNotFound(err) {
		return nil
	}
	w.must(err)
	if cm.Data == nil {
		return map[string]string{}
	}
	return cm.Data
}

// value waits until a ConfigMap's key "v" has a value; "" waits until it is gone.
func (w *world) value(name, want string) {
	w.Helper()
	w.eventually("ConfigMap "+name, func() error {
		if got := w.data(name)["v"]; got != want {
			return fmt.Errorf("v is %q, want %q", got, want)
		}
		return nil
	})
}

// configMap is a manifest with one value.
func (w *world) configMap(name, value string) string {
	return fmt.Sprintf("apiVersion: v1\nkind: ConfigMap\nmetadata: {name: %s, namespace: %s}\ndata: {v: %q}\n", name, w.ns, value)
}

// events lists the reasons and messages of an app's events.
func (w *world) events(app string) []string {
	w.Helper()
	var list corev1.EventList
	w.must(w.client.List(w.ctx, &list, client.InNamespace(w.ns)))
	var out []string
	for _, e := range list.Items {
		if e.InvolvedObject.Name == app {
			out = append(out, e.Reason+": "+e.Message)
		}
	}
	return out
}

// event waits for an event whose text contains every part.
func (w *world) event(app string, parts ...string) {
	w.Helper()
	w.eventually("event of "+app, func() error {
		all := w.events(app)
	next:
		for _, e := range all {
			for _, part := range parts {
				if !strings.Contains(e, part) {
					continue next
				}
			}
			return nil
		}
		return fmt.Errorf("none of %q has all of %q", all, parts)
	})
}

// request is one line of the API server's audit log.
type request struct {
	Verb, UserAgent, RequestURI string
	ObjectRef                   struct{ Resource, Namespace, Name, Subresource string }
	ImpersonatedUser            struct{ Username string }
}

// requests reads the audit log from a position on and returns what keelson sent, and the new position.
func requests(t *testing.T, from int64) ([]request, int64) {
	t.Helper()
	return requestsIn(t, cluster.AuditLog, from)
}

// requestsIn is requests of any cluster's audit log.
func requestsIn(t *testing.T, log string, from int64) ([]request, int64) {
	t.Helper()
	f, err := os.Open(log)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := f.Seek(from, io.SeekStart); err != nil {
		t.Fatal(err)
	}
	b, err := io.ReadAll(f)
	if err != nil {
		t.Fatal(err)
	}
	end := strings.LastIndexByte(string(b), '\n') + 1
	var out []request
	for line := range strings.Lines(string(b[:end])) {
		var r request
		if err := json.Unmarshal([]byte(line), &r); err != nil {
			t.Fatalf("audit log: %v", err)
		}
		if r.UserAgent == kube.FieldManager && r.Verb != "watch" {
			out = append(out, r)
		}
	}
	return out, from + int64(end)
}
