package release

import (
	"strings"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"keelson.dev/keelson/internal/delivery"
)

// edit changes the message of a ConfigMap, as a person would.
func (w *world) edit(name, msg string) {
	w.Helper()
	cm := w.get("v1", "configmaps", name)
	cm.Object["data"].(map[string]any)["msg"] = msg
	if _, err := w.resource("v1", "configmaps", w.ns).Update(w.ctx, cm, metav1.UpdateOptions{FieldManager: "kubectl-edit"}); err != nil {
		w.Fatal(err)
	}
}

// drifts waits until an observation tells of drift, or of none.
func (r *release) drifts(want string) Seen {
	r.Helper()
	var seen Seen
	r.eventually("drift is told of: "+want, func() bool {
		var err error
		if seen, err = r.engine.Observe(r.ctx, r.app, r.record); err != nil {
			r.Fatal(err)
		}
		return strings.Join(seen.Drift, "; ") == want
	})
	return seen
}

func TestDrift(t *testing.T) {
	w := newWorld(t)
	r := w.release("web", files("1.0.0", four("1.0.0")))
	r.app.Release.Drift = delivery.DriftEnabled
	r.settle()
	r.drifts("")
	w.eventually("the watches have caught up", func() bool { r.settle(); return len(w.asked()) == 0 })
	r.settle()
	if asked := w.asked(); len(asked) > 0 {
		t.Errorf("requests where nothing has changed: %s", asked)
	}

	w.edit("web", "edited")
	r.drifts("ConfigMap/" + w.ns + "/web: data.msg")
	w.asked()
	r.drifts("ConfigMap/" + w.ns + "/web: data.msg")
	if asked := w.asked(); len(asked) > 0 {
		t.Errorf("requests for drift that is known: %s", asked)
	}
	r.steps = nil
	if d, errs := r.settle(); d.State != InSync || len(errs) > 0 {
		t.Errorf("%+v %v", d, errs)
	}
	r.went("Drifted: repair", "InSync: none")
	if got := w.get("v1", "configmaps", "web").Object["data"].(map[string]any)["msg"]; got != "hello" {
		t.Errorf("msg: %v", got)
	}
	if got := w.history("web"); len(got) != 1 {
		t.Errorf("a repair made a version: %q", got)
	}

	// An object that is gone comes back.
	if err := w.resource("v1", "services", w.ns).Delete(w.ctx, "web", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	r.drifts("Service/" + w.ns + "/web: it does not exist")
	r.settle()
	w.get("v1", "services", "web")

	// Fields that do not count are left alone, and so is what only is told of.
	r.app.Release.DriftIgnore = []delivery.IgnoreRule{{Paths: []string{"/data/msg"}, Target: &delivery.Selector{Kind: "ConfigMap"}}}
	w.edit("web", "mine")
	time.Sleep(300 * time.Millisecond)
	r.steps = nil
	r.settle()
	r.went("InSync: none")
	r.app.Release.DriftIgnore, r.app.Release.Drift = nil, delivery.DriftWarn
	w.edit("web", "mine too")
	r.drifts("ConfigMap/" + w.ns + "/web: data.msg")
	r.settle()
	r.went("Drifted: none")
	if got := w.get("v1", "configmaps", "web").Object["data"].(map[string]any)["msg"]; got != "mine too" {
		t.Errorf("msg: %v", got)
	}
	if !r.record.Drifted.True() {
		t.Errorf("%+v", r.record.Drifted)
	}
	r.engine.Forget(r.app.ID)
	if n := len(r.engine.objects.watches) + len(r.engine.objects.there); n > 0 {
		t.Errorf("%d watches and objects are kept of an app that is gone", n)
	}
}
