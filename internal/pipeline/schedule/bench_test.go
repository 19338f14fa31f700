package schedule

import (
	"encoding/json"
	"fmt"
	"testing"
	"time"

	"keelson.dev/keelson/internal/pipeline"
)

// The graphs whose cost must not grow faster than they do.
var shapes = []struct {
	name string
	make func() *pipeline.Graph
}{
	{"chain2000", func() *pipeline.Graph {
		g := &pipeline.Graph{Stages: []string{"test"}}
		for i := range 2000 {
			j := pipeline.Job{Name: fmt.Sprint("job-", i), Stage: "test", When: pipeline.OnSuccess, DAG: true}
			if i > 0 {
				j.Needs = []pipeline.Need{{Job: fmt.Sprint("job-", i-1)}}
			}
			g.Jobs = append(g.Jobs, j)
		}
		return g
	}},
	{"diamond20x100", func() *pipeline.Graph {
		g := &pipeline.Graph{Stages: []string{"test"}}
		for l := range 20 {
			for k := range 100 {
				j := pipeline.Job{Name: fmt.Sprintf("l%d-%d", l, k), Stage: "test", When: pipeline.OnSuccess, DAG: true}
				for n := range 10 {
					if l > 0 {
						j.Needs = append(j.Needs, pipeline.Need{Job: fmt.Sprintf("l%d-%d", l-1, (k+n)%100)})
					}
				}
				g.Jobs = append(g.Jobs, j)
			}
		}
		return g
	}},
	{"stages2000", func() *pipeline.Graph {
		g := &pipeline.Graph{}
		for i := range 2000 {
			name := fmt.Sprint("stage-", i)
			g.Stages = append(g.Stages, name)
			g.Jobs = append(g.Jobs, pipeline.Job{Name: fmt.Sprint("job-", i), Stage: name, When: pipeline.OnSuccess})
		}
		return g
	}},
	{"fan2000", func() *pipeline.Graph {
		g := &pipeline.Graph{Stages: []string{"one", "two"}}
		for i := range 2000 {
			g.Jobs = append(g.Jobs, pipeline.Job{Name: fmt.Sprint("job-", i), Stage: g.Stages[i/1000], When: pipeline.OnSuccess})
		}
		return g
	}},
}

// whole plays a graph to its end, each job running and then succeeding.
func whole(tb testing.TB, g *pipeline.Graph) {
	s := New(g, epoch)
	var ready []string
	take := func(changes []Change) {
		for _, c := range changes {
			if c.Job != "" && c.To == pipeline.StatusPending {
				ready = append(ready, c.Job)
			}
		}
	}
	take(s.All())
	for len(ready) > 0 {
		jobs := ready[:1]
		ready = ready[1:]
		for _, k := range []Kind{Run, Success} {
			changes, err := s.Apply(Event{Kind: k, Jobs: jobs, At: epoch})
			if err != nil {
				tb.Fatal(err)
			}
			take(changes)
		}
	}
	if s.Status != pipeline.StatusSuccess {
		tb.Fatalf("the pipeline is %s", s.Status)
	}
}

// TestCost plays 2,000 jobs of every shape in a time that only an honest algorithm keeps.
func TestCost(t *testing.T) {
	for _, shape := range shapes {
		g := shape.make()
		best := time.Hour // of three: other work on the machine does not count
		for range 3 {
			start := time.Now()
			whole(t, g)
			best = min(best, time.Since(start))
		}
		if best > 300*time.Millisecond {
			t.Errorf("%s: %v", shape.name, best)
		}
	}
}

func BenchmarkRun(b *testing.B) {
	for _, shape := range shapes {
		g := shape.make()
		b.Run(shape.name, func(b *testing.B) {
			for b.Loop() {
				whole(b, g)
			}
		})
	}
}

// BenchmarkResume reads a state of 2,000 jobs.
func BenchmarkResume(b *testing.B) {
	g := shapes[1].make()
	data, err := json.Marshal(New(g, epoch))
	if err != nil {
		b.Fatal(err)
	}
	b.SetBytes(int64(len(data)))
	for b.Loop() {
		if _, err := Resume(g, data); err != nil {
			b.Fatal(err)
		}
	}
}
