package render

import (
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"

	"github.com/fluxcd/pkg/envsubst"
	"github.com/fluxcd/pkg/envsubst/parse"
	"k8s.io/apimachinery/pkg/util/json"
	"sigs.k8s.io/yaml"

	"keelson.dev/keelson/internal/delivery"
)

// substituteKey is the label or annotation that exempts an object with the value "disabled".
const substituteKey = "kustomize.toolkit.fluxcd.io/substitute"

var varName = regexp.MustCompile(`^[_[:alpha:]][_[:alpha:][:digit:]]*$`)

// substitute replaces ${var} in the objects' YAML, as kustomize-controller does: values lose their line breaks,
// an undefined variable is empty or, if strict, an error unless it has a default value, "$${var}" stays as "${var}", and a
// value takes the type that its text has once it is in place.
func substitute(objects []delivery.Object, vars map[string]string, strict bool) error {
	values := make(map[string]string, len(vars))
	for _, name := range slices.Sorted(maps.Keys(vars)) {
		if !varName.MatchString(name) {
			return fault("spec.postBuild", "use letters, digits and underscores", "variable name '%s' is invalid", name)
		}
		values[name] = strings.ReplaceAll(vars[name], "\n", "")
	}
	lookup := func(name string) (string, bool) {
		value, given := values[name]
		return value, given || !strict
	}
	var size sizer
	for _, o := range objects {
		if o.GetLabels()[substituteKey] == "disabled" || o.GetAnnotations()[substituteKey] == "disabled" || !mentions(o.Object) {
			continue
		}
		if err := substituteObject(o, values, lookup, &size); err != nil {
			return fault(o.Origin, "write $${name} for a literal ${name}, or exempt the object by the annotation "+substituteKey+": disabled",
				"substitute variables in %s: %w", o.Ref(), err)
		}
	}
	return nil
}

func substituteObject(o delivery.Object, values map[string]string, lookup func(string) (string, bool), size *sizer) error {
	text, err := yaml.Marshal(o.Object)
	if err != nil {
		return err
	}
	if err := boundExpansion(string(text), values); err != nil {
		return err
	}
	replaced, err := envsubst.Eval(string(text), lookup)
	if err != nil {
		return err
	}
	if err := checkYAML("", []byte(replaced), false); err != nil {
		return err
	}
	converted, err := yaml.YAMLToJSON([]byte(replaced))
	if err != nil {
		return fmt.Errorf("the result is not YAML any more; quote the variable: %w", err)
	}
	var m map[string]any
	if err := json.Unmarshal(converted, &m); err != nil {
		return fmt.Errorf("the result is not an object any more: %w", err)
	}
	if err := size.normalize(m); err != nil {
		return err
	}
	o.Object = m
	return nil
}

// mentions tells whether a value or key has a "$" at all; without one, substitution changes nothing.
func mentions(v any) bool {
	switch v := v.(type) {
	case string:
		return strings.Contains(v, "$")
	case map[string]any:
		for k, e := range v {
			if strings.Contains(k, "$") || mentions(e) {
				return true
			}
		}
	case []any:
		return slices.ContainsFunc(v, mentions)
	}
	return false
}

// boundExpansion refuses a text that could grow beyond what a render may hold, before it does.
func boundExpansion(text string, values map[string]string) error {
	const maxNesting = 50
	depth := 0
	for i := 0; i+1 < len(text); i++ {
		if text[i] == '$' && text[i+1] == '{' {
			if depth++; depth > maxNesting {
				return fmt.Errorf("more than %d expressions are nested", maxNesting)
			}
		} else if text[i] == '}' && depth > 0 {
			depth--
		}
	}
	parsed, err := parse.Parse(text)
	if err != nil {
		return err
	}
	if growth(parsed.Root, values) > maxRendered {
		return fmt.Errorf("the result may have more than %d MiB", maxRendered>>20)
	}
	return nil
}

// growth is an upper bound of what a node expands to, in bytes. Only replacements can multiply.
func growth(n parse.Node, values map[string]string) float64 {
	switch n := n.(type) {
	case *parse.TextNode:
		return float64(len(n.Value))
	case *parse.ListNode:
		var sum float64
		for _, e := range n.Nodes {
			sum += growth(e, values)
		}
		return sum
	case *parse.FuncNode:
		value := float64(len(values[n.Param]))
		var args float64
		for _, a := range n.Args {
			args += growth(a, values)
		}
		if strings.HasPrefix(n.Name, "/") {
			return (value + 1) * (args + 1)
		}
		return value + args + 20 // 20: the digits of a length
	}
	return 0
}
