package main

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"time"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/yaml"
)

// A fleet of HelmReleases: all of one chart, in a folder of the fleet's repository, with four objects: those of every other fleet but for
// one ConfigMap.

var (
	helmReleases = schema.GroupVersionResource{Group: "helm.toolkit.fluxcd.io", Version: "v2", Resource: "helmreleases"}
	secrets      = schema.GroupVersionResource{Version: "v1", Resource: "secrets"}
)

const (
	// helmFleet is how many HelmReleases are brought into a cluster, objectsPerRelease what the chart makes.
	helmFleet, objectsPerRelease = 500, 4
	// releaseBytes is the size of the release in its Secret, as Helm writes it: compressed and encoded.
	releaseBytes = 3600
)

// chart gives the files of the fleet's repository.
func (f fleet) chart() (map[string]string, error) {
	files := map[string]string{
		"chart/Chart.yaml":  "apiVersion: v2\nname: app\nversion: 1.0.0\nappVersion: 1.0.0\n",
		"chart/values.yaml": "value: " + firstValue + "\n",
	}
	like := fleet{name: "NAMESPACE", apps: 1, repositories: 1}
	for _, it := range like.items(0, "VALUE") {
		if it.object.GetName() == like.config(0, 2) {
			continue
		}
		y, err := yaml.Marshal(it.object.Object)
		if err != nil {
			return nil, err
		}
		files["chart/templates/"+it.file] = strings.NewReplacer(
			like.namespace(0), "{{ .Release.Namespace }}", like.app(0), "{{ .Release.Name }}", "VALUE", "{{ .Values.value }}",
		).Replace(string(y))
	}
	return files, nil
}

// release declares an app.
func (f fleet) release(i int) *unstructured.Unstructured {
	return &unstructured.Unstructured{Object: map[string]any{
		"apiVersion": "helm.toolkit.fluxcd.io/v2", "kind": "HelmRelease",
		"metadata": map[string]any{"namespace": f.home(), "name": f.app(i)},
		"spec": map[string]any{
			"interval": "1h", "releaseName": f.app(i), "targetNamespace": f.namespace(i), "storageNamespace": f.namespace(i),
			"chart": map[string]any{"spec": map[string]any{
				"chart": "./chart", "sourceRef": map[string]any{"kind": "GitRepository", "name": f.repository(i)},
			}},
			"values": map[string]any{"value": fmt.Sprintf("of %d", i)},
		},
	}}
}

// releasedAt tells whether a HelmRelease is ready as it is declared, its newest release deployed.
func releasedAt(u *unstructured.Unstructured) bool {
	observed, _, _ := unstructured.NestedInt64(u.Object, "status", "observedGeneration")
	history, _, _ := unstructured.NestedSlice(u.Object, "status", "history")
	if observed != u.GetGeneration() || condition(u, "Ready") != "True" || len(history) == 0 {
		return false
	}
	newest, _ := history[0].(map[string]any)
	return newest["status"] == "deployed"
}

// releaseWrites are those that the release of one app cannot do without: the user's own create of the HelmRelease, the release's Secret
// before and after, an apply of each object, a patch of the status, and an event.
func (f fleet) releaseWrites(i int) ([]write, error) {
	declared := f.release(i)
	declared.Object["spec"].(map[string]any)["suspend"] = true // whoever runs later leaves it alone
	now := time.Now().UTC().Format(time.RFC3339)
	stored := func(status string) map[string]any {
		noise := make([]byte, releaseBytes)
		for i := range noise {
			noise[i] = byte(rand.Uint32())
		}
		return map[string]any{
			"apiVersion": "v1", "kind": "Secret", "type": "helm.sh/release.v1",
			"metadata": map[string]any{"namespace": f.namespace(i), "name": "sh.helm.release.v1." + f.app(i) + ".v1", "labels": map[string]any{
				"name": f.app(i), "owner": "bench", "status": status, "version": "1",
			}},
			"data": map[string]any{"release": base64.StdEncoding.EncodeToString(noise)},
		}
	}
	snapshot := map[string]any{
		"apiVersion": "v2", "digest": "sha256:" + strings.Repeat("0123", 16), "configDigest": "sha256:" + strings.Repeat("4567", 16),
		"chartName": "app", "chartVersion": "1.0.0", "appVersion": "1.0.0", "firstDeployed": now, "lastDeployed": now,
		"name": f.app(i), "namespace": f.namespace(i), "status": "deployed", "version": 1,
	}
	ready := func(kind string) map[string]any {
		return map[string]any{
			"type": kind, "status": "True", "reason": "InstallSucceeded", "observedGeneration": 1, "lastTransitionTime": now,
			"message": "Helm install succeeded for release " + f.namespace(i) + "/" + f.app(i) + ".v1 with chart app@1.0.0",
		}
	}
	status := map[string]any{"status": map[string]any{
		"conditions": []any{ready("Ready"), ready("Released")}, "history": []any{snapshot}, "observedGeneration": 1,
		"lastAttemptedConfigDigest": snapshot["configDigest"], "lastAttemptedGeneration": 1, "lastAttemptedReleaseAction": "install",
		"lastAttemptedRevision": "1.0.0", "storageNamespace": f.namespace(i),
	}}
	event := map[string]any{
		"apiVersion": "v1", "kind": "Event",
		"metadata": map[string]any{"namespace": f.home(), "name": f.app(i) + ".1"},
		"involvedObject": map[string]any{
			"apiVersion": "helm.toolkit.fluxcd.io/v2", "kind": "HelmRelease", "namespace": f.home(), "name": f.app(i),
		},
		"type": "Normal", "reason": "InstallSucceeded", "count": 1, "firstTimestamp": now, "lastTimestamp": now,
		"source": map[string]any{"component": fieldManager}, "message": ready("Ready")["message"],
	}
	kept := func(status string) map[string]any {
		s := stored(status)
		return map[string]any{"metadata": map[string]any{"labels": s["metadata"].(map[string]any)["labels"]}, "data": s["data"]}
	}
	objects := f.items(i, firstValue)
	all := []unencoded{{"", pathOf(helmReleases, f.home(), ""), declared.Object}, {"", pathOf(secrets, f.namespace(i), ""), stored("pending-install")}}
	for _, it := range objects {
		if it.object.GetName() != f.config(i, 2) {
			all = append(all, unencoded{types.ApplyPatchType, pathOf(it.resource, f.namespace(i), it.object.GetName()), it.object.Object})
		}
	}
	return encoded(append(all,
		unencoded{types.MergePatchType, pathOf(secrets, f.namespace(i), "sh.helm.release.v1."+f.app(i)+".v1"), kept("deployed")},
		unencoded{types.MergePatchType, pathOf(helmReleases, f.home(), f.app(i)) + "/status", status},
		unencoded{"", pathOf(schema.GroupVersionResource{Version: "v1", Resource: "events"}, f.home(), ""), event},
	))
}

// unencoded is a [write] whose body is still an object.
type unencoded struct {
	verb   types.PatchType
	path   string
	object map[string]any
}

func encoded(writes []unencoded) ([]write, error) {
	all := make([]write, len(writes))
	var errs []error
	for i, w := range writes {
		body, err := json.Marshal(w.object)
		all[i], errs = write{w.verb, w.path, body}, append(errs, err)
	}
	return all, errors.Join(errs...)
}

// measureHelmCold brings HelmReleases into clusters of their own, a few times, and makes the same writes by hand on the same cluster: the
// floor.
func (b *bench) measureHelmCold(ctx context.Context) error {
	workers, err := b.floorConcurrency(ctx)
	if err != nil {
		return err
	}
	var s coldSamples
	var details []map[string]any
	for run := range b.coldRuns {
		detail, err := b.coldRun(ctx, fleet{helm: true}, helmFleet, run, workers, &s)
		if err != nil {
			return fmt.Errorf("run %d: %w", run, err)
		}
		details = append(details, detail)
	}
	return errors.Join(
		b.add(Result{Name: "helm-cold", Unit: "s", Floor: "helm-cold-floor", Detail: map[string]any{"runs": details}, What: fmt.Sprintf(
			"the first of %d HelmReleases created to the last one seen ready by a watch; %d objects", helmFleet, helmFleet*objectsPerRelease)}, s.took),
		b.add(Result{Name: "helm-cold-floor", Unit: "s", Detail: map[string]any{"workers": workers},
			What: "the same HelmReleases created, the same objects by bare server-side apply, two writes of a Secret, one status patch and one event per release"}, s.floor),
		b.add(Result{Name: "helm-cold-ratio", Unit: "×", Target: target(1.5), What: "the two of one run, divided"}, s.ratio),
		b.add(Result{Name: "helm-cold-cpu", Unit: "s", What: "CPU time of Keelson meanwhile"}, s.cpu),
		b.add(Result{Name: "helm-cold-cluster-cpu", Unit: "s", What: "CPU time of all of the cluster's processes meanwhile"}, s.clusterCPU),
		b.add(Result{Name: "helm-cold-requests", Unit: "requests", What: "requests of Keelson meanwhile, without watches and lease"}, s.requests),
		b.add(Result{Name: "helm-cold-memory", Unit: "MiB", Target: target(250), What: "peak resident memory of Keelson (VmHWM)"}, s.memory),
	)
}

// measureHelmSteady watches the fleet of HelmReleases at rest.
func (b *bench) measureHelmSteady(ctx context.Context) error {
	w, err := b.bringFleet(ctx, "helm-fleet", fleet{name: "fleet", apps: helmFleet, repositories: 1, helm: true})
	if err != nil {
		return err
	}
	say("at rest in a moment")
	if err := pause(ctx, 30*time.Second); err != nil {
		return err
	}
	size := fmt.Sprintf("%d HelmReleases, %d objects", helmFleet, helmFleet*objectsPerRelease)
	err = b.watchSteady(ctx, w.keelson.pid(), w.auditLog, b.window, steadyOf{
		requests: Result{Name: "helm-steady-requests", Target: target(0), What: "requests of Keelson other than watches and its lease, " + size},
		cpu:      Result{Name: "helm-steady-cpu", Target: target(0.5), What: "CPU time of Keelson a minute, " + size},
		memory:   Result{Name: "helm-memory", Target: target(250), What: "resident memory of Keelson at rest (VmRSS), every second, " + size},
	})
	return errors.Join(err, w.close())
}
