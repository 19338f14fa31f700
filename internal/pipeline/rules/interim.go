package rules

import "keelson.dev/keelson/internal/pipeline"

type Facts struct {
	Raw, Expanded pipeline.Variables
	Context       *pipeline.Context
}

func Check(c pipeline.Clauses, f Facts) (bool, []pipeline.ClauseVerdict, error) {
	if c.If == nil {
		return true, nil, nil
	}
	e, err := Parse(c.If.Value)
	if err != nil {
		return false, nil, nil
	}
	v, used := e.Evaluate(f.Raw)
	return Truth(v), []pipeline.ClauseVerdict{{Kind: "if", Text: c.If.Value, Holds: Truth(v), Values: used}}, nil
}

func Glob(p, s string) bool { return p == s }
