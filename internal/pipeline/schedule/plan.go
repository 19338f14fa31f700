package schedule

import (
	"encoding/json"
	"fmt"
	"slices"
	"time"

	"keelson.dev/keelson/internal/pipeline"
)

// plan is what of a graph decides about the order of its jobs. It never changes.
type plan struct {
	stages []string
	jobs   []planned
	index  map[string]int // by name
	// byStage are the jobs of each stage that wait for the earlier stages, not for needs.
	byStage    [][]int32
	autoCancel pipeline.AutoCancel
}

// planned is a job of a plan.
type planned struct {
	name          string
	stage         int
	when          pipeline.When
	startIn       time.Duration
	allow         pipeline.AllowFailure
	retry         pipeline.Retry
	resourceGroup string
	interruptible bool
	trigger       bool
	dag           bool
	needs         []int32 // those that are in the graph; GitLab overlooks the others, which were optional
	dependants    []int32 // whose needs name this one
}

// allowed tells whether a failure does not count whatever its exit code.
func (p *planned) allowed() bool { return p.allow.Allowed && len(p.allow.ExitCodes) == 0 }

func newPlan(g *pipeline.Graph) *plan {
	p := &plan{stages: slices.Clone(g.Stages), jobs: make([]planned, len(g.Jobs)), index: make(map[string]int, len(g.Jobs)), autoCancel: g.AutoCancel}
	stage := make(map[string]int, len(p.stages))
	for i, name := range p.stages {
		stage[name] = i
	}
	for i := range g.Jobs {
		j := &g.Jobs[i]
		at, ok := stage[j.Stage]
		if !ok { // compile names every stage that has jobs
			at = len(p.stages)
			stage[j.Stage] = at
			p.stages = append(p.stages, j.Stage)
		}
		p.index[j.Name] = i
		p.jobs[i] = planned{
			name: j.Name, stage: at, when: j.When, startIn: time.Duration(j.StartIn), allow: j.AllowFailure, retry: j.Retry,
			resourceGroup: j.ResourceGroup, interruptible: j.Interruptible, trigger: j.Trigger != nil, dag: j.DAG,
		}
	}
	p.byStage = make([][]int32, len(p.stages))
	for i := range g.Jobs {
		j := &p.jobs[i]
		if !j.dag {
			p.byStage[j.stage] = append(p.byStage[j.stage], int32(i))
			continue
		}
		for _, n := range g.Jobs[i].Needs {
			k, ok := p.index[n.Job]
			if !ok || !n.Local() || slices.Contains(j.needs, int32(k)) {
				continue
			}
			j.needs = append(j.needs, int32(k))
			p.jobs[k].dependants = append(p.jobs[k].dependants, int32(i))
		}
	}
	return p
}

// Resume takes up the stored state of a graph's pipeline. It is an error if the data are those of another graph.
func Resume(g *pipeline.Graph, data []byte) (*State, error) {
	s := &State{}
	if err := json.Unmarshal(data, s); err != nil {
		return nil, fmt.Errorf("read the state of the pipeline: %w", err)
	}
	s.plan = newPlan(g)
	if len(s.Jobs) != len(s.plan.jobs) || len(s.Stages) != len(s.plan.stages) {
		return nil, fmt.Errorf("the stored state has %d jobs in %d stages, its graph has %d in %d", len(s.Jobs), len(s.Stages), len(s.plan.jobs), len(s.plan.stages))
	}
	for i := range s.Jobs {
		if s.Jobs[i].Name != s.plan.jobs[i].name {
			return nil, fmt.Errorf("the stored state has the job %q where its graph has %q", s.Jobs[i].Name, s.plan.jobs[i].name)
		}
		if _, ok := plain[s.Jobs[i].Status]; !ok {
			return nil, fmt.Errorf("the stored state has the job %q in the unknown status %q", s.Jobs[i].Name, s.Jobs[i].Status)
		}
	}
	for i := range s.Stages {
		if s.Stages[i].Name != s.plan.stages[i] {
			return nil, fmt.Errorf("the stored state has the stage %q where its graph has %q", s.Stages[i].Name, s.plan.stages[i])
		}
	}
	s.derive()
	return s, nil
}
