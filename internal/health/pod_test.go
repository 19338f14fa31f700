package health_test

import (
	"testing"

	"github.com/google/go-cmp/cmp"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/yaml"

	"keelson.dev/keelson/internal/delivery"
	"keelson.dev/keelson/internal/health"
)

func TestOfPod(t *testing.T) {
	tests := map[string]struct {
		status string
		want   delivery.Health
	}{
		"running and ready": {
			`{phase: Running, conditions: [{type: Ready, status: "True"}], containerStatuses: [{name: web, ready: true, state: {running: {}}}]}`,
			delivery.Health{Status: delivery.Healthy},
		},
		"done": {`{phase: Succeeded}`, delivery.Health{Status: delivery.Healthy}},
		"on its way": {
			`{phase: Pending, conditions: [{type: Ready, status: "False", reason: ContainersNotReady, message: "containers with unready status: [web]"}],
			  containerStatuses: [{name: web, state: {waiting: {reason: ContainerCreating}}}]}`,
			delivery.Health{Status: delivery.Progressing, Message: "ContainersNotReady: containers with unready status: [web]"},
		},
		"no such image": {
			`{phase: Pending, containerStatuses: [{name: web, state: {waiting: {reason: ImagePullBackOff, message: "Back-off pulling image \"nosuch\""}}}]}`,
			delivery.Health{Status: delivery.Degraded, Message: `container web: ImagePullBackOff: Back-off pulling image "nosuch"`},
		},
		"out of memory, again and again": {
			`{phase: Running, containerStatuses: [{name: web, state: {waiting: {reason: CrashLoopBackOff, message: back-off 5m0s}},
			  lastState: {terminated: {reason: OOMKilled, exitCode: 137}}}]}`,
			delivery.Health{Status: delivery.Degraded, Message: "container web: CrashLoopBackOff: back-off 5m0s; it ended last with OOMKilled (exit code 137)"},
		},
		"its first container fails": {
			`{phase: Pending, initContainerStatuses: [{name: migrate, state: {terminated: {reason: Error, exitCode: 2, message: "no\n database"}}}],
			  containerStatuses: [{name: web, state: {waiting: {reason: PodInitializing}}}]}`,
			delivery.Health{Status: delivery.Degraded, Message: "container migrate: Error (exit code 2): no database"},
		},
		"no place for it": {
			`{phase: Pending, conditions: [{type: PodScheduled, status: "False", reason: Unschedulable, message: "0/1 nodes are available: 1 Insufficient cpu."}]}`,
			delivery.Health{Status: delivery.Degraded, Message: "Unschedulable: 0/1 nodes are available: 1 Insufficient cpu."},
		},
		"evicted": {
			`{phase: Failed, reason: Evicted, message: "The node was low on resource: memory."}`,
			delivery.Health{Status: delivery.Degraded, Message: "Evicted: The node was low on resource: memory."},
		},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			u := &unstructured.Unstructured{}
			if err := yaml.Unmarshal([]byte("{apiVersion: v1, kind: Pod, metadata: {name: web, namespace: dev}, status: "+tt.status+"}"), &u.Object); err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(tt.want, health.OfPod(u)); diff != "" {
				t.Errorf("health (-want +got):\n%s", diff)
			}
		})
	}
}
