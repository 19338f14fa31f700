package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
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
	kubeconfig, err := b.startCluster(ctx, auditLog)
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
	server, out, err := b.start("keelson-server", b.keelson, "server", "--kubeconfig", kubeconfig, "--data", filepath.Join(b.dir, "server"))
	if err != nil {
		return err
	}
	go func() { _, _ = io.Copy(io.Discard, out) }()
	if err := c.awaitApps(ctx, 5); err != nil {
		return err
	}
	say("all apps are ready; at rest in a moment")
	if err := pause(ctx, 15*time.Second); err != nil {
		return err
	}
	return b.watchSteady(ctx, server.Pid, auditLog)
}

func (b *bench) watchSteady(ctx context.Context, pid int, auditLog string) error {
	say("watching for %s", b.window)
	before, err := cpuOf(pid)
	if err != nil {
		return err
	}
	from := time.Now()
	var resident, anonymous []float64
	var peak float64
	for time.Since(from) < b.window {
		if err := pause(ctx, min(time.Second, b.window-time.Since(from))); err != nil {
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
	if err := pause(ctx, time.Second); err != nil { // the audit log is written a moment after the answer
		return err
	}
	f, err := os.Open(auditLog)
	if err != nil {
		return err
	}
	defer f.Close()
	t, err := readTraffic(f, from, to)
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
	return errors.Join(
		b.add(Result{Name: "steady-requests", Unit: "requests", Target: atMost(0), Detail: map[string]any{"byApps": t.byApps, "notCounted": t.other},
			What: fmt.Sprintf("requests of keelson server other than watches and its lease over %s, five apps", b.window)}, []float64{float64(t.total())}),
		b.add(Result{Name: "steady-cpu", Unit: "s", What: fmt.Sprintf("CPU time of keelson server over %s", b.window)}, []float64{(after - before).Seconds()}),
		b.add(Result{Name: "server-memory", Unit: "MiB", Target: atMost(120), What: "resident memory of keelson server at rest (VmRSS), every second"}, resident),
		b.add(Result{Name: "server-memory-anonymous", Unit: "MiB", What: "of it, what no file backs (RssAnon)"}, anonymous),
		b.add(Result{Name: "server-memory-peak", Unit: "MiB", What: "peak resident memory since its start (VmHWM)"}, []float64{peak}),
	)
}
