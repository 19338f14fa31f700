package ci

import (
	"slices"

	"keelson.dev/keelson/internal/pipeline/run"
	"keelson.dev/keelson/internal/store"
)

// Ended is a pipeline that is over: nothing of it happens any more, unless a person asks.
type Ended struct {
	Project  string // its path
	Pipeline store.Pipeline
	Failed   []string // the jobs that failed and should not have
}

// tellEnd tells of a pipeline that is over, and is nobody's child.
func (s *Server) tellEnd(o run.Outcome) {
	if s.o.Ended == nil || !o.Status.Completed() {
		return
	}
	row, err := s.o.Store.Pipeline(s.lifetime(), o.ID)
	if err != nil || row.Parent != 0 {
		if err != nil {
			s.o.Log.Warn("tell of a pipeline's end", "pipeline", o.ID, "error", err)
		}
		return
	}
	row.Status = string(o.Status)
	var failed []string
	for _, j := range o.Jobs {
		if j.Failed() && !j.Allowed {
			failed = append(failed, j.Name)
		}
	}
	s.tellEnded(row, failed)
}

// tellEnded tells of a pipeline by its row.
func (s *Server) tellEnded(row store.Pipeline, failed []string) {
	if s.o.Ended == nil {
		return
	}
	all, err := s.o.Store.Projects(s.lifetime())
	i := slices.IndexFunc(all, func(p store.Project) bool { return p.ID == row.Project })
	if err != nil || i < 0 {
		s.o.Log.Warn("tell of a pipeline's end: its project is not known", "pipeline", row.ID, "error", err)
		return
	}
	s.o.Ended(Ended{Project: all[i].Name, Pipeline: row, Failed: failed})
}
