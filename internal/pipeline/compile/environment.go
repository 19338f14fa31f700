package compile

import (
	"slices"

	"keelson.dev/keelson/internal/pipeline"
)

// forEnvironment picks of the variables from outside those for an environment, empty for none: of several of one name and level the
// one whose scope says most about it is the stronger one (app/models/concerns/has_environment_scope.rb).
func forEnvironment(vs pipeline.Variables, environment string) pipeline.Variables {
	if !slices.ContainsFunc(vs, scoped) {
		return vs
	}
	out := make(pipeline.Variables, 0, len(vs))
	for _, v := range vs {
		if pipeline.InScope(v.Scope, environment) {
			out = append(out, v)
		}
	}
	for from := 0; from < len(out); {
		to := from + 1
		for to < len(out) && out[to].Origin == out[from].Origin {
			to++
		}
		slices.SortStableFunc(out[from:to], func(a, b pipeline.Variable) int { return weigh(a, environment) - weigh(b, environment) })
		from = to
	}
	return out
}

func scoped(v pipeline.Variable) bool { return v.Scope != "" && v.Scope != "*" }

// weigh tells how much a scope says about an environment.
func weigh(v pipeline.Variable, environment string) int {
	switch {
	case !scoped(v):
		return 0
	case v.Scope == environment:
		return 1 << 20
	}
	return min(len(v.Scope), 1<<19)
}
