package controller_test

import (
	"context"
	"fmt"
	"log/slog"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"
	corev1 "k8s.io/api/core/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"keelson.dev/keelson/internal/redact"
	"keelson.dev/keelson/internal/telemetry"
)

// kept is an exporter whose spans outlive it.
type kept struct{ *tracetest.InMemoryExporter }

func (kept) Shutdown(context.Context) error { return nil }

// spansOf gives the spans that were made while f ran.
func spansOf(w *world, f func()) []sdktrace.ReadOnlySpan {
	w.Helper()
	exporter := kept{tracetest.NewInMemoryExporter()}
	stop, err := telemetry.StartTracing(w.ctx, telemetry.TracingOptions{Redact: redact.Text, Logger: slog.New(slog.DiscardHandler), Exporter: exporter})
	w.must(err)
	f()
	w.must(stop(w.ctx))
	return exporter.GetSpans().Snapshots()
}

// counted gives the present value of a metric of ours; of a histogram, its count.
func counted(w *world, name string, labels ...string) float64 {
	w.Helper()
	families, err := prometheus.Gatherers{telemetry.Registry}.Gather()
	w.must(err)
	for _, f := range families {
		if f.GetName() != name {
			continue
		}
		for _, m := range f.GetMetric() {
			if matches(m, labels) {
				return m.GetCounter().GetValue() + float64(m.GetHistogram().GetSampleCount())
			}
		}
	}
	return 0
}

func matches(m *dto.Metric, labels []string) bool {
	var got []string
	for _, l := range m.GetLabel() {
		got = append(got, l.GetName()+"="+l.GetValue())
	}
	return cmp.Equal(got, labels)
}

// TestCommitIsOneTrace follows a commit from the repository to a ready app, in spans and in numbers.
func TestCommitIsOneTrace(t *testing.T) {
	w := newWorld(t)
	w.app("app", "  wait: true")
	w.ready("app", w.push(map[string]string{"app/a.yaml": w.configMap("a", "1")}))
	metrics := map[string][]string{
		"keelson_delivery_duration_seconds":       {"kind=Kustomization"},
		"keelson_apply_requests_total":            {"result=succeeded", "verb=update"},
		"keelson_render_duration_seconds":         {"outcome=rendered"},
		"keelson_source_request_duration_seconds": {"operation=fetch", "result=succeeded"},
	}
	before := map[string]float64{}
	for name, labels := range metrics {
		before[name] = counted(w, name, labels...)
	}
	var rev string
	spans := spansOf(w, func() {
		rev = w.push(map[string]string{"app/a.yaml": w.configMap("a", "2")})
		w.ready("app", rev)
		w.quiet()
	})
	for name, labels := range metrics {
		if n := counted(w, name, labels...) - before[name]; n < 1 || n > 1 && name != "keelson_source_request_duration_seconds" {
			t.Errorf("%s%v counts %v, want 1", name, labels, n)
		}
	}

	commit := w.head
	app := "Kustomization/" + w.ns + "/app"
	about := map[string]string{} // name of a span of the commit's trace -> the app that it is about
	parents := map[string]string{}
	names := map[string]string{} // by id
	for _, s := range spans {
		names[s.SpanContext().SpanID().String()] = s.Name()
	}
	for _, s := range spans {
		if s.SpanContext().TraceID().String() != commit[:32] {
			continue
		}
		attrs := map[string]string{}
		for _, a := range s.Attributes() {
			attrs[string(a.Key)] = a.Value.String()
		}
		if attrs["vcs.ref.head.revision"] != commit || attrs["vcs.ref.head.name"] != "main" || attrs["keelson.source"] != "GitRepository/"+w.ns+"/repo" {
			t.Errorf("%s is about %v", s.Name(), attrs)
		}
		if attrs["keelson.app"] != "" {
			about[s.Name()], parents[s.Name()] = attrs["keelson.app"], names[s.Parent().SpanID().String()]
		} else if strings.HasPrefix(s.Name(), "source.") {
			about[s.Name()] = ""
		}
	}
	want := map[string]string{"source.resolve": "", "source.fetch": "", "reconcile": app, "render": app, "plan": app, "apply": app, "status": app}
	if diff := cmp.Diff(want, about); diff != "" {
		t.Errorf("the trace of the commit (-want +got):\n%s", diff)
	}
	wantParents := map[string]string{"reconcile": "", "render": "reconcile", "plan": "reconcile", "apply": "reconcile", "status": "reconcile"}
	if diff := cmp.Diff(wantParents, parents); diff != "" {
		t.Errorf("parents (-want +got):\n%s", diff)
	}
}

// TestDriftAndStateAreCounted breaks an object by hand and looks at the numbers.
func TestDriftAndStateAreCounted(t *testing.T) {
	w := newWorld(t)
	w.app("app", "")
	w.ready("app", w.push(map[string]string{"app/a.yaml": w.configMap("a", "1")}))
	repaired := counted(w, "keelson_drift_repaired_total", "kind=ConfigMap")
	cm := &corev1.ConfigMap{ObjectMeta: w.named("a")}
	w.must(w.client.Delete(w.ctx, cm))
	w.eventually("the repair is counted", func() error {
		if n := counted(w, "keelson_drift_repaired_total", "kind=ConfigMap") - repaired; n < 1 {
			return fmt.Errorf("%v repairs", n)
		}
		return w.client.Get(w.ctx, client.ObjectKeyFromObject(cm), cm)
	})
	want := telemetry.Resource{Kind: "Kustomization", Namespace: w.ns, Name: "app", Ready: "True"}
	w.eventually("the state names the app and the watch", func() error {
		state := running.state()
		app, watched := false, false
		for _, r := range state.Resources {
			app = app || r == want
		}
		for _, k := range state.Watches {
			watched = watched || k.Kind == "ConfigMap" && k.Open >= 1 && k.Objects >= 1
		}
		if !app || !watched {
			return fmt.Errorf("app %t, watched %t: %+v", app, watched, state)
		}
		return nil
	})
}
