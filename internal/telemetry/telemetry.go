// Package telemetry names everything that is counted and timed: what a number means is said here, once, and the rooms that
// do the work add to it.
//
//	telemetry.Renders.WithLabelValues(telemetry.Remembered).Inc()
//	defer telemetry.Timer(telemetry.SourceRequests, "fetch")(&err)
//	ctx, end := telemetry.Span(ctx, "render", telemetry.App(id.String())); defer end(&err)
//
// # Metrics
//
// What happened is counted in Registry. How things stand ([State]) is read when somebody scrapes, and kept nowhere: an app
// that is gone leaves no series behind. Labels are kinds, outcomes and, in keelson_resource_info alone, the names of the
// objects that declare apps and sources; nothing of what is in a repository or in an object becomes a label.
// [Handler] serves it all.
//
// # Spans
//
// [StartTracing] sends spans to an OTLP/HTTP collector if the standard OTEL_ variables of the environment name one. Otherwise
// [Span] costs next to nothing, and nothing is sent anywhere. The spans of a commit's first delivery make one trace, whose
// id is the commit's: see [Commit].
//
// Nothing here can fail the work that it tells of.
package telemetry

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// Registry holds the collectors of this package.
var Registry = prometheus.NewRegistry()

// Outcomes of a render.
const (
	Rendered   = "rendered"   // the objects were made
	Remembered = "remembered" // nothing that the objects are made of has changed: nothing was rendered
	Failed     = "failed"     // the repository cannot be rendered as it is; of other work: it ended with an error
)

// Outcomes of other work, beside [Failed].
const (
	Succeeded = "succeeded"
	NoOp      = "noop" // an apply: the server had it like this already
)

// What became of an app's record at a start.
const (
	Loaded   = "loaded"   // the app need not be rendered
	Missing  = "missing"  // there was none
	Unusable = "unusable" // it is damaged, or another version of the program has written it
)

// Histograms begin where the quick path is (a render from memory, a write to a server on the same machine) and end where
// people have long noticed.
var (
	quick = []float64{.001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10, 30, 60}
	slow  = []float64{.01, .025, .05, .1, .15, .25, .5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600, 1800}
)

// Reconciles times single steps of objects, by the object's kind and the Ready condition's status that a step leaves, in
// small letters ("true", "false", "unknown"; "failed": the step itself could not be done).
var Reconciles = histogram("reconcile_duration_seconds", quick,
	"Duration of one step of an app or a source, by kind and by how it then stands: true, false or unknown (its Ready condition), failed (the step could not be done).",
	"kind", "outcome")

// Deliveries times what a push means to people: from the moment a source's new commit is known until an app made from it is
// ready at that commit. Apps that the commit does not touch are not counted.
var Deliveries = histogram("delivery_duration_seconds", slow,
	"Time from the moment a new commit is known until an app that it changes is ready at it.", "kind")

// Renders counts how an app's objects came about, by outcome.
var Renders = counter("renders_total",
	"How the objects of an app came about: rendered, remembered (nothing they are made of has changed), failed.", "outcome")

// RenderDuration times the renders that were done, by outcome: [Rendered] or [Failed].
var RenderDuration = histogram("render_duration_seconds", quick, "Duration of a render, by outcome: rendered, failed.", "outcome")

// ApplyRequests counts the changes sent to the cluster, by verb (create, update, repair, delete) and result: [Succeeded],
// [NoOp] or [Failed].
var ApplyRequests = counter("apply_requests_total",
	"Changes sent to the cluster, by verb (create, update, repair, delete) and result: succeeded, noop (it was so already), failed.",
	"verb", "result")

// DriftRepaired counts the objects that were put back as Git wants them, by the object's kind.
var DriftRepaired = counter("drift_repaired_total", "Objects that were put back as Git wants them, by their kind.", "kind")

// DriftBackoffs counts the repairs that were put off because earlier ones were undone again and again, by the object's kind.
var DriftBackoffs = counter("drift_backoffs_total",
	"Repairs that were put off because something keeps undoing them, by the kind of the object.", "kind")

// SourceRequests times what sources ask of repositories, by operation (resolve: which commit does the ref name; fetch: bring
// it) and result: [Succeeded] or [Failed]. Sources may share one exchange.
var SourceRequests = histogram("source_request_duration_seconds", quick,
	"Duration of what sources ask of repositories, by operation (resolve, fetch) and result: succeeded, failed.", "operation", "result")

// StatusWrites counts the writes of statuses, by the object's kind and result: [Succeeded] or [Failed].
var StatusWrites = counter("status_writes_total", "Status writes, by kind and result: succeeded, failed.", "kind", "result")

// Records counts the records of deliveries that were read at a start, by result: [Loaded], [Missing] or [Unusable].
var Records = counter("records_total",
	"Records of earlier deliveries that a start looked for, by result: loaded, missing, unusable.", "result")

// Webhooks counts the requests to webhooks, by what became of them: done, unknown (there is no such path), notready, refused,
// busy (there were too many), unread or failed.
var Webhooks = counter("webhooks_total",
	"Requests to webhooks, by result: done, unknown (there is no such path), notready, refused, busy (there were too many), unread, failed.", "result")

// Notifications counts what Alerts ask to be told, by the type of the Provider and by what became of it: sent, failed (an attempt that is
// made again), givenup, dropped (there was too much to send; then the type may be empty).
var Notifications = counter("notifications_total",
	"Notifications of Alerts, by type of Provider and result: sent, failed (tried again), givenup, dropped (there was too much to send).", "type", "result")

// The results of notifications, beside [Failed].
const (
	Sent    = "sent"
	GivenUp = "givenup"
	Dropped = "dropped"
)

// AuditFailures counts what of the audit went wrong, by what it was: record (one was not kept), checkpoint, witness (it has not got a checkpoint).
var AuditFailures = counter("audit_failures_total",
	"What of the audit went wrong: record (what was done is not recorded), checkpoint (none was made), witness (it has not got one).", "what")

// HistoryDropped counts what is not in the history since the database is too slow or broken, by what it is: delivery, repair, the
// fields of one, or the commits that came with one.
var HistoryDropped = counter("history_dropped_total",
	"What is missing in the history, as the database was too slow or broken, by what: delivery, repair, fields, commits.", "what")

func init() {
	Registry.MustRegister(AuditFailures, HistoryDropped, Reconciles, Deliveries, Renders, RenderDuration, ApplyRequests, DriftRepaired, DriftBackoffs,
		SourceRequests, StatusWrites, Records, Webhooks, Notifications)
}

const prefix = "keelson_"

func counter(name, help string, labels ...string) *prometheus.CounterVec {
	return prometheus.NewCounterVec(prometheus.CounterOpts{Name: prefix + name, Help: help}, labels)
}

func histogram(name string, buckets []float64, help string, labels ...string) *prometheus.HistogramVec {
	return prometheus.NewHistogramVec(prometheus.HistogramOpts{Name: prefix + name, Help: help, Buckets: buckets}, labels)
}

// Result is an error as a label.
func Result(err error) string {
	if err != nil {
		return Failed
	}
	return Succeeded
}

// Timer starts a clock; the function that it returns stops it and notes the time in h, under the labels and, as the last
// one, the [Result] of the error it is given.
func Timer(h *prometheus.HistogramVec, labels ...string) func(err *error) {
	start := time.Now()
	return func(err *error) { Took(h, start, append(labels, Result(*err))...) }
}

// Took notes in h the time since start.
func Took(h *prometheus.HistogramVec, start time.Time, labels ...string) {
	h.WithLabelValues(labels...).Observe(time.Since(start).Seconds())
}
