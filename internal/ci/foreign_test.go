package ci

import (
	"strings"
	"testing"

	"keelson.dev/keelson/internal/store"
)

// TestForeignArtifacts holds whose artifacts a job may take that needs those of other pipelines.
func TestForeignArtifacts(t *testing.T) {
	w := newWorld(t, "app", "lib", "closed")
	app, lib, closed := w.projects.all[0], w.projects.all[1], w.projects.all[2]
	lib.ReadableBy = []string{"group/app"}
	w.projects.set(nil, app, lib, closed)
	for _, name := range []string{"lib", "closed"} {
		dir := w.clone(name)
		w.commit(dir, "First", map[string]string{".gitlab-ci.yml": `
build: {script: ['echo "of $CI_PROJECT_PATH" > made', 'echo "VERSION=7" > vars'], artifacts: {paths: [made], reports: {dotenv: vars}}}
broken: {script: [exit 1], allow_failure: true}
`})
		w.push(dir, 1, "HEAD")
		w.commit(dir, "Second fails", map[string]string{".gitlab-ci.yml": "build: {script: [echo wrong > made, exit 1], artifacts: {paths: [made], when: always}}\n"})
		w.push(dir, 1, "HEAD")
	}
	dir := w.clone("app")
	const needs = "t: {script: [cat made, 'echo \"v$VERSION\"'], needs: [{project: PROJECT, job: JOB, ref: REF, artifacts: trueMORE}]}\n"
	for _, c := range []struct {
		name, config string
		want         string // the pipeline
		log          string // of t
	}{
		{"the last one that has succeeded", strings.NewReplacer("PROJECT", "group/lib", "JOB", "build", "REF", "main", "MORE", "").Replace(needs), "success", "\nof group/lib\n"},
		{"with its variables", strings.NewReplacer("PROJECT", "group/lib", "JOB", "build", "REF", "main", "MORE", "").Replace(needs), "success", "\nv7\n"},
		{"by variables", strings.NewReplacer("PROJECT", "$P", "JOB", "build", "REF", "$CI_DEFAULT_BRANCH", "MORE", "").Replace(needs) + "variables: {P: group/lib}\n", "success", "\nof group/lib\n"},
		{"one that may not be read", strings.NewReplacer("PROJECT", "group/closed", "JOB", "build", "REF", "main", "MORE", "").Replace(needs), "failed", "there is no project group/closed, or its Project does not name group/app"},
		{"no such project", strings.NewReplacer("PROJECT", "group/nosuch", "JOB", "build", "REF", "main", "MORE", "").Replace(needs), "failed", "there is no project group/nosuch"},
		{"no such branch", strings.NewReplacer("PROJECT", "group/lib", "JOB", "build", "REF", "nosuch", "MORE", "").Replace(needs), "failed", "no pipeline of nosuch in project group/lib has succeeded"},
		{"a job that has failed", strings.NewReplacer("PROJECT", "group/lib", "JOB", "broken", "REF", "main", "MORE", "").Replace(needs), "failed", "has no such job that has succeeded"},
	} {
		t.Run(c.name, func(t *testing.T) {
			w.commit(dir, c.name, map[string]string{".gitlab-ci.yml": c.config, "case": c.name})
			p := w.push(dir, 1, "HEAD")[0]
			if log := w.log(p, "t"); p.Status != c.want || !strings.Contains(log, c.log) {
				t.Errorf("%s %s\n%s", p.Status, p.Why, log)
			}
		})
	}

	// A child takes what a job of its parent has made; nobody takes that of a pipeline that is no relative.
	old := w.newest()
	for _, c := range []struct{ name, pipeline, want, log string }{
		{"of the parent", "$PARENT_PIPELINE_ID", "success", "\nof the parent\n"},
		{"of another one", "\"1\"", "failed", "is neither a parent nor a child of this one"},
	} {
		t.Run(c.name, func(t *testing.T) {
			w.commit(dir, c.name, map[string]string{
				".gitlab-ci.yml": "build: {script: [echo of the parent > made], artifacts: {paths: [made]}}\nt: {stage: deploy, trigger: {include: child.yml, strategy: depend}, variables: {PARENT_PIPELINE_ID: $CI_PIPELINE_ID}}\n",
				"child.yml":      "inner: {script: [cat made], needs: [{pipeline: " + c.pipeline + ", job: build}]}\n",
			})
			p := w.push(dir, 1, "HEAD")[0]
			jobs, err := w.db.Jobs(t.Context(), p.ID)
			if err != nil || len(jobs) != 2 {
				t.Fatalf("%s: %+v %v", p.Why, jobs, err)
			}
			children, err := w.db.Pipelines(t.Context(), store.PipelineFilter{Parent: jobs[1].ID})
			if err != nil || len(children) != 1 {
				t.Fatalf("%+v %v\n%s", children, err, w.log(p, "t"))
			}
			if log := w.log(children[0], "inner"); p.Status != c.want || !strings.Contains(log, c.log) {
				t.Errorf("%s after %d\n%s", p.Status, old, log)
			}
		})
	}
}
