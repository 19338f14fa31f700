package render

import (
	"bytes"
	"regexp"
	"strings"

	"sigs.k8s.io/kustomize/api/types"
)

// origins knows which file each object comes from. kustomize could tell by annotations, but that makes a build
// take half as long again, and annotations that are there only for a while can change what patches do. So
// objects are found again by kind and name, given the prefixes and suffixes that the tree may add to names.
// An object that cannot be told for certain has no origin.
type origins struct {
	pending            []manifest // not looked at yet
	prefixes, suffixes []string
	sources            map[string][]source // by kind
}

// source is where an object is declared.
type source struct {
	name, namespace, file string
	generated             bool // its name ends in a hash of its content, mostly
}

func (o *origins) add(kind string, s source) {
	if o.sources == nil {
		o.sources = map[string][]source{}
	}
	o.sources[kind] = append(o.sources[kind], s)
}

// manifest is a file with objects.
type manifest struct {
	name string
	data []byte
}

// later notes a file; its objects are looked for when somebody asks.
func (o *origins) later(file string, data []byte) {
	o.pending = append(o.pending, manifest{file, data})
}

// manifest notes the objects of a file.
func (o *origins) manifest(file string, data []byte) {
	all, ok := scanHeaders(data)
	if !ok {
		all = headers(data)
	}
	for _, h := range all {
		o.add(h.kind, source{name: h.name, namespace: h.namespace, file: file})
	}
}

// kustomization notes what a kustomization generates, and how it changes names.
func (o *origins) kustomization(file string, k *types.Kustomization) {
	generator := func(kind string, g types.GeneratorArgs) {
		if b := types.NewGenerationBehavior(g.Behavior); b != types.BehaviorMerge && b != types.BehaviorReplace {
			o.add(kind, source{name: g.Name, namespace: g.Namespace, file: file, generated: true})
		}
	}
	for _, g := range k.ConfigMapGenerator {
		generator("ConfigMap", g.GeneratorArgs)
	}
	for _, g := range k.SecretGenerator {
		generator("Secret", g.GeneratorArgs)
	}
	if k.NamePrefix != "" {
		o.prefixes = append(o.prefixes, k.NamePrefix)
	}
	if k.NameSuffix != "" {
		o.suffixes = append(o.suffixes, k.NameSuffix)
	}
}

var hashSuffix = regexp.MustCompile(`-[0-9a-z]{10}$`)

// of is the file that an object in the result comes from, or the empty string.
func (o *origins) of(kind, namespace, name string) string {
	for _, m := range o.pending {
		o.manifest(m.name, m.data)
	}
	o.pending = nil
	var found []source
	for _, s := range o.sources[kind] {
		if s.name == name || s.name != "" && strings.Contains(name, s.name) && o.derives(name, s) {
			found = append(found, s)
		}
	}
	file, inNamespace := unique(found), found[:0:0]
	if file != "" {
		return file
	}
	for _, s := range found {
		if s.namespace == namespace {
			inNamespace = append(inNamespace, s)
		}
	}
	return unique(inNamespace)
}

// unique is the file that all sources are in, if they agree.
func unique(sources []source) string {
	file := ""
	for _, s := range sources {
		if file != "" && file != s.file {
			return ""
		}
		file = s.file
	}
	return file
}

// derives tells whether name is a source's name with known prefixes and suffixes, and a hash if it is generated.
func (o *origins) derives(name string, s source) bool {
	if s.generated && o.derives(hashSuffix.ReplaceAllString(name, ""), source{name: s.name}) {
		return true
	}
	for from := 0; ; {
		i := strings.Index(name[from:], s.name)
		if i < 0 {
			return false
		}
		i += from
		if made(name[:i], o.prefixes) && made(name[i+len(s.name):], o.suffixes) {
			return true
		}
		from = i + 1
	}
}

// made tells whether text is put together from parts.
func made(text string, parts []string) bool {
	reached := make([]bool, len(text)+1) // offsets up to which it is
	reached[0] = true
	for i := range text {
		for _, p := range parts {
			if reached[i] && strings.HasPrefix(text[i:], p) {
				reached[i+len(p)] = true
			}
		}
	}
	return reached[len(text)]
}

// scanHeaders reads the objects' headers from plain block YAML line by line, which is a tenth of the work of
// parsing it. It is not ok where that could miss anything.
func scanHeaders(data []byte) (all []header, ok bool) {
	var h header
	indent := -1 // of the fields in metadata; 0: in metadata, not known yet; -1: elsewhere
	flush := func() {
		if h != (header{}) {
			all = append(all, h)
		}
		h, indent = header{}, -1
	}
	for line := range bytes.Lines(data) {
		text := string(bytes.TrimRight(line, " \r\n"))
		trimmed := strings.TrimLeft(text, " ")
		depth := len(text) - len(trimmed)
		switch {
		case trimmed == "" || trimmed[0] == '#':
		case strings.HasPrefix(text, "---"):
			if flush(); text != "---" {
				return nil, false
			}
		case depth == 0:
			key, value, isField := strings.Cut(text, ":")
			value, plain := plainScalar(value)
			if indent = -1; !isField || strings.ContainsAny(key, "\"'{}[]?&*!") {
				return nil, false
			}
			switch key {
			case "apiVersion", "kind":
				if !plain || strings.HasSuffix(value, "List") {
					return nil, false
				}
				if key == "kind" {
					h.kind = value
				} else {
					h.apiVersion = value
				}
			case "metadata":
				if value != "" || !plain {
					return nil, false
				}
				indent = 0
			}
		case indent == 0:
			indent = depth
			fallthrough
		case depth == indent:
			key, value, _ := strings.Cut(trimmed, ":")
			value, plain := plainScalar(value)
			switch key {
			case "name", "namespace":
				if !plain {
					return nil, false
				}
				if key == "name" {
					h.name = value
				} else {
					h.namespace = value
				}
			case "<<":
				return nil, false
			}
		}
	}
	flush()
	return all, true
}

// plainScalar is a value on a field's line, if it is written without quotes, anchors and the like.
func plainScalar(value string) (string, bool) {
	value = strings.TrimSpace(value)
	return value, !strings.ContainsAny(value, "\"'#&*!|>{}[]%@`,?")
}
