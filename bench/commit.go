package main

import (
	"context"
	"errors"
	"fmt"
	"time"
)

// commitSamples are those of one-line commits.
type commitSamples struct {
	live, start, reported                                  []float64
	cpuLive, cpuReported, clusterCPU, reqLive, reqReported []float64
	byVerb                                                 []map[string]int
}

// measureCommit pushes one-line commits, each to another app of the fleet's monorepo: one app changes, all others only learn
// that there is a new commit.
func (b *bench) measureCommit(ctx context.Context) error {
	w, err := b.theFleet(ctx)
	if err != nil {
		return err
	}
	apps, err := w.observe(ctx, kustomizations, w.fleet.home())
	if err != nil {
		return err
	}
	defer apps.stop()
	var warm, s commitSamples
	for round := range b.commits + 1 {
		to := &s
		if round == 0 {
			to = &warm
		}
		if err := w.commitRound(ctx, round, apps, to); err != nil {
			return fmt.Errorf("commit %d: %w", round, err)
		}
	}
	n := len(w.fleet.inRepository(0))
	return errors.Join(
		b.add(Result{Name: "commit", Unit: "ms", Target: target(150),
			What: fmt.Sprintf("end of git push of one line in a repository of %d apps to the change seen by a watch", n)}, s.live),
		b.add(Result{Name: "commit-start", Unit: "ms", What: "start of git push to the change seen by a watch"}, s.start),
		b.add(Result{Name: "commit-reported", Unit: "s", What: "end of git push to the last app's report of the commit (lastAppliedRevision)"}, s.reported),
		b.add(Result{Name: "commit-cpu", Unit: "s", Target: target(1), What: "CPU time of Keelson, its Git host included, from the push until live"}, s.cpuLive),
		b.add(Result{Name: "commit-reported-cpu", Unit: "s", Target: target(5), What: "the same until all apps have reported"}, s.cpuReported),
		b.add(Result{Name: "commit-cluster-cpu", Unit: "s", What: "CPU time of all of the cluster's processes until all apps have reported"}, s.clusterCPU),
		b.add(Result{Name: "commit-requests", Unit: "requests", Target: target(10), What: "requests of Keelson from the push until live"}, s.reqLive),
		b.add(Result{Name: "commit-reported-requests", Unit: "requests", Detail: map[string]any{"byVerb": s.byVerb},
			What: "the same until all apps have reported"}, s.reqReported),
	)
}

func (w *world) commitRound(ctx context.Context, round int, apps *observer, s *commitSamples) error {
	const repository = 0
	in := w.fleet.inRepository(repository)
	app := in[(round*37+5)%len(in)]
	value := fmt.Sprintf("round %d", round)
	files, err := w.fleet.change(app, value)
	if err != nil {
		return err
	}
	clone := w.clones[repository]
	if err := clone.write(files); err != nil {
		return err
	}
	commit, err := clone.commit(ctx, "Set "+value)
	if err != nil {
		return err
	}
	w.commits[repository] = commit
	objects, err := w.observe(ctx, configMaps, w.fleet.namespace(app))
	if err != nil {
		return err
	}
	defer objects.stop()
	if err := w.rest(ctx); err != nil {
		return err
	}
	before, err := w.cpu()
	if err != nil {
		return err
	}
	mark, appMark := objects.mark(), apps.mark()
	start, end, err := clone.push(ctx)
	if err != nil {
		return err
	}
	live, _, err := objects.awaitFor(ctx, fleetLimit, mark, "the commit's change", func(e event) bool {
		return e.object.GetName() == w.fleet.config(app, 1) && valueOf(e.object) == value
	})
	if err != nil {
		return err
	}
	atLive, err := w.cpu()
	if err != nil {
		return err
	}
	reported, err := w.awaitReady(ctx, apps, appMark, in)
	if err != nil {
		return err
	}
	atEnd, err := w.cpu()
	if err != nil {
		return err
	}
	untilLive, err1 := trafficIn(ctx, w.auditLog, start, live.at)
	untilEnd, err2 := trafficIn(ctx, w.auditLog, start, reported)
	if err := errors.Join(err1, err2); err != nil {
		return err
	}
	s.live, s.start = append(s.live, milliseconds(live.at.Sub(end))), append(s.start, milliseconds(live.at.Sub(start)))
	s.reported = append(s.reported, reported.Sub(end).Seconds())
	all := atEnd.sub(before)
	s.cpuLive, s.cpuReported = append(s.cpuLive, atLive.sub(before)[keelsonCPU].Seconds()), append(s.cpuReported, all[keelsonCPU].Seconds())
	s.clusterCPU = append(s.clusterCPU, all.cluster().Seconds())
	s.reqLive, s.reqReported = append(s.reqLive, float64(untilLive.total())), append(s.reqReported, float64(untilEnd.total()))
	s.byVerb = append(s.byVerb, untilEnd.byVerb())
	say("live after %.0f ms, %d requests, %.2f CPU-s; reported after %.1f s, %v, %.2f CPU-s", milliseconds(live.at.Sub(end)), untilLive.total(),
		atLive.sub(before)[keelsonCPU].Seconds(), reported.Sub(end).Seconds(), untilEnd.byApps, all[keelsonCPU].Seconds())
	return pause(ctx, time.Second)
}
