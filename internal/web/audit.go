package web

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"time"

	"keelson.dev/keelson/internal/audit"
	"keelson.dev/keelson/internal/store"
)

// AuditOptions say what is recorded of requests, and who reads the audit.
type AuditOptions struct {
	// Record is told of what was asked for; it must not wait. Nil: only commands are recorded, with themselves.
	Record func(audit.Entry)
	// Authorize tells who may read the audit (the verb get on the resource audits of the group keelson.dev), and who may erase people in it (the
	// verb erase). Nil: everybody.
	Authorize Authorize
	// Rotate has a new key sign checkpoints (the verb rotate on audits); with lost it says that the key before the one in use was lost. Nil: nobody can.
	Rotate func(ctx context.Context, lost bool, who, address string) (AuditKey, error)
}

// AskAuditKey asks for another key of checkpoints.
type AskAuditKey struct {
	Lost bool `json:"lost,omitempty"` // the key before the one in use was lost: the latter says so
}

// AuditKey is the public key of checkpoints, and the one that it follows.
type AuditKey struct {
	Key      string `json:"key"`
	ID       string `json:"id"`
	Before   string `json:"before"`
	BeforeID string `json:"beforeID"`
	Seq      int64  `json:"seq,omitempty"` // the record at which it follows
}

// auditResource is what RBAC calls the audit. It is one for everything: a right in one namespace does not open it.
var auditResource = Target{Group: "keelson.dev", Resource: "audits"}

// AuditRecord is a record in the API.
type AuditRecord struct {
	Seq         int64     `json:"seq"`
	Time        time.Time `json:"time"`
	Actor       string    `json:"actor"`   // a name; the id where the name was erased
	ActorID     string    `json:"actorID"` // that stands in the chain
	Action      string    `json:"action"`
	Object      string    `json:"object"`
	Project     string    `json:"project,omitempty"`
	Environment string    `json:"environment,omitempty"`
	Outcome     string    `json:"outcome"` // asked, done, refused or failed
	Detail      string    `json:"detail,omitempty"`
	Address     string    `json:"address,omitempty"` // of the request
	Hash        string    `json:"hash"`
}

// AuditList is a page of records, the newest first.
type AuditList struct {
	Records []AuditRecord `json:"records"`
	Next    int64         `json:"next,omitempty"` // before=NEXT gives the next page; 0: this is the last one
}

// AuditListOf gives records the shape of the API.
func AuditListOf(records []store.AuditRecord, next int64) AuditList {
	list := AuditList{Records: make([]AuditRecord, len(records)), Next: next}
	for i, r := range records {
		list.Records[i] = AuditRecord{
			Seq: r.Seq, Time: r.Time, Actor: r.Who, ActorID: r.Actor, Action: r.Action, Object: r.Object, Project: r.Project, Environment: r.Environment,
			Outcome: r.Outcome, Detail: r.Detail, Address: r.Address, Hash: r.Hash.String(),
		}
		if r.About != "" {
			list.Records[i].Object = "person/" + r.About
		}
	}
	return list
}

// auditIn adds the audit to the API:
//
//	GET    /api/v1/audit?q=&actor=&action=&object=&project=&environment=&outcome=&from=&to=&before=&limit=   [AuditList]; action and object
//	                                 are whole, or end with *; times are as 2026-03-01T12:00:00Z
//	GET    /api/v1/audit/export?from=&to=&names=false     lines of JSON, which keelson audit verify --file reads
//	DELETE /api/v1/audit/people?person=&also=             forgets a person everywhere: [Erased]; their records stay. also may come again and again
//	POST   /api/v1/audit/key          [AskAuditKey]        has a new key sign checkpoints: [AuditKey]
func (s *pipelines) auditIn(mux *http.ServeMux) {
	mux.HandleFunc("GET /api/v1/audit", s.audit)
	mux.HandleFunc("GET /api/v1/audit/export", s.exportAudit)
	mux.HandleFunc("DELETE /api/v1/audit/people", s.eraseAudit)
	mux.HandleFunc("POST /api/v1/audit/key", s.rotateAudit)
}

// mayAudit asks whether who is in front may; where not, the request has been answered.
func (s *pipelines) mayAudit(w http.ResponseWriter, r *http.Request, verb string) bool {
	return s.Audit.Authorize.allowed(w, r, verb, auditResource)
}

// maxAuditFilter bounds the text of a filter, in bytes.
const maxAuditFilter = 300

func (s *pipelines) audit(w http.ResponseWriter, r *http.Request) {
	if !s.mayAudit(w, r, "get") {
		return
	}
	f, err := AuditFilterOf(r.URL.Query().Get)
	if err != nil {
		refuse(w, http.StatusBadRequest, err)
		return
	}
	ctx, cancel := context.WithTimeout(r.Context(), readLimit)
	defer cancel()
	records, next, err := s.Store.Audit(ctx, f)
	if err != nil {
		fail(w, err)
		return
	}
	answerJSON(w, AuditListOf(records, next))
}

// AuditFilterOf reads the parameters of a list of the audit.
func AuditFilterOf(get func(string) string) (f store.AuditFilter, err error) {
	for name, into := range map[string]*string{
		"q": &f.Query, "actor": &f.Actor, "action": &f.Action, "object": &f.Object, "project": &f.Project, "environment": &f.Environment, "outcome": &f.Outcome,
	} {
		if *into = get(name); len(*into) > maxAuditFilter || strings.ContainsRune(*into, 0) {
			return f, fmt.Errorf("%s: it has more than %d bytes, or a zero byte", name, maxAuditFilter)
		}
		*into = strings.ToValidUTF8(*into, "\uFFFD")
	}
	f.From, f.To, err = auditTimes(get)
	if err != nil {
		return f, err
	}
	for name, into := range map[string]func(int64){"before": func(n int64) { f.Before = n }, "limit": func(n int64) { f.Limit = int(max(1, min(n, 1000))) }} {
		if text := get(name); text != "" {
			n, err := strconv.ParseInt(text, 10, 64)
			if err != nil || n < 0 {
				return f, fmt.Errorf("%s: %q is no number", name, text)
			}
			into(n)
		}
	}
	return f, nil
}

func auditTimes(get func(string) string) (from, to time.Time, err error) {
	for name, into := range map[string]*time.Time{"from": &from, "to": &to} {
		text := get(name)
		if text == "" {
			continue
		}
		if *into, err = time.Parse(time.RFC3339, text); err != nil {
			if *into, err = time.Parse(time.DateOnly, text); err != nil {
				return from, to, fmt.Errorf("%s: %q is no time as 2026-03-01T12:00:00Z or 2026-03-01", name, text)
			}
		}
	}
	return from, to, nil
}

// exportAudit streams. What goes wrong in the middle ends the connection: the export has no end then.
func (s *pipelines) exportAudit(w http.ResponseWriter, r *http.Request) {
	if !s.mayAudit(w, r, "get") {
		return
	}
	from, to, err := auditTimes(r.URL.Query().Get)
	if err != nil {
		refuse(w, http.StatusBadRequest, err)
		return
	}
	if !s.slot(w) {
		return
	}
	defer func() { <-s.open }()
	ctx, cancel := s.until(r)
	defer cancel()
	s.note(r, audit.Entry{Action: "audit.export", Object: "audit"}, nil)
	w.Header().Set("Content-Type", "application/x-ndjson")
	w.Header().Set("Content-Disposition", `attachment; filename="audit.jsonl"`)
	if err := s.Store.ExportAudit(ctx, newPatient(w), store.AuditExport{From: from, To: to, NoNames: r.URL.Query().Get("names") == "false"}); err != nil {
		panic(http.ErrAbortHandler)
	}
}

func (s *pipelines) eraseAudit(w http.ResponseWriter, r *http.Request) {
	if !s.mayAudit(w, r, "erase") {
		return
	}
	person := r.URL.Query().Get("person")
	if person == "" {
		refuse(w, http.StatusBadRequest, errors.New("person: who is to be forgotten?"))
		return
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(r.Context()), eraseLimit)
	defer cancel()
	gone, err := s.Store.ErasePerson(ctx, person, r.URL.Query()["also"]...)
	if len(gone.Rows) > 0 {
		s.note(r, audit.Entry{Action: "audit.erase", Object: "person/" + gone.ID}, err)
	}
	if errors.Is(err, store.ErrInvalid) || errors.Is(err, store.ErrTooLarge) {
		refuse(w, http.StatusBadRequest, err)
		return
	}
	if err != nil {
		fail(w, err)
		return
	}
	answerJSON(w, Erased{gone, NotErased()})
}

// eraseLimit bounds the time of an erasure: the file of a database may be written anew.
const eraseLimit = 10 * time.Minute

// Erased tells what was forgotten of a person, and what could not be.
type Erased struct {
	store.Forgotten
	Left []string `json:"left"` // places that may still have the name
}

// NotErased says where an erasure does not reach.
func NotErased() []string {
	return []string{
		"Git repositories: who wrote a commit is part of it",
		"texts that people wrote: titles and messages of commits, and what jobs have printed into their logs",
		"what pipelines keep sealed (their events and variables), until the pipelines are deleted",
		"objects in the cluster, as RoleBindings and annotations, and what OpenID Connect knows",
		"backups, exports and logs of the program from before; with PostgreSQL its write-ahead log until that is recycled",
	}
}

func (s *pipelines) rotateAudit(w http.ResponseWriter, r *http.Request) {
	if !s.mayAudit(w, r, "rotate") {
		return
	}
	var ask AskAuditKey
	if !decode(w, r, &ask) {
		return
	}
	if s.Audit.Rotate == nil {
		refuse(w, http.StatusServiceUnavailable, errors.New("no checkpoints are signed here"))
		return
	}
	key, err := s.Audit.Rotate(context.WithoutCancel(r.Context()), ask.Lost, actorOf(r), address(r)) // it is not left half done
	if err != nil {
		s.note(r, audit.Entry{Action: "audit.rotate-key", Object: "audit"}, err)
		refuse(w, http.StatusUnprocessableEntity, err)
		return
	}
	answerJSON(w, key)
}

// note tells of what a request has asked for; an error says that it failed.
func (s *pipelines) note(r *http.Request, e audit.Entry, err error) {
	recordTo(s.Audit.Record, r, e, err)
}

func recordTo(record func(audit.Entry), r *http.Request, e audit.Entry, err error) {
	if record == nil {
		return
	}
	if e.Actor == "" {
		e.Actor = actorOf(r)
	}
	e.Address = address(r)
	if err != nil {
		e.Outcome, e.Detail = audit.Failed, strings.TrimSpace(e.Detail+" "+err.Error())
		if errors.Is(err, ErrForbidden) {
			e.Outcome = audit.Refused
		}
	}
	record(e)
}

// actorOf is who asks.
func actorOf(r *http.Request) string { return cmp.Or(PersonOf(r.Context()).Name, "somebody") }

// pipelineEntry is what is recorded of what a person asks for of a pipeline.
func (s *pipelines) pipelineEntry(ctx context.Context, r *http.Request, action string, p store.Pipeline, ask Ask) []audit.Entry {
	e := audit.Entry{Action: "pipeline." + action, Object: fmt.Sprintf("pipeline/%d", p.ID), Address: address(r)}
	var detail []string
	if len(ask.Jobs) == 1 {
		e.Object += "/" + ask.Jobs[0]
		e.Environment = s.environmentOfJob(ctx, p.ID, ask.Jobs[0])
	} else if len(ask.Jobs) > 1 {
		detail = append(detail, "jobs: "+strings.Join(ask.Jobs, ", "))
	}
	if p.Ref != "" {
		detail = append(detail, fmt.Sprintf("%s at %.12s", p.Ref, p.SHA))
	}
	if len(ask.Variables) > 0 {
		detail = append(detail, fmt.Sprintf("with %d variables", len(ask.Variables))) // neither names nor values
	}
	if ask.Dependants {
		detail = append(detail, "with what comes after")
	}
	e.Detail = strings.Join(detail, "; ")
	return []audit.Entry{e}
}

// environmentOfJob is where a job deploys to; empty: nowhere, or it cannot be told.
func (s *pipelines) environmentOfJob(ctx context.Context, pipeline int64, job string) string {
	all, err := s.Store.Jobs(ctx, pipeline)
	if err != nil {
		return ""
	}
	for _, j := range all {
		if j.Name == job && j.Environment != "" {
			return j.Environment
		}
	}
	return ""
}

// environmentEntry is what is recorded of what a person asks for of an environment.
func environmentEntry(r *http.Request, action string, e store.Environment, ask AskEnvironment) []audit.Entry {
	out := audit.Entry{Action: "environment." + action, Object: "environment/" + e.Name, Environment: e.Name, Address: address(r)}
	switch {
	case ask.To != 0:
		out.Detail = fmt.Sprintf("to deployment %d", ask.To)
	case ask.Force:
		out.Detail = "without its job"
	}
	return []audit.Entry{out}
}

// madeObject is a pipeline that was made, or where it was not, the project in which it should be.
func madeObject(id int64, project string) string {
	if id == 0 {
		return "project/" + project
	}
	return fmt.Sprintf("pipeline/%d", id)
}
