package source_test

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"net/http/cgi"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/fstest"
	"time"

	"github.com/google/go-cmp/cmp"

	"keelson.dev/keelson/internal/delivery"
	"keelson.dev/keelson/internal/git"
	"keelson.dev/keelson/internal/githost"
	"keelson.dev/keelson/internal/source"
)

const token = "t0ken-for-tests"

func file(content string) *fstest.MapFile { return &fstest.MapFile{Data: []byte(content)} }

// world is a Git host, a Fetcher that reads it in place, and one that reads it over HTTP.
type world struct {
	t      testing.TB
	host   *githost.Host
	server *httptest.Server
	f      *source.Fetcher // in place
	remote *source.Fetcher // over HTTP
	dir    string          // mirrors of remote

	requests atomic.Int64
	fetches  atomic.Int64 // requests that brought objects
}

func newWorld(t testing.TB, opts ...func(*githost.Options)) *world {
	t.Helper()
	w := &world{t: t, dir: t.TempDir()}
	ho := githost.Options{Root: t.TempDir(), Token: token}
	for _, o := range opts {
		o(&ho)
	}
	var err error
	if w.host, err = githost.New(ho); err != nil {
		t.Fatal(err)
	}
	w.server = httptest.NewServer(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		w.requests.Add(1)
		if strings.HasSuffix(r.URL.Path, "/git-upload-pack") {
			body, err := io.ReadAll(r.Body)
			if err == nil && strings.Contains(string(body), "command=fetch") {
				w.fetches.Add(1)
			}
			r.Body = io.NopCloser(strings.NewReader(string(body)))
		}
		w.host.ServeHTTP(rw, r)
	}))
	t.Cleanup(w.server.Close)
	w.f = w.fetcher(source.Options{Dir: t.TempDir(), Local: w.local})
	w.remote = w.fetcher(source.Options{Dir: w.dir})
	return w
}

func (w *world) fetcher(opts source.Options) *source.Fetcher {
	w.t.Helper()
	f, err := source.New(opts)
	if err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(func() { f.Close() })
	return f
}

// local maps a URL of the host to the repository's folder, as the server does.
func (w *world) local(url string) (string, bool) {
	name, ok := strings.CutPrefix(url, w.server.URL+githost.Prefix)
	name, isRepo := strings.CutSuffix(name, ".git")
	return w.host.Dir(name), ok && isRepo
}

func (w *world) url(name string) string { return w.server.URL + githost.Prefix + name + ".git" }

func (w *world) source(name string) delivery.Source {
	return delivery.Source{ID: delivery.ID{Kind: "GitRepository", Namespace: "default", Name: name}, URL: w.url(name), Ref: delivery.GitRef{Branch: "main"}}
}

func (w *world) repo(name string) *git.Repository {
	w.t.Helper()
	if !w.host.Exists(name) {
		if err := w.host.Create(w.t.Context(), name); err != nil {
			w.t.Fatal(err)
		}
	}
	r, err := git.Open(w.host.Dir(name), git.Options{})
	if err != nil {
		w.t.Fatal(err)
	}
	return r
}

// commit puts files on the branch main.
func (w *world) commit(name string, files fstest.MapFS) string {
	w.t.Helper()
	r := w.repo(name)
	defer r.Close()
	base, err := r.Resolve("refs/heads/main")
	if err != nil && !errors.Is(err, git.ErrUnknownRef) {
		w.t.Fatal(err)
	}
	id, err := r.Commit(w.t.Context(), git.Change{Branch: "main", Base: base, Files: files, Message: "change", Author: git.Signature{Name: "a", Email: "a@example.com"}})
	if err != nil {
		w.t.Fatal(err)
	}
	return id
}

func (w *world) git(name string, args ...string) string {
	w.t.Helper()
	cmd := exec.Command("git", args...)
	cmd.Dir = w.host.Dir(name)
	cmd.Env = append(os.Environ(), "GIT_AUTHOR_NAME=a", "GIT_AUTHOR_EMAIL=a@b", "GIT_COMMITTER_NAME=a", "GIT_COMMITTER_EMAIL=a@b")
	out, err := cmd.CombinedOutput()
	if err != nil {
		w.t.Fatalf("git %v: %v\n%s", args, err, out)
	}
	return strings.TrimSpace(string(out))
}

// link adds symbolic links, given as names and targets, to the branch main.
func (w *world) link(name string, pairs ...string) {
	w.t.Helper()
	index := filepath.Join(w.t.TempDir(), "index")
	run := func(stdin string, args ...string) string {
		cmd := exec.Command("git", args...)
		cmd.Dir, cmd.Stdin = w.host.Dir(name), strings.NewReader(stdin)
		cmd.Env = append(os.Environ(), "GIT_INDEX_FILE="+index, "GIT_AUTHOR_NAME=a", "GIT_AUTHOR_EMAIL=a@b", "GIT_COMMITTER_NAME=a", "GIT_COMMITTER_EMAIL=a@b")
		out, err := cmd.CombinedOutput()
		if err != nil {
			w.t.Fatalf("git %v: %v\n%s", args, err, out)
		}
		return strings.TrimSpace(string(out))
	}
	run("", "read-tree", "main")
	for i := 0; i < len(pairs); i += 2 {
		run("120000 "+run(pairs[i+1], "hash-object", "-w", "--stdin")+"\t"+pairs[i]+"\n", "update-index", "--index-info")
	}
	run("", "update-ref", "refs/heads/main", run("links", "commit-tree", run("", "write-tree"), "-p", "main"))
}

func snapshot(t testing.TB, f *source.Fetcher, src delivery.Source) delivery.Snapshot {
	t.Helper()
	rev, err := f.Resolve(t.Context(), src)
	if err != nil {
		t.Fatal(err)
	}
	snap, err := f.Fetch(t.Context(), src, rev)
	if err != nil {
		t.Fatal(err)
	}
	return snap
}

func (w *world) snapshot(src delivery.Source) delivery.Snapshot {
	w.t.Helper()
	return snapshot(w.t, w.f, src)
}

func content(t testing.TB, s delivery.Snapshot, name string) string {
	t.Helper()
	b, err := fs.ReadFile(s.FS, name)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func TestRefs(t *testing.T) {
	w := newWorld(t)
	first := w.commit("r", fstest.MapFS{"a": file("1")})
	w.git("r", "tag", "light", first)
	w.git("r", "tag", "-a", "-m", "x", "annotated", first)
	w.git("r", "update-ref", "refs/pull/7/head", first)
	second := w.commit("r", fstest.MapFS{"a": file("2")})
	w.git("r", "branch", "master", second)
	w.git("r", "branch", "feature/x", first)
	tests := map[string]struct {
		ref  delivery.GitRef
		want delivery.Revision
	}{
		"nothing":              {delivery.GitRef{}, delivery.Revision{Name: "master", Commit: second}},
		"branch":               {delivery.GitRef{Branch: "main"}, delivery.Revision{Name: "main", Commit: second}},
		"branch with a slash":  {delivery.GitRef{Branch: "feature/x"}, delivery.Revision{Name: "feature/x", Commit: first}},
		"light tag":            {delivery.GitRef{Tag: "light"}, delivery.Revision{Name: "light", Commit: first}},
		"annotated tag":        {delivery.GitRef{Tag: "annotated", Branch: "main"}, delivery.Revision{Name: "annotated", Commit: first}},
		"name of a branch":     {delivery.GitRef{Name: "refs/heads/main", Tag: "light"}, delivery.Revision{Name: "refs/heads/main", Commit: second}},
		"name of a request":    {delivery.GitRef{Name: "refs/pull/7/head"}, delivery.Revision{Name: "refs/pull/7/head", Commit: first}},
		"HEAD":                 {delivery.GitRef{Name: "HEAD"}, delivery.Revision{Name: "HEAD", Commit: second}},
		"commit":               {delivery.GitRef{Commit: first}, delivery.Revision{Commit: first}},
		"commit on a branch":   {delivery.GitRef{Commit: first, Branch: "main", Name: "refs/heads/x"}, delivery.Revision{Name: "main", Commit: first}},
		"name of an anno. tag": {delivery.GitRef{Name: "refs/tags/annotated"}, delivery.Revision{Name: "refs/tags/annotated", Commit: first}},
	}
	for how, f := range map[string]*source.Fetcher{"in place": w.f, "over HTTP": w.remote} {
		for name, tt := range tests {
			t.Run(how+"/"+name, func(t *testing.T) {
				src := w.source("r")
				src.Ref = tt.ref
				snap := snapshot(t, f, src)
				if diff := cmp.Diff(tt.want, snap.Revision); diff != "" {
					t.Errorf("(-want +got):\n%s", diff)
				}
				want := map[string]string{first: "1", second: "2"}[tt.want.Commit]
				if got := content(t, snap, "a"); got != want {
					t.Errorf("a = %q, want %q", got, want)
				}
			})
		}
	}
}

func TestFaults(t *testing.T) {
	w := newWorld(t, func(o *githost.Options) { o.GuardReads = true })
	w.commit("r", fstest.MapFS{"a": file("1")})
	w.git("r", "tag", "v1", "main")
	w.repo("empty").Close()
	ok := delivery.Credentials{Username: "x", Password: token}
	tests := map[string]struct {
		change func(*delivery.Source)
		reason string
		retry  delivery.Retry
		want   []string // parts of the message
	}{
		"no credentials":    {func(s *delivery.Source) { s.Credentials = delivery.Credentials{} }, source.ReasonAuth, delivery.Backoff, []string{"authentication failed", "spec.secretRef"}},
		"wrong credentials": {func(s *delivery.Source) { s.Credentials.Password = "wrong-password" }, source.ReasonAuth, delivery.Backoff, []string{"authentication failed", "check the Secret"}},
		"no repository":     {func(s *delivery.Source) { s.URL = w.url("absent") }, source.ReasonGit, delivery.Backoff, []string{"repository not found", "(hint: keelson git create absent, and push to it; or correct spec.url)"}},
		"unreachable":       {func(s *delivery.Source) { s.URL = "http://127.0.0.1:1/r.git" }, source.ReasonGit, delivery.Backoff, []string{"remote is unreachable", "127.0.0.1:1/r.git"}},
		"unknown branch":    {func(s *delivery.Source) { s.Ref = delivery.GitRef{Branch: "nope"} }, source.ReasonGit, delivery.OnChange, []string{"unknown ref: refs/heads/nope", "a branch there is: main"}},
		"unknown tag":       {func(s *delivery.Source) { s.Ref = delivery.GitRef{Tag: "nope"} }, source.ReasonGit, delivery.OnChange, []string{"refs/tags/nope", "a tag there is: v1"}},
		"bad branch":        {func(s *delivery.Source) { s.Ref = delivery.GitRef{Branch: "a..b:c"} }, source.ReasonGit, delivery.OnChange, []string{"not a valid ref name"}},
		"short commit":      {func(s *delivery.Source) { s.Ref = delivery.GitRef{Commit: "abc"} }, source.ReasonGit, delivery.OnChange, []string{"not a full commit id", "spec.ref.commit"}},
		"unknown commit":    {func(s *delivery.Source) { s.Ref = delivery.GitRef{Commit: strings.Repeat("1", 40)} }, source.ReasonGit, delivery.OnChange, []string{"unknown ref"}},
		"unknown commit on a branch": {func(s *delivery.Source) {
			s.Ref = delivery.GitRef{Branch: "main", Commit: strings.Repeat("1", 40)}
		}, source.ReasonGit, delivery.OnChange, []string{"unknown ref"}},
		"empty repository": {func(s *delivery.Source) { s.URL = w.url("empty") }, source.ReasonGit, delivery.OnChange, []string{"the repository is empty"}},
		"ssh without key":  {func(s *delivery.Source) { s.URL = "ssh://git@127.0.0.1:1/r.git" }, source.ReasonAuth, delivery.Backoff, []string{"identity", "known_hosts"}},
		"scp-like":         {func(s *delivery.Source) { s.URL = "git@host:r.git" }, source.ReasonURL, delivery.OnChange, []string{"ssh://git@host/path.git"}},
		"file":             {func(s *delivery.Source) { s.URL = "file:///etc" }, source.ReasonURL, delivery.OnChange, []string{"file URLs are not supported"}},
		"path":             {func(s *delivery.Source) { s.URL = "/etc" }, source.ReasonURL, delivery.OnChange, []string{"no scheme"}},
		"query":            {func(s *delivery.Source) { s.URL += "?private_token=pw-secret" }, source.ReasonURL, delivery.OnChange, []string{"no query"}},
		"garbage":          {func(s *delivery.Source) { s.URL = "http://u:pw-secret@[/" }, source.ReasonURL, delivery.OnChange, []string{"not a valid URL"}},
		"no host":          {func(s *delivery.Source) { s.URL = "http:///x" }, source.ReasonURL, delivery.OnChange, []string{"no host"}},
		"wrong userinfo": {func(s *delivery.Source) {
			s.Credentials = delivery.Credentials{}
			s.URL = strings.Replace(s.URL, "http://", "http://bob:pw-secret@", 1)
		}, source.ReasonAuth, delivery.Backoff, []string{"authentication failed"}},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			src := w.source("r")
			src.Credentials, src.Timeout = ok, 20*time.Second
			tt.change(&src)
			rev, err := w.remote.Resolve(t.Context(), src)
			if err == nil {
				_, err = w.remote.Fetch(t.Context(), src, rev)
			}
			var f *delivery.Fault
			if !errors.As(err, &f) {
				t.Fatalf("no fault: %v", err)
			}
			if f.Reason != tt.reason || f.Retry != tt.retry || f.Hint == "" {
				t.Errorf("%s, retry %d, hint %q", f.Reason, f.Retry, f.Hint)
			}
			for _, want := range tt.want {
				if !strings.Contains(err.Error(), want) {
					t.Errorf("%v\nwithout %q", err, want)
				}
			}
			for _, secret := range []string{"pw-secret", "wrong-password", token} {
				if strings.Contains(err.Error(), secret) {
					t.Errorf("the error shows a secret: %v", err)
				}
			}
		})
	}
	for name, change := range map[string]func(*delivery.Source){
		"basic":    func(s *delivery.Source) { s.Credentials = ok },
		"bearer":   func(s *delivery.Source) { s.Credentials = delivery.Credentials{BearerToken: token} },
		"userinfo": func(s *delivery.Source) { s.URL = strings.Replace(s.URL, "http://", "http://bob:"+token+"@", 1) },
	} {
		t.Run("good/"+name, func(t *testing.T) {
			src := w.source("r")
			change(&src)
			snapshot(t, w.remote, src)
		})
	}
	// All of them share the one mirror, and no file in it knows the token.
	dirs, err := filepath.Glob(filepath.Join(w.dir, "*.git"))
	if err != nil || len(dirs) != 1 {
		t.Errorf("mirrors: %v, %v", dirs, err)
	}
	err = filepath.WalkDir(w.dir, func(p string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		b, err := os.ReadFile(p)
		if strings.Contains(string(b), token) {
			t.Errorf("%s holds the token", p)
		}
		return err
	})
	if err != nil {
		t.Error(err)
	}
}

func TestLocalFaults(t *testing.T) {
	w := newWorld(t)
	w.commit("r", fstest.MapFS{"a": file("1")})
	for name, tt := range map[string]struct {
		url  string
		ref  delivery.GitRef
		want string
	}{
		"absent": {w.url("absent"), delivery.GitRef{}, "repository not found on the built-in Git host"},
		"branch": {w.url("r"), delivery.GitRef{Branch: "nope"}, "a branch there is: main"},
		"commit": {w.url("r"), delivery.GitRef{Commit: strings.Repeat("1", 40)}, "is not in the repository"},
	} {
		src := w.source("r")
		src.URL, src.Ref = tt.url, tt.ref
		_, err := w.f.Resolve(t.Context(), src)
		var f *delivery.Fault
		if !errors.As(err, &f) || f.Reason != source.ReasonGit || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: %v", name, err)
		}
	}
	before := w.requests.Load()
	w.snapshot(w.source("r"))
	if after := w.requests.Load(); after != before {
		t.Errorf("the built-in host was asked over HTTP %d times", after-before)
	}
}

func objects(t *testing.T, dir string) (n int) {
	t.Helper()
	cmd := exec.Command("git", "--git-dir="+dir, "count-objects", "-v")
	out, err := cmd.Output()
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(out)) {
		var v int
		for _, key := range []string{"count: %d", "in-pack: %d"} {
			if _, err := fmt.Sscanf(line, key, &v); err == nil {
				n += v
			}
		}
	}
	return n
}

func (w *world) mirrorDir(t *testing.T) string {
	t.Helper()
	dirs, err := filepath.Glob(filepath.Join(w.dir, "*.git"))
	if err != nil || len(dirs) != 1 {
		t.Fatalf("mirrors: %v, %v", dirs, err)
	}
	return dirs[0]
}

func TestIncrementalAndShared(t *testing.T) {
	w := newWorld(t)
	files := fstest.MapFS{}
	for i := range 100 {
		files[fmt.Sprintf("d%d/f%d", i%10, i)] = file(fmt.Sprint(i))
	}
	w.commit("r", files)
	src := w.source("r")
	snapshot(t, w.remote, src)
	before, asked := objects(t, w.mirrorDir(t)), w.fetches.Load()
	snapshot(t, w.remote, src)
	if got := w.fetches.Load() - asked; got != 0 {
		t.Errorf("nothing new, but %d fetches", got)
	}
	w.commit("r", fstest.MapFS{"d1/f1": file("new")})
	snap := snapshot(t, w.remote, src)
	// A commit, two trees and a file; git writes what those are told as differences from once more.
	if got := objects(t, w.mirrorDir(t)) - before; got < 4 || got > 6 {
		t.Errorf("a one-file commit brought %d objects, want 4, and 2 that they differ from", got)
	}
	if got := content(t, snap, "d1/f1"); got != "new" {
		t.Errorf("d1/f1 = %q", got)
	}

	// Many sources of one URL at once: one fetch.
	w.commit("r", fstest.MapFS{"d2/f2": file("newer")})
	asked = w.fetches.Load()
	var wg sync.WaitGroup
	for i := range 8 {
		wg.Go(func() {
			src := w.source("r")
			src.ID.Name = fmt.Sprint("source", i)
			rev, err := w.remote.Resolve(t.Context(), src)
			if err != nil {
				t.Error(err)
				return
			}
			snap, err := w.remote.Fetch(t.Context(), src, rev)
			if err != nil {
				t.Error(err)
				return
			}
			if b, err := fs.ReadFile(snap.FS, "d2/f2"); err != nil || string(b) != "newer" {
				t.Errorf("d2/f2 = %q, %v", b, err)
			}
		})
	}
	wg.Wait()
	if got := w.fetches.Load() - asked; got != 1 {
		t.Errorf("8 sources caused %d fetches, want 1", got)
	}
	// An old snapshot stays what it was.
	if got := content(t, snap, "d2/f2"); got != "2" {
		t.Errorf("the old snapshot changed: %q", got)
	}
}

func TestForcePushAndRefConflict(t *testing.T) {
	w := newWorld(t)
	w.commit("r", fstest.MapFS{"a": file("1")})
	src := w.source("r")
	snapshot(t, w.remote, src)
	w.git("r", "update-ref", "-d", "refs/heads/main")
	w.commit("r", fstest.MapFS{"a": file("rewritten")})
	if got := content(t, snapshot(t, w.remote, src), "a"); got != "rewritten" {
		t.Errorf("after a forced push: %q", got)
	}
	// A branch "main" gives way to "main/x": in a plain mirror the two names could not follow each other.
	id := w.git("r", "rev-parse", "main")
	w.git("r", "update-ref", "-d", "refs/heads/main")
	w.git("r", "update-ref", "refs/heads/main/x", id)
	src.Ref.Branch = "main/x"
	snapshot(t, w.remote, src)
}

func TestCorruptMirror(t *testing.T) {
	remove := func(t *testing.T, pattern string) {
		t.Helper()
		files, err := filepath.Glob(pattern)
		if err != nil || len(files) == 0 {
			t.Fatalf("%s: %v, %v", pattern, files, err)
		}
		for _, f := range files {
			if err := os.RemoveAll(f); err != nil {
				t.Fatal(err)
			}
		}
	}
	tests := map[string]func(t *testing.T, dir string){
		"objects deleted": func(t *testing.T, dir string) { remove(t, filepath.Join(dir, "objects", "*")) },
		"HEAD deleted":    func(t *testing.T, dir string) { remove(t, filepath.Join(dir, "HEAD")) },
		"all deleted":     func(t *testing.T, dir string) { remove(t, dir) },
		"lock left": func(t *testing.T, dir string) {
			if err := os.WriteFile(filepath.Join(dir, "shallow.lock"), nil, 0o600); err != nil {
				t.Fatal(err)
			}
		},
		"empty objects": func(t *testing.T, dir string) { // as after a power failure
			err := filepath.WalkDir(filepath.Join(dir, "objects"), func(p string, d fs.DirEntry, err error) error {
				if err != nil || d.IsDir() {
					return err
				}
				return errors.Join(os.Chmod(p, 0o600), os.Truncate(p, 0))
			})
			if err != nil {
				t.Fatal(err)
			}
		},
		"a file in its place": func(t *testing.T, dir string) {
			if err := errors.Join(os.RemoveAll(dir), os.WriteFile(dir, nil, 0o600)); err != nil {
				t.Fatal(err)
			}
		},
	}
	for name, damage := range tests {
		for _, restarted := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s, restarted %v", name, restarted), func(t *testing.T) {
				w := newWorld(t)
				w.commit("r", fstest.MapFS{"a": file("1"), "d/b": file("b")})
				src := w.source("r")
				snapshot(t, w.remote, src)
				damage(t, w.mirrorDir(t))
				f := w.remote
				if restarted {
					f = w.fetcher(source.Options{Dir: w.dir})
				}
				w.commit("r", fstest.MapFS{"a": file("2")})
				// A damaged object may be found only when it is read; then the next fetch mends it.
				var err error
				for range 2 {
					snap := snapshot(t, f, src)
					var a, b []byte
					a, errA := fs.ReadFile(snap.FS, "a")
					b, errB := fs.ReadFile(snap.FS, "d/b")
					if err = errors.Join(errA, errB); err == nil {
						if string(a) != "2" || string(b) != "b" {
							t.Errorf("a = %q, d/b = %q", a, b)
						}
						break
					}
				}
				if err != nil {
					t.Error(err)
				}
				left, _ := filepath.Glob(filepath.Join(w.dir, ".*"))
				if len(left) > 0 {
					t.Errorf("left behind: %v", left)
				}
			})
		}
	}
}

// Old servers: no commit by its id, no protocol version 2; and plain file servers, which cannot send shallow history.
func TestOldServers(t *testing.T) {
	w := newWorld(t)
	first := w.commit("r", fstest.MapFS{"a": file("1")})
	second := w.commit("r", fstest.MapFS{"a": file("2")})
	w.git("r", "update-server-info")
	execPath, err := exec.Command("git", "--exec-path").Output()
	if err != nil {
		t.Fatal(err)
	}
	root := filepath.Dir(w.host.Dir("r"))
	backend := &cgi.Handler{Path: filepath.Join(strings.TrimSpace(string(execPath)), "git-http-backend"), Env: []string{"GIT_PROJECT_ROOT=" + root, "GIT_HTTP_EXPORT_ALL=1"}}
	handlers := map[string]http.Handler{
		"version 0": http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
			r.Header.Del("Git-Protocol")
			backend.ServeHTTP(rw, r)
		}),
		"dumb": http.FileServer(http.Dir(root)),
	}
	for name, h := range handlers {
		s := httptest.NewServer(h)
		t.Cleanup(s.Close)
		for what, tt := range map[string]struct {
			ref  delivery.GitRef
			want string
		}{
			"tip":               {delivery.GitRef{Branch: "main"}, second},
			"commit":            {delivery.GitRef{Commit: first}, first},
			"commit, on branch": {delivery.GitRef{Commit: first, Branch: "main"}, first},
		} {
			t.Run(name+"/"+what, func(t *testing.T) {
				f := w.fetcher(source.Options{Dir: t.TempDir()})
				src := w.source("r")
				src.URL, src.Ref = s.URL+"/r.git", tt.ref
				snap := snapshot(t, f, src)
				if want := map[string]string{first: "1", second: "2"}[tt.want]; content(t, snap, "a") != want {
					t.Errorf("a is not %q", want)
				}
			})
		}
	}
}

func TestLargeFile(t *testing.T) {
	w := newWorld(t)
	w.commit("r", fstest.MapFS{"a.yaml": file("a"), "big.yaml": {Data: make([]byte, 100<<20)}})
	snap := w.snapshot(w.source("r"))
	if _, err := fs.ReadFile(snap.FS, "big.yaml"); !errors.Is(err, git.ErrTooLarge) || !strings.Contains(err.Error(), "big.yaml: file is too large: 104857600 bytes, the limit is 52428800") {
		t.Error(err)
	}
	if got := content(t, snap, "a.yaml"); got != "a" {
		t.Errorf("a.yaml = %q", got)
	}
	// From a pack, with a limit of one's own.
	w.commit("s", fstest.MapFS{"a.yaml": file("a"), "big.yaml": {Data: make([]byte, 2000)}})
	f := w.fetcher(source.Options{Dir: t.TempDir(), MaxFileSize: 1000})
	snap = snapshot(t, f, w.source("s"))
	if _, err := fs.ReadFile(snap.FS, "big.yaml"); !errors.Is(err, git.ErrTooLarge) {
		t.Error(err)
	}
	if got := content(t, snap, "a.yaml"); got != "a" {
		t.Errorf("a.yaml = %q", got)
	}
}

func TestSharedMirrorAndRetain(t *testing.T) {
	w := newWorld(t)
	w.commit("r", fstest.MapFS{"a": file("1")})
	w.commit("s", fstest.MapFS{"a": file("s")})
	same := []string{w.url("r"), strings.Replace(w.url("r"), "http://", "HTTP://bob:pw@", 1), w.url("r") + "/"}
	for _, u := range same {
		src := w.source("r")
		src.URL = u
		if strings.Contains(u, "pw") {
			src.Credentials = delivery.Credentials{Password: token}
		}
		snapshot(t, w.remote, src)
	}
	w.mirrorDir(t) // there is but one
	snapshot(t, w.remote, w.source("s"))
	dirs := func() int {
		d, err := filepath.Glob(filepath.Join(w.dir, "*"))
		if err != nil {
			t.Fatal(err)
		}
		return len(d)
	}
	if got := dirs(); got != 2 {
		t.Errorf("%d mirrors, want 2", got)
	}
	if err := w.remote.Retain(t.Context(), []delivery.Source{w.source("s"), {ID: w.source("bad").ID, URL: "bad url"}}); err != nil {
		t.Fatal(err)
	}
	if got := dirs(); got != 1 {
		t.Errorf("%d mirrors after Retain, want 1", got)
	}
	snapshot(t, w.remote, w.source("r")) // it comes back when it is asked for
	if got := content(t, snapshot(t, w.remote, w.source("s")), "a"); got != "s" {
		t.Errorf("the retained mirror: %q", got)
	}
}

func TestNewClearsUp(t *testing.T) {
	dir := t.TempDir()
	for _, name := range []string{".new-1", ".old-2"} {
		if err := os.MkdirAll(filepath.Join(dir, name, "objects"), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	f, err := source.New(source.Options{Dir: dir})
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if left, err := os.ReadDir(dir); err != nil || len(left) != 0 {
		t.Errorf("left: %v, %v", left, err)
	}
}

// TestSharedQuestions lets many sources of one repository, with different branches, ask at once: few questions are sent.
func TestSharedQuestions(t *testing.T) {
	w := newWorld(t)
	commit := w.commit("r", fstest.MapFS{"a": file("x")})
	w.git("r", "update-ref", "refs/heads/other", commit)
	before := w.requests.Load()
	if _, err := w.remote.Resolve(t.Context(), w.source("r")); err != nil {
		t.Fatal(err)
	}
	one := w.requests.Load() - before
	const sources = 40
	var wg sync.WaitGroup
	begin := make(chan struct{})
	for i := range sources {
		wg.Go(func() {
			src := w.source("r")
			src.ID.Name, src.Ref.Branch = fmt.Sprint(i), []string{"main", "other"}[i%2]
			<-begin
			if rev, err := w.remote.Resolve(t.Context(), src); err != nil || rev.Commit != commit || rev.Name != src.Ref.Branch {
				t.Errorf("%s: %v (%v)", src.Ref.Branch, rev, err)
			}
		})
	}
	before = w.requests.Load()
	close(begin)
	wg.Wait()
	if got := w.requests.Load() - before; got > one*sources/4 {
		t.Errorf("%d requests for %d sources; one alone takes %d", got, sources, one)
	}
	if got := w.remote.PollAfter(w.source("r"), 0); got <= 0 {
		t.Errorf("PollAfter = %v: it is not known how long the remote takes", got)
	}
}

func TestTimeout(t *testing.T) {
	stuck := make(chan struct{})
	s := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { <-stuck }))
	t.Cleanup(s.Close)
	t.Cleanup(func() { close(stuck) })
	w := newWorld(t)
	src := w.source("r")
	src.URL, src.Timeout = s.URL+"/r.git", 200*time.Millisecond
	_, err := w.remote.Resolve(t.Context(), src)
	var f *delivery.Fault
	if !errors.As(err, &f) || !errors.Is(err, git.ErrUnreachable) || !strings.Contains(err.Error(), "no answer from") {
		t.Errorf("%v", err)
	}
}

// BenchmarkBuiltIn is what a push to the built-in host costs here: resolve, fetch, read a folder of 20 files.
func BenchmarkBuiltIn(b *testing.B) {
	w := newWorld(b)
	files := fstest.MapFS{}
	for i := range 20 {
		files[fmt.Sprintf("apps/dev/part%d.yaml", i)] = file(strings.Repeat("key: value\n", 50))
	}
	for i := range 500 {
		files[fmt.Sprintf("apps/other%d/x.yaml", i)] = file(fmt.Sprint(i))
	}
	w.commit("r", files)
	src := w.source("r")
	for _, state := range []string{"loose", "packed"} {
		b.Run(state, func(b *testing.B) {
			for b.Loop() {
				snap := w.snapshot(src)
				entries, err := fs.ReadDir(snap.FS, "apps/dev")
				if err != nil || len(entries) != 20 {
					b.Fatal(len(entries), err)
				}
				for _, e := range entries {
					if _, err := fs.ReadFile(snap.FS, "apps/dev/"+e.Name()); err != nil {
						b.Fatal(err)
					}
				}
			}
		})
		w.git("r", "gc", "-q", "--prune=now")
	}
}
