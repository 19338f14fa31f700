// Package script writes what a job says as the text of a shell script, as GitLab's runner does: every command is echoed in green before
// it runs, and the first one that fails ends the script. Executors differ in where their shells run, not in what they are given.
//
//	w := script.New(script.Dialect{Bash: true})
//	w.Commands("section_before_script", job.BeforeScript)
//	w.Commands("section_script_step", job.Script)
//	w.Steps(job.Run)
//	shell("-c", w.String())
package script

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"keelson.dev/keelson/internal/pipeline"
	"keelson.dev/keelson/internal/pipeline/executor"
)

// MaxInline is the size of a script, in bytes, up to which it is an argument of the shell; Linux takes 128 KiB of one.
const MaxInline = 96 << 10

// MaxVariable is the size of a variable with its name, in bytes, that Linux takes.
const MaxVariable = 128<<10 - 1

// Dialect is what the text of a script depends on.
type Dialect struct {
	Bash     bool
	Nproc    uint64 // how many processes the user may have; 0: not bounded here
	Trace    bool   // CI_DEBUG_TRACE: the shell tells each command
	Check    bool   // FF_ENABLE_BASH_EXIT_CODE_CHECK: the code of each command is looked at
	Sections bool   // FF_SCRIPT_SECTIONS: a command of several lines is a section with all of its text
}

// DialectOf is what the variables of a job say about its scripts.
func DialectOf(j executor.Job, bash bool) Dialect {
	return Dialect{
		Bash:     bash,
		Trace:    j.Is("CI_DEBUG_TRACE", false),
		Check:    j.Is("FF_ENABLE_BASH_EXIT_CODE_CHECK", false),
		Sections: j.Is("FF_SCRIPT_SECTIONS", false),
	}
}

// Writer writes the text of one script.
type Writer struct {
	strings.Builder
	Dialect
}

// New begins a script as GitLab's runner does.
func New(d Dialect) *Writer {
	w := &Writer{Dialect: d}
	switch {
	case d.Nproc > 0 && d.Bash:
		fmt.Fprintf(w, "ulimit -u %d 2>/dev/null || :\n", d.Nproc)
	case d.Nproc > 0:
		fmt.Fprintf(w, "(ulimit -p %[1]d) 2>/dev/null && ulimit -p %[1]d || :\n", d.Nproc)
	}
	w.WriteString("trap 'exit 1' TERM\n")
	switch {
	case d.Bash:
		w.WriteString("set -eo pipefail\n")
	default:
		w.WriteString("if (set -o pipefail) 2>/dev/null; then set -o pipefail; fi\nset -e\n")
	}
	w.WriteString("set +o noclobber\n")
	if d.Trace {
		w.WriteString("set -o xtrace\n")
	}
	return w
}

// Commands writes the items of a script; name tells its sections apart.
func (w *Writer) Commands(name string, items []string) {
	for i, item := range items {
		w.command(fmt.Sprintf("%s_%d", name, i), item)
	}
}

func (w *Writer) command(section, item string) {
	item = strings.TrimSpace(item)
	first, _, several := strings.Cut(item, "\n")
	first = strings.TrimSuffix(first, "\r")
	switch {
	case item == "":
		w.say("")
		return
	case several && w.Sections:
		w.section("start", section+"[hide_duration=true,collapsed=true]", green("$ "+item))
	case several:
		w.say(green("$ " + first + " # collapsed multi-line command"))
	default:
		w.say(green("$ " + item))
	}
	w.WriteString(item + "\n")
	if w.Check {
		w.WriteString("_runner_exit_code=$?; if [ $_runner_exit_code -ne 0 ]; then exit $_runner_exit_code; fi\n")
	}
	if several && w.Sections {
		w.section("end", section, "")
	}
}

// Steps writes the items of run: each in a shell of its own with variables of its own.
func (w *Writer) Steps(steps []pipeline.Step) {
	for i, s := range steps {
		name := s.Name
		if name == "" {
			name = fmt.Sprintf("step_%d", i+1)
		}
		w.say(green("$ " + name))
		w.WriteString("(")
		for _, k := range slices.Sorted(maps.Keys(s.Env)) {
			w.WriteString("export " + k + "=" + quote(s.Env[k]) + "; ")
		}
		w.WriteString("eval " + quote(s.Script) + ")\n")
	}
}

// Exports takes over the variables that an earlier script wrote to GITLAB_ENV.
func (w *Writer) Exports(file string) {
	fmt.Fprintf(w, "if [ -f %[1]s ]; then while IFS= read -r keelson_line || [ -n \"$keelson_line\" ]; do export \"$keelson_line\"; done < %[1]s; unset keelson_line; fi\n", quote(file))
}

func (w *Writer) say(line string) { w.WriteString("printf '%s\\n' " + quote(line) + "\n") }

func (w *Writer) section(edge, name, text string) {
	now := "$(date +%s)"
	if w.Bash {
		now = "${EPOCHSECONDS:-$(date +%s)}"
	}
	fmt.Fprintf(w, "printf '%%s\\r%%s\\n' \"section_%s:%s:%s\" %s\n", edge, now, name, quote("\x1b[0K"+text))
}

func green(s string) string { return "\x1b[32;1m" + s + "\x1b[0;m" }

// quote makes a text one word of any shell.
func quote(s string) string { return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'" }

// Unsupported says what of a job no shell can run; nil: nothing.
func Unsupported(j pipeline.Job) error {
	if j.Trigger != nil {
		return &executor.Failure{Reason: pipeline.RunnerUnsupported, Err: errors.New("a job with trigger starts another pipeline and has no script to run")}
	}
	for _, items := range [][]string{j.PreGet, j.BeforeScript, j.Script, j.AfterScript} {
		for _, item := range items {
			if strings.Contains(item, "\x00") {
				return &executor.Failure{Reason: pipeline.ConfigurationError, Err: errors.New("a command has a NUL character, which no shell can read")}
			}
		}
	}
	return unsupportedStep(j.Run)
}

// unsupportedStep says what of the items of run no shell can run; nil: nothing.
func unsupportedStep(steps []pipeline.Step) error {
	for i, s := range steps {
		name := s.Name
		if name == "" {
			name = fmt.Sprint(i + 1)
		}
		var what string
		switch {
		case s.Step != "":
			what = "refers to `" + s.Step + "`"
		case strings.Contains(s.Script, "${{"):
			what = "has an expression ${{ … }}"
		default:
			for k, v := range s.Env {
				if strings.Contains(v, "${{") {
					what = "has an expression ${{ … }} in env." + k
				}
				if !isName(k) {
					return &executor.Failure{Reason: pipeline.ConfigurationError, Err: fmt.Errorf("step %s of run: env has %q, which cannot be the name of a variable", name, k)}
				}
			}
		}
		if what != "" {
			return &executor.Failure{Reason: pipeline.RunnerUnsupported, Err: fmt.Errorf(
				"step %s of run %s, which needs GitLab's step runner; only steps with a plain script are run", name, what)}
		}
	}
	return nil
}

// isName tells whether a shell takes a text as the name of a variable.
func isName(s string) bool {
	for i := range len(s) {
		c := s[i]
		letter := c == '_' || c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z'
		if !letter && (i == 0 || c < '0' || c > '9') {
			return false
		}
	}
	return s != ""
}

// WantsEnvFile tells whether GITLAB_ENV makes a difference for a job.
func WantsEnvFile(j pipeline.Job) bool {
	if len(j.AfterScript) > 0 {
		return true
	}
	for _, items := range [][]string{j.PreGet, j.BeforeScript, j.Script} {
		for _, item := range items {
			if strings.Contains(item, "GITLAB_ENV") {
				return true
			}
		}
	}
	return false
}
