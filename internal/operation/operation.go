// Package operation decides about an app's operations, which Argo CD calls syncs: when one begins, what it does next, and how it
// ends. It is pure: the policy, what was compared, what is there and the time go in; a decision comes out.
//
// An operation goes through moments: PreSync hooks, then objects and Sync hooks, then PostSync hooks; SyncFail hooks where it fails.
// In each, lower waves come first, and a wave begins once all of the one before is healthy (hooks: done). Nothing here waits for a
// time: what an operation waits for is something that happens (Argo CD: user-guide/sync-waves).
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
	InSync    bool                       // the cluster is as they want it
	Drift     bool                       // … and, if not, all that differs was as they want it before
	Now       time.Time
}

// Decision is what becomes of it.
type Decision struct {
	Begin *delivery.OperationRequest // not nil: an operation begins
	Retry bool                       // … the last one once more
	After time.Duration              // nothing begins now, but may after this long; zero: not by itself
	Why   string                     // why nothing begins although the app is not in sync, for people
}

// View is what an operation under way looks at.
type View struct {
	Operation delivery.Operation
	Policy    delivery.SyncPolicy
	Plan      delivery.Plan     // what makes the cluster like Git, of objects that are no hooks
	Hooks     []delivery.Object // with their labels of ownership set
	Live      func(delivery.Ref) (delivery.Live, bool)
	Health    func(delivery.Ref) delivery.Health   // by the app's own rules; of what is not there: Missing
	Refused   func(delivery.Ref) *delivery.Fault   // why the server did not take an object in this operation; nil: it did, or was not asked
	Deadline  func(delivery.Ref) (time.Time, bool) // of a hook, where it has one
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

// Decide tells whether an operation begins now.
func Decide(s Standing) Decision { return Decision{} }

// Start gives the operation that a decision begins.
func Start(d Decision, s Standing) delivery.Operation { return delivery.Operation{} }

// Next tells what an operation under way does now.
func Next(v View) Step { return Step{Operation: v.Operation} }

// Record takes in what became of a stage.
func Record(op delivery.Operation, done []Done, now time.Time) delivery.Operation { return op }
