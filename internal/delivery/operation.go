package delivery

import "time"

// SyncPolicy says when an app's operations begin, and how they are carried out (Argo CD: spec.syncPolicy).
type SyncPolicy struct {
	Automated bool // one begins for every new commit; else only when somebody asks
	SelfHeal  bool // … and for every drift
	Prune     bool // what left Git is deleted by automated ones
	// AllowEmpty lets an automated one delete everything.
	AllowEmpty        bool
	Options           SyncOptions
	Retry             RetryPolicy
	NamespaceMetadata *Metadata // not nil: of the namespace that CreateNamespace makes
	Held              *Hold     // not nil: no automated one begins
	Approved          bool      // a person has approved of the deletions that need it, since the operation began
	Windows           Window    // what the project's sync windows say now
	HistoryLimit      int       // deployments to remember
}

// SyncOptions are those of an app or of an operation.
type SyncOptions struct {
	CreateNamespace             bool
	PruneLast                   bool
	Replace                     bool
	Force                       bool
	ServerSideApply             bool // what we do anyway
	ApplyOutOfSyncOnly          bool // what we do anyway
	RespectIgnoreDifferences    bool
	FailOnSharedResource        bool // what we do anyway
	SkipDryRunOnMissingResource bool
	NoPrune                     bool   // Prune=false
	ConfirmPrune                bool   // Prune=confirm
	NoDelete                    bool   // Delete=false
	ConfirmDelete               bool   // Delete=confirm
	Propagation                 string // PrunePropagationPolicy: foreground (default), background, orphan
}

// RetryPolicy bounds how often a failed operation is tried again. The zero one is never.
type RetryPolicy struct {
	Limit    int // below 0: without end
	Duration time.Duration
	Factor   int
	Max      time.Duration
	Refresh  bool // an attempt takes what Git has by then; else what the operation began with
}

// Window is what an app's sync windows say at a time.
type Window struct {
	Automated, Manual bool // allowed now
	Overrun           bool // an operation that has begun may end
	Why               string
	Next              time.Time // when that changes; zero: never
}

// Moment is when a hook runs.
type Moment string

// The moments of an operation and of a deletion (Argo CD: user-guide/sync-waves, "Sync Phases").
const (
	PreSync    Moment = "PreSync"
	DuringSync Moment = "Sync"
	PostSync   Moment = "PostSync"
	SyncFail   Moment = "SyncFail"
	PreDelete  Moment = "PreDelete"
	PostDelete Moment = "PostDelete"
	SkipHook   Moment = "Skip" // never: the object is not applied at all
)

// HookDeletion is when a hook's object is deleted.
type HookDeletion string

// Before the next one is made (the default), or when it has ended.
const (
	BeforeHookCreation HookDeletion = "BeforeHookCreation"
	HookSucceeded      HookDeletion = "HookSucceeded"
	HookFailed         HookDeletion = "HookFailed"
)

// Hook says when an object is run, and when it is deleted.
type Hook struct {
	Moments []Moment
	Delete  []HookDeletion
}

// OperationPhase is how far an operation, or a hook in it, has come.
type OperationPhase string

// The phases. Terminating is one that somebody wants to end; Error is one that could not be carried out.
const (
	OperationRunning     OperationPhase = "Running"
	OperationTerminating OperationPhase = "Terminating"
	OperationSucceeded   OperationPhase = "Succeeded"
	OperationFailed      OperationPhase = "Failed"
	OperationError       OperationPhase = "Error"
)

// Over tells whether nothing comes after the phase.
func (p OperationPhase) Over() bool {
	return p == OperationSucceeded || p == OperationFailed || p == OperationError
}

// OperationRequest is what an operation is to do.
type OperationRequest struct {
	By        string // who asked; empty: nobody
	Automated bool
	Healing   bool     // for drift, not for a new commit
	Attempts  int      // how often in a row drift was healed
	Revisions []string // those asked for, one for each source; none: what the app's sources lead to
	Prune     bool
	DryRun    bool
	Force     bool
	NoHooks   bool
	Only      []Ref // these objects alone; none: all
	Options   SyncOptions
	Retry     RetryPolicy
	Invalid   string // why it cannot be carried out as it is asked for; empty: it can
}

// Operation is one sync, under way or over: data that survives a restart in the cluster.
type Operation struct {
	Request   OperationRequest
	Phase     OperationPhase
	Message   string
	Revisions []string // that it makes the cluster like, one for each source
	Started   time.Time
	Finished  time.Time         // zero: not yet
	Retries   int               // attempts after the first one, with the one at Next
	Next      time.Time         // it has failed and is tried again then; zero: it is under way, or over for good
	Results   []OperationResult // in the order in which they came
}

// OperationAnnotation of a hook names the operation and the moment that it was made for: "2026-11-21T12:00:00Z/PreSync". By it a
// controller knows a hook again whose making it did not come to write down.
const OperationAnnotation = "keelson.dev/operation"

// OperationResult is what an operation has done to one object, or with one hook at one moment.
type OperationResult struct {
	Ref     Ref
	Version string
	Status  string // Synced, SyncFailed, Pruned, PruneSkipped
	Message string
	Moment  Moment
	Hook    OperationPhase // of a hook; empty: it is none
	Passed  bool           // of an object: it was healthy, so that what comes after it need not wait for it any more; of a hook: it was deleted
	Failed  bool           // of an object: it was degraded when what comes after it waited for it, and so the operation fails
}

// Comparison is how one object of an app compares to Git.
type Comparison struct {
	Ref                  Ref
	Version              string
	Differs              bool // it is missing, or other than in Git, or not in Git
	RequiresPruning      bool // it is not in Git
	RequiresConfirmation bool // … and is deleted only once a person has said so
	Counts               bool // it makes the app differ from Git
	Hook                 bool
	Wave                 int
	Health               Health // of what has none that counts, the zero one
	Reason               string // why it differs, for people
}
