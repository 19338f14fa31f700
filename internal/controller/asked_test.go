package controller

import (
	"testing"

	helmv2 "github.com/fluxcd/helm-controller/api/v2"
	kustomizev1 "github.com/fluxcd/kustomize-controller/api/v1"
	sourcev1 "github.com/fluxcd/source-controller/api/v1"
	"github.com/google/go-cmp/cmp"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	argocdv1 "keelson.dev/keelson/api/argocd/v1alpha1"
)

func TestAskedFor(t *testing.T) {
	noted := func(pairs ...string) metav1.ObjectMeta {
		m := metav1.ObjectMeta{Annotations: map[string]string{}}
		for i := 0; i < len(pairs); i += 2 {
			m.Annotations[pairs[i]] = pairs[i+1]
		}
		return m
	}
	kustomization := func(suspend bool, pairs ...string) client.Object {
		return &kustomizev1.Kustomization{ObjectMeta: noted(pairs...), Spec: kustomizev1.KustomizationSpec{Suspend: suspend}}
	}
	operation := func(o *argocdv1.Operation, pairs ...string) client.Object {
		return &argocdv1.Application{ObjectMeta: noted(pairs...), Operation: o}
	}
	sync := func(by string, automated bool, revision string) *argocdv1.Operation {
		return &argocdv1.Operation{Sync: &argocdv1.SyncOperation{Revision: revision}, InitiatedBy: argocdv1.OperationInitiator{Username: by, Automated: automated}}
	}
	const requested, by, confirm, skip = "reconcile.fluxcd.io/requestedAt", "keelson.dev/requested-by", "keelson.dev/confirm", "argocd.argoproj.io/skip-reconcile"
	for _, c := range []struct {
		name    string
		was, is client.Object
		want    []Asked
	}{
		{"nothing", kustomization(true, "a", "b"), kustomization(true, "a", "c"), nil},
		{"suspended", kustomization(false), kustomization(true), []Asked{{Action: "app.suspend"}}},
		{"resumed", kustomization(true), kustomization(false), []Asked{{Action: "app.resume"}}},
		{"requested", kustomization(false, requested, "1"), kustomization(false, requested, "2"), []Asked{{Action: "app.sync", Detail: "reconcile"}}},
		{"requested by", kustomization(false, requested, "1"), kustomization(false, requested, "2", by, "2 ann"), []Asked{{Action: "app.sync", By: "ann", Detail: "reconcile"}}},
		{"requested by somebody else since", kustomization(false, requested, "1"), kustomization(false, requested, "2", by, "1 ann"), []Asked{{Action: "app.sync", Detail: "reconcile"}}},
		{"a request is taken away", kustomization(false, requested, "1"), kustomization(false), nil},
		{"resumed and requested", kustomization(true), kustomization(false, requested, "2"), []Asked{{Action: "app.resume"}, {Action: "app.sync", Detail: "reconcile"}}},
		{"confirmed", kustomization(false), kustomization(false, confirm, "c0ffee"), []Asked{{Action: "app.confirm", Detail: "revision c0ffee"}}},
		{"a release", &helmv2.HelmRelease{}, &helmv2.HelmRelease{Spec: helmv2.HelmReleaseSpec{Suspend: true}}, []Asked{{Action: "app.suspend"}}},
		{"a source", &sourcev1.GitRepository{}, &sourcev1.GitRepository{Spec: sourcev1.GitRepositorySpec{Suspend: true}}, []Asked{{Action: "app.suspend"}}},
		{"an application", operation(nil), operation(nil, skip, "true"), []Asked{{Action: "app.suspend"}}},
		{"an operation", operation(nil), operation(sync("ann", false, "v1")), []Asked{{Action: "app.sync", By: "ann", Detail: "revision v1"}}},
		{"an operation of its own", operation(nil), operation(sync("", true, "v1")), nil},
		{"an operation that goes on", operation(sync("ann", false, "")), operation(sync("ann", false, "v1")), nil},
		{"its end", operation(sync("ann", false, "")), operation(nil), nil},
	} {
		if d := cmp.Diff(c.want, askedFor(c.was, c.is)); d != "" {
			t.Errorf("%s (-want +got):\n%s", c.name, d)
		}
	}
}
