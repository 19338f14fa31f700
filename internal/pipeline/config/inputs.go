package config

import (
	"encoding/json"
	"fmt"
	"maps"
	"math/big"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"keelson.dev/keelson/internal/pipeline"
	"keelson.dev/keelson/internal/pipeline/rules"
)

// The bounds of spec.
const (
	maxOptions     = 50
	maxDescription = 256 // characters
)

var inputTypes = []string{"array", "boolean", "number", "string"}

// inputSpec is an entry of spec:inputs.
type inputSpec struct {
	name    string
	at      pipeline.Position
	kind    string // one of inputTypes
	value   *Node  // the default; nil: there is none
	options []*Node
	listed  bool // options are given
	regex   *Node
	about   string
	rules   []inputRule
	needs   []string // the inputs that its rules look at
}

// inputRule gives an input other options and another default where a condition on inputs holds.
type inputRule struct {
	condition *rules.Expression // nil: it holds always
	options   []*Node
	value     *Node
}

// spec is the header of a file.
type spec struct {
	inputs    []*inputSpec
	component []string // values of the component that are asked for
	include   *Node
}

// specReader decodes a header.
type specReader struct {
	report func(pipeline.Problem)
}

func (r *specReader) fail(n *Node, code, hint, message string, args ...any) {
	r.report(pipeline.Problem{Severity: pipeline.Error, Code: code, Message: fmt.Sprintf(message, args...), Hint: hint, At: n.At, Via: n.Via})
}

// allow names the keys that mean nothing.
func (r *specReader) allow(n *Node, where string, keys ...string) {
	for _, p := range n.Pairs {
		if !slices.Contains(keys, p.Key) {
			r.report(pipeline.Problem{Severity: pipeline.Error, Code: "unknown-keyword", At: p.KeyAt, Via: p.Via, Hint: pipeline.DidYouMean(p.Key, keys),
				Message: fmt.Sprintf("%s config contains unknown keys: %s", where, p.Key)})
		}
	}
}

// header decodes the document with spec.
func (r *specReader) header(doc *Node) spec {
	var s spec
	r.allow(doc, "header", "spec")
	n := doc.Get("spec")
	if n.IsNull() {
		return s
	}
	if n.Kind != Map {
		r.fail(n, "invalid-spec", "write inputs below it", "header:spec config should be a hash")
		return s
	}
	r.allow(n, "header:spec", "inputs", "include", "component", "description")
	if d := n.Get("description"); !d.IsNull() && (d.Kind != String || len([]rune(d.Text)) > maxDescription) {
		r.fail(d, "invalid-spec", "", "header:spec config description should be a text of at most %d characters", maxDescription)
	}
	s.include = n.Get("include")
	s.inputs = r.inputs(n.Get("inputs"))
	s.component = r.component(n.Get("component"))
	return s
}

func (r *specReader) component(n *Node) []string {
	if n.IsNull() {
		return nil
	}
	known := []string{"name", "sha", "version", "reference"}
	if n.Kind != List {
		r.fail(n, "invalid-spec", "write a list such as [name, sha]", "header:spec:component config should be an array of strings")
		return nil
	}
	var asked []string
	for _, item := range n.Items {
		if item.Kind != String || !slices.Contains(known, item.Text) {
			r.fail(item, "invalid-spec", pipeline.DidYouMean(item.Text, known), "header:spec:component config contains unknown values: %s", item.Text)
			continue
		}
		asked = append(asked, item.Text)
	}
	return asked
}

func (r *specReader) inputs(n *Node) []*inputSpec {
	if n.IsNull() {
		return nil
	}
	if n.Kind != Map {
		r.fail(n, "invalid-spec", "write a name and a colon for each input", "header:spec:inputs config should be a hash")
		return nil
	}
	var specs []*inputSpec
	declared := make(map[string]bool, len(n.Pairs))
	for _, p := range n.Pairs {
		declared[p.Key] = true
	}
	for _, p := range n.Pairs {
		if s := r.input(p, declared); s != nil {
			specs = append(specs, s)
		}
	}
	r.circles(specs)
	return specs
}

// circles finds inputs whose rules depend on each other.
func (r *specReader) circles(specs []*inputSpec) {
	byName, state := map[string]*inputSpec{}, map[string]int{} // state: 1 is being looked at, 2 is done
	for _, s := range specs {
		byName[s.name] = s
	}
	var visit func(s *inputSpec)
	visit = func(s *inputSpec) {
		state[s.name] = 1
		for _, name := range s.needs {
			switch other := byName[name]; {
			case other == nil || state[name] == 2:
			case state[name] == 1:
				r.report(pipeline.Problem{Severity: pipeline.Error, Code: "invalid-spec", At: s.at,
					Message: fmt.Sprintf("`%s` input: circular dependency detected", s.name), Hint: "its rules depend on `" + name + "`, whose rules depend on it"})
			default:
				visit(other)
			}
		}
		state[s.name] = 2
	}
	for _, s := range specs {
		if state[s.name] == 0 {
			visit(s)
		}
	}
}

func (r *specReader) input(p Pair, declared map[string]bool) *inputSpec {
	s := &inputSpec{name: p.Key, at: p.KeyAt, kind: "string"}
	n := p.Value
	if n.Kind == Null {
		return s
	}
	where := "header:spec:inputs:" + p.Key
	if n.Kind != Map {
		r.fail(n, "invalid-spec", "write `"+p.Key+": {default: …}`", "unknown input specification for `%s` (valid types: %s)", p.Key, strings.Join(inputTypes, ", "))
		return nil
	}
	r.allow(n, where, "default", "description", "options", "regex", "type", "rules")
	if t := n.Get("type"); t != nil {
		if !t.IsScalar() || !slices.Contains(inputTypes, t.Text) {
			r.fail(t, "invalid-spec", pipeline.DidYouMean(t.Text, inputTypes), "%s input type unknown value: %s (valid types: %s)", where, t.Text, strings.Join(inputTypes, ", "))
			return nil
		}
		s.kind = t.Text
	}
	if d := n.Get("description"); d != nil && d.IsScalar() {
		s.about = d.Text
	}
	if s.regex = n.Get("regex"); s.regex != nil {
		r.regex(s, where)
	}
	if options := n.Get("options"); !options.IsNull() {
		s.listed = true
		s.options = r.options(where, options)
		if s.kind != "string" && s.kind != "number" {
			r.fail(options, "invalid-input", "", "`%s` input: Options can only be used with string and number inputs", s.name)
			s.listed = false
		}
	}
	s.value = n.Get("default")
	if list := n.Get("rules"); list != nil {
		for _, other := range []string{"options", "default"} {
			if n.Get(other) != nil {
				r.fail(n.Get(other), "invalid-spec", "put it into a rule without `if`", "%s config these keys cannot be used together: rules, %s", where, other)
			}
		}
		s.rules = r.rules(s, list, declared)
	}
	return s
}

func (r *specReader) regex(s *inputSpec, where string) {
	switch {
	case s.regex.Kind != String:
		r.fail(s.regex, "invalid-spec", "", "%s input regex should be a string", where)
		s.regex = nil
	case s.kind != "string":
		r.fail(s.regex, "invalid-input", "", "`%s` input: RegEx validation can only be used with string inputs", s.name)
		s.regex = nil
	default:
		if _, err := compileRegex(s.regex.Text); err != nil {
			r.fail(s.regex, "invalid-input", err.Error(), "`%s` input: invalid regular expression", s.name)
			s.regex = nil
		}
	}
}

// compileRegex takes a pattern as RE2 does: ^ and $ are the ends of the text.
func compileRegex(pattern string) (*regexp.Regexp, error) { return regexp.Compile(pattern) }

func (r *specReader) options(where string, n *Node) []*Node {
	if n.Kind != List {
		r.fail(n, "invalid-spec", "", "%s input options should be an array", where)
		return nil
	}
	if len(n.Items) > maxOptions {
		r.fail(n, "invalid-spec", "", "%s config cannot define more than %d options", where, maxOptions)
	}
	for _, o := range n.Items {
		if o.Kind == Null {
			r.fail(o, "invalid-spec", "", "%s config options array cannot contain null values", where)
		}
	}
	return n.Items
}

func (r *specReader) rules(s *inputSpec, list *Node, declared map[string]bool) []inputRule {
	where := "`" + s.name + "` input: "
	if list.Kind != List {
		r.fail(list, "invalid-spec", "", "%srules should be an array", where)
		return nil
	}
	var made []inputRule
	for _, n := range list.Items {
		if n.Kind != Map {
			r.fail(n, "invalid-spec", "", "%srule should be a hash", where)
			continue
		}
		r.allow(n, "header:spec:inputs:"+s.name+":rules:rule", "if", "options", "default")
		var rule inputRule
		if condition := n.Get("if"); !condition.IsNull() {
			expression, err := rules.Parse(condition.Text)
			if err != nil {
				r.fail(condition, "invalid-expression", "", "%sinvalid expression syntax: %v", where, err)
				continue
			}
			rule.condition = expression
			r.undeclared(s, condition, declared)
		}
		if options := n.Get("options"); !options.IsNull() {
			rule.options = r.options(where, options)
		}
		rule.value = n.Get("default")
		switch {
		case rule.value == nil:
			r.fail(n, "invalid-spec", "", "%srule must define 'options' with at least one value and a 'default'", where)
			continue
		case len(rule.options) > 0 && !slices.ContainsFunc(rule.options, func(o *Node) bool { return o.Kind == rule.value.Kind && o.Text == rule.value.Text }):
			r.fail(rule.value, "invalid-spec", "", "%sdefault '%s' must be one of the options", where, rule.value.Text)
		}
		made = append(made, rule)
	}
	return made
}

// undeclared names the inputs of a condition that are none.
func (r *specReader) undeclared(s *inputSpec, condition *Node, declared map[string]bool) {
	for _, m := range blockPattern().FindAllStringSubmatch(condition.Text, -1) {
		name := strings.TrimPrefix(m[1], "inputs.")
		if !declared[name] {
			r.fail(condition, "invalid-spec", pipeline.DidYouMean(name, slices.Sorted(maps.Keys(declared))), "`%s` input: rule references undefined inputs: %s", s.name, name)
		}
		s.needs = append(s.needs, name)
	}
}

// given is what an include gives as inputs, or a person as those of the first file.
type given struct {
	names  []string
	values map[string]*Node
	at     map[string]pipeline.Position
	person bool // not an include
}

// bind gives each input of a spec its value, and reports those that are missing, unknown or not allowed.
func bind(specs []*inputSpec, g given, at pipeline.Position, report func(pipeline.Problem)) map[string]*Node {
	fail := func(at pipeline.Position, via []pipeline.Via, hint, message string) {
		report(pipeline.Problem{Severity: pipeline.Error, Code: "invalid-input", Message: message, Hint: hint, At: at, Via: via})
	}
	known := make([]string, len(specs))
	for i, s := range specs {
		known[i] = s.name
	}
	for _, name := range g.names {
		if !slices.Contains(known, name) {
			fail(g.at[name], nil, pipeline.DidYouMean(name, known), "unknown input arguments: "+name)
		}
	}
	bound, plain := make(map[string]*Node, len(specs)), make(map[string]any, len(specs))
	for name, n := range g.values {
		plain[name] = goValue(n)
	}
	for _, s := range specs {
		value, options, listed := s.value, s.options, s.listed
		for _, rule := range s.rules {
			if rule.condition != nil {
				if v, _ := rule.condition.EvaluateInputs(nil, plain); !rules.Truth(v) {
					continue
				}
			}
			if len(rule.options) > 0 {
				options, listed = rule.options, true
			}
			value = rule.value
			break
		}
		param := g.values[s.name]
		if param != nil && (param.Kind == Null || param.Kind == String && param.Text == "" && s.rules != nil) {
			param = nil
		}
		from, whose := param, "provided"
		if param == nil {
			from, whose = value, "default"
		}
		switch {
		case param == nil && s.value == nil && len(s.rules) == 0:
			hint := "give it in `inputs` of the include"
			if g.person {
				hint = "give it a default, or a value when the pipeline is made"
			}
			fail(at, []pipeline.Via{{How: "input", Name: s.name, At: s.at}}, hint, fmt.Sprintf("`%s` input: required value has not been provided", s.name))
			bound[s.name] = &Node{Kind: String, At: s.at, size: 1}
			continue
		case from == nil:
			from = &Node{At: s.at, size: 1}
		}
		coerced := s.coerce(from)
		if message := s.check(coerced, options, listed, whose); message != "" && from.Kind != Null {
			hint := ""
			if listed {
				hint = "allowed are: " + strings.Join(texts(options), ", ")
			} else if s.regex != nil {
				hint = "it has to match " + s.regex.Text
			}
			fail(from.At, from.Via, hint, fmt.Sprintf("`%s` input: %s", s.name, message))
		}
		bound[s.name], plain[s.name] = coerced, goValue(coerced)
	}
	return bound
}

func texts(list []*Node) []string {
	all := make([]string, len(list))
	for i, n := range list {
		all[i] = n.Text
	}
	return all
}

// coerce makes a string input a text of anything, and takes a text for another type as JSON, as it comes from a form or a flag.
func (s *inputSpec) coerce(n *Node) *Node {
	if s.kind == "string" {
		if n.Kind == String || n.Kind == Null {
			return n
		}
		made := *n
		made.Kind, made.Text, made.Items, made.Pairs, made.index, made.size, made.depth = String, embedded(n), nil, nil, nil, 1, 0
		return &made
	}
	if n.Kind != String {
		return n
	}
	decoder := json.NewDecoder(strings.NewReader(n.Text))
	decoder.UseNumber()
	var v any
	if decoder.Decode(&v) != nil || decoder.More() {
		return n
	}
	made := fromPlain(v, n.At)
	made.Via = n.Via
	return made
}

// check tells what is wrong with a value; "" is nothing.
func (s *inputSpec) check(n *Node, options []*Node, listed bool, whose string) string {
	switch s.kind {
	case "array":
		if n.Kind != List {
			return whose + " value is not an array"
		}
	case "boolean":
		if n.Kind != Bool {
			return whose + " value is not a boolean"
		}
	case "number":
		if n.Kind != Int && n.Kind != Float {
			return whose + " value is not a number"
		}
	}
	if listed && !slices.ContainsFunc(options, func(o *Node) bool {
		if s.kind == "number" {
			return (o.Kind == Int || o.Kind == Float) && o.Float == n.Float
		}
		return o.Text == n.Text
	}) {
		return fmt.Sprintf("`%s` cannot be used because it is not in the list of allowed options", n.Text)
	}
	if s.regex != nil && n.Kind == String {
		if re, err := compileRegex(s.regex.Text); err == nil && !re.MatchString(n.Text) {
			return whose + " value does not match required RegEx pattern"
		}
	}
	return ""
}

// fromPlain is a Go value as a node.
func fromPlain(v any, at pipeline.Position) *Node {
	n := &Node{At: at, size: 1}
	switch v := v.(type) {
	case nil:
	case string:
		n.Kind, n.Raw, n.Text = String, v, v
	case bool:
		n.Kind, n.Bool, n.Text = Bool, v, strconv.FormatBool(v)
	case int:
		n.setInt(big.NewInt(int64(v)))
	case int64:
		n.setInt(big.NewInt(v))
	case float64:
		n.setFloat(v)
	case json.Number:
		if i, ok := parseInt(strings.TrimPrefix(v.String(), "-")); ok {
			if strings.HasPrefix(v.String(), "-") {
				i.Neg(i)
			}
			n.setInt(i)
		} else if f, err := v.Float64(); err == nil {
			n.setFloat(f)
		} else {
			n.Kind, n.Text = String, v.String()
		}
	case []any:
		n.Kind = List
		for _, item := range v {
			n.Items = append(n.Items, fromPlain(item, at))
		}
		n.measure()
	case []string:
		n.Kind = List
		for _, item := range v {
			n.Items = append(n.Items, fromPlain(item, at))
		}
		n.measure()
	case map[string]any:
		b := newMap(n, len(v))
		n.Kind = Map
		for _, key := range slices.Sorted(maps.Keys(v)) {
			b.set(Pair{Key: key, KeyAt: at, Value: fromPlain(v[key], at)}, true)
		}
		n.measure()
	default:
		n.Kind, n.Text = String, fmt.Sprint(v)
	}
	return n
}

func names(m map[string]*Node) []string { return slices.Sorted(maps.Keys(m)) }

// published is a spec as others see it.
func (s *inputSpec) published() pipeline.InputSpec {
	p := pipeline.InputSpec{Name: s.name, Type: s.kind, Description: s.about, At: s.at}
	if s.value != nil {
		p.Default = &pipeline.Input{Value: goValue(s.value), At: s.value.At}
	}
	for _, o := range s.options {
		p.Options = append(p.Options, goValue(o))
	}
	if s.regex != nil {
		p.Regex = s.regex.Text
	}
	return p
}
