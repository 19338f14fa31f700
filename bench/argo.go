package main

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"time"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
)

// The same fleets are measured as Applications of Argo CD. What they are compared with is not a floor but the other dialect, in
// the same run: both are delivered by one engine.

var applications = schema.GroupVersionResource{Group: "argoproj.io", Version: "v1alpha1", Resource: "applications"}

// argoHome is the namespace that Applications live in.
const argoHome = "argocd"

// dialectRatio is what Applications may cost at most, of what Kustomizations do.
const dialectRatio = 1.1

// application declares an app that is synced by itself, in the namespace of Argo CD.
func application(name, url, path, namespace string) *unstructured.Unstructured {
	return &unstructured.Unstructured{Object: map[string]any{
		"apiVersion": "argoproj.io/v1alpha1", "kind": "Application",
		"metadata": map[string]any{"namespace": argoHome, "name": name, "finalizers": []any{"resources-finalizer.argocd.argoproj.io"}},
		"spec": map[string]any{
			"project":     "default",
			"source":      map[string]any{"repoURL": url, "path": path, "targetRevision": "main"},
			"destination": map[string]any{"server": "https://kubernetes.default.svc", "namespace": namespace},
			"syncPolicy":  map[string]any{"automated": map[string]any{"prune": true, "selfHeal": true}},
		},
	}}
}

// syncedAt tells whether an Application is in sync and healthy at a commit, and nothing is under way; an empty commit means any.
func syncedAt(u *unstructured.Unstructured, commit string) bool {
	text := func(fields ...string) string {
		s, _, _ := unstructured.NestedString(u.Object, append([]string{"status"}, fields...)...)
		return s
	}
	return text("sync", "status") == "Synced" && text("health", "status") == "Healthy" && text("operationState", "phase") == "Succeeded" &&
		(commit == "" || text("sync", "revision") == commit)
}

// pair are samples of the two dialects.
type pair struct{ flux, argo []float64 }

func (p pair) ratios() []float64 {
	all := make([]float64, len(p.argo))
	for i := range all {
		all[i] = p.argo[i] / p.flux[i]
	}
	return all
}

// addPair adds both figures and what one is of the other.
func (b *bench) addPair(name, unit, what string, p pair) error {
	return errors.Join(
		b.add(Result{Name: name, Unit: unit, Floor: name + "-flux", What: what + ", of Applications"}, p.argo),
		b.add(Result{Name: name + "-flux", Unit: unit, What: what + ", of Kustomizations"}, p.flux),
		b.add(Result{Name: name + "-ratio", Unit: "×", Target: target(dialectRatio), What: "the two of one round, divided"}, p.ratios()),
	)
}

// measureArgoCold brings fleets of every size into clusters of their own, as Kustomizations and as Applications in turn.
func (b *bench) measureArgoCold(ctx context.Context) error {
	for _, n := range b.sizes {
		var flux, argo coldSamples
		var took pair
		for run := range b.coldRuns {
			for _, of := range []struct {
				argo bool
				s    *coldSamples
				took *[]float64
			}{{false, &flux, &took.flux}, {true, &argo, &took.argo}} {
				name := map[bool]string{false: "flux", true: "argo"}[of.argo]
				w, err := b.newWorld(ctx, fmt.Sprintf("%s-cold-%d-%d", name, n, run))
				if err != nil {
					return err
				}
				detail, t, err := w.coldStart(ctx, fleet{name: "fleet", apps: n, repositories: b.repositories, argo: of.argo}, of.s)
				if err != nil {
					return fmt.Errorf("%s, %d apps, run %d: %w", name, n, run, err)
				}
				*of.took = append(*of.took, t.Seconds())
				say("%s, %d apps: %.2f s; %v", name, n, t.Seconds(), detail)
				if err := w.close(); err != nil {
					return err
				}
			}
		}
		name := fmt.Sprintf("argo-cold-%d", n)
		err := errors.Join(
			b.addPair(name, "s", fmt.Sprintf("the first of %d apps created to the last one seen ready by a watch; %d objects", n, n*objectsPerApp), took),
			b.addPair(name+"-requests", "requests", "requests of Keelson meanwhile, without watches and lease", pair{flux.requests, argo.requests}),
			b.addPair(name+"-cpu", "s", "CPU time of Keelson meanwhile", pair{flux.cpu, argo.cpu}),
			b.addPair(name+"-memory", "MiB", "peak resident memory of Keelson (VmHWM)", pair{flux.memory, argo.memory}),
		)
		if err != nil {
			return err
		}
	}
	return nil
}

// theArgoFleet is the largest fleet as Applications, all synced and at rest.
func (b *bench) theArgoFleet(ctx context.Context) (*world, error) {
	if b.argoWorld == nil {
		w, err := b.bringFleet(ctx, "argo-fleet", fleet{name: "fleet", apps: b.sizes[len(b.sizes)-1], repositories: b.repositories, argo: true})
		if err != nil {
			return nil, err
		}
		b.argoWorld = w
	}
	return b.argoWorld, nil
}

// measureArgoDrift edits one object, and a hundred at once, in a fleet of each dialect in turn.
func (b *bench) measureArgoDrift(ctx context.Context) error {
	flux, err := b.theFleet(ctx)
	if err != nil {
		return err
	}
	argo, err := b.theArgoFleet(ctx)
	if err != nil {
		return err
	}
	for _, c := range driftRounds(b, argo) {
		var p pair
		for round := range c.rounds + 1 {
			f, err := flux.someHarm(c.objects).round(ctx)
			if err != nil {
				return fmt.Errorf("%s, Kustomizations, round %d: %w", c.name, round, err)
			}
			a, err := argo.someHarm(c.objects).round(ctx)
			if err != nil {
				return fmt.Errorf("%s, Applications, round %d: %w", c.name, round, err)
			}
			if round > 0 { // the first warms up
				p.flux, p.argo = append(p.flux, milliseconds(f)), append(p.argo, milliseconds(a))
			}
		}
		name := strings.Replace(c.name, "fleet", "argo", 1)
		if err := b.addPair(name, "ms", fmt.Sprintf("edits of %d ConfigMaps in as many of %d apps: start of the first to the last repair seen by a watch", c.objects, argo.fleet.apps), p); err != nil {
			return err
		}
	}
	return nil
}

// measureArgoSteady watches the fleet of Applications at rest.
func (b *bench) measureArgoSteady(ctx context.Context) error {
	w, err := b.theArgoFleet(ctx)
	if err != nil {
		return err
	}
	say("at rest in a moment")
	if err := pause(ctx, 30*time.Second); err != nil {
		return err
	}
	size := fmt.Sprintf("%d Applications, %d objects", w.fleet.apps, w.fleet.apps*objectsPerApp)
	return b.watchSteady(ctx, w.keelson.pid(), w.auditLog, b.window, steadyOf{
		requests: Result{Name: "argo-steady-requests", Target: target(0), What: "requests of Keelson other than watches and its lease, " + size},
		cpu:      Result{Name: "argo-steady-cpu", Target: target(0.5), What: "CPU time of Keelson a minute, " + size},
		memory:   Result{Name: "argo-memory", Target: target(200), What: "resident memory of Keelson at rest (VmRSS), every second, " + size},
	})
}

// largeObjects is how many objects the one large app has.
const largeObjects = 500

// measureArgoLarge brings one app of many objects into a cluster, as a Kustomization and as an Application in turn, changes one line
// of it, and leaves it alone.
func (b *bench) measureArgoLarge(ctx context.Context) error {
	var cold, live, requests, changes pair
	for run := range b.coldRuns {
		for _, of := range []struct {
			argo                          bool
			cold, live, requests, changes *[]float64
		}{{false, &cold.flux, &live.flux, &requests.flux, &changes.flux}, {true, &cold.argo, &live.argo, &requests.argo, &changes.argo}} {
			l, err := b.largeRun(ctx, run, of.argo)
			if err != nil {
				return fmt.Errorf("run %d, Application %v: %w", run, of.argo, err)
			}
			*of.cold, *of.live = append(*of.cold, l.cold.Seconds()), append(*of.live, milliseconds(l.live))
			*of.requests, *of.changes = append(*of.requests, float64(l.requests)), append(*of.changes, float64(l.changes))
		}
	}
	size := fmt.Sprintf("an app of %d objects", largeObjects)
	return errors.Join(
		b.addPair("large-cold", "s", size+" created until it is seen ready by a watch", cold),
		b.addPair("large-cold-requests", "requests", "requests of Keelson meanwhile, without watches and lease", requests),
		b.addPair("large-commit", "ms", "end of git push of one line of "+size+" to the change seen by a watch", live),
		b.addPair("large-commit-requests", "requests", "requests of Keelson from that push until the app is ready at it, and for 10 s of rest after", changes),
	)
}

// largeApp is what one run with a large app gave.
type largeApp struct {
	cold, live        time.Duration
	requests, changes int
}

func (b *bench) largeRun(ctx context.Context, run int, argo bool) (largeApp, error) {
	w, err := b.newWorld(ctx, fmt.Sprintf("large-%d-%v", run, argo))
	if err != nil {
		return largeApp{}, err
	}
	if _, _, err := w.startKeelson(ctx); err != nil {
		return largeApp{}, err
	}
	w.fleet = fleet{name: "large", apps: 1, repositories: 1, argo: argo}
	if err := w.makeNamespaces(ctx, w.fleet); err != nil {
		return largeApp{}, err
	}
	namespace := w.fleet.namespace(0)
	file := func(i int, value string) (string, string) {
		name := fmt.Sprintf("object-%03d", i)
		return "app/" + name + ".yaml", fmt.Sprintf("apiVersion: v1\nkind: ConfigMap\nmetadata: {name: %s, namespace: %s}\ndata: {value: %q, text: %q}\n",
			name, namespace, value, strings.Repeat("x", 200))
	}
	files := map[string]string{}
	for i := range largeObjects {
		name, text := file(i, firstValue)
		files[name] = text
	}
	clone, commit, err := b.makeRepository(ctx, &w.instance, filepath.Join(w.dir, "clone"), "large", files)
	if err != nil {
		return largeApp{}, err
	}
	base, err := w.readURL()
	if err != nil {
		return largeApp{}, err
	}
	object := application("large", base+"/large.git", "app", namespace)
	if !argo {
		object = kustomization(w.fleet.home(), "large", "large", "./app")
		if err := w.declareSource(ctx, w.fleet.home(), "large", base+"/large.git"); err != nil {
			return largeApp{}, err
		}
	}
	if err := w.rest(ctx); err != nil {
		return largeApp{}, err
	}
	apps, err := w.observe(ctx, w.fleet.resource(), w.fleet.home())
	if err != nil {
		return largeApp{}, err
	}
	defer apps.stop()
	begun := time.Now()
	if err := w.createObject(ctx, w.fleet.resource(), object); err != nil {
		return largeApp{}, err
	}
	ready := func(commit string) func(event) bool {
		return func(e event) bool { return e.object.GetName() == "large" && w.fleet.ready(e.object, commit) }
	}
	at, mark, err := apps.awaitFor(ctx, fleetLimit, 0, "the large app", ready(commit))
	if err != nil {
		return largeApp{}, err
	}
	out := largeApp{cold: at.at.Sub(begun)}
	traffic, err := trafficIn(ctx, w.auditLog, begun, at.at)
	if err != nil {
		return out, err
	}
	out.requests = traffic.total()
	if err := w.rest(ctx); err != nil {
		return out, err
	}
	name, text := file(largeObjects/2, "second")
	if err := clone.write(map[string]string{name: text}); err != nil {
		return out, err
	}
	if commit, err = clone.commit(ctx, "Change one line"); err != nil {
		return out, err
	}
	objects, err := w.observe(ctx, configMaps, namespace)
	if err != nil {
		return out, err
	}
	defer objects.stop()
	from := objects.mark()
	start, end, err := clone.push(ctx)
	if err != nil {
		return out, err
	}
	live, _, err := objects.await(ctx, from, "the commit's change", func(e event) bool { return valueOf(e.object) == "second" })
	if err != nil {
		return out, err
	}
	out.live = live.at.Sub(end)
	if _, _, err := apps.awaitFor(ctx, fleetLimit, mark, "the large app at the commit", ready(commit)); err != nil {
		return out, err
	}
	if err := pause(ctx, 10*time.Second); err != nil {
		return out, err
	}
	if traffic, err = trafficIn(ctx, w.auditLog, start, time.Now()); err != nil {
		return out, err
	}
	out.changes = traffic.total()
	say("large, Application %v: %.2f s, %d requests; a commit: live after %.0f ms, %v", argo, out.cold.Seconds(), out.requests, milliseconds(out.live), traffic.byApps)
	return out, w.close()
}
