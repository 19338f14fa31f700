package controller

import (
	"errors"
	"slices"
	"strings"

	argocdv1 "keelson.dev/keelson/api/argocd/v1alpha1"
	"keelson.dev/keelson/internal/delivery"
	"keelson.dev/keelson/internal/dialect"
	"keelson.dev/keelson/internal/redact"
	"keelson.dev/keelson/internal/source"
)

// follow has the repositories fetched that the app is made from, and that its operation is about. A refresh asks for a look at them.
func (a *applications) follow(p *applicationPass) {
	sources := slices.Clone(p.declared.Sources)
	for _, src := range p.target.Sources {
		if !slices.ContainsFunc(sources, func(s delivery.Source) bool { return s.ID == src.ID }) {
			sources = append(sources, src)
		}
	}
	a.repos.want(p.app.ID, sources)
	if !p.st.seeded {
		p.st.seeded = true
		for i, rev := range revisionsOf(p.obj) {
			if i < len(p.declared.Sources) && isCommit(rev) {
				a.repos.remember(p.declared.Sources[i].ID, delivery.Revision{Commit: rev})
			}
		}
	}
	switch kind := p.obj.Annotations[argocdv1.RefreshAnnotation]; {
	case kind == "":
		p.st.refreshing = false
	case !p.st.refreshing:
		p.st.refreshing = true
		if kind == "hard" {
			p.st.mem.Resend()
		}
		a.repos.refresh(p.app.ID)
	}
}

// revisionsOf are those that an Application was compared to last, one for each source.
func revisionsOf(obj *argocdv1.Application) []string {
	if s := obj.Status.Sync; len(s.Revisions) > 0 {
		return s.Revisions
	}
	return []string{obj.Status.Sync.Revision}
}

// isCommit tells whether a text is a commit's full id.
func isCommit(s string) bool {
	return len(s) == 40 && strings.Trim(s, "0123456789abcdef") == ""
}

// seen is a snapshot that a pass has used.
type seen struct {
	id       delivery.ID
	snapshot delivery.Snapshot
}

// sources gives the snapshot that an app as it was read is made from: that of its source, or one that is composed of several. The
// request is about that app from now on.
func (a *applications) sources(p *applicationPass, of dialect.ArgoApp) error {
	if why := of.Invalid(); why != "" { // an operation may want sources that the project forbids
		return &delivery.Fault{Reason: argocdv1.ConditionInvalidSpecError, Retry: delivery.OnEvent, Err: errors.New(why)}
	}
	snaps := make(map[delivery.ID]delivery.Snapshot, len(of.Sources))
	revisions := make([]delivery.Revision, len(of.Sources))
	for i, src := range of.Sources {
		snap, err := a.repos.snapshot(src.ID)
		if snap.Revision.Commit == "" {
			if err == nil {
				return errNotYet
			}
			return &delivery.Fault{
				Reason: argocdv1.ConditionComparisonError, Retry: delivery.FaultOf(err, "").Retry, Err: delivery.Placed(redact.URL(src.URL), err),
			}
		}
		if err != nil { // what there is may be old
			p.warn(argocdv1.ConditionComparisonError, delivery.Placed(redact.URL(src.URL), err).Error())
		}
		snaps[src.ID], revisions[i] = snap, snap.Revision
		p.seen = append(p.seen, seen{src.ID, snap})
	}
	app := a.govern(of.App)
	p.mounted, p.summarized = nil, false
	dialect.ArgoRevisionEnv(&app, revisions)
	p.req.App, p.revs = app, make([]string, len(revisions))
	for i, rev := range revisions {
		p.revs[i] = dialect.ArgoRevision(rev)
	}
	if len(app.Mounts) == 0 {
		var err error
		p.req.Snapshot, err = a.complete(p, snaps[app.Source])
		return err
	}
	parts := make([]source.Mounted, len(app.Mounts))
	p.mounted = make(mounted, len(app.Mounts))
	for i, m := range app.Mounts {
		parts[i] = source.Mounted{At: m.At, Snapshot: snaps[m.Source]}
		p.mounted[m.Source] = snaps[m.Source].Revision
	}
	whole, err := source.Compose(parts)
	if err != nil {
		return err
	}
	p.req.Snapshot, err = a.complete(p, whole)
	return err
}
