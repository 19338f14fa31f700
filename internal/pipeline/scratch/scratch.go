// Package scratch makes directories for what a run needs only as long as it lasts: values of variables, copies of sources. Nobody
// else can read them. A process holds a lock on each of its own, so that what one has left that was killed is told from what
// another one works with, and can be removed.
//
//	dir, err := scratch.Make(os.TempDir(), scratch.Job)
//	defer dir.Remove()
//	scratch.Sweep(os.TempDir()) // those of processes that are gone
package scratch

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"syscall"
)

// The kinds of directories.
const (
	Job = "job" // file variables and scripts of a job
	Run = "ci"  // copies of the working tree
)

// form is how the names of the directories look.
var form = regexp.MustCompile(`^keelson-(?:job|ci)-[0-9]+$`)

// Dir is a directory of this process.
type Dir struct {
	path string
	lock *os.File // nil: the file system has no locks, and the directory is never swept
}

// Make makes a directory below base.
func Make(base, kind string) (*Dir, error) {
	for {
		path, err := os.MkdirTemp(base, "keelson-"+kind+"-")
		if err != nil {
			return nil, err
		}
		lock, err := take(path)
		switch {
		case err == nil && there(path, lock):
			return &Dir{path, lock}, nil
		case err == nil: // somebody has swept it before it was locked
			lock.Close()
		case errors.Is(err, syscall.EWOULDBLOCK) || errors.Is(err, fs.ErrNotExist): // somebody sweeps it now, or just did
		default:
			return &Dir{path: path}, nil
		}
	}
}

// Path is where it is.
func (d *Dir) Path() string { return d.path }

// Remove removes it with all that is in it.
func (d *Dir) Remove() error {
	err := RemoveAll(d.path)
	if d.lock != nil {
		d.lock.Close()
	}
	return err
}

// take locks a directory. Programs that this process starts do not inherit the lock.
func take(path string) (*os.File, error) {
	f, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NOFOLLOW|syscall.O_DIRECTORY, 0)
	if err != nil {
		return nil, err
	}
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		f.Close()
		return nil, err
	}
	return f, nil
}

// there tells whether a directory that was opened is still there by its name.
func there(path string, f *os.File) bool {
	opened, err := f.Stat()
	if err != nil {
		return false
	}
	named, err := os.Lstat(path)
	return err == nil && os.SameFile(opened, named)
}

// Sweep removes the directories below base that processes of this user have left which are gone. What cannot be removed stays.
func Sweep(base string) {
	paths, _ := filepath.Glob(filepath.Join(quoted(base), "keelson-*-*"))
	for _, path := range paths {
		if form.MatchString(filepath.Base(path)) {
			sweep(path)
		}
	}
}

// glob are the characters that mean something in a pattern.
var glob = regexp.MustCompile(`[\\*?\[]`)

func quoted(path string) string { return glob.ReplaceAllString(path, `\$0`) }

func sweep(path string) {
	lock, err := take(path)
	if err != nil {
		return
	}
	defer lock.Close()
	info, err := lock.Stat()
	if err != nil || !there(path, lock) {
		return
	}
	if owner, ok := info.Sys().(*syscall.Stat_t); !ok || int(owner.Uid) != os.Getuid() {
		return
	}
	_ = RemoveAll(path)
}

// RemoveAll removes a directory, also what a job has made unwritable.
func RemoveAll(path string) error {
	if os.RemoveAll(path) == nil {
		return nil
	}
	_ = filepath.WalkDir(path, func(path string, d fs.DirEntry, err error) error {
		if err == nil && d.IsDir() || errors.Is(err, fs.ErrPermission) {
			_ = os.Chmod(path, 0o700) //nolint:gosec // a directory that is about to be removed
		}
		return nil
	})
	return os.RemoveAll(path)
}
