package e2e

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func TestUpPrintsWhereItIsAndIsIdempotent(t *testing.T) {
	before := *shared
	start := time.Now()
	r := shared.up("--port", "0")
	if r.code != 0 {
		t.Fatal(r.err)
	}
	if took := time.Since(start); took > 10*time.Second {
		t.Errorf("up on a running instance took %s", took)
	}
	var last map[string]string
	if err := json.Unmarshal([]byte(strings.TrimSpace(r.out)), &last); err != nil {
		t.Fatal(err)
	}
	if !strings.HasPrefix(last["login"], before.Dashboard+"login?token=") {
		t.Errorf("the login link is %s", last["login"])
	}
	delete(last, "login") // it is a new one each time
	want := map[string]string{"dashboard": before.Dashboard, "git": before.Git, "kubeconfig": before.Kubeconfig, "token": before.Token, "registry": before.Registry}
	if diff := cmp.Diff(want, last); diff != "" {
		t.Errorf("the second up (-first +second):\n%s", diff)
	}
	contains(t, shared.must(t, "up"), before.Dashboard, before.Kubeconfig)
	if text := shared.must(t, "up"); strings.Contains(text, before.Token) {
		t.Errorf("up prints the token for people to see:\n%s", text)
	}
}

func TestEverythingIsReady(t *testing.T) {
	out := shared.kubectl(t, "get", "gitrepositories,kustomizations", "-A", "--no-headers",
		"-o", `custom-columns=KIND:.kind,NAME:.metadata.name,READY:.status.conditions[?(@.type=="Ready")].status`)
	got := map[string]string{}
	for line := range strings.Lines(out) {
		f := strings.Fields(line)
		got[f[0]+"/"+f[1]] = f[2]
	}
	want := map[string]string{
		"GitRepository/sample": "True", "Kustomization/cluster": "True", "Kustomization/infrastructure": "True",
		"Kustomization/dev": "True", "Kustomization/staging": "True", "Kustomization/production": "True",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("Ready (-want +got):\n%s", diff)
	}
	for name, columns := range map[string][]string{
		"apps":    {"STATE", "REVISION", "MESSAGE", "infrastructure", "production", "Ready"},
		"sources": {"STATE", "REVISION", "MESSAGE", "sample", "Ready"},
	} {
		contains(t, shared.must(t, "get", name), columns...)
	}
	contains(t, shared.must(t, "get", "apps", "-o", "wide"), "SOURCE", "PATH", "OBJECTS", "GitRepository/flux-system/sample", "overlays/dev")
	contains(t, shared.must(t, "get", "sources", "-o", "wide"), "URL", "REF", "/git/sample.git", "main")
	contains(t, shared.must(t, "get", "apps", "-o", "yaml"), "apps:\n", "name: dev\n", "state: Ready\n")
	var list struct {
		Sources []struct{ Kind, Name, State, URL, Revision string }
	}
	if err := json.Unmarshal([]byte(shared.must(t, "get", "sources", "-o", "json")), &list); err != nil {
		t.Fatal(err)
	}
	if len(list.Sources) != 1 || list.Sources[0].State != "Ready" || !strings.HasPrefix(list.Sources[0].Revision, "main@sha1:") {
		t.Errorf("get sources -o json: %+v", list)
	}
	fails(t, shared.keelson("get", "apps", "-o", "xml"), 2, "xml", "json, yaml, wide")
	fails(t, shared.keelson("reconcile", "nosuchapp"), 1, "nosuchapp", "hint: ")
}

var tag = regexp.MustCompile(`newName: ghcr.io/stefanprodan/podinfo\n\s+newTag: (\S+)`)

// backendTag reads which version of the backend an overlay wants.
func backendTag(t *testing.T, c clone, overlay string) string {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(c.dir, "overlays", overlay, "kustomization.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	m := tag.FindSubmatch(b)
	if m == nil {
		t.Fatalf("the %s overlay names no tag of the backend:\n%s", overlay, b)
	}
	return string(m[1])
}

func TestPushIsLive(t *testing.T) {
	c := cloneOf(t, shared.Git+"/sample.git")
	c.replace("overlays/dev/kustomization.yaml", "newTag: "+backendTag(t, c, "dev"), "newTag: 7.0.0-push")
	commit := c.push("Move the backend to 7.0.0")
	image(t, shared.Kubeconfig, "dev", "backend", "ghcr.io/stefanprodan/podinfo:7.0.0-push")
	contains(t, shared.must(t, "reconcile", "dev", "--with-source"), "flux-system/dev is Ready", commit[:7])
	contains(t, shared.must(t, "events", "dev"), "Deployment/dev/backend configured")
	var status struct{ State, Revision string }
	if err := json.Unmarshal([]byte(shared.must(t, "reconcile", "flux-system/dev", "-o", "json")), &status); err != nil {
		t.Fatal(err)
	}
	if status.State != "Ready" || status.Revision != "main@sha1:"+commit {
		t.Errorf("reconcile says %+v, want Ready at %s", status, commit)
	}
	if got := backendTag(t, c, "staging"); strings.Contains(got, "push") {
		t.Errorf("staging wants %s: the change was for dev", got)
	}
}

func TestDeletedObjectIsBack(t *testing.T) {
	uid := func() string {
		r := tryKubectl(shared.Kubeconfig, "-n", "dev", "get", "deployment", "frontend", "-o", "jsonpath={.metadata.uid}")
		return r.out
	}
	before := uid()
	shared.kubectl(t, "-n", "dev", "delete", "deployment", "frontend")
	eventually(t, "a new Deployment", func() error {
		if now := uid(); now == "" || now == before {
			return fmt.Errorf("its uid is %q, that of the deleted one %q", now, before)
		}
		return nil
	})
	eventually(t, "an event that says why", func() error {
		out := shared.must(t, "events")
		if !strings.Contains(out, "DriftRepaired") || !strings.Contains(out, "Deployment/dev/frontend repaired: it was deleted in the cluster") {
			return fmt.Errorf("none in:\n%s", out)
		}
		return nil
	})
}

func TestSuspendDiffResume(t *testing.T) {
	contains(t, shared.must(t, "diff", "dev"), "0 of 8 objects differ")
	contains(t, shared.must(t, "suspend", "dev"), "suspended")
	resumed := false
	defer func() {
		if !resumed {
			shared.keelson("resume", "dev")
		}
	}()
	contains(t, shared.must(t, "get", "apps"), "Suspended")
	shared.kubectl(t, "-n", "dev", "set", "image", "deployment/frontend", "frontend=rogue:1")
	shared.kubectl(t, "-n", "dev", "delete", "service", "backend")
	r := shared.keelson("diff", "dev")
	if r.code != 4 {
		t.Errorf("diff ended with %d, want 4: %s", r.code, r.err)
	}
	contains(t, r.out, "-        image: rogue:1", "Service/dev/backend", "2 of 8 objects differ")
	fails(t, shared.keelson("reconcile", "dev"), 1, "suspended", "hint: keelson resume dev")
	if got := shared.kubectl(t, "-n", "dev", "get", "deployment", "frontend", "-o", "jsonpath={..image}"); got != "rogue:1" {
		t.Errorf("the suspended app's image is %q, want the edit kept", got)
	}
	contains(t, shared.must(t, "resume", "dev"), "resumed")
	resumed = true
	eventually(t, "repair of what was changed meanwhile", func() error {
		if r := shared.keelson("diff", "dev"); r.code != 0 {
			return fmt.Errorf("diff ends with %d:\n%s%s", r.code, r.out, r.err)
		}
		return nil
	})
}

func TestFolders(t *testing.T) {
	c := cloneOf(t, shared.Git+"/sample.git")
	dev := filepath.Join(c.dir, "overlays", "dev")
	rendered := shared.must(t, "render", "--path", dev)
	contains(t, rendered, "kind: Deployment", "kind: StatefulSet", "namespace: dev", backendTag(t, c, "dev"))
	var list struct{ Items []map[string]any }
	if err := json.Unmarshal([]byte(shared.must(t, "render", "--path", dev, "-o", "json")), &list); err != nil || len(list.Items) != 8 {
		t.Errorf("render -o json: %d objects, want 8: %v", len(list.Items), err)
	}
	write(t, filepath.Join(c.dir, "extra", "objects.yaml"), `
apiVersion: v1
kind: Secret
metadata: {name: extra, namespace: dev}
stringData: {password: not-to-be-seen}
`)
	r := shared.keelson("diff", "--path", filepath.Join(c.dir, "extra"))
	if r.code != 4 || strings.Contains(r.out, "not-to-be-seen") {
		t.Errorf("diff --path of a new Secret ended with %d:\n%s%s", r.code, r.out, r.err)
	}
	contains(t, r.out, "Secret/dev/extra", "1 of 1 objects differ")
	write(t, filepath.Join(c.dir, "broken", "objects.yaml"), "apiVersion: v1\nkind: ConfigMap\n  metadata: {}\n")
	fails(t, shared.keelson("render", "--path", filepath.Join(c.dir, "broken")), 1, "broken/objects.yaml:")
	fails(t, shared.keelson("diff"), 2, "hint: ")
}

// TestDiffOfAnAppsOwnFolder: a clone at the delivered commit is what the cluster has.
func TestDiffOfAnAppsOwnFolder(t *testing.T) {
	c := cloneOf(t, shared.Git+"/sample.git")
	dev := filepath.Join(c.dir, "overlays", "dev")
	contains(t, shared.must(t, "diff", "--path", dev), "0 of 8 objects differ")
	c.replace("overlays/dev/kustomization.yaml", backendTag(t, c, "dev"), "9.9.9")
	r := shared.keelson("diff", "--path", dev)
	if r.code != 4 {
		t.Errorf("diff --path ended with %d, want 4: %s", r.code, r.err)
	}
	contains(t, r.out, "+        image: ghcr.io/stefanprodan/podinfo:9.9.9", "1 of 8 objects differ")
}

func TestGitHost(t *testing.T) {
	url := strings.TrimSpace(shared.must(t, "git", "create", "team/shop"))
	contains(t, shared.must(t, "git", "list"), "team/shop", "sample")
	fails(t, shared.keelson("git", "create", "team/shop"), 1, "exists already")
	fails(t, shared.keelson("git", "create", "../escape"), 2, "bad repository name")

	c := cloneOf(t, shared.Git+"/team/shop.git")
	write(t, filepath.Join(c.dir, "README.md"), "shop\n")
	commit := c.push("Begin")
	other := cloneOf(t, url) // reading needs no token on this machine
	if got := other.git("rev-parse", "origin/main"); got != commit {
		t.Errorf("a clone without the token has %s, want %s", got, commit)
	}
	write(t, filepath.Join(other.dir, "README.md"), "robbed\n")
	other.commit("Try without the token")
	wrong := strings.Replace(shared.Git, shared.Token, "wrong-token", 1) + "/team/shop.git"
	for name, to := range map[string]string{"no token": url, "a wrong token": wrong} {
		if r := program(other.dir, "git", "push", to, "HEAD:main"); r.code == 0 {
			t.Errorf("a push with %s was taken: %s", name, r.err)
		}
	}
	if got := strings.Fields(c.git("ls-remote", "origin", "refs/heads/main"))[0]; got != commit {
		t.Errorf("main is %s after refused pushes, want %s", got, commit)
	}
}
