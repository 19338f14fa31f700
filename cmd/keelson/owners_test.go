package main

import (
	"testing"

	"k8s.io/apimachinery/pkg/labels"

	"keelson.dev/keelson/internal/dialect"
)

// Whoever works on kinds that Keelson serves is an owner of them, unless it does not run or works on other objects of them.
func TestActiveOwners(t *testing.T) {
	elsewhere, err := labels.Parse("!sharding.fluxcd.io/key")
	if err != nil {
		t.Fatal(err)
	}
	ours, err := labels.Parse("sharding.fluxcd.io/key=keelson")
	if err != nil {
		t.Fatal(err)
	}
	all := []dialect.FluxController{
		{Name: "source", Program: dialect.SourceController, Replicas: 1, Selector: labels.Everything()},
		{Name: "kustomize", Program: dialect.KustomizeController, Replicas: 1, Selector: elsewhere},
		{Name: "helm", Program: dialect.HelmController, Replicas: 1, Selector: labels.Everything()},
		{Name: "stopped", Program: dialect.HelmController, Selector: labels.Everything()},
		{Name: "notification", Program: dialect.NotificationController, Replicas: 1, Selector: labels.Everything()},
		{Name: "operator", Program: dialect.FluxOperator, Replicas: 1, Selector: labels.Everything()},
	}
	for _, tt := range []struct {
		shard labels.Selector
		want  string
	}{{labels.Everything(), "source kustomize helm "}, {ours, "source helm "}} {
		got := ""
		for _, c := range activeOwners(all, tt.shard) {
			got += c.Name + " "
		}
		if got != tt.want {
			t.Errorf("for %q: %q, want %q", tt.shard, got, tt.want)
		}
	}
}
