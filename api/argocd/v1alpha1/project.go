package v1alpha1

import (
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
)

// AppProject bounds what its Applications may do.
//
// +kubebuilder:object:root=true
// +kubebuilder:resource:path=appprojects,shortName=appproj;appprojs
type AppProject struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata"`

	// +kubebuilder:validation:Schemaless
	// +kubebuilder:validation:Type=object
	// +kubebuilder:pruning:PreserveUnknownFields
	Spec AppProjectSpec `json:"spec"`
	// +kubebuilder:validation:Schemaless
	// +kubebuilder:validation:Type=object
	// +kubebuilder:pruning:PreserveUnknownFields
	Status *runtime.RawExtension `json:"status,omitempty"`

	// Unknown names what was decoded and is no field here. It is never encoded.
	Unknown []string `json:"-"`
}

// AppProjectList is a list of them.
//
// +kubebuilder:object:root=true
type AppProjectList struct {
	metav1.TypeMeta `json:",inline"`
	metav1.ListMeta `json:"metadata"`
	Items           []AppProject `json:"items"`
}

// AppProjectSpec is what a project allows and forbids.
type AppProjectSpec struct {
	SourceRepos                     []string                           `json:"sourceRepos,omitempty"`
	Destinations                    []ApplicationDestination           `json:"destinations,omitempty"`
	Description                     string                             `json:"description,omitempty"`
	Roles                           []ProjectRole                      `json:"roles,omitempty"`
	ClusterResourceWhitelist        []ClusterResourceRestriction       `json:"clusterResourceWhitelist,omitempty"`
	ClusterResourceBlacklist        []ClusterResourceRestriction       `json:"clusterResourceBlacklist,omitempty"`
	NamespaceResourceWhitelist      []metav1.GroupKind                 `json:"namespaceResourceWhitelist,omitempty"`
	NamespaceResourceBlacklist      []metav1.GroupKind                 `json:"namespaceResourceBlacklist,omitempty"`
	OrphanedResources               *OrphanedResourcesMonitorSettings  `json:"orphanedResources,omitempty"`
	SyncWindows                     []SyncWindow                       `json:"syncWindows,omitempty"`
	SignatureKeys                   []SignatureKey                     `json:"signatureKeys,omitempty"`
	SourceNamespaces                []string                           `json:"sourceNamespaces,omitempty"`
	PermitOnlyProjectScopedClusters bool                               `json:"permitOnlyProjectScopedClusters,omitempty"`
	DestinationServiceAccounts      []ApplicationDestinationServiceAcc `json:"destinationServiceAccounts,omitempty"`
	SourceIntegrity                 *runtime.RawExtension              `json:"sourceIntegrity,omitempty"` // not supported
}

// ClusterResourceRestriction names a kind of cluster-wide objects, or one of them; each may be a glob.
type ClusterResourceRestriction struct {
	Group string `json:"group"`
	Kind  string `json:"kind"`
	Name  string `json:"name,omitempty"`
}

// OrphanedResourcesMonitorSettings asks for a warning about objects that no Application owns.
type OrphanedResourcesMonitorSettings struct {
	Warn   *bool                 `json:"warn,omitempty"`
	Ignore []OrphanedResourceKey `json:"ignore,omitempty"`
}

// OrphanedResourceKey is what not to warn about; each may be a glob.
type OrphanedResourceKey struct {
	Group string `json:"group,omitempty"`
	Kind  string `json:"kind,omitempty"`
	Name  string `json:"name,omitempty"`
}

// SyncWindow is when syncs are allowed or denied.
type SyncWindow struct {
	Kind           string   `json:"kind,omitempty"`     // allow or deny
	Schedule       string   `json:"schedule,omitempty"` // cron
	Duration       string   `json:"duration,omitempty"`
	Applications   []string `json:"applications,omitempty"`
	Namespaces     []string `json:"namespaces,omitempty"`
	Clusters       []string `json:"clusters,omitempty"`
	ManualSync     bool     `json:"manualSync,omitempty"`
	TimeZone       string   `json:"timeZone,omitempty"`
	UseAndOperator bool     `json:"andOperator,omitempty"`
	Description    string   `json:"description,omitempty"`
	SyncOverrun    bool     `json:"syncOverrun,omitempty"`
}

// SignatureKey is the id of a PGP key that commits have to be signed with.
type SignatureKey struct {
	KeyID string `json:"keyID"`
}

// ApplicationDestinationServiceAcc says as whom the Applications of a destination are delivered.
type ApplicationDestinationServiceAcc struct {
	Server                string `json:"server"`
	Namespace             string `json:"namespace,omitempty"`
	DefaultServiceAccount string `json:"defaultServiceAccount"`
}

// ProjectRole is a role of Argo CD's API server.
type ProjectRole struct {
	Name        string                 `json:"name"`
	Description string                 `json:"description,omitempty"`
	Policies    []string               `json:"policies,omitempty"`
	JWTTokens   []runtime.RawExtension `json:"jwtTokens,omitempty"`
	Groups      []string               `json:"groups,omitempty"`
}
