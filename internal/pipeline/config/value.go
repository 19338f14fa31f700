package config

import (
	"fmt"
	"math"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"keelson.dev/keelson/internal/pipeline"
)

// value is a node with the place where its keyword stands, for messages: "jobs:build:artifacts:expire_in".
type value struct {
	*Node // nil: the keyword is not there
	d     *decoder
	up    *place // of what it stands in
	name  string
	inner *place // its own, of a list or a map
	keyAt pipeline.Position
	via   []pipeline.Via // how it came there, if only with something around it
}

// place is a step on the way to a keyword.
type place struct {
	up  *place
	key string
}

func (p *place) String() string {
	switch {
	case p == nil || p.up == nil && p.key == "":
		return "root"
	case p.up == nil || p.up.key == "" && p.up.up == nil:
		return p.key
	default:
		return p.up.String() + ":" + p.key
	}
}

// place says where it stands, in GitLab's words.
func (v value) place() string {
	if v.inner != nil {
		return v.inner.String()
	}
	return (&place{v.up, v.name}).String()
}

// placed puts it under a step of its own, which items of lists have.
func (v value) placed(name string) value {
	if v.inner == nil {
		v.up = &place{v.up, v.name}
	} else {
		v.up = v.inner
	}
	v.name, v.inner = name, &place{v.up, name}
	return v
}

// set tells whether there is something else than null, which counts as nothing.
func (v value) set() bool { return !v.IsNull() }

func (v value) child(key string, keyAt pipeline.Position, n *Node) value {
	c := value{Node: n, d: v.d, up: v.inner, name: key, keyAt: keyAt, via: way(n, v.via)}
	if n != nil && (n.Kind == Map || n.Kind == List) {
		c.inner = &place{v.inner, key}
	}
	return c
}

// field gives the value of a key of a map.
func (v value) field(key string) value {
	if v.Node != nil && v.Kind == Map {
		for i := range v.Pairs {
			if p := &v.Pairs[i]; p.Key == key {
				return v.child(key, p.KeyAt, p.Value)
			}
		}
	}
	return value{d: v.d, up: v.inner, name: key, keyAt: v.at(), via: v.via}
}

// fields gives all pairs of a map.
func (v value) fields() []value {
	if v.Node == nil || v.Kind != Map {
		return nil
	}
	all := make([]value, len(v.Pairs))
	for i, p := range v.Pairs {
		all[i] = v.child(p.Key, p.KeyAt, p.Value)
	}
	return all
}

// key is the last step of the place.
func (v value) key() string { return v.name }

// items gives the items of a list under the place of the list.
func (v value) items() []value {
	if v.Node == nil || v.Kind != List {
		return nil
	}
	all := make([]value, len(v.Items))
	for i, n := range v.Items {
		all[i] = v.with(n)
	}
	return all
}

// with puts another node, one of its items, in its place.
func (v value) with(n *Node) value {
	v.Node, v.via = n, way(n, v.via)
	if n != nil && n.At.Line != 0 {
		v.keyAt = n.At
	}
	return v
}

// way is how a node came to where it stands, within something that came by the way outer.
func way(n *Node, outer []pipeline.Via) []pipeline.Via {
	if n == nil {
		return outer
	}
	return n.Within(outer)
}

// maxNesting is how deep lists may stand in each other, as !reference makes them.
const maxNesting = 10

// flat gives the items of a list, and those of the lists in it; an error names the deepest level.
func (v value) flat() ([]value, bool) {
	if !slices.ContainsFunc(v.Items, func(n *Node) bool { return n != nil && n.Kind == List }) {
		return v.items(), true
	}
	var all []value
	var walk func(v value, depth int) bool
	walk = func(v value, depth int) bool {
		if depth > maxNesting {
			return false
		}
		for _, item := range v.items() {
			if item.Node != nil && item.Kind == List {
				if !walk(item, depth+1) {
					return false
				}
				continue
			}
			all = append(all, item)
		}
		return true
	}
	return all, walk(v, 0)
}

// at is where a person looks: a scalar itself, the keyword of anything else.
func (v value) at() pipeline.Position {
	scalar := v.IsScalar() && (v.Kind != Null || v.Raw != "")
	if v.Node != nil && v.Node.At.Line != 0 && (scalar || v.keyAt.Line == 0) {
		return v.Node.At
	}
	return v.keyAt
}

// described says what was found.
func (v value) described() string {
	if v.Node == nil {
		return "nothing"
	}
	switch v.Kind {
	case Null:
		return "nothing"
	case String:
		return "the string " + quoted(v.Text)
	case Bool:
		if v.Raw != v.Text {
			return fmt.Sprintf("the boolean %s (written %s)", v.Text, v.Raw)
		}
		return "the boolean " + v.Text
	case Int, Float:
		if v.Raw != v.Text {
			return fmt.Sprintf("the number %s (written %s)", v.Text, clip(v.Raw))
		}
		return "the number " + v.Text
	case List:
		return "a list"
	case Map:
		return "a map"
	default:
		return "a reference"
	}
}

// quoteHint says how a scalar that YAML takes for something else becomes a string, or a number.
func (v value) quoteHint() string {
	switch {
	case v.Node == nil:
		return ""
	case v.Plain && (v.Kind == Bool || v.Kind == Int || v.Kind == Float):
		return "quote it: " + strconv.Quote(clip(v.Raw))
	case v.Kind == String && !v.Plain && v.Text != "" && strings.Trim(v.Text, "0123456789") == "":
		return "write it without quotes"
	default:
		return ""
	}
}

func quoted(text string) string { return "`" + clip(text) + "`" }

// clip shortens a text for messages.
func clip(text string) string {
	if i := strings.IndexByte(text, '\n'); i >= 0 {
		text = text[:i] + "…"
	}
	if len(text) > 80 {
		text = strings.ToValidUTF8(text[:80], "") + "…"
	}
	return text
}

// Codes of problems.
const (
	codeUnknown     = "unknown-keyword"
	codeType        = "wrong-type"
	codeValue       = "invalid-value"
	codeRequired    = "missing-keyword"
	codeConflict    = "conflicting-keywords"
	codeLimit       = "limit-exceeded"
	codeDuration    = "invalid-duration"
	codeRegexp      = "invalid-regexp"
	codeExpression  = "invalid-expression"
	codeUnsupported = "not-supported"
	codeDeprecated  = "deprecated-keyword"
	codeChanged     = "changed-scalar"
	codeNoEffect    = "no-effect"
	codeVariable    = "variable-name"
	codeJob         = "invalid-job"
)

func (v value) fail(code, format string, args ...any) {
	v.report(pipeline.Error, code, "", format, args...)
}

func (v value) hint(code, hint, format string, args ...any) {
	v.report(pipeline.Error, code, hint, format, args...)
}

func (v value) warn(code, hint, format string, args ...any) {
	v.report(pipeline.Warning, code, hint, format, args...)
}

func (v value) report(severity pipeline.Severity, code, hint, format string, args ...any) {
	v.d.report(severity, code, v.place(), fmt.Sprintf(format, args...), hint, v.at(), v.via)
}

// wrong says that it is of another type: "config should be a string, found a list".
func (v value) wrong(should string) {
	v.hint(codeType, v.quoteHint(), "%s, found %s", should, v.described())
}

// isMap tells whether it is a map, and says so if not.
func (v value) isMap(should string) bool {
	if v.Node != nil && v.Kind == Map {
		return true
	}
	v.wrong(should)
	return false
}

// allow names every key of a map that is not one of these, and tells whether there was none.
func (v value) allow(keys ...string) bool {
	if v.Node == nil || v.Kind != Map {
		return true
	}
	ok := true
	for i := range v.Pairs {
		if !slices.Contains(keys, v.Pairs[i].Key) {
			v.unknown(v.Pairs[i], keys)
			ok = false
		}
	}
	return ok
}

func (v value) unknown(p Pair, allowed []string) {
	if v.d.full() {
		return
	}
	v.unknownHint(p, pipeline.DidYouMean(p.Key, allowed))
}

func (v value) unknownHint(p Pair, hint string) {
	v.d.report(pipeline.Error, codeUnknown, v.place(), "config contains unknown keys: "+clip(p.Key), hint, p.KeyAt, way(p.Value, v.via))
}

// string gives a text; nothing is "".
func (v value) string() string {
	if !v.set() {
		return ""
	}
	if v.Kind != String {
		v.wrong("should be a string")
		return ""
	}
	return v.Text
}

// required is a string that has to be there and not blank.
func (v value) required() string {
	if !v.set() || v.Kind == String && strings.TrimSpace(v.Text) == "" {
		v.fail(codeRequired, "can't be blank")
		return ""
	}
	return v.string()
}

func (v value) boolean() bool {
	if !v.set() {
		return false
	}
	if v.Kind != Bool {
		hint := ""
		if v.Kind == String && pipeline.Nearest(strings.ToLower(v.Text), []string{"true", "false"}) != "" {
			hint = "write true or false without quotes"
		}
		v.hint(codeType, hint, "should be a boolean value, found %s", v.described())
		return false
	}
	return v.Bool
}

// oneOf is one of some words; nothing is "".
func (v value) oneOf(words ...string) string {
	if !v.set() {
		return ""
	}
	if v.Kind == String && slices.Contains(words, v.Text) {
		return v.Text
	}
	hint := v.quoteHint()
	if v.Kind == String {
		hint = pipeline.DidYouMean(v.Text, words)
	}
	v.hint(codeValue, hint, "should be one of: %s, found %s", strings.Join(words, ", "), v.described())
	return ""
}

// strings is a list of texts. It is nil only where there is nothing.
func (v value) strings() []string {
	if !v.set() {
		return nil
	}
	if v.Kind != List {
		v.wrong("should be an array of strings")
		return nil
	}
	return v.texts("should be an array of strings")
}

// stringsOrString is a text or a list of texts.
func (v value) stringsOrString() []string {
	switch {
	case !v.set():
		return nil
	case v.Kind == String:
		return []string{v.Text}
	case v.Kind != List:
		v.wrong("should be an array of strings or a string")
		return nil
	}
	return v.texts("should be an array of strings or a string")
}

func (v value) texts(should string) []string {
	all := make([]string, 0, len(v.Items))
	for _, n := range v.Items {
		switch {
		case n != nil && n.Kind == String:
			all = append(all, n.Text)
		case n != nil && n.Kind == List && len(n.Via) > 0 && n.Via[0].How == "reference":
			v.with(n).hint(codeType, "write the !reference as the value itself, not as an item of a list", "%s, found a list", should)
		default:
			v.with(n).wrong(should)
		}
	}
	return all
}

// positioned is a list of texts with their positions.
func (v value) positioned() []pipeline.Text {
	if !v.set() {
		return nil
	}
	if v.Kind != List {
		v.wrong("should be an array of strings")
		return nil
	}
	all := make([]pipeline.Text, 0, len(v.Items))
	for _, n := range v.Items {
		if item := v.with(n); n == nil || n.Kind != String {
			item.wrong("should be an array of strings")
		} else {
			all = append(all, item.asText())
		}
	}
	return all
}

// asText is a scalar with its position.
func (v value) asText() pipeline.Text {
	return pipeline.Text{Value: v.Text, At: v.at(), Via: v.via, Plain: v.Plain && !strings.Contains(v.Raw, "\n")}
}

// text is a string with its position; nil: there is nothing, or it is none.
func (v value) text() *pipeline.Text {
	if !v.set() {
		return nil
	}
	if v.Kind != String {
		v.wrong("should be a string")
		return nil
	}
	t := v.asText()
	return &t
}

// integer is a number within bounds, or one in quotes where GitLab takes that too.
func (v value) integer(least, most int64) (int, bool) {
	var n int64
	switch {
	case v.Node != nil && v.Kind == Int:
		n = v.Int
	case v.Node != nil && v.Kind == String:
		var err error
		if n, err = strconv.ParseInt(v.Text, 10, 32); err != nil {
			v.fail(codeType, "is not a number, found %s", v.described())
			return 0, false
		}
	default:
		v.fail(codeType, "must be an integer, found %s", v.described())
		return 0, false
	}
	switch {
	case n < least:
		v.fail(codeValue, "must be greater than or equal to %d, found %d", least, n)
	case n > most:
		v.fail(codeValue, "must be less than or equal to %d, found %d", most, n)
	}
	return int(n), least <= n && n <= most
}

// exitCodes is an integer or a list of them.
func (v value) exitCodes() []int {
	if !v.set() {
		return nil
	}
	items := v.items()
	if v.Kind != List {
		items = []value{v}
	}
	codes := make([]int, 0, len(items))
	for _, item := range items {
		switch {
		case item.Node == nil || item.Kind != Int:
			item.fail(codeType, "should be an array of integers or an integer, found %s", item.described())
		case item.Int < math.MinInt32 || item.Int > math.MaxUint32: // Windows has more than 255
			item.fail(codeValue, "should be exit codes, found %s", item.described())
		default:
			codes = append(codes, int(item.Int))
		}
	}
	return codes
}

// duration is a duration in a string up to a limit, the limit included; 0: none.
func (v value) duration(limit time.Duration, limitText string) pipeline.Duration {
	if !v.set() {
		return 0
	}
	if v.Kind != String {
		v.hint(codeDuration, "a duration is a string with a unit, such as \"30 minutes\"", "should be a duration, found %s", v.described())
		return 0
	}
	d, err := pipeline.ParseDuration(v.Text)
	if err != nil {
		v.hint(codeDuration, err.Error(), "should be a duration, found %s", v.described())
		return 0
	}
	if d > limit {
		v.fail(codeDuration, "should not exceed the limit of %s, found %s", limitText, v.described())
	}
	return pipeline.Duration(d)
}

// anyDuration is a duration, "never", or a text with variables, which is looked at when it is used.
func (v value) anyDuration() string {
	text := v.string()
	if text == "" || strings.EqualFold(text, "never") || strings.Contains(text, "$") {
		return text
	}
	if _, err := pipeline.ParseDuration(text); err != nil {
		v.hint(codeDuration, err.Error(), "should be a duration, found %s", v.described())
	}
	return text
}

// goValue is the node as Go values: nil, string, bool, int64, float64, []any, map[string]any.
func goValue(n *Node) any {
	if n == nil {
		return nil
	}
	switch n.Kind {
	case String:
		return n.Text
	case Bool:
		return n.Bool
	case Int:
		return n.Int
	case Float:
		return n.Float
	case List, Reference:
		all := make([]any, len(n.Items))
		for i, item := range n.Items {
			all[i] = goValue(item)
		}
		return all
	case Map:
		all := make(map[string]any, len(n.Pairs))
		for _, p := range n.Pairs {
			all[p.Key] = goValue(p.Value)
		}
		return all
	default:
		return nil
	}
}

// maxRegexp bounds the regular expressions of a file, in bytes.
const maxRegexp = 4096

// isRegexp tells whether a text is written as one: /…/ and flags.
func isRegexp(text string) bool {
	if !strings.HasPrefix(text, "/") {
		return false
	}
	end := strings.LastIndexByte(text, '/')
	return end > 0 && strings.Trim(text[end+1:], "ismU") == ""
}

// regexp checks a regular expression with its slashes.
func (v value) regexp(text string) {
	known, ok := v.d.regexps[text]
	if !ok {
		known = compileRegexp(text)
		v.d.regexps[text] = known
	}
	if known != "" {
		v.hint(codeRegexp, known, "must be a regular expression with re2 syntax, found %s", quoted(text))
	}
}

// compileRegexp gives the fault of a regular expression, or nothing.
func compileRegexp(text string) string {
	switch {
	case len(text) > maxRegexp:
		return fmt.Sprintf("it is longer than %d characters", maxRegexp)
	case !isRegexp(text):
		return "put it between slashes: " + strconv.Quote("/"+clip(text)+"/")
	}
	end := strings.LastIndexByte(text, '/')
	pattern, flags := text[1:end], text[end+1:]
	if flags != "" {
		pattern = "(?" + flags + ")" + pattern
	}
	if _, err := regexp.Compile(pattern); err != nil {
		return strings.TrimPrefix(err.Error(), "error parsing regexp: ")
	}
	return ""
}
