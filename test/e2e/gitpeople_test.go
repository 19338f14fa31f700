package e2e

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// TestGitAsPerson: people clone and push with their own tokens, as the cluster's roles let them; what they push is theirs, and a removed token is
// refused at once.
func TestGitAsPerson(t *testing.T) {
	const repository, namespace = "git-people", "git-people"
	shared.kubectl(t, "create", "namespace", namespace)
	t.Cleanup(func() { shared.kubectl(t, "delete", "namespace", namespace, "--wait=false") })
	shared.must(t, "git", "create", repository)
	apply(t, shared.Kubeconfig, fmt.Sprintf("apiVersion: keelson.dev/v1alpha1\nkind: Project\nmetadata: {name: shop, namespace: %s}\nspec: {repository: %s}\n", namespace, repository))
	apply(t, shared.Kubeconfig, `apiVersion: rbac.authorization.k8s.io/v1
kind: Role
metadata: {name: pushes, namespace: `+namespace+`}
rules:
- {apiGroups: [keelson.dev], resources: [projects], verbs: [get, push]}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: Role
metadata: {name: reads, namespace: `+namespace+`}
rules:
- {apiGroups: [keelson.dev], resources: [projects], verbs: [get]}
`)
	tokens := map[string]string{}
	for _, who := range []string{"git-ann", "git-bob", "git-eve"} {
		cmd := exec.CommandContext(t.Context(), filepath.Join(bin, "keelson"), "user", "add", who, "--password-stdin", "--data", shared.data)
		cmd.Stdin, cmd.Env = strings.NewReader("correct horse\n"), environment()
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("%v: %s", err, out)
		}
		t.Cleanup(func() { _ = shared.keelson("user", "remove", who) })
		var made struct{ Token string }
		if err := json.Unmarshal([]byte(shared.must(t, "user", "token", who, "--name", "git", "-o", "json")), &made); err != nil {
			t.Fatal(err)
		}
		tokens[who] = made.Token
	}
	shared.kubectl(t, "-n", namespace, "create", "rolebinding", "ann", "--role=pushes", "--user=git-ann")
	shared.kubectl(t, "-n", namespace, "create", "rolebinding", "bob", "--role=reads", "--user=git-bob")

	as := func(who string) string {
		u, err := url.Parse(shared.Dashboard)
		if err != nil {
			t.Fatal(err)
		}
		u.User, u.Path = url.UserPassword(who, tokens[who]), "/git/"+repository+".git"
		return u.String()
	}
	git := func(dir string, args ...string) (string, error) {
		config := []string{"-c", "user.name=Ann", "-c", "user.email=ann@example.com", "-c", "credential.helper="}
		if who, ok := strings.CutPrefix(args[0], "clone as "); ok { // reading is open on this machine, so git would not say who asks
			login := base64.StdEncoding.EncodeToString([]byte(who + ":" + tokens[who]))
			config = append(config, "-c", "http.extraHeader=Authorization: Basic "+login)
			args = append([]string{"clone", "-q", strings.TrimSuffix(shared.Dashboard, "/") + "/git/" + repository + ".git"}, args[1:]...)
		}
		cmd := exec.CommandContext(t.Context(), "git", append(config, args...)...)
		cmd.Dir, cmd.Env = dir, append(os.Environ(), "GIT_TERMINAL_PROMPT=0", "GIT_CONFIG_NOSYSTEM=1")
		out, err := cmd.CombinedOutput()
		return string(out), err
	}
	refused := func(says string, dir string, args ...string) {
		t.Helper()
		if out, err := git(dir, args...); err == nil || !strings.Contains(out, says) {
			t.Errorf("git %s: %v %s, and not %q", args[0], err, out, says)
		}
	}
	dir := t.TempDir()
	eventually(t, "the role counts", func() error {
		out, err := git("", "clone as git-ann", dir)
		if err != nil {
			return fmt.Errorf("%w: %s", err, out)
		}
		return nil
	})
	write(t, filepath.Join(dir, ".gitlab-ci.yml"), "hello:\n  script: [echo hello]\n")
	for _, args := range [][]string{{"checkout", "-q", "-B", "main"}, {"add", "."}, {"commit", "-qm", "First"}, {"push", "-q", as("git-ann"), "HEAD:main"}} {
		if out, err := git(dir, args...); err != nil {
			t.Fatalf("git %s: %v %s", args[0], err, out)
		}
	}
	refused("git-bob may not push projects.keelson.dev", dir, "push", as("git-bob"), "HEAD:main")
	refused("403", "", "clone as git-eve", t.TempDir())
	if out, err := git("", "clone as git-bob", t.TempDir()); err != nil {
		t.Errorf("%v %s", err, out)
	}

	// It is her push: in the audit, and in the pipeline that came of it. His is there too, as refused.
	eventually(t, "the pushes are recorded", func() error {
		var list struct {
			Records []struct{ Actor, Action, Outcome string }
		}
		if err := json.Unmarshal([]byte(shared.must(t, "audit", "list", "-o", "json", "--object", "repository/"+repository)), &list); err != nil {
			return err
		}
		if got, want := fmt.Sprint(list.Records), "[{git-bob git.push refused} {git-ann git.push done}]"; got != want {
			return fmt.Errorf("%s, want %s", got, want)
		}
		var all struct{ Pipelines []struct{ User string } }
		if err := json.Unmarshal([]byte(shared.must(t, "ci", "pipelines", "--project", repository, "-o", "json")), &all); err != nil {
			return err
		}
		if len(all.Pipelines) == 0 || all.Pipelines[0].User != "git-ann" {
			return fmt.Errorf("%+v", all.Pipelines)
		}
		return nil
	})

	shared.must(t, "user", "tokens", "git-ann", "--remove", "git")
	refused("Authentication failed", dir, "push", as("git-ann"), "HEAD:other")
	refused("could not read Username", "", "clone as git-ann", t.TempDir()) // git was told 401, and asks for another login
}
