package main

import (
	"errors"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"keelson.dev/keelson/internal/web"
)

// noDashboard is a dashboard whose cluster has not started.
func noDashboard() web.Options {
	return web.Options{Lister: &lazyLister{}, Logger: slog.New(slog.DiscardHandler)}
}

func TestInstanceOutlivesItsDaemon(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "data")
	first, err := openInstance(dir)
	if err != nil {
		t.Fatal(err)
	}
	if len(first.Token) != 64 {
		t.Errorf("token of %d digits, want 64: 256 bits in hex", len(first.Token))
	}
	first.Port, first.Kubeconfig, first.ClusterUID = 7071, "/k", "uid"
	if err := writeInstance(dir, first); err != nil {
		t.Fatal(err)
	}
	second, err := openInstance(dir)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(first, second); diff != "" {
		t.Errorf("instance (-written +read):\n%s", diff)
	}
	info, err := os.Stat(filepath.Join(dir, instanceFile))
	if err != nil {
		t.Fatal(err)
	}
	if info.Mode().Perm() != 0o600 {
		t.Errorf("mode %v, want 0600: the file holds the token", info.Mode().Perm())
	}
	if other, _ := openInstance(filepath.Join(t.TempDir(), "other")); other.Token == first.Token {
		t.Error("two instances have one token")
	}
}

func TestReadInstance(t *testing.T) {
	cases := map[string]struct {
		content string
		hint    string
	}{
		"damaged":          {`{"version":1,`, "keelson down --purge"},
		"no token":         {`{"version":1,"port":7070}`, "keelson down --purge"},
		"another version":  {`{"version":2,"token":"x"}`, "use the version that made it"},
		"not an instance":  {`[]`, "keelson down --purge"},
		"an empty file":    {``, "keelson down --purge"},
		"something random": {"\x00\x01", "keelson down --purge"},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			if err := os.WriteFile(filepath.Join(dir, instanceFile), []byte(tc.content), 0o600); err != nil {
				t.Fatal(err)
			}
			_, err := openInstance(dir)
			if err == nil || !strings.Contains(strings.Join(hintsOf(err), "\n"), tc.hint) {
				t.Errorf("error %v with hints %q, want a hint with %q", err, hintsOf(err), tc.hint)
			}
		})
	}
	if _, err := readInstance(t.TempDir()); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("no instance: error %v, want fs.ErrNotExist", err)
	}
}

func TestInstanceURLs(t *testing.T) {
	inst := instance{Port: 7070, Token: "cafe"}
	got := []string{inst.dashboard(), inst.git(false), inst.git(true)}
	want := []string{"http://127.0.0.1:7070/", "http://127.0.0.1:7070/git", "http://keelson:cafe@127.0.0.1:7070/git"}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("URLs (-want +got):\n%s", diff)
	}
}

// What is not Keelson's is neither taken as a data directory nor purged.
func TestForeignDirectory(t *testing.T) {
	dir := t.TempDir()
	thesis := filepath.Join(dir, "thesis.tex")
	if err := os.WriteFile(thesis, []byte("42"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := openInstance(dir); err == nil || !strings.Contains(err.Error(), "thesis.tex") {
		t.Errorf("open: error %v, want one that names the file", err)
	}
	for _, dirName := range []string{gitDir, clusterDir} {
		if err := os.Mkdir(filepath.Join(dir, dirName), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	if err := purge(dir); err == nil {
		t.Error("purge: no error for a directory without an instance")
	}
	for _, path := range []string{thesis, filepath.Join(dir, gitDir)} {
		if _, err := os.Stat(path); err != nil {
			t.Errorf("purge has removed %s", path)
		}
	}
}

func TestPurgeRemovesKeelsonsFilesOnly(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "data")
	if _, err := openInstance(dir); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"git/sample.git/HEAD", "cluster/etcd/db", "server/mirrors/x", "notes.txt"} {
		path := filepath.Join(dir, name)
		if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o700), os.WriteFile(path, nil, 0o600)); err != nil {
			t.Fatal(err)
		}
	}
	if err := purge(dir); err != nil {
		t.Fatal(err)
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	var left []string
	for _, e := range entries {
		left = append(left, e.Name())
	}
	if diff := cmp.Diff([]string{"notes.txt"}, left); diff != "" {
		t.Errorf("left (-want +got):\n%s", diff)
	}
}

func TestDataDirectory(t *testing.T) {
	cases := map[string]struct {
		flag, env, state string
		want             string
		given            bool
	}{
		"the flag wins":                 {"/f", "/e", "/s", "/f", true},
		"then the environment":          {"", "/e", "/s", "/e", true},
		"then the state directory":      {"", "", "/s", "/s/keelson", false},
		"else below the home directory": {"", "", "", "/home/me/.local/state/keelson", false},
		"a relative XDG path is void":   {"", "", "s", "/home/me/.local/state/keelson", false},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			t.Setenv("KEELSON_DATA", tc.env)
			t.Setenv("XDG_STATE_HOME", tc.state)
			t.Setenv("HOME", "/home/me")
			g := global{data: tc.flag}
			if err := g.completeData(); err != nil {
				t.Fatal(err)
			}
			if g.data != tc.want || g.dataGiven != tc.given {
				t.Errorf("%s (given: %v), want %s (given: %v)", g.data, g.dataGiven, tc.want, tc.given)
			}
		})
	}
}

func TestCutBase(t *testing.T) {
	const base = "http://127.0.0.1:7070/git"
	cases := map[string]struct {
		url, rest string
		ok        bool
	}{
		"below it":       {base + "/sample.git", "/sample.git", true},
		"itself":         {base, "", false},
		"a longer name":  {base + "hub/x.git", "", false},
		"a longer port":  {"http://127.0.0.1:70701/git/x.git", "", false},
		"somewhere else": {"https://example.com/git/x.git", "", false},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			if rest, ok := cutBase(tc.url, base); rest != tc.rest || ok != tc.ok {
				t.Errorf("%q, %v, want %q, %v", rest, ok, tc.rest, tc.ok)
			}
		})
	}
}
