package web

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"keelson.dev/keelson/internal/audit"
	"keelson.dev/keelson/internal/store"
)

// auditStore is a store with a pipeline that has a job, and a clock that stands.
func auditStore(t *testing.T) (*store.DB, store.Pipeline) {
	t.Helper()
	key, err := store.OpenKey(filepath.Join(t.TempDir(), "key"))
	if err != nil {
		t.Fatal(err)
	}
	now := time.Unix(1_700_000_000, 0).UTC()
	db, err := store.Open(filepath.Join(t.TempDir(), "store.db"), store.Options{Key: key, Now: func() time.Time { return now }})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { db.Close() })
	ctx := t.Context()
	project, err := db.EnsureProject(ctx, "group/app")
	if err != nil {
		t.Fatal(err)
	}
	id, iid, err := db.Reserve(ctx, project.ID)
	if err != nil {
		t.Fatal(err)
	}
	p := store.Pipeline{ID: id, IID: iid, Project: project.ID, Source: "push", Ref: "main", SHA: "c0ffee00c0ffee", User: "ann", Status: "manual", Created: now}
	if err := db.CreatePipeline(ctx, p, store.Inputs{Graph: []byte("{}"), Event: []byte("{}")}); err != nil {
		t.Fatal(err)
	}
	job, err := db.NextID(ctx)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := db.Advance(ctx, id, 0, store.Step{Jobs: []store.Job{{ID: job, Name: "deploy", Stage: "deploy", Attempt: 1, Status: "manual", Environment: "production"}}}); err != nil {
		t.Fatal(err)
	}
	if _, _, err := db.BeginDeployment(ctx, store.Environment{Project: project.ID, Name: "production", Slug: "production"}, store.Deployment{Pipeline: id, Job: job}); err != nil {
		t.Fatal(err)
	}
	return db, p
}

// TestAuditOfRequests asks for all that is recorded, and reads it.
func TestAuditOfRequests(t *testing.T) {
	db, p := auditStore(t)
	var mu sync.Mutex
	var told []string
	record := func(e audit.Entry) {
		mu.Lock()
		defer mu.Unlock()
		told = append(told, fmt.Sprintf("%s %s %s %s %q from %s", e.Actor, e.Action, e.Object, e.Outcome, e.Detail, e.Address))
	}
	h := NewPipelines(PipelinesOptions{
		Store: db, Audit: AuditOptions{Record: record},
		Create: func(_ context.Context, n NewPipeline, _ string) (store.Pipeline, error) {
			if n.Ref == "nosuch" {
				return store.Pipeline{}, errors.New("there is no branch nosuch")
			}
			return store.Pipeline{ID: 77}, nil
		},
	})
	plans := NewSchedules(SchedulesOptions{
		Record: record, List: func(string) []ListedSchedule { return nil },
		Play: func(context.Context, PlayedSchedule, string) (store.Pipeline, error) {
			return store.Pipeline{ID: 78}, nil
		},
	})
	triggers := NewTriggers(TriggersOptions{Record: record, Accept: func(_ context.Context, r TriggerRequest) (Accepted, error) {
		if r.Token != "good" {
			return Accepted{}, ErrTriggerRefused
		}
		return Accepted{Project: "group/app", Who: "trigger nightly", Make: func(context.Context) (Triggered, error) { return Triggered{ID: 79}, nil }}, nil
	}})
	ask := func(h http.Handler, method, path, body string) *httptest.ResponseRecorder {
		r := httptest.NewRequest(method, path, strings.NewReader(body))
		r = r.WithContext(WithPerson(r.Context(), Person{Name: "bob"}))
		w := httptest.NewRecorder()
		h.ServeHTTP(w, r)
		return w
	}
	go func() { // whoever does commands
		for {
			c, err := db.Take(t.Context())
			if err != nil {
				return
			}
			refusal := ""
			if c.Kind == "rollback" {
				refusal = "there is no earlier deployment"
			}
			_ = db.Answer(t.Context(), c.ID, refusal)
		}
	}()
	pipeline := fmt.Sprintf("/api/v1/pipelines/%d/", p.ID)
	for _, c := range []struct {
		h                  http.Handler
		method, path, body string
		status             int
	}{
		{h, "POST", pipeline + "play", `{"jobs":["deploy"],"variables":{"PASSWORD":"hunter2"}}`, 204},
		{h, "POST", pipeline + "retry", `{"jobs":["a","b"],"dependants":true}`, 204},
		{h, "POST", pipeline + "cancel", `{}`, 204},
		{h, "POST", pipeline + "explode", `{}`, 404},
		{h, "POST", "/api/v1/environments/1/stop", `{"force":true}`, 200},
		{h, "POST", "/api/v1/environments/1/rollback", `{"to":3}`, 409},
		{h, "POST", "/api/v1/pipelines", `{"project":"group/app","ref":"main"}`, 200},
		{h, "POST", "/api/v1/pipelines", `{"project":"group/app","ref":"nosuch"}`, 422},
		{plans, "POST", "/api/v1/schedules/play", `{"project":"group/app","name":"nightly"}`, 201},
		{triggers, "POST", "/api/v4/projects/group%2Fapp/trigger/pipeline?token=good&ref=main", "", 201},
		{triggers, "POST", "/api/v4/projects/group%2Fapp/trigger/pipeline?token=wrong&ref=main", "", 404},
	} {
		if w := ask(c.h, c.method, c.path, c.body); w.Code != c.status {
			t.Errorf("%s: %d %s", c.path, w.Code, w.Body)
		}
	}
	w := ask(h, "GET", "/api/v1/audit", "")
	var list AuditList
	if err := json.Unmarshal(w.Body.Bytes(), &list); err != nil {
		t.Fatalf("%v: %s", err, w.Body)
	}
	var got []string
	for _, r := range list.Records {
		got = append(got, fmt.Sprintf("%d %s %s %s %s %s %s %q from %s", r.Seq, r.Actor, r.Action, r.Object, r.Project, r.Environment, r.Outcome, r.Detail, r.Address))
	}
	object := fmt.Sprintf("pipeline/%d", p.ID)
	want := []string{
		`6 bob environment.rollback environment/production group/app production refused "there is no earlier deployment" from 192.0.2.1`,
		`5 bob environment.rollback environment/production group/app production asked "to deployment 3" from 192.0.2.1`,
		`4 bob environment.stop environment/production group/app production asked "without its job" from 192.0.2.1`,
		`3 bob pipeline.cancel ` + object + ` group/app  asked "main at c0ffee00c0ff" from 192.0.2.1`,
		`2 bob pipeline.retry ` + object + ` group/app  asked "jobs: a, b; main at c0ffee00c0ff; with what comes after" from 192.0.2.1`,
		`1 bob pipeline.play ` + object + `/deploy group/app production asked "main at c0ffee00c0ff; with 1 variables" from 192.0.2.1`,
	}
	if strings.Join(got, "\n") != strings.Join(want, "\n") {
		t.Errorf("have %s\nwant %s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
	wantTold := []string{
		`bob pipeline.create pipeline/77  "main" from 192.0.2.1`,
		`bob pipeline.create project/group/app failed "nosuch there is no branch nosuch" from 192.0.2.1`,
		`bob schedule.play pipeline/78  "schedule nightly" from 192.0.2.1`,
		`trigger nightly pipeline.trigger pipeline/79  "main" from 192.0.2.1`,
	}
	if strings.Join(told, "\n") != strings.Join(wantTold, "\n") {
		t.Errorf("have %s\nwant %s", strings.Join(told, "\n"), strings.Join(wantTold, "\n"))
	}
	if strings.Contains(w.Body.String()+strings.Join(told, ""), "hunter2") || strings.Contains(w.Body.String(), "PASSWORD") {
		t.Error("a variable is in the audit")
	}
}

// TestAuditAPI has filters that are wrong, exports, erases, and asks who may.
func TestAuditAPI(t *testing.T) {
	db, _ := auditStore(t)
	if _, err := db.AppendAudit(t.Context(), audit.Entry{Actor: "ann", Action: "login", Detail: "<script>alert(1)</script>"}, audit.Entry{Actor: "bob", Action: "login"}); err != nil {
		t.Fatal(err)
	}
	authorize := func(_ context.Context, who Person, verb string, on Target) error {
		if on != (Target{Group: "keelson.dev", Resource: "audits"}) || who.Name != "root" && (who.Name != "reader" || verb != "get") {
			return fmt.Errorf("%w: %s may not %s", ErrForbidden, who.Name, verb)
		}
		return nil
	}
	rotate := func(_ context.Context, lost bool, who, address string) (AuditKey, error) {
		if lost {
			return AuditKey{}, errors.New("no key is lost")
		}
		return AuditKey{Key: "k", ID: who + " from " + address}, nil
	}
	h := NewPipelines(PipelinesOptions{Store: db, Audit: AuditOptions{Authorize: authorize, Record: func(audit.Entry) {}, Rotate: rotate}})
	ask := func(who, method, path string) (int, string) {
		path, body, _ := strings.Cut(path, " ")
		r := httptest.NewRequest(method, "/api/v1/audit"+path, strings.NewReader(body))
		r = r.WithContext(WithPerson(r.Context(), Person{Name: who}))
		w := httptest.NewRecorder()
		h.ServeHTTP(w, r)
		return w.Code, w.Body.String()
	}
	for _, c := range []struct {
		who, method, path string
		status            int
		has               string
	}{
		{"reader", "GET", "?actor=ann", 200, `"records":[{"seq":1,`},
		{"reader", "GET", "?limit=1", 200, `"next":2`},
		{"reader", "GET", "?q=%3Cscript", 200, `\u003cscript\u003ealert(1)`},
		{"reader", "GET", "?actor=" + strings.Repeat("x", 301), 400, "more than 300 bytes"},
		{"reader", "GET", "?q=%00", 400, "a zero byte"},
		{"reader", "GET", "?q=%ff", 200, `"records":[]`},
		{"reader", "GET", "?from=yesterday", 400, `from: \"yesterday\" is no time`},
		{"reader", "GET", "?before=-1", 400, "is no number"},
		{"reader", "GET", "?from=2023-11-14&to=2023-11-15T00:00:00Z", 200, `"seq":2`},
		{"reader", "GET", "?from=2023-11-15", 200, `"records":[]`},
		{"nobody", "GET", "", 403, "nobody may not get"},
		{"nobody", "GET", "/export", 403, "nobody may not get"},
		{"reader", "DELETE", "/people?person=ann", 403, "reader may not erase"},
		{"root", "DELETE", "/people", 400, "who is to be forgotten"},
		{"root", "DELETE", "/people?person=eve", 404, "there is no such row"},
		{"root", "DELETE", "/people?person=ann&also=Ann+Bee&also=ann@example.com", 200, `"rows":{"audit":1,"pipelines":1},"left":["Git repositories`},
		{"root", "DELETE", "/people?person=bob&also=", 400, "is no name"},
		{"reader", "POST", "/key", 403, "reader may not rotate"},
		{"root", "POST", "/key", 200, `{"key":"k","id":"root from 192.0.2.1","before":"","beforeID":""}`},
		{"root", "POST", `/key {"lost":true}`, 422, "no key is lost"},
		{"root", "POST", `/key {"x":1}`, 400, "unknown field"},
		{"reader", "GET", "/export?to=x", 400, "is no time"},
	} {
		if status, body := ask(c.who, c.method, c.path); status != c.status || !strings.Contains(body, c.has) {
			t.Errorf("%s %s %s: %d %s\nwant %d %s", c.who, c.method, c.path, status, body, c.status, c.has)
		}
	}
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		h.ServeHTTP(w, r.WithContext(WithPerson(r.Context(), Person{Name: "reader"})))
	}))
	defer server.Close()
	r, _ := http.NewRequestWithContext(t.Context(), http.MethodGet, server.URL+"/api/v1/audit/export", http.NoBody)
	res, err := http.DefaultClient.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	text, err := io.ReadAll(res.Body)
	if err != nil {
		t.Fatal(err)
	}
	report, p, err := audit.VerifyExport(func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(text)), nil }, nil, nil)
	if err != nil || p != nil || report.Records != 2 || bytes.Contains(text, []byte(`"ann"`)) || !bytes.Contains(text, []byte(`"bob"`)) {
		t.Errorf("%+v %v %v: %s", report, p, err, text)
	}
}
