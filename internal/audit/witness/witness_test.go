package witness

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"errors"
	"io/fs"
	"net/http/httptest"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"keelson.dev/keelson/internal/audit"
	"keelson.dev/keelson/internal/git"
	"keelson.dev/keelson/internal/githost"
)

var day = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

func must[T any](v T, err error) func(testing.TB) T {
	return func(t testing.TB) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
}

func checkpoint(t *testing.T, seq int64) audit.Signed {
	t.Helper()
	key := ed25519.NewKeyFromSeed(bytes.Repeat([]byte{9}, ed25519.SeedSize))
	return must(audit.Sign(key, audit.Checkpoint{Seq: seq, Hash: audit.Hash{byte(seq)}, Time: day.Add(time.Duration(seq) * time.Second)}))(t)
}

// TestWitness keeps checkpoints on a Git host and reads them by all ways: only who has the host's token reads there, and nobody pushes.
func TestWitness(t *testing.T) {
	ctx := t.Context()
	const token = "t0ken"
	root := t.TempDir()
	host := must(githost.New(githost.Options{
		Root: root, Token: token, Private: func(name string) bool { return name == Repository }, Allow: func(string, string, bool) error { return nil },
	}))(t)
	server := httptest.NewServer(host)
	t.Cleanup(server.Close)
	if err := host.Create(ctx, Repository); err != nil {
		t.Fatal(err)
	}
	repo := must(git.Open(host.Dir(Repository), git.Options{}))(t)
	t.Cleanup(func() { repo.Close() })
	if found := must(Read(ctx, repo))(t); len(found) != 0 {
		t.Errorf("%v", found)
	}
	if _, there, err := Last(repo); there || err != nil {
		t.Error(there, err)
	}
	var want []audit.Signed
	for seq := int64(3); seq < 6; seq++ {
		want = append(want, checkpoint(t, seq))
		if err := Push(ctx, repo, checkpoint(t, seq)); err != nil {
			t.Fatal(err)
		}
	}
	if last, there, err := Last(repo); !there || err != nil || !last.Same(want[2]) {
		t.Errorf("%+v %v %v", last, there, err)
	}
	withToken := strings.Replace(server.URL, "://", "://"+url.UserPassword("admin", token).String()+"@", 1) + githost.Prefix + Repository + ".git"
	clone := filepath.Join(t.TempDir(), "clone")
	for _, args := range [][]string{{"init", "-q", clone}, {"-C", clone, "fetch", "-q", withToken, Ref + ":" + Ref}} {
		if out, err := exec.CommandContext(ctx, "git", args...).CombinedOutput(); err != nil {
			t.Fatalf("%v: %s", err, out)
		}
	}
	for _, place := range []string{host.Dir(Repository), clone, withToken} {
		found, err := ReadFrom(ctx, place)
		if err != nil || len(found) != len(want) {
			t.Fatalf("%s: %v %v", place, found, err)
		}
		for i := range want {
			if !found[i].Same(want[i]) || found[i].Check() != nil {
				t.Errorf("%s: %d: %+v", place, i, found[i])
			}
		}
	}
	for _, place := range []string{strings.Replace(withToken, token, "other", 1), server.URL + githost.Prefix + Repository + ".git"} {
		if _, err := ReadFrom(ctx, place); !errors.Is(err, git.ErrAuth) || strings.Contains(err.Error(), "other") {
			t.Errorf("%s: %v", place, err)
		}
	}
	if out, err := exec.CommandContext(ctx, "git", "-C", clone, "push", "-q", withToken, "+"+Ref+":"+Ref, Ref+":refs/heads/main").CombinedOutput(); err == nil || !strings.Contains(string(out), "403") {
		t.Errorf("a push: %v %s", err, out)
	}
	if _, err := ReadFrom(ctx, filepath.Join(root, "nosuch")); err == nil {
		t.Error("there is no such folder")
	}
	bad := must(git.TreeOf(map[string]git.File{checkpointFile: {Data: []byte("{}")}}, day))(t)
	must(repo.Commit(ctx, git.Change{Ref: Ref, Base: must(repo.Resolve(Ref))(t), Files: bad, Message: "bad", Author: git.Signature{Name: "a", Email: "b", When: day}}))(t)
	if _, err := Read(ctx, repo); err == nil || !strings.Contains(err.Error(), "it is no checkpoint") {
		t.Errorf("%v", err)
	}
	ended, cancel := context.WithCancel(ctx)
	cancel()
	if _, err := Read(ended, repo); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
}

func TestKey(t *testing.T) {
	file := filepath.Join(t.TempDir(), "new", "audit.key")
	if _, err := ReadKey(file); !errors.Is(err, fs.ErrNotExist) {
		t.Error(err)
	}
	key := must(OpenKey(file))(t)
	if again := must(OpenKey(file))(t); !again.Equal(key) {
		t.Error("another key")
	}
	if info := must(os.Stat(file))(t); info.Mode().Perm() != 0o600 {
		t.Errorf("mode %v", info.Mode())
	}
	if left := must(os.ReadDir(filepath.Dir(file)))(t); len(left) != 1 {
		t.Errorf("files are left: %v", left)
	}
	if out, err := exec.CommandContext(t.Context(), "openssl", "pkey", "-in", file, "-noout").CombinedOutput(); err != nil && !errors.Is(err, exec.ErrNotFound) {
		t.Errorf("openssl: %v %s", err, out)
	}
	text := must(os.ReadFile(file))(t)
	for _, c := range []struct {
		name, text string
		mode       fs.FileMode
		says       string
	}{
		{"others can read it", string(text), 0o644, "chmod 600"},
		{"empty", "", 0o600, "is no key"},
		{"of another kind", strings.ReplaceAll(string(text), "PRIVATE", "EC PRIVATE"), 0o600, "is no key"},
		{"damaged", strings.Replace(string(text), "M", "N", 1), 0o600, "is no key"},
	} {
		if err := errors.Join(os.WriteFile(file, []byte(c.text), c.mode), os.Chmod(file, c.mode)); err != nil {
			t.Fatal(err)
		}
		if _, err := OpenKey(file); err == nil || !strings.Contains(err.Error(), c.says) {
			t.Errorf("%s: %v", c.name, err)
		}
	}
}
