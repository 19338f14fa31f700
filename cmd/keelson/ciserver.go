package main

import (
	"cmp"
	"context"
	"crypto/hkdf"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/client-go/rest"
	"sigs.k8s.io/controller-runtime/pkg/client"

	keelsonv1 "keelson.dev/keelson/api/v1alpha1"
	"keelson.dev/keelson/internal/ci"
	"keelson.dev/keelson/internal/githost"
	"keelson.dev/keelson/internal/pipeline"
	"keelson.dev/keelson/internal/pipeline/artifact"
	"keelson.dev/keelson/internal/pipeline/executor"
	"keelson.dev/keelson/internal/pipeline/executor/shell"
	"keelson.dev/keelson/internal/pipeline/scratch"
	"keelson.dev/keelson/internal/store"
	"keelson.dev/keelson/internal/web"
)

// ciDir is what the server of pipelines keeps, below the data directory.
const ciDir = "ci"

// pipelineServer plays the pipelines of an instance's repositories.
type pipelineServer struct {
	*ci.Server
	api   http.Handler
	open  http.Handler // the same for those who are not on this machine
	plans http.Handler // schedules
	// triggers makes pipelines for those who have a token for that.
	triggers http.Handler
	close    []io.Closer // in the order of closing
	stop     context.CancelFunc
	done     chan struct{}
	leaving  chan struct{} // closed before the server of requests ends
	cluster  *lazyProjects
	access   *jobAccess
	follows  *lazyFollow
	keeper   *projectKeeper
	jobs     *jobServer // nil: the cluster is the user's own, and its pods do not reach this machine
	runners  runners
	pods     *podJobs // nil: there are none
	store    *store.DB
	auditor  *auditor
	kept     *historyQueue
	key      []byte
	url      string // of the instance
	log      *slog.Logger

	onMirror func(repository string) // is told that a mirror has changed
}

// startPipelines opens what is kept of pipelines and plays on. Projects are known once [lazyProjects.set] has been called, and rollouts are
// followed once [lazyFollow.set] has.
func startPipelines(dir string, inst instance, host *githost.Host, jobs int, logLimit int64, own own, who *people, log *slog.Logger) (_ *pipelineServer, err error) {
	s := &pipelineServer{
		done: make(chan struct{}), leaving: make(chan struct{}), cluster: newLazyProjects(host), log: log, onMirror: func(string) {},
	}
	s.keeper = newProjectKeeper(s)
	defer func() {
		if err != nil {
			err = errors.Join(err, s.shut())
		}
	}()
	builds := filepath.Join(dir, "builds")
	if err := scratch.RemoveAll(builds); err != nil { // of a process that was killed
		return nil, fmt.Errorf("remove what jobs have left: %w", err)
	}
	if err := os.MkdirAll(builds, 0o700); err != nil {
		return nil, fmt.Errorf("make the directory of jobs: %w", err)
	}
	key, db, err := openDatabase(dir, own, log)
	if err != nil {
		return nil, err
	}
	s.close, s.store, s.key, s.url = append(s.close, db), db, key, inst.base()
	if s.kept = own.history; s.kept == nil {
		s.kept = newHistoryQueue(log)
		s.close = append(s.close, s.kept)
	}
	s.kept.keep(own.keep)
	s.kept.open(db)
	s.auditor = startAuditor(dir, db, host, own.keep, log)
	who.known(s.auditor)
	s.close = append(s.close, s.auditor)
	artifacts, err := artifact.Open(filepath.Join(dir, "artifacts"), artifact.Options{})
	if err != nil {
		return nil, err
	}
	s.close = append(s.close, artifacts)
	if s.runners, err = s.startRunners(dir, inst, own, log); err != nil {
		return nil, err
	}
	tokens, err := hkdf.Key(sha256.New, key, nil, "keelson CI_JOB_TOKEN", sha256.Size)
	if err != nil {
		return nil, fmt.Errorf("the tokens of jobs: %w", err)
	}
	if own.access == nil {
		if own.access, err = listenAgain(inst.AccessPort); err != nil {
			return nil, fmt.Errorf("the jobs' way to the cluster: %w", err)
		}
	}
	if s.access, err = newJobAccess(filepath.Join(dir, "access"), own.access, key, s.cluster, log); err != nil {
		return nil, err
	}
	if err = s.access.tidy(context.Background(), jobOver(db)); err != nil {
		return nil, errors.Join(err, s.access.Close())
	}
	s.close = append(s.close, s.access)
	if s.follows, err = newLazyFollow(dir, host, cmp.Or(own.git, inst.git(false))); err != nil {
		return nil, err
	}
	s.close = append(s.close, s.follows)
	s.Server, err = ci.New(ci.Options{
		Store: db, Artifacts: artifacts, Projects: s.cluster, Executor: refusing{noShell}, Builds: builds, URL: inst.base(), GitURL: inst.git(false), Jobs: jobs, Log: log,
		Access: s.access.give, Follow: s.follows.follow, LogLimit: logLimit, Runs: s.runners.of, Key: tokens,
		News: s.keeper.news, Ended: s.keeper.over, Mirrored: func(repository string) { s.onMirror(repository) }, Record: s.auditor.Record,
	})
	if err != nil {
		return nil, err
	}
	s.open = web.NewPipelines(web.PipelinesOptions{
		Store: db, Create: s.create, Authorize: who.may.Authorize, ProjectOf: s.cluster.where, Artifacts: artifacts, Variables: s.Variables, Settings: s.cluster.settings, Recipe: s.Recipe,
		Deployers: s.Deployers, Leaving: s.leaving, Feed: own.feed, Sight: own.sight,
		Audit: who.audit(s.auditor),
	})
	s.triggers = web.NewTriggers(web.TriggersOptions{Accept: s.acceptTrigger, Record: s.auditor.Record}) // each request brings its own token
	s.plans = s.schedules(who.may.Authorize)
	s.api = s.apis(s.open, s.triggers)
	if !inst.External {
		if s.jobs, err = newJobServer(dir, inst, host, who.GuardTokens(s.open), s.triggers, s.AllowImage, log); err != nil {
			return nil, err
		}
		s.close = append(s.close, s.jobs)
	}
	ctx, stop := context.WithCancel(context.Background())
	s.stop = stop
	go func() {
		defer close(s.done)
		s.Serve(ctx)
	}()
	return s, nil
}

// openDatabase opens the database of pipelines, users and sessions, with its key.
func openDatabase(dir string, own own, log *slog.Logger) ([]byte, *store.DB, error) {
	key, err := store.OpenKey(filepath.Join(dir, "store.key"))
	if err != nil {
		return nil, nil, err
	}
	db, err := store.Open(filepath.Join(dir, "store.db"), store.Options{Key: key, Logger: log, PostgreSQL: own.database, Lost: own.lost, AuditFailed: auditFailed})
	return key, db, err
}

// connected tells of an instance's cluster, and where jobs reach this machine.
func (s *pipelineServer) connected(ctx context.Context, inst instance, config *rest.Config, c client.Client) error {
	place := ci.Place{URL: inst.base(), GitURL: inst.git(false), Registry: inst.registry()}
	if inst.Address != "" {
		place.URL = "http://" + inst.registry()
		place.GitURL = place.URL + "/git"
	}
	s.At(place)
	host := cmp.Or(inst.Address, "127.0.0.1")
	if err := s.access.connect(config, c, "https://"+net.JoinHostPort(host, strconv.Itoa(portOf(s.access.listener)))); err != nil {
		return err
	}
	if inst.Address != "" && s.jobs != nil {
		if err := s.withPods(ctx, inst, place.URL, config, c); err != nil {
			return err
		}
	}
	s.cluster.set(c)
	return nil
}

// noPods is why jobs do not run as Pods.
const noPods = "the jobs of this project are to run as Pods (executor: pod), and this instance has no node that runs containers: keelson up --node real gives it one"

// withPods lets jobs run as Pods on the real node.
func (s *pipelineServer) withPods(ctx context.Context, inst instance, url string, config *rest.Config, c client.Client) error {
	image, err := s.jobs.pushHelper(ctx, inst.registry())
	if err != nil {
		return err
	}
	if err := makeNamespace(ctx, c, jobsNamespace); err != nil {
		return err
	}
	s.pods, err = startPods(podOptions{
		url: url, image: image, jobImage: inst.JobImage, namespace: jobsNamespace, config: config, key: s.key, log: s.log,
		registry: inst.registry(), reads: s.ReadsImage,
	}, s.store)
	if err != nil {
		return err
	}
	s.jobs.agents.set(s.pods.Handler())
	s.runners.pods = s.pods.Executor
	return nil
}

// own is what somebody else than an instance has of their own.
type own struct {
	access  net.Listener  // of the jobs' way to the cluster; nil: a port of 127.0.0.1
	noShell string        // why no job runs in a shell of this machine; empty: they may
	git     string        // where repositories are, as sources of the cluster name them; empty: as the instance has it
	history *historyQueue // nil: it is begun here, and ends with what is played; else its owner ends it before
	usual   string        // what runs the jobs of projects that do not say; empty: as the instance has it
	feed    *web.Feed     // takes in what changes; nil: one of its own
	sight   *web.Sight    // who may be told of which apps; nil: nobody of any

	keep     retention
	database string // a PostgreSQL one; empty: a file
	lost     func() // is told when another process has taken it
}

// noShell is said of jobs that nothing here runs.
const noShell = "nothing runs jobs here"

// startRunners starts what runs jobs on this machine. What runs them as Pods comes with the cluster.
func (s *pipelineServer) startRunners(dir string, inst instance, own own, log *slog.Logger) (runners, error) {
	r := runners{usual: cmp.Or(own.usual, inst.Runner, runnerShell), noPods: noPods, noShell: own.noShell}
	if own.noShell != "" {
		return r, nil
	}
	tools := filepath.Join(dir, "tools")
	if err := os.RemoveAll(tools); err != nil { // the program may be elsewhere by now
		return r, fmt.Errorf("link the tools of jobs: %w", err)
	}
	if err := os.Mkdir(tools, 0o755); err != nil {
		return r, fmt.Errorf("link the tools of jobs: %w", err)
	}
	if err := linkTools(tools); err != nil {
		return r, err
	}
	sandbox, err := sandboxOf(inst, filepath.Dir(dir), tools, log)
	if err != nil {
		return r, err
	}
	x, err := shell.New(shell.Options{Runner: executor.Runner{Version: version, Disposable: true}, Tools: tools, Sandbox: sandbox})
	if err != nil {
		return r, err
	}
	s.close = append(s.close, x)
	r.shell = x
	return r, nil
}

// sandboxOf keeps jobs from an instance's data, where the system can do that; else nil, and the log says why.
func sandboxOf(inst instance, data, tools string, log *slog.Logger) (*shell.Sandbox, error) {
	if kind, why := shell.Check(); kind == shell.NoIsolation {
		log.Warn("jobs run without a sandbox, as the user of this instance", "why", why)
		return nil, nil
	}
	program, err := os.Executable()
	if err == nil {
		program, err = filepath.EvalSymlinks(program)
	}
	if err != nil {
		return nil, fmt.Errorf("find this program: %w", err)
	}
	s := &shell.Sandbox{Hide: []string{data}, Show: []string{tools, program}}
	if _, err := os.Stat(inst.Kubeconfig); inst.External && err == nil {
		s.Hide = append(s.Hide, inst.Kubeconfig)
	}
	return s, nil
}

// shut ends all jobs and closes what is kept.
func (s *pipelineServer) shut() error {
	if s.stop != nil {
		s.stop()
		<-s.done
	}
	var errs []error
	if s.pods != nil { // after what is played there has let go of its jobs
		errs = append(errs, s.pods.Close())
		s.pods = nil
	}
	for _, c := range slices.Backward(s.close) {
		errs = append(errs, c.Close())
	}
	s.close, s.stop = nil, nil
	return errors.Join(errs...)
}

// pushed passes a push on.
func (s *pipelineServer) pushed(p githost.Push) {
	push := ci.Push{Repository: p.Repository, User: p.User, Options: p.Options, Job: p.Job, Audit: auditPush(p)}
	for _, c := range p.Changes {
		push.Changes = append(push.Changes, ci.RefChange(c))
	}
	s.Pushed(push)
}

// create makes a pipeline that a person asks for.
func (s *pipelineServer) create(ctx context.Context, n web.NewPipeline, user string) (store.Pipeline, error) {
	p, err := s.cluster.Named(ctx, n.Project)
	if err != nil {
		return store.Pipeline{}, fmt.Errorf("project %s: %w", n.Project, err)
	}
	e := ci.Event{Project: n.Project, Source: pipeline.SourceWeb, User: user, IgnoreSkip: true}
	if e.Ref, err = ci.FullRef(p, n.Ref); err != nil {
		return store.Pipeline{}, err
	}
	for name, value := range n.Variables {
		e.Variables = append(e.Variables, pipeline.Variable{Name: name, Value: value, Origin: pipeline.OriginPipeline})
	}
	slices.SortFunc(e.Variables, func(a, b pipeline.Variable) int { return strings.Compare(a.Name, b.Name) })
	for name, value := range n.Inputs {
		if e.Inputs == nil {
			e.Inputs = map[string]pipeline.Input{}
		}
		e.Inputs[name] = pipeline.Input{Value: value}
	}
	return s.Create(ctx, e)
}

// lazyPipelines answers requests that come before there is a server of pipelines, or where there is none.
type lazyPipelines struct {
	people *people // set before anything is asked

	mu     sync.Mutex
	server *pipelineServer
	why    error // there is none
	own    ownAsks
}

func (l *lazyPipelines) set(s *pipelineServer, why error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.server, l.why = s, why
}

// waits tells that another server plays, until this one is elected.
func (l *lazyPipelines) waits(holder string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.server == nil {
		l.why = waitingFor(holder)
	}
}

func (l *lazyPipelines) get() *pipelineServer {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.server
}

// allow is the Git host's port for tokens of jobs.
func (l *lazyPipelines) allow(token, repository string, write bool) error {
	if s := l.get(); s != nil {
		return s.Allow(token, repository, write)
	}
	return errors.New("the token is wrong")
}

// job is the Git host's port for what jobs say of themselves.
func (l *lazyPipelines) job(token string) int64 {
	if s := l.get(); s != nil {
		return s.Job(token)
	}
	return 0
}

// release is the Git host's port for mirrors that nobody keeps any more.
func (l *lazyPipelines) release(repository string) bool {
	s := l.get()
	return s != nil && s.keeper.release(repository)
}

// ServeHTTP implements [http.Handler].
func (l *lazyPipelines) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	l.mu.Lock()
	s, why := l.server, l.why
	l.mu.Unlock()
	if s != nil {
		s.api.ServeHTTP(w, r)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(http.StatusServiceUnavailable)
	fmt.Fprintf(w, "{\"error\":%q}\n", "no pipelines are played here: "+cmp.Or(redactedError(why), "the instance is starting"))
}

func redactedError(err error) string {
	if err == nil {
		return ""
	}
	return err.Error()
}

// lazyProjects tells which projects there are by the Project objects of the cluster, once it is known. A repository of the Git host that no
// Project names is a project of its own, with the settings of a new one.
type lazyProjects struct {
	host  *githost.Host
	known chan struct{}
	c     client.Client // once known is closed

	mu     sync.Mutex
	places map[string]client.ObjectKey   // the Projects, by their paths
	repos  map[string][]client.ObjectKey // by their repositories
	looked time.Time
}

func newLazyProjects(host *githost.Host) *lazyProjects {
	return &lazyProjects{host: host, known: make(chan struct{})}
}

func (l *lazyProjects) set(c client.Client) {
	l.c = c
	close(l.known)
}

// all lists the projects; of several with one path the oldest is that project.
func (l *lazyProjects) all(ctx context.Context) ([]keelsonv1.Project, error) {
	select {
	case <-l.known:
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
	var list keelsonv1.ProjectList
	if err := l.c.List(ctx, &list); err != nil {
		return nil, fmt.Errorf("list Projects: %w", err)
	}
	slices.SortFunc(list.Items, func(a, b keelsonv1.Project) int {
		return cmp.Or(a.CreationTimestamp.Compare(b.CreationTimestamp.Time), strings.Compare(a.Namespace+"/"+a.Name, b.Namespace+"/"+b.Name))
	})
	taken := map[string]bool{}
	return slices.DeleteFunc(list.Items, func(p keelsonv1.Project) bool {
		again := taken[pathOf(p)]
		taken[pathOf(p)] = true
		return again
	}), nil
}

func pathOf(p keelsonv1.Project) string { return cmp.Or(p.Spec.Path, p.Spec.Repository) }

// placesKept is how long it is believed where Projects are.
const placesKept = 3 * time.Second

// where gives the namespace and the name of the Project of a path; both empty: there is none.
func (l *lazyProjects) where(ctx context.Context, path string) (namespace, name string, err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if err := l.look(ctx); err != nil {
		return "", "", err
	}
	at := l.places[path]
	return at.Namespace, at.Name, nil
}

// repository gives the Projects that name a repository.
func (l *lazyProjects) repository(ctx context.Context, name string) ([]client.ObjectKey, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if err := l.look(ctx); err != nil {
		return nil, err
	}
	return l.repos[name], nil
}

// look finds out where Projects are, unless that was done a moment ago. The caller holds the lock.
func (l *lazyProjects) look(ctx context.Context) error {
	if l.places != nil && time.Since(l.looked) <= placesKept {
		return nil
	}
	all, err := l.all(ctx)
	if err != nil {
		return err
	}
	l.places, l.repos, l.looked = make(map[string]client.ObjectKey, len(all)), map[string][]client.ObjectKey{}, time.Now()
	for i := range all {
		key, repository := client.ObjectKeyFromObject(&all[i]), all[i].Spec.Repository
		l.places[pathOf(all[i])] = key
		l.repos[repository] = append(l.repos[repository], key)
	}
	return nil
}

// object gives the Project of a path; nil: there is none.
func (l *lazyProjects) object(ctx context.Context, path string) (*keelsonv1.Project, error) {
	all, err := l.all(ctx)
	if err != nil {
		return nil, err
	}
	at := slices.IndexFunc(all, func(p keelsonv1.Project) bool { return pathOf(p) == path })
	if at < 0 {
		return nil, nil //nolint:nilnil // no object says anything
	}
	return &all[at], nil
}

// Of implements [ci.Projects].
func (l *lazyProjects) Of(ctx context.Context, repository string) ([]ci.Project, error) {
	all, err := l.all(ctx)
	if err != nil {
		return nil, err
	}
	var out []ci.Project
	var failed []error
	named := false
	for _, p := range all {
		if p.Spec.Repository != repository {
			continue
		}
		named = true
		resolved, err := l.resolve(ctx, p)
		if err != nil {
			failed = append(failed, err)
			continue
		}
		out = append(out, resolved)
	}
	if !named && !slices.ContainsFunc(all, func(p keelsonv1.Project) bool { return pathOf(p) == repository }) {
		out = append(out, l.plain(repository))
	}
	return out, errors.Join(failed...)
}

// Named implements [ci.Projects].
func (l *lazyProjects) Named(ctx context.Context, path string) (ci.Project, error) {
	all, err := l.all(ctx)
	if err != nil {
		return ci.Project{}, err
	}
	for _, p := range all {
		if pathOf(p) == path {
			return l.resolve(ctx, p)
		}
	}
	if githost.CheckName(path) == nil && l.host.Exists(path) && !slices.ContainsFunc(all, func(p keelsonv1.Project) bool { return p.Spec.Repository == path }) {
		return l.plain(path), nil
	}
	return ci.Project{}, fmt.Errorf("%w: %s is neither a Project nor a repository", ci.ErrNoProject, path)
}

// plain is the project of a repository that no Project names.
func (l *lazyProjects) plain(repository string) ci.Project {
	return ci.Project{Path: repository, Repository: repository, Dir: l.host.Dir(repository)}
}

// resolve reads the values of a project's variables; with those that cannot be read the error is about them.
func (l *lazyProjects) resolve(ctx context.Context, p keelsonv1.Project) (ci.Project, error) {
	name := p.Namespace + "/" + p.Name
	if err := githost.CheckName(p.Spec.Repository); err != nil {
		return ci.Project{}, fmt.Errorf("the Project %s: %w", name, err)
	}
	if !l.host.Exists(p.Spec.Repository) {
		return ci.Project{}, fmt.Errorf("the Project %s: there is no repository %s: keelson git create %s makes it", name, p.Spec.Repository, p.Spec.Repository)
	}
	out := l.plain(p.Spec.Repository)
	var failed []error
	out.Path, out.DefaultBranch, out.ConfigPath = pathOf(p), p.Spec.DefaultBranch, p.Spec.ConfigPath
	out.ReadableBy, out.Suspended = p.Spec.ReadableBy, p.Spec.Suspend
	settings(&out, p.Spec)
	out.Runner, out.Place = runnerName(p), jobPlace(p)
	if p.Spec.Protected != nil {
		out.ProtectedBranches, out.ProtectedTags = append([]string{}, p.Spec.Protected.Branches...), p.Spec.Protected.Tags
	}
	for _, e := range p.Spec.Environments {
		out.Environments = append(out.Environments, ci.EnvironmentRule{Name: e.Name, Deployers: e.Deployers})
	}
	out.Following = followingOf(p)
	for _, v := range p.Spec.Variables {
		variable := pipeline.Variable{
			Name: v.Name, Value: v.Value, File: v.Type == "file", Protected: v.Protected, Scope: v.Environment, Raw: v.Expand != nil && !*v.Expand,
			Masked: v.Masked != nil && *v.Masked, Origin: pipeline.OriginProject,
		}
		if from := v.ValueFrom; from != nil {
			value, there, err := l.value(ctx, p.Namespace, from)
			if err != nil {
				failed = append(failed, fmt.Errorf("the Project %s: variable %s: %w", name, v.Name, err))
				continue
			}
			if !there {
				continue // it is optional
			}
			variable.Value, variable.Masked = value, from.SecretKeyRef != nil && (v.Masked == nil || *v.Masked) || variable.Masked
		}
		out.Variables = append(out.Variables, variable)
	}
	return out, errors.Join(failed...)
}

// value reads a key of a Secret or a ConfigMap; there is false where it is not there and need not be.
func (l *lazyProjects) value(ctx context.Context, namespace string, from *keelsonv1.VariableSource) (value string, there bool, err error) {
	var obj client.Object = &corev1.Secret{}
	var name, key string
	var optional bool
	switch {
	case from.SecretKeyRef != nil:
		name, key, optional = from.SecretKeyRef.Name, from.SecretKeyRef.Key, from.SecretKeyRef.Optional != nil && *from.SecretKeyRef.Optional
	case from.ConfigMapKeyRef != nil:
		obj = &corev1.ConfigMap{}
		name, key, optional = from.ConfigMapKeyRef.Name, from.ConfigMapKeyRef.Key, from.ConfigMapKeyRef.Optional != nil && *from.ConfigMapKeyRef.Optional
	default:
		return "", false, errors.New("valueFrom names neither a Secret nor a ConfigMap")
	}
	err = l.c.Get(ctx, client.ObjectKey{Namespace: namespace, Name: name}, obj)
	if client.IgnoreNotFound(err) != nil {
		return "", false, err
	}
	switch o := obj.(type) {
	case *corev1.Secret:
		data, ok := o.Data[key]
		value, there = string(data), ok
	case *corev1.ConfigMap:
		value, there = o.Data[key]
	}
	if !there && !optional {
		return "", false, fmt.Errorf("there is no key %s in %T %s/%s", key, obj, namespace, name)
	}
	return value, there, nil
}
