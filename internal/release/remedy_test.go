package release

import (
	"context"
	"encoding/base64"
	"errors"
	"math/rand"
	"strings"
	"testing"
	"testing/fstest"
	"time"

	"helm.sh/helm/v4/pkg/action"
	"helm.sh/helm/v4/pkg/release/common"
	releasev1 "helm.sh/helm/v4/pkg/release/v1"
	"helm.sh/helm/v4/pkg/storage"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"keelson.dev/keelson/internal/delivery"
)

// never is a Deployment that does not get ready: nothing pulls its image.
const never = `apiVersion: apps/v1
kind: Deployment
metadata:
  name: {{ .Release.Name }}
spec:
  selector: {matchLabels: {app: never}}
  template:
    metadata: {labels: {app: never}}
    spec:
      nodeSelector: {no: where}
      containers: [{name: c, image: "nowhere.invalid/never:1"}]
`

func with(templates map[string]string, name, text string) map[string]string {
	out := map[string]string{name: text}
	for k, v := range templates {
		out[k] = v
	}
	return out
}

func simple() map[string]string { return map[string]string{"templates/cm.yaml": configMap} }

// faultOf is the only error, which has to be a fault whose text has all words.
func faultOf(t *testing.T, errs []error, words ...string) *delivery.Fault {
	t.Helper()
	var f *delivery.Fault
	if len(errs) != 1 || !errors.As(errs[0], &f) {
		t.Fatalf("errors: %v", errs)
	}
	for _, word := range words {
		if !strings.Contains(f.Error(), word) {
			t.Errorf("the fault %q does not say %q", f, word)
		}
	}
	return f
}

func TestFailedInstall(t *testing.T) {
	w := newWorld(t)
	r := w.release("web", files("1.0.0", with(simple(), "templates/deployment.yaml", never)))
	r.app.Release.Install.Timeout = 2 * time.Second
	r.app.Release.Install.Remediation.LastFailure = true
	d, errs := r.settle()
	r.went("Absent: install", "Failed: uninstall", "Absent: stall")
	if d.Reason != ReasonRetries || !r.record.Remediated.True() || r.record.InstallFailures != 1 {
		t.Errorf("%+v %+v", d, r.record)
	}
	faultOf(t, errs, "templates/deployment.yaml: Deployment/"+w.ns+"/web", "timed out", "Unschedulable")
	if _, err := w.resource("v1", "configmaps", w.ns).Get(w.ctx, "web", getOptions); err == nil {
		t.Error("the ConfigMap is still there")
	}

	// What Git wants next is tried.
	r.wants(files("1.0.1", simple()))
	if d, errs := r.settle(); d.State != InSync || len(errs) > 0 {
		t.Errorf("%+v %v", d, errs)
	}
	r.went("Absent: install", "InSync: none")
}

func TestFailedUpgrade(t *testing.T) {
	w := newWorld(t)
	r := w.release("web", files("1.0.0", simple()))
	r.settle()
	r.wants(files("1.1.0", with(simple(), "templates/deployment.yaml", never)))
	r.app.Release.Upgrade.Timeout = time.Second
	r.app.Release.Upgrade.CleanupOnFail = true
	r.app.Release.Upgrade.Remediation.Retries = 1
	r.app.Release.Upgrade.Remediation.LastFailure = true
	r.steps = nil
	d, errs := r.settle()
	r.went("OutOfSync: upgrade", "Failed: rollback", "OutOfSync: upgrade", "Failed: rollback", "OutOfSync: stall")
	if d.Reason != ReasonRetries || len(errs) != 2 || r.record.UpgradeFailures != 2 {
		t.Errorf("%+v %v %+v", d, errs, r.record)
	}
	if got := w.history("web"); got[len(got)-1] != "5 deployed Rollback to 3" && got[len(got)-1] != "5 deployed Rollback to 1" {
		t.Errorf("helm history: %q", got)
	}
}

// job is a hook that is never done with by itself.
const job = `apiVersion: batch/v1
kind: Job
metadata:
  name: {{ .Release.Name }}-migrate
  annotations: {helm.sh/hook: pre-install}
spec:
  backoffLimit: 0
  template:
    spec:
      restartPolicy: Never
      nodeSelector: {no: where}
      containers: [{name: c, image: "nowhere.invalid/never:1"}]
`

func TestFailedHook(t *testing.T) {
	w := newWorld(t)
	r := w.release("web", files("1.0.0", with(simple(), "templates/hooks/job.yaml", job)))
	go w.finish(w.ctx, "web-migrate", "Failed", "BackoffLimitExceeded")
	_, errs := r.settle()
	r.went("Absent: install", "Failed: stall")
	f := faultOf(t, errs, "hook web-migrate (pre-install)", "Job/"+w.ns+"/web-migrate", "BackoffLimitExceeded")
	if f.Where != "templates/hooks/job.yaml" || f.Reason != ReasonInstall {
		t.Errorf("%+v", f)
	}
	if _, err := w.resource("v1", "configmaps", w.ns).Get(w.ctx, "web", getOptions); err == nil {
		t.Error("the release was installed though its hook failed")
	}
}

// finish plays the part of the Job controller: there is none that runs Pods here.
func (w *world) finish(ctx context.Context, name, condition, reason string) {
	jobs := w.resource("batch/v1", "jobs", w.ns)
	for ctx.Err() == nil {
		time.Sleep(20 * time.Millisecond)
		u, err := jobs.Get(ctx, name, metav1.GetOptions{})
		if err != nil {
			continue
		}
		now := time.Now().UTC().Format(time.RFC3339)
		status := map[string]any{"startTime": now, "conditions": []any{}}
		if began, ok, _ := unstructured.NestedString(u.Object, "status", "startTime"); ok {
			status["startTime"] = began // it cannot be changed
		}
		kinds := []string{"FailureTarget", "Failed"}
		if condition == "Complete" {
			kinds = []string{"SuccessCriteriaMet", "Complete"}
			status["completionTime"] = now
			status["succeeded"] = int64(1)
		}
		for _, k := range kinds {
			status["conditions"] = append(status["conditions"].([]any), map[string]any{
				"type": k, "status": "True", "reason": reason, "message": "it is said so", "lastTransitionTime": now, "lastProbeTime": now,
			})
		}
		u.Object["status"] = status
		if _, err := jobs.UpdateStatus(ctx, u, metav1.UpdateOptions{}); err == nil {
			return
		}
	}
}

func TestTests(t *testing.T) {
	w := newWorld(t)
	test := strings.ReplaceAll(strings.ReplaceAll(job, "pre-install", "test"), "migrate", "test")
	r := w.release("web", files("1.0.0", with(simple(), "templates/tests/job.yaml", test)))
	r.app.Release.Test.Enable = true
	go w.finish(w.ctx, "web-test", "Complete", "Done")
	if d, errs := r.settle(); d.State != InSync || len(errs) > 0 {
		t.Errorf("%+v %v", d, errs)
	}
	r.went("Absent: install", "Untested: test", "InSync: none")
	if !r.record.TestSuccess.True() || r.record.Latest().Tests["web-test"].Phase != "Succeeded" {
		t.Errorf("%+v", r.record)
	}

	// The same test fails after an upgrade, which is rolled back.
	r.wants(files("1.1.0", with(simple(), "templates/tests/job.yaml", test)))
	r.app.Release.Upgrade.Remediation.LastFailure = true
	ctx, cancel := context.WithCancel(w.ctx)
	defer cancel()
	w.eventually("the old Job is gone", func() bool {
		_ = w.resource("batch/v1", "jobs", w.ns).Delete(w.ctx, "web-test", metav1.DeleteOptions{PropagationPolicy: new(metav1.DeletePropagationBackground)})
		_, err := w.resource("batch/v1", "jobs", w.ns).Get(w.ctx, "web-test", getOptions)
		return err != nil
	})
	go w.finish(ctx, "web-test", "Failed", "BackoffLimitExceeded")
	_, errs := r.settle()
	r.went("OutOfSync: upgrade", "Untested: test", "Failed: rollback", "OutOfSync: stall")
	faultOf(t, errs, "hook web-test (test)", "BackoffLimitExceeded")
}

func TestUnlock(t *testing.T) {
	for _, phase := range []common.Status{common.StatusPendingInstall, common.StatusPendingUpgrade, common.StatusPendingRollback} {
		t.Run(string(phase), func(t *testing.T) {
			w := newWorld(t)
			r := w.release("web", files("1.0.0", simple()))
			r.settle()
			// The process was killed in the middle: the release is pending, and the status does not know of it.
			store, err := w.engine.storage(w.ctx, r.app, w.ns)
			if err != nil {
				t.Fatal(err)
			}
			s := storage.Init(store)
			found, err := s.Last("web")
			if err != nil {
				t.Fatal(err)
			}
			rel := found.(*releasev1.Release)
			if phase == common.StatusPendingInstall {
				rel.SetStatus(phase, "Initial install underway")
				err = s.Update(rel)
				r.record = delivery.ReleaseRecord{}
				r.record.AttemptedAction = delivery.InstallRelease
			} else {
				rel.Version++
				rel.SetStatus(phase, "underway")
				err = s.Create(rel)
			}
			if err != nil {
				t.Fatal(err)
			}
			r.steps = nil
			if d, errs := r.settle(); d.State != InSync || len(errs) > 0 {
				t.Errorf("%+v %v", d, errs)
			}
			r.went("Locked: unlock", "Failed: upgrade", "InSync: none")
		})
	}
}

func TestPendingOfOthers(t *testing.T) {
	w := newWorld(t)
	r := w.release("web", files("1.0.0", simple()))
	r.settle()
	cfg := w.helm()
	found, err := cfg.Releases.Last("web")
	if err != nil {
		t.Fatal(err)
	}
	rel := found.(*releasev1.Release)
	rel.Version++
	rel.Info.LastDeployed = time.Now()
	rel.SetStatus(common.StatusPendingUpgrade, "Preparing upgrade")
	if err := cfg.Releases.Create(rel); err != nil {
		t.Fatal(err)
	}
	w.eventually("it is told of", func() bool { return w.told("web") > 0 })
	r.steps = nil
	d, _ := r.settle()
	r.went("Locked: none")
	if d.After <= 0 || d.After > time.Minute {
		t.Errorf("%+v", d)
	}
	want := r.want()
	seen, err := r.engine.Observe(w.ctx, r.app, r.record)
	if err != nil {
		t.Fatal(err)
	}
	if later := Decide(want, r.record, seen, time.Now().Add(time.Hour)); later.Action != Unlock {
		t.Errorf("an hour later: %+v", later)
	}
}

func TestTakeOver(t *testing.T) {
	w := newWorld(t)
	chart := files("1.0.0", four("1.0.0"))
	w.helmInstall("web", chart, map[string]any{"msg": "hers"})
	w.eventually("it is told of", func() bool { return w.told("web") > 0 })
	r := w.release("web", chart)
	r.values = map[string]any{"msg": "hers"}
	if d, errs := r.settle(); d.State != InSync || len(errs) > 0 {
		t.Errorf("%+v %v", d, errs)
	}
	r.went("Unmanaged: takeover", "InSync: none")
	if got := w.history("web"); len(got) != 1 {
		t.Errorf("helm history: %q", got)
	}

	// With another template of the same version, it is upgraded.
	w.helmInstall("other", chart, nil)
	w.eventually("it is told of", func() bool { return w.told("other") > 0 })
	o := w.release("other", files("1.0.0", simple()))
	if d, errs := o.settle(); d.State != InSync || len(errs) > 0 {
		t.Errorf("%+v %v", d, errs)
	}
	if got := w.history("other"); len(got) != 2 {
		t.Errorf("helm history: %q", got)
	}
	if _, err := w.resource("v1", "services", w.ns).Get(w.ctx, "other", getOptions); err == nil {
		t.Error("the service is still there")
	}
}

func TestMoved(t *testing.T) {
	w := newWorld(t)
	r := w.release("web", files("1.0.0", simple()))
	r.settle()
	r.app.Release.Name = "shop"
	r.app.Generation++
	r.steps = nil
	if d, errs := r.settle(); d.State != InSync || len(errs) > 0 {
		t.Errorf("%+v %v", d, errs)
	}
	r.went("Moved: uninstall", "Absent: install", "InSync: none")
	if _, err := w.resource("v1", "configmaps", w.ns).Get(w.ctx, "web", getOptions); err == nil {
		t.Error("the old release is still there")
	}
	w.get("v1", "configmaps", "shop")
}

func TestForeignObject(t *testing.T) {
	w := newWorld(t)
	cm := &unstructured.Unstructured{Object: map[string]any{
		"apiVersion": "v1", "kind": "ConfigMap", "metadata": map[string]any{"name": "web", "namespace": w.ns}, "data": map[string]any{"msg": "mine"},
	}}
	if _, err := w.resource("v1", "configmaps", w.ns).Create(w.ctx, cm, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	r := w.release("web", files("1.0.0", simple()))
	r.app.Release.Install.NoTakeOwnership = true
	_, err, _ := r.step()
	f := faultOf(t, []error{err}, "ConfigMap/"+w.ns+"/web", "not of this release")
	if f.Reason != ReasonConflict {
		t.Errorf("%+v", f)
	}
	if r.record.Failures != 1 || r.record.InstallFailures != 0 || len(r.record.History) != 0 {
		t.Errorf("something was recorded: %+v", r.record)
	}
	r.app.Release.Install.NoTakeOwnership = false
	if d, errs := r.settle(); d.State != InSync || len(errs) > 0 {
		t.Errorf("%+v %v", d, errs)
	}
	if got := w.get("v1", "configmaps", "web").Object["data"].(map[string]any)["msg"]; got != "hello" {
		t.Errorf("msg: %v", got)
	}
}

func TestTooLarge(t *testing.T) {
	w := newWorld(t)
	noise := make([]byte, 2<<20)
	for i := range noise {
		noise[i] = byte(rand.Int())
	}
	chart := files("1.0.0", simple())
	chart["files/noise.txt"] = &fstest.MapFile{Data: []byte(base64.StdEncoding.EncodeToString(noise))}
	r := w.release("web", chart)
	_, err, _ := r.step()
	f := faultOf(t, []error{err}, "1024 KiB", "sh.helm.release.v1.web.v1", ".helmignore")
	if f.Reason != ReasonTooLarge || f.Retry != delivery.OnChange {
		t.Errorf("%+v", f)
	}
	if _, err := w.resource("v1", "configmaps", w.ns).Get(w.ctx, "web", getOptions); err == nil {
		t.Error("something was made")
	}
}

func TestBadCharts(t *testing.T) {
	w := newWorld(t)
	schema := files("1.0.0", simple())
	schema["values.schema.json"] = &fstest.MapFile{Data: []byte(`{"type":"object","properties":{"replicas":{"type":"integer"}}}`)}
	wants := files("1.0.0", simple())
	wants["Chart.yaml"].Data = append(wants["Chart.yaml"].Data, "kubeVersion: \">=99.0.0\"\n"...)
	for _, c := range []struct {
		name   string
		chart  fstest.MapFS
		values map[string]any
		where  string
		words  []string
	}{
		{"a template that fails", files("1.0.0", map[string]string{"templates/a.yaml": "a: 1\nb: {{ .Values.no.such }}\n"}), nil, "templates/a.yaml:2", []string{"nil pointer"}},
		{"a template that cannot be parsed", files("1.0.0", map[string]string{"templates/a.yaml": "a: 1\n{{ if }}\n"}), nil, "templates/a.yaml:2", nil},
		{"values against the schema", schema, map[string]any{"replicas": "many"}, "values.schema.json", []string{"/replicas"}},
		{"another Kubernetes version", wants, nil, "Chart.yaml", []string{"wants Kubernetes >=99.0.0", "this is v1."}},
		{"an unknown kind", files("1.0.0", map[string]string{"templates/a.yaml": "apiVersion: no.such/v1\nkind: Thing\nmetadata: {name: a}\n"}), nil, "templates/a.yaml: Thing.no.such/a", []string{"no kind Thing"}},
		{"an invalid object", files("1.0.0", map[string]string{"templates/a.yaml": "apiVersion: v1\nkind: Service\nmetadata: {name: a}\nspec: {ports: [{port: 99999}]}\n"}), nil, "templates/a.yaml: Service/" + w.ns + "/a", []string{"99999"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := w.release("bad", c.chart)
			r.values = c.values
			_, err, _ := r.step()
			f := faultOf(t, []error{err}, c.words...)
			if f.Where != c.where || f.Reason != ReasonInstall && f.Reason != ReasonBuild {
				t.Errorf("%+v: %v", f, f)
			}
			u := action.NewUninstall(w.helm())
			u.IgnoreNotFound, u.WaitStrategy = true, "hookOnly"
			if _, err := u.Run("bad"); err != nil {
				t.Error(err)
			}
			w.eventually("it is gone", func() bool { _, there := w.engine.records.newest(place{w.ns, "bad"}); return !there })
		})
	}
}

func TestCancel(t *testing.T) {
	w := newWorld(t)
	r := w.release("web", files("1.0.0", with(simple(), "templates/deployment.yaml", never)))
	ctx, cancel := context.WithCancel(w.ctx)
	time.AfterFunc(time.Second, cancel)
	r.ctx = w.ctx
	want := r.want()
	seen, err := r.engine.Observe(ctx, r.app, r.record)
	if err != nil {
		t.Fatal(err)
	}
	d := Decide(want, r.record, seen, time.Now())
	began := time.Now()
	res, err := r.engine.Act(ctx, Request{Want: want, Chart: r.chart}, d)
	if !errors.Is(err, ErrCancelled) || time.Since(began) > 10*time.Second {
		t.Errorf("after %s: %v", time.Since(began), err)
	}
	if len(res.Snapshots) != 1 || res.Snapshots[0].Status != "failed" {
		t.Errorf("%+v", res.Snapshots)
	}
}

func TestEndlessTemplate(t *testing.T) {
	w := newWorld(t)
	r := w.release("web", files("1.0.0", map[string]string{
		"templates/a.yaml": "{{ range until 20000 }}{{ range until 20000 }}{{ end }}{{ end }}\n" + configMap,
	}))
	ctx, cancel := context.WithTimeout(w.ctx, 500*time.Millisecond)
	defer cancel()
	began := time.Now()
	_, err := r.engine.Act(ctx, Request{Want: r.want(), Chart: r.chart}, Decision{Action: Install})
	if !errors.Is(err, ErrCancelled) || time.Since(began) > 5*time.Second {
		t.Errorf("after %s: %v", time.Since(began), err)
	}
	if _, there := w.engine.records.newest(place{w.ns, "web"}); there {
		t.Error("something was written")
	}
}

// Killed in the middle of the first install, before the status knew anything of it: a deletion leaves nothing behind.
func TestDeletedInTheMiddle(t *testing.T) {
	w := newWorld(t)
	r := w.release("web", files("1.0.0", simple()))
	d, _, _ := r.step()
	r.record = Begun(r.want(), d)
	seen, err := r.engine.Observe(w.ctx, r.app, r.record)
	if err != nil {
		t.Fatal(err)
	}
	gone, ok := ForDeletion(r.app, r.record, seen)
	if !ok {
		t.Fatal("nothing to uninstall")
	}
	if _, err := r.engine.Act(w.ctx, Request{Want: r.want()}, gone); err != nil {
		t.Fatal(err)
	}
	if _, err := w.resource("v1", "configmaps", w.ns).Get(w.ctx, "web", getOptions); err == nil {
		t.Error("the ConfigMap is still there")
	}
}

// A person rolls back with "keelson rollback": that is held as well.
func TestPersonsRollback(t *testing.T) {
	w := newWorld(t)
	r := w.release("web", files("1.0.0", simple()))
	r.settle()
	r.wants(files("1.1.0", simple()))
	r.settle()
	person := newWorld(t)
	want := r.want()
	res, err := person.engine.Act(w.ctx, Request{Want: Want{App: r.app}}, Decision{Action: Rollback, Target: TargetOf(r.app), Version: 1, Record: r.record})
	if err != nil || len(res.Snapshots) == 0 || res.Snapshots[0].Version != 3 {
		t.Fatalf("%+v %v", res, err)
	}
	w.eventually("it is told of", func() bool { return w.told("web") > 0 })
	w.eventually("it is held", func() bool {
		seen, err := r.engine.Observe(w.ctx, r.app, r.record)
		return err == nil && Decide(want, r.record, seen, time.Now()).Action == Hold
	})
}
