package hook

import (
	"encoding/json"
	"errors"
	"fmt"
	"mime"
	"strings"
	"sync"

	"github.com/google/cel-go/cel"
	"github.com/google/cel-go/common/operators"
	"github.com/google/cel-go/common/types"
	"github.com/google/cel-go/common/types/ref"
	"github.com/google/cel-go/common/types/traits"
	"github.com/google/cel-go/ext"
	"github.com/google/cel-go/interpreter"
)

// Bounds of a filter. The cost is that of one evaluation, in CEL's own units; functions whose cost CEL does not know are
// charged for their work, the characters or comparisons they take, a unit for twenty-five. A look through four thousand
// changed files is within it. More would be dear: the time that CEL takes to count grows with the square of the cost.
const (
	maxExpression = 16 << 10 // characters
	maxCost       = 40_000
	workPerUnit   = 25
	maxWork       = maxCost * workPerUnit
)

// Filter is a compiled CEL expression over a resource (res: its metadata) and a request (req: its JSON body).
type Filter struct {
	text    string
	program cel.Program
}

// Compile compiles an expression; an error says what is wrong with it.
func Compile(text string) (*Filter, error) {
	env, err := environment()
	if err != nil {
		return nil, fmt.Errorf("set up CEL: %w", err)
	}
	if len(text) > maxExpression {
		return nil, fmt.Errorf("the expression is longer than %d bytes", maxExpression)
	}
	ast, issues := env.Compile(text)
	if err := issues.Err(); err != nil {
		return nil, err
	}
	if out := ast.OutputType(); !out.IsExactType(cel.BoolType) {
		return nil, fmt.Errorf("the expression gives a value of the type %s, not bool", out)
	}
	program, err := env.Program(ast, cel.EvalOptions(cel.OptOptimize), cel.CostTracking(meter{}), cel.CostLimit(maxCost))
	if err != nil {
		return nil, err
	}
	return &Filter{text: text, program: program}, nil
}

// Accepts evaluates the filter. resource is a resource's metadata as JSON has it, body what [Request.JSON] gave.
func (f *Filter) Accepts(resource, body map[string]any) (bool, error) {
	v, _, err := f.program.Eval(map[string]any{"res": resource, "req": body})
	if err != nil {
		return false, fmt.Errorf("evaluate %q: %w", f.text, err)
	}
	return v == types.True, nil
}

// JSON gives the body as filters read it. It is empty where the sender does not say that it is JSON, as in Flux.
func (r Request) JSON() (map[string]any, error) {
	isJSON := false
	for v := range strings.SplitSeq(r.Header.Get("Content-Type"), ",") {
		t, _, err := mime.ParseMediaType(v)
		if err != nil {
			break
		}
		isJSON = isJSON || t == "application/json"
	}
	body := map[string]any{}
	if !isJSON {
		return body, nil
	}
	if err := json.Unmarshal(r.Body, &body); err != nil || body == nil {
		return nil, errors.New("the body is no JSON object, and a filter wants to read it")
	}
	return body, nil
}

// environment is the dialect of CEL that Flux's filters are written in (github.com/fluxcd/pkg/runtime/cel), with bounds.
var environment = sync.OnceValues(func() (*cel.Env, error) {
	options := []cel.EnvOption{
		cel.HomogeneousAggregateLiterals(), cel.EagerlyValidateDeclarations(true), cel.DefaultUTCTimeZone(true),
		cel.CrossTypeNumericComparisons(true), cel.OptionalTypes(), ext.Strings(), ext.Sets(), ext.Encoders(),
		cel.ParserExpressionSizeLimit(maxExpression),
	}
	plain, err := cel.NewEnv(options...)
	if err != nil {
		return nil, err
	}
	for i := range guards {
		bound, err := guards[i].bind(plain)
		if err != nil {
			return nil, err
		}
		options = append(options, bound)
	}
	object := cel.ObjectType("google.protobuf.Struct")
	return cel.NewEnv(append(options, cel.Variable("res", object), cel.Variable("req", object))...)
})

// guard bounds a function of which a single call may take more time or memory than a whole filter should. CEL's own limit
// looks at what a call has cost after it: too late.
type guard struct {
	function, overload string
	call               string // in terms of a, b, c, d
	in                 []*cel.Type
	out                *cel.Type
	member             bool
	work               func(args []ref.Val) int
}

var (
	texts   = cel.ListType(cel.StringType)
	members = cel.ListType(cel.TypeParamType("T"))
	guards  = []guard{
		{"replace", "string_replace_string_string", "a.replace(b, c)", []*cel.Type{cel.StringType, cel.StringType, cel.StringType}, cel.StringType, true, replaced},
		{"replace", "string_replace_string_string_int", "a.replace(b, c, d)", []*cel.Type{cel.StringType, cel.StringType, cel.StringType, cel.IntType}, cel.StringType, true, replaced},
		{"join", "list_join", "a.join()", []*cel.Type{texts}, cel.StringType, true, joined},
		{"join", "list_join_string", "a.join(b)", []*cel.Type{texts, cel.StringType}, cel.StringType, true, joined},
		{"format", "string_format", "a.format(b)", []*cel.Type{cel.StringType, cel.ListType(cel.DynType)}, cel.StringType, true, product},
		{"indexOf", "string_index_of_string", "a.indexOf(b)", []*cel.Type{cel.StringType, cel.StringType}, cel.IntType, true, product},
		{"indexOf", "string_index_of_string_int", "a.indexOf(b, c)", []*cel.Type{cel.StringType, cel.StringType, cel.IntType}, cel.IntType, true, product},
		{"lastIndexOf", "string_last_index_of_string", "a.lastIndexOf(b)", []*cel.Type{cel.StringType, cel.StringType}, cel.IntType, true, product},
		{"lastIndexOf", "string_last_index_of_string_int", "a.lastIndexOf(b, c)", []*cel.Type{cel.StringType, cel.StringType, cel.IntType}, cel.IntType, true, product},
		{"sets.contains", "list_sets_contains_list", "sets.contains(a, b)", []*cel.Type{members, members}, cel.BoolType, false, product},
		{"sets.equivalent", "list_sets_equivalent_list", "sets.equivalent(a, b)", []*cel.Type{members, members}, cel.BoolType, false, product},
		{"sets.intersects", "list_sets_intersects_list", "sets.intersects(a, b)", []*cel.Type{members, members}, cel.BoolType, false, product},
	}
)

// bind declares the function anew: with a look at the work before the call of the original, which is a program in plain.
func (g guard) bind(plain *cel.Env) (cel.EnvOption, error) {
	var variables []cel.EnvOption
	for i := range g.in {
		t := g.in[i]
		if t == members {
			t = cel.ListType(cel.DynType)
		}
		variables = append(variables, cel.Variable(name(i), t))
	}
	env, err := plain.Extend(variables...)
	if err != nil {
		return nil, err
	}
	ast, issues := env.Compile(g.call)
	if err := issues.Err(); err != nil {
		return nil, err
	}
	program, err := env.Program(ast)
	if err != nil {
		return nil, err
	}
	call := func(args ...ref.Val) ref.Val {
		if g.work(args) > maxWork {
			return types.NewErr("%s: the arguments are too large", g.function)
		}
		vars := map[string]any{}
		for i, a := range args {
			vars[name(i)] = a
		}
		v, _, err := program.Eval(vars)
		if err != nil {
			return types.WrapErr(err)
		}
		return v
	}
	implementation := cel.FunctionBinding(call)
	switch len(g.in) {
	case 1:
		implementation = cel.UnaryBinding(func(a ref.Val) ref.Val { return call(a) })
	case 2:
		implementation = cel.BinaryBinding(func(a, b ref.Val) ref.Val { return call(a, b) })
	}
	if g.member {
		return cel.Function(g.function, cel.MemberOverload(g.overload, g.in, g.out, implementation)), nil
	}
	return cel.Function(g.function, cel.Overload(g.overload, g.in, g.out, implementation)), nil
}

func name(i int) string { return string(rune('a' + i)) }

// meter tells CEL what functions cost: the guarded ones, and those that CEL takes for cheap although they look at all that
// they are given. It goes by the function's name: which of its forms is called is often not known, because the types of what
// is in a body are not.
type meter struct{}

var _ interpreter.ActualCostEstimator = meter{}

// CallCost gives the cost of a call; nil: CEL's own count is right.
func (meter) CallCost(function, _ string, args []ref.Val, _ ref.Val) *uint64 {
	work := 0
	switch function {
	case operators.Equals, operators.NotEquals, operators.In:
		for _, a := range args {
			work += total(a)
		}
	case operators.Add, "size", "string", "bytes", "lowerAscii", "upperAscii", "trim", "reverse", "strings.quote", "split",
		"substring", "charAt", "base64.encode", "base64.decode":
		for _, a := range args {
			work += size(a)
		}
	default:
		g, ok := guarded[function]
		if !ok {
			return nil
		}
		work = g(args)
	}
	return new(uint64(1 + work/workPerUnit))
}

// guarded is the work of the guarded functions by name.
var guarded = func() map[string]func([]ref.Val) int {
	works := map[string]func([]ref.Val) int{}
	for _, g := range guards {
		works[g.function] = g.work
	}
	return works
}()

// replaced is the most characters that a replacement may leave.
func replaced(args []ref.Val) int {
	text, old, with := size(args[0]), size(args[1]), size(args[2])
	return capped(text/max(old, 1)+1, with) + text
}

// joined is how many characters a joined list has.
func joined(args []ref.Val) int {
	n := total(args[0])
	if len(args) > 1 {
		n += capped(size(args[0]), size(args[1]))
	}
	return n
}

// product is the work of what looks at every pair.
func product(args []ref.Val) int { return capped(max(total(args[0]), 1), max(total(args[1]), 1)) }

// capped multiplies without overflow: beyond the bound it does not matter by how much.
func capped(a, b int) int {
	if a > 0 && b > 2*maxWork/a {
		return 2 * maxWork
	}
	return a * b
}

// size is the length of a text or of a list.
func size(v ref.Val) int {
	if s, ok := v.(traits.Sizer); ok {
		if n, ok := s.Size().(types.Int); ok {
			return int(min(n, 2*maxWork))
		}
	}
	return 1
}

// total is the length of a text, or of all that is in a list, in any depth.
func total(v ref.Val) int {
	n := size(v)
	list, ok := v.(traits.Lister)
	if !ok {
		if m, ok := v.(traits.Mapper); ok {
			for it := m.Iterator(); it.HasNext() == types.True && n <= maxWork; {
				key := it.Next()
				n += size(key) + total(m.Get(key))
			}
		}
		return n
	}
	for it := list.Iterator(); it.HasNext() == types.True && n <= maxWork; {
		n += total(it.Next())
	}
	return n
}
