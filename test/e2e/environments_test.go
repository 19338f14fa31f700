package e2e

import (
	"encoding/json"
	"fmt"
	"path/filepath"
	"testing"
)

// environmentShown is what "keelson ci env show -o json" tells.
type environmentShown struct {
	State string `json:"state"`
	URL   string `json:"url"`
	Last  struct {
		SHA string `json:"sha"`
	} `json:"last"`
	Deployments []struct {
		IID    int64  `json:"iid"`
		SHA    string `json:"sha"`
		Status string `json:"status"`
	} `json:"deployments"`
}

// TestEnvironmentsOfPipelines deploys a review app and a production, goes back, and lets both end: one with its branch, one by hand.
func TestEnvironmentsOfPipelines(t *testing.T) {
	t.Parallel()
	in := shared
	in.must(t, "git", "create", "team/envs")
	apply(t, in.Kubeconfig, `
apiVersion: v1
kind: Namespace
metadata: {name: envs}
---
apiVersion: keelson.dev/v1alpha1
kind: Project
metadata: {name: envs, namespace: envs}
spec:
  repository: team/envs
  path: acme/envs
  environments:
  - {name: locked, deployers: [release-bot]}
`)
	c := cloneOf(t, in.Git+"/team/envs.git")
	write(t, filepath.Join(c.dir, ".gitlab-ci.yml"), `
stages: [deploy]
review:
  stage: deploy
  rules: [{if: $CI_COMMIT_BRANCH != "main"}]
  script: ['echo "WHERE=https://$CI_ENVIRONMENT_SLUG.example" > deploy.env']
  artifacts: {reports: {dotenv: deploy.env}}
  environment: {name: review/$CI_COMMIT_REF_NAME, url: $WHERE, on_stop: end review, auto_stop_in: 1 week}
end review:
  stage: deploy
  rules: [{if: $CI_COMMIT_BRANCH != "main", when: manual, allow_failure: true}]
  script: ['test -e .gitlab-ci.yml', 'echo "ends $CI_ENVIRONMENT_URL"']
  environment: {name: review/$CI_COMMIT_REF_NAME, action: stop}
live: {stage: deploy, rules: [{if: $CI_COMMIT_BRANCH == "main"}], script: ['true'], environment: production}
locked: {stage: deploy, rules: [{if: $CI_COMMIT_BRANCH == "main", when: manual, allow_failure: true}], script: ['true'], environment: locked}
`)
	c.git("add", "-A")
	c.git("commit", "-qm", "Environments")
	first := c.git("rev-parse", "HEAD")
	c.git("push", "-q", "origin", "HEAD:main")
	one := in.newest(t, "acme/envs", 1)
	in.shown(t, one, "success: live/1=success locked/1=manual")
	fails(t, in.keelson("ci", "play", fmt.Sprint(one), "locked"), 1, "the environment locked is protected: only jobs of release-bot may deploy to it")
	c.git("commit", "-qm", "Second", "--allow-empty")
	second := c.git("rev-parse", "HEAD")
	c.git("push", "-q", "origin", "HEAD:main")
	two := in.newest(t, "acme/envs", 2)
	in.shown(t, two, "success: live/1=success locked/1=manual")
	c.git("push", "-q", "origin", "HEAD:topic")
	three := in.newest(t, "acme/envs", 3)
	in.shown(t, three, "success: review/1=success end review/1=manual")

	contains(t, in.must(t, "ci", "env", "--project", "acme/envs"), "production", "review/topic", "development", "available", second[:8], "topic", "https://review-topic-", "6d")
	contains(t, in.must(t, "ci", "env", "show", "acme/envs", "review/topic"), "review/topic of acme/envs", "Stopped by:", "end review", "success, there now", "review")
	env := func(name string) (e environmentShown) {
		t.Helper()
		if err := json.Unmarshal([]byte(in.must(t, "ci", "env", "show", "acme/envs", name, "-o", "json")), &e); err != nil {
			t.Fatal(err)
		}
		return e
	}
	if e := env("production"); e.Last.SHA != second || len(e.Deployments) != 2 || e.Deployments[1].SHA != first {
		t.Errorf("%+v", e)
	}
	fails(t, in.keelson("ci", "env", "rollback", "acme/envs", "production", "--to", "9"), 1, "it has no deployment 9")
	in.must(t, "ci", "env", "rollback", "acme/envs", "production")
	in.shown(t, one, "success: live/1=success locked/1=manual live/2=success")
	if e := env("production"); e.Last.SHA != first || len(e.Deployments) != 3 {
		t.Errorf("%+v", e)
	}

	c.git("push", "-q", "origin", "--delete", "topic")
	in.shown(t, three, "success: review/1=success end review/1=success")
	if e := env("review/topic"); e.State != "stopped" {
		t.Errorf("%+v", e)
	}
	contains(t, in.must(t, "ci", "logs", fmt.Sprint(three), "end review"), "\nends https://review-topic-")
	contains(t, in.must(t, "ci", "env", "list", "--state", "stopped"), "review/topic")
	contains(t, in.must(t, "ci", "env", "stop", "acme/envs", "production"), "stopped, production")
	fails(t, in.keelson("ci", "env", "stop", "acme/envs", "production"), 1, "is stopped already")
	fails(t, in.keelson("ci", "env", "show", "acme/envs", "nosuch"), 1, "project acme/envs has no environment nosuch")
	fails(t, in.keelson("ci", "env", "show", "acme/nosuch", "production"), 1, "acme/nosuch")
}
