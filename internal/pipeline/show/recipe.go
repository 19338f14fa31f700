package show

import (
	"fmt"
	"io"
	"slices"
	"strconv"
	"time"

	"keelson.dev/keelson/internal/pipeline"
)

// Setting is a variable as anybody may see it: the values of masked and protected ones are not in it.
type Setting struct {
	Name   string `json:"name"`
	Value  string `json:"value"`
	Hidden string `json:"hidden,omitempty"` // why there is no value: masked, protected, or where it is kept

	Origin    string `json:"origin,omitempty"`
	At        string `json:"at,omitempty"`    // where a file sets it
	Scope     string `json:"scope,omitempty"` // the environments that it is for
	Raw       bool   `json:"raw,omitempty"`
	File      bool   `json:"file,omitempty"`
	Masked    bool   `json:"masked,omitempty"`
	Protected bool   `json:"protected,omitempty"`
}

// Variable is the variable of a setting, with a value that somebody gives.
func (s Setting) Variable(value string) pipeline.Variable {
	return pipeline.Variable{
		Name: s.Name, Value: value, Raw: s.Raw, File: s.File, Masked: s.Masked, Protected: s.Protected, Scope: s.Scope, Origin: s.Origin,
	}
}

// Settings are variables as anybody may see them, in their order. What hides in the masked ones is hidden in all of them; secrets are more
// such values.
func Settings(variables pipeline.Variables, secrets ...string) []Setting {
	out := make([]Setting, 0, len(variables))
	for _, v := range withoutSecrets(variables, slices.Concat(Secrets(variables), secrets)) {
		s := Setting{
			Name: v.Name, Value: v.Value, Origin: v.Origin, Scope: v.Scope, Raw: v.Raw, File: v.File, Masked: v.Masked, Protected: v.Protected,
		}
		if v.At != (pipeline.Position{}) {
			s.At = v.At.String()
		}
		switch {
		case v.Masked:
			s.Value, s.Hidden = "", "masked"
		case v.Protected:
			s.Value, s.Hidden = "", "protected"
		}
		out = append(out, s)
	}
	return out
}

// Recipe is what a pipeline was made from: the event, and the variables and inputs from outside of its files.
type Recipe struct {
	Pipeline  int64     `json:"pipeline"`
	IID       int64     `json:"iid"`
	Created   time.Time `json:"created"`
	Project   string    `json:"project"` // path
	ProjectID int64     `json:"projectID"`
	Source    string    `json:"source"` // CI_PIPELINE_SOURCE
	Ref       string    `json:"ref"`    // full
	SHA       string    `json:"sha"`
	Before    string    `json:"before,omitempty"` // what the ref named before
	User      string    `json:"user,omitempty"`
	Schedule  string    `json:"schedule,omitempty"` // its description

	Protected     bool   `json:"protected"` // the ref
	DefaultBranch string `json:"defaultBranch"`
	ConfigPath    string `json:"configPath"`
	Server        string `json:"server"`   // CI_SERVER_URL
	CloneURL      string `json:"cloneURL"` // without credentials

	// Settings are the variables of the instance, the group and the project, as the jobs have had them; Variables are the pipeline's.
	Settings  []Setting                 `json:"settings,omitempty"`
	Variables []Setting                 `json:"variables,omitempty"`
	Inputs    map[string]pipeline.Input `json:"inputs,omitempty"`
}

// SettingsTable writes settings, one in a line.
func SettingsTable(out io.Writer, settings []Setting) error {
	w := &writer{w: out}
	width := 0
	for _, s := range settings {
		width = max(width, min(40, len(s.Name)))
	}
	for _, s := range settings {
		value := strconv.Quote(s.Value)
		if s.Hidden != "" {
			value = "[" + Plain(s.Hidden) + "]"
		}
		if s.File {
			value += " in a file"
		}
		from := s.Origin
		if s.At != "" {
			from += ", " + s.At
		}
		if s.Scope != "" && s.Scope != "*" {
			from += ", for " + s.Scope
		}
		w.printf("%s  (%s)\n", fmt.Sprintf("%-*s  %s", width, Plain(s.Name), value), Plain(from))
	}
	return w.err
}
