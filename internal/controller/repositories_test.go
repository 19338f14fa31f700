package controller

import (
	"testing"

	"keelson.dev/keelson/internal/delivery"
)

// Several sources of one app may be of one repository, as where a "ref" has the values and a path manifests. When the app goes,
// that repository is let go of once, and nobody is kept from it.
func TestRepositoryOfSeveralSources(t *testing.T) {
	tidied := make(chan struct{}, 1)
	r := newRepositories(follower{reg: newRegistry()}, func(delivery.ID) {}, nil, func() { tidied <- struct{}{} })
	app, other := delivery.ID{Kind: "Application", Name: "several"}, delivery.ID{Kind: "Application", Name: "other"}
	source := delivery.Source{ID: delivery.ID{Kind: "Repository", Name: "one"}}
	r.want(app, []delivery.Source{source, source})
	r.want(app, nil)
	<-tidied
	if len(r.wanted)+len(r.wants) != 0 {
		t.Errorf("after its only user is gone %v is wanted by %v", r.wanted, r.wants)
	}
	r.want(other, []delivery.Source{source})
	if w := r.wanted[source.ID]; w == nil || !w.users[other] {
		t.Errorf("another app cannot have it: %v", r.wanted)
	}
}
