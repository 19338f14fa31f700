package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/fstest"
	"time"

	kustomizev1 "github.com/fluxcd/kustomize-controller/api/v1"
	fluxmeta "github.com/fluxcd/pkg/apis/meta"
	sourcev1 "github.com/fluxcd/source-controller/api/v1"
	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/yaml"

	"keelson.dev/keelson/internal/delivery"
	"keelson.dev/keelson/internal/git"
	"keelson.dev/keelson/internal/githost"
	"keelson.dev/keelson/internal/history"
	"keelson.dev/keelson/internal/kube"
	"keelson.dev/keelson/internal/store"
	"keelson.dev/keelson/internal/web"
	"keelson.dev/keelson/test/testcluster"
)

// withCluster ends the cluster that tests have started.
type withCluster struct{ tests *testing.M }

// Run implements the interface that testscript.Main wants.
func (w withCluster) Run() int {
	defer func() {
		if theCluster.started != nil {
			theCluster.started.Stop()
			os.RemoveAll(theCluster.dir)
		}
	}()
	return w.tests.Run()
}

// theCluster is shared by the tests that need one.
var theCluster struct {
	once    sync.Once
	dir     string
	started *testcluster.Cluster
	err     error
}

// testCluster gives a real cluster with the resource definitions.
func testCluster(t *testing.T) *testcluster.Cluster {
	t.Helper()
	theCluster.once.Do(func() {
		if theCluster.dir, theCluster.err = os.MkdirTemp("", "keelson-test-"); theCluster.err != nil {
			return
		}
		theCluster.started, theCluster.err = testcluster.Start(context.Background(), filepath.Join(theCluster.dir, "cluster"))
		if theCluster.err != nil {
			return
		}
		c, err := newClient(theCluster.started.Config)
		if err == nil {
			err = installCRDs(context.Background(), c, true)
		}
		theCluster.err = err
	})
	if theCluster.err != nil {
		t.Fatal(theCluster.err)
	}
	return theCluster.started
}

// appsWorld is the API of apps on a real cluster, and a namespace of one test.
type appsWorld struct {
	*testing.T
	client client.WithWatch
	user   *kube.User
	ns     string
	url    string
	api    *clusterAPI
}

// The people of these tests, by the name that a request has in its header Test-Person.
var testPeople = map[string]web.Person{
	"admin":  {Name: "root", Groups: []string{"system:masters"}},
	"viewer": {Name: "vera", Groups: []string{"viewers"}},
	"nobody": {Name: "norbert", Groups: []string{"others"}},
}

func newAppsWorld(t *testing.T) *appsWorld {
	t.Helper()
	config := testCluster(t).Config
	c, err := newClient(config)
	if err != nil {
		t.Fatal(err)
	}
	cluster, err := kube.NewCluster(config)
	if err != nil {
		t.Fatal(err)
	}
	w := &appsWorld{T: t, client: c, user: cluster.Self()}
	ns := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{GenerateName: "apps-"}}
	w.must(c.Create(t.Context(), ns))
	w.ns = ns.Name
	t.Cleanup(func() { _ = c.Delete(context.Background(), ns) })
	log := slog.New(slog.DiscardHandler)
	who := newPeople(peopleOptions{token: "token", store: func() (*store.DB, error) { return nil, errors.New("there is none") }, log: log})
	w.must(who.review.set(config))
	server := newAppsServer(who.may.Authorize)
	w.api, err = newClusterAPI(cluster, delivery.Policy{LenientSubstitution: true}, log)
	w.must(err)
	w.must(server.start(t.Context(), config, w.api.policy, log))
	hs := httptest.NewServer(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		server.ServeHTTP(rw, r.WithContext(web.WithPerson(r.Context(), testPeople[r.Header.Get("Test-Person")])))
	}))
	t.Cleanup(func() { server.leave(); hs.CloseClientConnections(); hs.Close() })
	w.url = hs.URL
	w.grant()
	return w
}

// grant lets viewers read what kubectl's role view lets them read, and apps, in the test's namespace.
func (w *appsWorld) grant() {
	w.Helper()
	w.apply(`
apiVersion: rbac.authorization.k8s.io/v1
kind: Role
metadata: {name: viewers}
rules:
- {apiGroups: ["*"], resources: [kustomizations, helmreleases, applications, gitrepositories, deployments, replicasets, statefulsets, daemonsets, jobs], verbs: [get, list, watch]}
- {apiGroups: [""], resources: [pods, pods/log, configmaps, services, persistentvolumeclaims, events], verbs: [get, list, watch]}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: RoleBinding
metadata: {name: viewers}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: Role, name: viewers}
subjects: [{apiGroup: rbac.authorization.k8s.io, kind: Group, name: viewers}]
`)
}

func (w *appsWorld) must(err error) {
	w.Helper()
	if err != nil {
		w.Fatal(err)
	}
}

// apply makes objects in the test's namespace.
func (w *appsWorld) apply(text string) {
	w.Helper()
	for doc := range strings.SplitSeq(text, "\n---\n") {
		u := &unstructured.Unstructured{}
		w.must(yaml.Unmarshal([]byte(doc), &u.Object))
		u.SetNamespace(w.ns)
		r, err := w.user.Resource(u.GroupVersionKind(), w.ns)
		w.must(err)
		_, err = r.Apply(w.Context(), u.GetName(), u, metav1.ApplyOptions{FieldManager: "test", Force: true})
		w.must(err)
	}
}

// ask asks the API as somebody and decodes the answer into out.
func (w *appsWorld) ask(who, method, path, body string, out any) (int, string) {
	w.Helper()
	req, err := http.NewRequestWithContext(w.Context(), method, w.url+path, strings.NewReader(body))
	w.must(err)
	req.Header.Set("Test-Person", who)
	res, err := http.DefaultClient.Do(req)
	w.must(err)
	defer res.Body.Close()
	text, err := io.ReadAll(res.Body)
	w.must(err)
	if out != nil && res.StatusCode < 300 {
		if err := json.Unmarshal(text, out); err != nil {
			w.Fatalf("%s: %v: %s", path, err, text)
		}
	}
	return res.StatusCode, string(text)
}

// eventually waits until check no longer gives an error.
func (w *appsWorld) eventually(what string, check func() error) {
	w.Helper()
	var err error
	for deadline := time.Now().Add(time.Minute); time.Now().Before(deadline); time.Sleep(5 * time.Millisecond) {
		if err = check(); err == nil {
			return
		}
	}
	w.Fatalf("%s: %v", what, err)
}

// kustomization makes a Kustomization as it is after a delivery of a Deployment, a ConfigMap, a Secret and something that is gone.
func (w *appsWorld) kustomization(name string) *kustomizev1.Kustomization {
	w.Helper()
	w.apply(`
apiVersion: apps/v1
kind: Deployment
metadata: {name: web, labels: {kustomize.toolkit.fluxcd.io/name: ` + name + `, kustomize.toolkit.fluxcd.io/namespace: ` + w.ns + `}}
spec:
  replicas: 2
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec: {containers: [{name: web, image: registry.example/web:1}]}
---
apiVersion: v1
kind: ConfigMap
metadata: {name: settings}
data: {colour: green}
---
apiVersion: v1
kind: Secret
metadata: {name: password}
stringData: {password: hunter2-is-secret}
`)
	k := &kustomizev1.Kustomization{
		ObjectMeta: metav1.ObjectMeta{Namespace: w.ns, Name: name, Labels: map[string]string{"keelson.dev/environment": "dev"}},
		Spec: kustomizev1.KustomizationSpec{
			Interval: metav1.Duration{Duration: time.Minute}, Path: "./app", Prune: true, TargetNamespace: w.ns,
			SourceRef: kustomizev1.CrossNamespaceSourceReference{Kind: "GitRepository", Name: "repo"},
			DependsOn: []kustomizev1.DependencyReference{{Name: "base"}},
		},
	}
	w.must(w.client.Create(w.Context(), k))
	k.Status = kustomizev1.KustomizationStatus{
		ObservedGeneration: k.Generation, LastAppliedRevision: "main@sha1:" + strings.Repeat("a", 40),
		Conditions: []metav1.Condition{{Type: fluxmeta.ReadyCondition, Status: metav1.ConditionTrue, Reason: "ReconciliationSucceeded", Message: "Applied", LastTransitionTime: metav1.Now(), ObservedGeneration: k.Generation}},
		Inventory: &kustomizev1.ResourceInventory{Entries: []kustomizev1.ResourceRef{
			{ID: w.ns + "_web_apps_Deployment", Version: "v1"}, {ID: w.ns + "_settings__ConfigMap", Version: "v1"},
			{ID: w.ns + "_password__Secret", Version: "v1"}, {ID: w.ns + "_gone__ConfigMap", Version: "v1"},
		}},
	}
	w.must(w.client.Status().Update(w.Context(), k))
	return k
}

// TestAppsAPI: what people are told of an app, and what they may do, is what the cluster lets them.
func TestAppsAPI(t *testing.T) {
	w := newAppsWorld(t)
	w.kustomization("shop")
	app := "/api/v1/apps/Kustomization/" + w.ns + "/shop"
	w.eventually("the list", func() error {
		var l web.AppList
		if code, text := w.ask("admin", "GET", "/api/v1/apps?namespace="+w.ns, "", &l); code != 200 || l.Total != 1 || l.Apps[0].State != web.Ready {
			return fmt.Errorf("%d %s", code, text)
		}
		a := l.Apps[0]
		if a.ID != "Kustomization/"+w.ns+"/shop" || a.Environment != "dev" || a.SHA != strings.Repeat("a", 40) || a.Objects != 4 || a.App != "shop" {
			return fmt.Errorf("%+v", a)
		}
		return nil
	})
	for who, want := range map[string]int{"viewer": 1, "nobody": 0} {
		var l web.AppList
		if code, text := w.ask(who, "GET", "/api/v1/apps", "", &l); code != 200 || l.Total != want {
			t.Errorf("%s sees %d: %s", who, code, text)
		}
	}
	for _, part := range []string{"", "/tree", "/events", "/diff"} {
		if code, text := w.ask("nobody", "GET", app+part, "", nil); code != 403 {
			t.Errorf("%s: %d %s", part, code, text)
		}
		if code, text := w.ask("admin", "GET", "/api/v1/apps/Kustomization/"+w.ns+"/other"+part, "", nil); code != 404 {
			t.Errorf("%s: %d %s", part, code, text)
		}
	}
	var d web.AppDetail
	if code, text := w.ask("viewer", "GET", app, "", &d); code != 200 {
		t.Fatalf("%d %s", code, text)
	}
	wantSpec := web.AppSpec{Source: "GitRepository/" + w.ns + "/repo", Path: "app", Interval: "1m0s", TargetNamespace: w.ns, Prune: true}
	if diff := cmp.Diff(wantSpec, d.Spec); diff != "" || !slices.Equal(d.DependsOn, []string{"Kustomization/" + w.ns + "/base"}) || len(d.Conditions) != 1 || len(d.Holds) != 0 {
		t.Errorf("%+v\n%s", d, diff)
	}
	w.tree(app)
	w.actions(app)
}

// tree: down to the Pods, and of what the person may not read only the name.
func (w *appsWorld) tree(app string) {
	w.Helper()
	shape := func(who string) (out []string, err error) {
		var tree web.Tree
		if code, text := w.ask(who, "GET", app+"/tree", "", &tree); code != 200 {
			return nil, fmt.Errorf("%d %s", code, text)
		}
		kinds := map[string]string{}
		for _, n := range tree.Nodes {
			kinds[n.ID] = n.Kind
			parent := "-"
			if n.Parent != "" {
				if parent = kinds[n.Parent]; parent == "" {
					return nil, fmt.Errorf("%s comes before its parent %s", n.ID, n.Parent)
				}
			}
			out = append(out, strings.Join([]string{parent, n.Kind, n.APIVersion, fmt.Sprint(n.Owned), n.Health, n.Ready}, " "))
		}
		slices.Sort(out)
		return out, nil
	}
	want := []string{
		"- Kustomization kustomize.toolkit.fluxcd.io/v1 false Healthy ",
		"Deployment ReplicaSet apps/v1 false Healthy 2/2",
		"Kustomization ConfigMap v1 true Healthy ",
		"Kustomization ConfigMap v1 true Missing ",
		"Kustomization Deployment apps/v1 true Healthy 2/2",
		"Kustomization Secret v1 true Healthy ",
		"ReplicaSet Pod v1 false Healthy 1/1",
		"ReplicaSet Pod v1 false Healthy 1/1",
	}
	w.eventually("the tree", func() error {
		have, err := shape("admin")
		if diff := cmp.Diff(want, have); err == nil && diff != "" {
			err = errors.New(diff)
		}
		return err
	})
	want[5] = "Kustomization Secret v1 true Unknown "
	have, err := shape("viewer")
	if diff := cmp.Diff(want, have); err != nil || diff != "" {
		w.Errorf("a viewer's tree: %v\n%s", err, diff)
	}
	var pods corev1.PodList
	w.must(w.client.List(w.Context(), &pods, client.InNamespace(w.ns)))
	log := "/api/v1/pods/" + w.ns + "/" + pods.Items[0].Name + "/log"
	if code, text := w.ask("viewer", "GET", log, "", nil); code != 409 || !strings.Contains(text, "which is simulated") {
		w.Errorf("log: %d %s", code, text)
	}
	if code, text := w.ask("nobody", "GET", log, "", nil); code != 403 {
		w.Errorf("log: %d %s", code, text)
	}
	var events web.EventList
	w.eventually("events of a Pod", func() error {
		code, text := w.ask("viewer", "GET", app+"/events?object=Pod/"+w.ns+"/"+pods.Items[0].Name, "", &events)
		if code != 200 || len(events.Events) == 0 {
			return fmt.Errorf("%d %s", code, text)
		}
		return nil
	})
}

// actions are done as the person: whoever may only read does nothing, and what is written bears nobody else's name.
func (w *appsWorld) actions(app string) {
	w.Helper()
	read := func() *kustomizev1.Kustomization {
		w.Helper()
		var k kustomizev1.Kustomization
		w.must(w.client.Get(w.Context(), client.ObjectKey{Namespace: w.ns, Name: "shop"}, &k))
		return &k
	}
	before := read().ResourceVersion
	for _, action := range []string{"sync", "suspend"} {
		if code, text := w.ask("viewer", "POST", app+"/"+action, "", nil); code != 403 {
			w.Errorf("%s: %d %s", action, code, text)
		}
	}
	if read().ResourceVersion != before {
		w.Error("somebody who may only read has written")
	}
	if code, text := w.ask("admin", "POST", app+"/sync", "", nil); code != 202 || read().Annotations[fluxmeta.ReconcileRequestAnnotation] == "" {
		w.Errorf("%d %s", code, text)
	}
	managers := read().ManagedFields
	if !slices.ContainsFunc(managers, func(f metav1.ManagedFieldsEntry) bool { return f.Manager == kube.PersonManager }) {
		w.Errorf("no field is managed by %s: %v", kube.PersonManager, managers)
	}
	req, err := http.NewRequestWithContext(w.Context(), http.MethodGet, w.url+"/api/v1/events", nil)
	w.must(err)
	req.Header.Set("Test-Person", "viewer")
	stream, err := http.DefaultClient.Do(req)
	w.must(err)
	defer stream.Body.Close()
	_, err = web.ReadEvents(stream.Body, "", func(name string, _ []byte) bool { return name != web.EventReady })
	w.must(err)
	for _, step := range []struct {
		action  string
		suspend bool
		already bool
	}{{"suspend", true, false}, {"suspend", true, true}, {"resume", false, false}} {
		var out web.AppAsked
		if code, text := w.ask("admin", "POST", app+"/"+step.action, "{}", &out); code != 202 || out.Already != step.already || read().Spec.Suspend != step.suspend {
			w.Errorf("%s: %d %s", step.action, code, text)
		}
		if step.already {
			if code, text := w.ask("admin", "POST", app+"/sync", "", nil); code != 409 || !strings.Contains(text, "resume it first") {
				w.Errorf("sync: %d %s", code, text)
			}
		}
	}
	_, err = web.ReadEvents(stream.Body, "", func(name string, data []byte) bool {
		var c web.AppChange
		w.must(json.Unmarshal(data, &c))
		return c.ID != "Kustomization/"+w.ns+"/shop"
	})
	w.must(err)
	if code, text := w.ask("admin", "POST", app+"/rollback", "{}", nil); code != 409 || !strings.Contains(text, "git revert") {
		w.Errorf("rollback: %d %s", code, text)
	}
}

// TestAppsDiff: what delivering would change, as far as the person may see it, and never what a Secret holds.
func TestAppsDiff(t *testing.T) {
	w := newAppsWorld(t)
	host, err := githost.New(githost.Options{Root: t.TempDir(), Token: "token"})
	w.must(err)
	hs := httptest.NewServer(host)
	t.Cleanup(hs.Close)
	w.must(host.Create(t.Context(), "repo"))
	repo, err := git.Open(host.Dir("repo"), git.Options{})
	w.must(err)
	defer repo.Close()
	_, err = repo.Commit(t.Context(), git.Change{
		Branch: githost.DefaultBranch, Message: "First", Author: git.Signature{Name: "Ada", Email: "ada@example.com"},
		Files: fstest.MapFS{
			"app/settings.yaml": {Data: []byte("apiVersion: v1\nkind: ConfigMap\nmetadata: {name: settings}\ndata: {colour: blue}\n")},
			"app/password.yaml": {Data: []byte("apiVersion: v1\nkind: Secret\nmetadata: {name: password}\nstringData: {password: hunter3-is-secret}\n")},
			"app/new.yaml":      {Data: []byte("apiVersion: v1\nkind: ConfigMap\nmetadata: {name: new}\ndata: {}\n")},
		},
	})
	w.must(err)
	w.must(w.client.Create(t.Context(), &sourcev1.GitRepository{
		ObjectMeta: metav1.ObjectMeta{Namespace: w.ns, Name: "repo"},
		Spec: sourcev1.GitRepositorySpec{
			URL: hs.URL + "/git/repo.git", Interval: metav1.Duration{Duration: time.Minute}, Reference: &sourcev1.GitRepositoryRef{Branch: githost.DefaultBranch},
		},
	}))
	w.kustomization("shop")
	app := "/api/v1/apps/Kustomization/" + w.ns + "/shop"
	read := func(who string) (d web.AppDiff, verbs []string) {
		t.Helper()
		code, text := w.ask(who, "GET", app+"/diff", "", &d)
		if code != 200 || strings.Contains(text, "is-secret") {
			t.Fatalf("%d %s", code, text)
		}
		for _, o := range d.Objects {
			verbs = append(verbs, fmt.Sprint(o.Verb, " ", o.Kind, "/", o.Name, " ", o.Hidden, " ", o.Before != "", " ", o.After != ""))
		}
		slices.Sort(verbs)
		return d, verbs
	}
	d, verbs := read("admin")
	want := []string{
		"create ConfigMap/new false false true", "delete Deployment/web false true false",
		"update ConfigMap/settings false true true", "update Secret/password false true true",
	}
	if diff := cmp.Diff(want, verbs); diff != "" || !strings.HasPrefix(d.Revision, "main@sha1:") {
		t.Errorf("%s\n%s", d.Revision, diff)
	}
	for _, o := range d.Objects {
		if o.Name == "settings" && (!strings.Contains(o.Before, "colour: green") || !strings.Contains(o.After, "colour: blue")) {
			t.Errorf("before:\n%s\nafter:\n%s", o.Before, o.After)
		}
	}
	_, verbs = read("viewer")
	want[3] = "update Secret/password true false false"
	if diff := cmp.Diff(want, verbs); diff != "" {
		t.Error(diff)
	}
	var back web.AppAsked
	commit := strings.TrimPrefix(d.Revision, "main@sha1:")
	if code, text := w.ask("admin", "POST", app+"/rollback", `{"preview":true,"to":"`+commit+`"}`, &back); code != 200 || back.Possible || back.Diff == nil ||
		len(back.Diff.Objects) != 4 || !strings.Contains(back.Message, "git revert") || strings.Contains(text, "is-secret") {
		t.Errorf("preview of a rollback: %d %s", code, text)
	}
	for _, to := range []string{`"main"`, `"--upload-pack=x"`, `7`, `""`} {
		if code, text := w.ask("admin", "POST", app+"/rollback", `{"preview":true,"to":`+to+`}`, nil); code != 409 || !strings.Contains(text, "no commit") && !strings.Contains(text, "no history") {
			t.Errorf("%s: %d %s", to, code, text)
		}
	}
	if code, text := w.ask("nobody", "POST", app+"/rollback", `{"preview":true}`, nil); code != 403 {
		t.Errorf("%d %s", code, text)
	}
	var sources web.SourceList
	w.eventually("the source", func() error {
		if code, text := w.ask("viewer", "GET", "/api/v1/sources", "", &sources); code != 200 || len(sources.Sources) != 1 || sources.Sources[0].Name != "repo" {
			return fmt.Errorf("%d %s", code, text)
		}
		return nil
	})
}

// TestVersionOf: the version of a release that a delivery has made is the newest of its chart's version until the delivery was over.
func TestVersionOf(t *testing.T) {
	at := func(minute int) time.Time { return time.Date(2026, 3, 1, 12, minute, 0, 0, time.UTC) }
	kept := []releaseVersion{
		{Version: 3, ChartVersion: "1.0.0", Updated: at(1)}, {Version: 4, ChartVersion: "1.1.0", Updated: at(5)}, {Version: 5, ChartVersion: "1.0.0", Updated: at(9)},
	}
	for _, c := range []struct {
		chart string
		over  time.Time
		want  int
	}{{"1.0.0", at(2), 3}, {"1.1.0", at(6), 4}, {"1.0.0", at(10), 5}, {"1.0.0", time.Time{}, 5}, {"0.9.0", at(10), 0}, {"1.1.0", at(4), 0}} {
		if got := versionOf(kept, c.chart, c.over); got != c.want {
			t.Errorf("%s until %s: version %d, want %d", c.chart, c.over, got, c.want)
		}
	}
}

// TestResolve: a delivery that is named stands for its revision, and only for its own app.
func TestResolve(t *testing.T) {
	sha := strings.Repeat("b", 40)
	api := &clusterAPI{deliveries: func(_ context.Context, id int64) (history.Delivery, error) {
		if id != 7 {
			return history.Delivery{}, store.ErrNotFound
		}
		return history.Delivery{ID: 7, App: history.App{Kind: "Kustomization", Namespace: "a", Name: "web"}, Commit: history.Commit{SHA: sha}}, nil
	}}
	app := func(name string) foundApp {
		return foundApp{flux: &kustomizev1.Kustomization{ObjectMeta: metav1.ObjectMeta{Namespace: "a", Name: name}}}
	}
	for name, c := range map[string]struct {
		app  string
		to   int64
		want string
		no   bool
	}{"its own": {"web", 7, sha, false}, "another app's": {"api", 7, "", true}, "none": {"web", 8, "", true}} {
		ask := web.AskApp{To: web.RollbackTo{Delivery: c.to}}
		if err := api.resolve(t.Context(), nil, app(c.app), &ask); (err != nil) != c.no || !c.no && ask.To.Revision != c.want || c.no && !errors.Is(err, web.ErrImpossible) {
			t.Errorf("%s: %v, %+v", name, err, ask.To)
		}
	}
}

// TestRunsAgain: a log is followed on as long as its container may write to it.
func TestRunsAgain(t *testing.T) {
	const always, onFailure, never = corev1.RestartPolicyAlways, corev1.RestartPolicyOnFailure, corev1.RestartPolicyNever
	running := corev1.ContainerState{Running: &corev1.ContainerStateRunning{}}
	waiting := corev1.ContainerState{Waiting: &corev1.ContainerStateWaiting{Reason: "CrashLoopBackOff"}}
	done := corev1.ContainerState{Terminated: &corev1.ContainerStateTerminated{}}
	failed := corev1.ContainerState{Terminated: &corev1.ContainerStateTerminated{ExitCode: 1}}
	sidecar := corev1.ContainerRestartPolicyAlways
	for name, c := range map[string]struct {
		container string
		policy    corev1.RestartPolicy
		phase     corev1.PodPhase
		deleted   bool
		state     corev1.ContainerState
		want      bool
	}{
		"runs":                       {"main", never, corev1.PodRunning, false, running, true},
		"runs in a Pod that ends":    {"main", always, corev1.PodRunning, true, running, true},
		"was ended with its Pod":     {"main", always, corev1.PodRunning, true, done, false},
		"in a Pod that is over":      {"main", onFailure, corev1.PodSucceeded, false, done, false},
		"is between two starts":      {"main", always, corev1.PodRunning, false, waiting, true},
		"ended, and is started anew": {"main", always, corev1.PodRunning, false, done, true},
		"ended well, of a job":       {"main", onFailure, corev1.PodRunning, false, done, false},
		"failed, of a job":           {"main", onFailure, corev1.PodRunning, false, failed, true},
		"failed, once and for all":   {"main", never, corev1.PodRunning, false, failed, false},
		"an initial one, ended":      {"first", always, corev1.PodPending, false, done, false},
		"an initial one, failed":     {"first", always, corev1.PodPending, false, failed, true},
		"one beside, ended":          {"beside", never, corev1.PodRunning, false, done, true},
		"one to debug, ended":        {"debug", always, corev1.PodRunning, false, failed, false},
		"nothing known":              {"main", always, corev1.PodPending, false, corev1.ContainerState{}, false},
	} {
		pod := &corev1.Pod{
			Spec: corev1.PodSpec{
				RestartPolicy: c.policy, Containers: []corev1.Container{{Name: "main"}},
				InitContainers: []corev1.Container{{Name: "first"}, {Name: "beside", RestartPolicy: &sidecar}},
			},
			Status: corev1.PodStatus{Phase: c.phase},
		}
		if c.deleted {
			pod.DeletionTimestamp = &metav1.Time{Time: time.Now()}
		}
		statuses := map[string]*[]corev1.ContainerStatus{
			"main": &pod.Status.ContainerStatuses, "first": &pod.Status.InitContainerStatuses, "beside": &pod.Status.InitContainerStatuses, "debug": &pod.Status.EphemeralContainerStatuses,
		}
		*statuses[c.container] = []corev1.ContainerStatus{{Name: c.container, State: c.state}}
		if got := runsAgain(pod, c.container); got != c.want {
			t.Errorf("%s: %t", name, got)
		}
	}
}
