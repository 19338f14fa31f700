package worktree

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"time"

	"keelson.dev/keelson/internal/pipeline"
	"keelson.dev/keelson/internal/pipeline/config"
)

// maxFile bounds one configuration file, wherever it comes from.
const maxFile = 8 << 20

// FilesOptions says where what is outside of the working tree is found.
type FilesOptions struct {
	// Projects maps a project's path (group/name; host/group/name for one of another host) to a folder, which counts as it is
	// whatever the ref, or to a URL that git takes. Projects that are not named are on the host that the working tree was
	// cloned from.
	Projects map[string]string
	Cache    string // the directory that keeps what was fetched of them
	// Hosted gives the bare repository of a project of the own host; an error says why the pipeline may not read it. Then no other
	// host's projects are fetched, and no file of an address in this network. Nil: they are fetched from the host.
	Hosted func(project string) (dir string, err error)
	// Note is told what a person should know: a copy was used because the host cannot be reached.
	Note func(text string)
}

// Files gives the files of a pipeline: those of the working tree as they are, those of other projects, and remote ones. It keeps
// the texts that it has given, so that a problem can be shown where it is. It is also the [pipeline.Tree] of the working tree.
//
// It is for one reading of one configuration, and not safe for concurrent use.
type Files struct {
	ctx  context.Context // of the reading that it is made for
	home home
	opts FilesOptions

	event *pipeline.Context // of the reading
	asked bool              // for its changes

	open  map[string]*project // by name and ref
	texts map[string][]byte   // by the name of positions
	web   map[string][]byte   // by address

	fetched time.Duration // what all fetches have taken
}

var (
	_ config.Files  = (*Files)(nil)
	_ pipeline.Tree = (*Files)(nil)
)

// home is what local files are in: a working tree as it is, or a commit.
type home interface {
	// read reads a file, Paths lists all.
	read(name string) ([]byte, error)
	Paths() ([]string, error)
	// Changes are the paths that the event changes; nil: no diff is known.
	Changes(ctx context.Context, c *pipeline.Context) ([]string, error)
	// dir is where git is run.
	dir() string
	// origin is the host of other projects, and which project this is there.
	origin() place
	// own is this project at another ref; an error says that it is not here.
	own(ctx context.Context, name, ref string) (*project, error)
}

// Files makes the port for one reading, which ends when ctx does.
func (r *Repository) Files(ctx context.Context, opts FilesOptions) *Files {
	return newFiles(ctx, r, opts)
}

func newFiles(ctx context.Context, h home, opts FilesOptions) *Files {
	return &Files{ctx: ctx, home: h, opts: opts, open: map[string]*project{}, texts: map[string][]byte{}, web: map[string][]byte{}}
}

// Close lets go of the repositories that were read.
func (f *Files) Close() {
	for _, p := range f.open {
		p.close()
	}
}

// Text gives a file that was read before, by its name in positions.
func (f *Files) Text(name string) ([]byte, bool) {
	text, ok := f.texts[name]
	return text, ok
}

// Mention tells whether a file that was read holds a word.
func (f *Files) Mention(word string) bool {
	for _, text := range f.texts {
		if bytes.Contains(text, []byte(word)) {
			return true
		}
	}
	return false
}

// Keep remembers a text that came in another way, as the first file does.
func (f *Files) Keep(name string, text []byte) { f.texts[name] = text }

// For says for which event the files are read next. What has changed is asked for, and put into the event, once a file has the
// word; an event that says itself what has changed is left alone.
func (f *Files) For(c *pipeline.Context) {
	c.Tree = f
	f.event, f.asked = c, c.Changes != nil
	for _, text := range f.texts {
		f.see(text)
	}
}

// see looks whether a text asks for what has changed.
func (f *Files) see(text []byte) {
	if f.event == nil || f.asked || !bytes.Contains(text, []byte("changes")) {
		return
	}
	f.asked = true
	changes, err := f.home.Changes(f.ctx, f.event)
	if err != nil {
		f.note(err.Error())
	}
	f.event.Changes = changes
}

// First reads the first file of a pipeline: a path in the working tree.
func (f *Files) First(name string) (config.Source, error) {
	text, err := f.home.read(cleanLocal(name))
	return f.keep(config.Source{Name: cleanLocal(name), Text: text}), err
}

// Read gives the files that an include names.
func (f *Files) Read(include pipeline.Include, from config.Source) ([]config.Source, error) {
	var sources []config.Source
	var err error
	switch {
	case include.Local != "":
		sources, err = f.local(include.Local, from)
	case include.Project != "":
		sources, err = f.project(include)
	case include.Component != "":
		sources, err = f.component(include.Component)
	case include.Remote != "":
		sources, err = f.remote(include)
	case include.Artifact != "":
		err = fmt.Errorf("artifact %s of job %s: it is there only once that job has run", include.Artifact, include.Job)
	case include.Template != "":
		err = fmt.Errorf("template %s: %w", include.Template, fs.ErrNotExist)
	default:
		err = errors.New("the include names no file")
	}
	if err != nil {
		return nil, err
	}
	for i := range sources {
		sources[i] = f.keep(sources[i])
	}
	return sources, nil
}

func (f *Files) keep(s config.Source) config.Source {
	f.texts[s.Name] = s.Text
	f.see(s.Text)
	return s
}

// Paths lists the working tree's files.
func (f *Files) Paths() []string {
	paths, err := f.home.Paths()
	if err != nil {
		f.note("exists: " + err.Error())
	}
	return paths
}

// Of gives another project's tree, for exists:project.
func (f *Files) Of(name, ref string) (pipeline.Tree, error) {
	p, err := f.openProject(name, ref)
	if err != nil {
		return nil, err
	}
	paths, err := p.paths()
	if err != nil {
		return nil, err
	}
	return otherTree{f, paths}, nil
}

type otherTree struct {
	*Files
	paths []string
}

func (t otherTree) Paths() []string { return t.paths }

func (f *Files) note(text string) {
	if f.opts.Note != nil {
		f.opts.Note(text)
	}
}

// cleanLocal makes a path of an include one from the root: a leading slash means the same.
func cleanLocal(name string) string {
	return strings.TrimPrefix(path.Clean("/"+filepath.ToSlash(name)), "/")
}

// local reads a local include: of the working tree, or of the project that the including file is in.
func (f *Files) local(name string, from config.Source) ([]config.Source, error) {
	clean := cleanLocal(name)
	if slices.Contains(strings.Split(filepath.ToSlash(name), "/"), "..") {
		return nil, fmt.Errorf("%s: a path with .. does not stay in the repository", name)
	}
	list, read := f.home.Paths, f.home.read
	var other *project
	if from.Project != "" {
		p, err := f.openNamed(from.Project, from.SHA)
		if err != nil {
			return nil, err
		}
		other, list, read = p, p.paths, p.read
	}
	names := []string{clean}
	if strings.Contains(clean, "*") {
		paths, err := list()
		if err != nil {
			return nil, err
		}
		if names, err = wildcard(clean, paths); err != nil {
			return nil, err
		}
	}
	var sources []config.Source
	size := 0
	for _, name := range names {
		text, err := read(name)
		if err != nil {
			return nil, err
		}
		if size += len(text); size > config.MaxTotalSize {
			return nil, fmt.Errorf("%s names files of more than %d MiB together", clean, config.MaxTotalSize>>20)
		}
		s := config.Source{Name: name, Text: text}
		if other != nil {
			s = other.source(name, text)
		}
		sources = append(sources, s)
	}
	return sources, nil
}

// wildcard picks the paths that a local include with * and ** names: ** are any folders, * is anything within one.
func wildcard(pattern string, paths []string) ([]string, error) {
	expr := regexp.QuoteMeta(pattern)
	expr = strings.ReplaceAll(expr, `\*\*/`, `([^/]+/)*`)
	expr = strings.ReplaceAll(expr, `\*\*`, `.*`)
	expr = strings.ReplaceAll(expr, `\*`, `[^/]*`)
	re, err := regexp.Compile("^" + expr + "$")
	if err != nil {
		return nil, fmt.Errorf("%s: %w", pattern, err)
	}
	var names []string
	for _, p := range paths {
		if re.MatchString(p) && (strings.HasSuffix(p, ".yml") || strings.HasSuffix(p, ".yaml")) {
			names = append(names, p)
		}
	}
	slices.Sort(names)
	if len(names) > config.MaxIncludes {
		return nil, fmt.Errorf("%s names %d files, and there may be no more than %d includes", pattern, len(names), config.MaxIncludes)
	}
	return names, nil
}

// read reads a file of the working tree. Symbolic links count as long as they stay in it.
func (r *Repository) read(name string) ([]byte, error) { return readUnder(r.root, name) }

func (r *Repository) dir() string { return r.root }

// ReadFile reads a configuration file of this machine that is named by whoever asks, within the bound of all of them.
func ReadFile(name string) ([]byte, error) {
	in, err := os.Open(name)
	if err != nil {
		return nil, err
	}
	defer in.Close()
	return readAtMost(in, name)
}

// readUnder reads a regular file below a folder, through links that stay in it.
func readUnder(dir, name string) ([]byte, error) {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return nil, err
	}
	defer root.Close()
	file := filepath.FromSlash(cmp.Or(name, "."))
	if first, _, _ := strings.Cut(name, "/"); first == ".git" {
		return nil, fmt.Errorf("%s is Git's own", name)
	}
	info, err := root.Stat(file) // before it is opened: opening a pipe waits
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("%s: %w", name, fs.ErrNotExist)
	}
	if err != nil {
		return nil, fmt.Errorf("%s: %w", name, errors.Unwrap(err))
	}
	if !info.Mode().IsRegular() {
		return nil, fmt.Errorf("%s is no file", name)
	}
	in, err := root.Open(file)
	if err != nil {
		return nil, err
	}
	defer in.Close()
	return readAtMost(in, name)
}

// readAtMost reads a configuration file within its bound.
func readAtMost(in io.Reader, name string) ([]byte, error) {
	text, err := io.ReadAll(io.LimitReader(in, maxFile+1))
	if err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	if len(text) > maxFile {
		return nil, fmt.Errorf("%s is larger than %d MiB", name, maxFile>>20)
	}
	return text, nil
}
