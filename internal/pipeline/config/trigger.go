package config

import (
	"slices"
	"strings"

	"keelson.dev/keelson/internal/pipeline"
)

// maxTriggerIncludes is how many files a child pipeline may be made of.
const maxTriggerIncludes = 3

func (v value) trigger() *pipeline.Trigger {
	t := &pipeline.Trigger{ForwardYAML: true}
	switch v.Kind {
	case String:
		t.Project = v.required()
		return t
	case Map:
	default:
		v.wrong("has to be either a string or a hash")
		return nil
	}
	include := v.field("include")
	if v.Get("include") != nil {
		v.allow("include", "strategy", "forward", "inputs")
		t.Include = include.triggerIncludes()
	} else {
		v.allow("project", "branch", "strategy", "forward", "inputs")
		t.Project, t.Branch = v.field("project").required(), v.field("branch").string()
	}
	t.Strategy = v.field("strategy").oneOf("depend", "mirror")
	t.Inputs = v.field("inputs").inputs()
	if forward := v.field("forward"); forward.set() && forward.isMap("config should be a hash") {
		forward.allow("yaml_variables", "pipeline_variables")
		if yaml := forward.field("yaml_variables"); yaml.set() {
			t.ForwardYAML = yaml.boolean()
		}
		t.ForwardPipeline = forward.field("pipeline_variables").boolean()
	}
	return t
}

// inputs decodes the values for another file's spec:inputs.
func (v value) inputs() map[string]pipeline.Input {
	if !v.set() || !v.isMap("should be a hash") {
		return nil
	}
	inputs := make(map[string]pipeline.Input, len(v.Pairs))
	for _, f := range v.fields() {
		inputs[f.key()] = pipeline.Input{Value: goValue(f.Node), At: f.at()}
	}
	return inputs
}

func (v value) triggerIncludes() []pipeline.Include {
	if !v.set() {
		v.fail(codeRequired, "can't be blank")
		return nil
	}
	items := []value{v}
	if v.Kind == List {
		if items = v.items(); len(items) > maxTriggerIncludes {
			v.fail(codeLimit, "config is too long (maximum is %d)", maxTriggerIncludes)
			return nil
		}
		if len(items) == 0 {
			v.fail(codeRequired, "can't be blank")
		}
	}
	var all []pipeline.Include
	for _, item := range items {
		all = append(all, item.triggerInclude()...)
	}
	return all
}

// triggerInclude decodes one include, which is several if it names several files of a project.
func (v value) triggerInclude() []pipeline.Include {
	i := pipeline.Include{At: v.at()}
	switch {
	case v.Node != nil && v.Kind == String:
		if i.Local = v.required(); strings.HasPrefix(i.Local, "http://") || strings.HasPrefix(i.Local, "https://") {
			i.Local, i.Remote = "", i.Local
		}
		return []pipeline.Include{i}
	case v.Node == nil || v.Kind != Map:
		v.wrong("config should be a hash or a string")
		return nil
	}
	kinds := []string{"local", "template", "artifact", "project", "component", "remote"}
	given := slices.DeleteFunc(slices.Clone(kinds), func(key string) bool { return v.Get(key) == nil })
	if len(given) != 1 {
		v.allow("local", "file", "remote", "template", "component", "artifact", "job", "project", "ref", "inputs", "integrity")
		v.fail(codeRequired, "config must use exactly one of these keys: %s", strings.Join(kinds, ", "))
		return nil
	}
	text := v.field(given[0]).required()
	i.Inputs = v.field("inputs").inputs()
	switch given[0] {
	case "local":
		i.Local = text
	case "template":
		i.Template = text
	case "component":
		i.Component = text
	case "remote":
		v.allow("remote", "inputs", "integrity")
		i.Remote, i.Integrity = text, v.field("integrity").string()
		return []pipeline.Include{i}
	case "artifact":
		v.allow("artifact", "job", "inputs")
		i.Artifact, i.Job = text, v.field("job").string()
		if i.Job == "" {
			v.fail(codeRequired, "config must specify the job where to fetch the artifact from")
		}
		return []pipeline.Include{i}
	case "project":
		v.allow("project", "ref", "file", "inputs")
		i.Project, i.Ref = text, v.field("ref").string()
		files := v.field("file").stringsOrString()
		if len(files) == 0 {
			v.fail(codeRequired, "config must specify the file where to fetch the config from")
		}
		var all []pipeline.Include
		for _, f := range files {
			i.File = f
			all = append(all, i)
		}
		return all
	}
	v.allow(given[0], "inputs")
	return []pipeline.Include{i}
}
