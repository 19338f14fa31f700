package release

import (
	"slices"

	helm "helm.sh/helm/v4/pkg/release/v1"

	"keelson.dev/keelson/internal/delivery"
)

// storedOf is what the storage tells of a version of a release.
func storedOf(rel *helm.Release, ociDigest string) delivery.StoredRelease {
	s := delivery.StoredRelease{ReleaseSnapshot: Snapshot(rel, ociDigest), Labels: rel.Labels}
	if rel.Info != nil {
		s.Description = rel.Info.Description
	}
	return s
}

func isTest(h *helm.Hook) bool { return slices.Contains(h.Events, helm.HookTest) }

// testsOf is how the tests of a release ended that were to be run.
func testsOf(rel *helm.Release, filters []delivery.TestFilter) map[string]delivery.TestHook {
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

// knows tells whether a snapshot is of the release as the storage has it, see [Verify].
func knows(s *delivery.ReleaseSnapshot, stored *delivery.StoredRelease) bool {
	return s != nil && s.Targets(stored.Name, stored.Namespace, stored.Version) && (s.APIVersion != snapshotVersion || s.Digest == stored.Digest)
}
