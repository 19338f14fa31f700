// Package v1alpha1 holds Argo CD's kinds as Keelson reads and writes them: Application, AppProject and ApplicationSet of
// argoproj.io/v1alpha1. The structs are our own; names and meaning of the fields are Argo CD's (its CRDs and its documentation,
// user-guide/application-specification). Fields that nothing here names are listed in Unknown when an object is decoded, so that
// they can be told of by name; in the cluster they are kept.
//
// +kubebuilder:object:generate=true
// +groupName=argoproj.io
package v1alpha1

import (
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
)

// GroupVersion is that of all kinds of the package.
var GroupVersion = schema.GroupVersion{Group: "argoproj.io", Version: "v1alpha1"}

// The kinds.
const (
	ApplicationKind    = "Application"
	AppProjectKind     = "AppProject"
	ApplicationSetKind = "ApplicationSet"
)

// Finalizers of an Application: whoever sets one wants its objects deleted with it (Argo CD: user-guide/app_deletion).
const (
	ResourcesFinalizer           = "resources-finalizer.argocd.argoproj.io"
	ForegroundFinalizer          = "resources-finalizer.argocd.argoproj.io/foreground"
	BackgroundFinalizer          = "resources-finalizer.argocd.argoproj.io/background"
	PreDeleteFinalizer           = "pre-delete-finalizer.argocd.argoproj.io"
	PostDeleteFinalizer          = "post-delete-finalizer.argocd.argoproj.io"
	PostDeleteCleanupFinalizer   = "post-delete-finalizer.argocd.argoproj.io/cleanup"
	RefreshAnnotation            = "argocd.argoproj.io/refresh"
	ApplicationSetRefresh        = "argocd.argoproj.io/application-set-refresh"
	ManifestGeneratePaths        = "argocd.argoproj.io/manifest-generate-paths"
	SyncWaveAnnotation           = "argocd.argoproj.io/sync-wave"
	SyncOptionsAnnotation        = "argocd.argoproj.io/sync-options"
	CompareOptionsAnnotation     = "argocd.argoproj.io/compare-options"
	HookAnnotation               = "argocd.argoproj.io/hook"
	HookDeletePolicyAnnotation   = "argocd.argoproj.io/hook-delete-policy"
	TrackingIDAnnotation         = "argocd.argoproj.io/tracking-id"
	DeletionApprovedAnnotation   = "argocd.argoproj.io/deletion-approved"
	SecretTypeLabel              = "argocd.argoproj.io/secret-type"
	DependsOnAnnotation          = "keelson.dev/depends-on" // ours: names of Applications, comma-separated; "namespace/name" for another namespace
	HoldAnnotation               = "keelson.dev/hold"       // ours: see dialect.ArgoHold
	HelmHookAnnotation           = "helm.sh/hook"
	HelmHookWeightAnnotation     = "helm.sh/hook-weight"
	HelmHookDeletePolicy         = "helm.sh/hook-delete-policy"
	HelmResourcePolicyAnnotation = "helm.sh/resource-policy"
)

// AddToScheme registers the kinds.
func AddToScheme(s *runtime.Scheme) error {
	s.AddKnownTypes(GroupVersion, &Application{}, &ApplicationList{}, &AppProject{}, &AppProjectList{}, &ApplicationSet{}, &ApplicationSetList{})
	metav1.AddToGroupVersion(s, GroupVersion)
	return nil
}
