package controller

import (
	"errors"
	"strings"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	argocdv1 "keelson.dev/keelson/api/argocd/v1alpha1"
	"keelson.dev/keelson/internal/delivery"
)

// chartsPass is a pass for an Application of a project.
func chartsPass(name, project string) *applicationPass {
	p := &applicationPass{
		obj:  &argocdv1.Application{ObjectMeta: metav1.ObjectMeta{Namespace: "argocd", Name: name}, Spec: argocdv1.ApplicationSpec{Project: project}},
		held: &holdings{},
	}
	p.app.ID, p.st = delivery.ID{Kind: argocdv1.ApplicationKind, Namespace: "argocd", Name: name}, &appState{}
	return p
}

// TestChartsOfProjects: a project whose charts take long holds up only itself.
func TestChartsOfProjects(t *testing.T) {
	stuck, through := make(chan struct{}), make(chan string, 20)
	a := &applications{
		apps: apps{reg: newRegistry(), now: time.Now, wake: func(id delivery.ID) { // with the fetch's place still taken
			if through <- id.Name; strings.HasPrefix(id.Name, "slow") {
				<-stuck
			}
		}},
		repos:  &repositories{follower: follower{slots: newLanes(fetches, fetchesPerHost), life: t.Context()}},
		estate: &estate{namespace: "argocd"},
	}
	ended := func() string {
		select {
		case name := <-through:
			return name
		case <-time.After(3 * time.Second):
			return "nobody"
		}
	}
	for range fetchesPerHost + 1 {
		a.fetchCharts(chartsPass("slow", "a"), "key", delivery.Snapshot{}, nil, 0)
	}
	for range fetchesPerHost {
		ended()
	}
	a.fetchCharts(chartsPass("fast", "b"), "key", delivery.Snapshot{}, nil, 0)
	if got := ended(); got != "fast" {
		t.Errorf("%s has got through, want the other project's", got)
	}
	close(stuck)
	if got := ended(); got != "slow" {
		t.Errorf("%s has got through at last", got)
	}
}

// TestWaitForCharts: who waits long for charts says so, unless an operation is about to say it.
func TestWaitForCharts(t *testing.T) {
	now := time.Now()
	a := &applications{apps: apps{reg: newRegistry(), now: func() time.Time { return now }}}
	for name, tt := range map[string]struct {
		waited time.Duration
		asked  bool
		told   bool
	}{
		"not long":     {time.Second, false, false},
		"long":         {chartsPatience, false, true},
		"an operation": {time.Hour, true, false},
	} {
		p := chartsPass("web", "a")
		if tt.asked {
			p.asked = &delivery.OperationRequest{}
		}
		p.st.charts.keep("/0", completed{running: true, at: now.Add(-tt.waited)})
		_, err := a.complete(p, delivery.Snapshot{})
		fault := (*delivery.Fault)(nil)
		if told := errors.As(err, &fault) && strings.Contains(err.Error(), "waiting for the charts"); told != tt.told || !told && !errors.Is(err, errNotYet) {
			t.Errorf("%s: %v, want to be told: %t", name, err, tt.told)
		}
		if want := chartsPatience - tt.waited; !tt.told && !tt.asked && p.after != want {
			t.Errorf("%s: it is looked at again after %s, want %s", name, p.after, want)
		}
	}
}
