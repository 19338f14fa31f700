package deliver

import (
	"context"
	"fmt"
	"slices"

	sourcev1 "github.com/fluxcd/source-controller/api/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	apimeta "k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"keelson.dev/keelson/internal/delivery"
	"keelson.dev/keelson/internal/dialect"
)

// ChartGeneration gives the generation that tells versions of a HelmRelease's chart with other values files apart: that of the HelmChart which
// Flux has made for it, where it says the same, so that what Flux has released is told by the same version; otherwise, else.
func ChartGeneration(ctx context.Context, reader client.Reader, app delivery.ID, t delivery.ChartTemplate, otherwise int64) (int64, error) {
	if len(t.ValuesFiles) == 0 {
		return otherwise, nil // it tells nothing
	}
	var made sourcev1.HelmChart
	name := types.NamespacedName{Namespace: t.Source.Namespace, Name: app.Namespace + "-" + app.Name}
	err := reader.Get(ctx, name, &made)
	if apierrors.IsNotFound(err) || apimeta.IsNoMatchError(err) {
		return otherwise, nil
	}
	if err != nil {
		return 0, &delivery.Fault{Reason: "SourceUnavailable", Err: fmt.Errorf("read HelmChart %s: %w", name, err)}
	}
	is := dialect.HelmChart(&made)
	if is.Name == t.Name && is.Version == t.Version && is.Source == t.Source && is.EachRevision == t.EachRevision &&
		slices.Equal(is.ValuesFiles, t.ValuesFiles) && is.IgnoreMissingValues == t.IgnoreMissingValues {
		return made.Generation, nil
	}
	return otherwise, nil
}
