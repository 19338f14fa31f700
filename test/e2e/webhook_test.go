package e2e

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"net/http"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"
)

// TestWebhook: a push to a forge is live at once, because the forge says so, although the source is looked at once an hour; and
// nobody else can say so. It holds for keelson server's own address for webhooks and for keelson up's port.
func TestWebhook(t *testing.T) {
	t.Run("server", func(t *testing.T) {
		kubeconfig := bareCluster(t)
		kubectl(t, kubeconfig, "apply", "-f", filepath.Join(root(), "config", "crd"))
		kubectl(t, kubeconfig, "wait", "--for=condition=Established", "--timeout=60s", "crd", "--all")
		s := startServer(t, kubeconfig, t.TempDir(), "--webhooks", "127.0.0.1:0")
		s.waitFor(t, works)
		address := regexp.MustCompile(`listening for webhooks" address=(\S+)`).FindStringSubmatch(s.says())
		if address == nil {
			t.Fatalf("it does not say where webhooks go:\n%s", s.says())
		}
		webhook(t, kubeconfig, "http://"+address[1])
		for _, secret := range []string{webhookToken, "guess"} {
			if strings.Contains(s.says(), secret) {
				t.Errorf("the log holds the token or a signature made with another:\n%s", s.says())
			}
		}
		if r, err := http.Get("http://" + address[1] + "/api/apps"); err != nil || r.StatusCode != http.StatusMethodNotAllowed {
			t.Errorf("the address for webhooks serves the dashboard: %v, %v", r, err)
		}
		s.stop(t)
	})
	t.Run("up", func(t *testing.T) { webhook(t, shared.Kubeconfig, strings.TrimSuffix(shared.Dashboard, "/")) })
}

const webhookToken = "correct-horse-battery-webhook"

// webhook tests webhooks of a cluster that are served below a URL.
func webhook(t *testing.T, kubeconfig, base string) {
	git := newRemote(t)
	c := git.create(t, "hooked", "testdata/first")
	const kept = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: live, namespace: hooked}\ndata: {v: one}\n"
	write(t, filepath.Join(c.dir, "config", "live.yaml"), kept)
	first := c.push("Begin for real")
	apply(t, kubeconfig, fmt.Sprintf(`
apiVersion: v1
kind: Namespace
metadata: {name: hooked}
---
apiVersion: v1
kind: Secret
metadata: {name: git, namespace: hooked}
stringData: {username: %s, password: %s}
---
apiVersion: v1
kind: Secret
metadata: {name: webhook, namespace: hooked}
stringData: {token: %s}
---
apiVersion: source.toolkit.fluxcd.io/v1
kind: GitRepository
metadata: {name: hooked, namespace: hooked}
spec: {interval: 1h, url: %s/hooked.git, ref: {branch: main}, secretRef: {name: git}}
---
apiVersion: kustomize.toolkit.fluxcd.io/v1
kind: Kustomization
metadata: {name: hooked, namespace: hooked}
spec: {interval: 1h, path: ./config, prune: true, sourceRef: {kind: GitRepository, name: hooked}}
---
apiVersion: notification.toolkit.fluxcd.io/v1
kind: Receiver
metadata: {name: github, namespace: hooked}
spec:
  type: github
  events: [ping, push]
  secretRef: {name: webhook}
  resources: [{kind: GitRepository, name: hooked}]
`, remoteUser, remotePassword, webhookToken, git.url))
	defer func() { // while there is a controller to take the finalizers away
		kubectl(t, kubeconfig, "-n", "hooked", "delete", "--timeout=60s", "receiver/github", "kustomization/hooked", "gitrepository/hooked")
		kubectl(t, kubeconfig, "delete", "namespace", "hooked", "--wait=false")
	}()
	revision := func() string {
		return kubectl(t, kubeconfig, "-n", "hooked", "get", "kustomization", "hooked", "-o", "jsonpath={.status.lastAppliedRevision}")
	}
	at := func(commit string) {
		t.Helper()
		eventually(t, "commit "+commit, func() error {
			if got := revision(); !strings.HasSuffix(got, commit) {
				return fmt.Errorf("it is at %q", got)
			}
			return nil
		})
	}
	at(first)
	kubectl(t, kubeconfig, "-n", "hooked", "wait", "receiver/github", "--for=condition=Ready", "--timeout=60s")
	path := kubectl(t, kubeconfig, "-n", "hooked", "get", "receiver", "github", "-o", "jsonpath={.status.webhookPath}")

	c.replace("config/live.yaml", "one", "two")
	second := c.push("Change it")
	body := `{"ref":"refs/heads/main","after":"` + second + `"}`
	for what, want := range map[string]int{"guess": 400, "": 400} {
		if got := deliverHook(t, base+path, body, what, "1"); got != want {
			t.Errorf("signed with %q: %d, want %d", what, got, want)
		}
	}
	if got := deliverHook(t, base+"/hook/"+strings.Repeat("0", 64), body, webhookToken, "1"); got != 404 {
		t.Errorf("unknown path: %d", got)
	}
	time.Sleep(2 * time.Second)
	if got := revision(); !strings.HasSuffix(got, first) {
		t.Fatalf("a forged webhook has an effect: %s", got)
	}
	began := time.Now()
	if got := deliverHook(t, base+path, body, webhookToken, "1"); got != 200 {
		t.Fatalf("a genuine webhook: %d", got)
	}
	at(second)
	t.Logf("live %s after the webhook", time.Since(began).Round(time.Millisecond))
}

// deliverHook sends a push as GitHub does, signed with a token unless that is empty, and gives the status of the answer.
func deliverHook(t *testing.T, url, body, token, id string) int {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), http.MethodPost, url, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	r.Host = "hooks.example.com" // as through a proxy or a tunnel
	r.Header.Set("Content-Type", "application/json")
	r.Header.Set("X-GitHub-Event", "push")
	r.Header.Set("X-GitHub-Delivery", id)
	if token != "" {
		mac := hmac.New(sha256.New, []byte(token))
		mac.Write([]byte(body))
		r.Header.Set("X-Hub-Signature-256", "sha256="+hex.EncodeToString(mac.Sum(nil)))
	}
	client := http.Client{Timeout: limit}
	res, err := client.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	return res.StatusCode
}
