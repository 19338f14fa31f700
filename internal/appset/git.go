package appset

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/bmatcuk/doublestar/v4"
	"sigs.k8s.io/yaml"

	argocdv1 "keelson.dev/keelson/api/argocd/v1alpha1"
	"keelson.dev/keelson/internal/delivery"
	"keelson.dev/keelson/internal/redact"
)

func (g *generation) git(_ string, gen argocdv1.ApplicationSetGenerator, _ int) ([]params, error) {
	git := gen.Git
	if len(git.Directories)+len(git.Files) == 0 {
		return nil, errors.New("it has neither directories nor files")
	}
	project, _ := dig(g.template, "spec", "project").(string)
	switch {
	case project == "":
		project = defaultProject
	case strings.Contains(project, "{{"):
		project = ""
	}
	if g.world.Repository == nil {
		return nil, errors.New("no repository can be read here")
	}
	root, err := g.world.Repository(Repository{URL: git.RepoURL, Revision: git.Revision, Project: project})
	if err != nil {
		return nil, fmt.Errorf("repository %w", delivery.Placed(redact.URL(git.RepoURL), err))
	}
	if len(git.Directories) > 0 { // as with Argo CD, files do not count then
		return g.directories(root, git)
	}
	return g.files(root, git)
}

func dig(tree map[string]any, keys ...string) any {
	var v any = tree
	for _, key := range keys {
		m, ok := v.(map[string]any)
		if !ok {
			return nil
		}
		v = m[key]
	}
	return v
}

// directories gives a set of parameters for each folder that a glob names and none excludes.
func (g *generation) directories(root fs.FS, git *argocdv1.GitGenerator) ([]params, error) {
	for i, item := range git.Directories {
		if _, err := path.Match(item.Path, ""); err != nil {
			return nil, fmt.Errorf("directories[%d]: %q is no glob: %w", i, item.Path, err)
		}
	}
	out := []params{}
	seen := 0
	err := fs.WalkDir(root, ".", func(p string, d fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case p == ".":
			return nil
		case !d.IsDir():
			return nil
		case strings.HasPrefix(d.Name(), "."):
			return fs.SkipDir
		}
		if seen++; seen > maxFolders {
			return fmt.Errorf("the repository has more than %d folders", maxFolders)
		}
		var deeper error
		if !leadsOn(git.Directories, p) {
			deeper = fs.SkipDir
		}
		if !chosen(git.Directories, func(glob string) bool { ok, _ := path.Match(glob, p); return ok }) {
			return deeper
		}
		found := params{}
		g.pathParams(found, git.PathParamPrefix, p, "")
		if err := g.addValues(found, git.Values); err != nil {
			return err
		}
		if out = append(out, found); len(out) > maxParams {
			return tooMany()
		}
		return deeper
	})
	return out, err
}

// leadsOn tells whether a folder below dir may be named by an item: the first part of its glob names dir.
func leadsOn(items []argocdv1.GitGeneratorItem, dir string) bool {
	depth := strings.Count(dir, "/") + 1
	return slices.ContainsFunc(items, func(item argocdv1.GitGeneratorItem) bool {
		segments := strings.Split(item.Path, "/")
		if item.Exclude || len(segments) <= depth {
			return false
		}
		ok, err := path.Match(strings.Join(segments[:depth], "/"), dir)
		return ok || err != nil // of [a/b] a part is no glob
	})
}

// chosen tells whether a path is named by an item, and excluded by none.
func chosen(items []argocdv1.GitGeneratorItem, match func(glob string) bool) bool {
	in := false
	for _, item := range items {
		if match(item.Path) {
			if item.Exclude {
				return false
			}
			in = true
		}
	}
	return in
}

// files gives a set of parameters for each file that a glob names and none excludes, or for each element of its list.
func (g *generation) files(root fs.FS, git *argocdv1.GitGenerator) ([]params, error) {
	globs := make(map[string]func(string) bool, len(git.Files))
	for i, item := range git.Files {
		match, err := fileGlob(item.Path, g.world.StrictGlobs)
		if err != nil {
			return nil, fmt.Errorf("files[%d]: %w", i, err)
		}
		globs[item.Path] = match
	}
	var paths []string
	seen := 0
	err := fs.WalkDir(root, ".", func(p string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() {
			if seen++; seen > maxFolders {
				return fmt.Errorf("the repository has more than %d folders", maxFolders)
			}
			if p != "." && !slices.ContainsFunc(git.Files, func(item argocdv1.GitGeneratorItem) bool { return !item.Exclude && mayHold(item.Path, p) }) {
				return fs.SkipDir
			}
			return nil
		}
		if chosen(git.Files, func(glob string) bool { return globs[glob](p) }) {
			if paths = append(paths, p); len(paths) > maxParams {
				return tooMany()
			}
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	slices.Sort(paths)
	out := []params{}
	for _, p := range paths {
		more, err := g.file(root, p, git)
		if err != nil {
			return nil, fmt.Errorf("unable to process file '%s' from repository '%s': %w", p, redact.URL(git.RepoURL), err)
		}
		if out = append(out, more...); len(out) > maxParams {
			return nil, tooMany()
		}
	}
	return out, nil
}

func (g *generation) file(root fs.FS, name string, git *argocdv1.GitGenerator) ([]params, error) {
	data, err := readFile(root, name)
	if err != nil {
		return nil, err
	}
	if g.read += len(data); g.read > maxFiles {
		return nil, fmt.Errorf("the files that are read have more than %d MiB", maxFiles>>20)
	}
	objects := []map[string]any{{}}
	if err := yaml.Unmarshal(data, &objects[0]); err != nil {
		objects = nil
		if err := yaml.Unmarshal(data, &objects); err != nil {
			return nil, fmt.Errorf("it is neither a mapping nor a list of mappings: %w", err)
		}
	}
	out := make([]params, 0, len(objects))
	for _, object := range objects {
		p := params{}
		if g.set.Spec.GoTemplate {
			for k, v := range object {
				p[k] = v
			}
		} else {
			for k, v := range flatten(object) {
				p[k] = v
			}
		}
		g.pathParams(p, git.PathParamPrefix, path.Dir(name), path.Base(name))
		if err := g.addValues(p, git.Values); err != nil {
			return nil, err
		}
		out = append(out, p)
	}
	return out, nil
}

func readFile(root fs.FS, name string) ([]byte, error) {
	f, err := root.Open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, maxFile+1))
	if err == nil && len(data) > maxFile {
		err = fmt.Errorf("it has more than %d MiB", maxFile>>20)
	}
	return data, err
}

// pathParams adds what is to be said of a folder, and of the file in it that was found, if one was.
func (g *generation) pathParams(p params, prefix, dir, file string) {
	base := path.Base(dir)
	segments := strings.Split(dir, "/")
	if g.set.Spec.GoTemplate {
		about := map[string]any{"path": dir, "basename": base, "basenameNormalized": normalize(base), "segments": segments}
		if file != "" {
			about["filename"], about["filenameNormalized"] = file, normalize(file)
		}
		if prefix != "" {
			p[prefix] = map[string]any{"path": about}
			return
		}
		p["path"] = about
		return
	}
	name := "path"
	if prefix != "" {
		name = prefix + ".path"
	}
	p[name], p[name+".basename"], p[name+".basenameNormalized"] = dir, base, normalize(base)
	if file != "" {
		p[name+".filename"], p[name+".filenameNormalized"] = file, normalize(file)
	}
	for i, s := range segments {
		if s != "" {
			p[name+"["+strconv.Itoa(i)+"]"] = s
		}
	}
}

// mayHold tells whether a folder may hold files that a glob names: it is where the glob begins, as far as that holds no wildcards.
func mayHold(glob, dir string) bool {
	literal := path.Clean(strings.TrimPrefix(glob, ":(glob)"))
	if literal == "." {
		return true
	}
	if i := strings.IndexAny(literal, `*?[{\`); i >= 0 {
		literal = literal[:i]
	}
	return strings.HasPrefix(literal, dir+"/") || strings.HasPrefix(dir+"/", literal)
}

// fileGlob compiles a glob of files: one of Git's patterns (gitglossary: pathspec), or with strict, or marked :(glob), one where
// only ** spans folders.
func fileGlob(glob string, strict bool) (func(string) bool, error) {
	if rest, ok := strings.CutPrefix(glob, ":(glob)"); ok {
		glob, strict = rest, true
	}
	if strings.HasPrefix(glob, ":") {
		return nil, fmt.Errorf("%q: of the magic of Git's patterns only :(glob) is supported", glob)
	}
	cleaned := strings.TrimPrefix(path.Clean(glob), "./")
	if strings.HasPrefix(cleaned, "/") || cleaned == ".." || strings.HasPrefix(cleaned, "../") {
		return nil, fmt.Errorf("%q is outside of the repository", glob)
	}
	if strict {
		if !doublestar.ValidatePattern(cleaned) {
			return nil, fmt.Errorf("%q is no glob", glob)
		}
		return func(p string) bool { return doublestar.MatchUnvalidated(cleaned, p) }, nil
	}
	expr, err := regexp.Compile(wildmatch(cleaned))
	if err != nil {
		return nil, fmt.Errorf("%q is no glob: %w", glob, err)
	}
	return func(p string) bool {
		return cleaned == "." || p == cleaned || strings.HasPrefix(p, cleaned+"/") || expr.MatchString(p)
	}, nil
}

// wildmatch gives a pattern of Git's, in which * and ? match slashes too, as a regular expression.
func wildmatch(glob string) string {
	var b strings.Builder
	b.WriteString("^(?s:")
	for i := 0; i < len(glob); i++ {
		switch c := glob[i]; c {
		case '*':
			b.WriteString(".*")
		case '?':
			b.WriteString(".")
		case '\\':
			if i+1 < len(glob) {
				i++
			}
			_, size := utf8.DecodeRuneInString(glob[i:])
			b.WriteString(regexp.QuoteMeta(glob[i : i+size]))
			i += size - 1
		case '[':
			class, n := bracket(glob[i:])
			b.WriteString(class)
			i += n - 1
		default:
			_, size := utf8.DecodeRuneInString(glob[i:])
			b.WriteString(regexp.QuoteMeta(glob[i : i+size]))
			i += size - 1
		}
	}
	b.WriteString(")$")
	return b.String()
}

// bracket gives the class of characters that s begins with, and its length; without an end it is a bracket like any character.
func bracket(s string) (string, int) {
	i := 1
	if i < len(s) && (s[i] == '!' || s[i] == '^') {
		i++
	}
	negated := i == 2
	if i < len(s) && s[i] == ']' {
		i++
	}
	for i < len(s) && s[i] != ']' {
		switch {
		case s[i] == '\\':
			i++
		case strings.HasPrefix(s[i:], "[:"):
			if end := strings.Index(s[i:], ":]"); end > 0 {
				i += end + 1
			}
		}
		i++
	}
	if i >= len(s) {
		return `\[`, 1
	}
	inner := s[1:i]
	var b strings.Builder
	b.WriteByte('[')
	if negated {
		inner = inner[1:]
		b.WriteByte('^')
	}
	if strings.HasPrefix(inner, "]") {
		b.WriteString(`\]`)
		inner = inner[1:]
	}
	for j := 0; j < len(inner); j++ {
		switch {
		case strings.HasPrefix(inner[j:], "[:") && strings.Contains(inner[j:], ":]"):
			end := strings.Index(inner[j:], ":]") + 2
			b.WriteString(inner[j : j+end])
			j += end - 1
		case inner[j] == '[':
			b.WriteString(`\[`)
		case inner[j] == '^':
			b.WriteString(`\^`)
		default:
			b.WriteByte(inner[j])
		}
	}
	b.WriteByte(']')
	return b.String(), i + 1
}
