package render

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path"
	"strings"
	"syscall"

	"sigs.k8s.io/kustomize/api/konfig"
	"sigs.k8s.io/kustomize/kyaml/filesys"

	"keelson.dev/keelson/internal/delivery"
	"keelson.dev/keelson/internal/git"
)

// tree is a snapshot's files as one render sees them: read-only, with kustomizations that were changed in
// memory laid over them, links resolved inside the repository, sizes bounded, and every file read once.
// Names are relative to the repository's root, slash-separated and clean ("." is the root).
type tree struct {
	ctx     context.Context
	fsys    fs.FS
	links   fs.ReadLinkFS     // nil where the file system resolves links by itself
	ids     identified        // nil where the file system has no ids
	overlay map[string][]byte // by name with the folder resolved
	files   map[string][]byte // what was read, by resolved name
	size    int64             // of files
	seen    map[string]entity // what is known of names; the folders above each are there too
	listed  map[string]sum    // the listings that were asked for
	failed  error             // what cannot be read now, whoever asked and whatever was made of it
	untold  bool              // something is refused by the file system itself: what that depends on is not known
}

// identified is a file system that knows the object id of what it shows.
type identified interface {
	fs.ReadLinkFS
	// Identify gives the id and type of what stands at a path, shown or not. No link is followed.
	Identify(name string) (git.ObjectID, fs.FileMode, error)
	// ReadAtMost reads a file; one that has more than limit bytes is an error.
	ReadAtMost(name string, limit int64) ([]byte, error)
}

// finder is an identified file system that leaves out some of what there is.
type finder interface {
	// Find is Identify for what is shown.
	Find(name string) (git.ObjectID, fs.FileMode, error)
}

// entity is what stands at a name; the zero entity is nothing.
type entity struct {
	there bool
	mode  fs.FileMode
	id    git.ObjectID // where the file system has ids
}

func newTree(ctx context.Context, fsys fs.FS) *tree {
	links, _ := fsys.(fs.ReadLinkFS)
	ids, _ := fsys.(identified)
	return &tree{
		ctx: ctx, fsys: fsys, links: links, ids: ids,
		overlay: map[string][]byte{}, files: map[string][]byte{}, seen: map[string]entity{}, listed: map[string]sum{},
	}
}

// lstat describes what stands at a name, without following links where they can be told.
func (t *tree) lstat(name string) (entity, error) {
	e, ok := t.seen[name]
	if !ok {
		var err error
		e, err = t.look(name)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return entity{}, t.note(err)
		}
		e.there = err == nil
		t.seen[name] = e
	}
	if !e.there {
		return e, &fs.PathError{Op: "open", Path: name, Err: fs.ErrNotExist}
	}
	return e, nil
}

func (t *tree) look(name string) (e entity, err error) {
	if f, ok := t.fsys.(finder); ok && t.ids != nil {
		e.id, e.mode, err = f.Find(name)
		return e, err
	}
	if t.ids != nil {
		e.id, e.mode, err = t.ids.Identify(name)
		return e, err
	}
	var info fs.FileInfo
	if t.links != nil && name != "." {
		info, err = t.links.Lstat(name)
	} else {
		info, err = fs.Stat(t.fsys, name)
	}
	if err == nil {
		e.mode = info.Mode()
	}
	return e, err
}

// resolve follows the symbolic links in name, component by component. The error of a link or a ".." that
// leaves the repository wraps delivery.ErrEscapes.
func (t *tree) resolve(name string) (string, error) {
	if err := t.ctx.Err(); err != nil {
		return "", err
	}
	if !fs.ValidPath(name) {
		return "", &fs.PathError{Op: "open", Path: name, Err: fs.ErrNotExist}
	}
	if e := t.seen[name]; t.links == nil || name == "." || e.there && e.mode&fs.ModeSymlink == 0 {
		return name, nil
	}
	const maxHops = 40
	done, rest := ".", name
	for hops := 0; rest != ""; {
		var part string
		switch part, rest, _ = strings.Cut(rest, "/"); part {
		case "", ".":
			continue
		case "..":
			if done == "." {
				return "", fmt.Errorf("link in '%s': %w", name, delivery.ErrEscapes)
			}
			done = path.Dir(done)
			continue
		}
		next := path.Join(done, part)
		e, err := t.lstat(next)
		if err != nil {
			return "", err
		}
		if e.mode&fs.ModeSymlink == 0 {
			done = next
			continue
		}
		target, err := t.links.ReadLink(next)
		if err != nil {
			return "", t.unreadable(next, err)
		}
		if hops++; hops > maxHops {
			return "", fault(name, "links may not lead to each other", "it leads through more than %d links", maxHops)
		}
		if path.IsAbs(target) {
			return "", fmt.Errorf("link '%s' to '%s': %w", next, target, delivery.ErrEscapes)
		}
		rest = target + "/" + rest
	}
	return done, nil
}

// stat is the type of what name leads to.
func (t *tree) stat(name string) (fs.FileMode, error) {
	name, err := t.resolve(name)
	if err != nil {
		return 0, err
	}
	e, err := t.lstat(name)
	return e.mode, err
}

// readDir lists a folder.
func (t *tree) readDir(name string) ([]fs.DirEntry, error) {
	name, err := t.resolve(name)
	if err != nil {
		return nil, err
	}
	if e, err := t.lstat(name); err != nil || !e.mode.IsDir() && t.ids != nil {
		return nil, cmp.Or(err, error(&fs.PathError{Op: "readdir", Path: name, Err: errors.New("it is not a folder")}))
	}
	entries, err := fs.ReadDir(t.fsys, name)
	if t.ids == nil {
		return entries, err
	}
	if err != nil {
		return nil, t.note(err)
	}
	t.listed[name] = sumOfListing(entries)
	return entries, nil
}

// read gives a regular file's content. A file or a render that is too large is a fault.
func (t *tree) read(name string) ([]byte, error) {
	if data, ok := t.overlay[name]; ok {
		return data, t.ctx.Err()
	}
	asked := name
	name, err := t.resolve(name)
	if err != nil {
		return nil, err
	}
	if data, ok := t.files[name]; ok {
		return data, nil
	}
	e, err := t.lstat(name)
	if err != nil {
		return nil, err
	}
	if !e.mode.IsRegular() {
		return nil, fault(asked, "", "it is not a file")
	}
	data, err := t.content(name, asked)
	if err != nil {
		return nil, err
	}
	if t.size += int64(len(data)); t.size > maxInputBytes {
		return nil, fault(asked, "split the app", "the files of this app are larger than %d MiB", maxInputBytes>>20)
	}
	t.files[name] = data
	return data, nil
}

// content reads a file that is asked for by another name, maybe.
func (t *tree) content(name, asked string) ([]byte, error) {
	if t.ids != nil {
		if data, err := t.ids.ReadAtMost(name, maxFileBytes); err == nil {
			return data, nil
		}
	}
	info, err := fs.Stat(t.fsys, name)
	if err != nil {
		return nil, t.unreadable(asked, err)
	}
	if info.Size() > maxFileBytes {
		return nil, tooLarge(asked, info.Size())
	}
	f, err := t.fsys.Open(name)
	if err != nil {
		return nil, t.unreadable(asked, err)
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, maxFileBytes+1))
	if err != nil {
		return nil, t.unreadable(asked, err)
	}
	if len(data) > maxFileBytes {
		return nil, tooLarge(asked, int64(len(data)))
	}
	return data, nil
}

func (t *tree) unreadable(name string, err error) error {
	return t.note(fmt.Errorf("read '%s': %w", name, err))
}

// note remembers an error that is not about what there is in the repository.
func (t *tree) note(err error) error {
	switch {
	case t.ids == nil:
	case errors.Is(err, delivery.ErrEscapes), unusable(err):
		t.untold = true // an ignore file that cannot be used
	default:
		t.failed = cmp.Or(t.failed, err)
	}
	return err
}

// unusable tells whether the repository itself has a link or a file that cannot be used.
func unusable(err error) bool {
	return errors.Is(err, syscall.ELOOP) || errors.Is(err, syscall.ENOTDIR) || errors.Is(err, git.ErrTooLarge)
}

func tooLarge(name string, size int64) error {
	return fault(name, "split it, or keep it out of the manifests",
		"the file has %d bytes, more than the %d MiB that a manifest may have", size, maxFileBytes>>20)
}

// kustomizationFiles are the kustomization files in a folder: none, one, or a mistake.
func (t *tree) kustomizationFiles(dir string) []string {
	var found []string
	for _, name := range konfig.RecognizedKustomizationFileNames() {
		name = path.Join(dir, name)
		if _, ok := t.overlay[name]; ok {
			found = append(found, name)
		} else if mode, err := t.stat(name); err == nil && !mode.IsDir() {
			found = append(found, name)
		}
	}
	return found
}

// mount is where kustomize sees the repository's root. It only deals in absolute paths and cuts ".." off at
// "/", so the root lies below that: what climbs out of the repository does not come back into it.
const mount = "/@repository@"

// kustomizeFS is a tree in kustomize's terms. A build only reads files and confirms folders; the rest of the
// interface falls to an empty file system in memory.
type kustomizeFS struct {
	filesys.FileSystem
	*tree
}

func newKustomizeFS(t *tree) filesys.FileSystem {
	return kustomizeFS{filesys.MakeFsInMemory(), t}
}

func inside(name string) (string, error) {
	name = path.Clean(name)
	if name == mount {
		return ".", nil
	}
	if rel, ok := strings.CutPrefix(name, mount+"/"); ok {
		return rel, nil
	}
	return "", fmt.Errorf("'%s': %w", name, delivery.ErrEscapes)
}

// ReadFile implements filesys.FileSystem.
func (k kustomizeFS) ReadFile(name string) ([]byte, error) {
	name, err := inside(name)
	if err != nil {
		return nil, err
	}
	return k.read(name)
}

// IsDir implements filesys.FileSystem.
func (k kustomizeFS) IsDir(name string) bool {
	name, err := inside(name)
	if err != nil {
		return false
	}
	mode, err := k.stat(name)
	return err == nil && mode.IsDir()
}

// Exists implements filesys.FileSystem.
func (k kustomizeFS) Exists(name string) bool {
	name, err := inside(name)
	if err != nil {
		return false
	}
	_, err = k.stat(name)
	return err == nil
}

// CleanedAbs implements filesys.FileSystem: the folder that name is, or the folder and the file in it, with
// links resolved.
func (k kustomizeFS) CleanedAbs(name string) (filesys.ConfirmedDir, string, error) {
	name, err := inside(name)
	if err != nil {
		return "", "", err
	}
	name, err = k.resolve(name)
	if err != nil {
		return "", "", err
	}
	e, err := k.lstat(name)
	if err != nil {
		return "", "", err
	}
	if e.mode.IsDir() {
		return filesys.ConfirmedDir(path.Join(mount, name)), "", nil
	}
	return filesys.ConfirmedDir(path.Join(mount, path.Dir(name))), path.Base(name), nil
}
