package pipeline

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"
)

// maxExpanded bounds a value after its references are expanded, in bytes; what doubles itself a few times ends here.
const maxExpanded = 1 << 20

// maxSorted bounds all values of a list together, in bytes.
const maxSorted = 16 << 20

// Expand replaces references as the runner does, once: $NAME and ${NAME}. $$ is a dollar, an unknown variable and the shell's
// own ($1, $@, …) are nothing. A reference to a file variable stays as it is written, for the shell knows the path. References stay
// too where the text would grow by more than 1 MiB.
//
// The runner expands so: image, services, cache keys and paths, paths and names of artifacts, and values of variables.
func (vs Variables) Expand(text string) string {
	return vs.ExpandFiles(text, nil)
}

// ExpandFiles is Expand where the paths of file variables are known.
func (vs Variables) ExpandFiles(text string, path func(name string) string) string {
	if !strings.Contains(text, "$") {
		return text
	}
	var out strings.Builder
	for i := 0; i < len(text); {
		at := strings.IndexByte(text[i:], '$')
		if at < 0 || i+at+1 == len(text) { // none, or the last character
			out.WriteString(text[i:])
			break
		}
		out.WriteString(text[i : i+at])
		i += at
		name, width := shellName(text[i+1:])
		reference := text[i : i+1+width]
		i += 1 + width
		switch v, ok := vs.Get(name); {
		case name == "" && width > 0: // ${} or ${ without an end: eaten
		case name == "" || name == "$":
			out.WriteByte('$')
		case !ok || isSpecial(name):
		case out.Len()+len(v.Value) > maxExpanded+len(text) || v.File && path == nil:
			out.WriteString(reference)
		case v.File:
			out.WriteString(path(name))
		default:
			out.WriteString(v.Value)
		}
	}
	return out.String()
}

// Expanded expands the values of all variables once, as the runner does before it starts a shell; those of raw ones stay. A file
// variable's value is the content of its file.
func (vs Variables) Expanded() Variables {
	out := slices.Clone(vs)
	for i, v := range out {
		if !v.Raw {
			out[i].Value = vs.Expand(v.Value)
		}
	}
	return out
}

// shellName gives the name behind a dollar as Go's os.Expand finds it, and how many bytes it takes.
func shellName(s string) (name string, width int) {
	if s[0] == '{' {
		end := strings.IndexByte(s, '}')
		if end < 0 {
			return "", 1
		}
		return s[1:end], end + 1
	}
	if isSpecial(s[:1]) || s[0] == '$' || s[0] == '-' {
		return s[:1], 1
	}
	for width < len(s) && isWord(s[width]) {
		width++
	}
	return s[:width], width
}

// isSpecial tells whether it is a name that the shell gives a meaning, which is unknown before there is one.
func isSpecial(name string) bool {
	return len(name) == 1 && strings.Contains("*#@!?0123456789", name)
}

func isWord(c byte) bool { return isLetter(c) || '0' <= c && c <= '9' }

func isLetter(c byte) bool { return c == '_' || 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' }

// ExpandServer replaces references as the server does where it keeps those to unknown variables: $NAME, ${NAME} and %NAME%, and
// nothing else; $$NAME is a dollar and the value. References stay too where the text would grow by more than 1 MiB.
//
// The server expands so: paths, compare_to, project and ref of rules, and tags. The variables are [Variables.Resolved].
func (vs Variables) ExpandServer(text string) string {
	return replace(text, false, func(name, reference string) string {
		if v, ok := vs.Get(name); ok {
			return v.Value
		}
		return reference
	})
}

// ExpandServerBlank is ExpandServer where unknown variables are nothing.
//
// The server expands so: names and URLs of environments, resource groups, include, trigger, workflow:name.
func (vs Variables) ExpandServerBlank(text string) string {
	return replace(text, false, func(name, _ string) string {
		v, _ := vs.Get(name)
		return v.Value
	})
}

// replace puts values for the references of the server's engine. With escapes, $$ and %% are none and keep what follows.
func replace(text string, escapes bool, value func(name, reference string) string) string {
	if !strings.ContainsAny(text, "$%") {
		return text
	}
	var out strings.Builder
	for i := 0; i < len(text); {
		at := strings.IndexAny(text[i:], "$%")
		if at < 0 {
			out.WriteString(text[i:])
			break
		}
		out.WriteString(text[i : i+at])
		i += at
		name, width := reference(text[i:], escapes)
		written := text[i : i+width]
		i += width
		if name == "" {
			out.WriteString(written)
			continue
		}
		if replaced := value(name, written); out.Len()+len(replaced) <= maxExpanded+len(text) {
			written = replaced
		}
		out.WriteString(written)
	}
	return out.String()
}

// reference gives the variable that a text starts to refer to and the length of the reference; without one, the length of what
// is no reference.
func reference(s string, escapes bool) (name string, width int) {
	open, end := 1, ""
	switch {
	case escapes && len(s) > 1 && s[1] == s[0]:
		return "", 2
	case s[0] == '%':
		end = "%"
	case len(s) > 1 && s[1] == '{':
		open, end = 2, "}"
	}
	n := open
	for n < len(s) && isWord(s[n]) && (n > open || isLetter(s[n])) {
		n++
	}
	if n == open || !strings.HasPrefix(s[n:], end) {
		return "", 1
	}
	return s[open:n], n + len(end)
}

// References gives the names that a text refers to for [Variables.ExpandServer], in its order.
func References(text string) []string { return names(text, false) }

// references gives the names that a value refers to, in its order.
func references(v Variable) []string {
	if v.Raw {
		return nil
	}
	return names(v.Value, true)
}

func names(text string, escapes bool) []string {
	if !strings.ContainsAny(text, "$%") {
		return nil
	}
	var names []string
	for i := 0; i < len(text); {
		at := strings.IndexAny(text[i:], "$%")
		if at < 0 {
			break
		}
		name, width := reference(text[i+at:], escapes)
		if name != "" {
			names = append(names, name)
		}
		i += at + width
	}
	return names
}

// Sorted expands the values of variables in each other, as the server does before it gives a job to a runner: $NAME, ${NAME} and
// %NAME%, in the order of their dependencies. $$ and %% stay; so do references to unknown, raw and file variables, which the
// runner knows; values of raw variables are not expanded. An error names variables that refer to each other in a circle; the
// variables are then as they were.
//
// Variables that refer to others stand behind them: like GitLab, a variable that refers to its own name takes the value of the
// others of that name, and counts.
func (vs Variables) Sorted() (Variables, error) {
	return vs.sorted(func(v *Variable, reference string) string {
		if v == nil || v.Raw || v.File {
			return reference
		}
		return v.Value
	})
}

// Resolved is Sorted with nothing left to others: a reference to an unknown variable is nothing, those to raw variables are their
// values and those to file variables the contents. What rules:changes and rules:exists, environment and include see.
func (vs Variables) Resolved() (Variables, error) {
	return vs.sorted(func(v *Variable, _ string) string {
		if v == nil {
			return ""
		}
		return v.Value
	})
}

// sorted puts values for references; the variable is nil where it is unknown.
func (vs Variables) sorted(value func(v *Variable, reference string) string) (Variables, error) {
	refers := make([][]string, len(vs))
	plain := true
	for i, v := range vs {
		refers[i] = references(v)
		plain = plain && refers[i] == nil
	}
	if plain {
		return vs, nil
	}
	order, cycles := topological(vs, refers)
	if cycles != nil {
		return vs, fmt.Errorf("circular variable reference detected: %s", strings.Join(cycles, ", "))
	}
	out, size := make(Variables, 0, len(vs)), 0
	last := make(map[string]int, len(vs)) // in out
	for _, i := range order {
		v := vs[i]
		if refers[i] != nil {
			grown := 0
			v.Value = replace(v.Value, true, func(name, reference string) string {
				var found *Variable
				if at, ok := last[name]; ok {
					found = &out[at]
				}
				replaced := value(found, reference)
				grown += len(replaced)
				return replaced
			})
			if grown > maxExpanded {
				return vs, fmt.Errorf("variable %s is larger than %d bytes when its references are expanded", v.Name, maxExpanded)
			}
		}
		if size += len(v.Value); size > maxSorted {
			return vs, fmt.Errorf("variables are larger than %d bytes when their references are expanded (at %s)", maxSorted, v.Name)
		}
		last[v.Name] = len(out)
		out = append(out, v)
	}
	return out, nil
}

// topological orders variables so that each comes after those that it refers to, and otherwise as they are. Cycles are lists of
// names. It is Tarjan's algorithm, as Ruby's TSort has it; a variable that refers to itself is no cycle.
func topological(vs Variables, refers [][]string) (order []int, cycles []string) {
	byName := map[string][]int{}
	for i, v := range vs {
		byName[v.Name] = append(byName[v.Name], i)
	}
	var (
		index = make([]int, len(vs)) // 0: not seen
		low   = make([]int, len(vs))
		on    = make([]bool, len(vs))
		stack []int
		next  = 1
		visit func(int)
	)
	visit = func(i int) {
		index[i], low[i], on[i] = next, next, true
		next++
		at := len(stack)
		stack = append(stack, i)
		for _, name := range refers[i] {
			for _, j := range byName[name] {
				if index[j] == 0 {
					visit(j)
					low[i] = min(low[i], low[j])
				} else if on[j] {
					low[i] = min(low[i], index[j])
				}
			}
		}
		if low[i] != index[i] {
			return
		}
		component := stack[at:]
		if len(component) > 1 {
			cycles = append(cycles, circle(vs, component))
		}
		for _, j := range component {
			on[j] = false
		}
		order, stack = append(order, component...), stack[:at]
	}
	for i := range vs {
		if index[i] == 0 {
			visit(i)
		}
	}
	return order, cycles
}

func circle(vs Variables, component []int) string {
	names := make([]string, len(component))
	for i, j := range component {
		names[i] = fmt.Sprintf("%q", vs[j].Name)
	}
	return "[" + strings.Join(names, ", ") + "]"
}

// Redact puts [MASKED] where a text holds the value of a masked variable.
func (vs Variables) Redact(text string) string {
	var values []string
	for i := range vs { // it is asked for every condition of every job
		if v := &vs[i]; v.Masked && v.Value != "" && strings.Contains(text, v.Value) {
			values = append(values, v.Value)
		}
	}
	if values == nil {
		return text
	}
	slices.SortFunc(values, func(a, b string) int { return len(b) - len(a) })
	var pairs []string
	for _, v := range values {
		pairs = append(pairs, v, "[MASKED]")
	}
	return strings.NewReplacer(pairs...).Replace(text)
}

// Started adds what there is once a job has started: CI_JOB_ID and what goes with it, weaker than all others.
func (vs Variables) Started(id int64, at time.Time) Variables {
	out := make(Variables, 0, len(vs)+3)
	add := func(name, value string) {
		out = append(out, Variable{Name: name, Value: value, Public: true, Origin: OriginPredefined})
	}
	number := strconv.FormatInt(id, 10)
	add("CI_JOB_ID", number)
	if project, _ := vs.Get("CI_PROJECT_URL"); project.Value != "" {
		add("CI_JOB_URL", project.Value+"/-/jobs/"+number)
	}
	add("CI_JOB_STARTED_AT", at.UTC().Format(time.RFC3339))
	return append(out, vs...)
}

// WithDotenv adds what the reports of needed jobs say. It counts more than what the files say, and less than what the instance, the
// group, the project and the pipeline set, and than what the environment of the job is.
func (vs Variables) WithDotenv(reports Variables) Variables {
	if len(reports) == 0 {
		return vs
	}
	at := slices.IndexFunc(vs, func(v Variable) bool {
		switch v.Origin {
		case OriginInstance, OriginGroup, OriginProject, OriginPipeline:
			return true
		}
		return v.Origin == OriginPredefined && v.Name == "CI_ENVIRONMENT_SLUG"
	})
	if at < 0 {
		at = len(vs)
	}
	reports = slices.Clone(reports)
	for i := range reports {
		reports[i].Origin, reports[i].Public = OriginDotenv, false
	}
	return slices.Concat(vs[:at], reports, vs[at:])
}
