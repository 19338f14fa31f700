package controller_test

import (
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	appsv1 "k8s.io/api/apps/v1"

	"keelson.dev/keelson/internal/deliver"
	"keelson.dev/keelson/internal/delivery"
	"keelson.dev/keelson/internal/dialect"
	"keelson.dev/keelson/internal/kube"
	"keelson.dev/keelson/internal/live"
	"keelson.dev/keelson/internal/render"
)

// TestDiffShowsWhatWouldHappen compares a delivered app with changed files: exactly what the controller would change differs.
func TestDiffShowsWhatWouldHappen(t *testing.T) {
	w := newWorld(t)
	w.app("app", "")
	hpa := "apiVersion: autoscaling/v2\nkind: HorizontalPodAutoscaler\nmetadata: {name: web, namespace: $ns}\n" +
		"spec: {minReplicas: 1, maxReplicas: 9, scaleTargetRef: {apiVersion: apps/v1, kind: Deployment, name: web}}\n"
	secret := "apiVersion: v1\nkind: Secret\nmetadata: {name: s, namespace: $ns}\nstringData: {k: hush-hush}\n"
	in := func(text string) string { return strings.ReplaceAll(text, "$ns", w.ns) }
	w.ready("app", w.push(map[string]string{
		"app/web.yaml": in(deployment), "app/hpa.yaml": in(hpa), "app/s.yaml": in(secret),
		"app/a.yaml": w.configMap("a", "1"), "app/gone.yaml": w.configMap("gone", "1"),
	}))
	d := &appsv1.Deployment{ObjectMeta: w.named("web")}
	w.edit(d, "kube-controller-manager", func() { d.Spec.Replicas = new(int32(5)) })

	w.commit(map[string]string{
		"app/a.yaml": w.configMap("a", "2"), "app/new.yaml": w.configMap("new", "1"), "app/gone.yaml": "",
		"app/s.yaml": in(strings.Replace(secret, "hush-hush", "mum-mum-mum", 1)),
	})
	target, err := kube.NewCluster(cluster.Config)
	w.must(err)
	tree, err := w.repo.Tree(w.head)
	w.must(err)
	k := w.kustomization("app")
	app, err := dialect.Kustomization(k)
	w.must(err)
	objects, err := render.Build(w.ctx, delivery.Snapshot{FS: tree}, app.Build, nil)
	w.must(err)
	engine := &deliver.Engine{
		Cluster: target, Claims: deliver.NewClaims(), Label: dialect.FluxLabel, OwnerOf: dialect.FluxOwner,
		Live: live.New(w.ctx, target, live.Options{Selector: dialect.OwnerNameLabel, OwnerOf: dialect.FluxOwner}),
	}
	p, err := engine.Preview(w.ctx, deliver.PreviewRequest{
		App: app, Objects: objects, Inventory: dialect.KustomizationInventory(&k.Status), Now: time.Now(),
	})
	w.must(err)
	got := map[string]delivery.Verb{}
	for _, x := range p.Differences {
		got[x.Ref.Kind+"/"+x.Ref.Name] = x.Verb
		if strings.Contains(x.Before+x.After, "hush") || strings.Contains(x.Before+x.After, "mum") {
			t.Errorf("the value of a Secret is shown:\n%s%s", x.Before, x.After)
		}
	}
	want := map[string]delivery.Verb{
		"ConfigMap/a": delivery.Update, "ConfigMap/new": delivery.Create, "ConfigMap/gone": delivery.Delete, "Secret/s": delivery.Update,
		"Deployment/web": delivery.Unchanged, "HorizontalPodAutoscaler/web": delivery.Unchanged,
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("differences (-want +got):\n%s", diff)
	}
}
