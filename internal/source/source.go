// Package source brings repositories in: a [delivery.Source] gives the [delivery.Revision] that its ref names now,
// and a Revision gives an immutable [delivery.Snapshot] of the tree.
//
//	f, err := source.New(source.Options{Dir: mirrors, Local: host})
//	rev, err := f.Resolve(ctx, src)       // cheap: one question to the remote, or one file for a built-in repository
//	snap, err := f.Fetch(ctx, src, rev)   // brings what is missing; nothing if the commit is here already
//	err = f.Retain(ctx, sources)          // forget the mirrors of all others
//
// Sources with the same URL and credentials that ask at the same time share one question; PollAfter says when asking a slow
// remote again would be too early.
//
// There is one bare mirror per namespace and URL, shared by all sources there that name it: who may use one source of a
// namespace may read the Secrets of the others, but what one namespace may read is no other's to see. A mirror holds shallow history and grows by what
// changed. A mirror that is damaged (a killed process, deleted files) is noticed, thrown away and fetched anew.
// Repositories of the built-in host are read where they are, without a git process and without a copy.
// Credentials are never written to disk: the mirror's name and content come from the URL without its userinfo.
//
// Who may read a repository is decided by the remote at every Resolve, also where the commit is given.
//
// Errors that people can mend are [delivery.Fault] with the reasons of Flux's source-controller. Use
// [redact.URL] to show a source's URL.
package source

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"maps"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"time"
	"weak"

	"golang.org/x/sync/singleflight"

	"keelson.dev/keelson/internal/delivery"
	"keelson.dev/keelson/internal/git"
	"keelson.dev/keelson/internal/redact"
	"keelson.dev/keelson/internal/telemetry"
)

// Reasons of faults, as Flux's source-controller sets them.
const (
	ReasonAuth = "AuthenticationFailed"
	ReasonGit  = "GitOperationFailed"
	ReasonURL  = "URLInvalid"
)

// DefaultTimeout bounds one exchange with a remote where the source sets no timeout (Flux's default).
const DefaultTimeout = time.Minute

// DefaultBranch is followed where the source has no ref (Flux's default).
const DefaultBranch = "master"

// Options of a Fetcher.
type Options struct {
	// Dir is the folder of the mirrors; it is made if need be. One process at a time uses it.
	Dir string
	// Local knows the repositories of the built-in host: their URLs give the folder of the bare repository. May be nil.
	Local func(url string) (dir string, ok bool)
	// MaxFileSize is the size in bytes up to which a file of a repository is read; zero: [git.DefaultMaxFileSize].
	MaxFileSize int64
}

// Fetcher resolves and fetches sources. It is safe for concurrent use.
type Fetcher struct {
	opts Options

	mu    sync.Mutex
	repos map[string]*repository  // by folder
	desks map[deskKey]*desk       // who is asking which remote
	took  map[asker]time.Duration // how long a remote took to answer last

	subs map[asker]map[string]bool // mirrors of submodules, by the source that has them

	tokens tokens

	indexes map[string]*index // of Helm repositories, by who asks and how
	answers map[string]answer // of OCI registries, so too
	trees   map[treeKey]weak.Pointer[git.Tree]
	flights singleflight.Group
	secret  []byte // of this process: what is told apart by credentials is so by a keyed hash
}

// repository is a mirror, or a repository of the built-in host.
type repository struct {
	dir   string
	lock  chan struct{} // holds one token: whoever takes it may fetch into, or replace, the mirror
	repo  *git.Repository
	known *ignoreIndex
}

// target is a source's URL, understood.
type target struct {
	url   string      // normalised, without userinfo
	id    delivery.ID // of the source
	auth  git.Auth
	local string // folder of a built-in repository; empty: it is remote
	words words

	// Of charts and OCI artifacts.
	oci     bool   // url is "oci://host/path"
	query   string // of the URL; it may hold credentials
	plain   bool   // without TLS
	passAll bool   // other hosts see user name and password too
	fresh   bool   // answers of before do not count
	fixed   bool   // no other index than indexAt is good enough, and it is not asked for
	indexAt string // the digest of the index that a chart is looked for in

	// Who shares the mirror and the archives: the namespace; of a submodule the source alone, for nobody asks the remote who may read
	// it. Of those the tenant alone, where there is one.
	salt, tenant string
}

// New makes a Fetcher and clears away what a killed process has left behind.
func New(opts Options) (*Fetcher, error) {
	if err := os.MkdirAll(opts.Dir, 0o700); err != nil {
		return nil, fmt.Errorf("make mirror folder: %w", err)
	}
	for _, prefix := range []string{newPrefix, oldPrefix, indexPrefix} {
		left, err := filepath.Glob(filepath.Join(opts.Dir, prefix+"*"))
		if err != nil {
			return nil, fmt.Errorf("clear mirror folder: %w", err)
		}
		for _, dir := range left {
			if err := os.RemoveAll(dir); err != nil {
				return nil, fmt.Errorf("clear mirror folder: %w", err)
			}
		}
	}
	f := &Fetcher{
		opts: opts, repos: map[string]*repository{}, desks: map[deskKey]*desk{}, took: map[asker]time.Duration{}, subs: map[asker]map[string]bool{},
		indexes: map[string]*index{}, answers: map[string]answer{}, trees: map[treeKey]weak.Pointer[git.Tree]{}, secret: make([]byte, 32),
	}
	_, err := rand.Read(f.secret)
	return f, err
}

// CheckURL says what is wrong with a source's URL: nil, or a Fault with the reason URLInvalid.
func CheckURL(raw string) error {
	_, _, err := parseURL(raw)
	return err
}

// parseURL normalises a URL and takes its userinfo out.
func parseURL(raw string) (string, git.Auth, error) {
	shown := redact.URL(raw)
	invalid := func(hint, format string, args ...any) (string, git.Auth, error) {
		return "", git.Auth{}, &delivery.Fault{Reason: ReasonURL, Where: shown, Hint: hint, Retry: delivery.OnChange, Err: fmt.Errorf(format, args...)}
	}
	if isSCP(raw) {
		return invalid("write it as ssh://git@host/path.git", "the scp form of an ssh address is not supported, as in Flux") // "git@host:path"
	}
	u, err := url.Parse(raw)
	if err != nil {
		// The parser's message would repeat the URL, userinfo included.
		return invalid("write it as https://host/path.git", "not a valid URL")
	}
	switch scheme := strings.ToLower(u.Scheme); scheme {
	case "http", "https", "ssh":
		u.Scheme = scheme
	case "":
		return invalid("write it as https://host/path.git", "the URL has no scheme")
	default:
		return invalid("use the repository's https or ssh URL", "%s URLs are not supported", scheme)
	}
	if u.Hostname() == "" {
		return invalid("write it as https://host/path.git", "the URL has no host")
	}
	if u.RawQuery != "" || u.Fragment != "" {
		return invalid("set the branch, tag or commit in spec.ref, credentials in spec.secretRef", "a repository URL has no query and no fragment")
	}
	var auth git.Auth
	if u.User != nil {
		auth.Username = u.User.Username()
		auth.Password, _ = u.User.Password()
		u.User = nil
	}
	u.Host = strings.ToLower(u.Host)
	if port := u.Port(); port == "" || port == map[string]string{"http": "80", "https": "443", "ssh": "22"}[u.Scheme] {
		u.Host = u.Hostname()
		if strings.Contains(u.Host, ":") {
			u.Host = "[" + u.Host + "]"
		}
	} else {
		u.Host = net.JoinHostPort(u.Hostname(), port)
	}
	u.Path, u.RawPath = strings.TrimRight(u.Path, "/"), strings.TrimRight(u.RawPath, "/")
	return u.String(), auth, nil
}

// isSCP tells whether an address is in the form of scp: "git@host:path". A port is no path.
func isSCP(raw string) bool {
	host, rest, ok := strings.Cut(raw, ":")
	if !ok || strings.Contains(raw, "://") || strings.Contains(host, "/") {
		return false
	}
	port, _, _ := strings.Cut(rest, "/")
	return strings.Contains(host, "@") || port == "" || strings.Trim(port, "0123456789") != ""
}

func (f *Fetcher) target(ctx context.Context, src delivery.Source) (target, error) {
	u, auth, err := parseURL(src.URL)
	if err != nil {
		return target{}, err
	}
	t := target{url: u, id: src.ID, auth: authOf(auth, src.Credentials), words: wordsOf(src), salt: src.ID.Namespace, tenant: src.Tenant}
	if src.Credentials.App != (delivery.GitHubApp{}) {
		ctx, cancel := withTimeout(ctx, src)
		defer cancel()
		token, err := f.tokens.get(ctx, src.Credentials.App, git.Auth{CA: t.auth.CA, ClientCert: t.auth.ClientCert, ClientKey: t.auth.ClientKey, Proxy: t.auth.Proxy, NoProxy: t.auth.NoProxy, Insecure: t.auth.Insecure})
		if err != nil {
			return t, fault(t, "get a token of the GitHub App", "check the data of the GitHub App in "+t.words.secret, err)
		}
		t.auth.Username, t.auth.Password = "x-access-token", token
	}
	if f.opts.Local != nil {
		if dir, ok := f.opts.Local(u); ok {
			t.local = dir
		}
	}
	return t, nil
}

// Remote is the repository of a source with what it is shown, for who speaks to it without a [Fetcher]. A GitHub App has no lasting
// credentials, so it is refused.
func Remote(src delivery.Source) (git.Remote, error) {
	u, auth, err := parseURL(src.URL)
	if err == nil && src.Credentials.App != (delivery.GitHubApp{}) {
		err = errors.New("the credentials of a GitHub App are not spoken here: give a token")
	}
	return git.Remote{URL: u, Auth: authOf(auth, src.Credentials)}, err
}

// authOf is how a remote is reached: with the userinfo of its URL as far as the Secret says nothing else. Over ssh the
// user is always the URL's.
func authOf(inURL git.Auth, c delivery.Credentials) git.Auth {
	a := git.Auth{
		Username: c.Username, Password: c.Password, BearerToken: c.BearerToken,
		CA: c.CA, ClientCert: c.ClientCert, ClientKey: c.ClientKey, Proxy: c.Proxy, NoProxy: c.NoProxy,
		Identity: c.Identity, Passphrase: c.Passphrase, KnownHosts: c.KnownHosts, Insecure: c.Insecure,
	}
	if c.Username == "" && c.Password == "" && c.BearerToken == "" {
		a.Username, a.Password = inURL.Username, inURL.Password
	}
	return a
}

func (t target) remote() git.Remote { return git.Remote{URL: t.url, Auth: t.auth} }

// refName is the full name of the ref that a source follows; empty for a bare commit, and for a range of versions.
func refName(ref delivery.GitRef) string {
	switch {
	case ref.Commit != "" && ref.Branch == "":
		return ""
	case ref.Commit != "":
		return "refs/heads/" + ref.Branch
	case ref.Name != "":
		return strings.TrimSuffix(ref.Name, peeledSuffix)
	case ref.Tag != "":
		return "refs/tags/" + ref.Tag
	case ref.SemVer != "":
		return ""
	case ref.Branch != "":
		return "refs/heads/" + ref.Branch
	}
	return "refs/heads/" + DefaultBranch
}

// peeledSuffix of a tag's name stands for what it tags.
const peeledSuffix = "^{}"

// shortName is how a revision names a ref.
func shortName(ref string) string {
	for _, prefix := range []string{"refs/heads/", "refs/tags/"} {
		if s, ok := strings.CutPrefix(ref, prefix); ok {
			return s
		}
	}
	return ref
}

// Resolve says which commit the source's ref names now. For a given commit it only asks whether the repository may
// be read; whether the commit exists turns out in Fetch.
func (f *Fetcher) Resolve(ctx context.Context, src delivery.Source) (_ delivery.Revision, err error) {
	defer telemetry.Timer(telemetry.SourceRequests, "resolve")(&err)
	switch {
	case src.Index:
		return f.resolveIndex(ctx, src)
	case src.Chart != "":
		return f.resolveChart(ctx, src)
	case src.OCI:
		return f.resolveArtifact(ctx, src)
	}
	t, err := f.target(ctx, src)
	if err != nil {
		return delivery.Revision{}, err
	}
	if src.Ref.Any != "" {
		return f.resolveAny(ctx, t, src)
	}
	if src.Ref.Commit == "" && src.Ref.Name == "" && src.Ref.Tag == "" && src.Ref.SemVer != "" {
		return f.resolveRange(ctx, t, timeoutOf(src), src.Ref.SemVer)
	}
	ref := refName(src.Ref)
	if ref != "" {
		if err := git.CheckRefName(ref); err != nil {
			return delivery.Revision{}, fault(t, "resolve ref", "correct spec.ref", err)
		}
	}
	rev := delivery.Revision{Name: shortName(ref), Commit: src.Ref.Commit}
	if rev.Commit != "" {
		if _, err := git.ParseObjectID(rev.Commit); err != nil {
			return delivery.Revision{}, fault(t, "resolve commit", "give the full commit id in spec.ref.commit", fmt.Errorf("%w: %w", git.ErrUnknownRef, err))
		}
	} else if src.Ref.Name != "" {
		rev.Name = src.Ref.Name // in full, as upstream
	}
	if t.local != "" {
		return f.resolveLocal(t, ref, rev)
	}
	return f.resolveRemote(ctx, t, timeoutOf(src), ref, rev)
}

func (f *Fetcher) resolveLocal(t target, ref string, rev delivery.Revision) (delivery.Revision, error) {
	r, err := f.local(t)
	if err != nil {
		return delivery.Revision{}, fault(t, "open repository", "", err)
	}
	if rev.Commit != "" {
		if _, err := r.repo.Info(rev.Commit); err != nil {
			return delivery.Revision{}, fault(t, "resolve commit", "correct "+t.words.commit, err)
		}
		return rev, nil
	}
	rev.Commit, err = r.repo.Resolve(ref)
	if errors.Is(err, git.ErrUnknownRef) {
		refs, listErr := r.repo.Refs()
		if listErr != nil {
			return delivery.Revision{}, fault(t, "list refs", "", listErr)
		}
		return delivery.Revision{}, unknownRef(t, ref, refs)
	}
	if err != nil {
		return delivery.Revision{}, fault(t, "resolve ref", "", err)
	}
	return rev, nil
}

func (f *Fetcher) resolveRemote(ctx context.Context, t target, timeout time.Duration, ref string, rev delivery.Revision) (delivery.Revision, error) {
	if rev.Commit != "" {
		if _, err := f.lsRemote(ctx, t, timeout, "HEAD"); err != nil {
			return delivery.Revision{}, fault(t, "ask for the repository", "", err)
		}
		return rev, nil
	}
	refs, err := f.lsRemote(ctx, t, timeout, ref, ref+"^{}")
	if err != nil {
		return delivery.Revision{}, fault(t, "ask for refs", "", err)
	}
	rev.Commit = refs[ref]
	if peeled := refs[ref+"^{}"]; peeled != "" {
		rev.Commit = peeled
	}
	if rev.Commit == "" {
		all, err := f.lsRemote(ctx, t, timeout, "refs/heads/*", "refs/tags/*")
		if err != nil {
			return delivery.Revision{}, fault(t, "ask for refs", "", err)
		}
		return delivery.Revision{}, unknownRef(t, ref, all)
	}
	if _, err := git.ParseObjectID(rev.Commit); err != nil {
		return delivery.Revision{}, fault(t, "ask for refs", "", fmt.Errorf("%s: %w", ref, err))
	}
	return rev, nil
}

// Fetch gives the snapshot of a revision that Resolve returned. A commit that is here already costs no exchange with
// the remote; sources with the same URL share one fetch. The snapshots that the source includes are given in its order;
// they must be of a Fetcher too.
func (f *Fetcher) Fetch(ctx context.Context, src delivery.Source, rev delivery.Revision, included ...delivery.Snapshot) (_ delivery.Snapshot, err error) {
	defer telemetry.Timer(telemetry.SourceRequests, "fetch")(&err)
	if src.Chart != "" || src.OCI || src.Index {
		return f.fetchArchive(ctx, src, rev)
	}
	t, err := f.target(ctx, src)
	if err != nil {
		return delivery.Snapshot{}, err
	}
	if _, err := git.ParseObjectID(rev.Commit); err != nil {
		return delivery.Snapshot{}, fault(t, "fetch", "", fmt.Errorf("%w: %w", git.ErrUnknownRef, err))
	}
	var r *repository
	ctx, cancel := withTimeout(ctx, src)
	defer cancel()
	if t.local != "" {
		r, err = f.local(t)
	} else {
		r, err = f.mirror(ctx, t, src, rev)
	}
	if err != nil {
		return delivery.Snapshot{}, fault(t, "fetch "+rev.Short(), "", err)
	}
	verified, err := f.verify(ctx, t, r, src, rev)
	if err != nil {
		return delivery.Snapshot{}, err
	}
	tree, err := r.repo.Tree(rev.Commit)
	if err != nil {
		return delivery.Snapshot{}, fault(t, "read "+rev.Short(), "", err)
	}
	if err := checkSparse(tree, src.Sparse); err != nil {
		return delivery.Snapshot{}, fault(t, "sparse checkout of "+rev.Short(), "check spec.sparseCheckout", err)
	}
	if src.Submodules {
		s := &submodules{f: f, src: src, root: t}
		if tree, err = s.fill(ctx, tree, t.url, ".", 1); err != nil {
			return delivery.Snapshot{}, err
		}
		f.onlySubmodules(asker{t.id, t.url}, s.mirrors)
	}
	if tree, err = include(ctx, tree, t, src, included); err != nil {
		return delivery.Snapshot{}, err
	}
	snap := delivery.Snapshot{Revision: rev, Verified: verified, Commit: said(r.repo, rev.Commit)}
	shown := newView(tree, r.known, src)
	shown.repo = r.repo
	if err := shown.show(&snap); err != nil {
		return delivery.Snapshot{}, fault(t, "read ignore files of "+rev.Short(), "", err)
	}
	return snap, nil
}

// said gives what a commit says about itself. It can be delivered without that.
func said(repo *git.Repository, id string) delivery.Commit {
	info, err := repo.Info(id)
	if err != nil {
		return delivery.Commit{}
	}
	message := info.Message
	if len(message) > delivery.MaxMessage {
		message = message[:delivery.MaxMessage/2] + message[len(message)-delivery.MaxMessage/2:]
	}
	return delivery.Commit{Author: info.Author.Name, Email: info.Author.Email, Authored: info.Author.When, Message: strings.Clone(message)}
}

// show makes the view what a snapshot shows.
func (v *view) show(snap *delivery.Snapshot) error {
	rules, err := v.identity()
	snap.Digest, snap.Rules, snap.FS = digest(v.tree.ID(), v.src), rules, v
	return err
}

// digest identifies the visible content: the tree and the rules of what is left out.
func digest(tree git.ObjectID, src delivery.Source) string {
	h := sha256.New()
	fmt.Fprintf(h, "%s\n%t\n%s", tree, src.HasIgnore, src.Ignore)
	for _, path := range src.Sparse {
		fmt.Fprintf(h, "\n%q", path)
	}
	if src.Whole {
		fmt.Fprint(h, "\nwhole")
	}
	return "sha256:" + hex.EncodeToString(h.Sum(nil))
}

func withTimeout(ctx context.Context, src delivery.Source) (context.Context, context.CancelFunc) {
	return context.WithTimeout(ctx, timeoutOf(src))
}

func timeoutOf(src delivery.Source) time.Duration {
	if src.Timeout > 0 {
		return src.Timeout
	}
	return DefaultTimeout
}

// words are what the fields are called that say where a source is.
type words struct {
	url, ref, commit, secret, noSecret, password, key, certificates string
	version, plain                                                  string // of charts and OCI artifacts
}

// fluxKinds are those of the ids of charts and OCI artifacts that are declared in Flux's words.
var fluxKinds = map[string]bool{"OCIRepository": true, "HelmRepositoryChart": true}

// wordsOf are Argo CD's for what only Argo CD has, else Flux's.
func wordsOf(src delivery.Source) words {
	if src.Ref.Any != "" || (src.Chart != "" || src.OCI) && !fluxKinds[src.ID.Kind] {
		const secret = "the Secret of the repository, which has the label argocd.argoproj.io/secret-type"
		return words{
			url: "repoURL", ref: "targetRevision", commit: "targetRevision", secret: secret, password: "username and password, or bearerToken", key: "sshPrivateKey, and the known hosts",
			noSecret:     "make a Secret with the label argocd.argoproj.io/secret-type: repository, url and %s",
			certificates: "tlsClientCertData and tlsClientCertKey in " + secret + ", and the certificates in argocd-tls-certs-cm",
			version:      "chart or targetRevision", plain: "insecureOCIForceHttp",
		}
	}
	w := words{
		url: "spec.url", ref: "spec.ref", commit: "spec.ref.commit", secret: "the Secret that spec.secretRef names", password: "username and password, or bearerToken",
		key: "identity, known_hosts and, for an encrypted key, password", noSecret: "name a Secret with %s in spec.secretRef",
		certificates: "ca.crt (and, where the server wants them, tls.crt and tls.key) in the Secret that spec.secretRef names",
		version:      "spec.ref", plain: "spec.insecure",
	}
	if src.Chart != "" || src.OCI || src.Index {
		w.password = "username and password, or .dockerconfigjson"
		w.certificates = "ca.crt (and, where the server wants them, tls.crt and tls.key) in the Secret that spec.certSecretRef names"
	}
	if src.Chart != "" {
		w.version = "chart or version"
		w.url, w.secret = "spec.url of the HelmRepository", w.secret+" of the HelmRepository"
		w.noSecret, w.certificates = w.noSecret+" of the HelmRepository", w.certificates+" of the HelmRepository"
	}
	return w
}

// onBuiltInHost is what the built-in Git host says of a repository that is not there.
var onBuiltInHost = regexp.MustCompile(`\bkeelson git create [A-Za-z0-9._/-]+`)

// fault tells people what failed, with the reason and, where no better hint is given, what to do about it.
func fault(t target, what, hint string, err error) error {
	if f := (*delivery.Fault)(nil); errors.As(err, &f) {
		return err
	}
	f := &delivery.Fault{Reason: ReasonGit, Where: t.url, Hint: hint, Err: fmt.Errorf("%s: %w", what, err)}
	var standard string
	switch {
	case errors.Is(err, git.ErrAuth):
		f.Reason = ReasonAuth
		what := t.words.password
		if strings.HasPrefix(t.url, "ssh:") {
			what = t.words.key
		}
		standard = "check " + t.words.secret + ": " + what
		if t.auth == (git.Auth{}) {
			standard = fmt.Sprintf(t.words.noSecret, what)
		}
	case errors.Is(err, git.ErrRepoNotFound):
		if make := onBuiltInHost.FindString(err.Error()); make != "" {
			standard = make + ", and push to it; or correct " + t.words.url
			break
		}
		standard = "check " + t.words.url + "; a private repository is often not found without credentials"
	case errors.Is(err, git.ErrRefused):
		standard = "check " + t.words.url + " and " + t.words.secret
	case errors.Is(err, git.ErrUnreachable) && strings.Contains(err.Error(), "certificate"):
		standard = "check " + t.words.certificates
	case errors.Is(err, git.ErrUnreachable):
		standard = "check that the host can be reached from here; it is tried again"
	case errors.Is(err, git.ErrUnknownRef):
		f.Retry = delivery.OnChange
		standard = "check " + t.words.ref
	}
	if f.Hint == "" {
		f.Hint = standard
	}
	return f
}

// unknownRef names what there is instead.
func unknownRef(t target, ref string, refs map[string]string) error {
	kind, prefix := "branch", "refs/heads/"
	if strings.HasPrefix(ref, "refs/tags/") {
		kind, prefix = "tag", "refs/tags/"
	}
	var names []string
	for _, name := range slices.Sorted(maps.Keys(refs)) {
		if short, ok := strings.CutPrefix(name, prefix); ok && !strings.HasSuffix(name, "^{}") {
			names = append(names, short)
		}
	}
	hint := "the repository is empty: push a commit"
	if len(refs) > 0 {
		hint = fmt.Sprintf("it has no %s at all; check %s", kind, t.words.ref)
	}
	if len(names) > 0 {
		more := ""
		if len(names) > 8 {
			names, more = names[:8], ", …"
		}
		hint = fmt.Sprintf("correct %s, or push it; a %s there is: %s%s", t.words.ref, kind, strings.Join(names, ", "), more)
	}
	return fault(t, "resolve ref", hint, fmt.Errorf("%w: %s", git.ErrUnknownRef, ref))
}
