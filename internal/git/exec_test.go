package git

import (
	"errors"
	"testing"
)

// TestClassifyRemoteText: only git's own words say that a repository here is damaged; a remote could have a mirror thrown away.
func TestClassifyRemoteText(t *testing.T) {
	for stderr, damaged := range map[string]bool{
		"fatal: loose object 12 (stored in x) is corrupt\n":               true,
		"remote: counting\nerror: packfile x.pack does not match index\n": true,
		"fatal: remote error: is corrupt\n":                               false,
		"fatal: remote error: sorry\nfatal: loose object\n":               false,
		"remote: packfile\nremote: is corrupt\nfatal: no\n":               false,
		"remote: a\rremote: is corrupt\n":                                 false,
	} {
		if err := classify("fetch", stderr, errors.New("exit status 128")); errors.Is(err, ErrCorrupt) != damaged {
			t.Errorf("%q: %v", stderr, err)
		}
	}
}
