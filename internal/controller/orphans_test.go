package controller_test

import (
	"fmt"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	argocdv1 "keelson.dev/keelson/api/argocd/v1alpha1"
	"keelson.dev/keelson/internal/delivery"
	"keelson.dev/keelson/internal/dialect"
)

// TestOrphanedResources: a project may want to be warned of what no app owns; what others or controllers own does not count.
func TestOrphanedResources(t *testing.T) {
	t.Parallel()
	w := newArgoWorld(t)
	w.must(w.client.Create(w.ctx, &argocdv1.AppProject{ObjectMeta: metav1.ObjectMeta{Namespace: "argocd", Name: w.ns}, Spec: argocdv1.AppProjectSpec{
		SourceRepos: []string{"*"}, Destinations: []argocdv1.ApplicationDestination{{Server: "*", Namespace: "*"}},
		OrphanedResources: &argocdv1.OrphanedResourcesMonitorSettings{Warn: new(true), Ignore: []argocdv1.OrphanedResourceKey{{Kind: "ConfigMap", Name: "known-*"}}},
	}}))
	owner := &corev1.ConfigMap{ObjectMeta: w.named("stray")}
	w.must(w.client.Create(w.ctx, owner))
	for _, made := range []*corev1.ConfigMap{{ObjectMeta: w.named("known-one")}, {ObjectMeta: w.named("child")}, {ObjectMeta: w.named("released")}} {
		switch made.Name {
		case "released":
			made.Labels = dialect.HelmLabels(delivery.ID{Kind: "HelmRelease", Namespace: w.ns, Name: "web"})
		case "child":
			made.OwnerReferences = []metav1.OwnerReference{{APIVersion: "v1", Kind: "ConfigMap", Name: owner.Name, UID: owner.UID}}
		}
		w.must(w.client.Create(w.ctx, made))
	}
	w.push(map[string]string{"web/a.yaml": w.configMap("a", "1")})
	w.app("web", automated)
	w.must(w.client.Patch(w.ctx, w.application("web"), client.RawPatch(types.MergePatchType, []byte(`{"spec":{"project":"`+w.ns+`"}}`))))
	w.until("web", func(a *argocdv1.Application) error {
		for _, c := range a.Status.Conditions {
			if c.Type == argocdv1.ConditionOrphanedResourceWarning {
				if want := "Application has 2 orphaned resources: ConfigMap/" + w.ns + "/stray, GitRepository.source.toolkit.fluxcd.io/" + w.ns + "/repo"; c.Message != want {
					t.Fatalf("%q, want %q", c.Message, want)
				}
				return nil
			}
		}
		return fmt.Errorf("no warning: %+v", a.Status.Conditions)
	})
}
