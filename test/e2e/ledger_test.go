package e2e

import (
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"keelson.dev/keelson/test/testpostgres"
)

// dashboardOf gives where a server's dashboard is, and its token.
func dashboardOf(t *testing.T, s *server, data string) (base, token string) {
	t.Helper()
	s.waitFor(t, "dashboard")
	text, err := os.ReadFile(filepath.Join(data, "ci", "token"))
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimSuffix(regexp.MustCompile(`http://127\.0\.0\.1:\d+/`).FindString(s.says()), "/"), strings.TrimSpace(string(text))
}

// adminOf is a browser that has logged in with a server's token.
func adminOf(t *testing.T, base, token string) *browser {
	t.Helper()
	b := newBrowser(t, base)
	b.wants(http.StatusOK, `"name":"admin"`, "POST", "/api/v1/session", `{"token":"`+token+`"}`)
	return b
}

// answers waits until a browser is answered as wanted.
func (b *browser) answers(status int, says, path string) string {
	b.Helper()
	var text string
	eventually(b.T, path+" to have "+says, func() error {
		var got int
		if got, text = b.ask("GET", path, ""); got != status || !strings.Contains(text, says) {
			return fmt.Errorf("%d %.800s", got, text)
		}
		return nil
	})
	return text
}

// TestServerKeepsHistory: a server that plays no pipelines keeps the history, the audit and its people as one that does, over a restart.
func TestServerKeepsHistory(t *testing.T) {
	kubeconfig, data := bareCluster(t), t.TempDir()
	git := newRemote(t)
	c := git.create(t, "kept", "testdata/first")
	bootstrap(t, kubeconfig, git.url+"/kept.git", "./clusters/my-cluster")
	first := startServer(t, kubeconfig, data, "--listen", "127.0.0.1:0")
	first.waitFor(t, works)
	image(t, kubeconfig, "default", "my-application", "my-application:v1.0.0")
	base, token := dashboardOf(t, first, data)
	admin := adminOf(t, base, token)
	admin.wants(http.StatusCreated, "ann", "POST", "/api/v1/users", `{"name":"ann","password":"correct horse"}`)
	kubectl(t, kubeconfig, "create", "clusterrolebinding", "kept-ann", "--clusterrole=cluster-admin", "--user=ann")
	t.Cleanup(func() { kubectl(t, kubeconfig, "delete", "clusterrolebinding", "kept-ann") })

	ann := newBrowser(t, base)
	ann.wants(http.StatusUnauthorized, "wrong", "POST", "/api/v1/session", `{"user":"ann","password":"guess"}`)
	ann.wants(http.StatusOK, `"name":"ann"`, "POST", "/api/v1/session", `{"user":"ann","password":"correct horse"}`)
	const app = "Kustomization/flux-system/apps"
	text := ann.answers(http.StatusOK, `"status":"succeeded"`, "/api/v1/deliveries?app="+app)
	_, text, _ = strings.Cut(text, "\n")
	var list struct{ Deliveries []struct{ ID int64 } }
	if err := json.Unmarshal([]byte(text), &list); err != nil || len(list.Deliveries) == 0 {
		t.Fatalf("%v %s", err, text)
	}
	c.replace("apps/my-application/deployment.yaml", "v1.0.0", "v1.1.0")
	c.push("Update")
	ann.wants(http.StatusAccepted, "was asked for", "POST", "/api/v1/apps/"+app+"/sync", `{}`)
	onBare(t, "reconcile", "apps", "--with-source")
	image(t, kubeconfig, "default", "my-application", "my-application:v1.1.0")
	ann.answers(http.StatusOK, `"title":"Update"`, "/api/v1/deliveries?app="+app)
	// The delivery is found: what is said next is about the app.
	back := "/api/v1/apps/" + app + "/rollback"
	ann.wants(http.StatusConflict, "revert the commit in Git", "POST", back, fmt.Sprintf(`{"to":%d}`, list.Deliveries[0].ID))
	ann.wants(http.StatusConflict, "delivery 999999", "POST", back, `{"to":999999}`)
	for _, action := range []string{"app.sync", "app.rollback", "login", "user.add"} {
		text := ann.answers(http.StatusOK, `"action":"`+action, "/api/v1/audit?action="+action)
		if want := map[bool]string{true: "admin", false: "ann"}[action == "user.add"]; !strings.Contains(text, `"actor":"`+want+`"`) {
			t.Errorf("%s is by %s", action, text)
		}
	}
	ann.wants(http.StatusNotFound, "this server plays no pipelines", "GET", "/api/v1/pipelines", "")

	first.stop(t)
	ok(t, program("", filepath.Join(bin, "keelson"), "audit", "verify", "--data", data), []string{"audit", "verify"})
	second := startServer(t, kubeconfig, data, "--listen", "127.0.0.1:0")
	base, _ = dashboardOf(t, second, data)
	again := newBrowser(t, base)
	again.wants(http.StatusOK, `"name":"ann"`, "POST", "/api/v1/session", `{"user":"ann","password":"correct horse"}`)
	again.wants(http.StatusOK, `"title":"Update"`, "GET", "/api/v1/deliveries?app="+app, "")
	second.waitFor(t, works)
	kubectl(t, kubeconfig, "-n", "flux-system", "patch", "kustomization", "flux-system", "--type=merge", "-p", `{"spec":{"suspend":false}}`)
	forget(t, kubeconfig)
	second.stop(t)
}

// TestWaitingServer: people log in at a server that waits for the lease, with a PostgreSQL database, as at the one that works. Where it cannot reach the
// database it says so, and sends nobody around in circles.
func TestWaitingServer(t *testing.T) {
	postgres := testpostgres.Start(t)
	kubeconfig, data := bareCluster(t), t.TempDir()
	kubectl(t, kubeconfig, "apply", "--server-side", "-f", filepath.Join(root(), "config/crd"))
	env := []string{"KEELSON_DATABASE_URL=" + postgres.URL("postgres")}
	start := func(name string) (s *server, base, token string) {
		s = startServerWith(t, env, kubeconfig, filepath.Join(data, name), "--listen", "127.0.0.1:0")
		base, token = dashboardOf(t, s, filepath.Join(data, name))
		return s, base, token
	}
	first, base, token := start("first")
	first.waitFor(t, works)
	admin := adminOf(t, base, token)
	admin.answers(http.StatusOK, "deliveries", "/api/v1/deliveries")
	admin.wants(http.StatusCreated, "ann", "POST", "/api/v1/users", `{"name":"ann","password":"correct horse"}`)

	other, _, _ := start("other") // it has a key of its own
	other.waitFor(t, "this server cannot take the database over")
	other.stop(t)
	key, err := os.ReadFile(filepath.Join(data, "first/ci/store.key"))
	if err != nil {
		t.Fatal(err)
	}
	write(t, filepath.Join(data, "second/ci/store.key"), string(key))
	second, waiting, itsToken := start("second")
	second.waitFor(t, "people are known while this server waits")
	second.waitFor(t, "waiting for the lease")
	ann := newBrowser(t, waiting)
	ann.wants(http.StatusOK, `"name":"ann"`, "POST", "/api/v1/session", `{"user":"ann","password":"correct horse"}`)
	ann.wants(http.StatusOK, "{", "GET", "/api/v1/me", "")
	ann.wants(http.StatusServiceUnavailable, "waits for the lease kube-system/keelson", "GET", "/api/v1/deliveries", "")
	admin.answers(http.StatusOK, "on a server that waits", "/api/v1/audit?actor=ann")

	postgres.Stop(t)
	stale := newBrowser(t, waiting)
	stale.Jar = ann.Jar
	stale.answers(http.StatusServiceUnavailable, "/\n<!doctype html>", "/") // no way to a login that leads back
	stale.wants(http.StatusServiceUnavailable, "nobody can be looked up now", "GET", "/api/v1/me", "")
	adminOf(t, waiting, itsToken).wants(http.StatusOK, "admin", "GET", "/api/v1/me", "")
	third, alone, _ := start("third")
	newBrowser(t, alone).wants(http.StatusServiceUnavailable, "ask the server that has the lease", "POST", "/api/v1/session", `{"user":"ann","password":"correct horse"}`)
	third.kill(t)

	postgres.Start(t)
	ann.answers(http.StatusOK, `"name":"ann"`, "/api/v1/me")
	first.stop(t)
	second.waitFor(t, works)
	adminOf(t, waiting, itsToken).answers(http.StatusOK, "deliveries", "/api/v1/deliveries")
	ann.wants(http.StatusOK, `"name":"ann"`, "GET", "/api/v1/me", "")
	second.stop(t)
}
