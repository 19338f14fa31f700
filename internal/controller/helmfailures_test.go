package controller_test

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"helm.sh/helm/v4/pkg/action"
	"helm.sh/helm/v4/pkg/chart/v2/loader"
	"helm.sh/helm/v4/pkg/kube"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

// TestHelmReleaseRests: what fails before anything is written, which no retry budget counts, is tried again less and less often, and at once
// when something of it changes.
func TestHelmReleaseRests(t *testing.T) {
	w := newWorld(t)
	w.push(chart("1.0.0", map[string]string{
		"templates/fail.yaml": `{{ if .Values.bad }}{{ lookup "v1" "ConfigMap" .Release.Namespace "probe" }}{{ fail "not so" }}{{ end }}`,
	}))
	_, from := requests(t, 0)
	w.helmRelease("web", "  values: {bad: true}\n")
	w.helmSays("web", "Ready", "False", "InstallFailed", "fail.yaml", "not so")
	time.Sleep(2 * time.Second)
	tried := 0
	all, _ := requests(t, from)
	for _, r := range all {
		if r.ObjectRef.Namespace == w.ns && r.ObjectRef.Name == "probe" {
			tried++
		}
	}
	if tried < 1 || tried > 4 {
		t.Errorf("it was tried %d times within two seconds", tried)
	}
	w.helmRelease("web", "  values: {bad: false}\n")
	w.released("web", 1)
}

// hookJob is the template of a hook whose Pod finds no node.
const hookJob = `
apiVersion: batch/v1
kind: Job
metadata: {name: {{ .Release.Name }}-hook, annotations: {helm.sh/hook: pre-install}}
spec:
  template:
    spec: {restartPolicy: Never, nodeSelector: {never: "true"}, containers: [{name: main, image: "registry.example/job:1"}]}
`

// TestHelmReleaseDeletedInAHook: an install that hangs in its hook does not keep a HelmRelease from being deleted, and what it has recorded
// goes with it.
func TestHelmReleaseDeletedInAHook(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.push(chart("1.0.0", map[string]string{"templates/hook.yaml": hookJob}))
	w.helmRelease("web", "")
	w.eventually("the hook", func() error {
		return w.client.Get(w.ctx, client.ObjectKey{Namespace: w.ns, Name: "web-hook"}, &batchv1.Job{})
	})
	began := time.Now()
	hr := w.getHelmRelease("web")
	w.must(w.client.Delete(w.ctx, hr))
	w.eventually("the HelmRelease to be gone", func() error {
		if err := w.client.Get(w.ctx, client.ObjectKeyFromObject(hr), hr); !apierrors.IsNotFound(err) {
			return fmt.Errorf("it is there: %w", err)
		}
		return nil
	})
	if took := time.Since(began); took > 20*time.Second {
		t.Errorf("it took %s", took)
	}
	if got := w.helmVersions("web"); len(got) != 1 || !strings.Contains(got[0], "not found") {
		t.Errorf("helm history after the deletion: %v", got)
	}
}

// TestHelmReleaseTimesOut: a hook that hangs ends with its time, and is named.
func TestHelmReleaseTimesOut(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.push(chart("1.0.0", map[string]string{"templates/hook.yaml": hookJob}))
	w.helmRelease("web", "  install: {timeout: 2s, remediation: {retries: 0}}\n")
	w.helmSays("web", "Released", "False", "InstallFailed", "templates/hook.yaml", "web-hook", "timed out")
	w.value("web", "")
}

// TestHelmReleaseMayNot: what the account of a release may not do is told with the account's name.
func TestHelmReleaseMayNot(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.push(chart("1.0.0", nil))
	w.apply("apiVersion: v1\nkind: ServiceAccount\nmetadata: {name: nobody}\n")
	w.helmRelease("web", "  serviceAccountName: nobody\n")
	w.helmSays("web", "Ready", "False", "InstallFailed", "system:serviceaccount:"+w.ns+":nobody", "forbidden")
}

// TestHelmReleaseRenamed: with another name the release of the old one is uninstalled.
func TestHelmReleaseRenamed(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.push(chart("1.0.0", nil))
	w.helmRelease("web", "  releaseName: old\n")
	w.released("web", 1)
	w.value("old", "chart")
	w.helmRelease("web", "  releaseName: new\n")
	w.value("new", "chart")
	w.released("web", 1)
	w.value("old", "")
	if got := w.helmVersions("old"); len(got) != 1 || !strings.Contains(got[0], "not found") {
		t.Errorf("helm history of the old name: %v", got)
	}
}

// TestHelmTakeover: a release that the stock program has installed of the same chart and values is taken over as it is.
func TestHelmTakeover(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	files, dir := chart("1.0.0", nil), t.TempDir()
	for name, text := range files {
		file := filepath.Join(dir, name)
		w.must(os.MkdirAll(filepath.Dir(file), 0o755))
		w.must(os.WriteFile(file, []byte(text), 0o600))
	}
	loaded, err := loader.LoadDir(filepath.Join(dir, "chart"))
	w.must(err)
	install := action.NewInstall(w.helm())
	install.ReleaseName, install.Namespace, install.WaitStrategy = "web", w.ns, kube.HookOnlyStrategy
	_, err = install.Run(loaded, map[string]any{"v": "one"})
	w.must(err)
	before := &corev1.ConfigMap{}
	w.must(w.client.Get(w.ctx, client.ObjectKey{Namespace: w.ns, Name: "web"}, before))
	w.push(files)
	w.helmRelease("web", "  values: {v: one}\n")
	w.released("web", 1)
	after := &corev1.ConfigMap{}
	w.must(w.client.Get(w.ctx, client.ObjectKey{Namespace: w.ns, Name: "web"}, after))
	if before.ResourceVersion != after.ResourceVersion {
		t.Errorf("an object was written: %+v", after)
	}
	if got, want := fmt.Sprint(w.helmVersions("web")), "[1 deployed]"; got != want {
		t.Errorf("helm history %s, want %s", got, want)
	}
	w.helmRelease("web", "  values: {v: two}\n")
	w.released("web", 2)
	w.value("web", "two")
}
