package main

import (
	"context"
	"fmt"

	"sigs.k8s.io/controller-runtime/pkg/client"

	argocdv1 "keelson.dev/keelson/api/argocd/v1alpha1"
	"keelson.dev/keelson/internal/deliver"
	"keelson.dev/keelson/internal/delivery"
)

// previewApplication makes the preview of an Application.
func previewApplication(_ context.Context, _ *deliver.Engine, _ client.Client, a *argocdv1.Application, _ delivery.Policy) (preview, error) {
	return preview{}, hintf(fmt.Errorf("app %s/%s is an Application: it cannot be compared from here yet", a.Namespace, a.Name),
		"keelson sync %s --dry-run tells what a sync would do", a.Name)
}
