package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
)

// fleetLimit bounds every wait for a whole fleet.
const fleetLimit = 15 * time.Minute

// creators is how many requests the one who declares things has under way at once.
const creators = 8

// world is a cluster with an audit log, and "keelson up" on it: Git host and controllers in one process that can be
// stopped and started again while the cluster runs on.
type world struct {
	b        *bench
	dir      string
	cluster  *program
	auditLog string
	keelson  *program // nil while it is stopped
	starts   int
	instance          // what the last start has printed
	fleet    fleet    // what is delivered in it, if any
	clones   []*repo  // of the fleet's repositories
	commits  []string // that they are at
	harmed   int      // how many objects somebody has edited so far
}

// newWorld starts a cluster; Keelson is not started yet.
func (b *bench) newWorld(ctx context.Context, name string) (*world, error) {
	w := &world{b: b, dir: filepath.Join(b.dir, name)}
	if err := os.Mkdir(w.dir, 0o700); err != nil {
		return nil, err
	}
	w.auditLog = filepath.Join(w.dir, "audit.log")
	var err error
	if w.cluster, w.Kubeconfig, err = b.startCluster(ctx, filepath.Join(w.dir, "cluster"), w.auditLog); err != nil {
		return nil, err
	}
	w.client, err = newClient(w.Kubeconfig)
	if err == nil {
		err = w.installCRDs(ctx)
	}
	return w, err
}

// startKeelson starts Keelson and returns once it says that it is ready: its controllers have looked at every app, and
// each one that is there is healthy. It gives when the process was started and when it said so.
func (w *world) startKeelson(ctx context.Context) (started, ready time.Time, err error) {
	data := filepath.Join(w.dir, "keelson")
	w.starts++
	args := []string{"up", "--foreground", "--json", "--data", data, "--kubeconfig", w.Kubeconfig, "--timeout", fleetLimit.String()}
	if w.b.profiles {
		args = append(args, "--pprof")
	}
	if w.starts == 1 {
		args = append(args, "--port", "0") // later ones take the port of the last run
	}
	started = time.Now()
	if w.keelson, err = w.b.start(filepath.Base(w.dir)+fmt.Sprintf("-keelson-%d", w.starts), w.b.keelson, args...); err != nil {
		return started, ready, err
	}
	line, err := w.keelson.firstLine(ctx, fleetLimit)
	ready = time.Now()
	if err != nil {
		return started, ready, err
	}
	in := instance{Kubeconfig: w.Kubeconfig, data: data, took: ready.Sub(started), client: w.client}
	if err := json.Unmarshal(line, &in); err != nil {
		return started, ready, fmt.Errorf("read the first line of keelson up: %w", err)
	}
	w.instance = in
	return started, ready, nil
}

// stopKeelson ends it by a signal.
func (w *world) stopKeelson(signal syscall.Signal) error {
	if w.keelson == nil {
		return nil
	}
	p := w.keelson
	w.keelson = nil
	return p.end(signal)
}

// close stops everything and removes what it kept.
func (w *world) close() error {
	if err := errors.Join(w.stopKeelson(syscall.SIGTERM), w.cluster.end(syscall.SIGTERM)); err != nil {
		return err
	}
	return os.RemoveAll(w.dir)
}

// prepare makes everything about a fleet that has to be there before its apps are declared: namespaces, repositories
// with their content, and sources that have been fetched.
func (w *world) prepare(ctx context.Context, f fleet) error {
	w.fleet = f
	if err := w.makeNamespaces(ctx, f); err != nil {
		return err
	}
	base, err := w.readURL()
	if err != nil {
		return err
	}
	for r := range f.repositories {
		name := f.repositoryName(r)
		files, err := f.files(r)
		if err != nil {
			return err
		}
		clone, commit, err := w.b.makeRepository(ctx, &w.instance, filepath.Join(w.dir, "clone-"+name), name, files)
		if err != nil {
			return err
		}
		w.clones, w.commits = append(w.clones, clone), append(w.commits, commit)
		if f.argo {
			continue // an Application names its repository itself
		}
		if err := w.declareSource(ctx, f.home(), name, base+"/"+name+".git"); err != nil {
			return err
		}
	}
	if f.argo {
		return nil
	}
	return w.poll(ctx, "sources", func() (bool, error) {
		list, err := w.dynamic.Resource(gitRepositories).Namespace(f.home()).List(ctx, metav1.ListOptions{})
		if err != nil {
			return false, err
		}
		for i := range list.Items {
			if condition(&list.Items[i], "Ready") != "True" {
				return false, nil
			}
		}
		return len(list.Items) == f.repositories, nil
	})
}

func (w *world) makeNamespaces(ctx context.Context, f fleet) error {
	for _, name := range append(f.namespaces(), f.home()) {
		if err := w.create(ctx, namespaces, fmt.Sprintf("{apiVersion: v1, kind: Namespace, metadata: {name: %s}}", name)); err != nil {
			return err
		}
	}
	return nil
}

// makeRepository makes a repository on the built-in host and pushes files to it.
func (b *bench) makeRepository(ctx context.Context, in *instance, dir, name string, files map[string]string) (*repo, string, error) {
	cmd := exec.CommandContext(ctx, b.keelson, "git", "create", name, "--data", in.data)
	cmd.Env = environment()
	if _, err := output(ctx, cmd); err != nil {
		return nil, "", err
	}
	return begin(ctx, in.Git+"/"+name+".git", dir, files)
}

// begin clones an empty repository and pushes its first commit.
func begin(ctx context.Context, url, dir string, files map[string]string) (*repo, string, error) {
	r, err := cloneTo(ctx, url, dir)
	if err != nil {
		return nil, "", err
	}
	if err := r.write(files); err != nil {
		return nil, "", err
	}
	commit, err := r.commit(ctx, "Begin")
	if err != nil {
		return nil, "", err
	}
	_, _, err = r.push(ctx)
	return r, commit, err
}

// declareFleet creates the apps, as fast as the API server takes them, and tells when it began and ended.
func (w *world) declareFleet(ctx context.Context) (from, to time.Time, err error) {
	base, err := w.readURL()
	if err != nil {
		return from, to, err
	}
	var all []*unstructured.Unstructured
	for i := range w.fleet.apps {
		all = append(all, w.fleet.declaration(i, base))
	}
	from = time.Now()
	err = each(ctx, creators, len(all), func(ctx context.Context, i int) error {
		return w.createObject(ctx, w.fleet.resource(), all[i])
	})
	return from, time.Now(), err
}

// each calls do for 0 to n-1, workers at a time, until one fails.
func each(ctx context.Context, workers, n int, do func(ctx context.Context, i int) error) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var next atomic.Int64
	var wg sync.WaitGroup
	for range min(workers, n) {
		wg.Go(func() {
			for i := int(next.Add(1)) - 1; i < n && ctx.Err() == nil; i = int(next.Add(1)) - 1 {
				if err := do(ctx, i); err != nil {
					cancel(err)
				}
			}
		})
	}
	wg.Wait()
	return context.Cause(ctx)
}

// rest waits until the cluster itself has nothing left to do about what was written: its controllers have seen every
// Deployment, and some time has passed for what they do beside that.
func (w *world) rest(ctx context.Context) error {
	err := w.pollFor(ctx, fleetLimit, "the cluster's own controllers", func() (bool, error) {
		list, err := w.dynamic.Resource(deployments).List(ctx, metav1.ListOptions{ResourceVersion: "0"})
		if err != nil {
			return false, err
		}
		for i := range list.Items {
			observed, _, _ := unstructured.NestedInt64(list.Items[i].Object, "status", "observedGeneration")
			if observed != list.Items[i].GetGeneration() {
				return false, nil
			}
		}
		return true, nil
	})
	if err != nil {
		return err
	}
	for begun := time.Now(); ; {
		before, err := w.cpu()
		if err != nil {
			return err
		}
		if err := pause(ctx, time.Second); err != nil {
			return err
		}
		after, err := w.cpu()
		if err != nil || after.sub(before).total() < restful {
			return err
		}
		if time.Since(begun) > restLimit {
			say("not at rest after %s: %v", restLimit, after.sub(before).detail())
			return nil
		}
	}
}

// At rest, everything together takes less than restful a second. Who never comes to rest is measured as it is.
const restful, restLimit = 300 * time.Millisecond, 2 * time.Minute

// cpu is what Keelson (if it runs) and each part of the cluster have used so far.
func (w *world) cpu() (cpuUse, error) {
	use, err := childrenCPU(w.cluster.pid())
	if err == nil && w.keelson != nil {
		use[keelsonCPU], err = cpuOf(w.keelson.pid())
	}
	return use, err
}

// keelsonCPU is Keelson's name in a cpuUse.
const keelsonCPU = "keelson"

// theFleet is the largest fleet, all ready and at rest, on which everything but the cold start is measured.
func (b *bench) theFleet(ctx context.Context) (*world, error) {
	if b.world != nil {
		return b.world, nil
	}
	w, err := b.bringFleet(ctx, "fleet", fleet{name: "fleet", apps: b.sizes[len(b.sizes)-1], repositories: b.repositories})
	if err != nil {
		return nil, err
	}
	b.world = w
	return w, nil
}

// bringFleet brings a fleet into a cluster of its own and waits until it is at rest.
func (b *bench) bringFleet(ctx context.Context, name string, f fleet) (*world, error) {
	say("a fleet of %d apps", f.apps)
	w, err := b.newWorld(ctx, name)
	if err != nil {
		return nil, err
	}
	if _, _, err := w.startKeelson(ctx); err != nil {
		return nil, err
	}
	if err := w.prepare(ctx, f); err != nil {
		return nil, err
	}
	took, err := w.bring(ctx)
	if err != nil {
		return nil, err
	}
	say("ready after %.1f s", took.last.Sub(took.first).Seconds())
	return w, w.rest(ctx)
}

// brought is when a fleet was declared and got ready.
type brought struct{ first, declared, last time.Time }

// bring declares the fleet and waits until its last app is ready at the commit.
func (w *world) bring(ctx context.Context) (brought, error) {
	apps, err := w.observe(ctx, w.fleet.resource(), w.fleet.home())
	if err != nil {
		return brought{}, err
	}
	defer apps.stop()
	var t brought
	if t.first, t.declared, err = w.declareFleet(ctx); err != nil {
		return t, err
	}
	var all []int
	for i := range w.fleet.apps {
		all = append(all, i)
	}
	t.last, err = w.awaitReady(ctx, apps, 0, all)
	return t, err
}

// awaitReady waits until apps of the fleet are ready at the commits of their repositories.
func (w *world) awaitReady(ctx context.Context, apps *observer, mark int, which []int) (time.Time, error) {
	commits := map[string]string{}
	for _, i := range which {
		commits[w.fleet.app(i)] = w.commits[i%w.fleet.repositories]
	}
	return apps.awaitEach(ctx, mark, "apps of the fleet to be ready", len(commits), func(e event) (string, bool) {
		commit, ok := commits[e.object.GetName()]
		return e.object.GetName(), ok && w.fleet.ready(e.object, commit)
	})
}

// keeping is a fleet to look at.
type keeping struct {
	apps int
	argo bool // of Applications
}

// keep brings up a fleet, tells where it is, and leaves it alone until this program is told to end. Keelson serves profiles of itself
// there.
func (b *bench) keep(ctx context.Context, k keeping) error {
	b.sizes, b.profiles = []int{k.apps}, true
	bring := b.theFleet
	if k.argo {
		bring = b.theArgoFleet
	}
	w, err := bring(ctx)
	if err != nil {
		return err
	}
	line, err := json.Marshal(map[string]any{
		"kubeconfig": w.Kubeconfig, "keelson": w.keelson.pid(), "cluster": w.cluster.pid(), "auditLog": w.auditLog,
		"git": w.Git, "profiles": w.Dashboard + "debug/pprof/", "clone": w.clones[0].dir, "data": w.data, "log": w.keelson.log,
	})
	if err != nil {
		return err
	}
	fmt.Println(string(line))
	say("it runs until this program is interrupted; a commit in the clone is delivered by git push")
	<-ctx.Done()
	return nil
}

// clusterDetail shows the CPU seconds of the cluster's parts.
func (c cpuUse) detail() map[string]float64 {
	m := map[string]float64{}
	for name, d := range c {
		m[strings.TrimPrefix(name, "kube-")] = d.Seconds()
	}
	return m
}
