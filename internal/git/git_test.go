package git_test

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/fstest"
	"time"

	"github.com/google/go-cmp/cmp"

	"keelson.dev/keelson/internal/delivery"
	"keelson.dev/keelson/internal/git"
	"keelson.dev/keelson/internal/githost"
)

const token = "t0ken-for-tests"

var author = git.Signature{Name: "Ada", Email: "ada@example.com", When: time.Date(2024, 5, 6, 7, 8, 9, 0, time.FixedZone("", 2*3600))}

// server is a real Git server: the built-in host.
func server(t *testing.T, guardReads bool) (*githost.Host, string) {
	t.Helper()
	host, err := githost.New(githost.Options{Root: t.TempDir(), Token: token, GuardReads: guardReads})
	if err != nil {
		t.Fatal(err)
	}
	hs := httptest.NewServer(host)
	t.Cleanup(hs.Close)
	return host, hs.URL + githost.Prefix
}

func initRepo(t *testing.T, opts git.Options) *git.Repository {
	t.Helper()
	r, err := git.Init(t.Context(), filepath.Join(t.TempDir(), "repo.git"), "main", opts)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { r.Close() })
	return r
}

func commit(t *testing.T, r *git.Repository, base string, files fs.FS, remove ...string) string {
	t.Helper()
	id, err := r.Commit(t.Context(), git.Change{Branch: "main", Base: base, Files: files, Remove: remove, Message: "change\n\nbody\n", Author: author})
	if err != nil {
		t.Fatal(err)
	}
	return id
}

func hosted(t *testing.T, host *githost.Host, name string) *git.Repository {
	t.Helper()
	if err := host.Create(t.Context(), name); err != nil {
		t.Fatal(err)
	}
	r, err := git.Open(host.Dir(name), git.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { r.Close() })
	return r
}

func file(content string) *fstest.MapFile { return &fstest.MapFile{Data: []byte(content)} }

func tool(t *testing.T, dir string, stdin io.Reader, args ...string) string {
	t.Helper()
	cmd := exec.Command("git", args...)
	cmd.Dir, cmd.Stdin, cmd.Stderr = dir, stdin, os.Stderr
	cmd.Env = append(os.Environ(), "GIT_CONFIG_GLOBAL=/dev/null", "GIT_CONFIG_NOSYSTEM=1",
		"GIT_AUTHOR_NAME=a", "GIT_AUTHOR_EMAIL=a@b", "GIT_COMMITTER_NAME=a", "GIT_COMMITTER_EMAIL=a@b")
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("git %v: %v", args, err)
	}
	return strings.TrimSpace(string(out))
}

func TestCommitAndRead(t *testing.T) {
	r := initRepo(t, git.Options{})
	files := fstest.MapFS{"a/b/c.yaml": file("c"), "run.sh": {Data: []byte("#!"), Mode: 0o755}, "a.txt": file("x"), "a-b": file("y"), "empty": file("")}
	first := commit(t, r, "", files)
	if got, err := r.Resolve("refs/heads/main"); err != nil || got != first {
		t.Fatalf("Resolve = %s, %v", got, err)
	}
	if got, err := r.Resolve("HEAD"); err != nil || got != first {
		t.Fatalf("Resolve(HEAD) = %s, %v", got, err)
	}
	info, err := r.Info(first)
	if err != nil {
		t.Fatal(err)
	}
	if info.Subject() != "change" || info.Author.Name != "Ada" || info.Author.Email != "ada@example.com" || !info.Author.When.Equal(author.When) || len(info.Parents) != 0 {
		t.Errorf("Info = %+v", info)
	}
	tree, err := r.Tree(first)
	if err != nil {
		t.Fatal(err)
	}
	if err := fstest.TestFS(tree, "a/b/c.yaml", "run.sh", "a.txt", "a-b", "empty"); err != nil {
		t.Error(err)
	}
	if info, err := tree.Stat("run.sh"); err != nil || info.Mode() != 0o755 || info.Size() != 2 || info.Sys().(git.ObjectID).String() != tool(t, r.Dir(), strings.NewReader("#!"), "hash-object", "--stdin") {
		t.Errorf("Stat(run.sh) = %v, %v", info, err)
	}
	second := commit(t, r, first, fstest.MapFS{"new": file("n")}, "a/b/c.yaml")
	tree2, err := r.Tree(second)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := tree2.Stat("a"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the removed file's folder: %v", err)
	}
	if b, err := tree2.ReadFile("new"); err != nil || string(b) != "n" {
		t.Errorf("new = %q, %v", b, err)
	}
	if _, err := tree.ReadFile("a/b/c.yaml"); err != nil {
		t.Errorf("the old tree changed: %v", err)
	}
	_, err = r.Commit(t.Context(), git.Change{Branch: "main", Base: first, Files: fstest.MapFS{"z": file("z")}, Message: "late", Author: author})
	if !errors.Is(err, git.ErrMoved) {
		t.Errorf("a commit on an old base: %v", err)
	}
	_, err = r.Commit(t.Context(), git.Change{Branch: "main", Files: files, Message: "again", Author: author})
	if !errors.Is(err, git.ErrMoved) {
		t.Errorf("a first commit on a branch that exists: %v", err)
	}
	tool(t, r.Dir(), nil, "fsck", "--strict")
}

// The same content from packs, after a repack that an open repository does not know of.
func TestReadsAfterRepack(t *testing.T) {
	r := initRepo(t, git.Options{})
	big := strings.Repeat("line of a file that deltas well\n", 4000)
	base := commit(t, r, "", fstest.MapFS{"f": file(big), "d/g": file("g")})
	for i := range 5 {
		base = commit(t, r, base, fstest.MapFS{"f": file(big + fmt.Sprint(i))})
	}
	tree, err := r.Tree(base)
	if err != nil {
		t.Fatal(err)
	}
	tool(t, r.Dir(), nil, "gc", "-q", "--prune=now")
	check := func() {
		t.Helper()
		if b, err := tree.ReadFile("f"); err != nil || string(b) != big+"4" {
			t.Errorf("f: %d bytes, %v", len(b), err)
		}
		if info, err := tree.Stat("f"); err != nil || info.Size() != int64(len(big)+1) {
			t.Errorf("Stat(f) = %v, %v", info, err)
		}
		if err := r.Verify(t.Context(), base); err != nil {
			t.Error(err)
		}
	}
	check()
	if got, err := r.Resolve("refs/heads/main"); err != nil || got != base {
		t.Errorf("packed ref: %s, %v", got, err)
	}
	base = commit(t, r, base, fstest.MapFS{"d/g": file("g2")})
	tool(t, r.Dir(), nil, "repack", "-adq")
	if tree, err = r.Tree(base); err != nil {
		t.Fatal(err)
	}
	check()
	if b, err := tree.ReadFile("d/g"); err != nil || string(b) != "g2" {
		t.Errorf("d/g = %q, %v", b, err)
	}
	if err := fstest.TestFS(tree, "f", "d/g"); err != nil {
		t.Error(err)
	}
}

// raw writes a tree with modes that Commit does not make.
func raw(t *testing.T, r *git.Repository, lines ...string) string {
	t.Helper()
	tree := tool(t, r.Dir(), strings.NewReader(strings.Join(lines, "\n")+"\n"), "mktree", "--missing")
	return tool(t, r.Dir(), nil, "commit-tree", "-m", "raw", tree)
}

func blob(t *testing.T, r *git.Repository, content string) string {
	t.Helper()
	return tool(t, r.Dir(), strings.NewReader(content), "hash-object", "-w", "--stdin")
}

func TestSymlinksAndSubmodules(t *testing.T) {
	r := initRepo(t, git.Options{})
	link := func(name, target string) string { return "120000 blob " + blob(t, r, target) + "\t" + name }
	dir := tool(t, r.Dir(), strings.NewReader(strings.Join([]string{
		link("up", "../file"), link("out", "../../etc/passwd"), link("self", "."), "100644 blob " + blob(t, r, "inner") + "\tinner",
	}, "\n")+"\n"), "mktree")
	lines := []string{
		"100644 blob " + blob(t, r, "content") + "\tfile", "040000 tree " + dir + "\tdir",
		link("good", "dir/inner"), link("chain", "good"), link("folder", "dir"), link("abs", "/etc/passwd"), link("loop1", "loop2"), link("loop2", "loop1"),
		link("dangling", "nowhere"), link("sneaky", "folder/../../x"), link("via", "dir/out"),
		"160000 commit " + strings.Repeat("1", 40) + "\tmodule",
	}
	tree, err := r.Tree(raw(t, r, lines...))
	if err != nil {
		t.Fatal(err)
	}
	good := map[string]string{"good": "inner", "chain": "inner", "folder/inner": "inner", "folder/up": "content", "dir/self/self/inner": "inner"}
	for name, want := range good {
		if b, err := tree.ReadFile(name); err != nil || string(b) != want {
			t.Errorf("%s = %q, %v", name, b, err)
		}
	}
	escapes := map[string]string{
		"abs": "symbolic link abs -> /etc/passwd: it leaves the repository", "dir/out": "symbolic link dir/out -> ../../etc/passwd: it leaves",
		"via": "symbolic link dir/out -> ../../etc/passwd", "sneaky": "symbolic link", "folder/out": "symbolic link dir/out",
	}
	for name, want := range escapes {
		for op, err := range map[string]error{"read": second(tree.ReadFile(name)), "stat": second(tree.Stat(name)), "open": second(tree.Open(name)), "list": second(tree.ReadDir(name))} {
			if !errors.Is(err, delivery.ErrEscapes) || !strings.Contains(fmt.Sprint(err), want) {
				t.Errorf("%s %s: %v", op, name, err)
			}
		}
		if _, err := tree.Lstat(name); err != nil {
			t.Errorf("lstat %s: %v", name, err)
		}
	}
	if _, err := tree.ReadFile("loop1"); !errors.Is(err, syscall.ELOOP) {
		t.Errorf("loop: %v", err)
	}
	if _, err := tree.Stat("dangling"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("dangling: %v", err)
	}
	if _, err := tree.Stat("file/x"); err == nil {
		t.Error("a path through a file was accepted")
	}
	if target, err := tree.ReadLink("good"); err != nil || target != "dir/inner" {
		t.Errorf("ReadLink = %q, %v", target, err)
	}
	if _, err := tree.ReadLink("file"); err == nil {
		t.Error("ReadLink of a file succeeded")
	}
	if real, isDir, err := tree.Real("folder/up"); err != nil || real != "file" || isDir {
		t.Errorf("Real = %q, %v, %v", real, isDir, err)
	}
	if list, err := tree.ReadDir("module"); err != nil || len(list) != 0 {
		t.Errorf("submodule = %v, %v", list, err)
	}
	for _, name := range []string{"../x", "/file", "a/../file", "", "./file"} {
		if _, err := tree.Open(name); !errors.Is(err, fs.ErrInvalid) {
			t.Errorf("Open(%q): %v", name, err)
		}
	}
}

func second[T any](_ T, err error) error { return err }

func TestFileLimit(t *testing.T) {
	r := initRepo(t, git.Options{MaxFileSize: 1000})
	id := commit(t, r, "", fstest.MapFS{"big": file(strings.Repeat("x", 1001)), "ok": file(strings.Repeat("x", 1000))})
	for _, state := range []string{"loose", "packed"} {
		tree, err := r.Tree(id)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := tree.ReadFile("big"); !errors.Is(err, git.ErrTooLarge) || !strings.Contains(err.Error(), "big: file is too large: 1001 bytes, the limit is 1000") {
			t.Errorf("%s: %v", state, err)
		}
		if _, err := tree.Open("big"); !errors.Is(err, git.ErrTooLarge) {
			t.Errorf("%s: %v", state, err)
		}
		if info, err := tree.Stat("big"); err != nil || info.Size() != 1001 {
			t.Errorf("%s: %v, %v", state, info, err)
		}
		if _, err := tree.ReadFile("ok"); err != nil {
			t.Errorf("%s: %v", state, err)
		}
		tool(t, r.Dir(), nil, "gc", "-q", "--prune=now")
	}
}

func TestResolve(t *testing.T) {
	r := initRepo(t, git.Options{})
	id := commit(t, r, "", fstest.MapFS{"a": file("a")})
	tool(t, r.Dir(), nil, "tag", "light", id)
	tool(t, r.Dir(), nil, "tag", "-a", "-m", "x", "annotated", id)
	tool(t, r.Dir(), nil, "tag", "-a", "-m", "x", "nested", "annotated")
	tool(t, r.Dir(), nil, "update-ref", "refs/pull/7/head", id)
	for _, state := range []string{"loose", "packed"} {
		for _, name := range []string{"refs/heads/main", "refs/tags/light", "refs/tags/annotated", "refs/tags/nested", "refs/pull/7/head", "HEAD"} {
			if got, err := r.Resolve(name); err != nil || got != id {
				t.Errorf("%s: Resolve(%s) = %s, %v", state, name, got, err)
			}
		}
		refs, err := r.Refs()
		if err != nil || len(refs) != 5 || refs["refs/heads/main"] != id || refs["refs/tags/annotated"] == id {
			t.Errorf("%s: Refs = %v, %v", state, refs, err)
		}
		tool(t, r.Dir(), nil, "pack-refs", "--all")
	}
	for _, name := range []string{"refs/heads/none", "main", "refs/heads/../../HEAD", "refs/heads/a.lock", "refs/heads/.x", "config", "/etc/passwd", "refs/heads/a\nb", "refs/heads/"} {
		if _, err := r.Resolve(name); !errors.Is(err, git.ErrUnknownRef) {
			t.Errorf("Resolve(%q): %v", name, err)
		}
	}
	for _, bad := range []string{strings.Repeat("0", 40), "main", "abc", strings.ToUpper(id)} {
		if _, err := r.Info(bad); !errors.Is(err, git.ErrUnknownRef) {
			t.Errorf("Info(%s): %v", bad, err)
		}
	}
}

func count(t *testing.T, r *git.Repository) int {
	t.Helper()
	n := 0
	for line := range strings.Lines(tool(t, r.Dir(), nil, "count-objects", "-v")) {
		var v int
		if _, err := fmt.Sscanf(line, "count: %d", &v); err == nil {
			n += v
		}
		if _, err := fmt.Sscanf(line, "in-pack: %d", &v); err == nil {
			n += v
		}
	}
	return n
}

func TestSetRefs(t *testing.T) {
	r := initRepo(t, git.Options{})
	id := commit(t, r, "", fstest.MapFS{"a": file("a")})
	for _, c := range []struct {
		set  map[string]string
		want string // of the refs below refs/kept; empty: it is refused, and they stay
	}{
		{map[string]string{"refs/kept/1": id, "refs/kept/2": id}, "refs/kept/1 refs/kept/2"},
		{map[string]string{"refs/kept/1": "", "refs/kept/3": id, "refs/kept/nosuch": ""}, "refs/kept/2 refs/kept/3"},
		{nil, "refs/kept/2 refs/kept/3"},
		{map[string]string{"refs/kept/2": "", "refs/kept/4": strings.Repeat("1", 40)}, ""},
		{map[string]string{"refs/kept/2": "", "refs/kept/4": "main"}, ""},
		{map[string]string{"refs/kept/5\ndelete refs/kept/2": id}, ""},
	} {
		err := r.SetRefs(t.Context(), c.set)
		want := c.want
		if want == "" {
			want = "refs/kept/2 refs/kept/3"
		}
		if have := strings.ReplaceAll(tool(t, r.Dir(), nil, "for-each-ref", "--format=%(refname)", "refs/kept"), "\n", " "); have != want || (err == nil) != (c.want != "") {
			t.Errorf("%v: have %s, want %s; %v", c.set, have, want, err)
		}
	}
}

func TestFetchIsIncremental(t *testing.T) {
	host, url := server(t, false)
	up := hosted(t, host, "sample")
	files := fstest.MapFS{}
	for i := range 200 {
		files[fmt.Sprintf("dir%d/file%d", i%10, i)] = file(fmt.Sprint("content ", i))
	}
	first := commit(t, up, "", files)
	remote := git.Remote{URL: url + "sample.git"}
	for name, depth := range map[string]int{"full": 0, "shallow": 1} {
		t.Run(name, func(t *testing.T) {
			base, err := up.Resolve("refs/heads/main")
			if err != nil {
				t.Fatal(err)
			}
			mirror := initRepo(t, git.Options{})
			fetch := func(id string) {
				t.Helper()
				err := mirror.Fetch(t.Context(), remote, git.FetchOptions{Refspecs: []string{"+" + id + ":refs/keelson/main"}, Depth: depth})
				if err != nil {
					t.Fatal(err)
				}
				if err := mirror.Verify(t.Context(), id); err != nil {
					t.Fatal(err)
				}
			}
			fetch(base)
			before := count(t, mirror)
			next := commit(t, up, base, fstest.MapFS{"dir3/file3": file("changed " + name)})
			fetch(next)
			// A commit, the root tree, the folder's tree and the file.
			if got := count(t, mirror) - before; got != 4 {
				t.Errorf("a one-file commit brought %d objects, want 4", got)
			}
			tree, err := mirror.Tree(next)
			if err != nil {
				t.Fatal(err)
			}
			if b, err := tree.ReadFile("dir3/file3"); err != nil || string(b) != "changed "+name {
				t.Errorf("file3 = %q, %v", b, err)
			}
		})
	}
	// A shallow mirror is completed when all of the history is asked for.
	mirror := initRepo(t, git.Options{})
	for _, depth := range []int{1, 0} {
		if err := mirror.Fetch(t.Context(), remote, git.FetchOptions{Refspecs: []string{"+refs/heads/main:refs/heads/main"}, Depth: depth}); err != nil {
			t.Fatal(err)
		}
		if got := mirror.HasCommit(first); got != (depth == 0) {
			t.Errorf("depth %d: the first commit is there: %v", depth, got)
		}
	}
}

func TestRemoteErrors(t *testing.T) {
	host, url := server(t, true)
	up := hosted(t, host, "sample")
	id := commit(t, up, "", fstest.MapFS{"a": file("a")})
	status := func(code int) string {
		s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { http.Error(w, "as told", code) }))
		t.Cleanup(s.Close)
		return s.URL + "/x.git"
	}
	html := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { io.WriteString(w, "<html>\nhello\n</html>\n") }))
	t.Cleanup(html.Close)
	closed, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	closed.Close()
	tests := map[string]struct {
		remote git.Remote
		want   error // nil: it works
	}{
		"basic":          {git.Remote{URL: url + "sample.git", Auth: git.Auth{Username: "x", Password: token}}, nil},
		"bearer":         {git.Remote{URL: url + "sample.git", Auth: git.Auth{BearerToken: token}}, nil},
		"no credentials": {git.Remote{URL: url + "sample.git"}, git.ErrAuth},
		"wrong password": {git.Remote{URL: url + "sample.git", Auth: git.Auth{Username: "x", Password: "wrong-password"}}, git.ErrAuth},
		"wrong bearer":   {git.Remote{URL: url + "sample.git", Auth: git.Auth{BearerToken: "wrong-password"}}, git.ErrAuth},
		"line break":     {git.Remote{URL: url + "sample.git", Auth: git.Auth{BearerToken: "a\r\nX: y"}}, git.ErrAuth},
		"absent":         {git.Remote{URL: url + "absent.git", Auth: git.Auth{BearerToken: token}}, git.ErrRepoNotFound},
		"403":            {git.Remote{URL: status(403)}, git.ErrAuth},
		"404":            {git.Remote{URL: status(404)}, git.ErrRepoNotFound},
		"400":            {git.Remote{URL: status(400)}, git.ErrRefused},
		"414":            {git.Remote{URL: status(414)}, git.ErrRefused},
		"429":            {git.Remote{URL: status(429)}, git.ErrUnreachable},
		"500":            {git.Remote{URL: status(500)}, git.ErrUnreachable},
		"html":           {git.Remote{URL: html.URL + "/x.git"}, git.ErrRepoNotFound},
		"refused":        {git.Remote{URL: "http://" + closed.Addr().String() + "/x.git"}, git.ErrUnreachable},
		"no such host":   {git.Remote{URL: "http://host.invalid/x.git"}, git.ErrUnreachable},
		"no tls":         {git.Remote{URL: strings.Replace(url, "http:", "https:", 1) + "sample.git"}, git.ErrUnreachable},
	}
	mirror := initRepo(t, git.Options{})
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			refs, err := git.LsRemote(t.Context(), tt.remote, "refs/heads/main")
			fetchErr := mirror.Fetch(t.Context(), tt.remote, git.FetchOptions{Refspecs: []string{"+refs/heads/main:refs/heads/main"}, Depth: 1})
			if tt.want == nil {
				if err != nil || fetchErr != nil || refs["refs/heads/main"] != id {
					t.Errorf("refs %v, %v, %v", refs, err, fetchErr)
				}
				return
			}
			for _, err := range []error{err, fetchErr} {
				if !errors.Is(err, tt.want) {
					t.Errorf("%v, want %v", err, tt.want)
				}
				for _, cause := range []error{git.ErrAuth, git.ErrRepoNotFound, git.ErrRefused, git.ErrUnreachable, git.ErrUnknownRef, git.ErrCorrupt} {
					if cause != tt.want && errors.Is(err, cause) {
						t.Errorf("%v is also %v", err, cause)
					}
				}
				if took := regexp.MustCompile(`\d ms`); took.MatchString(fmt.Sprint(err)) {
					t.Errorf("%v: another text each time", err)
				}
				if strings.Contains(fmt.Sprint(err), "wrong-password") {
					t.Errorf("the error shows the password: %v", err)
				}
			}
		})
	}
	remote := git.Remote{URL: url + "sample.git", Auth: git.Auth{BearerToken: token}}
	for _, spec := range []string{"+refs/heads/none:refs/heads/none", "+" + strings.Repeat("1", 40) + ":refs/keelson/x"} {
		if err := mirror.Fetch(t.Context(), remote, git.FetchOptions{Refspecs: []string{spec}, Depth: 1}); !errors.Is(err, git.ErrUnknownRef) {
			t.Errorf("fetch %s: %v", spec, err)
		}
	}
	for _, bad := range []string{"ssh://git@host/x", "file:///etc", "/etc", "ext::sh -c id", "--upload-pack=id", "http://u:pw-secret@host/x", ""} {
		if _, err := git.LsRemote(t.Context(), git.Remote{URL: bad}); err == nil || strings.Contains(err.Error(), "pw-secret") {
			t.Errorf("LsRemote(%q): %v", bad, err)
		}
	}
}

// A remote that never answers: the deadline ends it, the whole process group is gone.
func TestTimeout(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	ended := make(chan error, 1)
	go func() {
		c, err := l.Accept()
		if err != nil {
			ended <- err
			return
		}
		_, err = io.Copy(io.Discard, c) // ends when the client's process is gone
		ended <- err
	}()
	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	_, err = git.LsRemote(ctx, git.Remote{URL: "http://" + l.Addr().String() + "/x.git"})
	if !errors.Is(err, git.ErrUnreachable) || !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("%v", err)
	}
	select {
	case <-ended:
	case <-time.After(10 * time.Second):
		t.Error("the git process still holds the connection")
	}
}

// Credentials follow a redirect within the host and to no other one.
func TestRedirectsWithCredentials(t *testing.T) {
	host, _ := server(t, true)
	up := hosted(t, host, "sample")
	id := commit(t, up, "", fstest.MapFS{"a": file("a")})
	stolen := make(chan string, 10)
	thief := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		stolen <- r.Header.Get("Authorization")
		http.NotFound(w, r)
	}))
	t.Cleanup(thief.Close)
	inside := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if rest, ok := strings.CutPrefix(r.URL.Path, "/sample/"); ok {
			http.Redirect(w, r, "/git/sample.git/"+rest+"?"+r.URL.RawQuery, http.StatusMovedPermanently)
			return
		}
		if strings.HasPrefix(r.URL.Path, "/away/") {
			http.Redirect(w, r, strings.Replace(thief.URL, "127.0.0.1", "localhost", 1)+r.URL.Path, http.StatusFound)
			return
		}
		host.ServeHTTP(w, r)
	}))
	t.Cleanup(inside.Close)
	auth := git.Auth{BearerToken: token}
	refs, err := git.LsRemote(t.Context(), git.Remote{URL: inside.URL + "/sample", Auth: auth}, "refs/heads/main")
	if err != nil || refs["refs/heads/main"] != id {
		t.Errorf("within the host: %v, %v", refs, err)
	}
	_, err = git.LsRemote(t.Context(), git.Remote{URL: inside.URL + "/away/x.git", Auth: auth})
	if !errors.Is(err, git.ErrAuth) || !strings.Contains(fmt.Sprint(err), "not sent to another host") {
		t.Errorf("to another host: %v", err)
	}
	select {
	case got := <-stolen:
		t.Errorf("the other host was asked, with %q", got)
	default:
	}
}

// The secret is in the environment of git, never in its arguments or in the repository.
func TestCredentialsStayHidden(t *testing.T) {
	var args []byte
	host, _ := server(t, true)
	up := hosted(t, host, "sample")
	commit(t, up, "", fstest.MapFS{"a": file("a")})
	spy := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		lines, _ := filepath.Glob("/proc/[0-9]*/cmdline")
		for _, name := range lines {
			b, _ := os.ReadFile(name)
			args = append(args, b...)
		}
		host.ServeHTTP(w, r)
	}))
	t.Cleanup(spy.Close)
	mirror := initRepo(t, git.Options{})
	remote := git.Remote{URL: spy.URL + "/git/sample.git", Auth: git.Auth{Username: "bob", Password: token}}
	if err := mirror.Fetch(t.Context(), remote, git.FetchOptions{Refspecs: []string{"+refs/heads/main:refs/heads/main"}}); err != nil {
		t.Fatal(err)
	}
	header := "Ym9iOnQwa2VuLWZvci10ZXN0cw" // base64 of bob:<token>
	if !strings.Contains(string(args), "sample.git") || strings.Contains(string(args), token) || strings.Contains(string(args), header) {
		t.Error("the credentials are among the arguments of a process, or git's were not seen at all")
	}
	err := filepath.WalkDir(mirror.Dir(), func(p string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		b, err := os.ReadFile(p)
		if strings.Contains(string(b), token) || strings.Contains(string(b), header) {
			t.Errorf("%s holds the credentials", p)
		}
		return err
	})
	if err != nil {
		t.Error(err)
	}
}

func TestDamage(t *testing.T) {
	object := func(r *git.Repository, id git.ObjectID) string {
		return filepath.Join(r.Dir(), "objects", id.String()[:2], id.String()[2:])
	}
	tests := map[string]struct {
		damage func(t *testing.T, path string)
		verify bool // Verify sees it already
	}{
		"deleted": {func(t *testing.T, p string) {
			if err := os.Remove(p); err != nil {
				t.Fatal(err)
			}
		}, true},
		"truncated": {func(t *testing.T, p string) {
			if err := errors.Join(os.Chmod(p, 0o600), os.Truncate(p, 5)); err != nil {
				t.Fatal(err)
			}
		}, false},
		"garbage": {func(t *testing.T, p string) {
			if err := errors.Join(os.Chmod(p, 0o600), os.WriteFile(p, []byte("garbage"), 0o600)); err != nil {
				t.Fatal(err)
			}
		}, false},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			r := initRepo(t, git.Options{})
			id := commit(t, r, "", fstest.MapFS{"d/a": file("aaaa aaaa aaaa aaaa")})
			tree, err := r.Tree(id)
			if err != nil {
				t.Fatal(err)
			}
			info, err := tree.Stat("d/a")
			if err != nil {
				t.Fatal(err)
			}
			if r.Damaged() {
				t.Error("damaged from the start")
			}
			tt.damage(t, object(r, info.Sys().(git.ObjectID)))
			if err := r.Verify(t.Context(), id); errors.Is(err, git.ErrCorrupt) != tt.verify {
				t.Errorf("Verify: %v", err)
			}
			if _, err := tree.ReadFile("d/a"); !errors.Is(err, git.ErrCorrupt) {
				t.Errorf("ReadFile: %v", err)
			}
			if !r.Damaged() {
				t.Error("not noted as damaged")
			}
		})
	}
	// A pack with a flipped byte is an error or the right content, never a panic and never wrong content.
	r := initRepo(t, git.Options{})
	noise := make([]byte, 2000)
	if _, err := rand.Read(noise); err != nil {
		t.Fatal(err)
	}
	id := commit(t, r, "", fstest.MapFS{"a": {Data: noise}, "b": file(strings.Repeat("b", 3000)), "c": file(strings.Repeat("b", 2999) + "c")})
	tool(t, r.Dir(), nil, "gc", "-q", "--prune=now")
	packs, err := filepath.Glob(filepath.Join(r.Dir(), "objects/pack/*.pack"))
	if err != nil || len(packs) != 1 {
		t.Fatal(packs, err)
	}
	good, err := os.ReadFile(packs[0])
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(packs[0], 0o600); err != nil {
		t.Fatal(err)
	}
	for i := 12; i < len(good)-20; i += 7 {
		bad := append([]byte(nil), good...)
		bad[i] ^= 0x55
		if err := os.WriteFile(packs[0], bad, 0o600); err != nil {
			t.Fatal(err)
		}
		fresh, err := git.Open(r.Dir(), git.Options{})
		if err != nil {
			t.Fatal(err)
		}
		if tree, err := fresh.Tree(id); err == nil {
			if b, err := tree.ReadFile("a"); err == nil && string(b) != string(noise) {
				t.Fatalf("byte %d: wrong content", i)
			}
			if b, err := tree.ReadFile("c"); err == nil && string(b) != strings.Repeat("b", 2999)+"c" {
				t.Fatalf("byte %d: wrong content", i)
			}
		}
		fresh.Close()
	}
}

func TestConcurrentReaders(t *testing.T) {
	r := initRepo(t, git.Options{})
	files := fstest.MapFS{}
	for i := range 50 {
		files[fmt.Sprintf("d%d/f%d", i%7, i)] = file(fmt.Sprint(i))
	}
	id := commit(t, r, "", files)
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for range 3 {
				tree, err := r.Tree(id)
				if err != nil {
					t.Error(err)
					return
				}
				err = fs.WalkDir(tree, ".", func(p string, d fs.DirEntry, err error) error {
					if err != nil || d.IsDir() {
						return err
					}
					b, err := tree.ReadFile(p)
					if err == nil && string(b) != string(files[p].Data) {
						t.Errorf("%s = %q", p, b)
					}
					return err
				})
				if err != nil {
					t.Error(err)
				}
			}
		})
	}
	for range 3 {
		tool(t, r.Dir(), nil, "repack", "-adfq")
		tool(t, r.Dir(), nil, "prune-packed", "-q")
	}
	wg.Wait()
}

func TestMalformedTrees(t *testing.T) {
	r := initRepo(t, git.Options{})
	id := blob(t, r, "x")
	tests := map[string]string{"dot dot": "100644 ..\x00", "slash": "100644 a/b\x00", "empty name": "100644 \x00", "odd mode": "666 a\x00", "no mode": "a\x00", "no id": "100644 a"}
	for name, head := range tests {
		t.Run(name, func(t *testing.T) {
			oid, err := git.ParseObjectID(id)
			if err != nil {
				t.Fatal(err)
			}
			data := head
			if strings.HasSuffix(head, "\x00") {
				data += string(oid[:])
			}
			tree := tool(t, r.Dir(), strings.NewReader(data), "hash-object", "-w", "-t", "tree", "--literally", "--stdin")
			c := tool(t, r.Dir(), strings.NewReader(fmt.Sprintf("tree %s\nauthor a <a@b> 1 +0000\ncommitter a <a@b> 1 +0000\n\nx\n", tree)), "hash-object", "-w", "-t", "commit", "--stdin")
			if _, err := r.Tree(c); err == nil || !strings.Contains(err.Error(), "malformed tree") {
				t.Errorf("Tree: %v", err)
			}
		})
	}
}

func TestInit(t *testing.T) {
	dir := t.TempDir()
	if _, err := git.Open(dir, git.Options{}); !errors.Is(err, git.ErrCorrupt) {
		t.Errorf("Open of an empty folder: %v", err)
	}
	if _, err := git.Init(t.Context(), filepath.Join(dir, "x"), "bad..name", git.Options{}); err == nil {
		t.Error("a bad branch name was accepted")
	}
	r := initRepo(t, git.Options{})
	if _, err := r.Resolve("refs/heads/main"); !errors.Is(err, git.ErrUnknownRef) {
		t.Errorf("Resolve in an empty repository: %v", err)
	}
	var left []string
	for _, e := range must(os.ReadDir(r.Dir())) {
		left = append(left, e.Name())
	}
	if diff := cmp.Diff([]string{"HEAD", "config", "objects", "refs"}, left); diff != "" {
		t.Errorf("a new repository holds (-want +got):\n%s", diff)
	}
}

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}
