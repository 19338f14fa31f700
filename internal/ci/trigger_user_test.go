package ci

import (
	"strings"
	"testing"

	"keelson.dev/keelson/internal/pipeline"
	"keelson.dev/keelson/internal/store"
)

// TestTriggerUser holds that a pipeline which a trigger job starts is whose that job is: a deployer's push opens a protected environment to
// nobody who plays the job.
func TestTriggerUser(t *testing.T) {
	w := newWorld(t, "app", "lib")
	app, lib := w.projects.all[0], w.projects.all[1]
	app.Environments = []EnvironmentRule{{Name: "prod", Deployers: []string{"ada"}}}
	lib.Environments, lib.ReadableBy = app.Environments, []string{"group/app"}
	w.projects.set(nil, app, lib)
	const deploys = "d: {script: ['echo by $GITLAB_USER_LOGIN'], environment: prod}\n"
	libDir := w.clone("lib")
	w.commit(libDir, "Lib [skip ci]", map[string]string{".gitlab-ci.yml": deploys})
	w.git(libDir, "push", "-q", "origin", "HEAD")
	w.queueIsEmpty()
	dir := w.clone("app")
	w.commit(dir, "First", map[string]string{
		"child.yml": "deeper: {trigger: {include: grandchild.yml, strategy: depend}}\n", "grandchild.yml": deploys,
		".gitlab-ci.yml": `
child: {trigger: {include: child.yml, strategy: depend}, when: manual}
other: {trigger: {project: group/lib, strategy: depend}, when: manual}
own: {trigger: {include: grandchild.yml, strategy: depend}}
`})
	p := w.push(dir, 1, "HEAD")[0] // by ada
	w.wants(p, "push main success: child/1=manual other/1=manual own/1=success")
	for _, job := range []string{"child", "other"} {
		if refusal := w.ask(CommandPlay, p, job); refusal != "" { // by bob
			t.Fatal(refusal)
		}
		w.until(job+" is over", func() bool {
			return strings.Contains(w.sum(p), job+"/1=failed") || strings.Contains(w.sum(p), job+"/1=success")
		})
	}
	w.wants(p, "push main success: child/1=failed other/1=failed own/1=success")
	all, err := w.db.Pipelines(t.Context(), store.PipelineFilter{})
	if err != nil {
		t.Fatal(err)
	}
	users, logs := map[string]int{}, ""
	for _, q := range all {
		users[q.User]++
		if strings.Contains(w.sum(q), "d/1=") && q.User == "bob" {
			logs += w.log(q, "d")
		}
	}
	if users["bob"] != 3 || users["ada"] != 2 { // a child, its child and another project's; the push and its own child
		t.Errorf("pipelines by user: %v", users)
	}
	if strings.Count(logs, "the environment prod is protected: only jobs of ada may deploy to it, and not those of bob") != 2 {
		t.Errorf("%s", logs)
	}
}

// TestTriggerOfProtected holds that a trigger job with a protected environment is its deployers': its variables go to the pipeline that it starts.
func TestTriggerOfProtected(t *testing.T) {
	w := newWorld(t, "app", "lib")
	app, lib := w.projects.all[0], w.projects.all[1]
	lib.ReadableBy = []string{"group/app"}
	app.Environments = []EnvironmentRule{{Name: "prod", Deployers: []string{"bob"}}}
	app.Variables = pipeline.Variables{
		{Name: "SECRET", Value: "value-of-prod", Scope: "prod", Origin: pipeline.OriginProject},
		{Name: "MASKED", Value: "mask-of-all", Masked: true, Origin: pipeline.OriginProject},
	}
	w.projects.set(nil, app, lib)
	const tells = "d: {script: ['echo \"got [$GOT]\"']}\n"
	libDir := w.clone("lib")
	w.commit(libDir, "Lib [skip ci]", map[string]string{".gitlab-ci.yml": tells})
	w.git(libDir, "push", "-q", "origin", "HEAD")
	w.queueIsEmpty()
	dir := w.clone("app")
	w.commit(dir, "First", map[string]string{"child.yml": tells, ".gitlab-ci.yml": `
default: {retry: 2}
child: {trigger: {include: child.yml, strategy: depend}, environment: prod, variables: {GOT: $SECRET}}
other: {trigger: {project: group/lib, strategy: depend}, environment: prod, variables: {GOT: $SECRET}}
hidden: {trigger: {include: child.yml, strategy: depend}, environment: x-$MASKED}
named: {trigger: {project: group/$SECRET}, environment: prod}
free: {trigger: {include: child.yml, strategy: depend}, environment: free, variables: {GOT: "[$SECRET]"}}
later: {trigger: {include: child.yml, strategy: depend}, environment: prod, when: manual, variables: {GOT: $SECRET}}
`})
	p := w.push(dir, 1, "HEAD")[0] // by ada
	w.wants(p, "push main failed: child/1=failed other/1=failed hidden/1=failed named/1=failed free/1=success later/1=manual")
	jobs, err := w.db.Jobs(t.Context(), p.ID)
	if err != nil {
		t.Fatal(err)
	}
	for i, want := range []string{"protected_environment_failure", "protected_environment_failure", "environment_creation_failure", "protected_environment_failure"} {
		if jobs[i].Reason != want {
			t.Errorf("%s: %s %s, want %s", jobs[i].Name, jobs[i].Reason, jobs[i].Message, want)
		}
	}
	const says = "the environment prod is protected: only jobs of bob may deploy to it, and not those of ada"
	for _, job := range []string{"child", "other", "named"} {
		if log := w.log(p, job); !strings.Contains(log, says) || strings.Contains(log, "value-of-prod") {
			t.Errorf("%s", log)
		}
	}
	started := func() (logs string) {
		t.Helper()
		all, err := w.db.Pipelines(t.Context(), store.PipelineFilter{})
		if err != nil {
			t.Fatal(err)
		}
		for _, q := range all {
			if q.ID != p.ID {
				logs += w.log(q, "d")
			}
		}
		return logs
	}
	if logs := started(); strings.Count(logs, "\ngot [") != 1 || strings.Contains(logs, "value-of-prod") {
		t.Errorf("what ada's push has got:\n%s", logs)
	}
	if refusal := w.ask(CommandPlay, p, "later"); refusal != "" { // by bob
		t.Fatal(refusal)
	}
	w.until("bob's is over", func() bool { return strings.Contains(w.sum(p), "later/1=success") })
	if logs := started(); !strings.Contains(logs, "\ngot [value-of-prod]") {
		t.Errorf("what bob has got:\n%s", logs)
	}
}

// TestByJob holds whose a pipeline is that a job starts by its token, and that such pipelines do not start each other for ever.
func TestByJob(t *testing.T) {
	w := newWorld(t, "app", "lib")
	dir := w.clone("app")
	w.commit(dir, "First", map[string]string{".gitlab-ci.yml": "a: {script: ['true']}\nb: {script: ['true'], when: manual}\n"})
	p := w.push(dir, 1, "HEAD")[0]
	if refusal := w.ask(CommandPlay, p, "b"); refusal != "" { // by bob
		t.Fatal(refusal)
	}
	w.until("b is over", func() bool { return strings.Contains(w.sum(p), "b/1=success") })
	libDir := w.clone("lib")
	w.commit(libDir, "Lib [skip ci]", map[string]string{".gitlab-ci.yml": "c: {script: ['true']}\n"})
	w.git(libDir, "push", "-q", "origin", "HEAD")
	w.queueIsEmpty()
	jobs, err := w.db.Jobs(t.Context(), p.ID)
	if err != nil {
		t.Fatal(err)
	}
	lib := Event{Project: "group/lib", Ref: "refs/heads/main", IgnoreSkip: true}
	for i, user := range []string{"ada", "bob"} {
		e, err := w.server.ByJob(t.Context(), lib, jobs[i].ID)
		if err != nil || e.User != user || e.Upstream != jobs[i].ID || strings.Join(e.Chain, " ") != "group/app@"+p.SHA {
			t.Errorf("%+v, %v", e, err)
		}
	}
	// One that starts itself, and one that does by way of another: once.
	for _, way := range []string{"group/app", "group/lib group/app group/lib"} {
		by, from := jobs[1].ID, "group/app"
		for _, to := range strings.Fields(way) {
			e, err := w.server.ByJob(t.Context(), Event{Project: to, Ref: "refs/heads/main", IgnoreSkip: true}, by)
			if err != nil {
				t.Fatalf("%s: from %s to %s: %v", way, from, to, err)
			}
			made, err := w.server.Create(t.Context(), e)
			if err != nil || made.User != "bob" {
				t.Fatal(made, err)
			}
			its, err := w.db.Jobs(t.Context(), made.ID)
			if err != nil {
				t.Fatal(err)
			}
			by, from = its[0].ID, to
		}
		if _, err := w.server.ByJob(t.Context(), Event{Project: "group/app", Ref: "refs/heads/main"}, by); err == nil || !strings.Contains(err.Error(), "for ever") {
			t.Errorf("%s: a second circle: %v", way, err)
		}
	}
}
