package dialect_test

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"keelson.dev/keelson/internal/delivery"
	"keelson.dev/keelson/internal/dialect"
)

func object(annotations map[string]string) delivery.Object {
	u := &unstructured.Unstructured{Object: map[string]any{
		"apiVersion": "apps/v1", "kind": "Deployment", "metadata": map[string]any{"name": "web", "namespace": "dev"},
	}}
	if annotations != nil {
		u.SetAnnotations(annotations)
	}
	return delivery.Object{Unstructured: u}
}

// TestHooks: what annotations make of an object (Argo CD: user-guide/sync-waves, user-guide/helm).
func TestHooks(t *testing.T) {
	const hook, policy, helm, helmPolicy = "argocd.argoproj.io/hook", "argocd.argoproj.io/hook-delete-policy", "helm.sh/hook", "helm.sh/hook-delete-policy"
	before := []delivery.HookDeletion{delivery.BeforeHookCreation}
	for name, c := range map[string]struct {
		annotations map[string]string
		want        *delivery.Hook
	}{
		"none":           {nil, nil},
		"one":            {map[string]string{hook: "PreSync"}, &delivery.Hook{Moments: []delivery.Moment{delivery.PreSync}, Delete: before}},
		"several":        {map[string]string{hook: "PreSync, PostSync,PreSync"}, &delivery.Hook{Moments: []delivery.Moment{delivery.PreSync, delivery.PostSync}, Delete: before}},
		"sync":           {map[string]string{hook: "Sync"}, &delivery.Hook{Moments: []delivery.Moment{delivery.DuringSync}, Delete: before}},
		"fail":           {map[string]string{hook: "SyncFail"}, &delivery.Hook{Moments: []delivery.Moment{delivery.SyncFail}, Delete: before}},
		"deletion":       {map[string]string{hook: "PreDelete,PostDelete"}, &delivery.Hook{Moments: []delivery.Moment{delivery.PreDelete, delivery.PostDelete}, Delete: before}},
		"skip":           {map[string]string{hook: "Skip"}, &delivery.Hook{Moments: []delivery.Moment{delivery.SkipHook}, Delete: before}},
		"skip and more":  {map[string]string{hook: "Skip,PreSync"}, &delivery.Hook{Moments: []delivery.Moment{delivery.PreSync}, Delete: before}},
		"unknown":        {map[string]string{hook: "Wonder"}, &delivery.Hook{Moments: []delivery.Moment{delivery.SkipHook}, Delete: before}},
		"policy":         {map[string]string{hook: "PostSync", policy: "HookSucceeded,HookFailed"}, &delivery.Hook{Moments: []delivery.Moment{delivery.PostSync}, Delete: []delivery.HookDeletion{delivery.HookSucceeded, delivery.HookFailed}}},
		"bad policy":     {map[string]string{hook: "PostSync", policy: "Sometimes"}, &delivery.Hook{Moments: []delivery.Moment{delivery.PostSync}, Delete: before}},
		"helm install":   {map[string]string{helm: "pre-install,pre-upgrade"}, &delivery.Hook{Moments: []delivery.Moment{delivery.PreSync}, Delete: before}},
		"helm post":      {map[string]string{helm: "post-install", helmPolicy: "before-hook-creation,hook-succeeded"}, &delivery.Hook{Moments: []delivery.Moment{delivery.PostSync}, Delete: []delivery.HookDeletion{delivery.BeforeHookCreation, delivery.HookSucceeded}}},
		"helm delete":    {map[string]string{helm: "pre-delete, post-delete"}, &delivery.Hook{Moments: []delivery.Moment{delivery.PreDelete, delivery.PostDelete}, Delete: before}},
		"helm test":      {map[string]string{helm: "test"}, &delivery.Hook{Moments: []delivery.Moment{delivery.SkipHook}, Delete: before}},
		"helm rollback":  {map[string]string{helm: "pre-rollback"}, &delivery.Hook{Moments: []delivery.Moment{delivery.SkipHook}, Delete: before}},
		"helm crd":       {map[string]string{helm: "crd-install"}, nil},
		"argo over helm": {map[string]string{hook: "PostSync", helm: "pre-install"}, &delivery.Hook{Moments: []delivery.Moment{delivery.PostSync}, Delete: before}},
		"both policies":  {map[string]string{hook: "PostSync", policy: "HookFailed", helmPolicy: "hook-failed,hook-succeeded"}, &delivery.Hook{Moments: []delivery.Moment{delivery.PostSync}, Delete: []delivery.HookDeletion{delivery.HookFailed, delivery.HookSucceeded}}},
	} {
		obj := object(c.annotations)
		dialect.ArgoRead(&obj)
		if diff := cmp.Diff(c.want, obj.Hook); diff != "" {
			t.Errorf("%s: -want +got:\n%s", name, diff)
		}
	}
}

func TestWavesAndMarks(t *testing.T) {
	const options, compare = "argocd.argoproj.io/sync-options", "argocd.argoproj.io/compare-options"
	for name, c := range map[string]struct {
		annotations map[string]string
		wave        int
		marks       delivery.Marks
	}{
		"none":            {nil, 0, 0},
		"wave":            {map[string]string{"argocd.argoproj.io/sync-wave": "-5"}, -5, 0},
		"weight":          {map[string]string{"helm.sh/hook-weight": "3"}, 3, 0},
		"wave wins":       {map[string]string{"argocd.argoproj.io/sync-wave": "1", "helm.sh/hook-weight": "3"}, 1, 0},
		"bad wave":        {map[string]string{"argocd.argoproj.io/sync-wave": "soon", "helm.sh/hook-weight": "3"}, 3, 0},
		"prune":           {map[string]string{options: "Prune=false"}, 0, delivery.MarkKeep},
		"confirm":         {map[string]string{options: "Prune=confirm,Delete=confirm"}, 0, delivery.MarkConfirm | delivery.MarkConfirmDelete},
		"replace":         {map[string]string{options: "Force=true, Replace=true"}, 0, delivery.MarkForce | delivery.MarkReplace},
		"last":            {map[string]string{options: "PruneLast=true,SkipDryRunOnMissingResource=true,Wonder=1"}, 0, delivery.MarkPruneLast | delivery.MarkKindMayCome},
		"keep":            {map[string]string{options: "Delete=false"}, 0, delivery.MarkKeepOnDelete},
		"helm keep":       {map[string]string{"helm.sh/resource-policy": "keep"}, 0, delivery.MarkKeepOnDelete},
		"extraneous":      {map[string]string{compare: "IgnoreExtraneous"}, 0, delivery.MarkExtraneous},
		"no health":       {map[string]string{"argocd.argoproj.io/ignore-healthcheck": "true"}, 0, delivery.MarkNoHealth},
		"nothing of ours": {map[string]string{"kustomize.toolkit.fluxcd.io/prune": "disabled"}, 0, 0},
	} {
		obj := object(c.annotations)
		dialect.ArgoRead(&obj)
		if obj.Wave != c.wave || obj.Asks != c.marks || dialect.ArgoMarks(obj.Unstructured) != c.marks {
			t.Errorf("%s: wave %d, marks %b; want %d, %b", name, obj.Wave, obj.Asks, c.wave, c.marks)
		}
	}
}

func TestOwnership(t *testing.T) {
	const id = "argocd.argoproj.io/tracking-id"
	for _, c := range []struct {
		app  delivery.ID
		want string
	}{
		{delivery.ID{Kind: "Application", Namespace: "argocd", Name: "guestbook"}, "guestbook:apps/Deployment:dev/web"},
		{delivery.ID{Kind: "Application", Namespace: "team-a", Name: "guestbook"}, "team-a_guestbook:apps/Deployment:dev/web"},
		{delivery.ID{Kind: "Application", Namespace: "argocd", Name: strings.Repeat("a", 62) + "--" + strings.Repeat("b.", 80) + "c"}, ""},
	} {
		obj := object(map[string]string{"keep": "this"})
		obj.SetLabels(map[string]string{"app": "web"})
		dialect.ArgoLabel(c.app, obj)
		if got := dialect.ArgoOwner(obj.GetLabels()); got != c.app {
			t.Errorf("owner %v, want %v", got, c.app)
		}
		for key, value := range obj.GetLabels() {
			if len(value) > 63 || strings.Trim(value, "-._") != value {
				t.Errorf("label %s: %q", key, value)
			}
		}
		if got := obj.GetAnnotations()[id]; c.want != "" && got != c.want {
			t.Errorf("tracking id %q, want %q", got, c.want)
		}
		if obj.GetLabels()["app"] != "web" || obj.GetAnnotations()["keep"] != "this" {
			t.Errorf("what the object had is lost: %v", obj.Object)
		}
		app, ref, ok := dialect.ArgoTracking("argocd", obj.GetAnnotations()[id])
		if !ok || app != c.app || ref != obj.Ref() {
			t.Errorf("tracking id %q is of %v %v", obj.GetAnnotations()[id], app, ref)
		}
	}
	for _, text := range []string{"", "a", "a:b:c", ":/Pod:x/y", "a:/:x/y", "a:/Pod:x/"} {
		if app, _, ok := dialect.ArgoTracking("argocd", text); ok {
			t.Errorf("%q is of %v", text, app)
		}
	}
	if got := dialect.ArgoOwner(map[string]string{"keelson.dev/application": "x"}); got != (delivery.ID{}) {
		t.Errorf("half a mark is of %v", got)
	}
}
