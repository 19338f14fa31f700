package artifact

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"path"
	"slices"
	"strings"
	"time"

	"keelson.dev/keelson/internal/pipeline"
)

// Key names the artifacts of a job.
type Key struct {
	Project  string `json:"project"`  // its path: group/name
	Pipeline string `json:"pipeline"` // its id
	Job      string `json:"job"`      // the job's name in the graph; a retry replaces what the job has left before
}

func (k Key) path() string { return k.prefix() + element(k.Job) + ".json" }

// prefix is that of all jobs of the pipeline.
func (k Key) prefix() string {
	return "artifacts/" + element(k.Project) + "/" + element(k.Pipeline) + "/"
}

// Record is what is known of a job's artifacts. It stays when their files are gone.
type Record struct {
	Key
	Name     string    `json:"name"` // artifacts:name, expanded
	ExposeAs string    `json:"exposeAs,omitempty"`
	Access   string    `json:"access,omitempty"` // all (also empty), developer, maintainer, none
	Saved    time.Time `json:"saved"`
	Expires  time.Time `json:"expires,omitzero"` // zero: never
	Gone     string    `json:"gone,omitempty"`   // why the files are gone: expired, erased
	GoneAt   time.Time `json:"goneAt,omitzero"`

	Archive *Archive      `json:"archive,omitempty"` // nil: the job has left none
	Reports []Report      `json:"reports,omitempty"` // by kind
	Dotenv  []pipeline.KV `json:"dotenv,omitempty"`
	JUnit   *JUnit        `json:"junit,omitempty"`
}

// Report is a report that a job has left. Its files are kept, but other jobs do not find them in their directories.
type Report struct {
	Kind string `json:"kind"` // junit, dotenv, codequality, …
	Archive
}

// MissingError is the error of a job that cannot get the artifacts that it depends on: missing_dependency_failure.
type MissingError struct {
	Jobs []string // whose artifacts are missing
	Why  []string // of each: "expired 3h ago", "erased", "lost"
}

func (e *MissingError) Error() string {
	parts := make([]string, len(e.Jobs))
	for i, job := range e.Jobs {
		parts[i] = fmt.Sprintf("%s (%s)", job, e.Why[i])
	}
	return "this job could not start because it could not retrieve the needed artifacts of: " + strings.Join(parts, ", ") +
		"; run them again, or keep their artifacts for longer (artifacts:expire_in)"
}

// Reason gives the failure reason of a job that failed with an error of this package.
func Reason(err error) pipeline.FailureReason {
	var missing *MissingError
	var dotenv *DotenvError
	var policy *policyError
	switch {
	case errors.As(err, &policy):
		return pipeline.ConfigurationError
	case errors.As(err, &missing):
		return pipeline.MissingDependency
	case errors.As(err, &dotenv):
		return pipeline.ScriptFailure
	default:
		return pipeline.RunnerSystemFailure
	}
}

// Sources tells whose artifacts a job takes: those of its needs, or of all jobs of earlier stages, as far as dependencies lets
// them. They are in the order of the graph; of two with one file the later one counts. Foreign are the needs of other pipelines
// and projects. It is pure.
func Sources(g *pipeline.Graph, job string) (local []string, foreign []pipeline.Need) {
	at := slices.IndexFunc(g.Jobs, func(j pipeline.Job) bool { return j.Name == job })
	if at < 0 {
		return nil, nil
	}
	j := &g.Jobs[at]
	needed := map[string]bool{}
	for _, n := range j.Needs {
		switch {
		case !n.Artifacts:
		case n.Local():
			needed[n.Job] = true
		default:
			foreign = append(foreign, n)
		}
	}
	if j.Dependencies != nil && len(j.Dependencies) == 0 {
		return nil, foreign
	}
	listed := map[string]bool{}
	for _, d := range j.Dependencies {
		listed[d] = true
	}
	stage := slices.Index(g.Stages, j.Stage)
	earlier := map[string]bool{}
	for _, s := range g.Stages[:max(stage, 0)] {
		earlier[s] = true
	}
	for i := range g.Jobs {
		o := &g.Jobs[i]
		taken := earlier[o.Stage]
		if j.DAG {
			taken = needed[o.Name]
		}
		if taken && i != at && o.Trigger == nil && (len(listed) == 0 || listed[o.Name] || listed[o.Base]) {
			local = append(local, o.Name)
		}
	}
	return local, foreign
}

// matches tells whether something is kept after such an outcome.
func matches(when pipeline.When, succeeded bool) bool {
	switch when {
	case pipeline.Always:
		return true
	case pipeline.OnFailure:
		return !succeeded
	default:
		return succeeded
	}
}

// Save keeps the artifacts and reports of a job that has ended, and forgets what an earlier run of it has left. Nil artifacts
// leave nothing. A [*DotenvError] comes with the record: what else the job left has been kept.
func (s *Store) Save(ctx context.Context, key Key, a *pipeline.Artifacts, w Work, succeeded bool) (*Record, error) {
	unlock, err := s.lock(ctx, false)
	if err != nil {
		return nil, err
	}
	defer unlock()
	w = w.ready()
	rec := &Record{Key: key, Saved: s.now().UTC().Round(0)}
	var dotenv error
	if a != nil {
		rec.Name = path.Base("/" + w.Vars.Expand(a.Name))
		if rec.Name == "/" || rec.Name == "." {
			rec.Name = "artifacts"
		}
		rec.ExposeAs, rec.Access = a.ExposeAs, a.Access
		switch {
		case a.Forever:
		case a.ExpireIn > 0:
			rec.Expires = rec.Saved.Add(time.Duration(a.ExpireIn))
		default:
			rec.Expires = rec.Saved.Add(s.expire)
		}
		root, err := os.OpenRoot(w.Dir)
		if err != nil {
			return nil, err
		}
		defer root.Close()
		if err := s.saveArchive(ctx, root, rec, a, w, succeeded); err != nil {
			return nil, err
		}
		dotenv, err = s.saveReports(ctx, root, rec, a, w)
		if err != nil {
			return nil, err
		}
	}
	if rec.Archive == nil && len(rec.Reports) == 0 {
		return rec, errors.Join(s.delete(ctx, key.path()), dotenv)
	}
	if err := s.putJSON(ctx, key.path(), rec); err != nil {
		return nil, err
	}
	return rec, dotenv
}

func (s *Store) saveArchive(ctx context.Context, root *os.Root, rec *Record, a *pipeline.Artifacts, w Work, succeeded bool) error {
	if !matches(a.When, succeeded) || len(a.Paths) == 0 && !a.Untracked {
		return nil
	}
	kept, _, err := s.upload(ctx, root, w, w.selection(a.Paths, a.Exclude, a.Untracked), "archive")
	if err != nil {
		return fmt.Errorf("artifacts: %w", err)
	}
	rec.Archive = kept
	return nil
}

// upload collects files and keeps them; without any there is no archive.
func (s *Store) upload(ctx context.Context, root *os.Root, w Work, sel selection, kind string) (*Archive, []entry, error) {
	w.printf("Uploading artifacts...")
	begin := time.Now()
	entries, err := collect(ctx, w, root, sel, s.limits)
	if err != nil {
		return nil, nil, err
	}
	if len(entries) == 0 {
		w.printf("ERROR: No files to upload")
		return nil, nil, nil
	}
	kept, err := s.save(ctx, root, entries)
	if err != nil {
		return nil, nil, err
	}
	w.printf("Uploading artifacts as %q to the store... %d files, %s, %s of it new, in %s",
		kind, kept.Files, sizeText(kept.Size), sizeText(kept.fresh), tookText(time.Since(begin)))
	return &kept, entries, nil
}

// saveReports keeps the reports, whatever the job's outcome, and reads those that are read.
func (s *Store) saveReports(ctx context.Context, root *os.Root, rec *Record, a *pipeline.Artifacts, w Work) (dotenv, err error) {
	for _, kind := range slices.Sorted(maps.Keys(a.Reports)) {
		kept, entries, err := s.upload(ctx, root, w, w.selection(a.Reports[kind], nil, false), kind)
		if err != nil {
			return nil, fmt.Errorf("report %s: %w", kind, err)
		}
		if kept == nil {
			continue
		}
		rec.Reports = append(rec.Reports, Report{Kind: kind, Archive: *kept})
		switch kind {
		case "dotenv":
			rec.Dotenv, dotenv = s.readDotenv(root, entries, w)
		case "junit":
			rec.JUnit = s.readJUnit(root, entries, w)
		}
	}
	return dotenv, nil
}

// readDotenv reads the variables of a job's dotenv files.
func (s *Store) readDotenv(root *os.Root, entries []entry, w Work) ([]pipeline.KV, error) {
	var all []pipeline.KV
	for _, e := range entries {
		if !e.Mode.IsRegular() {
			continue
		}
		if e.Size >= maxDotenv {
			return nil, &DotenvError{File: e.Path, What: fmt.Sprintf("Dotenv Artifact Too Big. Maximum Allowable Size: %d bytes", maxDotenv)}
		}
		data, err := root.ReadFile(e.Path)
		if err != nil {
			return nil, &DotenvError{File: e.Path, What: unwrapDisk(err).Error()}
		}
		vars, err := ParseDotenv(data)
		if err != nil {
			var bad *DotenvError
			if errors.As(err, &bad) {
				bad.File = e.Path
			}
			return nil, err
		}
		for _, v := range vars {
			all = slices.DeleteFunc(all, func(o pipeline.KV) bool { return o.Key == v.Key })
			all = append(all, v)
		}
		if len(all) > s.limits.Dotenv {
			return nil, &DotenvError{File: e.Path, What: fmt.Sprintf("Dotenv files cannot have more than %d variables", s.limits.Dotenv)}
		}
	}
	if len(all) > gitLabDotenv {
		w.warnf("the dotenv report has %d variables; GitLab takes %d unless it is told otherwise", len(all), gitLabDotenv)
	}
	return all, nil
}

// readJUnit adds up a job's JUnit files. What cannot be read is said in the result; it does not fail the job.
func (s *Store) readJUnit(root *os.Root, entries []entry, w Work) *JUnit {
	var sum JUnit
	for _, e := range entries {
		if !e.Mode.IsRegular() {
			continue
		}
		f, err := root.Open(e.Path)
		if err == nil {
			var one JUnit
			one, err = ParseJUnit(f, s.limits.Report)
			f.Close()
			sum.add(one)
		}
		if err != nil {
			w.warnf("%s: %v", e.Path, err)
			sum.Errors = append(sum.Errors, e.Path+": "+err.Error())
		}
	}
	return &sum
}

// Get gives the record of a job's artifacts; nil: it has left none.
func (s *Store) Get(ctx context.Context, key Key) (*Record, error) {
	var rec Record
	ok, err := s.getJSON(ctx, key.path(), &rec)
	if !ok || err != nil {
		return nil, err
	}
	return &rec, nil
}

// gone says why the files of a record are not there any more; empty: they are.
func (r *Record) gone(now time.Time) string {
	switch {
	case r.Gone != "":
		return r.Gone + " " + now.Sub(r.GoneAt).Round(time.Second).String() + " ago"
	case !r.Expires.IsZero() && now.After(r.Expires):
		return "expired " + now.Sub(r.Expires).Round(time.Second).String() + " ago"
	default:
		return ""
	}
}

// records gives those of the jobs that have left something, and a [*MissingError] if some of it is gone.
func (s *Store) records(ctx context.Context, keys []Key) ([]*Record, error) {
	var all []*Record
	var missing MissingError
	for _, key := range keys {
		rec, err := s.Get(ctx, key)
		if err != nil {
			return nil, err
		}
		if rec == nil {
			continue
		}
		if why := rec.gone(s.now()); why != "" && rec.Archive != nil && !s.holdsBack(rec) {
			missing.Jobs, missing.Why = append(missing.Jobs, key.Job), append(missing.Why, why)
			continue
		}
		all = append(all, rec)
	}
	if len(missing.Jobs) > 0 {
		return nil, &missing
	}
	return all, nil
}

// Dotenv gives the variables of the dotenv reports of jobs; those of later jobs come later, and so count more.
func (s *Store) Dotenv(ctx context.Context, keys []Key) (pipeline.Variables, error) {
	var vars pipeline.Variables
	for _, key := range keys {
		rec, err := s.Get(ctx, key)
		if err != nil {
			return nil, err
		}
		if rec == nil || rec.Gone != "" {
			continue
		}
		for _, kv := range rec.Dotenv {
			vars = append(vars, pipeline.Variable{Name: kv.Key, Value: kv.Value, Origin: pipeline.OriginDotenv})
		}
	}
	return vars, nil
}

// Restore writes the artifacts of jobs into a project directory: all of them or, with an error, none. A [*MissingError] names
// those that are gone. Jobs that left none are passed over.
func (s *Store) Restore(ctx context.Context, keys []Key, w Work) error {
	begin := time.Now()
	recs, err := s.records(ctx, keys)
	if err != nil {
		return err
	}
	recs = slices.DeleteFunc(recs, func(r *Record) bool { return r.Archive == nil })
	if len(recs) == 0 {
		return nil
	}
	unlock, err := s.lock(ctx, false)
	if err != nil {
		return err
	}
	defer unlock()
	trees := make([]*tree, len(recs))
	for i, rec := range recs {
		w.printf("Downloading artifacts for %s...", rec.Job)
		trees[i], err = s.tree(ctx, *rec.Archive)
		if err != nil {
			return s.missing(recs[i:i+1], err)
		}
	}
	all, err := overlay(trees, s.limits)
	if err == nil {
		err = s.extract(ctx, w, all, s.limits.times(len(trees)), s.guard(w, keys[0].Project, keys[0].Pipeline))
	}
	if err != nil {
		return s.missing(s.affected(ctx, recs, trees), fmt.Errorf("artifacts of %s: %w; nothing was extracted", jobNames(recs), err))
	}
	size := int64(0)
	for _, e := range all.Entries {
		size += e.Size
	}
	w.printf("Downloading artifacts from the store... %d files, %s in %s", len(all.Entries), sizeText(size), tookText(time.Since(begin)))
	return nil
}

func jobNames(recs []*Record) string {
	names := make([]string, len(recs))
	for i, r := range recs {
		names[i] = r.Job
	}
	return strings.Join(names, ", ")
}

// missing makes an error of lost content one that names the jobs.
func (s *Store) missing(recs []*Record, err error) error {
	if !errors.Is(err, errCorrupt) {
		return err
	}
	m := &MissingError{}
	for _, r := range recs {
		m.Jobs, m.Why = append(m.Jobs, r.Job), append(m.Why, "lost: the store has their files no more, or not as they were")
	}
	return m
}

// affected gives the records whose content is not whole; all of them where that cannot be told.
func (s *Store) affected(ctx context.Context, recs []*Record, trees []*tree) []*Record {
	var some []*Record
	for i, t := range trees {
		for hash, size := range t.Blobs {
			if !s.has(ctx, hash, size) {
				some = append(some, recs[i])
				break
			}
		}
	}
	if len(some) == 0 {
		return recs
	}
	return some
}

// maxTree is how large the list of files of an artifact or a cache may be, in bytes.
const maxTree = 256 << 20

// tree reads a tree from the store.
func (s *Store) tree(ctx context.Context, at Archive) (*tree, error) {
	var buf bytes.Buffer
	if len(at.Tree) != 64 || strings.Trim(at.Tree, "0123456789abcdef") != "" || at.Bytes < 0 || at.Bytes > maxTree {
		return nil, errCorrupt
	}
	if err := s.get(ctx, at.Tree, at.Bytes, &buf); err != nil {
		return nil, err
	}
	var t tree
	if err := json.Unmarshal(buf.Bytes(), &t); err != nil {
		return nil, errCorrupt
	}
	return &t, nil
}

// Erase lets go of a job's artifacts. Jobs that depend on them fail from now on.
func (s *Store) Erase(ctx context.Context, key Key) error {
	unlock, err := s.lock(ctx, false)
	if err != nil {
		return err
	}
	defer unlock()
	rec, err := s.Get(ctx, key)
	if rec == nil || err != nil {
		return err
	}
	return s.markGone(ctx, rec, "erased")
}

func (s *Store) markGone(ctx context.Context, rec *Record, why string) error {
	at := s.now().UTC().Round(0)
	if why == "expired" {
		at = rec.Expires
	}
	rec.Gone, rec.GoneAt, rec.Dotenv, rec.JUnit = why, at, nil, nil
	return s.putJSON(ctx, rec.path(), rec)
}
