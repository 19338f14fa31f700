package dialect

import (
	"fmt"
	"slices"
	"strings"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/selection"
	"k8s.io/apimachinery/pkg/util/sets"
)

// FluxController is a controller of Flux as a Deployment runs it.
type FluxController struct {
	Namespace string
	Name      string // of the Deployment
	Program   string // "kustomize-controller"
	Replicas  int32  // wanted; 0: it does not run
	// Selector picks the objects that it works on (its flag --watch-label-selector).
	Selector labels.Selector
}

// Delivers tells whether it works on the same sources and apps as Keelson.
func (c FluxController) Delivers() bool {
	return c.Program == SourceController || c.Program == KustomizeController || c.Program == HelmController
}

// String is "namespace/name".
func (c FluxController) String() string { return c.Namespace + "/" + c.Name }

// Programs of Flux that work on kinds which Keelson serves, and the operator that would start them again.
const (
	SourceController    = "source-controller"
	KustomizeController = "kustomize-controller"
	HelmController      = "helm-controller"
	// NotificationController serves webhooks, and sends the alerts that Keelson does not.
	NotificationController = "notification-controller"
	FluxOperator           = "flux-operator"
)

// FluxControllerOf recognises a Deployment of one of the programs above: by its image, or by its labels
// where the image was renamed. An unreadable selector counts as none: it works on everything.
func FluxControllerOf(d *appsv1.Deployment) (FluxController, bool) {
	c := FluxController{Namespace: d.Namespace, Name: d.Name, Replicas: 1, Selector: labels.Everything()}
	if d.Spec.Replicas != nil {
		c.Replicas = *d.Spec.Replicas
	}
	programs := []string{SourceController, KustomizeController, HelmController, NotificationController, FluxOperator}
	for _, container := range d.Spec.Template.Spec.Containers {
		program := imageName(container.Image)
		if !slices.Contains(programs, program) {
			continue
		}
		c.Program = program
		c.Selector = watched(container)
	}
	if c.Program == "" && d.Labels["app.kubernetes.io/part-of"] == "flux" {
		for _, program := range programs {
			if d.Labels["app.kubernetes.io/component"] == program || d.Labels["app"] == program || d.Name == program {
				c.Program = program
				for _, container := range d.Spec.Template.Spec.Containers {
					c.Selector = watched(container)
				}
			}
		}
	}
	return c, c.Program != ""
}

// imageName gives the last part of an image's repository: "kustomize-controller" of "ghcr.io/fluxcd/kustomize-controller:v1.9.4".
func imageName(image string) string {
	image, _, _ = strings.Cut(image, "@")
	image = image[strings.LastIndexByte(image, '/')+1:]
	name, _, _ := strings.Cut(image, ":")
	return name
}

func watched(container corev1.Container) labels.Selector {
	args := slices.Concat(container.Command, container.Args)
	for i, arg := range args {
		text, ok := strings.CutPrefix(arg, "--watch-label-selector=")
		if arg == "--watch-label-selector" && i+1 < len(args) {
			text, ok = args[i+1], true
		}
		if !ok {
			continue
		}
		if s, err := labels.Parse(text); err == nil {
			return s
		}
	}
	return labels.Everything()
}

// Overlap tells whether there may be an object that both selectors pick. It is sure that there is none where they ask for
// contrary things of one label, as "!sharding.fluxcd.io/key" and "sharding.fluxcd.io/key=keelson" do.
func Overlap(a, b labels.Selector) bool {
	ours, _ := a.Requirements()
	theirs, _ := b.Requirements()
	for _, x := range ours {
		for _, y := range theirs {
			if x.Key() == y.Key() && contrary(x, y) {
				return false
			}
		}
	}
	return true
}

func contrary(x, y labels.Requirement) bool {
	switch {
	case absent(x) && present(y), present(x) && absent(y):
		return true
	case !listed(x):
		return listed(y) && contrary(y, x)
	}
	values := sets.New(x.ValuesUnsorted()...)
	switch y.Operator() {
	case selection.In, selection.Equals, selection.DoubleEquals:
		return !values.HasAny(y.ValuesUnsorted()...)
	case selection.NotIn, selection.NotEquals:
		return sets.New(y.ValuesUnsorted()...).IsSuperset(values)
	}
	return false
}

func absent(r labels.Requirement) bool { return r.Operator() == selection.DoesNotExist }

// present: objects without the label are not picked.
func present(r labels.Requirement) bool { return listed(r) || r.Operator() == selection.Exists }

func listed(r labels.Requirement) bool {
	return slices.Contains([]selection.Operator{selection.In, selection.Equals, selection.DoubleEquals}, r.Operator())
}

// Shard reads a label selector of the flag --watch-label-selector, which Flux's controllers have too. Empty picks everything.
func Shard(text string) (labels.Selector, error) {
	s, err := labels.Parse(text)
	if err != nil {
		return nil, fmt.Errorf("read label selector %q: %w", text, err)
	}
	return s, nil
}

// OnlyFlux are kinds of Flux, by resource ("buckets.source.toolkit.fluxcd.io"), that Keelson does not serve and source-controller is needed for.
var OnlyFlux = []string{
	"buckets.source.toolkit.fluxcd.io", "externalartifacts.source.toolkit.fluxcd.io", "imageupdateautomations.image.toolkit.fluxcd.io",
}
