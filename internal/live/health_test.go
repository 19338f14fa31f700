package live

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/rest"

	"keelson.dev/keelson/internal/delivery"
	"keelson.dev/keelson/internal/health"
	"keelson.dev/keelson/internal/kube"
)

func rules(t *testing.T, current string) *health.Rules {
	t.Helper()
	r, err := health.Compile([]delivery.HealthExpr{{Kind: "ConfigMap", Current: current, Failed: "data.v == 'down'"}})
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func (w *world) gate(name string) []delivery.HealthCheck {
	return []delivery.HealthCheck{{Ref: delivery.Ref{Kind: "ConfigMap", Namespace: w.ns, Name: name}, Version: "v1"}}
}

// probed waits until an app is told a health of its one check.
func (w *world) probed(app delivery.ID, checks []delivery.HealthCheck, want delivery.HealthStatus) {
	w.Helper()
	w.eventually(fmt.Sprintf("health %s for %s", want, app.Name), func() error {
		if got := w.live.Probe(app, checks); len(got) != 1 || got[0].Status != want {
			return fmt.Errorf("health is %+v", got)
		}
		return nil
	})
}

func (w *world) probes() int {
	w.live.mu.RLock()
	defer w.live.mu.RUnlock()
	return len(w.live.probes)
}

// TestProbe follows one object for apps that judge it by the same rules and by others, through its life.
func TestProbe(t *testing.T) {
	w := newWorld(t, Options{Grace: 100 * time.Millisecond})
	a, b, c := testApp("a"), testApp("b"), testApp("c")
	w.live.Judge(c, rules(t, "data.v == 'up'"))
	gate := w.gate("gate")
	for _, app := range []delivery.ID{a, b, c} {
		w.probed(app, gate, delivery.Missing)
	}
	if got := w.probes(); got != 2 {
		t.Errorf("%d watches for three apps with two ways to judge", got)
	}
	told := w.notifications(c)
	u := w.create("v1", "ConfigMap", w.ns, `{"metadata": {"name": "gate"}, "data": {"v": "down"}}`)
	w.probed(a, gate, delivery.Healthy)
	w.probed(b, gate, delivery.Healthy)
	w.probed(c, gate, delivery.Degraded)
	if w.notifications(c) == told {
		t.Error("the app was not told")
	}
	_, err := w.of(u).Patch(w.ctx, "gate", types.MergePatchType, []byte(`{"data": {"v": "up"}}`), metav1.PatchOptions{})
	w.must(err)
	w.probed(c, gate, delivery.Healthy)
	told = w.notifications(a)
	w.create("v1", "ConfigMap", w.ns, `{"metadata": {"name": "another"}}`)
	w.must(w.of(u).Delete(w.ctx, "gate", metav1.DeleteOptions{}))
	w.probed(c, gate, delivery.Missing)
	w.probed(a, gate, delivery.Missing)
	if got := w.notifications(a) - told; got != 1 {
		t.Errorf("told %d times of one loss", got)
	}
	w.live.Judge(c, nil) // as the others now
	w.probed(c, gate, delivery.Missing)
	w.live.Probe(a, nil)
	w.live.Forget(b)
	w.eventually("end of a watch", func() error {
		if got := w.probes(); got != 1 {
			return fmt.Errorf("%d watches", got)
		}
		return nil
	})
	w.live.Forget(c)
	w.eventually("end of the last", func() error {
		if got := w.probes(); got != 0 {
			return fmt.Errorf("%d watches", got)
		}
		return nil
	})
}

// TestProbeOfAnUnknownKind finds a kind that comes later, without anybody asking for it but the timer.
func TestProbeOfAnUnknownKind(t *testing.T) {
	w := newWorld(t, Options{})
	a, group := testApp("a"), w.ns+".example.com"
	checks := []delivery.HealthCheck{{Ref: delivery.Ref{Group: group, Kind: "Gate", Namespace: w.ns, Name: "one"}, Version: "v1"}}
	w.probed(a, checks, delivery.Missing)
	w.define(fmt.Sprintf(`
apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata: {name: gates.%[1]s}
spec:
  group: %[1]s
  scope: Namespaced
  names: {plural: gates, singular: gate, kind: Gate, listKind: GateList}
  versions: [{name: v1, served: true, storage: true, schema: {openAPIV3Schema: {type: object, x-kubernetes-preserve-unknown-fields: true}}}]
`, group))
	w.eventually("the kind to be looked for again", func() error {
		if w.notifications(a) == 0 {
			return errors.New("not told")
		}
		return nil
	})
	w.create(group+"/v1", "Gate", w.ns, `{"metadata": {"name": "one"}, "status": {"conditions": [{"type": "Ready", "status": "True"}]}}`)
	w.probed(a, checks, delivery.Healthy)
}

func TestProbeWithoutRights(t *testing.T) {
	w := newWorld(t, Options{})
	config := rest.CopyConfig(cluster.Config)
	config.Impersonate = rest.ImpersonationConfig{UserName: "nobody-" + w.ns}
	restricted, err := kube.NewCluster(config)
	w.must(err)
	w.live = New(w.ctx, restricted, w.live.opts)
	w.probed(testApp("a"), w.gate("gate"), delivery.UnknownHealth)
}

// TestJudge changes the rules by which objects are judged that are known already and do not change.
func TestJudge(t *testing.T) {
	w := newWorld(t, Options{})
	a, b := testApp("a"), testApp("b")
	is := func(u string, want delivery.HealthStatus) {
		t.Helper()
		if rec, ok := w.live.Get(delivery.Ref{Kind: "ConfigMap", Namespace: w.ns, Name: u}); !ok || rec.Health.Status != want {
			t.Errorf("health of %s is %+v, want %s", u, rec.Health, want)
		}
	}
	w.ensure(a, configMaps)
	w.ensure(b, configMaps)
	w.ours(a, `{apiVersion: v1, kind: ConfigMap, metadata: {name: one}, data: {v: down}}`)
	w.ours(b, `{apiVersion: v1, kind: ConfigMap, metadata: {name: two}, data: {v: down}}`)
	is("one", delivery.Healthy)
	told := w.notifications(a)
	w.live.Judge(a, rules(t, "data.v == 'up'"))
	if synced, err := w.live.Ensure(a, map[schema.GroupVersionKind]bool{configMaps: true}); synced || err != nil {
		t.Errorf("everything is known (%v) while objects are read once more, %v", synced, err)
	}
	w.ensure(a, configMaps)
	is("one", delivery.Degraded)
	is("two", delivery.Healthy) // another app's
	w.eventually("a notification", func() error {
		if w.notifications(a) == told {
			return errors.New("not told")
		}
		return nil
	})
	w.live.Judge(a, rules(t, "data.v == 'up'")) // the same, compiled anew
	if synced, err := w.live.Ensure(a, map[schema.GroupVersionKind]bool{configMaps: true}); !synced || err != nil {
		t.Errorf("the same rules have objects read once more (%v, %v)", synced, err)
	}
	w.live.Judge(a, nil)
	w.ensure(a, configMaps)
	is("one", delivery.Healthy)
}

// TestUndone tells Jobs that went after they had completed from those that went before.
func TestUndone(t *testing.T) {
	w := newWorld(t, Options{})
	a := testApp("a")
	jobs := schema.GroupVersionKind{Group: "batch", Version: "v1", Kind: "Job"}
	w.ensure(a, jobs)
	const job = `{apiVersion: batch/v1, kind: Job, metadata: {name: %s},
		spec: {ttlSecondsAfterFinished: %d, suspend: %t, template: {spec: {restartPolicy: Never, containers: [{name: c, image: i}]}}}}`
	ref := func(name string) delivery.Ref {
		return delivery.Ref{Group: "batch", Kind: "Job", Namespace: w.ns, Name: name}
	}
	w.ours(a, fmt.Sprintf(job, "before", 0, true))
	now := metav1.DeletePropagationBackground
	w.must(w.resource(jobs, w.ns).Delete(context.WithoutCancel(w.ctx), "before", metav1.DeleteOptions{PropagationPolicy: &now}))
	w.gone(ref("before"))
	if !w.live.Undone(ref("before")) {
		t.Error("a Job that never ran is done")
	}
	w.ours(a, fmt.Sprintf(job, "before", 100, true))
	if w.live.Undone(ref("before")) {
		t.Error("a Job that is there again is undone")
	}
}
