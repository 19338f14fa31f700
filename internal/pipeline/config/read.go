package config

import (
	"bytes"
	"fmt"
	"slices"
	"strings"

	"keelson.dev/keelson/internal/pipeline"
)

// Read makes one tree of the files of a configuration: in each file the inputs are put in place, then its includes are merged below
// it; in the whole, extends and then references are resolved. The tree holds what could be made of the files even if there are
// errors; the Document is nil where there is nothing at all.
func Read(o Options) (*Document, pipeline.Problems) {
	if o.Path == "" {
		o.Path = ".gitlab-ci.yml"
	}
	r := &reader{o: o, parsed: map[string]*parsedFile{}, reported: map[string]bool{}, locals: map[string]bool{}}
	first := &frame{source: Source{Name: o.Path, Text: o.Text}}
	r.files = append(r.files, pipeline.File{Name: o.Path, Size: len(o.Text)})
	root := r.file(first, r.inputs(o.Inputs))
	if root == nil {
		return nil, sortProblems(r.problems, r.files)
	}
	report := r.report
	if r.incomplete {
		report = func(p pipeline.Problem) {
			if p.Code == "unknown-extends" || p.Code == "reference-not-found" {
				p.Hint = hintIncomplete
			}
			r.report(p)
		}
	}
	root, lacking := extend(root, report)
	root = resolve(root, report)
	return &Document{Root: root, Files: r.files, Spec: r.spec, Incomplete: r.incomplete, lacking: lacking}, sortProblems(r.problems, r.files)
}

// hintIncomplete is for what is missing while an include is missing.
const hintIncomplete = "it may be in an include that could not be read"

// The bounds of a configuration.
const (
	maxIncludes  = 150      // GitLab's ci_max_includes
	maxTotalSize = 64 << 20 // bytes of all files, as often as they are included
)

// reader reads the files of one configuration.
type reader struct {
	o          Options
	problems   pipeline.Problems
	reported   map[string]bool // problems that are there, by place and text
	files      []pipeline.File
	spec       []pipeline.InputSpec // of the first file
	parsed     map[string]*parsedFile
	locals     map[string]bool // local files that are included, which wildcards leave out
	includes   int
	bytes      int
	nodes      int
	stopped    bool               // a bound was met: no more files are read
	incomplete bool               // a file is missing, and what is in it
	sorted     pipeline.Variables // those of the options, with those that they refer to in place
}

type parsedFile struct {
	text []byte
	docs []*Node
	ok   bool
}

// frame is a file that is being read, within the one that includes it.
type frame struct {
	source    Source
	kind      string // of its include: local, project …; "": the first file
	component map[string]string
	inputs    string         // what it is given, for telling a loop
	via       []pipeline.Via // how it is included, the first file's include first
	at        pipeline.Position
	up        *frame
}

func (r *reader) report(p pipeline.Problem) {
	id := p.At.String() + "\x00" + p.Code + "\x00" + p.Message
	if len(r.problems) >= maxProblems || r.reported[id] && p.At.Line > 0 {
		return
	}
	r.reported[id] = true
	r.problems = append(r.problems, p)
}

// in reports problems of a file with the includes that lead to it.
func (r *reader) in(f *frame) func(pipeline.Problem) {
	if len(f.via) == 0 {
		return r.report
	}
	return func(p pipeline.Problem) {
		p.Via = join(f.via, p.Via)
		r.report(p)
	}
}

func (r *reader) fail(f *frame, at pipeline.Position, code, hint, message string, args ...any) {
	r.in(f)(pipeline.Problem{Severity: pipeline.Error, Code: code, Message: fmt.Sprintf(message, args...), Hint: hint, At: at})
}

// lose fails for an include that cannot be read, so that what is in it is missing.
func (r *reader) lose(f *frame, at pipeline.Position, code, hint, message string, args ...any) {
	r.incomplete = true
	r.fail(f, at, code, hint, message, args...)
}

func (r *reader) warn(f *frame, at pipeline.Position, code, hint, message string, args ...any) {
	r.in(f)(pipeline.Problem{Severity: pipeline.Warning, Code: code, Message: fmt.Sprintf(message, args...), Hint: hint, At: at})
}

// inputs are those that a person gives, in the order of their names.
func (r *reader) inputs(values map[string]pipeline.Input) given {
	g := given{at: map[string]pipeline.Position{}, person: true}
	for name, input := range values {
		if g.values == nil {
			g.values = map[string]*Node{}
		}
		g.names = append(g.names, name)
		g.values[name], g.at[name] = fromPlain(input.Value, input.At), input.At
	}
	slices.Sort(g.names)
	return g
}

// file gives what a file comes to with its inputs and includes; nil: there is nothing in it that can be used, which is reported.
func (r *reader) file(f *frame, g given) *Node {
	docs, ok := r.parse(f)
	if !ok {
		r.incomplete = true
		return nil
	}
	if len(docs) == 0 {
		if f.up == nil {
			r.fail(f, pipeline.Position{File: f.source.Name, Line: 1, Column: 1}, "empty-file", "add a job with a script", "Please provide content of .gitlab-ci.yml")
		} else {
			r.fail(f.up, f.at, "empty-file", "", "Included file `%s` is empty!", f.source.Name)
		}
		return nil
	}
	content := docs[0]
	hasSpec := len(docs) > 1 && docs[0].Get("spec") != nil
	last := 0
	if hasSpec {
		content, last = docs[1], 1
	}
	if len(docs) > last+1 {
		hint := "a file has one document, and one with `spec` before it"
		r.warn(f, docs[last+1].At, "ignored-document", hint, "document %d of the file is ignored", last+2)
	}
	if content.Kind != Map {
		r.lose(f, content.At, "invalid-format", "write `name:` and below it the keywords of a job", "Invalid configuration format: the file is not a map")
		return nil
	}
	if n := content.Get("spec"); n.Get("inputs") != nil && n.Get("script") == nil {
		r.fail(f, n.At, "invalid-spec", "write a line `---` after it", "`spec` has to be a document of its own, before the rest of the file")
		content = without(content, "spec")
	}
	content = r.interpolate(f, g, docs[0], content, hasSpec)
	return r.include(f, content)
}

// parse reads the documents of a file, each file once.
func (r *reader) parse(f *frame) ([]*Node, bool) {
	known := r.parsed[f.source.Name]
	if known == nil || !bytes.Equal(known.text, f.source.Text) {
		docs, problems := parse(f.source.Name, f.source.Text)
		known = &parsedFile{text: f.source.Text, docs: docs, ok: !syntaxFailed(problems)}
		r.parsed[f.source.Name] = known
		for _, p := range problems {
			r.in(f)(p)
		}
	}
	r.bytes += len(f.source.Text)
	for _, d := range known.docs {
		r.nodes += d.size
	}
	if r.bytes > maxTotalSize || r.nodes > maxNodes {
		if !r.stopped {
			r.fail(f, pipeline.Position{File: f.source.Name}, "yaml-too-large", "", "Total size of combined CI/CD configuration is too big: the limits are %d bytes and %d values",
				maxTotalSize, maxNodes)
		}
		r.stopped = true
		return nil, false
	}
	return known.docs, known.ok
}

// syntaxFailed tells whether a file could not be read as a whole, so that its documents are not what it says.
func syntaxFailed(ps pipeline.Problems) bool {
	return slices.ContainsFunc(ps, func(p pipeline.Problem) bool {
		switch p.Code {
		case "yaml-syntax", "yaml-encoding", "yaml-too-large", "yaml-too-deep":
			return true
		}
		return p.Code == "yaml-alias" && strings.HasPrefix(p.Message, "Unknown alias")
	})
}

// interpolate puts inputs in place. Only a file with a header has them.
func (r *reader) interpolate(f *frame, g given, header, content *Node, hasSpec bool) *Node {
	if !hasSpec {
		if len(g.names) > 0 {
			at := f.at
			if f.up == nil || at.Line == 0 {
				at = g.at[g.names[0]]
			}
			where := f
			if f.up != nil {
				where = f.up
			}
			r.fail(where, at, "invalid-input", fmt.Sprintf("declare `%s` in spec:inputs of %s", g.names[0], f.source.Name),
				"Given inputs not defined in the `spec` section of the included configuration file")
		}
		r.literalBlock(f, content)
		return content
	}
	decoder := &specReader{report: r.in(f)}
	s := decoder.header(header)
	if !s.include.IsNull() {
		s.inputs = r.headerIncludes(f, decoder, s)
	}
	if f.up == nil {
		for _, i := range s.inputs {
			r.spec = append(r.spec, i.published())
		}
	}
	at := f.at
	if f.up == nil {
		at = header.At
	}
	where := f
	if f.up != nil {
		where = f.up
	}
	component := map[string]string{}
	for _, name := range s.component {
		if value, ok := f.component[name]; ok {
			component[name] = value
		}
	}
	ip := &interpolator{inputs: bind(s.inputs, g, at, r.in(where)), component: component, variables: r.o.Variables, report: r.in(f), blocks: map[string]block{}}
	content = ip.tree(content)
	r.nodes += content.size
	if content.depth > maxDepth || r.nodes > maxNodes {
		r.fail(f, content.At, "yaml-too-large", "", "config too large: with its inputs it has more than %d values, or more than %d within each other", maxNodes, maxDepth)
		r.stopped = true
		return &Node{Kind: Map, At: content.At, size: 1, depth: 1}
	}
	return content
}

// literalBlock warns of an input that nobody replaces.
func (r *reader) literalBlock(f *frame, n *Node) {
	if !n.blocks {
		return
	}
	for _, p := range n.Pairs {
		if p.Value.blocks {
			r.literalBlock(f, p.Value)
			return
		}
	}
	for _, item := range n.Items {
		if item.blocks {
			r.literalBlock(f, item)
			return
		}
	}
	if m := blockPattern().FindStringSubmatch(n.Text); m != nil && strings.HasPrefix(m[1], "inputs.") {
		r.warn(f, n.At, "literal-interpolation", "begin the file with `spec: {inputs: …}` and a line `---`", "%s stays as it is: the file has no spec:inputs", m[0])
	}
}
