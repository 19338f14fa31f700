package pipeline

import "time"

// When says on which outcome of the jobs before it a job runs.
type When string

// The values of when.
const (
	OnSuccess When = "on_success"
	OnFailure When = "on_failure"
	Always    When = "always"
	Manual    When = "manual"
	Delayed   When = "delayed"
	Never     When = "never"
)

// The stages that every pipeline has around its own.
const (
	StagePre  = ".pre"
	StagePost = ".post"
)

// Job is a job as the pipeline runs it: defaults, extends, rules and parallel are applied. Texts that the runner expands (image,
// services, cache keys and paths, artifact names and paths) still hold their variables.
type Job struct {
	Name  string   `json:"name"` // unique in the graph: "test: [linux, arm64]", "test 1/3"
	Base  string   `json:"base"` // its name in the file
	Stage string   `json:"stage"`
	At    Position `json:"at"`

	// Scripts are lists of commands; each may have several lines. A job has either a Script, a Run or a Trigger.
	BeforeScript []string `json:"beforeScript,omitempty"`
	Script       []string `json:"script,omitempty"`
	AfterScript  []string `json:"afterScript,omitempty"`
	PreGet       []string `json:"preGetSources,omitempty"` // hooks:pre_get_sources_script
	Run          []Step   `json:"run,omitempty"`
	Trigger      *Trigger `json:"trigger,omitempty"`

	Image    *Image    `json:"image,omitempty"`
	Services []Service `json:"services,omitempty"`
	Tags     []string  `json:"tags,omitempty"`

	// Variables are all that the job sees, the predefined ones included, in the order of precedence: of two with one name the
	// later one counts. Those that are known only when the job starts (CI_JOB_ID, CI_JOB_STARTED_AT, dotenv reports of its
	// needs) are added then.
	Variables Variables `json:"variables,omitempty"`

	When               When         `json:"when"`
	StartIn            Duration     `json:"startIn,omitempty"`
	ManualConfirmation string       `json:"manualConfirmation,omitempty"`
	AllowFailure       AllowFailure `json:"allowFailure,omitzero"`
	Retry              Retry        `json:"retry,omitzero"`
	Timeout            Duration     `json:"timeout,omitempty"` // 0: the executor's default, one hour
	Interruptible      bool         `json:"interruptible,omitempty"`
	ResourceGroup      string       `json:"resourceGroup,omitempty"`

	// Needs are the jobs that it waits for when DAG is set; DAG without needs waits for nothing. Without DAG it waits for all
	// earlier stages.
	DAG   bool   `json:"dag,omitempty"`
	Needs []Need `json:"needs,omitempty"`
	// Dependencies narrow whose artifacts are taken; nil: those of Needs, or of all jobs of earlier stages.
	Dependencies []string `json:"dependencies"`

	Artifacts   *Artifacts          `json:"artifacts,omitempty"`
	Caches      []Cache             `json:"caches,omitempty"`
	Environment *Environment        `json:"environment,omitempty"`
	Release     *Release            `json:"release,omitempty"`
	Coverage    string              `json:"coverage,omitempty"` // a regexp with its slashes
	Pages       *Pages              `json:"pages,omitempty"`
	IDTokens    map[string][]string `json:"idTokens,omitempty"` // variable -> audiences
	Secrets     map[string]Secret   `json:"secrets,omitempty"`  // variable -> where it is kept
	Identity    string              `json:"identity,omitempty"` // of the job to a cloud: google_cloud

	Node   Node `json:"node,omitzero"`    // which of several parallel instances it is
	Matrix []KV `json:"matrix,omitempty"` // its values of parallel:matrix, in the order of the file
}

// Node numbers one of several instances of a parallel job, from 1. Total is 0 where the job is not parallel.
type Node struct {
	Index int `json:"index,omitempty"`
	Total int `json:"total,omitempty"`
}

// KV is a name with a value.
type KV struct {
	Key   string `json:"key"`
	Value string `json:"value"`
}

// Duration is a time.Duration that is written as Go writes it ("1h0m0s").
type Duration time.Duration

// MarshalText writes it as Go does.
func (d Duration) MarshalText() ([]byte, error) { return []byte(time.Duration(d).String()), nil }

// UnmarshalText reads what MarshalText wrote.
func (d *Duration) UnmarshalText(text []byte) error {
	v, err := time.ParseDuration(string(text))
	*d = Duration(v)
	return err
}

// Step is an item of run.
type Step struct {
	Name   string            `json:"name,omitempty"`
	Script string            `json:"script,omitempty"`
	Step   string            `json:"step,omitempty"` // a reference to a step that is kept elsewhere
	Env    map[string]string `json:"env,omitempty"`
	Inputs map[string]any    `json:"inputs,omitempty"`
}

// AllowFailure says which failures of a job do not fail the pipeline.
type AllowFailure struct {
	Allowed   bool  `json:"allowed,omitempty"`
	ExitCodes []int `json:"exitCodes,omitempty"` // with Allowed: only these; empty: every failure
}

// Allows tells whether a failure with this exit code is allowed; code is negative where the script did not get so far.
func (a AllowFailure) Allows(code int) bool {
	if !a.Allowed || len(a.ExitCodes) == 0 {
		return a.Allowed
	}
	for _, c := range a.ExitCodes {
		if c == code {
			return true
		}
	}
	return false
}

// Retry says how often a failed job is run again by itself.
type Retry struct {
	Max       int      `json:"max,omitempty"`       // 0, 1 or 2
	When      []string `json:"when,omitempty"`      // failure reasons; empty: every one, unless there are ExitCodes
	ExitCodes []int    `json:"exitCodes,omitempty"` // of the script
}

// Need is a job whose end another one waits for.
type Need struct {
	Job       string `json:"job"` // a name in the graph, after parallel has been expanded
	Artifacts bool   `json:"artifacts"`
	Optional  bool   `json:"optional,omitempty"`
	Project   string `json:"project,omitempty"` // with Ref: the last successful pipeline of another project; artifacts only
	Ref       string `json:"ref,omitempty"`
	Pipeline  string `json:"pipeline,omitempty"` // another pipeline: its artifacts, or without Job its status
}

// Local tells whether the need is a job of the same graph.
func (n Need) Local() bool { return n.Project == "" && n.Pipeline == "" }

// Image is a container image that a job runs in.
type Image struct {
	Name       string         `json:"name"`
	Entrypoint []string       `json:"entrypoint,omitempty"`
	PullPolicy []string       `json:"pullPolicy,omitempty"`
	Docker     map[string]any `json:"docker,omitempty"`     // platform, user
	Kubernetes map[string]any `json:"kubernetes,omitempty"` // user
}

// Service is a container that runs beside a job.
type Service struct {
	Image
	Alias     string    `json:"alias,omitempty"`
	Command   []string  `json:"command,omitempty"`
	Variables Variables `json:"variables,omitempty"`
	At        Position  `json:"at,omitzero"`
}

// Artifacts is what a job leaves behind for others.
type Artifacts struct {
	Name      string              `json:"name,omitempty"`
	ExposeAs  string              `json:"exposeAs,omitempty"`
	Paths     []string            `json:"paths,omitempty"`
	Exclude   []string            `json:"exclude,omitempty"`
	Untracked bool                `json:"untracked,omitempty"`
	When      When                `json:"when,omitempty"`   // on_success (also empty), on_failure, always
	Access    string              `json:"access,omitempty"` // all (also empty), developer, maintainer, none
	ExpireIn  Duration            `json:"expireIn,omitempty"`
	Forever   bool                `json:"forever,omitempty"` // expire_in: never
	Reports   map[string][]string `json:"reports,omitempty"` // kind (junit, dotenv, …) -> paths
	Coverage  string              `json:"coverageFormat,omitempty"`
}

// Cache is a set of files that later jobs find again.
type Cache struct {
	Key          string   `json:"key,omitempty"` // with its variables; empty with KeyFiles, else "default"
	KeyFiles     []string `json:"keyFiles,omitempty"`
	KeyCommits   []string `json:"keyCommits,omitempty"` // key:files_commits
	KeyPrefix    string   `json:"keyPrefix,omitempty"`
	FallbackKeys []string `json:"fallbackKeys,omitempty"`
	Paths        []string `json:"paths,omitempty"`
	Untracked    bool     `json:"untracked,omitempty"`
	Policy       string   `json:"policy,omitempty"` // pull-push (also empty), pull, push or a variable
	When         When     `json:"when,omitempty"`   // on_success (also empty), on_failure, always
	Unprotect    bool     `json:"unprotect,omitempty"`
}

// Environment is where a job deploys to. Name, URL and OnStop are expanded.
type Environment struct {
	Name       string         `json:"name"`
	Slug       string         `json:"slug,omitempty"`
	URL        string         `json:"url,omitempty"`
	RawURL     string         `json:"rawUrl,omitempty"` // as it is written, where it has variables: the job's report may set them anew
	OnStop     string         `json:"onStop,omitempty"`
	Action     string         `json:"action,omitempty"` // start (also empty), prepare, stop, verify, access
	AutoStopIn string         `json:"autoStopIn,omitempty"`
	Tier       string         `json:"tier,omitempty"` // production, staging, testing, development, other
	Kubernetes map[string]any `json:"kubernetes,omitempty"`
}

// Release is made when the job has succeeded.
type Release struct {
	TagName     string   `json:"tagName"`
	TagMessage  string   `json:"tagMessage,omitempty"`
	Name        string   `json:"name,omitempty"`
	Description string   `json:"description"`
	Ref         string   `json:"ref,omitempty"`
	Milestones  []string `json:"milestones,omitempty"`
	ReleasedAt  string   `json:"releasedAt,omitempty"`
	Links       []Link   `json:"links,omitempty"`
}

// Link is an asset of a release.
type Link struct {
	Name     string `json:"name"`
	URL      string `json:"url"`
	FilePath string `json:"filePath,omitempty"`
	LinkType string `json:"linkType,omitempty"`
}

// Pages is a static site that a job publishes.
type Pages struct {
	Publish    string `json:"publish,omitempty"` // the directory; empty: public
	PathPrefix string `json:"pathPrefix,omitempty"`
	ExpireIn   string `json:"expireIn,omitempty"`
}

// Secret says where a secret is kept outside. Provider is the keyword (vault, gcp_secret_manager, …), Spec what stands under it.
type Secret struct {
	Provider string `json:"provider"`
	Spec     any    `json:"spec,omitempty"`
	File     bool   `json:"file"`
	Token    string `json:"token,omitempty"`
}

// Trigger starts another pipeline.
type Trigger struct {
	Project  string           `json:"project,omitempty"` // a multi-project pipeline; empty: a child pipeline
	Branch   string           `json:"branch,omitempty"`
	Include  []Include        `json:"include,omitempty"`
	Strategy string           `json:"strategy,omitempty"` // depend, mirror; empty: it succeeds once the other is made
	Inputs   map[string]Input `json:"inputs,omitempty"`
	// What the other pipeline is given: the YAML variables (unless switched off), and the pipeline variables (where asked).
	ForwardYAML     bool `json:"forwardYAMLVariables"`
	ForwardPipeline bool `json:"forwardPipelineVariables,omitempty"`
}

// Include names a configuration file. One of Local, Project with File, Remote, Template, Component and Artifact with Job is set.
type Include struct {
	Local     string           `json:"local,omitempty"`
	Project   string           `json:"project,omitempty"`
	Ref       string           `json:"ref,omitempty"`
	File      string           `json:"file,omitempty"`
	Remote    string           `json:"remote,omitempty"`
	Integrity string           `json:"integrity,omitempty"` // of a remote file: "sha256-" and base64
	Template  string           `json:"template,omitempty"`
	Component string           `json:"component,omitempty"` // host/project/name@version
	Artifact  string           `json:"artifact,omitempty"`
	Job       string           `json:"job,omitempty"`
	Inputs    map[string]Input `json:"inputs,omitempty"`
	At        Position         `json:"at"`
}

// Input is a value for spec:inputs: a string, a number (json.Number's text), a boolean or a list.
type Input struct {
	Value any      `json:"value"` // string, bool, int64, float64, []any
	At    Position `json:"at,omitzero"`
}
