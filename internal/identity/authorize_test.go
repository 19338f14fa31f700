package identity

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	authv1 "k8s.io/api/authorization/v1"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/yaml"
	"k8s.io/client-go/kubernetes"

	"keelson.dev/keelson/internal/kube"
	"keelson.dev/keelson/internal/web"
	"keelson.dev/keelson/test/testcluster"
)

// cluster is shared by the package's tests.
var cluster *testcluster.Cluster

func TestMain(m *testing.M) {
	flag.Parse()
	os.Exit(testcluster.Main(m, &cluster))
}

// reviewOf asks the real cluster, and counts the questions.
func reviewOf(t *testing.T, asked *int) func() (Review, error) {
	t.Helper()
	r, err := kube.NewReviewer(cluster.Config)
	if err != nil {
		t.Fatal(err)
	}
	review := func(ctx context.Context, who web.Person, verb string, on web.Target) (bool, string, error) {
		*asked++
		return r.May(ctx, who.Name, who.Groups, authv1.ResourceAttributes{Verb: verb, Group: on.Group, Resource: on.Resource, Namespace: on.Namespace, Name: on.Name})
	}
	return func() (Review, error) { return review, nil }
}

// exampleRoles makes the roles that the documentation shows.
func exampleRoles(t *testing.T, c kubernetes.Interface) {
	t.Helper()
	root, err := testcluster.Root()
	if err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(filepath.Join(root, "config", "rbac", "roles.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	for doc := range bytes.SplitSeq(text, []byte("\n---\n")) {
		var role rbacv1.ClusterRole
		if err := yaml.UnmarshalStrict(doc, &role); err != nil {
			t.Fatal(err)
		}
		if _, err := c.RbacV1().ClusterRoles().Create(t.Context(), &role, metav1.CreateOptions{}); err != nil && !apierrors.IsAlreadyExists(err) {
			t.Fatal(err)
		}
	}
}

func bind(t *testing.T, c kubernetes.Interface, namespace, role string, who rbacv1.Subject) {
	t.Helper()
	ref := rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: role}
	meta := metav1.ObjectMeta{GenerateName: "test-", Namespace: namespace}
	var err error
	if namespace == "" {
		_, err = c.RbacV1().ClusterRoleBindings().Create(t.Context(), &rbacv1.ClusterRoleBinding{ObjectMeta: meta, RoleRef: ref, Subjects: []rbacv1.Subject{who}}, metav1.CreateOptions{})
	} else {
		_, err = c.RbacV1().RoleBindings(namespace).Create(t.Context(), &rbacv1.RoleBinding{ObjectMeta: meta, RoleRef: ref, Subjects: []rbacv1.Subject{who}}, metav1.CreateOptions{})
	}
	if err != nil {
		t.Fatal(err)
	}
}

func subject(kind, name string) rbacv1.Subject {
	return rbacv1.Subject{APIGroup: rbacv1.GroupName, Kind: kind, Name: name}
}

// TestRoles asks the cluster's own authorizer about the roles of the documentation.
func TestRoles(t *testing.T) {
	c, err := kubernetes.NewForConfig(cluster.Config)
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"roles-shop", "roles-other"} {
		if _, err := c.CoreV1().Namespaces().Create(t.Context(), &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: name}}, metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	exampleRoles(t, c)
	bind(t, c, "", "cluster-admin", subject("Group", Admins))
	bind(t, c, "", "keelson-viewer", subject("User", "vic"))
	bind(t, c, "roles-shop", "keelson-developer", subject("Group", "developers"))
	bind(t, c, "roles-shop", "keelson-releaser", subject("User", "amy@example.com"))
	narrow := &rbacv1.Role{
		ObjectMeta: metav1.ObjectMeta{Name: "production", Namespace: "roles-shop"},
		Rules:      []rbacv1.PolicyRule{{APIGroups: []string{"keelson.dev"}, Resources: []string{"environments"}, ResourceNames: []string{"production"}, Verbs: []string{"stop"}}},
	}
	if _, err := c.RbacV1().Roles("roles-shop").Create(t.Context(), narrow, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	_, err = c.RbacV1().RoleBindings("roles-shop").Create(t.Context(), &rbacv1.RoleBinding{
		ObjectMeta: metav1.ObjectMeta{Name: "production"}, RoleRef: rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "Role", Name: "production"},
		Subjects: []rbacv1.Subject{subject("User", "amy@example.com")},
	}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}

	var (
		asked   int
		admin   = web.Person{Name: "root", Groups: []string{Admins}}
		dev     = web.Person{Name: "dev", Groups: []string{"developers"}}
		viewer  = web.Person{Name: "vic"}
		amy     = web.Person{Name: "amy@example.com"}
		nobody  = web.Person{Name: "nobody"}
		project = web.Target{Group: "keelson.dev", Resource: "projects", Namespace: "roles-shop", Name: "shop"}
		other   = web.Target{Group: "keelson.dev", Resource: "projects", Namespace: "roles-other", Name: "shop"}
		none    = web.Target{Group: "keelson.dev", Resource: "projects"}
		prod    = web.Target{Group: "keelson.dev", Resource: "environments", Namespace: "roles-shop", Name: "production"}
		review  = web.Target{Group: "keelson.dev", Resource: "environments", Namespace: "roles-shop", Name: "review/x"}
		app     = web.TargetOf("Kustomization", "roles-shop", "apps")
	)
	a := NewAuthorizer(reviewOf(t, &asked), nil)
	for _, c := range []struct {
		who  web.Person
		verb string
		on   web.Target
		may  bool
	}{
		{admin, "play", project, true}, {admin, "rollback", prod, true}, {admin, "play", none, true}, {admin, "create", usersTarget, true},
		{admin, "impersonate", web.Target{Resource: "groups", Name: "x"}, true}, {admin, "get", web.TargetOf("Unknown", "", ""), true},
		{dev, "get", project, true}, {dev, "play", project, true}, {dev, "retry", project, true}, {dev, "cancel", project, true}, {dev, "sync", app, true},
		{dev, "suspend", app, true}, {dev, "stop", review, true},
		{dev, "erase", project, false}, {dev, "push", project, true}, {viewer, "push", project, false}, {dev, "push", none, false}, {dev, "rollback", prod, false}, {dev, "rollback", app, false}, {dev, "play", other, false},
		{dev, "get", none, false}, {dev, "create", usersTarget, false}, {dev, "get", web.TargetOf("Unknown", "roles-shop", ""), false},
		{viewer, "get", project, true}, {viewer, "get", other, true}, {viewer, "get", none, true}, {viewer, "get", app, true}, {viewer, "play", project, false}, {viewer, "sync", app, false},
		{amy, "rollback", prod, true}, {amy, "rollback", app, true}, {amy, "stop", prod, true}, {amy, "stop", review, false}, {amy, "play", project, false},
		{nobody, "get", project, false}, {nobody, "get", none, false},
		{web.Person{}, "get", project, false}, {web.Person{Name: "system:admin", Groups: []string{"system:masters"}}, "get", project, false},
		{web.Person{Name: "System:kube-controller-manager"}, "get", project, false},
	} {
		err := a.Authorize(t.Context(), c.who, c.verb, c.on)
		if (err == nil) != c.may || err != nil && !errors.Is(err, web.ErrForbidden) {
			t.Errorf("%s %s %s: %v, want %v", c.who.Name, c.verb, describe(c.on), err, c.may)
		}
	}
	err = a.Authorize(t.Context(), dev, "rollback", prod)
	if want := `forbidden: dev may not rollback environments.keelson.dev "production" in namespace roles-shop: grant it with a Role`; err == nil || !strings.HasPrefix(err.Error(), want) {
		t.Errorf("%v, want %s", err, want)
	}
}

// TestBelieved: answers are kept for seconds, each for its question, and errors are not.
func TestBelieved(t *testing.T) {
	at := &clock{at: time.Now()}
	asked, granted, failing := 0, true, false
	a := NewAuthorizer(func() (Review, error) {
		return func(context.Context, web.Person, string, web.Target) (bool, string, error) {
			asked++
			if failing {
				return false, "", errors.New("the cluster is away")
			}
			return granted, "", nil
		}, nil
	}, at.now)
	ask := func(groups ...string) error {
		return a.Authorize(t.Context(), web.Person{Name: "ann", Groups: groups}, "get", web.Target{Resource: "projects"})
	}
	for _, step := range []struct {
		name     string
		do       func()
		groups   []string
		allowed  bool
		says     string
		question int
	}{
		{"at first", func() {}, nil, true, "", 1},
		{"again", func() {}, nil, true, "", 1},
		{"in a group", func() {}, []string{"g"}, true, "", 2},
		{"in groups that look the same", func() {}, []string{"g", ""}, true, "", 3},
		{"taken away", func() { granted = false }, nil, true, "", 3},
		{"seconds later", func() { at.add(believedYes) }, nil, false, "forbidden", 4},
		{"granted again", func() { granted = true }, nil, false, "forbidden", 4},
		{"seconds later", func() { at.add(believedNo) }, nil, true, "", 5},
		{"away", func() { at.add(believedYes); failing = true }, nil, false, "the cluster is away", 6},
		{"back", func() { failing = false }, nil, true, "", 7},
	} {
		step.do()
		err := ask(step.groups...)
		if (err == nil) != step.allowed || asked != step.question || err != nil && !strings.Contains(err.Error(), step.says) {
			t.Errorf("%s: %v after %d questions, want %v after %d", step.name, err, asked, step.allowed, step.question)
		}
	}
	starting := NewAuthorizer(func() (Review, error) { return nil, errors.New("the cluster is starting") }, nil)
	if err := starting.Authorize(t.Context(), web.Person{Name: "ann"}, "get", web.Target{}); err == nil || errors.Is(err, web.ErrForbidden) {
		t.Errorf("before there is a cluster: %v", err)
	}
}

// TestPerson: what is written as a person is what that person may do, and nothing else.
func TestPerson(t *testing.T) {
	c, err := kubernetes.NewForConfig(cluster.Config)
	if err != nil {
		t.Fatal(err)
	}
	const ns = "as-person"
	if _, err := c.CoreV1().Namespaces().Create(t.Context(), &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: ns}}, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	bind(t, c, ns, "edit", subject("Group", "editors"))
	k, err := kube.NewCluster(cluster.Config)
	if err != nil {
		t.Fatal(err)
	}
	gvk := schema.GroupVersionKind{Version: "v1", Kind: "ConfigMap"}
	for i, who := range []struct {
		person web.Person
		may    bool
	}{
		{web.Person{Name: "ed", Groups: []string{"editors"}}, true},
		{web.Person{Name: "ed"}, false}, // the same name with other groups is another client
		{web.Person{Name: "ed", Groups: []string{"editors"}}, true},
	} {
		u, err := k.Person(who.person.Name, who.person.Groups)
		if err != nil {
			t.Fatal(err)
		}
		r, err := u.Resource(gvk, ns)
		if err != nil {
			t.Fatal(err)
		}
		obj := map[string]any{"apiVersion": "v1", "kind": "ConfigMap", "metadata": map[string]any{"name": fmt.Sprintf("c%d", i), "namespace": ns}}
		_, err = r.Create(t.Context(), objectOf(obj), metav1.CreateOptions{})
		if (err == nil) != who.may || err != nil && !apierrors.IsForbidden(err) {
			t.Errorf("%v: %v, want %v", who.person, err, who.may)
		}
	}
	if _, err := k.Person("", nil); err == nil {
		t.Error("nobody has a client")
	}
}

func objectOf(fields map[string]any) *unstructured.Unstructured {
	return &unstructured.Unstructured{Object: fields}
}
