package dialect

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	argocdv1 "keelson.dev/keelson/api/argocd/v1alpha1"
	"keelson.dev/keelson/internal/delivery"
)

// Entries of ours in an operation's info, which is for people and tools: what Argo CD has no field for.
const (
	infoRevisions = "keelson.dev/revisions" // JSON: the revisions with their digests, where one is that of an archive
	infoHealing   = "keelson.dev/healing"   // "true": the operation is for drift, although it counts no attempts
)

// ArgoRequest reads an Application's operation, in the light of its policy. nil: there is none.
func ArgoRequest(a *argocdv1.Application) *delivery.OperationRequest {
	if a.Operation == nil {
		return nil
	}
	op := a.Operation.DeepCopy()
	p := a.Spec.SyncPolicy
	if op.Sync != nil && op.Sync.SyncOptions == nil && p != nil { // as Argo CD's API server fills them in
		op.Sync.SyncOptions = slices.Clone(p.SyncOptions)
	}
	r := readRequest(*op)
	return &r
}

// readRequest reads what an operation is to do.
func readRequest(op argocdv1.Operation) delivery.OperationRequest {
	s := op.Sync
	if s == nil {
		s = &argocdv1.SyncOperation{}
	}
	r := delivery.OperationRequest{
		By: op.InitiatedBy.Username, Automated: op.InitiatedBy.Automated,
		Attempts: int(s.SelfHealAttemptsCount), Healing: s.SelfHealAttemptsCount > 0 || info(op, infoHealing) == "true",
		Prune: s.Prune, DryRun: s.DryRun,
	}
	r.Options, _ = readSyncOptions(s.SyncOptions)
	var err error
	r.Retry, err = retryPolicy(op.Retry)
	switch {
	case op.Sync == nil: // in Argo CD's words
		r.Invalid = "Invalid operation request: no operation specified"
	case len(s.Manifests) > 0:
		r.Invalid = "operation.sync.manifests is not supported: what is synced is what Git has (hint: push the change, or sync without --local)"
	case err != nil:
		r.Invalid = fmt.Sprintf("operation.retry.backoff.%v", err)
	}
	switch {
	case len(s.Revisions) > 0:
		r.Revisions = slices.Clone(s.Revisions)
	case s.Revision != "":
		r.Revisions = []string{s.Revision}
	}
	if st := s.SyncStrategy; st != nil {
		r.NoHooks = st.Apply != nil && st.Hook == nil
		r.Force = st.Apply != nil && st.Apply.Force || st.Hook != nil && st.Hook.Force
	}
	for _, o := range s.Resources {
		r.Only = append(r.Only, delivery.Ref{Group: o.Group, Kind: o.Kind, Namespace: o.Namespace, Name: o.Name})
	}
	return r
}

// writeRequest is the inverse of [readRequest], but for the revisions ([requestedRevisions]). override is what the request overrides of the Application's sources, if it does.
func writeRequest(r delivery.OperationRequest, override *argocdv1.SyncOperation) argocdv1.Operation {
	s := &argocdv1.SyncOperation{
		Prune: r.Prune, DryRun: r.DryRun, SyncOptions: writeSyncOptions(r.Options), SelfHealAttemptsCount: int64(r.Attempts),
	}
	if override != nil {
		s.Source, s.Sources = override.Source.DeepCopy(), slices.Clone(override.Sources)
		_, ignored := readSyncOptions(override.SyncOptions)
		s.SyncOptions = append(s.SyncOptions, ignored...)
	}
	switch {
	case r.NoHooks:
		s.SyncStrategy = &argocdv1.SyncStrategy{Apply: &argocdv1.SyncStrategyApply{Force: r.Force}}
	case r.Force:
		s.SyncStrategy = &argocdv1.SyncStrategy{Hook: &argocdv1.SyncStrategyApply{Force: true}}
	}
	for _, o := range r.Only {
		s.Resources = append(s.Resources, argocdv1.SyncOperationResource{Group: o.Group, Kind: o.Kind, Namespace: o.Namespace, Name: o.Name})
	}
	op := argocdv1.Operation{Sync: s, InitiatedBy: argocdv1.OperationInitiator{Username: r.By, Automated: r.Automated}, Retry: writeRetry(r.Retry)}
	if r.Healing && r.Attempts == 0 {
		op.Info = append(op.Info, argocdv1.Info{Name: infoHealing, Value: "true"})
	}
	return op
}

// requestedRevisions writes the revisions that are asked for as a source can have them: the digest of a chart is said in the info.
func requestedRevisions(spec argocdv1.ApplicationSpec, r delivery.OperationRequest) (one string, several []string) {
	switch {
	case len(r.Revisions) == 0:
		return "", nil
	case r.Automated || len(r.Revisions) > 1:
		return statusRevisions(spec, r.Revisions)
	}
	return r.Revisions[0], nil
}

func info(op argocdv1.Operation, name string) string {
	for _, i := range op.Info {
		if i.Name == name {
			return i.Value
		}
	}
	return ""
}

// ArgoOperation reads how the last operation has come; nil: there was none.
func ArgoOperation(a *argocdv1.Application) *delivery.Operation {
	s := a.Status.OperationState
	if s == nil {
		return nil
	}
	op := &delivery.Operation{
		Request: readRequest(s.Operation), Phase: delivery.OperationPhase(s.Phase), Message: s.Message,
		Started: s.StartedAt.Time, Retries: int(s.RetryCount),
	}
	if s.FinishedAt != nil {
		op.Finished = s.FinishedAt.Time
	}
	if pauses(s) {
		op.Phase = delivery.OperationFailed
		op.Message, op.Next = readPause(*op)
	}
	if r := s.SyncResult; r != nil {
		op.Revisions = slices.Clone(r.Revisions)
		if r.Revision != "" && len(r.Revisions) == 0 {
			op.Revisions = []string{r.Revision}
		}
		for _, o := range r.Resources {
			op.Results = append(op.Results, readResult(o))
		}
	}
	if text := info(s.Operation, infoRevisions); text != "" {
		var full []string
		if json.Unmarshal([]byte(text), &full) == nil && len(full) == len(op.Revisions) {
			op.Revisions = full
		}
	}
	return op
}

// pauses tells whether an operation is between two attempts: it has failed and is tried again.
func pauses(s *argocdv1.OperationState) bool {
	return s.FinishedAt != nil && (s.Phase == argocdv1.OperationRunning || s.Phase == argocdv1.OperationTerminating)
}

// pausing follows the message of an operation that is tried again (in Argo CD's words).
const pausing = ". Retrying attempt #%d at %s."

// writePause gives the message of an operation that is tried again.
func writePause(op delivery.Operation) string {
	return cut(op.Message, maxCondition-len(pausing)-len(time.RFC3339)-20) + fmt.Sprintf(pausing, op.Retries, op.Next.UTC().Format(time.RFC3339))
}

// readPause is the inverse of [writePause]. Where the message does not say when the next attempt is, it is now.
func readPause(op delivery.Operation) (message string, next time.Time) {
	before, after, _ := strings.Cut(fmt.Sprintf(pausing, op.Retries, "\n"), "\n")
	n := strings.LastIndex(op.Message, before)
	if n < 0 {
		return op.Message, op.Finished
	}
	at, err := time.Parse(time.RFC3339, strings.TrimSuffix(op.Message[n+len(before):], after))
	if err != nil {
		return op.Message, op.Finished
	}
	return op.Message[:n], at
}

func readResult(r argocdv1.ResourceResult) delivery.OperationResult {
	out := delivery.OperationResult{
		Ref:     delivery.Ref{Group: r.Group, Kind: r.Kind, Namespace: r.Namespace, Name: r.Name},
		Version: r.Version, Status: r.Status, Message: r.Message, Moment: delivery.Moment(orElse(r.SyncPhase, r.HookType)),
	}
	if r.HookType != "" {
		out.Hook = delivery.OperationPhase(r.HookPhase)
	} else {
		out.Failed = r.Status == argocdv1.ResultSynced && r.HookPhase == argocdv1.OperationFailed
	}
	return out
}

func writeResult(r delivery.OperationResult) argocdv1.ResourceResult {
	out := argocdv1.ResourceResult{
		Group: r.Ref.Group, Version: r.Version, Kind: r.Ref.Kind, Namespace: r.Ref.Namespace, Name: r.Ref.Name,
		Status: r.Status, Message: r.Message, SyncPhase: string(r.Moment), HookPhase: string(r.Hook),
	}
	if r.Hook != "" {
		out.HookType = string(r.Moment)
		return out
	}
	switch r.Status { // upstream has the phase of what is no hook too
	case argocdv1.ResultSynced:
		out.HookPhase = argocdv1.OperationRunning
		if r.Failed {
			out.HookPhase = argocdv1.OperationFailed
		}
	case argocdv1.ResultSyncFailed:
		out.HookPhase = argocdv1.OperationFailed
	case argocdv1.ResultPruned, argocdv1.ResultPruneSkipped:
		out.HookPhase = argocdv1.OperationSucceeded
	}
	return out
}

// ArgoBegun gives the operationState of an Application whose operation begins. It is written at once with the Application's
// operation taken away, and with the intent ([ArgoIntent]).
func ArgoBegun(a *argocdv1.Application, op delivery.Operation) *argocdv1.OperationState {
	var override *argocdv1.SyncOperation
	if a.Operation != nil {
		override = a.Operation.Sync
	}
	var old *argocdv1.OperationState
	if last := a.Status.OperationState; op.Retries > 0 && a.Operation == nil && last != nil { // one more attempt at the same
		old = last.DeepCopy()
		if op.Request.Retry.Refresh && !op.Request.Automated { // what it was about before counts no more
			old.SyncResult = nil
		}
		old.StartedAt = metav1.NewTime(op.Started.UTC().Truncate(time.Second))
	}
	return operationState(old, a, op, override)
}

// operationState writes an operation.
func operationState(old *argocdv1.OperationState, a *argocdv1.Application, op delivery.Operation, override *argocdv1.SyncOperation) *argocdv1.OperationState {
	started := metav1.NewTime(op.Started.UTC().Truncate(time.Second))
	same := old != nil && old.StartedAt.Equal(&started)
	if override == nil && same {
		override = old.Operation.Sync
	}
	spec := *a.Spec.DeepCopy()
	if override != nil {
		spec = overridden(a, override)
	}
	if same && old.SyncResult != nil { // what it began with, whatever is declared since
		spec.Source, spec.Sources = old.SyncResult.Source, old.SyncResult.Sources
	}
	s := &argocdv1.OperationState{
		Operation: writeRequest(op.Request, override), Phase: string(op.Phase), Message: cut(op.Message, maxCondition),
		StartedAt: started, RetryCount: int64(op.Retries),
		SyncResult: &argocdv1.SyncOperationResult{},
	}
	if !op.Next.IsZero() {
		s.Phase, s.Message = argocdv1.OperationRunning, writePause(op)
	}
	s.Operation.Sync.Revision, s.Operation.Sync.Revisions = requestedRevisions(spec, op.Request)
	if same { // what people and tools have said of it stays
		for _, i := range old.Operation.Info {
			if i.Name != infoRevisions && i.Name != infoHealing && i.Name != infoResults {
				s.Operation.Info = append(s.Operation.Info, i)
			}
		}
	} else if a.Operation != nil {
		s.Operation.Info = append(slices.Clone(a.Operation.Info), s.Operation.Info...)
	}
	if !op.Finished.IsZero() {
		finished := metav1.NewTime(op.Finished.UTC().Truncate(time.Second))
		s.FinishedAt = &finished
	}
	r := s.SyncResult
	r.Revision, r.Revisions = statusRevisions(spec, op.Revisions)
	if len(spec.Sources) > 0 {
		r.Sources = spec.Sources
	} else {
		r.Source = spec.Source
	}
	if p := spec.SyncPolicy; p != nil {
		r.ManagedNamespaceMetadata = p.ManagedNamespaceMetadata
	}
	for _, o := range op.Results {
		r.Resources = append(r.Resources, writeResult(o))
	}
	if slices.ContainsFunc(op.Revisions, func(t string) bool { return delivery.ParseRevision(t).Commit != "" }) {
		if b, err := json.Marshal(op.Revisions); err == nil {
			s.Operation.Info = append(s.Operation.Info, argocdv1.Info{Name: infoRevisions, Value: string(b)})
		}
	}
	return s
}

// history gains an entry where an operation has just succeeded that was about the whole app.
func history(old argocdv1.ApplicationStatus, state *argocdv1.OperationState, a *argocdv1.Application, op delivery.Operation) []argocdv1.RevisionHistory {
	list := slices.Clone(old.History)
	before := old.OperationState
	told := before != nil && before.StartedAt.Equal(&state.StartedAt) && before.Phase == argocdv1.OperationSucceeded
	if told || op.Phase != delivery.OperationSucceeded || op.Request.DryRun || len(op.Request.Only) > 0 || state.FinishedAt == nil {
		return list
	}
	limit := argoHistory
	if n := a.Spec.RevisionHistoryLimit; n != nil {
		limit = int(max(0, *n))
	}
	next := int64(0)
	if len(list) > 0 {
		next = list[len(list)-1].ID + 1
	}
	started := state.StartedAt
	list = append(list, argocdv1.RevisionHistory{
		ID: next, Revision: state.SyncResult.Revision, Revisions: state.SyncResult.Revisions,
		Source: state.SyncResult.Source, Sources: state.SyncResult.Sources,
		DeployedAt: *state.FinishedAt, DeployStartedAt: &started, InitiatedBy: state.Operation.InitiatedBy,
	})
	return list[max(0, len(list)-limit):]
}

// ArgoPin gives what an operation that has begun is about, whatever its Application declares since: the sources that it began with, at
// the revisions that it found them at.
func ArgoPin(a *argocdv1.Application, op delivery.Operation) *argocdv1.SyncOperation {
	s := a.Status.OperationState
	if s == nil {
		return nil
	}
	pin := &argocdv1.SyncOperation{}
	if asked := s.Operation.Sync; asked != nil {
		pin.Source, pin.Sources, pin.Revision, pin.Revisions = asked.Source, asked.Sources, asked.Revision, asked.Revisions
	}
	if r := s.SyncResult; r != nil && (len(r.Sources) > 0 || r.Source != nil && r.Source.RepoURL != "") {
		pin.Source, pin.Sources = r.Source, r.Sources
	}
	if len(op.Revisions) > 0 {
		pin.Revision, pin.Revisions = statusRevisions(overridden(a, pin), op.Revisions)
	}
	return pin.DeepCopy()
}

// ArgoNewest gives what a further attempt at an operation is about that takes the newest there is: the sources that somebody has asked
// for in place of those that its Application declares, if so, at no revision.
func ArgoNewest(a *argocdv1.Application) *argocdv1.SyncOperation {
	s := a.Status.OperationState
	if s == nil || s.Operation.Sync == nil {
		return nil
	}
	return (&argocdv1.SyncOperation{Source: s.Operation.Sync.Source, Sources: s.Operation.Sync.Sources}).DeepCopy()
}

// ArgoSameRevisions tells whether sources have the revisions that an operation is about. Where only the version of an archive is known
// (an operation that another program began), that has to do.
func ArgoSameRevisions(of, now []string) bool {
	return slices.EqualFunc(of, now, func(x, y string) bool {
		before, is := delivery.ParseRevision(x), delivery.ParseRevision(y)
		switch {
		case x == "" || y == "":
			return false
		case before.Commit != "" && is.Commit != "":
			return before.Commit == is.Commit
		case is.Commit != "":
			return x == is.Name
		}
		return x == y
	})
}
