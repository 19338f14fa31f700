package e2e

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	argocdv1 "keelson.dev/keelson/api/argocd/v1alpha1"
	"keelson.dev/keelson/internal/history"
	"keelson.dev/keelson/internal/web"
)

// actor is a person with an access token of their own, who may do what RBAC says.
type actor struct {
	*testing.T
	name, token string
}

// newActor makes a local user, and binds roles to it in namespaces: "namespace/clusterrole".
func newActor(t *testing.T, name string, roles ...string) actor {
	t.Helper()
	shared.kubectl(t, "apply", "-f", filepath.Join(root(), "config", "rbac", "roles.yaml"))
	t.Cleanup(func() {
		shared.kubectl(t, "delete", "--ignore-not-found", "-f", filepath.Join(root(), "config", "rbac", "roles.yaml"))
	})
	ok(t, programIn("a password of "+name+"\n", "user", "add", name, "--password-stdin", "--data", shared.data), []string{"user", "add"})
	t.Cleanup(func() { shared.must(t, "user", "remove", name) })
	for i, binding := range roles {
		namespace, role, _ := strings.Cut(binding, "/")
		called := fmt.Sprintf("%s-%d", name, i)
		shared.kubectl(t, "-n", namespace, "create", "rolebinding", called, "--clusterrole="+role, "--user="+name)
		t.Cleanup(func() { shared.kubectl(t, "-n", namespace, "delete", "rolebinding", called, "--ignore-not-found") })
	}
	return actor{t, name, strings.TrimSpace(shared.must(t, "user", "token", name))}
}

// programIn runs keelson with a text as its standard input.
func programIn(stdin string, args ...string) result {
	return programWith(nil, "", "sh", append([]string{"-c", `in=$1; shift; printf %s "$in" | "$@"`, "sh", stdin, filepath.Join(bin, "keelson")}, args...)...)
}

// asks asks the API, with the actor's token, and gives the status and the answer.
func (a actor) asks(method, path, body string) (int, string) {
	a.Helper()
	req, err := http.NewRequestWithContext(a.Context(), method, strings.TrimSuffix(shared.Dashboard, "/")+path, strings.NewReader(body))
	if err != nil {
		a.Fatal(err)
	}
	req.Header.Set("Authorization", "Bearer "+a.token)
	req.Header.Set("Content-Type", "application/json")
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		a.Fatal(err)
	}
	defer res.Body.Close()
	text, err := io.ReadAll(res.Body)
	if err != nil {
		a.Fatal(err)
	}
	return res.StatusCode, string(text)
}

// does has something done with an app, and wants an answer of a status with some words.
func (a actor) does(app, action, body string, status int, says ...string) (out web.AppAsked) {
	a.Helper()
	got, text := a.asks("POST", "/api/v1/apps/"+app+"/"+action, body)
	if got != status {
		a.Fatalf("%s: %s %s %s: %d %s, want %d", a.name, action, app, body, got, text, status)
	}
	contains(a.T, text, says...)
	_ = json.Unmarshal([]byte(text), &out)
	return out
}

// keelson runs a command on the shared instance's API, as somebody on another machine does.
func (a actor) keelson(args ...string) result {
	env := []string{"KEELSON_TOKEN=" + a.token, "XDG_CONFIG_HOME=" + a.TempDir(), "KEELSON_DATA=" + filepath.Join(os.TempDir(), "nothing-here")}
	return programWith(env, "", filepath.Join(bin, "keelson"), append([]string{"--server", strings.TrimSuffix(shared.Dashboard, "/")}, args...)...)
}

// sees reads an app.
func (a actor) sees(app string) (d web.AppDetail) {
	a.Helper()
	status, text := a.asks("GET", "/api/v1/apps/"+app, "")
	if status != http.StatusOK {
		a.Fatalf("%s: %s: %d %s", a.name, app, status, text)
	}
	if err := json.Unmarshal([]byte(text), &d); err != nil {
		a.Fatal(err)
	}
	return d
}

// awaits waits until an app is as want says.
func (a actor) awaits(app, what string, want func(web.AppDetail) bool) (d web.AppDetail) {
	a.Helper()
	eventually(a.T, app+": "+what, func() error {
		if d = a.sees(app); want(d) {
			return nil
		}
		return fmt.Errorf("%s at %s: %s, holds %+v", d.State, d.Revision, d.Message, d.Holds)
	})
	return d
}

// delivered waits for a delivery of an app that is as it should be.
func delivered(t *testing.T, app, what string, want func(history.Delivery) bool) (found history.Delivery) {
	t.Helper()
	eventually(t, "a delivery of "+app+": "+what, func() error {
		var list struct {
			Entries []struct{ Delivery history.Delivery }
		}
		if err := json.Unmarshal([]byte(shared.must(t, "log", "--only", "deliveries", "--app", app, "-o", "json")), &list); err != nil {
			return err
		}
		var all []string
		for _, e := range list.Entries {
			d := e.Delivery
			if found = d; want(d) {
				return nil
			}
			all = append(all, fmt.Sprintf("%d %s %s by %q: %s %q", d.ID, d.Trigger, cmp.Or(d.SHA, d.Revision), d.Actor, d.Status, d.Message))
		}
		return errors.New(strings.Join(all, "\n"))
	})
	return found
}

// audited waits until what somebody has asked for of an app is in the audit as it should be, the oldest first: "app.sync asked".
func audited(t *testing.T, actor, app string, want ...string) {
	t.Helper()
	eventually(t, "the audit of "+actor+" and "+app, func() error {
		var list auditShown
		if err := json.Unmarshal([]byte(shared.must(t, "audit", "list", "-o", "json", "--object", app, "--actor", actor)), &list); err != nil {
			return err
		}
		var got []string
		for _, r := range slices.Backward(list.Records) {
			got = append(got, r.Action+" "+r.Outcome)
			if r.Address == "" {
				return fmt.Errorf("%s has no address", r.Action)
			}
		}
		if !slices.Equal(got, want) {
			return fmt.Errorf("it is\n%q, want\n%q", got, want)
		}
		return nil
	})
}

// nobodyAudited checks that the audit has only records of what somebody has asked for: what was asked for by the API is not there once more, by somebody.
func nobodyAudited(t *testing.T, app string) {
	t.Helper()
	if got := shared.audit(t, "--object", app, "--actor", "somebody"); len(got) != 0 {
		t.Errorf("the audit has %q by somebody", got)
	}
}

// refused checks that a person may do nothing with an app, by HTTP and by the program, and that the audit has it.
func (a actor) refused(app, resource string, also ...string) {
	a.Helper()
	var want []string
	for _, action := range append([]string{"sync", "suspend", "resume", "rollback"}, also...) {
		verb := map[string]string{"resume": "suspend", "refresh": "sync"}[action]
		a.does(app, action, "{}", http.StatusForbidden, a.name+" may not "+cmp.Or(verb, action)+" "+resource)
		want = append(want, "app."+action+" refused")
	}
	fails(a.T, a.keelson("sync", app), 1, a.name+" may not sync "+resource)
	audited(a.T, a.name, app, append(want, "app.sync refused")...)
}

// configValue waits until a ConfigMap has a value.
func configValue(t *testing.T, namespace, name, key, want string) {
	t.Helper()
	eventually(t, "ConfigMap "+namespace+"/"+name, func() error {
		r := tryKubectl(shared.Kubeconfig, "-n", namespace, "get", "configmap", name, "-o", "jsonpath={.data."+key+"}")
		if r.code != 0 || r.out != want {
			return fmt.Errorf("%s is %q, want %q %s", key, r.out, want, r.err)
		}
		return nil
	})
}

// quietRepository is a repository whose pushes nobody is told of, and the Secret that it is read with in a namespace.
func quietRepository(t *testing.T, namespace, name string, files ...string) (clone, string) {
	t.Helper()
	dir := t.TempDir()
	writeFiles(t, dir, files...)
	git := newRemote(t)
	c := git.create(t, name, dir)
	shared.kubectl(t, "-n", namespace, "create", "secret", "generic", name, "--from-literal=username="+remoteUser, "--from-literal=password="+remotePassword)
	return c, git.url + "/" + name + ".git"
}

// TestActsOnKustomization: what people do with a Kustomization by the API and by keelson --server, as their roles let them.
func TestActsOnKustomization(t *testing.T) {
	const ns, app = "acts-k", "Kustomization/acts-k/acts"
	shared.kubectl(t, "create", "namespace", ns)
	t.Cleanup(func() {
		shared.kubectl(t, "-n", ns, "delete", "kustomizations,gitrepositories", "--all", "--timeout="+limit.String())
		shared.kubectl(t, "delete", "namespace", ns, "--wait=false")
	})
	c, url := quietRepository(t, ns, "acts", "app/a.yaml", configYAML("a", "1", ""))
	apply(t, shared.Kubeconfig, strings.NewReplacer("NS", ns, "URL", url).Replace(`
apiVersion: source.toolkit.fluxcd.io/v1
kind: GitRepository
metadata: {name: acts, namespace: NS}
spec: {interval: 1h, url: "URL", ref: {branch: main}, secretRef: {name: acts}}
---
apiVersion: kustomize.toolkit.fluxcd.io/v1
kind: Kustomization
metadata: {name: acts, namespace: NS}
spec: {interval: 1h, retryInterval: 1h, timeout: 20s, path: ./app, prune: true, targetNamespace: NS, sourceRef: {kind: GitRepository, name: acts}}
`))
	dora := newActor(t, "dora-k", ns+"/keelson-developer", ns+"/keelson-releaser", ns+"/view")
	vera := newActor(t, "vera-k", ns+"/keelson-viewer", ns+"/view")
	first := c.git("rev-parse", "HEAD")
	at := func(commit string) func(web.AppDetail) bool {
		return func(d web.AppDetail) bool { return d.State == web.Ready && d.SHA == commit }
	}
	dora.awaits(app, "the first commit", at(first))
	vera.refused(app, "kustomizations.kustomize.toolkit.fluxcd.io")

	// A sync asks the source, too: it would look once in an hour.
	write(t, filepath.Join(c.dir, "app", "a.yaml"), configYAML("a", "2", ""))
	second := c.push("Two")
	dora.does(app, "sync", "{}", http.StatusAccepted, "was asked for")
	dora.awaits(app, "the second commit", at(second))
	configValue(t, ns, "a", "v", "2")
	d := delivered(t, app, "of the second commit", func(d history.Delivery) bool { return d.SHA == second })
	if d.Trigger != history.ByCommit || d.Status != history.Succeeded {
		t.Errorf("the delivery: %+v", d)
	}

	// What fails for a reason that is not in Git is delivered by a sync once that is mended.
	write(t, filepath.Join(c.dir, "app", "b.yaml"), "apiVersion: acts.example.com/v1\nkind: Act\nmetadata: {name: act}\n")
	third := c.push("Three")
	dora.does(app, "sync", "{}", http.StatusAccepted)
	dora.awaits(app, "to fail", func(d web.AppDetail) bool { return d.State == web.Failing })
	apply(t, shared.Kubeconfig, actDefinition)
	t.Cleanup(func() { shared.kubectl(t, "delete", "crd", "acts.acts.example.com", "--wait=false") })
	shared.kubectl(t, "wait", "--for=condition=Established", "crd", "acts.acts.example.com", "--timeout=60s")
	dora.does(app, "sync", "{}", http.StatusAccepted)
	dora.awaits(app, "the third commit", at(third))
	delivered(t, app, "of the third commit", func(d history.Delivery) bool { // by the sync, or before it, as the kind is there
		return d.SHA == third && (d.Actor == "" || d.Actor == dora.name) && d.Status == history.Succeeded
	})

	// Suspended it is left as it is.
	dora.does(app, "suspend", "{}", http.StatusAccepted, "is suspended")
	dora.does(app, "suspend", "{}", http.StatusAccepted, `"already":true`)
	if got := shared.kubectl(t, "-n", ns, "get", "kustomization", "acts", "-o", "jsonpath={.spec.suspend}"); got != "true" {
		t.Errorf("spec.suspend is %q", got)
	}
	dora.awaits(app, "a hold", func(d web.AppDetail) bool {
		return d.State == web.Suspended && d.Spec.Suspended && len(d.Holds) == 1 && d.Holds[0].Until == "it is resumed"
	})
	contains(t, shared.must(t, "get", "apps"), "acts", "Suspended")
	dora.does(app, "sync", "{}", http.StatusConflict, "resume it first")
	shared.kubectl(t, "-n", ns, "patch", "configmap", "a", "-p", `{"data":{"v":"rogue"}}`)
	fails(t, dora.keelson("sync", app), 1, "resume it first")
	configValue(t, ns, "a", "v", "rogue")
	contains(t, ok(t, dora.keelson("resume", app), nil), "is reconciled again")
	configValue(t, ns, "a", "v", "2")
	dora.awaits(app, "no hold", func(d web.AppDetail) bool { return d.State == web.Ready && len(d.Holds) == 0 })

	// What Git rules is rolled back in Git: the preview tells what that would change, and the rollback how it is done.
	out := dora.does(app, "rollback", `{"to":"`+first+`","preview":true}`, http.StatusOK, "git revert")
	if out.Possible || out.Diff == nil || len(out.Diff.Objects) != 2 {
		t.Errorf("the preview: %+v", out)
	} else if o := out.Diff.Objects[slices.IndexFunc(out.Diff.Objects, func(o web.ObjectDiff) bool { return o.Kind == "ConfigMap" })]; !strings.Contains(o.Before, `v: "2"`) || !strings.Contains(o.After, `v: "1"`) {
		t.Errorf("the preview of the ConfigMap: %+v", o)
	}
	dora.does(app, "rollback", `{"to":"`+first+`"}`, http.StatusConflict, "revert the commit in Git")
	fails(t, dora.keelson("rollback", app, first), 1, "revert the commit in Git")
	contains(t, ok(t, dora.keelson("rollback", app, first, "--preview"), nil), `-  v: "2"`, `+  v: "1"`)
	configValue(t, ns, "a", "v", "2")
	c.git("revert", "--no-edit", "HEAD~1")
	c.git("push", "-q", "origin", "HEAD:main")
	contains(t, ok(t, dora.keelson("sync", app), nil), "was asked for")
	configValue(t, ns, "a", "v", "1")
	audited(t, dora.name, app, "app.sync asked", "app.sync asked", "app.sync asked", "app.suspend done", "app.suspend done", "app.sync failed", "app.sync failed", "app.resume done",
		"app.rollback failed", "app.rollback failed", "app.sync asked")
	nobodyAudited(t, app)
}

const actDefinition = `
apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata: {name: acts.acts.example.com}
spec:
  group: acts.example.com
  scope: Namespaced
  names: {kind: Act, plural: acts, singular: act, listKind: ActList}
  versions: [{name: v1, served: true, storage: true, schema: {openAPIV3Schema: {type: object, x-kubernetes-preserve-unknown-fields: true}}}]
`

// TestActsOnRelease: what people do with a HelmRelease by the API and by keelson --server.
func TestActsOnRelease(t *testing.T) {
	const ns, app = "acts-h", "HelmRelease/acts-h/shop"
	site, chart := t.TempDir(), smallChart(t)
	publish := func(version string) {
		t.Helper()
		write(t, filepath.Join(chart, "values.yaml"), "level: "+strings.Map(func(r rune) rune { return 'a' + r - '0' }, strings.ReplaceAll(version, ".", ""))+"\n")
		shared.helm(t, "package", chart, "--version", version, "-d", site)
		shared.helm(t, "repo", "index", site)
	}
	publish("1.0.0") // level: baa
	server := httptest.NewServer(http.FileServer(http.Dir(site)))
	t.Cleanup(server.Close)
	shared.kubectl(t, "create", "namespace", ns)
	t.Cleanup(func() {
		shared.kubectl(t, "-n", ns, "delete", "helmreleases,helmrepositories", "--all", "--timeout="+limit.String())
		shared.kubectl(t, "delete", "namespace", ns, "--wait=false")
	})
	apply(t, shared.Kubeconfig, strings.NewReplacer("NS", ns, "URL", server.URL).Replace(`
apiVersion: source.toolkit.fluxcd.io/v1
kind: HelmRepository
metadata: {name: charts, namespace: NS}
spec: {interval: 1h, url: "URL"}
---
apiVersion: helm.toolkit.fluxcd.io/v2
kind: HelmRelease
metadata: {name: shop, namespace: NS}
spec:
  interval: 1h
  chart: {spec: {chart: web, version: 1.x, interval: 1h, sourceRef: {kind: HelmRepository, name: charts}}}
  driftDetection: {mode: enabled}
`))
	dora := newActor(t, "dora-h", ns+"/keelson-developer", ns+"/keelson-releaser", ns+"/admin")
	anna := newActor(t, "anna-h", ns+"/keelson-releaser", ns+"/view") // may roll back, but not what that takes
	vera := newActor(t, "vera-h", ns+"/keelson-viewer", ns+"/view")
	is := func(version, state string) {
		t.Helper()
		dora.awaits(app, version+" "+state, func(d web.AppDetail) bool { return string(d.State) == state && d.Revision == version })
	}
	stored := func(want string) {
		t.Helper()
		var all []struct {
			Revision            int
			Status, Description string
		}
		if err := json.Unmarshal([]byte(shared.helm(t, "history", "shop", "-n", ns, "-o", "json")), &all); err != nil {
			t.Fatal(err)
		}
		last := all[len(all)-1]
		if got := fmt.Sprintf("%d %s: %s", last.Revision, last.Status, last.Description); got != want {
			t.Errorf("Helm's storage has %q, want %q", got, want)
		}
	}
	is("1.0.0", "Ready")
	stored("1 deployed: Install complete")
	vera.refused(app, "helmreleases.helm.toolkit.fluxcd.io")

	publish("1.1.0") // level: bba
	dora.does(app, "sync", "{}", http.StatusAccepted, "was asked for")
	is("1.1.0", "Ready")
	stored("2 deployed: Upgrade complete")
	configValue(t, ns, "shop", "level", "bba")
	d := delivered(t, app, "of the upgrade", func(d history.Delivery) bool { return d.Revision == "1.1.0" && d.Status == history.Succeeded })
	if d.Trigger != history.ByCommit {
		t.Errorf("the upgrade: %+v", d)
	}

	// The rollback: previewed, made by Helm, held.
	anna.does(app, "rollback", "{}", http.StatusForbidden, "secrets")
	audited(t, anna.name, app, "app.rollback refused")
	out := dora.does(app, "rollback", `{"preview":true}`, http.StatusOK, "rollback to version 1")
	if !out.Possible || out.Diff == nil || len(out.Diff.Objects) != 1 || !strings.Contains(out.Diff.Objects[0].Before, "level: bba") || !strings.Contains(out.Diff.Objects[0].After, "level: baa") {
		t.Errorf("the preview: %+v", out)
	}
	stored("2 deployed: Upgrade complete")
	out = dora.does(app, "rollback", "{}", http.StatusAccepted, "rolled back to version 1", "as version 3")
	if out.To != "1" {
		t.Errorf("it goes to %q", out.To)
	}
	stored("3 deployed: Rollback to 1")
	held := func(version string) {
		t.Helper()
		dora.awaits(app, "held at "+version, func(d web.AppDetail) bool {
			return d.State == web.Failing && d.Reason == "HeldByRollback" && d.Revision == version && len(d.Holds) == 1 && strings.Contains(d.Holds[0].Until, "resumed") && strings.Contains(d.Holds[0].Reason, "Rollback to ")
		})
		contains(t, shared.must(t, "get", "apps"), "shop", "Failing", "HeldByRollback", "Rollback to ")
	}
	held("1.0.0")
	configValue(t, ns, "shop", "level", "baa")
	delivered(t, app, "of the rollback, by the person", func(d history.Delivery) bool {
		return d.Trigger == history.ByRollback && d.Actor == dora.name && d.Revision == "1.0.0" && d.Status == history.Succeeded && d.Objects == 1
	})
	// Neither a sync nor another look at the same chart undoes it; what Git newly wants does.
	dora.does(app, "sync", "{}", http.StatusAccepted)
	eventually(t, "the sync to be handled", func() error {
		asked := strings.Fields(shared.kubectl(t, "-n", ns, "get", "helmrelease", "shop", "-o", `jsonpath={.metadata.annotations.reconcile\.fluxcd\.io/requestedAt} {.status.lastHandledReconcileAt}`))
		if len(asked) != 2 || asked[0] != asked[1] {
			return fmt.Errorf("%q", asked)
		}
		return nil
	})
	held("1.0.0")
	stored("3 deployed: Rollback to 1")
	publish("1.2.0") // level: bca
	contains(t, ok(t, dora.keelson("sync", app), nil), "was asked for")
	is("1.2.0", "Ready")
	stored("4 deployed: Upgrade complete")

	// By its delivery, with the program, and resumed.
	d = delivered(t, app, "of the first chart", func(d history.Delivery) bool { return d.Revision == "1.0.0" && d.Trigger == history.ByRollback })
	contains(t, ok(t, dora.keelson("rollback", app, "2", "--preview"), nil), "-  level: bca", "+  level: bba")
	dora.does(app, "rollback", fmt.Sprintf(`{"to":%d,"preview":true}`, d.ID), http.StatusOK, "rollback to version 3")
	contains(t, ok(t, dora.keelson("rollback", app, "2"), nil), "rolled back to version 2", "as version 5")
	stored("5 deployed: Rollback to 2")
	held("1.1.0")
	contains(t, ok(t, dora.keelson("resume", app), nil), "is reconciled again")
	is("1.2.0", "Ready")
	stored("6 deployed: Upgrade complete")
	configValue(t, ns, "shop", "level", "bca")

	// Suspended: nothing is upgraded or repaired.
	dora.does(app, "suspend", "{}", http.StatusAccepted)
	is("1.2.0", "Suspended")
	dora.does(app, "sync", "{}", http.StatusConflict, "resume it first")
	shared.kubectl(t, "-n", ns, "patch", "configmap", "shop", "-p", `{"data":{"level":"rogue"}}`)
	publish("1.3.0") // level: bda
	dora.does(app, "resume", "{}", http.StatusAccepted)
	dora.does(app, "sync", "{}", http.StatusAccepted)
	is("1.3.0", "Ready")
	configValue(t, ns, "shop", "level", "bda")
	audited(t, dora.name, app, "app.sync asked", "app.rollback done", "app.sync asked", "app.sync asked", "app.rollback done", "app.resume done", "app.suspend done", "app.sync failed",
		"app.resume done", "app.sync asked")
	nobodyAudited(t, app)
}

// TestActsOnApplication: what people do with an Argo CD Application by the API and by keelson --server.
func TestActsOnApplication(t *testing.T) {
	const app = "Application/argocd/acts"
	c, url := hosted(t, "acts", "a.yaml", configYAML("a", "1", ""))
	shared.kubectl(t, "create", "namespace", "acts-a")
	t.Cleanup(func() { shared.kubectl(t, "delete", "namespace", "acts-a", "--wait=false") })
	declareApp(t, "acts", `
project: default
source: {repoURL: `+url+`, path: .}
destination: {server: `+inCluster+`, namespace: acts-a}
`)
	dora := newActor(t, "dora-a", "argocd/keelson-developer", "argocd/keelson-releaser", "acts-a/view")
	vera := newActor(t, "vera-a", "argocd/keelson-viewer", "acts-a/view")
	first := c.git("rev-parse", "HEAD")
	awaitApp(t, "acts", "OutOfSync", func(a *argocdv1.Application) bool { return a.Status.Sync.Status == "OutOfSync" })
	vera.refused(app, "applications.argoproj.io", "refresh")

	dora.does(app, "sync", "{}", http.StatusAccepted, "was asked for")
	a := awaitSynced(t, "acts", first)
	if by := a.Status.OperationState.Operation.InitiatedBy.Username; by != dora.name {
		t.Errorf("it was initiated by %q", by)
	}
	configValue(t, "acts-a", "a", "v", "1")
	delivered(t, app, "by the person", func(d history.Delivery) bool {
		return d.SHA == first && d.Actor == dora.name && d.Status == history.Succeeded && d.Trigger == history.BySync
	})

	// Pruned where that is asked for.
	c.git("mv", "a.yaml", "b.yaml")
	write(t, filepath.Join(c.dir, "b.yaml"), configYAML("b", "2", ""))
	second := c.push("Two")
	awaitApp(t, "acts", "OutOfSync", func(a *argocdv1.Application) bool {
		return a.Status.Sync.Status == "OutOfSync" && a.Status.Sync.Revision == second
	})
	contains(t, ok(t, dora.keelson("sync", app, "--prune"), nil), "was asked for")
	awaitSynced(t, "acts", second)
	configValue(t, "acts-a", "b", "v", "2")
	if r := tryKubectl(shared.Kubeconfig, "-n", "acts-a", "get", "configmap", "a"); r.code == 0 {
		t.Error("a is there still")
	}

	// The rollback while it is synced by itself: previewed, held, and not undone.
	shared.kubectl(t, "-n", "argocd", "patch", "application", "acts", "--type=merge", "-p", `{"spec":{"syncPolicy":{"automated":{"prune":true,"selfHeal":true}}}}`)
	out := dora.does(app, "rollback", `{"preview":true}`, http.StatusOK, "a rollback to "+first[:7])
	if !out.Possible || out.To != first || out.Diff == nil || len(out.Diff.Objects) != 2 {
		t.Errorf("the preview: %+v of %+v", out, out.Diff)
		t.Log(shared.kubectl(t, "-n", "acts-a", "get", "configmap", "b", "-o", "yaml"), readApp(t, "acts").Status.Resources, readApp(t, "acts").Annotations)
	}
	dora.does(app, "rollback", "{}", http.StatusAccepted, "rolled back to "+first[:7])
	configValue(t, "acts-a", "a", "v", "1")
	held := func() {
		t.Helper()
		dora.awaits(app, "held", func(d web.AppDetail) bool {
			return d.State == web.Suspended && len(d.Holds) == 1 && d.Holds[0].Owner == dora.name && d.Holds[0].Until == "it is resumed"
		})
	}
	held()
	delivered(t, app, "of the rollback, by the person", func(d history.Delivery) bool {
		return d.Trigger == history.ByRollback && d.Actor == dora.name && d.SHA == first && d.Status == history.Succeeded
	})
	// What Git newly wants is seen, and not synced: an Application is held until it is resumed.
	write(t, filepath.Join(c.dir, "b.yaml"), configYAML("b", "3", ""))
	third := c.push("Three")
	awaitApp(t, "acts", "to know of the commit", func(a *argocdv1.Application) bool {
		return a.Status.Sync.Revision == third && a.Status.Sync.Status == "OutOfSync"
	})
	held()
	configValue(t, "acts-a", "a", "v", "1")
	contains(t, shared.must(t, "get", "apps"), "acts", "Suspended", "rolled back to "+first[:7])
	contains(t, ok(t, dora.keelson("resume", app), nil), "is reconciled again")
	awaitSynced(t, "acts", third)
	configValue(t, "acts-a", "b", "v", "3")

	// By the program to a delivery, suspended, refreshed.
	contains(t, ok(t, dora.keelson("rollback", app, second, "--preview"), nil), `-  v: "3"`, `+  v: "2"`)
	contains(t, ok(t, dora.keelson("rollback", app, second), nil), "rolled back to "+second[:7])
	configValue(t, "acts-a", "b", "v", "2")
	held()
	dora.does(app, "resume", "{}", http.StatusAccepted)
	awaitSynced(t, "acts", third)
	contains(t, ok(t, dora.keelson("suspend", app), nil), "is suspended")
	held()
	shared.kubectl(t, "-n", "acts-a", "patch", "configmap", "b", "-p", `{"data":{"v":"rogue"}}`)
	dora.does(app, "refresh", "{}", http.StatusAccepted)
	awaitApp(t, "acts", "refreshed", func(a *argocdv1.Application) bool {
		return a.Annotations["argocd.argoproj.io/refresh"] == "" && a.Status.Sync.Status == "OutOfSync"
	})
	configValue(t, "acts-a", "b", "v", "rogue")
	dora.does(app, "resume", "{}", http.StatusAccepted)
	configValue(t, "acts-a", "b", "v", "3")
	audited(t, dora.name, app, "app.sync asked", "app.sync asked", "app.rollback asked", "app.resume done", "app.rollback asked", "app.resume done", "app.suspend done", "app.refresh asked", "app.resume done")
	nobodyAudited(t, app)
}
