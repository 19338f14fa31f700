package run

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"keelson.dev/keelson/internal/pipeline"
)

// TestCheckout holds what jobs of a server find in their directories.
func TestCheckout(t *testing.T) {
	b := newBench(t)
	work, bare, base := t.TempDir(), filepath.Join(t.TempDir(), "app.git"), t.TempDir()
	git(t, work, "init", "-q", "-b", "main")
	for i := range 25 {
		if err := os.WriteFile(filepath.Join(work, "n"), fmt.Appendln(nil, i), 0o644); err != nil {
			t.Fatal(err)
		}
		git(t, work, "add", "-A")
		git(t, work, "commit", "-qm", fmt.Sprintf("commit %d", i))
	}
	git(t, work, "tag", "v1")
	git(t, work, "branch", "other", "HEAD~3")
	sha := strings.TrimSpace(git(t, work, "rev-parse", "HEAD~1")) // the branch has moved on since
	git(t, work, "clone", "-q", "--bare", ".", bare)
	o := CheckoutOptions{Repository: bare, SHA: sha, Ref: "refs/heads/main", Project: "group/app", URL: "http://keelson.example/git/group/app.git", Base: base}
	with1 := func(j pipeline.Job, name, value string) pipeline.Job {
		j.Variables = append(j.Variables, pipeline.Variable{Name: name, Value: value})
		return j
	}
	b.p.Sources = Checkout(o)
	b.want(b.run(graph(
		job("plain", "test", "test $(cat n) = 23", "git log --format=%s | wc -l | grep -qx 20", "git status | grep 'HEAD detached'", "test -z \"$(git status --porcelain)\"",
			"git config remote.origin.url", "git rev-parse origin/main | grep -qx $(git rev-parse HEAD)", "basename $PWD | grep -qx app", "git tag | wc -l | grep -qx 0"),
		with1(job("shallow", "test", "git log --format=%s | wc -l | grep -qx 2"), "GIT_DEPTH", "2"),
		with1(job("deep", "test", "git log --format=%s | wc -l | grep -qx 24", "git rev-parse origin/other v1"), "GIT_DEPTH", "0"),
		with1(job("none", "test", "test -z \"$(ls -A)\""), "GIT_STRATEGY", "none"),
		with1(job("bare", "test", "test ! -e n", "git log --format=%s -1 refs/pipelines/current"), "GIT_CHECKOUT", "false"),
		with1(with1(job("origin", "test", "git config remote.origin.url | grep -qx https://token@elsewhere/x.git"), "CI_REPOSITORY_URL", "https://token@elsewhere/x.git"), "GIT_STRATEGY", "clone"),
		with1(job("wrong depth", "test", "true"), "GIT_DEPTH", "many"),
		with1(job("wrong strategy", "test", "true"), "GIT_STRATEGY", "guess"),
		// The job's own hooks cannot make git do anything outside of it.
		with(job("hooks", "test", "cat keep", "test $(cat n) = 23", "test ! -e .git/mine"), func(j *pipeline.Job) {
			j.PreGet = []string{"git init -q .", "touch .git/mine keep", "mkdir n", "touch n/x", "git config core.fsmonitor 'touch " + base + "/owned'", "git config core.hooksPath " + base}
		}),
	)), "failed: plain=success shallow=success deep=success none=success bare=success origin=success wrong depth=failed wrong strategy=failed hooks=success")
	if log := b.sink.log("plain"); !strings.Contains(log, "http://keelson.example/git/group/app.git") || !strings.Contains(log, "Checked out "+sha[:8]+" as detached HEAD (ref is main)") {
		t.Errorf("plain:\n%s", log)
	}
	if log := b.sink.log("wrong depth"); !strings.Contains(log, `GIT_DEPTH is "many": it is a number of commits, 0 for all`) {
		t.Errorf("wrong depth:\n%s", log)
	}
	o.Ref = "refs/tags/v1"
	o.SHA = strings.TrimSpace(git(t, work, "rev-parse", "HEAD"))
	b.p.Sources = Checkout(o)
	b.want(b.run(graph(job("tag", "test", "git describe --tags --exact-match | grep -qx v1"))), "success: tag=success")
	left, err := filepath.Glob(filepath.Join(base, "*"))
	if err != nil || len(left) > 0 {
		t.Errorf("left behind: %q %v", left, err)
	}
}

// TestCheckoutSubmodules holds that submodules come over the network, and from nowhere else.
func TestCheckoutSubmodules(t *testing.T) {
	b := newBench(t)
	dir := t.TempDir()
	lib, work, bare := filepath.Join(dir, "lib"), filepath.Join(dir, "work"), filepath.Join(dir, "app.git")
	for _, d := range []string{lib, work} {
		if err := os.Mkdir(d, 0o755); err != nil {
			t.Fatal(err)
		}
		git(t, d, "init", "-q", "-b", "main")
		if err := os.WriteFile(filepath.Join(d, "file"), []byte("of "+filepath.Base(d)+"\n"), 0o644); err != nil {
			t.Fatal(err)
		}
		git(t, d, "add", "-A")
		git(t, d, "commit", "-qm", "first")
	}
	git(t, dir, "clone", "-q", "--bare", lib, "lib.git")
	git(t, filepath.Join(dir, "lib.git"), "update-server-info")
	web := httptest.NewServer(http.FileServer(http.Dir(dir)))
	defer web.Close()
	git(t, work, "submodule", "--quiet", "add", web.URL+"/lib.git", "lib")
	git(t, work, "commit", "-qm", "a submodule")
	sha := func() string { return strings.TrimSpace(git(t, work, "rev-parse", "HEAD")) }
	push := func() { git(t, dir, "clone", "-q", "--bare", work, bare) }
	push()
	o := CheckoutOptions{Repository: bare, SHA: sha(), Ref: "refs/heads/main", Project: "app", Base: t.TempDir()}
	b.p.Sources = Checkout(o)
	vars := pipeline.Variables{{Name: "GIT_SUBMODULE_STRATEGY", Value: "recursive"}, {Name: "GIT_DEPTH", Value: "0"}}
	g := func() *pipeline.Graph {
		return graph(with(job("a", "test", "cat lib/file | grep -qx 'of lib'"), func(j *pipeline.Job) { j.Variables = vars }))
	}
	b.want(b.run(g()), "success: a=success")
	git(t, work, "config", "-f", ".gitmodules", "submodule.lib.url", lib)
	git(t, work, "commit", "-qam", "from the disk of the server")
	o.SHA = sha()
	if err := os.RemoveAll(bare); err != nil {
		t.Fatal(err)
	}
	push()
	b.p.Sources = Checkout(o)
	b.want(b.run(g()), "failed: a=failed")
	if log := b.sink.log("a"); !strings.Contains(log, "transport 'file' not allowed") {
		t.Errorf("%s", log)
	}
}
