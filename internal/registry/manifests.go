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
	owners       map[string]amount // what they have, by the first part of a repository's path
	all          amount
}

// amount is a number of references to manifests, and the bytes of the manifests: the inner server has them in memory.
type amount struct {
	references int
	bytes      int64
}

// share of all is what one owner may have.
const share = 10

// The bounds of all manifests, where Options name none.
const (
	maxReferences    = 20_000
	maxManifestBytes = 64 << 20
)

// owner is the first part of a repository's path: a project's group, or a project without one.
func owner(repository string) string {
	first, _, _ := strings.Cut(repository, "/")
	return first
}

// entry is one manifest under one reference: a tag or its digest.
type entry struct {
	Repository string `json:"repository"`
	Reference  string `json:"reference"`
	MediaType  string `json:"mediaType"`
	Body       []byte `json:"body"` // nil in the index: the inner server has it

	size   int64 // of Body
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
	body, err := io.ReadAll(io.LimitReader(newPatient(w, req.Body), maxManifest+1))
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
	if !r.allowed(w, req, q.repository, true) { // the body may have taken its time
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if why := r.room(e); why != "" {
		refuse(w, http.StatusRequestEntityTooLarge, "SIZE_INVALID", why)
		return
	}
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
	return entry{Repository: repository, Reference: reference, MediaType: mediaType, Body: body, size: int64(len(body)), digest: digest, links: found, pushed: time.Now()}, nil
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
	r.blobs.claim(owner(e.Repository), e.links.blobs)
	return nil
}

func size(path string) int64 {
	info, err := os.Stat(path)
	if err != nil {
		return 0
	}
	return info.Size()
}

// room says why a manifest cannot be taken under its reference and its digest; empty: it can.
func (r *Registry) room(e entry) string {
	own, all := r.index.owners[owner(e.Repository)], r.index.all
	references := []string{e.digest.String()}
	if e.tag() {
		references = append(references, e.Reference)
	}
	for _, reference := range references {
		before, known := r.index.repositories[e.Repository][reference]
		if !known {
			own.references++
			all.references++
		}
		own.bytes += e.size - before.size
		all.bytes += e.size - before.size
	}
	most, bytes := r.options.MaxReferences, r.options.MaxManifests
	if own.references > most/share || own.bytes > bytes/share {
		return fmt.Sprintf("the images of %s have reached their limit of %d tags and digests, and %d bytes of manifests: delete tags that are no longer needed",
			owner(e.Repository), most/share, bytes/share)
	}
	if all.references > most || all.bytes > bytes {
		return fmt.Sprintf("the registry has reached its limit of %d tags and digests, and %d bytes of manifests: delete tags that are no longer needed", most, bytes)
	}
	return ""
}

// add notes an entry, without its body.
func (x *index) add(e entry) {
	x.remove(e.Repository, e.Reference)
	if x.repositories[e.Repository] == nil {
		x.repositories[e.Repository] = map[string]entry{}
	}
	e.Body = nil
	x.repositories[e.Repository][e.Reference] = e
	x.count(e.Repository, amount{1, e.size})
}

func (x *index) remove(repository, reference string) {
	e, known := x.repositories[repository][reference]
	if !known {
		return
	}
	delete(x.repositories[repository], reference)
	if len(x.repositories[repository]) == 0 {
		delete(x.repositories, repository)
	}
	x.count(repository, amount{-1, -e.size})
}

func (x *index) count(repository string, more amount) {
	own := x.owners[owner(repository)]
	own.references, own.bytes = own.references+more.references, own.bytes+more.bytes
	x.all.references, x.all.bytes = x.all.references+more.references, x.all.bytes+more.bytes
	if x.owners[owner(repository)] = own; own == (amount{}) {
		delete(x.owners, owner(repository))
	}
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
	r.index.remove(repository, reference)
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

// load gives the manifests on disk to the inner server: images first, as an index
// is taken only when what it lists is there.
func (r *Registry) load() error {
	var left []entry
	var all amount
	err := filepath.WalkDir(r.index.dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return err
		}
		if strings.HasSuffix(path, ".tmp") {
			return os.Remove(path)
		}
		// What was stored before there were bounds stays on disk, and is not served.
		all.references, all.bytes = all.references+1, all.bytes+size(path)*3/4 // about: a body is written in base64
		if all.references > r.options.MaxReferences || all.bytes > r.options.MaxManifests*2 {
			r.options.Log.Warn("registry: a manifest is above the limit of all, and is not served", "file", path)
			return nil
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
				r.blobs.claim(owner(e.Repository), e.links.blobs)
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
		if err := r.blobs.remove(file.Name(), info.Size()); err != nil {
			return used - r.used.Load(), fmt.Errorf("registry: collect: %w", err)
		}
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
