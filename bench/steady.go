package main

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"path/filepath"
	"slices"
	"time"
)

// measureSteady runs "keelson server" against a cluster of its own that follows the sample's repository on the shared
// instance over HTTP, waits until all five apps are ready and things have come to rest, and then watches for a while:
// the requests in the API server's audit log, the CPU time and the memory of the server.
func (b *bench) measureSteady(ctx context.Context) error {
	in, err := b.instance(ctx)
	if err != nil {
		return err
	}
	base, err := in.readURL()
	if err != nil {
		return err
	}
	auditLog := filepath.Join(b.dir, "audit.log")
	_, kubeconfig, err := b.startCluster(ctx, filepath.Join(b.dir, "steady", "cluster"), auditLog)
	if err != nil {
		return err
	}
	c, err := newClient(kubeconfig)
	if err != nil {
		return err
	}
	if err := c.installCRDs(ctx); err != nil {
		return err
	}
	if err := c.declareSource(ctx, "flux-system", "sample", base+"/sample.git"); err != nil {
		return err
	}
	if err := c.declareApp(ctx, "flux-system", "cluster", "sample", "./clusters/local"); err != nil {
		return err
	}
	server, err := b.start("keelson-server", b.keelson, "server", "--kubeconfig", kubeconfig, "--data", filepath.Join(b.dir, "server"))
	if err != nil {
		return err
	}
	if err := c.awaitApps(ctx, 5); err != nil {
		return err
	}
	say("all apps are ready; at rest in a moment")
	if err := pause(ctx, 15*time.Second); err != nil {
		return err
	}
	return b.watchSteady(ctx, server.pid(), auditLog, min(b.window, time.Minute), steadyOf{
		requests: Result{Name: "steady-requests", Target: target(0), What: "requests of keelson server other than watches and its lease, five apps"},
		cpu:      Result{Name: "steady-cpu", What: "CPU time of keelson server a minute"},
		memory:   Result{Name: "server-memory", Target: target(120), What: "resident memory of keelson server at rest (VmRSS), every second"},
	})
}

// measureFleetSteady watches the whole fleet at rest.
func (b *bench) measureFleetSteady(ctx context.Context) error {
	w, err := b.theFleet(ctx)
	if err != nil {
		return err
	}
	say("at rest in a moment")
	if err := pause(ctx, 30*time.Second); err != nil {
		return err
	}
	size := fmt.Sprintf("%d apps, %d objects", w.fleet.apps, w.fleet.apps*objectsPerApp)
	return b.watchSteady(ctx, w.keelson.pid(), w.auditLog, b.window, steadyOf{
		requests: Result{Name: "fleet-steady-requests", Target: target(0), What: "requests of Keelson other than watches and its lease, " + size},
		cpu:      Result{Name: "fleet-steady-cpu", Target: target(0.5), What: "CPU time of Keelson a minute, " + size},
		memory:   Result{Name: "fleet-memory", Target: target(200), What: "resident memory of Keelson at rest (VmRSS), every second, " + size},
	})
}

// steadyOf names the results of a steady state.
type steadyOf struct{ requests, cpu, memory Result }

func (b *bench) watchSteady(ctx context.Context, pid int, auditLog string, window time.Duration, of steadyOf) error {
	say("watching for %s", window)
	before, err := cpuOf(pid)
	if err != nil {
		return err
	}
	from := time.Now()
	var resident, anonymous []float64
	var peak float64
	for time.Since(from) < window {
		if err := pause(ctx, min(time.Second, window-time.Since(from))); err != nil {
			return err
		}
		m, err := memoryOf(pid)
		if err != nil {
			return err
		}
		resident, anonymous, peak = append(resident, m.resident), append(anonymous, m.anonymous), m.peak
	}
	to := time.Now()
	after, err := cpuOf(pid)
	if err != nil {
		return err
	}
	t, err := trafficIn(ctx, auditLog, from, to)
	if err != nil {
		return err
	}
	for _, what := range slices.Sorted(maps.Keys(t.byApps)) {
		say("caused by apps: %d × %s", t.byApps[what], what)
	}
	for _, what := range slices.Sorted(maps.Keys(t.other)) {
		say("not counted: %d × %s", t.other[what], what)
	}
	if len(t.other) == 0 {
		return fmt.Errorf("the audit log has nothing of Keelson's, not even the lease: it was not measured (%s)", auditLog)
	}
	of.requests.What += fmt.Sprintf(", over %s", window)
	of.requests.Unit, of.requests.Detail = "requests", map[string]any{"byApps": t.byApps, "notCounted": t.other}
	of.cpu.Unit, of.memory.Unit = "s", "MiB"
	name := of.memory.Name
	return errors.Join(
		b.add(of.requests, []float64{float64(t.total())}),
		b.add(of.cpu, []float64{(after - before).Seconds() / to.Sub(from).Minutes()}),
		b.add(of.memory, resident),
		b.add(Result{Name: name + "-anonymous", Unit: "MiB", What: "of it, what no file backs (RssAnon)"}, anonymous),
		b.add(Result{Name: name + "-peak", Unit: "MiB", What: "peak resident memory since its start (VmHWM)"}, []float64{peak}),
	)
}
