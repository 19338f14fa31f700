package main

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	argocdv1 "keelson.dev/keelson/api/argocd/v1alpha1"
	"keelson.dev/keelson/internal/dialect"
	"keelson.dev/keelson/internal/history"
	"keelson.dev/keelson/internal/redact"
	"keelson.dev/keelson/internal/web"
)

type rollbackOptions struct {
	app     string
	to      string // an id of the history, or a revision; empty: the deployment before the last one
	prune   bool
	preview bool // only tell what it would change
	noWait  bool
	timeout time.Duration
	limited bool // timeout was said, and is no default
}

func rollbackCommand(g *global) *cobra.Command {
	var opts rollbackOptions
	cmd := &cobra.Command{
		Use:   "rollback APP [ID|REVISION]",
		Short: "Deploy an earlier revision of an Application or a HelmRelease again, and hold it there",
		Long: `Rollback deploys what an Application had before: the deployment before the last one, or the one with an id of keelson history, or
a revision. As Argo CD does, it runs no hooks then. Unlike there, it may be done while the app is synced by itself: the app is
held at that revision, by the annotation ` + argocdv1.HoldAnnotation + `, until keelson resume. What is not in the earlier
revision is deleted where the app's policy prunes, or with --prune.

The release of a HelmRelease is rolled back as helm rollback does, as you, with the options of spec.rollback: to a revision of keelson
history, or to the one that was deployed before. It is held there until Git wants something else, or until keelson resume.

With --server a keelson server is asked, as whoever has logged in there. An Application is not waited for then.`,
		Args: args(cobra.RangeArgs(1, 2)),
		RunE: func(cmd *cobra.Command, a []string) error {
			if opts.app = a[0]; len(a) > 1 {
				opts.to = a[1]
			}
			opts.limited = cmd.Flags().Changed("timeout")
			if g.byServer() {
				if err := onlyFlags(cmd, "timeout"); err != nil {
					return err
				}
				return askServer(cmd.Context(), g, opts.app, "rollback", web.AskApp{To: web.RollbackTo{Revision: opts.to}, Prune: opts.prune, Preview: opts.preview})
			}
			if opts.preview {
				return usagef("--preview is made by a server: keelson rollback --server URL; of what Git wants now keelson diff tells")
			}
			return runRollback(cmd.Context(), g, opts)
		},
	}
	cmd.Flags().BoolVar(&opts.prune, "prune", false, "delete what is not in that revision, whatever the app's policy says")
	cmd.Flags().BoolVar(&opts.preview, "preview", false, "with --server: only tell what it would change; of a Kustomization what going back to a commit would")
	cmd.Flags().BoolVar(&opts.noWait, "no-wait", false, "do not wait for it")
	cmd.Flags().DurationVar(&opts.timeout, "timeout", 5*time.Minute, "how long to wait; the rollback itself goes on")
	return cmd
}

func runRollback(ctx context.Context, g *global, opts rollbackOptions) error {
	c, err := g.client()
	if err != nil {
		return err
	}
	app, err := findApp(ctx, c, g.namespace, opts.app)
	if err != nil {
		return err
	}
	if app.helm != nil {
		return rollbackRelease(ctx, g, c, app.helm, opts)
	}
	a, err := app.application("roll a Kustomization back in Git: git revert, and push")
	if err != nil {
		return err
	}
	to, err := deploymentOf(a, opts.to)
	if err != nil {
		return err
	}
	op, hold, err := rollbackOf(a, to, opts.prune, callerOf(ctx, c))
	if err != nil {
		return err
	}
	return begin(ctx, g, c, a, op, beginning{hold: hold, noWait: opts.noWait, timeout: opts.timeout})
}

// rollbackOf words the operation that deploys what an Application had before, and the hold that keeps it there.
func rollbackOf(a *argocdv1.Application, to argocdv1.RevisionHistory, prune bool, by string) (*argocdv1.Operation, string, error) {
	revisions := to.Revisions
	if len(revisions) == 0 {
		revisions = []string{to.Revision}
	}
	hold, err := encodeHold(dialect.ArgoHold{
		Revisions: revisions, HistoryID: max(to.ID, 0), By: by, At: time.Now().UTC().Truncate(time.Second),
		Reason: "rolled back to " + shortRevision(strings.Join(revisions, ", ")),
	})
	if err != nil {
		return nil, "", err
	}
	if auto := automatedOf(a); auto != nil {
		prune = prune || isTrue(auto.Prune)
	}
	sync := &argocdv1.SyncOperation{
		Revision: to.Revision, Revisions: to.Revisions, Source: to.Source, Sources: to.Sources, Prune: prune,
		SyncStrategy: &argocdv1.SyncStrategy{Apply: &argocdv1.SyncStrategyApply{}},
	}
	return operationOf(a, sync, by), hold, nil
}

// deploymentOf finds what to go back to: nothing said, the deployment before the last one; else one of the history by its id or
// (the beginning of) its revision; else the revision itself, from the app's only source.
func deploymentOf(a *argocdv1.Application, to string) (argocdv1.RevisionHistory, error) {
	history := a.Status.History
	if to == "" {
		if len(history) < 2 {
			return argocdv1.RevisionHistory{}, hintf(fmt.Errorf("app %s/%s has %d deployments in its history: there is none to go back to", a.Namespace, a.Name, len(history)),
				"name a revision: keelson rollback %s REVISION", a.Name)
		}
		return history[len(history)-2], nil
	}
	if id, err := strconv.ParseInt(to, 10, 64); err == nil {
		if i := slices.IndexFunc(history, func(h argocdv1.RevisionHistory) bool { return h.ID == id }); i >= 0 {
			return history[i], nil
		}
		if !isCommit(to) {
			return argocdv1.RevisionHistory{}, hintf(fmt.Errorf("the history of app %s/%s has no id %d", a.Namespace, a.Name, id), "keelson history %s lists it", a.Name)
		}
	}
	for i := range slices.Backward(history) {
		if named(history[i], to) {
			return history[i], nil
		}
	}
	sources := sourcesOf(&a.Spec)
	if len(sources) != 1 {
		return argocdv1.RevisionHistory{}, hintf(fmt.Errorf("the history of app %s/%s has no revision %s", a.Namespace, a.Name, to),
			"it has %d sources: go back to an id of keelson history %s", len(sources), a.Name)
	}
	source := sources[0]
	h := argocdv1.RevisionHistory{ID: -1, Revision: to, Source: &source}
	if len(a.Spec.Sources) > 0 {
		h = argocdv1.RevisionHistory{ID: -1, Revisions: []string{to}, Sources: sources}
	}
	return h, nil
}

// named tells whether a deployment is that of a revision: one of its own, or the beginning of a commit id.
func named(h argocdv1.RevisionHistory, revision string) bool {
	return slices.ContainsFunc(append(slices.Clone(h.Revisions), h.Revision), func(r string) bool {
		return r != "" && (r == revision || isCommit(revision) && strings.HasPrefix(r, revision))
	})
}

func historyCommand(g *global) *cobra.Command {
	var deliveries bool
	cmd := &cobra.Command{
		Use:   "history APP",
		Short: "List what was deployed of an app, the newest last",
		Long: `History lists the deliveries of a Kustomization that the instance has recorded: commit, author, what became of it. Of an Application it lists the
deployments that its status remembers, and of a HelmRelease the versions of its release that Helm keeps: what keelson rollback takes. With
--deliveries it lists their deliveries too.`,
		Args: args(cobra.ExactArgs(1)),
		RunE: func(cmd *cobra.Command, a []string) error { return runHistory(cmd.Context(), g, a[0], deliveries) },
	}
	cmd.Flags().BoolVar(&deliveries, "deliveries", false, "list what the instance has recorded, also of Applications and HelmReleases")
	return cmd
}

// deployment is one line of a history, as JSON.
type deployment struct {
	ID       int64     `json:"id"`
	Deployed time.Time `json:"deployed"`
	Revision string    `json:"revision"`
	By       string    `json:"by"`
	Sources  []string  `json:"sources"`
}

func runHistory(ctx context.Context, g *global, arg string, deliveries bool) error {
	c, err := g.client()
	if err != nil {
		return err
	}
	app, err := findApp(ctx, c, g.namespace, arg)
	if err != nil {
		return err
	}
	if app.flux != nil || deliveries {
		return printDeliveries(ctx, g, history.App(app.id()))
	}
	if app.helm != nil {
		return printReleaseHistory(ctx, g, c, app.helm)
	}
	a, err := app.application("keelson events " + arg + " tells what was done")
	if err != nil {
		return err
	}
	list := []deployment{}
	for _, h := range a.Status.History {
		d := deployment{ID: h.ID, Deployed: h.DeployedAt.UTC(), Revision: joinRevisions(h.Revision, h.Revisions), By: h.InitiatedBy.Username}
		if h.InitiatedBy.Automated {
			d.By = "automated"
		}
		for _, s := range sourcesOf(&argocdv1.ApplicationSpec{Source: h.Source, Sources: h.Sources}) {
			d.Sources = append(d.Sources, strings.Trim(redact.URL(s.RepoURL)+" "+cmp.Or(s.Chart, s.Path), " "))
		}
		list = append(list, d)
	}
	if len(list) == 0 && g.output == "" {
		return printf("no deployments of %s/%s are remembered", a.Namespace, a.Name)(g.out)
	}
	return g.print(map[string]any{"history": list}, func(w io.Writer) error {
		t := newTable(w, g.output == "wide", "ID", "DEPLOYED", "REVISION", "BY", "|", "SOURCES")
		for _, d := range list {
			t.row(fmt.Sprint(d.ID), d.Deployed.Local().Format(time.DateTime), shortRevision(d.Revision), cmp.Or(d.By, "-"), strings.Join(d.Sources, ", "))
		}
		return t.flush()
	})
}
