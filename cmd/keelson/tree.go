package main

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/spf13/cobra"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"keelson.dev/keelson/internal/delivery"
	"keelson.dev/keelson/internal/health"
	"keelson.dev/keelson/internal/kube"
	"keelson.dev/keelson/internal/redact"
	"keelson.dev/keelson/internal/web"
)

func treeCommand(g *global) *cobra.Command {
	return &cobra.Command{
		Use:   "tree APP",
		Short: "Show what an app consists of, down to its Pods, and how each object is doing",
		Long: `Tree shows the objects of an app's inventory, what was made from them (ReplicaSets, Jobs, Pods, …, by their owner references), and
how each of them is doing, by the rules of the app's dialect: where a Pod is not healthy, which container is at fault and why, and what the last warning about the
object says. An app that declares other apps shows theirs below them. What an old ReplicaSet has left is shown with -o wide.`,
		Args: args(cobra.ExactArgs(1)),
		RunE: func(cmd *cobra.Command, a []string) error { return runTree(cmd.Context(), g, a[0]) },
	}
}

// node is one object of a tree.
type node struct {
	Object   string                `json:"object"`            // "Deployment/dev/web"
	Health   delivery.HealthStatus `json:"health,omitempty"`  // none: Argo CD's rules give its kind none
	Message  string                `json:"message,omitempty"` // why it is not healthy
	Event    string                `json:"event,omitempty"`   // the last warning about an object that is not healthy
	Revision string                `json:"revision,omitempty"`
	Children []*node               `json:"children,omitempty"`

	ref     delivery.Ref
	version string // of its API
	owned   bool   // it is in the inventory of an app
	created time.Time
	ready   string // "2/3"
}

func runTree(ctx context.Context, g *global, arg string) error {
	config, err := g.restConfig()
	if err != nil {
		return err
	}
	c, err := newClient(config)
	if err != nil {
		return err
	}
	app, err := findApp(ctx, c, g.namespace, arg)
	if err != nil {
		return err
	}
	cluster, err := kube.NewCluster(config)
	if err != nil {
		return err
	}
	doing := newJudges(c)
	defer doing.close()
	f := newForest(c, cluster.Self(), doing)
	f.all = g.output == "wide"
	root, err := f.app(ctx, app)
	if err != nil {
		return explainAPI(err)
	}
	return g.print(root, func(w io.Writer) error { return root.write(w) })
}

// madeKinds are the kinds that controllers make from others.
var madeKinds = []schema.GroupVersionKind{
	{Group: "apps", Version: "v1", Kind: "Deployment"}, {Group: "apps", Version: "v1", Kind: "ReplicaSet"},
	{Group: "apps", Version: "v1", Kind: "StatefulSet"}, {Group: "apps", Version: "v1", Kind: "DaemonSet"},
	{Group: "batch", Version: "v1", Kind: "Job"}, {Version: "v1", Kind: "Pod"},
	{Version: "v1", Kind: "PersistentVolumeClaim"}, {Version: "v1", Kind: "Service"},
}

// forest grows the trees of one command, or of one request. What it lists it lists once per namespace.
type forest struct {
	client client.Client
	judges *judges
	user   *kube.User
	all    bool // ReplicaSets without Pods too
	most   int  // objects of inventories that are read, and objects of a kind and namespace that are listed; 0: all
	taken  int  // of most
	cut    bool // there was more
	seen   map[delivery.ID]bool
	listed map[string]bool // namespaces
	owned  map[types.UID][]*unstructured.Unstructured
	events map[string]map[types.UID]string // the last warning about an object, by namespace
}

func newForest(c client.Client, user *kube.User, doing *judges) *forest {
	return &forest{
		client: c, judges: doing, user: user, seen: map[delivery.ID]bool{},
		owned: map[types.UID][]*unstructured.Unstructured{}, listed: map[string]bool{}, events: map[string]map[types.UID]string{},
	}
}

// app gives an app and all below it. One that was shown already, above or elsewhere, is only named.
func (f *forest) app(ctx context.Context, app foundApp) (*node, error) {
	status := app.shown().Status
	gvk := app.gvk()
	n := &node{
		Object: app.id().String(), Health: healthOf(status), Revision: shortRevision(status.Revision), version: gvk.Version, created: status.Created,
		ref: delivery.Ref{Group: gvk.Group, Kind: gvk.Kind, Namespace: status.Namespace, Name: status.Name},
	}
	if n.Health != delivery.Healthy {
		n.Message = message(status, true)
	}
	if f.seen[app.id()] {
		return n, nil
	}
	f.seen[app.id()] = true
	inv := f.bounded(app.owned())
	if app.elsewhere() {
		known := app.told()
		for _, ref := range inv.Refs() {
			child := &node{Object: ref.String(), Health: delivery.UnknownHealth, Message: "in another cluster", ref: ref, version: inv[ref], owned: true}
			if h := known[ref]; h.Status != "" {
				child.Health, child.Message = h.Status, strings.Trim(child.Message+": "+redact.Text(h.Message), ": ")
			}
			n.Children = append(n.Children, child)
		}
		return n, nil
	}
	objects, err := f.read(ctx, inv)
	if err != nil {
		return nil, err
	}
	rules, err := f.judges.of(ctx, app)
	if err != nil {
		return nil, err
	}
	for _, ref := range inv.Refs() {
		child, err := f.object(ctx, rules, ref, objects[ref])
		if err != nil {
			return nil, err
		}
		child.owned, child.version = true, cmp.Or(child.version, inv[ref])
		n.Children = append(n.Children, child)
	}
	return n, nil
}

// bounded gives as much of an inventory as is read.
func (f *forest) bounded(inv delivery.Inventory) delivery.Inventory {
	if f.most == 0 || len(inv) <= f.most-f.taken {
		f.taken += len(inv)
		return inv
	}
	f.cut = true
	out := delivery.Inventory{}
	for _, ref := range inv.Refs()[:max(f.most-f.taken, 0)] {
		out[ref] = inv[ref]
	}
	f.taken = f.most
	return out
}

func healthOf(s web.Status) delivery.HealthStatus {
	switch s.State {
	case web.Ready:
		return delivery.Healthy
	case web.Failing:
		return delivery.Degraded
	case web.Suspended:
		return delivery.Suspended
	case web.Working, web.OutOfSync:
		return delivery.Progressing
	default:
		return delivery.UnknownHealth
	}
}

// object gives an object of an inventory and what was made from it; nil: it is not there.
func (f *forest) object(ctx context.Context, rules *health.Rules, ref delivery.Ref, found foundObject) (*node, error) {
	u := found.object
	if found.forbidden {
		return &node{Object: ref.String(), Health: delivery.UnknownHealth, Message: "you may not read it", ref: ref}, nil
	}
	if u == nil {
		return &node{Object: ref.String(), Health: delivery.Missing, Message: "it is not in the cluster", ref: ref}, nil
	}
	app, err := readApp(ctx, f.client, ref)
	if err == nil {
		return f.app(ctx, app)
	}
	if !apierrors.IsNotFound(err) && !apierrors.IsForbidden(err) {
		return nil, fmt.Errorf("read %s: %w", ref, err)
	}
	if ref.Namespace != "" {
		if err := f.list(ctx, ref.Namespace); err != nil {
			return nil, err
		}
	}
	return f.grow(ctx, rules, u), nil
}

// grow gives an object and, below it, what names it as its controller or owner.
func (f *forest) grow(ctx context.Context, rules *health.Rules, u *unstructured.Unstructured) *node {
	h := judge(rules, u)
	n := &node{
		Object: delivery.RefOf(u).String(), Health: h.Status, Message: redact.Text(h.Message),
		ref: delivery.RefOf(u), version: u.GroupVersionKind().Version, created: u.GetCreationTimestamp().UTC(), ready: readyOf(u),
	}
	if !health.Settled(h) && h.Status != delivery.UnknownHealth {
		n.Event = f.warning(ctx, u)
	}
	for _, child := range f.owned[u.GetUID()] {
		if !f.all && spent(child) {
			continue
		}
		n.Children = append(n.Children, f.grow(ctx, rules, child))
	}
	return n
}

// spent tells whether an object is a ReplicaSet of an earlier version: it has no Pods and wants none.
func spent(u *unstructured.Unstructured) bool {
	want, _, _ := unstructured.NestedInt64(u.Object, "spec", "replicas")
	has, _, _ := unstructured.NestedInt64(u.Object, "status", "replicas")
	return u.GetKind() == "ReplicaSet" && want == 0 && has == 0
}

// readyOf tells of how many of the replicas, Pods or containers of an object are ready: "2/3"; empty: it has none.
func readyOf(u *unstructured.Unstructured) string {
	number := func(fields ...string) int64 {
		n, _, _ := unstructured.NestedInt64(u.Object, fields...)
		return n
	}
	switch u.GetKind() {
	case "Deployment", "ReplicaSet", "StatefulSet":
		want, said, _ := unstructured.NestedInt64(u.Object, "spec", "replicas")
		if !said {
			want = 1
		}
		return fmt.Sprintf("%d/%d", number("status", "readyReplicas"), want)
	case "DaemonSet":
		return fmt.Sprintf("%d/%d", number("status", "numberReady"), number("status", "desiredNumberScheduled"))
	case "Job":
		return fmt.Sprintf("%d/%d", number("status", "succeeded"), max(number("spec", "completions"), 1))
	case "Pod":
		containers, _, _ := unstructured.NestedSlice(u.Object, "spec", "containers")
		statuses, _, _ := unstructured.NestedSlice(u.Object, "status", "containerStatuses")
		ready := 0
		for _, s := range statuses {
			if m, ok := s.(map[string]any); ok && m["ready"] == true {
				ready++
			}
		}
		return fmt.Sprintf("%d/%d", ready, len(containers))
	}
	return ""
}

// readAtOnce bounds the requests that are under way at once.
const readAtOnce = 16

// foundObject is an object of an inventory; the zero one is not there.
type foundObject struct {
	object    *unstructured.Unstructured
	forbidden bool // whether it is there may not be looked at
}

// read reads the objects of an inventory.
func (f *forest) read(ctx context.Context, inv delivery.Inventory) (map[delivery.Ref]foundObject, error) {
	var (
		mu     sync.Mutex
		wg     sync.WaitGroup
		failed error
		slots  = make(chan struct{}, readAtOnce)
		out    = map[delivery.Ref]foundObject{}
	)
	for ref, version := range inv {
		slots <- struct{}{}
		wg.Go(func() {
			defer func() { <-slots }()
			u, err := f.user.Read(ctx, ref, version)
			mu.Lock()
			defer mu.Unlock()
			if err != nil && !apierrors.IsForbidden(err) {
				failed = cmp.Or(failed, err)
			}
			out[ref] = foundObject{u, apierrors.IsForbidden(err)}
		})
	}
	wg.Wait()
	return out, failed
}

// list takes in what controllers have made in a namespace. Kinds that may not be listed are left out.
func (f *forest) list(ctx context.Context, namespace string) error {
	if f.listed[namespace] {
		return nil
	}
	f.listed[namespace] = true
	for _, gvk := range madeKinds {
		resource, err := f.user.Resource(gvk, namespace)
		if err != nil {
			return fmt.Errorf("look up %s: %w", gvk.Kind, err)
		}
		list, err := resource.List(ctx, metav1.ListOptions{Limit: int64(f.most)})
		if apierrors.IsForbidden(err) {
			continue
		}
		if err != nil {
			return fmt.Errorf("list %s in %s: %w", gvk.Kind, namespace, err)
		}
		f.cut = f.cut || list.GetContinue() != ""
		for i := range list.Items {
			u := &list.Items[i]
			if owner := ownerOf(u); owner != nil {
				f.owned[owner.UID] = append(f.owned[owner.UID], u)
			}
		}
	}
	return nil
}

// ownerOf is an object's controller, else its first owner; nil: nobody owns it.
func ownerOf(u *unstructured.Unstructured) *metav1.OwnerReference {
	owners := u.GetOwnerReferences()
	if i := slices.IndexFunc(owners, func(o metav1.OwnerReference) bool { return o.Controller != nil && *o.Controller }); i >= 0 {
		return &owners[i]
	}
	if len(owners) > 0 {
		return &owners[0]
	}
	return nil
}

// warning is what the last warning about an object says; empty: there is none, or events may not be read.
func (f *forest) warning(ctx context.Context, u *unstructured.Unstructured) string {
	namespace := cmp.Or(u.GetNamespace(), metav1.NamespaceDefault)
	if f.events[namespace] == nil {
		f.events[namespace] = map[types.UID]string{}
		var list corev1.EventList
		if f.client.List(ctx, &list, client.InNamespace(namespace), client.MatchingFields{"type": corev1.EventTypeWarning}) != nil {
			return ""
		}
		slices.SortStableFunc(list.Items, func(a, b corev1.Event) int {
			return happeningOf(&a).Time.Compare(happeningOf(&b).Time)
		})
		for i := range list.Items {
			e := happeningOf(&list.Items[i])
			f.events[namespace][list.Items[i].InvolvedObject.UID] = e.Reason + ": " + strings.Join(strings.Fields(e.Message), " ")
		}
	}
	return f.events[namespace][u.GetUID()]
}

// write prints the tree with its lines; what is not healthy says why below itself.
func (n *node) write(w io.Writer) error { return n.branch(w, "", "", "") }

// branch prints a node: head before its name, stem before what is below it.
func (n *node) branch(w io.Writer, head, stem, note string) error {
	title := strings.TrimSpace(n.Object + "  " + string(n.Health))
	if n.Revision != "" {
		title += " at " + n.Revision
	}
	if _, err := fmt.Fprintf(w, "%s%s\n", head, title); err != nil {
		return err
	}
	bar := "    "
	if len(n.Children) > 0 {
		bar = "│   "
	}
	told := n.Event // it often says the same as the status
	if n.Message != "" {
		fmt.Fprintf(w, "%s%s%s\n", stem, bar, strings.Join(strings.Fields(n.Message), " "))
		if _, text, _ := strings.Cut(n.Event, ": "); strings.Contains(n.Message, text) {
			told = ""
		}
	}
	if told != "" && told != note {
		fmt.Fprintf(w, "%s%s%s\n", stem, bar, told)
	}
	for i, child := range n.Children {
		head, below := "├── ", "│   "
		if i == len(n.Children)-1 {
			head, below = "└── ", "    "
		}
		if err := child.branch(w, stem+head, stem+below, told); err != nil {
			return err
		}
	}
	return nil
}
