package controller_test

import (
	"encoding/json"
	"strings"
	"testing"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"keelson.dev/keelson/internal/controller"
	"keelson.dev/keelson/internal/delivery"
	"keelson.dev/keelson/internal/redact"
	"keelson.dev/keelson/internal/release"
)

// TestRollbackChangesTellNoValues: a version that is back may have been made with values of a Secret that Git names no more, so which fields have
// changed is told, and no value.
func TestRollbackChangesTellNoValues(t *testing.T) {
	configMap := func(v string) *unstructured.Unstructured {
		return &unstructured.Unstructured{Object: map[string]any{
			"apiVersion": "v1", "kind": "ConfigMap", "metadata": map[string]any{"namespace": "dev", "name": "web"}, "data": map[string]any{"password": v},
		}}
	}
	changes := controller.RollbackChanges([]release.Changed{{
		Ref: delivery.Ref{Kind: "ConfigMap", Namespace: "dev", Name: "web"}, Before: configMap("plain"), After: configMap("of-a-secret-of-old"),
	}}, redact.New())
	got, err := json.Marshal(changes)
	if err != nil {
		t.Fatal(err)
	}
	if len(changes) != 1 || len(changes[0].Fields) != 1 || changes[0].Fields[0].Path != "data.password" ||
		strings.Contains(string(got), "of-a-secret-of-old") || strings.Contains(string(got), "plain") {
		t.Errorf("it says %s", got)
	}
}
