package config

import (
	"fmt"
	"slices"
	"strings"

	"keelson.dev/keelson/internal/pipeline"
)

// script is a command, or a list of commands in which !reference leaves lists.
func (v value) script() []string {
	const should = "config should be a string or a nested array of strings up to 10 levels deep"
	switch {
	case !v.set():
		return nil
	case v.Kind == String:
		return []string{v.Text}
	case v.Kind != List:
		v.wrong(should)
		return nil
	}
	if !slices.ContainsFunc(v.Items, func(n *Node) bool { return n == nil || n.Kind != String }) {
		return v.texts(should)
	}
	items, ok := v.flat()
	if !ok {
		v.fail(codeType, should)
		return nil
	}
	commands := make([]string, 0, len(items))
	for _, item := range items {
		switch {
		case item.Node != nil && item.Kind == String:
			commands = append(commands, item.Text)
		case item.Node != nil && item.Kind == Map && len(item.Pairs) > 0:
			item.hint(codeType, fmt.Sprintf("a colon with a space after it makes a map: put the whole command `%s: …` into quotes, or write it after `- |`", clip(item.Pairs[0].Key)),
				"%s, found a map", should)
		default:
			item.wrong(should)
		}
	}
	return commands
}

func decodeHooks(v value, j *pipeline.JobSpec) {
	if !v.isMap("config should be a hash") {
		return
	}
	v.allow("pre_get_sources_script")
	j.PreGet = v.field("pre_get_sources_script").script()
}

// steps is the value of run.
func (v value) steps() []pipeline.Step {
	if v.Kind != List {
		v.wrong("config should be an array of steps")
		return nil
	}
	steps := make([]pipeline.Step, 0, len(v.Items))
	for _, item := range v.items() {
		if item.isMap("config should be an array of steps") {
			steps = append(steps, item.step())
		}
	}
	if len(v.Items) == 0 {
		v.fail(codeRequired, "can't be blank")
	}
	return steps
}

func (v value) step() pipeline.Step {
	v.allow("name", "script", "step", "func", "env", "inputs")
	s := pipeline.Step{Name: v.field("name").required(), Script: v.field("script").string()}
	if s.Name != "" && !isIdentifier(s.Name) {
		v.field("name").fail(codeValue, "should be letters, digits and underscores, found %s", quoted(s.Name))
	}
	given := slices.DeleteFunc([]string{"script", "step", "func"}, func(key string) bool { return v.Get(key) == nil })
	switch {
	case len(given) == 0:
		v.fail(codeRequired, "config must use exactly one of these keys: script, step, func")
	case len(given) > 1:
		v.fail(codeConflict, "config these keys cannot be used together: %s", strings.Join(given, ", "))
	case given[0] == "script":
		v.field("script").required()
		if inputs := v.field("inputs"); inputs.set() {
			inputs.hint(codeConflict, "use `env`", "config cannot be used with `script`")
		}
	default:
		s.Step = v.field(given[0]).stepReference()
	}
	if env := v.field("env"); env.set() && env.isMap("config should be a hash of strings") {
		s.Env = make(map[string]string, len(env.Pairs))
		for _, e := range env.fields() {
			if !isIdentifier(e.key()) {
				e.fail(codeVariable, "should be letters, digits and underscores")
			}
			s.Env[e.key()] = e.string()
		}
	}
	if inputs := v.field("inputs"); inputs.set() && inputs.isMap("config should be a hash") {
		s.Inputs, _ = goValue(inputs.Node).(map[string]any)
	}
	return s
}

// stepReference is where a step is kept: a text, or a map with git or oci, which becomes a URL.
func (v value) stepReference() string {
	if !v.set() || v.Kind != Map {
		return v.required()
	}
	v.allow("git", "oci")
	switch git, oci := v.field("git"), v.field("oci"); {
	case git.set() && git.isMap("config should be a hash"):
		git.allow("url", "dir", "rev", "file")
		return "git+" + git.field("url").required() + joined("//", git.field("dir").string(), git.field("file").string()) + "@" + git.field("rev").required()
	case oci.set() && oci.isMap("config should be a hash"):
		oci.allow("registry", "repository", "tag", "dir", "file")
		return "oci://" + oci.field("registry").required() + "/" + oci.field("repository").required() + ":" + oci.field("tag").required() +
			joined("//", oci.field("dir").string(), oci.field("file").string())
	default:
		v.fail(codeRequired, "config must use exactly one of these keys: git, oci")
		return ""
	}
}

// joined is the path of the parts that are there after a prefix, or nothing.
func joined(prefix string, parts ...string) string {
	for i, p := range parts {
		parts[i] = strings.Trim(p, "/")
	}
	parts = slices.DeleteFunc(parts, func(p string) bool { return p == "" })
	if len(parts) == 0 {
		return ""
	}
	return prefix + strings.Join(parts, "/")
}

// isIdentifier tells whether a shell can have a variable of this name.
func isIdentifier(name string) bool {
	for i := range len(name) {
		if !isWord(name[i]) || i == 0 && '0' <= name[i] && name[i] <= '9' {
			return false
		}
	}
	return name != ""
}

// isWord tells whether it is a letter, a digit or an underscore.
func isWord(c byte) bool {
	return c == '_' || 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9'
}
