package web

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"keelson.dev/keelson/internal/history"
	"keelson.dev/keelson/internal/store"
)

// historyAPI serves a history: three deliveries of the app shop in team-a, that make, change and rename, and one of the app in team-b, which a change of its declaration made begin.
func historyAPI(t *testing.T, readers Authorize, more ...func(*store.DB)) func(path string, who ...string) (int, string) {
	t.Helper()
	key, err := store.OpenKey(filepath.Join(t.TempDir(), "key"))
	if err != nil {
		t.Fatal(err)
	}
	db, err := store.Open(filepath.Join(t.TempDir(), "store.db"), store.Options{Key: key})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { db.Close() })
	day := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	web := history.Object{Group: "apps", Kind: "Deployment", Namespace: "team-a", Name: "web"}
	of := func(n int, app history.App, trigger string, changes ...history.Change) history.Delivery {
		return history.Delivery{
			Key: fmt.Sprint(n), App: app, Trigger: trigger, Status: history.Succeeded, Began: day.Add(time.Duration(n) * time.Hour),
			Commit: history.Commit{SHA: fmt.Sprint("sha", n), Title: "<script>alert(1)</script>", Author: "Ann"}, Changes: changes,
		}
	}
	a, b := history.App{Kind: "Kustomization", Namespace: "team-a", Name: "shop"}, history.App{Kind: "Kustomization", Namespace: "team-b", Name: "api"}
	image := func(was, is string) history.Change {
		return history.Change{Object: web, Verb: "update", Fields: []history.Field{{Path: "spec.template.spec.containers[name=web].image", Before: was, After: is}}}
	}
	api := history.Object{Kind: "Service", Namespace: "team-b", Name: "api"}
	err = db.KeepDeliveries(t.Context(), []history.Delivery{
		of(1, a, history.ByCommit, history.Change{Object: web, Verb: "create"}), of(2, a, history.ByCommit, image("1", "2")), of(3, a, history.ByCommit, image("2", "3")),
		of(4, history.App{Kind: "Kustomization", Namespace: "team-b", Name: "root"}, history.ByCommit, history.Change{Object: history.Object{Group: "kustomize.toolkit.fluxcd.io", Kind: "Kustomization", Namespace: "team-b", Name: "api"}, Verb: "update"}),
		of(5, b, history.BySpec, history.Change{Object: api, Verb: "update", Fields: []history.Field{{Path: "metadata.labels.team", After: "b"}}}),
	})
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range more {
		m(db)
	}
	handler := NewPipelines(PipelinesOptions{Store: db, Authorize: readers})
	return func(path string, who ...string) (int, string) {
		r := httptest.NewRequestWithContext(WithPerson(t.Context(), Person{Name: cmp.Or(append(who, "ann")...)}), http.MethodGet, "/api/v1/"+path, nil)
		w := httptest.NewRecorder()
		handler.ServeHTTP(w, r)
		return w.Code, strings.TrimSpace(w.Body.String())
	}
}

func TestWhyAnswers(t *testing.T) {
	ask := historyAPI(t, nil)
	answer := func(path string) history.Answer {
		t.Helper()
		status, body := ask(path)
		var a history.Answer
		if err := json.Unmarshal([]byte(body), &a); status != http.StatusOK || err != nil {
			t.Fatalf("%s: %d %s", path, status, body)
		}
		return a
	}
	a := answer("why?kind=deploy&name=web&field=image")
	if a.Previous != "2" || a.Value != "3" || a.Delivery.SHA != "sha3" || len(a.Earlier) != 2 || a.Earlier[0].Delivery.SHA != "sha2" {
		t.Errorf("the answer is %+v", a)
	}
	if a := answer("why?kind=deploy&name=web&field=image&at=2026-03-01T14:30:00Z"); a.Value != "2" || a.Delivery.SHA != "sha2" {
		t.Errorf("the answer about then is %+v", a)
	}
	if a := answer("why?kind=svc&name=api"); a.Declaration == nil || a.Declaration.Delivery.SHA != "sha4" || a.Delivery.Trigger != history.BySpec {
		t.Errorf("the answer about an app that was changed is %+v", a)
	}
	_, body := ask("deliveries?limit=1")
	if strings.Contains(body, "<script>") || !strings.Contains(body, `"next":5`) {
		t.Errorf("the list is %s", body)
	}
}

// Whoever may not see the apps of a namespace reads nothing of their history, by whatever way.
func TestHistoryReaders(t *testing.T) {
	ask := historyAPI(t, func(_ context.Context, who Person, verb string, on Target) error {
		if who.Name == "admin" || who.Name == "ann" && verb == "get" && on.Group == "kustomize.toolkit.fluxcd.io" && on.Resource == "kustomizations" && on.Namespace == "team-a" {
			return nil
		}
		return fmt.Errorf("%w: %s may not %s %s in %q", ErrForbidden, who.Name, verb, on.Resource, on.Namespace)
	}, func(db *store.DB) { hiddenHistory(t, db) })
	for _, c := range []struct {
		path        string
		status      int
		has, hasNot string
	}{
		{"deliveries", 200, "team-a", "team-b"},
		{"deliveries?app=Kustomization/team-a/shop", 200, "team-a", "team-b"},
		{"deliveries?app=Kustomization/team-b/api", 200, `"deliveries":[]`, "team-b"},
		{"deliveries/1", 200, "team-a", "team-b"},
		{"deliveries/5", 403, "may not get kustomizations", "Service"},
		{"why?kind=deploy&name=web", 200, "sha3", "team-b"},
		{"why?kind=svc&name=api&namespace=team-b", 200, "", "labels"},
		{"why?kind=svc&name=api", 200, `"found":false`, "team-b"},
		{"why?kind=deploy&name=web", 200, "sha3", "secret-"},
		{"why?kind=cm&name=shared", 200, "team-a", "team-b"},
		{"why?kind=cm&name=mixed", 200, `"sha":"sha12"`, "team-b"},
	} {
		if status, body := ask(c.path); status != c.status || !strings.Contains(body, c.has) || strings.Contains(body, c.hasNot) {
			t.Errorf("%s: %d %s", c.path, status, body)
		}
	}
	_, body := ask("why?kind=deploy&name=web", "admin")
	for _, has := range []string{"secret-pusher", "secret-approver", `"pusher":`, `"jobs":`} {
		if !strings.Contains(body, has) {
			t.Errorf("who may see everything is not told %s: %s", has, body)
		}
	}
	if status, body := ask("why?kind=cm&name=shared", "admin"); status != http.StatusConflict || !strings.Contains(body, "team-a") || !strings.Contains(body, "team-b") {
		t.Errorf("two candidates: %d %s", status, body)
	}
}

// hiddenHistory adds what belongs to the app in team-b beside that in team-a, and to a project that few may see.
func hiddenHistory(t *testing.T, db *store.DB) {
	t.Helper()
	var all []history.Delivery
	for n := 10; n < 20; n++ {
		team, name := "team-b", "mixed"
		if n == 10 || n == 12 {
			team = "team-a"
		}
		of := "team-a"
		if n < 12 {
			name, of = "shared", team
		}
		all = append(all, history.Delivery{
			Key: fmt.Sprint(n), App: history.App{Kind: "Kustomization", Namespace: team, Name: "shop"}, Trigger: history.ByCommit, Status: history.Succeeded,
			Began: time.Date(2026, 3, 2, n, 0, 0, 0, time.UTC), Commit: history.Commit{SHA: fmt.Sprint("sha", n)},
			Changes: []history.Change{{Object: history.Object{Kind: "ConfigMap", Namespace: of, Name: name}, Verb: "update"}},
		})
	}
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	must(db.KeepDeliveries(t.Context(), all))
	project, err := db.EnsureProject(t.Context(), "secret-group/deploy")
	must(err)
	id, iid, err := db.Reserve(t.Context(), project.ID)
	must(err)
	must(db.CreatePipeline(t.Context(), store.Pipeline{ID: id, IID: iid, Project: project.ID, Source: "push", Ref: "main", SHA: "sha3", Status: "created"}, store.Inputs{Graph: []byte("{}")}))
	job, err := db.NextID(t.Context())
	must(err)
	saved, err := db.Saved(t.Context(), id)
	must(err)
	_, err = db.Advance(t.Context(), id, saved.End, store.Step{Jobs: []store.Job{{ID: job, Name: "secret-job", Stage: "deploy", Attempt: 1, Status: "success", Player: "secret-approver"}}})
	must(err)
	_, d, err := db.BeginDeployment(t.Context(), store.Environment{Project: project.ID, Name: "secret-env", Slug: "secret-env"},
		store.Deployment{Pipeline: id, Job: job, Ref: "main", SHA: "c0ffee", User: "secret-pusher", Started: time.Date(2026, 3, 3, 0, 0, 0, 0, time.UTC)})
	must(err)
	_, err = db.ReportDeployment(t.Context(), d.ID, store.Report{Wrote: []byte(
		`{"objects":[{"verb":"patch","kind":"Deployment","namespace":"team-a","name":"web"}],"commits":[{"sha":"sha3"}]}`)})
	must(err)
}

func TestHistoryPages(t *testing.T) {
	if got := []int{pageOf(0), pageOf(7), pageOf(1000)}; got[0] != 20 || got[1] != 7 || got[2] != HistoryPage {
		t.Errorf("pages have %v rows", got)
	}
}

// onlyTeamA lets everybody see the Kustomizations of team-a, and nothing else.
func onlyTeamA(_ context.Context, _ Person, _ string, on Target) error {
	if on.Namespace == "team-a" {
		return nil
	}
	return ErrForbidden
}

// A page is full of what may be seen, however much lies between that may not, up to a bound.
func TestHistoryPagesAreFilled(t *testing.T) {
	for _, hidden := range []int{150, pagesRead*HistoryPage + 50} {
		ask := historyAPI(t, onlyTeamA, func(db *store.DB) {
			var all []history.Delivery
			var repairs []history.Repair
			for n := range hidden + 3 {
				team := "team-b"
				if n%(hidden+2) == 0 || n == hidden+2 {
					team = "team-a"
				}
				app := history.App{Kind: "Kustomization", Namespace: team, Name: "busy"}
				all = append(all, history.Delivery{Key: fmt.Sprint("k", n), App: app, Trigger: history.ByCommit, Status: history.Succeeded, Began: time.Unix(int64(n), 0)})
				repairs = append(repairs, history.Repair{App: app, Object: history.Object{Kind: "ConfigMap", Name: fmt.Sprint(n)}, Found: time.Unix(int64(n), 0), Repaired: time.Unix(int64(n), 0)})
			}
			if err := cmp.Or(db.KeepDeliveries(t.Context(), all), db.KeepRepairs(t.Context(), repairs)); err != nil {
				t.Fatal(err)
			}
		})
		for _, list := range []string{"deliveries?q=busy&", "repairs?"} {
			found, next, pages := 0, int64(0), 0
			for pages < 10 {
				_, body := ask(fmt.Sprintf("%slimit=5&before=%d", list, next))
				var page struct {
					Deliveries []history.Delivery
					Repairs    []history.Repair
					Next       int64
				}
				if err := json.Unmarshal([]byte(body), &page); err != nil {
					t.Fatal(body)
				}
				pages++
				found, next = found+len(page.Deliveries)+len(page.Repairs), page.Next
				if next == 0 {
					break
				}
			}
			want := 1 // one page has all that may be seen
			if hidden > 150 {
				want = 2
			}
			if found != 2 || pages != want {
				t.Errorf("%s behind %d: %d rows in %d pages, want 2 in %d", list, hidden, found, pages, want)
			}
		}
	}
}

// The repair that a question is about is found behind any number of others of the same object.
func TestWhyFindsTheRepairOfAField(t *testing.T) {
	ask := historyAPI(t, onlyTeamA, func(db *store.DB) {
		object := history.Object{Group: "apps", Kind: "Deployment", Namespace: "team-a", Name: "web"}
		var all []history.Repair
		for n := range 130 {
			r := history.Repair{App: history.App{Kind: "Kustomization", Namespace: "team-a", Name: "shop"}, Object: object, Manager: "kubectl",
				Fields: []history.Field{{Path: fmt.Sprintf("metadata.labels.l%d", n), Before: "x"}}}
			if n == 5 {
				r.Fields = []history.Field{{Path: "spec.template.spec.containers[name=web].image", Before: "evil", After: "3"}}
			}
			r.Found = time.Date(2026, 3, 1, 16, n, 0, 0, time.UTC)
			r.Repaired = r.Found
			all = append(all, r)
		}
		if err := db.KeepRepairs(t.Context(), all); err != nil {
			t.Fatal(err)
		}
	})
	var a history.Answer
	if _, body := ask("why?kind=deploy&name=web&field=image"); json.Unmarshal([]byte(body), &a) != nil || len(a.Repairs) != 1 || a.Repairs[0].Fields[0].Before != "evil" {
		t.Errorf("the answer is %s", body)
	}
	if _, body := ask("why?kind=deploy&name=web"); json.Unmarshal([]byte(body), &a) != nil || len(a.Repairs) != history.MaxEarlier {
		t.Errorf("the answer about all of it is %s", body)
	}
}
