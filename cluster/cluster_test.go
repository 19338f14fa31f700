package main_test

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/clientcmd"
)

// program is the binary under test, built once.
var program string

func TestMain(m *testing.M) {
	os.Exit(buildAndRun(m))
}

func buildAndRun(m *testing.M) int {
	dir, err := os.MkdirTemp("", "keelson-cluster-test")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer os.RemoveAll(dir)
	program = filepath.Join(dir, "keelson-cluster")
	build := exec.Command("go", "build", "-ldflags", "-s -w", "-o", program, ".")
	build.Stdout, build.Stderr = os.Stderr, os.Stderr
	if err := build.Run(); err != nil {
		fmt.Fprintln(os.Stderr, "build:", err)
		return 1
	}
	return m.Run()
}

const patience = 2 * time.Minute

// instance is one run of the program.
type instance struct {
	t       *testing.T
	cmd     *exec.Cmd
	stderr  *bytes.Buffer
	exited  chan error
	Server  string
	Config  string
	Node    struct{ Name, Address string } // the real one, if there is one
	client  kubernetes.Interface
	stopped bool
}

// launch starts the program on dir and waits until it says that it is ready.
func launch(t *testing.T, dir string, flags ...string) *instance {
	t.Helper()
	in := &instance{t: t, stderr: &bytes.Buffer{}, exited: make(chan error, 1)}
	in.cmd = exec.Command(program, append([]string{"run", "--data", dir, "--unsafe-no-fsync", "--verbose"}, flags...)...)
	in.cmd.Stderr = in.stderr
	stdout, err := in.cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := in.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if !in.stopped {
			in.stop(syscall.SIGTERM)
		}
		if t.Failed() {
			t.Logf("log of %s:\n%s", strings.Join(in.cmd.Args, " "), in.stderr)
		}
	})
	line, err := bufio.NewReader(stdout).ReadBytes('\n')
	go func() { in.exited <- in.cmd.Wait() }()
	if err != nil {
		<-in.exited
		in.stopped = true
		t.Fatalf("no ready line: %v\n%s", err, in.stderr)
	}
	var ready struct {
		Ready              bool
		Kubeconfig, Server string
		Node               struct{ Name, Address string }
	}
	if err := json.Unmarshal(line, &ready); err != nil || !ready.Ready || ready.Server == "" {
		t.Fatalf("ready line %q: %v", line, err)
	}
	in.Server, in.Config, in.Node = ready.Server, ready.Kubeconfig, ready.Node
	config, err := clientcmd.BuildConfigFromFlags("", ready.Kubeconfig)
	if err != nil {
		t.Fatal(err)
	}
	config.QPS = -1
	if in.client, err = kubernetes.NewForConfig(config); err != nil {
		t.Fatal(err)
	}
	return in
}

// stop signals the program and returns how it ended.
func (in *instance) stop(signal syscall.Signal) error {
	in.t.Helper()
	in.stopped = true
	if err := in.cmd.Process.Signal(signal); err != nil {
		in.t.Errorf("signal: %v", err)
	}
	select {
	case err := <-in.exited:
		return err
	case <-time.After(patience):
		in.cmd.Process.Kill()
		in.t.Fatalf("still running %v after %v", patience, signal)
		return nil
	}
}

// children returns the pids of the program's components by name.
func (in *instance) children() map[string]int {
	in.t.Helper()
	found := map[string]int{}
	stats, _ := filepath.Glob("/proc/[0-9]*/stat")
	for _, path := range stats {
		stat, err := os.ReadFile(path)
		if err != nil {
			continue // it has ended meanwhile
		}
		_, rest, _ := strings.Cut(string(stat), ") ")
		fields := strings.Fields(rest)
		if len(fields) < 2 || fields[1] != strconv.Itoa(in.cmd.Process.Pid) {
			continue
		}
		pid, _ := strconv.Atoi(filepath.Base(filepath.Dir(path)))
		cmdline, _ := os.ReadFile(filepath.Join(filepath.Dir(path), "cmdline"))
		if args := strings.Split(string(cmdline), "\x00"); len(args) > 2 && args[1] == "component" {
			found[args[2]] = pid
		}
	}
	return found
}

// eventually polls check until it returns nil.
func eventually(t *testing.T, check func(context.Context) error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	for {
		err := check(ctx)
		if err == nil {
			return
		}
		select {
		case <-ctx.Done():
			t.Fatalf("after %v: %v", patience, err)
		case <-time.After(50 * time.Millisecond):
		}
	}
}

func template(app string, annotations map[string]string) corev1.PodTemplateSpec {
	return corev1.PodTemplateSpec{
		ObjectMeta: metav1.ObjectMeta{Labels: map[string]string{"app": app}, Annotations: annotations},
		Spec: corev1.PodSpec{
			InitContainers: []corev1.Container{{Name: "migrate", Image: "registry.example/migrate:1"}},
			Containers:     []corev1.Container{{Name: "web", Image: "registry.example/web:1"}},
		},
	}
}

func deploy(t *testing.T, in *instance, app string, annotations map[string]string) {
	t.Helper()
	replicas, deadline := int32(2), int32(2)
	_, err := in.client.AppsV1().Deployments("default").Create(t.Context(), &appsv1.Deployment{
		ObjectMeta: metav1.ObjectMeta{Name: app},
		Spec: appsv1.DeploymentSpec{
			Replicas:                &replicas,
			ProgressDeadlineSeconds: &deadline,
			Selector:                &metav1.LabelSelector{MatchLabels: map[string]string{"app": app}},
			Template:                template(app, annotations),
		},
	}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
}

// condition reports whether the Deployment has the condition with that status and reason.
func condition(ctx context.Context, in *instance, app string, kind appsv1.DeploymentConditionType, status corev1.ConditionStatus, reason string) error {
	deployment, err := in.client.AppsV1().Deployments("default").Get(ctx, app, metav1.GetOptions{})
	if err != nil {
		return err
	}
	for _, c := range deployment.Status.Conditions {
		if c.Type == kind && c.Status == status && c.Reason == reason {
			return nil
		}
	}
	return fmt.Errorf("deployment %s: want %s=%s (%s), has %+v", app, kind, status, reason, deployment.Status.Conditions)
}

// onePod returns a pod of the app that satisfies check, or why there is none.
func onePod(ctx context.Context, in *instance, app string, check func(*corev1.Pod) error) (*corev1.Pod, error) {
	pods, err := in.client.CoreV1().Pods("default").List(ctx, metav1.ListOptions{LabelSelector: "app=" + app})
	if err != nil {
		return nil, err
	}
	err = fmt.Errorf("app %s has no pods", app)
	for i := range pods.Items {
		if err = check(&pods.Items[i]); err == nil {
			return &pods.Items[i], nil
		}
	}
	return nil, err
}

func available(ctx context.Context, in *instance, app string) error {
	return condition(ctx, in, app, appsv1.DeploymentAvailable, corev1.ConditionTrue, "MinimumReplicasAvailable")
}

// TestCluster is what people use the cluster for, on one instance.
func TestCluster(t *testing.T) {
	audit := filepath.Join(t.TempDir(), "audit.log")
	in := launch(t, filepath.Join(t.TempDir(), "data"), "--nodes", "2", "--audit-log", audit)

	t.Run("reports the release it is built from", func(t *testing.T) {
		version, err := in.client.Discovery().ServerVersion()
		if err != nil {
			t.Fatal(err)
		}
		out, err := exec.Command(program, "version").Output()
		if err != nil {
			t.Fatal(err)
		}
		mod, err := os.ReadFile("go.mod")
		if err != nil {
			t.Fatal(err)
		}
		if !strings.Contains(string(mod), "k8s.io/kubernetes "+version.GitVersion+"\n") || !strings.Contains(string(out), "kubernetes "+version.GitVersion+"\n") {
			t.Errorf("/version says %q, `version` says %q; neither may differ from go.mod", version.GitVersion, out)
		}
		if version.GitVersion != "v"+version.Major+"."+version.Minor+"."+strings.SplitN(version.GitVersion, ".", 3)[2] {
			t.Errorf("version %+v: major and minor do not fit", version)
		}
	})
	t.Run("nodes are ready", func(t *testing.T) { testNodes(t, in) })
	t.Run("nobody gets in without a certificate", func(t *testing.T) { testStrangers(t, in) })
	t.Run("healthy Deployment", func(t *testing.T) {
		deploy(t, in, "healthy", nil)
		eventually(t, func(ctx context.Context) error { return available(ctx, in, "healthy") })
		_, err := onePod(t.Context(), in, "healthy", func(pod *corev1.Pod) error {
			if pod.Status.PodIP == "" || len(pod.Status.InitContainerStatuses) != 1 {
				return fmt.Errorf("pod status %+v", pod.Status)
			}
			return nil
		})
		if err != nil {
			t.Error(err)
		}
	})
	t.Run("failing Deployments", func(t *testing.T) { testFailures(t, in) })
	t.Run("crash backs off and starts again", func(t *testing.T) { testCrashLoop(t, in) })
	t.Run("Jobs", func(t *testing.T) { testJobs(t, in) })
	t.Run("StatefulSet with volumes", func(t *testing.T) { testStatefulSet(t, in) })
	t.Run("a component that dies comes back", func(t *testing.T) { testRestartOfComponent(t, in) })
	t.Run("the audit log names who asked", func(t *testing.T) {
		log, err := os.ReadFile(audit)
		if err != nil {
			t.Fatal(err)
		}
		for _, want := range []string{`"level":"Metadata"`, `"username":"kubernetes-admin"`, `"username":"keelson:kwok"`} {
			if !bytes.Contains(log, []byte(want)) {
				t.Errorf("no %s in the audit log", want)
			}
		}
	})
	t.Run("stops cleanly", func(t *testing.T) {
		children := in.children()
		if err := in.stop(syscall.SIGTERM); err != nil {
			t.Errorf("exit: %v\n%s", err, in.stderr)
		}
		assertGone(t, children)
		var order []string
		for _, line := range strings.Split(in.stderr.String(), "\n") {
			if _, name, found := strings.Cut(line, `msg="component stopped" component=`); found {
				order = append(order, name)
			}
		}
		if got := strings.Join(order, " "); got != "kwok kube-scheduler kube-controller-manager kube-apiserver etcd" {
			t.Errorf("stopped in the order %q", got)
		}
	})
}

func testNodes(t *testing.T, in *instance) {
	nodes, err := in.client.CoreV1().Nodes().List(t.Context(), metav1.ListOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if len(nodes.Items) != 2 {
		t.Fatalf("%d nodes, want 2", len(nodes.Items))
	}
	for _, node := range nodes.Items {
		ready := false
		for _, c := range node.Status.Conditions {
			ready = ready || c.Type == corev1.NodeReady && c.Status == corev1.ConditionTrue
		}
		if !ready || len(node.Spec.Taints) > 0 {
			t.Errorf("%s: conditions %+v, taints %+v", node.Name, node.Status.Conditions, node.Spec.Taints)
		}
	}
}

// testStrangers comes as another user of the machine would: without credentials.
func testStrangers(t *testing.T, in *instance) {
	strange := &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true}}}
	for _, path := range []string{"/api", "/version", "/readyz", "/healthz", "/metrics", "/openapi/v3"} {
		response, err := strange.Get(in.Server + path)
		if err != nil {
			t.Fatal(err)
		}
		response.Body.Close()
		if response.StatusCode != http.StatusUnauthorized {
			t.Errorf("%s: %s without credentials", path, response.Status)
		}
	}
	data := filepath.Dir(in.Config)
	var ports map[string]int
	text, err := os.ReadFile(filepath.Join(data, "cluster.json"))
	if err == nil {
		err = json.Unmarshal(text, &ports)
	}
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"etcdClientPort", "etcdPeerPort"} {
		response, err := strange.Get(fmt.Sprintf("https://127.0.0.1:%d/health", ports[name]))
		if err == nil {
			response.Body.Close()
			t.Errorf("%s: %s without a certificate", name, response.Status)
		} else if !strings.Contains(err.Error(), "certificate required") {
			t.Errorf("%s: %v, want the TLS handshake to fail for want of a certificate", name, err)
		}
	}
	err = filepath.Walk(data, func(path string, info os.FileInfo, err error) error {
		if err == nil && info.Mode().Perm()&0o077 != 0 && (path == data || strings.HasPrefix(path, filepath.Join(data, "pki")) || !info.IsDir() && filepath.Dir(path) == data) {
			t.Errorf("%s has mode %v", path, info.Mode().Perm())
		}
		return err
	})
	if err != nil && !errors.Is(err, os.ErrNotExist) { // etcd renames its files while we look
		t.Fatal(err)
	}
}

func testFailures(t *testing.T, in *instance) {
	tests := map[string]struct {
		simulate, reason, message string
		phase                     corev1.PodPhase
	}{
		"crash":   {"CrashLoopBackOff", "CrashLoopBackOff", "back-off 10s restarting failed container=web pod=crash-", corev1.PodRunning},
		"pull":    {"ImagePullBackOff", "ImagePullBackOff", `Back-off pulling image "registry.example/web:1"`, corev1.PodPending},
		"pending": {"Pending", "ContainerCreating", "", corev1.PodPending},
		"typo":    {"CrashLoop", "CreateContainerConfigError", `unknown value "CrashLoop": use CrashLoopBackOff, ImagePullBackOff, Pending`, corev1.PodPending},
	}
	for app, test := range tests {
		deploy(t, in, app, map[string]string{"keelson.dev/simulate": test.simulate})
	}
	for app, test := range tests {
		t.Run(app, func(t *testing.T) {
			eventually(t, func(ctx context.Context) error {
				_, err := onePod(ctx, in, app, func(pod *corev1.Pod) error {
					if len(pod.Status.ContainerStatuses) != 1 || pod.Status.ContainerStatuses[0].State.Waiting == nil {
						return fmt.Errorf("container statuses %+v", pod.Status.ContainerStatuses)
					}
					waiting := pod.Status.ContainerStatuses[0].State.Waiting
					if pod.Status.Phase != test.phase || waiting.Reason != test.reason || !strings.Contains(waiting.Message, test.message) {
						return fmt.Errorf("phase %s, waiting %+v", pod.Status.Phase, waiting)
					}
					return nil
				})
				return err
			})
			eventually(t, func(ctx context.Context) error {
				return condition(ctx, in, app, appsv1.DeploymentProgressing, corev1.ConditionFalse, "ProgressDeadlineExceeded")
			})
			// Without the annotation the next ReplicaSet is healthy.
			patch := []byte(`{"spec":{"template":{"metadata":{"annotations":null}}}}`)
			if _, err := in.client.AppsV1().Deployments("default").Patch(t.Context(), app, "application/merge-patch+json", patch, metav1.PatchOptions{}); err != nil {
				t.Fatal(err)
			}
			eventually(t, func(ctx context.Context) error { return available(ctx, in, app) })
		})
	}
}

func testCrashLoop(t *testing.T, in *instance) {
	deploy(t, in, "looping", map[string]string{"keelson.dev/simulate": "CrashLoopBackOff"})
	var pod *corev1.Pod
	eventually(t, func(ctx context.Context) (err error) {
		pod, err = onePod(ctx, in, "looping", func(pod *corev1.Pod) error {
			if len(pod.Status.ContainerStatuses) != 1 || pod.Status.ContainerStatuses[0].RestartCount != 2 {
				return fmt.Errorf("container statuses %+v, want 2 restarts", pod.Status.ContainerStatuses)
			}
			return nil
		})
		return err
	})
	container := pod.Status.ContainerStatuses[0]
	if last := container.LastTerminationState.Terminated; last == nil || last.ExitCode != 1 || last.Reason != "Error" {
		t.Errorf("last state %+v, want exit status 1", container.LastTerminationState)
	}
	if container.State.Waiting == nil || !strings.HasPrefix(container.State.Waiting.Message, "back-off 20s restarting") {
		t.Errorf("state %+v, want the second back-off to be twice the first", container.State)
	}
	eventually(t, func(ctx context.Context) error {
		events, err := in.client.CoreV1().Events("default").List(ctx, metav1.ListOptions{FieldSelector: "reason=BackOff,type=Warning"})
		if err == nil && len(events.Items) == 0 {
			err = errors.New("no BackOff event")
		}
		return err
	})
}

func testJobs(t *testing.T, in *instance) {
	for name, test := range map[string]struct {
		annotations map[string]string
		want        batchv1.JobConditionType
	}{
		"migrates": {nil, batchv1.JobComplete},
		"breaks":   {map[string]string{"keelson.dev/simulate": "CrashLoopBackOff"}, batchv1.JobFailed},
	} {
		t.Run(name, func(t *testing.T) {
			once := int32(0)
			job := &batchv1.Job{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: batchv1.JobSpec{BackoffLimit: &once, Template: template(name, test.annotations)}}
			job.Spec.Template.Spec.RestartPolicy = corev1.RestartPolicyNever
			if _, err := in.client.BatchV1().Jobs("default").Create(t.Context(), job, metav1.CreateOptions{}); err != nil {
				t.Fatal(err)
			}
			eventually(t, func(ctx context.Context) error {
				job, err := in.client.BatchV1().Jobs("default").Get(ctx, name, metav1.GetOptions{})
				if err != nil {
					return err
				}
				for _, c := range job.Status.Conditions {
					if c.Type == test.want && c.Status == corev1.ConditionTrue {
						return nil
					}
				}
				return fmt.Errorf("want %s, has %+v", test.want, job.Status)
			})
		})
	}
}

func testStatefulSet(t *testing.T, in *instance) {
	replicas := int32(2)
	_, err := in.client.AppsV1().StatefulSets("default").Create(t.Context(), &appsv1.StatefulSet{
		ObjectMeta: metav1.ObjectMeta{Name: "database"},
		Spec: appsv1.StatefulSetSpec{
			Replicas: &replicas,
			Selector: &metav1.LabelSelector{MatchLabels: map[string]string{"app": "database"}},
			Template: template("database", nil),
			VolumeClaimTemplates: []corev1.PersistentVolumeClaim{{
				ObjectMeta: metav1.ObjectMeta{Name: "data"},
				Spec: corev1.PersistentVolumeClaimSpec{
					AccessModes: []corev1.PersistentVolumeAccessMode{corev1.ReadWriteOnce},
					Resources:   corev1.VolumeResourceRequirements{Requests: corev1.ResourceList{corev1.ResourceStorage: resource.MustParse("5Gi")}},
				},
			}},
		},
	}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	eventually(t, func(ctx context.Context) error {
		set, err := in.client.AppsV1().StatefulSets("default").Get(ctx, "database", metav1.GetOptions{})
		if err == nil && set.Status.ReadyReplicas != 2 {
			err = fmt.Errorf("%d replicas are ready, want 2", set.Status.ReadyReplicas)
		}
		return err
	})
	claim, err := in.client.CoreV1().PersistentVolumeClaims("default").Get(t.Context(), "data-database-1", metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if size := claim.Status.Capacity[corev1.ResourceStorage]; claim.Status.Phase != corev1.ClaimBound || size.String() != "5Gi" {
		t.Errorf("claim is %s with %s", claim.Status.Phase, size.String())
	}

	// Volumes end with their claims.
	if err := in.client.AppsV1().StatefulSets("default").Delete(t.Context(), "database", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	if err := in.client.CoreV1().PersistentVolumeClaims("default").DeleteCollection(t.Context(), metav1.DeleteOptions{}, metav1.ListOptions{}); err != nil {
		t.Fatal(err)
	}
	eventually(t, func(ctx context.Context) error {
		volumes, err := in.client.CoreV1().PersistentVolumes().List(ctx, metav1.ListOptions{})
		if err == nil && len(volumes.Items) > 0 {
			err = fmt.Errorf("%d volumes are left, the first is %s", len(volumes.Items), volumes.Items[0].Status.Phase)
		}
		return err
	})
}

func testRestartOfComponent(t *testing.T, in *instance) {
	for _, name := range []string{"etcd", "kube-apiserver", "kube-controller-manager", "kube-scheduler", "kwok"} {
		before := in.children()
		if before[name] == 0 {
			t.Fatalf("%s is not running: %v", name, before)
		}
		if err := syscall.Kill(before[name], syscall.SIGKILL); err != nil {
			t.Fatal(err)
		}
		eventually(t, func(context.Context) error {
			if now := in.children()[name]; now == 0 || now == before[name] {
				return fmt.Errorf("%s is not back", name)
			}
			return nil
		})
	}
	eventually(t, func(ctx context.Context) error {
		_, err := in.client.AppsV1().Deployments("default").Get(ctx, "healthy", metav1.GetOptions{})
		return err
	})
	deploy(t, in, "after-the-storm", nil)
	eventually(t, func(ctx context.Context) error { return available(ctx, in, "after-the-storm") })
}

// TestKill kills the program the hard way and goes on with its data.
func TestKill(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "data")
	first := launch(t, dir)
	deploy(t, first, "survivor", nil)
	eventually(t, func(ctx context.Context) error { return available(ctx, first, "survivor") })

	out, err := exec.Command(program, "run", "--data", dir).CombinedOutput()
	if want := fmt.Sprintf("a cluster is already running on %s (process %d)", dir, first.cmd.Process.Pid); err == nil || !strings.Contains(string(out), want) {
		t.Errorf("second instance: %v, %s\nwant %q", err, out, want)
	}

	children := first.children()
	if len(children) != 5 {
		t.Errorf("components %v, want 5", children)
	}
	if err := first.stop(syscall.SIGKILL); err == nil {
		t.Error("killed, but exit status 0")
	}
	second := launch(t, dir)
	assertGone(t, children)
	if second.Server != first.Server {
		t.Errorf("server moved from %s to %s", first.Server, second.Server)
	}
	// The client of the first instance: its certificate is still good.
	if err := available(t.Context(), first, "survivor"); err != nil {
		t.Error(err)
	}
	deploy(t, second, "newcomer", nil)
	eventually(t, func(ctx context.Context) error { return available(ctx, second, "newcomer") })
	if err := second.stop(syscall.SIGINT); err != nil {
		t.Errorf("exit: %v", err)
	}

	// A port that was taken meanwhile: the cluster moves, and says so in the kubeconfig.
	taken, err := net.Listen("tcp", strings.TrimPrefix(first.Server, "https://"))
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	third := launch(t, dir, "--nodes", "0")
	if third.Server == first.Server {
		t.Errorf("server claims to listen on %s, which is taken", third.Server)
	}
	if _, err := third.client.AppsV1().Deployments("default").Get(t.Context(), "newcomer", metav1.GetOptions{}); err != nil {
		t.Error(err)
	}
	eventually(t, func(ctx context.Context) error {
		nodes, err := third.client.CoreV1().Nodes().List(ctx, metav1.ListOptions{})
		if err == nil && len(nodes.Items) > 0 {
			err = fmt.Errorf("%d nodes are left after --nodes 0", len(nodes.Items))
		}
		return err
	})
}

// assertGone checks that no component outlived its parent. The pids may linger
// a moment as their sockets are torn down.
func assertGone(t *testing.T, children map[string]int) {
	t.Helper()
	for name, pid := range children {
		eventually(t, func(context.Context) error {
			if cmdline, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid)); err == nil && bytes.HasPrefix(cmdline, []byte(program+"\x00")) {
				return fmt.Errorf("%s (pid %d) is still running", name, pid)
			}
			return nil
		})
	}
}

func TestRefusals(t *testing.T) {
	other := t.TempDir()
	if err := os.WriteFile(filepath.Join(other, "thesis.txt"), nil, 0o644); err != nil {
		t.Fatal(err)
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	_, port, _ := net.SplitHostPort(listener.Addr().String())
	tests := map[string]struct {
		args []string
		want string
	}{
		"no directory":      {[]string{"run"}, "--data is missing"},
		"foreign directory": {[]string{"run", "--data", other}, "holds other files and no cluster"},
		"port in use":       {[]string{"run", "--data", filepath.Join(t.TempDir(), "d"), "--port", port}, "port " + port + " on 127.0.0.1 is in use"},
		"negative nodes":    {[]string{"run", "--data", "d", "--nodes", "-1"}, "--nodes -1: must be 0 to 5000"},
		"unknown component": {[]string{"component", "kubernetes"}, `unknown component "kubernetes"`},
		"unknown node":      {[]string{"run", "--data", "d", "--node", "toy"}, "--node toy: must be simulated or real"},
		"both kinds":        {[]string{"run", "--data", "d", "--node", "real", "--nodes", "2"}, "with --node real there are none"},
		"nothing to reach":  {[]string{"run", "--data", "d", "--publish", "80"}, "--publish, --registry and --outbound are for --node real"},
		"nothing to pull":   {[]string{"run", "--data", "d", "--node", "real", "--registry-login", "f"}, "--registry-login is for --registry"},
		"check of nothing":  {[]string{"run", "--check"}, "--check is for --node real"},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			out, err := exec.Command(program, test.args...).CombinedOutput()
			if err == nil || !strings.Contains(string(out), test.want) {
				t.Errorf("%v: %v, %s\nwant an error with %q", test.args, err, out, test.want)
			}
		})
	}
	if info, err := os.Stat(other); err != nil || info.Mode().Perm()&0o055 == 0 {
		t.Errorf("the foreign directory was changed: %v %v", info.Mode(), err)
	}
}
