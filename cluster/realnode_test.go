package main_test

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/crane"
	"github.com/google/go-containerregistry/pkg/registry"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/tools/clientcmd"
	"k8s.io/client-go/tools/portforward"
	"k8s.io/client-go/tools/remotecommand"
)

// needRealNode skips the test where the machine cannot run a real node, and says why.
func needRealNode(t *testing.T) {
	t.Helper()
	if out, err := exec.Command(program, "run", "--node", "real", "--check").CombinedOutput(); err != nil {
		t.Skipf("no real node here:\n%s", out)
	}
}

// imagePort serves an image with testdata/app on a port of 127.0.0.1.
var imagePort = sync.OnceValues(func() (int, error) {
	dir, err := os.MkdirTemp("", "keelson-image")
	if err != nil {
		return 0, err
	}
	defer os.RemoveAll(dir)
	if out, err := exec.Command("go", "build", "-ldflags", "-s -w", "-o", filepath.Join(dir, "app"), "./testdata/app").CombinedOutput(); err != nil {
		return 0, fmt.Errorf("build: %w: %s", err, out)
	}
	text, err := os.ReadFile(filepath.Join(dir, "app"))
	if err != nil {
		return 0, err
	}
	var layer bytes.Buffer
	archive := tar.NewWriter(&layer)
	err = archive.WriteHeader(&tar.Header{Name: "app", Mode: 0o755, Size: int64(len(text))})
	if err == nil {
		_, err = archive.Write(text)
	}
	if err = errors.Join(err, archive.Close()); err != nil {
		return 0, err
	}
	content, err := tarball.LayerFromOpener(func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(layer.Bytes())), nil })
	if err != nil {
		return 0, err
	}
	image, err := mutate.AppendLayers(empty.Image, content)
	if err != nil {
		return 0, err
	}
	config, err := image.ConfigFile()
	if err != nil {
		return 0, err
	}
	config = config.DeepCopy()
	config.OS, config.Architecture, config.Config.Entrypoint = "linux", runtime.GOARCH, []string{"/app"}
	if image, err = mutate.ConfigFile(image, config); err != nil {
		return 0, err
	}
	server := httptest.NewServer(registry.New(registry.Logger(log.New(io.Discard, "", 0)))) // until the test program ends
	address := server.Listener.Addr().String()
	_, port, _ := net.SplitHostPort(address)
	number, _ := strconv.Atoi(port)
	return number, crane.Push(image, address+"/app:1")
})

// realInstance is an instance with a real node that can pull the image.
type realInstance struct {
	*instance
	image string
}

func launchReal(t *testing.T, dir string, flags ...string) *realInstance {
	t.Helper()
	port, err := imagePort()
	if err != nil {
		t.Fatal(err)
	}
	began := time.Now()
	in := launch(t, dir, append([]string{"--node", "real", "--registry", strconv.Itoa(port)}, flags...)...)
	t.Logf("ready after %v", time.Since(began).Round(10*time.Millisecond))
	t.Cleanup(func() {
		if t.Failed() {
			for _, name := range []string{"node", "kubelet", "containerd", "kube-proxy"} {
				text, _ := os.ReadFile(filepath.Join(dir, "logs", name+".log"))
				t.Logf("end of %s.log:\n%s", name, text[max(0, len(text)-4000):])
			}
		}
	})
	if in.Node.Address == "" || in.Node.Name != "node-real" {
		t.Fatalf("the ready line has no node: %+v", in.Node)
	}
	return &realInstance{instance: in, image: fmt.Sprintf("%s:%d/app:1", in.Node.Address, port)}
}

// pod creates a pod with one container.
func (in *realInstance) pod(t *testing.T, name string, change func(*corev1.PodSpec), args ...string) {
	t.Helper()
	pod := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{"app": name}},
		Spec:       corev1.PodSpec{Containers: []corev1.Container{{Name: "app", Image: in.image, Args: args}}},
	}
	if change != nil {
		change(&pod.Spec)
	}
	if _, err := in.client.CoreV1().Pods("default").Create(t.Context(), pod, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
}

// awaitPod waits until check accepts the status of the pod and its only container.
func (in *realInstance) awaitPod(t *testing.T, name string, check func(corev1.PodStatus, corev1.ContainerStatus) bool) *corev1.Pod {
	t.Helper()
	var found *corev1.Pod
	eventually(t, func(ctx context.Context) error {
		pod, err := in.client.CoreV1().Pods("default").Get(ctx, name, metav1.GetOptions{})
		if err != nil {
			return err
		}
		var container corev1.ContainerStatus
		if len(pod.Status.ContainerStatuses) > 0 {
			container = pod.Status.ContainerStatuses[0]
		}
		if !check(pod.Status, container) {
			return fmt.Errorf("pod %s is %s, its container %+v, conditions %+v", name, pod.Status.Phase, container, pod.Status.Conditions)
		}
		found = pod
		return nil
	})
	return found
}

func running(status corev1.PodStatus, _ corev1.ContainerStatus) bool {
	return status.Phase == corev1.PodRunning
}

// run runs a pod to its end and returns what it wrote.
func (in *realInstance) run(t *testing.T, name string, args ...string) string {
	t.Helper()
	in.pod(t, name, func(spec *corev1.PodSpec) { spec.RestartPolicy = corev1.RestartPolicyNever }, args...)
	in.awaitPod(t, name, func(status corev1.PodStatus, _ corev1.ContainerStatus) bool {
		return status.Phase == corev1.PodSucceeded || status.Phase == corev1.PodFailed
	})
	return in.logs(t, name)
}

func (in *realInstance) logs(t *testing.T, pod string) string {
	t.Helper()
	text, err := in.client.CoreV1().Pods("default").GetLogs(pod, &corev1.PodLogOptions{}).DoRaw(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// exec runs a command in a pod's container, as `kubectl exec` does.
func (in *realInstance) exec(t *testing.T, pod string, command ...string) string {
	t.Helper()
	config, err := clientcmd.BuildConfigFromFlags("", in.Config)
	if err != nil {
		t.Fatal(err)
	}
	target := in.client.CoreV1().RESTClient().Post().Resource("pods").Namespace("default").Name(pod).SubResource("exec").
		VersionedParams(&corev1.PodExecOptions{Command: command, Stdout: true, Stderr: true}, scheme.ParameterCodec).URL()
	executor, err := remotecommand.NewWebSocketExecutor(config, "GET", target.String())
	if err != nil {
		t.Fatal(err)
	}
	var out, errors bytes.Buffer // two: they are written to at the same time
	if err := executor.StreamWithContext(t.Context(), remotecommand.StreamOptions{Stdout: &out, Stderr: &errors}); err != nil {
		t.Fatalf("exec %v: %v\n%s%s", command, err, out.String(), errors.String())
	}
	return out.String()
}

// forwarded asks a pod through a port on this machine, as `kubectl port-forward` opens it.
func (in *realInstance) forwarded(t *testing.T, pod string, port int) string {
	t.Helper()
	config, err := clientcmd.BuildConfigFromFlags("", in.Config)
	if err != nil {
		t.Fatal(err)
	}
	target := in.client.CoreV1().RESTClient().Post().Resource("pods").Namespace("default").Name(pod).SubResource("portforward").URL()
	dialer, err := portforward.NewSPDYOverWebsocketDialer(target, config)
	if err != nil {
		t.Fatal(err)
	}
	stop, ready := make(chan struct{}), make(chan struct{})
	defer close(stop)
	forwarder, err := portforward.NewOnAddresses(dialer, []string{"127.0.0.1"}, []string{fmt.Sprintf("0:%d", port)}, stop, ready, io.Discard, io.Discard)
	if err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- forwarder.ForwardPorts() }()
	select {
	case <-ready:
	case err := <-ended:
		t.Fatalf("forward port %d of %s: %v", port, pod, err)
	}
	ports, err := forwarder.GetPorts()
	if err != nil {
		t.Fatal(err)
	}
	response, err := http.Get(fmt.Sprintf("http://127.0.0.1:%d/", ports[0].Local))
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	text, err := io.ReadAll(response.Body)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

func TestRealNode(t *testing.T) {
	needRealNode(t)
	in := launchReal(t, filepath.Join(t.TempDir(), "data"))
	for name, test := range map[string]func(*testing.T, *realInstance){
		"a Deployment is Ready by its probe, its Service answers": testRealService,
		"pods that do not work":                                   testRealFailures,
		"a volume outlives its pod":                               testRealVolume,
		"pods reach the API server":                               testRealAPIServer,
		"speed of a pod":                                          testRealSpeed,
	} {
		t.Run(name, func(t *testing.T) { test(t, in) })
	}
	t.Run("memory", func(t *testing.T) { t.Logf("%d MB in all", proportionalSize(t, in.instance)>>20) })
	t.Run("a part that dies is started again", func(t *testing.T) { testRealRestart(t, in) })
}

func testRealService(t *testing.T, in *realInstance) {
	replicas := int32(2)
	labels := map[string]string{"app": "web"}
	_, err := in.client.AppsV1().Deployments("default").Create(t.Context(), &appsv1.Deployment{
		ObjectMeta: metav1.ObjectMeta{Name: "web"},
		Spec: appsv1.DeploymentSpec{
			Replicas: &replicas, Selector: &metav1.LabelSelector{MatchLabels: labels},
			Template: corev1.PodTemplateSpec{
				ObjectMeta: metav1.ObjectMeta{Labels: labels},
				Spec: corev1.PodSpec{Containers: []corev1.Container{{
					Name: "app", Image: in.image, Args: []string{"serve"},
					ReadinessProbe: &corev1.Probe{
						ProbeHandler:  corev1.ProbeHandler{HTTPGet: &corev1.HTTPGetAction{Path: "/healthz", Port: intstr.FromInt32(8080)}},
						PeriodSeconds: 1,
					},
				}}},
			},
		},
	}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	service, err := in.client.CoreV1().Services("default").Create(t.Context(), &corev1.Service{
		ObjectMeta: metav1.ObjectMeta{Name: "web"},
		Spec:       corev1.ServiceSpec{Selector: labels, Ports: []corev1.ServicePort{{Port: 80, TargetPort: intstr.FromInt32(8080)}}},
	}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	eventually(t, func(ctx context.Context) error { return available(ctx, in.instance, "web") })
	pods, err := in.client.CoreV1().Pods("default").List(t.Context(), metav1.ListOptions{LabelSelector: "app=web"})
	if err != nil || len(pods.Items) != 2 {
		t.Fatalf("%d pods, %v", len(pods.Items), err)
	}
	first := pods.Items[0].Name

	if out := in.run(t, "client", "get", "http://"+service.Spec.ClusterIP+"/from-a-pod"); !strings.HasPrefix(out, "hello from web-") {
		t.Errorf("the Service answers a pod with %q", out)
	}
	// A pod that is behind the Service reaches it too, also when it is chosen itself.
	seen := map[string]bool{}
	for range 40 {
		seen[in.exec(t, first, "/app", "get", "http://"+service.Spec.ClusterIP)] = true
	}
	if len(seen) != 2 {
		t.Errorf("the Service answered with %v, want both pods", seen)
	}
	if out := in.exec(t, first, "/app", "get", "http://"+pods.Items[1].Status.PodIP+":8080/direct"); out != "hello from "+pods.Items[1].Name+"\n" {
		t.Errorf("pod to pod: %q", out)
	}
	if out := in.forwarded(t, first, 8080); out != "hello from "+first+"\n" {
		t.Errorf("through a forwarded port: %q", out)
	}
	if out := in.logs(t, pods.Items[1].Name); !strings.HasPrefix(out, "listening\n") || !strings.Contains(out, "request for /direct\n") {
		t.Errorf("log of %s: %q", pods.Items[1].Name, out)
	}
}

func testRealFailures(t *testing.T, in *realInstance) {
	for _, test := range []struct {
		name   string
		args   []string
		change func(*corev1.PodSpec)
		check  func(corev1.PodStatus, corev1.ContainerStatus) bool
	}{
		{
			name: "crash-loop", args: []string{"fail"},
			check: func(_ corev1.PodStatus, c corev1.ContainerStatus) bool {
				last := c.LastTerminationState.Terminated
				return c.State.Waiting != nil && c.State.Waiting.Reason == "CrashLoopBackOff" && c.RestartCount > 0 && last != nil && last.ExitCode == 3
			},
		},
		{
			name: "image-pull", args: []string{"serve"},
			change: func(spec *corev1.PodSpec) {
				spec.Containers[0].Image = strings.TrimSuffix(in.image, ":1") + ":missing"
			},
			check: func(_ corev1.PodStatus, c corev1.ContainerStatus) bool {
				return c.State.Waiting != nil && c.State.Waiting.Reason == "ImagePullBackOff" && strings.Contains(c.State.Waiting.Message, "app:missing")
			},
		},
		{
			name: "memory", args: []string{"eat"},
			change: func(spec *corev1.PodSpec) {
				spec.RestartPolicy = corev1.RestartPolicyNever
				spec.Containers[0].Resources.Limits = corev1.ResourceList{corev1.ResourceMemory: resource.MustParse("48Mi")}
			},
			check: func(status corev1.PodStatus, c corev1.ContainerStatus) bool {
				return status.Phase == corev1.PodFailed && c.State.Terminated != nil && c.State.Terminated.Reason == "OOMKilled"
			},
		},
	} {
		t.Run(test.name, func(t *testing.T) {
			in.pod(t, test.name, test.change, test.args...)
			in.awaitPod(t, test.name, test.check)
		})
	}
}

// testRealVolume: both kinds of volumes that are directories, one named by the
// pod, one for a claim.
func testRealVolume(t *testing.T, in *realInstance) {
	dir := t.TempDir()
	kind := corev1.HostPathDirectory
	_, err := in.client.CoreV1().PersistentVolumeClaims("default").Create(t.Context(), &corev1.PersistentVolumeClaim{
		ObjectMeta: metav1.ObjectMeta{Name: "claim"},
		Spec: corev1.PersistentVolumeClaimSpec{
			AccessModes: []corev1.PersistentVolumeAccessMode{corev1.ReadWriteOnce},
			Resources:   corev1.VolumeResourceRequirements{Requests: corev1.ResourceList{corev1.ResourceStorage: resource.MustParse("1Gi")}},
		},
	}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	for range 2 {
		in.pod(t, "keeper", func(spec *corev1.PodSpec) {
			spec.Volumes = []corev1.Volume{
				{Name: "path", VolumeSource: corev1.VolumeSource{HostPath: &corev1.HostPathVolumeSource{Path: dir, Type: &kind}}},
				{Name: "claim", VolumeSource: corev1.VolumeSource{PersistentVolumeClaim: &corev1.PersistentVolumeClaimVolumeSource{ClaimName: "claim"}}},
			}
			spec.Containers[0].VolumeMounts = []corev1.VolumeMount{{Name: "path", MountPath: "/path"}, {Name: "claim", MountPath: "/claim"}}
		}, "serve", "/path", "/claim")
		in.awaitPod(t, "keeper", running)
		in.delete(t, "keeper")
	}
	claim, err := in.client.CoreV1().PersistentVolumeClaims("default").Get(t.Context(), "claim", metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	volume, err := in.client.CoreV1().PersistentVolumes().Get(t.Context(), claim.Spec.VolumeName, metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	for _, dir := range []string{dir, volume.Spec.HostPath.Path} {
		text, err := os.ReadFile(filepath.Join(dir, "starts"))
		if want := 2; err != nil || strings.Count(string(text), "start\n") != want {
			t.Errorf("%s: %q, %v; want %d starts", dir, text, err, want)
		}
	}
}

func (in *realInstance) delete(t *testing.T, pod string) {
	t.Helper()
	if err := in.client.CoreV1().Pods("default").Delete(t.Context(), pod, metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	eventually(t, func(ctx context.Context) error {
		if _, err := in.client.CoreV1().Pods("default").Get(ctx, pod, metav1.GetOptions{}); err == nil {
			return fmt.Errorf("pod %s is still there", pod)
		}
		return nil
	})
}

// testRealAPIServer: pods reach the API server by its Service. It takes nobody
// without a certificate that they trust, and they have none here: the answer is
// the proof.
func testRealAPIServer(t *testing.T, in *realInstance) {
	const want = "certificate signed by unknown authority"
	if out := in.run(t, "api-client", "get", "https://10.96.0.1/healthz"); !strings.Contains(out, want) {
		t.Errorf("the API server's Service answers a pod with %q, want %q", out, want)
	}
	server, _ := url.Parse(in.Server)
	if out := in.run(t, "api-client-direct", "get", "https://"+in.Node.Address+":"+server.Port()); !strings.Contains(out, want) {
		t.Errorf("the API server answers a pod with %q, want %q", out, want)
	}
	// What is not published is not reachable, although it listens on this machine.
	secret := httptest.NewServer(http.NotFoundHandler())
	defer secret.Close()
	_, port, _ := net.SplitHostPort(secret.Listener.Addr().String())
	if out := in.run(t, "curious", "get", "http://"+in.Node.Address+":"+port); !strings.Contains(out, "connection refused") {
		t.Errorf("a port of this machine answers a pod with %q", out)
	}
}

func testRealSpeed(t *testing.T, in *realInstance) {
	in.pod(t, "warm", nil, "serve")
	in.awaitPod(t, "warm", running) // its image is there now
	for i := range 5 {
		began := time.Now()
		name := fmt.Sprintf("speed-%d", i)
		in.pod(t, name, nil, "serve")
		in.awaitPod(t, name, running)
		t.Logf("from created to running: %v", time.Since(began).Round(10*time.Millisecond))
	}
}

// testRealRestart kills the first process of the node: the supervisor makes the
// node anew, and its pods come back.
func testRealRestart(t *testing.T, in *realInstance) {
	before := in.children()["node"]
	if err := syscall.Kill(before, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	eventually(t, func(context.Context) error {
		if now := in.children()["node"]; now == 0 || now == before {
			return errors.New("the node is not back")
		}
		return nil
	})
	in.awaitPod(t, "warm", func(status corev1.PodStatus, c corev1.ContainerStatus) bool {
		return status.Phase == corev1.PodRunning && c.Ready && c.RestartCount > 0
	})
	if out := in.run(t, "after-the-storm", "get", "http://"+in.Node.Address); !strings.Contains(out, "connection refused") {
		t.Errorf("port 80 of the node: %q", out)
	}
}

// proportionalSize is the memory of the program and all that descend from it.
func proportionalSize(t *testing.T, in *instance) int {
	t.Helper()
	total := 0
	for _, pid := range descendants(in.cmd.Process.Pid) {
		text, err := os.ReadFile(fmt.Sprintf("/proc/%d/smaps_rollup", pid))
		if err != nil {
			continue
		}
		for line := range strings.Lines(string(text)) {
			if fields := strings.Fields(line); len(fields) == 3 && fields[0] == "Pss:" {
				kilobytes, _ := strconv.Atoi(fields[1])
				total += kilobytes << 10
			}
		}
	}
	return total
}

// descendants returns pid and all processes that descend from it.
func descendants(pid int) []int {
	all := []int{pid}
	children, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/children", pid))
	for _, path := range children {
		text, _ := os.ReadFile(path)
		for _, field := range strings.Fields(string(text)) {
			child, _ := strconv.Atoi(field)
			all = append(all, descendants(child)...)
		}
	}
	return all
}

// traces returns what a node has outside of its namespaces, and its processes.
func traces(t *testing.T, pids []int) []string {
	t.Helper()
	var found []string
	for _, pid := range pids {
		if stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid)); err == nil && !strings.Contains(string(stat), ") Z ") {
			found = append(found, "process "+string(stat[:min(len(stat), 40)]))
		}
	}
	links, err := net.Interfaces()
	if err != nil {
		t.Fatal(err)
	}
	for _, link := range links {
		if strings.HasPrefix(link.Name, "keel-") {
			found = append(found, "device "+link.Name)
		}
	}
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(mounts)) {
		if strings.Contains(line, "keelson") || strings.Contains(line, "containerd") || strings.Contains(line, "kubelet") {
			found = append(found, "mount "+line)
		}
	}
	groups, _ := filepath.Glob("/sys/fs/cgroup/*/keelson-node-*")
	unified, _ := filepath.Glob("/sys/fs/cgroup/keelson-node-*")
	for _, group := range append(groups, unified...) {
		found = append(found, "cgroup "+group)
	}
	for _, path := range []string{"/run/containerd", "/var/lib/cni", "/var/lib/kubelet", "/var/lib/containerd", "/opt/containerd", "/var/log/pods", "/etc/cni"} {
		if _, err := os.Stat(path); err == nil {
			found = append(found, "path "+path)
		}
	}
	for _, setting := range []string{"net/ipv4/ip_forward", "vm/overcommit_memory", "kernel/panic", "kernel/panic_on_oops"} {
		text, _ := os.ReadFile(filepath.Join("/proc/sys", setting))
		found = append(found, setting+" = "+strings.TrimSpace(string(text)))
	}
	rules, err := exec.Command("iptables-save").Output()
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(rules)) {
		if strings.HasPrefix(line, "-A") || strings.HasPrefix(line, ":KUBE") {
			found = append(found, "rule "+line)
		}
	}
	return found
}

// TestRealNodeEnds ends a node in both ways: what it left on the machine is what
// was there before, its pods come back at the next start, and their containers
// had time to end in good order where there was time.
func TestRealNodeEnds(t *testing.T) {
	needRealNode(t)
	before := traces(t, nil) // also of nodes that other tests killed for good
	dir, volume := filepath.Join(t.TempDir(), "data"), t.TempDir()
	kind := corev1.HostPathDirectory
	in := launchReal(t, dir)
	in.pod(t, "survivor", func(spec *corev1.PodSpec) {
		spec.Volumes = []corev1.Volume{{Name: "path", VolumeSource: corev1.VolumeSource{HostPath: &corev1.HostPathVolumeSource{Path: volume, Type: &kind}}}}
		spec.Containers[0].VolumeMounts = []corev1.VolumeMount{{Name: "path", MountPath: "/path"}}
	}, "serve", "/path")
	in.awaitPod(t, "survivor", running)
	for i, signal := range []syscall.Signal{syscall.SIGKILL, syscall.SIGTERM} {
		pids := descendants(in.cmd.Process.Pid)
		if len(pids) < 11 {
			t.Errorf("processes %v: want the program, 5 parts, the node, containerd, kubelet, kube-proxy, shims, pause, app", pids)
		}
		if err := in.stop(signal); signal == syscall.SIGTERM && err != nil {
			t.Errorf("exit: %v", err)
		}
		eventually(t, func(context.Context) error {
			after := traces(t, pids)
			if signal == syscall.SIGKILL { // empty cgroups stay until the next start
				after = slices.DeleteFunc(after, func(trace string) bool {
					return strings.HasPrefix(trace, "cgroup ") && !slices.Contains(before, trace)
				})
			}
			if !slices.Equal(after, before) {
				return fmt.Errorf("after %v:\n%s\nbefore the node:\n%s", signal, strings.Join(after, "\n"), strings.Join(before, "\n"))
			}
			return nil
		})
		if signal == syscall.SIGTERM {
			break
		}
		in = launchReal(t, dir)
		in.awaitPod(t, "survivor", func(status corev1.PodStatus, c corev1.ContainerStatus) bool {
			return status.Phase == corev1.PodRunning && c.Ready && int(c.RestartCount) == i+1
		})
	}
	text, err := os.ReadFile(filepath.Join(volume, "starts"))
	if want := "start\nstart\norderly end\n"; err != nil || string(text) != want {
		t.Errorf("the container wrote %q, %v; want %q", text, err, want)
	}
	// The same cluster with simulated nodes: the real one is gone from it.
	simulated := launch(t, dir)
	nodes, err := simulated.client.CoreV1().Nodes().List(t.Context(), metav1.ListOptions{})
	if err != nil || len(nodes.Items) != 1 || nodes.Items[0].Name != "node-1" {
		t.Errorf("nodes %v, %v", nodes, err)
	}
}

// TestRealNodeOutbound: pods reach a network behind this machine only if that is
// asked for, and the machine forwards only that long, also after a kill.
func TestRealNodeOutbound(t *testing.T) {
	needRealNode(t)
	server := outside(t)
	before := strings.Join(traces(t, nil), "\n")
	dir := filepath.Join(t.TempDir(), "data")

	in := launchReal(t, dir, "--outbound")
	if out := in.run(t, "out", "get", server); out != "you are 203.0.113.1\n" {
		t.Errorf("the outside answers %q", out)
	}
	if err := in.stop(syscall.SIGKILL); err == nil {
		t.Error("killed, but exit status 0")
	}
	in = launchReal(t, dir)
	if out := in.run(t, "in", "get", server); strings.Contains(out, "you are") {
		t.Errorf("without --outbound, the outside answers %q", out)
	}
	if err := in.stop(syscall.SIGTERM); err != nil {
		t.Errorf("exit: %v", err)
	}
	if after := strings.Join(traces(t, nil), "\n"); after != before {
		t.Errorf("left behind:\n%s\nbefore:\n%s", after, before)
	}
}

// outside makes a network that only this machine knows, 203.0.113.0/24, with an
// HTTP server that says who asks, and returns its URL.
func outside(t *testing.T) string {
	t.Helper()
	listening := make(chan error)
	var listener net.Listener
	go func() {
		runtime.LockOSThread() // and never unlocked: the thread's network ends with it and the listener
		here, err := netns.Get()
		if err != nil {
			listening <- err
			return
		}
		host, err := netlink.NewHandleAt(here)
		if err != nil {
			listening <- err
			return
		}
		there, err := netns.New()
		if err != nil {
			listening <- err
			return
		}
		address := func(text string) *netlink.Addr {
			a, _ := netlink.ParseAddr(text)
			return a
		}
		err = host.LinkAdd(&netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: "outside0"}, PeerName: "outside1", PeerNamespace: netlink.NsFd(there)})
		if err != nil {
			listening <- err
			return
		}
		near, err := host.LinkByName("outside0")
		if err == nil {
			err = errors.Join(host.AddrAdd(near, address("203.0.113.1/24")), host.LinkSetUp(near))
		}
		if err == nil {
			var far netlink.Link
			if far, err = netlink.LinkByName("outside1"); err == nil {
				err = errors.Join(netlink.AddrAdd(far, address("203.0.113.2/24")), netlink.LinkSetUp(far))
			}
		}
		if err == nil {
			listener, err = net.Listen("tcp", "203.0.113.2:8080")
		}
		t.Cleanup(func() { _ = host.LinkDel(near) })
		listening <- err
	}()
	if err := <-listening; err != nil {
		t.Fatal(err)
	}
	server := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		who, _, _ := net.SplitHostPort(r.RemoteAddr)
		fmt.Fprintln(w, "you are", who)
	})}
	go func() { _ = server.Serve(listener) }()
	t.Cleanup(func() { server.Close() })
	return "http://203.0.113.2:8080"
}

// TestTwoRealNodes runs two at once: neither sees anything of the other.
func TestTwoRealNodes(t *testing.T) {
	needRealNode(t)
	one, two := launchReal(t, filepath.Join(t.TempDir(), "one")), launchReal(t, filepath.Join(t.TempDir(), "two"))
	if one.Node.Address == two.Node.Address {
		t.Fatalf("both have the address %s", one.Node.Address)
	}
	for _, in := range []*realInstance{one, two} {
		in.pod(t, "web", nil, "serve")
	}
	for _, in := range []*realInstance{one, two} {
		in.awaitPod(t, "web", running)
	}
	if err := one.stop(syscall.SIGTERM); err != nil {
		t.Errorf("exit: %v", err)
	}
	if out := two.exec(t, "web", "/app", "get", "http://127.0.0.1:8080"); out != "hello from web\n" {
		t.Errorf("the second node's pod answers %q", out)
	}
}

func TestCheckSaysWhatIsMissing(t *testing.T) {
	// No program is to be found in the directories that this names, but the
	// machine's own are looked at, too, as root's PATH may lack them.
	out, err := exec.Command(program, "run", "--node", "real", "--check").CombinedOutput()
	lines := strings.Split(strings.TrimSpace(string(out)), "\n")
	missing := 0
	for _, line := range lines {
		if strings.HasPrefix(line, "missing ") {
			missing++
			if !strings.Contains(line, "; ") {
				t.Errorf("%q does not say what to do", line)
			}
		} else if !strings.HasPrefix(line, "ok ") && !strings.HasPrefix(line, "keelson-cluster: ") {
			t.Errorf("unexpected line %q", line)
		}
	}
	if (err != nil) != (missing > 0) {
		t.Errorf("%v with %d things missing:\n%s", err, missing, out)
	}
}

// TestRunWithoutWhatANodeNeeds is run as a user who is not root: by root itself,
// who can become one.
func TestRunWithoutWhatANodeNeeds(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("only root can become somebody else for a moment")
	}
	dir, err := os.MkdirTemp("/tmp", "keelson-nobody")
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(dir)
	if err := errors.Join(os.Chmod(dir, 0o777), os.Chmod(filepath.Dir(program), 0o755)); err != nil {
		t.Fatal(err)
	}
	for _, args := range [][]string{{"--check"}, {"--data", filepath.Join(dir, "data")}} {
		cmd := exec.Command(program, append([]string{"run", "--node", "real"}, args...)...)
		cmd.Dir = dir
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}
		out, err := cmd.CombinedOutput()
		for _, want := range []string{"this machine cannot run a real node", "missing  root: this is user 65534"} {
			if err == nil || !strings.Contains(string(out), want) {
				t.Errorf("%v: %v, %s\nwant %q", args, err, out, want)
			}
		}
	}
}
