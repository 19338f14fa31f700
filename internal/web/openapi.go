package web

import (
	"cmp"
	"encoding/json"
	"fmt"
	"net/http"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"unicode"

	"github.com/getkin/kin-openapi/openapi3"
	"github.com/getkin/kin-openapi/openapi3gen"

	"keelson.dev/keelson/internal/history"
	"keelson.dev/keelson/internal/pipeline/show"
	"keelson.dev/keelson/internal/store"
)

// Route describes one route of the API, for its OpenAPI document.
type Route struct {
	Pattern string // as http.ServeMux has it: "GET /api/v1/apps/{kind}/{namespace}/{name}"
	Summary string
	Query   []Param
	Actions []string // what {action} may be
	Body    any      // a value of what is sent; nil: nothing
	Answer  any      // a value of what is answered; nil: nothing, or what Type says
	Status  int      // of success; 0: 200
	Type    string   // of the answer, where it is no JSON: "text/plain"
	Stream  any      // a value of the data of its events, where text/event-stream can be asked for, or is always answered
	Always  bool     // with Stream: always
	Open    bool     // nobody need be logged in
}

// Param is a parameter of a query.
type Param struct {
	Name, What string
	Kind       string // of JSON schema; empty: string
	Many       bool   // repeated, or with commas
	Needed     bool
}

// Problem is how errors are answered.
type Problem struct {
	Error string `json:"error"`
}

// ProjectList is what GET /api/v1/projects answers.
type ProjectList struct {
	Projects []store.Project `json:"projects"`
}

var (
	limitParam   = Param{Name: "limit", What: "rows of a page, at most 1000", Kind: "integer"}
	beforeParam  = Param{Name: "before", What: "the next of the page before", Kind: "integer"}
	projectParam = Param{Name: "project", What: "path of a project"}
)

// Routes describes the routes of this package.
func Routes() []Route {
	return slices.Concat(appRoutes(), pipelineRoutes(), jobRoutes(), environmentRoutes(), historyRoutes(), auditRoutes())
}

func appRoutes() []Route {
	filters := []Param{
		{Name: "q", What: "words that are all in an app's namespace, name, kind, environment, source, path, revision or message"},
		{Name: "state", What: "Ready, Working, Failing, Suspended, OutOfSync or Unknown", Many: true},
		{Name: "kind", What: strings.Join(appKinds, ", "), Many: true},
		{Name: "namespace", What: "namespaces that apps are declared in", Many: true},
		{Name: "environment", What: "environments", Many: true},
	}
	const app = "/api/v1/apps/{kind}/{namespace}/{name}"
	return []Route{
		{Pattern: "GET /api/v1/apps", Summary: "List apps", Answer: AppList{}, Query: append(slices.Clone(filters),
			Param{Name: "sort", What: "namespace, name, kind, environment, state, since or created; with - before it downwards"},
			Param{Name: "after", What: "the next of the page before"}, limitParam)},
		{Pattern: "GET " + app, Summary: "Tell all about an app", Answer: AppDetail{}},
		{Pattern: "GET " + app + "/tree", Summary: "What an app consists of, down to its Pods", Answer: Tree{}},
		{Pattern: "GET " + app + "/events", Summary: "What happened to an app, or to an object of it", Answer: EventList{},
			Query: []Param{{Name: "object", What: "KIND/NAMESPACE/NAME of an object; none: the app itself"}}},
		{Pattern: "GET " + app + "/diff", Summary: "What delivering an app now would change", Answer: AppDiff{}},
		{Pattern: "POST " + app + "/{action}", Summary: "Ask for something to be done with an app", Actions: appActions,
			Body: AskApp{}, Answer: AppAsked{}, Status: http.StatusAccepted},
		{Pattern: "GET /api/v1/pods/{namespace}/{name}/log", Summary: "The log of a Pod's container; as events, Last-Event-ID goes on where a connection was lost", Type: "text/plain", Stream: LogText{}, Query: []Param{
			{Name: "container", What: "none: the usual one"}, {Name: "tail", What: "lines from the end, at most 100000", Kind: "integer"},
			{Name: "previous", What: "of the container before it was started anew", Kind: "boolean"}, {Name: "follow", What: "until it ends", Kind: "boolean"},
		}},
		{Pattern: "GET /api/v1/sources", Summary: "List sources", Answer: SourceList{}},
		{Pattern: "GET /api/v1/matrix", Summary: "Which version of which app is in which environment", Answer: Matrix{}, Query: filters},
		{Pattern: "GET /api/v1/events", Summary: "Follow the changes of everything; Last-Event-ID goes on where a connection was lost", Stream: AppChange{}, Always: true, Query: []Param{
			projectParam, {Name: "pipeline", What: "only this pipeline and its jobs", Kind: "integer"}, {Name: "app", What: "only this app, KIND/NAMESPACE/NAME"},
		}},
		{Pattern: "GET /api/v1/openapi.json", Summary: "This document", Answer: map[string]any{}},
	}
}

func pipelineRoutes() []Route {
	return []Route{
		{Pattern: "GET /api/v1/projects", Summary: "List projects", Answer: ProjectList{}},
		{Pattern: "GET /api/v1/projects/variables", Summary: "The variables in a project's settings, without what nobody may see", Answer: SettingList{}, Query: []Param{projectParam}},
		{Pattern: "GET /api/v1/pipelines", Summary: "List pipelines, the newest first", Answer: PipelineList{}, Query: []Param{
			projectParam, {Name: "ref", What: "branch or tag"}, {Name: "status", What: "as at GitLab"}, {Name: "sha", What: "commit"}, {Name: "source", What: "push, web, schedule, …"}, beforeParam, limitParam,
		}},
		{Pattern: "POST /api/v1/pipelines", Summary: "Make a pipeline", Body: NewPipeline{}, Answer: store.Pipeline{}},
		{Pattern: "GET /api/v1/pipelines/{id}", Summary: "A pipeline with its jobs", Answer: PipelineDetail{}},
		{Pattern: "POST /api/v1/pipelines/{id}/{action}", Summary: "Play, retry or cancel jobs or a pipeline; answered when it is done",
			Actions: []string{"play", "retry", "cancel"}, Body: Ask{}, Status: http.StatusNoContent},
		{Pattern: "GET /api/v1/pipelines/{id}/variables", Summary: "The variables that a pipeline or a job had", Answer: SettingList{}, Query: []Param{{Name: "job", What: "name of a job; none: those that all have alike"}}},
		{Pattern: "GET /api/v1/pipelines/{id}/graph", Summary: "What waits for what in a pipeline", Answer: PipelineGraph{}},
		{Pattern: "GET /api/v1/pipelines/{id}/recipe", Summary: "What a pipeline was made from", Answer: show.Recipe{}},
		{Pattern: "GET /api/v1/pipelines/{id}/graph", Summary: "The stages and jobs of a pipeline, and what needs what", Answer: PipelineGraph{}},
		{Pattern: "GET /api/v1/pipelines/{id}/artifacts", Summary: "What the jobs of a pipeline have left", Answer: ArtifactList{}},
		{Pattern: "GET /api/v1/schedules", Summary: "List schedules", Answer: ScheduleList{}, Query: []Param{projectParam}},
		{Pattern: "POST /api/v1/schedules/play", Summary: "Make the pipeline of a schedule now", Body: PlayedSchedule{}, Answer: store.Pipeline{}, Status: http.StatusCreated},
	}
}

func jobRoutes() []Route {
	return []Route{
		{Pattern: "GET /api/v1/jobs/{id}", Summary: "A job", Answer: store.Job{}},
		{Pattern: "GET /api/v1/jobs/{id}/log", Summary: "The log of a job", Type: "text/plain", Stream: LogText{}, Query: []Param{
			{Name: "offset", What: "bytes that are left out", Kind: "integer"}, {Name: "follow", What: "until the job is over", Kind: "boolean"},
		}},
		{Pattern: "GET /api/v1/jobs/{id}/artifacts", Summary: "What a job has left, with its files", Answer: JobArtifacts{}, Query: []Param{limitParam}},
		{Pattern: "DELETE /api/v1/jobs/{id}/artifacts", Summary: "Erase what a job has left", Status: http.StatusNoContent},
		{Pattern: "POST /api/v1/jobs/{id}/artifacts/keep", Summary: "Keep what a job has left: it does not expire any more", Status: http.StatusNoContent},
		{Pattern: "GET /api/v1/jobs/{id}/artifacts/archive", Summary: "All files that a job has left", Type: "application/zip"},
		{Pattern: "GET /api/v1/jobs/{id}/artifacts/file", Summary: "One file that a job has left", Type: "application/octet-stream", Query: []Param{
			{Name: "path", What: "of the file", Needed: true}, {Name: "report", What: "kind of the report that it is of"},
		}},
	}
}

func environmentRoutes() []Route {
	return []Route{
		{Pattern: "GET /api/v1/environments", Summary: "List the environments of projects", Answer: EnvironmentList{}, Query: []Param{
			projectParam, {Name: "state", What: "available, stopping or stopped"}, {Name: "name", What: "of the environment"},
			{Name: "after", What: "the next of the page before", Kind: "integer"}, limitParam,
		}},
		{Pattern: "GET /api/v1/environments/{id}", Summary: "An environment with its deployments", Answer: EnvironmentDetail{}, Query: []Param{beforeParam}},
		{Pattern: "POST /api/v1/environments/{id}/{action}", Summary: "Stop an environment, or go back to an earlier deployment",
			Actions: []string{"stop", "rollback"}, Body: AskEnvironment{}, Answer: EnvironmentDetail{}},
	}
}

func historyRoutes() []Route {
	from, to := Param{Name: "from", What: "time, as 2026-03-01T12:00:00Z"}, Param{Name: "to", What: "time"}
	rows := Param{Name: limitParam.Name, What: fmt.Sprintf("rows of a page, at most %d", HistoryPage), Kind: limitParam.Kind}
	object := Param{Name: "object", What: "KIND/NAMESPACE/NAME, or KIND/NAME, of an object that was changed"}
	app := Param{Name: "app", What: "KIND/NAMESPACE/NAME"}
	return []Route{
		{Pattern: "GET /api/v1/deliveries", Summary: "What was delivered, the newest first", Answer: DeliveryList{}, Query: []Param{
			app, {Name: "environment", What: "name"}, {Name: "author", What: "of the commit"}, {Name: "status", What: "running, succeeded, failed or superseded"},
			{Name: "trigger", What: "commit, spec, drift, sync or rollback"}, {Name: "sha", What: "commit"}, object, {Name: "q", What: "words"}, from, to, beforeParam, rows,
		}},
		{Pattern: "GET /api/v1/deliveries/{id}", Summary: "A delivery, with what it changed", Answer: history.Delivery{}},
		{Pattern: "GET /api/v1/repairs", Summary: "What others changed and was repaired, the newest first", Answer: RepairList{}, Query: []Param{
			app, object, {Name: "manager", What: "who changed it, by managedFields"}, from, to, beforeParam, rows,
		}},
		{Pattern: "GET /api/v1/why", Summary: "Who made an object, or a field of it, what it is", Answer: history.Answer{}, Query: []Param{
			{Name: "kind", What: "or its short name", Needed: true}, {Name: "name", What: "of the object", Needed: true}, {Name: "namespace", What: "of the object"},
			{Name: "field", What: "path of a field"}, {Name: "at", What: "time; none: now"},
		}},
	}
}

func auditRoutes() []Route {
	from, to := Param{Name: "from", What: "time, as 2026-03-01T12:00:00Z or 2026-03-01"}, Param{Name: "to", What: "time"}
	return []Route{
		{Pattern: "GET /api/v1/audit", Summary: "Who did what, the newest first", Answer: AuditList{}, Query: []Param{
			{Name: "q", What: "words"}, {Name: "actor", What: "who"}, {Name: "action", What: "whole, or ending with *"}, {Name: "object", What: "whole, or ending with *"}, projectParam,
			{Name: "environment", What: "name"}, {Name: "outcome", What: "asked, done, refused or failed"}, from, to, beforeParam, limitParam,
		}},
		{Pattern: "GET /api/v1/audit/export", Summary: "The audit as lines of JSON, which keelson audit verify --file reads", Type: "application/x-ndjson",
			Query: []Param{from, to, {Name: "names", What: "false: without the names of people", Kind: "boolean"}}},
		{Pattern: "DELETE /api/v1/audit/people", Summary: "Forget a person everywhere; their records stay", Query: []Param{
			{Name: "person", What: "who", Needed: true}, {Name: "also", What: "another name of theirs, as in commits; may be given several times"},
		}, Answer: Erased{}},
		{Pattern: "POST /api/v1/audit/key", Summary: "Have a new key sign the checkpoints of the audit", Body: AskAuditKey{}, Answer: AuditKey{}},
	}
}

// OpenAPI gives the OpenAPI 3 document of routes, as JSON. The schemas are those of the Go types.
func OpenAPI(version string, routes []Route) ([]byte, error) {
	doc := &openapi3.T{
		OpenAPI: "3.0.3",
		Info: &openapi3.Info{Title: "Keelson", Version: version, Description: "Whatever is done, is done with the rights of the person who asks. " +
			"Lists are paged, filtered and sorted by the server. Errors are {\"error\": \"…\"}."},
		Paths:      openapi3.NewPaths(),
		Components: &openapi3.Components{Schemas: openapi3.Schemas{}},
		Security:   openapi3.SecurityRequirements{{"token": {}}, {"session": {}}},
	}
	doc.Components.SecuritySchemes = openapi3.SecuritySchemes{
		"token":   {Value: &openapi3.SecurityScheme{Type: "http", Scheme: "bearer"}},
		"session": {Value: &openapi3.SecurityScheme{Type: "apiKey", In: "cookie", Name: "keelson"}},
	}
	types := openapi3gen.NewGenerator(
		openapi3gen.CreateComponentSchemas(openapi3gen.ExportComponentSchemasOptions{ExportComponentSchemas: true, ExportTopLevelSchema: true}),
		openapi3gen.SchemaCustomizer(completeSchema),
	)
	schema := func(v any) (*openapi3.SchemaRef, error) { return types.NewSchemaRefForValue(v, doc.Components.Schemas) }
	problem, err := schema(Problem{})
	if err != nil {
		return nil, fmt.Errorf("describe errors: %w", err)
	}
	for _, r := range routes {
		method, path, ok := strings.Cut(r.Pattern, " ")
		if !ok {
			return nil, fmt.Errorf("describe %q: it is no METHOD and path", r.Pattern)
		}
		op, err := r.operation(method, path, problem, schema)
		if err != nil {
			return nil, fmt.Errorf("describe %s: %w", r.Pattern, err)
		}
		doc.AddOperation(path, method, op)
	}
	if ref := doc.Components.Schemas["AskApp"]; ref != nil { // what reflection cannot know: see RollbackTo
		doc.Components.Schemas["RollbackTo"] = (&openapi3.Schema{
			OneOf:       openapi3.SchemaRefs{openapi3.NewInt64Schema().NewRef(), openapi3.NewStringSchema().NewRef()},
			Description: "a number is that of a delivery, a string a revision: a commit, a version of a release, an id of an Application's history",
		}).NewRef()
	}
	return json.Marshal(doc)
}

// inPath finds the parameters of a path.
var inPath = regexp.MustCompile(`\{([a-z]+)\}`)

// operation describes a route.
func (r Route) operation(method, path string, problem *openapi3.SchemaRef, schema func(any) (*openapi3.SchemaRef, error)) (*openapi3.Operation, error) {
	op := openapi3.NewOperation()
	op.OperationID, op.Summary = operationID(method, path), r.Summary
	op.Tags = []string{strings.Split(strings.TrimPrefix(path, "/api/v1/"), "/")[0]}
	for _, m := range inPath.FindAllStringSubmatch(path, -1) {
		p := openapi3.NewPathParameter(m[1]).WithSchema(openapi3.NewStringSchema())
		switch {
		case m[1] == "id":
			p.Schema = openapi3.NewInt64Schema().NewRef()
		case m[1] == "action" && len(r.Actions) > 0:
			p.Schema.Value.Enum = anys(r.Actions)
		}
		op.AddParameter(p)
	}
	for _, q := range r.Query {
		p := openapi3.NewQueryParameter(q.Name).WithDescription(q.What).WithRequired(q.Needed)
		s := &openapi3.Schema{Type: &openapi3.Types{cmp.Or(q.Kind, "string")}}
		if q.Many {
			s = openapi3.NewArraySchema().WithItems(s)
		}
		op.AddParameter(p.WithSchema(s))
	}
	if r.Body != nil {
		ref, err := schema(r.Body)
		if err != nil {
			return nil, err
		}
		op.RequestBody = &openapi3.RequestBodyRef{Value: openapi3.NewRequestBody().WithJSONSchemaRef(ref)}
	}
	content := openapi3.Content{}
	if r.Answer != nil {
		ref, err := schema(r.Answer)
		if err != nil {
			return nil, err
		}
		content["application/json"] = openapi3.NewMediaType().WithSchemaRef(ref)
	}
	if r.Type != "" {
		content[r.Type] = openapi3.NewMediaType().WithSchema(openapi3.NewStringSchema())
	}
	if r.Stream != nil {
		if _, err := schema(r.Stream); err != nil {
			return nil, err
		}
		content["text/event-stream"] = openapi3.NewMediaType().WithSchema(openapi3.NewStringSchema().WithFormat("event-stream: " + reflect.TypeOf(r.Stream).Name()))
	}
	if r.Open {
		op.Security = openapi3.NewSecurityRequirements()
	}
	status := cmp.Or(r.Status, http.StatusOK)
	op.Responses = openapi3.NewResponses(
		openapi3.WithStatus(status, &openapi3.ResponseRef{Value: openapi3.NewResponse().WithDescription(http.StatusText(status)).WithContent(content)}),
		openapi3.WithName("default", openapi3.NewResponse().WithDescription("what went wrong").WithJSONSchemaRef(problem)),
	)
	return op, nil
}

func anys[T any](list []T) []any {
	out := make([]any, len(list))
	for i, v := range list {
		out[i] = v
	}
	return out
}

// operationID names an operation: "getAppsKindNamespaceNameTree".
func operationID(method, path string) string {
	var b strings.Builder
	b.WriteString(strings.ToLower(method))
	for part := range strings.FieldsFuncSeq(strings.TrimPrefix(path, "/api/v1"), func(r rune) bool { return !unicode.IsLetter(r) }) {
		b.WriteString(strings.ToUpper(part[:1]) + part[1:])
	}
	return b.String()
}

// completeSchema says of a schema what reflection leaves out: which fields are always there, and what a State may be.
func completeSchema(_ string, t reflect.Type, _ reflect.StructTag, s *openapi3.Schema) error {
	switch {
	case t == reflect.TypeFor[State]():
		s.Enum = anys(states)
	case t.Kind() == reflect.Struct && s.Type != nil && s.Type.Is("object"):
		for _, f := range reflect.VisibleFields(t) {
			name, opts, _ := strings.Cut(f.Tag.Get("json"), ",")
			if name == "" || name == "-" || strings.Contains(opts, "omit") || s.Properties[name] == nil {
				continue
			}
			if !slices.Contains(s.Required, name) {
				s.Required = append(s.Required, name)
			}
		}
		slices.Sort(s.Required)
	}
	return nil
}
