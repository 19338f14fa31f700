package compile

import (
	"cmp"
	"net/url"
	"path"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"keelson.dev/keelson/internal/pipeline"
)

// The predefined variables are GitLab's (doc/ci/variables/predefined_variables.md). There are three kinds by when they are known:
//
//	before the pipeline  [ConfigVariables]: include and workflow:rules see them
//	with the job         [predefinedJob]: its rules see them too
//	once it is there     [persisted]: only scripts see them (CI_PIPELINE_ID, CI_ENVIRONMENT_SLUG, …)
//
// What only a runner knows (CI_PROJECT_DIR, CI_RUNNER_*, CI_JOB_STATUS, CI_JOB_IMAGE, …) it adds itself; what there is once a job
// starts (CI_JOB_ID, CI_JOB_URL, …) is added then, see [pipeline.Variables.Started]. Of a server without Pages, dependency
// proxy, deploy tokens, freeze periods and FIPS mode there are no such variables, as there are none with GitLab then.

const (
	// maxMessage bounds a commit message in variables, in bytes.
	maxMessage = 100_000
	// maxDescription bounds the description of a merge request in variables, in characters.
	maxDescription = 2700
	// noSHA stands for no commit.
	noSHA = "0000000000000000000000000000000000000000"
)

// predefinedList collects variables.
type predefinedList pipeline.Variables

func (l *predefinedList) add(name, value string) {
	*l = append(*l, pipeline.Variable{Name: name, Value: value, Public: true, Origin: pipeline.OriginPredefined})
}

func (l *predefinedList) addIf(holds bool, name, value string) {
	if holds {
		l.add(name, value)
	}
}

// hollow names what GitLab sets to nothing at all where it has no value: conditions find null, and scripts an empty text.
var hollow = map[string]bool{
	"CI_PIPELINE_NAME": true, "CI_PROJECT_DESCRIPTION": true, "CI_PROJECT_CLASSIFICATION_LABEL": true, "CI_COMMIT_TAG_MESSAGE": true,
	"CI_MERGE_REQUEST_DESCRIPTION": true, "CI_MERGE_REQUEST_DIFF_BASE_SHA": true, "CI_ENVIRONMENT_TIER": true, "CI_ENVIRONMENT_URL": true,
}

// persisted tells whether a predefined variable is there only once the pipeline is: no condition sees it.
func persisted(name string) bool {
	switch name {
	case "CI_PIPELINE_ID", "CI_PIPELINE_URL", "CI_REPOSITORY_URL", "CI_ENVIRONMENT_SLUG":
		return true
	}
	return false
}

// visible picks those that conditions see: none that is persisted, and none that is null.
func visible(vs pipeline.Variables) pipeline.Variables {
	return slices.DeleteFunc(slices.Clone(vs), func(v pipeline.Variable) bool {
		return persisted(v.Name) || v.Value == "" && hollow[v.Name]
	})
}

// ConfigVariables are those that include and include:rules see: the predefined ones of the project and the pipeline, and those
// from outside of the files.
func ConfigVariables(c *pipeline.Context) pipeline.Variables {
	return append(visible(predefined(c)), forEnvironment(outside(c), "")...)
}

// outside are the variables that are stronger than those of the files: who started the pipeline, then what the instance, the
// group, the project and the pipeline set. Protected ones are there on protected refs only, and never for a merge request.
// Reports of dotenv belong between the first and the second, see [pipeline.Variables.WithDotenv].
func outside(c *pipeline.Context) pipeline.Variables {
	var user predefinedList
	if c.User != (pipeline.User{}) {
		user.add("GITLAB_USER_ID", strconv.FormatInt(c.User.ID, 10))
		user.add("GITLAB_USER_EMAIL", c.User.Email)
		user.add("GITLAB_USER_LOGIN", c.User.Login)
		user.add("GITLAB_USER_NAME", c.User.Name)
	}
	out := pipeline.Variables(user)
	for _, l := range []struct {
		origin string
		vs     pipeline.Variables
	}{{pipeline.OriginInstance, c.Instance}, {pipeline.OriginGroup, c.Group}, {pipeline.OriginProject, c.ProjectVars}, {pipeline.OriginPipeline, c.Pipeline}} {
		for _, v := range l.vs {
			if v.Protected && !protected(c) {
				continue
			}
			v.Origin, v.Public = cmp.Or(v.Origin, l.origin), false
			out = append(out, v)
		}
	}
	return out
}

// protected tells whether a pipeline is trusted with protected variables.
func protected(c *pipeline.Context) bool { return c.Protected && !ofMergeRequest(c) }

// predefined gives the predefined variables of a pipeline, weaker than all others: of the server, the project and the pipeline.
func predefined(c *pipeline.Context) pipeline.Variables {
	var l predefinedList
	l.server(c)
	l.project(c)
	l.pipeline(c)
	l.commit(c)
	l.tag(c)
	l.mergeRequest(c)
	if up := c.Upstream; up != nil {
		l.add("CI_UPSTREAM_PIPELINE_ID", strconv.FormatInt(up.PipelineID, 10))
		l.add("CI_UPSTREAM_PROJECT_ID", strconv.FormatInt(up.ProjectID, 10))
		l.add("CI_UPSTREAM_JOB_ID", strconv.FormatInt(up.JobID, 10))
	}
	open := c.OpenMergeRequests
	if open == nil && c.MergeRequest != nil {
		open = []string{c.Project.Path + "!" + strconv.FormatInt(c.MergeRequest.IID, 10)}
	}
	l.addIf(len(open) > 0 && !c.Tag, "CI_OPEN_MERGE_REQUESTS", strings.Join(open[:min(4, len(open))], ","))
	l.addIf(c.Kubernetes, "CI_KUBERNETES_ACTIVE", "true")
	return pipeline.Variables(l)
}

func (l *predefinedList) server(c *pipeline.Context) {
	s := c.Server
	u, err := url.Parse(s.URL)
	if err != nil {
		u = &url.URL{}
	}
	port := u.Port()
	if port == "" && u.Scheme != "" {
		port = map[string]string{"http": "80"}[u.Scheme]
		port = cmp.Or(port, "443")
	}
	l.add("CI", "true")
	l.add("GITLAB_CI", "true")
	l.add("CI_SERVER_FQDN", u.Host)
	l.add("CI_SERVER_URL", strings.TrimSuffix(s.URL, "/"))
	l.add("CI_SERVER_HOST", u.Hostname())
	l.add("CI_SERVER_PORT", port)
	l.add("CI_SERVER_PROTOCOL", u.Scheme)
	l.add("CI_SERVER_SHELL_SSH_HOST", u.Hostname())
	l.add("CI_SERVER_SHELL_SSH_PORT", "22")
	l.add("CI_SERVER_NAME", "GitLab")
	l.add("CI_SERVER_VERSION", s.Version)
	number, _, _ := strings.Cut(s.Version, "-")
	parts := append(strings.SplitN(number, ".", 3), "0", "0")
	l.add("CI_SERVER_VERSION_MAJOR", cmp.Or(parts[0], "0"))
	l.add("CI_SERVER_VERSION_MINOR", parts[1])
	l.add("CI_SERVER_VERSION_PATCH", parts[2])
	l.add("CI_SERVER_REVISION", "")
}

func (l *predefinedList) project(c *pipeline.Context) {
	p := c.Project
	namespace, name := path.Split(p.Path)
	namespace = strings.TrimSuffix(namespace, "/")
	root, _, _ := strings.Cut(namespace, "/")
	l.add("GITLAB_FEATURES", "")
	l.add("CI_PROJECT_ID", strconv.FormatInt(p.ID, 10))
	l.add("CI_PROJECT_NAME", name)
	l.add("CI_PROJECT_TITLE", cmp.Or(p.Title, name))
	l.add("CI_PROJECT_DESCRIPTION", p.Description)
	l.add("CI_PROJECT_PATH", p.Path)
	l.add("CI_PROJECT_PATH_SLUG", pipeline.Slug(p.Path))
	l.add("CI_PROJECT_NAMESPACE", namespace)
	l.add("CI_PROJECT_NAMESPACE_SLUG", pipeline.Slug(namespace))
	l.add("CI_PROJECT_NAMESPACE_ID", strconv.FormatInt(p.NamespaceID, 10))
	l.add("CI_PROJECT_ROOT_NAMESPACE", root)
	l.add("CI_PROJECT_URL", p.URL)
	l.add("CI_PROJECT_VISIBILITY", cmp.Or(p.Visibility, "private"))
	l.add("CI_PROJECT_REPOSITORY_LANGUAGES", strings.ToLower(strings.Join(p.Languages, ",")))
	l.add("CI_PROJECT_CLASSIFICATION_LABEL", "")
	l.add("CI_DEFAULT_BRANCH", p.DefaultBranch)
	l.add("CI_CONFIG_PATH", configPath(c))
	if p.Registry != "" {
		l.add("CI_REGISTRY", p.Registry)
		l.add("CI_REGISTRY_IMAGE", p.Registry+"/"+strings.ToLower(p.Path))
	}
	base := strings.TrimSuffix(c.Server.URL, "/")
	l.add("CI_API_V4_URL", base+"/api/v4")
	l.add("CI_API_GRAPHQL_URL", base+"/api/graphql")
	l.add("CI_TEMPLATE_REGISTRY_HOST", "registry.gitlab.com")
	if p.CloneURL != "" { // whoever hands out jobs adds a token
		*l = append(*l, pipeline.Variable{Name: "CI_REPOSITORY_URL", Value: p.CloneURL, Origin: pipeline.OriginPredefined})
	}
}

func configPath(c *pipeline.Context) string { return cmp.Or(c.Project.ConfigPath, ".gitlab-ci.yml") }

// refName is the short name of the branch or tag; of a merge request, its source branch.
func refName(c *pipeline.Context) string {
	if mr := c.MergeRequest; mr != nil && mr.SourceBranch != "" {
		return mr.SourceBranch
	}
	return c.Ref
}

func (l *predefinedList) pipeline(c *pipeline.Context) {
	if c.PipelineID != 0 {
		id := strconv.FormatInt(c.PipelineID, 10)
		l.add("CI_PIPELINE_ID", id)
		l.add("CI_PIPELINE_URL", c.Project.URL+"/-/pipelines/"+id)
	}
	l.add("CI_PIPELINE_IID", strconv.FormatInt(c.PipelineIID, 10))
	l.add("CI_PIPELINE_SOURCE", c.Source)
	l.addIf(!c.Now.IsZero(), "CI_PIPELINE_CREATED_AT", c.Now.UTC().Format(time.RFC3339))
	l.add("CI_PIPELINE_NAME", "")
	l.addIf(c.Schedule != "", "CI_PIPELINE_SCHEDULE_DESCRIPTION", c.Schedule)
	l.addIf(c.Source == pipeline.SourceTrigger, "CI_PIPELINE_TRIGGERED", "true")
	kind := "heads"
	if c.Tag {
		kind = "tags"
	}
	host := ""
	if u, err := url.Parse(c.Server.URL); err == nil {
		host = u.Host
	}
	l.add("CI_CONFIG_REF_URI", host+"/"+c.Project.Path+"//"+configPath(c)+"@refs/"+kind+"/"+refName(c))
}

func (l *predefinedList) commit(c *pipeline.Context) {
	ref, commit := refName(c), c.Commit
	if commit.SHA == "" {
		return
	}
	l.add("CI_COMMIT_SHA", commit.SHA)
	l.add("CI_COMMIT_SHORT_SHA", commit.SHA[:min(8, len(commit.SHA))])
	before := cmp.Or(c.Before, noSHA)
	if ofMergeRequest(c) {
		before = noSHA
	}
	l.add("CI_COMMIT_BEFORE_SHA", before)
	l.add("CI_COMMIT_REF_NAME", ref)
	l.add("CI_COMMIT_REF_SLUG", pipeline.RefSlug(ref))
	l.addIf(!c.Tag && !ofMergeRequest(c), "CI_COMMIT_BRANCH", c.Ref)
	title, description := titled(commit.Message)
	l.add("CI_COMMIT_MESSAGE", cut(commit.Message))
	l.add("CI_COMMIT_MESSAGE_IS_TRUNCATED", strconv.FormatBool(len(commit.Message) > maxMessage))
	l.add("CI_COMMIT_TITLE", cut(title))
	l.add("CI_COMMIT_DESCRIPTION", cut(description))
	l.add("CI_COMMIT_REF_PROTECTED", strconv.FormatBool(protected(c)))
	// As GitLab has it from the commit: UTC is +00:00, not Z.
	l.addIf(!commit.Timestamp.IsZero(), "CI_COMMIT_TIMESTAMP", commit.Timestamp.Format("2006-01-02T15:04:05-07:00"))
	author := ""
	if commit.AuthorName != "" && commit.AuthorEmail != "" {
		author = commit.AuthorName + " <" + commit.AuthorEmail + ">"
	}
	l.add("CI_COMMIT_AUTHOR", author)
	login := ""
	if commit.AuthorEmail != "" && strings.EqualFold(commit.AuthorEmail, c.User.Email) {
		login = c.User.Login
	}
	l.add("CI_COMMIT_USER_LOGIN", login)
}

// titled cuts a commit message into its title and what follows it. The description of a long title is the whole message.
func titled(message string) (title, description string) {
	if strings.TrimSpace(message) == "" {
		return "No commit message", "No commit message"
	}
	title = message
	if at := strings.IndexAny(message, "\r\n"); at >= 0 {
		title = message[:at]
	}
	if utf8.RuneCountInString(title) >= 100 {
		return title, message
	}
	_, description, _ = strings.Cut(message, "\n")
	return title, strings.TrimSuffix(strings.TrimSuffix(description, "\n"), "\r")
}

// cut shortens a text of a commit.
func cut(text string) string {
	if len(text) <= maxMessage {
		return text
	}
	return strings.ToValidUTF8(text[:maxMessage], "")
}

func (l *predefinedList) tag(c *pipeline.Context) {
	if !c.Tag {
		return
	}
	l.add("CI_COMMIT_TAG", c.Ref)
	message := c.Commit.TagMessage
	for _, signature := range []string{"-----BEGIN PGP SIGNATURE-----", "-----BEGIN PGP MESSAGE-----", "-----BEGIN SSH SIGNATURE-----", "-----BEGIN SIGNED MESSAGE-----"} {
		if at := strings.Index(message, signature); at >= 0 {
			message = message[:at]
		}
	}
	l.add("CI_COMMIT_TAG_MESSAGE", message)
}

func (l *predefinedList) mergeRequest(c *pipeline.Context) {
	mr := c.MergeRequest
	if mr == nil {
		return
	}
	event := cmp.Or(mr.EventType, "detached")
	l.add("CI_MERGE_REQUEST_EVENT_TYPE", event)
	source, target := mr.SourceSHA, mr.TargetSHA
	if event == "detached" { // the pipeline is of the source branch itself
		source, target = "", ""
	}
	l.add("CI_MERGE_REQUEST_SOURCE_BRANCH_SHA", source)
	l.add("CI_MERGE_REQUEST_TARGET_BRANCH_SHA", target)
	l.addIf(mr.DiffBase != "", "CI_MERGE_REQUEST_DIFF_BASE_SHA", mr.DiffBase) // the versions of a diff have no numbers here
	iid := strconv.FormatInt(mr.IID, 10)
	l.add("CI_MERGE_REQUEST_ID", strconv.FormatInt(mr.ID, 10))
	l.add("CI_MERGE_REQUEST_IID", iid)
	l.add("CI_MERGE_REQUEST_REF_PATH", "refs/merge-requests/"+iid+"/head")
	l.add("CI_MERGE_REQUEST_PROJECT_ID", strconv.FormatInt(c.Project.ID, 10))
	l.add("CI_MERGE_REQUEST_PROJECT_PATH", c.Project.Path)
	l.add("CI_MERGE_REQUEST_PROJECT_URL", c.Project.URL)
	l.add("CI_MERGE_REQUEST_TARGET_BRANCH_NAME", mr.TargetBranch)
	l.add("CI_MERGE_REQUEST_TARGET_BRANCH_PROTECTED", strconv.FormatBool(mr.TargetProtected))
	l.add("CI_MERGE_REQUEST_TITLE", mr.Title)
	l.add("CI_MERGE_REQUEST_DRAFT", strconv.FormatBool(mr.Draft))
	description, long := mr.Description, false
	if runes := []rune(description); len(runes) > maxDescription {
		description, long = string(runes[:maxDescription-3])+"...", true
	}
	l.add("CI_MERGE_REQUEST_DESCRIPTION", description)
	l.add("CI_MERGE_REQUEST_DESCRIPTION_IS_TRUNCATED", strconv.FormatBool(long))
	l.addIf(len(mr.Assignees) > 0, "CI_MERGE_REQUEST_ASSIGNEES", sentence(mr.Assignees))
	l.addIf(mr.Milestone != "", "CI_MERGE_REQUEST_MILESTONE", mr.Milestone)
	l.addIf(len(mr.Labels) > 0, "CI_MERGE_REQUEST_LABELS", strings.Join(slices.Sorted(slices.Values(mr.Labels)), ","))
	l.add("CI_MERGE_REQUEST_SQUASH_ON_MERGE", strconv.FormatBool(mr.SquashOnMerge))
	l.addIf(mr.Approved, "CI_MERGE_REQUEST_APPROVED", "true")
	own := mr.SourceProject == "" || mr.SourceProject == c.Project.Path
	l.addIf(own, "CI_MERGE_REQUEST_SOURCE_PROJECT_ID", strconv.FormatInt(c.Project.ID, 10))
	l.add("CI_MERGE_REQUEST_SOURCE_PROJECT_PATH", cmp.Or(mr.SourceProject, c.Project.Path))
	project := c.Project.URL
	if !own {
		project = strings.TrimSuffix(c.Server.URL, "/") + "/" + mr.SourceProject
	}
	l.add("CI_MERGE_REQUEST_SOURCE_PROJECT_URL", project)
	l.add("CI_MERGE_REQUEST_SOURCE_BRANCH_NAME", mr.SourceBranch)
	l.add("CI_MERGE_REQUEST_SOURCE_BRANCH_PROTECTED", strconv.FormatBool(mr.SourceProtected))
}

// sentence joins names as Rails does: "a, b, and c".
func sentence(names []string) string {
	switch n := len(names); n {
	case 0, 1:
		return strings.Join(names, "")
	case 2:
		return names[0] + " and " + names[1]
	default:
		return strings.Join(names[:n-1], ", ") + ", and " + names[n-1]
	}
}

// jobNames are what is made of the name of a job.
type jobNames struct{ slug, group string }

func namesOf(job string) jobNames { return jobNames{pipeline.Slug(job), pipeline.GroupName(job)} }

// predefinedJob adds the predefined variables of a job to a list, as weak as those of [predefined]. The job's When is its own before its
// rules are asked, and then what they say. The environment's name is expanded; nil where the job has none, or its name is not
// known yet. Its URL may still hold variables.
func predefinedJob(list pipeline.Variables, job *pipeline.Job, names jobNames, env *pipeline.Environment) pipeline.Variables {
	l := predefinedList(list)
	l.add("CI_JOB_NAME", job.Name)
	l.add("CI_JOB_NAME_SLUG", names.slug)
	l.add("CI_JOB_GROUP_NAME", names.group)
	l.add("CI_JOB_STAGE", job.Stage)
	l.addIf(job.When == pipeline.Manual, "CI_JOB_MANUAL", "true")
	l.addIf(job.Node.Index > 0, "CI_NODE_INDEX", strconv.Itoa(job.Node.Index))
	l.add("CI_NODE_TOTAL", strconv.Itoa(max(1, job.Node.Total)))
	if env != nil && env.Name != "" {
		l.add("CI_ENVIRONMENT_NAME", env.Name)
		l.add("CI_ENVIRONMENT_ACTION", cmp.Or(env.Action, "start"))
		l.add("CI_ENVIRONMENT_TIER", cmp.Or(env.Tier, pipeline.Tier(env.Name)))
		l.addIf(env.URL != "", "CI_ENVIRONMENT_URL", env.URL)
	}
	return pipeline.Variables(l)
}

// predefinedEnvironment gives the variables of a job's environment that are there once the pipeline is. Unlike other predefined
// variables they are the strongest of all, and no condition sees them.
func predefinedEnvironment(env *pipeline.Environment) pipeline.Variables {
	if env == nil || env.Name == "" {
		return nil
	}
	var l predefinedList
	l.add("CI_ENVIRONMENT_SLUG", cmp.Or(env.Slug, pipeline.EnvironmentSlug(env.Name)))
	l.addIf(env.URL != "", "CI_ENVIRONMENT_URL", env.URL)
	return pipeline.Variables(l)
}

// workflowVariables are what workflow:rules and workflow:name see. top are the variables of the top level.
func workflowVariables(c *pipeline.Context, top pipeline.Variables) pipeline.Variables {
	vs := append(visible(predefined(c)), pipeline.Variable{Name: "CI_NODE_TOTAL", Value: "1", Public: true, Origin: pipeline.OriginPredefined})
	return append(append(vs, top...), forEnvironment(outside(c), "")...)
}

// ofMergeRequest tells whether the pipeline is one of a merge request, which has neither a branch nor a tag.
func ofMergeRequest(c *pipeline.Context) bool {
	return c.MergeRequest != nil || c.Source == pipeline.SourceMergeRequest
}
