package release

import (
	"context"
	"flag"
	"fmt"
	"net/http"
	"os"
	"strings"
	"sync"
	"testing"
	"testing/fstest"
	"time"

	"helm.sh/helm/v4/pkg/action"
	helmkube "helm.sh/helm/v4/pkg/kube"
	releasev1 "helm.sh/helm/v4/pkg/release/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/cli-runtime/pkg/genericclioptions"
	"k8s.io/client-go/rest"

	"keelson.dev/keelson/internal/delivery"
	"keelson.dev/keelson/internal/dialect"
	"keelson.dev/keelson/internal/kube"
	"keelson.dev/keelson/internal/render"
	"keelson.dev/keelson/test/testcluster"
)

// cluster is shared by the package's tests.
var cluster *testcluster.Cluster

func TestMain(m *testing.M) {
	if len(os.Args) == 2 && os.Args[1] == render.ChildCommand { // the tests' own program executes templates in a child
		os.Exit(render.ServeChild(os.Stdin, os.Stdout))
	}
	flag.Parse()
	os.Exit(testcluster.Main(m, &cluster))
}

// world is one test's corner of the cluster: a namespace, and an engine of its own whose requests are counted.
type world struct {
	*testing.T
	ctx    context.Context
	kube   *kube.Cluster
	engine *Engine
	ns     string

	mu       sync.Mutex
	requests []string
	changed  map[string]int
}

type recording struct {
	next http.RoundTripper
	w    *world
}

func (r *recording) RoundTrip(req *http.Request) (*http.Response, error) {
	what := req.Method + " " + req.URL.Path
	if req.URL.Query().Get("watch") != "" {
		what = "WATCH " + req.URL.Path
	}
	r.w.mu.Lock()
	r.w.requests = append(r.w.requests, what)
	r.w.mu.Unlock()
	return r.next.RoundTrip(req)
}

func newWorld(t *testing.T) *world {
	t.Helper()
	w := &world{T: t, ctx: t.Context(), changed: map[string]int{}}
	config := rest.CopyConfig(cluster.Config)
	config.Wrap(func(next http.RoundTripper) http.RoundTripper { return &recording{next, w} })
	c, err := kube.NewCluster(config)
	if err != nil {
		t.Fatal(err)
	}
	w.kube = c
	w.engine, err = New(w.ctx, c, Options{Changed: func(namespace, name string) {
		w.mu.Lock()
		defer w.mu.Unlock()
		w.changed[namespace+"/"+name]++
	}})
	if err != nil {
		t.Fatal(err)
	}
	ns := &unstructured.Unstructured{Object: map[string]any{"apiVersion": "v1", "kind": "Namespace", "metadata": map[string]any{"generateName": "release-"}}}
	made, err := w.resource("v1", "namespaces", "").Create(w.ctx, ns, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	w.ns = made.GetName()
	t.Cleanup(func() {
		_ = w.resource("v1", "namespaces", "").Delete(context.WithoutCancel(w.ctx), w.ns, metav1.DeleteOptions{})
	})
	if err := w.engine.records.ready(w.ctx); err != nil {
		t.Fatal(err)
	}
	return w
}

type resourceClient interface {
	Create(context.Context, *unstructured.Unstructured, metav1.CreateOptions, ...string) (*unstructured.Unstructured, error)
	Update(context.Context, *unstructured.Unstructured, metav1.UpdateOptions, ...string) (*unstructured.Unstructured, error)
	UpdateStatus(context.Context, *unstructured.Unstructured, metav1.UpdateOptions) (*unstructured.Unstructured, error)
	Get(context.Context, string, metav1.GetOptions, ...string) (*unstructured.Unstructured, error)
	Delete(context.Context, string, metav1.DeleteOptions, ...string) error
}

func (w *world) resource(version, resource, namespace string) resourceClient {
	group, v, ok := strings.Cut(version, "/")
	if !ok {
		group, v = "", version
	}
	r := w.kube.Self().Dynamic.Resource(schema.GroupVersionResource{Group: group, Version: v, Resource: resource})
	if namespace == "" {
		return r
	}
	return r.Namespace(namespace)
}

func (w *world) get(version, resource, name string) *unstructured.Unstructured {
	w.Helper()
	u, err := w.resource(version, resource, w.ns).Get(w.ctx, name, metav1.GetOptions{})
	if err != nil {
		w.Fatal(err)
	}
	return u
}

// asked forgets the requests so far and gives them.
func (w *world) asked() []string {
	w.mu.Lock()
	defer w.mu.Unlock()
	out := w.requests
	w.requests = nil
	return out
}

// told tells how often a change of a release was told of.
func (w *world) told(name string) int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.changed[w.ns+"/"+name]
}

// files is a chart.
func files(version string, templates map[string]string) fstest.MapFS {
	out := fstest.MapFS{
		"Chart.yaml":  {Data: []byte("apiVersion: v2\nname: web\nversion: " + version + "\nappVersion: \"7\"\n")},
		"values.yaml": {Data: []byte("msg: hello\n")},
	}
	for name, text := range templates {
		out[name] = &fstest.MapFile{Data: []byte(text)}
	}
	return out
}

const configMap = `apiVersion: v1
kind: ConfigMap
metadata:
  name: {{ .Release.Name }}
data:
  msg: {{ .Values.msg }}
`

// release is a release as Git wants it, and the record that a controller would keep.
type release struct {
	*world
	app    delivery.App
	chart  Chart
	values map[string]any
	record delivery.ReleaseRecord
	steps  []string
}

var digests int

func (w *world) release(name string, chart fstest.MapFS) *release {
	wait := delivery.HelmWait{Timeout: 20 * time.Second}
	r := &release{world: w, app: delivery.App{
		ID: delivery.ID{Kind: "HelmRelease", Namespace: w.ns, Name: name}, Generation: 1, Timeout: time.Minute,
		Release: &delivery.HelmRelease{
			Name: name, Namespace: w.ns, StorageNamespace: w.ns, MaxHistory: 5, HookRendering: delivery.HooksCombined,
			Install:   delivery.HelmInstall{HelmWait: wait, HelmWrite: delivery.HelmWrite{CRDs: delivery.CreateCRDs, Apply: delivery.ServerSide, Remediation: delivery.Remediation{By: delivery.UninstallRelease}}},
			Upgrade:   delivery.HelmUpgrade{HelmWait: wait, HelmWrite: delivery.HelmWrite{CRDs: delivery.SkipCRDs, Apply: delivery.AsBefore, Remediation: delivery.Remediation{By: delivery.RollbackRelease}}, ReinstallChart: true},
			Rollback:  delivery.HelmRollback{HelmWait: wait, Apply: delivery.AsBefore},
			Uninstall: delivery.HelmUninstall{HelmWait: wait},
			Test:      delivery.HelmTest{Timeout: 20 * time.Second},
		},
	}}
	r.wants(chart)
	return r
}

// wants makes a chart the one that Git wants.
func (r *release) wants(chart fstest.MapFS) {
	digests++
	r.chart = Chart{Digest: fmt.Sprint("sha256:", digests), Files: chart}
	r.app.Generation++
}

func (r *release) want() Want {
	r.Helper()
	meta, err := r.engine.Meta(r.chart)
	if err != nil {
		r.Fatal(err)
	}
	return Want{App: r.app, ChartName: meta.Name, ChartVersion: meta.Version, ConfigDigest: dialect.ValuesDigest(r.values)}
}

// step decides and acts once; false: there was nothing to do.
func (r *release) step() (Decision, error, bool) {
	r.Helper()
	want := r.want()
	seen, err := r.engine.Observe(r.ctx, r.app, r.record)
	if err != nil {
		r.Fatal(err)
	}
	d := Decide(want, r.record, seen, time.Now())
	r.record = d.Record
	r.steps = append(r.steps, string(d.State)+": "+string(d.Action))
	if !d.Action.Runs() {
		if d.State == InSync {
			r.record = Settled(want, r.record)
		}
		return d, nil, false
	}
	r.record = Begun(want, d)
	res, err := r.engine.Act(r.ctx, Request{Want: want, Chart: r.chart, Values: r.values}, d)
	r.record = Done(want, d, r.record, res, err)
	return d, err, true
}

// settle goes round until there is nothing to do, gives the last decision and the errors of the actions.
func (r *release) settle() (Decision, []error) {
	r.Helper()
	var errs []error
	for range 12 {
		d, err, ran := r.step()
		if err != nil {
			errs = append(errs, err)
		}
		if !ran {
			return d, errs
		}
	}
	r.Fatalf("it does not settle: %s", strings.Join(r.steps, ", "))
	return Decision{}, nil
}

// went checks the steps since the last time.
func (r *release) went(want ...string) {
	r.Helper()
	if got := strings.Join(r.steps, ", "); got != strings.Join(want, ", ") {
		r.Errorf("steps:\n%s\nwant:\n%s", got, strings.Join(want, ", "))
	}
	r.steps = nil
}

// helm is Helm itself, as the helm program configures it.
func (w *world) helm() *action.Configuration {
	w.Helper()
	flags := genericclioptions.NewConfigFlags(false)
	flags.KubeConfig, flags.Namespace = &cluster.Kubeconfig, &w.ns
	cfg := action.NewConfiguration()
	if err := cfg.Init(flags, w.ns, "secret"); err != nil {
		w.Fatal(err)
	}
	return cfg
}

// history is "1 superseded Install complete" for each version, as "helm history" tells it.
func (w *world) history(name string) []string {
	w.Helper()
	all, err := action.NewHistory(w.helm()).Run(name)
	if err != nil {
		w.Fatal(err)
	}
	out := make([]string, len(all))
	for i, r := range all {
		rel := r.(*releasev1.Release)
		out[i] = fmt.Sprintf("%d %s %s", rel.Version, rel.Info.Status, rel.Info.Description)
	}
	return out
}

// helmInstall is "helm install".
func (w *world) helmInstall(name string, chart fstest.MapFS, values map[string]any) {
	w.Helper()
	i := action.NewInstall(w.helm())
	i.ReleaseName, i.Namespace, i.WaitStrategy, i.Timeout = name, w.ns, helmkube.HookOnlyStrategy, time.Minute
	loaded, _, err := loadChart(Chart{Files: chart})
	if err != nil {
		w.Fatal(err)
	}
	if _, err := i.Run(loaded, values); err != nil {
		w.Fatal(err)
	}
}

// eventually waits for what a watch will tell.
func (w *world) eventually(what string, ok func() bool) {
	w.Helper()
	for range 600 {
		if ok() {
			return
		}
		time.Sleep(50 * time.Millisecond)
	}
	w.Fatalf("it does not happen: %s", what)
}

var getOptions metav1.GetOptions
