package dialect

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	argocdv1 "keelson.dev/keelson/api/argocd/v1alpha1"
	"keelson.dev/keelson/internal/delivery"
)

// Argo CD's defaults of a retry.
const (
	retryLimit    = 5 // of automated operations of an Application that says nothing of retries
	retryDuration = 5 * time.Second
	retryFactor   = 2
	retryMax      = 3 * time.Minute
)

// policy reads spec.syncPolicy.
func (r *argoReader) policy() {
	p := &delivery.SyncPolicy{HistoryLimit: argoHistory, Windows: delivery.Window{Automated: true, Manual: true, Overrun: true}}
	r.out.App.Sync = p
	if n := r.spec.RevisionHistoryLimit; n != nil {
		p.HistoryLimit = int(max(0, *n))
	}
	p.Retry = delivery.RetryPolicy{Limit: retryLimit, Duration: retryDuration, Factor: retryFactor, Max: retryMax}
	if text := r.a.Annotations[argocdv1.HoldAnnotation]; text != "" {
		p.Held = hold(text)
		r.condition(argocdv1.ConditionHeldWarning, "automation is on hold: %s (hint: keelson resume, or take the annotation %s away)", p.Held.Reason, argocdv1.HoldAnnotation)
	}
	p.Approved = approved(r.a)
	r.operationOptions()
	s := r.spec.SyncPolicy
	if s == nil {
		return
	}
	if a := s.Automated; a != nil {
		p.Automated = a.Enabled == nil || *a.Enabled
		p.Prune, p.SelfHeal, p.AllowEmpty = isTrue(a.Prune), isTrue(a.SelfHeal), isTrue(a.AllowEmpty)
	}
	r.out.App.Guard.AllowEmpty = r.out.App.Guard.AllowEmpty || p.AllowEmpty
	options, ignored := readSyncOptions(s.SyncOptions)
	p.Options = options
	for _, name := range ignored {
		r.ignored = append(r.ignored, "spec.syncPolicy.syncOptions "+name)
	}
	if s.Retry != nil {
		retry, err := retryPolicy(*s.Retry)
		if err != nil {
			r.invalid("spec.syncPolicy.retry.backoff.%v", err)
		}
		p.Retry = retry
	}
	if m := s.ManagedNamespaceMetadata; m != nil {
		p.NamespaceMetadata = &delivery.Metadata{Labels: m.Labels, Annotations: m.Annotations}
	}
}

// operationOptions names the options without effect of the operation that is asked for, or of the last one.
func (r *argoReader) operationOptions() {
	op := r.a.Operation
	if s := r.a.Status.OperationState; op == nil && s != nil {
		op = &s.Operation
	}
	if op == nil || op.Sync == nil {
		return
	}
	_, ignored := readSyncOptions(op.Sync.SyncOptions)
	for _, name := range ignored {
		if p := r.spec.SyncPolicy; p != nil && slices.Contains(p.SyncOptions, name) {
			continue // it is named there
		}
		r.ignored = append(r.ignored, "operation.sync.syncOptions "+name)
	}
}

// approved tells whether a person has approved of the deletions that need it: since the operation under way began, or the deletion of
// the Application (Argo CD: the annotation deletion-approved is the time of it).
func approved(a *argocdv1.Application) bool {
	at, err := time.Parse(time.RFC3339, a.Annotations[argocdv1.DeletionApprovedAnnotation])
	since := a.DeletionTimestamp
	if o := a.Status.OperationState; since == nil && o != nil && o.FinishedAt == nil {
		since = &o.StartedAt
	}
	return err == nil && since != nil && !at.Before(since.Truncate(time.Second))
}

func isTrue(b *bool) bool { return b != nil && *b }

// hold reads the annotation keelson.dev/hold. Whatever it says, it holds.
func hold(text string) *delivery.Hold {
	h := ParseArgoHold(text)
	out := &delivery.Hold{Owner: h.By, Reason: h.Reason}
	var more []string // that the reason does not say
	for _, r := range h.Revisions {
		if fullCommit.MatchString(r) {
			r = r[:7]
		}
		if !strings.Contains(h.Reason, r) {
			more = append(more, r)
		}
	}
	if len(more) > 0 {
		out.Reason = fmt.Sprintf("%s (%s)", h.Reason, strings.Join(more, ", "))
	}
	if h.By != "" {
		out.Reason += ", by " + h.By
	}
	return out
}

// ArgoHold is the content of the annotation keelson.dev/hold (JSON): nothing automated is done until it is taken away.
type ArgoHold struct {
	Revisions []string  `json:"revisions,omitempty"` // that the app was rolled back to
	HistoryID int64     `json:"historyId,omitempty"`
	By        string    `json:"by,omitempty"`
	Reason    string    `json:"reason"`
	At        time.Time `json:"at"`
}

// ParseArgoHold reads the annotation keelson.dev/hold. Text that is no JSON is taken for the reason: people may write it by hand.
func ParseArgoHold(text string) ArgoHold {
	var h ArgoHold
	if json.Unmarshal([]byte(text), &h) != nil {
		h = ArgoHold{Reason: text}
	}
	h.Reason = orElse(h.Reason, "a person has asked for it")
	return h
}

// syncOptions are all options that mean something, with where they go. What has two values has an entry for each.
var syncOptions = []struct {
	text string
	get  func(*delivery.SyncOptions) *bool
}{
	{"CreateNamespace=true", func(o *delivery.SyncOptions) *bool { return &o.CreateNamespace }},
	{"PruneLast=true", func(o *delivery.SyncOptions) *bool { return &o.PruneLast }},
	{"Replace=true", func(o *delivery.SyncOptions) *bool { return &o.Replace }},
	{"Force=true", func(o *delivery.SyncOptions) *bool { return &o.Force }},
	{"ServerSideApply=true", func(o *delivery.SyncOptions) *bool { return &o.ServerSideApply }},
	{"ApplyOutOfSyncOnly=true", func(o *delivery.SyncOptions) *bool { return &o.ApplyOutOfSyncOnly }},
	{"RespectIgnoreDifferences=true", func(o *delivery.SyncOptions) *bool { return &o.RespectIgnoreDifferences }},
	{"FailOnSharedResource=true", func(o *delivery.SyncOptions) *bool { return &o.FailOnSharedResource }},
	{"SkipDryRunOnMissingResource=true", func(o *delivery.SyncOptions) *bool { return &o.SkipDryRunOnMissingResource }},
	{"Prune=false", func(o *delivery.SyncOptions) *bool { return &o.NoPrune }},
	{"Prune=confirm", func(o *delivery.SyncOptions) *bool { return &o.ConfirmPrune }},
	{"Delete=false", func(o *delivery.SyncOptions) *bool { return &o.NoDelete }},
	{"Delete=confirm", func(o *delivery.SyncOptions) *bool { return &o.ConfirmDelete }},
}

const propagationOption = "PrunePropagationPolicy="

// readSyncOptions reads options and names those that have no effect: those that nobody knows, and those that turn off what we always do.
func readSyncOptions(texts []string) (o delivery.SyncOptions, ignored []string) {
	for _, text := range texts {
		text = strings.TrimSpace(text)
		known := text == ""
		for _, option := range syncOptions {
			if option.text == text {
				*option.get(&o), known = true, true
			}
		}
		if value, ok := strings.CutPrefix(text, propagationOption); ok && slices.Contains([]string{"foreground", "background", "orphan"}, value) {
			o.Propagation, known = value, true
		}
		if !known && !slices.Contains(defaultOptions, text) {
			ignored = append(ignored, text)
		}
	}
	return o, ignored
}

// defaultOptions say what holds anyway.
var defaultOptions = []string{
	"CreateNamespace=false", "PruneLast=false", "Replace=false", "Force=false", "ApplyOutOfSyncOnly=false", "RespectIgnoreDifferences=false",
	"FailOnSharedResource=false", "SkipDryRunOnMissingResource=false", "Prune=true", "Delete=true", "Validate=true",
	"ClientSideApplyMigration=true", "ClientSideApplyMigration=false", // fields that kubectl wrote are always taken over
}

// writeSyncOptions is the inverse of [readSyncOptions].
func writeSyncOptions(o delivery.SyncOptions) (texts []string) {
	for _, option := range syncOptions {
		if *option.get(&o) {
			texts = append(texts, option.text)
		}
	}
	if o.Propagation != "" {
		texts = append(texts, propagationOption+o.Propagation)
	}
	return texts
}

// retryPolicy reads how often and when a failed operation is tried again.
func retryPolicy(s argocdv1.RetryStrategy) (delivery.RetryPolicy, error) {
	p := delivery.RetryPolicy{Limit: int(s.Limit), Duration: retryDuration, Factor: retryFactor, Max: retryMax, Refresh: s.Refresh}
	if s.Backoff == nil {
		return p, nil
	}
	var first, second error
	p.Duration, first = orDefault(s.Backoff.Duration, "duration", p.Duration)
	p.Max, second = orDefault(s.Backoff.MaxDuration, "maxDuration", p.Max)
	if f := s.Backoff.Factor; f != nil && *f > 0 {
		p.Factor = int(min(*f, 1000))
	}
	return p, errors.Join(first, second)
}

// orDefault reads a duration as Go writes it, or a number of seconds.
func orDefault(text, name string, other time.Duration) (time.Duration, error) {
	if text == "" {
		return other, nil
	}
	d, err := time.ParseDuration(text)
	if n, notNumber := strconv.ParseInt(text, 10, 32); notNumber == nil {
		d, err = time.Duration(n)*time.Second, nil
	}
	if err != nil || d < 0 {
		return other, fmt.Errorf("%s: %q is no duration (hint: write as 30s or 5m)", name, text)
	}
	return d, nil
}

// writeRetry is the inverse of [retryPolicy].
func writeRetry(p delivery.RetryPolicy) argocdv1.RetryStrategy {
	s := argocdv1.RetryStrategy{Limit: int64(p.Limit), Refresh: p.Refresh}
	if p.Refresh = false; p == (delivery.RetryPolicy{Limit: p.Limit, Duration: retryDuration, Factor: retryFactor, Max: retryMax}) || p == (delivery.RetryPolicy{}) {
		return s
	}
	factor := int64(p.Factor)
	s.Backoff = &argocdv1.Backoff{Duration: p.Duration.String(), Factor: &factor, MaxDuration: p.Max.String()}
	return s
}
