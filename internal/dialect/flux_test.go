package dialect_test

import (
	"strings"
	"testing"
	"time"

	kustomizev1 "github.com/fluxcd/kustomize-controller/api/v1"
	sourcev1 "github.com/fluxcd/source-controller/api/v1"
	"github.com/google/go-cmp/cmp"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/yaml"

	"keelson.dev/keelson/internal/delivery"
	"keelson.dev/keelson/internal/dialect"
)

const fullKustomization = `
metadata:
  name: shop
  namespace: team
  generation: 3
  annotations:
    reconcile.fluxcd.io/requestedAt: now
    keelson.dev/confirm: abcdef1
    keelson.dev/max-prune-percent: "80"
    keelson.dev/allow-empty: "true"
spec:
  interval: 10m
  retryInterval: 30s
  timeout: 2m
  path: ./apps/shop/
  prune: true
  wait: true
  targetNamespace: shop
  namePrefix: eu-
  nameSuffix: -blue
  commonMetadata: {labels: {team: shop}, annotations: {owner: "7"}}
  buildMetadata: [originAnnotations]
  serviceAccountName: deployer
  sourceRef: {kind: GitRepository, name: fleet, namespace: flux-system}
  dependsOn: [{name: infra}, {name: crds, namespace: flux-system}]
  components: [../extra]
  ignoreMissingComponents: true
  images: [{name: web, newName: mirror/web, newTag: v2, digest: "sha256:1"}]
  patches: [{patch: "{}", target: {kind: Deployment, name: web}}]
  ignore: [{paths: [/spec/replicas], target: {kind: Deployment}}, {paths: [/data/a]}]
  postBuild:
    substitute: {region: eu}
    substituteFrom: [{kind: Secret, name: keys, optional: true}]
`

func TestKustomization(t *testing.T) {
	app, err := dialect.Kustomization(kustomization(t, fullKustomization))
	if err != nil {
		t.Fatal(err)
	}
	want := delivery.App{
		ID:          delivery.ID{Kind: "Kustomization", Namespace: "team", Name: "shop"},
		Environment: "shop", Generation: 3,
		Source: delivery.ID{Kind: "GitRepository", Namespace: "flux-system", Name: "fleet"},
		Build: delivery.Build{
			Path: "apps/shop", TargetNamespace: "shop", NamePrefix: "eu-", NameSuffix: "-blue", BuildMetadata: []string{"originAnnotations"},
			Components: []string{"../extra"}, IgnoreMissingComponents: true,
			Images:  []delivery.Image{{Name: "web", NewName: "mirror/web", NewTag: "v2", Digest: "sha256:1"}},
			Patches: []delivery.Patch{{Patch: "{}", Target: &delivery.Selector{Kind: "Deployment", Name: "web"}}},
		},
		Common:   delivery.Metadata{Labels: map[string]string{"team": "shop"}, Annotations: map[string]string{"owner": "7"}},
		Ignore:   []delivery.IgnoreRule{{Paths: []string{"/spec/replicas"}, Target: &delivery.Selector{Kind: "Deployment"}}, {Paths: []string{"/data/a"}}},
		Vars:     map[string]string{"region": "eu"},
		VarsFrom: []delivery.VarsRef{{Kind: "Secret", Name: "keys", Optional: true}},
		DependsOn: []delivery.ID{
			{Kind: "Kustomization", Namespace: "team", Name: "infra"}, {Kind: "Kustomization", Namespace: "flux-system", Name: "crds"},
		},
		ServiceAccount: "deployer", Prune: true, Wait: true,
		Interval: 10 * time.Minute, RetryInterval: 30 * time.Second, Timeout: 2 * time.Minute,
		Guard:     delivery.Guard{MaxPrunePercent: 80, AllowEmpty: true, Confirmed: "abcdef1"},
		Requested: "now",
	}
	if diff := cmp.Diff(want, app); diff != "" {
		t.Errorf("app (-want +got):\n%s", diff)
	}
}

func TestKustomizationNames(t *testing.T) {
	tests := map[string]struct {
		spec             string
		refused, ignored []string
	}{
		"nothing special":     {"{prune: true, sourceRef: {kind: GitRepository}}", nil, nil},
		"another cluster":     {"{kubeConfig: {secretRef: {name: x}}, sourceRef: {kind: GitRepository}}", nil, nil},
		"which cluster":       {"{kubeConfig: {}, sourceRef: {kind: GitRepository}}", []string{"spec.kubeConfig without exactly one of secretRef and configMapRef"}, nil},
		"encrypted":           {"{decryption: {provider: sops}, sourceRef: {kind: GitRepository}}", []string{"spec.decryption"}, nil},
		"an OCI artifact":     {"{sourceRef: {kind: OCIRepository}}", nil, nil},
		"another source kind": {"{sourceRef: {kind: Bucket}}", []string{"spec.sourceRef.kind Bucket"}, nil},
		"a path to nowhere":   {"{ignore: [{paths: [spec/replicas]}], sourceRef: {kind: GitRepository}}", nil, []string{`spec.ignore[0].paths "spec/replicas", which is no JSON pointer`}},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			app, err := dialect.Kustomization(kustomization(t, "spec: "+tt.spec))
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff([][]string{tt.refused, tt.ignored}, [][]string{app.Refused, app.Ignored}); diff != "" {
				t.Errorf("refused, ignored (-want +got):\n%s", diff)
			}
		})
	}
	for spec, want := range map[string]delivery.KubeConfig{
		"{}":                                   {},
		"{kubeConfig: {secretRef: {name: x}}}": {Kind: "Secret", Name: "x"},
		"{kubeConfig: {secretRef: {name: x, key: k}}}": {Kind: "Secret", Name: "x", Key: "k"},
		"{kubeConfig: {}}":                        {Kind: "Unknown"},
		"{kubeConfig: {configMapRef: {name: x}}}": {Kind: "ConfigMap", Name: "x"},
	} {
		if app, err := dialect.Kustomization(kustomization(t, "spec: "+spec)); err != nil || app.KubeConfig != want {
			t.Errorf("%s: kubeconfig %+v, want %+v (error %v)", spec, app.KubeConfig, want, err)
		}
	}
	_, err := dialect.Kustomization(kustomization(t, "metadata: {annotations: {keelson.dev/max-prune-percent: lots}}"))
	if err == nil {
		t.Error("a guard that is no number: want an error")
	}
}

func TestDeletionPolicy(t *testing.T) {
	tests := map[string]bool{ // spec -> the objects outlive the app
		"{prune: true}":                                     false,
		"{prune: false}":                                    true,
		"{prune: true, deletionPolicy: Orphan}":             true,
		"{prune: false, deletionPolicy: Delete}":            false,
		"{prune: true, deletionPolicy: MirrorPrune}":        false,
		"{prune: false, deletionPolicy: MirrorPrune}":       true,
		"{prune: true, deletionPolicy: WaitForTermination}": false,
	}
	for spec, want := range tests {
		app, err := dialect.Kustomization(kustomization(t, "spec: "+spec))
		if awaits := strings.Contains(spec, "WaitForTermination"); app.AwaitGone != awaits {
			t.Errorf("%s: waits for termination = %v, want %v", spec, app.AwaitGone, awaits)
		}
		if err != nil || app.KeepOnDelete != want {
			t.Errorf("%s: objects are kept = %v (%v), want %v", spec, app.KeepOnDelete, err, want)
		}
	}
}

func TestGitRepository(t *testing.T) {
	var g sourcev1.GitRepository
	decode(t, `
metadata: {name: fleet, namespace: team}
spec:
  url: https://git.example/fleet.git
  interval: 1m
  timeout: 20s
  suspend: true
  ignore: "*.md"
  ref: {branch: main, semver: ">1"}
  verify: {mode: HEAD, secretRef: {name: k}}
  provider: azure
  recurseSubmodules: true
  secretRef: {name: creds}
  proxySecretRef: {name: way}
  sparseCheckout: [./apps, /infra/../infra/base/, ../..]
`, &g)
	want := delivery.Source{
		ID:  delivery.ID{Kind: "GitRepository", Namespace: "team", Name: "fleet"},
		URL: "https://git.example/fleet.git", Ref: delivery.GitRef{Branch: "main", SemVer: ">1"}, Ignore: "*.md", HasIgnore: true,
		Secrets: delivery.SecretRefs{Credentials: "creds", Proxy: "way", Verify: "k"}, Verify: delivery.Verification{Head: true}, Submodules: true, Sparse: []string{"apps", "infra/base", "."},
		Interval: time.Minute, Timeout: 20 * time.Second, Suspend: true,
		Refused: []string{"spec.provider azure (identities of clouds are not spoken: give a token or a key in spec.secretRef)"},
	}
	if diff := cmp.Diff(want, dialect.GitRepository(&g)); diff != "" {
		t.Errorf("source (-want +got):\n%s", diff)
	}
}

func TestCredentials(t *testing.T) {
	const https, ssh = "https://git.example/r.git", "ssh://git@git.example/r.git"
	type data = map[string]string
	tests := map[string]struct {
		url    string
		github bool
		data   data
		want   delivery.Credentials
		bad    string
	}{
		"basic":            {https, false, data{"username": "me", "password": "p"}, delivery.Credentials{Username: "me", Password: "p"}, ""},
		"bearer":           {https, false, data{"bearerToken": "t"}, delivery.Credentials{BearerToken: "t"}, ""},
		"certificates":     {https, false, data{"ca.crt": "ca", "caFile": "old", "tls.crt": "c", "tls.key": "k"}, delivery.Credentials{CA: "ca", ClientCert: "c", ClientKey: "k"}, ""},
		"old name":         {https, false, data{"caFile": "old"}, delivery.Credentials{CA: "old"}, ""},
		"half a pair":      {https, false, data{"tls.crt": "c"}, delivery.Credentials{}, "only one"},
		"no user":          {https, false, data{"password": "p"}, delivery.Credentials{}, "username"},
		"empty":            {https, false, nil, delivery.Credentials{}, "neither"},
		"ssh":              {ssh, false, data{"identity": "key", "identity.pub": "pub", "known_hosts": "h", "password": "p"}, delivery.Credentials{Identity: "key", KnownHosts: "h", Passphrase: "p"}, ""},
		"ssh, no hosts":    {ssh, false, data{"identity": "key"}, delivery.Credentials{}, "known_hosts"},
		"ssh, no key":      {ssh, false, data{"username": "u", "password": "p"}, delivery.Credentials{}, "identity"},
		"app":              {https, true, data{"githubAppID": "1", "githubAppInstallationID": "2", "githubAppPrivateKey": "k"}, delivery.Credentials{App: delivery.GitHubApp{ID: "1", InstallationID: "2", PrivateKey: "k"}}, ""},
		"app, no provider": {https, false, data{"githubAppID": "1", "username": "u"}, delivery.Credentials{}, "spec.provider is not github"},
		"provider, no app": {https, true, data{"username": "u", "password": "p"}, delivery.Credentials{}, "githubAppID"},
		"app of nobody":    {https, true, data{"githubAppID": "1", "githubAppPrivateKey": "k"}, delivery.Credentials{}, "githubAppInstallationOwner"},
	}
	for name, tt := range tests {
		raw := map[string][]byte{}
		for k, v := range tt.data {
			raw[k] = []byte(v)
		}
		got, err := dialect.Credentials(delivery.Source{URL: tt.url, GitHub: tt.github}, raw)
		switch {
		case tt.bad == "" && (err != nil || got != tt.want):
			t.Errorf("%s: %+v, %v", name, got, err)
		case tt.bad != "" && (err == nil || !strings.Contains(err.Error(), tt.bad)):
			t.Errorf("%s: error %v does not say %q", name, err, tt.bad)
		}
	}
}

func TestProxy(t *testing.T) {
	tests := map[string]struct {
		data map[string][]byte
		want string // empty: an error
	}{
		"plain":         {map[string][]byte{"address": []byte("http://proxy:3128")}, "http://proxy:3128"},
		"authenticated": {map[string][]byte{"address": []byte("socks5://proxy:1080"), "username": []byte("u"), "password": []byte("p@s/s")}, "socks5://u:p%40s%2Fs@proxy:1080"},
		"no address":    {map[string][]byte{"username": []byte("u")}, ""},
		"other scheme":  {map[string][]byte{"address": []byte("ftp://s3cret@proxy")}, ""},
	}
	for name, tt := range tests {
		got, err := dialect.Proxy(tt.data)
		if got != tt.want || (err != nil) != (tt.want == "") || err != nil && strings.Contains(err.Error(), "s3cret") {
			t.Errorf("%s: %q, %v", name, got, err)
		}
	}
}

func TestOwnerLabels(t *testing.T) {
	app := delivery.ID{Kind: "Kustomization", Namespace: "team", Name: "shop"}
	obj := delivery.Object{Unstructured: &unstructured.Unstructured{Object: map[string]any{}}}
	dialect.FluxLabel(app, obj)
	if got := dialect.FluxOwner(obj.GetLabels()); got != app {
		t.Errorf("owner = %v, want %v", got, app)
	}
	if got := dialect.FluxOwner(map[string]string{"app": "x"}); got != (delivery.ID{}) {
		t.Errorf("owner of a foreign object = %v", got)
	}
}

func TestKustomizationStatus(t *testing.T) {
	start := time.Date(2026, 11, 21, 12, 0, 0, 0, time.UTC)
	rev := delivery.Revision{Name: "main", Commit: "4c1b"}
	inv := delivery.Inventory{
		{Group: "apps", Kind: "Deployment", Namespace: "dev", Name: "web"}: "v1", {Kind: "ConfigMap", Namespace: "dev", Name: "a"}: "v1",
	}
	app := delivery.App{Generation: 2, Wait: true, Ignored: []string{"spec.force"}}
	working := delivery.Outcome{Phase: delivery.Working, Reason: "Progressing", Message: "delivering", Attempted: rev, Inventory: inv}
	ready := delivery.Outcome{
		Phase: delivery.Ready, Reason: "ReconciliationSucceeded", Message: "Applied revision: main@sha1:4c1b", Attempted: rev, Applied: rev,
		Inventory: inv, Health: delivery.Health{Status: delivery.Healthy}, Handled: "t1",
	}
	ready.Digest, ready.Took, ready.Origin = "sha256:01", 1500*time.Millisecond, "v1@sha1:77"
	failing := delivery.Outcome{
		Phase: delivery.Failing, Reason: "HealthCheckFailed", Message: "no", Attempted: rev, Inventory: inv, Digest: "sha256:02", Took: time.Minute,
		Health: delivery.Health{Status: delivery.Degraded, Message: "Deployment/dev/web: no"},
	}

	s := dialect.KustomizationStatus(kustomizev1.KustomizationStatus{}, app, working, start)
	expectStatus(t, "working", s, `
conditions:
- {type: Reconciling, status: "True", reason: Progressing, message: delivering, observedGeneration: 2, lastTransitionTime: "2026-11-21T12:00:00Z"}
- {type: Ready, status: Unknown, reason: Progressing, message: delivering, observedGeneration: 2, lastTransitionTime: "2026-11-21T12:00:00Z"}
- {type: FieldsIgnored, status: "True", reason: NotSupported, message: "spec.force: not supported yet, without effect", observedGeneration: 2, lastTransitionTime: "2026-11-21T12:00:00Z"}
lastAttemptedRevision: main@sha1:4c1b
inventory: {entries: [{id: dev_a__ConfigMap, v: v1}, {id: dev_web_apps_Deployment, v: v1}]}
`)
	app.Ignored = nil
	s = dialect.KustomizationStatus(s, app, ready, start.Add(time.Second))
	expectStatus(t, "ready", s, `
observedGeneration: 2
lastHandledReconcileAt: t1
conditions:
- {type: Ready, status: "True", reason: ReconciliationSucceeded, message: "Applied revision: main@sha1:4c1b", observedGeneration: 2, lastTransitionTime: "2026-11-21T12:00:01Z"}
- {type: Healthy, status: "True", reason: Succeeded, message: every object is healthy, observedGeneration: 2, lastTransitionTime: "2026-11-21T12:00:01Z"}
lastAttemptedRevision: main@sha1:4c1b
lastAppliedRevision: main@sha1:4c1b
lastAppliedOriginRevision: v1@sha1:77
inventory: {entries: [{id: dev_a__ConfigMap, v: v1}, {id: dev_web_apps_Deployment, v: v1}]}
history:
- {digest: "sha256:01", firstReconciled: "2026-11-21T12:00:01Z", lastReconciled: "2026-11-21T12:00:01Z", lastReconciledDuration: 1.5s,
   lastReconciledStatus: ReconciliationSucceeded, totalReconciliations: 1, metadata: {revision: main@sha1:4c1b, originRevision: v1@sha1:77}}
`)
	if again := dialect.KustomizationStatus(s, app, ready, start.Add(time.Hour)); !cmp.Equal(s, again) {
		t.Errorf("the same outcome later changes the status:\n%s", cmp.Diff(s, again))
	}
	s = dialect.KustomizationStatus(s, app, failing, start.Add(time.Minute))
	if got := s.LastAppliedRevision; got != rev.String() {
		t.Errorf("a failure changed the applied revision to %q", got)
	}
	if diff := cmp.Diff(inv, dialect.KustomizationInventory(&s)); diff != "" {
		t.Errorf("the inventory does not survive:\n%s", diff)
	}
	app.Generation = 3
	failing.Message, failing.Took = "still no", 2*time.Minute
	s = dialect.KustomizationStatus(s, app, failing, start.Add(time.Hour))
	expectStatus(t, "failing", s, `
observedGeneration: 2
lastHandledReconcileAt: t1
conditions:
- {type: Ready, status: "False", reason: HealthCheckFailed, message: still no, observedGeneration: 3, lastTransitionTime: "2026-11-21T12:01:00Z"}
- {type: Healthy, status: "False", reason: HealthCheckFailed, message: "Deployment/dev/web: no", observedGeneration: 3, lastTransitionTime: "2026-11-21T12:01:00Z"}
- {type: Reconciling, status: "True", reason: ProgressingWithRetry, message: still no, observedGeneration: 3, lastTransitionTime: "2026-11-21T12:01:00Z"}
lastAttemptedRevision: main@sha1:4c1b
lastAppliedRevision: main@sha1:4c1b
lastAppliedOriginRevision: v1@sha1:77
inventory: {entries: [{id: dev_a__ConfigMap, v: v1}, {id: dev_web_apps_Deployment, v: v1}]}
history:
- {digest: "sha256:02", firstReconciled: "2026-11-21T12:01:00Z", lastReconciled: "2026-11-21T13:00:00Z", lastReconciledDuration: 2m0s,
   lastReconciledStatus: HealthCheckFailed, totalReconciliations: 2, metadata: {revision: main@sha1:4c1b}}
- {digest: "sha256:01", firstReconciled: "2026-11-21T12:00:01Z", lastReconciled: "2026-11-21T12:00:01Z", lastReconciledDuration: 1.5s,
   lastReconciledStatus: ReconciliationSucceeded, totalReconciliations: 1, metadata: {revision: main@sha1:4c1b, originRevision: v1@sha1:77}}
`)
	s = dialect.KustomizationStatus(s, app, delivery.Outcome{Phase: delivery.Stalled, Reason: "InvalidCELExpression", Message: "no", Inventory: inv}, start.Add(time.Hour))
	if s.ObservedGeneration != 3 || len(s.History) != 2 {
		t.Errorf("what only a person can help with: observed generation %d, %d attempts in the history; want 3 and 2", s.ObservedGeneration, len(s.History))
	}
}

func TestKustomizationHealth(t *testing.T) {
	app, err := dialect.Kustomization(kustomization(t, `
metadata: {name: shop, namespace: team}
spec:
  healthChecks:
  - {kind: Deployment, name: web}
  - {apiVersion: helm.toolkit.fluxcd.io/v2, kind: HelmRelease, name: db, namespace: data}
  healthCheckExprs:
  - {apiVersion: bitnami.com/v1alpha1, kind: SealedSecret, current: "a", failed: "b", inProgress: "c"}
  - {apiVersion: v1, current: "d"}
  dependsOn: [{name: a}, {name: b, namespace: other, readyExpr: "dep.x"}]
`))
	if err != nil {
		t.Fatal(err)
	}
	got := delivery.App{HealthChecks: app.HealthChecks, HealthExprs: app.HealthExprs, DependsOn: app.DependsOn, ReadyExprs: app.ReadyExprs}
	b := delivery.ID{Kind: "Kustomization", Namespace: "other", Name: "b"}
	want := delivery.App{
		HealthChecks: []delivery.HealthCheck{
			{Ref: delivery.Ref{Group: "apps", Kind: "Deployment", Name: "web"}, Version: "v1"},
			{Ref: delivery.Ref{Group: "helm.toolkit.fluxcd.io", Kind: "HelmRelease", Namespace: "data", Name: "db"}, Version: "v2"},
		},
		HealthExprs: []delivery.HealthExpr{
			{Group: "bitnami.com", Kind: "SealedSecret", Current: "a", Failed: "b", InProgress: "c"}, {Current: "d"},
		},
		DependsOn:  []delivery.ID{{Kind: "Kustomization", Namespace: "team", Name: "a"}, b},
		ReadyExprs: map[delivery.ID]string{b: "dep.x"},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("app (-want +got):\n%s", diff)
	}
	if !app.WaitsForHealth() || app.Wait {
		t.Error("an app with health checks waits for them only")
	}
	_, err = dialect.Kustomization(kustomization(t, "spec: {healthChecks: [{apiVersion: a/b/c, kind: X, name: x}]}"))
	if err == nil || !strings.Contains(err.Error(), "spec.healthChecks[0].apiVersion") {
		t.Errorf("a malformed apiVersion: %v", err)
	}
}

func expectStatus(t *testing.T, name string, got kustomizev1.KustomizationStatus, want string) {
	t.Helper()
	var w kustomizev1.KustomizationStatus
	decode(t, want, &w)
	if diff := cmp.Diff(w, got); diff != "" {
		t.Errorf("%s (-want +got):\n%s", name, diff)
	}
}

func kustomization(t *testing.T, text string) *kustomizev1.Kustomization {
	t.Helper()
	var k kustomizev1.Kustomization
	decode(t, text, &k)
	return &k
}

func decode(t *testing.T, text string, into any) {
	t.Helper()
	if err := yaml.Unmarshal([]byte(text), into); err != nil {
		t.Fatal(err)
	}
}
