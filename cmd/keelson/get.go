package main

import (
	"context"
	"fmt"
	"io"
	"strings"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"keelson.dev/keelson/internal/delivery"
	"keelson.dev/keelson/internal/web"
)

func getCommand(g *global) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "get",
		Short: "List apps or sources and how they are doing",
		Args:  args(cobra.NoArgs),
		RunE: func(*cobra.Command, []string) error {
			return withCode(exitUsage, hintf(fmt.Errorf("get what?"), "keelson get apps, or keelson get sources"))
		},
	}
	cmd.AddCommand(
		&cobra.Command{
			Use: "apps", Aliases: []string{"app", "kustomizations", "ks"}, Short: "List the apps", Args: args(cobra.NoArgs),
			RunE: func(cmd *cobra.Command, _ []string) error { return runGetApps(cmd.Context(), g) },
		},
		&cobra.Command{
			Use: "sources", Aliases: []string{"source", "gitrepositories"}, Short: "List the sources", Args: args(cobra.NoArgs),
			RunE: func(cmd *cobra.Command, _ []string) error { return runGetSources(cmd.Context(), g) },
		})
	return cmd
}

func (g *global) lister() (clusterLister, error) {
	c, err := g.client()
	return clusterLister{client: c, namespace: g.namespace}, err
}

func runGetApps(ctx context.Context, g *global) error {
	l, err := g.lister()
	if err != nil {
		return err
	}
	apps, err := l.Apps(ctx)
	if err != nil {
		return explainAPI(fmt.Errorf("list apps: %w", err))
	}
	return g.print(map[string]any{"apps": append([]web.App{}, apps...)}, func(w io.Writer) error {
		if len(apps) == 0 {
			return printf("no apps")(w)
		}
		t := newTable(w, g.output == "wide", "NAMESPACE", "NAME", "STATE", "REVISION", "AGE", "MESSAGE", "|", "SOURCE", "PATH", "OBJECTS")
		for _, a := range apps {
			t.row(a.Namespace, a.Name, string(a.State), shortRevision(a.Revision), ageOf(a.Created), message(a.Status, t.wide),
				a.Source, a.Path, fmt.Sprint(a.Objects))
		}
		return t.flush()
	})
}

func runGetSources(ctx context.Context, g *global) error {
	l, err := g.lister()
	if err != nil {
		return err
	}
	sources, err := l.Sources(ctx)
	if err != nil {
		return explainAPI(fmt.Errorf("list sources: %w", err))
	}
	return g.print(map[string]any{"sources": append([]web.Source{}, sources...)}, func(w io.Writer) error {
		if len(sources) == 0 {
			return printf("no sources")(w)
		}
		t := newTable(w, g.output == "wide", "NAMESPACE", "NAME", "STATE", "REVISION", "AGE", "MESSAGE", "|", "URL", "REF")
		for _, s := range sources {
			t.row(s.Namespace, s.Name, string(s.State), shortRevision(s.Revision), ageOf(s.Created), message(s.Status, t.wide), s.URL, s.Ref)
		}
		return t.flush()
	})
}

func shortRevision(s string) string {
	if r := delivery.ParseRevision(s).Short(); r != "" {
		return r
	}
	if s == "" {
		return "-"
	}
	return s
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

// table lines columns up; those after the heading "|" are shown only when it is wide.
type table struct {
	w      *tabwriter.Writer
	wide   bool
	narrow int // columns when not wide
	err    error
}

func newTable(w io.Writer, wide bool, headings ...string) *table {
	t := &table{w: tabwriter.NewWriter(w, 0, 0, 3, ' ', 0), wide: wide, narrow: len(headings)}
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
