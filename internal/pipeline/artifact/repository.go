package artifact

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"strings"

	"golang.org/x/sys/unix"
)

// ofRepository tells whether a name is that of the repository of a project directory, or below it. On some file systems upper and lower case are
// the same.
func ofRepository(at string) bool {
	first, _, _ := strings.Cut(at, "/")
	return strings.EqualFold(first, ".git")
}

// gitDir knows the repository of a project directory by whatever way one comes to it: a link may lead there under any name. Who writes into
// it has the next git there run programs.
type gitDir struct {
	root *os.Root
	top  unix.Stat_t  // the project directory
	git  *unix.Stat_t // its .git; nil: there is none
}

func gitDirOf(root *os.Root) (*gitDir, error) {
	dir, err := root.Open(".")
	if err != nil {
		return nil, err
	}
	defer dir.Close()
	r := &gitDir{root: root}
	if err := unix.Fstat(int(dir.Fd()), &r.top); err != nil {
		return nil, err
	}
	var git unix.Stat_t
	switch err := unix.Fstatat(int(dir.Fd()), ".git", &git, 0); {
	case err == nil:
		r.git = &git
	case !errors.Is(err, fs.ErrNotExist):
		return nil, err
	}
	return r, nil
}

// writable refuses a name in the project directory at which one would write into the repository, or make one.
func (r *gitDir) writable(at string) error {
	top, inside, err := r.where(path.Dir(at))
	if err == nil && (inside || top && ofRepository(path.Base(at))) {
		err = &unsafeError{at, "leads into the repository in .git, where nothing is written"}
	}
	return err
}

// where tells whether a directory is the project directory, and whether it is the repository or in it. It climbs from where links have led.
func (r *gitDir) where(at string) (top, inside bool, err error) {
	dir, err := r.root.Open(at)
	if err != nil {
		return false, false, err
	}
	defer dir.Close()
	var st, last unix.Stat_t
	for up := "."; ; up += "/.." {
		if err := unix.Fstatat(int(dir.Fd()), up, &st, 0); err != nil {
			return false, false, fmt.Errorf("%s: %w", at, err)
		}
		switch {
		case r.git != nil && sameInode(st, *r.git):
			return false, true, nil
		case sameInode(st, r.top):
			return up == ".", false, nil
		case sameInode(st, last):
			return false, false, fmt.Errorf("%s is not in the project directory any more", at)
		}
		last = st
	}
}

func sameInode(a, b unix.Stat_t) bool { return a.Dev == b.Dev && a.Ino == b.Ino }

// without leaves out the entries that are in the repository, by their names or by links.
func (r *gitDir) without(found map[string]entry) error {
	dirs := map[string]bool{} // those that are in it, and those that are not
	for at := range found {
		dir := path.Dir(at)
		inside, known := dirs[dir]
		if !known {
			top, in, err := r.where(dir)
			if err != nil && !errors.Is(err, fs.ErrNotExist) {
				return fmt.Errorf("%s: %w", dir, unwrapDisk(err))
			}
			inside = in || err != nil
			if top && dir != "." { // a link to the project directory: the same files have names of their own
				inside = ofRepository(path.Base(at))
			} else {
				dirs[dir] = inside
			}
		}
		if inside || ofRepository(at) {
			delete(found, at)
		}
	}
	return nil
}
