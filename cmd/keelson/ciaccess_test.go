package main

import (
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"sigs.k8s.io/yaml"

	"keelson.dev/keelson/internal/kube/proxy"
	"keelson.dev/keelson/test/testcluster"
)

// jobsWorld is a cluster with a proxy for jobs, and a working tree with manifests and a chart.
type jobsWorld struct {
	*testing.T
	cluster *testcluster.Cluster
	proxy   *proxy.Proxy
	url     string
	ca      []byte

	mu   sync.Mutex
	told []string
}

func newJobsWorld(t *testing.T) *jobsWorld {
	t.Helper()
	w := &jobsWorld{T: t}
	var err error
	w.cluster, err = testcluster.Start(t.Context(), filepath.Join(t.TempDir(), "cluster"))
	w.must(err)
	t.Cleanup(w.cluster.Stop)
	w.proxy, err = proxy.New(w.cluster.Config, proxy.Options{Audit: true})
	w.must(err)
	authority, err := proxy.OpenAuthority(filepath.Join(t.TempDir(), "authority.pem"), time.Now)
	w.must(err)
	authority.Name("127.0.0.1")
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	w.must(err)
	server := w.proxy.Server()
	server.TLSConfig = authority.TLS()
	go func() { _ = server.ServeTLS(listener, "", "") }()
	t.Cleanup(func() { server.Close() })
	w.url, w.ca = "https://"+listener.Addr().String(), authority.PEM()
	chdir(t, "main")
	for name, text := range map[string]string{
		"k8s/kustomization.yaml": "namespace: shop\nresources: [web.yaml]\n",
		"k8s/web.yaml": `apiVersion: apps/v1
kind: Deployment
metadata: {name: web}
spec:
  replicas: 2
  selector: {matchLabels: {app: web}}
  template: {metadata: {labels: {app: web}}, spec: {containers: [{name: web, image: web}]}}
---
apiVersion: v1
kind: Service
metadata: {name: web}
spec: {selector: {app: web}, ports: [{port: 80}]}
`,
		"chart/Chart.yaml": "apiVersion: v2\nname: cache\nversion: 0.1.0\n",
		"chart/templates/all.yaml": `apiVersion: apps/v1
kind: Deployment
metadata: {name: {{ .Release.Name }}}
spec:
  selector: {matchLabels: {app: cache}}
  template: {metadata: {labels: {app: cache}}, spec: {containers: [{name: cache, image: "cache:{{ .Values.tag }}"}]}}
`,
	} {
		w.write(name, text)
	}
	w.admin("create", "namespace", "shop")
	w.admin("create", "namespace", "other")
	w.admin("create", "secret", "generic", "prize", "-n", "other", "--from-literal=password=s3cret-prize")
	return w
}

func (w *jobsWorld) must(err error) {
	w.Helper()
	if err != nil {
		w.Fatal(err)
	}
}

func (w *jobsWorld) write(name, text string) {
	w.Helper()
	w.must(os.MkdirAll(filepath.Dir(name), 0o755))
	w.must(os.WriteFile(name, []byte(text), 0o600))
}

// admin runs kubectl as the cluster's administrator.
func (w *jobsWorld) admin(args ...string) string {
	w.Helper()
	cmd := exec.CommandContext(w.Context(), "kubectl", args...)
	cmd.Env = append(os.Environ(), "KUBECONFIG="+w.cluster.Kubeconfig)
	out, err := cmd.CombinedOutput()
	if err != nil {
		w.Fatalf("kubectl %q: %v\n%s", args, err, out)
	}
	return string(out)
}

// rbac has an administrator apply what keelson ci rbac writes.
func (w *jobsWorld) rbac(args ...string) {
	w.Helper()
	out, err := exec.CommandContext(w.Context(), testProgram(w.T), append([]string{"ci", "rbac"}, args...)...).Output()
	w.must(err)
	w.write("rbac.yaml", string(out))
	w.admin("apply", "-f", "rbac.yaml")
	// The server's authorizer watches roles: it knows them a moment later.
	subject := "--as=system:serviceaccount:shop:" + strings.Fields(w.admin("get", "-f", "rbac.yaml", "-o", "jsonpath={.items[0].metadata.name}"))[0]
	for deadline := time.Now().Add(time.Minute); ; time.Sleep(20 * time.Millisecond) {
		cmd := exec.CommandContext(w.Context(), "kubectl", "auth", "can-i", "create", "services", "-n", "shop", subject)
		cmd.Env = append(os.Environ(), "KUBECONFIG="+w.cluster.Kubeconfig)
		out, err := cmd.CombinedOutput()
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			w.Fatalf("the role is not in force: %s", out)
		}
	}
}

// grant writes the variables of a job that may use an account of the namespace shop.
func (w *jobsWorld) grant(account string) (revoke func()) {
	w.Helper()
	token, revoke, err := w.proxy.Grant(proxy.Grant{
		Job: "12", Project: "group/app", Environment: "production", Account: proxy.Account{Namespace: "shop", Name: account},
		Expires: time.Now().Add(time.Hour),
		OnWrite: func(x proxy.Written) {
			w.mu.Lock()
			defer w.mu.Unlock()
			w.told = append(w.told, fmt.Sprintf("%s %s %s/%s", x.Verb, x.Resource, x.Namespace, x.Name))
		},
	})
	w.must(err)
	vars, err := proxy.Access{
		Server: w.url, CA: w.ca, Contexts: []proxy.Context{{Name: "group/app:production", Token: token, Namespace: "shop"}},
	}.Variables()
	w.must(err)
	file := map[string]any{}
	for _, v := range vars {
		x := map[string]any{"value": v.Value, "masked": v.Masked, "expand": false}
		if v.File {
			x["type"] = "file"
		}
		file[v.Name] = x
	}
	text, err := yaml.Marshal(file)
	w.must(err)
	w.write(".keelson/variables.yml", string(text))
	return revoke
}

// run plays a pipeline with one job and gives its log.
func (w *jobsWorld) run(fails bool, script ...string) string {
	w.Helper()
	b, err := yaml.Marshal(map[string]any{"deploy": map[string]any{"script": script, "environment": "production"}})
	w.must(err)
	w.write(".gitlab-ci.yml", string(b))
	ctx, cancel := context.WithTimeout(w.Context(), 2*time.Minute)
	defer cancel()
	out, err := exec.CommandContext(ctx, testProgram(w.T), "ci", "run", "--store", w.TempDir()).CombinedOutput()
	if (err != nil) != fails {
		w.Errorf("%q: %v\n%s", script, err, out)
	}
	return string(out)
}

// written gives what was told, each once and sorted.
func (w *jobsWorld) written() []string {
	w.mu.Lock()
	defer w.mu.Unlock()
	out := slices.Compact(slices.Sorted(slices.Values(w.told)))
	w.told = nil
	return out
}

// Jobs deploy through the proxy with kubectl, kustomize and helm, with nothing but the rights that keelson ci rbac writes, and what they
// write is known.
func TestJobsDeploy(t *testing.T) {
	w := newJobsWorld(t)
	w.rbac("-n", "shop", "--environment", "production")
	w.rbac("--from-manifests", "k8s", "--name", "exact")

	w.grant("exact")
	out := w.run(false,
		"kubectl config current-context",
		"(cd k8s && kustomize edit set image web=registry.example.com/web:v7)",
		"kubectl apply -k k8s",
		"kubectl rollout status deployment/web --timeout=60s",
		"kubectl set image deployment/web web=registry.example.com/web:v8",
		"kubectl rollout undo deployment/web",
		"kubectl scale deployment web --replicas=1",
		"kubectl rollout status deployment/web --timeout=60s",
		`kubectl patch service web -p '{"spec":{"selector":{"version":"green"}}}'`,
		"kubectl get deployment web -o jsonpath='{.spec.template.spec.containers[0].image}'",
		"kubectl delete service web",
		"kubectl get pods -w --request-timeout=1s || true",
		"echo token $KUBE_TOKEN",
		// As people do who know no KUBECONFIG.
		`kubectl config set-cluster k8s --server="$KUBE_URL" --certificate-authority="$KUBE_CA_PEM_FILE"`,
		`kubectl config set-credentials gitlab --token="$KUBE_TOKEN"`,
		"kubectl config set-context default --cluster=k8s --user=gitlab",
		"kubectl config use-context default",
		"kubectl get deployment web -n $KUBE_NAMESPACE",
	)
	for _, want := range []string{"| group/app:production", "registry.example.com/web:v7", "token [MASKED]"} {
		if !strings.Contains(out, want) {
			t.Errorf("the log does not say %q:\n%s", want, out)
		}
	}
	want := []string{
		"create deployments shop/web", "create services shop/web", "delete services shop/web", "patch deployments shop/web", "patch services shop/web",
	}
	if got := w.written(); !slices.Equal(got, want) {
		t.Errorf("written %q, want %q", got, want)
	}
	if got := w.admin("get", "deployment", "web", "-n", "shop", "-o", "jsonpath={.spec.replicas}"); got != "1" {
		t.Errorf("it has %s replicas", got)
	}

	for _, refused := range []string{
		"kubectl get secret prize -n other -o yaml",
		"kubectl get secrets",
		"kubectl create configmap a",
		"kubectl create token deploy-production",
		"kubectl exec deploy/web -- true",
		"kubectl get secret prize -n other -o yaml --as system:admin --as-group system:masters",
		"kubectl create rolebinding me --clusterrole cluster-admin --serviceaccount shop:exact",
	} {
		if out := w.run(true, refused); !strings.Contains(out, "forbidden") || strings.Contains(out, "s3cret-prize") {
			t.Errorf("%s:\n%s", refused, out)
		}
	}
	if got := w.written(); len(got) > 0 {
		t.Errorf("written %q", got)
	}

	revoke := w.grant("deploy-production")
	out = w.run(false,
		"helm upgrade --install cache chart --set tag=v1 --wait --timeout 60s",
		"helm upgrade --install cache chart --set tag=v2 --wait --timeout 60s",
		"helm history cache --max 5",
		"helm rollback cache 1 --wait",
		"helm uninstall cache",
	)
	if !strings.Contains(out, "Rollback was a success") {
		t.Errorf("helm:\n%s", out)
	}
	if got := strings.Join(w.written(), "\n"); !regexp.MustCompile(`(?m)^(create|patch) deployments shop/cache$`).MatchString(got) ||
		!strings.Contains(got, "create secrets shop/sh.helm.release.v1.cache.v1") || !strings.Contains(got, "delete deployments shop/cache") {
		t.Errorf("written:\n%s", got)
	}
	revoke()
	if out := w.run(true, "kubectl get deployments"); !strings.Contains(out, "the job's token is no longer valid: the job has ended") {
		t.Errorf("after the end:\n%s", out)
	}
}
