package controller_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	argocdv1 "keelson.dev/keelson/api/argocd/v1alpha1"
)

// settings puts keys into Argo CD's settings, which all tests share.
func (w *argoWorld) settings(data map[string]string) {
	w.Helper()
	m := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: "argocd", Name: "argocd-cm"}}
	if err := w.client.Create(w.ctx, m.DeepCopy()); !apierrors.IsAlreadyExists(err) {
		w.must(err)
	}
	patch, err := json.Marshal(map[string]any{"data": data})
	w.must(err)
	w.must(w.client.Patch(w.ctx, m, client.RawPatch(types.MergePatchType, patch)))
}

// TestApplicationHealthScript: a script in argocd-cm says how an object is doing, one that loops is stopped, and another takes its
// place without anything else happening.
func TestApplicationHealthScript(t *testing.T) {
	t.Parallel()
	w := newArgoWorld(t)
	const key = "resource.customizations.health.LimitRange" // of a kind that no other test has
	w.settings(map[string]string{key: `
local hs = {status = "Healthy"}
if obj.metadata.annotations ~= nil and obj.metadata.annotations.state ~= "fine" then
  hs.status = "Degraded"
  hs.message = "it is " .. obj.metadata.annotations.state
end
return hs`})
	limits := func(state string) string {
		return fmt.Sprintf("apiVersion: v1\nkind: LimitRange\nmetadata: {name: limits, namespace: %s, annotations: {state: %s}}\nspec: {limits: []}\n", w.ns, state)
	}
	is := func(status, message string) {
		t.Helper()
		w.until("web", func(a *argocdv1.Application) error {
			if a.Status.Health.Status != status {
				return fmt.Errorf("want health %s", status)
			}
			for _, r := range a.Status.Resources {
				if r.Kind == "LimitRange" && r.Health != nil && r.Health.Status == status && strings.Contains(r.Health.Message, message) {
					return nil
				}
			}
			return fmt.Errorf("want a LimitRange that is %s %s in %+v", status, message, a.Status.Resources)
		})
	}
	w.push(map[string]string{"web/limits.yaml": limits("worn")})
	w.app("web", automated)
	is("Degraded", "it is worn")
	head := w.push(map[string]string{"web/limits.yaml": limits("fine")})
	is("Healthy", "")
	w.synced("web", head)

	w.settings(map[string]string{key: "while true do end"})
	is("Unknown", "the health script for LimitRange was stopped")
	w.settings(map[string]string{key: `return {status = "Suspended", message = "by another script"}`})
	is("Suspended", "by another script")
}

// TestApplicationWaitsForApplication: in an app of apps, a later wave waits until the Application of an earlier one is healthy.
func TestApplicationWaitsForApplication(t *testing.T) {
	t.Parallel()
	w := newArgoWorld(t)
	w.settings(map[string]string{"resource.customizations.health.ResourceQuota": `return {status = obj.metadata.annotations.state or "Progressing"}`})
	inner := fmt.Sprintf(`apiVersion: argoproj.io/v1alpha1
kind: Application
metadata: {name: %s, namespace: argocd}
spec:
  project: default
  source: {repoURL: %s, path: inner, targetRevision: main}
  destination: {server: https://kubernetes.default.svc, namespace: %s}
%s`, w.name("inner"), w.url(), w.ns, automated)
	later := strings.Replace(w.configMap("later", "1"), "metadata: {", `metadata: {annotations: {argocd.argoproj.io/sync-wave: "1"}, `, 1)
	w.push(map[string]string{
		"outer/inner.yaml": inner, "outer/later.yaml": later,
		"inner/quota.yaml": fmt.Sprintf("apiVersion: v1\nkind: ResourceQuota\nmetadata: {name: quota, namespace: %s, annotations: {state: Progressing}}\nspec: {hard: {pods: \"100\"}}\n", w.ns),
	})
	w.app("outer", automated)
	w.until("outer", func(a *argocdv1.Application) error {
		if o := a.Status.OperationState; o == nil || o.Phase != argocdv1.OperationRunning {
			return errors.New("want an operation that runs")
		}
		inner := &argocdv1.Application{}
		if err := w.client.Get(w.ctx, client.ObjectKey{Namespace: "argocd", Name: w.name("inner")}, inner); err != nil {
			return err
		}
		if inner.Status.Health.Status != "Progressing" || inner.Status.Sync.Status != argocdv1.Synced {
			return errors.New("want the inner Application to be synced and in progress")
		}
		return nil
	})
	if w.data("later") != nil {
		t.Fatal("the second wave began before the first one is healthy")
	}
	head := w.push(map[string]string{
		"inner/quota.yaml": fmt.Sprintf("apiVersion: v1\nkind: ResourceQuota\nmetadata: {name: quota, namespace: %s, annotations: {state: Healthy}}\nspec: {hard: {pods: \"100\"}}\n", w.ns),
	})
	w.synced("inner", head)
	w.value("later", "1")
}
