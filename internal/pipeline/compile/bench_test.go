package compile

import (
	"fmt"
	"strings"
	"testing"

	"keelson.dev/keelson/internal/pipeline"
)

// large is a file of n jobs as generators write them: stages, needs, rules, variables, environments, a template for all.
func large(n int) []byte {
	var b strings.Builder
	b.WriteString("stages: [build, test, package, deploy]\nvariables:\n")
	for i := range 20 {
		fmt.Fprintf(&b, "  TOP_%d: value-%d\n", i, i)
	}
	b.WriteString(`
.base: &base
  image: registry.example.com/$CI_PROJECT_PATH/build:1
  before_script: [set -x]
  retry: 1
  rules: &rules
    - if: $CI_COMMIT_TAG
      when: never
    - if: $CI_COMMIT_BRANCH =~ /^wip-/
      when: never
    - if: $CI_PIPELINE_SOURCE == "schedule" && $NIGHTLY == "yes"
      when: always
    - if: $CI_COMMIT_BRANCH == $CI_DEFAULT_BRANCH || $CI_PIPELINE_SOURCE == "merge_request_event"
      variables: {SCOPE: full}
`)
	stages := []string{"build", "test", "package", "deploy"}
	for i := range n {
		service, stage := i/4, i%4
		fmt.Fprintf(&b, "%s-%d:\n  <<: *base\n  stage: %s\n  variables:\n    SERVICE: service-%d\n    TARGET: $SERVICE-$SCOPE\n  script:\n    - make -C services/%d %s\n",
			stages[stage], service, stages[stage], service, service, stages[stage])
		if stage > 0 {
			fmt.Fprintf(&b, "  needs: [%s-%d]\n", stages[stage-1], service)
		}
		if stage == 3 {
			fmt.Fprintf(&b, "  environment:\n    name: production/service-%d\n    url: https://$CI_ENVIRONMENT_SLUG.example.com\n  resource_group: service-%d\n", service, service)
		}
	}
	return []byte(b.String())
}

func benchmarkContext() *pipeline.Context {
	return &pipeline.Context{
		Source: pipeline.SourcePush, Ref: "main", Commit: pipeline.Commit{SHA: strings.Repeat("0", 40), Message: "a title"},
		Project: pipeline.Project{ID: 1, Path: "group/app", DefaultBranch: "main", URL: "https://git.example.com/group/app"},
		Server:  pipeline.Server{URL: "https://git.example.com"}, User: pipeline.User{ID: 1, Login: "ada"},
	}
}

func BenchmarkCompile(b *testing.B) {
	c := benchmarkContext()
	cfg, problems := load(tree{".gitlab-ci.yml": large(2000)}, c)
	if problems.Failed() {
		b.Fatal(problems[0])
	}
	b.ReportAllocs()
	for b.Loop() {
		r := Compile(cfg, c)
		if r.Graph == nil || len(r.Graph.Jobs) != 2000 {
			b.Fatal(r.Workflow, r.Problems)
		}
	}
}

// BenchmarkLoadCompile is the whole way from text to graph.
func BenchmarkLoadCompile(b *testing.B) {
	files, c := tree{".gitlab-ci.yml": large(2000)}, benchmarkContext()
	b.ReportAllocs()
	for b.Loop() {
		cfg, problems := load(files, c)
		if problems.Failed() {
			b.Fatal(problems[0])
		}
		if r := Compile(cfg, c); r.Graph == nil {
			b.Fatal(r.Problems)
		}
	}
}

func BenchmarkLint(b *testing.B) {
	c := benchmarkContext()
	cfg, problems := load(tree{".gitlab-ci.yml": large(2000)}, c)
	if problems.Failed() {
		b.Fatal(problems[0])
	}
	b.ReportAllocs()
	for b.Loop() {
		if Lint(cfg).Failed() {
			b.Fatal("errors")
		}
	}
}
