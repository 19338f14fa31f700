package main

import (
	"cmp"
	"context"
	"crypto/hkdf"
	"crypto/sha256"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/client-go/rest"
	"sigs.k8s.io/controller-runtime/pkg/client"

	keelsonv1 "keelson.dev/keelson/api/v1alpha1"
	"keelson.dev/keelson/internal/ci"
	"keelson.dev/keelson/internal/kube/proxy"
	"keelson.dev/keelson/internal/pipeline"
	"keelson.dev/keelson/internal/pipeline/executor"
	"keelson.dev/keelson/internal/pipeline/run"
)

// jobAccess is the way of jobs to the cluster: an API proxy on a port of its own, and what Projects say about who may use it and as whom. The
// port and the certificate authority stay the same over restarts, so that jobs which outlive this process can go on.
type jobAccess struct {
	authority *proxy.Authority
	written   string // the directory with what jobs have written
	listener  net.Listener
	key       []byte // from which the tokens follow
	objects   projectObjects
	log       *slog.Logger

	known  chan struct{} // closed once there is a cluster
	url    string        // where jobs find the proxy
	proxy  *proxy.Proxy
	server *http.Server
	c      client.Client
}

// projectObjects tells which Project an object of the cluster is; nil: no object says anything about that path.
type projectObjects interface {
	object(ctx context.Context, path string) (*keelsonv1.Project, error)
}

// newJobAccess makes the way, to be served on a listener, which is its own from then on. Nothing is answered before [jobAccess.connect].
func newJobAccess(dir string, listener net.Listener, key []byte, objects projectObjects, log *slog.Logger) (*jobAccess, error) {
	a := &jobAccess{objects: objects, log: log, known: make(chan struct{}), listener: listener}
	var err error
	if a.key, err = hkdf.Key(sha256.New, key, nil, "keelson job tokens", sha256.Size); err != nil {
		return nil, fmt.Errorf("the jobs' way to the cluster: %w", err)
	}
	a.written = filepath.Join(dir, "written")
	if err := os.MkdirAll(a.written, 0o700); err != nil {
		return nil, fmt.Errorf("the jobs' way to the cluster: %w", err)
	}
	if a.authority, err = proxy.OpenAuthority(filepath.Join(dir, "authority.pem"), time.Now); err != nil {
		return nil, err
	}
	a.authority.Name("127.0.0.1")
	return a, nil
}

// listenAgain listens on a port of 127.0.0.1, or on any free one where that port is 0 or taken.
func listenAgain(port int) (net.Listener, error) {
	listen := func(port int) (net.Listener, error) {
		return net.Listen("tcp", net.JoinHostPort("127.0.0.1", strconv.Itoa(port)))
	}
	if port != 0 {
		if l, err := listen(port); err == nil {
			return l, nil
		}
	}
	return listen(0)
}

// portOf is the port that a listener has.
func portOf(l net.Listener) int {
	if addr, ok := l.Addr().(*net.TCPAddr); ok {
		return addr.Port
	}
	return 0
}

// connect tells of the cluster and at which URL jobs find the proxy, and lets jobs in.
func (a *jobAccess) connect(config *rest.Config, c client.Client, server string) error {
	u, err := url.Parse(server)
	if err != nil {
		return fmt.Errorf("the jobs' way to the cluster: %w", err)
	}
	a.authority.Name(u.Hostname())
	a.url = server
	if a.proxy, err = proxy.New(config, proxy.Options{Audit: true, Key: a.key}); err != nil {
		return fmt.Errorf("the jobs' way to the cluster: %w", err)
	}
	a.c = c
	a.server = a.proxy.Server()
	a.server.TLSConfig = a.authority.TLS()
	go func() {
		if err := a.server.ServeTLS(a.listener, "", ""); !errors.Is(err, http.ErrServerClosed) {
			a.log.Error("the jobs' way to the cluster", "error", err)
		}
	}()
	close(a.known)
	return nil
}

// tidy removes what jobs have left whose process was killed, and which are over.
func (a *jobAccess) tidy(ctx context.Context, over func(ctx context.Context, job int64) (bool, error)) error {
	entries, err := os.ReadDir(a.written)
	if err != nil {
		return fmt.Errorf("the jobs' way to the cluster: %w", err)
	}
	for _, e := range entries {
		id, err := strconv.ParseInt(e.Name(), 10, 64)
		gone := err != nil // a file that was being made
		if !gone {
			if gone, err = over(ctx, id); err != nil {
				return fmt.Errorf("the jobs' way to the cluster: %w", err)
			}
		}
		if gone {
			if err := os.Remove(filepath.Join(a.written, e.Name())); err != nil {
				return fmt.Errorf("the jobs' way to the cluster: %w", err)
			}
		}
	}
	return nil
}

// Close implements [io.Closer].
func (a *jobAccess) Close() error {
	select {
	case <-a.known:
		return a.server.Close()
	default:
		return a.listener.Close()
	}
}

// tokenSlack is how long a job's token is good beyond the times of its script and after_script: what comes before and after them takes time,
// too. It is taken back when the job ends.
const tokenSlack = 15 * time.Minute

// tokenEnd is when a job's token is good no more, whatever becomes of this process.
func tokenEnd(job *executor.Job) time.Time {
	started := job.Started
	if started.IsZero() {
		started = time.Now()
	}
	after, _ := job.AfterScriptLimit() // with an error the limit is the usual one
	return started.Add(job.Limit() + after + tokenSlack)
}

// give implements the port of [ci.Options.Access].
func (a *jobAccess) give(ctx context.Context, p ci.Project, ref run.JobRef, job *executor.Job) (ci.Access, error) {
	select {
	case <-a.known:
	case <-ctx.Done():
		return ci.Access{}, context.Cause(ctx)
	}
	object, err := a.objects.object(ctx, p.Path)
	if err != nil {
		return ci.Access{}, fmt.Errorf("the job's way to the cluster: %w", err)
	}
	var entries []keelsonv1.ClusterAccess
	if object != nil {
		entries = object.Spec.Access
	}
	if len(entries) == 0 { // its scripts may bring a kubeconfig of their own to where kubectl looks, which ours would hide
		return ci.Access{}, nil
	}
	record, err := proxy.OpenRecord(filepath.Join(a.written, strconv.FormatInt(ref.ID, 10)))
	if err != nil {
		return ci.Access{}, err
	}
	g := granting{proxy: a.proxy, grant: proxy.Grant{Job: strconv.FormatInt(ref.ID, 10), Project: p.Path, Expires: tokenEnd(job), OnWrite: record.Add}}
	if job.Job.Environment != nil {
		g.grant.Environment = job.Job.Environment.Name
	}
	chosen := accessFor(entries, g.grant.Environment, protectedJob(job))
	for _, entry := range chosen {
		account, err := a.account(ctx, object, entry)
		if err != nil {
			g.revoke()
			return ci.Access{}, err
		}
		if err := g.add(p.Path+":"+entry.Name, account, ""); err != nil {
			return ci.Access{}, err
		}
	}
	if len(chosen) == 0 {
		if err := g.add("keelson", proxy.Account{}, noAccess(p.Path, entries)); err != nil {
			return ci.Access{}, err
		}
	}
	access := proxy.Access{Server: a.url, CA: a.authority.PEM(), Contexts: g.contexts}
	out := ci.Access{Written: record.Written, Notes: append(bypasses(job), sharedNamespaces(p.Path, object, chosen)...), Close: func() {
		g.revoke()
		record.Close()
	}}
	if out.Variables, err = jobVariables(access); err != nil {
		g.revoke()
		return ci.Access{}, err
	}
	for _, c := range g.contexts {
		job.Mask = append(job.Mask, c.Token)
	}
	return out, nil
}

// granting collects the grants of one job.
type granting struct {
	proxy    *proxy.Proxy
	grant    proxy.Grant // what they have in common
	contexts []proxy.Context
	revokes  []func()
}

// add grants a context. Where that fails, none is left.
func (g *granting) add(name string, account proxy.Account, why string) error {
	grant := g.grant
	grant.Context, grant.Account, grant.Why = name, account, why
	token, revoke, err := g.proxy.Grant(grant)
	if err != nil {
		g.revoke()
		return fmt.Errorf("the job's way to the cluster: %w", err)
	}
	g.contexts = append(g.contexts, proxy.Context{Name: name, Token: token, Namespace: account.Namespace})
	g.revokes = append(g.revokes, revoke)
	return nil
}

func (g *granting) revoke() {
	for _, revoke := range g.revokes {
		revoke()
	}
}

// protectedJob tells whether a job is one of a protected branch or tag. Only the server's own word counts, and pipelines of merge requests
// are never trusted.
func protectedJob(job *executor.Job) bool {
	return job.Variables.Predefined("CI_COMMIT_REF_PROTECTED") == "true" && job.Variables.Predefined("CI_MERGE_REQUEST_IID") == ""
}

// accessFor picks the entries that are meant for a job.
func accessFor(all []keelsonv1.ClusterAccess, environment string, protected bool) []keelsonv1.ClusterAccess {
	var out []keelsonv1.ClusterAccess
	for _, a := range all {
		if pipeline.InScope(a.Environment, environment) && (protected || !a.Protected) {
			out = append(out, a)
		}
	}
	return out
}

// noAccess says why none of the entries is for a job, and what to do.
func noAccess(project string, entries []keelsonv1.ClusterAccess) string {
	var list []string
	for _, a := range entries {
		text := a.Name + " is for every job"
		if a.Environment != "" && a.Environment != "*" {
			text = a.Name + " is for jobs with environment " + a.Environment
		}
		if a.Protected {
			text += " on protected branches and tags only"
		}
		list = append(list, text)
	}
	return fmt.Sprintf("this job of %s has no access to the cluster: %s (spec.access of the Project)", project, strings.Join(list, ", "))
}

// projectsAnnotation names on a ServiceAccount the Projects of other namespaces whose jobs may act as it: "NAMESPACE/NAME", where * stands for
// anything in either. A project's path says nothing here: whoever may make Projects anywhere takes one that nobody has.
const projectsAnnotation = "keelson.dev/projects"

// account gives the service account of an entry. That of another namespace than the Project's has to agree.
func (a *jobAccess) account(ctx context.Context, p *keelsonv1.Project, entry keelsonv1.ClusterAccess) (proxy.Account, error) {
	account := proxy.Account{Namespace: entry.Namespace, Name: entry.ServiceAccount}
	if account.Namespace == "" {
		account.Namespace = p.Namespace
	}
	what := fmt.Sprintf("access %s of the Project %s/%s", entry.Name, p.Namespace, p.Name)
	var sa corev1.ServiceAccount
	err := a.c.Get(ctx, client.ObjectKey{Namespace: account.Namespace, Name: account.Name}, &sa)
	switch {
	case apierrors.IsNotFound(err):
		return account, refusedAccess("%s: there is no service account %s/%s: keelson ci rbac -n %s --name %s writes one with its rights, for an administrator to apply",
			what, account.Namespace, account.Name, account.Namespace, account.Name)
	case err != nil:
		return account, fmt.Errorf("%s: %w", what, err)
	case account.Namespace == p.Namespace || consents(sa.Annotations[projectsAnnotation], p.Namespace, p.Name):
		return account, nil
	}
	return account, refusedAccess("%s: the service account %s/%s is of another namespace and does not name this Project: whoever it belongs to allows that with "+
		"kubectl annotate serviceaccount %s -n %s --overwrite %s=%s/%s", what, account.Namespace, account.Name, account.Name, account.Namespace, projectsAnnotation, p.Namespace, p.Name)
}

func refusedAccess(format string, args ...any) error {
	return &executor.Failure{Reason: pipeline.ConfigurationError, Err: fmt.Errorf(format, args...)}
}

// consents tells whether a service account's annotation names a Project.
func consents(annotation, namespace, name string) bool {
	for pattern := range strings.SplitSeq(annotation, ",") {
		in, called, ok := strings.Cut(strings.TrimSpace(pattern), "/")
		if ok && in != "" && called != "" && pipeline.InScope(in, namespace) && pipeline.InScope(called, name) {
			return true
		}
	}
	return false
}

// sharedNamespaces tells which of a job's accesses, as jobs of any branch have them, act in the namespace of one for protected branches: whoever
// may make Secrets or Pods there can become every account of that namespace.
func sharedNamespaces(project string, p *keelsonv1.Project, chosen []keelsonv1.ClusterAccess) (notes []string) {
	if p == nil {
		return nil
	}
	namespace := func(a keelsonv1.ClusterAccess) string { return cmp.Or(a.Namespace, p.Namespace) }
	for _, open := range chosen {
		for _, safe := range p.Spec.Access {
			if open.Protected || !safe.Protected || namespace(open) != namespace(safe) {
				continue
			}
			notes = append(notes, fmt.Sprintf("access %s of %s is for jobs of any branch, and its service account %s is in the namespace %s, as is %s of the protected access %s: "+
				"whoever may make Secrets or Pods there can become that one; use one namespace per environment",
				open.Name, project, open.ServiceAccount, namespace(open), safe.ServiceAccount, safe.Name))
		}
	}
	return notes
}

// bypasses tells what in a job's own variables leads past the proxy.
func bypasses(job *executor.Job) []string {
	var own []string
	for _, name := range []string{"KUBECONFIG", "KUBE_URL", "KUBE_TOKEN"} {
		if v, ok := job.Variables.Get(name); ok && v.Value != "" && v.Origin != pipeline.OriginPredefined {
			own = append(own, fmt.Sprintf("%s (%s)", name, v.Origin))
		}
	}
	if len(own) == 0 {
		return nil
	}
	return []string{fmt.Sprintf("%s is not Keelson's: what the job does with it goes past Keelson's proxy, with rights of its own, and nobody follows what it deploys",
		strings.Join(own, ", "))}
}

// jobVariables gives the variables of an access as those of a job. The job's own are stronger.
func jobVariables(access proxy.Access) (pipeline.Variables, error) {
	list, err := access.Variables()
	if err != nil {
		return nil, err
	}
	var out pipeline.Variables
	for _, v := range list {
		out = append(out, pipeline.Variable{Name: v.Name, Value: v.Value, File: v.File, Masked: v.Masked, Raw: true, Origin: pipeline.OriginPredefined})
	}
	return out, nil
}
