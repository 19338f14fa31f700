package e2e

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
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

// TestHelm takes a small release through its life with the program under its name helm.
func TestHelm(t *testing.T) {
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
