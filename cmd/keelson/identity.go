package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	authv1 "k8s.io/api/authorization/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/rest"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"keelson.dev/keelson/internal/identity"
	"keelson.dev/keelson/internal/kube"
	"keelson.dev/keelson/internal/store"
	"keelson.dev/keelson/internal/web"
)

// people is who is in front of everything that is served, and who says what they may do.
type people struct {
	*identity.Service
	may    *identity.Authorizer
	review lazyReview
	// proxies in front of what is served; the zero value is none.
	proxies web.Proxies
	log     *slog.Logger

	auditor atomic.Pointer[auditor]     // nil until there is one
	beside  atomic.Pointer[besideStore] // who knows people until then; nil: nobody
}

// peopleOptions of [newPeople].
type peopleOptions struct {
	token  string
	port   int  // of the server: cookies do not know ports
	secure bool // browsers come over https
	store  func() (*store.DB, error)
	oidc   *identity.Provider
	log    *slog.Logger
}

// newPeople makes one. What people may do is known once its review has been set.
func newPeople(o peopleOptions) *people {
	p := &people{log: o.log}
	p.may = identity.NewAuthorizer(p.review.get, nil)
	cookie := "keelson"
	if o.port != 0 {
		cookie += "-" + strconv.Itoa(o.port)
	}
	p.Service = identity.New(identity.Options{
		Store: o.store, Token: o.token, Cookie: cookie, Secure: o.secure, OIDC: o.oidc, Authorize: p.may.Authorize, Version: version, Log: o.log, Audit: p.loggedIn,
	})
	return p
}

// routes puts logging in, users and tokens under an address; in front is what requests pass before.
func (p *people) routes(mux *http.ServeMux, front func(http.Handler) http.Handler) {
	inner := http.NewServeMux()
	p.Routes(inner)
	for _, path := range identity.Paths {
		mux.Handle(path, front(inner))
	}
}

// lazyReview asks the cluster what people may do, once it is known.
type lazyReview struct {
	mu     sync.Mutex
	review identity.Review
}

func (l *lazyReview) set(config *rest.Config) error {
	r, err := kube.NewReviewer(config)
	if err != nil {
		return err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.review = func(ctx context.Context, who web.Person, verb string, on web.Target) (bool, string, error) {
		resource, part, _ := strings.Cut(on.Resource, "/") // "pods/log"
		allowed, why, err := r.May(ctx, who.Name, who.Groups, authv1.ResourceAttributes{
			Verb: verb, Group: on.Group, Resource: resource, Subresource: part, Namespace: on.Namespace, Name: on.Name,
		})
		if apierrors.IsForbidden(err) {
			err = errors.New("this server may not ask it: grant it create on subjectaccessreviews.authorization.k8s.io (docs/identity.md)")
		}
		return allowed, why, err
	}
	return nil
}

func (l *lazyReview) get() (identity.Review, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.review == nil {
		return nil, errNoCluster
	}
	return l.review, nil
}

// db gives the store of pipelines, which has the users and sessions too.
func (l *lazyPipelines) db() (*store.DB, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	switch {
	case l.server != nil:
		return l.server.store, nil
	case l.why != nil:
		return nil, l.why
	default:
		return nil, errors.New("the instance is starting")
	}
}

// adminsBinding is the ClusterRoleBinding that lets administrators do everything, as themselves.
const adminsBinding = "keelson-admins"

// bindAdmins gives the group of administrators its rights. A binding that is there stays as it is: who runs the cluster may have narrowed it.
func bindAdmins(ctx context.Context, c client.Client) error {
	binding := &rbacv1.ClusterRoleBinding{
		TypeMeta:   metav1.TypeMeta{APIVersion: rbacv1.SchemeGroupVersion.String(), Kind: "ClusterRoleBinding"},
		ObjectMeta: metav1.ObjectMeta{Name: adminsBinding, Labels: map[string]string{"app.kubernetes.io/managed-by": kube.FieldManager}},
		RoleRef:    rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: "cluster-admin"},
		Subjects:   []rbacv1.Subject{{APIGroup: rbacv1.GroupName, Kind: rbacv1.GroupKind, Name: identity.Admins}},
	}
	fields, err := runtime.DefaultUnstructuredConverter.ToUnstructured(binding)
	if err != nil {
		return fmt.Errorf("make ClusterRoleBinding %s: %w", adminsBinding, err)
	}
	if err := createMissing(ctx, c, &unstructured.Unstructured{Object: fields}); err != nil {
		return fmt.Errorf("make ClusterRoleBinding %s: %w", adminsBinding, err)
	}
	return nil
}

// bindAdminsOrWarn goes on without: then administrators may do what the cluster lets their group.
func bindAdminsOrWarn(ctx context.Context, c client.Client, log *slog.Logger) {
	err := poll(ctx, 5*time.Second, func(ctx context.Context) (bool, error) {
		short, cancel := context.WithTimeout(ctx, 5*time.Second)
		defer cancel()
		err := bindAdmins(short, c)
		if err != nil && (isUnreachable(err) || errors.Is(err, context.DeadlineExceeded)) {
			return false, nil
		}
		return true, err
	})
	switch {
	case ctx.Err() != nil:
	case apierrors.IsForbidden(err):
		log.Warn("administrators of keelson have no rights in this cluster yet", "give them with",
			"kubectl create clusterrolebinding "+adminsBinding+" --clusterrole=cluster-admin --group="+identity.Admins)
	case err != nil:
		log.Warn("give administrators their rights", "error", err)
	}
}

// loginLink has the instance make a link that logs its user in as administrator, once.
func loginLink(ctx context.Context, inst instance) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, inst.base()+"/api/v1/login-links", bytes.NewReader(nil))
	if err != nil {
		return "", err
	}
	req.Header.Set("Authorization", "Bearer "+inst.Token)
	req.Header.Set(identity.UserHeader, thisUser())
	res, err := (&http.Client{Transport: &http.Transport{DisableKeepAlives: true}}).Do(req) // no proxy: it is on this machine
	if err != nil {
		return "", err
	}
	defer res.Body.Close()
	var made struct{ Path, Error string }
	if err := json.NewDecoder(io.LimitReader(res.Body, 64<<10)).Decode(&made); err != nil || made.Path == "" {
		return "", fmt.Errorf("make a login link: %s %s", res.Status, made.Error)
	}
	return inst.base() + made.Path, nil
}

// thisUser is the name of whoever runs this program; admin where the system does not know, or it is no name of a person.
func thisUser() string {
	me, err := user.Current()
	if err != nil || identity.CheckName(me.Username) != nil {
		return "admin"
	}
	return me.Username
}

// serverPeople is who is in front of what keelson server serves.
type serverPeople struct {
	*people
	token string
	kept  keeper // has the people
}

// openServerPeople opens what is known of people, who are where kept has them. Without a database the server goes on: its token is enough to log in.
// A server that waits for its turn asks a PostgreSQL database beside the one that works.
func openServerPeople(ctx context.Context, g *global, listen string, kept keeper, logins serverIdentity, log *slog.Logger) (*serverPeople, error) {
	dir := filepath.Join(g.data, ciDir)
	file := filepath.Join(dir, "token")
	token, err := serverToken(file)
	if err != nil {
		return nil, err
	}
	config, err := loadKubeconfig(g.kubeconfig)
	if err != nil {
		return nil, err
	}
	c, err := newClient(config)
	if err != nil {
		return nil, err
	}
	provider, err := logins.provider()
	if err != nil {
		return nil, err
	}
	s := &serverPeople{token: token, kept: kept}
	o := peopleOptions{token: token, log: log, store: s.db, oidc: provider, secure: strings.HasPrefix(logins.url, "https:")}
	if _, port, err := net.SplitHostPort(listen); err == nil {
		o.port, _ = strconv.Atoi(port) // a name of a port is none
	}
	s.people = newPeople(o)
	s.proxies = logins.proxies
	if err := s.review.set(config); err != nil {
		return nil, err
	}
	if database := os.Getenv(databaseVariable); database != "" && listen != "" { // --ci is served by the one that works
		s.beside.Store(openBeside(ctx, dir, database, log))
	}
	go bindAdminsOrWarn(ctx, c, log)
	if listen != "" {
		log.Info("whoever has the server's token may log in as administrator", "token", file)
	}
	return s, nil
}

// db gives the store that has the people.
func (s *serverPeople) db() (*store.DB, error) {
	db, err := s.kept.db()
	if err == nil {
		return db, nil
	}
	if b := s.beside.Load(); b != nil {
		return b.db()
	}
	return nil, err
}

// Close implements [io.Closer].
func (s *serverPeople) Close() error { return s.beside.Swap(nil).Close() }
