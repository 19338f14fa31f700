package artifact

import (
	"bytes"
	"context"
	"crypto/sha1" //nolint:gosec // the ids of Git's blobs and GitLab's cache keys are made of it
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"time"
	"unicode"

	"github.com/bmatcuk/doublestar/v4"

	gitcmd "keelson.dev/keelson/internal/git"
	"keelson.dev/keelson/internal/pipeline"
)

// Scope says whose caches they are.
type Scope struct {
	Project   string // its path: group/name
	Job, Ref  string // make the key of a cache without one
	Protected bool   // Ref is protected: such jobs share no cache with others, unless a cache says unprotect
	Pipeline  string // its id: what its jobs have left in a person's working tree may be replaced
	Index     int    // CI_PIPELINE's cache clear index: 0 until somebody clears the caches of the project
}

// What came of a cache.
const (
	CacheHit       = "hit"       // restored
	CacheMiss      = "miss"      // there is none
	CacheStored    = "stored"    // saved
	CacheUnchanged = "unchanged" // as it was, not saved again
	CacheSkipped   = "skipped"   // by policy, by when, or there are no files
	CacheFailed    = "failed"    // Err says why; the job goes on
)

// CacheResult is what came of a cache of a job.
type CacheResult struct {
	Key    string        `json:"key"`            // its key
	Used   string        `json:"used,omitempty"` // the key of the one that was restored: Key or a fallback
	Status string        `json:"status"`         // one of the constants
	Files  int           `json:"files,omitempty"`
	Size   int64         `json:"size,omitempty"` // bytes of all files
	New    int64         `json:"new,omitempty"`  // bytes that the store did not have
	Took   time.Duration `json:"took"`
	Err    error         `json:"-"`
}

// cacheRecord is what is kept of a cache beside its files.
type cacheRecord struct {
	Project string    `json:"project"`
	Key     string    `json:"key"`
	Saved   time.Time `json:"saved"`
	Archive Archive   `json:"archive"`
}

func cachePath(project, key string) string {
	return "caches/" + element(project) + "/" + element(key) + ".json"
}

func usedPath(project, key string) string { return "used/" + element(project) + "/" + element(key) }

// maxCaches is how many caches a job has at most, maxFallbacks how many fallback keys a cache.
const (
	maxCaches    = 4
	maxFallbacks = 5
)

// RestoreCaches writes the caches of a job into its project directory. That there is none, or that one cannot be extracted, is
// no error: the log and the results tell. An error is a policy that does not exist.
func (s *Store) RestoreCaches(ctx context.Context, scope Scope, caches []pipeline.Cache, w Work) ([]CacheResult, error) {
	w = w.ready()
	return s.eachCache(ctx, scope, caches, w, func(c pipeline.Cache, key string) (CacheResult, error) {
		pull, _, err := policy(c, key, w)
		if err != nil {
			return CacheResult{}, err
		}
		if !pull {
			w.printf("Not downloading cache %s due to policy", key)
			return CacheResult{Status: CacheSkipped}, nil
		}
		return s.restoreCache(ctx, scope, c, key, w), nil
	})
}

// SaveCaches keeps the caches of a job that has ended. A cache that cannot be saved does not fail the job.
func (s *Store) SaveCaches(ctx context.Context, scope Scope, caches []pipeline.Cache, w Work, succeeded bool) ([]CacheResult, error) {
	w = w.ready()
	return s.eachCache(ctx, scope, caches, w, func(c pipeline.Cache, key string) (CacheResult, error) {
		if !matches(c.When, succeeded) {
			return CacheResult{Status: CacheSkipped}, nil
		}
		_, push, err := policy(c, key, w)
		if err != nil {
			return CacheResult{}, err
		}
		if !push {
			w.printf("Not uploading cache %s due to policy", key)
			return CacheResult{Status: CacheSkipped}, nil
		}
		w.printf("Creating cache %s...", key)
		result, err := s.saveCache(ctx, scope, c, key, w)
		if err != nil {
			w.warnf("Failed to create cache %s: %v", key, err)
			return CacheResult{Status: CacheFailed, Err: err}, nil
		}
		return result, nil
	})
}

func (s *Store) eachCache(ctx context.Context, scope Scope, caches []pipeline.Cache, w Work,
	do func(c pipeline.Cache, key string) (CacheResult, error)) ([]CacheResult, error) {
	if len(caches) > maxCaches {
		return nil, fmt.Errorf("a job has %d caches at most, this one has %d", maxCaches, len(caches))
	}
	if len(caches) == 0 {
		return nil, nil
	}
	unlock, err := s.lock(ctx, false)
	if err != nil {
		return nil, err
	}
	defer unlock()
	var results []CacheResult
	for i, c := range caches {
		if len(c.Paths) == 0 && !c.Untracked {
			continue
		}
		begin := time.Now()
		key := scope.key(ctx, c, i, w)
		result, err := do(c, key)
		if err != nil {
			return results, err
		}
		result.Key, result.Took = key, time.Since(begin)
		results = append(results, result)
	}
	return results, ctx.Err()
}

// policyError is the error of a cache policy that does not exist.
type policyError struct{ policy, key string }

func (e *policyError) Error() string {
	return fmt.Sprintf("unknown cache policy %s for %s: it is pull-push, pull or push", e.policy, e.key)
}

// policy tells whether a cache is restored and saved.
func policy(c pipeline.Cache, key string, w Work) (pull, push bool, err error) {
	switch p := w.Vars.Expand(c.Policy); p {
	case "", "pull-push":
		return true, true, nil
	case "pull":
		return true, false, nil
	case "push":
		return false, true, nil
	default:
		return false, false, &policyError{policy: p, key: key}
	}
}

func (s *Store) restoreCache(ctx context.Context, scope Scope, c pipeline.Cache, key string, w Work) CacheResult {
	var failed error
	for _, k := range slices.Concat([]string{key}, scope.fallbacks(c, w)) {
		begin := time.Now()
		w.printf("Checking cache for %s...", k)
		var rec cacheRecord
		ok, err := s.getJSON(ctx, cachePath(scope.Project, k), &rec)
		if err == nil && !ok {
			w.printf("No cache for %s: miss", k)
			continue
		}
		var t *tree
		if err == nil {
			t, err = s.tree(ctx, rec.Archive)
		}
		g := s.guard(w, scope.Project, scope.Pipeline)
		if err == nil {
			err = s.extract(ctx, w, t, s.limits, g)
		}
		if err != nil {
			w.warnf("Failed to extract cache %s: %v; nothing of it was extracted", k, err)
			failed = err
			continue
		}
		w.printf("Successfully extracted cache %s: hit, %d files, %s in %s", k, rec.Archive.Files, sizeText(rec.Archive.Size), tookText(time.Since(begin)))
		err = s.use(ctx, scope.Project, k)
		if g != nil {
			err = errors.Join(err, s.saw(ctx, w, scope.Project, k, rec.Archive, g.kept))
		}
		if err != nil {
			w.warnf("%v", err)
		}
		return CacheResult{Used: k, Status: CacheHit, Files: rec.Archive.Files, Size: rec.Archive.Size}
	}
	if failed != nil {
		return CacheResult{Status: CacheFailed, Err: failed}
	}
	return CacheResult{Status: CacheMiss}
}

// use notes that a cache is used now.
func (s *Store) use(ctx context.Context, project, key string) error {
	return s.write(ctx, usedPath(project, key), []byte(s.now().UTC().Format(time.RFC3339)))
}

func (s *Store) saveCache(ctx context.Context, scope Scope, c pipeline.Cache, key string, w Work) (CacheResult, error) {
	begin := time.Now()
	root, err := os.OpenRoot(w.Dir)
	if err != nil {
		return CacheResult{}, err
	}
	defer root.Close()
	entries, err := collect(ctx, w, root, w.selection(c.Paths, nil, c.Untracked), s.limits)
	if err != nil {
		return CacheResult{}, err
	}
	if len(entries) == 0 {
		w.printf("No files to cache. %s stays as it is", key)
		return CacheResult{Status: CacheSkipped}, nil
	}
	kept, err := s.save(ctx, root, entries)
	if err != nil {
		return CacheResult{}, err
	}
	result := CacheResult{Status: CacheStored, Files: kept.Files, Size: kept.Size, New: kept.fresh}
	var old cacheRecord
	at := cachePath(scope.Project, key)
	if ok, err := s.getJSON(ctx, at, &old); err == nil && ok && old.Archive.Tree == kept.Tree {
		result.Status = CacheUnchanged
		w.printf("Archive is up to date!")
	} else if err := s.putJSON(ctx, at, cacheRecord{Project: scope.Project, Key: key, Saved: s.now().UTC().Round(0), Archive: kept}); err != nil {
		return CacheResult{}, err
	}
	if err := errors.Join(s.use(ctx, scope.Project, key), s.saw(ctx, w, scope.Project, key, kept, nil)); err != nil {
		return CacheResult{}, err
	}
	w.printf("Created cache %s: %d files, %s, %s of it new, in %s", key, kept.Files, sizeText(kept.Size), sizeText(kept.fresh), tookText(time.Since(begin)))
	return result, nil
}

// key gives the key of a job's cache as GitLab and the runner make it: its text or the digest of files, the clear index and
// whether the ref is protected; then variables are expanded and what must not be in a path is taken out.
func (s Scope) key(ctx context.Context, c pipeline.Cache, index int, w Work) string {
	base := c.Key
	switch {
	case len(c.KeyFiles) > 0:
		base = joined(prefix(c, index), filesDigest(c.KeyFiles, w))
	case len(c.KeyCommits) > 0:
		base = joined(prefix(c, index), commitsDigest(ctx, c.KeyCommits, w))
	}
	if strings.TrimSpace(w.Vars.Expand(base)) == "" {
		base = path.Join("/", s.Job, s.Ref)[1:]
	}
	return s.finish(base, c, w)
}

func (s Scope) finish(base string, c pipeline.Cache, w Work) string {
	if s.Index > 0 {
		base += fmt.Sprintf("-%d", s.Index)
	}
	if s.Protected && !c.Unprotect {
		base += "-protected"
	} else {
		base += "-non_protected"
	}
	asked := w.Vars.Expand(base)
	key := sanitizeKey(asked)
	if key != asked {
		w.warnf("cache key %q sanitized to %q", asked, key)
	}
	return key
}

// fallbacks are the keys that are tried after the first.
func (s Scope) fallbacks(c pipeline.Cache, w Work) []string {
	var keys []string
	for _, k := range c.FallbackKeys[:min(len(c.FallbackKeys), maxFallbacks)] {
		if strings.TrimSpace(w.Vars.Expand(k)) != "" {
			keys = append(keys, s.finish(k, c, w))
		}
	}
	v, _ := w.Vars.Get("CACHE_FALLBACK_KEY")
	switch key := sanitizeKey(v.Value); {
	case key == "":
	case strings.HasSuffix(key, "-protected"):
		w.warnf("CACHE_FALLBACK_KEY %q not allowed to end in %q", key, "-protected")
	default:
		keys = append(keys, key)
	}
	return keys
}

func joined(prefix, digest string) string {
	if prefix == "" {
		return digest
	}
	return prefix + "-" + digest
}

// prefix is key:prefix, or what GitLab takes without one: the cache's index and the names of its key files. Without it two
// caches of one job with the same files would have the same key.
func prefix(c pipeline.Cache, index int) string {
	if c.KeyPrefix != "" {
		return c.KeyPrefix
	}
	if len(c.KeyFiles) == 0 {
		return fmt.Sprint(index)
	}
	names := make([]string, len(c.KeyFiles))
	for i, f := range c.KeyFiles {
		names[i], _, _ = strings.Cut(f, ".")
	}
	return fmt.Sprintf("%d_%s", index, strings.Join(names, "_"))
}

// digestOf is GitLab's digest of blob or commit ids, "default" of none.
func digestOf(ids []string) string {
	slices.Sort(ids)
	ids = slices.Compact(ids)
	if len(ids) == 0 {
		return "default"
	}
	sum := sha1.Sum([]byte(strings.Join(ids, "-"))) //nolint:gosec // see the import
	return hex.EncodeToString(sum[:])
}

// filesDigest is the digest of files of the project directory, by the ids that their contents have as blobs of Git. Globs may
// match any number of them; what is not there counts for nothing.
func filesDigest(files []string, w Work) string {
	root, err := os.OpenRoot(w.Dir)
	if err != nil {
		return digestOf(nil)
	}
	defer root.Close()
	var ids []string
	add := func(at string) {
		if id, err := blobID(root, at); err == nil {
			ids = append(ids, id)
		}
	}
	for _, f := range files {
		at, err := w.relative(w.Vars.Expand(f))
		if err != nil {
			w.warnf("cache:key:files: %s %v", f, err)
			continue
		}
		if !strings.Contains(at, "*") {
			add(at)
			continue
		}
		err = doublestar.GlobWalk(root.FS(), at, func(match string, _ fs.DirEntry) error {
			if !strings.HasPrefix(match, ".git/") {
				add(match)
			}
			return nil
		}, doublestar.WithFilesOnly(), doublestar.WithNoFollow())
		if err != nil {
			w.warnf("cache:key:files: %s: %v", f, err)
		}
	}
	return digestOf(ids)
}

// blobID is what `git hash-object` says of a file.
func blobID(root *os.Root, at string) (string, error) {
	info, err := root.Lstat(at)
	if err != nil {
		return "", err
	}
	hash := sha1.New() //nolint:gosec // see the import
	switch info.Mode().Type() {
	case fs.ModeSymlink:
		target, err := root.Readlink(at)
		if err != nil {
			return "", err
		}
		fmt.Fprintf(hash, "blob %d\x00%s", len(target), target)
	case 0:
		f, err := root.Open(at)
		if err != nil {
			return "", err
		}
		defer f.Close()
		fmt.Fprintf(hash, "blob %d\x00", info.Size())
		if _, err := io.Copy(hash, io.LimitReader(f, info.Size())); err != nil {
			return "", err
		}
	default:
		return "", errors.New("it is not a file")
	}
	return hex.EncodeToString(hash.Sum(nil)), nil
}

// commitsDigest is the digest of the last commits that changed files.
func commitsDigest(ctx context.Context, files []string, w Work) string {
	var ids []string
	for _, f := range files {
		cmd := lastCommit(ctx, w, w.Vars.Expand(f))
		var stderr bytes.Buffer
		cmd.Stderr = &stderr
		out, err := cmd.Output()
		if err != nil {
			w.warnf("cache:key:files_commits: %s: git log: %s", f, firstLine(stderr.String(), err))
			continue
		}
		if id := strings.TrimSpace(string(out)); id != "" {
			ids = append(ids, id)
		}
	}
	return digestOf(ids)
}

// lastCommit asks git for the last commit that changed a file. Of a directory that is a job's own git heeds the objects and nothing that could run
// a program: no hooks, no file system monitor, no signatures, no transport to fetch objects that are missing.
func lastCommit(ctx context.Context, w Work, file string) *exec.Cmd {
	if w.InPlace {
		cmd := exec.CommandContext(ctx, "git", "-C", w.Dir, "-c", "core.fsmonitor=false", "log", "-1", "--format=%H", "--", file)
		cmd.Env = append(gitEnv(), "GIT_LITERAL_PATHSPECS=1")
		return cmd
	}
	config := [][2]string{{"core.fsmonitor", "false"}, {"log.showSignature", "false"}, {"submodule.recurse", "false"}}
	cmd := gitcmd.Process(ctx, config, "--git-dir="+filepath.Join(w.Dir, ".git"), "rev-list", "-1", "HEAD", "--", file)
	cmd.Env = append(cmd.Env, "GIT_LITERAL_PATHSPECS=1", "GIT_ALLOW_PROTOCOL=none", "GIT_NO_LAZY_FETCH=1")
	return cmd
}

// sanitizeKey makes a key a clean path that never leads upwards, as the runner does ([runner] shells/abstract.go): encoded
// slashes and dots count as such, as does a backslash; space at the end and empty last elements go.
func sanitizeKey(key string) string {
	key = strings.NewReplacer("%2f", "/", "%2F", "/", `\`, "/", "%2e", ".", "%2E", ".").Replace(key)
	key = path.Clean("/" + key)[1:]
	for key != "" {
		dir, file := path.Split(key)
		if file = strings.TrimRightFunc(file, unicode.IsSpace); file != "" && file != "." && file != ".." {
			return dir + file
		}
		key = strings.TrimSuffix(dir, "/")
	}
	return ""
}
