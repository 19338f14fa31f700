package web

import (
	"context"
	"errors"
	"net/http"

	"keelson.dev/keelson/internal/pipeline/show"
	"keelson.dev/keelson/internal/store"
)

// SettingList is a list of variables without what nobody may see.
type SettingList struct {
	Variables []show.Setting `json:"variables"`
}

func (s *pipelines) variables(w http.ResponseWriter, r *http.Request) {
	ctx, cancel := context.WithTimeout(r.Context(), readLimit)
	defer cancel()
	id, ok := number(w, "pipeline", r.PathValue("id"))
	if !ok {
		return
	}
	all, err := s.Variables(ctx, id, r.URL.Query().Get("job"))
	if err != nil {
		unusable(w, err)
		return
	}
	answerJSON(w, SettingList{Variables: append([]show.Setting{}, all...)})
}

func (s *pipelines) settings(w http.ResponseWriter, r *http.Request) {
	ctx, cancel := context.WithTimeout(r.Context(), readLimit)
	defer cancel()
	path := r.URL.Query().Get("project")
	if !s.may.may(w, r, VerbGet, path) {
		return
	}
	all, err := s.Settings(ctx, path)
	if err != nil {
		unusable(w, err)
		return
	}
	answerJSON(w, SettingList{Variables: append([]show.Setting{}, all...)})
}

func (s *pipelines) recipe(w http.ResponseWriter, r *http.Request) {
	ctx, cancel := context.WithTimeout(r.Context(), readLimit)
	defer cancel()
	id, ok := number(w, "pipeline", r.PathValue("id"))
	if !ok {
		return
	}
	recipe, err := s.Recipe(ctx, id)
	if err != nil {
		unusable(w, err)
		return
	}
	answerJSON(w, recipe)
}

// unusable answers where something is not there, or nothing can be said about it.
func unusable(w http.ResponseWriter, err error) {
	if errors.Is(err, store.ErrNotFound) {
		fail(w, err)
		return
	}
	refuse(w, http.StatusUnprocessableEntity, err)
}
