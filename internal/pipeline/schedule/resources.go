package schedule

import (
	"slices"

	"keelson.dev/keelson/internal/pipeline"
)

// Mode says in which order the jobs of a resource group get its resource.
type Mode string

// The modes ([gl] app/models/ci/resource_group.rb).
const (
	Unordered        Mode = "unordered"          // also empty: whoever waits, the first one first
	OldestFirst      Mode = "oldest_first"       // the oldest pipeline first; younger ones wait also for its jobs that are yet to come
	NewestFirst      Mode = "newest_first"       // the youngest pipeline first, likewise
	NewestReadyFirst Mode = "newest_ready_first" // the youngest pipeline of those that wait
)

// Claim is a job of a pipeline that wants a resource.
type Claim struct {
	Pipeline int64  `json:"pipeline"`
	Job      string `json:"job"`
}

// Resources are the resource groups of a project, which its pipelines share. A group has one resource: one of its jobs runs at a time.
// It is data, like a State; the zero value has no groups.
type Resources struct {
	Groups map[string]*Group `json:"groups,omitempty"`
}

// Group is one resource group.
type Group struct {
	Mode   Mode    `json:"mode,omitempty"`
	Holder *Claim  `json:"holder,omitempty"`
	Jobs   []Queue `json:"jobs,omitempty"` // that wait or are yet to come, in the order of their coming
}

// Queue is a place in the queue for a resource.
type Queue struct {
	Claim
	Waits bool `json:"waits,omitempty"` // waiting_for_resource; else created or scheduled
}

func (r *Resources) group(key string) *Group {
	g, ok := r.Groups[key]
	if !ok {
		if r.Groups == nil {
			r.Groups = map[string]*Group{}
		}
		g = &Group{}
		r.Groups[key] = g
	}
	return g
}

// SetMode changes the order of a group, and gives who gets the resource by that.
func (r *Resources) SetMode(key string, mode Mode) []Claim {
	g := r.group(key)
	g.Mode = mode
	return g.assign()
}

// Use tells that a job of a group has come to a status.
type Use struct {
	Group string
	Claim
	Status pipeline.Status
}

// Update takes in all that has changed at one time, and gives who gets resources by that: each of them is told with a Grant.
func (r *Resources) Update(uses ...Use) []Claim {
	var touched []*Group
	for _, u := range uses {
		g := r.group(u.Group)
		g.use(u)
		if !slices.Contains(touched, g) {
			touched = append(touched, g)
		}
	}
	var granted []Claim
	for _, g := range touched {
		granted = append(granted, g.assign()...)
	}
	return granted
}

func (g *Group) use(u Use) {
	at := slices.IndexFunc(g.Jobs, func(q Queue) bool { return q.Claim == u.Claim })
	holds := g.Holder != nil && *g.Holder == u.Claim
	switch u.Status {
	case pipeline.StatusPreparing, pipeline.StatusWaitingForCallback, pipeline.StatusPending, pipeline.StatusRunning, pipeline.StatusCanceling:
		holds = false // goes on holding it, or has held it before these data were lost
		if g.Holder == nil {
			g.Holder = &Claim{Pipeline: u.Pipeline, Job: u.Job}
		}
	}
	if holds {
		g.Holder = nil
	}
	switch u.Status {
	case pipeline.StatusWaitingForResource, pipeline.StatusCreated, pipeline.StatusScheduled:
		waits := u.Status == pipeline.StatusWaitingForResource
		if at >= 0 && g.Jobs[at].Waits == waits {
			return
		}
		if at >= 0 {
			g.Jobs = slices.Delete(g.Jobs, at, at+1)
		}
		g.Jobs = append(g.Jobs, Queue{Claim: u.Claim, Waits: waits})
	default:
		if at >= 0 {
			g.Jobs = slices.Delete(g.Jobs, at, at+1)
		}
	}
}

// Forget removes all jobs of a pipeline that is deleted, and gives who gets resources by that.
func (r *Resources) Forget(id int64) []Claim {
	var granted []Claim
	for _, g := range r.Groups {
		g.Jobs = slices.DeleteFunc(g.Jobs, func(q Queue) bool { return q.Pipeline == id })
		if g.Holder != nil && g.Holder.Pipeline == id {
			g.Holder = nil
		}
		granted = append(granted, g.assign()...)
	}
	slices.SortFunc(granted, func(a, b Claim) int { return int(a.Pipeline - b.Pipeline) })
	return granted
}

// assign gives a free resource to whose turn it is.
func (g *Group) assign() []Claim {
	if g.Holder != nil {
		return nil
	}
	at := -1
	for i, q := range g.Jobs {
		if !q.Waits && g.Mode != OldestFirst && g.Mode != NewestFirst {
			continue
		}
		if at < 0 || g.before(q, g.Jobs[at]) {
			at = i
		}
	}
	if at < 0 || !g.Jobs[at].Waits {
		return nil
	}
	c := g.Jobs[at].Claim
	g.Jobs = slices.Delete(g.Jobs, at, at+1)
	g.Holder = &c
	return []Claim{c}
}

// before tells whether a goes before b, which came first. Within a pipeline whoever waits goes before those that are yet to come:
// else a job could wait for one that waits for it.
func (g *Group) before(a, b Queue) bool {
	switch {
	case g.Mode == Unordered || g.Mode == "":
		return false
	case a.Pipeline == b.Pipeline:
		return a.Waits && !b.Waits
	case g.Mode == OldestFirst:
		return a.Pipeline < b.Pipeline
	default:
		return a.Pipeline > b.Pipeline
	}
}
