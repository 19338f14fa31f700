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

// mirrorFile is the file of a repository that says what it is a mirror of.
const mirrorFile = "keelson-mirror"

// SetMirror notes that a repository is a mirror of another one, which is said to whoever pushes to it; an empty text: it is none any more.
func (h *Host) SetMirror(name, of string) error {
	if !h.Exists(name) {
		return fmt.Errorf("%w: %s", ErrNotFound, name)
	}
	if h.MirrorOf(name) == of {
		return nil
	}
	file := filepath.Join(h.Dir(name), mirrorFile)
	if of == "" {
		if err := os.Remove(file); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("note that %s is no mirror: %w", name, err)
		}
		return nil
	}
	if err := os.WriteFile(file+".new", []byte(of+"\n"), 0o600); err != nil {
		return fmt.Errorf("note that %s is a mirror: %w", name, err)
	}
	if err := os.Rename(file+".new", file); err != nil {
		return fmt.Errorf("note that %s is a mirror: %w", name, err)
	}
	return nil
}

// MirrorOf tells what a repository is a mirror of; empty: it is none.
func (h *Host) MirrorOf(name string) string {
	data, err := os.ReadFile(filepath.Join(h.Dir(name), mirrorFile))
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(data))
}

// readOnly refuses pushes to a mirror.
func (h *Host) readOnly(req request) error {
	if req.service != receivePack {
		return nil
	}
	if of := h.MirrorOf(req.repo); of != "" {
		return refusal{http.StatusForbidden, fmt.Sprintf("%s is a mirror of %s: push there", req.repo, of)}
	}
	return nil
}
