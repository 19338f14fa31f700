package main

import (
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client/fake"

	keelsonv1 "keelson.dev/keelson/api/v1alpha1"
	"keelson.dev/keelson/internal/pipeline"
	"keelson.dev/keelson/internal/pipeline/executor"
)

// Which accesses are meant for which jobs; the first one is the job's current context.
func TestAccessFor(t *testing.T) {
	all := []keelsonv1.ClusterAccess{
		{Name: "production", Environment: "production", Protected: true}, {Name: "review", Environment: "review/*"}, {Name: "trusted", Protected: true}, {Name: "any", Environment: "*"},
	}
	for name, test := range map[string]struct {
		environment string
		protected   bool
		want        string
	}{
		"a build":                             {"", false, "any"},
		"a build of a protected branch":       {"", true, "trusted any"},
		"production":                          {"production", true, "production trusted any"},
		"production of any branch":            {"production", false, "any"},
		"a review app":                        {"review/a/b", false, "review any"},
		"an environment that begins like one": {"production2", true, "trusted any"},
	} {
		var got []string
		for _, a := range accessFor(all, test.environment, test.protected) {
			got = append(got, a.Name)
		}
		if strings.Join(got, " ") != test.want {
			t.Errorf("%s: %q, want %q", name, got, test.want)
		}
	}
	want := "this job of a/b has no access to the cluster: production is for jobs with environment production on protected branches and tags only, " +
		"review is for jobs with environment review/*, trusted is for every job on protected branches and tags only, any is for every job (spec.access of the Project)"
	if got := noAccess("a/b", all); got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
}

// Whoever may become the account of a protected branch is told, with what to do.
func TestSharedNamespaces(t *testing.T) {
	review := keelsonv1.ClusterAccess{Name: "review", ServiceAccount: "deploy-review"}
	production := keelsonv1.ClusterAccess{Name: "production", ServiceAccount: "deploy-production", Protected: true}
	in := func(a keelsonv1.ClusterAccess, namespace string) keelsonv1.ClusterAccess {
		a.Namespace = namespace
		return a
	}
	type list = []keelsonv1.ClusterAccess
	const note = "access review of acme/shop is for jobs of any branch, and its service account deploy-review is in the namespace %, as is deploy-production of the " +
		"protected access production: whoever may make Secrets or Pods there can become that one; use one namespace per environment"
	for name, test := range map[string]struct {
		all, chosen list
		namespace   string // empty: nothing is said
	}{
		"the Project's":                {list{production, review}, list{review}, "shop"},
		"one says it, one does not":    {list{in(production, "shop"), review}, list{review}, "shop"},
		"another namespace":            {list{in(production, "live"), in(review, "live")}, list{in(review, "live")}, "live"},
		"a protected job has both":     {list{production, review}, list{production, review}, "shop"},
		"one namespace each":           {list{in(production, "live"), review}, list{review}, ""},
		"the job has only production":  {list{production, review}, list{production}, ""},
		"nothing is protected":         {list{review, {Name: "any"}}, list{review, {Name: "any"}}, ""},
		"both are protected":           {list{production, {Name: "x", Protected: true}}, list{production}, ""},
		"the job has no access at all": {list{production}, nil, ""},
	} {
		p := &keelsonv1.Project{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "shop"}, Spec: keelsonv1.ProjectSpec{Access: test.all}}
		want := ""
		if test.namespace != "" {
			want = strings.Replace(note, "%", test.namespace, 1)
		}
		if got := strings.Join(sharedNamespaces("acme/shop", p, test.chosen), "\n"); got != want {
			t.Errorf("%s:\n%s\nwant\n%s", name, got, want)
		}
	}
	if got := sharedNamespaces("acme/shop", nil, nil); got != nil {
		t.Errorf("without a Project: %q", got)
	}
}

// Nobody talks the server into taking a branch for a protected one.
func TestProtectedJob(t *testing.T) {
	const is = "CI_COMMIT_REF_PROTECTED"
	for name, test := range map[string]struct {
		variables pipeline.Variables
		want      bool
	}{
		"nothing is said":  {nil, false},
		"protected":        {pipeline.Variables{{Name: is, Value: "true", Origin: pipeline.OriginPredefined}}, true},
		"not protected":    {pipeline.Variables{{Name: is, Value: "false", Origin: pipeline.OriginPredefined}}, false},
		"the file lies":    {pipeline.Variables{{Name: is, Value: "false", Origin: pipeline.OriginPredefined}, {Name: is, Value: "true", Origin: pipeline.OriginTop}}, false},
		"a person lies":    {pipeline.Variables{{Name: is, Value: "true", Origin: pipeline.OriginPipeline}}, false},
		"a report lies":    {pipeline.Variables{{Name: is, Value: "true", Origin: pipeline.OriginDotenv}}, false},
		"of merge request": {pipeline.Variables{{Name: is, Value: "true", Origin: pipeline.OriginPredefined}, {Name: "CI_MERGE_REQUEST_IID", Value: "1", Origin: pipeline.OriginPredefined}}, false},
	} {
		job := &executor.Job{Job: pipeline.Job{Variables: test.variables}}
		if got := protectedJob(job); got != test.want {
			t.Errorf("%s: %t", name, got)
		}
	}
}

// Which Projects an account's annotation names: by where they are, never by the path that they give themselves.
func TestConsents(t *testing.T) {
	for _, test := range []struct {
		annotation, namespace, name string
		want                        bool
	}{
		{"", "a", "b", false}, {"a/b", "a", "b", true}, {"a/b", "a", "bc", false}, {"x/y, a/b", "a", "b", true}, {"a/*", "a", "b", true}, {"a/*", "ab", "c", false},
		{"*/*", "a", "b", true}, {"*", "a", "b", false}, {"a*", "ab", "c", false}, {"a", "a", "b", false}, {"/b", "a", "b", false}, {"a/", "a", "b", false},
		{",", "a", "b", false}, {"a/b ,", "a", "b", true}, {"team-*/app", "team-a", "app", true}, {"team-*/app", "evil", "team-a/app", false}, {"acme/shop", "evil", "acme/shop", false},
	} {
		if got := consents(test.annotation, test.namespace, test.name); got != test.want {
			t.Errorf("%q for %s/%s: %t", test.annotation, test.namespace, test.name, got)
		}
	}
}

// A Project of another namespace is not let in because it has taken the path of one that is: what counts is where it is.
func TestAccountOfOtherNamespace(t *testing.T) {
	account := &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Namespace: "platform", Name: "deploy", Annotations: map[string]string{projectsAnnotation: "acme/shop"}}}
	a := &jobAccess{c: fake.NewClientBuilder().WithObjects(account).Build()}
	for namespace, want := range map[string]string{
		"acme": "", "platform": "",
		"evil": "kubectl annotate serviceaccount deploy -n platform --overwrite keelson.dev/projects=evil/shop",
	} {
		p := &keelsonv1.Project{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: "shop"}, Spec: keelsonv1.ProjectSpec{Path: "acme/shop"}}
		_, err := a.account(t.Context(), p, keelsonv1.ClusterAccess{Name: "production", ServiceAccount: "deploy", Namespace: "platform"})
		if (err == nil) != (want == "") || err != nil && !strings.Contains(err.Error(), want) {
			t.Errorf("a Project in %s: %v", namespace, err)
		}
	}
}

// What leads past the proxy is told with where it comes from; what Keelson gives is no such thing.
func TestBypasses(t *testing.T) {
	for name, test := range map[string]struct {
		variables pipeline.Variables
		want      string
	}{
		"nothing":       {nil, ""},
		"Keelson's own": {pipeline.Variables{{Name: "KUBECONFIG", Value: "x", File: true, Origin: pipeline.OriginPredefined}}, ""},
		"empty":         {pipeline.Variables{{Name: "KUBECONFIG", Origin: pipeline.OriginProject}}, ""},
		"the project's": {pipeline.Variables{{Name: "KUBECONFIG", Value: "x", File: true, Origin: pipeline.OriginProject}}, "KUBECONFIG (project) is not Keelson's"},
		"old habits": {
			pipeline.Variables{{Name: "KUBE_TOKEN", Value: "x", Origin: pipeline.OriginProject}, {Name: "KUBE_URL", Value: "x", Origin: pipeline.OriginJob}},
			"KUBE_URL (job variables), KUBE_TOKEN (project) is not Keelson's",
		},
	} {
		got := strings.Join(bypasses(&executor.Job{Job: pipeline.Job{Variables: test.variables}}), "\n")
		if !strings.HasPrefix(got, test.want) || (got == "") != (test.want == "") {
			t.Errorf("%s: %q, want %q", name, got, test.want)
		}
	}
}
