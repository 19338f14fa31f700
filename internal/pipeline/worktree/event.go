package worktree

import (
	"cmp"
	"context"
	"fmt"
	"os"
	"os/user"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"keelson.dev/keelson/internal/pipeline"
)

// gitlabVersion is CI_SERVER_VERSION: that of the GitLab whose rules the engine follows.
const gitlabVersion = "18.5.0"

// noCommit is CI_COMMIT_BEFORE_SHA where nothing was before.
const noCommit = "0000000000000000000000000000000000000000"

// Event is what a pipeline is to be compiled for. What it does not say is as in the working tree.
type Event struct {
	Source        string // empty: push
	Ref           string // branch or tag, short or full; empty: what HEAD is on
	Tag           bool   // Ref is a tag
	Target        string // a merge request's target branch; empty: the default branch
	DefaultBranch string
	Protected     *bool    // nil: the default branch is
	Changed       []string // paths; nil: what has changed, by git
	Schedule      string   // a schedule's description
	ConfigPath    string
	Now           time.Time
}

// Event makes the context of an event in this working tree. HEAD's commit is the pipeline's, whatever the ref. The changed
// paths and the tree are not in it: see [Repository.Changes] and [Files].
func (r *Repository) Event(ctx context.Context, e Event) (*pipeline.Context, error) {
	c := &pipeline.Context{
		Source: cmp.Or(e.Source, pipeline.SourcePush), Commit: r.head, Schedule: e.Schedule, Now: e.Now,
		Server: pipeline.Server{Version: gitlabVersion}, User: r.user(),
		PipelineID: e.Now.UnixMilli(), PipelineIID: 1,
		Changes: e.Changed,
	}
	if c.Commit.SHA == "" {
		c.Commit.SHA = noCommit
	}
	c.Project, c.Server.URL = r.project()
	c.Project.ConfigPath = cmp.Or(e.ConfigPath, ".gitlab-ci.yml")
	c.Project.DefaultBranch = cmp.Or(e.DefaultBranch, r.defaultBranch(ctx))
	if err := r.ref(ctx, c, e); err != nil {
		return nil, err
	}
	c.Before = noCommit
	if r.hasGit {
		c.ChangesSince = func(ref string) ([]string, error) { return r.changedSince(ctx, ref) }
	}
	c.Protected = !c.Tag && c.Ref == c.Project.DefaultBranch && c.Source != pipeline.SourceMergeRequest
	if e.Protected != nil {
		c.Protected = *e.Protected
	}
	if c.Source == pipeline.SourceMergeRequest {
		r.mergeRequest(ctx, c, e)
	} else if c.Source == pipeline.SourcePush && !c.Tag {
		if base := r.upstream(ctx, c.Ref); base != "" {
			c.Before = base
		}
	}
	return c, nil
}

// ref says on which branch or tag the event is.
func (r *Repository) ref(ctx context.Context, c *pipeline.Context, e Event) error {
	c.Ref, c.Tag = e.Ref, e.Tag
	if name, ok := strings.CutPrefix(c.Ref, "refs/heads/"); ok {
		c.Ref, c.Tag = name, false
	} else if name, ok := strings.CutPrefix(c.Ref, "refs/tags/"); ok {
		c.Ref, c.Tag = name, true
	} else if c.Ref != "" && !c.Tag {
		c.Tag = r.hasRef(ctx, "refs/tags/"+c.Ref) && !r.hasRef(ctx, "refs/heads/"+c.Ref)
	}
	if c.Ref == "" && c.Tag {
		if len(r.tags) == 0 {
			return fmt.Errorf("no tag names the commit %s: which one is it?", shortSHA(c.Commit.SHA))
		}
		c.Ref = r.tags[0]
	}
	if c.Ref == "" {
		switch {
		case r.branch != "":
			c.Ref = r.branch
		case len(r.tags) > 0:
			c.Ref, c.Tag = r.tags[0], true
		case len(r.remote) > 0:
			c.Ref = r.remote[0]
		case r.hasGit && r.head.SHA != "":
			c.Ref = shortSHA(r.head.SHA)
		default:
			c.Ref = c.Project.DefaultBranch
		}
	}
	if c.Tag && c.Source == pipeline.SourceMergeRequest {
		return fmt.Errorf("%s is a tag, and a merge request has a branch", c.Ref)
	}
	if c.Tag && r.hasRef(ctx, "refs/tags/"+c.Ref) {
		message, err := r.git(ctx, "for-each-ref", "--format=%(if:equals=tag)%(objecttype)%(then)%(contents)%(end)", "refs/tags/"+c.Ref)
		if err != nil {
			return err
		}
		c.Commit.TagMessage = strings.TrimSuffix(message, "\n")
	}
	return nil
}

func shortSHA(sha string) string { return sha[:min(8, len(sha))] }

// mergeRequest makes up the merge request of the branch.
func (r *Repository) mergeRequest(ctx context.Context, c *pipeline.Context, e Event) {
	target := cmp.Or(e.Target, c.Project.DefaultBranch)
	title, _, _ := strings.Cut(c.Commit.Message, "\n")
	m := &pipeline.MergeRequest{
		ID: 1, IID: 1, Title: title, SourceBranch: c.Ref, TargetBranch: target,
		SourceSHA: c.Commit.SHA, SourceProject: c.Project.Path,
		TargetProtected: target == c.Project.DefaultBranch,
	}
	if ref := r.find(ctx, target); ref != "" {
		if sha, err := r.git(ctx, "rev-parse", "--verify", "--quiet", ref+"^{commit}"); err == nil {
			m.TargetSHA = strings.TrimSpace(sha)
		}
		if base, err := r.git(ctx, "merge-base", ref, "HEAD"); err == nil {
			m.DiffBase = strings.TrimSpace(base)
		}
	}
	c.MergeRequest = m
}

// find gives the full name of a branch or tag as a server would find it: what the remote has is preferred. Empty: there is none.
func (r *Repository) find(ctx context.Context, name string) string {
	for _, full := range []string{"refs/remotes/" + r.remoteName() + "/" + name, "refs/heads/" + name, "refs/tags/" + name} {
		if r.hasRef(ctx, full) {
			return full
		}
	}
	return ""
}

// upstream is the commit that the branch has on its remote; empty: the branch is new there, or there is no remote.
func (r *Repository) upstream(ctx context.Context, branch string) string {
	remote := cmp.Or(r.config["branch."+branch+".remote"], r.remoteName())
	there := strings.TrimPrefix(cmp.Or(r.config["branch."+branch+".merge"], branch), "refs/heads/")
	ref := "refs/remotes/" + remote + "/" + there
	if remote == "." {
		ref = "refs/heads/" + there
	}
	if !r.hasRef(ctx, ref) {
		return ""
	}
	sha, err := r.git(ctx, "rev-parse", "--verify", "--quiet", ref+"^{commit}")
	if err != nil {
		return ""
	}
	return strings.TrimSpace(sha)
}

// remoteName is origin, or the first remote by name where there is no origin; empty: there is none.
func (r *Repository) remoteName() string {
	if r.config["remote.origin.url"] != "" {
		return "origin"
	}
	var names []string
	for key := range r.config {
		if name, ok := strings.CutPrefix(key, "remote."); ok && strings.HasSuffix(name, ".url") {
			names = append(names, strings.TrimSuffix(name, ".url"))
		}
	}
	if len(names) == 0 {
		return ""
	}
	return slices.Min(names)
}

// defaultBranch is the one that the remote says, or else main or master, or else what HEAD is on.
func (r *Repository) defaultBranch(ctx context.Context) string {
	if r.hasGit {
		remote := "refs/remotes/" + r.remoteName() + "/"
		if b, err := os.ReadFile(filepath.Join(r.common, filepath.FromSlash(remote+"HEAD"))); err == nil {
			if name, ok := strings.CutPrefix(strings.TrimSpace(string(b)), "ref: "+remote); ok {
				return name
			}
		}
		for _, name := range []string{"main", "master"} {
			if r.branch == name || r.hasRef(ctx, "refs/heads/"+name) || r.hasRef(ctx, remote+name) {
				return name
			}
		}
	}
	return cmp.Or(r.branch, "main")
}

// user is who has the working tree.
func (r *Repository) user() pipeline.User {
	u := pipeline.User{ID: 1, Name: r.config["user.name"], Email: r.config["user.email"], Login: os.Getenv("USER")}
	if u.Login == "" {
		if me, err := user.Current(); err == nil {
			u.Login = me.Username
		}
	}
	u.Login = cmp.Or(u.Login, "local")
	u.Name = cmp.Or(u.Name, u.Login)
	return u
}
