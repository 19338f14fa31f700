package source

import (
	"crypto/sha256"
	"encoding/hex"
	"path/filepath"
)

// MirrorDir is where a [Fetcher] with the given folder keeps the mirror of a URL for the sources of a namespace, whether or
// not there is one: for who only wants to read what is there already. It is empty for a URL that cannot be fetched.
func MirrorDir(dir, namespace, raw string) string {
	url, _, err := parseURL(raw)
	if err != nil {
		return ""
	}
	return mirrorPath(dir, namespace, url)
}

// mirrorPath is the folder of a normalised URL's mirror for those whom the salt names; the URL cannot be read from it.
func mirrorPath(dir, salt, url string) string {
	sum := sha256.Sum256([]byte(url + " " + salt))
	return filepath.Join(dir, hex.EncodeToString(sum[:16])+".git")
}
