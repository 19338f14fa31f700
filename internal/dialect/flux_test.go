package dialect_test

import (
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
  serviceAccountName: deployer
  sourceRef: {kind: GitRepository, name: fleet, namespace: flux-system}
  dependsOn: [{name: infra}, {name: crds, namespace: flux-system}]
  components: [../extra]
  ignoreMissingComponents: true
  images: [{name: web, newName: mirror/web, newTag: v2, digest: "sha256:1"}]
  patches: [{patch: "{}", target: {kind: Deployment, name: web}}]
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
		ID:         delivery.ID{Kind: "Kustomization", Namespace: "team", Name: "shop"},
		Generation: 3,
		Source:     delivery.ID{Kind: "GitRepository", Namespace: "flux-system", Name: "fleet"},
		Build: delivery.Build{
			Path: "apps/shop", TargetNamespace: "shop", Components: []string{"../extra"}, IgnoreMissingComponents: true,
			Images:  []delivery.Image{{Name: "web", NewName: "mirror/web", NewTag: "v2", Digest: "sha256:1"}},
			Patches: []delivery.Patch{{Patch: "{}", Target: &delivery.Selector{Kind: "Deployment", Name: "web"}}},
		},
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
		"another source kind": {"{sourceRef: {kind: OCIRepository}}", []string{"spec.sourceRef.kind OCIRepository"}, nil},
		"renamed":             {"{namePrefix: a, nameSuffix: b, sourceRef: {kind: GitRepository}}", []string{"spec.namePrefix", "spec.nameSuffix"}, nil},
		"harmless":            {"{force: true, healthChecks: [{kind: Deployment, name: x}], sourceRef: {kind: GitRepository}}", nil, []string{"spec.force", "spec.healthChecks"}},
		"ready expression":    {"{dependsOn: [{name: a, readyExpr: 'true'}], sourceRef: {kind: GitRepository}}", []string{"spec.dependsOn[].readyExpr"}, nil},
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
`, &g)
	want := delivery.Source{
		ID:  delivery.ID{Kind: "GitRepository", Namespace: "team", Name: "fleet"},
		URL: "https://git.example/fleet.git", Ref: delivery.GitRef{Branch: "main"}, Ignore: "*.md", HasIgnore: true,
		Interval: time.Minute, Timeout: 20 * time.Second, Suspend: true,
		Refused: []string{"spec.provider azure", "spec.recurseSubmodules", "spec.ref.semver", "spec.verify"},
	}
	if diff := cmp.Diff(want, dialect.GitRepository(&g)); diff != "" {
		t.Errorf("source (-want +got):\n%s", diff)
	}
}

func TestCredentials(t *testing.T) {
	tests := map[string]struct {
		data map[string][]byte
		want delivery.Credentials
		bad  bool
	}{
		"basic":         {map[string][]byte{"username": []byte("me"), "password": []byte("p")}, delivery.Credentials{Username: "me", Password: "p"}, false},
		"bearer":        {map[string][]byte{"bearerToken": []byte("t")}, delivery.Credentials{BearerToken: "t"}, false},
		"empty":         {nil, delivery.Credentials{}, true},
		"not supported": {map[string][]byte{"identity": []byte("key")}, delivery.Credentials{}, true},
	}
	for name, tt := range tests {
		got, err := dialect.Credentials(tt.data)
		if got != tt.want || (err != nil) != tt.bad {
			t.Errorf("%s: %+v, %v", name, got, err)
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
	failing := delivery.Outcome{Phase: delivery.Failing, Reason: "BuildFailed", Message: "a.yaml:3: no", Attempted: rev, Inventory: inv}

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
inventory: {entries: [{id: dev_a__ConfigMap, v: v1}, {id: dev_web_apps_Deployment, v: v1}]}
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
