package shell

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// view is what a sandbox sees of the file system: all of it, read-only, but for its covers.
type view struct {
	Covers []cover
}

// cover is what is seen at a path instead of what is there.
type cover struct {
	Path string // absolute, without links
	From string // what is seen there; empty: nothing, or a file system of its own
	Kind coverKind
	// Write lets the job write there, as far as its user may.
	Write bool
}

type coverKind int

const (
	coverBind    coverKind = iota // From
	coverNothing                  // an empty directory
	coverMemory                   // a file system in memory
	coverTerminals
	coverQueues
)

// memorySize bounds /dev/shm, in bytes.
const memorySize = "268435456"

// replaces tells whether nothing of what was below the path is seen any more, so that there is room for what else is to be seen.
func (c cover) replaces() bool { return c.Kind == coverNothing || c.Kind == coverBind && c.Write }

// order puts covers into the order in which they are made: what is below comes later. Of two at one path the first one counts.
func (v *view) order() {
	slices.SortStableFunc(v.Covers, func(a, b cover) int { return strings.Compare(a.Path+"/", b.Path+"/") })
	v.Covers = slices.CompactFunc(v.Covers, func(a, b cover) bool { return a.Path == b.Path })
}

// nearest is the last cover at or above a path; nil: there is none.
func (v *view) nearest(path string) *cover {
	var at *cover
	for i, c := range v.Covers {
		if within(path, c.Path) && (at == nil || len(c.Path) > len(at.Path)) {
			at = &v.Covers[i]
		}
	}
	return at
}

// enter gives the calling thread the view, and System V's and POSIX' means of communication of its own.
func (v *view) enter() error {
	if err := unix.Unshare(unix.CLONE_NEWNS | unix.CLONE_NEWIPC); err != nil {
		return fmt.Errorf("no namespaces for jobs can be made (%w); it takes CAP_SYS_ADMIN", err)
	}
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("keep mounts to the sandbox: %w", err)
	}
	// What is to be seen is taken before anything is hidden.
	trees := make([]int, len(v.Covers))
	for i, c := range v.Covers {
		var err error
		if trees[i], err = c.tree(); err != nil {
			return fmt.Errorf("sandbox: %s: %w", c.Path, err)
		}
		defer unix.Close(trees[i]) //nolint:errcheck // the mount stays
	}
	readOnly := unix.MountAttr{Attr_set: unix.MOUNT_ATTR_RDONLY | unix.MOUNT_ATTR_NOSUID}
	if err := unix.MountSetattr(unix.AT_FDCWD, "/", unix.AT_RECURSIVE, &readOnly); err != nil {
		return fmt.Errorf("make the file system read-only: %w", err)
	}
	for i, c := range v.Covers {
		if err := v.put(trees[i], c, v.Covers[:i]); err != nil {
			return fmt.Errorf("sandbox: %s: %w", c.Path, err)
		}
	}
	for i, c := range v.Covers {
		if c.Kind != coverNothing {
			continue
		}
		if err := unix.MountSetattr(trees[i], "", unix.AT_EMPTY_PATH, &readOnly); err != nil {
			return fmt.Errorf("sandbox: %s: %w", c.Path, err)
		}
	}
	if err := unix.Chdir("/"); err != nil {
		return err
	}
	return nil
}

// tree makes what a cover shows, not yet in its place.
func (c cover) tree() (int, error) {
	switch c.Kind {
	case coverNothing:
		return newFileSystem("tmpfs", "mode", "0755", "size", "1048576")
	case coverMemory:
		return newFileSystem("tmpfs", "mode", "1777", "size", memorySize)
	case coverTerminals:
		return newFileSystem("devpts", "mode", "0620", "ptmxmode", "0666")
	case coverQueues:
		return newFileSystem("mqueue")
	}
	fd, err := unix.OpenTree(unix.AT_FDCWD, c.From, unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC|unix.AT_RECURSIVE|unix.AT_SYMLINK_NOFOLLOW)
	if err != nil {
		return -1, fmt.Errorf("open %s: %w", c.From, err)
	}
	attr := unix.MountAttr{Attr_set: unix.MOUNT_ATTR_NOSUID}
	if !strings.HasPrefix(c.From, "/dev/") {
		attr.Attr_set |= unix.MOUNT_ATTR_NODEV
	}
	if !c.Write {
		attr.Attr_set |= unix.MOUNT_ATTR_RDONLY
	}
	if err := unix.MountSetattr(fd, "", unix.AT_EMPTY_PATH|unix.AT_RECURSIVE, &attr); err != nil {
		_ = unix.Close(fd)
		return -1, fmt.Errorf("protect %s: %w", c.From, err)
	}
	return fd, nil
}

// newFileSystem makes one with options, in pairs.
func newFileSystem(kind string, options ...string) (int, error) {
	fs, err := unix.Fsopen(kind, unix.FSOPEN_CLOEXEC)
	if err != nil {
		return -1, fmt.Errorf("make a %s: %w", kind, err)
	}
	defer unix.Close(fs) //nolint:errcheck // the file system stays
	for i := 0; i < len(options); i += 2 {
		if err := unix.FsconfigSetString(fs, options[i], options[i+1]); err != nil {
			return -1, fmt.Errorf("make a %s with %s=%s: %w", kind, options[i], options[i+1], err)
		}
	}
	if err := unix.FsconfigCreate(fs); err != nil {
		return -1, fmt.Errorf("make a %s: %w", kind, err)
	}
	attr := unix.MOUNT_ATTR_NOSUID | unix.MOUNT_ATTR_NOEXEC
	if kind == "tmpfs" {
		attr = unix.MOUNT_ATTR_NOSUID | unix.MOUNT_ATTR_NODEV
	}
	fd, err := unix.Fsmount(fs, unix.FSMOUNT_CLOEXEC, attr)
	if err != nil {
		return -1, fmt.Errorf("mount a %s: %w", kind, err)
	}
	return fd, nil
}

// put puts what a cover shows into its place. Where an earlier cover has made room the place is made.
func (v *view) put(tree int, c cover, before []cover) error {
	above := (&view{before}).nearest(c.Path)
	target, err := place(c.Path)
	if errors.Is(err, unix.ENOENT) && above != nil && above.replaces() {
		var info os.FileInfo
		if c.From != "" {
			if info, err = os.Stat(fmt.Sprintf("/proc/self/fd/%d", tree)); err != nil {
				return err
			}
		}
		if err := makePlace(above.Path, c.Path, info != nil && !info.IsDir()); err != nil {
			return err
		}
		target, err = place(c.Path)
	}
	if err != nil {
		return err
	}
	defer unix.Close(target) //nolint:errcheck // a place
	return unix.MoveMount(tree, "", target, "", unix.MOVE_MOUNT_F_EMPTY_PATH|unix.MOVE_MOUNT_T_EMPTY_PATH)
}

// place opens a path as such. There must be no links in it: an earlier shell of the job may have made them.
func place(path string) (int, error) {
	return unix.Openat2(unix.AT_FDCWD, path, &unix.OpenHow{Flags: unix.O_PATH | unix.O_CLOEXEC | unix.O_NOFOLLOW, Resolve: unix.RESOLVE_NO_SYMLINKS | unix.RESOLVE_NO_MAGICLINKS})
}

// makePlace makes a directory or an empty file, with the directories above it.
func makePlace(above, path string, file bool) error {
	dir, err := place(above)
	if err != nil {
		return err
	}
	defer func() { _ = unix.Close(dir) }()
	rest, err := filepath.Rel(above, path)
	if err != nil {
		return err
	}
	parts := strings.Split(rest, "/")
	for i, part := range parts {
		if i == len(parts)-1 && file {
			fd, err := unix.Openat(dir, part, unix.O_CREAT|unix.O_EXCL|unix.O_WRONLY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0o644)
			if err != nil {
				return err
			}
			return unix.Close(fd)
		}
		if err := unix.Mkdirat(dir, part, 0o755); err != nil && !errors.Is(err, unix.EEXIST) {
			return err
		}
		next, err := unix.Openat(dir, part, unix.O_PATH|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
		if err != nil {
			return err
		}
		_ = unix.Close(dir)
		dir = next
	}
	return nil
}
