package run

import (
	"fmt"

	"keelson.dev/keelson/internal/pipeline"
)

// Select gives the graph of some jobs of another one, named as in the graph or as in the file. They run whatever their when says:
// who names a manual job plays it. With needs come the jobs that they wait for, by needs or by stage, as those are; without them
// the named jobs wait for each other only, as far as they do.
func Select(g *pipeline.Graph, names []string, needs bool) (*pipeline.Graph, error) {
	named := map[int]bool{}
	var todo []int
	for _, name := range names {
		found := false
		for i := range g.Jobs {
			if j := &g.Jobs[i]; j.Name == name || j.Base == name {
				named[i], found = true, true
				todo = append(todo, i)
			}
		}
		if !found {
			return nil, fmt.Errorf("there is no job %q in the pipeline", name)
		}
	}
	picked := named
	if needs {
		picked = before(g, todo)
	}
	out := *g
	out.Stages, out.Jobs = nil, nil
	used := map[string]bool{}
	for i, j := range g.Jobs {
		if !picked[i] {
			continue
		}
		if named[i] && (j.When == pipeline.Manual || j.When == pipeline.Delayed || j.When == pipeline.OnFailure) {
			j.When, j.StartIn = pipeline.OnSuccess, 0
		}
		used[j.Stage] = true
		out.Jobs = append(out.Jobs, j)
	}
	for _, s := range g.Stages {
		if used[s] {
			out.Stages = append(out.Stages, s)
		}
	}
	return &out, nil
}

// before gives jobs with all that they wait for.
func before(g *pipeline.Graph, todo []int) map[int]bool {
	index, stages := make(map[string]int, len(g.Jobs)), make(map[string]int, len(g.Stages))
	for i := range g.Jobs {
		index[g.Jobs[i].Name] = i
	}
	for i, s := range g.Stages {
		stages[s] = i
	}
	picked, all := map[int]bool{}, 0 // stages before this one are picked as a whole
	for len(todo) > 0 {
		i := todo[len(todo)-1]
		todo = todo[:len(todo)-1]
		if picked[i] {
			continue
		}
		picked[i] = true
		j := &g.Jobs[i]
		if !j.DAG {
			if at := stages[j.Stage]; at > all {
				for k := range g.Jobs {
					if s := stages[g.Jobs[k].Stage]; s >= all && s < at {
						todo = append(todo, k)
					}
				}
				all = at
			}
			continue
		}
		for _, n := range j.Needs {
			if k, ok := index[n.Job]; ok && n.Local() {
				todo = append(todo, k)
			}
		}
	}
	return picked
}
