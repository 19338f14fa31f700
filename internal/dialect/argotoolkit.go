package dialect

import (
	"path"
	"slices"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	argocdv1 "keelson.dev/keelson/api/argocd/v1alpha1"
)

// ArgoController is a controller of Argo CD as a StatefulSet or a Deployment runs it.
type ArgoController struct {
	Kind      string // of the workload
	Namespace string
	Name      string // of the workload
	Program   string // "argocd-application-controller"
	Replicas  int32  // wanted; 0: it does not run
}

// String is "namespace/name".
func (c ArgoController) String() string { return c.Namespace + "/" + c.Name }

// Programs of Argo CD that work on kinds which Keelson serves, and the operator that would start them again.
const (
	ApplicationController    = "argocd-application-controller"
	ApplicationSetController = "argocd-applicationset-controller"
	ArgoOperator             = "argocd-operator"
)

// ArgoManager is the field manager that Argo CD applies with.
const ArgoManager = "argocd-controller"

// ArgoControllerOf recognises a workload that runs one of the programs above: by what it runs, else by its labels. Argo CD's
// programs share one image, so that tells nothing. Nil replicas count as one, as in the API.
func ArgoControllerOf(kind string, m metav1.ObjectMeta, replicas *int32, pod corev1.PodSpec) (ArgoController, bool) {
	c := ArgoController{Kind: kind, Namespace: m.Namespace, Name: m.Name, Replicas: 1}
	if replicas != nil {
		c.Replicas = *replicas
	}
	for _, container := range pod.Containers {
		for _, arg := range slices.Concat(container.Command, container.Args) {
			if name := path.Base(arg); name == ApplicationController || name == ApplicationSetController {
				c.Program = name
			}
		}
		if name := imageName(container.Image); name == ArgoOperator || name == "gitops-operator" || name == "gitops-rhel8-operator" {
			c.Program = ArgoOperator
		}
	}
	if c.Program == "" && m.Labels["app.kubernetes.io/part-of"] == "argocd" {
		switch m.Labels["app.kubernetes.io/component"] {
		case "application-controller":
			c.Program = ApplicationController
		case "applicationset-controller":
			c.Program = ApplicationSetController
		}
	}
	return c, c.Program != ""
}

// ArgoHandBack takes out of an Application what only Keelson understands, for Argo CD to go on with; false: there is nothing. What a
// person has set stays, a hold among it: automation that Argo CD knows nothing of would begin where it is lifted.
func ArgoHandBack(a *argocdv1.Application) (changed bool) {
	ours := func(c argocdv1.ApplicationCondition) bool {
		return slices.Contains([]string{
			argocdv1.ConditionUnsupportedFieldsWarning, argocdv1.ConditionHeldWarning, argocdv1.ConditionConfirmationRequiredError,
		}, c.Type)
	}
	if slices.ContainsFunc(a.Status.Conditions, ours) {
		a.Status.Conditions = slices.DeleteFunc(a.Status.Conditions, ours)
		changed = true
	}
	if _, ok := a.Annotations[IntentAnnotation]; ok {
		delete(a.Annotations, IntentAnnotation)
		changed = true
	}
	return changed
}
