package dialect_test

import (
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
