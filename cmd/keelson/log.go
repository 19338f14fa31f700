package main

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"keelson.dev/keelson/internal/history"
	"keelson.dev/keelson/internal/pipeline/show"
	"keelson.dev/keelson/internal/web"
)

type logOptions struct {
	app, author, object, query, since, environment string
	only                                           []string
	limit                                          int
	follow                                         bool
}

// The kinds of what a log tells.
const logDeliveries, logRepairs, logPipelines = "deliveries", "repairs", "pipelines"

func logCommand(g *global) *cobra.Command {
	var opts logOptions
	cmd := &cobra.Command{
		Use:     "log",
		Short:   "List what was delivered, repaired and played last, and follow what comes",
		Example: "  keelson log --since 2h\n  keelson log --only repairs\n  keelson log --author Ann --follow",
		Args:    args(cobra.NoArgs),
		RunE:    func(cmd *cobra.Command, _ []string) error { return runLog(cmd.Context(), g, opts) },
	}
	f := cmd.Flags()
	f.StringVar(&opts.app, "app", "", "only of this `app`, as its name, namespace/name or Kind/namespace/name")
	f.StringVar(&opts.author, "author", "", "only deliveries of commits of this `author`")
	f.StringVar(&opts.environment, "environment", "", "only deliveries to this `environment`")
	f.StringVar(&opts.object, "object", "", "only what changed this `object`, as KIND/NAMESPACE/NAME")
	f.StringVarP(&opts.query, "query", "q", "", "only deliveries with these `words` in title, author, app, merge request or commit")
	f.StringVar(&opts.since, "since", "", "only what began since this `time`, as 2h or 2026-03-01")
	f.StringSliceVar(&opts.only, "only", nil, "only these `kinds`: deliveries, repairs, pipelines")
	f.IntVar(&opts.limit, "limit", 20, "how many at most")
	f.BoolVarP(&opts.follow, "follow", "f", false, "go on with what comes")
	return cmd
}

// logEntry is one line of the log.
type logEntry struct {
	Time     time.Time           `json:"time"`
	Kind     string              `json:"kind"` // delivery, repair or pipeline
	Delivery *history.Delivery   `json:"delivery,omitempty"`
	Repair   *history.Repair     `json:"repair,omitempty"`
	Pipeline *web.ListedPipeline `json:"pipeline,omitempty"`
}

// filters are those of the deliveries and of the repairs; nil: none of them are asked for.
func (o logOptions) filters(ctx context.Context, g *global, now time.Time) (deliveries, repairs url.Values, pipelines bool, err error) {
	for _, kind := range o.only {
		if !slices.Contains([]string{logDeliveries, logRepairs, logPipelines}, kind) {
			return nil, nil, false, usagef("--only %s: it takes deliveries, repairs and pipelines", kind)
		}
	}
	wants := func(kind string) bool { return len(o.only) == 0 || slices.Contains(o.only, kind) }
	q := url.Values{}
	if o.since != "" {
		since, err := timeSaid(o.since, now)
		if err != nil {
			return nil, nil, false, withCode(exitUsage, err)
		}
		q.Set("from", since.UTC().Format(time.RFC3339Nano))
	}
	if o.app != "" {
		app, err := g.appNamed(ctx, o.app)
		if err != nil {
			return nil, nil, false, err
		}
		q.Set("app", app.String())
	}
	if o.object != "" {
		q.Set("object", o.object)
	}
	onlyDeliveries := o.author != "" || o.query != "" || o.environment != ""
	if wants(logRepairs) && !onlyDeliveries {
		repairs = url.Values{}
		for name, values := range q {
			repairs[name] = values
		}
	}
	pipelines = wants(logPipelines) && !onlyDeliveries && o.app == "" && o.object == ""
	for name, value := range map[string]string{"author": o.author, "q": o.query, "environment": o.environment} {
		if value != "" {
			q.Set(name, value)
		}
	}
	if wants(logDeliveries) {
		deliveries = q
	}
	return deliveries, repairs, pipelines, nil
}

// appNamed gives the app that a person names; one that is gone has to be named in full.
func (g *global) appNamed(ctx context.Context, arg string) (history.App, error) {
	if app, ok := history.ParseApp(arg); ok {
		return app, nil
	}
	c, err := g.client()
	if err != nil {
		return history.App{}, err
	}
	app, err := findApp(ctx, c, g.namespace, arg)
	if err != nil {
		return history.App{}, err
	}
	return history.App(app.id()), nil
}

func runLog(ctx context.Context, g *global, opts logOptions) error {
	if opts.follow && g.output != "" && g.output != "json" && g.output != "wide" {
		return usagef("--follow prints text or, with -o json, JSON lines")
	}
	l := &logReader{g: g, opts: opts, told: map[string]string{}}
	var err error
	if l.deliveries, l.repairs, l.pipelines, err = opts.filters(ctx, g, time.Now()); err != nil {
		return err
	}
	if opts.follow {
		return l.follow(ctx)
	}
	all, err := l.read(ctx)
	if err != nil {
		return fmt.Errorf("read the log: %w", err)
	}
	return g.print(map[string]any{"entries": all}, func(w io.Writer) error {
		t := newTable(w, g.output == "wide", "TIME", "WHAT", "OF", "STATUS", "BY", "COMMIT", "TITLE", "|", "ID")
		for _, e := range all {
			t.row(e.cells()...)
		}
		return t.flush()
	})
}

// logReader reads and follows the log.
type logReader struct {
	g                   *global
	opts                logOptions
	deliveries, repairs url.Values
	pipelines           bool
	told                map[string]string // what was said of each last, by its kind and number
	err                 error
}

// pages asks for as many rows as are wanted, page by page; page gives where the next one begins, 0: nowhere.
func (l *logReader) pages(q url.Values, page func(url.Values) (next int64, err error)) error {
	q = maps.Clone(q)
	for left := max(1, min(l.opts.limit, 1000)); left > 0; left -= web.HistoryPage {
		q.Set("limit", strconv.Itoa(min(left, web.HistoryPage)))
		next, err := page(q)
		if err != nil || next == 0 {
			return err
		}
		q.Set("before", strconv.FormatInt(next, 10))
	}
	return nil
}

// read gives the last entries, the newest first.
func (l *logReader) read(ctx context.Context) ([]logEntry, error) {
	all := []logEntry{}
	if l.deliveries != nil {
		err := l.pages(l.deliveries, func(q url.Values) (next int64, err error) {
			var list web.DeliveryList
			_, err = l.g.callAPI(ctx, http.MethodGet, web.PipelinesPath+"deliveries?"+q.Encode(), nil, &list)
			for i, d := range list.Deliveries {
				all = append(all, logEntry{Time: d.Began, Kind: "delivery", Delivery: &list.Deliveries[i]})
			}
			return list.Next, err
		})
		if err != nil {
			return nil, err
		}
	}
	if l.repairs != nil {
		err := l.pages(l.repairs, func(q url.Values) (next int64, err error) {
			var list web.RepairList
			_, err = l.g.callAPI(ctx, http.MethodGet, web.PipelinesPath+"repairs?"+q.Encode(), nil, &list)
			for i, r := range list.Repairs {
				all = append(all, logEntry{Time: r.Repaired, Kind: "repair", Repair: &list.Repairs[i]})
			}
			return list.Next, err
		})
		if err != nil {
			return nil, err
		}
	}
	if l.pipelines {
		var list web.PipelineList
		if _, err := l.g.callAPI(ctx, http.MethodGet, web.PipelinesPath+"pipelines?limit="+strconv.Itoa(max(1, min(l.opts.limit, 1000))), nil, &list); err != nil {
			return nil, err
		}
		since := time.Time{}
		if l.opts.since != "" {
			since, _ = timeSaid(l.opts.since, time.Now()) // it was read before
		}
		for i, p := range list.Pipelines {
			if !p.Created.Before(since) {
				all = append(all, logEntry{Time: p.Created, Kind: "pipeline", Pipeline: &list.Pipelines[i]})
			}
		}
	}
	slices.SortStableFunc(all, func(a, b logEntry) int { return b.Time.Compare(a.Time) })
	return all[:min(len(all), max(1, l.opts.limit))], nil
}

func (e logEntry) cells() []string {
	at := e.Time.Local().Format(time.DateTime)
	switch {
	case e.Delivery != nil:
		d := e.Delivery
		status := d.Status
		if d.Health != "" && d.Status == history.Succeeded {
			status += ", " + strings.ToLower(d.Health)
		}
		return []string{
			at, d.Trigger, d.App.Kind + "/" + d.App.Namespace + "/" + d.App.Name, status, show.Plain(cmp.Or(d.Actor, d.Author, "-")), cmp.Or(short(d.SHA), show.Plain(d.Revision)),
			show.Plain(cmp.Or(d.Title, "-")), strconv.FormatInt(d.ID, 10),
		}
	case e.Repair != nil:
		r := e.Repair
		return []string{at, "repair", r.Object.String(), "repaired ×" + strconv.Itoa(r.Times), show.Plain(cmp.Or(r.Manager, "-")), cmp.Or(short(r.SHA), "-"), show.Plain(repairText(*r)), strconv.FormatInt(r.ID, 10)}
	default:
		p := e.Pipeline
		return []string{at, "pipeline", show.Plain(p.ProjectPath) + "/" + strconv.FormatInt(p.ID, 10), p.Status, show.Plain(cmp.Or(p.User, p.Author, "-")), short(p.SHA), show.Plain(cmp.Or(p.Title, "-")), strconv.FormatInt(p.ID, 10)}
	}
}

// key tells entries apart, state what is told of one only once.
func (e logEntry) key() (key, state string) {
	switch {
	case e.Delivery != nil:
		return fmt.Sprint("delivery ", e.Delivery.ID), e.Delivery.Status
	case e.Repair != nil:
		return fmt.Sprint("repair ", e.Repair.ID), strconv.Itoa(e.Repair.Times)
	default:
		state := "begun"
		if !e.Pipeline.Finished.IsZero() {
			state = e.Pipeline.Status
		}
		return fmt.Sprint("pipeline ", e.Pipeline.ID), state
	}
}

// follow tells the last entries, the oldest first, and then what comes.
func (l *logReader) follow(ctx context.Context) error {
	err := l.g.stream(ctx, web.PipelinesPath+"events", func(event string, _ []byte) bool {
		switch event {
		case web.EventReady, web.EventReset, "delivery", "repair", "pipeline":
			l.err = l.tell(ctx)
		}
		return l.err == nil
	})
	if ctx.Err() != nil {
		return nil
	}
	return cmp.Or(l.err, err)
}

// tell reads the newest entries, and writes what is new.
func (l *logReader) tell(ctx context.Context) error {
	all, err := l.read(ctx)
	if err != nil {
		return err
	}
	for _, e := range slices.Backward(all) {
		key, state := e.key()
		if l.told[key] == state {
			continue
		}
		l.told[key] = state
		if l.g.output == "json" {
			b, err := json.Marshal(e)
			if err != nil {
				return err
			}
			fmt.Fprintln(l.g.out, string(b))
			continue
		}
		cells := e.cells()
		fmt.Fprintln(l.g.out, strings.Join(cells[:len(cells)-1], "  "))
	}
	return nil
}

// printDeliveries lists the deliveries of an app, the newest last.
func printDeliveries(ctx context.Context, g *global, app history.App) error {
	q := url.Values{"app": {app.String()}, "limit": {"100"}}
	var list web.DeliveryList
	if _, err := g.callAPI(ctx, http.MethodGet, web.PipelinesPath+"deliveries?"+q.Encode(), nil, &list); err != nil {
		return fmt.Errorf("history of %s: %w", app, err)
	}
	slices.Reverse(list.Deliveries)
	if len(list.Deliveries) == 0 && g.output == "" {
		return printf("no deliveries of %s are known", app)(g.out)
	}
	return g.print(list, func(w io.Writer) error {
		t := newTable(w, g.output == "wide", "ID", "BEGAN", "COMMIT", "STATUS", "HEALTH", "BY", "CHANGED", "TITLE", "|", "TRIGGER", "MERGED", "APPROVED", "TOOK")
		for _, d := range list.Deliveries {
			t.row(strconv.FormatInt(d.ID, 10), d.Began.Local().Format(time.DateTime), cmp.Or(short(d.SHA), show.Plain(d.Revision)), d.Status, cmp.Or(d.Health, "-"),
				show.Plain(cmp.Or(d.Actor, d.Author, "-")), strconv.Itoa(d.Objects), show.Plain(cmp.Or(d.Title, "-")), d.Trigger, show.Plain(cmp.Or(d.MergeRequest, "-")),
				show.Plain(cmp.Or(strings.Join(d.Approvers, ", "), "-")), took(d.Began, d.Finished))
		}
		return t.flush()
	})
}
