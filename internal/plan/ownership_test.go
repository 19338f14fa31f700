package plan_test

import (
	"encoding/json"
	"fmt"
	"testing"

	"github.com/google/go-cmp/cmp"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"keelson.dev/keelson/internal/delivery"
	"keelson.dev/keelson/internal/plan"
)

// owned makes managedFields of lines: manager, operation, subresource, API version, fieldsV1.
func owned(lines ...[5]string) []metav1.ManagedFieldsEntry {
	var out []metav1.ManagedFieldsEntry
	for _, l := range lines {
		out = append(out, metav1.ManagedFieldsEntry{
			Manager: l[0], Operation: metav1.ManagedFieldsOperationType(l[1]), Subresource: l[2], APIVersion: l[3],
			FieldsType: "FieldsV1", FieldsV1: metav1.NewFieldsV1(l[4]),
		})
	}
	return out
}

func lines(entries []metav1.ManagedFieldsEntry) []string {
	var out []string
	for _, e := range entries {
		out = append(out, fmt.Sprintf("%s %s%s %s", e.Manager, e.Operation, e.Subresource, e.FieldsV1.GetRawString()))
	}
	return out
}

func TestTakeOver(t *testing.T) {
	us := [5]string{"keelson", "Apply", "", "v1", `{"f:data":{"f:a":{}},"f:metadata":{"f:labels":{"f:app":{}}}}`}
	tests := map[string]struct {
		others      [][5]string
		annotations map[string]string
		want        []string // nil: nothing is to be done
		again       bool
		goes        []string
		left        []delivery.Pointer
	}{
		"nobody else": {},
		"a controller is no tool": {
			others: [][5]string{{"cert-manager", "Update", "", "v1", `{"f:data":{"f:a":{}}}`}},
		},
		"a tool that applied the same": {
			others: [][5]string{{"kustomize-controller", "Apply", "", "v1", `{"f:data":{"f:a":{}}}`}},
			want:   []string{"keelson Apply " + us[4]},
		},
		"a tool that applied what has left Git since": {
			others: [][5]string{{"kustomize-controller", "Apply", "", "v1", `{"f:data":{"f:a":{},"f:b":{}}}`}},
			want:   []string{`keelson Apply {"f:data":{"f:a":{},"f:b":{}},"f:metadata":{"f:labels":{"f:app":{}}}}`},
			again:  true,
			goes:   []string{".data.b"},
		},
		"a field that is left to others stays, and nobody owns it": {
			others: [][5]string{{"kustomize-controller", "Apply", "", "v1", `{"f:data":{"f:a":{}},"f:spec":{"f:replicas":{},"f:list":{"k:{\"name\":\"b\"}":{"f:x":{}}}}}`}},
			left:   []delivery.Pointer{{"spec", "replicas"}, {"spec", "list", "1"}},
			want:   []string{"keelson Apply " + us[4]},
		},
		"its own notes stay with a tool": {
			others: [][5]string{{"argocd-controller", "Apply", "", "v1", `{"f:data":{"f:a":{}},"f:metadata":{"f:annotations":{"f:argocd.argoproj.io/tracking-id":{}}}}`}},
			want:   []string{"keelson Apply " + us[4], `argocd-controller Apply {"f:metadata":{"f:annotations":{"f:argocd.argoproj.io/tracking-id":{}}}}`},
		},
		"nothing but notes is left": {
			others: [][5]string{{"argocd-controller", "Apply", "", "v1", `{"f:metadata":{"f:annotations":{"f:argocd.argoproj.io/tracking-id":{}}}}`}},
		},
		"defaults stay with who has them": {
			others: [][5]string{{"helm", "Update", "", "v1", `{"f:data":{".":{},"f:a":{},"f:b":{}},"f:immutable":{}}`}},
			want:   []string{"keelson Apply " + us[4], `helm Update {"f:data":{"f:b":{}},"f:immutable":{}}`},
		},
		"what was applied with kubectl and has left Git since": {
			others:      [][5]string{{"kubectl-client-side-apply", "Update", "", "v1", `{"f:data":{".":{},"f:a":{},"f:b":{}},"f:immutable":{}}`}},
			annotations: map[string]string{"kubectl.kubernetes.io/last-applied-configuration": `{"data":{"a":"1","b":"2"}}`},
			want:        []string{`keelson Apply {"f:data":{".":{},"f:a":{},"f:b":{}},"f:metadata":{"f:labels":{"f:app":{}}}}`, `kubectl-client-side-apply Update {"f:immutable":{}}`},
			again:       true,
			goes:        []string{".data.b"},
		},
		"a note beside ours": {
			others: [][5]string{{"kubectl-annotate", "Update", "", "v1", `{"f:data":{".":{},"f:c":{}},"f:metadata":{"f:labels":{".":{},"f:c":{}}}}`}},
		},
		"what a tool has of another subresource": {
			others: [][5]string{{"kubectl", "Update", "scale", "v1", `{"f:data":{"f:a":{}}}`}},
		},
		"another version": {
			others: [][5]string{{"kustomize-controller", "Apply", "", "v1beta1", `{"f:data":{"f:b":{}}}`}},
			want:   []string{"keelson Apply " + us[4]},
		},
		"a restart by kubectl stays": {
			others: [][5]string{{"kubectl-rollout", "Update", "", "v1", `{"f:data":{"f:a":{}}}`}},
		},
		"who asks for a merge keeps the others": {
			others:      [][5]string{{"kubectl", "Apply", "", "v1", `{"f:data":{"f:a":{},"f:b":{}}}`}},
			annotations: map[string]string{delivery.SSAMark: "Merge"},
		},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			u := &unstructured.Unstructured{Object: map[string]any{
				"spec": map[string]any{"list": []any{map[string]any{"name": "a"}, map[string]any{"name": "b"}}},
			}}
			u.SetAnnotations(tt.annotations)
			u.SetManagedFields(owned(append([][5]string{us}, tt.others...)...))
			got, ok, err := plan.TakeOver(u, "keelson", tt.left...)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(tt.want, lines(got.Fields)); diff != "" || ok != (tt.want != nil) || got.Again != tt.again {
				t.Fatalf("TakeOver: again %v\n%s", got.Again, diff)
			}
			if diff := cmp.Diff(tt.goes, got.Goes); diff != "" {
				t.Errorf("Goes:\n%s", diff)
			}
			if tt.annotations[delivery.SSAMark] == "" && shared(u) != ok {
				t.Errorf("Shares = %v, TakeOver has something to do: %v", shared(u), ok)
			}
			if !ok {
				return
			}
			u.SetManagedFields(got.Fields)
			if again, more, _ := plan.TakeOver(u, "keelson"); more || shared(u) {
				t.Errorf("a second takeover finds %v, shared %v", again.From, shared(u))
			}
		})
	}
	u := &unstructured.Unstructured{Object: map[string]any{}}
	u.SetManagedFields(owned(us, [5]string{"kubectl", "Apply", "", "v1", `{"f:data":7}`}))
	if _, _, err := plan.TakeOver(u, "keelson"); err == nil {
		t.Error("malformed managedFields are taken")
	}
}

// shared asks Shares about every entry of a tool.
func shared(u *unstructured.Unstructured) bool {
	var ours map[string]any
	for _, e := range u.GetManagedFields() {
		var fields map[string]any
		if err := json.Unmarshal(e.FieldsV1.GetRawBytes(), &fields); err != nil {
			return false
		}
		if e.Manager == "keelson" {
			ours = fields
		} else if e.Subresource == "" && plan.IsTool(e.Manager) && plan.Shares(ours, fields, string(e.Operation)) {
			return true
		}
	}
	return false
}

func TestHandBack(t *testing.T) {
	u := &unstructured.Unstructured{Object: map[string]any{}}
	u.SetManagedFields(owned(
		[5]string{"keelson", "Apply", "", "v1", `{"f:data":{"f:a":{}}}`},
		[5]string{"kustomize-controller", "Apply", "", "v1", `{"f:data":{"f:b":{}}}`},
		[5]string{"keelson", "Update", "status", "v1", `{"f:status":{}}`},
	))
	got, ok, err := plan.HandBack(u, "keelson", "kustomize-controller")
	if err != nil || !ok {
		t.Fatal(ok, err)
	}
	want := []string{`keelson Updatestatus {"f:status":{}}`, `kustomize-controller Apply {"f:data":{"f:a":{},"f:b":{}}}`}
	if diff := cmp.Diff(want, lines(got)); diff != "" {
		t.Error(diff)
	}
	u.SetManagedFields(got)
	if _, ok, _ := plan.HandBack(u, "keelson", "kustomize-controller"); ok {
		t.Error("there is something to hand back twice")
	}
}
