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
	Play func(ctx context.Context, p PlayedSchedule, user string) (store.Pipeline, error)
	// Record is that of [AuditOptions].
	Record func(audit.Entry)
	// Authorize and ProjectOf are those of [PipelinesOptions].
	Authorize Authorize
	ProjectOf func(ctx context.Context, path string) (namespace, name string, err error)
}

// NewSchedules serves schedules as JSON. Every request needs a [Person] in its context.
//
//	GET  /api/v1/schedules?project=PATH
//	POST /api/v1/schedules/play          [PlayedSchedule]; the answer is the pipeline
func NewSchedules(o SchedulesOptions) http.Handler {
	may := access{ask: o.Authorize, where: o.ProjectOf}
	mux := http.NewServeMux()
	mux.HandleFunc("GET "+SchedulesPath, func(w http.ResponseWriter, r *http.Request) {
		out := ScheduleList{Schedules: []ListedSchedule{}}
		for _, schedule := range o.List(r.URL.Query().Get("project")) {
			ok, err := may.sees(r.Context(), schedule.Project)
			if err != nil {
				fail(w, err)
				return
			}
			if ok {
				out.Schedules = append(out.Schedules, schedule)
			}
		}
		answerJSON(w, out)
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
		if !may.may(w, r, VerbPlay, p.Project) {
			return
		}
		ctx, cancel := context.WithTimeout(r.Context(), askTimeout)
		defer cancel()
		made, err := o.Play(ctx, p, PersonOf(ctx).Name)
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
	return known(mux)
}
