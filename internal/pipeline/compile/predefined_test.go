package compile

import (
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"keelson.dev/keelson/internal/pipeline"
)

// branch is a push to a branch.
func branch() *pipeline.Context {
	return &pipeline.Context{
		Source: pipeline.SourcePush, Ref: "feat/A__b",
		Commit: pipeline.Commit{SHA: "0123456789abcdef0123456789abcdef01234567", Message: "Add a sail\n\nIt is large.\n", AuthorName: "Ada", AuthorEmail: "ada@example.org",
			Timestamp: time.Date(2026, 11, 21, 10, 0, 0, 0, time.UTC)},
		Project: pipeline.Project{ID: 4, NamespaceID: 2, Path: "Fleet/sub/Keel_son", URL: "https://git.example:8443/Fleet/sub/Keel_son", CloneURL: "https://git.example:8443/Fleet/sub/Keel_son.git",
			DefaultBranch: "main", Languages: []string{"Go", "Shell"}, Registry: "registry.example:5000"},
		Server:     pipeline.Server{URL: "https://git.example:8443", Version: "18.5.1-ee"},
		User:       pipeline.User{ID: 9, Login: "ada", Name: "Ada L", Email: "ADA@example.org"},
		PipelineID: 100, PipelineIID: 5,
		Now: time.Date(2026, 11, 21, 12, 0, 0, 0, time.FixedZone("CET", 3600)),
	}
}

// tag is a push of a tag.
func tag() *pipeline.Context {
	c := branch()
	c.Ref, c.Tag, c.Protected, c.Before = "v1.0", true, true, "1111111111111111111111111111111111111111"
	c.Commit.TagMessage = "Release\n-----BEGIN PGP SIGNATURE-----\nx\n"
	return c
}

// merge is an event of a merge request.
func merge() *pipeline.Context {
	c := branch()
	c.Source, c.Ref, c.Protected, c.Before = pipeline.SourceMergeRequest, "refs/merge-requests/12/head", true, "1111111111111111111111111111111111111111"
	c.MergeRequest = &pipeline.MergeRequest{ID: 77, IID: 12, Title: "Draft: sail", Description: strings.Repeat("é", 2701), SourceBranch: "feat/A__b", TargetBranch: "main", SourceSHA: "aa", TargetSHA: "bb",
		DiffBase: "cc", Labels: []string{"wind", "Sail"}, Assignees: []string{"ada", "bob", "eve"}, Milestone: "1.0", Draft: true, TargetProtected: true, Approved: true}
	return c
}

// values are those of some variables; what is not there is not in it.
func values(vs pipeline.Variables, names ...string) map[string]string {
	out := map[string]string{}
	for _, name := range names {
		if v, ok := vs.Get(name); ok {
			out[name] = v.Value
		}
	}
	return out
}

func TestPredefined(t *testing.T) {
	sometimes := []string{"CI_COMMIT_BRANCH", "CI_COMMIT_TAG", "CI_COMMIT_TAG_MESSAGE", "CI_COMMIT_BEFORE_SHA", "CI_COMMIT_REF_NAME", "CI_COMMIT_REF_SLUG", "CI_COMMIT_REF_PROTECTED", "CI_OPEN_MERGE_REQUESTS",
		"CI_MERGE_REQUEST_IID", "CI_PIPELINE_SCHEDULE_DESCRIPTION", "CI_PIPELINE_TRIGGERED", "CI_UPSTREAM_PIPELINE_ID", "CI_KUBERNETES_ACTIVE", "CI_REGISTRY_IMAGE", "CI_CONFIG_REF_URI"}
	at := "git.example:8443/Fleet/sub/Keel_son//.gitlab-ci.yml@"
	for name, c := range map[string]struct {
		context *pipeline.Context
		change  func(*pipeline.Context)
		want    map[string]string
	}{
		"a branch": {context: branch(), want: map[string]string{"CI_COMMIT_BRANCH": "feat/A__b", "CI_COMMIT_BEFORE_SHA": noSHA, "CI_COMMIT_REF_NAME": "feat/A__b", "CI_COMMIT_REF_SLUG": "feat-a--b",
			"CI_COMMIT_REF_PROTECTED": "false", "CI_REGISTRY_IMAGE": "registry.example:5000/fleet/sub/keel_son", "CI_CONFIG_REF_URI": at + "refs/heads/feat/A__b"}},
		"a tag": {context: tag(), want: map[string]string{"CI_COMMIT_TAG": "v1.0", "CI_COMMIT_TAG_MESSAGE": "Release\n", "CI_COMMIT_BEFORE_SHA": strings.Repeat("1", 40), "CI_COMMIT_REF_NAME": "v1.0", "CI_COMMIT_REF_SLUG": "v1-0",
			"CI_COMMIT_REF_PROTECTED": "true", "CI_REGISTRY_IMAGE": "registry.example:5000/fleet/sub/keel_son", "CI_CONFIG_REF_URI": at + "refs/tags/v1.0"}},
		"a merge request": {context: merge(), want: map[string]string{"CI_COMMIT_BEFORE_SHA": noSHA, "CI_COMMIT_REF_NAME": "feat/A__b", "CI_COMMIT_REF_SLUG": "feat-a--b", "CI_COMMIT_REF_PROTECTED": "false",
			"CI_OPEN_MERGE_REQUESTS": "Fleet/sub/Keel_son!12", "CI_MERGE_REQUEST_IID": "12", "CI_REGISTRY_IMAGE": "registry.example:5000/fleet/sub/keel_son", "CI_CONFIG_REF_URI": at + "refs/heads/feat/A__b"}},
		"a branch with merge requests": {context: branch(), change: func(c *pipeline.Context) { c.OpenMergeRequests = []string{"a!5", "a!4", "a!3", "a!2", "a!1"} },
			want: map[string]string{"CI_COMMIT_BRANCH": "feat/A__b", "CI_COMMIT_BEFORE_SHA": noSHA, "CI_COMMIT_REF_NAME": "feat/A__b", "CI_COMMIT_REF_SLUG": "feat-a--b", "CI_OPEN_MERGE_REQUESTS": "a!5,a!4,a!3,a!2",
				"CI_COMMIT_REF_PROTECTED": "false", "CI_REGISTRY_IMAGE": "registry.example:5000/fleet/sub/keel_son", "CI_CONFIG_REF_URI": at + "refs/heads/feat/A__b"}},
		"a schedule": {context: branch(), change: func(c *pipeline.Context) {
			c.Source, c.Schedule, c.Kubernetes, c.Project.Registry = pipeline.SourceSchedule, "nightly", true, ""
		}, want: map[string]string{"CI_COMMIT_BRANCH": "feat/A__b", "CI_COMMIT_BEFORE_SHA": noSHA, "CI_COMMIT_REF_NAME": "feat/A__b", "CI_COMMIT_REF_SLUG": "feat-a--b", "CI_COMMIT_REF_PROTECTED": "false",
			"CI_PIPELINE_SCHEDULE_DESCRIPTION": "nightly", "CI_KUBERNETES_ACTIVE": "true", "CI_CONFIG_REF_URI": at + "refs/heads/feat/A__b"}},
		"a trigger of another pipeline": {context: branch(), change: func(c *pipeline.Context) {
			c.Source, c.Upstream, c.Project.ConfigPath = pipeline.SourceTrigger, &pipeline.Upstream{PipelineID: 3}, "ci/main.yml"
		}, want: map[string]string{"CI_COMMIT_BRANCH": "feat/A__b", "CI_COMMIT_BEFORE_SHA": noSHA, "CI_COMMIT_REF_NAME": "feat/A__b", "CI_COMMIT_REF_SLUG": "feat-a--b", "CI_COMMIT_REF_PROTECTED": "false",
			"CI_PIPELINE_TRIGGERED": "true", "CI_UPSTREAM_PIPELINE_ID": "3", "CI_REGISTRY_IMAGE": "registry.example:5000/fleet/sub/keel_son",
			"CI_CONFIG_REF_URI": "git.example:8443/Fleet/sub/Keel_son//ci/main.yml@refs/heads/feat/A__b"}},
		"no commit": {context: branch(), change: func(c *pipeline.Context) { c.Commit.SHA = "" },
			want: map[string]string{"CI_REGISTRY_IMAGE": "registry.example:5000/fleet/sub/keel_son", "CI_CONFIG_REF_URI": at + "refs/heads/feat/A__b"}},
	} {
		t.Run(name, func(t *testing.T) {
			if c.change != nil {
				c.change(c.context)
			}
			if diff := cmp.Diff(c.want, values(predefined(c.context), sometimes...)); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func TestPredefinedValues(t *testing.T) {
	got := predefined(branch())
	want := map[string]string{
		"CI": "true", "GITLAB_CI": "true", "GITLAB_FEATURES": "", "CI_API_V4_URL": "https://git.example:8443/api/v4", "CI_API_GRAPHQL_URL": "https://git.example:8443/api/graphql", "CI_TEMPLATE_REGISTRY_HOST": "registry.gitlab.com",
		"CI_SERVER_FQDN": "git.example:8443", "CI_SERVER_URL": "https://git.example:8443", "CI_SERVER_HOST": "git.example", "CI_SERVER_PORT": "8443", "CI_SERVER_PROTOCOL": "https", "CI_SERVER_SHELL_SSH_HOST": "git.example",
		"CI_SERVER_SHELL_SSH_PORT": "22", "CI_SERVER_NAME": "GitLab", "CI_SERVER_VERSION": "18.5.1-ee", "CI_SERVER_VERSION_MAJOR": "18", "CI_SERVER_VERSION_MINOR": "5", "CI_SERVER_VERSION_PATCH": "1", "CI_SERVER_REVISION": "",
		"CI_PROJECT_ID": "4", "CI_PROJECT_NAME": "Keel_son", "CI_PROJECT_TITLE": "Keel_son", "CI_PROJECT_DESCRIPTION": "", "CI_PROJECT_PATH": "Fleet/sub/Keel_son", "CI_PROJECT_PATH_SLUG": "fleet-sub-keel-son",
		"CI_PROJECT_NAMESPACE": "Fleet/sub", "CI_PROJECT_NAMESPACE_SLUG": "fleet-sub", "CI_PROJECT_NAMESPACE_ID": "2", "CI_PROJECT_ROOT_NAMESPACE": "Fleet", "CI_PROJECT_URL": "https://git.example:8443/Fleet/sub/Keel_son",
		"CI_PROJECT_VISIBILITY": "private", "CI_PROJECT_REPOSITORY_LANGUAGES": "go,shell", "CI_PROJECT_CLASSIFICATION_LABEL": "", "CI_DEFAULT_BRANCH": "main", "CI_CONFIG_PATH": ".gitlab-ci.yml",
		"CI_CONFIG_REF_URI": "git.example:8443/Fleet/sub/Keel_son//.gitlab-ci.yml@refs/heads/feat/A__b", "CI_REGISTRY": "registry.example:5000", "CI_REGISTRY_IMAGE": "registry.example:5000/fleet/sub/keel_son",
		"CI_REPOSITORY_URL": "https://git.example:8443/Fleet/sub/Keel_son.git",
		"CI_PIPELINE_ID":    "100", "CI_PIPELINE_IID": "5", "CI_PIPELINE_URL": "https://git.example:8443/Fleet/sub/Keel_son/-/pipelines/100", "CI_PIPELINE_SOURCE": "push", "CI_PIPELINE_CREATED_AT": "2026-11-21T11:00:00Z", "CI_PIPELINE_NAME": "",
		"CI_COMMIT_SHA": "0123456789abcdef0123456789abcdef01234567", "CI_COMMIT_SHORT_SHA": "01234567", "CI_COMMIT_BEFORE_SHA": noSHA, "CI_COMMIT_REF_NAME": "feat/A__b", "CI_COMMIT_REF_SLUG": "feat-a--b", "CI_COMMIT_BRANCH": "feat/A__b",
		"CI_COMMIT_MESSAGE": "Add a sail\n\nIt is large.\n", "CI_COMMIT_MESSAGE_IS_TRUNCATED": "false", "CI_COMMIT_TITLE": "Add a sail", "CI_COMMIT_DESCRIPTION": "\nIt is large.", "CI_COMMIT_REF_PROTECTED": "false",
		"CI_COMMIT_TIMESTAMP": "2026-11-21T10:00:00+00:00", "CI_COMMIT_AUTHOR": "Ada <ada@example.org>", "CI_COMMIT_USER_LOGIN": "ada",
	}
	have := map[string]string{}
	for _, v := range got {
		if _, twice := have[v.Name]; twice {
			t.Errorf("%s is there twice", v.Name)
		}
		have[v.Name] = v.Value
		if v.Origin != pipeline.OriginPredefined || v.Masked || v.Public == (v.Name == "CI_REPOSITORY_URL") {
			t.Errorf("%+v", v)
		}
	}
	if diff := cmp.Diff(want, have); diff != "" {
		t.Error(diff)
	}
}

func TestMergeRequestVariables(t *testing.T) {
	c := merge()
	got := map[string]string{}
	for _, v := range predefined(c) {
		if name, ok := strings.CutPrefix(v.Name, "CI_MERGE_REQUEST_"); ok {
			got[name] = v.Value
		}
	}
	want := map[string]string{
		"EVENT_TYPE": "detached", "SOURCE_BRANCH_SHA": "", "TARGET_BRANCH_SHA": "", "DIFF_BASE_SHA": "cc", "ID": "77", "IID": "12", "REF_PATH": "refs/merge-requests/12/head",
		"PROJECT_ID": "4", "PROJECT_PATH": "Fleet/sub/Keel_son", "PROJECT_URL": "https://git.example:8443/Fleet/sub/Keel_son", "TARGET_BRANCH_NAME": "main", "TARGET_BRANCH_PROTECTED": "true", "TITLE": "Draft: sail", "DRAFT": "true",
		"DESCRIPTION": strings.Repeat("é", 2697) + "...", "DESCRIPTION_IS_TRUNCATED": "true", "ASSIGNEES": "ada, bob, and eve", "MILESTONE": "1.0", "LABELS": "Sail,wind", "SQUASH_ON_MERGE": "false", "APPROVED": "true",
		"SOURCE_PROJECT_ID": "4", "SOURCE_PROJECT_PATH": "Fleet/sub/Keel_son", "SOURCE_PROJECT_URL": "https://git.example:8443/Fleet/sub/Keel_son", "SOURCE_BRANCH_NAME": "feat/A__b", "SOURCE_BRANCH_PROTECTED": "false",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	c.MergeRequest = &pipeline.MergeRequest{IID: 1, EventType: "merged_result", SourceSHA: "aa", TargetSHA: "bb", SourceProject: "fork/x", Assignees: []string{"ada", "bob"}}
	names := []string{"CI_MERGE_REQUEST_SOURCE_BRANCH_SHA", "CI_MERGE_REQUEST_TARGET_BRANCH_SHA", "CI_MERGE_REQUEST_SOURCE_PROJECT_ID", "CI_MERGE_REQUEST_SOURCE_PROJECT_PATH", "CI_MERGE_REQUEST_SOURCE_PROJECT_URL",
		"CI_MERGE_REQUEST_APPROVED", "CI_MERGE_REQUEST_MILESTONE", "CI_MERGE_REQUEST_LABELS", "CI_MERGE_REQUEST_ASSIGNEES", "CI_MERGE_REQUEST_DIFF_BASE_SHA"}
	want = map[string]string{"CI_MERGE_REQUEST_SOURCE_BRANCH_SHA": "aa", "CI_MERGE_REQUEST_TARGET_BRANCH_SHA": "bb", "CI_MERGE_REQUEST_SOURCE_PROJECT_PATH": "fork/x", "CI_MERGE_REQUEST_SOURCE_PROJECT_URL": "https://git.example:8443/fork/x",
		"CI_MERGE_REQUEST_ASSIGNEES": "ada and bob"}
	if diff := cmp.Diff(want, values(predefined(c), names...)); diff != "" {
		t.Error(diff)
	}
}

func TestCommitMessages(t *testing.T) {
	long := strings.Repeat("x", 100)
	for _, c := range []struct{ message, title, description string }{
		{"Title", "Title", ""},
		{"Title\n", "Title", ""},
		{"Title\n\nBody\nmore\n", "Title", "\nBody\nmore"},
		{"Title\r\nBody\r\n", "Title", "Body"},
		{long[1:] + "\nBody\n", long[1:], "Body"},
		{long + "\nBody\n", long, long + "\nBody\n"},
		{" \n", "No commit message", "No commit message"},
	} {
		if title, description := titled(c.message); title != c.title || description != c.description {
			t.Errorf("%q has the title %q and the description %q", c.message, title, description)
		}
	}
	context := branch()
	context.Commit.Message = strings.Repeat("€", maxMessage)
	got := predefined(context)
	message, _ := got.Get("CI_COMMIT_MESSAGE")
	truncated, _ := got.Get("CI_COMMIT_MESSAGE_IS_TRUNCATED")
	if len(message.Value) != maxMessage-1 || truncated.Value != "true" {
		t.Errorf("a long message has %d bytes, truncated: %s", len(message.Value), truncated.Value)
	}
}

func TestPredefinedJob(t *testing.T) {
	all := func(vs pipeline.Variables) map[string]string {
		out := map[string]string{}
		for _, v := range vs {
			out[v.Name] = v.Value
		}
		return out
	}
	for _, c := range []struct {
		name string
		job  pipeline.Job
		env  *pipeline.Environment
		want map[string]string
	}{
		{name: "plain", job: pipeline.Job{Name: "unit:Go", Stage: "test"},
			want: map[string]string{"CI_JOB_NAME": "unit:Go", "CI_JOB_NAME_SLUG": "unit-go", "CI_JOB_GROUP_NAME": "unit:Go", "CI_JOB_STAGE": "test", "CI_NODE_TOTAL": "1"}},
		{name: "one of three", job: pipeline.Job{Name: "unit 2/3", Stage: "test", Node: pipeline.Node{Index: 2, Total: 3}, When: pipeline.Delayed},
			want: map[string]string{"CI_JOB_NAME": "unit 2/3", "CI_JOB_NAME_SLUG": "unit-2-3", "CI_JOB_GROUP_NAME": "unit", "CI_JOB_STAGE": "test", "CI_NODE_TOTAL": "3", "CI_NODE_INDEX": "2"}},
		{name: "a gate to production", job: pipeline.Job{Name: "deploy", Stage: "deploy", When: pipeline.Manual}, env: &pipeline.Environment{Name: "prod/eu"},
			want: map[string]string{"CI_JOB_NAME": "deploy", "CI_JOB_NAME_SLUG": "deploy", "CI_JOB_GROUP_NAME": "deploy", "CI_JOB_STAGE": "deploy", "CI_NODE_TOTAL": "1", "CI_JOB_MANUAL": "true",
				"CI_ENVIRONMENT_NAME": "prod/eu", "CI_ENVIRONMENT_ACTION": "start", "CI_ENVIRONMENT_TIER": "production"}},
		{name: "stops a review", job: pipeline.Job{Name: "stop", Stage: "deploy"}, env: &pipeline.Environment{Name: "review/x", Action: "stop", Tier: "testing", URL: "https://$CI_ENVIRONMENT_SLUG.example"},
			want: map[string]string{"CI_JOB_NAME": "stop", "CI_JOB_NAME_SLUG": "stop", "CI_JOB_GROUP_NAME": "stop", "CI_JOB_STAGE": "deploy", "CI_NODE_TOTAL": "1",
				"CI_ENVIRONMENT_NAME": "review/x", "CI_ENVIRONMENT_ACTION": "stop", "CI_ENVIRONMENT_TIER": "testing", "CI_ENVIRONMENT_URL": "https://$CI_ENVIRONMENT_SLUG.example"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			if diff := cmp.Diff(c.want, all(predefinedJob(nil, &c.job, namesOf(c.job.Name), c.env))); diff != "" {
				t.Error(diff)
			}
		})
	}
	want := map[string]string{"CI_ENVIRONMENT_SLUG": "review-feature-x-payx78", "CI_ENVIRONMENT_URL": "https://x"}
	if diff := cmp.Diff(want, all(predefinedEnvironment(&pipeline.Environment{Name: "review/Feature_X", URL: "https://x"}))); diff != "" {
		t.Error(diff)
	}
	if got := predefinedEnvironment(nil); got != nil {
		t.Errorf("no environment has %v", got)
	}
}

func TestConfigVariables(t *testing.T) {
	c := branch()
	c.Instance = pipeline.Variables{{Name: "A", Value: "instance", Public: true}, {Name: "P", Value: "p", Protected: true}}
	c.Group = pipeline.Variables{{Name: "A", Value: "group"}, {Name: "B", Value: "group"}}
	c.ProjectVars = pipeline.Variables{{Name: "B", Value: "project"}, {Name: "C", Value: "project"}}
	c.Pipeline = pipeline.Variables{{Name: "C", Value: "pipeline", Origin: "--variable"}}
	check := func(c *pipeline.Context, want map[string]string) {
		t.Helper()
		got := values(ConfigVariables(c), "A", "B", "C", "P", "CI_PIPELINE_IID", "CI_PIPELINE_ID", "CI_PIPELINE_URL", "CI_REPOSITORY_URL", "CI_PIPELINE_NAME", "CI_PROJECT_DESCRIPTION", "CI_COMMIT_USER_LOGIN", "CI_JOB_NAME", "GITLAB_USER_LOGIN")
		if diff := cmp.Diff(want, got); diff != "" {
			t.Error(diff)
		}
	}
	want := map[string]string{"A": "group", "B": "project", "C": "pipeline", "CI_PIPELINE_IID": "5", "CI_COMMIT_USER_LOGIN": "ada", "GITLAB_USER_LOGIN": "ada"}
	check(c, want)
	c.Protected, want["P"] = true, "p"
	check(c, want)
	c.Source, c.MergeRequest = pipeline.SourceMergeRequest, &pipeline.MergeRequest{IID: 1}
	delete(want, "P")
	check(c, want)
	for _, v := range outside(c) {
		if v.Public != strings.HasPrefix(v.Name, "GITLAB_USER") || v.Origin == "" {
			t.Errorf("%+v", v)
		}
	}
	if c.Instance[0].Origin != "" || !c.Instance[0].Public {
		t.Error("the context's own list has changed")
	}
	if v, _ := outside(c).Get("C"); v.Origin != "--variable" {
		t.Errorf("its origin is %s", v.Origin)
	}
}

func TestWorkflowVariables(t *testing.T) {
	c := branch()
	c.Pipeline = pipeline.Variables{{Name: "A", Value: "pipeline"}}
	got := workflowVariables(c, pipeline.Variables{{Name: "A", Value: "top"}, {Name: "B", Value: "top"}})
	want := map[string]string{"A": "pipeline", "B": "top", "CI_NODE_TOTAL": "1", "CI_COMMIT_BRANCH": "feat/A__b"}
	if diff := cmp.Diff(want, values(got, "A", "B", "CI_NODE_TOTAL", "CI_COMMIT_BRANCH", "CI_JOB_NAME", "CI_PIPELINE_ID")); diff != "" {
		t.Error(diff)
	}
}

// TestPredefinedAreDocumentedNames holds that no name is mistyped: all are GitLab's.
func TestPredefinedAreDocumentedNames(t *testing.T) {
	for _, v := range slices.Concat(predefined(merge()), predefined(tag())) {
		if strings.ToUpper(v.Name) != v.Name || !strings.HasPrefix(v.Name, "CI") && !strings.HasPrefix(v.Name, "GITLAB_") {
			t.Errorf("%s is none of GitLab's", v.Name)
		}
	}
}
