package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"time"

	"keelson.dev/keelson/internal/pipeline"
	"keelson.dev/keelson/internal/pipeline/show"
	"keelson.dev/keelson/internal/store"
	"keelson.dev/keelson/internal/web"
)

// How often a lost stream is taken up again, and after which pause.
const (
	streamTries = 20
	streamPause = time.Second
)

// stream follows a stream of the instance until tell says that it is enough, and takes it up again where the connection is lost. Who is told
// reset after that reads everything again.
func (g *global) stream(ctx context.Context, path string, tell func(event string, data []byte) bool) error {
	last, tries := "", 0
	for {
		headers := map[string]string{"Accept": "text/event-stream"}
		if last != "" {
			headers["Last-Event-ID"] = last
		}
		_, res, err := g.sendAPI(ctx, http.MethodGet, path, nil, headers)
		if err == nil {
			enough := false
			last, err = web.ReadEvents(res.Body, last, func(event string, data []byte) bool {
				tries = 0
				enough = !tell(event, data)
				return !enough
			})
			if err = errors.Join(err, res.Body.Close()); enough {
				return nil
			}
		}
		tries++
		switch {
		case ctx.Err() != nil:
			return context.Cause(ctx)
		case errors.Is(err, errRefused), err != nil && tries > streamTries:
			return err
		case tries > streamTries:
			return errors.New("the instance ends every stream")
		}
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-time.After(streamPause):
		}
	}
}

// runCIWatch tells what changes in a pipeline until it rests.
func runCIWatch(ctx context.Context, g *global, id string) error {
	if g.output != "" && g.output != "json" {
		return usagef("--watch prints text or, with -o json, JSON lines")
	}
	p, err := g.pipelineOf(ctx, id)
	if err != nil {
		return err
	}
	w := &pipelineWatch{g: g, id: id, last: map[int64]string{}}
	err = g.stream(ctx, fmt.Sprintf("%sevents?pipeline=%d", web.PipelinesPath, p.ID), func(event string, _ []byte) bool {
		w.err = w.look(ctx)
		return w.err == nil && !w.now.Resting
	})
	if err := errors.Join(err, w.err); err != nil {
		return fmt.Errorf("watch pipeline %s: %w", id, err)
	}
	if g.output == "" {
		fmt.Fprintln(g.out)
		if err := printPipeline(g, w.now); err != nil {
			return err
		}
	}
	switch pipeline.Status(w.now.Status) {
	case pipeline.StatusFailed, pipeline.StatusCanceled:
		return withCode(exitFailure, errSilent)
	}
	return nil
}

// pipelineWatch is what somebody has been told of a pipeline.
type pipelineWatch struct {
	g    *global
	id   string
	now  web.PipelineDetail
	told string           // the pipeline's status
	last map[int64]string // the statuses of the jobs
	err  error
}

// look reads the pipeline and tells what is new.
func (w *pipelineWatch) look(ctx context.Context) error {
	p, err := w.g.pipelineOf(ctx, w.id)
	if err != nil {
		return err
	}
	first := w.told == ""
	w.now = p
	changed := w.told != p.Status
	for _, j := range p.Jobs {
		if w.last[j.ID] == j.Status {
			continue
		}
		changed, w.last[j.ID] = true, j.Status
		if w.g.output == "" && (!first || j.Status != string(pipeline.StatusCreated)) {
			w.line(j)
		}
	}
	if w.g.output == "" && w.told != p.Status {
		fmt.Fprintf(w.g.out, "%s  pipeline %d  %s\n", time.Now().Format(time.TimeOnly), p.ID, p.Status)
	}
	w.told = p.Status
	if w.g.output == "json" && (changed || p.Resting) {
		return json.NewEncoder(w.g.out).Encode(p)
	}
	return nil
}

// line tells how a job stands.
func (w *pipelineWatch) line(j store.Job) {
	name := j.Name
	if j.Attempt > 1 {
		name += fmt.Sprintf(" (attempt %d)", j.Attempt)
	}
	text := j.Status
	switch pipeline.Status(j.Status) {
	case pipeline.StatusFailed:
		text += ": " + j.Message
	case pipeline.StatusSuccess:
		text += " in " + took(j.Started, j.Finished)
	case pipeline.StatusSkipped, pipeline.StatusCanceled:
		text += ": " + j.Why
	}
	fmt.Fprintf(w.g.out, "%s  %s  %s\n", time.Now().Format(time.TimeOnly), show.Plain(name), show.Plain(text))
}

// followLog prints a log as it is written, until its job is over. It goes on where the connection was lost, also by a restart of the instance.
func (g *global) followLog(ctx context.Context, job, path string) error {
	var failed error
	err := g.stream(ctx, path, func(event string, data []byte) bool {
		if event != web.EventText {
			return event != web.EventEnd
		}
		var piece web.LogText
		if failed = json.Unmarshal(data, &piece); failed == nil {
			_, failed = io.WriteString(g.out, piece.Text)
		}
		return failed == nil
	})
	if err = errors.Join(err, failed); err != nil {
		return fmt.Errorf("log of job %s: %w", show.Plain(job), err)
	}
	return nil
}
