package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"sync/atomic"
	"time"

	"k8s.io/client-go/rest"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"keelson.dev/keelson/internal/delivery"
	"keelson.dev/keelson/internal/githost"
	"keelson.dev/keelson/internal/identity"
	"keelson.dev/keelson/internal/web"
)

// defaultPort is where a first start listens unless told otherwise.
const defaultPort = 7070

// Daemon is one running instance: the Git host, the dashboard, the cluster (unless it is the user's own) and the
// controllers, on one data directory and one loopback port.
//
//	d := &Daemon{Data: dir, Port: 0, Logger: log, Progress: func(p progress) { … }}
//	defer d.Close()
//	err := d.Run(ctx)        // until ctx ends, or a part of it fails
//
// Its parts start in the order in which they are fields; Close stops them the other way round.
type Daemon struct {
	Data       string        // the data directory
	Port       int           // 0: a free one; negative: that of the last run, at first defaultPort
	Kubeconfig string        // the user's cluster; empty: that of the last run, at first the embedded one
	Nodes      int           // of the embedded cluster, where they are simulated
	Node       string        // real or simulated; empty: that of the last run, at first simulated
	Outbound   bool          // with Node: its pods reach what this machine reaches
	Runner     string        // what runs jobs of projects that do not say, shell or pod; empty: that of the last run, at first shell
	JobImage   string        // of jobs that run as Pods and name none; empty: that of the last run
	Sample     bool          // seed the sample, in the user's cluster or on a real node too; simulated nodes always have it
	Timeout    time.Duration // how long to wait for everything to be healthy before saying that it is not
	Jobs       int           // of pipelines, at a time; 0: as many as the machine takes
	LogLimit   int64         // bytes of a job's log; 0: 4 MiB
	Keep       retention     // how long what is kept in the database stays; what is empty is as in the last run
	Pprof      bool          // serve profiles of the process beside the dashboard
	Share      share         // of the cluster's objects
	Policy     delivery.Policy
	Logger     *slog.Logger
	LogFile    *os.File // what the embedded cluster says; nil: standard error
	Progress   func(progress)

	lock     io.Closer
	inst     instance
	oldBase  string // of the Git host before the port changed; empty: it did not
	listener net.Listener
	host     *githost.Host
	pushes   chan string
	serving  *http.Server
	lister   lazyLister
	state    lazyState
	hooks    lazyHooks
	ci       lazyPipelines
	apps     *appsServer
	people   *people
	cluster  *clusterProcess
	failed   chan error // a part that ended by itself
	looked   func(context.Context) (bool, error)
}

// progress is one line about a start: a step that is done or begun, or how it ended.
type progress struct {
	PID       int      `json:"pid"`
	Step      string   `json:"step,omitempty"`
	Ready     bool     `json:"ready,omitempty"`     // the instance serves
	Unhealthy []string `json:"unhealthy,omitempty"` // with Ready: what was not healthy in time, and why
	Error     string   `json:"error,omitempty"`     // the start failed
	Hints     []string `json:"hints,omitempty"`
	Code      int      `json:"code,omitempty"`
}

// Run starts everything, reports progress, and returns when ctx ends (nil) or a part fails. Call Close afterwards.
func (d *Daemon) Run(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer startTracing(ctx, d.Logger)()
	err := d.start(ctx)
	if err != nil {
		if ctx.Err() != nil {
			return nil // told to stop while starting
		}
		return err
	}
	select {
	case <-ctx.Done():
		return nil
	case err := <-d.failed:
		return err
	}
}

func (d *Daemon) start(ctx context.Context) error {
	d.failed = make(chan error, 3) // one for each part, so that none waits
	if err := d.open(); err != nil {
		return err
	}
	if err := d.serve(); err != nil {
		return err
	}
	config, err := d.connect(ctx)
	if err != nil {
		return err
	}
	c, err := newClient(config)
	if err != nil {
		return err
	}
	if err := installCRDs(ctx, c, !d.inst.External); err != nil {
		if d.inst.External && isUnreachable(err) {
			return hintf(err, "the cluster of %s does not answer", d.inst.Kubeconfig)
		}
		return explainAPI(err)
	}
	if !d.inst.External {
		if err := makeArgoNamespace(ctx, c, d.Share.argo); err != nil {
			return explainAPI(err)
		}
	}
	if err := writeInstance(d.Data, d.inst); err != nil { // only now: a cluster that never answered is not this instance's
		return err
	}
	if err := d.seed(ctx, c); err != nil {
		return err
	}
	if d.inst.External {
		go bindAdminsOrWarn(ctx, c, d.Logger)
	} else if err := bindAdmins(ctx, c); err != nil {
		return explainAPI(err)
	}
	if err := d.people.review.set(config); err != nil {
		return err
	}
	d.lister.set(clusterLister{client: c})
	if err := d.apps.start(ctx, config, d.Policy, d.Logger); err != nil {
		return err
	}
	if s := d.ci.get(); s != nil {
		if err := errors.Join(s.connected(ctx, d.inst, config, c), s.follows.set(config)); err != nil {
			return err
		}
	}
	if err := d.control(ctx); err != nil {
		return err
	}
	return d.waitHealthy(ctx, c)
}

// open takes the data directory and settles what the instance is.
func (d *Daemon) open() (err error) {
	if d.lock, err = lock(d.Data); err != nil {
		return err
	}
	if d.inst, err = openInstance(d.Data); err != nil {
		return err
	}
	if d.Kubeconfig == "" && d.inst.External {
		d.Kubeconfig = d.inst.Kubeconfig
	}
	if external := d.Kubeconfig != ""; d.inst.Kubeconfig != "" && external != d.inst.External {
		return hintf(fmt.Errorf("the instance in %s has the embedded cluster, not that of %s", d.Data, d.Kubeconfig),
			"use another data directory: --data DIR")
	}
	if d.Kubeconfig != "" {
		if d.Kubeconfig, err = filepath.Abs(d.Kubeconfig); err != nil {
			return fmt.Errorf("find kubeconfig: %w", err)
		}
		d.inst.External, d.inst.Kubeconfig = true, d.Kubeconfig
	}
	if err := d.settleNode(); err != nil {
		return err
	}
	d.inst.Keep = d.Keep.or(d.inst.Keep)
	d.inst.Sample = d.inst.Sample || d.Sample || !d.inst.External && d.inst.Node != nodeReal // nodes that are real have no images for it
	return nil
}

// serve listens and serves the Git host and the dashboard, which answers with "no cluster yet" for now.
func (d *Daemon) serve() (err error) {
	port := d.Port
	if port < 0 {
		port = d.inst.Port
		if port == 0 {
			port = defaultPort
		}
	}
	d.listener, err = net.Listen("tcp", net.JoinHostPort("127.0.0.1", strconv.Itoa(port)))
	if err != nil {
		return hintf(fmt.Errorf("listen: %w", err), "--port 0 takes any free port, --port N another one")
	}
	if addr, ok := d.listener.Addr().(*net.TCPAddr); ok {
		port = addr.Port
	}
	if d.inst.Port != 0 && d.inst.Port != port {
		d.oldBase = d.inst.git(false)
	}
	d.inst.Port = port
	d.pushes = make(chan string)
	d.people = newPeople(peopleOptions{token: d.inst.Token, port: port, store: d.ci.db, log: d.Logger})
	d.ci.people = d.people
	d.host, err = githost.New(githost.Options{
		Root: filepath.Join(d.Data, gitDir), Token: d.inst.Token, OnPush: d.pushed, Allow: d.ci.allow, Job: d.ci.job, Private: isWitness, Release: d.ci.release,
		Personal: identity.IsToken, OnRefused: d.people.refusedPush, Person: gitPerson(d.people, &d.ci),
	})
	if err != nil {
		return fmt.Errorf("start the Git host: %w", err)
	}
	dashboard := web.Options{
		Lister: &d.lister, Version: version, Loopback: true, Metrics: metricsHandler(d.Logger, &d.state), Logger: d.Logger,
		Guard: d.people.Guard, Authorize: d.people.may.Authorize,
	}
	if d.Pprof {
		dashboard.Pprof = pprofHandler()
	}
	d.apps = newAppsServer(d.people.may.Authorize)
	d.apps.kept = &d.ci
	// Without pipelines everything else goes on: what is kept of them may be damaged.
	pipelines, err := startPipelines(filepath.Join(d.Data, ciDir), d.inst, d.host, d.Jobs, d.LogLimit, own{feed: d.apps.feed, sight: d.apps.sight, keep: d.inst.Keep}, d.people, d.Logger)
	if err != nil {
		d.Logger.Error("no pipelines are played", "error", err)
	}
	if pipelines != nil {
		pipelines.ports(&d.inst)
		pipelines.onMirror = func(repository string) { go func() { d.pushes <- repository }() }
	}
	d.ci.set(pipelines, err)
	mux := newMux(dashboard, d.host, &d.hooks)
	mux.Handle(web.PipelinesPath, web.LocalOnly(d.people.Guard(&d.ci)))
	d.people.routes(mux, web.LocalOnly)
	mux.Handle(web.TriggersPath, &d.ci)
	d.apps.mount(mux, func(next http.Handler) http.Handler { return web.LocalOnly(d.people.Guard(next)) })
	d.serving = &http.Server{Handler: mux, ReadHeaderTimeout: 10 * time.Second, IdleTimeout: idleTimeout, ErrorLog: slog.NewLogLogger(d.Logger.Handler(), slog.LevelWarn)}
	d.serving.RegisterOnShutdown(d.ci.leave)
	d.serving.RegisterOnShutdown(d.apps.leave)
	go func() {
		if err := d.serving.Serve(d.listener); !errors.Is(err, http.ErrServerClosed) {
			d.failed <- fmt.Errorf("serve: %w", err)
		}
	}()
	d.step("Git host and dashboard listen on 127.0.0.1:%d", port)
	return nil
}

// pushed passes a push on, without making it wait for controllers that are still starting.
func (d *Daemon) pushed(p githost.Push) {
	if s := d.ci.get(); s != nil {
		s.pushed(p)
	}
	go func() { d.pushes <- p.Repository }()
}

// connect starts the embedded cluster, or finds the user's.
func (d *Daemon) connect(ctx context.Context) (*rest.Config, error) {
	if !d.inst.External {
		if err := checkNode(ctx, d.inst.Node); err != nil {
			return nil, err
		}
		nodes := fmt.Sprintf("%d node%s", d.Nodes, plural(d.Nodes))
		if d.inst.Node == nodeReal {
			nodes = "a real node"
		}
		d.step("starting the cluster (%s)", nodes)
		log := d.LogFile
		if log == nil {
			log = os.Stderr
		}
		cluster, err := startCluster(ctx, filepath.Join(d.Data, clusterDir), d.clusterArgs(), log)
		if err != nil {
			return nil, err
		}
		d.cluster, d.inst.Kubeconfig, d.inst.Address = cluster, cluster.kubeconfig, cluster.address
		go func() {
			<-cluster.done
			d.failed <- fmt.Errorf("the cluster ended by itself: %w", cluster.err)
		}()
		d.step("the cluster is ready")
	}
	return loadKubeconfig(d.inst.Kubeconfig)
}

// seed makes the sample repository and, once for each cluster, declares it there. So a cluster whose data was lost
// gets everything back from Git, and what a person deletes in a living one stays deleted.
func (d *Daemon) seed(ctx context.Context, c client.Client) error {
	if d.oldBase != "" {
		if err := moveSources(ctx, c, d.oldBase, d.inst.git(false)); err != nil {
			return err
		}
	}
	if !d.inst.Sample {
		return nil
	}
	if err := seedRepository(ctx, d.host); err != nil {
		return err
	}
	uid, err := clusterUID(ctx, c)
	if err != nil {
		return err
	}
	if uid == d.inst.ClusterUID {
		return nil
	}
	if err := declareSample(ctx, c, d.inst.git(false)+"/"+sampleRepository+".git"); err != nil {
		return err
	}
	d.step("the sample is declared: repository %s, app %s/%s", sampleRepository, sampleNamespace, sampleRoot)
	d.inst.ClusterUID = uid
	return writeInstance(d.Data, d.inst)
}

// control starts the controllers and returns once they work.
func (d *Daemon) control(ctx context.Context) error {
	ready := make(chan struct{})
	ended := make(chan error, 1)
	go func() {
		ended <- runServer(ctx, serverOptions{
			Kubeconfig: d.inst.Kubeconfig,
			DataDir:    filepath.Join(d.Data, serverDir),
			Host:       d.host,
			HostURL:    d.inst.git(false),
			Pushes:     d.pushes,
			Policy:     d.Policy,
			State:      &d.state,
			Hooks:      &d.hooks,
			Share:      d.Share,
			Projects:   d.ci.projects(),
			History:    d.ci.history(),
			Asked:      d.ci.asked,
			Ready: func(looked func(context.Context) (bool, error)) {
				d.looked = looked
				close(ready)
			},
			Waiting: func(holder string) {
				d.step("waiting for the lease %s/%s: %s has it", leaseNamespace, leaseName, holder)
			},
			Logger: d.Logger,
		})
	}()
	select {
	case err := <-ended:
		return fmt.Errorf("start the controllers: %w", orEnded(err))
	case <-ready:
	case <-time.After(d.Timeout):
		return withCode(exitUnhealthy, hintf(fmt.Errorf("the controllers did not get to work within %s: they wait for the lease %s/%s", d.Timeout, leaseNamespace, leaseName),
			"another keelson works on this cluster; stop it, or wait longer with --timeout"))
	}
	go func() {
		if err := <-ended; ctx.Err() == nil {
			d.failed <- fmt.Errorf("controllers: %w", orEnded(err))
		}
	}()
	d.step("the controllers work")
	return nil
}

func orEnded(err error) error {
	if err == nil {
		return errors.New("they ended by themselves")
	}
	return err
}

// Close stops what was started. It may be called whatever became of Run, and more than once.
func (d *Daemon) Close() error {
	var errs []error
	if d.serving != nil {
		ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
		if err := d.serving.Shutdown(ctx); err != nil {
			errs = append(errs, d.serving.Close())
		}
		cancel()
	} else if d.listener != nil {
		errs = append(errs, d.listener.Close())
	}
	if s := d.ci.get(); s != nil {
		errs = append(errs, s.shut())
		d.ci.set(nil, errors.New("the instance ends"))
	}
	if d.cluster != nil {
		errs = append(errs, d.cluster.stop())
	}
	if d.lock != nil {
		errs = append(errs, d.lock.Close())
	}
	d.serving, d.listener, d.cluster, d.lock = nil, nil, nil, nil
	return errors.Join(errs...)
}

func (d *Daemon) step(format string, a ...any) {
	text := fmt.Sprintf(format, a...)
	d.Logger.Info(text)
	d.Progress(progress{PID: os.Getpid(), Step: text})
}

func plural(n int) string {
	if n == 1 {
		return ""
	}
	return "s"
}

// lazyLister answers with an error until the cluster is known.
type lazyLister struct{ lister atomic.Pointer[clusterLister] }

func (l *lazyLister) set(c clusterLister) { l.lister.Store(&c) }

var errNoCluster = errors.New("the cluster is starting")

// Apps implements web.Lister.
func (l *lazyLister) Apps(ctx context.Context) ([]web.App, error) {
	if c := l.lister.Load(); c != nil {
		return c.Apps(ctx)
	}
	return nil, errNoCluster
}

// Sources implements web.Lister.
func (l *lazyLister) Sources(ctx context.Context) ([]web.Source, error) {
	if c := l.lister.Load(); c != nil {
		return c.Sources(ctx)
	}
	return nil, errNoCluster
}
