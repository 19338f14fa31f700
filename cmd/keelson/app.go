package main

import (
	"context"
	"errors"
	"fmt"
	"strings"

	helmv2 "github.com/fluxcd/helm-controller/api/v2"
	kustomizev1 "github.com/fluxcd/kustomize-controller/api/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"sigs.k8s.io/controller-runtime/pkg/client"

	argocdv1 "keelson.dev/keelson/api/argocd/v1alpha1"
	"keelson.dev/keelson/internal/delivery"
	"keelson.dev/keelson/internal/dialect"
	"keelson.dev/keelson/internal/web"
)

// foundApp is an app of any dialect as it is in the cluster: exactly one of the fields is set.
type foundApp struct {
	flux *kustomizev1.Kustomization
	argo *argocdv1.Application
	helm *helmv2.HelmRelease
}

// object is the API object that declares the app.
func (f foundApp) object() client.Object {
	switch {
	case f.argo != nil:
		return f.argo
	case f.helm != nil:
		return f.helm
	default:
		return f.flux
	}
}

func (f foundApp) id() delivery.ID {
	kind := kustomizev1.KustomizationKind
	switch {
	case f.argo != nil:
		kind = argocdv1.ApplicationKind
	case f.helm != nil:
		kind = helmv2.HelmReleaseKind
	}
	return delivery.ID{Kind: kind, Namespace: f.object().GetNamespace(), Name: f.object().GetName()}
}

// gvk is the kind of the API object that declares the app.
func (f foundApp) gvk() schema.GroupVersionKind {
	switch {
	case f.argo != nil:
		return argocdv1.GroupVersion.WithKind(argocdv1.ApplicationKind)
	case f.helm != nil:
		return helmv2.GroupVersion.WithKind(helmv2.HelmReleaseKind)
	default:
		return kustomizev1.GroupVersion.WithKind(kustomizev1.KustomizationKind)
	}
}

// String is "namespace/name".
func (f foundApp) String() string { return f.object().GetNamespace() + "/" + f.object().GetName() }

// shown is the app as it is told to people and programs.
func (f foundApp) shown() web.App {
	switch {
	case f.argo != nil:
		return appOfArgo(f.argo)
	case f.helm != nil:
		return appOfHelm(f.helm)
	default:
		return appOf(f.flux)
	}
}

// owned is what the app owns, and was about to.
func (f foundApp) owned() delivery.Inventory {
	switch {
	case f.argo != nil:
		return dialect.ArgoInventory(f.argo)
	case f.helm != nil:
		return dialect.HelmReleaseRecord(&f.helm.Status).Inventory
	default:
		return dialect.KustomizationOwned(f.flux)
	}
}

// told gives the health of objects that the app's status tells.
func (f foundApp) told() map[delivery.Ref]delivery.Health {
	known := map[delivery.Ref]delivery.Health{}
	if f.argo != nil {
		for _, r := range f.argo.Status.Resources {
			if r.Health != nil {
				known[resourceRef(r)] = delivery.Health{Status: delivery.HealthStatus(r.Health.Status), Message: r.Health.Message}
			}
		}
	}
	return known
}

// elsewhere tells whether the app is delivered to another cluster than the one that it is declared in.
func (f foundApp) elsewhere() bool {
	switch {
	case f.argo != nil:
		return argoElsewhere(f.argo)
	case f.helm != nil:
		return f.helm.Spec.KubeConfig != nil
	default:
		return f.flux.Spec.KubeConfig != nil
	}
}

// allApps lists the apps of every dialect. A cluster may do without some of the kinds.
func allApps(ctx context.Context, c client.Reader, opts ...client.ListOption) ([]foundApp, error) {
	var flux kustomizev1.KustomizationList
	var argo argocdv1.ApplicationList
	var helm helmv2.HelmReleaseList
	var missing []error
	kinds := []client.ObjectList{&flux, &argo, &helm}
	for _, list := range kinds {
		if err := c.List(ctx, list, opts...); isMissingKind(err) {
			missing = append(missing, err)
		} else if err != nil {
			return nil, err
		}
	}
	if len(missing) == len(kinds) {
		return nil, missing[0]
	}
	apps := make([]foundApp, 0, len(flux.Items)+len(argo.Items)+len(helm.Items))
	for i := range flux.Items {
		apps = append(apps, foundApp{flux: &flux.Items[i]})
	}
	for i := range argo.Items {
		apps = append(apps, foundApp{argo: &argo.Items[i]})
	}
	for i := range helm.Items {
		apps = append(apps, foundApp{helm: &helm.Items[i]})
	}
	return apps, nil
}

// findApp finds an app by "namespace/name", or by its name: in the namespace of -n, else wherever there is one only. Where two
// dialects have an app of one name, "Application/namespace/name" tells them apart.
func findApp(ctx context.Context, c client.Client, namespace, arg string) (foundApp, error) {
	kind, rest := "", arg
	if strings.Count(arg, "/") == 2 {
		kind, rest, _ = strings.Cut(arg, "/")
	}
	name := rest
	if ns, n, ok := strings.Cut(rest, "/"); ok {
		if namespace != "" && namespace != ns {
			return foundApp{}, usagef("%s names another namespace than -n %s", arg, namespace)
		}
		namespace, name = ns, n
	}
	if name == "" {
		return foundApp{}, usagef("an app has a name")
	}
	all, err := allApps(ctx, c, client.InNamespace(namespace))
	if err != nil {
		return foundApp{}, explainAPI(fmt.Errorf("look for app %s: %w", arg, err))
	}
	var found []foundApp
	var where, exact []string
	for _, app := range all {
		id := app.id()
		if id.Name != name || kind != "" && !strings.EqualFold(kind, id.Kind) {
			continue
		}
		found = append(found, app)
		where, exact = append(where, app.String()), append(exact, id.String())
	}
	switch len(found) {
	case 0:
		return foundApp{}, hintf(fmt.Errorf("there is no app %s", arg), "keelson get apps lists them")
	case 1:
		return found[0], nil
	}
	if where[0] == where[1] {
		where = exact
	}
	return foundApp{}, withCode(exitUsage, hintf(fmt.Errorf("there is more than one app %s", arg), "name one of %s", strings.Join(where, ", ")))
}

// readApp reads the app that an object declares; not found: it is none, or is gone.
func readApp(ctx context.Context, c client.Reader, ref delivery.Ref) (app foundApp, err error) {
	key := client.ObjectKey{Namespace: ref.Namespace, Name: ref.Name}
	switch ref.GroupKind() {
	case kustomizev1.GroupVersion.WithKind(kustomizev1.KustomizationKind).GroupKind():
		app.flux = &kustomizev1.Kustomization{}
		return app, c.Get(ctx, key, app.flux)
	case argocdv1.GroupVersion.WithKind(argocdv1.ApplicationKind).GroupKind():
		app.argo = &argocdv1.Application{}
		return app, c.Get(ctx, key, app.argo)
	case helmv2.GroupVersion.WithKind(helmv2.HelmReleaseKind).GroupKind():
		app.helm = &helmv2.HelmRelease{}
		return app, c.Get(ctx, key, app.helm)
	}
	return app, apierrors.NewNotFound(schema.GroupResource{Group: ref.Group, Resource: ref.Kind}, ref.Name)
}

// findApplication finds an app that is an Application; what is only for these says so.
func findApplication(ctx context.Context, c client.Client, namespace, arg, hint string) (*argocdv1.Application, error) {
	app, err := findApp(ctx, c, namespace, arg)
	if err != nil {
		return nil, err
	}
	return app.application(hint)
}

// application is the app as an Application; what is only for these says so.
func (f foundApp) application(hint string) (*argocdv1.Application, error) {
	if f.argo == nil {
		return nil, withCode(exitUsage, hintf(fmt.Errorf("app %s is a %s: this is for Applications of Argo CD", f, f.id().Kind), "%s", hint))
	}
	return f.argo, nil
}

// annotate sets an annotation and nothing else; an empty value takes it away.
func annotate(ctx context.Context, c client.Client, obj client.Object, key, value string) error {
	return annotateAll(ctx, c, obj, map[string]string{key: value})
}

// annotateAll is annotate for several ones at once.
func annotateAll(ctx context.Context, c client.Client, obj client.Object, values map[string]string) error {
	before, ok := obj.DeepCopyObject().(client.Object)
	if !ok {
		return errors.New("copy object: it is no API object")
	}
	a := obj.GetAnnotations()
	if a == nil {
		a = map[string]string{}
	}
	for key, value := range values {
		if a[key] = value; value == "" {
			delete(a, key)
		}
	}
	obj.SetAnnotations(a)
	return c.Patch(ctx, obj, client.MergeFrom(before))
}
