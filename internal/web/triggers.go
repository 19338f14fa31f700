package web

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"mime"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync"
	"time"

	"keelson.dev/keelson/internal/audit"
	"keelson.dev/keelson/internal/store"
)

// TriggersPath is where pipelines are triggered, as at GitLab: PROJECT/trigger/pipeline below it.
const TriggersPath = "/api/v4/projects/"

// TriggerRequest is what another system asks for with a token.
type TriggerRequest struct {
	Project   string            // path, or number
	Token     string            // of a trigger, or of a job
	Ref       string            // branch or tag
	Variables map[string]string // pipeline variables
	Payload   []byte            // all that was sent but the token, as JSON
}

// Errors of a trigger that a client is told as GitLab tells them.
var (
	// ErrTriggerRefused says that there is no such project, or that the token is not one of it.
	ErrTriggerRefused = errors.New("404 Not Found")
	// ErrTriggerRef says that there is no such branch or tag.
	ErrTriggerRef = errors.New("Reference not found") //nolint:staticcheck // GitLab's words
)

// Triggered is a pipeline that was made, in GitLab's shape.
type Triggered struct {
	ID        int64     `json:"id"`
	IID       int64     `json:"iid"`
	ProjectID int64     `json:"project_id"`
	SHA       string    `json:"sha"`
	Ref       string    `json:"ref"`
	Status    string    `json:"status"`
	Source    string    `json:"source"`
	BeforeSHA string    `json:"before_sha"`
	Tag       bool      `json:"tag"`
	Errors    *string   `json:"yaml_errors"`
	CreatedAt time.Time `json:"created_at"`
	WebURL    string    `json:"web_url"`
}

// TriggeredOf gives a pipeline the shape that it has at GitLab; the URL is that of its project's page.
func TriggeredOf(p store.Pipeline, project string) Triggered {
	const noCommit = "0000000000000000000000000000000000000000"
	t := Triggered{
		ID: p.ID, IID: p.IID, ProjectID: p.Project, SHA: p.SHA, Ref: p.Ref, Status: p.Status, Source: p.Source, BeforeSHA: noCommit, Tag: p.Tag,
		CreatedAt: p.Created, WebURL: fmt.Sprintf("%s/-/pipelines/%d", project, p.ID),
	}
	if p.Before != "" {
		t.BeforeSHA = p.Before
	}
	if p.Why != "" && p.Status == "failed" {
		t.Errors = &p.Why
	}
	return t
}

// Accepted is a request whose token is one of its project.
type Accepted struct {
	Project string // path
	Who     string // whose token it is: a trigger's name, or a job
	// Make makes the pipeline. Its errors are [ErrTriggerRef], or for whoever has asked.
	Make func(ctx context.Context) (Triggered, error)
}

// TriggersOptions of what answers triggers.
type TriggersOptions struct {
	// Accept tells whether a token is one of the project that a request names, and makes nothing yet. Its errors are [ErrTriggerRefused], or for
	// whoever has asked.
	Accept func(ctx context.Context, t TriggerRequest) (Accepted, error)
	Now    func() time.Time // nil: time.Now
	// Record is that of [AuditOptions]. What a wrong token asks for is not recorded: whoever has none could fill the audit.
	Record func(audit.Entry)
}

const (
	// maxTrigger is what a request may have, in bytes, and maxTriggerVariables how many variables.
	maxTrigger, maxTriggerVariables = 1 << 20, 1000
	// wrongPerMinute is how many wrong tokens of an address are answered in a minute, and triggersPerMinute how many pipelines of a project may be
	// asked for.
	wrongPerMinute, triggersPerMinute = 10, 60
	// triggersAtOnce is how many tokens are looked at at a time, and triggerPatience how long a request waits for that.
	triggersAtOnce, triggerPatience = 8, 5 * time.Second
	// maxCounted bounds how many addresses, and how many projects, are counted at a time.
	maxCounted = 10_000
)

// NewTriggers serves POST /api/v4/projects/PROJECT/trigger/pipeline as GitLab does: PROJECT is a project's path, also with its slashes as %2F,
// or its number; token, ref and variables[NAME] are in the query, in a form or in a JSON object. With /ref/REF before /trigger the ref is in
// the path. The token is the request's only credential, so who tries many is held off; who has one is not, for others may come from the same
// address: all pods do, and all users of this machine.
func NewTriggers(o TriggersOptions) http.Handler {
	if o.Now == nil {
		o.Now = time.Now
	}
	return &triggers{TriggersOptions: o, slots: make(chan struct{}, triggersAtOnce), patience: triggerPatience, limit: HookTimeout}
}

type triggers struct {
	TriggersOptions

	slots    chan struct{} // of those whose tokens are looked at
	patience time.Duration // how long one waits for that
	limit    time.Duration // until a request has been read

	wrong counter // by address
	asked counter // by the paths of projects
}

// counter counts things by their names, in a minute.
type counter struct {
	mu     sync.Mutex
	minute time.Time
	of     map[string]int
	order  []string // in which the names came: the oldest one makes room
}

// add counts one thing, and tells how many there are in this minute.
func (c *counter) add(now time.Time, name string) int {
	c.mu.Lock()
	defer c.mu.Unlock()
	if minute := now.Truncate(time.Minute); c.of == nil || !minute.Equal(c.minute) {
		c.minute, c.of, c.order = minute, map[string]int{}, nil
	}
	if _, there := c.of[name]; !there {
		if len(c.order) >= maxCounted {
			delete(c.of, c.order[0])
			c.order = c.order[1:]
		}
		c.order = append(c.order, name)
	}
	c.of[name]++
	return c.of[name]
}

// ServeHTTP implements [http.Handler].
func (s *triggers) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("X-Content-Type-Options", "nosniff")
	w.Header().Set("Cache-Control", "no-store")
	project, ref, ok := triggerPath(r.URL)
	switch {
	case !ok:
		message(w, http.StatusNotFound, "404 Not Found")
		return
	case r.Method != http.MethodPost:
		w.Header().Set("Allow", http.MethodPost)
		message(w, http.StatusMethodNotAllowed, "405 Method Not Allowed")
		return
	}
	// Not every connection knows deadlines. It is taken back: one that ends later would end what the request has asked for.
	deadline := http.NewResponseController(w)
	_ = deadline.SetReadDeadline(time.Now().Add(s.limit))
	r.Body = http.MaxBytesReader(w, r.Body, maxTrigger)
	t, err := readTrigger(r)
	if err == nil {
		_ = deadline.SetReadDeadline(time.Time{})
	}
	if err != nil {
		refuse(w, http.StatusBadRequest, err)
		return
	}
	t.Project = project
	if ref != "" {
		t.Ref = ref
	}
	var missing []string
	for name, value := range map[string]string{"ref": t.Ref, "token": t.Token} {
		if value == "" {
			missing = append(missing, name+" is missing")
		}
	}
	if len(missing) > 0 {
		slices.Sort(missing)
		refuse(w, http.StatusBadRequest, errors.New(strings.Join(missing, ", ")))
		return
	}
	ctx, cancel := context.WithTimeout(r.Context(), askTimeout)
	defer cancel()
	accepted, err := s.accept(ctx, t)
	switch {
	case errors.Is(err, ErrTriggerRefused):
		if s.wrong.add(s.Now(), address(r)) > wrongPerMinute {
			tooMany(w)
			return
		}
		message(w, http.StatusNotFound, ErrTriggerRefused.Error())
		return
	case errors.Is(err, errBusy):
		tooMany(w)
		return
	case err == nil && s.asked.add(s.Now(), accepted.Project) > triggersPerMinute:
		tooMany(w)
		return
	}
	var made Triggered
	if err == nil {
		made, err = accepted.Make(ctx)
		recordTo(s.Record, r, audit.Entry{Actor: accepted.Who, Action: "pipeline.trigger", Object: madeObject(made.ID, accepted.Project), Project: accepted.Project, Detail: t.Ref}, err)
	}
	switch {
	case errors.Is(err, ErrTriggerRef):
		message(w, http.StatusBadRequest, map[string][]string{"base": {ErrTriggerRef.Error()}})
	case err != nil:
		message(w, http.StatusBadRequest, map[string][]string{"base": {err.Error()}})
	default:
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(http.StatusCreated)
		_ = json.NewEncoder(w).Encode(made) // the client may be gone
	}
}

// errBusy says that too many tokens are being looked at.
var errBusy = errors.New("busy")

// accept looks at a token, as one of a few at a time.
func (s *triggers) accept(ctx context.Context, t TriggerRequest) (Accepted, error) {
	wait := time.NewTimer(s.patience)
	defer wait.Stop()
	select {
	case s.slots <- struct{}{}:
		defer func() { <-s.slots }()
		return s.Accept(ctx, t)
	case <-wait.C:
		return Accepted{}, errBusy
	case <-ctx.Done():
		return Accepted{}, context.Cause(ctx)
	}
}

// address is where a request comes from, without the port.
func address(r *http.Request) string {
	host, _, err := net.SplitHostPort(r.RemoteAddr)
	if err != nil {
		return r.RemoteAddr
	}
	return host
}

func tooMany(w http.ResponseWriter) {
	w.Header().Set("Retry-After", "60")
	message(w, http.StatusTooManyRequests, "This endpoint has been requested too many times. Try again later.")
}

func message(w http.ResponseWriter, status int, text any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(map[string]any{"message": text}) // the client may be gone
}

// triggerPath reads which project is meant, and which ref where the path says one.
func triggerPath(u *url.URL) (project, ref string, ok bool) {
	rest, ok := strings.CutPrefix(u.EscapedPath(), TriggersPath)
	if !ok {
		return "", "", false
	}
	if rest, ok = strings.CutSuffix(strings.TrimSuffix(rest, "/"), "/trigger/pipeline"); !ok {
		return "", "", false
	}
	if before, after, found := strings.Cut(rest, "/ref/"); found {
		rest = before
		if ref, ok = unescaped(after); !ok {
			return "", "", false
		}
	}
	project, ok = unescaped(rest)
	return project, ref, ok && project != ""
}

func unescaped(text string) (string, bool) {
	out, err := url.PathUnescape(text)
	return out, err == nil
}

// readTrigger reads what a request asks for, of the query and of its body.
func readTrigger(r *http.Request) (t TriggerRequest, err error) {
	kind, _, err := mime.ParseMediaType(r.Header.Get("Content-Type"))
	if err != nil && r.Header.Get("Content-Type") != "" {
		return t, errors.New("the content type cannot be read")
	}
	sent := map[string]any{}
	switch kind {
	case "application/json":
		if err = json.NewDecoder(r.Body).Decode(&sent); err != nil && !errors.Is(err, io.EOF) {
			return t, fmt.Errorf("the body is no JSON object: %w", err)
		}
		if sent == nil { // it is null
			return t, errors.New("the body is no JSON object")
		}
		r.Form, err = r.URL.Query(), nil
	case "multipart/form-data":
		err = r.ParseMultipartForm(maxTrigger)
	default:
		err = r.ParseForm()
	}
	if err != nil {
		return t, fmt.Errorf("read the request: %w", err)
	}
	if r.MultipartForm != nil {
		defer func() { _ = r.MultipartForm.RemoveAll() }() // there are no files on the disk: it was small
	}
	variables := map[string]any{}
	for name, values := range r.Form {
		if key, ok := strings.CutPrefix(name, "variables["); ok && strings.HasSuffix(key, "]") {
			variables[strings.TrimSuffix(key, "]")] = values[0]
		} else if _, there := sent[name]; !there {
			sent[name] = values[0]
		}
	}
	if given, ok := sent["variables"]; ok {
		all, ok := given.(map[string]any)
		if !ok {
			return t, errors.New("variables is invalid")
		}
		maps.Copy(variables, all)
	}
	if len(variables) > maxTriggerVariables {
		return t, fmt.Errorf("there are %d variables, more than %d", len(variables), maxTriggerVariables)
	}
	t.Variables = map[string]string{}
	for name, value := range variables {
		text, ok := value.(string)
		if !ok || name == "" {
			return t, errors.New("variables needs to be a map of key-valued strings")
		}
		t.Variables[name] = text
	}
	for name, into := range map[string]*string{"ref": &t.Ref, "token": &t.Token} {
		value, there := sent[name]
		text, ok := value.(string)
		if there && !ok {
			return t, fmt.Errorf("%s is invalid", name)
		}
		*into = text
	}
	delete(sent, "token")
	if len(variables) > 0 {
		sent["variables"] = variables
	}
	t.Payload, err = json.Marshal(sent)
	return t, err
}
