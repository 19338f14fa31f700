package main

import (
	"context"
	"fmt"
	"strings"

	sourcev1 "github.com/fluxcd/source-controller/api/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"keelson.dev/keelson/internal/deliver"
	"keelson.dev/keelson/internal/delivery"
	"keelson.dev/keelson/internal/dialect"
	"keelson.dev/keelson/internal/source"
)

// maxIncluded bounds how deep sources include each other.
const maxIncluded = 10

// fetchWithIncluded gives the newest commit of a source whose Secrets are read, with the newest ones of those it includes.
func fetchWithIncluded(ctx context.Context, c client.Client, fetcher *source.Fetcher, src delivery.Source, depth int) (delivery.Snapshot, error) {
	if depth > maxIncluded {
		return delivery.Snapshot{}, fmt.Errorf("source %s: sources include each other more than %d deep", src.ID, maxIncluded)
	}
	var included []delivery.Snapshot
	for _, inc := range src.Include {
		var g sourcev1.GitRepository
		if err := c.Get(ctx, client.ObjectKey{Namespace: inc.Source.Namespace, Name: inc.Source.Name}, &g); err != nil {
			return delivery.Snapshot{}, explainAPI(fmt.Errorf("read the included source: %w", err))
		}
		other := dialect.GitRepository(&g)
		if len(other.Refused) > 0 {
			return delivery.Snapshot{}, fmt.Errorf("source %s: %s: not supported yet", other.ID, strings.Join(other.Refused, ", "))
		}
		if err := deliver.ReadSecrets(ctx, c, &other); err != nil {
			return delivery.Snapshot{}, fmt.Errorf("source %s: %w", other.ID, err)
		}
		snap, err := fetchWithIncluded(ctx, c, fetcher, other, depth+1)
		if err != nil {
			return delivery.Snapshot{}, err
		}
		included = append(included, snap)
	}
	rev, err := fetcher.Resolve(ctx, src)
	if err != nil {
		return delivery.Snapshot{}, err
	}
	return fetcher.Fetch(ctx, src, rev, included...)
}
