package controller_test

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	helmv2 "github.com/fluxcd/helm-controller/api/v2"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

// hooked is a chart with a hook of some events whose Pod finds no node.
func hooked(events string) map[string]string {
	return chart("1.0.0", map[string]string{"templates/hook.yaml": strings.Replace(hookJob, "pre-install", events, 1)})
}

// inHook waits until the hook of a release is there.
func (w *world) inHook(name string) {
	w.Helper()
	w.eventually("the hook of "+name, func() error {
		return w.client.Get(w.ctx, client.ObjectKey{Namespace: w.ns, Name: name + "-hook"}, &batchv1.Job{})
	})
}

// helmGone waits until a HelmRelease is gone.
func (w *world) helmGone(name string) {
	w.Helper()
	w.eventually("HelmRelease "+name+" to be gone", func() error {
		hr := &helmv2.HelmRelease{ObjectMeta: w.named(name)}
		if err := w.client.Get(w.ctx, client.ObjectKeyFromObject(hr), hr); !apierrors.IsNotFound(err) {
			return fmt.Errorf("it is there: %w %+v", err, hr.Status.Conditions)
		}
		return nil
	})
}

func (w *world) patchHelm(name, patch string) {
	w.Helper()
	w.must(w.client.Patch(w.ctx, &helmv2.HelmRelease{ObjectMeta: w.named(name)}, client.RawPatch("application/merge-patch+json", []byte(patch))))
}

// TestHelmSuspendedInAHook: what is under way when a HelmRelease is suspended goes on to its end, which the status tells; nothing follows from it
// until it is resumed.
func TestHelmSuspendedInAHook(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.push(hooked("pre-install"))
	w.helmRelease("web", "  install: {timeout: 4s, remediation: {retries: 1}}\n  upgrade: {disableHooks: true}\n")
	w.inHook("web")
	w.patchHelm("web", `{"spec":{"suspend":true}}`)
	w.helmSays("web", "Released", "False", "InstallFailed", "timed out")
	time.Sleep(2 * time.Second)
	if got := fmt.Sprint(w.helmVersions("web")); got != "[1 failed]" {
		t.Errorf("something follows though it is suspended: %s", got)
	}
	w.patchHelm("web", `{"spec":{"suspend":false,"install":{"disableHooks":true}}}`)
	w.helmSays("web", "Ready", "True", "UpgradeSucceeded")
}

// TestHelmForceRemovedInAHook: an action ends where its HelmRelease is taken away together with our finalizer; one of the same name that comes
// at once waits for that end and takes the release up.
func TestHelmForceRemovedInAHook(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.push(hooked("pre-install"))
	w.helmRelease("web", "")
	w.inHook("web")
	began := time.Now()
	w.patchHelm("web", `{"metadata":{"finalizers":null}}`)
	w.must(w.client.Delete(w.ctx, &helmv2.HelmRelease{ObjectMeta: w.named("web")}))
	w.helmGone("web")
	w.eventually("the install to be called off", func() error {
		if got := fmt.Sprint(w.helmVersions("web")); got != "[1 failed]" {
			return errors.New(got)
		}
		return nil
	})
	if took := time.Since(began); took > 15*time.Second {
		t.Errorf("it took %s", took)
	}
	w.helmRelease("web", "  releaseName: other\n")
	w.inHook("other")
	w.patchHelm("web", `{"metadata":{"finalizers":null}}`)
	w.must(w.client.Delete(w.ctx, &helmv2.HelmRelease{ObjectMeta: w.named("web")}))
	w.helmRelease("second", "  releaseName: other\n")
	w.released("second", 2)
	if got := fmt.Sprint(w.helmVersions("other")); got != "[1 superseded 2 deployed]" {
		t.Errorf("helm history %s", got)
	}
}

// TestHelmUninstallFails: why a HelmRelease is not gone is told in its status, and what holds it being gone, it goes.
func TestHelmUninstallFails(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	files := hooked("pre-delete")
	files["chart/templates/hook.yaml"] = "{{ if .Values.hook }}" + files["chart/templates/hook.yaml"] + "{{ end }}"
	files["chart/templates/held.yaml"] = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: {{ .Release.Name }}-held, finalizers: {{ .Values.held | toJson }}}\n"
	w.push(files)
	w.helmRelease("hook", "  uninstall: {timeout: 2s}\n  values: {hook: true, held: []}\n")
	w.helmRelease("held", "  uninstall: {timeout: 2s}\n  values: {held: [example.com/wait]}\n")
	for _, name := range []string{"hook", "held"} {
		w.released(name, 1)
		w.must(w.client.Delete(w.ctx, &helmv2.HelmRelease{ObjectMeta: w.named(name)}))
	}
	w.helmSays("hook", "Ready", "False", "UninstallFailed", "hook hook-hook (pre-delete)", "timed out")
	w.helmSays("hook", "Released", "False", "UninstallFailed", "Helm uninstall failed for release "+w.ns+"/hook.v1")
	w.helmSays("held", "Ready", "False", "UninstallFailed", "ConfigMap/"+w.ns+"/held-held", "example.com/wait")
	w.event("held", "UninstallFailed", "example.com/wait")
	held := &corev1.ConfigMap{ObjectMeta: w.named("held-held")}
	w.must(w.client.Patch(w.ctx, held, client.RawPatch("application/merge-patch+json", []byte(`{"metadata":{"finalizers":null}}`))))
	w.helmGone("held")
	w.patchHelm("hook", `{"spec":{"uninstall":{"disableHooks":true}}}`)
	w.helmGone("hook")
	for _, name := range []string{"hook", "held"} {
		w.value(name, "")
	}
}

// TestHelmShutdown: a controller that ends in the middle of an upgrade leaves nothing pending; the next one tries it again, which counts as no
// failure, and still knows what to roll back to.
func TestHelmShutdown(t *testing.T) {
	w := newWorld(t)
	w.push(hooked("pre-upgrade"))
	remedy := "  upgrade: {timeout: 20s, remediation: {retries: 0, remediateLastFailure: true}}\n"
	w.helmRelease("web", remedy+"  values: {v: one}\n")
	w.released("web", 1)
	w.helmRelease("web", remedy+"  values: {v: two}\n")
	w.inHook("web")
	w.helmSays("web", "Ready", "Unknown", "Progressing", "upgrade")
	running.stop()
	if got := fmt.Sprint(w.helmVersions("web")); got != "[1 deployed 2 failed]" {
		t.Errorf("after the shutdown: %s", got)
	}
	w.must(w.client.Delete(w.ctx, &batchv1.Job{ObjectMeta: w.named("web-hook")}, client.PropagationPolicy("Background")))
	w.must(running.start())
	w.helmUntil("web", func(hr *helmv2.HelmRelease) error {
		if len(hr.Status.History) != 2 || hr.Status.History[0].Version != 2 || hr.Status.UpgradeFailures != 0 {
			return errors.New("want the upgrade that was called off noted")
		}
		return nil
	})
	w.event("web", "UpgradeFailed", "called off")
	w.inHook("web")
	w.helmSays("web", "Remediated", "True", "RollbackSucceeded", "web.v4")
	w.value("web", "one")
	if got := fmt.Sprint(w.helmVersions("web")); got != "[1 superseded 2 failed 3 failed 4 deployed]" {
		t.Errorf("in the end: %s", got)
	}
}

// TestHelmPostRenderers: what post-renderers change is released, once.
func TestHelmPostRenderers(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.push(chart("1.0.0", nil))
	patched := "  postRenderers: [{kustomize: {patches: [{target: {kind: ConfigMap}, patch: \"- {op: replace, path: /data/v, value: %s}\"}]}}]\n"
	for i, v := range []string{"one", "two"} {
		w.helmRelease("web", fmt.Sprintf(patched, v))
		w.released("web", i+1)
		w.value("web", v)
		time.Sleep(time.Second)
		if got := w.helmVersions("web"); len(got) != i+1 || !slices.Contains(got, fmt.Sprintf("%d deployed", i+1)) {
			t.Errorf("helm history %s", got)
		}
	}
}
