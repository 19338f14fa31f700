package render

import (
	"errors"
	"maps"
	"path"
	"regexp"
	"slices"
	"strings"

	"keelson.dev/keelson/internal/delivery"
)

var (
	// kustomize repeats the whole way down in one line; the last folder is where it failed.
	recursion = regexp.MustCompile(`recursed (?:accumulation of|merging from) path '([^']*)': `)
	// An id as kustomize writes it: "ConfigMap.v1.[noGrp]/name.namespace".
	registeredID = regexp.MustCompile(`already registered id: ([^.\s]+)\.[^/\s]*/(\S+?)\.(\[noNs\]|[^.\s':]+)(?:$|['\s:])`)
	accumulated  = regexp.MustCompile(`(?s)^.*(?:accumulating resources|accumulateDirectory|accumulating components): `)
)

// explain makes a build's error one about the repository: which file, which line, and what is wrong there.
// What kustomize says is kept only where nothing better is found.
func (in *inspection) explain(dir, name string, err error) error {
	var f *delivery.Fault
	if errors.As(err, &f) {
		return f
	}
	if errors.Is(err, delivery.ErrEscapes) {
		return readFault(name, err)
	}
	message := strings.ReplaceAll(strings.ReplaceAll(err.Error(), mount+"/", ""), mount, ".")
	if f := in.malformed(); f != nil {
		return f
	}
	if m := registeredID.FindStringSubmatch(message); m != nil {
		if f := in.duplicated(m[1], m[2], strings.TrimSuffix(m[3], "[noNs]")); f != nil {
			return f
		}
	}
	if strings.Contains(message, "invalid schema file") {
		return fault(name, "", "openapi: the schema cannot be read")
	}
	where := name
	if all := recursion.FindAllStringSubmatchIndex(message, -1); len(all) > 0 {
		last := all[len(all)-1]
		if files := in.kustomizationFiles(path.Clean(message[last[2]:last[3]])); len(files) > 0 {
			where = files[0]
		}
		message = message[last[1]:]
	}
	message = withoutContents(accumulated.ReplaceAllString(message, ""))
	const longest = 1000
	if len(message) > longest {
		message = strings.ToValidUTF8(message[:longest], "") + "…"
	}
	return fault(where, "", "kustomize build of '%s': %s", dir, message)
}

// contents are what kustomize quotes from files and literals, which may be secret.
var contents = []*regexp.Regexp{
	regexp.MustCompile("(?s)(with config: `).*(`: )"),
	regexp.MustCompile(`(?s)(patch from \[).*(\])`),
	regexp.MustCompile(`(?s)(literal sources? \[).*(\]: )`),
	regexp.MustCompile(`(?s)(invalid literal source ).*(, expected)`),
	regexp.MustCompile(`(?s)(in object |resource:\n|from: )\{?"?(?:apiVersion|kind|metadata|data|spec)\b.*()`),
}

func withoutContents(message string) string {
	for _, quoted := range contents {
		message = quoted.ReplaceAllString(message, "${1}…${2}")
	}
	return strings.Join(strings.Fields(message), " ")
}

// malformed finds the first file among those that hold objects that is not YAML, or holds something that is
// not an object.
func (in *inspection) malformed() error {
	for _, name := range slices.Sorted(maps.Keys(in.manifests)) {
		data := in.files[name]
		if f := syntaxFault(name, data); f != nil {
			return f
		}
		for _, h := range headers(data) {
			var missing string
			switch {
			case h.kind == "" && h.apiVersion == "":
				return fault(line(name, h.line), "keep files that are not manifests elsewhere, or list what is one in a kustomization.yaml",
					"this is not a Kubernetes object: it has neither apiVersion nor kind")
			case h.kind == "":
				missing = "kind"
			case h.apiVersion == "":
				missing = "apiVersion"
			case h.name == "" && !strings.HasSuffix(h.kind, "List"):
				missing = "metadata.name"
			default:
				continue
			}
			return fault(line(name, h.line), "", "an object has no %s", missing)
		}
	}
	return nil
}

// duplicated finds the two places that define an object.
func (in *inspection) duplicated(kind, name, namespace string) error {
	var places []string
	for _, file := range slices.Sorted(maps.Keys(in.manifests)) {
		for _, h := range headers(in.files[file]) {
			if h.kind == kind && h.name == name && h.namespace == namespace {
				places = append(places, line(file, h.line))
			}
		}
	}
	what := header{kind: kind, name: name, namespace: namespace}.String()
	switch len(places) {
	case 0:
		return nil
	case 1:
		return fault(places[0], "remove one of the entries that lead to it", "%s is used twice", what)
	}
	return duplicate(what, places[0], places[1])
}
