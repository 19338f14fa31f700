package worktree

import (
	"fmt"
	"regexp"
	"slices"
	"strings"
	"sync"

	"keelson.dev/keelson/internal/pipeline"
	"keelson.dev/keelson/internal/pipeline/config"
)

// VariablesFile is where a working tree keeps what a project has in its settings: variables that are in no commit.
const VariablesFile = ".keelson/variables.yml"

// Levels are the variables of a variables file by where GitLab keeps them, each list in the order of precedence.
type Levels struct {
	Instance, Group, Project pipeline.Variables
}

// variableKeys are the keys of a variable that is more than a text.
var variableKeys = []string{"value", "type", "masked", "protected", "expand", "environment", "level", "description"}

// Variables reads a variables file's tree: a map of names to a text, to a map with value, type (variable or file), masked,
// protected, expand, environment and level (project, group or instance), or to a list of such maps for several environments.
func Variables(root *config.Node) (Levels, pipeline.Problems) {
	r := &variablesReader{}
	if root == nil || root.Kind != config.Map {
		if !root.IsNull() {
			r.fail(root.At, "a variables file is a map of names to values", "")
		}
		return r.levels, r.problems
	}
	for _, p := range root.Pairs {
		if !validName().MatchString(p.Key) {
			r.fail(p.KeyAt, fmt.Sprintf("%q is no name for a variable", p.Key), "it has letters, digits and _ only")
			continue
		}
		if p.Key == "true" || p.Key == "false" {
			r.fail(p.KeyAt, "the name of the variable is a truth to YAML: it has to be in quotes", `write "YES": …`)
			continue
		}
		r.entry(p.Key, p.Value)
	}
	return r.levels, r.problems
}

var validName = sync.OnceValue(func() *regexp.Regexp { return regexp.MustCompile(`^[a-zA-Z0-9_]+$`) })

type variablesReader struct {
	levels   Levels
	problems pipeline.Problems
}

func (r *variablesReader) fail(at pipeline.Position, message, hint string) {
	r.problems = append(r.problems, pipeline.Problem{Severity: pipeline.Error, Code: "variables-file", Message: message, Hint: hint, At: at})
}

func (r *variablesReader) entry(name string, n *config.Node) {
	switch {
	case n.IsScalar():
		r.add("project", pipeline.Variable{Name: name, Value: textOf(n), At: n.At})
	case n.Kind == config.Map:
		r.full(name, n)
	case n.Kind == config.List:
		for _, item := range n.Items {
			if item.Kind != config.Map {
				r.fail(item.At, fmt.Sprintf("variable %s: a list has a map with value and environment for each environment", name), "")
				continue
			}
			r.full(name, item)
		}
	}
}

// full reads a variable with its settings.
func (r *variablesReader) full(name string, n *config.Node) {
	v := pipeline.Variable{Name: name, At: n.At}
	level, valued := "project", false
	for _, p := range n.Pairs {
		if !slices.Contains(variableKeys, p.Key) {
			r.fail(p.KeyAt, fmt.Sprintf("variable %s: unknown key `%s`", name, p.Key), "it takes "+strings.Join(variableKeys, ", "))
			continue
		}
		if !p.Value.IsScalar() {
			r.fail(p.Value.At, fmt.Sprintf("variable %s: `%s` is a text", name, p.Key), "")
			continue
		}
		switch p.Key {
		case "value":
			v.Value, v.At, valued = textOf(p.Value), p.Value.At, true
		case "type":
			v.File = r.oneOf(name, p, "variable", "file") == "file"
		case "masked":
			v.Masked = r.flag(name, p)
		case "protected":
			v.Protected = r.flag(name, p)
		case "expand":
			v.Raw = !r.flag(name, p)
		case "environment":
			v.Scope = textOf(p.Value)
		case "level":
			level = r.oneOf(name, p, "project", "group", "instance")
		}
	}
	if !valued {
		r.fail(n.At, fmt.Sprintf("variable %s has no value", name), "")
		return
	}
	if v.Masked && len(v.Value) < 4 {
		r.problems = append(r.problems, pipeline.Problem{Severity: pipeline.Warning, Code: "unmaskable-variable", At: v.At,
			Message: fmt.Sprintf("variable %s is not masked: its value has fewer than 4 characters, which would hide half of every log; GitLab wants 8", name)})
	} else if v.Masked && (len(v.Value) < 8 || strings.ContainsAny(v.Value, " \t\r\n")) {
		r.problems = append(r.problems, pipeline.Problem{Severity: pipeline.Warning, Code: "unmaskable-variable", At: v.At,
			Message: fmt.Sprintf("variable %s: GitLab masks values of 8 characters and more on one line and without spaces only; here it is masked all the same", name)})
	}
	r.add(level, v)
}

func (r *variablesReader) add(level string, v pipeline.Variable) {
	switch level {
	case "instance":
		v.Origin = pipeline.OriginInstance
		r.levels.Instance = append(r.levels.Instance, v)
	case "group":
		v.Origin = pipeline.OriginGroup
		r.levels.Group = append(r.levels.Group, v)
	default:
		v.Origin = pipeline.OriginProject
		r.levels.Project = append(r.levels.Project, v)
	}
}

func (r *variablesReader) flag(name string, p config.Pair) bool {
	if p.Value.Kind != config.Bool {
		r.fail(p.Value.At, fmt.Sprintf("variable %s: `%s` is true or false", name, p.Key), "")
	}
	return p.Value.Bool
}

func (r *variablesReader) oneOf(name string, p config.Pair, values ...string) string {
	if !slices.Contains(values, p.Value.Text) {
		r.fail(p.Value.At, fmt.Sprintf("variable %s: `%s` is %s, not %q", name, p.Key, strings.Join(values, " or "), p.Value.Text), "")
		return values[0]
	}
	return p.Value.Text
}

// textOf is a value as it is written: settings know no numbers, and yes is a word there.
func textOf(n *config.Node) string {
	if n.Plain {
		return n.Raw
	}
	return n.Text
}
