package controller

import (
	"errors"
	"testing"
	"time"

	helmv2 "github.com/fluxcd/helm-controller/api/v2"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"keelson.dev/keelson/internal/dialect"
	"keelson.dev/keelson/internal/release"
)

// withHistory is a HelmRelease with a release.
func withHistory() *helmv2.HelmRelease {
	hr := &helmv2.HelmRelease{ObjectMeta: metav1.ObjectMeta{Namespace: "dev", Name: "web", UID: "1"}}
	hr.Status.StorageNamespace = "dev"
	hr.Status.History = helmv2.Snapshots{{Namespace: "dev", Name: "web", Version: 1, Status: "deployed"}}
	return hr
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
