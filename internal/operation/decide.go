package operation

import (
	"fmt"
	"math"
	"slices"
	"strings"
	"time"

	"keelson.dev/keelson/internal/delivery"
)

// Decide tells whether an operation begins now.
func Decide(s Standing) Decision {
	switch {
	case s.Last != nil && !s.Last.Phase.Over() && s.Last.Phase != "":
		return Decision{} // one at a time
	case s.Asked != nil:
		return Decision{Begin: s.Asked}
	}
	if d, ok := retry(s); ok {
		return d
	}
	d := automated(s)
	d.GivesUp = Retriable(s.Last)
	return d
}

// Start gives the operation that a decision begins.
func Start(d Decision, s Standing) delivery.Operation {
	op := delivery.Operation{
		Request: *d.Begin, Phase: delivery.OperationRunning, Revisions: slices.Clone(s.Revisions), Started: s.Now,
	}
	if last := s.Last; last != nil && hasHooks(last.Results) && !op.Started.Truncate(time.Second).After(last.Started.Truncate(time.Second)) {
		op.Started = last.Started.Truncate(time.Second).Add(time.Second) // else its hooks would be taken for those of this one
	}
	if d.Retry {
		op.Retries = s.Last.Retries
		latest := ""
		if op.Request.Retry.Refresh {
			latest = " with latest revisions"
		}
		op.Message = fmt.Sprintf("Retrying operation%s. Attempt #%d", latest, op.Retries)
	}
	return op
}

func hasHooks(results []delivery.OperationResult) bool {
	return slices.ContainsFunc(results, func(r delivery.OperationResult) bool { return r.Hook != "" })
}

// Defaults of the pauses between two attempts (Argo CD: DefaultSyncRetry…).
const (
	retryDuration = 5 * time.Second
	retryMax      = 3 * time.Minute
	retryFactor   = 2
)

// Pause is how long after the failure of an attempt the next one begins.
func Pause(p delivery.RetryPolicy, retries int) time.Duration {
	first, most, factor := p.Duration, p.Max, p.Factor
	if first <= 0 {
		first = retryDuration
	}
	if most <= 0 {
		most = retryMax
	}
	if factor <= 0 {
		factor = retryFactor
	}
	pause := float64(first) * math.Pow(float64(factor), float64(retries))
	return time.Duration(min(pause, float64(most)))
}

// Retriable tells whether an operation has failed and waits for another attempt.
func Retriable(last *delivery.Operation) bool { return last != nil && !last.Next.IsZero() }

// End ends an attempt at an operation: one that has failed is tried again, as often as its request allows.
func End(op delivery.Operation, phase delivery.OperationPhase, message string, now time.Time) delivery.Operation {
	op = GiveUp(op, phase, message, now)
	retry := op.Request.Retry
	switch {
	case phase == delivery.OperationSucceeded:
	case op.Request.Invalid == "" && (retry.Limit < 0 || op.Retries < retry.Limit):
		op.Next = now.Add(Pause(retry, op.Retries))
		op.Retries++
	case op.Retries > 0:
		op.Message = fmt.Sprintf("%s (retried %d times).", message, op.Retries)
	}
	return op
}

// GiveUp ends an operation for good.
func GiveUp(op delivery.Operation, phase delivery.OperationPhase, message string, now time.Time) delivery.Operation {
	op.Phase, op.Message, op.Finished, op.Next = phase, message, now, time.Time{}
	return op
}

// retry decides whether the last operation, which failed, is tried again. One that nobody asked for is not once there is a new commit:
// that begins anew.
func retry(s Standing) (Decision, bool) {
	last := s.Last
	if !Retriable(last) {
		return Decision{}, false
	}
	own := last.Request.By == "" // else it is a rollout's, of an app that begins none by itself
	if last.Request.Automated && (!attempted(s) || own && (!s.Policy.Automated || s.InSync)) {
		return Decision{}, false
	}
	why := fmt.Sprintf("Failed last sync attempt to %s: %s", named(last.Revisions), last.Message)
	if last.Request.Automated {
		if d, closed := held(s); closed {
			return d, true
		}
	}
	if rest := last.Next.Sub(s.Now); rest > 0 {
		return Decision{After: rest, Why: fmt.Sprintf("%s. Retrying attempt #%d at %s", why, last.Retries, last.Next.UTC().Format(time.RFC3339)), Fault: true}, true
	}
	again := last.Request
	if again.Retry.Refresh && !again.Automated {
		again.Revisions = nil
	}
	return Decision{Begin: &again, Retry: true}, true
}

// automated decides whether one begins that nobody has asked for.
func automated(s Standing) Decision {
	if !s.Policy.Automated || s.InSync {
		return Decision{}
	}
	if d, closed := held(s); closed {
		return d
	}
	begin := &delivery.OperationRequest{
		Automated: true, Revisions: slices.Clone(s.Revisions), Prune: s.Policy.Prune, Options: s.Policy.Options, Retry: s.Policy.Retry,
	}
	if attempted(s) {
		switch {
		case s.Last.Phase != delivery.OperationSucceeded:
			return Decision{Why: fmt.Sprintf("Failed last sync attempt to %s: %s", named(s.Last.Revisions), s.Last.Message), Fault: true}
		case !s.Policy.SelfHeal:
			return Decision{Why: fmt.Sprintf("it differs from Git although it was synced to %s, and selfHeal is off", named(s.Revisions))}
		}
		begin.Healing, begin.Only = true, s.healable()
		if len(begin.Only) == 0 {
			return Decision{Why: "what differs cannot be repaired now"}
		}
		healed, rest := s.healed()
		if rest > 0 {
			return Decision{After: rest, Why: fmt.Sprintf("it differs from Git again although it was repaired %d times in a row", healed)}
		}
		begin.Attempts = healed + 1
		return Decision{Begin: begin}
	}
	pruning, all := s.pruning()
	switch {
	case pruning && !s.prunes():
		return Decision{Why: "what differs would have to be pruned, and automated pruning is off"}
	case all && !s.Policy.AllowEmpty:
		return Decision{Why: fmt.Sprintf("Skipping sync attempt to %s: auto-sync will wipe out all resources", named(s.Revisions)), Fault: true}
	}
	return Decision{Begin: begin}
}

// held tells what keeps automated operations from beginning.
func held(s Standing) (Decision, bool) {
	switch {
	case s.Policy.Held != nil:
		return Decision{Why: "auto-sync is on hold: " + s.Policy.Held.Describe()}, true
	case !s.Policy.Windows.Automated:
		return Decision{Why: "Sync operation blocked by sync window: " + s.Policy.Windows.Why, After: until(s.Policy.Windows.Next, s.Now), Window: true}, true
	}
	return Decision{}, false
}

// until is the time from now to then; zero: there is no such time.
func until(then, now time.Time) time.Duration {
	if then.IsZero() {
		return 0
	}
	return max(then.Sub(now), time.Second)
}

// attempted tells whether the last operation was about what Git has now. One that only looked, or that was about some of the objects
// because a person said so, was not.
func attempted(s Standing) bool {
	last := s.Last
	if last == nil || s.Changed || last.Request.DryRun || len(last.Request.Only) > 0 && !last.Request.Healing {
		return false
	}
	return slices.Equal(last.Revisions, s.Revisions)
}

// Pauses between operations for drift that follow each other (Argo CD has them too: selfHeal backoff).
const (
	freeHeals      = 3 // in a row without a pause
	firstHealPause = time.Second
	mostHealPause  = 5 * time.Minute
	healQuiet      = 10 * time.Second // … beyond twice the pause: what differs then has been in sync meanwhile
)

// HealPause is how long after the end of the last of so many operations for drift, which followed each other, the next one begins.
func HealPause(healed int) time.Duration {
	if healed <= freeHeals {
		return 0
	}
	return time.Duration(min(float64(firstHealPause)*math.Pow(2, float64(healed-freeHeals-1)), float64(mostHealPause)))
}

// healed counts the operations for drift that have just followed each other, and tells how long it is until the next one may: the
// repair of drift is at once, but where it does not last it comes ever more rarely.
func (s Standing) healed() (n int, rest time.Duration) {
	last := s.Last.Request
	if !last.Healing {
		return 0, 0
	}
	since, pause := s.Now.Sub(s.Last.Finished), HealPause(last.Attempts)
	if since > 2*pause+healQuiet {
		return 0, 0
	}
	return last.Attempts, max(pause-since, 0)
}

// prunes tells whether an operation that nobody has asked for deletes what left Git.
func (s Standing) prunes() bool { return s.Policy.Prune && !s.Policy.Options.NoPrune }

// healable are the objects that an operation for drift is about.
func (s Standing) healable() []delivery.Ref {
	drifted := make(map[delivery.Ref]bool, len(s.Drifted))
	for _, ref := range s.Drifted {
		drifted[ref] = true
	}
	var refs []delivery.Ref
	for _, c := range s.Compared {
		if c.Differs && c.Counts && drifted[c.Ref] && (!c.RequiresPruning || s.prunes()) {
			refs = append(refs, c.Ref)
		}
	}
	return refs
}

// pruning tells whether all that differs would have to be pruned, and whether everything would.
func (s Standing) pruning() (differing, all bool) {
	differing, all = true, true
	n := 0
	for _, c := range s.Compared {
		if c.Hook {
			continue
		}
		n++
		if !c.RequiresPruning {
			all = false
			if c.Differs && c.Counts {
				differing = false
			}
		}
	}
	return differing && n > 0, all && n > 0
}

// named gives revisions for people.
func named(revisions []string) string {
	if len(revisions) == 0 {
		return "(none)"
	}
	return strings.Join(revisions, ", ")
}
