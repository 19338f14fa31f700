package registry

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io"
	"io/fs"
	"net/http"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"github.com/google/go-containerregistry/pkg/registry"
	v1 "github.com/google/go-containerregistry/pkg/v1"
)

// blobs are files named by their digest. What is in one was checked when it came,
// and those who pull check again.
type blobs struct {
	dir  string
	used *atomic.Int64
}

func (b *blobs) path(h v1.Hash) string { return filepath.Join(b.dir, h.Algorithm, h.Hex) }

// Stat implements registry.BlobStatHandler. Whoever asks may be about to push a
// manifest with the blob: that makes it young for Collect.
func (b *blobs) Stat(_ context.Context, _ string, h v1.Hash) (int64, error) {
	info, err := os.Stat(b.path(h))
	if errors.Is(err, fs.ErrNotExist) {
		return 0, registry.ErrNotFound
	}
	if err != nil {
		return 0, err
	}
	now := time.Now()
	return info.Size(), os.Chtimes(b.path(h), now, now)
}

// Get implements registry.BlobHandler.
func (b *blobs) Get(_ context.Context, _ string, h v1.Hash) (io.ReadCloser, error) {
	file, err := os.Open(b.path(h))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, registry.ErrNotFound
	}
	return file, err
}

// take moves a file that is complete, and counted as used, to its place.
func (b *blobs) take(file string, h v1.Hash, size int64) error {
	_, err := os.Stat(b.path(h))
	known := err == nil
	if err := os.Rename(file, b.path(h)); err != nil {
		return err
	}
	if known {
		b.used.Add(-size)
	}
	return nil
}

// uploads are blobs on their way in.
type uploads struct {
	dir   string
	total *atomic.Int64 // bytes of what is stored, uploads included
	mu    sync.Mutex
	open  map[string]*upload
}

// maxUploads bounds what clients that never finish leave open at once, and
// maxUploadsEach what those of one owner do.
const maxUploads, maxUploadsEach = 256, 64

// upload is one blob on its way in. mu is held while a piece is written.
type upload struct {
	mu         sync.Mutex
	repository string
	file       *os.File
	hash       hash.Hash
	size       atomic.Int64
	used       atomic.Int64 // when last, in nanoseconds

	stopping sync.Mutex
	gone     bool     // nothing more is taken
	piece    *patient // that is on its way
}

func (up *upload) touch() { up.used.Store(time.Now().UnixNano()) }

// start opens an upload. Where too many are open, the one that nobody has touched
// for the longest goes: of the same owner's, or of those of the owner with the most.
func (u *uploads) start(repository string) (string, error) {
	random := make([]byte, 16)
	_, _ = rand.Read(random) // never fails
	id := hex.EncodeToString(random)
	file, err := os.OpenFile(filepath.Join(u.dir, id), os.O_CREATE|os.O_EXCL|os.O_RDWR, 0o600)
	if err != nil {
		return "", err
	}
	u.mu.Lock()
	defer u.mu.Unlock()
	for {
		whose, most, own := "", 0, map[string]int{}
		for _, up := range u.open {
			of := owner(up.repository)
			if own[of]++; own[of] > most {
				whose, most = of, own[of]
			}
		}
		switch {
		case own[owner(repository)] >= maxUploadsEach:
			whose = owner(repository)
		case len(u.open) < maxUploads:
			up := &upload{repository: repository, file: file, hash: sha256.New()}
			up.touch()
			u.open[id] = up
			return id, nil
		}
		u.drop(whose)
	}
}

// drop ends the upload of an owner that nobody has touched for the longest. The
// caller holds u.mu.
func (u *uploads) drop(whose string) {
	oldest := ""
	for id, up := range u.open {
		if owner(up.repository) == whose && (oldest == "" || up.used.Load() < u.open[oldest].used.Load()) {
			oldest = id
		}
	}
	up := u.open[oldest]
	delete(u.open, oldest)
	go up.discard(u.total) // a piece may be on its way: it ends at once
}

// find returns an open upload of the repository; nil: there is none.
func (u *uploads) find(repository, id string) *upload {
	u.mu.Lock()
	defer u.mu.Unlock()
	up := u.open[id]
	if up == nil || up.repository != repository {
		return nil
	}
	up.touch()
	return up
}

// finish takes the upload out of those that are open; false: somebody else did.
func (u *uploads) finish(id string) bool {
	u.mu.Lock()
	defer u.mu.Unlock()
	_, ok := u.open[id]
	delete(u.open, id)
	return ok
}

// discard removes the file and what it counted for. A piece that is on its way
// then fails.
func (up *upload) discard(total *atomic.Int64) {
	up.stop()
	up.mu.Lock()
	defer up.mu.Unlock()
	up.file.Close()
	os.Remove(up.file.Name())
	total.Add(-up.size.Swap(0))
}

// stop ends the piece that is on its way, though its client says nothing.
func (up *upload) stop() {
	up.stopping.Lock()
	defer up.stopping.Unlock()
	up.gone = true
	if up.piece != nil {
		up.piece.end()
	}
}

// expect notes the piece that is on its way, nil after it; false: the upload is gone.
func (up *upload) expect(piece *patient) bool {
	up.stopping.Lock()
	defer up.stopping.Unlock()
	up.piece = piece
	return !up.gone
}

// serveUpload is the part of the API that takes a blob in pieces:
// https://github.com/opencontainers/distribution-spec/blob/main/spec.md#pushing-blobs
func (r *Registry) serveUpload(w http.ResponseWriter, req *http.Request, q request) {
	if req.Method == http.MethodPost {
		id, err := r.uploads.start(q.repository)
		if err != nil {
			r.fail(w, req, err)
			return
		}
		if !req.URL.Query().Has("digest") {
			r.answer(w, q.repository, id, 0, http.StatusAccepted)
			return
		}
		q.reference, req.Method = id, http.MethodPut // the whole blob at once
	}
	up := r.uploads.find(q.repository, q.reference)
	if up == nil {
		refuse(w, http.StatusNotFound, "BLOB_UPLOAD_UNKNOWN", "no such upload: it was finished, cancelled, or the registry was started again")
		return
	}
	switch req.Method {
	case http.MethodGet:
		r.answer(w, q.repository, q.reference, up.size.Load(), http.StatusNoContent)
	case http.MethodDelete:
		if r.uploads.finish(q.reference) {
			up.discard(&r.used)
		}
		w.WriteHeader(http.StatusNoContent)
	case http.MethodPatch:
		if r.receive(w, req, q, up) {
			r.answer(w, q.repository, q.reference, up.size.Load(), http.StatusAccepted)
		}
	case http.MethodPut:
		if r.receive(w, req, q, up) {
			r.complete(w, req, q, up)
		}
	default:
		refuse(w, http.StatusMethodNotAllowed, "UNSUPPORTED", "an upload takes GET, PATCH, PUT and DELETE")
	}
}

func (r *Registry) answer(w http.ResponseWriter, repository, id string, size int64, status int) {
	w.Header().Set("Location", "/v2/"+repository+"/blobs/uploads/"+id)
	w.Header().Set("Docker-Upload-UUID", id)
	w.Header().Set("Range", fmt.Sprintf("0-%d", max(0, size-1)))
	w.WriteHeader(status)
}

// receive appends the body to the upload; false: it has answered why not.
func (r *Registry) receive(w http.ResponseWriter, req *http.Request, q request, up *upload) bool {
	if !up.mu.TryLock() {
		refuse(w, http.StatusConflict, "BLOB_UPLOAD_INVALID", "another piece of this upload is on its way")
		return false
	}
	var first int64
	if header := req.Header.Get("Content-Range"); header != "" {
		if _, err := fmt.Sscanf(header, "%d-", &first); err != nil || first != up.size.Load() {
			up.mu.Unlock()
			w.Header().Set("Range", fmt.Sprintf("0-%d", max(0, up.size.Load()-1)))
			refuse(w, http.StatusRequestedRangeNotSatisfiable, "BLOB_UPLOAD_INVALID", "this piece does not begin where the last one ended")
			return false
		}
	}
	announced := up.size.Load() + max(0, req.ContentLength)
	piece, err := newPatient(w, req.Body), errGone
	if up.expect(piece) {
		_, err = io.Copy(io.MultiWriter(meter{r, up}, up.file, up.hash), piece)
	}
	up.expect(nil)
	announced = max(announced, up.size.Load())
	up.mu.Unlock()
	if err == nil {
		return true
	}
	if r.uploads.finish(q.reference) {
		up.discard(&r.used)
	}
	switch {
	case !errors.Is(err, errTooLarge):
		refuse(w, http.StatusBadRequest, "BLOB_UPLOAD_INVALID", "the piece broke off: start again")
	case announced > r.options.MaxBlob:
		refuse(w, http.StatusRequestEntityTooLarge, "SIZE_INVALID", fmt.Sprintf("a blob may have %d bytes", r.options.MaxBlob))
	default:
		refuse(w, http.StatusRequestEntityTooLarge, "SIZE_INVALID", fmt.Sprintf("the registry is full: %d bytes are its limit; delete tags that are no longer needed", r.options.MaxTotal))
	}
	return false
}

var errTooLarge = errors.New("too large")

// meter counts the bytes of an upload before they are written. The holder of
// up.mu writes to it.
type meter struct {
	r  *Registry
	up *upload
}

func (m meter) Write(p []byte) (int, error) {
	m.up.touch()
	size := m.up.size.Add(int64(len(p)))
	if total := m.r.used.Add(int64(len(p))); size > m.r.options.MaxBlob || total > m.r.options.MaxTotal {
		return 0, errTooLarge
	}
	return len(p), nil
}

// complete checks the digest and makes the upload a blob.
func (r *Registry) complete(w http.ResponseWriter, req *http.Request, q request, up *upload) {
	if !r.uploads.finish(q.reference) {
		refuse(w, http.StatusNotFound, "BLOB_UPLOAD_UNKNOWN", "the upload was finished by somebody else")
		return
	}
	up.stop()
	up.mu.Lock() // a piece that is on its way has ended then, and none comes after it
	sum := up.hash.Sum(nil)
	up.mu.Unlock()
	if !r.allowed(w, req, q.repository, true) { // the pieces may have taken their time: the job may be over
		up.discard(&r.used)
		return
	}
	want, err := v1.NewHash(req.URL.Query().Get("digest"))
	got := v1.Hash{Algorithm: "sha256", Hex: hex.EncodeToString(sum)}
	if err != nil || want != got {
		up.discard(&r.used)
		refuse(w, http.StatusBadRequest, "DIGEST_INVALID", "the blob's digest is "+got.String())
		return
	}
	if err := up.file.Close(); err != nil {
		up.discard(&r.used)
		r.fail(w, req, err)
		return
	}
	if err := r.blobs.take(up.file.Name(), want, up.size.Load()); err != nil {
		up.discard(&r.used)
		r.fail(w, req, err)
		return
	}
	w.Header().Set("Location", "/v2/"+q.repository+"/blobs/"+want.String())
	w.Header().Set("Docker-Content-Digest", want.String())
	w.WriteHeader(http.StatusCreated)
}
