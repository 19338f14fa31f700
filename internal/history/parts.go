package history

import "slices"

// Part is one of several commits that came with one delivery, and what it has changed: what no later one of them has changed again. A list of one
// says that which others came is not known.
type Part struct {
	Commit
	Changed []PartChange `json:"changed,omitempty"`
}

// PartChange is what a commit has changed of an object.
type PartChange struct {
	Object
	Whole  bool     `json:"whole,omitempty"`  // it was made or deleted by it
	Fields []string `json:"fields,omitempty"` // paths
}

// MaxParts is how many commits of one delivery are told apart.
const MaxParts = 50

// Authors gives the commits of a delivery that have changed what is asked for, the newest first.
func Authors(q Question, c Change, parts []Part) (found []Commit) {
	for _, p := range slices.Backward(parts) {
		if slices.ContainsFunc(p.Changed, func(pc PartChange) bool { return sameObject(pc.Object, c.Object) && pc.has(q.Field, c) }) {
			found = append(found, p.Commit)
		}
	}
	return found
}

// sameObject tells whether a rendered object is one in the cluster: its namespace may have been set since.
func sameObject(rendered, is Object) bool {
	if rendered.Namespace == "" {
		rendered.Namespace = is.Namespace
	}
	return rendered == is
}

// has tells whether a field that a person names, or any of those that a delivery has changed, are among what a commit has changed.
func (p PartChange) has(field string, c Change) bool {
	if p.Whole || field == "" && len(c.Fields) == 0 {
		return true
	}
	return slices.ContainsFunc(p.Fields, func(path string) bool {
		if field != "" {
			return Match(field, path)
		}
		return slices.ContainsFunc(c.Fields, func(f Field) bool { return Match(f.Path, path) })
	})
}

// credit names the commit that has changed what is asked for, where several came with the delivery.
func (a *Answer) credit(q Question, c Change, parts []Part) {
	if len(parts) == 0 {
		return
	}
	head := a.Delivery.Commit
	found := Authors(q, c, parts)
	switch {
	case len(parts) == 1:
		a.Unsure = "other commits may have come with this one, which are not known here"
		return
	case len(found) == 0:
		for _, p := range slices.Backward(parts) {
			if p.SHA != head.SHA {
				a.Among = append(a.Among, p.Commit)
			}
		}
		a.Unsure = "it is one of the commits that came at once"
		return
	}
	a.Delivery.Commit, a.Among = found[0], found[1:]
	if head.SHA != found[0].SHA {
		a.Head = &head
	}
}
