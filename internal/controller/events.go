package controller

import (
	"context"
	"fmt"
	"hash/fnv"
	"strings"

	kustomizev1 "github.com/fluxcd/kustomize-controller/api/v1"
	"github.com/fluxcd/pkg/apis/meta"
	corev1 "k8s.io/api/core/v1"
	apimeta "k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	typedcorev1 "k8s.io/client-go/kubernetes/typed/core/v1"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/record"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"keelson.dev/keelson/internal/apply"
	"keelson.dev/keelson/internal/delivery"
	"keelson.dev/keelson/internal/kube"
)

// recorder writes core/v1 events, as kubectl and the flux program read them, without making a step wait. One of client-go's
// recorders writes one event after the other and drops what is too much; several keep up with a cold start of thousands of
// apps. Those of one object go through one recorder, in their order.
type recorder struct {
	events [recorders]record.EventRecorder
	alerts *alerts // are told the same; nil: the cluster does not have the kinds
}

const recorders = 4

// A burst of events about one object is kept whole; client-go's own default drops all but 25 in a few minutes.
const eventBurst, eventQPS = 500, 5

func newRecorder(ctx context.Context, cluster *kube.Cluster, scheme *runtime.Scheme) (*recorder, error) {
	config := rest.CopyConfig(cluster.Config())
	config.ContentType = runtime.ContentTypeProtobuf // cheaper at both ends
	core, err := typedcorev1.NewForConfigAndClient(config, cluster.HTTPClient())
	if err != nil {
		return nil, fmt.Errorf("make event client: %w", err)
	}
	r := &recorder{}
	for i := range r.events {
		b := record.NewBroadcaster(record.WithContext(ctx),
			record.WithCorrelatorOptions(record.CorrelatorOptions{BurstSize: eventBurst, QPS: eventQPS}))
		b.StartRecordingToSink(&typedcorev1.EventSinkImpl{Interface: core.Events("")})
		r.events[i] = b.NewRecorder(scheme, corev1.EventSource{Component: kube.FieldManager})
	}
	return r, nil
}

func (r *recorder) record(obj client.Object, e event) {
	if r.alerts != nil {
		r.alerts.tell(obj, e)
	}
	if e.aside || e.again {
		return
	}
	kind := corev1.EventTypeNormal
	if e.warning {
		kind = corev1.EventTypeWarning
	}
	var annotations map[string]string
	if rev := e.revision.String(); rev != "" {
		annotations = map[string]string{kustomizev1.GroupVersion.Group + "/revision": rev}
	}
	h := fnv.New32a()
	h.Write([]byte(obj.GetUID()))
	r.events[h.Sum32()%recorders].AnnotatedEventf(obj, annotations, kind, e.reason, "%s", bounded(e.message))
}

// maxEvent bounds an event's message: the API refuses more than 1024 bytes.
const maxEvent = 1000

func bounded(s string) string { return boundedTo(s, maxEvent) }

func boundedTo(s string, most int) string {
	if len(s) <= most {
		return s
	}
	return strings.ToValidUTF8(s[:most], "") + "..."
}

// wellness is what the Ready condition of an object says, and at which revision.
type wellness struct {
	status          metav1.ConditionStatus
	reason, message string
	revision        string
}

// wellnessOf reads the status of an object whose conditions are Kubernetes' own.
func wellnessOf(obj client.Object) (s wellness) {
	o, ok := obj.(interface{ GetConditions() []metav1.Condition })
	if !ok {
		return s
	}
	if c := apimeta.FindStatusCondition(o.GetConditions(), meta.ReadyCondition); c != nil {
		s.status, s.reason, s.message = c.Status, c.Reason, c.Message
	}
	s.revision, _ = appliedOf(obj)
	return s
}

// readyEvent tells that an object has got ready: everybody, where it was said to be not well, or else only those who mark its commit.
// Nil where it is no news, or where the events of the step say it already.
func readyEvent(was, now wellness, ill bool, events []event) *event {
	if now.status != metav1.ConditionTrue || !ill && was.status == now.status && was.revision == now.revision {
		return nil
	}
	for _, e := range events {
		if !e.warning && (strings.HasSuffix(e.reason, meta.SucceededReason) || e.reason == newArtifact) {
			return nil
		}
	}
	return &event{reason: now.reason, message: now.message, revision: delivery.ParseRevision(now.revision), aside: !ill}
}

const newArtifact = "NewArtifact"

var verbWords = map[delivery.Verb]string{
	delivery.Create: "created", delivery.Update: "configured", delivery.Delete: "deleted", delivery.Repair: "repaired",
	delivery.Replace: "deleted, to be made anew",
}

// The reasons of events that list what was changed, which is the one that Flux gives them, and what was repaired.
const appliedReason, repairedReason = meta.ProgressingReason, "DriftRepaired"

// changeEvents tells what a stage did: repairs in one event, with the reason for each, everything else in another.
func changeEvents(results []apply.Result, rev delivery.Revision) []event {
	var changed, repaired []string
	for _, r := range results {
		if r.Err != nil || r.NoOp {
			continue
		}
		line := r.Change.Ref.String() + " " + verbWords[r.Change.Verb]
		if len(r.From) > 0 {
			line += ", taken over from " + strings.Join(r.From, ", ")
		}
		if r.Change.Verb == delivery.Repair {
			repaired = append(repaired, line+": it was "+r.Change.Reason)
			continue
		}
		changed = append(changed, line)
	}
	var events []event
	if len(repaired) > 0 {
		events = append(events, event{reason: repairedReason, message: strings.Join(repaired, "\n"), revision: rev})
	}
	if len(changed) > 0 {
		events = append(events, event{reason: appliedReason, message: strings.Join(changed, "\n"), revision: rev})
	}
	return events
}
