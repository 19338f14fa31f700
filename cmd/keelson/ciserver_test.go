package main

import (
	"context"
	"errors"
	"sync/atomic"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/fake"
	"sigs.k8s.io/controller-runtime/pkg/client/interceptor"

	keelsonv1 "keelson.dev/keelson/api/v1alpha1"
)

// TestProjectPlaces: while the cluster does not answer where Projects are, each of those who ask waits as long as it likes, and all get one answer.
func TestProjectPlaces(t *testing.T) {
	known, err := clientKinds()
	if err != nil {
		t.Fatal(err)
	}
	var lists atomic.Int32
	asked, answer := make(chan struct{}, 9), make(chan struct{})
	project := &keelsonv1.Project{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "web"}, Spec: keelsonv1.ProjectSpec{Repository: "shop/web"}}
	c := fake.NewClientBuilder().WithScheme(known.scheme).WithObjects(project).WithInterceptorFuncs(interceptor.Funcs{
		List: func(ctx context.Context, c client.WithWatch, list client.ObjectList, opts ...client.ListOption) error {
			lists.Add(1)
			asked <- struct{}{}
			<-answer
			return c.List(ctx, list, opts...)
		},
	}).Build()
	l := newLazyProjects(nil)
	gone, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := l.repository(gone, "shop/web"); !errors.Is(err, context.Canceled) {
		t.Errorf("before the cluster is known: %v", err)
	}
	l.set(c)
	impatient, cancel := context.WithCancel(t.Context())
	first, second := make(chan error, 1), make(chan error, 1)
	go func() {
		_, _, err := l.where(impatient, "shop/web")
		first <- err
	}()
	<-asked
	go func() {
		namespace, name, err := l.where(t.Context(), "shop/web")
		if err == nil && (namespace != "shop" || name != "web") {
			err = errors.New(namespace + "/" + name)
		}
		second <- err
	}()
	if _, err := l.repository(gone, "shop/web"); !errors.Is(err, context.Canceled) {
		t.Errorf("of somebody who has gone: %v", err)
	}
	cancel()
	ended := func(who string, c <-chan error) error {
		select {
		case err := <-c:
			return err
		case <-time.After(10 * time.Second):
			t.Fatal(who + " still waits")
			return nil
		}
	}
	if err := ended("who has asked first", first); !errors.Is(err, context.Canceled) {
		t.Errorf("who has asked first: %v", err)
	}
	close(answer)
	if err := ended("the other one", second); err != nil {
		t.Errorf("the other one: %v", err)
	}
	if keys, err := l.repository(t.Context(), "shop/web"); err != nil || len(keys) != 1 || lists.Load() != 1 {
		t.Errorf("%v %v, listed %d times", keys, err, lists.Load())
	}
}
