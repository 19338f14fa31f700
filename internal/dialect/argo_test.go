package dialect_test

import (
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"sigs.k8s.io/yaml"

	argocdv1 "keelson.dev/keelson/api/argocd/v1alpha1"
	"keelson.dev/keelson/internal/delivery"
	"keelson.dev/keelson/internal/dialect"
)

var noon = time.Date(2026, 3, 14, 12, 0, 0, 0, time.UTC)

const guestbook = `
apiVersion: argoproj.io/v1alpha1
kind: Application
metadata: {name: guestbook, namespace: argocd, uid: u1, finalizers: [resources-finalizer.argocd.argoproj.io]}
spec:
  project: default
  source: {repoURL: "https://git.example.com/apps.git", targetRevision: HEAD, path: guestbook}
  destination: {server: "https://kubernetes.default.svc", namespace: dev}
  syncPolicy: {automated: {prune: true, selfHeal: true}, syncOptions: [CreateNamespace=true]}
`

func readApplication(t *testing.T, text string) *argocdv1.Application {
	t.Helper()
	a := &argocdv1.Application{}
	if err := yaml.Unmarshal([]byte(text), a); err != nil {
		t.Fatal(err)
	}
	return a
}

func TestGuestbook(t *testing.T) {
	got := dialect.Application(readApplication(t, guestbook), dialect.Argo{Namespace: "argocd", Now: noon})
	if len(got.Conditions) > 0 {
		t.Fatalf("conditions: %v", got.Conditions)
	}
	app := got.App
	if app.ID.String() != "Application/argocd/guestbook" || app.Namespace != "dev" || app.KeepOnDelete || !app.AwaitGone || app.Generation <= 0 {
		t.Errorf("app: %+v", app)
	}
	if p := app.Sync; !p.Automated || !p.Prune || !p.SelfHeal || p.AllowEmpty || !p.Options.CreateNamespace || !p.Windows.Automated || p.HistoryLimit != 10 {
		t.Errorf("policy: %+v", p)
	}
	if len(got.Sources) != 1 || got.Sources[0].ID != app.Source || app.Source.Kind != "Repository" || app.Source.Namespace != "argocd" {
		t.Fatalf("sources: %+v", got.Sources)
	}
	if s := got.Sources[0]; s.URL != "https://git.example.com/apps.git" || s.Ref != (delivery.GitRef{Any: "HEAD"}) || s.Interval != 3*time.Minute {
		t.Errorf("source: %+v", s)
	}
	if p := app.Build.Parts; len(p) != 1 || p[0].Path != "guestbook" || p[0].Root != "." || p[0].Namespace != "dev" || p[0].Release != "guestbook" {
		t.Errorf("parts: %+v", p)
	}
}

// What a status says of an operation is the operation: a restart goes on with it.
func TestOperationSurvivesARestart(t *testing.T) {
	pod := delivery.Ref{Group: "batch", Kind: "Job", Namespace: "dev", Name: "migrate"}
	for name, op := range map[string]delivery.Operation{
		"automated": {
			Request: delivery.OperationRequest{
				Automated: true, Prune: true, Options: delivery.SyncOptions{CreateNamespace: true, Propagation: "background"},
				Retry: delivery.RetryPolicy{Limit: 5, Duration: 5 * time.Second, Factor: 2, Max: 3 * time.Minute},
			},
			Phase: delivery.OperationRunning, Message: "waiting for Job/dev/migrate", Revisions: []string{"0123456789012345678901234567890123456789"},
			Started: noon, Retries: 2,
			Results: []delivery.OperationResult{
				{Ref: pod, Version: "v1", Status: "Synced", Message: "job.batch/migrate created", Moment: delivery.PreSync, Hook: delivery.OperationRunning},
				{Ref: delivery.Ref{Kind: "Service", Namespace: "dev", Name: "web"}, Version: "v1", Status: "Synced", Message: "service/web created", Moment: delivery.DuringSync},
				{Ref: delivery.Ref{Group: "apps", Kind: "Deployment", Namespace: "dev", Name: "web"}, Version: "v1", Status: "Synced", Message: "it crashes", Moment: delivery.DuringSync, Failed: true},
			},
		},
		"healing a chart": {
			Request: delivery.OperationRequest{
				Automated: true, Healing: true, Attempts: 3, Force: true, NoHooks: true,
				Retry: delivery.RetryPolicy{Limit: -1, Duration: time.Minute, Factor: 3, Max: time.Hour},
			},
			Phase: delivery.OperationSucceeded, Message: "successfully synced (all tasks run)", Started: noon, Finished: noon.Add(time.Minute),
			Revisions: []string{"1.2.3@sha256:0123456789012345678901234567890123456789012345678901234567890123"},
		},
		"by a person": {
			Request: delivery.OperationRequest{
				By: "jane", Revisions: []string{"v1"}, DryRun: true, Only: []delivery.Ref{pod},
				Retry: delivery.RetryPolicy{Duration: 5 * time.Second, Factor: 2, Max: 3 * time.Minute},
			},
			Phase: delivery.OperationFailed, Started: noon, Finished: noon.Add(time.Second), Revisions: []string{"0123456789012345678901234567890123456789"},
		},
		"ended by a person": {
			Request: delivery.OperationRequest{Automated: true, Revisions: []string{firstCommit}, Retry: delivery.RetryPolicy{Limit: 5, Duration: 5 * time.Second, Factor: 2, Max: 3 * time.Minute}},
			Phase:   delivery.OperationFailed, Message: "Operation terminated", Started: noon, Finished: noon.Add(time.Second),
			Revisions: []string{firstCommit},
		},
		"between two attempts": {
			Request: delivery.OperationRequest{By: "jane", Retry: delivery.RetryPolicy{Limit: -1, Duration: 5 * time.Second, Factor: 2, Max: 3 * time.Minute, Refresh: true}},
			Phase:   delivery.OperationFailed, Message: "it failed. Retrying attempt #3 at noon.", Started: noon, Finished: noon.Add(time.Second), Retries: 3,
			Next: noon.Add(time.Minute), Revisions: []string{firstCommit},
		},
	} {
		t.Run(name, func(t *testing.T) {
			a := readApplication(t, guestbook)
			if name == "healing a chart" {
				a.Spec.Source.Chart, a.Spec.Source.TargetRevision = "web", "1.x"
			}
			a.Status.OperationState = dialect.ArgoBegun(a, op)
			a.Status = dialect.ArgoStatus(a.Status, a, dialect.ArgoNews{Operation: &op}, noon)
			b, err := yaml.Marshal(a)
			if err != nil {
				t.Fatal(err)
			}
			back := dialect.ArgoOperation(readApplication(t, string(b)))
			if diff := cmp.Diff(op, *back); diff != "" {
				t.Errorf("-want +got:\n%s\n%s", diff, b)
			}
		})
	}
}

// An operation is about the sources and revisions that it began with, also in its further attempts.
func TestOperationIsPinned(t *testing.T) {
	const digest = "0123456789012345678901234567890123456789012345678901234567890123"
	in := dialect.Argo{Namespace: "argocd", Now: noon}
	for name, c := range map[string]struct {
		sources   string // of the spec; empty: the guestbook's source
		operation string // asked for; empty: automated
		revisions []string
		refs      []string // that are fetched
		asked     string   // the revision, or the revisions, that the status has the operation be asked for
	}{
		"a branch":      {"", "", []string{firstCommit}, []string{firstCommit}, firstCommit},
		"by a person":   {"", "{sync: {}}", []string{firstCommit}, []string{firstCommit}, ""},
		"a tag":         {"", "{sync: {revision: v1}}", []string{firstCommit}, []string{firstCommit}, "v1"},
		"other sources": {"", "{sync: {sources: [{repoURL: 'https://g.example.com/x', path: .}], revisions: [v1]}}", []string{firstCommit}, []string{firstCommit}, "v1"},
		"not known yet": {"", "{sync: {revision: v1}}", nil, []string{"v1"}, "v1"},
		"a list of one": {"[{repoURL: 'https://g.example.com/x', path: .}]", "", []string{firstCommit}, []string{firstCommit}, firstCommit},
		"chart and archive": {
			"[{repoURL: 'https://c.example.com', chart: web, targetRevision: 1.x}, {repoURL: 'oci://r.example.com/x'}]", "",
			[]string{"1.2.3@sha256:" + digest, "v1@sha256:" + digest}, []string{"1.2.3", "sha256:" + digest}, "1.2.3 sha256:" + digest,
		},
	} {
		t.Run(name, func(t *testing.T) {
			a := readApplication(t, guestbook)
			op := delivery.Operation{Request: delivery.OperationRequest{Automated: true, Revisions: c.revisions}, Revisions: c.revisions, Started: noon, Phase: delivery.OperationFailed}
			if c.sources != "" {
				a.Spec.Source = nil
				decode(t, c.sources, &a.Spec.Sources)
			}
			if c.operation != "" {
				decode(t, c.operation, &a.Operation)
				op.Request = *dialect.ArgoRequest(a)
			}
			a.Status.OperationState, a.Operation = dialect.ArgoBegun(a, op), nil
			began := a.Status.OperationState.SyncResult
			a.Spec.Source, a.Spec.Sources = &argocdv1.ApplicationSource{RepoURL: "https://elsewhere.example.com/x", Path: "x"}, nil
			for attempt := range 3 {
				a.Status = dialect.ArgoStatus(a.Status, a, dialect.ArgoNews{Operation: &op}, noon)
				state := a.Status.OperationState
				if diff := cmp.Diff(began, state.SyncResult); diff != "" {
					t.Errorf("attempt %d: -want +got:\n%s", attempt, diff)
				}
				if got := strings.TrimSpace(strings.Join(append([]string{state.Operation.Sync.Revision}, state.Operation.Sync.Revisions...), " ")); got != c.asked {
					t.Errorf("attempt %d: asked for %q, want %q", attempt, got, c.asked)
				}
				in.Sync = dialect.ArgoPin(a, *dialect.ArgoOperation(a))
				var refs []string
				for _, src := range dialect.Application(a, in).Sources {
					refs = append(refs, src.Ref.Any)
					if strings.Contains(src.URL, "elsewhere") {
						t.Errorf("attempt %d: made from %s", attempt, src.URL)
					}
				}
				if diff := cmp.Diff(c.refs, refs); diff != "" {
					t.Errorf("attempt %d: -want +got:\n%s", attempt, diff)
				}
				op.Retries, op.Started = attempt+1, op.Started.Add(time.Minute)
				a.Status.OperationState = dialect.ArgoBegun(a, op)
			}
		})
	}
}

func TestSameRevisions(t *testing.T) {
	for _, c := range []struct {
		of, now string
		want    bool
	}{
		{firstCommit, firstCommit, true},
		{firstCommit, "", false},
		{"", "", false},
		{"1.2.3@sha256:aa", "1.2.3@sha256:aa", true},
		{"1.2.3@sha256:aa", "1.2.3@sha256:bb", false},
		{"1.2.3", "1.2.3@sha256:bb", true},
		{"1.2.2", "1.2.3@sha256:bb", false},
		{"latest@sha256:aa", "sha256:aa", true},
	} {
		if got := dialect.ArgoSameRevisions([]string{c.of}, []string{c.now}); got != c.want {
			t.Errorf("%q and %q: %t", c.of, c.now, got)
		}
	}
	if dialect.ArgoSameRevisions(nil, []string{firstCommit}) {
		t.Error("none is another number of them")
	}
}

// Whatever is written, it is read or refused.
func FuzzApplication(f *testing.F) {
	f.Add(guestbook, "sourceRepos: ['*']", "a: b")
	f.Add("spec: {sources: [{repoURL: 'git@x:y', ref: a}], destination: {name: x}}", "syncWindows: [{kind: deny, schedule: 'TZ= 0', duration: -1h, applications: ['*']}]", "url: ssh://[")
	f.Fuzz(func(t *testing.T, application, project, secret string) {
		a, p, data := &argocdv1.Application{}, &argocdv1.AppProject{}, map[string]string{}
		if yaml.Unmarshal([]byte(application), a) != nil || yaml.Unmarshal([]byte("{metadata: {name: default}, spec: {"+project+"}}"), p) != nil ||
			yaml.Unmarshal([]byte(secret), &data) != nil {
			return
		}
		content := map[string][]byte{}
		for k, v := range data {
			content[k] = []byte(v)
		}
		got := dialect.Application(a, dialect.Argo{
			Namespace: "argocd", Project: p, Now: noon,
			Repositories: []dialect.ArgoRepository{dialect.ReadArgoRepository("s", true, content)},
			Clusters:     []dialect.ArgoCluster{dialect.ReadArgoCluster("c", nil, nil, content)},
		})
		dialect.ArgoInventory(a)
		dialect.ArgoRequest(a)
		if op := dialect.ArgoOperation(a); op != nil {
			a.Status = dialect.ArgoStatus(a.Status, a, dialect.ArgoNews{Operation: op}, noon)
		}
		if got.App.Generation <= 0 {
			t.Error("no generation")
		}
	})
}
