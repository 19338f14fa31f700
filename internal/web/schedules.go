package web

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"time"

	"keelson.dev/keelson/internal/audit"
	"keelson.dev/keelson/internal/store"
)

// SchedulesPath is where the API of schedules is.
const SchedulesPath = "/api/v1/schedules"

// ListedSchedule is how a schedule stands.
type ListedSchedule struct {
	Project   string    `json:"project"` // path
	Name      string    `json:"name"`
	Cron      string    `json:"cron"`
	Zone      string    `json:"zone"`
	Ref       string    `json:"ref,omitempty"` // empty: the default branch
	Suspended bool      `json:"suspended,omitempty"`
	Next      time.Time `json:"next,omitzero"`
	Pipeline  int64     `json:"pipeline,omitempty"` // the last one
	Problem   string    `json:"problem,omitempty"`
}

// ScheduleList is what GET /api/v1/schedules answers.
type ScheduleList struct {
	Schedules []ListedSchedule `json:"schedules"`
}

// PlayedSchedule is what a person asks for with POST /api/v1/schedules/play.
type PlayedSchedule struct {
	Project string `json:"project"`
	Name    string `json:"name"`
}

// SchedulesOptions of the API of schedules.
type SchedulesOptions struct {
	List func(project string) []ListedSchedule
	// Play makes the pipeline of a schedule now; the error is for whoever has asked.
	Play  func(ctx context.Context, p PlayedSchedule, user string) (store.Pipeline, error)
	Token string // whoever has it may do everything
	// Record is that of [AuditOptions].
	Record func(audit.Entry)
}

// NewSchedules serves schedules as JSON. Every request needs the token.
//
//	GET  /api/v1/schedules?project=PATH
//	POST /api/v1/schedules/play          [PlayedSchedule]; the answer is the pipeline
func NewSchedules(o SchedulesOptions) http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET "+SchedulesPath, func(w http.ResponseWriter, r *http.Request) {
		answerJSON(w, ScheduleList{Schedules: append([]ListedSchedule{}, o.List(r.URL.Query().Get("project"))...)})
	})
	mux.HandleFunc("POST "+SchedulesPath+"/play", func(w http.ResponseWriter, r *http.Request) {
		var p PlayedSchedule
		if !decode(w, r, &p) {
			return
		}
		if p.Project == "" || p.Name == "" {
			refuse(w, http.StatusBadRequest, errors.New("project and name are needed"))
			return
		}
		ctx, cancel := context.WithTimeout(r.Context(), askTimeout)
		defer cancel()
		made, err := o.Play(ctx, p, askedBy(r))
		recordTo(o.Record, r, audit.Entry{Action: "schedule.play", Object: madeObject(made.ID, p.Project), Project: p.Project, Detail: "schedule " + p.Name}, err)
		if err != nil {
			refuse(w, http.StatusUnprocessableEntity, err)
			return
		}
		w.Header().Set("Location", fmt.Sprintf("%spipelines/%d", PipelinesPath, made.ID))
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(http.StatusCreated)
		_ = json.NewEncoder(w).Encode(made) // the client may be gone
	})
	return (&pipelines{PipelinesOptions: PipelinesOptions{Token: o.Token}}).guard(mux)
}
