// Package agent is what runs in the Pod of a job: this program again, called with [Command].
//
//	keelson ci-agent install DIR     the helper container: copies the program to where the job's container finds it
//	keelson ci-agent run             the job's container: runs the scripts of one job, and reports to Keelson
//
// # How it works
//
// A job goes through phases, always in the same order: the hook before the sources, the sources, the script, after_script, what the job
// leaves, the end. The agent tells Keelson its [Status] and waits for an [Order], which names the next phase. While a phase runs it asks as
// well: it may be told to stop. Its status says all that it has done so far, so a Keelson that has just started learns from it where the
// job is, and goes on there. The agent tries again for as long as Keelson is away.
//
//	POST poll             Status -> Order; waits for one
//	POST log?offset=N     what the job has written from there on -> LogState
//	GET  files            the job's directory as it is made ready
//	PUT  files            what is wanted of it afterwards
//
// What the job writes is kept in memory until Keelson has put it into the log: [logRoom] of it, then the job waits. Nothing is on the disk.
//
// All that runs in the container may read the job's token and what the agent knows: it is the job's own. What the agent says is believed
// as far as the job may decide it.
package agent

import (
	"time"

	"keelson.dev/keelson/internal/pipeline/artifact"
)

// Command is the argument under which a program has to call [Main] with what follows it.
const Command = "ci-agent"

// Where things are in a Pod.
const (
	BinDir  = "/keelson/bin" // the program
	Program = BinDir + "/keelson"
	JobDir  = "/keelson/job" // the files URL, Token and, if there is one, CA
	Builds  = "/builds"      // below which jobs work

	FileURL   = "url"
	FileToken = "token"
	FileCA    = "ca.crt"
)

// Phase is how far a job is.
type Phase int

// The phases of a job, in their order.
const (
	Hello Phase = iota // the agent has started
	PreGet
	Fetch
	Script
	AfterScript
	Upload
	End
	phases
)

// Status is what an agent tells of itself.
type Status struct {
	Phase   Phase        `json:"phase"`   // the one that it is at
	Running bool         `json:"running"` // else it is done with it
	Exits   [phases]Exit `json:"exits"`   // of the phases that are over
	Uploads int          `json:"uploads"` // how often it has begun to send what the job leaves
	Bash    bool         `json:"bash"`    // there is a bash
	// Server is the one that the agent has heard of last. Another one gives its name first, and is told Mask.
	Server string   `json:"server,omitempty"`
	Mask   []string `json:"mask,omitempty"` // as in Setup
	Note   string   `json:"note,omitempty"` // the last one of an order
}

// Newer tells whether a status is not older than another one.
func (s Status) Newer(than Status) bool {
	return s.Phase > than.Phase || s.Uploads > than.Uploads || s.Phase == than.Phase && (than.Running || !s.Running)
}

// Done tells whether the agent is done with a phase.
func (s Status) Done(p Phase) bool { return s.Phase > p || s.Phase == p && !s.Running }

// Exit is how a phase has ended.
type Exit struct {
	Code    int    `json:"code"`
	Stopped bool   `json:"stopped,omitempty"` // it was told to stop, or its time was over
	OOM     bool   `json:"oom,omitempty"`     // processes of it were killed as there was no memory
	Killed  bool   `json:"killed,omitempty"`  // it did not end when it was told to
	Err     string `json:"error,omitempty"`   // it could not be done
	Config  bool   `json:"config,omitempty"`  // because of what the job says
}

// Order is what an agent is to do.
type Order struct {
	Server string `json:"server"`
	Phase  Phase  `json:"phase"`          // the phase to begin; one that has begun changes nothing
	Stop   bool   `json:"stop,omitempty"` // ends the phase that runs; one that has not begun is over then

	Note     string               `json:"note,omitempty"`     // what a Keelson that begins anew has to know
	Setup    *Setup               `json:"setup,omitempty"`    // with the first phase
	Text     string               `json:"text,omitempty"`     // of the script
	Env      []string             `json:"env,omitempty"`      // variables besides those of Setup
	Limit    time.Duration        `json:"limit,omitempty"`    // how long the phase may take while Keelson is away
	Wait     []Port               `json:"wait,omitempty"`     // of Fetch: what the services listen on
	Selected []artifact.Selection `json:"selected,omitempty"` // of Upload
	// Uploads is the how many-eth time it is that this is asked for: what was sent to a Keelson that is no more has to be sent again.
	Uploads int      `json:"uploads,omitempty"`
	Tracked []string `json:"tracked,omitempty"`
}

// New tells whether an agent with this status has to carry out an order.
func (o Order) New(s Status) bool {
	return o.Phase > s.Phase || o.Phase == Upload && s.Phase == Upload && o.Uploads > s.Uploads
}

// Setup is what holds for all phases.
type Setup struct {
	Dir   string        `json:"dir"`
	Temp  string        `json:"temp"` // a directory for nobody else
	Env   []string      `json:"env"`
	Files []File        `json:"files,omitempty"` // in Temp
	Mask  []string      `json:"mask,omitempty"`  // what a Keelson that knows the job from its agent only must not show
	Grace time.Duration `json:"grace"`           // between SIGTERM and SIGKILL
}

// File is a file that only the job may read.
type File struct {
	Name    string `json:"name"`
	Content string `json:"content"`
}

// Port is what a service listens on when it is ready.
type Port struct {
	Service string `json:"service"`
	Port    int    `json:"port"`
}

// LogState is what Keelson has of a log.
type LogState struct {
	Received int64 `json:"received"` // what comes next
	Kept     int64 `json:"kept"`     // what the agent need not keep any more
}

// Bounds of what an agent sends and keeps, in bytes.
const (
	LogChunk = 256 << 10
	logRoom  = 4 << 20
	MaxOrder = 64 << 20 // the files of variables and the names of tracked files are in it
	MaxPoll  = 2 << 20
)

// PollWait is how long Keelson lets an agent wait for an order.
const PollWait = 25 * time.Second
