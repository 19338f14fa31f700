package release

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"slices"

	chartv2 "helm.sh/helm/v4/pkg/chart/v2"
	releasev1 "helm.sh/helm/v4/pkg/release/v1"
	"sigs.k8s.io/yaml"

	"keelson.dev/keelson/internal/delivery"
)

// observation is what a snapshot's digest is computed of: the JSON of it, in the order and with the names of upstream's
// (helm-controller, internal/release: Observation), so that a release made by Flux is known again. Of the chart only the metadata count,
// of the hooks those that are no tests, which a person may run at any time.
type observation struct {
	Name          string           `json:"name"`
	Version       int              `json:"version"`
	Info          releasev1.Info   `json:"info"`
	ChartMetadata chartv2.Metadata `json:"chartMetadata"`
	Config        map[string]any   `json:"config"`
	Manifest      string           `json:"manifest"`
	Hooks         []releasev1.Hook `json:"hooks"`
	Namespace     string           `json:"namespace"`
	OCIDigest     string           `json:"ociDigest,omitempty"`
}

// digestOf identifies a release in the storage.
func digestOf(rel *releasev1.Release, ociDigest string) string {
	o := observation{Name: rel.Name, Version: rel.Version, Manifest: rel.Manifest, Namespace: rel.Namespace, OCIDigest: ociDigest}
	if rel.Info != nil {
		o.Info = *rel.Info
	}
	if rel.Chart != nil && rel.Chart.Metadata != nil {
		o.ChartMetadata = *rel.Chart.Metadata
	}
	if len(rel.Config) > 0 {
		o.Config = rel.Config
	}
	for _, h := range rel.Hooks {
		if !isTest(h) {
			o.Hooks = append(o.Hooks, *h)
		}
	}
	hash := sha256.New()
	if err := json.NewEncoder(hash).Encode(o); err != nil {
		return ""
	}
	return "sha256:" + hex.EncodeToString(hash.Sum(nil))
}

func isTest(h *releasev1.Hook) bool { return slices.Contains(h.Events, releasev1.HookTest) }

// snapshotOf is what is remembered of a version of a release.
func snapshotOf(rel *releasev1.Release, ociDigest string) delivery.ReleaseSnapshot {
	s := delivery.ReleaseSnapshot{
		APIVersion: snapshotVersion, Digest: digestOf(rel, ociDigest), Name: rel.Name, Namespace: rel.Namespace, Version: rel.Version,
		ConfigDigest: configDigest(rel.Config), OCIDigest: ociDigest,
	}
	if rel.Info != nil {
		s.Status = rel.Info.Status.String()
		s.FirstDeployed, s.LastDeployed, s.Deleted = rel.Info.FirstDeployed, rel.Info.LastDeployed, rel.Info.Deleted
	}
	if rel.Chart != nil && rel.Chart.Metadata != nil {
		s.ChartName, s.ChartVersion, s.AppVersion = rel.Chart.Metadata.Name, rel.Chart.Metadata.Version, rel.Chart.Metadata.AppVersion
	}
	return s
}

// storedOf is what the storage tells of a version of a release.
func storedOf(rel *releasev1.Release, ociDigest string) delivery.StoredRelease {
	s := delivery.StoredRelease{ReleaseSnapshot: snapshotOf(rel, ociDigest), Labels: rel.Labels}
	if rel.Info != nil {
		s.Description = rel.Info.Description
	}
	return s
}

// testsOf is how the tests of a release ended that were to be run.
func testsOf(rel *releasev1.Release, filters []delivery.TestFilter) map[string]delivery.TestHook {
	out := map[string]delivery.TestHook{}
	for _, h := range rel.Hooks {
		if isTest(h) && wanted(h.Name, filters) {
			out[h.Name] = delivery.TestHook{Started: h.LastRun.StartedAt, Completed: h.LastRun.CompletedAt, Phase: string(h.LastRun.Phase)}
		}
	}
	return out
}

// wanted tells whether a test is to be run, as Helm decides it: what is excluded is not, and where tests are named, only these are.
func wanted(name string, filters []delivery.TestFilter) bool {
	named, included := false, false
	for _, f := range filters {
		switch {
		case f.Exclude && f.Name == name:
			return false
		case !f.Exclude:
			named = true
			included = included || f.Name == name
		}
	}
	return included || !named
}

// knows tells whether a snapshot is of the release as the storage has it.
func knows(s *delivery.ReleaseSnapshot, stored *delivery.StoredRelease) bool {
	if s == nil || !s.Targets(stored.Name, stored.Namespace, stored.Version) {
		return false
	}
	if s.APIVersion != snapshotVersion { // of a Flux before Helm 4: its digest cannot be computed any more (upstream: fluxcd/helm-controller#1383)
		return s.Status == stored.Status && s.ChartName == stored.ChartName && s.ChartVersion == stored.ChartVersion
	}
	return s.Digest == stored.Digest
}

// configDigest identifies values, as upstream does: the sha256 of their YAML, and of nothing where there are none.
func configDigest(values map[string]any) string {
	hash := sha256.New()
	if len(values) > 0 {
		text, err := yaml.Marshal(values)
		if err != nil {
			return ""
		}
		hash.Write(text)
	}
	return "sha256:" + hex.EncodeToString(hash.Sum(nil))
}
