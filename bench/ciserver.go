package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// lineLimit bounds the wait for a line of a log.
const lineLimit = 2 * time.Minute

// measureCIPush pushes to the built-in Git host until the job's script has said something.
func (b *bench) measureCIPush(ctx context.Context) error {
	in, err := b.instance(ctx)
	if err != nil {
		return err
	}
	r, _, err := b.makeRepository(ctx, in, filepath.Join(b.dir, "clone-ci-push"), "bench-ci-push", map[string]string{"README": "a repository\n"})
	if err != nil {
		return err
	}
	return b.pushLines(ctx, in, r, "ci-push", "", 300)
}

// pushLines pushes runs times until the script of the pipeline's job has said something, and does the same with the bare programs beside it.
func (b *bench) pushLines(ctx context.Context, in *instance, r *repo, name, keywords string, most float64) error {
	c, err := in.ci()
	if err != nil {
		return err
	}
	bare := filepath.Join(b.dir, name+"-bare.git")
	if _, err := r.git(ctx, "init", "--quiet", "--bare", bare); err != nil {
		return err
	}
	var end, start, first, floor []float64
	for round := range b.runs + 1 {
		// What the log shows of the command is not what it says.
		text := fmt.Sprintf("job:\n%s  script: ['echo begun-$((%d + 1000))']\n", keywords, round)
		if err := r.write(map[string]string{pipelineFile: text}); err != nil {
			return err
		}
		if _, err := r.commit(ctx, fmt.Sprintf("Round %d", round)); err != nil {
			return err
		}
		heard, err := c.listen(ctx, fmt.Sprintf("begun-%d\n", round+1000))
		if err != nil {
			return err
		}
		began, ended, err := r.push(ctx)
		if err != nil {
			return err
		}
		h := <-heard
		if h.err != nil {
			return fmt.Errorf("push %d: %w", round, h.err)
		}
		if _, err := c.rested(ctx, h.pipeline); err != nil {
			return err
		}
		alone := time.Now()
		if _, err := r.git(ctx, "push", "--quiet", bare, "HEAD:refs/heads/main"); err != nil {
			return err
		}
		if _, err := output(ctx, exec.CommandContext(ctx, "sh", "-c", "echo begun")); err != nil {
			return err
		}
		if took := time.Since(alone); round > 0 { // the first warms up
			floor = append(floor, milliseconds(took))
			end, start = append(end, milliseconds(h.line.Sub(ended))), append(start, milliseconds(h.line.Sub(began)))
			first = append(first, milliseconds(h.first.Sub(ended)))
		}
		if err := pause(ctx, settle); err != nil {
			return err
		}
	}
	return errors.Join(
		b.add(Result{Name: name, Unit: "ms", Target: target(most), What: "end of git push to the first line of the job's script, seen by who follows the log"}, end),
		b.add(Result{Name: name + "-log", Unit: "ms", What: "end of git push to the first line of the job's log"}, first),
		b.add(Result{Name: name + "-start", Unit: "ms", Floor: name + "-floor", What: "start of git push to the first line of the job's script"}, start),
		b.add(Result{Name: name + "-floor", Unit: "ms", What: "git push of the same to a bare repository, and sh -c 'echo begun'"}, floor),
	)
}

// heard is what came of listening to a pipeline that is about to be made.
type heard struct {
	pipeline, job int64
	first, line   time.Time // of anything in the log, and of the line
	err           error
}

// listen waits for the next pipeline, and in the log of its first job for a text.
func (c *ciClient) listen(ctx context.Context, text string) (<-chan heard, error) {
	ctx, cancel := context.WithTimeout(ctx, lineLimit)
	events, err := c.stream(ctx, "/api/v1/events")
	if err != nil {
		cancel()
		return nil, err
	}
	if e, ok := <-events; !ok || e.name != "ready" {
		cancel()
		return nil, fmt.Errorf("the stream of events begins with %q", e.name)
	}
	out := make(chan heard, 1)
	go func() {
		defer cancel()
		out <- c.hear(ctx, events, text)
	}()
	return out, nil
}

func (c *ciClient) hear(ctx context.Context, events <-chan ciEvent, text string) (h heard) {
	for e := range events {
		var change struct{ ID, Pipeline int64 }
		if e.name != "job" {
			continue
		}
		if h.err = json.Unmarshal(e.data, &change); h.err != nil {
			return h
		}
		h.pipeline, h.job = change.Pipeline, change.ID
		break
	}
	log, err := c.stream(ctx, fmt.Sprintf("/api/v1/jobs/%d/log", h.job))
	if err != nil {
		return heard{err: err}
	}
	var all strings.Builder
	for e := range log {
		var piece struct{ Text string }
		if e.name != "text" {
			continue
		}
		if h.err = json.Unmarshal(e.data, &piece); h.err != nil {
			return h
		}
		if h.first.IsZero() {
			h.first = e.at
		}
		if all.WriteString(piece.Text); strings.Contains(all.String(), text) {
			h.line = e.at
			return h
		}
	}
	h.err = fmt.Errorf("job %d never said %q: %.2000s", h.job, text, all.String())
	return h
}

// The log that is measured.
const (
	logBytes     = 100_000_000
	logFollowers = 10
)

// chatter writes logBytes in lines of a hundred bytes.
var chatter = fmt.Sprintf("{ yes '%s' | head -c %d || true; }", strings.Repeat("123456789 ", 9)+"123456789", logBytes)

// measureCILog has a job write a large log while others follow it. The floor is the same command into a file.
func (b *bench) measureCILog(ctx context.Context) error {
	w, err := b.newCIWorld(ctx, "ci-log", "--ci-log-limit", "200")
	if err != nil {
		return err
	}
	if _, _, err := b.makeRepository(ctx, &w.instance, filepath.Join(b.dir, "clone-ci-log"), "bench-ci-log",
		map[string]string{pipelineFile: "job:\n  rules: [{if: '$CI_PIPELINE_SOURCE == \"web\"'}]\n  script:\n    - " + strconv.Quote(chatter) + "\n"}); err != nil {
		return err
	}
	var speed, floor, growth, lag []float64
	for range min(b.runs, 3) {
		before, err := memoryOf(w.program.pid())
		if err != nil {
			return err
		}
		peak := w.watchMemory(ctx)
		took, late, err := w.largeLog(ctx)
		most := peak()
		if err != nil {
			return err
		}
		lag = append(lag, late...)
		speed, growth = append(speed, logBytes/1e6/took.Seconds()), append(growth, most-before.anonymous)
		began := time.Now()
		if _, err := output(ctx, exec.CommandContext(ctx, "bash", "-c", chatter+" | cat > "+filepath.Join(b.dir, "ci-log.txt"))); err != nil {
			return err
		}
		floor = append(floor, logBytes/1e6/time.Since(began).Seconds())
	}
	return errors.Join(
		b.add(Result{Name: "ci-log", Unit: "MB/s", Floor: "ci-log-floor", What: fmt.Sprintf("a job that writes %d MB to its log, with %d followers", logBytes/1_000_000, logFollowers)}, speed),
		b.add(Result{Name: "ci-log-floor", Unit: "MB/s", What: "the same command, through cat into a file"}, floor),
		b.add(Result{Name: "ci-log-memory", Unit: "MiB", Target: target(64), What: "by how much the memory of Keelson that no file backs (RssAnon) has grown at most meanwhile"}, growth),
		b.add(Result{Name: "ci-log-lag", Unit: "ms", What: "end of the job to the last byte at each follower"}, lag),
	)
}

// largeLog plays the job with the large log, and gives how long it took and by how much each follower was late.
func (w *ciWorld) largeLog(ctx context.Context) (took time.Duration, late []float64, err error) {
	id, err := w.api.trigger(ctx, "bench-ci-log")
	if err != nil {
		return 0, nil, err
	}
	var p ciPipeline
	if err := w.api.call(ctx, http.MethodGet, fmt.Sprintf("/api/v1/pipelines/%d", id), nil, &p); err != nil {
		return 0, nil, err
	}
	ends, failed := make([]time.Time, logFollowers), make([]error, logFollowers)
	var wg sync.WaitGroup
	for i := range logFollowers {
		wg.Go(func() {
			res, err := w.api.open(ctx, http.MethodGet, fmt.Sprintf("/api/v1/jobs/%d/log?follow=1", p.Jobs[0].ID), "text/plain", nil)
			if err != nil {
				failed[i] = err
				return
			}
			n, err := io.Copy(io.Discard, res.Body)
			ends[i] = time.Now()
			if failed[i] = errors.Join(err, res.Body.Close()); failed[i] == nil && n < logBytes {
				failed[i] = fmt.Errorf("a follower has got %d of %d bytes", n, logBytes)
			}
		})
	}
	if p, err = w.api.rested(ctx, id); err != nil {
		return 0, nil, err
	}
	wg.Wait()
	for _, end := range ends {
		late = append(late, milliseconds(end.Sub(p.Jobs[0].Finished)))
	}
	return p.Jobs[0].Finished.Sub(p.Jobs[0].Started), late, errors.Join(failed...)
}

// ciWorld is an instance whose process is known.
type ciWorld struct {
	instance
	program *program
	api     *ciClient
}

// newCIWorld starts an instance with flags of its own.
func (b *bench) newCIWorld(ctx context.Context, name string, flags ...string) (*ciWorld, error) {
	data := filepath.Join(b.dir, name)
	b.stops = append(b.stops, func() error { return os.RemoveAll(data) })
	p, err := b.start(name, b.keelson, append([]string{"up", "--foreground", "--json", "--data", data, "--port", "0"}, flags...)...)
	if err != nil {
		return nil, err
	}
	line, err := p.firstLine(ctx, startLimit)
	if err != nil {
		return nil, err
	}
	w := &ciWorld{instance: instance{data: data}, program: p}
	if err := json.Unmarshal(line, &w.instance); err != nil {
		return nil, fmt.Errorf("read the first line of keelson up: %w", err)
	}
	w.api, err = w.ci()
	return w, err
}

// watchMemory looks at Keelson's memory until the function it gives is called, which tells the most that was seen.
func (w *ciWorld) watchMemory(ctx context.Context) (most func() float64) {
	ctx, cancel := context.WithCancel(ctx)
	peak := make(chan float64, 1)
	go func() {
		seen := 0.0
		for ctx.Err() == nil {
			if m, err := memoryOf(w.program.pid()); err == nil {
				seen = max(seen, m.anonymous)
			}
			_ = pause(ctx, 50*time.Millisecond) // or the end
		}
		peak <- seen
	}()
	return func() float64 { cancel(); return <-peak }
}

// How many pipelines play at once while the API is asked, by how many clients.
const (
	apiPipelines = 50
	apiClients   = 4
	apiAtLeast   = 200 // requests of each kind
	apiPause     = 30 * time.Millisecond
)

// measureCIAPI asks the API while many pipelines play. The floor is a request that does nothing, in turn with the others.
func (b *bench) measureCIAPI(ctx context.Context) error {
	in, err := b.instance(ctx)
	if err != nil {
		return err
	}
	c, err := in.ci()
	if err != nil {
		return err
	}
	var text strings.Builder
	text.WriteString("stages: [one, two]\nworkflow: {rules: [{if: '$CI_PIPELINE_SOURCE == \"web\"'}]}\n" +
		".job: {script: ['for i in 1 2 3; do echo line $i; sleep 0.1; done']}\n")
	for i := range 3 {
		fmt.Fprintf(&text, "build-%d: {extends: .job, stage: one}\ntest-%d: {extends: .job, stage: two, needs: [build-%d]}\n", i, i, i)
	}
	if _, _, err := b.makeRepository(ctx, in, filepath.Join(b.dir, "clone-ci-api"), "bench-ci-api", map[string]string{pipelineFile: text.String()}); err != nil {
		return err
	}
	ids := make([]int64, apiPipelines)
	err = each(ctx, creators, apiPipelines, func(ctx context.Context, i int) (err error) {
		ids[i], err = c.trigger(ctx, "bench-ci-api")
		return err
	})
	if err != nil {
		return err
	}
	took, err := c.askWhile(ctx, ids)
	if err != nil {
		return err
	}
	kinds := fmt.Sprintf(", while %d pipelines of 6 jobs play and %d clients ask", apiPipelines, apiClients)
	return errors.Join(
		b.add(Result{Name: "ci-api-list", Unit: "ms", Tail: target(50), Floor: "ci-api-floor", What: "the list of the newest 50 pipelines" + kinds}, took["list"]),
		b.add(Result{Name: "ci-api-show", Unit: "ms", Tail: target(50), Floor: "ci-api-floor", What: "a pipeline with its jobs" + kinds}, took["show"]),
		b.add(Result{Name: "ci-api-log", Unit: "ms", Tail: target(50), Floor: "ci-api-floor", What: "the log of a job" + kinds}, took["log"]),
		b.add(Result{Name: "ci-api-floor", Unit: "ms", What: "/healthz" + kinds}, took["floor"]),
	)
}

// askWhile asks in turn until the pipelines rest, and at least so many times, and gives how long the answers took, by the kind of request.
func (c *ciClient) askWhile(ctx context.Context, ids []int64) (map[string][]float64, error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var resting atomic.Bool
	var mu sync.Mutex
	all := map[string][]float64{}
	var wg sync.WaitGroup
	for client := range apiClients {
		wg.Go(func() {
			for round := client; (!resting.Load() || round < apiAtLeast) && ctx.Err() == nil; round += apiClients {
				took, err := c.askOnce(ctx, ids[round%len(ids)])
				if err != nil {
					cancel(err)
					return
				}
				mu.Lock()
				for kind, d := range took {
					all[kind] = append(all[kind], milliseconds(d))
				}
				mu.Unlock()
				_ = pause(ctx, apiPause) // or the end
			}
		})
	}
	for _, id := range ids {
		if _, err := c.rested(ctx, id); err != nil {
			cancel(err)
			break
		}
	}
	resting.Store(true)
	wg.Wait()
	return all, context.Cause(ctx)
}

// askOnce makes one request of each kind.
func (c *ciClient) askOnce(ctx context.Context, id int64) (map[string]time.Duration, error) {
	took := map[string]time.Duration{}
	ask := func(kind, path string, into any) error {
		began := time.Now()
		err := c.call(ctx, http.MethodGet, path, nil, into)
		took[kind] = time.Since(began)
		return err
	}
	var p ciPipeline
	err := errors.Join(
		ask("list", "/api/v1/pipelines?limit=50", nil),
		ask("show", fmt.Sprintf("/api/v1/pipelines/%d", id), &p),
		ask("floor", "/healthz", nil),
	)
	if err == nil && len(p.Jobs) > 0 {
		err = ask("log", fmt.Sprintf("/api/v1/jobs/%d/log", p.Jobs[0].ID), nil)
	}
	return took, err
}
