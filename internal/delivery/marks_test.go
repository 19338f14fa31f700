package delivery_test

import (
	"strings"
	"testing"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/yaml"

	"keelson.dev/keelson/internal/delivery"
)

func TestMarks(t *testing.T) {
	tests := map[string]struct { // metadata, "$" for the group
		want    delivery.Marks
		unknown string
	}{
		"{}":                                     {},
		"{annotations: {$prune: disabled}}":      {want: delivery.MarkKeep},
		"{labels: {$prune: Disabled}}":           {want: delivery.MarkKeep},
		"{annotations: {$prune: enabled}}":       {},
		"{annotations: {$reconcile: disabled}}":  {want: delivery.MarkLeave},
		"{annotations: {$ssa: Ignore}}":          {want: delivery.MarkLeave},
		"{annotations: {$ssa: ignore}}":          {want: delivery.MarkLeave},
		"{labels: {$ssa: IfNotPresent}}":         {want: delivery.MarkIfNotPresent},
		"{annotations: {$ssa: Merge}}":           {want: delivery.MarkMerge},
		"{annotations: {$ssa: Override}}":        {},
		"{annotations: {$ssa: Replace}}":         {unknown: "Replace"},
		"{labels: {$ssa: Replace, a: b}}":        {unknown: "Replace"},
		"{annotations: {$force: enabled}}":       {want: delivery.MarkForce},
		"{annotations: {$force: 'true'}}":        {},
		"{annotations: [], labels: {$force: 1}}": {},
		"{labels: {$force: enabled}, annotations: {$ssa: Merge, $prune: disabled}}": {want: delivery.MarkForce | delivery.MarkMerge | delivery.MarkKeep},
	}
	for text, tt := range tests {
		var metadata map[string]any
		if err := yaml.Unmarshal([]byte(strings.ReplaceAll(text, "$", "kustomize.toolkit.fluxcd.io/")), &metadata); err != nil {
			t.Fatalf("%s: %v", text, err)
		}
		obj := delivery.Object{Unstructured: &unstructured.Unstructured{Object: map[string]any{"metadata": metadata}}}
		if got := delivery.MarksOf(obj.Unstructured); got != tt.want {
			t.Errorf("%s: marks %b, want %b", text, got, tt.want)
		}
		if got := obj.UnknownPolicy(); got != tt.unknown {
			t.Errorf("%s: unknown policy %q, want %q", text, got, tt.unknown)
		}
	}
}
