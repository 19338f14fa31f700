package web

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"slices"
	"strconv"
	"time"

	"keelson.dev/keelson/internal/audit"
	"keelson.dev/keelson/internal/pipeline"
	"keelson.dev/keelson/internal/pipeline/artifact"
	"keelson.dev/keelson/internal/pipeline/show"
	"keelson.dev/keelson/internal/store"
)

// PipelinesPath is where the API of pipelines is.
const PipelinesPath = "/api/v1/"

// NewPipeline is what a person asks for with POST /api/v1/pipelines.
type NewPipeline struct {
	Project   string            `json:"project"`             // path
	Ref       string            `json:"ref"`                 // branch or tag; empty: the default branch
	Variables map[string]string `json:"variables,omitempty"` // pipeline variables
	Inputs    map[string]any    `json:"inputs,omitempty"`    // for spec:inputs
}

// Ask is what a person asks for with POST /api/v1/pipelines/ID/ACTION.
type Ask struct {
	Jobs       []string `json:"jobs,omitempty"`       // names; none: the whole pipeline
	Dependants bool     `json:"dependants,omitempty"` // of a retry: also what comes after the jobs
	// Variables are for the jobs that are played; those of a retry keep what they were played with.
	Variables map[string]string `json:"variables,omitempty"`
}

// PipelineDetail is a pipeline with its jobs.
type PipelineDetail struct {
	store.Pipeline
	ProjectPath string           `json:"projectPath"`
	Jobs        []store.Job      `json:"jobs"`                 // all attempts
	Children    []store.Pipeline `json:"children,omitempty"`   // pipelines that its jobs have started
	Downstream  []ListedPipeline `json:"downstream,omitempty"` // those of other projects
}

// PipelineList is a page of pipelines.
type PipelineList struct {
	Pipelines []ListedPipeline `json:"pipelines"`
	Next      int64            `json:"next,omitempty"` // before=NEXT gives the next page; 0: this is the last one
}

// ListedPipeline is a pipeline in a list.
type ListedPipeline struct {
	store.Pipeline
	ProjectPath string `json:"projectPath"`
}

// PipelinesOptions of the API of pipelines.
type PipelinesOptions struct {
	Store *store.DB
	// Create makes a pipeline; the error is for whoever has asked.
	Create func(ctx context.Context, p NewPipeline, user string) (store.Pipeline, error)
	// Authorize tells who may do what to a project; nil: everybody may do everything.
	Authorize Authorize
	// ProjectOf gives the namespace and the name of the Project object of a path; both empty: there is none.
	ProjectOf func(ctx context.Context, path string) (namespace, name string, err error)

	Artifacts *artifact.Store
	// Variables gives the variables of a pipeline, or of one of its jobs, without what nobody may see.
	Variables func(ctx context.Context, pipeline int64, job string) ([]show.Setting, error)
	// Settings gives the variables that a project has in its settings.
	Settings func(ctx context.Context, project string) ([]show.Setting, error)
	// Recipe gives what a pipeline was made from.
	Recipe func(ctx context.Context, pipeline int64) (show.Recipe, error)
	// Deployers gives the users who may play the jobs of an environment, where it is protected. Nil: nobody is asked.
	Deployers func(ctx context.Context, project, environment string) ([]string, error)
	// Feed takes in what the store tells, and may have changes of apps, too; nil: one of its own.
	Feed *Feed
	// Sight tells which apps somebody may be told of; nil: none.
	Sight *Sight
	// Leaving is closed when the server is about to end: streams end then. Nil: they do not.
	Leaving <-chan struct{}
	// Audit says what is recorded, and who reads that.
	Audit AuditOptions
}

// NewPipelines serves pipelines as JSON, and their logs as text. Every request needs a [Person] in its context.
//
//	GET  /api/v1/pipelines?project=&ref=&status=&sha=&before=&limit=
//	POST /api/v1/pipelines                      makes one: [NewPipeline]
//	GET  /api/v1/pipelines/ID
//	POST /api/v1/pipelines/ID/play|retry|cancel [Ask]; answered when it is done
//	GET  /api/v1/jobs/ID
//	GET  /api/v1/pipelines/ID/variables?job=    those that all jobs have alike, or those of a job
//	GET  /api/v1/pipelines/ID/graph             what waits for what: [PipelineGraph]
//	GET  /api/v1/pipelines/ID/recipe            what it was made from: event, variables and inputs
//	GET  /api/v1/pipelines/ID/artifacts         what its jobs have left
//	GET  /api/v1/jobs/ID/log?offset=&follow=1   text as the job writes it; with follow until the job is over.
//	                                            Accept: text/event-stream: events of [EventText], always until the job is over
//	GET  /api/v1/jobs/ID/artifacts?limit=       with its files; DELETE erases them
//	GET  /api/v1/jobs/ID/artifacts/archive      a zip
//	GET  /api/v1/jobs/ID/artifacts/file?path=   one file; report=KIND: of that report
//	POST /api/v1/jobs/ID/artifacts/keep         they do not expire any more
//	GET  /api/v1/projects
//	GET  /api/v1/environments?project=&state=&name=&after=&limit=
//	GET  /api/v1/environments/ID?before=             with its deployments
//	POST /api/v1/environments/ID/stop|rollback       [AskEnvironment]; answered with the environment when it is asked for
//	GET  /api/v1/deliveries?app=&environment=&author=&status=&trigger=&sha=&object=KIND/NS/NAME&q=&from=&to=&before=&limit=
//	GET  /api/v1/deliveries/ID
//	GET  /api/v1/why?kind=&name=&namespace=&field=&at=   [history.Answer]
//	GET  /api/v1/repairs?app=&object=&manager=&from=&to=&before=&limit=
//	GET  /api/v1/projects/variables?project=
//	GET  /api/v1/audit …                        who did what: auditIn
//	GET  /api/v1/events?project=&pipeline=&app= a stream of the changes of pipelines, jobs, environments, deployments, deliveries, repairs and apps
func NewPipelines(o PipelinesOptions) http.Handler {
	if o.Feed == nil {
		o.Feed = NewFeed(time.Now())
	}
	o.Feed.follow(o.Store)
	s := newPipelines(o)
	mux := http.NewServeMux()
	of := func(pattern, verb, what string, of owned, h http.HandlerFunc) {
		mux.HandleFunc(pattern, s.may.guarded(verb, what, of, h))
	}
	mux.HandleFunc("GET /api/v1/projects", s.projects)
	mux.HandleFunc("GET /api/v1/pipelines", s.list)
	mux.HandleFunc("POST /api/v1/pipelines", s.create)
	of("GET /api/v1/pipelines/{id}", VerbGet, "pipeline", ofPipeline, s.show)
	of("POST /api/v1/pipelines/{id}/{action}", VerbGet, "pipeline", ofPipeline, s.ask) // and it asks about the action
	of("GET /api/v1/jobs/{id}", VerbGet, "job", ofJob, s.job)
	of("GET /api/v1/jobs/{id}/log", VerbGet, "job", ofJob, s.log)
	mux.HandleFunc("GET /api/v1/environments", s.environments)
	of("GET /api/v1/environments/{id}", VerbGet, "environment", ofEnvironment, s.environment)
	of("POST /api/v1/environments/{id}/{action}", VerbGet, "environment", ofEnvironment, s.askEnvironment)
	s.historyIn(mux)
	mux.HandleFunc("GET /api/v1/events", s.events)
	of("GET /api/v1/pipelines/{id}/variables", VerbGet, "pipeline", ofPipeline, s.variables)
	of("GET /api/v1/pipelines/{id}/graph", VerbGet, "pipeline", ofPipeline, s.graph)
	of("GET /api/v1/pipelines/{id}/recipe", VerbGet, "pipeline", ofPipeline, s.recipe)
	of("GET /api/v1/pipelines/{id}/artifacts", VerbGet, "pipeline", ofPipeline, s.artifactsOf)
	mux.HandleFunc("GET /api/v1/projects/variables", s.settings)
	of("GET /api/v1/jobs/{id}/artifacts", VerbGet, "job", ofJob, s.artifacts)
	of("DELETE /api/v1/jobs/{id}/artifacts", VerbErase, "job", ofJob, s.erase)
	of("POST /api/v1/jobs/{id}/artifacts/keep", VerbPlay, "job", ofJob, s.keep)
	of("GET /api/v1/jobs/{id}/artifacts/archive", VerbGet, "job", ofJob, s.archive)
	of("GET /api/v1/jobs/{id}/artifacts/file", VerbGet, "job", ofJob, s.file)
	s.auditIn(mux)
	return s.guard(mux)
}

// NewHistory serves what there is of deliveries, repairs and the audit, and the stream of changes, where no pipelines are played.
func NewHistory(o PipelinesOptions) http.Handler {
	if o.Feed == nil {
		o.Feed = NewFeed(time.Now())
	}
	o.Feed.follow(o.Store)
	s := newPipelines(o)
	mux := http.NewServeMux()
	s.historyIn(mux)
	mux.HandleFunc("GET "+EventsPath, s.events)
	s.auditIn(mux)
	mux.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		refuse(w, http.StatusNotFound, fmt.Errorf("there is nothing at %s: this server plays no pipelines", r.URL.Path))
	})
	return s.guard(mux)
}

func newPipelines(o PipelinesOptions) *pipelines {
	return &pipelines{
		PipelinesOptions: o, streams: newStreams(o.Leaving), zips: make(chan struct{}, maxZips),
		may: access{ask: o.Authorize, where: o.ProjectOf, store: o.Store},
	}
}

type pipelines struct {
	PipelinesOptions
	may access
	streams
	zips  chan struct{} // that are being made
	sizes zipSizes
}

const (
	maxAsk     = 1 << 20          // bytes of a request
	askTimeout = time.Minute      // until a command is done
	readLimit  = 10 * time.Second // of a look into the store
)

// guard turns away who is nobody: whoever wires this puts somebody in front who knows people.
func (s *pipelines) guard(next http.Handler) http.Handler { return known(next) }

func known(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("X-Content-Type-Options", "nosniff")
		w.Header().Set("Cache-Control", "no-store")
		if PersonOf(r.Context()).Name == "" {
			refuse(w, http.StatusUnauthorized, errors.New("the token is missing or wrong"))
			return
		}
		r.Body = http.MaxBytesReader(w, r.Body, maxAsk)
		next.ServeHTTP(w, r)
	})
}

func refuse(w http.ResponseWriter, status int, err error) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(map[string]string{"error": err.Error()}) // the client may be gone
}

// fail answers with an error of the store.
func fail(w http.ResponseWriter, err error) {
	switch {
	case errors.Is(err, store.ErrNotFound):
		refuse(w, http.StatusNotFound, err)
	default:
		refuse(w, http.StatusServiceUnavailable, err)
	}
}

func answerJSON(w http.ResponseWriter, v any) {
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(v) // the client may be gone
}

// number reads a number of the path or the query; it has been answered where that fails.
func number(w http.ResponseWriter, name, text string) (int64, bool) {
	n, err := strconv.ParseInt(text, 10, 64)
	if err != nil || n < 0 {
		refuse(w, http.StatusBadRequest, fmt.Errorf("%s: %q is no number", name, text))
		return 0, false
	}
	return n, true
}

// paths gives the paths of projects by their numbers.
func (s *pipelines) paths(ctx context.Context) (map[int64]string, error) {
	all, err := s.Store.Projects(ctx)
	out := make(map[int64]string, len(all))
	for _, p := range all {
		out[p.ID] = p.Name
	}
	return out, err
}

func (s *pipelines) projects(w http.ResponseWriter, r *http.Request) {
	ctx, cancel := context.WithTimeout(r.Context(), readLimit)
	defer cancel()
	all, err := s.Store.Projects(ctx)
	if err != nil {
		fail(w, err)
		return
	}
	seen, err := s.may.seen(ctx)
	if err != nil {
		fail(w, err)
		return
	}
	if seen != nil {
		all = slices.DeleteFunc(all, func(p store.Project) bool { return !slices.Contains(seen, p.ID) })
	}
	answerJSON(w, ProjectList{append([]store.Project{}, all...)})
}

func (s *pipelines) list(w http.ResponseWriter, r *http.Request) {
	ctx, cancel := context.WithTimeout(r.Context(), readLimit)
	defer cancel()
	q := r.URL.Query()
	f := store.PipelineFilter{Ref: q.Get("ref"), Status: q.Get("status"), SHA: q.Get("sha"), Source: q.Get("source"), Limit: 20}
	for name, into := range map[string]func(int64){"before": func(n int64) { f.Before = n }, "limit": func(n int64) { f.Limit = int(max(1, min(n, 1000))) }} {
		if text := q.Get(name); text != "" {
			n, ok := number(w, name, text)
			if !ok {
				return
			}
			into(n)
		}
	}
	if path := q.Get("project"); path != "" {
		if !s.may.may(w, r, VerbGet, path) {
			return
		}
		p, err := s.Store.Project(ctx, path)
		if err != nil {
			fail(w, err)
			return
		}
		f.Project = p.ID
	} else {
		var err error
		if f.Projects, err = s.may.seen(ctx); err != nil {
			fail(w, err)
			return
		}
	}
	all, err := s.Store.Pipelines(ctx, f)
	if err != nil {
		fail(w, err)
		return
	}
	paths, err := s.paths(ctx)
	if err != nil {
		fail(w, err)
		return
	}
	out := PipelineList{Pipelines: make([]ListedPipeline, len(all))}
	for i, p := range all {
		out.Pipelines[i] = ListedPipeline{Pipeline: p, ProjectPath: paths[p.Project]}
	}
	if len(all) == f.Limit && len(all) > 0 {
		out.Next = all[len(all)-1].ID
	}
	answerJSON(w, out)
}

// named finds what the id in a request's path names; false: there is no such thing, which was answered.
func named[T any](ctx context.Context, w http.ResponseWriter, r *http.Request, what string, find func(context.Context, int64) (T, error)) (found T, ok bool) {
	id, ok := number(w, what, r.PathValue("id"))
	if !ok {
		return found, false
	}
	found, err := find(ctx, id)
	if err != nil {
		fail(w, err)
	}
	return found, err == nil
}

// pipelineOf finds the pipeline that a request's path names, and the paths of all projects; false: there is none, which was answered.
func (s *pipelines) pipelineOf(ctx context.Context, w http.ResponseWriter, r *http.Request) (p store.Pipeline, paths map[int64]string, ok bool) {
	p, ok = named(ctx, w, r, "pipeline", s.Store.Pipeline)
	if !ok {
		return p, nil, false
	}
	paths, err := s.paths(ctx)
	if err != nil {
		fail(w, err)
	}
	return p, paths, err == nil
}

func (s *pipelines) show(w http.ResponseWriter, r *http.Request) {
	ctx, cancel := context.WithTimeout(r.Context(), readLimit)
	defer cancel()
	p, paths, ok := s.pipelineOf(ctx, w, r)
	if !ok {
		return
	}
	d := PipelineDetail{Pipeline: p, ProjectPath: paths[p.Project]}
	var err error
	if d.Jobs, err = s.Store.Jobs(ctx, p.ID); err != nil {
		fail(w, err)
		return
	}
	for _, j := range d.Jobs {
		children, err := s.Store.Pipelines(ctx, store.PipelineFilter{Parent: j.ID})
		if err != nil {
			fail(w, err)
			return
		}
		d.Children = append(d.Children, children...)
		others, err := s.Store.Pipelines(ctx, store.PipelineFilter{Upstream: j.ID, Top: true})
		if err != nil {
			fail(w, err)
			return
		}
		for _, o := range others {
			if ok, err := s.may.sees(ctx, paths[o.Project]); err != nil || !ok {
				continue
			}
			d.Downstream = append(d.Downstream, ListedPipeline{Pipeline: o, ProjectPath: paths[o.Project]})
		}
	}
	answerJSON(w, d)
}

func (s *pipelines) create(w http.ResponseWriter, r *http.Request) {
	var p NewPipeline
	if !decode(w, r, &p) || !s.may.may(w, r, VerbPlay, p.Project) {
		return
	}
	ctx, cancel := context.WithTimeout(r.Context(), askTimeout)
	defer cancel()
	made, err := s.Create(ctx, p, PersonOf(ctx).Name)
	s.note(r, audit.Entry{Action: "pipeline.create", Object: madeObject(made.ID, p.Project), Project: p.Project, Detail: p.Ref}, err)
	if err != nil {
		refuse(w, http.StatusUnprocessableEntity, err)
		return
	}
	w.Header().Set("Location", fmt.Sprintf("/api/v1/pipelines/%d", made.ID))
	answerJSON(w, made)
}

// decode reads a request; it has been answered where that fails.
func decode(w http.ResponseWriter, r *http.Request, into any) bool {
	d := json.NewDecoder(r.Body)
	d.DisallowUnknownFields()
	err := d.Decode(into)
	if errors.Is(err, io.EOF) {
		return true
	}
	if err != nil {
		refuse(w, http.StatusBadRequest, fmt.Errorf("read the request: %w", err))
	}
	return err == nil
}

func (s *pipelines) ask(w http.ResponseWriter, r *http.Request) {
	id, ok := number(w, "pipeline", r.PathValue("id"))
	if !ok {
		return
	}
	action := r.PathValue("action")
	switch action {
	case "play", "retry", "cancel":
	default:
		refuse(w, http.StatusNotFound, fmt.Errorf("%q is nothing that can be done with a pipeline: play, retry and cancel are", action))
		return
	}
	var ask Ask
	if !decode(w, r, &ask) {
		return
	}
	ctx, cancel := context.WithTimeout(r.Context(), askTimeout)
	defer cancel()
	p, err := s.Store.Pipeline(ctx, id)
	if err != nil {
		fail(w, err)
		return
	}
	if !s.may.mayProject(w, r, action, p.Project) { // the actions are verbs
		return
	}
	given := make([]pipeline.KV, 0, len(ask.Variables))
	for _, name := range slices.Sorted(maps.Keys(ask.Variables)) {
		given = append(given, pipeline.KV{Key: name, Value: ask.Variables[name]})
	}
	if len(given) > 0 && action != "play" {
		refuse(w, http.StatusBadRequest, fmt.Errorf("%s takes no variables: only who plays a job gives it some", action))
		return
	}
	args, err := json.Marshal(map[string]any{"dependants": ask.Dependants, "variables": given})
	if err != nil {
		refuse(w, http.StatusInternalServerError, err)
		return
	}
	command, err := s.Store.Enqueue(ctx, store.Command{Kind: action, Project: p.Project, Pipeline: id, Jobs: ask.Jobs, User: PersonOf(ctx).Name, Args: args, Audit: s.pipelineEntry(ctx, r, action, p, ask)})
	if err != nil {
		fail(w, err)
		return
	}
	refusal, err := s.Store.Await(ctx, command)
	switch {
	case err != nil:
		fail(w, err)
	case refusal != "":
		refuse(w, http.StatusConflict, errors.New(refusal))
	default:
		w.WriteHeader(http.StatusNoContent)
	}
}

func (s *pipelines) job(w http.ResponseWriter, r *http.Request) {
	ctx, cancel := context.WithTimeout(r.Context(), readLimit)
	defer cancel()
	j, ok := named(ctx, w, r, "job", s.Store.Job)
	if !ok {
		return
	}
	answerJSON(w, j)
}

// log sends a job's log from an offset, and where that is asked for what comes until the job is over.
func (s *pipelines) log(w http.ResponseWriter, r *http.Request) {
	id, ok := number(w, "job", r.PathValue("id"))
	if !ok {
		return
	}
	var offset int64
	if text := r.URL.Query().Get("offset"); text != "" {
		if offset, ok = number(w, "offset", text); !ok {
			return
		}
	}
	if _, err := s.Store.Job(r.Context(), id); err != nil {
		fail(w, err)
		return
	}
	if wantsEvents(r) {
		s.logEvents(w, r, id, offset)
		return
	}
	if r.URL.Query().Get("follow") != "" {
		s.followLog(w, r, id, offset)
		return
	}
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	s.copyLog(newPatient(w), id, offset)
}

// followLog sends a job's log until the job is over. Who does not read it is let go.
func (s *pipelines) followLog(w http.ResponseWriter, r *http.Request, id, offset int64) {
	if !s.slot(w) {
		return
	}
	defer func() { <-s.open }()
	ctx, cancel := s.until(r)
	defer cancel()
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	out := newPatient(w)
	tail := s.Store.Follow(ctx, id, offset)
	defer func() { _ = tail.Close() }() // it was only read
	buf := make([]byte, logPieceSize)
	for {
		n, err := tail.Read(buf)
		if n > 0 {
			if _, werr := out.Write(buf[:n]); werr != nil {
				return
			}
			_ = out.control.Flush() // the next write tells
		}
		if err != nil {
			_ = out.control.SetWriteDeadline(time.Now().Add(writeLimit)) // the end of the answer is written, too
			return
		}
	}
}

func (s *pipelines) copyLog(w io.Writer, id, offset int64) {
	for {
		chunk, size, err := s.Store.ReadLog(id, offset, 1<<20)
		if err != nil || len(chunk) == 0 {
			return
		}
		if _, err := w.Write(chunk); err != nil {
			return
		}
		if offset += int64(len(chunk)); offset >= size {
			return
		}
	}
}
