package controller_test

import (
	"fmt"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	autoscalingv1 "k8s.io/api/autoscaling/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

// TestHelmReleaseScaled: what kubectl scale does to a release is drift, too.
func TestHelmReleaseScaled(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.push(chart("1.0.0", map[string]string{"templates/web.yaml": "apiVersion: apps/v1\nkind: Deployment\nmetadata: {name: {{ .Release.Name }}}\nspec: {replicas: 2, selector: {matchLabels: {a: b}}, template: {metadata: {labels: {a: b}}, spec: {containers: [{name: c, image: i}]}}}\n"}))
	w.helmRelease("web", "  driftDetection: {mode: enabled}\n")
	w.released("web", 1)
	for i := range 3 {
		time.Sleep(3 * time.Second)
		d := &appsv1.Deployment{ObjectMeta: w.named("web")}
		w.must(w.client.SubResource("scale").Update(w.ctx, d, client.WithSubResourceBody(&autoscalingv1.Scale{ObjectMeta: w.named("web"), Spec: autoscalingv1.ScaleSpec{Replicas: 1}})))
		w.eventually(fmt.Sprint("it to be scaled back, round ", i), func() error {
			w.must(w.client.Get(w.ctx, client.ObjectKeyFromObject(d), d))
			if *d.Spec.Replicas != 2 {
				return fmt.Errorf("%d replicas, %+v", *d.Spec.Replicas, w.getHelmRelease("web").Status.Conditions)
			}
			return nil
		})
	}
}
