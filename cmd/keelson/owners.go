package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strconv"
	"strings"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"

	"keelson.dev/keelson/internal/dialect"
	"keelson.dev/keelson/internal/kube"
)

// replicasAnnotation on a workload that was scaled down says how many replicas it had: keelson handback gives them back.
const replicasAnnotation = "keelson.dev/replicas"

// workloadKinds are the kinds of what runs other tools' controllers.
var workloadKinds = map[string]schema.GroupVersionKind{
	"Deployment": appsv1.SchemeGroupVersion.WithKind("Deployment"), "StatefulSet": appsv1.SchemeGroupVersion.WithKind("StatefulSet"),
}

// tools are the controllers of other tools that a cluster has, those that do not run as well.
type tools struct {
	flux []dialect.FluxController
	argo []dialect.ArgoController
}

// workload is what runs a controller of another tool.
type workload struct {
	kind, namespace, name string
	program               string
	replicas              int32
}

// String is "Deployment flux-system/source-controller".
func (w workload) String() string { return w.kind + " " + w.namespace + "/" + w.name }

func fluxWorkload(c dialect.FluxController) workload {
	return workload{"Deployment", c.Namespace, c.Name, c.Program, c.Replicas}
}

func argoWorkload(c dialect.ArgoController) workload {
	return workload{c.Kind, c.Namespace, c.Name, c.Program, c.Replicas}
}

// otherTools finds the controllers of Flux and Argo CD among the cluster's workloads.
func otherTools(ctx context.Context, cluster *kube.Cluster) (tools, error) {
	var found tools
	err := eachWorkload(ctx, cluster, "Deployment", func(u *unstructured.Unstructured) error {
		var d appsv1.Deployment
		if err := runtime.DefaultUnstructuredConverter.FromUnstructured(u.Object, &d); err != nil {
			return err
		}
		if c, ok := dialect.FluxControllerOf(&d); ok {
			found.flux = append(found.flux, c)
		}
		if c, ok := dialect.ArgoControllerOf("Deployment", d.ObjectMeta, d.Spec.Replicas, d.Spec.Template.Spec); ok {
			found.argo = append(found.argo, c)
		}
		return nil
	})
	if err != nil {
		return tools{}, err
	}
	return found, eachWorkload(ctx, cluster, "StatefulSet", func(u *unstructured.Unstructured) error {
		var s appsv1.StatefulSet
		if err := runtime.DefaultUnstructuredConverter.FromUnstructured(u.Object, &s); err != nil {
			return err
		}
		if c, ok := dialect.ArgoControllerOf("StatefulSet", s.ObjectMeta, s.Spec.Replicas, s.Spec.Template.Spec); ok {
			found.argo = append(found.argo, c)
		}
		return nil
	})
}

// eachWorkload reads all workloads of a kind.
func eachWorkload(ctx context.Context, cluster *kube.Cluster, kind string, take func(*unstructured.Unstructured) error) error {
	resource, err := cluster.Self().Resource(workloadKinds[kind], "")
	if err != nil {
		return fmt.Errorf("look up %ss: %w", kind, err)
	}
	opts := metav1.ListOptions{Limit: 500}
	for {
		list, err := resource.List(ctx, opts)
		if err != nil {
			return fmt.Errorf("look for running controllers of Flux and Argo CD: %w", err)
		}
		for i := range list.Items {
			if err := take(&list.Items[i]); err != nil {
				return fmt.Errorf("read %s %s/%s: %w", kind, list.Items[i].GetNamespace(), list.Items[i].GetName(), err)
			}
		}
		if opts.Continue = list.GetContinue(); opts.Continue == "" {
			return nil
		}
	}
}

// argoOwners are the controllers of Argo CD that run and deliver Applications. They know no shards by label.
func argoOwners(all []dialect.ArgoController) []dialect.ArgoController {
	return slices.DeleteFunc(slices.Clone(all), func(c dialect.ArgoController) bool { return c.Program == dialect.ArgoOperator || c.Replicas == 0 })
}

// claimApplications tells whether Applications are to be left to Argo CD, whose controllers run; with takeOver these are scaled
// down instead. It stops only what both would do: the apps of Flux's kinds are nothing to Argo CD.
func claimApplications(ctx context.Context, cluster *kube.Cluster, all []dialect.ArgoController, takeOver bool, log *slog.Logger) (leave string, err error) {
	owners := argoOwners(all)
	if len(owners) == 0 {
		return "", nil
	}
	stop := make([]workload, len(owners))
	names := make([]string, len(owners))
	for i, o := range owners {
		stop[i] = argoWorkload(o)
		names[i] = stop[i].String()
	}
	if !takeOver {
		return strings.Join(names, ", "), nil
	}
	if i := slices.IndexFunc(all, func(c dialect.ArgoController) bool { return c.Program == dialect.ArgoOperator && c.Replicas > 0 }); i >= 0 {
		return "", hintf(fmt.Errorf("%s (%s) would start Argo CD's controllers again", argoWorkload(all[i]), dialect.ArgoOperator),
			"scale it down first: kubectl -n %s scale %s/%s --replicas=0", all[i].Namespace, strings.ToLower(all[i].Kind), all[i].Name)
	}
	return "", scaleDown(ctx, cluster, stop, log)
}

// activeOwners are the Flux controllers that run and deliver objects which this process would deliver.
func activeOwners(all []dialect.FluxController, shard labels.Selector) []dialect.FluxController {
	return slices.DeleteFunc(slices.Clone(all), func(c dialect.FluxController) bool {
		return !c.Delivers() || c.Replicas == 0 || !dialect.Overlap(shard, c.Selector)
	})
}

// receiverOwner finds a notification-controller that works on the Receivers of the shard. It is never scaled down: it sends alerts.
func receiverOwner(all []dialect.FluxController, shard labels.Selector) (dialect.FluxController, bool) {
	i := slices.IndexFunc(all, func(c dialect.FluxController) bool {
		return c.Program == dialect.NotificationController && c.Replicas > 0 && dialect.Overlap(shard, c.Selector)
	})
	if i < 0 {
		return dialect.FluxController{}, false
	}
	return all[i], true
}

// claimKinds sees to it that nobody else delivers the objects that this process is about to deliver: it refuses, or with
// takeOver scales the others down. all are the controllers of Flux in the cluster.
func claimKinds(ctx context.Context, cluster *kube.Cluster, all []dialect.FluxController, shard labels.Selector, takeOver bool, log *slog.Logger) error {
	owners := activeOwners(all, shard)
	if len(owners) == 0 {
		return nil
	}
	names := make([]string, len(owners))
	for i, o := range owners {
		names[i] = "Deployment " + o.String() + " (" + o.Program + ")"
	}
	if !takeOver {
		return hintf(hintf(fmt.Errorf("the cluster has an active owner of the same kinds: %s", strings.Join(names, ", ")),
			"keelson takeover --plan shows what Keelson would do; --take-over scales it down and goes on"),
			"to share the work, label some of the objects sharding.fluxcd.io/key=keelson, start Keelson with --watch-label-selector sharding.fluxcd.io/key=keelson and Flux's controllers with --watch-label-selector='!sharding.fluxcd.io/key'")
	}
	if i := slices.IndexFunc(all, func(c dialect.FluxController) bool { return c.Program == dialect.FluxOperator && c.Replicas > 0 }); i >= 0 {
		return hintf(fmt.Errorf("the Deployment %s (%s) would start Flux's controllers again", all[i], dialect.FluxOperator),
			"disable it first: kubectl -n %s annotate fluxinstance flux fluxcd.controlplane.io/reconcile=disabled, then scale it down", all[i].Namespace)
	}
	used, err := onlyFlux(ctx, cluster)
	if err != nil {
		return err
	}
	if len(used) > 0 && slices.ContainsFunc(owners, func(o dialect.FluxController) bool { return o.Program == dialect.SourceController }) {
		return hintf(fmt.Errorf("source-controller cannot be scaled down: it is still needed for %s", strings.Join(used, ", ")),
			"share the work by a label instead: --watch-label-selector sharding.fluxcd.io/key=keelson")
	}
	stop := make([]workload, len(owners))
	for i, o := range owners {
		stop[i] = fluxWorkload(o)
	}
	return scaleDown(ctx, cluster, stop, log)
}

// onlyFlux counts the objects of kinds that need Flux: "3 helmreleases.helm.toolkit.fluxcd.io".
func onlyFlux(ctx context.Context, cluster *kube.Cluster) ([]string, error) {
	var out []string
	for _, name := range dialect.OnlyFlux {
		m, err := mappingOf(cluster, name)
		if meta.IsNoMatchError(err) {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("look up %s: %w", name, err)
		}
		list, err := cluster.Self().Dynamic.Resource(m).List(ctx, metav1.ListOptions{})
		if apierrors.IsNotFound(err) {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("list %s: %w", name, err)
		}
		if n := len(list.Items); n > 0 {
			out = append(out, fmt.Sprintf("%d %s", n, name))
		}
	}
	return out, nil
}

// mappingOf finds a resource by its full name, "helmreleases.helm.toolkit.fluxcd.io", in the version that the server prefers.
func mappingOf(cluster *kube.Cluster, name string) (schema.GroupVersionResource, error) {
	return cluster.Mapper().ResourceFor(schema.ParseGroupResource(name).WithVersion(""))
}

// scaleDownTimeout bounds how long a controller may take to end.
const scaleDownTimeout = 2 * time.Minute

// scaleDown stops controllers and waits until none of their Pods is left: two must never work on one object. It notes how many
// replicas each had.
func scaleDown(ctx context.Context, cluster *kube.Cluster, owners []workload, log *slog.Logger) error {
	ctx, cancel := context.WithTimeout(ctx, scaleDownTimeout)
	defer cancel()
	for _, o := range owners {
		patch := fmt.Sprintf(`{"metadata":{"annotations":{%q:%q}},"spec":{"replicas":0}}`, replicasAnnotation, strconv.Itoa(int(o.replicas)))
		if _, err := patchWorkload(ctx, cluster, o, patch); err != nil {
			return fmt.Errorf("scale down %s: %w", o, err)
		}
		log.Info("scaled down", "workload", o.String(), "replicas", o.replicas)
	}
	for _, o := range owners {
		err := poll(ctx, 200*time.Millisecond, func(ctx context.Context) (bool, error) {
			resource, err := cluster.Self().Resource(workloadKinds[o.kind], o.namespace)
			if err != nil {
				return false, err
			}
			d, err := resource.Get(ctx, o.name, metav1.GetOptions{})
			if apierrors.IsNotFound(err) {
				return true, nil
			}
			if err != nil {
				return false, err
			}
			observed, _, _ := unstructured.NestedInt64(d.Object, "status", "observedGeneration")
			left, _, _ := unstructured.NestedInt64(d.Object, "status", "replicas")
			ending, _, _ := unstructured.NestedInt64(d.Object, "status", "terminatingReplicas")
			return observed >= d.GetGeneration() && left+ending == 0, nil
		})
		if errors.Is(err, context.DeadlineExceeded) {
			return fmt.Errorf("the %s still has Pods %s after it was scaled down", o, scaleDownTimeout)
		}
		if err != nil {
			return fmt.Errorf("wait for %s to end: %w", o, err)
		}
	}
	return nil
}

func patchWorkload(ctx context.Context, cluster *kube.Cluster, o workload, patch string) (*unstructured.Unstructured, error) {
	resource, err := cluster.Self().Resource(workloadKinds[o.kind], o.namespace)
	if err != nil {
		return nil, err
	}
	return resource.Patch(ctx, o.name, types.MergePatchType, []byte(patch), metav1.PatchOptions{FieldManager: kube.FieldManager})
}
