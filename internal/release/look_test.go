package release

import (
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// A version's Secret is made once and written again when a later version supersedes it, maybe by another program.
func TestEntryOf(t *testing.T) {
	made, superseded := metav1.NewTime(time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)), metav1.NewTime(time.Date(2026, 1, 2, 4, 0, 0, 0, time.UTC))
	secret := metav1.ObjectMeta{
		Name: "sh.helm.release.v1.web.v2", Namespace: "apps",
		Labels: map[string]string{"owner": "helm", "name": "web", "version": "2", "status": "superseded"},
		ManagedFields: []metav1.ManagedFieldsEntry{
			{Manager: "Helm", Time: &superseded, FieldsV1: metav1.NewFieldsV1(`{"f:data":{"f:release":{}},"f:metadata":{"f:labels":{"f:status":{}}}}`)},
			{Manager: "keelson", Time: &made, FieldsV1: metav1.NewFieldsV1(`{"f:data":{},"f:metadata":{"f:labels":{"f:name":{}}},"f:type":{}}`)},
		},
	}
	want := Entry{Name: "web", Version: 2, Status: "superseded", Writer: "Helm", Maker: "keelson"}
	if got, ok := EntryOf(&secret); !ok || got != want {
		t.Errorf("entry %+v (%t), want %+v", got, ok, want)
	}
	secret.ManagedFields = nil
	want.Writer, want.Maker = "", ""
	if got, ok := EntryOf(&secret); !ok || got != want {
		t.Errorf("entry of a Secret without field managers %+v (%t), want %+v", got, ok, want)
	}
}
