package main

import (
	"context"
	"embed"
	"fmt"
	"io/fs"
	"time"

	kustomizev1 "github.com/fluxcd/kustomize-controller/api/v1"
	sourcev1 "github.com/fluxcd/source-controller/api/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"keelson.dev/keelson/internal/git"
	"keelson.dev/keelson/internal/githost"
)

//go:embed sample
var sampleFiles embed.FS

// The sample: a repository on the built-in host, and the one Kustomization that declares all the others.
const (
	sampleRepository = "sample"
	sampleNamespace  = "flux-system"
	sampleRoot       = "cluster"
	samplePath       = "./clusters/local"
)

// seedRepository makes the sample repository with its first commit. What exists is left alone, except for an empty
// repository, which a killed first start may leave.
func seedRepository(ctx context.Context, host *githost.Host) error {
	if !host.Exists(sampleRepository) {
		if err := host.Create(ctx, sampleRepository); err != nil {
			return fmt.Errorf("create the sample repository: %w", err)
		}
	}
	repo, err := git.Open(host.Dir(sampleRepository), git.Options{})
	if err != nil {
		return fmt.Errorf("open the sample repository: %w", err)
	}
	defer repo.Close()
	refs, err := repo.Refs()
	if err != nil {
		return fmt.Errorf("read the sample repository: %w", err)
	}
	if _, ok := refs["refs/heads/"+githost.DefaultBranch]; ok {
		return nil
	}
	files, err := fs.Sub(sampleFiles, "sample")
	if err != nil {
		return fmt.Errorf("read the sample: %w", err)
	}
	_, err = repo.Commit(ctx, git.Change{
		Branch:  githost.DefaultBranch,
		Files:   files,
		Message: "Add the sample\n\nThree apps, three environments, one cluster.\n",
		Author:  git.Signature{Name: "Keelson", Email: "keelson@localhost"},
	})
	if err != nil {
		return fmt.Errorf("commit the sample: %w", err)
	}
	return nil
}

// sampleObjects are what the cluster has to hold so that the rest follows from Git.
func sampleObjects(url string) []client.Object {
	return []client.Object{
		&corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: sampleNamespace}},
		&sourcev1.GitRepository{
			ObjectMeta: metav1.ObjectMeta{Namespace: sampleNamespace, Name: sampleRepository},
			Spec: sourcev1.GitRepositorySpec{
				URL:       url,
				Interval:  metav1.Duration{Duration: 10 * time.Minute},
				Reference: &sourcev1.GitRepositoryRef{Branch: githost.DefaultBranch},
			},
		},
		&kustomizev1.Kustomization{
			ObjectMeta: metav1.ObjectMeta{Namespace: sampleNamespace, Name: sampleRoot},
			Spec: kustomizev1.KustomizationSpec{
				Interval:  metav1.Duration{Duration: 10 * time.Minute},
				Path:      samplePath,
				Prune:     true,
				Wait:      true,
				SourceRef: kustomizev1.CrossNamespaceSourceReference{Kind: sourcev1.GitRepositoryKind, Name: sampleRepository},
			},
		},
	}
}

// declareSample creates the sample's objects in a cluster; those that are there stay as they are.
func declareSample(ctx context.Context, c client.Client, url string) error {
	for _, obj := range sampleObjects(url) {
		if err := c.Create(ctx, obj); err != nil && !apierrors.IsAlreadyExists(err) {
			return fmt.Errorf("declare the sample: %w", err)
		}
	}
	return nil
}

// moveSources points the sources that follow the built-in host to its new address after the port has changed.
func moveSources(ctx context.Context, c client.Client, from, to string) error {
	var list sourcev1.GitRepositoryList
	if err := c.List(ctx, &list); err != nil {
		return fmt.Errorf("list sources: %w", err)
	}
	for i := range list.Items {
		src := &list.Items[i]
		rest, ok := cutBase(src.Spec.URL, from)
		if !ok {
			continue
		}
		before := src.DeepCopy()
		src.Spec.URL = to + rest
		if err := c.Patch(ctx, src, client.MergeFrom(before)); err != nil {
			return fmt.Errorf("move source %s/%s: %w", src.Namespace, src.Name, err)
		}
	}
	return nil
}

// cutBase takes a base URL off another that is below it.
func cutBase(url, base string) (rest string, ok bool) {
	if len(url) <= len(base) || url[:len(base)] != base || url[len(base)] != '/' {
		return "", false
	}
	return url[len(base):], true
}
