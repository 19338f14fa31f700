package run

import (
	"fmt"
	"testing"

	"keelson.dev/keelson/internal/pipeline"
)

// BenchmarkShapes plays trivial jobs in shells; the bars of the issue are for the whole process.
func BenchmarkShapes(b *testing.B) {
	chain := func(n int) *pipeline.Graph {
		var jobs []pipeline.Job
		for i := range n {
			j := job(fmt.Sprintf("job-%03d", i), "test", fmt.Sprint("echo job ", i))
			j.DAG = true
			if i > 0 {
				j.Needs = []pipeline.Need{{Job: jobs[i-1].Name, Artifacts: true}}
			}
			jobs = append(jobs, j)
		}
		return graph(jobs...)
	}
	fan := func(n int) *pipeline.Graph {
		var jobs []pipeline.Job
		for i := range n {
			jobs = append(jobs, job(fmt.Sprintf("job-%03d", i), "test", fmt.Sprint("echo job ", i)))
		}
		return graph(jobs...)
	}
	var dag []pipeline.Job
	for l := range 20 {
		for k := range 10 {
			j := job(fmt.Sprintf("l%02d-%d", l, k), "test", fmt.Sprintf("echo l%d k%d", l, k))
			j.DAG = true
			if l > 0 {
				j.Needs = []pipeline.Need{{Job: fmt.Sprintf("l%02d-%d", l-1, k), Artifacts: true}, {Job: fmt.Sprintf("l%02d-%d", l-1, (k+1)%10), Artifacts: true}}
			}
			dag = append(dag, j)
		}
	}
	for _, shape := range []struct {
		name string
		g    *pipeline.Graph
	}{{"one", fan(1)}, {"fifty", fan(50)}, {"fan200", fan(200)}, {"chain200", chain(200)}, {"dag200", graph(dag...)}} {
		b.Run(shape.name, func(b *testing.B) {
			x := newBench(b)
			x.o.Sink = Discard
			for b.Loop() {
				if out := x.run(shape.g); out.Status != pipeline.StatusSuccess {
					b.Fatalf("the pipeline is %s", out.Status)
				}
			}
		})
	}
}
