package plan

import (
	"errors"
	"fmt"
	"regexp/syntax"

	"github.com/itchyny/gojq"
)

// A jq expression is run inside this program, and is only interrupted between two of its steps. So that no step takes long or much
// memory, whoever wrote it, it may be made only of what finds something in an object: nothing that makes a larger value out of a smaller one.

const (
	maxJQ      = 4096 // bytes of an expression
	maxMatcher = 256  // instructions of a regular expression
)

// finders are the functions that an expression may call, by how many arguments they take. Those of an argument that is not a constant find
// it by running it.
var finders = map[string][]int{
	"all": {0, 1, 2}, "any": {0, 1, 2}, "arrays": {0}, "ascii_downcase": {0}, "ascii_upcase": {0}, "booleans": {0}, "empty": {0}, "endswith": {1},
	"first": {0, 1}, "getpath": {1}, "has": {1}, "in": {1}, "IN": {1, 2}, "isempty": {1}, "iterables": {0}, "keys": {0}, "keys_unsorted": {0},
	"last": {0, 1}, "leaf_paths": {0}, "length": {0}, "limit": {2}, "ltrimstr": {1}, "not": {0}, "nulls": {0}, "numbers": {0},
	"objects": {0}, "path": {1}, "paths": {0, 1}, "recurse": {0}, "rtrimstr": {1}, "scalars": {0}, "select": {1}, "startswith": {1}, "strings": {0},
	"to_entries": {0}, "tostring": {0}, "type": {0}, "values": {0},
}

// comparers are those whose argument has to be a constant, as each of its parts is looked for in the whole value.
var comparers = map[string]bool{"contains": true, "index": true, "indices": true, "inside": true, "rindex": true}

// ParseJQ reads a jq expression that names fields. The error is one for who wrote it: it cannot be read, or it uses what may take any time
// or memory.
func ParseJQ(expression string) (*gojq.Query, error) {
	if len(expression) > maxJQ {
		return nil, fmt.Errorf("it is longer than %d bytes", maxJQ)
	}
	query, err := gojq.Parse(expression)
	if err != nil {
		return nil, err
	}
	return query, checkQuery(query)
}

// CheckDeletion checks a program that deletes the fields which an expression names, as [ParseJQ] does the expression.
func CheckDeletion(q *gojq.Query) error {
	if q.Term == nil || q.Term.Type != gojq.TermTypeFunc || q.Term.Func.Name != "del" || len(q.Term.Func.Args) != 1 || len(q.Term.SuffixList)+len(q.FuncDefs)+len(q.Imports) > 0 || q.Meta != nil {
		return refused("other than del(…)")
	}
	return checkQuery(q.Term.Func.Args[0])
}

// refused says what of an expression is not run.
func refused(what string) error {
	return fmt.Errorf("%s is not supported: it may take any time or memory", what)
}

func checkQuery(q *gojq.Query) error {
	switch {
	case q == nil:
		return nil
	case q.Meta != nil || len(q.Imports) > 0:
		return refused("a module")
	case len(q.FuncDefs) > 0:
		return refused("def")
	case q.Term != nil:
		return checkTerm(q.Term)
	}
	for _, p := range q.Patterns {
		if p.Name == "" {
			return refused("destructuring")
		}
	}
	switch q.Op {
	case gojq.OpPipe, gojq.OpComma, gojq.OpEq, gojq.OpNe, gojq.OpGt, gojq.OpLt, gojq.OpGe, gojq.OpLe, gojq.OpAnd, gojq.OpOr, gojq.OpAlt:
	case gojq.OpAdd, gojq.OpSub:
		if !scalar(q.Left) && !scalar(q.Right) {
			return refused("operator " + q.Op.String() + " without a number or a text on one side")
		}
	default:
		return refused("operator " + q.Op.String())
	}
	return errors.Join(checkQuery(q.Left), checkQuery(q.Right))
}

func checkTerm(t *gojq.Term) error {
	var err error
	switch t.Type {
	case gojq.TermTypeIdentity, gojq.TermTypeRecurse, gojq.TermTypeNull, gojq.TermTypeTrue, gojq.TermTypeFalse, gojq.TermTypeNumber:
	case gojq.TermTypeIndex:
		err = checkIndex(t.Index)
	case gojq.TermTypeFunc:
		err = checkFunc(t.Func)
	case gojq.TermTypeObject, gojq.TermTypeArray:
		if bare := (&gojq.Term{Type: t.Type, Object: t.Object, Array: t.Array}); !constantTerm(bare) {
			err = refused("an array or object that is not of constants")
		}
	case gojq.TermTypeUnary:
		err = checkTerm(t.Unary.Term)
	case gojq.TermTypeString:
		err = checkString(t.Str)
	case gojq.TermTypeIf:
		err = errors.Join(checkQuery(t.If.Cond), checkQuery(t.If.Then), checkQuery(t.If.Else))
		for _, elif := range t.If.Elif {
			err = errors.Join(err, checkQuery(elif.Cond), checkQuery(elif.Then))
		}
	case gojq.TermTypeTry:
		err = errors.Join(checkQuery(t.Try.Body), checkQuery(t.Try.Catch))
	case gojq.TermTypeQuery:
		err = checkQuery(t.Query)
	case gojq.TermTypeReduce:
		err = refused("reduce")
	case gojq.TermTypeForeach:
		err = refused("foreach")
	case gojq.TermTypeLabel, gojq.TermTypeBreak:
		err = refused("label")
	case gojq.TermTypeFormat:
		err = refused(t.Format)
	default:
		err = refused(t.String())
	}
	for _, s := range t.SuffixList {
		err = errors.Join(err, checkIndex(s.Index))
	}
	return err
}

func checkIndex(i *gojq.Index) error {
	if i == nil {
		return nil
	}
	return errors.Join(checkString(i.Str), checkQuery(i.Start), checkQuery(i.End))
}

func checkString(s *gojq.String) error {
	if s != nil && len(s.Queries) > 0 {
		return refused(`\( ) in a text`)
	}
	return nil
}

func checkFunc(f *gojq.Func) error {
	switch {
	case f.Name[0] == '$':
		return nil
	case f.Name == "test":
		return checkTest(f)
	case comparers[f.Name]:
		if len(f.Args) != 1 || !constant(f.Args[0]) {
			return refused(f.Name + " of what is not a constant")
		}
		return nil
	}
	for _, n := range finders[f.Name] {
		if n != len(f.Args) {
			continue
		}
		var err error
		for _, arg := range f.Args {
			err = errors.Join(err, checkQuery(arg))
		}
		return err
	}
	if len(f.Args) > 0 && len(finders[f.Name]) > 0 {
		return refused(fmt.Sprintf("function %s with %d arguments", f.Name, len(f.Args)))
	}
	return refused("function " + f.Name)
}

// checkTest bounds what a text is matched with.
func checkTest(f *gojq.Func) error {
	for _, arg := range f.Args {
		if !constant(arg) || arg.Term == nil || arg.Term.Type != gojq.TermTypeString {
			return refused("test of what is not a constant text")
		}
	}
	if len(f.Args) == 0 {
		return nil // gojq says that there is no such function
	}
	re, err := syntax.Parse(f.Args[0].Term.Str.Str, syntax.Perl)
	if err != nil {
		return err
	}
	prog, err := syntax.Compile(re.Simplify())
	if err != nil {
		return err
	}
	if len(prog.Inst) > maxMatcher {
		return fmt.Errorf("the regular expression %q is too large", f.Args[0].Term.Str.Str)
	}
	return nil
}

// constant tells whether a query always gives the same one value.
func constant(q *gojq.Query) bool {
	return q != nil && q.Term != nil && len(q.FuncDefs) == 0 && constantTerm(q.Term)
}

func constantTerm(t *gojq.Term) bool {
	if len(t.SuffixList) > 0 {
		return false
	}
	switch t.Type {
	case gojq.TermTypeNull, gojq.TermTypeTrue, gojq.TermTypeFalse, gojq.TermTypeNumber:
		return true
	case gojq.TermTypeString:
		return len(t.Str.Queries) == 0
	case gojq.TermTypeUnary:
		return constantTerm(t.Unary.Term)
	case gojq.TermTypeQuery:
		return constant(t.Query)
	case gojq.TermTypeArray:
		return t.Array.Query == nil || constants(t.Array.Query)
	case gojq.TermTypeObject:
		for _, kv := range t.Object.KeyVals {
			if kv.KeyQuery != nil || kv.KeyString != nil && len(kv.KeyString.Queries) > 0 || !constant(kv.Val) {
				return false
			}
		}
		return true
	}
	return false
}

// constants tells whether a query gives a list of constants.
func constants(q *gojq.Query) bool {
	if q.Term == nil && q.Op == gojq.OpComma && len(q.FuncDefs) == 0 {
		return constants(q.Left) && constants(q.Right)
	}
	return constant(q)
}

// scalar tells whether a query is a number or a text, written out.
func scalar(q *gojq.Query) bool {
	return constant(q) && (q.Term.Type == gojq.TermTypeNumber || q.Term.Type == gojq.TermTypeString)
}
