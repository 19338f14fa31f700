package e2e

import (
	"encoding/json"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	helmv2 "github.com/fluxcd/helm-controller/api/v2"
	"helm.sh/helm/v4/pkg/action"
	helm "helm.sh/helm/v4/pkg/release/v1"
	apimeta "k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/cli-runtime/pkg/genericclioptions"
)

// hanging is a Job or Deployment of a chart whose Pods stay Pending until a node is labelled "go-NAME".
func hanging(name, manifest string) string {
	return strings.Replace(manifest, "spec: {", `spec: {nodeSelector: {go-`+name+`: "yes"}, `, 1)
}

// killedChart has a hook at each place of an action, and a Deployment, which all hang until they are let go.
func killedChart(t *testing.T, dir string) {
	t.Helper()
	hook := func(name, events string) string {
		return hanging(name, jobYAML(name, `"helm.sh/hook": "`+events+`"`, ""))
	}
	for name, text := range map[string]string{
		"Chart.yaml":           "apiVersion: v2\nname: killed\nversion: 1.0.0\n",
		"values.yaml":          "v: chart\n",
		"templates/pre.yaml":   hook("installing", "pre-install") + "---\n" + hook("upgrading", "pre-upgrade"),
		"templates/first.yaml": configYAML("first", "{{ .Values.v }}", ""),
		"templates/web.yaml":   hanging("web", deploymentYAML("web", "registry.example/web:1", "")),
		"templates/post.yaml": `{{ if .Values.broken }}` + jobYAML("notify", `"helm.sh/hook": post-upgrade`, "CrashLoopBackOff") +
			`{{ else }}` + hook("notify", "post-install,post-upgrade") + `{{ end }}`,
		"templates/back.yaml":    hook("back", "pre-rollback"),
		"templates/testing.yaml": hook("testing", "test"),
	} {
		write(t, filepath.Join(dir, "chart", name), text)
	}
}

// stockHistory is what the stock Helm reads of a release: "1 failed", "2 deployed".
func stockHistory(t *testing.T, kubeconfig, namespace, name string) []string {
	t.Helper()
	flags := genericclioptions.NewConfigFlags(true)
	flags.KubeConfig, flags.Namespace = &kubeconfig, &namespace
	cfg := action.NewConfiguration()
	if err := cfg.Init(flags, namespace, "secret"); err != nil {
		t.Fatal(err)
	}
	list, err := action.NewHistory(cfg).Run(name)
	if err != nil {
		return []string{err.Error()}
	}
	var out []string
	for _, r := range list {
		rel, ok := r.(*helm.Release)
		if !ok {
			t.Fatalf("a release is a %T", r)
		}
		out = append(out, fmt.Sprintf("%d %s", rel.Version, rel.Info.Status))
	}
	slices.Sort(out) // of fewer than ten
	return out
}

// TestServerKilledInARelease kills the server in the middle of everything that is done to a release, each time in the hook or the wait that
// hangs: the next server unlocks it and goes on within its retry budget, and nothing stays pending.
func TestServerKilledInARelease(t *testing.T) {
	const ns = "helm-killed"
	kubeconfig, data := bareCluster(t), t.TempDir()
	kubectl(t, kubeconfig, "apply", "-f", filepath.Join(root(), "config", "crd"))
	kubectl(t, kubeconfig, "wait", "--for=condition=Established", "--timeout=60s", "crd", "--all")
	apply(t, kubeconfig, namespaceYAML(ns))
	git, files := newRemote(t), t.TempDir()
	killedChart(t, files)
	git.create(t, "released", files)
	apply(t, kubeconfig, fmt.Sprintf(`
apiVersion: v1
kind: Secret
metadata: {name: git, namespace: %[1]s}
stringData: {username: %[2]s, password: %[3]s}
---
apiVersion: source.toolkit.fluxcd.io/v1
kind: GitRepository
metadata: {name: charts, namespace: %[1]s}
spec: {interval: 1h, url: %[4]q, ref: {branch: main}, secretRef: {name: git}}
`, ns, remoteUser, remotePassword, git.url+"/released.git"))
	declare := func(values string) {
		t.Helper()
		apply(t, kubeconfig, fmt.Sprintf(`
apiVersion: helm.toolkit.fluxcd.io/v2
kind: HelmRelease
metadata: {name: killed, namespace: %s}
spec:
  interval: 1h
  timeout: 30s
  chart: {spec: {chart: chart, sourceRef: {kind: GitRepository, name: charts}}}
  test: {enable: true}
  upgrade: {remediation: {retries: 0, remediateLastFailure: true}}
  values: %s
`, ns, values))
	}
	read := func() *helmv2.HelmRelease {
		t.Helper()
		hr := &helmv2.HelmRelease{}
		if err := json.Unmarshal([]byte(kubectl(t, kubeconfig, "-n", ns, "get", "helmrelease", "killed", "-o", "json")), hr); err != nil {
			t.Fatal(err)
		}
		return hr
	}
	log := watchNamespace(t, kubeconfig, ns)
	s := startServer(t, kubeconfig, data)
	s.waitFor(t, works)
	killed := func(seen, name string, want ...string) {
		t.Helper()
		for deadline := time.Now().Add(limit); !slices.Contains(log.log(), seen); time.Sleep(5 * time.Millisecond) {
			if time.Now().After(deadline) {
				t.Fatalf("still not %s after %s:\n%s\n%+v", seen, limit, strings.Join(log.log(), "\n"), read().Status)
			}
		}
		s.kill(t)
		if got := stockHistory(t, kubeconfig, ns, "killed"); !slices.Equal(got, want) {
			t.Errorf("killed at %s: history %q, want %q", seen, got, want)
		}
		kubectl(t, kubeconfig, "label", "nodes", "--all", "go-"+name+"=yes")
		s = startServer(t, kubeconfig, data)
		s.waitFor(t, works)
	}
	ends := func(check func(hr *helmv2.HelmRelease) error, want ...string) {
		t.Helper()
		eventually(t, "the release to be settled", func() error {
			hr := read()
			if hr.Status.ObservedGeneration != hr.Generation {
				return fmt.Errorf("it is under way: %+v", hr.Status.Conditions)
			}
			if err := check(hr); err != nil {
				return fmt.Errorf("%w: %+v\nhistory %+v", err, hr.Status.Conditions, hr.Status.History)
			}
			return nil
		})
		if got := stockHistory(t, kubeconfig, ns, "killed"); !slices.Equal(got, want) {
			t.Errorf("in the end: history %q, want %q", got, want)
		}
	}
	declare("{v: one}")
	killed("Job/installing made", "installing", "1 pending-install")
	killed("Job/upgrading made", "upgrading", "1 failed", "2 pending-upgrade")
	killed("Deployment/web made", "web", "1 failed", "2 failed", "3 pending-upgrade")
	killed("Job/notify made", "notify", "1 failed", "2 failed", "3 failed", "4 pending-upgrade")
	killed("Job/testing made", "testing", "1 failed", "2 failed", "3 failed", "4 superseded", "5 deployed")
	ends(func(hr *helmv2.HelmRelease) error {
		if !apimeta.IsStatusConditionTrue(hr.Status.Conditions, "Ready") || !apimeta.IsStatusConditionTrue(hr.Status.Conditions, "TestSuccess") {
			return errors.New("want it ready and tested")
		}
		return nil
	}, "1 failed", "2 failed", "3 failed", "4 superseded", "5 deployed")
	declare("{v: two, broken: true}")
	killed("Job/back made", "back", "3 failed", "4 superseded", "5 deployed", "6 failed", "7 pending-rollback")
	ends(func(hr *helmv2.HelmRelease) error {
		if !apimeta.IsStatusConditionTrue(hr.Status.Conditions, "Remediated") || !apimeta.IsStatusConditionTrue(hr.Status.Conditions, "Stalled") || hr.Status.UpgradeFailures != 1 {
			return errors.New("want it rolled back after one failure")
		}
		return nil
	}, "4 superseded", "5 superseded", "6 failed", "7 failed", "8 deployed")
	if got := kubectl(t, kubeconfig, "-n", ns, "get", "configmap", "first", "-o", "jsonpath={.data.v}"); got != "one" {
		t.Errorf("the value is %q after the rollback", got)
	}
	kubectl(t, kubeconfig, "-n", ns, "delete", "helmrelease", "killed", "--timeout=60s")
	if r := tryKubectl(kubeconfig, "-n", ns, "get", "deployment", "web"); r.code == 0 {
		t.Error("the release outlives its HelmRelease")
	}
	// An install that was cut off before anything of it was recorded goes with its HelmRelease, too.
	kubectl(t, kubeconfig, "label", "nodes", "--all", "go-installing-")
	declare("{v: three}")
	eventually(t, "the install", func() error {
		if got := stockHistory(t, kubeconfig, ns, "killed"); !slices.Equal(got, []string{"1 pending-install"}) {
			return fmt.Errorf("history %q", got)
		}
		return nil
	})
	s.kill(t)
	if history := read().Status.History; len(history) > 0 {
		t.Errorf("recorded before the kill: %+v", history)
	}
	kubectl(t, kubeconfig, "-n", ns, "delete", "helmrelease", "killed", "--wait=false")
	s = startServer(t, kubeconfig, data)
	s.waitFor(t, works)
	kubectl(t, kubeconfig, "-n", ns, "wait", "--for=delete", "helmrelease/killed", "--timeout=60s")
	if got := stockHistory(t, kubeconfig, ns, "killed"); len(got) != 1 || !strings.Contains(got[0], "not found") {
		t.Errorf("history after the deletion: %q", got)
	}
	s.stop(t)
	kubectl(t, kubeconfig, "-n", ns, "delete", "gitrepository", "charts")
	kubectl(t, kubeconfig, "delete", "namespace", ns, "--wait=false")
}
