package health

import (
	"bytes"
	"encoding/json"
	"fmt"
	"slices"
	"strings"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	argocdv1 "keelson.dev/keelson/api/argocd/v1alpha1"
	"keelson.dev/keelson/internal/delivery"
)

// The rules for the kinds of Argo's own.

// application judges an Application by its own word, so that waves of an app of apps wait for the apps in them. That word counts
// once it is about the Application as it is declared now:
//
//   - status has to be there, and status.sync.comparedTo has to name the sources and the destination of the spec.
//   - A sync that was asked for or is under way is waited for: until it is over, health tells of what was there before.
//   - So is one that is about to begin: the Application syncs by itself, is OutOfSync, and its last sync was of another
//     declaration. Where it is held or in error it would be waited for without end; then its word counts as it is.
//
// A new commit alone changes nothing about the word: an Application that is OutOfSync may be healthy.
func application(f fields) delivery.Health {
	status := f.text("status", "health", "status")
	if status == "" || f.text("status", "sync", "status") == "" {
		return progressing("Waiting to be processed")
	}
	wants, err := sourcesOf(f, "spec")
	if err != nil {
		return delivery.Health{Status: delivery.UnknownHealth, Message: err.Error()}
	}
	compared, err := sourcesOf(f, "status", "sync", "comparedTo")
	if err != nil {
		return delivery.Health{Status: delivery.UnknownHealth, Message: err.Error()}
	}
	phase := f.text("status", "operationState", "phase")
	switch {
	case f.at("spec", "sourceHydrator") == nil && !same(wants, compared):
		return progressing("Waiting for the change of its spec to be processed")
	case f.at("operation") != nil:
		return progressing("Waiting for a sync to begin")
	case phase == argocdv1.OperationRunning || phase == argocdv1.OperationTerminating:
		return progressing("%s", strings.TrimSuffix("Waiting for its sync to end: "+f.text("status", "operationState", "message"), ": "))
	case awaitsSync(f, wants):
		return progressing("Waiting for the sync of its changed spec to begin")
	}
	h := delivery.Health{Status: delivery.HealthStatus(status), Message: f.text("status", "health", "message")}
	if !slices.Contains(order, h.Status) {
		return delivery.Health{Status: delivery.UnknownHealth, Message: "its status.health.status is " + status}
	}
	return h
}

// awaitsSync tells of an Application that it is about to be synced to what it wants.
func awaitsSync(f fields, wants *declared) bool {
	automated, _ := f.at("spec", "syncPolicy", "automated").(map[string]any)
	if automated == nil || automated["enabled"] == false || f.text("status", "sync", "status") != "OutOfSync" {
		return false
	}
	if f.text("metadata", "annotations", argocdv1.HoldAnnotation) != "" {
		return false
	}
	for _, c := range f.conditions() {
		if strings.HasSuffix(c.kind, "Error") || c.kind == argocdv1.ConditionHeldWarning {
			return false
		}
	}
	synced, err := sourcesOf(f, "status", "operationState", "syncResult")
	if err != nil {
		return false
	}
	synced.Destination = wants.Destination // it is not told
	return !same(wants, synced)
}

// declared is what an Application's word is about.
type declared struct {
	Source      *argocdv1.ApplicationSource     `json:"source,omitempty"`
	Sources     []argocdv1.ApplicationSource    `json:"sources,omitempty"`
	Destination argocdv1.ApplicationDestination `json:"destination"`
}

// sourcesOf reads a declaration, or what status repeats of one.
func sourcesOf(f fields, at ...string) (*declared, error) {
	d := &declared{}
	there, _ := f.at(at...).(map[string]any)
	part := map[string]any{}
	for _, field := range []string{"source", "sources", "destination"} {
		if value, ok := there[field]; ok {
			part[field] = value
		}
	}
	text, err := json.Marshal(part)
	if err == nil {
		err = json.Unmarshal(text, d)
	}
	if err != nil {
		return nil, fmt.Errorf("%s: %w", strings.Join(at, "."), err)
	}
	if len(d.Sources) > 0 { // then source does not count
		d.Source = nil
	}
	return d, nil
}

// same compares what is written of both: nothing and nothing told are one.
func same(a, b *declared) bool {
	x, err := json.Marshal(a)
	y, err2 := json.Marshal(b)
	return err == nil && err2 == nil && bytes.Equal(x, y)
}

func applicationSet(f fields) delivery.Health {
	conditions := f.conditions()
	for _, q := range []struct {
		kind, status string
		says         delivery.HealthStatus
	}{
		{"ErrorOccurred", "True", delivery.Degraded},
		{"ResourcesUpToDate", "False", delivery.Degraded},
		{"RolloutProgressing", "True", delivery.Progressing},
		{"ResourcesUpToDate", "True", delivery.Healthy},
	} {
		for _, c := range conditions {
			if c.kind == q.kind && c.status == q.status {
				return delivery.Health{Status: q.says, Message: c.message}
			}
		}
	}
	return progressing("Waiting for the status to be reported")
}

func workflow(f fields) delivery.Health {
	message := f.text("status", "message")
	switch f.text("status", "phase") {
	case "", "Pending", "Running":
		return progressing("%s", message)
	case "Succeeded":
		return healthy("%s", message)
	case "Failed", "Error":
		return degraded("%s", message)
	default:
		return delivery.Health{Status: delivery.UnknownHealth, Message: message}
	}
}

func cronWorkflow(f fields) delivery.Health {
	for _, c := range f.conditions() {
		switch c.kind + " " + c.status {
		case "SpecError True", "SubmissionError True":
			return degraded("%s", c.message)
		case "Completed True":
			return healthy("%s", c.message)
		}
	}
	return healthy("CronWorkflow is healthy.")
}

// rollout goes by what Argo Rollouts says since 1.0, once it has seen the Rollout, and the workload that it may refer to, as they
// are. Older ones say nothing in one word.
func rollout(f fields) delivery.Health {
	text := func(at ...string) string { return fmt.Sprint(f.at(at...)) } // the status has numbers as texts
	if text("status", "observedGeneration") != text("metadata", "generation") || f.at("spec", "workloadRef") != nil &&
		text("status", "workloadObservedGeneration") != text("metadata", "annotations", "rollout.argoproj.io/workload-generation") {
		return progressing("Waiting for rollout spec update to be observed")
	}
	phase, message := f.text("status", "phase"), f.text("status", "message")
	switch phase {
	case "Paused":
		return delivery.Health{Status: delivery.Suspended, Message: message}
	case "Healthy", "Progressing", "Degraded":
		return delivery.Health{Status: delivery.HealthStatus(phase), Message: message}
	case "":
		return progressing("Waiting for rollout to finish: status has not been reconciled.")
	default:
		return delivery.Health{Status: delivery.UnknownHealth, Message: "its status.phase is " + phase}
	}
}

func isHookOf(f fields) bool { return isHook(&unstructured.Unstructured{Object: f.object}) }
