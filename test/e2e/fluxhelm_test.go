package e2e

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// chartSite serves versions of the small chart as a Helm repository, and gives its address.
func chartSite(t *testing.T, versions ...string) string {
	t.Helper()
	site, dir := t.TempDir(), smallChart(t)
	for _, v := range versions {
		shared.helm(t, "package", dir, "--version", v, "-d", site)
	}
	shared.helm(t, "repo", "index", site)
	server := httptest.NewServer(http.FileServer(http.Dir(site)))
	t.Cleanup(server.Close)
	return server.URL
}

// TestFluxHelmReleases: what the flux program shows of HelmReleases is what it shows of Flux's, and what it asks for is done.
func TestFluxHelmReleases(t *testing.T) {
	url := chartSite(t, "1.2.3")
	dir := t.TempDir()
	values := filepath.Join(dir, "values.yaml")
	write(t, values, "level: high\n")
	shared.kubectl(t, "create", "namespace", "fluxhelm")
	t.Cleanup(func() {
		for _, kind := range []string{"helmrelease", "helmrepository"} {
			tryKubectl(shared.Kubeconfig, "-n", "fluxhelm", "delete", kind, "shop", "--ignore-not-found", "--timeout="+limit.String())
		}
		shared.kubectl(t, "delete", "namespace", "fluxhelm", "--wait=false")
	})
	hr := func(args ...string) string { return flux(t, append(args, "-n", "fluxhelm")...) }
	try := func(args ...string) result { return tryFlux(t, "", append(args, "-n", "fluxhelm")...) }
	hr("create", "source", "helm", "shop", "--url", url, "--interval", "10m")
	contains(t, hr("create", "helmrelease", "shop", "--source", "HelmRepository/shop", "--chart", "web", "--chart-version", "1.x", "--values", values, "--interval", "10m"),
		"HelmRelease created", "HelmRelease shop is ready", "applied revision 1.2.3")
	contains(t, hr("get", "helmreleases"), "shop", "1.2.3", "False", "True", "Helm install succeeded for release fluxhelm/shop.v1 with chart web@1.2.3")
	contains(t, hr("get", "all"), "helmrepository/shop", "helmrelease/shop")
	contains(t, hr("events", "--for", "HelmRelease/shop"), "InstallSucceeded", "Helm install succeeded for release fluxhelm/shop.v1 with chart web@1.2.3")
	contains(t, hr("debug", "helmrelease", "shop", "--show-values"), "level: high")
	contains(t, hr("debug", "helmrelease", "shop", "--show-status"), "chartVersion: 1.2.3", "status: deployed", "type: Released")
	contains(t, hr("debug", "helmrelease", "shop", "--show-history"), "chartVersion: 1.2.3")
	contains(t, hr("export", "helmrelease", "shop"), "kind: HelmRelease", "chart: web")
	contains(t, hr("trace", "configmap", "shop"), "Managed by Flux", "HelmRelease:    shop", "Revision:       1.2.3", "HelmRepository: shop", "URL:            "+url)
	contains(t, hr("stats"), "HelmRelease          \t1      \t0      \t0")

	version := func(want int) {
		t.Helper()
		if got := shared.kubectl(t, "-n", "fluxhelm", "get", "helmrelease", "shop", "-o", "jsonpath={.status.history[0].version}"); got != fmt.Sprint(want) {
			t.Errorf("the release has version %s, want %d", got, want)
		}
	}
	contains(t, hr("reconcile", "hr", "shop"), "HelmRelease annotated", "applied revision 1.2.3")
	contains(t, hr("reconcile", "hr", "shop", "--reset"), "HelmRelease annotated", "applied revision 1.2.3")
	version(1)
	contains(t, hr("reconcile", "hr", "shop", "--force"), "HelmRelease annotated", "applied revision 1.2.3")
	version(2)

	// There is no HelmChart: flux says so at once, and does not wait for anything. What it would have done is done by the source's name.
	began := time.Now()
	if r := try("reconcile", "hr", "shop", "--with-source"); r.code != 1 || !strings.Contains(r.out, `helmcharts.source.toolkit.fluxcd.io "fluxhelm-shop" not found`) || time.Since(began) > limit/2 {
		t.Errorf("reconcile --with-source ended with %d after %s:\n%s", r.code, time.Since(began), r.out)
	}
	contains(t, hr("reconcile", "source", "helm", "shop"), "fetched revision sha256:")
	contains(t, shared.must(t, "reconcile", "shop", "-n", "fluxhelm", "--with-source"), "shop is Ready")

	contains(t, hr("suspend", "hr", "shop"), "helmrelease suspended")
	contains(t, hr("get", "hr", "shop", "--no-header"), "\tTrue\tTrue\t")
	shared.kubectl(t, "-n", "fluxhelm", "patch", "helmrelease", "shop", "--type=merge", "-p", `{"spec":{"values":{"level":"higher"}}}`)
	if got := shared.kubectl(t, "-n", "fluxhelm", "get", "configmap", "shop", "-o", "jsonpath={.data.level}"); got != "high" {
		t.Errorf("a suspended release has the level %s", got)
	}
	contains(t, hr("resume", "hr", "shop"), "HelmRelease shop reconciliation completed", "applied revision 1.2.3")
	version(3)
	contains(t, hr("delete", "hr", "shop", "--silent"), "helmrelease deleted")
	eventually(t, "the release to be uninstalled", func() error {
		if r := tryKubectl(shared.Kubeconfig, "-n", "fluxhelm", "get", "configmap", "shop"); r.code == 0 {
			return fmt.Errorf("it is there: %s", r.out)
		}
		return nil
	})
}

// TestHelmHandBack: a release of Keelson's is handed back to helm-controller, and taken again, without a new version and without a word in between
// from helm-controller; what was its own is then Helm's again.
func TestHelmHandBack(t *testing.T) {
	kubeconfig, data := bareCluster(t), t.TempDir()
	kubectl(t, kubeconfig, "apply", "-f", filepath.Join(root(), "config", "crd"))
	kubectl(t, kubeconfig, "wait", "--for=condition=Established", "--timeout=60s", "crd", "--all")
	apply(t, kubeconfig, strings.NewReplacer("URL", chartSite(t, "1.2.3")).Replace(`
apiVersion: v1
kind: Namespace
metadata: {name: back}
---
apiVersion: source.toolkit.fluxcd.io/v1
kind: HelmRepository
metadata: {name: charts, namespace: back}
spec: {interval: 1h, url: URL}
---
apiVersion: helm.toolkit.fluxcd.io/v2
kind: HelmRelease
metadata: {name: shop, namespace: back}
spec:
  interval: 1h
  chart: {spec: {chart: web, sourceRef: {kind: HelmRepository, name: charts}}}
  values: {level: high}
`))
	t.Cleanup(func() {
		kubectl(t, kubeconfig, "-n", "back", "patch", "helmrelease", "shop", "--type=merge", "-p", `{"metadata":{"finalizers":[]}}`)
		kubectl(t, kubeconfig, "-n", "back", "delete", "helmrelease,helmrepository", "--all", "--wait=false")
		kubectl(t, kubeconfig, "delete", "namespace", "back", "--wait=false")
	})
	is := func(version, level, manager string) {
		t.Helper()
		eventually(t, "version "+version, func() error {
			got := kubectl(t, kubeconfig, "-n", "back", "get", "helmrelease", "shop", "-o", `jsonpath={.status.history[0].version} {.status.conditions[?(@.type=="Ready")].status} `) +
				kubectl(t, kubeconfig, "-n", "back", "get", "configmap", "shop", "--ignore-not-found", "-o", "jsonpath={.data.level}")
			if want := version + " True " + level; got != want {
				return fmt.Errorf("it is %q, want %q", got, want)
			}
			return nil
		})
		for _, object := range []string{"configmap/shop", "deployment/shop"} {
			if m := managers(t, kubeconfig, "back", object); !strings.Contains(m, manager+"/Apply ") || strings.Count(m, "/Apply") != 1 {
				t.Errorf("the managers of %s are %s, want %s alone to apply it", object, m, manager)
			}
		}
	}
	s := startServer(t, kubeconfig, data)
	s.waitFor(t, works)
	is("1", "high", "helm")
	s.stop(t)
	contains(t, onBare(t, "handback", "--dry-run"), "back/shop: ConfigMap/back/shop would be handed back", "nothing was changed")
	contains(t, onBare(t, "handback"), "back/shop: ConfigMap/back/shop handed back", "back/shop: Deployment/back/shop handed back", "HelmRepository back/charts handed back")
	contains(t, onBare(t, "handback"), "handed back: 0 changes")
	is("1", "high", "helm-controller")
	s = startServer(t, kubeconfig, data)
	s.waitFor(t, works)
	kubectl(t, kubeconfig, "-n", "back", "patch", "helmrelease", "shop", "--type=merge", "-p", `{"spec":{"values":{"level":"higher"}}}`)
	is("2", "higher", "helm")
	s.stop(t)
}
