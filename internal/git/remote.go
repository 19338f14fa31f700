package git

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"time"

	"keelson.dev/keelson/internal/redact"
)

// Auth is how a remote is reached and what it is shown: a bearer token, a user name and password, a client certificate
// or, over ssh, a key. The zero Auth is none.
type Auth struct {
	Username, Password, BearerToken string // over ssh the user name alone; empty: "git"

	CA                    string // PEM: authorities that are trusted besides the system's
	ClientCert, ClientKey string // PEM
	Proxy                 string // URL, http, https or socks5, with its userinfo; empty: what the environment says
	NoProxy               string // hosts that Proxy is not for, as in the environment variable NO_PROXY

	Identity   string // PEM or OpenSSH: the private key for ssh
	Passphrase string // of Identity
	KnownHosts string // as in OpenSSH's known_hosts: the host keys that are trusted

	Insecure bool // whatever certificate or host key the remote shows, it is trusted
}

// header is the Authorization header's value; empty for no credentials.
func (a Auth) header() string {
	switch {
	case a.BearerToken != "":
		return "Bearer " + a.BearerToken
	case a.Username != "" || a.Password != "":
		return "Basic " + base64.StdEncoding.EncodeToString([]byte(a.Username+":"+a.Password))
	}
	return ""
}

// Remote is a repository on another server. The URL is http, https or ssh and holds no userinfo.
type Remote struct {
	URL  string
	Auth Auth
}

// check refuses what must not reach a command line.
func (r Remote) check() error {
	u, err := url.Parse(r.URL)
	if err != nil || u.Scheme != "http" && u.Scheme != "https" && u.Scheme != "ssh" || u.Host == "" {
		return fmt.Errorf("%s is not an http, https or ssh URL", redact.URL(r.URL))
	}
	if u.User != nil {
		return fmt.Errorf("credentials must not be part of the URL %s", redact.URL(r.URL))
	}
	if strings.ContainsAny(r.Auth.Username+r.Auth.Password+r.Auth.BearerToken, "\r\n\x00") {
		return fmt.Errorf("%w: the credentials contain a line break", ErrAuth)
	}
	return nil
}

// config is the configuration that carries the credentials. With them no redirect is followed: git would send them
// to whatever host a redirect names.
func (r Remote) config() [][2]string {
	var c [][2]string
	if h := r.Auth.header(); h != "" {
		c = append(c, [2]string{"http.extraHeader", "Authorization: " + h})
	}
	if r.Auth.header() != "" || r.Auth.ClientKey != "" {
		c = append(c, [2]string{"http.followRedirects", "false"})
	}
	if r.Auth.Proxy != "" {
		proxy := r.Auth.Proxy
		if u, err := url.Parse(r.URL); err == nil && r.Auth.direct(u) {
			proxy = "" // none at all
		}
		c = append(c, [2]string{"http.proxy", proxy})
	}
	if r.Auth.Insecure {
		c = append(c, [2]string{"http.sslVerify", "false"})
	}
	return c
}

// exchange runs a command that talks to the remote, with more configuration; args gets the URL. With credentials a redirect within the
// same host (as of "/a/b" to "/a/b.git") is followed once, by asking where it leads and trying there.
func (r Remote) exchange(ctx context.Context, dir string, config [][2]string, args func(url string) []string) ([]byte, error) {
	if err := r.check(); err != nil {
		return nil, err
	}
	secrets := redact.New(r.Auth.secrets()...)
	if strings.HasPrefix(r.URL, "ssh:") {
		out, err := r.exchangeSSH(ctx, dir, config, args)
		if err != nil {
			return nil, &remoteError{err: err, text: secrets.Text(err.Error())}
		}
		return out, nil
	}
	try := func(remote string) ([]byte, error) {
		c := command{dir: dir, args: args(remote), config: append(r.config(), config...)}
		if err := r.Auth.tls(&c); err != nil {
			return nil, err
		}
		out, err := run(ctx, c)
		if err != nil && errors.Is(err, context.DeadlineExceeded) {
			err = fmt.Errorf("%w: no answer from %s in time: %w", ErrUnreachable, r.URL, err)
		}
		return out, err
	}
	out, err := try(r.URL)
	if err != nil && (r.Auth.header() != "" || r.Auth.ClientKey != "") && strings.Contains(err.Error(), "returned error: 30") {
		var target string
		if target, err = r.redirect(ctx); err == nil {
			out, err = try(target)
		}
	}
	if err != nil {
		return nil, &remoteError{err: err, text: secrets.Text(err.Error())}
	}
	return out, nil
}

// remoteError is an error whose text holds no secret.
type remoteError struct {
	err  error
	text string
}

func (e *remoteError) Error() string { return e.text }
func (e *remoteError) Unwrap() error { return e.err }

// redirect asks where the remote redirects to. Another host, or leaving https, is refused.
func (r Remote) redirect(ctx context.Context) (string, error) {
	const suffix = "/info/refs"
	from, err := url.Parse(r.URL)
	if err != nil {
		return "", fmt.Errorf("parse URL: %w", errors.Unwrap(err))
	}
	refused := func(to *url.URL) error {
		return fmt.Errorf("%w: %s redirects to %s: credentials are not sent to another host", ErrAuth, r.URL, redact.URL(to.Redacted()))
	}
	client, err := r.Auth.Client()
	if err != nil {
		return "", err
	}
	client.CheckRedirect = func(req *http.Request, via []*http.Request) error {
		to := req.URL
		if to.Hostname() != from.Hostname() || to.Scheme != from.Scheme && to.Scheme != "https" || to.Scheme == from.Scheme && to.Port() != from.Port() {
			return refused(to)
		}
		if len(via) > 5 {
			return errors.New("too many redirects")
		}
		return nil
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, strings.TrimSuffix(r.URL, "/")+suffix+"?service=git-upload-pack", nil)
	if err != nil {
		return "", fmt.Errorf("follow redirect: %w", err)
	}
	if h := r.Auth.header(); h != "" {
		req.Header.Set("Authorization", h)
	}
	resp, err := client.Do(req)
	if err != nil {
		if errors.Is(err, ErrAuth) {
			var ue *url.Error
			errors.As(err, &ue)
			return "", ue.Err
		}
		return "", fmt.Errorf("%w: follow redirect: %w", ErrUnreachable, err)
	}
	resp.Body.Close()
	to := *resp.Request.URL
	if !strings.HasSuffix(to.Path, suffix) {
		return "", fmt.Errorf("%w: %s redirects to %s, which is no git repository", ErrRepoNotFound, r.URL, redact.URL(to.Redacted()))
	}
	to.Path, to.RawQuery, to.User = strings.TrimSuffix(to.Path, suffix), "", nil
	return to.String(), nil
}

// LsRemote asks a remote for its refs, the cheap way to see whether something moved. With patterns (full names, or
// a prefix and "*") only those are asked for. An annotated tag also has an entry "<name>^{}" with what it tags;
// HEAD is listed as "HEAD".
func LsRemote(ctx context.Context, r Remote, patterns ...string) (map[string]string, error) {
	out, err := r.exchange(ctx, "", nil, func(url string) []string {
		return append([]string{"ls-remote", "--quiet", "--", url}, patterns...)
	})
	if err != nil {
		return nil, err
	}
	refs := map[string]string{}
	for line := range strings.Lines(string(out)) {
		id, name, ok := strings.Cut(strings.TrimSpace(line), "\t")
		if !ok {
			return nil, fmt.Errorf("git ls-remote: unexpected line %q", truncate(line, 100))
		}
		refs[name] = id
	}
	return refs, nil
}

// Branches asks a remote for its branches and tags, by their full names, and for the branch that its HEAD names; empty: it names none.
func Branches(ctx context.Context, r Remote) (refs map[string]string, head string, err error) {
	out, err := r.exchange(ctx, "", nil, func(url string) []string {
		return []string{"ls-remote", "--quiet", "--symref", "--", url, "HEAD", "refs/heads/*", "refs/tags/*"}
	})
	if err != nil {
		return nil, "", err
	}
	refs = map[string]string{}
	for line := range strings.Lines(string(out)) {
		id, name, ok := strings.Cut(strings.TrimSpace(line), "\t")
		if !ok {
			return nil, "", fmt.Errorf("git ls-remote: unexpected line %q", truncate(line, 100))
		}
		switch target, symbolic := strings.CutPrefix(id, "ref: "); {
		case symbolic && name == "HEAD":
			head = target
		case symbolic, strings.HasSuffix(name, "^{}"):
		case strings.HasPrefix(name, "refs/heads/"), strings.HasPrefix(name, "refs/tags/"):
			refs[name] = id
		}
	}
	return refs, head, nil
}

// Mirror makes the branches and tags of a bare repository those of a remote, and its HEAD name the same branch; empty: HEAD stays. What is
// not there any more goes. Objects are checked as those of a push are, and no more than maxPack bytes of them come at once.
func (r *Repository) Mirror(ctx context.Context, remote Remote, head string, maxPack int64) error {
	err := r.Fetch(ctx, remote, FetchOptions{
		Refspecs: []string{"+refs/heads/*:refs/heads/*", "+refs/tags/*:refs/tags/*"}, Prune: true, Check: true, MaxPack: maxPack,
	})
	if err != nil || !strings.HasPrefix(head, "refs/heads/") {
		return err
	}
	if err := CheckRefName(head); err != nil {
		return err
	}
	if now, err := r.Head(); err == nil && now == head {
		return nil
	}
	_, err = run(ctx, command{dir: r.dir, args: []string{"symbolic-ref", "HEAD", head}})
	return err
}

// FetchOptions says what is fetched.
type FetchOptions struct {
	// Refspecs as git fetch takes them: "+<full ref name or commit id>:<full ref name here>".
	Refspecs []string
	// Depth limits the history to that many commits; zero fetches all of it.
	Depth int
	// Onward fetches what follows what is here: a history that was limited stays so. Depth is zero then.
	Onward bool
	// Prune removes refs here that match the right sides of the refspecs and are gone there.
	Prune bool
	// Check refuses objects that are malformed, as git fsck finds them.
	Check bool
	// MaxPack bounds how many bytes of objects come; zero: nothing does. It is looked at while they come, so that a bit more may. No other
	// fetch with it may run in this repository at the time.
	MaxPack int64
}

// checks are the configuration that has objects checked. Old histories have a few harmless faults, which other hosts let pass, too.
var checks = [][2]string{
	{"fetch.fsckObjects", "true"},
	{"fetch.fsck.badTimezone", "ignore"},
	{"fetch.fsck.missingSpaceBeforeDate", "ignore"},
	{"fetch.fsck.zeroPaddedFilemode", "ignore"},
}

// errTooMuch is why a fetch has ended that brought too much.
var errTooMuch = errors.New("the repository is too large")

// packLook is how often the size of what comes is looked at.
const packLook = 50 * time.Millisecond

// arriving are the packs that a repository is receiving.
func (r *Repository) arriving() (packs []string) {
	dir := filepath.Join(r.dir, "objects", "pack")
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil // it has no packs yet
	}
	for _, e := range entries {
		if strings.HasPrefix(e.Name(), "tmp_pack_") {
			packs = append(packs, filepath.Join(dir, e.Name()))
		}
	}
	return packs
}

// guardPack gives a context that ends once more than most bytes have come. done removes what has not come in full.
func (r *Repository) guardPack(ctx context.Context, from string, most int64) (guarded context.Context, done func()) {
	guarded, cancel := context.WithCancelCause(ctx)
	over := make(chan struct{})
	go func() {
		defer close(over)
		tick := time.NewTicker(packLook)
		defer tick.Stop()
		for {
			select {
			case <-guarded.Done():
				return
			case <-tick.C:
			}
			var size int64
			for _, pack := range r.arriving() {
				if info, err := os.Stat(pack); err == nil { // it may have come in full
					size += info.Size()
				}
			}
			if size > most {
				cancel(fmt.Errorf("%w: %s sends more than %d bytes at once", errTooMuch, redact.URL(from), most))
				return
			}
		}
	}()
	return guarded, func() {
		cancel(nil)
		<-over
		for _, pack := range r.arriving() {
			_ = os.Remove(pack) // it is looked at again after the next fetch
		}
	}
}

// Fetch brings objects and refs of a remote here; what is here already is not sent again. It is atomic: refs change
// only after all objects have arrived.
func (r *Repository) Fetch(ctx context.Context, remote Remote, opts FetchOptions) error {
	args := []string{"fetch", "--quiet", "--no-tags", "--no-write-fetch-head", "--no-recurse-submodules", "--force"}
	if opts.Prune {
		args = append(args, "--prune")
	}
	_, err := os.Stat(filepath.Join(r.dir, "shallow"))
	switch {
	case opts.Depth > 0:
		args = append(args, fmt.Sprintf("--depth=%d", opts.Depth))
	case err == nil && !opts.Onward:
		args = append(args, "--unshallow")
	}
	var config [][2]string
	if opts.Check {
		config = append(config, checks...)
	}
	if opts.MaxPack > 0 {
		var done func()
		ctx, done = r.guardPack(ctx, remote.URL, opts.MaxPack)
		defer done()
		config = append(config, [2]string{"fetch.unpackLimit", "1"}) // all that comes is in packs
	}
	_, err = remote.exchange(ctx, r.dir, config, func(url string) []string {
		return append(append(args[:len(args):len(args)], "--", url), opts.Refspecs...)
	})
	if cause := context.Cause(ctx); err != nil && errors.Is(cause, errTooMuch) {
		return cause
	}
	return err
}
