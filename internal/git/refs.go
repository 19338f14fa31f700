package git

import (
	"bufio"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strings"
)

// Resolve gives the commit that a full ref name ("refs/heads/main", "refs/tags/v1", "HEAD") names now; an annotated
// tag gives the commit that it tags. It reads files only, no process is started.
func (r *Repository) Resolve(name string) (string, error) {
	id, err := r.ref(name)
	if err != nil {
		return "", err
	}
	peeled, err := r.peel(id)
	if errors.Is(err, errMissing) {
		err = r.note(fmt.Errorf("%w: %s names %s, which is missing", ErrCorrupt, name, id))
	}
	if err != nil {
		return "", fmt.Errorf("resolve %s: %w", name, err)
	}
	return peeled.String(), nil
}

// Head gives the full name of the ref that HEAD names, whether that is there or not; empty: HEAD names a commit.
func (r *Repository) Head() (string, error) {
	value, err := r.refValue("HEAD")
	if err != nil {
		return "", err
	}
	target, ok := strings.CutPrefix(value, "ref:")
	if !ok {
		return "", nil
	}
	return strings.TrimSpace(target), nil
}

// ref reads a ref, loose or packed, and follows symbolic ones.
func (r *Repository) ref(name string) (ObjectID, error) {
	const maxDepth = 5
	full := name
	for range maxDepth {
		if err := CheckRefName(name); err != nil {
			return ObjectID{}, err
		}
		value, err := r.refValue(name)
		if err != nil {
			return ObjectID{}, err
		}
		if target, ok := strings.CutPrefix(value, "ref:"); ok {
			name = strings.TrimSpace(target)
			continue
		}
		id, err := ParseObjectID(value)
		if err != nil {
			return id, r.note(fmt.Errorf("%w: ref %s holds %q", ErrCorrupt, full, truncate(value, 60)))
		}
		return id, nil
	}
	return ObjectID{}, fmt.Errorf("%w: %s is a chain of symbolic refs", ErrUnknownRef, full)
}

// refValue is the content of a ref. git writes packed-refs before it deletes the loose file: looking for the loose
// one a second time closes the gap.
func (r *Repository) refValue(name string) (string, error) {
	for range 2 {
		b, err := os.ReadFile(filepath.Join(r.dir, filepath.FromSlash(name)))
		if err == nil {
			return strings.TrimSpace(string(b)), nil
		}
		packed, err := r.packedRefs()
		if err != nil {
			return "", err
		}
		if v, ok := packed[name]; ok {
			return v, nil
		}
	}
	return "", fmt.Errorf("%w: %s", ErrUnknownRef, name)
}

// Refs returns all refs by full name with the ids they hold (of an annotated tag the tag's), HEAD excluded.
func (r *Repository) Refs() (map[string]string, error) {
	refs, err := r.packedRefs()
	if err != nil {
		return nil, err
	}
	root := filepath.Join(r.dir, "refs")
	err = filepath.WalkDir(root, func(p string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			if errors.Is(err, fs.ErrNotExist) {
				return nil // deleted meanwhile
			}
			return err
		}
		rel, err := filepath.Rel(root, p)
		if err != nil {
			return err
		}
		name := path.Join("refs", filepath.ToSlash(rel))
		if CheckRefName(name) != nil {
			return nil // a lock file
		}
		id, err := r.ref(name)
		if errors.Is(err, ErrUnknownRef) {
			return nil // a symbolic ref to nowhere, or deleted meanwhile
		}
		if err == nil {
			refs[name] = id.String()
		}
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("read refs: %w", err)
	}
	return refs, nil
}

func (r *Repository) packedRefs() (map[string]string, error) {
	refs := map[string]string{}
	f, err := os.Open(filepath.Join(r.dir, "packed-refs"))
	if errors.Is(err, fs.ErrNotExist) {
		return refs, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read refs: %w", err)
	}
	defer f.Close()
	s := bufio.NewScanner(f)
	for s.Scan() {
		// "<id> <name>"; "#" starts a header, "^" what the line before peels to.
		id, name, ok := strings.Cut(s.Text(), " ")
		if ok && id != "#" {
			refs[name] = id
		}
	}
	if err := s.Err(); err != nil {
		return nil, fmt.Errorf("read refs: %w", err)
	}
	return refs, nil
}
