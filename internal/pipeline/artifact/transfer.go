package artifact

import (
	"bufio"
	"bytes"
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path"
	"slices"

	"keelson.dev/keelson/internal/pipeline"
)

// Selection says which files of a project directory are taken. Its texts are expanded, and relative to the directory.
type Selection struct {
	Paths     []string `json:"paths,omitempty"` // as of artifacts:paths
	Exclude   []string `json:"exclude,omitempty"`
	Untracked bool     `json:"untracked,omitempty"`
}

// Wanted says which files of a job's directory [Store.SaveCaches] and [Store.Save] will look at, for a job that has worked in a copy of it.
func Wanted(j pipeline.Job, w Work, succeeded bool) []Selection {
	w = w.ready()
	w.Log = nil // those who save tell what is wrong
	var all []Selection
	add := func(paths, exclude []string, untracked bool) {
		if s := w.within(w.selection(paths, exclude, untracked)); len(s.Paths) > 0 || s.Untracked {
			all = append(all, s)
		}
	}
	for _, c := range j.Caches[:min(len(j.Caches), maxCaches)] {
		if _, push, err := policy(c, "", w); err == nil && push && matches(c.When, succeeded) {
			add(c.Paths, nil, c.Untracked)
		}
	}
	a := j.Artifacts
	if a == nil {
		return all
	}
	if matches(a.When, succeeded) {
		add(a.Paths, a.Exclude, a.Untracked)
	}
	for _, paths := range a.Reports {
		add(paths, nil, false)
	}
	return all
}

// within makes the paths of a selection relative to the project directory; those outside of it are left out.
func (w Work) within(s selection) Selection {
	out := Selection{Untracked: s.Untracked}
	for _, p := range s.Paths {
		if rel, err := w.relative(p); err == nil {
			out.Paths = append(out.Paths, rel)
		}
	}
	for _, p := range s.Exclude {
		if rel, err := w.relative(p); err == nil {
			out.Exclude = append(out.Exclude, rel)
		}
	}
	return out
}

// Tracked gives the files that git tracks in a project directory. A directory without a repository has none. Git is not asked, see [tracked].
func Tracked(dir string, l Limits) ([]string, error) {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return nil, err
	}
	defer root.Close()
	names, err := tracked(root, l.withDefaults())
	if errors.Is(err, errNoRepository) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("list the tracked files: %w", err)
	}
	return names, nil
}

// bundleMagic begins a bundle: a list of entries with its length, then the contents of the files, one after the other.
const bundleMagic = "keelson-files/1\n"

// Pack writes all of a project directory, for another machine to [Unpack].
func Pack(ctx context.Context, out io.Writer, dir string, l Limits) error {
	return pack(ctx, out, dir, []Selection{{Paths: []string{"."}}}, nil, l, true)
}

// PackSelected writes what is selected of a project directory. Tracked are the files that are not untracked. The repository in .git is not
// taken, whatever is selected: who reads it next would do what its configuration says.
func PackSelected(ctx context.Context, out io.Writer, dir string, selected []Selection, tracked []string, l Limits) error {
	return pack(ctx, out, dir, selected, tracked, l, false)
}

func pack(ctx context.Context, out io.Writer, dir string, selected []Selection, tracked []string, l Limits, whole bool) error {
	l = l.withDefaults()
	root, err := os.OpenRoot(dir)
	if err != nil {
		return err
	}
	defer root.Close()
	entries, err := union(ctx, root, dir, selected, tracked, l, whole)
	if err != nil {
		return err
	}
	list, err := json.Marshal(entries)
	if err != nil {
		return err
	}
	w := bufio.NewWriterSize(out, 256<<10)
	_, _ = w.WriteString(bundleMagic) // the writer remembers its error
	_ = binary.Write(w, binary.BigEndian, uint64(len(list)))
	_, _ = w.Write(list)
	from := files{root: root}
	defer from.close()
	for _, e := range entries {
		if !e.Mode.IsRegular() || e.Size == 0 {
			continue
		}
		if err := packFile(ctx, w, &from, e); err != nil {
			return fmt.Errorf("%s: %w", e.Path, unwrapDisk(err))
		}
	}
	return w.Flush()
}

func packFile(ctx context.Context, w io.Writer, from *files, e entry) error {
	f, err := from.open(e.Path)
	if err != nil {
		return err
	}
	defer f.Close()
	info, err := f.Stat()
	if err == nil && !info.Mode().IsRegular() {
		err = errors.New("it is no file any more")
	}
	if err != nil {
		return err
	}
	n, err := io.Copy(w, &bounded{ctx: ctx, r: io.LimitReader(f, e.Size), left: e.Size + 1})
	if err == nil && n != e.Size {
		err = errors.New("it was changed while it was read")
	}
	return err
}

// union gives what any of the selections takes, in the order of paths.
func union(ctx context.Context, root *os.Root, dir string, selected []Selection, tracked []string, l Limits, whole bool) ([]entry, error) {
	found := map[string]entry{}
	var known map[string]bool
	for _, s := range selected {
		c := &collector{work: Work{Dir: dir}, root: root, limits: l, found: map[string]entry{}, excluded: map[string]int{}, warnedOf: map[string]bool{}, exclude: s.Exclude}
		for _, p := range s.Paths {
			if err := c.path(ctx, p); err != nil {
				return nil, err
			}
		}
		if s.Untracked {
			if known == nil {
				known = withDirs(tracked)
			}
			if err := c.unknown(ctx, ".", known); err != nil {
				return nil, err
			}
		}
		maps.Copy(found, c.found)
	}
	if !whole {
		repo, err := gitDirOf(root)
		if err != nil {
			return nil, err
		}
		if err := repo.without(found); err != nil {
			return nil, err
		}
	}
	entries := make([]entry, 0, len(found))
	for _, e := range found {
		entries = append(entries, e)
	}
	sortEntries(entries)
	return entries, check(entries, l, false)
}

// withDirs is a set of files with the directories that they are in.
func withDirs(files []string) map[string]bool {
	known := make(map[string]bool, 2*len(files))
	for _, f := range files {
		for ; f != "." && f != "/" && !known[f]; f = path.Dir(f) {
			known[f] = true
		}
	}
	return known
}

// unknown takes the files below a directory that are not among those that are known, as `git ls-files --others` names them: a repository
// in the directory is one of them, without what is in it.
func (c *collector) unknown(ctx context.Context, at string, known map[string]bool) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	dir, err := c.root.Open(at)
	if err != nil {
		return nil //nolint:nilerr // it has gone, or the job has locked it: nobody can take what is in it
	}
	names, _ := dir.Readdirnames(-1) // what cannot be read is not taken
	dir.Close()
	for _, name := range names {
		below := path.Join(at, name)
		if below == ".git" || isStage(below) {
			continue
		}
		if c.seen++; c.seen > 2*c.limits.Files {
			return fmt.Errorf("untracked: more than %d files", c.limits.Files)
		}
		info, err := c.root.Lstat(below)
		if err != nil {
			continue
		}
		if !info.IsDir() {
			if !known[below] {
				c.taken += c.add(below, info)
			}
			continue
		}
		if _, err := c.root.Lstat(path.Join(below, ".git")); err == nil {
			if !known[below] {
				c.taken += c.add(below, info)
			}
			continue // a repository of its own, or a submodule
		}
		if err := c.unknown(ctx, below, known); err != nil {
			return err
		}
	}
	return nil
}

// Unpack writes what [Pack] has written to a project directory: all of it or, with an error, nothing. It believes nothing of it; see the
// package's comment for what is refused.
func Unpack(ctx context.Context, in io.Reader, dir string, l Limits) error {
	return unpack(ctx, in, dir, l, true, func(*os.Root) error { return nil })
}

// UnpackSelected writes what [PackSelected] has written, in place of all that is selected in the directory: what is not in the bundle is gone
// afterwards. The limits are those of each selection: who saves it looks at them again.
func UnpackSelected(ctx context.Context, in io.Reader, dir string, selected []Selection, tracked []string, l Limits) error {
	l = l.withDefaults().times(max(1, len(selected)))
	return unpack(ctx, in, dir, l, false, func(root *os.Root) error {
		old, err := union(ctx, root, dir, selected, tracked, l, false)
		if err != nil {
			return err
		}
		for _, e := range old {
			if e.Mode.IsDir() && e.Mode.Perm()&0o700 != 0o700 { // else nothing in it can be removed or replaced
				_ = root.Chmod(e.Path, e.Mode.Perm()|0o700) // what follows tells
			}
		}
		for i := len(old) - 1; i >= 0; i-- { // what is in a directory comes after it
			if err := root.Remove(old[i].Path); err != nil && !old[i].Mode.IsDir() && !errors.Is(err, fs.ErrNotExist) {
				return fmt.Errorf("%s: %w", old[i].Path, unwrapDisk(err))
			}
		}
		return nil
	})
}

// Clear removes what is selected of a project directory.
func Clear(ctx context.Context, dir string, selected []Selection, tracked []string, l Limits) error {
	var none bytes.Buffer
	none.WriteString(bundleMagic)
	_ = binary.Write(&none, binary.BigEndian, uint64(len("[]"))) // a buffer takes everything
	none.WriteString("[]")
	return UnpackSelected(ctx, &none, dir, selected, tracked, l)
}

// unpack stages a bundle, and puts it into place once clear has made room for its entries. Only a bundle of the whole directory may have the
// repository in .git.
func unpack(ctx context.Context, in io.Reader, dir string, l Limits, whole bool, clear func(root *os.Root) error) error {
	fail := func(err error) error { return fmt.Errorf("files of the job: %w; nothing was extracted", err) }
	l = l.withDefaults()
	r := bufio.NewReaderSize(in, 256<<10)
	entries, err := bundleEntries(r, l)
	if err == nil {
		err = check(entries, l, false)
	}
	if i := slices.IndexFunc(entries, func(e entry) bool { return ofRepository(e.Path) }); err == nil && i >= 0 && !whole {
		err = &unsafeError{entries[i].Path, "is in the repository"}
	}
	if err != nil {
		return fail(err)
	}
	sortEntries(entries)
	root, err := os.OpenRoot(dir)
	if err != nil {
		return fail(err)
	}
	defer root.Close()
	st, err := newStage(root)
	if err != nil {
		return fail(err)
	}
	defer st.close()
	if st.whole = whole; whole {
		l.Reserve = -1 // the directory in a Pod is the job's alone
	}
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
		content := func(w io.Writer) error {
			n, err := io.Copy(w, &bounded{ctx: ctx, r: io.LimitReader(r, e.Size), left: e.Size + 1})
			if err == nil && n != e.Size {
				err = io.ErrUnexpectedEOF
			}
			return err
		}
		if err := st.file(&to, e, content); err != nil {
			return fail(err)
		}
	}
	if err := clear(root); err != nil {
		return fail(err)
	}
	if err := st.settle(ctx, entries); err != nil {
		return fmt.Errorf("files of the job: %w", err)
	}
	return nil
}

// Bounds of the list of a bundle, in bytes: so many for each file that there may be, and for one of them.
const (
	entryShare = 256
	maxEntry   = 64 << 10 // two names of 4095 bytes, all of them escaped, and the rest
)

// bundleEntries reads the list of a bundle, one entry after the other: no more is held than the limit has.
func bundleEntries(r io.Reader, l Limits) ([]entry, error) {
	head := make([]byte, len(bundleMagic)+8)
	if _, err := io.ReadFull(r, head); err != nil {
		return nil, err
	}
	rest, ok := bytes.CutPrefix(head, []byte(bundleMagic))
	if !ok {
		return nil, errors.New("this is no bundle of files")
	}
	size, most := binary.BigEndian.Uint64(rest), uint64(min(maxTree, maxEntry+entryShare*int64(l.Files)))
	if size > most {
		return nil, fmt.Errorf("its list of files has more than %s", sizeText(int64(most)))
	}
	list := &io.LimitedReader{R: r, N: int64(size)}
	entries, err := decodeEntries(list, l.Files)
	switch {
	case list.N > 0 && (err == nil || errors.Is(err, io.ErrUnexpectedEOF)):
		return nil, io.ErrUnexpectedEOF
	case err != nil:
		return nil, fmt.Errorf("its list of files: %w", err)
	}
	return entries, nil
}

// decodeEntries reads a JSON array of at most so many entries.
func decodeEntries(r io.Reader, most int) ([]entry, error) {
	piece := &io.LimitedReader{R: r}
	d := json.NewDecoder(piece)
	step := func(do func() error) error {
		piece.N = maxEntry
		err := do()
		if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
			if piece.N == 0 {
				return fmt.Errorf("an entry has more than %s", sizeText(maxEntry))
			}
			return io.ErrUnexpectedEOF
		}
		return err
	}
	bracket := func(want json.Delim) error {
		return step(func() error {
			got, err := d.Token()
			if err == nil && got != want {
				err = errors.New("it is no array")
			}
			return err
		})
	}
	if err := bracket('['); err != nil {
		return nil, err
	}
	entries := []entry{}
	for {
		more := false
		_ = step(func() error { more = d.More(); return nil }) // what is wrong, the next step tells
		if !more {
			break
		}
		if len(entries) == most {
			return nil, fmt.Errorf("it has more than %d files", most)
		}
		var e entry
		if err := step(func() error { return d.Decode(&e) }); err != nil {
			return nil, err
		}
		entries = append(entries, e)
	}
	if err := bracket(']'); err != nil {
		return nil, err
	}
	piece.N = 1
	if _, err := d.Token(); !errors.Is(err, io.EOF) || piece.N == 0 {
		return nil, errors.New("something follows its end")
	}
	return entries, nil
}
