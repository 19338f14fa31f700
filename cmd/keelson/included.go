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

// including fetches sources with those that they include, each of them once.
type including struct {
	client  client.Client
	fetcher *source.Fetcher
	fetched map[delivery.ID]delivery.Snapshot
}

// fetch gives the newest commit of a source whose Secrets are read, with the newest ones of those it includes.
func (f *including) fetch(ctx context.Context, src delivery.Source, depth int) (delivery.Snapshot, error) {
	if snap, ok := f.fetched[src.ID]; ok {
		return snap, nil
	}
	if depth > maxIncluded {
		return delivery.Snapshot{}, fmt.Errorf("source %s: sources include each other more than %d deep", src.ID, maxIncluded)
	}
	var included []delivery.Snapshot
	for _, inc := range src.Include {
		var g sourcev1.GitRepository
		if err := f.client.Get(ctx, client.ObjectKey{Namespace: inc.Source.Namespace, Name: inc.Source.Name}, &g); err != nil {
			return delivery.Snapshot{}, explainAPI(fmt.Errorf("read the included source: %w", err))
		}
		other := dialect.GitRepository(&g)
		if len(other.Refused) > 0 {
			return delivery.Snapshot{}, fmt.Errorf("source %s: %s: not supported yet", other.ID, strings.Join(other.Refused, ", "))
		}
		if err := deliver.ReadSecrets(ctx, f.client, &other); err != nil {
			return delivery.Snapshot{}, fmt.Errorf("source %s: %w", other.ID, err)
		}
		snap, err := f.fetch(ctx, other, depth+1)
		if err != nil {
			return delivery.Snapshot{}, err
		}
		included = append(included, snap)
	}
	rev, err := f.fetcher.Resolve(ctx, src)
	if err != nil {
		return delivery.Snapshot{}, err
	}
	snap, err := f.fetcher.Fetch(ctx, src, rev, included...)
	if err != nil {
		return delivery.Snapshot{}, err
	}
	if f.fetched == nil {
		f.fetched = map[delivery.ID]delivery.Snapshot{}
	}
	f.fetched[src.ID] = snap
	return snap, nil
}
