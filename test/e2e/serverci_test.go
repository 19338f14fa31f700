package e2e

import (
	"fmt"
	"io"
	"log"
	"net"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-containerregistry/pkg/crane"
	"github.com/google/go-containerregistry/pkg/registry"
	v1 "github.com/google/go-containerregistry/pkg/v1"

	"keelson.dev/keelson/internal/pipeline/executor/pod"
	"keelson.dev/keelson/test/testcluster"
	"keelson.dev/keelson/test/testpostgres"
)

// freePort is a port of 127.0.0.1 that nobody listens on.
func freePort(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	_, port, _ := net.SplitHostPort(l.Addr().String())
	return port
}

// TestServerPlaysPipelines: keelson server runs jobs as Pods of its cluster, with their way to it. It is killed in the middle of a job, which
// goes on with the next one. A project that wants the server's shell is refused. Where PostgreSQL is installed, it keeps the pipelines.
func TestServerPlaysPipelines(t *testing.T) {
	t.Parallel()
	images := httptest.NewServer(registry.New(registry.Logger(log.New(io.Discard, "", 0))))
	t.Cleanup(images.Close)
	_, imagePort, _ := net.SplitHostPort(images.Listener.Addr().String())
	ci, access := freePort(t), freePort(t)
	cluster := testcluster.StartReal(t, "--registry", imagePort, "--publish", ci+","+access)
	helper, err := pod.Helper(filepath.Join(bin, "keelson"))
	if err != nil {
		t.Fatal(err)
	}
	at := net.JoinHostPort(cluster.Node, imagePort)
	for name, image := range map[string]v1.Image{"/keelson:1": helper, "/shell:1": busyboxImage(t)} {
		if err := crane.Push(image, at+name); err != nil {
			t.Fatal(err)
		}
	}
	kubectl(t, cluster.Kubeconfig, "apply", "--server-side", "-f", filepath.Join(root(), "config/crd"))
	data, kubeconfig := filepath.Join(t.TempDir(), "data"), limitedKubeconfig(t, cluster.Kubeconfig)
	var env []string
	if testpostgres.Installed() {
		env = append(env, "KEELSON_DATABASE_URL="+testpostgres.Start(t).URL("postgres"))
	}
	start := func(args ...string) *server {
		s := startServerWith(t, env, kubeconfig, data, append([]string{
			"--ci", "127.0.0.1:" + ci, "--ci-url", "http://" + cluster.Node + ":" + ci, "--ci-access", "127.0.0.1:" + access,
			"--ci-helper-image", at + "/keelson:1", "--ci-image", at + "/shell:1",
		}, args...)...)
		s.waitFor(t, "pipelines are played")
		return s
	}
	// What administrators may do, people bind where the server may not.
	kubectl(t, cluster.Kubeconfig, "create", "clusterrolebinding", "keelson-admins", "--clusterrole=cluster-admin", "--group=keelson:admins")
	first := start()
	if _, err := os.Stat(filepath.Join(data, "ci/store.db")); (err == nil) == (len(env) > 0) {
		t.Errorf("there is a file with a database: %v, although the environment has %v", err == nil, env)
	}
	token, err := os.ReadFile(filepath.Join(data, "ci/token"))
	if err != nil {
		t.Fatal(err)
	}
	in := &instance{data: filepath.Join(t.TempDir(), "none"), Kubeconfig: cluster.Kubeconfig}
	in.Git = "http://keelson:" + strings.TrimSpace(string(token)) + "@127.0.0.1:" + ci + "/git"
	in.env = "KEELSON_SERVER=http://127.0.0.1:" + ci
	fails(t, in.keelson("ci", "pipelines"), 1, "the token in KEELSON_TOKEN")
	in.env += "\nKEELSON_TOKEN=" + strings.TrimSpace(string(token))

	apply(t, in.Kubeconfig, `
apiVersion: v1
kind: Namespace
metadata: {name: app}
---
apiVersion: keelson.dev/v1alpha1
kind: Project
metadata: {name: app, namespace: app}
spec:
  repository: team/app
  path: acme/app
  access: [{name: production, serviceAccount: deploy, environment: production}]
---
apiVersion: keelson.dev/v1alpha1
kind: Project
metadata: {name: shell, namespace: app}
spec: {repository: team/shell, path: acme/shell, executor: {type: shell}}
`)
	in.rbac(t, "app", "deploy")
	kubectl(t, in.Kubeconfig, "create", "namespace", "keelson-jobs")
	in.must(t, "git", "create", "team/app")
	c := cloneOf(t, in.Git+"/team/app.git")
	write(t, filepath.Join(c.dir, ".gitlab-ci.yml"), `
deploy:
  environment: production
  script:
  - ln -s /proc/1/exe /tmp/kubectl
  - /tmp/kubectl create configmap begun
  - until /tmp/kubectl get configmap go; do sleep 1; done
  - echo "registry [$CI_REGISTRY]"
`)
	c.git("add", "-A")
	c.git("commit", "-qm", "A pipeline")
	c.git("push", "-q", "origin", "HEAD:main")
	id := in.newest(t, "acme/app", 1)
	eventually(t, "the job", func() error {
		if r := tryKubectl(in.Kubeconfig, "get", "configmap", "begun", "-n", "app"); r.code != 0 {
			return fmt.Errorf("%s%s", r.err, in.keelson("ci", "logs", fmt.Sprint(id), "deploy").out)
		}
		return nil
	})
	first.kill(t)
	second := start()
	in.kubectl(t, "create", "configmap", "go", "-n", "app")
	in.shownLogs(t, id, "success: deploy/1=success")
	contains(t, in.must(t, "ci", "logs", fmt.Sprint(id), "deploy"), "configmap/begun created", "registry []")

	in.must(t, "git", "create", "team/shell")
	c = cloneOf(t, in.Git+"/team/shell.git")
	logs := in.played(t, c, "acme/shell", "main", "build: {script: [id]}\n", "failed: build/1=failed")
	contains(t, logs["build"], "this server does not let them: whoever runs it allows that with --ci-shell")

	// A repository of another server: its mirror makes a pipeline of what is pushed there.
	git := newRemote(t)
	up := git.create(t, "up", "testdata/first")
	apply(t, in.Kubeconfig, fmt.Sprintf(`
apiVersion: v1
kind: Secret
metadata: {name: git, namespace: app}
stringData: {username: %s, password: %s}
---
apiVersion: keelson.dev/v1alpha1
kind: Project
metadata: {name: up, namespace: app}
spec:
  repository: mirrors/up
  path: acme/up
  source: {url: "%s/up.git", secretRef: {name: git}, interval: 10s}
`, remoteUser, remotePassword, git.url))
	projectReady(t, in.Kubeconfig, "app", "up", "True", "Succeeded")
	write(t, filepath.Join(up.dir, ".gitlab-ci.yml"), "test: {script: [cat apps/my-application/deployment.yaml]}\n")
	up.push("A pipeline")
	id = in.newest(t, "acme/up", 1)
	in.shownLogs(t, id, "success: test/1=success")
	contains(t, in.must(t, "ci", "logs", fmt.Sprint(id), "test"), "kind: Deployment", "in Pod app/")
	second.stop(t)
	third := start("--ci-shell")
	logs = in.played(t, c, "acme/shell", "main", "build: {script: [echo in a shell]}\n", "success: build/1=success")
	contains(t, logs["build"], "Using Shell (bash) executor")
	third.stop(t)
}

// limitedKubeconfig is that of a service account with the rights that the documentation says pipelines need, and those of controllers that have
// nothing to deliver.
func limitedKubeconfig(t *testing.T, admin string) string {
	t.Helper()
	docs, err := os.ReadFile(filepath.Join(root(), "docs/ci-server.md"))
	if err != nil {
		t.Fatal(err)
	}
	_, rules, _ := strings.Cut(string(docs), "\n    rules:\n")
	rules, _, ok := strings.Cut(rules, "\n\n")
	if !ok {
		t.Fatal("docs/ci-server.md has no rules for keelson server")
	}
	apply(t, admin, `
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRole
metadata: {name: pipelines}
rules:
`+rules+`
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRole
metadata: {name: controllers}
rules:
- {apiGroups: [source.toolkit.fluxcd.io, kustomize.toolkit.fluxcd.io, helm.toolkit.fluxcd.io, notification.toolkit.fluxcd.io, argoproj.io], resources: ["*"], verbs: ["*"]}
- {apiGroups: [coordination.k8s.io], resources: [leases], verbs: [get, create, update]}
- {apiGroups: [apiextensions.k8s.io], resources: [customresourcedefinitions], verbs: [get, list, watch]}
- {apiGroups: [apps], resources: [deployments, statefulsets], verbs: [list]} # of Flux and Argo CD
- {apiGroups: [""], resources: [namespaces, secrets, configmaps], verbs: [get, list, watch]}
- {apiGroups: [""], resources: [events], verbs: [create, patch]}
---
apiVersion: v1
kind: ServiceAccount
metadata: {name: keelson, namespace: default}
`)
	for _, role := range []string{"pipelines", "controllers"} {
		kubectl(t, admin, "create", "clusterrolebinding", role, "--clusterrole", role, "--serviceaccount", "default:keelson")
	}
	token := strings.TrimSpace(kubectl(t, admin, "create", "token", "keelson", "-n", "default"))
	text, err := os.ReadFile(admin)
	if err != nil {
		t.Fatal(err)
	}
	limited := filepath.Join(t.TempDir(), "kubeconfig")
	write(t, limited, string(text))
	kubectl(t, limited, "config", "set-credentials", "keelson", "--token", token)
	kubectl(t, limited, "config", "set-context", "--current", "--user", "keelson")
	if r := tryKubectl(limited, "auth", "can-i", "delete", "nodes"); r.code == 0 {
		t.Fatalf("its rights are not limited: %s", r.out)
	}
	return limited
}

// TestServerPipelineFlags: what is missing is said before anything is started.
func TestServerPipelineFlags(t *testing.T) {
	in := &instance{data: filepath.Join(t.TempDir(), "none")}
	for want, args := range map[string][]string{
		"the other flags of pipelines need --ci": {"--ci-shell"},
		"it is the URL at which Pods reach --ci": {"--ci", "127.0.0.1:0"},
		"--ci-helper-image is missing":           {"--ci", "127.0.0.1:0", "--ci-url", "http://keelson:7070"},
		"--ci-access is missing":                 {"--ci", "127.0.0.1:0", "--ci-url", "http://keelson:7070", "--ci-helper-image", "keelson:1"},
		"it is an https URL": {"--ci", "127.0.0.1:0", "--ci-url", "http://keelson:7070", "--ci-helper-image", "keelson:1", "--ci-access", "127.0.0.1:0",
			"--ci-access-url", "http://keelson:7443"},
	} {
		fails(t, in.keelson(append([]string{"server"}, args...)...), 2, want)
	}
}
