package health_test

import (
	"fmt"
	"runtime"
	"strings"
	"testing"
	"time"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"keelson.dev/keelson/internal/delivery"
	"keelson.dev/keelson/internal/health"
)

// What an app's expression may take, however it is written: the controller is everybody's.
func TestExpressionsAreBounded(t *testing.T) {
	const long, huge, many = 400_000, 40_000, 2000
	list := func(n int) []any {
		l := make([]any, n)
		for i := range l {
			l[i] = fmt.Sprint("item ", i)
		}
		return l
	}
	object := map[string]any{
		"apiVersion": "g/v1", "kind": "K", "metadata": map[string]any{"name": "a"},
		"spec": map[string]any{"long": strings.Repeat("a", long), "huge": list(huge), "many": list(many)},
	}
	doubled := strings.Repeat(".map(x, [x, x])", 28)
	for _, c := range []struct{ name, expr string }{
		{"fold in a fold", "spec.many.all(x, spec.many.all(y, x != '' || y != ''))"},
		{"fold of nothing", "spec.huge.all(x, spec.huge.all(y, true))"},
		{"errors do not count as ends", "spec.huge.exists(x, spec.huge.exists(y, int(y) > 0))"},
		{"in", "spec.many.all(x, 'zz' in spec.huge || true)"},
		{"equal maps", "spec.many.all(x, {'a': spec.huge} == {'a': spec.huge})"},
		{"equal, of a list that shares its parts", "[[1, 1]]" + doubled + " == [[1, 1]]" + doubled},
		{"sums of texts", "spec.many.all(x, (spec.long + spec.long) != '')"},
		{"sums of lists", "spec.many.map(x, (spec.huge" + strings.Repeat("+[]", 200) + ").exists(y, y == 'q')).size() > 0"},
		{"doubled text", strings.Repeat("[", 26) + "spec.long" + strings.Repeat("].map(x, x + x)", 1) + strings.Repeat("].map(x, x[0] + x[0])", 25) + ".size() > 0"},
		{"replace", "spec.long.replace('', spec.long) == ''"},
		{"replace in a fold", "spec.many.map(x, spec.long.replace('a', 'aa')).size() > 0"},
		{"join", "spec.many.map(x, spec.long).join() == ''"},
		{"join with", "spec.huge.join(spec.long) == ''"},
		{"format", "'%s'.format([[[1]]" + doubled + "]) == ''"},
		{"index", "spec.long.indexOf(spec.long.substring(200000) + 'b') == 0"},
		{"last index", "spec.long.lastIndexOf('b' + spec.long.substring(200000)) == 0"},
		{"sets", "sets.contains(spec.huge, spec.huge)"},
		{"sets are equivalent", "sets.equivalent(spec.huge, spec.huge)"},
		{"sets meet", "sets.intersects(spec.huge, spec.many.map(x, x + '!'))"},
		{"letters", "spec.many.all(x, spec.long.lowerAscii() != '')"},
		{"encoded", "spec.many.all(x, base64.encode(bytes(spec.long)) != '')"},
		{"split", "spec.many.map(x, spec.long.split('')).size() > 0"},
		{"compared", "spec.many.all(x, spec.long <= spec.long)"},
		{"contains", "spec.many.all(x, !spec.long.contains('aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaab'))"},
		{"pattern", "spec.long.matches('(((a?){10}){10}){10}b$')"},
		{"patterns", "spec.many.all(x, !spec.long.matches('(a|aa)+b$'))"},
		{"large pattern", "spec.long.matches('" + strings.Repeat("(.{900})?", 1500) + "')"},
		{"pattern of classes", `['\\pL'].map(x, [x, x, x, x, x, x, x, x, x, x].join()).map(x, [x, x, x, x, x, x, x, x, x, x].join()).map(x, [x, x, x, x, x, x, x, x, x, x].join()).map(x, [x, x, x, x, x, x, x, x, x, x].join()).exists(x, 'a'.matches(x))`},
		{"JSON", "json.encode([[1, 1]]" + doubled + ") == ''"},
		{"optional in optional", "optional.of(1)" + strings.Repeat(".optMap(x, x)", 40) + ".hasValue()"},
		{"flat optional", "optional.of(1)" + strings.Repeat(".optFlatMap(x, optional.of(x))", 40) + ".hasValue()"},
		{"equal optionals", "[optional.of([[1, 1]]" + doubled + ")].exists(x, x == optional.of([[1, 1]]" + doubled + "))"},
		{"long chains", "spec.many.all(x, spec.many.all(y, has({'a': {}}." + strings.TrimSuffix(strings.Repeat("a.", 1), ".") + ")))"},
		{"conditions", "spec.huge.all(x, spec.many.all(y, x == '' ? false : true))"},
	} {
		t.Run(c.name, func(t *testing.T) {
			got, took, bytes := measured(func() string {
				rules, err := health.Compile([]delivery.HealthExpr{{Group: "g", Kind: "K", Current: c.expr}})
				if err != nil {
					return err.Error()
				}
				return rules.Of(&unstructured.Unstructured{Object: object}).Message
			})
			if took > 5*time.Second || bytes > 100<<20 { // a tenth of a second where nothing else runs
				t.Errorf("it took %s and %d MB", took, bytes>>20)
			}
			if !strings.Contains(got, "limit") {
				t.Errorf("no bound is named: %.300s", got)
			}
		})
	}
}

// measured tells what a function takes: its time, and all bytes that it allocates.
func measured(f func() string) (got string, took time.Duration, bytes uint64) {
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	began := time.Now()
	got = f()
	took = time.Since(began)
	runtime.ReadMemStats(&after)
	return got, took, after.TotalAlloc - before.TotalAlloc
}
