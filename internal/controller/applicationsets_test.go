package controller_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	argocdv1 "keelson.dev/keelson/api/argocd/v1alpha1"
)

// set declares an ApplicationSet that is named after the test's namespace; spec is indented by two.
func (w *argoWorld) set(annotations, spec string) {
	w.Helper()
	w.apply(fmt.Sprintf(`
apiVersion: argoproj.io/v1alpha1
kind: ApplicationSet
metadata: {name: %s, namespace: argocd, annotations: {%s}}
spec:
%s`, w.ns, annotations, spec))
	w.Cleanup(func() {
		set := &argocdv1.ApplicationSet{ObjectMeta: metav1.ObjectMeta{Namespace: "argocd", Name: w.ns}}
		ctx := context.Background()
		w.must(client.IgnoreNotFound(w.client.Delete(ctx, set)))
		w.must(client.IgnoreNotFound(w.client.Patch(ctx, set, client.RawPatch("application/merge-patch+json", []byte(`{"metadata":{"finalizers":null}}`)))))
	})
}

func (w *argoWorld) applicationSet() *argocdv1.ApplicationSet {
	w.Helper()
	set := &argocdv1.ApplicationSet{}
	w.must(w.client.Get(w.ctx, client.ObjectKey{Namespace: "argocd", Name: w.ns}, set))
	return set
}

// conditions waits until the set's conditions are as named ("ErrorOccurred=False ApplicationSetUpToDate"), and the last one's message
// has all parts.
func (w *argoWorld) conditions(want string, parts ...string) {
	w.Helper()
	w.eventually("the ApplicationSet's condition "+want, func() error {
		var got []string
		for _, c := range w.applicationSet().Status.Conditions {
			line := c.Type + "=" + c.Status + " " + c.Reason
			got = append(got, line+": "+c.Message)
			if line != want {
				continue
			}
			for _, part := range parts {
				if !strings.Contains(c.Message, part) {
					return fmt.Errorf("want %q in %q", part, c.Message)
				}
			}
			return nil
		}
		return fmt.Errorf("it has %q", got)
	})
}

// made waits until the set has just these Applications, none of which is being deleted.
func (w *argoWorld) made(names ...string) []argocdv1.Application {
	w.Helper()
	var out []argocdv1.Application
	w.eventually(fmt.Sprintf("Applications %v", names), func() error {
		var list argocdv1.ApplicationList
		w.must(w.client.List(w.ctx, &list, client.InNamespace("argocd")))
		out = nil
		var got []string
		for _, a := range list.Items {
			if strings.HasPrefix(a.Name, w.ns+"-") {
				out = append(out, a)
				got = append(got, strings.TrimPrefix(a.Name, w.ns+"-"))
			}
		}
		slices.Sort(got)
		if !slices.Equal(got, names) {
			return fmt.Errorf("there are %v", got)
		}
		return nil
	})
	return out
}

const setTemplate = `  template:
    metadata: {name: '%s-%s'}
    spec:
      project: default
      source: {repoURL: %s, path: '%s', targetRevision: main}
      destination: {server: https://kubernetes.default.svc, namespace: %s}
      syncPolicy: {automated: {prune: true, selfHeal: true}}
`

// directories is a set of an Application for each folder below apps.
func (w *argoWorld) directories() string {
	return fmt.Sprintf(`
  generators:
  - git: {repoURL: %s, revision: main, directories: [{path: apps/*}]}
`, w.url()) + fmt.Sprintf(setTemplate, w.ns, "{{path.basename}}", w.url(), "{{path}}", w.ns)
}

// TestApplicationSetOfFolders: Applications of a project that may deliver to one namespace come, change and go with the folders of a
// repository, and are repaired.
func TestApplicationSetOfFolders(t *testing.T) {
	t.Parallel()
	w := newArgoWorld(t)
	first := w.push(map[string]string{"apps/web/a.yaml": w.configMap("a", "1"), "apps/api/b.yaml": w.configMap("b", "1")})
	w.apply(fmt.Sprintf(`
apiVersion: argoproj.io/v1alpha1
kind: AppProject
metadata: {name: %s, namespace: argocd}
spec:
  sourceRepos: [%q]
  destinations: [{server: https://kubernetes.default.svc, namespace: %s}]
`, w.ns, w.url(), w.ns))
	directories := strings.Replace(w.directories(), "project: default", "project: "+w.ns, 1)
	w.set("", directories)
	apps := w.made("api", "web")
	for i := range apps {
		ref := metav1.GetControllerOf(&apps[i])
		if ref == nil || ref.Kind != "ApplicationSet" || ref.Name != w.ns || !slices.Equal(apps[i].Finalizers, []string{argocdv1.ResourcesFinalizer}) {
			t.Errorf("%s is owned by %+v and has the finalizers %v", apps[i].Name, ref, apps[i].Finalizers)
		}
	}
	w.synced("web", first)
	w.synced("api", first)
	w.conditions("ErrorOccurred=False ApplicationSetUpToDate")
	w.conditions("ParametersGenerated=True ParametersGenerated")
	w.conditions("ResourcesUpToDate=True ApplicationSetUpToDate")
	w.eventually("the set's resources", func() error {
		s := w.applicationSet().Status
		if s.ResourcesCount != 2 || len(s.Resources) != 2 || s.Resources[1].Name != w.name("web") || s.Resources[1].Status != "Synced" || s.Resources[1].Health.Status != "Healthy" {
			return fmt.Errorf("they are %+v", s.Resources)
		}
		return nil
	})

	second := w.push(map[string]string{"apps/web/a.yaml": "", "apps/new/c.yaml": w.configMap("c", "1")})
	w.made("api", "new")
	w.synced("new", second)
	w.value("a", "") // its finalizer took it along
	w.value("c", "1")

	// Somebody edits one, and deletes another.
	w.must(w.client.Patch(w.ctx, w.application("api"), client.RawPatch("application/merge-patch+json", []byte(`{"spec":{"source":{"path":"elsewhere"}},"metadata":{"labels":{"x":"y"}}}`))))
	w.until("api", func(a *argocdv1.Application) error {
		if a.Spec.Source.Path != "apps/api" || len(a.Labels) > 0 {
			return errors.New("want it as it was")
		}
		return nil
	})
	gone := w.application("new")
	w.must(w.client.Delete(w.ctx, gone))
	w.eventually("another Application new", func() error {
		a := &argocdv1.Application{}
		if err := w.client.Get(w.ctx, client.ObjectKeyFromObject(gone), a); err != nil {
			return err
		}
		if a.UID == gone.UID {
			return errors.New("it is still the old one")
		}
		return nil
	})
	w.synced("new", second)

	// A template that is wrong changes nothing.
	broken := strings.Replace(directories, "generators:", "goTemplate: true\n  generators:", 1)
	broken = strings.ReplaceAll(strings.ReplaceAll(broken, "{{path.basename}}", "{{ .path.basename "), "{{path}}", "{{ .path.path }}")
	w.set("", broken)
	w.conditions("ErrorOccurred=True RenderTemplateParamsError", "spec.generators[0].git", "unclosed action")
	w.conditions("ParametersGenerated=False ErrorOccurred")
	w.made("api", "new")

	// Nor does a repository that cannot be read.
	w.set("", strings.Replace(directories, w.url(), running.server.URL+"/git/"+w.ns+"-gone.git", 1))
	w.conditions("ErrorOccurred=True ApplicationGenerationFromParamsError", "spec.generators[0].git", w.ns+"-gone.git")
	w.made("api", "new")

	// Nor a generator that is not supported.
	w.set("", `
  generators:
  - pullRequest: {github: {owner: a, repo: b}}
`+fmt.Sprintf(setTemplate, w.ns, "x", w.url(), "x", w.ns))
	w.conditions("ErrorOccurred=True ApplicationGenerationFromParamsError", "pullRequest is not supported yet")
	w.made("api", "new")
}

// TestApplicationSetGuard: more than half of many are deleted only when a person says so; and nothing is asked of the cluster while
// nothing happens.
func TestApplicationSetGuard(t *testing.T) {
	t.Parallel()
	w := newArgoWorld(t)
	w.push(map[string]string{"apps/a/x.yaml": w.configMap("a", "1"), "apps/b/x.yaml": w.configMap("b", "1"), "apps/c/x.yaml": w.configMap("c", "1"), "apps/d/x.yaml": w.configMap("d", "1")})
	w.set("", w.directories())
	w.made("a", "b", "c", "d")
	w.push(map[string]string{"apps/a/x.yaml": "", "apps/b/x.yaml": "", "apps/c/x.yaml": ""})
	w.conditions("ErrorOccurred=True ConfirmationRequired", "3 of 4 Applications would be deleted", "keelson.dev/confirm=")
	w.made("a", "b", "c", "d")
	message := w.applicationSet().Status.Conditions[0].Message
	_, word, _ := strings.Cut(message, "keelson.dev/confirm=")
	w.set("keelson.dev/confirm: '"+strings.TrimSuffix(word, ")")+"'", w.directories())
	w.made("d")
	w.conditions("ErrorOccurred=False ApplicationSetUpToDate")
	w.eventually("quiet", func() error {
		before := w.applicationSet().ResourceVersion
		time.Sleep(2 * time.Second)
		if after := w.applicationSet().ResourceVersion; after != before {
			return errors.New("it is still being written")
		}
		return nil
	})
}

// TestApplicationSetOfClusters: Applications come and go with the Secrets that declare clusters.
func TestApplicationSetOfClusters(t *testing.T) {
	t.Parallel()
	w := newArgoWorld(t)
	secret := func(name string) *corev1.Secret {
		return &corev1.Secret{
			ObjectMeta: metav1.ObjectMeta{Namespace: "argocd", Name: w.ns + "-" + name, Labels: map[string]string{"argocd.argoproj.io/secret-type": "cluster", "of": w.ns}},
			StringData: map[string]string{"name": w.ns + "-" + name, "server": "https://" + w.ns + "-" + name + ".invalid", "config": "{}"},
		}
	}
	oslo, turin := secret("oslo"), secret("turin")
	w.must(w.client.Create(w.ctx, oslo))
	w.Cleanup(func() {
		for _, s := range []*corev1.Secret{oslo, turin} {
			w.must(client.IgnoreNotFound(w.client.Delete(context.Background(), s)))
		}
	})
	w.set("", fmt.Sprintf(`
  goTemplate: true
  goTemplateOptions: [missingkey=error]
  generators:
  - clusters: {selector: {matchLabels: {of: %s}}}
  template:
    metadata: {name: '{{ .name }}', labels: {of: '{{ index .metadata.labels "of" }}'}}
    spec:
      project: default
      source: {repoURL: %s, path: web, targetRevision: main}
      destination: {server: '{{ .server }}', namespace: x}
`, w.ns, w.url()))
	w.made("oslo")
	w.must(w.client.Create(w.ctx, turin))
	apps := w.made("oslo", "turin")
	if apps[0].Labels["of"] != w.ns || apps[0].Spec.Destination.Server != "https://"+apps[0].Name+".invalid" {
		t.Errorf("%+v %+v", apps[0].ObjectMeta, apps[0].Spec.Destination)
	}
	w.must(w.client.Delete(w.ctx, oslo)) // its Application can have nothing deleted any more
	w.made("turin")
}

// TestApplicationSetRollout: Applications are synced step by step, at first and with every commit.
func TestApplicationSetRollout(t *testing.T) {
	t.Parallel()
	w := newArgoWorld(t)
	files := func(v string) map[string]string {
		return map[string]string{"dev/a.yaml": w.configMap("dev", v), "qa/a.yaml": w.configMap("qa", v), "prod/a.yaml": w.configMap("prod", v)}
	}
	first := w.push(files("1"))
	w.set("", `
  strategy:
    type: RollingSync
    rollingSync:
      steps:
      - matchExpressions: [{key: env, operator: In, values: [dev]}]
      - matchExpressions: [{key: env, operator: In, values: [qa]}]
        maxUpdate: 1
      - matchExpressions: [{key: env, operator: In, values: [prod]}]
  generators:
  - list: {elements: [{env: dev}, {env: qa}, {env: prod}]}
`+strings.Replace(fmt.Sprintf(setTemplate, w.ns, "{{env}}", w.url(), "{{env}}", w.ns), "{name:", "{labels: {env: '{{env}}'}, name:", 1))
	w.made("dev", "prod", "qa")
	inOrder := func(commit string) {
		t.Helper()
		var began []time.Time
		for _, env := range []string{"dev", "qa", "prod"} {
			a := w.synced(env, commit)
			o := a.Status.OperationState
			if o == nil || o.Operation.InitiatedBy.Username != "applicationset-controller" || o.SyncResult.Revision != commit {
				t.Errorf("%s: operation %+v", env, o)
				continue
			}
			if *a.Spec.SyncPolicy.Automated.Enabled {
				t.Errorf("%s syncs by itself", env)
			}
			began = append(began, o.StartedAt.Time)
		}
		if !slices.IsSortedFunc(began, time.Time.Compare) {
			t.Errorf("they began at %v", began)
		}
	}
	inOrder(first)
	w.conditions("RolloutProgressing=False ApplicationSetRolloutComplete")
	for _, s := range w.applicationSet().Status.ApplicationStatus {
		if s.Status != "Healthy" || !slices.Equal(s.TargetRevisions, []string{first}) {
			t.Errorf("%+v", s)
		}
	}

	// A step that cannot get healthy stops what comes after it.
	second := w.push(map[string]string{"dev/a.yaml": w.configMap("dev", "2"), "qa/a.yaml": "kind: ConfigMap\napiVersion: v1\nmetadata: {name: Not_A_Name}\n", "prod/a.yaml": w.configMap("prod", "2")})
	w.synced("dev", second)
	w.conditions("RolloutProgressing=True ApplicationSetModified", "step 2")
	w.pauses("qa", 1)
	w.value("dev", "2")
	w.value("prod", "1")

	third := w.push(files("3"))
	inOrder(third)
	w.conditions("RolloutProgressing=False ApplicationSetRolloutComplete")
}
