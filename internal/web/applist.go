package web

import (
	"cmp"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"
)

// AppList is a page of apps.
type AppList struct {
	Apps   []App         `json:"apps"`
	Total  int           `json:"total"`          // that match, on all pages
	Counts map[State]int `json:"counts"`         // how many are in which state of those that match but for the state
	Next   string        `json:"next,omitempty"` // after=NEXT gives the next page; empty: this is the last one
}

// The kinds of apps, as ids have them.
var appKinds = []string{"Kustomization", "HelmRelease", "Application"}

// states in the order in which they are sorted: what needs somebody first.
var states = []State{Failing, OutOfSync, Working, Unknown, Suspended, Ready}

// Bounds of what may be asked for.
const (
	maxQuery  = 4 << 10 // bytes of a query
	maxSearch = 200     // bytes of q
	maxChosen = 50      // values of one filter
	pageSize  = 100     // of a list, where nobody says
	maxPage   = 1000
)

// appQuery is what somebody wants to see of the apps.
type appQuery struct {
	words                           []string // in lower case; all of them are in what is found
	states                          map[State]bool
	kinds, namespaces, environments map[string]bool
	sort                            string
	descending                      bool
	limit                           int
	after                           *cursor
	sees                            func(kind, namespace string) bool
}

// cursor is a place in a sorted list: behind what has this key and this id. It holds after changes.
type cursor struct {
	Sort string `json:"s"`
	Key  string `json:"k"`
	ID   string `json:"i"`
}

func (c cursor) String() string {
	text, err := json.Marshal(c)
	if err != nil {
		return "" // three strings can always be encoded
	}
	return base64.RawURLEncoding.EncodeToString(text)
}

// sortKeys give what apps are sorted by; equal ones are sorted by namespace, name and kind.
var sortKeys = map[string]func(*listed) string{
	"name":        func(l *listed) string { return l.Name },
	"namespace":   func(*listed) string { return "" },
	"kind":        func(l *listed) string { return l.Kind },
	"environment": func(l *listed) string { return l.Environment },
	"state":       func(l *listed) string { return strconv.Itoa(slices.Index(states, l.State) + 1) },
	"since":       func(l *listed) string { return timeKey(l.Since) },
	"created":     func(l *listed) string { return timeKey(l.Created) },
}

// timeKey gives a time as a text that sorts as times do.
func timeKey(t time.Time) string {
	if t.IsZero() {
		return ""
	}
	return t.UTC().Format("2006-01-02T15:04:05.000000000")
}

// query reads the query of a request, of which only these parameters may be there.
func query(r *http.Request, known ...string) (url.Values, error) {
	if len(r.URL.RawQuery) > maxQuery {
		return nil, fmt.Errorf("the query has %d bytes: at most %d are read", len(r.URL.RawQuery), maxQuery)
	}
	q, err := url.ParseQuery(r.URL.RawQuery)
	if err != nil {
		return nil, fmt.Errorf("read the query: %w", err)
	}
	for name, values := range q {
		if !slices.Contains(known, name) {
			return nil, fmt.Errorf("there is no parameter %.40q here: there are %s", name, strings.Join(known, ", "))
		}
		if len(values) > maxChosen {
			return nil, fmt.Errorf("%s is there %d times: at most %d", name, len(values), maxChosen)
		}
	}
	return q, nil
}

// chosen reads a filter: its values, repeated or with commas; none: all.
func chosen(q url.Values, name string) (map[string]bool, error) {
	var out map[string]bool
	for _, text := range q[name] {
		for v := range strings.SplitSeq(text, ",") {
			if v == "" {
				continue
			}
			if out == nil {
				out = map[string]bool{}
			}
			out[v] = true
		}
	}
	if len(out) > maxChosen {
		return nil, fmt.Errorf("%s has %d values: at most %d", name, len(out), maxChosen)
	}
	return out, nil
}

func readAppQuery(r *http.Request) (appQuery, error) {
	var o appQuery
	q, err := query(r, "q", "state", "kind", "namespace", "environment", "sort", "after", "limit")
	if err != nil {
		return o, err
	}
	if text := q.Get("q"); len(text) > maxSearch {
		return o, fmt.Errorf("q has %d bytes: at most %d are searched for", len(text), maxSearch)
	}
	o.words = strings.Fields(strings.ToLower(q.Get("q")))
	for name, into := range map[string]*map[string]bool{"kind": &o.kinds, "namespace": &o.namespaces, "environment": &o.environments} {
		if *into, err = chosen(q, name); err != nil {
			return o, err
		}
	}
	for kind := range o.kinds {
		if !slices.Contains(appKinds, kind) {
			return o, fmt.Errorf("%.60q is no kind of apps: they are %s", kind, strings.Join(appKinds, ", "))
		}
	}
	chosenStates, err := chosen(q, "state")
	if err != nil {
		return o, err
	}
	for s := range chosenStates {
		if !slices.Contains(states, State(s)) {
			return o, fmt.Errorf("%.60q is no state: they are %s", s, joinStates())
		}
		if o.states == nil {
			o.states = map[State]bool{}
		}
		o.states[State(s)] = true
	}
	return o, o.readPage(q)
}

func joinStates() string {
	names := make([]string, len(states))
	for i, s := range states {
		names[i] = string(s)
	}
	return strings.Join(names, ", ")
}

// readPage reads how the list is sorted, and which part of it is wanted.
func (o *appQuery) readPage(q url.Values) error {
	o.sort = cmp.Or(q.Get("sort"), "namespace")
	name, descending := strings.CutPrefix(o.sort, "-")
	if o.descending = descending; sortKeys[name] == nil {
		return fmt.Errorf("nothing can be sorted by %.40q: by name, namespace, kind, environment, state, since or created, with - before it downwards", o.sort)
	}
	o.limit = pageSize
	if text := q.Get("limit"); text != "" {
		n, err := strconv.Atoi(text)
		if err != nil || n < 1 {
			return fmt.Errorf("limit: %.40q is no number above 0", text)
		}
		o.limit = min(n, maxPage)
	}
	if text := q.Get("after"); text != "" {
		var c cursor
		raw, err := base64.RawURLEncoding.DecodeString(text)
		if err != nil || json.Unmarshal(raw, &c) != nil {
			return errors.New("after: this is no cursor that this server has given")
		}
		if c.Sort != o.sort {
			return fmt.Errorf("after: the cursor is of a list sorted by %.40q", c.Sort)
		}
		o.after = &c
	}
	return nil
}

// matches tells whether an app is wanted, whatever its state.
func (o *appQuery) matches(l *listed) bool {
	if o.kinds != nil && !o.kinds[l.Kind] || o.namespaces != nil && !o.namespaces[l.Namespace] ||
		o.environments != nil && !o.environments[l.Environment] || o.sees != nil && !o.sees(l.Kind, l.Namespace) {
		return false
	}
	for _, word := range o.words {
		if !strings.Contains(l.text, word) {
			return false
		}
	}
	return true
}

// keyed is an app with what it is sorted by.
type keyed struct {
	*listed
	key string
}

// list gives a page of apps, which come in the order of namespace and name.
func (o *appQuery) list(all []*listed) AppList {
	out := AppList{Apps: []App{}, Counts: map[State]int{}}
	name := strings.TrimPrefix(o.sort, "-")
	key := sortKeys[name]
	var found []keyed
	for _, l := range all {
		if !o.matches(l) {
			continue
		}
		out.Counts[l.State]++
		if o.states == nil || o.states[l.State] {
			found = append(found, keyed{l, key(l)})
		}
	}
	out.Total = len(found)
	order := func(a, b keyed) int { return cmp.Or(strings.Compare(a.key, b.key), byPlace(a.listed, b.listed)) }
	if o.descending {
		up := order
		order = func(a, b keyed) int { return up(b, a) }
	}
	if name != "namespace" || o.descending {
		slices.SortFunc(found, order)
	}
	if o.after != nil {
		found = found[o.behind(found, order):]
	}
	if len(found) > o.limit {
		found = found[:o.limit]
		last := found[o.limit-1]
		out.Next = cursor{o.sort, last.key, last.ID}.String()
	}
	for _, l := range found {
		out.Apps = append(out.Apps, l.App)
	}
	return out
}

// behind gives the place of the first app behind the cursor.
func (o *appQuery) behind(found []keyed, order func(a, b keyed) int) int {
	kind, namespace, name, _ := cutID(o.after.ID)
	at := keyed{&listed{App: App{Status: Status{Kind: kind, Namespace: namespace, Name: name}}}, o.after.Key}
	n, there := slices.BinarySearchFunc(found, at, order)
	if there {
		n++
	}
	return n
}
