package dialect

import (
	"errors"
	"fmt"
	"strings"
	"time"

	fluxmeta "github.com/fluxcd/pkg/apis/meta"
	sourcev1 "github.com/fluxcd/source-controller/api/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"keelson.dev/keelson/internal/delivery"
)

// maxTimeout bounds one exchange with a repository, whatever is asked for: the number of exchanges at once is bounded too.
const maxTimeout = 10 * time.Minute

// GitRepository reads a Flux GitRepository; credentials come from its Secret ([Credentials]).
func GitRepository(g *sourcev1.GitRepository) delivery.Source {
	spec := &g.Spec
	src := delivery.Source{
		ID:  delivery.ID{Kind: sourcev1.GitRepositoryKind, Namespace: g.Namespace, Name: g.Name},
		URL: spec.URL, Interval: spec.Interval.Duration, Timeout: time.Minute, Suspend: spec.Suspend,
		Requested: g.Annotations[fluxmeta.ReconcileRequestAnnotation],
	}
	if spec.Timeout != nil {
		src.Timeout = min(spec.Timeout.Duration, maxTimeout)
	}
	if spec.Ignore != nil {
		src.Ignore, src.HasIgnore = *spec.Ignore, true
	}
	semver := false
	if r := spec.Reference; r != nil {
		src.Ref = delivery.GitRef{Branch: r.Branch, Tag: r.Tag, Commit: r.Commit, Name: r.Name}
		semver = r.SemVer != ""
	}
	src.Refused = set([]field{
		{"spec.include", len(spec.Include) > 0},
		{"spec.provider " + spec.Provider, spec.Provider != "" && spec.Provider != sourcev1.GitProviderGeneric},
		{"spec.proxySecretRef", spec.ProxySecretRef != nil},
		{"spec.recurseSubmodules", spec.RecurseSubmodules},
		{"spec.ref.semver", semver},
		{"spec.serviceAccountName", spec.ServiceAccountName != ""},
		{"spec.sparseCheckout", len(spec.SparseCheckout) > 0},
		{"spec.verify", spec.Verification != nil},
	})
	return src
}

// Credentials reads the data of a GitRepository's Secret: username and password, or bearerToken.
// Keys that are not supported yet are an error that names them.
func Credentials(data map[string][]byte) (delivery.Credentials, error) {
	c := delivery.Credentials{
		Username: string(data["username"]), Password: string(data["password"]), BearerToken: string(data["bearerToken"]),
	}
	for _, key := range []string{"identity", "known_hosts", "ca.crt", "caFile", "tls.crt", "tls.key", "githubAppID"} {
		if len(data[key]) > 0 {
			return c, fmt.Errorf("its key %q is not supported yet", key)
		}
	}
	if c == (delivery.Credentials{}) {
		return c, errors.New("it holds neither username and password nor bearerToken")
	}
	return c, nil
}

// Artifact is what a GitRepository's status says of the snapshot. Keelson serves no tarball: it reads the object store,
// so URL is the repository's own and Path names the commit.
type Artifact struct {
	Digest string // of the visible tree, "sha256:…"
	URL    string // of the repository, without userinfo
}

// GitRepositoryStatus gives the status that follows from an outcome.
func GitRepositoryStatus(old sourcev1.GitRepositoryStatus, g *sourcev1.GitRepository, out delivery.Outcome, art Artifact, now time.Time) sourcev1.GitRepositoryStatus {
	s := *old.DeepCopy()
	c := conditions{list: s.Conditions, generation: g.Generation, now: now}
	c.summary(out)
	switch out.Phase {
	case delivery.Ready:
		c.set(sourcev1.ArtifactInStorageCondition, metav1.ConditionTrue, out.Reason, out.Message)
		c.remove(sourcev1.FetchFailedCondition)
	case delivery.Failing, delivery.Stalled:
		c.set(sourcev1.FetchFailedCondition, metav1.ConditionTrue, out.Reason, out.Message)
	}
	s.Conditions = c.list
	if out.Phase != delivery.Working {
		s.ObservedGeneration = g.Generation
	}
	if out.Handled != "" {
		s.LastHandledReconcileAt = out.Handled
	}
	if rev := out.Applied.String(); rev != "" && (s.Artifact == nil || s.Artifact.Revision != rev || s.Artifact.Digest != art.Digest || s.Artifact.URL != art.URL) {
		s.Artifact = &fluxmeta.Artifact{
			Revision: rev, Digest: art.Digest, URL: art.URL, LastUpdateTime: metav1.NewTime(now),
			Path: strings.ToLower("gitrepository/" + g.Namespace + "/" + g.Name + "/" + out.Applied.Commit),
		}
	}
	if g.Spec.Ignore != nil {
		ignore := *g.Spec.Ignore
		s.ObservedIgnore = &ignore
	} else {
		s.ObservedIgnore = nil
	}
	return s
}
