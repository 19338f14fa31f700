package delivery_test

import (
	"fmt"
	"testing"

	"keelson.dev/keelson/internal/delivery"
)

// A rollback that fails again and again writes a version each time: the history stays short, and what it goes back to is in it.
func TestRememberFailedRollbacks(t *testing.T) {
	for _, keepFailed := range []bool{false, true} {
		var r delivery.ReleaseRecord
		r.Remember(delivery.ReleaseSnapshot{Name: "web", Version: 1, Status: "superseded"}, false, keepFailed)
		r.Remember(delivery.ReleaseSnapshot{Name: "web", Version: 2, Status: "deployed"}, false, keepFailed)
		for version := 3; version < 20; version++ {
			r.Remember(delivery.ReleaseSnapshot{Name: "web", Version: version, Status: "failed"}, false, keepFailed)
		}
		got := ""
		for _, s := range r.History {
			got += fmt.Sprintf("%d %s, ", s.Version, s.Status)
		}
		if want := "19 failed, 18 failed, 17 failed, 16 failed, 2 deployed, "; got != want {
			t.Errorf("keepFailed %t: %s, want %s", keepFailed, got, want)
		}
	}
}
