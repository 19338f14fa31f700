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
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
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

// account declares a service account that may do in the world's namespace what rules say; rules are lines of a Role.
func (w *world) account(name, rules string) {
	w.Helper()
	w.apply(fmt.Sprintf(`
apiVersion: v1
kind: ServiceAccount
metadata: {name: %[1]s}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: Role
metadata: {name: %[1]s}
rules: [%[2]s]
---
apiVersion: rbac.authorization.k8s.io/v1
kind: RoleBinding
metadata: {name: %[1]s}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: Role, name: %[1]s}
subjects: [{kind: ServiceAccount, name: %[1]s}]
`, name, rules))
	w.eventually("the rights of "+name, func() error {
		ask := &unstructured.Unstructured{Object: map[string]any{
			"apiVersion": "authorization.k8s.io/v1", "kind": "SubjectAccessReview", "spec": map[string]any{
				"user": "system:serviceaccount:" + w.ns + ":" + name, "resourceAttributes": map[string]any{
					"namespace": w.ns, "verb": "delete", "resource": "configmaps",
				},
			},
		}}
		w.must(w.client.Create(w.ctx, ask))
		may, _, err := unstructured.NestedBool(ask.Object, "status", "allowed")
		w.must(err)
		if may != strings.Contains(rules, allConfigMaps) {
			return fmt.Errorf("it may delete ConfigMaps: %t", may)
		}
		return nil
	})
}

// Rules of a Role: all that Helm's storage needs, and all of ConfigMaps.
const (
	allSecrets    = `{apiGroups: [""], resources: [secrets], verbs: ["*"]}`
	allConfigMaps = `{apiGroups: [""], resources: [configmaps], verbs: ["*"]}`
)

// TestHelmReleaseMayNot: where the account of a release may not do something, it is told who lacks which verb on what; nothing of the release
// is written, or read, by anybody else.
func TestHelmReleaseMayNot(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	_, from := requests(t, 0)
	w.push(chart("1.0.0", nil))
	for _, c := range []struct {
		name, rules, reason string
		want                []string
	}{
		{"nothing", "", "InstallFailed", []string{`cannot get resource "configmaps"`, "Role"}},
		{"objects", allConfigMaps, "InstallFailed", []string{`cannot create resource "secrets"`, "Role"}},
		{"records", allSecrets, "InstallFailed", []string{`cannot get resource "configmaps"`, "templates/settings.yaml", "Role"}},
		{"reads", allSecrets + `, {apiGroups: [""], resources: [configmaps], verbs: [get]}`, "InstallFailed",
			[]string{`cannot patch resource "configmaps"`, "templates/settings.yaml", "Role"}},
	} {
		w.account(c.name, c.rules)
		w.helmRelease(c.name, "  serviceAccountName: "+c.name+"\n")
		w.helmSays(c.name, "Ready", "False", c.reason, append(c.want, "system:serviceaccount:"+w.ns+":"+c.name)...)
		w.value(c.name, "")
	}
	w.account("all", allSecrets+", "+allConfigMaps)
	w.helmRelease("all", "  serviceAccountName: all\n")
	w.released("all", 1)
	w.account("all", allSecrets)
	w.helmRelease("all", "  serviceAccountName: all\n  values: {v: two}\n")
	w.helmSays("all", "Ready", "False", "UpgradeFailed", "configmaps", "system:serviceaccount:"+w.ns+":all")
	w.value("all", "chart")
	all, _ := requests(t, from)
	as := 0
	for _, r := range all {
		ref := r.ObjectRef
		if ref.Namespace != w.ns || ref.Resource != "configmaps" && !strings.HasPrefix(ref.Name, "sh.helm.release.") {
			continue
		}
		if as++; !strings.HasPrefix(r.ImpersonatedUser.Username, "system:serviceaccount:"+w.ns+":") {
			t.Errorf("the controller itself has sent %s %s", r.Verb, r.RequestURI)
		}
	}
	if as < 5 {
		t.Errorf("only %d requests of releases in the log", as)
	}
}

// TestHelmReleaseAccountGone: a HelmRelease whose account may not uninstall says so and waits; one whose account is gone is let go of, with
// a warning that names what is left, as in Flux.
func TestHelmReleaseAccountGone(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.push(chart("1.0.0", nil))
	w.account("deployer", allSecrets+", "+allConfigMaps)
	w.helmRelease("web", "  serviceAccountName: deployer\n")
	w.released("web", 1)
	w.account("deployer", allSecrets)
	hr := w.getHelmRelease("web")
	w.must(w.client.Delete(w.ctx, hr))
	w.event("web", "UninstallFailed", `cannot get resource "configmaps"`, "system:serviceaccount:"+w.ns+":deployer")
	w.helmSays("web", "Ready", "False", "UninstallFailed", `cannot get resource "configmaps"`)
	w.account("deployer", allSecrets+`, {apiGroups: [""], resources: [configmaps], verbs: [get]}`)
	w.helmSays("web", "Ready", "False", "UninstallFailed", `cannot delete resource "configmaps"`)
	w.account("deployer", "") // not even the history
	w.helmSays("web", "Ready", "False", "UninstallFailed", `cannot get resource "secrets"`)
	w.value("web", "chart")
	w.must(w.client.Delete(w.ctx, &corev1.ServiceAccount{ObjectMeta: w.named("deployer")}))
	w.eventually("the HelmRelease to be gone", func() error {
		if err := w.client.Get(w.ctx, client.ObjectKeyFromObject(hr), hr); !apierrors.IsNotFound(err) {
			return fmt.Errorf("it is there: %w", err)
		}
		return nil
	})
	w.event("web", "Orphaned", "deployer", "release "+w.ns+"/web")
	w.value("web", "chart")
}

// TestHelmReleaseKubeConfigGone: as with the account where what says how the other cluster is reached is gone.
func TestHelmReleaseKubeConfigGone(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.push(chart("1.0.0", nil))
	kubeconfig, err := os.ReadFile(cluster.Kubeconfig)
	w.must(err)
	far := &corev1.Secret{ObjectMeta: w.named("far"), Data: map[string][]byte{"value": kubeconfig}}
	w.must(w.client.Create(w.ctx, far))
	w.helmRelease("web", "  kubeConfig: {secretRef: {name: far}}\n")
	hr := w.released("web", 1)
	w.must(w.client.Delete(w.ctx, far))
	w.helmSays("web", "Ready", "False", "ReconciliationFailed", "Secret/"+w.ns+"/far")
	w.must(w.client.Delete(w.ctx, hr))
	w.eventually("the HelmRelease to be gone", func() error {
		if err := w.client.Get(w.ctx, client.ObjectKeyFromObject(hr), hr); !apierrors.IsNotFound(err) {
			return fmt.Errorf("it is there: %w", err)
		}
		return nil
	})
	w.event("web", "Orphaned", "Secret/far", "release "+w.ns+"/web")
	w.value("web", "chart")
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
