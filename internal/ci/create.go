package ci

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"path"
	"slices"
	"strings"
	"time"

	"keelson.dev/keelson/internal/git"
	"keelson.dev/keelson/internal/pipeline"
	"keelson.dev/keelson/internal/pipeline/compile"
	"keelson.dev/keelson/internal/pipeline/config"
	"keelson.dev/keelson/internal/pipeline/executor"
	"keelson.dev/keelson/internal/pipeline/run"
	"keelson.dev/keelson/internal/pipeline/schedule"
	"keelson.dev/keelson/internal/pipeline/show"
	"keelson.dev/keelson/internal/pipeline/worktree"
	"keelson.dev/keelson/internal/redact"
	"keelson.dev/keelson/internal/store"
)

// ErrNoPipeline says that an event makes no pipeline: there is no configuration, its rules leave nothing to run, or it says to be skipped.
var ErrNoPipeline = errors.New("no pipeline")

// defaultConfigPath is where a pipeline's file is.
const defaultConfigPath = ".gitlab-ci.yml"

// Event is what a pipeline is made for. It is kept with the pipeline, sealed.
type Event struct {
	Project    string                    `json:"project"` // path
	Source     string                    `json:"source"`  // CI_PIPELINE_SOURCE
	Ref        string                    `json:"ref"`     // full: refs/heads/main
	SHA        string                    `json:"sha"`     // empty: what the ref names now
	Before     string                    `json:"before,omitempty"`
	User       string                    `json:"user,omitempty"`
	Schedule   string                    `json:"schedule,omitempty"` // a schedule's description
	Due        time.Time                 `json:"due,omitzero"`       // when the schedule was
	Variables  pipeline.Variables        `json:"variables,omitempty"`
	Inputs     map[string]pipeline.Input `json:"inputs,omitempty"`
	Upstream   int64                     `json:"upstream,omitempty"`   // the job of another project that asks for it
	Chain      []string                  `json:"chain,omitempty"`      // the pipelines that have started each other before it: path@commit
	IgnoreSkip bool                      `json:"ignoreSkip,omitempty"` // somebody asks for it, whatever the commit's message says
	// PipelineID and PipelineIID number the pipeline; 0: they are not given yet.
	PipelineID  int64 `json:"pipeline,omitempty"`
	PipelineIID int64 `json:"iid,omitempty"`
}

// Create makes a pipeline and lets it be played. The error is [ErrNoPipeline] where there is none to make. A configuration with errors
// makes a pipeline that has failed.
func (s *Server) Create(ctx context.Context, e Event) (store.Pipeline, error) {
	select {
	case <-s.resumed:
	case <-ctx.Done():
		return store.Pipeline{}, context.Cause(ctx)
	}
	p, err := s.o.Projects.Named(ctx, e.Project)
	if err != nil {
		return store.Pipeline{}, fmt.Errorf("project %s: %w", e.Project, err)
	}
	if e.SHA == "" {
		if e.SHA, err = resolve(p.Dir, e.Ref); err != nil {
			return store.Pipeline{}, fmt.Errorf("project %s: %w", e.Project, err)
		}
	}
	numbered, err := s.o.Store.EnsureProject(ctx, p.Path)
	if err != nil {
		return store.Pipeline{}, err
	}
	at, err := s.open(p, numbered.ID, e.SHA)
	if err != nil {
		return store.Pipeline{}, err
	}
	defer at.Close()
	if err := configured(at, p); err != nil {
		return store.Pipeline{}, err
	}
	id, iid, err := s.o.Store.Reserve(ctx, numbered.ID)
	if err != nil {
		return store.Pipeline{}, err
	}
	e.PipelineID, e.PipelineIID = cmp.Or(e.PipelineID, id), iid
	made, err := s.compile(ctx, at, p, e)
	if err != nil {
		return store.Pipeline{}, err
	}
	row := store.Pipeline{
		ID: e.PipelineID, IID: e.PipelineIID, Project: numbered.ID, Source: e.Source, Ref: made.context.Ref, Tag: made.context.Tag, SHA: e.SHA, Before: e.Before,
		Title: subject(made.context.Commit.Message), Author: made.context.Commit.AuthorName, User: e.User, Created: s.o.Now(),
		Upstream: e.Upstream,
	}
	event, err := json.Marshal(e)
	if err != nil {
		return row, err
	}
	if made.Problems.Failed() {
		row.Status, row.Why, row.Finished, row.Resting = string(pipeline.StatusFailed), made.complaint(), row.Created, true
		err := s.o.Store.CreatePipeline(ctx, row, store.Inputs{Event: event})
		if err == nil {
			s.tellEnded(row, nil)
		}
		return row, err
	}
	if made.Graph == nil || len(made.Graph.Jobs) == 0 {
		return row, fmt.Errorf("%w: %s", ErrNoPipeline, made.why())
	}
	return s.keepNew(ctx, p, row, e, made.Graph, event)
}

// keepNew keeps a pipeline with all its jobs, and lets it be played.
func (s *Server) keepNew(ctx context.Context, p Project, row store.Pipeline, e Event, g *pipeline.Graph, event []byte) (store.Pipeline, error) {
	ctx = context.WithoutCancel(ctx) // who has asked may go; half a pipeline is nobody's
	state := schedule.New(g, row.Created)
	row.Status = string(state.Status)
	graph, err := json.Marshal(g)
	if err != nil {
		return row, err
	}
	if err := s.addNew(ctx, p, row, e, g, state, store.Inputs{Graph: graph, Event: event}); err != nil {
		return row, err
	}
	s.supersede(ctx, p, row)
	return row, nil
}

// addNew keeps a pipeline and hands it to the engine, before anybody takes it up.
func (s *Server) addNew(ctx context.Context, p Project, row store.Pipeline, e Event, g *pipeline.Graph, state *schedule.State, inputs store.Inputs) error {
	s.taking.Lock()
	defer s.taking.Unlock()
	masked := maskedIn(g)
	if err := s.o.Store.CreatePipeline(ctx, row, inputs); err != nil {
		return err
	}
	ids := make(map[string]int64, len(g.Jobs))
	step := store.Step{Status: row.Status}
	for i := range g.Jobs {
		id := s.number()
		ids[g.Jobs[i].Name] = id
		step.Jobs = append(step.Jobs, jobRow(id, row.ID, &g.Jobs[i], &state.Jobs[i], row.Created, masked))
	}
	end, err := s.o.Store.Advance(ctx, row.ID, 0, step)
	if err != nil {
		return err
	}
	s.sink.add(row.ID, row.Project, end, step.Jobs, g)
	return s.engine.Add(ctx, s.played(p, row, e, g, state, ids), s.rested)
}

// jobRow is a job as it is kept when it is made.
func jobRow(id, pipelineID int64, j *pipeline.Job, is *schedule.Job, now time.Time, masked *redact.Redactor) store.Job {
	row := store.Job{
		ID: id, Pipeline: pipelineID, Name: j.Name, Stage: j.Stage, Attempt: is.Attempt, Status: string(is.Status), Why: masked.Text(is.Why), Created: now,
	}
	if j.Environment != nil {
		row.Environment = masked.Text(j.Environment.Name)
	}
	return row
}

// maskedIn knows the masked values of a graph's jobs.
func maskedIn(g *pipeline.Graph) *redact.Redactor {
	var values []string
	for i := range g.Jobs {
		values = append(values, executor.Job{Job: g.Jobs[i]}.MaskedValues()...)
	}
	slices.Sort(values)
	return redact.New(slices.Compact(values)...)
}

// open opens a commit of a project.
func (s *Server) open(p Project, id int64, sha string) (*worktree.Hosted, error) {
	return worktree.OpenHosted(worktree.HostedOptions{
		Dir: p.Dir, SHA: sha, Server: pipeline.Server{URL: s.o.URL},
		Project: pipeline.Project{
			ID: id, NamespaceID: id, Path: p.Path, Title: path.Base(p.Path), Visibility: "private", URL: s.o.URL + "/" + p.Path,
			CloneURL: s.o.GitURL + "/" + p.Repository + ".git", DefaultBranch: defaultBranch(p), ConfigPath: cmp.Or(p.ConfigPath, defaultConfigPath),
			Registry: s.o.Registry,
		},
	})
}

// defaultBranch is the one that the project says, or what the repository's HEAD names.
func defaultBranch(p Project) string {
	if p.DefaultBranch != "" {
		return p.DefaultBranch
	}
	repo, err := git.Open(p.Dir, git.Options{})
	if err != nil {
		return "main"
	}
	defer repo.Close()
	name, err := repo.Head()
	if err != nil || name == "" {
		return "main"
	}
	return strings.TrimPrefix(name, "refs/heads/")
}

// FullRef gives the full name of a branch or tag of a project, which is there; empty: of its default branch, which may not be. No other refs
// than branches and tags are given out.
func FullRef(p Project, name string) (string, error) {
	if name == "" {
		return "refs/heads/" + defaultBranch(p), nil
	}
	candidates := []string{"refs/heads/" + name, "refs/tags/" + name}
	if strings.HasPrefix(name, "refs/heads/") || strings.HasPrefix(name, "refs/tags/") {
		candidates = []string{name}
	}
	for _, full := range candidates {
		if _, err := resolve(p.Dir, full); err == nil {
			return full, nil
		}
	}
	return "", fmt.Errorf("project %s has no branch or tag %s", p.Path, name)
}

func resolve(dir, ref string) (string, error) {
	repo, err := git.Open(dir, git.Options{})
	if err != nil {
		return "", err
	}
	defer repo.Close()
	return repo.Resolve(ref)
}

// configured tells whether a commit has a pipeline's file.
func configured(at *worktree.Hosted, p Project) error {
	name := cmp.Or(p.ConfigPath, defaultConfigPath)
	paths, err := at.Paths()
	if err != nil {
		return err
	}
	if !slices.Contains(paths, name) {
		return fmt.Errorf("%w: there is no %s", ErrNoPipeline, name)
	}
	return nil
}

// made is what came of an event.
type made struct {
	compile.Result
	context *pipeline.Context
	files   *worktree.Files
	secrets []string
}

// complaint says what is wrong with a configuration, each with its place.
func (m *made) complaint() string {
	wrong := slices.DeleteFunc(slices.Clone(m.Problems), func(p pipeline.Problem) bool { return p.Severity != pipeline.Error })
	var out bytes.Buffer
	if err := show.Problems(&out, show.Redacted(wrong, m.secrets), m.files.Text, false); err != nil {
		return err.Error()
	}
	return strings.TrimSpace(out.String())
}

// why says why there is no pipeline.
func (m *made) why() string {
	if m.Workflow != nil && m.Workflow.Reason != "" {
		return m.Workflow.Reason
	}
	return "no job runs"
}

// context makes the context of an event.
func (s *Server) context(ctx context.Context, at *worktree.Hosted, p Project, e Event) (*pipeline.Context, error) {
	c, err := at.Event(ctx, worktree.HostedEvent{
		Source: e.Source, Ref: e.Ref, Before: e.Before, Protected: p.protects(e.Ref), Schedule: e.Schedule, User: pipeline.User{ID: 1, Login: e.User, Name: e.User},
		PipelineID: e.PipelineID, PipelineIID: e.PipelineIID, Now: s.o.Now(),
	})
	if err != nil {
		return nil, err
	}
	c.IgnoreSkip, c.ProjectVars, c.Pipeline, c.Inputs = e.IgnoreSkip, p.Variables, e.Variables, e.Inputs
	return c, nil
}

// files gives the files that a pipeline of a project may read.
func (s *Server) files(ctx context.Context, at *worktree.Hosted, p Project) *worktree.Files {
	return at.Files(ctx, worktree.FilesOptions{
		Hosted: func(other string) (string, error) {
			o, err := s.o.Projects.Named(ctx, other)
			if err == nil && other != p.Path && !anyMatch(o.ReadableBy, p.Path) {
				err = fmt.Errorf("pipelines of %s may not read it: its Project does not name them in readableBy", p.Path)
			}
			return o.Dir, err
		},
		Note: func(text string) { s.o.Log.Info("read a pipeline's files", "project", p.Path, "note", text) },
	})
}

// compile makes the graph of an event.
func (s *Server) compile(ctx context.Context, at *worktree.Hosted, p Project, e Event) (*made, error) {
	c, err := s.context(ctx, at, p, e)
	if err != nil {
		return nil, err
	}
	files := s.files(ctx, at, p)
	defer files.Close()
	first, err := files.First(c.Project.ConfigPath)
	if err != nil {
		if errors.Is(err, fs.ErrNotExist) {
			err = fmt.Errorf("%w: there is no %s", ErrNoPipeline, c.Project.ConfigPath)
		}
		return nil, err
	}
	files.For(c)
	return build(files, first, c), nil
}

// build loads and compiles for a context.
func build(files *worktree.Files, first config.Source, c *pipeline.Context) *made {
	m := &made{context: c, files: files, secrets: show.Secrets(slices.Concat(c.ProjectVars, c.Pipeline))}
	cfg, problems := config.Load(config.Options{
		Path: first.Name, Text: first.Text, Files: files, Inputs: c.Inputs, Variables: compile.ConfigVariables(c), Context: c,
	})
	if problems.Failed() || cfg == nil {
		m.Problems = problems
		return m
	}
	m.Result = compile.Compile(cfg, c)
	m.Problems = append(problems, m.Problems...)
	return m
}

// downstream compiles the child pipelines of a pipeline.
type downstream struct {
	s     *Server
	p     Project
	id    int64 // of the project
	event Event
}

// Compile implements [run.Downstream].
func (d downstream) Compile(ctx context.Context, t run.Trigger) (*pipeline.Graph, error) {
	at, err := d.s.open(d.p, d.id, d.event.SHA)
	if err != nil {
		return nil, err
	}
	defer at.Close()
	p, err := d.s.o.Projects.Named(ctx, d.p.Path) // with its variables, as they are now
	if err != nil {
		return nil, fmt.Errorf("project %s: %w", d.p.Path, err)
	}
	by, err := d.s.asked(ctx, run.JobRef{Pipeline: t.ParentID, Job: t.Job.Name, ID: t.JobID})
	if err != nil {
		return nil, err
	}
	event := d.event
	event.User = by.user
	parent, err := d.s.context(ctx, at, p, event)
	if err != nil {
		return nil, err
	}
	files := d.s.files(ctx, at, d.p)
	defer files.Close()
	first, inputs, err := files.FirstOfChild(ctx, t.Job, t.File)
	if err != nil {
		return nil, err
	}
	c := worktree.ChildContext(parent, t.ParentID, t.ID, t.Depth, t.Variables, inputs)
	if _, c.PipelineIID, err = d.s.o.Store.Reserve(ctx, d.id); err != nil {
		return nil, err
	}
	d.s.sink.expect(t.ID, c.PipelineIID)
	files.For(c)
	m := build(files, first, c)
	if m.Problems.Failed() {
		return nil, errors.New(m.complaint())
	}
	return m.Graph, nil
}

// protects tells whether a ref is protected.
func (p Project) protects(ref string) bool {
	if tag, ok := strings.CutPrefix(ref, "refs/tags/"); ok {
		return anyMatch(p.ProtectedTags, tag)
	}
	branch := strings.TrimPrefix(ref, "refs/heads/")
	if p.ProtectedBranches == nil {
		return branch == defaultBranch(p)
	}
	return anyMatch(p.ProtectedBranches, branch)
}

// anyMatch tells whether a name is one of those that patterns stand for; * in a pattern is anything, also a slash.
func anyMatch(patterns []string, name string) bool {
	return slices.ContainsFunc(patterns, func(pattern string) bool { return match(pattern, name) })
}

func match(pattern, name string) bool {
	parts := strings.Split(pattern, "*")
	if len(parts) == 1 {
		return pattern == name
	}
	rest, ok := strings.CutPrefix(name, parts[0])
	if !ok {
		return false
	}
	for _, part := range parts[1 : len(parts)-1] {
		at := strings.Index(rest, part)
		if at < 0 {
			return false
		}
		rest = rest[at+len(part):]
	}
	return strings.HasSuffix(rest, parts[len(parts)-1])
}

func subject(message string) string {
	title, _, _ := strings.Cut(strings.TrimLeft(message, "\n"), "\n")
	return strings.TrimSpace(title)
}
