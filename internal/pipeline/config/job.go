package config

import (
	"cmp"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"
	"unicode/utf8"

	"keelson.dev/keelson/internal/pipeline"
)

// keyword is how a keyword of a job is decoded, and how a job takes it from the defaults.
type keyword struct {
	decode  func(v value, j *pipeline.JobSpec)
	inherit func(j, from *pipeline.JobSpec) // nil: it has no default
	trigger bool                            // a job with trigger may have it
}

// keywords are those of jobs.
var keywords map[string]keyword

func init() { // it refers to itself through the functions
	keywords = map[string]keyword{
		"script":        {decode: func(v value, j *pipeline.JobSpec) { j.Script = v.script() }},
		"before_script": {decode: func(v value, j *pipeline.JobSpec) { j.BeforeScript = v.script() }, inherit: func(j, from *pipeline.JobSpec) { j.BeforeScript = from.BeforeScript }},
		"after_script":  {decode: func(v value, j *pipeline.JobSpec) { j.AfterScript = v.script() }, inherit: func(j, from *pipeline.JobSpec) { j.AfterScript = from.AfterScript }},
		"hooks":         {decode: decodeHooks, inherit: func(j, from *pipeline.JobSpec) { j.PreGet = from.PreGet }},
		"run":           {decode: func(v value, j *pipeline.JobSpec) { j.Run = v.steps() }},
		"trigger":       {decode: func(v value, j *pipeline.JobSpec) { j.Trigger = v.trigger() }, trigger: true},

		"image":    {decode: func(v value, j *pipeline.JobSpec) { j.Image = v.image() }, inherit: func(j, from *pipeline.JobSpec) { j.Image = from.Image }},
		"services": {decode: func(v value, j *pipeline.JobSpec) { j.Services = v.services() }, inherit: func(j, from *pipeline.JobSpec) { j.Services = from.Services }},
		"tags":     {decode: func(v value, j *pipeline.JobSpec) { j.Tags = v.tags() }, inherit: func(j, from *pipeline.JobSpec) { j.Tags = from.Tags }},

		"stage":     {decode: decodeStage, trigger: true},
		"extends":   {decode: func(value, *pipeline.JobSpec) {}, trigger: true}, // it has done its work
		"variables": {decode: func(v value, j *pipeline.JobSpec) { j.Vars = v.variables(jobVariables) }, trigger: true},
		"inherit":   {decode: decodeInherit, trigger: true},
		"inputs":    {decode: decodeInputs},

		"rules":  {decode: func(v value, j *pipeline.JobSpec) { j.Rules = v.rules(jobRules) }, trigger: true},
		"only":   {decode: func(v value, j *pipeline.JobSpec) { j.Only = v.policy() }, trigger: true},
		"except": {decode: func(v value, j *pipeline.JobSpec) { j.Except = v.policy() }, trigger: true},
		"when":   {decode: decodeWhen, trigger: true},
		"start_in": {decode: func(v value, j *pipeline.JobSpec) {
			j.StartIn = v.duration(7*24*time.Hour, "one week")
		}},
		"manual_confirmation": {decode: func(v value, j *pipeline.JobSpec) { j.ManualConfirmation = v.string() }, trigger: true},
		"allow_failure":       {decode: decodeAllowFailure, trigger: true},
		"retry":               {decode: func(v value, j *pipeline.JobSpec) { j.Retry = v.retry() }, inherit: func(j, from *pipeline.JobSpec) { j.Retry = from.Retry }},
		"timeout": {decode: func(v value, j *pipeline.JobSpec) {
			j.Timeout = v.duration(2629746*time.Second, "one month")
		}, inherit: func(j, from *pipeline.JobSpec) { j.Timeout = from.Timeout }},
		"interruptible":  {decode: decodeInterruptible, inherit: inheritInterruptible, trigger: true},
		"resource_group": {decode: func(v value, j *pipeline.JobSpec) { j.ResourceGroup = v.string() }, trigger: true},
		"parallel":       {decode: func(v value, j *pipeline.JobSpec) { j.Parallel = v.parallel() }, trigger: true},

		"needs":        {decode: func(v value, j *pipeline.JobSpec) { j.NeedSpecs = v.needs(jobNeeds) }, trigger: true},
		"dependencies": {decode: func(v value, j *pipeline.JobSpec) { j.Dependencies = v.strings() }},

		"artifacts":   {decode: func(v value, j *pipeline.JobSpec) { j.Artifacts = v.artifacts() }, inherit: func(j, from *pipeline.JobSpec) { j.Artifacts = from.Artifacts }},
		"cache":       {decode: func(v value, j *pipeline.JobSpec) { j.Caches = v.caches() }, inherit: func(j, from *pipeline.JobSpec) { j.Caches = from.Caches }},
		"environment": {decode: func(v value, j *pipeline.JobSpec) { j.Environment = v.environment() }, trigger: true},
		"release":     {decode: func(v value, j *pipeline.JobSpec) { j.Release = v.release() }},
		"coverage":    {decode: decodeCoverage},
		"pages":       {decode: decodePages},
		"publish":     {decode: decodePublish},

		"id_tokens": {decode: func(v value, j *pipeline.JobSpec) { j.IDTokens = v.idTokens() }, inherit: func(j, from *pipeline.JobSpec) { j.IDTokens = from.IDTokens }},
		"identity":  {decode: func(v value, j *pipeline.JobSpec) { j.Identity = v.oneOf("google_cloud") }, inherit: func(j, from *pipeline.JobSpec) { j.Identity = from.Identity }},
		"secrets":   {decode: func(v value, j *pipeline.JobSpec) { j.Secrets = v.secrets() }},
		"dast_configuration": {decode: func(v value, _ *pipeline.JobSpec) {
			v.fail(codeUnsupported, "config is not supported: its profiles are kept by GitLab")
		}},
	}
}

// kind is what a job does.
type kind int

const (
	notAJob kind = iota
	scriptJob
	triggerJob // starts another pipeline, or mirrors one
	brokenJob  // nothing, but is meant as a job; others may refer to it
)

// jobKind tells what a job does, and says so if it does nothing.
func (d *decoder) jobKind(v value) kind {
	has := func(key string) bool { return v.Get(key) != nil }
	switch {
	case v.Node == nil || v.Kind != Map:
		if hint, ok := misplaced[v.key()]; ok {
			v.hint(codeUnknown, hint, "config should implement the script:, run:, or trigger: keyword, found %s", v.described())
			return notAJob
		}
		topLevel := append([]string{"include", "stages", "default", "workflow", "variables"}, globals...)
		v.hint(codeJob, pipeline.DidYouMean(v.key(), topLevel), "config should implement the script:, run:, or trigger: keyword, found %s", v.described())
	case has("script") || has("run"):
		return scriptJob
	case has("trigger"):
		return triggerJob
	case d.incomplete || d.lacking[v.key()]: // its script may be in what is missing
		return brokenJob
	case has("needs"):
		return triggerJob
	default:
		hint, section := "a template that is not to run has a name with a dot before it: ."+v.key(), false
		if hint2, ok := misplaced[v.key()]; ok {
			hint, section = hint2, true
		} else if meant := pipeline.DidYouMean(v.key(), []string{"default", "workflow", "variables"}); meant != "" {
			hint, section = meant, true
		} else if meant := v.misspelled("script", "trigger"); meant != "" {
			hint = meant
		}
		v.hint(codeJob, hint, "config should implement the script:, run:, or trigger: keyword")
		if !section {
			return brokenJob
		}
	}
	return notAJob
}

// misspelled says which of a job's keys was meant to be one of these.
func (v value) misspelled(words ...string) string {
	for i := range v.Pairs {
		if s := pipeline.Nearest(v.Pairs[i].Key, words); s != "" && s != v.Pairs[i].Key {
			return "did you mean `" + s + "` with `" + v.Pairs[i].Key + "`?"
		}
	}
	return ""
}

// misplaced are keys of the top level that are no jobs for a known reason.
var misplaced = map[string]string{
	"types": "`types` is `stages` now",
	"type":  "did you mean `stages`?",
	"spec":  "put `spec` into a document of its own before the configuration, with a line `---` between them",
	"jobs":  "jobs stand at the top level themselves",
}

// jobHint says what was meant with an unknown key of a job.
func jobHint(key string) string {
	switch key {
	case "type":
		return "`type` is `stage` now"
	case "include", "stages", "default", "workflow":
		return "`" + key + "` stands at the top level, not in a job"
	}
	return pipeline.DidYouMean(key, jobWords())
}

var jobWords = sync.OnceValue(func() []string { return slices.Sorted(maps.Keys(keywords)) })

// decodeJob decodes a job with what it inherits.
func (d *decoder) decodeJob(v value, kind kind, j *pipeline.JobSpec) {
	name := v.key()
	j.Where, j.Via = make(map[string]pipeline.Text, len(v.Pairs)+8), v.via
	j.Name, j.Base, j.At, j.When = name, name, v.keyAt, pipeline.OnSuccess
	d.jobName(v)
	d.inherits = pipeline.Inherit{}
	for i := range v.Pairs {
		p := &v.Pairs[i]
		k, ok := keywords[p.Key]
		switch {
		case !ok && d.full(): // looking for what was meant takes time
		case !ok:
			v.unknownHint(*p, jobHint(p.Key))
		case kind == triggerJob && !k.trigger:
			v.unknownHint(*p, "a job with `trigger` starts another pipeline and runs nothing itself")
		default:
			d.keyword(v.child(p.Key, p.KeyAt, p.Value), j)
		}
	}
	if j.Stage == "" {
		j.Stage = "test"
	}
	names := defaultKeywords
	if kind == triggerJob {
		names = []string{"interruptible"}
	}
	d.inherit(v, j, d.inherits, names)
	switch kind {
	case triggerJob:
		checkTriggerJob(v, j)
	case scriptJob:
		checkScriptJob(v, j)
	}
	checkConflicts(v, j)
	finishJob(v, j)
}

// booleanKey explains a key with the name of a boolean.
const booleanKey = "YAML reads `yes`, `on`, `no` and `off` without quotes as true and false"

func (d *decoder) jobName(v value) {
	name := v.key()
	switch {
	case strings.TrimSpace(name) == "":
		v.fail(codeJob, "name can't be blank")
	case utf8.RuneCountInString(name) > maxJobName:
		v.d.report(pipeline.Error, codeJob, "jobs", "name is too long (maximum is 255 characters): "+quoted(name), "", v.keyAt, v.via)
	case name == "true" || name == "false":
		v.hint(codeJob, booleanKey, "is a name that GitLab keeps for itself")
	case name == "nil" || name == "pages:deploy":
		v.fail(codeJob, "is a name that GitLab keeps for itself")
	}
}

// finishJob works out what follows from several keywords.
func finishJob(v value, j *pipeline.JobSpec) {
	j.HasRules = v.Get("rules") != nil
	if j.OwnWhen != nil {
		j.When = *j.OwnWhen
	}
	switch {
	case j.OwnAllowFailure != nil:
		j.AllowFailure = *j.OwnAllowFailure
	case j.When == pipeline.Manual: // a gate that nobody has to open
		j.AllowFailure = pipeline.AllowFailure{Allowed: true}
	}
	if j.OwnInterruptible != nil {
		j.Interruptible = *j.OwnInterruptible
	}
	for _, n := range j.NeedSpecs {
		j.Needs = append(j.Needs, n.Need)
	}
	// A job that mirrors another pipeline keeps its stage's order.
	j.DAG = j.NeedSpecs != nil && !slices.ContainsFunc(j.NeedSpecs, isMirror)
	finishPages(v, j)
}

func isMirror(n pipeline.NeedSpec) bool { return n.Pipeline != "" && n.Job == "" }

// checkScriptJob checks what a job that runs something has to have.
func checkScriptJob(v value, j *pipeline.JobSpec) {
	script := v.field("script")
	if v.Get("run") == nil && (!script.set() || script.Kind == List && len(script.Items) == 0 || script.Kind == String && strings.TrimSpace(script.Text) == "") {
		script.fail(codeRequired, "can't be blank")
	}
	for _, n := range j.NeedSpecs {
		if isMirror(n) {
			needs := v.field("needs")
			needs.hint(codeConflict, "name a job of that pipeline too, or remove the script", "config uses invalid types: bridge")
			break
		}
	}
	delayed := j.OwnWhen != nil && *j.OwnWhen == pipeline.Delayed
	startIn := v.field("start_in")
	switch {
	case delayed && !startIn.set() && j.Rules == nil:
		v.field("when").hint(codeRequired, "add `start_in: 30 minutes`", "is delayed, and start_in should be a duration")
	case !delayed && startIn.set() && !v.field("rules").set():
		startIn.hint(codeConflict, "add `when: delayed`", "must be blank without `when: delayed`")
	}
	dependencies := v.field("dependencies")
	if len(j.Dependencies) == 0 || len(j.NeedSpecs) == 0 {
		return
	}
	if !slices.ContainsFunc(j.NeedSpecs, func(n pipeline.NeedSpec) bool { return n.Local() }) {
		dependencies.fail(codeConflict, "needs corresponding to dependencies must be from the same pipeline")
		return
	}
	for _, item := range dependencies.items() {
		if item.Node != nil && item.Kind == String && !slices.ContainsFunc(j.NeedSpecs, func(n pipeline.NeedSpec) bool { return n.Local() && n.Job == item.Text }) {
			item.fail(codeConflict, "the %s should be part of needs", item.Text)
		}
	}
}

// checkTriggerJob checks what a job that starts or mirrors another pipeline has to have.
func checkTriggerJob(v value, j *pipeline.JobSpec) {
	mirrors := 0
	for _, n := range j.NeedSpecs {
		switch {
		case isMirror(n):
			mirrors++
		case !n.Local():
			v.field("needs").fail(codeConflict, "config uses invalid types: cross_dependency")
		}
	}
	switch {
	case !v.field("trigger").set() && mirrors == 0:
		hint := cmp.Or(v.misspelled("script", "trigger"), "add a `script` or a `trigger`")
		v.hint(codeJob, hint, "config should contain either a trigger or a needs:pipeline")
	case mirrors > 1:
		v.field("needs").fail(codeLimit, "config should contain at most one bridge need")
	}
	if j.OwnWhen != nil && *j.OwnWhen == pipeline.Delayed {
		v.field("when").fail(codeValue, "should be one of: on_success, on_failure, always, manual, found `delayed`")
	}
	if parallel := v.field("parallel"); parallel.set() && parallel.Kind == Int {
		parallel.hint(codeValue, "use `parallel:matrix`", `config cannot use "parallel: <number>".`)
	}
	if allow := v.field("allow_failure"); allow.set() && allow.Kind == Map {
		allow.wrong("should be a boolean value")
	}
}

// exclusive are keywords that cannot be used together.
var exclusive = [][2]string{
	{"script", "trigger"}, {"run", "trigger"}, {"script", "run"}, {"before_script", "run"}, {"after_script", "run"},
}

func checkConflicts(v value, j *pipeline.JobSpec) {
	for _, keys := range exclusive {
		if j.Trigger == nil && j.Run == nil {
			break // one of them is in every pair
		}
		if v.Get(keys[0]) != nil && v.Get(keys[1]) != nil {
			v.d.report(pipeline.Error, codeConflict, v.place(), "config these keys cannot be used together: "+keys[0]+", "+keys[1], "", v.field(keys[1]).keyAt, v.field(keys[1]).via)
		}
	}
	if rules := v.field("rules"); rules.set() {
		for _, key := range []string{"only", "except", "start_in"} {
			if f := v.field(key); f.set() {
				v.d.report(pipeline.Error, codeConflict, v.place(), "config key may not be used with `rules`: "+key, rulesHint(key), f.keyAt, f.via)
			}
		}
		when := v.field("when")
		if when.set() && len(j.Rules) > 0 && !slices.ContainsFunc(j.Rules, func(r pipeline.Rule) bool { return r.When == "" }) {
			when.warn(codeNoEffect, "remove it, or the `when` of a rule", "has no effect: every rule has a `when` of its own")
		}
	}
}

func rulesHint(key string) string {
	if key == "start_in" {
		return "put it into the rule with `when: delayed`"
	}
	return "write it as a rule"
}

func decodeStage(v value, j *pipeline.JobSpec) {
	switch {
	case v.Kind == String:
		j.Stage = v.Text
	case v.Kind == List && len(v.Items) == 1 && v.Items[0] != nil && v.Items[0].Kind == String:
		v.hint(codeType, "remove the brackets", "config should be a string, found %s", v.described())
		j.Stage = v.Items[0].Text
	default:
		v.wrong("config should be a string")
		j.Stage = v.d.config.Stages[1] // one that there is
	}
}

func decodeWhen(v value, j *pipeline.JobSpec) {
	words := []string{"on_success", "on_failure", "always", "manual", "delayed"}
	if v.Kind == String && v.Text == string(pipeline.Never) {
		v.hint(codeValue, "only rules have `never`; a name with a dot before it hides a job", "should be one of: %s, found `never`", strings.Join(words, ", "))
		return
	}
	if when := pipeline.When(v.oneOf(words...)); when != "" {
		j.OwnWhen = &when
	}
}

func decodeAllowFailure(v value, j *pipeline.JobSpec) {
	switch v.Kind {
	case Bool:
		j.OwnAllowFailure = &pipeline.AllowFailure{Allowed: v.Bool}
	case Map:
		v.allow("exit_codes")
		codes := v.field("exit_codes").exitCodes()
		j.OwnAllowFailure = &pipeline.AllowFailure{Allowed: len(codes) > 0, ExitCodes: codes}
	default:
		v.wrong("should be a hash or a boolean value")
	}
}

func decodeInterruptible(v value, j *pipeline.JobSpec) {
	b := v.boolean()
	j.OwnInterruptible = &b
}

func inheritInterruptible(j, from *pipeline.JobSpec) { j.OwnInterruptible = from.OwnInterruptible }

func decodeInherit(v value, j *pipeline.JobSpec) {
	if !v.isMap("config should be a hash") {
		return
	}
	v.allow("default", "variables")
	v.d.inherits = v.field("default").inheritance(defaultKeywords)
	variables := v.field("variables")
	j.InheritVariables = variables.inheritance(nil)
	for _, item := range variables.items() {
		if item.Node != nil && item.Kind == String && !v.d.hasVariable(item.Text) {
			item.warn(codeNoEffect, pipeline.DidYouMean(item.Text, v.d.variableNames()), "the top level has no variable %s", quoted(item.Text))
		}
	}
}

func (d *decoder) hasVariable(name string) bool {
	return slices.ContainsFunc(d.config.Variables, func(s pipeline.VariableSpec) bool { return s.Name == name })
}

func (d *decoder) variableNames() []string {
	names := make([]string, len(d.config.Variables))
	for i := range names {
		names[i] = d.config.Variables[i].Name
	}
	return names
}

func decodeCoverage(v value, j *pipeline.JobSpec) {
	if v.Kind != String {
		v.wrong("config must be a regular expression with re2 syntax")
		return
	}
	v.regexp(v.Text)
	j.Coverage = v.Text
}

// retryReasons are what retry:when may name: those that GitLab documents first, and then all other reasons of failures.
var retryReasons = []string{
	"always", "unknown_failure", "script_failure", "api_failure", "stuck_or_timeout_failure", "stuck_pending_with_matching_runners",
	"stuck_pending_no_matching_runners", "no_updates_running", "no_updates_canceling", "server_timeout_running",
	"server_timeout_canceling", "runner_system_failure", "runner_configuration_error", "runner_external_dependency_failure",
	"runner_interrupted", "runner_unsupported", "runner_provisioning_timeout", "stale_schedule", "job_execution_timeout",
	"job_execution_server_timeout", "archived_failure", "unmet_prerequisites", "scheduler_failure", "data_integrity_failure",

	"missing_dependency_failure", "forward_deployment_failure", "user_blocked", "project_deleted", "ci_quota_exceeded",
	"pipeline_loop_detected", "no_matching_runner", "trace_size_exceeded", "builds_disabled", "environment_creation_failure",
	"deployment_rejected", "failed_outdated_deployment_job", "protected_environment_failure", "insufficient_bridge_permissions",
	"downstream_bridge_project_not_found", "invalid_bridge_trigger", "upstream_bridge_project_not_found",
	"insufficient_upstream_permissions", "bridge_pipeline_is_child_pipeline", "downstream_pipeline_creation_failed",
	"secrets_provider_not_found", "reached_max_descendant_pipelines_depth", "ip_restriction_failure",
	"reached_max_pipeline_hierarchy_size", "reached_downstream_pipeline_trigger_rate_limit", "duo_workflow_not_allowed",
	"job_router_failure", "job_token_expired",
}

func (v value) retry() pipeline.Retry {
	switch v.Kind {
	case Int:
		n, _ := v.integer(0, 2)
		return pipeline.Retry{Max: n}
	case Map:
	default:
		v.hint(codeType, v.quoteHint(), "config has to be either an integer or a hash, found %s", v.described())
		return pipeline.Retry{}
	}
	v.allow("max", "when", "exit_codes")
	var r pipeline.Retry
	if limit := v.field("max"); limit.set() {
		r.Max, _ = limit.integer(0, 2)
	}
	when := v.field("when")
	for _, reason := range when.stringsOrString() {
		if !slices.Contains(retryReasons, reason) {
			when.hint(codeValue, pipeline.DidYouMean(reason, retryReasons), "contains unknown values: %s", clip(reason))
			continue
		}
		r.When = append(r.When, reason)
	}
	r.ExitCodes = v.field("exit_codes").exitCodes()
	if len(r.ExitCodes) == 0 {
		r.ExitCodes = nil
	}
	return r
}

// maxTags bounds the tags of a job, as GitLab does.
const maxTags = 50

func (v value) tags() []string {
	if v.Kind != List {
		v.wrong("config should be an array of strings")
		return nil
	}
	items, ok := v.flat()
	if !ok {
		v.fail(codeType, "config should be an array of strings")
		return nil
	}
	tags := make([]string, 0, len(items))
	for _, item := range items {
		if item.Node == nil || item.Kind != String {
			item.wrong("config should be an array of strings")
			continue
		}
		if text := strings.TrimSpace(item.Text); text != "" && !slices.Contains(tags, text) {
			tags = append(tags, text)
		}
	}
	if len(tags) >= maxTags {
		v.fail(codeLimit, "config must be less than the limit of %d tags", maxTags)
		return nil
	}
	return tags
}
