package web

import (
	"context"
	"errors"
	"fmt"
	"io"
	"mime"
	"net/http"
	"path"
	"strconv"
	"strings"
	"sync"
	"time"

	"keelson.dev/keelson/internal/pipeline/artifact"
	"keelson.dev/keelson/internal/store"
)

// JobArtifacts is what a job has left.
type JobArtifacts struct {
	Job     int64     `json:"job,omitempty"` // the attempt
	Name    string    `json:"name"`          // of the job
	Archive string    `json:"archive"`       // artifacts:name
	Access  string    `json:"access,omitempty"`
	Saved   time.Time `json:"saved"`
	Expires time.Time `json:"expires,omitzero"` // zero: never
	Gone    string    `json:"gone,omitempty"`   // why the files are not there any more
	Count   int       `json:"count"`            // files, directories and links, also those that are not listed
	Size    int64     `json:"size"`             // bytes of all files
	// Files of the archive, as far as they are listed.
	Files   []artifact.File `json:"files,omitempty"`
	Reports []JobReport     `json:"reports,omitempty"`
}

// JobReport is a report that a job has left.
type JobReport struct {
	Kind  string          `json:"kind"`
	Size  int64           `json:"size"`
	Files []artifact.File `json:"files,omitempty"`
}

// ArtifactList is what the jobs of a pipeline have left, without the files.
type ArtifactList struct {
	Artifacts []JobArtifacts `json:"artifacts"`
}

const (
	listedFiles = 10_000  // unless a request says how many
	mostFiles   = 200_000 // whatever it says
	maxZips     = 4       // made at a time
	keptSizes   = 1000    // of zips
)

func (s *pipelines) artifactsOf(w http.ResponseWriter, r *http.Request) {
	ctx, cancel := context.WithTimeout(r.Context(), readLimit)
	defer cancel()
	p, paths, ok := s.pipelineOf(ctx, w, r)
	if !ok {
		return
	}
	jobs, err := s.Store.Jobs(ctx, p.ID)
	if err != nil {
		fail(w, err)
		return
	}
	all, err := s.Artifacts.OfPipeline(ctx, paths[p.Project], strconv.FormatInt(p.ID, 10))
	if err != nil {
		fail(w, err)
		return
	}
	out := ArtifactList{Artifacts: []JobArtifacts{}}
	for i := range all {
		of := s.shown(&all[i])
		for _, j := range jobs { // the attempts of a job come one after the other
			if j.Name == of.Name && leftBy(j, &all[i]) {
				of.Job = j.ID
			}
		}
		out.Artifacts = append(out.Artifacts, of)
	}
	answerJSON(w, out)
}

// leftBy tells whether it was this attempt that has left something: a later one replaces it.
func leftBy(j store.Job, rec *artifact.Record) bool {
	const slack = time.Second // the store rounds times
	return !j.Started.IsZero() && !rec.Saved.Before(j.Started.Add(-time.Millisecond)) &&
		(j.Finished.IsZero() || !rec.Saved.After(j.Finished.Add(slack)))
}

// shown is a record without its files.
func (s *pipelines) shown(rec *artifact.Record) JobArtifacts {
	out := JobArtifacts{Name: rec.Job, Archive: rec.Name, Access: rec.Access, Saved: rec.Saved, Expires: rec.Expires, Gone: s.Artifacts.Gone(rec)}
	if rec.Archive != nil {
		out.Count, out.Size = rec.Archive.Files, rec.Archive.Size
	}
	for _, report := range rec.Reports {
		out.Reports = append(out.Reports, JobReport{Kind: report.Kind, Size: report.Size})
	}
	return out
}

// record finds what a job has left; false: it was answered already.
func (s *pipelines) record(w http.ResponseWriter, r *http.Request) (*artifact.Record, int64, bool) {
	ctx, cancel := context.WithTimeout(r.Context(), readLimit)
	defer cancel()
	j, ok := named(ctx, w, r, "job", s.Store.Job)
	if !ok {
		return nil, 0, false
	}
	p, err := s.Store.Pipeline(ctx, j.Pipeline)
	if err != nil {
		fail(w, err)
		return nil, 0, false
	}
	paths, err := s.paths(ctx)
	if err != nil {
		fail(w, err)
		return nil, 0, false
	}
	rec, err := s.Artifacts.Get(ctx, artifact.Key{Project: paths[p.Project], Pipeline: strconv.FormatInt(p.ID, 10), Job: j.Name})
	switch {
	case err != nil:
		fail(w, err)
	case rec == nil, j.Started.IsZero(), rec.Saved.Before(j.Started.Add(-time.Millisecond)):
		refuse(w, http.StatusNotFound, fmt.Errorf("job %d (%s) has left no artifacts", j.ID, j.Name))
	case !leftBy(j, rec):
		refuse(w, http.StatusNotFound, fmt.Errorf("the artifacts of job %d were replaced by those of a later attempt of %s", j.ID, j.Name))
	default:
		return rec, j.ID, true
	}
	return nil, 0, false
}

// failArtifacts answers with an error of the artifacts' store.
func failArtifacts(w http.ResponseWriter, err error) {
	var missing *artifact.MissingError
	switch {
	case errors.As(err, &missing):
		refuse(w, http.StatusGone, fmt.Errorf("the artifacts of %s are gone: %s", strings.Join(missing.Jobs, ", "), strings.Join(missing.Why, ", ")))
	case errors.Is(err, artifact.ErrNone):
		refuse(w, http.StatusNotFound, err)
	default:
		fail(w, err)
	}
}

func (s *pipelines) artifacts(w http.ResponseWriter, r *http.Request) {
	limit := int64(listedFiles)
	if text := r.URL.Query().Get("limit"); text != "" {
		var ok bool
		if limit, ok = number(w, "limit", text); !ok {
			return
		}
	}
	rec, id, ok := s.record(w, r)
	if !ok {
		return
	}
	ctx, cancel := context.WithTimeout(r.Context(), readLimit)
	defer cancel()
	out := s.shown(rec)
	out.Job = id
	left := int(min(limit, mostFiles))
	list := func(report string) (files []artifact.File, err error) {
		if out.Gone != "" || report == "" && rec.Archive == nil {
			return nil, nil
		}
		files, err = s.Artifacts.Files(ctx, rec, report, left)
		left -= len(files)
		return files, err
	}
	var err error
	out.Files, err = list("")
	for i := range out.Reports {
		if err == nil {
			out.Reports[i].Files, err = list(out.Reports[i].Kind)
		}
	}
	if err != nil {
		failArtifacts(w, err)
		return
	}
	answerJSON(w, out)
}

func (s *pipelines) erase(w http.ResponseWriter, r *http.Request) {
	if rec, _, ok := s.record(w, r); ok {
		s.change(w, r, func(ctx context.Context) error { return s.Artifacts.Erase(ctx, rec.Key) })
	}
}

func (s *pipelines) keep(w http.ResponseWriter, r *http.Request) {
	if rec, _, ok := s.record(w, r); ok {
		s.change(w, r, func(ctx context.Context) error { return s.Artifacts.Keep(ctx, rec.Key) })
	}
}

func (s *pipelines) change(w http.ResponseWriter, r *http.Request, do func(context.Context) error) {
	ctx, cancel := context.WithTimeout(r.Context(), askTimeout)
	defer cancel()
	if err := do(ctx); err != nil {
		failArtifacts(w, err)
		return
	}
	w.WriteHeader(http.StatusNoContent)
}

// download says of what follows that it is nothing to look at: whatever a job has written, no browser runs it.
func (s *pipelines) download(w http.ResponseWriter, r *http.Request, rec *artifact.Record, name, kind, sum string) bool {
	if rec.Access == "none" {
		refuse(w, http.StatusForbidden, fmt.Errorf("the artifacts of %s are for other jobs only (artifacts:access: none)", rec.Job))
		return false
	}
	h := w.Header()
	h.Set("Content-Type", kind)
	h.Set("Content-Security-Policy", "sandbox; default-src 'none'")
	h.Set("Content-Disposition", mime.FormatMediaType("attachment", map[string]string{"filename": name}))
	h.Set("ETag", strconv.Quote(sum))
	h.Set("Cache-Control", "private, no-cache")
	if strings.Contains(r.Header.Get("Range"), ",") {
		r.Header.Del("Range") // several at once would be as many readings
	}
	return true
}

func (s *pipelines) file(w http.ResponseWriter, r *http.Request) {
	rec, _, ok := s.record(w, r)
	if !ok {
		return
	}
	q := r.URL.Query()
	content, err := s.Artifacts.Open(r.Context(), rec, q.Get("report"), q.Get("path"))
	if err != nil {
		failArtifacts(w, err)
		return
	}
	defer func() { _ = content.Close() }() // it was only read
	if s.download(w, r, rec, path.Base(q.Get("path")), "application/octet-stream", content.Sum()) {
		http.ServeContent(newPatient(w), r, "", content.Modified(), content)
	}
}

// archive sends the zip. It is made as it is sent, and the same each time; so a part of it can be asked for.
func (s *pipelines) archive(w http.ResponseWriter, r *http.Request) {
	rec, _, ok := s.record(w, r)
	if !ok {
		return
	}
	if why := s.Artifacts.Gone(rec); why != "" {
		failArtifacts(w, &artifact.MissingError{Jobs: []string{rec.Job}, Why: []string{why}})
		return
	}
	if rec.Archive == nil {
		refuse(w, http.StatusNotFound, fmt.Errorf("job %s has left no artifacts but reports", rec.Job))
		return
	}
	select {
	case s.zips <- struct{}{}:
		defer func() { <-s.zips }()
	case <-r.Context().Done():
		return
	}
	if !s.download(w, r, rec, rec.Name+".zip", "application/zip", "zip-"+rec.Archive.Tree) {
		return
	}
	z := &zipped{ctx: r.Context(), make: func(ctx context.Context, to io.Writer) error { return s.Artifacts.Zip(ctx, rec.Key, to) }}
	defer z.close()
	size, known := s.sizes.get(rec.Archive.Tree)
	if !known && r.Header.Get("Range") == "" && r.Method != http.MethodHead { // its length is not known before it is made
		n := &counted{w: newPatient(w)}
		if err := z.make(r.Context(), n); err == nil {
			s.sizes.put(rec.Archive.Tree, n.n)
		} else {
			s.broken(w, n.n, err)
		}
		return
	}
	if !known {
		n := &counted{w: io.Discard}
		if err := z.make(r.Context(), n); err != nil {
			s.broken(w, 0, err)
			return
		}
		size = n.n
		s.sizes.put(rec.Archive.Tree, size)
	}
	z.size = size
	http.ServeContent(newPatient(w), r, "", rec.Saved, z)
}

// broken answers where a zip cannot be made; of one that has begun the connection is cut, so that nobody takes it for a whole one.
func (s *pipelines) broken(w http.ResponseWriter, sent int64, err error) {
	if sent > 0 {
		panic(http.ErrAbortHandler)
	}
	for _, name := range []string{"Content-Disposition", "ETag"} {
		w.Header().Del(name)
	}
	failArtifacts(w, err)
}

// zipSizes remembers how long zips are, by their trees.
type zipSizes struct {
	mu  sync.Mutex
	all map[string]int64
}

func (z *zipSizes) get(tree string) (int64, bool) {
	z.mu.Lock()
	defer z.mu.Unlock()
	n, ok := z.all[tree]
	return n, ok
}

func (z *zipSizes) put(tree string, size int64) {
	z.mu.Lock()
	defer z.mu.Unlock()
	if len(z.all) >= keptSizes || z.all == nil {
		z.all = map[string]int64{}
	}
	z.all[tree] = size
}

// zipped reads what is made from its beginning on, each time that somebody begins elsewhere.
type zipped struct {
	ctx    context.Context
	make   func(ctx context.Context, to io.Writer) error
	size   int64
	at     int64
	r      *io.PipeReader
	cancel context.CancelFunc
}

// Read implements [io.Reader].
func (z *zipped) Read(p []byte) (int, error) {
	if z.at >= z.size {
		return 0, io.EOF
	}
	if z.r == nil {
		ctx, cancel := context.WithCancel(z.ctx)
		r, w := io.Pipe()
		go func() { w.CloseWithError(z.make(ctx, w)) }()
		z.r, z.cancel = r, cancel
		if _, err := io.CopyN(io.Discard, r, z.at); err != nil {
			return 0, err
		}
	}
	n, err := z.r.Read(p)
	z.at += int64(n)
	return n, err
}

// Seek implements [io.Seeker].
func (z *zipped) Seek(offset int64, whence int) (int64, error) {
	switch whence {
	case io.SeekCurrent:
		offset += z.at
	case io.SeekEnd:
		offset += z.size
	}
	if offset < 0 {
		return z.at, errors.New("seek before the beginning of an archive")
	}
	if offset != z.at {
		z.close()
	}
	z.at = offset
	return offset, nil
}

// close ends the making.
func (z *zipped) close() {
	if z.r != nil {
		z.cancel()
		_ = z.r.Close() // the writer is told
		z.r = nil
	}
}

// counted counts what goes through it.
type counted struct {
	w io.Writer
	n int64
}

func (c *counted) Write(p []byte) (int, error) {
	n, err := c.w.Write(p)
	c.n += int64(n)
	return n, err
}

// patient gives up on who does not read for a while.
type patient struct {
	http.ResponseWriter
	control *http.ResponseController
}

func newPatient(w http.ResponseWriter) *patient {
	return &patient{ResponseWriter: w, control: http.NewResponseController(w)}
}

func (p *patient) Write(b []byte) (int, error) {
	_ = p.control.SetWriteDeadline(time.Now().Add(writeLimit)) // a writer that has none is a test's
	return p.ResponseWriter.Write(b)
}
