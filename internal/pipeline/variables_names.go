package pipeline

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"math/big"
	"regexp"
	"strings"
	"sync"
	"unicode"
)

// Slug makes a text fit for host names: lower case, everything but a-z and 0-9 becomes a dash, at most 63 characters, no dash at
// either end.
func Slug(text string) string {
	slug := dashes(text)
	return strings.Trim(slug[:min(63, len(slug))], "-")
}

// RefSlug is CI_COMMIT_REF_SLUG. CI_PROJECT_PATH_SLUG and CI_JOB_NAME_SLUG are made alike.
func RefSlug(ref string) string { return Slug(ref) }

// dashes is a text in lower case with a dash for each character that is not a-z or 0-9.
func dashes(text string) string {
	var out strings.Builder
	for _, r := range strings.ToLower(text) {
		if 'a' <= r && r <= 'z' || '0' <= r && r <= '9' {
			out.WriteRune(r)
		} else {
			out.WriteByte('-')
		}
	}
	return out.String()
}

// EnvironmentSlug is CI_ENVIRONMENT_SLUG: at most 24 characters that start with a letter and do not end with a dash. A name that
// had to be changed gets a suffix of its own, so that two of them seldom meet.
func EnvironmentSlug(name string) string {
	slug := dashes(name)
	if slug == "" || slug[0] < 'a' || slug[0] > 'z' {
		slug = "env-" + slug
	}
	slug = squeeze(slug)
	if len(slug) <= 24 && slug == name {
		return strings.TrimSuffix(slug, "-")
	}
	slug = slug[:min(17, len(slug))]
	if !strings.HasSuffix(slug, "-") {
		slug += "-"
	}
	sum := sha256.Sum256([]byte(name))
	suffix := new(big.Int).SetBytes(sum[:]).Text(36)
	return slug + suffix[max(0, len(suffix)-6):]
}

var environmentName = sync.OnceValue(func() *regexp.Regexp { return regexp.MustCompile(`\A[a-zA-Z0-9_\\/${}. -]{1,255}\z`) })

// CheckEnvironmentName says why a text cannot be the name of an environment, or nothing.
func CheckEnvironmentName(name string) error {
	switch {
	case name == "":
		return errors.New("the name of the environment is empty")
	case !environmentName().MatchString(name) || strings.HasPrefix(name, "/") || strings.HasSuffix(name, "/"):
		return fmt.Errorf("`%s` is no name for an environment: only letters, digits, '-', '_', '/', '$', '{', '}', '.' and spaces, and no '/' at either end", name)
	}
	return nil
}

// squeeze makes one dash of several.
func squeeze(s string) string {
	var out strings.Builder
	for i := range len(s) {
		if s[i] != '-' || i == 0 || s[i-1] != '-' {
			out.WriteByte(s[i])
		}
	}
	return out.String()
}

// tiers are the parts of a name that tell the tier of an environment, in the order in which they are looked for.
var tiers = []struct {
	tier  string
	words []string
}{
	{"development", []string{"dev", "review", "trunk"}},
	{"testing", []string{"test", "tst", "int", "accept", "acpt", "qa", "qc", "control", "quality"}},
	{"staging", []string{"stag", "stg", "model", "modl", "pre", "demo", "non"}},
	{"production", []string{"prod", "prd", "live"}},
}

// Tier guesses the deployment tier of an environment from its name, as GitLab does: development, testing, staging, production or
// other.
func Tier(environment string) string {
	name := strings.ToLower(environment)
	for _, t := range tiers {
		for _, word := range t.words {
			if strings.Contains(name, word) {
				return t.tier
			}
		}
	}
	return "other"
}

var instance = sync.OnceValue(func() *regexp.Regexp {
	return regexp.MustCompile(`(?:[\x08\s:]+(?:\[.*\]|\d+[\s:/\\]+\d+)){1,3}\s*$`)
})

// GroupName is CI_JOB_GROUP_NAME: a job's name without what numbers its parallel instances ("test 1/3", "test: [a, b]").
func GroupName(job string) string {
	if !strings.ContainsAny(job, "\x08 :\t\n\v\f\r") {
		return job
	}
	return strings.TrimSpace(instance().ReplaceAllString(job, ""))
}

// Maskable says why a value cannot be masked in logs, or nothing. GitLab takes eight characters at least without white space; of a
// variable that is expanded only letters, digits and _+=/@:.~-.
func Maskable(value string, raw bool) error {
	if n := len([]rune(value)); n < 8 {
		return fmt.Errorf("a masked value has at least 8 characters, this one has %d", n)
	}
	for _, r := range value {
		switch {
		case unicode.IsSpace(r):
			return errors.New("a masked value has no white space")
		case !raw && (r > unicode.MaxASCII || !isWord(byte(r)) && !strings.ContainsRune("+=/@:.~-", r)):
			return fmt.Errorf("a masked value that is expanded has only letters, digits and _+=/@:.~-, and no %q: make it raw (expand: false)", r)
		}
	}
	return nil
}

// CheckName says why a name cannot be a variable's, or nothing.
func CheckName(name string) error {
	switch {
	case name == "":
		return errors.New("a variable needs a name")
	case len(name) > 255:
		return fmt.Errorf("the name of a variable has at most 255 characters, this one has %d", len(name))
	}
	for i := range len(name) {
		if !isWord(name[i]) {
			return fmt.Errorf("the name of a variable has only letters, digits and _: %q", name)
		}
	}
	return nil
}
