// Package dialect translates other people's kinds into our nouns and our outcomes into their status, purely and both ways.
package dialect

import (
	"cmp"
	"fmt"
	"path"
	"strconv"
	"strings"

	kustomizev1 "github.com/fluxcd/kustomize-controller/api/v1"
	"github.com/fluxcd/pkg/apis/kustomize"
	"github.com/fluxcd/pkg/apis/meta"
	sourcev1 "github.com/fluxcd/source-controller/api/v1"

	"keelson.dev/keelson/internal/delivery"
)

// Annotations of ours on other people's kinds.
const (
	// ConfirmAnnotation holds the commit whose prune or emptiness a person has confirmed.
	ConfirmAnnotation = "keelson.dev/confirm"
	// RequestedByAnnotation says who a request for a reconciliation is from: its value, a space, and the name.
	RequestedByAnnotation = "keelson.dev/requested-by"
	// MaxPruneAnnotation overrides the guard: the share of an app, in percent, that may be pruned unasked; "100" turns it off.
	MaxPruneAnnotation = "keelson.dev/max-prune-percent"
	// AllowEmptyAnnotation with the value "true" lets a commit that renders to nothing delete everything.
	AllowEmptyAnnotation = "keelson.dev/allow-empty"
)

// defaultMaxPrune is the share of an app that may be pruned without confirmation.
const defaultMaxPrune = 50

// Labels that mark an object as a Kustomization's; Flux sets the same.
const (
	OwnerNameLabel      = "kustomize.toolkit.fluxcd.io/name"
	OwnerNamespaceLabel = "kustomize.toolkit.fluxcd.io/namespace"
)

// FluxLabel marks an object as owned by a Kustomization.
func FluxLabel(app delivery.ID, obj delivery.Object) {
	labels := obj.GetLabels()
	if labels == nil {
		labels = map[string]string{}
	}
	labels[OwnerNameLabel], labels[OwnerNamespaceLabel] = app.Name, app.Namespace
	obj.SetLabels(labels)
}

// FluxOwner reads what [FluxLabel] wrote; the zero ID: nobody's.
func FluxOwner(labels map[string]string) delivery.ID {
	name, namespace := labels[OwnerNameLabel], labels[OwnerNamespaceLabel]
	if name == "" || namespace == "" {
		return delivery.ID{}
	}
	return delivery.ID{Kind: kustomizev1.KustomizationKind, Namespace: namespace, Name: name}
}

// RequestedBy gives who has asked for the reconciliation that an object's annotations ask for; empty: they do not say. What says who it was of an
// earlier request counts for none that comes after it, as one by "flux reconcile". Whoever may write the object may claim any name, but none of the cluster's own.
func RequestedBy(annotations map[string]string) string {
	request, by, _ := strings.Cut(annotations[RequestedByAnnotation], " ")
	if request == "" || request != annotations[meta.ReconcileRequestAnnotation] {
		return ""
	}
	if by = strings.TrimSpace(by); strings.HasPrefix(strings.ToLower(by), "system:") {
		return ""
	}
	return by
}

// Kustomization reads a Flux Kustomization. Fields that are not implemented are listed in Refused or Ignored.
func Kustomization(k *kustomizev1.Kustomization) (delivery.App, error) {
	spec := &k.Spec
	app := delivery.App{
		ID:          delivery.ID{Kind: kustomizev1.KustomizationKind, Namespace: k.Namespace, Name: k.Name},
		UID:         string(k.UID),
		Environment: delivery.EnvironmentOf(k.Labels, spec.TargetNamespace, k.Namespace),
		Generation:  k.Generation,
		Source: delivery.ID{
			Kind: spec.SourceRef.Kind, Namespace: orElse(spec.SourceRef.Namespace, k.Namespace), Name: spec.SourceRef.Name,
		},
		Build: delivery.Build{
			Path: cleanPath(spec.Path), TargetNamespace: spec.TargetNamespace, NamePrefix: spec.NamePrefix, NameSuffix: spec.NameSuffix,
			Components: spec.Components, IgnoreMissingComponents: spec.IgnoreMissingComponents,
		},
		KubeConfig:     kubeConfig(spec.KubeConfig),
		ServiceAccount: spec.ServiceAccountName,
		Prune:          spec.Prune, KeepOnDelete: !spec.Prune, Force: spec.Force, Wait: spec.Wait, Suspend: spec.Suspend,
		Interval: spec.Interval.Duration, RetryInterval: k.GetRetryInterval(), Timeout: k.GetTimeout(),
		Requested: k.Annotations[meta.ReconcileRequestAnnotation], RequestedBy: RequestedBy(k.Annotations),
	}
	switch spec.DeletionPolicy {
	case kustomizev1.DeletionPolicyOrphan:
		app.KeepOnDelete = true
	case kustomizev1.DeletionPolicyDelete, kustomizev1.DeletionPolicyWaitForTermination:
		app.KeepOnDelete, app.AwaitGone = false, spec.DeletionPolicy == kustomizev1.DeletionPolicyWaitForTermination
	}
	if m := spec.CommonMetadata; m != nil {
		app.Common = delivery.Metadata{Labels: m.Labels, Annotations: m.Annotations}
	}
	for _, option := range spec.BuildMetadata {
		app.Build.BuildMetadata = append(app.Build.BuildMetadata, string(option))
	}
	for _, p := range spec.Patches {
		app.Build.Patches = append(app.Build.Patches, delivery.Patch{Patch: p.Patch, Target: selector(p.Target)})
	}
	for _, r := range spec.Ignore {
		app.Ignore = append(app.Ignore, delivery.IgnoreRule{Paths: r.Paths, Target: selector(r.Target)})
	}
	for _, i := range spec.Images {
		app.Build.Images = append(app.Build.Images, delivery.Image{Name: i.Name, NewName: i.NewName, NewTag: i.NewTag, Digest: i.Digest})
	}
	for _, d := range spec.DependsOn {
		app.DependsOn = append(app.DependsOn, dependency(k, d))
	}
	if b := spec.PostBuild; b != nil {
		app.Vars = b.Substitute
		app.VarsAlways = b.SubstituteStrategy == kustomizev1.SubstituteStrategyAlways
		for _, f := range b.SubstituteFrom {
			app.VarsFrom = append(app.VarsFrom, delivery.VarsRef{Kind: f.Kind, Name: f.Name, Optional: f.Optional})
		}
	}
	app.Refused, app.Ignored = unsupportedKustomization(spec)
	var err error
	app.Guard, err = guard(k.Annotations)
	err = cmp.Or(err, healthOf(&app, k))
	return app, err
}

// unsupportedKustomization names the fields that are not implemented: those whose being ignored would apply something else,
// or elsewhere, than the user asked for, and those that only have no effect.
func unsupportedKustomization(spec *kustomizev1.KustomizationSpec) (refused, ignored []string) {
	refused = set([]field{
		{"spec.decryption", spec.Decryption != nil},
		{"spec.kubeConfig without exactly one of secretRef and configMapRef", badKubeConfig(spec.KubeConfig)},
		{"spec.sourceRef.kind " + spec.SourceRef.Kind, spec.SourceRef.Kind != sourcev1.GitRepositoryKind && spec.SourceRef.Kind != sourcev1.OCIRepositoryKind},
	})
	return refused, badPointers(spec.Ignore)
}

// badPointers names the paths of ignore rules that lead nowhere.
func badPointers(rules []kustomizev1.IgnoreRule) (names []string) {
	for i, r := range rules {
		for _, p := range r.Paths {
			if _, ok := delivery.ParsePointer(p); !ok {
				names = append(names, fmt.Sprintf("spec.ignore[%d].paths %q, which is no JSON pointer", i, p))
			}
		}
	}
	return names
}

func selector(s *kustomize.Selector) *delivery.Selector {
	if s == nil {
		return nil
	}
	return &delivery.Selector{
		Group: s.Group, Version: s.Version, Kind: s.Kind, Namespace: s.Namespace, Name: s.Name,
		LabelSelector: s.LabelSelector, AnnotationSelector: s.AnnotationSelector,
	}
}

type field struct {
	name string
	used bool
}

func set(fields []field) []string {
	var names []string
	for _, f := range fields {
		if f.used {
			names = append(names, f.name)
		}
	}
	return names
}

func guard(annotations map[string]string) (delivery.Guard, error) {
	g := delivery.Guard{
		MaxPrunePercent: defaultMaxPrune,
		AllowEmpty:      annotations[AllowEmptyAnnotation] == "true",
		Confirmed:       annotations[ConfirmAnnotation],
	}
	if text, ok := annotations[MaxPruneAnnotation]; ok {
		n, err := strconv.Atoi(text)
		if err != nil || n < 0 || n > 100 {
			return g, &delivery.Fault{
				Reason: "InvalidAnnotation", Where: MaxPruneAnnotation, Retry: delivery.OnEvent,
				Err: fmt.Errorf("%q is not a percentage", text), Hint: "write a whole number from 0 to 100",
			}
		}
		g.MaxPrunePercent = n
	}
	return g, nil
}

// cleanPath gives a path as a folder of the snapshot: no leading "./" or "/", "." for the root. A path that leaves
// the repository keeps its leading "..": rendering refuses it by name.
func cleanPath(p string) string {
	return path.Clean(strings.TrimLeft(p, "/"))
}

func orElse(s, other string) string {
	if s == "" {
		return other
	}
	return s
}
