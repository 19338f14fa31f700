package v1alpha1

import metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

// ApplicationStatus is how an Application stands.
type ApplicationStatus struct {
	Resources            []ResourceStatus       `json:"resources,omitempty"`
	Sync                 SyncStatus             `json:"sync,omitempty,omitzero"`
	Health               HealthStatus           `json:"health,omitempty,omitzero"`
	History              []RevisionHistory      `json:"history,omitempty"`
	Conditions           []ApplicationCondition `json:"conditions,omitempty"`
	ReconciledAt         *metav1.Time           `json:"reconciledAt,omitempty"`
	OperationState       *OperationState        `json:"operationState,omitempty"`
	ObservedAt           *metav1.Time           `json:"observedAt,omitempty"`
	SourceType           string                 `json:"sourceType,omitempty"`
	SourceTypes          []string               `json:"sourceTypes,omitempty"`
	Summary              ApplicationSummary     `json:"summary,omitempty,omitzero"`
	ResourceHealthSource string                 `json:"resourceHealthSource,omitempty"`
	ControllerNamespace  string                 `json:"controllerNamespace,omitempty"`
}

// Values of SyncStatus.Status and ResourceStatus.Status.
const (
	Synced      = "Synced"
	OutOfSync   = "OutOfSync"
	SyncUnknown = "Unknown"
)

// SyncStatus tells whether the cluster is as Git wants it.
type SyncStatus struct {
	Status     string     `json:"status"`
	ComparedTo ComparedTo `json:"comparedTo,omitempty,omitzero"`
	Revision   string     `json:"revision,omitempty"`
	Revisions  []string   `json:"revisions,omitempty"`
}

// ComparedTo is what the cluster was compared to.
type ComparedTo struct {
	Source            *ApplicationSource          `json:"source,omitempty"`
	Sources           []ApplicationSource         `json:"sources,omitempty"`
	Destination       ApplicationDestination      `json:"destination"`
	IgnoreDifferences []ResourceIgnoreDifferences `json:"ignoreDifferences,omitempty"`
}

// HealthStatus is a health: Healthy, Progressing, Degraded, Suspended, Missing or Unknown.
type HealthStatus struct {
	Status             string       `json:"status,omitempty"`
	Message            string       `json:"message,omitempty"`
	LastTransitionTime *metav1.Time `json:"lastTransitionTime,omitempty"`
}

// ResourceStatus is how one object stands.
type ResourceStatus struct {
	Group                        string        `json:"group,omitempty"`
	Version                      string        `json:"version,omitempty"`
	Kind                         string        `json:"kind,omitempty"`
	Namespace                    string        `json:"namespace,omitempty"`
	Name                         string        `json:"name,omitempty"`
	Status                       string        `json:"status,omitempty"`
	Health                       *HealthStatus `json:"health,omitempty"`
	Hook                         bool          `json:"hook,omitempty"`
	RequiresPruning              bool          `json:"requiresPruning,omitempty"`
	RequiresDeletionConfirmation bool          `json:"requiresDeletionConfirmation,omitempty"`
	SyncWave                     int64         `json:"syncWave,omitempty"`
}

// RevisionHistory is one deployment that succeeded.
type RevisionHistory struct {
	Revision        string              `json:"revision,omitempty"`
	DeployedAt      metav1.Time         `json:"deployedAt"`
	ID              int64               `json:"id"`
	Source          *ApplicationSource  `json:"source,omitempty"`
	DeployStartedAt *metav1.Time        `json:"deployStartedAt,omitempty"`
	Sources         []ApplicationSource `json:"sources,omitempty"`
	Revisions       []string            `json:"revisions,omitempty"`
	InitiatedBy     OperationInitiator  `json:"initiatedBy,omitempty,omitzero"`
}

// Types of conditions (Argo CD's ApplicationConditionType), and ours.
const (
	ConditionDeletionError             = "DeletionError"
	ConditionInvalidSpecError          = "InvalidSpecError"
	ConditionComparisonError           = "ComparisonError"
	ConditionSyncError                 = "SyncError"
	ConditionUnknownError              = "UnknownError"
	ConditionSharedResourceWarning     = "SharedResourceWarning"
	ConditionRepeatedResourceWarning   = "RepeatedResourceWarning"
	ConditionExcludedResourceWarning   = "ExcludedResourceWarning"
	ConditionOrphanedResourceWarning   = "OrphanedResourceWarning"
	ConditionUnsupportedFieldsWarning  = "UnsupportedFieldsWarning"  // ours: fields that have no effect
	ConditionHeldWarning               = "HeldWarning"               // ours: a hold keeps automation from acting
	ConditionDependencyWarning         = "DependencyNotReadyWarning" // ours: an app that this one depends on is not ready
	ConditionConfirmationRequiredError = "ConfirmationRequiredError" // ours: a guard has stopped the app
)

// ApplicationCondition is something that is wrong, or worth knowing.
type ApplicationCondition struct {
	Type               string       `json:"type"`
	Message            string       `json:"message"`
	LastTransitionTime *metav1.Time `json:"lastTransitionTime,omitempty"`
}

// Phases of an operation, and of a hook.
const (
	OperationRunning     = "Running"
	OperationTerminating = "Terminating"
	OperationFailed      = "Failed"
	OperationError       = "Error"
	OperationSucceeded   = "Succeeded"
)

// OperationState is how the last operation, or the one under way, has come.
type OperationState struct {
	Operation  Operation            `json:"operation"`
	Phase      string               `json:"phase"`
	Message    string               `json:"message,omitempty"`
	SyncResult *SyncOperationResult `json:"syncResult,omitempty"`
	StartedAt  metav1.Time          `json:"startedAt"`
	FinishedAt *metav1.Time         `json:"finishedAt,omitempty"`
	RetryCount int64                `json:"retryCount,omitempty"`
}

// SyncOperationResult is what a sync did.
type SyncOperationResult struct {
	Resources                []ResourceResult          `json:"resources,omitempty"`
	Revision                 string                    `json:"revision"`
	Source                   *ApplicationSource        `json:"source,omitempty"`
	Sources                  []ApplicationSource       `json:"sources,omitempty"`
	Revisions                []string                  `json:"revisions,omitempty"`
	ManagedNamespaceMetadata *ManagedNamespaceMetadata `json:"managedNamespaceMetadata,omitempty"`
}

// Values of ResourceResult.Status.
const (
	ResultSynced       = "Synced"
	ResultSyncFailed   = "SyncFailed"
	ResultPruned       = "Pruned"
	ResultPruneSkipped = "PruneSkipped"
)

// ResourceResult is what a sync did to one object, or with one hook.
type ResourceResult struct {
	Group     string   `json:"group"`
	Version   string   `json:"version"`
	Kind      string   `json:"kind"`
	Namespace string   `json:"namespace"`
	Name      string   `json:"name"`
	Status    string   `json:"status,omitempty"`
	Message   string   `json:"message,omitempty"`
	HookType  string   `json:"hookType,omitempty"`
	HookPhase string   `json:"hookPhase,omitempty"`
	SyncPhase string   `json:"syncPhase,omitempty"`
	Images    []string `json:"images,omitempty"`
}

// ApplicationSummary is for dashboards.
type ApplicationSummary struct {
	ExternalURLs []string `json:"externalURLs,omitempty"`
	Images       []string `json:"images,omitempty"`
	IsAppOfApps  bool     `json:"isAppOfApps,omitempty"`
}
