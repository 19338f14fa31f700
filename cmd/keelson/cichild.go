package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"go.yaml.in/yaml/v4"

	"keelson.dev/keelson/internal/pipeline"
	"keelson.dev/keelson/internal/pipeline/config"
	"keelson.dev/keelson/internal/pipeline/run"
	"keelson.dev/keelson/internal/pipeline/show"
)

// downstream compiles child pipelines with the files and variables of their parent.
type downstream struct{ c *compiled }

// Compile implements run.Downstream.
func (d downstream) Compile(ctx context.Context, t run.Trigger) (*pipeline.Graph, error) {
	p := *d.c.ciPipeline
	p.single = nil
	p.files = p.repo.Files(ctx, p.where)
	defer p.files.Close()
	inputs, err := p.firstOfChild(ctx, t)
	if err != nil {
		return nil, err
	}
	c := *d.c.context
	c.Source, c.PipelineID, c.PipelineIID = pipeline.SourceParent, t.ID, c.PipelineIID+1
	c.Upstream = &pipeline.Upstream{PipelineID: t.ParentID, ProjectID: c.Project.ID, Depth: t.Depth}
	c.Pipeline = t.Variables
	c.Inputs = inputs
	p.files.For(&c)
	out := &compiled{ciPipeline: &p, context: &c}
	out.build()
	if out.Problems.Failed() {
		var text strings.Builder
		wrong := slices.DeleteFunc(slices.Clone(out.Problems), func(p pipeline.Problem) bool { return p.Severity != pipeline.Error })
		if err := show.Problems(&text, wrong, p.files.Text, false); err != nil {
			return nil, err
		}
		return nil, errors.New(strings.TrimSpace(text.String()))
	}
	return out.graph()
}

// firstOfChild finds the first file of a child pipeline, and the inputs that it is given. One file is that file; several are
// included by one that is made up.
func (p *ciPipeline) firstOfChild(ctx context.Context, t run.Trigger) (map[string]pipeline.Input, error) {
	trigger := t.Job.Trigger
	if len(trigger.Include) == 1 && (trigger.Include[0].Local != "" || trigger.Include[0].Artifact != "") {
		include := trigger.Include[0]
		inputs := map[string]pipeline.Input{}
		for _, more := range []map[string]pipeline.Input{include.Inputs, trigger.Inputs} {
			for name, v := range more {
				inputs[name] = v
			}
		}
		if include.Artifact == "" {
			var err error
			p.first, err = p.files.First(include.Local)
			return inputs, err
		}
		text, err := t.File(ctx, include.Job, include.Artifact)
		if err != nil {
			return nil, err
		}
		p.first = config.Source{Name: "artifact:" + include.Job + ":" + include.Artifact, Text: text}
		p.files.Keep(p.first.Name, text)
		return inputs, nil
	}
	var list []map[string]any
	for _, include := range trigger.Include {
		if include.Artifact != "" {
			return nil, errors.New("an artifact cannot be included beside other files here")
		}
		list = append(list, includeEntry(include, trigger.Inputs))
	}
	text, err := yaml.Dump(map[string]any{"include": list})
	if err != nil {
		return nil, fmt.Errorf("make the child pipeline: %w", err)
	}
	p.first = config.Source{Name: "trigger:include of " + t.Job.Name, Text: text}
	p.files.Keep(p.first.Name, text)
	return nil, nil
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
