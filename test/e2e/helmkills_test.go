package e2e

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	helmv2 "github.com/fluxcd/helm-controller/api/v2"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
)

// gallows stands between a server and its cluster and kills the server at one request: before it gets to the cluster, or once the
// cluster has done it and before the server hears of that.
type gallows struct {
	proxy *httputil.ReverseProxy
	url   string

	mu  sync.Mutex
	at  deadly
	who *server
	hit chan struct{} // closed when it is done
}

// deadly is a request that a server does not survive: "PUT /secrets/.*v2$ status.deployed" with what the path ends in and, as the third
// word, what the body has to contain.
type deadly struct {
	request string
	before  bool
}

func (d deadly) is(r *http.Request, body []byte) bool {
	words := strings.Fields(d.request)
	if len(words) < 2 || !regexp.MustCompile("^(?:"+words[0]+")$").MatchString(r.Method) || !regexp.MustCompile(words[1]).MatchString(r.URL.Path) {
		return false
	}
	return len(words) < 3 || regexp.MustCompile(words[2]).Match(body)
}

func newGallows(t *testing.T, config *rest.Config) *gallows {
	t.Helper()
	to, err := url.Parse(config.Host)
	if err != nil {
		t.Fatal(err)
	}
	transport, err := rest.TransportFor(config)
	if err != nil {
		t.Fatal(err)
	}
	g := &gallows{proxy: &httputil.ReverseProxy{
		Rewrite: func(r *httputil.ProxyRequest) { r.SetURL(to) }, Transport: transport, FlushInterval: -1,
		ErrorHandler: func(http.ResponseWriter, *http.Request, error) { panic(http.ErrAbortHandler) }, // as a connection that breaks
	}}
	s := httptest.NewServer(g)
	t.Cleanup(s.CloseClientConnections)
	g.url = s.URL
	return g
}

// ServeHTTP implements [http.Handler].
func (g *gallows) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	var body []byte
	if r.Method != http.MethodGet {
		body, _ = io.ReadAll(r.Body)
		r.Body = io.NopCloser(bytes.NewReader(body))
	}
	g.mu.Lock()
	at, who := g.at, g.who
	if who == nil || !at.is(r, body) {
		g.mu.Unlock()
		g.proxy.ServeHTTP(w, r)
		return
	}
	g.who = nil
	g.mu.Unlock()
	if !at.before {
		g.proxy.ServeHTTP(httptest.NewRecorder(), r)
	}
	_ = who.cmd.Process.Kill()
	<-who.done
	close(g.hit)
	panic(http.ErrAbortHandler)
}

// arm has the next request of a kind kill a server.
func (g *gallows) arm(who *server, at deadly) (hit <-chan struct{}) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.who, g.at, g.hit = who, at, make(chan struct{})
	return g.hit
}

// kubeconfig leads past the gallows.
func (g *gallows) kubeconfig(t *testing.T) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), "kubeconfig")
	write(t, file, fmt.Sprintf(`
apiVersion: v1
kind: Config
clusters: [{name: c, cluster: {server: %q}}]
users: [{name: u, user: {}}]
contexts: [{name: c, context: {cluster: c, user: u}}]
current-context: c
`, g.url))
	return file
}

// mortalChart makes two ConfigMaps and, as values say, a hook that completes by itself, and an object that the API server refuses.
func mortalChart(t *testing.T, dir string) {
	t.Helper()
	const name = "{{ .Release.Name }}"
	for file, text := range map[string]string{
		"Chart.yaml":            "apiVersion: v2\nname: mortal\nversion: 1.0.0\n",
		"values.yaml":           "{v: chart, hook: '', broken: false}\n",
		"templates/a.yaml":      configYAML(name+"-a", "{{ .Values.v }}", ""),
		"templates/b.yaml":      configYAML(name+"-b", "{{ .Values.v }}", ""),
		"templates/hook.yaml":   "{{ if .Values.hook }}\n" + jobYAML(name+"-hook", `"helm.sh/hook": "{{ .Values.hook }}"`, "") + "{{ end }}",
		"templates/broken.yaml": "{{ if .Values.broken }}\n" + configYAML("NOT-A-NAME", "x", "") + "{{ end }}",
	} {
		write(t, filepath.Join(dir, "chart", file), text)
	}
}

// mortal is one kill: what is declared, at what request the server is killed, and what has become of the release in the end.
type mortal struct {
	name, what  string
	first, then string // values; the first ones are released before, unless there are none
	remove      bool   // the HelmRelease is deleted in the end, and killed is then
	at          deadly
	left        []string // the versions right after the kill
	history     []string // in the end
	ready       string   // the reason of Ready in the end, or of Stalled
	v           string   // the value in the objects; empty: they are gone
	installs    int64    // failures that are counted
	upgrades    int64
	spec        string // more of it
}

const (
	remedies = "install: {remediation: {retries: 0, remediateLastFailure: true}}, upgrade: {remediation: {retries: 0, remediateLastFailure: true}}"
	writes   = "POST|PATCH "
)

func mortals() []mortal {
	return []mortal{
		{name: "unwritten", what: "before anything is written", then: "{v: one}", at: deadly{"POST /secrets$ sh.helm", true}, left: nil, history: []string{"1 deployed"}, ready: "InstallSucceeded", v: "one"},
		{name: "half", what: "between two objects of an install", then: "{v: one}", at: deadly{writes + "/configmaps half-b", true}, left: []string{"1 pending-install"}, history: []string{"1 superseded", "2 deployed"}, ready: "UpgradeSucceeded", v: "one"},
		{name: "preinstall", what: "in a pre-install hook", then: "{v: one, hook: pre-install}", at: deadly{writes + "/jobs preinstall-hook", false}, left: []string{"1 pending-install"}, history: []string{"1 superseded", "2 deployed"}, ready: "UpgradeSucceeded", v: "one"},
		{name: "postinstall", what: "in a post-install hook", then: "{v: one, hook: post-install}", at: deadly{writes + "/jobs postinstall-hook", false}, left: []string{"1 pending-install"}, history: []string{"1 superseded", "2 deployed"}, ready: "UpgradeSucceeded", v: "one"},
		{name: "installed", what: "between an install's Secret and its status", then: "{v: one}", at: deadly{"PUT v1.installed.v1$ status[^a-z]+deployed", false}, left: []string{"1 deployed"}, history: []string{"1 deployed"}, ready: "InstallSucceeded", v: "one"},
		{name: "halfup", what: "between two objects of an upgrade", first: "{v: one}", then: "{v: two}", at: deadly{"PATCH /configmaps/halfup-b$", true}, left: []string{"1 deployed", "2 pending-upgrade"}, history: []string{"1 superseded", "2 failed", "3 deployed"}, ready: "UpgradeSucceeded", v: "two"},
		{name: "preupgrade", what: "in a pre-upgrade hook", first: "{v: one}", then: "{v: two, hook: pre-upgrade}", at: deadly{writes + "/jobs preupgrade-hook", false}, left: []string{"1 deployed", "2 pending-upgrade"}, history: []string{"1 superseded", "2 failed", "3 deployed"}, ready: "UpgradeSucceeded", v: "two"},
		{name: "postupgrade", what: "in a post-upgrade hook", first: "{v: one}", then: "{v: two, hook: post-upgrade}", at: deadly{writes + "/jobs postupgrade-hook", false}, left: []string{"1 deployed", "2 pending-upgrade"}, history: []string{"1 superseded", "2 failed", "3 deployed"}, ready: "UpgradeSucceeded", v: "two"},
		{name: "upgraded", what: "between an upgrade's Secret and its status", first: "{v: one}", then: "{v: two}", at: deadly{"PUT v1.upgraded.v2$ status[^a-z]+deployed", false}, left: []string{"1 superseded", "2 deployed"}, history: []string{"1 superseded", "2 deployed"}, ready: "UpgradeSucceeded", v: "two"},
		{name: "failed", what: "between a failed upgrade's Secret and its status", first: "{v: one}", then: "{v: two, broken: true}", at: deadly{"PUT v1.failed.v2$ status[^a-z]+failed", false}, left: []string{"1 deployed", "2 failed"}, history: []string{"1 superseded", "2 failed", "3 failed", "4 deployed"}, ready: "RetriesExceeded", v: "one", upgrades: 1},
		{name: "halfback", what: "between two objects of a rollback", first: "{v: one}", then: "{v: two, broken: true}", at: deadly{"PATCH /configmaps/halfback-b$ \"one\"", true}, left: []string{"1 deployed", "2 failed", "3 pending-rollback"}, history: []string{"1 superseded", "2 failed", "3 failed", "4 deployed"}, ready: "RetriesExceeded", v: "one", upgrades: 1},
		{name: "postback", what: "in a post-rollback hook", first: "{v: one, hook: post-rollback}", then: "{v: two, broken: true}", at: deadly{writes + "/jobs postback-hook", false}, left: []string{"1 deployed", "2 failed", "3 pending-rollback"}, history: []string{"1 superseded", "2 failed", "3 failed", "4 deployed"}, ready: "RetriesExceeded", v: "one", upgrades: 1},
		{name: "backed", what: "between a rollback's Secret and its status", first: "{v: one}", then: "{v: two, broken: true}", at: deadly{"PUT v1.backed.v3$ status[^a-z]+deployed", false}, left: []string{"1 superseded", "2 failed", "3 deployed"}, history: []string{"1 superseded", "2 failed", "3 deployed"}, ready: "RetriesExceeded", v: "one", upgrades: 1},
		{name: "testing", what: "in a test", then: "{v: one, hook: test}", spec: "test: {enable: true}", at: deadly{writes + "/jobs testing-hook", false}, left: []string{"1 deployed"}, history: []string{"1 deployed"}, ready: "TestSucceeded", v: "one"},
		{name: "remedied", what: "in the uninstall that remedies an install", then: "{v: one, broken: true}", at: deadly{"DELETE /configmaps/remedied-a$", false}, left: []string{"1 uninstalling"}, ready: "RetriesExceeded", installs: 1},
		{name: "remedy", what: "between that uninstall's end and its status", then: "{v: one, broken: true}", at: deadly{"DELETE v1.remedy.v1$", false}, ready: "RetriesExceeded", installs: 1},
		{name: "predelete", what: "in a pre-delete hook", first: "{v: one, hook: pre-delete}", remove: true, at: deadly{writes + "/jobs predelete-hook", false}, left: []string{"1 uninstalling"}},
		{name: "deleted", what: "between two objects of a deletion", first: "{v: one}", remove: true, at: deadly{"DELETE /configmaps/deleted-a$", false}, left: []string{"1 uninstalling"}},
		{name: "gone", what: "between a deletion's Secret and its finalizer", first: "{v: one}", remove: true, at: deadly{"DELETE v1.gone.v1$", false}},
	}
}

// TestServerKilledAtEachWrite kills the server at one write after the other of everything that is done to a release: the next server takes the
// release up, history and status agree, nothing stays pending, and nothing is left when it is deleted.
func TestServerKilledAtEachWrite(t *testing.T) {
	const ns = "helm-mortal"
	kubeconfig, data := bareCluster(t), t.TempDir()
	kubectl(t, kubeconfig, "apply", "-f", filepath.Join(root(), "config", "crd"))
	kubectl(t, kubeconfig, "wait", "--for=condition=Established", "--timeout=60s", "crd", "--all")
	config, err := clientcmd.BuildConfigFromFlags("", kubeconfig)
	if err != nil {
		t.Fatal(err)
	}
	client, err := dynamic.NewForConfig(config)
	if err != nil {
		t.Fatal(err)
	}
	git, files := newRemote(t), t.TempDir()
	mortalChart(t, files)
	git.create(t, "mortal", files)
	apply(t, kubeconfig, namespaceYAML(ns)+fmt.Sprintf(`
---
apiVersion: v1
kind: Secret
metadata: {name: git, namespace: %[1]s}
stringData: {username: %[2]s, password: %[3]s}
---
apiVersion: source.toolkit.fluxcd.io/v1
kind: GitRepository
metadata: {name: charts, namespace: %[1]s}
spec: {interval: 1h, url: %[4]q, ref: {branch: main}, secretRef: {name: git}}
`, ns, remoteUser, remotePassword, git.url+"/mortal.git"))
	m := &mortality{T: t, whole: t, ns: ns, kubeconfig: kubeconfig, client: client, gallows: newGallows(t, config), data: data}
	m.config = m.gallows.kubeconfig(t)
	m.start()
	for _, c := range mortals() {
		t.Run(c.name, func(t *testing.T) {
			m.T = t
			m.kill(c)
		})
	}
	m.T = t
	kubectl(t, kubeconfig, "-n", ns, "delete", "helmrelease", "--all", "--timeout=60s")
	if left := kubectl(t, kubeconfig, "-n", ns, "get", "configmaps,secrets", "-o", "name"); strings.TrimSpace(left) != "configmap/kube-root-ca.crt\nsecret/git" {
		t.Errorf("left in the end:\n%s", left)
	}
	m.server.stop(t)
	kubectl(t, kubeconfig, "-n", ns, "delete", "gitrepository", "charts")
	kubectl(t, kubeconfig, "delete", "namespace", ns, "--wait=false")
}

// mortality is what the kills share.
type mortality struct {
	*testing.T
	whole                        *testing.T // whose end is that of the servers
	ns, kubeconfig, config, data string
	client                       dynamic.Interface
	gallows                      *gallows
	server                       *server
}

func (m *mortality) start() {
	m.Helper()
	m.server = startServer(m.whole, m.config, m.data)
	m.server.waitFor(m.T, works)
}

func (m *mortality) read(name string) (*helmv2.HelmRelease, error) {
	gvr := schema.GroupVersionResource{Group: helmv2.GroupVersion.Group, Version: helmv2.GroupVersion.Version, Resource: "helmreleases"}
	u, err := m.client.Resource(gvr).Namespace(m.ns).Get(context.Background(), name, metav1.GetOptions{})
	if err != nil {
		return nil, err
	}
	hr := &helmv2.HelmRelease{}
	return hr, runtime.DefaultUnstructuredConverter.FromUnstructured(u.Object, hr)
}

// until waits until a HelmRelease has been dealt with and Ready, or Stalled, has a reason.
func (m *mortality) until(name, reason string) *helmv2.HelmRelease {
	m.Helper()
	var hr *helmv2.HelmRelease
	eventually(m.T, "HelmRelease "+name, func() error {
		var err error
		if hr, err = m.read(name); err != nil {
			return err
		}
		told := slices.ContainsFunc(hr.Status.Conditions, func(c metav1.Condition) bool {
			return (c.Type == "Ready" || c.Type == "Stalled") && c.Reason == reason
		})
		if !told || hr.Status.ObservedGeneration != hr.Generation {
			text, _ := json.Marshal(hr.Status)
			return fmt.Errorf("want %s: %s", reason, text)
		}
		return nil
	})
	return hr
}

func (m *mortality) history(name string) []string {
	got := stockHistory(m.T, m.kubeconfig, m.ns, name)
	if len(got) == 1 && strings.Contains(got[0], "not found") {
		return nil
	}
	return got
}

func (m *mortality) kill(c mortal) {
	m.Helper()
	declare := func(values string) {
		m.Helper()
		apply(m.T, m.kubeconfig, fmt.Sprintf(`
apiVersion: helm.toolkit.fluxcd.io/v2
kind: HelmRelease
metadata: {name: %s, namespace: %s}
spec: {interval: 1h, timeout: 30s, chart: {spec: {chart: chart, sourceRef: {kind: GitRepository, name: charts}}}, %s, values: %s, %s}
`, c.name, m.ns, remedies, values, c.spec))
	}
	if c.first != "" {
		declare(c.first)
		m.until(c.name, "InstallSucceeded")
	}
	hit := m.gallows.arm(m.server, c.at)
	if c.remove {
		kubectl(m.T, m.kubeconfig, "-n", m.ns, "delete", "helmrelease", c.name, "--wait=false")
	} else {
		declare(c.then)
	}
	select {
	case <-hit:
	case <-m.Context().Done():
		m.Fatal("the test has ended")
	case <-time.After(limit):
		hr, err := m.read(c.name)
		m.Fatalf("%s: no such request: %+v %v", c.what, hr, err)
	}
	if got := m.history(c.name); !slices.Equal(got, c.left) {
		m.Errorf("killed %s: history %q, want %q", c.what, got, c.left)
	}
	m.start()
	if c.remove {
		eventually(m.T, "HelmRelease "+c.name+" to be gone", func() error {
			if _, err := m.read(c.name); !apierrors.IsNotFound(err) {
				return errors.Join(errors.New("it is there"), err)
			}
			return nil
		})
	} else {
		m.agree(c, m.until(c.name, c.ready))
	}
	if got := m.history(c.name); !slices.Equal(got, c.history) {
		m.Errorf("killed %s: in the end history %q, want %q", c.what, got, c.history)
	}
	for _, object := range []string{"-a", "-b"} {
		if r := tryKubectl(m.kubeconfig, "-n", m.ns, "get", "configmap", c.name+object, "-o", "jsonpath={.data.v}"); r.out != c.v {
			m.Errorf("killed %s: %s has %q, want %q", c.what, object, r.out, c.v)
		}
	}
}

// agree compares what the status says with the storage.
func (m *mortality) agree(c mortal, hr *helmv2.HelmRelease) {
	m.Helper()
	var told []string
	for _, s := range hr.Status.History {
		if s.Status != "uninstalled" {
			told = append(told, fmt.Sprintf("%d %s", s.Version, s.Status))
		}
	}
	slices.Sort(told)
	if !slices.Equal(told, c.history) {
		m.Errorf("killed %s: the status tells of %q, want %q", c.what, told, c.history)
	}
	if hr.Status.InstallFailures != c.installs || hr.Status.UpgradeFailures != c.upgrades {
		m.Errorf("killed %s: %d failures of installs and %d of upgrades are counted, want %d and %d",
			c.what, hr.Status.InstallFailures, hr.Status.UpgradeFailures, c.installs, c.upgrades)
	}
}
