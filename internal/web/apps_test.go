package web

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"keelson.dev/keelson/internal/audit"
	"keelson.dev/keelson/internal/delivery"
)

// fleet makes apps as they are in many environments and states.
func fleet(n int) []App {
	epoch := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	out := make([]App, n)
	for i := range out {
		env := []string{"dev", "production", "staging"}[i%3]
		a := App{
			Status: Status{
				Kind: appKinds[i%2], Namespace: fmt.Sprintf("team-%d", i%10), Name: fmt.Sprintf("app-%04d-%s", i/3, env), State: states[i%7%len(states)],
				Revision: fmt.Sprintf("main@sha1:%040x", i), Created: epoch.Add(time.Duration(i) * time.Minute), Since: epoch.Add(time.Duration(i*7919%n) * time.Second),
				Message: "Applied revision: main",
			},
			Environment: env, Source: "GitRepository/flux-system/fleet", Path: fmt.Sprintf("./apps/%d", i), Objects: 5,
		}
		a.App = AppName(nil, a.Name, env, a.Source)
		out[i] = a
	}
	return out
}

func indexed(apps ...App) *Index {
	i := NewIndex(NewFeed(time.Now()), "Kustomization")
	for _, a := range apps {
		i.SetApp(a)
	}
	i.Complete("Kustomization")
	return i
}

// restricted lets the person bob see the namespace team-1 only, and everybody else everything.
func restricted(_ context.Context, who Person, verb string, on Target) error {
	switch {
	case verb != VerbGet: // the one verb by which apps are seen, in lists too
		return fmt.Errorf("%w: %s may not %s %s", ErrForbidden, who.Name, verb, on.Resource)
	case who.Name == "broken":
		return errors.New("the API server does not answer")
	case who.Name != "bob" || on.Namespace == "team-1":
		return nil
	default:
		return fmt.Errorf("%w: bob may not get %s", ErrForbidden, on.Resource)
	}
}

// ask asks an API as a person, and decodes the answer into out where there is one.
func ask(t *testing.T, h http.Handler, who, method, path, body string, out any) *httptest.ResponseRecorder {
	t.Helper()
	r := httptest.NewRequestWithContext(WithPerson(t.Context(), Person{Name: who}), method, path, strings.NewReader(body))
	w := httptest.NewRecorder()
	h.ServeHTTP(w, r)
	if out != nil {
		if err := json.Unmarshal(w.Body.Bytes(), out); err != nil {
			t.Fatalf("%s: %v: %s", path, err, w.Body)
		}
	}
	return w
}

func newApps(index *Index, c Cluster) http.Handler {
	return NewApps(AppsOptions{Index: index, Feed: index.feed, Cluster: c, Sight: NewSight(restricted), Log: slog.New(slog.DiscardHandler)})
}

func TestAppList(t *testing.T) {
	all := fleet(300)
	h := newApps(indexed(all...), nil)
	count := func(match func(App) bool) (n int) {
		for _, a := range all {
			if match(a) {
				n++
			}
		}
		return n
	}
	cases := map[string]struct {
		who, query string
		want       func(App) bool
	}{
		"all":                 {"ada", "", func(App) bool { return true }},
		"a word":              {"ada", "q=app-0042", func(a App) bool { return strings.Contains(a.Name, "0042") }},
		"words in any order":  {"ada", "q=" + url.QueryEscape("PRODUCTION team-3"), func(a App) bool { return a.Environment == "production" && a.Namespace == "team-3" }},
		"a state":             {"ada", "state=Failing", func(a App) bool { return a.State == Failing }},
		"two states":          {"ada", "state=Failing,Ready", func(a App) bool { return a.State == Failing || a.State == Ready }},
		"repeated":            {"ada", "state=Failing&state=Ready", func(a App) bool { return a.State == Failing || a.State == Ready }},
		"a kind":              {"ada", "kind=HelmRelease", func(a App) bool { return a.Kind == "HelmRelease" }},
		"namespace":           {"ada", "namespace=team-7", func(a App) bool { return a.Namespace == "team-7" }},
		"environment":         {"ada", "environment=dev&namespace=team-7", func(a App) bool { return a.Environment == "dev" && a.Namespace == "team-7" }},
		"nothing":             {"ada", "q=" + url.QueryEscape("<script>'; DROP TABLE apps--"), func(App) bool { return false }},
		"what the person may": {"bob", "", func(a App) bool { return a.Namespace == "team-1" }},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			var got AppList
			w := ask(t, h, tc.who, http.MethodGet, "/api/v1/apps?limit=1000&"+tc.query, "", &got)
			if want := count(tc.want); w.Code != http.StatusOK || got.Total != want || len(got.Apps) != want || got.Next != "" {
				t.Fatalf("%d: total %d, %d apps, next %q; want %d", w.Code, got.Total, len(got.Apps), got.Next, want)
			}
			for _, a := range got.Apps {
				if !tc.want(a) {
					t.Errorf("%s does not match", a.ID)
				}
			}
		})
	}
	var got AppList
	ask(t, h, "ada", http.MethodGet, "/api/v1/apps?namespace=team-7&state=Failing", "", &got)
	want := map[State]int{}
	for _, a := range all {
		if a.Namespace == "team-7" {
			want[a.State]++
		}
	}
	if diff := cmp.Diff(want, got.Counts); diff != "" {
		t.Errorf("the counts are those of all states (-want +got):\n%s", diff)
	}
}

// TestAppPages: the pages of a list are the list, in its order, also while the apps change between them.
func TestAppPages(t *testing.T) {
	all := fleet(250)
	for _, sort := range []string{"", "name", "-name", "namespace", "-namespace", "kind", "environment", "-environment", "state", "since", "-since", "created", "-created"} {
		t.Run(sort, func(t *testing.T) {
			index := indexed(all...)
			h := newApps(index, nil)
			read := func(limit int, after string) (out AppList) {
				t.Helper()
				q := url.Values{"limit": {fmt.Sprint(limit)}, "state": {"Failing,Ready,Working"}}
				if sort != "" {
					q.Set("sort", sort)
				}
				if after != "" {
					q.Set("after", after)
				}
				if w := ask(t, h, "ada", http.MethodGet, "/api/v1/apps?"+q.Encode(), "", &out); w.Code != http.StatusOK {
					t.Fatalf("%d %s", w.Code, w.Body)
				}
				return out
			}
			ids := func(l AppList) (out []string) {
				for _, a := range l.Apps {
					out = append(out, a.ID)
				}
				return out
			}
			want := ids(read(1000, ""))
			var got []string
			for next, page := "", 0; page == 0 || next != ""; page++ {
				l := read(7, next)
				got, next = append(got, ids(l)...), l.Next
				if page == 3 { // what the cursor names goes
					gone := got[len(got)-1]
					index.DropApp(gone)
				}
			}
			if !slices.Equal(got, want) {
				t.Errorf("pages give\n%q\nwant\n%q", got, want)
			}
			key := sortKeys[strings.TrimPrefix(cmpOr(sort, "namespace"), "-")]
			last, fresh := "", indexed(all...)
			for i, id := range want {
				a, _ := fresh.app(id)
				k := key(&listed{App: a})
				if i > 0 && (strings.HasPrefix(sort, "-") && k > last || !strings.HasPrefix(sort, "-") && k < last) {
					t.Errorf("%s is not sorted: %q after %q", id, k, last)
				}
				last = k
			}
		})
	}
}

func cmpOr(a, b string) string {
	if a == "" {
		return b
	}
	return a
}

func TestAppsRefuse(t *testing.T) {
	h := newApps(indexed(fleet(10)...), nothing{})
	many := strings.Repeat("&state=Ready", 51)
	cases := map[string]struct {
		who, method, path, body string
		code                    int
		says                    string
	}{
		"nobody":                {"", "GET", "/api/v1/apps", "", 401, "nobody is logged in"},
		"the cluster is silent": {"broken", "GET", "/api/v1/apps", "", 503, "does not answer"},
		"unknown parameter":     {"ada", "GET", "/api/v1/apps?stat=Ready", "", 400, `no parameter \"stat\"`},
		"unknown state":         {"ada", "GET", "/api/v1/apps?state=ready", "", 400, "they are Failing"},
		"unknown kind":          {"ada", "GET", "/api/v1/apps?kind=Secret", "", 400, "they are Kustomization"},
		"unknown sort":          {"ada", "GET", "/api/v1/apps?sort=password", "", 400, "nothing can be sorted by"},
		"no limit":              {"ada", "GET", "/api/v1/apps?limit=0", "", 400, "limit"},
		"limit is words":        {"ada", "GET", "/api/v1/apps?limit=ten", "", 400, "limit"},
		"a forged cursor":       {"ada", "GET", "/api/v1/apps?after=%00%ff", "", 400, "no cursor"},
		"another list's cursor": {"ada", "GET", "/api/v1/apps?sort=name&after=" + cursor{"state", "1", "Kustomization/a/b"}.String(), "", 400, "sorted by"},
		"a huge query":          {"ada", "GET", "/api/v1/apps?q=" + strings.Repeat("x", 5000), "", 400, "at most"},
		"a long search":         {"ada", "GET", "/api/v1/apps?q=" + strings.Repeat("x", 300), "", 400, "at most 200"},
		"many values":           {"ada", "GET", "/api/v1/apps?limit=1" + many, "", 400, "at most 50"},
		"a query that is none":  {"ada", "GET", "/api/v1/apps?q=%zz", "", 400, "read the query"},
		"kind of an app":        {"ada", "GET", "/api/v1/apps/Secret/a/b", "", 404, "no kind of apps"},
		"a path trick":          {"ada", "GET", "/api/v1/apps/Kustomization/..%2f..%2fsecrets/b", "", 400, "lower-case"},
		"a dot":                 {"ada", "GET", "/api/v1/apps/Kustomization/%2e%2e/b/tree", "", 400, "lower-case"},
		"HTML as a name":        {"ada", "GET", "/api/v1/apps/Kustomization/a/%3Cscript%3E", "", 400, "lower-case"},
		"a name that is SQL":    {"ada", "GET", "/api/v1/apps/Kustomization/a/b'%20OR%201=1", "", 400, "lower-case"},
		"there is no such app":  {"ada", "GET", "/api/v1/apps/Kustomization/a/b", "", 404, "no such app"},
		"unknown action":        {"ada", "POST", "/api/v1/apps/Kustomization/a/b/delete", "", 404, "sync, refresh, suspend, resume"},
		"unknown field":         {"ada", "POST", "/api/v1/apps/Kustomization/a/b/sync", `{"force":true}`, 400, "force"},
		"a field elsewhere":     {"ada", "POST", "/api/v1/apps/Kustomization/a/b/suspend", `{"preview":true}`, 400, "are for rollback"},
		"a large body":          {"ada", "POST", "/api/v1/apps/Kustomization/a/b/sync", `{"to":"` + strings.Repeat("x", 100_000) + `"}`, 400, "too large"},
		"a list as a body":      {"ada", "POST", "/api/v1/apps/Kustomization/a/b/sync", `[1]`, 400, "read the request"},
		"to is an object":       {"ada", "POST", "/api/v1/apps/Kustomization/a/b/rollback", `{"to":{}}`, 400, "read the request"},
		"another method":        {"ada", "DELETE", "/api/v1/apps/Kustomization/a/b", "", 405, ""},
		"container":             {"ada", "GET", "/api/v1/pods/a/b/log?container=../x", "", 400, "lower-case"},
		"tail":                  {"ada", "GET", "/api/v1/pods/a/b/log?tail=-1", "", 400, "tail"},
		"a Pod's path":          {"ada", "GET", "/api/v1/pods/a%2fb/c/log", "", 400, "lower-case"},
		"an id of events":       {"ada", "GET", "/api/v1/events?app=b", "", 400, "KIND/NAMESPACE/NAME"},
		"events of pipelines":   {"ada", "GET", "/api/v1/events?project=a/b", "", 404, "no pipelines"},
		"sources":               {"ada", "GET", "/api/v1/sources?q=x", "", 400, "no parameter"},
		"matrix":                {"ada", "GET", "/api/v1/matrix?after=x", "", 400, "no parameter"},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			w := ask(t, h, tc.who, tc.method, tc.path, tc.body, nil)
			if w.Code != tc.code || !strings.Contains(w.Body.String(), tc.says) {
				t.Errorf("%d %s\nwant %d and %q", w.Code, w.Body, tc.code, tc.says)
			}
			if w.Body.Len() > 2000 {
				t.Errorf("the answer has %d bytes", w.Body.Len())
			}
			if tc.code < 500 && tc.code != 405 && w.Header().Get("Content-Type") != "application/json" {
				t.Errorf("it is %s", w.Header().Get("Content-Type"))
			}
		})
	}
}

// nothing is a cluster that has no apps.
type nothing struct{}

func (nothing) App(context.Context, AppRef) (AppDetail, error) { return AppDetail{}, ErrNoApp }
func (nothing) Tree(context.Context, AppRef) (Tree, error)     { return Tree{}, ErrNoApp }
func (nothing) Events(context.Context, AppRef, string) ([]ObjectEvent, error) {
	return nil, ErrNoApp
}
func (nothing) Diff(context.Context, AppRef) (AppDiff, error) { return AppDiff{}, ErrNoApp }
func (nothing) Ask(context.Context, AppRef, string, AskApp) (AppAsked, error) {
	return AppAsked{}, ErrNoApp
}
func (nothing) Log(context.Context, LogQuery) (io.ReadCloser, error) { return nil, ErrNoApp }
func (nothing) LogEnded(context.Context, LogQuery) (bool, error)     { return false, ErrNoApp }

// TestAppsStarting: before everything has been looked at nothing is said to be empty.
func TestAppsStarting(t *testing.T) {
	index := NewIndex(NewFeed(time.Now()), "Kustomization", "GitRepository")
	h := newApps(index, nil)
	index.Complete("Kustomization")
	for _, path := range []string{"/api/v1/apps", "/api/v1/sources", "/api/v1/matrix"} {
		if w := ask(t, h, "ada", http.MethodGet, path, "", nil); w.Code != http.StatusServiceUnavailable || w.Header().Get("Retry-After") == "" {
			t.Errorf("%s: %d %s", path, w.Code, w.Body)
		}
	}
	index.Complete("GitRepository")
	for path, want := range map[string]string{
		"/api/v1/apps": `{"apps":[],"total":0,"counts":{}}`, "/api/v1/sources": `{"sources":[]}`, "/api/v1/matrix": `{"environments":[],"rows":[]}`,
	} {
		if w := ask(t, h, "ada", http.MethodGet, path, "", nil); w.Code != http.StatusOK || strings.TrimSpace(w.Body.String()) != want {
			t.Errorf("%s: %d %s", path, w.Code, w.Body)
		}
	}
}

func TestPlaces(t *testing.T) {
	label := func(kv ...string) map[string]string {
		m := map[string]string{}
		for i := 0; i < len(kv); i += 2 {
			m[kv[i]] = kv[i+1]
		}
		return m
	}
	cases := []struct {
		labels                          map[string]string
		name, target, namespace, source string
		environment, app                string
	}{
		{nil, "web", "", "flux-system", "GitRepository/flux-system/fleet", "flux-system", "web"},
		{nil, "web", "production", "flux-system", "", "production", "web"},
		{nil, "web-production", "production", "flux-system", "", "production", "web"},
		{nil, "production-web", "production", "flux-system", "", "production", "web"},
		{nil, "web.staging", "staging", "flux-system", "", "staging", "web"},
		{label("keelson.dev/environment", "dev", "environment", "x"), "dev", "y", "flux-system", "GitRepository/flux-system/shop", "dev", "shop"},
		{label("app.kubernetes.io/environment", "qa", "app.kubernetes.io/name", "api"), "q-17", "", "team", "", "qa", "api"},
		{label("environment", "qa"), "qa", "", "team", "", "qa", "qa"},
	}
	for _, c := range cases {
		env := delivery.EnvironmentOf(c.labels, c.target, c.namespace)
		if app := AppName(c.labels, c.name, env, c.source); env != c.environment || app != c.app {
			t.Errorf("%v: environment %q, app %q", c, env, app)
		}
	}
}

// Apps say by whom and for what their commit was, as soon as that is known.
func TestCommitsOfApps(t *testing.T) {
	app := func(name, sha string) App {
		return App{Status: Status{Kind: "Kustomization", Namespace: "a", Name: name, State: Ready}, SHA: sha}
	}
	index := indexed(app("early", "c1"), app("other", "c2"), app("chart", ""))
	told := index.feed.Seq()
	<-index.Wanted()
	unknown := index.Unknown(10)
	slices.Sort(unknown)
	if want := []string{"c1", "c2"}; !slices.Equal(unknown, want) || len(index.Unknown(1)) != 1 {
		t.Errorf("unknown are %v, want %v", unknown, want)
	}
	index.Know(map[string]CommitText{"c1": {Author: "Ann", Title: "Begin"}, "gone": {Author: "Eve"}})
	index.SetApp(app("late", "c1"))
	select {
	case <-index.Wanted():
		t.Error("a commit is wanted though each was asked for or is known")
	default:
	}
	if got := index.Unknown(10); !slices.Equal(got, []string{"c2"}) {
		t.Errorf("unknown are %v", got)
	}
	if n := index.feed.Seq() - told; n != 2 { // early and late
		t.Errorf("%d changes were told", n)
	}
	var list AppList
	ask(t, newApps(index, nil), "ada", http.MethodGet, "/api/v1/apps?q=begin", "", &list)
	var got []string
	for _, a := range list.Apps {
		got = append(got, a.Name+" "+a.Author+" "+a.Title)
	}
	if want := []string{"early Ann Begin", "late Ann Begin"}; !slices.Equal(got, want) {
		t.Errorf("the list is %q, want %q", got, want)
	}
	for n := range 5000 { // commits that no app is at are not remembered for ever
		index.Know(map[string]CommitText{fmt.Sprint("old", n): {Title: "x"}})
	}
	index.SetApp(app("last", "c1"))
	if a, _ := index.app("Kustomization/a/last"); len(index.commits) > 2000 || a.Title != "Begin" {
		t.Errorf("%d commits are remembered, and %+v", len(index.commits), a)
	}
	index.Forget() // Ann was
	ask(t, newApps(index, nil), "ada", http.MethodGet, "/api/v1/apps?q=ann", "", &list)
	if a, _ := index.app("Kustomization/a/last"); a.Author != "" || len(list.Apps) > 0 || len(index.commits) > 0 {
		t.Errorf("the index has %+v, and finds %+v", a, list.Apps)
	}
	<-index.Wanted()
}

func TestMatrix(t *testing.T) {
	app := func(name, app, env string, state State, wanted string) App {
		return App{Status: Status{Kind: "Kustomization", Namespace: "a", Name: name, State: state, Revision: "1"}, App: app, Environment: env, Wanted: wanted}
	}
	index := indexed(app("web-dev", "web", "dev", Ready, "2"), app("web-prod", "web", "prod", Failing, ""), app("web-prod-2", "web", "prod", Ready, ""), app("api", "api", "dev", Working, ""))
	var got Matrix
	ask(t, newApps(index, nil), "ada", http.MethodGet, "/api/v1/matrix", "", &got)
	want := Matrix{Environments: []string{"dev", "prod"}, Rows: []MatrixRow{
		{App: "api", Cells: map[string]MatrixCell{"dev": {ID: "Kustomization/a/api", Revision: "1", State: Working}}},
		{App: "web", Cells: map[string]MatrixCell{
			"dev":  {ID: "Kustomization/a/web-dev", Revision: "1", State: Ready, Wanted: "2"},
			"prod": {ID: "Kustomization/a/web-prod", Revision: "1", State: Failing, More: 1},
		}},
	}}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("matrix (-want +got):\n%s", diff)
	}
}

// TestAppEvents: a change of an app is told once, to those who may see it, and what was missed is told to who comes back.
func TestAppEvents(t *testing.T) {
	all := fleet(30)
	index := indexed(all...)
	h := newApps(index, nil)
	as := func(name string) *httptest.Server {
		hs := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			h.ServeHTTP(w, r.WithContext(WithPerson(r.Context(), Person{Name: name})))
		}))
		t.Cleanup(func() { hs.CloseClientConnections(); hs.Close() })
		return hs
	}
	follow := func(who, query, last string) *http.Response {
		t.Helper()
		req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, as(who).URL+"/api/v1/events"+query, nil)
		if err != nil {
			t.Fatal(err)
		}
		if last != "" {
			req.Header.Set("Last-Event-ID", last)
		}
		res, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { res.Body.Close() })
		return res
	}
	read := func(res *http.Response, want ...string) string {
		t.Helper()
		var have []string
		last, err := ReadEvents(res.Body, "", func(name string, data []byte) bool {
			var c AppChange
			if err := json.Unmarshal(data, &c); err != nil {
				t.Error(err)
			}
			have = append(have, strings.TrimSpace(name+" "+c.ID+" "+string(c.State)))
			return len(have) < len(want)
		})
		if err != nil || !slices.Equal(have, want) {
			t.Fatalf("have %q, %v\nwant %q", have, err, want)
		}
		return last
	}
	set := func(i int, state State) string {
		a := all[i]
		a.State = state
		index.SetApp(a)
		return AppID(a.Kind, a.Namespace, a.Name)
	}
	one, eleven, two := AppID(all[1].Kind, all[1].Namespace, all[1].Name), AppID(all[11].Kind, all[11].Namespace, all[11].Name), AppID(all[2].Kind, all[2].Namespace, all[2].Name)
	ada, bob := follow("ada", "", ""), follow("bob", "", "")
	only := follow("ada", "?app="+url.QueryEscape(two), "")
	for _, res := range []*http.Response{ada, bob, only} {
		_ = read(res, "ready")
	}
	set(2, Suspended)
	last := read(ada, "app "+two+" Suspended")
	read(only, "app "+two+" Suspended")
	set(2, Suspended) // nothing is other than it was
	for _, s := range []State{Working, Failing, Ready, Working} {
		set(1, s)
	}
	set(11, Failing)
	index.DropApp(two)
	again := read(follow("ada", "", last), "app "+one+" Working", "app "+eleven+" Failing", "app "+two)
	if again <= last {
		t.Errorf("ids go from %s to %s", last, again)
	}
	read(follow("bob", "", last), "app "+one+" Working", "app "+eleven+" Failing")
	read(follow("ada", "", "12"), "reset")
}

// TestEventsOfAll: where pipelines are played one stream has the changes of everything, and of apps only what may be seen.
func TestEventsOfAll(t *testing.T) {
	feed := NewFeed(time.Now())
	all := fleet(30)
	index := NewIndex(feed, "Kustomization")
	for _, a := range all {
		index.SetApp(a)
	}
	index.Complete("Kustomization")
	db := openDB(t)
	h := NewPipelines(PipelinesOptions{Store: db, Feed: feed, Sight: NewSight(restricted)})
	hs := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if who := r.Header.Get("Test-Person"); who != "" {
			r = r.WithContext(WithPerson(r.Context(), Person{Name: who}))
		}
		h.ServeHTTP(w, r)
	}))
	t.Cleanup(func() { hs.CloseClientConnections(); hs.Close(); db.Close() })
	for who, want := range map[string][]string{
		"bob": {"ready", "app", "pipeline", "job"},
		"ada": {"ready", "app", "app", "pipeline", "job"},
	} {
		t.Run(who, func(t *testing.T) {
			req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, hs.URL+"/api/v1/events", nil)
			if err != nil {
				t.Fatal(err)
			}
			req.Header.Set("Authorization", "Bearer "+testToken)
			req.Header.Set("Test-Person", who)
			res, err := http.DefaultClient.Do(req)
			if err != nil {
				t.Fatal(err)
			}
			defer res.Body.Close()
			var have []string
			_, err = ReadEvents(res.Body, "", func(name string, _ []byte) bool {
				if have = append(have, name); name == "ready" {
					for _, i := range []int{1, 2} { // of team-1 and team-2
						all[i].Message += "x"
						index.SetApp(all[i])
					}
					makePipeline(t, db, "group/app")
				}
				return len(have) < len(want)
			})
			if err != nil || !slices.Equal(have[:len(want)-2], want[:len(want)-2]) {
				t.Errorf("%v %q, want %q", err, have, want)
			}
		})
	}
}

// obeying is a cluster in which everybody may write everything.
type obeying struct {
	nothing
	asked []string
}

func (c *obeying) Ask(ctx context.Context, id AppRef, action string, _ AskApp) (AppAsked, error) {
	c.asked = append(c.asked, PersonOf(ctx).Name+" "+action+" "+id.String())
	return AppAsked{}, nil
}

// TestAppVerbs: who may write an app does with it only what a verb was granted for.
func TestAppVerbs(t *testing.T) {
	const app = " kustomize.toolkit.fluxcd.io/kustomizations team/shop"
	c := &obeying{}
	var kept []string
	h := NewApps(AppsOptions{
		Index: indexed(), Cluster: c, Log: slog.New(slog.DiscardHandler),
		Record: func(e audit.Entry) { kept = append(kept, e.Actor+" "+e.Action+" "+e.Outcome) },
		Authorize: func(ctx context.Context, who Person, verb string, on Target) error {
			if who.Name == "broken" {
				return errors.New("the secret cluster is away")
			}
			return rights{"writer patch" + app, "viewer get" + app, "dev sync" + app, "dev suspend" + app, "ops rollback" + app}.authorize(ctx, who, verb, on)
		},
	})
	may := map[string]string{
		"viewer": "preview", "dev": "sync suspend resume", "ops": "rollback", "writer": "",
	}
	for who, what := range may {
		for _, action := range []string{"sync", "suspend", "resume", "rollback", "preview"} {
			path, body := "/api/v1/apps/Kustomization/team/shop/"+action, "{}"
			if action == "preview" {
				path, body = "/api/v1/apps/Kustomization/team/shop/rollback", `{"preview":true}`
			}
			before := len(c.asked)
			w := ask(t, h, who, http.MethodPost, path, body, nil)
			allowed := slices.Contains(strings.Fields(what), action)
			if (w.Code < 300) != allowed || !allowed && w.Code != http.StatusForbidden || (len(c.asked) > before) != allowed {
				t.Errorf("%s %s: %d %s, and the cluster was asked for %v", who, action, w.Code, w.Body, c.asked[before:])
			}
		}
		if w := ask(t, h, who, http.MethodPost, "/api/v1/apps/Kustomization/other/shop/sync", "{}", nil); w.Code != http.StatusForbidden {
			t.Errorf("%s syncs what is elsewhere: %d", who, w.Code)
		}
	}
	if !slices.Contains(kept, "writer app.sync "+audit.Refused) || slices.Contains(kept, "writer app.sync "+audit.Asked) {
		t.Errorf("recorded: %q", kept)
	}
	if w := ask(t, h, "broken", http.MethodPost, "/api/v1/apps/Kustomization/team/shop/sync", "{}", nil); w.Code != http.StatusServiceUnavailable || strings.Contains(w.Body.String(), "secret") {
		t.Errorf("broken: %d %s", w.Code, w.Body)
	}
}
