package release

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"encoding/base64"
	"fmt"
	"math/rand"
	"runtime"
	"strings"
	"testing"
	"testing/fstest"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"keelson.dev/keelson/internal/delivery"
)

// selecting is a Deployment without Pods, whose selector cannot be changed, and a Service whose address cannot.
const selecting = `apiVersion: apps/v1
kind: Deployment
metadata: {name: {{ .Release.Name }}}
spec:
  replicas: 0
  selector: {matchLabels: {app: {{ .Values.app }}}}
  template:
    metadata: {labels: {app: {{ .Values.app }}}}
    spec: {containers: [{name: c, image: "nowhere.invalid/never:1"}]}
---
apiVersion: v1
kind: Service
metadata: {name: {{ .Release.Name }}}
spec: {{ .Values.service | toJson }}
`

// A field that cannot be changed fails the upgrade, with the object, its template, and what to do; what remediation says follows. Replacing
// objects, which is what force is, does not help: only another object has another value of such a field.
func TestImmutableField(t *testing.T) {
	type values = map[string]any
	ports := []any{values{"port": 80}}
	was := values{"app": "a", "service": values{"ports": ports}}
	for _, c := range []struct {
		name   string
		apply  delivery.ApplyMode
		force  bool
		values values
		want   []string
	}{
		{"a selector", delivery.ServerSide, false, values{"app": "b", "service": was["service"]}, []string{"Deployment/", "spec.selector", "immutable"}},
		{"a selector, client-side", delivery.ClientSide, false, values{"app": "b", "service": was["service"]}, []string{"Deployment/", "spec.selector", "immutable"}},
		{"a selector, forced", delivery.ClientSide, true, values{"app": "b", "service": was["service"]}, []string{"Deployment/", "spec.selector", "immutable"}},
		{"a selector, forced server-side", delivery.ServerSide, true, values{"app": "b", "service": was["service"]}, []string{"Deployment/", "spec.selector", "immutable"}},
		{"an address", delivery.ServerSide, false, values{"app": "a", "service": values{"ports": ports, "clusterIP": "None"}}, []string{"Service/", "spec.clusterIP", "may not change once set"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t)
			r := w.release("web", files("1.0.0", with(simple(), "templates/app.yaml", selecting)))
			r.values = was
			r.app.Release.Install.Apply, r.app.Release.Install.NoWait = c.apply, true
			r.app.Release.Upgrade.Apply, r.app.Release.Upgrade.NoWait, r.app.Release.Upgrade.Force = c.apply, true, c.force
			r.app.Release.Upgrade.Remediation.LastFailure = true
			r.app.Release.Rollback.NoWait = true
			if d, errs := r.settle(); d.State != InSync || len(errs) > 0 {
				t.Fatalf("%+v %v", d, errs)
			}
			r.values, r.steps = c.values, nil
			_, errs := r.settle()
			r.went("OutOfSync: upgrade", "Failed: rollback", "OutOfSync: stall")
			f := faultOf(t, errs, append(c.want, "templates/app.yaml: ", "delete the object")...)
			if f.Reason != ReasonUpgrade {
				t.Errorf("%+v", f)
			}
			if got := strings.Join(w.history("web"), "\n"); !strings.Contains(got, "2 failed") || !strings.HasSuffix(got, "3 deployed Rollback to 1") {
				t.Errorf("helm history:\n%s", got)
			}
			r.values, r.steps = was, nil // the change is taken back
			if d, errs := r.settle(); d.State != InSync || len(errs) > 0 {
				t.Errorf("%+v %v", d, errs)
			}
		})
	}
}

// things is a chart with a ConfigMap and, where it has a spec, an object of a kind that somebody else defines.
func (w *world) things(version, spec string) fstest.MapFS {
	templates := simple()
	if spec != "" {
		templates["templates/thing.yaml"] = fmt.Sprintf("apiVersion: %s.example.org/v1\nkind: Thing\nmetadata: {name: a}\nspec: {text: %q}\n", w.ns, spec)
	}
	return files(version, templates)
}

// define makes the kind of things known to the cluster.
func (w *world) define() {
	w.Helper()
	text := strings.NewReplacer("GROUP", w.ns+".example.org", "PROPERTY", "text").Replace(definition)
	objects, err := readManifest(strings.NewReader(text))
	if err != nil {
		w.Fatal(err)
	}
	if _, err := w.resource("apiextensions.k8s.io/v1", "customresourcedefinitions", "").Create(w.ctx, objects[0].Unstructured, metav1.CreateOptions{}); err != nil {
		w.Fatal(err)
	}
	w.eventually("the kind is served", func() bool {
		_, err := w.resource(w.ns+".example.org/v1", "things", w.ns).Create(w.ctx, readOne(w.T, fmt.Sprintf(
			"apiVersion: %s.example.org/v1\nkind: Thing\nmetadata: {name: probe, namespace: %s}\n", w.ns, w.ns)).Unstructured, metav1.CreateOptions{})
		return err == nil
	})
}

func readOne(t *testing.T, text string) delivery.Object {
	t.Helper()
	all, err := readManifest(strings.NewReader(text))
	if err != nil || len(all) != 1 {
		t.Fatalf("%d objects, %v", len(all), err)
	}
	return all[0]
}

// undefine removes the definition of things, and with it all of them. Nobody tells the engine.
func (w *world) undefine() {
	w.Helper()
	definitions := w.resource("apiextensions.k8s.io/v1", "customresourcedefinitions", "")
	if err := definitions.Delete(w.ctx, "things."+w.ns+".example.org", metav1.DeleteOptions{}); err != nil {
		w.Fatal(err)
	}
	w.eventually("the definition is gone", func() bool {
		_, err := definitions.Get(w.ctx, "things."+w.ns+".example.org", getOptions)
		_, served := w.resource(w.ns+".example.org/v1", "things", w.ns).Get(w.ctx, "a", getOptions)
		return err != nil && served != nil && strings.Contains(served.Error(), "could not find the requested resource")
	})
}

// The definition of a kind goes while a release has objects of it: an upgrade that still wants them says so and changes nothing, one that does
// not works, and so does going back to a version without them.
func TestDefinitionRemoved(t *testing.T) {
	w := newWorld(t)
	w.define()
	r := w.release("web", w.things("1.0.0", ""))
	r.settle()
	r.wants(w.things("1.1.0", "first"))
	if d, errs := r.settle(); d.State != InSync || len(errs) > 0 {
		t.Fatalf("%+v %v", d, errs)
	}
	w.undefine()
	r.wants(w.things("1.2.0", "second"))
	_, err, _ := r.step()
	f := faultOf(t, []error{err}, "the cluster has no kind", "hings", w.ns+".example.org any more", "install its CustomResourceDefinition")
	if f.Where != "templates/thing.yaml: Thing."+w.ns+".example.org/a" && f.Where != "templates/thing.yaml: Thing."+w.ns+".example.org/"+w.ns+"/a" {
		t.Errorf("where: %s", f.Where)
	}
	// Now it is known: the next attempt finds out before anything is written.
	r.wants(w.things("1.3.0", "third"))
	_, err, _ = r.step()
	faultOf(t, []error{err}, "the cluster has no kind Thing in "+w.ns+".example.org/v1", "install its CustomResourceDefinition")
	if got := w.history("web"); len(got) != 3 || !strings.HasPrefix(got[2], "3 failed") {
		t.Errorf("helm history: %q", got)
	}

	r.wants(w.things("1.4.0", ""))
	r.steps = nil
	if d, errs := r.settle(); d.State != InSync || len(errs) > 0 {
		t.Errorf("%+v %v", d, errs)
	}
	if got := w.history("web"); len(got) != 4 || !strings.HasPrefix(got[3], "4 deployed") {
		t.Errorf("helm history: %q", got)
	}
}

func TestDefinitionRemovedRollback(t *testing.T) {
	w := newWorld(t)
	w.define()
	r := w.release("web", w.things("1.0.0", ""))
	r.settle()
	r.wants(w.things("1.1.0", "first"))
	r.settle()
	w.undefine()
	back := Decision{Action: Rollback, Target: TargetOf(r.app), Version: 1, Record: r.record}
	if _, err := r.engine.Act(w.ctx, Request{Want: r.want()}, back); err != nil {
		t.Errorf("back to a version without things: %v", err)
	}
	back.Version = 2
	_, err := r.engine.Act(w.ctx, Request{Want: r.want()}, back)
	faultOf(t, []error{err}, "the cluster has no kind")
	if got := strings.Join(w.history("web"), "\n"); !strings.Contains(got, "4 failed") {
		t.Errorf("helm history:\n%s", got)
	}
}

// What is gone with its definition is drift like any other. It cannot be repaired, which is told, until the definition is back.
func TestDefinitionRemovedDrift(t *testing.T) {
	w := newWorld(t)
	w.define()
	r := w.release("web", w.things("1.0.0", "first"))
	r.app.Release.Drift = delivery.DriftEnabled
	r.settle()
	r.drifts("")
	w.undefine()
	r.drifts("Thing." + w.ns + ".example.org/" + w.ns + "/a: it does not exist")
	_, err, _ := r.step()
	faultOf(t, []error{err}, "the cluster has no kind Thing in "+w.ns+".example.org/v1")
	if !r.record.Drifted.True() {
		t.Errorf("%+v", r.record.Drifted)
	}
	w.define()
	w.eventually("it is repaired", func() bool {
		_, _, _ = r.step()
		_, err := w.resource(w.ns+".example.org/v1", "things", w.ns).Get(w.ctx, "a", getOptions)
		return err == nil
	})

	// It does not stand in the way of what Git wants next.
	w.undefine()
	r.drifts("Thing." + w.ns + ".example.org/" + w.ns + "/a: it does not exist")
	r.wants(w.things("1.1.0", ""))
	if d, errs := r.settle(); d.State != InSync || len(errs) > 0 {
		t.Errorf("%+v %v", d, errs)
	}
}

// A chart that has grown too large to be recorded changes nothing of what there is.
func TestUpgradeTooLarge(t *testing.T) {
	w := newWorld(t)
	r := w.release("web", files("1.0.0", simple()))
	r.settle()
	noise := make([]byte, 2<<20)
	for i := range noise {
		noise[i] = byte(rand.Int())
	}
	chart := files("1.1.0", simple())
	chart["files/noise.txt"] = &fstest.MapFile{Data: []byte(base64.StdEncoding.EncodeToString(noise))}
	r.wants(chart)
	r.values = map[string]any{"msg": "changed"}
	_, err, _ := r.step()
	if f := faultOf(t, []error{err}, "sh.helm.release.v1.web.v2", "neither the record nor"); f.Reason != ReasonTooLarge {
		t.Errorf("%+v", f)
	}
	if got := w.history("web"); len(got) != 1 || !strings.HasPrefix(got[0], "1 deployed") {
		t.Errorf("helm history: %q", got)
	}
	if got := w.get("v1", "configmaps", "web").Object["data"].(map[string]any)["msg"]; got != "hello" {
		t.Errorf("msg: %v", got)
	}
}

// packed is an archive of a chart: name, content, …
func packed(t *testing.T, pairs ...string) []byte {
	t.Helper()
	var b bytes.Buffer
	z, err := gzip.NewWriterLevel(&b, gzip.BestCompression)
	if err != nil {
		t.Fatal(err)
	}
	w := tar.NewWriter(z)
	for i := 0; i < len(pairs); i += 2 {
		if err := w.WriteHeader(&tar.Header{Name: pairs[i], Mode: 0o644, Size: int64(len(pairs[i+1]))}); err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write([]byte(pairs[i+1])); err != nil {
			t.Fatal(err)
		}
	}
	w.Close()
	z.Close()
	return b.Bytes()
}

// Charts in charts are unpacked in bounds, all of them together: a few kilobytes can be made to stand for any number of bytes.
func TestChartsInCharts(t *testing.T) {
	plain := func(name string, more ...string) []byte {
		return packed(t, append([]string{
			name + "/Chart.yaml", "apiVersion: v2\nname: " + name + "\nversion: 1.0.0\n",
			name + "/templates/cm.yaml", strings.ReplaceAll(configMap, "{{ .Values.msg }}", name),
		}, more...)...)
	}
	chart := func(archives map[string][]byte) Chart {
		f := files("1.0.0", simple())
		for name, data := range archives {
			f["charts/"+name] = &fstest.MapFile{Data: data}
		}
		return Chart{Files: f}
	}
	inner := plain("inner")
	c, _, err := loadChart(chart(map[string][]byte{"outer-1.0.0.tgz": plain("outer", "outer/charts/inner-1.0.0.tgz", string(inner)), "db-1.0.0.tgz": plain("db")}))
	if err != nil {
		t.Fatal(err)
	}
	got := ""
	for _, d := range c.Dependencies() {
		got += d.Name() + " " + d.Templates[0].Name + " "
		for _, in := range d.Dependencies() {
			got += "(" + in.ChartFullPath() + ") "
		}
	}
	if want := "db templates/cm.yaml outer templates/cm.yaml (web/charts/outer/charts/inner) "; got != want {
		t.Errorf("dependencies %q, want %q", got, want)
	}

	zeros := strings.Repeat("\x00", 48<<20)
	large := plain("large", "large/zeros", zeros)
	many := map[string][]byte{}
	for i := range 40 {
		many[fmt.Sprintf("large-%d.tgz", i)] = large
	}
	nested := plain("outer", "outer/charts/a.tgz", string(large), "outer/charts/b.tgz", string(large))
	deep := inner
	for range 70 {
		deep = plain("deep", "deep/charts/deep.tgz", string(deep))
	}
	for _, c := range []struct {
		name     string
		archives map[string][]byte
		want     []string
	}{
		{"large in all", many, []string{"charts/large-", "larger than 64 MiB"}},
		{"large in a chart in a chart", map[string][]byte{"outer.tgz": nested}, []string{"charts/outer.tgz", "larger than 64 MiB"}},
		{"nested without end", map[string][]byte{"deep.tgz": deep}, []string{"charts/deep.tgz", "nested deeper than"}},
		{"climbs", map[string][]byte{"bad.tgz": plain("bad", "../../etc/passwd", "x")}, []string{"charts/bad.tgz", "leads out of it"}},
		{"no archive", map[string][]byte{"bad.tgz": []byte("<html>")}, []string{"charts/bad.tgz", "cannot be used"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			want := chart(c.archives)
			var before, after runtime.MemStats
			runtime.ReadMemStats(&before)
			began := time.Now()
			_, _, err := loadChart(want)
			runtime.ReadMemStats(&after)
			f := faultOf(t, []error{err}, c.want...)
			if f.Reason != ReasonChart || f.Hint == "" {
				t.Errorf("%+v", f)
			}
			if took := after.TotalAlloc - before.TotalAlloc; took > 700<<20 || time.Since(began) > 10*time.Second {
				t.Errorf("it took %d MiB, %s", took>>20, time.Since(began))
			}
		})
	}
}

// Templates that take all memory, or never end, are ended by their bounds, and nothing is made.
func TestHungryTemplates(t *testing.T) {
	w := newWorld(t)
	for _, c := range []struct{ name, text string }{
		{"a range", "{{ range until 1000000000 }}x{{ end }}"},
		{"text that doubles", "{{ $s := \"0123456789abcdef\" }}{{ range until 40 }}{{ $s = print $s $s }}{{ end }}{{ $s }}"},
		{"repeated text", "{{ repeat 4000000000 \"x\" }}"},
		{"text without end", "{{ range 100000000 }}{{ range 100000000 }}" + strings.Repeat("0123456789", 100) + "{{ end }}{{ end }}"},
	} {
		t.Run(c.name, func(t *testing.T) {
			var before, after runtime.MemStats
			runtime.ReadMemStats(&before)
			r := w.release("hungry", files("1.0.0", with(simple(), "templates/a.yaml", c.text)))
			_, err, _ := r.step()
			runtime.ReadMemStats(&after)
			if f := faultOf(t, []error{err}, "takes more than 1024 MiB of memory"); f.Reason != ReasonInstall || f.Retry != delivery.OnChange {
				t.Errorf("%+v", f)
			}
			if took := after.TotalAlloc - before.TotalAlloc; took > 100<<20 {
				t.Errorf("it took %d MiB of this process", took>>20)
			}
			if _, there := w.engine.records.newest(place{w.ns, "hungry"}); there {
				t.Error("something was written")
			}
		})
	}
}

// What templates see is what Helm shows them: types of numbers, files, charts in charts under other names, the cluster, and what --set has set.
func TestTemplatesAside(t *testing.T) {
	w := newWorld(t)
	chart := files("1.0.0", map[string]string{
		"templates/_a.tpl": `{{ define "shared" }}{{ .Chart.Name }}{{ end }}`,
		"templates/cm.yaml": `apiVersion: v1
kind: ConfigMap
metadata: {name: {{ .Release.Name }}}
data:
  numbers: "{{ .Values.yaml }} {{ .Values.set }} {{ kindOf .Values.set }} {{ .Values.sub.num }} {{ .Values.none }}"
  release: "{{ .Release.Revision }} {{ .Release.IsInstall }} {{ .Release.IsUpgrade }} {{ .Release.Service }} {{ .Template.Name }} {{ .Template.BasePath }}"
  files: {{ .Files.Get "files/a.txt" | quote }}
  chart: "{{ .Chart.AppVersion }} {{ .Chart.IsRoot }} {{ include "shared" .Subcharts.second }}"
  apis: "{{ .Capabilities.APIVersions.Has "apps/v1/Deployment" }} {{ .Capabilities.KubeVersion.Major }}"
  tpl: {{ tpl "{{ .Values.msg }}!" . }}
`,
		"templates/NOTES.txt": "Say {{ .Values.msg }}.",
	})
	chart["files/a.txt"] = &fstest.MapFile{Data: []byte("content")}
	chart["Chart.yaml"].Data = append(chart["Chart.yaml"].Data, "dependencies:\n- {name: sub, version: 1.0.0}\n- {name: sub, version: 1.0.0, alias: second}\n- {name: sub, version: 1.0.0, alias: off, condition: off.enabled}\n"...)
	chart["values.yaml"].Data = append(chart["values.yaml"].Data, "yaml: 1000000\nnone: x\noff: {enabled: false}\nsub: {num: 2}\n"...)
	chart["charts/sub/Chart.yaml"] = &fstest.MapFile{Data: []byte("apiVersion: v2\nname: sub\nversion: 1.0.0\n")}
	chart["charts/sub/values.yaml"] = &fstest.MapFile{Data: []byte("num: 1\n")}
	chart["charts/sub/templates/cm.yaml"] = &fstest.MapFile{Data: []byte(`apiVersion: v1
kind: ConfigMap
metadata: {name: {{ .Release.Name }}-{{ .Chart.Name }}}
data: {num: "{{ .Values.num }}", name: {{ .Template.Name }}}
`)}
	r := w.release("web", chart)
	r.values = map[string]any{"set": int64(1000000), "none": nil}
	if d, errs := r.settle(); d.State != InSync || len(errs) > 0 {
		t.Fatalf("%+v %v", d, errs)
	}
	got := fmt.Sprint(w.get("v1", "configmaps", "web").Object["data"], w.get("v1", "configmaps", "web-sub").Object["data"], w.get("v1", "configmaps", "web-second").Object["data"])
	want := "map[apis:true 1 chart:7 true second files:content numbers:1e+06 1000000 int64 2  release:1 true false Helm web/templates/cm.yaml web/templates tpl:hello!] " +
		"map[name:web/charts/sub/templates/cm.yaml num:2] map[name:web/charts/second/templates/cm.yaml num:1]"
	if got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
	if _, err := w.resource("v1", "configmaps", w.ns).Get(w.ctx, "web-off", getOptions); err == nil {
		t.Error("a chart that is off was installed")
	}
	found, err := w.helm().Releases.Last("web")
	if err != nil {
		t.Fatal(err)
	}
	rel := releaseOf(found)
	if rel.Info.Notes != "Say hello." || len(rel.Chart.Templates) != 3 || string(rel.Chart.Templates[2].Data) == "" || !strings.Contains(string(rel.Chart.Templates[2].Data)+string(rel.Chart.Templates[1].Data), "kind: ConfigMap") {
		t.Errorf("stored: notes %q, templates %+v", rel.Info.Notes, rel.Chart.Templates)
	}
}
