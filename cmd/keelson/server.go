package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"time"

	kustomizev1 "github.com/fluxcd/kustomize-controller/api/v1"
	sourcev1 "github.com/fluxcd/source-controller/api/v1"
	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/kubernetes/typed/coordination/v1"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/leaderelection/resourcelock"
	"k8s.io/klog/v2"

	"keelson.dev/keelson/internal/controller"
	"keelson.dev/keelson/internal/deliver"
	"keelson.dev/keelson/internal/delivery"
	"keelson.dev/keelson/internal/dialect"
	"keelson.dev/keelson/internal/githost"
	"keelson.dev/keelson/internal/kube"
	"keelson.dev/keelson/internal/render"
	"keelson.dev/keelson/internal/source"
	"keelson.dev/keelson/internal/web"
)

// serverOptions says what the controllers need.
type serverOptions struct {
	Kubeconfig string        // empty: as kubectl does, or the service account inside a cluster
	DataDir    string        // for mirrors of remote repositories and records of deliveries; one process at a time
	Host       *githost.Host // nil: there is none
	HostURL    string        // the host's base URL, "http://127.0.0.1:7070/git": sources below it are read straight from Host
	Pushes     <-chan string // names of the host's repositories as they are pushed to; nil: there is no host
	// Ready is called once, when the controllers work. looked tells whether they have looked at every app since.
	Ready func(looked func(context.Context) (bool, error))
	// Waiting is called with the holder of the lease while another one has it; nil: nobody cares.
	Waiting func(holder string)
	Hooks   *lazyHooks // is given what answers webhooks; nil: none are served
	// Projects plays the pipelines of Projects; nil: nobody does.
	Projects controller.Projects
	Asked    func(controller.Asked) // is told what people ask for in the cluster; nil: nobody is
	History  controller.Recorder    // keeps what is delivered and repaired; nil: nobody does
	Policy   delivery.Policy
	State    *lazyState // is told where to read how things stand; nil: nobody asks
	Share    share
	Logger   *slog.Logger
}

// share says what of a cluster's objects this process works on, and what it does about others who do.
type share struct {
	selector string // label selector of sources and apps; empty: all
	takeOver bool   // scale down whoever else works on them
	argo     string // the namespace of Argo CD's projects, credentials and clusters, whose Applications are worked on
}

func (s *share) flags(f *pflag.FlagSet) {
	f.StringVar(&s.selector, "watch-label-selector", "", "work only on sources and apps with these `labels`, as sharding.fluxcd.io/key=keelson")
	f.StringVar(&s.argo, "argocd-namespace", dialect.ArgoNamespace,
		"the `namespace` with Argo CD's projects, credentials and clusters: Applications of other namespaces need a project that lists them")
	f.BoolVar(&s.takeOver, "take-over", false, "scale down controllers of Flux and Argo CD that work on the same sources and apps")
}

// runServer runs the controllers until ctx ends.
func runServer(ctx context.Context, opts serverOptions) error {
	klog.SetSlogLogger(opts.Logger) // what client-go has to say
	if os.Getenv("GOGC") == "" {
		boundGarbage()
	}
	unlock, err := lock(opts.DataDir)
	if err != nil {
		return err
	}
	defer unlock.Close()
	cluster, err := connectServer(ctx, opts.Kubeconfig)
	if err != nil {
		return err
	}
	mine, err := claimWork(ctx, cluster, opts)
	if err != nil {
		return err
	}
	render.Warm() // now, not in the first delivery
	hosted := hostedAt(opts.Host, opts.HostURL)
	sources, err := source.New(source.Options{
		Dir: filepath.Join(opts.DataDir, mirrorDir),
		Local: func(url string) (string, bool) {
			name, ok := hosted(url)
			if !ok {
				return "", false
			}
			return opts.Host.Dir(name), true
		},
	})
	if err != nil {
		return err
	}
	defer sources.Close()
	lease, err := newLease(cluster, opts.DataDir)
	if err != nil {
		return err
	}
	records, err := deliver.OpenRecords(filepath.Join(opts.DataDir, "records"), renderer(opts.Policy))
	if err != nil {
		return err
	}
	c, err := controller.New(ctx, controller.Options{
		Cluster: cluster, Sources: sources, Records: records, Lock: lease, Policy: opts.Policy, Shard: mine.shard, Log: opts.Logger,
		Webhooks: opts.Hooks != nil, LeaveReceivers: mine.leaveReceivers, LeaveApplications: mine.leaveApplications,
		ArgoNamespace: opts.Share.argo, Projects: opts.Projects, History: opts.History, Asked: opts.Asked,
	})
	if err != nil {
		return explainAPI(err)
	}
	if opts.Hooks != nil {
		opts.Hooks.set(c)
	}
	if opts.State != nil {
		opts.State.set(c.State)
	}
	go func() {
		if !awaitLease(ctx, c, lease, opts.Waiting) {
			return
		}
		opts.Ready(c.Looked)
		for {
			select {
			case <-ctx.Done():
				return
			case repo := <-opts.Pushes:
				c.Pushed(func(url string) bool { name, ok := hosted(url); return ok && name == repo })
			}
		}
	}()
	return c.Run(ctx)
}

// connectServer connects to the cluster, once it answers and has the kinds that the controllers cannot do without.
func connectServer(ctx context.Context, kubeconfig string) (*kube.Cluster, error) {
	config, err := loadKubeconfig(kubeconfig)
	if err != nil {
		return nil, err
	}
	cluster, err := kube.NewCluster(config)
	if err != nil {
		return nil, err
	}
	if _, err := cluster.Ping(ctx); err != nil {
		return nil, explainAPI(err)
	}
	for _, kind := range []schema.GroupVersionKind{
		sourcev1.GroupVersion.WithKind(sourcev1.GitRepositoryKind), kustomizev1.GroupVersion.WithKind(kustomizev1.KustomizationKind),
	} {
		if _, err := cluster.Mapper().RESTMapping(kind.GroupKind(), kind.Version); err != nil {
			return nil, explainAPI(fmt.Errorf("look up %s: %w", kind.Kind, err))
		}
	}
	return cluster, nil
}

// claimed is what of a cluster's objects this process works on, now that it is known who else does.
type claimed struct {
	shard             labels.Selector // of sources and apps
	leaveReceivers    bool            // to Flux's notification-controller
	leaveApplications bool            // to Argo CD's controllers
}

// claimWork sees to it that nobody else works on what this process is about to work on: others are scaled down where that was asked
// for, and what is left to them is logged.
func claimWork(ctx context.Context, cluster *kube.Cluster, opts serverOptions) (claimed, error) {
	shard, err := dialect.Shard(opts.Share.selector)
	if err != nil {
		return claimed{}, withCode(exitUsage, err)
	}
	others, err := otherTools(ctx, cluster)
	if err != nil {
		return claimed{}, explainAPI(err)
	}
	if err := claimKinds(ctx, cluster, others.flux, shard, opts.Share.takeOver, opts.Logger); err != nil {
		return claimed{}, explainAPI(err)
	}
	leave, err := claimApplications(ctx, cluster, others.argo, opts.Share.takeOver, opts.Logger)
	if err != nil {
		return claimed{}, explainAPI(err)
	}
	if leave != "" {
		opts.Logger.Warn("Applications and ApplicationSets are left alone: Argo CD's controllers work on them; --take-over scales these down", "controllers", leave)
	}
	other, leaveReceivers := receiverOwner(others.flux, shard)
	if leaveReceivers && opts.Hooks != nil {
		opts.Logger.Warn("webhooks are not served here: Flux's notification-controller works on the Receivers", "deployment", other.String())
	}
	return claimed{shard: shard, leaveReceivers: leaveReceivers, leaveApplications: leave != ""}, nil
}

// renderer identifies this very build of the program and what it is told about rendering: another one may render otherwise.
func renderer(policy delivery.Policy) string {
	if policy.LenientSubstitution {
		return build() + " lenient"
	}
	return build()
}

// build identifies this very build of the program.
func build() string {
	exe, err := os.Executable()
	if err != nil {
		return version
	}
	info, err := os.Stat(exe)
	if err != nil {
		return version
	}
	return fmt.Sprintf("%s %d %d", version, info.Size(), info.ModTime().UnixNano())
}

// awaitLease waits until the controller holds the lease, and tells meanwhile who does; false: ctx has ended.
func awaitLease(ctx context.Context, c *controller.Controller, lease resourcelock.Interface, waiting func(holder string)) bool {
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	told := ""
	for {
		select {
		case <-c.Elected():
			return true
		case <-ctx.Done():
			return false
		case <-tick.C:
		}
		record, _, err := lease.Get(ctx)
		if err == nil && waiting != nil && record.HolderIdentity != "" && record.HolderIdentity != lease.Identity() && record.HolderIdentity != told {
			told = record.HolderIdentity
			waiting(told)
		}
	}
}

// hostedAt tells which URLs are those of the host's own repositories, and which one each is. Userinfo does not matter.
func hostedAt(host *githost.Host, base string) func(raw string) (name string, ok bool) {
	return func(raw string) (string, bool) {
		if host == nil {
			return "", false
		}
		u, err := url.Parse(raw)
		if err != nil {
			return "", false
		}
		u.User = nil
		name, ok := strings.CutPrefix(u.String(), strings.TrimSuffix(base, "/")+"/")
		name = strings.TrimSuffix(strings.TrimSuffix(name, "/"), ".git")
		return name, ok && githost.CheckName(name) == nil && !isWitness(name)
	}
}

// Where the lease is that guards against two servers on one cluster: in every cluster, in one place.
const leaseNamespace, leaseName = "kube-system", "keelson"

// newLease makes the lease's lock. Its holder is this data directory, which one process at a time has, by a random name that
// is kept in it: after a crash the next one takes over at once instead of waiting for the lease to run out.
func newLease(cluster *kube.Cluster, dataDir string) (resourcelock.Interface, error) {
	config := rest.CopyConfig(cluster.Config())
	config.Timeout = 5 * time.Second // a renewal that hangs must not outlast the lease
	coordination, err := v1.NewForConfig(config)
	if err != nil {
		return nil, fmt.Errorf("make lease client: %w", err)
	}
	host, err := os.Hostname()
	if err != nil {
		return nil, fmt.Errorf("name this machine: %w", err)
	}
	id, err := holderID(dataDir)
	if err != nil {
		return nil, err
	}
	return &resourcelock.LeaseLock{
		LeaseMeta:  metav1.ObjectMeta{Namespace: leaseNamespace, Name: leaseName},
		Client:     coordination,
		LockConfig: resourcelock.ResourceLockConfig{Identity: host + "_" + id},
	}, nil
}

// holderID gives the random name of a data directory and makes it at the first start.
func holderID(dataDir string) (string, error) {
	path := filepath.Join(dataDir, "holder")
	b, err := os.ReadFile(path)
	if err == nil && len(b) > 0 {
		return string(b), nil
	}
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return "", fmt.Errorf("read the name of the lease's holder: %w", err)
	}
	id := newToken()[:12]
	if err := os.WriteFile(path, []byte(id), 0o600); err != nil {
		return "", fmt.Errorf("write the name of the lease's holder: %w", err)
	}
	return id, nil
}

func serverCommand(g *global) *cobra.Command {
	var listen, webhooks string
	var observed observers
	var mine share
	var flags policyFlags
	var pipelines serverCI
	var logins serverIdentity
	cmd := &cobra.Command{
		Use:   "server",
		Short: "Run the controllers alone, against any cluster",
		Long: `Server runs the controllers against the cluster of --kubeconfig, or inside of one without flags. It needs neither the Git
host nor the embedded cluster, only the resource definitions: kubectl apply -f config/crd. A lease in ` + leaseNamespace + ` guards against
two of them on one cluster: the second waits. With --listen it serves the dashboard there, which needs a login (docs/identity.md), and /healthz.
It refuses to start while Flux's controllers work on the same objects: --take-over scales them down, and a label selector
splits the work. While Argo CD's controllers run, Applications are left to them; --take-over scales these down too. keelson takeover --plan shows what the first start would do. With --webhooks it serves
the webhooks of Receivers, and nothing else, on an address that forges can be pointed to. With --ci it plays pipelines, whose jobs run as
Pods of the cluster. With --metrics it serves numbers for Prometheus, with --pprof profiles of itself: on 127.0.0.1, unless the address names another
host. Spans go to the collector that OTEL_EXPORTER_OTLP_ENDPOINT names.`,
		Args: args(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			policy, err := flags.policy()
			if err != nil {
				return err
			}
			if err := pipelines.check(); err != nil {
				return err
			}
			if err := logins.check(listen != ""); err != nil {
				return err
			}
			return runServerCommand(cmd.Context(), g, listen, webhooks, observed, mine, policy, pipelines, logins)
		},
	}
	flags.bind(cmd.Flags())
	pipelines.flags(cmd.Flags())
	logins.flags(cmd.Flags())
	cmd.Flags().StringVar(&listen, "listen", "", "serve the dashboard on this `address`, as 127.0.0.1:8080 (default: none)")
	cmd.Flags().StringVar(&webhooks, "webhooks", "", "serve the webhooks of Receivers on this `address`, as 0.0.0.0:9292 (default: nowhere)")
	cmd.Flags().StringVar(&observed.metrics, "metrics", "", "serve /metrics on this `address`, as 127.0.0.1:8081 (default: nowhere)")
	cmd.Flags().StringVar(&observed.pprof, "pprof", "", "serve /debug/pprof/ on this `address`, as 127.0.0.1:6060 (default: nowhere)")
	mine.flags(cmd.Flags())
	return cmd
}

func runServerCommand(ctx context.Context, g *global, listen, webhooks string, observed observers, mine share, policy delivery.Policy, pipelines serverCI, logins serverIdentity) (err error) {
	log := slog.New(slog.NewTextHandler(g.err, nil))
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	ended := make(chan error, 8) // one for each part, so that none waits
	defer startTracing(ctx, log)()
	var state lazyState
	if err := observed.serve(ctx, log, &state, ended); err != nil {
		return err
	}
	var kept keeper
	var book *ledger // nil: what plays pipelines keeps the history
	played := &lazyPipelines{}
	if kept = played; pipelines.listen == "" {
		book = newLedger(g, pipelines.keep, ended, log)
		defer func() { err = errors.Join(err, book.Close()) }()
		kept = book
	}
	var who *serverPeople
	if listen != "" || pipelines.listen != "" {
		if who, err = openServerPeople(ctx, g, listen, kept, logins, log); err != nil {
			return err
		}
		defer func() { err = errors.Join(err, who.Close()) }()
		played.people = who.people
	}
	var apps *appsServer
	if listen != "" {
		apps = newAppsServer(who.may.Authorize)
		apps.kept = kept
	}
	if book != nil {
		if book.apps = apps; who != nil {
			book.people = who.people
		}
		book.begin(ctx)
	}
	if listen != "" {
		server, err := serveDashboard(ctx, g, listen, who.people, apps, policy, log, ended)
		if err != nil {
			return err
		}
		defer server.Close()
	}
	var hooks *lazyHooks
	if webhooks != "" {
		hooks = &lazyHooks{}
		if err := serveWebhooks(ctx, webhooks, hooks, log, ended); err != nil {
			return err
		}
	}
	opts := serverOptions{
		Kubeconfig: g.kubeconfig, DataDir: filepath.Join(g.data, serverDir), Share: mine, Policy: policy, State: &state, Hooks: hooks, Logger: log,
	}
	waits := func(holder string) { played.waits(holder) }
	if book != nil {
		opts.History, opts.Asked, waits = book.kept, book.asked, book.waits
		opts.Ready = func(func(context.Context) (bool, error)) {
			log.Info("the controllers work")
			book.elected(ctx)
		}
	}
	opts.Waiting = func(holder string) {
		log.Info("waiting for the lease", "lease", leaseNamespace+"/"+leaseName, "holder", holder)
		waits(holder)
	}
	if book == nil {
		playing, err := openServerPipelines(g.data, pipelines, who, played, log)
		if err != nil {
			return err
		}
		defer func() { err = errors.Join(err, playing.Close()) }()
		playing.apps = apps
		opts.Host, opts.HostURL, opts.Pushes, opts.Projects = playing.host, pipelines.url+githostPath, playing.pushes, &playing.late
		opts.History = playing.kept
		opts.Asked = played.asked
		opts.Ready = func(func(context.Context) (bool, error)) {
			log.Info("the controllers work")
			go playing.play(ctx, g.kubeconfig, ended)
		}
	}
	go func() { ended <- runServer(ctx, opts) }()
	log.Info("starting", "version", version)
	return <-ended
}

// serveDashboard serves until the server is closed; a failure goes to ended.
func serveDashboard(ctx context.Context, g *global, address string, who *people, apps *appsServer, policy delivery.Policy, log *slog.Logger, ended chan<- error) (*http.Server, error) {
	config, err := loadKubeconfig(g.kubeconfig)
	if err != nil {
		return nil, err
	}
	c, err := newClient(config)
	if err != nil {
		return nil, err
	}
	listener, err := (&net.ListenConfig{}).Listen(ctx, "tcp", address)
	if err != nil {
		return nil, hintf(fmt.Errorf("listen: %w", err), "--listen takes HOST:PORT")
	}
	mux := newMux(web.Options{Lister: clusterLister{client: c}, Version: version, Guard: who.Guard, Authorize: who.may.Authorize, Logger: log}, nil, nil)
	who.routes(mux, func(next http.Handler) http.Handler { return next })
	mux.Handle(web.PipelinesPath, who.Guard(apps.kept))
	if err := apps.start(ctx, config, policy, log); err != nil {
		return nil, errors.Join(err, listener.Close())
	}
	apps.mount(mux, who.Guard)
	server := &http.Server{Handler: who.proxies.Front(mux), ReadHeaderTimeout: 10 * time.Second, IdleTimeout: idleTimeout, ErrorLog: slog.NewLogLogger(log.Handler(), slog.LevelWarn)}
	server.RegisterOnShutdown(apps.leave)
	go func() {
		if err := server.Serve(listener); !errors.Is(err, http.ErrServerClosed) {
			ended <- fmt.Errorf("serve: %w", err)
		}
	}()
	log.Info("dashboard", "url", "http://"+listener.Addr().String()+"/")
	return server, nil
}
