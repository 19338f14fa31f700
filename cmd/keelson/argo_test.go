package main

import (
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/yaml"

	argocdv1 "keelson.dev/keelson/api/argocd/v1alpha1"
	"keelson.dev/keelson/internal/dialect"
	"keelson.dev/keelson/internal/web"
)

// application reads an Application that lives in argocd/guestbook.
func application(t *testing.T, text string) *argocdv1.Application {
	t.Helper()
	a := &argocdv1.Application{}
	if err := yaml.Unmarshal([]byte(text), a); err != nil {
		t.Fatal(err)
	}
	a.Namespace, a.Name = "argocd", "guestbook"
	return a
}

func TestAppOfArgo(t *testing.T) {
	const sha = "0123456789abcdef0123456789abcdef01234567"
	auto := "spec: {syncPolicy: {automated: {selfHeal: true}}}\n"
	differs := "status: {sync: {status: OutOfSync}, health: {status: Healthy}, resources: [{kind: Service, namespace: web, name: ui, status: OutOfSync}]}\n"
	cases := map[string]struct {
		text           string
		state          web.State
		reason, phrase string
	}{
		"nobody has looked":   {"spec: {}", web.Unknown, "", ""},
		"synced and healthy":  {"status: {sync: {status: Synced}, health: {status: Healthy}}", web.Ready, "Synced", "Synced, Healthy"},
		"a paused workload":   {"status: {sync: {status: Synced}, health: {status: Suspended, message: paused}}", web.Ready, "Synced", "Suspended: paused"},
		"not healthy yet":     {"status: {sync: {status: Synced}, health: {status: Progressing, message: 0/1}}", web.Working, "Progressing", "0/1"},
		"degraded":            {"status: {sync: {status: Synced}, health: {status: Degraded}, resources: [{kind: Pod, name: p, health: {status: Degraded, message: crash}}]}", web.Failing, "Degraded", "Pod/p: crash"},
		"gone":                {"status: {sync: {status: Synced}, health: {status: Missing}}", web.Failing, "Missing", ""},
		"not there yet":       {"status: {sync: {status: OutOfSync}, health: {status: Missing}}", web.OutOfSync, "OutOfSync", "the cluster is not as Git wants it"},
		"by hand":             {differs, web.OutOfSync, "OutOfSync", "Service/web/ui differs from Git"},
		"by itself":           {auto + differs, web.Working, "OutOfSync", "Service/web/ui differs from Git"},
		"in a sync window":    {auto + strings.Replace(differs, "status: {", "status: {conditions: [{type: HeldWarning, message: 'until noon'}], ", 1), web.Working, "SyncWindow", "until noon"},
		"automation is off":   {"spec: {syncPolicy: {automated: {enabled: false}}}\n" + differs, web.OutOfSync, "OutOfSync", ""},
		"drift is not healed": {"spec: {syncPolicy: {automated: {}}}\nstatus: {sync: {status: OutOfSync, revision: a}, health: {status: Healthy}, operationState: {phase: Succeeded, syncResult: {revision: a}}, resources: [{kind: Service, name: ui, status: OutOfSync}]}", web.OutOfSync, "OutOfSync", ""},
		"a new commit":        {"spec: {syncPolicy: {automated: {}}}\nstatus: {sync: {status: OutOfSync, revision: b}, health: {status: Healthy}, operationState: {phase: Succeeded, syncResult: {revision: a}}, resources: [{kind: Service, name: ui, status: OutOfSync}]}", web.Working, "OutOfSync", ""},
		"only to be pruned":   {auto + "status: {sync: {status: OutOfSync}, health: {status: Healthy}, resources: [{kind: Service, name: ui, status: OutOfSync, requiresPruning: true}]}", web.OutOfSync, "OutOfSync", ""},
		"a sync is asked for": {"operation: {sync: {}}\nstatus: {sync: {status: OutOfSync}, operationState: {phase: Failed}}", web.Working, "SyncRequested", ""},
		"a sync runs":         {"status: {sync: {status: OutOfSync}, operationState: {phase: Running, message: waiting for Job/x}}", web.Working, "SyncRunning", "waiting for Job/x"},
		"a sync has failed":   {auto + "status: {sync: {status: OutOfSync}, health: {status: Missing}, operationState: {phase: Failed, message: no such kind}}", web.Failing, "SyncFailed", "no such kind"},
		"it was mended":       {"status: {sync: {status: Synced}, health: {status: Healthy}, operationState: {phase: Failed, message: old}}", web.Ready, "Synced", ""},
		"an error":            {"status: {sync: {status: Synced}, health: {status: Healthy}, conditions: [{type: ComparisonError, message: 'chart/a.yaml:3: no'}]}", web.Failing, "Comparison", "chart/a.yaml:3: no"},
		"a guard":             {"status: {sync: {status: OutOfSync}, conditions: [{type: ConfirmationRequiredError, message: much}]}", web.Failing, "ConfirmationRequired", "much"},
		"a secret":            {"status: {conditions: [{type: ComparisonError, message: 'fetch https://u:pw@h/x: no'}]}", web.Failing, "Comparison", "fetch https://h/x: no"},
		"held":                {`{metadata: {annotations: {keelson.dev/hold: '{"reason":"rolled back to 0123456","by":"ada","at":"2026-01-02T03:04:05Z"}'}}, status: {sync: {status: OutOfSync}, health: {status: Healthy}}}`, web.Suspended, "Held", "rolled back to 0123456, by ada: "},
		"held by a stranger":  {`{metadata: {annotations: {keelson.dev/hold: "please not"}}, status: {sync: {status: Synced}, health: {status: Healthy}}}`, web.Suspended, "Held", "please not: "},
		"held and degraded":   {`{metadata: {annotations: {keelson.dev/hold: '{"reason":"r"}'}}, status: {sync: {status: OutOfSync}, health: {status: Degraded, message: crash}}}`, web.Failing, "Degraded", "crash"},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			got := appOfArgo(application(t, tc.text))
			if got.State != tc.state || got.Reason != tc.reason || !strings.Contains(got.Message, tc.phrase) {
				t.Errorf("it is %s, %s: %q; want %s, %s: %q", got.State, got.Reason, got.Message, tc.state, tc.reason, tc.phrase)
			}
		})
	}
	whole := appOfArgo(application(t, `
spec:
  sources:
    - {repoURL: "https://u:pw@example.com/a.git", path: ./app, targetRevision: main}
    - {repoURL: "https://example.com/values.git", ref: values}
    - {repoURL: "https://charts.example.com", chart: redis, targetRevision: 1.2.3}
status:
  sync: {status: OutOfSync, revisions: [b, b, b]}
  health: {status: Healthy}
  history: [{id: 0, revisions: [x]}, {id: 1, revisions: [`+sha+`, `+sha+`, 1.2.3]}]
  resources: [{kind: Service, name: a}, {kind: Job, name: b, hook: true}]
  conditions: [{type: UnsupportedFieldsWarning, message: "spec.sources[0].plugin"}]
`))
	want := web.App{
		Status: web.Status{Kind: "Application", Namespace: "argocd", Name: "guestbook", State: web.OutOfSync, Reason: "OutOfSync",
			Message: "the cluster is not as Git wants it", Revision: sha + ", " + sha + ", 1.2.3", Warnings: []string{"spec.sources[0].plugin"}},
		ID: "Application/argocd/guestbook", Environment: "argocd", App: "guestbook", Wanted: "b, b, b",
		Source: "https://example.com/a.git, https://example.com/values.git, https://charts.example.com", Path: "app, redis", Objects: 1,
		Sync: "OutOfSync", Health: "Healthy",
	}
	if diff := cmp.Diff(want, whole); diff != "" {
		t.Errorf("a whole one (-want +got):\n%s", diff)
	}
	if got := shortRevision(whole.Revision); got != "0123456, 0123456, 1.2.3" {
		t.Errorf("its revision in short is %q", got)
	}
}

func TestAppSetStatus(t *testing.T) {
	cases := map[string]struct {
		conditions string
		want       web.State
	}{
		"nobody has looked": {"[]", web.Unknown},
		"up to date":        {"[{type: ParametersGenerated, status: 'True'}, {type: ErrorOccurred, status: 'False'}, {type: ResourcesUpToDate, status: 'True'}]", web.Ready},
		"an error":          {"[{type: ResourcesUpToDate, status: 'True'}, {type: ErrorOccurred, status: 'True'}]", web.Failing},
		"not yet":           {"[{type: ResourcesUpToDate, status: 'False'}]", web.Working},
		"step by step":      {"[{type: RolloutProgressing, status: 'True'}, {type: ResourcesUpToDate, status: 'True'}]", web.Working},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			s := &argocdv1.ApplicationSet{}
			if err := yaml.Unmarshal([]byte("status: {conditions: "+tc.conditions+"}"), s); err != nil {
				t.Fatal(err)
			}
			if got := appSetStatus(s).State; got != tc.want {
				t.Errorf("it is %s, want %s", got, tc.want)
			}
		})
	}
}

func TestParseResources(t *testing.T) {
	cases := map[string]struct {
		want argocdv1.SyncOperationResource
		err  string
	}{
		"apps:Deployment:web":      {want: argocdv1.SyncOperationResource{Group: "apps", Kind: "Deployment", Name: "web"}},
		":Service:dev/web":         {want: argocdv1.SyncOperationResource{Kind: "Service", Namespace: "dev", Name: "web"}},
		"rbac.x:Role:system:a:b":   {want: argocdv1.SyncOperationResource{Group: "rbac.x", Kind: "Role", Name: "system:a:b"}},
		"Deployment/web":           {err: "names no object"},
		"apps:Deployment:":         {err: "names no object"},
		"apps:Deployment:ns/":      {err: "names no object"},
		"apps::web":                {err: "names no object"},
		"apps:Deployment:a/b/c":    {err: "names no object"},
		"!apps:Deployment:dev/web": {err: "cannot be left out"},
	}
	for text, tc := range cases {
		got, err := parseResources([]string{text})
		switch {
		case tc.err != "" && (err == nil || !strings.Contains(err.Error(), tc.err) || exitCode(err) != exitUsage):
			t.Errorf("%s: %v, want %q and code 2", text, err, tc.err)
		case tc.err == "" && (err != nil || cmp.Diff([]argocdv1.SyncOperationResource{tc.want}, got) != ""):
			t.Errorf("%s: %+v, %v; want %+v", text, got, err, tc.want)
		}
	}
}

func TestSetRevisions(t *testing.T) {
	auto := "spec: {source: {repoURL: r, targetRevision: main}, syncPolicy: {automated: {}}}"
	cases := map[string]struct {
		text string
		opts syncOptions
		want argocdv1.SyncOperation
		err  string
	}{
		"none":              {auto, syncOptions{}, argocdv1.SyncOperation{}, ""},
		"the same":          {auto, syncOptions{revisions: []string{"main"}}, argocdv1.SyncOperation{Revision: "main"}, ""},
		"another":           {auto, syncOptions{app: "g", revisions: []string{"v1"}}, argocdv1.SyncOperation{}, `is synced to "main" by itself`},
		"another, to look":  {auto, syncOptions{revisions: []string{"v1"}, dryRun: true}, argocdv1.SyncOperation{Revision: "v1"}, ""},
		"another, by hand":  {"spec: {source: {repoURL: r}}", syncOptions{revisions: []string{"v1"}}, argocdv1.SyncOperation{Revision: "v1"}, ""},
		"another, held":     {`{metadata: {annotations: {keelson.dev/hold: "{}"}}, spec: {source: {repoURL: r}, syncPolicy: {automated: {}}}}`, syncOptions{revisions: []string{"v1"}}, argocdv1.SyncOperation{Revision: "v1"}, ""},
		"several":           {"spec: {sources: [{repoURL: r}, {repoURL: s}]}", syncOptions{revisions: []string{"a", "b"}}, argocdv1.SyncOperation{Revisions: []string{"a", "b"}}, ""},
		"one for several":   {"spec: {sources: [{repoURL: r}, {repoURL: s}]}", syncOptions{revisions: []string{"a"}}, argocdv1.SyncOperation{}, "has 2 sources"},
		"one of a list":     {"spec: {sources: [{repoURL: r}]}", syncOptions{revisions: []string{"a"}}, argocdv1.SyncOperation{Revisions: []string{"a"}}, ""},
		"HEAD as it stands": {"spec: {source: {repoURL: r}, syncPolicy: {automated: {}}}", syncOptions{revisions: []string{"HEAD"}}, argocdv1.SyncOperation{Revision: "HEAD"}, ""},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			var got argocdv1.SyncOperation
			err := setRevisions(application(t, tc.text), &got, tc.opts)
			if (err == nil) != (tc.err == "") || err != nil && !strings.Contains(err.Error(), tc.err) {
				t.Fatalf("%v, want %q", err, tc.err)
			}
			if diff := cmp.Diff(tc.want, got); diff != "" {
				t.Errorf("operation (-want +got):\n%s", diff)
			}
		})
	}
}

func TestIdle(t *testing.T) {
	cases := map[string]struct{ text, err string }{
		"nothing":         {"spec: {}", ""},
		"it is over":      {"status: {operationState: {phase: Failed}}", ""},
		"it runs":         {"status: {operationState: {phase: Running, message: waiting for Job/x, operation: {initiatedBy: {username: ada}}}}", "asked for by ada): waiting for Job/x"},
		"it ends":         {"status: {operationState: {phase: Terminating}}", "is under way"},
		"it is to retry":  {"status: {operationState: {phase: Running, finishedAt: 2026-11-21T12:00:00Z}}", ""},
		"by itself":       {"status: {operationState: {phase: Running, operation: {initiatedBy: {automated: true}}}}", "it began by itself"},
		"not begun":       {"operation: {sync: {}}", "has not begun"},
		"not begun again": {"operation: {sync: {}}\nstatus: {operationState: {phase: Succeeded}}", "has not begun"},
	}
	for name, tc := range cases {
		err := idle(application(t, tc.text))
		if (err == nil) != (tc.err == "") || err != nil && !strings.Contains(err.Error(), tc.err) {
			t.Errorf("%s: %v, want %q", name, err, tc.err)
		}
	}
}

func TestDeploymentOf(t *testing.T) {
	const app = `
spec: {source: {repoURL: r, path: now, targetRevision: main}}
status:
  history:
    - {id: 3, revision: aaaaaaa111, source: {repoURL: r, path: old}}
    - {id: 4, revision: bbbbbbb222, source: {repoURL: r, path: old}}
    - {id: 5, revision: aaaaaaa111, source: {repoURL: r, path: now}}
`
	several := strings.Replace(app, "source: {repoURL: r, path: now, targetRevision: main}", "sources: [{repoURL: r}, {repoURL: s}]", 1)
	cases := map[string]struct {
		text, to string
		id       int64
		revision string
		path     string
		err      string
	}{
		"the one before":            {app, "", 4, "bbbbbbb222", "old", ""},
		"an id":                     {app, "3", 3, "aaaaaaa111", "old", ""},
		"a revision, the newest":    {app, "aaaaaaa", 5, "aaaaaaa111", "now", ""},
		"another revision":          {app, "v0.9", -1, "v0.9", "now", ""},
		"no such id":                {app, "9", 0, "", "", "has no id 9"},
		"a commit of digits":        {app, "1234567", -1, "1234567", "now", ""},
		"too short to be a commit":  {app, "aaa", -1, "aaa", "now", ""},
		"several sources, unknown":  {several, "v0.9", 0, "", "", "has no revision v0.9"},
		"nothing to go back to":     {"spec: {source: {repoURL: r}}\nstatus: {history: [{id: 0}]}", "", 0, "", "", "has 1 deployments"},
		"nothing, but it was named": {"spec: {source: {repoURL: r, path: now}}", "v1", -1, "v1", "now", ""},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			got, err := deploymentOf(application(t, tc.text), tc.to)
			if tc.err != "" {
				if err == nil || !strings.Contains(err.Error(), tc.err) {
					t.Fatalf("%v, want %q", err, tc.err)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if got.ID != tc.id || got.Revision != tc.revision || got.Source.Path != tc.path {
				t.Errorf("%d %s %s, want %d %s %s", got.ID, got.Revision, got.Source.Path, tc.id, tc.revision, tc.path)
			}
		})
	}
}

// A sync tells of every object once, as it comes, and ends with what came of it.
func TestSyncTells(t *testing.T) {
	var out strings.Builder
	g := &global{streams: streams{out: &out}}
	told := map[string]string{}
	result := synced{Namespace: "argocd", Name: "guestbook", Objects: []syncedItem{}}
	step := func(text string) *synced {
		result.take(application(t, text))
		result.tell(&out, told)
		return &result
	}
	step(`
status: {operationState: {phase: Running, syncResult: {revision: r, resources: [
  {group: batch, kind: Job, namespace: web, name: migrate, status: Synced, hookType: PreSync, hookPhase: Running, syncPhase: PreSync}]}}}`)
	for range 2 {
		step(`
status: {operationState: {phase: Running, finishedAt: 2026-11-21T12:00:00Z, message: it failed. Retrying attempt, syncResult: {revision: r, resources: []}}}`)
	}
	last := step(`
status: {sync: {status: Synced}, health: {status: Progressing}, operationState: {phase: Succeeded, syncResult: {revision: 0123456789abcdef0123456789abcdef01234567, resources: [
  {group: batch, kind: Job, namespace: web, name: migrate, status: Synced, hookType: PreSync, hookPhase: Succeeded, syncPhase: PreSync},
  {group: apps, kind: Deployment, namespace: web, name: ui, status: Synced, message: "configured,\n  new"},
  {group: "", kind: Service, namespace: web, name: old, status: Pruned}]}}}`)
	if err := last.end(g); err != nil {
		t.Error(err)
	}
	failed := step("status: {operationState: {phase: Failed, message: Job/web/migrate has failed, syncResult: {revision: v1}}}")
	if err := failed.end(g); exitCode(err) != exitUnhealthy || !strings.Contains(err.Error(), "ended with Failed: Job/web/migrate has failed") {
		t.Errorf("code %d: %v", exitCode(err), err)
	}
	want := `Running      Job/web/migrate (PreSync hook)
Failed       it failed. Retrying attempt
Succeeded    Job/web/migrate (PreSync hook)
Synced       Deployment/web/ui  configured, new
Pruned       Service/web/old
argocd/guestbook synced to 0123456; it is Synced, Progressing
argocd/guestbook: synced to v1: Failed
`
	if diff := cmp.Diff(want, out.String()); diff != "" {
		t.Errorf("what is told (-want +got):\n%s", diff)
	}
}

func TestOlder(t *testing.T) {
	at := func(version string) *argocdv1.Application {
		return &argocdv1.Application{ObjectMeta: metav1.ObjectMeta{ResourceVersion: version}}
	}
	for _, tc := range []struct {
		have, want string
		older      bool
	}{{"9", "10", true}, {"10", "10", false}, {"11", "10", false}, {"", "10", false}, {"x", "10", false}} {
		if got := older(at(tc.have), at(tc.want)); got != tc.older {
			t.Errorf("%q before %q: %v", tc.have, tc.want, got)
		}
	}
	if got := describeHold(dialect.ParseArgoHold(`{"reason":"r","at":"2026-01-02T03:04:05Z"}`)); got != "r: nothing is synced by itself before it is resumed" {
		t.Error(got)
	}
	if got := dialect.ParseArgoHold(`{"at":"2026-01-02T03:04:05Z"}`).At; !got.Equal(time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)) {
		t.Error(got)
	}
}
