package e2e

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"sync"
	"testing"
)

// TestFluxAlerts: flux declares who is told about what, and they are told: of a failure once, that it is over, and of drift.
func TestFluxAlerts(t *testing.T) {
	type event struct {
		Severity, Reason, Message string
		Metadata                  map[string]string
		InvolvedObject            struct{ Kind, Name string }
	}
	var mu sync.Mutex
	var got []event
	hook := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		var e event
		if b, _ := io.ReadAll(r.Body); json.Unmarshal(b, &e) != nil || r.Header.Get("Gotk-Component") != "keelson" {
			t.Errorf("it was sent %v %q", r.Header, b)
		}
		mu.Lock()
		defer mu.Unlock()
		got = append(got, e)
	}))
	defer hook.Close()
	come := func(severity string, parts ...string) (found []event) {
		mu.Lock()
		defer mu.Unlock()
		for _, e := range got {
			text := e.Reason + ": " + e.Message
			fits := e.Severity == severity && e.InvolvedObject.Kind == "Kustomization" && e.InvolvedObject.Name == "told"
			for _, p := range parts {
				fits = fits && strings.Contains(text, p)
			}
			if fits {
				found = append(found, e)
			}
		}
		return found
	}
	comes := func(severity string, parts ...string) event {
		t.Helper()
		eventually(t, "notification "+strings.Join(parts, " "), func() error {
			if len(come(severity, parts...)) == 0 {
				return fmt.Errorf("got %v", got)
			}
			return nil
		})
		return come(severity, parts...)[0]
	}
	t.Cleanup(func() {
		for _, kind := range []string{"alert", "provider", "kustomization", "gitrepository"} {
			tryKubectl(shared.Kubeconfig, "-n", "flux-system", "delete", kind, "told", "--ignore-not-found")
		}
	})

	contains(t, flux(t, "create", "alert-provider", "told", "--type", "generic", "--address", hook.URL+"/in"), "Provider created", "Provider told is ready")
	contains(t, flux(t, "create", "alert", "told", "--provider-ref", "told", "--event-severity", "info", "--event-source", "Kustomization/told"),
		"Alert created", "Alert told is ready")
	contains(t, flux(t, "get", "alert-providers"), "told")
	contains(t, flux(t, "get", "alerts"), "told")
	contains(t, flux(t, "export", "alert", "told"), "kind: Alert", "eventSeverity: info")
	contains(t, shared.must(t, "get", "alerts", "-o", "wide"), "told", "Ready", "Kustomization/told")
	contains(t, shared.must(t, "get", "providers", "-o", "wide"), "told", "Ready", "generic", strings.TrimPrefix(hook.URL, "http://"))

	url := strings.TrimSpace(shared.must(t, "git", "create", "team/told"))
	c := cloneOf(t, shared.Git+"/team/told.git")
	manifest := filepath.Join(c.dir, "app", "objects.yaml")
	write(t, manifest, "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: told, namespace: default}\ndata: {v: one}\n")
	first := "main@sha1:" + c.push("Begin")
	flux(t, "create", "source", "git", "told", "--url", url, "--branch", "main", "--interval", "10m")
	flux(t, "create", "kustomization", "told", "--source", "GitRepository/told", "--path", "./app", "--prune", "--interval", "10m")
	if e := comes("info", "Progressing: ConfigMap/default/told created"); e.Metadata["revision"] != first {
		t.Errorf("metadata %v, want the revision %s", e.Metadata, first)
	}
	write(t, manifest, "a: [\n")
	bad := "main@sha1:" + c.push("Break it")
	if e := comes("error", "BuildFailed", "app/objects.yaml"); e.Metadata["revision"] != bad {
		t.Errorf("metadata %v, want the revision %s", e.Metadata, bad)
	}
	write(t, manifest, "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: told, namespace: default}\ndata: {v: two}\n")
	good := "main@sha1:" + c.push("Mend it")
	comes("info", "ReconciliationSucceeded: Applied revision: "+good)
	shared.kubectl(t, "-n", "default", "delete", "configmap", "told")
	comes("info", "DriftRepaired", "ConfigMap/default/told repaired", "deleted in the cluster")
	if all := come("error"); len(all) != 1 {
		t.Errorf("there was one failure, and it was told %d times: %v", len(all), all)
	}

	contains(t, flux(t, "suspend", "alert", "told"), "alert suspended")
	contains(t, shared.must(t, "get", "alerts"), "told", "Suspended")
	contains(t, flux(t, "resume", "alert", "told"), "alert resumed")
	shared.kubectl(t, "-n", "flux-system", "patch", "provider", "told", "--type", "merge", "-p", `{"spec":{"type":"sentry"}}`)
	contains(t, shared.must(t, "get", "providers"), "told", "Failing", "spec.type sentry: not supported")
	contains(t, flux(t, "delete", "alert", "told", "--silent"), "alert deleted")
	contains(t, flux(t, "delete", "alert-provider", "told", "--silent"), "provider deleted")
}

// TestAlertsOfPipelines: an Alert about a Project tells how its pipelines ended.
func TestAlertsOfPipelines(t *testing.T) {
	var mu sync.Mutex
	var got []string
	hook := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		b, _ := io.ReadAll(r.Body)
		mu.Lock()
		defer mu.Unlock()
		got = append(got, string(b))
	}))
	defer hook.Close()
	comes := func(parts ...string) {
		t.Helper()
		eventually(t, "notification "+strings.Join(parts, " "), func() error {
			mu.Lock()
			defer mu.Unlock()
		next:
			for _, text := range got {
				for _, p := range parts {
					if !strings.Contains(text, p) {
						continue next
					}
				}
				return nil
			}
			return fmt.Errorf("got %q", got)
		})
	}
	shared.must(t, "git", "create", "team/piped")
	t.Cleanup(func() {
		tryKubectl(shared.Kubeconfig, "-n", "flux-system", "delete", "alert/piped", "provider/piped", "project/piped", "--ignore-not-found")
	})
	apply(t, shared.Kubeconfig, `
apiVersion: keelson.dev/v1alpha1
kind: Project
metadata: {name: piped, namespace: flux-system}
spec: {repository: team/piped, path: acme/piped}
---
apiVersion: notification.toolkit.fluxcd.io/v1beta3
kind: Provider
metadata: {name: piped, namespace: flux-system}
spec: {type: slack, address: "`+hook.URL+`"}
---
apiVersion: notification.toolkit.fluxcd.io/v1beta3
kind: Alert
metadata: {name: piped, namespace: flux-system}
spec: {providerRef: {name: piped}, eventSources: [{kind: Project, name: piped}]}
`)
	projectReady(t, shared.Kubeconfig, "flux-system", "piped", "True", "Succeeded")
	c := cloneOf(t, shared.Git+"/team/piped.git")
	write(t, filepath.Join(c.dir, ".gitlab-ci.yml"), "build: {script: [echo built]}\n")
	first := c.push("Begin")
	comes(`"color":"good"`, "pipeline 1 of main: success (Begin)", "main@sha1:"+first)
	write(t, filepath.Join(c.dir, ".gitlab-ci.yml"), "build: {script: [exit 3]}\n")
	c.push("Break it")
	comes(`"color":"danger"`, "pipeline 2 of main: failed: build (Break it)")
	shared.kubectl(t, "-n", "flux-system", "get", "events", "--field-selector", "involvedObject.name=piped,reason=PipelineFailed")
}
