package e2e

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// projectReady waits until a Project's Ready condition says what is wanted.
func projectReady(t *testing.T, kubeconfig, namespace, name, status, reason string, parts ...string) {
	t.Helper()
	eventually(t, "Project "+name, func() error {
		got := kubectl(t, kubeconfig, "-n", namespace, "get", "project", name, "-o",
			`jsonpath={.status.observedGeneration}/{.metadata.generation} {.status.conditions[?(@.type=="Ready")].status} {.status.conditions[?(@.type=="Ready")].reason}: {.status.conditions[?(@.type=="Ready")].message}`)
		generations, rest, _ := strings.Cut(got, " ")
		seen, is, _ := strings.Cut(generations, "/")
		if seen != is || !strings.HasPrefix(rest, status+" "+reason+": ") {
			return fmt.Errorf("it is %q", got)
		}
		for _, part := range parts {
			if !strings.Contains(rest, part) {
				return fmt.Errorf("%q is missing in %q", part, rest)
			}
		}
		return nil
	})
}

// triggered posts a form to the API as a script for GitLab does.
func triggered(t *testing.T, base, project string, form url.Values) (int, map[string]any) {
	t.Helper()
	res, err := (&http.Client{Timeout: limit}).PostForm(base+"/api/v4/projects/"+url.PathEscape(project)+"/trigger/pipeline", form)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	body, err := io.ReadAll(res.Body)
	if err != nil {
		t.Fatal(err)
	}
	var answer map[string]any
	if err := json.Unmarshal(body, &answer); err != nil {
		t.Fatalf("%s: %s", res.Status, body)
	}
	return res.StatusCode, answer
}

const triggerToken = "glptt-0123456789abcdef"

// TestProjects goes through what a Project says of itself, its schedules and its triggers.
func TestProjects(t *testing.T) {
	t.Parallel()
	in := shared
	apply(t, in.Kubeconfig, `
apiVersion: v1
kind: Namespace
metadata: {name: projects}
---
apiVersion: keelson.dev/v1alpha1
kind: Project
metadata: {name: app, namespace: projects}
spec:
  repository: projects/app
  path: acme/app
  variables: [{name: TOKEN, valueFrom: {secretKeyRef: {name: app, key: token}}}]
  schedules:
  - {name: nightly, cron: "0 4 * * *", timeZone: Europe/Berlin, variables: {WHO: night}}
  triggers: [{name: deploy, tokenFrom: {name: trigger, key: token}}]
`)
	projectReady(t, in.Kubeconfig, "projects", "app", "False", "RepositoryNotFound", "keelson git create projects/app")
	contains(t, kubectl(t, in.Kubeconfig, "-n", "projects", "get", "projects"), "READY", "STATUS", "there is no repository projects/app")
	in.must(t, "git", "create", "projects/app")
	kubectl(t, in.Kubeconfig, "-n", "projects", "annotate", "project", "app", "reconcile.fluxcd.io/requestedAt=1")
	projectReady(t, in.Kubeconfig, "projects", "app", "False", "VariablesNotFound", "variable TOKEN", "projects/app")
	kubectl(t, in.Kubeconfig, "-n", "projects", "create", "secret", "generic", "app", "--from-literal=token=s3cr3t-of-the-app")
	projectReady(t, in.Kubeconfig, "projects", "app", "False", "TriggersInvalid", "trigger deploy", "projects/trigger")
	kubectl(t, in.Kubeconfig, "-n", "projects", "create", "secret", "generic", "trigger", "--from-literal=token="+triggerToken)
	projectReady(t, in.Kubeconfig, "projects", "app", "True", "Succeeded")
	for patch, want := range map[string]string{
		`{"spec":{"schedules":[{"name":"nightly","cron":"61 4 * * *"}]}}`:                     `"61 4 * * *" is not written as`,
		`{"spec":{"schedules":[{"name":"nightly","cron":"0 4 * * *","timeZone":"Nowhere"}]}}`: `"Nowhere" is no time zone`,
	} {
		kubectl(t, in.Kubeconfig, "-n", "projects", "patch", "project", "app", "--type=merge", "-p", patch)
		projectReady(t, in.Kubeconfig, "projects", "app", "False", "SchedulesInvalid", want)
	}
	kubectl(t, in.Kubeconfig, "-n", "projects", "patch", "project", "app", "--type=merge", "-p",
		`{"spec":{"schedules":[{"name":"nightly","cron":"0 4 * * *","timeZone":"Europe/Berlin","variables":{"WHO":"night"}}]}}`)
	projectReady(t, in.Kubeconfig, "projects", "app", "True", "Succeeded")
	c := cloneOf(t, in.Git+"/projects/app.git")
	write(t, filepath.Join(c.dir, ".gitlab-ci.yml"), "a: {script: ['echo \"$CI_PIPELINE_SOURCE [$CI_PIPELINE_SCHEDULE_DESCRIPTION] $WHO ${#TOKEN}\"', 'test -z \"$TRIGGER_PAYLOAD\" || cat $TRIGGER_PAYLOAD']}\n")
	c.git("add", "-A")
	c.git("commit", "-qm", "First [skip ci]")
	c.git("push", "-q", "origin", "HEAD:main")

	// Schedules.
	contains(t, in.must(t, "ci", "schedules", "--project", "acme/app"), "nightly", "0 4 * * *", "Europe/Berlin", "UTC")
	contains(t, in.must(t, "ci", "schedules", "play", "acme/app", "nightly"), "pipeline ")
	id := in.newest(t, "acme/app", 1)
	in.shown(t, id, "success: a/1=success")
	contains(t, in.must(t, "ci", "logs", fmt.Sprint(id), "a"), "schedule [nightly] night 17")
	played := fmt.Sprint(id)
	fails(t, in.keelson("ci", "schedules", "play", "acme/app", "nosuch"), 1, "no schedule nosuch")
	eventually(t, "the status of the schedule", func() error {
		got := kubectl(t, in.Kubeconfig, "-n", "projects", "get", "project", "app", "-o", "jsonpath={.status.schedules[0].name} {.status.schedules[0].lastPipeline} {.status.schedules[0].next}")
		if !strings.HasPrefix(got, fmt.Sprintf("nightly %d 20", id)) {
			return fmt.Errorf("it is %q", got)
		}
		return nil
	})

	// Another Project of the same path comes and goes, and leaves what this one has.
	apply(t, in.Kubeconfig, "apiVersion: keelson.dev/v1alpha1\nkind: Project\nmetadata: {name: late, namespace: projects}\nspec: {repository: projects/app, path: acme/app}\n")
	projectReady(t, in.Kubeconfig, "projects", "late", "False", "PathTaken", "Project projects/app has the path acme/app already")
	kubectl(t, in.Kubeconfig, "-n", "projects", "delete", "project", "late")

	// Triggers.
	base := strings.TrimSuffix(in.Dashboard, "/")
	for _, bad := range []struct {
		project, token, ref string
		status              int
	}{{"acme/app", "guess", "main", 404}, {"acme/nosuch", triggerToken, "main", 404}, {"acme/app", triggerToken, "nosuch", 400}, {"acme/app", "", "main", 400}} {
		if status, answer := triggered(t, base, bad.project, url.Values{"token": {bad.token}, "ref": {bad.ref}}); status != bad.status {
			t.Errorf("%+v: %d %v", bad, status, answer)
		}
	}
	status, answer := triggered(t, base, "acme/app", url.Values{"token": {triggerToken}, "ref": {"main"}, "variables[WHO]": {"me"}})
	if status != 201 || answer["ref"] != "main" || answer["source"] != "trigger" || answer["iid"] == nil || !strings.HasSuffix(fmt.Sprint(answer["web_url"]), fmt.Sprintf("/acme/app/-/pipelines/%v", answer["id"])) {
		t.Errorf("%d %v", status, answer)
	}
	id = in.newest(t, "acme/app", 2)
	in.shown(t, id, "success: a/1=success")
	log := in.must(t, "ci", "logs", fmt.Sprint(id), "a")
	contains(t, log, "trigger [] me 17", `"ref":"main"`)
	if strings.Contains(log, triggerToken) {
		t.Errorf("the log has the token:\n%s", log)
	}

	// At rest nothing is written, also where it is looked at again: another Project, which is in the queue behind it twice, tells that it was.
	apply(t, in.Kubeconfig, "apiVersion: keelson.dev/v1alpha1\nkind: Project\nmetadata: {name: behind, namespace: projects}\nspec: {repository: projects/app, path: acme/behind}\n")
	projectReady(t, in.Kubeconfig, "projects", "behind", "True", "Succeeded")
	version := "jsonpath={.metadata.resourceVersion}"
	before := kubectl(t, in.Kubeconfig, "-n", "projects", "annotate", "project", "app", "--overwrite", "reconcile.fluxcd.io/requestedAt=2", "-o", version)
	for _, suspend := range []string{"true", "false"} {
		kubectl(t, in.Kubeconfig, "-n", "projects", "patch", "project", "behind", "--type=merge", "-p", `{"spec":{"suspend":`+suspend+`}}`)
		projectReady(t, in.Kubeconfig, "projects", "behind", "True", "Succeeded")
	}
	if after := kubectl(t, in.Kubeconfig, "-n", "projects", "get", "project", "app", "-o", version); after != before {
		t.Errorf("the Project is written although nothing has changed: %s, %s", before, after)
	}
	kubectl(t, in.Kubeconfig, "-n", "projects", "delete", "project", "behind")
	if got := kubectl(t, in.Kubeconfig, "-n", "projects", "get", "project", "app", "-o", "jsonpath={.status.schedules[0].lastPipeline}"); got != played {
		t.Errorf("the last pipeline of the schedule is %q, not %s", got, played)
	}
	kubectl(t, in.Kubeconfig, "-n", "projects", "delete", "project", "app")
	eventually(t, "its schedules go", func() error {
		if got := in.must(t, "ci", "schedules"); strings.Contains(got, "nightly") {
			return fmt.Errorf("%s", got)
		}
		return nil
	})
}

// TestProjectsFromElsewhere follows a repository of another Git server, which says at once that there is something new; its pipelines start
// those of another project, by a job and by a job's token.
func TestProjectsFromElsewhere(t *testing.T) {
	t.Parallel()
	in := shared
	git := newRemote(t)
	c := git.create(t, "up", "testdata/first")
	base := strings.TrimSuffix(in.Dashboard, "/")
	in.must(t, "git", "create", "elsewhere/lib")
	apply(t, in.Kubeconfig, fmt.Sprintf(`
apiVersion: v1
kind: Namespace
metadata: {name: elsewhere}
---
apiVersion: v1
kind: Secret
metadata: {name: webhook, namespace: elsewhere}
stringData: {token: %s}
---
apiVersion: keelson.dev/v1alpha1
kind: Project
metadata: {name: lib, namespace: elsewhere}
spec: {repository: elsewhere/lib, path: acme/lib, readableBy: [acme/up]}
---
apiVersion: keelson.dev/v1alpha1
kind: Project
metadata: {name: up, namespace: elsewhere}
spec:
  repository: elsewhere/up
  path: acme/up
  source: {url: "%s/up.git", secretRef: {name: git}, interval: 1h}
---
apiVersion: notification.toolkit.fluxcd.io/v1
kind: Receiver
metadata: {name: up, namespace: elsewhere}
spec:
  type: github
  events: [ping, push]
  secretRef: {name: webhook}
  resources: [{kind: Project, name: up}]
`, webhookToken, git.url))
	defer func() {
		kubectl(t, in.Kubeconfig, "-n", "elsewhere", "delete", "--ignore-not-found", "--timeout=60s", "receiver/up", "project/up", "project/lib")
		kubectl(t, in.Kubeconfig, "delete", "namespace", "elsewhere", "--wait=false")
	}()
	projectReady(t, in.Kubeconfig, "elsewhere", "up", "False", "SourceInvalid", "credentials of spec.source")
	kubectl(t, in.Kubeconfig, "-n", "elsewhere", "create", "secret", "generic", "git", "--from-literal=username="+remoteUser, "--from-literal=password=wr0ng-password")
	projectReady(t, in.Kubeconfig, "elsewhere", "up", "False", "SourceUnreachable", git.url+"/up.git")
	if got := kubectl(t, in.Kubeconfig, "-n", "elsewhere", "get", "project", "up", "-o", "yaml"); strings.Contains(got, "wr0ng") {
		t.Errorf("the status has the password:\n%s", got)
	}
	kubectl(t, in.Kubeconfig, "-n", "elsewhere", "patch", "secret", "git", "-p", `{"stringData":{"password":"`+remotePassword+`"}}`)
	projectReady(t, in.Kubeconfig, "elsewhere", "up", "True", "Succeeded")
	if got := in.pipelines(t, "acme/up"); len(got) > 0 {
		t.Errorf("what was there makes pipelines: %v", got)
	}
	copied := cloneOf(t, in.Git+"/elsewhere/up.git")
	contains(t, ok(t, program(copied.dir, "git", "log", "--format=%s"), nil), "Begin")
	copied.git("-c", "user.name=a", "-c", "user.email=a@example.com", "commit", "-q", "--allow-empty", "-m", "mine")
	fails(t, program(copied.dir, "git", "push", "-q", "origin", "HEAD:main"), 128, "elsewhere/up is a mirror of "+git.url+"/up.git: push there")

	lib := cloneOf(t, in.Git+"/elsewhere/lib.git")
	write(t, filepath.Join(lib.dir, ".gitlab-ci.yml"), "a: {script: ['echo \"$CI_PIPELINE_SOURCE for $FROM\"']}\n")
	lib.git("add", "-A")
	lib.git("commit", "-qm", "Lib [skip ci]")
	lib.git("push", "-q", "origin", "HEAD:main")
	write(t, filepath.Join(c.dir, ".gitlab-ci.yml"), `
job: {script: [echo hello, 'curl -sS --fail -F token=$CI_JOB_TOKEN -F ref=main -F "variables[FROM]=token" `+base+`/api/v4/projects/acme%2Flib/trigger/pipeline']}
other: {trigger: {project: acme/lib, strategy: depend}, variables: {FROM: bridge}}
`)
	c.push("Pipelines")
	kubectl(t, in.Kubeconfig, "-n", "elsewhere", "wait", "receiver/up", "--for=condition=Ready", "--timeout=60s")
	path := kubectl(t, in.Kubeconfig, "-n", "elsewhere", "get", "receiver", "up", "-o", "jsonpath={.status.webhookPath}")
	if got := deliverHook(t, base+path, `{"ref":"refs/heads/main"}`, webhookToken, "project-1"); got != 200 {
		t.Fatalf("the webhook is answered with %d", got)
	}
	id := in.newest(t, "acme/up", 1)
	in.shown(t, id, "success: job/1=success other/1=success")
	contains(t, in.must(t, "ci", "show", fmt.Sprint(id)), "of acme/lib, ")
	in.newest(t, "acme/lib", 2)
	said := ""
	for _, id := range in.pipelines(t, "acme/lib") {
		in.shown(t, id, "success: a/1=success")
		said += in.must(t, "ci", "logs", fmt.Sprint(id), "a")
	}
	contains(t, said, "pipeline for bridge", "pipeline for token")

	// It is no mirror any more once its Project is gone.
	mirror := cloneOf(t, in.Git+"/elsewhere/up.git")
	write(t, filepath.Join(mirror.dir, "mine"), "mine\n")
	mirror.commit("Mine [skip ci]")
	push := func() (string, error) {
		out, err := exec.Command("git", "-C", mirror.dir, "push", "-q", "origin", "HEAD:main").CombinedOutput()
		return string(out), err
	}
	if out, err := push(); err == nil || !strings.Contains(out, "elsewhere/up is a mirror of") {
		t.Errorf("a push to the mirror: %v\n%s", err, out)
	}
	kubectl(t, in.Kubeconfig, "-n", "elsewhere", "delete", "project", "up")
	eventually(t, "a push to what was a mirror", func() error {
		out, err := push()
		if err != nil {
			return fmt.Errorf("%w: %s", err, out)
		}
		return nil
	})
}
