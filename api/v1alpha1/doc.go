// Package v1alpha1 holds Keelson's own kinds, of keelson.dev/v1alpha1. There is one only where the field has none.
//
// +kubebuilder:object:generate=true
// +groupName=keelson.dev
package v1alpha1

import (
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
)

// GroupVersion is that of all kinds of the package.
var GroupVersion = schema.GroupVersion{Group: "keelson.dev", Version: "v1alpha1"}

// ProjectKind is the kind of a [Project].
const ProjectKind = "Project"

// AddToScheme registers the kinds.
func AddToScheme(s *runtime.Scheme) error {
	s.AddKnownTypes(GroupVersion, &Project{}, &ProjectList{})
	metav1.AddToGroupVersion(s, GroupVersion)
	return nil
}
