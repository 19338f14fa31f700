package v1alpha1

import (
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// Project is a repository whose pipelines (.gitlab-ci.yml) Keelson runs: what a project's settings are at GitLab.
//
// +kubebuilder:object:root=true
// +kubebuilder:printcolumn:name="Repository",type=string,JSONPath=`.spec.repository`
// +kubebuilder:printcolumn:name="Path",type=string,JSONPath=`.spec.path`
// +kubebuilder:printcolumn:name="Suspended",type=boolean,JSONPath=`.spec.suspend`
// +kubebuilder:printcolumn:name="Age",type=date,JSONPath=`.metadata.creationTimestamp`
type Project struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata,omitempty"`

	Spec ProjectSpec `json:"spec"`
}

// ProjectList is a list of them.
//
// +kubebuilder:object:root=true
type ProjectList struct {
	metav1.TypeMeta `json:",inline"`
	metav1.ListMeta `json:"metadata,omitempty"`
	Items           []Project `json:"items"`
}

// ProjectSpec is what a project's pipelines are made of.
type ProjectSpec struct {
	// Repository is the name of the repository on the built-in Git host: "shop", "group/shop".
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=200
	Repository string `json:"repository"`
	// Path is CI_PROJECT_PATH, and how other projects name this one ("group/shop"). Default: the repository.
	// +kubebuilder:validation:Pattern=`^[A-Za-z0-9_.-]+(/[A-Za-z0-9_.-]+)*$`
	// +kubebuilder:validation:MaxLength=200
	// +optional
	Path string `json:"path,omitempty"`
	// DefaultBranch is the project's default branch. Default: what the repository's HEAD names.
	// +optional
	DefaultBranch string `json:"defaultBranch,omitempty"`
	// ConfigPath is the pipeline's file. Default: .gitlab-ci.yml.
	// +optional
	ConfigPath string `json:"configPath,omitempty"`
	// Protected says which branches and tags are protected: jobs of others do not see protected variables. Default: the default branch.
	// +optional
	Protected *Protection `json:"protected,omitempty"`
	// Variables are the project's CI/CD variables, as in GitLab's settings.
	// +kubebuilder:validation:MaxItems=1000
	// +optional
	Variables []ProjectVariable `json:"variables,omitempty"`
	// ReadableBy are the paths of other projects whose pipelines may read this one (include:project, component): "group/*" for all of a
	// group, "*" for all. Default: none.
	// +optional
	ReadableBy []string `json:"readableBy,omitempty"`
	// Suspend keeps pushes and schedules from starting pipelines; people still may.
	// +optional
	Suspend bool `json:"suspend,omitempty"`
}

// Protection names branches and tags; in a name * stands for anything ("release/*").
type Protection struct {
	// +optional
	Branches []string `json:"branches,omitempty"`
	// +optional
	Tags []string `json:"tags,omitempty"`
}

// ProjectVariable is a CI/CD variable.
type ProjectVariable struct {
	// +kubebuilder:validation:Pattern=`^[a-zA-Z0-9_]+$`
	// +kubebuilder:validation:MaxLength=255
	Name string `json:"name"`
	// Value is the variable's value, for everybody who may read the Project. Secrets belong into valueFrom.
	// +optional
	Value string `json:"value,omitempty"`
	// ValueFrom takes the value from a Secret or a ConfigMap in the Project's namespace.
	// +optional
	ValueFrom *VariableSource `json:"valueFrom,omitempty"`
	// Type is variable, or file: the job finds the path of a file with the value. Default: variable.
	// +kubebuilder:validation:Enum=variable;file
	// +optional
	Type string `json:"type,omitempty"`
	// Masked values are shown in no log. Default: those from Secrets are.
	// +optional
	Masked *bool `json:"masked,omitempty"`
	// Protected variables are there on protected branches and tags only.
	// +optional
	Protected bool `json:"protected,omitempty"`
	// Environment is the scope: "production", "review/*". Default: every job.
	// +optional
	Environment string `json:"environment,omitempty"`
	// Expand replaces references ($NAME) in the value. Default: true.
	// +optional
	Expand *bool `json:"expand,omitempty"`
}

// VariableSource is where a value comes from.
//
// +kubebuilder:validation:XValidation:rule="has(self.secretKeyRef) != has(self.configMapKeyRef)",message="exactly one of secretKeyRef and configMapKeyRef"
type VariableSource struct {
	// +optional
	SecretKeyRef *corev1.SecretKeySelector `json:"secretKeyRef,omitempty"`
	// +optional
	ConfigMapKeyRef *corev1.ConfigMapKeySelector `json:"configMapKeyRef,omitempty"`
}
