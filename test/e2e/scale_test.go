package e2e

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	kustomizev1 "github.com/fluxcd/kustomize-controller/api/v1"
	"github.com/fluxcd/pkg/apis/meta"
	sourcev1 "github.com/fluxcd/source-controller/api/v1"
	corev1 "k8s.io/api/core/v1"
	apimeta "k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/tools/clientcmd"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

// The fleet of TestScale: one repository of a thousand apps, and two hundred repositories of five.
const (
	monoApps, smallRepos, appsPerRepo, objectsPerApp = 1000, 200, 5, 5
	fleetLimit                                       = 8 * time.Minute // this machine may be busy
	// fleetMemory bounds the resident memory of the process that delivers 10,000 objects in 2,000 apps, Git host and
	// dashboard included, in MiB. Some fifty of them are pages of the program's own file.
	fleetMemory = 256
)

// fleet is the instance that TestScale fills.
type fleet struct {
	*testing.T
	in     *instance
	client client.Client
}

// fleetClient is an unthrottled client of the cluster that knows Flux's kinds.
func fleetClient(t *testing.T, kubeconfig string) client.Client {
	t.Helper()
	config, err := clientcmd.BuildConfigFromFlags("", kubeconfig)
	if err != nil {
		t.Fatal(err)
	}
	config.QPS, config.Burst = -1, -1
	scheme := runtime.NewScheme()
	for _, add := range []func(*runtime.Scheme) error{corev1.AddToScheme, sourcev1.AddToScheme, kustomizev1.AddToScheme} {
		if err := add(scheme); err != nil {
			t.Fatal(err)
		}
	}
	c, err := client.New(config, client.Options{Scheme: scheme})
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// commitApps fills a clone with apps and pushes it.
func commitApps(c clone, names []string) {
	c.Helper()
	for _, app := range names {
		for i := range objectsPerApp {
			write(c.T, filepath.Join(c.dir, app, fmt.Sprintf("o%d.yaml", i)), appObject(app, i, "1"))
		}
	}
	c.push("Apps")
}

func appObject(app string, i int, value string) string {
	return fmt.Sprintf("apiVersion: v1\nkind: ConfigMap\nmetadata: {name: %s-%d, namespace: fleet}\ndata: {v: %q, text: %q}\n",
		app, i, value, strings.Repeat("x", 200))
}

// declare creates objects, some at a time.
func (f fleet) declare(objects []client.Object) {
	f.Helper()
	work := make(chan client.Object)
	errs := make([]error, 8)
	var wg sync.WaitGroup
	for i := range errs {
		wg.Go(func() {
			for obj := range work {
				errs[i] = errors.Join(errs[i], f.client.Create(context.Background(), obj))
			}
		})
	}
	for _, obj := range objects {
		work <- obj
	}
	close(work)
	wg.Wait()
	if err := errors.Join(errs...); err != nil {
		f.Fatal(err)
	}
}

func (f fleet) source(name string) client.Object {
	return &sourcev1.GitRepository{
		ObjectMeta: metav1.ObjectMeta{Namespace: "fleet", Name: name},
		Spec: sourcev1.GitRepositorySpec{
			URL: f.in.Dashboard + "git/" + name + ".git", Interval: metav1.Duration{Duration: time.Hour},
			Reference: &sourcev1.GitRepositoryRef{Branch: "main"},
		},
	}
}

func fleetApp(source, name string) client.Object {
	return &kustomizev1.Kustomization{
		ObjectMeta: metav1.ObjectMeta{Namespace: "fleet", Name: name},
		Spec: kustomizev1.KustomizationSpec{
			Interval: metav1.Duration{Duration: time.Hour}, Path: "./" + name, Prune: true, Wait: true,
			SourceRef: kustomizev1.CrossNamespaceSourceReference{Kind: sourcev1.GitRepositoryKind, Name: source},
		},
	}
}

// ready waits until the given number of apps is ready, each at the commit that at names for its source.
func (f fleet) ready(apps int, at map[string]string) {
	f.Helper()
	for deadline := time.Now().Add(fleetLimit); ; time.Sleep(time.Second) {
		var list kustomizev1.KustomizationList
		if err := f.client.List(f.Context(), &list, client.InNamespace("fleet")); err != nil {
			f.Fatal(err)
		}
		n, left := 0, ""
		for _, k := range list.Items {
			want, checked := at[k.Spec.SourceRef.Name]
			if apimeta.IsStatusConditionTrue(k.Status.Conditions, meta.ReadyCondition) && (!checked || k.Status.LastAppliedRevision == "main@sha1:"+want) {
				n++
				continue
			}
			left = fmt.Sprintf("%s: %+v", k.Name, k.Status.Conditions)
		}
		if n == apps {
			return
		}
		if time.Now().After(deadline) {
			f.Fatalf("%d of %d apps are ready after %s; not so is %s", n, apps, fleetLimit, left)
		}
	}
}

func (f fleet) value(name, want string) {
	f.Helper()
	eventually(f.T, "ConfigMap "+name, func() error {
		var cm corev1.ConfigMap
		if err := f.client.Get(f.Context(), client.ObjectKey{Namespace: "fleet", Name: name}, &cm); err != nil {
			return err
		}
		if cm.Data["v"] != want {
			return fmt.Errorf("it is %q, want %q", cm.Data["v"], want)
		}
		return nil
	})
}

// memory is what a process has resident, in MiB: what the kernel says about it and what is not backed by a file.
func memory(t *testing.T, pid int) (resident, anonymous int) {
	t.Helper()
	b, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(pid), "status"))
	if err != nil {
		t.Fatal(err)
	}
	field := func(name string) int {
		m := regexp.MustCompile(name + `:\s+(\d+) kB`).FindSubmatch(b)
		if m == nil {
			t.Fatalf("/proc/%d/status has no %s", pid, name)
		}
		kib, err := strconv.Atoi(string(m[1]))
		if err != nil {
			t.Fatal(err)
		}
		return kib >> 10
	}
	return field("VmRSS"), field("RssAnon")
}

// TestScale has one process deliver 10,000 objects in 2,000 apps, from one repository and from two hundred.
func TestScale(t *testing.T) {
	f := fleet{T: t, in: &instance{data: filepath.Join(t.TempDir(), "fleet")}}
	t.Cleanup(func() { f.in.keelson("down", "--purge") })
	if r := f.in.up("--port", "0"); r.code != 0 {
		t.Fatal(r.err)
	}
	f.client = fleetClient(t, f.in.Kubeconfig)
	objects := []client.Object{}
	names := make([]string, monoApps)
	for i := range names {
		names[i] = fmt.Sprintf("mono-%d", i)
		objects = append(objects, fleetApp("mono", names[i]))
	}
	f.in.must(t, "git", "create", "mono")
	mono := cloneOf(t, f.in.Git+"/mono.git")
	commitApps(mono, names)
	sources := []client.Object{f.source("mono")}
	var last clone
	for i := range smallRepos {
		repo := fmt.Sprintf("repo-%d", i)
		f.in.must(t, "git", "create", repo)
		names := make([]string, appsPerRepo)
		for j := range names {
			names[j] = fmt.Sprintf("%s-app-%d", repo, j)
			objects = append(objects, fleetApp(repo, names[j]))
		}
		last = cloneOf(t, f.in.Git+"/"+repo+".git")
		commitApps(last, names)
		sources = append(sources, f.source(repo))
	}
	f.declare([]client.Object{&corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "fleet"}}})
	f.declare(append(sources, objects...))
	const apps = monoApps + smallRepos*appsPerRepo
	f.ready(apps, nil)

	// A commit in either kind of repository is delivered, and every app of it says so.
	write(t, filepath.Join(mono.dir, "mono-500", "o3.yaml"), appObject("mono-500", 3, "2"))
	inMono := mono.push("Change one of a thousand")
	f.value("mono-500-3", "2")
	name := fmt.Sprintf("repo-%d-app-2", smallRepos-1)
	write(t, filepath.Join(last.dir, name, "o1.yaml"), appObject(name, 1, "2"))
	inLast := last.push("Change one of five")
	f.value(name+"-1", "2")
	f.ready(apps, map[string]string{"mono": inMono, fmt.Sprintf("repo-%d", smallRepos-1): inLast})

	// What is deleted comes back.
	for _, name := range []string{"mono-1-0", "repo-7-app-3-4"} {
		if err := f.client.Delete(t.Context(), &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: "fleet", Name: name}}); err != nil {
			t.Fatal(err)
		}
		f.value(name, "1")
	}
	pid := f.in.daemon(t)
	eventually(t, "little memory", func() error {
		if resident, anonymous := memory(t, pid); resident > fleetMemory {
			return fmt.Errorf("%d MiB are resident, %d of them anonymous; want %d at most", resident, anonymous, fleetMemory)
		}
		return nil
	})
	resident, anonymous := memory(t, pid)
	t.Logf("%d apps, %d objects: %d MiB resident, %d of them anonymous", apps, apps*objectsPerApp, resident, anonymous)
}
