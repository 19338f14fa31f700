package run

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/url"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	gitcmd "keelson.dev/keelson/internal/git"
	"keelson.dev/keelson/internal/pipeline"
	"keelson.dev/keelson/internal/pipeline/executor"
	"keelson.dev/keelson/internal/pipeline/scratch"
)

// CheckoutOptions say what jobs work on.
type CheckoutOptions struct {
	Repository string // the directory of the bare repository that the commit is in
	SHA        string
	Ref        string // full: refs/heads/main, refs/tags/v1
	Project    string // its path; the last element names the directory that a job works in
	URL        string // of origin, where a job has no CI_REPOSITORY_URL
	// Host is the address of a server's Git host: submodules come from there with the job's token (CI_JOB_TOKEN), or from outside of the
	// server's network. Empty: this is a person's own machine, and they come from anywhere.
	Host string
	Base string // the directory below which jobs work; it must be there, and nobody but this process may write to it
	// Hand is called with the directory before the job sees it: it may give it to another user. Nil: it is this process's.
	Hand func(ctx context.Context, dir string) error
}

// Checkout gives every job a clone of its commit as GitLab's runner does, with a detached HEAD, and removes it with the job. What a job says
// about it counts: GIT_STRATEGY (none, empty; every directory is new, so fetch and clone are the same), GIT_DEPTH (20), GIT_CHECKOUT and
// GIT_SUBMODULE_STRATEGY. Submodules come over http and https only, and without credentials but the job's for [CheckoutOptions].Host.
//
// The clone is made where no job can write, and moved to the job's directory when it is done: git never reads a configuration that a
// job's hooks:pre_get_sources_script has left there.
func Checkout(o CheckoutOptions) Sources { return checkout{o} }

type checkout struct{ o CheckoutOptions }

// Open names the directory.
func (s checkout) Open(j JobRef) (Workspace, error) {
	top := filepath.Join(s.o.Base, strconv.FormatInt(j.Pipeline, 10)+"-"+strconv.FormatInt(j.ID, 10))
	c := &clone{o: s.o, top: top, dir: filepath.Join(top, "builds", path.Base(s.o.Project))}
	if err := os.MkdirAll(c.dir, 0o755); err != nil {
		return nil, fmt.Errorf("make the job's directory: %w", err)
	}
	return c, nil
}

type clone struct {
	o        CheckoutOptions
	top, dir string
}

func (c *clone) Dir() string   { return c.dir }
func (c *clone) InPlace() bool { return false }

// Close removes the directory, also what the job has made unwritable.
func (c *clone) Close() error {
	if err := scratch.RemoveAll(c.top); err != nil {
		return fmt.Errorf("remove the job's directory: %w", err)
	}
	return nil
}

// defaultDepth is how many commits of the branch there are (GitLab's default for a project).
const defaultDepth = 20

// fetching is what a job says about its sources.
type fetching struct {
	strategy, submodules string
	depth                int
	checkout             bool
	origin               string
	token                string // the job's
}

func (c *clone) wishes(vars pipeline.Variables) (fetching, error) {
	value := func(name string) string { v, _ := vars.Get(name); return v.Value }
	w := fetching{strategy: value("GIT_STRATEGY"), submodules: value("GIT_SUBMODULE_STRATEGY"), depth: defaultDepth, checkout: true, origin: c.o.URL, token: vars.Predefined("CI_JOB_TOKEN")}
	if url := value("CI_REPOSITORY_URL"); url != "" {
		w.origin = url
	}
	if text := value("GIT_DEPTH"); text != "" {
		n, err := strconv.Atoi(text)
		if err != nil || n < 0 {
			return w, &executor.Failure{Reason: pipeline.ConfigurationError, Err: fmt.Errorf("GIT_DEPTH is %q: it is a number of commits, 0 for all", text)}
		}
		w.depth = n
	}
	if text := value("GIT_CHECKOUT"); text != "" {
		yes, err := strconv.ParseBool(text)
		if err != nil {
			return w, &executor.Failure{Reason: pipeline.ConfigurationError, Err: fmt.Errorf("GIT_CHECKOUT is %q: it is true or false", text)}
		}
		w.checkout = yes
	}
	switch w.strategy {
	case "", "fetch", "clone", "none", "empty":
	default:
		return w, &executor.Failure{Reason: pipeline.ConfigurationError, Err: fmt.Errorf("GIT_STRATEGY is %q: it is fetch, clone, none or empty", w.strategy)}
	}
	switch w.submodules {
	case "", "none", "normal", "recursive":
	default:
		return w, &executor.Failure{Reason: pipeline.ConfigurationError, Err: fmt.Errorf("GIT_SUBMODULE_STRATEGY is %q: it is none, normal or recursive", w.submodules)}
	}
	return w, nil
}

// Prepare makes the clone.
func (c *clone) Prepare(ctx context.Context, job executor.Job, trace *executor.Trace) error {
	begin := time.Now()
	w, err := c.wishes(job.Variables)
	if err != nil {
		return err
	}
	if w.strategy == "none" || w.strategy == "empty" {
		trace.Printf("No sources are fetched (GIT_STRATEGY: %s)", w.strategy)
		return c.hand(ctx)
	}
	made := filepath.Join(c.top, "clone")
	if err := os.Mkdir(made, 0o700); err != nil {
		return fmt.Errorf("clone: %w", err)
	}
	if err := c.fetch(ctx, made, w, trace); err != nil {
		return err
	}
	if err := moveInto(made, c.dir); err != nil {
		return fmt.Errorf("clone: %w", err)
	}
	short, _, _ := strings.Cut(strings.TrimPrefix(strings.TrimPrefix(c.o.Ref, "refs/heads/"), "refs/tags/"), "\n")
	trace.Printf("Checked out %s as detached HEAD (ref is %s) in %s", c.o.SHA[:min(8, len(c.o.SHA))], short, time.Since(begin).Round(time.Millisecond))
	return c.hand(ctx)
}

func (c *clone) hand(ctx context.Context) error {
	if c.o.Hand == nil {
		return nil
	}
	return c.o.Hand(ctx, c.dir)
}

// fetch makes a repository with the commit and its tree.
func (c *clone) fetch(ctx context.Context, dir string, w fetching, trace *executor.Trace) error {
	if _, err := c.git(ctx, dir, "init", "--quiet", "--template="); err != nil {
		return err
	}
	if w.origin != "" {
		if err := addOrigin(dir, w.origin); err != nil {
			return err
		}
	}
	if err := c.fetchCommit(ctx, dir, w); err != nil {
		return err
	}
	if w.checkout {
		if _, err := c.git(ctx, dir, "checkout", "--quiet", "--force", "--detach", c.o.SHA); err != nil {
			return err
		}
		if err := c.fetchSubmodules(ctx, dir, w, trace); err != nil {
			return err
		}
	}
	if w.origin == "" {
		return nil
	}
	return nameUser(dir, w.origin)
}

// fetchCommit gets the commit, and what a job expects of its branch or tag.
func (c *clone) fetchCommit(ctx context.Context, dir string, w fetching) error {
	args := []string{
		"fetch", "--quiet", "--no-tags", "--no-recurse-submodules", "--upload-pack=git -c uploadpack.allowAnySHA1InWant=true -c safe.directory=* upload-pack",
	}
	if w.depth > 0 {
		args = append(args, "--depth="+strconv.Itoa(w.depth))
	}
	args = append(args, "--", "file://"+c.o.Repository, "+"+c.o.SHA+":refs/pipelines/current")
	branch, isBranch := strings.CutPrefix(c.o.Ref, "refs/heads/")
	switch {
	case w.depth == 0:
		args = append(args, "+refs/heads/*:refs/remotes/origin/*", "+refs/tags/*:refs/tags/*")
	case isBranch:
		args = append(args, "+"+c.o.SHA+":refs/remotes/origin/"+branch)
	case !c.there():
		args = append(args, "+"+c.o.SHA+":"+c.o.Ref)
	default:
		args = append(args, "+"+c.o.Ref+":"+c.o.Ref)
	}
	_, err := c.git(ctx, dir, args...)
	return err
}

// fetchSubmodules gets the submodules, where the job wants them.
func (c *clone) fetchSubmodules(ctx context.Context, dir string, w fetching, trace *executor.Trace) error {
	if w.submodules != "normal" && w.submodules != "recursive" {
		return nil
	}
	trace.Printf("Updating submodules (GIT_SUBMODULE_STRATEGY: %s)", w.submodules)
	s := &submodules{c: c, token: w.token, args: []string{"submodule", "--quiet", "update"}}
	if w.depth > 0 {
		s.args = append(s.args, "--depth="+strconv.Itoa(w.depth))
	}
	if c.o.Host != "" {
		host, err := url.Parse(c.o.Host)
		if err != nil {
			return fmt.Errorf("the address of the Git host: %w", err)
		}
		s.host = host
	}
	return s.update(ctx, dir, w.submodules == "recursive", 1)
}

// throwaway is git's configuration for a repository that ends with its job: it need not survive a power cut, and nobody tidies it up.
var throwaway = [][2]string{{"core.fsync", "none"}, {"maintenance.auto", "false"}}

// there tells whether the repository still has the ref.
func (c *clone) there() bool {
	repo, err := gitcmd.Open(c.o.Repository, gitcmd.Options{})
	if err != nil {
		return false
	}
	defer repo.Close()
	_, err = repo.Resolve(c.o.Ref)
	return err == nil
}

// git runs git in a directory that nobody else writes to, without anybody's configuration.
func (c *clone) git(ctx context.Context, dir string, args ...string) (string, error) {
	cmd := gitcmd.Process(ctx, throwaway, args...)
	if args[0] == "fetch" {
		cmd.Env = append(slices.DeleteFunc(cmd.Env, func(kv string) bool { return strings.HasPrefix(kv, "GIT_ALLOW_PROTOCOL=") }), "GIT_ALLOW_PROTOCOL=file")
	}
	return c.runGit(ctx, cmd, dir, args[0])
}

func (c *clone) runGit(ctx context.Context, cmd *exec.Cmd, dir, verb string) (string, error) {
	cmd.Dir = dir
	var out, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &limited{w: &stderr, left: 8 << 10}
	err := cmd.Run()
	if ctx.Err() != nil {
		return "", context.Cause(ctx)
	}
	if err != nil {
		return "", fmt.Errorf("get the sources: git %s: %w: %s", verb, err, strings.TrimSpace(stderr.String()))
	}
	return out.String(), nil
}

// limited keeps the first bytes of what is written.
type limited struct {
	w    io.Writer
	left int
}

func (l *limited) Write(p []byte) (int, error) {
	n := min(len(p), l.left)
	l.left -= n
	_, err := l.w.Write(p[:n])
	return len(p), err
}

// moveInto moves what is in a directory to another one, in place of what has the same name there.
func moveInto(from, to string) error {
	if err := os.Rename(from, to); err == nil || !errors.Is(err, fs.ErrExist) { // the directory is empty, as nearly always
		return err
	}
	entries, err := os.ReadDir(from)
	if err != nil {
		return err
	}
	for _, e := range entries {
		target := filepath.Join(to, e.Name())
		if err := scratch.RemoveAll(target); err != nil {
			return err
		}
		if err := os.Rename(filepath.Join(from, e.Name()), target); err != nil {
			return err
		}
	}
	return os.Remove(from)
}
