package artifact

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/bmatcuk/doublestar/v4"

	gitcmd "keelson.dev/keelson/internal/git"
)

// selection says which files of a project directory are taken. Its texts are expanded.
type selection struct {
	Paths     []string
	Exclude   []string
	Untracked bool
}

func (w Work) selection(paths, exclude []string, untracked bool) selection {
	sel := selection{Untracked: untracked}
	for _, p := range paths {
		expanded := w.Vars.Expand(p)
		if strings.TrimSpace(expanded) == "" {
			w.warnf("%s: nothing is left of this path when its variables are expanded", p)
			continue
		}
		sel.Paths = append(sel.Paths, expanded)
	}
	for _, p := range exclude {
		if expanded := w.Vars.Expand(p); expanded != "" {
			sel.Exclude = append(sel.Exclude, expanded)
		}
	}
	return sel
}

// collector finds the files of a selection as the runner does ([runner] commands/helpers/file_archiver.go): globs of
// doublestar, directories with all that is in them, links as links.
type collector struct {
	work     Work
	root     *os.Root
	limits   Limits
	found    map[string]entry
	exclude  []string
	excluded map[string]int
	warnedOf map[string]bool
	seen     int // entries looked at, those that are found twice included
	taken    int // of those that are untracked
}

// errOutside is the error of a path that is not below the project directory.
var errOutside = errors.New("is outside of the project directory")

// collect gives the selected files in the order of their paths. What cannot be taken is named in the log; an error says that
// nothing can be saved at all.
func collect(ctx context.Context, w Work, root *os.Root, sel selection, l Limits) ([]entry, error) {
	c := &collector{work: w, root: root, limits: l, found: map[string]entry{}, excluded: map[string]int{}, warnedOf: map[string]bool{}}
	for _, p := range sel.Exclude {
		rel, err := w.relative(p)
		if err != nil {
			w.warnf("exclude: %s %v", p, err)
			continue
		}
		c.exclude = append(c.exclude, rel)
	}
	for _, p := range sel.Paths {
		if err := c.path(ctx, p); err != nil {
			return nil, err
		}
	}
	if sel.Untracked {
		if err := c.untracked(ctx); err != nil {
			return nil, err
		}
	}
	for _, p := range slices.Sorted(maps.Keys(c.excluded)) {
		w.printf("%s: excluded %d files", p, c.excluded[p])
	}
	entries := slices.AppendSeq(make([]entry, 0, len(c.found)), maps.Values(c.found))
	sortEntries(entries)
	return entries, check(entries, l, false)
}

// relative gives a path or a glob as one that is relative to the project directory.
func (w Work) relative(p string) (string, error) {
	p = filepath.ToSlash(p)
	if !path.IsAbs(p) {
		p = path.Clean(p)
		if p == ".." || strings.HasPrefix(p, "../") {
			return "", errOutside
		}
		return p, nil
	}
	dirs := []string{w.Dir}
	if real, err := filepath.EvalSymlinks(w.Dir); err == nil {
		dirs = append(dirs, real)
	}
	for _, dir := range dirs {
		if rel, err := filepath.Rel(dir, path.Clean(p)); err == nil && rel != ".." && !strings.HasPrefix(rel, "../") {
			return rel, nil
		}
	}
	return "", errOutside
}

// path takes what one item of paths matches.
func (c *collector) path(ctx context.Context, p string) error {
	pattern, err := c.work.relative(p)
	if err != nil {
		c.work.warnf("%s %v and is left out: artifact path is not a subpath of project directory", p, err)
		return nil
	}
	taken := 0
	take := func(match string, _ fs.DirEntry) error {
		if c.seen++; c.seen > 2*c.limits.Files {
			return fmt.Errorf("%s: more than %d files match", p, c.limits.Files)
		}
		n, err := c.walk(ctx, match)
		taken += n
		return err
	}
	if strings.ContainsAny(pattern, `*?[{\`) {
		fsys := &walkFS{ctx: ctx, root: c.root, fsys: c.root.FS(), left: maxDirs, followed: map[string]bool{}}
		err = doublestar.GlobWalk(fsys, pattern, take)
		if err == nil && fsys.left < 0 {
			c.work.warnf("%s: links to directories are not followed: there are more than %d", p, maxDirs)
			err = doublestar.GlobWalk(c.root.FS(), pattern, take, doublestar.WithNoFollow())
		}
		if err == nil {
			err = ctx.Err()
		}
	} else {
		err = take(pattern, nil) // a link is meant itself, wherever it points
	}
	switch {
	case errors.Is(err, doublestar.ErrBadPattern):
		c.work.warnf("%s: %v", p, err)
		return nil
	case err != nil:
		return err
	}
	shown := p
	if path.IsAbs(p) {
		shown = pattern
	}
	if taken > 0 {
		c.work.printf("%s: found %d matching artifact files and directories", shown, taken)
		return nil
	}
	if out := c.leaves(pattern); out != "" {
		c.work.warnf("%s: %s is a link that points outside of the project directory and is not followed", shown, out)
		return nil
	}
	c.work.warnf("%s: no matching files. Ensure that the artifact path is relative to the working directory (%s)", shown, c.work.Dir)
	return nil
}

// maxDirs is how many directories a glob is looked for in with links followed.
const maxDirs = 100_000

// walkFS is a file system for globs. They follow links to directories, and those of workspaces (pnpm) lead in circles: the ways
// through them are more than anybody can go. So a link is not followed within a directory that a link has led to, and there is
// nothing any more when too many directories have been read, or nobody waits.
type walkFS struct {
	ctx      context.Context
	root     *os.Root
	fsys     fs.FS
	left     int
	followed map[string]bool // links to directories
}

func (w *walkFS) Open(name string) (fs.File, error) { return w.fsys.Open(name) }

func (w *walkFS) Stat(name string) (fs.FileInfo, error) {
	info, err := w.root.Lstat(name)
	if err != nil || info.Mode().Type() != fs.ModeSymlink {
		return info, err
	}
	for dir := path.Dir(name); dir != "."; dir = path.Dir(dir) {
		if w.followed[dir] {
			return nil, fs.ErrNotExist
		}
	}
	if info, err = w.root.Stat(name); err == nil && info.IsDir() {
		w.followed[name] = true
	}
	return info, err
}

func (w *walkFS) ReadDir(name string) ([]fs.DirEntry, error) {
	if w.left--; w.left < 0 || w.ctx.Err() != nil {
		return nil, nil
	}
	return fs.ReadDir(w.fsys, name)
}

// leaves names the link in the literal beginning of a pattern that leads out of the project directory.
func (c *collector) leaves(pattern string) string {
	base, _ := doublestar.SplitPattern(pattern)
	at := ""
	for part := range strings.SplitSeq(base, "/") {
		at = path.Join(at, part)
		info, err := c.root.Lstat(at)
		if err != nil {
			return ""
		}
		if info.Mode().Type() == fs.ModeSymlink {
			if _, err := c.root.Stat(at); err != nil && !errors.Is(err, fs.ErrNotExist) {
				return at
			}
		}
	}
	return ""
}

// walk takes a file, or a directory with all that is in it, and gives how many that are.
func (c *collector) walk(ctx context.Context, at string) (int, error) {
	info, err := c.root.Lstat(at)
	if err != nil {
		return 0, nil //nolint:nilerr // it has gone since it was found
	}
	if !info.IsDir() {
		return c.add(at, info), nil
	}
	dir, err := c.root.OpenRoot(at)
	if err != nil {
		c.work.warnf("%s: %v", at, unwrapDisk(err))
		return c.add(at, info), nil
	}
	defer dir.Close()
	return c.walkDir(ctx, dir, at, info)
}

func (c *collector) walkDir(ctx context.Context, dir *os.Root, at string, info fs.FileInfo) (int, error) {
	if isStage(at) {
		return 0, nil
	}
	if err := ctx.Err(); err != nil {
		return 0, err
	}
	taken := c.add(at, info)
	f, err := dir.Open(".")
	if err != nil {
		c.work.warnf("%s: %v", at, unwrapDisk(err))
		return taken, nil
	}
	names, err := f.Readdirnames(-1)
	f.Close()
	if err != nil {
		c.work.warnf("%s: %v", at, unwrapDisk(err))
	}
	slices.Sort(names)
	for _, name := range names {
		if c.seen++; c.seen > 2*c.limits.Files {
			return taken, fmt.Errorf("%s: more than %d files match", at, c.limits.Files)
		}
		below := path.Join(at, name)
		info, err := dir.Lstat(name)
		if err != nil {
			continue // it has gone
		}
		if !info.IsDir() {
			taken += c.add(below, info)
			continue
		}
		sub, err := dir.OpenRoot(name)
		if err != nil {
			c.work.warnf("%s: %v", below, unwrapDisk(err))
			taken += c.add(below, info)
			continue
		}
		n, err := c.walkDir(ctx, sub, below, info)
		sub.Close()
		taken += n
		if err != nil {
			return taken, err
		}
	}
	return taken, nil
}

// add takes one entry, unless it is excluded or cannot be kept, and gives 1 if it was taken.
func (c *collector) add(at string, info fs.FileInfo) int {
	if at == "." {
		return 1 // counted as the runner does; there is nothing to keep of it
	}
	for i, pattern := range c.exclude {
		if ok, err := doublestar.Match(pattern, at); err == nil && ok {
			c.excluded[c.exclude[i]]++
			return 0
		}
	}
	if at == ".git" || strings.HasPrefix(at, ".git/") {
		if c.work.InPlace {
			c.once("git", ".git is left out: it belongs to the working tree that the job runs in")
			return 0
		}
		c.once("git", "Part of .git directory is on the list of files to archive. This may introduce unexpected problems")
	}
	if c.work.InPlace && at == secrets {
		c.once(secrets, secrets+" is left out: it has the values of the project's variables")
		return 0
	}
	if !utf8.ValidString(at) {
		c.work.warnf("File ignored: %q: the name is not valid UTF-8", at)
		return 0
	}
	e := entry{Path: at, Mode: info.Mode() & (fs.ModeType | fs.ModePerm), Modified: info.ModTime().UnixNano()}
	switch info.Mode().Type() {
	case 0:
		e.Size = info.Size()
	case fs.ModeDir:
	case fs.ModeSymlink:
		target, err := c.root.Readlink(at)
		if err != nil {
			c.work.warnf("File ignored: %s: %v", at, unwrapDisk(err))
			return 0
		}
		e.Link, e.Modified = target, 0
	default:
		c.work.warnf("File ignored: %s is neither a file, a directory nor a link", at)
		return 0
	}
	c.found[at] = e
	return 1
}

// secrets is the file of a working tree that is for nobody else: worktree.VariablesFile.
const secrets = ".keelson/variables.yml"

func (c *collector) once(what, warning string) {
	if !c.warnedOf[what] {
		c.warnedOf[what] = true
		c.work.warnf("%s", warning)
	}
}

// untracked takes the files that git does not track, ignored ones included.
func (c *collector) untracked(ctx context.Context) error {
	if !c.work.InPlace {
		return c.untrackedOfJob(ctx)
	}
	cmd := exec.CommandContext(ctx, "git", "-C", c.work.Dir, "-c", "core.fsmonitor=false", "ls-files", "--others", "-z")
	cmd.Env = gitEnv()
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.StdoutPipe()
	if err == nil {
		err = cmd.Start()
	}
	if err != nil {
		c.work.warnf("untracked: %v", err)
		return nil
	}
	taken := 0
	r := bufio.NewReader(out)
	for {
		name, err := r.ReadString(0)
		if err != nil {
			break
		}
		if c.seen++; c.seen > 2*c.limits.Files {
			cmd.Cancel() //nolint:errcheck // it is waited for below
			cmd.Wait()   //nolint:errcheck // it was told to end
			return fmt.Errorf("untracked: more than %d files", c.limits.Files)
		}
		name = strings.TrimSuffix(name[:len(name)-1], "/") // a nested repository is named as a directory
		if isStage(name) {
			continue
		}
		if info, err := c.root.Lstat(name); err == nil {
			taken += c.add(name, info)
		}
	}
	io.Copy(io.Discard, out) //nolint:errcheck // it was read to its end
	if err := cmd.Wait(); err != nil {
		c.work.warnf("untracked: git ls-files: %s", firstLine(stderr.String(), err))
		return ctx.Err()
	}
	c.tellUntracked(taken)
	return nil
}

// untrackedOfJob does it for a directory of a job's own, in which git must not run: see [tracked].
func (c *collector) untrackedOfJob(ctx context.Context) error {
	names, err := tracked(c.root, c.limits)
	if err != nil {
		c.work.warnf("untracked: %v", err)
		return ctx.Err()
	}
	if err := c.unknown(ctx, ".", withDirs(names)); err != nil {
		return err
	}
	c.tellUntracked(c.taken)
	return nil
}

func (c *collector) tellUntracked(taken int) {
	if taken == 0 {
		c.work.warnf("untracked: no files")
	} else {
		c.work.printf("untracked: found %d files", taken)
	}
}

// gitEnv is the environment without what would make git look at another repository.
func gitEnv() []string { return gitcmd.UserEnviron() }

func firstLine(text string, err error) string {
	if line, _, _ := strings.Cut(strings.TrimSpace(text), "\n"); line != "" {
		return line
	}
	return err.Error()
}
