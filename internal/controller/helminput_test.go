package controller_test

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"testing"

	helmv2 "github.com/fluxcd/helm-controller/api/v2"
	sourcev1 "github.com/fluxcd/source-controller/api/v1"
	corev1 "k8s.io/api/core/v1"
	apimeta "k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

// releaseFrom declares a HelmRelease; where is what says where its chart comes from, extra are further lines of its spec.
func (w *world) releaseFrom(name, where, extra string) {
	w.Helper()
	w.apply(fmt.Sprintf("apiVersion: helm.toolkit.fluxcd.io/v2\nkind: HelmRelease\nmetadata: {name: %s}\nspec:\n  interval: 1h\n  timeout: 30s\n%s\n%s", name, where, extra))
}

// nothingOf checks that nothing was made or recorded of a release.
func (w *world) nothingOf(name string) {
	w.Helper()
	hr := w.getHelmRelease(name)
	if len(hr.Status.History) > 0 {
		w.Errorf("history of %s: %+v", name, hr.Status.History)
	}
	if got := w.helmVersions(name); len(got) != 1 || !strings.Contains(got[0], "not found") {
		w.Errorf("helm history of %s: %v", name, got)
	}
}

// TestHelmBadInput: what is wrong with a chart, or with how it is named, is told by condition and event, and nothing is made of it.
func TestHelmBadInput(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	git := func(folder string) string {
		return "  chart: {spec: {chart: " + folder + ", sourceRef: {kind: GitRepository, name: repo}}}"
	}
	repo := func(rest string) string {
		return "  chart: {spec: {" + rest + ", sourceRef: {kind: HelmRepository, name: charts}}}"
	}
	charts := newChartRepo(t, "1.0.0", "1.1.0")
	charts.archives["9.0.0"], charts.versions = hostile(tar.Header{Name: "web/../../../etc/cron.d/x", Size: 1}), append(charts.versions, "9.0.0")
	charts.archives["9.1.0"], charts.versions = hostile(tar.Header{Name: "web/link", Typeflag: tar.TypeSymlink, Linkname: "/etc/passwd"}), append(charts.versions, "9.1.0")
	charts.archives["9.2.0"], charts.versions = hostile(tar.Header{Name: "web/zeros", Size: 100 << 20}), append(charts.versions, "9.2.0")
	w.helmRepository("charts", charts.URL, "")
	w.push(map[string]string{
		"schema/Chart.yaml":         "apiVersion: v2\nname: schema\nversion: 1.0.0\n",
		"schema/values.schema.json": `{"type":"object","properties":{"web":{"type":"object","properties":{"replicas":{"type":"integer"}}}}}`,
		"schema/templates/cm.yaml":  w.configMap("schema", "1"),
		"newer/Chart.yaml":          "apiVersion: v2\nname: newer\nversion: 1.0.0\nkubeVersion: \">=99.0.0\"\n",
		"newer/templates/cm.yaml":   w.configMap("newer", "1"),
		"broken/Chart.yaml":         "apiVersion: v2\nname: broken\nversion: 1.0.0\n",
		"broken/templates/ok.yaml":  w.configMap("broken", "1"),
		"broken/templates/no.yaml":  "a: 1\nb: {{ .Values.no.such }}\n",
		"bomb/Chart.yaml":           "apiVersion: v2\nname: bomb\nversion: 1.0.0\n",
		"bomb/charts/a.tgz":         string(hostile(tar.Header{Name: "web/zeros", Size: 100 << 20})),
	})
	for _, tt := range []struct {
		name, where, extra string
		condition, reason  string
		parts              []string
	}{
		{"no-repository", "  chart: {spec: {chart: web, sourceRef: {kind: HelmRepository, name: nowhere}}}", "", "Ready", "SourceUnavailable", []string{"HelmRepository/" + w.ns + "/nowhere does not exist"}},
		{"no-chart", repo("chart: none"), "", "Ready", "InvalidChartReference", []string{"the repository has no chart none"}},
		{"no-version", repo("chart: web, version: 3.x"), "", "Ready", "InvalidChartReference", []string{"chart web has no version '3.x'; there is: ", "correct chart or version"}},
		{"no-folder", git("nowhere"), "", "Ready", "InvalidChartReference", []string{"nowhere", "there is no such folder"}},
		{"climbs", repo("chart: web, version: 9.0.0"), "", "Ready", "ChartPullError", []string{"leads out of it"}},
		{"link", repo("chart: web, version: 9.1.0"), "", "Ready", "ChartPullError", []string{`"web/link" is a link`}},
		{"zeros", repo("chart: web, version: 9.2.0"), "", "Ready", "ChartPullError", []string{"larger than"}},
		{"bomb", git("bomb"), "", "Released", "InstallFailed", []string{"bomb/charts/a.tgz", "larger than"}},
		{"schema", git("schema"), "  values: {web: {replicas: many}}\n", "Released", "InstallFailed", []string{"values.schema.json", "/web/replicas"}},
		{"newer", git("newer"), "", "Released", "InstallFailed", []string{"Chart.yaml: chart 'newer' wants Kubernetes >=99.0.0, and this is v1."}},
		{"broken", git("broken"), "", "Released", "InstallFailed", []string{"templates/no.yaml:2", "nil pointer"}},
		{"signed", repo("chart: web, verify: {provider: cosign}"), "", "Ready", "FieldsNotSupported", []string{"spec.chart.spec.verify: not supported yet; nothing is released", "signatures are not verified here"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			defer w.in(t)()
			w.releaseFrom(tt.name, tt.where, tt.extra)
			w.helmSays(tt.name, tt.condition, "False", tt.reason, tt.parts...)
			w.helmSays(tt.name, "Ready", "False", tt.reason)
			w.event(tt.name, append([]string{tt.reason}, tt.parts[:1]...)...)
			w.nothingOf(tt.name)
			if w.data(tt.name) != nil {
				t.Error("something was made")
			}
		})
	}
	// Corrected, each goes on by itself.
	w.releaseFrom("no-version", repo("chart: web, version: 1.x"), "  releaseName: corrected\n")
	w.released("no-version", 1)
	w.value("web", "from 1.1.0")
}

// hostile is an archive of a chart and a file of zeros, or something else, beside it.
func hostile(h tar.Header) []byte {
	var b bytes.Buffer
	z, _ := gzip.NewWriterLevel(&b, gzip.BestCompression)
	w := tar.NewWriter(z)
	const text = "apiVersion: v2\nname: web\nversion: 1.0.0\n"
	_ = w.WriteHeader(&tar.Header{Name: "web/Chart.yaml", Mode: 0o644, Size: int64(len(text))})
	_, _ = w.Write([]byte(text))
	h.Mode = 0o644
	_ = w.WriteHeader(&h)
	_, _ = w.Write(make([]byte, h.Size))
	w.Close()
	z.Close()
	return b.Bytes()
}

// TestHelmSigned: where a signature is wanted nothing is fetched, be it named by the release, its HelmChart or its OCIRepository.
func TestHelmSigned(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	charts := newChartRepo(t, "1.0.0")
	w.helmRepository("charts", charts.URL, "")
	w.conditionOf(&sourcev1.HelmRepository{ObjectMeta: w.named("charts")}, metav1.ConditionTrue, "Succeeded")
	o := newOCI(t)
	o.push("charts/web", "1.0.0", helmConfig, helmLayer, chartOf("web", "1.0.0"))
	asked := 0
	inner := o.Config.Handler
	o.Config.Handler = http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		asked++
		inner.ServeHTTP(rw, r)
	})
	w.helmChart("signed", "charts", "*", "  verify: {provider: cosign}\n")
	w.ociRepository("signed", o.url("charts/web"), "  verify: {provider: notation, secretRef: {name: trust}}\n")
	w.releaseFrom("direct", "  chart: {spec: {chart: web, sourceRef: {kind: HelmRepository, name: charts}, verify: {provider: cosign}}}", "")
	w.releaseFrom("by-chart", "  chartRef: {kind: HelmChart, name: signed}", "")
	w.releaseFrom("by-oci", "  chartRef: {kind: OCIRepository, name: signed}", "")
	w.helmSays("direct", "Ready", "False", "FieldsNotSupported", "spec.chart.spec.verify", "signatures are not verified here")
	w.helmSays("by-chart", "Ready", "False", "FieldsNotSupported", "spec.verify", "signatures are not verified here")
	w.helmSays("by-oci", "Ready", "False", "NoSourceArtifact", "OCIRepository/"+w.ns+"/signed: spec.verify")
	w.conditionOf(&sourcev1.OCIRepository{ObjectMeta: w.named("signed")}, metav1.ConditionFalse, "FieldsNotSupported", "spec.verify", "signatures are not verified here")
	for _, name := range []string{"direct", "by-chart", "by-oci"} {
		w.nothingOf(name)
	}
	charts.change(func() {
		if n := charts.asked["/web-1.0.0.tgz"]; n > 0 {
			t.Errorf("the chart was fetched %d times", n)
		}
	})
	if asked > 0 {
		t.Errorf("the registry was asked %d times", asked)
	}
}

// TestHelmReleaseOfEverySource: wherever a chart comes from it is released, and a newer one upgrades the release.
func TestHelmReleaseOfEverySource(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	charts := newChartRepo(t, "1.0.0")
	charts.password = "pw"
	o := newOCI(t)
	w.apply("apiVersion: v1\nkind: Secret\nmetadata: {name: key}\nstringData: {username: bob, password: pw}\n")
	w.helmRepository("closed", charts.URL, "  secretRef: {name: key}\n")
	w.helmRepository("registry", o.url("private/charts"), "  type: oci\n  secretRef: {name: key}\n")
	push := func(version string) {
		o.push("private/charts/web", version, helmConfig, helmLayer, chartOf("web", version))
		o.push("private/flux/web", version, fluxConfig, fluxLayer, chartOf("web", version))
	}
	push("1.0.0")
	w.ociRepository("chart", o.url("private/charts/web"), "  secretRef: {name: key}\n  ref: {semver: 1.x}\n  layerSelector: {mediaType: "+helmLayer+", operation: copy}\n")
	w.helmChart("web", "closed", "1.x", "")
	git := func(version string) map[string]string {
		return map[string]string{
			"charts/web/Chart.yaml":        "apiVersion: v2\nname: web\nversion: " + version + "\n",
			"charts/web/templates/cm.yaml": "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: web}\ndata: {v: from {{ .Chart.Version }}}\n",
		}
	}
	w.push(git("1.0.0"))
	chart := func(source string) string {
		return "  chart: {spec: {chart: web, version: 1.x, interval: 1h, sourceRef: " + source + "}}"
	}
	for _, tt := range []struct {
		name, where string
		news        func()
	}{
		{"http", chart("{kind: HelmRepository, name: closed}"), func() {
			charts.change(func() { charts.versions = append(charts.versions, "1.1.0") })
			w.request(&sourcev1.HelmRepository{}, "closed")
		}},
		{"helmchart", "  chartRef: {kind: HelmChart, name: web}", func() { w.request(&sourcev1.HelmChart{}, "web") }},
		{"oci", chart("{kind: HelmRepository, name: registry}"), func() {
			push("1.1.0")
			w.request(&helmv2.HelmRelease{}, "oci")
		}},
		{"ocirepository", "  chartRef: {kind: OCIRepository, name: chart}", func() { w.request(&sourcev1.OCIRepository{}, "chart") }},
		{"git", "  chart: {spec: {chart: ./charts/web, sourceRef: {kind: GitRepository, name: repo}}}", func() { w.push(git("1.1.0")) }},
	} {
		t.Run(tt.name, func(t *testing.T) {
			defer w.in(t)()
			w.releaseFrom(tt.name, tt.where, "  releaseName: web\n  storageNamespace: "+w.ns+"\n")
			first := w.helmUntil(tt.name, func(hr *helmv2.HelmRelease) error {
				if !apimeta.IsStatusConditionTrue(hr.Status.Conditions, "Ready") {
					return errors.New("want it ready")
				}
				return nil
			}).Status.History[0]
			if tt.name == "http" && first.ChartVersion != "1.0.0" {
				t.Errorf("%+v", first)
			}
			tt.news()
			w.helmUntil(tt.name, func(hr *helmv2.HelmRelease) error {
				if s := hr.Status.History[0]; !strings.HasPrefix(s.ChartVersion, "1.1.0") || s.Status != "deployed" || !apimeta.IsStatusConditionTrue(hr.Status.Conditions, "Ready") {
					return errors.New("want chart 1.1.0 released")
				}
				return nil
			})
			w.value("web", "from "+w.getHelmRelease(tt.name).Status.History[0].ChartVersion)
			w.must(w.client.Delete(w.ctx, w.getHelmRelease(tt.name)))
			w.value("web", "")
			w.eventually("the HelmRelease to be gone", func() error {
				if err := w.client.Get(w.ctx, client.ObjectKey{Namespace: w.ns, Name: tt.name}, &helmv2.HelmRelease{}); err == nil {
					return errors.New("it is there")
				}
				return nil
			})
		})
	}
}

// TestHelmReadyExpr: a readyExpr decides alone, and follows whatever it looks at: of the dependency, and of the app itself.
func TestHelmReadyExpr(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.push(chart("1.0.0", map[string]string{"templates/fail.yaml": `{{ if .Values.fail }}{{ fail "no" }}{{ end }}`}))
	label := func(name, value string) {
		w.Helper()
		w.must(w.client.Patch(w.ctx, w.getHelmRelease(name), client.RawPatch("application/merge-patch+json", fmt.Appendf(nil, `{"metadata":{"labels":{"version":%q}}}`, value))))
	}
	w.helmRelease("app", `  dependsOn:
  - name: base
    readyExpr: dep.metadata.labels['version'] == self.metadata.labels['version'] && has(dep.status.conditions)
`)
	w.helmSays("app", "Ready", "False", "DependencyNotReady", "dependency '"+w.ns+"/base': it does not exist")
	w.helmRelease("base", "  values: {fail: true}\n")
	w.helmSays("base", "Released", "False", "InstallFailed", "no")
	w.helmSays("app", "Ready", "False", "DependencyNotReady", "its readyExpr: ", "no such key: labels")
	label("base", "2")
	label("app", "1")
	w.helmSays("app", "Ready", "False", "DependencyNotReady", "its readyExpr is not true")
	w.nothingOf("app")
	label("app", "2")
	w.released("app", 1) // base has failed, which the expression does not ask about

	w.helmRelease("odd", "  dependsOn: [{name: base, readyExpr: 'dep.metadata'}]\n")
	w.helmSays("odd", "Ready", "False", "InvalidCELExpression", "spec.dependsOn, readyExpr of "+w.ns+"/base", "not bool")
	w.helmSays("odd", "Stalled", "True", "InvalidCELExpression")
	w.nothingOf("odd")
}

// TestHelmValuesAtOnce: a changed ConfigMap or Secret that values come from upgrades the release at once, whatever its interval is.
func TestHelmValuesAtOnce(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.push(chart("1.0.0", nil))
	secret := &corev1.Secret{ObjectMeta: w.named("private"), StringData: map[string]string{"password": "one,two"}}
	w.must(w.client.Create(w.ctx, secret))
	w.helmRelease("web", "  valuesFrom: [{kind: Secret, name: private, valuesKey: password, targetPath: v, literal: true}]\n")
	w.released("web", 1)
	w.value("web", "one,two")
	w.must(w.client.Patch(w.ctx, &corev1.Secret{ObjectMeta: w.named("private")}, client.RawPatch("application/merge-patch+json", []byte(`{"stringData":{"password":"three"}}`))))
	w.value("web", "three")
	w.released("web", 2)
}
