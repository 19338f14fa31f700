package githost

import (
	"net/http/httptest"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// TestMirrorsAreReadOnly holds that nobody pushes to a mirror, and is told where to.
func TestMirrorsAreReadOnly(t *testing.T) {
	var h *Host
	kept := true
	h, err := New(Options{Root: t.TempDir(), Token: "token", Release: func(repository string) bool {
		return repository == "shop" && !kept && h.SetMirror(repository, "", "") == nil
	}})
	if err != nil {
		t.Fatal(err)
	}
	if err := h.Create(t.Context(), "shop"); err != nil {
		t.Fatal(err)
	}
	s := httptest.NewServer(h)
	t.Cleanup(s.Close)
	dir := filepath.Join(t.TempDir(), "work")
	git := func(args ...string) (string, error) {
		cmd := exec.CommandContext(t.Context(), "git", append([]string{"-c", "user.name=A", "-c", "user.email=a@example.com"}, args...)...)
		cmd.Dir = filepath.Dir(dir)
		if args[0] != "clone" {
			cmd.Dir = dir
		}
		out, err := cmd.CombinedOutput()
		return string(out), err
	}
	for _, args := range [][]string{{"clone", "-q", strings.Replace(s.URL, "//", "//x:token@", 1) + "/git/shop.git", dir}, {"commit", "-q", "--allow-empty", "-m", "a"}} {
		if out, err := git(args...); err != nil {
			t.Fatal(out, err)
		}
	}
	for _, c := range []struct{ of, keeper, want string }{
		{"https://example.com/shop.git", "team/shop", "remote: shop is a mirror of https://example.com/shop.git: push there"},
		{"https://example.com/shop.git", "team/other", "remote: shop is a mirror of https://example.com/shop.git: push there"},
		{"", "", ""},
	} {
		if err := h.SetMirror("shop", c.of, c.keeper); err != nil {
			t.Fatal(err)
		}
		if got, keeper := h.MirrorOf("shop"), h.MirrorKeeper("shop"); got != c.of || keeper != c.keeper {
			t.Errorf("mirror of %q, kept by %q, want %q and %q", got, keeper, c.of, c.keeper)
		}
		out, err := git("push", "-q", "origin", "HEAD:main")
		if (err != nil) != (c.want != "") || !strings.Contains(out, c.want) {
			t.Errorf("a push to a mirror of %q: %v\n%s", c.of, err, out)
		}
		if out, err := git("ls-remote", "origin"); err != nil {
			t.Errorf("reading: %s %v", out, err)
		}
	}
	if err := h.SetMirror("shop", "https://example.com/shop.git", "team/gone"); err != nil {
		t.Fatal(err)
	}
	kept = false
	if out, err := git("ls-remote", "origin"); err != nil || h.MirrorOf("shop") == "" {
		t.Errorf("who reads leaves a mirror one: %s %v", out, err)
	}
	if out, err := git("push", "-q", "origin", "HEAD:other"); err != nil || h.MirrorOf("shop") != "" {
		t.Errorf("a push to a mirror that nobody keeps any more: %s %v", out, err)
	}
	if err := h.SetMirror("shop", "https://a\nb", "c"); err == nil {
		t.Error("a URL of two lines")
	}
	if err := h.SetMirror("nosuch", "x", ""); err == nil {
		t.Error("what is not there is a mirror")
	}
}
