package source

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"net/url"
	"path"
	"slices"
	"strings"

	"github.com/go-git/go-git/v5/config"

	"keelson.dev/keelson/internal/delivery"
	"keelson.dev/keelson/internal/git"
)

const (
	modulesFile = ".gitmodules"
	// maxModulesFile bounds it in bytes; maxSubmodules and maxSubmoduleDepth bound what one commit can make us fetch.
	maxModulesFile    = 1 << 20
	maxSubmodules     = 200
	maxSubmoduleDepth = 10 // upstream's
)

// submodules lays the submodules' trees into a source's.
type submodules struct {
	f     *Fetcher
	src   delivery.Source
	root  target
	count int

	mirrors map[string]bool // that were used
}

// fill gives a tree with its submodules, and with theirs. Where is the path of the tree in the source's; from is the URL
// that relative ones are relative to.
func (s *submodules) fill(ctx context.Context, tree *git.Tree, from, where string, depth int) (*git.Tree, error) {
	text, err := tree.ReadAtMost(modulesFile, maxModulesFile)
	if errors.Is(err, fs.ErrNotExist) {
		return tree, nil
	}
	if err != nil {
		return nil, fault(s.root, "read submodules", "", err)
	}
	modules := config.NewModules()
	if err := modules.Unmarshal(text); err != nil {
		return nil, fault(s.root, "read submodules", "correct the file", fmt.Errorf("%s: %w", path.Join(where, modulesFile), err))
	}
	for _, name := range slices.Sorted(maps.Keys(modules.Submodules)) {
		m := modules.Submodules[name]
		at := path.Clean(m.Path)
		commit, ok := tree.Submodule(at)
		if !ok {
			continue // named, but not there
		}
		full := path.Join(where, at)
		if s.count++; s.count > maxSubmodules || depth > maxSubmoduleDepth {
			return nil, fault(s.root, "fetch submodule "+full, "", fmt.Errorf("a source has at most %d submodules, at most %d deep", maxSubmodules, maxSubmoduleDepth))
		}
		sub, at2, err := s.one(ctx, from, m.URL, full, commit)
		if err != nil {
			return nil, err
		}
		if sub, err = s.fill(ctx, sub, at2, full, depth+1); err != nil {
			return nil, err
		}
		if tree, err = git.Compose(ctx, tree, []git.Graft{{At: at, Tree: sub, From: "."}}); err != nil {
			return nil, fault(s.root, "lay in submodule "+full, "", err)
		}
	}
	return tree, nil
}

// one gives the tree of a submodule, and the URL that it was fetched from.
func (s *submodules) one(ctx context.Context, from, raw, full, commit string) (*git.Tree, string, error) {
	address := raw
	if strings.HasPrefix(raw, "./") || strings.HasPrefix(raw, "../") {
		base, err := url.Parse(from)
		if err != nil {
			return nil, "", fault(s.root, "fetch submodule "+full, "", errors.New("its URL is malformed"))
		}
		base.Path, base.RawPath = path.Join("/", base.Path, raw), ""
		address = base.String()
	}
	u, inURL, err := parseURL(address)
	if err != nil {
		return nil, "", fmt.Errorf("submodule %s: %w", full, err)
	}
	t := target{url: u, auth: s.auth(u, inURL), salt: s.src.ID.String()}
	src := delivery.Source{ID: s.src.ID, URL: u, Ref: delivery.GitRef{Commit: commit}, Timeout: s.src.Timeout}
	src.ID.Name += "/" + full
	rev := delivery.Revision{Commit: commit}
	var r *repository
	if s.f.opts.Local != nil {
		if dir, ok := s.f.opts.Local(u); ok {
			t.local = dir
		}
	}
	if t.local != "" {
		r, err = s.f.local(t)
	} else {
		dir := s.f.mirrorDir(t)
		if s.mirrors == nil {
			s.mirrors = map[string]bool{}
		}
		s.mirrors[dir] = true
		s.f.keepSubmodule(asker{s.root.id, s.root.url}, dir)
		r, err = s.f.mirror(ctx, t, src, rev)
	}
	var tree *git.Tree
	if err == nil {
		tree, err = r.repo.Tree(commit)
	}
	if err != nil {
		return nil, "", fault(t, "fetch submodule "+full, "", err)
	}
	return tree, u, nil
}

// auth is how a submodule's remote is reached. Credentials are for the source's own host, spoken to in the same way; others
// are asked without.
func (s *submodules) auth(address string, inURL git.Auth) git.Auth {
	own, err := url.Parse(s.root.url)
	other, err2 := url.Parse(address)
	if err == nil && err2 == nil && own.Scheme == other.Scheme && own.Host == other.Host {
		return s.root.auth
	}
	return authOf(inURL, delivery.Credentials{Proxy: s.root.auth.Proxy})
}

// keepSubmodule notes that a mirror is of a submodule of a source.
func (f *Fetcher) keepSubmodule(of asker, dir string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.subs[of] == nil {
		f.subs[of] = map[string]bool{}
	}
	f.subs[of][dir] = true
}

// onlySubmodules notes that a source needs no other mirrors of submodules than these: what it had before is let go of.
func (f *Fetcher) onlySubmodules(of asker, dirs map[string]bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.subs[of] = dirs
}
