package dialect_test

import (
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	argocdv1 "keelson.dev/keelson/api/argocd/v1alpha1"
	"keelson.dev/keelson/internal/dialect"
)

// TestArgoApproved: a person's word counts for the operation under way, or for the deletion, that it was given after.
func TestArgoApproved(t *testing.T) {
	began := metav1.NewTime(time.Date(2026, 11, 21, 12, 0, 30, 500, time.UTC))
	running := &argocdv1.OperationState{Phase: argocdv1.OperationRunning, StartedAt: began}
	over := &argocdv1.OperationState{Phase: argocdv1.OperationSucceeded, StartedAt: began, FinishedAt: &began}
	for name, tt := range map[string]struct {
		word    string
		state   *argocdv1.OperationState
		deleted *metav1.Time
		want    bool
	}{
		"after it began":        {"2026-11-21T12:01:00Z", running, nil, true},
		"in the same second":    {"2026-11-21T12:00:30Z", running, nil, true},
		"before it began":       {"2026-11-21T12:00:00Z", running, nil, false},
		"for none":              {"2026-11-21T12:01:00Z", over, nil, false},
		"for the deletion":      {"2026-11-21T12:01:00Z", over, &began, true},
		"before the deletion":   {"2026-11-21T11:01:00Z", nil, &began, false},
		"no time":               {"yes", running, nil, false},
		"nobody said something": {"", running, nil, false},
	} {
		a := &argocdv1.Application{ObjectMeta: metav1.ObjectMeta{
			Name: "web", Namespace: "argocd", DeletionTimestamp: tt.deleted,
			Annotations: map[string]string{argocdv1.DeletionApprovedAnnotation: tt.word},
		}}
		a.Status.OperationState = tt.state
		if got := dialect.Application(a, dialect.Argo{Namespace: "argocd"}).App.Sync.Approved; got != tt.want {
			t.Errorf("%s: %v, want %v", name, got, tt.want)
		}
	}
}
