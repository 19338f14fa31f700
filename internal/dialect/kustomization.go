// Package dialect translates other people's kinds into our nouns and our outcomes into their status, purely and both ways.
package dialect

import (
	"fmt"
	"path"
	"strconv"
	"strings"

	kustomizev1 "github.com/fluxcd/kustomize-controller/api/v1"
	"github.com/fluxcd/pkg/apis/meta"
	sourcev1 "github.com/fluxcd/source-controller/api/v1"

	"keelson.dev/keelson/internal/delivery"
)

// Annotations of ours on other people's kinds.
const (
	// ConfirmAnnotation holds the commit whose prune or emptiness a person has confirmed.
	ConfirmAnnotation = "keelson.dev/confirm"
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

// Kustomization reads a Flux Kustomization. Fields that are not implemented are listed in Refused or Ignored.
func Kustomization(k *kustomizev1.Kustomization) (delivery.App, error) {
	spec := &k.Spec
	app := delivery.App{
		ID:         delivery.ID{Kind: kustomizev1.KustomizationKind, Namespace: k.Namespace, Name: k.Name},
		UID:        string(k.UID),
		Generation: k.Generation,
		Source: delivery.ID{
			Kind: spec.SourceRef.Kind, Namespace: orElse(spec.SourceRef.Namespace, k.Namespace), Name: spec.SourceRef.Name,
		},
		Build: delivery.Build{
			Path: cleanPath(spec.Path), TargetNamespace: spec.TargetNamespace,
			Components: spec.Components, IgnoreMissingComponents: spec.IgnoreMissingComponents,
		},
		KubeConfig:     kubeConfig(spec.KubeConfig),
		ServiceAccount: spec.ServiceAccountName,
		Prune:          spec.Prune, KeepOnDelete: !spec.Prune, Wait: spec.Wait, Suspend: spec.Suspend,
		Interval: spec.Interval.Duration, RetryInterval: k.GetRetryInterval(), Timeout: k.GetTimeout(),
		Requested: k.Annotations[meta.ReconcileRequestAnnotation],
	}
	switch spec.DeletionPolicy {
	case kustomizev1.DeletionPolicyOrphan:
		app.KeepOnDelete = true
	case kustomizev1.DeletionPolicyDelete, kustomizev1.DeletionPolicyWaitForTermination:
		app.KeepOnDelete = false
	}
	for _, p := range spec.Patches {
		patch := delivery.Patch{Patch: p.Patch}
		if t := p.Target; t != nil {
			patch.Target = &delivery.Selector{
				Group: t.Group, Version: t.Version, Kind: t.Kind, Namespace: t.Namespace, Name: t.Name,
				LabelSelector: t.LabelSelector, AnnotationSelector: t.AnnotationSelector,
			}
		}
		app.Build.Patches = append(app.Build.Patches, patch)
	}
	for _, i := range spec.Images {
		app.Build.Images = append(app.Build.Images, delivery.Image{Name: i.Name, NewName: i.NewName, NewTag: i.NewTag, Digest: i.Digest})
	}
	for _, d := range spec.DependsOn {
		app.DependsOn = append(app.DependsOn, delivery.ID{
			Kind: kustomizev1.KustomizationKind, Namespace: orElse(d.Namespace, k.Namespace), Name: d.Name,
		})
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
	return app, err
}

// unsupportedKustomization names the fields that are not implemented: those whose being ignored would apply something else,
// or elsewhere, than the user asked for, and those that only have no effect.
func unsupportedKustomization(spec *kustomizev1.KustomizationSpec) (refused, ignored []string) {
	readyExpr := false
	for _, d := range spec.DependsOn {
		readyExpr = readyExpr || d.ReadyExpr != ""
	}
	refused = set([]field{
		{"spec.commonMetadata", spec.CommonMetadata != nil},
		{"spec.decryption", spec.Decryption != nil},
		{"spec.dependsOn[].readyExpr", readyExpr},
		{"spec.ignore", len(spec.Ignore) > 0},
		{"spec.kubeConfig without exactly one of secretRef and configMapRef", badKubeConfig(spec.KubeConfig)},
		{"spec.namePrefix", spec.NamePrefix != ""},
		{"spec.nameSuffix", spec.NameSuffix != ""},
		{"spec.sourceRef.kind " + spec.SourceRef.Kind, spec.SourceRef.Kind != sourcev1.GitRepositoryKind},
	})
	ignored = set([]field{
		{"spec.buildMetadata", len(spec.BuildMetadata) > 0},
		{"spec.deletionPolicy WaitForTermination", spec.DeletionPolicy == kustomizev1.DeletionPolicyWaitForTermination},
		{"spec.force", spec.Force},
		{"spec.healthCheckExprs", len(spec.HealthCheckExprs) > 0},
		{"spec.healthChecks", len(spec.HealthChecks) > 0},
	})
	return refused, ignored
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
				Reason: "InvalidAnnotation", Where: MaxPruneAnnotation, Retry: delivery.OnChange,
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
