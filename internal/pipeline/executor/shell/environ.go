package shell

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"keelson.dev/keelson/internal/pipeline"
	"keelson.dev/keelson/internal/pipeline/executor"
	"keelson.dev/keelson/internal/pipeline/executor/script"
	"keelson.dev/keelson/internal/pipeline/scratch"
)

// markName is the variable by which the processes of a job are found again.
const markName = "KEELSON_JOB_MARK"

// passedNames are the variables of the own environment that every job sees; those that end in * are prefixes.
var passedNames = []string{"PATH", "HOME", "USER", "LOGNAME", "SHELL", "LANG", "LANGUAGE", "LC_*", "TERM", "TZ", "TMPDIR", "XDG_RUNTIME_DIR",
	"HTTP_PROXY", "HTTPS_PROXY", "FTP_PROXY", "NO_PROXY", "ALL_PROXY", "http_proxy", "https_proxy", "ftp_proxy", "no_proxy", "all_proxy",
	"SSL_CERT_FILE", "SSL_CERT_DIR"}

// passed is the part of the own environment that jobs see.
func passed(more []string) []string {
	var env []string
	for _, kv := range os.Environ() {
		name, _, _ := strings.Cut(kv, "=")
		seen := slices.ContainsFunc(passedNames, func(p string) bool {
			prefix, ok := strings.CutSuffix(p, "*")
			return p == name || ok && strings.HasPrefix(name, prefix)
		})
		if seen || slices.Contains(more, name) {
			env = append(env, kv)
		}
	}
	return env
}

// prepareEnvironment makes the environment of the job's shells, with the files of its file variables.
func (j *job) prepareEnvironment(now time.Time) error {
	vars, files, err := j.Environment(j.x.o.Runner, now, j.privateDir)
	if err != nil {
		return err
	}
	j.hide(vars, files)
	for _, f := range files {
		if _, err := j.writePrivate(filepath.Base(f.Path), f.Content); err != nil {
			return fmt.Errorf("file variable %s: %w", filepath.Base(f.Path), err)
		}
	}
	if script.WantsEnvFile(j.Job.Job) {
		file, err := j.writePrivate(envFileName, "")
		if err != nil {
			return fmt.Errorf("GITLAB_ENV: %w", err)
		}
		vars = append(vars, pipeline.Variable{Name: "GITLAB_ENV", Value: file})
	}
	own := map[string]bool{"PWD": true}
	env := make([]string, 0, len(vars)+len(j.x.passed)+2)
	mark := j.scope.mark
	if outer := os.Getenv(markName); outer != "" { // this process is in a job itself, which takes what is left if it gets killed
		mark = outer + ":" + mark
	}
	env = append(env, markName+"="+mark, "PWD="+j.Dir)
	for _, v := range vars {
		if len(v.Name)+1+len(v.Value) > script.MaxVariable {
			return &executor.Failure{Reason: pipeline.ConfigurationError, Err: fmt.Errorf(
				"variable %s has %d bytes, and a process takes no more than %d in one; make it a file variable", v.Name, len(v.Value), script.MaxVariable-len(v.Name)-1)}
		}
		own[v.Name] = true
		env = append(env, v.Name+"="+v.Value)
	}
	for _, kv := range j.x.passed {
		if name, _, _ := strings.Cut(kv, "="); !own[name] {
			env = append(env, kv)
		}
	}
	j.env = withTools(env, j.x.o.Tools)
	return nil
}

// withTools puts a directory at the end of an environment's PATH.
func withTools(env []string, dir string) []string {
	if dir == "" {
		return env
	}
	for i, kv := range env {
		if path, ok := strings.CutPrefix(kv, "PATH="); ok && path != "" {
			env[i] += string(os.PathListSeparator) + dir
			return env
		}
	}
	return append(env, "PATH="+defaultPath+string(os.PathListSeparator)+dir)
}

// defaultPath is where shells look that are given no PATH.
const defaultPath = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

// hide masks values as the job sees them: some refer to its directory and to other variables of the runner's.
func (j *job) hide(vars pipeline.Variables, files []executor.FileVariable) {
	var values []string
	for _, v := range vars {
		if !v.Masked {
			continue
		}
		value := v.Value
		for _, f := range files {
			if f.Path == v.Value {
				value = f.Content
			}
		}
		values = append(values, value)
	}
	j.trace.Mask(values...)
}

// envFileName is the file whose lines NAME=VALUE after_script finds as variables.
const envFileName = "gitlab_runner_env"

// envFile is the file behind GITLAB_ENV if the job has written to it.
func (j *job) envFile() string {
	if j.dir == nil {
		return ""
	}
	outside, inside := j.privateDirs()
	if info, err := os.Lstat(filepath.Join(outside, envFileName)); err != nil || !info.Mode().IsRegular() || info.Size() == 0 {
		return ""
	}
	return filepath.Join(inside, envFileName)
}

// writePrivate writes a file that only the job can read, and gives its path as the job has it. With no
// name it is given one. Nothing is written through what the job may have made there.
func (j *job) writePrivate(name, content string) (string, error) {
	if _, err := j.privateDir(); err != nil {
		return "", err
	}
	outside, inside := j.privateDirs()
	var f *os.File
	var err error
	if name == "" {
		f, err = os.CreateTemp(outside, "script-*")
	} else {
		f, err = os.OpenFile(filepath.Join(outside, name), os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	}
	if err != nil {
		return "", err
	}
	_, err = f.WriteString(content)
	if err == nil && j.cell != nil {
		err = j.cell.give(f.Name())
	}
	return filepath.Join(inside, filepath.Base(f.Name())), errors.Join(err, f.Close())
}

// privateDirs are the private directory, which is there, and the same one as the job has it.
func (j *job) privateDirs() (outside, inside string) {
	if j.cell != nil {
		return j.cell.private()
	}
	return j.dir.Path(), j.dir.Path()
}

// privateDir is a directory of the job's own that nobody else can read, as the job has it.
func (j *job) privateDir() (string, error) {
	if j.dir != nil {
		_, inside := j.privateDirs()
		return inside, nil
	}
	dir, err := scratch.Make(j.x.tempDir(), scratch.Job)
	if err != nil {
		return "", errors.Join(errors.New("no private directory for the job"), err)
	}
	j.dir = dir
	return dir.Path(), nil
}

func (j *job) removeDir() {
	if j.dir != nil {
		_ = j.dir.Remove() // what cannot be removed now a later run tries again
	}
}
