package worktree

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strings"
	"sync"
	"time"

	"keelson.dev/keelson/internal/git"
	"keelson.dev/keelson/internal/pipeline"
)

// Hosted is a commit in a bare repository, as a pipeline of a server sees it. It reads the object store; nothing is checked out.
type Hosted struct {
	o      HostedOptions
	repo   *git.Repository
	tree   *git.Tree
	commit pipeline.Commit
	parent string // its first one; empty: it has none
	paths  func() ([]string, error)
}

// HostedOptions say which commit of which project.
type HostedOptions struct {
	Dir     string // the bare repository
	SHA     string
	Project pipeline.Project
	Server  pipeline.Server
}

// OpenHosted opens a commit. Close it.
func OpenHosted(o HostedOptions) (*Hosted, error) {
	repo, err := git.Open(o.Dir, git.Options{MaxFileSize: maxFile})
	if err != nil {
		return nil, fmt.Errorf("open the repository of %s: %w", o.Project.Path, err)
	}
	h := &Hosted{o: o, repo: repo}
	info, err := repo.Info(o.SHA)
	if err == nil {
		h.tree, err = repo.Tree(o.SHA)
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("open %s at %s: %w", o.Project.Path, shortSHA(o.SHA), err), repo.Close())
	}
	h.commit = pipeline.Commit{
		SHA: info.ID, Message: info.Message, AuthorName: info.Author.Name, AuthorEmail: info.Author.Email, Timestamp: info.Committer.When,
	}
	if len(info.Parents) > 0 {
		h.parent = info.Parents[0]
	}
	h.paths = sync.OnceValues(h.list)
	return h, nil
}

// Close lets go of the repository.
func (h *Hosted) Close() error { return h.repo.Close() }

// Commit is what is known of the commit.
func (h *Hosted) Commit() pipeline.Commit { return h.commit }

// HostedEvent is what has happened to a repository on a server.
type HostedEvent struct {
	Source    string // CI_PIPELINE_SOURCE
	Ref       string // branch or tag, full: "refs/heads/main"
	Before    string // what the ref named before; empty or zeroes: it is new
	Protected bool
	Schedule  string // a schedule's description
	User      pipeline.User
	// PipelineID and PipelineIID number the pipeline.
	PipelineID, PipelineIID int64
	Now                     time.Time
}

// Event makes the context of an event.
func (h *Hosted) Event(ctx context.Context, e HostedEvent) (*pipeline.Context, error) {
	branch, isBranch := strings.CutPrefix(e.Ref, "refs/heads/")
	tag, isTag := strings.CutPrefix(e.Ref, "refs/tags/")
	c := &pipeline.Context{
		Source: e.Source, Ref: branch, Tag: isTag, Protected: e.Protected, Commit: h.commit, Before: e.Before, Schedule: e.Schedule,
		Project: h.o.Project, Server: h.o.Server, User: e.User, PipelineID: e.PipelineID, PipelineIID: e.PipelineIID, Now: e.Now,
	}
	switch {
	case isTag:
		c.Ref = tag
		message, err := runBare(ctx, h.o.Dir, "for-each-ref", "--format=%(if:equals=tag)%(objecttype)%(then)%(contents)%(end)", e.Ref)
		if err != nil {
			return nil, err
		}
		c.Commit.TagMessage = strings.TrimSuffix(message, "\n")
	case !isBranch:
		return nil, fmt.Errorf("%s is neither a branch nor a tag", e.Ref)
	}
	if c.Before == "" {
		c.Before = noCommit
	}
	if c.Server.Version == "" {
		c.Server.Version = gitlabVersion
	}
	c.ChangesSince = func(ref string) ([]string, error) { return h.changedSince(ctx, ref) }
	return c, nil
}

// Files makes the port for one reading, which ends when ctx does.
func (h *Hosted) Files(ctx context.Context, opts FilesOptions) *Files { return newFiles(ctx, h, opts) }

func (h *Hosted) read(name string) ([]byte, error) {
	text, err := h.tree.ReadAtMost(name, maxFile)
	if errors.Is(err, fs.ErrNotExist) {
		err = fs.ErrNotExist
	}
	if err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	return text, nil
}

func (h *Hosted) dir() string { return h.o.Dir }

// Paths lists the files of the commit.
func (h *Hosted) Paths() ([]string, error) { return h.paths() }

func (h *Hosted) list() ([]string, error) {
	var paths []string
	err := fs.WalkDir(h.tree, ".", func(name string, d fs.DirEntry, err error) error {
		if err == nil && !d.IsDir() {
			paths = append(paths, name)
		}
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("list the files of %s at %s: %w", h.o.Project.Path, shortSHA(h.o.SHA), err)
	}
	return paths, nil
}

func (h *Hosted) origin() place {
	p := parsePlace(h.o.Server.URL)
	p.path = h.o.Project.Path
	return p
}

func (h *Hosted) own(ctx context.Context, name, ref string) (*project, error) {
	return atRef(ctx, name, h.o.Dir, ref)
}

// Changes are the paths that a push changes, from what the ref named before; nil: no diff is known, as GitLab knows none for a new branch,
// for tags, schedules and the like, and where the commit before is not here any more.
func (h *Hosted) Changes(ctx context.Context, c *pipeline.Context) ([]string, error) {
	if c.Tag || c.Source != pipeline.SourcePush || c.Before == noCommit || c.Before == "" || !h.repo.HasCommit(c.Before) {
		return nil, nil
	}
	return h.changed(ctx, c.Before)
}

func (h *Hosted) changed(ctx context.Context, since string) ([]string, error) {
	out, err := runBare(ctx, h.o.Dir, "diff", "--name-only", "-z", "--no-renames", "--no-ext-diff", since, h.commit.SHA, "--")
	if err != nil {
		return nil, fmt.Errorf("list what has changed since %s: %w", shortSHA(since), err)
	}
	paths := split(out)
	slices.Sort(paths)
	return append([]string{}, paths...), nil
}

// changedSince is compare_to: what has changed since the branch left another ref.
func (h *Hosted) changedSince(ctx context.Context, ref string) ([]string, error) {
	other, err := atRef(ctx, h.o.Project.Path, h.o.Dir, strings.TrimPrefix(ref, "refs/heads/"))
	if err != nil {
		return nil, fmt.Errorf("there is no branch, tag or commit %s here", ref)
	}
	other.close()
	base, err := runBare(ctx, h.o.Dir, "merge-base", other.sha, h.commit.SHA)
	if err != nil {
		return nil, fmt.Errorf("%s and %s have no commit in common", ref, shortSHA(h.commit.SHA))
	}
	return h.changed(ctx, strings.TrimSpace(base))
}
