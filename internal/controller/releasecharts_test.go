package controller

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"reflect"
	"strings"
	"sync"
	"testing"
	"time"

	sourcev1 "github.com/fluxcd/source-controller/api/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"keelson.dev/keelson/internal/delivery"
	"keelson.dev/keelson/internal/dialect"
	"keelson.dev/keelson/internal/source"
)

// declared is what a cache would have.
type declared map[string]client.Object

func (d declared) add(obj client.Object, name string) {
	obj.SetNamespace("team")
	obj.SetName(name)
	d[fmt.Sprintf("%T %s", obj, name)] = obj
}

func (d declared) Get(_ context.Context, key client.ObjectKey, into client.Object, _ ...client.GetOption) error {
	obj, ok := d[fmt.Sprintf("%T %s", into, key.Name)]
	if !ok || key.Namespace != obj.GetNamespace() {
		return apierrors.NewNotFound(schema.GroupResource{}, key.Name)
	}
	reflect.ValueOf(into).Elem().Set(reflect.ValueOf(obj.DeepCopyObject()).Elem())
	return nil
}

func (d declared) List(context.Context, client.ObjectList, ...client.ListOption) error { return nil }

// unreadable is a cache that cannot give HelmCharts.
type unreadable struct{ declared }

func (u unreadable) Get(ctx context.Context, key client.ObjectKey, into client.Object, opts ...client.GetOption) error {
	if _, ok := into.(*sourcev1.HelmChart); ok {
		return apierrors.NewTimeoutError("the cache has no list yet", 1)
	}
	return u.declared.Get(ctx, key, into, opts...)
}

// chartWorld is a chart repository over HTTP and what follows it.
type chartWorld struct {
	*testing.T
	*releaseCharts
	objects declared
	server  *httptest.Server

	mu       sync.Mutex
	woken    map[delivery.ID]int
	requests int
}

const chartIndex = "apiVersion: v1\nentries:\n  web:\n  - {version: 1.2.0, digest: %s, urls: [web.tgz]}\n  - {version: 1.1.0, digest: %s, urls: [web.tgz]}\n"

// packedChart packs the chart "web" in version 1.2.0, with files of values.
func packedChart() []byte {
	var b bytes.Buffer
	z := gzip.NewWriter(&b)
	w := tar.NewWriter(z)
	for _, f := range [][2]string{{"Chart.yaml", "apiVersion: v2\nname: web\nversion: 1.2.0\n"}, {"values.yaml", "a: 1\nb: 1\n"}, {"prod.yaml", "b: 2\n"}} {
		_ = w.WriteHeader(&tar.Header{Name: "web/" + f[0], Mode: 0o644, Size: int64(len(f[1]))})
		_, _ = io.WriteString(w, f[1])
	}
	w.Close()
	z.Close()
	return b.Bytes()
}

func newChartWorld(t *testing.T, dir string) *chartWorld {
	t.Helper()
	w := &chartWorld{T: t, objects: declared{}, woken: map[delivery.ID]int{}}
	archive := packedChart()
	digest := fmt.Sprintf("%x", sha256.Sum256(archive))
	w.server = httptest.NewServer(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		w.mu.Lock()
		w.requests++
		w.mu.Unlock()
		if r.URL.Path == "/web.tgz" {
			_, _ = rw.Write(archive)
			return
		}
		fmt.Fprintf(rw, chartIndex, digest, digest)
	}))
	t.Cleanup(w.server.Close)
	sources, err := source.New(source.Options{Dir: dir})
	if err != nil {
		t.Fatal(err)
	}
	wakes := wakes{"HelmRelease": func(id delivery.ID) {
		w.mu.Lock()
		defer w.mu.Unlock()
		w.woken[id]++
	}}
	repos := newRepositories(follower{
		reg: newRegistry(), sources: sources, now: time.Now, life: t.Context(), log: slog.New(slog.DiscardHandler), slots: newLanes(fetches, fetchesPerHost), wake: wakes.wake,
	}, func(delivery.ID) {}, newTrickle(wakes.wake), func() {})
	wakes[dialect.RepositoryChartKind] = repos.queue.Add
	w.releaseCharts = newReleaseCharts(repos, w.objects, w.objects, wakes.wake)
	go func() { _ = repos.Start(t.Context()) }()
	return w
}

func chartOf(name string) delivery.ID {
	return delivery.ID{Kind: "HelmRelease", Namespace: "team", Name: name}
}

// arrive makes the snapshot of a declared source known, as its follower does.
func (w *chartWorld) arrive(id delivery.ID, src delivery.Source) delivery.Revision {
	w.Helper()
	src.ID = id
	rev, err := w.repos.sources.Resolve(w.Context(), src)
	if err != nil {
		w.Fatal(err)
	}
	snap, err := w.repos.sources.Fetch(w.Context(), src, rev)
	if err != nil {
		w.Fatal(err)
	}
	st := w.reg.source(id)
	w.reg.with(func() { st.snapshot = snap })
	w.inform(id)
	return rev
}

// eventually asks until there is a chart.
func (w *chartWorld) eventually(find func() (releaseChart, error)) releaseChart {
	w.Helper()
	for deadline := time.Now().Add(20 * time.Second); time.Now().Before(deadline); time.Sleep(5 * time.Millisecond) {
		c, err := find()
		if err == nil {
			return c
		}
		if !errors.Is(err, errNotYet) {
			w.Fatal(err)
		}
	}
	w.Fatal("no chart in time")
	return releaseChart{}
}

func (w *chartWorld) repository(name string) delivery.ID {
	h := &sourcev1.HelmRepository{Spec: sourcev1.HelmRepositorySpec{URL: w.server.URL}}
	w.objects.add(h, name)
	return delivery.ID{Kind: sourcev1.HelmRepositoryKind, Namespace: "team", Name: name}
}

// TestReleasesShareCharts: what several releases want is fetched once, costs nothing as long as nothing changes, and is let go of with
// the last one.
func TestReleasesShareCharts(t *testing.T) {
	w := newChartWorld(t, t.TempDir())
	template := delivery.ChartTemplate{Name: "web", Version: "1.x", Source: delivery.ID{Kind: sourcev1.HelmRepositoryKind, Namespace: "team", Name: "charts"}, Interval: time.Hour}
	find := func(name string) func() (releaseChart, error) {
		return func() (releaseChart, error) { return w.find(t.Context(), chartOf(name), template, 1) }
	}
	if f := (*delivery.Fault)(nil); !errors.As(second(find("a")()), &f) || f.Reason != "SourceUnavailable" || f.Retry != delivery.OnEvent {
		t.Errorf("no repository: %v", f)
	}
	id := w.repository("charts")
	if _, err := find("a")(); !errors.Is(err, errNotYet) {
		t.Errorf("no index yet: %v", err)
	}
	index := w.arrive(id, delivery.Source{URL: w.server.URL, Index: true})
	if w.woken[chartOf("a")] != 1 {
		t.Error("news of the repository does not wake the release")
	}
	c := w.eventually(find("a"))
	if c.Name != "web" || c.Version != "1.2.0" || c.Path != "." || c.SourceRevision != index.String() || c.URL != w.server.URL || c.OCIDigest != "" {
		t.Errorf("chart %+v", c)
	}
	if d := w.eventually(find("b")); d.Key() != c.Key() {
		t.Errorf("keys %q and %q", c.Key(), d.Key())
	}
	for range 100 {
		w.eventually(find("a"))
	}
	if w.requests != 2 { // the index, and the archive
		t.Errorf("%d requests", w.requests)
	}
	template.ValuesFiles = []string{"values.yaml", "prod.yaml"}
	v := w.eventually(find("b"))
	if v.Version != "1.2.0+1" || len(v.ValuesFiles) != 2 || v.Key() == c.Key() || w.requests != 2 {
		t.Errorf("chart %+v after %d requests", v, w.requests)
	}
	made := &sourcev1.HelmChart{ObjectMeta: metav1.ObjectMeta{Generation: 4}, Spec: sourcev1.HelmChartSpec{
		Chart: "web", Version: "1.x", ValuesFiles: template.ValuesFiles, SourceRef: sourcev1.LocalHelmChartSourceReference{Kind: sourcev1.HelmRepositoryKind, Name: "charts"},
	}}
	w.objects.add(made, "team-b") // by Flux, for the release b
	if v := w.eventually(find("b")); v.Version != "1.2.0+4" {
		t.Errorf("version %s", v.Version)
	}
	w.cache = unreadable{w.objects}
	if f := (*delivery.Fault)(nil); !errors.As(second(find("b")()), &f) || f.Reason != "SourceUnavailable" || !strings.Contains(f.Error(), "HelmChart team/team-b") {
		t.Errorf("a HelmChart that cannot be read: %v", f)
	}
	w.cache = w.objects
	made.Spec.Version = "2.x"
	if v := w.eventually(find("b")); v.Version != "1.2.0+1" {
		t.Errorf("version %s", v.Version)
	}
	w.drop(chartOf("a"))
	if len(w.repos.wanted) != 1 {
		t.Errorf("wanted %v", w.repos.wanted)
	}
	w.drop(chartOf("b"))
	if len(w.repos.wanted)+len(w.follows)+len(w.users)+len(w.found)+len(w.whole) != 0 {
		t.Errorf("nobody wants anything: %v %v %v %v", w.repos.wanted, w.follows, w.users, w.found)
	}
	template.Source.Kind = sourcev1.BucketKind
	if _, err := find("a")(); err == nil || !strings.Contains(err.Error(), "spec.sourceRef.kind Bucket: not supported yet; nothing is fetched "+
		"(hint: publish what is in the Bucket as a GitRepository, a HelmRepository or an OCIRepository, and refer to that)") {
		t.Errorf("a Bucket: %v", err)
	}
}

func second(_ releaseChart, err error) error { return err }

// TestChartsOfReferences: a release may name a HelmChart, which may be suspended.
func TestChartsOfReferences(t *testing.T) {
	w := newChartWorld(t, t.TempDir())
	ref := delivery.ID{Kind: sourcev1.HelmChartKind, Namespace: "team", Name: "web"}
	find := func() (releaseChart, error) { return w.findRef(t.Context(), chartOf("a"), ref) }
	if _, err := find(); err == nil || !strings.Contains(err.Error(), "HelmChart/team/web does not exist") {
		t.Errorf("no HelmChart: %v", err)
	}
	w.arrive(w.repository("charts"), delivery.Source{URL: w.server.URL, Index: true})
	chart := &sourcev1.HelmChart{ObjectMeta: metav1.ObjectMeta{Generation: 7}, Spec: sourcev1.HelmChartSpec{
		Chart: "web", Version: "*", ValuesFiles: []string{"prod.yaml"}, SourceRef: sourcev1.LocalHelmChartSourceReference{Kind: sourcev1.HelmRepositoryKind, Name: "charts"},
	}}
	w.objects.add(chart, "web")
	if c := w.eventually(find); c.Version != "1.2.0+7" || len(c.ValuesFiles) != 1 {
		t.Errorf("chart %+v", c)
	}
	before := w.woken[chartOf("a")]
	w.inform(ref)
	w.inform(delivery.ID{Kind: sourcev1.HelmRepositoryKind, Namespace: "team", Name: "charts"})
	if got := w.woken[chartOf("a")]; got != before+2 {
		t.Errorf("woken %d times, want %d", got, before+2)
	}
	if _, err := w.findRef(t.Context(), chartOf("a"), delivery.ID{Kind: "ExternalArtifact", Name: "x"}); err == nil || !strings.Contains(err.Error(), "spec.chartRef.kind ExternalArtifact") {
		t.Errorf("an ExternalArtifact: %v", err)
	}
}

// TestChartsAfterARestart: a repository that is away after a start still gives the charts that were fetched before.
func TestChartsAfterARestart(t *testing.T) {
	dir := t.TempDir()
	template := delivery.ChartTemplate{Name: "web", Version: "1.x", Source: delivery.ID{Kind: sourcev1.HelmRepositoryKind, Namespace: "team", Name: "charts"}, Interval: time.Hour}
	w := newChartWorld(t, dir)
	index := w.arrive(w.repository("charts"), delivery.Source{URL: w.server.URL, Index: true})
	c := w.eventually(func() (releaseChart, error) { return w.find(t.Context(), chartOf("a"), template, 1) })
	w.server.Close()

	again := newChartWorld(t, dir)
	again.server.URL = w.server.URL
	id := again.repository("charts")
	snap, err := again.repos.sources.Fetch(t.Context(), delivery.Source{ID: id, URL: w.server.URL, Index: true}, index) // as its follower does
	if err != nil {
		t.Fatal(err)
	}
	st := again.reg.source(id)
	again.reg.with(func() { st.snapshot = snap })
	if d := again.eventually(func() (releaseChart, error) { return again.find(t.Context(), chartOf("a"), template, 1) }); d.Key() != c.Key() {
		t.Errorf("keys %q and %q", c.Key(), d.Key())
	}
}
