package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"syscall"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
)

// coldSamples is what the cold starts of one size gave, one value a run.
type coldSamples struct{ took, floor, ratio, cpu, clusterCPU, memory, requests []float64 }

// measureCold brings fleets of every size into clusters of their own, each a few times, and makes the same writes by hand on
// the same cluster: the floor.
func (b *bench) measureCold(ctx context.Context) error {
	workers, err := b.floorConcurrency(ctx)
	if err != nil {
		return err
	}
	for _, n := range b.sizes {
		var s coldSamples
		var details []map[string]any
		for run := range b.coldRuns {
			detail, err := b.coldRun(ctx, fleet{}, n, run, workers, &s)
			if err != nil {
				return fmt.Errorf("%d apps, run %d: %w", n, run, err)
			}
			details = append(details, detail)
		}
		name := fmt.Sprintf("cold-%d", n)
		err := errors.Join(
			b.add(Result{Name: name, Unit: "s", Floor: name + "-floor", Detail: map[string]any{"runs": details},
				What: fmt.Sprintf("the first of %d Kustomizations created to the last one seen ready by a watch; %d objects", n, n*objectsPerApp)}, s.took),
			b.add(Result{Name: name + "-floor", Unit: "s", Detail: map[string]any{"workers": workers},
				What: "the same Kustomizations created, the same objects by bare server-side apply, one status patch and one event per app"}, s.floor),
			b.add(Result{Name: name + "-ratio", Unit: "×", Target: target(1.3), What: "the two of one run, divided"}, s.ratio),
			b.add(Result{Name: name + "-cpu", Unit: "s", What: "CPU time of Keelson meanwhile"}, s.cpu),
			b.add(Result{Name: name + "-cluster-cpu", Unit: "s", What: "CPU time of all of the cluster's processes meanwhile"}, s.clusterCPU),
			b.add(Result{Name: name + "-requests", Unit: "requests", What: "requests of Keelson meanwhile, without watches and lease"}, s.requests),
			b.add(Result{Name: name + "-memory", Unit: "MiB", What: "peak resident memory of Keelson (VmHWM)"}, s.memory),
		)
		if err != nil {
			return err
		}
	}
	return nil
}

// coldRun takes one sample of everything about a fleet of n apps like another one. A cluster gets slower as it fills, whoever fills it; so
// the floor is measured before and after, and its mean is what counts.
func (b *bench) coldRun(ctx context.Context, like fleet, n, run, workers int, s *coldSamples) (map[string]any, error) {
	w, err := b.newWorld(ctx, fmt.Sprintf("cold-%v-%d-%d", like.helm, n, run))
	if err != nil {
		return nil, err
	}
	of := func(name string) fleet { return fleet{name: name, apps: n, repositories: 1, helm: like.helm} }
	before, err := w.floor(ctx, of("before"), workers)
	if err != nil {
		return nil, err
	}
	whole := of("fleet")
	whole.repositories = b.repositories
	detail, took, err := w.coldStart(ctx, whole, s)
	if err != nil {
		return nil, err
	}
	if err := w.stopKeelson(syscall.SIGTERM); err != nil {
		return nil, err
	}
	after, err := w.floor(ctx, of("after"), workers)
	if err != nil {
		return nil, err
	}
	floor := (before.took + after.took).Seconds() / 2
	s.took, s.floor = append(s.took, took.Seconds()), append(s.floor, floor)
	s.ratio = append(s.ratio, took.Seconds()/floor)
	detail["floorsCPU"] = []any{before.cpu.detail(), after.cpu.detail()}
	say("%d apps: %.2f s, floor %.2f s before and %.2f s after, ratio %.2f", n, took.Seconds(), before.took.Seconds(), after.took.Seconds(),
		took.Seconds()/floor)
	say("Keelson's requests: %v; CPU: %v; the floors': %v", detail["requests"], detail["cpu"], detail["floorsCPU"])
	return detail, w.close()
}

// coldStart brings a fleet into the cluster and tells what it took.
func (w *world) coldStart(ctx context.Context, f fleet, s *coldSamples) (map[string]any, time.Duration, error) {
	if _, _, err := w.startKeelson(ctx); err != nil {
		return nil, 0, err
	}
	if err := w.prepare(ctx, f); err != nil {
		return nil, 0, err
	}
	if err := w.rest(ctx); err != nil {
		return nil, 0, err
	}
	before, err := w.cpu()
	if err != nil {
		return nil, 0, err
	}
	t, err := w.bring(ctx)
	if err != nil {
		return nil, 0, err
	}
	after, err1 := w.cpu()
	memory, err2 := memoryOf(w.keelson.pid())
	requests, err3 := trafficIn(ctx, w.auditLog, t.first, t.last)
	if err := errors.Join(err1, err2, err3); err != nil {
		return nil, 0, err
	}
	use := after.sub(before)
	s.cpu, s.clusterCPU = append(s.cpu, use[keelsonCPU].Seconds()), append(s.clusterCPU, use.cluster().Seconds())
	s.memory, s.requests = append(s.memory, memory.peak), append(s.requests, float64(requests.total()))
	return map[string]any{
		"declared": t.declared.Sub(t.first).Seconds(), "cpu": use.detail(), "requests": requests.byApps,
	}, t.last.Sub(t.first), nil
}

// write is one request of the floor, made up beforehand.
type write struct {
	verb types.PatchType // empty: a POST
	path string
	body []byte
}

// floorRun is how long the bare writes took, and what of the machine.
type floorRun struct {
	took time.Duration
	cpu  cpuUse
}

// floor makes all writes for a fleet that a delivery cannot do without: the user's own create of the Kustomization, a forced
// server-side apply of each object, a patch of the app's status, and an event about it. The bodies are made beforehand and
// the answers are not decoded. The Kustomizations are removed after; Keelson does not run meanwhile.
func (w *world) floor(ctx context.Context, f fleet, workers int) (floorRun, error) {
	do, err := w.writer()
	if err != nil {
		return floorRun{}, err
	}
	warm := fleet{name: f.name + "-warm", apps: floorWarm, repositories: 1, helm: f.helm}
	all, err1 := w.prepareWrites(ctx, f)
	first, err2 := w.prepareWrites(ctx, warm)
	if err := errors.Join(err1, err2, makeWrites(ctx, do, first, floorWarm)); err != nil {
		return floorRun{}, err
	}
	if err := w.rest(ctx); err != nil {
		return floorRun{}, err
	}
	before, err := w.cpu()
	if err != nil {
		return floorRun{}, err
	}
	start := time.Now()
	err = makeWrites(ctx, do, all, workers)
	took := time.Since(start)
	if err != nil {
		return floorRun{}, err
	}
	after, err := w.cpu()
	if err != nil {
		return floorRun{}, err
	}
	for _, home := range []string{f.home(), warm.home()} {
		if err := w.dynamic.Resource(f.resource()).Namespace(home).DeleteCollection(ctx, metav1.DeleteOptions{}, metav1.ListOptions{}); err != nil {
			return floorRun{}, err
		}
	}
	return floorRun{took, after.sub(before)}, w.rest(ctx)
}

// floorWarm is for how many apps the floor's writes are made beforehand: the first write of a kind takes longer, and a
// Keelson that waits for the fleet has made some.
const floorWarm = 4

// prepareWrites makes the namespaces of a fleet, and up the floor's writes for it.
func (w *world) prepareWrites(ctx context.Context, f fleet) ([][]write, error) {
	all := make([][]write, f.apps)
	err := w.makeNamespaces(ctx, f)
	for i := range all {
		var werr error
		all[i], werr = f.writes(i)
		err = errors.Join(err, werr)
	}
	return all, err
}

// makeWrites makes the writes of some apps at once, those of an app one after the other.
func makeWrites(ctx context.Context, do func(context.Context, write) error, apps [][]write, workers int) error {
	return each(ctx, workers, len(apps), func(ctx context.Context, i int) error {
		for _, wr := range apps[i] {
			if err := do(ctx, wr); err != nil {
				return fmt.Errorf("%s: %w", wr.path, err)
			}
		}
		return nil
	})
}

// writer makes requests with client-go and nothing above it.
func (w *world) writer() (func(context.Context, write) error, error) {
	cfg, err := clientcmd.BuildConfigFromFlags("", w.Kubeconfig)
	if err != nil {
		return nil, fmt.Errorf("read kubeconfig: %w", err)
	}
	cfg.QPS, cfg.Burst, cfg.UserAgent = -1, -1, fieldManager
	cfg.GroupVersion, cfg.NegotiatedSerializer = &schema.GroupVersion{}, scheme.Codecs.WithoutConversion()
	c, err := rest.UnversionedRESTClientFor(cfg)
	if err != nil {
		return nil, err
	}
	return func(ctx context.Context, wr write) error {
		if wr.verb == "" {
			return c.Post().AbsPath(wr.path).Body(wr.body).SetHeader("Content-Type", "application/json").Do(ctx).Error()
		}
		r := c.Patch(wr.verb).AbsPath(wr.path).Param("fieldManager", fieldManager)
		if wr.verb == types.ApplyPatchType {
			r = r.Param("force", "true")
		}
		return r.Body(wr.body).Do(ctx).Error()
	}, nil
}

// writes are those for one app.
func (f fleet) writes(i int) ([]write, error) {
	if f.helm {
		return f.releaseWrites(i)
	}
	k := f.kustomization(i)
	k.Object["spec"].(map[string]any)["suspend"] = true // whoever runs later leaves it alone
	body, err := json.Marshal(k.Object)
	if err != nil {
		return nil, err
	}
	all := []write{{"", pathOf(kustomizations, f.home(), ""), body}}
	entries := []any{}
	for _, it := range f.items(i, firstValue) {
		body, err := json.Marshal(it.object.Object)
		if err != nil {
			return nil, err
		}
		all = append(all, write{types.ApplyPatchType, pathOf(it.resource, f.namespace(i), it.object.GetName()), body})
		id := strings.Join([]string{f.namespace(i), it.object.GetName(), it.resource.Group, it.object.GetKind()}, "_")
		entries = append(entries, map[string]any{"id": id, "v": it.resource.Version})
	}
	revision := "main@sha1:" + strings.Repeat("0123456789", 4)
	now := time.Now().UTC().Format(time.RFC3339)
	ready := func(kind, reason string) map[string]any {
		return map[string]any{
			"type": kind, "status": "True", "reason": reason, "observedGeneration": 1, "lastTransitionTime": now,
			"message": "Applied revision: " + revision,
		}
	}
	status, err1 := json.Marshal(map[string]any{"status": map[string]any{
		"conditions":         []any{ready("Ready", "ReconciliationSucceeded"), ready("Healthy", "Succeeded")},
		"observedGeneration": 1, "lastAppliedRevision": revision, "lastAttemptedRevision": revision,
		"inventory": map[string]any{"entries": entries},
	}})
	event, err2 := json.Marshal(map[string]any{
		"apiVersion": "v1", "kind": "Event",
		"metadata": map[string]any{"namespace": f.home(), "name": f.app(i) + ".1"},
		"involvedObject": map[string]any{
			"apiVersion": "kustomize.toolkit.fluxcd.io/v1", "kind": "Kustomization", "namespace": f.home(), "name": f.app(i),
		},
		"type": "Normal", "reason": "Progressing", "count": 1, "firstTimestamp": now, "lastTimestamp": now,
		"source":  map[string]any{"component": fieldManager},
		"message": strings.Repeat("ConfigMap/fleet-00/app-0000-config-1 created\n", objectsPerApp),
	})
	return append(all,
		write{types.MergePatchType, pathOf(kustomizations, f.home(), f.app(i)) + "/status", status},
		write{"", pathOf(schema.GroupVersionResource{Version: "v1", Resource: "events"}, f.home(), ""), event},
	), errors.Join(err1, err2)
}

func pathOf(r schema.GroupVersionResource, namespace, name string) string {
	base := "/apis/" + r.Group + "/"
	if r.Group == "" {
		base = "/api/"
	}
	return strings.TrimSuffix(base+r.Version+"/namespaces/"+namespace+"/"+r.Resource+"/"+name, "/")
}

// floorConcurrency finds out with how many requests at once the floor is fastest, on a cluster that is not used again.
func (b *bench) floorConcurrency(ctx context.Context) (int, error) {
	w, err := b.newWorld(ctx, "concurrency")
	if err != nil {
		return 0, err
	}
	took := map[int]time.Duration{}
	for round := range 3 { // the first warms up; of the others the faster one counts
		for _, workers := range []int{4, 16, 64} {
			run, err := w.floor(ctx, fleet{name: fmt.Sprintf("try-%d-%d", round, workers), apps: 100, repositories: 1}, workers)
			if err != nil {
				return 0, err
			}
			if round == 1 || round > 1 && run.took < took[workers] {
				took[workers] = run.took
			}
		}
	}
	best := slices.MinFunc(slices.Collect(maps.Keys(took)), func(x, y int) int { return int(took[x] - took[y]) })
	say("the floor's writes for 100 apps took %v; %d at once it is", took, best)
	return best, w.close()
}
