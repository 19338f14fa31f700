package git_test

import (
	"crypto/rand"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"keelson.dev/keelson/internal/git"
	"keelson.dev/keelson/internal/githost"
)

// stalling passes an answer on until it has so many bytes, and then waits for the client to give up.
type stalling struct {
	http.ResponseWriter
	left int
	gone <-chan struct{}
}

func (s *stalling) Write(p []byte) (int, error) {
	if s.left -= len(p); s.left < 0 {
		<-s.gone
		return 0, http.ErrHandlerTimeout
	}
	n, err := s.ResponseWriter.Write(p)
	s.ResponseWriter.(http.Flusher).Flush()
	return n, err
}

func (s *stalling) Flush() { s.ResponseWriter.(http.Flusher).Flush() }

// TestMirrorIsGuarded holds that what another server sends is bounded and checked, and that what was refused leaves nothing.
func TestMirrorIsGuarded(t *testing.T) {
	host, err := githost.New(githost.Options{Root: t.TempDir(), Token: "token"})
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"up", "copy"} {
		if err := host.Create(t.Context(), name); err != nil {
			t.Fatal(err)
		}
	}
	up, tree := host.Dir("up"), "4b825dc642cb6eb9a060e54bf8d69288fbee4904"
	plain := func(input string, args ...string) string {
		t.Helper()
		cmd := exec.CommandContext(t.Context(), "git", append([]string{"-C", up, "-c", "user.name=A", "-c", "user.email=a@example.com"}, args...)...)
		cmd.Stdin = strings.NewReader(input)
		out, err := cmd.CombinedOutput()
		if err != nil {
			t.Fatalf("git %v: %v %s", args, err, out)
		}
		return strings.TrimSpace(string(out))
	}
	commit := func(author string) string {
		return plain("tree "+tree+"\nauthor "+author+"\ncommitter "+author+"\n\na\n", "hash-object", "-t", "commit", "-w", "--literally", "--stdin")
	}
	plain("", "hash-object", "-t", "tree", "-w", "--stdin")
	noise := make([]byte, 3<<20)
	_, _ = rand.Read(noise)
	blob := plain(string(noise), "hash-object", "-w", "--stdin")
	large := plain("", "commit-tree", "-m", "a", plain("100644 blob "+blob+"\tlarge\n", "mktree"))
	for _, c := range []struct {
		name, commit string
		max          int64
		stall        bool
		want         string
	}{
		{"too large", large, 256 << 10, true, "the repository is too large"},
		{"malformed", commit("A <a@example.com 1700000000 +0000"), 1 << 30, false, "badEmail"},
		{"an old fault that all let pass", commit("A <a@example.com> 1700000000 +051800"), 1 << 30, false, ""},
		{"large, and allowed", large, 8 << 20, false, ""},
	} {
		plain("", "update-ref", "refs/heads/main", c.commit)
		hs := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if c.stall && r.Method == http.MethodPost {
				w = &stalling{ResponseWriter: w, left: 1 << 20, gone: r.Context().Done()}
			}
			host.ServeHTTP(w, r)
		}))
		repo, err := git.Open(host.Dir("copy"), git.Options{})
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := contextWithTimeout(t, time.Minute)
		err = repo.Mirror(ctx, git.Remote{URL: hs.URL + "/git/up.git"}, "", c.max)
		cancel()
		if c.want == "" && err != nil || c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)) {
			t.Errorf("%s: %v, want %q", c.name, err, c.want)
		}
		if _, resolved := repo.Resolve("refs/heads/main"); (resolved == nil) != (c.want == "") {
			t.Errorf("%s: main is there: %v", c.name, resolved)
		}
		if left, _ := filepath.Glob(filepath.Join(host.Dir("copy"), "objects", "pack", "tmp_*")); len(left) > 0 {
			t.Errorf("%s: it leaves %v", c.name, left)
		}
		if err := os.RemoveAll(filepath.Join(host.Dir("copy"), "refs", "heads", "main")); err != nil {
			t.Fatal(err)
		}
		if err := repo.Close(); err != nil {
			t.Fatal(err)
		}
		hs.CloseClientConnections()
		hs.Close()
	}
}
