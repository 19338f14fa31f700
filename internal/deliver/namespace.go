package deliver

import (
	"context"
	"slices"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"keelson.dev/keelson/internal/delivery"
	"keelson.dev/keelson/internal/plan"
)

// addNamespace puts the namespace of an app that has it made (Argo CD: CreateNamespace) before all else of an operation's plan, where it
// is not there or does not have the metadata that it is to have. The namespace does not become the app's: it is never pruned, and
// nothing else of it is touched.
func (e *Engine) addNamespace(ctx context.Context, req Request, p *delivery.Plan, want delivery.Inventory) error {
	sync, name := req.App.Sync, req.App.Namespace
	if sync == nil || req.Operation == nil || name == "" || len(p.Blocks) > 0 || !sync.Options.CreateNamespace && !req.Operation.Request.Options.CreateNamespace {
		return nil
	}
	ref := delivery.Ref{Kind: "Namespace", Name: name}
	if _, inGit := want[ref]; inGit {
		return nil
	}
	if slices.ContainsFunc(req.Operation.Results, func(r delivery.OperationResult) bool { return r.Ref == ref }) {
		return nil
	}
	have, err := e.Cluster.Self().Read(ctx, ref, "v1")
	if err != nil {
		return err
	}
	u := &unstructured.Unstructured{Object: map[string]any{"apiVersion": "v1", "kind": "Namespace", "metadata": map[string]any{"name": name}}}
	obj := delivery.Object{Unstructured: u}
	if sync.NamespaceMetadata != nil {
		addMetadata(obj, *sync.NamespaceMetadata)
	}
	c := delivery.Change{Ref: ref, Version: "v1", Verb: delivery.Create, Reason: "the namespace of the app", Object: &obj, First: true}
	if have != nil {
		if covers(have.GetLabels(), u.GetLabels()) && covers(have.GetAnnotations(), u.GetAnnotations()) {
			return nil
		}
		c.Verb, c.Reason = delivery.Update, "its metadata are to be others"
	}
	if block, ok := e.namespaceBlock(req.App, ref, c.Verb, len(u.GetLabels())+len(u.GetAnnotations()) > 0); ok {
		p.Blocks = append(p.Blocks, block)
		return nil
	}
	p.Stages = append([]delivery.Stage{{Name: "Namespaces", Changes: []delivery.Change{c}}}, p.Stages...)
	return nil
}

// namespaceBlock tells what forbids to make an app's namespace, or to change its metadata: the project, the Secret of the cluster, or that another app owns it and
// says what its metadata are.
func (e *Engine) namespaceBlock(app delivery.App, ref delivery.Ref, verb delivery.Verb, metadata bool) (delivery.Block, bool) {
	if no := app.Limits.Refuse(ref, false); no != nil {
		what, hint := "it cannot be made: ", "make the namespace yourself"
		if verb == delivery.Update {
			what, hint = "its metadata cannot be changed: ", "take managedNamespaceMetadata out of the app"
		}
		return delivery.Block{Ref: ref, Fault: &delivery.Fault{
			Reason: "NotPermitted", Where: ref.String(), Retry: delivery.OnChange, Err: errorText(what + no.Rule),
			Hint: no.Remedy + ", or " + hint,
		}}, true
	}
	if owner, ok := e.Claims.Other(app.ID, ref); ok && metadata {
		return plan.Claimed(app, ref, owner), true
	}
	return delivery.Block{}, false
}

// covers tells whether have has all of want.
func covers(have, want map[string]string) bool {
	for k, v := range want {
		if got, ok := have[k]; !ok || got != v {
			return false
		}
	}
	return true
}
