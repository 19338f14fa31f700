package e2e

import (
	"archive/tar"
	"bytes"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/crane"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/tarball"

	"keelson.dev/keelson/test/testcluster"
)

// realInstance starts an instance with a real node, for one test. Where the machine cannot have one the test is skipped and says why.
func realInstance(t *testing.T, args ...string) *instance {
	t.Helper()
	if out, err := exec.Command(filepath.Join(bin, "keelson-cluster"), "run", "--node", "real", "--check").CombinedOutput(); err != nil {
		t.Skipf("no real node here:\n%s", out)
	}
	in := &instance{data: filepath.Join(t.TempDir(), "real")}
	t.Cleanup(func() {
		if t.Failed() {
			log, _ := os.ReadFile(filepath.Join(in.data, "logs/keelson.log"))
			t.Logf("the log of the instance:\n%s", log)
		}
		ok(t, in.keelson("down", "--purge"), nil)
	})
	ok(t, in.up(append([]string{"--port", "0", "--node", "real"}, args...)...), nil)
	return in
}

// pushedInto builds the program pushed into a clone, with an image of itself.
func pushedInto(t *testing.T, c clone) v1.Image {
	t.Helper()
	source := filepath.Join(root(), "test/e2e/testdata/pushed")
	build := exec.Command("go", "build", "-trimpath", "-ldflags", "-s -w", "-o", filepath.Join(c.dir, "pushed"), ".")
	build.Dir, build.Env = source, append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("build: %v\n%s", err, out)
	}
	image := testcluster.Image(t, source)
	if err := crane.Save(image, "pushed", filepath.Join(c.dir, "image.tar")); err != nil {
		t.Fatal(err)
	}
	return image
}

// TestRealNodeDeploys goes the whole way on a real node: a job pushes an image to the instance's registry with what it finds in its variables,
// another one deploys it and waits until it runs. Nobody else reads the image, and the repository is not to be had where pods are.
func TestRealNodeDeploys(t *testing.T) {
	t.Parallel()
	in := realInstance(t)
	in.must(t, "git", "create", "team/web")
	apply(t, in.Kubeconfig, `
apiVersion: v1
kind: Namespace
metadata: {name: web}
---
apiVersion: keelson.dev/v1alpha1
kind: Project
metadata: {name: web, namespace: web}
spec:
  repository: team/web
  path: acme/web
  access: [{name: production, serviceAccount: deploy, environment: production, protected: true}]
`)
	in.rbac(t, "web", "deploy")
	c := cloneOf(t, in.Git+"/team/web.git")
	image := pushedInto(t, c)
	write(t, filepath.Join(c.dir, "web.yaml"), deploymentYAML("web", "IMAGE", ""))
	logs := in.played(t, c, "acme/web", "main", `
stages: [build, deploy]
build:
  stage: build
  script:
  - ./pushed push image.tar $CI_REGISTRY_IMAGE:$CI_COMMIT_SHORT_SHA
  - if ./pushed push image.tar $CI_REGISTRY/acme/other:1; then exit 9; fi
deploy:
  stage: deploy
  environment: production
  script:
  - sed -i "s|IMAGE|$CI_REGISTRY_IMAGE:$CI_COMMIT_SHORT_SHA|" web.yaml
  - kubectl apply -f web.yaml
  - kubectl rollout status deployment/web --timeout=50s
  - git ls-remote $CI_REPOSITORY_URL
`, "success: build/1=success deploy/1=success")
	contains(t, logs["build"], "pushed "+in.Registry+"/acme/web:", "403 Forbidden")
	contains(t, logs["deploy"], "successfully rolled out", "refs/heads/main")

	host, _, _ := strings.Cut(in.Registry, ":")
	if strings.HasPrefix(host, "127.") {
		t.Errorf("the registry is at %s, where no pod reaches it", in.Registry)
	}
	tag := in.Registry + "/acme/web:" + c.git("rev-parse", "HEAD")[:8]
	if _, err := crane.Pull(tag); err == nil || !strings.Contains(err.Error(), "UNAUTHORIZED") {
		t.Errorf("somebody without a token pulls: %v", err)
	}
	digest, err := crane.Digest(tag, crane.WithAuth(&authn.Basic{Username: "me", Password: in.Token}))
	if want, _ := image.Digest(); err != nil || digest != want.String() {
		t.Errorf("%s, %v, want %s", digest, err, want)
	}
	for url, want := range map[string]int{
		"http://" + in.Registry + "/git/team/web.git/info/refs?service=git-upload-pack": http.StatusUnauthorized,
		"http://" + in.Registry + "/api/v1/pipelines":                                   http.StatusUnauthorized,
		"http://" + in.Registry + "/":                                                   http.StatusNotFound,
	} {
		resp, err := http.Get(url)
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		if resp.StatusCode != want {
			t.Errorf("%s: %s, want %d", url, resp.Status, want)
		}
	}

	// It is all there again after a restart, which needs no flag: the node, the image, the address.
	before := in.Registry
	in.must(t, "down")
	ok(t, in.up(), nil)
	if in.Registry != before {
		t.Errorf("the registry was at %s and is at %s", before, in.Registry)
	}
	in.kubectl(t, "rollout", "status", "deployment/web", "-n", "web", "--timeout=60s")
	in.kubectl(t, "rollout", "restart", "deployment/web", "-n", "web")
	in.kubectl(t, "rollout", "status", "deployment/web", "-n", "web", "--timeout=60s")
}

// TestNodeFlags: what cannot be is said before anything is started.
func TestNodeFlags(t *testing.T) {
	in := &instance{data: filepath.Join(t.TempDir(), "none")}
	fails(t, in.keelson("up", "--node", "toy"), 2, "--node toy: it is simulated or real")
	fails(t, in.keelson("up", "--ci-executor", "vm"), 2, "--ci-executor vm: it is shell or pod")
	fails(t, in.keelson("up", "--outbound"), 2, "--outbound is for --node real")
	fails(t, in.keelson("up", "--node", "real", "--kubeconfig", shared.Kubeconfig), 2, "has its own nodes")
	if _, err := os.Stat(in.data); err == nil {
		t.Error("it has made the data directory")
	}
}

// busyboxImage is a small image with a shell and what scripts use.
func busyboxImage(t *testing.T) v1.Image {
	t.Helper()
	path, err := exec.LookPath("busybox")
	if err != nil {
		t.Skip("NOT TESTED: busybox is not on this machine, of which the image for jobs is made (apt-get install busybox-static)")
	}
	program, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	out, err := exec.Command(path, "--list").Output()
	if err != nil {
		t.Fatal(err)
	}
	var layer bytes.Buffer
	w := tar.NewWriter(&layer)
	add := func(h tar.Header, content []byte) {
		h.Size = int64(len(content))
		if err := w.WriteHeader(&h); err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write(content); err != nil {
			t.Fatal(err)
		}
	}
	add(tar.Header{Name: "bin/busybox", Mode: 0o755}, program)
	for _, name := range strings.Fields(string(out)) {
		if name != "busybox" {
			add(tar.Header{Name: "bin/" + name, Typeflag: tar.TypeSymlink, Linkname: "busybox", Mode: 0o777}, nil)
		}
	}
	add(tar.Header{Name: "tmp/", Typeflag: tar.TypeDir, Mode: 0o1777}, nil)
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	content, err := tarball.LayerFromOpener(func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(layer.Bytes())), nil })
	if err != nil {
		t.Fatal(err)
	}
	image, err := mutate.AppendLayers(empty.Image, content)
	if err != nil {
		t.Fatal(err)
	}
	config, err := image.ConfigFile()
	if err != nil {
		t.Fatal(err)
	}
	config = config.DeepCopy()
	config.OS, config.Architecture, config.Config.Env = "linux", runtime.GOARCH, []string{"PATH=/bin"}
	if image, err = mutate.ConfigFile(image, config); err != nil {
		t.Fatal(err)
	}
	return image
}

// TestJobsInPods: where Pods are the rule a job runs in one, with an image of the instance's registry, finds its sources and reaches the cluster,
// the Git host and the registry by what its variables say; a Project may want the shell, and one without nodes for Pods is told so.
func TestJobsInPods(t *testing.T) {
	t.Parallel()
	in := realInstance(t, "--ci-executor", "pod")
	shell := in.Registry + "/tools/shell:1"
	if err := crane.Push(busyboxImage(t), shell, crane.WithAuth(&authn.Basic{Username: "me", Password: in.Token})); err != nil {
		t.Fatal(err)
	}
	apply(t, in.Kubeconfig, `
apiVersion: v1
kind: Namespace
metadata: {name: pods}
---
apiVersion: keelson.dev/v1alpha1
kind: Project
metadata: {name: pods, namespace: pods}
spec:
  repository: team/pods
  path: acme/pods
  executor: {image: `+shell+`}
  access: [{name: production, serviceAccount: deploy, environment: production}]
---
apiVersion: keelson.dev/v1alpha1
kind: Project
metadata: {name: shell, namespace: pods}
spec: {repository: team/shell, path: acme/shell, executor: {type: shell}}
---
apiVersion: keelson.dev/v1alpha1
kind: Project
metadata: {name: tools, namespace: pods}
spec: {repository: team/tools, path: tools, readableBy: ["*"]}
`)
	in.rbac(t, "pods", "deploy")
	in.must(t, "git", "create", "team/tools")
	in.must(t, "git", "create", "team/pods")
	c := cloneOf(t, in.Git+"/team/pods.git")
	write(t, filepath.Join(c.dir, "text"), "of the commit\n")
	logs := in.played(t, c, "acme/pods", "main", `
build:
  environment: production
  script:
  - cat text
  - echo "pod $HOSTNAME"
  - grep -q current-context $KUBECONFIG
  - ln -s /proc/1/exe /tmp/kubectl # what runs in the Pod is Keelson itself, by whatever name
  - /tmp/kubectl get deployments
  - /tmp/kubectl auth whoami
  - wget -qO refs $CI_REPOSITORY_URL/info/refs?service=git-upload-pack
  - head -n 1 refs
  - if wget -O refs $CI_SERVER_URL/git/team/pods.git/info/refs?service=git-upload-pack; then exit 9; fi
`, "success: build/1=success")
	contains(t, logs["build"], "of the commit", "No resources found in pods namespace", "system:serviceaccount:pods:deploy", "service=git-upload-pack", "401 Unauthorized")

	in.must(t, "git", "create", "team/plain")
	c = cloneOf(t, in.Git+"/team/plain.git")
	logs = in.played(t, c, "team/plain", "main", "build: {image: "+shell+", script: [echo well]}\n", "success: build/1=success")
	contains(t, logs["build"], "Using Kubernetes namespace: keelson-jobs", "well")
	in.must(t, "git", "create", "team/shell")
	c = cloneOf(t, in.Git+"/team/shell.git")
	logs = in.played(t, c, "acme/shell", "main", "build: {script: [echo in a shell]}\n", "success: build/1=success")
	contains(t, logs["build"], "Using Shell (bash) executor")
}

// TestNoPods: a project whose jobs are to run as Pods is told what is missing where no node runs containers.
func TestNoPods(t *testing.T) {
	in := shared
	in.must(t, "git", "create", "team/nopods")
	apply(t, in.Kubeconfig, `
apiVersion: v1
kind: Namespace
metadata: {name: nopods}
---
apiVersion: keelson.dev/v1alpha1
kind: Project
metadata: {name: nopods, namespace: nopods}
spec: {repository: team/nopods, executor: {type: pod}}
`)
	logs := in.played(t, cloneOf(t, in.Git+"/team/nopods.git"), "team/nopods", "main", "build: {script: [echo]}\n", "failed: build/1=failed")
	contains(t, logs["build"], "this instance has no node that runs containers: keelson up --node real gives it one")
}
