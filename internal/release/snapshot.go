package release

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"slices"

	chart "helm.sh/helm/v4/pkg/chart/v2"
	helm "helm.sh/helm/v4/pkg/release/v1"

	"keelson.dev/keelson/internal/delivery"
	"keelson.dev/keelson/internal/dialect"
)

// snapshotVersion says in a snapshot how its digest is computed: over Helm 4's types. Snapshots without a version are of Helm 3's, whose
// digests are taken for right, as upstream does (v2.CurrentSnapshotAPIVersion).
const snapshotVersion = "v2"

// observation is what a snapshot's digest is computed of: a release as the storage has it, of its chart the metadata only. The fields,
// their order and their names in JSON are helm-controller's.
type observation struct {
	Name          string         `json:"name"`
	Version       int            `json:"version"`
	Info          helm.Info      `json:"info"`
	ChartMetadata chart.Metadata `json:"chartMetadata"`
	Config        map[string]any `json:"config"`
	Manifest      string         `json:"manifest"`
	Hooks         []helm.Hook    `json:"hooks"`
	Namespace     string         `json:"namespace"`
	OCIDigest     string         `json:"ociDigest,omitempty"`
}

// Snapshot is what a status remembers of a release. ociDigest is that of the OCI artifact that its chart came as; empty: it did not.
// What did it, and its tests, are left to the caller.
func Snapshot(rel *helm.Release, ociDigest string) delivery.ReleaseSnapshot {
	o := observe(rel, ociDigest)
	return delivery.ReleaseSnapshot{
		APIVersion: snapshotVersion, Digest: o.digest(), Name: o.Name, Namespace: o.Namespace, Version: o.Version,
		Status: o.Info.Status.String(), ChartName: o.ChartMetadata.Name, ChartVersion: o.ChartMetadata.Version,
		AppVersion: o.ChartMetadata.AppVersion, ConfigDigest: dialect.ValuesDigest(o.Config), OCIDigest: ociDigest,
		FirstDeployed: o.Info.FirstDeployed, LastDeployed: o.Info.LastDeployed, Deleted: o.Info.Deleted,
	}
}

// Verify tells whether a release is still as it was when the snapshot of it was taken.
func Verify(rel *helm.Release, s delivery.ReleaseSnapshot) bool {
	if !s.Targets(rel.Name, rel.Namespace, rel.Version) {
		return false
	}
	return s.APIVersion != snapshotVersion || observe(rel, s.OCIDigest).digest() == s.Digest
}

// observe leaves tests out: whoever runs them does not change the release.
func observe(rel *helm.Release, ociDigest string) observation {
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
		if h != nil && !slices.Contains(h.Events, helm.HookTest) {
			o.Hooks = append(o.Hooks, *h)
		}
	}
	return o
}

// digest is empty for what JSON cannot say.
func (o observation) digest() string {
	h := sha256.New()
	if err := json.NewEncoder(h).Encode(o); err != nil {
		return ""
	}
	return "sha256:" + hex.EncodeToString(h.Sum(nil))
}
