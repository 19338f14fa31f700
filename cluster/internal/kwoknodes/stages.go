// Package kwoknodes is the part of the cluster that a machine room would be:
// nodes, and the pods and volumes on them, simulated by KWOK.
//
// KWOK watches the API server and writes the status that a kubelet would write.
// What it writes is described by Stages: which objects, after what delay, which
// status. [Config] puts together KWOK's ready-made fast stages (a node is Ready,
// a pod runs and is ready, a Job's pod completes, a deleted pod goes) and stages
// of our own: pods that fail on demand, and volumes for claims. [Bootstrap]
// creates the nodes and what else must be in the cluster for this.
//
// Nothing is executed: no image is pulled, no container runs, no log is written.
// Everything above the kubelet is real: scheduling, rollouts, progress
// deadlines, StatefulSet ordering, volume binding.
package kwoknodes

import (
	"bytes"
	_ "embed"
	"fmt"
	"strconv"
	"strings"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	nodefast "sigs.k8s.io/kwok/kustomize/stage/node/fast"
	nodeheartbeat "sigs.k8s.io/kwok/kustomize/stage/node/heartbeat"
	podfast "sigs.k8s.io/kwok/kustomize/stage/pod/fast"
	kwokconfig "sigs.k8s.io/kwok/pkg/apis/config/v1alpha1"
	kwok "sigs.k8s.io/kwok/pkg/apis/v1alpha1"
	"sigs.k8s.io/yaml"
)

// SimulateAnnotation on a pod makes it fail; the values are below. Pods without
// it are healthy, so a new ReplicaSet whose template lacks it heals a Deployment.
const SimulateAnnotation = "keelson.dev/simulate"

// Values of [SimulateAnnotation]. Any other value leaves the pod's containers
// waiting with reason CreateContainerConfigError and a message that lists these.
const (
	CrashLoop = "CrashLoopBackOff" // containers start, exit with status 1, back off
	PullFails = "ImagePullBackOff" // the image cannot be pulled
	Pending   = "Pending"          // scheduled, but its containers are never created
)

// podCIDR is where the simulated pods' addresses come from. It does not overlap
// the service range; nothing answers on either.
const podCIDR = "10.244.0.0/16"

//go:embed volumes.yaml
var volumeStages string

// Config returns KWOK's configuration file. The volumes of claims are directories below volumes.
func Config(volumes string) ([]byte, error) {
	// Node leases stay off: KWOK takes a lease under a new name at each start, so
	// after a restart it would leave the pods alone until the old lease runs out,
	// 40 s. Nodes send heartbeats instead, as kubelets did before there were leases.
	general := &kwokconfig.KwokConfiguration{
		TypeMeta: metav1.TypeMeta{APIVersion: kwokconfig.GroupVersion.String(), Kind: "KwokConfiguration"},
		Options: kwokconfig.KwokConfigurationOptions{
			CIDR:                              podCIDR,
			ManageNodesWithAnnotationSelector: nodeAnnotation + "=" + nodeAnnotationValue,
		},
	}
	kwokconfig.SetObjectDefaults_KwokConfiguration(general)
	documents := []any{general}
	for _, manifest := range []string{nodefast.DefaultNodeInit, nodeheartbeat.DefaultNodeHeartbeat, podfast.DefaultPodDelete} {
		stage, err := parseStage(manifest)
		if err != nil {
			return nil, err
		}
		documents = append(documents, stage)
	}
	for _, manifest := range []string{podfast.DefaultPodReady, podfast.DefaultPodComplete} {
		stage, err := parseStage(manifest)
		if err != nil {
			return nil, err
		}
		healthy := jq(annotationPath, kwok.SelectorOpDoesNotExist)
		stage.Spec.Selector.MatchExpressions = append(stage.Spec.Selector.MatchExpressions, healthy)
		documents = append(documents, stage)
	}
	for _, f := range failures {
		documents = append(documents, f.stage())
	}

	var out bytes.Buffer
	for _, document := range documents {
		text, err := yaml.Marshal(document)
		if err != nil {
			return nil, fmt.Errorf("encode kwok configuration: %w", err)
		}
		fmt.Fprintf(&out, "---\n%s", text)
	}
	fmt.Fprintf(&out, "---\n%s", strings.ReplaceAll(volumeStages, "VOLUMES", strconv.Quote(volumes)))
	return out.Bytes(), nil
}

func parseStage(manifest string) (*kwok.Stage, error) {
	stage := &kwok.Stage{}
	if err := yaml.UnmarshalStrict([]byte(manifest), stage); err != nil {
		return nil, fmt.Errorf("parse ready-made stage: %w", err)
	}
	return stage, nil
}

const (
	annotationPath = `.metadata.annotations["` + SimulateAnnotation + `"]`
	statusesPath   = `.status.containerStatuses`
	reasonPath     = `.status.containerStatuses.[].state.waiting.reason`
)

// failure is one step of a pod that does not work: a stage in short.
type failure struct {
	name     string
	simulate kwok.MatchExpression   // on the annotation
	when     []kwok.MatchExpression // further conditions: where in its life the pod is
	delayMS  int64                  // how long after it got there
	delayJQ  string                 // the same, computed from the pod; wins over delayMS
	event    *kwok.StageEvent       // as the kubelet would send
	phase    string
	restarts string // template: a container's restartCount; $restarts is the present one
	state    string // template: a container's state, in the scope of the container
	previous string // template: its lastState; may be empty
	again    bool   // the conditions are those of the step before
}

var failures = []failure{
	{
		name:     "crash-first",
		simulate: jq(annotationPath, kwok.SelectorOpIn, CrashLoop),
		when: []kwok.MatchExpression{
			jq(`.status.phase`, kwok.SelectorOpIn, "Pending"),
			jq(`.spec.restartPolicy`, kwok.SelectorOpNotIn, "Never"),
		},
		phase: "Running", restarts: `0`, state: exited,
	},
	{
		// The first restart is immediate; the container ends again.
		name:     "crash-backoff",
		simulate: jq(annotationPath, kwok.SelectorOpIn, CrashLoop),
		when: []kwok.MatchExpression{
			jq(`.status.phase`, kwok.SelectorOpIn, "Running"),
			jq(`.status.containerStatuses.[].state.terminated`, kwok.SelectorOpExists),
		},
		delayMS: 300,
		event:   &kwok.StageEvent{Type: "Warning", Reason: "BackOff", Message: "Back-off restarting failed container"},
		phase:   "Running", restarts: `{{ add1 $restarts }}`, state: backingOff, previous: exited, again: true,
	},
	{
		// Then 10 s, 20 s, 40 s ... and at most 5 minutes pass before each restart.
		name:     "crash-again",
		simulate: jq(annotationPath, kwok.SelectorOpIn, CrashLoop),
		when: []kwok.MatchExpression{
			jq(`.status.phase`, kwok.SelectorOpIn, "Running"),
			jq(reasonPath, kwok.SelectorOpIn, "CrashLoopBackOff"),
		},
		delayMS: 10_000,
		delayJQ: `.status.containerStatuses[0].restartCount as $n | [10 * pow(2; [$n - 1, 5] | min), 300] | min | "\(.)s"`,
		event:   &kwok.StageEvent{Type: "Warning", Reason: "BackOff", Message: "Back-off restarting failed container"},
		phase:   "Running", restarts: `{{ add1 $restarts }}`, state: backingOff, previous: exited, again: true,
	},
	{
		name:     "crash-for-good",
		simulate: jq(annotationPath, kwok.SelectorOpIn, CrashLoop),
		when: []kwok.MatchExpression{
			jq(`.status.phase`, kwok.SelectorOpIn, "Pending"),
			jq(`.spec.restartPolicy`, kwok.SelectorOpIn, "Never"),
		},
		phase: "Failed", restarts: `0`, state: exited,
	},
	{
		name:     "pull-fails",
		simulate: jq(annotationPath, kwok.SelectorOpIn, PullFails),
		when:     []kwok.MatchExpression{jq(statusesPath, kwok.SelectorOpDoesNotExist)},
		event:    &kwok.StageEvent{Type: "Warning", Reason: "Failed", Message: "Error: ErrImagePull"},
		phase:    "Pending", restarts: `0`,
		state: `waiting: {reason: ErrImagePull, message: {{ ` + pullError + ` | Quote }}}`,
	},
	{
		name:     "pull-backoff",
		simulate: jq(annotationPath, kwok.SelectorOpIn, PullFails),
		when:     []kwok.MatchExpression{jq(reasonPath, kwok.SelectorOpIn, "ErrImagePull")},
		delayMS:  300,
		event:    &kwok.StageEvent{Type: "Warning", Reason: "Failed", Message: "Error: ImagePullBackOff"},
		phase:    "Pending", restarts: `0`, again: true,
		state: `waiting: {reason: ImagePullBackOff, message: {{ printf "Back-off pulling image \"%s\": ErrImagePull: %s" .image (` + pullError + `) | Quote }}}`,
	},
	{
		name:     "stays-pending",
		simulate: jq(annotationPath, kwok.SelectorOpIn, Pending),
		when:     []kwok.MatchExpression{jq(statusesPath, kwok.SelectorOpDoesNotExist)},
		phase:    "Pending", restarts: `0`, state: `waiting: {reason: ContainerCreating}`,
	},
	{
		name:     "unknown-simulation",
		simulate: jq(annotationPath, kwok.SelectorOpNotIn, CrashLoop, PullFails, Pending),
		when: []kwok.MatchExpression{
			jq(annotationPath, kwok.SelectorOpExists),
			jq(statusesPath, kwok.SelectorOpDoesNotExist),
		},
		phase: "Pending", restarts: `0`,
		state: `waiting: {reason: CreateContainerConfigError, message: {{ printf "annotation ` + SimulateAnnotation + `: unknown value \"%s\": use ` +
			strings.Join([]string{CrashLoop, PullFails, Pending}, ", ") + `" (index $pod.metadata.annotations "` + SimulateAnnotation + `") | Quote }}}`,
	},
}

const (
	exited     = `terminated: {exitCode: 1, reason: Error, startedAt: {{ $now | Quote }}, finishedAt: {{ $now | Quote }}}`
	backingOff = `waiting: {reason: CrashLoopBackOff, message: {{ printf "back-off %s restarting failed container=%s pod=%s_%s(%s)" $backoff .name $pod.metadata.name $pod.metadata.namespace $pod.metadata.uid | Quote }}}`
	pullError  = `printf "failed to pull and unpack image \"%s\": failed to resolve reference \"%s\": %s: not found" .image .image .image`
)

// conditions of a pod that was scheduled and whose containers are not ready.
const conditions = `
conditions:
- {type: PodReadyToStartContainers, status: "True", lastTransitionTime: {{ $now | Quote }}}
- {type: Initialized, status: "True", lastTransitionTime: {{ $now | Quote }}}
- {type: Ready, status: "False", reason: ContainersNotReady, message: {{ $unready | Quote }}, lastTransitionTime: {{ $now | Quote }}}
- {type: ContainersReady, status: "False", reason: ContainersNotReady, message: {{ $unready | Quote }}, lastTransitionTime: {{ $now | Quote }}}
`

// status is the template all failures share; %s are phase, conditions,
// restartCount, state and lastState. Init containers have done their work:
// it is the pod's own containers that fail.
const status = `
{{ $pod := . }}
{{ $now := Now }}
{{ $names := list }}
{{ range .spec.containers }}{{ $names = append $names .name }}{{ end }}
{{ $unready := printf "containers with unready status: [%%s]" (join " " $names) }}
{{ $restarts := 0 }}
{{ with .status.containerStatuses }}{{ $restarts = int (index . 0).restartCount }}{{ end }}
{{ $seconds := 10 }}
{{ range until (min 5 $restarts | int) }}{{ $seconds = min 300 (mul 2 $seconds) }}{{ end }}
{{ $backoff := printf "%%ds" $seconds }}
{{ if ge $seconds 60 }}{{ $backoff = printf "%%dm%%ds" (div $seconds 60) (mod $seconds 60) }}{{ end }}
phase: %s
startTime: {{ or .status.startTime $now | Quote }}
%s
{{ with .spec.initContainers }}
initContainerStatuses:
{{ range . }}
- name: {{ .name | Quote }}
  image: {{ .image | Quote }}
  imageID: ""
  ready: true
  restartCount: 0
  {{ if eq (default "" .restartPolicy) "Always" }}
  started: true
  state: {running: {startedAt: {{ $now | Quote }}}}
  {{ else }}
  state: {terminated: {exitCode: 0, reason: Completed, startedAt: {{ $now | Quote }}, finishedAt: {{ $now | Quote }}}}
  {{ end }}
{{ end }}
{{ end }}
containerStatuses:
{{ range .spec.containers }}
- name: {{ .name | Quote }}
  image: {{ .image | Quote }}
  imageID: ""
  ready: false
  started: false
  restartCount: %s
  state: {%s}
  lastState: {%s}
{{ end }}
`

func (f failure) stage() *kwok.Stage {
	shown := conditions
	if f.again {
		shown = ""
	}
	alive := jq(`.metadata.deletionTimestamp`, kwok.SelectorOpDoesNotExist)
	stage := &kwok.Stage{
		TypeMeta:   metav1.TypeMeta{APIVersion: kwok.GroupVersion.String(), Kind: kwok.StageKind},
		ObjectMeta: metav1.ObjectMeta{Name: f.name},
		Spec: kwok.StageSpec{
			ResourceRef: kwok.StageResourceRef{APIGroup: "v1", Kind: "Pod"},
			Selector:    &kwok.StageSelector{MatchExpressions: append([]kwok.MatchExpression{alive, f.simulate}, f.when...)},
			Steps: []kwok.StageStep{{Patch: &kwok.StagePatch{
				Subresource: "status",
				Root:        "status",
				Template:    fmt.Sprintf(status, f.phase, shown, f.restarts, f.state, f.previous),
			}}},
		},
	}
	if f.delayMS > 0 {
		stage.Spec.Delay = &kwok.StageDelay{DurationMilliseconds: &f.delayMS}
	}
	if f.delayJQ != "" {
		stage.Spec.Delay.DurationFrom = &kwok.ExpressionFrom{JQ: &kwok.ExpressionJQ{Expression: f.delayJQ}}
	}
	if f.event != nil {
		stage.Spec.Steps = append(stage.Spec.Steps, kwok.StageStep{Event: f.event})
	}
	return stage
}

func jq(path string, operator kwok.SelectorOperator, values ...string) kwok.MatchExpression {
	return kwok.MatchExpression{JQ: &kwok.SelectorJQ{Key: path, Operator: operator, Values: values}}
}
