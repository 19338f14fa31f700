package main

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	helmv2 "github.com/fluxcd/helm-controller/api/v2"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"keelson.dev/keelson/internal/history"
	"keelson.dev/keelson/internal/web"
)

// TestFailedRollbackTellsNoSecrets: why a rollback fails is recorded and answered without the values that any version was made with, also where the
// app takes none from Secrets any more.
func TestFailedRollbackTellsNoSecrets(t *testing.T) {
	var told []history.Delivery
	refused := errors.New(`ConfigMap "web" is invalid: data.password: Invalid value: "of-a-secret-of-old"`)
	versions := []releaseVersion{
		{Version: 1, ChartVersion: "1.0.0", values: map[string]any{"db": map[string]any{"password": "of-a-secret-of-old"}}},
		{Version: 2, ChartVersion: "1.1.0"},
	}
	hr := &helmv2.HelmRelease{ObjectMeta: metav1.ObjectMeta{Namespace: "dev", Name: "web"}, Spec: helmv2.HelmReleaseSpec{
		ChartRef: &helmv2.CrossNamespaceSourceReference{Kind: "OCIRepository", Name: "web"},
	}}
	for name, api := range map[string]*clusterAPI{"with a history": {deliver: func(d history.Delivery) { told = append(told, d) }}, "without": {}} {
		tell, err := api.tellsRollback(t.Context(), &caller{who: web.Person{Name: "ann"}}, foundApp{helm: hr}, versions, 1)
		if err != nil {
			t.Fatal(err)
		}
		err = tell(rolledBackRelease{}, fmt.Errorf("apply: %w", refused))
		if !errors.Is(err, refused) || strings.Contains(err.Error(), "of-a-secret") || !strings.Contains(err.Error(), "data.password") {
			t.Errorf("%s: it says %v", name, err)
		}
		if err := tell(rolledBackRelease{}, nil); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	if len(told) != 2 || told[0].Status != history.Failed || strings.Contains(told[0].Message, "of-a-secret") || !strings.Contains(told[0].Message, "data.password") ||
		told[1].Status != history.Succeeded {
		t.Errorf("the history is told %+v", told)
	}
}
