package source

import (
	"crypto/sha256"
	"encoding/hex"
	"net/url"
	"path/filepath"
	"strings"
)

// MirrorDir is where a [Fetcher] with the given folder keeps the mirror of a URL for the sources of a namespace, whether or
// not there is one: for who only wants to read what is there already. It is empty for a URL that cannot be fetched.
func MirrorDir(dir, namespace, raw string) string {
	address, _, err := parseURL(raw)
	if err != nil {
		return ""
	}
	return mirrorPath(dir, namespace, address)
}

// Host is the host of a URL, with its port; empty for a URL that cannot be fetched.
func Host(raw string) string {
	u, err := addressOf(raw)
	if err != nil {
		return ""
	}
	parsed, err := url.Parse(u)
	if err != nil {
		return ""
	}
	return parsed.Host
}

// addressOf normalises the URL of any source: of a repository, Git's or Helm's, or of an OCI artifact.
func addressOf(raw string) (string, error) {
	if !isOCI(raw) {
		raw, _, _ = strings.Cut(raw, "?")
	}
	u, _, err := parseAddress(raw)
	return u, err
}

// mirrorPath is the folder of a normalised URL's mirror for those whom the salt names; the URL cannot be read from it.
func mirrorPath(dir, salt, address string) string {
	sum := sha256.Sum256([]byte(address + " " + salt))
	return filepath.Join(dir, hex.EncodeToString(sum[:16])+".git")
}
