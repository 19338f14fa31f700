package dialect

import (
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"time"

	helmv2 "github.com/fluxcd/helm-controller/api/v2"
	"github.com/fluxcd/pkg/apis/meta"
	sourcev1 "github.com/fluxcd/source-controller/api/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"keelson.dev/keelson/internal/delivery"
)

// Labels that mark an object as a HelmRelease's; Flux sets the same.
const (
	HelmOwnerNameLabel      = "helm.toolkit.fluxcd.io/name"
	HelmOwnerNamespaceLabel = "helm.toolkit.fluxcd.io/namespace"
)

// DriftDetectionMark is the label or annotation with which an object of a release says, by the value "disabled", that no drift of it counts.
const DriftDetectionMark = "helm.toolkit.fluxcd.io/driftDetection"

// HelmManager is the field manager under which the helm program writes the objects of releases.
const HelmManager = "helm"

// maxReleaseName bounds the name of a release, in bytes: Helm's limit.
const maxReleaseName = 53

// retryAfter is upstream's pause before an action is tried again, where the strategy is to retry.
const retryAfter = 5 * time.Minute

// HelmLabels are the labels of an object of a release.
func HelmLabels(app delivery.ID) map[string]string {
	return map[string]string{HelmOwnerNameLabel: app.Name, HelmOwnerNamespaceLabel: app.Namespace}
}

// HelmOwner reads [HelmLabels]; the zero ID: nobody's.
func HelmOwner(labels map[string]string) delivery.ID {
	name, namespace := labels[HelmOwnerNameLabel], labels[HelmOwnerNamespaceLabel]
	if name == "" || namespace == "" {
		return delivery.ID{}
	}
	return delivery.ID{Kind: helmv2.HelmReleaseKind, Namespace: namespace, Name: name}
}

// HelmRelease reads a Flux HelmRelease, with upstream's defaults. Fields that are not implemented are listed in Refused or Ignored.
func HelmRelease(hr *helmv2.HelmRelease) (delivery.App, error) {
	spec := &hr.Spec
	app := delivery.App{
		ID:             delivery.ID{Kind: helmv2.HelmReleaseKind, Namespace: hr.Namespace, Name: hr.Name},
		UID:            string(hr.UID),
		Environment:    delivery.EnvironmentOf(hr.Labels, hr.Spec.TargetNamespace, hr.Namespace),
		Generation:     hr.Generation,
		Source:         chartSource(hr),
		Namespace:      hr.GetReleaseNamespace(),
		KubeConfig:     kubeConfig(spec.KubeConfig),
		ServiceAccount: spec.ServiceAccountName,
		Suspend:        spec.Suspend,
		Interval:       spec.Interval.Duration, Timeout: hr.GetTimeout().Duration,
		Requested: hr.Annotations[meta.ReconcileRequestAnnotation], RequestedBy: RequestedBy(hr.Annotations),
		Release: helmRelease(hr),
	}
	if m := spec.CommonMetadata; m != nil {
		app.Common = delivery.Metadata{Labels: m.Labels, Annotations: m.Annotations}
	}
	for _, d := range spec.DependsOn {
		id := delivery.ID{Kind: helmv2.HelmReleaseKind, Namespace: orElse(d.Namespace, hr.Namespace), Name: d.Name}
		app.DependsOn = append(app.DependsOn, id)
		if d.ReadyExpr != "" {
			if app.ReadyExprs == nil {
				app.ReadyExprs = map[delivery.ID]string{}
			}
			app.ReadyExprs[id] = d.ReadyExpr
		}
	}
	for _, e := range spec.HealthCheckExprs {
		app.HealthExprs = append(app.HealthExprs, delivery.HealthExpr{
			Group: schema.FromAPIVersionAndKind(e.APIVersion, e.Kind).Group, Kind: e.Kind,
			InProgress: e.InProgress, Failed: e.Failed, Current: e.Current,
		})
	}
	app.Refused, app.Ignored = unsupportedHelmRelease(spec, app.Release.Chart)
	var err error
	app.Guard, err = guard(hr.Annotations)
	return app, err
}

// chartSource is what gives the chart. For a template it is the HelmChart that Flux would make for it, beside the template's source.
func chartSource(hr *helmv2.HelmRelease) delivery.ID {
	switch spec := &hr.Spec; {
	case spec.ChartRef != nil:
		return delivery.ID{Kind: spec.ChartRef.Kind, Namespace: orElse(spec.ChartRef.Namespace, hr.Namespace), Name: spec.ChartRef.Name}
	case spec.Chart != nil:
		return delivery.ID{Kind: sourcev1.HelmChartKind, Namespace: spec.Chart.GetNamespace(hr.Namespace), Name: hr.GetHelmChartName()}
	default:
		return delivery.ID{}
	}
}

func helmRelease(hr *helmv2.HelmRelease) *delivery.HelmRelease {
	spec := &hr.Spec
	r := &delivery.HelmRelease{
		Name: shortName(hr.GetReleaseName()), Namespace: hr.GetReleaseNamespace(), StorageNamespace: hr.GetStorageNamespace(),
		Chart:     chartTemplate(hr),
		Install:   helmInstall(hr),
		Upgrade:   helmUpgrade(hr),
		Rollback:  helmRollback(hr),
		Uninstall: helmUninstall(hr),
		Test:      helmTest(hr),
		Drift:     delivery.DriftMode(hr.GetDriftDetection().GetMode()),

		HookRendering: cmp.Or(delivery.HookRendering(spec.PostRenderStrategy), delivery.HooksCombined),
		MaxHistory:    hr.GetMaxHistory(),
		LegacyWait:    hr.GetWaitStrategy() == helmv2.WaitStrategyLegacy,
		Force:         hr.Annotations[helmv2.ForceRequestAnnotation],
		Reset:         hr.Annotations[helmv2.ResetRequestAnnotation],
	}
	if spec.Values != nil {
		r.Values = spec.Values.Raw
	}
	for _, v := range spec.ValuesFrom {
		r.ValuesFrom = append(r.ValuesFrom, delivery.ValuesRef{
			Kind: v.Kind, Name: v.Name, Key: v.GetValuesKey(), Path: v.TargetPath, Literal: v.Literal, Optional: v.Optional,
		})
	}
	for _, rule := range hr.GetDriftDetection().Ignore {
		r.DriftIgnore = append(r.DriftIgnore, delivery.IgnoreRule{Paths: rule.Paths, Target: selector(rule.Target)})
	}
	for _, p := range spec.PostRenderers {
		if p.Kustomize == nil {
			continue
		}
		var own delivery.PostRenderer
		for _, patch := range p.Kustomize.Patches {
			own.Patches = append(own.Patches, delivery.Patch{Patch: patch.Patch, Target: selector(patch.Target)})
		}
		for _, i := range p.Kustomize.Images {
			own.Images = append(own.Images, delivery.Image{Name: i.Name, NewName: i.NewName, NewTag: i.NewTag, Digest: i.Digest})
		}
		r.PostRenderers = append(r.PostRenderers, own)
	}
	if spec.PostRenderers != nil {
		r.PostRenderersDigest = jsonDigest(spec.PostRenderers)
	}
	if spec.CommonMetadata != nil {
		r.CommonMetadataDigest = jsonDigest(spec.CommonMetadata)
	}
	return r
}

func chartTemplate(hr *helmv2.HelmRelease) *delivery.ChartTemplate {
	if hr.Spec.Chart == nil || hr.Spec.ChartRef != nil {
		return nil
	}
	t := hr.Spec.Chart
	chart := &delivery.ChartTemplate{
		Name: t.Spec.Chart, Version: orElse(t.Spec.Version, "*"),
		Source:              delivery.ID{Kind: t.Spec.SourceRef.Kind, Namespace: t.GetNamespace(hr.Namespace), Name: t.Spec.SourceRef.Name},
		Interval:            t.GetInterval(hr.Spec.Interval).Duration,
		EachRevision:        t.Spec.ReconcileStrategy == sourcev1.ReconcileStrategyRevision,
		ValuesFiles:         t.Spec.ValuesFiles,
		IgnoreMissingValues: t.Spec.IgnoreMissingValuesFiles,
	}
	if v := t.Spec.Verify; v != nil {
		chart.Verify.Provider = orElse(v.Provider, "cosign")
		if v.SecretRef != nil {
			chart.Verify.Secret = v.SecretRef.Name
		}
	}
	return chart
}

func helmInstall(hr *helmv2.HelmRelease) delivery.HelmInstall {
	in := hr.GetInstall()
	out := delivery.HelmInstall{
		HelmWait: delivery.HelmWait{
			Timeout: in.GetTimeout(hr.GetTimeout()).Duration, NoWait: in.DisableWait, NoJobs: in.DisableWaitForJobs, NoHooks: in.DisableHooks,
		},
		HelmWrite: delivery.HelmWrite{
			NoTakeOwnership: in.DisableTakeOwnership, NoOpenAPI: in.DisableOpenAPIValidation, NoSchema: in.DisableSchemaValidation,
			CRDs: cmp.Or(delivery.CRDPolicy(in.CRDs), delivery.CreateCRDs), Apply: delivery.ServerSide,
		},
		Replace:         in.Replace,
		CreateNamespace: in.CreateNamespace && hr.Spec.TargetNamespace != "", // the HelmRelease's own is there
	}
	if in.SkipCRDs && in.CRDs == "" {
		out.CRDs = delivery.SkipCRDs
	}
	if in.ServerSideApply != nil && !*in.ServerSideApply {
		out.Apply = delivery.ClientSide
	}
	remedy := in.GetRemediation()
	out.Remediation = delivery.Remediation{
		Retries: remedy.GetRetries(), IgnoreTestFailures: remedy.MustIgnoreTestFailures(hr.GetTest().IgnoreFailures),
		LastFailure: remedy.MustRemediateLastFailure(), By: delivery.UninstallRelease,
	}
	if in.Strategy != nil {
		out.Remediation.Retry = retry(in.Strategy.Name, in.Strategy.RetryInterval)
	}
	return out
}

func helmUpgrade(hr *helmv2.HelmRelease) delivery.HelmUpgrade {
	up := hr.GetUpgrade()
	remedy := up.GetRemediation()
	out := delivery.HelmUpgrade{
		HelmWait: delivery.HelmWait{
			Timeout: up.GetTimeout(hr.GetTimeout()).Duration, NoWait: up.DisableWait, NoJobs: up.DisableWaitForJobs, NoHooks: up.DisableHooks,
		},
		HelmWrite: delivery.HelmWrite{
			NoTakeOwnership: up.DisableTakeOwnership, NoOpenAPI: up.DisableOpenAPIValidation, NoSchema: up.DisableSchemaValidation,
			CRDs: cmp.Or(delivery.CRDPolicy(up.CRDs), delivery.SkipCRDs), Apply: cmp.Or(delivery.ApplyMode(up.ServerSideApply), delivery.AsBefore),
			Remediation: delivery.Remediation{
				Retries: remedy.GetRetries(), IgnoreTestFailures: remedy.MustIgnoreTestFailures(hr.GetTest().IgnoreFailures),
				LastFailure: remedy.MustRemediateLastFailure(), By: delivery.ReleaseAction(remedy.GetStrategy()),
			},
		},
		Force: up.Force, PreserveValues: up.PreserveValues, CleanupOnFail: up.CleanupOnFail,
		ReinstallChart: up.GetChartNameChangeStrategy() == helmv2.ChartNameChangeStrategyReinstall,
	}
	if up.Strategy != nil {
		out.Remediation.Retry = retry(up.Strategy.Name, up.Strategy.RetryInterval)
	}
	return out
}

// retry is the pause before an action is tried again; zero: a failure is remedied.
func retry(strategy string, interval *metav1.Duration) time.Duration {
	switch {
	case strategy != string(helmv2.ActionStrategyRetryOnFailure):
		return 0
	case interval == nil || interval.Duration <= 0:
		return retryAfter
	default:
		return interval.Duration
	}
}

func helmRollback(hr *helmv2.HelmRelease) delivery.HelmRollback {
	back := hr.GetRollback()
	return delivery.HelmRollback{
		HelmWait: delivery.HelmWait{
			Timeout: back.GetTimeout(hr.GetTimeout()).Duration, NoWait: back.DisableWait, NoJobs: back.DisableWaitForJobs, NoHooks: back.DisableHooks,
		},
		Force: back.Force, CleanupOnFail: back.CleanupOnFail, Apply: cmp.Or(delivery.ApplyMode(back.ServerSideApply), delivery.AsBefore),
	}
}

func helmUninstall(hr *helmv2.HelmRelease) delivery.HelmUninstall {
	out := hr.GetUninstall()
	return delivery.HelmUninstall{
		HelmWait:    delivery.HelmWait{Timeout: out.GetTimeout(hr.GetTimeout()).Duration, NoWait: out.DisableWait, NoHooks: out.DisableHooks},
		KeepHistory: out.KeepHistory, Propagation: out.GetDeletionPropagation(),
	}
}

func helmTest(hr *helmv2.HelmRelease) delivery.HelmTest {
	test := hr.GetTest()
	out := delivery.HelmTest{Enable: test.Enable, Timeout: test.GetTimeout(hr.GetTimeout()).Duration, IgnoreFailures: test.IgnoreFailures}
	for _, f := range test.GetFilters() {
		out.Filters = append(out.Filters, delivery.TestFilter{Name: f.Name, Exclude: f.Exclude})
	}
	return out
}

// unsupportedHelmRelease names the fields that are not implemented, and those that cannot mean anything: those whose being ignored
// would release something else, or elsewhere, than the user asked for, and those that only have no effect.
func unsupportedHelmRelease(spec *helmv2.HelmReleaseSpec, chart *delivery.ChartTemplate) (refused, ignored []string) {
	fields := []field{
		{"spec without exactly one of chart and chartRef", (spec.Chart == nil) == (spec.ChartRef == nil)},
		{"spec.kubeConfig without exactly one of secretRef and configMapRef", badKubeConfig(spec.KubeConfig)},
	}
	if ref := spec.ChartRef; ref != nil {
		known := []string{sourcev1.OCIRepositoryKind, sourcev1.HelmChartKind}
		fields = append(fields, field{"spec.chartRef.kind " + ref.Kind, !slices.Contains(known, ref.Kind)})
	}
	for i, v := range spec.ValuesFrom {
		fields = append(fields, field{fmt.Sprintf("spec.valuesFrom[%d].kind %s", i, v.Kind), v.Kind != "Secret" && v.Kind != "ConfigMap"})
	}
	refused = set(fields)
	if chart != nil {
		for _, name := range ChartRefused(*chart) {
			refused = append(refused, "spec.chart."+name)
		}
	}
	ignored = set([]field{
		{"spec.chart.metadata", spec.Chart != nil && spec.Chart.ObjectMeta != nil}, // no HelmChart is made
		{"spec.rollback.recreate", spec.Rollback != nil && spec.Rollback.Recreate}, //nolint:staticcheck // deprecated, and named for that
	})
	if d := spec.DriftDetection; d != nil {
		for i, rule := range d.Ignore {
			for _, p := range rule.Paths {
				if _, ok := delivery.ParsePointer(p); !ok && p != "" {
					ignored = append(ignored, fmt.Sprintf("spec.driftDetection.ignore[%d].paths %q, which is no JSON pointer", i, p))
				}
			}
		}
	}
	return refused, ignored
}

// shortName is the name of a release as upstream shortens it: the first 40 bytes of a longer one and a hash of all of it.
func shortName(name string) string {
	if len(name) <= maxReleaseName {
		return name
	}
	sum := sha256.Sum256([]byte(name))
	return name[:maxReleaseName-13] + "-" + hex.EncodeToString(sum[:])[:12]
}

// jsonDigest identifies a part of a spec as upstream does: the SHA-256 of its JSON and a line feed.
func jsonDigest(v any) string {
	var b strings.Builder
	if err := json.NewEncoder(&b).Encode(v); err != nil {
		return ""
	}
	sum := sha256.Sum256([]byte(b.String()))
	return "sha256:" + hex.EncodeToString(sum[:])
}
