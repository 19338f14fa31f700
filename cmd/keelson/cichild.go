package main

import (
	"context"
	"errors"
	"slices"
	"strings"

	"keelson.dev/keelson/internal/pipeline"
	"keelson.dev/keelson/internal/pipeline/run"
	"keelson.dev/keelson/internal/pipeline/show"
	"keelson.dev/keelson/internal/pipeline/worktree"
)

// downstream compiles child pipelines with the files and variables of their parent.
type downstream struct{ c *compiled }

// Compile implements run.Downstream.
func (d downstream) Compile(ctx context.Context, t run.Trigger) (*pipeline.Graph, error) {
	p := *d.c.ciPipeline
	p.single = nil
	p.files = p.reads(ctx)
	defer p.files.Close()
	first, inputs, err := p.files.FirstOfChild(ctx, t.Job, t.File)
	if err != nil {
		return nil, err
	}
	p.first = first
	c := worktree.ChildContext(d.c.context, t.ParentID, t.ID, t.Depth, t.Variables, inputs)
	p.files.For(c)
	out := &compiled{ciPipeline: &p, context: c}
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
