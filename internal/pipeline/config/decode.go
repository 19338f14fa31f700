package config

import (
	"fmt"
	"slices"

	"keelson.dev/keelson/internal/pipeline"
)

const (
	// maxJobs bounds the jobs of a configuration, before parallel.
	maxJobs = 10_000
	// maxJobName is GitLab's, in characters.
	maxJobName = 255
	// maxProblems bounds what one file is told about.
	maxProblems = 1000
)

// Load reads a configuration and decodes it. The Config is nil where an error leaves nothing to decode.
func Load(o Options) (*pipeline.Config, pipeline.Problems) {
	d, problems := Read(o)
	if d == nil {
		return nil, problems
	}
	c, more := Decode(d)
	c.Partial = problems.Failed()
	return c, sortProblems(append(problems, more...), d.Files)
}

// Decode gives a merged tree its types. It checks every keyword as GitLab does, finds all problems at once, and leaves out what is
// wrong; the Config is never nil, and a job that is none (it has no script) is in it all the same. What needs several jobs to be checked (undefined stages, needs and so on) is left to compile.
func Decode(doc *Document) (*pipeline.Config, pipeline.Problems) {
	d := newDecoder()
	if doc == nil {
		doc = &Document{}
	}
	d.config.Files, d.config.Spec, d.incomplete, d.lacking = doc.Files, doc.Spec, doc.Incomplete, doc.lacking
	d.root(value{Node: doc.Root, d: d})
	return d.config, sortProblems(d.finish(), doc.Files)
}

// decoder collects what decoding comes to.
type decoder struct {
	config   *pipeline.Config
	defaults *pipeline.JobSpec // what default and the deprecated globals say
	job      string            // that is decoded now
	inherits pipeline.Inherit  // what it takes of the defaults

	badStages  bool            // the list of stages is wrong
	incomplete bool            // files are missing, and with them perhaps what jobs lack
	lacking    map[string]bool // jobs without some of what they extend

	regexps     map[string]string // that were checked: the fault, or ""
	expressions map[string]error  // that were checked
	paths       map[[2]string]string

	problems pipeline.Problems
	seen     map[finding]int // index into problems
	others   map[int][]string
	omitted  int
}

func newDecoder() *decoder {
	return &decoder{
		config: &pipeline.Config{}, seen: map[finding]int{},
		regexps: map[string]string{}, expressions: map[string]error{}, paths: map[[2]string]string{},
	}
}

// value is a node under a name of its own, such as "include".
func (d *decoder) value(name string, n *Node) value {
	v := value{Node: n, d: d, name: name, inner: &place{nil, name}, via: way(n, nil)}
	if n != nil {
		v.keyAt = n.At
	}
	return v
}

// finding makes a problem of a template that several jobs extend one problem.
type finding struct {
	code, text string
	at         pipeline.Position
}

func (d *decoder) report(severity pipeline.Severity, code, place, text, hint string, at pipeline.Position, via []pipeline.Via) {
	f := finding{code, text, at}
	if i, ok := d.seen[f]; ok && at.Line != 0 {
		if d.job != "" && d.job != d.problems[i].Job {
			if d.others == nil {
				d.others = map[int][]string{}
			}
			d.others[i] = append(d.others[i], d.job)
		}
		return
	}
	if d.full() {
		return
	}
	d.seen[f] = len(d.problems)
	d.problems = append(d.problems, pipeline.Problem{
		Severity: severity, Code: code, Job: d.job, Message: place + " " + text, Hint: hint, At: at, Via: via,
	})
}

// full tells whether one more problem is only counted.
func (d *decoder) full() bool {
	if len(d.problems) < maxProblems {
		return false
	}
	d.omitted++
	return true
}

// finish tells of the other jobs that have a problem too.
func (d *decoder) finish() pipeline.Problems {
	for i, jobs := range d.others {
		d.problems[i].Hint = pipeline.AlsoIn(d.problems[i].Hint, jobs)
	}
	if d.omitted > 0 {
		d.problems = append(d.problems, pipeline.Problem{
			Severity: pipeline.Error, Code: codeLimit, Message: fmt.Sprintf("there are %d more problems; the first %d are shown", d.omitted, maxProblems),
		})
	}
	return d.problems
}

// sortProblems puts problems in the order of files and lines.
func sortProblems(ps pipeline.Problems, files []pipeline.File) pipeline.Problems {
	ps.Sort(files)
	return ps
}

// globals are the keywords of jobs that may stand at the top level too, for the sake of old files.
var globals = []string{"image", "services", "cache", "before_script", "after_script"}

// root decodes the top level: everything that is not a keyword there is a job.
func (d *decoder) root(v value) {
	d.config.Stages = []string{pipeline.StagePre, "build", "test", "deploy", pipeline.StagePost}
	if v.Node == nil || v.Kind != Map {
		v.fail(codeType, "config should be a hash, found %s", v.described())
		return
	}
	d.decodeDefaults(v)
	for i := range v.Pairs {
		p := &v.Pairs[i]
		if isJob(p.Key, p.Value) {
			continue
		}
		switch p.Key {
		case "stages":
			d.stages(v.child(p.Key, p.KeyAt, p.Value))
		case "variables":
			d.config.Variables = v.child(p.Key, p.KeyAt, p.Value).variables(topVariables)
		case "workflow":
			d.workflow(v.child(p.Key, p.KeyAt, p.Value))
		}
	}
	d.jobs(v)
}

// isJob tells whether an entry of the top level is a job. default and workflow are jobs too if they have a script, as in GitLab.
func isJob(key string, n *Node) bool {
	switch key {
	case "include", "stages", "variables", "image", "services", "cache", "before_script", "after_script":
		return false
	case "default", "workflow":
		return n.Get("script") != nil || n.Get("run") != nil || n.Get("trigger") != nil
	}
	return true
}

// jobs decodes all jobs that are not hidden.
func (d *decoder) jobs(v value) {
	count, broken := 0, false
	jobs := d.value("jobs", v.Node)
	d.config.Jobs = make([]pipeline.JobSpec, 0, len(v.Pairs))
	for i := range v.Pairs {
		p := &v.Pairs[i]
		if !isJob(p.Key, p.Value) {
			continue
		}
		d.job = p.Key
		job := jobs.child(p.Key, p.KeyAt, p.Value)
		if pipeline.IsHidden(p.Key) {
			if p.Value.IsNull() || p.Value.Kind == Map && len(p.Value.Pairs) == 0 {
				job.fail(codeRequired, "config can't be blank")
			}
			continue
		}
		if count++; count > maxJobs {
			job.fail(codeLimit, "is one of more than %d jobs", maxJobs)
			break
		}
		kind := d.jobKind(job)
		broken = broken || kind == notAJob || kind == brokenJob
		if kind != notAJob {
			d.config.Jobs = append(d.config.Jobs, pipeline.JobSpec{})
			d.decodeJob(job, kind, &d.config.Jobs[len(d.config.Jobs)-1])
		}
	}
	d.mendStages()
	d.job = ""
	switch {
	case d.incomplete: // there may be more jobs
	case len(d.config.Jobs) == 0 && !broken:
		jobs.hint(codeJob, "a job has a name that does not begin with a dot, and a script", "config should contain at least one visible job")
	case len(d.config.Jobs) > 0 && !broken && !slices.ContainsFunc(d.config.Jobs, func(j pipeline.JobSpec) bool {
		return j.Stage != pipeline.StagePre && j.Stage != pipeline.StagePost
	}):
		first := d.config.Jobs[0]
		d.report(pipeline.Error, codeJob, "jobs", "config should contain a job of another stage than .pre and .post, or no pipeline runs", "", first.At, first.Via)
	}
}

// mendStages adds the stages of jobs to a list of stages that is wrong, so that nobody says that they do not exist.
func (d *decoder) mendStages() {
	if !d.badStages {
		return
	}
	for i := range d.config.Jobs {
		if name, last := d.config.Jobs[i].Stage, len(d.config.Stages)-1; !slices.Contains(d.config.Stages, name) {
			d.config.Stages = slices.Insert(d.config.Stages, last, name)
		}
	}
}

// stages decodes the list of stages.
func (d *decoder) stages(v value) {
	if !v.set() {
		return
	}
	errorsBefore := len(d.problems)
	defer func() { d.badStages = d.problems[errorsBefore:].Failed() }()
	const should = "config should be an array of strings or a nested array of strings up to 10 levels deep"
	if v.Kind != List {
		v.wrong(should)
		return
	}
	items, ok := v.flat()
	if !ok {
		v.fail(codeType, should)
		return
	}
	stages := []string{pipeline.StagePre}
	known := map[string]bool{pipeline.StagePre: true, pipeline.StagePost: true}
	for _, item := range items {
		switch {
		case item.Node == nil || item.Kind != String:
			item.wrong(should)
		case item.Text == pipeline.StagePre || item.Text == pipeline.StagePost: // they are where they belong anyway
		case known[item.Text]:
			item.warn(codeNoEffect, "remove it: the first one counts", "has the stage %s twice", quoted(item.Text))
		default:
			known[item.Text] = true
			stages = append(stages, item.Text)
		}
	}
	d.config.Stages = append(stages, pipeline.StagePost)
}

// workflow decodes the top level's workflow.
func (d *decoder) workflow(v value) {
	if !v.set() || !v.isMap("config should be a hash") {
		return
	}
	v.allow("name", "rules", "auto_cancel")
	w := &d.config.Workflow
	if name := v.field("name").text(); name != nil {
		if len([]rune(name.Value)) > 255 {
			v.field("name").fail(codeLimit, "is too long (maximum is 255 characters)")
		}
		w.Name = *name
	}
	w.AutoCancel = v.field("auto_cancel").autoCancel()
	w.HasRules = v.Get("rules") != nil
	if rules := v.field("rules"); rules.set() {
		w.Rules = rules.rules(workflowRules)
	}
}

func (v value) autoCancel() pipeline.AutoCancel {
	if !v.set() || !v.isMap("config should be a hash") {
		return pipeline.AutoCancel{}
	}
	v.allow("on_new_commit", "on_job_failure")
	return pipeline.AutoCancel{
		OnNewCommit:  v.field("on_new_commit").oneOf("conservative", "interruptible", "none"),
		OnJobFailure: v.field("on_job_failure").oneOf("none", "all"),
	}
}
