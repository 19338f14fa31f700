package controller

import (
	"context"
	"maps"
	"slices"
	"strings"
	"time"

	"keelson.dev/keelson/internal/deliver"
	"keelson.dev/keelson/internal/delivery"
	"keelson.dev/keelson/internal/git"
	"keelson.dev/keelson/internal/history"
	"keelson.dev/keelson/internal/render"
	"keelson.dev/keelson/internal/source"
)

// Where several commits come with one delivery, what each of them has changed is found out by rendering at each of them that changes anything for the
// app. That is done aside, one delivery after the other, and bounded: nobody waits for it.
const (
	dissections   = 100              // that wait at most
	dissectTime   = 30 * time.Second // for one of them
	dissectRender = 40               // renders of one of them at most
	dissectKeep   = 6                // renders that are in memory
)

// dissector does so.
type dissector struct{ jobs chan func(context.Context) }

func newDissector(life context.Context) *dissector {
	d := &dissector{jobs: make(chan func(context.Context), dissections)}
	go func() {
		for {
			select {
			case <-life.Done():
				return
			case job := <-d.jobs:
				ctx, cancel := context.WithTimeout(life, dissectTime)
				job(ctx)
				cancel()
			}
		}
	}()
	return d
}

// dissects has it found out which commits came with a delivery, and what each has changed.
func (a *apps) dissects(p *pass, r *recording) {
	d := r.d
	snap, app := p.req.Snapshot, p.req.App
	if a.parts == nil || d.Previous == "" || d.Trigger != history.ByCommit || d.SHA != snap.Revision.Commit || source.Follows(snap, d.Previous) {
		return
	}
	a.history.Parts(d.Key, []history.Part{{Commit: d.Commit}}) // until it is found out, and where it never is: that there may be others is known at least
	job := func(ctx context.Context) {
		defer func() {
			if v := recover(); v != nil { // whatever a repository holds, the history can do without
				a.log.Error("panic while commits were told apart", "app", d.App.String())
			}
		}()
		vars, _, err := deliver.ReadVariables(ctx, a.reader, app)
		if err != nil {
			vars = nil
		}
		build := app.Build
		build.Substitute = app.VarsAlways || len(vars) > 0
		a.history.Parts(d.Key, dissect(ctx, snap, d.Previous, build, vars)) // none: there are no others
	}
	select {
	case a.parts.jobs <- job:
	default: // too many at once
	}
}

// dissect gives the commits that a snapshot has and an earlier one has not, and what each of them has changed; none where that is one commit.
func dissect(ctx context.Context, snap delivery.Snapshot, since string, build delivery.Build, vars map[string]string) []history.Part {
	commits, err := source.Past(ctx, snap, since, history.MaxParts)
	if err != nil {
		return []history.Part{{Commit: commitOf(snap)}}
	}
	if len(commits) < 2 {
		return nil
	}
	parts := make([]history.Part, len(commits))
	for i, c := range commits {
		parts[i].Commit = commitSaid(c.ID, delivery.Commit{Author: c.Author.Name, Email: c.Author.Email, Authored: c.Author.When, Message: c.Message})
	}
	landed(commits, parts)
	x := &changers{renders: &renders{snap: snap, build: build, vars: vars}, by: map[history.Object]map[string]int{}}
	for i, c := range commits {
		if len(c.Parents) == 1 { // what a merge brings is its commits'
			x.commit(ctx, i, c)
		}
	}
	for _, o := range slices.SortedFunc(maps.Keys(x.by), func(a, b history.Object) int { return strings.Compare(a.Group+" "+a.String(), b.Group+" "+b.String()) }) {
		changed := map[int]*history.PartChange{}
		for _, path := range slices.Sorted(maps.Keys(x.by[o])) {
			i := x.by[o][path]
			if changed[i] == nil {
				changed[i] = &history.PartChange{Object: o}
			}
			if path == "" {
				changed[i].Whole = true
			} else {
				changed[i].Fields = append(changed[i].Fields, path)
			}
		}
		for i, c := range changed {
			parts[i].Changed = append(parts[i].Changed, *c)
		}
	}
	return parts
}

// landed gives commits of a branch the merge request by which they came, and who approved of that: the merge says so.
func landed(commits []git.CommitInfo, parts []history.Part) {
	at := make(map[string]int, len(commits))
	for i, c := range commits {
		at[c.ID] = i
	}
	reach := func(from string) map[int]bool {
		seen, next := map[int]bool{}, []string{from}
		for len(next) > 0 {
			i, in := at[next[0]]
			if next = next[1:]; in && !seen[i] {
				seen[i] = true
				next = append(next, commits[i].Parents...)
			}
		}
		return seen
	}
	for i, m := range commits { // the oldest first: that merge has brought them
		if len(m.Parents) < 2 || parts[i].MergeRequest == "" {
			continue
		}
		before := reach(m.Parents[0])
		for _, side := range m.Parents[1:] {
			for n := range reach(side) {
				if !before[n] && parts[n].MergeRequest == "" {
					parts[n].MergeRequest = parts[i].MergeRequest
					if len(parts[n].Approvers) == 0 {
						parts[n].Approvers = parts[i].Approvers
					}
				}
			}
		}
	}
}

// changers knows which commit has changed what last: by object and path of a field; the empty path is the object as a whole.
type changers struct {
	renders *renders
	by      map[history.Object]map[string]int
}

// commit takes in what a commit has changed. What cannot be rendered has changed nothing that could be told.
func (x *changers) commit(ctx context.Context, i int, c git.CommitInfo) {
	before, err := x.renders.at(ctx, c.Parents[0])
	if err != nil {
		return
	}
	after, err := x.renders.at(ctx, c.ID)
	if err != nil || before == after {
		return
	}
	for o, was := range before.objects {
		if _, stays := after.objects[o]; !stays {
			x.by[o] = map[string]int{"": i}
			continue
		}
		fields, _ := history.Diff(was, after.objects[o], false, nil)
		for _, f := range fields {
			if x.by[o] == nil {
				x.by[o] = map[string]int{}
			}
			x.by[o][f.Path] = i
		}
	}
	for o := range after.objects {
		if _, was := before.objects[o]; !was {
			x.by[o] = map[string]int{"": i}
		}
	}
}

// renders gives what an app is at commits of its repository.
type renders struct {
	snap  delivery.Snapshot
	build delivery.Build
	vars  map[string]string
	made  int
	kept  []*rendition // the newest last
}

// rendition is what an app is at commits.
type rendition struct {
	commits map[string]bool
	inputs  render.Inputs
	objects map[history.Object]map[string]any
	err     error
}

func (r *renders) at(ctx context.Context, commit string) (*rendition, error) {
	for _, k := range r.kept {
		if k.commits[commit] {
			return k, k.err
		}
	}
	snap, err := source.At(r.snap, commit)
	if err != nil {
		return nil, err
	}
	for _, k := range slices.Backward(r.kept) {
		if same, err := k.inputs.Same(snap); err == nil && same {
			k.commits[commit] = true
			return k, k.err
		}
	}
	if r.made++; r.made > dissectRender || ctx.Err() != nil {
		return nil, source.ErrNoPast
	}
	k := &rendition{commits: map[string]bool{commit: true}, objects: map[history.Object]map[string]any{}}
	var objects []delivery.Object
	objects, k.inputs, k.err = render.Track(ctx, snap, r.build, r.vars)
	for _, o := range objects {
		k.objects[objectOf(o.Ref())] = o.Object
	}
	if r.kept = append(r.kept, k); len(r.kept) > dissectKeep {
		r.kept = r.kept[1:]
	}
	return k, k.err
}
