package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/spf13/pflag"
	"k8s.io/apimachinery/pkg/types"

	keelsonv1 "keelson.dev/keelson/api/v1alpha1"
	"keelson.dev/keelson/internal/ci"
	"keelson.dev/keelson/internal/controller"
	"keelson.dev/keelson/internal/githost"
	"keelson.dev/keelson/internal/identity"
	"keelson.dev/keelson/internal/pipeline/executor/pod"
	"keelson.dev/keelson/internal/store"
	"keelson.dev/keelson/internal/web"
)

// serverCI says how keelson server plays pipelines.
type serverCI struct {
	listen, url       string // the Git host, the API and what the Pods of jobs ask; empty listen: no pipelines are played
	access, accessURL string // the jobs' way to the cluster
	helper, image     string
	namespace         string
	registry          string
	shell             bool
	jobs              int
	log               int // MiB of a job's log
	keep              retention
}

func (o *serverCI) flags(f *pflag.FlagSet) {
	f.StringVar(&o.listen, "ci", "", "play pipelines, and serve the Git host, the API and the Pods of jobs on this `address`, as 0.0.0.0:7070 (default: no pipelines)")
	f.StringVar(&o.url, "ci-url", "", "with --ci: the `URL` at which Pods reach it, as http://keelson.keelson-system:7070")
	f.StringVar(&o.access, "ci-access", "", "with --ci: serve the jobs' way to the cluster on this `address`, as 0.0.0.0:7443, with a certificate of its own")
	f.StringVar(&o.accessURL, "ci-access-url", "", "the `URL` at which Pods reach it (default: https, the host of --ci-url and the port of --ci-access)")
	f.StringVar(&o.helper, "ci-helper-image", "", "with --ci: the `image` with which the Pods of jobs begin: one with /bin/keelson of this very version")
	f.StringVar(&o.image, "ci-image", "", "the `image` of jobs where neither they nor their project name one (default: they fail)")
	f.StringVar(&o.namespace, "ci-namespace", jobsNamespace, "the `namespace` of the Pods of jobs whose repository no Project names")
	f.StringVar(&o.registry, "ci-registry", "", "CI_REGISTRY of jobs, `HOST[:PORT]`; who may log in there it says itself (default: jobs are told of none)")
	f.BoolVar(&o.shell, "ci-shell", false, "let projects whose executor is shell run their jobs on the server's own machine, in sandboxes where it can make them")
	f.IntVar(&o.log, "ci-log-limit", usualLog, "`MiB` that the log of a job may have, 1 to 10000; what follows is left out")
	f.IntVar(&o.jobs, "ci-jobs", 0, "how many jobs run at a `time` (default: as the machine is)")
	o.keep.flags(f, "")
}

// usualLog is how many MiB the log of a job may have, as at GitLab.
const usualLog = 4

// noShellOnServer is said of jobs that want the server's shell.
const noShellOnServer = "the jobs of this project are to run in a shell of the server's machine (executor: shell), and this server does not let them: whoever runs it allows that with " +
	"--ci-shell, or the Project says executor: {type: pod}"

// check completes the options and says what is wrong with them.
func (o *serverCI) check() error {
	if err := o.keep.check(); err != nil {
		return err
	}
	if o.listen == "" {
		if *o != (serverCI{namespace: o.namespace, log: o.log, keep: o.keep}) {
			return usagef("the other flags of pipelines need --ci, which plays them")
		}
		return nil
	}
	u, err := url.Parse(o.url)
	if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" || strings.Trim(u.Path, "/") != "" || u.User != nil {
		return usagef("--ci-url %q: it is the URL at which Pods reach --ci, as http://keelson.keelson-system:7070", o.url)
	}
	if o.log < 1 || o.log > 10_000 {
		return usagef("--ci-log-limit %d: it takes 1 to 10000", o.log)
	}
	o.url = u.Scheme + "://" + u.Host
	if o.helper == "" {
		return usagef("--ci-helper-image is missing: Pods of jobs begin with an image that has /bin/keelson of this very version; that of this server, if it runs from one")
	}
	if o.access == "" {
		return usagef("--ci-access is missing: jobs reach the cluster by an address of its own, as 0.0.0.0:7443")
	}
	_, port, err := net.SplitHostPort(o.access)
	if err != nil {
		return usagef("--ci-access %q: it takes HOST:PORT", o.access)
	}
	o.accessURL = cmp.Or(o.accessURL, "https://"+net.JoinHostPort(u.Hostname(), port))
	if a, err := url.Parse(o.accessURL); err != nil || a.Scheme != "https" || a.Host == "" {
		return usagef("--ci-access-url %q: it is an https URL", o.accessURL)
	}
	return nil
}

// databaseVariable is the environment variable with the address of a PostgreSQL database. It is no flag: it may have a password.
const databaseVariable = "KEELSON_DATABASE_URL"

// serverPipelines plays the pipelines of keelson server.
type serverPipelines struct {
	o      serverCI
	data   string
	host   *githost.Host
	pushes chan string
	token  string
	ci     *lazyPipelines
	late   lateProjects
	kept   *historyQueue
	log    *slog.Logger
	people *people
	apps   *appsServer // shows what is played, too; nil: nothing is shown

	mu     sync.Mutex // held while it starts, and from when it is closed
	closed bool
	server *http.Server
}

// lateProjects keeps the Projects of the cluster from when pipelines are played, which is after the controllers have begun.
type lateProjects struct {
	ready chan struct{}

	mu     sync.Mutex
	wake   func(types.NamespacedName)
	keeper *projectKeeper // once ready is closed
}

// start says who keeps them.
func (l *lateProjects) start(k *projectKeeper) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.keeper = k
	if l.wake != nil {
		k.Tell(l.wake)
	}
	close(l.ready)
}

// Tell implements [controller.Projects].
func (l *lateProjects) Tell(wake func(types.NamespacedName)) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.wake = wake
	if l.keeper != nil {
		l.keeper.Tell(wake)
	}
}

// Take implements [controller.Projects].
func (l *lateProjects) Take(ctx context.Context, p *keelsonv1.Project) controller.ProjectStanding {
	select {
	case <-l.ready:
		return l.keeper.Take(ctx, p)
	case <-ctx.Done():
		return controller.ProjectStanding{Reason: projectUnreachable, Message: "the server is starting", After: projectRetry}
	}
}

// Forget implements [controller.Projects].
func (l *lateProjects) Forget(name types.NamespacedName) {
	select {
	case <-l.ready:
		l.keeper.Forget(name)
	default: // it was never taken in
	}
}

// openServerPipelines opens the Git host. Nothing is played or served before [serverPipelines.start].
func openServerPipelines(data string, o serverCI, who *serverPeople, played *lazyPipelines, log *slog.Logger) (*serverPipelines, error) {
	s := &serverPipelines{
		o: o, data: data, log: log, people: who.people, token: who.token, ci: played, pushes: make(chan string), kept: newHistoryQueue(log),
		late: lateProjects{ready: make(chan struct{})},
	}
	var err error
	s.host, err = githost.New(githost.Options{
		Root: filepath.Join(data, gitDir), Token: s.token, GuardReads: true, Allow: s.ci.allow, Job: s.ci.job, Private: isWitness, Release: s.ci.release,
		Personal: identity.IsToken, OnRefused: s.people.refusedPush, Person: gitPerson(s.people, s.ci),
		OnPush: func(p githost.Push) {
			if c := s.ci.get(); c != nil {
				c.pushed(p)
			}
			go func() { s.pushes <- p.Repository }()
		},
	})
	if err != nil {
		return nil, fmt.Errorf("start the Git host: %w", err)
	}
	return s, nil
}

// serverToken reads the token that guards everything, and makes it at the first start.
func serverToken(file string) (string, error) {
	text, err := os.ReadFile(file)
	if token := strings.TrimSpace(string(text)); err == nil && token != "" {
		return token, nil
	}
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return "", fmt.Errorf("read the server's token: %w", err)
	}
	if err := os.MkdirAll(filepath.Dir(file), 0o700); err != nil {
		return "", fmt.Errorf("make the server's token: %w", err)
	}
	token := newToken()
	if err := os.WriteFile(file, []byte(token+"\n"), 0o600); err != nil {
		return "", fmt.Errorf("make the server's token: %w", err)
	}
	return token, nil
}

// databaseRetry is the pause before a database that could not be opened is tried again.
const databaseRetry = 30 * time.Second

// databaseErrors are about the database as a whole: what else the server does goes on without it.
var databaseErrors = []error{store.ErrAway, store.ErrSlow, store.ErrLocked, store.ErrCorrupt, store.ErrFull, store.ErrReadOnly, store.ErrTooNew, store.ErrWrongKey}

// play starts what is played, again and again while its database cannot be opened. Another failure ends the server.
func (s *serverPipelines) play(ctx context.Context, kubeconfig string, ended chan<- error) {
	for {
		err := s.start(ctx, kubeconfig, ended)
		switch {
		case err == nil || ctx.Err() != nil:
			return
		case !slices.ContainsFunc(databaseErrors, func(kind error) bool { return errors.Is(err, kind) }):
			ended <- fmt.Errorf("play pipelines: %w", err)
			return
		}
		s.log.Error("no pipelines are played", "error", err, "again in", databaseRetry)
		s.ci.set(nil, err)
		s.people.auditor.Store(nil)
		if !pause(ctx, databaseRetry) {
			return
		}
	}
}

// start plays and serves. It is called once the controllers hold their lease: of several servers one plays. What fails leaves nothing open.
func (s *serverPipelines) start(ctx context.Context, kubeconfig string, ended chan<- error) (err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return nil
	}
	config, err := loadKubeconfig(kubeconfig)
	if err != nil {
		return err
	}
	c, err := newClient(config)
	if err != nil {
		return err
	}
	p, err := s.open(ctx, kubeconfig, ended)
	if err != nil {
		return err
	}
	defer func() {
		if err == nil {
			return
		}
		s.ci.set(nil, err)
		if s.server != nil {
			err = errors.Join(err, s.server.Close())
		}
		s.server, err = nil, errors.Join(err, p.shut())
	}()
	p.url, p.onMirror = s.o.url, func(repository string) { go func() { s.pushes <- repository }() }
	s.ci.set(p, nil)
	p.At(ci.Place{URL: s.o.url, GitURL: s.o.url + githostPath, Registry: s.o.registry})
	if err := p.access.connect(config, c, s.o.accessURL); err != nil {
		return err
	}
	p.pods, err = startPods(podOptions{
		url: s.o.url, image: s.o.helper, jobImage: s.o.image, namespace: s.o.namespace, config: config, key: p.key, log: s.log,
		reads: p.ReadsImage,
	}, p.store)
	if err != nil {
		return err
	}
	p.runners.pods = p.pods.Executor
	if err := s.serve(ctx, p, ended); err != nil {
		return err
	}
	if err := p.follows.set(config); err != nil {
		return err
	}
	p.cluster.set(c)
	s.late.start(p.keeper)
	s.log.Info("pipelines are played", "url", s.o.url, "token", filepath.Join(s.data, ciDir, "token"), "shell jobs", s.o.shell)
	return nil
}

// open opens what is kept, and the jobs' way to the cluster.
func (s *serverPipelines) open(ctx context.Context, kubeconfig string, ended chan<- error) (*pipelineServer, error) {
	access, err := (&net.ListenConfig{}).Listen(ctx, "tcp", s.o.access)
	if err != nil {
		return nil, hintf(fmt.Errorf("listen: %w", err), "--ci-access takes HOST:PORT")
	}
	mine := own{access: access, usual: runnerPod, noShell: noShellOnServer, history: s.kept, git: s.o.url + githostPath, keep: s.o.keep}
	if s.o.shell {
		mine.noShell = ""
	}
	if s.apps != nil {
		mine.feed, mine.sight = s.apps.feed, s.apps.sight
	}
	mine.database = os.Getenv(databaseVariable)
	mine.lost = func() {
		ended <- hintf(errors.New("another Keelson has the database now"), "a lease that two servers hold is that of two clusters: give each cluster a database")
	}
	inst := instance{Token: s.token, External: true, Kubeconfig: kubeconfig}
	p, err := startPipelines(filepath.Join(s.data, ciDir), inst, s.host, s.o.jobs, int64(s.o.log)<<20, mine, s.people, s.log)
	if err != nil {
		_ = access.Close() // what has begun to serve there has closed it
		return nil, err
	}
	return p, nil
}

// githostPath is where repositories are, without the slash at its end.
var githostPath = strings.TrimSuffix(githost.Prefix, "/")

// serve serves until ctx ends.
func (s *serverPipelines) serve(ctx context.Context, p *pipelineServer, ended chan<- error) error {
	listener, err := (&net.ListenConfig{}).Listen(ctx, "tcp", s.o.listen)
	if err != nil {
		return hintf(fmt.Errorf("listen: %w", err), "--ci takes HOST:PORT")
	}
	mux := http.NewServeMux()
	mux.Handle(githost.Prefix, s.host)
	mux.Handle(githost.APIPath, s.host.API())
	mux.Handle(web.PipelinesPath, s.people.Guard(p.open))
	mux.Handle(web.SchedulesPath, s.people.Guard(p.plans))
	mux.Handle(web.SchedulesPath+"/", s.people.Guard(p.plans))
	s.people.routes(mux, func(next http.Handler) http.Handler { return next })
	mux.Handle(web.TriggersPath, p.triggers)
	mux.Handle(pod.Path, p.pods.Handler())
	mux.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		if githost.Plain(r) {
			s.host.ServeHTTP(w, r)
			return
		}
		http.NotFound(w, r)
	})
	s.server = &http.Server{Handler: s.people.proxies.Front(mux), ReadHeaderTimeout: 10 * time.Second, IdleTimeout: idleTimeout, ErrorLog: slog.NewLogLogger(s.log.Handler(), slog.LevelDebug)}
	go func() {
		if err := s.server.Serve(listener); !errors.Is(err, http.ErrServerClosed) {
			ended <- fmt.Errorf("serve pipelines: %w", err)
		}
	}()
	return nil
}

// Close implements [io.Closer].
func (s *serverPipelines) Close() error {
	err := s.kept.Close()
	s.mu.Lock() // what starts is ready, or has failed
	defer s.mu.Unlock()
	s.closed = true
	s.ci.leave()
	if s.server != nil {
		err = s.server.Close()
	}
	if p := s.ci.get(); p != nil {
		err = errors.Join(err, p.shut())
		s.ci.set(nil, errors.New("the server ends"))
	}
	return err
}
