package history

import "strings"

// segments splits a path: "a.b[name=web].c" is a, b, name=web, c.
func segments(path string) []string {
	var out []string
	for path != "" {
		if path[0] == '[' {
			inside, rest, ok := strings.Cut(path[1:], "]")
			if ok {
				out = append(out, strings.Trim(inside, `"'`))
				path = strings.TrimPrefix(rest, ".")
				continue
			}
		}
		end := strings.IndexAny(path, ".[")
		switch {
		case end < 0:
			return append(out, path)
		case end > 0:
			out = append(out, path[:end])
		}
		path = path[max(end, 0):]
		if path[0] == '.' || end == 0 {
			path = path[1:]
		}
	}
	return out
}

// forms gives the ways in which a path may be written by a person: with what tells items of lists apart, as "containers.web.image", and
// without, as "containers.image". A dot within a key is a dot.
func forms(path string) []string {
	var named, bare []string
	for _, s := range segments(strings.TrimPrefix(path, ".")) {
		if _, value, ok := strings.Cut(s, "="); ok {
			named = append(named, strings.ToLower(value))
			continue
		}
		named = append(named, strings.ToLower(s))
		if !isPlace(s) {
			bare = append(bare, strings.ToLower(s))
		}
	}
	return []string{strings.Join(named, "."), strings.Join(bare, ".")}
}

func isPlace(s string) bool { return s != "" && strings.Trim(s, "0123456789") == "" }

// Match tells whether a field that a person names meets one that changed: it is that one, has it, or is a part of it. Items of lists may be
// named or left out: spec.template.spec.containers[name=web].image, spec.template.spec.containers.web.image and
// spec.template.spec.containers.image all are the same. A field may also be named by its end: "image", "containers.image".
func Match(asked, path string) bool {
	for _, is := range forms(path) {
		for _, want := range forms(asked) {
			if want != "" && (under(is, want) || under(want, is) || strings.Contains("."+is+".", "."+want+".")) {
				return true
			}
		}
	}
	return false
}

// under tells whether one path is the other, or leads on from it.
func under(path, parent string) bool {
	return parent != "" && (path == parent || strings.HasPrefix(path, parent+"."))
}
