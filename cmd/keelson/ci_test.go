package main

import (
	"bytes"
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// chdir makes a fresh repository with one commit the working directory, with a git that knows nothing of its user.
func chdir(t *testing.T, branch string) {
	t.Helper()
	home := t.TempDir()
	for name, value := range map[string]string{
		"HOME": home, "XDG_CONFIG_HOME": home, "XDG_CACHE_HOME": home + "/cache", "GIT_CONFIG_NOSYSTEM": "1",
		"GIT_AUTHOR_NAME": "Ada", "GIT_AUTHOR_EMAIL": "ada@example.com", "GIT_COMMITTER_NAME": "Ada", "GIT_COMMITTER_EMAIL": "ada@example.com",
		"GIT_AUTHOR_DATE": "2026-01-02T03:04:05Z", "GIT_COMMITTER_DATE": "2026-01-02T03:04:05Z", "KEELSON_DATA": home + "/data",
	} {
		t.Setenv(name, value)
	}
	dir := filepath.Join(t.TempDir(), "app")
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	t.Chdir(dir)
	for _, a := range [][]string{
		{"init", "-q", "-b", branch}, {"remote", "add", "origin", "https://gitlab.example.com/group/app.git"}, {"commit", "-q", "--allow-empty", "-m", "First"},
	} {
		if out, err := exec.Command("git", a...).CombinedOutput(); err != nil {
			t.Fatalf("git %v: %v\n%s", a, err, out)
		}
	}
}

// Pipelines that people have published compile for all events, and every job of them is explained.
func TestSeeds(t *testing.T) {
	here, err := os.Getwd()
	if err != nil {
		t.Fatal(err)
	}
	seeds, err := filepath.Glob(filepath.Join(here, "testdata/ci/seeds/*/*.yml"))
	if err != nil || len(seeds) < 11 {
		t.Fatalf("%d seeds, %v", len(seeds), err)
	}
	for _, seed := range seeds {
		name := filepath.Join(filepath.Base(filepath.Dir(seed)), filepath.Base(seed))
		t.Run(name, func(t *testing.T) {
			text, err := os.ReadFile(seed)
			if err != nil {
				t.Fatal(err)
			}
			branch := "main"
			for _, b := range []string{"prod", "master"} {
				if strings.Contains(string(text), "- "+b+"\n") {
					branch = b
				}
			}
			chdir(t, branch)
			if err := os.WriteFile(".gitlab-ci.yml", text, 0o644); err != nil {
				t.Fatal(err)
			}
			var out bytes.Buffer
			for _, command := range []string{"lint", "list", "graph", "explain", "explain --source mr --ref feature"} {
				out.WriteString("$ keelson ci " + command + "\n")
				var complaint bytes.Buffer
				code := execute(context.Background(), append([]string{"ci"}, strings.Fields(command)...), streams{strings.NewReader(""), &out, &complaint})
				if code != 0 {
					t.Errorf("keelson ci %s ends with %d: %s", command, code, complaint.String())
				}
				out.WriteString("\n")
			}
			golden := strings.TrimSuffix(seed, ".yml") + ".golden"
			got := bytes.ReplaceAll(out.Bytes(), []byte(commitHere(t)), []byte("01234567"))
			if *update {
				if err := os.WriteFile(golden, got, 0o644); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(golden)
			if err != nil {
				t.Fatal(err)
			}
			if !bytes.Equal(got, want) {
				t.Errorf("%s differs (-update writes it):\n%s", golden, got)
			}
		})
	}
}

func commitHere(t *testing.T) string {
	t.Helper()
	out, err := exec.Command("git", "rev-parse", "--short=8", "HEAD").Output()
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimSpace(string(out))
}
