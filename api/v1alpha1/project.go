package v1alpha1

import (
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// Project is a repository whose pipelines (.gitlab-ci.yml) Keelson runs: what a project's settings are at GitLab.
//
// +kubebuilder:object:root=true
// +kubebuilder:subresource:status
// +kubebuilder:printcolumn:name="Ready",type=string,JSONPath=`.status.conditions[?(@.type=="Ready")].status`
// +kubebuilder:printcolumn:name="Status",type=string,JSONPath=`.status.conditions[?(@.type=="Ready")].message`
// +kubebuilder:printcolumn:name="Repository",type=string,JSONPath=`.spec.repository`
// +kubebuilder:printcolumn:name="Path",type=string,JSONPath=`.spec.path`
// +kubebuilder:printcolumn:name="Suspended",type=boolean,JSONPath=`.spec.suspend`
// +kubebuilder:printcolumn:name="Age",type=date,JSONPath=`.metadata.creationTimestamp`
type Project struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata,omitempty"`

	Spec   ProjectSpec   `json:"spec"`
	Status ProjectStatus `json:"status,omitempty"`
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
	// ReadableBy are the paths of other projects whose pipelines may read this one (include:project, component, submodules), pull its images and
	// start pipelines of it (trigger:project, or with a job's token): "group/*" for all of a group, "*" for all. Default: none.
	// +optional
	ReadableBy []string `json:"readableBy,omitempty"`
	// Suspend keeps pushes and schedules from starting pipelines; people still may.
	// +optional
	Suspend bool `json:"suspend,omitempty"`
	// Source is where the repository comes from, if that is another Git server: the built-in host keeps a mirror of it, which nobody pushes to.
	// +optional
	Source *ProjectSource `json:"source,omitempty"`
	// Executor says where jobs run. Default: as the server says.
	// +optional
	Executor *ProjectExecutor `json:"executor,omitempty"`
	// Access is the jobs' way to the cluster: each entry is a context of their KUBECONFIG, for the jobs that it is meant for.
	// +kubebuilder:validation:MaxItems=100
	// +listType=map
	// +listMapKey=name
	// +optional
	Access []ClusterAccess `json:"access,omitempty"`
	// Environments say how jobs deploy to environments. The first entry whose name matches counts.
	// +kubebuilder:validation:MaxItems=100
	// +listType=map
	// +listMapKey=name
	// +optional
	Environments []ProjectEnvironment `json:"environments,omitempty"`
	// Schedules make pipelines at certain times.
	// +kubebuilder:validation:MaxItems=100
	// +listType=map
	// +listMapKey=name
	// +optional
	Schedules []ProjectSchedule `json:"schedules,omitempty"`
	// Triggers are tokens with which other systems make pipelines (POST /api/v4/projects/PATH/trigger/pipeline, as at GitLab).
	// +kubebuilder:validation:MaxItems=100
	// +listType=map
	// +listMapKey=name
	// +optional
	Triggers []ProjectTrigger `json:"triggers,omitempty"`
	// Limits bound what jobs take.
	// +optional
	Limits *ProjectLimits `json:"limits,omitempty"`
	// AutoCancel cancels pipelines of a branch that a newer push has made redundant, as far as their jobs are interruptible. Default: true.
	// +optional
	AutoCancel *bool `json:"autoCancel,omitempty"`
}

// ProjectSource is a repository on another Git server.
type ProjectSource struct {
	// URL is read over https, http or ssh.
	// +kubebuilder:validation:Pattern=`^(http|https|ssh)://.*$`
	// +kubebuilder:validation:MaxLength=2000
	URL string `json:"url"`
	// SecretRef names a Secret with the credentials, as that of a Flux GitRepository has them.
	// +optional
	SecretRef *corev1.LocalObjectReference `json:"secretRef,omitempty"`
	// Interval is how often is looked for new commits; a webhook (kind Receiver) makes that at once. Default: 1m.
	// +optional
	Interval *metav1.Duration `json:"interval,omitempty"`
}

// ProjectExecutor says where jobs run.
type ProjectExecutor struct {
	// Type is pod (a Pod for each job, in the Project's namespace) or shell (the server's machine).
	// +kubebuilder:validation:Enum=pod;shell
	// +optional
	Type string `json:"type,omitempty"`
	// Image is that of jobs which name none.
	// +optional
	Image string `json:"image,omitempty"`
	// ServiceAccountName is the service account of the jobs' Pods, which are given no token of it. Default: default.
	// +optional
	ServiceAccountName string `json:"serviceAccountName,omitempty"`
	// NodeSelector chooses the nodes of the jobs' Pods.
	// +optional
	NodeSelector map[string]string `json:"nodeSelector,omitempty"`
	// Tolerations are those of the jobs' Pods.
	// +optional
	Tolerations []corev1.Toleration `json:"tolerations,omitempty"`
	// ImagePullSecrets are those of the jobs' Pods.
	// +optional
	ImagePullSecrets []corev1.LocalObjectReference `json:"imagePullSecrets,omitempty"`
}

// ClusterAccess is a way of jobs to the cluster, as a service account of it.
type ClusterAccess struct {
	// Name is what an agent's name is at GitLab: the context is called PATH:NAME.
	// +kubebuilder:validation:Pattern=`^[a-z0-9]([-a-z0-9]*[a-z0-9])?$`
	// +kubebuilder:validation:MaxLength=63
	Name string `json:"name"`
	// ServiceAccount is the name of the service account that the jobs act as. One of another namespace than the Project's has to name the
	// Project as NAMESPACE/NAME in its annotation keelson.dev/projects, which keelson ci rbac writes.
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=253
	ServiceAccount string `json:"serviceAccount"`
	// Namespace is that of the service account, and the context's. Default: the Project's.
	// +optional
	Namespace string `json:"namespace,omitempty"`
	// Environment is the scope: "production", "review/*". Default: every job, also one without an environment.
	// +optional
	Environment string `json:"environment,omitempty"`
	// Protected gives it to jobs of protected branches and tags only.
	// +optional
	Protected bool `json:"protected,omitempty"`
}

// ProjectEnvironment says how jobs deploy to an environment.
type ProjectEnvironment struct {
	// Name is the environment's; * stands for anything: "review/*".
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=255
	Name string `json:"name"`
	// Deployers are the only ones whose jobs may deploy to it: names of users; "*" for all. Given, the environment is protected.
	// +optional
	Deployers []string `json:"deployers,omitempty"`
	// Follow lets a job succeed only when what it has deployed is healthy. KEELSON_FOLLOW in the job's variables (true, false) goes before it.
	// Default: true.
	// +optional
	Follow *bool `json:"follow,omitempty"`
	// FollowTimeout is how long that may take. Default: 10m.
	// +optional
	FollowTimeout *metav1.Duration `json:"followTimeout,omitempty"`
}

// ProjectSchedule makes pipelines at certain times.
type ProjectSchedule struct {
	// Name tells it from others, and is its description (CI_PIPELINE_SCHEDULE_DESCRIPTION).
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=255
	Name string `json:"name"`
	// Cron is when: minute, hour, day of the month, month, day of the week.
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=200
	Cron string `json:"cron"`
	// TimeZone is the IANA name of the zone that Cron is in. Default: UTC.
	// +optional
	TimeZone string `json:"timeZone,omitempty"`
	// Ref is the branch or tag. Default: the default branch.
	// +optional
	Ref string `json:"ref,omitempty"`
	// Variables are those of the pipeline.
	// +optional
	Variables map[string]string `json:"variables,omitempty"`
	// Suspend keeps it from making pipelines.
	// +optional
	Suspend bool `json:"suspend,omitempty"`
}

// ProjectTrigger is a token with which another system makes pipelines.
type ProjectTrigger struct {
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=255
	Name string `json:"name"`
	// TokenFrom is the key of a Secret in the Project's namespace that has the token.
	TokenFrom corev1.SecretKeySelector `json:"tokenFrom"`
}

// ProjectLimits bound what jobs take.
type ProjectLimits struct {
	// CPU and Memory of a job with its services. In Pods they are limits of the build container, and requests where nothing is requested.
	// +optional
	CPU *resource.Quantity `json:"cpu,omitempty"`
	// +optional
	Memory *resource.Quantity `json:"memory,omitempty"`
	// Timeout is the most that a job's timeout may be, and that of jobs which name none. Default: 1h, for jobs that name none.
	// +optional
	Timeout *metav1.Duration `json:"timeout,omitempty"`
	// Concurrency is how many jobs of the project run at a time. Default: as many as the server takes.
	// +kubebuilder:validation:Minimum=1
	// +optional
	Concurrency *int32 `json:"concurrency,omitempty"`
}

// ProjectStatus is how a Project stands.
type ProjectStatus struct {
	// +optional
	ObservedGeneration int64 `json:"observedGeneration,omitempty"`
	// Conditions: Ready says whether pipelines can be made, and why not.
	// +listType=map
	// +listMapKey=type
	// +optional
	Conditions []metav1.Condition `json:"conditions,omitempty"`
	// Schedules tell when the schedules are due next.
	// +listType=map
	// +listMapKey=name
	// +optional
	Schedules []ScheduleStatus `json:"schedules,omitempty"`
	// LastPolled is when the other Git server was asked last, as of the last time that there was something to tell.
	// +optional
	LastPolled *metav1.Time `json:"lastPolled,omitempty"`
}

// ScheduleStatus is how a schedule stands.
type ScheduleStatus struct {
	Name string `json:"name"`
	// +optional
	Next *metav1.Time `json:"next,omitempty"`
	// +optional
	LastPipeline int64 `json:"lastPipeline,omitempty"`
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
