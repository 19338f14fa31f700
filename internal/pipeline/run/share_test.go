package run

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"
	"testing"

	"keelson.dev/keelson/internal/pipeline"
)

// order notes the pipelines whose jobs start, in their order, and how many jobs of each ran at a time at most.
type order struct {
	mu      sync.Mutex
	started []int64
	now     map[int64]int
	most    map[int64]int
}

func (o *order) Event(e Event) {
	if e.Kind != KindJob {
		return
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	switch {
	case e.To == pipeline.StatusRunning:
		o.started = append(o.started, e.Pipeline)
		o.now[e.Pipeline]++
		o.most[e.Pipeline] = max(o.most[e.Pipeline], o.now[e.Pipeline])
	case e.From == pipeline.StatusRunning:
		o.now[e.Pipeline]--
	}
}

// TestProjectsShare holds that a project with many jobs leaves slots to others, and has no more than it may.
func TestProjectsShare(t *testing.T) {
	for _, c := range []struct {
		name      string
		slots     int
		most      int     // of the first project
		held      int     // jobs of the first project that run when the second one comes
		next      []int64 // whose jobs start then, in their order
		atTheSame int     // jobs of the first project at a time
	}{
		{"others have their turn", 2, 0, 2, []int64{2}, 2},
		{"a bound leaves slots free", 3, 1, 1, []int64{2, 2}, 1},
		{"a bound above the slots", 2, 5, 2, []int64{2}, 2},
	} {
		t.Run(c.name, func(t *testing.T) {
			b := newBench(t)
			b.o.Jobs = c.slots
			var ids atomic.Int64
			v := b.serve(nil, &ids)
			o := &order{now: map[int64]int{}, most: map[int64]int{}}
			running := make(chan struct{}, 100)
			b.sink.on = func(e Event) {
				if o.Event(e); e.Kind == KindJob && e.To == pipeline.StatusRunning {
					running <- struct{}{}
				}
			}
			flag := filepath.Join(b.dir, "flag")
			jobs := func(n int) *pipeline.Graph {
				var all []pipeline.Job
				for i := range n {
					all = append(all, job(fmt.Sprintf("j%d", i), "test", "until test -e "+flag+"; do sleep 0.02; done"))
				}
				return graph(all...)
			}
			v.p.Project, v.p.Most = "big", c.most
			if err := v.add(1, jobs(8)); err != nil {
				t.Fatal(err)
			}
			for range c.held {
				<-running
			}
			v.p.Project, v.p.Most = "small", 0
			if err := v.add(2, jobs(2)); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(flag, nil, 0o600); err != nil {
				t.Fatal(err)
			}
			for range 2 {
				if out := v.rested(); out.Status != pipeline.StatusSuccess {
					t.Errorf("pipeline %d: %s", out.ID, out.Status)
				}
			}
			o.mu.Lock()
			defer o.mu.Unlock()
			if next := o.started[c.held:][:len(c.next)]; !slices.Equal(next, c.next) {
				t.Errorf("the second project's jobs start late: %v", o.started)
			}
			if o.most[1] != c.atTheSame {
				t.Errorf("%d jobs of the first project at a time, want %d", o.most[1], c.atTheSame)
			}
		})
	}
}
