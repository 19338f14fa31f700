// Package cel compiles and evaluates the expressions that users write, in the dialect of CEL that Flux's are written in
// (github.com/fluxcd/pkg/runtime/cel): health checks, readiness of dependencies, filters of receivers, names of commit
// statuses.
//
// Whoever may write an expression may not take the program's time or memory with it. A text has a most length, what is made of
// it a most size, and an evaluation a most cost, which [Limit] gives. CEL has a limit of its own; it is not used: it looks at
// what a call has cost after the call, takes most functions for cheap where the types of the arguments are not known, and takes
// a time for its count that grows with the square of the cost. Here every step counts itself, and a call is charged for what
// it will look at or make before it is made.
//
// The package is pure, and the only one that knows the library.
package cel

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"

	"github.com/google/cel-go/cel"
	"github.com/google/cel-go/common/ast"
	"github.com/google/cel-go/common/functions"
	"github.com/google/cel-go/common/operators"
	"github.com/google/cel-go/common/types"
	"github.com/google/cel-go/common/types/ref"
	"github.com/google/cel-go/ext"
)

// MaxText is the most characters of an expression.
const MaxText = 16 << 10

// maxError is the most bytes of an error: some name the value that they are about.
const maxError = 500

// Expression is a compiled expression. It may be evaluated by many at once.
type Expression struct{ program cel.Program }

// Scope is what expressions of one purpose may name. The zero Scope is not usable.
type Scope struct{ made func() (*dialect, error) }

// dialect is an environment with what its program options need.
type dialect struct {
	env       *cel.Env
	functions map[string]*functions.Overload
}

// NewScope gives the scope of some variables, each of them an object. It is made with the first expression: that takes time,
// which not every command has to spend.
func NewScope(variables ...string) *Scope {
	return &Scope{sync.OnceValues(func() (*dialect, error) { return newDialect(variables) })}
}

func newDialect(variables []string) (*dialect, error) {
	options := []cel.EnvOption{
		cel.HomogeneousAggregateLiterals(), cel.EagerlyValidateDeclarations(true), cel.DefaultUTCTimeZone(true),
		cel.CrossTypeNumericComparisons(true), cel.OptionalTypes(), ext.Strings(), ext.Sets(), ext.Encoders(),
		cel.ParserExpressionSizeLimit(MaxText),
	}
	for _, v := range variables {
		options = append(options, cel.Variable(v, cel.ObjectType("google.protobuf.Struct")))
	}
	env, err := cel.NewEnv(options...)
	if err != nil {
		return nil, fmt.Errorf("set up CEL: %w", err)
	}
	if env, err = env.Extend(cel.Macros(boundedMacros(env.Macros())...)); err != nil {
		return nil, fmt.Errorf("set up CEL: %w", err)
	}
	d := &dialect{env: env, functions: map[string]*functions.Overload{}}
	for _, f := range env.Functions() {
		bindings, err := f.Bindings()
		if err != nil {
			return nil, fmt.Errorf("set up CEL: %w", err)
		}
		for _, b := range bindings {
			d.functions[b.Operator] = b
		}
	}
	// What the planner has built in.
	d.functions[operators.Equals] = &functions.Overload{Binary: types.Equal}
	d.functions[operators.NotEquals] = &functions.Overload{Binary: func(a, b ref.Val) ref.Val { return types.Bool(types.Equal(a, b) != types.True) }}
	return d, nil
}

// Compile checks an expression against the scope's variables, and that it gives true or false. The error tells the line and
// the column.
func (s *Scope) Compile(text string) (*Expression, error) {
	return s.compile(text, cel.BoolType)
}

// CompileText is Compile for an expression that gives a text, or may: that of a field shows when it is evaluated.
func (s *Scope) CompileText(text string) (*Expression, error) {
	return s.compile(text, cel.StringType, cel.DynType)
}

func (s *Scope) compile(text string, gives ...*cel.Type) (*Expression, error) {
	d, a, err := s.parse(text)
	if err != nil {
		return nil, err
	}
	a, issues := d.env.Check(a)
	if err := told(issues); err != nil {
		return nil, err
	}
	if t := a.OutputType(); !slices.ContainsFunc(gives, t.IsExactType) {
		return nil, fmt.Errorf("it gives a value of the type %s, not %s", t, gives[0])
	}
	return d.expression(a)
}

// Parse takes an expression as it is written: which variables there are shows when it is evaluated. The error tells the line
// and the column.
func (s *Scope) Parse(text string) (*Expression, error) {
	d, a, err := s.parse(text)
	if err != nil {
		return nil, err
	}
	return d.expression(a)
}

func (s *Scope) parse(text string) (*dialect, *cel.Ast, error) {
	d, err := s.made()
	if err != nil {
		return nil, nil, err
	}
	if err := short(text); err != nil {
		return nil, nil, err
	}
	a, issues := d.env.Parse(text)
	return d, a, told(issues)
}

func (d *dialect) expression(a *cel.Ast) (*Expression, error) {
	if err := noMessages(a.NativeRep()); err != nil {
		return nil, err
	}
	p, err := d.env.Program(a, cel.CustomDecoratorV2(d.metered))
	if err != nil {
		return nil, err
	}
	return &Expression{p}, nil
}

// noMessages refuses protobuf's messages, Type{field: value}: no object has one, and what is made for them cannot be charged.
func noMessages(a *ast.AST) (err error) {
	ast.PreOrderVisit(a.Expr(), ast.NewExprVisitor(func(e ast.Expr) {
		if e.Kind() == ast.StructKind && err == nil {
			at := a.SourceInfo().GetStartLocation(e.ID())
			err = fmt.Errorf("line %d, column %d: a message (%s{}) is not supported", at.Line(), at.Column()+1, e.AsStruct().TypeName())
		}
	}))
	return err
}

// short looks at the length before anything else does.
func short(text string) error {
	if len(text) > 4*MaxText { // the parser counts the characters
		return fmt.Errorf("it is longer than the limit of %d characters", MaxText)
	}
	return nil
}

// told gives the first issue of an expression in one line, nil where there is none. Issues.Err would write all of them, each
// with the whole line that it is in.
func told(issues *cel.Issues) error {
	if issues == nil || len(issues.Errors()) == 0 {
		return nil
	}
	all := issues.Errors()
	message, _, _ := strings.Cut(all[0].Message, "\n")
	if at := all[0].Location; at.Line() >= 1 { // else it is about the whole
		return fmt.Errorf("line %d, column %d: %s", at.Line(), at.Column()+1, message)
	}
	return errors.New(message)
}

// True evaluates the expression: its values are those that JSON gives. An error says why it cannot be, mostly because it asks
// for a field that is not there, or that it costs more than [Limit].
func (e *Expression) True(vars map[string]any) (bool, error) {
	value, err := e.value(vars)
	if err != nil {
		return false, err
	}
	answer, ok := value.(types.Bool)
	if !ok {
		return false, fmt.Errorf("it gives a value of the type %s, not true or false", value.Type().TypeName())
	}
	return bool(answer), nil
}

// Text evaluates an expression that gives a text, as True does one that gives true or false.
func (e *Expression) Text(vars map[string]any) (string, error) {
	value, err := e.value(vars)
	if err != nil {
		return "", err
	}
	answer, ok := value.(types.String)
	if !ok {
		return "", fmt.Errorf("it gives a value of the type %s, not a string", value.Type().TypeName())
	}
	return string(answer), nil
}

func (e *Expression) value(vars map[string]any) (ref.Val, error) {
	value, _, err := e.program.Eval(&activation{vars: vars})
	if err == nil {
		return value, nil
	}
	if text := err.Error(); len(text) > maxError {
		err = errors.New(strings.ToValidUTF8(text[:maxError], "") + "…")
	}
	return nil, err
}
