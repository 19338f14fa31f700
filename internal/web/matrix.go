package web

import (
	"maps"
	"net/http"
	"slices"
)

// maxRows bounds a matrix.
const maxRows = 2000

func (s *apps) matrix(w http.ResponseWriter, r *http.Request) {
	_, err := query(r, "q", "environment", "namespace", "kind", "state")
	if err != nil {
		refuse(w, http.StatusBadRequest, err)
		return
	}
	q, err := readAppQuery(r)
	if err != nil {
		refuse(w, http.StatusBadRequest, err)
		return
	}
	all, err := s.Index.all()
	if err != nil {
		starting(w, err)
		return
	}
	var failed func() error
	q.sees, failed = s.seen(r)
	var found []App
	for _, l := range all {
		if q.matches(l) && (q.states == nil || q.states[l.State]) {
			found = append(found, l.App)
		}
	}
	if err := failed(); err != nil {
		s.silent(w, err)
		return
	}
	s.Index.complete(found)
	answerJSON(w, matrixOf(found))
}

// matrixOf puts apps into rows and columns. Where several apps of one environment have one name, the first that needs somebody is told.
func matrixOf(all []App) Matrix {
	rows, environments := map[string]MatrixRow{}, map[string]bool{}
	for _, a := range all {
		environments[a.Environment] = true
		row, ok := rows[a.App]
		if !ok {
			row = MatrixRow{App: a.App, Cells: map[string]MatrixCell{}}
			rows[a.App] = row
		}
		cell := MatrixCell{ID: a.ID, Revision: a.Revision, SHA: a.SHA, State: a.State, Wanted: a.Wanted}
		if other, ok := row.Cells[a.Environment]; ok {
			if slices.Index(states, other.State) <= slices.Index(states, a.State) {
				cell = other
			}
			cell.More = other.More + 1
		}
		row.Cells[a.Environment] = cell
	}
	out := Matrix{Environments: append([]string{}, slices.Sorted(maps.Keys(environments))...), Rows: []MatrixRow{}}
	for _, name := range slices.Sorted(maps.Keys(rows)) {
		if len(out.Rows) == maxRows {
			out.Truncated = true
			break
		}
		out.Rows = append(out.Rows, rows[name])
	}
	return out
}
