package compile

import (
	"cmp"
	"slices"
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

// arrange orders findings by file and line, and leaves out what was found twice at one place.
func arrange(cfg *pipeline.Config, ps pipeline.Problems) pipeline.Problems {
	order := make(map[string]int, len(cfg.Files))
	for i, f := range cfg.Files {
		if _, twice := order[f.Name]; !twice {
			order[f.Name] = i
		}
	}
	slices.SortStableFunc(ps, func(a, b pipeline.Problem) int {
		return cmp.Or(
			cmp.Compare(order[a.At.File], order[b.At.File]),
			cmp.Compare(a.At.Line, b.At.Line),
			cmp.Compare(a.At.Column, b.At.Column),
		)
	})
	type key struct {
		code, message string
		at            pipeline.Position
	}
	seen := make(map[key]bool, len(ps))
	return slices.DeleteFunc(ps, func(p pipeline.Problem) bool {
		k := key{p.Code, p.Message, p.At}
		twice := seen[k]
		seen[k] = true
		return twice
	})
}

// suggest names the candidate that was probably meant; empty: none is near.
func suggest(name string, candidates []string) string {
	const far = 3
	best, distance := "", min(far, len(name)/2+1)
	for _, c := range candidates {
		if strings.EqualFold(c, name) {
			return "did you mean `" + c + "`?"
		}
		if d := edits(name, c, distance); d < distance {
			best, distance = c, d
		}
	}
	if best == "" {
		return ""
	}
	return "did you mean `" + best + "`?"
}

// edits counts the letters to change, add, leave out or swap between two names; bound or more: it is not looked further.
func edits(a, b string, bound int) int {
	if len(a) > 64 || len(b) > 64 || len(a)-len(b) >= bound || len(b)-len(a) >= bound {
		return bound
	}
	var before, last, row [65]int
	for j := range len(b) + 1 {
		last[j] = j
	}
	for i := 1; i <= len(a); i++ {
		row[0] = i
		least := i
		for j := 1; j <= len(b); j++ {
			change := 1
			if a[i-1] == b[j-1] {
				change = 0
			}
			row[j] = min(last[j-1]+change, last[j]+1, row[j-1]+1)
			if i > 1 && j > 1 && a[i-1] == b[j-2] && a[i-2] == b[j-1] {
				row[j] = min(row[j], before[j-2]+1)
			}
			least = min(least, row[j])
		}
		if least >= bound {
			return bound
		}
		before, last = last, row
	}
	return last[len(b)]
}
