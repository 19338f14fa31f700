package history

import "time"

// Question is "why is this object, or this field of it, as it is".
type Question struct {
	Kind      string    `json:"kind"`
	Namespace string    `json:"namespace,omitempty"`
	Name      string    `json:"name"`
	Field     string    `json:"field,omitempty"` // empty: anything of the object
	At        time.Time `json:"at,omitzero"`     // as it was then; zero: as it is now
}

// Step is one change of an object, and the delivery that has made it.
type Step struct {
	Delivery Delivery `json:"delivery"` // without its changes
	Change   Change   `json:"change"`
}

// Evidence is what is known about an object, the newest first each.
type Evidence struct {
	Steps       []Step // those that [Relevant] lets through
	Repairs     []Repair
	Approvals   []Approval // of the commit of the first step, by jobs that were played
	Pipelines   []Pipeline // … of that commit
	Declaration *Step      // what has changed the app itself before the first step; nil: nothing that is known
	Jobs        []JobWrite // that have written the object themselves, past every app
	Pusher      *JobWrite  // the job that has pushed that commit; nil: none is known to have
	Parts       []Part     // the commits that came with the first step, the oldest first; none: only its own, as far as is known
	Begins      time.Time  // since when anything is known; zero: nothing is
}

// Answer says who has made an object what it is.
type Answer struct {
	Question
	Object Object `json:"object"`
	Found  bool   `json:"found"` // a delivery is known; else Note says what is
	// What is done to the object or field: created, changed or deleted.
	What     string    `json:"what,omitempty"`
	Fields   []Field   `json:"fields,omitempty"`   // that were changed then, as far as they were asked for
	Previous string    `json:"previous,omitempty"` // of the field that was asked for, where that is one
	Value    string    `json:"value,omitempty"`    // … since then
	Delivery *Delivery `json:"delivery,omitempty"` // without its changes
	// Head is what was delivered, where the commit of the delivery here is one of several that came with it.
	Head *Commit `json:"head,omitempty"`
	// Among are further commits of the same delivery that have changed it too, the newest first; where Unsure says so, it may be by any of them.
	Among  []Commit `json:"among,omitempty"`
	Unsure string   `json:"unsure,omitempty"`
	// Declaration is what had changed the app itself, where the delivery was for that.
	Declaration *Step      `json:"declaration,omitempty"`
	Approvals   []Approval `json:"approvals,omitempty"`
	Pipelines   []Pipeline `json:"pipelines,omitempty"`
	// Pusher is the job that has pushed the commit, as one that moves a version on does.
	Pusher *JobWrite `json:"pusher,omitempty"`
	// Jobs have written the object themselves since then, past every app, the newest first.
	Jobs    []JobWrite `json:"jobs,omitempty"`
	Repairs []Repair   `json:"repairs,omitempty"` // since then
	Earlier []Step     `json:"earlier,omitempty"`
	Begins  time.Time  `json:"begins,omitzero"` // since when anything is known of any object
	Note    string     `json:"note,omitempty"`
}

// MaxEarlier is how many changes before the last one an answer has, and how many repairs since.
const MaxEarlier = 5

// The things that are done to an object.
const (
	created = "created"
	changed = "changed"
	deleted = "deleted"
)

// Relevant tells whether a change answers a question about a field: it has changed that, or made or deleted the object. A change of which
// fields are not known may have.
func Relevant(field string, c Change) bool {
	if field == "" || what(c) != changed {
		return true
	}
	return len(matching(field, c)) > 0 || len(c.Fields) == 0 || c.More > 0
}

func what(c Change) string {
	switch c.Verb {
	case "create":
		return created
	case "delete", "replace":
		return deleted
	}
	return changed
}

// matching gives the fields of a change that are asked for.
func matching(field string, c Change) []Field {
	if field == "" {
		return c.Fields
	}
	var out []Field
	for _, f := range c.Fields {
		if Match(field, f.Path) {
			out = append(out, f)
		}
	}
	return out
}

// Decide answers a question by what is known.
func Decide(q Question, e Evidence) Answer {
	a := Answer{Question: q, Object: Object{Kind: q.Kind, Namespace: q.Namespace, Name: q.Name}, Begins: e.Begins}
	if len(e.Steps) == 0 {
		if len(e.Repairs) > 0 {
			a.Object = e.Repairs[0].Object
		}
		a.Repairs, a.Jobs = repairsSince(q, e.Repairs, time.Time{}), jobsSince(q, e.Jobs, time.Time{})
		a.Note = unknown(q, e)
		return a
	}
	first := e.Steps[0]
	a.Found, a.Object, a.What, a.Fields = true, first.Change.Object, what(first.Change), matching(q.Field, first.Change)
	if q.Field != "" && len(a.Fields) == 1 {
		a.Previous, a.Value = a.Fields[0].Before, a.Fields[0].After
	}
	switch {
	case q.Field == "" || a.What == deleted:
	case a.What == created && len(a.Fields) == 0:
		a.Note = "the field has not changed since the object was made"
	case len(a.Fields) == 0:
		a.Note = "which fields were changed then is not known; this one may be among them"
	}
	d := first.Delivery
	d.Changes = nil
	a.Delivery = &d
	a.credit(q, first.Change, e.Parts)
	for _, who := range d.Approvers {
		a.Approvals = append(a.Approvals, Approval{By: who, How: "approved"})
	}
	a.Approvals = append(a.Approvals, e.Approvals...)
	a.Pipelines = e.Pipelines
	if d.Trigger == BySpec || d.SHA == "" { // of a chart it is the declaration that names the version
		a.Declaration = e.Declaration
	}
	a.Repairs, a.Jobs, a.Pusher = repairsSince(q, e.Repairs, d.Began), jobsSince(q, e.Jobs, d.Began), e.Pusher
	if e.Pusher != nil {
		d.Job = e.Pusher.Job
	}
	for _, s := range e.Steps[1:] {
		if len(a.Earlier) == MaxEarlier || what(e.Steps[len(a.Earlier)].Change) == created { // another object of that name came before
			break
		}
		s.Delivery.Changes, s.Change.Fields = nil, matching(q.Field, s.Change)
		a.Earlier = append(a.Earlier, s)
	}
	return a
}

// jobsSince gives what jobs have written of what is asked for since a time.
func jobsSince(q Question, all []JobWrite, since time.Time) []JobWrite {
	var out []JobWrite
	for _, j := range all {
		if !j.At.Before(since) && (q.At.IsZero() || !j.At.After(q.At)) && len(out) < MaxEarlier {
			out = append(out, j)
		}
	}
	return out
}

// unknown says what is known where no delivery has changed what is asked for.
func unknown(q Question, e Evidence) string {
	switch {
	case len(jobsSince(q, e.Jobs, time.Time{})) > 0:
		return "no app has delivered it; jobs have written it"
	case e.Begins.IsZero():
		return "nothing was delivered yet since there is a history"
	case !q.At.IsZero() && q.At.Before(e.Begins):
		return "the history begins later, at " + e.Begins.UTC().Format(time.RFC3339)
	}
	return "no delivery has changed it since the history begins, at " + e.Begins.UTC().Format(time.RFC3339)
}

// repairsSince gives the repairs of what is asked for since a time.
func repairsSince(q Question, all []Repair, since time.Time) []Repair {
	var out []Repair
	for _, r := range all {
		if !r.Repaired.Before(since) && (q.At.IsZero() || !r.Found.After(q.At)) && len(out) < MaxEarlier && Concerns(q, r) {
			out = append(out, r)
		}
	}
	return out
}

// Concerns tells whether a repair of an object has to do with the field that a question is about.
func Concerns(q Question, r Repair) bool {
	return q.Field == "" || len(r.Fields) == 0 || r.More > 0 || len(matching(q.Field, Change{Fields: r.Fields})) > 0
}
