package githost

import (
	"encoding/json"
	"errors"
	"net/http"
)

// APIPath is where [Host.API] is served.
const APIPath = "/api/git/repositories"

// Info describes a repository in the API.
type Info struct {
	Name string `json:"name"`
	Path string `json:"path"` // relative to the server: "/git/sample.git"
}

func infoOf(name string) Info { return Info{Name: name, Path: Prefix + name + suffix} }

// API serves GET APIPath ({"repositories":[{"name","path"}]}) and POST APIPath ({"name"}), which creates a repository.
// Errors are {"error"}. Who may do what is as for the repositories themselves.
func (h *Host) API() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET "+APIPath, h.apiList)
	mux.HandleFunc("POST "+APIPath, h.apiCreate)
	return mux
}

func (h *Host) apiList(w http.ResponseWriter, r *http.Request) {
	person, err := h.authorize(r, "", false)
	var names []string
	if err == nil {
		names, err = h.List()
	}
	if err != nil {
		apiError(w, err)
		return
	}
	list := make([]Info, 0, len(names))
	for _, name := range names {
		_, err := h.authorize(r, name, false)
		var refused refusal
		if errors.As(err, &refused) && refused.status == http.StatusServiceUnavailable {
			apiError(w, err)
			return
		}
		if err == nil || person == "" && !h.private(name) {
			list = append(list, infoOf(name))
		}
	}
	apiAnswer(w, http.StatusOK, map[string][]Info{"repositories": list})
}

func (h *Host) apiCreate(w http.ResponseWriter, r *http.Request) {
	person, err := h.authorize(r, "", true)
	if err != nil {
		apiError(w, err)
		return
	}
	var in struct {
		Name string `json:"name"`
	}
	d := json.NewDecoder(http.MaxBytesReader(w, r.Body, 4<<10))
	d.DisallowUnknownFields()
	if err := d.Decode(&in); err != nil {
		apiError(w, refusal{http.StatusBadRequest, `the body must be {"name": "…"}`})
		return
	}
	err = CheckName(in.Name)
	if err == nil && person != "" { // they may what they may do with the repository that comes to be
		_, err = h.authorize(r, in.Name, true)
	}
	if err == nil {
		err = h.Create(r.Context(), in.Name)
	}
	if err != nil {
		apiError(w, err)
		return
	}
	apiAnswer(w, http.StatusCreated, infoOf(in.Name))
}

func apiError(w http.ResponseWriter, err error) {
	answer := refusal{http.StatusInternalServerError, err.Error()}
	switch {
	case errors.As(err, &answer):
	case errors.Is(err, ErrName):
		answer.status = http.StatusBadRequest
	case errors.Is(err, ErrExists):
		answer.status = http.StatusConflict
	}
	if answer.status == http.StatusUnauthorized {
		w.Header().Set("WWW-Authenticate", `Bearer realm="Keelson"`)
	}
	apiAnswer(w, answer.status, map[string]string{"error": answer.text})
}

func apiAnswer(w http.ResponseWriter, status int, v any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	// The client may be gone; there is nobody else to tell.
	_ = json.NewEncoder(w).Encode(v)
}
