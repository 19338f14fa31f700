package pod_test

import (
	"archive/tar"
	"bytes"
	"context"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/crane"
	"github.com/google/go-containerregistry/pkg/registry"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"k8s.io/client-go/kubernetes"

	"keelson.dev/keelson/internal/pipeline"
	"keelson.dev/keelson/internal/pipeline/executor"
	"keelson.dev/keelson/internal/pipeline/executor/conformance"
	"keelson.dev/keelson/internal/pipeline/executor/pod"
	"keelson.dev/keelson/test/testcluster"
)

// world is a cluster with a real node, a registry with images, and an executor that runs jobs there.
type world struct {
	client kubernetes.Interface
	url    string // of the handler, for Pods
	host   string // of the registry
	shell  string // image with bash
	agent  string // image
	svc    string // image of a service
	x      *pod.Executor

	kubeconfig, childListen, childURL string // for servers that are processes of their own

	mu      sync.Mutex
	handler http.Handler
}

var key = []byte("a key for tests, and nothing else")

// TestNode runs jobs as Pods on a real node: one for all tests, as it takes seconds to start.
func TestNode(t *testing.T) {
	w := newWorld(t)
	t.Run("conformance", func(t *testing.T) {
		conformance.Test(t, func(t *testing.T) (executor.Executor, string) {
			if !strings.Contains(t.Name(), "environment") && !strings.Contains(t.Name(), "a_line_of") { // these look at this process itself
				t.Parallel()
			}
			return quick{w.x}, t.TempDir()
		})
	})
	t.Run("reasons", func(t *testing.T) { reasons(t, w) })
	t.Run("files", func(t *testing.T) { files(t, w) })
	t.Run("a large cache", func(t *testing.T) { largeCache(t, w) })
	t.Run("services", func(t *testing.T) { services(t, w) })
	t.Run("another user", func(t *testing.T) { anotherUser(t, w) })
	t.Run("let go and taken up", func(t *testing.T) { takenUp(t, w) })
	t.Run("let go while it is canceled", func(t *testing.T) { takenUpCanceled(t, w) })
	t.Run("taken up when it has sent its files", func(t *testing.T) { takenUpLate(t, w) })
	t.Run("deleted from outside", func(t *testing.T) { deleted(t, w) })
	t.Run("no node", func(t *testing.T) { noNode(t, w) })
	t.Run("what others see", func(t *testing.T) { seenByOthers(t, w) })
	t.Run("killed", func(t *testing.T) { killed(t, w) })
	t.Run("leftovers", func(t *testing.T) { leftovers(t, w) })
}

// quick runs jobs in the suite.
type quick struct{ x *pod.Executor }

func (q quick) Run(ctx context.Context, job executor.Job, log executor.Log) executor.Result {
	return q.x.Run(ctx, job, log)
}

// Begins implements [conformance.Slow]: on a busy machine a Pod takes seconds.
func (quick) Begins() time.Duration { return 8 * time.Second }

func newWorld(t testing.TB) *world {
	t.Helper()
	w := &world{}
	images := httptest.NewServer(registry.New(registry.Logger(log.New(io.Discard, "", 0))))
	t.Cleanup(images.Close)
	server := httptest.NewServer(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		w.mu.Lock()
		h := w.handler
		w.mu.Unlock()
		if h == nil {
			http.Error(rw, "there is nobody", http.StatusServiceUnavailable)
			return
		}
		h.ServeHTTP(rw, r)
	}))
	t.Cleanup(server.Close)
	free, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	w.childListen = free.Addr().String()
	free.Close()
	_, childPort, _ := net.SplitHostPort(w.childListen)
	cluster := testcluster.StartReal(t, "--registry", port(t, images.URL), "--publish", port(t, server.URL), "--publish", childPort)
	client, err := kubernetes.NewForConfig(cluster.Config)
	if err != nil {
		t.Fatal(err)
	}
	w.client, w.kubeconfig, w.childURL = client, cluster.Kubeconfig, "http://"+net.JoinHostPort(cluster.Node, childPort)
	host := net.JoinHostPort(cluster.Node, port(t, images.URL))
	w.url = "http://" + net.JoinHostPort(cluster.Node, port(t, server.URL))
	w.host, w.shell, w.agent, w.svc = host, host+"/test/shell:1", host+"/keelson/agent:1", host+"/test/service:1"
	helper, err := pod.Helper(agentProgram(t))
	if err != nil {
		t.Fatal(err)
	}
	for ref, image := range map[string]v1.Image{w.agent: helper, w.shell: shellImage(t), w.svc: testcluster.Image(t, "testdata/service")} {
		if err := crane.Push(image, ref, crane.Insecure); err != nil {
			t.Fatal(err)
		}
	}
	w.x = w.start(t, pod.Options{})
	return w
}

// start makes an executor, as a process of Keelson has it, and lets agents reach it.
func (w *world) start(t testing.TB, o pod.Options) *pod.Executor {
	t.Helper()
	o.Client, o.URL, o.Image, o.Key, o.DefaultImage, o.Grace = w.client, w.url, w.agent, key, w.shell, time.Second
	x, err := pod.New(o)
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(context.Background())
	ended := make(chan struct{})
	go func() { defer close(ended); x.Serve(ctx) }()
	t.Cleanup(func() { stop(); <-ended })
	w.mu.Lock()
	defer w.mu.Unlock()
	w.handler = x.Handler()
	return x
}

// back lets agents reach the first executor again.
func (w *world) back() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.handler = w.x.Handler()
}

func port(t testing.TB, url string) string {
	_, p, err := net.SplitHostPort(strings.TrimPrefix(url, "http://"))
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// agentProgram builds what runs in Pods, or takes the keelson that is given.
func agentProgram(t testing.TB) string {
	if path := os.Getenv("KEELSON_BINARY"); path != "" {
		return path
	}
	program := filepath.Join(t.TempDir(), "agent")
	build := exec.Command("go", "build", "-trimpath", "-ldflags", "-s -w", "-o", program, "./testdata/agent")
	build.Env = append(os.Environ(), "CGO_ENABLED=0", "GOOS=linux")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("build the agent: %v: %s", err, out)
	}
	return program
}

// programs are what the jobs of tests call.
var programs = []string{"bash", "cat", "seq", "head", "tr", "base64", "stat", "sleep", "env", "wc", "date", "mkdir", "basename", "rm", "ls", "chmod", "ln", "id", "grep", "setsid", "sort", "touch", "dd", "kill", "test", "pwd", "tail", "cp"}

// shellImage makes an image of the shell of this machine, with the programs that jobs of tests call and their libraries.
func shellImage(t testing.TB) v1.Image {
	t.Helper()
	files := map[string]string{} // in the image -> here
	for _, name := range programs {
		path, err := exec.LookPath(name)
		if err != nil {
			t.Skipf("NOT TESTED: %s is not on this machine, of whose programs the image for jobs is made", name)
		}
		files["bin/"+name] = path
		out, err := exec.Command("ldd", path).CombinedOutput()
		if err != nil {
			t.Fatalf("ldd %s: %v: %s", path, err, out)
		}
		for _, lib := range regexp.MustCompile(`(/\S+) \(0x`).FindAllStringSubmatch(string(out), -1) {
			files[strings.TrimPrefix(lib[1], "/")] = lib[1]
		}
	}
	var layer bytes.Buffer
	w := tar.NewWriter(&layer)
	add := func(h tar.Header, content []byte) {
		h.Size = int64(len(content))
		if err := w.WriteHeader(&h); err != nil {
			t.Fatal(err)
		}
		w.Write(content)
	}
	for name, from := range files {
		content, err := os.ReadFile(from)
		if err != nil {
			t.Fatal(err)
		}
		add(tar.Header{Name: name, Mode: 0o755}, content)
	}
	add(tar.Header{Name: "bin/sh", Typeflag: tar.TypeSymlink, Linkname: "bash", Mode: 0o777}, nil)
	add(tar.Header{Name: "usr/bin/env", Typeflag: tar.TypeSymlink, Linkname: "/bin/env", Mode: 0o777}, nil)
	add(tar.Header{Name: "tmp/", Typeflag: tar.TypeDir, Mode: 0o1777}, nil)
	add(tar.Header{Name: "etc/passwd", Mode: 0o644}, []byte("root:x:0:0:root:/root:/bin/sh\n"))
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
	config.OS, config.Architecture, config.Config.Env = "linux", runtime.GOARCH, []string{"PATH=/usr/local/bin:/usr/bin:/bin"}
	if image, err = mutate.ConfigFile(image, config); err != nil {
		t.Fatal(err)
	}
	return image
}

// plain is a log without colours and sections.
func plain(log string) string { return markup.ReplaceAllString(log, "") }

var markup = regexp.MustCompile(`section_(start|end):\d+:[\w.-]+(\[[^\]]*\])?\r|\x1b\[[0-9;]*[mK]`)

func job(commands ...string) executor.Job {
	return executor.Job{Job: pipeline.Job{Name: "job", Script: commands}}
}

// play runs a job and gives its log.
func (w *world) play(t *testing.T, j executor.Job) (executor.Result, string) {
	t.Helper()
	if j.Dir == "" {
		j.Dir = t.TempDir()
	}
	var b safe
	r := w.x.Run(t.Context(), j, &b)
	text := plain(b.String())
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("%+v\n%.4000s", r, text)
		}
	})
	return r, text
}

// safe is a buffer that may be read while it is written.
type safe struct {
	mu sync.Mutex
	b  strings.Builder
}

func (s *safe) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.Write(p)
}

func (s *safe) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.String()
}
