package main

import (
	"io/fs"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"

	"keelson.dev/keelson/internal/delivery"
	"keelson.dev/keelson/internal/git"
	"keelson.dev/keelson/internal/githost"
	"keelson.dev/keelson/internal/render"
)

// Every folder that the sample's Kustomizations name renders, each to what its environment is meant to have.
func TestSampleRenders(t *testing.T) {
	environment := func(ns string) []string {
		return []string{"ConfigMap/" + ns + "/backend", "Deployment/" + ns + "/backend", "Service/" + ns + "/backend",
			"Service/" + ns + "/database", "StatefulSet/" + ns + "/database",
			"Deployment/" + ns + "/frontend", "Ingress/" + ns + "/frontend", "Service/" + ns + "/frontend"}
	}
	cases := map[string][]string{
		"overlays/dev": environment("dev"), "overlays/staging": environment("staging"), "overlays/production": environment("production"),
		"infrastructure": {"Namespace/dev", "Namespace/production", "Namespace/staging",
			"NetworkPolicy/dev/database", "NetworkPolicy/production/database", "NetworkPolicy/staging/database"},
		"clusters/local": {"Kustomization.kustomize.toolkit.fluxcd.io/flux-system/dev", "Kustomization.kustomize.toolkit.fluxcd.io/flux-system/infrastructure",
			"Kustomization.kustomize.toolkit.fluxcd.io/flux-system/production", "Kustomization.kustomize.toolkit.fluxcd.io/flux-system/staging"},
	}
	files, err := fs.Sub(sampleFiles, "sample")
	if err != nil {
		t.Fatal(err)
	}
	for path, want := range cases {
		t.Run(path, func(t *testing.T) {
			objects, err := render.Build(t.Context(), delivery.Snapshot{FS: files}, delivery.Build{Path: path}, nil)
			if err != nil {
				t.Fatal(err)
			}
			var refs []delivery.Ref
			for _, o := range objects {
				refs = append(refs, o.Ref())
			}
			slices.SortFunc(refs, delivery.Ref.Compare)
			var got []string
			for _, r := range refs {
				got = append(got, r.String())
			}
			slices.Sort(got)
			slices.Sort(want)
			if diff := cmp.Diff(want, got); diff != "" {
				t.Errorf("objects (-want +got):\n%s", diff)
			}
		})
	}
}

// Seeding again, also after a start that was killed between making the repository and its commit, changes nothing.
func TestSeedRepository(t *testing.T) {
	host, err := githost.New(githost.Options{Root: t.TempDir(), Token: "t"})
	if err != nil {
		t.Fatal(err)
	}
	if err := host.Create(t.Context(), sampleRepository); err != nil {
		t.Fatal(err)
	}
	head := func() string {
		if err := seedRepository(t.Context(), host); err != nil {
			t.Fatal(err)
		}
		repo, err := git.Open(host.Dir(sampleRepository), git.Options{})
		if err != nil {
			t.Fatal(err)
		}
		defer repo.Close()
		id, err := repo.Resolve("refs/heads/main")
		if err != nil {
			t.Fatal(err)
		}
		return id
	}
	if first, second := head(), head(); first != second {
		t.Errorf("the second seeding moved main from %s to %s", first, second)
	}
}
