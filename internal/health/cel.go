package health

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"

	"github.com/google/cel-go/cel"
	"github.com/google/cel-go/ext"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"keelson.dev/keelson/internal/delivery"
)

// Bounds of what a user may write. The cost is that of one evaluation, in CEL's own units: a filter over twenty conditions
// takes about 300 of them, all of them together a tenth of a second.
const (
	maxExpression = 16 << 10 // characters
	maxExprs      = 256
	maxCost       = 100_000
)

// options are the dialect of CEL that Flux's expressions are written in (github.com/fluxcd/pkg/runtime/cel).
var options = []cel.EnvOption{
	cel.HomogeneousAggregateLiterals(), cel.EagerlyValidateDeclarations(true), cel.DefaultUTCTimeZone(true),
	cel.CrossTypeNumericComparisons(true), cel.OptionalTypes(), ext.Strings(), ext.Sets(), ext.Encoders(),
	cel.ParserExpressionSizeLimit(maxExpression),
}

// environments are made with the first expression.
var environments = sync.OnceValues(func() (envs [2]*cel.Env, err error) {
	if envs[0], err = cel.NewEnv(options...); err != nil {
		return envs, err
	}
	object := cel.MapType(cel.StringType, cel.DynType)
	envs[1], err = envs[0].Extend(cel.Variable("self", object), cel.Variable("dep", object))
	return envs, err
})

// invalid is the fault of an expression that cannot be used: nothing but another spec can help (Flux's reason).
func invalid(where string, err error) error {
	return &delivery.Fault{
		Reason: "InvalidCELExpression", Where: where, Retry: delivery.OnEvent, Err: err, Hint: "correct the CEL expression",
	}
}

// told gives the first issue of an expression in one line.
func told(issues *cel.Issues) error {
	for _, e := range issues.Errors() {
		message, _, _ := strings.Cut(e.Message, "\n")
		return fmt.Errorf("line %d, column %d: %s", e.Location.Line(), e.Location.Column()+1, message)
	}
	return issues.Err()
}

func program(env *cel.Env, ast *cel.Ast) (cel.Program, error) {
	return env.Program(ast, cel.EvalOptions(cel.OptOptimize), cel.CostLimit(maxCost))
}

// truth evaluates an expression.
func truth(p cel.Program, vars map[string]any) (bool, error) {
	value, _, err := p.Eval(vars)
	if err != nil {
		return false, err
	}
	answer, ok := value.Value().(bool)
	if !ok {
		return false, fmt.Errorf("it gives a value of the type %s, not true or false", value.Type().TypeName())
	}
	return answer, nil
}

// Rules are what an app says about the health of some kinds, compiled. The nil Rules say nothing: kstatus decides.
type Rules struct {
	exprs []delivery.HealthExpr
	kinds map[schema.GroupKind]rule
}

// rule is one [delivery.HealthExpr]: its expressions in the order in which they are asked.
type rule []question

type question struct {
	name    string
	program cel.Program
	answer  delivery.HealthStatus
}

// Compile compiles an app's expressions; none give nil. The error is a [*delivery.Fault] that names the expression.
func Compile(exprs []delivery.HealthExpr) (*Rules, error) {
	const where = "spec.healthCheckExprs"
	if len(exprs) == 0 {
		return nil, nil //nolint:nilnil // nil Rules say nothing
	}
	if len(exprs) > maxExprs {
		return nil, invalid(where, fmt.Errorf("it has %d entries, more than %d", len(exprs), maxExprs))
	}
	envs, err := environments()
	if err != nil {
		return nil, fmt.Errorf("set up CEL: %w", err)
	}
	r := &Rules{exprs: exprs, kinds: map[schema.GroupKind]rule{}}
	for i, e := range exprs {
		where := fmt.Sprintf("%s[%d]", where, i)
		gk := schema.GroupKind{Group: e.Group, Kind: e.Kind}
		if _, twice := r.kinds[gk]; twice {
			return nil, invalid(where, fmt.Errorf("another entry is about %s too", gk))
		}
		if e.Current == "" {
			return nil, invalid(where+".current", errors.New("it is empty"))
		}
		var made rule
		for _, q := range []struct {
			name, text string
			answer     delivery.HealthStatus
		}{
			{"inProgress", e.InProgress, delivery.Progressing}, {"failed", e.Failed, delivery.Degraded}, {"current", e.Current, delivery.Healthy},
		} {
			if q.text == "" {
				continue
			}
			// Only parsed: what fields an object has is not known before it is there.
			ast, issues := envs[0].Parse(q.text)
			if issues.Err() != nil {
				return nil, invalid(where+"."+q.name, told(issues))
			}
			p, err := program(envs[0], ast)
			if err != nil {
				return nil, invalid(where+"."+q.name, err)
			}
			made = append(made, question{name: q.name, program: p, answer: q.answer})
		}
		r.kinds[gk] = made
	}
	return r, nil
}

// Kind tells whether the rules are about a kind.
func (r *Rules) Kind(gk schema.GroupKind) bool {
	_, ok := r.rule(gk)
	return ok
}

func (r *Rules) rule(gk schema.GroupKind) (rule, bool) {
	if r == nil {
		return nil, false
	}
	if one, ok := r.kinds[gk]; ok {
		return one, true
	}
	all, ok := r.kinds[schema.GroupKind{Group: gk.Group}]
	return all, ok
}

// Same tells whether both say the same.
func (r *Rules) Same(o *Rules) bool {
	if r == nil || o == nil {
		return r == o
	}
	return slices.Equal(r.exprs, o.exprs)
}

// Kinds are the kinds that the rules are about; one without a name stands for its group.
func (r *Rules) Kinds() []schema.GroupKind {
	if r == nil {
		return nil
	}
	return slices.Collect(maps.Keys(r.kinds))
}

// Of tells how an object is doing: by the rules where they are about its kind, else by kstatus. An expression that cannot be
// evaluated says that the object is in progress: mostly it asks for a field that is not there yet (as in Flux).
func (r *Rules) Of(u *unstructured.Unstructured) delivery.Health {
	gk := u.GroupVersionKind().GroupKind()
	rule, ok := r.rule(gk)
	if !ok {
		return Of(u)
	}
	generation, known, err := unstructured.NestedInt64(u.Object, "metadata", "generation")
	observed, told, err2 := unstructured.NestedInt64(u.Object, "status", "observedGeneration")
	if err == nil && err2 == nil && known && told && observed != generation {
		return delivery.Health{Status: delivery.Progressing, Message: fmt.Sprintf("generation is %d, but latest observed generation is %d", generation, observed)}
	}
	for _, q := range rule {
		yes, err := truth(q.program, u.Object)
		switch {
		case err != nil && gk == (schema.GroupKind{Kind: "Secret"}): // the error might tell a value
			return delivery.Health{Status: delivery.Progressing, Message: "healthCheckExprs: " + q.name + " cannot be evaluated"}
		case err != nil:
			return delivery.Health{Status: delivery.Progressing, Message: "healthCheckExprs: " + q.name + ": " + err.Error()}
		case yes && q.answer == delivery.Healthy:
			return delivery.Health{Status: delivery.Healthy}
		case yes:
			return delivery.Health{Status: q.answer, Message: "healthCheckExprs: " + q.name + " is true"}
		}
	}
	return delivery.Health{Status: delivery.Progressing, Message: "healthCheckExprs: current is not true yet"}
}

// Readiness is a readyExpr, compiled.
type Readiness struct{ program cel.Program }

// CompileReady compiles how a dependency tells that it is ready. The error is a [*delivery.Fault].
func CompileReady(dep delivery.ID, expr string) (*Readiness, error) {
	where := fmt.Sprintf("spec.dependsOn, readyExpr of %s/%s", dep.Namespace, dep.Name)
	envs, err := environments()
	if err != nil {
		return nil, fmt.Errorf("set up CEL: %w", err)
	}
	ast, issues := envs[1].Compile(expr)
	if issues.Err() != nil {
		return nil, invalid(where, told(issues))
	}
	if t := ast.OutputType(); !t.IsExactType(cel.BoolType) {
		return nil, invalid(where, fmt.Errorf("it gives a value of the type %s, not bool", t))
	}
	p, err := program(envs[1], ast)
	if err != nil {
		return nil, invalid(where, err)
	}
	return &Readiness{p}, nil
}

// Of evaluates the expression for the app and the dependency as they are in the cluster. An error says why it
// cannot be evaluated now.
func (r *Readiness) Of(self, dep map[string]any) (bool, error) {
	return truth(r.program, map[string]any{"self": self, "dep": dep})
}
