package source

import (
	"context"
	"crypto/sha256"
	"embed"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"slices"
	"strings"
	"time"

	"keelson.dev/keelson/internal/delivery"
	"keelson.dev/keelson/internal/git"
	"keelson.dev/keelson/internal/redact"
)

// Reasons of faults with charts and other archives, as Flux's source-controller sets them.
const (
	ReasonIndex = "IndexationFailed"
	ReasonChart = "ChartPullFailed"
	ReasonOCI   = "OCIArtifactPullFailed"

	reasonFailed = "Failed" // an index cannot be fetched
)

const (
	indexPrefix = ".index-" // of indexes' files; New clears them away
	// maxIdleIndex is how long an index is kept that nobody asks for.
	maxIdleIndex = time.Hour
	userAgent    = "keelson"
)

// index is what a repository's index.yaml was when it was last asked for.
type index struct {
	sections
	file           *os.File // unlinked: it is gone with the last who reads it
	digest         string   // SHA-256, in hex
	etag, modified string
	answered, used time.Time
	took           time.Duration
	versions       map[string][]chartVersion // of the charts that were asked for
}

// isOCI tells whether an address is that of an OCI registry: "oci://…", or without any scheme, as Argo CD writes it.
func isOCI(raw string) bool {
	scheme, _, ok := strings.Cut(raw, "://")
	return !ok || strings.EqualFold(scheme, "oci")
}

// archiveTarget is where a chart or an OCI artifact comes from.
func (f *Fetcher) archiveTarget(src delivery.Source) (target, error) {
	c := src.Credentials
	t := target{
		id: src.ID, words: wordsOf(src), salt: src.ID.Namespace, tenant: src.Tenant, plain: c.PlainHTTP, passAll: c.PassAll, oci: isOCI(src.URL),
		indexAt: src.IndexAt, fixed: src.IndexFixed, fresh: src.Fresh,
	}
	raw := src.URL
	if !t.oci {
		raw, t.query, _ = strings.Cut(raw, "?")
	}
	address, inURL, err := parseAddress(raw)
	if err == nil && strings.HasPrefix(address, "ssh:") {
		err = &delivery.Fault{Reason: ReasonURL, Retry: delivery.OnChange, Err: errors.New("a Helm repository is not reached by ssh")}
	}
	if fault := (*delivery.Fault)(nil); errors.As(err, &fault) {
		fault.Where, fault.Hint = redact.URL(src.URL), "write "+t.words.url+" as https://host/path or oci://host/path"
	}
	t.url, t.auth = address, authOf(inURL, c)
	return t, err
}

// parseAddress is parseURL for all sources: the normalised address of an OCI registry begins with "oci://".
func parseAddress(raw string) (string, git.Auth, error) {
	if !isOCI(raw) || isSCP(raw) {
		return parseURL(raw)
	}
	for _, rest, ok := strings.Cut(raw, "://"); ok; _, rest, ok = strings.Cut(raw, "://") {
		raw = rest // "oci://https://…" too: who says enableOCI may have written either
	}
	address, auth, err := parseURL("https://" + raw)
	return "oci://" + strings.TrimPrefix(address, "https://"), auth, err
}

// resolveIndex says what a Helm repository's index is now.
func (f *Fetcher) resolveIndex(ctx context.Context, src delivery.Source) (delivery.Revision, error) {
	t, err := f.archiveTarget(src)
	if err != nil {
		return delivery.Revision{}, err
	}
	if t.oci {
		return delivery.Revision{}, &delivery.Fault{
			Reason: ReasonURL, Where: redact.URL(src.URL), Retry: delivery.OnChange,
			Err: errors.New("an OCI registry has no index of charts"), Hint: "set spec.type: oci, or write spec.url as https://host/path",
		}
	}
	x, err := f.index(ctx, t, timeoutOf(src))
	if err != nil {
		f := delivery.FaultOf(chartFault(t, "fetch the index", "", err), reasonFailed)
		if f.Reason == ReasonChart {
			f.Reason = reasonFailed
		}
		return delivery.Revision{}, f
	}
	return delivery.Revision{Commit: x.digest}, nil
}

// resolveChart says which version of a chart is meant now, and which archive that is.
func (f *Fetcher) resolveChart(ctx context.Context, src delivery.Source) (delivery.Revision, error) {
	t, err := f.archiveTarget(src)
	if err != nil {
		return delivery.Revision{}, err
	}
	want := src.Ref.SemVer
	if src.Ref.Any != "" {
		want = src.Ref.Any
	}
	if want == "HEAD" {
		want = ""
	}
	if t.oci {
		began := time.Now()
		rev, err := f.resolveOCI(ctx, t.at(src.Chart), timeoutOf(src), artifactRef{name: want, chart: true})
		if err != nil {
			return delivery.Revision{}, chartFault(t.at(src.Chart), "find chart "+src.Chart, "", err)
		}
		f.noteTook(t, began)
		return rev, nil
	}
	v, err := f.findVersion(ctx, t, timeoutOf(src), src.Chart, want)
	if err != nil {
		return delivery.Revision{}, chartFault(t, "find chart "+src.Chart, "", err)
	}
	rev := delivery.Revision{Name: v.Version, Commit: v.digest()}
	if rev.Commit == "" {
		// The index does not say what the archive is: it is looked at, once.
		dir, name := f.archivesDir(t), link(t.url, src.Chart, v.Version, v.URLs[0])
		_, err := f.once(ctx, dir+" "+name, timeoutOf(src), func(ctx context.Context) ([]byte, error) {
			if isDigest(linked(dir, name)) {
				return nil, nil
			}
			data, err := f.download(ctx, t, v)
			if err != nil {
				return nil, err
			}
			digest := digestOf(data)
			return nil, errors.Join(f.keep(dir, digest, data), f.keep(dir, name, []byte(digest)))
		})
		if err != nil {
			return delivery.Revision{}, chartFault(t, fmt.Sprintf("fetch chart %s %s", src.Chart, v.Version), "", err)
		}
		rev.Commit = linked(dir, name)
	}
	return rev, nil
}

// digest is the SHA-256 digest of a version's archive; empty: the index does not tell it.
func (v chartVersion) digest() string {
	d := strings.ToLower(strings.TrimPrefix(v.Digest, "sha256:"))
	if !isDigest(d) {
		return ""
	}
	return d
}

// fetchArchive gives the snapshot of a chart or of an OCI artifact. One that is here already costs no exchange.
func (f *Fetcher) fetchArchive(ctx context.Context, src delivery.Source, rev delivery.Revision) (delivery.Snapshot, error) {
	t, err := f.archiveTarget(src)
	if err != nil {
		return delivery.Snapshot{}, err
	}
	what := "fetch " + rev.Short()
	if src.Chart != "" {
		what = fmt.Sprintf("fetch chart %s %s", src.Chart, rev.Name)
	}
	if !isDigest(rev.Commit) {
		return delivery.Snapshot{}, chartFault(t, what, "", fmt.Errorf("%w: it is not named by a digest", errNoVersion))
	}
	ctx, cancel := withTimeout(ctx, src)
	defer cancel()
	src.Sparse, src.Include = nil, nil
	if !src.Layer.Given() { // what is left out is said in Flux's words only
		src.Whole, src.HasIgnore, src.Ignore = true, false, ""
	}
	snap := delivery.Snapshot{Revision: rev}
	if src.Index {
		snap.Digest, snap.FS = "sha256:"+rev.Commit, embed.FS{}
		return snap, nil
	}
	dir := f.archivesDir(t)
	if t.oci {
		if src.Chart != "" {
			t = t.at(src.Chart)
		}
		tree, origin, err := f.pull(ctx, t, dir, rev.Commit, contentOf(src))
		if err != nil {
			return delivery.Snapshot{}, chartFault(t, what, "", err)
		}
		snap.Origin = origin
		return snap, errors.Join(newView(tree, &ignoreIndex{}, src).show(&snap), f.remember(dir, src, rev))
	}
	tree, err := f.fetchChart(ctx, t, dir, src.Chart, rev)
	if err != nil {
		return delivery.Snapshot{}, chartFault(t, what, "", err)
	}
	return snap, errors.Join(newView(tree, &ignoreIndex{}, src).show(&snap), f.remember(dir, src, rev))
}

// lastName is under which name the last revision of a source is kept.
func lastName(src delivery.Source) string {
	return link("last", src.Chart, fmt.Sprintf("%t %+v", src.OCI, src.Ref))
}

// remember keeps the last revision that was fetched.
func (f *Fetcher) remember(dir string, src delivery.Source, rev delivery.Revision) error {
	if name := lastName(src); linked(dir, name) != rev.String() {
		return f.keep(dir, name, []byte(rev.String()))
	}
	return nil
}

// Last is the revision of a chart or an OCI artifact that was fetched last, by this process or one before it: [Fetcher.Fetch] gives
// it without asking anybody, if it is still here. The zero Revision: none was, or the source is a Git repository.
func (f *Fetcher) Last(src delivery.Source) delivery.Revision {
	if src.Chart == "" && !src.OCI {
		return delivery.Revision{}
	}
	t, err := f.archiveTarget(src)
	if err != nil {
		return delivery.Revision{}
	}
	return delivery.ParseRevision(linked(f.archivesDir(t), lastName(src)))
}

// fetchChart gives the files of a chart of an HTTP repository.
func (f *Fetcher) fetchChart(ctx context.Context, t target, dir, chart string, rev delivery.Revision) (*git.Tree, error) {
	data, err := f.content(ctx, dir, rev.Commit, func(ctx context.Context) ([]byte, error) {
		v, err := f.findVersion(ctx, t, remaining(ctx), chart, rev.Name)
		if err != nil {
			return nil, err
		}
		return f.download(ctx, t, v)
	})
	if err != nil {
		return nil, err
	}
	return f.unpacked(treeKey{rev.Commit, true}, data)
}

// remaining is how much of a context's time is left.
func remaining(ctx context.Context) time.Duration {
	if end, ok := ctx.Deadline(); ok {
		return time.Until(end)
	}
	return DefaultTimeout
}

// findVersion finds a version of a chart in a repository's index.
func (f *Fetcher) findVersion(ctx context.Context, t target, timeout time.Duration, chart, want string) (chartVersion, error) {
	versions, err := f.versions(ctx, t, timeout, chart)
	if err != nil {
		return chartVersion{}, err
	}
	names := make([]string, len(versions))
	for i, v := range versions {
		names[i] = v.Version
	}
	name, err := chooseVersion(chart, want, names)
	if err != nil {
		return chartVersion{}, err
	}
	return versions[slices.Index(names, name)], nil
}

// chooseVersion gives the version that is called so, or else the highest one in the range of versions, as Helm does: an empty
// range is any version that is no pre-release.
func chooseVersion(chart, want string, versions []string) (string, error) {
	if slices.Contains(versions, want) {
		return want, nil
	}
	if want == "" {
		want = "*"
	}
	if best := highest(want, versions); best != "" {
		return best, nil
	}
	if len(versions) == 0 {
		return "", fmt.Errorf("%w: chart %s has no version at all", errNoVersion, chart)
	}
	return "", fmt.Errorf("%w: chart %s has no version '%s'; there is: %s", errNoVersion, chart, want, nearVersions(want, versions))
}

// versions are those of a chart in a repository's index.
func (f *Fetcher) versions(ctx context.Context, t target, timeout time.Duration, chart string) ([]chartVersion, error) {
	x, err := f.index(ctx, t, timeout)
	if err != nil {
		return nil, err
	}
	f.mu.Lock()
	versions, ok := x.versions[chart]
	f.mu.Unlock()
	if ok {
		return versions, nil
	}
	if x.whole {
		versions, err = parseWhole(io.NewSectionReader(x.file, 0, x.size), x.size, chart)
	} else if at, ok := x.charts[chart]; ok {
		versions, err = parseSection(io.NewSectionReader(x.file, at.from, at.to-at.from))
	}
	if err != nil {
		return nil, err
	}
	if len(versions) == 0 {
		if len(x.charts) == 0 {
			return nil, fmt.Errorf("%w: the repository has no chart %s", errNoChart, chart)
		}
		return nil, fmt.Errorf("%w: the repository has no chart %s; there is: %s", errNoChart, chart, nearNames(chart, x.charts))
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	x.versions[chart] = versions
	return versions, nil
}

// index gives a repository's index. It is asked for again if it may have changed, but so rarely that asking takes a small
// share of the time; who asks at the same time with the same credentials shares the answer.
func (f *Fetcher) index(ctx context.Context, t target, timeout time.Duration) (*index, error) {
	key := f.identity(t)
	f.mu.Lock()
	x := f.indexes[key]
	now := time.Now()
	for k, old := range f.indexes {
		if now.Sub(old.used) > maxIdleIndex && k != key {
			delete(f.indexes, k)
		}
	}
	if x != nil {
		x.used = now
		if x.digest == t.indexAt || !t.fixed && !t.fresh && now.Sub(x.answered) < maxAskingShare*x.took {
			f.mu.Unlock()
			return x, nil
		}
	}
	f.mu.Unlock()
	if t.fixed { // what was fetched last is good enough then
		return nil, fmt.Errorf("%w: the repository is suspended, and the index that it had is not here any more", git.ErrUnreachable)
	}
	_, err := f.once(ctx, "index "+key, timeout, func(ctx context.Context) ([]byte, error) {
		began := time.Now()
		fresh, err := f.askIndex(ctx, t, x)
		if err != nil {
			return nil, err
		}
		f.mu.Lock()
		defer f.mu.Unlock()
		fresh.answered = time.Now()
		fresh.took, fresh.used = fresh.answered.Sub(began), fresh.answered
		f.indexes[key] = fresh
		f.took[asker{t.id, t.url}] = fresh.took
		return nil, nil
	})
	if err != nil {
		return nil, err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.indexes[key], nil
}

// askIndex brings the index, or finds that the one that is here has not changed.
func (f *Fetcher) askIndex(ctx context.Context, t target, old *index) (*index, error) {
	u, err := url.Parse(t.url + "/index.yaml")
	if err != nil {
		return nil, err
	}
	u.RawQuery = t.query
	header := http.Header{}
	if old != nil && old.etag != "" {
		header.Set("If-None-Match", old.etag)
	} else if old != nil && old.modified != "" {
		header.Set("If-Modified-Since", old.modified)
	}
	resp, err := t.get(ctx, u, header)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	if resp.StatusCode == http.StatusNotModified && old != nil {
		same := *old
		return &same, nil
	}
	if err := checkAnswer(resp); err != nil {
		return nil, err
	}
	file, err := os.CreateTemp(f.opts.Dir, indexPrefix)
	if err != nil {
		return nil, fmt.Errorf("store index: %w", err)
	}
	x := &index{file: file, etag: resp.Header.Get("ETag"), modified: resp.Header.Get("Last-Modified"), versions: map[string][]chartVersion{}}
	if err := os.Remove(file.Name()); err != nil {
		file.Close()
		return nil, fmt.Errorf("store index: %w", err)
	}
	sum := sha256.New()
	if x.sections, err = findSections(io.TeeReader(resp.Body, sum), file); err != nil {
		file.Close()
		return nil, unlessKnown(err)
	}
	x.digest = hex.EncodeToString(sum.Sum(nil))
	return x, nil
}

// download brings the archive of a version.
func (f *Fetcher) download(ctx context.Context, t target, v chartVersion) ([]byte, error) {
	base, err := url.Parse(t.url + "/")
	if err != nil {
		return nil, err
	}
	ref, err := url.Parse(strings.TrimSpace(v.URLs[0]))
	if err != nil {
		return nil, fmt.Errorf("%w: the address of version %s is malformed", errIndex, v.Version)
	}
	u := base.ResolveReference(ref)
	if sameHost(u, base) && u.RawQuery == "" {
		u.RawQuery = t.query
	}
	shown := redact.URL(u.String())
	var data []byte
	switch u.Scheme {
	case "http", "https":
		var resp *http.Response
		if resp, err = t.get(ctx, u, nil); err == nil {
			defer resp.Body.Close()
			err = checkAnswer(resp)
		}
		if err == nil {
			data, err = readArchive(resp.Body)
		}
	case "oci":
		data, err = f.pullFrom(ctx, t, u)
	default:
		return nil, fmt.Errorf("%w: the address of version %s is %s, which is neither https nor oci", errIndex, v.Version, shown)
	}
	if err != nil {
		return nil, fmt.Errorf("%s: %w", shown, err)
	}
	if want, got := v.digest(), digestOf(data); want != "" && got != want {
		return nil, fmt.Errorf("%w: %s has the digest sha256:%s, the index says sha256:%s", errArchive, shown, got, want)
	}
	return data, nil
}

// readArchive reads an archive up to the size that one may have.
func readArchive(in io.Reader) ([]byte, error) {
	data, err := io.ReadAll(io.LimitReader(in, maxArchive+1))
	if err != nil {
		return nil, unlessKnown(err)
	}
	if len(data) > maxArchive {
		return nil, fmt.Errorf("%w: it is larger than %d MiB", errArchive, maxArchive>>20)
	}
	return data, nil
}

// unlessKnown takes an error for one of the network, unless it says itself what it is.
func unlessKnown(err error) error {
	for _, known := range []error{errIndex, errArchive, git.ErrUnreachable, git.ErrAuth, git.ErrRepoNotFound, git.ErrRefused} {
		if errors.Is(err, known) {
			return err
		}
	}
	return fmt.Errorf("%w: %w", git.ErrUnreachable, err)
}

// checkAnswer tells what a status means.
func checkAnswer(resp *http.Response) error {
	switch resp.StatusCode {
	case http.StatusOK:
		return nil
	case http.StatusUnauthorized, http.StatusForbidden:
		return fmt.Errorf("%w: the server answers %s", git.ErrAuth, resp.Status)
	case http.StatusNotFound, http.StatusGone:
		return fmt.Errorf("%w: the server answers %s", git.ErrRepoNotFound, resp.Status)
	}
	if refuses(resp.StatusCode) {
		return fmt.Errorf("%w: the server answers %s", git.ErrRefused, resp.Status)
	}
	return fmt.Errorf("%w: the server answers %s", git.ErrUnreachable, resp.Status)
}

// refuses tells whether a status says that the server does not want to answer this question, and not just not now.
func refuses(status int) bool {
	return status >= 400 && status < 500 && status != http.StatusRequestTimeout && status != http.StatusTooManyRequests
}

// get asks a repository, or a host that its index or a redirect names: that one sees no credentials.
func (t target) get(ctx context.Context, u *url.URL, header http.Header) (*http.Response, error) {
	own, err := url.Parse(t.url)
	if err != nil {
		return nil, err
	}
	transport, err := t.transport(own)
	if err != nil {
		return nil, err
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, u.String(), nil)
	if err != nil {
		return nil, errors.New("the address is malformed")
	}
	for k, v := range header {
		req.Header[k] = v
	}
	req.Header.Set("User-Agent", userAgent)
	resp, err := (&http.Client{Transport: transport}).Do(req)
	if err != nil {
		var ue *url.Error
		if errors.As(err, &ue) {
			err = fmt.Errorf("%s: %w", redact.URL(ue.URL), ue.Err) // a redirect may carry a token
		}
		return nil, unlessKnown(err)
	}
	return resp, nil
}

// guarded shows credentials to one host only, whatever redirects there are.
type guarded struct {
	own               *url.URL
	all               bool // all may see user name and password
	auth              git.Auth
	ourselves, nobody http.RoundTripper // with and without the client's certificate
}

// transport is how a repository is asked.
func (t target) transport(own *url.URL) (http.RoundTripper, error) {
	with, err := t.auth.Client()
	if err != nil {
		return nil, err
	}
	g := &guarded{own: own, all: t.passAll, auth: t.auth, ourselves: with.Transport, nobody: with.Transport}
	if t.auth.ClientCert != "" {
		anonymous := t.auth
		anonymous.ClientCert, anonymous.ClientKey = "", ""
		without, err := anonymous.Client()
		if err != nil {
			return nil, err
		}
		g.nobody = without.Transport
	}
	return g, nil
}

// RoundTrip implements [http.RoundTripper].
func (g *guarded) RoundTrip(req *http.Request) (*http.Response, error) {
	req = req.Clone(req.Context())
	req.Header.Del("Authorization")
	own := sameHost(req.URL, g.own)
	if own || g.all {
		switch {
		case g.auth.BearerToken != "":
			req.Header.Set("Authorization", "Bearer "+g.auth.BearerToken)
		case g.auth.Username != "" || g.auth.Password != "":
			req.SetBasicAuth(g.auth.Username, g.auth.Password)
		}
	}
	if own {
		return g.ourselves.RoundTrip(req)
	}
	return g.nobody.RoundTrip(req)
}

// sameHost tells whether two addresses are of one server, reached the same way.
func sameHost(a, b *url.URL) bool {
	port := func(u *url.URL) string {
		if p := u.Port(); p != "" {
			return p
		}
		return map[string]string{"http": "80", "https": "443"}[u.Scheme]
	}
	return a.Scheme == b.Scheme && strings.EqualFold(a.Hostname(), b.Hostname()) && port(a) == port(b)
}

// chartFault tells people what failed with a chart or an OCI artifact.
func chartFault(t target, what, hint string, err error) error {
	f := (*delivery.Fault)(nil)
	if errors.As(err, &f) {
		return err
	}
	err = fault(t, what, hint, err)
	errors.As(err, &f)
	if f.Reason == ReasonGit {
		f.Reason = ReasonChart
		if t.oci {
			f.Reason = ReasonOCI
		}
	}
	switch {
	case errors.Is(err, errNoVersion):
		f.Retry = delivery.OnChange
		switch {
		case f.Hint != "":
		case errors.Is(err, errNoChart):
			f.Hint = "correct chart, or publish it there"
		case errors.Is(err, errNoRepository):
			f.Hint = "check " + t.words.url + " and the chart's name; a private one is often not found without credentials"
		default:
			f.Hint = "correct " + t.words.version + ", or publish that version"
		}
	case errors.Is(err, errIndex):
		f.Reason = ReasonIndex
		if f.Hint == "" {
			f.Hint = "check that " + t.words.url + " is that of a Helm repository"
		}
	case errors.Is(err, errArchive):
		if f.Hint == "" {
			f.Hint = "package and publish it anew"
		}
	}
	return f
}
