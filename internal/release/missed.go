package release

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	releasecommon "helm.sh/helm/v4/pkg/release/common"
	releasev1 "helm.sh/helm/v4/pkg/release/v1"
	"helm.sh/helm/v4/pkg/storage/driver"

	"keelson.dev/keelson/internal/delivery"
	"keelson.dev/keelson/internal/kube"
)

// A process that ends between the writes of a release and of its app's status leaves versions that the record does not know. Those that we
// wrote ourselves are ours all the same: what they say of themselves is remembered, as the process would have done.

// How our own descriptions of versions begin.
const (
	unlockedPrefix  = "Release unlocked from"
	calledOffPrefix = "Called off: "
)

// maxMissed bounds the versions that are read because the record does not know them.
const maxMissed = 10

// missed gives the versions that Keelson wrote and the record does not know, or knows otherwise, newest first; whole: none of others is between
// them and those that the record knows.
func (e *Engine) missed(ctx context.Context, app delivery.App, rec delivery.ReleaseRecord, at place) (out []delivery.StoredRelease, whole bool, err error) {
	all := e.records.of(at)
	if len(all) == 0 { // the last one was removed since it was looked for
		return nil, false, nil
	}
	last, target := rec.Latest(), TargetOf(app)
	known := rec.History
	if last != nil && (last.Name != target.Name || last.Namespace != target.Namespace || last.Version > all[len(all)-1].version || last.Status == statusUninstalled) {
		known = nil // of another release, or of one that is gone
	}
	store, err := e.storage(ctx, app, at.namespace)
	if err != nil {
		return nil, false, err
	}
	for i, r := range slices.Backward(all) {
		knows := slices.ContainsFunc(known, func(s delivery.ReleaseSnapshot) bool { return s.Version == r.version })
		foreign := !knows && (len(known) == 0 || r.version > known[0].Version) // where it is another's
		if len(known) > 0 && r.version < known[len(known)-1].Version || len(all)-i > maxMissed {
			break
		}
		if r.writer != kube.FieldManager {
			if foreign {
				return out, false, nil
			}
			continue
		}
		secret, err := store.get(r.secret)
		if errors.Is(err, driver.ErrReleaseNotFound) {
			continue
		}
		if err != nil {
			return nil, false, fmt.Errorf("read release %s: %w", target, err)
		}
		if !knows && makerOf(secret) != kube.FieldManager {
			if foreign {
				return out, false, nil
			}
			continue
		}
		rel, err := decodeSecret(secret)
		if err != nil {
			return nil, false, err
		}
		stored := storedOf(rel, ociOf(rel, rec))
		stored.Action = actionOf(rel)
		out = append(out, stored)
		if len(known) == 0 && len(out) > 1 && (out[len(out)-1].Status == deployed || out[len(out)-1].Status == statusSuperseded) {
			break // further back nothing goes
		}
	}
	return out, len(known) > 0, nil
}

// ociOf is the digest of the artifact that a version's chart came as, as far as the record tells.
func ociOf(rel *releasev1.Release, rec delivery.ReleaseRecord) string {
	for _, s := range rec.History {
		if s.Targets(rel.Name, rel.Namespace, rel.Version) {
			return s.OCIDigest
		}
	}
	if rel.Chart != nil && rel.Chart.Metadata != nil && rel.Chart.Metadata.Version == rec.Revision {
		return rec.RevisionDigest
	}
	return ""
}

// actionOf tells what made a version, by what it says of itself.
func actionOf(rel *releasev1.Release) delivery.ReleaseAction {
	text := strings.TrimPrefix(rel.Info.Description, calledOffPrefix)
	switch {
	case rel.Info.RollbackRevision > 0:
		return delivery.RollbackRelease
	case rel.Version == 1:
		return delivery.InstallRelease
	}
	for _, begins := range []string{"Initial install", "Install ", "Release \"", unlockedPrefix + " stale '" + releasecommon.StatusPendingInstall.String()} {
		if strings.HasPrefix(text, begins) {
			return delivery.InstallRelease
		}
	}
	return delivery.UpgradeRelease
}

// catchUp takes what was missed into the history.
func (d *decider) catchUp() {
	if len(d.seen.Missed) == 0 {
		return
	}
	before := d.rec.History
	ignoreTests := remediationOf(d.rel, d.rec).IgnoreTestFailures
	if !d.seen.Whole {
		d.rec.History = nil
	}
	for _, m := range slices.Backward(d.seen.Missed) {
		s := m.ReleaseSnapshot
		for _, old := range before {
			if d.seen.Whole && old.Targets(s.Name, s.Namespace, s.Version) {
				s.Action, s.Tested, s.Tests = old.Action, old.Tested, old.Tests
			}
		}
		d.rec.Remember(s, ignoreTests, true) // noting it forgets the others
	}
	d.missed = true
}

// unnoted is about a release whose newest version we have written, to its end, and the status was not told of it.
func (d *decider) unnoted(latest *delivery.StoredRelease, sure bool) (Decision, bool) {
	if !d.missed || d.force || strings.HasPrefix(latest.Description, unlockedPrefix) {
		return Decision{}, false
	}
	what := latest.FullName() + " was made by a process that ended before it could say so"
	switch {
	case latest.Status != deployed && latest.Status != statusFailed:
		return Decision{}, false
	case sure:
		return Decision{State: Unnoted, Action: Note, Message: what}, true
	case latest.Status == deployed && d.differs(latest) == "": // by the chart and the values, but perhaps not by what else the app says
		return Decision{State: Unnoted, Action: TakeOver, Message: what}, true
	}
	return Decision{}, false
}

// note reads what the newest version says of itself. Its failure is the action's.
func (r *run) note() error {
	rel, err := r.newest()
	if err != nil {
		return err
	}
	r.last = rel
	r.written[rel.Version] = Snapshot(rel, ociOf(rel, r.d.Record))
	if rel.Info.Status != releasecommon.StatusFailed {
		return nil
	}
	if text, ok := strings.CutPrefix(rel.Info.Description, calledOffPrefix); ok {
		return &shown{text: text, err: ErrCancelled}
	}
	return errors.New(rel.Info.Description)
}

// markCalledOff makes the version of an action that fails because the action was called off say so: it is no failure that counts.
func (s *secrets) markCalledOff(rel *releasev1.Release) {
	if s.ctx.Err() != nil && rel.Version == s.created && rel.Info.Status == releasecommon.StatusFailed && !strings.HasPrefix(rel.Info.Description, calledOffPrefix) {
		rel.Info.Description = calledOffPrefix + rel.Info.Description
	}
}
