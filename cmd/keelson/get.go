package main

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync"
	"time"

	helmv2 "github.com/fluxcd/helm-controller/api/v2"
	kustomizev1 "github.com/fluxcd/kustomize-controller/api/v1"
	"github.com/liggitt/tabwriter" // the standard library's, with memory for widths: kubectl's choice for watches
	"github.com/spf13/cobra"
	"sigs.k8s.io/controller-runtime/pkg/client"

	argocdv1 "keelson.dev/keelson/api/argocd/v1alpha1"
	"keelson.dev/keelson/internal/delivery"
	"keelson.dev/keelson/internal/pipeline/show"
	"keelson.dev/keelson/internal/web"
)

func getCommand(g *global) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "get",
		Short: "List apps, Helm releases, sources, ApplicationSets, Alerts or Providers and how they are doing",
		Args:  args(cobra.NoArgs),
		RunE: func(*cobra.Command, []string) error {
			return withCode(exitUsage, hintf(fmt.Errorf("get what?"), "keelson get apps, releases, sources, appsets, alerts or providers"))
		},
	}
	for _, l := range []listing{appListing, sourceListing, appSetListing, alertListing, providerListing} {
		cmd.AddCommand(l.command(g))
	}
	cmd.AddCommand(releasesCommand(g))
	return cmd
}

// listing is one of the things that keelson get lists.
type listing struct {
	use, short string
	aliases    []string
	key        string   // of the list in JSON
	headings   []string // of the table
	kinds      []listedKind
	// of gives an object as it is printed: what all have in common, the value for JSON and YAML, the cells of the table.
	of func(obj client.Object) (status web.Status, value func(web.Status) any, cells func(s web.Status, whole bool) []string)
}

// listedKind is one of the kinds of a listing.
type listedKind struct {
	names []string // aliases of the command that list this kind only
	list  func() client.ObjectList
	other bool // a cluster may do without it
}

var appListing = listing{
	use: "apps", short: "List the apps", aliases: []string{"app", "kustomizations", "ks", "applications", "helmreleases", "hr"}, key: "apps",
	headings: []string{"NAMESPACE", "NAME", "STATE", "REVISION", "AGE", "MESSAGE", "|", "KIND", "SOURCE", "PATH", "OBJECTS", "SYNC", "HEALTH", "AUTHOR", "TITLE"},
	kinds: []listedKind{
		{names: []string{"kustomizations", "ks"}, list: func() client.ObjectList { return &kustomizev1.KustomizationList{} }},
		{names: []string{"applications"}, list: func() client.ObjectList { return &argocdv1.ApplicationList{} }, other: true},
		{names: []string{"helmreleases", "hr"}, list: func() client.ObjectList { return &helmv2.HelmReleaseList{} }, other: true},
	},
	of: func(obj client.Object) (web.Status, func(web.Status) any, func(web.Status, bool) []string) {
		var a web.App
		switch obj := obj.(type) {
		case *kustomizev1.Kustomization:
			a = appOf(obj)
		case *argocdv1.Application:
			a = appOfArgo(obj)
		case *helmv2.HelmRelease:
			a = appOfHelm(obj)
		default:
			return web.Status{}, nil, nil
		}
		return a.Status, func(s web.Status) any { a.Status = s; return a }, func(s web.Status, whole bool) []string {
			return append(cellsOf(s, whole), a.Kind, a.Source, a.Path, fmt.Sprint(a.Objects), cmp.Or(a.Sync, "-"), cmp.Or(a.Health, "-"), "-", "-")
		}
	},
}

var sourceListing = listing{
	use: "sources", short: "List the sources", aliases: []string{"source", "gitrepositories", "ocirepositories", "helmrepositories", "helmcharts"}, key: "sources",
	headings: []string{"NAMESPACE", "NAME", "STATE", "REVISION", "AGE", "MESSAGE", "|", "KIND", "URL", "REF"},
	kinds:    sourceKinds,
	of: func(obj client.Object) (web.Status, func(web.Status) any, func(web.Status, bool) []string) {
		if partsOf(obj).kind == "" {
			return web.Status{}, nil, nil
		}
		src := sourceOf(obj)
		return src.Status, func(s web.Status) any { src.Status = s; return src }, func(s web.Status, whole bool) []string {
			return append(cellsOf(s, whole), src.Kind, src.URL, src.Ref)
		}
	},
}

func cellsOf(s web.Status, whole bool) []string {
	return []string{s.Namespace, s.Name, string(s.State), shortRevision(s.Revision), ageOf(s.Created), message(s, whole)}
}

func (l listing) command(g *global) *cobra.Command {
	var watching bool
	cmd := &cobra.Command{
		Use: l.use, Aliases: l.aliases, Short: l.short, Args: args(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			return runGet(cmd.Context(), g, l.only(cmd.CalledAs()), watching)
		},
	}
	cmd.Flags().BoolVarP(&watching, "watch", "w", false, "go on, and print what changes as it changes")
	return cmd
}

// only gives the listing as it was called: by a name of one of its kinds, it lists that one.
func (l listing) only(name string) listing {
	for _, k := range l.kinds {
		if slices.Contains(k.names, name) {
			l.kinds = []listedKind{k}
		}
	}
	return l
}

// all lists the objects of every kind, sorted.
func (l listing) all(ctx context.Context, c client.Reader, opts ...client.ListOption) ([]client.Object, error) {
	var all []client.Object
	for _, k := range l.kinds {
		objects, _, err := listAll(ctx, c, k.list(), opts...)
		if err != nil && (!k.other || !isMissingKind(err)) {
			return nil, explainAPI(fmt.Errorf("list %s: %w", l.use, err))
		}
		all = append(all, objects...)
	}
	slices.SortStableFunc(all, byObjectName)
	return all, nil
}

func runGet(ctx context.Context, g *global, l listing, watching bool) error {
	c, err := g.client()
	if err != nil {
		return err
	}
	if watching {
		return runGetWatch(ctx, g, c, l)
	}
	objects, err := l.all(ctx, c, client.InNamespace(g.namespace))
	if err != nil {
		return err
	}
	values := []any{}
	for _, obj := range objects {
		status, value, _ := l.of(obj)
		values = append(values, value(status))
	}
	if l.key == appListing.key && g.output != "" {
		nameCommits(ctx, g, values)
	}
	return g.print(map[string]any{l.key: values}, func(w io.Writer) error {
		if len(objects) == 0 {
			return printf("no %s", l.use)(w)
		}
		t := newTable(w, g.output == "wide", l.headings...)
		for i, obj := range objects {
			status, _, cells := l.of(obj)
			row := cells(status, t.wide)
			if a, ok := values[i].(web.App); ok {
				row[len(row)-2], row[len(row)-1] = show.Plain(cmp.Or(a.Author, "-")), show.Plain(cmp.Or(a.Title, "-"))
			}
			t.row(row...)
		}
		return t.flush()
	})
}

// commitPatience is how long the instance may take to say what the commits of apps are.
const commitPatience = 3 * time.Second

// nameCommits adds to apps what their commits say, as far as an instance is there and knows it: the cluster does not.
func nameCommits(ctx context.Context, g *global, apps []any) {
	ctx, cancel := context.WithTimeout(ctx, commitPatience)
	defer cancel()
	known := map[string]web.App{}
	for after := ""; ; {
		var page web.AppList
		if _, err := g.callAPI(ctx, http.MethodGet, "/api/v1/apps?limit=1000&after="+url.QueryEscape(after), nil, &page); err != nil {
			break
		}
		for _, a := range page.Apps {
			known[a.ID] = a
		}
		if after = page.Next; after == "" {
			break
		}
	}
	for i, v := range apps {
		a, ok := v.(web.App)
		if said := known[a.ID]; ok && said.SHA == a.SHA {
			a.Author, a.Title = said.Author, said.Title
			apps[i] = a
		}
	}
}

// deletedState is shown once, for what has gone while it was watched.
const deletedState web.State = "Deleted"

// runGetWatch prints what there is and then every line that has changed: a table, or one JSON object a line, or YAML documents.
func runGetWatch(ctx context.Context, g *global, c client.WithWatch, l listing) error {
	var t *table
	if g.output == "" || g.output == "wide" {
		t = newTable(g.out, g.output == "wide", l.headings...)
	}
	var mu sync.Mutex // the kinds are followed at once
	last := map[string]string{}
	show := func(obj client.Object, gone bool) error {
		status, value, cells := l.of(obj)
		if gone {
			status.State = deletedState
		}
		v := value(status)
		text, err := json.Marshal(v)
		if err != nil {
			return fmt.Errorf("print %s/%s: %w", status.Namespace, status.Name, err)
		}
		mu.Lock()
		defer mu.Unlock()
		key := status.Kind + "/" + client.ObjectKeyFromObject(obj).String()
		if last[key] == string(text) {
			return nil
		}
		last[key] = string(text)
		if gone {
			delete(last, key)
		}
		return g.printRow(t, v, func(whole bool) []string { return cells(status, whole) })
	}
	flush := func() error {
		mu.Lock()
		defer mu.Unlock()
		if t == nil {
			return nil
		}
		return t.flush()
	}
	following, stop := context.WithCancelCause(ctx)
	defer stop(nil)
	var all sync.WaitGroup
	for _, k := range l.kinds {
		all.Go(func() {
			err := followKind(following, c, k.list, []client.ListOption{client.InNamespace(g.namespace)}, follower{show: show, flush: flush})
			if !k.other || !isMissingKind(err) {
				stop(err)
			}
		})
	}
	all.Wait()
	if ctx.Err() != nil {
		return nil // that is how a watch ends
	}
	return explainAPI(context.Cause(following))
}

// printRow prints one value of a series: a line of the table, or JSON on a line of its own, or a YAML document.
func (g *global) printRow(t *table, v any, cells func(whole bool) []string) error {
	switch {
	case t != nil:
		t.row(cells(t.wide)...)
		return t.err
	case g.output == "json":
		return json.NewEncoder(g.out).Encode(v)
	default:
		if _, err := io.WriteString(g.out, "---\n"); err != nil {
			return err
		}
		return g.print(v, nil)
	}
}

func shortRevision(s string) string {
	if r := delivery.ParseRevision(s).Short(); r != "" {
		return r
	}
	if s == "" {
		return "-"
	}
	parts := strings.Split(s, ", ") // an Application may have several
	for i, part := range parts {
		if len(part) == 40 && isCommit(part) {
			parts[i] = part[:7]
		}
	}
	return strings.Join(parts, ", ")
}

// message is what the Ready condition says, with the warnings; on one line, cut unless all of it was asked for.
func message(s web.Status, whole bool) string {
	text := strings.Join(append([]string{s.Message}, s.Warnings...), "; ")
	text = strings.Trim(strings.Join(strings.Fields(text), " "), "; ")
	if s.State == web.Failing {
		text = s.Reason + ": " + text
	}
	const most = 90
	if r := []rune(text); !whole && len(r) > most {
		return string(r[:most-1]) + "…"
	}
	return text
}

// table lines columns up, also those of rows that come after a flush; columns after the heading "|" are shown only when it is wide.
type table struct {
	w      *tabwriter.Writer
	wide   bool
	narrow int // columns when not wide
	err    error
}

func newTable(w io.Writer, wide bool, headings ...string) *table {
	t := &table{w: tabwriter.NewWriter(w, 0, 0, 3, ' ', tabwriter.RememberWidths), wide: wide, narrow: len(headings)}
	for i, h := range headings {
		if h == "|" {
			headings, t.narrow = append(headings[:i:i], headings[i+1:]...), i
			break
		}
	}
	t.row(headings...)
	return t
}

func (t *table) row(cells ...string) {
	if !t.wide && len(cells) > t.narrow {
		cells = cells[:t.narrow]
	}
	if _, err := fmt.Fprintln(t.w, strings.Join(cells, "\t")); err != nil {
		t.err = err
	}
}

func (t *table) flush() error {
	if t.err != nil {
		return t.err
	}
	return t.w.Flush()
}
