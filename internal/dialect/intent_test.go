package dialect_test

import (
	"fmt"
	"testing"
	"time"

	kustomizev1 "github.com/fluxcd/kustomize-controller/api/v1"
	"github.com/google/go-cmp/cmp"

	"keelson.dev/keelson/internal/delivery"
	"keelson.dev/keelson/internal/dialect"
)

func TestIntent(t *testing.T) {
	a := delivery.Ref{Kind: "ConfigMap", Namespace: "dev", Name: "a"}
	b := delivery.Ref{Group: "apps", Kind: "Deployment", Namespace: "dev", Name: "b"}
	owned := func(refs ...delivery.Ref) delivery.Inventory {
		inv := delivery.Inventory{}
		for _, r := range refs {
			inv[r] = "v1"
		}
		return inv
	}
	status := func(inv delivery.Inventory, applied string) kustomizev1.KustomizationStatus {
		out := delivery.Outcome{Inventory: inv, Applied: delivery.ParseRevision(applied)}
		return dialect.KustomizationStatus(kustomizev1.KustomizationStatus{}, delivery.App{}, out, time.Time{})
	}
	tests := map[string]struct {
		reason                string
		before, widened, then delivery.Inventory // status when it was written, what was intended, status when it is read
		want                  delivery.Inventory
		applied               string // the revision in the status when it is read; none when it was written
	}{
		"first delivery, cut off": {reason: "nothing is in the status yet", widened: owned(a, b), want: owned(a, b)},
		"widened, cut off":        {reason: "the status is as it was", before: owned(a), widened: owned(a, b), then: owned(a), want: owned(a, b)},
		"settled":                 {reason: "the status has it itself", before: owned(a), widened: owned(a, b), then: owned(a, b), want: owned(a, b)},
		"settled, and pruned since": {
			reason: "an old intent means nothing beside another inventory",
			before: owned(a), widened: owned(a, b), then: owned(b), want: owned(b),
		},
		"settled, and back to the start": {
			reason: "what was let go of since is not claimed again",
			before: owned(a), widened: owned(a, b), then: owned(a), applied: "main@sha1:2", want: owned(a),
		},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			before := status(tt.before, "")
			text, ok := dialect.Intent(&before, tt.widened)
			if !ok {
				t.Fatal("the intent does not fit")
			}
			k := &kustomizev1.Kustomization{Status: status(tt.then, tt.applied)}
			k.Annotations = map[string]string{dialect.IntentAnnotation: text}
			if diff := cmp.Diff(tt.want, dialect.KustomizationOwned(k)); diff != "" {
				t.Errorf("owned (%s):\n%s", tt.reason, diff)
			}
		})
	}
	for _, bad := range []string{"", "{", `{"base":"x","entries":{"no_id":"v1"}}`, `[]`} {
		k := &kustomizev1.Kustomization{Status: status(owned(a), "")}
		k.Annotations = map[string]string{dialect.IntentAnnotation: bad}
		if diff := cmp.Diff(owned(a), dialect.KustomizationOwned(k)); diff != "" {
			t.Errorf("annotation %q:\n%s", bad, diff)
		}
	}
	many := delivery.Inventory{}
	for i := range 5000 {
		many[delivery.Ref{Kind: "ConfigMap", Namespace: "dev", Name: fmt.Sprint("object-", i)}] = "v1"
	}
	if _, ok := dialect.Intent(&kustomizev1.KustomizationStatus{}, many); ok {
		t.Error("5,000 objects fit into an annotation")
	}
}
