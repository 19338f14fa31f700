package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strconv"
	"time"

	helmv2 "github.com/fluxcd/helm-controller/api/v2"
	kustomizev1 "github.com/fluxcd/kustomize-controller/api/v1"
	fluxmeta "github.com/fluxcd/pkg/apis/meta"
	"github.com/spf13/cobra"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes/typed/coordination/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	argocdv1 "keelson.dev/keelson/api/argocd/v1alpha1"
	"keelson.dev/keelson/internal/apply"
	"keelson.dev/keelson/internal/delivery"
	"keelson.dev/keelson/internal/dialect"
	"keelson.dev/keelson/internal/kube"
	"keelson.dev/keelson/internal/plan"
	"keelson.dev/keelson/internal/release"
)

// errRunsStill: handing back what a running server would take again.
var errRunsStill = errors.New("Keelson still works on this cluster") //nolint:staticcheck // a name

// fluxManager is the field manager that Flux applies with.
const fluxManager = dialect.KustomizeController

// ourManager is the field manager that Keelson applies with.
const ourManager = kube.FieldManager

func handbackCommand(g *global) *cobra.Command {
	var dryRun bool
	cmd := &cobra.Command{
		Use:   "handback",
		Short: "Leave a cluster such that Flux and Argo CD go on where Keelson stops",
		Long: `Handback gives what Keelson owns of the objects of every app back to Flux, or to Argo CD: their fields become those of
kustomize-controller, helm-controller or argocd-controller, what only Keelson understands is taken out of the apps and sources, and controllers that
--take-over has scaled down start again. No object is changed otherwise. Stop Keelson first. It can be run again where it was interrupted.`,
		Args: args(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error { return runHandback(cmd.Context(), g, dryRun) },
	}
	cmd.Flags().BoolVar(&dryRun, "dry-run", false, "only show what would be handed back")
	return cmd
}

// handedBack is one line of the result.
type handedBack struct {
	App    string `json:"app,omitempty"`
	Object string `json:"object"`
	Result string `json:"result"`
}

func runHandback(ctx context.Context, g *global, dryRun bool) error {
	c, cluster, err := g.connect()
	if err != nil {
		return err
	}
	if err := nobodyWorks(ctx, cluster); err != nil {
		return err
	}
	h := handback{cluster: cluster, client: c, dryRun: dryRun, done: []handedBack{}}
	for _, step := range []func(context.Context) error{h.apps, h.sources, h.controllers} {
		if err := step(ctx); err != nil {
			return explainAPI(err)
		}
	}
	return g.print(h.done, func(w io.Writer) error {
		for _, line := range h.done {
			if line.App != "" {
				line.Object = line.App + ": " + line.Object
			}
			fmt.Fprintf(w, "%s %s\n", line.Object, line.Result)
		}
		if dryRun {
			return printf("%d changes; nothing was changed", h.changes)(w)
		}
		return printf("handed back: %d changes", h.changes)(w)
	})
}

// nobodyWorks tells that no server holds the lease. One that was killed holds it until it runs out.
func nobodyWorks(ctx context.Context, cluster *kube.Cluster) error {
	coordination, err := v1.NewForConfigAndClient(cluster.Config(), cluster.HTTPClient())
	if err != nil {
		return fmt.Errorf("make lease client: %w", err)
	}
	lease, err := coordination.Leases(leaseNamespace).Get(ctx, leaseName, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		return nil
	}
	if err != nil {
		return explainAPI(fmt.Errorf("read the lease %s/%s: %w", leaseNamespace, leaseName, err))
	}
	spec := lease.Spec
	if spec.HolderIdentity == nil || *spec.HolderIdentity == "" || spec.RenewTime == nil || spec.LeaseDurationSeconds == nil {
		return nil
	}
	until := spec.RenewTime.Add(time.Duration(*spec.LeaseDurationSeconds) * time.Second)
	if time.Now().After(until) {
		return nil
	}
	return hintf(fmt.Errorf("%w: %s has the lease %s/%s", errRunsStill, *spec.HolderIdentity, leaseNamespace, leaseName),
		"stop it first (keelson down, or end keelson server); one that was killed counts as running until %s", until.UTC().Format(time.TimeOnly))
}

// handback is one run.
type handback struct {
	cluster *kube.Cluster
	client  client.Client
	dryRun  bool
	done    []handedBack
	changes int // of done, those that are not only said
}

func (h *handback) note(app, object, result string) {
	h.done = append(h.done, handedBack{App: app, Object: object, Result: result})
	h.changes++
}

// apps hands back the objects of every app, then the app.
func (h *handback) apps(ctx context.Context) error {
	apps, err := allApps(ctx, h.client)
	if err != nil {
		return fmt.Errorf("list apps: %w", err)
	}
	for _, app := range apps {
		if app.elsewhere() {
			h.done = append(h.done, handedBack{App: app.String(), Object: "its objects in another cluster", Result: "are left as they are"})
			continue
		}
		inv := app.owned()
		for _, ref := range inv.Refs() {
			if err := h.object(ctx, app.id(), ref, inv[ref]); err != nil {
				return err
			}
		}
		switch {
		case app.argo != nil:
			err = h.application(ctx, app.argo)
		case app.helm != nil:
			err = h.helmRelease(ctx, app.helm)
		default:
			err = h.app(ctx, app.flux)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// application takes out of an Application what only Keelson understands.
func (h *handback) application(ctx context.Context, a *argocdv1.Application) error {
	name := a.Namespace + "/" + a.Name
	switch {
	case !dialect.ArgoHandBack(a):
		return nil
	case h.dryRun:
		h.note(name, "the app", "would be handed back")
		return nil
	}
	if err := h.client.Update(ctx, a, client.FieldOwner(kube.FieldManager)); err != nil {
		return fmt.Errorf("hand back app %s: %w", name, err)
	}
	h.note(name, "the app", "handed back")
	return nil
}

// handbackAttempts bounds how often an object is read anew because somebody wrote to it in between.
const handbackAttempts = 5

// object makes what we own of an object Flux's, or Argo CD's. It runs as whoever calls: the object's values are not touched.
func (h *handback) object(ctx context.Context, app delivery.ID, ref delivery.Ref, version string) error {
	user := h.cluster.Self()
	resource, err := user.ResourceOf(ref, version)
	if meta.IsNoMatchError(err) {
		return nil
	}
	for range handbackAttempts {
		if err != nil && !apierrors.IsConflict(err) {
			break
		}
		have, getErr := resource.Get(ctx, ref.Name, metav1.GetOptions{})
		if apierrors.IsNotFound(getErr) {
			return nil
		}
		if getErr != nil {
			return fmt.Errorf("read %s: %w", ref, getErr)
		}
		if appThatOwns(have) != app {
			return nil
		}
		from, to := managersFor(app)
		fields, ok, backErr := plan.HandBack(have, from, to)
		if backErr != nil || !ok {
			return backErr
		}
		if h.dryRun {
			h.note(app.Namespace+"/"+app.Name, ref.String(), "would be handed back")
			return nil
		}
		if _, err = apply.SetManagedFields(ctx, user, have, fields); err == nil {
			h.note(app.Namespace+"/"+app.Name, ref.String(), "handed back")
			return nil
		}
	}
	return fmt.Errorf("hand back %s: %w", ref, err)
}

// managersFor are the field managers that Keelson applies an app's objects with, and the tool that they are handed back to.
func managersFor(app delivery.ID) (ours, theirs string) {
	switch app.Kind {
	case argocdv1.ApplicationKind:
		return ourManager, dialect.ArgoManager
	case helmv2.HelmReleaseKind:
		return dialect.HelmManager, dialect.HelmController
	}
	return ourManager, fluxManager
}

// helmRelease takes out of a HelmRelease what only Keelson understands. Its release, which Flux knows from Helm's storage and from the history in
// the status, is left as it is; a rollback that Keelson has held is told, as Flux undoes it.
func (h *handback) helmRelease(ctx context.Context, hr *helmv2.HelmRelease) error {
	name := hr.Namespace + "/" + hr.Name
	if c := meta.FindStatusCondition(hr.Status.Conditions, fluxmeta.StalledCondition); c != nil && c.Reason == release.ReasonHeld {
		h.done = append(h.done, handedBack{App: name, Object: "its release", Result: "was rolled back by a person: Flux will undo that unless you suspend the HelmRelease first"})
	}
	switch {
	case !dialect.HelmHandBack(hr):
		return nil
	case h.dryRun:
		h.note(name, "the app", "would be handed back")
		return nil
	}
	if err := h.client.Status().Update(ctx, hr, client.FieldOwner(kube.FieldManager)); err != nil {
		return fmt.Errorf("hand back app %s: %w", name, err)
	}
	h.note(name, "the app", "handed back")
	return nil
}

// app takes out of an app what only Keelson understands. What a person has set stays.
func (h *handback) app(ctx context.Context, k *kustomizev1.Kustomization) error {
	name := k.Namespace + "/" + k.Name
	if !dialect.HandBack(k) {
		return nil
	}
	if h.dryRun {
		h.note(name, "the app", "would be handed back")
		return nil
	}
	if err := h.client.Status().Update(ctx, k, client.FieldOwner(kube.FieldManager)); err != nil {
		return fmt.Errorf("hand back app %s: %w", name, err)
	}
	if _, ok := k.Annotations[dialect.IntentAnnotation]; ok { // only now: the inventory has what it names
		delete(k.Annotations, dialect.IntentAnnotation)
		if err := h.client.Update(ctx, k, client.FieldOwner(kube.FieldManager)); err != nil {
			return fmt.Errorf("hand back app %s: %w", name, err)
		}
	}
	h.note(name, "the app", "handed back")
	return nil
}

// sources forgets the artifacts that Keelson tells of: there is no archive behind them, which Flux would look for.
func (h *handback) sources(ctx context.Context) error {
	list, err := allSources(ctx, h.client)
	if err != nil {
		return err
	}
	for _, s := range list {
		p := partsOf(s)
		if p.artifact == nil || p.artifact.Size != nil {
			continue // Flux's own tells its size
		}
		name := p.kind + " " + s.GetNamespace() + "/" + s.GetName()
		if h.dryRun {
			h.note("", name, "would be handed back")
			continue
		}
		patch := client.RawPatch("application/merge-patch+json", []byte(`{"status":{"artifact":null}}`))
		if err := h.client.Status().Patch(ctx, s, patch, client.FieldOwner(kube.FieldManager)); err != nil {
			return fmt.Errorf("hand back %s: %w", name, err)
		}
		h.note("", name, "handed back")
	}
	return nil
}

// controllers starts again what --take-over has scaled down.
func (h *handback) controllers(ctx context.Context) error {
	others, err := otherTools(ctx, h.cluster)
	if err != nil {
		return err
	}
	var all []workload
	for _, c := range others.flux {
		all = append(all, fluxWorkload(c))
	}
	for _, c := range others.argo {
		all = append(all, argoWorkload(c))
	}
	for _, o := range all {
		have, err := h.replicas(ctx, o)
		if err != nil {
			return err
		}
		replicas, err := strconv.Atoi(have)
		if err != nil || replicas < 1 || o.replicas > 0 {
			continue
		}
		if h.dryRun {
			h.note("", o.String(), fmt.Sprintf("would be scaled to %d", replicas))
			continue
		}
		patch, err := json.Marshal(map[string]any{
			"metadata": map[string]any{"annotations": map[string]any{replicasAnnotation: nil}},
			"spec":     map[string]any{"replicas": replicas},
		})
		if err != nil {
			return fmt.Errorf("encode: %w", err)
		}
		if _, err := patchWorkload(ctx, h.cluster, o, string(patch)); err != nil {
			return fmt.Errorf("scale %s: %w", o, err)
		}
		h.note("", o.String(), fmt.Sprintf("scaled to %d", replicas))
	}
	return nil
}

// replicas gives the replicas that a workload had before it was scaled down; empty: it was not.
func (h *handback) replicas(ctx context.Context, o workload) (string, error) {
	resource, err := h.cluster.Self().Resource(workloadKinds[o.kind], o.namespace)
	if err != nil {
		return "", err
	}
	d, err := resource.Get(ctx, o.name, metav1.GetOptions{})
	if err != nil {
		return "", fmt.Errorf("read %s: %w", o, err)
	}
	return d.GetAnnotations()[replicasAnnotation], nil
}
