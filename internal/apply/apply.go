// Package apply carries out one stage of a plan: server-side apply and prune, nothing else.
//
// It sends a stage's changes at once (a bounded number in flight), waits for the answers and returns them. It does not
// wait for health, decide, retry or write status: the caller looks again and takes the next step.
package apply

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"sync"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/types"

	"keelson.dev/keelson/internal/delivery"
	"keelson.dev/keelson/internal/kube"
)

// inFlight bounds the requests of one stage that are under way at once.
const inFlight = 16

// Result is what became of one change.
type Result struct {
	Change delivery.Change
	Object *unstructured.Unstructured // as the server returned it; nil for a delete or an error
	Before *unstructured.Unstructured // as it was; set by the caller, where somebody wants to know and it was there
	NoOp   bool                       // the server had it like this already; set by the caller, who knows what was there
	From   []string                   // field managers of other tools whose fields of it became ours
	Err    error                      // nil, or a *delivery.Fault
	// Immutable says that a forced change was refused as one that the server never allows: the object would be taken anew.
	Immutable bool
}

// Stage carries out the changes of a stage that touch the cluster, as the given user, and returns one result for each in
// the stage's order. A failed change does not keep back the others of its stage.
func Stage(ctx context.Context, user *kube.User, stage delivery.Stage) []Result {
	var results []Result
	for _, c := range stage.Changes {
		if c.Verb.Touches() {
			results = append(results, Result{Change: c})
		}
	}
	slots := make(chan struct{}, inFlight)
	var wg sync.WaitGroup
	for i := range results {
		slots <- struct{}{}
		wg.Go(func() {
			defer func() { <-slots }()
			r := &results[i]
			if r.Change.DryRun {
				if !r.Change.Verb.Deletes() {
					r.Object, r.Err = send(ctx, user, *r.Change.Object, manager(r.Change), true)
				}
				return
			}
			if r.Change.Verb.Deletes() {
				r.Err = remove(ctx, user, r.Change)
				return
			}
			if r.Change.Whole {
				r.Err = replace(ctx, user, *r.Change.Object)
			}
			if r.Err == nil {
				r.Object, r.Err = send(ctx, user, *r.Change.Object, manager(r.Change), false)
			}
			if r.Err == nil && r.Change.First {
				return
			}
			if r.Err == nil {
				r.Object, r.From, r.Err = takeOver(ctx, user, r.Change, r.Object)
				return
			}
			r.Immutable = r.Change.Forced && FitsAnew(ctx, user, *r.Change.Object, r.Err)
		})
	}
	wg.Wait()
	return results
}

// Send makes one server-side apply and returns the object as the server now has it. With dryRun nothing is kept.
func Send(ctx context.Context, user *kube.User, obj delivery.Object, dryRun bool) (*unstructured.Unstructured, error) {
	return send(ctx, user, obj, kube.FieldManager, dryRun)
}

// manager is the field manager of a change. A namespace that is made for the rest may be another app's in Git: what that one says of
// it stays.
func manager(c delivery.Change) string {
	if c.First {
		return kube.FieldManager + "-namespace"
	}
	return kube.FieldManager
}

func send(ctx context.Context, user *kube.User, obj delivery.Object, manager string, dryRun bool) (*unstructured.Unstructured, error) {
	resource, err := user.Resource(obj.GroupVersionKind(), obj.GetNamespace())
	if err != nil {
		return nil, Explain(err, obj)
	}
	body, err := json.Marshal(obj.Object)
	if err != nil {
		return nil, fmt.Errorf("encode %s: %w", obj.Ref(), err)
	}
	force := true
	// A server-side apply refuses unknown fields by its schema, and a body that we encoded repeats none. Asking for field
	// validation on top has the server parse the whole body once more.
	opts := metav1.PatchOptions{FieldManager: manager, Force: &force, FieldValidation: metav1.FieldValidationIgnore}
	if dryRun {
		opts.DryRun = []string{metav1.DryRunAll}
	}
	out, err := resource.Patch(ctx, obj.GetName(), types.ApplyPatchType, body, opts)
	if err != nil {
		return nil, Explain(err, obj)
	}
	return out, nil
}

// replace puts an object in the place of the one that is there: what Git does not name of it goes. A server-side apply comes after it,
// from which it is known what is ours.
func replace(ctx context.Context, user *kube.User, obj delivery.Object) error {
	have, err := reread(ctx, user, obj)
	if err != nil {
		return err
	}
	resource, err := user.Resource(obj.GroupVersionKind(), obj.GetNamespace())
	if err != nil {
		return Explain(err, obj)
	}
	whole := obj.DeepCopy()
	whole.SetResourceVersion(have.GetResourceVersion())
	whole.SetFinalizers(have.GetFinalizers()) // nobody's deletion is cut short
	whole.SetOwnerReferences(have.GetOwnerReferences())
	if _, err := resource.Update(ctx, whole, metav1.UpdateOptions{FieldManager: kube.FieldManager}); err != nil {
		return Explain(err, obj)
	}
	return nil
}

// remove deletes exactly the object that the plan saw: one of the same name made since is left alone.
func remove(ctx context.Context, user *kube.User, c delivery.Change) error {
	resource, err := user.ResourceOf(c.Ref, c.Version)
	if meta.IsNoMatchError(err) {
		return nil // the kind is gone, and its objects with it
	}
	if err != nil {
		return err
	}
	opts := metav1.DeleteOptions{PropagationPolicy: propagation(c)}
	if c.UID != "" {
		uid := types.UID(c.UID)
		opts.Preconditions = &metav1.Preconditions{UID: &uid}
	}
	err = resource.Delete(ctx, c.Ref.Name, opts)
	status := apierrors.APIStatus(nil)
	gone := apierrors.IsNotFound(err) && errors.As(err, &status) && !kindIsGone(status) // not only in this version
	if gone || apierrors.IsConflict(err) {
		return nil
	}
	if err != nil {
		f := Explain(err, delivery.Object{}).(*delivery.Fault) //nolint:errorlint,forcetypeassert // Explain always gives a *Fault
		f.Where = c.Ref.String()
		if c.Verb == delivery.Delete {
			f.Reason = "PruneFailed"
		}
		return f
	}
	return nil
}

// propagation says what becomes of what an object owns.
func propagation(c delivery.Change) *metav1.DeletionPropagation {
	policy := metav1.DeletePropagationBackground
	switch c.Propagation {
	case "foreground":
		policy = metav1.DeletePropagationForeground
	case "orphan":
		policy = metav1.DeletePropagationOrphan
	}
	return &policy
}

// Explain turns an API error into one for people. It never shows the values of a Secret.
func Explain(err error, obj delivery.Object) error {
	var fault *delivery.Fault
	if errors.As(err, &fault) {
		return fault
	}
	f := &delivery.Fault{Reason: "ReconciliationFailed", Retry: delivery.Backoff, Err: err}
	if obj.Unstructured != nil {
		f.Where = obj.Where()
	}
	status := apierrors.APIStatus(nil)
	switch {
	case meta.IsNoMatchError(err):
		f.Reason, f.Hint = "KindNotFound", "install the CustomResourceDefinition first, or let this app depend on the one that brings it"
		f.Err = fmt.Errorf("the cluster has no such kind: %w", err)
	case !errors.As(err, &status):
		return f
	case apierrors.IsForbidden(err):
		f.Reason, f.Hint = "Forbidden", "check the rights of the service account, quotas and admission policies"
	case apierrors.IsInvalid(err):
		f.Retry = delivery.OnChange
		f.Err = invalid(status, obj)
		if strings.Contains(f.Err.Error(), "immutable") {
			f.Reason, f.Hint = "ImmutableField", "restore the field in Git, or give the object a new name, or annotate it with kustomize.toolkit.fluxcd.io/force: enabled"
		}
	case apierrors.IsNotFound(err) && kindIsGone(status):
		f.Reason, f.Hint = "KindNotFound", "install the CustomResourceDefinition again, or take the object out of Git"
		f.Err = errors.New("the cluster no longer has such a kind")
	case strings.Contains(status.Status().Message, "field not declared in schema"):
		f.Retry, f.Hint = delivery.OnChange, "correct the field's name, or take it out"
	case apierrors.IsNotFound(err):
		f.Hint = "the namespace must exist first: add it to Git or create it"
	case apierrors.IsConflict(err):
	case isSecret(obj): // the message may quote its data
		f.Retry, f.Err = delivery.OnChange, fmt.Errorf("the API server rejects it (%s)", status.Status().Reason)
	case status.Status().Code == http.StatusBadRequest:
		f.Retry = delivery.OnChange
	}
	return f
}

// kindIsGone tells a 404 about the resource itself from one about a namespace or a name.
func kindIsGone(err apierrors.APIStatus) bool {
	d := err.Status().Details
	return d == nil || d.Name == ""
}

func isSecret(obj delivery.Object) bool { return obj.Unstructured != nil && obj.GetKind() == "Secret" }

// invalid shortens a validation error to its causes. A Secret's messages may quote its data, so only field names are given.
func invalid(err apierrors.APIStatus, obj delivery.Object) error {
	cause, _ := err.(error)
	return &shortened{error: shortInvalid(err, obj), cause: cause}
}

// shortened is an error that says less than its cause.
type shortened struct {
	error
	cause error
}

func (s *shortened) Unwrap() error { return s.cause }

func shortInvalid(err apierrors.APIStatus, obj delivery.Object) error {
	details := err.Status().Details
	if details == nil || len(details.Causes) == 0 {
		if isSecret(obj) {
			return errors.New("the API server rejects it as invalid")
		}
		return errors.New(err.Status().Message)
	}
	var causes []string
	for _, c := range details.Causes {
		if isSecret(obj) {
			causes = append(causes, c.Field+": invalid")
			continue
		}
		causes = append(causes, c.Field+": "+c.Message)
	}
	return fmt.Errorf("the API server rejects it: %s", strings.Join(causes, "; "))
}
