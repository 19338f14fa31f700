package source

import (
	"bufio"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"path"
	"strings"
	"sync"

	"github.com/go-git/go-git/v5/plumbing/format/gitignore"

	"keelson.dev/keelson/internal/delivery"
	"keelson.dev/keelson/internal/git"
)

// What is left out of a snapshot follows Flux's source-controller (fluxcd/pkg/sourceignore):
//
//   - Files about version control are always left out, unless a later rule includes them again.
//   - The rules of .sourceignore files, in any folder, hold below that folder; deeper ones win.
//   - spec.ignore comes last and wins over all.
//   - Only if none of these has a single rule, the defaults hold as well.
//
// The decision is made for files alone, so a file can be included again below an excluded folder (in Git it cannot).
const (
	ignoreFile = ".sourceignore"
	vcsRules   = ".git/,.gitignore,.gitmodules,.gitattributes"
	// defaultRules are images, media and archives; configuration of CI services; configuration of tools.
	defaultRules = "*.jpg,*.jpeg,*.gif,*.png,*.wmv,*.flv,*.tar.gz,*.zip," +
		".github/,.circleci/,.travis.yml,.gitlab-ci.yml,appveyor.yml,.drone.yml,cloudbuild.yaml,codeship-services.yml,codeship-steps.yml," +
		"**/.goreleaser.yml,**/.sops.yaml,**/.flux.yaml"
	// maxIgnoreFile bounds a .sourceignore file in bytes.
	maxIgnoreFile = 1 << 20
	// maxKnown bounds an ignoreIndex: about 60 bytes each.
	maxKnown = 1 << 17
	// maxRuleDepth and maxRuleFolders bound how deep and in how many folders of one commit ignore files are looked for.
	maxRuleDepth   = 256
	maxRuleFolders = 1 << 19
)

// maxVisited bounds how many files and folders one snapshot looks at below excluded folders, for what a rule includes again,
// and how many an include asks about.
var maxVisited = 1 << 19

// rule is one line of an ignore file.
type rule struct {
	gitignore.Pattern
	include bool     // "!…"
	prefix  []string // the folders that a path must begin with for the rule to match, as globs; nil: anywhere in its domain
}

var standardRules = sync.OnceValue(func() (r struct{ vcs, defaults []rule }) {
	for _, s := range strings.Split(vcsRules, ",") {
		r.vcs = append(r.vcs, newRule(s, nil))
	}
	for _, s := range strings.Split(defaultRules, ",") {
		r.defaults = append(r.defaults, newRule(s, nil))
	}
	return r
})

func newRule(line string, domain []string) rule {
	r := rule{Pattern: gitignore.ParsePattern(line, domain), prefix: domain}
	line, r.include = strings.CutPrefix(line, "!")
	line = strings.TrimRight(line, " ")
	body := strings.TrimSuffix(line, "/")
	if !strings.Contains(body, "/") {
		return r
	}
	r.prefix = append([]string(nil), domain...)
	for part := range strings.SplitSeq(strings.TrimPrefix(body, "/"), "/") {
		if strings.Contains(part, "**") || part == "" {
			break
		}
		r.prefix = append(r.prefix, part)
	}
	return r
}

// reaches says whether the rule could match something below the folder.
func (r rule) reaches(folder []string) bool {
	for i := range min(len(folder), len(r.prefix)) {
		if ok, err := path.Match(r.prefix[i], folder[i]); err != nil || !ok {
			return false
		}
	}
	return true
}

// parseRules reads an ignore file as Flux does: empty lines and lines that begin with "#" are no rules.
func parseRules(text string, domain []string) []rule {
	var rules []rule
	s := bufio.NewScanner(strings.NewReader(text))
	s.Buffer(nil, maxIgnoreFile)
	for s.Scan() {
		line := s.Text()
		if !strings.HasPrefix(line, "#") && strings.TrimSpace(line) != "" {
			rules = append(rules, newRule(line, domain))
		}
	}
	return rules
}

// verdict of some rules about a path; the last one that matches wins.
func verdict(rules []rule, parts []string, isDir bool) gitignore.MatchResult {
	for i := len(rules) - 1; i >= 0; i-- {
		if m := rules[i].Match(parts, isDir); m != gitignore.NoMatch {
			return m
		}
	}
	return gitignore.NoMatch
}

// ruleSum stands for the ignore files in a folder and below it: equal sums mean equal rules in equal places. The zero
// ruleSum: there is no rule.
type ruleSum [16]byte

func sumOf(parts ...[]byte) ruleSum {
	h := sha256.New()
	for _, p := range parts {
		fmt.Fprintf(h, "%d\n", len(p))
		h.Write(p)
	}
	return ruleSum(h.Sum(nil)[:len(ruleSum{})])
}

// ignoreIndex remembers, for one repository, what ignore files there are below a tree: what one commit has shown need
// not be looked at again for the next.
type ignoreIndex struct {
	mu    sync.Mutex
	below map[git.ObjectID]ruleSum
}

func (x *ignoreIndex) get(id git.ObjectID) (ruleSum, bool) {
	x.mu.Lock()
	defer x.mu.Unlock()
	sum, ok := x.below[id]
	return sum, ok
}

func (x *ignoreIndex) add(id git.ObjectID, sum ruleSum) {
	x.mu.Lock()
	defer x.mu.Unlock()
	if x.below == nil || len(x.below) >= maxKnown {
		x.below = map[git.ObjectID]ruleSum{}
	}
	x.below[id] = sum
}

// view is a tree without what is ignored. It reads ignore files as they are needed, on the way to the paths that
// are asked for. It is safe for concurrent use.
type view struct {
	tree  *git.Tree
	repo  *git.Repository // that the tree is of; nil: it is of none alone
	src   delivery.Source // whose it is, without credentials
	known *ignoreIndex
	spec  []rule
	only  []string // a sparse checkout: nothing but these paths; none: everything

	mu     sync.Mutex
	rules  map[string][]rule // of the ignore file in a folder
	hidden int               // how many entries of excluded folders were looked at
	shown  map[string]bool   // what has been decided about a path: listing, describing and reading ask again and again
}

var (
	_ fs.ReadDirFS  = (*view)(nil)
	_ fs.ReadFileFS = (*view)(nil)
	_ fs.StatFS     = (*view)(nil)
	_ fs.ReadLinkFS = (*view)(nil)
)

func newView(tree *git.Tree, known *ignoreIndex, src delivery.Source) *view {
	src.Credentials = delivery.Credentials{}
	v := &view{tree: tree, src: src, known: known, only: shownPaths(src), rules: map[string][]rule{}, shown: map[string]bool{}}
	if src.HasIgnore {
		v.spec = parseRules(src.Ignore, nil)
	}
	return v
}

// folderRules are the rules of the ignore file in a folder.
func (v *view) folderRules(dir string) ([]rule, error) {
	v.mu.Lock()
	rules, ok := v.rules[dir]
	v.mu.Unlock()
	if ok {
		return rules, nil
	}
	name := path.Join(dir, ignoreFile)
	if !v.checkedOut(name) {
		return nil, nil
	}
	info, err := v.tree.Stat(name)
	switch {
	case errors.Is(err, fs.ErrNotExist) || err == nil && info.IsDir():
	case err != nil:
		return nil, err
	case info.Size() > maxIgnoreFile:
		return nil, fmt.Errorf("%s: %w: %d bytes, the limit is %d", name, git.ErrTooLarge, info.Size(), maxIgnoreFile)
	default:
		b, err := v.tree.ReadFile(name)
		if err != nil {
			return nil, err
		}
		rules = parseRules(string(b), split(dir))
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	v.rules[dir] = rules
	return rules, nil
}

// split gives the parts of a path; the root has none.
func split(name string) []string {
	if name == "." {
		return nil
	}
	return strings.Split(name, "/")
}

// hasRules says whether any ignore file in or below a folder has a rule.
func (v *view) hasRules(dir string) (bool, error) {
	sum, err := v.rulesBelow(dir)
	return sum != ruleSum{}, err
}

// rulesBelow sums up the ignore files in and below a folder.
func (v *view) rulesBelow(dir string) (ruleSum, error) {
	id, mode, err := v.tree.Identify(dir)
	if err != nil || !mode.IsDir() {
		return ruleSum{}, err
	}
	w := ruleWalk{view: v}
	sum, _, err := w.folder(dir, id, len(split(dir)))
	return sum, err
}

// ruleWalk looks for ignore files in the folders that no earlier commit has shown.
type ruleWalk struct {
	*view
	folders int
}

// folder sums up a folder. The sum is fixed if the tree alone determines it: not so where an ignore file is a link.
// Where a tree is made to be endless, its id stands for what is in it.
func (w *ruleWalk) folder(dir string, id git.ObjectID, depth int) (sum ruleSum, fixed bool, err error) {
	whole := w.checkedOut(dir)
	if !whole && !w.leadsToSparse(dir) {
		return ruleSum{}, true, nil
	}
	if sum, ok := w.known.get(id); ok && whole {
		return sum, true, nil
	}
	if w.folders++; depth > maxRuleDepth || w.folders > maxRuleFolders {
		return sumOf([]byte("unread"), id[:]), true, nil
	}
	own, fixed, err := w.own(dir)
	if err != nil {
		return ruleSum{}, false, err
	}
	entries, err := w.tree.ReadDir(dir)
	if err != nil {
		return ruleSum{}, false, err
	}
	parts := [][]byte{own[:]}
	for _, e := range entries {
		if !e.IsDir() {
			continue
		}
		below, ok, err := w.folder(path.Join(dir, e.Name()), e.(interface{ ID() git.ObjectID }).ID(), depth+1)
		if err != nil {
			return ruleSum{}, false, err
		}
		if fixed = fixed && ok; below != (ruleSum{}) {
			parts = append(parts, []byte(e.Name()), below[:])
		}
	}
	if own != (ruleSum{}) || len(parts) > 1 {
		sum = sumOf(parts...)
	}
	if fixed && whole {
		w.known.add(id, sum)
	}
	return sum, fixed && whole, nil
}

// own sums up the ignore file in a folder. One that cannot be used fails what it is asked about, and nothing else.
func (w *ruleWalk) own(dir string) (sum ruleSum, fixed bool, err error) {
	if !w.checkedOut(path.Join(dir, ignoreFile)) {
		return ruleSum{}, true, nil
	}
	id, mode, err := w.tree.Identify(path.Join(dir, ignoreFile))
	switch {
	case errors.Is(err, fs.ErrNotExist) || err == nil && mode.IsDir():
		return ruleSum{}, true, nil
	case err != nil:
		return ruleSum{}, false, err
	}
	fixed = mode.IsRegular()
	rules, err := w.folderRules(dir)
	switch {
	case errors.Is(err, git.ErrTooLarge), err != nil && !fixed && !errors.Is(err, git.ErrCorrupt): // a link to nowhere, say
		return sumOf([]byte("unusable"), id[:], []byte(err.Error())), fixed, nil
	case err != nil || len(rules) == 0:
		return ruleSum{}, fixed, err
	case fixed:
		return sumOf(id[:]), true, nil
	}
	info, err := w.tree.Stat(path.Join(dir, ignoreFile))
	if err != nil {
		return ruleSum{}, false, err
	}
	target := info.Sys().(git.ObjectID)
	return sumOf(target[:]), false, nil
}

// identity stands for all that decides what is left out: equal values mean that trees with the same id look the same.
func (v *view) identity() (string, error) {
	src := v.src
	if src.Whole && len(src.Sparse) == 0 {
		return "", nil
	}
	below, err := v.rulesBelow(".")
	if err != nil {
		return "", err
	}
	parts := [][]byte{[]byte(fmt.Sprint(src.HasIgnore)), []byte(src.Ignore), below[:]}
	for _, name := range src.Sparse {
		parts = append(parts, []byte(name))
	}
	if src.Whole {
		parts = append(parts, nil)
	}
	sum := sumOf(parts...)
	return hex.EncodeToString(sum[:]), nil
}

// excluded says what the rules make of a path.
func (v *view) excluded(name string, isDir bool) (bool, error) {
	parts := split(name)
	if len(parts) == 0 {
		return false, nil
	}
	if !v.checkedOut(name) {
		return true, nil
	}
	if v.src.Whole {
		return false, nil
	}
	if m := verdict(v.spec, parts, isDir); m != gitignore.NoMatch {
		return m == gitignore.Exclude, nil
	}
	for i := len(parts) - 1; i >= 0; i-- {
		rules, err := v.folderRules(path.Join(append([]string{"."}, parts[:i]...)...))
		if err != nil {
			return false, err
		}
		if m := verdict(rules, parts, isDir); m != gitignore.NoMatch {
			return m == gitignore.Exclude, nil
		}
	}
	standard := standardRules()
	if verdict(standard.vcs, parts, isDir) == gitignore.Exclude {
		return true, nil
	}
	if len(v.spec) > 0 || verdict(standard.defaults, parts, isDir) != gitignore.Exclude {
		return false, nil
	}
	found, err := v.hasRules(".")
	return !found, err
}

// visible says whether a path is part of the snapshot: a file that is not excluded, a folder that is not excluded
// or that holds a visible file.
func (v *view) visible(name string, isDir bool) (bool, error) {
	v.mu.Lock()
	shown, ok := v.shown[name]
	v.mu.Unlock()
	if ok || v.src.Whole && len(v.only) == 0 {
		return shown || !ok, nil
	}
	out, err := v.excluded(name, isDir)
	shown = !out
	if out && isDir && err == nil {
		shown, err = v.holdsVisible(name)
	}
	if err != nil {
		return false, err
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	v.shown[name] = shown
	return shown, nil
}

// holdsVisible looks for a visible file in an excluded folder, if a rule could include one.
func (v *view) holdsVisible(dir string) (bool, error) {
	if !v.checkedOut(dir) {
		if !v.leadsToSparse(dir) {
			return false, nil
		}
	} else if below, err := v.hasRules(dir); err != nil {
		return false, err
	} else if !below {
		if reached, err := v.reached(split(dir)); err != nil || !reached {
			return false, err
		}
	}
	entries, err := v.tree.ReadDir(dir)
	if err != nil {
		return false, err
	}
	if err := v.spend(dir, len(entries)); err != nil {
		return false, err
	}
	for _, e := range entries {
		if ok, err := v.visible(path.Join(dir, e.Name()), e.IsDir()); ok || err != nil {
			return ok, err
		}
	}
	return false, nil
}

// spend counts what is looked at in an excluded folder: a tree can be made to be endless.
func (v *view) spend(dir string, entries int) error {
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.hidden += entries; v.hidden > maxVisited {
		return fmt.Errorf("look for included files in the excluded folder '%s': %w: more than %d", dir, git.ErrTooMany, maxVisited)
	}
	return nil
}

// reached says whether an including rule, from above a folder, could match something below it.
func (v *view) reached(folder []string) (bool, error) {
	sets := [][]rule{v.spec}
	for i := range folder {
		rules, err := v.folderRules(path.Join(append([]string{"."}, folder[:i]...)...))
		if err != nil {
			return false, err
		}
		sets = append(sets, rules)
	}
	for _, set := range sets {
		for _, r := range set {
			if r.include && r.reaches(folder) {
				return true, nil
			}
		}
	}
	return false, nil
}

// check fails with fs.ErrNotExist for a path that is not part of the snapshot: neither by the name it is asked for
// nor by the one it really has, behind symbolic links.
func (v *view) check(op, name string) error {
	real, isDir, err := v.tree.Real(name)
	if err != nil {
		return err
	}
	ok, err := v.visible(real, isDir)
	if ok && err == nil && real != name {
		ok, err = v.visible(name, isDir)
	}
	if err == nil && !ok {
		err = fs.ErrNotExist
	}
	return pathError(op, name, err)
}

// checkLink does what check does for a path whose last element is not followed.
func (v *view) checkLink(op, name string) error {
	info, err := v.tree.Lstat(name)
	if err != nil {
		return err
	}
	ok, err := v.visible(name, info.IsDir())
	if err == nil && !ok {
		err = fs.ErrNotExist
	}
	return pathError(op, name, err)
}

// pathError adds the path to an error that has none.
func pathError(op, name string, err error) error {
	var pe *fs.PathError
	if err == nil || errors.As(err, &pe) {
		return err
	}
	return &fs.PathError{Op: op, Path: name, Err: err}
}

// Identify gives the id and the type of what stands at a path, whether or not it is left out. No link is followed.
func (v *view) Identify(name string) (git.ObjectID, fs.FileMode, error) { return v.tree.Identify(name) }

// Find is [view.Identify] for what is part of the snapshot: Lstat without the size.
func (v *view) Find(name string) (git.ObjectID, fs.FileMode, error) {
	id, mode, err := v.tree.Identify(name)
	if err != nil {
		return id, mode, err
	}
	ok, err := v.visible(name, mode.IsDir())
	if err == nil && !ok {
		err = fs.ErrNotExist
	}
	return id, mode, err
}

// Open opens a file or a folder.
func (v *view) Open(name string) (fs.File, error) {
	if err := v.check("open", name); err != nil {
		return nil, err
	}
	f, err := v.tree.Open(name)
	if err != nil {
		return nil, err
	}
	if info, err := f.Stat(); err == nil && info.IsDir() {
		return &folder{File: f, list: v.ReadDir, name: name}, nil
	}
	return f, nil
}

// ReadFile returns the content of a file.
func (v *view) ReadFile(name string) ([]byte, error) {
	if err := v.check("open", name); err != nil {
		return nil, err
	}
	return v.tree.ReadFile(name)
}

// ReadAtMost is [view.ReadFile] with a limit of its own in bytes.
func (v *view) ReadAtMost(name string, limit int64) ([]byte, error) {
	if err := v.check("open", name); err != nil {
		return nil, err
	}
	return v.tree.ReadAtMost(name, limit)
}

// Stat describes a path, following symbolic links.
func (v *view) Stat(name string) (fs.FileInfo, error) {
	if err := v.check("stat", name); err != nil {
		return nil, err
	}
	return v.tree.Stat(name)
}

// Lstat describes a path; a symbolic link itself, not what it points to.
func (v *view) Lstat(name string) (fs.FileInfo, error) {
	if err := v.checkLink("lstat", name); err != nil {
		return nil, err
	}
	return v.tree.Lstat(name)
}

// ReadLink returns the target of a symbolic link.
func (v *view) ReadLink(name string) (string, error) {
	if err := v.checkLink("readlink", name); err != nil {
		return "", err
	}
	return v.tree.ReadLink(name)
}

// ReadDir lists the visible entries of a folder, sorted by name.
func (v *view) ReadDir(name string) ([]fs.DirEntry, error) {
	if err := v.check("readdir", name); err != nil {
		return nil, err
	}
	entries, err := v.tree.ReadDir(name)
	if err != nil {
		return nil, err
	}
	real, _, err := v.tree.Real(name)
	if err != nil {
		return nil, err
	}
	shown := entries[:0]
	for _, e := range entries {
		ok, err := v.visible(path.Join(real, e.Name()), e.IsDir())
		if err == nil && ok && real != name {
			ok, err = v.visible(path.Join(name, e.Name()), e.IsDir())
		}
		if err != nil {
			return nil, pathError("readdir", name, err)
		}
		if ok {
			shown = append(shown, e)
		}
	}
	return shown, nil
}
