package dialect

import (
	"fmt"
	"strings"
	"time"

	fluxmeta "github.com/fluxcd/pkg/apis/meta"
	sourcev1 "github.com/fluxcd/source-controller/api/v1"

	"keelson.dev/keelson/internal/delivery"
)

// RepositoryChartKind is that of the ids of charts of HelmRepositories, as HelmCharts and HelmReleases want them.
const RepositoryChartKind = "HelmRepositoryChart"

const (
	// defaultHelmInterval is that of a HelmRepository that names none (upstream).
	defaultHelmInterval = time.Minute
	// suspendedInterval is that of the charts of one that is suspended: there is nothing new to look for.
	suspendedInterval = 30 * 24 * time.Hour
)

// HelmRepository reads a Flux HelmRepository: its index is followed. One of the type oci has none ([IsStatic]).
func HelmRepository(h *sourcev1.HelmRepository) delivery.Source {
	spec := &h.Spec
	src := delivery.Source{
		ID:  delivery.ID{Kind: sourcev1.HelmRepositoryKind, Namespace: h.Namespace, Name: h.Name},
		URL: spec.URL, Index: true, Interval: h.GetRequeueAfter(), Timeout: boundedTimeout(spec.Timeout), Suspend: spec.Suspend,
		Requested:   h.Annotations[fluxmeta.ReconcileRequestAnnotation],
		Secrets:     delivery.SecretRefs{Credentials: secretName(spec.SecretRef), Certificates: secretName(spec.CertSecretRef)},
		Credentials: delivery.Credentials{PassAll: spec.PassCredentials},
	}
	if src.Interval <= 0 {
		src.Interval = defaultHelmInterval
	}
	if IsStatic(h) {
		src.Credentials.PlainHTTP, src.Credentials.Insecure = spec.Insecure, spec.Insecure
		src.Refused = set([]field{
			{cloudProvider(spec.Provider), isCloud(spec.Provider) && spec.SecretRef == nil},
			{"spec.url without oci://", !strings.HasPrefix(spec.URL, sourcev1.OCIRepositoryPrefix)},
		})
	}
	return src
}

// IsStatic tells whether a HelmRepository only says where charts are: nothing of it is fetched, and it has no status (upstream).
func IsStatic(h *sourcev1.HelmRepository) bool { return h.Spec.Type == sourcev1.HelmRepositoryTypeOCI }

// RepositoryChart gives the chart of a HelmRepository that a template names. Whoever wants the same gets the same one. index is the
// revision of the repository's index; of a registry there is none.
func RepositoryChart(h *sourcev1.HelmRepository, t delivery.ChartTemplate, index delivery.Revision) delivery.Source {
	src := HelmRepository(h)
	src.Index, src.Suspend, src.Requested = false, false, ""
	src.Chart, src.Ref, src.IndexAt = t.Name, delivery.GitRef{SemVer: t.Version}, index.Commit
	if t.Interval > 0 {
		src.Interval = t.Interval
	}
	if h.Spec.Suspend && !IsStatic(h) {
		src.IndexFixed, src.Interval = true, suspendedInterval
	}
	src.ID = delivery.ID{Kind: RepositoryChartKind, Namespace: h.Namespace, Name: fmt.Sprintf("%s/%s@%s every %s", h.Name, t.Name, t.Version, src.Interval)}
	return src
}

// HelmRepositoryStatus gives the status that follows from an outcome.
func HelmRepositoryStatus(h *sourcev1.HelmRepository, out delivery.Outcome, art Artifact, now time.Time) sourcev1.HelmRepositoryStatus {
	s := *h.Status.DeepCopy()
	c := conditions{list: s.Conditions, generation: h.Generation, now: now}
	c.summary(out)
	c.fetched(out)
	s.Conditions = c.list
	if out.Phase != delivery.Working {
		s.ObservedGeneration = h.Generation
	}
	if out.Handled != "" {
		s.LastHandledReconcileAt = out.Handled
	}
	s.Artifact = artifactOf(s.Artifact, h, sourcev1.HelmRepositoryKind, out, art, now)
	if s.Artifact != nil {
		s.URL = s.Artifact.URL
	}
	return s
}
