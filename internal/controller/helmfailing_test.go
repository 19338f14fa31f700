package controller

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"testing"
	"time"

	helmv2 "github.com/fluxcd/helm-controller/api/v2"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"keelson.dev/keelson/internal/delivery"
	"keelson.dev/keelson/internal/dialect"
	"keelson.dev/keelson/internal/kube"
	"keelson.dev/keelson/internal/redact"
	"keelson.dev/keelson/internal/release"
)

// helmAlone serves HelmReleases with no cluster behind it.
func helmAlone(t *testing.T) *helmReleases {
	t.Helper()
	return &helmReleases{life: t.Context(), acts: map[delivery.ID]*acting{}, apps: apps{
		reg: newRegistry(), now: time.Now, wake: func(delivery.ID) {}, places: kube.NewPlaces(1, time.Minute), log: slog.New(slog.DiscardHandler),
	}}
}

// withHistory is a HelmRelease with a release.
func withHistory() *helmv2.HelmRelease {
	hr := &helmv2.HelmRelease{ObjectMeta: metav1.ObjectMeta{Namespace: "dev", Name: "web", UID: "1"}}
	hr.Status.StorageNamespace = "dev"
	hr.Status.History = helmv2.Snapshots{{Namespace: "dev", Name: "web", Version: 1, Status: "deployed"}}
	return hr
}

// A panic in Helm is the error of one app.
func TestHelmPanic(t *testing.T) {
	h := helmAlone(t) // with no engine
	p, err := h.begin(withHistory(), pen{})
	if err != nil {
		t.Fatal(err)
	}
	h.act(p, release.Decision{Action: release.Upgrade}, p.helm.record)
	<-p.helm.acting.done
	if p.helm.acting.err == nil {
		t.Error("no error")
	}
}

// An action that was called off is no failure that something follows from.
func TestHelmCalledOff(t *testing.T) {
	h := helmAlone(t)
	p, err := h.begin(withHistory(), pen{})
	if err != nil {
		t.Fatal(err)
	}
	p.secrets = redact.New("geheim")
	a := &acting{want: release.Want{App: p.app}, decision: release.Decision{Action: release.Upgrade}, record: p.helm.record, done: make(chan struct{})}
	a.result.Snapshots = []delivery.ReleaseSnapshot{{Namespace: "dev", Name: "web", Version: 2, Status: "failed"}}
	a.err = fmt.Errorf("%w: geheim: %w", release.ErrCancelled, context.Canceled)
	close(a.done)
	p.helm.acting = a
	if !h.ended(p) || p.helm.record.UpgradeFailures != 0 {
		t.Errorf("%d failures are counted", p.helm.record.UpgradeFailures)
	}
	if got, want := p.helm.record.Released.Message, "Helm upgrade failed for release dev/web.v2 with chart @: the action was called off: **REDACTED**: context canceled"; got != want {
		t.Errorf("%q, want %q", got, want)
	}
}

func TestHelmFailing(t *testing.T) {
	now := time.Date(2026, 1, 1, 12, 0, 0, 0, time.UTC)
	app, err := dialect.HelmRelease(withHistory())
	if err != nil {
		t.Fatal(err)
	}
	want, upgrade, no := release.Want{App: app}, release.Decision{Action: release.Upgrade}, errors.New("no")
	other := want
	other.ChartVersion = "2.0.0"
	retried := upgrade
	retried.After = time.Minute
	var f failing
	if got := f.pause(want, retried, now); got != 0 {
		t.Errorf("nothing is known of failures: %s", got)
	}
	f.note(want, upgrade, no, now)
	f.note(want, release.Decision{Action: release.Rollback}, nil, now)
	f.note(want, upgrade, no, now)
	for _, c := range []struct {
		what string
		want release.Want
		d    release.Decision
		at   time.Duration
		wait time.Duration
	}{
		{"the same once more", want, upgrade, 0, 2 * time.Second},
		{"later", want, upgrade, 3 * time.Second, 0},
		{"what follows from it", want, release.Decision{Action: release.Rollback}, 0, 0},
		{"another chart", other, upgrade, 0, 0},
		{"by the strategy", want, retried, 20 * time.Second, 40 * time.Second},
		{"by the strategy, later", want, retried, time.Minute, 0},
	} {
		if got := f.pause(c.want, c.d, now.Add(c.at)); got != c.wait {
			t.Errorf("%s: %s, want %s", c.what, got, c.wait)
		}
	}
}

// An app whose action waits for its turn is left alone until that comes, and woken then.
func TestHelmTurn(t *testing.T) {
	h := helmAlone(t)
	woken := make(chan delivery.ID, 10)
	h.wake = func(id delivery.ID) { woken <- id }
	leave, ok := h.places.TryEnter()
	if !ok {
		t.Fatal("no place is free")
	}
	p, err := h.begin(withHistory(), pen{})
	if err != nil {
		t.Fatal(err)
	}
	h.act(p, release.Decision{Action: release.Upgrade}, p.helm.record)
	if n := h.underWay(p); n.after != 0 {
		t.Errorf("it is looked at again after %s", n.after)
	}
	select {
	case <-woken:
		t.Error("woken before its turn")
	case <-time.After(50 * time.Millisecond):
	}
	leave()
	for _, what := range []string{"turn", "end"} {
		select {
		case <-woken:
		case <-time.After(10 * time.Second):
			t.Fatalf("not woken at its %s", what)
		}
	}
}
