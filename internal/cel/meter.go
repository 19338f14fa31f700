package cel

import (
	"fmt"

	"github.com/google/cel-go/common/functions"
	"github.com/google/cel-go/common/operators"
	"github.com/google/cel-go/common/types"
	"github.com/google/cel-go/common/types/ref"
	"github.com/google/cel-go/common/types/traits"
	"github.com/google/cel-go/interpreter"
)

// Limit is the most that one evaluation may cost. A step costs 1 (a value, a field, a call, a turn of a loop), a call one more for
// each twenty-five characters, elements or comparisons that it takes. A filter over twenty conditions costs about 300, and the
// limit is reached in about a twentieth of a second, and with some tens of megabytes.
const (
	Limit       = 100_000
	workPerUnit = 25
	maxWork     = Limit * workPerUnit
)

// activation is the variables of one evaluation, and its meter.
type activation struct {
	vars  map[string]any
	meter meter
}

// meterName is no name that an expression can have.
const meterName = "#meter"

// ResolveName gives a variable.
func (a *activation) ResolveName(name string) (any, bool) {
	if name == meterName {
		return &a.meter, true
	}
	v, ok := a.vars[name]
	return v, ok
}

// Parent gives nil: there is no scope around this one.
func (a *activation) Parent() interpreter.Activation { return nil }

// meter counts what an evaluation has cost.
type meter struct{ spent int }

func meterOf(vars interpreter.Activation) *meter {
	m, _ := vars.ResolveName(meterName)
	return m.(*meter) //nolint:forcetypeassert // nothing else has the name
}

// charge ends the evaluation where the limit is passed. An error among the values would not do: loops and || go on with one.
func (m *meter) charge(units int) {
	if m.spent += units; m.spent > Limit {
		panic(interpreter.EvalCancelledError{
			Cause: interpreter.CostLimitExceeded, Message: fmt.Sprintf("it is stopped at the cost limit of %d: it takes or makes too much", Limit),
		})
	}
}

// work charges for a piece of work, in characters, elements or comparisons.
func (m *meter) work(n int) { m.charge(1 + min(n, 2*maxWork)/workPerUnit) }

// metered makes a planned step of an expression count itself. The planner goes from the leaves to the root.
func (d *dialect) metered(i interpreter.InterpretableV2) (interpreter.InterpretableV2, error) {
	switch s := i.(type) {
	case *attribute, *constant, *step, *call:
		return i, nil
	case interpreter.InterpretableAttribute:
		return &attribute{InterpretableAttribute: s, cost: new(int)}, nil
	case interpreter.InterpretableConst:
		return &constant{s}, nil
	case interpreter.InterpretableCall:
		f := d.functions[s.OverloadID()]
		if f == nil {
			f = d.functions[s.Function()]
		}
		if f != nil && !f.NonStrict { // else it gives an error, or looks at whether there is one
			return &call{InterpretableCall: s, function: f, args: s.Args(), work: workOf(s.Function())}, nil
		}
	}
	return &step{i}, nil
}

type step struct{ interpreter.InterpretableV2 }

// Exec counts the step.
func (s *step) Exec(frame *interpreter.ExecutionFrame) ref.Val {
	meterOf(frame).charge(1)
	return s.InterpretableV2.Exec(frame)
}

// Eval counts the step.
func (s *step) Eval(vars interpreter.Activation) ref.Val { return s.Exec(interpreter.AsFrame(vars)) }

type constant struct{ interpreter.InterpretableConst }

// Exec counts the step.
func (c *constant) Exec(frame *interpreter.ExecutionFrame) ref.Val {
	meterOf(frame).charge(1)
	return c.InterpretableConst.Exec(frame)
}

// Eval counts the step.
func (c *constant) Eval(vars interpreter.Activation) ref.Val {
	return c.Exec(interpreter.AsFrame(vars))
}

// attribute is a variable or a value with the fields and indexes that lead on from there; each costs.
type attribute struct {
	interpreter.InterpretableAttribute
	cost *int // beyond the first step
}

// AddQualifier appends a field or an index.
func (a *attribute) AddQualifier(q interpreter.Qualifier) (interpreter.Attribute, error) {
	*a.cost++
	_, err := a.InterpretableAttribute.AddQualifier(q)
	return a, err
}

// Attr gives the attribute for a condition (a ? b : c), which goes around the step.
func (a *attribute) Attr() interpreter.Attribute {
	return &branch{Attribute: a.InterpretableAttribute.Attr(), cost: a.cost}
}

// Exec counts the steps.
func (a *attribute) Exec(frame *interpreter.ExecutionFrame) ref.Val {
	meterOf(frame).charge(1 + *a.cost)
	return a.InterpretableAttribute.Exec(frame)
}

// Eval counts the steps.
func (a *attribute) Eval(vars interpreter.Activation) ref.Val {
	return a.Exec(interpreter.AsFrame(vars))
}

// Resolve counts the steps.
func (a *attribute) Resolve(vars interpreter.Activation) (any, error) {
	meterOf(vars).charge(1 + *a.cost)
	return a.InterpretableAttribute.Resolve(vars)
}

// Qualify counts the steps.
func (a *attribute) Qualify(vars interpreter.Activation, obj any) (any, error) {
	meterOf(vars).charge(1 + *a.cost)
	return a.InterpretableAttribute.Qualify(vars, obj)
}

// QualifyIfPresent counts the steps.
func (a *attribute) QualifyIfPresent(vars interpreter.Activation, obj any, presenceOnly bool) (any, bool, error) {
	meterOf(vars).charge(1 + *a.cost)
	return a.InterpretableAttribute.QualifyIfPresent(vars, obj, presenceOnly)
}

type branch struct {
	interpreter.Attribute
	cost *int
}

// AddQualifier appends a field or an index.
func (b *branch) AddQualifier(q interpreter.Qualifier) (interpreter.Attribute, error) {
	*b.cost++
	_, err := b.Attribute.AddQualifier(q)
	return b, err
}

// Resolve counts the steps.
func (b *branch) Resolve(vars interpreter.Activation) (any, error) {
	meterOf(vars).charge(1 + *b.cost)
	return b.Attribute.Resolve(vars)
}

// call is a call that is charged before it is made.
type call struct {
	interpreter.InterpretableCall
	args     []interpreter.InterpretableV2
	function *functions.Overload
	work     work
}

// Eval makes the call.
func (c *call) Eval(vars interpreter.Activation) ref.Val { return c.Exec(interpreter.AsFrame(vars)) }

// Exec makes the call, by CEL's rules: no call with an error, by the function where its argument is of the right kind, else by
// the method of the first argument.
func (c *call) Exec(frame *interpreter.ExecutionFrame) ref.Val {
	args := make([]ref.Val, len(c.args))
	for i, a := range c.args {
		if args[i] = a.Exec(frame); types.IsUnknownOrError(args[i]) {
			return args[i]
		}
	}
	m := meterOf(frame)
	m.work(c.work(m, args))
	return types.LabelErrNode(c.ID(), c.made(args))
}

func (c *call) made(args []ref.Val) ref.Val {
	if c.Function() == operators.Add && len(args) == 2 {
		if list := joinedLists(args[0], args[1]); list != nil {
			return list
		}
	}
	f := c.function
	switch fits := len(args) == 0 || f.OperandTrait == 0 || args[0].Type().HasTrait(f.OperandTrait); {
	case fits && len(args) == 1 && f.Unary != nil:
		return f.Unary(args[0])
	case fits && len(args) == 2 && f.Binary != nil:
		return f.Binary(args[0], args[1])
	case fits && f.Function != nil:
		return f.Function(args...)
	}
	if len(args) > 0 && args[0].Type().HasTrait(traits.ReceiverType) {
		return args[0].(traits.Receiver).Receive(c.Function(), c.OverloadID(), args[1:]) //nolint:forcetypeassert // it has the trait
	}
	return types.NewErr("no such overload: %s", c.Function())
}
