package dialect_test

import (
	"bytes"
	"fmt"
	"os"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"k8s.io/apimachinery/pkg/api/equality"
	"sigs.k8s.io/yaml"

	argocdv1 "keelson.dev/keelson/api/argocd/v1alpha1"
	"keelson.dev/keelson/internal/delivery"
	"keelson.dev/keelson/internal/dialect"
)

const firstCommit, secondCommit = "0123456789012345678901234567890123456789", "abcdefabcdefabcdefabcdefabcdefabcdefabcd"

// step is something that happens to guestbook: what there is to say a minute after the last.
type step struct {
	name string
	news dialect.ArgoNews
}

func steps() []step {
	job := delivery.Ref{Group: "batch", Kind: "Job", Namespace: "dev", Name: "migrate"}
	web := delivery.Ref{Group: "apps", Kind: "Deployment", Namespace: "dev", Name: "web"}
	config := delivery.Ref{Kind: "ConfigMap", Namespace: "dev", Name: "web"}
	missing, healthy := delivery.Health{Status: delivery.Missing}, delivery.Health{Status: delivery.Healthy}
	unknown := argocdv1.ApplicationCondition{Type: argocdv1.ConditionUnsupportedFieldsWarning, Message: "without effect: spec.x"}
	away := argocdv1.ApplicationCondition{Type: argocdv1.ConditionComparisonError, Message: "git.example.com: no route to host"}
	running := delivery.Operation{
		Request: delivery.OperationRequest{Automated: true, Prune: true}, Phase: delivery.OperationRunning,
		Message: "waiting for Job/dev/migrate", Revisions: []string{firstCommit}, Started: noon.Add(2 * time.Minute),
		Results: []delivery.OperationResult{{Ref: job, Version: "v1", Message: "job.batch/migrate created", Moment: delivery.PreSync, Hook: delivery.OperationRunning}},
	}
	done := running
	done.Phase, done.Message, done.Finished = delivery.OperationSucceeded, "successfully synced (all tasks run)", noon.Add(3*time.Minute)
	done.Results = []delivery.OperationResult{
		{Ref: job, Version: "v1", Message: "Reached expected number of succeeded pods", Moment: delivery.PreSync, Hook: delivery.OperationSucceeded},
		{Ref: web, Version: "v1", Status: "Synced", Message: "deployment.apps/web created", Moment: delivery.DuringSync},
		{Ref: config, Version: "v1", Status: "Pruned", Message: "pruned", Moment: delivery.DuringSync},
	}
	synced := dialect.ArgoNews{
		Known: true, Revisions: []string{firstCommit}, InSync: true, Health: healthy, Operation: &done, SourceTypes: []string{"Kustomize"},
		Images: []string{"nginx:1.27", "busybox", "nginx:1.27"}, URLs: []string{"https://web.example.com"},
		Conditions: []argocdv1.ApplicationCondition{unknown},
		Compared: []delivery.Comparison{
			{Ref: web, Version: "v1", Health: healthy, Wave: 2},
			{Ref: job, Version: "v1", Hook: true, Health: healthy},
		},
	}
	return []step{
		{"the remote is away", dialect.ArgoNews{Conditions: []argocdv1.ApplicationCondition{unknown, away}}},
		{"it is compared, and nothing is there", dialect.ArgoNews{
			Known: true, Revisions: []string{firstCommit}, Health: missing, SourceTypes: []string{"Kustomize"},
			Conditions: []argocdv1.ApplicationCondition{unknown},
			Compared: []delivery.Comparison{
				{Ref: web, Version: "v1", Differs: true, Health: missing, Wave: 2},
				{Ref: config, Version: "v1", Differs: true, RequiresPruning: true, RequiresConfirmation: true},
			},
		}},
		{"an operation waits for a hook", dialect.ArgoNews{
			Known: true, Revisions: []string{firstCommit}, Health: missing, SourceTypes: []string{"Kustomize"}, Operation: &running,
			Conditions: []argocdv1.ApplicationCondition{unknown},
		}},
		{"it succeeds", synced},
		{"nothing happens", synced},
	}
}

// TestStatus: what becomes of a status step by step, in testdata/argostatus.yaml.
func TestStatus(t *testing.T) {
	a := readApplication(t, guestbook)
	var out bytes.Buffer
	for i, s := range steps() {
		now := noon.Add(time.Duration(i) * time.Minute)
		next := dialect.ArgoStatus(a.Status, a, s.news, now)
		if s.name == "nothing happens" && !equality.Semantic.DeepEqual(a.Status, next) {
			t.Errorf("it is written without a reason:\n%s", cmp.Diff(a.Status, next))
		}
		a.Status = next
		b, err := yaml.Marshal(next)
		if err != nil {
			t.Fatal(err)
		}
		fmt.Fprintf(&out, "# %s\n%s---\n", s.name, b)
	}
	const golden = "testdata/argostatus.yaml"
	if *update {
		if err := os.WriteFile(golden, out.Bytes(), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(golden)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), out.String()); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
}

// What is owned survives: what the status lists and is there, and what the operation under way was about to make.
func TestArgoInventory(t *testing.T) {
	a := readApplication(t, guestbook)
	web := delivery.Ref{Group: "apps", Kind: "Deployment", Namespace: "dev", Name: "web"}
	role := delivery.Ref{Group: "rbac.authorization.k8s.io", Kind: "Role", Namespace: "dev", Name: "a:b"}
	all := steps()
	now := noon
	for _, s := range all[:3] {
		a.Status = dialect.ArgoStatus(a.Status, a, s.news, now)
	}
	a.Status.Resources = dialect.ArgoStatus(a.Status, a, all[1].news, now).Resources
	config := delivery.Ref{Kind: "ConfigMap", Namespace: "dev", Name: "web"}
	owned := delivery.Inventory{config: "v1"}
	if got := dialect.ArgoInventory(a); !got.Equal(owned) {
		t.Fatalf("owned: %v", got)
	}
	wider := owned.Union(delivery.Inventory{web: "v1", role: "v1"})
	text, ok := dialect.ArgoIntent(a, wider)
	if !ok {
		t.Fatal("too large")
	}
	a.Annotations = map[string]string{dialect.IntentAnnotation: text}
	if got := dialect.ArgoInventory(a); !got.Equal(wider) {
		t.Errorf("with the intent: %v", got)
	}
	if again, _ := dialect.ArgoIntent(a, wider); again != text {
		t.Errorf("the intent of the same is another one: %s, %s", text, again)
	}
	unclear := all[3].news
	unclear.Known = false
	before := a.Status
	a.Status = dialect.ArgoStatus(a.Status, a, unclear, now)
	if got := dialect.ArgoInventory(a); !got.Equal(wider) {
		t.Errorf("the operation is over, but nobody knows what it has left: %v", got)
	}
	a.Status = dialect.ArgoStatus(before, a, all[3].news, now)
	if got := dialect.ArgoInventory(a); !got.Equal(delivery.Inventory{web: "v1"}) {
		t.Errorf("once the operation is over its status tells all: %v", got)
	}
	huge := delivery.Inventory{}
	for i := range 60000 {
		huge[delivery.Ref{Kind: "ConfigMap", Namespace: "a-rather-long-namespace", Name: fmt.Sprintf("a-rather-long-name-%d", i)}] = "v1"
	}
	if _, ok := dialect.ArgoIntent(a, huge); ok {
		t.Error("60000 objects fit into an annotation")
	}
}

// The history is kept as long as the Application says, and gains an entry only for what deployed all of it.
func TestHistory(t *testing.T) {
	a := readApplication(t, guestbook)
	limit := int64(2)
	a.Spec.RevisionHistoryLimit = &limit
	run := func(i int, op delivery.Operation) {
		op.Started, op.Finished = noon.Add(time.Duration(i)*time.Hour), noon.Add(time.Duration(i)*time.Hour+time.Minute)
		a.Status.OperationState = dialect.ArgoBegun(a, op)
		a.Status.OperationState.Phase = argocdv1.OperationRunning
		for range 2 {
			a.Status = dialect.ArgoStatus(a.Status, a, dialect.ArgoNews{Operation: &op}, op.Finished)
		}
	}
	ok := delivery.Operation{Phase: delivery.OperationSucceeded, Revisions: []string{firstCommit}}
	run(0, ok)
	partial, dry, failed := ok, ok, ok
	partial.Request.Only = []delivery.Ref{{Kind: "Pod", Name: "x"}}
	dry.Request.DryRun = true
	failed.Phase = delivery.OperationFailed
	run(1, partial)
	run(2, dry)
	run(3, failed)
	if len(a.Status.History) != 1 {
		t.Fatalf("history: %+v", a.Status.History)
	}
	other := ok
	other.Revisions = []string{secondCommit}
	run(4, other)
	run(5, ok)
	var got []string
	for _, h := range a.Status.History {
		got = append(got, fmt.Sprint(h.ID, " ", h.Revision, " ", h.DeployedAt.UTC().Format("15:04")))
	}
	if diff := cmp.Diff([]string{"1 " + secondCommit + " 16:01", "2 " + firstCommit + " 17:01"}, got); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
}

// An operation that people ask for takes over the options of the Application unless it has its own, as Argo CD's API server does.
func TestArgoRequest(t *testing.T) {
	for name, c := range map[string]struct {
		operation string
		want      *delivery.OperationRequest
	}{
		"none": {"", nil},
		"plain": {"{sync: {}}", &delivery.OperationRequest{
			Options: delivery.SyncOptions{CreateNamespace: true}, Retry: delivery.RetryPolicy{Duration: 5 * time.Second, Factor: 2, Max: 3 * time.Minute},
		}},
		"all": {`{initiatedBy: {username: jane}, retry: {limit: 2, backoff: {duration: 1m}}, sync: {
			revision: v2, prune: true, dryRun: true, syncOptions: [Replace=true], syncStrategy: {apply: {force: true}},
			resources: [{group: apps, kind: Deployment, name: web, namespace: dev}]}}`, &delivery.OperationRequest{
			By: "jane", Revisions: []string{"v2"}, Prune: true, DryRun: true, Force: true, NoHooks: true,
			Only:    []delivery.Ref{{Group: "apps", Kind: "Deployment", Namespace: "dev", Name: "web"}},
			Options: delivery.SyncOptions{Replace: true}, Retry: delivery.RetryPolicy{Limit: 2, Duration: time.Minute, Factor: 2, Max: 3 * time.Minute},
		}},
		"nothing": {"{}", &delivery.OperationRequest{
			Retry:   delivery.RetryPolicy{Duration: 5 * time.Second, Factor: 2, Max: 3 * time.Minute},
			Invalid: "Invalid operation request: no operation specified",
		}},
		"the newest": {"{sync: {}, retry: {refresh: true}}", &delivery.OperationRequest{
			Options: delivery.SyncOptions{CreateNamespace: true}, Retry: delivery.RetryPolicy{Duration: 5 * time.Second, Factor: 2, Max: 3 * time.Minute, Refresh: true},
		}},
		"manifests": {"{sync: {manifests: ['{}'], syncOptions: []}}", &delivery.OperationRequest{
			Retry:   delivery.RetryPolicy{Duration: 5 * time.Second, Factor: 2, Max: 3 * time.Minute},
			Invalid: "operation.sync.manifests is not supported: what is synced is what Git has (hint: push the change, or sync without --local)",
		}},
		"no duration": {"{sync: {syncOptions: [Wonder=true]}, retry: {backoff: {maxDuration: soon}}}", &delivery.OperationRequest{
			Retry:   delivery.RetryPolicy{Duration: 5 * time.Second, Factor: 2, Max: 3 * time.Minute},
			Invalid: `operation.retry.backoff.maxDuration: "soon" is no duration (hint: write as 30s or 5m)`,
		}},
	} {
		a := readApplication(t, guestbook)
		if c.operation != "" {
			decode(t, c.operation, &a.Operation)
		}
		if diff := cmp.Diff(c.want, dialect.ArgoRequest(a)); diff != "" {
			t.Errorf("%s: -want +got:\n%s", name, diff)
		}
	}
}

// Of several sources each has its revision; a chart's is its version, an artifact's its digest.
func TestRevisionsOfSeveralSources(t *testing.T) {
	const digest = "0123456789012345678901234567890123456789012345678901234567890123"
	a := readApplication(t, guestbook)
	decode(t, `[{repoURL: "https://c.example.com", chart: web, targetRevision: 1.x}, {repoURL: "oci://r.example.com/x"}, {repoURL: "https://g.example.com/x", path: .}]`, &a.Spec.Sources)
	var revisions []string
	for _, r := range []delivery.Revision{{Name: "1.2.3", Commit: digest}, {Name: "v1", Commit: digest}, {Name: "main", Commit: firstCommit}} {
		revisions = append(revisions, dialect.ArgoRevision(r))
	}
	op := delivery.Operation{Phase: delivery.OperationSucceeded, Revisions: revisions, Started: noon, Finished: noon}
	s := dialect.ArgoStatus(a.Status, a, dialect.ArgoNews{Known: true, InSync: true, Revisions: revisions, Operation: &op, SourceTypes: []string{"Helm", "Directory", "Directory"}}, noon)
	want := []string{"1.2.3", "sha256:" + digest, firstCommit}
	for _, got := range [][]string{s.Sync.Revisions, s.OperationState.SyncResult.Revisions, s.History[0].Revisions} {
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("-want +got:\n%s", diff)
		}
	}
	if s.Sync.Revision != "" || s.SourceType != "" || len(s.SourceTypes) != 3 || s.Sync.ComparedTo.Source != nil {
		t.Errorf("status: %+v", s)
	}
	a.Status = s
	if got := dialect.ArgoOperation(a).Revisions; !cmp.Equal(got, revisions) {
		t.Errorf("the digests are lost: %v", got)
	}
}

// A part that asks for its revision is another one with each commit; others are not.
func TestRevisionEnv(t *testing.T) {
	a := readApplication(t, guestbook)
	in := dialect.Argo{Namespace: "argocd", Now: noon}
	plain := dialect.Application(a, in).App
	before := plain.Generation
	dialect.ArgoRevisionEnv(&plain, []delivery.Revision{{Name: "main", Commit: firstCommit}})
	if plain.Generation != before || len(plain.Build.Parts[0].Env) != 6 {
		t.Errorf("env: %v", plain.Build.Parts[0].Env)
	}
	decode(t, `{parameters: [{name: tag, value: "$ARGOCD_APP_REVISION_SHORT"}]}`, &a.Spec.Source.Helm)
	asks := dialect.Application(a, in).App
	before = asks.Generation
	dialect.ArgoRevisionEnv(&asks, []delivery.Revision{{Name: "main", Commit: firstCommit}})
	env := asks.Build.Parts[0].Env
	if asks.Generation == before || env["ARGOCD_APP_REVISION"] != firstCommit || env["ARGOCD_APP_REVISION_SHORT"] != "0123456" || env["ARGOCD_APP_REVISION_SHORT_8"] != "01234567" {
		t.Errorf("env: %v", env)
	}
}

// What does not change what is delivered does not change the generation: the status, a person's word, the time.
func TestGeneration(t *testing.T) {
	a := readApplication(t, guestbook)
	in := dialect.Argo{Namespace: "argocd", Now: noon}
	before := dialect.Application(a, in).App.Generation
	for i, s := range steps() {
		a.Status = dialect.ArgoStatus(a.Status, a, s.news, noon.Add(time.Duration(i)*time.Minute))
	}
	a.Annotations = map[string]string{"argocd.argoproj.io/refresh": "hard", "keelson.dev/hold": "by hand"}
	in.Now = noon.Add(time.Hour)
	got := dialect.Application(a, in)
	if got.App.Generation != before || got.App.Sync.Held == nil || got.App.Sync.Held.Reason != "by hand" {
		t.Errorf("%d is now %d, %+v", before, got.App.Generation, got.App.Sync.Held)
	}
	if a.Spec.Source.Path = "elsewhere"; dialect.Application(a, in).App.Generation == before {
		t.Error("another path is the same generation")
	}
}
