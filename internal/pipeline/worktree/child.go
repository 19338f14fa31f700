package worktree

import (
	"context"
	"errors"
	"fmt"

	"go.yaml.in/yaml/v4"

	"keelson.dev/keelson/internal/pipeline"
	"keelson.dev/keelson/internal/pipeline/config"
)

// ChildContext is the context of a child pipeline with a number that is started by a pipeline with a context.
func ChildContext(parent *pipeline.Context, parentID, id int64, depth int, vars pipeline.Variables, inputs map[string]pipeline.Input) *pipeline.Context {
	c := *parent
	c.Source, c.PipelineID, c.PipelineIID = pipeline.SourceParent, id, c.PipelineIID+1
	c.Upstream = &pipeline.Upstream{PipelineID: parentID, ProjectID: c.Project.ID, Depth: depth}
	c.Pipeline, c.Inputs = vars, inputs
	return &c
}

// FirstOfChild finds the first file of the child pipeline that a trigger job starts, and the inputs that it is given. One file is that
// file; several are included by one that is made up. read reads a file of the artifacts of a job of the parent.
func (f *Files) FirstOfChild(
	ctx context.Context, j *pipeline.Job, read func(ctx context.Context, job, path string) ([]byte, error),
) (config.Source, map[string]pipeline.Input, error) {
	trigger := j.Trigger
	if len(trigger.Include) == 1 && (trigger.Include[0].Local != "" || trigger.Include[0].Artifact != "") {
		include := trigger.Include[0]
		inputs := map[string]pipeline.Input{}
		for _, more := range []map[string]pipeline.Input{include.Inputs, trigger.Inputs} {
			for name, v := range more {
				inputs[name] = v
			}
		}
		if include.Artifact == "" {
			first, err := f.First(include.Local)
			return first, inputs, err
		}
		text, err := read(ctx, include.Job, include.Artifact)
		if err != nil {
			return config.Source{}, nil, err
		}
		return f.keep(config.Source{Name: "artifact:" + include.Job + ":" + include.Artifact, Text: text}), inputs, nil
	}
	var list []map[string]any
	for _, include := range trigger.Include {
		if include.Artifact != "" {
			return config.Source{}, nil, errors.New("an artifact cannot be included beside other files here")
		}
		list = append(list, includeEntry(include, trigger.Inputs))
	}
	text, err := yaml.Dump(map[string]any{"include": list})
	if err != nil {
		return config.Source{}, nil, fmt.Errorf("make the child pipeline: %w", err)
	}
	return f.keep(config.Source{Name: "trigger:include of " + j.Name, Text: text}), nil, nil
}

// includeEntry is an include as it stands in a file.
func includeEntry(i pipeline.Include, more map[string]pipeline.Input) map[string]any {
	entry := map[string]any{}
	for key, value := range map[string]string{
		"local": i.Local, "project": i.Project, "ref": i.Ref, "file": i.File, "remote": i.Remote, "integrity": i.Integrity,
		"template": i.Template, "component": i.Component,
	} {
		if value != "" {
			entry[key] = value
		}
	}
	inputs := map[string]any{}
	for _, all := range []map[string]pipeline.Input{i.Inputs, more} {
		for name, v := range all {
			inputs[name] = v.Value
		}
	}
	if len(inputs) > 0 {
		entry["inputs"] = inputs
	}
	return entry
}
