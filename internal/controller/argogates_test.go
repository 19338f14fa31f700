package controller_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/ProtonMail/go-crypto/openpgp"
	"github.com/ProtonMail/go-crypto/openpgp/armor"
	"github.com/google/go-cmp/cmp"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"sigs.k8s.io/controller-runtime/pkg/client"

	argocdv1 "keelson.dev/keelson/api/argocd/v1alpha1"
)

// project declares an AppProject of the test's name that allows everything, and moves an Application to it; extra are further lines
// of its spec.
func (w *argoWorld) project(app, extra string) {
	w.Helper()
	w.apply(fmt.Sprintf(`
apiVersion: argoproj.io/v1alpha1
kind: AppProject
metadata: {name: %s, namespace: argocd}
spec:
  sourceRepos: ["*"]
  destinations: [{server: "*", namespace: "*"}]
%s`, w.ns, extra))
	w.Cleanup(func() {
		_ = w.client.Delete(context.Background(), &argocdv1.AppProject{ObjectMeta: metav1.ObjectMeta{Namespace: "argocd", Name: w.ns}})
	})
	w.merge(app, `{"spec":{"project":"`+w.ns+`"}}`)
}

// windows sets the sync windows of that project.
func (w *argoWorld) windows(windows string) {
	w.Helper()
	project := &argocdv1.AppProject{ObjectMeta: metav1.ObjectMeta{Namespace: "argocd", Name: w.ns}}
	w.must(w.client.Patch(w.ctx, project, client.RawPatch("application/merge-patch+json", []byte(`{"spec":{"syncWindows":`+windows+`}}`))))
}

// closed waits until an Application says that a sync window keeps it from being synced to a commit.
func (w *argoWorld) closed(app, commit string) *argocdv1.Application {
	w.Helper()
	return w.until(app, func(a *argocdv1.Application) error {
		if a.Status.Sync.Status != argocdv1.OutOfSync || a.Status.Sync.Revision != commit {
			return fmt.Errorf("want it OutOfSync at %s", commit)
		}
		for _, c := range a.Status.Conditions {
			if c.Type == argocdv1.ConditionHeldWarning && strings.Contains(c.Message, `deny window "* * * * *" for 1h`) {
				return nil
			}
		}
		return errors.New("want a condition that names the window")
	})
}

// TestApplicationInASyncWindow: while a window denies, nothing is synced by itself, and by a person where it has manualSync only. Without
// the window it is synced.
func TestApplicationInASyncWindow(t *testing.T) {
	t.Parallel()
	w := newArgoWorld(t)
	const always = `"kind":"deny","schedule":"* * * * *","duration":"1h","applications":["*"]`
	first := w.push(map[string]string{"web/a.yaml": w.configMap("a", "1")})
	w.app("web", "")
	w.project("web", "  syncWindows: [{"+strings.ReplaceAll(always, ":", ": ")+"}]\n")
	w.merge("web", `{"spec":{"syncPolicy":{"automated":{}}}}`)
	if a := w.closed("web", first); a.Status.OperationState != nil || w.data("a") != nil {
		t.Fatalf("it was synced: %+v", a.Status.OperationState)
	}

	w.sync("web", `{"sync":{}}`)
	w.until("web", func(a *argocdv1.Application) error {
		if o := a.Status.OperationState; o == nil || o.Phase != argocdv1.OperationRunning || o.Message != `waiting for a sync window: deny window "* * * * *" for 1h` {
			return errors.New("want the operation to wait for the window")
		}
		return nil
	})
	time.Sleep(time.Second)
	if w.data("a") != nil {
		t.Fatal("a window without manualSync has let a person sync")
	}
	w.windows(`[{` + always + `,"manualSync":true}]`)
	w.operated("web", argocdv1.OperationSucceeded)
	w.synced("web", first)

	second := w.push(map[string]string{"web/a.yaml": w.configMap("a", "2")})
	w.closed("web", second)
	w.sync("web", `{"sync":{}}`)
	w.synced("web", second)
	third := w.push(map[string]string{"web/a.yaml": w.configMap("a", "3")})
	w.closed("web", third)
	w.value("a", "2")
	w.windows("null")
	a := w.synced("web", third)
	for _, c := range a.Status.Conditions {
		if c.Type == argocdv1.ConditionHeldWarning {
			t.Errorf("it still says %s", c.Message)
		}
	}
	if o := a.Status.OperationState; !o.Operation.InitiatedBy.Automated {
		t.Errorf("somebody has asked for it: %+v", o.Operation)
	}
}

// TestApplicationWithoutRecords: a controller whose records are lost looks whether an app is as Git wants it, and begins no operation that
// would repair nothing. It knows drift all the same.
func TestApplicationWithoutRecords(t *testing.T) {
	w := newArgoWorld(t)
	head := w.push(map[string]string{"web/a.yaml": w.configMap("a", "1"), "web/b.yaml": w.configMap("b", "1"), "web/c.yaml": w.job("c", "argocd.argoproj.io/hook: PreSync")})
	w.app("web", automated)
	w.synced("web", head)
	before := w.operated("web", argocdv1.OperationSucceeded).Status.OperationState
	running.stop()
	w.must(os.RemoveAll(running.dir + "/records/apps"))
	w.must(running.start())
	w.eventually("the controller to have looked at everything", func() error {
		if looked, err := running.looked(w.ctx); err != nil || !looked {
			return fmt.Errorf("looked: %v (%w)", looked, err)
		}
		return nil
	})
	time.Sleep(time.Second)
	a := w.synced("web", head)
	if diff := cmp.Diff(before, a.Status.OperationState); diff != "" {
		t.Errorf("the last operation (-before +after the start):\n%s", diff)
	}
	w.must(w.client.Patch(w.ctx, &corev1.ConfigMap{ObjectMeta: w.named("a")}, client.RawPatch("application/merge-patch+json", []byte(`{"data":{"v":"rogue"}}`))))
	w.value("a", "1")
	w.synced("web", head)
}

// TestApplicationResumesWithoutRecords: an operation that a controller without records carries on ends with the app Synced, also where
// nothing is ever done by itself.
func TestApplicationResumesWithoutRecords(t *testing.T) {
	w := newArgoWorld(t)
	head := w.push(map[string]string{
		"web/a.yaml": w.configMap("a", "1"), "web/c.yaml": w.annotated("c", `argocd.argoproj.io/sync-wave: "2"`),
		"web/b.yaml": strings.Replace(w.job("before", `argocd.argoproj.io/hook: Sync, argocd.argoproj.io/sync-wave: "1"`), "spec:\n", "spec:\n  suspend: true\n", 1),
	})
	w.app("web", "")
	w.sync("web", `{"sync":{}}`)
	began := w.waits("web").Status.OperationState.StartedAt
	running.stop()
	w.must(os.RemoveAll(running.dir + "/records/apps"))
	w.must(running.start())
	job := &batchv1.Job{ObjectMeta: w.named("before")}
	w.must(w.client.Patch(w.ctx, job, client.RawPatch("application/merge-patch+json", []byte(`{"spec":{"suspend":false}}`))))
	if o := w.operated("web", argocdv1.OperationSucceeded).Status.OperationState; !o.StartedAt.Equal(&began) {
		t.Errorf("the operation began at %v, and another one at %v", began, o.StartedAt)
	}
	w.synced("web", head)
}

// TestApplicationOfAnotherShard: an Application without the label of this controller's share is left alone, its operation too, until a
// controller works on everything.
func TestApplicationOfAnotherShard(t *testing.T) {
	w := newArgoWorld(t)
	running.stop()
	running.shard = labels.SelectorFromSet(labels.Set{"sharding.fluxcd.io/key": "mine"})
	w.must(running.start())
	whole := func() {
		running.stop()
		running.shard = nil
		if err := running.start(); err != nil {
			t.Fatal(err)
		}
	}
	t.Cleanup(func() {
		if running.shard != nil {
			whole()
		}
	})
	head := w.push(map[string]string{"mine/a.yaml": w.configMap("a", "1"), "theirs/b.yaml": w.configMap("b", "1")})
	w.app("theirs", automated)
	w.sync("theirs", `{"sync":{}}`)
	w.app("mine", automated)
	w.merge("mine", `{"metadata":{"labels":{"sharding.fluxcd.io/key":"mine"}}}`)
	w.synced("mine", head)
	time.Sleep(time.Second)
	if a := w.application("theirs"); a.Operation == nil || a.Status.Sync.Status != "" || a.Status.OperationState != nil || a.Status.Conditions != nil {
		t.Errorf("the other one was worked on: %+v, %+v", a.Operation, a.Status)
	}
	if w.data("b") != nil {
		t.Error("the other one was delivered")
	}
	// its label makes it this controller's
	w.merge("theirs", `{"metadata":{"labels":{"sharding.fluxcd.io/key":"mine"}}}`)
	w.synced("theirs", head)
	// and without its label one is let go of
	w.merge("mine", `{"metadata":{"labels":{"sharding.fluxcd.io/key":"theirs"}}}`)
	head = w.push(map[string]string{"mine/a.yaml": w.configMap("a", "2"), "theirs/b.yaml": w.configMap("b", "2")})
	w.synced("theirs", head)
	time.Sleep(time.Second)
	w.value("a", "1")
	whole()
	w.synced("mine", head)
	w.value("a", "2")
}

// TestApplicationOfAClusterThatGoesAway: while its cluster is away in the middle of an operation an Application says so, and the others
// notice nothing. The operation ends once the cluster is back, and nothing of it is done twice.
func TestApplicationOfAClusterThatGoesAway(t *testing.T) {
	t.Parallel()
	r := newRemoteWorld(t)
	w, remote := &argoWorld{r.world}, &argoWorld{r.remote}
	front := newFront(t, nil)
	secret := &corev1.Secret{
		ObjectMeta: metav1.ObjectMeta{Namespace: "argocd", Name: "cluster-" + w.ns, Labels: map[string]string{"argocd.argoproj.io/secret-type": "cluster"}},
		StringData: map[string]string{
			"name": "far-" + w.ns, "server": front.url,
			"config": fmt.Sprintf(`{"bearerToken":%q,"tlsClientConfig":{"caData":%q}}`, r.user("argo"), b64(front.ca)),
		},
	}
	w.must(w.client.Create(w.ctx, secret))
	t.Cleanup(func() { _ = w.client.Delete(context.Background(), secret) })
	after := w.job("after", "argocd.argoproj.io/hook: PostSync")
	head := w.push(map[string]string{
		"web/before.yaml": w.suspended(), "web/a.yaml": w.configMap("a", "1"), "web/b.yaml": w.annotated("late", `argocd.argoproj.io/sync-wave: "1"`),
		"web/after.yaml": after, "near/calm.yaml": w.configMap("calm", "1"),
	})
	w.app("near", automated)
	w.app("web", "")
	r.deliverFar("web")
	w.merge("web", `{"metadata":{"finalizers":null},"spec":{"syncPolicy":{"automated":{}}}}`)
	began := w.waits("web").Status.OperationState.StartedAt
	job := &batchv1.Job{}
	w.must(remote.client.Get(w.ctx, client.ObjectKey{Namespace: w.ns, Name: "before"}, job))
	w.synced("near", head)

	front.down()
	w.until("web", func(a *argocdv1.Application) error {
		for _, c := range a.Status.Conditions {
			if strings.HasSuffix(c.Type, "Error") && strings.Contains(c.Message, front.url) && strings.Contains(c.Message, "cannot be reached") {
				return nil
			}
		}
		return errors.New("want it to say that its cluster is away")
	})
	if o := w.application("web").Status.OperationState; o.Phase != argocdv1.OperationRunning {
		t.Errorf("the operation has ended meanwhile: %+v", o)
	}
	head = w.push(map[string]string{"near/calm.yaml": w.configMap("calm", "2")})
	w.synced("near", head)
	w.value("calm", "2")

	w.must(remote.client.Patch(w.ctx, job.DeepCopy(), client.RawPatch("application/merge-patch+json", []byte(`{"spec":{"suspend":false}}`))))
	remote.jobEnds("before")
	front.up()
	a := w.operated("web", argocdv1.OperationSucceeded)
	if o := a.Status.OperationState; !o.StartedAt.Equal(&began) {
		t.Errorf("the operation began at %v, and another one at %v", began, o.StartedAt)
	}
	remote.value("a", "1")
	remote.jobEnds("after")
	again := &batchv1.Job{}
	w.must(remote.client.Get(w.ctx, client.ObjectKey{Namespace: w.ns, Name: "before"}, again))
	if again.UID != job.UID {
		t.Error("the hook was run twice")
	}
	w.synced("web", head)
	for _, c := range w.application("web").Status.Conditions {
		if strings.HasSuffix(c.Type, "Error") {
			t.Errorf("it still says %s: %s", c.Type, c.Message)
		}
	}
}

// TestApplicationOfSignedCommits: in a project with signatureKeys, a commit that none of the keys has signed is not compared to.
func TestApplicationOfSignedCommits(t *testing.T) {
	t.Parallel()
	w := newArgoWorld(t)
	key, err := openpgp.NewEntity("ada", "", "ada@example.com", nil)
	w.must(err)
	var public bytes.Buffer
	out, err := armor.Encode(&public, openpgp.PublicKeyType, nil)
	w.must(err)
	w.must(key.Serialize(out))
	w.must(out.Close())
	id := key.PrimaryKey.KeyIdString()
	keys := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: "argocd", Name: "argocd-gpg-keys-cm"}, Data: map[string]string{id: public.String()}}
	w.must(w.client.Create(w.ctx, keys))
	w.Cleanup(func() { _ = w.client.Delete(context.Background(), keys) })

	w.push(map[string]string{"web/a.yaml": w.configMap("a", "1")})
	w.app("web", "")
	w.project("web", "  signatureKeys: [{keyID: "+id+"}]\n")
	w.merge("web", `{"spec":{"syncPolicy":{"automated":{}}}}`)
	w.says("web", argocdv1.ConditionComparisonError, "sign")
	if w.data("a") != nil {
		t.Error("it is applied all the same")
	}
	git := func(input string, args ...string) string {
		cmd := exec.Command("git", args...)
		cmd.Dir, cmd.Stdin = w.repo.Dir(), strings.NewReader(input)
		out, err := cmd.Output()
		w.must(err)
		return string(out)
	}
	commit := git("", "cat-file", "commit", w.head)
	var signature bytes.Buffer
	w.must(openpgp.ArmoredDetachSign(&signature, key, strings.NewReader(commit), nil))
	head, message, _ := strings.Cut(commit, "\n\n")
	signed := head + "\ngpgsig " + strings.ReplaceAll(signature.String(), "\n", "\n ") + "\n\n" + message
	w.head = strings.TrimSpace(git(signed, "hash-object", "-t", "commit", "-w", "--stdin"))
	git("", "update-ref", "refs/heads/main", w.head)
	running.pushed(func(url string) bool { return url == w.url() })
	w.synced("web", w.head)
	w.value("a", "1")
}
