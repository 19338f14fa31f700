package main

import (
	"context"
	"errors"
	"fmt"
	"syscall"
	"time"
)

// A restart is measured a few times for each way in which the process before it may have ended.
var endings = []struct {
	name, what string
	signal     syscall.Signal
}{
	{"restart", "after a clean stop", syscall.SIGTERM},
	{"restart-kill", "after kill -9", syscall.SIGKILL},
}

const (
	restarts     = 3
	harmedBehind = 10              // objects that are harmed while nobody looks
	afterRestart = 5 * time.Second // how long requests are counted beyond the end: a late write counts
)

// measureRestart ends Keelson and starts it again on a fleet that is in sync. It is over when "keelson up" says that it is
// ready, which it does once its controllers have looked at every app. To see that this is no empty word, objects are harmed
// while the process is down, in restarts of their own: they must have been mended by about then.
func (b *bench) measureRestart(ctx context.Context) error {
	w, err := b.theFleet(ctx)
	if err != nil {
		return err
	}
	for _, e := range endings {
		var took, writes, requests, cpu, mended, after []float64
		var byVerb []map[string]int
		for range restarts {
			r, err := w.restart(ctx, e.signal, nil)
			if err != nil {
				return fmt.Errorf("%s: %w", e.name, err)
			}
			took, writes = append(took, r.took.Seconds()), append(writes, float64(r.traffic.writes()))
			requests, cpu = append(requests, float64(r.traffic.total())), append(cpu, r.cpu.Seconds())
			byVerb = append(byVerb, r.traffic.byVerb())
			say("%s: in sync after %.2f s, %.2f CPU-s, %v, %v", e.what, r.took.Seconds(), r.cpu.Seconds(), r.traffic.byApps, r.traffic.other)
		}
		for range restarts {
			r, err := w.restart(ctx, e.signal, w.someHarm(harmedBehind))
			if err != nil {
				return fmt.Errorf("%s: %w", e.name, err)
			}
			mended, after = append(mended, r.mended.Seconds()), append(after, milliseconds(r.mended-r.took))
		}
		err := errors.Join(
			b.add(Result{Name: e.name, Unit: "s", Target: target(10), Detail: map[string]any{"byVerb": byVerb},
				What: "start of the process to its word that every app was looked at, " + e.what}, took),
			b.add(Result{Name: e.name + "-writes", Unit: "requests", Target: target(0),
				What: fmt.Sprintf("writes until %s after that, without the lease", afterRestart)}, writes),
			b.add(Result{Name: e.name + "-requests", Unit: "requests", What: "all requests meanwhile, without watches and lease"}, requests),
			b.add(Result{Name: e.name + "-cpu", Unit: "s", What: "CPU time of the new process when it says so"}, cpu),
			b.add(Result{Name: e.name + "-mended", Unit: "s", Detail: map[string]any{"afterWord": after},
				What: fmt.Sprintf("start of the process to the repair of the last of %d objects that were harmed while it was down", harmedBehind)}, mended),
		)
		if err != nil {
			return err
		}
	}
	return nil
}

// restarted is what one restart took.
type restarted struct {
	took, mended time.Duration // from the start of the process
	cpu          time.Duration
	traffic      traffic
}

// restart ends Keelson, does some harm if there is any, and starts it again.
func (w *world) restart(ctx context.Context, signal syscall.Signal, h *harm) (restarted, error) {
	if err := w.rest(ctx); err != nil {
		return restarted{}, err
	}
	if err := w.stopKeelson(signal); err != nil {
		return restarted{}, err
	}
	if h != nil {
		if err := h.open(ctx); err != nil {
			return restarted{}, err
		}
		defer h.watch.stop()
		if err := h.inflict(ctx); err != nil {
			return restarted{}, err
		}
	}
	if err := pause(ctx, time.Second); err != nil {
		return restarted{}, err
	}
	from, ready, err := w.startKeelson(ctx)
	if err != nil {
		return restarted{}, err
	}
	r := restarted{took: ready.Sub(from)}
	if r.cpu, err = cpuOf(w.keelson.pid()); err != nil {
		return r, err
	}
	if h != nil {
		last, err := h.mended(ctx)
		r.mended = last.Sub(from)
		return r, err
	}
	if err := pause(ctx, afterRestart); err != nil {
		return r, err
	}
	r.traffic, err = trafficIn(ctx, w.auditLog, from, ready.Add(afterRestart))
	return r, err
}
