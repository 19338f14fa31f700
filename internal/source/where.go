package source

import (
	"crypto/sha256"
	"encoding/hex"
	"path/filepath"
)

// MirrorDir is where a [Fetcher] with the given folder keeps the mirror of a URL, whether or not there is one: for who only
// wants to read what is there already. It is empty for a URL that cannot be fetched.
func MirrorDir(dir, raw string) string {
	url, _, err := parseURL(raw)
	if err != nil {
		return ""
	}
	return mirrorPath(dir, url)
}

// mirrorPath is the folder of a normalised URL's mirror; the URL cannot be read from it.
func mirrorPath(dir, url string) string {
	sum := sha256.Sum256([]byte(url))
	return filepath.Join(dir, hex.EncodeToString(sum[:16])+".git")
}
