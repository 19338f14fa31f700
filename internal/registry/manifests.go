package registry

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/types"
)

// index is what the manifests on disk say: DIR/REPOSITORY/REFERENCE, the names as
// fileName writes them. Guarded by Registry.mu.
type index struct {
	dir          string
	repositories map[string]map[string]entry
}

// entry is one manifest under one reference: a tag or its digest.
type entry struct {
	Repository string `json:"repository"`
	Reference  string `json:"reference"`
	MediaType  string `json:"mediaType"`
	Body       []byte `json:"body"`

	digest v1.Hash
	links  links
	pushed time.Time
}

// links are what a manifest refers to.
type links struct {
	blobs     []v1.Hash
	manifests []v1.Hash
}

func (e entry) tag() bool { return e.Reference != e.digest.String() }

func (x *index) path(repository, reference string) string {
	return filepath.Join(x.dir, fileName(repository), fileName(reference))
}

// parseManifest reads what a manifest refers to. Manifests of kinds that it does
// not know have no links, and keep nothing.
func parseManifest(mediaType string, body []byte) (links, error) {
	var found links
	switch kind := types.MediaType(mediaType); {
	case kind.IsIndex():
		list, err := v1.ParseIndexManifest(bytes.NewReader(body))
		if err != nil {
			return found, err
		}
		for _, m := range list.Manifests {
			found.manifests = append(found.manifests, m.Digest)
		}
	case kind.IsImage():
		image, err := v1.ParseManifest(bytes.NewReader(body))
		if err != nil {
			return found, err
		}
		for _, blob := range append(image.Layers, image.Config) {
			if blob.MediaType.IsDistributable() {
				found.blobs = append(found.blobs, blob.Digest)
			}
		}
	default:
		return found, fmt.Errorf("media type %q is neither an image nor an index", mediaType)
	}
	return found, nil
}

// putManifest checks a manifest, gives it to the inner server and writes it down.
func (r *Registry) putManifest(w http.ResponseWriter, req *http.Request, q request) {
	body, err := io.ReadAll(io.LimitReader(req.Body, maxManifest+1))
	if err != nil {
		refuse(w, http.StatusBadRequest, "MANIFEST_INVALID", "the manifest broke off")
		return
	}
	if len(body) > maxManifest || int64(len(body)) > r.options.MaxTotal-r.used.Load() {
		refuse(w, http.StatusRequestEntityTooLarge, "SIZE_INVALID", fmt.Sprintf("a manifest may have %d bytes, the registry %d", maxManifest, r.options.MaxTotal))
		return
	}
	e, err := newEntry(q.repository, q.reference, req.Header.Get("Content-Type"), body)
	if err != nil {
		refuse(w, http.StatusBadRequest, "MANIFEST_INVALID", err.Error())
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, blob := range e.links.blobs {
		if _, err := os.Stat(r.blobs.path(blob)); err != nil {
			refuse(w, http.StatusNotFound, "MANIFEST_BLOB_UNKNOWN", "the manifest's blob "+blob.String()+" is not here: push it first")
			return
		}
	}
	answer := r.ask(req.Method, req.URL.Path, e.MediaType, body)
	if answer.status == http.StatusCreated {
		if err := r.record(e); err != nil {
			r.fail(w, req, err)
			return
		}
	}
	answer.copyTo(w)
}

func newEntry(repository, reference, mediaType string, body []byte) (entry, error) {
	found, err := parseManifest(mediaType, body)
	if err != nil {
		return entry{}, err
	}
	digest, _, err := v1.SHA256(bytes.NewReader(body))
	if err != nil {
		return entry{}, err
	}
	if strings.Contains(reference, ":") && reference != digest.String() {
		return entry{}, fmt.Errorf("the manifest's digest is %s", digest)
	}
	return entry{Repository: repository, Reference: reference, MediaType: mediaType, Body: body, digest: digest, links: found, pushed: time.Now()}, nil
}

// record writes the entry under its reference and its digest: the tag may move on.
func (r *Registry) record(e entry) error {
	for _, reference := range []string{e.digest.String(), e.Reference} {
		e.Reference = reference
		text, err := json.Marshal(e)
		if err != nil {
			return err
		}
		path := r.index.path(e.Repository, reference)
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			return err
		}
		before := size(path)
		if err := os.WriteFile(path+".tmp", text, 0o600); err != nil {
			return err
		}
		if err := os.Rename(path+".tmp", path); err != nil {
			return err
		}
		r.used.Add(int64(len(text)) - before)
		r.index.add(e)
	}
	return nil
}

func size(path string) int64 {
	info, err := os.Stat(path)
	if err != nil {
		return 0
	}
	return info.Size()
}

func (x *index) add(e entry) {
	if x.repositories[e.Repository] == nil {
		x.repositories[e.Repository] = map[string]entry{}
	}
	x.repositories[e.Repository][e.Reference] = e
}

func (r *Registry) deleteManifest(w http.ResponseWriter, req *http.Request, q request) {
	r.mu.Lock()
	defer r.mu.Unlock()
	answer := r.ask(req.Method, req.URL.Path, "", nil)
	if answer.status == http.StatusAccepted {
		if err := r.forget(q.repository, q.reference); err != nil {
			r.fail(w, req, err)
			return
		}
	}
	answer.copyTo(w)
}

func (r *Registry) forget(repository, reference string) error {
	path := r.index.path(repository, reference)
	r.used.Add(-size(path))
	delete(r.index.repositories[repository], reference)
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

// load gives the manifests on disk to the inner server: images first, as an index
// is taken only when what it lists is there.
func (r *Registry) load() error {
	var left []entry
	err := filepath.WalkDir(r.index.dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return err
		}
		if strings.HasSuffix(path, ".tmp") {
			return os.Remove(path)
		}
		text, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		var stored entry
		if err := json.Unmarshal(text, &stored); err != nil {
			return fmt.Errorf("%s: %w", path, err)
		}
		e, err := newEntry(stored.Repository, stored.Reference, stored.MediaType, stored.Body)
		if err != nil {
			return fmt.Errorf("%s: %w", path, err)
		}
		if info, err := d.Info(); err == nil {
			e.pushed = info.ModTime()
		}
		left = append(left, e)
		return nil
	})
	for progress := true; err == nil && progress && len(left) > 0; {
		var waiting []entry
		for _, e := range left {
			answer := r.ask(http.MethodPut, "/v2/"+e.Repository+"/manifests/"+e.Reference, e.MediaType, e.Body)
			if answer.status == http.StatusCreated {
				r.index.add(e)
			} else {
				waiting = append(waiting, e)
			}
		}
		progress, left = len(waiting) < len(left), waiting
	}
	for _, e := range left {
		r.options.Log.Warn("registry: an index lists what is no longer here", "repository", e.Repository, "reference", e.Reference)
	}
	return err
}

// Collect removes what was not pushed or asked for since before and nothing refers
// to: manifests without a tag that no index lists, then blobs of no manifest. It
// returns how many bytes that freed. Pushes wait meanwhile.
func (r *Registry) Collect(before time.Time) (int64, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	used := r.used.Load()
	for repository, entries := range r.index.repositories {
		for {
			unused := unreferenced(entries, before)
			for _, reference := range unused {
				r.ask(http.MethodDelete, "/v2/"+repository+"/manifests/"+reference, "", nil)
				if err := r.forget(repository, reference); err != nil {
					return used - r.used.Load(), fmt.Errorf("registry: collect: %w", err)
				}
			}
			if len(unused) == 0 {
				break
			}
		}
	}
	kept := map[string]bool{}
	for _, entries := range r.index.repositories {
		for _, e := range entries {
			for _, blob := range e.links.blobs {
				kept[blob.Hex] = true
			}
		}
	}
	files, err := os.ReadDir(filepath.Join(r.blobs.dir, "sha256"))
	if err != nil {
		return used - r.used.Load(), fmt.Errorf("registry: collect: %w", err)
	}
	for _, file := range files {
		info, err := file.Info()
		if err != nil || kept[file.Name()] || !info.ModTime().Before(before) {
			continue
		}
		if err := os.Remove(filepath.Join(r.blobs.dir, "sha256", file.Name())); err != nil {
			return used - r.used.Load(), fmt.Errorf("registry: collect: %w", err)
		}
		r.used.Add(-info.Size())
	}
	return used - r.used.Load(), nil
}

// unreferenced returns the digests of a repository that neither a tag nor an
// index has. Taking away an index may make more of them.
func unreferenced(entries map[string]entry, before time.Time) []string {
	kept := map[string]bool{}
	for _, e := range entries {
		if e.tag() {
			kept[e.digest.String()] = true
		}
		for _, m := range e.links.manifests {
			kept[m.String()] = true
		}
	}
	var unused []string
	for reference, e := range entries {
		if !e.tag() && !kept[reference] && e.pushed.Before(before) {
			unused = append(unused, reference)
		}
	}
	return unused
}

// answer is what the inner server says.
type answer struct {
	status int
	header http.Header
	body   bytes.Buffer
}

func (a *answer) Header() http.Header         { return a.header }
func (a *answer) WriteHeader(status int)      { a.status = status }
func (a *answer) Write(b []byte) (int, error) { return a.body.Write(b) }

func (a *answer) copyTo(w http.ResponseWriter) {
	for name, values := range a.header {
		w.Header()[name] = values
	}
	w.WriteHeader(a.status)
	_, _ = w.Write(a.body.Bytes()) // nobody is left to tell
}

// ask puts a request to the inner server, whose manifests are in memory.
func (r *Registry) ask(method, path, mediaType string, body []byte) *answer {
	a := &answer{status: http.StatusOK, header: http.Header{}}
	req, err := http.NewRequest(method, path, bytes.NewReader(body))
	if err != nil { // the path has been parsed before
		a.status = http.StatusBadRequest
		return a
	}
	req.Header.Set("Content-Type", mediaType)
	r.inner.ServeHTTP(a, req)
	return a
}
