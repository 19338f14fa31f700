package v1alpha1

import (
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/intstr"
)

// ApplicationSet makes Applications from a template and what its generators find.
//
// +kubebuilder:object:root=true
// +kubebuilder:resource:path=applicationsets,shortName=appset;appsets
// +kubebuilder:subresource:status
type ApplicationSet struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata"`

	// +kubebuilder:validation:Schemaless
	// +kubebuilder:validation:Type=object
	// +kubebuilder:pruning:PreserveUnknownFields
	Spec ApplicationSetSpec `json:"spec"`
	// +kubebuilder:validation:Schemaless
	// +kubebuilder:validation:Type=object
	// +kubebuilder:pruning:PreserveUnknownFields
	Status ApplicationSetStatus `json:"status,omitempty,omitzero"`

	// Unknown names what was decoded and is no field here. It is never encoded.
	Unknown []string `json:"-"`
}

// ApplicationSetList is a list of them.
//
// +kubebuilder:object:root=true
type ApplicationSetList struct {
	metav1.TypeMeta `json:",inline"`
	metav1.ListMeta `json:"metadata"`
	Items           []ApplicationSet `json:"items"`
}

// ApplicationSetSpec is what an ApplicationSet wants. Template is kept raw: it may hold placeholders anywhere.
type ApplicationSetSpec struct {
	GoTemplate                   bool                          `json:"goTemplate,omitempty"`
	GoTemplateOptions            []string                      `json:"goTemplateOptions,omitempty"`
	Generators                   []ApplicationSetGenerator     `json:"generators"`
	Template                     runtime.RawExtension          `json:"template"`
	TemplatePatch                *string                       `json:"templatePatch,omitempty"`
	SyncPolicy                   *ApplicationSetSyncPolicy     `json:"syncPolicy,omitempty"`
	Strategy                     *ApplicationSetStrategy       `json:"strategy,omitempty"`
	PreservedFields              *PreservedFields              `json:"preservedFields,omitempty"`
	ApplyNestedSelectors         bool                          `json:"applyNestedSelectors,omitempty"`
	IgnoreApplicationDifferences []ApplicationIgnoreDifference `json:"ignoreApplicationDifferences,omitempty"`
}

// ApplicationSetGenerator is one of its fields, perhaps with a selector. Those of matrix and merge are generators themselves.
type ApplicationSetGenerator struct {
	List     *ListGenerator        `json:"list,omitempty"`
	Clusters *ClusterGenerator     `json:"clusters,omitempty"`
	Git      *GitGenerator         `json:"git,omitempty"`
	Matrix   *MatrixGenerator      `json:"matrix,omitempty"`
	Merge    *MergeGenerator       `json:"merge,omitempty"`
	Selector *metav1.LabelSelector `json:"selector,omitempty"`

	// Not supported.
	SCMProvider             *runtime.RawExtension `json:"scmProvider,omitempty"`
	ClusterDecisionResource *runtime.RawExtension `json:"clusterDecisionResource,omitempty"`
	PullRequest             *runtime.RawExtension `json:"pullRequest,omitempty"`
	Plugin                  *runtime.RawExtension `json:"plugin,omitempty"`
	Oci                     *runtime.RawExtension `json:"oci,omitempty"`
}

// ListGenerator gives its elements: objects, or YAML text of a list of them.
type ListGenerator struct {
	Elements     []runtime.RawExtension `json:"elements,omitempty"`
	ElementsYaml string                 `json:"elementsYaml,omitempty"`
	Template     *runtime.RawExtension  `json:"template,omitempty"`
}

// ClusterGenerator gives the clusters that are known.
type ClusterGenerator struct {
	Selector metav1.LabelSelector  `json:"selector,omitempty,omitzero"`
	Template *runtime.RawExtension `json:"template,omitempty"`
	Values   map[string]string     `json:"values,omitempty"`
	FlatList bool                  `json:"flatList,omitempty"`
}

// GitGenerator gives folders of a repository, or what is in some of its files.
type GitGenerator struct {
	RepoURL             string                `json:"repoURL"`
	Directories         []GitGeneratorItem    `json:"directories,omitempty"`
	Files               []GitGeneratorItem    `json:"files,omitempty"`
	Revision            string                `json:"revision"`
	RequeueAfterSeconds *int64                `json:"requeueAfterSeconds,omitempty"`
	Template            *runtime.RawExtension `json:"template,omitempty"`
	PathParamPrefix     string                `json:"pathParamPrefix,omitempty"`
	Values              map[string]string     `json:"values,omitempty"`
}

// GitGeneratorItem is a glob of paths that count, or do not.
type GitGeneratorItem struct {
	Path    string `json:"path"`
	Exclude bool   `json:"exclude,omitempty"`
}

// MatrixGenerator gives every combination of what its two generators give.
type MatrixGenerator struct {
	Generators []ApplicationSetGenerator `json:"generators"`
	Template   *runtime.RawExtension     `json:"template,omitempty"`
}

// MergeGenerator gives what its first generator gives, overridden by the others where the keys are the same.
type MergeGenerator struct {
	Generators []ApplicationSetGenerator `json:"generators"`
	MergeKeys  []string                  `json:"mergeKeys"`
	Template   *runtime.RawExtension     `json:"template,omitempty"`
}

// ApplicationSetSyncPolicy says what may be done to Applications: sync (default), create-only, create-update, create-delete.
type ApplicationSetSyncPolicy struct {
	PreserveResourcesOnDeletion bool   `json:"preserveResourcesOnDeletion,omitempty"`
	ApplicationsSync            string `json:"applicationsSync,omitempty"`
}

// ApplicationSetStrategy is AllAtOnce (default) or RollingSync.
type ApplicationSetStrategy struct {
	Type          string       `json:"type,omitempty"`
	RollingSync   *RollingSync `json:"rollingSync,omitempty"`
	DeletionOrder string       `json:"deletionOrder,omitempty"`
}

// RollingSync syncs Applications step by step.
type RollingSync struct {
	Steps []RolloutStep `json:"steps,omitempty"`
}

// RolloutStep is the Applications whose labels match, so many at once.
type RolloutStep struct {
	MatchExpressions []MatchExpression   `json:"matchExpressions,omitempty"`
	MaxUpdate        *intstr.IntOrString `json:"maxUpdate,omitempty"`
}

// MatchExpression compares a label by In or NotIn.
type MatchExpression struct {
	Key      string   `json:"key,omitempty"`
	Operator string   `json:"operator,omitempty"`
	Values   []string `json:"values,omitempty"`
}

// PreservedFields are keys of annotations and labels of Applications that are left to others.
type PreservedFields struct {
	Annotations []string `json:"annotations,omitempty"`
	Labels      []string `json:"labels,omitempty"`
}

// ApplicationIgnoreDifference names fields of generated Applications that are left to others.
type ApplicationIgnoreDifference struct {
	Name              string   `json:"name,omitempty"`
	JSONPointers      []string `json:"jsonPointers,omitempty"`
	JQPathExpressions []string `json:"jqPathExpressions,omitempty"`
}

// ApplicationSetStatus is how an ApplicationSet stands.
type ApplicationSetStatus struct {
	Conditions        []ApplicationSetCondition         `json:"conditions,omitempty"`
	ApplicationStatus []ApplicationSetApplicationStatus `json:"applicationStatus,omitempty"`
	Resources         []ResourceStatus                  `json:"resources,omitempty"`
	ResourcesCount    int64                             `json:"resourcesCount,omitempty"`
}

// ApplicationSetCondition is ErrorOccurred, ParametersGenerated, ResourcesUpToDate or RolloutProgressing.
type ApplicationSetCondition struct {
	Type               string       `json:"type"`
	Message            string       `json:"message"`
	LastTransitionTime *metav1.Time `json:"lastTransitionTime,omitempty"`
	Status             string       `json:"status"`
	Reason             string       `json:"reason"`
}

// ApplicationSetApplicationStatus is how an Application stands in a rollout: Waiting, Pending, Progressing or Healthy.
type ApplicationSetApplicationStatus struct {
	Application        string       `json:"application"`
	LastTransitionTime *metav1.Time `json:"lastTransitionTime,omitempty"`
	Message            string       `json:"message"`
	Status             string       `json:"status"`
	Step               string       `json:"step"`
	TargetRevisions    []string     `json:"targetRevisions"`
}
