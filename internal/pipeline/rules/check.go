package rules

import (
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"

	"keelson.dev/keelson/internal/pipeline"
)

const (
	// maxComparisons is GitLab's bound for paths times patterns: beyond it a condition holds.
	maxComparisons = 50_000
	// maxMatches bounds the same with each alternative of a pattern counted, which GitLab does not.
	maxMatches = 5_000_000
	// maxRegexp is GitLab's bound for changes:regexp and exists:regexp after variables are expanded, in characters.
	maxRegexp = 255
	// maxShown bounds a value that a verdict shows, in characters.
	maxShown = 200
)

// Facts is what conditions are held against.
type Facts struct {
	// Raw are the variables as if finds them: their values are not expanded.
	Raw pipeline.Variables
	// Expanded gives those that references in paths and refs take: [pipeline.Variables.Resolved] of Raw, which is also what nil
	// stands for. It is asked only where there is a reference, and perhaps several times.
	Expanded func() pipeline.Variables
	Context  *pipeline.Context // what has changed, what is there; nil: neither is known
	// Cache remembers what was parsed and matched. All that share one share the Context too. Nil: nothing is remembered.
	Cache *Cache
}

// Cache spares work where many jobs have the same conditions. Its zero value is ready. It is not for several goroutines at once.
type Cache struct {
	expressions memory[*Expression]
	since       memory[[]string] // by ref
	trees       memory[pipeline.Tree]
	searches    memory[search]
}

// memory keeps what a key came to the first time.
type memory[T any] map[string]struct {
	value T
	err   error
}

func (m *memory[T]) get(key string, first func() (T, error)) (T, error) {
	kept, ok := (*m)[key]
	if !ok {
		kept.value, kept.err = first()
		if *m == nil {
			*m = memory[T]{}
		}
		(*m)[key] = kept
	}
	return kept.value, kept.err
}

// Check holds the conditions of a rule against the facts: all that are set must hold, and a rule without any does. Verdicts has one
// entry for each, also for those after one that does not hold. No value of a masked variable is in them.
//
// An error is about a condition that cannot be decided (compare_to an unknown ref, another project that is not there); GitLab leaves
// the job out then and fails the pipeline. The condition is the last that holds up to it; of later ones errors do not count.
func Check(c pipeline.Clauses, f Facts) (holds bool, verdicts []pipeline.ClauseVerdict, err error) {
	if f.Cache == nil {
		f.Cache = &Cache{}
	}
	holds = true
	add := func(v pipeline.ClauseVerdict, problem error) {
		if problem != nil {
			v.Holds, v.Detail = false, f.Raw.Redact(problem.Error())
			if holds && err == nil {
				err = errors.New(v.Detail)
			}
		}
		holds = holds && v.Holds
		v.Detail = f.Raw.Redact(v.Detail)
		for i := range v.Values {
			v.Values[i].Value = f.shown(v.Values[i].Value)
		}
		verdicts = append(verdicts, v)
	}
	if c.If != nil {
		add(f.checkIf(*c.If), nil)
	}
	if c.Changes != nil {
		add(f.checkChanges(*c.Changes))
	}
	if c.Exists != nil {
		add(f.checkExists(*c.Exists))
	}
	return holds, verdicts, err
}

// checkIf evaluates an expression. One that is none does not hold.
func (f Facts) checkIf(text pipeline.Text) pipeline.ClauseVerdict {
	v := pipeline.ClauseVerdict{Kind: "if", Text: text.Value, At: text.At}
	e, err := f.Cache.expressions.get(text.Value, func() (*Expression, error) { return Parse(text.Value) })
	if err != nil {
		v.Detail = err.Error()
		return v
	}
	value, used := e.Evaluate(f.Raw)
	v.Values, v.Holds = used, Truth(value)
	switch value := value.(type) {
	case bool:
		v.Detail = fmt.Sprintf("it is %v", value)
	case nil:
		v.Detail = "it is null, which counts as false"
	case string:
		switch {
		case value == "":
			v.Detail = "it is an empty text, which counts as false"
		case !v.Holds:
			v.Detail = "it is a text of nothing but white space, which counts as false"
		default:
			v.Detail = fmt.Sprintf("it is %q, which counts as true", f.shown(value))
		}
	}
	return v
}

// checkChanges asks what has changed. What is not known counts as changed.
func (f Facts) checkChanges(c pipeline.Changes) (pipeline.ClauseVerdict, error) {
	v := pipeline.ClauseVerdict{Kind: "changes", Text: described(c.Paths, c.Regexp), At: c.At}
	expand := f.expander(&v)
	ref, against := "", ""
	paths, known := []string(nil), false
	if c.CompareTo == nil {
		if f.Context != nil {
			paths, known = f.Context.Changes, f.Context.Changes != nil
		}
	} else {
		v.Text += " (compare_to: " + c.CompareTo.Value + ")"
		ref = expand(c.CompareTo.Value)
		against = " since " + f.shown(ref)
		if f.Context != nil && f.Context.ChangesSince != nil {
			var err error
			paths, err = f.Cache.since.get(ref, func() ([]string, error) { return f.Context.ChangesSince(ref) })
			if err != nil || ref == "" {
				return v, fmt.Errorf("rules:changes:compare_to is not a valid ref: %s%s", quoted(f.shown(ref)), because(err))
			}
			known = true
		}
	}
	switch {
	case !known && c.CompareTo != nil:
		v.Holds, v.Detail = true, "there is no repository to compare with, which counts as changed"
		return v, nil
	case !known:
		v.Holds, v.Detail = true, fmt.Sprintf("no diff is known for %s, which counts as changed", f.event())
		return v, nil
	case len(paths) == 0:
		v.Detail = "nothing has changed" + against
		return v, nil
	}
	s, err := f.search(searched{kind: "rules:changes", where: ref, globs: texts(c.Paths, expand), regexp: optional(c.Regexp, expand)}, paths)
	if err != nil {
		return v, err
	}
	v.Holds, v.Detail = s.holds, s.detail(count(len(paths), "changed path")+against)
	return v, nil
}

// event names the event of which no diff is known.
func (f Facts) event() string {
	switch c := f.Context; {
	case c == nil:
		return "this event"
	case c.Tag:
		return "a tag"
	case c.Source == pipeline.SourceSchedule:
		return "a schedule"
	case c.Source == pipeline.SourcePush && strings.Trim(c.Before, "0") == "":
		return "a new branch"
	case c.Source != "":
		return "an event of source " + c.Source
	default:
		return "this event"
	}
}

// checkExists asks what is there.
func (f Facts) checkExists(e pipeline.Exists) (pipeline.ClauseVerdict, error) {
	v := pipeline.ClauseVerdict{Kind: "exists", Text: described(e.Paths, e.Regexp), At: e.At}
	expand := f.expander(&v)
	if len(e.Paths) == 0 && e.Regexp == nil {
		v.Detail = "there is no path to look for"
		return v, nil
	}
	var tree pipeline.Tree
	if f.Context != nil {
		tree = f.Context.Tree
	}
	where := ""
	if e.Project != nil {
		project, ref := expand(e.Project.Value), ""
		v.Text += " (project: " + e.Project.Value
		if where = " in " + project; e.Ref != nil {
			v.Text += ", ref: " + e.Ref.Value
			ref = expand(e.Ref.Value)
			where += "@" + ref
		}
		v.Text += ")"
		err := errors.New("no other project is known here")
		if tree != nil {
			tree, err = f.Cache.trees.get(where, func() (pipeline.Tree, error) { return f.Context.Tree.Of(project, ref) })
		}
		switch {
		case err != nil && ref != "":
			return v, fmt.Errorf("rules:exists:project %s not found or access denied, or rules:exists:ref %s is not a valid ref%s", quoted(f.shown(project)), quoted(f.shown(ref)), because(err))
		case err != nil:
			return v, fmt.Errorf("rules:exists:project %s not found or access denied%s", quoted(f.shown(project)), because(err))
		}
	}
	if tree == nil {
		v.Detail = "the files of the commit are not known"
		return v, nil
	}
	s, err := f.search(searched{kind: "rules:exists", where: where, globs: texts(e.Paths, expand), regexp: optional(e.Regexp, expand)}, tree.Paths())
	if err != nil {
		return v, err
	}
	v.Holds, v.Detail = s.holds, s.detail(count(len(tree.Paths()), "path")+where)
	return v, nil
}

// expander gives the function that expands the texts of a condition. What they refer to is noted.
func (f Facts) expander(v *pipeline.ClauseVerdict) func(string) string {
	return func(text string) string {
		names := pipeline.References(text)
		if len(names) == 0 {
			return text
		}
		var vars pipeline.Variables
		if f.Expanded != nil {
			vars = f.Expanded()
		} else {
			vars, _ = f.Raw.Resolved()
		}
		for _, name := range names {
			if !slices.ContainsFunc(v.Values, func(u pipeline.UsedValue) bool { return u.Name == name }) {
				v.Values = append(v.Values, use(name, vars))
			}
		}
		return vars.ExpandServer(text)
	}
}

// shown is a value as a verdict may show it: masked and not too long.
func (f Facts) shown(value string) string {
	value = f.Raw.Redact(value)
	if runes := []rune(value); len(runes) > maxShown {
		return string(runes[:maxShown]) + "…"
	}
	return value
}

// because adds a reason to a sentence.
func because(err error) string {
	if err == nil {
		return ""
	}
	return ": " + err.Error()
}

func quoted(text string) string { return "`" + text + "`" }

// described is a list of paths or a regular expression as written.
func described(paths []pipeline.Text, re *pipeline.Text) string {
	if re != nil {
		return "regexp: " + re.Value
	}
	values := make([]string, len(paths))
	for i, p := range paths {
		values[i] = p.Value
	}
	return strings.Join(values, ", ")
}

func texts(list []pipeline.Text, expand func(string) string) []string {
	out := make([]string, len(list))
	for i, t := range list {
		out[i] = expand(t.Value)
	}
	return out
}

func optional(t *pipeline.Text, expand func(string) string) *string {
	if t == nil {
		return nil
	}
	text := expand(t.Value)
	return &text
}

// count is a number of things.
func count(n int, thing string) string {
	if n == 1 {
		return "1 " + thing
	}
	return fmt.Sprintf("%d %ss", n, thing)
}

// searched is what a condition looks for.
type searched struct {
	kind   string   // rules:changes, rules:exists
	where  string   // which list of paths it is, where there are several of a kind
	globs  []string // with their variables expanded
	regexp *string
}

// search is what came of it.
type search struct {
	holds   bool
	by      string // the pattern that matches, as expanded
	path    string // what it matches
	tooMany string // why it was not looked for: it holds
}

// detail says what came of it, among how many paths.
func (s search) detail(among string) string {
	switch {
	case s.tooMany != "":
		return s.tooMany + ", which counts as a match"
	case s.holds:
		return fmt.Sprintf("%s matches %s", quoted(s.by), s.path)
	default:
		return "nothing matches among " + among
	}
}

// search looks for patterns in paths.
func (f Facts) search(what searched, paths []string) (search, error) {
	key := fmt.Sprintf("%s %q %q", what.kind, what.where, what.globs)
	if what.regexp != nil {
		key += fmt.Sprintf(" regexp %q", *what.regexp)
	}
	return f.Cache.searches.get(key, func() (search, error) { return what.in(paths) })
}

func (w searched) in(paths []string) (search, error) {
	switch {
	case w.regexp != nil:
		return w.byRegexp(paths)
	case w.kind == "rules:exists":
		return w.exists(paths)
	default:
		return w.changed(paths)
	}
}

// byRegexp searches paths for a regular expression, which is RE2's here and Ruby's with GitLab.
func (w searched) byRegexp(paths []string) (search, error) {
	text := *w.regexp
	if n := len([]rune(text)); n > maxRegexp {
		return search{}, fmt.Errorf("%s:regexp is too long (maximum is %d characters after variable expansion)", w.kind, maxRegexp)
	}
	if len(paths) > maxComparisons {
		return search{holds: true, tooMany: fmt.Sprintf("there are more than %d paths", maxComparisons)}, nil
	}
	re, err := regexp.Compile(lines + rubyRegexp(text))
	if err != nil {
		return search{}, fmt.Errorf("%s:regexp is not valid: %s", w.kind, strings.ReplaceAll(reason(err), lines, ""))
	}
	for _, path := range paths {
		if re.MatchString(path) {
			return search{holds: true, by: text, path: path}, nil
		}
	}
	return search{}, nil
}

// lines makes ^ and $ be about lines, as they always are in Ruby.
const lines = "(?m)"

// rubyRegexp writes what Ruby has and RE2 lacks in RE2's words: \h for a hexadecimal digit and \Z for the end.
func rubyRegexp(text string) string {
	var out strings.Builder
	for i := 0; i < len(text); i++ {
		if text[i] != '\\' || i+1 == len(text) {
			out.WriteByte(text[i])
			continue
		}
		i++
		switch text[i] {
		case 'h':
			out.WriteString(`[[:xdigit:]]`)
		case 'Z':
			out.WriteString(`(?:\n?\z)`)
		default:
			out.WriteByte('\\')
			out.WriteByte(text[i])
		}
	}
	return out.String()
}

// changed finds the first path that a pattern matches.
func (w searched) changed(paths []string) (search, error) {
	globs := unique(w.globs)
	if len(paths)*len(globs) > maxComparisons {
		return w.beyond()
	}
	return w.match(globs, paths)
}

func (w searched) beyond() (search, error) {
	return search{holds: true, tooMany: fmt.Sprintf("there are more than %d comparisons of paths with patterns", maxComparisons)}, nil
}

// match tries patterns on paths in turn.
func (w searched) match(globs, paths []string) (search, error) {
	var ready []*PathGlob
	alternatives := 0
	for _, g := range globs {
		p, err := ParseGlob(g)
		if err != nil {
			return search{}, fmt.Errorf("%s: %w", w.kind, err)
		}
		ready = append(ready, p)
		alternatives += len(p.alternatives)
	}
	if alternatives*len(paths) > maxMatches {
		return search{holds: true, tooMany: fmt.Sprintf("there are more than %d comparisons of paths with the alternatives of patterns", maxMatches)}, nil
	}
	for _, path := range paths {
		for i, p := range ready {
			if p.Match(path) {
				return search{holds: true, by: globs[i], path: path}, nil
			}
		}
	}
	return search{}, nil
}

// exists finds a path that is there. As with GitLab, patterns without a wildcard and those like **/*.go do not count as comparisons.
func (w searched) exists(paths []string) (search, error) {
	if !slices.ContainsFunc(w.globs, func(g string) bool { return strings.Contains(g, "/") || strings.Contains(g, "**") }) {
		top := make([]string, 0, len(paths))
		for _, p := range paths {
			if !strings.Contains(p, "/") {
				top = append(top, p)
			}
		}
		paths = top
	}
	var patterns []string
	for _, g := range w.globs {
		suffix := strings.TrimPrefix(g, "**/*")
		found := func(string) bool { return false }
		switch {
		case plain(g) && strings.HasSuffix(g, "/"):
			found = func(path string) bool { return strings.HasPrefix(path, g) }
		case plain(g):
			found = func(path string) bool { return path == g }
		case strings.HasPrefix(suffix, ".") && plain(suffix) && !strings.Contains(suffix, "/"):
			found = func(path string) bool { return strings.HasSuffix(path, suffix) }
		default:
			patterns = append(patterns, g)
		}
		if i := slices.IndexFunc(paths, found); i >= 0 {
			return search{holds: true, by: g, path: paths[i]}, nil
		}
	}
	if len(paths)*len(patterns) > maxComparisons {
		return w.beyond()
	}
	return w.match(patterns, paths)
}

// plain tells whether a pattern has no wildcard. Backslashes in one that has none are themselves.
func plain(glob string) bool { return !strings.ContainsAny(glob, "*?[{") }

// unique leaves out patterns that are there already.
func unique(globs []string) []string {
	seen := make(map[string]bool, len(globs))
	return slices.DeleteFunc(slices.Clone(globs), func(g string) bool {
		was := seen[g]
		seen[g] = true
		return was
	})
}
