package main

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
)

// repo is a clone of a repository on the built-in host, as a developer has one.
type repo struct {
	dir string
	env []string
}

// gitEnvironment keeps the settings of this machine's user out.
func gitEnvironment() []string {
	return environment("GIT_CONFIG_GLOBAL=/dev/null", "GIT_CONFIG_NOSYSTEM=1", "GIT_TERMINAL_PROMPT=0",
		"GIT_AUTHOR_NAME=Bench", "GIT_AUTHOR_EMAIL=bench@localhost", "GIT_COMMITTER_NAME=Bench", "GIT_COMMITTER_EMAIL=bench@localhost")
}

// clone makes a working copy of a repository of the instance.
func (b *bench) clone(ctx context.Context, in *instance, name string) (*repo, error) {
	return cloneTo(ctx, in.Git+"/"+name+".git", filepath.Join(b.dir, "clone-"+name))
}

func cloneTo(ctx context.Context, url, dir string) (*repo, error) {
	r := &repo{dir: dir, env: gitEnvironment()}
	cmd := exec.CommandContext(ctx, "git", "clone", "--quiet", url, r.dir)
	cmd.Env = r.env
	_, err := output(ctx, cmd)
	return r, err
}

func (r *repo) git(ctx context.Context, args ...string) (string, error) {
	cmd := exec.CommandContext(ctx, "git", args...)
	cmd.Dir, cmd.Env = r.dir, r.env
	out, err := output(ctx, cmd)
	return strings.TrimSpace(string(out)), err
}

// write writes files, by path.
func (r *repo) write(files map[string]string) error {
	for name, text := range files {
		path := filepath.Join(r.dir, filepath.FromSlash(name))
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			return err
		}
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			return err
		}
	}
	return nil
}

// commit commits everything and gives the commit's id.
func (r *repo) commit(ctx context.Context, message string) (string, error) {
	if _, err := r.git(ctx, "add", "--all"); err != nil {
		return "", err
	}
	if _, err := r.git(ctx, "commit", "--quiet", "--message", message); err != nil {
		return "", err
	}
	return r.git(ctx, "rev-parse", "HEAD")
}

// push pushes and tells when the client process was started and when it had ended.
func (r *repo) push(ctx context.Context) (start, end time.Time, err error) {
	start = time.Now()
	_, err = r.git(ctx, "push", "--quiet", "origin", "HEAD:refs/heads/main")
	return start, time.Now(), err
}

// declare makes a repository with files, and a source and an app of its name that follow it, in a namespace of that
// name too. It returns once the app is ready.
func (b *bench) declare(ctx context.Context, in *instance, name string, files map[string]string) (*repo, error) {
	r, commit, err := b.makeRepository(ctx, in, filepath.Join(b.dir, "clone-"+name), name, files)
	if err != nil {
		return nil, err
	}
	base, err := in.readURL()
	if err != nil {
		return nil, err
	}
	return r, in.deliver(ctx, name, base+"/"+name+".git", commit)
}

// deliver declares a source and an app of a name, in a namespace of that name too, and waits until the app is ready.
func (c client) deliver(ctx context.Context, name, url, commit string) error {
	if err := c.declareSource(ctx, name, name, url); err != nil {
		return err
	}
	if err := c.declareApp(ctx, name, name, name, "./"); err != nil {
		return err
	}
	apps, err := c.observe(ctx, kustomizations, name)
	if err != nil {
		return err
	}
	defer apps.stop()
	_, _, err = apps.await(ctx, 0, "app "+name, func(e event) bool { return readyAt(e.object, commit) })
	return err
}

// declareSource makes a namespace and a source in it that is asked for news once an hour only: a push announces itself.
func (c client) declareSource(ctx context.Context, namespace, name, url string) error {
	if err := c.create(ctx, namespaces, fmt.Sprintf("{apiVersion: v1, kind: Namespace, metadata: {name: %s}}", namespace)); err != nil {
		return err
	}
	return c.create(ctx, gitRepositories, fmt.Sprintf(`
apiVersion: source.toolkit.fluxcd.io/v1
kind: GitRepository
metadata: {namespace: %s, name: %s}
spec: {interval: 1h, url: %q, ref: {branch: main}}
`, namespace, name, url))
}

func (c client) declareApp(ctx context.Context, namespace, name, source, path string) error {
	return c.createObject(ctx, kustomizations, kustomization(namespace, name, source, path))
}

// configMap makes a ConfigMap with one value.
func configMap(namespace, name, value string) *unstructured.Unstructured {
	return &unstructured.Unstructured{Object: map[string]any{
		"apiVersion": "v1", "kind": "ConfigMap", "metadata": map[string]any{"namespace": namespace, "name": name},
		"data": map[string]any{"value": value},
	}}
}

// deployment makes a Deployment of one pod.
func deployment(namespace, name, image string) *unstructured.Unstructured {
	labels := map[string]any{"app": name}
	return &unstructured.Unstructured{Object: map[string]any{
		"apiVersion": "apps/v1", "kind": "Deployment", "metadata": map[string]any{"namespace": namespace, "name": name},
		"spec": map[string]any{
			"replicas": int64(1), "selector": map[string]any{"matchLabels": labels},
			"template": map[string]any{
				"metadata": map[string]any{"labels": labels},
				"spec":     map[string]any{"containers": []any{map[string]any{"name": "main", "image": image}}},
			},
		},
	}}
}

func valueOf(u *unstructured.Unstructured) string {
	s, _, _ := unstructured.NestedString(u.Object, "data", "value")
	return s
}

func replicasOf(u *unstructured.Unstructured) int64 {
	n, _, _ := unstructured.NestedInt64(u.Object, "spec", "replicas")
	return n
}

func imageOf(u *unstructured.Unstructured) string {
	containers, _, _ := unstructured.NestedSlice(u.Object, "spec", "template", "spec", "containers")
	if len(containers) == 0 {
		return ""
	}
	c, _ := containers[0].(map[string]any)
	s, _ := c["image"].(string)
	return s
}
