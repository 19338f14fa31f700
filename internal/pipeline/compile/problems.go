package compile

import (
	"strings"

	"keelson.dev/keelson/internal/pipeline"
)

// problemAt is an error of a job at one of its keywords.
func problemAt(spec *pipeline.JobSpec, keyword, code, message, hint string) pipeline.Problem {
	p := pipeline.Problem{Severity: pipeline.Error, Code: code, Job: spec.Name, Message: message, Hint: hint, At: spec.At, Via: spec.Via}
	for {
		if w, ok := spec.Where[keyword]; ok && w.At != (pipeline.Position{}) {
			p.At, p.Via = w.At, w.Via
			return p
		}
		dot := strings.LastIndexByte(keyword, '.')
		if dot < 0 {
			return p
		}
		keyword = keyword[:dot]
	}
}

// needProblem is an error at an item of needs.
func needProblem(spec *pipeline.JobSpec, n *pipeline.NeedSpec, code, message, hint string) pipeline.Problem {
	p := problemAt(spec, "needs", code, message, hint)
	if n.At != (pipeline.Position{}) {
		p.At, p.Via = n.At, n.Via
	}
	return p
}

// warned makes a trap of an error.
func warned(p pipeline.Problem) pipeline.Problem {
	p.Severity = pipeline.Warning
	return p
}
