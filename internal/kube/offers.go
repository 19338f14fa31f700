package kube

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"k8s.io/client-go/discovery"
)

// Offer is what a cluster has, as charts ask for it (Helm: .Capabilities).
type Offer struct {
	Version string   // of Kubernetes, "v1.34.1"
	APIs    []string // "apps/v1" and "apps/v1/Deployment", …
}

// offerFor is how long what a cluster has offered is believed.
const offerFor = time.Minute

// offers remembers what the cluster offers.
type offers struct {
	mu   sync.Mutex
	at   time.Time
	last Offer
}

func (o *offers) forget() {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.at = time.Time{}
}

// Offer asks the cluster what it has, at most once a minute.
func (c *Cluster) Offer(ctx context.Context) (Offer, error) {
	c.offers.mu.Lock()
	defer c.offers.mu.Unlock()
	if !c.offers.at.IsZero() && time.Since(c.offers.at) < offerFor {
		return c.offers.last, nil
	}
	client, err := discovery.NewDiscoveryClientForConfigAndClient(c.config, c.http)
	if err != nil {
		return Offer{}, fmt.Errorf("make discovery client: %w", err)
	}
	version, err := client.ServerVersionWithContext(ctx)
	if err != nil {
		return Offer{}, fmt.Errorf("ask for the version of Kubernetes: %w", err)
	}
	_, lists, err := client.ServerGroupsAndResourcesWithContext(ctx)
	if err != nil && !discovery.IsGroupDiscoveryFailedError(err) { // else an aggregated API server is away
		return Offer{}, fmt.Errorf("ask for the kinds of the cluster: %w", err)
	}
	out := Offer{Version: version.GitVersion}
	for _, list := range lists {
		out.APIs = append(out.APIs, list.GroupVersion)
		for _, r := range list.APIResources {
			if !strings.Contains(r.Name, "/") {
				out.APIs = append(out.APIs, list.GroupVersion+"/"+r.Kind)
			}
		}
	}
	slices.Sort(out.APIs)
	c.offers.last, c.offers.at = out, time.Now()
	return out, nil
}
