package pipeline

import "time"

// The sources of a pipeline, as CI_PIPELINE_SOURCE has them.
const (
	SourcePush         = "push"
	SourceWeb          = "web"
	SourceTrigger      = "trigger"
	SourceSchedule     = "schedule"
	SourceAPI          = "api"
	SourceMergeRequest = "merge_request_event"
	SourceParent       = "parent_pipeline"
	SourcePipeline     = "pipeline"
)

// Context is the event that a pipeline is compiled for, and where it happens.
type Context struct {
	Source    string
	Ref       string // the short name of a branch or a tag
	Tag       bool   // Ref is a tag
	Protected bool   // Ref is protected
	Commit    Commit
	// IgnoreSkip makes a pipeline although the commit message says [skip ci].
	IgnoreSkip bool
	Before     string // the commit that Ref named before a push; empty or zeroes: a new ref
	// MergeRequest is set for merge_request_event only.
	MergeRequest *MergeRequest
	// OpenMergeRequests name those of the branch ("group/name!1"), the newest first; nil: those of MergeRequest.
	OpenMergeRequests []string
	Schedule          string // a schedule's description
	Upstream          *Upstream

	Project Project
	Server  Server
	User    User
	// PipelineID and PipelineIID number the pipeline: in the whole instance, and in the project.
	PipelineID, PipelineIID int64
	Now                     time.Time

	// Changes are the paths that the event changes; nil: no diff is known, which rules take as "everything".
	Changes []string
	// ChangesSince gives the paths that have changed since another ref (changes:compare_to); nil: no ref is known.
	ChangesSince func(ref string) ([]string, error)
	// Tree holds all paths of the commit, or of the working tree, for exists; nil: none.
	Tree Tree

	// Variables from outside of the files, each list in the order of precedence.
	Instance, Group, ProjectVars, Pipeline Variables
	// Inputs for spec:inputs of the first file.
	Inputs map[string]Input
	// Deployment gives the variables of an environment's deployment (KUBE_NAMESPACE …), and those of Project that are
	// scoped to environments have been picked before. Nil: none.
	Deployment func(environment string) Variables
	Kubernetes bool // CI_KUBERNETES_ACTIVE, only:kubernetes
}

// Tree is a set of paths, slash-separated and without a leading slash.
type Tree interface {
	// Paths gives all files in any order. The caller does not change the list.
	Paths() []string
	// Of gives the tree of another project at a ref; an error names what is missing.
	Of(project, ref string) (Tree, error)
}

// Commit is what is known of a commit.
type Commit struct {
	SHA         string
	Message     string // title, blank line, description
	AuthorName  string
	AuthorEmail string
	Timestamp   time.Time
	TagMessage  string // of an annotated tag
}

// MergeRequest is what is known of a merge request.
type MergeRequest struct {
	ID, IID                        int64
	Title, Description             string
	SourceBranch, TargetBranch     string
	SourceSHA, TargetSHA, DiffBase string
	SourceProject                  string // path
	Labels                         []string
	Assignees                      []string
	Milestone                      string
	Draft                          bool
	SourceProtected                bool
	TargetProtected                bool
	EventType                      string // detached (also empty), merged_result, merge_train
	Approved                       bool
	SquashOnMerge                  bool
}

// Upstream is the pipeline that started this one.
type Upstream struct {
	PipelineID, ProjectID, JobID int64
	Depth                        int // 1 for a child, 2 for a child's child
}

// Project is the repository's project.
type Project struct {
	ID            int64
	NamespaceID   int64
	Path          string // group/sub/name
	Title         string
	Description   string
	Visibility    string // private, internal, public
	URL           string // of its page
	CloneURL      string // without credentials
	DefaultBranch string
	Languages     []string
	ConfigPath    string // .gitlab-ci.yml
	Registry      string // host[:port] of the container registry; empty: none
}

// Server is the instance.
type Server struct {
	URL     string // https://host[:port]
	Version string
}

// User is who started the pipeline.
type User struct {
	ID                 int64
	Login, Name, Email string
}
