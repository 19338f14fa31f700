package controller

import (
	"context"
	"errors"
	"log/slog"
	"testing"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"sigs.k8s.io/controller-runtime/pkg/cache"
	"sigs.k8s.io/controller-runtime/pkg/client"

	argocdv1 "keelson.dev/keelson/api/argocd/v1alpha1"
	"keelson.dev/keelson/internal/dialect"
)

// knownProjects is a cache that has AppProjects and nothing else.
type knownProjects struct {
	cache.Cache
	projects []argocdv1.AppProject
}

func (k *knownProjects) List(_ context.Context, into client.ObjectList, _ ...client.ListOption) error {
	if list, ok := into.(*argocdv1.AppProjectList); ok {
		list.Items = k.projects
	}
	return nil
}

func (k *knownProjects) Get(_ context.Context, key client.ObjectKey, _ client.Object, _ ...client.GetOption) error {
	return apierrors.NewNotFound(schema.GroupResource{Resource: "configmaps"}, key.Name)
}

// secretsReader is an API server that has Secrets, or fails.
type secretsReader struct {
	client.Reader
	secrets []corev1.Secret
	err     error
}

func (s *secretsReader) List(_ context.Context, into client.ObjectList, _ ...client.ListOption) error {
	if list, ok := into.(*corev1.SecretList); ok {
		list.Items = s.secrets
	}
	return s.err
}

// TestEstateIsCompleteOrUnknown: before everything of Argo CD's namespace was read once, nothing is concluded from what is not there,
// and no Application gets a step; what a project says counts at once, whatever becomes of the Secrets.
func TestEstateIsCompleteOrUnknown(t *testing.T) {
	project := func(repos ...string) argocdv1.AppProject {
		return argocdv1.AppProject{ObjectMeta: metav1.ObjectMeta{Name: "default"}, Spec: argocdv1.AppProjectSpec{SourceRepos: repos}}
	}
	known := &knownProjects{projects: []argocdv1.AppProject{project("https://one")}}
	reader := &secretsReader{err: errors.New("the API server is busy")}
	told := 0
	e := &estate{namespace: "argocd", cache: known, reader: reader, log: slog.New(slog.DiscardHandler)}
	e.now.Store(&holdings{})
	e.stale.Store(true)
	e.onChange(func() { told++ })

	if err := e.take(t.Context()); err == nil {
		t.Fatal("no error though the Secrets cannot be read")
	}
	held := e.holds()
	if held.complete || held.project("default") == nil {
		t.Errorf("complete: %v, project: %v; want the project, and not complete", held.complete, held.project("default"))
	}
	apps := &applications{estate: e}
	app := &argocdv1.Application{ObjectMeta: metav1.ObjectMeta{Namespace: "argocd", Name: "web"}}
	if got := apps.step(t.Context(), app, pen{}); got.after != estateRetry {
		t.Errorf("a step before anything is known: %+v", got)
	}
	if got, err := apps.remove(t.Context(), app); got.done || got.after != estateRetry || err != nil {
		t.Errorf("a deletion before anything is known: %+v, %v", got, err)
	}

	labelled := map[string]string{secretTypeLabel: dialect.ArgoRepositorySecret}
	reader.err, reader.secrets = nil, []corev1.Secret{{ObjectMeta: metav1.ObjectMeta{Name: "repo", Labels: labelled}}}
	if err := e.take(t.Context()); err != nil || !e.holds().complete || len(e.holds().argo.Repositories) != 1 {
		t.Errorf("%v, %+v; want it complete", err, e.holds())
	}

	known.projects, reader.err = []argocdv1.AppProject{project("https://two")}, errors.New("busy again")
	e.stale.Store(true)
	before := told
	if err := e.take(t.Context()); err == nil {
		t.Fatal("no error though the Secrets cannot be read")
	}
	held = e.holds()
	if !held.complete || len(held.argo.Repositories) != 1 || held.project("default").Spec.SourceRepos[0] != "https://two" || told == before {
		t.Errorf("%+v, told %d times more; want the new project and the Secrets that were read before", held, told-before)
	}
}
