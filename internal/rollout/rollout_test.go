package rollout

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"log/slog"
	"net"
	"net/http/httptest"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/crane"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/rest"

	"keelson.dev/keelson/internal/kube"
	"keelson.dev/keelson/internal/kube/proxy"
	"keelson.dev/keelson/internal/registry"
	"keelson.dev/keelson/test/testcluster"
)

// cluster is shared by the package's tests.
var cluster *testcluster.Cluster

func TestMain(m *testing.M) {
	flag.Parse()
	os.Exit(testcluster.Main(m, &cluster))
}

// limit bounds every wait.
const limit = 90 * time.Second

// world is one test's job: what it writes in a namespace of its own, and its log.
type job struct {
	*testing.T
	cluster *kube.Cluster
	ns      string
	work    Work

	mu  sync.Mutex
	log []string
}

func newJob(t *testing.T, config *rest.Config) *job {
	t.Helper()
	c, err := kube.NewCluster(config)
	if err != nil {
		t.Fatal(err)
	}
	j := &job{T: t, cluster: c}
	j.ns = j.write("create", "", `{apiVersion: v1, kind: Namespace, metadata: {generateName: follow-}}`).GetName()
	j.work = Work{Began: time.Now()}
	t.Cleanup(func() {
		_ = c.Self().Dynamic.Resource(schema.GroupVersionResource{Version: "v1", Resource: "namespaces"}).Delete(context.Background(), j.ns, metav1.DeleteOptions{})
	})
	return j
}

// write creates, updates (apply) or deletes an object and remembers that, as the proxy of jobs does.
func (j *job) write(verb, subresource, text string) *unstructured.Unstructured {
	j.Helper()
	u := object(j.T, text)
	m, err := j.cluster.Mapper().RESTMapping(u.GroupVersionKind().GroupKind(), u.GroupVersionKind().Version)
	if err != nil {
		j.Fatal(err)
	}
	if m.Scope.Name() == "namespace" {
		u.SetNamespace(j.ns)
	}
	r, err := j.cluster.Self().Resource(u.GroupVersionKind(), u.GetNamespace())
	if err != nil {
		j.Fatal(err)
	}
	out := u
	switch verb {
	case "create":
		out, err = r.Create(j.Context(), u, metav1.CreateOptions{})
	case "patch":
		out, err = r.Apply(j.Context(), u.GetName(), u, metav1.ApplyOptions{FieldManager: "job", Force: true})
	case "delete":
		err = r.Delete(j.Context(), u.GetName(), metav1.DeleteOptions{})
	}
	if err != nil {
		j.Fatal(err)
	}
	j.work.Wrote = append(j.work.Wrote, proxy.Written{
		Verb: verb, Group: m.Resource.Group, Version: m.Resource.Version, Resource: m.Resource.Resource, Subresource: subresource,
		Namespace: out.GetNamespace(), Name: out.GetName(), Kind: out.GetKind(), UID: out.GetUID(), ResourceVersion: out.GetResourceVersion(),
	})
	return out
}

// follow follows what was written, and forgets it.
func (j *job) follow(timeout time.Duration) error {
	j.Helper()
	ctx, cancel := context.WithTimeout(j.Context(), limit)
	defer cancel()
	j.log = nil
	err := Follow(ctx, Options{Cluster: j.cluster, Timeout: timeout}, j.work, j)
	j.work = Work{Began: time.Now()}
	j.Logf("%v\n%s", err, j.said())
	return err
}

func (j *job) said() string {
	j.mu.Lock()
	defer j.mu.Unlock()
	return strings.Join(j.log, "\n")
}

func (j *job) line(kind, format string, args []any) {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.log = append(j.log, kind+fmt.Sprintf(format, args...))
}

func (j *job) Printf(format string, args ...any)   { j.line("", format, args) }
func (j *job) Noticef(format string, args ...any)  { j.line("+ ", format, args) }
func (j *job) Warningf(format string, args ...any) { j.line("! ", format, args) }
func (j *job) Errorf(format string, args ...any)   { j.line("- ", format, args) }

// Section implements [Log].
func (j *job) Section(name, title string, _ bool) func() {
	j.line("", "[%s] %s", []any{name, title})
	return func() { j.line("", "[end]", nil) }
}

// has tells whether the log has all of some texts, in their order.
func (j *job) has(texts ...string) {
	j.Helper()
	rest := j.said()
	for _, text := range texts {
		_, after, ok := strings.Cut(rest, text)
		if !ok {
			j.T.Errorf("the log lacks %q (in this order)", text)
			return
		}
		rest = after
	}
}

func (j *job) fails(err error, text string) {
	j.Helper()
	if !errors.Is(err, ErrNotHealthy) || !strings.Contains(err.Error(), text) {
		j.T.Errorf("error %v, want one that says %q", err, text)
	}
}

func (j *job) deployment(image, simulate string) string {
	annotations := ""
	if simulate != "" {
		annotations = ", annotations: {keelson.dev/simulate: " + simulate + "}"
	}
	return fmt.Sprintf(`
apiVersion: apps/v1
kind: Deployment
metadata: {name: shop}
spec:
  replicas: 2
  selector: {matchLabels: {app: shop}}
  template:
    metadata: {labels: {app: shop}%s}
    spec: {terminationGracePeriodSeconds: 0, containers: [{name: web, image: %q}]}
`, annotations, image)
}

// TestFollow follows a Deployment from version to version: one that works, one whose image cannot be pulled, one that gets stuck, one that
// mends it, and its end.
func TestFollow(t *testing.T) {
	j := newJob(t, cluster.Config)
	j.write("patch", "", `{apiVersion: v1, kind: ConfigMap, metadata: {name: shop}, data: {a: b}}`)
	j.write("patch", "", `{apiVersion: v1, kind: Service, metadata: {name: shop}, spec: {selector: {app: shop}, ports: [{port: 80}]}}`)
	j.write("patch", "", j.deployment("shop:1", ""))
	if err := j.follow(time.Minute); err != nil {
		t.Fatal(err)
	}
	j.has("[follow_rollout] Following the rollout", "+ deployment/shop is healthy", "1 more object: nothing to wait for", "[end]")

	j.write("patch", "", j.deployment("shop:2", "ImagePullBackOff"))
	err := j.follow(time.Minute)
	j.fails(err, "deployment/shop in namespace "+j.ns+" is not healthy: Pod shop-")
	j.fails(err, "container web: ImagePullBackOff: ")
	j.has("deployment/shop: ", "- deployment/shop in namespace "+j.ns+" is not healthy: Pod shop-", "  Pod shop-", "events of deployment/shop:", "Normal ScalingReplicaSet", "What to do: see to it that the image is there")

	// The old Pods still run: that is not taken for the new version.
	j.write("patch", "", j.deployment("shop:3", "Pending"))
	j.fails(j.follow(3*time.Second), "deployment/shop in namespace "+j.ns+" is not healthy after 3s: 1 of 2 replicas updated")

	j.write("patch", "", j.deployment("shop:4", "CrashLoopBackOff"))
	err = j.follow(80 * time.Second)
	j.fails(err, "container web: CrashLoopBackOff")
	j.has("Warning BackOff", "no log of container web")

	j.write("patch", "", j.deployment("shop:5", ""))
	if err := j.follow(time.Minute); err != nil {
		t.Fatal(err)
	}
	j.has("+ deployment/shop is healthy")

	j.write("delete", "", j.deployment("shop:5", ""))
	if err := j.follow(time.Minute); err != nil {
		t.Fatal(err)
	}
	j.has("deployment/shop is gone")

	// What somebody else deletes is not healthy.
	j.write("patch", "", j.deployment("shop:6", ""))
	wrote := j.work.Wrote
	j.write("delete", "", j.deployment("shop:6", ""))
	j.work.Wrote = wrote
	j.fails(j.follow(time.Minute), "it is not there any more")
}

// TestFollowOthers follows several kinds at once, and what is only looked at.
func TestFollowOthers(t *testing.T) {
	j := newJob(t, cluster.Config)
	template := `{metadata: {labels: {app: x}}, spec: {containers: [{name: x, image: x}]}}`
	j.write("patch", "", `{apiVersion: apps/v1, kind: StatefulSet, metadata: {name: db}, spec: {replicas: 2, selector: {matchLabels: {app: x}}, template: `+template+`}}`)
	j.write("patch", "", `{apiVersion: apps/v1, kind: DaemonSet, metadata: {name: agent}, spec: {selector: {matchLabels: {app: x}}, template: `+template+`}}`)
	j.write("create", "", `{apiVersion: batch/v1, kind: Job, metadata: {name: migrate}, spec: {template: {spec: {restartPolicy: Never, containers: [{name: x, image: x}]}}}}`)
	j.write("create", "", `{apiVersion: v1, kind: Pod, metadata: {name: one}, spec: {containers: [{name: x, image: x}]}}`)
	j.write("create", "", `{apiVersion: batch/v1, kind: CronJob, metadata: {name: nightly}, spec: {schedule: "0 0 1 1 *", jobTemplate: {spec: {template: {spec: {restartPolicy: Never, containers: [{name: x, image: x}]}}}}}}`)
	j.write("create", "", `{apiVersion: v1, kind: Secret, metadata: {name: s}, stringData: {a: hunter2hunter2}}`)
	if err := j.follow(time.Minute); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"statefulset/db", "daemonset/agent", "job/migrate", "pod/one"} {
		j.has(name + " is healthy")
	}
	if strings.Contains(j.said(), "secret") || strings.Contains(j.said(), "hunter2") {
		t.Error("a Secret is mentioned")
	}

	j.write("create", "", `{apiVersion: batch/v1, kind: Job, metadata: {name: broken}, spec: {backoffLimit: 0, template: {metadata: {annotations: {keelson.dev/simulate: CrashLoopBackOff}}, spec: {restartPolicy: Never, containers: [{name: x, image: x}]}}}}`)
	j.fails(j.follow(time.Minute), "job/broken in namespace "+j.ns+" is not healthy: the Job failed")

	// A Pod that nobody can place is no failure at once, but it is not healthy.
	j.write("create", "", `{apiVersion: v1, kind: Pod, metadata: {name: big}, spec: {containers: [{name: x, image: x, resources: {requests: {cpu: 2000}}}]}}`)
	j.fails(j.follow(3*time.Second), "pod/big in namespace "+j.ns+" is not healthy after 3s")
	j.has("Unschedulable", "Warning FailedScheduling")

	if err := j.follow(time.Minute); err != nil { // a job that wrote nothing
		t.Fatal(err)
	}
	j.has("There is nothing to follow")
}

// TestFollowEnds: whoever cancels a job does not wait for its rollout.
func TestFollowEnds(t *testing.T) {
	j := newJob(t, cluster.Config)
	j.write("patch", "", j.deployment("shop:1", "Pending"))
	ctx, cancel := context.WithCancelCause(t.Context())
	ended := make(chan error)
	go func() { ended <- Follow(ctx, Options{Cluster: j.cluster}, j.work, j) }()
	for deadline := time.Now().Add(limit); !strings.Contains(j.said(), "deployment/shop: "); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("nothing is said")
		}
	}
	cancel(errors.New("canceled"))
	if err := <-ended; !errors.Is(err, context.Canceled) || errors.Is(err, ErrNotHealthy) {
		t.Errorf("error %v", err)
	}
}

// TestRealNode follows what a real node makes of an image that is not there, and of a program that crashes: with what it said last.
func TestRealNode(t *testing.T) {
	r, err := registry.Open(registry.Options{Dir: t.TempDir(), MaxBlob: 64 << 20, MaxTotal: 64 << 20, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	server := httptest.NewServer(r)
	t.Cleanup(server.Close)
	_, port, err := net.SplitHostPort(server.Listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	real := testcluster.StartReal(t, "--registry", port)
	image := net.JoinHostPort(real.Node, port) + "/shop/crash:1"
	if err := crane.Push(testcluster.Image(t, "testdata/crash"), image, crane.Insecure); err != nil {
		t.Fatal(err)
	}
	j := newJob(t, real.Config)
	j.write("patch", "", j.deployment(image, ""))
	err = j.follow(limit)
	j.fails(err, "container web: CrashLoopBackOff")
	j.has("Pod shop-", "exit code 3", "Warning BackOff", "the last 20 lines of container web:", "    | line 11", "    | line 29", "    | [31mcannot open the database[0m at postgres://", "What to do: ")
	if said := j.said(); strings.Contains(said, "hunter2") || strings.Contains(said, "line 10\n") || strings.ContainsRune(said, '\x1b') {
		t.Errorf("the log has too much")
	}

	j.write("patch", "", j.deployment(net.JoinHostPort(real.Node, port)+"/shop/none:1", ""))
	err = j.follow(limit)
	j.fails(err, "container web: ImagePullBackOff")
	j.has("Pod shop-", "Warning Failed", "/shop/none:1")
	if slices.ContainsFunc(j.log, func(l string) bool { return strings.Contains(l, "cannot open the database") }) {
		t.Error("the log tells of Pods of the version before")
	}
}
