package e2e

import (
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// helm runs helm on the instance's cluster, which it finds by itself as kubectl does; it has to work.
func (in *instance) helm(t *testing.T, args ...string) string {
	t.Helper()
	return ok(t, in.tryHelm(args...), args)
}

func (in *instance) tryHelm(args ...string) result {
	return program("", "env", append([]string{"KEELSON_DATA=" + in.data, filepath.Join(bin, "helm")}, args...)...)
}

// writeFiles writes files below a folder: name, content, …
func writeFiles(t *testing.T, dir string, pairs ...string) {
	t.Helper()
	for i := 0; i < len(pairs); i += 2 {
		name := filepath.Join(dir, pairs[i])
		if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(name, []byte(pairs[i+1]), 0o600); err != nil {
			t.Fatal(err)
		}
	}
}

// smallChart is a chart of a ConfigMap with a value, a Deployment, and a hook.
func smallChart(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	writeFiles(t, dir,
		"Chart.yaml", "{apiVersion: v2, name: web, version: 1.2.3, appVersion: \"9\"}\n",
		"values.yaml", "level: low\n",
		"templates/web.yaml", `apiVersion: v1
kind: ConfigMap
metadata: {name: {{ .Release.Name }}}
data: {level: {{ .Values.level }}}
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: {{ .Release.Name }}}
spec:
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec:
      containers: [{name: web, image: nginx}]
`,
		"templates/before.yaml", `apiVersion: v1
kind: ConfigMap
metadata:
  name: {{ .Release.Name }}-before
  annotations: {helm.sh/hook: pre-upgrade, helm.sh/hook-delete-policy: before-hook-creation}
data: {revision: "{{ .Release.Revision }}"}
`)
	return dir
}

// TestHelm takes a small release through its life with the program under its name helm.
func TestHelm(t *testing.T) {
	dir := smallChart(t)
	if got := shared.helm(t, "version", "--short"); !strings.HasPrefix(got, "v4.") {
		t.Errorf("helm version is %s", got)
	}
	const namespace = "byhelm"
	level := func() string {
		t.Helper()
		return shared.kubectl(t, "-n", namespace, "get", "configmap", "web", "-o", "jsonpath={.data.level}")
	}
	shared.helm(t, "install", "web", dir, "-n", namespace, "--create-namespace", "--wait", "--timeout", limit.String())
	t.Cleanup(func() { shared.kubectl(t, "delete", "namespace", namespace, "--wait=false") })
	if got := level(); got != "low" {
		t.Errorf("installed with level %s", got)
	}
	shared.helm(t, "upgrade", "web", dir, "-n", namespace, "--set", "level=high", "--wait", "--timeout", limit.String())
	if got := level(); got != "high" {
		t.Errorf("upgraded to level %s", got)
	}
	if got := shared.kubectl(t, "-n", namespace, "get", "configmap", "web-before", "-o", "jsonpath={.data.revision}"); got != "2" {
		t.Errorf("the hook ran for revision %s", got)
	}
	shared.helm(t, "rollback", "web", "1", "-n", namespace)
	if got := level(); got != "low" {
		t.Errorf("rolled back to level %s", got)
	}
	var history []struct {
		Revision            int
		Status, Description string
	}
	if err := json.Unmarshal([]byte(shared.helm(t, "history", "web", "-n", namespace, "-o", "json")), &history); err != nil {
		t.Fatal(err)
	}
	if len(history) != 3 || history[1].Status != "superseded" || history[2].Status != "deployed" || history[2].Description != "Rollback to 1" {
		t.Errorf("history: %+v", history)
	}
	var list []struct{ Name, Namespace, Revision, Status, Chart string }
	if err := json.Unmarshal([]byte(shared.helm(t, "list", "-A", "-o", "json")), &list); err != nil {
		t.Fatal(err)
	}
	if len(list) != 1 || list[0].Name != "web" || list[0].Revision != "3" || list[0].Chart != "web-1.2.3" {
		t.Errorf("list: %+v", list)
	}
	if got := shared.kubectl(t, "-n", namespace, "get", "configmap", "web", "--show-managed-fields", "-o", "jsonpath={.metadata.managedFields[*].manager}"); got != "helm" {
		t.Errorf("what helm applied is managed by %s", got)
	}
	shared.helm(t, "uninstall", "web", "-n", namespace, "--wait", "--timeout", limit.String())
	if r := tryKubectl(shared.Kubeconfig, "-n", namespace, "get", "deployment", "web"); r.code == 0 {
		t.Error("the Deployment is still there")
	}
	if r := shared.tryHelm("status", "web", "-n", namespace); r.code == 0 || !strings.Contains(r.err, "not found") {
		t.Errorf("status of what is uninstalled: %+v", r)
	}
}

// TestReleases: keelson tells of releases that are declared and of others, and rolls a declared one back by Helm's own storage.
func TestReleases(t *testing.T) {
	const namespace = "releases"
	dir := smallChart(t)
	shared.helm(t, "install", "web", dir, "-n", namespace, "--create-namespace")
	t.Cleanup(func() {
		shared.kubectl(t, "-n", namespace, "delete", "helmreleases", "--all", "--timeout="+limit.String())
		shared.kubectl(t, "delete", "namespace", namespace, "--wait=false")
	})
	type listed struct {
		Kind, Namespace, Name, State, Release, Chart, ChartVersion, Status string
		Version                                                            int
	}
	releases := func() (all []listed) {
		t.Helper()
		var list struct{ Releases []listed }
		if err := json.Unmarshal([]byte(shared.must(t, "get", "releases", "-n", namespace, "-o", "json")), &list); err != nil {
			t.Fatal(err)
		}
		return list.Releases
	}
	one := listed{"Release", namespace, "web", "Undeclared", "web", "web", "1.2.3", "deployed", 1}
	if diff := cmp.Diff([]listed{one}, releases()); diff != "" {
		t.Errorf("undeclared (-want +got):\n%s", diff)
	}
	// Suspended, it is nobody's but the commands'.
	manifest := filepath.Join(t.TempDir(), "release.yaml")
	if err := os.WriteFile(manifest, []byte(`apiVersion: helm.toolkit.fluxcd.io/v2
kind: HelmRelease
metadata: {name: shop, namespace: `+namespace+`}
spec:
  interval: 1h
  suspend: true
  releaseName: web
  chartRef: {kind: OCIRepository, name: web}
`), 0o600); err != nil {
		t.Fatal(err)
	}
	shared.kubectl(t, "apply", "-f", manifest)
	one = listed{"HelmRelease", namespace, "shop", "Suspended", "web", "web", "1.2.3", "deployed", 1}
	if diff := cmp.Diff([]listed{one}, releases()); diff != "" {
		t.Errorf("declared (-want +got):\n%s", diff)
	}
	fails(t, shared.keelson("rollback", "shop", "-n", namespace), 1, "no earlier version")
	shared.helm(t, "upgrade", "web", dir, "-n", namespace, "--set", "level=high")
	fails(t, shared.keelson("rollback", "shop", "7", "-n", namespace), 1, "has no revision 7", "keelson history shop")
	fails(t, shared.keelson("rollback", "shop", "first", "-n", namespace), 2, "is a number")
	fails(t, shared.keelson("sync", "shop", "-n", namespace), 2, "is a HelmRelease")
	if got := shared.must(t, "rollback", "shop", "-n", namespace); !strings.Contains(got, "rolled back to revision 1, as revision 3") {
		t.Errorf("rollback says %q", got)
	}
	if got := shared.kubectl(t, "-n", namespace, "get", "configmap", "web", "-o", "jsonpath={.data.level}"); got != "low" {
		t.Errorf("rolled back to level %s", got)
	}
	var history struct {
		History []struct {
			Version                 int
			Status, Description, By string
		}
	}
	if err := json.Unmarshal([]byte(shared.must(t, "history", "shop", "-n", namespace, "-o", "json")), &history); err != nil {
		t.Fatal(err)
	}
	last := history.History[len(history.History)-1]
	if len(history.History) != 3 || last.Status != "deployed" || last.Description != "Rollback to 1" || last.By != "keelson-rollback" {
		t.Errorf("history: %+v", history)
	}
	if got := shared.helm(t, "history", "web", "-n", namespace); !strings.Contains(got, "Rollback to 1") {
		t.Errorf("helm tells\n%s", got)
	}
	one.Version = 3
	if diff := cmp.Diff([]listed{one}, releases()); diff != "" {
		t.Errorf("rolled back (-want +got):\n%s", diff)
	}
	if got := shared.must(t, "get", "releases", "-n", namespace); !strings.Contains(got, "web-1.2.3") {
		t.Errorf("the table is\n%s", got)
	}
	// A release that is held is resumed by asking for what Git wants, in Flux's words.
	shared.kubectl(t, "-n", namespace, "patch", "helmrelease", "shop", "--subresource=status", "--type=merge", "-p",
		`{"status":{"conditions":[{"type":"Ready","status":"False","reason":"HeldByRollback","message":"held","lastTransitionTime":"2026-01-01T00:00:00Z"}]}}`)
	shared.must(t, "resume", "shop", "-n", namespace)
	got := strings.Fields(shared.kubectl(t, "-n", namespace, "get", "helmrelease", "shop", "-o", "jsonpath={.spec.suspend} "+
		`{.metadata.annotations.reconcile\.fluxcd\.io/requestedAt} {.metadata.annotations.reconcile\.fluxcd\.io/forceAt}`))
	if got = slices.DeleteFunc(got, func(s string) bool { return s == "false" }); len(got) != 2 || got[0] != got[1] {
		t.Errorf("resumed, it has suspend and requests %q", got)
	}
	shared.must(t, "suspend", "shop", "-n", namespace)
}

// TestDiffRelease compares a release with what the newest chart of its repository and the values of the HelmRelease would make of it.
func TestDiffRelease(t *testing.T) {
	const namespace = "diffrelease"
	dir := smallChart(t)
	repo := t.TempDir()
	server := httptest.NewServer(http.FileServer(http.Dir(repo)))
	t.Cleanup(server.Close)
	shared.helm(t, "install", "web", dir, "-n", namespace, "--create-namespace")
	t.Cleanup(func() {
		shared.kubectl(t, "-n", namespace, "delete", "helmreleases,helmrepositories", "--all", "--timeout="+limit.String())
		shared.kubectl(t, "delete", "namespace", namespace, "--wait=false")
	})
	writeFiles(t, dir, "templates/more.yaml", `apiVersion: v1
kind: ConfigMap
metadata: {name: more}
data: {password: {{ .Values.password }}, level: {{ .Values.level }}}
`)
	if err := os.Remove(filepath.Join(dir, "templates", "before.yaml")); err != nil {
		t.Fatal(err)
	}
	shared.helm(t, "package", dir, "--version", "1.3.0", "-d", repo)
	shared.helm(t, "repo", "index", repo)
	manifest := filepath.Join(t.TempDir(), "release.yaml")
	if err := os.WriteFile(manifest, []byte(strings.NewReplacer("NAMESPACE", namespace, "URL", server.URL).Replace(`apiVersion: source.toolkit.fluxcd.io/v1
kind: HelmRepository
metadata: {name: charts, namespace: NAMESPACE}
spec: {interval: 1h, url: URL, suspend: true}
---
apiVersion: v1
kind: Secret
metadata: {name: web, namespace: NAMESPACE}
stringData: {values.yaml: "password: correct-horse"}
---
apiVersion: helm.toolkit.fluxcd.io/v2
kind: HelmRelease
metadata: {name: shop, namespace: NAMESPACE}
spec:
  interval: 1h
  suspend: true
  releaseName: web
  chart: {spec: {chart: web, version: 1.x, sourceRef: {kind: HelmRepository, name: charts}}}
  valuesFrom: [{kind: Secret, name: web}]
  values: {level: high}
`)), 0o600); err != nil {
		t.Fatal(err)
	}
	shared.kubectl(t, "apply", "-f", manifest)
	for _, args := range [][]string{{"diff", "release", "shop", "-n", namespace}, {"diff", "shop", "-n", namespace}} {
		r := shared.keelson(args...)
		if r.code != 4 {
			t.Fatalf("%q ended with %d: %s", args, r.code, r.err)
		}
		for _, part := range []string{"-  level: low", "+  level: high", "+++ git/ConfigMap/" + namespace + "/more", "+  password: **REDACTED**", "3 of 3 objects differ"} {
			if !strings.Contains(r.out, part) {
				t.Errorf("%q lacks %q:\n%s", args, part, r.out)
			}
		}
		if strings.Contains(r.out+r.err, "correct-horse") {
			t.Errorf("%q tells a value of a Secret", args)
		}
	}
	if got := shared.kubectl(t, "-n", namespace, "get", "configmap", "web", "-o", "jsonpath={.data.level}"); got != "low" {
		t.Errorf("a diff has changed the level to %s", got)
	}
	// What the chart's schema refuses, and what is not there.
	writeFiles(t, dir, "values.schema.json", `{"type": "object", "properties": {"level": {"type": "integer"}}}`)
	shared.helm(t, "package", dir, "--version", "1.4.0", "-d", repo)
	shared.helm(t, "repo", "index", repo)
	fails(t, shared.keelson("diff", "release", "shop", "-n", namespace), 1, "level")
	shared.kubectl(t, "-n", namespace, "delete", "secret", "web")
	fails(t, shared.keelson("diff", "release", "shop", "-n", namespace), 1, "there is no Secret/web")
}
