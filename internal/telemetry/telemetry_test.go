package telemetry

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"
)

// scrape asks a handler as Prometheus does and gives the lines of one metric family.
func scrape(t *testing.T, h http.Handler, families ...string) string {
	t.Helper()
	server := httptest.NewServer(h)
	defer server.Close()
	res, err := http.Get(server.URL)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	body, err := io.ReadAll(res.Body)
	if err != nil || res.StatusCode != http.StatusOK {
		t.Fatalf("status %d, error %v: %s", res.StatusCode, err, body)
	}
	var lines []string
	for line := range strings.Lines(string(body)) {
		name, _, _ := strings.Cut(strings.TrimSpace(line), "{")
		if name, _, _ = strings.Cut(name, " "); slices.Contains(families, name) {
			lines = append(lines, line)
		}
	}
	return strings.Join(lines, "")
}

func handler(state State, more ...prometheus.Gatherer) http.Handler {
	return Handler(slog.New(slog.DiscardHandler), "v1", func() State { return state }, more...)
}

func TestStateIsReadWhenScraped(t *testing.T) {
	state := State{
		Resources: []Resource{
			{Kind: "GitRepository", Namespace: "ns", Name: "repo", Ready: "True"},
			{Kind: "Kustomization", Namespace: "ns", Name: "a", Ready: "True"},
			{Kind: "Kustomization", Namespace: "ns", Name: "b", Ready: "False"},
			{Kind: "Kustomization", Namespace: "ns", Name: "c", Ready: "True", Suspended: true},
			{Kind: "Kustomization", Namespace: "ns", Name: "d"},
		},
		Watches: []Watch{{Group: "apps", Kind: "Deployment", Open: 1, Objects: 7}, {Kind: "ConfigMap", Open: 2, Objects: 3}},
	}
	h := Handler(slog.New(slog.DiscardHandler), "v1", func() State { return state })
	want := `keelson_resource_info{kind="GitRepository",name="repo",namespace="ns",ready="True",suspended="false"} 1
keelson_resource_info{kind="Kustomization",name="a",namespace="ns",ready="True",suspended="false"} 1
keelson_resource_info{kind="Kustomization",name="b",namespace="ns",ready="False",suspended="false"} 1
keelson_resource_info{kind="Kustomization",name="c",namespace="ns",ready="True",suspended="true"} 1
keelson_resource_info{kind="Kustomization",name="d",namespace="ns",ready="Unknown",suspended="false"} 1
keelson_resources{kind="GitRepository",ready="True",suspended="false"} 1
keelson_resources{kind="Kustomization",ready="False",suspended="false"} 1
keelson_resources{kind="Kustomization",ready="True",suspended="false"} 1
keelson_resources{kind="Kustomization",ready="True",suspended="true"} 1
keelson_resources{kind="Kustomization",ready="Unknown",suspended="false"} 1
keelson_watched_objects{group="",kind="ConfigMap"} 3
keelson_watched_objects{group="apps",kind="Deployment"} 7
keelson_watches{group="",kind="ConfigMap"} 2
keelson_watches{group="apps",kind="Deployment"} 1
`
	got := scrape(t, h, "keelson_resource_info", "keelson_resources", "keelson_watches", "keelson_watched_objects")
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("metrics (-want +got):\n%s", diff)
	}
	state = State{Resources: state.Resources[:1]} // what is gone leaves nothing behind
	want = `keelson_resource_info{kind="GitRepository",name="repo",namespace="ns",ready="True",suspended="false"} 1
`
	if diff := cmp.Diff(want, scrape(t, h, "keelson_resource_info", "keelson_watches", "keelson_watched_objects")); diff != "" {
		t.Errorf("metrics (-want +got):\n%s", diff)
	}
}

func TestSeriesAreBounded(t *testing.T) {
	var state State
	for i := range maxInfo + 10 {
		state.Resources = append(state.Resources, Resource{Kind: "Kustomization", Namespace: "ns", Name: fmt.Sprint(i), Ready: "True"})
	}
	state.Resources[maxInfo+9].Ready = "False" // the last one
	h := handler(state)
	info := scrape(t, h, "keelson_resource_info")
	if n := strings.Count(info, "\n"); n != maxInfo {
		t.Errorf("%d series, want %d", n, maxInfo)
	}
	if !strings.Contains(info, fmt.Sprintf(`name="%d",namespace="ns",ready="False"`, maxInfo+9)) {
		t.Error("the one that is not ready is left out")
	}
	want := `keelson_resource_info_omitted{kind="Kustomization"} 10
keelson_resources{kind="Kustomization",ready="False",suspended="false"} 1
keelson_resources{kind="Kustomization",ready="True",suspended="false"} ` + fmt.Sprint(maxInfo+9) + "\n"
	if diff := cmp.Diff(want, scrape(t, h, "keelson_resources", "keelson_resource_info_omitted")); diff != "" {
		t.Errorf("metrics (-want +got):\n%s", diff)
	}
}

// One registry that fails (a library's) must not hide the numbers of all others.
func TestHandlerServesWhatItCanGather(t *testing.T) {
	other := prometheus.NewRegistry()
	gauge := prometheus.NewGauge(prometheus.GaugeOpts{Name: "workqueue_depth"})
	gauge.Set(3)
	other.MustRegister(gauge, brokenCollector{})
	h := handler(State{Watches: []Watch{{Kind: "Pod", Open: 1}}}, other)
	want := "keelson_watches{group=\"\",kind=\"Pod\"} 1\nworkqueue_depth 3\n"
	if diff := cmp.Diff(want, scrape(t, h, "keelson_watches", "workqueue_depth")); diff != "" {
		t.Errorf("metrics (-want +got):\n%s", diff)
	}
}

type brokenCollector struct{}

func (brokenCollector) Describe(chan<- *prometheus.Desc) {}
func (brokenCollector) Collect(out chan<- prometheus.Metric) {
	out <- prometheus.NewInvalidMetric(prometheus.NewDesc("broken", "", nil, nil), errors.New("no"))
}

// Every metric follows the conventions: our prefix, a unit or _total, a help text, and valid text on the wire.
func TestMetricsAreNamedAsUsual(t *testing.T) {
	Took(RenderDuration, time.Now(), Rendered)
	err := error(nil)
	Timer(SourceRequests, "fetch")(&err)
	err = errors.New("no")
	Timer(SourceRequests, "fetch")(&err)
	for _, c := range []*prometheus.CounterVec{ApplyRequests, StatusWrites} {
		c.WithLabelValues("x", Result(err)).Inc()
	}
	for _, c := range []*prometheus.CounterVec{Renders, DriftRepaired, DriftBackoffs, Records} {
		c.WithLabelValues("x").Inc()
	}
	Took(Reconciles, time.Now(), "x", "true")
	Took(Deliveries, time.Now(), "x")

	server := httptest.NewServer(handler(State{Watches: []Watch{{Kind: "Pod", Open: 1}}}))
	defer server.Close()
	res, err := http.Get(server.URL)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	parser := expfmt.NewTextParser(model.LegacyValidation)
	families, err := parser.TextToMetricFamilies(res.Body)
	if err != nil {
		t.Fatal(err)
	}
	if len(families) < 12 {
		t.Fatalf("%d families only", len(families))
	}
	for name, f := range families {
		if !strings.HasPrefix(name, prefix) || f.GetHelp() == "" {
			t.Errorf("%s: no prefix, or no help", name)
		}
		switch kind := strings.ToLower(f.GetType().String()); {
		case kind == "counter" && !strings.HasSuffix(name, "_total"), kind == "histogram" && !strings.HasSuffix(name, "_seconds"),
			kind == "gauge" && (strings.HasSuffix(name, "_total") || strings.HasSuffix(name, "_seconds")):
			t.Errorf("%s is a %s", name, kind)
		}
	}
	got := scrape(t, handler(State{}), "keelson_source_request_duration_seconds_count")
	want := `keelson_source_request_duration_seconds_count{operation="fetch",result="failed"} 1
keelson_source_request_duration_seconds_count{operation="fetch",result="succeeded"} 1
`
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("timer (-want +got):\n%s", diff)
	}
}

// Without tracing nothing is made, kept in a context or sent along.
func TestNoTracing(t *testing.T) {
	ctx := context.Background()
	with := Commit(With(ctx, App("a")), strings.Repeat("ab", 20), "main", true)
	inner, end := Span(with, "render")
	err := errors.New("no")
	Note(inner, Count("objects", 1))
	Past(inner, "resolve", time.Now(), err)
	end(&err)
	if with != ctx || inner != ctx {
		t.Error("the context was changed")
	}
	allocs := testing.AllocsPerRun(100, func() {
		c, end := Span(ctx, "render")
		_ = c
		end(nil)
	})
	if allocs != 0 {
		t.Errorf("a span that is not made costs %v allocations", allocs)
	}
}
