package appset

import (
	"errors"
	"fmt"
	"reflect"
	"strings"
	"text/template"
	"text/template/parse"
)

// A template is a program, and what it is given may come from elsewhere. It is bounded by what it does, as a pure package has
// no clock: each turn of a loop, each function and each value that is looked at costs, and what a function may come to is
// estimated before it is called.

// budget counts work: about a nanosecond a unit.
type budget struct{ text, total int }

const (
	maxWork      = 1 << 26 // of one text
	maxTotalWork = 1 << 31 // of one ApplicationSet
	maxValue     = 4 << 20 // weight of a value, about its bytes
	stepCost     = 64      // of a turn of a loop
	callCost     = 256     // of a call of a function
)

var (
	errTooMuchWork = errors.New("it does too much")
	errTooLarge    = fmt.Errorf("a value has more than %d MiB", maxValue>>20)
)

func (b *budget) spend(n int) error {
	b.text += n
	b.total += n
	if n < 0 || b.text > maxWork || b.total > maxTotalWork {
		return errTooMuchWork
	}
	return nil
}

// weigh gives about the bytes of a value written out; an error: more than maxValue. Values may hold one another, even themselves.
func weigh(v reflect.Value) (int, error) {
	total := 0
	var walk func(v reflect.Value, depth int) error
	walk = func(v reflect.Value, depth int) error {
		total += 8 + depth
		if total > maxValue || depth > 1000 {
			return errTooLarge
		}
		switch v.Kind() {
		case reflect.Interface, reflect.Pointer:
			if !v.IsNil() {
				return walk(v.Elem(), depth+1)
			}
		case reflect.String:
			total += v.Len()
		case reflect.Slice, reflect.Array:
			switch v.Type().Elem().Kind() {
			case reflect.Uint8, reflect.Bool, reflect.Int, reflect.Int64, reflect.Float64:
				total += 8 * v.Len()
			default:
				for i := range v.Len() {
					if err := walk(v.Index(i), depth+1); err != nil {
						return err
					}
				}
			}
		case reflect.Map:
			for it := v.MapRange(); it.Next(); {
				if it.Key().Kind() == reflect.String {
					total += it.Key().Len()
				}
				if err := walk(it.Value(), depth+1); err != nil {
					return err
				}
			}
		}
		if total > maxValue {
			return errTooLarge
		}
		return nil
	}
	if !v.IsValid() {
		return 0, nil
	}
	err := walk(v, 0)
	return total, err
}

var errorType = reflect.TypeFor[error]()

// guarded gives a function that counts its work, and refuses values that are too large. grows estimates what it may come to,
// and how much there is to do for it, by its arguments; nil: not much more than they are.
func guarded(b *budget, fn any, grows func(args []reflect.Value) int) any {
	f := reflect.ValueOf(fn)
	t := f.Type()
	in := make([]reflect.Type, t.NumIn())
	for i := range in {
		in[i] = t.In(i)
	}
	out := []reflect.Type{t.Out(0), errorType}
	enter := func(args []reflect.Value) error {
		cost := callCost
		for _, arg := range args {
			n, err := weigh(arg)
			if err != nil {
				return err
			}
			cost += n
		}
		if grows != nil {
			n := grows(args)
			if n < 0 || n > maxWork {
				return errTooMuchWork
			}
			cost += n
		}
		return b.spend(cost)
	}
	return reflect.MakeFunc(reflect.FuncOf(in, out, t.IsVariadic()), func(args []reflect.Value) []reflect.Value {
		if err := enter(args); err != nil {
			return []reflect.Value{reflect.Zero(out[0]), reflect.ValueOf(&err).Elem()}
		}
		var got []reflect.Value
		if t.IsVariadic() {
			got = f.CallSlice(args)
		} else {
			got = f.Call(args)
		}
		if len(got) == 1 {
			got = append(got, reflect.Zero(errorType))
		}
		if got[1].IsNil() {
			if _, err := weigh(got[0]); err != nil {
				return []reflect.Value{reflect.Zero(out[0]), reflect.ValueOf(&err).Elem()}
			}
		}
		return got
	}).Interface()
}

// Names of functions that are put into what is parsed.
const stepFunction, showFunction = "__step", "__show"

// step counts a turn of a loop, or a call of a template.
func (r *renderer) step() (string, error) { return "", r.work.spend(stepCost) }

// show lets a value through that is about to be printed.
func (r *renderer) show(v any) (any, error) {
	n, err := weigh(reflect.ValueOf(v))
	if err != nil {
		return nil, err
	}
	return v, r.work.spend(n + 1)
}

// count has the templates that t knows count what they do.
func (r *renderer) count(t *template.Template) {
	for _, known := range t.Templates() {
		if known.Tree == nil || known.Root == nil || r.bound[known.Tree] {
			continue
		}
		r.bound[known.Tree] = true
		countList(known.Root)
		known.Root.Nodes = append([]parse.Node{call(stepFunction, known.Root.Position())}, known.Root.Nodes...)
	}
}

func countList(list *parse.ListNode) {
	if list == nil {
		return
	}
	for _, n := range list.Nodes {
		switch n := n.(type) {
		case *parse.ActionNode:
			if len(n.Pipe.Decl) == 0 {
				n.Pipe.Cmds = append(n.Pipe.Cmds, command(showFunction, n.Position()))
			}
		case *parse.IfNode:
			countList(n.List)
			countList(n.ElseList)
		case *parse.WithNode:
			countList(n.List)
			countList(n.ElseList)
		case *parse.RangeNode:
			countList(n.List)
			countList(n.ElseList)
			n.List.Nodes = append([]parse.Node{call(stepFunction, n.Position())}, n.List.Nodes...)
		}
	}
}

func command(name string, pos parse.Pos) *parse.CommandNode {
	return &parse.CommandNode{NodeType: parse.NodeCommand, Pos: pos, Args: []parse.Node{parse.NewIdentifier(name).SetPos(pos)}}
}

func call(name string, pos parse.Pos) *parse.ActionNode {
	pipe := &parse.PipeNode{NodeType: parse.NodePipe, Pos: pos, Cmds: []*parse.CommandNode{command(name, pos)}}
	return &parse.ActionNode{NodeType: parse.NodeAction, Pos: pos, Pipe: pipe}
}

// Estimates of what functions may come to.

func textOf(v reflect.Value) string {
	for v.Kind() == reflect.Interface && !v.IsNil() {
		v = v.Elem()
	}
	if v.Kind() == reflect.String {
		return v.String()
	}
	return ""
}

func numberOf(v reflect.Value) int {
	for v.Kind() == reflect.Interface && !v.IsNil() {
		v = v.Elem()
	}
	switch {
	case v.CanInt():
		return bounded(v.Int())
	case v.CanFloat():
		if f := v.Float(); f > -maxWork && f < maxWork {
			return int(f)
		}
		return maxWork
	}
	return 0
}

func bounded(n int64) int { return int(max(min(n, maxWork), -maxWork)) }

// times gives a*b for what is not negative, at most a bit more than may be.
func times(a, b int) int {
	if a <= 0 || b <= 0 {
		return 0
	}
	if a > maxWork/b {
		return maxWork + 1
	}
	return a * b
}

func length(v reflect.Value) int {
	for v.Kind() == reflect.Interface && !v.IsNil() {
		v = v.Elem()
	}
	switch v.Kind() {
	case reflect.Slice, reflect.Array, reflect.Map, reflect.String:
		return v.Len()
	}
	return 0
}

// formatted estimates what a format comes to: each width it names, each argument as often as there are verbs.
func formatted(args []reflect.Value) int {
	format, weight := textOf(args[0]), 0
	for _, arg := range args[1:] {
		n, _ := weigh(arg)
		weight += n
	}
	verbs := strings.Count(format, "%")
	total := times(verbs, 6*weight+1) + times(strings.Count(format, "*"), 1_000_000)
	for number, i := 0, 0; i <= len(format); i++ {
		if i < len(format) && format[i] >= '0' && format[i] <= '9' {
			number = min(number*10+int(format[i]-'0'), maxWork)
			continue
		}
		total, number = total+number, 0
	}
	return total
}
