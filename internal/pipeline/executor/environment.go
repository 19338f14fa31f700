package executor

import (
	"cmp"
	"fmt"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"time"

	"keelson.dev/keelson/internal/pipeline"
)

// Runner is what an executor tells its jobs about itself.
type Runner struct {
	Description string   // CI_RUNNER_DESCRIPTION
	Version     string   // CI_RUNNER_VERSION
	Revision    string   // CI_RUNNER_REVISION
	Tags        []string // CI_RUNNER_TAGS
	ID          int64    // CI_RUNNER_ID
	// Disposable says that every job has its environment for itself (CI_DISPOSABLE_ENVIRONMENT rather than
	// CI_SHARED_ENVIRONMENT).
	Disposable bool
}

// FileVariable is a variable whose value a job finds in a file.
type FileVariable struct {
	Path    string
	Content string
}

// Environment gives the variables that a job sees, each name once and in the order of names: the runner's own, which those of
// the user override, and the job's with the references in their values expanded. The value of a file variable is the path of its
// file, which the caller makes, below the directory that dir names; dir is not called where there are none.
func (j Job) Environment(r Runner, now time.Time, dir func() (string, error)) (pipeline.Variables, []FileVariable, error) {
	all := make(pipeline.Variables, 0, len(j.Variables)+24)
	for _, v := range j.Variables {
		if v.Origin == pipeline.OriginPredefined {
			all = append(all, v)
		}
	}
	all = append(all, j.runnerVariables(r, now)...)
	for _, v := range j.Variables {
		if v.Origin != pipeline.OriginPredefined {
			all = append(all, v)
		}
	}
	// Of several with one name the last one counts.
	slices.Reverse(all)
	slices.SortStableFunc(all, func(a, b pipeline.Variable) int { return cmp.Compare(a.Name, b.Name) })
	all = slices.CompactFunc(all, func(a, b pipeline.Variable) bool { return a.Name == b.Name })
	where := ""
	for _, v := range all {
		if err := checkVariable(v); err != nil {
			return nil, nil, &Failure{pipeline.ConfigurationError, err}
		}
		if v.File && where == "" {
			var err error
			if where, err = dir(); err != nil {
				return nil, nil, fmt.Errorf("file variable %s: %w", v.Name, err)
			}
		}
	}
	path := func(name string) string { return filepath.Join(where, name) }
	var files []FileVariable
	env := slices.Clone(all)
	for i, v := range all {
		if !v.Raw {
			env[i].Value = all.ExpandFiles(v.Value, path)
		}
		if v.File {
			files = append(files, FileVariable{path(v.Name), env[i].Value})
			env[i].Value, env[i].File = path(v.Name), false
		}
	}
	return env, files, nil
}

// checkVariable tells whether an environment can hold a variable.
func checkVariable(v pipeline.Variable) error {
	switch {
	case v.Name == "" || strings.ContainsAny(v.Name, "=\x00"):
		return fmt.Errorf("%q cannot be the name of a variable", v.Name)
	case v.File && (strings.ContainsRune(v.Name, '/') || v.Name == "." || v.Name == ".."):
		return fmt.Errorf("%q cannot be the name of a file variable", v.Name)
	case !v.File && strings.Contains(v.Value, "\x00"):
		return fmt.Errorf("variable %s has a NUL character, which no environment can hold", v.Name)
	}
	return nil
}

// runnerVariables are those that only who runs the job knows.
func (j Job) runnerVariables(r Runner, now time.Time) pipeline.Variables {
	builds := j.BuildsDir
	if builds == "" {
		builds = filepath.Dir(j.Dir)
	}
	if !j.Started.IsZero() {
		now = j.Started
	}
	var vs pipeline.Variables
	set := func(name, value string) {
		vs = append(vs, pipeline.Variable{Name: name, Value: value, Raw: true, Public: true, Origin: pipeline.OriginPredefined})
	}
	set("CI", "true")
	set("CI_BUILDS_DIR", builds)
	set("CI_CONCURRENT_ID", strconv.Itoa(j.Slot))
	set("CI_CONCURRENT_PROJECT_ID", strconv.Itoa(j.Slot))
	set("CI_JOB_STARTED_AT", now.UTC().Format(time.RFC3339))
	set("CI_JOB_STATUS", "running")
	set("CI_JOB_TIMEOUT", strconv.Itoa(int(j.Limit().Seconds())))
	set("CI_PROJECT_DIR", j.Dir)
	set("CI_RUNNER_EXECUTABLE_ARCH", runtime.GOOS+"/"+runtime.GOARCH)
	set("CI_SERVER", "yes")
	set("GITLAB_CI", "true")
	if r.Disposable {
		set("CI_DISPOSABLE_ENVIRONMENT", "true")
	} else {
		set("CI_SHARED_ENVIRONMENT", "true")
	}
	if j.ID != 0 {
		set("CI_JOB_ID", strconv.FormatInt(j.ID, 10))
	}
	if r.ID != 0 {
		set("CI_RUNNER_ID", strconv.FormatInt(r.ID, 10))
	}
	if r.Description != "" {
		set("CI_RUNNER_DESCRIPTION", r.Description)
	}
	if r.Version != "" {
		set("CI_RUNNER_VERSION", r.Version)
	}
	if r.Revision != "" {
		set("CI_RUNNER_REVISION", r.Revision)
	}
	if r.Tags != nil {
		quoted := make([]string, len(r.Tags))
		for i, t := range r.Tags {
			quoted[i] = strconv.Quote(t)
		}
		set("CI_RUNNER_TAGS", "["+strings.Join(quoted, ", ")+"]")
	}
	return vs
}

// Limit is the time that the job may take, after_script not counted.
func (j Job) Limit() time.Duration {
	if j.Timeout > 0 {
		return time.Duration(j.Timeout)
	}
	return DefaultTimeout
}

// ScriptLimit is the time that its script may take, RUNNER_SCRIPT_TIMEOUT; 0: as long as the job.
func (j Job) ScriptLimit() (time.Duration, error) { return j.duration("RUNNER_SCRIPT_TIMEOUT", 0) }

// AfterScriptLimit is the time that its after_script may take, RUNNER_AFTER_SCRIPT_TIMEOUT; with 0 as long as the job.
func (j Job) AfterScriptLimit() (time.Duration, error) {
	limit, err := j.duration("RUNNER_AFTER_SCRIPT_TIMEOUT", AfterScriptTimeout)
	if limit == 0 {
		limit = j.Limit()
	}
	return limit, err
}

// duration reads a variable as Go's durations; a number alone is refused as the runner does.
func (j Job) duration(name string, unset time.Duration) (time.Duration, error) {
	v, ok := j.Variables.Get(name)
	if !ok || v.Value == "" {
		return unset, nil
	}
	d, err := time.ParseDuration(v.Value)
	if err != nil || d < 0 {
		return unset, fmt.Errorf("variable %s is no duration such as 90s, 10m or 1h30m; it is not used", name)
	}
	return d, nil
}

// Is tells whether a variable of the job switches something on or off; unset is what holds where it does neither.
func (j Job) Is(name string, unset bool) bool {
	v, ok := j.Variables.Get(name)
	if !ok {
		return unset
	}
	if b, err := strconv.ParseBool(strings.TrimSpace(v.Value)); err == nil {
		return b
	}
	return unset
}

// MaskedValues are those that nobody may see: not in the log, nor anywhere else.
func (j Job) MaskedValues() []string {
	values := slices.Clone(j.Mask)
	for _, v := range j.Variables {
		if !v.Masked {
			continue
		}
		values = append(values, v.Value)
		if expanded := j.Variables.Expand(v.Value); !v.Raw && expanded != v.Value {
			values = append(values, expanded)
		}
	}
	return values
}
