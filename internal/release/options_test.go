package release

import (
	"context"
	"strings"
	"testing"
	"testing/fstest"
	"time"

	"helm.sh/helm/v4/pkg/action"
	chartcommon "helm.sh/helm/v4/pkg/chart/common"
	helmkube "helm.sh/helm/v4/pkg/kube"
	"helm.sh/helm/v4/pkg/release/common"
	releasev1 "helm.sh/helm/v4/pkg/release/v1"
	"helm.sh/helm/v4/pkg/storage"
	"helm.sh/helm/v4/pkg/storage/driver"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"

	"keelson.dev/keelson/internal/delivery"
	"keelson.dev/keelson/internal/kube"
)

const definition = `apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata:
  name: things.GROUP
spec:
  group: GROUP
  names: {kind: Thing, plural: things, singular: thing}
  scope: Namespaced
  versions:
  - name: v1
    served: true
    storage: true
    schema:
      openAPIV3Schema:
        type: object
        properties:
          spec: {type: object, properties: {PROPERTY: {type: string}}}
`

func TestDefinitions(t *testing.T) {
	w := newWorld(t)
	group := w.ns + ".example.org"
	chart := func(version, property string) fstest.MapFS {
		f := files(version, map[string]string{
			"templates/thing.yaml": "{{ if .Capabilities.APIVersions.Has \"GROUP/v1/Thing\" }}\napiVersion: GROUP/v1\nkind: Thing\nmetadata: {name: a}\nspec: {PROPERTY: x}\n{{ end }}",
		})
		f["crds/things.yaml"] = &fstest.MapFile{Data: []byte(definition)}
		for _, name := range []string{"crds/things.yaml", "templates/thing.yaml"} {
			f[name].Data = []byte(strings.NewReplacer("GROUP", group, "PROPERTY", property).Replace(string(f[name].Data)))
		}
		return f
	}
	r := w.release("web", chart("1.0.0", "first"))
	if d, errs := r.settle(); d.State != InSync || len(errs) > 0 {
		t.Fatalf("%+v %v", d, errs)
	}
	if _, err := w.resource(group+"/v1", "things", w.ns).Get(w.ctx, "a", getOptions); err != nil {
		t.Fatal(err)
	}
	if len(r.record.Inventory) != 2 {
		t.Errorf("inventory: %v", r.record.Inventory.Refs())
	}

	r.wants(chart("1.1.0", "second"))
	r.app.Release.Upgrade.CRDs = delivery.ReplaceCRDs
	if d, errs := r.settle(); d.State != InSync || len(errs) > 0 {
		t.Fatalf("%+v %v", d, errs)
	}
	thing, err := w.resource(group+"/v1", "things", w.ns).Get(w.ctx, "a", getOptions)
	if err != nil || thing.Object["spec"].(map[string]any)["second"] != "x" {
		t.Errorf("%v %v", thing, err)
	}

	// The definition is taken away under us: an uninstall still works.
	if err := w.resource("apiextensions.k8s.io/v1", "customresourcedefinitions", "").Delete(w.ctx, "things."+group, metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	w.eventually("the definition is gone", func() bool {
		_, err := w.resource(group+"/v1", "things", w.ns).Get(w.ctx, "a", getOptions)
		return err != nil
	})
	if err := w.kube.ForgetKinds(); err != nil {
		t.Fatal(err)
	}
	gone, _ := ForDeletion(r.app, r.record, Seen{})
	if _, err := r.engine.Act(r.ctx, Request{Want: r.want()}, gone); err != nil {
		t.Errorf("uninstall: %v", err)
	}
}

func TestPostRenderers(t *testing.T) {
	w := newWorld(t)
	hook := strings.ReplaceAll(configMap, "name: {{ .Release.Name }}", "name: hook\n  annotations: {helm.sh/hook: pre-install}")
	r := w.release("web", files("1.0.0", with(simple(), "templates/hook.yaml", hook)))
	r.app.Release.PostRenderers = []delivery.PostRenderer{{Patches: []delivery.Patch{{
		Patch: "- op: add\n  path: /data/added\n  value: \"3\"", Target: &delivery.Selector{Kind: "ConfigMap", Name: "web"},
	}}}}
	r.app.Common = delivery.Metadata{Labels: map[string]string{"team": "blue"}, Annotations: map[string]string{"note": "yes"}}
	r.app.Release.Install.CreateNamespace = true
	if d, errs := r.settle(); d.State != InSync || len(errs) > 0 {
		t.Fatalf("%+v %v", d, errs)
	}
	cm := w.get("v1", "configmaps", "web")
	if cm.Object["data"].(map[string]any)["added"] != "3" || cm.GetLabels()["team"] != "blue" || cm.GetAnnotations()["note"] != "yes" {
		t.Errorf("%v", cm.Object)
	}
	if got := w.get("v1", "configmaps", "hook").GetLabels()["team"]; got != "blue" {
		t.Errorf("the hook's labels: %q", got)
	}

	r.app.Release.PostRenderers[0].Patches[0].Target = &delivery.Selector{Kind: "ConfigMap"}
	r.app.Release.PostRenderers[0].Patches[0].Patch = "- op: remove\n  path: /data/nothing"
	r.app.Release.PostRenderersDigest = "sha256:p"
	r.app.Generation++
	_, err, _ := r.step()
	if f := faultOf(t, []error{err}); f.Where != "spec.postRenderers[0]" {
		t.Errorf("%v", f)
	}
}

func TestLookup(t *testing.T) {
	w := newWorld(t)
	text := strings.ReplaceAll(configMap, "{{ .Values.msg }}", `{{ (lookup "v1" "Namespace" "" .Release.Namespace).metadata.name }}-{{ len (lookup "v1" "ConfigMap" .Release.Namespace "no-such") }}`)
	r := w.release("web", files("1.0.0", map[string]string{"templates/cm.yaml": text}))
	if d, errs := r.settle(); d.State != InSync || len(errs) > 0 {
		t.Fatalf("%+v %v", d, errs)
	}
	if got := w.get("v1", "configmaps", "web").Object["data"].(map[string]any)["msg"]; got != w.ns+"-0" {
		t.Errorf("msg: %v", got)
	}
}

func TestClientSide(t *testing.T) {
	w := newWorld(t)
	r := w.release("web", files("1.0.0", simple()))
	r.app.Release.Install.Apply = delivery.ClientSide
	r.settle()
	r.wants(files("1.1.0", simple()))
	r.values = map[string]any{"msg": "other"}
	r.settle()
	r.wants(files("1.2.0", simple()))
	r.app.Release.Upgrade.Apply = delivery.ServerSide
	r.values = map[string]any{"msg": "third"}
	if d, errs := r.settle(); d.State != InSync || len(errs) > 0 {
		t.Fatalf("%+v %v", d, errs)
	}
	cm := w.get("v1", "configmaps", "web")
	if got := cm.Object["data"].(map[string]any)["msg"]; got != "third" {
		t.Errorf("msg: %v", got)
	}
	for _, f := range cm.GetManagedFields() {
		if f.Operation != metav1.ManagedFieldsOperationApply {
			t.Errorf("field manager %s %s", f.Manager, f.Operation)
		}
	}
}

func TestKilledUninstall(t *testing.T) {
	w := newWorld(t)
	r := w.release("web", files("1.0.0", simple()))
	r.settle()
	store, err := w.engine.storage(w.ctx, r.app, w.ns)
	if err != nil {
		t.Fatal(err)
	}
	s := storage.Init(store)
	found, err := s.Last("web")
	if err != nil {
		t.Fatal(err)
	}
	rel := found.(*releasev1.Release)
	rel.SetStatus(common.StatusUninstalling, "Deletion in progress (or silently failed)")
	if err := s.Update(rel); err != nil {
		t.Fatal(err)
	}
	r.steps = nil
	if d, errs := r.settle(); d.State != InSync || len(errs) > 0 {
		t.Errorf("%+v %v", d, errs)
	}
	r.went("Uninstalling: uninstall", "Absent: install", "InSync: none")
}

func TestKeptHistory(t *testing.T) {
	w := newWorld(t)
	r := w.release("web", files("1.0.0", with(simple(), "templates/deployment.yaml", never)))
	r.app.Release.Install.Timeout = time.Second
	r.app.Release.Install.Remediation.Retries = 1
	r.app.Release.Uninstall.KeepHistory = true
	_, errs := r.settle()
	r.went("Absent: install", "Failed: uninstall", "Absent: install", "Failed: stall")
	if len(errs) != 2 {
		t.Errorf("%v", errs)
	}
	if got := w.history("web"); len(got) != 2 || !strings.HasPrefix(got[0], "1 superseded") || !strings.HasPrefix(got[1], "2 failed") {
		t.Errorf("helm history: %q", got)
	}
}

func TestRender(t *testing.T) {
	w := newWorld(t)
	r := w.release("web", files("1.0.0", simple()))
	made, err := r.engine.Render(w.ctx, Request{Want: r.want(), Chart: r.chart})
	if err != nil || made.Version != 0 || len(made.Was) != 0 || len(made.Will) != 1 {
		t.Fatalf("%+v %v", made, err)
	}
	r.settle()
	r.wants(files("1.1.0", four("1.1.0")))
	w.asked()
	made, err = r.engine.Render(w.ctx, Request{Want: r.want(), Chart: r.chart, Values: map[string]any{"msg": "new"}})
	if err != nil || made.Version != 1 || len(made.Was) != 1 || len(made.Will) != 4 {
		t.Fatalf("%+v %v", made, err)
	}
	for _, o := range made.Will {
		if o.GetNamespace() != w.ns || o.Origin == "" {
			t.Errorf("%s of %q", o.Ref(), o.Origin)
		}
	}
	for _, a := range w.asked() {
		if !strings.HasPrefix(a, "GET ") {
			t.Errorf("rendering did %s", a)
		}
	}
	if got := w.history("web"); len(got) != 1 {
		t.Errorf("helm history: %q", got)
	}
}

// Helm's panic is the release's error: it is not in the goroutine that steps apps.
func TestPanics(t *testing.T) {
	r := &run{ctx: t.Context(), client: &client{}, req: Request{Want: Want{}}, d: Decision{Action: Install}}
	err := r.rendering(func(context.Context) error { panic("no such chart") })
	if f := delivery.FaultOf(err, ""); f.Reason != ReasonInstall || !strings.Contains(err.Error(), "install panicked: no such chart") {
		t.Errorf("%v", err)
	}
}

func TestSecretsInErrors(t *testing.T) {
	w := newWorld(t)
	r := w.release("web", files("1.0.0", map[string]string{"templates/a.yaml": "{{ fail (printf \"bad password %s\" .Values.password) }}\n"}))
	r.values = map[string]any{"password": "open-sesame"}
	want := r.want()
	_, err := r.engine.Act(w.ctx, Request{Want: want, Chart: r.chart, Values: r.values, Redact: func(text string) string {
		return strings.ReplaceAll(text, "open-sesame", "***")
	}}, Decision{Action: Install})
	if err == nil || strings.Contains(err.Error(), "sesame") || !strings.Contains(err.Error(), "templates/a.yaml:1") {
		t.Errorf("%v", err)
	}
}

// Flux has made the release: its controller's fields become ours, and what leaves the chart goes.
func TestAfterFlux(t *testing.T) {
	w := newWorld(t)
	flux := rest.CopyConfig(cluster.Config)
	flux.UserAgent = "helm-controller/v0"
	helmkube.ManagedFieldsManager = "helm-controller"
	defer func() { helmkube.ManagedFieldsManager = fieldManager }()
	c, err := kube.NewCluster(cluster.Config)
	if err != nil {
		t.Fatal(err)
	}
	clients, err := kubernetes.NewForConfig(flux)
	if err != nil {
		t.Fatal(err)
	}
	user := c.Self()
	cfg := action.NewConfiguration()
	cfg.KubeClient, cfg.Releases = newClient(w.ctx, user, w.ns), storage.Init(driver.NewSecrets(clients.CoreV1().Secrets(w.ns)))
	cfg.Capabilities = chartcommon.DefaultCapabilities
	i := action.NewInstall(cfg)
	i.ReleaseName, i.Namespace, i.WaitStrategy, i.Timeout = "web", w.ns, helmkube.HookOnlyStrategy, time.Minute
	two := strings.ReplaceAll(configMap, "\ndata:", "\ndata:\n  old: value")
	chart := files("1.0.0", map[string]string{"templates/cm.yaml": two})
	r := w.release("web", chart)
	i.PostRenderer = postRender{r.app}
	loaded, _, err := loadChart(r.chart)
	if err != nil {
		t.Fatal(err)
	}
	made, err := i.Run(loaded, nil)
	if err != nil {
		t.Fatal(err)
	}
	helmkube.ManagedFieldsManager = fieldManager
	w.eventually("it is told of", func() bool { return w.told("web") > 0 })

	// By the status that Flux has left, the release is known.
	r.record = Settled(r.want(), delivery.ReleaseRecord{
		StorageNamespace: w.ns, AttemptedAction: delivery.InstallRelease,
		History: []delivery.ReleaseSnapshot{Snapshot(made.(*releasev1.Release), "")},
	})
	if d, errs := r.settle(); d.State != InSync || len(errs) > 0 {
		t.Fatalf("%+v %v", d, errs)
	}
	r.went("InSync: none")

	r.wants(files("1.1.0", simple()))
	if d, errs := r.settle(); d.State != InSync || len(errs) > 0 {
		t.Fatalf("%+v %v", d, errs)
	}
	cm := w.get("v1", "configmaps", "web")
	if data := cm.Object["data"].(map[string]any); len(data) != 1 {
		t.Errorf("data: %v", data)
	}
	for _, f := range cm.GetManagedFields() {
		if f.Manager != fieldManager && strings.Contains(string(f.FieldsV1.GetRawBytes()), "f:data") {
			t.Errorf("field manager %s %s: %s", f.Manager, f.Operation, f.FieldsV1.GetRawBytes())
		}
	}
}
