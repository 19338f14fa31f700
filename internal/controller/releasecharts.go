package controller

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"path"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	sourcev1 "github.com/fluxcd/source-controller/api/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	apimeta "k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"keelson.dev/keelson/internal/deliver"
	"keelson.dev/keelson/internal/delivery"
	"keelson.dev/keelson/internal/dialect"
	"keelson.dev/keelson/internal/release"
	"keelson.dev/keelson/internal/source"
)

// releaseChart is a chart as a release is made from it.
type releaseChart struct {
	source.Chart                   // Version as upstream tells it: with what tells its values files, revision or digest from others
	ValuesFiles    []string        // in place of its values.yaml, as they are named; later ones win; none: it counts
	valuesDir      string          // the folder of the snapshot that they are named from
	SourceRevision string          // of what it was made from, as that object's status tells it
	URL            string          // of where it came from
	OCIDigest      string          // of the artifact of an OCIRepository: "sha256:…"; empty: it came otherwise
	Stale          *delivery.Fault // why it may be old; nil: it is not
}

// Key identifies the content: equal keys mean that the same would be rendered.
func (c releaseChart) Key() string {
	return strings.Join([]string{c.Snapshot.Digest, c.Path, c.Version, strings.Join(c.ValuesFiles, "\n")}, " ")
}

// release gives the chart as an action reads it.
func (c releaseChart) release() release.Chart {
	files := make([]string, len(c.ValuesFiles))
	for i, name := range c.ValuesFiles {
		files[i] = strings.TrimPrefix(path.Join("/", c.valuesDir, path.Clean("/"+name)), "/")
	}
	return release.Chart{Digest: c.Snapshot.Digest, Files: c.Snapshot.FS, Path: c.Path, Version: c.Version, ValuesFiles: files}
}

// releaseCharts find charts for who names them in Flux's words: HelmCharts, and HelmReleases. Nothing is waited for: what has to be
// fetched is fetched aside, once for all who want the same, and whoever asked is woken when there is news. It is safe for concurrent use.
type releaseCharts struct {
	reg    *registry
	repos  *repositories
	cache  client.Reader
	reader client.Reader // uncached: Secrets are not kept in memory
	now    func() time.Time
	wake   func(delivery.ID)

	mu      sync.Mutex
	follows map[delivery.ID][]delivery.ID        // user -> the objects that its chart comes from
	users   map[delivery.ID]map[delivery.ID]bool // the other way round
	found   map[delivery.ID]foundChart           // by user
	whole   map[delivery.ID]*charts              // by user: charts with what they depend on; read and written with the registry locked
}

// foundChart is what a user was given last, and for what.
type foundChart struct {
	key   string
	chart releaseChart
}

func newReleaseCharts(repos *repositories, cache, reader client.Reader, wake func(delivery.ID)) *releaseCharts {
	return &releaseCharts{
		reg: repos.reg, repos: repos, cache: cache, reader: reader, now: repos.now, wake: wake,
		follows: map[delivery.ID][]delivery.ID{}, users: map[delivery.ID]map[delivery.ID]bool{},
		found: map[delivery.ID]foundChart{}, whole: map[delivery.ID]*charts{},
	}
}

// follow replaces the objects whose news wakes a user.
func (c *releaseCharts) follow(user delivery.ID, objects ...delivery.ID) {
	c.mu.Lock()
	defer c.mu.Unlock()
	was := c.follows[user]
	if slices.Equal(was, objects) {
		return
	}
	for _, id := range was {
		unlink(c.users, id, user)
	}
	for _, id := range objects {
		link(c.users, id, user)
	}
	if c.follows[user] = objects; len(objects) == 0 {
		delete(c.follows, user)
	}
}

// inform wakes those whose charts come from an object.
func (c *releaseCharts) inform(object delivery.ID) {
	c.mu.Lock()
	users := make([]delivery.ID, 0, len(c.users[object]))
	for user := range c.users[object] {
		users = append(users, user)
	}
	c.mu.Unlock()
	for _, user := range users {
		c.wake(user)
	}
}

// drop forgets a user that is gone, or that wants no chart any more.
func (c *releaseCharts) drop(user delivery.ID) {
	c.follow(user)
	c.repos.want(user, nil)
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.found, user)
	delete(c.whole, user)
}

// refresh asks for a look at where a user's chart is, and wakes it when that has been had; refreshed tells whether it has.
func (c *releaseCharts) refresh(user delivery.ID)        { c.repos.refresh(user) }
func (c *releaseCharts) refreshed(user delivery.ID) bool { return c.repos.refreshed(user) }

// find gives the chart that a template names; generation is that of the object with the template. The error is errNotYet while it is being
// fetched; otherwise a [*delivery.Fault] with upstream's reasons.
func (c *releaseCharts) find(ctx context.Context, user delivery.ID, t delivery.ChartTemplate, generation int64) (releaseChart, error) {
	c.follow(user, t.Source)
	if user.Kind != sourcev1.HelmChartKind {
		var err error
		if generation, err = deliver.ChartGeneration(ctx, c.cache, user, t, generation); err != nil {
			return releaseChart{}, err
		}
	}
	return c.of(ctx, user, t, generation)
}

// findRef gives the chart of an object: of a HelmChart, or of an OCIRepository. Errors are those of find.
func (c *releaseCharts) findRef(ctx context.Context, user, ref delivery.ID) (releaseChart, error) {
	switch ref.Kind {
	case sourcev1.HelmChartKind:
		var obj sourcev1.HelmChart
		if err := c.get(ctx, &obj, ref); err != nil {
			c.follow(user, ref)
			return releaseChart{}, err
		}
		t := dialect.HelmChart(&obj)
		if obj.Spec.Suspend && obj.Status.Artifact != nil { // it stays at its version
			t.Version, _, _ = strings.Cut(obj.Status.Artifact.Revision, "+")
		}
		c.follow(user, ref, t.Source)
		return c.of(ctx, user, t, obj.Generation)
	case sourcev1.OCIRepositoryKind:
		c.follow(user, ref)
		c.repos.want(user, nil)
		return c.ofArtifact(ctx, user, ref)
	}
	c.follow(user, ref)
	return releaseChart{}, refusedChart([]string{"spec.chartRef.kind " + ref.Kind})
}

// get reads the object that a chart comes from.
func (c *releaseCharts) get(ctx context.Context, obj client.Object, id delivery.ID) error {
	err := c.cache.Get(ctx, types.NamespacedName{Namespace: id.Namespace, Name: id.Name}, obj)
	switch {
	case apierrors.IsNotFound(err):
		return &delivery.Fault{
			Reason: "SourceUnavailable", Retry: delivery.OnEvent, Err: fmt.Errorf("failed to get source: %s does not exist", id), Hint: "create it, or correct the reference",
		}
	case apimeta.IsNoMatchError(err):
		return &delivery.Fault{
			Reason: "SourceUnavailable", Hint: "kubectl apply -f config/crd, then start Keelson again",
			Err: fmt.Errorf("failed to get source: %s cannot be: the cluster lacks the kind", id),
		}
	case err != nil:
		return &delivery.Fault{Reason: "SourceUnavailable", Err: fmt.Errorf("failed to get source: %w", err)}
	}
	return nil
}

func refusedChart(names []string) error {
	return &delivery.Fault{
		Reason: "FieldsNotSupported", Retry: delivery.OnEvent, Err: fmt.Errorf("%s: not supported yet; nothing is fetched", strings.Join(names, ", ")),
		Hint: insteadOf(names, "a GitRepository, a HelmRepository or an OCIRepository"),
	}
}

// insteadOf says what to do about fields that are refused: a kind of sources has to be another one, everything else may go.
func insteadOf(names []string, kinds string) string {
	for _, name := range names {
		if _, kind, ok := strings.Cut(name, "Ref.kind "); ok {
			return "publish what is in the " + kind + " as " + kinds + ", and refer to that"
		}
		if name == "spec.verify" || name == "spec.chart.spec.verify" {
			return "signatures are not verified here: verify what is published before, name it by its digest (spec.ref.digest of an OCIRepository), and remove the field"
		}
	}
	return "remove the fields"
}

func (c *releaseCharts) of(ctx context.Context, user delivery.ID, t delivery.ChartTemplate, generation int64) (releaseChart, error) {
	if names := dialect.ChartRefused(t); len(names) > 0 {
		c.repos.want(user, nil)
		return releaseChart{}, refusedChart(names)
	}
	if t.Source.Kind == sourcev1.HelmRepositoryKind {
		return c.ofRepository(ctx, user, t, generation)
	}
	c.repos.want(user, nil)
	return c.ofFolder(ctx, user, t, generation)
}

// snapshot gives that of a declared source.
func (c *releaseCharts) snapshot(ctx context.Context, obj client.Object, id delivery.ID) (delivery.Snapshot, error) {
	if err := c.get(ctx, obj, id); err != nil {
		return delivery.Snapshot{}, err
	}
	snap, why := c.reg.snapshot(id)
	switch {
	case snap.Revision.Commit != "":
		return snap, nil
	case why != nil:
		return snap, &delivery.Fault{Reason: "NoSourceArtifact", Retry: delivery.OnEvent, Err: fmt.Errorf("no artifact available for %s: %w", id, why)}
	}
	return snap, errNotYet
}

// ofRepository gives a chart of a HelmRepository.
func (c *releaseCharts) ofRepository(ctx context.Context, user delivery.ID, t delivery.ChartTemplate, generation int64) (releaseChart, error) {
	var repo sourcev1.HelmRepository
	if err := c.get(ctx, &repo, t.Source); err != nil {
		c.repos.want(user, nil)
		return releaseChart{}, err
	}
	if names := dialect.HelmRepository(&repo).Refused; len(names) > 0 {
		c.repos.want(user, nil)
		return releaseChart{}, refusedChart([]string{t.Source.String() + ": " + strings.Join(names, ", ")})
	}
	var index delivery.Revision
	if !dialect.IsStatic(&repo) {
		snap, err := c.snapshot(ctx, &repo, t.Source)
		if err != nil {
			return releaseChart{}, err
		}
		index = snap.Revision
	}
	src := dialect.RepositoryChart(&repo, t, index)
	c.repos.want(user, []delivery.Source{src})
	snap, err := c.repos.snapshot(src.ID)
	if snap.Revision.Commit == "" {
		if err == nil {
			err = errNotYet
		}
		return releaseChart{}, chartFaultOf(err)
	}
	out, key := releaseChart{}, fmt.Sprint(snap.Digest, " ", snap.Revision, " ", t, generation, src.URL, index)
	if out, ok := c.known(user, key); ok {
		out.Stale = staleness(err)
		return out, nil
	}
	out.Chart, err = c.repos.sources.Chart(snap, ".")
	if err != nil {
		return out, err
	}
	if _, out.ValuesFiles, err = source.Values(out.Snapshot, out.Path, t.ValuesFiles, t.IgnoreMissingValues); err != nil {
		return out, err
	}
	if len(t.ValuesFiles) > 0 {
		if out.Version, err = source.WithMetadata(out.Version, strconv.FormatInt(generation, 10)); err != nil {
			return out, err
		}
	}
	out.SourceRevision, out.URL, out.valuesDir = index.String(), src.URL, out.Path
	return c.keep(user, key, out), nil
}

// ofFolder gives the chart in a folder of a GitRepository, with what it depends on.
func (c *releaseCharts) ofFolder(ctx context.Context, user delivery.ID, t delivery.ChartTemplate, generation int64) (releaseChart, error) {
	var repo sourcev1.GitRepository
	snap, err := c.snapshot(ctx, &repo, t.Source)
	if err != nil {
		return releaseChart{}, err
	}
	out, key := releaseChart{}, fmt.Sprint(snap.Digest, " ", snap.Revision, " ", t, generation, repo.Spec.URL)
	if out, ok := c.known(user, key); ok {
		return out, nil
	}
	if out.Chart, err = c.repos.sources.Chart(snap, cmp.Or(t.Name, ".")); err != nil {
		return out, err
	}
	if _, out.ValuesFiles, err = source.Values(snap, ".", t.ValuesFiles, t.IgnoreMissingValues); err != nil {
		return out, err
	}
	var metadata []string
	if t.EachRevision {
		metadata = append(metadata, snap.Revision.Commit[:min(12, len(snap.Revision.Commit))])
	}
	if len(t.ValuesFiles) > 0 {
		metadata = append(metadata, strconv.FormatInt(generation, 10))
	}
	if out.Version, err = source.WithMetadata(out.Version, strings.Join(metadata, ".")); err != nil {
		return out, err
	}
	if out.Snapshot, err = c.complete(user, out.Chart, t.Source.Namespace); err != nil {
		return out, err
	}
	out.SourceRevision, out.URL = snap.Revision.String(), repo.Spec.URL
	return c.keep(user, key, out), nil
}

// ofArtifact gives the chart that an OCIRepository is.
func (c *releaseCharts) ofArtifact(ctx context.Context, user, ref delivery.ID) (releaseChart, error) {
	var repo sourcev1.OCIRepository
	snap, err := c.snapshot(ctx, &repo, ref)
	if err != nil {
		return releaseChart{}, err
	}
	out, key := releaseChart{}, fmt.Sprint(snap.Digest, " ", snap.Revision, repo.Spec.URL)
	if out, ok := c.known(user, key); ok {
		return out, nil
	}
	if out.Chart, err = c.repos.sources.Chart(snap, source.AnyFolder); err != nil {
		return out, err
	}
	// A tag may be moved: the digest makes another version of the chart then, as upstream.
	if out.Version, err = source.WithMetadata(out.Version, snap.Revision.Commit[:min(12, len(snap.Revision.Commit))]); err != nil {
		return out, err
	}
	out.SourceRevision, out.URL, out.OCIDigest = snap.Revision.String(), repo.Spec.URL, "sha256:"+snap.Revision.Commit
	return c.keep(user, key, out), nil
}

// known gives what the user was given last, if it still wants the same.
func (c *releaseCharts) known(user delivery.ID, key string) (releaseChart, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	f, ok := c.found[user]
	return f.chart, ok && f.key == key
}

func (c *releaseCharts) keep(user delivery.ID, key string, chart releaseChart) releaseChart {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.found[user] = foundChart{key, chart}
	return chart
}

// chartFaultOf gives the error of a fetch with upstream's reasons of charts.
func chartFaultOf(err error) error {
	if errors.Is(err, errNotYet) {
		return err
	}
	f := *delivery.FaultOf(err, "ChartPullError")
	switch f.Reason {
	case source.ReasonChart, source.ReasonOCI, source.ReasonIndex, sourcev1.GitOperationFailedReason:
		if f.Reason = "ChartPullError"; f.Retry == delivery.OnChange {
			f.Reason = source.ReasonChartReference
		}
	}
	return &f
}

func staleness(err error) *delivery.Fault {
	if err == nil {
		return nil
	}
	return delivery.FaultOf(chartFaultOf(err), "ChartPullError")
}

// complete gives the snapshot of a chart with what the chart depends on. The error is errNotYet while that is being fetched.
func (c *releaseCharts) complete(user delivery.ID, chart source.Chart, namespace string) (delivery.Snapshot, error) {
	snap := chart.Snapshot
	lacking, err := source.Missing(snap, ".", chart.Path)
	if err != nil || len(lacking) == 0 {
		return snap, dependencyFault(err)
	}
	key := snap.Digest + " " + chart.Path
	c.mu.Lock()
	all := c.whole[user]
	if all == nil {
		all = &charts{}
		c.whole[user] = all
	}
	c.mu.Unlock()
	begin := false
	var found completed
	c.reg.with(func() {
		var ok bool
		found, ok = all.done[key]
		over := found.err != nil && !c.now().Before(found.at.Add(deliver.Backoff(found.failures, 0)))
		if begin = !ok || !found.running && over; begin {
			all.keep(key, completed{running: true, at: c.now(), failures: found.failures})
		}
	})
	switch {
	case begin:
		go c.bring(user, all, key, chart, namespace, found.failures)
		return snap, errNotYet
	case found.running:
		return snap, errNotYet
	}
	return found.snapshot, dependencyFault(found.err)
}

func dependencyFault(err error) error {
	if err == nil {
		return nil
	}
	f := *delivery.FaultOf(err, "DependencyBuildError")
	f.Reason = "DependencyBuildError"
	return &f
}

// bring fetches what a chart depends on; its user is woken when it is there, or cannot be had.
func (c *releaseCharts) bring(user delivery.ID, all *charts, key string, chart source.Chart, namespace string, failures int) {
	defer c.repos.slots.enter(lane{"", namespace})() // they may be at any host
	ctx, cancel := context.WithTimeout(c.repos.life, chartsTimeout)
	defer cancel()
	done := completed{}
	done.snapshot, done.err = c.repos.sources.Dependencies(ctx, chart.Snapshot, ".", chart.Path, func(named string) (string, delivery.Credentials, error) {
		return c.repository(ctx, namespace, named)
	})
	if c.repos.life.Err() != nil {
		return
	}
	if done.err != nil {
		done.at, done.failures = c.now(), failures+1
	}
	c.reg.with(func() { all.keep(key, done) })
	c.wake(user)
}

// repository gives what is known of a repository that a chart's dependency names: the credentials of a HelmRepository in the namespace
// with the same address, or none (upstream).
func (c *releaseCharts) repository(ctx context.Context, namespace, named string) (string, delivery.Credentials, error) {
	if strings.HasPrefix(named, "@") || strings.HasPrefix(named, "alias:") {
		return "", delivery.Credentials{}, fmt.Errorf("repository '%s': aliases are not known here: write its address", named)
	}
	var list sourcev1.HelmRepositoryList
	if err := c.cache.List(ctx, &list, client.InNamespace(namespace)); err != nil && !apimeta.IsNoMatchError(err) { // without the kind there are none
		return "", delivery.Credentials{}, fmt.Errorf("list HelmRepositories: %w", err)
	}
	for i := range list.Items {
		if strings.TrimRight(list.Items[i].Spec.URL, "/") != strings.TrimRight(named, "/") {
			continue
		}
		src := dialect.HelmRepository(&list.Items[i])
		src.Chart = named // whatever it is called: for the kind of Secret
		if err := deliver.ReadSecrets(ctx, c.reader, &src); err != nil {
			return "", delivery.Credentials{}, err
		}
		return named, src.Credentials, nil
	}
	return named, delivery.Credentials{}, nil
}
