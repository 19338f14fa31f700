package worktree

import (
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"keelson.dev/keelson/internal/pipeline"
	"keelson.dev/keelson/internal/pipeline/config"
)

// hosted makes a bare repository "app" with three commits, the last one on a branch and tagged, and a project beside it.
func hosted(t *testing.T) (dir string, shas []string) {
	dir = t.TempDir()
	shas = strings.Fields(sh(t, dir, `
		git init -q -b main work; cd work
		mkdir ci src; echo 'a: {script: true}' > ci/a.yml; echo 'b: {script: true}' > ci/b.yml; echo 1 > src/x; ln -s ../../secret ci/out.yml
		git add .; git commit -qm 'First'; git rev-parse HEAD
		echo 2 > src/x; git commit -qam 'Second'; git rev-parse HEAD
		git checkout -qb feature/one; echo 3 > src/y; git add .; git commit -qm $'Third\n\nWith a body.'; git rev-parse HEAD
		git tag -am 'The first release' v1
		git clone -q --bare . ../app.git
		cd ..; git init -q -b main lib; cd lib; mkdir templates; echo 'c: {script: true}' > templates/c.yml; git add .; git commit -qm Lib; git tag 1.2.3
		git clone -q --bare . ../lib.git; echo secret > ../secret`))
	return dir, shas
}

func openHosted(t *testing.T, dir, sha string) *Hosted {
	t.Helper()
	h, err := OpenHosted(HostedOptions{
		Dir: filepath.Join(dir, "app.git"), SHA: sha, Project: pipeline.Project{Path: "group/app"}, Server: pipeline.Server{URL: "https://keelson.example"},
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { h.Close() })
	return h
}

func TestHostedEvent(t *testing.T) {
	dir, shas := hosted(t)
	first, second, third := shas[0], shas[1], shas[2]
	gone := strings.Repeat("1", 40)
	for _, c := range []struct {
		name    string
		event   HostedEvent
		want    string // source, ref, tag, before, title, tag message
		changes []string
	}{
		{"a push", HostedEvent{Source: "push", Ref: "refs/heads/feature/one", Before: first}, "push feature/one false " + first, []string{"src/x", "src/y"}},
		{"a new branch", HostedEvent{Source: "push", Ref: "refs/heads/feature/one", Before: noCommit}, "push feature/one false " + noCommit, nil},
		{"a forced push", HostedEvent{Source: "push", Ref: "refs/heads/feature/one", Before: gone}, "push feature/one false " + gone, nil},
		{"a tag", HostedEvent{Source: "push", Ref: "refs/tags/v1"}, "push v1 true " + noCommit + " The first release", nil},
		{"a schedule", HostedEvent{Source: "schedule", Ref: "refs/heads/feature/one", Before: second}, "schedule feature/one false " + second, nil},
	} {
		h := openHosted(t, dir, third)
		c.event.Now = time.Unix(1_800_000_000, 0)
		e, err := h.Event(t.Context(), c.event)
		if err != nil {
			t.Fatalf("%s: %v", c.name, err)
		}
		have := strings.TrimSpace(fmt.Sprintf("%s %s %t %s %s", e.Source, e.Ref, e.Tag, e.Before, strings.TrimSpace(e.Commit.TagMessage)))
		changes, err := h.Changes(t.Context(), e)
		if have != c.want || err != nil || !slices.Equal(changes, c.changes) || (changes == nil) != (c.changes == nil) {
			t.Errorf("%s: have %s %q (%v)\nwant %s %q", c.name, have, changes, err, c.want, c.changes)
		}
		if e.Commit.SHA != third || e.Commit.Message != "Third\n\nWith a body.\n" || e.Commit.AuthorName != "Ada" || e.Commit.Timestamp.Unix() != 1767323106 {
			t.Errorf("%s: commit %+v", c.name, e.Commit)
		}
		since, err := e.ChangesSince("main")
		if err != nil || !slices.Equal(since, []string{"src/y"}) {
			t.Errorf("%s: since main %q %v", c.name, since, err)
		}
		if _, err := e.ChangesSince("nosuch"); err == nil || !strings.Contains(err.Error(), "no branch, tag or commit nosuch") {
			t.Errorf("%s: since nosuch: %v", c.name, err)
		}
	}
	if _, err := openHosted(t, dir, third).Event(t.Context(), HostedEvent{Ref: "refs/notes/x"}); err == nil {
		t.Error("a ref that is neither a branch nor a tag makes an event")
	}
	if _, err := OpenHosted(HostedOptions{Dir: filepath.Join(dir, "app.git"), SHA: gone, Project: pipeline.Project{Path: "group/app"}}); err == nil {
		t.Error("a commit that is not there is opened")
	}
}

func TestHostedFiles(t *testing.T) {
	dir, shas := hosted(t)
	web := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { t.Error("an address of this machine was asked") }))
	defer web.Close()
	f := openHosted(t, dir, shas[0]).Files(t.Context(), FilesOptions{Hosted: func(project string) (string, error) {
		if project == "group/closed" {
			return "", errors.New("the pipelines of group/app may not read it")
		}
		name := filepath.Join(dir, filepath.Base(project)+".git")
		_, err := os.Stat(name)
		return name, err
	}})
	defer f.Close()
	for _, c := range []struct {
		include pipeline.Include
		want    string // the names of what is read, or what the error says
	}{
		{pipeline.Include{Local: "/ci/a.yml"}, "ci/a.yml"},
		{pipeline.Include{Local: "ci/[ab].yml"}, "file does not exist"},
		{pipeline.Include{Local: "ci/?.yml"}, "file does not exist"},
		{pipeline.Include{Local: "ci/b*.yml"}, "ci/b.yml"},
		{pipeline.Include{Local: "ci/out.yml"}, "ci/out.yml: "},
		{pipeline.Include{Local: "../lib.git/HEAD"}, "does not stay in the repository"},
		{pipeline.Include{Project: "group/lib", File: "templates/c.yml"}, "group/lib@"},
		{pipeline.Include{Project: "group/lib", File: "templates/c.yml", Ref: "1.2.3"}, "group/lib@"},
		{pipeline.Include{Project: "group/lib", File: "templates/c.yml", Ref: "--upload-pack=x"}, "is no project"},
		{pipeline.Include{Project: "group/lib", File: "templates/c.yml", Ref: "nosuch"}, "has no branch, tag or commit nosuch"},
		{pipeline.Include{Project: "group/app", File: "ci/a.yml", Ref: "main"}, "group/app@"},
		{pipeline.Include{Project: "group/closed", File: "x.yml"}, "may not read it"},
		{pipeline.Include{Component: "keelson.example/group/lib/c@~latest"}, "group/lib@"},
		{pipeline.Include{Component: "elsewhere.example/group/lib/c@1.2.3"}, "read projects of that server only"},
		{pipeline.Include{Remote: web.URL + "/x.yml"}, "an address of the server's own network"},
	} {
		got, err := names(t, f, c.include, config.Source{})
		if err != nil {
			got = err.Error()
		}
		if !strings.Contains(got, c.want) {
			t.Errorf("%+v: have %s, want %s", c.include, got, c.want)
		}
	}
	paths, err := f.home.Paths()
	if err != nil || !slices.Equal(paths, []string{"ci/a.yml", "ci/b.yml", "ci/out.yml", "src/x"}) {
		t.Errorf("paths %q %v", paths, err)
	}
}
