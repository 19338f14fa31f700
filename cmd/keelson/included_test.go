package main

import (
	"context"
	"fmt"
	"path/filepath"
	"testing"
	"testing/fstest"

	sourcev1 "github.com/fluxcd/source-controller/api/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"keelson.dev/keelson/internal/dialect"
	"keelson.dev/keelson/internal/git"
	"keelson.dev/keelson/internal/source"
)

// chain is a cluster of sources, of which each includes the next one several times.
type chain struct {
	client.Client
	asked int
}

func chained(level int) *sourcev1.GitRepository {
	g := &sourcev1.GitRepository{}
	g.Namespace, g.Name = "n", fmt.Sprint(level)
	g.Spec.URL = "http://host.example/r.git"
	g.Spec.Reference = &sourcev1.GitRepositoryRef{Branch: "main"}
	for i := range 3 {
		if level < 6 {
			inc := sourcev1.GitRepositoryInclude{ToPath: fmt.Sprintf("i%d", i)}
			inc.GitRepositoryRef.Name = fmt.Sprint(level + 1)
			g.Spec.Include = append(g.Spec.Include, inc)
		}
	}
	return g
}

func (c *chain) Get(_ context.Context, key client.ObjectKey, obj client.Object, _ ...client.GetOption) error {
	c.asked++
	var level int
	if _, err := fmt.Sscan(key.Name, &level); err != nil {
		return err
	}
	chained(level).DeepCopyInto(obj.(*sourcev1.GitRepository))
	return nil
}

// TestIncludedOnce: a source that is included in many ways is fetched once.
func TestIncludedOnce(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "r.git")
	repo, err := git.Init(t.Context(), dir, "main", git.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer repo.Close()
	if _, err := repo.Commit(t.Context(), git.Change{Branch: "main", Files: fstest.MapFS{"a": {Data: []byte("a")}}, Message: "m", Author: git.Signature{Name: "a", Email: "a@example.com"}}); err != nil {
		t.Fatal(err)
	}
	fetcher, err := source.New(source.Options{Dir: t.TempDir(), Local: func(string) (string, bool) { return dir, true }})
	if err != nil {
		t.Fatal(err)
	}
	defer fetcher.Close()
	c := &chain{}
	if _, err := (&including{client: c, fetcher: fetcher}).fetch(t.Context(), dialect.GitRepository(chained(0)), 0); err != nil {
		t.Fatal(err)
	}
	if c.asked > 18 {
		t.Errorf("%d sources were read, of 6 that are included 3 times each", c.asked)
	}
}

// TestHostedDir: a URL from the cluster leads to nothing outside the built-in host's folder.
func TestHostedDir(t *testing.T) {
	for name, want := range map[string]string{
		"/shop.git": "/git/shop.git", "/team/shop.git": "/git/team/shop.git", "/../../etc/x.git": "", "/a/../../b.git": "", "/": "",
	} {
		if got, _ := hostedDir("/git", name); got != want {
			t.Errorf("%s: %q, want %q", name, got, want)
		}
	}
}
