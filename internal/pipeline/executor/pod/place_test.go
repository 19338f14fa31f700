package pod

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"keelson.dev/keelson/internal/pipeline/executor"
)

// What is there by a job's name is used only if this Run has made it, and removed only if it is Keelson's.
func TestPlace(t *testing.T) {
	s := serve(t, executor.Job{ID: 5})
	s.j.ctx = t.Context()
	ours := map[string]string{LabelInstance: s.x.o.instance(), LabelJob: "5"}
	for name, tt := range map[string]struct {
		nonce  string
		labels map[string]string
		want   string
	}{
		"its own, and the answer was lost": {nonce: s.j.plan.nonce, labels: ours, want: "there"},
		"an earlier run's":                 {nonce: "older", labels: ours, want: "made"},
		"somebody's":                       {want: "a Secret default/" + s.j.plan.name + " is there already"},
		"another instance's":               {labels: map[string]string{LabelInstance: "other"}, want: "a Secret default/" + s.j.plan.name + " is there already"},
	} {
		t.Run(name, func(t *testing.T) {
			there := &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Name: "there", UID: "1", Labels: tt.labels, Annotations: map[string]string{annotationRun: tt.nonce}}}
			got, err := place(s.j, kindSecret, func() (*corev1.Secret, error) {
				if there != nil {
					return nil, apierrors.NewAlreadyExists(schema.GroupResource{Resource: "secrets"}, "there")
				}
				return &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Name: "made"}}, nil
			}, func() ([]corev1.Secret, error) { return []corev1.Secret{*there}, nil }, func(_ context.Context, _ string, o metav1.DeleteOptions) error {
				if *o.Preconditions.UID != "1" {
					return errors.New("of another")
				}
				there = nil
				return nil
			})
			var text string
			if err != nil {
				text = err.Error()
			} else {
				text = got.Name
			}
			if !strings.HasPrefix(text, tt.want) {
				t.Errorf("%s, want %s", text, tt.want)
			}
		})
	}
}

// A job whose Pods nobody sees fails, and says what may be missing.
func TestNoSync(t *testing.T) {
	s := serve(t, executor.Job{ID: 5})
	s.x.o.Sync = time.Millisecond
	s.x.listed = errors.New("pods is forbidden")
	s.j.ctx = t.Context()
	if err := s.j.launch(); err == nil || !strings.Contains(err.Error(), "list and watch pods in all namespaces? pods is forbidden") {
		t.Errorf("%v", err)
	}
}
