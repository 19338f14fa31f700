package render

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path"
	"strings"

	"sigs.k8s.io/kustomize/api/konfig"
	"sigs.k8s.io/kustomize/kyaml/filesys"

	"keelson.dev/keelson/internal/delivery"
)

// tree is a snapshot's files as one render sees them: read-only, with kustomizations that were changed in
// memory laid over them, links resolved inside the repository, sizes bounded, and every file read once.
// Names are relative to the repository's root, slash-separated and clean ("." is the root).
type tree struct {
	ctx     context.Context
	fsys    fs.FS
	links   fs.ReadLinkFS     // nil where the file system resolves links by itself
	overlay map[string][]byte // by name with the folder resolved
	files   map[string][]byte // what was read, by resolved name
	size    int64             // of files
	plain   map[string]bool   // names known not to be links
}

func newTree(ctx context.Context, fsys fs.FS) *tree {
	links, _ := fsys.(fs.ReadLinkFS)
	return &tree{
		ctx: ctx, fsys: fsys, links: links,
		overlay: map[string][]byte{}, files: map[string][]byte{}, plain: map[string]bool{".": true},
	}
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
	if t.links == nil || t.plain[name] {
		return name, nil
	}
	const maxHops = 40
	done, todo := ".", strings.Split(name, "/")
	for hops := 0; len(todo) > 0; {
		part := todo[0]
		todo = todo[1:]
		switch part {
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
		if t.plain[next] {
			done = next
			continue
		}
		info, err := t.links.Lstat(next)
		if err != nil {
			return "", err
		}
		if info.Mode()&fs.ModeSymlink == 0 {
			t.plain[next] = true
			done = next
			continue
		}
		target, err := t.links.ReadLink(next)
		if err != nil {
			return "", err
		}
		if hops++; hops > maxHops {
			return "", fault(name, "links may not lead to each other", "it leads through more than %d links", maxHops)
		}
		if path.IsAbs(target) {
			return "", fmt.Errorf("link '%s' to '%s': %w", next, target, delivery.ErrEscapes)
		}
		todo = append(strings.Split(target, "/"), todo...)
	}
	return done, nil
}

func (t *tree) stat(name string) (fs.FileInfo, error) {
	name, err := t.resolve(name)
	if err != nil {
		return nil, err
	}
	return fs.Stat(t.fsys, name)
}

func (t *tree) readDir(name string) ([]fs.DirEntry, error) {
	name, err := t.resolve(name)
	if err != nil {
		return nil, err
	}
	return fs.ReadDir(t.fsys, name)
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
	info, err := fs.Stat(t.fsys, name)
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() {
		return nil, &fs.PathError{Op: "read", Path: asked, Err: errors.New("it is not a file")}
	}
	if info.Size() > maxFileBytes {
		return nil, tooLarge(asked, info.Size())
	}
	f, err := t.fsys.Open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, maxFileBytes+1))
	if err != nil {
		return nil, fmt.Errorf("read '%s': %w", asked, err)
	}
	if len(data) > maxFileBytes {
		return nil, tooLarge(asked, int64(len(data)))
	}
	if t.size += int64(len(data)); t.size > maxInputBytes {
		return nil, fault(asked, "split the app", "the files of this app are larger than %d MiB", maxInputBytes>>20)
	}
	t.files[name] = data
	return data, nil
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
		} else if info, err := t.stat(name); err == nil && !info.IsDir() {
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
	info, err := k.stat(name)
	return err == nil && info.IsDir()
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
	info, err := fs.Stat(k.fsys, name)
	if err != nil {
		return "", "", err
	}
	if info.IsDir() {
		return filesys.ConfirmedDir(path.Join(mount, name)), "", nil
	}
	return filesys.ConfirmedDir(path.Join(mount, path.Dir(name))), path.Base(name), nil
}
