package main

import (
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	coordinationv1 "k8s.io/api/coordination/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"keelson.dev/keelson/internal/web"
)

func TestOverview(t *testing.T) {
	now := time.Date(2026, 5, 1, 12, 0, 0, 0, time.UTC)
	revision := "main@sha1:0123456789abcdef0123456789abcdef01234567"
	app := func(name string, state web.State, reason, message string) web.App {
		return web.App{Status: web.Status{
			Namespace: "flux-system", Name: name, State: state, Reason: reason, Message: message, Revision: revision, Since: now.Add(-2 * time.Minute),
		}}
	}
	running := controllerState{Running: true, Holder: "host_1"}
	source := []web.Source{{Status: web.Status{Namespace: "flux-system", Name: "repo", State: web.Ready}}}
	cases := map[string]struct {
		reason      string
		controllers controllerState
		nodes       [2]int // all, ready
		apps        []web.App
		healthy     bool
		want        string
	}{
		"all is well": {
			"a suspended app is meant to be so", running, [2]int{2, 2},
			[]web.App{app("a", web.Ready, "", ""), app("b", web.Suspended, "", "")}, true, `
Cluster       https://here, Kubernetes v1.37.1, 2 of 2 nodes ready
Controllers   running, host_1
Sources       1 ready
Apps          1 ready, 1 suspended

Suspended
  App flux-system/b at main@sha1:0123456, for 2m
    -> keelson resume b -n flux-system

All is well.
`},
		"much is wrong": {
			"causes come before what waits for them, and every one says what to do", running, [2]int{1, 1},
			[]web.App{
				app("a", web.Failing, "DependencyNotReady", "waiting for dependency 'flux-system/b'"),
				app("b", web.Failing, "HealthCheckFailed", "not healthy after 5m0s:\nDeployment/dev/web: Available: 0/1"),
				app("c", web.Failing, "ConfirmationRequired", "the commit renders to nothing (hint: if it is meant, run 'keelson confirm c')"),
				app("d", web.Working, "Progressing", "delivering"),
				app("e", web.Failing, "BuildFailed", "app/a.yaml:3: malformed YAML"),
				app("f", web.Failing, "HeldByRollback", "web/f.v3 was made by a person"),
			}, false, `
Cluster       https://here, Kubernetes v1.37.1, 1 of 1 nodes ready
Controllers   running, host_1
Sources       1 ready
Apps          1 working, 5 failing

Failing
  App flux-system/b at main@sha1:0123456, for 2m
    HealthCheckFailed: not healthy after 5m0s: Deployment/dev/web: Available: 0/1
    -> keelson tree b -n flux-system shows what is not healthy
  App flux-system/e at main@sha1:0123456, for 2m
    BuildFailed: app/a.yaml:3: malformed YAML
    -> correct it in Git and push
  App flux-system/f at main@sha1:0123456, for 2m
    HeldByRollback: web/f.v3 was made by a person
    -> keelson resume f -n flux-system makes it what Git wants again
  App flux-system/a at main@sha1:0123456, for 2m
    DependencyNotReady: waiting for dependency 'flux-system/b'

Waiting for your word
  App flux-system/c at main@sha1:0123456, for 2m
    ConfirmationRequired: the commit renders to nothing
    -> if it is meant, run 'keelson confirm c'

On their way
  App flux-system/d at main@sha1:0123456, for 2m
    Progressing: delivering
`},
		"nobody looks": {
			"what was ready when a controller last looked may not be so now", controllerState{Holder: "host_1", Renewed: now.Add(-time.Hour)}, [2]int{0, -1},
			[]web.App{app("a", web.Ready, "", "")}, false, `
Cluster       https://here, Kubernetes v1.37.1
Controllers   not running, last seen 60m ago (host_1): keelson up, or keelson server
Sources       1 ready
Apps          1 ready
`},
		"a node is down": {
			"", running, [2]int{2, 1}, nil, false, `
Cluster       https://here, Kubernetes v1.37.1, 1 of 2 nodes ready
Controllers   running, host_1
Sources       1 ready
Apps          none
`},
	}
	for name, tt := range cases {
		t.Run(name, func(t *testing.T) {
			o := overview{
				Cluster:     clusterState{Server: "https://here", Version: "v1.37.1", Nodes: tt.nodes[0], Ready: tt.nodes[1]},
				Controllers: tt.controllers,
			}
			o.take(source, tt.apps)
			var b strings.Builder
			if err := o.write(&b, now); err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(strings.TrimPrefix(tt.want, "\n"), b.String()); diff != "" {
				t.Errorf("screen (-want +got): %s\n%s", tt.reason, diff)
			}
			if o.Healthy != tt.healthy {
				t.Errorf("healthy: %v, want %v: %s", o.Healthy, tt.healthy, tt.reason)
			}
		})
	}
}

func TestControllersOf(t *testing.T) {
	now := time.Date(2026, 5, 1, 12, 0, 0, 0, time.UTC)
	lease := func(holder string, age time.Duration) *coordinationv1.Lease {
		renewed := metav1.NewMicroTime(now.Add(-age))
		return &coordinationv1.Lease{Spec: coordinationv1.LeaseSpec{HolderIdentity: &holder, RenewTime: &renewed, LeaseDurationSeconds: new(int32(15))}}
	}
	cases := map[string]struct {
		lease *coordinationv1.Lease
		want  bool
	}{
		"never any":  {&coordinationv1.Lease{}, false},
		"renewed":    {lease("a", 3*time.Second), true},
		"run out":    {lease("a", 16*time.Second), false},
		"given back": {lease("", time.Second), false},
	}
	for name, tt := range cases {
		if got := controllersOf(tt.lease, now).Running; got != tt.want {
			t.Errorf("%s: running %v, want %v", name, got, tt.want)
		}
	}
}
