package main

import (
	"context"
	"errors"

	"k8s.io/apimachinery/pkg/api/meta"

	"keelson.dev/keelson/internal/deliver"
	"keelson.dev/keelson/internal/delivery"
	"keelson.dev/keelson/internal/web"
)

// maxDiffText bounds the YAML of one side of an object, and maxDiffs the objects that are told.
const maxDiffText, maxDiffs = 256 << 10, 1000

// Diff implements [web.Cluster]. Keelson itself renders and compares, as it would to deliver: whoever may read an app need not be allowed to
// read its credentials, or to write its objects. What the person may not read of the objects is not told.
func (a *clusterAPI) Diff(ctx context.Context, id web.AppRef) (web.AppDiff, error) {
	as, app, err := a.find(ctx, id)
	if err != nil {
		return web.AppDiff{}, err
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	if app.helm != nil {
		all, err := diffRelease(ctx, a.cluster.Config(), a.own, app.helm)
		if err != nil {
			return web.AppDiff{}, plainError(err)
		}
		return as.told(ctx, all, web.AppDiff{Revision: app.helm.Status.LastAttemptedRevision, Applied: app.shown().Revision})
	}
	p, err := previewFound(ctx, comparing(ctx, a.cluster), a.own, app, a.policy, "")
	if err != nil {
		return web.AppDiff{}, plainError(err)
	}
	return as.planned(ctx, p)
}

// planned tells a preview.
func (c *caller) planned(ctx context.Context, p preview) (web.AppDiff, error) {
	out := web.AppDiff{Revision: p.revision.String(), Applied: p.applied, Notes: p.notes}
	for _, b := range p.Plan.Blocks {
		out.Blocked = append(out.Blocked, b.Fault.Reason+": "+b.Fault.Error())
	}
	return c.told(ctx, p.Differences, out)
}

// plainError keeps what an error says and no more: that Keelson may not do something is not that the person may not.
func plainError(err error) error {
	if errors.Is(err, context.DeadlineExceeded) || errors.Is(err, context.Canceled) {
		return err
	}
	text := err.Error()
	for _, hint := range hintsOf(err) {
		text += " (" + hint + ")"
	}
	return errors.New(text)
}

// told puts what differs into an answer, as far as the person may read it.
func (c *caller) told(ctx context.Context, all []deliver.Difference, into web.AppDiff) (web.AppDiff, error) {
	into.Total = len(all)
	for _, d := range all {
		if d.Verb == delivery.Unchanged || d.Verb == delivery.Delegated {
			continue
		}
		if len(into.Objects) == maxDiffs {
			into.Notes = append(into.Notes, "more objects differ than are told")
			break
		}
		o := web.ObjectDiff{Kind: d.Ref.Kind, Namespace: d.Ref.Namespace, Name: d.Ref.Name, Verb: string(d.Verb), Before: clipped(d.Before), After: clipped(d.After)}
		if err := c.user.May(ctx, d.Ref, "", "get"); err != nil && !meta.IsNoMatchError(err) {
			if ctx.Err() != nil {
				return into, ctx.Err()
			}
			o.Hidden, o.Before, o.After = true, "", ""
		}
		into.Objects = append(into.Objects, o)
	}
	return into, nil
}

// clipped cuts a long text.
func clipped(text string) string {
	if len(text) <= maxDiffText {
		return text
	}
	return text[:maxDiffText] + "\n# … it is longer\n"
}
