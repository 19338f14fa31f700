package source

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"path"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/Masterminds/semver/v3"
	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/remote/transport"

	"keelson.dev/keelson/internal/delivery"
	"keelson.dev/keelson/internal/git"
	"keelson.dev/keelson/internal/redact"
)

const (
	helmConfigType = "application/vnd.cncf.helm.config.v1+json"
	helmLayerType  = "application/vnd.cncf.helm.chart.content.v1.tar+gzip"
	// maxManifest bounds what a registry answers besides blobs, in bytes.
	maxManifest = 4 << 20
	// maxTags and maxLayers bound what a repository, and an artifact, may have.
	maxTags, maxLayers = 100_000, 10
	// originAnnotation of a manifest tells what its content was made from.
	originAnnotation = "org.opencontainers.image.revision"
	// maxRedirects is how many redirects of a registry are followed.
	maxRedirects = 10
	// maxIdleAnswer is how long an answer of a registry is kept at most.
	maxIdleAnswer = 10 * time.Minute
)

// repositoryName is what a registry takes for the name of a repository.
var repositoryName = regexp.MustCompile(`^[a-z0-9]+([._/-]+[a-z0-9]+)*$`)

// at is a repository further down in a registry.
func (t target) at(name string) target {
	t.url += "/" + strings.Trim(name, "/")
	return t
}

// registry is a repository of an OCI registry, and how it is asked.
type registry struct {
	name.Repository
	*remote.Puller
}

// registry gives the repository at the target's address.
func (t target) registry() (registry, error) {
	host, repo, _ := strings.Cut(strings.TrimPrefix(t.url, "oci://"), "/")
	if !repositoryName.MatchString(repo) || len(repo) > 255 {
		return registry{}, fmt.Errorf("%w: %q is no name of an OCI repository", git.ErrRepoNotFound, repo)
	}
	var opts []name.Option
	if t.plain {
		opts = append(opts, name.Insecure)
	}
	reg, err := name.NewRegistry(host, opts...)
	if err != nil {
		return registry{}, fmt.Errorf("%w: %q is no host", git.ErrRepoNotFound, host)
	}
	with, err := t.auth.Client()
	if err != nil {
		return registry{}, err
	}
	g := &registryTransport{host: reg.RegistryStr(), plain: t.plain, word: t.words.plain, ourselves: with.Transport, nobody: with.Transport}
	if t.auth.ClientCert != "" {
		anonymous := t.auth
		anonymous.ClientCert, anonymous.ClientKey = "", ""
		without, err := anonymous.Client()
		if err != nil {
			return registry{}, err
		}
		g.nobody = without.Transport
	}
	auth := authn.Anonymous
	if t.auth.Username != "" || t.auth.Password != "" || t.auth.BearerToken != "" {
		auth = authn.FromConfig(authn.AuthConfig{Username: t.auth.Username, Password: t.auth.Password, RegistryToken: t.auth.BearerToken})
	}
	p, err := remote.NewPuller(remote.WithAuth(auth), remote.WithTransport(g), remote.WithUserAgent(userAgent), remote.WithRetryBackoff(remote.Backoff{Steps: 1}))
	if err != nil {
		return registry{}, fmt.Errorf("ask the registry: %w", err)
	}
	return registry{reg.Repo(repo), p}, nil
}

// registryTransport bounds what a registry answers, speaks TLS, and shows the client's certificate to the registry alone. The
// library shows user name and password, or a token, to it and to the server of tokens that it names.
type registryTransport struct {
	host              string
	plain             bool
	word              string // the field that says so
	ourselves, nobody http.RoundTripper
}

// RoundTrip implements [http.RoundTripper].
func (g *registryTransport) RoundTrip(req *http.Request) (*http.Response, error) {
	if req.URL.Scheme != "https" && !g.plain && !loopback(req.URL.Hostname()) {
		return nil, fmt.Errorf("%s does not speak TLS, and %s is not set", req.URL.Host, g.word)
	}
	hops := 0
	for r := req; r.Response != nil && r.Response.Request != nil; r = r.Response.Request {
		if hops++; hops > maxRedirects { // the library itself does not count
			return nil, errors.New("too many redirects")
		}
	}
	rt := g.nobody
	if req.URL.Host == g.host {
		rt = g.ourselves
	}
	resp, err := rt.RoundTrip(req)
	if err != nil {
		return nil, err
	}
	if !strings.Contains(req.URL.Path, "/blobs/") && req.URL.Host == g.host {
		resp.Body = http.MaxBytesReader(nil, resp.Body, maxManifest)
	}
	return resp, nil
}

// loopback tells whether a host is this machine.
func loopback(host string) bool {
	ip := net.ParseIP(host)
	return host == "localhost" || ip != nil && ip.IsLoopback()
}

// registryError tells what an error of a registry means.
func registryError(err error) error {
	if fault := (*delivery.Fault)(nil); err == nil || errors.As(err, &fault) {
		return err
	}
	text := errors.New(redact.Text(err.Error()))
	var answer *transport.Error
	if errors.As(err, &answer) {
		switch answer.StatusCode {
		case http.StatusUnauthorized, http.StatusForbidden:
			return fmt.Errorf("%w: %w", git.ErrAuth, text)
		case http.StatusNotFound, http.StatusGone:
			if slices.ContainsFunc(answer.Errors, func(d transport.Diagnostic) bool { return d.Code == transport.NameUnknownErrorCode }) {
				return fmt.Errorf("%w: %w", errNoRepository, text)
			}
			return fmt.Errorf("%w: %w", errNoVersion, text)
		}
		if refuses(answer.StatusCode) {
			return fmt.Errorf("%w: %w", git.ErrRefused, text)
		}
	}
	if tooLarge := (*http.MaxBytesError)(nil); errors.As(err, &tooLarge) {
		return fmt.Errorf("%w: the registry's answer is larger than %d MiB", errArchive, maxManifest>>20)
	}
	for _, known := range []error{errArchive, errNoRepository, errNoVersion, git.ErrAuth, git.ErrRepoNotFound, git.ErrRefused} {
		if errors.Is(err, known) {
			return err
		}
	}
	return fmt.Errorf("%w: %w", git.ErrUnreachable, text)
}

// answer is a digest that a registry has told, and when.
type answer struct {
	rev  delivery.Revision
	at   time.Time
	took time.Duration
}

// artifactRef names a version of an OCI artifact, or a range of them.
type artifactRef struct {
	name  string
	chart bool // of a chart: its repository has "_" for "+"

	// In Flux's words: name is a range, and nothing but versions in full count, of tags that match filter.
	ranged bool
	filter string
}

// resolveOCI says which manifest is meant: the tag that is called so, in a chart's repository with "_" for "+", or else the highest
// one in the range of versions. A digest is itself, if it is there.
func (f *Fetcher) resolveOCI(ctx context.Context, t target, timeout time.Duration, want artifactRef) (delivery.Revision, error) {
	key := fmt.Sprintf("%s %q %t %t %q", f.identity(t), want.name, want.chart, want.ranged, want.filter)
	f.mu.Lock()
	now := time.Now()
	for k, a := range f.answers {
		if now.Sub(a.at) > min(maxAskingShare*a.took, maxIdleAnswer) {
			delete(f.answers, k)
		}
	}
	known, ok := f.answers[key]
	f.mu.Unlock()
	if ok && !t.fresh {
		return known.rev, nil
	}
	told, err := f.once(ctx, "oci "+key, timeout, func(ctx context.Context) ([]byte, error) {
		began := time.Now()
		resolve := t.resolveTag
		if want.ranged {
			resolve = t.highestTag
		}
		rev, err := resolve(ctx, want)
		if err != nil {
			return nil, registryError(err)
		}
		f.mu.Lock()
		defer f.mu.Unlock()
		f.answers[key] = answer{rev: rev, at: time.Now(), took: time.Since(began)}
		return []byte(rev.String()), nil
	})
	return delivery.ParseRevision(string(told)), err
}

// resolveTag asks the registry.
func (t target) resolveTag(ctx context.Context, ref artifactRef) (delivery.Revision, error) {
	want, chart := ref.name, ref.chart
	r, err := t.registry()
	if err != nil {
		return delivery.Revision{}, err
	}
	if digest := strings.TrimPrefix(want, "sha256:"); isDigest(digest) {
		_, err := r.digest(ctx, r.Digest("sha256:"+digest))
		return delivery.Revision{Commit: digest}, err
	}
	if want == "" && !chart {
		want = "latest"
	}
	if want != "" && tagName.MatchString(tagOf(want)) && (!chart || !isRange(want)) {
		digest, err := r.digest(ctx, r.Tag(tagOf(want)))
		if err == nil {
			return delivery.Revision{Name: want, Commit: digest}, nil
		}
		if !errors.Is(registryError(err), errNoVersion) {
			return delivery.Revision{}, err
		}
	}
	tags, err := r.tags(ctx)
	if err != nil {
		return delivery.Revision{}, err
	}
	for i, tag := range tags {
		tags[i] = strings.ReplaceAll(tag, "_", "+")
	}
	version, err := chooseVersion(path.Base(t.url), want, tags)
	if err != nil {
		return delivery.Revision{}, err
	}
	digest, err := r.digest(ctx, r.Tag(tagOf(version)))
	return delivery.Revision{Name: version, Commit: digest}, err
}

// highestTag gives the highest version in a range, as Flux does: versions are written in full, with or without a leading "v". Of tags
// that say the same version the last one by name is taken.
func (t target) highestTag(ctx context.Context, ref artifactRef) (delivery.Revision, error) {
	filter, err := regexp.Compile(ref.filter)
	if err != nil {
		return delivery.Revision{}, badRange(t, "spec.ref.semverFilter", fmt.Errorf("'%s' is no regular expression: %w", ref.filter, err))
	}
	constraint, err := semver.NewConstraint(ref.name)
	if err != nil {
		return delivery.Revision{}, badRange(t, "spec.ref.semver", fmt.Errorf("'%s' is no range of versions: %w", ref.name, err))
	}
	r, err := t.registry()
	if err != nil {
		return delivery.Revision{}, err
	}
	tags, err := r.tags(ctx)
	if err != nil {
		return delivery.Revision{}, err
	}
	slices.Sort(tags)
	var best *semver.Version
	found := ""
	for _, tag := range tags {
		text := strings.TrimPrefix(tag, "v")
		if ref.chart {
			text = strings.ReplaceAll(text, "_", "+")
		}
		v, err := semver.StrictNewVersion(text)
		if err == nil && filter.MatchString(tag) && constraint.Check(v) && (best == nil || !v.LessThan(best)) {
			best, found = v, tag
		}
	}
	if best == nil {
		return delivery.Revision{}, badRange(t, "spec.ref", fmt.Errorf("%w: of %d tags none is in the range '%s'%s", errNoVersion, len(tags), ref.name, theseAre(ref.name, tags)))
	}
	digest, err := r.digest(ctx, r.Tag(found))
	return delivery.Revision{Name: found, Commit: digest}, err
}

// theseAre names tags that are there.
func theseAre(want string, tags []string) string {
	if len(tags) == 0 {
		return ""
	}
	return "; there is: " + nearVersions(want, tags)
}

// badRange tells that no tag can be found.
func badRange(t target, field string, err error) error {
	return &delivery.Fault{Reason: "ReadOperationFailed", Where: t.url, Retry: delivery.OnChange, Err: fmt.Errorf("find a tag: %w", err), Hint: "correct " + field + ", or push such a tag"}
}

// tagName is what a registry takes for a tag.
var tagName = regexp.MustCompile(`^[A-Za-z0-9_][A-Za-z0-9._-]{0,127}$`)

// tagOf is the tag of a version: a tag has no "+".
func tagOf(version string) string { return strings.ReplaceAll(version, "+", "_") }

// digest asks for the digest of a manifest, in hex.
func (r registry) digest(ctx context.Context, ref name.Reference) (string, error) {
	d, err := r.Head(ctx, ref)
	if answer := (*transport.Error)(nil); err != nil && (!errors.As(err, &answer) || answer.StatusCode != http.StatusNotFound) {
		var full *remote.Descriptor // not all registries answer HEAD in full
		if full, err = r.Get(ctx, ref); err == nil {
			d = &full.Descriptor
		}
	}
	if err != nil {
		return "", err
	}
	if d.Digest.Algorithm != "sha256" || !isDigest(d.Digest.Hex) {
		return "", fmt.Errorf("%w: %s is named by %s, and only sha256 is known", errArchive, ref, d.Digest)
	}
	return d.Digest.Hex, nil
}

// tags lists the tags of a repository.
func (r registry) tags(ctx context.Context) ([]string, error) {
	l, err := r.Lister(ctx, r.Repository)
	if err != nil {
		return nil, err
	}
	var all []string
	for l.HasNext() {
		page, err := l.Next(ctx)
		if err != nil {
			return nil, err
		}
		all = append(all, page.Tags...)
		if len(all) > maxTags {
			return nil, fmt.Errorf("%w: the repository has more than %d tags", errArchive, maxTags)
		}
		if len(page.Tags) == 0 {
			break // whatever it says about a next page
		}
	}
	return all, nil
}

// resolveArtifact says which version of an OCI artifact is meant now.
func (f *Fetcher) resolveArtifact(ctx context.Context, src delivery.Source) (delivery.Revision, error) {
	t, err := f.archiveTarget(src)
	if err != nil {
		return delivery.Revision{}, err
	}
	var want artifactRef
	switch {
	case src.Ref.Any != "":
		want.name = src.Ref.Any
	case src.Ref.Commit != "":
		want.name = src.Ref.Commit
	case src.Ref.SemVer != "":
		want = artifactRef{name: src.Ref.SemVer, ranged: true, filter: src.Ref.Filter, chart: src.Layer.Type == helmLayerType}
	default:
		want.name = src.Ref.Tag
	}
	if want.name == "HEAD" && !src.Layer.Given() {
		want.name = ""
	}
	began := time.Now()
	rev, err := f.resolveOCI(ctx, t, timeoutOf(src), want)
	if err != nil {
		return delivery.Revision{}, chartFault(t, "resolve "+t.words.ref, "", err)
	}
	f.noteTook(t, began)
	return rev, nil
}

// noteTook remembers how long a source's remote took to answer.
func (f *Fetcher) noteTook(t target, began time.Time) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.took[asker{t.id, t.url}] = time.Since(began)
}

// content is what of an artifact is wanted.
type content struct {
	chart bool // a chart, without the folder that it is in
	layer delivery.Layer
}

func contentOf(src delivery.Source) content { return content{chart: src.Chart != "", layer: src.Layer} }

// pull gives the files of an artifact by the digest of its manifest, and what they were made from. What is in dir already is not
// asked for again.
func (f *Fetcher) pull(ctx context.Context, t target, dir, digest string, want content) (*git.Tree, string, error) {
	manifest, err := f.content(ctx, dir, digest, func(ctx context.Context) ([]byte, error) { return t.manifest(ctx, "sha256:"+digest) })
	if err != nil {
		return nil, "", err
	}
	layer, isChart, origin, err := layerOf(manifest, want.layer)
	if err != nil {
		return nil, "", err
	}
	if want.chart && !isChart {
		return nil, "", fmt.Errorf("%w: it is not a Helm chart", errArchive)
	}
	data, err := f.content(ctx, dir, layer, func(ctx context.Context) ([]byte, error) { return t.blob(ctx, layer) })
	if err != nil {
		return nil, "", err
	}
	tree, err := f.unpacked(treeKey{layer, isChart}, data)
	return tree, origin, err
}

// content gives what has a digest: what is kept in dir, or else what bring brings, which is kept then.
func (f *Fetcher) content(ctx context.Context, dir, digest string, bring func(context.Context) ([]byte, error)) ([]byte, error) {
	if data := f.stored(dir, digest); data != nil {
		return data, nil
	}
	return f.once(ctx, dir+" "+digest, remaining(ctx), func(ctx context.Context) ([]byte, error) {
		if data := f.stored(dir, digest); data != nil {
			return data, nil
		}
		data, err := bring(ctx)
		if err != nil {
			return nil, err
		}
		if got := digestOf(data); got != digest {
			return nil, fmt.Errorf("%w: its digest is sha256:%s, not sha256:%s", errArchive, got, digest)
		}
		return data, f.keep(dir, digest, data)
	})
}

// manifest brings a manifest, by tag or by digest.
func (t target) manifest(ctx context.Context, ref string) ([]byte, error) {
	r, err := t.registry()
	if err != nil {
		return nil, err
	}
	var reference name.Reference = r.Tag(ref)
	if strings.HasPrefix(ref, "sha256:") {
		reference = r.Digest(ref)
	}
	d, err := r.Get(ctx, reference)
	if err != nil {
		return nil, registryError(err)
	}
	return d.Manifest, nil
}

// blob brings a blob by its digest.
func (t target) blob(ctx context.Context, digest string) ([]byte, error) {
	r, err := t.registry()
	if err != nil {
		return nil, err
	}
	layer, err := r.Layer(ctx, r.Digest("sha256:"+digest))
	if err != nil {
		return nil, registryError(err)
	}
	in, err := layer.Compressed()
	if err != nil {
		return nil, registryError(err)
	}
	defer in.Close()
	data, err := io.ReadAll(io.LimitReader(in, maxArchive+1))
	if err != nil {
		return nil, registryError(err)
	}
	if len(data) > maxArchive {
		return nil, fmt.Errorf("%w: it is larger than %d MiB", errArchive, maxArchive>>20)
	}
	return data, nil
}

// layerOf finds the layer with the content. Where it is not said which one that is, it is the only one, as in Argo CD (user-guide/oci):
// of a chart its archive, else a tar archive. chart tells that its files are in one folder, which is to be left out.
func layerOf(manifest []byte, want delivery.Layer) (digest string, chart bool, origin string, err error) {
	m, err := v1.ParseManifest(bytes.NewReader(manifest))
	if err != nil {
		return "", false, "", fmt.Errorf("%w: malformed manifest: %w", errArchive, err)
	}
	if len(m.Layers) > maxLayers {
		return "", false, "", fmt.Errorf("%w: it has %d layers, more than %d", errArchive, len(m.Layers), maxLayers)
	}
	chart = m.Config.MediaType == helmConfigType && !want.Given()
	var found []v1.Descriptor
	var types []string
	for _, l := range m.Layers {
		kind := string(l.MediaType)
		types = append(types, kind)
		switch {
		case want.Given():
			if len(found) == 0 && (want.Type == "" || want.Type == kind) {
				found = append(found, l)
			}
		case chart && kind == helmLayerType || !chart && (strings.HasSuffix(kind, "tar+gzip") || strings.HasSuffix(kind, "tar.gzip") || strings.HasSuffix(kind, ".tar")):
			found = append(found, l)
		}
	}
	all := strings.Join(types, ", ")
	switch {
	case len(m.Layers) == 0 && want.Given():
		return "", false, "", fmt.Errorf("%w: it has no layers", errArchive)
	case len(found) == 0 && want.Given():
		return "", false, "", fmt.Errorf("%w: it has no layer of the type %s; there is: %s", errArchive, want.Type, all)
	case len(found) != 1:
		return "", false, "", fmt.Errorf("%w: it must have one layer that is a tar archive, and has %d among: %s", errArchive, len(found), all)
	case found[0].Digest.Algorithm != "sha256" || !isDigest(found[0].Digest.Hex):
		return "", false, "", fmt.Errorf("%w: its content is named by %s, and only sha256 is known", errArchive, found[0].Digest)
	case found[0].Size > maxArchive:
		return "", false, "", fmt.Errorf("%w: it has %d bytes, more than %d MiB", errArchive, found[0].Size, maxArchive>>20)
	}
	return found[0].Digest.Hex, chart, m.Annotations[originAnnotation], nil
}

// pullFrom brings the archive of a chart that the index of an HTTP repository says is in an OCI registry. That one sees the
// repository's credentials only where it is on the same host, or all may see them.
func (f *Fetcher) pullFrom(ctx context.Context, t target, u *url.URL) ([]byte, error) {
	own, err := url.Parse(t.url)
	if err != nil {
		return nil, err
	}
	at, tag, ok := cutTag(u.Host + u.Path)
	if !ok {
		return nil, fmt.Errorf("%w: the address has no tag", errIndex)
	}
	to := target{url: "oci://" + at, id: t.id, oci: true, plain: t.plain, words: t.words, auth: git.Auth{CA: t.auth.CA, Proxy: t.auth.Proxy, NoProxy: t.auth.NoProxy, Insecure: t.auth.Insecure}}
	same := own.Scheme == "https" && u.Host == own.Host
	if same || t.passAll {
		to.auth.Username, to.auth.Password, to.auth.BearerToken = t.auth.Username, t.auth.Password, t.auth.BearerToken
	}
	if same {
		to.auth.ClientCert, to.auth.ClientKey = t.auth.ClientCert, t.auth.ClientKey
	}
	manifest, err := to.manifest(ctx, tagOf(tag))
	if err != nil {
		return nil, err
	}
	layer, chart, _, err := layerOf(manifest, delivery.Layer{})
	if err == nil && !chart {
		err = fmt.Errorf("%w: it is not a Helm chart", errArchive)
	}
	if err != nil {
		return nil, err
	}
	data, err := to.blob(ctx, layer)
	if err == nil && digestOf(data) != layer {
		err = fmt.Errorf("%w: its digest is not sha256:%s", errArchive, layer)
	}
	return data, err
}

// cutTag takes "host/path:tag" or "host/path@sha256:…" apart.
func cutTag(ref string) (repo, tag string, ok bool) {
	if repo, tag, ok = strings.Cut(ref, "@"); ok {
		return repo, tag, strings.HasPrefix(tag, "sha256:")
	}
	i := strings.LastIndexByte(ref, ':')
	if i < strings.LastIndexByte(ref, '/') {
		return ref, "", false
	}
	return ref[:i], ref[i+1:], tagName.MatchString(tagOf(ref[i+1:]))
}
