package controller

import (
	"fmt"
	"time"

	"keelson.dev/keelson/internal/deliver"
	"keelson.dev/keelson/internal/release"
)

// failing remembers which actions have failed since something else was wanted of a release: none is repeated without a pause.
type failing struct {
	about string // what was wanted
	times map[release.Action]int
	last  map[release.Action]time.Time
}

// attempted identifies what is wanted of a release, and a person's request.
func attempted(w release.Want) string {
	return fmt.Sprint(w.App.UID, " ", w.App.Generation, " ", w.ChartVersion, " ", w.OCIDigest, " ", w.ConfigDigest, " ", w.App.Requested)
}

// note takes in how an action has ended.
func (f *failing) note(want release.Want, d release.Decision, err error, now time.Time) {
	if about := attempted(want); f.about != about {
		*f = failing{about: about, times: map[release.Action]int{}, last: map[release.Action]time.Time{}}
	}
	if err == nil {
		return
	}
	f.times[d.Action]++
	f.last[d.Action] = now
}

// pause is how long it is still waited before an action: the time that the decision wants between attempts, else one that grows with each
// failure of the same action. What has not failed since something else was wanted, or since the start, is done at once.
func (f *failing) pause(want release.Want, d release.Decision, now time.Time) time.Duration {
	if f.about != attempted(want) {
		return 0
	}
	if d.After > 0 {
		var last time.Time
		for _, at := range f.last {
			if at.After(last) {
				last = at
			}
		}
		return max(last.Add(d.After).Sub(now), 0)
	}
	if f.times[d.Action] == 0 {
		return 0
	}
	return max(f.last[d.Action].Add(deliver.Backoff(f.times[d.Action], 0)).Sub(now), 0)
}
