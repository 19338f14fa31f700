package worktree

import (
	"context"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"keelson.dev/keelson/internal/pipeline"
	"keelson.dev/keelson/internal/pipeline/config"
)

// sh runs a shell script in a directory with a git that knows nothing of its user.
func sh(t *testing.T, dir, script string) string {
	t.Helper()
	cmd := exec.Command("bash", "-euc", script)
	cmd.Dir = dir
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%s: %v\n%s", script, err, out)
	}
	return strings.TrimSpace(string(out))
}

func TestMain(m *testing.M) {
	home, err := os.MkdirTemp("", "worktree")
	if err != nil {
		panic(err)
	}
	for name, value := range map[string]string{
		"HOME": home, "XDG_CONFIG_HOME": home, "GIT_CONFIG_NOSYSTEM": "1",
		"GIT_AUTHOR_NAME": "Ada", "GIT_AUTHOR_EMAIL": "ada@example.com", "GIT_AUTHOR_DATE": "2026-01-02T03:04:05+01:00",
		"GIT_COMMITTER_NAME": "Bob", "GIT_COMMITTER_EMAIL": "bob@example.com", "GIT_COMMITTER_DATE": "2026-01-02T04:05:06+01:00",
	} {
		os.Setenv(name, value)
	}
	code := m.Run()
	os.RemoveAll(home)
	os.Exit(code)
}

func open(t *testing.T, dir string) *Repository {
	t.Helper()
	r, err := Open(t.Context(), dir)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func event(t *testing.T, r *Repository, e Event) *pipeline.Context {
	t.Helper()
	e.Now = time.Unix(1_800_000_000, 0)
	c, err := r.Event(t.Context(), e)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// clone makes a repository "app" with a remote that has main, and a branch "feature" with a commit that is not pushed.
func clone(t *testing.T) string {
	dir := t.TempDir()
	sh(t, dir, `
		git init -q --bare -b main group.git
		git init -q -b main app; cd app
		git remote add origin https://gitlab.example.com/group/sub/app.git
		echo 1 > a; mkdir src; echo 1 > src/b; echo 'ignored/' > .gitignore
		git add .; git commit -qm 'First'
		git push -q ../group.git main; git update-ref refs/remotes/origin/main main; git symbolic-ref refs/remotes/origin/HEAD refs/remotes/origin/main
		git checkout -qb feature
		echo 2 > src/b; git commit -qam $'Second one\n\nWith a body.'
		mkdir ignored; echo 1 > ignored/x; echo 1 > new; echo 3 > a`)
	return filepath.Join(dir, "app")
}

func TestEvent(t *testing.T) {
	dir := clone(t)
	r := open(t, filepath.Join(dir, "src"))
	c := event(t, r, Event{})
	if c.Source != "push" || c.Ref != "feature" || c.Tag || c.Protected {
		t.Errorf("%s of %s, tag %t, protected %t", c.Source, c.Ref, c.Tag, c.Protected)
	}
	if c.Commit.Message != "Second one\n\nWith a body.\n" || c.Commit.AuthorName != "Ada" || c.Commit.AuthorEmail != "ada@example.com" {
		t.Errorf("commit %+v", c.Commit)
	}
	if got := c.Commit.Timestamp.Format(time.RFC3339); got != "2026-01-02T04:05:06+01:00" {
		t.Errorf("timestamp %s", got)
	}
	want := pipeline.Project{ID: 1, Path: "group/sub/app", Title: "app", Visibility: "private", URL: "https://gitlab.example.com/group/sub/app",
		CloneURL: "https://gitlab.example.com/group/sub/app.git", DefaultBranch: "main", ConfigPath: ".gitlab-ci.yml", Registry: "registry.gitlab.example.com"}
	if c.Project.Path != want.Path || c.Project.DefaultBranch != want.DefaultBranch || c.Project.URL != want.URL || c.Project.Registry != want.Registry || c.Project.CloneURL != want.CloneURL {
		t.Errorf("project %+v", c.Project)
	}
	if main := event(t, r, Event{Ref: "main"}); !main.Protected || main.Before == noCommit {
		t.Errorf("the default branch: protected %t, before %s", main.Protected, main.Before)
	}
	sh(t, dir, `git tag v1; git tag -am 'The second' v2`)
	if tag := event(t, r, Event{Ref: "v2"}); !tag.Tag || tag.Commit.TagMessage != "The second\n" {
		t.Errorf("tag %t, message %q", tag.Tag, tag.Commit.TagMessage)
	}
	if tag := event(t, open(t, dir), Event{Tag: true}); tag.Ref != "v1" && tag.Ref != "v2" {
		t.Errorf("a tag of HEAD: %s", tag.Ref)
	}
	sh(t, dir, `git checkout -q --detach v1`)
	if c := event(t, open(t, dir), Event{}); !c.Tag {
		t.Errorf("HEAD is detached at a tag: %s", c.Ref)
	}
	if _, err := r.Event(t.Context(), Event{Source: "merge_request_event", Ref: "v1", Tag: true}); err == nil {
		t.Error("a merge request from a tag")
	}
}

func TestMergeRequest(t *testing.T) {
	dir := clone(t)
	r := open(t, dir)
	c := event(t, r, Event{Source: pipeline.SourceMergeRequest})
	m := c.MergeRequest
	if m == nil || m.SourceBranch != "feature" || m.TargetBranch != "main" || m.Title != "Second one" {
		t.Fatalf("merge request %+v", m)
	}
	if base := sh(t, dir, "git rev-parse main"); m.DiffBase != base || m.TargetSHA != base {
		t.Errorf("base %s, target %s, want %s", m.DiffBase, m.TargetSHA, base)
	}
}

func TestChanges(t *testing.T) {
	dir := clone(t)
	r := open(t, dir)
	changes := func(e Event) string {
		t.Helper()
		paths, err := r.Changes(t.Context(), event(t, r, e))
		if err != nil {
			t.Fatal(err)
		}
		if paths == nil {
			return "unknown"
		}
		return strings.Join(paths, " ")
	}
	for _, c := range []struct {
		name string
		e    Event
		want string
	}{
		{"a branch that is new on the server", Event{}, "unknown"},
		{"the default branch", Event{Ref: "main"}, "a new src/b"},
		{"a merge request", Event{Source: pipeline.SourceMergeRequest}, "a new src/b"},
		{"a schedule", Event{Source: pipeline.SourceSchedule}, "unknown"},
		{"a tag", Event{Ref: "v1", Tag: true}, "unknown"},
	} {
		if got := changes(c.e); got != c.want {
			t.Errorf("%s: %s, want %s", c.name, got, c.want)
		}
	}
	since, err := event(t, r, Event{}).ChangesSince("main")
	if err != nil || strings.Join(since, " ") != "a new src/b" {
		t.Errorf("since main: %q, %v", since, err)
	}
	if _, err := event(t, r, Event{}).ChangesSince("nosuch"); err == nil || !strings.Contains(err.Error(), "nosuch") {
		t.Errorf("since a branch that is not there: %v", err)
	}
	// Without a remote it is what is not committed, or else the last commit.
	sh(t, dir, `git remote remove origin; git update-ref -d refs/remotes/origin/main`)
	r = open(t, dir)
	if got := changes(Event{}); got != "a new" {
		t.Errorf("without a remote: %s", got)
	}
	sh(t, dir, `git stash -qu`)
	if got := changes(Event{}); got != "src/b" {
		t.Errorf("without a remote, and clean: %s", got)
	}
}

func TestPaths(t *testing.T) {
	dir := clone(t)
	sh(t, dir, `git rm -q --cached a; rm .gitignore; echo 1 > 'with space'`)
	paths, err := open(t, dir).Paths()
	if err != nil {
		t.Fatal(err)
	}
	slices.Sort(paths)
	if got := strings.Join(paths, "|"); got != "a|ignored/x|new|src/b|with space" {
		t.Errorf("paths %s", got)
	}
}

func TestNoRepository(t *testing.T) {
	dir := t.TempDir()
	sh(t, dir, `mkdir sub; echo 1 > sub/x`)
	r := open(t, dir)
	c := event(t, r, Event{})
	if c.Ref != "main" || c.Commit.SHA != noCommit || c.ChangesSince != nil {
		t.Errorf("context %+v", c)
	}
	if paths, err := r.Paths(); err != nil || strings.Join(paths, " ") != "sub/x" {
		t.Errorf("paths %q, %v", paths, err)
	}
	sh(t, dir, `git init -q -b trunk`)
	if c := event(t, open(t, dir), Event{}); c.Ref != "trunk" || c.Project.DefaultBranch != "trunk" {
		t.Errorf("no commit yet: ref %s, default branch %s", c.Ref, c.Project.DefaultBranch)
	}
}

func TestLinkedWorktree(t *testing.T) {
	dir := clone(t)
	sh(t, dir, `git worktree add -q ../other main`)
	r := open(t, filepath.Join(filepath.Dir(dir), "other"))
	if c := event(t, r, Event{}); c.Ref != "main" || c.Before == noCommit {
		t.Errorf("ref %s, before %s", c.Ref, c.Before)
	}
}

func TestParsePlace(t *testing.T) {
	for _, c := range []struct{ url, path, web, other string }{
		{"git@gitlab.com:group/sub/app.git", "group/sub/app", "https://gitlab.com", "git@gitlab.com:x/y.git"},
		{"ssh://git@host.example:2222/group/app.git", "group/app", "https://host.example", "ssh://git@host.example:2222/x/y.git"},
		{"https://user:pw@host.example:8443/group/app", "group/app", "https://host.example:8443", "https://user:pw@host.example:8443/x/y.git"},
		{"http://127.0.0.1:7070/git/sample.git", "git/sample", "http://127.0.0.1:7070", "http://127.0.0.1:7070/x/y.git"},
		{"/srv/git/app.git", "/srv/git/app.git", "https://localhost", ""},
		{"../app", "../app", "https://localhost", ""},
	} {
		p := parsePlace(c.url)
		if p.path != c.path || p.web() != c.web || p.url("x/y") != c.other {
			t.Errorf("%s: path %q, web %q, other %q", c.url, p.path, p.web(), p.url("x/y"))
		}
	}
}

// names reads an include and gives the names and the texts of what it names.
func names(t *testing.T, f *Files, include pipeline.Include, from config.Source) (string, error) {
	t.Helper()
	sources, err := f.Read(include, from)
	var out []string
	for _, s := range sources {
		out = append(out, s.Name+"="+strings.TrimSpace(string(s.Text)))
		if text, ok := f.Text(s.Name); !ok || string(text) != string(s.Text) {
			t.Errorf("%s is not kept", s.Name)
		}
	}
	return strings.Join(out, " "), err
}

func TestLocal(t *testing.T) {
	dir := t.TempDir()
	sh(t, dir, `
		git init -q -b main app; cd app; mkdir -p ci/deep
		echo one > ci/one.yml; echo two > ci/two.yaml; echo three > ci/deep/three.yml; echo no > ci/no.txt
		echo outside > ../outside.yml; ln -s ../../outside.yml ci/out.yml; ln -s one.yml ci/link.yml; mkfifo ci/pipe.yml; mkdir ci/dir.yml`)
	f := open(t, filepath.Join(dir, "app")).Files(t.Context(), FilesOptions{})
	for _, c := range []struct{ local, want, fails string }{
		{"ci/one.yml", "ci/one.yml=one", ""},
		{"/ci/one.yml", "ci/one.yml=one", ""},
		{"ci/link.yml", "ci/link.yml=one", ""},
		{"ci/t*.yaml", "ci/two.yaml=two", ""},
		{"ci/**/*ree.yml", "ci/deep/three.yml=three", ""},
		{"ci/*.none", "", ""},
		{"ci/missing.yml", "", "ci/missing.yml: file does not exist"},
		{"ci/out.yml", "", "escapes"},
		{"../outside.yml", "", ".."},
		{"ci/pipe.yml", "", "no file"},
		{"ci/dir.yml", "", "no file"},
		{".git/config", "", "Git's own"},
	} {
		got, err := names(t, f, pipeline.Include{Local: c.local}, config.Source{})
		if got != c.want || (err == nil) != (c.fails == "") || err != nil && !strings.Contains(err.Error(), c.fails) {
			t.Errorf("%s: %q, %v", c.local, got, err)
		}
	}
}

func TestProjects(t *testing.T) {
	dir := t.TempDir()
	sh(t, dir, `
		git init -q -b main lib; cd lib; mkdir templates
		echo v1 > ci.yml; echo comp1 > templates/build.yml; git add .; git commit -qm 1; git tag 1.0.0
		echo v2 > ci.yml; mkdir templates/test; echo comp2 > templates/test/template.yml; git add .; git commit -qm 2; git tag 1.2.0; git tag 1.10.0
		echo v3 > ci.yml; git commit -qam 3; git tag 2.0.0-rc1; cd ..
		git clone -q --bare lib lib.git; git -C lib.git config uploadpack.allowAnySHA1InWant true
		git init -q app`)
	lib := filepath.Join(dir, "lib")
	opts := FilesOptions{Cache: filepath.Join(dir, "cache"), Projects: map[string]string{"group/folder": lib, "group/fetched": "file://" + lib + ".git"}}
	opts.Note = func(text string) { t.Log(text) }
	// A file:// URL has no host to parsePlace: fetch it by hand, as one over the network is.
	f := open(t, filepath.Join(dir, "app")).Files(t.Context(), opts)
	defer f.Close()
	if got, err := names(t, f, pipeline.Include{Project: "group/folder", Ref: "1.0.0", File: "/ci.yml"}, config.Source{}); err != nil || got != "group/folder:ci.yml=v3" {
		t.Errorf("a folder as it is: %q, %v", got, err)
	}
	for ref, want := range map[string]string{"": "v3", "main": "v3", "1.0.0": "v1", sh(t, lib, "git rev-parse 1.2.0"): "v2"} {
		p, err := f.fetchProject("group/fetched", ref, "file://"+lib+".git")
		if err != nil {
			t.Fatal(err)
		}
		text, err := p.read("ci.yml")
		if err != nil || strings.TrimSpace(string(text)) != want {
			t.Errorf("at %q: %q, %v", ref, text, err)
		}
		p.close()
	}
	if _, err := f.fetchProject("group/fetched", "nosuch", "file://"+lib+".git"); err == nil || !strings.Contains(err.Error(), "nosuch") {
		t.Errorf("a ref that is not there: %v", err)
	}
	if _, err := names(t, f, pipeline.Include{Project: "group/other", File: "x.yml"}, config.Source{}); err == nil || !strings.Contains(err.Error(), "--project group/other=") {
		t.Errorf("a project that is nowhere: %v", err)
	}
	for _, bad := range []string{"../x", "a//b", "a/../b"} {
		if _, err := f.openProject(bad, ""); err == nil {
			t.Errorf("%s is taken for a project", bad)
		}
	}
	sources, err := f.Read(pipeline.Include{Component: "gitlab.com/group/folder/test@1"}, config.Source{})
	if err != nil || sources[0].Component["name"] != "test" || strings.TrimSpace(string(sources[0].Text)) != "comp2" {
		t.Errorf("a component: %+v, %v", sources, err)
	}
	if got, err := names(t, f, pipeline.Include{Local: "templates/build.yml"}, sources[0]); err != nil || got != "group/folder:templates/build.yml=comp1" {
		t.Errorf("a local include of another project: %q, %v", got, err)
	}
}

func TestNewest(t *testing.T) {
	tags := []string{"1.0.0", "1.10.0", "v1.9.3", "2.0.0-rc1", "0.9.0", "nightly", "99999999999999999999.0.0"}
	for version, want := range map[string]string{"~latest": "1.10.0", "1": "1.10.0", "1.9": "v1.9.3", "0": "0.9.0", "3": ""} {
		if got := newest(tags, version); got != want {
			t.Errorf("%s: %q, want %q", version, got, want)
		}
	}
}

func TestRemote(t *testing.T) {
	mux := http.NewServeMux()
	mux.HandleFunc("/ok.yml", func(w http.ResponseWriter, _ *http.Request) { w.Write([]byte("job: {}\n")) })
	mux.HandleFunc("/loop.yml", func(w http.ResponseWriter, r *http.Request) { http.Redirect(w, r, "/loop.yml", http.StatusFound) })
	mux.HandleFunc("/big.yml", func(w http.ResponseWriter, _ *http.Request) { w.Write(make([]byte, maxFile+1)) })
	mux.HandleFunc("/slow.yml", func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() })
	server := httptest.NewServer(mux)
	defer server.Close()
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
	defer cancel()
	f := open(t, t.TempDir()).Files(ctx, FilesOptions{})
	for _, c := range []struct{ path, integrity, fails string }{
		{"/ok.yml", "", ""},
		{"/ok.yml", "sha256-J0D0FLM8jGcWaHwOIy+wQB01bD9dMWmfo3ZMbJZGc9g=", "integrity wants"},
		{"/ok.yml", "md5-x", "sha256-"},
		{"/none.yml", "", "404"},
		{"/loop.yml", "", "redirects more than 5"},
		{"/big.yml", "", "larger than 8 MiB"},
		{"/slow.yml", "", "deadline"},
	} {
		_, err := f.Read(pipeline.Include{Remote: server.URL + c.path, Integrity: c.integrity}, config.Source{})
		if (err == nil) != (c.fails == "") || err != nil && !strings.Contains(err.Error(), c.fails) {
			t.Errorf("%s: %v", c.path, err)
		}
	}
	if err := verify("sha256-LCa0a2j/xo/5m0U8HTBBNBNCLXBkg7+g+YpeiGJm564=", []byte("foo\n")); err == nil {
		t.Error("a wrong hash is taken")
	}
	if err := verify("sha256-tbudgBSg+bHWHiHnlteNzN8TUvI80ygS9IULh4rklEw=", []byte("foo\n")); err != nil {
		t.Errorf("the right hash: %v", err)
	}
	if _, err := f.Read(pipeline.Include{Remote: "file:///etc/passwd"}, config.Source{}); err == nil {
		t.Error("a file is read as a remote one")
	}
}

// TestComponentHosts keeps projects of one path on two hosts apart, whichever is read first.
func TestComponentHosts(t *testing.T) {
	dir := t.TempDir()
	for _, host := range []string{"own", "other"} {
		sh(t, dir, `
			git init -q -b main `+host+`/group/lib.git; cd `+host+`/group/lib.git; mkdir templates
			echo `+host+` > ci.yml; echo "`+host+` x" > templates/x.yml; git add .; git commit -qm 1; git tag 1.0.0`)
	}
	sh(t, dir, `git init -q app; cd app; git remote add origin git@own.example:group/app.git`)
	t.Setenv("GIT_CONFIG_COUNT", "3")
	for i, from := range []string{"git@own.example:", "https://other.example/", "https://own.example/"} {
		t.Setenv("GIT_CONFIG_VALUE_"+strconv.Itoa(i), from)
		to := "own"
		if i == 1 {
			to = "other"
		}
		t.Setenv("GIT_CONFIG_KEY_"+strconv.Itoa(i), "url.file://"+dir+"/"+to+"/.insteadOf")
	}
	const component, own, project = "other.example/group/lib/x@1", "own.example/group/lib/x@1", "group/lib"
	want := map[string]string{component: "other x", own: "own x", project: "own"}
	for _, order := range [][]string{{component, own, project}, {project, component, own}, {own, component, project}} {
		opts := FilesOptions{Cache: filepath.Join(dir, "cache"), Projects: map[string]string{}}
		f := open(t, filepath.Join(dir, "app")).Files(t.Context(), opts)
		for _, what := range order {
			include := pipeline.Include{Component: what}
			if what == project {
				include = pipeline.Include{Project: project, File: "ci.yml"}
			}
			sources, err := f.Read(include, config.Source{})
			if err != nil || strings.TrimSpace(string(sources[0].Text)) != want[what] {
				t.Errorf("%s of %q: %+v, %v", what, order, sources, err)
				continue
			}
			if got, err := f.Read(pipeline.Include{Local: "ci.yml"}, sources[0]); err != nil || strings.TrimSpace(string(got[0].Text)) != strings.Fields(want[what])[0] {
				t.Errorf("a local include of %s of %q: %+v, %v", what, order, got, err)
			}
		}
		if len(opts.Projects) != 0 {
			t.Errorf("the caller's map was written to: %v", opts.Projects)
		}
		f.Close()
	}
	f := open(t, filepath.Join(dir, "app")).Files(t.Context(), FilesOptions{Cache: filepath.Join(dir, "cache")})
	defer f.Close()
	for _, bad := range []string{"other.example:group/lib", "https://other.example/group/lib"} {
		if _, err := f.Read(pipeline.Include{Project: bad, File: "ci.yml"}, config.Source{}); err == nil || !strings.Contains(err.Error(), "is no project") {
			t.Errorf("include:project %s: %v", bad, err)
		}
	}
	// --project means the own host's, unless it names another one.
	lib := filepath.Join(dir, "other", "group", "lib.git")
	f = open(t, filepath.Join(dir, "app")).Files(t.Context(), FilesOptions{Cache: filepath.Join(dir, "cache"), Projects: map[string]string{"group/lib": "/nosuch", "other.example/group/lib": lib}})
	defer f.Close()
	if sources, err := f.Read(pipeline.Include{Component: component}, config.Source{}); err != nil || sources[0].Component["sha"] == "" || !strings.Contains(sources[0].Name, "lib:templates") {
		t.Errorf("a folder for another host's project: %+v, %v", sources, err)
	}
	if _, err := f.Read(pipeline.Include{Component: own}, config.Source{}); err == nil || !strings.Contains(err.Error(), "/nosuch") {
		t.Errorf("a folder for the own host's project: %v", err)
	}
}

// TestWildcardBounds ends the reading of a wildcard where nothing could be made of it any more.
func TestWildcardBounds(t *testing.T) {
	dir := t.TempDir()
	sh(t, dir, `
		mkdir many large; for i in $(seq 151); do : > many/$i.yml; done
		truncate -s 8M large/1.yml; for i in 2 3 4 5 6 7 8 9 10; do ln -s 1.yml large/$i.yml; done`)
	f := open(t, dir).Files(t.Context(), FilesOptions{})
	for pattern, want := range map[string]string{"many/*.yml": "150", "large/*.yml": "64 MiB"} {
		if _, err := f.Read(pipeline.Include{Local: pattern}, config.Source{}); err == nil || !strings.Contains(err.Error(), want) || !strings.Contains(err.Error(), pattern) {
			t.Errorf("%s: %v", pattern, err)
		}
	}
	if sources, err := f.Read(pipeline.Include{Local: "large/[1].yml"}, config.Source{}); err == nil {
		t.Errorf("%d files of a pattern that is none", len(sources))
	}
}

// TestFetchesTogether bounds the time of all fetches.
func TestFetchesTogether(t *testing.T) {
	server := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { time.Sleep(20 * time.Millisecond) }))
	defer server.Close()
	f := open(t, t.TempDir()).Files(t.Context(), FilesOptions{Cache: t.TempDir()})
	if _, err := f.Read(pipeline.Include{Remote: server.URL + "/a.yml"}, config.Source{}); err != nil {
		t.Fatal(err)
	}
	if f.fetched < 20*time.Millisecond {
		t.Errorf("%s are counted", f.fetched)
	}
	f.fetched = fetchesTimeout
	_, err := f.Read(pipeline.Include{Remote: server.URL + "/b.yml"}, config.Source{})
	if err == nil || !strings.Contains(err.Error(), "all fetches together took longer than 2m0s") {
		t.Errorf("a remote file: %v", err)
	}
	if _, err = f.fetchProject("group/lib", "main", "file:///nosuch"); err == nil || !strings.Contains(err.Error(), "all fetches together took longer than 2m0s") {
		t.Errorf("a project: %v", err)
	}
}

// TestScope: what a pipeline keeps belongs to the repository where a path alone says too little.
func TestScope(t *testing.T) {
	dir := t.TempDir()
	sh(t, dir, `
		for d in one two three; do git init -q $d/app; done; mkdir -p four/app/sub; git -C one/app commit -q --allow-empty -m 1; git -C one/app worktree add -q ../../linked
		git -C three/app remote add origin ../up
		git clone -q one/app gitlab; git -C gitlab remote set-url origin git@gitlab.com:group/app.git
		git clone -q one/app again; git -C again remote set-url origin https://token@gitlab.com/group/app
		git clone -q one/app example; git -C example remote set-url origin https://example.com/group/app.git`)
	scope := func(name string) string { return open(t, filepath.Join(dir, name)).Scope() }
	seen := map[string]string{}
	for _, name := range []string{"one/app", "two/app", "three/app", "four/app", "gitlab", "example"} {
		if other := seen[scope(name)]; other != "" {
			t.Errorf("%s and %s are both %s", name, other, scope(name))
		}
		seen[scope(name)] = name
	}
	for name, same := range map[string]string{"linked": "one/app", "again": "gitlab"} {
		if scope(name) != scope(same) {
			t.Errorf("%s is %s, %s is %s", name, scope(name), same, scope(same))
		}
	}
	if got := scope("again"); got != "gitlab.com/group/app" {
		t.Errorf("%s", got)
	}
	if got := scope("two/app"); !strings.HasPrefix(got, "local/app") {
		t.Errorf("%s", got)
	}
}
