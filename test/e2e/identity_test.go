package e2e

import (
	"bytes"
	"encoding/json"
	"io"
	"net/http"
	"net/http/cookiejar"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"keelson.dev/keelson/test/testcluster"
)

// browser is what a person has in front of them: cookies are kept, and requests say where they come from.
type browser struct {
	*testing.T
	http.Client
	base string
}

func newBrowser(t *testing.T, base string) *browser {
	t.Helper()
	jar, err := cookiejar.New(nil)
	if err != nil {
		t.Fatal(err)
	}
	return &browser{T: t, base: base, Client: http.Client{Jar: jar, Timeout: limit}}
}

// ask gives the status, and behind the path that it has led to the answer.
func (b *browser) ask(method, path, body string) (int, string) {
	b.Helper()
	url := path
	if !strings.HasPrefix(path, "http") {
		url = b.base + path
	}
	req, err := http.NewRequestWithContext(b.Context(), method, url, strings.NewReader(body))
	if err != nil {
		b.Fatal(err)
	}
	req.Header.Set("Accept", "text/html,*/*")
	req.Header.Set("Sec-Fetch-Site", "same-origin")
	res, err := b.Do(req)
	if err != nil {
		b.Fatal(err)
	}
	defer res.Body.Close()
	text, err := io.ReadAll(res.Body)
	if err != nil {
		b.Fatal(err)
	}
	return res.StatusCode, res.Request.URL.Path + "\n" + string(text)
}

func (b *browser) wants(status int, says, method, path, body string) string {
	b.Helper()
	got, text := b.ask(method, path, body)
	if got != status || !strings.Contains(text, says) {
		b.Fatalf("%s %s: %d %.600s, want %d with %q", method, path, got, text, status, says)
	}
	return text
}

// TestPeople: nothing is open, the link of up logs in once, and what a local user sees and does is what the cluster's RBAC says.
func TestPeople(t *testing.T) {
	base := strings.TrimSuffix(shared.Dashboard, "/")
	stranger := newBrowser(t, base)
	stranger.wants(http.StatusOK, "/login\n", "GET", "/", "") // it was sent there
	stranger.wants(http.StatusOK, "ok", "GET", "/healthz", "")
	for _, path := range []string{"/api/apps", "/api/sources", "/api/v1/pipelines", "/api/v1/me", "/api/v1/audit", "/api/v1/users", "/metrics"} {
		if path == "/metrics" { // a browser is sent to the login
			stranger.wants(http.StatusOK, "/login\n", "GET", path, "")
			continue
		}
		stranger.wants(http.StatusUnauthorized, `"error"`, "GET", path, "")
	}

	var up struct{ Login string }
	out := strings.Split(strings.TrimSpace(shared.must(t, "up", "--json")), "\n")
	if err := json.Unmarshal([]byte(out[len(out)-1]), &up); err != nil {
		t.Fatal(err)
	}
	admin := newBrowser(t, base)
	admin.wants(http.StatusOK, "Keelson", "GET", up.Login, "")
	admin.wants(http.StatusOK, "flux-system", "GET", "/api/apps", "")
	stranger.wants(http.StatusUnauthorized, "was used already", "GET", up.Login, "")
	admin.wants(http.StatusOK, "keelson_", "GET", "/metrics", "")

	const password = "correct horse"
	config := t.TempDir()
	keelson := func(stdin string, args ...string) result {
		cmd := exec.CommandContext(t.Context(), filepath.Join(bin, "keelson"), args...)
		cmd.Stdin, cmd.Env = strings.NewReader(stdin), append(slices.Clip(environment()), "XDG_CONFIG_HOME="+config)
		var out, diag bytes.Buffer
		cmd.Stdout, cmd.Stderr = &out, &diag
		_ = cmd.Run() // its code says how it went
		return result{out: out.String(), err: diag.String(), code: cmd.ProcessState.ExitCode()}
	}
	ok(t, keelson(password+"\n", "user", "add", "ann", "--group", "viewers", "--password-stdin", "--data", shared.data), []string{"user", "add"})
	t.Cleanup(func() { _ = shared.keelson("user", "remove", "ann") })
	ann := newBrowser(t, base)
	ann.wants(http.StatusUnauthorized, "wrong", "POST", "/api/v1/session", `{"user":"ann","password":"guess"}`)
	ann.wants(http.StatusOK, `"name":"ann"`, "POST", "/api/v1/session", `{"user":"ann","password":"`+password+`"}`)
	ann.wants(http.StatusOK, `{"apps":[]}`, "GET", "/api/apps", "")
	ann.wants(http.StatusForbidden, "ann may not list users.keelson.dev", "GET", "/api/v1/users", "")
	ann.wants(http.StatusForbidden, "ann may not get", "GET", "/api/v1/audit", "")
	ann.wants(http.StatusForbidden, "ann may not get metrics.keelson.dev", "GET", "/metrics", "")
	ann.wants(http.StatusForbidden, "ann may not play projects.keelson.dev", "POST", "/api/v1/pipelines", `{"project":"sample"}`)

	// The cluster gives a role: it counts within seconds.
	root, err := testcluster.Root()
	if err != nil {
		t.Fatal(err)
	}
	roles := filepath.Join(root, "config", "rbac", "roles.yaml")
	shared.kubectl(t, "apply", "-f", roles)
	t.Cleanup(func() { shared.kubectl(t, "delete", "-f", roles) })
	shared.kubectl(t, "-n", "flux-system", "create", "rolebinding", "viewers", "--clusterrole=keelson-viewer", "--group=viewers")
	t.Cleanup(func() { shared.kubectl(t, "-n", "flux-system", "delete", "rolebinding", "viewers") })
	deadline := time.Now().Add(30 * time.Second)
	for {
		if _, text := ann.ask("GET", "/api/apps", ""); strings.Contains(text, `"namespace":"flux-system"`) {
			break
		}
		if time.Now().After(deadline) {
			t.Fatal("the role does not count")
		}
		time.Sleep(100 * time.Millisecond)
	}

	// The same person from a terminal, and what they have done is in the audit.
	ok(t, keelson(password+"\n", "login", base, "--user", "ann", "--password-stdin"), []string{"login"})
	if file, err := os.Stat(filepath.Join(config, "keelson", "credentials.json")); err != nil || file.Mode().Perm() != 0o600 {
		t.Errorf("the credentials: %v, %v", file, err)
	}
	r := keelson("", "--server", base, "ci", "trigger", "sample")
	fails(t, r, 1, "ann may not play projects.keelson.dev")
	ok(t, keelson("", "logout", base), []string{"logout"})
	fails(t, keelson("", "--server", base, "ci", "pipelines"), 1, "not logged in at "+base)
	for deadline := time.Now().Add(30 * time.Second); ; {
		_, text := admin.ask("GET", "/api/v1/audit?actor=ann&action=login", "")
		if strings.Contains(text, `"outcome":"refused"`) && strings.Contains(text, `"outcome":"done"`) {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("the audit lacks ann's logins: %s", text)
		}
		time.Sleep(100 * time.Millisecond)
	}
	ok(t, shared.keelson("user", "remove", "ann"), []string{"user", "remove"})
	ann.wants(http.StatusUnauthorized, "over", "GET", "/api/v1/me", "")
	admin.wants(http.StatusOK, "/login\n", "POST", "/logout", "")
	admin.wants(http.StatusOK, "/login\n", "GET", "/", "")
}
