package health

import (
	"errors"
	"fmt"
	"maps"
	"slices"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"keelson.dev/keelson/internal/cel"
	"keelson.dev/keelson/internal/delivery"
)

// maxExprs is the most entries of healthCheckExprs; [cel] bounds each expression.
const maxExprs = 256

// What expressions may name: a health check the fields of the object, a readyExpr the app and its dependency.
var (
	ofObject     = cel.NewScope()
	ofDependency = cel.NewScope("self", "dep")
)

// invalid is the fault of an expression that cannot be used: nothing but another spec can help (Flux's reason).
func invalid(where string, err error) error {
	return &delivery.Fault{
		Reason: "InvalidCELExpression", Where: where, Retry: delivery.OnEvent, Err: err, Hint: "correct the CEL expression",
	}
}

// Rules are what an app says about the health of some kinds, compiled, or those of Argo CD ([NewArgo]). The nil Rules say nothing:
// kstatus decides.
type Rules struct {
	exprs []delivery.HealthExpr
	kinds map[schema.GroupKind]rule
	argo  *argo // not nil: these alone
}

// rule is one [delivery.HealthExpr]: its expressions in the order in which they are asked.
type rule []question

type question struct {
	name   string
	expr   *cel.Expression
	answer delivery.HealthStatus
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
			expr, err := ofObject.Parse(q.text)
			if err != nil {
				return nil, invalid(where+"."+q.name, err)
			}
			made = append(made, question{name: q.name, expr: expr, answer: q.answer})
		}
		r.kinds[gk] = made
	}
	return r, nil
}

// Kind tells whether the rules are about a kind.
func (r *Rules) Kind(gk schema.GroupKind) bool {
	_, ok := r.rule(gk)
	return ok || r != nil && r.argo != nil
}

// Alike tells whether both judge a kind alike, as far as can be told.
func (r *Rules) Alike(o *Rules, gk schema.GroupKind) bool {
	if r != nil && o != nil && r.argo != nil && o.argo != nil {
		return r.argo.alike(o.argo, gk)
	}
	return !r.Kind(gk) && !o.Kind(gk)
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
	if r.argo != nil || o.argo != nil {
		return r == o || r.argo != nil && o.argo != nil && slices.Equal(r.argo.scripts, o.argo.scripts)
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
// evaluated says that the object is in progress: mostly it asks for a field that is not there yet (as in Flux). A script is waited
// for.
func (r *Rules) Of(u *unstructured.Unstructured) delivery.Health { return r.Ask(u).Health }

// Quick tells how an object is doing; false: a script has to be asked, which takes its time ([Rules.Ask]).
func (r *Rules) Quick(u *unstructured.Unstructured) (delivery.Health, bool) {
	if r == nil || r.argo == nil {
		return r.expressed(u), true
	}
	h, script := r.argo.quick(u)
	return h, script == nil
}

// Ask is [Rules.Of], and tells whether a script was stopped.
func (r *Rules) Ask(u *unstructured.Unstructured) delivery.HealthVerdict {
	if r == nil || r.argo == nil {
		return delivery.HealthVerdict{Health: r.expressed(u)}
	}
	return r.argo.of(u)
}

func (r *Rules) expressed(u *unstructured.Unstructured) delivery.Health {
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
		yes, err := q.expr.True(u.Object)
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
type Readiness struct{ expr *cel.Expression }

// CompileReady compiles how a dependency tells that it is ready. The error is a [*delivery.Fault].
func CompileReady(dep delivery.ID, expr string) (*Readiness, error) {
	where := fmt.Sprintf("spec.dependsOn, readyExpr of %s/%s", dep.Namespace, dep.Name)
	e, err := ofDependency.Compile(expr)
	if err != nil {
		return nil, invalid(where, err)
	}
	return &Readiness{e}, nil
}

// Of evaluates the expression for the app and the dependency as they are in the cluster. An error says why it
// cannot be evaluated now.
func (r *Readiness) Of(self, dep map[string]any) (bool, error) {
	return r.expr.True(map[string]any{"self": self, "dep": dep})
}
