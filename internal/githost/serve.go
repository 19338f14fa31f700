package githost

import (
	"cmp"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"regexp"
	"strings"
	"sync"
	"time"

	"keelson.dev/keelson/internal/git"
)

// Prefix is the URL path under which repositories are served. They are served without it too, as at GitLab: scripts put URLs together
// with CI_SERVER_HOST. [Plain] tells such requests from those of others.
const Prefix = "/git/"

// Plain tells whether a request is a git client's, for a repository without the [Prefix].
func Plain(r *http.Request) bool {
	p := r.URL.EscapedPath()
	for _, rest := range []string{"/info/refs", "/" + uploadPack, "/" + receivePack} {
		if name, ok := strings.CutSuffix(p, suffix+rest); ok {
			return !strings.HasPrefix(name, Prefix)
		}
	}
	return false
}

const (
	uploadPack  = "git-upload-pack"  // clone and fetch
	receivePack = "git-receive-pack" // push
	// maxUploadRequest bounds what a fetching client may say (its wants and haves), unpacked.
	maxUploadRequest = 32 << 20
	// drainLimit is how much more than allowed is read of a push that is too large, so that the client gets to
	// hear why: it listens only once it has sent everything.
	drainLimit = 64 << 20
	// exchangeLimit bounds the time of one request.
	exchangeLimit = time.Hour
)

// protocolHeader is what a Git-Protocol header may hold ("version=2:…"); it becomes an environment variable.
var protocolHeader = sync.OnceValue(func() *regexp.Regexp { return regexp.MustCompile(`^[a-z0-9=:.-]{1,200}$`) })

// request is one understood request of a git client.
type request struct {
	repo      string
	person    string // whose token it has; empty: nobody's own
	service   string // uploadPack or receivePack
	advertise bool   // the client asks for the refs
}

// refusal is an answer that is not git's. Git clients show the text of a plain one as "remote: …".
type refusal struct {
	status int
	text   string
}

func (r refusal) Error() string { return r.text }

// ServeHTTP serves the smart HTTP protocol under [Prefix].
func (h *Host) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	req, err := h.parse(r)
	if err == nil {
		req.person, err = h.authorize(r, req.repo, req.service == receivePack)
		if err != nil && req.person != "" && req.service == receivePack && h.opts.OnRefused != nil {
			h.opts.OnRefused(Push{Repository: req.repo, User: req.person, Address: addressOf(r)})
		}
	}
	if err == nil {
		err = h.readOnly(req)
	}
	if err == nil {
		err = h.serve(w, r, req)
	}
	if err == nil {
		return
	}
	answer := refusal{http.StatusInternalServerError, err.Error()}
	errors.As(err, &answer)
	if answer.status == http.StatusUnauthorized {
		w.Header().Set("WWW-Authenticate", `Basic realm="Keelson", charset="UTF-8"`)
	}
	http.Error(w, answer.text, answer.status)
}

// parse understands /git/<name>.git/{info/refs,git-upload-pack,git-receive-pack}, also without /git, and refuses everything else.
func (h *Host) parse(r *http.Request) (request, error) {
	// Names need no escapes: where there is one, somebody is trying to get elsewhere.
	p, ok := strings.CutPrefix(r.URL.EscapedPath(), Prefix)
	if !ok && Plain(r) {
		p, ok = strings.CutPrefix(r.URL.EscapedPath(), "/")
	}
	if !ok || strings.ContainsAny(p, "%\\") {
		return request{}, refusal{http.StatusBadRequest, "bad path: repositories are served as " + Prefix + "<name>.git"}
	}
	name, rest, ok := strings.Cut(p, suffix+"/")
	if !ok {
		return request{}, refusal{http.StatusNotFound, "no such page: repositories are served as " + Prefix + "<name>.git"}
	}
	if err := CheckName(name); err != nil {
		return request{}, refusal{http.StatusBadRequest, err.Error()}
	}
	req := request{repo: name}
	method := http.MethodPost
	switch rest {
	case "info/refs":
		req.advertise, method = true, http.MethodGet
		req.service = r.URL.Query().Get("service")
	case uploadPack, receivePack:
		req.service = rest
	default:
		return request{}, refusal{http.StatusNotFound, "no such page: only the smart HTTP protocol is served"}
	}
	if req.service != uploadPack && req.service != receivePack {
		return request{}, refusal{http.StatusForbidden, "only the smart HTTP protocol is served: use a current git client"}
	}
	if r.Method != method {
		return request{}, refusal{http.StatusMethodNotAllowed, "method not allowed"}
	}
	if ct := r.Header.Get("Content-Type"); !req.advertise && ct != "application/x-"+req.service+"-request" {
		return request{}, refusal{http.StatusUnsupportedMediaType, fmt.Sprintf("unexpected content type %q", ct)}
	}
	return req, nil
}

// serve lets the git program answer a request that is understood and allowed.
func (h *Host) serve(w http.ResponseWriter, r *http.Request, req request) error {
	repo, err := h.repository(req.repo)
	if errors.Is(err, ErrNotFound) {
		return refusal{http.StatusNotFound, fmt.Sprintf("there is no repository %s; create it with: keelson git create %s", req.repo, req.repo)}
	}
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(r.Context(), exchangeLimit)
	defer cancel()
	select {
	case h.slots <- struct{}{}:
		defer func() { <-h.slots }()
	case <-ctx.Done():
		return refusal{http.StatusServiceUnavailable, "too many git requests at once"}
	}
	kind := "result"
	if req.advertise {
		kind = "advertisement"
	}
	w.Header().Set("Content-Type", "application/x-"+req.service+"-"+kind)
	w.Header().Set("Cache-Control", "no-cache, max-age=0, must-revalidate")
	if req.advertise {
		return h.advertise(ctx, w, r, req)
	}
	if req.service == uploadPack {
		body, err := requestBody(w, r, maxUploadRequest)
		if err != nil {
			return err
		}
		return h.run(ctx, w, r, req, body)
	}
	return h.push(ctx, w, r, req, repo)
}

// advertise answers with the refs.
func (h *Host) advertise(ctx context.Context, w http.ResponseWriter, r *http.Request, req request) error {
	v2 := req.service == uploadPack && strings.Contains(r.Header.Get("Git-Protocol"), "version=2")
	if !v2 {
		line := "# service=" + req.service + "\n"
		if _, err := fmt.Fprintf(w, "%04x%s0000", len(line)+4, line); err != nil {
			return nil // the client is gone
		}
	}
	return h.run(ctx, w, r, req, nil)
}

// push receives a push and tells OnPush, before the answer ends, if it has changed a ref.
func (h *Host) push(ctx context.Context, w http.ResponseWriter, r *http.Request, req request, repo *git.Repository) error {
	body, err := requestBody(w, r, h.opts.MaxPack+drainLimit)
	if err != nil {
		return err
	}
	var asked asked
	body = io.TeeReader(body, &asked)
	before, err := repo.Refs()
	if err != nil {
		return err
	}
	err = h.run(ctx, w, r, req, body)
	// Also after a failure: the client may have gone once the refs were changed.
	after, refsErr := repo.Refs()
	changes := asked.changes
	if refsErr == nil {
		changes = asked.done(before, after)
	}
	if head := firstHead(before, after, changes); head != "" {
		// A clone that is made meanwhile checks nothing out; the next one does.
		err = errors.Join(err, git.Process(context.WithoutCancel(ctx), nil, "--git-dir="+h.Dir(req.repo), "symbolic-ref", "HEAD", head).Run())
	}
	if h.opts.OnPush != nil && len(changes) > 0 {
		user, _, _ := r.BasicAuth()
		user = cmp.Or(req.person, user)
		h.opts.OnPush(Push{Repository: req.repo, User: user, Changes: changes, Options: asked.options, Address: addressOf(r), Job: h.job(r)})
	}
	return err
}

// firstHead gives the branch that HEAD has to name from now on: that of the first push to a repository becomes its default branch, as at
// GitLab. Of several it is main, master or the first one. Empty: HEAD stays.
func firstHead(before, after map[string]string, changes []RefChange) string {
	branch := func(ref string) bool { return strings.HasPrefix(ref, "refs/heads/") }
	for ref := range before {
		if branch(ref) {
			return ""
		}
	}
	for _, ref := range []string{"refs/heads/main", "refs/heads/master"} {
		if after[ref] != "" {
			return ref
		}
	}
	for _, c := range changes {
		if branch(c.Ref) && after[c.Ref] != "" {
			return c.Ref
		}
	}
	return ""
}

// requestBody is the request's body, unpacked and bounded.
func requestBody(w http.ResponseWriter, r *http.Request, limit int64) (io.Reader, error) {
	if r.ContentLength > limit {
		return nil, refusal{http.StatusRequestEntityTooLarge, fmt.Sprintf("the request is larger than %d MiB", limit>>20)}
	}
	body := http.MaxBytesReader(w, r.Body, limit)
	switch r.Header.Get("Content-Encoding") {
	case "", "identity":
		return body, nil
	case "gzip", "x-gzip":
		z, err := gzip.NewReader(body)
		if err != nil {
			return nil, refusal{http.StatusBadRequest, "the request is not valid gzip"}
		}
		return io.LimitReader(z, limit), nil
	}
	return nil, refusal{http.StatusUnsupportedMediaType, "unsupported content encoding"}
}

// serveConfig are the rules for a repository.
func (h *Host) serveConfig(repository string) [][2]string {
	hidden := "refs/keelson" // what keeps commits that no branch has
	if h.private(repository) {
		hidden = ""
	}
	return [][2]string{
		{"receive.fsckObjects", "true"},
		{"receive.maxInputSize", fmt.Sprint(h.opts.MaxPack)},
		{"receive.denyDeleteCurrent", "warn"},
		{"receive.advertisePushOptions", "true"},
		{"uploadpack.allowFilter", "true"},
		{"uploadpack.allowAnySHA1InWant", "true"},
		{"http.receivepack", "true"},
		{"transfer.hideRefs", hidden},
	}
}

// run connects the git program with the client. Once output has been sent an error cannot be told any more: git's own
// protocol carries what matters.
func (h *Host) run(ctx context.Context, w http.ResponseWriter, r *http.Request, req request, body io.Reader) error {
	args := []string{strings.TrimPrefix(req.service, "git-"), "--stateless-rpc"}
	if req.advertise {
		args = append(args, "--http-backend-info-refs")
	}
	cmd := git.Process(ctx, h.serveConfig(req.repo), append(args, h.Dir(req.repo))...)
	if v := r.Header.Get("Git-Protocol"); protocolHeader().MatchString(v) {
		cmd.Env = append(cmd.Env, "GIT_PROTOCOL="+v)
	}
	out := &flushed{w: w}
	cmd.Stdout = out
	if body == nil {
		return serverError(out, cmd.Run())
	}
	// The program may have something to say while the client still sends; and a client that stops sending or
	// listening is not waited for without end. The server's own, shorter limits are not for big repositories.
	control := http.NewResponseController(w)
	deadline, _ := ctx.Deadline()
	for _, err := range []error{control.EnableFullDuplex(), control.SetReadDeadline(deadline), control.SetWriteDeadline(deadline)} {
		if err != nil && !errors.Is(err, http.ErrNotSupported) {
			return fmt.Errorf("set up connection: %w", err)
		}
	}
	// The connection may serve other requests later.
	defer func() { _ = control.SetWriteDeadline(time.Time{}) }()
	stdin, err := cmd.StdinPipe()
	if err != nil {
		return err
	}
	if err := cmd.Start(); err != nil {
		return serverError(out, err)
	}
	copied := make(chan struct{})
	go func() {
		defer close(copied)
		// The program may end early, as on a pack that is too large: the rest is read for the client's sake.
		_, err := io.Copy(stdin, body)
		stdin.Close()
		if err != nil {
			_, _ = io.Copy(io.Discard, body)
		}
	}()
	err = cmd.Wait()
	<-copied
	return serverError(out, err)
}

// serverError is what is left to tell of a failed program: nothing, if the client has had an answer.
func serverError(out *flushed, err error) error {
	if err == nil || out.written {
		return nil
	}
	return refusal{http.StatusInternalServerError, "git failed: " + err.Error()}
}

// flushed sends every write at once: progress is worth seeing while it happens.
type flushed struct {
	w       http.ResponseWriter
	written bool
}

func (f *flushed) Write(p []byte) (int, error) {
	f.written = true
	n, err := f.w.Write(p)
	if err == nil {
		if flushErr := http.NewResponseController(f.w).Flush(); flushErr != nil && !errors.Is(flushErr, http.ErrNotSupported) {
			return n, flushErr
		}
	}
	return n, err
}
