package main

import (
	"cmp"
	"context"
	"crypto/hkdf"
	"crypto/sha256"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net/http"
	"os"
	"path/filepath"
	"sync/atomic"
	"time"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"sigs.k8s.io/controller-runtime/pkg/client"

	keelsonv1 "keelson.dev/keelson/api/v1alpha1"
	"keelson.dev/keelson/internal/ci"
	"keelson.dev/keelson/internal/pipeline"
	"keelson.dev/keelson/internal/pipeline/executor"
	"keelson.dev/keelson/internal/pipeline/executor/pod"
	"keelson.dev/keelson/internal/store"
)

// What runs jobs, as a Project's spec.executor.type has it.
const (
	runnerShell = "shell"
	runnerPod   = "pod"
)

// jobsNamespace is where the Pods of jobs run whose repository no Project names.
const jobsNamespace = "keelson-jobs"

// helperRepository has the image with which the Pods of jobs begin. No job pushes there.
const helperRepository = "keelson/helper"

// podOptions are what the Pods of jobs are made with.
type podOptions struct {
	url       string // where Pods reach the server
	image     string // the helper's
	jobImage  string // of jobs for which nobody names one; empty: they fail
	namespace string // of jobs whose repository no Project names
	config    *rest.Config
	key       []byte // of the store
	log       *slog.Logger
	registry  string                                                      // our own, from which nodes pull everything; empty: there is none
	reads     func(ctx context.Context, project, repository string) error // whether jobs of a project may have an image of it
}

// podJobs runs jobs as Pods.
type podJobs struct {
	*pod.Executor
	stop context.CancelFunc
	done chan struct{}
}

func startPods(o podOptions, db *store.DB) (*podJobs, error) {
	clientset, err := kubernetes.NewForConfig(o.config)
	if err != nil {
		return nil, fmt.Errorf("run jobs as Pods: %w", err)
	}
	key, err := hkdf.Key(sha256.New, o.key, nil, "keelson pods of jobs", sha256.Size)
	if err != nil {
		return nil, fmt.Errorf("run jobs as Pods: %w", err)
	}
	x, err := pod.New(pod.Options{
		Client: clientset, URL: o.url, Image: o.image, Key: key, Namespace: o.namespace, DefaultImage: o.jobImage,
		Runner: executor.Runner{Version: version}, Log: o.log,
		Over: jobOver(db), Registry: o.registry,
		AllowImage: func(ctx context.Context, job executor.Job, repository string) error {
			return o.reads(ctx, job.Variables.Predefined("CI_PROJECT_PATH"), repository)
		},
	})
	if err != nil {
		return nil, err
	}
	ctx, stop := context.WithCancel(context.Background())
	p := &podJobs{Executor: x, stop: stop, done: make(chan struct{})}
	go func() {
		defer close(p.done)
		x.Serve(ctx)
	}()
	return p, nil
}

// jobOver tells whether a job is over; one that nobody knows is.
func jobOver(db *store.DB) func(ctx context.Context, id int64) (bool, error) {
	return func(ctx context.Context, id int64) (bool, error) {
		j, err := db.Job(ctx, id)
		if errors.Is(err, store.ErrNotFound) {
			return true, nil
		}
		return !j.Finished.IsZero(), err
	}
}

// Close implements [io.Closer].
func (p *podJobs) Close() error {
	p.stop()
	<-p.done
	return nil
}

// lateHandler answers once there is who does.
type lateHandler struct{ handler atomic.Pointer[http.Handler] }

func (l *lateHandler) set(h http.Handler) { l.handler.Store(&h) }

// ServeHTTP implements [http.Handler].
func (l *lateHandler) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if h := l.handler.Load(); h != nil {
		(*h).ServeHTTP(w, r)
		return
	}
	http.Error(w, "no jobs run as Pods here, or not yet", http.StatusServiceUnavailable)
}

// refusing fails every job, and says why.
type refusing struct{ why string }

// Run implements [executor.Executor].
func (r refusing) Run(_ context.Context, job executor.Job, log executor.Log) executor.Result {
	trace, done := executor.OpenTrace(log, job)
	defer done()
	result := executor.Failed(pipeline.ConfigurationError, "%s", r.why)
	trace.Conclude(result)
	return result
}

// runners are what may run the jobs of a server.
type runners struct {
	shell, pods executor.Executor // nil: there is none
	usual       string            // for projects that do not say
	noPods      string            // why there is none, and what to do
	noShell     string
}

// of gives what runs a project's jobs.
func (r *runners) of(p ci.Project) executor.Executor {
	if cmp.Or(p.Runner, r.usual) == runnerPod {
		if r.pods == nil {
			return refusing{r.noPods}
		}
		return r.pods
	}
	if r.shell == nil {
		return refusing{r.noShell}
	}
	return r.shell
}

// runnerName is what a Project says about what runs its jobs.
func runnerName(p keelsonv1.Project) string {
	if x := p.Spec.Executor; x != nil {
		return x.Type
	}
	return ""
}

// helperTimeout bounds making and pushing the helper's image.
const helperTimeout = 2 * time.Minute

// pushHelper sees to it that the registry has the helper's image, which is made of this very program, and gives its reference as the node
// knows it.
func (j *jobServer) pushHelper(ctx context.Context, address string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, helperTimeout)
	defer cancel()
	program, err := os.Executable()
	if err == nil {
		program, err = filepath.EvalSymlinks(program)
	}
	if err != nil {
		return "", fmt.Errorf("find this program: %w", err)
	}
	tag, err := pod.PushHelper(ctx, j.listener.Addr().String()+"/"+helperRepository, program, remote.WithAuth(&authn.Basic{Username: "keelson", Password: j.token}))
	if err != nil {
		return "", err
	}
	return address + "/" + helperRepository + ":" + tag, nil
}

// podSecurity has the cluster refuse Pods that could take over their node. Those of jobs get by with less; others that a job makes may not.
var podSecurity = map[string]string{"pod-security.kubernetes.io/enforce": "baseline"}

// makeNamespace makes a namespace for the Pods of jobs where there is none of its name; one that is there stays as it is.
func makeNamespace(ctx context.Context, c client.Client, name string) error {
	err := c.Create(ctx, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: name, Labels: maps.Clone(podSecurity)}})
	if client.IgnoreAlreadyExists(err) != nil {
		return fmt.Errorf("make the namespace %s: %w", name, err)
	}
	return nil
}
