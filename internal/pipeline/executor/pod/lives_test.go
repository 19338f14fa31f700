package pod_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"keelson.dev/keelson/internal/pipeline"
	"keelson.dev/keelson/internal/pipeline/artifact"
	"keelson.dev/keelson/internal/pipeline/executor"
	"keelson.dev/keelson/internal/pipeline/executor/pod"
)

func reasons(t *testing.T, w *world) {
	with := func(image string, commands ...string) executor.Job {
		j := job(commands...)
		j.Image = &pipeline.Image{Name: image}
		return j
	}
	hungry := job(`x=$(head -c 400000000 /dev/zero | tr '\0' x)`, "echo ne''ver")
	hungry.Memory = 96 << 20
	entrypoint := with(w.shell, "echo never")
	entrypoint.Image.Entrypoint = []string{"sh", "-c", "echo it says why; exit 9"}
	policy := job("echo never")
	policy.Image = &pipeline.Image{Name: w.host + "/test/elsewhere:1", PullPolicy: []string{"never"}}
	forbidden := job("echo never")
	forbidden.Place.Namespace = "nowhere"
	tests := map[string]struct {
		job     executor.Job
		reason  pipeline.FailureReason
		code    int
		message string // a regexp
		log     string // part of the log
	}{
		"no such image":           {with(w.host+"/test/none:1", "echo never"), pipeline.RunnerSystemFailure, -1, `^image \S+/test/none:1 cannot be pulled: (ErrImagePull|ImagePullBackOff): .*not found`, ""},
		"no name of an image":     {with("Not An/Image", "echo never"), pipeline.ConfigurationError, -1, `^image Not An/Image: InvalidImageName: `, ""},
		"no shell":                {with(w.agent, "echo never"), pipeline.RunnerSystemFailure, -1, `^image \S+ has no shell \(sh\), which a job's script needs: .*executable file not found`, ""},
		"an image never pulled":   {policy, pipeline.RunnerSystemFailure, -1, `pull_policy is never`, ""},
		"an entrypoint that ends": {entrypoint, pipeline.RunnerSystemFailure, -1, `^the job's container has ended: exit code 9$`, "it says why"},
		"a command not found":     {job("no-such-command"), pipeline.ScriptFailure, 127, `^exit code 127 \(command not found\)$`, ""},
		"out of memory":           {hungry, pipeline.ScriptFailure, 137, `^OOMKilled: the job took more memory than its limit of 96Mi`, ""},
		"no such namespace":       {forbidden, pipeline.RunnerSystemFailure, -1, `^make the job's Secret: namespaces "nowhere" not found$`, ""},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r, log := w.play(t, tt.job)
			if r.Status != pipeline.StatusFailed || r.Reason != tt.reason || r.ExitCode != tt.code && (r.ExitCode != -1 || tt.code != 137) || !regexp.MustCompile(tt.message).MatchString(r.Message) {
				t.Errorf("got %+v\nwant reason %s, code %d, message %s", r, tt.reason, tt.code, tt.message)
			}
			if !strings.Contains(log, tt.log) || strings.Contains(log, "never\n") {
				t.Error("log")
			}
		})
	}
}

// files moves a job's directory to its Pod and back.
func files(t *testing.T, w *world) {
	j := job("cat src/in", "[ -x run.sh ] && ./run.sh", "echo changed > src/in", "rm src/gone", "mkdir -p out/deep && echo made > out/deep/file", "ln -s ../src/in out/link", "echo no > elsewhere", "exit 1")
	j.Dir = t.TempDir()
	j.Artifacts = &pipeline.Artifacts{Paths: []string{"out", "src/*", "$CI_PROJECT_DIR/none"}, When: pipeline.Always}
	write := func(name, content string, mode os.FileMode) {
		path := filepath.Join(j.Dir, name)
		if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, []byte(content), mode)); err != nil {
			t.Error(err)
		}
	}
	j.Prepare = func(context.Context, *executor.Trace) error {
		write("src/in", "input\n", 0o644)
		write("src/gone", "x", 0o644)
		write("run.sh", "#!/bin/sh\necho it runs\n", 0o755)
		return nil
	}
	found := map[string]string{}
	j.Finish = func(context.Context, *executor.Trace, executor.Result) error {
		return filepath.WalkDir(j.Dir, func(path string, d os.DirEntry, err error) error {
			if err == nil && !d.IsDir() {
				content, _ := os.ReadFile(path)
				found[strings.TrimPrefix(path, j.Dir+"/")] = string(content)
			}
			return err
		})
	}
	r, log := w.play(t, j)
	want := map[string]string{"src/in": "changed\n", "run.sh": "#!/bin/sh\necho it runs\n", "out/deep/file": "made\n", "out/link": "changed\n"}
	if fmt.Sprint(found) != fmt.Sprint(want) {
		t.Errorf("found %q\nwant %q", found, want)
	}
	if r.ExitCode != 1 || !strings.Contains(log, "\ninput\n") || !strings.Contains(log, "\nit runs\n") {
		t.Errorf("%+v", r)
	}
}

// largeCache loses a cache that is too large, and nothing else.
func largeCache(t *testing.T, w *world) {
	x := w.start(t, pod.Options{Limits: artifact.Limits{Bytes: 1 << 20}})
	defer w.back()
	j := job("mkdir -p cache && head -c 3000000 /dev/zero > cache/large", "echo made > out")
	j.Dir = t.TempDir()
	j.Caches = []pipeline.Cache{{Key: "x", Paths: []string{"cache"}}}
	j.Artifacts = &pipeline.Artifacts{Paths: []string{"out"}}
	j.Prepare = func(context.Context, *executor.Trace) error {
		return errors.Join(os.MkdirAll(filepath.Join(j.Dir, "cache"), 0o755), os.WriteFile(filepath.Join(j.Dir, "cache/old"), nil, 0o644))
	}
	var found []string
	j.Finish = func(context.Context, *executor.Trace, executor.Result) error {
		for _, pattern := range []string{"*", "*/*"} {
			names, _ := filepath.Glob(filepath.Join(j.Dir, pattern))
			for _, name := range names {
				found = append(found, strings.TrimPrefix(name, j.Dir+"/"))
			}
		}
		return nil
	}
	var log safe
	r := x.Run(t.Context(), j, &log)
	if r.Status != pipeline.StatusSuccess || !slices.Contains(found, "out") || slices.Contains(found, "cache/old") || slices.Contains(found, "cache/large") ||
		!regexp.MustCompile(`WARNING: the caches are not saved: .*its files have more than 2`).MatchString(plain(log.String())) {
		t.Errorf("%+v, found %q\n%s", r, found, plain(log.String()))
	}
}

func services(t *testing.T, w *world) {
	ask := `exec 3<>/dev/tcp/%s/8080; printf 'GET / HTTP/1.0\r\n\r\n' >&3; tail -n 1 <&3; exec 3<&-`
	j := job(fmt.Sprintf(ask, "hello"), fmt.Sprintf(ask, "other.name"), fmt.Sprintf(ask, "localhost"), "sleep 4") // so that the kubelet sees what has ended
	j.Variables = pipeline.Variables{{Name: "GREETING", Value: "of the job", Public: true}, {Name: "HIDDEN", Value: "s3cret-value", Masked: true}, {Name: "SVC", Value: w.svc, Public: true}}
	j.Services = []pipeline.Service{
		{Image: pipeline.Image{Name: "$SVC"}, Alias: "hello,other.name", Variables: pipeline.Variables{
			{Name: "GREETING", Value: "hi $HIDDEN", Public: true}, {Name: "HEALTHCHECK_TCP_PORT", Value: "8080", Public: true}}},
		{Image: pipeline.Image{Name: w.svc}, Alias: "fails", Command: []string{"3"}},
	}
	r, log := w.play(t, j)
	if r.Status != pipeline.StatusSuccess || strings.Count(log, "greeting=hi [MASKED]\n") != 3 {
		t.Errorf("%+v", r)
	}
	if !regexp.MustCompile(`WARNING: Service \S+/test/service:1 has ended: exit code 3`).MatchString(log) {
		t.Error("the log does not tell of the service that has failed")
	}
}

func anotherUser(t *testing.T, w *world) {
	j := job("id -u", "id -g", `echo x > file && echo "$PWD"`, `cat "$F"`)
	j.Image = &pipeline.Image{Name: w.shell, Kubernetes: map[string]any{"user": "1234:2345"}}
	j.Variables = pipeline.Variables{{Name: "F", Value: "content", File: true}, {Name: "CI_PROJECT_PATH", Value: "group/shop"}}
	r, log := w.play(t, j)
	if r.Status != pipeline.StatusSuccess || !strings.Contains(log, "\n1234\n") || !strings.Contains(log, "\n2345\n") || !strings.Contains(log, "\n/builds/group/shop\n") || !strings.Contains(log, "\ncontent") {
		t.Errorf("%+v", r)
	}
}

// takenUp lets an executor go of a job in the middle, and another one, as another process has it, go on.
func takenUp(t *testing.T, w *world) {
	leave := make(chan struct{})
	j := after(job("echo be''gun $TOKEN", `for i in $(seq 60); do echo "line $i"; sleep 0.1; done`, "echo made > out", "exit 3"), "echo after: $CI_JOB_STATUS")
	j.ID, j.Started, j.Dir, j.Leave = 4242, time.Now(), t.TempDir(), leave
	j.Variables = pipeline.Variables{{Name: "TOKEN", Value: "first-token", Masked: true}}
	var first safe
	done := make(chan struct{})
	go func() {
		defer close(done)
		trace := executor.NewTrace(&first, j) // which nobody closes: the log goes on
		w.x.Run(t.Context(), j, trace)
	}()
	for !strings.Contains(first.String(), "line 3") {
		select {
		case <-done:
			t.Fatalf("it has ended:\n%s", first.String())
		case <-time.After(20 * time.Millisecond):
		}
	}
	close(leave)
	<-done
	if strings.Contains(first.String(), "Job ") {
		t.Error("the log says that the job has ended")
	}
	x := w.start(t, pod.Options{})
	j.Leave, j.Resume, j.Dir, j.Logged = nil, true, t.TempDir(), int64(len(first.String()))
	j.Variables = pipeline.Variables{{Name: "TOKEN", Value: "second-token", Masked: true}}
	j.Prepare = func(context.Context, *executor.Trace) error { return errors.New("the commit is not there any more") }
	j.Artifacts = &pipeline.Artifacts{Paths: []string{"out"}, When: pipeline.Always}
	var made string
	j.Finish = func(context.Context, *executor.Trace, executor.Result) error {
		content, err := os.ReadFile(filepath.Join(j.Dir, "out"))
		made = string(content)
		return err
	}
	var second safe
	r := x.Run(t.Context(), j, &second)
	log := plain(first.String() + second.String())
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("%+v\n%s", r, log)
		}
	})
	if r.Reason != pipeline.ScriptFailure || r.ExitCode != 3 || made != "made\n" {
		t.Errorf("%+v, artifact %q", r, made)
	}
	if !strings.Contains(log, "WARNING: the job's directory cannot be made ready once more") {
		t.Error("the log does not tell that the directory was not made ready again")
	}
	if strings.Contains(log, "first-token") || strings.Count(log, "begun [MASKED]") != 1 {
		t.Error("the token of the first process")
	}
	lines := strings.Split(log, "\n")
	at := 0
	for i := range 60 {
		want := fmt.Sprintf("line %d", i+1)
		n := slices.Index(lines[at:], want)
		if n < 0 {
			t.Fatalf("%q is lost", want)
		}
		at += n
	}
	if !strings.Contains(log, "\nafter: failed\n") || !strings.HasSuffix(strings.TrimSpace(log), "ERROR: Job failed: exit code 3") {
		t.Error("its end")
	}
	t.Run("once it is gone", func(t *testing.T) {
		j.ID = 4243
		var log safe
		if r := x.Run(t.Context(), j, &log); r.Reason != pipeline.RunnerSystemFailure || r.Message != "the process that ran the job has ended, and its Pod is gone" {
			t.Errorf("%+v", r)
		}
	})
	w.back()
}

// takenUpCanceled lets an executor go of a job, and another one find it canceled: its after_script and what it leaves are not lost.
func takenUpCanceled(t *testing.T, w *world) {
	leave := make(chan struct{})
	j := after(job("echo made > out", "echo re''ady", "sleep 60"), "echo after: $CI_JOB_STATUS")
	j.ID, j.Started, j.Dir, j.Leave = 4245, time.Now(), t.TempDir(), leave
	j.Prepare = func(ctx context.Context, _ *executor.Trace) error { return ctx.Err() }
	first := &when{text: "ready\n", then: func() { close(leave) }}
	w.x.Run(t.Context(), j, executor.NewTrace(first, j))
	x := w.start(t, pod.Options{})
	defer w.back()
	j.Leave, j.Resume, j.Dir, j.Logged = nil, true, t.TempDir(), int64(len(first.String()))
	j.Artifacts = &pipeline.Artifacts{Paths: []string{"out"}, When: pipeline.Always}
	var made string
	j.Finish = func(context.Context, *executor.Trace, executor.Result) error {
		content, err := os.ReadFile(filepath.Join(j.Dir, "out"))
		made = string(content)
		return err
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	var second safe
	r := x.Run(ctx, j, &second)
	if r.Status != pipeline.StatusCanceled || made != "made\n" || !strings.Contains(second.String(), "after: canceled\n") {
		t.Errorf("%+v, left %q\n%s\n%s", r, made, first.String(), second.String())
	}
}

// takenUpLate lets an executor go of a job that has sent what it leaves: that is sent again.
func takenUpLate(t *testing.T, w *world) {
	leave := make(chan struct{})
	j := after(job("echo made > out", "exit 3"), "echo be''hind")
	j.ID, j.Started, j.Dir, j.Leave = 4244, time.Now(), t.TempDir(), leave
	j.Artifacts = &pipeline.Artifacts{Paths: []string{"out"}, When: pipeline.Always}
	j.Finish = func(context.Context, *executor.Trace, executor.Result) error { close(leave); return nil }
	var first, second safe
	w.x.Run(t.Context(), j, executor.NewTrace(&first, j))
	x := w.start(t, pod.Options{})
	defer w.back()
	j.Leave, j.Resume, j.Dir = nil, true, t.TempDir()
	var made string
	j.Finish = func(_ context.Context, _ *executor.Trace, r executor.Result) error {
		content, err := os.ReadFile(filepath.Join(j.Dir, "out"))
		made = fmt.Sprint(string(content), r.Reason, r.ExitCode)
		return err
	}
	r := x.Run(t.Context(), j, &second)
	if r.ExitCode != 3 || made != "made\nscript_failure3" || strings.Count(first.String()+second.String(), "\nbehind\n") != 1 {
		t.Errorf("%+v, left %q\n%s\n%s", r, made, first.String(), second.String())
	}
}

func after(j executor.Job, commands ...string) executor.Job {
	j.AfterScript = commands
	return j
}

// when calls a function once when a text has been written.
type when struct {
	safe
	text string
	once sync.Once
	then func()
}

func (w *when) Write(p []byte) (int, error) {
	n, err := w.safe.Write(p)
	if strings.Contains(w.String(), w.text) {
		w.once.Do(w.then)
	}
	return n, err
}

func deleted(t *testing.T, w *world) {
	j := after(job("echo re''ady", "sleep 60"), "echo never")
	j.ID, j.Dir = 777, t.TempDir()
	log := &when{text: "ready\n", then: func() {
		list, err := w.client.CoreV1().Pods("").List(t.Context(), metav1.ListOptions{LabelSelector: pod.LabelJob + "=777"})
		if err != nil || len(list.Items) != 1 {
			t.Errorf("%v, %d Pods", err, len(list.Items))
			return
		}
		if err := w.client.CoreV1().Pods(list.Items[0].Namespace).Delete(t.Context(), list.Items[0].Name, metav1.DeleteOptions{}); err != nil {
			t.Error(err)
		}
	}}
	r := w.x.Run(t.Context(), j, log)
	if r.Reason != pipeline.RunnerSystemFailure || !strings.HasPrefix(r.Message, "the Pod was deleted") {
		t.Errorf("%+v\n%s", r, log.String())
	}
}

func noNode(t *testing.T, w *world) {
	x := w.start(t, pod.Options{Pending: 3 * time.Second})
	defer w.back()
	j := job("echo never")
	j.Dir, j.Place.NodeSelector = t.TempDir(), map[string]string{"disk": "none"}
	var log safe
	r := x.Run(t.Context(), j, &log)
	if r.Reason != pipeline.RunnerSystemFailure || !regexp.MustCompile(`^no node took the Pod within 3s: FailedScheduling: 0/1 nodes are available: .*didn't match Pod's node affinity/selector`).MatchString(r.Message) {
		t.Errorf("%+v\n%s", r, log.String())
	}
	if !strings.Contains(log.String(), "WARNING: no node takes the Pod: FailedScheduling: 0/1 nodes are available") {
		t.Errorf("log:\n%s", log.String())
	}
}

// seenByOthers looks at what those may see who may read Pods, and at what is left afterwards.
func seenByOthers(t *testing.T, w *world) {
	j := job("echo re''ady", "sleep 1")
	j.ID, j.Dir = 888, t.TempDir()
	j.Variables = pipeline.Variables{{Name: "S", Value: "s3cret-value", Masked: true}}
	j.Services = []pipeline.Service{{Image: pipeline.Image{Name: w.svc}, Variables: pipeline.Variables{{Name: "PASSWORD", Value: "$S", Public: true}}}}
	log := &when{text: "ready\n", then: func() {
		list, err := w.client.CoreV1().Pods("").List(t.Context(), metav1.ListOptions{LabelSelector: pod.LabelJob + "=888"})
		if err != nil || len(list.Items) != 1 {
			t.Errorf("%v, %d Pods", err, len(list.Items))
			return
		}
		p := list.Items[0]
		text, err := json.Marshal(p)
		if err != nil || strings.Contains(string(text), "s3cret") || strings.Contains(string(text), "keelson-pod-") || strings.Contains(string(text), "sleep 1\"") {
			t.Errorf("the Pod shows what is the job's: %s, %v", text, err)
		}
		s, err := w.client.CoreV1().Secrets(p.Namespace).Get(t.Context(), p.Name, metav1.GetOptions{})
		if err != nil || len(s.OwnerReferences) != 1 || s.OwnerReferences[0].UID != p.UID {
			t.Errorf("the Secret: %v, owners %v", err, s.OwnerReferences)
		}
		for _, c := range p.Spec.Containers {
			if c.SecurityContext == nil || *c.SecurityContext.AllowPrivilegeEscalation || c.SecurityContext.SeccompProfile.Type != corev1.SeccompProfileTypeRuntimeDefault {
				t.Errorf("container %s: %+v", c.Name, c.SecurityContext)
			}
		}
	}}
	if r := w.x.Run(t.Context(), j, log); r.Status != pipeline.StatusSuccess {
		t.Errorf("%+v\n%s", r, log.String())
	}
	eventually(t, "the Pod and its Secret go", func() bool {
		pods, err := w.client.CoreV1().Pods("").List(t.Context(), metav1.ListOptions{LabelSelector: pod.LabelJob + "=888"})
		secrets, err2 := w.client.CoreV1().Secrets("").List(t.Context(), metav1.ListOptions{LabelSelector: pod.LabelJob + "=888"})
		return errors.Join(err, err2) == nil && len(pods.Items)+len(secrets.Items) == 0
	})
}

func eventually(t *testing.T, what string, is func() bool) {
	t.Helper()
	for deadline := time.Now().Add(time.Minute); !is(); time.Sleep(50 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("it never happens: %s", what)
		}
	}
}

// leftovers removes what a process has left that was killed, and nothing else.
func leftovers(t *testing.T, w *world) {
	leave := make(chan struct{})
	j := job("echo re''ady", "sleep 600")
	j.ID, j.Dir, j.Leave = 999, t.TempDir(), leave
	log := &when{text: "ready\n", then: func() { close(leave) }}
	w.x.Run(t.Context(), j, log)
	there := func() bool {
		pods, err := w.client.CoreV1().Pods("").List(t.Context(), metav1.ListOptions{LabelSelector: pod.LabelJob + "=999"})
		if err != nil {
			t.Fatal(err)
		}
		return len(pods.Items) > 0
	}
	if !there() {
		t.Fatalf("the Pod has gone with the process:\n%s", log.String())
	}
	list, err := w.client.CoreV1().Pods("").List(t.Context(), metav1.ListOptions{LabelSelector: pod.LabelJob + "=999"})
	if err != nil {
		t.Fatal(err)
	}
	left := list.Items[0]
	instance := left.Labels[pod.LabelInstance]
	// Somebody's Pod says that it is ours and has the name of a Secret; and a Secret of a job that is over has no Pod.
	somebodys := w.put(t, left.Namespace, "db-password", map[string]string{pod.LabelInstance: instance})
	orphan := corev1.Secret{ObjectMeta: metav1.ObjectMeta{Name: "job-998-" + instance, Labels: map[string]string{pod.LabelInstance: instance, pod.LabelJob: "998"}}}
	for _, s := range []*corev1.Secret{{ObjectMeta: metav1.ObjectMeta{Name: "db-password"}}, &orphan} {
		if _, err := w.client.CoreV1().Secrets(left.Namespace).Create(t.Context(), s, metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	asked := make(chan struct{})
	var once sync.Once
	w.start(t, pod.Options{Over: func(_ context.Context, id int64) (bool, error) {
		if id == 999 {
			once.Do(func() { close(asked) })
		}
		return false, nil
	}})
	<-asked
	if !there() {
		t.Error("the Pod of a job that is not over is removed")
	}
	w.start(t, pod.Options{Over: func(_ context.Context, id int64) (bool, error) { return id == 999 || id == 998 || id == 0, nil }})
	eventually(t, "the Pod goes", func() bool { return !there() })
	eventually(t, "the Secret goes", func() bool {
		_, err := w.client.CoreV1().Secrets(left.Namespace).Get(t.Context(), orphan.Name, metav1.GetOptions{})
		return apierrors.IsNotFound(err)
	})
	if _, err := w.client.CoreV1().Secrets(left.Namespace).Get(t.Context(), "db-password", metav1.GetOptions{}); err != nil {
		t.Errorf("somebody's Secret: %v", err)
	}
	if !somebodys() {
		t.Error("somebody's Pod is removed")
	}
	w.back()

	// Somebody's Pod has the name of a job's that is gone.
	somebodys = w.put(t, left.Namespace, "job-997-"+instance, nil)
	t.Run("taken up", func(t *testing.T) {
		x := w.start(t, pod.Options{})
		j := job("echo never")
		j.ID, j.Dir, j.Resume = 997, t.TempDir(), true
		if r := x.Run(t.Context(), j, &safe{}); r.Reason != pipeline.RunnerSystemFailure {
			t.Errorf("%+v", r)
		}
	}) // all that the executor removes it has removed
	if !somebodys() {
		t.Error("somebody's Pod by the job's name is removed")
	}
	w.back()
}

// put makes a Pod that no node takes, and tells whether it is there.
func (w *world) put(t *testing.T, namespace, name string, labels map[string]string) (there func() bool) {
	t.Helper()
	pods := w.client.CoreV1().Pods(namespace)
	_, err := pods.Create(t.Context(), &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: name, Labels: labels},
		Spec:       corev1.PodSpec{NodeSelector: map[string]string{"disk": "none"}, Containers: []corev1.Container{{Name: "a", Image: w.svc}}},
	}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	return func() bool {
		p, err := pods.Get(t.Context(), name, metav1.GetOptions{})
		return err == nil && p.DeletionTimestamp == nil
	}
}
