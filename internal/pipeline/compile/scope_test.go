package compile

import (
	"testing"

	"github.com/google/go-cmp/cmp"
)

// TestVariablesOfJobs holds which variables there are when something of a job is expanded: what only a pipeline that is there has
// is unknown to conditions, to the name of an environment and to resource groups.
func TestVariablesOfJobs(t *testing.T) {
	c := branch()
	cfg, problems := load(tree{".gitlab-ci.yml": []byte(`
workflow: {name: "$CI_COMMIT_REF_SLUG!"}
variables: {WHO: top, SAME: "$WHO"}
deploy:
  script: echo
  variables: {WHO: job, SAME: "$SAME-job"}
  environment: {name: "review/$CI_COMMIT_REF_SLUG/$CI_PIPELINE_ID$FROM_RULE", url: "https://$CI_ENVIRONMENT_SLUG.example/$CI_PIPELINE_ID/$REPORT"}
  resource_group: "$CI_ENVIRONMENT_NAME$CI_PIPELINE_ID"
  rules:
    - if: $CI_PIPELINE_ID || $CI_PIPELINE_NAME || $CI_ENVIRONMENT_SLUG || $CI_JOB_ID || $CI_PROJECT_DESCRIPTION == ""
      when: never
    - if: $CI_ENVIRONMENT_NAME == "review/feat-a--b/" && $CI_ENVIRONMENT_ACTION == "start" && $CI_ENVIRONMENT_TIER == "development" && $CI_JOB_STAGE == "test"
      variables: {FROM_RULE: rule}
`)}, c)
	if problems != nil {
		t.Fatal(problems)
	}
	r := Compile(cfg, c)
	if r.Graph == nil {
		t.Fatal(r.Workflow, r.Problems, r.Verdicts)
	}
	job := r.Graph.Jobs[0]
	got := values(job.Variables, "WHO", "SAME", "FROM_RULE", "CI_PIPELINE_NAME", "CI_PIPELINE_ID", "CI_PROJECT_DESCRIPTION", "CI_ENVIRONMENT_NAME", "CI_ENVIRONMENT_SLUG", "CI_ENVIRONMENT_URL")
	got["name"], got["url"], got["group"] = job.Environment.Name, job.Environment.URL, job.ResourceGroup
	want := map[string]string{
		"WHO": "job", "SAME": "$SAME-job", "FROM_RULE": "rule", "CI_PIPELINE_NAME": "feat-a--b!", "CI_PIPELINE_ID": "100", "CI_PROJECT_DESCRIPTION": "",
		"CI_ENVIRONMENT_NAME": "review/feat-a--b/rule", "CI_ENVIRONMENT_SLUG": job.Environment.Slug, "CI_ENVIRONMENT_URL": "https://$CI_ENVIRONMENT_SLUG.example/$CI_PIPELINE_ID/$REPORT",
		"name": "review/feat-a--b/rule", "url": "https://" + job.Environment.Slug + ".example/100/$REPORT", "group": "review/feat-a--b/rule",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}
