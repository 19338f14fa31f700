package main

import (
	"log/slog"
	"strings"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	keelsonv1 "keelson.dev/keelson/api/v1alpha1"
	"keelson.dev/keelson/internal/githost"
)

// mirrorProject is a Project of the namespace team; without a URL it is no mirror.
func mirrorProject(name, repository, url string) keelsonv1.Project {
	p := keelsonv1.Project{ObjectMeta: metav1.ObjectMeta{Namespace: "team", Name: name}, Spec: keelsonv1.ProjectSpec{Path: name, Repository: repository}}
	if url != "" {
		p.Spec.Source = &keelsonv1.ProjectSource{URL: url}
	}
	return p
}

// TestClaimMirror holds that a mirror stays its Project's over restarts, until that one wants it no more.
func TestClaimMirror(t *testing.T) {
	project := mirrorProject
	root := t.TempDir()
	var host *githost.Host
	old := []keelsonv1.Project{project("older", "old", "https://a/old"), project("newer", "old", "https://b/old")}
	for _, c := range []struct {
		name    string
		who     keelsonv1.Project
		others  []keelsonv1.Project
		refused string // empty: it is the keeper from now on
	}{
		{"the first one", project("a", "shop", "https://a/shop"), nil, ""},
		{"another one, which is asked about first after a restart", project("b", "shop", "https://b/shop"), []keelsonv1.Project{project("a", "shop", "https://a/shop")},
			"repository shop is the mirror of https://a/shop that the Project team/a keeps"},
		{"the same URL", project("b", "shop", "https://a/shop"), []keelsonv1.Project{project("a", "shop", "https://a/shop")}, "team/a keeps"},
		{"the keeper with another URL", project("a", "shop", "https://c/shop"), []keelsonv1.Project{project("b", "shop", "https://b/shop")}, ""},
		{"the keeper names another repository", project("b", "shop", "https://b/shop"), []keelsonv1.Project{project("a", "other", "https://a/shop")}, ""},
		{"the keeper has no source any more", project("a", "shop", "https://a/shop"), []keelsonv1.Project{project("b", "shop", "")}, ""},
		{"the keeper is gone", project("c", "shop", "https://d/shop"), nil, ""},
		{"nobody was noted, and this is not the oldest", old[1], nil, "team/older keeps"},
		{"nobody was noted", old[0], nil, ""},
	} {
		var err error
		if host, err = githost.New(githost.Options{Root: root, Token: "token"}); err != nil {
			t.Fatal(err)
		}
		if name := c.who.Spec.Repository; name == "old" && !host.Exists(name) { // as it was kept before keepers were noted
			if err := host.Create(t.Context(), name); err != nil {
				t.Fatal(err)
			}
			if err := host.SetMirror(name, "https://a/old", ""); err != nil {
				t.Fatal(err)
			}
		}
		k := newProjectKeeper(&pipelineServer{cluster: newLazyProjects(host)})
		before := host.MirrorOf(c.who.Spec.Repository)
		all := append(c.others[:len(c.others):len(c.others)], c.who)
		if c.who.Spec.Repository == "old" {
			all = old // the oldest first, as the server has them
		}
		err = k.claimMirror(t.Context(), &c.who, all)
		if c.refused != "" {
			if err == nil || !strings.Contains(err.Error(), c.refused) || host.MirrorOf(c.who.Spec.Repository) != before {
				t.Errorf("%s: %v, want %q", c.name, err, c.refused)
			}
			continue
		}
		if name := c.who.Spec.Repository; err != nil || host.MirrorOf(name) != c.who.Spec.Source.URL || host.MirrorKeeper(name) != "team/"+c.who.Name {
			t.Errorf("%s: %v; %s is the mirror of %s, kept by %s", c.name, err, name, host.MirrorOf(name), host.MirrorKeeper(name))
		}
	}
}

// TestReleaseMirror holds when a mirror becomes a repository that anybody may push to: once no Project wants it, also one that was deleted while
// nobody looked.
func TestReleaseMirror(t *testing.T) {
	for _, c := range []struct {
		name string
		all  []keelsonv1.Project
		want bool
	}{
		{"it is kept", []keelsonv1.Project{mirrorProject("a", "shop", "https://a/shop")}, false},
		{"another one wants it", []keelsonv1.Project{mirrorProject("b", "shop", "https://b/shop")}, false},
		{"it is gone", nil, true},
		{"it names another repository", []keelsonv1.Project{mirrorProject("a", "other", "https://a/shop")}, true},
		{"it comes from nowhere else any more", []keelsonv1.Project{mirrorProject("a", "shop", "")}, true},
	} {
		host, err := githost.New(githost.Options{Root: t.TempDir(), Token: "token"})
		if err != nil {
			t.Fatal(err)
		}
		a := mirrorProject("a", "shop", "https://a/shop")
		k := newProjectKeeper(&pipelineServer{cluster: newLazyProjects(host), log: slog.New(slog.DiscardHandler)})
		if err := k.claimMirror(t.Context(), &a, []keelsonv1.Project{a}); err != nil {
			t.Fatal(err)
		}
		if got := k.releaseOf("shop", c.all); got != c.want || (host.MirrorOf("shop") == "") != c.want {
			t.Errorf("%s: %v, mirror of %q", c.name, got, host.MirrorOf("shop"))
		}
	}
}
