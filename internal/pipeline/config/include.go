package config

import (
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"io/fs"
	"path"
	"regexp"
	"slices"
	"strings"
	"sync"

	"keelson.dev/keelson/internal/pipeline"
)

// includeKinds are the ways in which an include names a file.
var includeKinds = []string{"local", "project", "remote", "template", "artifact", "component"}

var includeKeys = append([]string{"file", "ref", "integrity", "cache", "inputs", "job", "rules"}, includeKinds...)

// include merges what a file includes below it, the first include lowest.
func (r *reader) include(f *frame, content *Node) *Node {
	list, ok := content.find("include")
	if !ok {
		return content
	}
	var below *Node
	for _, entry := range entries(content.Pairs[list].Value) {
		for _, inc := range r.entry(f, entry, includeKinds) {
			for _, source := range r.sources(f, inc) {
				if r.stopped {
					break
				}
				included := r.included(f, inc, source)
				switch {
				case included == nil:
				case below == nil:
					below = merge(&Node{Kind: Map}, included)
				default:
					below = merge(below, included)
				}
			}
		}
	}
	own := without(content, "include")
	if below == nil {
		return own
	}
	return merge(below, own)
}

// without gives a map without one of its keys.
func without(n *Node, key string) *Node {
	made := &Node{Kind: Map, At: n.At, Via: n.Via, Pairs: slices.DeleteFunc(slices.Clone(n.Pairs), func(p Pair) bool { return p.Key == key })}
	made.grown()
	return made.measure()
}

func entries(n *Node) []*Node {
	switch n.Kind {
	case Null:
		return nil
	case List:
		return n.Items
	default:
		return []*Node{n}
	}
}

// inclusion is one file or wildcard that is included.
type inclusion struct {
	pipeline.Include
	kind  string
	shown string   // as messages name it, masked
	unset []string // variables in it that are not known
	given given
	way   []pipeline.Via // of the entry
}

// entry decodes one entry of include: none, where its rules say so or something is wrong with it; several for a list of files.
func (r *reader) entry(f *frame, n *Node, kinds []string) []inclusion {
	inc := inclusion{way: n.Via}
	inc.At = n.At
	switch {
	case n.Kind == Null:
		return nil
	case n.IsScalar():
		inc.Local, inc.unset = r.expand(n.Text), r.unset(n.Text)
		inc.kind = "local"
		if isURL(inc.Local) {
			inc.Local, inc.Remote, inc.kind = "", inc.Local, "remote"
		}
		inc.shown = r.o.Variables.Redact(inc.Local + inc.Remote)
		return []inclusion{inc}
	case n.Kind == Reference:
		r.lose(f, n.At, "invalid-include", "", "`!reference` cannot be used in `include`: includes are resolved before references")
		return nil
	case n.Kind != Map:
		r.lose(f, n.At, "invalid-include", "write a path, or `local:`, `project:` …", "include config should be a hash or a string")
		return nil
	}
	for _, p := range n.Pairs {
		if !slices.Contains(includeKeys, p.Key) {
			r.warn(f, p.KeyAt, "unknown-keyword", pipeline.DidYouMean(p.Key, includeKeys), "include config contains unknown keys: %s", p.Key)
		}
	}
	if !r.kind(f, n, &inc, kinds) || !r.applies(f, n) {
		return nil
	}
	if c := n.Get("cache"); c != nil {
		r.warn(f, c.At, "no-effect", "", "`cache` of an include has no effect here: a file is read each time")
	}
	r.integrity(f, n, &inc)
	inc.given = givenBy(n.Get("inputs"))
	if v := n.Get("inputs"); v != nil && v.Kind != Map && v.Kind != Null {
		r.fail(f, v.At, "invalid-input", "", "Given inputs must be a hash")
	}
	all := []inclusion{inc}
	if inc.kind == "project" {
		all = nil
		for _, file := range entries(n.Get("file")) {
			one := inc
			one.File, one.At = r.expand(file.Text), file.At
			one.unset = append(one.unset[:len(one.unset):len(one.unset)], r.unset(file.Text)...)
			one.shown = r.o.Variables.Redact(one.File)
			if !file.IsScalar() || file.Kind == Null {
				r.lose(f, file.At, "invalid-include", "", "Included file `%s` needs to be a string", inspect(file))
				continue
			}
			all = append(all, one)
		}
	}
	return all
}

// kind finds out how an entry names its file.
func (r *reader) kind(f *frame, n *Node, inc *inclusion, kinds []string) bool {
	var found []string
	for _, kind := range kinds {
		v := n.Get(kind)
		if v.IsNull() || v.IsScalar() && v.Text == "" || kind == "project" && n.Get("file").IsNull() {
			continue
		}
		if kind == "project" && v.Kind == List && len(v.Items) > 0 { // GitLab takes the first one
			v = v.Items[0]
		}
		if !v.IsScalar() {
			r.lose(f, v.At, "invalid-include", "", "Included file `%s` needs to be a string", inspect(v))
			return false
		}
		text := r.expand(v.Text)
		inc.kind, inc.At, inc.shown = kind, v.At, r.o.Variables.Redact(text)
		*map[string]*string{"local": &inc.Local, "project": &inc.Project, "remote": &inc.Remote, "template": &inc.Template,
			"artifact": &inc.Artifact, "component": &inc.Component}[kind] = text
		inc.unset = append(inc.unset, r.unset(v.Text)...)
		found = append(found, kind)
	}
	valid := "`" + strings.Join(kinds, "`, `") + "`"
	switch {
	case len(found) == 1:
	case len(found) > 1:
		r.lose(f, n.At, "invalid-include", "make several entries of it", "Each include must use only one of: %s", valid)
		return false
	case !n.Get("project").IsNull():
		r.lose(f, n.At, "invalid-include", "add `file:`", "include config must specify the file where to fetch the config from")
		return false
	default:
		r.lose(f, n.At, "invalid-include", "", "`%s` does not have a valid subkey for include. Valid subkeys are: %s", r.o.Variables.Redact(inspect(n)), valid)
		return false
	}
	if ref := n.Get("ref"); !ref.IsNull() {
		inc.Ref = r.expand(ref.Text)
		inc.unset = append(inc.unset, r.unset(ref.Text)...)
	}
	if job := n.Get("job"); !job.IsNull() {
		inc.Job = r.expand(job.Text)
	}
	return true
}

func (r *reader) integrity(f *frame, n *Node, inc *inclusion) {
	v := n.Get("integrity")
	if v.IsNull() {
		return
	}
	hash, prefixed := strings.CutPrefix(v.Text, "sha256-")
	_, err := base64.StdEncoding.DecodeString(hash)
	switch {
	case inc.kind != "remote":
		r.fail(f, v.At, "invalid-include", "", "include config integrity can only be specified for remote includes")
	case !prefixed:
		r.fail(f, v.At, "invalid-include", "", "include config integrity hash must start with 'sha256-'")
	case err != nil:
		r.fail(f, v.At, "invalid-include", "", "include config integrity hash must be base64 encoded")
	default:
		inc.Integrity = v.Text
	}
}

// givenBy are the inputs of an include.
func givenBy(n *Node) given {
	g := given{values: map[string]*Node{}, at: map[string]pipeline.Position{}}
	if n == nil {
		return g
	}
	for _, p := range n.Pairs {
		g.names = append(g.names, p.Key)
		g.values[p.Key], g.at[p.Key] = p.Value.via(n.Via...), p.KeyAt
	}
	return g
}

// expand puts variables into a path or an address; those that are not known are nothing, as in GitLab.
func (r *reader) expand(text string) string { return r.o.Variables.ExpandServerBlank(text) }

// unset are the variables in a text that expand to nothing because they are not known.
func (r *reader) unset(text string) []string {
	var names []string
	for _, m := range variablePattern().FindAllStringSubmatch(text, -1) {
		name := m[1] + m[2] + m[3]
		if _, known := r.o.Variables.Get(name); !known {
			names = append(names, "$"+name)
		}
	}
	return names
}

var variablePattern = sync.OnceValue(func() *regexp.Regexp {
	return regexp.MustCompile(`\$([a-zA-Z_]\w*)|\$\{([a-zA-Z_]\w*)\}|%([a-zA-Z_]\w*)%`)
})

func isURL(s string) bool {
	scheme, rest, ok := strings.Cut(s, "://")
	return ok && rest != "" && slices.Contains([]string{"http", "https", "ssh", "git"}, strings.ToLower(scheme))
}

// sources reads the files of an include; none, where that fails.
func (r *reader) sources(f *frame, inc inclusion) []Source {
	if r.stopped || !r.valid(f, inc) {
		return nil
	}
	var sources []Source
	var err error
	switch {
	case inc.kind == "template":
		sources, err = r.template(f, inc)
	case r.o.Files == nil:
		err = errors.New("no files can be read here")
	default:
		inc.Include.Inputs = nil
		sources, err = r.o.Files.Read(inc.Include, f.source)
	}
	wildcard := inc.kind == "local" && strings.Contains(inc.Local, "*")
	if wildcard {
		if err == nil && len(sources) == 0 || errors.Is(err, fs.ErrNotExist) {
			r.warn(f, inc.At, "include-nothing", "", "no file matches `%s`", inc.shown)
			return nil
		}
		sources = slices.DeleteFunc(sources, func(s Source) bool { return r.locals[s.Project+"\x00"+s.SHA+"\x00"+s.Name] })
	}
	if err != nil || len(sources) == 0 && !wildcard {
		message, hint := r.missing(inc, err)
		if len(inc.unset) > 0 {
			verb := " is"
			if len(inc.unset) > 1 {
				verb = " are"
			}
			hint = strings.Join(inc.unset, " and ") + verb + " not set; includes see the variables of the project and of the event, not those of files"
		}
		r.lose(f, inc.At, "include-not-found", hint, "%s", message)
		return nil
	}
	for i := range sources {
		sources[i].Name = r.o.Variables.Redact(sources[i].Name)
	}
	return sources
}

// missing says that a file cannot be read in the words of GitLab.
func (r *reader) missing(inc inclusion, err error) (message, hint string) {
	reason := ""
	if err != nil {
		reason = r.o.Variables.Redact(err.Error())
	}
	if inc.kind == "remote" {
		return fmt.Sprintf("Remote file `%s` could not be fetched: %s", inc.shown, strings.TrimPrefix(reason, "remote file "+inc.shown+": ")), ""
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Sprintf("Included file `%s` could not be read: %s", inc.shown, reason), ""
	}
	project := r.o.Variables.Redact(inc.Project)
	switch inc.kind {
	case "local":
		return fmt.Sprintf("Local file `%s` does not exist!", inc.shown), ""
	case "project":
		return fmt.Sprintf("Project `%s` file `%s` does not exist!", project, inc.shown), reason
	case "template":
		return fmt.Sprintf("Included file `%s` is empty or does not exist!", inc.shown), templateHint(inc.shown)
	case "component":
		return fmt.Sprintf("Component '%s' - content not found", inc.shown), reason
	default:
		return fmt.Sprintf("Included file `%s` does not exist!", inc.shown), reason
	}
}

// valid checks what can be told of an include without its file.
func (r *reader) valid(f *frame, inc inclusion) bool {
	base := strings.ToLower(path.Base(inc.Local + inc.File + inc.Remote + inc.Template))
	isYAML := strings.HasSuffix(base, ".yml") && base != ".yml" || strings.HasSuffix(base, ".yaml") && base != ".yaml"
	fault, hint := "", ""
	switch inc.kind {
	case "component":
	case "artifact":
		r.lose(f, inc.At, "invalid-include", "use it in `trigger:include` of a job", "the artifact `%s` cannot be included: there is no job before the pipeline", inc.shown)
		return false
	case "local":
		if !isYAML && !strings.HasSuffix(inc.Local, "*") {
			fault = "Included file `%s` does not have YAML extension!"
		}
		if f.kind == "remote" || f.kind == "template" {
			fault = "Local file `%s` does not have project!"
		}
	case "template":
		if !strings.HasSuffix(inc.Template, templateSuffix) {
			fault, hint = "Template file `%s` is not a valid location!", templateHint(inc.shown)
		}
	case "remote":
		if !isURL(inc.Remote) {
			fault = "Remote file `%s` does not have a valid address!"
			break
		}
		fallthrough
	default:
		if !isYAML {
			fault = "Included file `%s` does not have YAML extension!"
		}
	}
	if fault != "" {
		r.lose(f, inc.At, "invalid-include", hint, fault, inc.shown)
	}
	return fault == ""
}

// included reads a file that is included, with its own includes.
func (r *reader) included(f *frame, inc inclusion, source Source) *Node {
	if r.includes++; r.includes > maxIncludes {
		r.fail(f, inc.At, "too-many-includes", "", "Maximum of %d nested includes are allowed!", maxIncludes)
		r.stopped = true
		return nil
	}
	if inc.kind == "local" {
		r.locals[source.Project+"\x00"+source.SHA+"\x00"+source.Name] = true
	}
	if inc.Integrity != "" {
		if sum := sha256.Sum256(source.Text); "sha256-"+base64.StdEncoding.EncodeToString(sum[:]) != inc.Integrity {
			r.lose(f, inc.At, "include-integrity", fmt.Sprintf("it is sha256-%s", base64.StdEncoding.EncodeToString(sum[:])), "Remote file `%s` failed integrity check!", inc.shown)
			return nil
		}
	}
	step := pipeline.Via{How: "include", Name: source.Name, At: inc.At}
	next := &frame{source: source, kind: inc.kind, component: source.Component, inputs: fingerprint(inc.given), at: inc.At, up: f,
		via: append(f.via[:len(f.via):len(f.via)], step)}
	if next.component == nil && inc.kind == "local" {
		next.component = f.component
	}
	for up := f; up != nil; up = up.up {
		if up.source.Name == source.Name && up.source.Project == source.Project && up.source.SHA == source.SHA && up.inputs == next.inputs {
			r.fail(f, inc.At, "include-loop", chain(next, up), "`%s` includes itself", source.Name)
			return nil
		}
	}
	r.files = append(r.files, pipeline.File{Name: source.Name, Size: len(source.Text), At: inc.At})
	content := r.file(next, inc.given)
	if content == nil {
		return nil
	}
	return content.via(join(inc.way, []pipeline.Via{step})...)
}

func fingerprint(g given) string {
	var b strings.Builder
	for _, name := range g.names {
		b.WriteString(name + "=" + inspect(g.values[name]) + "\x00")
	}
	return b.String()
}

// chain names the files from one to the same one again.
func chain(from, to *frame) string {
	var names []string
	for f := from; f != nil; f = f.up {
		names = append(names, f.source.Name)
		if f == to {
			break
		}
	}
	slices.Reverse(names)
	return strings.Join(names, " includes ")
}

// headerIncludes adds the inputs of the files that spec:include names, which hold nothing but inputs.
func (r *reader) headerIncludes(f *frame, decoder *specReader, s spec) []*inputSpec {
	if f.kind == "component" {
		r.fail(f, s.include.At, "invalid-include", "", "Component `%s` cannot use `spec:include`. This keyword is not supported in components", f.source.Name)
		return s.inputs
	}
	var all []*inputSpec
	for _, entry := range entries(s.include) {
		for _, inc := range r.entry(f, entry, []string{"local", "remote", "project"}) {
			for _, source := range r.sources(f, inc) {
				all = append(all, r.headerFile(f, decoder, inc, source)...)
			}
		}
	}
	all = append(all, s.inputs...)
	seen := map[string]*inputSpec{}
	for _, i := range all {
		if old := seen[i.name]; old != nil {
			r.fail(f, i.at, "invalid-spec", fmt.Sprintf("it is at %v too", old.at),
				"Duplicate input keys found: %s. Input keys must be unique across all included files and inline specifications.", i.name)
		}
		seen[i.name] = i
	}
	return all
}

func (r *reader) headerFile(f *frame, decoder *specReader, inc inclusion, source Source) []*inputSpec {
	if r.includes++; r.includes > maxIncludes {
		r.fail(f, inc.At, "too-many-includes", "", "Maximum of %d nested includes are allowed!", maxIncludes)
		r.stopped = true
		return nil
	}
	next := &frame{source: source, kind: inc.kind, at: inc.At, up: f, via: append(f.via[:len(f.via):len(f.via)], pipeline.Via{How: "include", Name: source.Name, At: inc.At})}
	r.files = append(r.files, pipeline.File{Name: source.Name, Size: len(source.Text), At: inc.At})
	docs, ok := r.parse(next)
	if !ok {
		return nil
	}
	if len(docs) == 0 || docs[0].Kind != Map {
		r.fail(f, inc.At, "invalid-format", "write `inputs:` and below it each input", "Included file `%s` does not have valid YAML syntax!", inc.shown)
		return nil
	}
	for _, p := range docs[0].Pairs {
		if p.Key != "inputs" {
			r.fail(next, p.KeyAt, "unknown-keyword", "", "Header include file `%s` contains unknown keys: %s", inc.shown, p.Key)
		}
	}
	inner := &specReader{report: r.in(next)}
	return inner.inputs(docs[0].Get("inputs"))
}
