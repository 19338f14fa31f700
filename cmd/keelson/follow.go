package main

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/watch"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

// listAll lists objects, sorted by namespace and name, and gives the resource version that a watch may begin at.
func listAll(ctx context.Context, c client.Reader, list client.ObjectList, opts ...client.ListOption) ([]client.Object, resourceVersion, error) {
	if err := c.List(ctx, list, opts...); err != nil {
		return nil, "", err
	}
	items, err := meta.ExtractList(list)
	if err != nil {
		return nil, "", fmt.Errorf("read list: %w", err)
	}
	var objects []client.Object
	for _, item := range items {
		if obj, ok := item.(client.Object); ok {
			objects = append(objects, obj)
		}
	}
	slices.SortFunc(objects, byObjectName)
	return objects, resourceVersion(list.GetResourceVersion()), nil
}

func byObjectName(a, b client.Object) int {
	return cmp.Or(cmp.Compare(a.GetNamespace(), b.GetNamespace()), cmp.Compare(a.GetName(), b.GetName()))
}

// watchPause is the pause before a watch that has ended is begun anew.
const watchPause = time.Second

// follower takes what [followKind] has to tell. An error of either method ends it.
type follower struct {
	show  func(obj client.Object, gone bool) error
	flush func() error // after a list, and after every single change
}

// followKind shows every object of a kind, sorted, and then each one that comes, changes or goes, until ctx ends.
// The API server ends watches now and then: then it lists anew, so the same may be shown twice.
func followKind(ctx context.Context, c client.WithWatch, list func() client.ObjectList, opts []client.ListOption, f follower) error {
	known := map[client.ObjectKey]client.Object{}
	for begun := false; ; begun = true {
		objects, from, err := listAll(ctx, c, list(), opts...)
		if err != nil && (!begun || !isUnreachable(err)) {
			return fmt.Errorf("list: %w", err)
		}
		if err == nil {
			if err := f.list(known, objects); err != nil {
				return err
			}
			if err := watchOnce(ctx, c, list(), append(slices.Clip(opts), from), known, f); err != nil {
				return err
			}
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(watchPause):
		}
	}
}

// list shows what a list holds, and what it no longer does.
func (f follower) list(known map[client.ObjectKey]client.Object, objects []client.Object) error {
	now := map[client.ObjectKey]bool{}
	for _, obj := range objects {
		key := client.ObjectKeyFromObject(obj)
		now[key] = true
		known[key] = obj
		if err := f.show(obj, false); err != nil {
			return err
		}
	}
	for key, obj := range known {
		if now[key] {
			continue
		}
		delete(known, key)
		if err := f.show(obj, true); err != nil {
			return err
		}
	}
	return f.flush()
}

// watchOnce watches until the watch ends, which is no error.
func watchOnce(ctx context.Context, c client.WithWatch, list client.ObjectList, opts []client.ListOption,
	known map[client.ObjectKey]client.Object, f follower) error {
	w, err := c.Watch(ctx, list, opts...)
	if apierrors.IsResourceExpired(err) || apierrors.IsGone(err) || isUnreachable(err) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("watch: %w", err)
	}
	defer w.Stop()
	for e := range w.ResultChan() {
		obj, ok := e.Object.(client.Object)
		if !ok || e.Type != watch.Added && e.Type != watch.Modified && e.Type != watch.Deleted {
			continue // a bookmark, or an error that ends the watch
		}
		key, gone := client.ObjectKeyFromObject(obj), e.Type == watch.Deleted
		if known[key] = obj; gone {
			delete(known, key)
		}
		if err := cmp.Or(f.show(obj, gone), f.flush()); err != nil {
			return err
		}
	}
	return nil
}
