package ci

import "testing"

// TestFullRef holds that whoever names a ref gets a branch or a tag that is there, and nothing else of the repository.
func TestFullRef(t *testing.T) {
	w := newWorld(t, "app")
	app := w.projects.all[0]
	dir := w.clone("app")
	w.commit(dir, "First", map[string]string{"a": "1"})
	w.git(dir, "push", "-q", "origin", "HEAD:main", "HEAD:feature/a", "HEAD:refs/tags/v1", "HEAD:refs/tags/main")
	for _, ref := range []string{"refs/keelson/kept", "refs/notes/a", "refs/merge-requests/1/head"} {
		w.git(app.Dir, "update-ref", ref, w.git(dir, "rev-parse", "HEAD"))
	}
	for name, want := range map[string]string{
		"":                           "refs/heads/main",
		"main":                       "refs/heads/main", // a branch goes before a tag
		"feature/a":                  "refs/heads/feature/a",
		"v1":                         "refs/tags/v1",
		"refs/heads/feature/a":       "refs/heads/feature/a",
		"refs/tags/main":             "refs/tags/main",
		"refs/heads/nosuch":          "",
		"refs/tags/nosuch":           "",
		"refs/heads/v1":              "",
		"refs/heads/":                "",
		"refs/heads/../keelson/kept": "",
		"refs/keelson/kept":          "",
		"refs/notes/a":               "",
		"refs/merge-requests/1/head": "",
		"../keelson/kept":            "",
		"HEAD":                       "",
		"main~0":                     "",
		"main^{tree}":                "",
		"a\x00b":                     "",
		"nosuch":                     "",
	} {
		if got, err := FullRef(app, name); got != want || (err != nil) != (want == "") {
			t.Errorf("%q is %q, %v; want %q", name, got, err, want)
		}
	}
}
