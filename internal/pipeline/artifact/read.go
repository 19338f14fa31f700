package artifact

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"slices"
	"strings"
	"time"

	"gocloud.dev/blob"
	"gocloud.dev/gcerrors"
)

// ErrNone says that there is no such artifact, report or file.
var ErrNone = errors.New("there is none")

// File is one of an artifact or a report.
type File struct {
	Path     string    `json:"path"` // slash-separated, relative to the project directory
	Mode     string    `json:"mode"` // as ls has it
	Size     int64     `json:"size"`
	Link     string    `json:"link,omitempty"` // the target of a symbolic link
	Modified time.Time `json:"modified,omitzero"`
}

// OfPipeline gives the records of all jobs of a pipeline, by their names.
func (s *Store) OfPipeline(ctx context.Context, project, pipeline string) ([]Record, error) {
	var out []Record
	prefix := Key{Project: project, Pipeline: pipeline}.prefix()
	for list := s.bucket.List(&blob.ListOptions{Prefix: prefix}); ; {
		object, err := list.Next(ctx)
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return nil, s.readError(err)
		}
		var rec Record
		ok, err := s.getJSON(ctx, object.Key, &rec)
		if err != nil {
			return nil, err
		}
		if ok && rec.Project == project && rec.Pipeline == pipeline {
			out = append(out, rec)
		}
	}
	slices.SortFunc(out, func(a, b Record) int { return strings.Compare(a.Job, b.Job) })
	return out, nil
}

// Gone says why the files of a record are not there any more: "expired 3h0m0s ago"; empty: they are.
func (s *Store) Gone(rec *Record) string {
	if s.holdsBack(rec) {
		return ""
	}
	return rec.gone(s.now())
}

// archiveOf is what a job has left: its artifacts or, with the kind of one, a report.
func (rec *Record) archiveOf(report string) (Archive, error) {
	if report == "" && rec.Archive != nil {
		return *rec.Archive, nil
	}
	for _, r := range rec.Reports {
		if r.Kind == report {
			return r.Archive, nil
		}
	}
	if report == "" {
		return Archive{}, fmt.Errorf("artifacts of %s: %w", rec.Job, ErrNone)
	}
	return Archive{}, fmt.Errorf("report %s of %s: %w", report, rec.Job, ErrNone)
}

// entries reads the list of files of an artifact or a report.
func (s *Store) entries(ctx context.Context, rec *Record, report string) (*tree, error) {
	if why := s.Gone(rec); why != "" {
		return nil, &MissingError{Jobs: []string{rec.Job}, Why: []string{why}}
	}
	at, err := rec.archiveOf(report)
	if err != nil {
		return nil, err
	}
	t, err := s.tree(ctx, at)
	if err == nil {
		err = checkTree(t, s.limits)
	}
	if err != nil {
		return nil, s.missing([]*Record{rec}, err)
	}
	return t, nil
}

// Files lists at most so many files of a job's artifacts or, with the kind of one, of a report. Directories are left out. The error is
// [ErrNone], or a [*MissingError] where they are gone.
func (s *Store) Files(ctx context.Context, rec *Record, report string, limit int) ([]File, error) {
	t, err := s.entries(ctx, rec, report)
	if err != nil {
		return nil, err
	}
	var out []File
	for _, e := range t.Entries {
		if e.Mode.IsDir() {
			continue
		}
		if len(out) == limit {
			break
		}
		f := File{Path: e.Path, Mode: strings.Replace(e.Mode.String(), "L", "l", 1), Size: e.Size, Link: e.Link}
		if e.Modified != 0 {
			f.Modified = e.modified().UTC()
		}
		out = append(out, f)
	}
	return out, nil
}

// Content is a file that is read from the store.
type Content struct {
	ctx   context.Context
	store *Store
	entry entry
	at    int64
	r     *blob.Reader // from at on; nil: it has to be opened
}

// Open opens a regular file of a job's artifacts or, with the kind of one, of a report. The error is [ErrNone], or a [*MissingError] where they
// are gone. Close what it gives; ctx bounds all reading.
func (s *Store) Open(ctx context.Context, rec *Record, report, path string) (*Content, error) {
	t, err := s.entries(ctx, rec, report)
	if err != nil {
		return nil, err
	}
	i, ok := slices.BinarySearchFunc(t.Entries, path, func(e entry, path string) int { return strings.Compare(e.Path, path) })
	switch {
	case !ok:
		return nil, fmt.Errorf("file %q of %s: %w", path, rec.Job, ErrNone)
	case t.Entries[i].Mode.Type() == fs.ModeSymlink:
		return nil, fmt.Errorf("file %q of %s is a link to %q: %w", path, rec.Job, t.Entries[i].Link, ErrNone)
	case !t.Entries[i].Mode.IsRegular():
		return nil, fmt.Errorf("%q of %s is a directory: %w", path, rec.Job, ErrNone)
	}
	return &Content{ctx: ctx, store: s, entry: t.Entries[i]}, nil
}

// Size is the length of the file.
func (c *Content) Size() int64 { return c.entry.Size }

// Modified is when it was changed last in the job's directory; zero: that is not known.
func (c *Content) Modified() time.Time {
	if c.entry.Modified == 0 {
		return time.Time{}
	}
	return c.entry.modified()
}

// Sum names the content: it is another one for any other content.
func (c *Content) Sum() string {
	return fmt.Sprintf("%s-%d-%d", c.entry.Blob, c.entry.Offset, c.entry.Size)
}

// Read implements [io.Reader].
func (c *Content) Read(p []byte) (int, error) {
	left := c.entry.Size - c.at
	if left <= 0 {
		return 0, io.EOF
	}
	if c.r == nil {
		r, err := c.store.bucket.NewRangeReader(c.ctx, blobKey(c.entry.Blob), c.entry.Offset+c.at, left, nil)
		if gcerrors.Code(err) == gcerrors.NotFound {
			return 0, errCorrupt
		}
		if err != nil {
			return 0, c.store.readError(err)
		}
		c.r = r
	}
	n, err := c.r.Read(p[:min(int64(len(p)), left)])
	c.at += int64(n)
	if errors.Is(err, io.EOF) && c.at < c.entry.Size {
		err = errCorrupt
	}
	return n, err
}

// Seek implements [io.Seeker].
func (c *Content) Seek(offset int64, whence int) (int64, error) {
	switch whence {
	case io.SeekCurrent:
		offset += c.at
	case io.SeekEnd:
		offset += c.entry.Size
	}
	if offset < 0 {
		return c.at, errors.New("seek before the beginning of a file")
	}
	if offset != c.at {
		c.Close() //nolint:errcheck // it was only read
		c.at = offset
	}
	return offset, nil
}

// Close implements [io.Closer].
func (c *Content) Close() error {
	r := c.r
	c.r = nil
	if r == nil {
		return nil
	}
	return r.Close()
}

// Keep keeps a job's artifacts from expiring. The error is [ErrNone], or a [*MissingError] where they are gone already.
func (s *Store) Keep(ctx context.Context, key Key) error {
	unlock, err := s.lock(ctx, false)
	if err != nil {
		return err
	}
	defer unlock()
	rec, err := s.Get(ctx, key)
	if err != nil {
		return err
	}
	if rec == nil {
		return fmt.Errorf("artifacts of %s: %w", key.Job, ErrNone)
	}
	if why := s.Gone(rec); why != "" {
		return &MissingError{Jobs: []string{rec.Job}, Why: []string{why}}
	}
	rec.Expires = time.Time{}
	return s.putJSON(ctx, key.path(), rec)
}
