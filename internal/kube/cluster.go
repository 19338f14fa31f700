// Package kube is the way to a Kubernetes API server: one client and one REST mapper per cluster and user,
// and impersonation.
package kube

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"

	authv1 "k8s.io/api/authorization/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/discovery"
	"k8s.io/client-go/dynamic"
	authclient "k8s.io/client-go/kubernetes/typed/authorization/v1"
	"k8s.io/client-go/rest"

	"keelson.dev/keelson/internal/delivery"
	"keelson.dev/keelson/internal/telemetry"
)

// FieldManager is the name under which Keelson owns fields in the cluster.
const FieldManager = "keelson"

// Cluster is one API server as Keelson uses it. It is safe for concurrent use.
type Cluster struct {
	config *rest.Config
	http   *http.Client
	kinds  *kinds
	offers offers
	self   *User
	gate   *gate // nil: our own cluster

	mu    sync.Mutex
	users map[string]*User

	persons map[string]*User
}

// User is a cluster as one user: Keelson itself, an impersonated service account or a person.
type User struct {
	Dynamic dynamic.Interface
	Mapper  meta.RESTMapper
	name    string // empty: Keelson itself
	config  *rest.Config
	http    *http.Client
	reviews authclient.SelfSubjectAccessReviewInterface

	mu      sync.Mutex
	allowed map[authv1.ResourceAttributes]time.Time
}

// NewCluster connects to the API server of config. The client-side rate limit is off: the server's own
// flow control (429 with Retry-After, honoured by the client) is the limit, and a bound on the writes under way at once.
func NewCluster(config *rest.Config) (*Cluster, error) {
	config = rest.CopyConfig(config)
	config.QPS, config.Burst = -1, -1
	config.UserAgent = FieldManager
	config.DisableCompression = true // a network takes less time than the server takes to compress
	places := NewPlaces(writesAtOnce, patience)
	config.Wrap(func(rt http.RoundTripper) http.RoundTripper { return &turns{next: rt, places: places} })
	config.Wrap(telemetry.Transport)
	config.WarningHandler = rest.NoWarnings{} // the API's advice on manifests is for those who write them
	httpClient, err := rest.HTTPClientFor(config)
	if err != nil {
		return nil, fmt.Errorf("make client: %w", err)
	}
	offered, err := newKinds(config, httpClient)
	if err != nil {
		return nil, err
	}
	c := &Cluster{config: config, http: httpClient, kinds: offered, users: map[string]*User{}, persons: map[string]*User{}}
	c.self, err = c.newUser("", config, httpClient)
	return c, err
}

// Config is the cluster's connection, without a client-side rate limit.
func (c *Cluster) Config() *rest.Config { return rest.CopyConfig(c.config) }

// HTTPClient is the connection's HTTP client, shared by every client of Keelson itself.
func (c *Cluster) HTTPClient() *http.Client { return c.http }

// Mapper maps kinds to resources. A kind that appears later is found at the next look-up, that one has gone after
// [Cluster.ForgetKinds].
func (c *Cluster) Mapper() meta.RESTMapper { return c.kinds }

// ForgetKinds has the server asked anew which kinds it offers: it has just said that it does not know one.
func (c *Cluster) ForgetKinds() error {
	c.offers.forget()
	return c.kinds.forget()
}

// Self is the cluster as Keelson itself.
func (c *Cluster) Self() *User { return c.self }

// As gives the cluster as a service account of a namespace; an empty name gives Keelson itself.
// Clients are made once per user and kept.
func (c *Cluster) As(namespace, serviceAccount string) (*User, error) {
	if serviceAccount == "" {
		return c.self, nil
	}
	name := "system:serviceaccount:" + namespace + ":" + serviceAccount
	c.mu.Lock()
	defer c.mu.Unlock()
	if u, ok := c.users[name]; ok {
		return u, nil
	}
	config := rest.CopyConfig(c.config)
	config.Impersonate = rest.ImpersonationConfig{UserName: name} // the server knows the groups of a service account
	httpClient, err := rest.HTTPClientFor(config)
	if err != nil {
		return nil, fmt.Errorf("make client for %s: %w", name, err)
	}
	u, err := c.newUser(name, config, httpClient)
	if err != nil {
		return nil, err
	}
	c.users[name] = u
	return u, nil
}

// maxPersons bounds how many people's clients are kept.
const maxPersons = 256

// PersonManager is the field manager of what people do by way of Keelson's API: no controller takes it for its own doing.
const PersonManager = FieldManager + "-web"

// Person gives the cluster as a person, by impersonation, with exactly these groups; the server adds system:authenticated.
// Clients are made once per person and kept, as long as they are not too many.
func (c *Cluster) Person(name string, groups []string) (*User, error) {
	if name == "" {
		return nil, errors.New("nobody is asking: a person has a name")
	}
	key := "person\x00" + name + "\x00" + strings.Join(groups, "\x00")
	c.mu.Lock()
	defer c.mu.Unlock()
	if u, ok := c.persons[key]; ok {
		return u, nil
	}
	config := rest.CopyConfig(c.config)
	config.UserAgent = PersonManager // the server takes the field manager from it
	config.Impersonate = rest.ImpersonationConfig{UserName: name, Groups: slices.Clone(groups)}
	httpClient, err := rest.HTTPClientFor(config)
	if err != nil {
		return nil, fmt.Errorf("make client for %s: %w", name, err)
	}
	u, err := c.newUser(name, config, httpClient)
	if err != nil {
		return nil, err
	}
	if len(c.persons) >= maxPersons {
		clear(c.persons)
	}
	c.persons[key] = u
	return u, nil
}

func (c *Cluster) newUser(name string, config *rest.Config, httpClient *http.Client) (*User, error) {
	dyn, err := dynamic.NewForConfigAndClient(config, httpClient)
	if err != nil {
		return nil, fmt.Errorf("make dynamic client: %w", err)
	}
	auth, err := authclient.NewForConfigAndClient(config, httpClient)
	if err != nil {
		return nil, fmt.Errorf("make authorization client: %w", err)
	}
	return &User{
		Dynamic: dyn, Mapper: c.kinds, name: name, config: config, http: httpClient, reviews: auth.SelfSubjectAccessReviews(),
		allowed: map[authv1.ResourceAttributes]time.Time{},
	}, nil
}

// Ping asks the server for its version: a readable error when it cannot be reached or refuses us.
func (c *Cluster) Ping(ctx context.Context) (string, error) {
	d, err := discovery.NewDiscoveryClientForConfigAndClient(c.config, c.http)
	if err != nil {
		return "", err
	}
	v, err := d.ServerVersionWithContext(ctx)
	if err != nil {
		return "", fmt.Errorf("reach the API server %s: %w", c.config.Host, err)
	}
	return v.GitVersion, nil
}

// REST is what clients of the user are made with: its connection, which is in the HTTP client already, and that client, which all
// of them share.
func (u *User) REST() (*rest.Config, *http.Client) { return rest.CopyConfig(u.config), u.http }

// Resource finds the client for objects of a kind: namespaced where the kind is.
func (u *User) Resource(gvk schema.GroupVersionKind, namespace string) (dynamic.ResourceInterface, error) {
	m, err := u.Mapper.RESTMapping(gvk.GroupKind(), gvk.Version)
	if err != nil {
		return nil, err
	}
	if m.Scope.Name() == meta.RESTScopeNameNamespace {
		return u.Dynamic.Resource(m.Resource).Namespace(namespace), nil
	}
	return u.Dynamic.Resource(m.Resource), nil
}

// ResourceOf is Resource for an object that is known by its ref: where its version is no longer served, another one is used.
func (u *User) ResourceOf(ref delivery.Ref, version string) (dynamic.ResourceInterface, error) {
	resource, err := u.Resource(ref.GroupKind().WithVersion(version), ref.Namespace)
	if !meta.IsNoMatchError(err) {
		return resource, err
	}
	m, err := u.Mapper.RESTMapping(ref.GroupKind())
	if err != nil {
		return nil, err
	}
	return u.Resource(m.GroupVersionKind, ref.Namespace)
}

// Read gives an object that is known by its ref; nil: it, or its kind, is not there.
func (u *User) Read(ctx context.Context, ref delivery.Ref, version string) (*unstructured.Unstructured, error) {
	resource, err := u.ResourceOf(ref, version)
	if meta.IsNoMatchError(err) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	obj, err := resource.Get(ctx, ref.Name, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", ref, err)
	}
	return obj, nil
}

// allowance is how long a positive answer of the authorizer is believed.
const allowance = time.Minute

// May asks whether the user may do verbs ("create", "patch", "delete") to an object. Keelson itself is not asked about:
// what it lacks shows in the write's own error. Positive answers for a whole kind and namespace are kept for a minute.
func (u *User) May(ctx context.Context, ref delivery.Ref, version string, verbs ...string) error {
	if u.name == "" {
		return nil
	}
	m, err := u.Mapper.RESTMapping(ref.GroupKind(), version)
	if err != nil {
		return err
	}
	for _, verb := range verbs {
		ask := authv1.ResourceAttributes{Verb: verb, Group: m.Resource.Group, Resource: m.Resource.Resource, Namespace: ref.Namespace}
		if u.remembered(ask) {
			continue
		}
		allowed, why, err := u.review(ctx, ask)
		if err == nil && allowed {
			u.remember(ask)
			continue
		}
		if err == nil { // not for all names; perhaps for this one
			ask.Name = ref.Name
			allowed, why, err = u.review(ctx, ask)
		}
		if err != nil {
			return fmt.Errorf("ask whether %s may %s %s: %w", u.name, verb, ref, err)
		}
		if !allowed {
			return u.forbidden(verb, ref, why)
		}
	}
	return nil
}

func (u *User) forbidden(verb string, ref delivery.Ref, why string) error {
	if why != "" {
		why = ": " + why
	}
	return &delivery.Fault{
		Reason: "Forbidden", Where: ref.String(), Retry: delivery.Backoff,
		Hint: "grant it with a Role or ClusterRole bound to that service account, or take the object out of the app",
		Err:  fmt.Errorf("%s may not %s it%s", u.name, verb, why),
	}
}

func (u *User) review(ctx context.Context, ask authv1.ResourceAttributes) (allowed bool, why string, err error) {
	res, err := u.reviews.Create(ctx, &authv1.SelfSubjectAccessReview{
		Spec: authv1.SelfSubjectAccessReviewSpec{ResourceAttributes: &ask},
	}, metav1.CreateOptions{})
	if err != nil {
		return false, "", err
	}
	return res.Status.Allowed, res.Status.Reason, nil
}

func (u *User) remembered(ask authv1.ResourceAttributes) bool {
	u.mu.Lock()
	defer u.mu.Unlock()
	until, ok := u.allowed[ask]
	return ok && time.Now().Before(until)
}

func (u *User) remember(ask authv1.ResourceAttributes) {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.allowed[ask] = time.Now().Add(allowance)
}
