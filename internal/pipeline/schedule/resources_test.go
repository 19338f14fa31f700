package schedule

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"keelson.dev/keelson/internal/pipeline"
)

// TestModes lets three pipelines ask for one resource, in each mode. 1 holds it; 2 and 3 wait, 1 has another job that is yet to come.
func TestModes(t *testing.T) {
	for _, c := range []struct {
		mode Mode
		want string // who gets it, one after the other; then the job to come waits, and so on
	}{
		{Unordered, "1/a 3/a 2/a 1/b"},
		{OldestFirst, "1/a 1/b 2/a 3/a"},
		{NewestFirst, "1/a 3/a 2/a 1/b"},
		{NewestReadyFirst, "1/a 3/a 2/a 1/b"},
	} {
		r, got, queue := &Resources{}, []string(nil), []Claim(nil)
		tell := func(p int64, job string, s pipeline.Status) {
			for _, g := range r.Update(Use{"prod", Claim{p, job}, s}) {
				got = append(got, fmt.Sprintf("%d/%s", g.Pipeline, g.Job))
				queue = append(queue, g)
			}
		}
		r.SetMode("prod", c.mode)
		tell(1, "a", pipeline.StatusWaitingForResource)
		tell(1, "b", pipeline.StatusCreated)
		tell(3, "a", pipeline.StatusWaitingForResource)
		tell(2, "a", pipeline.StatusWaitingForResource)
		come := false
		for len(queue) > 0 {
			claim := queue[0]
			queue = queue[1:]
			tell(claim.Pipeline, claim.Job, pipeline.StatusPending)
			tell(claim.Pipeline, claim.Job, pipeline.StatusRunning)
			tell(claim.Pipeline, claim.Job, pipeline.StatusFailed)
			if len(queue) == 0 && !come {
				come = true
				tell(1, "b", pipeline.StatusWaitingForResource)
			}
		}
		if have := strings.Join(got, " "); have != c.want {
			t.Errorf("%s: have %s, want %s", c.mode, have, c.want)
		}
		if g := r.Groups["prod"]; g.Holder != nil || len(g.Jobs) != 0 {
			t.Errorf("%s: something is left: %+v", c.mode, g)
		}
	}
}

// TestResourceRelease frees a resource by every end that a job can have.
func TestResourceRelease(t *testing.T) {
	for _, end := range []pipeline.Status{"success", "failed", "canceled", "skipped", "manual", "created", "forget"} {
		r := &Resources{}
		r.Update(Use{"prod", Claim{1, "a"}, pipeline.StatusWaitingForResource})
		if got := r.Update(Use{"prod", Claim{2, "a"}, pipeline.StatusWaitingForResource}); len(got) != 0 {
			t.Fatalf("two at a time: %v", got)
		}
		var got []Claim
		if end == "forget" {
			got = r.Forget(1)
		} else {
			got = r.Update(Use{"prod", Claim{1, "a"}, end})
		}
		if len(got) != 1 || got[0] != (Claim{2, "a"}) {
			t.Errorf("%s: %v", end, got)
		}
	}
}

// TestRedundant holds which older pipelines a new commit cancels.
func TestRedundant(t *testing.T) {
	day := 24 * time.Hour
	graph := func(mode string) *pipeline.Graph {
		g := graphOf(t, "stages one two\nsafe one\nfirm one\nsafe2 two\nfirm2 two")
		g.AutoCancel.OnNewCommit = mode
		g.Jobs[0].Interruptible, g.Jobs[2].Interruptible = true, true
		return g
	}
	newer := Candidate{ID: 9, SHA: "new", Source: "push", Created: epoch}
	for _, c := range []struct {
		name, mode string
		started    string // jobs that have started
		change     func(c *Candidate)
		want       string // what is canceled
	}{
		{name: "nothing has started", want: "safe firm safe2 firm2"},
		{name: "an interruptible job has started", started: "safe", want: "safe firm safe2 firm2"},
		{name: "another one has started", started: "firm"},
		{name: "conservative is the default", mode: Conservative, started: "firm"},
		{name: "interruptible", mode: Interruptible, started: "safe,firm", want: "safe safe2"},
		{name: "none", mode: None},
		{name: "the same commit", change: func(c *Candidate) { c.SHA = "new" }},
		{name: "the commit of the ref", change: func(c *Candidate) { c.SHA = "head" }},
		{name: "too old", change: func(c *Candidate) { c.Created = epoch.Add(-8 * day) }},
		{name: "younger", change: func(c *Candidate) { c.Created = epoch.Add(day) }},
		{name: "itself", change: func(c *Candidate) { c.ID = 9 }},
		{name: "a child of an older one", change: func(c *Candidate) { c.Source = "parent_pipeline" }, want: "safe firm safe2 firm2"},
		{name: "it is over", change: func(c *Candidate) {
			if _, err := c.State.Apply(Event{Kind: Cancel}); err != nil {
				t.Fatal(err)
			}
		}},
	} {
		s := New(graph(c.mode), epoch)
		if c.started != "" {
			if _, err := s.Apply(Event{Kind: Run, Jobs: strings.Split(c.started, ",")}); err != nil {
				t.Fatal(err)
			}
		}
		older := Candidate{ID: 8, SHA: "old", Source: "push", Created: epoch.Add(-day), State: s}
		if c.change != nil {
			c.change(&older)
		}
		var have []string
		for _, cancel := range Redundant(newer, []Candidate{older}, "head") {
			changes, err := s.Apply(cancel.Event)
			if err != nil || cancel.Pipeline != 8 {
				t.Fatalf("%s: %v of %d", c.name, err, cancel.Pipeline)
			}
			for _, change := range changes {
				if change.Job != "" && change.Why == "canceled by pipeline 9 for a newer commit" {
					have = append(have, change.Job)
				}
			}
		}
		if strings.Join(have, " ") != c.want {
			t.Errorf("%s: canceled %q, want %q", c.name, have, c.want)
		}
	}
	if got := Redundant(Candidate{ID: 9, Source: pipeline.SourceParent, Created: epoch}, []Candidate{{ID: 8, SHA: "old", Created: epoch.Add(-day), State: New(graph(""), epoch)}}, ""); got != nil {
		t.Errorf("a child pipeline canceled %v", got)
	}
}
