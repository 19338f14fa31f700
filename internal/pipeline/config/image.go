package config

import (
	"slices"

	"keelson.dev/keelson/internal/pipeline"
)

func (v value) image() *pipeline.Image {
	i, ok := v.imageable([]string{"name", "entrypoint", "pull_policy", "docker", "kubernetes"})
	if !ok {
		return nil
	}
	return &i
}

// imageable is what image and the items of services have in common: the name of an image, or a map with it.
func (v value) imageable(keys []string) (pipeline.Image, bool) {
	var i pipeline.Image
	switch {
	case v.Node != nil && v.Kind == String:
		i.Name = v.required()
		return i, i.Name != ""
	case v.Node == nil || v.Kind != Map:
		v.wrong("config should be a hash or a string")
		return i, false
	}
	for k := range v.Pairs {
		switch p := v.Pairs[k]; {
		case p.Key == "ports":
			v.d.report(pipeline.Error, codeUnsupported, v.place(), "config contains disallowed keys: ports", "ports are for GitLab's web terminals only", p.KeyAt, v.via)
		case !slices.Contains(keys, p.Key):
			v.unknown(p, keys)
		}
	}
	i.Name = v.field("name").required()
	i.Entrypoint = v.field("entrypoint").strings()
	i.PullPolicy = v.field("pull_policy").pullPolicy()
	i.Docker = v.field("docker").executorOptions("platform", "user")
	i.Kubernetes = v.field("kubernetes").executorOptions("user")
	return i, i.Name != ""
}

func (v value) pullPolicy() []string {
	policies := []string{"always", "never", "if-not-present"}
	if !v.set() || v.Kind == String {
		if p := v.oneOf(policies...); p != "" {
			return []string{p}
		}
		return nil
	}
	if v.Kind == List && len(v.Items) == 0 {
		v.fail(codeRequired, "config can't be blank")
	}
	for _, p := range v.stringsOrString() {
		if !slices.Contains(policies, p) {
			v.hint(codeValue, pipeline.DidYouMean(p, policies), "contains unknown values: %s", clip(p))
			return nil
		}
	}
	return v.stringsOrString()
}

// executorOptions are what an executor is told: texts, and a user may be a number for Kubernetes.
func (v value) executorOptions(keys ...string) map[string]any {
	if !v.set() || !v.isMap("config should be a hash") {
		return nil
	}
	v.allow(keys...)
	options := make(map[string]any, len(v.Pairs))
	for _, f := range v.fields() {
		if !slices.Contains(keys, f.key()) || !f.set() {
			continue
		}
		if v.key() == "kubernetes" && f.Kind == Int {
			options[f.key()] = f.Int
			continue
		}
		limit := 255
		if f.key() == "platform" {
			limit = 64
		}
		text := f.required()
		if len(text) > limit {
			f.fail(codeLimit, "is too long (maximum is %d characters)", limit)
		}
		options[f.key()] = text
	}
	return options
}

func (v value) services() []pipeline.Service {
	if v.Kind != List {
		v.wrong("config should be an array of services")
		return nil
	}
	items, ok := v.flat()
	if !ok {
		v.fail(codeType, "config is more than %d levels deep", maxNesting)
		return nil
	}
	services := make([]pipeline.Service, 0, len(items))
	for _, item := range items {
		item = item.placed("service")
		image, ok := item.imageable([]string{"name", "alias", "entrypoint", "command", "variables", "pull_policy", "docker", "kubernetes"})
		if !ok {
			continue
		}
		s := pipeline.Service{Image: image, At: item.keyAt}
		if item.Kind == Map {
			s.Alias = item.field("alias").string()
			s.Command = item.field("command").script()
			for _, spec := range item.field("variables").variables(ruleVariables) {
				s.Variables = append(s.Variables, pipeline.Variable{
					Name: spec.Name, Value: spec.Value, Public: true, Origin: pipeline.OriginJob, At: spec.At,
				})
			}
		}
		services = append(services, s)
	}
	return services
}
