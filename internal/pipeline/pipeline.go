// Package pipeline holds the nouns of the push half: what a .gitlab-ci.yml says, for which event it is compiled, and the graph
// of jobs that comes out.
//
//	config.Load(files, options)      -> Config    what the files say: includes, extends, references and defaults are resolved
//	compile.Compile(config, context) -> Graph     which of its jobs run for this event, with which variables, after which others
//	schedule.New(graph)              -> State     what each of them does now; events move it
//	run.Run(graph, executor, sink)   -> Outcome   plays it
//
// The words are GitLab's. A graph is data: it is stored as JSON and taken up again by another process. The package is pure.
package pipeline

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
)

// Position is a place in a file that a pipeline is made of. Line and Column count from 1; zero: not known.
type Position struct {
	// File is named as a person would look for it: a path in the repository, "project@ref:path" for another repository's,
	// a URL without userinfo, "template:NAME", or a flag of the command line such as "--variable".
	File   string `json:"file,omitempty"`
	Line   int    `json:"line,omitempty"`
	Column int    `json:"column,omitempty"`
}

func (p Position) String() string {
	switch {
	case p.Line == 0:
		return p.File
	case p.Column == 0:
		return fmt.Sprintf("%s:%d", p.File, p.Line)
	default:
		return fmt.Sprintf("%s:%d:%d", p.File, p.Line, p.Column)
	}
}

// Via is one step on the way of a value from where it is written to where it counts.
type Via struct {
	How  string   `json:"how"`            // include, extends, reference, default, alias
	Name string   `json:"name,omitempty"` // what was included, extended or referred to
	At   Position `json:"at"`             // where that is written
}

// Severity tells errors, with which a file makes no pipeline, from traps: what works but is seldom meant.
type Severity string

// The severities of a [Problem].
const (
	Error   Severity = "error"
	Warning Severity = "warning"
)

// Problem is a finding about a configuration.
type Problem struct {
	Severity Severity `json:"severity"`
	Code     string   `json:"code"`          // stable, in kebab case: "unknown-keyword", "needs-cycle"
	Job      string   `json:"job,omitempty"` // the job that it is about, when it is about one
	Message  string   `json:"message"`       // one sentence without the position: "stage `tset` does not exist"
	Hint     string   `json:"hint,omitempty"`
	At       Position `json:"at"`
	Via      []Via    `json:"via,omitempty"` // the nearest step first
}

func (p Problem) Error() string {
	if p.At == (Position{}) {
		return p.Message
	}
	return p.At.String() + ": " + p.Message
}

// Problems are findings in the order of files and lines.
type Problems []Problem

// Failed tells whether an error is among them.
func (ps Problems) Failed() bool {
	for _, p := range ps {
		if p.Severity == Error {
			return true
		}
	}
	return false
}

// Sort puts problems in the order of the files and their lines; those in other files come after them, and those without a place last.
func (ps Problems) Sort(files []File) {
	order := make(map[string]int, len(files))
	for i, f := range files {
		if _, twice := order[f.Name]; !twice {
			order[f.Name] = i
		}
	}
	file := func(p Problem) int {
		if i, ok := order[p.At.File]; ok && p.At.Line != 0 {
			return i
		}
		if p.At.Line != 0 {
			return len(files)
		}
		return len(files) + 1
	}
	slices.SortStableFunc(ps, func(a, b Problem) int {
		return cmp.Or(
			cmp.Compare(file(a), file(b)), cmp.Compare(a.At.File, b.At.File),
			cmp.Compare(a.At.Line, b.At.Line), cmp.Compare(a.At.Column, b.At.Column),
		)
	})
}

// Arrange sorts problems, leaves out those that are there twice, and makes one of those that several jobs have at one place, as
// jobs do that extend the same template.
func (ps Problems) Arrange(files []File) Problems {
	ps.Sort(files)
	type key struct {
		code, message string
		at            Position
	}
	seen := make(map[key]bool, len(ps))
	first := make(map[key]int, len(ps)) // by code and place
	others := map[int][]string{}
	out := ps[:0]
	for _, p := range ps {
		if exact := (key{p.Code, p.Message, p.At}); !seen[exact] {
			seen[exact] = true
		} else {
			continue
		}
		place := key{code: p.Code, at: p.At}
		if i, ok := first[place]; ok && p.Job != "" && out[i].Job != "" && out[i].Job != p.Job && out[i].Severity == p.Severity && p.At.Line != 0 {
			others[i] = append(others[i], p.Job)
			continue
		} else if !ok {
			first[place] = len(out)
		}
		out = append(out, p)
	}
	for i, jobs := range others {
		out[i].Hint = AlsoIn(out[i].Hint, jobs)
	}
	return out
}

// AlsoIn adds to a hint which other jobs have the problem too.
func AlsoIn(hint string, jobs []string) string {
	jobs = slices.Compact(jobs)
	names := strings.Join(jobs[:min(len(jobs), 3)], ", ")
	if len(jobs) > 3 {
		names += fmt.Sprintf(" and %d more", len(jobs)-3)
	}
	if hint != "" {
		hint += "; "
	}
	return hint + "also in the jobs " + names
}
