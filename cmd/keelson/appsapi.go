package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"slices"
	"strings"
	"time"

	helmv2 "github.com/fluxcd/helm-controller/api/v2"
	kustomizev1 "github.com/fluxcd/kustomize-controller/api/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	typedcorev1 "k8s.io/client-go/kubernetes/typed/core/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	argocdv1 "keelson.dev/keelson/api/argocd/v1alpha1"
	"keelson.dev/keelson/internal/delivery"
	"keelson.dev/keelson/internal/dialect"
	"keelson.dev/keelson/internal/history"
	"keelson.dev/keelson/internal/kube"
	"keelson.dev/keelson/internal/redact"
	"keelson.dev/keelson/internal/web"
)

// clusterAPI is what the API of apps asks of a cluster. Everything is done as the person of the context.
type clusterAPI struct {
	cluster *kube.Cluster
	own     client.WithWatch // as Keelson
	policy  delivery.Policy
	log     *slog.Logger
	// deliveries reads what was delivered, and deliver tells of what is; nil: no history is kept.
	deliveries func(ctx context.Context, id int64) (history.Delivery, error)
	deliver    func(d history.Delivery)
	asks       *ownAsks // what is asked for here
}

func newClusterAPI(cluster *kube.Cluster, policy delivery.Policy, log *slog.Logger) (*clusterAPI, error) {
	config, by := cluster.Self().REST()
	own, err := newClientOn(config, by)
	return &clusterAPI{cluster: cluster, own: own, policy: policy, log: log, asks: &ownAsks{}}, err
}

// caller is the cluster as the person who asks.
type caller struct {
	client client.WithWatch
	user   *kube.User
	who    web.Person
	asks   *ownAsks // where something is asked for
}

func (a *clusterAPI) as(ctx context.Context) (*caller, error) {
	who := web.PersonOf(ctx)
	user, err := a.cluster.Person(who.Name, who.Groups)
	if err != nil {
		return nil, err
	}
	config, by := user.REST()
	c, err := newClientOn(config, by)
	return &caller{client: c, user: user, who: who}, err
}

// find reads an app as the person who asks.
func (a *clusterAPI) find(ctx context.Context, id web.AppRef) (*caller, foundApp, error) {
	as, err := a.as(ctx)
	if err != nil {
		return nil, foundApp{}, err
	}
	group := map[string]string{
		kustomizev1.KustomizationKind: kustomizev1.GroupVersion.Group, argocdv1.ApplicationKind: argocdv1.GroupVersion.Group,
		helmv2.HelmReleaseKind: helmv2.GroupVersion.Group,
	}
	app, err := readApp(ctx, as.client, delivery.Ref{Group: group[id.Kind], Kind: id.Kind, Namespace: id.Namespace, Name: id.Name})
	if apierrors.IsNotFound(err) {
		return nil, foundApp{}, fmt.Errorf("%w: %s", web.ErrNoApp, id)
	}
	return as, app, err
}

// App implements [web.Cluster].
func (a *clusterAPI) App(ctx context.Context, id web.AppRef) (web.AppDetail, error) {
	_, app, err := a.find(ctx, id)
	if err != nil {
		return web.AppDetail{}, err
	}
	return detailOf(app), nil
}

// detailOf is all that is said about an app.
func detailOf(app foundApp) web.AppDetail {
	d := web.AppDetail{App: app.shown()}
	d.Spec = web.AppSpec{Source: d.Source, Path: d.Path}
	switch {
	case app.argo != nil:
		detailOfArgo(app.argo, &d)
	case app.helm != nil:
		hr := app.helm
		d.Conditions = conditionsOf(hr.Status.Conditions)
		d.Spec.Interval, d.Spec.Suspended = hr.Spec.Interval.Duration.String(), hr.Spec.Suspend
		d.Spec.TargetNamespace, d.Spec.ServiceAccount, d.Spec.Prune = hr.Spec.TargetNamespace, hr.Spec.ServiceAccountName, true
		for _, dep := range hr.Spec.DependsOn {
			d.DependsOn = append(d.DependsOn, web.AppID(d.Kind, cmp.Or(dep.Namespace, hr.Namespace), dep.Name))
		}
		if heldRelease(hr) {
			d.Holds = append(d.Holds, web.Hold{Reason: d.Message, Since: d.Since, Until: "Git wants something else, or it is resumed"})
		}
	default:
		k := app.flux
		d.Conditions = conditionsOf(k.Status.Conditions)
		d.Spec.Interval, d.Spec.Suspended = k.Spec.Interval.Duration.String(), k.Spec.Suspend
		d.Spec.TargetNamespace, d.Spec.ServiceAccount, d.Spec.Prune = k.Spec.TargetNamespace, k.Spec.ServiceAccountName, k.Spec.Prune
		for _, dep := range k.Spec.DependsOn {
			d.DependsOn = append(d.DependsOn, web.AppID(d.Kind, cmp.Or(dep.Namespace, k.Namespace), dep.Name))
		}
	}
	if app.elsewhere() {
		d.Spec.Cluster = cmp.Or(d.Spec.Cluster, "another one, by spec.kubeConfig")
	}
	if d.Spec.Suspended && app.argo == nil {
		d.Holds = append(d.Holds, web.Hold{Reason: "suspended", Until: "it is resumed"})
	}
	return d
}

// detailOfArgo completes what is said about an Application.
func detailOfArgo(a *argocdv1.Application, d *web.AppDetail) {
	for _, c := range a.Status.Conditions {
		d.Conditions = append(d.Conditions, web.Condition{Type: c.Type, Status: "True", Message: redact.Text(c.Message), Since: timeOf(c.LastTransitionTime)})
	}
	d.Spec.TargetNamespace = a.Spec.Destination.Namespace
	if argoElsewhere(a) {
		d.Spec.Cluster = redact.Text(cmp.Or(a.Spec.Destination.Name, a.Spec.Destination.Server))
	}
	auto := automatedOf(a)
	d.Spec.Prune = auto != nil && isTrue(auto.Prune)
	if text := a.Annotations[argocdv1.HoldAnnotation]; text != "" {
		h := dialect.ParseArgoHold(text)
		d.Spec.Suspended = true
		d.Holds = append(d.Holds, web.Hold{Owner: h.By, Reason: redact.Text(h.Reason), Since: h.At, Until: "it is resumed"})
	}
}

func conditionsOf(all []metav1.Condition) []web.Condition {
	out := make([]web.Condition, len(all))
	for i, c := range all {
		out[i] = web.Condition{Type: c.Type, Status: string(c.Status), Reason: c.Reason, Message: redact.Text(c.Message), Since: c.LastTransitionTime.UTC()}
	}
	return out
}

// Bounds of a tree: objects of inventories, objects of a kind and namespace, and what is told.
const treeRead, treeTold = 2000, 5000

// Tree implements [web.Cluster].
func (a *clusterAPI) Tree(ctx context.Context, id web.AppRef) (web.Tree, error) {
	as, app, err := a.find(ctx, id)
	if err != nil {
		return web.Tree{}, err
	}
	doing := newJudges(as.client)
	defer doing.close()
	f := newForest(as.client, as.user, doing)
	f.most = treeRead
	root, err := f.app(ctx, app)
	if err != nil {
		return web.Tree{}, err
	}
	out := web.Tree{Nodes: []web.TreeNode{}, Truncated: f.cut}
	flatten(root, "", map[string]bool{}, &out)
	return out, nil
}

// flatten tells a tree as a list. An object that is in it twice is told once.
func flatten(n *node, parent string, told map[string]bool, into *web.Tree) {
	id := nodeID(n.ref)
	if told[id] {
		return
	}
	if len(into.Nodes) == treeTold {
		into.Truncated = true
		return
	}
	told[id] = true
	into.Nodes = append(into.Nodes, web.TreeNode{
		ID: id, Kind: n.ref.Kind, APIVersion: schema.GroupVersion{Group: n.ref.Group, Version: n.version}.String(), Namespace: n.ref.Namespace, Name: n.ref.Name,
		Parent: parent, Health: string(n.Health), Message: cmp.Or(n.Message, n.Event), Owned: n.owned, Created: n.created, Ready: n.ready, Revision: n.Revision,
	})
	for _, child := range n.Children {
		flatten(child, id, told, into)
	}
}

// nodeID names an object of a tree: "Deployment.apps/dev/web".
func nodeID(ref delivery.Ref) string {
	return strings.TrimSuffix(ref.Kind+"."+ref.Group, ".") + "/" + ref.Namespace + "/" + ref.Name
}

// maxEvents bounds how many events are read.
const maxEvents = 1000

// Events implements [web.Cluster].
func (a *clusterAPI) Events(ctx context.Context, id web.AppRef, object string) ([]web.ObjectEvent, error) {
	as, app, err := a.find(ctx, id)
	if err != nil {
		return nil, err
	}
	fields := client.MatchingFields{"involvedObject.name": id.Name, "involvedObject.kind": id.Kind}
	namespace := id.Namespace
	if object != "" {
		kind, ns, name, ok := cutNode(object)
		if !ok {
			return nil, fmt.Errorf("object: %.100q names no object: it is KIND/NAMESPACE/NAME", object)
		}
		fields = client.MatchingFields{"involvedObject.name": name, "involvedObject.kind": kind}
		namespace = cmp.Or(ns, metav1.NamespaceDefault)
	}
	var list corev1.EventList
	if err := as.client.List(ctx, &list, client.InNamespace(namespace), fields, client.Limit(maxEvents)); err != nil {
		return nil, err
	}
	var out []web.ObjectEvent
	for i := range list.Items {
		e := &list.Items[i]
		if object == "" && e.InvolvedObject.GroupVersionKind().Group != app.gvk().Group {
			continue
		}
		h := happeningOf(e)
		out = append(out, web.ObjectEvent{
			Type: h.Type, Reason: h.Reason, Message: h.Message, Count: h.Count, First: e.FirstTimestamp.UTC(), Last: h.Time,
			Object: e.InvolvedObject.Kind + "/" + e.InvolvedObject.Namespace + "/" + e.InvolvedObject.Name,
		})
	}
	slices.SortStableFunc(out, func(a, b web.ObjectEvent) int { return a.Last.Compare(b.Last) })
	return out, nil
}

// cutNode takes the id of an object of a tree apart, or "Pod/dev/web-0".
func cutNode(id string) (kind, namespace, name string, ok bool) {
	parts := strings.Split(id, "/")
	if len(parts) != 3 || parts[0] == "" || parts[2] == "" || strings.ContainsAny(id, ",=!") {
		return "", "", "", false
	}
	kind, _, _ = strings.Cut(parts[0], ".")
	return kind, parts[1], parts[2], true
}

// simulatedNode is the annotation of nodes whose Pods are simulated.
const simulatedNode = "kwok.x-k8s.io/node"

// maxLogBytes bounds a log that is not followed.
const maxLogBytes = 16 << 20

// Log implements [web.Cluster].
func (a *clusterAPI) Log(ctx context.Context, q web.LogQuery) (io.ReadCloser, error) {
	as, err := a.as(ctx)
	if err != nil {
		return nil, err
	}
	var pod corev1.Pod
	if err := as.client.Get(ctx, client.ObjectKey{Namespace: q.Namespace, Name: q.Name}, &pod); err != nil {
		return nil, err
	}
	if err := a.logged(ctx, &pod); err != nil {
		return nil, err
	}
	config, by := as.user.REST()
	core, err := typedcorev1.NewForConfigAndClient(config, by)
	if err != nil {
		return nil, fmt.Errorf("make client: %w", err)
	}
	opts := &corev1.PodLogOptions{Container: cmp.Or(q.Container, usualContainer(&pod)), Follow: q.Follow, Previous: q.Previous, Timestamps: q.Times}
	if !q.Follow {
		opts.LimitBytes = new(int64(maxLogBytes))
	}
	if q.Since.IsZero() {
		opts.TailLines = &q.Tail
		return core.Pods(q.Namespace).GetLogs(q.Name, opts).Stream(ctx)
	}
	opts.SinceTime = &metav1.Time{Time: q.Since}
	log, err := core.Pods(q.Namespace).GetLogs(q.Name, opts).Stream(ctx)
	now := containerStatusOf(&pod, opts.Container)
	if err != nil || q.Previous || now.RestartCount == 0 || now.State.Running == nil || now.State.Running.StartedAt.Time.Before(q.Since.Truncate(time.Second)) {
		return log, err
	}
	earlier := opts.DeepCopy()
	earlier.Previous, earlier.Follow = true, false
	before, err := core.Pods(q.Namespace).GetLogs(q.Name, earlier).Stream(ctx)
	if err != nil {
		return log, nil //nolint:nilerr // it is not kept any more
	}
	return joined{io.MultiReader(before, log), before, log}, nil
}

// joined is the log of a container that was started anew, behind that of the one before it.
type joined struct {
	io.Reader
	before, log io.Closer
}

// Close implements [io.Closer].
func (j joined) Close() error { return errors.Join(j.before.Close(), j.log.Close()) }

// LogEnded implements [web.Cluster].
func (a *clusterAPI) LogEnded(ctx context.Context, q web.LogQuery) (bool, error) {
	as, err := a.as(ctx)
	if err != nil {
		return false, err
	}
	var pod corev1.Pod
	if err := as.client.Get(ctx, client.ObjectKey{Namespace: q.Namespace, Name: q.Name}, &pod); err != nil {
		return apierrors.IsNotFound(err), client.IgnoreNotFound(err)
	}
	return q.Previous || containerStatusOf(&pod, cmp.Or(q.Container, usualContainer(&pod))).State.Running == nil, nil
}

// containerStatusOf is what a Pod says of one of its containers; empty: nothing.
func containerStatusOf(pod *corev1.Pod, container string) corev1.ContainerStatus {
	for _, s := range slices.Concat(pod.Status.ContainerStatuses, pod.Status.InitContainerStatuses, pod.Status.EphemeralContainerStatuses) {
		if s.Name == container {
			return s
		}
	}
	return corev1.ContainerStatus{}
}

// logged says why a Pod has no log.
func (a *clusterAPI) logged(ctx context.Context, pod *corev1.Pod) error {
	if pod.Spec.NodeName == "" {
		return fmt.Errorf("%w: Pod %s/%s is on no node yet, so it has no log", web.ErrImpossible, pod.Namespace, pod.Name)
	}
	var node corev1.Node
	if err := a.own.Get(ctx, client.ObjectKey{Name: pod.Spec.NodeName}, &node); err != nil {
		return client.IgnoreNotFound(err)
	}
	if _, simulated := node.Annotations[simulatedNode]; simulated {
		return fmt.Errorf("%w: Pod %s/%s is on node %s, which is simulated: its containers do not run and have no log; keelson up --node real has a real one",
			web.ErrImpossible, pod.Namespace, pod.Name, node.Name)
	}
	return nil
}

// usualContainer is the container whose log is meant where none is named, as for kubectl.
func usualContainer(pod *corev1.Pod) string {
	name := pod.Annotations["kubectl.kubernetes.io/default-container"]
	for _, c := range pod.Spec.Containers {
		if c.Name == name {
			return name
		}
	}
	if len(pod.Spec.Containers) > 0 {
		return pod.Spec.Containers[0].Name
	}
	return ""
}
