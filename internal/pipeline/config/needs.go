package config

import (
	"keelson.dev/keelson/internal/pipeline"
)

const (
	// maxNeeds is how many jobs one may need (ci_needs_size_limit).
	maxNeeds = 50
	// maxOtherNeeds is how many jobs of other pipelines and projects.
	maxOtherNeeds = 5
)

type needsOf int

const (
	jobNeeds  needsOf = iota
	ruleNeeds         // jobs of the same pipeline only
)

// needs decodes a list of needs, or a single one in a map. It is nil only where there is no list.
func (v value) needs(of needsOf) []pipeline.NeedSpec {
	var items []value
	switch v.Kind {
	case Map:
		items = []value{v}
	case List:
		var ok bool
		if items, ok = v.flat(); !ok {
			v.fail(codeType, "config is more than %d levels deep", maxNesting)
		}
	default:
		hint := ""
		if v.Kind == String {
			hint = "write it as a list: [" + quotedYAML(v.Text) + "]"
		}
		v.hint(codeType, hint, "config can only be a Hash or an Array, found %s", v.described())
		return nil
	}
	specs := make([]pipeline.NeedSpec, 0, len(items))
	local, other := 0, 0
	for _, item := range items {
		spec, ok := item.need()
		if !ok {
			continue
		}
		if of == ruleNeeds && !spec.Local() {
			item.fail(codeConflict, "config uses invalid types: cross_dependency")
			continue
		}
		if spec.Local() {
			local++
		} else {
			other++
		}
		specs = append(specs, spec)
	}
	if local > maxNeeds {
		v.fail(codeLimit, "config: one job can only need %d others, but you have listed %d", maxNeeds, local)
		return specs[:0]
	}
	if other > maxOtherNeeds {
		v.fail(codeLimit, "config must be less than or equal to %d needs of other pipelines, found %d", maxOtherNeeds, other)
	}
	return specs
}

// quotedYAML is a name as it is written in a flow list.
func quotedYAML(name string) string {
	if isIdentifier(name) {
		return name
	}
	return `"` + clip(name) + `"`
}

func (v value) need() (pipeline.NeedSpec, bool) {
	v = v.placed("need")
	spec := pipeline.NeedSpec{At: v.at(), Via: v.via}
	spec.Artifacts = true
	switch {
	case v.Node != nil && v.Kind == String:
		spec.Job = v.required()
		return spec, spec.Job != ""
	case v.Node == nil || v.Kind != Map:
		v.hint(codeType, v.quoteHint(), "has an unsupported type, found %s", v.described())
		return spec, false
	}
	has := func(key string) bool { return v.Get(key) != nil }
	switch {
	case has("project"):
		v.allow("project", "ref", "job", "artifacts", "parallel")
		spec.Project, spec.Ref, spec.Job = v.field("project").required(), v.field("ref").required(), v.field("job").required()
	case has("pipeline"):
		v.allow("pipeline", "job", "artifacts", "parallel")
		spec.Pipeline = v.field("pipeline").required()
		if has("job") {
			spec.Job = v.field("job").required()
		}
	case has("job"):
		v.allow("job", "artifacts", "optional", "parallel")
		spec.Job, spec.Optional = v.field("job").required(), v.field("optional").boolean()
	default:
		v.hint(codeRequired, "a need is the name of a job, or a map with `job`", "has an unsupported type, found a map without `job`")
		v.allow("job", "artifacts", "optional", "parallel", "project", "ref", "pipeline")
		return spec, false
	}
	if has("job") && v.field("job").IsScalar() {
		spec.At = v.field("job").at()
	}
	if artifacts := v.field("artifacts"); artifacts.set() {
		spec.Artifacts = artifacts.boolean()
	}
	if parallel := v.field("parallel"); parallel.set() {
		spec.Matrix = parallel.matrixOnly()
	}
	ok := spec.Job != "" || spec.Pipeline != "" && !has("job")
	return spec, ok && (spec.Project == "" || spec.Ref != "")
}

// matrixOnly is the value of needs:parallel.
func (v value) matrixOnly() []pipeline.MatrixSet {
	if v.Kind == Int || v.Kind == Float {
		v.fail(codeType, `config cannot use "parallel: <number>".`)
		return nil
	}
	if !v.isMap("should be a hash") {
		return nil
	}
	v.allow("matrix")
	return v.field("matrix").matrix()
}
