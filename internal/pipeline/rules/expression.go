package rules

import (
	"errors"
	"fmt"
	"reflect"
	"regexp"
	"regexp/syntax"
	"strings"

	"keelson.dev/keelson/internal/pipeline"
)

// Masked stands for the value of a masked variable wherever one would be shown.
const Masked = "[MASKED]"

// Expression is a condition as rules:if, only:variables and the like have it.
//
//	$CI_COMMIT_BRANCH == "main" && ($DEPLOY =~ /^y(es)?$/i || !$SKIP)
//
// Its values are those of Ruby, and so is their truth: within an expression only null and false are false, and the empty text is
// true; the outcome as a whole, and what stands behind !, must have something in it ([Truth]).
type Expression struct {
	text string
	root node
	vars []string // in the order of the text, each once
}

// Parse reads an expression. An error is a [SyntaxError].
//
// As GitLab does, it sorts operators with the shunting-yard algorithm and is content when that comes to one value.
func Parse(text string) (*Expression, error) {
	ts, err := tokens(text)
	if err != nil {
		return nil, err
	}
	postfix, err := postfix(text, ts)
	if err != nil {
		return nil, err
	}
	root, err := tree(text, ts, postfix)
	if err != nil {
		return nil, err
	}
	e := &Expression{text: text, root: root}
	seen := map[variable]bool{}
	for _, t := range ts {
		if v, ok := t.value.(variable); ok && !seen[v] {
			seen[v] = true
			e.vars = append(e.vars, string(v))
		}
	}
	return e, nil
}

// String gives the text that was parsed.
func (e *Expression) String() string { return e.text }

// Variables gives the names of the variables in it, each once.
func (e *Expression) Variables() []string { return e.vars }

// Evaluate gives the value of the expression, which is nil, a string (also of a pattern that stands alone) or a bool; and all the
// variables that it names. Values are taken as they are, without expansion. Where GitLab would fail, the value is nil.
func (e *Expression) Evaluate(vars pipeline.Variables) (value any, used []pipeline.UsedValue) {
	return e.EvaluateInputs(vars, nil)
}

// EvaluateInputs is Evaluate where inputs are known too ($[[ inputs.x ]] in the rules of spec:inputs). Their values may also be
// numbers and lists.
func (e *Expression) EvaluateInputs(vars pipeline.Variables, inputs map[string]any) (value any, used []pipeline.UsedValue) {
	value, err := e.root.evaluate(scope{vars, inputs})
	if err != nil {
		value = nil
	}
	if p, ok := value.(*pattern); ok {
		value = p.text
	}
	for _, name := range e.vars {
		used = append(used, use(name, vars))
	}
	return value, used
}

// Truth tells whether a value counts as true in the end: nil, false and a text of nothing but white space do not.
func Truth(value any) bool {
	switch v := value.(type) {
	case nil:
		return false
	case bool:
		return v
	case string:
		return strings.TrimSpace(v) != ""
	case []any:
		return len(v) > 0
	default:
		return true
	}
}

// use tells what a condition finds under the name of a variable.
func use(name string, vars pipeline.Variables) pipeline.UsedValue {
	v, ok := vars.Get(name)
	if !ok {
		return pipeline.UsedValue{Name: name}
	}
	u := pipeline.UsedValue{Name: name, Set: true, Value: v.Value, Origin: v.Origin, At: v.At}
	if v.Masked && v.Value != "" {
		u.Value = Masked
	}
	return u
}

// postfix puts operators behind their operands.
func postfix(text string, ts []token) ([]token, error) {
	var out, ops []token
	popWhile := func(t token) {
		for len(ops) > 0 && t.precedence() >= ops[len(ops)-1].precedence() {
			out, ops = append(out, ops[len(ops)-1]), ops[:len(ops)-1]
		}
	}
	for _, t := range ts {
		switch t.kind {
		case tokenValue:
			out = append(out, t)
		case tokenBinary:
			popWhile(t)
			ops = append(ops, t)
		case tokenUnary, tokenOpen:
			ops = append(ops, t)
		case tokenClose:
			popWhile(t)
			if len(ops) == 0 {
				return nil, syntaxError(text, t.at, "Unmatched parenthesis", "nothing opens it")
			}
			ops = ops[:len(ops)-1]
		}
	}
	for i := len(ops) - 1; i >= 0; i-- {
		out = append(out, ops[i])
	}
	return out, nil
}

// tree builds the operations of tokens in postfix order; of ts, which are in the order of the text, it tells where they go wrong.
func tree(text string, ts, postfix []token) (node, error) {
	var results []node
	pop := func() (n node) {
		if len(results) > 0 {
			n, results = results[len(results)-1], results[:len(results)-1]
		}
		return n
	}
	for _, t := range postfix {
		switch t.kind {
		case tokenValue:
			results = append(results, t.value)
		case tokenUnary:
			operand := pop()
			if operand == nil {
				return nil, misplaced(text, ts, "Invalid operand")
			}
			results = append(results, not{operand})
		case tokenBinary:
			right, left := pop(), pop()
			if left == nil {
				return nil, misplaced(text, ts, "Invalid operand")
			}
			results = append(results, operation(t.text, left, right))
		default:
			return nil, syntaxError(text, t.at, "Unmatched parenthesis", "nothing closes it")
		}
	}
	switch len(results) {
	case 0:
		return nil, syntaxError(text, 0, "Empty parse tree", "there is no value")
	case 1:
		return results[0], nil
	default:
		return nil, misplaced(text, ts, "Unreachable nodes in parse tree")
	}
}

// misplaced is the error at the first token that cannot stand where it does.
func misplaced(text string, ts []token, message string) *SyntaxError {
	operand := true // one is expected
	for i, t := range ts {
		starts := t.kind == tokenValue || t.kind == tokenUnary || t.kind == tokenOpen
		switch {
		case starts && !operand:
			return syntaxError(text, t.at, message, "an operator is missing before "+t.text)
		case !starts && operand && i == 0:
			return syntaxError(text, t.at, message, "nothing stands before "+t.text)
		case !starts && operand:
			return syntaxError(text, t.at, message, fmt.Sprintf("a value is missing between %s and %s", ts[i-1].text, t.text))
		}
		operand = t.kind != tokenValue && t.kind != tokenClose
	}
	last := ts[len(ts)-1]
	return syntaxError(text, last.at, message, "nothing stands behind "+last.text)
}

// scope is what an expression is evaluated in.
type scope struct {
	vars   pipeline.Variables
	inputs map[string]any
}

// node is a part of an expression. Its values are nil, bool, string, *pattern, and those of inputs. An error is what GitLab fails
// on only when it gets there.
type node interface {
	evaluate(scope) (any, error)
}

type (
	variable string
	input    string
	literal  struct{ value any }
	not      struct{ operand node }
	binary   struct {
		op          string
		left, right node
	}
	logical struct {
		and         bool
		left, right node
	}
)

func operation(op string, left, right node) node {
	if op == "&&" || op == "||" {
		return logical{op == "&&", left, right}
	}
	return binary{op, left, right}
}

func (v variable) evaluate(s scope) (any, error) {
	if found, ok := s.vars.Get(string(v)); ok {
		return found.Value, nil
	}
	return nil, nil
}

func (i input) evaluate(s scope) (any, error) { return s.inputs[string(i)], nil }

func (l literal) evaluate(scope) (any, error) { return l.value, nil }

func (n not) evaluate(s scope) (any, error) {
	v, err := n.operand.evaluate(s)
	return !Truth(v), err
}

func (l logical) evaluate(s scope) (any, error) {
	v, err := l.left.evaluate(s)
	if err != nil || (v != nil && v != false) != l.and {
		return v, err
	}
	return l.right.evaluate(s)
}

func (b binary) evaluate(s scope) (any, error) {
	left, err := b.left.evaluate(s)
	if err != nil {
		return nil, err
	}
	right, err := b.right.evaluate(s)
	if err != nil {
		return nil, err
	}
	var holds bool
	switch b.op {
	case "==", "!=":
		holds = equal(left, right)
	default:
		holds, err = matches(left, right)
	}
	return holds != (b.op[0] == '!'), err
}

// equal compares; true and false are equal to the texts of that name.
func equal(left, right any) bool {
	switch l := left.(type) {
	case bool:
		if r, ok := right.(string); ok {
			return fmt.Sprint(l) == r
		}
	case string:
		if r, ok := right.(bool); ok {
			return l == fmt.Sprint(r)
		}
	case *pattern:
		r, ok := right.(*pattern)
		return ok && l.text == r.text
	}
	return reflect.DeepEqual(left, right)
}

// matches is =~. A right side that is no pattern is searched for the left one, not the other way round: GitLab scans it.
func matches(left, right any) (bool, error) {
	text := toString(left)
	switch r := right.(type) {
	case nil:
		return false, nil
	case bool:
		if !r {
			return false, nil
		}
	case *pattern:
		return r.re.MatchString(text), nil
	case string:
		if p, err := compilePattern(r); err == nil {
			return p.re.MatchString(text), nil
		}
		return strings.Contains(r, text), nil
	}
	return false, fmt.Errorf("%v is no pattern", right)
}

// toString is Ruby's to_s.
func toString(value any) string {
	switch v := value.(type) {
	case nil:
		return ""
	case string:
		return v
	case *pattern: // an object, of which nobody knows the address
		return "#<Gitlab::UntrustedRegexp>"
	default:
		return fmt.Sprint(v)
	}
}

// pattern is a regular expression of the form /…/flags.
type pattern struct {
	text string
	re   *regexp.Regexp
}

var errNoPattern = errors.New("a pattern stands between slashes on one line")

// compilePattern reads /…/flags. An escaped slash is one, and the flags are RE2's i, s, m and U.
func compilePattern(text string) (*pattern, error) {
	parts := lexeme().ruby.FindStringSubmatch(strings.ReplaceAll(text, `\/`, "/"))
	if parts == nil {
		return nil, errNoPattern
	}
	source := parts[1]
	if parts[2] != "" {
		source = "(?" + parts[2] + ")" + source
	}
	re, err := regexp.Compile(source)
	if err != nil {
		return nil, err
	}
	return &pattern{text: "/" + parts[1] + "/" + parts[2], re: re}, nil
}

// reason says in a few words what is wrong with a regular expression.
func reason(err error) string {
	var e *syntax.Error
	if !errors.As(err, &e) {
		return err.Error()
	}
	switch e.Code {
	case syntax.ErrInvalidPerlOp:
		return fmt.Sprintf("%s is not in RE2's syntax", e.Expr)
	case syntax.ErrInvalidEscape:
		return fmt.Sprintf("%s is no escape of RE2's", e.Expr)
	default:
		return fmt.Sprintf("%s: %s", e.Code, e.Expr)
	}
}
