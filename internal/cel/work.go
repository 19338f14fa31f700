package cel

import (
	"regexp/syntax"
	"strings"

	"github.com/google/cel-go/cel"
	"github.com/google/cel-go/common"
	"github.com/google/cel-go/common/ast"
	"github.com/google/cel-go/common/operators"
	"github.com/google/cel-go/common/types"
	"github.com/google/cel-go/common/types/ref"
	"github.com/google/cel-go/common/types/traits"
)

// work tells how much a call with these arguments will look at or make at the most, in characters, elements or comparisons.
type work func(m *meter, args []ref.Val) int

// workOf gives the work of a function by its name: which of its forms is called is often not known before. What is not named
// here looks at all that it is given, once.
func workOf(function string) work {
	switch function {
	case "dyn", "type", "hasValue", "value", "first", "last", "optional.of", "optional.none":
		return func(*meter, []ref.Val) int { return 0 }
	case operators.Add:
		return added
	case "size":
		return measured
	case operators.In, operators.OldIn:
		return looked
	case "replace":
		return replaced
	case "join":
		return joined
	case "format":
		return formatted
	case "indexOf", "lastIndexOf":
		return searched
	case "sets.contains", "sets.equivalent", "sets.intersects":
		return crossed
	case "matches":
		return matched
	}
	if strings.HasPrefix(function, "get") {
		return dated
	}
	return totals
}

func totals(_ *meter, args []ref.Val) (n int) {
	for _, a := range args {
		n += total(a)
	}
	return n
}

// dated is the work of a date's part: a time zone is read from its file.
func dated(_ *meter, args []ref.Val) int { return capped(len(args)-1, 2000) }

// added is the work of a sum: both are copied, but for a list that a loop makes, which grows in its place.
func added(_ *meter, args []ref.Val) (n int) {
	for _, a := range args {
		if _, grows := a.(traits.MutableLister); !grows {
			n += weight(a)
		}
	}
	return n
}

// measured is the work of a length: only characters have to be counted.
func measured(_ *meter, args []ref.Val) int {
	if text, ok := args[0].(types.String); ok {
		return len(text)
	}
	return 0
}

// looked is the work of a search in a list, or for a key.
func looked(m *meter, args []ref.Val) int {
	if _, ok := args[len(args)-1].(traits.Mapper); ok {
		return size(args[0])
	}
	return totals(m, args)
}

// replaced is the most characters that a replacement may leave.
func replaced(m *meter, args []ref.Val) int {
	if len(args) < 3 {
		return totals(m, args)
	}
	text, old, with := size(args[0]), size(args[1]), size(args[2])
	return capped(text/max(old, 1)+1, with) + text
}

// joined is how many characters a joined list has.
func joined(_ *meter, args []ref.Val) int {
	n := total(args[0])
	if len(args) > 1 {
		n += capped(size(args[0]), size(args[1]))
	}
	return n
}

// formatted goes by what the longest numbers take: three hundred digits where a precision is asked for, else twenty.
func formatted(m *meter, args []ref.Val) int {
	n := size(args[0])
	if text, ok := args[0].(types.String); ok {
		n += capped(strings.Count(string(text), "%"), 400)
	}
	return n + capped(20, totals(m, args[1:]))
}

// searched is the work of a text's search: it may be compared at each place.
func searched(_ *meter, args []ref.Val) int {
	if len(args) < 2 {
		return 0
	}
	return capped(max(size(args[0]), 1), max(size(args[1]), 1))
}

// crossed is the work of what compares every pair, twice: no comparison takes longer than the smaller of the two.
func crossed(_ *meter, args []ref.Val) int {
	if len(args) < 2 {
		return 0
	}
	a, b := args[0], args[1]
	return capped(2, min(capped(total(a), max(size(b), 1)), capped(total(b), max(size(a), 1))))
}

// maxPattern is the most characters of a regular expression: what the parser makes of each may be large.
const maxPattern = 2 << 10

// matched is the work of a regular expression: to compile it, and to look at every character in each of its states.
func matched(m *meter, args []ref.Val) int {
	if len(args) != 2 {
		return 0
	}
	pattern, ok := args[1].(types.String)
	if !ok {
		return 0
	}
	if len(pattern) > maxPattern {
		return 2 * maxWork
	}
	m.work(20 * len(pattern))
	re, err := syntax.Parse(string(pattern), syntax.Perl)
	if err != nil {
		return 0 // the call will say it
	}
	return capped(states(re), 100+size(args[0]))
}

// states is about how many states a regular expression is compiled to.
func states(re *syntax.Regexp) int {
	n := 1 + len(re.Rune)/8
	for _, sub := range re.Sub {
		n += states(sub)
	}
	if re.Op == syntax.OpRepeat {
		n = capped(n, max(re.Min, re.Max, 1))
	}
	return n
}

// joinedLists is the sum of two lists as a plain list; nil of others. CEL makes a view, and views of views are slow to go through.
func joinedLists(a, b ref.Val) ref.Val {
	if _, grows := a.(traits.MutableLister); grows {
		return nil
	}
	first, ok := a.(traits.Lister)
	second, ok2 := b.(traits.Lister)
	if !ok || !ok2 || size(a) == 0 || size(b) == 0 {
		return nil
	}
	values := make([]ref.Val, 0, size(a)+size(b))
	for _, list := range []traits.Lister{first, second} {
		for it := list.Iterator(); it.HasNext() == types.True; {
			values = append(values, it.Next())
		}
	}
	return types.NewRefValList(types.DefaultTypeAdapter, values)
}

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

// perElement is how many characters an element of a list or an entry of a map is worth.
const perElement = 8

// weight is what a value takes without what is in it.
func weight(v ref.Val) int {
	switch v.(type) {
	case traits.Lister, traits.Mapper:
		return capped(size(v), perElement)
	}
	return size(v)
}

// total is what a value takes with all that is in it, in any depth, as often as it is in there. It stops looking beyond the bound.
func total(v ref.Val) int {
	n := weight(v)
	switch v := v.(type) {
	case *types.Optional:
		if v.HasValue() {
			n += total(v.GetValue())
		}
	case traits.Lister:
		for it := v.Iterator(); it.HasNext() == types.True && n <= maxWork; {
			n += total(it.Next())
		}
	case traits.Mapper:
		for it := v.Iterator(); it.HasNext() == types.True && n <= maxWork; {
			key := it.Next()
			n += total(key) + total(v.Get(key))
		}
	}
	return n
}

// maxTwice is the most parts of what a macro repeats.
const maxTwice = 200

// boundedMacros gives those macros that repeat what they are called on with a bound for it: in a chain, each doubles it.
func boundedMacros(all []cel.Macro) (bounded []cel.Macro) {
	for _, m := range all {
		if name := m.Function(); name != "optMap" && name != "optFlatMap" {
			continue
		}
		expand := m.Expander()
		bounded = append(bounded, cel.ReceiverMacro(m.Function(), m.ArgCount(), func(f cel.MacroExprFactory, target ast.Expr, args []ast.Expr) (ast.Expr, *common.Error) {
			parts := 0
			ast.PreOrderVisit(target, ast.NewExprVisitor(func(ast.Expr) { parts++ }))
			if parts > maxTwice {
				return nil, f.NewError(target.ID(), m.Function()+" is called on an expression over the limit of its size")
			}
			return expand(f, target, args)
		}))
	}
	return bounded
}
