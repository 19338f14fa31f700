package main

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
	"golang.org/x/term"

	"keelson.dev/keelson/internal/pipeline"
	"keelson.dev/keelson/internal/pipeline/compile"
	"keelson.dev/keelson/internal/pipeline/config"
	"keelson.dev/keelson/internal/pipeline/show"
	"keelson.dev/keelson/internal/pipeline/worktree"
)

func ciCommand(g *global) *cobra.Command {
	cmd := &cobra.Command{
		Use: "ci", Short: "Check, explain and run pipelines (.gitlab-ci.yml), here and on the instance", Args: args(cobra.NoArgs),
		Long: `The first ci commands work on the .gitlab-ci.yml of the working tree around the current folder, as it is there: what is not committed
counts. No server is needed.

  keelson ci lint            all that is wrong with it, and what is seldom meant
  keelson ci list            which job runs on which event
  keelson ci explain JOB     why a job runs, or does not
  keelson ci run             run it here
  keelson ci rbac            the service account and role for jobs that deploy

What is pushed to the built-in Git host of an instance (keelson up) is run there:

  keelson ci pipelines       the pipelines, the newest first
  keelson ci show ID         a pipeline with its jobs
  keelson ci logs ID JOB     what a job says; -f follows it
  keelson ci play ID JOB     a manual job; also retry and cancel
  keelson ci trigger PROJECT make a pipeline now
  keelson ci artifacts ID    what its jobs have left
  keelson ci variables ID    the variables that it had
  keelson ci replay ID       the same pipeline here`,
		RunE: func(*cobra.Command, []string) error {
			return withCode(exitUsage, hintf(errors.New("ci what?"), "keelson ci --help lists the commands"))
		},
	}
	cmd.AddCommand(
		ciLintCommand(g), ciListCommand(g), ciExplainCommand(g), ciGraphCommand(g), ciVariablesCommand(g), ciEvalCommand(g),
		ciSimulateCommand(g), ciRunCommand(g), ciRBACCommand(g),
		ciReplayCommand(g), ciArtifactsCommand(g),
		ciPipelinesCommand(g), ciShowCommand(g), ciLogsCommand(g), ciTriggerCommand(g), ciSchedulesCommand(g), ciPlayCommand(g), ciRetryCommand(g), ciCancelCommand(g),
		ciEnvCommand(g),
	)
	return cmd
}

// ciOptions say which pipeline is meant, and for which event.
type ciOptions struct {
	file           string
	ref            string
	tag            bool
	source         string
	target         string
	defaultBranch  string
	protected      bool
	protectedGiven bool
	schedule       string
	changed        []string
	variables      []string // NAME=VALUE
	variablesFile  string
	inputs         []string // NAME=VALUE
	projects       []string // group/name=FOLDER-OR-URL
	outline        bool     // nobody asks for the variables of jobs
	eventGiven     bool     // some flag says what happened
	ignoreSkip     bool     // [skip ci] in the commit's message keeps nobody who asks by hand
}

// bindFiles adds the flags that say what the pipeline is made of.
func (o *ciOptions) bindFiles(f *pflag.FlagSet) {
	f.StringVarP(&o.file, "file", "f", "", "the pipeline's `file` (default: .gitlab-ci.yml at the top of the working tree)")
	f.StringArrayVar(&o.variables, "variable", nil, "a pipeline variable, as `NAME=VALUE`; can be repeated")
	f.StringVar(&o.variablesFile, "variables-file", "", "the `file` with the project's CI/CD variables (default: "+worktree.VariablesFile+", if it is there)")
	f.StringArrayVar(&o.inputs, "input", nil, "a value for spec:inputs, as `NAME=VALUE`; can be repeated")
	f.StringArrayVar(&o.projects, "project", nil, "where another project is that is included, as `GROUP/NAME=FOLDER-OR-URL`; can be repeated")
	f.StringVar(&o.defaultBranch, "default-branch", "", "the project's default `branch` (default: what the remote says)")
}

// bindEvent adds the flags that say what happened.
func (o *ciOptions) bindEvent(f *pflag.FlagSet) {
	f.StringVar(&o.ref, "ref", "", "the `branch` or tag (default: what HEAD is on)")
	f.BoolVar(&o.tag, "tag", false, "the ref is a tag")
	f.StringVar(&o.source, "source", "", "CI_PIPELINE_SOURCE: push, merge_request_event (or mr), schedule, web, api, trigger … (default: push)")
	f.StringVar(&o.target, "target-branch", "", "the merge request's target `branch` (default: the default branch)")
	f.StringArrayVar(&o.changed, "changed", nil, "a `path` that the event changes; can be repeated, \"\" for none (default: what git says)")
	f.BoolVar(&o.protected, "protected", false, "the ref is protected (default: the default branch is)")
	f.StringVar(&o.schedule, "schedule", "", "the schedule's `description`")
}

// given notes which flags were set, where that means something.
func (o *ciOptions) given(f *pflag.FlagSet) {
	o.protectedGiven = f.Changed("protected")
	o.eventGiven = slices.ContainsFunc([]string{"ref", "tag", "source", "target-branch", "changed", "protected", "schedule"}, f.Changed)
	if f.Changed("changed") {
		o.changed = slices.DeleteFunc(append([]string{}, o.changed...), func(p string) bool { return p == "" })
	} else {
		o.changed = nil
	}
}

// sources are the values of CI_PIPELINE_SOURCE that GitLab has.
var sources = []string{"push", "web", "trigger", "schedule", "api", "external", "pipeline", "chat", "webide", "merge_request_event",
	"external_pull_request_event", "parent_pipeline", "ondemand_dast_scan", "ondemand_dast_validation", "security_orchestration_policy"}

// event gives the event that the options describe.
func (o *ciOptions) event() (worktree.Event, error) {
	e := worktree.Event{
		Source: cmp.Or(o.source, pipeline.SourcePush), Ref: o.ref, Tag: o.tag, Target: o.target, DefaultBranch: o.defaultBranch,
		Changed: o.changed, Schedule: o.schedule, Now: time.Now(),
	}
	switch e.Source {
	case "mr", "merge_request", "merge-request":
		e.Source = pipeline.SourceMergeRequest
	}
	if !slices.Contains(sources, e.Source) {
		return e, withCode(exitUsage, hintf(fmt.Errorf("unknown source %q", o.source), "it is one of %s", strings.Join(sources, ", ")))
	}
	if o.protectedGiven {
		e.Protected = &o.protected
	}
	return e, nil
}

// pairs reads NAME=VALUE flags in their order.
func pairs(flag string, values []string) ([]pipeline.KV, error) {
	var out []pipeline.KV
	for _, text := range values {
		name, value, ok := strings.Cut(text, "=")
		if !ok || name == "" {
			return nil, usagef("--%s %q: it is NAME=VALUE", flag, text)
		}
		out = append(out, pipeline.KV{Key: name, Value: value})
	}
	return out, nil
}

// ciPipeline is a pipeline of the working tree.
type ciPipeline struct {
	opts     ciOptions
	repo     *worktree.Repository
	where    worktree.FilesOptions
	files    *worktree.Files
	reads    func(context.Context) *worktree.Files // makes others, for child pipelines
	levels   worktree.Levels
	first    config.Source
	single   *pipeline.Config  // the configuration, where it depends on nothing but its one file
	problems pipeline.Problems // of the variables file
}

// openPipeline finds the working tree, and reads the first file of its pipeline and its variables. The caller closes its files.
func openPipeline(ctx context.Context, g *global, opts ciOptions) (*ciPipeline, error) {
	repo, err := openWorktree(ctx)
	if err != nil {
		return nil, err
	}
	projects, err := pairs("project", opts.projects)
	if err != nil {
		return nil, err
	}
	where := map[string]string{}
	for _, kv := range projects {
		where[kv.Key] = kv.Value
	}
	cache, err := os.UserCacheDir()
	if err != nil {
		cache = filepath.Join(os.TempDir(), fmt.Sprintf("keelson-%d", os.Getuid()))
	}
	note := func(text string) { fmt.Fprintln(g.err, "note: "+show.Plain(text)) }
	p := &ciPipeline{opts: opts, repo: repo, where: worktree.FilesOptions{Projects: where, Cache: filepath.Join(cache, "keelson", "ci"), Note: note}}
	p.reads = func(ctx context.Context) *worktree.Files { return repo.Files(ctx, p.where) }
	p.files = p.reads(ctx)
	if p.first, err = p.readFirst(g, opts.file); err != nil {
		p.files.Close()
		return nil, err
	}
	if err := p.readVariables(); err != nil {
		p.files.Close()
		return nil, err
	}
	return p, nil
}

// openWorktree finds the working tree around the current folder.
func openWorktree(ctx context.Context) (*worktree.Repository, error) {
	repo, err := worktree.Open(ctx, ".")
	if err != nil && repo != nil && strings.Contains(err.Error(), "dubious ownership") {
		err = hintf(err, "git config --global --add safe.directory %s", repo.Root())
	}
	return repo, err
}

const defaultPipelineFile = ".gitlab-ci.yml"

// readFirst reads the pipeline's file: one of the working tree, or any other one, or standard input for "-".
func (p *ciPipeline) readFirst(g *global, file string) (config.Source, error) {
	if file == "" {
		s, err := p.files.First(defaultPipelineFile)
		if errors.Is(err, fs.ErrNotExist) {
			return s, hintf(fmt.Errorf("there is no %s in %s", defaultPipelineFile, p.repo.Root()), "-f names another file")
		}
		return s, err
	}
	if file == "-" {
		text, err := io.ReadAll(io.LimitReader(g.in, maxPipelineFile+1))
		if err == nil && len(text) > maxPipelineFile {
			err = fmt.Errorf("it is larger than %d MiB", maxPipelineFile>>20)
		}
		if err != nil {
			return config.Source{}, fmt.Errorf("read the standard input: %w", err)
		}
		p.files.Keep("standard input", text)
		return config.Source{Name: "standard input", Text: text}, nil
	}
	full, err := filepath.Abs(file)
	if err == nil {
		full, err = filepath.EvalSymlinks(full)
	}
	if err != nil {
		return config.Source{}, fmt.Errorf("read the pipeline: %w", err)
	}
	if rel, err := filepath.Rel(p.repo.Root(), full); err == nil && filepath.IsLocal(rel) {
		return p.files.First(rel)
	}
	text, err := worktree.ReadFile(full)
	if err != nil {
		return config.Source{}, fmt.Errorf("read the pipeline: %w", err)
	}
	p.files.Keep(file, text)
	return config.Source{Name: file, Text: text}, nil
}

const maxPipelineFile = 8 << 20

// readVariables reads the project's variables, which are in no commit.
func (p *ciPipeline) readVariables() error {
	file, name := p.opts.variablesFile, p.opts.variablesFile
	if file == "" {
		file, name = filepath.Join(p.repo.Root(), worktree.VariablesFile), worktree.VariablesFile
	}
	text, err := worktree.ReadFile(file)
	if errors.Is(err, fs.ErrNotExist) && p.opts.variablesFile == "" {
		return nil
	}
	if err != nil {
		return fmt.Errorf("read the variables: %w", err)
	}
	// The text is not kept: no problem shows a line of it.
	doc, problems := config.Read(config.Options{Path: name, Text: text})
	problems = slices.DeleteFunc(problems, func(p pipeline.Problem) bool { return p.Code == "empty-file" }) // there are no variables
	if doc == nil || problems.Failed() {
		p.problems = problems
		return nil
	}
	p.levels, p.problems = worktree.Variables(doc.Root)
	return nil
}

// context makes the context of an event with all variables and inputs from outside.
func (p *ciPipeline) context(ctx context.Context, e worktree.Event) (*pipeline.Context, error) {
	e.ConfigPath = p.first.Name
	c, err := p.repo.Event(ctx, e)
	if err != nil {
		return nil, err
	}
	c.IgnoreSkip = p.opts.ignoreSkip
	c.Instance, c.Group, c.ProjectVars = p.levels.Instance, p.levels.Group, p.levels.Project
	variables, err := pairs("variable", p.opts.variables)
	if err != nil {
		return nil, err
	}
	for _, kv := range variables {
		c.Pipeline = append(c.Pipeline, pipeline.Variable{Name: kv.Key, Value: kv.Value, Origin: pipeline.OriginPipeline, At: pipeline.Position{File: "--variable"}})
	}
	inputs, err := pairs("input", p.opts.inputs)
	if err != nil {
		return nil, err
	}
	for _, kv := range inputs {
		if c.Inputs == nil {
			c.Inputs = map[string]pipeline.Input{}
		}
		c.Inputs[kv.Key] = pipeline.Input{Value: inputValue(kv.Value), At: pipeline.Position{File: "--input"}}
	}
	p.files.For(c)
	return c, nil
}

// inputValue is a value for an input as a flag has it: a list is JSON, and what else a text stands for the input's type says.
func inputValue(text string) any {
	var list []any
	if strings.HasPrefix(text, "[") && json.Unmarshal([]byte(text), &list) == nil {
		return list
	}
	return text
}

// load reads the configuration for an event.
func (p *ciPipeline) load(c *pipeline.Context) (*pipeline.Config, pipeline.Problems) {
	return config.Load(p.read(c))
}

func (p *ciPipeline) read(c *pipeline.Context) config.Options {
	return config.Options{
		Path: p.first.Name, Text: p.first.Text, Files: p.files, Inputs: c.Inputs, Variables: compile.ConfigVariables(c), Context: c,
	}
}

// compiled is a pipeline that was compiled for an event.
type compiled struct {
	*ciPipeline
	compile.Result
	context *pipeline.Context
	config  *pipeline.Config // nil: it has errors
	read    *pipeline.Config // what could be read of it, whatever its errors; nil: nothing
}

// compilePipeline opens, loads and compiles what the options describe. An error has been shown where there are problems.
func compilePipeline(ctx context.Context, g *global, opts ciOptions) (*compiled, error) {
	e, err := opts.event()
	if err != nil {
		return nil, err
	}
	p, err := openPipeline(ctx, g, opts)
	if err != nil {
		return nil, err
	}
	c, err := p.compile(ctx, e)
	if err == nil && c.Problems.Failed() {
		err = c.refuse(g, c.Problems)
	}
	if err != nil {
		p.files.Close()
		return nil, err
	}
	return c, nil
}

// compile loads and compiles the pipeline for an event. What is wrong with it is in the result's problems.
func (p *ciPipeline) compile(ctx context.Context, e worktree.Event) (*compiled, error) {
	c, err := p.context(ctx, e)
	if err != nil {
		return nil, err
	}
	out := &compiled{ciPipeline: p, context: c}
	out.build()
	return out, nil
}

// build loads and compiles for the context. A single file without inputs is the same for all events, and is loaded once.
func (c *compiled) build() {
	cfg, problems := c.single, pipeline.Problems(nil)
	if cfg == nil {
		cfg, problems = c.load(c.context)
	}
	problems = append(slices.Clone(c.problems), problems...)
	problems = show.Redacted(problems, c.secrets())
	c.read = cfg
	if problems.Failed() || cfg == nil {
		c.Problems = problems
		return
	}
	if len(cfg.Files) == 1 && len(cfg.Spec) == 0 && len(problems) == 0 {
		c.single = cfg
	}
	c.config = cfg
	if c.opts.outline && len(c.secrets()) == 0 { // what a job's variables hide is known by them
		c.Result = compile.Outline(cfg, c.context)
	} else {
		c.Result = compile.Compile(cfg, c.context)
	}
	c.Problems = append(problems, show.Redacted(c.Problems, c.secrets())...)
}

// secrets are the values of the variables file that are never shown.
func (p *ciPipeline) secrets() []string {
	return show.Secrets(slices.Concat(p.levels.Instance, p.levels.Group, p.levels.Project))
}

// refuse shows the errors of a configuration with which nothing else can be done.
func (p *ciPipeline) refuse(g *global, problems pipeline.Problems) error {
	wrong := slices.DeleteFunc(slices.Clone(problems), func(p pipeline.Problem) bool { return p.Severity != pipeline.Error })
	if err := show.Problems(g.err, wrong, p.files.Text, paint(g.err)); err != nil {
		return err
	}
	return hintf(fmt.Errorf("%s: the configuration has %s", p.first.Name, show.Summary(wrong)), "keelson ci lint shows the warnings too")
}

// paint says whether an output is a terminal that wants colours.
func paint(w io.Writer) show.Paint {
	f, ok := w.(*os.File)
	return show.Paint(ok && os.Getenv("NO_COLOR") == "" && os.Getenv("TERM") != "dumb" && term.IsTerminal(int(f.Fd())))
}

// describeEvent says in a line what a context is about.
func describeEvent(c *pipeline.Context) string {
	var b bytes.Buffer
	kind := "branch"
	if c.Tag {
		kind = "tag"
	}
	fmt.Fprintf(&b, "%s, %s %s", c.Source, kind, c.Ref)
	if c.MergeRequest != nil {
		fmt.Fprintf(&b, " into %s", c.MergeRequest.TargetBranch)
	}
	if c.Protected {
		b.WriteString(" (protected)")
	}
	switch {
	case c.Changes == nil:
	case len(c.Changes) == 1:
		b.WriteString(", 1 path changed")
	default:
		fmt.Fprintf(&b, ", %d paths changed", len(c.Changes))
	}
	return show.Plain(b.String())
}
