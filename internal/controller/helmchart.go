package controller

import (
	"context"
	"errors"
	"sync"
	"time"

	fluxmeta "github.com/fluxcd/pkg/apis/meta"
	sourcev1 "github.com/fluxcd/source-controller/api/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"keelson.dev/keelson/internal/deliver"
	"keelson.dev/keelson/internal/delivery"
	"keelson.dev/keelson/internal/dialect"
	"keelson.dev/keelson/internal/redact"
)

// helmCharts tell of the charts that HelmCharts declare. What is made from one finds the chart itself, by the same way.
type helmCharts struct {
	charts *releaseCharts
	now    func() time.Time

	mu     sync.Mutex
	states map[types.NamespacedName]*helmChartState
}

// helmChartState is what is known of one HelmChart. It is changed only by the one worker that has its key.
type helmChartState struct {
	uid      types.UID
	declared int64  // the generation last looked at
	asked    string // the request that was passed on
	failures int
	reminder reminder
}

func helmChartID(name types.NamespacedName) delivery.ID {
	return delivery.ID{Kind: sourcev1.HelmChartKind, Namespace: name.Namespace, Name: name.Name}
}

func (h *helmCharts) empty() *sourcev1.HelmChart { return &sourcev1.HelmChart{} }

func (h *helmCharts) about(ctx context.Context, _ *sourcev1.HelmChart) context.Context { return ctx }

func (h *helmCharts) remove(context.Context, *sourcev1.HelmChart) (removal, error) {
	return removal{done: true}, nil
}

func (h *helmCharts) forget(name types.NamespacedName) {
	id := helmChartID(name)
	h.charts.drop(id)
	h.charts.inform(id)
	h.mu.Lock()
	defer h.mu.Unlock()
	delete(h.states, name)
}

// state gives what is known of a HelmChart.
func (h *helmCharts) state(obj *sourcev1.HelmChart) *helmChartState {
	name := client.ObjectKeyFromObject(obj)
	h.mu.Lock()
	defer h.mu.Unlock()
	st := h.states[name]
	if st == nil || st.uid != obj.UID {
		st = &helmChartState{uid: obj.UID, asked: obj.Status.LastHandledReconcileAt}
		h.states[name] = st
	}
	return st
}

func (h *helmCharts) step(ctx context.Context, obj *sourcev1.HelmChart, _ pen) next {
	id, st := helmChartID(client.ObjectKeyFromObject(obj)), h.state(obj)
	if st.declared != obj.Generation {
		st.declared, st.failures = obj.Generation, 0
		h.charts.inform(id)
	}
	if obj.Spec.Suspend {
		return next{}
	}
	found, err := h.charts.find(ctx, id, dialect.HelmChart(obj), obj.Generation)
	if requested := obj.Annotations[fluxmeta.ReconcileRequestAnnotation]; requested != st.asked {
		st.asked = requested
		h.charts.refresh(id)
	}
	switch {
	case ctx.Err() != nil || !h.charts.refreshed(id) || errors.Is(err, errNotYet):
		return next{} // news of it wakes this
	case err != nil:
		return h.fail(obj, st, err)
	}
	art := dialect.ChartArtifact{
		Name: found.Name, Version: found.Version, Digest: found.Snapshot.Digest, URL: redact.URL(found.URL),
		SourceRevision: found.SourceRevision, ValuesFiles: found.ValuesFiles,
	}
	if found.Stale != nil {
		return h.fail(obj, st, found.Stale)
	}
	st.failures = 0
	out := delivery.Outcome{Phase: delivery.Ready, Handled: st.asked}
	out.Reason, out.Message = art.Summary(obj)
	n := next{after: max(obj.Spec.Interval.Duration, poll)}
	if a := obj.Status.Artifact; a == nil || a.Revision != art.Version || a.Digest != art.Digest {
		n.events = []event{{reason: out.Reason, message: out.Message, revision: found.Snapshot.Revision}}
	}
	obj.Status = dialect.HelmChartStatus(obj, out, art, h.now())
	return n
}

func (h *helmCharts) fail(obj *sourcev1.HelmChart, st *helmChartState, err error) next {
	f := delivery.FaultOf(err, "ChartPullError")
	st.failures++
	out := delivery.Outcome{Phase: delivery.Failing, Reason: f.Reason, Message: redact.Text(f.Error()), Handled: st.asked}
	n := next{after: max(obj.Spec.Interval.Duration, poll)}
	if dialect.ChartStalls(f.Reason) {
		out.Phase = delivery.Stalled
	} else if f.Retry == delivery.Backoff {
		n.after = deliver.Backoff(st.failures, obj.Spec.Interval.Duration)
	}
	n.events = st.reminder.failed(obj.Status.Conditions, out, delivery.Revision{})
	obj.Status = dialect.HelmChartStatus(obj, out, dialect.ChartArtifact{}, h.now())
	return n
}
