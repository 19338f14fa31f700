// Package registry is an OCI registry in this process, with its storage in a
// directory: where the jobs of a local pipeline push images, and a node pulls them.
//
// The protocol is go-containerregistry's: manifests, tags, and blobs on their way
// out. That server is made for tests, so around it there is
//
//   - who may do what ([Options.Authorize]), asked before anything else;
//   - uploads, which go to disk as they come, in pieces or whole, and not to memory;
//   - manifests on disk: a restart loses nothing but unfinished uploads;
//   - bounds: of a blob, of a manifest, of all together, of what one owner has, and
//     of the time that a slow client takes;
//   - what a registry must refuse: a manifest that is not what its digest says, or
//     whose blobs are missing;
//   - collection of what nobody refers to ([Registry.Collect]).
//
// A blob is stored once, whichever repositories it was pushed to. Who knows its
// digest and may read one repository can read it: digests are not secrets worth
// keeping images apart by, names are.
package registry

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"sync/atomic"

	"github.com/google/go-containerregistry/pkg/registry"
	v1 "github.com/google/go-containerregistry/pkg/v1"
)

// ErrUnauthenticated is returned by [Options.Authorize] when it does not know who
// asks. Any other error says that those who ask may not, and is told to them.
var ErrUnauthenticated = errors.New("authentication required")

const maxManifest = 4 << 20 // bytes; what other registries take, too

// Options say where a registry is and what it takes.
type Options struct {
	Dir     string // made if need be; nobody else writes there
	MaxBlob int64  // bytes of one blob
	// MaxTotal is the bytes of everything that is stored. Three quarters of it are for the blobs and uploads of the repositories whose paths begin
	// alike.
	MaxTotal int64
	// Room says why so many bytes more cannot be written to the disk; it is asked at the beginning of an upload and now and then. nil: they can.
	Room func(need int64) error
	// MaxReferences bounds the tags and digests of manifests, and MaxManifests their bytes: manifests are in memory. A tenth of both is for the
	// repositories whose paths begin alike. Zero: 20000, and 64 MiB.
	MaxReferences int
	MaxManifests  int64
	// Authorize decides about one request by the user and password of HTTP Basic
	// authentication, both empty if there is none. repository is empty for the
	// question whether the login is good at all. nil: everybody may do everything.
	Authorize func(ctx context.Context, user, password, repository string, push bool) error
	Log       *slog.Logger // requests, at level debug, and errors
}

// Registry serves the distribution API at /v2/.
type Registry struct {
	options Options
	inner   http.Handler
	blobs   *blobs
	uploads uploads
	used    atomic.Int64 // bytes on disk: blobs, uploads, manifests
	unseen  atomic.Int64 // bytes that came since Room was asked

	mu    sync.Mutex // held while manifests change and while what is unused is collected
	index index
}

// The grammar of the distribution specification.
var (
	repositoryName = regexp.MustCompile(`^[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*(/[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*)*$`)
	tagName        = regexp.MustCompile(`^[a-zA-Z0-9_][a-zA-Z0-9._-]{0,127}$`)
)

// Open loads what the directory holds. Uploads that were not finished are gone.
func Open(options Options) (*Registry, error) {
	if options.MaxReferences == 0 {
		options.MaxReferences = maxReferences
	}
	if options.MaxManifests == 0 {
		options.MaxManifests = maxManifestBytes
	}
	r := &Registry{options: options, blobs: &blobs{dir: filepath.Join(options.Dir, "blobs")}}
	r.blobs.used, r.blobs.shares = &r.used, &shares{bytes: map[string]int64{}, whose: map[string]string{}}
	r.uploads = uploads{dir: filepath.Join(options.Dir, "uploads"), total: &r.used, shares: r.blobs.shares, open: map[string]*upload{}}
	r.index = index{dir: filepath.Join(options.Dir, "manifests"), repositories: map[string]map[string]entry{}, owners: map[string]amount{}}
	if err := os.RemoveAll(r.uploads.dir); err != nil {
		return nil, fmt.Errorf("registry: %w", err)
	}
	for _, dir := range []string{filepath.Join(r.blobs.dir, "sha256"), r.uploads.dir, r.index.dir} {
		if err := os.MkdirAll(dir, 0o700); err != nil {
			return nil, fmt.Errorf("registry: %w", err)
		}
	}
	r.inner = registry.New(registry.WithBlobHandler(r.blobs), registry.WithReferrersSupport(true), registry.Logger(log.New(io.Discard, "", 0)))
	if err := r.load(); err != nil {
		return nil, fmt.Errorf("registry: %w", err)
	}
	err := filepath.WalkDir(options.Dir, func(_ string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return err
		}
		info, err := d.Info()
		if err == nil {
			r.used.Add(info.Size())
		}
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("registry: %w", err)
	}
	return r, nil
}

// request is a path of the API, taken apart.
type request struct {
	repository string
	kind       string // manifests, blobs, uploads, tags, referrers
	reference  string // tag, digest or id of an upload
}

// parse takes a path below /v2/ apart; false: there is no such thing.
func parse(path string) (request, bool) {
	rest, ok := strings.CutPrefix(path, "/v2/")
	if !ok {
		return request{}, false
	}
	parts := strings.Split(strings.TrimSuffix(rest, "/"), "/")
	n := len(parts)
	var q request
	switch {
	case n >= 3 && parts[n-2] == "blobs" && parts[n-1] == "uploads":
		q = request{kind: "uploads", repository: strings.Join(parts[:n-2], "/")}
	case n >= 4 && parts[n-3] == "blobs" && parts[n-2] == "uploads":
		q = request{kind: "uploads", repository: strings.Join(parts[:n-3], "/"), reference: parts[n-1]}
	case n >= 3 && (parts[n-2] == "manifests" || parts[n-2] == "blobs" || parts[n-2] == "tags" || parts[n-2] == "referrers"):
		q = request{kind: parts[n-2], repository: strings.Join(parts[:n-2], "/"), reference: parts[n-1]}
	default:
		return request{}, false
	}
	_, digestErr := v1.NewHash(q.reference)
	switch q.kind {
	case "manifests":
		ok = digestErr == nil || tagName.MatchString(q.reference)
	case "blobs", "referrers":
		ok = digestErr == nil
	case "tags":
		ok = q.reference == "list"
	}
	return q, ok && len(q.repository) <= 255 && repositoryName.MatchString(q.repository)
}

// ServeHTTP implements [http.Handler].
func (r *Registry) ServeHTTP(w http.ResponseWriter, req *http.Request) {
	r.options.Log.Debug("registry", "method", req.Method, "path", req.URL.Path)
	w.Header().Set("Docker-Distribution-API-Version", "registry/2.0")
	ping := req.URL.Path == "/v2" || req.URL.Path == "/v2/"
	q, ok := parse(req.URL.Path)
	if !ok && !ping {
		refuse(w, http.StatusNotFound, "NAME_INVALID", "no such repository, manifest, blob or list: "+req.URL.Path)
		return
	}
	push := req.Method != http.MethodGet && req.Method != http.MethodHead
	if !r.allowed(w, req, q.repository, push) {
		return
	}
	switch {
	case q.kind == "uploads":
		r.serveUpload(w, req, q)
	case q.kind == "manifests" && req.Method == http.MethodPut:
		r.putManifest(w, req, q)
	case q.kind == "manifests" && req.Method == http.MethodDelete:
		r.deleteManifest(w, req, q)
	case push:
		// A blob may be in use by another repository: Collect knows.
		refuse(w, http.StatusMethodNotAllowed, "UNSUPPORTED", "blobs are removed when nothing refers to them")
	default:
		if q.kind == "blobs" && req.Method == http.MethodHead && r.authorized(req, q.repository, true) == nil {
			req = req.WithContext(context.WithValue(req.Context(), pushes{}, true))
		}
		r.inner.ServeHTTP(w, req)
	}
}

// authorized asks Authorize.
func (r *Registry) authorized(req *http.Request, repository string, push bool) error {
	if r.options.Authorize == nil {
		return nil
	}
	user, password, _ := req.BasicAuth()
	return r.options.Authorize(req.Context(), user, password, repository, push)
}

// allowed asks Authorize and answers those who may not.
func (r *Registry) allowed(w http.ResponseWriter, req *http.Request, repository string, push bool) bool {
	err := r.authorized(req, repository, push)
	switch {
	case err == nil:
		return true
	case errors.Is(err, ErrUnauthenticated):
		w.Header().Set("WWW-Authenticate", `Basic realm="keelson registry"`)
		refuse(w, http.StatusUnauthorized, "UNAUTHORIZED", err.Error())
	default:
		refuse(w, http.StatusForbidden, "DENIED", err.Error())
	}
	return false
}

// refuse answers with an error as the distribution specification has it.
func refuse(w http.ResponseWriter, status int, code, message string) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	type problem struct {
		Code    string `json:"code"`
		Message string `json:"message"`
	}
	_ = json.NewEncoder(w).Encode(map[string][]problem{"errors": {{code, message}}}) // nobody is left to tell
}

// fail answers when the registry itself is at fault, and logs why.
func (r *Registry) fail(w http.ResponseWriter, req *http.Request, err error) {
	r.options.Log.Error("registry", "method", req.Method, "path", req.URL.Path, "err", err)
	refuse(w, http.StatusInternalServerError, "UNKNOWN", "the registry cannot read or write its storage")
}

// fileName is a repository's or reference's name as a file: no separators in it.
func fileName(name string) string { return base64.RawURLEncoding.EncodeToString([]byte(name)) }
