package history

import (
	"regexp"
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"
)

const (
	maxMessage   = 64 << 10 // bytes of a message that are looked at
	maxTitle     = 300      // bytes
	maxPerson    = 200      // bytes of a name
	maxApprovers = 20
)

var (
	// GitLab and GitHub write these into the commits of their merges; GitHub adds the number to the title of a squashed one.
	gitlabMerge  = regexp.MustCompile(`(?m)^See merge request (\S+![0-9]+)\s*$`)
	githubMerge  = regexp.MustCompile(`^Merge pull request (#[0-9]+) from \S`)
	squashNumber = regexp.MustCompile(`\S \((#[0-9]+)\)$`)
	mergeTitle   = regexp.MustCompile(`^Merge (branch|pull request|tag|remote-tracking branch) `)
	trailer      = regexp.MustCompile(`^([A-Za-z0-9][A-Za-z0-9-]*):\s+(\S.*)$`)
)

// ReadCommit reads a commit's message: its title, the merge request that it came by, and who has approved that. The title of a merge commit
// is that of the merge request where the message has one. Of a very long message only the beginning and the end count.
func ReadCommit(message string) Commit {
	if len(message) > maxMessage { // the trailers are at the end
		message = message[:maxMessage/2] + "\n\n" + message[len(message)-maxMessage/2:]
	}
	message = strings.ToValidUTF8(strings.ReplaceAll(message, "\r\n", "\n"), "\uFFFD")
	lines := strings.Split(strings.Trim(message, "\n"), "\n")
	c := Commit{Title: plain(lines[0], maxTitle)}
	if m := gitlabMerge.FindStringSubmatch(message); m != nil {
		c.MergeRequest = plain(m[1], maxTitle)
	} else if m := githubMerge.FindStringSubmatch(c.Title); m != nil {
		c.MergeRequest = m[1]
	} else if m := squashNumber.FindStringSubmatch(c.Title); m != nil {
		c.MergeRequest = m[1]
	}
	if c.MergeRequest != "" && mergeTitle.MatchString(c.Title) {
		for _, line := range lines[1:] {
			if text := plain(line, maxTitle); text != "" && !gitlabMerge.MatchString(line) {
				c.Title = text
				break
			}
		}
	}
	c.Approvers = approvers(lines[1:])
	return c
}

// approvers are the people of the trailers, which are in the last paragraph; what a forge adds below it does not end it.
func approvers(lines []string) []string {
	var out []string
	for i := len(lines) - 1; i >= 0; i-- {
		line := strings.TrimSpace(lines[i])
		m := trailer.FindStringSubmatch(line)
		switch {
		case line == "", gitlabMerge.MatchString(line):
			continue
		case m == nil: // a paragraph of prose: nothing above it is a trailer
			return once(out)
		}
		switch strings.ToLower(m[1]) {
		case "approved-by", "reviewed-by":
			if who := person(m[2]); who != "" && len(out) < maxApprovers {
				out = append(out, who)
			}
		}
	}
	return once(out)
}

// once gives the people of trailers in their order, each of them once. They come in the opposite order.
func once(all []string) []string {
	var out []string
	for _, who := range slices.Backward(all) {
		if !slices.Contains(out, who) {
			out = append(out, who)
		}
	}
	return out
}

// person is the name in "Ann Bee <ann@example.com>", or what there is in its place.
func person(s string) string {
	name, _, ok := strings.Cut(s, "<")
	if name = plain(name, maxPerson); name != "" || !ok {
		return name
	}
	return plain(strings.Trim(s, "<> "), maxPerson)
}

// plain is one line of text that can be shown anywhere, cut to so many bytes.
func plain(s string, limit int) string {
	s = strings.TrimSpace(strings.Map(func(r rune) rune {
		switch {
		case r == '\t':
			return ' '
		case unicode.IsControl(r), unicode.Is(unicode.Bidi_Control, r):
			return -1
		}
		return r
	}, s))
	return cut(s, limit)
}

// cut shortens a text to at most limit bytes.
func cut(s string, limit int) string {
	if len(s) <= limit {
		return s
	}
	const more = "…"
	end := limit - len(more)
	for !utf8.RuneStart(s[end]) {
		end--
	}
	return s[:end] + more
}
