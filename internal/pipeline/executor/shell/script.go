package shell

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"keelson.dev/keelson/internal/pipeline"
	"keelson.dev/keelson/internal/pipeline/executor"
)

// maxInline is the size of a script, in bytes, up to which it is an argument of the shell; Linux takes 128 KiB of one.
const maxInline = 96 << 10

// dialect is what the text of a script depends on.
type dialect struct {
	bash     bool
	nproc    uint64 // how many processes the user may have; 0: not bounded here
	trace    bool   // CI_DEBUG_TRACE: the shell tells each command
	check    bool   // FF_ENABLE_BASH_EXIT_CODE_CHECK: the code of each command is looked at
	sections bool   // FF_SCRIPT_SECTIONS: a command of several lines is a section with all of its text
}

// writer writes the text of one script.
type writer struct {
	strings.Builder
	dialect
}

// newWriter begins a script as GitLab's runner does.
func newWriter(d dialect) *writer {
	w := &writer{dialect: d}
	switch {
	case d.nproc > 0 && d.bash:
		fmt.Fprintf(w, "ulimit -u %d 2>/dev/null || :\n", d.nproc)
	case d.nproc > 0:
		fmt.Fprintf(w, "(ulimit -p %[1]d) 2>/dev/null && ulimit -p %[1]d || :\n", d.nproc)
	}
	w.WriteString("trap 'exit 1' TERM\n")
	switch {
	case d.bash:
		w.WriteString("set -eo pipefail\n")
	default:
		w.WriteString("if (set -o pipefail) 2>/dev/null; then set -o pipefail; fi\nset -e\n")
	}
	w.WriteString("set +o noclobber\n")
	if d.trace {
		w.WriteString("set -o xtrace\n")
	}
	return w
}

// commands writes the items of a script; name tells its sections apart.
func (w *writer) commands(name string, items []string) {
	for i, item := range items {
		w.command(fmt.Sprintf("%s_%d", name, i), item)
	}
}

func (w *writer) command(section, item string) {
	item = strings.TrimSpace(item)
	first, _, several := strings.Cut(item, "\n")
	first = strings.TrimSuffix(first, "\r")
	switch {
	case item == "":
		w.say("")
		return
	case several && w.sections:
		w.section("start", section+"[hide_duration=true,collapsed=true]", green("$ "+item))
	case several:
		w.say(green("$ " + first + " # collapsed multi-line command"))
	default:
		w.say(green("$ " + item))
	}
	w.WriteString(item + "\n")
	if w.check {
		w.WriteString("_runner_exit_code=$?; if [ $_runner_exit_code -ne 0 ]; then exit $_runner_exit_code; fi\n")
	}
	if several && w.sections {
		w.section("end", section, "")
	}
}

// steps writes the items of run: each in a shell of its own with variables of its own.
func (w *writer) steps(steps []pipeline.Step) {
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

// exports takes over the variables that an earlier script wrote to GITLAB_ENV.
func (w *writer) exports(file string) {
	fmt.Fprintf(w, "if [ -f %[1]s ]; then while IFS= read -r keelson_line || [ -n \"$keelson_line\" ]; do export \"$keelson_line\"; done < %[1]s; unset keelson_line; fi\n", quote(file))
}

func (w *writer) say(line string) { w.WriteString("printf '%s\\n' " + quote(line) + "\n") }

func (w *writer) section(edge, name, text string) {
	now := "$(date +%s)"
	if w.bash {
		now = "${EPOCHSECONDS:-$(date +%s)}"
	}
	fmt.Fprintf(w, "printf '%%s\\r%%s\\n' \"section_%s:%s:%s\" %s\n", edge, now, name, quote("\x1b[0K"+text))
}

func green(s string) string { return "\x1b[32;1m" + s + "\x1b[0;m" }

// quote makes a text one word of any shell.
func quote(s string) string { return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'" }

// unsupportedStep names what of the items of run this executor cannot do; nil: nothing.
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
				"step %s of run %s, which needs GitLab's step runner; the shell executor runs steps with a plain script", name, what)}
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
