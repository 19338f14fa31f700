package dialect

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"time"

	fluxmeta "github.com/fluxcd/pkg/apis/meta"
	sourcev1 "github.com/fluxcd/source-controller/api/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"keelson.dev/keelson/internal/delivery"
)

// HelmChart reads a Flux HelmChart.
func HelmChart(h *sourcev1.HelmChart) delivery.ChartTemplate {
	spec := &h.Spec
	t := delivery.ChartTemplate{
		Name: spec.Chart, Version: cmp.Or(spec.Version, "*"), Interval: spec.Interval.Duration,
		Source:       delivery.ID{Kind: spec.SourceRef.Kind, Namespace: h.Namespace, Name: spec.SourceRef.Name},
		EachRevision: spec.ReconcileStrategy == sourcev1.ReconcileStrategyRevision,
		ValuesFiles:  spec.ValuesFiles, IgnoreMissingValues: spec.IgnoreMissingValuesFiles,
	}
	if v := spec.Verify; v != nil {
		t.Verify = delivery.ChartVerification{Provider: cmp.Or(v.Provider, "cosign"), Secret: secretName(v.SecretRef)}
	}
	return t
}

// ChartRefused names what of a template is not implemented: nothing is fetched then.
func ChartRefused(t delivery.ChartTemplate) []string {
	return set([]field{
		{"spec.verify", t.Verify != delivery.ChartVerification{}},
		{"spec.sourceRef.kind " + t.Source.Kind, !chartSources[t.Source.Kind]},
	})
}

var chartSources = map[string]bool{sourcev1.HelmRepositoryKind: true, sourcev1.GitRepositoryKind: true}

// ChartArtifact is what a HelmChart's status says of its chart.
type ChartArtifact struct {
	Name, Version  string
	Digest, URL    string
	SourceRevision string   // of what it was made from
	ValuesFiles    []string // that were merged
}

// Summary tells of the chart in upstream's words, with the reason. A chart of a HelmRepository with its own values is as it was pulled.
func (a ChartArtifact) Summary(h *sourcev1.HelmChart) (reason, message string) {
	reason, action := sourcev1.ChartPackageSucceededReason, "packaged"
	if h.Spec.SourceRef.Kind == sourcev1.HelmRepositoryKind && len(h.Spec.ValuesFiles) == 0 {
		reason, action = sourcev1.ChartPullSucceededReason, "pulled"
	}
	message = fmt.Sprintf("%s '%s' chart with version '%s'", action, a.Name, a.Version)
	if len(a.ValuesFiles) > 0 {
		message += fmt.Sprintf(" and merged values files %v", a.ValuesFiles)
	}
	return reason, message
}

// buildReasons are those of a chart that is there and cannot be used.
var buildReasons = []string{"MetadataPatchError", "ValuesFilesError", "DependencyBuildError", "ChartPackageError", "ChartVerificationError"}

// ChartStalls tells whether only a person can help a HelmChart (upstream).
func ChartStalls(reason string) bool {
	return slices.Contains([]string{"InvalidChartReference", "MetadataPatchError", "ValuesFilesError", "FieldsNotSupported"}, reason)
}

// HelmChartStatus gives the status that follows from an outcome; art is the chart of one that is ready.
func HelmChartStatus(h *sourcev1.HelmChart, out delivery.Outcome, art ChartArtifact, now time.Time) sourcev1.HelmChartStatus {
	s := *h.Status.DeepCopy()
	c := conditions{list: s.Conditions, generation: h.Generation, now: now}
	c.summary(out)
	build := slices.Contains(buildReasons, out.Reason)
	switch out.Phase {
	case delivery.Ready:
		c.set(sourcev1.ArtifactInStorageCondition, metav1.ConditionTrue, out.Reason, out.Message)
		c.remove(sourcev1.FetchFailedCondition, sourcev1.BuildFailedCondition)
	case delivery.Failing, delivery.Stalled:
		failed, fine := sourcev1.FetchFailedCondition, sourcev1.BuildFailedCondition
		if build {
			failed, fine = fine, failed
		}
		c.set(failed, metav1.ConditionTrue, out.Reason, out.Message)
		c.remove(fine)
	}
	s.Conditions = c.list
	if out.Phase != delivery.Working {
		s.ObservedGeneration = h.Generation
	}
	if out.Handled != "" {
		s.LastHandledReconcileAt = out.Handled
	}
	if out.Phase != delivery.Ready {
		return s
	}
	s.ObservedChartName, s.ObservedSourceArtifactRevision, s.ObservedValuesFiles = art.Name, art.SourceRevision, nil
	if h.Spec.IgnoreMissingValuesFiles {
		s.ObservedValuesFiles = art.ValuesFiles
	}
	if a := s.Artifact; a == nil || a.Revision != art.Version || a.Digest != art.Digest || a.URL != art.URL {
		s.Artifact = &fluxmeta.Artifact{
			Revision: art.Version, Digest: art.Digest, URL: art.URL, LastUpdateTime: metav1.NewTime(now),
			Path: strings.ToLower("helmchart/"+h.Namespace) + "/" + h.Name + "/" + art.Name + "-" + art.Version + ".tgz",
		}
	}
	s.URL = s.Artifact.URL
	return s
}
