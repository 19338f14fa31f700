package githost

import (
	"bytes"
	"net/http"
	"slices"
	"strconv"
	"strings"
)

// Push is what a push has done to a repository.
type Push struct {
	Repository string
	User       string // whose token it was; with one that is nobody's own the name that the client gave, which proves nothing
	Changes    []RefChange
	Options    []string // of git push -o, in their order
	Address    string   // of the client
	Job        int64    // that pushed, as it said itself ([JobHeader]); 0: none did
}

// JobHeader is where git tells which job it is that pushes: by the job's token. It opens nothing, and what is wrong is as good as nothing.
const JobHeader = "X-Keelson-Job"

// maxJobToken bounds what is looked at, in bytes.
const maxJobToken = 200

// job gives the job that a request says it is from; 0: from none.
func (h *Host) job(r *http.Request) int64 {
	token := r.Header.Get(JobHeader)
	if h.opts.Job == nil || token == "" || len(token) > maxJobToken {
		return 0
	}
	return h.opts.Job(token)
}

// RefChange is a ref that has changed. A commit of zeroes says that it was not there, or is not there any more.
type RefChange struct {
	Ref           string // full: refs/heads/main
	Before, After string
}

// Zero stands for no commit.
const Zero = "0000000000000000000000000000000000000000"

// Deleted tells whether the ref is gone.
func (c RefChange) Deleted() bool { return c.After == Zero }

const (
	// maxAsked bounds what is kept of the beginning of a push: some ten thousand refs.
	maxAsked = 4 << 20
	// maxOptions and maxOption bound the options of a push.
	maxOptions, maxOption = 100, 4 << 10
)

// asked reads what a push asks for out of the beginning of its body, as it passes on its way to git: a line for each ref, and where the
// client says that it sends them, the options (git's gitprotocol-pack, "Reference Update Request"). What is malformed is git's to refuse.
type asked struct {
	changes []RefChange
	options []string

	buf  []byte
	part int  // 0: refs, 1: options, 2: the rest, which is not looked at
	sent bool // the client sends options
	size int
	over bool // it asks for more than is kept
}

// Write never fails.
func (a *asked) Write(p []byte) (int, error) {
	if a.part < 2 {
		a.buf = append(a.buf, p...)
		if a.size += len(p); a.size > maxAsked {
			a.part, a.changes, a.options, a.over = 2, nil, nil, true // the refs themselves tell what has changed
		}
		for a.part < 2 && a.packet() {
		}
		if a.part == 2 {
			a.buf = nil
		}
	}
	return len(p), nil
}

// packet takes a line from what has come; false: it is not whole yet.
func (a *asked) packet() bool {
	if len(a.buf) < 4 {
		return false
	}
	n, err := strconv.ParseUint(string(a.buf[:4]), 16, 16)
	switch {
	case err != nil || n > 0 && n < 4:
		a.part = 2
		return false
	case n == 0: // the end of this part
		a.buf = a.buf[4:]
		if a.part++; a.part == 1 && !a.sent {
			a.part = 2
		}
		return true
	case len(a.buf) < int(n):
		return false
	}
	line := bytes.TrimSuffix(a.buf[4:n], []byte("\n"))
	a.buf = a.buf[n:]
	if a.part == 1 {
		if len(a.options) < maxOptions && len(line) <= maxOption {
			a.options = append(a.options, string(line))
		}
		return true
	}
	command, capabilities, _ := strings.Cut(string(line), "\x00")
	if slices.Contains(strings.Fields(capabilities), "push-options") {
		a.sent = true
	}
	fields := strings.SplitN(command, " ", 3)
	if len(fields) == 3 && len(fields[0]) == len(Zero) && len(fields[1]) == len(Zero) { // else "shallow …", or a certificate
		a.changes = append(a.changes, RefChange{Before: fields[0], After: fields[1], Ref: fields[2]})
	}
	return true
}

// done gives the changes that a push has made, of those that it asked for; where it is not known what it asked for, those that are there.
func (a *asked) done(before, after map[string]string) []RefChange {
	var out []RefChange
	for _, c := range a.changes {
		if now, there := after[c.Ref]; there && now == c.After || !there && c.Deleted() {
			if was := orZero(before[c.Ref]); was != c.After { // else somebody else has done it
				c.Before = was
				out = append(out, c)
			}
		}
	}
	if !a.over {
		return out
	}
	for ref, now := range after {
		if was := before[ref]; was != now {
			out = append(out, RefChange{Ref: ref, Before: orZero(was), After: now})
		}
	}
	for ref, was := range before {
		if _, there := after[ref]; !there {
			out = append(out, RefChange{Ref: ref, Before: was, After: Zero})
		}
	}
	slices.SortFunc(out, func(x, y RefChange) int { return strings.Compare(x.Ref, y.Ref) })
	return out
}

func orZero(commit string) string {
	if commit == "" {
		return Zero
	}
	return commit
}
