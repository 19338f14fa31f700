package e2e

import (
	"fmt"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// fluxLeft applies manifests as kustomize-controller does: by server-side apply, under its name.
func fluxLeft(t *testing.T, kubeconfig, manifest string) {
	t.Helper()
	file := t.TempDir() + "/manifest.yaml"
	write(t, file, manifest)
	kubectl(t, kubeconfig, "apply", "--server-side", "--field-manager=kustomize-controller", "-f", file)
}

// fluxController is one of Flux's Deployments, as far as it matters here.
func fluxController(program, args string) string {
	return fmt.Sprintf(`---
apiVersion: apps/v1
kind: Deployment
metadata:
  name: %[1]s
  namespace: flux-system
  labels: {app.kubernetes.io/part-of: flux, app.kubernetes.io/component: %[1]s}
spec:
  selector: {matchLabels: {app: %[1]s}}
  template:
    metadata: {labels: {app: %[1]s}}
    spec: {containers: [{name: manager, image: "ghcr.io/fluxcd/%[1]s:v1.9.4", args: [%[2]s]}]}
`, program, args)
}

// TestTakeoverAndBack goes with a cluster from Flux to Keelson and back, with nothing but the commands.
func TestTakeoverAndBack(t *testing.T) {
	kubeconfig, data := bareCluster(t), t.TempDir()
	git := newRemote(t)
	c := git.create(t, "first", "testdata/first")
	commit := c.git("rev-parse", "HEAD")
	bootstrap(t, kubeconfig, git.url+"/first.git", "./clusters/my-cluster")
	fluxLeft(t, kubeconfig, `
apiVersion: kustomize.toolkit.fluxcd.io/v1
kind: Kustomization
metadata:
  name: apps
  namespace: flux-system
  labels: {kustomize.toolkit.fluxcd.io/name: flux-system, kustomize.toolkit.fluxcd.io/namespace: flux-system}
spec: {interval: 1m, path: ./apps, sourceRef: {kind: GitRepository, name: flux-system}, prune: true}
---
apiVersion: apps/v1
kind: Deployment
metadata:
  name: my-application
  namespace: default
  labels: {kustomize.toolkit.fluxcd.io/name: apps, kustomize.toolkit.fluxcd.io/namespace: flux-system}
spec:
  replicas: 3
  selector: {matchLabels: {app: my-application}}
  template:
    metadata: {labels: {app: my-application}}
    spec: {containers: [{name: my-application, image: "my-application:v1.0.0", ports: [{containerPort: 8080}]}]}
`+fluxController("source-controller", "")+fluxController("kustomize-controller", ""))
	for app, id := range map[string]string{"flux-system": "flux-system_apps_kustomize.toolkit.fluxcd.io_Kustomization", "apps": "default_my-application_apps_Deployment"} {
		kubectl(t, kubeconfig, "-n", "flux-system", "patch", "kustomization", app, "--subresource=status", "--type=merge", "-p", fmt.Sprintf(
			`{"status":{"observedGeneration":1,"lastAppliedRevision":"main@sha1:%s","inventory":{"entries":[{"id":%q,"v":"v1"}]}}}`, commit, id))
	}
	before := []string{generation(t, kubeconfig, "default", "deployment/my-application"), generation(t, kubeconfig, "flux-system", "kustomization/apps")}

	refused := startServer(t, kubeconfig, data)
	select {
	case <-refused.done:
	case <-time.After(limit):
		t.Fatal("it works beside Flux")
	}
	contains(t, refused.says(), "Deployment flux-system/source-controller", "Deployment flux-system/kustomize-controller", "--take-over")
	contains(t, onBare(t, "takeover", "--plan"),
		"flux-system/kustomize-controller (kustomize-controller) active", "adopt     Deployment/default/my-application from kustomize-controller",
		"2 apps: 2 objects adopted as they are, 0 unchanged, 0 changed, 0 created, 0 deleted")

	s := startServer(t, kubeconfig, data, "--take-over")
	s.waitFor(t, works)
	eventually(t, "fields to be Keelson's", func() error {
		m := managers(t, kubeconfig, "default", "deployment/my-application")
		if !strings.Contains(m, "keelson/Apply") || strings.Contains(m, "kustomize-controller") {
			return fmt.Errorf("managers are %s", m)
		}
		return nil
	})
	for _, name := range []string{"source-controller", "kustomize-controller"} {
		if n := kubectl(t, kubeconfig, "-n", "flux-system", "get", "deployment", name, "-o", "jsonpath={.spec.replicas}"); n != "0" {
			t.Errorf("%s has %s replicas", name, n)
		}
	}
	fails(t, tryBare(t, "handback"), 1, "still works on this cluster")
	s.stop(t)

	contains(t, onBare(t, "handback", "--dry-run"), "Deployment/default/my-application would be handed back", "nothing was changed")
	contains(t, onBare(t, "handback"), "Deployment/default/my-application handed back", "kustomize-controller scaled to 1")
	contains(t, onBare(t, "handback"), "handed back: 0 changes")
	m := managers(t, kubeconfig, "default", "deployment/my-application")
	if !strings.Contains(m, "kustomize-controller/Apply") || strings.Contains(m, "keelson") {
		t.Errorf("after the handback the managers are %s", m)
	}
	after := []string{generation(t, kubeconfig, "default", "deployment/my-application"), generation(t, kubeconfig, "flux-system", "kustomization/apps")}
	if fmt.Sprint(before) != fmt.Sprint(after) {
		t.Errorf("takeover and handback changed objects: generations %v, then %v", before, after)
	}

	// two at once, by Flux's own label
	for _, name := range []string{"source-controller", "kustomize-controller"} {
		kubectl(t, kubeconfig, "-n", "flux-system", "patch", "deployment", name, "--type=json", "-p",
			`[{"op":"replace","path":"/spec/template/spec/containers/0/args","value":["--watch-label-selector=!sharding.fluxcd.io/key"]}]`)
	}
	kubectl(t, kubeconfig, "-n", "flux-system", "label", "kustomization/apps", "gitrepository/flux-system", "sharding.fluxcd.io/key=keelson")
	shard := startServer(t, kubeconfig, data, "--watch-label-selector", "sharding.fluxcd.io/key=keelson")
	shard.waitFor(t, works)
	eventually(t, "the shard's app", func() error {
		if m := managers(t, kubeconfig, "default", "deployment/my-application"); !strings.Contains(m, "keelson/Apply") {
			return fmt.Errorf("managers are %s", m)
		}
		return nil
	})
	if m := managers(t, kubeconfig, "flux-system", "kustomization/apps"); strings.Contains(m, "keelson/Apply") {
		t.Errorf("an app of another shard was delivered: %s", m)
	}
	shard.stop(t)
	for _, name := range []string{"source-controller", "kustomize-controller"} {
		kubectl(t, kubeconfig, "-n", "flux-system", "delete", "deployment", name)
	}
	last := startServer(t, kubeconfig, data)
	last.waitFor(t, works)
	forget(t, kubeconfig)
	last.stop(t)
}

func generation(t *testing.T, kubeconfig, namespace, object string) string {
	t.Helper()
	return kubectl(t, kubeconfig, "-n", namespace, "get", object, "-o", "jsonpath={.metadata.uid} {.metadata.generation}")
}

// managers are the field managers of an object with their operations.
func managers(t *testing.T, kubeconfig, namespace, object string) string {
	t.Helper()
	return kubectl(t, kubeconfig, "-n", namespace, "get", object, "--show-managed-fields", "-o",
		`jsonpath={range .metadata.managedFields[*]}{.manager}/{.operation} {end}`)
}

// tryBare runs a keelson command on the bare cluster that may fail.
func tryBare(t *testing.T, args ...string) result {
	t.Helper()
	return program("", bin+"/keelson", append(args, "--kubeconfig", bareCluster(t))...)
}

// TestBesideArgoCD: while Argo CD's controller runs, Applications are left to it, and this is said; then they are taken over.
func TestBesideArgoCD(t *testing.T) {
	kubeconfig, data := bareCluster(t), t.TempDir()
	kubectl(t, kubeconfig, "apply", "-f", filepath.Join(root(), "config", "crd"))
	kubectl(t, kubeconfig, "wait", "--for=condition=Established", "--timeout=60s", "crd", "--all")
	_, url := hosted(t, "beside", "a.yaml", configYAML("a", "1", ""))
	apply(t, kubeconfig, `
apiVersion: v1
kind: Namespace
metadata: {name: argocd}
---
apiVersion: apps/v1
kind: StatefulSet
metadata: {name: argocd-application-controller, namespace: argocd}
spec:
  serviceName: argocd-application-controller
  selector: {matchLabels: {app: ac}}
  template:
    metadata: {labels: {app: ac}}
    spec: {containers: [{name: main, image: "quay.io/argoproj/argocd:v3.1.0", args: [/usr/local/bin/argocd-application-controller]}]}
---
apiVersion: argoproj.io/v1alpha1
kind: Application
metadata: {name: beside, namespace: argocd, finalizers: [resources-finalizer.argocd.argoproj.io]}
spec:
  project: default
  source: {repoURL: `+url+`, path: .}
  destination: {server: `+inCluster+`, namespace: beside}
  syncPolicy: {automated: {}, syncOptions: [CreateNamespace=true]}
`)
	s := startServer(t, kubeconfig, data)
	s.waitFor(t, works)
	contains(t, s.says(), "Applications and ApplicationSets are left alone", "StatefulSet argocd/argocd-application-controller", "--take-over")
	contains(t, tryBare(t, "status").out, "Applications are left to Argo CD: StatefulSet argocd/argocd-application-controller")
	contains(t, onBare(t, "takeover", "--plan"), "argocd/argocd-application-controller (argocd-application-controller) active: Applications are left to it")
	time.Sleep(time.Second) // what must not happen would
	if got := kubectl(t, kubeconfig, "-n", "argocd", "get", "application", "beside", "-o", "jsonpath={.status}"); got != "" {
		t.Errorf("an Application of Argo CD's was touched: %s", got)
	}
	s.stop(t)
	s = startServer(t, kubeconfig, data, "--take-over")
	s.waitFor(t, works)
	eventually(t, "the app to be delivered", func() error {
		if r := tryKubectl(kubeconfig, "-n", "beside", "get", "configmap", "a"); r.code != 0 {
			return fmt.Errorf("%s", r.err)
		}
		return nil
	})
	if n := kubectl(t, kubeconfig, "-n", "argocd", "get", "statefulset", "argocd-application-controller", "-o", "jsonpath={.spec.replicas}"); n != "0" {
		t.Errorf("Argo CD's controller has %s replicas", n)
	}
	s.stop(t)
	contains(t, onBare(t, "handback"), "ConfigMap/beside/a handed back", "StatefulSet argocd/argocd-application-controller scaled to 1")
	if m := managers(t, kubeconfig, "beside", "configmap/a"); !strings.Contains(m, "argocd-controller/Apply") || strings.Contains(m, "keelson") {
		t.Errorf("after the handback the managers are %s", m)
	}
	kubectl(t, kubeconfig, "-n", "argocd", "delete", "statefulset", "argocd-application-controller")
	kubectl(t, kubeconfig, "-n", "argocd", "patch", "application", "beside", "--type=merge", "-p", `{"metadata":{"finalizers":[]}}`)
	kubectl(t, kubeconfig, "-n", "argocd", "delete", "application", "beside")
	kubectl(t, kubeconfig, "delete", "namespace", "beside", "argocd", "--wait=false")
}
