package cel

import (
	"fmt"
	"runtime"
	"strings"
	"testing"
	"time"

	celgo "github.com/google/cel-go/cel"
	"github.com/google/cel-go/common/types"
	"github.com/google/cel-go/ext"
)

func object() map[string]any {
	return map[string]any{
		"metadata": map[string]any{"name": "shop", "generation": int64(2), "labels": map[string]any{"app/version": "v1"}},
		"spec":     map[string]any{"replicas": int64(3), "ratio": 0.5, "on": true, "none": nil, "names": []any{"a", "b", "c"}, "at": int64(1)},
		"status": map[string]any{"observedGeneration": int64(2), "conditions": []any{
			map[string]any{"type": "Ready", "status": "True"}, map[string]any{"type": "Synced", "status": "False", "n": int64(7)},
		}},
	}
}

// An expression gives what CEL itself gives, in value and in error: that it is counted changes nothing.
func TestAsInCEL(t *testing.T) {
	plain, err := celgo.NewEnv(celgo.HomogeneousAggregateLiterals(), celgo.EagerlyValidateDeclarations(true), celgo.DefaultUTCTimeZone(true),
		celgo.CrossTypeNumericComparisons(true), celgo.OptionalTypes(), ext.Strings(), ext.Sets(), ext.Encoders(),
		celgo.Variable("o", celgo.ObjectType("google.protobuf.Struct")), celgo.Variable("p", celgo.ObjectType("google.protobuf.Struct")))
	if err != nil {
		t.Fatal(err)
	}
	scope := NewScope("o", "p")
	for _, text := range []string{
		"true", "o.spec.on", "o.metadata.name == 'shop'", "o.metadata['name'] != 'shop'", "o.metadata.labels['app/version'] == 'v1'",
		"o.missing", "o.missing == 1", "has(o.missing)", "has(o.spec.on)", "has(o.missing.more)", "!has(o.spec.no) && o.spec.on", "p.x == 1", "o.spec.none == null",
		"o.spec.replicas + 1 == 4", "o.spec.replicas > 2.5", "o.spec.ratio * 2.0 == 1.0", "o.spec.replicas / 0 == 1", "-o.spec.replicas < 0", "o.spec.replicas % 2 == 1",
		"o.metadata.name + 1 == ''", "o.metadata.name < 'z'", "o.metadata.name < 1", "int(o.metadata.name) > 0", "string(o.spec.replicas) == '3'", "!o.metadata.name",
		"o.spec.names[o.spec.at] == 'b'", "o.spec.names[5] == 'b'", "o.spec.names[int('1')] == 'b'", "o.status.conditions[0].type == 'Ready'", "o.status.conditions[o.spec.at].n == 7",
		"(o.spec.on ? o.spec : o.metadata).replicas == 3", "(o.spec.on ? o.spec.names : [1])[0] == 'a'", "o.spec.on ? o.missing : true", "o.spec.replicas ? true : false",
		"(o.spec.on && o.missing) || true", "o.missing || true", "o.missing && false", "o.missing || false", "o.spec.on && o.spec.names.size() == 3",
		"o.status.conditions.filter(e, e.type == 'Ready').all(e, e.status == 'True')", "o.status.conditions.exists(e, e.n == 7)", "o.status.conditions.all(e, e.n == 7)",
		"o.status.conditions.exists_one(e, e.type == 'Synced')", "o.spec.names.map(x, x + x) == ['aa', 'bb', 'cc']", "o.spec.names.map(x, x > 'a', x) == ['b', 'c']",
		"o.spec.names.map(x, [x] + o.spec.names).map(y, y.size()) == [4, 4, 4]", "o.spec.all(k, k != '')", "o.spec.names.exists(x, o.spec.names.exists(y, x < y && y == 'c'))",
		"'a' in o.spec.names", "'on' in o.spec", "1 in o.spec.names", "'x' in ['x']", "o.spec.names in [o.spec.names]", "o.spec == o.spec", "o.spec != o.metadata", "[] + [1] == [1]",
		"[1] + [2] + [3] == [1, 2, 3]", "([1] + ['a'])[1] == 'a'", "{'a': 1}.a == 1", "{'a': [1]} == {'a': [1.0]}", "[1] + 2 == [3]", "b'a' + b'b' == b'ab'",
		"o.?metadata.?name.orValue('x') == 'shop'", "o.?no.?name.orValue('x') == 'x'", "o.?no.hasValue()", "o.?no.or(o.?spec).hasValue()", "o.?spec.optMap(s, s.replicas).value() == 3",
		"optional.none().value() == 1", "o.spec.?names[?1].orValue('') == 'b'", "o.spec.names[?9].hasValue()", "[?o.?no, 'x'] == ['x']", "{?'a': o.?no} == {}", "optional.of(1) == optional.of(1)",
		"o.?spec.optFlatMap(s, s.?names).value()[0] == 'a'", "o.spec.names.first().value() == 'a'", "o.spec.names.last().hasValue()",
		"o.metadata.name.startsWith('s') && o.metadata.name.endsWith('p') && o.metadata.name.contains('ho')", "o.metadata.name.matches('^s.*p$')", "matches(o.metadata.name, '[')",
		"o.metadata.name.matches('^([a-z]{1,3})+$')", "o.spec.replicas.matches('a')", "o.spec.replicas.startsWith('a')", "'%s %d %.2f'.format([o.metadata.name, 3, 1.5]) == 'shop 3 1.50'", "'%d'.format(['a']) == ''",
		"o.metadata.name.replace('s', 'S', 1) == 'Shop'", "'a,b'.split(',') == ['a', 'b']", "['a'].join(',') + ['b'].join() == 'ab'", "o.spec.names.join('-') == 'a-b-c'", "o.status.conditions.join() == ''",
		"'hello'.indexOf('l', 3) == 3", "'hello'.lastIndexOf('l') == 3", "'hello'.charAt(1) == 'e'", "'hello'.charAt(9) == 'e'", "'hello'.substring(1, 3) == 'el'", "' x '.trim() == 'x'", "'ab'.reverse() == 'ba'",
		"strings.quote('a') == '\"a\"'", "sets.contains(o.spec.names, ['a'])", "sets.equivalent([1, 1], [1])", "sets.intersects([1], [2])", "base64.encode(b'hi') == 'aGk='", "base64.decode('aGk=') == b'hi'",
		"timestamp('2026-01-01T00:00:00Z').getFullYear() == 2026", "timestamp('2026-01-01T00:00:00Z') - timestamp('2025-01-01T00:00:00Z') > duration('1h')", "timestamp('x') > timestamp('y')", "duration('1h').getHours() == 1",
		"type(o.spec.on) == bool", "type(o) == map", "dyn(1) == 1.0", "uint(1) == 1u", "double('1.5') == 1.5", "o.spec.names", "1", "size(o.spec.names) == 3", "size('aé') == 2", "size(o.spec) > 3", "size(1) == 1",
		"unknown(o)", "o.unknown()", "o.spec.names.unknown(1, 2)", "q.x == 1", "o.spec.names.map(x, y)", "o.spec.replicas.x == 1", "o.spec.names.x == 1", "json.encode({'a': 1}) == '{\"a\":1}'",
	} {
		want := func(a *celgo.Ast, issues *celgo.Issues, checked bool) string {
			if issues.Err() != nil {
				return told(issues).Error()
			}
			if out := a.OutputType(); checked && !out.IsExactType(celgo.BoolType) {
				return fmt.Sprintf("it gives a value of the type %s, not bool", out)
			}
			p, err := plain.Program(a)
			if err != nil {
				return err.Error()
			}
			v, _, err := p.Eval(map[string]any{"o": object(), "p": map[string]any{}})
			if err != nil {
				return err.Error()
			}
			if _, ok := v.(types.Bool); !ok {
				return fmt.Sprintf("it gives a value of the type %s, not true or false", v.Type().TypeName())
			}
			return fmt.Sprint(v)
		}
		got := func(e *Expression, err error) string {
			if err != nil {
				return err.Error()
			}
			yes, err := e.True(map[string]any{"o": object(), "p": map[string]any{}})
			if err != nil {
				return err.Error()
			}
			return fmt.Sprint(yes)
		}
		a, issues := plain.Compile(text)
		if got, want := got(scope.Compile(text)), want(a, issues, true); got != want {
			t.Errorf("%s\ngot  %s\nwant %s", text, got, want)
		}
		a, issues = plain.Parse(text)
		if got, want := got(scope.Parse(text)), want(a, issues, false); got != want {
			t.Errorf("not checked: %s\ngot  %s\nwant %s", text, got, want)
		}
	}
}

func TestErrorsTellWhere(t *testing.T) {
	for text, want := range map[string]string{
		"o.x ==":                                 "line 1, column 7: Syntax error: mismatched input '<EOF>'",
		"true &&\n  q":                           "line 2, column 3: undeclared reference to 'q'",
		"o.x":                                    "it gives a value of the type dyn, not bool",
		"true || google.protobuf.Struct{} == {}": "line 1, column 31: a message (google.protobuf.Struct{}) is not supported",
		strings.Repeat(" ", MaxText) + "true":    "expression code point size exceeds limit: size: 16388, limit 16384",
		strings.Repeat("é", 4*MaxText) + "true":  "it is longer than the limit of 16384 characters",
		strings.Repeat("(", 300) + strings.Repeat(")", 300): "expression recursion limit exceeded: 250",
		"o" + strings.Repeat(".optMap(x, x)", 9):            "line 1, column 61: optMap is called on an expression over the limit of its size",
	} {
		_, err := NewScope("o").Compile(text)
		if err == nil || !strings.HasPrefix(err.Error(), want) {
			t.Errorf("%.60s\ngot  %v\nwant %s", text, err, want)
		}
	}
}

func TestErrorsAreShort(t *testing.T) {
	e, err := NewScope("o").Parse("o[o.text]")
	if err != nil {
		t.Fatal(err)
	}
	_, err = e.True(map[string]any{"o": map[string]any{"text": strings.Repeat("é", 100_000)}})
	if err == nil || len(err.Error()) > maxError+len("…") || !strings.HasPrefix(err.Error(), "no such key: éé") {
		t.Errorf("%.700v", err)
	}
}

// Of an expression with many errors only the first is told, and the others cost nothing.
func TestManyErrorsAreCheap(t *testing.T) {
	scope := NewScope("o")
	for _, text := range []string{"true" + strings.Repeat("&&x.y", 3000), "[1" + strings.Repeat(",o.?a"+strings.Repeat(".optMap(x,x)", 7), 170) + "] == []"} {
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		_, err := scope.Compile(text)
		runtime.ReadMemStats(&after)
		if err == nil || after.TotalAlloc-before.TotalAlloc > 200<<20 {
			t.Errorf("%.60s: %v, %d MB", text, err, (after.TotalAlloc-before.TotalAlloc)>>20)
		}
	}
}

// What a step costs is counted wherever it stands.
func TestEveryStepCounts(t *testing.T) {
	deep := map[string]any{}
	for range 300 {
		deep = map[string]any{"a": deep}
	}
	list := make([]any, 300)
	for i := range list {
		list[i] = int64(i)
	}
	vars := map[string]any{"o": map[string]any{"list": list, "deep": deep, "text": strings.Repeat("a", 1000)}}
	chain := "o.deep" + strings.Repeat(".a", 200)
	for _, step := range []string{
		"has(" + chain + ")", chain + " == 1 || true", "(true ? " + chain + " : o) == 1 || true", "(" + chain + " == 1 ? o : " + chain + ") == 1 || true",
		"{'a': o}[" + chain + ".x] == 1 || true", "o.?deep" + strings.Repeat(".a", 200) + ".hasValue()", strings.Repeat("true && ", 1000) + "true", "[" + strings.Repeat("1, ", 1000) + "1] != []",
		"{" + strings.Repeat("1: 1, ", 1) + "2: 1} != {} && o.list.all(z, true)", "o.?x.orValue([" + strings.Repeat("1, ", 1000) + "1]) != []", "(true ? (true ? (o) : o) : o).deep" + strings.Repeat(".a", 200) + " != 1",
		"o.list.all(z, o.text.startsWith(o.text))", "!o.list.exists(z, o.text.contains('b'))", "o.list.all(z, o.list.map(k, k) != [])", "o.list == o.list && o.list.all(k, k in o.list)",
	} {
		text := "o.list.all(x, o.list.all(y, " + step + "))"
		e, err := NewScope("o").Parse(text)
		if err != nil {
			t.Errorf("%.60s: %v", step, err)
			continue
		}
		began := time.Now()
		if _, err = e.True(vars); err == nil || !strings.Contains(err.Error(), "cost limit") || time.Since(began) > time.Second {
			t.Errorf("%.60s: %v after %s", step, err, time.Since(began))
		}
	}
}

// FuzzExpression: no expression panics, or takes long.
func FuzzExpression(f *testing.F) {
	for _, text := range []string{
		"o.list.all(x, o.list.all(y, x != y))", "o.text.replace('', o.text) != ''", "sets.contains(o.list, o.list)", "o.list.map(x, x).join('') == ''", "'%s %.9f %x'.format([o, 1.0, 2]) == ''",
		"o.?text.optMap(x, x).orValue('') == '' ? true : false", "b'a' == base64.decode('YQ==')", "o.text.matches('(a|b{3})+$')", "[[1, 1]].map(x, [x, x]).map(x, {'a': x}) == [1] + o.list", "json.encode(o) == string(1.5)",
		"timestamp('2026-01-01T00:00:00Z').getFullYear('Europe/Berlin') > size(o.text.split('a')) && duration('1h') > duration('1s')", "optional.unwrap([optional.of(1)]) == [1] && has(o.a.b) && 'x' in o",
		"o.list.map(x, o.text.split('')).map(x, x.join(o.text)).exists_one(x, x.lowerAscii().reverse().indexOf('q') == x.charAt(3))",
	} {
		f.Add(text)
	}
	scope := NewScope("o")
	list := make([]any, 3000)
	for i := range list {
		list[i] = fmt.Sprint(i)
	}
	vars := map[string]any{"o": map[string]any{"list": list, "text": strings.Repeat("ab é", 100_000)}}
	f.Fuzz(func(t *testing.T, text string) {
		for _, compile := range []func(string) (*Expression, error){scope.Compile, scope.Parse} {
			began := time.Now()
			e, err := compile(text)
			compiled := time.Since(began)
			if err == nil {
				if _, err = e.True(vars); err != nil && strings.Contains(err.Error(), "internal error") {
					t.Errorf("%q: %v", text, err)
				}
			}
			if took := time.Since(began); took > 2*time.Second {
				t.Errorf("%q took %s, %s of it to be compiled", text, took, compiled)
			}
		}
	})
}

func TestText(t *testing.T) {
	scope := NewScope("o", "p")
	for text, want := range map[string]string{
		"o.metadata.name + '/' + p.uid":                                     "shop/0c9c2e41-d2f9",
		"(o.metadata.name + p.uid.split('-').first().value()).upperAscii()": "SHOP0C9C2E41",
		"o.metadata.name":       "shop", // its type shows when it is evaluated
		"o.spec.replicas":       "ERR it gives a value of the type int, not a string",
		"o.missing + 'x'":       "ERR no such key: missing",
		"1 + 1":                 "ERR it gives a value of the type int, not string",
		"o.metadata.name == ''": "ERR it gives a value of the type bool, not string",
		"q.x":                   "ERR line 1, column 1: undeclared reference to 'q' (in container '')",
	} {
		var got string
		e, err := scope.CompileText(text)
		if err == nil {
			got, err = e.Text(map[string]any{"o": object(), "p": map[string]any{"uid": "0c9c2e41-d2f9"}})
		}
		if err != nil {
			got = "ERR " + err.Error()
		}
		if got != want {
			t.Errorf("%s: got %q, want %q", text, got, want)
		}
	}
}
