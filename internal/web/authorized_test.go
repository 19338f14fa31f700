package web

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"keelson.dev/keelson/internal/history"
	"keelson.dev/keelson/internal/pipeline/show"
	"keelson.dev/keelson/internal/store"
)

// rights are what people may do: "NAME VERB GROUP/RESOURCE NAMESPACE/NAME", where * at the end stands for anything.
type rights []string

func (all rights) authorize(_ context.Context, who Person, verb string, on Target) error {
	asked := fmt.Sprintf("%s %s %s/%s %s/%s", who.Name, verb, on.Group, on.Resource, on.Namespace, on.Name)
	for _, r := range all {
		prefix, any := strings.CutSuffix(r, "*")
		if asked == r || any && strings.HasPrefix(asked, prefix) {
			return nil
		}
	}
	return fmt.Errorf("%w: %s", ErrForbidden, asked)
}

// TestPipelinesAreAuthorized: each request asks for its verb, on the Project that it is about.
func TestPipelinesAreAuthorized(t *testing.T) {
	db := openDB(t)
	defer db.Close()
	shop, job := makePipeline(t, db, "group/shop")
	hidden, hiddenJob := makePipeline(t, db, "group/hidden")
	p, err := db.Project(t.Context(), "group/shop")
	if err != nil {
		t.Fatal(err)
	}
	if _, _, err := db.BeginDeployment(t.Context(), store.Environment{Project: p.ID, Name: "production", Slug: "production"}, store.Deployment{Pipeline: shop, Job: job, SHA: "sha", Ref: "main"}); err != nil {
		t.Fatal(err)
	}
	go func() { // whoever does commands
		for {
			c, err := db.Take(t.Context())
			if err != nil || db.Answer(t.Context(), c.ID, "done by "+c.User) != nil {
				return
			}
		}
	}()
	const projects, environments = " keelson.dev/projects shop-ns/shop", " keelson.dev/environments shop-ns/production"
	h := NewPipelines(PipelinesOptions{
		Store: db,
		Authorize: rights{
			"viewer get" + projects, "dev get" + projects, "dev play" + projects, "dev retry" + projects, "ops get" + projects, "ops cancel" + projects,
			"ops stop" + environments, "ops rollback" + environments, "admin *", "scoped play keelson.dev/projects other/*",
		}.authorize,
		ProjectOf: func(_ context.Context, path string) (string, string, error) {
			if path == "group/shop" {
				return "shop-ns", "shop", nil
			}
			return "", "", nil // no object: only rights for all namespaces count
		},
		Create: func(_ context.Context, n NewPipeline, user string) (store.Pipeline, error) {
			return store.Pipeline{ID: 99, Title: n.Project + " by " + user}, nil
		},
		Settings:  func(context.Context, string) ([]show.Setting, error) { return nil, nil },
		Variables: func(context.Context, int64, string) ([]show.Setting, error) { return nil, nil },
		Recipe:    func(context.Context, int64) (show.Recipe, error) { return show.Recipe{}, nil },
	})
	ask := func(who, method, path, body string) (int, string) {
		r := httptest.NewRequest(method, path, strings.NewReader(body))
		r = r.WithContext(WithPerson(r.Context(), Person{Name: who}))
		w := httptest.NewRecorder()
		h.ServeHTTP(w, r)
		return w.Code, w.Body.String()
	}
	id := func(format string, n int64) string { return fmt.Sprintf("/api/v1/"+format, n) }
	for _, c := range []struct {
		method, path, body string
		may                []string // the others may not
		status             int      // of who may
	}{
		{"GET", id("pipelines/%d", shop), "", []string{"viewer", "dev", "ops", "admin"}, 200},
		{"GET", id("pipelines/%d", hidden), "", []string{"admin"}, 200},
		{"GET", id("jobs/%d", job), "", []string{"viewer", "dev", "ops", "admin"}, 200},
		{"GET", id("jobs/%d", hiddenJob), "", []string{"admin"}, 200},
		{"GET", id("jobs/%d/log", job), "", []string{"viewer", "dev", "ops", "admin"}, 200},
		{"GET", id("jobs/%d/log", hiddenJob), "", []string{"admin"}, 200},
		{"GET", id("pipelines/%d/variables", hidden), "", []string{"admin"}, 200},
		{"GET", id("pipelines/%d/recipe", hidden), "", []string{"admin"}, 200},
		{"GET", "/api/v1/pipelines?project=group/shop", "", []string{"viewer", "dev", "ops", "admin"}, 200},
		{"GET", "/api/v1/pipelines?project=group/hidden", "", []string{"admin"}, 200},
		{"GET", "/api/v1/pipelines?project=nosuch", "", []string{"admin"}, 404},
		{"GET", "/api/v1/projects/variables?project=group/hidden", "", []string{"admin"}, 200},
		{"GET", "/api/v1/environments?project=group/hidden", "", []string{"admin"}, 200},
		{"GET", "/api/v1/environments/1", "", []string{"viewer", "dev", "ops", "admin"}, 200},
		{"POST", id("pipelines/%d/play", shop), `{}`, []string{"dev", "admin"}, 409},
		{"POST", id("pipelines/%d/retry", shop), `{}`, []string{"dev", "admin"}, 409},
		{"POST", id("pipelines/%d/cancel", shop), `{}`, []string{"ops", "admin"}, 409},
		{"POST", id("pipelines/%d/cancel", hidden), `{}`, []string{"admin"}, 409},
		{"POST", "/api/v1/environments/1/stop", `{}`, []string{"ops", "admin"}, 409},
		{"POST", "/api/v1/environments/1/rollback", `{}`, []string{"ops", "admin"}, 409},
		{"POST", "/api/v1/pipelines", `{"project":"group/shop"}`, []string{"dev", "admin"}, 200},
		{"POST", "/api/v1/pipelines", `{"project":"group/hidden"}`, []string{"admin"}, 200},
		{"DELETE", id("jobs/%d/artifacts", hiddenJob), "", nil, 403},
	} {
		for _, who := range []string{"viewer", "dev", "ops", "admin", "scoped", "nobody"} {
			if c.may == nil && who == "admin" {
				continue
			}
			want := http.StatusForbidden
			if slices.Contains(c.may, who) {
				want = c.status
			}
			status, body := ask(who, c.method, c.path, c.body)
			if status != want {
				t.Errorf("%s %s %s: %d %s, want %d", who, c.method, c.path, status, body, want)
			}
			if status == http.StatusConflict && !strings.Contains(body, "done by "+who) {
				t.Errorf("%s %s: %s", who, c.path, body)
			}
		}
	}
	for who, want := range map[string]string{"viewer": "group/shop", "admin": "group/hidden group/shop", "nobody": "", "": "401"} {
		var seen []string
		status, body := ask(who, "GET", "/api/v1/pipelines", "")
		var list PipelineList
		if err := json.Unmarshal([]byte(body), &list); err != nil {
			t.Fatal(err)
		}
		for _, p := range list.Pipelines {
			seen = append(seen, p.ProjectPath)
		}
		if status != http.StatusOK {
			seen = []string{fmt.Sprint(status)}
		}
		slices.Sort(seen)
		if got := strings.Join(seen, " "); got != want {
			t.Errorf("%q sees the pipelines of %q, want %q", who, got, want)
		}
	}
	for who, want := range map[string]int{"viewer": 1, "admin": 2, "nobody": 0} {
		_, body := ask(who, "GET", "/api/v1/projects", "")
		if got := strings.Count(body, `"name"`); got != want {
			t.Errorf("%s sees %s, want %d", who, body, want)
		}
	}
	for who, want := range map[string]int{"viewer": 1, "admin": 1, "nobody": 0} {
		_, body := ask(who, "GET", "/api/v1/environments", "")
		if got := strings.Count(body, `"projectPath"`); got != want {
			t.Errorf("%s sees %s, want %d", who, body, want)
		}
	}
}

// TestEventsAreAuthorized: nobody is told of projects that they may not see, also not what they are.
func TestEventsAreAuthorized(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		db := openDB(t)
		defer db.Close()
		h := NewPipelines(PipelinesOptions{
			Store:     db,
			Authorize: rights{"ann get keelson.dev/projects shop-ns/shop"}.authorize,
			ProjectOf: func(_ context.Context, path string) (string, string, error) {
				return map[string]string{"group/shop": "shop-ns"}[path], map[string]string{"group/shop": "shop"}[path], nil
			},
		})
		ctx, cancel := context.WithTimeout(WithPerson(t.Context(), Person{Name: "ann"}), time.Second)
		defer cancel()
		w := httptest.NewRecorder()
		done := make(chan struct{})
		go func() {
			defer close(done)
			h.ServeHTTP(w, httptest.NewRequest(http.MethodGet, "/api/v1/events", nil).WithContext(ctx))
		}()
		synctest.Wait()
		hidden, _ := makePipeline(t, db, "group/hidden")
		shop, _ := makePipeline(t, db, "group/shop")
		<-done
		told := w.Body.String()
		if !strings.Contains(told, fmt.Sprintf(`"kind":"pipeline","id":%d`, shop)) || strings.Contains(told, fmt.Sprintf(`"pipeline":%d`, hidden)) {
			t.Errorf("%d and not %d should be told:\n%s", shop, hidden, told)
		}
	})
}

// TestAppsAreSeenByNamespace: lists have what somebody may get, in all namespaces or in some.
func TestAppsAreSeenByNamespace(t *testing.T) {
	lister := testLister{
		apps: []App{{Status: Status{Kind: "Kustomization", Namespace: "a", Name: "one"}}, {Status: Status{Kind: "Kustomization", Namespace: "b", Name: "two"}},
			{Status: Status{Kind: "HelmRelease", Namespace: "a", Name: "three"}}, {Status: Status{Kind: "Strange", Namespace: "a", Name: "four"}}},
		sources: []Source{{Status: Status{Kind: "GitRepository", Namespace: "a", Name: "git"}}},
	}
	h := New(Options{Lister: lister, Authorize: rights{
		"ann get kustomize.toolkit.fluxcd.io/kustomizations a/", "bob get kustomize.toolkit.fluxcd.io/kustomizations /", "bob get source.toolkit.fluxcd.io/gitrepositories /",
		"admin *",
	}.authorize})
	for who, want := range map[string]string{"ann": "one", "bob": "one two git", "admin": "one two three four git", "nobody": ""} {
		var got []string
		for _, path := range []string{"/api/apps", "/api/sources"} {
			r := httptest.NewRequest(http.MethodGet, path, nil)
			w := httptest.NewRecorder()
			h.ServeHTTP(w, r.WithContext(WithPerson(r.Context(), Person{Name: who})))
			var out map[string][]Status
			if err := json.Unmarshal(w.Body.Bytes(), &out); err != nil {
				t.Fatal(err)
			}
			for _, list := range out {
				for _, s := range list {
					got = append(got, s.Name)
				}
			}
		}
		if g := strings.Join(got, " "); g != want {
			t.Errorf("%s sees %q, want %q", who, g, want)
		}
	}
}

type testLister struct {
	apps    []App
	sources []Source
}

func (l testLister) Apps(context.Context) ([]App, error)       { return l.apps, nil }
func (l testLister) Sources(context.Context) ([]Source, error) { return l.sources, nil }

// TestHistoryIsAuthorized: what was delivered is told to those who may see the app, and so is what was repaired and why an object is as it is.
func TestHistoryIsAuthorized(t *testing.T) {
	db := openDB(t)
	defer db.Close()
	now := time.Now().UTC().Truncate(time.Millisecond)
	object := history.Object{Kind: "ConfigMap", Namespace: "prod", Name: "shared"}
	var all []history.Delivery
	for i, name := range []string{"shop", "hidden"} { // the hidden one is the later one, of the same object
		all = append(all, history.Delivery{
			Key: name, App: history.App{Kind: "Kustomization", Namespace: name + "-ns", Name: name}, Revision: "main@sha1:" + name,
			Commit: history.Commit{SHA: name, Author: "author of " + name}, Trigger: history.ByCommit, Status: "succeeded", Began: now.Add(time.Duration(i) * time.Second),
			Changes: []history.Change{{Object: object, Verb: "update", Fields: []history.Field{{Path: "data.a", Before: "x", After: name}}}}, Objects: 1,
		})
	}
	if err := db.KeepDeliveries(t.Context(), all); err != nil {
		t.Fatal(err)
	}
	if err := db.KeepRepairs(t.Context(), []history.Repair{{App: all[1].App, Object: object, Manager: "kubectl-edit", Found: now, Repaired: now, Times: 1}}); err != nil {
		t.Fatal(err)
	}
	h := NewPipelines(PipelinesOptions{Store: db, Authorize: rights{"ann get kustomize.toolkit.fluxcd.io/kustomizations shop-ns/*", "admin *"}.authorize})
	ask := func(who, path string) (int, string) {
		r := httptest.NewRequest(http.MethodGet, path, nil)
		w := httptest.NewRecorder()
		h.ServeHTTP(w, r.WithContext(WithPerson(r.Context(), Person{Name: who})))
		return w.Code, w.Body.String()
	}
	for _, path := range []string{"/api/v1/deliveries", "/api/v1/repairs", "/api/v1/why?kind=configmap&name=shared&namespace=prod"} {
		for who, want := range map[string]string{"admin": "hidden", "ann": "shop", "nobody": ""} {
			status, body := ask(who, path)
			if path == "/api/v1/repairs" && who == "ann" {
				want = "" // that of the other app
			}
			if status != http.StatusOK || !strings.Contains(body, want) {
				t.Errorf("%s %s: %d %s, want %q", who, path, status, body, want)
			}
			if who != "admin" && strings.Contains(body, "hidden") || who == "nobody" && strings.Contains(body, "shop-ns") {
				t.Errorf("%s %s tells what they may not see: %s", who, path, body)
			}
		}
	}
	seen := map[string]int{}
	for _, who := range []string{"admin", "ann", "nobody"} {
		for id := range int64(3) {
			if status, _ := ask(who, fmt.Sprintf("/api/v1/deliveries/%d", id)); status == http.StatusOK {
				seen[who]++
			}
		}
	}
	if seen["admin"] != 2 || seen["ann"] != 1 || seen["nobody"] != 0 {
		t.Errorf("single deliveries: %v", seen)
	}
}
