package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"
)

// TestAnotherCluster delivers from the instance to a second cluster by a kubeconfig in a Secret, and compares with it.
func TestAnotherCluster(t *testing.T) {
	there := bareCluster(t)
	config, err := os.ReadFile(there)
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "value")
	write(t, file, string(config))
	shared.must(t, "git", "create", "elsewhere")
	c := cloneOf(t, shared.Git+"/elsewhere.git")
	manifest := func(value string) {
		write(t, filepath.Join(c.dir, "map.yaml"), "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: settings, namespace: elsewhere}\ndata: {v: "+value+"}\n")
	}
	manifest("one")
	write(t, filepath.Join(c.dir, "namespace.yaml"), "apiVersion: v1\nkind: Namespace\nmetadata: {name: elsewhere}\n")
	c.push("Begin")
	shared.kubectl(t, "create", "namespace", "fleet")
	shared.kubectl(t, "-n", "fleet", "create", "secret", "generic", "there", "--from-file="+file)
	app := fmt.Sprintf(`
apiVersion: source.toolkit.fluxcd.io/v1
kind: GitRepository
metadata: {name: elsewhere, namespace: fleet}
spec: {interval: 1h, url: %q, ref: {branch: main}}
---
apiVersion: kustomize.toolkit.fluxcd.io/v1
kind: Kustomization
metadata: {name: elsewhere, namespace: fleet}
spec:
  interval: 1h
  path: .
  prune: true
  kubeConfig: {secretRef: {name: there}}
  sourceRef: {kind: GitRepository, name: elsewhere}
`, shared.Dashboard+"git/elsewhere.git")
	apply(t, shared.Kubeconfig, app)
	value := func(want string) {
		t.Helper()
		eventually(t, "the value in the other cluster", func() error {
			r := tryKubectl(there, "-n", "elsewhere", "get", "configmap", "settings", "-o", "jsonpath={.data.v}")
			if r.out != want {
				return fmt.Errorf("it is %q, want %q (%s)", r.out, want, r.err)
			}
			return nil
		})
	}
	value("one")
	contains(t, shared.must(t, "diff", "elsewhere"), "0 of 2 objects differ")

	shared.must(t, "suspend", "elsewhere")
	manifest("two")
	c.push("Change")
	r := shared.keelson("diff", "elsewhere")
	if r.code != 4 {
		t.Errorf("diff ends with %d: %s%s", r.code, r.out, r.err)
	}
	contains(t, r.out, "-  v: one", "+  v: two", "1 of 2 objects differ")
	value("one")
	shared.must(t, "resume", "elsewhere")
	value("two")
	shared.kubectl(t, "-n", "fleet", "delete", "kustomization", "elsewhere", "--timeout=60s")
	if r := tryKubectl(there, "get", "namespace", "elsewhere", "-o", "jsonpath={.status.phase}"); r.out == "Active" {
		t.Error("the other cluster still has the app's namespace")
	}
}
