package web

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"time"

	"keelson.dev/keelson/internal/history"
	"keelson.dev/keelson/internal/store"
)

// DeliveryList is a page of deliveries, the newest first.
type DeliveryList struct {
	Deliveries []history.Delivery `json:"deliveries"`
	Next       int64              `json:"next,omitempty"` // before=NEXT gives the next page; 0: this is the last one
}

// RepairList is a page of repairs, the newest first.
type RepairList struct {
	Repairs []history.Repair `json:"repairs"`
	Next    int64            `json:"next,omitempty"` // before=NEXT gives the next page; 0: this is the last one
}

// maxFilter bounds one value of a filter, in bytes.
const maxFilter = 300

// historyIn adds what there is of deliveries and repairs.
func (s *pipelines) historyIn(mux *http.ServeMux) {
	mux.HandleFunc("GET /api/v1/deliveries", s.deliveries)
	mux.HandleFunc("GET /api/v1/deliveries/{id}", s.delivery)
	mux.HandleFunc("GET /api/v1/repairs", s.repairs)
	mux.HandleFunc("GET /api/v1/why", s.why)
}

// asked reads the filters of a list: of what people write, of times and of numbers. What is wrong with them has been answered where it is false.
func asked(w http.ResponseWriter, r *http.Request, texts map[string]*string, times map[string]*time.Time, numbers map[string]*int64) bool {
	q := r.URL.Query()
	for name, into := range texts {
		if *into = q.Get(name); len(*into) > maxFilter || strings.ContainsRune(*into, 0) {
			refuse(w, http.StatusBadRequest, fmt.Errorf("%s: it has more than %d bytes, or is no text", name, maxFilter))
			return false
		}
	}
	for name, into := range times {
		text := q.Get(name)
		if text == "" {
			continue
		}
		at, err := time.Parse(time.RFC3339, text)
		if err != nil {
			refuse(w, http.StatusBadRequest, fmt.Errorf("%s: %.40q is no time as 2026-03-01T12:00:00Z", name, text))
			return false
		}
		*into = at
	}
	for name, into := range numbers {
		if text := q.Get(name); text != "" {
			n, ok := number(w, name, text)
			if !ok {
				return false
			}
			*into = n
		}
	}
	return true
}

// object reads KIND/NAME or KIND/NAMESPACE/NAME; false: it has been answered that it is something else.
func object(w http.ResponseWriter, text string) (kinds []string, namespace, name string, ok bool) {
	if text == "" {
		return nil, "", "", true
	}
	kind, namespace, name, ok := history.ParseObject(text)
	if !ok {
		refuse(w, http.StatusBadRequest, fmt.Errorf("object: %q names none: give KIND/NAMESPACE/NAME, or KIND/NAME", text))
		return nil, "", "", false
	}
	return history.Kinds(kind), namespace, name, true
}

// HistoryPage is how many rows a page of deliveries or repairs has at most: each may come with many fields.
const HistoryPage = 100

// pageOf is how many rows somebody asks for.
func pageOf(limit int64) int {
	if limit <= 0 {
		return 20
	}
	return int(min(limit, HistoryPage))
}

// pagesRead bounds how many pages are read to fill one with what may be seen.
const pagesRead = 20

// fillPage reads rows, the newest first, until as many as are wanted are kept, and tells before which number the next page begins; 0: there
// is nothing more. Where too many rows in a row are not kept, a page has fewer than there are left.
func fillPage[T any](limit int, before int64, read func(before int64, limit int) ([]T, error), number func(T) int64, keep func([]T) ([]T, error)) (page []T, next int64, err error) {
	page = []T{}
	for at := range pagesRead {
		most := limit
		if at > 0 {
			most = HistoryPage
		}
		all, err := read(before, most)
		if err != nil {
			return nil, 0, err
		}
		kept, err := keep(all)
		if err != nil {
			return nil, 0, err
		}
		if room := limit - len(page); len(kept) > room { // the next page begins where this one ends
			page = append(page, kept[:room]...)
			return page, number(kept[room-1]), nil
		}
		page = append(page, kept...)
		if len(all) < most {
			return page, 0, nil
		}
		before = number(all[len(all)-1])
		if len(page) == limit {
			break
		}
	}
	return page, before, nil
}

func (s *pipelines) deliveries(w http.ResponseWriter, r *http.Request) {
	ctx, cancel := context.WithTimeout(r.Context(), readLimit)
	defer cancel()
	var f store.DeliveryFilter
	var of string
	var limit int64
	if !asked(w, r, map[string]*string{
		"app": &f.App, "environment": &f.Environment, "author": &f.Author, "status": &f.Status, "trigger": &f.Trigger, "sha": &f.SHA, "q": &f.Query, "object": &of,
	}, map[string]*time.Time{"from": &f.From, "to": &f.To}, map[string]*int64{"before": &f.Before, "limit": &limit}) {
		return
	}
	var ok bool
	if f.Kinds, f.Namespace, f.Name, ok = object(w, of); !ok {
		return
	}
	all, next, err := fillPage(pageOf(limit), f.Before, func(before int64, limit int) ([]history.Delivery, error) {
		f.Before, f.Limit = before, limit
		return s.Store.Deliveries(ctx, f)
	}, func(d history.Delivery) int64 { return d.ID }, func(all []history.Delivery) ([]history.Delivery, error) {
		return visible(ctx, s.Authorize, all, func(d history.Delivery) Target { return appTarget(d.App) })
	})
	if errors.Is(err, store.ErrTooLarge) {
		refuse(w, http.StatusBadRequest, err)
		return
	}
	if err != nil {
		fail(w, err)
		return
	}
	answerJSON(w, DeliveryList{Deliveries: all, Next: next})
}

func (s *pipelines) delivery(w http.ResponseWriter, r *http.Request) {
	ctx, cancel := context.WithTimeout(r.Context(), readLimit)
	defer cancel()
	id, ok := number(w, "delivery", r.PathValue("id"))
	if !ok {
		return
	}
	d, err := s.Store.Delivery(ctx, id)
	if err != nil {
		fail(w, err)
		return
	}
	if s.Authorize.allowed(w, r, VerbGet, appTarget(d.App)) {
		answerJSON(w, d)
	}
}

func (s *pipelines) repairs(w http.ResponseWriter, r *http.Request) {
	ctx, cancel := context.WithTimeout(r.Context(), readLimit)
	defer cancel()
	var f store.RepairFilter
	var of string
	var limit int64
	if !asked(w, r, map[string]*string{"app": &f.App, "manager": &f.Manager, "object": &of},
		map[string]*time.Time{"from": &f.From, "to": &f.To}, map[string]*int64{"before": &f.Before, "limit": &limit}) {
		return
	}
	var ok bool
	if f.Kinds, f.Namespace, f.Name, ok = object(w, of); !ok {
		return
	}
	all, next, err := s.repairsOf(ctx, f, pageOf(limit), nil)
	if err != nil {
		fail(w, err)
		return
	}
	answerJSON(w, RepairList{Repairs: all, Next: next})
}

// repairsOf gives a page of the repairs that who is in front may see, and wants (nil: all of them).
func (s *pipelines) repairsOf(ctx context.Context, f store.RepairFilter, limit int, wanted func(history.Repair) bool) ([]history.Repair, int64, error) {
	return fillPage(limit, f.Before, func(before int64, limit int) ([]history.Repair, error) {
		f.Before, f.Limit = before, limit
		return s.Store.Repairs(ctx, f)
	}, func(r history.Repair) int64 { return r.ID }, func(all []history.Repair) ([]history.Repair, error) {
		if wanted != nil {
			all = slices.DeleteFunc(slices.Clone(all), func(r history.Repair) bool { return !wanted(r) })
		}
		return visible(ctx, s.Authorize, all, func(r history.Repair) Target { return appTarget(r.App) })
	})
}

// why tells who has made an object what it is.
func (s *pipelines) why(w http.ResponseWriter, r *http.Request) {
	ctx, cancel := context.WithTimeout(r.Context(), readLimit)
	defer cancel()
	var q history.Question
	if !asked(w, r, map[string]*string{"kind": &q.Kind, "name": &q.Name, "namespace": &q.Namespace, "field": &q.Field}, map[string]*time.Time{"at": &q.At}, nil) {
		return
	}
	f := store.ObjectFilter{Kinds: history.Kinds(q.Kind), Namespace: q.Namespace, Name: q.Name, At: q.At}
	if len(f.Kinds) == 0 || q.Name == "" {
		refuse(w, http.StatusBadRequest, errors.New("kind and name are needed, as kind=ingress&name=shop"))
		return
	}
	known, err := s.known(ctx, f)
	if err != nil {
		fail(w, err)
		return
	}
	candidates := objectsIn(known)
	if len(candidates) > 1 {
		var names []string
		for _, o := range candidates[:min(len(candidates), maxCandidates)] {
			names = append(names, o.String())
		}
		refuse(w, http.StatusConflict, fmt.Errorf("%s/%s may be one of %s: say the namespace, or the whole kind", q.Kind, q.Name, strings.Join(names, ", ")))
		return
	}
	if len(candidates) == 1 {
		f.Namespace = candidates[0].Namespace
	}
	e, err := s.evidence(ctx, q, f, known)
	if err != nil {
		fail(w, err)
		return
	}
	if err := s.onlySeen(ctx, &e); err != nil {
		fail(w, err)
		return
	}
	a := history.Decide(q, e)
	if len(candidates) == 1 {
		a.Object = candidates[0]
	}
	answerJSON(w, a)
}

// maxCandidates is how many objects are told that somebody may mean.
const maxCandidates = 20

// known gives the objects that somebody may mean by a name, of the apps that who is in front may see.
func (s *pipelines) known(ctx context.Context, f store.ObjectFilter) ([]store.KnownObject, error) {
	all, err := s.Store.ObjectsOf(ctx, f)
	if err != nil {
		return nil, err
	}
	return visible(ctx, s.Authorize, all, func(o store.KnownObject) Target { return appTarget(o.App) })
}

// objectsIn gives each object once.
func objectsIn(known []store.KnownObject) []history.Object {
	var out []history.Object
	for _, k := range known {
		if !slices.Contains(out, k.Object) {
			out = append(out, k.Object)
		}
	}
	return out
}

// onlySeen leaves of what is known what is of projects that who is in front may see. The steps and the repairs are of apps that may be seen
// already, and so is what belongs to the first step.
func (s *pipelines) onlySeen(ctx context.Context, e *history.Evidence) (err error) {
	sees := s.may.pipelines(ctx)
	hidden := func(pipeline int64) bool {
		ok, serr := sees(pipeline)
		err = errors.Join(err, serr)
		return !ok
	}
	e.Pipelines = slices.DeleteFunc(e.Pipelines, func(p history.Pipeline) bool { return hidden(p.ID) })
	e.Jobs = slices.DeleteFunc(e.Jobs, func(j history.JobWrite) bool { return hidden(j.Pipeline) })
	e.Approvals = slices.DeleteFunc(e.Approvals, func(a history.Approval) bool { return a.Pipeline != 0 && hidden(a.Pipeline) })
	if e.Pusher != nil && hidden(e.Pusher.Pipeline) {
		e.Pusher = nil
	}
	return err
}

// appTarget is what RBAC calls an app.
func appTarget(a history.App) Target { return TargetOf(a.Kind, a.Namespace, a.Name) }

// evidence gathers what is known about an object: by the apps that may be seen, and by all jobs.
func (s *pipelines) evidence(ctx context.Context, q history.Question, f store.ObjectFilter, known []store.KnownObject) (e history.Evidence, err error) {
	if e.Begins, err = s.Store.HistoryBegins(ctx); err != nil {
		return e, err
	}
	if e.Steps, err = s.steps(ctx, q.Field, f, known, 1+history.MaxEarlier); err != nil {
		return e, err
	}
	if e.Jobs, err = s.Store.WrittenBy(ctx, f); err != nil {
		return e, err
	}
	wanted := store.RepairFilter{Kinds: f.Kinds, Namespace: f.Namespace, Name: f.Name, To: q.At}
	if len(e.Steps) > 0 {
		wanted.From = e.Steps[0].Delivery.Began
	}
	if e.Repairs, _, err = s.repairsOf(ctx, wanted, history.MaxEarlier, func(r history.Repair) bool { return history.Concerns(q, r) }); err != nil || len(e.Steps) == 0 {
		return e, err
	}
	d := e.Steps[0].Delivery
	if e.Parts, err = s.Store.Parts(ctx, d.ID); err != nil {
		return e, err
	}
	if d.Trigger == history.BySpec || d.SHA == "" {
		of := store.ObjectFilter{Kinds: []string{strings.ToLower(d.App.Kind)}, Namespace: d.App.Namespace, Name: d.App.Name, At: d.Began}
		known, err := s.known(ctx, of)
		if err != nil {
			return e, err
		}
		declared, err := s.steps(ctx, "", of, known, 1)
		if err != nil {
			return e, err
		}
		if len(declared) > 0 {
			e.Declaration = &declared[0]
		}
	}
	if d.SHA == "" {
		return e, nil
	}
	if e.Approvals, err = s.Store.Plays(ctx, d.SHA); err != nil {
		return e, err
	}
	for _, c := range append(history.Authors(q, e.Steps[0].Change, e.Parts), d.Commit) {
		if e.Pusher, err = s.Store.PushedBy(ctx, c.SHA); err != nil || e.Pusher != nil {
			break
		}
	}
	if err != nil {
		return e, err
	}
	played, err := s.Store.Pipelines(ctx, store.PipelineFilter{SHA: d.SHA, Top: true, Limit: 10})
	if err != nil {
		return e, err
	}
	paths, err := s.paths(ctx)
	for _, p := range played {
		e.Pipelines = append(e.Pipelines, history.Pipeline{ID: p.ID, Project: paths[p.Project], Status: p.Status, User: p.User, Finished: p.Finished})
	}
	return e, err
}

// steps gives the last changes of an object, by the apps in known, that have to do with a field, the newest first.
func (s *pipelines) steps(ctx context.Context, field string, f store.ObjectFilter, known []store.KnownObject, most int) ([]history.Step, error) {
	apps := map[history.App]bool{}
	for _, k := range known {
		apps[k.App] = true
	}
	var changes []store.ObjectChange
	err := s.Store.ChangesOf(ctx, f, func(c store.ObjectChange) bool {
		if apps[c.App] && history.Relevant(field, c.Change) {
			changes = append(changes, c)
		}
		return len(changes) < most
	})
	var out []history.Step
	for _, c := range changes {
		if err != nil {
			return nil, err
		}
		step := history.Step{Change: c.Change}
		step.Delivery, err = s.Store.Delivery(ctx, c.Delivery)
		if errors.Is(err, store.ErrNotFound) { // it was let go of meanwhile
			err = nil
			continue
		}
		step.Delivery.Changes = nil
		out = append(out, step)
	}
	return out, err
}
