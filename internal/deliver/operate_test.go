package deliver

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/fstest"
	"time"

	"github.com/google/go-cmp/cmp"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/yaml"

	"keelson.dev/keelson/internal/delivery"
	"keelson.dev/keelson/internal/dialect"
	"keelson.dev/keelson/internal/health"
	"keelson.dev/keelson/internal/kube"
	"keelson.dev/keelson/internal/live"
	"keelson.dev/keelson/internal/operation"
	"keelson.dev/keelson/internal/redact"
	"keelson.dev/keelson/test/testcluster"
)

// cluster gives the cluster of the package's tests, started by the first that needs it.
var cluster = sync.OnceValues(func() (*testcluster.Cluster, error) {
	c, err := testcluster.Start(context.Background(), filepath.Join(clusterDir, "cluster"))
	running = c
	return c, err
})

var (
	clusterDir string
	running    *testcluster.Cluster
)

func TestMain(m *testing.M) {
	os.Exit(func() int {
		var err error
		if clusterDir, err = os.MkdirTemp("", "keelson-deliver-"); err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
		defer os.RemoveAll(clusterDir)
		code := m.Run()
		if running != nil {
			running.Stop()
		}
		return code
	}())
}

// world is one Application in a namespace of its own, with an engine that delivers it.
type world struct {
	*testing.T
	ctx    context.Context
	kube   *kube.Cluster
	engine *Engine
	app    delivery.App
	mem    Memory
	last   *delivery.Operation
	snap   delivery.Snapshot
	woken  chan struct{}
	log    []string // what operations did
	ns     string
}

var configMaps = schema.GroupVersionKind{Version: "v1", Kind: "ConfigMap"}

func newWorld(t *testing.T, policy delivery.SyncPolicy) *world {
	t.Helper()
	c, err := cluster()
	if err != nil {
		t.Fatal(err)
	}
	k, err := kube.NewCluster(c.Config)
	if err != nil {
		t.Fatal(err)
	}
	policy.Windows = delivery.Window{Automated: true, Manual: true}
	w := &world{T: t, ctx: t.Context(), kube: k, woken: make(chan struct{}, 1)}
	ns, err := w.resource(schema.GroupVersionKind{Version: "v1", Kind: "Namespace"}, "").Create(w.ctx, &unstructured.Unstructured{Object: map[string]any{
		"apiVersion": "v1", "kind": "Namespace", "metadata": map[string]any{"generateName": "operate-"},
	}}, metav1.CreateOptions{})
	w.must(err)
	w.ns = ns.GetName()
	t.Cleanup(func() {
		_ = w.resource(schema.GroupVersionKind{Version: "v1", Kind: "Namespace"}, "").Delete(context.Background(), w.ns, metav1.DeleteOptions{})
	})
	w.app = delivery.App{
		ID: delivery.ID{Kind: "Application", Namespace: "argocd", Name: w.ns}, UID: w.ns, Generation: 1, Namespace: w.ns, Sync: &policy, Prune: true,
		Build: delivery.Build{Path: "."}, Guard: delivery.Guard{MaxPrunePercent: 100},
	}
	w.engine = &Engine{
		Cluster: k, Claims: NewClaims(), Label: dialect.ArgoLabel, OwnerOf: dialect.ArgoOwner, Read: dialect.ArgoRead,
		Tracks: func(app delivery.ID, u *unstructured.Unstructured) bool {
			of, ref, ok := dialect.ArgoTracking("argocd", u.GetAnnotations()["argocd.argoproj.io/tracking-id"])
			return ok && of == app && ref == delivery.RefOf(u)
		},
	}
	w.engine.Live = live.New(w.ctx, k, live.Options{
		Selector: dialect.ArgoNameLabel, OwnerOf: dialect.ArgoOwner, MarksOf: dialect.ArgoMarks,
		Notify: func(delivery.ID, delivery.Ref) {
			select {
			case w.woken <- struct{}{}:
			default:
			}
		},
	})
	w.engine.Live.Judge(w.app.ID, health.NewArgo(nil, nil))
	return w
}

func (w *world) must(err error) {
	w.Helper()
	if err != nil {
		w.Fatal(err)
	}
}

func (w *world) resource(gvk schema.GroupVersionKind, ns string) interface {
	Get(ctx context.Context, name string, options metav1.GetOptions, subresources ...string) (*unstructured.Unstructured, error)
	Create(ctx context.Context, obj *unstructured.Unstructured, options metav1.CreateOptions, subresources ...string) (*unstructured.Unstructured, error)
	Delete(ctx context.Context, name string, options metav1.DeleteOptions, subresources ...string) error
	Patch(ctx context.Context, name string, pt types.PatchType, data []byte, options metav1.PatchOptions, subresources ...string) (*unstructured.Unstructured, error)
} {
	w.Helper()
	r, err := w.kube.Self().Resource(gvk, ns)
	w.must(err)
	return r
}

// commit makes manifests, separated by lines of "---", what Git has.
func (w *world) commit(revision string, manifests ...string) {
	w.snap = delivery.Snapshot{
		Revision: delivery.Revision{Name: "main", Commit: revision}, Digest: revision,
		FS: fstest.MapFS{"all.yaml": {Data: []byte(strings.Join(manifests, "\n---\n"))}},
	}
	if len(manifests) == 0 {
		w.snap.FS = fstest.MapFS{"kustomization.yaml": {Data: []byte("resources: []\n")}}
	}
}

func (w *world) request() Request {
	return Request{App: w.app, Snapshot: w.snap, Now: time.Now(), Vars: Variables{
		Load: func(context.Context) (map[string]string, *redact.Redactor, error) { return nil, redact.New(), nil },
	}}
}

// look compares the app, waiting for what has to be known first.
func (w *world) look() State {
	w.Helper()
	for {
		state, err := w.engine.Observe(w.ctx, w.request(), &w.mem)
		w.must(err)
		if state.Waiting == "" {
			w.mem.Inventory = state.Owned
			w.engine.Claims.Set(w.app.ID, state.Owned)
			w.mem.Release()
			return state
		}
		w.wait()
	}
}

func (w *world) wait() {
	w.Helper()
	select {
	case <-w.woken:
	case <-time.After(500 * time.Millisecond): // an event may be told before it is waited for
	case <-w.ctx.Done():
		w.Fatal("the test is over")
	}
}

// step decides once, and carries out the operation that begins; false: none did.
func (w *world) step(asked *delivery.OperationRequest) bool {
	w.Helper()
	standing := w.look().Standing(operation.Standing{
		Policy: *w.app.Sync, Asked: asked, Last: w.last, Revisions: []string{w.snap.Revision.Commit}, Now: time.Now(),
	})
	d := operation.Decide(standing)
	if d.Begin == nil {
		return false
	}
	op := operation.Start(d, standing)
	w.carryOut(&op)
	w.last = &op
	return true
}

func (w *world) carryOut(op *delivery.Operation) {
	w.Helper()
	for deadline := time.Now().Add(time.Minute); time.Now().Before(deadline); {
		req := w.request()
		req.Operation = op
		state, err := w.engine.Observe(w.ctx, req, &w.mem)
		w.must(err)
		step := w.engine.Operate(req, state, &w.mem)
		*op = step.Operation
		switch {
		case step.Over:
			w.log = append(w.log, string(op.Phase)+": "+op.Message)
			w.mem.Release()
			return
		case step.Waiting != "":
			w.wait()
			continue
		}
		w.mem.Inventory = Intent(&w.mem, state.Plan)
		res, err := w.engine.Act(w.ctx, req, state, step.Stage, &w.mem)
		w.must(err)
		var did []string
		for _, c := range res.Changes {
			did = append(did, string(c.Change.Verb)+" "+c.Change.Ref.Kind+"/"+c.Change.Ref.Name)
		}
		slices.Sort(did)
		w.log = append(w.log, strings.Join(did, ", "))
		*op = operation.Record(*op, res.Dones(), time.Now())
	}
	w.Fatalf("the operation did not end: %+v\n%q", op, w.log)
}

// did gives what operations have done since it was asked last.
func (w *world) did(want ...string) {
	w.Helper()
	if diff := cmp.Diff(want, w.log); diff != "" {
		w.Errorf("what operations did (-want +got):\n%s", diff)
	}
	w.log = nil
}

// differing gives how the objects compare that differ, or are special.
func differing(s State) (out []string) {
	for _, c := range s.Compared {
		text := c.Ref.Kind + "/" + c.Ref.Name
		switch {
		case c.Hook:
			text += " hook"
		case c.RequiresPruning:
			text += " prune"
		case c.Differs:
			text += " differs"
		default:
			continue
		}
		out = append(out, text)
	}
	return out
}

func (w *world) compares(want ...string) State {
	w.Helper()
	s := w.look()
	if diff := cmp.Diff(want, differing(s)); diff != "" {
		w.Errorf("what differs (-want +got):\n%s", diff)
	}
	return s
}

// eventually looks until the app compares like this.
func (w *world) eventually(want ...string) {
	w.Helper()
	for deadline := time.Now().Add(30 * time.Second); time.Now().Before(deadline); w.wait() {
		if cmp.Equal(want, differing(w.look())) {
			return
		}
	}
	w.compares(want...)
}

func configMap(name, value string, more ...string) string {
	return fmt.Sprintf("apiVersion: v1\nkind: ConfigMap\nmetadata:\n  name: %s\n%sdata: {value: %q}\n", name, strings.Join(more, ""), value)
}

// note gives annotations, "key: value" of Argo CD's group.
func note(notes ...string) string {
	text := "  annotations:\n"
	for _, n := range notes {
		text += "    argocd.argoproj.io/" + n + "\n"
	}
	return text
}

// job is one that completes at once, or never.
func job(name string, ends bool, more ...string) string {
	completions := 0
	if !ends {
		completions = 1
	}
	return fmt.Sprintf(`apiVersion: batch/v1
kind: Job
metadata:
  name: %s
%sspec:
  completions: %d
  activeDeadlineSeconds: 1
  template: {spec: {restartPolicy: Never, nodeSelector: {none: such}, containers: [{name: a, image: b}]}}
`, name, strings.Join(more, ""), completions)
}

func (w *world) value(name string) string {
	w.Helper()
	u, err := w.resource(configMaps, w.ns).Get(w.ctx, name, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		return ""
	}
	w.must(err)
	text, _, _ := unstructured.NestedString(u.Object, "data", "value")
	return text
}

// edit merges a patch into an object as somebody else.
func (w *world) edit(gvk schema.GroupVersionKind, name, patch string) {
	w.Helper()
	b, err := yaml.YAMLToJSON([]byte(patch))
	w.must(err)
	_, err = w.resource(gvk, w.ns).Patch(w.ctx, name, types.MergePatchType, b, metav1.PatchOptions{FieldManager: "somebody"})
	w.must(err)
}

// TestAutomated: a commit is carried out once, drift is repaired where selfHeal says so, what left Git is pruned.
func TestAutomated(t *testing.T) {
	w := newWorld(t, delivery.SyncPolicy{Automated: true, SelfHeal: true, Prune: true})
	w.commit("a1", configMap("one", "1"), configMap("two", "2"))
	w.compares("ConfigMap/one differs", "ConfigMap/two differs")
	if w.value("one") != "" {
		t.Fatal("comparing has applied something")
	}
	if !w.step(nil) {
		t.Fatal("a new commit begins no operation")
	}
	w.did("create ConfigMap/one, create ConfigMap/two", "Succeeded: successfully synced (all tasks run)")
	w.compares()
	if w.step(nil) {
		t.Error("an operation begins although all is in sync")
	}
	w.edit(configMaps, "one", "data: {value: other}")
	w.eventually("ConfigMap/one differs")
	w.step(nil)
	w.did("repair ConfigMap/one", "Succeeded: successfully synced (all tasks run)")
	if !w.last.Request.Healing || w.value("one") != "1" {
		t.Errorf("healing %v left %q", w.last.Request.Healing, w.value("one"))
	}
	w.must(w.resource(configMaps, w.ns).Delete(w.ctx, "two", metav1.DeleteOptions{}))
	w.eventually("ConfigMap/two differs")
	w.step(nil)
	w.did("repair ConfigMap/two", "Succeeded: successfully synced (all tasks run)")
	w.commit("a2", configMap("one", "3"))
	w.compares("ConfigMap/one differs", "ConfigMap/two prune")
	w.step(nil)
	w.did("update ConfigMap/one", "delete ConfigMap/two", "Succeeded: successfully synced (all tasks run)")
	w.eventually()
	if w.value("one") != "3" || w.value("two") != "" {
		t.Errorf("it ends with %q, %q", w.value("one"), w.value("two"))
	}
}

// TestSteadyStateRendersNothing: an app that differs, and waits for a person, is neither rendered again nor asked about.
func TestSteadyState(t *testing.T) {
	w := newWorld(t, delivery.SyncPolicy{})
	w.commit("b1", configMap("one", "1"))
	w.step(&delivery.OperationRequest{})
	w.did("create ConfigMap/one", "Succeeded: successfully synced (all tasks run)")
	w.commit("b2", configMap("one", "2"))
	w.compares("ConfigMap/one differs")
	for range 3 {
		state, known, err := w.engine.Glance(w.request(), &w.mem)
		w.must(err)
		if !known || state.InSync || len(state.Compared) != 1 || state.Compared[0].Health.Status == delivery.Missing {
			t.Fatalf("known at a glance: %v, %+v", known, state)
		}
	}
	if w.step(nil) {
		t.Error("an operation that nobody asked for begins")
	}
	w.edit(configMaps, "one", "data: {value: '2'}") // as Git wants it now, but not by us
	for deadline := time.Now().Add(10 * time.Second); time.Now().Before(deadline); w.wait() {
		if _, known, _ := w.engine.Glance(w.request(), &w.mem); !known {
			break
		}
	}
	// A record says the same in the next process.
	w.step(&delivery.OperationRequest{})
	w.look()
	records, err := OpenRecords(t.TempDir(), "v1")
	w.must(err)
	w.mem.unsaved = true
	w.must(records.Save(w.app.ID, &w.mem))
	next := Memory{Inventory: w.mem.Inventory}
	records.Load(w.app, &next)
	state, known, err := w.engine.Glance(w.request(), &next)
	w.must(err)
	if !known || !state.InSync || len(state.Compared) != 1 {
		t.Errorf("after a restart: known %v, %+v", known, state)
	}
}

// TestHooksAndWaves: everything in its order, in a real cluster; a hook that never ends hits its deadline.
func TestHooksAndWaves(t *testing.T) {
	w := newWorld(t, delivery.SyncPolicy{Automated: true})
	w.commit("c1",
		configMap("second", "1", note(`sync-wave: "1"`)), configMap("first", "1", note(`sync-wave: "-1"`)),
		job("before", true, note("hook: PreSync", "hook-delete-policy: HookSucceeded")), job("after", true, note("hook: PostSync")),
		job("broken", true, note("hook: SyncFail")),
	)
	w.step(nil)
	const done = "Succeeded: successfully synced (all tasks run)"
	w.did("create Job/before", "create ConfigMap/first", "create ConfigMap/second", "create Job/after", "delete Job/before", done)
	w.eventually("Job/after hook")
	w.commit("c2",
		configMap("second", "2", note(`sync-wave: "1"`)), configMap("first", "1", note(`sync-wave: "-1"`)),
		job("after", true, note("hook: PostSync")),
	)
	w.step(nil)
	w.did("update ConfigMap/second", "replace Job/after", "create Job/after", done)
	w.commit("c3", configMap("second", "3"), job("never", false, note("hook: PreSync")), job("broken", true, note("hook: SyncFail")))
	w.step(nil)
	w.did("create Job/never", "create Job/broken", "Failed: one or more synchronization tasks completed unsuccessfully")
	if w.value("second") != "2" {
		t.Error("what comes after a failed hook was applied")
	}
	if w.step(nil) {
		t.Error("it is tried again at the same commit")
	}
	w.compares("Job/after hook", "Job/broken hook", "ConfigMap/first prune", "Job/never hook", "ConfigMap/second differs")
}

// TestTakenOver: what somebody else has applied does not differ where an apply would change nothing.
func TestTakenOver(t *testing.T) {
	w := newWorld(t, delivery.SyncPolicy{})
	for _, name := range []string{"same", "other", "gone"} {
		u := &unstructured.Unstructured{}
		w.must(yaml.Unmarshal([]byte(configMap(name, name)), &u.Object))
		u.SetNamespace(w.ns)
		u.SetAnnotations(map[string]string{"argocd.argoproj.io/tracking-id": w.ns + ":/ConfigMap:" + w.ns + "/" + name})
		_, err := w.resource(configMaps, w.ns).Create(w.ctx, u, metav1.CreateOptions{FieldManager: "argocd-controller"})
		w.must(err)
		w.mem.Inventory = w.mem.Inventory.Union(delivery.Inventory{delivery.RefOf(u): "v1"})
	}
	w.commit("d1", configMap("same", "same"), configMap("other", "another"), configMap("missing", "1"))
	w.compares("ConfigMap/gone prune", "ConfigMap/missing differs", "ConfigMap/other differs")
	w.step(&delivery.OperationRequest{Prune: true})
	w.did("create ConfigMap/missing, create ConfigMap/other, create ConfigMap/same", "delete ConfigMap/gone", "Succeeded: successfully synced (all tasks run)")
	w.compares()
	for i := 0; w.value("gone") != ""; i++ { // it is deleted in the foreground, which takes the garbage collector a moment
		if i == 200 {
			t.Fatal("what left Git is still there")
		}
		time.Sleep(50 * time.Millisecond)
	}
}

// TestIgnoreDifferences: fields do not count when the app is compared; they are kept on a sync only where that is asked for.
func TestIgnoreDifferences(t *testing.T) {
	deployments := schema.GroupVersionKind{Group: "apps", Version: "v1", Kind: "Deployment"}
	deployment := func(image string) string {
		return "apiVersion: apps/v1\nkind: Deployment\nmetadata: {name: web}\nspec:\n  replicas: 1\n  selector: {matchLabels: {app: web}}\n" +
			"  template:\n    metadata: {labels: {app: web}}\n    spec: {containers: [{name: web, image: " + image + "}, {name: side, image: one}]}\n"
	}
	for name, respect := range map[string]bool{"compared": false, "respected": true} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, delivery.SyncPolicy{SelfHeal: true, Automated: true})
			w.app.Ignore = []delivery.IgnoreRule{
				{Paths: []string{"/spec/replicas"}, Target: &delivery.Selector{Kind: "Deployment"}, Respect: respect},
				{JQ: []string{`.spec.template.spec.containers[] | select(.name == "side") | .image`}, Respect: respect},
				{Managers: []string{"injector"}, Respect: respect},
			}
			w.commit("e1", deployment("a"))
			w.step(nil)
			w.edit(deployments, "web", "spec: {replicas: 3}")
			w.edit(deployments, "web", `{"spec": {"template": {"spec": {"containers": [{"name": "web", "image": "a"}, {"name": "side", "image": "two"}]}}}}`)
			for range 5 {
				w.wait()
				w.compares()
			}
			w.log = nil
			w.commit("e2", deployment("b"))
			w.compares("Deployment/web differs")
			w.step(nil)
			u, err := w.resource(deployments, w.ns).Get(w.ctx, "web", metav1.GetOptions{})
			w.must(err)
			containers, _, _ := unstructured.NestedSlice(u.Object, "spec", "template", "spec", "containers")
			var images []string
			for _, c := range containers {
				m, _ := c.(map[string]any)
				images = append(images, fmt.Sprint(m["image"]))
			}
			replicas, _, _ := unstructured.NestedInt64(u.Object, "spec", "replicas")
			want := "[b one] 1"
			if respect {
				want = "[b two] 3"
			}
			if got := fmt.Sprint(images, replicas); got != want {
				t.Errorf("images and replicas are %s, want %s", got, want)
			}
			w.compares()
		})
	}
}

// TestRemove: an app goes with its objects in the reverse order, between its hooks.
func TestRemove(t *testing.T) {
	w := newWorld(t, delivery.SyncPolicy{Automated: true, Options: delivery.SyncOptions{Propagation: "background"}})
	w.commit("f1",
		configMap("first", "1"), configMap("second", "1", note(`sync-wave: "1"`)), configMap("kept", "1", note("sync-options: Delete=false")),
		job("farewell", true, note("hook: PreDelete", "hook-delete-policy: HookSucceeded")), job("last", true, note("hook: PostDelete", "hook-delete-policy: HookSucceeded")),
	)
	w.step(nil)
	w.look()
	asked := time.Now()
	var did []string
	for deadline := time.Now().Add(time.Minute); ; w.wait() {
		out, err := w.engine.Remove(w.ctx, w.request(), asked, &w.mem)
		w.must(err)
		for _, c := range out.Changes {
			did = append(did, string(c.Change.Verb)+" "+c.Change.Ref.Name)
		}
		if out.Fault != nil || time.Now().After(deadline) {
			t.Fatalf("removed as far as %q: %+v", did, out)
		}
		if out.Done {
			break
		}
	}
	want := []string{"create farewell", "delete second", "delete first", "create last", "delete farewell", "delete last"}
	if diff := cmp.Diff(want, did); diff != "" {
		t.Errorf("what was done (-want +got):\n%s", diff)
	}
	if w.value("kept") != "1" || w.value("first") != "" {
		t.Errorf("kept %q, first %q", w.value("kept"), w.value("first"))
	}
}

// TestHookOfAnother: a hook has the name of an object that another app owns, which stays as it is.
func TestHookOfAnother(t *testing.T) {
	w := newWorld(t, delivery.SyncPolicy{Automated: true})
	victim := delivery.ID{Kind: "Application", Namespace: "argocd", Name: "victim"}
	precious := configMap("precious", "1")
	u := &unstructured.Unstructured{}
	w.must(yaml.Unmarshal([]byte(precious), &u.Object))
	dialect.ArgoLabel(victim, delivery.Object{Unstructured: u})
	_, err := w.resource(configMaps, w.ns).Create(w.ctx, u, metav1.CreateOptions{})
	w.must(err)
	ref := delivery.Ref{Kind: "ConfigMap", Namespace: w.ns, Name: "precious"}
	w.engine.Claims.Set(victim, delivery.Inventory{ref: "v1"})
	w.commit("c1", configMap("precious", "stolen", note("hook: PreSync")), configMap("a", "1"))
	w.step(nil)
	w.did("Failed: one or more synchronization tasks are not valid, reason: " + ref.String() + ": it is already owned by " + victim.String() +
		" (hint: remove it from one of the two; " + w.app.ID.String() + " takes it over once " + victim.String() + " has let it go)")
	if got := w.value("precious"); got != "1" {
		t.Errorf("the other app's object says %q", got)
	}
}

// TestNamespaceForbidden: the metadata of a namespace that is there are changed only where the project permits it and no other app has it.
func TestNamespaceForbidden(t *testing.T) {
	namespaces := schema.GroupVersionKind{Version: "v1", Kind: "Namespace"}
	allowed := []delivery.KindRule{{Group: "*", Kind: "*"}}
	victim := delivery.ID{Kind: "Application", Namespace: "argocd", Name: "victim"}
	for name, tt := range map[string]struct {
		labels map[string]string
		allow  []delivery.KindRule
		owner  delivery.ID
		want   string // begins what it does
	}{
		"forbidden":                     {map[string]string{"team": "a"}, nil, delivery.ID{}, "Failed: one or more synchronization tasks are not valid"},
		"another's":                     {map[string]string{"team": "a"}, allowed, victim, "Failed: one or more synchronization tasks are not valid"},
		"forbidden, but nothing is new": {nil, nil, victim, "create ConfigMap/one"},
		"permitted":                     {map[string]string{"team": "a"}, allowed, delivery.ID{}, "update Namespace/"},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, delivery.SyncPolicy{
				Automated: true, Options: delivery.SyncOptions{CreateNamespace: true}, NamespaceMetadata: &delivery.Metadata{Labels: tt.labels},
			})
			w.app.Limits = &delivery.Limits{Project: "team", Namespaces: []string{"*"}, AllowAll: true, ClusterAllow: tt.allow}
			if tt.owner != (delivery.ID{}) {
				w.engine.Claims.Set(tt.owner, delivery.Inventory{{Kind: "Namespace", Name: w.ns}: "v1"})
			}
			w.commit("c1", configMap("one", "1"))
			w.step(nil)
			if len(w.log) == 0 || !strings.HasPrefix(w.log[0], tt.want) {
				t.Errorf("it did %q, want %q first", w.log, tt.want)
			}
			ns, err := w.resource(namespaces, "").Get(w.ctx, w.ns, metav1.GetOptions{})
			w.must(err)
			if got := ns.GetLabels()["team"] == "a"; got != (name == "permitted") {
				t.Errorf("the namespace has the labels %v", ns.GetLabels())
			}
		})
	}
}

// TestLookAs: what is compared by a dry run is asked as the account that operations are made as.
func TestLookAs(t *testing.T) {
	w := newWorld(t, delivery.SyncPolicy{})
	w.commit("c1", configMap("a", "1"))
	u := &unstructured.Unstructured{}
	w.must(yaml.Unmarshal([]byte(configMap("a", "1")), &u.Object))
	_, err := w.resource(configMaps, w.ns).Create(w.ctx, u, metav1.CreateOptions{})
	w.must(err)
	w.app.ServiceAccount, w.app.ServiceAccountNamespace = "deployer", w.ns
	roles := schema.GroupVersionKind{Group: "rbac.authorization.k8s.io", Version: "v1", Kind: "RoleBinding"}
	_, err = w.resource(roles, w.ns).Create(w.ctx, &unstructured.Unstructured{Object: map[string]any{
		"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "RoleBinding", "metadata": map[string]any{"name": "deployer"},
		"roleRef":  map[string]any{"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "cluster-admin"},
		"subjects": []any{map[string]any{"kind": "ServiceAccount", "name": "deployer", "namespace": w.ns}},
	}}, metav1.CreateOptions{})
	w.must(err)
	deadline := time.Now().Add(5 * time.Second)
	for got := []string{"?"}; len(got) > 0; { // what was bound takes a moment to count
		if got = differing(w.look()); time.Now().After(deadline) {
			t.Fatalf("%q differs: it was not asked as the account of the app", got)
		}
		w.mem.verdicts = nil
	}
}

// TestNamespaceAndReplace: the namespace is made, with its metadata, and an object is replaced as a whole.
func TestNamespaceAndReplace(t *testing.T) {
	w := newWorld(t, delivery.SyncPolicy{
		Automated: true, SelfHeal: true, Options: delivery.SyncOptions{CreateNamespace: true, Replace: true},
		NamespaceMetadata: &delivery.Metadata{Labels: map[string]string{"team": "a"}},
	})
	namespaces := schema.GroupVersionKind{Version: "v1", Kind: "Namespace"}
	made := w.ns + "-made"
	w.app.Namespace = made
	t.Cleanup(func() { _ = w.resource(namespaces, "").Delete(context.Background(), made, metav1.DeleteOptions{}) })
	w.commit("g1", configMap("one", "1"))
	w.step(nil)
	w.did("create Namespace/"+made, "create ConfigMap/one", "Succeeded: successfully synced (all tasks run)")
	ns, err := w.resource(namespaces, "").Get(w.ctx, made, metav1.GetOptions{})
	w.must(err)
	if ns.GetLabels()["team"] != "a" || dialect.ArgoOwner(ns.GetLabels()) != (delivery.ID{}) {
		t.Errorf("the namespace has the labels %v", ns.GetLabels())
	}
	w.ns = made
	w.edit(configMaps, "one", "data: {value: other, more: '1'}")
	w.eventually("ConfigMap/one differs")
	w.step(nil)
	u, err := w.resource(configMaps, made).Get(w.ctx, "one", metav1.GetOptions{})
	w.must(err)
	if data, _, _ := unstructured.NestedStringMap(u.Object, "data"); !cmp.Equal(data, map[string]string{"value": "1"}) {
		t.Errorf("replaced, it has the data %v", data)
	}
	w.eventually()
}
