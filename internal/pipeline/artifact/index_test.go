package artifact

import (
	"bytes"
	"encoding/binary"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"keelson.dev/keelson/internal/pipeline"
)

// repository makes a repository with one commit of the given files.
func repository(t testing.TB, files map[string]string) string {
	t.Helper()
	dir := t.TempDir()
	fill(t, dir, files)
	git(t, dir, "init", "-q")
	git(t, dir, "add", ".")
	git(t, dir, "commit", "-qm", "one")
	return dir
}

// Nothing that a job writes into the configuration of its repository is run by who saves what it leaves.
func TestHostileRepositories(t *testing.T) {
	for _, c := range []struct{ name, config string }{
		{"a file system monitor", "[core]\n\tfsmonitor = PROGRAM\n\tuntrackedCache = true\n"},
		{"an included one", "[include]\n\tpath = more\n"},
		{"hooks", "[core]\n\thooksPath = HOOKS\n"},
		{"a pager, an editor and an ssh", "[core]\n\tpager = PROGRAM\n\teditor = PROGRAM\n\tsshCommand = PROGRAM\n[pager]\n\tlog = true\n\tls-files = true\n\trev-list = true\n"},
		{"a signature", "[log]\n\tshowSignature = true\n[gpg]\n\tprogram = PROGRAM\n"},
		{"aliases", "[alias]\n\tlog = !PROGRAM\n\tls-files = !PROGRAM\n\trev-list = !PROGRAM\n"},
		{"missing objects", "[core]\n\trepositoryFormatVersion = 1\n[extensions]\n\tpartialClone = o\n[remote \"o\"]\n\tpromisor = true\n\turl = .\n\tuploadpack = PROGRAM\n"},
		{"missing objects from a transport", "[core]\n\trepositoryFormatVersion = 1\n[protocol]\n\tallow = always\n[extensions]\n\tpartialClone = o\n[remote \"o\"]\n\tpromisor = true\n\turl = ext::PROGRAM\n"},
		{"a filter and a text conversion", "[filter \"f\"]\n\tclean = PROGRAM\n\tsmudge = PROGRAM\n[diff \"f\"]\n\ttextconv = PROGRAM\n\tcommand = PROGRAM\n"},
	} {
		t.Run(c.name, func(t *testing.T) {
			dir := repository(t, map[string]string{"tracked": "1", "sub/tracked": "1", ".gitattributes": "* filter=f diff=f\n"})
			gate := t.TempDir()
			ran, program := filepath.Join(gate, "ran"), filepath.Join(gate, "program")
			if err := os.WriteFile(program, []byte("#!/bin/sh\necho \"$@\" >> "+ran+"\n"), 0o755); err != nil { //nolint:gosec // a program
				t.Fatal(err)
			}
			for _, hook := range []string{"post-index-change", "reference-transaction", "fsmonitor-watchman"} {
				if err := os.Symlink(program, filepath.Join(gate, hook)); err != nil {
					t.Fatal(err)
				}
			}
			if strings.Contains(c.config, "promisor") {
				if err := os.RemoveAll(filepath.Join(dir, ".git/objects")); err != nil {
					t.Fatal(err)
				}
				fill(t, dir, map[string]string{".git/objects/": ""})
			}
			hostile := strings.NewReplacer("PROGRAM", program, "HOOKS", gate)
			fill(t, dir, map[string]string{
				".git/config": "[core]\n\tbare = false\n" + hostile.Replace(c.config),
				".git/more":   hostile.Replace("[core]\n\tfsmonitor = PROGRAM\n"),
				"new":         "2",
			})
			s, _ := open(t, Options{})
			var log bytes.Buffer
			w := Work{Dir: dir, Log: &log}
			rec, err := s.Save(t.Context(), Key{Job: "j"}, &pipeline.Artifacts{Untracked: true}, w, true)
			if err != nil || rec.Archive == nil || rec.Archive.Files != 1 {
				t.Errorf("%+v, %v\n%s", rec, err, log.String())
			}
			caches := []pipeline.Cache{{KeyCommits: []string{"tracked"}, Untracked: true}}
			for _, do := range []func() ([]CacheResult, error){
				func() ([]CacheResult, error) { return s.RestoreCaches(t.Context(), Scope{Project: "p"}, caches, w) },
				func() ([]CacheResult, error) { return s.SaveCaches(t.Context(), Scope{Project: "p"}, caches, w, true) },
			} {
				if _, err := do(); err != nil {
					t.Error(err)
				}
			}
			if _, err := Tracked(dir, Limits{}); err != nil {
				t.Error(err)
			}
			if what, err := os.ReadFile(ran); err == nil {
				t.Errorf("the job's program was run: %s", what)
			}
		})
	}
}

// The index is read as git writes it, in all its formats.
func TestIndexFormats(t *testing.T) {
	for _, c := range []struct {
		name string
		args [][]string
		want string // of the error; empty: none
	}{
		{name: "version 2"},
		{name: "version 3", args: [][]string{{"rm", "-q", "--cached", "a/b"}, {"add", "-N", "a/b"}}},
		{name: "version 4", args: [][]string{{"update-index", "--index-version", "4"}}},
		{name: "an untracked cache", args: [][]string{{"update-index", "--force-untracked-cache"}, {"status"}}},
		{name: "split", args: [][]string{{"update-index", "--split-index"}}, want: "split or sparse"},
	} {
		t.Run(c.name, func(t *testing.T) {
			dir := repository(t, map[string]string{"a/b": "1", "a/" + strings.Repeat("l", 200): "2", "a/bc": "3", "ä b": "4", "z": "5"})
			for _, args := range c.args {
				git(t, dir, args...)
			}
			got, err := Tracked(dir, Limits{})
			if c.want != "" {
				if err == nil || !strings.Contains(err.Error(), c.want) {
					t.Errorf("%q, %v", got, err)
				}
				return
			}
			want := strings.Split(strings.TrimSuffix(git(t, dir, "ls-files", "-z"), "\x00"), "\x00")
			if diff := cmp.Diff(want, got); diff != "" || err != nil {
				t.Errorf("%v (-want +got):\n%s", err, diff)
			}
		})
	}
	sha256 := t.TempDir()
	fill(t, sha256, map[string]string{"a": "1", "b/c": "2"})
	git(t, sha256, "init", "-q", "--object-format=sha256")
	git(t, sha256, "add", ".")
	if got, err := Tracked(sha256, Limits{}); err != nil || len(got) != 2 {
		t.Errorf("SHA-256: %q, %v", got, err)
	}
}

// What a job has made of its index is an error, never a crash, and never much memory.
func TestHostileIndex(t *testing.T) {
	index := func(version, count uint32, rest string) string {
		b := binary.BigEndian.AppendUint32([]byte("DIRC"), version)
		return string(binary.BigEndian.AppendUint32(b, count)) + rest + strings.Repeat("h", 20)
	}
	entry := func(rest string) string { return strings.Repeat("s", 60) + "\x00\x00" + rest }
	for name, c := range map[string]struct{ index, want string }{
		"empty":                  {"", "no index"},
		"not an index":           {strings.Repeat("x", 100), "no index"},
		"a version to come":      {index(5, 0, ""), "version 5"},
		"a count that lies":      {index(2, 400_000, entry("a\x00")), "no index"},
		"too many":               {index(2, 4_000_000_000, ""), "more than"},
		"cut off":                {index(2, 1, entry("name")), "no index"},
		"no name":                {index(2, 1, entry(strings.Repeat("\x00", 8))), "no index"},
		"more than there is":     {index(4, 1, entry("\x05name\x00")), "no index"},
		"a number without end":   {index(4, 1, entry("\xff\xff\xff\xff\xff\xffname\x00")), "no index"},
		"names that grow":        {index(4, 5000, strings.Repeat(entry("\x00a\x00"), 5000)), "no index"},
		"an extension that lies": {index(2, 0, "TREE\xff\xff\xff\xff"), "no index"},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			fill(t, dir, map[string]string{".git/": "", ".git/index": c.index})
			if got, err := Tracked(dir, Limits{}); err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("%d names, %v, want %s", len(got), err, c.want)
			}
		})
	}
	outside := repository(t, map[string]string{"secret-name": "1"})
	for name, link := range map[string][2]string{"a link to another repository": {filepath.Join(outside, ".git"), ".git"}, "a link to another index": {filepath.Join(outside, ".git/index"), ".git/index"}} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			fill(t, dir, map[string]string{filepath.Dir(link[1]) + "/": "", link[1]: "-> " + link[0]})
			if got, err := Tracked(dir, Limits{}); err == nil {
				t.Errorf("%q", got)
			}
		})
	}
}
