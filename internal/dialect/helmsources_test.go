package dialect_test

import (
	"encoding/base64"
	"slices"
	"strings"
	"testing"
	"time"

	sourcev1 "github.com/fluxcd/source-controller/api/v1"
	"github.com/google/go-cmp/cmp"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"keelson.dev/keelson/internal/delivery"
	"keelson.dev/keelson/internal/dialect"
)

func TestOCIRepository(t *testing.T) {
	id := delivery.ID{Kind: "OCIRepository", Namespace: "team", Name: "app"}
	for name, tt := range map[string]struct {
		spec string
		want delivery.Source
	}{
		"bare": {"{url: 'oci://example.com/app', interval: 5m}", delivery.Source{
			ID: id, URL: "oci://example.com/app", OCI: true, Interval: 5 * time.Minute, Timeout: time.Minute, Layer: delivery.Layer{First: true}, Requested: "now",
		}},
		"all": {`
url: oci://example.com/app
interval: 5m
timeout: 1h
suspend: true
insecure: true
provider: generic
ref: {digest: "sha256:1", semver: 1.x, semverFilter: "^1", tag: t}
layerSelector: {mediaType: a/b, operation: copy}
ignore: "*.md"
secretRef: {name: key}
certSecretRef: {name: cert}
proxySecretRef: {name: proxy}
serviceAccountName: puller
`, delivery.Source{
			ID: id, URL: "oci://example.com/app", OCI: true, Interval: 5 * time.Minute, Timeout: 10 * time.Minute, Suspend: true, Requested: "now",
			Ref: delivery.GitRef{Commit: "sha256:1", SemVer: "1.x", Filter: "^1", Tag: "t"}, Layer: delivery.Layer{Type: "a/b"}, Whole: true, Ignore: "*.md", HasIgnore: true,
			Secrets:     delivery.SecretRefs{Credentials: "key", Certificates: "cert", Proxy: "proxy", Account: "puller"},
			Credentials: delivery.Credentials{PlainHTTP: true, Insecure: true},
		}},
		"refused": {"{url: 'oci://example.com/app', provider: aws, verify: {provider: cosign}}", delivery.Source{
			ID: id, URL: "oci://example.com/app", OCI: true, Timeout: time.Minute, Layer: delivery.Layer{First: true}, Requested: "now",
			Refused: []string{
				"spec.provider aws (identities of clouds are not spoken: give user name and password in spec.secretRef)",
				"spec.verify",
			},
		}},
	} {
		var o sourcev1.OCIRepository
		decode(t, "metadata: {name: app, namespace: team, annotations: {reconcile.fluxcd.io/requestedAt: now}}", &o)
		decode(t, tt.spec, &o.Spec)
		if diff := cmp.Diff(tt.want, dialect.OCIRepository(&o)); diff != "" {
			t.Errorf("%s (-want +got):\n%s", name, diff)
		}
	}
}

func TestHelmRepository(t *testing.T) {
	id := delivery.ID{Kind: "HelmRepository", Namespace: "team", Name: "charts"}
	for name, tt := range map[string]struct {
		spec string
		want delivery.Source
	}{
		"bare": {"{url: 'https://example.com/charts'}", delivery.Source{ID: id, URL: "https://example.com/charts", Index: true, Interval: time.Minute, Timeout: time.Minute}},
		"all": {"{url: 'https://example.com/charts', interval: 1h, timeout: 2m, suspend: true, insecure: true, provider: aws, passCredentials: true, secretRef: {name: key}, certSecretRef: {name: cert}}", delivery.Source{
			ID: id, URL: "https://example.com/charts", Index: true, Interval: time.Hour, Timeout: 2 * time.Minute, Suspend: true,
			Secrets: delivery.SecretRefs{Credentials: "key", Certificates: "cert"}, Credentials: delivery.Credentials{PassAll: true},
		}},
		"oci": {"{url: 'oci://example.com/charts', type: oci, insecure: true, provider: gcp}", delivery.Source{
			ID: id, URL: "oci://example.com/charts", Index: true, Interval: time.Minute, Timeout: time.Minute, Credentials: delivery.Credentials{PlainHTTP: true, Insecure: true},
			Refused: []string{"spec.provider gcp (identities of clouds are not spoken: give user name and password in spec.secretRef)"},
		}},
		"oci without oci": {"{url: 'https://example.com/charts', type: oci}", delivery.Source{
			ID: id, URL: "https://example.com/charts", Index: true, Interval: time.Minute, Timeout: time.Minute, Refused: []string{"spec.url without oci://"},
		}},
	} {
		var h sourcev1.HelmRepository
		decode(t, "metadata: {name: charts, namespace: team}", &h)
		decode(t, tt.spec, &h.Spec)
		if diff := cmp.Diff(tt.want, dialect.HelmRepository(&h)); diff != "" {
			t.Errorf("%s (-want +got):\n%s", name, diff)
		}
	}
}

// TestRepositoryChart: who wants the same chart gets the same one, and who wants another one does not.
func TestRepositoryChart(t *testing.T) {
	var h sourcev1.HelmRepository
	decode(t, "{metadata: {name: charts, namespace: team, annotations: {reconcile.fluxcd.io/requestedAt: now}}, spec: {url: 'https://example.com', interval: 1h, secretRef: {name: key}}}", &h)
	template := delivery.ChartTemplate{Name: "web", Version: "1.x", Interval: time.Minute, ValuesFiles: []string{"a"}}
	index := delivery.Revision{Commit: strings.Repeat("a", 64)}
	got := dialect.RepositoryChart(&h, template, index)
	want := delivery.Source{
		ID:  delivery.ID{Kind: "HelmRepositoryChart", Namespace: "team", Name: "charts/web@1.x every 1m0s"},
		URL: "https://example.com", Chart: "web", Ref: delivery.GitRef{SemVer: "1.x"}, IndexAt: index.Commit, Interval: time.Minute, Timeout: time.Minute,
		Secrets: delivery.SecretRefs{Credentials: "key"},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
	for _, other := range []delivery.ChartTemplate{{Name: "web", Version: "1.x"}, {Name: "web", Version: "2.x", Interval: time.Minute}, {Name: "db", Version: "1.x", Interval: time.Minute}} {
		if dialect.RepositoryChart(&h, other, index).ID == got.ID {
			t.Errorf("%+v is taken for the same chart", other)
		}
	}
	h.Spec.Suspend = true
	if s := dialect.RepositoryChart(&h, template, index); !s.IndexFixed || s.Suspend || s.Interval < 24*time.Hour || s.ID == got.ID {
		t.Errorf("of a suspended repository: %+v", s)
	}
}

func TestHelmChart(t *testing.T) {
	var h sourcev1.HelmChart
	decode(t, `
metadata: {name: web, namespace: team}
spec:
  chart: ./charts/web
  version: ""
  interval: 5m
  sourceRef: {kind: GitRepository, name: repo}
  reconcileStrategy: Revision
  valuesFiles: [a.yaml, b.yaml]
  ignoreMissingValuesFiles: true
  verify: {secretRef: {name: keys}}
`, &h)
	want := delivery.ChartTemplate{
		Name: "./charts/web", Version: "*", Source: delivery.ID{Kind: "GitRepository", Namespace: "team", Name: "repo"}, Interval: 5 * time.Minute, EachRevision: true,
		ValuesFiles: []string{"a.yaml", "b.yaml"}, IgnoreMissingValues: true, Verify: delivery.ChartVerification{Provider: "cosign", Secret: "keys"},
	}
	got := dialect.HelmChart(&h)
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
	got.Source.Kind = "Bucket"
	if diff := cmp.Diff([]string{"spec.verify", "spec.sourceRef.kind Bucket"}, dialect.ChartRefused(got)); diff != "" {
		t.Errorf("refused (-want +got):\n%s", diff)
	}
}

func TestRegistryCredentials(t *testing.T) {
	config := func(text string) map[string][]byte {
		return map[string][]byte{".dockerconfigjson": []byte(`{"auths":` + text + `}`)}
	}
	auth := base64.StdEncoding.EncodeToString([]byte("bob:p:w"))
	for name, tt := range map[string]struct {
		address string
		data    map[string][]byte
		want    delivery.Credentials
		found   bool
		err     string
	}{
		"user name and password": {"oci://example.com/a", map[string][]byte{"username": []byte("bob"), "password": []byte("pw")}, delivery.Credentials{Username: "bob", Password: "pw"}, true, ""},
		"nothing":                {"oci://example.com/a", map[string][]byte{"username": []byte("bob")}, delivery.Credentials{}, false, "neither .dockerconfigjson nor username and password"},
		"a host":                 {"oci://example.com/a/b", config(`{"example.com":{"auth":"` + auth + `"}}`), delivery.Credentials{Username: "bob", Password: "p:w"}, true, ""},
		"a URL":                  {"oci://example.com/a/b", config(`{"https://example.com/v1/":{"username":"bob","password":"pw"}}`), delivery.Credentials{Username: "bob", Password: "pw"}, true, ""},
		"another host":           {"oci://example.com/a/b", config(`{"example.org":{"auth":"` + auth + `"}}`), delivery.Credentials{}, false, ""},
		"the longest one":        {"oci://example.com/a/b", config(`{"example.com":{"username":"al"},"example.com/a":{"username":"bob"},"example.com/ab":{"username":"cy"}}`), delivery.Credentials{Username: "bob"}, true, ""},
		"a wildcard":             {"oci://eu.example.com/a", config(`{"*.example.com":{"username":"bob"}}`), delivery.Credentials{Username: "bob"}, true, ""},
		"a port":                 {"oci://example.com:5000/a", config(`{"example.com":{"username":"al"},"example.com:5000":{"username":"bob"}}`), delivery.Credentials{Username: "bob"}, true, ""},
		"Docker's own":           {"oci://docker.io/library/a", config(`{"https://index.docker.io/v1/":{"username":"bob"}}`), delivery.Credentials{Username: "bob"}, true, ""},
		"a token":                {"oci://example.com/a", config(`{"example.com":{"registrytoken":"t"}}`), delivery.Credentials{BearerToken: "t"}, true, ""},
		"an identity token":      {"oci://example.com/a", config(`{"example.com":{"identitytoken":"secret"}}`), delivery.Credentials{}, false, "an identitytoken is not spoken"},
		"bad base64":             {"oci://example.com/a", config(`{"example.com":{"auth":"secret!"}}`), delivery.Credentials{}, false, "not user name and password in base64"},
		"bad JSON":               {"oci://example.com/a", config(`{secret`), delivery.Credentials{}, false, "not valid JSON"},
		"the old form":           {"oci://example.com/a", map[string][]byte{".dockercfg": []byte(`{"example.com":{"username":"bob"}}`)}, delivery.Credentials{Username: "bob"}, true, ""},
	} {
		got, found, err := dialect.RegistryCredentials(tt.address, tt.data)
		if tt.err != "" {
			if err == nil || !strings.Contains(err.Error(), tt.err) || strings.Contains(err.Error(), "secret") {
				t.Errorf("%s: error %v", name, err)
			}
			continue
		}
		if err != nil || got != tt.want || found != tt.found {
			t.Errorf("%s: %+v, %t, %v", name, got, found, err)
		}
	}
}

func TestCertificates(t *testing.T) {
	c := delivery.Credentials{Username: "bob", CA: "old", ClientCert: "old", ClientKey: "old"}
	got, err := dialect.Certificates(c, map[string][]byte{"ca.crt": []byte("ca")})
	if err != nil || got != (delivery.Credentials{Username: "bob", CA: "ca"}) {
		t.Errorf("%+v, %v", got, err)
	}
	if got, err = dialect.Certificates(c, map[string][]byte{"certFile": []byte("c"), "keyFile": []byte("k")}); err != nil || got.ClientCert != "c" || got.ClientKey != "k" || got.CA != "" {
		t.Errorf("%+v, %v", got, err)
	}
	for key, text := range map[string]string{"tls.key": "it has only one", "other": "neither"} {
		if _, err := dialect.Certificates(c, map[string][]byte{key: []byte("x")}); err == nil || !strings.Contains(err.Error(), text) {
			t.Errorf("%s: %v", key, err)
		}
	}
}

// TestSourceStatuses: what a status says follows from the outcome; what a failure has no say in stays.
func TestSourceStatuses(t *testing.T) {
	now := time.Date(2026, 5, 1, 12, 0, 0, 0, time.UTC)
	rev := delivery.Revision{Name: "1.0.0", Commit: strings.Repeat("a", 64)}
	var o sourcev1.OCIRepository
	decode(t, "{metadata: {name: App, namespace: team, generation: 2}, spec: {ignore: x, layerSelector: {operation: copy}}}", &o)
	ready := delivery.Outcome{Phase: delivery.Ready, Reason: "Succeeded", Message: "stored", Handled: "now", Applied: rev}
	o.Status = dialect.OCIRepositoryStatus(&o, ready, dialect.Artifact{Digest: "sha256:1", URL: "oci://example.com/app", Origin: "main@sha1:1"}, now)
	var want sourcev1.OCIRepositoryStatus
	decode(t, `
observedGeneration: 2
lastHandledReconcileAt: now
url: oci://example.com/app
observedIgnore: x
observedLayerSelector: {operation: copy}
artifact:
  revision: 1.0.0@sha256:`+rev.Commit+`
  digest: sha256:1
  url: oci://example.com/app
  path: ocirepository/team/App/`+rev.Commit+`
  lastUpdateTime: 2026-05-01T12:00:00Z
  metadata: {org.opencontainers.image.revision: main@sha1:1}
conditions:
- {type: Ready, status: "True", reason: Succeeded, message: stored, observedGeneration: 2, lastTransitionTime: 2026-05-01T12:00:00Z}
- {type: ArtifactInStorage, status: "True", reason: Succeeded, message: stored, observedGeneration: 2, lastTransitionTime: 2026-05-01T12:00:00Z}
`, &want)
	if diff := cmp.Diff(want, o.Status); diff != "" {
		t.Errorf("ready (-want +got):\n%s", diff)
	}
	o.Generation, o.Spec.Ignore = 3, nil
	failed := delivery.Outcome{Phase: delivery.Failing, Reason: "OCIArtifactPullFailed", Message: "away"}
	s := dialect.OCIRepositoryStatus(&o, failed, dialect.Artifact{}, now.Add(time.Minute))
	if kinds := conditionKinds(s.Conditions); kinds != "ArtifactInStorage=True FetchFailed=True Ready=False Reconciling=True" {
		t.Errorf("failed: %s", kinds)
	}
	if diff := cmp.Diff(want.Artifact, s.Artifact); diff != "" || s.ObservedGeneration != 3 || s.ObservedIgnore == nil || s.LastHandledReconcileAt != "now" {
		t.Errorf("failed: %+v\n%s", s, diff)
	}
	o.Status = s
	again := dialect.OCIRepositoryStatus(&o, ready, dialect.Artifact{Digest: "sha256:1", URL: "oci://example.com/app"}, now.Add(time.Hour))
	if kinds := conditionKinds(again.Conditions); kinds != "ArtifactInStorage=True Ready=True" || !again.Artifact.LastUpdateTime.Equal(&want.Artifact.LastUpdateTime) || again.ObservedIgnore != nil {
		t.Errorf("again: %s %+v", kinds, again)
	}

	var h sourcev1.HelmRepository
	decode(t, "{metadata: {name: charts, namespace: team, generation: 1}}", &h)
	index := delivery.Revision{Commit: rev.Commit}
	ready.Applied = index
	h.Status = dialect.HelmRepositoryStatus(&h, ready, dialect.Artifact{Digest: "sha256:" + rev.Commit, URL: "https://example.com"}, now)
	if a := h.Status.Artifact; a.Revision != "sha256:"+rev.Commit || h.Status.URL != "https://example.com" || h.Status.ObservedGeneration != 1 {
		t.Errorf("HelmRepository %+v", h.Status)
	}
}

func TestHelmChartStatus(t *testing.T) {
	now := time.Date(2026, 5, 1, 12, 0, 0, 0, time.UTC)
	var c sourcev1.HelmChart
	decode(t, "{metadata: {name: web, namespace: team, generation: 2}, spec: {sourceRef: {kind: HelmRepository}, valuesFiles: [a, b], ignoreMissingValuesFiles: true}}", &c)
	art := dialect.ChartArtifact{Name: "web", Version: "1.0.0+2", Digest: "sha256:1", URL: "https://example.com", SourceRevision: "sha256:2", ValuesFiles: []string{"a"}}
	out := delivery.Outcome{Phase: delivery.Ready, Handled: "now"}
	out.Reason, out.Message = art.Summary(&c)
	c.Status = dialect.HelmChartStatus(&c, out, art, now)
	var want sourcev1.HelmChartStatus
	decode(t, `
observedGeneration: 2
lastHandledReconcileAt: now
observedSourceArtifactRevision: sha256:2
observedChartName: web
observedValuesFiles: [a]
url: https://example.com
artifact: {revision: 1.0.0+2, digest: "sha256:1", url: https://example.com, path: helmchart/team/web/web-1.0.0+2.tgz, lastUpdateTime: 2026-05-01T12:00:00Z}
conditions:
- {type: Ready, status: "True", reason: ChartPackageSucceeded, message: "packaged 'web' chart with version '1.0.0+2' and merged values files [a]", observedGeneration: 2, lastTransitionTime: 2026-05-01T12:00:00Z}
- {type: ArtifactInStorage, status: "True", reason: ChartPackageSucceeded, message: "packaged 'web' chart with version '1.0.0+2' and merged values files [a]", observedGeneration: 2, lastTransitionTime: 2026-05-01T12:00:00Z}
`, &want)
	if diff := cmp.Diff(want, c.Status); diff != "" {
		t.Errorf("ready (-want +got):\n%s", diff)
	}
	for _, tt := range []struct {
		reason string
		phase  delivery.Phase
		kinds  string
	}{
		{"ChartPullError", delivery.Failing, "ArtifactInStorage=True FetchFailed=True Ready=False Reconciling=True"},
		{"DependencyBuildError", delivery.Failing, "ArtifactInStorage=True BuildFailed=True Ready=False Reconciling=True"},
		{"ValuesFilesError", delivery.Stalled, "ArtifactInStorage=True BuildFailed=True Ready=False Stalled=True"},
	} {
		if dialect.ChartStalls(tt.reason) != (tt.phase == delivery.Stalled) {
			t.Errorf("%s: does it stall?", tt.reason)
		}
		s := dialect.HelmChartStatus(&c, delivery.Outcome{Phase: tt.phase, Reason: tt.reason, Message: "m"}, dialect.ChartArtifact{}, now)
		if kinds := conditionKinds(s.Conditions); kinds != tt.kinds || s.Artifact.Revision != "1.0.0+2" {
			t.Errorf("%s: %s, %+v", tt.reason, kinds, s.Artifact)
		}
		c.Status = s
	}
}

// conditionKinds lists the conditions, sorted: "FetchFailed=True Ready=False".
func conditionKinds(list []metav1.Condition) string {
	kinds := make([]string, len(list))
	for i, c := range list {
		kinds[i] = c.Type + "=" + string(c.Status)
	}
	slices.Sort(kinds)
	return strings.Join(kinds, " ")
}
