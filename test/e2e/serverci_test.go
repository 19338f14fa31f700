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
// goes on with the next one. A project that wants the server's shell is refused.
func TestServerPlaysPipelines(t *testing.T) {
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
	data := filepath.Join(t.TempDir(), "data")
	start := func(args ...string) *server {
		s := startServer(t, cluster.Kubeconfig, data, append([]string{
			"--ci", "127.0.0.1:" + ci, "--ci-url", "http://" + cluster.Node + ":" + ci, "--ci-access", "127.0.0.1:" + access,
			"--ci-helper-image", at + "/keelson:1", "--ci-image", at + "/shell:1",
		}, args...)...)
		s.waitFor(t, "pipelines are played")
		return s
	}
	first := start()
	token, err := os.ReadFile(filepath.Join(data, "ci/token"))
	if err != nil {
		t.Fatal(err)
	}
	in := &instance{data: filepath.Join(t.TempDir(), "none"), Kubeconfig: cluster.Kubeconfig}
	in.Git = "http://keelson:" + strings.TrimSpace(string(token)) + "@127.0.0.1:" + ci + "/git"
	in.env = "KEELSON_SERVER=http://127.0.0.1:" + ci
	fails(t, in.keelson("ci", "pipelines"), 1, "KEELSON_TOKEN is not")
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
	second.stop(t)
	third := start("--ci-shell")
	logs = in.played(t, c, "acme/shell", "main", "build: {script: [echo in a shell]}\n", "success: build/1=success")
	contains(t, logs["build"], "Using Shell (bash) executor")
	third.stop(t)
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
