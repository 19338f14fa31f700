package web

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"slices"
	"strings"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/validate/content"
	"k8s.io/apimachinery/pkg/util/validation"

	"keelson.dev/keelson/internal/audit"
)

// EventsPath is where the stream of changes is.
const EventsPath = "/api/v1/events"

// AppsPaths are the paths at which the API of apps is.
var AppsPaths = []string{"/api/v1/apps", "/api/v1/apps/", "/api/v1/pods/", "/api/v1/sources", "/api/v1/matrix", "/api/v1/openapi.json", EventsPath}

// Condition is one of Kubernetes' conditions.
type Condition struct {
	Type    string    `json:"type"`
	Status  string    `json:"status"` // True, False or Unknown
	Reason  string    `json:"reason,omitempty"`
	Message string    `json:"message,omitempty"`
	Since   time.Time `json:"lastTransitionTime,omitzero"`
}

// Hold is why an app, or an object of it, is left as it is.
type Hold struct {
	Object string    `json:"object,omitempty"` // empty: the whole app
	Owner  string    `json:"owner,omitempty"`
	Reason string    `json:"reason,omitempty"`
	Since  time.Time `json:"since,omitzero"`
	Until  string    `json:"until,omitempty"` // what ends it
}

// AppSpec is what an app is made from and how.
type AppSpec struct {
	Source          string `json:"source"`
	Path            string `json:"path"`
	Interval        string `json:"interval,omitempty"` // as "10m0s"
	Suspended       bool   `json:"suspended"`          // it was, or is an Application that is held: until it is resumed
	TargetNamespace string `json:"targetNamespace,omitempty"`
	ServiceAccount  string `json:"serviceAccount,omitempty"` // whose rights its objects are written with
	Prune           bool   `json:"prune"`
	Cluster         string `json:"cluster,omitempty"` // where it is delivered to, if it is not this one
}

// AppDetail is an app with all that is said about it.
type AppDetail struct {
	App
	Conditions []Condition `json:"conditions"`
	Holds      []Hold      `json:"holds"`
	Spec       AppSpec     `json:"spec"`
	DependsOn  []string    `json:"dependsOn"` // ids
}

// TreeNode is an object that belongs to an app, or the app itself.
type TreeNode struct {
	ID         string    `json:"id"` // "Deployment.apps/dev/web"; each is there once
	Kind       string    `json:"kind"`
	APIVersion string    `json:"apiVersion,omitempty"`
	Namespace  string    `json:"namespace,omitempty"`
	Name       string    `json:"name"`
	Parent     string    `json:"parent,omitempty"` // id; empty: the app that was asked for
	Health     string    `json:"health,omitempty"` // Healthy, Progressing, Degraded, Suspended, Missing or Unknown
	Message    string    `json:"message,omitempty"`
	Owned      bool      `json:"owned"` // it is in the inventory of an app; else a controller has made it
	Created    time.Time `json:"created,omitzero"`
	Ready      string    `json:"ready,omitempty"` // "2/3": replicas, or containers
	Revision   string    `json:"revision,omitempty"`
}

// Tree is what an app consists of. A parent is before its children.
type Tree struct {
	Nodes     []TreeNode `json:"nodes"`
	Truncated bool       `json:"truncated,omitempty"` // there is more than is told
}

// ObjectEvent is something that happened to an object.
type ObjectEvent struct {
	Type    string    `json:"type"` // Normal or Warning
	Reason  string    `json:"reason"`
	Message string    `json:"message"`
	Object  string    `json:"object"` // "Kustomization/flux-system/dev"
	Count   int32     `json:"count"`
	First   time.Time `json:"first,omitzero"`
	Last    time.Time `json:"last,omitzero"`
}

// EventList is what happened, the newest last.
type EventList struct {
	Events []ObjectEvent `json:"events"`
}

// ObjectDiff is what delivering an app would make of one object. Values of Secrets are masked.
type ObjectDiff struct {
	Kind      string `json:"kind"`
	Namespace string `json:"namespace,omitempty"`
	Name      string `json:"name"`
	Verb      string `json:"verb"`             // Create, Update, Delete, …
	Before    string `json:"before"`           // YAML, as it is in the cluster; empty: it is not there
	After     string `json:"after"`            // YAML, as it would be; empty: it would be deleted
	Hidden    bool   `json:"hidden,omitempty"` // who asks may not see the object
}

// AppDiff is what delivering an app would change.
type AppDiff struct {
	Objects  []ObjectDiff `json:"objects"`            // those that differ
	Total    int          `json:"total"`              // of all objects of the app
	Revision string       `json:"revision,omitempty"` // that was compared
	Applied  string       `json:"applied,omitempty"`  // the revision that is there now
	Blocked  []string     `json:"blocked,omitempty"`  // not empty: nothing of it would be done, and why
	Notes    []string     `json:"notes,omitempty"`
}

// AskApp is what a person asks for with POST /api/v1/apps/KIND/NS/NAME/ACTION.
type AskApp struct {
	To      RollbackTo `json:"to,omitzero"`       // of a rollback; empty: what was deployed before
	Preview bool       `json:"preview,omitempty"` // of a rollback: only tell what it would change
	Prune   bool       `json:"prune,omitempty"`   // of a sync or a rollback of an Application: delete what is not in Git
}

// RollbackTo is what somebody wants to go back to: in JSON a number is that of a delivery, a string a revision (a commit, a version of a
// release, an id of an Application's history).
type RollbackTo struct {
	Delivery int64
	Revision string
}

// UnmarshalJSON implements [json.Unmarshaler].
func (t *RollbackTo) UnmarshalJSON(b []byte) error {
	if len(b) > 0 && b[0] == '"' {
		return json.Unmarshal(b, &t.Revision)
	}
	return json.Unmarshal(b, &t.Delivery)
}

// MarshalJSON implements [json.Marshaler].
func (t RollbackTo) MarshalJSON() ([]byte, error) {
	if t.Delivery != 0 {
		return json.Marshal(t.Delivery)
	}
	return json.Marshal(t.Revision)
}

// AppAsked is what has come of it. What was asked for goes on: the app's events tell how.
type AppAsked struct {
	ID      string `json:"id"`
	Action  string `json:"action"`
	Message string `json:"message"`
	Already bool   `json:"already,omitempty"` // nothing had to be done
	Asked   bool   `json:"-"`                 // of a rollback: it is asked for, and not done yet
	// Of a preview.
	Possible bool     `json:"possible,omitempty"`
	To       string   `json:"to,omitempty"` // the revision
	Diff     *AppDiff `json:"diff,omitempty"`
}

// LogQuery says which part of a Pod's log is wanted.
type LogQuery struct {
	Namespace, Name string
	Container       string // empty: the only one, or the one that an annotation names
	Tail            int64  // lines
	Previous        bool   // of the container before it was started anew
	Follow          bool
	Times           bool      // each line begins with its time and a space
	Since           time.Time // only lines from its second on, however many, also those of the container before it was started anew; zero: by Tail
}

// Cluster is what the API of apps asks of the cluster. Everything is done as the person of the context, with that person's rights; what the
// methods give holds no secret. Their errors are those of the Kubernetes API, or wrap [ErrForbidden], [ErrNoApp] or [ErrImpossible].
type Cluster interface {
	App(ctx context.Context, id AppRef) (AppDetail, error)
	Tree(ctx context.Context, id AppRef) (Tree, error)
	// Events of the app; object, if it is not empty, names an object instead: "Pod/dev/web-0".
	Events(ctx context.Context, id AppRef, object string) ([]ObjectEvent, error)
	Diff(ctx context.Context, id AppRef) (AppDiff, error)
	Ask(ctx context.Context, id AppRef, action string, ask AskApp) (AppAsked, error)
	Log(ctx context.Context, q LogQuery) (io.ReadCloser, error)
	// LogEnded tells whether nothing more comes, as the container does not run. Else a log has ended with a connection, or with a container that
	// was started anew.
	LogEnded(ctx context.Context, q LogQuery) (bool, error)
}

// AppRef names an app.
type AppRef struct{ Kind, Namespace, Name string }

// String is the app's id.
func (a AppRef) String() string { return AppID(a.Kind, a.Namespace, a.Name) }

var (
	// ErrNoApp says that there is no such app.
	ErrNoApp = errors.New("there is no such app")
	// ErrImpossible is wrapped by errors that say why something cannot be done with an app as it is.
	ErrImpossible = errors.New("not possible")
)

// AppsOptions of the API of apps.
type AppsOptions struct {
	Index   *Index
	Feed    *Feed
	Cluster Cluster
	Sight   *Sight // who sees which apps
	// Authorize tells who may do what to an app; nil: whoever may write it in the cluster.
	Authorize Authorize
	Document  func() ([]byte, error) // the OpenAPI document of the whole API
	Leaving   <-chan struct{}        // closed when the server is about to end: streams end then; nil: they do not
	Record    func(audit.Entry)      // what people have asked for; nil: nobody keeps that. It must not block
	Log       *slog.Logger
}

// apps serves the API of apps.
type apps struct {
	AppsOptions
	streams
	compare chan struct{} // has a place for each comparison that is made
}

const (
	clusterLimit = 20 * time.Second // of a look into the cluster
	diffLimit    = 2 * time.Minute  // of a comparison: charts and repositories may have to be fetched
	diffsAtOnce  = 4
	maxAskApp    = 64 << 10 // bytes of a request
)

// NewApps serves apps and sources as JSON. Who asks is the [Person] of the request's context: whoever is in front has put them there.
//
//	GET  /api/v1/apps?q=&state=&kind=&namespace=&environment=&sort=&after=&limit=
//	GET  /api/v1/apps/KIND/NS/NAME
//	GET  /api/v1/apps/KIND/NS/NAME/tree
//	GET  /api/v1/apps/KIND/NS/NAME/events?object=
//	GET  /api/v1/apps/KIND/NS/NAME/diff
//	POST /api/v1/apps/KIND/NS/NAME/sync|refresh|suspend|resume|rollback   [AskApp]; answered when it is asked for
//	GET  /api/v1/pods/NS/NAME/log?container=&tail=&previous=1&follow=1
//	                                              text; Accept: text/event-stream: events of [EventText]
//	GET  /api/v1/sources
//	GET  /api/v1/matrix?q=&environment=&namespace=
//	GET  /api/v1/events?app=                      a stream of the changes of apps
//	GET  /api/v1/openapi.json
func NewApps(o AppsOptions) http.Handler {
	s := &apps{AppsOptions: o, streams: newStreams(o.Leaving), compare: make(chan struct{}, diffsAtOnce)}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /api/v1/apps", s.list)
	mux.HandleFunc("GET /api/v1/apps/{kind}/{namespace}/{name}", s.show)
	mux.HandleFunc("GET /api/v1/apps/{kind}/{namespace}/{name}/tree", s.tree)
	mux.HandleFunc("GET /api/v1/apps/{kind}/{namespace}/{name}/events", s.happened)
	mux.HandleFunc("GET /api/v1/apps/{kind}/{namespace}/{name}/diff", s.diff)
	mux.HandleFunc("POST /api/v1/apps/{kind}/{namespace}/{name}/{action}", s.ask)
	mux.HandleFunc("GET /api/v1/pods/{namespace}/{name}/log", s.log)
	mux.HandleFunc("GET /api/v1/sources", s.sources)
	mux.HandleFunc("GET /api/v1/matrix", s.matrix)
	mux.HandleFunc("GET /api/v1/events", s.events)
	mux.HandleFunc("GET /api/v1/openapi.json", s.document)
	return s.guard(mux)
}

// guard sets the headers of all answers, and lets nobody in who is nobody.
func (s *apps) guard(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("X-Content-Type-Options", "nosniff")
		w.Header().Set("Cache-Control", "no-store")
		if PersonOf(r.Context()).Name == "" {
			refuse(w, http.StatusUnauthorized, errors.New("nobody is logged in"))
			return
		}
		r.Body = http.MaxBytesReader(w, r.Body, maxAskApp)
		next.ServeHTTP(w, r)
	})
}

// seen gives what tells which objects who asks may see. Where that could not be asked, failed tells why.
func (s *apps) seen(r *http.Request) (sees func(kind, namespace string) bool, failed func() error) {
	var why error
	sees = s.Sight.of(r.Context(), PersonOf(r.Context()), func(err error) { why = err })
	return sees, func() error { return why }
}

func (s *apps) list(w http.ResponseWriter, r *http.Request) {
	q, err := readAppQuery(r)
	if err != nil {
		refuse(w, http.StatusBadRequest, err)
		return
	}
	all, err := s.Index.all()
	if err != nil {
		starting(w, err)
		return
	}
	var failed func() error
	q.sees, failed = s.seen(r)
	out := q.list(all)
	if err := failed(); err != nil {
		s.silent(w, err)
		return
	}
	s.Index.complete(out.Apps)
	answerJSON(w, out)
}

// starting answers while nothing is known yet.
func starting(w http.ResponseWriter, err error) {
	w.Header().Set("Retry-After", "1")
	refuse(w, http.StatusServiceUnavailable, err)
}

// SourceList is what GET /api/v1/sources answers.
type SourceList struct {
	Sources []Source `json:"sources"`
}

func (s *apps) sources(w http.ResponseWriter, r *http.Request) {
	if _, err := query(r); err != nil {
		refuse(w, http.StatusBadRequest, err)
		return
	}
	all, err := s.Index.Sources(r.Context())
	if err != nil {
		starting(w, err)
		return
	}
	sees, failed := s.seen(r)
	out := SourceList{Sources: []Source{}}
	for _, src := range all {
		if sees(src.Kind, src.Namespace) {
			out.Sources = append(out.Sources, src)
		}
	}
	if err := failed(); err != nil {
		s.silent(w, err)
		return
	}
	answerJSON(w, out)
}

// appOf reads which app a request is about; it has been answered where that is none.
func appOf(w http.ResponseWriter, r *http.Request) (AppRef, bool) {
	id := AppRef{r.PathValue("kind"), r.PathValue("namespace"), r.PathValue("name")}
	known := false
	for _, k := range appKinds {
		known = known || k == id.Kind
	}
	switch {
	case !known:
		refuse(w, http.StatusNotFound, fmt.Errorf("%.60q is no kind of apps: they are %s", id.Kind, strings.Join(appKinds, ", ")))
	case !isName(id.Namespace) || !isName(id.Name):
		refuse(w, http.StatusBadRequest, errors.New("an app has a namespace and a name, of lower-case letters, digits, dots and hyphens"))
	default:
		return id, true
	}
	return id, false
}

// isName tells whether something can be the name of an object: nothing else gets into a path of the Kubernetes API.
func isName(name string) bool {
	return len(validation.IsDNS1123Subdomain(name)) == 0 && len(content.IsPathSegmentName(name)) == 0
}

func (s *apps) show(w http.ResponseWriter, r *http.Request) {
	id, ok := appOf(w, r)
	if !ok {
		return
	}
	ctx, cancel := context.WithTimeout(r.Context(), clusterLimit)
	defer cancel()
	d, err := s.Cluster.App(ctx, id)
	if err != nil {
		s.unanswered(w, err)
		return
	}
	d.App.ID = id.String()
	if known, ok := s.Index.app(d.App.ID); ok {
		d.App.Wanted = known.Wanted
		if known.SHA == d.App.SHA { // the index may not have heard of it yet
			d.App.Author, d.App.Title = known.Author, known.Title
		}
	}
	d.Conditions, d.Holds, d.DependsOn = append([]Condition{}, d.Conditions...), append([]Hold{}, d.Holds...), append([]string{}, d.DependsOn...)
	answerJSON(w, d)
}

func (s *apps) tree(w http.ResponseWriter, r *http.Request) {
	id, ok := appOf(w, r)
	if !ok {
		return
	}
	ctx, cancel := context.WithTimeout(r.Context(), clusterLimit)
	defer cancel()
	t, err := s.Cluster.Tree(ctx, id)
	if err != nil {
		s.unanswered(w, err)
		return
	}
	answerJSON(w, t)
}

func (s *apps) happened(w http.ResponseWriter, r *http.Request) {
	id, ok := appOf(w, r)
	if !ok {
		return
	}
	q, err := query(r, "object")
	if err != nil {
		refuse(w, http.StatusBadRequest, err)
		return
	}
	ctx, cancel := context.WithTimeout(r.Context(), clusterLimit)
	defer cancel()
	events, err := s.Cluster.Events(ctx, id, q.Get("object"))
	if err != nil {
		s.unanswered(w, err)
		return
	}
	answerJSON(w, EventList{append([]ObjectEvent{}, events...)})
}

func (s *apps) diff(w http.ResponseWriter, r *http.Request) {
	id, ok := appOf(w, r)
	if !ok {
		return
	}
	ctx, cancel := context.WithTimeout(r.Context(), diffLimit)
	defer cancel()
	if !s.turn(ctx, w) {
		return
	}
	defer func() { <-s.compare }()
	d, err := s.Cluster.Diff(ctx, id)
	if err != nil {
		s.unanswered(w, err)
		return
	}
	d.Objects = append([]ObjectDiff{}, d.Objects...)
	answerJSON(w, d)
}

// turn waits for a place among the comparisons; false: there was none in time, which was answered.
func (s *apps) turn(ctx context.Context, w http.ResponseWriter) bool {
	select {
	case s.compare <- struct{}{}:
		return true
	case <-ctx.Done():
		starting(w, errors.New("too much is being compared already; try again in a moment"))
		return false
	}
}

// appActions are what can be asked for of an app.
var appActions = []string{"sync", "refresh", "suspend", "resume", "rollback"}

func (s *apps) ask(w http.ResponseWriter, r *http.Request) {
	id, ok := appOf(w, r)
	if !ok {
		return
	}
	action := r.PathValue("action")
	if !slices.Contains(appActions, action) {
		refuse(w, http.StatusNotFound, fmt.Errorf("%.40q is nothing that can be done with an app: %s are", action, strings.Join(appActions, ", ")))
		return
	}
	var ask AskApp
	if !decode(w, r, &ask) {
		return
	}
	if len(ask.To.Revision) > 100 || ask.To.Delivery < 0 || action != "rollback" && (ask.To != RollbackTo{} || ask.Preview) || action != "rollback" && action != "sync" && ask.Prune {
		refuse(w, http.StatusBadRequest, errors.New("to and preview are for rollback, prune is for sync and rollback"))
		return
	}
	if !s.may(w, r, id, action, ask) {
		return
	}
	ctx, cancel := context.WithTimeout(r.Context(), diffLimit)
	defer cancel()
	if action == "rollback" {
		if !s.turn(ctx, w) {
			return
		}
		defer func() { <-s.compare }()
	}
	out, err := s.Cluster.Ask(ctx, id, action, ask)
	s.note(r, id, action, ask, out, err)
	if err != nil {
		s.unanswered(w, err)
		return
	}
	out.ID, out.Action = id.String(), action
	status := http.StatusAccepted
	if ask.Preview {
		status = http.StatusOK
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(out) // the client may be gone
}

// verbOf is the verb that somebody needs for what they ask for of an app.
func verbOf(action string, ask AskApp) string {
	switch {
	case ask.Preview:
		return VerbGet
	case action == "resume":
		return VerbSuspend
	case action == "refresh":
		return VerbSync
	}
	return action // VerbSync, VerbSuspend, VerbRollback
}

// may asks whether who is in front may have that done with an app; where not, the request has been answered.
func (s *apps) may(w http.ResponseWriter, r *http.Request, id AppRef, action string, ask AskApp) bool {
	if s.Authorize == nil {
		return true
	}
	err := s.Authorize(r.Context(), PersonOf(r.Context()), verbOf(action, ask), TargetOf(id.Kind, id.Namespace, id.Name))
	if err == nil {
		return true
	}
	s.note(r, id, action, ask, AppAsked{}, err)
	if errors.Is(err, ErrForbidden) {
		refuse(w, http.StatusForbidden, err)
	} else {
		s.silent(w, err)
	}
	return false
}

// note records what somebody has asked for of an app.
func (s *apps) note(r *http.Request, id AppRef, action string, ask AskApp, out AppAsked, err error) {
	if ask.Preview {
		return
	}
	e := audit.Entry{Action: "app." + action, Object: id.String()}
	if known, ok := s.Index.app(id.String()); ok {
		e.Environment = known.Environment
	}
	if action == "sync" || action == "refresh" || action == "rollback" && out.Asked {
		e.Outcome = audit.Asked
	}
	if out.To != "" {
		e.Detail = "to " + out.To
	}
	if apierrors.IsForbidden(err) {
		err = fmt.Errorf("%w: %w", ErrForbidden, err)
	}
	recordTo(s.Record, r, e, err)
}

// unanswered answers with an error of the cluster.
func (s *apps) unanswered(w http.ResponseWriter, err error) {
	status := http.StatusUnprocessableEntity
	switch {
	case errors.Is(err, ErrNoApp), apierrors.IsNotFound(err):
		status = http.StatusNotFound
	case errors.Is(err, ErrForbidden), apierrors.IsForbidden(err):
		status = http.StatusForbidden
	case errors.Is(err, ErrImpossible), apierrors.IsConflict(err):
		status = http.StatusConflict
	case errors.Is(err, context.DeadlineExceeded), errors.Is(err, context.Canceled), apierrors.IsTimeout(err), apierrors.IsServerTimeout(err):
		status, err = http.StatusGatewayTimeout, errors.New("the cluster took too long to answer; try again")
	case apierrors.IsUnauthorized(err), apierrors.IsServiceUnavailable(err), apierrors.IsInternalError(err), errors.Is(err, ErrStarting), apierrors.IsTooManyRequests(err):
		s.silent(w, err)
		return
	}
	refuse(w, status, err)
}

// silent answers where the cluster could not be asked. Why is for the log: it may name what is nobody's business.
func (s *apps) silent(w http.ResponseWriter, err error) {
	s.Log.Warn("ask the cluster for the API", "error", err)
	starting(w, errors.New("the cluster does not answer; try again in a moment"))
}

func (s *apps) document(w http.ResponseWriter, _ *http.Request) {
	text, err := s.Document()
	if err != nil {
		s.Log.Error("describe the API", "error", err)
		refuse(w, http.StatusInternalServerError, errors.New("the document could not be made; the log says why"))
		return
	}
	w.Header().Set("Content-Type", "application/json")
	_, _ = w.Write(text) // the client may be gone
}

// events is the stream of the changes of apps. Where pipelines are played theirs is served in its place, which has all changes.
func (s *apps) events(w http.ResponseWriter, r *http.Request) {
	q, err := query(r, "project", "pipeline", "app")
	if err != nil {
		refuse(w, http.StatusBadRequest, err)
		return
	}
	if q.Get("project") != "" || q.Get("pipeline") != "" {
		refuse(w, http.StatusNotFound, errors.New("no pipelines are played here"))
		return
	}
	f, ok := watchedApp(w, r)
	if !ok {
		return
	}
	f.sees = s.Sight.of(r.Context(), PersonOf(r.Context()), nil)
	s.feed(w, r, s.Feed, f)
}

// Matrix is which version of which app is in which environment.
type Matrix struct {
	Environments []string    `json:"environments"`
	Rows         []MatrixRow `json:"rows"`
	Truncated    bool        `json:"truncated,omitempty"` // there are more rows than are told
}

// MatrixRow is an app in all environments.
type MatrixRow struct {
	App   string                `json:"app"`
	Cells map[string]MatrixCell `json:"cells"` // by environment
}

// MatrixCell is what of an app is in one environment.
type MatrixCell struct {
	ID       string `json:"id"`
	Revision string `json:"revision,omitempty"`
	SHA      string `json:"sha,omitempty"`
	State    State  `json:"state"`
	Wanted   string `json:"wanted,omitempty"` // the revision that its source has now, where that is known
	More     int    `json:"more,omitempty"`   // how many other apps have the same name in this environment
}
