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
	dir    string
	used   *atomic.Int64
	shares *shares
}

func (b *blobs) path(h v1.Hash) string { return filepath.Join(b.dir, h.Algorithm, h.Hex) }

// pushes marks the context of a request whose sender may push to the repository.
type pushes struct{}

// Stat implements registry.BlobStatHandler. Who may push and asks may be about to
// push a manifest with the blob: that makes it young for Collect.
func (b *blobs) Stat(ctx context.Context, _ string, h v1.Hash) (int64, error) {
	info, err := os.Stat(b.path(h))
	if errors.Is(err, fs.ErrNotExist) {
		return 0, registry.ErrNotFound
	}
	if err != nil {
		return 0, err
	}
	if ctx.Value(pushes{}) == nil {
		return info.Size(), nil
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

// take moves a file that is complete, and counted as used by an owner, to its place.
func (b *blobs) take(file, owner string, h v1.Hash, size int64) error {
	b.shares.mu.Lock()
	defer b.shares.mu.Unlock()
	_, err := os.Stat(b.path(h))
	known := err == nil
	if err := os.Rename(file, b.path(h)); err != nil {
		return err
	}
	if known {
		b.used.Add(-size)
		b.shares.count(owner, -size)
	} else {
		b.shares.whose[h.Hex] = owner
	}
	return nil
}

// shares are the bytes that each owner has in blobs and uploads. A blob is that of
// who was first to push it, or after a restart to have a manifest with it.
type shares struct {
	mu    sync.Mutex
	bytes map[string]int64
	whose map[string]string // by the digest
}

// add counts bytes, and gives how many the owner has then.
func (s *shares) add(owner string, n int64) int64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.count(owner, n)
}

// count is add, for who has the lock.
func (s *shares) count(owner string, n int64) int64 {
	now := s.bytes[owner] + n
	if s.bytes[owner] = now; now == 0 {
		delete(s.bytes, owner)
	}
	return now
}

// claim makes an owner that of the blobs which have none.
func (b *blobs) claim(owner string, list []v1.Hash) {
	b.shares.mu.Lock()
	defer b.shares.mu.Unlock()
	for _, h := range list {
		if _, known := b.shares.whose[h.Hex]; known {
			continue
		}
		if info, err := os.Stat(b.path(h)); err == nil {
			b.shares.whose[h.Hex] = owner
			b.shares.count(owner, info.Size())
		}
	}
}

// remove removes a blob that nobody refers to.
func (b *blobs) remove(hex string, size int64) error {
	b.shares.mu.Lock()
	defer b.shares.mu.Unlock()
	if err := os.Remove(b.path(v1.Hash{Algorithm: "sha256", Hex: hex})); err != nil {
		return err
	}
	b.used.Add(-size)
	if owner, known := b.shares.whose[hex]; known {
		delete(b.shares.whose, hex)
		b.shares.count(owner, -size)
	}
	return nil
}

// uploads are blobs on their way in.
type uploads struct {
	dir    string
	total  *atomic.Int64 // bytes of what is stored, uploads included
	shares *shares
	mu     sync.Mutex
	open   map[string]*upload
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
	go u.discard(up) // a piece may be on its way: it ends at once
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

// discard removes an upload's file and what it counted for. A piece that is on its
// way then fails.
func (u *uploads) discard(up *upload) {
	up.stop()
	up.mu.Lock()
	defer up.mu.Unlock()
	up.file.Close()
	os.Remove(up.file.Name())
	size := up.size.Swap(0)
	u.total.Add(-size)
	u.shares.add(owner(up.repository), -size)
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
			r.uploads.discard(up)
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
		r.uploads.discard(up)
	}
	switch {
	case errors.Is(err, errNoRoom):
		r.options.Log.Warn("registry: an upload is refused", "repository", q.repository, "err", err)
		refuse(w, http.StatusInsufficientStorage, "SIZE_INVALID", "the disk of the registry is full but for what has to stay free: make room there")
	case errors.Is(err, errShare):
		refuse(w, http.StatusRequestEntityTooLarge, "SIZE_INVALID", fmt.Sprintf("the images of %s have reached their limit of %d bytes: delete tags that are no longer needed; what no tag leads to is removed a while later",
			owner(q.repository), r.share()))
	case !errors.Is(err, errTooLarge):
		refuse(w, http.StatusBadRequest, "BLOB_UPLOAD_INVALID", "the piece broke off: start again")
	case announced > r.options.MaxBlob:
		refuse(w, http.StatusRequestEntityTooLarge, "SIZE_INVALID", fmt.Sprintf("a blob may have %d bytes", r.options.MaxBlob))
	default:
		refuse(w, http.StatusRequestEntityTooLarge, "SIZE_INVALID", fmt.Sprintf("the registry is full: %d bytes are its limit; delete tags that are no longer needed", r.options.MaxTotal))
	}
	return false
}

var (
	errTooLarge = errors.New("too large")
	errShare    = errors.New("the owner has too much")
	errNoRoom   = errors.New("no room on disk")
)

// share is how many bytes one owner may have: the others find room for theirs.
func (r *Registry) share() int64 { return r.options.MaxTotal / 4 * 3 }

// roomEvery is after how many bytes, of all uploads together, one looks how much of
// the disk is free.
const roomEvery = 64 << 20

// meter counts the bytes of an upload before they are written. The holder of
// up.mu writes to it.
type meter struct {
	r  *Registry
	up *upload
}

func (m meter) Write(p []byte) (int, error) {
	m.up.touch()
	n := int64(len(p))
	size, total, own := m.up.size.Add(n), m.r.used.Add(n), m.r.blobs.shares.add(owner(m.up.repository), n)
	switch {
	case size > m.r.options.MaxBlob || total > m.r.options.MaxTotal:
		return 0, errTooLarge
	case own > m.r.share():
		return 0, errShare
	}
	if m.r.options.Room != nil && (m.r.unseen.Add(n) >= roomEvery || size == n) {
		m.r.unseen.Store(0)
		if err := m.r.options.Room(n); err != nil {
			return 0, fmt.Errorf("%w: %w", errNoRoom, err)
		}
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
		r.uploads.discard(up)
		return
	}
	want, err := v1.NewHash(req.URL.Query().Get("digest"))
	got := v1.Hash{Algorithm: "sha256", Hex: hex.EncodeToString(sum)}
	if err != nil || want != got {
		r.uploads.discard(up)
		refuse(w, http.StatusBadRequest, "DIGEST_INVALID", "the blob's digest is "+got.String())
		return
	}
	if err := up.file.Close(); err != nil {
		r.uploads.discard(up)
		r.fail(w, req, err)
		return
	}
	if err := r.blobs.take(up.file.Name(), owner(q.repository), want, up.size.Load()); err != nil {
		r.uploads.discard(up)
		r.fail(w, req, err)
		return
	}
	w.Header().Set("Location", "/v2/"+q.repository+"/blobs/"+want.String())
	w.Header().Set("Docker-Content-Digest", want.String())
	w.WriteHeader(http.StatusCreated)
}
