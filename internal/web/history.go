package web

import (
	"context"
	"errors"
	"fmt"
	"net/http"
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

// pageOf is how many rows somebody asks for.
func pageOf(limit int64) int {
	if limit <= 0 {
		return 20
	}
	return int(min(limit, 1000))
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
	f.Limit = pageOf(limit)
	all, err := s.Store.Deliveries(ctx, f)
	if errors.Is(err, store.ErrTooLarge) {
		refuse(w, http.StatusBadRequest, err)
		return
	}
	if err != nil {
		fail(w, err)
		return
	}
	out := DeliveryList{Deliveries: append([]history.Delivery{}, all...)}
	if len(all) == f.Limit {
		out.Next = all[len(all)-1].ID
	}
	answerJSON(w, out)
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
	answerJSON(w, d)
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
	f.Limit = pageOf(limit)
	all, err := s.Store.Repairs(ctx, f)
	if err != nil {
		fail(w, err)
		return
	}
	out := RepairList{Repairs: append([]history.Repair{}, all...)}
	if len(all) == f.Limit {
		out.Next = all[len(all)-1].ID
	}
	answerJSON(w, out)
}
