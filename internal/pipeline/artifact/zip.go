package artifact

import (
	"archive/zip"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"strings"
	"time"

	"gocloud.dev/gcerrors"
)

// ratioFrom is the size of a zip's files from which on their ratio to the zip's own size counts.
const ratioFrom = 64 << 20

// Unzip writes a zip archive of a stranger into a project directory: all of it or, with an error, nothing. It takes what GitLab
// and its runner make; see the package's comment for what is refused.
func Unzip(ctx context.Context, r io.ReaderAt, size int64, w Work, l Limits) error {
	l = l.withDefaults()
	fail := func(err error) error { return fmt.Errorf("archive: %w; nothing was extracted", err) }
	z, err := zip.NewReader(r, size)
	if err != nil && !errors.Is(err, zip.ErrInsecurePath) {
		return fail(err)
	}
	entries, open, err := zipEntries(z, size, l)
	if err == nil {
		err = check(entries, l, true)
	}
	if err != nil {
		return fail(err)
	}
	entries = w.keep(entries)
	if len(entries) == 0 {
		return nil
	}
	sortEntries(entries)
	root, err := os.OpenRoot(w.Dir)
	if err != nil {
		return fail(err)
	}
	defer root.Close()
	st, err := newStage(root)
	if err != nil {
		return fail(err)
	}
	defer st.close()
	if err := st.room(entries, l.Reserve); err != nil {
		return fail(err)
	}
	if err := st.skeleton(entries); err != nil {
		return fail(err)
	}
	to := files{root: st.box}
	defer to.close()
	for _, e := range entries {
		if !e.Mode.IsRegular() || e.Size == 0 {
			continue
		}
		if err := st.file(&to, e, func(w io.Writer) error { return inflate(ctx, w, open[e.Path]) }); err != nil {
			return fail(err)
		}
	}
	if err := st.settle(ctx, entries); err != nil {
		return fail(err)
	}
	return nil
}

// zipEntries gives what a zip says that is in it. Nothing of it is believed yet.
func zipEntries(z *zip.Reader, size int64, l Limits) ([]entry, map[string]*zip.File, error) {
	if len(z.File) > l.Files {
		return nil, nil, fmt.Errorf("it has %d files, the limit is %d", len(z.File), l.Files)
	}
	entries := make([]entry, 0, len(z.File))
	open := make(map[string]*zip.File, len(z.File))
	var total uint64
	for _, f := range z.File {
		e := entry{Path: f.Name, Mode: f.Mode() & (fs.ModeType | fs.ModePerm), Size: int64(f.UncompressedSize64)}
		for strings.HasPrefix(e.Path, "./") {
			e.Path = e.Path[2:]
		}
		if strings.ContainsRune(e.Path, '\\') {
			return nil, nil, &unsafeError{f.Name, "has a backslash"}
		}
		if e.Mode.IsDir() {
			if e.Path = strings.TrimSuffix(e.Path, "/"); e.Path == "" || e.Path == "." {
				continue
			}
			e.Size = 0
		}
		if !f.Modified.IsZero() && f.Modified.Year() < 2200 {
			e.Modified = f.Modified.UnixNano()
		}
		if total += f.UncompressedSize64; f.UncompressedSize64 > uint64(l.Bytes) || total > uint64(l.Bytes) {
			return nil, nil, fmt.Errorf("its files have more than %s", sizeText(l.Bytes))
		}
		if e.Mode.Type() == fs.ModeSymlink {
			if f.UncompressedSize64 > 4095 {
				return nil, nil, &unsafeError{e.Path, "is a link without a usable target"}
			}
			var target bytes.Buffer
			if err := inflate(context.Background(), &target, f); err != nil {
				return nil, nil, fmt.Errorf("%s: %w", e.Path, err)
			}
			e.Link, e.Size, e.Modified = target.String(), 0, 0
		}
		entries, open[e.Path] = append(entries, e), f
	}
	if total > ratioFrom && total/uint64(max(size, 1)) > uint64(l.Ratio) {
		return nil, nil, fmt.Errorf("its files have %s, more than %d times what the archive has: it looks like a zip bomb", sizeText(int64(total)), l.Ratio)
	}
	return entries, open, nil
}

// inflate writes the content of a file, and no more of it than the archive's directory says that there is.
func inflate(ctx context.Context, w io.Writer, f *zip.File) error {
	r, err := f.Open()
	if err != nil {
		return err
	}
	defer r.Close()
	n, err := io.Copy(w, &bounded{ctx: ctx, r: r, left: int64(f.UncompressedSize64) + 1})
	if err == nil && n != int64(f.UncompressedSize64) {
		err = errors.New("it has more content than the archive's directory says")
	}
	return err
}

// Zip writes the artifacts of a job as the zip archive that GitLab gives for them. There being none is an error.
func (s *Store) Zip(ctx context.Context, key Key, out io.Writer) error {
	recs, err := s.records(ctx, []Key{key})
	if err != nil {
		return err
	}
	if len(recs) == 0 || recs[0].Archive == nil {
		return fmt.Errorf("%s has no artifacts", key.Job)
	}
	unlock, err := s.lock(ctx, false)
	if err != nil {
		return err
	}
	defer unlock()
	t, err := s.tree(ctx, *recs[0].Archive)
	if err == nil {
		err = checkTree(t, s.limits)
	}
	if err != nil {
		return s.missing(recs, err)
	}
	z := zip.NewWriter(out)
	for _, e := range t.Entries {
		if err := s.zipEntry(ctx, z, e); err != nil {
			return s.missing(recs, fmt.Errorf("%s: %w", e.Path, err))
		}
	}
	return z.Close()
}

func (s *Store) zipEntry(ctx context.Context, z *zip.Writer, e entry) error {
	h := &zip.FileHeader{Name: e.Path, Method: zip.Deflate}
	h.SetMode(e.Mode)
	if e.Modified != 0 {
		h.Modified = time.Unix(0, e.Modified).UTC()
	}
	if e.Mode.IsDir() {
		h.Name, h.Method = h.Name+"/", zip.Store
	}
	w, err := z.CreateHeader(h)
	if err != nil {
		return err
	}
	if e.Mode.Type() == fs.ModeSymlink {
		_, err := io.WriteString(w, e.Link)
		return err
	}
	if !e.Mode.IsRegular() || e.Size == 0 {
		return nil
	}
	r, err := s.bucket.NewRangeReader(ctx, blobKey(e.Blob), e.Offset, e.Size, nil)
	if gcerrors.Code(err) == gcerrors.NotFound {
		return errCorrupt
	}
	if err != nil {
		return s.readError(err)
	}
	defer r.Close()
	n, err := io.Copy(w, r)
	if err == nil && n != e.Size {
		err = errCorrupt
	}
	return err
}
