package render_test

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/fstest"

	"keelson.dev/keelson/internal/delivery"
	"keelson.dev/keelson/internal/render"
)

// FuzzBuild renders arbitrary kustomizations. A render must neither panic nor reach beyond its file system:
// no program runs (a git that leaves a mark is first in PATH), nothing is downloaded, no file is made.
func FuzzBuild(f *testing.F) {
	cases, err := filepath.Glob("testdata/*.txtar")
	if err != nil {
		f.Fatal(err)
	}
	for _, file := range cases {
		c := readCase(f, file)
		for name, data := range c.repo {
			f.Add(data, c.repo[strings.Replace(name, "kustomization.yaml", "a.yaml", 1)])
		}
	}
	for _, ref := range []string{"git::https://h/a/b", "HTTPS://github.com/a/b", "a@b:c/d", "u@h/a/b", "GitHub.com/a/b", "file:///etc//x", "ssh://h/a/b"} {
		for _, field := range []string{"resources", "bases", "components", "generators", "transformers", "validators", "configurations", "crds"} {
			f.Add(field+": ['"+ref+"']\n", "")
		}
	}
	bin, tmp := f.TempDir(), f.TempDir()
	mark := filepath.Join(bin, "ran")
	if err := os.WriteFile(filepath.Join(bin, "git"), []byte("#!/bin/sh\n: >"+mark+"\n"), 0o700); err != nil { //nolint:gosec // it has to be a program
		f.Fatal(err)
	}
	f.Setenv("PATH", bin)
	f.Setenv("TMPDIR", tmp)
	f.Setenv("https_proxy", "http://127.0.0.1:1")
	f.Fuzz(func(t *testing.T, kustomization, other string) {
		repo := fstest.MapFS{}
		for name, data := range map[string]string{"kustomization.yaml": kustomization, "a.yaml": other, "b/kustomization.yaml": other, "b/c.yaml": kustomization} {
			repo["apps/"+name] = &fstest.MapFile{Data: []byte(data)}
		}
		_, err := render.Build(t.Context(), delivery.Snapshot{FS: repo}, delivery.Build{Path: "apps", Substitute: true}, map[string]string{"v": "x"})
		var fault *delivery.Fault
		if err != nil && !errors.As(err, &fault) {
			t.Errorf("not a fault: %v", err)
		}
		if err != nil && strings.Contains(err.Error(), "proxyconnect") {
			t.Errorf("the network was tried: %v", err)
		}
		if _, err := os.Stat(mark); err == nil {
			t.Fatal("git was run")
		}
		if made, err := os.ReadDir(tmp); err != nil || len(made) > 0 {
			t.Fatalf("files were made: %v (%v)", made, err)
		}
	})
}
