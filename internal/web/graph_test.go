package web

import (
	"context"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"keelson.dev/keelson/internal/pipeline"
	"keelson.dev/keelson/internal/store"
)

func TestPipelineGraph(t *testing.T) {
	db, err := store.Open(filepath.Join(t.TempDir(), "db"), store.Options{Key: make([]byte, store.KeySize)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = db.Close() })
	project, err := db.EnsureProject(t.Context(), "acme/shop")
	if err != nil {
		t.Fatal(err)
	}
	graph, err := json.Marshal(pipeline.Graph{Stages: []string{"test", "deploy"}, Jobs: []pipeline.Job{
		{Name: "unit: [cart]", Base: "unit", Stage: "test", When: pipeline.OnSuccess, AllowFailure: pipeline.AllowFailure{Allowed: true},
			Variables: pipeline.Variables{{Name: "PASSWORD", Value: "correct-horse"}}},
		{Name: "deploy", Base: "deploy", Stage: "deploy", When: pipeline.Manual, DAG: true, ManualConfirmation: "Sure?",
			Needs:       []pipeline.Need{{Job: "unit: [cart]"}, {Job: "other", Project: "acme/other"}},
			Environment: &pipeline.Environment{Name: "production", Action: "start"}},
	}})
	if err != nil {
		t.Fatal(err)
	}
	id, iid, err := db.Reserve(t.Context(), project.ID)
	if err != nil {
		t.Fatal(err)
	}
	row := store.Pipeline{ID: id, IID: iid, Project: project.ID, Source: "push", Ref: "main", SHA: strings.Repeat("a", 40), Status: "created"}
	if err := db.CreatePipeline(t.Context(), row, store.Inputs{Graph: graph}); err != nil {
		t.Fatal(err)
	}
	h := NewPipelines(PipelinesOptions{Store: db, Deployers: func(_ context.Context, project, environment string) ([]string, error) {
		return []string{"boss of " + project + " " + environment}, nil
	}})
	cases := map[string]struct {
		path string
		code int
		want string
	}{
		"a pipeline": {"/api/v1/pipelines/1/graph", http.StatusOK, `{"stages":["test","deploy"],"jobs":[
			{"name":"unit: [cart]","base":"unit","stage":"test","when":"on_success","allowFailure":true},
			{"name":"deploy","stage":"deploy","dag":true,"needs":["unit: [cart]"],"when":"manual","confirmation":"Sure?",
			 "environment":"production","action":"start","deployers":["boss of acme/shop production"]}]}`},
		"none": {"/api/v1/pipelines/99/graph", http.StatusNotFound, ""},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			r := httptest.NewRequest(http.MethodGet, tc.path, nil)
			r = r.WithContext(WithPerson(r.Context(), Person{Name: "ada"}))
			w := httptest.NewRecorder()
			h.ServeHTTP(w, r)
			if w.Code != tc.code {
				t.Fatalf("%d %s, want %d", w.Code, w.Body, tc.code)
			}
			if strings.Contains(w.Body.String(), "correct-horse") {
				t.Errorf("a variable is shown: %s", w.Body)
			}
			if tc.want == "" {
				return
			}
			var got, want any
			if err := json.Unmarshal(w.Body.Bytes(), &got); err != nil {
				t.Fatal(err)
			}
			if err := json.Unmarshal([]byte(tc.want), &want); err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(want, got); diff != "" {
				t.Errorf("-want +got:\n%s", diff)
			}
		})
	}
}
