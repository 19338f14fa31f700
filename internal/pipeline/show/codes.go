package show

import (
	"maps"
	"slices"
	"strings"
)

// descriptions say in a sentence what a problem's code stands for. docs/pipelines.md has the same table.
var descriptions = map[string]string{
	"empty-file":                  "A file holds no configuration.",
	"invalid-format":              "A file is YAML, but no configuration.",
	"ignored-document":            "A file has more documents than the header and the configuration.",
	"yaml-syntax":                 "The text is no YAML.",
	"yaml-encoding":               "The text is not UTF-8, or holds characters that YAML does not allow.",
	"yaml-too-large":              "There is more in the files than is read: bytes, values, or what aliases and references make of them.",
	"yaml-too-deep":               "Lists and maps are too deep within each other.",
	"yaml-alias":                  "An alias names no anchor of its file, or is within what it stands for.",
	"yaml-merge":                  "`<<` takes a map or a list of maps.",
	"yaml-key":                    "A key is a list or a map.",
	"yaml-tag":                    "A YAML tag means nothing here; the only one is `!reference`.",
	"yaml-date":                   "A value is a date to YAML.",
	"duplicate-key":               "A key is there twice; the last one counts.",
	"duplicate-name":              "Two jobs get the same name, as instances of `parallel` do that have the same values; the last one counts.",
	"merge-overrides":             "`<<` stands below keys that it replaces.",
	"changed-scalar":              "A value without quotes is something else to GitLab: `yes` is `true`, `012` is `10`.",
	"invalid-include":             "An include is not written as it has to be.",
	"include-not-found":           "An included file is not there, or cannot be fetched.",
	"include-nothing":             "A wildcard of an include names no file.",
	"include-loop":                "A file includes itself, directly or through others.",
	"include-integrity":           "A remote file has another hash than `integrity` says.",
	"too-many-includes":           "More files are included than is allowed.",
	"invalid-spec":                "The header `spec` of a file is not as it has to be.",
	"invalid-input":               "A value for an input is missing, is of another type, or is not allowed.",
	"literal-interpolation":       "`$[[ … ]]` stays as it is, since the file declares no inputs.",
	"unknown-extends":             "`extends` names a job that is not there.",
	"invalid-extends":             "`extends` is no name or names what is no job.",
	"extends-cycle":               "Jobs extend each other in a circle.",
	"extends-too-deep":            "Too many jobs extend each other.",
	"invalid-reference":           "`!reference` is not a list of names.",
	"reference-not-found":         "`!reference` names what is not there.",
	"reference-cycle":             "References lead back to themselves.",
	"reference-too-deep":          "Too many references lead to each other.",
	"unknown-keyword":             "A keyword does not exist, at least not there.",
	"wrong-type":                  "A keyword has a text where a list has to be, or the like.",
	"invalid-value":               "A keyword has a value that it does not take.",
	"invalid-job":                 "An entry of the top level is no job: it is no map, or has nothing to run.",
	"missing-keyword":             "A keyword is missing that another one wants.",
	"conflicting-keywords":        "Two keywords cannot be there together.",
	"limit-exceeded":              "Something is longer, deeper or more than GitLab allows.",
	"invalid-duration":            "A duration cannot be read.",
	"invalid-regexp":              "A regular expression cannot be read.",
	"invalid-expression":          "The expression of a rule cannot be read.",
	"deprecated-keyword":          "A keyword still works, and another one has taken its place.",
	"not-supported":               "Keelson does not do this.",
	"no-effect":                   "A keyword does nothing here.",
	"variable-name":               "The name of a variable is not one that a shell takes.",
	"unknown-stage":               "A job is in a stage that `stages` does not list.",
	"undefined-need":              "A need names a job that is not there.",
	"undefined-dependency":        "`dependencies` or `trigger:include` names a job that is not there.",
	"dependency-in-later-stage":   "A job takes artifacts of one of a later stage.",
	"duplicate-need":              "A need is there twice.",
	"need-in-later-stage":         "A job needs one of a later stage.",
	"needs-cycle":                 "Jobs need each other in a circle.",
	"need-missing":                "A job needs one that does not run for this event.",
	"too-many-parallel":           "A job runs in more instances than is allowed.",
	"unknown-matrix-variable":     "`needs:parallel:matrix` names a variable that the matrix does not have.",
	"pipeline-too-large":          "There are more jobs, needs or variables than is allowed.",
	"child-too-deep":              "Child pipelines are too deep within each other.",
	"rule-failed":                 "A rule cannot be decided for this event, as `compare_to` names no ref.",
	"variables-cycle":             "Variables refer to each other in a circle.",
	"environment-name":            "The name of an environment holds what is not allowed, or nothing.",
	"on-stop-undefined":           "`on_stop` names a job that is not there.",
	"on-stop-without-environment": "The job of `on_stop` has no environment.",
	"on-stop-other-environment":   "The job of `on_stop` has another environment.",
	"on-stop-without-action":      "The job of `on_stop` lacks `action: stop`.",
	"manual-blocks":               "`when: manual` in a rule holds up the pipeline until somebody plays the job; at the job it would not.",
	"gate-passed":                 "A deployment with `needs: []` does not wait for the gate before it.",
	"optional-gate":               "A job needs an optional manual one: nobody plays it, and the job is skipped.",
	"on-failure-skipped":          "An `on_failure` job needs one that is skipped when another fails, and is skipped with it.",
	"need-may-be-missing":         "A job runs for events for which one that it needs does not, and then there is no pipeline at all.",
	"duplicate-pipelines":         "A push to a branch with a merge request makes two pipelines.",
	"changes-always-true":         "`changes` is true where no diff is known: tags, schedules, pipelines started by hand, new branches.",
	"unreachable-rule":            "A rule comes after one that always matches.",
	"never-runs":                  "No event makes the job, or the pipeline, run.",
	"never-true":                  "A condition never holds.",
	"unknown-source":              "CI_PIPELINE_SOURCE is compared with what it never is.",
	"variable-not-in-rules":       "A rule looks at a variable that is set only once the job runs.",
	"text-as-pattern":             "`=~` with a text looks for the left side in it, which is seldom meant.",
	"stop-not-manual":             "The job that stops an environment runs in the pipeline that starts it.",
	"tag-without-rules":           "A tag has a variable that `rules:variables` sets, which tags do not see.",
	"service-port":                "Two services listen on one port; on Kubernetes they share an address.",
	"service-alias":               "Two services have one alias.",
	"secret-in-variable":          "A value looks like a credential, and is in the repository.",
	"many-needs":                  "A job has more needs than GitLab allows by default.",
	"unmaskable-variable":         "A variable is to be masked, and GitLab would not mask it.",
	"variables-file":              "The variables file is not what it should be.",
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
