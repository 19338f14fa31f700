package health

import (
	"cmp"
	"encoding/json"
	"fmt"
	"strings"

	"k8s.io/apimachinery/pkg/runtime/schema"

	"keelson.dev/keelson/internal/delivery"
)

// The rules of Argo CD for the kinds of Kubernetes and of Argo itself (gitops-engine, package health; resource_customizations), with
// its words where it has some.

// kinds are those with a rule of their own.
var kinds = map[schema.GroupKind]func(fields) delivery.Health{
	{Group: "apps", Kind: "Deployment"}:                               deployment,
	{Group: "apps", Kind: "StatefulSet"}:                              statefulSet,
	{Group: "apps", Kind: "DaemonSet"}:                                daemonSet,
	{Group: "apps", Kind: "ReplicaSet"}:                               replicaSet,
	{Kind: "Pod"}:                                                     pod,
	{Kind: "Service"}:                                                 service,
	{Kind: "PersistentVolumeClaim"}:                                   claim,
	{Group: "batch", Kind: "Job"}:                                     argoJob,
	{Group: "batch", Kind: "CronJob"}:                                 cronJob,
	{Group: "networking.k8s.io", Kind: "Ingress"}:                     ingress,
	{Group: "extensions", Kind: "Ingress"}:                            ingress,
	{Group: "autoscaling", Kind: "HorizontalPodAutoscaler"}:           autoscaler,
	{Group: "apiregistration.k8s.io", Kind: "APIService"}:             apiService,
	{Group: "apiextensions.k8s.io", Kind: "CustomResourceDefinition"}: definition,
	{Group: "policy", Kind: "PodDisruptionBudget"}:                    disruptionBudget,
	{Group: "argoproj.io", Kind: "Application"}:                       application,
	{Group: "argoproj.io", Kind: "ApplicationSet"}:                    applicationSet,
	{Group: "argoproj.io", Kind: "Workflow"}:                          workflow,
	{Group: "argoproj.io", Kind: "CronWorkflow"}:                      cronWorkflow,
	{Group: "argoproj.io", Kind: "Rollout"}:                           rollout,
}

func healthy(format string, args ...any) delivery.Health {
	return delivery.Health{Status: delivery.Healthy, Message: fmt.Sprintf(format, args...)}
}

func progressing(format string, args ...any) delivery.Health {
	return delivery.Health{Status: delivery.Progressing, Message: fmt.Sprintf(format, args...)}
}

func degraded(format string, args ...any) delivery.Health {
	return delivery.Health{Status: delivery.Degraded, Message: fmt.Sprintf(format, args...)}
}

// unobserved tells whether the kind's controller has not seen the last change yet.
func unobserved(f fields) bool {
	return f.number(0, "metadata", "generation") > f.number(0, "status", "observedGeneration")
}

func deployment(f fields) delivery.Health {
	if f.flag("spec", "paused") {
		return delivery.Health{Status: delivery.Suspended, Message: "Deployment is paused"}
	}
	if unobserved(f) {
		return progressing("Waiting for rollout to finish: observed deployment generation less than desired generation")
	}
	for _, c := range f.conditions() {
		if c.kind == "Progressing" && c.reason == "ProgressDeadlineExceeded" {
			return degraded("Deployment %q exceeded its progress deadline", f.text("metadata", "name"))
		}
	}
	updated, all := f.number(0, "status", "updatedReplicas"), f.number(0, "status", "replicas")
	switch want, available := f.number(0, "spec", "replicas"), f.number(0, "status", "availableReplicas"); {
	case updated < want:
		return progressing("Waiting for rollout to finish: %d out of %d new replicas have been updated...", updated, want)
	case all > updated:
		return progressing("Waiting for rollout to finish: %d old replicas are pending termination...", all-updated)
	case available < updated:
		return progressing("Waiting for rollout to finish: %d of %d updated replicas are available...", available, updated)
	}
	return healthy("")
}

func statefulSet(f fields) delivery.Health {
	if f.number(0, "status", "observedGeneration") == 0 || unobserved(f) {
		return progressing("Waiting for statefulset spec update to be observed...")
	}
	want, ready := f.number(-1, "spec", "replicas"), f.number(0, "status", "readyReplicas")
	if ready < want {
		return progressing("Waiting for %d pods to be ready...", want-ready)
	}
	updated := f.number(0, "status", "updatedReplicas")
	switch how := f.text("spec", "updateStrategy", "type"); {
	case how == "RollingUpdate" && f.at("spec", "updateStrategy", "rollingUpdate") != nil:
		if part := f.number(-1, "spec", "updateStrategy", "rollingUpdate", "partition"); want >= 0 && part >= 0 && updated < want-part {
			return progressing("Waiting for partitioned roll out to finish: %d out of %d new pods have been updated...", updated, want-part)
		}
		return healthy("partitioned roll out complete: %d new pods have been updated...", updated)
	case how == "OnDelete":
		return healthy("statefulset has %d ready pods", ready)
	}
	current, update := f.text("status", "currentRevision"), f.text("status", "updateRevision")
	if current != update {
		return progressing("waiting for statefulset rolling update to complete %d pods at revision %s...", updated, update)
	}
	return healthy("statefulset rolling update complete %d pods at revision %s...", f.number(0, "status", "currentReplicas"), current)
}

func daemonSet(f fields) delivery.Health {
	if unobserved(f) {
		return progressing("Waiting for rollout to finish: observed daemon set generation less than desired generation")
	}
	name, want := f.text("metadata", "name"), f.number(0, "status", "desiredNumberScheduled")
	updated, available := f.number(0, "status", "updatedNumberScheduled"), f.number(0, "status", "numberAvailable")
	switch {
	case f.text("spec", "updateStrategy", "type") == "OnDelete":
		return healthy("daemon set %d out of %d new pods have been updated", updated, want)
	case updated < want:
		return progressing("Waiting for daemon set %q rollout to finish: %d out of %d new pods have been updated...", name, updated, want)
	case available < want:
		return progressing("Waiting for daemon set %q rollout to finish: %d of %d updated pods are available...", name, available, want)
	}
	return healthy("")
}

func replicaSet(f fields) delivery.Health {
	if unobserved(f) {
		return progressing("Waiting for rollout to finish: observed replica set generation less than desired generation")
	}
	for _, c := range f.conditions() {
		if c.kind == "ReplicaFailure" && c.status == "True" {
			return degraded("%s", c.message)
		}
	}
	if want, available := f.number(0, "spec", "replicas"), f.number(0, "status", "availableReplicas"); available < want {
		return progressing("Waiting for rollout to finish: %d out of %d new replicas are available...", available, want)
	}
	return healthy("")
}

// pod judges a Pod that runs on by whether it is ready, and one that ends by whether it has: as a hook it would be over too early
// otherwise, and one that cannot start yet may still run.
func pod(f fields) delivery.Health {
	message := f.text("status", "message")
	goesOn := cmp.Or(f.text("spec", "restartPolicy"), "Always") == "Always"
	if f.text("metadata", "annotations", ignoreRestartPolicy) == "true" && !isHookOf(f) {
		goesOn = true
	}
	containers := f.objects("status", "containerStatuses")
	if goesOn {
		var why []string
		for _, c := range containers {
			reason := c.text("state", "waiting", "reason")
			if strings.HasPrefix(reason, "Err") || strings.HasSuffix(reason, "Error") || strings.HasSuffix(reason, "BackOff") {
				why = append(why, cmp.Or(c.text("state", "waiting", "message"), fmt.Sprintf("container %q is waiting: %s", c.text("name"), reason)))
			}
		}
		if len(why) > 0 {
			return degraded("%s", strings.Join(why, ", "))
		}
	}
	switch phase := f.text("status", "phase"); phase {
	case "Pending":
		return progressing("%s", message)
	case "Succeeded":
		return healthy("%s", message)
	case "Failed":
		return degraded("%s", cmp.Or(message, failed(append(f.objects("status", "initContainerStatuses"), containers...))))
	case "Running":
		return running(f, goesOn, containers, message)
	default:
		return delivery.Health{Status: delivery.UnknownHealth, Message: message}
	}
}

func running(f fields, goesOn bool, containers []fields, message string) delivery.Health {
	if !goesOn {
		return progressing("%s", message)
	}
	for _, c := range f.conditions() {
		if c.kind == "Ready" && c.status == "True" {
			return healthy("%s", message)
		}
	}
	for _, c := range containers {
		if c.at("lastState", "terminated") != nil {
			return degraded("%s", cmp.Or(message, failed([]fields{{object: map[string]any{
				"name": c.at("name"), "state": c.at("lastState"),
			}, where: c.where, err: c.err}})))
		}
	}
	return progressing("%s", message)
}

// failed says how the first container ended that did not end well.
func failed(containers []fields) string {
	for _, c := range containers {
		end := func(field string) string { return c.text("state", "terminated", field) }
		if c.at("state", "terminated") == nil {
			continue
		}
		code := c.number(0, "state", "terminated", "exitCode")
		switch {
		case end("message") != "":
			return end("message")
		case end("reason") == "OOMKilled":
			return "OOMKilled"
		case code != 0:
			return fmt.Sprintf("container %q failed with exit code %d", c.text("name"), code)
		}
	}
	return ""
}

func service(f fields) delivery.Health {
	if f.text("spec", "type") == "LoadBalancer" && len(f.list("status", "loadBalancer", "ingress")) == 0 {
		return progressing("Waiting for the load balancer to have an address")
	}
	return healthy("")
}

func ingress(f fields) delivery.Health {
	if len(f.list("status", "loadBalancer", "ingress")) == 0 {
		return progressing("Waiting for the load balancer to have an address")
	}
	return healthy("")
}

func claim(f fields) delivery.Health {
	switch phase := f.text("status", "phase"); phase {
	case "Bound":
		return healthy("")
	case "Pending":
		return progressing("Waiting for a volume")
	case "Lost":
		return degraded("Its volume is lost")
	default:
		return delivery.Health{Status: delivery.UnknownHealth, Message: strings.TrimSpace("phase " + phase)}
	}
}

func argoJob(f fields) delivery.Health {
	suspended := false
	var why string
	for _, c := range f.conditions() {
		switch {
		case c.status != "True":
		case c.kind == "Failed":
			return degraded("%s", c.message)
		case c.kind == "Complete":
			return healthy("%s", c.message)
		case c.kind == "Suspended":
			suspended, why = true, c.message
		}
	}
	if suspended {
		return delivery.Health{Status: delivery.Suspended, Message: why}
	}
	return progressing("")
}

// cronJob judges by its last run, as far as its status tells. One that is suspended is healthy, as Argo CD has it for now.
func cronJob(f fields) delivery.Health {
	// Times are in UTC and to the second: in the order of their text.
	scheduled, succeeded := f.text("status", "lastScheduleTime"), f.text("status", "lastSuccessfulTime")
	switch {
	case f.flag("spec", "suspend"):
		return healthy("CronJob is Suspended")
	case f.at("status") == nil:
		return progressing("Waiting for CronJob")
	case scheduled == "":
		return healthy("CronJob has not been scheduled yet")
	case succeeded == "":
		return healthy("The CronJob never completed successfully. It may not be healthy")
	case len(f.list("status", "active")) > 0:
		return healthy("The job is running. Its last execution may not have been successful")
	case succeeded < scheduled:
		return degraded("CronJob has not completed its last execution successfully")
	}
	return healthy("CronJob has completed its last execution successfully")
}

// autoscaler goes by the first condition that says anything. In autoscaling/v1 conditions are in an annotation.
func autoscaler(f fields) delivery.Health {
	conditions := f.conditions()
	if text := f.text("metadata", "annotations", "autoscaling.alpha.kubernetes.io/conditions"); text != "" && f.text("apiVersion") == "autoscaling/v1" {
		var told []struct{ Type, Status, Reason, Message string }
		if err := json.Unmarshal([]byte(text), &told); err != nil {
			return delivery.Health{Status: delivery.UnknownHealth, Message: "failed to convert conditions annotation to typed: " + err.Error()}
		}
		for _, c := range told {
			conditions = append(conditions, condition{c.Type, c.Status, c.Reason, c.Message})
		}
	}
	for _, c := range conditions {
		switch c.kind + " " + c.reason {
		case "AbleToScale FailedGetScale", "AbleToScale FailedUpdateScale", "ScalingActive FailedGetResourceMetric", "ScalingActive InvalidSelector":
			return degraded("%s", c.message)
		}
		if (c.kind == "AbleToScale" || c.kind == "ScalingLimited") && c.status == "True" {
			return healthy("%s", c.message)
		}
	}
	return progressing("Waiting to Autoscale")
}

func apiService(f fields) delivery.Health {
	for _, c := range f.conditions() {
		switch {
		case c.kind != "Available":
		case c.status == "True":
			return healthy("%s: %s", c.reason, c.message)
		default:
			return progressing("%s: %s", c.reason, c.message)
		}
	}
	return progressing("Waiting to be processed")
}

func definition(f fields) delivery.Health {
	conditions := f.conditions()
	if len(conditions) == 0 {
		return progressing("Status conditions not found")
	}
	established := false
	for _, c := range conditions {
		switch c.kind + " " + c.status {
		case "Terminating True":
			return progressing("CRD is terminating: %s", c.message)
		case "NamesAccepted False":
			return degraded("CRD names have not been accepted: %s", c.message)
		case "NonStructuralSchema True":
			return degraded("Schema violations found: %s", c.message)
		case "Established True":
			established = true
		case "Established False":
			if c.reason == "InvalidCABundle" {
				return degraded("CRD is not established: %s", c.message)
			}
		}
	}
	if !established {
		return progressing("CRD is not established")
	}
	return healthy("CRD is healthy")
}

// disruptionBudget is degraded where its controller cannot tell, not where it forbids disruptions.
func disruptionBudget(f fields) delivery.Health {
	h := progressing("Waiting for status")
	for _, c := range f.conditions() {
		if c.status == "False" && c.reason != "InsufficientPods" {
			return degraded("PodDisruptionBudget has %s", c.reason)
		}
		h = healthy("PodDisruptionBudget has %s", c.reason)
	}
	return h
}
