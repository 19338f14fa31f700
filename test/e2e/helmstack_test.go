package e2e

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// stack writes a chart as an agency keeps one for all of its clients: a database and a web server, with credentials.
func stack(t *testing.T, dir, version string) {
	t.Helper()
	writeFiles(t, dir,
		"Chart.yaml", "{apiVersion: v2, name: wordpress-stack, version: "+version+"}\n",
		"values.yaml", "credentials: {mariadbPassword: \"\", wordpressAdminPassword: \"\"}\nlitespeed: {replicas: 1, storage: {size: 1Gi}}\nmariadb: {storage: {size: 1Gi}}\nnode: {}\n",
		"templates/_helpers.tpl", `{{ define "stack.name" }}{{ .Release.Name }}-{{ .Chart.Name }}{{ end }}`,
		"templates/secret.yaml", `apiVersion: v1
kind: Secret
metadata: {name: {{ include "stack.name" . }}}
stringData:
  mariadb-password: {{ required "credentials.mariadbPassword" .Values.credentials.mariadbPassword | quote }}
  admin-password: {{ required "credentials.wordpressAdminPassword" .Values.credentials.wordpressAdminPassword | quote }}
`,
		"templates/litespeed.yaml", `apiVersion: v1
kind: ConfigMap
metadata: {name: {{ include "stack.name" . }}-litespeed-data}
data: {size: {{ .Values.litespeed.storage.size }}}
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: {{ include "stack.name" . }}-litespeed, labels: {helm.sh/chart: "{{ .Chart.Name }}-{{ .Chart.Version }}"}}
spec:
  replicas: {{ .Values.litespeed.replicas }}
  selector: {matchLabels: {app: litespeed}}
  template:
    metadata: {labels: {app: litespeed}}
    spec:
      nodeSelector: {{ .Values.node | toJson }}
      containers: [{name: litespeed, image: litespeed:1}]
`,
		"templates/mariadb.yaml", `apiVersion: apps/v1
kind: StatefulSet
metadata: {name: {{ include "stack.name" . }}-mariadb}
spec:
  serviceName: mariadb
  selector: {matchLabels: {app: mariadb}}
  template:
    metadata: {labels: {app: mariadb}}
    spec:
      containers: [{name: mariadb, image: mariadb:1}]
`)
}

// TestHelmOfAPipeline runs what a deploy job runs: a chart's folder at a tag, a client's values, credentials from variables, and waiting.
func TestHelmOfAPipeline(t *testing.T) {
	t.Parallel()
	const namespace = "vitrine"
	repo, work := t.TempDir(), t.TempDir()
	git := func(args ...string) {
		t.Helper()
		cmd := exec.Command("git", append([]string{"-c", "user.name=a", "-c", "user.email=a@example.org", "-C", repo}, args...)...)
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("git %q: %v\n%s", args, err, out)
		}
	}
	git("init", "-q")
	for _, version := range []string{"3.10.9", "3.11.0"} {
		stack(t, filepath.Join(repo, "charts", "wordpress-stack"), version)
		git("add", ".")
		git("commit", "-qm", version)
		git("tag", "wordpress-stack-v"+version)
	}
	shared.kubectl(t, "create", "namespace", namespace)
	t.Cleanup(func() { shared.kubectl(t, "delete", "namespace", namespace, "--wait=false") })
	clone := func(tag string) string {
		dir := filepath.Join(t.TempDir(), "templates-helm")
		if out, err := exec.Command("git", "clone", "-q", "--depth", "1", "--branch", tag, "file://"+repo, dir).CombinedOutput(); err != nil {
			t.Fatalf("%v\n%s", err, out)
		}
		return filepath.Join(dir, "charts", "wordpress-stack")
	}
	values := filepath.Join(work, "values-prod.yaml")
	writeFiles(t, work, "values-prod.yaml", "litespeed:\n  replicas: 2\n  storage:\n    size: 5Gi\n")
	deploy := func(chart string, more ...string) result {
		return shared.tryHelm(append([]string{
			"upgrade", "--install", "vitrine", chart, "--namespace", namespace, "--values", values,
			"--set", "credentials.mariadbPassword=s3cr3t", "--set", `credentials.wordpressAdminPassword=a\,b`, "--wait",
		}, more...)...)
	}
	field := func(kind, name, path string) string {
		t.Helper()
		return shared.kubectl(t, "-n", namespace, "get", kind, "vitrine-wordpress-stack"+name, "-o", "jsonpath={"+path+"}")
	}
	args := []string{"upgrade"}
	ok(t, deploy(clone("wordpress-stack-v3.10.9"), "--timeout", "10m"), args)
	if got := field("deployment", "-litespeed", ".status.readyReplicas"); got != "2" {
		t.Errorf("it did not wait: %s replicas are ready", got)
	}
	if got := field("secret", "", ".data.admin-password"); got != "YSxi" {
		t.Errorf("the password is %s", got)
	}
	ok(t, deploy(clone("wordpress-stack-v3.11.0"), "--timeout", "10m"), args)
	if got := field("deployment", "-litespeed", `.metadata.labels.helm\.sh/chart`); got != "wordpress-stack-3.11.0" {
		t.Errorf("the chart is %s", got)
	}

	// One that does not get healthy is taken back, by the flag of Helm 3 and by that of Helm 4.
	for _, flag := range []string{"--atomic", "--rollback-on-failure"} {
		r := deploy(clone("wordpress-stack-v3.10.9"), flag, "--timeout", "3s", "--set", "node.never=here")
		fails(t, r, 1, "has been rolled back due to")
		if deprecated := strings.Contains(r.err, "use --rollback-on-failure instead"); deprecated != (flag == "--atomic") {
			t.Errorf("%s says %q", flag, r.err)
		}
		if got := field("deployment", "-litespeed", `.metadata.labels.helm\.sh/chart`); got != "wordpress-stack-3.11.0" {
			t.Errorf("after %s the chart is %s", flag, got)
		}
	}
	contains(t, shared.helm(t, "history", "vitrine", "-n", namespace), "Install complete", "failed", "Rollback to 2", "wordpress-stack-3.10.9")
	shared.helm(t, "rollback", "vitrine", "1", "-n", namespace)
	if got := field("deployment", "-litespeed", `.metadata.labels.helm\.sh/chart`); got != "wordpress-stack-3.10.9" {
		t.Errorf("after the rollback the chart is %s", got)
	}
	fails(t, deploy(clone("wordpress-stack-v3.10.9"), "--tiller-namespace", "kube-system"), 1, "unknown flag: --tiller-namespace", "there is no Tiller since Helm 3")
	fails(t, shared.tryHelm("uninstall", "vitrine", "--purge", "-n", namespace), 1, "unknown flag: --purge", "leave it out")
	if err := os.Remove(values); err != nil {
		t.Fatal(err)
	}
	fails(t, deploy(clone("wordpress-stack-v3.10.9")), 1, "values-prod.yaml")
}

// TestHelmOfAnApp runs the deploy job of an application with its own chart: one value is the commit's.
func TestHelmOfAnApp(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "my-app")
	writeFiles(t, dir,
		"Chart.yaml", "{apiVersion: v1, name: my-app, version: 0.1.0}\n", // of Helm 2
		"values.yaml", `replicaCount: 2
image:
  repository: registry.gitlab.com/my-org/my-app
  tag: stable
  pullPolicy: IfNotPresent
service:
  type: ClusterIP
  port: 80
ingress:
  enabled: true
  annotations:
    kubernetes.io/ingress.class: nginx
    certmanager.k8s.io/cluster-issuer: "letsencrypt-prod"
  hosts:
    - host: api.coolvds-client.no
      paths: ['/']
resources:
  limits:
    cpu: 100m
    memory: 128Mi
  requests:
    cpu: 100m
    memory: 128Mi
`,
		"templates/app.yaml", `apiVersion: apps/v1
kind: Deployment
metadata: {name: {{ .Release.Name }}}
spec:
  replicas: {{ .Values.replicaCount }}
  selector: {matchLabels: {app: {{ .Release.Name }}}}
  template:
    metadata: {labels: {app: {{ .Release.Name }}}}
    spec:
      containers:
      - name: app
        image: "{{ .Values.image.repository }}:{{ .Values.image.tag }}"
        imagePullPolicy: {{ .Values.image.pullPolicy }}
        resources:
{{ toYaml .Values.resources | indent 10 }}
---
apiVersion: v1
kind: Service
metadata: {name: {{ .Release.Name }}}
spec: {type: {{ .Values.service.type }}, ports: [{port: {{ .Values.service.port }}}], selector: {app: {{ .Release.Name }}}}
{{- if .Values.ingress.enabled }}
---
apiVersion: networking.k8s.io/v1
kind: Ingress
metadata:
  name: {{ .Release.Name }}
  annotations:
{{ toYaml .Values.ingress.annotations | indent 4 }}
spec:
  rules:
{{- range .Values.ingress.hosts }}
  - host: {{ .host }}
    http:
      paths:
{{- range .paths }}
      - {path: {{ . }}, pathType: Prefix, backend: {service: {name: {{ $.Release.Name }}, port: {number: {{ $.Values.service.port }}}}}}
{{- end }}
{{- end }}
{{- end }}
`)
	const namespace = "production"
	t.Cleanup(func() { shared.kubectl(t, "delete", "namespace", namespace, "--wait=false") })
	for _, sha := range []string{"0a1b2c", "3d4e5f"} {
		shared.helm(t, "upgrade", "--install", "my-app", dir, "--set", "image.tag="+sha, "--namespace", namespace, "--create-namespace", "--wait", "--timeout", limit.String())
		if got := shared.kubectl(t, "-n", namespace, "get", "deployment", "my-app", "-o", "jsonpath={.spec.template.spec.containers[0].image} {.status.readyReplicas}"); got != "registry.gitlab.com/my-org/my-app:"+sha+" 2" {
			t.Errorf("deployed: %s", got)
		}
	}
	if got := shared.kubectl(t, "-n", namespace, "get", "ingress", "my-app", "-o", "jsonpath={.spec.rules[0].host}"); got != "api.coolvds-client.no" {
		t.Errorf("ingress: %s", got)
	}
}
