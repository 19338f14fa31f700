package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// TestTraceRelease: an object of a Helm release is followed to the commit of its chart, and to the one by which the HelmRelease is
// declared; where the chart is an OCI artifact, to what that says that it was made of.
func TestTraceRelease(t *testing.T) {
	const namespace = "tracerelease"
	dir := smallChart(t)
	charts, env := strings.TrimSpace(shared.must(t, "git", "create", "team/charts")), strings.TrimSpace(shared.must(t, "git", "create", "team/env"))
	c := cloneOf(t, shared.Git+"/team/charts.git")
	for _, name := range []string{"Chart.yaml", "values.yaml", "templates/web.yaml"} {
		text, err := os.ReadFile(filepath.Join(dir, name))
		if err != nil {
			t.Fatal(err)
		}
		write(t, filepath.Join(c.dir, "charts", "web", name), string(text))
	}
	chart := c.push("Make the chart")
	e := cloneOf(t, shared.Git+"/team/env.git")
	write(t, filepath.Join(e.dir, "apps", "shop.yaml"), strings.ReplaceAll(`apiVersion: helm.toolkit.fluxcd.io/v2
kind: HelmRelease
metadata: {name: shop, namespace: NAMESPACE}
spec:
  interval: 1h
  releaseName: web
  chart: {spec: {chart: charts/web, sourceRef: {kind: GitRepository, name: charts}}}
  install: {disableWait: true}
`, "NAMESPACE", namespace))
	declared := e.push("Open the shop")
	t.Cleanup(func() {
		shared.kubectl(t, "-n", namespace, "delete", "kustomizations,helmreleases", "--all", "--timeout="+limit.String())
		shared.kubectl(t, "delete", "namespace", namespace, "--wait=false")
	})
	shared.kubectl(t, "create", "namespace", namespace)
	apply(t, shared.Kubeconfig, strings.NewReplacer("NAMESPACE", namespace, "CHARTS", charts, "ENV", env).Replace(`
apiVersion: source.toolkit.fluxcd.io/v1
kind: GitRepository
metadata: {name: charts, namespace: NAMESPACE}
spec: {url: "CHARTS", interval: 10m, ref: {branch: main}}
---
apiVersion: source.toolkit.fluxcd.io/v1
kind: GitRepository
metadata: {name: env, namespace: NAMESPACE}
spec: {url: "ENV", interval: 10m, ref: {branch: main}}
---
apiVersion: kustomize.toolkit.fluxcd.io/v1
kind: Kustomization
metadata: {name: env, namespace: NAMESPACE}
spec: {interval: 1h, path: ./apps, prune: true, sourceRef: {kind: GitRepository, name: env}}
`))
	shared.kubectl(t, "-n", namespace, "wait", "--for=condition=Ready", "--timeout="+limit.String(), "kustomization/env")
	eventually(t, "the release", func() error {
		if r := tryKubectl(shared.Kubeconfig, "-n", namespace, "get", "configmap", "web"); r.code != 0 {
			return fmt.Errorf("no object of the release: %s", r.err)
		}
		return nil
	})
	shared.kubectl(t, "-n", namespace, "wait", "--for=condition=Ready", "--timeout="+limit.String(), "helmrelease/shop")
	got := regexp.MustCompile(`(?m)^(Commit: +)\S+Z`).ReplaceAllString(shared.must(t, "trace", "configmap/web", "-n", namespace), "${1}TIME")
	got = regexp.MustCompile(`(?m)^(Author: +).*$`).ReplaceAllString(got, "${1}WHO")
	got = strings.NewReplacer(charts, "CHARTS", env, "ENV", chart, "COMMIT-OF-CHART", declared, "COMMIT-OF-ENV").Replace(got)
	if want := `Object:      ConfigMap/tracerelease/web  Healthy
App:         HelmRelease/tracerelease/shop  Ready
Declared by: Kustomization/tracerelease/env
Path:        charts/web
Chart:       web 1.2.3
Source:      GitRepository/tracerelease/charts  CHARTS main
Revision:    main@sha1:COMMIT-OF-CHART
Commit:      TIME  Make the chart
Author:      WHO
Declared in: Kustomization/tracerelease/env  apps
Source:      GitRepository/tracerelease/env  ENV main
Revision:    main@sha1:COMMIT-OF-ENV
Commit:      TIME  Open the shop
Author:      WHO
`; got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
	contains(t, shared.must(t, "trace", "configmap/web", "-n", namespace, "-o", "json"), `"subject": "Open the shop"`, `"subject": "Make the chart"`)
	// An OCI artifact as Flux tells of it; suspended, it is left as it is.
	apply(t, shared.Kubeconfig, strings.NewReplacer("NAMESPACE", namespace).Replace(`
apiVersion: source.toolkit.fluxcd.io/v1
kind: OCIRepository
metadata: {name: packed, namespace: NAMESPACE}
spec: {url: "oci://registry.example/charts/web", interval: 10m, suspend: true, ref: {semver: 1.x}}
---
apiVersion: helm.toolkit.fluxcd.io/v2
kind: HelmRelease
metadata: {name: packed, namespace: NAMESPACE}
spec: {interval: 1h, suspend: true, chartRef: {kind: OCIRepository, name: packed}}
---
apiVersion: v1
kind: ConfigMap
metadata: {name: packed, namespace: NAMESPACE, labels: {helm.toolkit.fluxcd.io/name: packed, helm.toolkit.fluxcd.io/namespace: NAMESPACE}}
`))
	digest := "sha256:" + strings.Repeat("ab", 32)
	shared.kubectl(t, "-n", namespace, "patch", "ocirepository", "packed", "--subresource=status", "--type=merge", "-p", fmt.Sprintf(
		`{"status":{"artifact":{"revision":"1.2.3@%s","digest":"%s","path":"p","url":"http://u","lastUpdateTime":"2026-01-01T00:00:00Z","metadata":{
		"org.opencontainers.image.source":%q,"org.opencontainers.image.revision":"main@sha1:%s"}}}}`, digest, digest, charts, chart))
	shared.kubectl(t, "-n", namespace, "patch", "helmrelease", "packed", "--subresource=status", "--type=merge", "-p", fmt.Sprintf(
		`{"status":{"history":[{"name":"packed","namespace":%q,"version":1,"status":"deployed","chartName":"web","chartVersion":"1.2.3+abababababab",
		"configDigest":"%[2]s","digest":"%[2]s","ociDigest":"%[2]s","firstDeployed":"2026-01-01T00:00:00Z","lastDeployed":"2026-01-01T00:00:00Z"}]}}`, namespace, digest))
	contains(t, shared.must(t, "trace", "configmap/packed", "-n", namespace),
		"Chart:       web 1.2.3+abababababab  "+digest+"\n",
		"Source:      OCIRepository/tracerelease/packed  oci://registry.example/charts/web 1.x\n",
		"Revision:    1.2.3@"+digest+"\n",
		"Made of:     "+charts+"  main@sha1:"+chart+"\n", "Make the chart\n", "Author:")
}
