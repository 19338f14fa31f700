package controller_test

import (
	"fmt"
	"os"
	"strings"
	"testing"
	"testing/fstest"

	kustomizev1 "github.com/fluxcd/kustomize-controller/api/v1"
	"github.com/google/go-cmp/cmp"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/util/retry"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"keelson.dev/keelson/internal/dialect"
	"keelson.dev/keelson/internal/git"
)

// commit writes files onto main; an empty content deletes the file.
func (w *world) commit(files map[string]string) {
	w.Helper()
	w.commitAs("test", "test", files)
}

// commitAs is commit with a message, by somebody.
func (w *world) commitAs(author, message string, files map[string]string) {
	w.Helper()
	tree, remove := fstest.MapFS{}, []string{}
	for name, content := range files {
		if content == "" {
			remove = append(remove, name)
			continue
		}
		tree[name] = &fstest.MapFile{Data: []byte(content), Mode: 0o644}
	}
	head, err := w.repo.Commit(w.ctx, git.Change{
		Branch: "main", Base: w.head, Files: tree, Remove: remove, Message: message, Author: git.Signature{Name: author, Email: author + "@example.com"},
	})
	w.must(err)
	w.head = head
}

const deployment = `
apiVersion: apps/v1
kind: Deployment
metadata: {name: web, namespace: $ns, annotations: {test: "1"}}
spec:
  replicas: 2
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec: {containers: [{name: web, image: "web:1"}]}
`

func TestPushGoesLive(t *testing.T) {
	w := newWorld(t)
	w.app("app", "  wait: true")
	rev := w.push(map[string]string{
		"app/settings.yaml": w.configMap("settings", "one"),
		"app/web.yaml":      strings.ReplaceAll(deployment, "$ns", w.ns),
	})
	w.ready("app", rev)
	w.value("settings", "one")
	k := w.kustomization("app")
	if k.Status.LastAppliedRevision != rev || k.Status.LastAttemptedRevision != rev {
		t.Errorf("revisions: applied %q, attempted %q, want %q", k.Status.LastAppliedRevision, k.Status.LastAttemptedRevision, rev)
	}
	want := []kustomizev1.ResourceRef{{ID: w.ns + "_settings__ConfigMap", Version: "v1"}, {ID: w.ns + "_web_apps_Deployment", Version: "v1"}}
	if diff := cmp.Diff(want, k.Status.Inventory.Entries); diff != "" {
		t.Errorf("inventory (-want +got):\n%s", diff)
	}
	var d appsv1.Deployment
	w.must(w.client.Get(w.ctx, client.ObjectKey{Namespace: w.ns, Name: "web"}, &d))
	if d.Status.AvailableReplicas != 2 {
		t.Errorf("the app is ready with %d of 2 replicas available", d.Status.AvailableReplicas)
	}
	if d.Labels[dialect.OwnerNameLabel] != "app" || d.Labels[dialect.OwnerNamespaceLabel] != w.ns {
		t.Errorf("labels %v do not name the app", d.Labels)
	}

	rev = w.push(map[string]string{"app/settings.yaml": w.configMap("settings", "two")})
	w.ready("app", rev)
	w.value("settings", "two")
	w.event("app", "Progressing", "ConfigMap/"+w.ns+"/settings configured")
}

// edit reads an object, changes it and writes it back as the given field manager.
func (w *world) edit(obj client.Object, manager string, change func()) {
	w.Helper()
	w.must(retry.RetryOnConflict(retry.DefaultRetry, func() error {
		if err := w.client.Get(w.ctx, client.ObjectKeyFromObject(obj), obj); err != nil {
			return err
		}
		change()
		return w.client.Update(w.ctx, obj, client.FieldOwner(manager))
	}))
}

func TestDriftIsRepaired(t *testing.T) {
	w := newWorld(t)
	w.app("app", "")
	w.ready("app", w.push(map[string]string{
		"app/settings.yaml": w.configMap("settings", "one"), "app/web.yaml": strings.ReplaceAll(deployment, "$ns", w.ns),
	}))
	var cm corev1.ConfigMap
	key := client.ObjectKey{Namespace: w.ns, Name: "settings"}

	w.must(w.client.Delete(w.ctx, &corev1.ConfigMap{ObjectMeta: w.named("settings")}))
	w.value("settings", "one")
	w.event("app", "DriftRepaired", "ConfigMap/"+w.ns+"/settings repaired", "deleted in the cluster")

	cm.ObjectMeta = w.named("settings")
	w.edit(&cm, "a-person", func() { cm.Data["v"], cm.Data["theirs"] = "edited", "kept" })
	w.value("settings", "one")
	w.event("app", "DriftRepaired", "edited in the cluster by a-person")
	if got := w.data("settings")["theirs"]; got != "kept" {
		t.Errorf("a field that Git does not state was taken away: %q", got)
	}

	w.edit(&cm, "a-person", func() { cm.Labels = nil })
	w.eventually("ownership label", func() error {
		w.must(w.client.Get(w.ctx, key, &cm))
		if cm.Labels[dialect.OwnerNameLabel] != "app" {
			return fmt.Errorf("labels are %v", cm.Labels)
		}
		return nil
	})

	d := appsv1.Deployment{ObjectMeta: w.named("web")}
	w.edit(&d, "a-person", func() { d.Spec.Replicas = new(int32(7)) })
	w.eventually("replicas", func() error {
		w.must(w.client.Get(w.ctx, client.ObjectKeyFromObject(&d), &d))
		if *d.Spec.Replicas != 2 {
			return fmt.Errorf("replicas are %d", *d.Spec.Replicas)
		}
		return nil
	})
	w.event("app", "DriftRepaired", "scaled from 2 to 7 in the cluster by a-person")
}

func TestAutoscaledReplicasAreLeftAlone(t *testing.T) {
	w := newWorld(t)
	w.app("app", "")
	hpa := `
apiVersion: autoscaling/v2
kind: HorizontalPodAutoscaler
metadata: {name: web, namespace: $ns}
spec: {minReplicas: 1, maxReplicas: 9, scaleTargetRef: {apiVersion: apps/v1, kind: Deployment, name: web}}
`
	w.ready("app", w.push(map[string]string{
		"app/web.yaml": strings.ReplaceAll(deployment, "$ns", w.ns), "app/hpa.yaml": strings.ReplaceAll(hpa, "$ns", w.ns),
	}))
	var d appsv1.Deployment
	w.must(w.client.Get(w.ctx, client.ObjectKey{Namespace: w.ns, Name: "web"}, &d))
	for _, f := range d.ManagedFields {
		if f.Manager == "keelson" && strings.Contains(f.FieldsV1.GetRawString(), "f:replicas") {
			t.Error("spec.replicas was sent although an autoscaler targets the Deployment")
		}
	}
	w.edit(&d, "kube-controller-manager", func() { d.Spec.Replicas = new(int32(5)) })
	w.ready("app", w.push(map[string]string{"app/web.yaml": strings.ReplaceAll(strings.ReplaceAll(deployment, "$ns", w.ns), "web:1", "web:2")}))
	w.must(w.client.Get(w.ctx, client.ObjectKeyFromObject(&d), &d))
	if *d.Spec.Replicas != 5 || d.Spec.Template.Spec.Containers[0].Image != "web:2" {
		t.Errorf("replicas %d, image %s; want the autoscaler's 5 and Git's web:2", *d.Spec.Replicas, d.Spec.Template.Spec.Containers[0].Image)
	}
}

func TestPrune(t *testing.T) {
	w := newWorld(t)
	w.app("app", "")
	files := map[string]string{}
	for _, name := range []string{"a", "b", "c", "d"} {
		files["app/"+name+".yaml"] = w.configMap(name, "1")
	}
	w.ready("app", w.push(files))
	w.ready("app", w.push(map[string]string{"app/a.yaml": ""}))
	w.value("a", "")
	w.value("b", "1")

	// Two of three would go: that waits for a person's word.
	rev := w.push(map[string]string{"app/b.yaml": "", "app/c.yaml": "", "app/d.yaml": w.configMap("d", "2")})
	w.condition("app", metav1.ConditionFalse, "ConfirmationRequired", "2 of the app's 3 objects", "keelson confirm app")
	if b, d := w.data("b"), w.data("d"); b == nil || d["v"] != "1" {
		t.Errorf("half a change was made without confirmation: b %v, d %v", b, d)
	}
	w.annotate("app", dialect.ConfirmAnnotation, w.head[:12])
	w.ready("app", rev)
	w.value("b", "")
	w.value("c", "")
	w.value("d", "2")

	// Nothing at all would be left.
	rev = w.push(map[string]string{"app/d.yaml": "", "app/kustomization.yaml": "resources: []\n"})
	w.condition("app", metav1.ConditionFalse, "ConfirmationRequired", "renders to nothing")
	w.value("d", "2")
	w.annotate("app", dialect.AllowEmptyAnnotation, "true")
	w.annotate("app", dialect.MaxPruneAnnotation, "100")
	w.ready("app", rev)
	w.value("d", "")
}

func (w *world) annotate(app, key, value string) {
	w.Helper()
	patch := fmt.Sprintf(`{"metadata":{"annotations":{%q:%q}}}`, key, value)
	w.must(w.client.Patch(w.ctx, &kustomizev1.Kustomization{ObjectMeta: w.named(app)}, client.RawPatch("application/merge-patch+json", []byte(patch))))
}

// TestBadInput breaks a good app in every way a commit can, and mends it again: the last good state stays.
func TestBadInput(t *testing.T) {
	w := newWorld(t)
	w.app("app", "")
	w.ready("app", w.push(map[string]string{"app/kustomization.yaml": "resources: [a.yaml]\n", "app/a.yaml": w.configMap("a", "good")}))
	tests := []struct {
		name   string
		files  map[string]string
		reason string
		parts  []string
	}{
		{"malformed YAML", map[string]string{"app/a.yaml": "a: b\n c: [\n"}, "BuildFailed", []string{"app/a.yaml:"}},
		{"malformed kustomization", map[string]string{"app/kustomization.yaml": "resources: {\n"}, "BuildFailed", []string{"app/kustomization.yaml:"}},
		{"missing resource", map[string]string{"app/kustomization.yaml": "resources: [a.yaml, gone.yaml]\n"}, "BuildFailed", []string{"gone.yaml"}},
		{"remote base", map[string]string{"app/kustomization.yaml": "resources: [a.yaml, 'https://example.com/base?ref=v1']\n"}, "BuildFailed", []string{"https://example.com/base?ref=v1"}},
		{"leaves the repository", map[string]string{"app/kustomization.yaml": "resources: [a.yaml, ../../../etc/passwd]\n"}, "BuildFailed", []string{"leaves the repository"}},
		{"huge manifest", map[string]string{"app/a.yaml": "# " + strings.Repeat("x", 60<<20)}, "BuildFailed", []string{"app/a.yaml"}},
		{"unknown kind", map[string]string{"app/a.yaml": w.configMap("a", "half") + "---\napiVersion: example.com/v1\nkind: Nothing\nmetadata: {name: n, namespace: x}\n"}, "KindNotFound", []string{"no kind Nothing"}},
		{"no namespace", map[string]string{"app/a.yaml": w.configMap("a", "half") + "---\napiVersion: v1\nkind: ConfigMap\nmetadata: {name: n}\n"}, "BuildFailed", []string{"ConfigMap/n", "no namespace"}},
		{"missing path", map[string]string{"app/a.yaml": "", "app/kustomization.yaml": "", "elsewhere/a.yaml": w.configMap("a", "x")}, "ArtifactFailed", []string{"app"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			defer w.in(t)()
			w.push(tt.files)
			c := w.condition("app", metav1.ConditionFalse, tt.reason, append(tt.parts, w.head[:7])...)
			w.event("app", tt.reason, w.head[:7])
			if got := w.data("a")["v"]; got != "good" {
				t.Errorf("the last good state is lost: %q", got)
			}
			if strings.Contains(c.Message, os.TempDir()) {
				t.Errorf("the message tells a path of this machine: %s", c.Message)
			}
			rev := w.push(map[string]string{"app/kustomization.yaml": "resources: [a.yaml]\n", "app/a.yaml": w.configMap("a", "good")})
			w.ready("app", rev)
		})
	}
}

// in lets a subtest fail on its own while it works in the parent's world.
func (w *world) in(t *testing.T) (restore func()) {
	parent := w.T
	w.T = t
	return func() { w.T = parent }
}

func TestBadSources(t *testing.T) {
	w := newWorld(t)
	w.push(map[string]string{"app/a.yaml": w.configMap("a", "1")})
	tests := map[string]struct {
		url, ref, reason string
		parts            []string
	}{
		"unknown branch": {w.url(), "branch: nowhere", "GitOperationFailed", []string{"nowhere"}},
		"unknown tag":    {w.url(), "tag: v9", "GitOperationFailed", []string{"v9"}},
		"no repository":  {running.server.URL + "/git/none.git", "branch: main", "GitOperationFailed", nil},
		"unreachable":    {"http://user:hush@127.0.0.1:1/x.git", "branch: main", "GitOperationFailed", []string{"127.0.0.1:1"}},
		"ssh":            {"ssh://git@example.com/x.git", "branch: main", "", []string{"ssh"}},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			defer w.in(t)()
			id := strings.ReplaceAll(name, " ", "-")
			w.apply(fmt.Sprintf("apiVersion: source.toolkit.fluxcd.io/v1\nkind: GitRepository\nmetadata: {name: %s}\nspec: {interval: 1h, url: %q, ref: {%s}}\n", id, tt.url, tt.ref))
			w.app(id, "")
			w.eventually("condition of "+id, func() error {
				c, err := w.sourceReady(id)
				if err != nil {
					return err
				}
				if c.Status != metav1.ConditionFalse || (tt.reason != "" && c.Reason != tt.reason) {
					return fmt.Errorf("%s %s %s", c.Status, c.Reason, c.Message)
				}
				for _, part := range tt.parts {
					if !strings.Contains(c.Message, part) {
						return fmt.Errorf("%q is not in %q", part, c.Message)
					}
				}
				if strings.Contains(c.Message, "hush") {
					t.Errorf("the message tells a password: %s", c.Message)
				}
				return nil
			})
		})
	}
	// The others are not affected.
	w.app("app", "")
	w.ready("app", "main@sha1:"+w.head)
}
