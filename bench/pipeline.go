package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

// pipelineFile is where a repository has its pipeline.
const pipelineFile = ".gitlab-ci.yml"

// fan is N jobs that wait for nothing.
func fan(n int) string {
	var b strings.Builder
	b.WriteString("---\nstages: [test]\n")
	for i := range n {
		fmt.Fprintf(&b, "job-%03d:\n  stage: test\n  script:\n    - echo job %d\n", i, i)
	}
	return b.String()
}

// chain is N jobs, each of which needs the one before.
func chain(n int) string {
	var b strings.Builder
	b.WriteString("---\nstages: [test]\n")
	for i := range n {
		needs := "[]"
		if i > 0 {
			needs = fmt.Sprintf("[%q]", fmt.Sprintf("job-%03d", i-1))
		}
		fmt.Fprintf(&b, "job-%03d:\n  stage: test\n  needs: %s\n  script:\n    - echo job %d\n", i, needs, i)
	}
	return b.String()
}

// diamonds is layers of ten jobs, each of which needs two of the layer before: the ways through it double with each layer.
func diamonds(layers int) string {
	const width = 10
	var b strings.Builder
	b.WriteString("---\nstages: [test]\n")
	for l := range layers {
		for k := range width {
			needs := "[]"
			if l > 0 {
				needs = fmt.Sprintf("[%q, %q]", fmt.Sprintf("l%02d-%d", l-1, k), fmt.Sprintf("l%02d-%d", l-1, (k+1)%width))
			}
			fmt.Fprintf(&b, "l%02d-%d:\n  stage: test\n  needs: %s\n  script:\n    - echo l%d k%d\n", l, k, needs, l, k)
		}
	}
	return b.String()
}

// large is a file as a generator writes it: N jobs in ten stages, with templates, rules, variables and needs.
func large(n int) string {
	var b strings.Builder
	b.WriteString("stages: [s0, s1, s2, s3, s4, s5, s6, s7, s8, s9]\nvariables: {REGION: eu, LEVEL: info}\ndefault:\n  before_script: [echo begin]\n" +
		".base:\n  image: alpine:3\n  retry: 1\n  variables: {LEVEL: debug}\n  rules:\n    - if: $CI_PIPELINE_SOURCE == \"merge_request_event\"\n    - if: $CI_COMMIT_BRANCH =~ /^(main|release)/ && $REGION != \"none\"\n")
	per := max(1, n/10)
	for i := range n {
		stage := min(9, i/per)
		fmt.Fprintf(&b, "job-%04d:\n  extends: .base\n  stage: s%d\n  variables: {NUMBER: \"%d\"}\n  script:\n    - echo $NUMBER in $REGION\n", i, stage, i)
		if i >= per {
			fmt.Fprintf(&b, "  needs: [job-%04d, job-%04d]\n", i-per, i-per+(i+1)%per-i%per)
		}
	}
	return b.String()
}

// wave is a slow job beside a fast one that another one needs. The fast one notes when it ends, that one when it begins.
const wave = `---
stages: [build, test]
slow:
  stage: build
  needs: []
  script:
    - sleep 1
fast:
  stage: build
  needs: []
  script:
    - echo fast
    - date +%s%N > "$NOTES/ended"
after-fast:
  stage: test
  needs: [fast]
  script:
    - date +%s%N > "$NOTES/began"
`

// measurePipelines runs pipelines with keelson ci run, whole processes in fresh repositories. The floor is as many bare shells, one
// after the other.
func (b *bench) measurePipelines(ctx context.Context) error {
	for _, c := range []struct {
		name   string
		text   string
		shells int
		target float64 // ms
	}{
		{"ci-one", fan(1), 1, 100},
		{"ci-fifty", fan(50), 50, 300},
		{"ci-fan200", fan(200), 200, 900},
		{"ci-chain200", chain(200), 200, 1200},
		{"ci-dag200", diamonds(20), 200, 1000},
	} {
		if err := b.measurePipeline(ctx, c.name, c.text, c.shells, c.target); err != nil {
			return err
		}
	}
	return errors.Join(b.measureWave(ctx), b.measureCompile(ctx))
}

func (b *bench) measurePipeline(ctx context.Context, name, text string, shells int, most float64) error {
	dir, err := b.pipelineRepository(ctx, name, text)
	if err != nil {
		return err
	}
	runs, err := b.runIn(ctx, dir, b.keelson, "ci", "run")
	if err != nil {
		return err
	}
	floor, err := b.runIn(ctx, dir, "bash", "-c", fmt.Sprintf("for ((i = 0; i < %d; i++)); do bash -c 'echo job'; done", shells))
	if err != nil {
		return err
	}
	wall, cpu, resident := columns(runs)
	wallFloor, _, _ := columns(floor)
	return errors.Join(
		b.add(Result{Name: name, What: "keelson ci run, start to end", Unit: "ms", Target: target(most), Floor: name + "-floor"}, wall),
		b.add(Result{Name: name + "-cpu", What: "CPU time of keelson and its jobs", Unit: "ms"}, cpu),
		b.add(Result{Name: name + "-memory", What: "peak resident memory of keelson", Unit: "MiB", Target: target(80)}, resident),
		b.add(Result{Name: name + "-floor", What: fmt.Sprintf("%d × bash -c 'echo job', one after the other", shells), Unit: "ms"}, wallFloor),
	)
}

func columns(all []usage) (wall, cpu, resident []float64) {
	for _, u := range all {
		wall, cpu, resident = append(wall, milliseconds(u.Wall)), append(cpu, milliseconds(u.CPU)), append(resident, float64(u.Resident)/1024)
	}
	return wall, cpu, resident
}

// pipelineRepository makes a repository with one commit that holds a pipeline.
func (b *bench) pipelineRepository(ctx context.Context, name, text string) (dir string, err error) {
	r := &repo{dir: filepath.Join(b.dir, name), env: gitEnvironment()}
	if err := r.write(map[string]string{pipelineFile: text}); err != nil {
		return "", err
	}
	if _, err := r.git(ctx, "init", "--quiet", "--initial-branch=main"); err != nil {
		return "", err
	}
	_, err = r.commit(ctx, "Begin")
	return r.dir, err
}

// measureWave takes the time from the end of a job to the start of the one that needs it, while another one runs.
func (b *bench) measureWave(ctx context.Context) error {
	dir, err := b.pipelineRepository(ctx, "ci-wave", wave)
	if err != nil {
		return err
	}
	notes := filepath.Join(b.dir, "ci-wave-notes")
	if err := os.MkdirAll(notes, 0o755); err != nil {
		return err
	}
	var gaps []float64
	for i := range min(b.runs, 10) + 1 {
		cmd := exec.CommandContext(ctx, b.keelson, "ci", "run", "--variable", "NOTES="+notes)
		cmd.Dir, cmd.Env = dir, environment()
		if _, err := output(ctx, cmd); err != nil {
			return err
		}
		ended, err1 := readTime(filepath.Join(notes, "ended"))
		began, err2 := readTime(filepath.Join(notes, "began"))
		if err := errors.Join(err1, err2); err != nil {
			return err
		}
		if i > 0 { // the first warms up
			gaps = append(gaps, milliseconds(began.Sub(ended)))
		}
	}
	return b.add(Result{Name: "ci-wave", What: "the last command of a job to the first of the one that needs it, while a slow job runs", Unit: "ms", Target: target(50)}, gaps)
}

// readTime reads nanoseconds since 1970 from a file, and removes it.
func readTime(name string) (time.Time, error) {
	text, err := os.ReadFile(name)
	if err != nil {
		return time.Time{}, err
	}
	n, err := strconv.ParseInt(strings.TrimSpace(string(text)), 10, 64)
	return time.Unix(0, n), errors.Join(err, os.Remove(name))
}

// measureCompile compiles a large file, whole processes that print the graph.
func (b *bench) measureCompile(ctx context.Context) error {
	dir, err := b.pipelineRepository(ctx, "ci-compile", large(2000))
	if err != nil {
		return err
	}
	graphs, err := b.runIn(ctx, dir, b.keelson, "ci", "graph")
	if err != nil {
		return err
	}
	wall, _, resident := columns(graphs)
	return errors.Join(
		b.add(Result{Name: "ci-compile", What: "keelson ci graph of 2,000 jobs with templates, rules and needs, start to end", Unit: "ms", Target: target(200)}, wall),
		b.add(Result{Name: "ci-compile-memory", What: "its peak resident memory", Unit: "MiB", Target: target(80)}, resident),
	)
}
