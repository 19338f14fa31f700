package main

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"go.yaml.in/yaml/v4"

	"keelson.dev/keelson/internal/pipeline"
	"keelson.dev/keelson/internal/pipeline/compile"
	"keelson.dev/keelson/internal/pipeline/config"
	"keelson.dev/keelson/internal/pipeline/schedule"
	"keelson.dev/keelson/internal/pipeline/show"
	"keelson.dev/keelson/internal/pipeline/worktree"
)

func ciSimulateCommand(g *global) *cobra.Command {
	cmd := &cobra.Command{
		Use: "simulate FILE", Short: "Show what the jobs of a pipeline do as events happen, without running anything", Args: args(cobra.ExactArgs(1)),
		Long: `Simulate reads a YAML file with a pipeline below "config" and a list of events, and prints as JSON the status of the pipeline, of each
stage and of each job after its creation and after each event. An event is a map with event and jobs, and where that means something
exit_code, reason and dependants. The events are play, enqueue, run, success, drop, cancel, retry, due and unschedule.`,
		Example: `  config:
    build: {script: make}
    deploy: {stage: deploy, script: make deploy, when: manual}
  events:
    - {event: success, jobs: [build]}
    - {event: play, jobs: [deploy]}`,
		RunE: func(cmd *cobra.Command, a []string) error { return runCISimulate(cmd.Context(), g, a[0]) },
	}
	return cmd
}

func runCISimulate(_ context.Context, g *global, file string) error {
	text, err := readSimulation(g, file)
	if err != nil {
		return err
	}
	graph, steps, err := readCase(g, file, text)
	if err != nil {
		return err
	}
	snapshots, err := schedule.Simulate(graph, steps)
	if snapshots == nil {
		snapshots = []schedule.Snapshot{}
	}
	if g.output == "yaml" {
		if printErr := g.print(snapshots, nil); printErr != nil {
			return printErr
		}
		return err
	}
	e := json.NewEncoder(g.out)
	e.SetIndent("", "  ")
	e.SetEscapeHTML(false)
	if printErr := e.Encode(snapshots); printErr != nil {
		return printErr
	}
	return err
}

func readSimulation(g *global, file string) ([]byte, error) {
	if file != "-" {
		text, err := worktree.ReadFile(file)
		if err != nil {
			return nil, fmt.Errorf("read the simulation: %w", err)
		}
		return text, nil
	}
	text, err := io.ReadAll(io.LimitReader(g.in, maxPipelineFile+1))
	if err == nil && len(text) > maxPipelineFile {
		err = fmt.Errorf("it is larger than %d MiB", maxPipelineFile>>20)
	}
	if err != nil {
		return nil, fmt.Errorf("read the simulation: %w", err)
	}
	return text, nil
}

// readCase compiles the pipeline of a simulation for a push to the default branch, and reads its events.
func readCase(g *global, file string, text []byte) (*pipeline.Graph, []schedule.Step, error) {
	var root yaml.Node
	if err := yaml.Unmarshal(text, &root); err != nil {
		return nil, nil, fmt.Errorf("%s: %w", file, err)
	}
	if len(root.Content) != 1 || root.Content[0].Kind != yaml.MappingNode {
		return nil, nil, hintf(fmt.Errorf("%s: it is no map", file), "a simulation has config and events; keelson ci simulate --help shows one")
	}
	var graph *pipeline.Graph
	var steps []schedule.Step
	top := root.Content[0]
	for i := 0; i+1 < len(top.Content); i += 2 {
		key, value := top.Content[i], top.Content[i+1]
		var err error
		switch key.Value {
		case "config":
			graph, err = simulatedGraph(g, file, text, key, value)
		case "events":
			if err = value.Decode(&steps); err != nil {
				err = fmt.Errorf("%s:%d: events: %w", file, value.Line, err)
			}
		default:
			err = hintf(fmt.Errorf("%s:%d: unknown key %s", file, key.Line, key.Value), "a simulation has config and events")
		}
		if err != nil {
			return nil, nil, err
		}
	}
	if graph == nil {
		return nil, nil, hintf(fmt.Errorf("%s: there is no config", file), "it is the pipeline that is simulated")
	}
	for i, s := range steps {
		if s.Event == "" {
			return nil, nil, fmt.Errorf("%s: event %d has no event", file, i+1)
		}
	}
	return graph, steps, nil
}

// simulatedGraph compiles what stands below config. Its text is cut out such that lines and columns stay what they are.
func simulatedGraph(g *global, file string, text []byte, key, value *yaml.Node) (*pipeline.Graph, error) {
	part := cutOut(text, key)
	if part == nil || value.Style&yaml.FlowStyle != 0 {
		b, err := yaml.Marshal(value)
		if err != nil {
			return nil, fmt.Errorf("%s: config: %w", file, err)
		}
		part = b
	}
	c := &pipeline.Context{
		Source: pipeline.SourcePush, Ref: "main", Commit: pipeline.Commit{SHA: strings.Repeat("0", 39) + "1"}, PipelineID: 1, PipelineIID: 1,
		Project: pipeline.Project{ID: 1, Path: "group/project", DefaultBranch: "main"}, Server: pipeline.Server{URL: "https://localhost"},
		Now: time.Unix(0, 0).UTC(),
	}
	cfg, problems := config.Load(config.Options{Path: cmp.Or(file, "-"), Text: part, Variables: compile.ConfigVariables(c), Context: c})
	var result compile.Result
	if !problems.Failed() && cfg != nil {
		result = compile.Compile(cfg, c)
		problems = append(problems, result.Problems...)
	}
	if problems.Failed() {
		texts := func(name string) ([]byte, bool) { return text, name == file }
		if err := show.Problems(g.err, problems, texts, paint(g.err)); err != nil {
			return nil, err
		}
		return nil, fmt.Errorf("%s: the configuration has %s", file, show.Summary(problems))
	}
	if result.Graph == nil {
		if result.Workflow != nil {
			return nil, errors.New(file + ": there is no pipeline: " + result.Workflow.Reason)
		}
		return nil, errors.New(file + ": there is no pipeline")
	}
	return result.Graph, nil
}

// cutOut gives the lines below a key of the top level, with blank ones for what stands before; nil: they cannot be told from what
// is around them.
func cutOut(text []byte, key *yaml.Node) []byte {
	lines := bytes.SplitAfter(text, []byte("\n"))
	if key.Column != 1 || key.Line < 1 || key.Line > len(lines) {
		return nil
	}
	first := strings.TrimSpace(strings.TrimPrefix(string(lines[key.Line-1]), key.Value))
	if first, ok := strings.CutPrefix(first, ":"); !ok || strings.TrimSpace(first) != "" && !strings.HasPrefix(strings.TrimSpace(first), "#") {
		return nil
	}
	out := bytes.Repeat([]byte("\n"), key.Line)
	for _, line := range lines[key.Line:] {
		if len(line) > 0 && !strings.ContainsRune(" \t\r\n#", rune(line[0])) {
			break
		}
		out = append(out, line...)
	}
	return out
}
