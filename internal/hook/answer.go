package hook

import "time"

// Result is what became of a request.
type Result int

// The results.
const (
	Done     Result = iota // everything that it asks for is done, or will be shortly
	Unknown                // there is no receiver at that path
	NotReady               // the receiver is suspended, or something is wrong with it
	Refused                // it is not genuine, or of an event that does not count
	Busy                   // there are too many; try again after Wait
	Unread                 // its body could not be read
	Failed                 // something could not be done; the sender may try again
)

func (r Result) String() string {
	return [...]string{"done", "unknown", "notready", "refused", "busy", "unread", "failed"}[r]
}

// Answer is what a sender is told. It says nothing about why: that stands in the log.
type Answer struct {
	Result Result
	Wait   time.Duration // with Busy
}
