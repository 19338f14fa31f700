// Package pod runs jobs in a cluster: one Pod per job, in the namespace of the job's project.
//
//	tag, err := pod.PushHelper(ctx, "127.0.0.1:5000/keelson/agent", program)
//	x, err := pod.New(pod.Options{Client: clientset, URL: "http://172.31.0.1:7071", Image: "172.31.0.1:5000/keelson/agent:" + tag, Key: key, Namespace: "ci"})
//	go x.Serve(ctx)                               // watches the Pods, and removes what jobs that are over have left
//	mux.Handle(pod.Path, x.Handler())             // on a listener that Pods reach as URL
//	result := x.Run(ctx, job, trace)
//
// # What is where
//
// The server makes a job's directory ready (clone, caches, artifacts) and keeps what the job leaves, as for any executor. The Pod has three
// kinds of containers: the job's, with its image, whose first process is this program (package agent); those of its services; and a helper
// that copies the program to where the job's container finds it, and ends. The agent fetches the directory over HTTP, runs the scripts,
// sends the log, and sends back those files that artifacts, reports and caches want.
//
// The helper is a container beside the others, and not one before them: the kubelet notices only once a second that a container has ended,
// so one before the others costs a job half a second or more. The job's container waits for its file instead, a few milliseconds.
//
// # What survives
//
// The agent knows how far the job is, and the Pod is found by its name. So a job goes on while Keelson is not there, and a Run with Resume
// goes on where the agent is: the log at the byte that was kept last, the script while it runs. The Pod stays until the result of its job is
// kept (executor.Job.Kept), so a job that has ended can be taken up too. What a process has kept in memory only is
// made again: the directory is prepared once more, without a word in the log.
//
// # Secrets
//
// What a job is given is fetched by its agent with a token, and never written to the cluster. The token is in a Secret which the Pod owns.
// It is made of Options.Key and the job's number, so that another process knows it, and opens that job only, while it runs. Variables of
// services are in the Secret too: only the kubelet can give them to an image that knows nothing of Keelson.
//
// # Bounds
//
// A Pod ends with its job, also where the agent does not answer any more; one that nobody knows is deleted when Keelson starts. Everything
// that an agent sends is bounded in size and time, and what it leaves is extracted as an archive of strangers.
//
//	spec.go       the Pod of a job: decided, then made
//	reasons.go    what the status of a Pod says about its job
//	watch.go      one watch for all Pods
//	job.go        one job, from its first line to its last
//	handler.go    what agents ask
package pod

import (
	"cmp"
	"context"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"net/url"
	"os"
	"strconv"
	"strings"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/client-go/kubernetes"

	"keelson.dev/keelson/internal/pipeline/artifact"
	"keelson.dev/keelson/internal/pipeline/executor"
)

// Defaults of [Options].
const (
	DefaultGrace   = 10 * time.Second
	DefaultPending = 10 * time.Minute
	DefaultSync    = 2 * time.Minute
	DefaultDisk    = 20 << 30
)

// Options are how an [Executor] works. Client, URL, Image and Key must be set.
type Options struct {
	Client kubernetes.Interface
	// URL is where Pods reach the handler: scheme, host and port. CA are the certificates to trust there, in PEM; empty: those of the image.
	URL string
	CA  []byte
	// Image is the reference of the helper's image, as nodes pull it; [PushHelper] makes it.
	Image string
	// Key makes the tokens of jobs, and tells what is ours in the cluster. Another process with this key goes on with the jobs of this one.
	Key []byte
	// Namespace is where jobs run whose project names none; empty: default.
	Namespace string
	// DefaultImage is that of jobs for which neither they nor their project name one; empty: they fail.
	DefaultImage string
	// PullSecrets are those of all Pods.
	PullSecrets []string
	Runner      executor.Runner
	// Grace is how long a script that was told to end may take before it is killed; 0: DefaultGrace.
	Grace time.Duration
	// Pending is how long a Pod may wait for a node; 0: DefaultPending.
	Pending time.Duration
	// Sync is how long a job waits until the Pods of the cluster are known; 0: DefaultSync.
	Sync time.Duration
	// Disk is how much each container may write, and how much a job's directory may hold, in bytes; 0: DefaultDisk.
	Disk int64
	// Registry is the HOST:PORT of our own registry, from which nodes pull everything; empty: there is none. Its images are always pulled,
	// and AllowImage tells whether a job may have one that it names; nil: it may.
	Registry   string
	AllowImage func(ctx context.Context, job executor.Job, repository string) error
	// Limits bound what a job's directory holds, both ways.
	Limits artifact.Limits
	// Over tells whether a job is over, so that what is left of it can go; nil: nothing is known, and what no job has taken up stays.
	Over func(ctx context.Context, job int64) (bool, error)
	Log  *slog.Logger
}

// instance names whose Pods they are.
func (o Options) instance() string { return hex.EncodeToString(o.digest("instance"))[:10] }

func (o Options) disk() int64 { return cmp.Or(o.Disk, DefaultDisk) }

// digest makes something of the key that tells nothing of it.
func (o Options) digest(of string) []byte {
	mac := hmac.New(sha256.New, o.Key)
	mac.Write([]byte("keelson ci pod/" + of))
	return mac.Sum(nil)
}

// token is that of a job's agent.
func (o Options) token(job int64) string {
	return "keelson-pod-" + hex.EncodeToString(o.digest("job/"+strconv.FormatInt(job, 10)))
}

// Executor runs jobs in Pods.
type Executor struct {
	o      Options
	name   string // of this process, for agents
	synced chan struct{}
	ended  chan struct{}  // closed when Pods are not watched any more
	ends   sync.WaitGroup // Pods that are being deleted, or wait for it
	// uploads are the jobs that send what they leave.
	uploads *slots

	mu     sync.Mutex
	jobs   map[int64]*job
	pods   map[string]*corev1.Pod // as they were seen last, by namespace/name
	listed error                  // of the last list of Pods
}

// New makes an executor. Jobs wait until [Executor.Serve] runs.
func New(o Options) (*Executor, error) {
	u, err := url.Parse(o.URL)
	switch {
	case o.Client == nil || o.Image == "":
		return nil, errors.New("pods for jobs: a client and the helper's image are needed")
	case len(o.Key) < 16:
		return nil, errors.New("pods for jobs: a key of 16 bytes or more is needed")
	case err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https":
		return nil, fmt.Errorf("pods for jobs: %q is no URL such as http://172.31.0.1:7071", o.URL)
	}
	o.URL = strings.TrimSuffix(o.URL, "/")
	if o.Grace == 0 {
		o.Grace = DefaultGrace
	}
	if o.Pending == 0 {
		o.Pending = DefaultPending
	}
	if o.Sync == 0 {
		o.Sync = DefaultSync
	}
	if o.Namespace == "" {
		o.Namespace = "default"
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.Runner.Description == "" {
		o.Runner.Description, _ = os.Hostname()
	}
	o.Runner.Disposable = true
	return &Executor{o: o, name: rand.Text(), synced: make(chan struct{}), ended: make(chan struct{}), uploads: newSlots(), jobs: map[int64]*job{}, pods: map[string]*corev1.Pod{}}, nil
}

// Survives implements [executor.Survivor].
func (x *Executor) Survives() bool { return true }

// Run runs a job; see [executor.Executor].
func (x *Executor) Run(ctx context.Context, work executor.Job, log executor.Log) (result executor.Result) {
	start := time.Now()
	trace, done := executor.OpenTrace(log, work)
	defer done()
	if work.ID == 0 {
		work.ID = x.anonymous()
	}
	j := newJob(x, work, trace)
	defer func() {
		result.Message = trace.Redacted(result.Message)
		result.Duration = time.Since(start)
		if !j.left() {
			trace.Conclude(result)
		}
	}()
	if err := j.begin(ctx, start); err != nil {
		return executor.FailedWith(err)
	}
	if !x.add(j) {
		return executor.FailedWith(fmt.Errorf("job %d runs already", work.ID))
	}
	defer j.end()
	return j.run(ctx)
}

// anonymous numbers a job that has no number: from 1<<56 on, where no store numbers its jobs, so that it is nobody else's.
func (x *Executor) anonymous() int64 {
	var b [7]byte
	_, _ = rand.Read(b[:]) // never fails
	n := int64(0)
	for _, c := range b {
		n = n<<8 | int64(c)
	}
	return n | 1<<56
}

func (x *Executor) add(j *job) bool {
	x.mu.Lock()
	defer x.mu.Unlock()
	if x.jobs[j.ID] != nil {
		return false
	}
	x.jobs[j.ID] = j
	if pod := x.pods[j.key()]; pod != nil {
		j.see(pod)
	}
	return true
}

func (x *Executor) remove(j *job) {
	x.mu.Lock()
	defer x.mu.Unlock()
	delete(x.jobs, j.ID)
}
