package git

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Signature says who made a commit and when.
type Signature struct {
	Name  string
	Email string
	When  time.Time
}

// CommitInfo is what a commit says about itself.
type CommitInfo struct {
	ID        string
	Tree      ObjectID
	Parents   []string // of a shallow repository they may not be there
	Author    Signature
	Committer Signature
	Message   string
}

// Subject is the first line of the message.
func (c CommitInfo) Subject() string {
	subject, _, _ := strings.Cut(strings.TrimLeft(c.Message, "\n"), "\n")
	return strings.TrimSpace(subject)
}

// HasCommit says whether the commit is in the repository.
func (r *Repository) HasCommit(id string) bool {
	_, err := r.Info(id)
	return err == nil
}

// Commits gives the ids, in order, of all commits that are here and whose ids begin with some hex digits, at least four.
func (r *Repository) Commits(ctx context.Context, begin string) ([]string, error) {
	if len(begin) < 4 || strings.Trim(begin, "0123456789abcdef") != "" {
		return nil, fmt.Errorf("%w: %q is not the beginning of a commit id", ErrUnknownRef, truncate(begin, 60))
	}
	out, err := run(ctx, command{dir: r.dir, args: []string{"rev-parse", "--disambiguate=" + begin}})
	if err != nil {
		return nil, fmt.Errorf("look for commits: %w", err)
	}
	out, err = run(ctx, command{dir: r.dir, args: []string{"cat-file", "--batch-check"}, stdin: bytes.NewReader(out)})
	if err != nil {
		return nil, fmt.Errorf("look for commits: %w", err)
	}
	var ids []string
	for line := range strings.Lines(string(out)) {
		if f := strings.Fields(line); len(f) > 1 && f[1] == "commit" { // "<id> <kind> <size>"
			ids = append(ids, f[0])
		}
	}
	slices.Sort(ids)
	return ids, nil
}

// Info reads a commit. An id that the repository does not have fails with [ErrUnknownRef].
func (r *Repository) Info(id string) (CommitInfo, error) {
	oid, err := ParseObjectID(id)
	if err != nil {
		return CommitInfo{}, fmt.Errorf("%w: %w", ErrUnknownRef, err)
	}
	_, data, err := r.read(commitKind, oid, maxObject)
	if errors.Is(err, errMissing) {
		return CommitInfo{}, fmt.Errorf("%w: commit %s is not in the repository", ErrUnknownRef, id)
	}
	if err != nil {
		return CommitInfo{}, fmt.Errorf("read commit: %w", err)
	}
	c, err := parseCommit(data)
	if err != nil {
		return CommitInfo{}, r.note(fmt.Errorf("%w: commit %s: %w", ErrCorrupt, id, err))
	}
	c.ID = id
	return c, nil
}

func parseCommit(data []byte) (CommitInfo, error) {
	var c CommitInfo
	head, message, _ := bytes.Cut(data, []byte("\n\n"))
	c.Message = string(message)
	for line := range strings.SplitSeq(string(head), "\n") {
		key, value, _ := strings.Cut(line, " ")
		switch key {
		case "tree":
			id, err := ParseObjectID(value)
			if err != nil {
				return c, errors.New("malformed tree line")
			}
			c.Tree = id
		case "parent":
			c.Parents = append(c.Parents, value)
		case "author":
			c.Author = parseSignature(value)
		case "committer":
			c.Committer = parseSignature(value)
		}
	}
	if c.Tree == (ObjectID{}) {
		return c, errors.New("no tree line")
	}
	return c, nil
}

// parseSignature reads "Name <email> 1700000000 +0100"; what is malformed stays empty.
func parseSignature(s string) Signature {
	open, end := strings.IndexByte(s, '<'), strings.LastIndexByte(s, '>')
	if open < 0 || end < open {
		return Signature{Name: strings.TrimSpace(s)}
	}
	sig := Signature{Name: strings.TrimSpace(s[:open]), Email: s[open+1 : end]}
	seconds, zone, _ := strings.Cut(strings.TrimSpace(s[end+1:]), " ")
	unix, err := strconv.ParseInt(seconds, 10, 64)
	if err != nil {
		return sig
	}
	sig.When = time.Unix(unix, 0).UTC()
	if t, err := time.Parse("-0700", zone); err == nil {
		sig.When = sig.When.In(t.Location())
	}
	return sig
}

// peel follows an annotated tag to what it tags.
func (r *Repository) peel(id ObjectID) (ObjectID, error) {
	const maxDepth = 10
	for range maxDepth {
		k, data, err := r.read(anyObject, id, maxObject)
		if err != nil {
			return id, err
		}
		if k != tagKind {
			return id, nil
		}
		line, _, _ := strings.Cut(string(data), "\n")
		if id, err = ParseObjectID(strings.TrimPrefix(line, "object ")); err != nil {
			return id, fmt.Errorf("%w: malformed tag", ErrCorrupt)
		}
	}
	return id, fmt.Errorf("%w: more than %d nested tags", ErrCorrupt, maxDepth)
}
