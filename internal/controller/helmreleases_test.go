package controller_test

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	helmv2 "github.com/fluxcd/helm-controller/api/v2"
	"helm.sh/helm/v4/pkg/action"
	"helm.sh/helm/v4/pkg/kube"
	releasei "helm.sh/helm/v4/pkg/release"
	helm "helm.sh/helm/v4/pkg/release/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	apimeta "k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/cli-runtime/pkg/genericclioptions"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

// chart gives the files of a chart in the folder "chart": a ConfigMap named as the release, with the value v, and whatever else is given.
func chart(version string, more map[string]string) map[string]string {
	files := map[string]string{
		"chart/Chart.yaml":              "apiVersion: v2\nname: small\nversion: " + version + "\n",
		"chart/values.yaml":             "v: chart\n",
		"chart/templates/settings.yaml": "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: {{ .Release.Name }}}\ndata: {v: {{ .Values.v | quote }}}\n",
	}
	for name, text := range more {
		files["chart/"+name] = text
	}
	return files
}

// helmRelease declares one of the chart in the world's repository; extra are further lines of its spec.
func (w *world) helmRelease(name, extra string) {
	w.Helper()
	w.apply(fmt.Sprintf(`
apiVersion: helm.toolkit.fluxcd.io/v2
kind: HelmRelease
metadata: {name: %s, namespace: %s}
spec:
  interval: 1h
  timeout: 30s
  chart: {spec: {chart: chart, sourceRef: {kind: GitRepository, name: repo}}}
%s`, name, w.ns, extra))
}

func (w *world) getHelmRelease(name string) *helmv2.HelmRelease {
	w.Helper()
	hr := &helmv2.HelmRelease{}
	w.must(w.client.Get(w.ctx, client.ObjectKey{Namespace: w.ns, Name: name}, hr))
	return hr
}

// released waits until a HelmRelease is ready at a version of its release.
func (w *world) released(name string, version int) *helmv2.HelmRelease {
	w.Helper()
	return w.helmUntil(name, func(hr *helmv2.HelmRelease) error {
		if !apimeta.IsStatusConditionTrue(hr.Status.Conditions, "Ready") || hr.Status.ObservedGeneration != hr.Generation {
			return errors.New("want it ready")
		}
		if len(hr.Status.History) == 0 || hr.Status.History[0].Version != version || hr.Status.History[0].Status != "deployed" {
			return fmt.Errorf("want version %d deployed", version)
		}
		return nil
	})
}

// helmUntil waits until a HelmRelease is as check wants it.
func (w *world) helmUntil(name string, check func(*helmv2.HelmRelease) error) *helmv2.HelmRelease {
	w.Helper()
	var hr *helmv2.HelmRelease
	w.eventually("HelmRelease "+name, func() error {
		hr = w.getHelmRelease(name)
		if err := check(hr); err != nil {
			return fmt.Errorf("%w: history %+v, conditions %+v", err, hr.Status.History, hr.Status.Conditions)
		}
		return nil
	})
	return hr
}

// helmSays waits until a condition of a HelmRelease has a status, a reason, and a message with all parts.
func (w *world) helmSays(name, condition, status, reason string, parts ...string) *helmv2.HelmRelease {
	w.Helper()
	return w.helmUntil(name, func(hr *helmv2.HelmRelease) error {
		c := apimeta.FindStatusCondition(hr.Status.Conditions, condition)
		if c == nil || string(c.Status) != status || c.Reason != reason {
			return fmt.Errorf("want %s %s %s", condition, status, reason)
		}
		for _, part := range parts {
			if !strings.Contains(c.Message, part) {
				return fmt.Errorf("want %q in the message of %s", part, condition)
			}
		}
		return nil
	})
}

// helm is the stock program's own way to the world's namespace.
func (w *world) helm() *action.Configuration {
	w.Helper()
	flags := genericclioptions.NewConfigFlags(true)
	flags.KubeConfig, flags.Namespace = &cluster.Kubeconfig, &w.ns
	cfg := action.NewConfiguration()
	w.must(cfg.Init(flags, w.ns, "secret"))
	return cfg
}

// helmVersions are those of a release in the storage, as the stock program reads them: "1 superseded", "2 deployed".
func (w *world) helmVersions(name string) []string {
	w.Helper()
	list, err := action.NewHistory(w.helm()).Run(name)
	if err != nil {
		return []string{err.Error()}
	}
	var out []string
	for _, r := range list {
		rel := stock(r)
		out = append(out, fmt.Sprintf("%d %s", rel.Version, rel.Info.Status))
	}
	slices.Sort(out)
	return out
}

func stock(r releasei.Releaser) *helm.Release {
	rel, ok := r.(*helm.Release)
	if !ok {
		panic(fmt.Sprintf("a release is a %T", r))
	}
	return rel
}

// TestHelmRelease: a chart in Git is installed, upgraded by a value and by a commit, and uninstalled with its HelmRelease; the stock
// program reads the same history.
func TestHelmRelease(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.push(chart("1.0.0", nil))
	w.helmRelease("web", "  values: {v: one}\n")
	hr := w.released("web", 1)
	w.value("web", "one")
	if s := hr.Status.History[0]; s.ChartName != "small" || s.ChartVersion != "1.0.0" || hr.Status.StorageNamespace != w.ns {
		t.Errorf("snapshot %+v, stored in %q", s, hr.Status.StorageNamespace)
	}
	w.helmSays("web", "Released", "True", "InstallSucceeded", "Helm install succeeded for release "+w.ns+"/web.v1 with chart small@1.0.0")
	w.helmRelease("web", "  values: {v: two}\n")
	w.released("web", 2)
	w.value("web", "two")
	w.push(chart("1.1.0", map[string]string{"templates/more.yaml": "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: more}\ndata: {v: x}\n"}))
	w.released("web", 3)
	w.value("more", "x")
	if got, want := fmt.Sprint(w.helmVersions("web")), "[1 superseded 2 superseded 3 deployed]"; got != want {
		t.Errorf("helm history %s, want %s", got, want)
	}
	w.must(w.client.Delete(w.ctx, hr))
	w.eventually("the release to be gone", func() error {
		if err := w.client.Get(w.ctx, client.ObjectKeyFromObject(hr), &helmv2.HelmRelease{}); !apierrors.IsNotFound(err) {
			return fmt.Errorf("the HelmRelease is there: %w", err)
		}
		return nil
	})
	w.value("web", "")
	if got := w.helmVersions("web"); len(got) != 1 || !strings.Contains(got[0], "not found") {
		t.Errorf("helm history after the uninstall: %v", got)
	}
}

// TestHelmReleaseCosts: what has not changed costs nothing.
func TestHelmReleaseCosts(t *testing.T) {
	w := newWorld(t)
	w.push(chart("1.0.0", nil))
	w.helmRelease("web", "  values: {v: one}\n")
	w.released("web", 1)
	time.Sleep(2 * time.Second)
	_, from := requests(t, 0)
	w.push(map[string]string{"README.md": "nothing to the chart"})
	time.Sleep(3 * time.Second)
	all, _ := requests(t, from)
	for _, r := range all {
		if r.ObjectRef.Namespace == w.ns && r.ObjectRef.Resource != "gitrepositories" && r.ObjectRef.Resource != "events" {
			t.Errorf("a request though nothing has changed: %s %s", r.Verb, r.RequestURI)
		}
	}
}

// TestHelmReleaseRemedied: a failed install is uninstalled and tried again as often as allowed, a failed upgrade is rolled back.
func TestHelmReleaseRemedied(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	broken := map[string]string{"templates/broken.yaml": "{{ if .Values.broken }}\napiVersion: v1\nkind: ConfigMap\nmetadata: {name: NOT-A-NAME}\n{{ end }}\n"}
	w.push(chart("1.0.0", broken))
	w.helmRelease("never", "  values: {broken: true}\n  install: {remediation: {retries: 1}}\n")
	w.helmSays("never", "Stalled", "True", "RetriesExceeded", "install", "2 attempt")
	w.helmSays("never", "Ready", "False", "InstallFailed", "NOT-A-NAME") // why, as in Flux
	w.helmSays("never", "Released", "False", "InstallFailed", "NOT-A-NAME")
	w.value("never", "chart") // the last failure is left to be looked at
	w.helmRelease("web", "  values: {v: one}\n  upgrade: {remediation: {retries: 0, remediateLastFailure: true}}\n")
	w.released("web", 1)
	w.helmRelease("web", "  values: {v: two, broken: true}\n  upgrade: {remediation: {retries: 0, remediateLastFailure: true}}\n")
	w.helmSays("web", "Remediated", "True", "RollbackSucceeded", "web.v3")
	w.value("web", "one")
	if got, want := fmt.Sprint(w.helmVersions("web")), "[1 superseded 2 failed 3 deployed]"; got != want {
		t.Errorf("helm history %s, want %s", got, want)
	}
}

// TestHelmRollbackIsHeld: what a person rolls back with the stock program stays so until Git wants something else.
func TestHelmRollbackIsHeld(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.push(chart("1.0.0", nil))
	w.helmRelease("web", "  values: {v: one}\n")
	w.released("web", 1)
	w.helmRelease("web", "  values: {v: two}\n")
	w.released("web", 2)
	rollback := action.NewRollback(w.helm())
	rollback.Version, rollback.WaitStrategy = 1, kube.HookOnlyStrategy
	w.must(rollback.Run("web"))
	w.helmSays("web", "Ready", "False", "HeldByRollback", "web.v3", "Rollback to 1")
	time.Sleep(2 * time.Second)
	w.value("web", "one")
	w.helmRelease("web", "  values: {v: three}\n")
	w.released("web", 4)
	w.value("web", "three")
}

// TestHelmValues: values come from ConfigMaps and Secrets, follow them, and those of Secrets are told nowhere.
func TestHelmValues(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.push(chart("1.0.0", map[string]string{"templates/fail.yaml": `{{ if .Values.bad }}{{ fail (printf "no: %s" .Values.password) }}{{ end }}`}))
	w.must(w.client.Create(w.ctx, &corev1.ConfigMap{ObjectMeta: w.named("base"), Data: map[string]string{"values.yaml": "v: from-a-map\n"}}))
	secret := &corev1.Secret{ObjectMeta: w.named("private"), StringData: map[string]string{"values.yaml": "password: sehrgeheim\n"}}
	w.must(w.client.Create(w.ctx, secret))
	from := "  valuesFrom: [{kind: ConfigMap, name: base}, {kind: Secret, name: private}]\n"
	w.helmRelease("web", from)
	w.released("web", 1)
	w.value("web", "from-a-map")
	w.must(w.client.Patch(w.ctx, &corev1.ConfigMap{ObjectMeta: w.named("base")},
		client.RawPatch("application/merge-patch+json", []byte(`{"data":{"values.yaml":"v: changed\n"}}`))))
	w.released("web", 2)
	w.value("web", "changed")
	w.helmRelease("web", from+"  values: {bad: true}\n")
	hr := w.helmSays("web", "Released", "False", "UpgradeFailed", "fail.yaml", "no: ")
	for _, text := range append(w.events("web"), fmt.Sprintf("%+v", hr.Status)) {
		if strings.Contains(text, "sehrgeheim") {
			t.Errorf("the password is told: %s", text)
		}
	}
	w.helmRelease("lost", "  valuesFrom: [{kind: Secret, name: nowhere}]\n")
	w.helmSays("lost", "Ready", "False", "ValuesError", "Secret/nowhere")
}

// TestHelmReleaseDrift: what drifts is repaired at once, told only, or left alone, as the HelmRelease says; no new version comes of it.
func TestHelmReleaseDrift(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.push(chart("1.0.0", map[string]string{"templates/other.yaml": "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: {{ .Release.Name }}-other}\ndata: {v: chart, free: chart}\n"}))
	w.helmRelease("web", "  driftDetection: {mode: enabled, ignore: [{paths: [/data/free], target: {name: web-other}}]}\n")
	w.helmRelease("told", "  driftDetection: {mode: warn}\n")
	w.helmRelease("left", "")
	for _, name := range []string{"web", "told", "left"} {
		w.released(name, 1)
	}
	mine := client.RawPatch("application/merge-patch+json", []byte(`{"data":{"v":"mine"}}`))
	for _, name := range []string{"web", "told", "left"} {
		w.must(w.client.Patch(w.ctx, &corev1.ConfigMap{ObjectMeta: w.named(name)}, mine))
	}
	w.value("web", "chart")
	w.event("web", "DriftRepaired", "ConfigMap/"+w.ns+"/web")
	w.helmSays("told", "Drifted", "True", "DriftDetected", "ConfigMap/"+w.ns+"/told")
	w.must(w.client.Delete(w.ctx, &corev1.ConfigMap{ObjectMeta: w.named("web-other")}))
	w.value("web-other", "chart")
	free := client.RawPatch("application/merge-patch+json", []byte(`{"data":{"free":"mine"}}`))
	w.must(w.client.Patch(w.ctx, &corev1.ConfigMap{ObjectMeta: w.named("web-other")}, free))
	time.Sleep(2 * time.Second)
	if got := w.data("web-other")["free"]; got != "mine" {
		t.Errorf("an ignored field was repaired: %q", got)
	}
	w.value("told", "mine")
	w.value("left", "mine")
	for _, name := range []string{"web", "told", "left"} {
		if got := fmt.Sprint(w.helmVersions(name)); got != "[1 deployed]" {
			t.Errorf("helm history of %s: %s", name, got)
		}
	}
}

// TestHelmReleaseElsewhere: a release is made, repaired and uninstalled in the cluster that spec.kubeConfig names, with its history there.
func TestHelmReleaseElsewhere(t *testing.T) {
	t.Parallel()
	w := newRemoteWorld(t)
	w.token(w.user("deployer"))
	w.push(chart("1.0.0", nil))
	w.helmRelease("web", far+"\n  driftDetection: {mode: enabled}\n  values: {v: one}\n")
	hr := w.released("web", 1)
	w.remote.value("web", "one")
	w.value("web", "")
	mine := client.RawPatch("application/merge-patch+json", []byte(`{"data":{"v":"mine"}}`))
	w.must(w.remote.client.Patch(w.ctx, &corev1.ConfigMap{ObjectMeta: w.named("web")}, mine))
	w.remote.value("web", "one")
	var stored corev1.SecretList
	w.must(w.remote.client.List(w.ctx, &stored, client.InNamespace(w.ns), client.MatchingLabels{"owner": "helm"}))
	if len(stored.Items) != 1 {
		t.Errorf("%d versions are stored there", len(stored.Items))
	}
	w.must(w.client.Delete(w.ctx, hr))
	w.remote.value("web", "")
}

// TestHelmReleaseAgain: what fails is tried again, after the pause that the strategy says or one that grows, and not without any.
func TestHelmReleaseAgain(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.push(chart("1.0.0", map[string]string{
		"templates/fail.yaml":   `{{ if .Values.fail }}{{ fail "no" }}{{ end }}`,
		"templates/broken.yaml": "{{ if .Values.broken }}\napiVersion: v1\nkind: ConfigMap\nmetadata: {name: NOT-A-NAME}\n{{ end }}\n",
	}))
	w.helmRelease("fails", "  values: {fail: true}\n")
	w.helmRelease("ever", "  values: {broken: true}\n  install: {remediation: {retries: -1}}\n")
	w.helmRelease("again", "  values: {broken: true}\n  install: {strategy: {name: RetryOnFailure, retryInterval: 1s}}\n  upgrade: {strategy: {name: RetryOnFailure, retryInterval: 1s}}\n")
	w.helmSays("fails", "Released", "False", "InstallFailed", "no")
	w.helmUntil("again", func(hr *helmv2.HelmRelease) error {
		if hr.Status.Failures < 3 {
			return fmt.Errorf("want 3 failures, not %d", hr.Status.Failures)
		}
		return nil
	})
	for _, name := range []string{"fails", "ever"} {
		before := w.helmUntil(name, func(hr *helmv2.HelmRelease) error {
			if hr.Status.Failures < 2 {
				return errors.New("want it tried again")
			}
			return nil
		}).Status.Failures
		time.Sleep(2 * time.Second)
		if after := w.getHelmRelease(name).Status.Failures; after > before+2 {
			t.Errorf("%s: %d attempts within 2 seconds", name, after-before)
		}
	}
}

// TestHelmReleaseOfTwo: a second HelmRelease for a release that is another's changes nothing, and takes nothing along when it goes.
func TestHelmReleaseOfTwo(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.push(chart("1.0.0", nil))
	w.helmRelease("web", "  releaseName: shared\n  values: {v: one}\n")
	w.released("web", 1)
	w.helmRelease("other", "  releaseName: shared\n  values: {v: two}\n")
	w.helmSays("other", "Ready", "False", "OwnershipConflict", "HelmRelease/"+w.ns+"/web", "releaseName")
	w.must(w.client.Delete(w.ctx, w.getHelmRelease("other")))
	time.Sleep(2 * time.Second)
	w.value("shared", "one")
	if got := fmt.Sprint(w.helmVersions("shared")); got != "[1 deployed]" {
		t.Errorf("helm history %s", got)
	}
}

// TestHelmUninstalledByAPerson: a release that somebody has uninstalled, its history kept, is installed again.
func TestHelmUninstalledByAPerson(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.push(chart("1.0.0", nil))
	w.helmRelease("web", "  values: {v: one}\n")
	w.released("web", 1)
	uninstall := action.NewUninstall(w.helm())
	uninstall.KeepHistory, uninstall.WaitStrategy = true, kube.HookOnlyStrategy
	if _, err := uninstall.Run("web"); err != nil {
		t.Fatal(err)
	}
	w.released("web", 2)
	w.value("web", "one")
}
