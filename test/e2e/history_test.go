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
	"time"

	"keelson.dev/keelson/internal/history"
)

// why asks the shared instance and gives the answer.
func why(t *testing.T, args ...string) history.Answer {
	t.Helper()
	var a history.Answer
	if err := json.Unmarshal([]byte(shared.must(t, append([]string{"why", "-o", "json"}, args...)...)), &a); err != nil {
		t.Fatal(err)
	}
	return a
}

// TestWhy: who has changed a field, by which commit, what was there before, and who else has tried to.
func TestWhy(t *testing.T) {
	before := settled(t)
	lines := shared.follow(t, "log", "--follow", "--only", "deliveries", "--app", "Kustomization/flux-system/production")
	expect(t, lines, "Kustomization/flux-system/production")
	c := cloneOf(t, shared.Git+"/sample.git")
	c.replace("overlays/production/patch.yaml", "host: shop.example.com", "host: store.example.com")
	start := time.Now()
	c.git("commit", "-qa", "--author", "Ann Bee <ann@example.com>", "-m", "Merge branch 'host' into 'main'\n\nMove the shop\n\nSee merge request shop/web!12\n\nApproved-by: Carol <carol@example.com>")
	c.git("push", "-q", "origin", "HEAD:main")
	commit := c.git("rev-parse", "HEAD")
	t.Cleanup(func() {
		c.git("revert", "--no-edit", "HEAD")
		c.git("push", "-q", "origin", "HEAD:main")
		settled(t)
	})
	settled(t)
	expect(t, lines, "commit", "Kustomization/flux-system/production", "succeeded", "Ann Bee", commit[:8], "Move the shop")

	var a history.Answer
	eventually(t, "an answer", func() error {
		a = why(t, "ing/frontend", "spec.rules.host", "-n", "production")
		if a.Delivery == nil || a.Delivery.SHA != commit || a.Delivery.Health != "Healthy" {
			return fmt.Errorf("it is %+v", a.Delivery)
		}
		return nil
	})
	d := a.Delivery
	got := []string{a.Object.String(), a.What, a.Previous, a.Value, d.Author, d.Email, d.Title, d.MergeRequest, a.Approvals[0].By, d.App.String(), d.Status, d.Previous, d.Trigger}
	want := []string{"Ingress/production/frontend", "changed", "shop.example.com", "store.example.com", "Ann Bee", "ann@example.com", "Move the shop", "shop/web!12", "Carol",
		"Kustomization/flux-system/production", "succeeded", before, "commit"}
	if fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("the answer is\n%q, want\n%q", got, want)
	}
	if d.Began.Before(start.Add(-time.Second)) || d.Applied.Before(d.Began) || d.Healthy.Before(d.Applied) || time.Since(d.Healthy) > limit {
		t.Errorf("began %s, applied %s, healthy %s", d.Began, d.Applied, d.Healthy)
	}
	contains(t, shared.must(t, "why", "ingress/frontend", "host", "-n", "production"),
		"shop.example.com → store.example.com", "commit", commit[:8]+"  Move the shop", "Ann Bee <ann@example.com>", "shop/web!12", "Carol", "Healthy")

	// The apps say what they are at: that one, and one that the commit changes nothing for.
	eventually(t, "apps with author and title", func() error {
		for _, app := range []string{"production", "dev"} {
			for _, path := range []string{"/api/v1/apps?q=move+the+shop+" + app, "/api/v1/apps/Kustomization/flux-system/" + app} {
				if _, text := askAPI(t, path, apiToken(t)); !strings.Contains(text, `"author":"Ann Bee","title":"Move the shop"`) {
					return fmt.Errorf("%s: %s", path, text)
				}
			}
		}
		return nil
	})
	contains(t, shared.must(t, "get", "apps", "-o", "wide"), "Ann Bee", "Move the shop")

	// As it was before, by a time and by another field.
	was := why(t, "Ingress/production/frontend", "--at", start.UTC().Add(-time.Millisecond).Format(time.RFC3339Nano))
	if was.Delivery == nil || was.Delivery.SHA == commit {
		t.Errorf("before the push it was %+v", was.Delivery)
	}
	if paths := why(t, "ing/frontend", "spec.rules.http.paths", "-n", "production"); paths.What != "created" {
		t.Errorf("the paths were %s by %+v", paths.What, paths.Delivery)
	}
	fails(t, shared.keelson("why", "ing/frontend"), 1, "Ingress/dev/frontend, Ingress/production/frontend, Ingress/staging/frontend", "say the namespace")
	contains(t, shared.must(t, "why", "ingress/nobody"), "no delivery has changed it since the history begins")
	contains(t, shared.must(t, "history", "production"), commit[:8], "Move the shop", "Ann Bee", "succeeded", "Healthy")
}

// TestWhyAmongSeveralCommits: of the commits of one push, the answer names the one that has changed the field, with its author and the merge request
// that brought it.
func TestWhyAmongSeveralCommits(t *testing.T) {
	settled(t)
	c := cloneOf(t, shared.Git+"/sample.git")
	c.git("checkout", "-qb", "host")
	c.replace("overlays/production/patch.yaml", "host: shop.example.com", "host: mall.example.com")
	c.git("commit", "-qa", "--author", "Ann Bee <ann@example.com>", "-m", "Move the shop to the mall")
	wanted := c.git("rev-parse", "HEAD")
	c.replace("overlays/production/patch.yaml", "host: mall.example.com", "host: mall.example.com # for now")
	c.git("commit", "-qa", "--author", "Bob <bob@example.com>", "-m", "Say how long")
	c.git("checkout", "-q", "-")
	c.git("merge", "-q", "--no-ff", "host", "-m", "Merge branch 'host' into 'main'\n\nThe mall\n\nSee merge request shop/web!21\n\nApproved-by: Carol <carol@example.com>")
	c.git("push", "-q", "origin", "HEAD:main")
	merge := c.git("rev-parse", "HEAD")
	t.Cleanup(func() {
		c.git("revert", "--no-edit", "-m", "1", "HEAD")
		c.git("push", "-q", "origin", "HEAD:main")
		settled(t)
	})
	settled(t)
	eventually(t, "the commit of the field", func() error {
		a := why(t, "ing/frontend", "host", "-n", "production")
		if a.Delivery == nil || a.Head == nil {
			return fmt.Errorf("the answer is %+v", a)
		}
		d := a.Delivery
		got := []string{d.SHA, d.Author, d.Title, d.MergeRequest, fmt.Sprint(d.Approvers), a.Head.SHA, a.Previous, a.Value}
		want := []string{wanted, "Ann Bee", "Move the shop to the mall", "shop/web!21", "[Carol]", merge, "shop.example.com", "mall.example.com"}
		if fmt.Sprint(got) != fmt.Sprint(want) {
			return fmt.Errorf("the answer is\n%q, want\n%q", got, want)
		}
		return nil
	})
	contains(t, shared.must(t, "why", "ing/frontend", "host", "-n", "production"), "Move the shop to the mall", "Ann Bee", "shop/web!21", "Carol", "with others, at "+merge[:8])
}

// TestWhyDrift: drift is told with the field and whoever wrote it.
func TestWhyDrift(t *testing.T) {
	settled(t)
	lines := shared.follow(t, "log", "--follow", "--only", "repairs", "-o", "json")
	shared.kubectl(t, "-n", "staging", "patch", "deployment", "frontend", "--field-manager", "night-shift", "-p", `{"spec":{"template":{"spec":{"containers":[{"name":"frontend","image":"evil:1"}]}}}}`)
	expect(t, lines, `"name":"frontend"`, `"namespace":"staging"`, `"path":"spec.template.spec.containers[name=frontend].image","before":"evil:1"`, `"manager":"night-shift"`)
	a := why(t, "deploy/frontend", "image", "-n", "staging")
	if len(a.Repairs) == 0 || a.Repairs[0].Manager != "night-shift" || a.Repairs[0].Fields[0].Before != "evil:1" {
		t.Errorf("the repairs are %+v", a.Repairs)
	}
	contains(t, shared.must(t, "why", "deploy/frontend", "image", "-n", "staging"), "repaired", "evil:1 → ", "night-shift")
	contains(t, shared.must(t, "log", "--only", "repairs"), "Deployment/staging/frontend", "night-shift")
	settled(t)
}

// askAPI asks the shared instance, and gives the status, and the kind and the text of the answer.
func askAPI(t *testing.T, path, token string) (int, string) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, strings.TrimSuffix(shared.Git, "/git")+path, nil)
	if err != nil {
		t.Fatal(err)
	}
	if token != "" {
		req.Header.Set("Authorization", "Bearer "+token)
	}
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	var text strings.Builder
	_, _ = fmt.Fprint(&text, res.Header.Get("Content-Type"), " ")
	buf := make([]byte, 1<<20)
	n, _ := res.Body.Read(buf)
	text.Write(buf[:n])
	return res.StatusCode, text.String()
}

// TestHistoryAPI: what nobody may ask, and what hostile questions are answered.
func TestHistoryAPI(t *testing.T) {
	settled(t)
	token := apiToken(t)
	for _, test := range []struct {
		path, token string
		status      int
		says        string
	}{
		{"/api/v1/deliveries", "", 401, "token"},
		{"/api/v1/why?kind=ing&name=x", "forged", 401, "token"},
		{"/api/v1/deliveries?limit=1", token, 200, `"next":`},
		{"/api/v1/deliveries?q=%27%20OR%201%3D1--", token, 200, `"deliveries":[]`},
		{"/api/v1/deliveries?q=" + strings.Repeat("x", 1000), token, 400, "q: "},
		{"/api/v1/deliveries?q=a+b+c+d+e+f+g+h+i+j+k", token, 400, "more than 10 words"},
		{"/api/v1/deliveries?from=yesterday", token, 400, "from"},
		{"/api/v1/deliveries?before=x", token, 400, "before"},
		{"/api/v1/deliveries?object=..%2F..", token, 200, `"deliveries":[]`},
		{"/api/v1/deliveries?object=a%2Fb%2Fc%2Fd", token, 400, "KIND/NAMESPACE/NAME"},
		{"/api/v1/deliveries/999999999", token, 404, "no such row"},
		{"/api/v1/why?kind=ing", token, 400, "kind and name"},
		{"/api/v1/why?kind=%00&name=x", token, 400, "kind"},
		{"/api/v1/repairs?object=nothing", token, 400, "object"},
	} {
		status, text := askAPI(t, test.path, test.token)
		if status != test.status || !strings.Contains(text, test.says) || !regexp.MustCompile(`^application/json `).MatchString(text) {
			t.Errorf("%.80s: %d %s", test.path, status, text)
		}
	}
}

// apiToken is the shared instance's.
func apiToken(t *testing.T) string {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(shared.data, "instance.json"))
	if err != nil {
		t.Fatal(err)
	}
	var inst struct {
		Token string `json:"token"`
	}
	if err := json.Unmarshal(b, &inst); err != nil {
		t.Fatal(err)
	}
	return inst.Token
}
