package delivery_test

import (
	"errors"
	"io"
	"testing"

	"github.com/fluxcd/cli-utils/pkg/object"
	"github.com/google/go-cmp/cmp"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"keelson.dev/keelson/internal/delivery"
)

func TestRevision(t *testing.T) {
	tests := map[string]delivery.Revision{
		"main@sha1:4c1b":              {Name: "main", Commit: "4c1b"},
		"sha1:4c1b":                   {Commit: "4c1b"},
		"refs/pull/7/head@sha1:4c1b":  {Name: "refs/pull/7/head", Commit: "4c1b"},
		"team@next@sha1:0123456789ab": {Name: "team@next", Commit: "0123456789ab"},
		"":                            {},
	}
	for text, want := range tests {
		t.Run(text, func(t *testing.T) {
			if got := delivery.ParseRevision(text); got != want {
				t.Errorf("ParseRevision = %+v, want %+v", got, want)
			}
			if got := want.String(); got != text {
				t.Errorf("String = %q", got)
			}
		})
	}
	if got := (delivery.Revision{Name: "main", Commit: "0123456789ab"}).Short(); got != "main@sha1:0123456" {
		t.Errorf("Short = %q", got)
	}
}

// TestInventoryID holds our ids equal to those of the library that Flux writes its inventories with.
func TestInventoryID(t *testing.T) {
	tests := map[string]delivery.Ref{
		"namespaced":           {Group: "apps", Kind: "Deployment", Namespace: "dev", Name: "web"},
		"core group":           {Kind: "ConfigMap", Namespace: "dev", Name: "web"},
		"cluster-scoped":       {Kind: "Namespace", Name: "dev"},
		"RBAC name with colon": {Group: "rbac.authorization.k8s.io", Kind: "ClusterRole", Name: "system:web:reader"},
		"dotted name":          {Group: "apiextensions.k8s.io", Kind: "CustomResourceDefinition", Name: "widgets.example.com"},
	}
	for name, ref := range tests {
		t.Run(name, func(t *testing.T) {
			upstream := object.ObjMetadata{
				Namespace: ref.Namespace, Name: ref.Name, GroupKind: schema.GroupKind{Group: ref.Group, Kind: ref.Kind},
			}.String()
			if got := ref.InventoryID(); got != upstream {
				t.Errorf("InventoryID = %q, upstream writes %q", got, upstream)
			}
			back, ok := delivery.ParseInventoryID(upstream)
			if !ok || back != ref {
				t.Errorf("ParseInventoryID(%q) = %+v, %v", upstream, back, ok)
			}
		})
	}
	for _, bad := range []string{"", "a", "a_b", "a_b_c", "___", "ns__group_kind", "ns_name_group_"} {
		if ref, ok := delivery.ParseInventoryID(bad); ok {
			t.Errorf("ParseInventoryID(%q) = %+v, want refusal", bad, ref)
		}
	}
}

func TestInventoryAlgebra(t *testing.T) {
	a := delivery.Ref{Kind: "ConfigMap", Namespace: "dev", Name: "a"}
	b := delivery.Ref{Kind: "ConfigMap", Namespace: "dev", Name: "b"}
	have, want := delivery.Inventory{a: "v1"}, delivery.Inventory{b: "v1"}
	if diff := cmp.Diff(delivery.Inventory{a: "v1", b: "v1"}, have.Union(want)); diff != "" {
		t.Errorf("Union:\n%s", diff)
	}
	if diff := cmp.Diff(delivery.Inventory{a: "v1"}, have.Minus(want)); diff != "" {
		t.Errorf("Minus:\n%s", diff)
	}
	if have.Covers(want) || !have.Union(want).Covers(want) || !have.Covers(nil) {
		t.Error("Covers is wrong")
	}
	if diff := cmp.Diff([]delivery.Ref{a, b}, want.Union(have).Refs()); diff != "" {
		t.Errorf("Refs:\n%s", diff)
	}
}

func TestPlanNext(t *testing.T) {
	crds := delivery.Stage{Name: "CustomResourceDefinitions", Changes: []delivery.Change{{Verb: delivery.Create}}}
	done := delivery.Stage{Name: "CustomResourceDefinitions", Changes: []delivery.Change{{Verb: delivery.Unchanged}}}
	rest := delivery.Stage{Name: "Objects", Changes: []delivery.Change{{Verb: delivery.Create}}}
	awaits := []delivery.Ref{{Kind: "Widget"}}
	tests := map[string]struct {
		plan delivery.Plan
		want string
		more bool
	}{
		"first stage first":           {delivery.Plan{Stages: []delivery.Stage{crds, rest}, Awaits: awaits}, "CustomResourceDefinitions", true},
		"kinds not yet established":   {delivery.Plan{Stages: []delivery.Stage{done, rest}, Awaits: awaits}, "", true},
		"kinds established":           {delivery.Plan{Stages: []delivery.Stage{done, rest}}, "Objects", true},
		"nothing to do":               {delivery.Plan{Stages: []delivery.Stage{done}}, "", false},
		"nothing but an awaited kind": {delivery.Plan{Stages: []delivery.Stage{rest}, Awaits: awaits}, "Objects", true},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			stage, more := tt.plan.Next()
			if stage.Name != tt.want || more != tt.more {
				t.Errorf("Next = %q, %v; want %q, %v", stage.Name, more, tt.want, tt.more)
			}
		})
	}
}

func TestFault(t *testing.T) {
	f := &delivery.Fault{Reason: "BuildFailed", Where: "a.yaml:3", Hint: "mend it", Err: io.ErrUnexpectedEOF}
	if got, want := f.Error(), "a.yaml:3: unexpected EOF (hint: mend it)"; got != want {
		t.Errorf("Error = %q, want %q", got, want)
	}
	if !errors.Is(f, io.ErrUnexpectedEOF) {
		t.Error("the cause is lost")
	}
	wrapped := delivery.FaultOf(errors.Join(f), "Other")
	if wrapped != f {
		t.Errorf("FaultOf = %v, want the fault inside", wrapped)
	}
	if got := delivery.FaultOf(io.EOF, "Other"); got.Reason != "Other" || got.Retry != delivery.Backoff {
		t.Errorf("FaultOf = %+v", got)
	}
}
