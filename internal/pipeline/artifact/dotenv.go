package artifact

import (
	"fmt"
	"strings"
	"unicode/utf16"

	"keelson.dev/keelson/internal/pipeline"
)

// Bounds of dotenv reports: a file has less than maxDotenv bytes, and GitLab takes gitLabDotenv variables unless an instance
// says otherwise ([gl] services/ci/parse_dotenv_artifact_service.rb, plan limits).
const (
	maxDotenv    = 5 << 10
	gitLabDotenv = 20
)

// DotenvError is the error of a dotenv report that is refused; the job fails. It never holds a value.
type DotenvError struct {
	File string
	Line int // 0: it is about the file
	What string
}

func (e *DotenvError) Error() string {
	at := e.File
	if e.Line > 0 {
		at = fmt.Sprintf("%s:%d", e.File, e.Line)
	}
	return fmt.Sprintf("dotenv report %s: %s", at, e.What)
}

// ParseDotenv reads a dotenv report: a variable a line, KEY=VALUE, with the space around both taken away. Of two with one name
// the later one counts. There are no comments, quotes or empty lines: GitLab refuses lines without a `=`.
func ParseDotenv(data []byte) ([]pipeline.KV, error) {
	if len(data) >= maxDotenv {
		return nil, &DotenvError{What: fmt.Sprintf("Dotenv Artifact Too Big. Maximum Allowable Size: %d bytes", maxDotenv)}
	}
	var vars []pipeline.KV
	at := map[string]int{}
	number := 0
	for line := range strings.Lines(plainText(data)) {
		number++
		key, value, ok := strings.Cut(strings.TrimSuffix(line, "\n"), "=")
		if !ok {
			what := "Invalid Format: a line has to be KEY=VALUE"
			if strings.TrimSpace(line) == "" {
				what = "Invalid Format: empty lines are not allowed, a line has to be KEY=VALUE"
			}
			return nil, &DotenvError{Line: number, What: what}
		}
		key, value = strip(key), strip(value)
		if !validName(key) {
			return nil, &DotenvError{Line: number, What: "Validation failed: Key can contain only letters, digits and '_', and has 1 to 255 of them"}
		}
		if i, there := at[key]; there {
			vars[i].Value = value
			continue
		}
		at[key] = len(vars)
		vars = append(vars, pipeline.KV{Key: key, Value: value})
	}
	return vars, nil
}

// strip takes away the space that Ruby's String#strip does, and NUL at the end.
func strip(s string) string {
	s = strings.TrimLeft(s, "\x00\t\n\v\f\r ")
	return strings.TrimRight(s, "\x00\t\n\v\f\r ")
}

func validName(key string) bool {
	if key == "" || len(key) > 255 {
		return false
	}
	return strings.Trim(key, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_") == ""
}

// plainText gives UTF-8 without a byte order mark: PowerShell writes UTF-16.
func plainText(data []byte) string {
	if len(data) >= 2 && (data[0] == 0xff && data[1] == 0xfe || data[0] == 0xfe && data[1] == 0xff) {
		big := data[0] == 0xfe
		var units []uint16
		for i := 2; i+1 < len(data); i += 2 {
			u := uint16(data[i]) | uint16(data[i+1])<<8
			if big {
				u = uint16(data[i])<<8 | uint16(data[i+1])
			}
			units = append(units, u)
		}
		return string(utf16.Decode(units))
	}
	return strings.ToValidUTF8(strings.TrimPrefix(string(data), "\ufeff"), "\ufffd")
}
