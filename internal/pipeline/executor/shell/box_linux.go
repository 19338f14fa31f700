package shell

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"

	"keelson.dev/keelson/internal/pipeline/scratch"
)

// Users of jobs: ids that systemd's list of them (UIDs and GIDs on systemd systems) has for nobody.
const (
	firstUser = 60800
	lastUser  = 61183
	jobUser   = "keelson-job"
	usersDir  = "/run/keelson-users" // a locked file for each that is in use, by whichever server
)

// box makes the sandboxes of an executor's jobs.
type box struct {
	root  bool
	hide  []string // as they are named: what is there may change
	show  []string // without links
	base  string   // where private directories are made; empty: the system's
	cage  *cage
	names map[string][]byte // /etc/passwd and /etc/group, where jobs have users of their own

	mu     sync.Mutex
	keeper *keeper
}

// Check tells how jobs can be kept apart here, by doing it; why is a sentence where they cannot.
func Check() (kind Isolation, why string) {
	b, err := newBox(Sandbox{}, newCage(0), "")
	if err != nil {
		return NoIsolation, err.Error()
	}
	defer b.close()
	if b.root {
		return OwnUser, ""
	}
	return OwnNamespaces, ""
}

// newBox makes a box, of which it has tried that it works.
func newBox(s Sandbox, c *cage, base string) (*box, error) {
	b := &box{root: os.Geteuid() == 0, base: base, cage: c}
	for _, path := range s.Hide {
		real, err := absolute(path)
		if err != nil {
			return nil, fmt.Errorf("hide %q from jobs: %w", path, err)
		}
		if real == "/" {
			return nil, errors.New("hide / from jobs: then nothing is left for them")
		}
		b.hide = append(b.hide, path)
	}
	if home, err := os.UserHomeDir(); err == nil && filepath.IsAbs(home) && filepath.Clean(home) != "/" {
		b.hide = append(b.hide, home)
	}
	for _, path := range s.Show {
		real, err := absolute(path)
		if err != nil {
			return nil, fmt.Errorf("show %q to jobs: %w", path, err)
		}
		b.show = append(b.show, real)
	}
	if b.root {
		b.names = map[string][]byte{}
		for _, file := range []string{"/etc/passwd", "/etc/group"} {
			if text, err := os.ReadFile(file); err == nil {
				b.names[file] = text
			}
		}
	}
	return b, b.try()
}

// absolute gives a path without links.
func absolute(path string) (string, error) {
	if !filepath.IsAbs(path) {
		return "", errors.New("it is no absolute path")
	}
	return filepath.EvalSymlinks(path)
}

// try makes a sandbox as jobs have it.
func (b *box) try() error {
	dir, err := scratch.Make(cmpDir(b.base), scratch.Job)
	if err != nil {
		return err
	}
	defer dir.Remove() //nolint:errcheck // a later run tries again
	c, err := b.cell(dir)
	if err != nil {
		b.close()
		return err
	}
	defer c.close()
	work := filepath.Join(dir.Path(), "work")
	if err := os.Mkdir(work, 0o700); err != nil {
		return err
	}
	c.work = work
	if err := errors.Join(c.give(work), c.tryShell()); err != nil {
		b.close()
		return err
	}
	return nil
}

// tryShell starts a shell that says nothing.
func (c *cell) tryShell() error {
	sh, err := exec.LookPath("sh")
	if err != nil {
		return err
	}
	null, err := os.OpenFile(os.DevNull, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer null.Close()
	if err := c.enter(nil, false); err != nil {
		return err
	}
	r := &shellRequest{Program: sh, Args: []string{"sh", "-c", ":"}, Dir: c.work, User: c.uid}
	p, err := c.b.ask(request{Shell: r}, null, null, c.fd)
	if err != nil {
		return err
	}
	state, err := p.Wait()
	if err == nil && !state.Success() {
		err = fmt.Errorf("a shell in it ends with %s", state)
	}
	return err
}

func cmpDir(base string) string {
	if base == "" {
		return os.TempDir()
	}
	return base
}

// close ends the keeper. No job runs any more.
func (b *box) close() {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.keeper != nil {
		b.keeper.close()
		b.keeper = nil
	}
}

// ask has the keeper start a process, once more with another one if it is gone. The kernel may have ended it for its memory.
func (b *box) ask(r request, files ...*os.File) (*os.Process, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for again := false; ; again = true {
		if b.keeper == nil {
			var err error
			if b.keeper, err = startKeeper(b.cage); err != nil {
				return nil, err
			}
		}
		pid, err := b.keeper.ask(r, files...)
		if errors.Is(err, errKeeper) {
			b.keeper.close()
			b.keeper = nil
			if !again {
				continue
			}
		}
		if err != nil {
			if pid > 0 { // it has ended already
				var status syscall.WaitStatus
				_, _ = syscall.Wait4(pid, &status, 0, nil)
			}
			return nil, err
		}
		return os.FindProcess(pid)
	}
}

// passed is what jobs see of the own environment: nothing that leads to what they have otherwise, or not at all.
func (b *box) passed(env []string) []string {
	env = slices.DeleteFunc(slices.Clone(env), func(kv string) bool {
		name, _, _ := strings.Cut(kv, "=")
		return name == "HOME" || name == "TMPDIR" || name == "XDG_RUNTIME_DIR" || b.root && (name == "USER" || name == "LOGNAME")
	})
	env = append(env, "HOME="+insideHome)
	if b.root {
		env = append(env, "USER="+jobUser, "LOGNAME="+jobUser)
	}
	return env
}

// cell is the sandbox of one job. Its files stay until the job is over, its processes at most as long.
type cell struct {
	b    *box
	dir  *scratch.Dir
	work string // the job's directory
	uid  int    // 0: the own one
	lock *os.File

	mu    sync.Mutex
	scope *scope
	init  *os.Process
	fd    *os.File // of init
	gone  chan struct{}
}

// The directories of a job in its private directory.
const (
	ownFiles = "own/files"
	ownHome  = "own/home"
	ownTmp   = "tmp"
	ownVar   = "var"
	empty    = "empty" // a file
)

// open makes the sandbox of a job.
func (b *box) open(j *job) (*cell, error) {
	dir, err := scratch.Make(cmpDir(b.base), scratch.Job)
	if err != nil {
		return nil, errors.Join(errors.New("no private directory for the job"), err)
	}
	j.dir = dir
	c, err := b.cell(dir)
	if err != nil {
		return nil, err
	}
	if c.work, err = filepath.EvalSymlinks(j.Dir); err != nil {
		c.close()
		return nil, err
	}
	return c, c.give(j.Dir)
}

// cell makes a sandbox's user and directories.
func (b *box) cell(dir *scratch.Dir) (*cell, error) {
	c := &cell{b: b, dir: dir}
	if b.root {
		var err error
		if c.uid, c.lock, err = b.takeUser(); err != nil {
			return nil, err
		}
	}
	for path, mode := range map[string]fs.FileMode{"own": 0o755, ownFiles: 0o700, ownHome: 0o700, ownTmp: 0o777 | fs.ModeSticky, ownVar: 0o777 | fs.ModeSticky} {
		full := filepath.Join(dir.Path(), path)
		if err := errors.Join(os.MkdirAll(full, 0o700), os.Chmod(full, mode)); err != nil {
			c.close()
			return nil, err
		}
	}
	files := map[string][]byte{empty: nil}
	if c.uid != 0 {
		files["passwd"] = line(b.names["/etc/passwd"], "%s:x:%d:%[2]d:a job:%s:/bin/sh\n", jobUser, c.uid, insideHome)
		files["group"] = line(b.names["/etc/group"], "%s:x:%d:\n", jobUser, c.uid)
	}
	for name, text := range files {
		file := filepath.Join(dir.Path(), name)
		if err := errors.Join(os.WriteFile(file, text, 0o644), os.Chmod(file, 0o644)); err != nil { //nolint:gosec // as /etc/passwd is
			c.close()
			return nil, err
		}
	}
	for _, path := range []string{ownFiles, ownHome} {
		if err := c.give(filepath.Join(dir.Path(), path)); err != nil {
			c.close()
			return nil, err
		}
	}
	return c, nil
}

func line(text []byte, format string, args ...any) []byte {
	text = bytes.TrimRight(text, "\n")
	if len(text) > 0 {
		text = append(slices.Clip(text), '\n')
	}
	return fmt.Appendf(text, format, args...)
}

// takeUser takes an id that no job has, of whichever server, and nobody else.
func (b *box) takeUser() (int, *os.File, error) {
	if err := os.Mkdir(usersDir, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
		return 0, nil, fmt.Errorf("users for jobs: %w", err)
	}
	for uid := firstUser; uid <= lastUser; uid++ {
		if bytes.Contains(b.names["/etc/passwd"], fmt.Appendf(nil, ":%d:", uid)) {
			continue
		}
		f, err := os.OpenFile(filepath.Join(usersDir, strconv.Itoa(uid)), os.O_CREATE|os.O_RDONLY|syscall.O_NOFOLLOW, 0o600)
		if err != nil {
			return 0, nil, fmt.Errorf("users for jobs: %w", err)
		}
		if syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB) == nil {
			return uid, f, nil
		}
		f.Close()
	}
	return 0, nil, fmt.Errorf("all users for jobs, %d to %d, are taken", firstUser, lastUser)
}

// give gives a file or a directory to the job's user.
func (c *cell) give(path string) error {
	if c.uid == 0 {
		return nil
	}
	if err := os.Lchown(path, c.uid, c.uid); err != nil {
		return fmt.Errorf("give the job's user what it needs: %w", err)
	}
	return nil
}

// private is the directory for the job's private files, and the one that the job finds them in.
func (c *cell) private() (outside, inside string) {
	return filepath.Join(c.dir.Path(), ownFiles), insideFiles
}

// own gives the job's directory with all that is in it to the job's user. A file that has other names too, as the objects of a
// repository that was cloned from another one beside it, is replaced by a copy: what the job does to it is only for the job.
// Nothing of the job runs.
func (c *cell) own(dir string) error {
	return filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		st, ok := info.Sys().(*syscall.Stat_t)
		if ok && info.Mode().IsRegular() && st.Nlink > 1 {
			if err := unlink(path, info); err != nil {
				return fmt.Errorf("copy %s for the job: %w", path, err)
			}
		} else if ok && int(st.Uid) == c.uid {
			return nil
		}
		return c.give(path)
	})
}

// unlink replaces a file by a copy.
func unlink(path string, info fs.FileInfo) error {
	from, err := os.Open(path)
	if err != nil {
		return err
	}
	defer from.Close()
	to, err := os.CreateTemp(filepath.Dir(path), ".keelson-")
	if err != nil {
		return err
	}
	_, err = to.ReadFrom(from)
	if err = errors.Join(err, to.Chmod(info.Mode().Perm()), to.Close()); err == nil {
		err = os.Chtimes(to.Name(), info.ModTime(), info.ModTime())
	}
	if err == nil {
		err = os.Rename(to.Name(), path)
	}
	if err != nil {
		os.Remove(to.Name())
	}
	return err
}

// view is what the job sees.
func (c *cell) view(readOnly bool) view {
	own := func(name string) string { return filepath.Join(c.dir.Path(), name) }
	var v view
	add := func(path, from string, kind coverKind, write bool) {
		if real, err := filepath.EvalSymlinks(path); err == nil {
			v.Covers = append(v.Covers, cover{real, from, kind, write})
		}
	}
	v.Covers = append(v.Covers, cover{c.work, c.work, coverBind, !readOnly})
	v.Covers = append(v.Covers, cover{insideDir, own("own"), coverBind, true})
	add("/tmp", own(ownTmp), coverBind, true)
	add("/var/tmp", own(ownVar), coverBind, true)
	add("/run", "", coverNothing, false)
	add("/dev/shm", "", coverMemory, true)
	add("/dev/pts", "", coverTerminals, true)
	add("/dev/mqueue", "", coverQueues, true)
	if c.uid != 0 {
		add("/etc/passwd", own("passwd"), coverBind, false)
		add("/etc/group", own("group"), coverBind, false)
	}
	if names, err := filepath.EvalSymlinks("/etc/resolv.conf"); err == nil && within(names, "/run") {
		v.Covers = append(v.Covers, cover{names, names, coverBind, false})
	}
	for _, path := range c.b.show {
		v.Covers = append(v.Covers, cover{path, path, coverBind, false})
	}
	v.order()
	for _, path := range slices.Concat(c.b.hide, c.closed()) {
		c.hide(&v, path)
	}
	return v
}

// hide adds a cover for what must not be seen, unless it is not seen anyway.
func (c *cell) hide(v *view, path string) {
	path, err := filepath.EvalSymlinks(path)
	if err != nil {
		return // it is not there
	}
	info, err := os.Lstat(path)
	above := v.nearest(path)
	if err != nil || above != nil && (above.From != above.Path || above.Path == path) {
		return
	}
	if info.IsDir() {
		v.Covers = append(v.Covers, cover{Path: path, Kind: coverNothing})
	} else {
		v.Covers = append(v.Covers, cover{Path: path, From: filepath.Join(c.dir.Path(), empty)})
	}
	v.order()
}

// closed are the directories above the job's own that its user may not pass.
func (c *cell) closed() []string {
	var dirs []string
	for dir := filepath.Dir(c.work); c.uid != 0 && dir != "/"; dir = filepath.Dir(dir) {
		if info, err := os.Lstat(dir); err == nil && info.Mode()&1 == 0 {
			dirs = append(dirs, dir)
		}
	}
	return dirs
}

// enter makes the first process of the sandbox.
func (c *cell) enter(s *scope, readOnly bool) error {
	v := c.view(readOnly)
	p, err := c.b.ask(request{View: &v})
	if err != nil {
		return err
	}
	fd, err := unix.PidfdOpen(p.Pid, 0)
	if err != nil {
		_ = p.Kill()
		_, _ = p.Wait()
		return err
	}
	gone := make(chan struct{})
	c.init, c.fd, c.gone, c.scope = p, os.NewFile(uintptr(fd), "sandbox"), gone, s
	if s != nil {
		s.within(p.Pid)
	}
	go func() {
		_, _ = p.Wait()
		if s != nil {
			s.without(p.Pid)
		}
		close(gone)
	}()
	return nil
}

// start starts a shell in the sandbox, which is made where it is not there: at first, and after all of it was killed. files are its standard input,
// its two outputs, and those of the cgroups that it puts itself into.
func (c *cell) start(s *scope, program string, args, env []string, dir string, files []*os.File, readOnly bool) (*os.Process, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	scopes.starting.RLock()
	defer scopes.starting.RUnlock()
	if c.init != nil && (s.doomed(c.init.Pid) || c.over()) {
		<-c.gone
		c.forget()
	}
	if c.init == nil {
		if err := c.enter(s, readOnly); err != nil {
			return nil, err
		}
	}
	r := &shellRequest{Program: program, Args: args, Env: env, Dir: dir, User: c.uid, Processes: c.b.cage.limit}
	p, err := c.b.ask(request{Shell: r}, append([]*os.File{files[0], files[1], c.fd}, files[3:]...)...)
	if err != nil {
		return nil, err
	}
	s.add(p)
	return p, nil
}

func (c *cell) over() bool {
	select {
	case <-c.gone:
		return true
	default:
		return false
	}
}

func (c *cell) forget() {
	c.fd.Close()
	c.init, c.fd = nil, nil
}

// stop ends all that runs in the sandbox.
func (c *cell) stop() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.init == nil {
		return
	}
	_ = c.init.Kill()
	<-c.gone
	c.forget()
}

// close ends the sandbox, and lets go of its user: a later job that has it does not get into the directory of this one.
func (c *cell) close() {
	c.stop()
	if c.lock != nil {
		if c.work != "" {
			_ = errors.Join(os.Lchown(c.work, os.Geteuid(), os.Getegid()), os.Chmod(c.work, 0o700)) //nolint:gosec // a directory
		}
		c.lock.Close()
		c.lock = nil
	}
}
