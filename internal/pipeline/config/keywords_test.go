package config

import (
	"slices"
	"strings"
	"testing"
)

// TestKeywords: the table tells of every keyword that is decoded, and of no other.
func TestKeywords(t *testing.T) {
	listed := map[string][]string{} // the first part of each name -> where it stands
	for _, k := range Keywords() {
		if k.Support != Supported && k.Note == "" {
			t.Errorf("%s: no word about why it is %s", k.Name, k.Support)
		}
		for name := range strings.SplitSeq(k.Name, ", ") {
			name, _, _ = strings.Cut(name, ":")
			listed[name] = append(listed[name], strings.Split(k.In, ", ")...)
		}
	}
	in := func(name string, places ...string) bool {
		return slices.ContainsFunc(listed[name], func(p string) bool { return slices.Contains(places, p) })
	}
	for name := range keywords {
		if !in(name, inJob, inTrigger) {
			t.Errorf("%s of jobs is not listed", name)
		}
		if got, want := in(name, "default"), slices.Contains(defaultKeywords, name); got != want {
			t.Errorf("%s: listed for default %v, decoded there %v", name, got, want)
		}
		if got, want := keywords[name].inherit != nil, slices.Contains(defaultKeywords, name); got != want {
			t.Errorf("%s: inherited %v, listed as a default %v", name, got, want)
		}
	}
	for _, name := range slices.Concat(globals, []string{"include", "stages", "default", "variables", "workflow"}) {
		if !in(name, inFile) {
			t.Errorf("%s of files is not listed", name)
		}
	}
	for name, places := range listed {
		if _, ok := keywords[name]; !ok && slices.Contains(places, inJob) && name != "type" {
			t.Errorf("%s is listed for jobs, and not decoded", name)
		}
	}
}
