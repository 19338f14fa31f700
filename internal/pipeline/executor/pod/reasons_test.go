package pod

import (
	"fmt"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	"sigs.k8s.io/yaml"

	"keelson.dev/keelson/internal/pipeline"
)

// What kubelet, scheduler and node controller write into the status of a Pod, one after the other, and what a job makes of it in the end.
func TestReasons(t *testing.T) {
	const pulling = `containerStatuses: [{name: build, image: "r/x:1", state: {waiting: {reason: %s, message: %q}}}]`
	pull := func(reason, message string) string { return fmt.Sprintf(pulling, reason, message) }
	const missing = `failed to pull and unpack image "r/x:1": failed to resolve reference "r/x:1": r/x:1: not found`
	const timeout = `failed to pull and unpack image "r/x:1": dial tcp 10.0.0.1:443: i/o timeout`
	const back = `Back-off pulling image "r/x:1"`
	tests := map[string]struct {
		statuses []string
		reason   pipeline.FailureReason // empty: it goes on
		message  string                 // or what it waits for
		notes    string
	}{
		"it runs":                   {statuses: []string{`{phase: Running, containerStatuses: [{name: build, state: {running: {}}}, {name: helper, state: {terminated: {exitCode: 0, reason: Completed}}}]}`}},
		"it is being made":          {statuses: []string{`{phase: Pending, containerStatuses: [{name: build, state: {waiting: {reason: ContainerCreating}}}]}`}},
		"no node":                   {statuses: []string{`{phase: Pending, conditions: [{type: PodScheduled, status: "False", reason: Unschedulable, message: "0/3 nodes are available: 3 Insufficient memory."}]}`}, message: "no node takes the Pod: FailedScheduling: 0/3 nodes are available: 3 Insufficient memory."},
		"an image that is missing":  {[]string{pull("ErrImagePull", missing)}, pipeline.RunnerSystemFailure, `image r/x:1 cannot be pulled: ErrImagePull: ` + missing, ""},
		"only the back-off is seen": {[]string{pull("ImagePullBackOff", back+": ErrImagePull: unauthorized")}, pipeline.RunnerSystemFailure, `image r/x:1 cannot be pulled: ImagePullBackOff: ` + back + ": ErrImagePull: unauthorized", ""},
		"a registry that is away":   {statuses: []string{pull("ErrImagePull", timeout), pull("ImagePullBackOff", back)}, message: `image r/x:1 cannot be pulled, and is tried again: ` + timeout},
		"it stays away":             {[]string{pull("ErrImagePull", timeout), pull("ImagePullBackOff", back), pull("ErrImagePull", timeout), pull("ImagePullBackOff", back), pull("ErrImagePull", timeout)}, pipeline.RunnerSystemFailure, `image r/x:1 cannot be pulled: ErrImagePull: ` + timeout, ""},
		"no name of an image":       {[]string{pull("InvalidImageName", `couldn't parse image name "A B"`)}, pipeline.ConfigurationError, `image r/x:1: InvalidImageName: couldn't parse image name "A B"`, ""},
		"a container that fails":    {[]string{pull("CreateContainerConfigError", `secret "x" not found`)}, pipeline.RunnerSystemFailure, `image r/x:1: CreateContainerConfigError: secret "x" not found`, ""},
		"a kubelet that is slow":    {statuses: []string{pull("CreateContainerConfigError", `failed to sync secret cache: timed out waiting for the condition`)}, message: `image r/x:1: CreateContainerConfigError: failed to sync secret cache: timed out waiting for the condition`},
		"no shell":                  {[]string{`containerStatuses: [{name: build, image: "r/x:1", state: {terminated: {exitCode: 128, reason: StartError, message: 'runc create failed: exec: "sh": executable file not found in $PATH'}}}]`}, pipeline.RunnerSystemFailure, `image r/x:1 has no shell (sh), which a job's script needs: runc create failed: exec: "sh": executable file not found in $PATH`, ""},
		"out of memory":             {[]string{`{phase: Failed, containerStatuses: [{name: build, state: {terminated: {exitCode: 137, reason: OOMKilled}}}]}`}, pipeline.ScriptFailure, "OOMKilled: the job took more memory than its limit of 64Mi (spec.limits.memory of the Project)", ""},
		"evicted":                   {[]string{`{phase: Failed, reason: Evicted, message: "The node was low on resource: ephemeral-storage.", containerStatuses: [{name: build, state: {terminated: {exitCode: 137, reason: Error}}}]}`}, pipeline.RunnerSystemFailure, "the Pod has failed: Evicted: The node was low on resource: ephemeral-storage.", ""},
		"its time is over":          {[]string{`{phase: Failed, reason: DeadlineExceeded, message: Pod was active on the node longer than the specified deadline}`}, pipeline.ExecutionTimeout, "the Pod has failed: DeadlineExceeded: Pod was active on the node longer than the specified deadline", ""},
		"its node is lost":          {[]string{`{phase: Unknown, reason: NodeLost, message: Node n1 which was running pod x is unresponsive}`}, pipeline.RunnerSystemFailure, "the node of the Pod is lost: NodeLost: Node n1 which was running pod x is unresponsive", ""},
		"taken from its node":       {[]string{`{deleted: true, phase: Running, conditions: [{type: DisruptionTarget, status: "True", reason: DeletionByTaintManager, message: "Taint manager: deleting due to NoExecute taint"}]}`}, pipeline.RunnerSystemFailure, "the Pod was deleted (DeletionByTaintManager: Taint manager: deleting due to NoExecute taint)", ""},
		"the agent is killed":       {[]string{`{containerStatuses: [{name: build, state: {terminated: {exitCode: 137, reason: Error}}}]}`}, pipeline.RunnerSystemFailure, "the job's container has ended: exit code 137", ""},
		"a service that fails":      {statuses: []string{`{phase: Running, containerStatuses: [{name: service-0, image: "r/db", state: {terminated: {exitCode: 1, reason: Error}}}]}`}, notes: "Service r/db has ended: exit code 1"},
		"a service's image":         {[]string{`containerStatuses: [{name: service-0, image: "r/x:1", state: {waiting: {reason: ErrImagePull, message: denied}}}]`}, pipeline.RunnerSystemFailure, "service r/x:1 cannot be pulled: ErrImagePull: denied", ""},
		"the helper's image":        {[]string{`containerStatuses: [{name: helper, image: "k/a:1", state: {waiting: {reason: ErrImagePull, message: not found}}}]`}, pipeline.RunnerSystemFailure, "the helper's image k/a:1 cannot be pulled: ErrImagePull: not found", ""},
		"nothing of a long message": {[]string{pull("InvalidImageName", strings.Repeat("x\n", 5000))}, pipeline.ConfigurationError, "image r/x:1: InvalidImageName: " + strings.Repeat("x ", 500) + "…", ""},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			history := map[string]*pulls{}
			var s sight
			for _, text := range tt.statuses {
				var status struct {
					corev1.PodStatus
					Deleted bool `json:"deleted"`
				}
				if err := yaml.UnmarshalStrict([]byte(text), &status); err != nil {
					t.Fatal(err)
				}
				pod := &corev1.Pod{Status: status.PodStatus}
				if status.Deleted {
					pod.DeletionTimestamp = &pod.CreationTimestamp
				}
				for range 2 { // what is seen twice is no other
					s = look(pod, corev1.ResourceList{corev1.ResourceMemory: resource.MustParse("64Mi")}, history)
				}
			}
			var reason pipeline.FailureReason
			message := s.state
			if s.end != nil {
				reason, message = s.end.Reason, s.end.Message
			}
			if reason != tt.reason || message != tt.message {
				t.Errorf("got %s: %s\nwant %s: %s", reason, message, tt.reason, tt.message)
			}
			if got := strings.Join(s.notes, "; "); got != tt.notes {
				t.Errorf("notes %q, want %q", got, tt.notes)
			}
		})
	}
}
