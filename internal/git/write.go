package git

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"
)

// Change is a commit to be made.
type Change struct {
	Branch  string // short name
	Ref     string // instead of Branch: the full name of a ref of another kind
	Base    string // the commit that the branch must name now, and the new one's parent; empty: the branch must not exist
	Files   fs.FS  // files to add or replace; nil: none
	Remove  []string
	Message string
	Author  Signature // also the committer; a zero When is now
}

// Commit writes a commit onto a branch of this repository and returns its id. If the branch is not at Base any
// more it fails with [ErrMoved] and changes nothing: read again, and try again.
func (r *Repository) Commit(ctx context.Context, c Change) (string, error) {
	id, err := r.commit(ctx, c)
	if err != nil {
		return "", fmt.Errorf("write commit: %w", err)
	}
	return id, nil
}

func (r *Repository) commit(ctx context.Context, c Change) (string, error) {
	ref := cmp.Or(c.Ref, "refs/heads/"+c.Branch)
	if err := CheckRefName(ref); err != nil {
		return "", err
	}
	if c.Base != "" {
		if _, err := r.Info(c.Base); err != nil {
			return "", err
		}
	}
	tmp, err := os.MkdirTemp("", "keelson-commit-*")
	if err != nil {
		return "", err
	}
	defer os.RemoveAll(tmp)
	w := writer{repo: r, env: []string{"GIT_INDEX_FILE=" + filepath.Join(tmp, "index")}}
	if c.Base != "" {
		w.git(ctx, nil, "read-tree", c.Base)
	}
	w.index(ctx, w.blobs(ctx, c.Files, tmp), c.Remove)
	tree := w.git(ctx, nil, "write-tree")
	w.env = signatureEnv(c.Author)
	args := []string{"commit-tree", tree}
	if c.Base != "" {
		args = append(args, "-p", c.Base)
	}
	id := w.git(ctx, strings.NewReader(c.Message), args...)
	if w.err != nil {
		return "", w.err
	}
	expected := c.Base
	if expected == "" {
		expected = ObjectID{}.String()
	}
	if w.git(ctx, nil, "update-ref", "-m", "commit", ref, id, expected); w.err != nil {
		if now, err := r.Resolve(ref); now != c.Base || err != nil && !errors.Is(err, ErrUnknownRef) {
			return "", fmt.Errorf("%w: %s is at %q, not at %q", ErrMoved, cmp.Or(c.Branch, c.Ref), now, c.Base)
		}
		return "", w.err
	}
	return id, nil
}

// writer runs git commands one after the other; after the first error it does nothing more.
type writer struct {
	repo *Repository
	env  []string
	err  error
}

func (w *writer) git(ctx context.Context, stdin io.Reader, args ...string) string {
	if w.err != nil {
		return ""
	}
	var out []byte
	out, w.err = run(ctx, command{dir: w.repo.dir, args: args, env: w.env, stdin: stdin})
	return strings.TrimSpace(string(out))
}

// file is a file of a change, written as a blob.
type file struct {
	path, mode, id string
}

// blobs writes the files of a change as blobs, all by one process.
func (w *writer) blobs(ctx context.Context, files fs.FS, tmp string) []file {
	if files == nil || w.err != nil {
		return nil
	}
	var list []file
	var names bytes.Buffer
	w.err = fs.WalkDir(files, ".", func(name string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		if !info.Mode().IsRegular() {
			return fmt.Errorf("%s is not a regular file", name)
		}
		if strings.ContainsAny(name, "\n\x00") {
			return fmt.Errorf("%q: a line break in a file name", name)
		}
		data, err := fs.ReadFile(files, name)
		if err != nil {
			return err
		}
		f := file{path: name, mode: "100644"}
		if info.Mode()&0o111 != 0 {
			f.mode = "100755"
		}
		onDisk := filepath.Join(tmp, fmt.Sprint(len(list)))
		list = append(list, f)
		fmt.Fprintln(&names, onDisk)
		return os.WriteFile(onDisk, data, 0o600)
	})
	if len(list) == 0 {
		return nil
	}
	ids := strings.Fields(w.git(ctx, &names, "hash-object", "-w", "--no-filters", "--stdin-paths"))
	if w.err == nil && len(ids) != len(list) {
		w.err = fmt.Errorf("git hash-object wrote %d of %d files", len(ids), len(list))
	}
	if w.err != nil {
		return nil
	}
	for i := range list {
		list[i].id = ids[i]
	}
	return list
}

// index puts the change into the index.
func (w *writer) index(ctx context.Context, add []file, remove []string) {
	var lines bytes.Buffer
	for _, name := range remove {
		fmt.Fprintf(&lines, "0 %s\t%s\x00", ObjectID{}, name)
	}
	for _, f := range add {
		fmt.Fprintf(&lines, "%s %s\t%s\x00", f.mode, f.id, f.path)
	}
	if lines.Len() > 0 {
		w.git(ctx, &lines, "update-index", "-z", "--index-info")
	}
}

// signatureEnv is how commit-tree is told who commits.
func signatureEnv(s Signature) []string {
	when := s.When
	if when.IsZero() {
		when = time.Now()
	}
	date := fmt.Sprintf("%d %s", when.Unix(), when.Format("-0700"))
	return []string{
		"GIT_AUTHOR_NAME=" + s.Name, "GIT_AUTHOR_EMAIL=" + s.Email, "GIT_AUTHOR_DATE=" + date,
		"GIT_COMMITTER_NAME=" + s.Name, "GIT_COMMITTER_EMAIL=" + s.Email, "GIT_COMMITTER_DATE=" + date,
	}
}
