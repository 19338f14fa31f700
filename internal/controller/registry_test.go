package controller

import (
	"slices"
	"strings"
	"testing"
	"testing/fstest"

	"github.com/google/go-cmp/cmp"

	"keelson.dev/keelson/internal/delivery"
	"keelson.dev/keelson/internal/render"
)

// TestAdvance takes a new commit in for apps of every kind. Their inputs are known by the digest of the whole snapshot
// here: "same" apps were made of the new content, "changed" ones of another.
func TestAdvance(t *testing.T) {
	id := func(name string) delivery.ID { return delivery.ID{Kind: "Kustomization", Namespace: "n", Name: name} }
	source, other := delivery.ID{Kind: "GitRepository", Name: "repo"}, delivery.ID{Kind: "GitRepository", Name: "other"}
	before, after := delivery.Revision{Name: "main", Commit: "1"}, delivery.Revision{Name: "main", Commit: "2"}
	snap := delivery.Snapshot{Revision: after, Digest: "new"}
	type app struct {
		name    string
		needs   string // names, comma-separated
		changed bool
		unready bool
		busy    bool
		elsewhere,
		suspended bool
		expr bool // it says in CEL when those that it needs are ready
	}
	tests := map[string]struct {
		reason string
		apps   []app
		want   string // the untouched ones
	}{
		"none changes":                   {"they stand at the commit at once", []app{{name: "a"}, {name: "b"}}, "a b"},
		"one changes":                    {"only that one looks at it", []app{{name: "a", changed: true}, {name: "b"}}, "b"},
		"not ready":                      {"it may be about to get ready", []app{{name: "a", unready: true}}, ""},
		"suspended":                      {"it stays where it is", []app{{name: "a", suspended: true}}, ""},
		"needs one that changes":         {"it is ready at the commit only after that one", []app{{name: "a", changed: true}, {name: "b", needs: "a"}, {name: "c", needs: "b"}}, ""},
		"needs one that does not":        {"both stand at the commit", []app{{name: "a"}, {name: "b", needs: "a"}}, "a b"},
		"needs one of another source":    {"whose commits are not ours", []app{{name: "a", elsewhere: true, changed: true}, {name: "b", needs: "a"}}, "b"},
		"needs an unready one elsewhere": {"it has to wait", []app{{name: "a", elsewhere: true, unready: true}, {name: "b", needs: "a"}}, ""},
		"needs an unknown one":           {"it has to wait", []app{{name: "b", needs: "nobody"}}, ""},
		"under delivery":                 {"something else may be in the cluster", []app{{name: "a", busy: true}, {name: "b", needs: "a"}, {name: "c"}}, "c"},
		"asks one in CEL":                {"the expression may see the commit", []app{{name: "a"}, {name: "b", needs: "a", expr: true}, {name: "c", needs: "b"}}, "a"},
		"need each other":                {"a cycle is said, not passed over", []app{{name: "a", needs: "b"}, {name: "b", needs: "a"}, {name: "c"}}, "c"},
		"a changed one in the middle":    {"what comes before it stands", []app{{name: "a"}, {name: "b", needs: "a", changed: true}, {name: "c", needs: "a,b"}, {name: "d", needs: "a"}}, "a d"},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			r := newRegistry()
			for _, a := range tt.apps {
				decl := delivery.App{ID: id(a.name), Source: source, Suspend: a.suspended}
				if a.elsewhere {
					decl.Source = other
				}
				for dep := range strings.SplitSeq(a.needs, ",") {
					if dep != "" {
						decl.DependsOn = append(decl.DependsOn, id(dep))
						if a.expr {
							decl.ReadyExprs = map[delivery.ID]string{id(dep): "true"}
						}
					}
				}
				digest := "new"
				if a.changed {
					digest = "old"
				}
				_, inputs, err := render.Track(t.Context(), delivery.Snapshot{FS: fstest.MapFS{}, Digest: digest}, delivery.Build{Path: "."}, nil)
				if err != nil {
					t.Fatal(err)
				}
				r.app(decl)
				r.settle(decl.ID, stand{ready: !a.unready, applied: before, inputs: inputs})
				if a.busy {
					r.begin(decl.ID)
				}
			}
			untouched, touched := r.advance(source, snap)
			var names []string
			for _, u := range untouched {
				names = append(names, u.Name)
				if got := r.apps[u].stand.applied; got != after {
					t.Errorf("%s stands at %s", u.Name, got)
				}
			}
			slices.Sort(names)
			if diff := cmp.Diff(tt.want, strings.Join(names, " ")); diff != "" {
				t.Errorf("untouched (-want +got; %s):\n%s", tt.reason, diff)
			}
			for _, u := range touched {
				if got := r.apps[u].stand.applied; got != before {
					t.Errorf("%s was touched and stands at %s", u.Name, got)
				}
			}
			if got, want := len(untouched)+len(touched), len(r.bySource[source]); got != want {
				t.Errorf("%d apps were dealt with, of %d", got, want)
			}
		})
	}
}

// TestUnready asks how a dependency stands as it is delivered, step by step.
func TestUnready(t *testing.T) {
	id := func(name string) delivery.ID { return delivery.ID{Kind: "Kustomization", Namespace: "n", Name: name} }
	source := delivery.ID{Kind: "GitRepository", Name: "repo"}
	first, second := delivery.Revision{Name: "main", Commit: "1"}, delivery.Revision{Name: "main", Commit: "2"}
	base := delivery.App{ID: id("base"), Source: source}
	top := delivery.App{ID: id("top"), Source: source, DependsOn: []delivery.ID{base.ID}}
	r := newRegistry()
	r.app(top)
	steps := []struct {
		what string
		do   func()
		at   delivery.Revision
		want standing
	}{
		{"nobody knows of it", func() {}, first, standsUnknown},
		{"it is declared", func() { r.app(base) }, first, standsUnknown},
		{"it is begun", func() { r.begin(base.ID) }, first, standsUnknown},
		{"it is ready", func() { r.settle(base.ID, stand{ready: true, applied: first}) }, first, standsReady},
		{"a new commit is there", func() {}, second, standsUnknown},
		{"it is ready at that", func() { r.settle(base.ID, stand{ready: true, applied: second}) }, second, standsReady},
		{"it is begun anew, at the same commit", func() { r.begin(base.ID) }, second, standsBusy},
		{"it takes longer", func() { r.settle(base.ID, stand{busy: true}) }, second, standsBusy},
		{"it failed", func() { r.settle(base.ID, stand{}) }, second, standsUnready},
	}
	for _, s := range steps {
		s.do()
		if _, _, got := r.unready(top, stand{applied: s.at}); got != s.want {
			t.Errorf("%s: %d, want %d", s.what, got, s.want)
		}
	}
	asking := top
	asking.ReadyExprs = map[delivery.ID]string{base.ID: "true"}
	r.app(asking)
	if _, _, got := r.unready(asking, stand{applied: second}); got != standsReady {
		t.Errorf("it failed, and an expression decides: %d, want %d", got, standsReady)
	}
	if got := r.askers(base.ID); len(got) != 1 || got[0] != top.ID || !r.asks(top.ID) || r.asks(base.ID) {
		t.Errorf("%v ask in CEL", got)
	}
	r.additive = true
	if _, _, got := r.unready(asking, stand{applied: second}); got != standsUnready {
		t.Errorf("it failed, and an expression decides too: %d, want %d", got, standsUnready)
	}
	r.dropApp(base.ID)
	r.dropApp(top.ID)
	if len(r.byDep)+len(r.bySource) > 0 {
		t.Errorf("indexes keep %v and %v of apps that are gone", r.byDep, r.bySource)
	}
}

// TestUnreadySources: what counts is at which revisions a dependency is of the sources that both are made from.
func TestUnreadySources(t *testing.T) {
	fleet, charts, values := delivery.ID{Name: "fleet"}, delivery.ID{Name: "charts"}, delivery.ID{Name: "values"}
	at := func(commit string) delivery.Revision { return delivery.Revision{Commit: commit} }
	for name, tt := range map[string]struct {
		base, top mounted // each with one: a single source
		want      standing
	}{
		"several, none shared":                   {mounted{fleet: at("1"), charts: at("1")}, mounted{values: at("2")}, standsReady},
		"several, one shared":                    {mounted{fleet: at("1"), charts: at("1")}, mounted{fleet: at("1"), values: at("2")}, standsReady},
		"several, the shared one is further":     {mounted{fleet: at("1"), charts: at("1")}, mounted{fleet: at("2"), values: at("2")}, standsUnknown},
		"several, the other one is further":      {mounted{fleet: at("1"), charts: at("2")}, mounted{fleet: at("1"), values: at("1")}, standsReady},
		"several and one that they share":        {mounted{fleet: at("1"), charts: at("2")}, mounted{charts: at("2")}, standsReady},
		"several and one that is further":        {mounted{fleet: at("1"), charts: at("2")}, mounted{charts: at("3")}, standsUnknown},
		"one and several":                        {mounted{charts: at("2")}, mounted{fleet: at("1"), charts: at("2")}, standsReady},
		"one and several, of which it is behind": {mounted{charts: at("1")}, mounted{fleet: at("1"), charts: at("2")}, standsUnknown},
		"one each, of their own":                 {mounted{charts: at("1")}, mounted{fleet: at("2")}, standsReady},
	} {
		t.Run(name, func(t *testing.T) {
			declare := func(name string, of mounted) (delivery.App, stand) {
				app, s := delivery.App{ID: delivery.ID{Kind: "Application", Name: name}}, stand{ready: true, applied: at("of " + name)}
				for source, rev := range of {
					if len(of) == 1 {
						app.Source, s.applied = source, rev
						return app, s
					}
					app.Mounts = append(app.Mounts, delivery.Mount{At: source.Name, Source: source})
				}
				s.mounted = of
				return app, s
			}
			base, stands := declare("base", tt.base)
			top, to := declare("top", tt.top)
			top.DependsOn = []delivery.ID{base.ID}
			r := newRegistry()
			r.app(base)
			r.app(top)
			r.settle(base.ID, stands)
			if _, why, got := r.unready(top, to); got != tt.want {
				t.Errorf("it stands %d (%s), want %d", got, why, tt.want)
			}
		})
	}
}
