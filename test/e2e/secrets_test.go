package e2e

import (
	"encoding/base64"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// Values that nobody but the cluster's Secrets and the repository may ever show.
var secretValues = []string{
	remotePassword, "wrong-horse-staple", "hunter2-immutable", "hunter3-changed", "hunter4-not-base64", "hunter5-malformed",
	"hunter6-drift", "hunter8-list",
}

// TestNoSecretIsShown makes everything go wrong that could quote a secret, and then looks everywhere.
func TestNoSecretIsShown(t *testing.T) {
	git := newRemote(t)
	c := git.create(t, "vault", "testdata/first")
	secret := func(folder, rest string) {
		write(t, filepath.Join(c.dir, folder, "secret.yaml"), "apiVersion: v1\nkind: Secret\nmetadata: {name: "+folder+"}\n"+rest)
	}
	secret("immutable", "immutable: true\nstringData: {password: hunter2-immutable}\n")
	secret("encoding", "data: {password: \"hunter4-not-base64!\"}\n")
	secret("malformed", "stringData:\n  password: hunter5-malformed: no\n   key: value\n")
	secret("drift", "stringData: {password: hunter6-drift}\n")
	secret("list", "stringData: {password: [hunter8-list]}\n")
	c.push("Add secrets")
	withUser := func(password string) string {
		return strings.Replace(git.url, "://", "://"+remoteUser+":"+password+"@", 1) + "/vault.git"
	}
	manifest := fmt.Sprintf(`
apiVersion: v1
kind: Namespace
metadata: {name: vault}
---
apiVersion: source.toolkit.fluxcd.io/v1
kind: GitRepository
metadata: {name: vault, namespace: vault}
spec: {interval: 1h, url: %q, ref: {branch: main}}
---
apiVersion: source.toolkit.fluxcd.io/v1
kind: GitRepository
metadata: {name: refused, namespace: vault}
spec: {interval: 1h, url: %q, ref: {branch: main}}
---
apiVersion: source.toolkit.fluxcd.io/v1
kind: GitRepository
metadata: {name: unreachable, namespace: vault}
spec: {interval: 1h, url: "http://reader:%s@127.0.0.1:1/vault.git", ref: {branch: main}}
`, withUser(remotePassword), withUser("wrong-horse-staple"), remotePassword)
	apps := map[string]string{ // and the reason of their Ready condition
		"immutable": "ReconciliationSucceeded", "drift": "ReconciliationSucceeded", "encoding": "ReconciliationFailed",
		"malformed": "BuildFailed", "list": "",
	}
	for app := range apps {
		manifest += fmt.Sprintf(`---
apiVersion: kustomize.toolkit.fluxcd.io/v1
kind: Kustomization
metadata: {name: %s, namespace: vault}
spec:
  interval: 1h
  path: %s
  prune: true
  targetNamespace: vault
  sourceRef: {kind: GitRepository, name: vault}
`, app, app)
	}
	apply(t, shared.Kubeconfig, manifest)
	t.Cleanup(func() { emptyVault(t) })
	for app, reason := range apps {
		vaultReason(t, "kustomization", app, reason)
	}
	vaultReason(t, "gitrepository", "refused", "AuthenticationFailed")
	vaultReason(t, "gitrepository", "unreachable", "GitOperationFailed")

	secret("immutable", "immutable: true\nstringData: {password: hunter3-changed}\n")
	c.push("Change what cannot be changed")
	shared.keelson("reconcile", "immutable", "--with-source")
	vaultReason(t, "kustomization", "immutable", "ImmutableField")
	shared.kubectl(t, "-n", "vault", "patch", "secret", "drift", "-p", `{"stringData":{"password":"hunter9"}}`)
	eventually(t, "repair of the edited Secret", func() error {
		if out := shared.must(t, "events", "drift"); !strings.Contains(out, "DriftRepaired") {
			return fmt.Errorf("no event:\n%s", out)
		}
		return nil
	})

	shown := everythingShown(t)
	for app := range apps {
		for what, r := range map[string]result{
			"diff ": shared.keelson("diff", app), "render ": shared.keelson("render", "--path", filepath.Join(c.dir, app)),
		} {
			shown[what+app] = r.out + r.err
		}
	}
	showsNone(t, shown, append(secretValues, shared.Token)...)
}

// TestVariablesFromSecretsAreNotShown: the API server quotes the value that it refuses; it came from a Secret.
func TestVariablesFromSecretsAreNotShown(t *testing.T) {
	shared.must(t, "git", "create", "variables")
	c := cloneOf(t, shared.Git+"/variables.git")
	write(t, filepath.Join(c.dir, "map.yaml"), "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: variable}\ndata: {\"a ${PASSWORD}\": x}\n")
	c.push("Use a variable where it does not fit")
	apply(t, shared.Kubeconfig, fmt.Sprintf(`
apiVersion: v1
kind: Namespace
metadata: {name: vault}
---
apiVersion: v1
kind: Secret
metadata: {name: variables, namespace: vault}
stringData: {PASSWORD: hunter7-variable}
---
apiVersion: source.toolkit.fluxcd.io/v1
kind: GitRepository
metadata: {name: variables, namespace: vault}
spec: {interval: 1h, url: %q, ref: {branch: main}}
---
apiVersion: kustomize.toolkit.fluxcd.io/v1
kind: Kustomization
metadata: {name: variable, namespace: vault}
spec:
  interval: 1h
  path: .
  prune: true
  targetNamespace: vault
  sourceRef: {kind: GitRepository, name: variables}
  postBuild: {substituteFrom: [{kind: Secret, name: variables}]}
`, shared.Dashboard+"git/variables.git"))
	t.Cleanup(func() { emptyVault(t) })
	vaultReason(t, "kustomization", "variable", "ReconciliationFailed")
	shown := everythingShown(t)
	r := shared.keelson("diff", "variable")
	shown["diff"] = r.out + r.err
	showsNone(t, shown, "hunter7-variable")
}

// everythingShown reads all that Keelson shows of an instance, by where it is shown.
func everythingShown(t *testing.T) map[string]string {
	t.Helper()
	log, err := os.ReadFile(filepath.Join(shared.data, "logs", "keelson.log"))
	if err != nil {
		t.Fatal(err)
	}
	return map[string]string{
		"the daemon's log":     string(log),
		"kubectl get events":   shared.kubectl(t, "get", "events", "-A", "-o", "yaml"),
		"the statuses":         shared.kubectl(t, "get", "kustomizations,gitrepositories", "-A", "-o", "jsonpath={.items[*].status}"),
		"the dashboard":        fetch(t, shared.Dashboard, shared.Token),
		"the dashboard's data": fetch(t, shared.Dashboard+"api/apps", shared.Token) + fetch(t, shared.Dashboard+"api/sources", shared.Token),
		"get":                  shared.must(t, "get", "apps", "-o", "json") + shared.must(t, "get", "sources", "-o", "json"),
		"get -o wide":          shared.must(t, "get", "apps", "-o", "wide") + shared.must(t, "get", "sources", "-o", "wide"),
		"events":               shared.must(t, "events", "-o", "json"),
	}
}

// showsNone looks for values, as they are and in base64.
func showsNone(t *testing.T, shown map[string]string, values ...string) {
	t.Helper()
	for where, text := range shown {
		for _, value := range values {
			for _, form := range []string{value, base64.StdEncoding.EncodeToString([]byte(value))} {
				if i := strings.Index(text, form); i >= 0 {
					t.Errorf("%s shows %q: …%s…", where, value, text[max(0, i-200):min(len(text), i+100)])
				}
			}
		}
	}
}

// emptyVault removes what the tests of secrets have declared.
func emptyVault(t *testing.T) {
	t.Helper()
	shared.kubectl(t, "-n", "vault", "delete", "kustomizations,gitrepositories", "--all", "--timeout=60s")
	shared.kubectl(t, "delete", "namespace", "vault", "--timeout=60s")
}

// vaultReason waits until an object's Ready condition has a reason; an empty one: any final one.
func vaultReason(t *testing.T, kind, name, reason string) {
	t.Helper()
	eventually(t, kind+" "+name+" to be "+reason, func() error {
		r := tryKubectl(shared.Kubeconfig, "-n", "vault", "get", kind, name, "-o",
			`jsonpath={.status.conditions[?(@.type=="Ready")].reason}: {.status.conditions[?(@.type=="Ready")].message}`)
		got, _, _ := strings.Cut(r.out, ": ")
		if got != reason && (reason != "" || got == "" || got == "Progressing") {
			return fmt.Errorf("it is %q %s", r.out, r.err)
		}
		return nil
	})
}
