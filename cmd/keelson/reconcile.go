package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	kustomizev1 "github.com/fluxcd/kustomize-controller/api/v1"
	fluxmeta "github.com/fluxcd/pkg/apis/meta"
	"github.com/spf13/cobra"
	"k8s.io/apimachinery/pkg/watch"
	"sigs.k8s.io/controller-runtime/pkg/client"

	argocdv1 "keelson.dev/keelson/api/argocd/v1alpha1"
	"keelson.dev/keelson/internal/web"
)

type reconcileOptions struct {
	app        string
	withSource bool
	timeout    time.Duration
}

func reconcileCommand(g *global) *cobra.Command {
	var opts reconcileOptions
	cmd := &cobra.Command{
		Use:   "reconcile APP",
		Short: "Reconcile an app now and wait for the result",
		Long: `Reconcile asks for an app to be reconciled now, waits until that was done, and says how it went.
APP is a name, or namespace/name. The exit code is 3 if the app is not ready then.

With --server a keelson server is asked for it, as whoever has logged in there, always for the source too. It is not waited for.`,
		Args: args(cobra.ExactArgs(1)),
		RunE: func(cmd *cobra.Command, a []string) error {
			opts.app = a[0]
			if g.byServer() {
				if err := onlyFlags(cmd, "timeout"); err != nil {
					return err
				}
				return askServer(cmd.Context(), g, opts.app, "refresh", web.AskApp{})
			}
			return runReconcile(cmd.Context(), g, opts)
		},
	}
	cmd.Flags().BoolVar(&opts.withSource, "with-source", false, "ask the app's source for new commits first")
	cmd.Flags().DurationVar(&opts.timeout, "timeout", 5*time.Minute, "how long to wait")
	return cmd
}

func runReconcile(ctx context.Context, g *global, opts reconcileOptions) error {
	c, err := g.client()
	if err != nil {
		return err
	}
	app, err := findApp(ctx, c, g.namespace, opts.app)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, opts.timeout)
	defer cancel()
	status, err := reconcileApp(ctx, c, app, opts)
	if err != nil {
		return err
	}
	if err := g.print(status, printf("%s/%s is %s at %s: %s", status.Namespace, status.Name, status.State, shortRevision(status.Revision), message(status, true))); err != nil {
		return err
	}
	if status.State != web.Ready {
		return withCode(exitUnhealthy, hintf(fmt.Errorf("app %s/%s is %s", status.Namespace, status.Name, status.State), "keelson events %s tells what happened", opts.app))
	}
	return nil
}

// reconcileApp asks for a reconciliation of an app and waits for what comes of it.
func reconcileApp(ctx context.Context, c client.WithWatch, app foundApp, opts reconcileOptions) (web.Status, error) {
	if app.argo != nil {
		kind := "normal"
		if opts.withSource {
			kind = "hard"
		}
		status, err := requestAndWait(ctx, c, app.argo, &argocdv1.ApplicationList{}, request{argocdv1.RefreshAnnotation, kind, refreshed})
		if err != nil {
			return status, fmt.Errorf("reconcile app %s: %w", app, err)
		}
		return status, nil
	}
	if app.helm != nil {
		return reconcileRelease(ctx, c, app, opts)
	}
	k := app.flux
	if k.Spec.Suspend {
		return web.Status{}, hintf(fmt.Errorf("app %s is suspended", app), "keelson resume %s", opts.app)
	}
	now := time.Now().Format(time.RFC3339Nano)
	if opts.withSource {
		src, err := sourceOfApp(ctx, c, k)
		if err != nil {
			return web.Status{}, err
		}
		if _, err := requestAndWait(ctx, c, src, sourceListOf(src), request{fluxmeta.ReconcileRequestAnnotation, now, sourceResult}); err != nil {
			return web.Status{}, fmt.Errorf("reconcile source %s/%s: %w", src.GetNamespace(), src.GetName(), err)
		}
	}
	status, err := requestAndWait(ctx, c, k, &kustomizev1.KustomizationList{}, request{fluxmeta.ReconcileRequestAnnotation, now, appResult})
	if err != nil {
		return status, fmt.Errorf("reconcile app %s: %w", app, err)
	}
	return status, nil
}

// request is an annotation that asks for a reconciliation.
type request struct {
	annotation, value string
	// result tells from an object whether the request was handled, and how the object is doing.
	result func(obj client.Object, value string) (handled bool, status web.Status)
}

func appResult(obj client.Object, value string) (handled bool, status web.Status) {
	k, ok := obj.(*kustomizev1.Kustomization)
	if !ok {
		return false, web.Status{}
	}
	return k.Status.LastHandledReconcileAt == value, appOf(k).Status
}

func sourceResult(obj client.Object, value string) (handled bool, status web.Status) {
	p := partsOf(obj)
	if p.kind == "" {
		return false, web.Status{}
	}
	return p.handled == value, sourceOf(obj).Status
}

// refreshed: whoever refreshes an Application takes the annotation away (Argo CD: user-guide/annotations-and-labels).
func refreshed(obj client.Object, _ string) (handled bool, status web.Status) {
	a, ok := obj.(*argocdv1.Application)
	if !ok {
		return false, web.Status{}
	}
	return a.Annotations[argocdv1.RefreshAnnotation] == "", appOfArgo(a).Status
}

// requestAndWait requests a reconciliation of obj and watches until that request was handled and the result is known.
func requestAndWait(ctx context.Context, c client.WithWatch, obj client.Object, list client.ObjectList, r request) (web.Status, error) {
	w, err := c.Watch(ctx, list, client.InNamespace(obj.GetNamespace()), client.MatchingFields{"metadata.name": obj.GetName()})
	if err != nil {
		return web.Status{}, explainAPI(err)
	}
	defer w.Stop()
	if err := annotate(ctx, c, obj, r.annotation, r.value); err != nil {
		return web.Status{}, explainAPI(err)
	}
	var last web.Status
	for {
		select {
		case <-ctx.Done():
			return last, stillWaiting(ctx, last)
		case e, ok := <-w.ResultChan():
			if !ok {
				if ctx.Err() != nil {
					return last, stillWaiting(ctx, last)
				}
				return last, errors.New("the API server ended the watch; try again")
			}
			if e.Type == watch.Deleted {
				return last, errors.New("it was deleted meanwhile")
			}
			o, ok := e.Object.(client.Object)
			if !ok {
				continue
			}
			if older(o, obj) {
				continue // as it was before the request
			}
			handled, status := r.result(o, r.value)
			last = status
			if handled && status.State != web.Working {
				return status, nil
			}
		}
	}
}

func stillWaiting(ctx context.Context, last web.Status) error {
	if !errors.Is(ctx.Err(), context.DeadlineExceeded) {
		return ctx.Err()
	}
	err := fmt.Errorf("it was not done in time; it is %s: %s", last.State, message(last, true))
	return withCode(exitUnhealthy, hintf(err, "is a controller running (keelson up, keelson server)? --timeout waits longer"))
}
