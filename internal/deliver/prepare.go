package deliver

import (
	"encoding/base64"
	"errors"
	"fmt"
	"maps"

	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"keelson.dev/keelson/internal/delivery"
)

// prepare makes rendered objects ready to be sent, in place: server-made fields go, namespaces are checked against the
// kind's scope, stringData becomes data, the app's common metadata and then its labels are set. It returns the kinds that the cluster does not know.
func (e *Engine) prepare(app delivery.App, objects []delivery.Object) (unknown map[schema.GroupKind]bool, err error) {
	unknown = map[schema.GroupKind]bool{}
	scopes := definedScopes(objects)
	for i := range objects {
		e.read(&objects[i])
		obj := objects[i]
		gvk := obj.GroupVersionKind()
		namespaced, known := scopes[gvk.GroupKind()]
		m, err := e.Cluster.Mapper().RESTMapping(gvk.GroupKind(), gvk.Version)
		switch {
		case err == nil:
			namespaced, known = m.Scope.Name() == meta.RESTScopeNameNamespace, true
		case meta.IsNoMatchError(err):
			unknown[gvk.GroupKind()] = true
		default:
			return nil, fmt.Errorf("look up kind %s: %w", gvk.Kind, err)
		}
		if known {
			if err := fitScope(app, obj, namespaced); err != nil {
				return nil, err
			}
		}
		if err := clean(obj); err != nil {
			return nil, err
		}
		addMetadata(obj, app.Common)
		if app.ID != (delivery.ID{}) {
			e.Label(app.ID, obj)
		}
	}
	return unknown, nil
}

// read reads how an object wants to be delivered.
func (e *Engine) read(obj *delivery.Object) {
	if e.Read != nil {
		e.Read(obj)
		return
	}
	obj.Asks = delivery.MarksOf(obj.Unstructured)
}

// addMetadata sets labels and annotations over those that an object has.
func addMetadata(obj delivery.Object, common delivery.Metadata) {
	if len(common.Labels) > 0 {
		obj.SetLabels(over(obj.GetLabels(), common.Labels))
	}
	if len(common.Annotations) > 0 {
		obj.SetAnnotations(over(obj.GetAnnotations(), common.Annotations))
	}
}

// over gives the entries of both, those of other first of all.
func over(own, other map[string]string) map[string]string {
	if own == nil {
		own = make(map[string]string, len(other))
	}
	maps.Copy(own, other)
	return own
}

// definedScopes tells of the kinds that the app itself defines whether they are namespaced.
func definedScopes(objects []delivery.Object) map[schema.GroupKind]bool {
	scopes := map[schema.GroupKind]bool{}
	for _, obj := range objects {
		if obj.GetKind() != "CustomResourceDefinition" {
			continue
		}
		group, _, _ := unstructured.NestedString(obj.Object, "spec", "group")
		kind, _, _ := unstructured.NestedString(obj.Object, "spec", "names", "kind")
		scope, _, _ := unstructured.NestedString(obj.Object, "spec", "scope")
		scopes[schema.GroupKind{Group: group, Kind: kind}] = scope == "Namespaced"
	}
	return scopes
}

func fitScope(app delivery.App, obj delivery.Object, namespaced bool) error {
	if !namespaced {
		obj.SetNamespace("")
		return nil
	}
	if obj.GetNamespace() == "" && app.Namespace != "" {
		obj.SetNamespace(app.Namespace)
	}
	if obj.GetNamespace() != "" {
		return nil
	}
	return &delivery.Fault{
		Reason: "BuildFailed", Where: obj.Where(), Retry: delivery.OnChange,
		Err:  errors.New("it has no namespace"),
		Hint: fmt.Sprintf("set metadata.namespace, or spec.targetNamespace of %s", app.ID),
	}
}

// clean removes what only the server may set and what it would rewrite on arrival: either would look like drift.
func clean(obj delivery.Object) error {
	u := obj.Unstructured
	dropServerFields(u)
	if u.GetKind() != "Secret" || u.GetAPIVersion() != "v1" {
		return nil
	}
	if _, encrypted, _ := unstructured.NestedMap(u.Object, "sops"); encrypted && obj.GetAnnotations()[decryptMark] != "disabled" {
		return &delivery.Fault{
			Reason: reconciliationFailed, Where: obj.Where(), Retry: delivery.OnChange,
			Err: errors.New("it is encrypted with SOPS, and spec.decryption is not supported yet"), Hint: "take it out of this Kustomization",
		}
	}
	data, err := secretMap(obj, "data")
	if err != nil {
		return err
	}
	text, err := secretMap(obj, "stringData")
	if err != nil || u.Object["stringData"] == nil {
		return err
	}
	for k, v := range text {
		data[k] = base64.StdEncoding.EncodeToString([]byte(v))
	}
	if err := unstructured.SetNestedStringMap(u.Object, data, "data"); err != nil {
		return err
	}
	delete(u.Object, "stringData")
	return nil
}

// decryptMark on a Secret, as an annotation with the value "disabled", says that it only looks encrypted (Flux).
const decryptMark = "kustomize.toolkit.fluxcd.io/decrypt"

// secretMap reads a field of a Secret that maps keys to text. An error of the library would quote the value.
func secretMap(obj delivery.Object, field string) (map[string]string, error) {
	values, _, err := unstructured.NestedStringMap(obj.Object, field)
	if err != nil && obj.Object[field] != nil {
		return nil, &delivery.Fault{
			Reason: "BuildFailed", Where: obj.Where(), Retry: delivery.OnChange,
			Err: fmt.Errorf("%s holds a value that is no text", field), Hint: "put numbers and booleans in quotes",
		}
	}
	if values == nil {
		values = map[string]string{}
	}
	return values, nil
}

// dropServerFields removes what only the server writes.
func dropServerFields(u *unstructured.Unstructured) {
	unstructured.RemoveNestedField(u.Object, "status")
	for _, f := range []string{"creationTimestamp", "generation", "managedFields", "resourceVersion", "selfLink", "uid"} {
		unstructured.RemoveNestedField(u.Object, "metadata", f)
	}
}
