package appset

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"text/template"
	"text/template/parse"
	"time"
)

// renderer fills in templates. It parses each text once, and is for one goroutine.
type renderer struct {
	goTemplate bool
	options    []string
	strict     *renderer // the same, but that a key that is missing is an error
	base       *template.Template
	parsed     map[string]*template.Template
	bound      map[*parse.Tree]bool // trees that count what they do
	work       *budget
	current    *template.Template // being executed
	depth      int                // of tpl in tpl
}

// maxTplDepth is that of Argo CD.
const maxTplDepth = 3

func newRenderer(goTemplate bool, options []string, now time.Time) (*renderer, error) {
	r := &renderer{goTemplate: goTemplate, options: options, parsed: map[string]*template.Template{}, bound: map[*parse.Tree]bool{}, work: &budget{}}
	if !goTemplate {
		r.strict = r
		return r, nil
	}
	for _, o := range options {
		switch o {
		case "missingkey=default", "missingkey=invalid", "missingkey=zero", "missingkey=error":
		default:
			return nil, fmt.Errorf("%q is no option (hint: missingkey=default, missingkey=invalid, missingkey=zero or missingkey=error)", o)
		}
	}
	r.base = template.New("template").Funcs(functions(r, now)).Option(options...)
	strict := *r
	strict.parsed, strict.base = map[string]*template.Template{}, template.New("template").Funcs(functions(&strict, now)).Option("missingkey=error")
	strict.bound = map[*parse.Tree]bool{}
	r.strict, strict.strict = &strict, &strict
	return r, nil
}

// strictly fills in text; a key that p has not is an error with goTemplate.
func (r *renderer) strictly(text string, p params) (string, error) { return r.strict.text(text, p) }

// tree fills in every string of a tree, keys too, in the order of keys.
func (r *renderer) tree(v any, p params) (any, error) {
	switch v := v.(type) {
	case string:
		return r.text(v, p)
	case []any:
		out := make([]any, len(v))
		for i := range v {
			var err error
			if out[i], err = r.tree(v[i], p); err != nil {
				return nil, err
			}
		}
		return out, nil
	case map[string]any:
		out := make(map[string]any, len(v))
		for _, key := range slices.Sorted(maps.Keys(v)) {
			filled, err := r.tree(v[key], p)
			if err != nil {
				return nil, err
			}
			if key, err = r.text(key, p); err != nil {
				return nil, err
			}
			out[key] = filled
		}
		return out, nil
	}
	return v, nil
}

// text fills in one text.
func (r *renderer) text(text string, p params) (string, error) {
	if !strings.Contains(text, "{{") {
		return text, nil
	}
	if !r.goTemplate {
		return placeholders(text, p)
	}
	t, ok := r.parsed[text]
	if !ok {
		var err error
		if t, err = r.base.Clone(); err != nil {
			return "", err
		}
		if t, err = t.Parse(text); err != nil {
			return "", fmt.Errorf("failed to parse template %s: %w", shown(text), err)
		}
		r.count(t)
		r.parsed[text] = t
	}
	r.work.text = 0
	out, err := r.execute(t, p)
	if err != nil {
		return "", fmt.Errorf("failed to execute go template %s: %w", shown(text), err)
	}
	return out, nil
}

func (r *renderer) execute(t *template.Template, data any) (string, error) {
	before := r.current
	r.current = t
	defer func() { r.current = before }()
	var out limitedBuilder
	err := t.Execute(&out, data)
	return out.b.String(), err
}

// tpl is the function of that name: it fills in a text that is itself a value.
func (r *renderer) tpl(text string, data any) (string, error) {
	r.depth++
	defer func() { r.depth-- }()
	if r.depth > maxTplDepth {
		return "", fmt.Errorf("maximum recursion depth %d exceeded in tpl function", maxTplDepth)
	}
	t, err := r.current.Clone()
	if err != nil {
		return "", err
	}
	if t, err = t.New(r.current.Name()).Parse(text); err != nil {
		return "", fmt.Errorf("cannot parse template %s: %w", shown(text), err)
	}
	r.count(t)
	out, err := r.execute(t, data)
	if err != nil {
		return "", fmt.Errorf("error during tpl function execution for %s: %w", shown(text), err)
	}
	return strings.ReplaceAll(out, "<no value>", ""), nil
}

// shown is a template as a message quotes it.
func shown(text string) string {
	const most = 200
	if len(text) > most {
		text = strings.ToValidUTF8(text[:most], "") + "…"
	}
	return text
}

// limitedBuilder refuses to grow beyond maxText.
type limitedBuilder struct{ b strings.Builder }

var errTooLong = fmt.Errorf("it comes to more than %d KiB", maxText>>10)

func (l *limitedBuilder) Write(p []byte) (int, error) {
	if l.b.Len()+len(p) > maxText {
		return 0, errTooLong
	}
	return l.b.Write(p)
}

// placeholders fills in {{name}} for the names of p that are text; others are left as they are.
func placeholders(text string, p params) (string, error) {
	if !slices.ContainsFunc(strings.Split(text, "\n"), func(line string) bool {
		i := strings.Index(line, "{{")
		return i >= 0 && strings.Contains(line[i:], "}}")
	}) {
		return text, nil
	}
	var out limitedBuilder
	for {
		before, rest, open := strings.Cut(text, "{{")
		if _, err := out.Write([]byte(before)); err != nil {
			return "", err
		}
		if !open {
			return out.b.String(), nil
		}
		name, after, closed := strings.Cut(rest, "}}")
		if !closed {
			return "", errors.New("invalid template: cannot find end tag=\"}}\" in the template " + shown(text))
		}
		filled, ok := p[strings.TrimSpace(name)].(string)
		if !ok {
			filled = "{{" + name + "}}"
		}
		if _, err := out.Write([]byte(filled)); err != nil {
			return "", err
		}
		text = after
	}
}
