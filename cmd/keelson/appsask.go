package main

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	fluxmeta "github.com/fluxcd/pkg/apis/meta"
	"k8s.io/client-go/rest"
	"sigs.k8s.io/controller-runtime/pkg/client"

	argocdv1 "keelson.dev/keelson/api/argocd/v1alpha1"
	"keelson.dev/keelson/internal/controller"
	"keelson.dev/keelson/internal/deliver"
	"keelson.dev/keelson/internal/delivery"
	"keelson.dev/keelson/internal/dialect"
	"keelson.dev/keelson/internal/history"
	"keelson.dev/keelson/internal/redact"
	"keelson.dev/keelson/internal/web"
)

// Ask implements [web.Cluster].
func (a *clusterAPI) Ask(ctx context.Context, id web.AppRef, action string, ask web.AskApp) (web.AppAsked, error) {
	as, app, err := a.find(ctx, id)
	if err != nil {
		return web.AppAsked{}, err
	}
	as.asks = a.asks
	switch action {
	case "sync":
		return as.sync(ctx, app, ask)
	case "refresh":
		return as.refresh(ctx, app)
	case "rollback":
		return a.rollback(ctx, as, app, ask)
	}
	return as.suspend(ctx, app, action)
}

// syncAt is a sync in [ownAsks] that is asked for by a value of an annotation: somebody else's has another one. That of an Application has none.
func syncAt(value string) string { return strings.TrimSpace("app.sync " + value) }

// suspend suspends an app, or resumes it.
func (c *caller) suspend(ctx context.Context, app foundApp, action string) (web.AppAsked, error) {
	id, now := app.id(), time.Now()
	seen := []string{"app." + action}
	reconcile := syncAt(now.Format(time.RFC3339Nano))
	switch held := app.helm != nil && heldRelease(app.helm); {
	case app.argo != nil: // its hold is written, which nobody looks out for
		seen = nil
	case held && action == "resume" && app.helm.Spec.Suspend: // a reconciliation is asked for, too
		seen = append(seen, reconcile)
	case held && action == "resume":
		seen = []string{reconcile}
	}
	withdraw := c.asks.about(id.String(), now, seen...)
	already, err := setSuspended(ctx, c.client, app, action == "suspend", c.who.Name, now)
	if err != nil || already {
		withdraw()
	}
	if err != nil {
		return web.AppAsked{}, fmt.Errorf("%s: %w", action, err)
	}
	out := web.AppAsked{Already: already, Message: id.String() + " is suspended: it is left as it is until it is resumed"}
	if action == "resume" {
		out.Message = id.String() + " is reconciled again"
	}
	return out, nil
}

// sync asks for an app to be made as Git wants it now, and its source to be looked at.
func (c *caller) sync(ctx context.Context, app foundApp, ask web.AskApp) (web.AppAsked, error) {
	if app.argo != nil {
		return c.syncApplication(ctx, app.argo, ask)
	}
	if ask.Prune {
		return web.AppAsked{}, fmt.Errorf("%w: prune is for Applications: %s deletes what is not in Git where its spec says so", web.ErrImpossible, app.id())
	}
	if app.helm != nil && app.helm.Spec.Suspend || app.flux != nil && app.flux.Spec.Suspend {
		return web.AppAsked{}, fmt.Errorf("%w: %s is suspended: resume it first", web.ErrImpossible, app.id())
	}
	now := time.Now().Format(time.RFC3339Nano)
	sources, note := c.sourcesOf(ctx, app)
	for _, src := range sources {
		withdraw := c.asks.about(partsOf(src).kind+"/"+src.GetNamespace()+"/"+src.GetName(), time.Now(), syncAt(now))
		if err := annotate(ctx, c.client, src, fluxmeta.ReconcileRequestAnnotation, now); err != nil {
			withdraw()
			note = "; its source is not asked for what is new: " + err.Error()
		}
	}
	withdraw := c.asks.about(app.id().String(), time.Now(), syncAt(now))
	if err := annotateAll(ctx, c.client, app.object(), map[string]string{
		fluxmeta.ReconcileRequestAnnotation: now, dialect.RequestedByAnnotation: now + " " + c.who.Name,
	}); err != nil {
		withdraw()
		return web.AppAsked{}, fmt.Errorf("sync: %w", err)
	}
	return web.AppAsked{Message: "a reconciliation of " + app.id().String() + " was asked for" + note}, nil
}

// refresh asks for an app to be compared with what its source has now. An Application is not synced for that; anything else is reconciled.
func (c *caller) refresh(ctx context.Context, app foundApp) (web.AppAsked, error) {
	if app.argo == nil {
		return c.sync(ctx, app, web.AskApp{})
	}
	if err := annotate(ctx, c.client, app.argo, argocdv1.RefreshAnnotation, "hard"); err != nil {
		return web.AppAsked{}, fmt.Errorf("refresh: %w", err)
	}
	return web.AppAsked{Message: "a comparison of " + app.id().String() + " with its source was asked for"}, nil
}

// sourcesOf are the sources of an app that can be asked for what is new, as far as the person may read them.
func (c *caller) sourcesOf(ctx context.Context, app foundApp) (sources []client.Object, note string) {
	var err error
	if app.helm != nil {
		sources, err = sourcesOfRelease(ctx, c.client, app.helm)
	} else {
		var src client.Object
		if src, err = sourceOfApp(ctx, c.client, app.flux); err == nil {
			sources = []client.Object{src}
		}
	}
	if err != nil {
		return nil, "; its source is not asked for what is new: " + err.Error()
	}
	return sources, ""
}

func (c *caller) syncApplication(ctx context.Context, a *argocdv1.Application, ask web.AskApp) (web.AppAsked, error) {
	if err := idle(a); err != nil {
		return web.AppAsked{}, impossible(err)
	}
	op := operationOf(a, &argocdv1.SyncOperation{Prune: ask.Prune}, c.who.Name)
	if err := c.begin(ctx, a, op, ""); err != nil {
		return web.AppAsked{}, err
	}
	return web.AppAsked{Message: "a sync of " + a.Namespace + "/" + a.Name + " was asked for"}, nil
}

// begin writes an operation of an Application, and perhaps a hold.
func (c *caller) begin(ctx context.Context, a *argocdv1.Application, op *argocdv1.Operation, hold string) error {
	withdraw := c.asks.about(foundApp{argo: a}.id().String(), time.Now(), "app.sync")
	err := writeOperation(ctx, c.client, a, op, hold)
	if err != nil {
		withdraw()
	}
	return err
}

// impossible says of an error, with what there is to do about it, that something cannot be done with an app as it is now.
func impossible(err error) error {
	text := err.Error()
	if hints := hintsOf(err); len(hints) > 0 {
		text += " (" + strings.Join(hints, "; ") + ")"
	}
	return fmt.Errorf("%w: %s", web.ErrImpossible, text)
}

// rollback goes back to what was deployed before, or tells what that would change.
func (a *clusterAPI) rollback(ctx context.Context, as *caller, app foundApp, ask web.AskApp) (web.AppAsked, error) {
	if err := a.resolve(ctx, as, app, &ask); err != nil {
		return web.AppAsked{}, err
	}
	if ask.Preview {
		return a.previewRollback(ctx, as, app, ask)
	}
	switch {
	case app.argo != nil:
		to, err := deploymentOf(app.argo, ask.To.Revision)
		if err != nil {
			return web.AppAsked{}, impossible(err)
		}
		op, hold, err := rollbackOf(app.argo, to, ask.Prune, as.who.Name)
		if err != nil {
			return web.AppAsked{}, err
		}
		if err := idle(app.argo); err != nil {
			return web.AppAsked{}, impossible(err)
		}
		if err := as.begin(ctx, app.argo, op, hold); err != nil {
			return web.AppAsked{}, err
		}
		revision := joinRevisions(to.Revision, to.Revisions)
		return web.AppAsked{To: revision, Asked: true, Message: fmt.Sprintf("%s is being rolled back to %s, and held there until it is resumed", app.id(), shortRevision(revision))}, nil
	case app.helm != nil:
		return a.rollbackRelease(ctx, as, app, ask)
	}
	return web.AppAsked{}, fmt.Errorf("%w: %s", web.ErrImpossible, revertInGit(app))
}

// resolve puts the revision of a delivery that was named in its place.
func (a *clusterAPI) resolve(ctx context.Context, as *caller, app foundApp, ask *web.AskApp) error {
	if ask.To.Delivery == 0 {
		return nil
	}
	if a.deliveries == nil {
		return fmt.Errorf("%w: no history is kept here: name a revision", web.ErrImpossible)
	}
	d, err := a.deliveries(ctx, ask.To.Delivery)
	if err != nil {
		return impossible(fmt.Errorf("read delivery %d: %w", ask.To.Delivery, err))
	}
	if d.App.String() != app.id().String() {
		return fmt.Errorf("%w: delivery %d is one of %s", web.ErrImpossible, d.ID, d.App)
	}
	ask.To = web.RollbackTo{Revision: cmp.Or(d.SHA, d.Revision)}
	if app.helm == nil {
		return nil
	}
	versions, err := releaseHistory(ctx, as.client, app.helm)
	if err != nil {
		return err
	}
	n := versionOf(versions, d.Revision, d.Finished)
	if n == 0 {
		return fmt.Errorf("%w: Helm's storage does not keep the version of the release that delivery %d has made any more", web.ErrImpossible, d.ID)
	}
	ask.To.Revision = strconv.Itoa(n)
	return nil
}

// versionOf finds the version of a release that a delivery of a chart's version has made, which was over at a time; 0: there is none. An upgrade is written
// down after Helm has ended it, so it is the newest one until then.
func versionOf(versions []releaseVersion, chart string, over time.Time) int {
	for _, v := range slices.Backward(versions) {
		if v.ChartVersion == chart && (over.IsZero() || !v.Updated.After(over)) {
			return v.Version
		}
	}
	return 0
}

// revertInGit says how a Kustomization is rolled back.
func revertInGit(app foundApp) string {
	ref := app.flux.Spec.SourceRef
	return fmt.Sprintf("%s follows %s %s, so what it goes back to is a commit there: revert the commit in Git and push (git revert COMMIT), or suspend the app to leave it as it is",
		app.id(), ref.Kind, ref.Name)
}

// rollbackRelease rolls a Helm release back as the person. It waits until the release was changed, not until it is healthy.
func (a *clusterAPI) rollbackRelease(ctx context.Context, as *caller, app foundApp, ask web.AskApp) (web.AppAsked, error) {
	if ask.Prune {
		return web.AppAsked{}, fmt.Errorf("%w: prune is for Applications: what is not in the earlier version of a release is deleted", web.ErrImpossible)
	}
	versions, err := releaseHistory(ctx, as.client, app.helm)
	if err != nil {
		return web.AppAsked{}, err
	}
	to, err := versionToGoTo(app.helm, versions, ask.To.Revision)
	if err != nil {
		return web.AppAsked{}, impossible(err)
	}
	config := a.cluster.Config()
	config.Impersonate = rest.ImpersonationConfig{UserName: as.who.Name, Groups: as.who.Groups}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	engine, err := releaseEngine(ctx, config, app.helm.GetStorageNamespace())
	if err != nil {
		return web.AppAsked{}, err
	}
	tell, err := a.tellsRollback(ctx, as, app, versions, to)
	if err != nil {
		return web.AppAsked{}, err
	}
	out, err := rollRelease(ctx, engine, app.helm, to, rollbackOptions{noWait: true})
	if err = tell(out, err); err != nil {
		return web.AppAsked{}, fmt.Errorf("roll back %s: %w", app.id(), err)
	}
	return web.AppAsked{To: fmt.Sprint(to), Message: fmt.Sprintf(
		"%s is rolled back to version %d of its release, as version %d; it is held there until Git wants something else, or it is resumed", app.id(), to, out.Version)}, nil
}

// tellsRollback gives what tells the history what has come of a rollback of a release that a person now begins. Which version of the release that is
// is known once Helm has made it: another rollback may come before. An error comes back without the values that the release has had: it is recorded,
// there and in the audit.
func (a *clusterAPI) tellsRollback(ctx context.Context, as *caller, found foundApp, versions []releaseVersion, to int) (func(rolledBackRelease, error) error, error) {
	app, err := dialect.HelmRelease(found.helm)
	if err != nil {
		return nil, err
	}
	_, secrets, err := deliver.ReadValues(ctx, a.own, app)
	if err != nil {
		secrets = redact.New() // values that cannot be read now are none that it is rolled back to
	}
	chart, had := "", []string{}
	for _, v := range versions {
		if v.Version == to {
			chart = v.ChartVersion
		}
		had = append(had, deliver.TextsOf(v.values)...)
	}
	all := redact.New(had...)
	safe := func(err error) error {
		if err == nil {
			return nil
		}
		return maskedError{text: all.Text(secrets.Text(err.Error())), err: err}
	}
	if a.deliver == nil {
		return func(_ rolledBackRelease, err error) error { return safe(err) }, nil
	}
	newest, began := versions[len(versions)-1].Version, time.Now()
	return func(out rolledBackRelease, err error) error {
		err = safe(err)
		d := rollbackDelivery(app, chart, newest, out.Version, began)
		d.Actor, d.Message = as.who.Name, fmt.Sprintf("rollback to version %d of the release", to)
		d.Changes = controller.RollbackChanges(out.changed, secrets)
		d.Objects, d.Status, d.Finished = len(d.Changes), history.Succeeded, time.Now()
		if d.Applied = d.Finished; err != nil {
			d.Status, d.Message, d.Applied = history.Failed, err.Error(), time.Time{}
		}
		a.deliver(d)
		return err
	}, nil
}

// maskedError is an error without the secrets in its text.
type maskedError struct {
	text string
	err  error
}

func (e maskedError) Error() string { return e.text }
func (e maskedError) Unwrap() error { return e.err }

// rollbackDelivery is the delivery of a rollback to a version of a chart that has made a version of a release, of which there were some before; one
// that has made none is nobody else's.
func rollbackDelivery(app delivery.App, chart string, newest, made int, began time.Time) history.Delivery {
	d := controller.RolledBack(app, chart, made)
	if d.Began = began; made <= newest {
		d.Key = fmt.Sprintf("%s@%d-%s", app.UID, began.UnixMicro(), newToken()[:8])
	}
	return d
}

// previewRollback tells what a rollback would change. Of a Kustomization, which only Git can roll back, it tells what reverting to a commit
// would.
func (a *clusterAPI) previewRollback(ctx context.Context, as *caller, app foundApp, ask web.AskApp) (web.AppAsked, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	switch {
	case app.argo != nil:
		return a.previewEarlier(ctx, as, app.argo, ask)
	case app.helm != nil:
		return a.previewRelease(ctx, as, app, ask)
	}
	commit := ask.To.Revision
	if r := delivery.ParseRevision(commit); r.Commit != "" {
		commit = r.Commit
	}
	if len(commit) != 40 || !isCommit(commit) {
		return web.AppAsked{}, fmt.Errorf("%w: to names no commit, which has 40 digits; %s", web.ErrImpossible, revertInGit(app))
	}
	p, err := previewFound(ctx, comparing(ctx, a.cluster), a.own, app, a.policy, commit)
	if err != nil {
		return web.AppAsked{}, plainError(err)
	}
	d, err := as.planned(ctx, p)
	return web.AppAsked{To: commit, Diff: &d, Message: "this is what going back to " + commit[:7] + " would change. " + revertInGit(app)}, err
}

// previewEarlier tells what deploying an earlier revision of an Application would change.
func (a *clusterAPI) previewEarlier(ctx context.Context, as *caller, app *argocdv1.Application, ask web.AskApp) (web.AppAsked, error) {
	to, err := deploymentOf(app, ask.To.Revision)
	if err != nil {
		return web.AppAsked{}, impossible(err)
	}
	then := app.DeepCopy()
	if len(to.Sources) > 0 {
		then.Spec.Source, then.Spec.Sources = nil, slices.Clone(to.Sources)
		for i := range then.Spec.Sources {
			if i < len(to.Revisions) {
				then.Spec.Sources[i].TargetRevision = to.Revisions[i]
			}
		}
	} else if to.Source != nil {
		source := *to.Source
		source.TargetRevision = to.Revision
		then.Spec.Source, then.Spec.Sources = &source, nil
	}
	p, err := previewApplication(ctx, comparing(ctx, a.cluster), a.own, then, a.policy)
	if err != nil {
		return web.AppAsked{}, plainError(err)
	}
	d, err := as.planned(ctx, p)
	revision := joinRevisions(to.Revision, to.Revisions)
	return web.AppAsked{To: revision, Possible: true, Diff: &d, Message: "this is what a rollback to " + shortRevision(revision) + " would change"}, err
}

// previewRelease tells what a rollback of a Helm release would change.
func (a *clusterAPI) previewRelease(ctx context.Context, as *caller, found foundApp, ask web.AskApp) (web.AppAsked, error) {
	versions, err := releaseHistory(ctx, as.client, found.helm)
	if err != nil {
		return web.AppAsked{}, err
	}
	to, err := versionToGoTo(found.helm, versions, ask.To.Revision)
	if err != nil {
		return web.AppAsked{}, impossible(err)
	}
	app, err := dialect.HelmRelease(found.helm)
	if err != nil {
		return web.AppAsked{}, err
	}
	app.ServiceAccount = "" // it is looked at by Keelson itself
	engine, err := releaseEngine(ctx, a.cluster.Config(), found.helm.GetStorageNamespace())
	if err != nil {
		return web.AppAsked{}, err
	}
	kept, err := engine.Kept(ctx, app, to)
	if err != nil {
		return web.AppAsked{}, plainError(err)
	}
	compare := comparing(ctx, a.cluster)
	all, err := compare.Diff(ctx, kept.Will)
	if err != nil {
		return web.AppAsked{}, plainError(err)
	}
	gone, err := leaving(ctx, compare, kept)
	if err != nil {
		return web.AppAsked{}, plainError(err)
	}
	all = append(all, gone...)
	_, secrets, err := deliver.ReadValues(ctx, a.own, app)
	if err != nil {
		return web.AppAsked{}, plainError(err)
	}
	maskPreview(secrets, deliver.Preview{Differences: all})
	d, err := as.told(ctx, all, web.AppDiff{Applied: fmt.Sprint(kept.Version), Revision: fmt.Sprint(to)})
	return web.AppAsked{To: fmt.Sprint(to), Possible: true, Diff: &d, Message: fmt.Sprintf("this is what a rollback to version %d of the release would change", to)}, err
}
