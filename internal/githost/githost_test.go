package githost_test

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"

	"keelson.dev/keelson/internal/githost"
)

const token = "t0ken-for-tests"

// server is a host behind a real HTTP server.
type server struct {
	*githost.Host
	url  string // without userinfo
	auth string // with the token as userinfo
	root string

	mu     sync.Mutex
	pushed []githost.Push
}

func start(t *testing.T, opts githost.Options) *server {
	t.Helper()
	s := &server{root: t.TempDir()}
	opts.Root, opts.Token = s.root, token
	opts.OnPush = func(p githost.Push) {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.pushed = append(s.pushed, p)
	}
	host, err := githost.New(opts)
	if err != nil {
		t.Fatal(err)
	}
	s.Host = host
	mux := http.NewServeMux()
	mux.Handle(githost.Prefix, host)
	mux.Handle("/", host)
	mux.Handle(githost.APIPath, host.API())
	hs := httptest.NewServer(mux)
	t.Cleanup(hs.Close)
	s.url = hs.URL
	s.auth = strings.Replace(hs.URL, "http://", "http://keelson:"+token+"@", 1)
	return s
}

func (s *server) create(t *testing.T, name string) {
	t.Helper()
	if err := s.Create(t.Context(), name); err != nil {
		t.Fatal(err)
	}
}

func (s *server) pushes() []githost.Push {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.pushed)
}

// tryGit runs a git client as a user would, and returns everything it said.
func tryGit(dir string, args ...string) (string, error) {
	cmd := exec.Command("git", args...)
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "GIT_TERMINAL_PROMPT=0", "LC_ALL=C", "GIT_CONFIG_GLOBAL=/dev/null", "GIT_CONFIG_NOSYSTEM=1",
		"GIT_AUTHOR_NAME=a", "GIT_AUTHOR_EMAIL=a@example.com", "GIT_COMMITTER_NAME=a", "GIT_COMMITTER_EMAIL=a@example.com")
	out, err := cmd.CombinedOutput()
	return string(out), err
}

func gitOK(t *testing.T, dir string, args ...string) string {
	t.Helper()
	out, err := tryGit(dir, args...)
	if err != nil {
		t.Fatalf("git %v: %v\n%s", args, err, out)
	}
	return strings.TrimSpace(out)
}

// gitFails runs a git client that must fail and say all of wants.
func gitFails(t *testing.T, dir string, wants []string, args ...string) {
	t.Helper()
	out, err := tryGit(dir, args...)
	if err == nil {
		t.Fatalf("git %v succeeded:\n%s", args, out)
	}
	for _, want := range wants {
		if !strings.Contains(out, want) {
			t.Errorf("git %v said:\n%s\nwithout %q", args, out, want)
		}
	}
}

func write(t *testing.T, dir, name string, content []byte) {
	t.Helper()
	if err := os.WriteFile(filepath.Join(dir, name), content, 0o644); err != nil {
		t.Fatal(err)
	}
}

// clone clones with the token and makes a first commit.
func (s *server) clone(t *testing.T, name string) string {
	t.Helper()
	dir := t.TempDir()
	gitOK(t, "", "clone", "-q", s.auth+"/git/"+name+".git", dir)
	write(t, dir, "a.txt", []byte("one\n"))
	gitOK(t, dir, "add", ".")
	gitOK(t, dir, "commit", "-qm", "first")
	return dir
}

func TestCloneAndPush(t *testing.T) {
	s := start(t, githost.Options{})
	s.create(t, "sample")
	s.create(t, "team/shop")
	for _, name := range []string{"sample", "team/shop"} {
		dir := s.clone(t, name)
		if branch := gitOK(t, dir, "symbolic-ref", "--short", "HEAD"); branch != "main" {
			t.Errorf("%s: the clone of an empty repository is on %q", name, branch)
		}
		gitOK(t, dir, "push", "-q", "origin", "HEAD")
		other := t.TempDir()
		gitOK(t, "", "clone", "-q", s.url+"/git/"+name+".git", other) // no token: reads are open here
		if got, want := gitOK(t, other, "rev-parse", "HEAD"), gitOK(t, dir, "rev-parse", "HEAD"); got != want {
			t.Errorf("%s: cloned %s, pushed %s", name, got, want)
		}
	}
	var pushed []string
	for _, p := range s.pushes() {
		pushed = append(pushed, p.Repository)
	}
	if diff := cmp.Diff([]string{"sample", "team/shop"}, pushed); diff != "" {
		t.Errorf("OnPush (-want +got):\n%s", diff)
	}
	names, err := s.List()
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]string{"sample", "team/shop"}, names); diff != "" {
		t.Errorf("List (-want +got):\n%s", diff)
	}
}

func TestProtocolVersions(t *testing.T) {
	s := start(t, githost.Options{})
	s.create(t, "sample")
	dir := s.clone(t, "sample")
	gitOK(t, dir, "push", "-q", "origin", "HEAD")
	for _, version := range []string{"0", "1", "2"} {
		t.Run(version, func(t *testing.T) {
			gitOK(t, "", "-c", "protocol.version="+version, "clone", "-q", s.url+"/git/sample.git", t.TempDir())
			write(t, dir, "v"+version, []byte(version))
			gitOK(t, dir, "add", ".")
			gitOK(t, dir, "commit", "-qm", "v"+version)
			gitOK(t, dir, "-c", "protocol.version="+version, "push", "-q", "origin", "HEAD")
		})
	}
	req, err := http.NewRequest(http.MethodGet, s.url+"/git/sample.git/info/refs?service=git-upload-pack", nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Git-Protocol", "version=2")
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil || !bytes.HasPrefix(body, []byte("000eversion 2\n")) {
		t.Errorf("version 2 is not spoken: %q %v", body, err)
	}
}

func TestPushAuthorization(t *testing.T) {
	s := start(t, githost.Options{})
	s.create(t, "sample")
	dir := s.clone(t, "sample")
	host := strings.TrimPrefix(s.url, "http://")
	tests := map[string]struct {
		args []string
		want string // what git says on failure; empty: it succeeds
	}{
		"no token":       {[]string{"push", s.url + "/git/sample.git", "HEAD"}, "could not read Username"},
		"wrong token":    {[]string{"push", "http://x:wrong@" + host + "/git/sample.git", "HEAD"}, "Authentication failed"},
		"empty token":    {[]string{"push", "http://x:@" + host + "/git/sample.git", "HEAD"}, "Authentication failed"},
		"any user":       {[]string{"push", "-q", "http://x:" + token + "@" + host + "/git/sample.git", "HEAD:refs/heads/b1"}, ""},
		"bearer":         {[]string{"-c", "http.extraHeader=Authorization: Bearer " + token, "push", "-q", s.url + "/git/sample.git", "HEAD:refs/heads/b2"}, ""},
		"wrong bearer":   {[]string{"-c", "http.extraHeader=Authorization: Bearer x", "push", s.url + "/git/sample.git", "HEAD"}, "could not read Username"},
		"read, no token": {[]string{"ls-remote", s.url + "/git/sample.git"}, ""},
		"read, wrong":    {[]string{"-c", "http.extraHeader=Authorization: Bearer x", "ls-remote", s.url + "/git/sample.git"}, "could not read Username"},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			if tt.want == "" {
				gitOK(t, dir, tt.args...)
			} else {
				gitFails(t, dir, []string{tt.want}, tt.args...)
			}
		})
	}
	if got := s.pushes(); len(got) != 2 {
		t.Errorf("OnPush was called %d times for two good pushes", len(got))
	}
	resp, err := http.Get(s.url + "/git/sample.git/info/refs?service=git-receive-pack")
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	if resp.StatusCode != http.StatusUnauthorized || !strings.HasPrefix(resp.Header.Get("WWW-Authenticate"), "Basic ") {
		t.Errorf("push without credentials: %s, WWW-Authenticate %q", resp.Status, resp.Header.Get("WWW-Authenticate"))
	}
}

func TestReadAuthorization(t *testing.T) {
	s := start(t, githost.Options{GuardReads: true})
	s.create(t, "sample")
	gitFails(t, "", []string{"could not read Username"}, "ls-remote", s.url+"/git/sample.git")
	gitOK(t, "", "ls-remote", s.auth+"/git/sample.git")

	// From another machine reads need the token even when they are open here.
	open := start(t, githost.Options{})
	open.create(t, "sample")
	for addr, want := range map[string]int{"192.0.2.7:5000": http.StatusUnauthorized, "127.0.0.1:5000": http.StatusOK, "[::1]:5000": http.StatusOK, "": http.StatusUnauthorized} {
		r := httptest.NewRequest(http.MethodGet, "/git/sample.git/info/refs?service=git-upload-pack", nil)
		r.RemoteAddr = addr
		w := httptest.NewRecorder()
		open.ServeHTTP(w, r)
		if w.Code != want {
			t.Errorf("read from %q: %d, want %d", addr, w.Code, want)
		}
		w = httptest.NewRecorder()
		open.Guarded().ServeHTTP(w, r)
		if w.Code != http.StatusUnauthorized {
			t.Errorf("guarded, from %q: %d", addr, w.Code)
		}
	}
}

// rawRequest sends a request line as it is: no client cleans the path.
func rawRequest(t *testing.T, s *server, method, target string) (int, string) {
	t.Helper()
	conn, err := net.Dial("tcp", strings.TrimPrefix(s.url, "http://"))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	fmt.Fprintf(conn, "%s %s HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer %s\r\nConnection: close\r\n\r\n", method, target, token)
	resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, strings.TrimSpace(string(body))
}

func TestBadPaths(t *testing.T) {
	s := start(t, githost.Options{})
	s.create(t, "sample")
	// A repository next to the root, which no request may reach.
	if err := os.Mkdir(filepath.Join(s.root, "..", "outside.git"), 0o700); err != nil {
		t.Fatal(err)
	}
	const refs = "/info/refs?service=git-upload-pack"
	tests := map[string]struct {
		target string
		want   []int
	}{
		"good":              {"/git/sample.git" + refs, []int{200}},
		"dot dot":           {"/git/../outside.git" + refs, []int{301, 307, 308, 400, 404}},
		"dot dot inside":    {"/git/a/../../outside.git" + refs, []int{301, 307, 308, 400, 404}},
		"encoded dots":      {"/git/%2e%2e/outside.git" + refs, []int{301, 307, 308, 400, 404}},
		"encoded slash":     {"/git/..%2foutside.git" + refs, []int{400}},
		"encoded slash in":  {"/git/team%2fshop.git" + refs, []int{400}},
		"encoded letter":    {"/git/s%61mple.git" + refs, []int{400}},
		"double encoded":    {"/git/%252e%252e%252foutside.git" + refs, []int{400}},
		"backslash":         {"/git/..%5coutside.git" + refs, []int{400}},
		"nul":               {"/git/sample%00.git" + refs, []int{400}},
		"double slash":      {"/git//sample.git" + refs, []int{301, 307, 308, 400}},
		"upper case":        {"/git/Sample.git" + refs, []int{400}},
		"unfinished":        {"/git/.new-1.git" + refs, []int{400}},
		"three levels":      {"/git/a/b/c.git" + refs, []int{400}},
		"no suffix":         {"/git/sample" + refs, []int{404}},
		"absent":            {"/git/absent.git" + refs, []int{404}},
		"a file inside":     {"/git/sample.git/HEAD", []int{404}},
		"config":            {"/git/sample.git/config", []int{404}},
		"dumb":              {"/git/sample.git/info/refs", []int{403}},
		"other service":     {"/git/sample.git/info/refs?service=git-upload-archive", []int{403}},
		"get of a post":     {"/git/sample.git/git-upload-pack", []int{405}},
		"repository inside": {"/git/sample.git/../sample.git" + refs, []int{301, 307, 308, 400, 404}},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			status, body := rawRequest(t, s, http.MethodGet, tt.target)
			for _, want := range tt.want {
				if status == want {
					return
				}
			}
			t.Errorf("GET %s: %d %s, want one of %v", tt.target, status, body, tt.want)
		})
	}
}

// TestFirstPush: the default branch is the one that is pushed first.
func TestFirstPush(t *testing.T) {
	for _, tt := range []struct {
		pushes [][]string
		want   string
	}{
		{[][]string{{"main"}}, "main"},
		{[][]string{{"master"}, {"main"}}, "master"},
		{[][]string{{"develop", "main"}}, "main"},
		{[][]string{{"b", "a"}}, "b"},
		{[][]string{{":refs/tags/none"}, {"develop"}, {"main"}}, "develop"},
	} {
		s := start(t, githost.Options{})
		s.create(t, "sample")
		dir := s.clone(t, "sample")
		for _, refs := range tt.pushes {
			for i, ref := range refs {
				if !strings.HasPrefix(ref, ":") {
					refs[i] = "HEAD:refs/heads/" + ref
				}
			}
			_, _ = tryGit(dir, append([]string{"push", "-q", "origin"}, refs...)...) // of what is not there nothing can be deleted
		}
		other := t.TempDir()
		gitOK(t, "", "clone", "-q", s.url+"/git/sample.git", other)
		if got := gitOK(t, other, "symbolic-ref", "--short", "HEAD"); got != tt.want {
			t.Errorf("pushed %v: the default branch is %s, want %s", tt.pushes, got, tt.want)
		}
	}
}

func TestPlainPaths(t *testing.T) {
	s := start(t, githost.Options{})
	s.create(t, "team/shop")
	const refs, ask = "/info/refs", "?service=git-upload-pack"
	for target, want := range map[string]struct {
		plain  bool
		status int
	}{
		"/team/shop.git" + refs + ask:         {true, 200},
		"/team/shop.git/git-upload-pack":      {true, 405},
		"/absent.git" + refs + ask:            {true, 404},
		"/.git" + refs + ask:                  {true, 400},
		"/a/../team/shop.git" + refs + ask:    {true, 400},
		"/team%2fshop.git" + refs + ask:       {true, 400},
		"/git/team/shop.git" + refs + ask:     {false, 200},
		"/git.git" + refs + ask:               {true, 404},
		"/team/shop.git":                      {false, 400},
		"/team/shop.git/config":               {false, 400},
		"/team/shop.git/info/refs/x" + ask:    {false, 400},
		"/api/v1/pipelines?x=y.git/info/refs": {false, 400},
	} {
		r := httptest.NewRequest(http.MethodGet, target, nil)
		r.RemoteAddr = "127.0.0.1:4711"
		if plain := githost.Plain(r); plain != want.plain {
			t.Errorf("%s: plain %v", target, plain)
		}
		w := httptest.NewRecorder()
		s.ServeHTTP(w, r)
		if w.Code != want.status {
			t.Errorf("GET %s: %d %s, want %d", target, w.Code, w.Body, want.status)
		}
	}
	gitOK(t, "", "clone", "-q", s.url+"/team/shop.git", t.TempDir())
}

// The handler itself holds too, without a mux that cleans paths in front of it.
func TestBadPathsWithoutMux(t *testing.T) {
	s := start(t, githost.Options{})
	for _, target := range []string{"/git/../x.git/info/refs", "/git/./x.git/info/refs", "/git/a/../b.git/info/refs", "/git//x.git/info/refs", "/other", "/git/", "/git/.git/info/refs", "/git/x.git.git/info/refs"} {
		r := httptest.NewRequest(http.MethodGet, target+"?service=git-upload-pack", nil)
		w := httptest.NewRecorder()
		s.ServeHTTP(w, r)
		if w.Code != http.StatusBadRequest && w.Code != http.StatusNotFound {
			t.Errorf("GET %s: %d %s", target, w.Code, w.Body)
		}
	}
}

func TestClientShowsRefusals(t *testing.T) {
	s := start(t, githost.Options{})
	gitFails(t, "", []string{"remote: there is no repository absent", "keelson git create absent"}, "clone", s.url+"/git/absent.git", t.TempDir())
	gitFails(t, "", []string{`remote: bad repository name "Bad"`, "lower-case letters"}, "clone", s.url+"/git/Bad.git", t.TempDir())
}

func TestOversizedPush(t *testing.T) {
	s := start(t, githost.Options{MaxPack: 1 << 20})
	s.create(t, "sample")
	dir := s.clone(t, "sample")
	gitOK(t, dir, "push", "-q", "origin", "HEAD")
	noise := make([]byte, 5<<20)
	if _, err := rand.Read(noise); err != nil {
		t.Fatal(err)
	}
	write(t, dir, "big.bin", noise)
	gitOK(t, dir, "add", ".")
	gitOK(t, dir, "commit", "-qm", "big")
	gitFails(t, dir, []string{"remote: fatal: pack exceeds maximum allowed size"}, "push", "origin", "HEAD")
	if got := s.pushes(); len(got) != 1 {
		t.Errorf("OnPush was called %d times, want once: the refused push changed nothing", len(got))
	}
	gitOK(t, dir, "reset", "-q", "--hard", "HEAD^")
	write(t, dir, "small", []byte("x"))
	gitOK(t, dir, "add", ".")
	gitOK(t, dir, "commit", "-qm", "small")
	gitOK(t, dir, "push", "-q", "origin", "HEAD")
}

// A push of more than http.postBuffer (1 MiB) is sent in chunks of unknown length.
func TestBigPush(t *testing.T) {
	s := start(t, githost.Options{})
	s.create(t, "sample")
	dir := s.clone(t, "sample")
	noise := make([]byte, 8<<20)
	if _, err := rand.Read(noise); err != nil {
		t.Fatal(err)
	}
	write(t, dir, "big.bin", noise)
	gitOK(t, dir, "add", ".")
	gitOK(t, dir, "commit", "-qm", "big")
	gitOK(t, dir, "push", "-q", "origin", "HEAD")
	other := t.TempDir()
	gitOK(t, "", "clone", "-q", s.url+"/git/sample.git", other)
	got, err := os.ReadFile(filepath.Join(other, "big.bin"))
	if err != nil || !bytes.Equal(got, noise) {
		t.Errorf("the big file did not survive: %d bytes, %v", len(got), err)
	}
}

func TestForcePushAndDelete(t *testing.T) {
	s := start(t, githost.Options{})
	s.create(t, "sample")
	dir := s.clone(t, "sample")
	gitOK(t, dir, "push", "-q", "origin", "HEAD", "HEAD:refs/heads/topic")
	gitOK(t, dir, "commit", "-q", "--amend", "-m", "rewritten")
	gitFails(t, dir, []string{"rejected"}, "push", "origin", "HEAD")
	gitOK(t, dir, "push", "-q", "--force", "origin", "HEAD")
	gitOK(t, dir, "push", "-q", "origin", ":refs/heads/topic")
	refs := gitOK(t, "", "ls-remote", s.url+"/git/sample.git", "refs/heads/*")
	if want := gitOK(t, dir, "rev-parse", "HEAD") + "\trefs/heads/main"; refs != want {
		t.Errorf("refs:\n%s\nwant\n%s", refs, want)
	}
	gitOK(t, dir, "push", "-q", "origin", "HEAD") // up to date: nothing changes
	if got := s.pushes(); len(got) != 3 {
		t.Errorf("OnPush was called %d times, want 3", len(got))
	}
}

// TestPushTells holds what OnPush is told: the refs that were changed by this push, and its options.
func TestPushTells(t *testing.T) {
	s := start(t, githost.Options{})
	s.create(t, "sample")
	dir := s.clone(t, "sample")
	first := gitOK(t, dir, "rev-parse", "HEAD")
	gitOK(t, dir, "push", "-q", "origin", "HEAD", "HEAD:refs/heads/topic")
	gitOK(t, dir, "commit", "-q", "--allow-empty", "-m", "second")
	second := gitOK(t, dir, "rev-parse", "HEAD")
	gitOK(t, dir, "tag", "-m", "a release", "v1")
	tag := gitOK(t, dir, "rev-parse", "v1")
	gitOK(t, dir, "commit", "-q", "--amend", "--allow-empty", "-m", "elsewhere")
	elsewhere := gitOK(t, dir, "rev-parse", "HEAD")
	gitOK(t, dir, "push", "-q", "origin", "+HEAD:topic")
	gitOK(t, dir, "reset", "-q", "--hard", second)
	gitOK(t, dir, "push", "-q", "-o", "ci.skip", "-o", "ci.variable=A=b c", "origin", "main", "v1", ":topic")
	gitOK(t, dir, "reset", "-q", "--hard", first)
	gitOK(t, dir, "commit", "-q", "--allow-empty", "-m", "third")
	gitFails(t, dir, []string{"rejected"}, "push", "origin", "HEAD:main", "HEAD:other", "v1:refs/tags/v2")
	refs := gitOK(t, "", "ls-remote", s.url+"/git/sample.git", "refs/heads/other", "refs/tags/v2")
	change := func(ref, before, after string) githost.RefChange {
		return githost.RefChange{Ref: ref, Before: before, After: after}
	}
	want := []githost.Push{
		{Changes: []githost.RefChange{change("refs/heads/main", githost.Zero, first), change("refs/heads/topic", githost.Zero, first)}},
		{Changes: []githost.RefChange{change("refs/heads/topic", first, elsewhere)}},
		{Changes: []githost.RefChange{
			change("refs/heads/main", first, second), change("refs/heads/topic", elsewhere, githost.Zero), change("refs/tags/v1", githost.Zero, tag),
		}, Options: []string{"ci.skip", "ci.variable=A=b c"}},
	}
	if strings.Contains(refs, "refs/heads/other") { // what was not rejected was done
		want = append(want, githost.Push{Changes: []githost.RefChange{
			change("refs/heads/other", githost.Zero, gitOK(t, dir, "rev-parse", "HEAD")), change("refs/tags/v2", githost.Zero, tag),
		}})
	}
	for i := range want {
		want[i].Repository, want[i].User, want[i].Address = "sample", "keelson", "127.0.0.1"
	}
	got := s.pushes()
	for i := range got {
		slices.SortFunc(got[i].Changes, func(a, b githost.RefChange) int { return strings.Compare(a.Ref, b.Ref) })
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("OnPush (-want +got):\n%s", diff)
	}
}

// TestAllow holds that other tokens open what they are for, and nothing else.
func TestAllow(t *testing.T) {
	s := start(t, githost.Options{GuardReads: true, Allow: func(given, repository string, write bool) error {
		if given == "job" && repository == "sample" && !write {
			return nil
		}
		return errors.New("this token reads sample, and nothing else")
	}})
	s.create(t, "sample")
	s.create(t, "other")
	dir := s.clone(t, "sample")
	gitOK(t, dir, "push", "-q", "origin", "HEAD")
	job := strings.Replace(s.url, "http://", "http://gitlab-ci-token:job@", 1)
	gitOK(t, "", "clone", "-q", job+"/git/sample.git", t.TempDir())
	gitFails(t, "", []string{"Authentication failed"}, "clone", "-q", job+"/git/other.git", t.TempDir())
	gitFails(t, dir, []string{"Authentication failed"}, "push", job+"/git/sample.git", "HEAD:new")
	for _, path := range []string{githost.APIPath, githost.APIPath + "?x=sample"} {
		req, err := http.NewRequest(http.MethodGet, job+path, nil)
		if err != nil {
			t.Fatal(err)
		}
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		if resp.StatusCode != http.StatusUnauthorized {
			t.Errorf("%s: %s", path, resp.Status)
		}
	}
}

func TestFsckRefusesBadObjects(t *testing.T) {
	s := start(t, githost.Options{})
	s.create(t, "sample")
	dir := s.clone(t, "sample")
	// A tree with an entry named ".git" is an attack on whoever checks it out.
	blob := gitOK(t, dir, "rev-parse", "HEAD:a.txt")
	cmd := exec.Command("git", "hash-object", "-w", "-t", "tree", "--literally", "--stdin")
	cmd.Dir = dir
	raw := []byte("100644 .git\x00")
	for i := 0; i < len(blob); i += 2 {
		var b byte
		fmt.Sscanf(blob[i:i+2], "%02x", &b)
		raw = append(raw, b)
	}
	cmd.Stdin = bytes.NewReader(raw)
	tree, err := cmd.Output()
	if err != nil {
		t.Fatal(err)
	}
	commit := gitOK(t, dir, "commit-tree", "-m", "evil", strings.TrimSpace(string(tree)))
	gitFails(t, dir, []string{"hasDotgit"}, "push", "origin", commit+":refs/heads/evil")
}

func TestConcurrentPushes(t *testing.T) {
	s := start(t, githost.Options{})
	s.create(t, "sample")
	seed := s.clone(t, "sample")
	gitOK(t, seed, "push", "-q", "origin", "HEAD")
	const n = 6
	var wg sync.WaitGroup
	for i := range n {
		dir := t.TempDir()
		gitOK(t, "", "clone", "-q", s.auth+"/git/sample.git", dir)
		write(t, dir, fmt.Sprint("f", i), []byte("x"))
		gitOK(t, dir, "add", ".")
		gitOK(t, dir, "commit", "-qm", fmt.Sprint("c", i))
		wg.Go(func() {
			if out, err := tryGit(dir, "push", "-q", "origin", fmt.Sprintf("HEAD:refs/heads/b%d", i)); err != nil {
				t.Errorf("push %d: %v\n%s", i, err, out)
			}
		})
	}
	wg.Wait()
	refs, err := tryGit("", "ls-remote", s.url+"/git/sample.git", "refs/heads/b*")
	if got := strings.Count(refs, "refs/heads/b"); err != nil || got != n {
		t.Errorf("%d of %d branches arrived (%v)", got, n, err)
	}
	gitOK(t, s.Dir("sample"), "fsck", "--strict")
}

func TestGzipRequest(t *testing.T) {
	s := start(t, githost.Options{})
	s.create(t, "sample")
	dir := s.clone(t, "sample")
	gitOK(t, dir, "push", "-q", "origin", "HEAD")
	var body bytes.Buffer
	z := gzip.NewWriter(&body)
	io.WriteString(z, "0014command=ls-refs\n0000")
	z.Close()
	post := func(content []byte) (int, string) {
		req, err := http.NewRequest(http.MethodPost, s.url+"/git/sample.git/git-upload-pack", bytes.NewReader(content))
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("Content-Type", "application/x-git-upload-pack-request")
		req.Header.Set("Content-Encoding", "gzip")
		req.Header.Set("Git-Protocol", "version=2")
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		out, err := io.ReadAll(resp.Body)
		if err != nil {
			t.Fatal(err)
		}
		return resp.StatusCode, string(out)
	}
	if status, out := post(body.Bytes()); status != 200 || !strings.Contains(out, gitOK(t, dir, "rev-parse", "HEAD")+" refs/heads/main") {
		t.Errorf("gzip: %d %q", status, out)
	}
	if status, out := post([]byte("not gzip")); status != 400 {
		t.Errorf("bad gzip: %d %q", status, out)
	}
}

func TestHooksDoNotRun(t *testing.T) {
	s := start(t, githost.Options{})
	s.create(t, "sample")
	hooks := filepath.Join(s.Dir("sample"), "hooks")
	if err := os.MkdirAll(hooks, 0o755); err != nil {
		t.Fatal(err)
	}
	mark := filepath.Join(t.TempDir(), "ran")
	if err := os.WriteFile(filepath.Join(hooks, "pre-receive"), []byte("#!/bin/sh\ntouch "+mark+"\nexit 1\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	gitOK(t, s.clone(t, "sample"), "push", "-q", "origin", "HEAD")
	if _, err := os.Stat(mark); err == nil {
		t.Error("the hook ran")
	}
}

func TestCreate(t *testing.T) {
	s := start(t, githost.Options{})
	s.create(t, "sample")
	if err := s.Create(t.Context(), "sample"); err == nil || !strings.Contains(err.Error(), "exists already") {
		t.Errorf("second create: %v", err)
	}
	if err := s.Create(t.Context(), "../x"); err == nil {
		t.Error("a bad name was accepted")
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := s.Create(ctx, "cancelled"); err == nil {
		t.Error("a cancelled create succeeded")
	}
	var wg sync.WaitGroup
	var made sync.Map
	for i := range 4 {
		wg.Go(func() { made.Store(i, s.Create(t.Context(), "race")) })
	}
	wg.Wait()
	good := 0
	made.Range(func(_, err any) bool {
		if err == nil {
			good++
		}
		return true
	})
	if good != 1 || !s.Exists("race") {
		t.Errorf("%d of 4 creates of one name succeeded", good)
	}
	entries, err := os.ReadDir(s.root)
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, e := range entries {
		names = append(names, e.Name())
	}
	if diff := cmp.Diff([]string{"race.git", "sample.git"}, names); diff != "" {
		t.Errorf("the root holds (-want +got):\n%s", diff)
	}
}

func TestNewClearsHalfCreated(t *testing.T) {
	root := t.TempDir()
	half := filepath.Join(root, ".new-123")
	if err := os.MkdirAll(filepath.Join(half, "objects"), 0o700); err != nil {
		t.Fatal(err)
	}
	host, err := githost.New(githost.Options{Root: root, Token: token})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(half); err == nil {
		t.Error("the half-created repository is still there")
	}
	if names, err := host.List(); len(names) != 0 || err != nil {
		t.Errorf("List = %v, %v", names, err)
	}
	if _, err := githost.New(githost.Options{Root: root}); err == nil {
		t.Error("an empty token was accepted")
	}
}

func TestAPI(t *testing.T) {
	s := start(t, githost.Options{})
	call := func(method, body, auth string) (int, string) {
		req, err := http.NewRequest(method, s.url+githost.APIPath, strings.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		if auth != "" {
			req.Header.Set("Authorization", "Bearer "+auth)
		}
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		out, err := io.ReadAll(resp.Body)
		if err != nil {
			t.Fatal(err)
		}
		return resp.StatusCode, strings.TrimSpace(string(out))
	}
	tests := []struct {
		name, method, body, auth string
		status                   int
		want                     string
	}{
		{"empty list", "GET", "", "", 200, `{"repositories":[]}`},
		{"no token", "POST", `{"name":"a"}`, "", 401, `{"error":"a token is needed: use it as the password, with any user name"}`},
		{"wrong token", "POST", `{"name":"a"}`, "x", 401, `{"error":"the token is wrong"}`},
		{"created", "POST", `{"name":"team/a"}`, token, 201, `{"name":"team/a","path":"/git/team/a.git"}`},
		{"again", "POST", `{"name":"team/a"}`, token, 409, `{"error":"create team/a: repository exists already"}`},
		{"bad name", "POST", `{"name":"A"}`, token, 400, `{"error":"bad repository name \"A\": only lower-case letters, digits, \"-\", \"_\" and \".\" are allowed"}`},
		{"bad body", "POST", `{"nam`, token, 400, `{"error":"the body must be {\"name\": \"…\"}"}`},
		{"list", "GET", "", "", 200, `{"repositories":[{"name":"team/a","path":"/git/team/a.git"}]}`},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			status, out := call(tt.method, tt.body, tt.auth)
			if status != tt.status || out != tt.want {
				t.Errorf("%d %s\nwant %d %s", status, out, tt.status, tt.want)
			}
		})
	}
}

func TestCheckName(t *testing.T) {
	good := []string{"a", "sample", "team/shop", "a.b-c_d", "0", strings.Repeat("a", 100)}
	bad := []string{"", "/", "a/", "/a", "a/b/c", ".", "..", "../a", "a/..", ".a", "a/.b", "a..b", "a.git", "a.git/b", "a.lock", "a.", "-a",
		"A", "ä", "a b", "a\x00", "a\n", "a\\b", "a%2fb", "a~", strings.Repeat("a", 101)}
	for _, name := range good {
		if err := githost.CheckName(name); err != nil {
			t.Errorf("%q: %v", name, err)
		}
	}
	for _, name := range bad {
		if githost.CheckName(name) == nil {
			t.Errorf("%q was accepted", name)
		}
	}
}

// Whatever name or path comes, nothing outside the root is named and nothing panics.
func FuzzName(f *testing.F) {
	for _, seed := range []string{"sample", "team/shop", "../x", "a%2fb", "a/../../b", ".new-1", "a.git/info/refs"} {
		f.Add(seed)
	}
	root := f.TempDir()
	host, err := githost.New(githost.Options{Root: root, Token: token})
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, name string) {
		if dir := host.Dir(name); dir != "" {
			rel, err := filepath.Rel(root, dir)
			if err != nil || !filepath.IsLocal(rel) || strings.HasPrefix(rel, ".") || !strings.HasSuffix(rel, ".git") || strings.Count(rel, "/") > 1 {
				t.Errorf("Dir(%q) = %q", name, dir)
			}
		}
		req := &http.Request{Method: http.MethodGet, URL: nil, Header: http.Header{}, RemoteAddr: "127.0.0.1:1"}
		if parsed, err := http.NewRequest(http.MethodGet, "http://h/git/"+name+".git/info/refs?service=git-upload-pack", nil); err == nil {
			req.URL = parsed.URL
			w := httptest.NewRecorder()
			host.ServeHTTP(w, req)
			if w.Code < 400 {
				t.Errorf("%q: an empty host answered %d", name, w.Code)
			}
		}
	})
}

// TestPushTellsTheJob: a push says which job it is of, if that is so.
func TestPushTellsTheJob(t *testing.T) {
	s := start(t, githost.Options{Job: func(token string) int64 {
		if token == "of-a-job" {
			return 42
		}
		return 0
	}})
	s.create(t, "sample")
	dir := s.clone(t, "sample")
	for _, test := range []struct {
		name, header string
		want         int64
	}{
		{"none", "X-Other: of-a-job", 0}, {"a job's", githost.JobHeader + ": of-a-job", 42}, {"a wrong one", githost.JobHeader + ": wrong", 0},
		{"one without end", githost.JobHeader + ": " + strings.Repeat("of-a-job", 100), 0},
	} {
		gitOK(t, dir, "commit", "-q", "--allow-empty", "-m", test.name)
		gitOK(t, dir, "-c", "http."+s.url+"/.extraHeader="+test.header, "push", "-q", "origin", "HEAD:main")
		all := s.pushes()
		if got := all[len(all)-1].Job; got != test.want {
			t.Errorf("%s: %d, want %d", test.name, got, test.want)
		}
	}
	s2 := start(t, githost.Options{}) // nobody asks
	s2.create(t, "sample")
	dir = s2.clone(t, "sample")
	gitOK(t, dir, "-c", "http."+s2.url+"/.extraHeader="+githost.JobHeader+": of-a-job", "push", "-q", "origin", "HEAD:main")
	if got := s2.pushes()[0].Job; got != 0 {
		t.Errorf("job %d", got)
	}
}
