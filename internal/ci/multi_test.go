package ci

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"keelson.dev/keelson/internal/pipeline"
	"keelson.dev/keelson/internal/store"
)

// TestMultiProject holds what trigger jobs do with the pipelines of other projects.
func TestMultiProject(t *testing.T) {
	w := newWorld(t, "app", "lib", "closed")
	app, lib, closed := w.projects.all[0], w.projects.all[1], w.projects.all[2]
	lib.ReadableBy, app.ReadableBy = []string{"group/*"}, []string{"group/lib"}
	w.projects.set(nil, app, lib, closed)
	libDir := w.clone("lib")
	w.commit(libDir, "Lib [skip ci]", map[string]string{".gitlab-ci.yml": `
a: {script: ['echo "$CI_PIPELINE_SOURCE $CI_PROJECT_PATH $CI_COMMIT_BRANCH [$FROM] [$ASKED] [$SECRET]"', 'test "$FROM" != fail']}
back: {trigger: {project: group/app}, rules: [{if: $FROM == "loop"}]}
`})
	w.git(libDir, "push", "-q", "origin", "HEAD", "HEAD:dev")
	w.git(libDir, "checkout", "-qb", "wrong")
	w.commit(libDir, "Wrong [skip ci]", map[string]string{".gitlab-ci.yml": "a: {script: [x], needs: [nosuch]}\n"})
	w.git(libDir, "push", "-q", "origin", "HEAD")
	w.queueIsEmpty()
	dir := w.clone("app")
	for _, c := range []struct {
		name, config string
		want         string // of the pipeline
		other        string // of the one that it starts; empty: none
		log          string // of the other one's job, or of the trigger job
	}{
		{"depend", "t: {trigger: {project: group/lib, strategy: depend}, variables: {FROM: app}}\nafter: {stage: deploy, script: ['true']}\n", "push main success: t/1=success after/1=success", "pipeline main success: a/1=success", "pipeline group/lib main [app] [] []"},
		{"a branch", "t: {trigger: {project: group/lib, branch: $B, strategy: mirror}, variables: {B: dev}}\n", "push main success: t/1=success", "pipeline dev success: a/1=success", "pipeline group/lib dev [] [] []"},
		{"a failure", "t: {trigger: {project: group/lib, strategy: depend}, variables: {FROM: fail}}\nafter: {stage: deploy, script: ['true']}\n", "push main failed: t/1=failed after/1=skipped", "pipeline main failed: a/1=failed", "[fail]"},
		{"nobody waits", "t: {trigger: group/lib, variables: {FROM: fail}}\n", "push main success: t/1=success", "pipeline main failed: a/1=failed", "[fail]"},
		{"a loop", "t: {trigger: {project: group/lib, strategy: depend}, variables: {FROM: loop}}\n", "push main success: t/1=success", "pipeline main success: a/1=success back/1=success", "[loop]"},
		{"no such project", "t: {trigger: group/nosuch}\n", "push main failed: t/1=failed", "", "there is no project group/nosuch, or its Project does not name group/app"},
		{"one that may not be read", "t: {trigger: group/closed}\n", "push main failed: t/1=failed", "", "there is no project group/closed, or its Project does not name group/app"},
		{"no such branch", "t: {trigger: {project: group/lib, branch: nosuch}}\n", "push main failed: t/1=failed", "", "no branch or tag nosuch"},
		{"an error there", "t: {trigger: {project: group/lib, branch: wrong, strategy: depend}}\n", "push main failed: t/1=failed", "pipeline wrong failed:", ".gitlab-ci.yml:1:"},
	} {
		t.Run(c.name, func(t *testing.T) {
			after := w.newest()
			w.commit(dir, c.name, map[string]string{".gitlab-ci.yml": "stages: [test, deploy]\n" + c.config})
			w.git(dir, "push", "-q", "origin", "HEAD")
			var p store.Pipeline
			w.until("the pipeline of the push rests", func() bool {
				all, err := w.db.Pipelines(t.Context(), store.PipelineFilter{Source: "push", Limit: 1})
				if err == nil && len(all) == 1 {
					p = all[0]
				}
				return p.ID > after && p.Resting
			})
			w.wants(p, c.want)
			jobs, err := w.db.Jobs(t.Context(), p.ID)
			if err != nil {
				t.Fatal(err)
			}
			others, err := w.db.Pipelines(t.Context(), store.PipelineFilter{Upstream: jobs[0].ID})
			if err != nil {
				t.Fatal(err)
			}
			log := w.log(p, "t")
			if c.other == "" && len(others) > 0 || c.other != "" && len(others) != 1 {
				t.Fatalf("%d pipelines of others\n%s", len(others), log)
			}
			if c.other != "" {
				w.until("the other one rests", func() bool { q, err := w.db.Pipeline(t.Context(), others[0].ID); return err == nil && q.Resting })
				w.wants(others[0], c.other)
				if !strings.HasSuffix(c.other, ":") {
					log = w.log(others[0], "a")
				}
			}
			if !strings.Contains(log, c.log) {
				t.Errorf("%s", log)
			}
			if c.name == "a loop" { // once around, and no further
				all := w.await(after, 4)
				w.wants(all[2], "pipeline main failed: t/1=failed")
				w.wants(all[3], "pipeline main failed: a/1=success back/1=failed")
				if log := w.log(all[3], "back"); len(all) != 4 || !strings.Contains(log, "for ever") {
					t.Errorf("%d pipelines\n%s", len(all), log)
				}
			}
		})
	}
}

// TestMultiProjectRestarts ends the server while a job waits for the pipeline of another project, and once more when that is over. A child of that
// one, which has failed, is not what the job waits for.
func TestMultiProjectRestarts(t *testing.T) {
	for _, child := range []string{"", "c: {trigger: {include: child.yml}}\n"} {
		t.Run(fmt.Sprintf("child %t", child != ""), func(t *testing.T) {
			w := newWorld(t, "app", "lib")
			app, lib := w.projects.all[0], w.projects.all[1]
			lib.ReadableBy = []string{"group/app"}
			w.projects.set(nil, app, lib)
			flag := filepath.Join(w.dir, "flag")
			libDir := w.clone("lib")
			w.commit(libDir, "Lib [skip ci]", map[string]string{
				".gitlab-ci.yml": child + "a: {script: ['test -e " + flag + " || sleep 60'], retry: {max: 2, when: runner_system_failure}}\n",
				"child.yml":      "b: {script: [exit 1]}\n",
			})
			w.git(libDir, "push", "-q", "origin", "HEAD")
			w.queueIsEmpty()
			dir := w.clone("app")
			w.commit(dir, "First", map[string]string{".gitlab-ci.yml": "t: {trigger: {project: group/lib, strategy: depend}}\nlater: {stage: deploy, script: ['true']}\n"})
			w.git(dir, "push", "-q", "origin", "HEAD")
			running := func(attempt string) func() bool {
				return func() bool {
					all, err := w.db.Pipelines(t.Context(), store.PipelineFilter{Source: pipeline.SourcePipeline})
					children, cerr := w.db.Pipelines(t.Context(), store.PipelineFilter{Source: pipeline.SourceParent})
					failed := child == "" || len(children) == 1 && strings.Contains(w.sum(children[0]), "failed: b/1=failed")
					return err == nil && cerr == nil && len(all) == 1 && strings.Contains(w.sum(all[0]), attempt) && failed
				}
			}
			w.until("the other one runs", running("a/1=running"))
			p := w.first()
			w.end()
			w.start()
			w.until("it runs again", running("a/2=running"))
			w.wants(p, "push main running: t/1=running later/1=created")
			w.end()
			if err := os.WriteFile(flag, nil, 0o600); err != nil {
				t.Fatal(err)
			}
			w.start()
			w.await(0, 2)
			w.wants(p, "push main success: t/1=success later/1=success")
		})
	}
}

// TestMultiProjectCancel holds that a pipeline that is canceled waits for no other project any more.
func TestMultiProjectCancel(t *testing.T) {
	w := newWorld(t, "app", "lib")
	app, lib := w.projects.all[0], w.projects.all[1]
	lib.ReadableBy = []string{"group/app"}
	w.projects.set(nil, app, lib)
	flag := filepath.Join(w.dir, "flag")
	libDir := w.clone("lib")
	w.commit(libDir, "Lib [skip ci]", map[string]string{".gitlab-ci.yml": "a: {script: ['until test -e " + flag + "; do sleep 0.05; done']}\n"})
	w.git(libDir, "push", "-q", "origin", "HEAD")
	w.queueIsEmpty()
	dir := w.clone("app")
	w.commit(dir, "First", map[string]string{".gitlab-ci.yml": "t: {trigger: {project: group/lib, strategy: depend}}\n"})
	w.git(dir, "push", "-q", "origin", "HEAD")
	w.until("the other one runs", func() bool {
		all, err := w.db.Pipelines(t.Context(), store.PipelineFilter{Source: "pipeline"})
		return err == nil && len(all) == 1 && strings.Contains(w.sum(all[0]), "a/1=running")
	})
	p := w.first()
	if refusal := w.ask(CommandCancel, p); refusal != "" {
		t.Fatal(refusal)
	}
	w.until("it rests", func() bool { return w.first().Resting })
	w.wants(p, "push main canceled: t/1=canceled")
	if err := os.WriteFile(flag, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	all := w.await(p.ID, 1)
	w.wants(all[0], "pipeline main success: a/1=success")
}
