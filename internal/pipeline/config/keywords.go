package config

// Support says how far Keelson follows GitLab with a keyword.
type Support string

// The kinds of support.
const (
	Supported Support = "supported"
	Differs   Support = "differs" // it does something else, or less, as the note says
	Refused   Support = "refused" // it is an error, as the note says
)

// Keyword is an entry of the table of keywords that lint and the documentation share.
type Keyword struct {
	Name    string // "artifacts:expire_in"
	In      string // where it stands: "file", "job", "default, job", …
	Support Support
	Note    string // one sentence; may be empty
}

const (
	inHeader  = "header"
	inFile    = "file"
	inJob     = "job"
	inDefault = "default, job"
	inTrigger = "job with trigger"
)

// Keywords is the table of keywords, in the order in which a reader looks for them. What stands below a keyword is listed where
// its support is another one, or where its bounds are worth telling.
func Keywords() []Keyword {
	return []Keyword{
		{"spec:inputs", inHeader, Supported, "With default, options, regex, type, description and rules."},
		{"spec:component", inHeader, Supported, ""},
		{"spec:include", inHeader, Supported, ""},

		{"include", inFile, Supported, "Local, project, remote, template and component; of templates there is a small set of our own. At most 150."},
		{"include:rules", inFile, Supported, "if, changes and exists."},
		{"include:inputs", inFile, Supported, ""},
		{"include:integrity", inFile, Supported, ""},
		{"stages", inFile, Supported, "`.pre` and `.post` are always around them."},
		{"default", inFile, Supported, "A job's own value takes the place of the default; they are never merged."},
		{"variables", "file, job", Supported, "A scalar counts as GitLab reads it (`yes` is `true`, `0755` is `493`); lint warns of those. At most 1,000 in one place."},
		{"variables:description", inFile, Supported, ""},
		{"variables:options", inFile, Supported, ""},
		{"variables:expand", "file, job", Supported, ""},
		{"workflow:name", inFile, Supported, ""},
		{"workflow:rules", inFile, Supported, ""},
		{"workflow:auto_cancel", inFile, Supported, ""},
		{"image, services, cache, before_script, after_script", inFile, Supported, "Deprecated at the top level, as in GitLab: use `default`."},
		{"types", inFile, Refused, "GitLab has removed it: `stages`."},

		{"script", inJob, Supported, "A text or a list, with lists in it up to 10 levels deep."},
		{"before_script", inDefault, Supported, ""},
		{"after_script", inDefault, Supported, ""},
		{"hooks:pre_get_sources_script", inDefault, Supported, ""},
		{"run", inJob, Differs, "Steps with `script` run; steps that are kept elsewhere (`step`, `func`) fail by name."},
		{"stage", inJob, Supported, ""},
		{"extends", inJob, Supported, "At most 10 levels."},
		{"inherit", inJob, Supported, "`default` and `variables`: a boolean or a list."},
		{"inputs", inJob, Differs, "They are checked, but not put into scripts."},

		{"image", inDefault, Differs, "The shell executor has no containers: it runs the script in the machine's own tools, and says so. `ports` is refused."},
		{"services", inDefault, Differs, "The shell executor refuses a job with services by name. `ports` is refused."},
		{"tags", inDefault, Supported, "Fewer than 50. A local run takes every job."},

		{"rules", inJob, Supported, "if, changes, exists, when, start_in, allow_failure, variables, needs and interruptible; lists in it up to 10 levels deep. At most 50 paths in changes and exists."},
		{"only, except", inJob, Supported, "refs, variables, changes and kubernetes. Not together with `rules`."},
		{"when", inJob, Supported, ""},
		{"start_in", inJob, Supported, "At most one week."},
		{"manual_confirmation", inJob, Differs, "Kept; `--manual` asks nobody."},
		{"allow_failure", inJob, Supported, "With exit_codes."},
		{"retry", inDefault, Supported, "max (0 to 2), when and exit_codes."},
		{"timeout", inDefault, Supported, "At most one month."},
		{"interruptible", inDefault, Supported, ""},
		{"resource_group", inJob, Supported, "Within a local run."},
		{"parallel", inJob, Supported, "1 to 200, or a matrix of at most 200."},

		{"needs", inJob, Supported, "Also optional, artifacts and parallel:matrix. At most 50."},
		{"needs:project", inJob, Differs, "Artifacts of another project are there on a server only."},
		{"needs:pipeline", inJob, Differs, "Artifacts of another pipeline are there on a server only."},
		{"dependencies", inJob, Supported, ""},

		{"artifacts", inDefault, Supported, ""},
		{"artifacts:reports", inDefault, Differs, "`dotenv` and `junit` are read; reports of other kinds are kept as files."},
		{"artifacts:expose_as", inDefault, Differs, "Checked and kept; there are no merge requests to show it in."},
		{"cache", inDefault, Supported, "Up to 4, with 5 fallback_keys and 2 files in a key."},
		{"environment", inJob, Differs, "name, url, on_stop, action, auto_stop_in and deployment_tier count for variables and checks; a local run records no deployment, an [instance](environments.md) does."},
		{"environment:kubernetes", inJob, Differs, "Checked and kept; the agent is GitLab's."},
		{"release", inJob, Differs, "Checked and kept; a local run makes no release, and the log says so."},
		{"coverage", inJob, Supported, "A regular expression with RE2 syntax between slashes."},
		{"pages", inJob, Differs, "The site is kept as an artifact; nothing is published."},
		{"publish", inJob, Differs, "Deprecated: use `pages:publish`."},

		{"trigger:include", inTrigger, Supported, "A child pipeline of at most 3 files, also of an artifact; with strategy, forward and inputs."},
		{"trigger:project", inTrigger, Differs, "Checked and compiled; a local run fails the job by name."},

		{"id_tokens", inDefault, Differs, "Checked and kept; nobody signs tokens in a local run: the variables are not set, and the log says so."},
		{"identity", inDefault, Differs, "Checked and kept; a local run has no identity of a cloud."},
		{"secrets", inJob, Differs, "Checked for all providers and kept; a local run fetches none: the variables are not set, and the log says so."},
		{"dast_configuration", inJob, Refused, "Its profiles are kept by GitLab."},
		{"type", inJob, Refused, "GitLab has removed it: `stage`."},
	}
}
