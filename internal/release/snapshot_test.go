package release

import (
	"encoding/json"
	"testing"
	"time"

	chart "helm.sh/helm/v4/pkg/chart/v2"
	"helm.sh/helm/v4/pkg/release/common"
	helm "helm.sh/helm/v4/pkg/release/v1"

	"keelson.dev/keelson/internal/delivery"
)

// The digest of helm-controller's own test, over Helm 3's types, differs in nothing but Info, whose times Helm 3 always wrote.
func TestDigest(t *testing.T) {
	helm3 := struct {
		Name    string `json:"name"`
		Version int    `json:"version"`
		Info    struct {
			FirstDeployed string `json:"first_deployed"`
			LastDeployed  string `json:"last_deployed"`
			Deleted       string `json:"deleted"`
		} `json:"info"`
		ChartMetadata chart.Metadata `json:"chartMetadata"`
		Config        map[string]any `json:"config"`
		Manifest      string         `json:"manifest"`
		Hooks         []helm.Hook    `json:"hooks"`
		Namespace     string         `json:"namespace"`
	}{Name: "foo"}
	was, err := json.Marshal(helm3)
	if err != nil {
		t.Fatal(err)
	}
	is, err := json.Marshal(observe(&helm.Release{Name: "foo"}, ""))
	if err != nil {
		t.Fatal(err)
	}
	const info3 = `{"first_deployed":"","last_deployed":"","deleted":""}`
	if want := string(was); want != `{"name":"foo","version":0,"info":`+info3+`,"chartMetadata":{},"config":null,"manifest":"","hooks":null,"namespace":""}` {
		t.Errorf("Helm 3: %s", want)
	}
	if got := string(is); got != `{"name":"foo","version":0,"info":{},"chartMetadata":{},"config":null,"manifest":"","hooks":null,"namespace":""}` {
		t.Errorf("Helm 4: %s", got)
	}
	if got := observe(&helm.Release{Name: "foo"}, "").digest(); got != "sha256:f1498f27a16a09cd7e1ee610d924df065c03d30035638babc95dd9a8d412ce4d" {
		t.Error(got)
	}
}

func TestSnapshot(t *testing.T) {
	when := time.Date(2026, 11, 21, 2, 24, 7, 123456789, time.FixedZone("", 3600))
	rel := &helm.Release{
		Name: "web", Namespace: "shop", Version: 2, Manifest: "kind: ConfigMap\n",
		Info:   &helm.Info{FirstDeployed: when, LastDeployed: when, Status: common.StatusDeployed, Description: "Upgrade complete"},
		Chart:  &chart.Chart{Metadata: &chart.Metadata{Name: "web", Version: "1.2.3", AppVersion: "7", APIVersion: "v2"}},
		Config: map[string]any{"replicas": 3},
		Hooks: []*helm.Hook{
			{Name: "migrate", Events: []helm.HookEvent{helm.HookPreUpgrade}},
			{Name: "smoke", Events: []helm.HookEvent{helm.HookTest}},
		},
	}
	s := Snapshot(rel, "sha256:abc")
	if s.APIVersion != "v2" || s.ChartName != "web" || s.ChartVersion != "1.2.3" || s.AppVersion != "7" || s.Status != "deployed" || s.Version != 2 {
		t.Errorf("%+v", s)
	}
	stored := decoded(t, rel)
	if !Verify(stored, s) {
		t.Error("a release is not recognised after it was stored")
	}
	stored.Hooks[1].LastRun.Phase = helm.HookPhaseFailed
	if !Verify(stored, s) {
		t.Error("a run of its tests makes a release another one")
	}
	for name, change := range map[string]func(*helm.Release){
		"manifest": func(r *helm.Release) { r.Manifest += "# edited\n" },
		"status":   func(r *helm.Release) { r.Info.Status = common.StatusSuperseded },
		"values":   func(r *helm.Release) { r.Config["replicas"] = 4 },
		"hook":     func(r *helm.Release) { r.Hooks[0].LastRun.Phase = helm.HookPhaseFailed },
		"version":  func(r *helm.Release) { r.Version++ },
	} {
		changed := decoded(t, rel)
		change(changed)
		if Verify(changed, s) {
			t.Errorf("%s: a change is not seen", name)
		}
	}
	legacy := s
	legacy.APIVersion, legacy.Digest = "", "sha256:of Helm 3"
	if !Verify(stored, legacy) {
		t.Error("a snapshot of Flux with Helm 3 is not taken for right")
	}
	if Verify(&helm.Release{Name: "web"}, delivery.ReleaseSnapshot{}) {
		t.Error("nothing targets something")
	}
}

func decoded(t *testing.T, rel *helm.Release) *helm.Release {
	t.Helper()
	b, err := json.Marshal(rel)
	if err != nil {
		t.Fatal(err)
	}
	out := &helm.Release{}
	if err := json.Unmarshal(b, out); err != nil {
		t.Fatal(err)
	}
	return out
}
