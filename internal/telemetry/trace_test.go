package telemetry

import (
	"cmp"
	"context"
	"encoding/hex"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	gocmp "github.com/google/go-cmp/cmp"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"
	commonpb "go.opentelemetry.io/proto/otlp/common/v1"
	tracepb "go.opentelemetry.io/proto/otlp/trace/v1"
	"google.golang.org/protobuf/proto"
)

const commit = "0123456789abcdef0123456789abcdef01234567"

// collector is an OTLP/HTTP receiver.
type collector struct {
	mu      sync.Mutex
	spans   []*tracepb.Span
	service string
	status  int
	paths   map[string]int
}

func startCollector(t *testing.T) (*collector, string) {
	c := &collector{status: http.StatusOK, paths: map[string]int{}}
	server := httptest.NewServer(c)
	t.Cleanup(server.Close)
	return c, server.URL
}

func (c *collector) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	var data tracepb.TracesData // on the wire the same as an ExportTraceServiceRequest
	if err == nil {
		err = proto.Unmarshal(body, &data)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.paths[r.Method+" "+r.URL.Path+" "+r.Header.Get("Content-Type")]++
	if err != nil {
		c.status = http.StatusBadRequest
	}
	w.Header().Set("Content-Type", "application/x-protobuf")
	w.WriteHeader(c.status)
	for _, rs := range data.GetResourceSpans() {
		c.service = text(rs.GetResource().GetAttributes())["service.name"]
		for _, ss := range rs.GetScopeSpans() {
			c.spans = append(c.spans, ss.GetSpans()...)
		}
	}
	slices.SortFunc(c.spans, func(a, b *tracepb.Span) int { return cmp.Compare(a.GetStartTimeUnixNano(), b.GetStartTimeUnixNano()) })
}

func text(attrs []*commonpb.KeyValue) map[string]string {
	m := map[string]string{}
	for _, a := range attrs {
		m[a.GetKey()] = a.GetValue().GetStringValue()
	}
	return m
}

func redacted(s string) string { return strings.ReplaceAll(s, "s3cret", "***") }

func TestSpansReachACollector(t *testing.T) {
	col, url := startCollector(t)
	t.Setenv("OTEL_EXPORTER_OTLP_ENDPOINT", url)
	t.Setenv("OTEL_SERVICE_NAME", "staging")
	stop, err := StartTracing(t.Context(), TracingOptions{Version: "v1", Redact: redacted, Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	ctx := Commit(With(t.Context(), App("Kustomization/ns/app")), commit, "main", true)
	Past(ctx, "source.resolve", time.Now().Add(-time.Second), nil)
	func() {
		failed := errors.New("password s3cret is wrong")
		outer, end := Span(ctx, "reconcile")
		defer end(&failed)
		inner, done := Span(outer, "apply", Stage("objects"))
		defer done(nil)
		Note(inner, Count("changes", 2))
	}()
	later, end := Span(Commit(t.Context(), commit, "main", false), "reconcile")
	end(nil)
	_ = later
	if err := stop(t.Context()); err != nil {
		t.Fatal(err)
	}

	if want := (map[string]int{"POST /v1/traces application/x-protobuf": 1}); !gocmp.Equal(want, col.paths) || col.service != "staging" {
		t.Errorf("requests %v from %q, want %v from staging", col.paths, col.service, want)
	}
	if len(col.spans) != 4 {
		t.Fatalf("%d spans, want 4", len(col.spans))
	}
	resolve, reconcile, apply, again := col.spans[0], col.spans[1], col.spans[2], col.spans[3]
	for i, name := range []string{"source.resolve", "reconcile", "apply", "reconcile"} {
		if col.spans[i].GetName() != name || text(col.spans[i].GetAttributes())["vcs.ref.head.revision"] != commit {
			t.Errorf("span %d is %s of %v, want %s of the commit", i, col.spans[i].GetName(), text(col.spans[i].GetAttributes()), name)
		}
	}
	for _, s := range []*tracepb.Span{resolve, reconcile, apply} {
		if hex.EncodeToString(s.GetTraceId()) != commit[:32] {
			t.Errorf("%s is in trace %x, want that of the commit", s.GetName(), s.GetTraceId())
		}
	}
	if hex.EncodeToString(again.GetTraceId()) == commit[:32] {
		t.Error("what is done about a commit later on joins its first trace")
	}
	if d := resolve.GetEndTimeUnixNano() - resolve.GetStartTimeUnixNano(); d < uint64(time.Second) {
		t.Errorf("the span of the past took %d ns, want a second", d)
	}
	if string(apply.GetParentSpanId()) != string(reconcile.GetSpanId()) || len(reconcile.GetParentSpanId()) != 0 {
		t.Error("apply is not below reconcile")
	}
	if s := reconcile.GetStatus(); s.GetCode() != tracepb.Status_STATUS_CODE_ERROR || s.GetMessage() != "password *** is wrong" {
		t.Errorf("status %v, want an error without the password", s)
	}
	if got := text(apply.GetAttributes())["keelson.stage"]; got != "objects" || apply.GetStatus().GetCode() == tracepb.Status_STATUS_CODE_ERROR {
		t.Errorf("apply has stage %q and status %v", got, apply.GetStatus())
	}
}

func TestTracingByEnvironment(t *testing.T) {
	cases := map[string]struct {
		env    map[string]string
		wanted bool
		fault  string
	}{
		"nothing is set":     {},
		"an endpoint":        {env: map[string]string{"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:4318"}, wanted: true},
		"one for traces":     {env: map[string]string{"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://127.0.0.1:4318/v1/traces"}, wanted: true},
		"the sdk is off":     {env: map[string]string{"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:4318", "OTEL_SDK_DISABLED": "true"}},
		"traces are off":     {env: map[string]string{"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:4318", "OTEL_TRACES_EXPORTER": "none"}},
		"another exporter":   {env: map[string]string{"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:4318", "OTEL_TRACES_EXPORTER": "zipkin"}, fault: "OTEL_TRACES_EXPORTER=zipkin"},
		"another protocol":   {env: map[string]string{"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:4317", "OTEL_EXPORTER_OTLP_PROTOCOL": "grpc"}, fault: "http/protobuf only"},
		"only traces differ": {env: map[string]string{"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:4318", "OTEL_EXPORTER_OTLP_PROTOCOL": "grpc", "OTEL_EXPORTER_OTLP_TRACES_PROTOCOL": "http/protobuf"}, wanted: true},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			for _, v := range []string{"OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_SDK_DISABLED",
				"OTEL_TRACES_EXPORTER", "OTEL_EXPORTER_OTLP_PROTOCOL", "OTEL_EXPORTER_OTLP_TRACES_PROTOCOL"} {
				t.Setenv(v, tc.env[v])
			}
			stop, err := StartTracing(t.Context(), TracingOptions{Redact: redacted, Logger: slog.New(slog.DiscardHandler)})
			if got := active.Load() != nil; got != tc.wanted || (err != nil) != (tc.fault != "") || err != nil && !strings.Contains(err.Error(), tc.fault) {
				t.Errorf("tracing %t, error %v; want %t, %q", got, err, tc.wanted, tc.fault)
			}
			if err := stop(t.Context()); err != nil || active.Load() != nil {
				t.Errorf("stop: %v", err)
			}
		})
	}
}

// A collector that refuses spans is heard of once, and delays nothing.
func TestCollectorThatRefuses(t *testing.T) {
	col, url := startCollector(t)
	col.status = http.StatusForbidden
	t.Setenv("OTEL_EXPORTER_OTLP_ENDPOINT", url+"/?token=s3cret")
	t.Setenv("OTEL_BSP_MAX_EXPORT_BATCH_SIZE", "1")
	var log strings.Builder
	var mu sync.Mutex
	stop, err := StartTracing(t.Context(), TracingOptions{Redact: redacted, Logger: slog.New(slog.NewTextHandler(lockedWriter{&mu, &log}, nil))})
	if err != nil {
		t.Fatal(err)
	}
	for range 5 {
		_, end := Span(t.Context(), "render")
		end(nil)
	}
	_ = stop(t.Context())
	mu.Lock()
	defer mu.Unlock()
	if n := strings.Count(log.String(), "spans are lost"); n != 1 || strings.Contains(log.String(), "s3cret") {
		t.Errorf("the log has %d complaints, want 1 without the token:\n%s", n, log.String())
	}
}

type lockedWriter struct {
	mu *sync.Mutex
	w  io.Writer
}

func (l lockedWriter) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.w.Write(p)
}

func TestTransportSendsTraceParent(t *testing.T) {
	exporter := tracetest.NewInMemoryExporter()
	stop, err := StartTracing(t.Context(), TracingOptions{Redact: redacted, Logger: slog.New(slog.DiscardHandler), Exporter: exporter})
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	server := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { got = append(got, r.Header.Get("Traceparent")) }))
	defer server.Close()
	client := &http.Client{Transport: Transport(http.DefaultTransport)}
	ctx, end := Span(Commit(t.Context(), commit, "main", true), "apply")
	for _, ctx := range []context.Context{ctx, t.Context()} {
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, server.URL, nil)
		if err != nil {
			t.Fatal(err)
		}
		res, err := client.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		res.Body.Close()
		if req.Header.Get("Traceparent") != "" {
			t.Error("the caller's request was changed")
		}
	}
	end(nil)
	if err := stop(t.Context()); err != nil {
		t.Fatal(err)
	}
	if want := "00-" + commit[:32] + "-"; len(got) != 2 || !strings.HasPrefix(got[0], want) || got[1] != "" {
		t.Errorf("traceparent %q, want %s… and none", got, want)
	}
}
