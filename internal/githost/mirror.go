package githost

import (
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"os"
	"path/filepath"
	"strings"
)

// mirrorFile is the file of a repository that says what it is a mirror of, and in a second line who keeps it.
const mirrorFile = "keelson-mirror"

// SetMirror notes that a repository is a mirror of another one, which is said to whoever pushes to it, and who keeps it; an empty text: it is
// none any more.
func (h *Host) SetMirror(name, of, keeper string) error {
	if strings.Contains(of+keeper, "\n") {
		return fmt.Errorf("note that %s is a mirror: there is a line break in %q or %q", name, of, keeper)
	}
	if !h.Exists(name) {
		return fmt.Errorf("%w: %s", ErrNotFound, name)
	}
	if isOf, isKept := h.mirrorNote(name); isOf == of && isKept == keeper {
		return nil
	}
	file := filepath.Join(h.Dir(name), mirrorFile)
	if of == "" {
		if err := os.Remove(file); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("note that %s is no mirror: %w", name, err)
		}
		return nil
	}
	if err := os.WriteFile(file+".new", []byte(of+"\n"+keeper+"\n"), 0o600); err != nil {
		return fmt.Errorf("note that %s is a mirror: %w", name, err)
	}
	if err := os.Rename(file+".new", file); err != nil {
		return fmt.Errorf("note that %s is a mirror: %w", name, err)
	}
	return nil
}

// MirrorOf tells what a repository is a mirror of; empty: it is none.
func (h *Host) MirrorOf(name string) string {
	of, _ := h.mirrorNote(name)
	return of
}

// MirrorKeeper tells who keeps a mirror; empty: nobody has been noted.
func (h *Host) MirrorKeeper(name string) string {
	_, keeper := h.mirrorNote(name)
	return keeper
}

func (h *Host) mirrorNote(name string) (of, keeper string) {
	data, err := os.ReadFile(filepath.Join(h.Dir(name), mirrorFile))
	if err != nil {
		return "", ""
	}
	of, keeper, _ = strings.Cut(string(data), "\n")
	return strings.TrimSpace(of), strings.TrimSpace(keeper)
}

// readOnly refuses pushes to a mirror that somebody keeps, and to what only this program writes.
func (h *Host) readOnly(req request) error {
	if req.service != receivePack {
		return nil
	}
	if h.private(req.repo) {
		return refusal{http.StatusForbidden, req.repo + " is written by Keelson alone"}
	}
	if of := h.MirrorOf(req.repo); of != "" && (h.opts.Release == nil || !h.opts.Release(req.repo)) {
		return refusal{http.StatusForbidden, fmt.Sprintf("%s is a mirror of %s: push there", req.repo, of)}
	}
	return nil
}
