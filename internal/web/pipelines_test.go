package web

import (
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"testing"
	"time"

	"keelson.dev/keelson/internal/store"
)

// TestPipelinePages holds that a page that is cut says where the next one begins, whatever its size is wished to be.
func TestPipelinePages(t *testing.T) {
	dir := t.TempDir()
	key, err := store.OpenKey(filepath.Join(dir, "key"))
	if err != nil {
		t.Fatal(err)
	}
	db, err := store.Open(filepath.Join(dir, "store.db"), store.Options{Key: key})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { db.Close() })
	p, err := db.EnsureProject(t.Context(), "group/app")
	if err != nil {
		t.Fatal(err)
	}
	const all = 120
	for i := range int64(all) {
		row := store.Pipeline{ID: i + 1, IID: i + 1, Project: p.ID, Source: "push", Ref: "main", SHA: "sha", Status: "success", Created: time.Unix(1_700_000_000+i, 0)}
		if err := db.CreatePipeline(t.Context(), row, store.Inputs{}); err != nil {
			t.Fatal(err)
		}
	}
	h := NewPipelines(PipelinesOptions{Store: db})
	for limit, want := range map[string]struct{ rows, next int }{"": {20, 101}, "0": {1, 120}, "1": {1, 120}, "50": {50, 71}, "120": {120, 1}, "121": {120, 0}} {
		r := httptest.NewRequestWithContext(WithPerson(t.Context(), Person{Name: "ann"}), http.MethodGet, PipelinesPath+"pipelines?limit="+limit, nil)
		w := httptest.NewRecorder()
		h.ServeHTTP(w, r)
		var have PipelineList
		if err := json.Unmarshal(w.Body.Bytes(), &have); err != nil || len(have.Pipelines) != want.rows || have.Next != int64(want.next) {
			t.Errorf("limit=%s: %d rows, next %d, %v, want %v: %.200s", limit, len(have.Pipelines), have.Next, err, want, w.Body)
		}
	}
}
