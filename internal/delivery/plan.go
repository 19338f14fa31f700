package delivery

import (
	"slices"
	"time"
)

// Live is what is known of one object in the cluster, kept from its last watch event.
// It holds hashes of the fields that we own, never the object itself.
type Live struct {
	Ref             Ref
	Version         string // the API version it is watched in ("v1")
	UID             string
	ResourceVersion string
	Created         time.Time // to the second
	Owner           ID        // the app named by its labels; zero: none
	Owned           Hash      // hash of the fields our field manager owns, spec.replicas left out; zero: it owns none
	OwnsReplicas    bool      // our field manager owns spec.replicas
	Replicas        int64     // live spec.replicas; -1 where there is none
	Health          Health
	Deleting        bool           // it has a deletion timestamp
	Marks           Marks          // what it asks for itself, as it is in the cluster
	Done            bool           // it has done its work and wants no other: a Job that has completed
	Fixed           map[string]any // values of its immutable fields, by path, as far as its kind is known to have some
	Rival           string         // the field manager, other than ours, that wrote to it last
	Operation       string         // that a hook was made for: [OperationAnnotation]; empty: it is none
	Shared          string         // another delivery tool's field manager that owns fields which are, or will be, ours; empty: none
}

// Applied is what one apply of an object left behind: enough to tell later, from memory,
// whether the object is still as we want it.
type Applied struct {
	Desired    Hash  // hash of what was sent
	Owned      Hash  // [Live.Owned] of the server's answer
	Replicas   int64 // spec.replicas as sent; -1: not sent
	Autoscaled bool  // spec.replicas was left to an autoscaler
	Kept       Hash  // as Owned, but for the fields that are left to others; zero: none are
	Fleeting   bool  // the object goes by itself once it has done its work: a Job with spec.ttlSecondsAfterFinished
}

// Verb is what a change does to one object.
type Verb string

// The verbs of a plan.
const (
	Create    Verb = "create"    // it is not there
	Update    Verb = "update"    // Git wants something else than before
	Repair    Verb = "repair"    // Git is unchanged, the cluster is not: drift
	Replace   Verb = "replace"   // it is deleted, to be made anew once it is gone: the server never lets it be changed like this
	Delete    Verb = "delete"    // it left Git
	Release   Verb = "release"   // it left Git, but is not ours (any more) or is kept: only the inventory forgets it
	Unchanged Verb = "unchanged" // nothing to send
	Delegated Verb = "delegated" // a hold keeps it as it is
	Paused    Verb = "paused"    // the server refused it; it waits for its next try, and so does what comes after its stage
)

// LeftBy says what wants an object not to be touched.
type LeftBy string

// What may want that.
const (
	LeftByGit     LeftBy = "Git"     // a mark in Git: until another commit
	LeftByCluster LeftBy = "cluster" // a mark of the object in the cluster: until it is gone
)

// Change is one object's part of a plan.
type Change struct {
	Ref     Ref
	Version string // API version to use
	Verb    Verb
	Reason  string  // why, as a phrase: "changed in Git", "deleted in the cluster"
	Object  *Object // what to send (create, update, repair); nil otherwise
	Desired Hash    // hash of Object
	// Autoscaled says that spec.replicas is left to an autoscaler.
	Autoscaled  bool
	Ignored     []Pointer // fields that are left to others where the object is there
	UID         string    // of the live object to delete
	Left        LeftBy    // not empty: it is not to be touched
	Forced      bool      // it may be replaced if the server refuses the change for good
	Whole       bool      // it is replaced as a whole, not merged
	Propagation string    // of a deletion: foreground, background or orphan; empty: background
	Moment      Moment    // not empty: it is about a hook, which runs then
	Wave        int       // in an operation, changes of lower waves come first
	Asks        Marks     // what the object asks for: in Git, or, where it left Git, in the cluster
	First       bool      // in an operation it comes before all else: the namespace that the rest is in
	DryRun      bool      // the server is only asked whether it would take it
}

// LeftToOthers are the fields of the object that others decide: those to ignore, and the number of replicas under an autoscaler.
func (c Change) LeftToOthers() []Pointer {
	if !c.Autoscaled {
		return c.Ignored
	}
	return append(slices.Clip(c.Ignored), Pointer{"spec", "replicas"})
}

// Stage is a set of changes that may be made in any order, all at once. The next stage starts
// when every object of this one is there (CustomResourceDefinitions: established).
type Stage struct {
	Name    string
	Changes []Change
}

// Block is a reason why a plan must not be carried out, not even in part.
type Block struct {
	Ref   Ref // the object at fault; zero: the app as a whole
	Fault *Fault
}

// Plan is an ordered change to a cluster. It is data: shown by the CLI, carried out by apply.
type Plan struct {
	Stages    []Stage
	Blocks    []Block   // not empty: nothing of the plan may be carried out
	Awaits    []Ref     // objects whose kind comes with a CustomResourceDefinition of the same plan that is not yet established
	Inventory Inventory // what we own once the plan is done
}

// Pending counts the stage's changes that would touch the cluster.
func (s Stage) Pending() int {
	n := 0
	for _, c := range s.Changes {
		if c.Verb.Touches() {
			n++
		}
	}
	return n
}

// Touches tells whether the verb changes anything in the cluster.
func (v Verb) Touches() bool {
	return v == Create || v == Update || v == Repair || v.Deletes()
}

// Deletes tells whether the verb deletes the object.
func (v Verb) Deletes() bool { return v == Delete || v == Replace }

// Next gives the first stage with something to do; false: the plan is done.
// A plan that awaits a kind does not go past the stage that brings it, and none goes past a stage with a paused change:
// then an empty stage is returned.
func (p Plan) Next() (Stage, bool) {
	for i, s := range p.Stages {
		if len(p.Awaits) > 0 && (i > 0 || s.Pending() == 0) {
			return Stage{}, true
		}
		if s.Pending() > 0 {
			return s, true
		}
		if slices.ContainsFunc(s.Changes, func(c Change) bool { return c.Verb == Paused }) {
			return Stage{}, true
		}
	}
	return Stage{}, false
}
