package config

import (
	"fmt"
	"slices"
	"strconv"
	"strings"

	"keelson.dev/keelson/internal/pipeline"
)

// variableKeys are what a variable may say besides its value.
type variableKeys []string

var (
	topVariables  = variableKeys{"value", "description", "options", "expand"}
	jobVariables  = variableKeys{"value", "expand"}
	ruleVariables = variableKeys{} // a value only
)

// maxVariables bounds the variables of one section.
const maxVariables = 1000

// variables decodes a section of variables.
func (v value) variables(keys variableKeys) []pipeline.VariableSpec {
	if !v.set() || !v.isMap("config should be a hash") {
		return nil
	}
	if len(v.Pairs) > maxVariables {
		v.fail(codeLimit, "config has more than %d variables", maxVariables)
		return nil
	}
	all := make([]pipeline.VariableSpec, 0, len(v.Pairs))
	for i := range v.Pairs {
		p := &v.Pairs[i]
		if spec, ok := v.child(p.Key, p.KeyAt, p.Value).variable(keys); ok {
			all = append(all, spec)
		}
	}
	return all
}

func (v value) variable(keys variableKeys) (pipeline.VariableSpec, bool) {
	spec := pipeline.VariableSpec{Name: v.key(), At: v.at(), Via: v.via}
	if !isIdentifier(spec.Name) {
		v.d.report(pipeline.Warning, codeVariable, v.place(), "is a name that no shell can use", "use letters, digits and underscores", v.keyAt, v.via)
	}
	if spec.Name == "true" || spec.Name == "false" {
		v.d.report(pipeline.Warning, codeVariable, v.place(), "is the name of the variable", booleanKey+": quote the name", v.keyAt, v.via)
	}
	switch {
	case !v.set():
		v.changed("an empty text")
		return spec, true
	case v.IsScalar():
		spec.Value = v.Text
		v.changed("")
		return spec, true
	case v.Kind != Map:
		v.wrong("variable definition must be either a string or a hash")
		return spec, false
	case len(keys) == 0:
		v.hint(codeType, "only the variables of the top level and of jobs have more than a value", "config must be a string, found a map")
		return spec, false
	}
	for i := range v.Pairs {
		if p := v.Pairs[i]; !slices.Contains(keys, p.Key) {
			hint := pipeline.DidYouMean(p.Key, keys)
			if slices.Contains(topVariables, p.Key) {
				hint = "only variables of the top level have it"
			}
			v.d.report(pipeline.Error, codeUnknown, v.place(), "config uses invalid data keys: "+clip(p.Key), hint, p.KeyAt, way(p.Value, v.via))
		}
	}
	text := v.field("value")
	if text.set() && !text.IsScalar() {
		text.wrong("must be an alphanumeric string")
	} else if text.Node != nil {
		spec.Value, spec.At = text.Text, text.at()
		text.changed("")
	}
	if description := v.field("description"); description.set() {
		if !description.IsScalar() {
			description.wrong("must be an alphanumeric string")
		} else {
			spec.Description = description.Text
		}
	}
	spec.Raw = v.field("expand").set() && !v.field("expand").boolean()
	if spec.Options = v.field("options").strings(); len(spec.Options) > 0 && !slices.Contains(spec.Options, spec.Value) {
		v.hint(codeValue, "the options are "+strings.Join(spec.Options[:min(len(spec.Options), 10)], ", "), "config value must be present in options")
	}
	return spec, true
}

// changed warns of a scalar that YAML reads as something else than what is written; what names the outcome where a text cannot.
func (v value) changed(what string) {
	if v.Node == nil || !v.Plain || v.Raw == v.Text {
		return
	}
	if what == "" {
		what = quoted(v.Text)
	}
	why := map[Kind]string{Bool: "a boolean", Int: "a number", Float: "a number", Null: "nothing"}[v.Kind]
	if why == "" {
		return
	}
	if v.Kind == Int && strings.Contains(v.Raw, ":") {
		why = "a number in base 60"
	} else if v.Kind == Int && strings.HasPrefix(strings.TrimLeft(v.Raw, "+-"), "0") && !strings.ContainsAny(v.Raw, "xXbB") {
		why = "an octal number"
	}
	v.warn(codeChanged, fmt.Sprintf("quote it to keep it: %s", strconv.Quote(clip(v.Raw))), "is %s, and not %s: YAML reads it as %s", what, quoted(v.Raw), why)
}
