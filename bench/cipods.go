package main

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"strconv"
	"strings"
	"time"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/crane"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
)

// How many jobs there are in Pods, and how many at once.
const (
	podJobs   = 200
	podAtOnce = 8
)

var (
	pods     = schema.GroupVersionResource{Version: "v1", Resource: "pods"}
	projects = schema.GroupVersionResource{Group: "keelson.dev", Version: "v1alpha1", Resource: "projects"}
)

// measureCIPods runs jobs as Pods of a real node, which takes root and a container runtime; elsewhere it says what is missing, and measures
// nothing. The floor is a bare Pod of the same image with the same command, as many at once.
func (b *bench) measureCIPods(ctx context.Context) error {
	if out, err := exec.CommandContext(ctx, b.cluster, "run", "--node", "real", "--check").CombinedOutput(); err != nil {
		say("NOT MEASURED: ci-pods needs a real node, which this machine cannot have: %s", lastBytes(out, 1000))
		return nil
	}
	w, err := b.newCIWorld(ctx, "ci-pods", "--node", "real", "--ci-jobs", strconv.Itoa(podAtOnce))
	if err != nil {
		return err
	}
	if w.Registry == "" {
		return errors.New("keelson up --json names no registry")
	}
	if w.client, err = newClient(w.Kubeconfig); err != nil {
		return err
	}
	image, err := w.podImage(ctx)
	if err != nil {
		return err
	}
	if err := w.create(ctx, namespaces, "{apiVersion: v1, kind: Namespace, metadata: {name: bench-ci-pods}}"); err != nil {
		return err
	}
	var text strings.Builder
	text.WriteString("workflow: {rules: [{if: '$CI_PIPELINE_SOURCE == \"web\"'}]}\n")
	for i := range podJobs {
		fmt.Fprintf(&text, "job-%03d: {script: [echo job]}\n", i)
	}
	for name, files := range map[string]map[string]string{"bench-ci-pods": {pipelineFile: text.String()}, "bench-ci-pod-push": {"README": "a repository\n"}} {
		r, _, err := b.makeRepository(ctx, &w.instance, filepath.Join(b.dir, "clone-"+name), name, files)
		if err != nil {
			return err
		}
		err = w.create(ctx, projects, fmt.Sprintf(`
apiVersion: keelson.dev/v1alpha1
kind: Project
metadata: {namespace: bench-ci-pods, name: %[1]s}
spec:
  repository: %[1]s
  executor: {type: pod, image: %[2]q}
  limits: {concurrency: %[3]d}
`, name, image, podAtOnce))
		if err != nil {
			return err
		}
		if name == "bench-ci-pod-push" { // the image is on the node by the first round, which is not counted
			err = b.pushLines(ctx, &w.instance, r, "ci-pod-push", "", 2000)
		}
		if err != nil {
			return err
		}
	}
	return b.podJobs(ctx, w, image)
}

// podJobs plays the pipeline of many jobs, and then as many bare Pods.
func (b *bench) podJobs(ctx context.Context, w *ciWorld, image string) error {
	began := time.Now()
	id, err := w.api.trigger(ctx, "bench-ci-pods")
	if err != nil {
		return err
	}
	p, err := w.api.rested(ctx, id)
	if err != nil {
		return err
	}
	all := time.Since(began).Seconds()
	var each []float64
	for _, j := range p.Jobs {
		each = append(each, milliseconds(j.Finished.Sub(j.Started)))
	}
	began = time.Now()
	floor, err := w.barePods(ctx, image)
	if err != nil {
		return err
	}
	bare := time.Since(began).Seconds()
	return errors.Join(
		b.add(Result{Name: "ci-pods", Unit: "ms", Floor: "ci-pods-floor", What: fmt.Sprintf("start to end of a job that echoes a word, %d jobs, %d at once", podJobs, podAtOnce)}, each),
		b.add(Result{Name: "ci-pods-floor", Unit: "ms", What: "a bare Pod with the same image and command: its create is sent until a watch sees it succeeded"}, floor),
		b.add(Result{Name: "ci-pods-share", Unit: "s", Target: target(1.5), Floor: "ci-pods-share-floor", What: "the time of the whole pipeline, divided by its jobs"}, []float64{all / podJobs}),
		b.add(Result{Name: "ci-pods-share-floor", Unit: "s", What: "the same of the bare Pods"}, []float64{bare / podJobs}),
	)
}

// barePods creates Pods, so many at once, and gives how long each took.
func (w *ciWorld) barePods(ctx context.Context, image string) ([]float64, error) {
	o, err := w.observe(ctx, pods, "bench-ci-pods")
	if err != nil {
		return nil, err
	}
	defer o.stop()
	took := make([]float64, podJobs)
	err = each(ctx, podAtOnce, podJobs, func(ctx context.Context, i int) error {
		name := fmt.Sprintf("bare-%03d", i)
		mark, began := o.mark(), time.Now()
		err := w.create(ctx, pods, fmt.Sprintf(`
apiVersion: v1
kind: Pod
metadata: {namespace: bench-ci-pods, name: %s}
spec:
  restartPolicy: Never
  automountServiceAccountToken: false
  terminationGracePeriodSeconds: 0
  containers: [{name: main, image: %q, command: [sh, -c, echo job]}]
`, name, image))
		if err != nil {
			return err
		}
		e, _, err := o.await(ctx, mark, "Pod "+name+" succeeded", func(e event) bool {
			phase, _, _ := unstructured.NestedString(e.object.Object, "status", "phase")
			return e.object.GetName() == name && phase == "Succeeded"
		})
		took[i] = milliseconds(e.at.Sub(began))
		return errors.Join(err, w.remove(ctx, pods, "bench-ci-pods", name))
	})
	return took, err
}

// podPrograms are what the image for jobs has, from this machine.
var podPrograms = []string{"bash", "cat", "mkdir", "rm", "chmod", "env", "sleep", "date", "ls", "ln", "cp", "mv"}

// podImage makes an image of this machine's shell and pushes it to the instance's registry.
func (w *ciWorld) podImage(ctx context.Context) (string, error) {
	image, err := shellImage(ctx)
	if err != nil {
		return "", fmt.Errorf("make an image for jobs: %w", err)
	}
	name := w.Registry + "/bench/shell:1"
	err = crane.Push(image, name, crane.Insecure, crane.WithContext(ctx), crane.WithAuth(&authn.Basic{Username: "bench", Password: w.api.token}))
	if err != nil {
		return "", fmt.Errorf("push %s: %w", name, err)
	}
	return name, nil
}

var libraryLine = regexp.MustCompile(`(/\S+) \(0x`)

// shellImage is an image of bash and a few programs with their libraries.
func shellImage(ctx context.Context) (v1.Image, error) {
	files := map[string]string{} // in the image -> here
	for _, name := range podPrograms {
		path, err := exec.LookPath(name)
		if err != nil {
			return nil, err
		}
		files["bin/"+name] = path
		out, err := output(ctx, exec.CommandContext(ctx, "ldd", path))
		if err != nil {
			return nil, err
		}
		for _, library := range libraryLine.FindAllStringSubmatch(string(out), -1) {
			files[strings.TrimPrefix(library[1], "/")] = library[1]
		}
	}
	var layer bytes.Buffer
	w := tar.NewWriter(&layer)
	add := func(h tar.Header, content []byte) error {
		h.Size = int64(len(content))
		if err := w.WriteHeader(&h); err != nil {
			return err
		}
		_, err := w.Write(content)
		return err
	}
	for name, from := range files {
		content, err := os.ReadFile(from)
		if err == nil {
			err = add(tar.Header{Name: name, Mode: 0o755}, content)
		}
		if err != nil {
			return nil, err
		}
	}
	err := errors.Join(
		add(tar.Header{Name: "bin/sh", Typeflag: tar.TypeSymlink, Linkname: "bash", Mode: 0o777}, nil),
		add(tar.Header{Name: "tmp/", Typeflag: tar.TypeDir, Mode: 0o1777}, nil),
		add(tar.Header{Name: "etc/passwd", Mode: 0o644}, []byte("root:x:0:0:root:/root:/bin/sh\n")),
		w.Close())
	if err != nil {
		return nil, err
	}
	content, err := tarball.LayerFromOpener(func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(layer.Bytes())), nil })
	if err != nil {
		return nil, err
	}
	image, err := mutate.AppendLayers(empty.Image, content)
	if err != nil {
		return nil, err
	}
	config, err := image.ConfigFile()
	if err != nil {
		return nil, err
	}
	config = config.DeepCopy()
	config.OS, config.Architecture, config.Config.Env = "linux", runtime.GOARCH, []string{"PATH=/usr/local/bin:/usr/bin:/bin"}
	return mutate.ConfigFile(image, config)
}
