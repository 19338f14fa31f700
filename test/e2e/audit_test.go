package e2e

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// auditShown is what "keelson audit list -o json" tells.
type auditShown struct {
	Records []struct {
		Seq                                                                   int64
		Actor, Action, Object, Project, Environment, Outcome, Detail, Address string
	}
}

func (in *instance) audit(t *testing.T, args ...string) (out []string) {
	t.Helper()
	var list auditShown
	if err := json.Unmarshal([]byte(in.must(t, append([]string{"audit", "list", "-o", "json"}, args...)...)), &list); err != nil {
		t.Fatal(err)
	}
	for _, r := range list.Records {
		out = append(out, fmt.Sprintf("%s %s %s %s", r.Action, r.Object, r.Project, r.Outcome))
	}
	return out
}

// TestAudit: a push and a job that is played are in the audit, which verifies, as does its export; a byte that is flipped in the database of a
// stopped instance is found, and so is an end that is cut off.
func TestAudit(t *testing.T) {
	t.Parallel()
	in := &instance{data: filepath.Join(t.TempDir(), "audited")}
	ok(t, in.up("--port", "0"), nil)
	t.Cleanup(func() { in.keelson("down", "--purge") })
	in.must(t, "git", "create", "audited")
	c := cloneOf(t, in.Git+"/audited.git")
	write(t, filepath.Join(c.dir, ".gitlab-ci.yml"), "gate: {script: ['true'], when: manual, environment: production}\nnext: {script: ['true'], needs: [gate]}\n")
	c.git("add", "-A")
	c.git("commit", "-qm", "A gate")
	c.git("push", "-q", "origin", "HEAD:main")
	id := in.newest(t, "audited", 1)
	in.must(t, "ci", "play", fmt.Sprint(id), "gate")
	in.shown(t, id, "success: gate/1=success next/1=success")
	fails(t, in.keelson("ci", "play", fmt.Sprint(id), "next"), 1, "neither manual nor delayed")

	gate, next := fmt.Sprintf("pipeline.play pipeline/%d/gate audited ", id), fmt.Sprintf("pipeline.play pipeline/%d/next audited ", id)
	if got, want := in.audit(t, "--project", "audited"), []string{next + "refused", next + "asked", gate + "asked"}; strings.Join(got, "\n") != strings.Join(want, "\n") {
		t.Errorf("have %q\nwant %q", got, want)
	}
	if got := in.audit(t, "--object", "repository/audited"); len(got) != 1 || got[0] != "git.push repository/audited  done" {
		t.Errorf("%q", got)
	}
	in.must(t, "suspend", "dev")
	in.must(t, "resume", "dev")
	eventually(t, "the audit of what was seen in the cluster", func() error {
		got := strings.Join(in.audit(t, "--action", "app.*"), "; ")
		if !strings.Contains(got, "app.suspend Kustomization/") || !strings.Contains(got, "app.resume Kustomization/") {
			return fmt.Errorf("%s", got)
		}
		return nil
	})
	contains(t, in.must(t, "audit", "search", "refs/heads/main created"), "repository/audited", "127.0.0.1")
	if got := in.audit(t, "--environment", "production", "--from", "1h"); len(got) != 1 {
		t.Errorf("%q", got)
	}
	contains(t, in.must(t, "audit", "verify"), "Records 1 to ")
	export := in.must(t, "audit", "export")
	file := filepath.Join(t.TempDir(), "audit.jsonl")
	write(t, file, export)
	contains(t, in.must(t, "audit", "verify", "--file", file), "Records 1 to ")

	in.must(t, "down") // makes the last checkpoint
	key := strings.TrimSpace(in.must(t, "audit", "key"))
	witness := filepath.Join(in.data, "git", "keelson", "audit.git")
	sound := in.must(t, "audit", "verify", "--key", key, "--repository", witness)
	contains(t, sound, "are as they were written", "checkpoints agree")

	database := filepath.Join(in.data, "ci", "store.db")
	whole, err := os.ReadFile(database)
	if err != nil {
		t.Fatal(err)
	}
	at := bytes.Index(whole, []byte("refs/heads/main created"))
	if at < 0 {
		t.Fatal("the push is not in the file")
	}
	flipped := bytes.Clone(whole)
	flipped[at] ^= 0x20
	if err := os.WriteFile(database, flipped, 0o600); err != nil {
		t.Fatal(err)
	}
	var pushed auditShown
	if err := json.Unmarshal([]byte(in.must(t, "audit", "list", "-o", "json", "--object", "repository/audited")), &pushed); err != nil {
		t.Fatal(err)
	}
	fails(t, in.keelson("audit", "verify"), 1, fmt.Sprintf("record %d: it, or what is before it, was changed", pushed.Records[0].Seq), "docs/audit.md")
	fails(t, in.keelson("audit", "verify", "-o", "json"), 1, "was changed")

	if err := os.WriteFile(database, whole, 0o600); err != nil {
		t.Fatal(err)
	}
	contains(t, in.must(t, "audit", "verify"), "are as they were written")
	short := strings.Split(export, "\n")
	fails(t, in.keelson("audit", "verify", "--file", file, "--repository", filepath.Join(in.data, "nosuch")), 1, "witness")
	write(t, file, strings.Join(short[:len(short)-2], "\n")+"\n")
	fails(t, in.keelson("audit", "verify", "--file", file), 1, "the export has no end")

	// Who is forgotten has no name any more, and the chain is as it was.
	me := pushed.Records[0].Actor
	contains(t, in.must(t, "audit", "erase", me), "is forgotten")
	if got := in.must(t, "audit", "list", "--object", "repository/audited"); strings.Contains(got, " "+me+" ") || !strings.Contains(got, "p_") {
		t.Errorf("%s", got)
	}
	contains(t, in.must(t, "audit", "verify"), "are as they were written")
	ok(t, in.up(), nil)
	contains(t, in.must(t, "audit", "verify"), "are as they were written")
}
