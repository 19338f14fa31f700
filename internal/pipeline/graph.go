package pipeline

import "strings"

// Graph is a compiled pipeline: which jobs there are for one event, and what each waits for.
type Graph struct {
	Name       string     `json:"name,omitempty"` // workflow:name, expanded
	Source     string     `json:"source"`         // CI_PIPELINE_SOURCE
	Ref        string     `json:"ref"`
	SHA        string     `json:"sha"`
	Stages     []string   `json:"stages"` // in their order; those without jobs are left out
	Jobs       []Job      `json:"jobs"`   // by stage, then as in the file
	AutoCancel AutoCancel `json:"autoCancel,omitzero"`
}

// AutoCancel is workflow:auto_cancel.
type AutoCancel struct {
	OnNewCommit  string `json:"onNewCommit,omitempty"`  // conservative (also empty), interruptible, none
	OnJobFailure string `json:"onJobFailure,omitempty"` // none (also empty), all
}

// Config is what the files of a pipeline say, before an event picks from it. Everything has its position.
type Config struct {
	Stages    []string // with .pre and .post
	Workflow  Workflow
	Variables []VariableSpec // the top level's
	Jobs      []JobSpec      // as in the merged file; hidden ones are left out
	Files     []File         // what it was made of, the first one first
	Spec      []InputSpec    // the inputs that the first file takes
	Partial   bool           // some of it could not be read, so that jobs may be missing
}

// File is a configuration file that was read.
type File struct {
	Name string   `json:"name"`
	Size int      `json:"size"`        // bytes
	At   Position `json:"at,omitzero"` // where it is included
}

// InputSpec is an entry of spec:inputs.
type InputSpec struct {
	Name        string
	Type        string // string, number, boolean, array
	Default     *Input
	Options     []any
	Regex       string
	Description string
	At          Position
}

// Workflow is the top level's workflow.
type Workflow struct {
	Name       Text
	Rules      []Rule // nil: there are none, every event makes a pipeline
	HasRules   bool   // the key is there, if only with null: jobs have no default only
	AutoCancel AutoCancel
}

// Text is a value with the place where it is written.
type Text struct {
	Value string
	At    Position
	Via   []Via
	Plain bool // without quotes and on one line: a byte of Value is as many columns behind At
}

// VariableSpec is a variable as a file sets it.
type VariableSpec struct {
	Name        string
	Value       string
	Raw         bool // expand: false
	Description string
	Options     []string
	At          Position
	Via         []Via
}

// JobSpec is a job of a [Config]: what it is whatever the event, and the rules that decide. Its Name is its Base; parallel is not
// expanded; Needs may name jobs that turn out not to be there; Variables are empty.
type JobSpec struct {
	Job
	// When, AllowFailure and Interruptible are the job's own keywords; nil where it does not say.
	OwnWhen          *When
	OwnAllowFailure  *AllowFailure
	OwnInterruptible *bool

	Vars             []VariableSpec // the job's own
	InheritVariables Inherit        // which of the top level's it takes
	Rules            []Rule         // nil: it has none
	HasRules         bool           // the key is there, if only with null: it has no default only
	Only, Except     *Policy
	Parallel         *Parallel
	Inputs           []InputSpec // the job's own, with their defaults
	NeedSpecs        []NeedSpec  // as written; nil: no needs (DAG is false)

	// Where each keyword of the job is written and how it came there, by its name ("stage", "needs", "environment.on_stop").
	Where map[string]Text
	Via   []Via // how the job itself came here
}

// Inherit says what a job takes of something: all, none, or what it names.
type Inherit struct {
	None  bool
	Names []string // with !None: only these; nil: all
}

// Takes tells whether it takes the one of this name.
func (i Inherit) Takes(name string) bool {
	if i.None || i.Names == nil {
		return !i.None
	}
	for _, n := range i.Names {
		if n == name {
			return true
		}
	}
	return false
}

// Rule is an item of rules, workflow:rules or include:rules.
type Rule struct {
	Clauses
	When          When // empty: the job's
	StartIn       Duration
	AllowFailure  *AllowFailure
	Variables     []VariableSpec
	Needs         []NeedSpec // nil: the job's
	Interruptible *bool
	AutoCancel    AutoCancel // of workflow:rules
	At            Position
	Via           []Via
}

// Clauses are the conditions of a rule. All that are set must hold.
type Clauses struct {
	If      *Text
	Changes *Changes
	Exists  *Exists
}

// Changes holds if one of the paths has changed.
type Changes struct {
	Paths     []Text
	Regexp    *Text
	CompareTo *Text
	At        Position
}

// Exists holds if one of the paths is there.
type Exists struct {
	Paths   []Text
	Regexp  *Text
	Project *Text
	Ref     *Text
	At      Position
}

// Policy is only or except.
type Policy struct {
	Refs       []Text
	Variables  []Text // expressions
	Changes    []Text
	Kubernetes string // "active"
	At         Position
}

// Parallel makes several jobs of one: Count of them, or one for each combination of a set of the matrix.
type Parallel struct {
	Count  int
	Matrix []MatrixSet
	At     Position
}

// MatrixSet is a list of variables with their values; every combination is a job.
type MatrixSet []MatrixVariable

// MatrixVariable is a variable with the values that it takes in turn.
type MatrixVariable struct {
	Name   string
	Values []string
	At     Position
}

// NeedSpec is an item of needs as written.
type NeedSpec struct {
	Need
	Matrix []MatrixSet // parallel:matrix: only these instances
	At     Position
	Via    []Via
}

// Verdict tells why a job runs for an event, or not.
type Verdict struct {
	Job          string       `json:"job"` // its name in the file
	Runs         bool         `json:"runs"`
	When         When         `json:"when,omitempty"`
	AllowFailure AllowFailure `json:"allowFailure,omitzero"`
	Names        []string     `json:"names,omitempty"` // its jobs in the graph
	// Instances are the parallel jobs that this verdict is about, where others of the same job came to something else.
	Instances []string      `json:"instances,omitempty"`
	Reason    string        `json:"reason"` // one sentence: "rule 2 of 3 matches", "no rule matches", "except: tags"
	Rules     []RuleVerdict `json:"rules,omitempty"`
	At        Position      `json:"at"`
}

// RuleVerdict is what one rule came to; rules after the one that matched are not looked at and not listed.
type RuleVerdict struct {
	Keyword string          `json:"keyword,omitempty"` // only or except, each of which counts as one rule; empty: an item of rules
	At      Position        `json:"at"`
	Via     []Via           `json:"via,omitempty"`
	Matches bool            `json:"matches"`
	Clauses []ClauseVerdict `json:"clauses,omitempty"` // empty: a rule without conditions matches always
}

// ClauseVerdict is what one condition came to. Clauses after one that does not hold are listed too.
type ClauseVerdict struct {
	Kind   string      `json:"kind"` // if, changes, exists; for only and except also refs, variables, kubernetes
	Text   string      `json:"text"` // as written
	At     Position    `json:"at"`
	Holds  bool        `json:"holds"`
	Detail string      `json:"detail"` // "matches src/main.go", "no diff is known for a tag, which counts as changed"
	Values []UsedValue `json:"values,omitempty"`
}

// UsedValue is a variable that a condition looked at.
type UsedValue struct {
	Name   string   `json:"name"`
	Set    bool     `json:"set"`
	Value  string   `json:"value,omitempty"` // masked where the variable is
	Origin string   `json:"origin,omitempty"`
	At     Position `json:"at,omitzero"`
}

// IsHidden tells whether a job of this name is a template that never runs.
func IsHidden(name string) bool { return strings.HasPrefix(name, ".") }
