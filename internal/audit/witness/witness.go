// Package witness keeps signed checkpoints of the audit in a second place: a ref of a Git repository, a commit for each.
//
//	key, err := witness.OpenKey(filepath.Join(dir, "audit.key"))
//	err = witness.Push(ctx, repo, signed)            // checkpoint.json on refs/keelson/audit
//	err = witness.Each(ctx, repo, look)              // one after the other, the newest first
//	err = witness.EachFrom(ctx, "https://backup.example/audit.git", look)
//
// A witness on the same disk shows what somebody has done who could write the database only. Who fetches the ref to another machine from time
// to time has one that shows more.
package witness

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"keelson.dev/keelson/internal/audit"
	"keelson.dev/keelson/internal/git"
	"keelson.dev/keelson/internal/redact"
)

const (
	// Ref is what names the newest checkpoint.
	Ref = "refs/keelson/audit"
	// Repository is the name of the repository on the instance's Git host.
	Repository = "keelson/audit"

	checkpointFile = "checkpoint.json"
	keyFile        = "key.pub"
	// maxCheckpoints bounds how many are read: some twenty years, where there is one every thirty seconds, a million a year.
	maxCheckpoints = 20_000_000
)

// Push appends a checkpoint.
func Push(ctx context.Context, repo *git.Repository, s audit.Signed) error {
	text, err := s.MarshalJSON()
	if err != nil {
		return fmt.Errorf("witness: %w", err)
	}
	base, err := repo.Resolve(Ref)
	if err != nil && !errors.Is(err, git.ErrUnknownRef) {
		return fmt.Errorf("witness: %w", err)
	}
	files, err := git.TreeOf(map[string]git.File{
		checkpointFile: {Data: append(text, '\n')},
		keyFile:        {Data: []byte(audit.FormatKey(s.Key) + "\n")},
	}, s.Time)
	if err != nil {
		return fmt.Errorf("witness: %w", err)
	}
	_, err = repo.Commit(ctx, git.Change{
		Ref: Ref, Base: base, Files: files,
		Message: fmt.Sprintf("Audit up to record %d\n", s.Checkpoint.Seq),
		Author:  git.Signature{Name: "Keelson", Email: "keelson@localhost", When: s.Time},
	})
	if err != nil {
		return fmt.Errorf("witness: %w", err)
	}
	return nil
}

// Each calls f with each checkpoint of a repository, the newest first, and holds none of them; a repository without such a ref has none. What was changed is
// for [audit.NewVerifier] to find; what is no checkpoint at all is an error.
func Each(ctx context.Context, repo *git.Repository, f func(audit.Found) error) error {
	id, err := repo.Resolve(Ref)
	if errors.Is(err, git.ErrUnknownRef) {
		return nil
	}
	for n := 0; err == nil && id != ""; n++ {
		if err = ctx.Err(); err != nil {
			break
		}
		if n >= maxCheckpoints {
			err = fmt.Errorf("it has more than %d checkpoints", maxCheckpoints)
			break
		}
		var s audit.Signed
		var parent string
		if s, parent, err = readCommit(repo, id); err != nil {
			err = fmt.Errorf("commit %.12s: %w", id, err)
			break
		}
		if err := f(audit.Found{Signed: s, Where: "the witness"}); err != nil {
			return err
		}
		id = parent
	}
	if err != nil {
		return fmt.Errorf("read the witness %s: %w", repo.Dir(), err)
	}
	return nil
}

// Read is [Each] for who wants all checkpoints at once, the oldest first.
func Read(ctx context.Context, repo *git.Repository) ([]audit.Found, error) {
	return all(func(f func(audit.Found) error) error { return Each(ctx, repo, f) })
}

// all collects checkpoints that come the newest first.
func all(each func(func(audit.Found) error) error) (found []audit.Found, err error) {
	err = each(func(c audit.Found) error { found = append(found, c); return nil })
	if err != nil {
		return nil, err
	}
	slices.Reverse(found)
	return found, nil
}

// Last gives the newest checkpoint of a repository; false: there is none.
func Last(repo *git.Repository) (s audit.Signed, there bool, err error) {
	id, err := repo.Resolve(Ref)
	if errors.Is(err, git.ErrUnknownRef) {
		return s, false, nil
	}
	if err == nil {
		s, _, err = readCommit(repo, id)
	}
	return s, err == nil, err
}

func readCommit(repo *git.Repository, id string) (s audit.Signed, parent string, err error) {
	info, err := repo.Info(id)
	if err != nil {
		return s, "", err
	}
	if len(info.Parents) > 0 {
		parent = info.Parents[0]
	}
	tree, err := repo.Tree(id)
	if err != nil {
		return s, "", err
	}
	text, err := tree.ReadFile(checkpointFile)
	if err != nil {
		return s, "", err
	}
	s, err = audit.ParseSigned([]byte(strings.TrimSpace(string(text))))
	return s, parent, err
}

// maxWitness bounds what is fetched of a witness, in bytes.
const maxWitness = 1 << 30

// ReadFrom is [Read] of a repository as [EachFrom] takes it.
func ReadFrom(ctx context.Context, place string) ([]audit.Found, error) {
	return all(func(f func(audit.Found) error) error { return EachFrom(ctx, place, f) })
}

// EachFrom is [Each] of a repository that is named by its folder or its URL, which may have userinfo.
func EachFrom(ctx context.Context, place string, f func(audit.Found) error) error {
	u, err := url.Parse(place)
	if err != nil || u.Scheme == "" || u.Host == "" {
		return eachOfFolder(ctx, place, f)
	}
	dir, err := os.MkdirTemp("", "keelson-witness-*")
	if err != nil {
		return fmt.Errorf("read the witness: %w", err)
	}
	defer os.RemoveAll(dir)
	repo, err := git.Init(ctx, dir, "main", git.Options{})
	if err != nil {
		return fmt.Errorf("read the witness: %w", err)
	}
	defer repo.Close()
	remote := git.Remote{}
	if u.User != nil {
		remote.Auth.Username = u.User.Username()
		remote.Auth.Password, _ = u.User.Password()
		u.User = nil
	}
	remote.URL = u.String()
	if err := repo.Fetch(ctx, remote, git.FetchOptions{Refspecs: []string{"+" + Ref + ":" + Ref}, Check: true, MaxPack: maxWitness}); err != nil {
		return fmt.Errorf("read the witness %s: %w", redact.URL(place), err)
	}
	return Each(ctx, repo, f)
}

func eachOfFolder(ctx context.Context, dir string, f func(audit.Found) error) error {
	if inside := filepath.Join(dir, ".git"); isDir(inside) { // of a clone
		dir = inside
	}
	repo, err := git.Open(dir, git.Options{})
	if err != nil {
		return fmt.Errorf("read the witness: %w", err)
	}
	defer repo.Close()
	return Each(ctx, repo, f)
}

func isDir(path string) bool {
	info, err := os.Stat(path)
	return err == nil && info.IsDir()
}

// keyBlock is the PEM block of a key, as other programs have it too.
const keyBlock = "PRIVATE KEY"

// OpenKey reads the key in a file, or makes the file with a new key. Only its owner may read it. Checkpoints are signed with it, so it does not
// belong where the database is copied to.
func OpenKey(file string) (ed25519.PrivateKey, error) {
	key, err := ReadKey(file)
	if !errors.Is(err, fs.ErrNotExist) {
		return key, err
	}
	if err := makeKey(file); err != nil && !errors.Is(err, fs.ErrExist) { // another process has been faster
		return nil, fmt.Errorf("audit: make a key: %w", err)
	}
	return ReadKey(file)
}

// makeKey writes a new key aside and links it to its place, so that a file that is there is whole and never replaced.
func makeKey(file string) error {
	if err := os.MkdirAll(filepath.Dir(file), 0o700); err != nil {
		return err
	}
	_, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return err
	}
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return err
	}
	f, err := os.CreateTemp(filepath.Dir(file), ".key-") // 0600
	if err != nil {
		return err
	}
	defer os.Remove(f.Name())
	err = pem.Encode(f, &pem.Block{Type: keyBlock, Bytes: der})
	if err := errors.Join(err, f.Sync(), f.Close()); err != nil {
		return err
	}
	return os.Link(f.Name(), file)
}

// maxKey bounds what is read of a key, in bytes.
const maxKey = 4 << 10

// ReadKey reads the key in a file; the error is [fs.ErrNotExist] where there is none.
func ReadKey(file string) (ed25519.PrivateKey, error) {
	f, err := os.Open(file)
	if err != nil {
		return nil, fmt.Errorf("audit: read the key: %w", err)
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, fmt.Errorf("audit: read the key: %w", err)
	}
	if mode := info.Mode().Perm(); mode&0o077 != 0 {
		return nil, fmt.Errorf("audit: the key in %s can be read by others (mode %04o): chmod 600 %[1]s", file, mode)
	}
	text, err := io.ReadAll(io.LimitReader(f, maxKey))
	if err != nil {
		return nil, fmt.Errorf("audit: read the key: %w", err)
	}
	block, _ := pem.Decode(text)
	if block == nil || block.Type != keyBlock {
		return nil, fmt.Errorf("audit: %s is no key: it should be PEM (PKCS #8, ed25519); put back the file from where you keep a copy", file)
	}
	parsed, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	key, ok := parsed.(ed25519.PrivateKey)
	if err != nil || !ok {
		return nil, fmt.Errorf("audit: %s is no key of ed25519; put back the file from where you keep a copy", file)
	}
	return key, nil
}
