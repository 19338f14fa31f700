// Package operation decides about an app's operations, which Argo CD calls syncs: when one begins, what it does next, and how it
// ends. It is pure: the policy, what was compared, what is there and the time go in; a decision comes out.
//
// An operation goes through moments: PreSync hooks, then objects and Sync hooks, then what is to be deleted, then PostSync hooks;
// SyncFail hooks where it fails. In each, lower waves come first (of what is to be deleted, higher ones), and a wave begins once all
// of the one before is healthy (hooks: done). Nothing here waits for a time: what an operation waits for is something that happens
// (Argo CD: user-guide/sync-waves).
//
// All that an operation knows of itself is in its results and in the cluster: it goes on after a restart of the controller.
package operation

import (
	"time"

	"keelson.dev/keelson/internal/delivery"
)

// Standing is what is known when it is decided whether an operation begins.
type Standing struct {
	Policy    delivery.SyncPolicy
	Asked     *delivery.OperationRequest // by somebody; nil: by nobody
	Last      *delivery.Operation        // nil: there was none
	Revisions []string                   // that Git has now, one for each source
	Changed   bool                       // the app's sources are declared otherwise than when the last operation began
	InSync    bool                       // the cluster is as they want it
	Compared  []delivery.Comparison
	Drifted   []delivery.Ref // what may be repaired now, of that which differs
	Now       time.Time
}

// Decision is what becomes of it.
type Decision struct {
	Begin *delivery.OperationRequest // not nil: an operation begins
	Retry bool                       // … the last one once more
	// GivesUp says that the last operation, which waits for another attempt, gets none.
	GivesUp bool
	After   time.Duration // nothing begins now, but may after this long; zero: not by itself
	Why     string        // why nothing begins although the app is not in sync, for people
	// Fault says that Why is something to be mended: Argo CD's condition SyncError.
	Fault bool
	// Window says that a sync window keeps it from beginning.
	Window bool
}

// View is what an operation under way looks at.
type View struct {
	App       delivery.ID
	Operation delivery.Operation
	Policy    delivery.SyncPolicy
	Plan      delivery.Plan     // what makes the cluster like Git, of objects that are no hooks
	Hooks     []delivery.Object // with their labels of ownership set
	Live      func(delivery.Ref) (delivery.Live, bool)
	Health    func(delivery.Ref) delivery.Health   // by the app's own rules; of what is not there: Missing
	Deadline  func(delivery.Ref) (time.Time, bool) // of a hook, where it has one; nil: none has
	Now       time.Time
}

// Step is what an operation does next: exactly one of Stage (with changes), Waiting and Over is set.
type Step struct {
	Stage     delivery.Stage     // to be carried out; then [Record] its results and decide again
	Waiting   string             // for something that is watched
	After     time.Duration      // … but not longer than this; zero: as long as it takes
	Over      bool               // Operation.Phase says how it ended
	Operation delivery.Operation // as it is to be remembered from now on
}

// Done is what became of one change of a stage.
type Done struct {
	Change delivery.Change
	Fault  *delivery.Fault // nil: it was made
}
