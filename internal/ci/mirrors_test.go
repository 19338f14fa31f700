package ci

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"keelson.dev/keelson/internal/git"
	"keelson.dev/keelson/internal/store"
)

// TestMirrors follows a repository of another server: what is there at first makes no pipelines, what comes then does, once.
func TestMirrors(t *testing.T) {
	w := newWorld(t, "app", "up", "elsewhere")
	app := w.projects.all[0]
	w.projects.set(nil, app) // nobody knows the other server's project
	up, elsewhere := w.clone("up"), w.clone("elsewhere")
	w.commit(up, "First", map[string]string{".gitlab-ci.yml": "a: {script: ['echo \"$CI_COMMIT_REF_NAME $CI_COMMIT_BEFORE_SHA $CI_COMMIT_TITLE\"']}\n"})
	first := w.git(up, "rev-parse", "HEAD")
	w.git(up, "push", "-q", "origin", "HEAD:main", "HEAD:old")
	asked := 0
	of := Mirrored{Project: app.Path, Repository: "app", Dir: app.Dir, Remote: git.Remote{URL: w.url + "/git/up.git", Auth: git.Auth{Username: "x", Password: hostToken}}}
	look := func(problem string) {
		t.Helper()
		asked++
		of.Asked = fmt.Sprint(asked)
		before, err := w.server.KeepMirror(of)
		if err != nil {
			t.Fatal(err)
		}
		w.until("it is looked at", func() bool {
			now, err := w.server.KeepMirror(of)
			return err == nil && now.Polled.After(before.Polled)
		})
		if now, err := w.server.KeepMirror(of); err != nil || problem == "" && now.Problem != "" || !strings.Contains(now.Problem, problem) {
			t.Errorf("%+v %v, want %q", now, err, problem)
		}
		w.queueIsEmpty()
	}
	refs := func() string {
		repo, err := git.Open(app.Dir, git.Options{})
		if err != nil {
			t.Fatal(err)
		}
		defer repo.Close()
		all, err := branches(repo)
		if err != nil {
			t.Fatal(err)
		}
		return fmt.Sprint(all)
	}
	look("")
	if w.newest() != 0 || !strings.Contains(refs(), "refs/heads/old:"+first) {
		t.Fatalf("the first look: %d pipelines, %s", w.newest(), refs())
	}
	look("")
	if w.newest() != 0 {
		t.Error("nothing has changed, and there is a pipeline")
	}
	w.commit(up, "Second", map[string]string{"a": "1"})
	w.git(up, "tag", "-am", "one", "v1")
	w.git(up, "push", "-q", "origin", "HEAD:main", ":old", "v1")
	look("")
	made := w.await(0, 2)
	w.wants(made[0], "push main success: a/1=success")
	w.wants(made[1], "push v1 success: a/1=success")
	if log := w.log(made[0], "a"); !strings.Contains(log, "\nmain "+first+" Second\n") || made[0].User != "mirror" {
		t.Errorf("%s %+v", log, made[0])
	}
	if strings.Contains(refs(), "old") {
		t.Errorf("a branch that is gone: %s", refs())
	}

	// A process that ends between the copy and its pipelines loses none of them, and one that goes on makes none twice.
	w.git(up, "commit", "-q", "--allow-empty", "-m", "Third")
	w.git(up, "push", "-q", "origin", "HEAD:main")
	repo, err := git.Open(app.Dir, git.Options{})
	if err != nil {
		t.Fatal(err)
	}
	if err := repo.Mirror(t.Context(), of.Remote, "", 0); err != nil {
		t.Fatal(err)
	}
	repo.Close()
	w.end()
	w.start()
	look("")
	w.await(made[1].ID, 1)
	w.end()
	w.start()
	look("")
	if all, err := w.db.Pipelines(t.Context(), store.PipelineFilter{}); err != nil || len(all) != 3 {
		t.Errorf("%d pipelines, %v", len(all), err)
	}

	// The other server's HEAD names another branch, its credentials change, it is gone.
	w.git(w.host.Dir("up"), "symbolic-ref", "HEAD", "refs/heads/next")
	w.git(up, "push", "-q", "origin", "HEAD:next")
	look("")
	w.until("HEAD is that of the other server", func() bool { return defaultBranch(app) == "next" })
	good := of.Remote
	of.Remote.Auth.Password = "wr0ng-password"
	look("authentication")
	if now, _ := w.server.KeepMirror(of); strings.Contains(now.Problem, "wr0ng") {
		t.Errorf("the password is told: %s", now.Problem)
	}
	of.Remote = git.Remote{URL: w.url + "/git/nosuch.git", Auth: good.Auth}
	look("not found")
	of.Remote = good
	look("")
	other := of
	other.Project = "group/other"
	if _, err := w.server.KeepMirror(other); err == nil || !strings.Contains(err.Error(), "by project group/app already") {
		t.Errorf("two projects: %v", err)
	}

	// The project names another repository of the other server: what is there at first is old again, also for a process that is new.
	older := w.newest()
	w.end()
	w.start()
	w.commit(elsewhere, "Elsewhere", map[string]string{".gitlab-ci.yml": "a: {script: [true]}\n"})
	w.git(elsewhere, "push", "-q", "origin", "HEAD:main")
	of.Remote.URL = w.url + "/git/elsewhere.git"
	look("")
	if w.newest() != older || !strings.Contains(refs(), w.git(elsewhere, "rev-parse", "HEAD")) {
		t.Errorf("the first look at another URL: pipeline %d, %s", w.newest(), refs())
	}
	w.git(elsewhere, "commit", "-q", "--allow-empty", "-m", "Second")
	w.git(elsewhere, "push", "-q", "origin", "HEAD:main")
	look("")
	w.await(older, 1)
	of.Remote = good
	older = w.newest()
	look("")
	if w.newest() != older {
		t.Error("back at the first URL, what was there makes pipelines")
	}
	w.server.DropMirrors(app.Path, "")
	if _, err := w.server.KeepMirror(other); err != nil {
		t.Error(err)
	}
}

// TestMirrorsFollowEachOther holds that a mirror is not looked at for a new keeper before the look of the old one is over.
func TestMirrorsFollowEachOther(t *testing.T) {
	w := newWorld(t, "app", "up")
	app := w.projects.all[0]
	w.projects.set(nil, app)
	up := w.clone("up")
	w.commit(up, "First", map[string]string{"a": "1"})
	w.git(up, "push", "-q", "origin", "HEAD:main")
	looks, goOn, asked := make(chan string), make(chan struct{}), make(chan struct{}, 10)
	w.server.o.Mirrored = func(repository string) {
		looks <- repository
		<-goOn
	}
	of := Mirrored{Project: app.Path, Repository: "app", Dir: app.Dir, Remote: git.Remote{URL: w.url + "/git/up.git", Auth: git.Auth{Username: "x", Password: hostToken}}}
	keep := func(of Mirrored) {
		t.Helper()
		if _, err := w.server.KeepMirror(of); err != nil {
			t.Fatal(err)
		}
	}
	keep(of)
	<-looks
	var over atomic.Bool
	s := httptest.NewServer(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		if !over.Load() {
			t.Error("it is looked at while the old look goes on")
		}
		asked <- struct{}{}
		http.NotFound(rw, r)
	}))
	t.Cleanup(s.Close)
	for _, keeper := range []string{"group/second", "group/third"} { // the second one is gone before it has looked
		w.server.DropMirrors(of.Project, "")
		of.Project, of.Remote = keeper, git.Remote{URL: s.URL + "/other.git"}
		keep(of)
	}
	select {
	case <-asked:
	case <-time.After(500 * time.Millisecond): // for what should not happen
	}
	over.Store(true)
	close(goOn)
	<-asked
}
