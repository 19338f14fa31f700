package pipeline

import (
	"cmp"
	"strings"
)

// Variable is a variable of a pipeline with where its value comes from.
type Variable struct {
	Name   string `json:"name"`
	Value  string `json:"value"`
	Raw    bool   `json:"raw,omitempty"`    // not expanded
	File   bool   `json:"file,omitempty"`   // the job finds the path of a file with the value
	Masked bool   `json:"masked,omitempty"` // never shown
	// Public variables are those of the files and the predefined ones that hold no credential; services see only these.
	Public bool `json:"public,omitempty"`
	// Protected variables are there on protected refs only.
	Protected bool `json:"protected,omitempty"`
	// Scope is the environment that a variable of project or group is for ("production", "review/*"); empty and "*": every job.
	Scope  string   `json:"scope,omitempty"`
	Origin string   `json:"origin,omitempty"` // one of the Origin constants
	At     Position `json:"at,omitzero"`
}

// Where the value of a variable comes from, from the weakest to the strongest.
const (
	OriginPredefined = "predefined"
	OriginDeployment = "deployment"
	OriginTop        = "top-level variables"
	OriginWorkflow   = "workflow:rules"
	OriginJob        = "job variables"
	OriginMatrix     = "parallel:matrix"
	OriginRules      = "job rules"
	OriginDotenv     = "dotenv report"
	OriginInstance   = "instance"
	OriginGroup      = "group"
	OriginProject    = "project"
	OriginPipeline   = "pipeline"
	OriginPlay       = "played with" // by the person who has played the job
)

// Variables is a list in which of several with one name the last one counts.
type Variables []Variable

// Get gives the variable that counts.
func (vs Variables) Get(name string) (Variable, bool) {
	for i := len(vs) - 1; i >= 0; i-- {
		if vs[i].Name == name {
			return vs[i], true
		}
	}
	return Variable{}, false
}

// Predefined gives the value of a predefined variable, whatever files and people have set by that name: what is decided by it cannot be
// talked into anything.
func (vs Variables) Predefined(name string) string {
	for i := len(vs) - 1; i >= 0; i-- {
		if vs[i].Name == name && vs[i].Origin == OriginPredefined {
			return vs[i].Value
		}
	}
	return ""
}

// InScope tells whether a scope ("production", "review/*") is one for jobs of an environment, empty for those that have none. An empty scope
// and "*" are for all; in others * stands for anything.
func InScope(scope, environment string) bool {
	if scope == "" || scope == "*" {
		return true
	}
	parts := strings.Split(scope, "*")
	if len(parts) == 1 || environment == "" {
		return scope == environment
	}
	rest, ok := strings.CutPrefix(environment, parts[0])
	if !ok {
		return false
	}
	last := parts[len(parts)-1]
	for _, part := range parts[1 : len(parts)-1] {
		_, after, ok := strings.Cut(rest, part)
		if !ok {
			return false
		}
		rest = after
	}
	return cmp.Or(last == "", strings.HasSuffix(rest, last))
}
