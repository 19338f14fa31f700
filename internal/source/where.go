package source

import (
	"crypto/sha256"
	"encoding/hex"
	"net/url"
	"os"
	"path/filepath"
	"strings"
)

// MirrorDirs are where a [Fetcher] with the given folder keeps mirrors of a URL for the sources of a namespace, of all its tenants: for
// who only wants to read what is there already, and may read all of it.
func MirrorDirs(dir, namespace, raw string) []string {
	address, _, err := parseURL(raw)
	if err != nil {
		return nil
	}
	shared := mirrorPath(dir, namespace, "", address)
	// The folder's own name may hold what a pattern gives a meaning to; the name of a mirror does not.
	entries, _ := os.ReadDir(dir)
	var dirs []string
	for _, e := range entries {
		if name := e.Name(); strings.HasPrefix(name, strings.TrimSuffix(filepath.Base(shared), mirrorSuffix)) && strings.HasSuffix(name, mirrorSuffix) {
			dirs = append(dirs, filepath.Join(dir, name))
		}
	}
	return dirs
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

const mirrorSuffix = ".git"

// mirrorPath is the folder of a normalised URL's mirror for those whom the salt and the tenant name; the URL cannot be read from it.
func mirrorPath(dir, salt, tenant, address string) string {
	sum := sha256.Sum256([]byte(address + " " + salt))
	name := hex.EncodeToString(sum[:16])
	if tenant != "" {
		sum = sha256.Sum256([]byte(tenant))
		name += "-" + hex.EncodeToString(sum[:16])
	}
	return filepath.Join(dir, name+mirrorSuffix)
}
