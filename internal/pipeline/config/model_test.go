package config

import (
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"keelson.dev/keelson/internal/pipeline"
)

// The model: the same rules over plain maps, written for being read and not for being fast. A reference is a ref.
type ref []string

func modelMerge(under, over map[string]any) map[string]any {
	made := map[string]any{}
	for k, v := range under {
		made[k] = v
	}
	for k, v := range over {
		a, isMap := made[k].(map[string]any)
		b, areMaps := v.(map[string]any)
		if isMap && areMaps {
			v = modelMerge(a, b)
		}
		made[k] = v
	}
	return made
}

func modelExtend(root map[string]any, name string) map[string]any {
	job := root[name].(map[string]any)
	made := map[string]any{}
	switch parents := job["extends"].(type) {
	case string:
		made = modelMerge(made, modelExtend(root, parents))
	case []any:
		for _, p := range parents {
			made = modelMerge(made, modelExtend(root, p.(string)))
		}
	}
	return modelMerge(made, job)
}

func modelResolve(root map[string]any, v any) any {
	switch v := v.(type) {
	case ref:
		var at any = root
		for _, name := range v {
			at = at.(map[string]any)[name]
		}
		return modelResolve(root, at)
	case map[string]any:
		made := map[string]any{}
		for k, e := range v {
			made[k] = modelResolve(root, e)
		}
		return made
	case []any:
		made := make([]any, len(v))
		for i, e := range v {
			made[i] = modelResolve(root, e)
		}
		return made
	}
	return v
}

// node makes a tree of a value of the model.
func modelNode(v any) *Node {
	n := &Node{size: 1}
	switch v := v.(type) {
	case ref:
		n.Kind = Reference
		for _, name := range v {
			n.Items = append(n.Items, fromPlain(name, pipeline.Position{}))
		}
		return n.measure()
	case map[string]any:
		n.Kind = Map
		b := newMap(n, 0)
		for _, k := range sortedKeys(v) {
			b.set(Pair{Key: k, Value: modelNode(v[k])}, true)
		}
		return n.measure()
	case []any:
		n.Kind = List
		for _, e := range v {
			n.Items = append(n.Items, modelNode(e))
		}
		return n.measure()
	}
	return fromPlain(v, pipeline.Position{})
}

func sortedKeys(m map[string]any) []string {
	keys := make([]string, 0, len(m))
	for k := range m {
		keys = append(keys, k)
	}
	for i := range keys { // few of them
		for j := i; j > 0 && keys[j] < keys[j-1]; j-- {
			keys[j], keys[j-1] = keys[j-1], keys[j]
		}
	}
	return keys
}

// TestModel holds extends and references against the model, over random configurations in which each job extends and refers to
// earlier ones only.
func TestModel(t *testing.T) {
	for seed := range uint64(500) {
		rnd := rand.New(rand.NewPCG(seed, 1))
		keys := []string{"a", "b", "c", "d"}
		var value func(depth int) any
		value = func(depth int) any {
			switch k := rnd.IntN(8); {
			case k < 3 && depth > 0:
				m := map[string]any{}
				for range rnd.IntN(4) {
					m[keys[rnd.IntN(len(keys))]] = value(depth - 1)
				}
				return m
			case k < 5 && depth > 0:
				list := []any{}
				for range rnd.IntN(3) {
					list = append(list, value(depth-1))
				}
				return list
			case k == 5:
				return nil
			default:
				return fmt.Sprint("v", rnd.IntN(100))
			}
		}
		root := map[string]any{}
		for i := range 8 {
			job := value(3)
			m, ok := job.(map[string]any)
			if !ok {
				m = map[string]any{"a": job}
			}
			if i > 0 && rnd.IntN(2) == 0 {
				parents := []any{}
				for range 1 + rnd.IntN(3) {
					parents = append(parents, fmt.Sprint("job", rnd.IntN(i)))
				}
				m["extends"] = parents
				if len(parents) == 1 {
					m["extends"] = parents[0]
				}
			}
			if i > 0 && rnd.IntN(2) == 0 { // to a whole job, or to what is certain to be there
				m["r"] = []any{ref{fmt.Sprint("job", rnd.IntN(i))}, ref{"fixed", "x"}, ref{"fixed", "x", "y"}}
			}
			root[fmt.Sprint("job", i)] = m
		}
		root["fixed"] = map[string]any{"x": map[string]any{"y": []any{"z"}}}

		extended := map[string]any{}
		for name := range root {
			extended[name] = modelExtend(root, name)
		}
		want := modelResolve(extended, extended)

		var problems []string
		report := func(p pipeline.Problem) { problems = append(problems, p.Message) }
		whole, _ := extend(modelNode(root), report)
		got := resolve(whole, report)
		if diff := cmp.Diff(want, goValue(got)); diff != "" || len(problems) > 0 {
			t.Fatalf("seed %d: %s\n%s", seed, strings.Join(problems, "\n"), diff)
		}
		walk(t, got, 0)
	}
}
