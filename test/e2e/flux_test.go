package e2e

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
)

// fluxVariable names the environment variable that points to a built flux program; without it make builds one.
const fluxVariable = "FLUX_BINARY"

// fluxProgram is the real flux program: Flux's own source, built with nothing of ours.
var fluxProgram = sync.OnceValues(func() (string, error) {
	if path := os.Getenv(fluxVariable); path != "" {
		return path, nil
	}
	build := exec.Command("make", "--silent", "flux")
	build.Dir = root()
	build.Stderr = os.Stderr
	out, err := build.Output()
	return strings.TrimSpace(string(out)), err
})

// tryFlux runs flux on the shared instance's cluster.
func tryFlux(t *testing.T, dir string, args ...string) result {
	t.Helper()
	path, err := fluxProgram()
	if err != nil {
		t.Fatalf("build flux: %v", err)
	}
	r := program(dir, path, append([]string{"--kubeconfig", shared.Kubeconfig, "--timeout", limit.String()}, args...)...)
	r.out += r.err // flux tells people on standard error what it does
	return r
}

// flux runs flux; it has to work.
func flux(t *testing.T, args ...string) string {
	t.Helper()
	return ok(t, tryFlux(t, "", args...), append([]string{"flux"}, args...))
}

// head is the commit that the sample's branch names.
func head(t *testing.T) string {
	t.Helper()
	out := ok(t, program("", "git", "ls-remote", shared.Git+"/sample.git", "refs/heads/main"), []string{"git", "ls-remote"})
	return strings.Fields(out)[0]
}

// settled waits until every app and source is ready at the newest commit.
func settled(t *testing.T) string {
	t.Helper()
	commit := head(t)
	eventually(t, "everything to be ready at "+commit, func() error {
		out := shared.kubectl(t, "get", "kustomizations", "-A", "-o", `jsonpath={range .items[*]}{.metadata.name} `+
			`{.status.lastAppliedRevision} {.status.conditions[?(@.type=="Ready")].status}{"\n"}{end}`)
		for line := range strings.Lines(out) {
			if f := strings.Fields(line); len(f) != 3 || f[1] != "main@sha1:"+commit || f[2] != "True" {
				return fmt.Errorf("it is %q", strings.TrimSpace(line))
			}
		}
		return nil
	})
	return commit
}

// TestFluxReads: what the flux program shows of Keelson's sources and apps is what it shows of Flux's.
func TestFluxReads(t *testing.T) {
	commit := settled(t)
	revision := "main@sha1:" + commit
	short := "main@sha1:" + commit[:8]
	cases := []struct {
		args string
		want []string
	}{
		{"get sources git -A", []string{"flux-system\tsample", short, "False", "True", "stored artifact for revision '" + short}},
		{"get kustomizations", []string{"dev", short, "False", "True", "Applied revision: " + short}},
		{"get kustomizations --status-selector ready=true", []string{"production"}},
		{"get all -A", []string{"gitrepository/sample", "kustomization/cluster", "kustomization/staging"}},
		{"get kustomization dev -o wide --no-header", nil},
		{"tree kustomization cluster", []string{
			"Kustomization/flux-system/cluster", "Kustomization/flux-system/dev", "Deployment/dev/backend", "Namespace/production",
		}},
		{"tree kustomization cluster --compact", []string{"├── Kustomization/flux-system/dev\n├── Kustomization/flux-system/infrastructure"}},
		{"trace deployment backend -n dev", []string{
			"Deployment/backend", "Managed by Flux", "Kustomization:   dev", "./overlays/dev", "Revision:        " + revision,
			"GitRepository:   sample", "Branch:          main", "Applied revision: " + revision, "Last reconciled at ",
		}},
		{"events", []string{"GitRepository/sample", "NewArtifact", "Kustomization/dev", "Deployment/dev/frontend created"}},
		{"events --for Kustomization/dev", []string{"Kustomization/dev"}},
		{"stats", []string{"GitRepository        \t1      \t0      \t0", "Kustomization        \t5      \t0      \t0"}},
		{"export kustomization dev", []string{"kind: Kustomization", "name: dev", "path: ./overlays/dev"}},
		{"export source git sample", []string{"kind: GitRepository", "branch: main"}},
		{"debug kustomization dev --show-status", []string{"lastAppliedRevision: " + revision, "id: dev_backend_apps_Deployment", "type: Ready"}},
		{"version --client", []string{"flux: v"}},
	}
	for _, tt := range cases {
		t.Run(tt.args, func(t *testing.T) {
			args := strings.Fields(tt.args)
			if tt.want == nil {
				if r := tryFlux(t, "", args...); r.code == 0 {
					t.Errorf("flux has learned %q; put it into the table:\n%s", tt.args, r.out)
				}
				return
			}
			contains(t, flux(t, args...), tt.want...)
		})
	}
	pod := strings.TrimSpace(shared.kubectl(t, "-n", "dev", "get", "pods", "-l", "app=backend", "-o", "name"))
	pod, _, _ = strings.Cut(pod, "\n")
	contains(t, flux(t, "trace", pod, "-n", "dev"), "Managed by Flux", "Kustomization:   dev")
}

// TestFluxActs: what the flux program asks for is done, and it sees that.
func TestFluxActs(t *testing.T) {
	commit := settled(t)
	fetched := "fetched revision main@sha1:" + commit
	contains(t, flux(t, "reconcile", "source", "git", "sample"), "GitRepository annotated", fetched)
	contains(t, flux(t, "reconcile", "kustomization", "dev", "--with-source"), fetched, "applied revision main@sha1:"+commit)

	contains(t, flux(t, "suspend", "kustomization", "dev"), "kustomization suspended")
	shared.kubectl(t, "-n", "dev", "delete", "service", "backend")
	contains(t, flux(t, "get", "kustomization", "dev", "--no-header"), "\tTrue\tTrue\t") // suspended, and ready when it was
	if r := tryKubectl(shared.Kubeconfig, "-n", "dev", "get", "service", "backend"); r.code == 0 {
		t.Error("a suspended app repairs")
	}
	contains(t, flux(t, "resume", "kustomization", "dev"), "Kustomization dev reconciliation completed", "applied revision main@sha1:"+commit)
	shared.kubectl(t, "-n", "dev", "get", "service", "backend")

	contains(t, flux(t, "suspend", "source", "git", "sample"), "source git suspended")
	contains(t, flux(t, "get", "sources", "git", "sample", "--no-header"), "\tTrue\tTrue\t")
	contains(t, flux(t, "resume", "source", "git", "sample"), "GitRepository sample reconciliation completed", fetched)
}

// TestFluxDiff: Flux's own comparison with the cluster finds nothing to say about what Keelson has applied, and finds a change.
func TestFluxDiff(t *testing.T) {
	settled(t)
	c := cloneOf(t, shared.Git+"/sample.git")
	diff := []string{"diff", "kustomization", "dev", "--path", "./overlays/dev", "--progress-bar=false"}
	if r := tryFlux(t, c.dir, diff...); r.code != 0 || strings.Contains(r.out, "drifted") {
		t.Errorf("diff of what is applied ended with %d:\n%s", r.code, r.out)
	}
	contains(t, ok(t, tryFlux(t, c.dir, "build", "kustomization", "dev", "--path", "./overlays/dev"), []string{"build"}),
		"kustomize.toolkit.fluxcd.io/name: dev", "kind: StatefulSet")
	c.replace("overlays/dev/kustomization.yaml", backendTag(t, c, "dev"), "9.9.9-flux")
	r := tryFlux(t, c.dir, diff...)
	if r.code != 1 {
		t.Errorf("diff of a change ended with %d, want 1:\n%s", r.code, r.out)
	}
	contains(t, r.out, "Deployment/dev/backend drifted", "+ ghcr.io/stefanprodan/podinfo:9.9.9-flux")
}

// TestFluxCreatesAndDeletes: flux declares a source and an app, waits for both, and takes them away with what they own.
func TestFluxCreatesAndDeletes(t *testing.T) {
	url := strings.TrimSpace(shared.must(t, "git", "create", "team/flux"))
	c := cloneOf(t, shared.Git+"/team/flux.git")
	write(t, filepath.Join(c.dir, "app", "objects.yaml"), `
apiVersion: apps/v1
kind: Deployment
metadata: {name: made-by-flux, namespace: default}
spec:
  selector: {matchLabels: {app: made-by-flux}}
  template:
    metadata: {labels: {app: made-by-flux}}
    spec: {containers: [{name: web, image: "nginx:1.29"}]}
`)
	commit := c.push("Begin")
	t.Cleanup(func() {
		for _, kind := range []string{"kustomization", "gitrepository"} {
			tryKubectl(shared.Kubeconfig, "-n", "flux-system", "delete", kind, "made", "--ignore-not-found")
		}
	})
	contains(t, flux(t, "create", "source", "git", "made", "--url", url, "--branch", "main", "--interval", "10m"),
		"GitRepository source created", "fetched revision: main@sha1:"+commit)
	contains(t, flux(t, "create", "kustomization", "made", "--source", "GitRepository/made", "--path", "./app", "--prune", "--wait", "--interval", "10m"),
		"Kustomization created", "Kustomization made is ready", "applied revision main@sha1:"+commit)
	shared.kubectl(t, "-n", "default", "rollout", "status", "deployment/made-by-flux", "--timeout", limit.String())
	contains(t, flux(t, "tree", "kustomization", "made"), "Deployment/default/made-by-flux")
	contains(t, flux(t, "delete", "kustomization", "made", "--silent"), "kustomization deleted")
	eventually(t, "end of what the app owned", func() error {
		if r := tryKubectl(shared.Kubeconfig, "-n", "default", "get", "deployment", "made-by-flux"); r.code == 0 {
			return fmt.Errorf("it is there: %s", r.out)
		}
		return nil
	})
	contains(t, flux(t, "delete", "source", "git", "made", "--silent"), "source git deleted")
}

// TestFluxSeesFailure: flux gives up on an app that cannot be built, and shows what Keelson says about it.
func TestFluxSeesFailure(t *testing.T) {
	url := strings.TrimSpace(shared.must(t, "git", "create", "team/broken"))
	c := cloneOf(t, shared.Git+"/team/broken.git")
	write(t, filepath.Join(c.dir, "app", "objects.yaml"), "apiVersion: v1\nkind: ConfigMap\n  metadata: {}\n")
	c.push("Begin")
	t.Cleanup(func() {
		flux(t, "delete", "kustomization", "broken", "--silent")
		flux(t, "delete", "source", "git", "broken", "--silent")
	})
	flux(t, "create", "source", "git", "broken", "--url", url, "--branch", "main", "--interval", "10m")
	// As with Flux: what the controller will try again is under way for the flux program, so it waits until its time is over.
	late := "context deadline exceeded"
	r := tryFlux(t, "", "create", "kustomization", "broken", "--source", "GitRepository/broken", "--path", "./app", "--prune", "--interval", "10m", "--timeout", "5s")
	if r.code != 1 || !strings.Contains(r.out, late) {
		t.Errorf("create of a broken app ended with %d, want 1 and %q:\n%s", r.code, late, r.out)
	}
	contains(t, flux(t, "get", "kustomization", "broken", "--no-header"), "False", "app/objects.yaml:3")
	contains(t, flux(t, "stats"), "Kustomization        \t6      \t1      \t0")
	contains(t, flux(t, "events", "--for", "Kustomization/broken"), "BuildFailed", "app/objects.yaml:3")
	if r := tryFlux(t, "", "reconcile", "kustomization", "broken", "--timeout", "5s"); r.code != 1 || !strings.Contains(r.out, late) {
		t.Errorf("reconcile of a broken app ended with %d, want 1 and %q:\n%s", r.code, late, r.out)
	}
	var o struct {
		Healthy bool
		Failing []struct{ Name, Reason, Message, Hint string }
	}
	s := shared.keelson("status", "-o", "json")
	if err := json.Unmarshal([]byte(s.out), &o); err != nil || s.code != 1 {
		t.Fatalf("status ended with %d: %v\n%s%s", s.code, err, s.out, s.err)
	}
	if o.Healthy || len(o.Failing) != 1 || o.Failing[0].Name != "broken" || o.Failing[0].Reason != "BuildFailed" || o.Failing[0].Hint == "" {
		t.Errorf("status says %+v, want one app that failed to build, and what to do", o)
	}
}

// TestFluxNeedsPods: these commands are about Flux's own controllers, which are not there; they say so and do no harm.
func TestFluxNeedsPods(t *testing.T) {
	for command, say := range map[string]string{"logs": "no Flux pods found", "check": "no controllers found"} {
		if r := tryFlux(t, "", command); r.code != 1 || !strings.Contains(r.out, say) {
			t.Errorf("flux %s ended with %d, want 1 and %q:\n%s", command, r.code, say, r.out)
		}
	}
}
