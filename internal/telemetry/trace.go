package telemetry

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"os"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"github.com/go-logr/logr"
	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/exporters/otlp/otlptrace/otlptracehttp"
	"go.opentelemetry.io/otel/propagation"
	"go.opentelemetry.io/otel/sdk/resource"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/trace"
)

// Attr is an attribute of a span.
type Attr = attribute.KeyValue

// App names an app: "Kustomization/team/shop".
func App(id string) Attr { return attribute.String("keelson.app", id) }

// Source names a source: "GitRepository/flux-system/shop".
func Source(id string) Attr { return attribute.String("keelson.source", id) }

// Stage names a stage of a plan.
func Stage(name string) Attr { return attribute.String("keelson.stage", name) }

// Count is a number of things: "objects", "changes", "failed".
func Count(of string, n int) Attr { return attribute.Int("keelson."+of, n) }

// Label is any other attribute of a few possible values: "outcome".
func Label(name, value string) Attr { return attribute.String("keelson."+name, value) }

// tracing is what StartTracing has set up.
type tracing struct {
	tracer trace.Tracer
	redact func(string) string
}

var active atomic.Pointer[tracing] // nil: no spans are made

// TracingOptions say how spans are made.
type TracingOptions struct {
	Version  string                // of this program
	Redact   func(string) string   // takes secrets out of the texts of errors
	Logger   *slog.Logger          // is told when spans cannot be sent
	Exporter sdktrace.SpanExporter // nil: OTLP/HTTP as the environment says
}

// StartTracing makes spans from now on, for the whole process, and sends them to the collector that the environment names:
// OTEL_EXPORTER_OTLP_ENDPOINT or OTEL_EXPORTER_OTLP_TRACES_ENDPOINT. If it names none, or OTEL_SDK_DISABLED=true or
// OTEL_TRACES_EXPORTER=none says so, it does nothing. The other variables of the OpenTelemetry specification for OTLP/HTTP,
// the sampler, the batches and the resource have their usual meaning. An error says which variable asks for what there is not.
//
// stop sends what is left, as long as ctx allows, and makes no more spans; it is never nil.
func StartTracing(ctx context.Context, opts TracingOptions) (stop func(ctx context.Context) error, err error) {
	stop = func(context.Context) error { return nil }
	exporter := opts.Exporter
	if exporter == nil {
		wanted, err := wantedByEnvironment()
		if err != nil || !wanted {
			return stop, err
		}
		otel.SetLogger(logr.FromSlogHandler(opts.Logger.Handler()))
		otel.SetErrorHandler(complainOnce(opts))
		if exporter, err = otlptracehttp.New(ctx); err != nil {
			return stop, fmt.Errorf("make span exporter: %w", err)
		}
	}
	res, err := resource.New(ctx, resource.WithTelemetrySDK(), resource.WithHost(), resource.WithAttributes(
		attribute.String("service.name", "keelson"), attribute.String("service.version", opts.Version),
	), resource.WithFromEnv()) // last: OTEL_SERVICE_NAME and OTEL_RESOURCE_ATTRIBUTES win
	if err != nil && !errors.Is(err, resource.ErrPartialResource) {
		return stop, fmt.Errorf("describe this process to the collector: %w", err)
	}
	provider := sdktrace.NewTracerProvider(sdktrace.WithBatcher(exporter), sdktrace.WithResource(res), sdktrace.WithIDGenerator(commitIDs{}))
	active.Store(&tracing{tracer: provider.Tracer("keelson.dev/keelson"), redact: opts.Redact})
	return func(ctx context.Context) error {
		active.Store(nil)
		return provider.Shutdown(ctx)
	}, nil
}

// Tracing tells whether spans are made: whether it makes sense to find out what they are about.
func Tracing() bool { return active.Load() != nil }

// wantedByEnvironment tells whether the environment asks for spans.
func wantedByEnvironment() (bool, error) {
	get := func(names ...string) string { // the first one that is set
		for _, name := range names {
			if v := strings.TrimSpace(os.Getenv(name)); v != "" {
				return v
			}
		}
		return ""
	}
	if strings.EqualFold(get("OTEL_SDK_DISABLED"), "true") || get("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT") == "" {
		return false, nil
	}
	switch e := get("OTEL_TRACES_EXPORTER"); e {
	case "none":
		return false, nil
	case "", "otlp":
	default:
		return false, fmt.Errorf("OTEL_TRACES_EXPORTER=%s: spans are sent by otlp only", e)
	}
	if p := get("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL"); p != "" && p != "http/protobuf" {
		return false, fmt.Errorf("OTEL_EXPORTER_OTLP_PROTOCOL=%s: spans are sent by http/protobuf only; the port of a collector is usually 4318", p)
	}
	return true, nil
}

// complaintPause is how long the log is silent after it said that spans cannot be sent.
const complaintPause = time.Minute

// complainOnce logs what goes wrong with spans, now and then: a collector that is away fails every few seconds.
func complainOnce(opts TracingOptions) otel.ErrorHandler {
	var last atomic.Int64
	return otel.ErrorHandlerFunc(func(err error) {
		now, before := time.Now().UnixNano(), last.Load()
		if now-before > int64(complaintPause) && last.CompareAndSwap(before, now) {
			opts.Logger.Warn("spans are lost", "error", opts.Redact(err.Error()))
		}
	})
}

type attrsKey struct{}
type traceKey struct{}

// With gives a context whose spans all have attrs.
func With(ctx context.Context, attrs ...Attr) context.Context {
	if active.Load() == nil {
		return ctx
	}
	return context.WithValue(ctx, attrsKey{}, append(slices.Clip(attrsOf(ctx)), attrs...))
}

func attrsOf(ctx context.Context) []Attr {
	attrs, _ := ctx.Value(attrsKey{}).([]Attr)
	return attrs
}

// Commit gives a context whose spans are about a commit: they name it and the ref that led to it (vcs.ref.head.revision,
// vcs.ref.head.name). With first, the ones without a parent belong to the commit's own trace, whose id is the first 32
// digits of the commit's: resolve, fetch and the first delivery of every app, of all sources and clusters that report to
// one collector. What is done about a commit later on (drift, a restart) begins traces of its own.
func Commit(ctx context.Context, commit, ref string, first bool) context.Context {
	if active.Load() == nil || commit == "" {
		return ctx
	}
	ctx = With(ctx, attribute.String("vcs.ref.head.revision", commit), attribute.String("vcs.ref.head.name", ref))
	if id, err := trace.TraceIDFromHex(commit[:min(len(commit), 32)]); err == nil && first {
		ctx = context.WithValue(ctx, traceKey{}, id)
	}
	return ctx
}

// commitIDs makes random ids, but takes a new trace's from the context where Commit has put one.
type commitIDs struct{}

// NewIDs implements [sdktrace.IDGenerator].
func (g commitIDs) NewIDs(ctx context.Context) (trace.TraceID, trace.SpanID) {
	id, ok := ctx.Value(traceKey{}).(trace.TraceID)
	for !ok || !id.IsValid() {
		rand.Read(id[:]) // never fails
		ok = true
	}
	return id, g.NewSpanID(ctx, id)
}

// NewSpanID implements [sdktrace.IDGenerator].
func (commitIDs) NewSpanID(context.Context, trace.TraceID) (id trace.SpanID) {
	for !id.IsValid() {
		rand.Read(id[:])
	}
	return id
}

func noEnd(*error) {}

// Span begins a span; end ends it, as failed if *err is not nil then. Without tracing it does nothing.
func Span(ctx context.Context, name string, attrs ...Attr) (_ context.Context, end func(err *error)) {
	t := active.Load()
	if t == nil {
		return ctx, noEnd
	}
	ctx, span := t.tracer.Start(ctx, name, trace.WithAttributes(attrsOf(ctx)...), trace.WithAttributes(attrs...))
	return ctx, func(err *error) { t.end(span, err) }
}

// Past makes a span of what began at start and ends now: for work of which only its end tells whether it is worth a span.
func Past(ctx context.Context, name string, start time.Time, err error, attrs ...Attr) {
	t := active.Load()
	if t == nil {
		return
	}
	_, span := t.tracer.Start(ctx, name, trace.WithTimestamp(start), trace.WithAttributes(attrsOf(ctx)...), trace.WithAttributes(attrs...))
	t.end(span, &err)
}

func (t *tracing) end(span trace.Span, err *error) {
	if err != nil && *err != nil {
		span.SetStatus(codes.Error, t.redact((*err).Error()))
	}
	span.End()
}

// Note adds attributes to the span that ctx is in: what is known only once its work is done.
func Note(ctx context.Context, attrs ...Attr) {
	if active.Load() != nil {
		trace.SpanFromContext(ctx).SetAttributes(attrs...)
	}
}

// Transport passes the span that a request is made in on to the server (W3C Trace Context: the header "traceparent").
func Transport(next http.RoundTripper) http.RoundTripper { return transport{next} }

type transport struct{ next http.RoundTripper }

// RoundTrip implements [http.RoundTripper].
func (t transport) RoundTrip(req *http.Request) (*http.Response, error) {
	if active.Load() != nil && trace.SpanContextFromContext(req.Context()).IsValid() {
		req = req.Clone(req.Context())
		propagation.TraceContext{}.Inject(req.Context(), propagation.HeaderCarrier(req.Header))
	}
	return t.next.RoundTrip(req)
}

// WrappedRoundTripper lets client-go find the transport below.
func (t transport) WrappedRoundTripper() http.RoundTripper { return t.next }
