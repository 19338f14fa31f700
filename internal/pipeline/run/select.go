package run

import (
	"fmt"
	"slices"

	"keelson.dev/keelson/internal/pipeline"
)

// Select gives the graph of some jobs of another one, named as in the graph or as in the file. They run whatever their when says:
// who names a manual job plays it. With needs come the jobs that they wait for, by needs or by stage, as those are; without them
// the named jobs wait for each other only, as far as they do.
func Select(g *pipeline.Graph, names []string, needs bool) (*pipeline.Graph, error) {
	picked, named := map[string]bool{}, map[string]bool{}
	for _, name := range names {
		found := false
		for i := range g.Jobs {
			if j := &g.Jobs[i]; j.Name == name || j.Base == name {
				picked[j.Name], named[j.Name], found = true, true, true
			}
		}
		if !found {
			return nil, fmt.Errorf("there is no job %q in the pipeline", name)
		}
	}
	stage := func(j *pipeline.Job) int { return slices.Index(g.Stages, j.Stage) }
	for i := len(g.Jobs); needs && i > 0; { // until nothing is added any more; a need may stand after the job that needs it
		i--
		j := &g.Jobs[i]
		if !picked[j.Name] {
			continue
		}
		added := false
		for k := range g.Jobs {
			o := &g.Jobs[k]
			waits := !j.DAG && stage(o) < stage(j) || j.DAG && slices.ContainsFunc(j.Needs, func(n pipeline.Need) bool { return n.Local() && n.Job == o.Name })
			if waits && !picked[o.Name] {
				picked[o.Name], added = true, true
			}
		}
		if added {
			i = len(g.Jobs)
		}
	}
	out := *g
	out.Stages, out.Jobs = nil, nil
	used := map[string]bool{}
	for _, j := range g.Jobs {
		if !picked[j.Name] {
			continue
		}
		if named[j.Name] && (j.When == pipeline.Manual || j.When == pipeline.Delayed || j.When == pipeline.OnFailure) {
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
