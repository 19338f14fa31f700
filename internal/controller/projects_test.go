package controller

import (
	"context"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	keelsonv1 "keelson.dev/keelson/api/v1alpha1"
	"keelson.dev/keelson/internal/live"
)

// fixedStanding is what is said of every Project.
type fixedStanding ProjectStanding

func (s fixedStanding) Take(context.Context, *keelsonv1.Project) ProjectStanding {
	return ProjectStanding(s)
}
func (fixedStanding) Forget(types.NamespacedName)     {}
func (fixedStanding) Tell(func(types.NamespacedName)) {}

// TestLastPolled holds when the status says when another Git server was asked last.
func TestLastPolled(t *testing.T) {
	old, now := metav1.NewTime(time.Unix(1, 0)), metav1.NewTime(time.Unix(2, 0))
	source := &keelsonv1.ProjectSource{URL: "https://git.example.com/app.git"}
	for _, c := range []struct {
		name             string
		source           *keelsonv1.ProjectSource
		was, says, wants *metav1.Time
	}{
		{"a first look", source, nil, &now, &now},
		{"another look", source, &old, &now, &now},
		{"nothing is known of a look since the start", source, &old, nil, &old},
		{"it is no mirror any more", nil, &old, nil, nil},
	} {
		p := &keelsonv1.Project{ObjectMeta: metav1.ObjectMeta{Namespace: "a", Name: "b"}, Spec: keelsonv1.ProjectSpec{Source: c.source}}
		p.Status.LastPolled = c.was
		k := &projects{port: fixedStanding{Ready: true, Reason: "Succeeded", LastPolled: c.says}, live: live.New(t.Context(), nil, live.Options{}), now: time.Now}
		k.step(t.Context(), p, pen{})
		if !p.Status.LastPolled.Equal(c.wants) {
			t.Errorf("%s: %v, want %v", c.name, p.Status.LastPolled, c.wants)
		}
	}
}
