// Package history says who changed what, when and why: the nouns of a delivery that is over, and the decisions about them.
//
//	ReadCommit   a commit's message -> title, merge request, who approved it
//	Diff         an object before and after -> the fields that changed, bounded in size
//	Match        does a field that a person names meet one that changed
//	Decide       deliveries, repairs, pipelines -> the Answer to "why is it like this"
//
// The package is pure: values in, values out. Masking the values of Secrets comes before it; who records is `controller`, who keeps is `store`.
package history

import (
	"slices"
	"strings"
	"time"
)

// The triggers of a delivery: what has made it begin.
const (
	ByCommit   = "commit"   // there is a new commit, or another version of a chart
	BySpec     = "spec"     // the app, or what its variables come from, was changed
	ByDrift    = "drift"    // somebody else has changed the cluster
	BySync     = "sync"     // a person has asked for it
	ByRollback = "rollback" // to something older, by a person or by itself after a failure
)

// The statuses of a delivery.
const (
	Running    = "running"
	Succeeded  = "succeeded"
	Failed     = "failed"
	Superseded = "superseded" // something newer came before its end
)

// App names an app.
type App struct {
	Kind      string `json:"kind"`
	Namespace string `json:"namespace"`
	Name      string `json:"name"`
}

// String is "Kind/namespace/name".
func (a App) String() string { return a.Kind + "/" + a.Namespace + "/" + a.Name }

// ParseApp reads what [App.String] wrote; false: it is something else.
func ParseApp(s string) (App, bool) {
	parts := strings.Split(s, "/")
	if len(parts) != 3 || parts[0] == "" || parts[2] == "" {
		return App{}, false
	}
	return App{Kind: parts[0], Namespace: parts[1], Name: parts[2]}, true
}

// Object names an object of a cluster.
type Object struct {
	Group     string `json:"group,omitempty"`
	Kind      string `json:"kind"`
	Namespace string `json:"namespace,omitempty"`
	Name      string `json:"name"`
}

// String is "Kind/namespace/name", or "Kind/name".
func (o Object) String() string {
	if o.Namespace == "" {
		return o.Kind + "/" + o.Name
	}
	return o.Kind + "/" + o.Namespace + "/" + o.Name
}

// Field is one field of an object that is not as it was.
type Field struct {
	Path   string `json:"path"`             // "spec.template.spec.containers[name=web].image"
	Before string `json:"before,omitempty"` // as text, what has parts as JSON; empty: there was none
	After  string `json:"after,omitempty"`  // … there is none any more
	Secret bool   `json:"secret,omitempty"` // the values are masked
}

// Change is what a delivery did to one object.
type Change struct {
	Object
	Verb   string  `json:"verb"` // create, update, delete, …: [delivery.Verb]
	Fields []Field `json:"fields,omitempty"`
	More   int     `json:"more,omitempty"` // fields that are left out, as there are too many
}

// Merge gives what was done to an object by this change and then by another one: a field is what it was before the first of them, and after the
// last one. What was made stays made where it was only changed since. There are at most [MaxFields].
func (c Change) Merge(next Change) Change {
	out := Change{Object: c.Object, Verb: next.Verb, Fields: slices.Clone(c.Fields), More: max(c.More, next.More)}
	if what(c) == created && what(next) == changed {
		out.Verb = c.Verb
	}
	at := make(map[string]int, len(c.Fields))
	for i, f := range c.Fields {
		at[f.Path] = i
	}
	for _, f := range next.Fields {
		switch i, known := at[f.Path]; {
		case known:
			out.Fields[i].After, out.Fields[i].Secret = f.After, out.Fields[i].Secret || f.Secret
		case len(out.Fields) >= MaxFields:
			out.More++
		default:
			out.Fields = append(out.Fields, f)
		}
	}
	return out
}

// Commit is what a commit says about itself.
type Commit struct {
	SHA          string    `json:"sha,omitempty"`
	Title        string    `json:"title,omitempty"`
	Author       string    `json:"author,omitempty"`
	Email        string    `json:"email,omitempty"` // of the author
	Authored     time.Time `json:"authored,omitzero"`
	MergeRequest string    `json:"mergeRequest,omitempty"` // "group/app!12", "#12"
	Approvers    []string  `json:"approvers,omitempty"`    // as the trailers Approved-by and Reviewed-by name them
}

// Delivery is one way of an app to a revision.
type Delivery struct {
	ID  int64  `json:"id"`
	Key string `json:"-"` // of whoever records it: what is told with the same key is the same delivery
	// Resumes says that a process before may have told of it with another key.
	Resumes bool `json:"-"`
	// Found says that it was found to be over: where it is known to have succeeded, what is known of it stays.
	Found bool `json:"-"`

	App         App    `json:"app"`
	Environment string `json:"environment,omitempty"`
	Cluster     string `json:"cluster,omitempty"` // what says how another cluster is reached; empty: the app's own
	Revision    string `json:"revision"`          // "main@sha1:<hex>", or the version of a chart
	Commit
	Previous string `json:"previousSha,omitempty"` // what was there before
	Trigger  string `json:"trigger"`
	Actor    string `json:"actor,omitempty"` // who has asked for it, where somebody has

	Pipeline int64 `json:"pipeline,omitempty"` // that was played for the commit; 0: none is known
	Job      int64 `json:"job,omitempty"`      // that has deployed it

	Status   string    `json:"status"`
	Message  string    `json:"message,omitempty"`
	Began    time.Time `json:"began"`
	Applied  time.Time `json:"applied,omitzero"`  // the cluster has all of it
	Finished time.Time `json:"finished,omitzero"` // it is over
	Health   string    `json:"health,omitempty"`
	Healthy  time.Time `json:"healthy,omitzero"` // since when it is

	Changes []Change `json:"changes,omitempty"`
	Objects int      `json:"objects"` // that were changed, also those that Changes leaves out
}

// Repair is drift that was undone.
type Repair struct {
	ID  int64  `json:"id"`
	App App    `json:"app"`
	SHA string `json:"sha,omitempty"` // what the app is at
	Object
	Fields   []Field   `json:"fields"` // as they were found, and as they are again; none: the object had been deleted
	More     int       `json:"more,omitempty"`
	Reason   string    `json:"reason,omitempty"`
	Manager  string    `json:"manager,omitempty"` // the field manager that wrote them; empty: not known
	Found    time.Time `json:"found"`
	Repaired time.Time `json:"repaired"` // the last time
	Times    int       `json:"times"`    // how often in a row
}

// Approval is a person's word for a commit.
type Approval struct {
	By  string    `json:"by"`
	How string    `json:"how"` // "Approved-by", "played deploy"
	At  time.Time `json:"at,omitzero"`
	// Pipeline and Job are where a manual job was played; 0: it was not that.
	Pipeline int64 `json:"pipeline,omitempty"`
	Job      int64 `json:"job,omitempty"`
}

// JobWrite is a job of a deployment that has written an object, or pushed a commit.
type JobWrite struct {
	Job         int64     `json:"job"`
	Pipeline    int64     `json:"pipeline"`
	Environment string    `json:"environment"`
	SHA         string    `json:"sha"` // of the pipeline
	User        string    `json:"user,omitempty"`
	Status      string    `json:"status"`
	Verb        string    `json:"verb,omitempty"` // patch, update, delete, …
	At          time.Time `json:"at"`             // when the job began
}

// Pipeline is what was played for a commit.
type Pipeline struct {
	ID       int64     `json:"id"`
	Project  string    `json:"project,omitempty"` // path
	Status   string    `json:"status"`
	User     string    `json:"user,omitempty"`
	Finished time.Time `json:"finished,omitzero"`
}
