package release

import (
	"errors"
	"strings"
	"testing"

	"helm.sh/helm/v4/pkg/action"
)

// four is a chart of four objects.
func four(version string) map[string]string {
	return map[string]string{
		"templates/cm.yaml":     configMap,
		"templates/secret.yaml": "apiVersion: v1\nkind: Secret\nmetadata:\n  name: {{ .Release.Name }}\nstringData:\n  a: b\n",
		"templates/sa.yaml":     "apiVersion: v1\nkind: ServiceAccount\nmetadata:\n  name: {{ .Release.Name }}\n",
		"templates/svc.yaml":    "apiVersion: v1\nkind: Service\nmetadata:\n  name: {{ .Release.Name }}\nspec:\n  selector: {app: x}\n  ports: [{port: 80}]\n",
	}
}

func TestInstall(t *testing.T) {
	w := newWorld(t)
	// What a first release has the cluster asked once is asked now.
	w.release("first", files("1.0.0", four("1.0.0"))).settle()
	w.asked()

	r := w.release("web", files("1.0.0", four("1.0.0")))
	d, errs := r.settle()
	if len(errs) > 0 || d.State != InSync {
		t.Fatalf("%+v %v", d, errs)
	}
	r.went("Absent: install", "InSync: none")
	asked := w.asked()
	count := map[string]int{}
	for _, a := range asked {
		count[strings.Fields(a)[0]]++
	}
	if count["GET"] > 4 || count["PATCH"] != 4 || count["POST"]+count["PUT"] != 2 || len(asked) > 10+count["WATCH"] {
		t.Errorf("requests of an install:\n%s", strings.Join(asked, "\n"))
	}
	r.settle()
	if asked := w.asked(); len(asked) > 0 {
		t.Errorf("requests where nothing has changed: %s", asked)
	}
	if got := w.told("web"); got > 0 {
		t.Errorf("told %d times of what we wrote ourselves", got)
	}

	if got := w.history("web"); len(got) != 1 || got[0] != "1 deployed Install complete" {
		t.Errorf("helm history: %q", got)
	}
	cm := w.get("v1", "configmaps", "web")
	if cm.GetLabels()["helm.toolkit.fluxcd.io/name"] != "web" || cm.GetLabels()["app.kubernetes.io/managed-by"] != "Helm" || cm.GetAnnotations()["meta.helm.sh/release-name"] != "web" {
		t.Errorf("labels %v, annotations %v", cm.GetLabels(), cm.GetAnnotations())
	}
	if len(r.record.Inventory) != 4 || r.record.Latest().Version != 1 || !r.record.Released.True() {
		t.Errorf("record: %+v", r.record)
	}

	// Another process knows it again by what the status says.
	other := newWorld(t)
	again := other.release("web", nil)
	again.ns, again.app, again.chart, again.record, again.steps = r.ns, r.app, r.chart, r.record, nil
	if d, errs := again.settle(); d.State != InSync || len(errs) > 0 {
		t.Errorf("after a restart: %+v %v", d, errs)
	}
	again.went("InSync: none")

	// And an upgrade.
	r.steps = nil
	r.wants(files("1.1.0", map[string]string{"templates/cm.yaml": configMap}))
	r.values = map[string]any{"msg": "other"}
	if d, errs := r.settle(); d.State != InSync || len(errs) > 0 {
		t.Fatalf("%+v %v", d, errs)
	}
	r.went("OutOfSync: upgrade", "InSync: none")
	if got := w.get("v1", "configmaps", "web").Object["data"].(map[string]any)["msg"]; got != "other" {
		t.Errorf("msg: %v", got)
	}
	if _, err := w.resource("v1", "services", w.ns).Get(w.ctx, "web", getOptions); err == nil {
		t.Error("the service is still there")
	}
	if got := w.history("web"); len(got) != 2 || got[0] != "1 superseded Install complete" || got[1] != "2 deployed Upgrade complete" {
		t.Errorf("helm history: %q", got)
	}

	// A person rolls back, with the helm program: it is held until Git wants something else.
	back := action.NewRollback(w.helm())
	back.Version, back.WaitStrategy = 1, "hookOnly"
	if err := back.Run("web"); err != nil {
		t.Fatal(err)
	}
	w.eventually("the rollback is told of", func() bool { return w.told("web") > 0 })
	w.eventually("the rollback is held", func() bool { d, _, _ := r.step(); return d.Action == Hold })
	r.steps = nil
	r.values = map[string]any{"msg": "third"}
	r.app.Generation++
	r.settle()
	r.went("Unmanaged: upgrade", "InSync: none")
	if got := w.history("web"); len(got) != 4 || got[3] != "4 deployed Upgrade complete" {
		t.Errorf("helm history: %q", got)
	}

	// The app goes.
	gone, ok := ForDeletion(r.app, r.record, Seen{})
	if !ok {
		t.Fatal("nothing to uninstall")
	}
	res, err := r.engine.Act(r.ctx, Request{Want: r.want()}, gone)
	if err != nil {
		t.Fatal(err)
	}
	r.record = Done(r.want(), gone, r.record, res, nil)
	if _, ok := ForDeletion(r.app, r.record, Seen{}); ok {
		t.Errorf("there is something left to uninstall: %+v", r.record)
	}
	if _, err := w.resource("v1", "configmaps", w.ns).Get(w.ctx, "web", getOptions); err == nil {
		t.Error("the ConfigMap is still there")
	}
}

// After an uninstall nothing is left to uninstall, whatever version the storage had.
func TestNothingIsUninstalledTwice(t *testing.T) {
	s := newScene()
	d, left := ForDeletion(s.want.App, s.rec, Seen{})
	if !left {
		t.Fatal("want it uninstalled")
	}
	if _, left = ForDeletion(s.want.App, Done(s.want, d, d.Record, Result{}, nil), Seen{}); left {
		t.Error("it is uninstalled once more, and so on for ever")
	}
	if _, left = ForDeletion(s.want.App, Done(s.want, d, d.Record, Result{}, errNo), Seen{}); !left {
		t.Error("an uninstall that failed is not repeated")
	}
}

var errNo = errors.New("no")
