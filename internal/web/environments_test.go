package web

import (
	"bytes"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"keelson.dev/keelson/internal/store"
)

// TestEnvironments asks the API of environments, on a store with some of them.
func TestEnvironments(t *testing.T) {
	key, err := store.OpenKey(filepath.Join(t.TempDir(), "key"))
	if err != nil {
		t.Fatal(err)
	}
	db, err := store.Open(filepath.Join(t.TempDir(), "store.db"), store.Options{Key: key, Now: func() time.Time { return time.Unix(1_700_000_000, 0).UTC() }})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { db.Close() })
	p, err := db.EnsureProject(t.Context(), "group/app")
	if err != nil {
		t.Fatal(err)
	}
	for i, name := range []string{"production", "review/x", "review/y"} {
		if _, _, err := db.BeginDeployment(t.Context(), store.Environment{Project: p.ID, Name: name, Slug: name}, store.Deployment{Pipeline: 1, Job: int64(10 + i), SHA: "sha", Ref: "main"}); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := db.SetEnvironment(t.Context(), 3, store.EnvironmentStopped); err != nil {
		t.Fatal(err)
	}
	h := asPerson("secret", NewPipelines(PipelinesOptions{Store: db}))
	ask := func(method, path, body string) (int, string) {
		t.Helper()
		r := httptest.NewRequest(method, "/api/v1/"+path, strings.NewReader(body))
		r.Header.Set("Authorization", "Bearer secret")
		r.Header.Set("X-Keelson-User", "bob")
		w := httptest.NewRecorder()
		h.ServeHTTP(w, r)
		var out bytes.Buffer
		if json.Indent(&out, w.Body.Bytes(), "", "") != nil {
			return w.Code, w.Body.String()
		}
		return w.Code, strings.ReplaceAll(out.String(), "\n", "")
	}
	go func() { // whoever does commands
		for {
			c, err := db.Take(t.Context())
			if err != nil {
				return
			}
			refusal := ""
			if c.Kind != "stop" || string(c.Args) != `{"force":true,"environment":1}` || c.User != "bob" || c.Project != p.ID {
				refusal = "have " + c.Kind + " " + string(c.Args) + " by " + c.User
			}
			if db.Answer(t.Context(), c.ID, refusal) != nil {
				return
			}
		}
	}()
	for _, c := range []struct {
		method, path, body string
		code               int
		want, not          string // in the answer
	}{
		{"GET", "environments", "", 200, `"name": "review/y"`, `"next"`},
		{"GET", "environments?limit=2", "", 200, `"next": 2`, "review/y"},
		{"GET", "environments?limit=2&after=2", "", 200, "review/y", "review/x"},
		{"GET", "environments?project=group/app&state=stopped", "", 200, "review/y", "production"},
		{"GET", "environments?project=group/app&name=review/x", "", 200, `"projectPath": "group/app"`, "production"},
		{"GET", "environments?project=group/app&name=nosuch", "", 200, `{"environments": []}`, "production"},
		{"GET", "environments?project=group/app&name=review/x&state=stopped", "", 200, `{"environments": []}`, "review"},
		{"GET", "environments?name=review/x", "", 400, "give project too", ""},
		{"GET", "environments?project=nosuch", "", 404, "nosuch", ""},
		{"GET", "environments?after=x", "", 400, "is no number", ""},
		{"GET", "environments/2", "", 200, `"deployments": [{"id": 2,"iid": 1,`, "production"},
		{"GET", "environments/2?before=2", "", 200, `"deployments": []`, ""},
		{"GET", "environments/2?before=-1", "", 400, "is no number", ""},
		{"GET", "environments/9", "", 404, "environment 9", ""},
		{"GET", "environments/x", "", 400, "is no number", ""},
		{"POST", "environments/1/stop", `{"force":true}`, 200, `"name": "production"`, ""},
		{"POST", "environments/1/stop", "", 409, `have stop {\"environment\":1} by bob`, ""},
		{"POST", "environments/2/rollback", `{"to":3}`, 409, `have rollback {\"to\":3,\"environment\":2} by bob`, ""},
		{"POST", "environments/1/stop", `{"environment":2}`, 400, "unknown field", ""},
		{"POST", "environments/1/dance", "", 404, "nothing that can be done", ""},
		{"POST", "environments/9/stop", "", 404, "environment 9", ""},
	} {
		code, have := ask(c.method, c.path, c.body)
		if code != c.code || !strings.Contains(have, c.want) || c.not != "" && strings.Contains(have, c.not) {
			t.Errorf("%s %s: have %d %s\nwant %d %s, not %s", c.method, c.path, code, have, c.code, c.want, c.not)
		}
	}
	w := httptest.NewRecorder()
	h.ServeHTTP(w, httptest.NewRequest(http.MethodGet, "/api/v1/environments", nil))
	if w.Code != http.StatusUnauthorized {
		t.Errorf("without a token: %d", w.Code)
	}
}
