package main

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"keelson.dev/keelson/internal/pipeline/config"
	"keelson.dev/keelson/internal/pipeline/show"
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

// The tables of docs/pipelines.md are those of the code.
func TestPipelineDocs(t *testing.T) {
	var keywords, codes strings.Builder
	keywords.WriteString("| Keyword | In | | |\n|---|---|---|---|\n")
	for _, k := range config.Keywords() {
		fmt.Fprintf(&keywords, "| `%s` | %s | %s | %s |\n", strings.ReplaceAll(k.Name, ", ", "`, `"), k.In, k.Support, strings.ReplaceAll(k.Note, "|", `\|`))
	}
	codes.WriteString("| Code | What it stands for |\n|---|---|\n")
	for _, code := range show.Codes() {
		fmt.Fprintf(&codes, "| `%s` | %s |\n", code, show.Describe(code))
	}
	const file = "../../docs/pipelines.md"
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	got := between(t, between(t, string(text), "keywords", keywords.String()), "codes", codes.String())
	if got == string(text) {
		return
	}
	if !*update {
		t.Fatalf("%s is not as the code has it: -update writes it", file)
	}
	if err := os.WriteFile(file, []byte(got), 0o644); err != nil {
		t.Fatal(err)
	}
}

// between replaces what stands between two marks.
func between(t *testing.T, text, mark, with string) string {
	t.Helper()
	before, rest, ok := strings.Cut(text, "<!-- "+mark+" -->\n")
	_, after, ok2 := strings.Cut(rest, "<!-- /"+mark+" -->")
	if !ok || !ok2 {
		t.Fatalf("the marks of %s are missing", mark)
	}
	return before + "<!-- " + mark + " -->\n" + with + "<!-- /" + mark + " -->" + after
}

// Every code that a package may give is described, and nothing else is.
func TestCodes(t *testing.T) {
	no := map[string]bool{"pull-push": true, "if-not-present": true, "redis-stack-server": true}
	found := map[string]bool{}
	literal := regexp.MustCompile(`"([a-z]+(?:-[a-z]+)+)"`)
	for _, part := range []string{"config/*.go", "compile/*.go", "rules/*.go", "worktree/variables.go"} {
		files, err := filepath.Glob("../../internal/pipeline/" + part)
		if err != nil || len(files) == 0 {
			t.Fatalf("%d files are %s, %v", len(files), part, err)
		}
		for _, file := range files {
			if strings.HasSuffix(file, "_test.go") {
				continue
			}
			text, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			for _, m := range literal.FindAllStringSubmatch(string(text), -1) {
				if !no[m[1]] {
					found[m[1]] = true
				}
			}
		}
	}
	described := map[string]bool{}
	for _, code := range show.Codes() {
		described[code] = true
		if !found[code] {
			t.Errorf("nothing gives the code %s", code)
		}
	}
	for code := range found {
		if !described[code] {
			t.Errorf("%s is not described", code)
		}
	}
}

// Repositories without a remote have no caches in common, even if their folders have one name.
func TestRunScope(t *testing.T) {
	chdir(t, "main")
	store := t.TempDir()
	play := func(script string) string {
		t.Helper()
		for _, a := range [][]string{{"init", "-q"}, {"commit", "-q", "--allow-empty", "-m", "First"}} {
			if out, err := exec.Command("git", a...).CombinedOutput(); err != nil {
				t.Fatalf("git %v: %v\n%s", a, err, out)
			}
		}
		text := "job:\n  cache: {key: k, paths: [.env]}\n  script:\n    - " + script + "\n"
		if err := os.WriteFile(".gitlab-ci.yml", []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
		var out, complaint bytes.Buffer
		if code := execute(context.Background(), []string{"ci", "run", "--store", store}, streams{strings.NewReader(""), &out, &complaint}); code != 0 {
			t.Fatalf("%d: %s%s", code, out.String(), complaint.String())
		}
		return out.String()
	}
	for i, script := range []string{"echo SECRET=1 > .env", "test ! -e .env"} {
		dir := filepath.Join(t.TempDir(), "same")
		if err := os.Mkdir(dir, 0o755); err != nil {
			t.Fatal(err)
		}
		t.Chdir(dir)
		play(script)
		if i == 0 {
			if err := os.Remove(".env"); err != nil {
				t.Fatal(err)
			}
			play("test -e .env && echo CI_PROJECT_PATH=$CI_PROJECT_PATH | grep =local/same$") // its own
		}
	}
}
