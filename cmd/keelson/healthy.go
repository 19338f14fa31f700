package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"keelson.dev/keelson/internal/web"
)

// clusterUID tells one cluster from another: the id of its first namespace, which lives as long as its data.
func clusterUID(ctx context.Context, c client.Reader) (string, error) {
	var ns corev1.Namespace
	if err := c.Get(ctx, client.ObjectKey{Name: "kube-system"}, &ns); err != nil {
		return "", explainAPI(fmt.Errorf("identify the cluster: %w", err))
	}
	return string(ns.UID), nil
}

// waitHealthy reports every source and app as it gets ready. It ends when all are, or in time with a list of those
// that are not: that is a state of the apps, no failure of the instance.
func (d *Daemon) waitHealthy(ctx context.Context, c client.Reader) error {
	wait, cancel := context.WithTimeout(ctx, d.Timeout)
	defer cancel()
	told := map[string]bool{}
	var pending []string
	err := poll(wait, 200*time.Millisecond, func(ctx context.Context) (bool, error) {
		if looked, err := d.looked(ctx); err != nil || !looked {
			pending = []string{"the controllers have not looked at every app yet"}
			return false, nil //nolint:nilerr // asked again until the time is over
		}
		all, err := allStatus(ctx, c)
		if err != nil {
			return false, nil //nolint:nilerr // asked again until the time is over
		}
		pending = pending[:0]
		for _, s := range all {
			id := s.Kind + "/" + s.Namespace + "/" + s.Name
			switch {
			case s.State == web.Suspended, s.State == web.OutOfSync: // nobody but a person changes that
			case s.State != web.Ready:
				pending = append(pending, strings.TrimSpace(id+" is "+string(s.State)+": "+message(s, true)))
			case !told[id]:
				told[id] = true
				d.step("%s is ready at %s", id, shortRevision(s.Revision))
			}
		}
		return len(pending) == 0, nil
	})
	if err != nil && !errors.Is(err, context.DeadlineExceeded) {
		return err
	}
	p := progress{PID: os.Getpid(), Ready: true}
	if err != nil {
		p.Unhealthy = pending
	}
	d.Progress(p)
	return nil
}

func allStatus(ctx context.Context, c client.Reader) ([]web.Status, error) {
	l := clusterLister{client: c}
	sources, err := l.Sources(ctx)
	if err != nil {
		return nil, err
	}
	apps, err := l.Apps(ctx)
	if err != nil {
		return nil, err
	}
	var all []web.Status
	for _, s := range sources {
		all = append(all, s.Status)
	}
	for _, a := range apps {
		all = append(all, a.Status)
	}
	return all, nil
}
