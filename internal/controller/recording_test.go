package controller_test

import (
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"

	sourcev1 "github.com/fluxcd/source-controller/api/v1"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	argocdv1 "keelson.dev/keelson/api/argocd/v1alpha1"
	"keelson.dev/keelson/internal/history"
	"keelson.dev/keelson/internal/redact"
)

// diary is a history in memory.
type diary struct {
	mu         sync.Mutex
	order      []string // of the keys
	deliveries map[string]history.Delivery
	first      map[string]history.Delivery // as each was told first
	repairs    []history.Repair
	commits    []string // titles
	parts      map[string][]history.Part
}

func (d *diary) Delivery(of history.Delivery) {
	d.mu.Lock()
	defer d.mu.Unlock()
	was, known := d.deliveries[of.Key]
	if !known {
		d.order, d.first[of.Key] = append(d.order, of.Key), of
	}
	of.Changes = append(slices.Clone(was.Changes), of.Changes...)
	d.deliveries[of.Key] = of
}

func (d *diary) Repair(r history.Repair) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.repairs = append(d.repairs, r)
}

func (d *diary) Parts(key string, parts []history.Part) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.parts[key] = parts
}

func (d *diary) Commit(c history.Commit) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.commits = append(d.commits, c.Title)
}

// of gives what was delivered of an app, in a line each.
func (d *diary) of(namespace, name string) (lines []string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, key := range d.order {
		of := d.deliveries[key]
		if of.App.Namespace != namespace || of.App.Name != name {
			continue
		}
		line := fmt.Sprintf("%s %q by %s: %s", of.Trigger, of.Title, of.Author+of.Actor, of.Status)
		if of.Health != "" {
			line += " " + of.Health
		}
		for _, c := range of.Changes {
			line += ", " + c.Verb + " " + c.Kind + " " + c.Name
			for _, f := range c.Fields {
				line += fmt.Sprintf(" (%s %s → %s)", f.Path, f.Before, f.After)
			}
		}
		lines = append(lines, line)
	}
	return lines
}

// keepsDiary restarts the controller with a history, until the test ends.
func (w *world) keepsDiary() *diary {
	w.Helper()
	d := &diary{deliveries: map[string]history.Delivery{}, first: map[string]history.Delivery{}, parts: map[string][]history.Part{}}
	running.stop()
	running.kept = d
	w.must(running.start())
	w.Cleanup(func() {
		running.stop()
		running.kept = nil
		w.must(running.start())
	})
	return d
}

// recorded waits until a diary says of an app what is wanted.
func (w *world) recorded(d *diary, namespace, app string, want ...string) {
	w.Helper()
	w.eventually("the history of "+app, func() error {
		if got := d.of(namespace, app); !slices.Equal(got, want) {
			return fmt.Errorf("it says:\n%s\nand should say:\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
		}
		return nil
	})
}

// because commits files with a message, and asks for a look.
func (w *world) because(message, author string, files map[string]string) string {
	w.Helper()
	w.commitAs(author, message, files)
	running.pushed(func(url string) bool { return url == w.url() })
	return "main@sha1:" + w.head
}

// TestDeliveriesAreRecorded: who has changed what by which commit, what there was before, and what became of it.
func TestDeliveriesAreRecorded(t *testing.T) {
	w := newWorld(t)
	d := w.keepsDiary()
	w.app("app", "  wait: true\n")
	secret := func(value string) string {
		return fmt.Sprintf("apiVersion: v1\nkind: Secret\nmetadata: {name: token, namespace: %s}\nstringData: {t: %s}\n", w.ns, value)
	}
	w.ready("app", w.because("Begin\n\nApproved-by: Carol <c@x>", "ann", map[string]string{"app/a.yaml": w.configMap("a", "one"), "app/s.yaml": secret("first-value")}))
	begun := `commit "Begin" by ann: succeeded Healthy, create ConfigMap a, create Secret token`
	w.recorded(d, w.ns, "app", begun)

	w.ready("app", w.because("Change", "bob", map[string]string{"app/a.yaml": w.configMap("a", "two"), "app/s.yaml": secret("other-value")}))
	changed := `commit "Change" by bob: succeeded Healthy, update ConfigMap a (data.v one → two), update Secret token (data.t **REDACTED** → **REDACTED** (changed))`
	w.recorded(d, w.ns, "app", begun, changed)

	w.because("Break", "eve", map[string]string{"app/a.yaml": "kind: ["})
	w.condition("app", metav1.ConditionFalse, "BuildFailed")
	w.recorded(d, w.ns, "app", begun, changed, `commit "Break" by eve: failed`)

	w.ready("app", w.because("Mend", "ann", map[string]string{"app/a.yaml": w.configMap("a", "two")}))
	w.ready("app", w.because("Remove", "ann", map[string]string{"app/s.yaml": ""}))
	w.recorded(d, w.ns, "app", begun, changed, `commit "Break" by eve: superseded`, `commit "Remove" by ann: succeeded Healthy, delete Secret token`)

	d.mu.Lock()
	one, two := d.deliveries[d.order[0]], d.deliveries[d.order[1]]
	first := d.first[d.order[0]]
	d.mu.Unlock()
	if first.Status != history.Running || len(first.Changes) > 0 || !slices.Equal(first.Approvers, []string{"Carol"}) {
		t.Errorf("the intent is %+v", first)
	}
	if one.Environment != w.ns {
		t.Errorf("the delivery is of the environment %q", one.Environment)
	}
	if two.Previous != one.SHA || two.SHA == "" || two.Applied.Before(two.Began) || two.Finished.Before(two.Applied) || two.Authored.IsZero() {
		t.Errorf("the second delivery is %+v, after %s", two, one.SHA)
	}

	w.app("app", "  wait: true\n  commonMetadata: {labels: {team: red}}\n")
	w.recorded(d, w.ns, "app", begun, changed, `commit "Break" by eve: superseded`, `commit "Remove" by ann: succeeded Healthy, delete Secret token`,
		`spec "Remove" by ann: succeeded Healthy, update ConfigMap a (metadata.labels.team  → red)`)

	w.must(w.client.Delete(w.ctx, w.kustomization("app")))
	w.gone("app")
	w.recorded(d, w.ns, "app", begun, changed, `commit "Break" by eve: superseded`, `commit "Remove" by ann: succeeded Healthy, delete Secret token`,
		`spec "Remove" by ann: succeeded Healthy, update ConfigMap a (metadata.labels.team  → red)`, `spec "" by : succeeded, delete ConfigMap a`)
}

// TestPartingsAreRecorded: what stays where an app is deleted is not recorded as deleted.
func TestPartingsAreRecorded(t *testing.T) {
	w := newWorld(t)
	d := w.keepsDiary()
	w.app("app", "")
	kept := strings.Replace(w.configMap("kept", "one"), "metadata: {", "metadata: {annotations: {kustomize.toolkit.fluxcd.io/prune: disabled}, ", 1)
	w.ready("app", w.push(map[string]string{"app/a.yaml": w.configMap("a", "one"), "app/kept.yaml": kept}))
	begun := `commit "test" by test: succeeded Healthy, create ConfigMap a, create ConfigMap kept`
	w.recorded(d, w.ns, "app", begun)
	w.must(w.client.Delete(w.ctx, w.kustomization("app")))
	w.gone("app")
	w.recorded(d, w.ns, "app", begun, `spec "" by : succeeded, delete ConfigMap a`)
	w.value("kept", "one")
}

// TestPartingsOfApplicationsAreRecorded: also what is deleted with an Application, and with a release of Helm.
func TestPartingsOfApplicationsAreRecorded(t *testing.T) {
	w := newArgoWorld(t)
	d := w.keepsDiary()
	kept := strings.Replace(w.configMap("kept", "one"), "metadata: {", "metadata: {annotations: {argocd.argoproj.io/sync-options: Delete=false}, ", 1)
	head := w.push(map[string]string{"web/a.yaml": w.configMap("a", "one"), "web/kept.yaml": kept})
	w.app("web", "  syncPolicy: {automated: {}}\n")
	w.synced("web", head)
	begun := `commit "test" by test: succeeded Healthy, create ConfigMap a, create ConfigMap kept`
	w.recorded(d, "argocd", w.name("web"), begun)
	w.merge("web", `{"metadata":{"finalizers":["resources-finalizer.argocd.argoproj.io"]}}`)
	w.must(w.client.Delete(w.ctx, w.application("web")))
	w.recorded(d, "argocd", w.name("web"), begun, `spec "" by : succeeded, delete ConfigMap a`)
	w.value("kept", "one")
}

// TestPartingsOfReleasesAreRecorded: also what goes with a release of Helm.
func TestPartingsOfReleasesAreRecorded(t *testing.T) {
	w := newWorld(t)
	d := w.keepsDiary()
	w.push(chart("1.0.0", nil))
	w.helmRelease("web", "  values: {v: one}\n")
	w.must(w.client.Delete(w.ctx, w.released("web", 1)))
	w.recorded(d, w.ns, "web", `commit "" by : succeeded Healthy, create ConfigMap web`, `spec "" by : succeeded, delete ConfigMap web`)
	d.mu.Lock()
	defer d.mu.Unlock()
	if last := d.deliveries[d.order[1]]; last.Message != "the app was deleted" || last.Revision != "1.0.0" {
		t.Errorf("it is recorded as %+v", last)
	}
}

// TestRepairsOfReleasesAreRecorded: drift of what Helm has released is undone, and recorded with its fields and whose they were.
func TestRepairsOfReleasesAreRecorded(t *testing.T) {
	w := newWorld(t)
	d := w.keepsDiary()
	w.push(chart("1.0.0", nil))
	w.helmRelease("web", "  driftDetection: {mode: enabled}\n  values: {v: one}\n")
	w.released("web", 1)
	var cm corev1.ConfigMap
	cm.ObjectMeta = w.named("web")
	w.edit(&cm, "a-person", func() { cm.Data["v"] = "edited" })
	w.value("web", "one")
	w.repaired(d, "ConfigMap web by a-person [{data.v edited one false}]")
	w.must(w.client.Delete(w.ctx, &corev1.ConfigMap{ObjectMeta: w.named("web")}))
	w.value("web", "one")
	w.repaired(d, "ConfigMap web by a-person [{data.v edited one false}]", "ConfigMap web by  []")
	if n := len(d.of(w.ns, "web")); n != 1 {
		t.Errorf("%d deliveries: %v", n, d.of(w.ns, "web"))
	}
}

// repaired waits until a diary has these repairs in the world's namespace.
func (w *world) repaired(d *diary, want ...string) {
	w.Helper()
	w.eventually("the repairs", func() error {
		d.mu.Lock()
		defer d.mu.Unlock()
		var got []string
		for _, r := range d.repairs {
			if r.Namespace == w.ns {
				got = append(got, fmt.Sprintf("%s %s by %s %v", r.Kind, r.Name, r.Manager, r.Fields))
			}
		}
		if !slices.Equal(got, want) {
			return fmt.Errorf("%q, want %q", got, want)
		}
		return nil
	})
}

// TestRepairsAreRecorded: which fields, as they were found, and whose they were.
func TestRepairsAreRecorded(t *testing.T) {
	w := newWorld(t)
	d := w.keepsDiary()
	w.app("app", "")
	w.ready("app", w.push(map[string]string{"app/a.yaml": w.configMap("a", "one"), "app/web.yaml": strings.ReplaceAll(deployment, "$ns", w.ns)}))
	var cm corev1.ConfigMap
	cm.ObjectMeta = w.named("a")
	w.edit(&cm, "a-person", func() { cm.Data["v"], cm.Data["theirs"] = "edited", "kept" })
	w.value("a", "one")
	var web appsv1.Deployment
	web.ObjectMeta = w.named("web")
	w.edit(&web, "scaler", func() { web.Spec.Replicas = new(int32(7)) })
	w.eventually("the replicas", func() error {
		w.must(w.client.Get(w.ctx, client.ObjectKeyFromObject(&web), &web))
		if *web.Spec.Replicas != 2 {
			return fmt.Errorf("%d", *web.Spec.Replicas)
		}
		return nil
	})
	w.must(w.client.Delete(w.ctx, &corev1.ConfigMap{ObjectMeta: w.named("a")}))
	w.value("a", "one")
	w.repaired(d, "ConfigMap a by a-person [{data.v edited one false}]", "Deployment web by scaler [{spec.replicas 7 2 false}]", "ConfigMap a by  []")
	if n := len(d.of(w.ns, "app")); n != 1 {
		t.Errorf("%d deliveries: %v", n, d.of(w.ns, "app"))
	}
}

// TestSyncsAreRecorded: operations of Applications, with who has asked for them.
func TestSyncsAreRecorded(t *testing.T) {
	w := newArgoWorld(t)
	d := w.keepsDiary()
	head := w.push(map[string]string{"web/a.yaml": w.configMap("a", "one")})
	w.app("web", "")
	w.sync("web", `{"initiatedBy":{"username":"jane"},"sync":{}}`)
	w.synced("web", head)
	w.operated("web", argocdv1.OperationSucceeded)
	w.recorded(d, "argocd", w.name("web"), `sync "test" by testjane: succeeded Healthy, create ConfigMap a`)
	w.merge("web", `{"spec":{"syncPolicy":{"automated":{"prune":true,"selfHeal":true}}}}`)
	head = w.push(map[string]string{"web/a.yaml": w.configMap("a", "two")})
	w.synced("web", head)
	w.recorded(d, "argocd", w.name("web"), `sync "test" by testjane: succeeded Healthy, create ConfigMap a`,
		`commit "test" by test: succeeded Healthy, update ConfigMap a (data.v one → two)`)
}

// TestReleasesAreRecorded: what Helm's actions change, and how they end.
func TestReleasesAreRecorded(t *testing.T) {
	w := newWorld(t)
	d := w.keepsDiary()
	w.push(chart("1.0.0", nil))
	w.helmRelease("web", "  values: {v: one}\n")
	w.released("web", 1)
	w.helmRelease("web", "  values: {v: two}\n  upgrade: {remediation: {retries: 1, remediateLastFailure: true}}\n")
	w.released("web", 2)
	begun := `commit "" by : succeeded Healthy, create ConfigMap web`
	changed := `spec "" by : succeeded Healthy, update ConfigMap web (data.v one → two)`
	w.recorded(d, w.ns, "web", begun, changed)

	w.push(chart("2.0.0", map[string]string{"templates/bad.yaml": "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: No Name}\n"}))
	w.eventually("the failures", func() error {
		lines := d.of(w.ns, "web")
		if len(lines) < 4 || !strings.HasPrefix(lines[2], `commit "" by : failed`) || !strings.HasPrefix(lines[3], `rollback "" by : succeeded`) {
			return fmt.Errorf("it says:\n%s", strings.Join(lines, "\n"))
		}
		return nil
	})
}

// TestRotatedSecretsAreNotRecorded: a value that was a secret's stays masked where it is replaced by something else in the very change that
// gives the secret another value, also where the process that knew it is gone.
func TestRotatedSecretsAreNotRecorded(t *testing.T) {
	const first, second = "first-secret-value", "second-secret-value"
	restart := func(w *world) {
		w.Helper()
		running.stop()
		w.must(running.start())
	}
	vars := func(w *world, value string) {
		w.Helper()
		w.apply(fmt.Sprintf("apiVersion: v1\nkind: Secret\nmetadata: {name: vars, namespace: %s}\nstringData: {TOKEN: %s}\n", w.ns, value))
	}
	const from = "  postBuild: {substituteFrom: [{kind: Secret, name: vars}]}\n"
	fetched := func(w *world, rev string) {
		w.Helper()
		w.eventually("the source", func() error {
			var repo sourcev1.GitRepository
			w.must(w.client.Get(w.ctx, client.ObjectKey{Namespace: w.ns, Name: "repo"}, &repo))
			if a := repo.Status.Artifact; a == nil || a.Revision != rev {
				return fmt.Errorf("it is at %+v", a)
			}
			return nil
		})
	}
	befores := map[string]string{"at once": redact.Mask, "after a restart": "plain"} // where it is known, both sides are masked
	for name, between := range map[string]func(*world){"at once": func(*world) {}, "after a restart": restart} {
		t.Run("substituted, "+name, func(t *testing.T) {
			w := newWorld(t)
			d := w.keepsDiary()
			vars(w, first)
			w.app("app", from)
			w.ready("app", w.push(map[string]string{"app/a.yaml": w.configMap("a", "${TOKEN}")}))
			w.app("app", from+"  suspend: true\n")
			between(w)
			vars(w, second)
			fetched(w, w.push(map[string]string{"app/a.yaml": w.configMap("a", "plain")}))
			w.app("app", from)
			w.value("a", "plain")
			w.recorded(d, w.ns, "app", `commit "test" by test: succeeded Healthy, create ConfigMap a`,
				`commit "test" by test: succeeded Healthy, update ConfigMap a (data.v **REDACTED** → `+befores[name]+`)`)
		})
	}
	t.Run("not substituted any more, after a restart", func(t *testing.T) {
		w := newWorld(t)
		d := w.keepsDiary()
		vars(w, first)
		w.app("app", from)
		w.ready("app", w.push(map[string]string{"app/a.yaml": w.configMap("a", "${TOKEN}")}))
		w.app("app", from+"  suspend: true\n")
		restart(w)
		fetched(w, w.push(map[string]string{"app/a.yaml": w.configMap("a", "plain")}))
		w.app("app", "")
		w.value("a", "plain")
		w.recorded(d, w.ns, "app", `commit "test" by test: succeeded Healthy, create ConfigMap a`,
			`commit "test" by test: succeeded Healthy, update ConfigMap a (data.v **REDACTED** → plain)`)
	})
	t.Run("the app's own", func(t *testing.T) {
		w := newWorld(t)
		d := w.keepsDiary()
		w.app("app", "")
		secret := func(value string) string {
			return fmt.Sprintf("apiVersion: v1\nkind: Secret\nmetadata: {name: token, namespace: %s}\nstringData: {t: %s}\n", w.ns, value)
		}
		w.ready("app", w.push(map[string]string{"app/a.yaml": w.configMap("a", "x="+first), "app/s.yaml": secret(first)}))
		w.ready("app", w.push(map[string]string{"app/a.yaml": w.configMap("a", "plain"), "app/s.yaml": secret(second)}))
		w.recorded(d, w.ns, "app", `commit "test" by test: succeeded Healthy, create ConfigMap a, create Secret token`,
			`commit "test" by test: succeeded Healthy, update ConfigMap a (data.v x=**REDACTED** → **REDACTED**), update Secret token (data.t **REDACTED** → **REDACTED** (changed))`)
	})
	for name, between := range map[string]func(*world){"at once": func(*world) {}, "after a restart": restart} {
		t.Run("of Helm's values, "+name, func(t *testing.T) {
			w := newWorld(t)
			d := w.keepsDiary()
			w.push(chart("1.0.0", nil))
			values := func(value string) {
				w.Helper()
				w.apply(fmt.Sprintf("apiVersion: v1\nkind: Secret\nmetadata: {name: vals, namespace: %s}\nstringData: {values.yaml: 'v: %s'}\n", w.ns, value))
			}
			values(first)
			const from = "  valuesFrom: [{kind: Secret, name: vals}]\n"
			w.helmRelease("web", from)
			w.released("web", 1)
			w.helmRelease("web", from+"  suspend: true\n")
			between(w)
			values(second)
			w.helmRelease("web", from+"  values: {v: plain}\n")
			w.released("web", 2)
			w.recorded(d, w.ns, "web", `commit "" by : succeeded Healthy, create ConfigMap web`, `spec "" by : succeeded Healthy, update ConfigMap web (data.v **REDACTED** → `+befores[name]+`)`)
		})
	}
}

// TestCommitsOfADeliveryAreToldApart: of several commits that come at once, each has changed what is rendered otherwise since; what comes with a merge
// is its commits', with the merge request that the merge names.
func TestCommitsOfADeliveryAreToldApart(t *testing.T) {
	w := newWorld(t)
	d := w.keepsDiary()
	w.app("app", "")
	first := w.because("Begin", "ann", map[string]string{
		"app/a.yaml": w.configMap("a", "one"), "app/b.yaml": w.configMap("b", "one"),
		"app/kustomization.yaml": "resources: [a.yaml, b.yaml]\n",
	})
	w.ready("app", first)
	w.commitAs("ann", "Change a", map[string]string{"app/a.yaml": w.configMap("a", "two")})
	w.commitAs("bob", "Break", map[string]string{"app/b.yaml": "kind: ["})
	w.commitAs("bob", "Mend", map[string]string{"app/b.yaml": w.configMap("b", "two")})
	w.commitAs("eve", "Label all", map[string]string{"app/kustomization.yaml": "resources: [a.yaml, b.yaml, c.yaml]\nlabels: [{pairs: {team: red}}]\n", "app/c.yaml": w.configMap("c", "one")})
	w.ready("app", w.because("Elsewhere", "dave", map[string]string{"other/x": "x"}))
	want := []string{"Change a: a data.v", "Break:", "Mend:", "Label all: a metadata.labels.team, b metadata.labels.team, c whole", "Elsewhere:"}
	w.eventually("the commits", func() error {
		d.mu.Lock()
		defer d.mu.Unlock()
		var got []string
		for _, parts := range d.parts {
			for _, p := range parts {
				line := p.Title + ":"
				for i, c := range p.Changed {
					if i > 0 {
						line += ","
					}
					if line += " " + c.Name; c.Whole {
						line += " whole"
					}
					line += strings.TrimRight(" "+strings.Join(c.Fields, " "), " ")
				}
				got = append(got, line)
			}
		}
		if !slices.Equal(got, want) {
			return fmt.Errorf("%q, want %q", got, want)
		}
		return nil
	})
}
