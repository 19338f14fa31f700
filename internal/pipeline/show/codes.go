package show

import (
	"maps"
	"slices"
	"strings"
)

// descriptions say in a sentence what a problem's code stands for. docs/pipelines.md has the same table.
var descriptions = map[string]string{
	"unmaskable-variable": "A variable is to be masked, and GitLab would not mask it.",
	"variables-file":      "The variables file is not what it should be.",
}

// Describe says what a problem's code stands for.
func Describe(code string) string {
	if text, ok := descriptions[code]; ok {
		return text
	}
	text := strings.ReplaceAll(code, "-", " ")
	if text == "" {
		return "A problem of the configuration."
	}
	return strings.ToUpper(text[:1]) + text[1:] + "."
}

// Codes lists the codes that are described, sorted.
func Codes() []string { return slices.Sorted(maps.Keys(descriptions)) }
