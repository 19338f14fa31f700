package ci

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"keelson.dev/keelson/internal/pipeline"
	"keelson.dev/keelson/internal/store"
)

// TestRedundant holds what a newer pipeline of a ref does to an older one, which has got as far as it can.
func TestRedundant(t *testing.T) {
	const (
		waits = "script: ['until test -e FLAG; do sleep 0.05; done']"
		gate  = "gate: {stage: deploy, script: ['true'], when: manual, allow_failure: false}\n"
	)
	for _, c := range []struct {
		name, config string
		keep         bool
		ref          string // that the newer one is of; empty: the same
		until, want  string // what the older one has come to before and after
	}{
		{"what may be interrupted", "a: {" + waits + ", interruptible: true}\nb: {stage: deploy, script: ['true']}\n", false, "", "a/1=running", "push main canceled: a/1=canceled b/1=canceled"},
		{"what may not", "a: {" + waits + "}\nb: {stage: deploy, script: ['true']}\n", false, "", "a/1=running", "push main success: a/1=success b/1=success"},
		{"what may not has passed", "a: {script: ['true']}\nb: {stage: deploy, " + waits + ", interruptible: true}\n", false, "", "b/1=running", "push main success: a/1=success b/1=success"},
		{
			"only what may be interrupted", "workflow: {auto_cancel: {on_new_commit: interruptible}}\na: {" + waits + "}\nb: {" + waits + ", interruptible: true}\n", false, "",
			"a/1=running b/1=running", "push main canceled: a/1=success b/1=canceled",
		},
		{"none", "workflow: {auto_cancel: {on_new_commit: none}}\na: {" + waits + ", interruptible: true}\n", false, "", "a/1=running", "push main success: a/1=success"},
		{"the project keeps them", "a: {" + waits + ", interruptible: true}\n", true, "", "a/1=running", "push main success: a/1=success"},
		{"another branch", "a: {" + waits + ", interruptible: true}\n", false, "other", "a/1=running", "push main success: a/1=success"},
		{"a gate", "a: {script: ['true'], interruptible: true}\n" + gate, false, "", "manual: a/1=success gate/1=manual", "push main canceled: a/1=success gate/1=canceled"},
		{"a gate behind what may not", "a: {script: ['true']}\n" + gate, false, "", "manual: a/1=success gate/1=manual", "push main manual: a/1=success gate/1=manual"},
		{
			"with its child", "a: {trigger: {include: child.yml, strategy: depend}, interruptible: true}\n", false, "", "a/1=running",
			"push main canceled: a/1=canceled",
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			w := newWorld(t, "app")
			w.projects.all[0].KeepRedundant = c.keep
			flag := filepath.Join(w.dir, "flag")
			text := func(s string) string { return strings.ReplaceAll(s, "FLAG", flag) }
			dir := w.clone("app")
			w.commit(dir, "First", map[string]string{
				".gitlab-ci.yml": "stages: [test, deploy]\n" + text(c.config), "child.yml": text("inner: {" + waits + ", interruptible: true}\n"),
			})
			w.git(dir, "push", "-q", "origin", "HEAD")
			w.until("the older one has come so far", func() bool { return w.newest() > 0 && strings.Contains(w.sum(w.first()), c.until) })
			older := w.first()
			w.commit(dir, "Second", map[string]string{".gitlab-ci.yml": "new: {script: ['true']}\n"})
			ref := "main"
			if c.ref != "" {
				ref = c.ref
			}
			w.git(dir, "push", "-q", "origin", "HEAD:"+ref)
			w.until("the newer one has passed", func() bool {
				all, err := w.db.Pipelines(t.Context(), store.PipelineFilter{Ref: ref, Top: true, Limit: 1})
				return err == nil && len(all) > 0 && all[0].Title == "Second" && all[0].Resting
			})
			w.queueIsEmpty()
			if strings.Contains(c.want, "canceled") {
				w.until("something is canceled", func() bool { return strings.Contains(w.sum(older), "=canceled") })
			}
			if err := os.WriteFile(flag, nil, 0o600); err != nil {
				t.Fatal(err)
			}
			w.until("the older one rests", func() bool { p := w.first(); return p.Resting })
			w.wants(older, c.want)
			if strings.Contains(c.want, "canceled") {
				jobs, err := w.db.Jobs(t.Context(), older.ID)
				if err != nil || !strings.Contains(fmt.Sprint(jobs), "for a newer commit") {
					t.Errorf("%+v %v", jobs, err)
				}
			}
			children, err := w.db.Pipelines(t.Context(), store.PipelineFilter{Source: pipeline.SourceParent})
			if err != nil {
				t.Fatal(err)
			}
			for _, child := range children {
				w.wants(child, "parent_pipeline main canceled: inner/1=canceled")
			}
		})
	}
}

// first is the oldest pipeline.
func (w *world) first() store.Pipeline {
	w.Helper()
	all, err := w.db.Pipelines(w.Context(), store.PipelineFilter{Top: true})
	if err != nil || len(all) == 0 {
		w.Fatal(err)
	}
	return all[len(all)-1]
}

// TestRedundantAfterRestart ends the server between a pipeline and what it makes redundant: what had asked for the pipeline is taken again.
func TestRedundantAfterRestart(t *testing.T) {
	for _, kind := range []string{commandPush, commandSchedule} {
		t.Run(kind, func(t *testing.T) {
			w := newWorld(t, "app")
			dir := w.clone("app")
			w.commit(dir, "First", map[string]string{".gitlab-ci.yml": "a: {script: ['sleep 60'], interruptible: true, retry: {max: 1, when: runner_system_failure}}\n"})
			w.git(dir, "push", "-q", "origin", "HEAD")
			w.until("it runs", func() bool { return w.newest() > 0 && strings.Contains(w.sum(w.first()), "a/1=running") })
			older := w.first()
			app := w.projects.all[0]
			app.Schedules = []Schedule{{Name: "it", Cron: "0 4 * * *"}}
			app.KeepRedundant = true // as if the server ended before it looked
			w.projects.set(nil, app)
			w.commit(dir, "Second", map[string]string{".gitlab-ci.yml": "new: {script: ['true']}\n"})
			again := store.Command{Kind: kind, Created: time.Now().Add(-time.Second), User: "ada"}
			var args any
			if kind == commandPush {
				args = Push{Repository: "app", User: "ada", Changes: []RefChange{{Ref: "refs/heads/main", Before: older.SHA, After: w.git(dir, "rev-parse", "HEAD")}}}
				w.push(dir, 1, "HEAD")
			} else {
				args = due{Project: "group/app", Name: "it", At: again.Created}
				w.git(dir, "push", "-q", "-o", "ci.skip", "origin", "HEAD")
				w.queueIsEmpty()
				if made, err := w.server.scheduled(t.Context(), args.(due), again.Created, ""); err != nil || made.SHA == older.SHA {
					t.Fatal(made, err)
				}
				w.await(older.ID, 1)
			}
			w.end()
			app.KeepRedundant = false
			w.projects.set(nil, app)
			w.start()
			var err error
			if again.Args, err = json.Marshal(args); err != nil {
				t.Fatal(err)
			}
			if _, err := w.db.Enqueue(t.Context(), again); err != nil {
				t.Fatal(err)
			}
			w.until("the older one rests", func() bool { return w.first().Resting })
			if sum := w.sum(older); !strings.HasPrefix(sum, "push main canceled: a/1=failed a/2=canceled") {
				t.Error(sum)
			}
			if all, err := w.db.Pipelines(t.Context(), store.PipelineFilter{}); err != nil || len(all) != 2 {
				t.Errorf("%d pipelines, %v", len(all), err)
			}
		})
	}
}
