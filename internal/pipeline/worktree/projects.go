package worktree

import (
	"cmp"
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"keelson.dev/keelson/internal/git"
	"keelson.dev/keelson/internal/pipeline"
	"keelson.dev/keelson/internal/pipeline/config"
	"keelson.dev/keelson/internal/pipeline/flock"
	"keelson.dev/keelson/internal/redact"
)

const (
	// fetchTimeout bounds one fetch, be it of another project or of a remote file.
	fetchTimeout = 30 * time.Second
	// fetchesTimeout bounds all of them together. GitLab has 30 seconds for that, next to its own repositories.
	fetchesTimeout = 2 * time.Minute
)

// fetching begins a fetch within its bounds; end takes note of how long it was.
func (f *Files) fetching() (ctx context.Context, end func()) {
	limit, cause := fetchTimeout, fmt.Errorf("it took longer than %s", fetchTimeout)
	if left := fetchesTimeout - f.fetched; left < limit {
		limit, cause = left, fmt.Errorf("all fetches together took longer than %s", fetchesTimeout)
	}
	begin := time.Now()
	ctx, cancel := context.WithTimeoutCause(f.ctx, limit, cause)
	return ctx, func() {
		cancel()
		f.fetched += time.Since(begin)
	}
}

// project is another project's tree: a folder as it is, or a commit in a repository.
type project struct {
	path   string // its name: group/name, or host:group/name of another host
	sha    string // empty: a folder that is in no commit
	folder string
	repo   *git.Repository
	tree   *git.Tree
}

func (p *project) close() {
	if p.repo != nil {
		p.repo.Close()
	}
}

// source names a file of it for positions: "group/name@ref:path".
func (p *project) source(name string, text []byte) config.Source {
	at := p.path
	if p.sha != "" && p.folder == "" {
		at += "@" + shortSHA(p.sha)
	}
	return config.Source{Name: at + ":" + name, Text: text, Project: p.path, SHA: p.sha}
}

func (p *project) read(name string) ([]byte, error) {
	if p.folder != "" {
		text, err := readUnder(p.folder, name)
		if err != nil {
			return nil, fmt.Errorf("project %s in %s: %w", p.path, p.folder, err)
		}
		return text, nil
	}
	text, err := p.tree.ReadAtMost(name, maxFile)
	if err != nil {
		return nil, fmt.Errorf("project %s at %s: %w", p.path, shortSHA(p.sha), err)
	}
	return text, nil
}

func (p *project) paths() ([]string, error) {
	if p.folder != "" {
		return walk(p.folder)
	}
	var paths []string
	err := fs.WalkDir(p.tree, ".", func(name string, d fs.DirEntry, err error) error {
		if err == nil && !d.IsDir() {
			paths = append(paths, name)
		}
		return err
	})
	return paths, err
}

// project reads include:project.
func (f *Files) project(include pipeline.Include) ([]config.Source, error) {
	p, err := f.openProject(include.Project, include.Ref)
	if err != nil {
		return nil, err
	}
	return f.local(include.File, config.Source{Project: p.path, SHA: cmp.Or(include.Ref, p.sha)})
}

// openProject finds a project of the own host at a ref.
func (f *Files) openProject(name, ref string) (*project, error) {
	if strings.Contains(name, ":") {
		return nil, fmt.Errorf("%q at %q is no project: it is group/name", name, ref)
	}
	return f.openNamed(name, ref)
}

// projectName is how a project of any host is called here; host "" is the own one. No path has a colon.
func projectName(host, projectPath string) string {
	if host == "" {
		return projectPath
	}
	return host + ":" + projectPath
}

func splitName(name string) (host, projectPath string) {
	if i := strings.LastIndex(name, ":"); i >= 0 {
		return name[:i], name[i+1:]
	}
	return "", name
}

// where is the address of a project by its name, and whether somebody has said so; empty: it is not known.
func (f *Files) where(name string) (where string, mapped bool) {
	host, projectPath := splitName(name)
	if host == "" {
		if where, mapped = f.opts.Projects[name]; mapped {
			return where, true
		}
		return f.home.origin().url(name), false
	}
	if where, mapped = f.opts.Projects[host+"/"+projectPath]; mapped {
		return where, true
	}
	return place{scheme: "https", host: host}.url(projectPath), false
}

// openNamed finds a project by its name at a ref, each of them once.
func (f *Files) openNamed(name, ref string) (*project, error) {
	name = strings.Trim(name, "/")
	if p := f.open[name+"@"+ref]; p != nil {
		return p, nil
	}
	if _, projectPath := splitName(name); projectPath == "" || slices.ContainsFunc(strings.Split(projectPath, "/"), func(s string) bool { return s == "" || s == "." || s == ".." }) || strings.HasPrefix(ref, "-") {
		return nil, fmt.Errorf("%q at %q is no project: it is group/name", name, ref)
	}
	p, err := f.findProject(name, ref)
	if err != nil {
		return nil, err
	}
	f.open[name+"@"+ref] = p
	if p.sha != "" {
		f.open[name+"@"+p.sha] = p
	}
	return p, nil
}

func (f *Files) findProject(name, ref string) (*project, error) {
	from := f.home.origin()
	where, mapped := f.where(name)
	if mapped && parsePlace(where).scheme == "" {
		return folderProject(f.ctx, name, where)
	}
	if !mapped && name == from.path && from.path != "" {
		if p, err := f.home.own(f.ctx, name, ref); err == nil {
			return p, nil
		}
	}
	if f.opts.Hosted != nil {
		return f.hostedProject(name, ref)
	}
	if where == "" {
		return nil, fmt.Errorf("project %s: it is not known where it is, for this repository has no remote on a server; say so with --project %s=FOLDER-OR-URL", name, name)
	}
	return f.fetchProject(name, ref, where)
}

// folderProject is a project that --project maps to a folder.
func folderProject(ctx context.Context, name, dir string) (*project, error) {
	info, err := os.Stat(dir)
	if err == nil && !info.IsDir() {
		err = errors.New("it is no folder")
	}
	if err != nil {
		return nil, fmt.Errorf("project %s in %s: %w", name, dir, err)
	}
	p := &project{path: name, folder: dir}
	if sha, err := runGit(ctx, dir, "rev-parse", "--verify", "--quiet", "HEAD"); err == nil {
		p.sha = strings.TrimSpace(sha)
	}
	return p, nil
}

// own is the working tree's own repository at another ref.
func (r *Repository) own(ctx context.Context, name, ref string) (*project, error) {
	if !r.hasGit {
		return nil, fs.ErrNotExist
	}
	full := "HEAD"
	if ref != "" && ref != "HEAD" {
		full = cmp.Or(r.find(ctx, ref), ref)
	}
	sha, err := r.git(ctx, "rev-parse", "--verify", "--quiet", "--end-of-options", full+"^{commit}")
	if err != nil {
		return nil, err
	}
	return openCommit(name, r.common, strings.TrimSpace(sha))
}

// hostedProject is another project of the same server, at a ref.
func (f *Files) hostedProject(name, ref string) (*project, error) {
	if host, _ := splitName(name); host != "" {
		return nil, fmt.Errorf("project %s: pipelines of a server read projects of that server only", name)
	}
	dir, err := f.opts.Hosted(name)
	if err != nil {
		return nil, fmt.Errorf("project %s: %w", name, err)
	}
	return atRef(f.ctx, name, dir, ref)
}

// atRef is a project in a bare repository at a branch, a tag or a commit; empty: what HEAD names.
func atRef(ctx context.Context, name, dir, ref string) (*project, error) {
	for _, full := range []string{"refs/heads/" + ref, "refs/tags/" + ref, cmp.Or(ref, "HEAD")} {
		sha, err := runBare(ctx, dir, "rev-parse", "--verify", "--quiet", "--end-of-options", full+"^{commit}")
		if err == nil {
			return openCommit(name, dir, strings.TrimSpace(sha))
		}
	}
	return nil, fmt.Errorf("project %s has no branch, tag or commit %s: %w", name, cmp.Or(ref, "HEAD"), fs.ErrNotExist)
}

func openCommit(name, dir, sha string) (*project, error) {
	repo, err := git.Open(dir, git.Options{MaxFileSize: maxFile})
	if err != nil {
		return nil, err
	}
	tree, err := repo.Tree(sha)
	if err != nil {
		repo.Close()
		return nil, err
	}
	return &project{path: name, sha: sha, repo: repo, tree: tree}, nil
}

// fetchProject fetches one commit of a project into the cache. A commit that is there is not asked for again; where the host
// cannot be reached, what the ref named the last time has to do.
func (f *Files) fetchProject(name, ref, where string) (*project, error) {
	dir := filepath.Join(f.opts.Cache, "projects", cacheName(where))
	keep := "refs/keelson/" + hex.EncodeToString([]byte(cmp.Or(ref, "HEAD")))
	ctx, end := f.fetching()
	defer end()
	unlock, err := lockRepository(ctx, dir)
	if err != nil {
		return nil, fmt.Errorf("keep a copy of project %s: %w", name, err)
	}
	defer unlock()
	if isSHA(ref) {
		if p, err := openCommit(name, dir, ref); err == nil {
			return p, nil
		}
	}
	_, err = runBare(ctx, dir, "fetch", "--quiet", "--depth=1", "--no-tags", "--force", "--no-recurse-submodules", "--", where, "+"+cmp.Or(ref, "HEAD")+":"+keep)
	sha, found := runBare(f.ctx, dir, "rev-parse", "--verify", "--quiet", keep+"^{commit}")
	if err != nil {
		err = fmt.Errorf("project %s at %s: fetch %s: %w", name, cmp.Or(ref, "its default branch"), redact.URL(where), err)
		if found != nil || f.ctx.Err() != nil || !unreachable(err) {
			return nil, err
		}
		f.note(err.Error() + "; the copy in " + dir + " is used")
	}
	if found != nil {
		return nil, fmt.Errorf("project %s: %w", name, found)
	}
	return openCommit(name, dir, strings.TrimSpace(sha))
}

// unreachable tells a host that does not answer from one that refuses, in git's words.
func unreachable(err error) bool {
	for _, said := range []string{"Could not resolve host", "Could not resolve hostname", "Failed to connect", "Couldn't connect", "unable to connect", "Network is unreachable", "timed out", "Connection refused", "took longer"} {
		if strings.Contains(err.Error(), said) {
			return true
		}
	}
	return false
}

// isSHA tells whether a ref is a whole commit id.
func isSHA(ref string) bool {
	_, err := git.ParseObjectID(ref)
	return err == nil
}

// cacheName is a folder's name for a URL, without what is secret in it.
func cacheName(where string) string {
	p := parsePlace(where)
	return hex.EncodeToString([]byte(p.host)) + "/" + strings.ReplaceAll(p.path, "/", "+") + ".git"
}

// lockRepository makes the bare repository where it is missing and keeps other processes from it.
func lockRepository(ctx context.Context, dir string) (unlock func(), err error) {
	if err := os.MkdirAll(filepath.Dir(dir), 0o700); err != nil {
		return nil, err
	}
	lock, err := os.OpenFile(dir+".lock", os.O_CREATE|os.O_RDWR|syscall.O_CLOEXEC, 0o600)
	if err != nil {
		return nil, err
	}
	if err := flock.Lock(ctx, lock, true); err != nil {
		lock.Close()
		return nil, err
	}
	if _, err := os.Stat(filepath.Join(dir, "HEAD")); err != nil {
		if _, err := runGit(ctx, filepath.Dir(dir), "init", "--quiet", "--bare", "--object-format=sha1", "--template=", "--", dir); err != nil {
			lock.Close()
			return nil, err
		}
	}
	return func() { lock.Close() }, nil
}

// component reads include:component: host/group/project/name@version, from templates/name.yml or templates/name/template.yml.
func (f *Files) component(reference string) ([]config.Source, error) {
	address, version, ok := strings.Cut(reference, "@")
	host, full, ok2 := strings.Cut(address, "/")
	name := path.Base(full)
	projectPath := path.Dir(full)
	if !ok || !ok2 || version == "" || host == "" || projectPath == "." || strings.Contains(projectPath, ":") {
		return nil, fmt.Errorf("component %q: it is host/group/project/name@version", reference)
	}
	if f.isOwn(host, projectPath) {
		host = ""
	}
	projectPath = projectName(host, projectPath)
	ref, err := f.componentVersion(projectPath, version)
	if err != nil {
		return nil, err
	}
	p, err := f.openNamed(projectPath, ref)
	if err != nil {
		return nil, fmt.Errorf("component %s: %w", reference, err)
	}
	for _, file := range []string{"templates/" + name + ".yml", "templates/" + name + "/template.yml"} {
		text, err := p.read(file)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("component %s: %w", reference, err)
		}
		s := p.source(file, text)
		s.Component = map[string]string{"name": name, "sha": p.sha, "version": ref, "reference": version}
		return []config.Source{s}, nil
	}
	return nil, fmt.Errorf("component %s: project %s has neither templates/%s.yml nor templates/%s/template.yml: %w", reference, projectPath, name, name, fs.ErrNotExist)
}

// isOwn tells whether a component's host is the one that the working tree was cloned from. Where there is none, what --project
// names is on any host.
func (f *Files) isOwn(host, projectPath string) bool {
	from := f.home.origin()
	_, web, _ := strings.Cut(from.web(), "://")
	if from.scheme == "" {
		if _, mapped := f.opts.Projects[projectPath]; mapped {
			return true
		}
	}
	return host == web || from.scheme != "" && host == from.host
}

// componentVersion finds the ref of a version: "~latest" and parts of a semantic version ("1", "1.2") are its newest tag.
func (f *Files) componentVersion(name, version string) (string, error) {
	if host, _ := splitName(name); f.opts.Hosted != nil && host != "" {
		return version, nil // opening it says that it is refused
	}
	where, mapped := f.where(name)
	if where == "" || mapped && parsePlace(where).scheme == "" {
		return version, nil // the folder as it is, or what cannot be opened
	}
	if version != "~latest" && !partialVersion().MatchString(version) {
		return version, nil
	}
	if f.opts.Hosted != nil {
		dir, err := f.opts.Hosted(name)
		if err != nil {
			return "", fmt.Errorf("project %s: %w", name, err)
		}
		where = dir
	}
	ctx, end := f.fetching()
	defer end()
	out, err := runGit(ctx, f.home.dir(), "ls-remote", "--quiet", "--tags", "--refs", "--", where)
	if err != nil {
		return "", fmt.Errorf("versions of project %s: %w", name, err)
	}
	var tags []string
	for line := range strings.Lines(out) {
		if _, tag, ok := strings.Cut(strings.TrimSpace(line), "refs/tags/"); ok {
			tags = append(tags, tag)
		}
	}
	tag := newest(tags, version)
	if tag == "" && version == "~latest" {
		return "", fmt.Errorf("project %s has no released version: %w", name, fs.ErrNotExist)
	}
	return cmp.Or(tag, version), nil // "1" may be a branch
}

var (
	partialVersion = sync.OnceValue(func() *regexp.Regexp { return regexp.MustCompile(`^\d+(\.\d+)?$`) })
	fullVersion    = sync.OnceValue(func() *regexp.Regexp { return regexp.MustCompile(`^v?(\d+)\.(\d+)\.(\d+)$`) })
)

// newest picks the highest released version that a partial one stands for.
func newest(tags []string, version string) string {
	var best string
	var bestParts []int
	for _, tag := range tags {
		m := fullVersion().FindStringSubmatch(tag)
		if m == nil || version != "~latest" && !strings.HasPrefix(strings.TrimPrefix(tag, "v")+".", version+".") {
			continue
		}
		var parts []int
		for _, text := range m[1:] {
			n, err := strconv.Atoi(text)
			if err != nil {
				break
			}
			parts = append(parts, n)
		}
		if len(parts) == 3 && (best == "" || slices.Compare(parts, bestParts) > 0) {
			best, bestParts = tag, parts
		}
	}
	return best
}
