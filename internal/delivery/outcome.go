package delivery

import "time"

// Phase is where an app or a source stands after a step.
type Phase string

// The phases.
const (
	Ready   Phase = "Ready"   // everything is as Git wants it (and healthy, where the app waits for health)
	Working Phase = "Working" // under way; nothing is wrong
	Failing Phase = "Failing" // the last attempt failed; it is tried again
	Stalled Phase = "Stalled" // the last attempt failed; only a new commit, a new spec or a person's word can help
)

// Outcome is what one step leaves to say about an app or a source: the input of its status.
type Outcome struct {
	Phase     Phase
	Reason    string // a condition reason
	Message   string // for people, stable while nothing changes
	Attempted Revision
	Applied   Revision  // the revision that is completely applied; zero: as before
	Inventory Inventory // what the app owns now
	Health    Health    // of the app's objects; the zero Health: not known
	Handled   string    // the person's request that this answers
	Skipped   []string  // objects of the commit that are not applied, because Keelson takes their place
	Digest    string    // identifies what the app was rendered from, "sha256:…"; empty: nothing was
	Origin    string    // the revision that the source's content was made from, where it tells one
	Took      time.Duration
	Release   *ReleaseRecord // of a Helm release: what is known of it now; nil: as before
	GivenUp   bool           // of a release, where Stalled: Ready keeps telling why it failed
}
