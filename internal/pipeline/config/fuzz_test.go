package config

import (
	"slices"
	"strings"
	"testing"

	"keelson.dev/keelson/internal/pipeline"
)

// FuzzRead reads a repository of two files, which may include each other and themselves.
func FuzzRead(f *testing.F) {
	for _, seed := range [][2]string{
		{"include: a.yml\njob: {extends: .a, script: [!reference [.a, script]]}", ".a: {script: [x], variables: &v {A: b}}\nb: {variables: *v}"},
		{"include: [{local: a.yml, inputs: {x: 1, y: [a]}, rules: [{if: $A == \"b\"}]}]", "spec: {inputs: {x: {type: number, options: [1]}, y: {type: array, default: []}, z: {rules: [{if: '$[[ inputs.x ]]', default: q}]}}}\n---\n$[[ inputs.x ]]: {script: $[[ inputs.y ]], image: 'a$[[ inputs.z | expand_vars | truncate(0,1) ]]'}"},
		{"a: {extends: [b, c]}\nb: {extends: a}\nc: !reference [a, extends]\nd: [!reference [c], !reference [d]]", ""},
		{"include: ['*.yml', {local: a.yml, remote: b}, {project: p, file: [a.yml, b.yml], ref: x}, {template: Go}, {component: c/d/e@1}]", "include: {local: a.yml, inputs: {n: $[[ inputs.n ]]1}}"},
		{"spec:\n  include: [a.yml]\n  component: [name]\n  inputs: {n: {default: 1, regex: ^x}}\n---\nx: $[[ component.name ]] $[[ inputs.n ]]", "inputs: {m: }"},
		{"x: {a: 1, <<: [{a: 2}, {b: !reference [x, a]}]}\ninclude: a.yml", "x: {a: {b: c}}\n---\ny: 1"},
	} {
		f.Add(seed[0], seed[1])
	}
	f.Fuzz(func(t *testing.T, first, second string) {
		if len(first)+len(second) > 8192 {
			return
		}
		o := Options{Text: []byte(first), Files: repository{"a.yml": second, "b.yml": first, "p@x:a.yml": second, "component:c/d/e@1": second},
			Variables: pipeline.Variables{{Name: "A", Value: "a"}, {Name: "B", Value: "secret-value", Masked: true}},
			Inputs:    map[string]pipeline.Input{"n": {Value: "3"}}}
		d, problems := Read(o)
		for _, p := range problems {
			if p.Code == "" || p.Message == "" || strings.Contains(p.Message+p.Hint, "secret-value") && !strings.Contains(first+second, "secret-value") {
				t.Errorf("a problem that should not be so: %+v", p)
			}
		}
		if d == nil {
			if !problems.Failed() {
				t.Error("no document and no error")
			}
			return
		}
		walk(t, d.Root, 0)
		again, same := Read(o)
		if show(d.Root, true) != show(again.Root, true) || showProblems(problems) != showProblems(same) {
			t.Error("two readings differ")
		}
	})
}

// walk holds what is true of a tree that was read: no references, and its sums.
func walk(t *testing.T, n *Node, depth int) {
	if n.Kind == Reference {
		t.Fatalf("%v: %s is left", n.At, show(n, false))
	}
	if depth > 3*maxDepth {
		t.Fatal("too deep")
	}
	size := 1
	for _, item := range n.Items {
		walk(t, item, depth+1)
		size += item.size
	}
	for i, p := range n.Pairs {
		walk(t, p.Value, depth+1)
		size += 1 + p.Value.size
		if at, ok := n.find(p.Key); !ok || at != i {
			t.Fatalf("key %q of %v is found at %d, not %d", p.Key, n.At, at, i)
		}
	}
	if size != n.size {
		t.Fatalf("%s has the size %d, not %d", show(n, false), n.size, size)
	}
}

// FuzzInterpolate fills a text with an input.
func FuzzInterpolate(f *testing.F) {
	for _, seed := range [][2]string{
		{"$[[ inputs.a ]]", "x"}, {"a $[[ inputs.a | truncate(1,2) | posix_escape ]] b", "x y z"}, {"$[[ inputs.list[1].k[0] ]]", ""}, {"$[[ inputs.a | expand_vars ]]", "$A %A% ${M}"},
		{"$[[ inputs.a | split(',') ]]$[[ matrix.X ]]$[[ x ]]", "a,b"}, {"$[[$[[ inputs.a ]]]]", "é"}, {"$[[ component.name ]] $[[ | | ]]", ""}, {"$[[ inputs.list[99999999999999999999] ]]", ""},
	} {
		f.Add(seed[0], seed[1])
	}
	f.Fuzz(func(t *testing.T, text, value string) {
		var problems pipeline.Problems
		ip := &interpolator{
			inputs:    map[string]*Node{"a": {Kind: String, Text: value, size: 1}, "list": fromPlain([]any{int64(1), map[string]any{"k": []any{"v"}}}, pipeline.Position{})},
			variables: pipeline.Variables{{Name: "A", Value: "a"}, {Name: "M", Value: "secret-value", Masked: true}},
			report:    func(p pipeline.Problem) { problems = append(problems, p) }, blocks: map[string]block{},
		}
		n := &Node{Kind: String, Text: text, Raw: text, Plain: true, size: 1, blocks: hasBlock(text)}
		got := ip.tree(n)
		switch {
		case strings.Contains(inspect(got), "secret-value") && !strings.Contains(text+value, "secret-value"):
			t.Errorf("%q shows a masked value: %s", text, inspect(got))
		case !hasBlock(text) && got != n:
			t.Errorf("%q has become %s", text, inspect(got))
		case len(problems) == 0 && !hasBlock(value) && strings.Contains(got.Text, "$[[ inputs.a ]]") && strings.Count(text, "$[[") == 1:
			t.Errorf("%q is left as %q", text, got.Text)
		}
		if slices.ContainsFunc(problems, func(p pipeline.Problem) bool { return p.Code != "interpolation" }) {
			t.Errorf("%q: %s", text, showProblems(problems))
		}
	})
}
