package web

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"

	"keelson.dev/keelson/internal/pipeline"
)

// PipelineGraph is what waits for what in a pipeline, as it was compiled. It never changes.
type PipelineGraph struct {
	Stages []string   `json:"stages"` // in their order
	Jobs   []GraphJob `json:"jobs"`   // by stage, then as in the file
}

// GraphJob is a job as it was compiled.
type GraphJob struct {
	Name  string `json:"name"`
	Base  string `json:"base,omitempty"` // its name in the file, where it is one of several parallel ones
	Stage string `json:"stage"`
	// DAG tells that it waits for Needs only; else it waits for all earlier stages.
	DAG          bool     `json:"dag,omitempty"`
	Needs        []string `json:"needs,omitempty"`
	When         string   `json:"when"`
	AllowFailure bool     `json:"allowFailure,omitempty"`
	Confirmation string   `json:"confirmation,omitempty"` // what whoever plays it is asked
	Environment  string   `json:"environment,omitempty"`
	Action       string   `json:"action,omitempty"` // of the environment; empty: start
	Trigger      bool     `json:"trigger,omitempty"`
	// Deployers are the users who may play it, as its environment is protected; none: whoever may play jobs.
	Deployers []string `json:"deployers,omitempty"`
}

// graph answers with what waits for what.
func (s *pipelines) graph(w http.ResponseWriter, r *http.Request) {
	ctx, cancel := context.WithTimeout(r.Context(), readLimit)
	defer cancel()
	p, paths, ok := s.pipelineOf(ctx, w, r)
	if !ok {
		return
	}
	saved, err := s.Store.Saved(ctx, p.ID)
	if err != nil {
		fail(w, err)
		return
	}
	var g pipeline.Graph
	if len(saved.Graph) > 0 { // else its configuration has errors
		if err := json.Unmarshal(saved.Graph, &g); err != nil {
			refuse(w, http.StatusInternalServerError, errors.New("the pipeline's graph is damaged"))
			return
		}
	}
	out := PipelineGraph{Stages: append([]string{}, g.Stages...), Jobs: make([]GraphJob, len(g.Jobs))}
	for i := range g.Jobs {
		out.Jobs[i] = graphJob(&g.Jobs[i])
		if e := out.Jobs[i].Environment; e != "" && s.Deployers != nil {
			if out.Jobs[i].Deployers, err = s.Deployers(ctx, paths[p.Project], e); err != nil {
				refuse(w, http.StatusServiceUnavailable, fmt.Errorf("who may deploy to %s: %w", e, err))
				return
			}
		}
	}
	answerJSON(w, out)
}

func graphJob(j *pipeline.Job) GraphJob {
	out := GraphJob{
		Name: j.Name, Stage: j.Stage, DAG: j.DAG, When: string(j.When), AllowFailure: j.AllowFailure.Allowed,
		Confirmation: j.ManualConfirmation, Trigger: j.Trigger != nil,
	}
	if j.Base != j.Name {
		out.Base = j.Base
	}
	for _, n := range j.Needs {
		if n.Project == "" && n.Pipeline == "" { // others are not in this graph
			out.Needs = append(out.Needs, n.Job)
		}
	}
	if j.Environment != nil {
		out.Environment, out.Action = j.Environment.Name, j.Environment.Action
	}
	return out
}
