package kwoknodes

import (
	"context"
	"fmt"
	"runtime"

	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	storagev1 "k8s.io/api/storage/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"

	"keelson.dev/keelson/cluster/internal/kubeversion"
)

const (
	nodeAnnotation      = "kwok.x-k8s.io/node" // KWOK manages the nodes that carry it
	nodeAnnotationValue = "fake"
	nodeLabel           = "keelson.dev/simulated" // the nodes this package creates and deletes
	storageClass        = "standard"
	provisioner         = "keelson.dev/simulated"
	roleName            = "keelson:kwok"
)

// Bootstrap brings the cluster to n nodes, named node-1 to node-n, and makes
// sure that KWOK's user may do its work and that a default StorageClass exists.
// Nodes of ours beyond n are deleted; anything else in the cluster is left alone.
func Bootstrap(ctx context.Context, client kubernetes.Interface, user string, n int) error {
	if err := ensureRole(ctx, client, user); err != nil {
		return fmt.Errorf("rights of %s: %w", user, err)
	}
	if err := ensureStorageClass(ctx, client); err != nil {
		return fmt.Errorf("storage class: %w", err)
	}
	if err := ensureNodes(ctx, client, n); err != nil {
		return fmt.Errorf("nodes: %w", err)
	}
	return nil
}

// Ready returns nil once n nodes are Ready and pods can be scheduled on them,
// and the default namespace takes pods: its service account exists.
func Ready(ctx context.Context, client kubernetes.Interface, n int) error {
	nodes, err := client.CoreV1().Nodes().List(ctx, metav1.ListOptions{LabelSelector: nodeLabel})
	if err != nil {
		return err
	}
	ready := 0
	for i := range nodes.Items {
		if schedulable(&nodes.Items[i]) {
			ready++
		}
	}
	if ready < n {
		return fmt.Errorf("%d of %d nodes are ready", ready, n)
	}
	_, err = client.CoreV1().ServiceAccounts(metav1.NamespaceDefault).Get(ctx, "default", metav1.GetOptions{})
	return err
}

func schedulable(node *corev1.Node) bool {
	for _, taint := range node.Spec.Taints {
		if taint.Key == corev1.TaintNodeNotReady || taint.Key == corev1.TaintNodeUnreachable {
			return false
		}
	}
	for _, condition := range node.Status.Conditions {
		if condition.Type == corev1.NodeReady {
			return condition.Status == corev1.ConditionTrue
		}
	}
	return false
}

func ensureNodes(ctx context.Context, client kubernetes.Interface, n int) error {
	nodes := client.CoreV1().Nodes()
	existing, err := nodes.List(ctx, metav1.ListOptions{LabelSelector: nodeLabel})
	if err != nil {
		return fmt.Errorf("list: %w", err)
	}
	surplus := map[string]bool{}
	for _, node := range existing.Items {
		surplus[node.Name] = true
	}
	for i := 1; i <= n; i++ {
		node := node(i)
		if surplus[node.Name] {
			delete(surplus, node.Name)
			continue
		}
		if _, err := nodes.Create(ctx, node, metav1.CreateOptions{}); err != nil {
			return fmt.Errorf("create %s: %w", node.Name, err)
		}
	}
	for name := range surplus {
		if err := nodes.Delete(ctx, name, metav1.DeleteOptions{}); err != nil && !apierrors.IsNotFound(err) {
			return fmt.Errorf("delete %s: %w", name, err)
		}
	}
	return nil
}

// node returns the i-th node. It has room for whatever is scheduled in practice
// but is not infinite: a pod that asks for more than 1000 CPUs is unschedulable.
// It has no InternalIP on purpose: with one, `kubectl logs` would try to reach a
// kubelet there and hang, instead of failing with a clear message.
func node(i int) *corev1.Node {
	name := fmt.Sprintf("node-%d", i)
	room := corev1.ResourceList{
		corev1.ResourceCPU:              resource.MustParse("1000"),
		corev1.ResourceMemory:           resource.MustParse("1Ti"),
		corev1.ResourceEphemeralStorage: resource.MustParse("1Ti"),
		corev1.ResourcePods:             resource.MustParse("100000"),
	}
	return &corev1.Node{
		ObjectMeta: metav1.ObjectMeta{
			Name: name,
			Labels: map[string]string{
				nodeLabel:                "true",
				corev1.LabelHostname:     name,
				corev1.LabelOSStable:     "linux",
				corev1.LabelArchStable:   runtime.GOARCH,
				corev1.LabelTopologyZone: "local",
			},
			Annotations: map[string]string{nodeAnnotation: nodeAnnotationValue},
		},
		Status: corev1.NodeStatus{
			Capacity:    room,
			Allocatable: room,
			NodeInfo: corev1.NodeSystemInfo{
				OperatingSystem:         "linux",
				Architecture:            runtime.GOARCH,
				KubeletVersion:          kubeversion.Kubernetes(),
				ContainerRuntimeVersion: "kwok://" + kubeversion.Of("sigs.k8s.io/kwok"),
				OSImage:                 "simulated by KWOK",
			},
		},
	}
}

func ensureStorageClass(ctx context.Context, client kubernetes.Interface) error {
	reclaim, binding := corev1.PersistentVolumeReclaimDelete, storagev1.VolumeBindingImmediate
	_, err := client.StorageV1().StorageClasses().Create(ctx, &storagev1.StorageClass{
		ObjectMeta: metav1.ObjectMeta{
			Name:        storageClass,
			Annotations: map[string]string{"storageclass.kubernetes.io/is-default-class": "true"},
		},
		Provisioner:       provisioner,
		ReclaimPolicy:     &reclaim,
		VolumeBindingMode: &binding,
	}, metav1.CreateOptions{})
	if apierrors.IsAlreadyExists(err) {
		return nil // the owner of the cluster may have made another one the default
	}
	return err
}

// ensureRole gives KWOK's user what a kubelet and a volume provisioner need.
func ensureRole(ctx context.Context, client kubernetes.Interface, user string) error {
	rule := func(group string, resources []string, verbs ...string) rbacv1.PolicyRule {
		return rbacv1.PolicyRule{APIGroups: []string{group}, Resources: resources, Verbs: verbs}
	}
	role := &rbacv1.ClusterRole{
		ObjectMeta: metav1.ObjectMeta{Name: roleName},
		Rules: []rbacv1.PolicyRule{
			rule("", []string{"nodes", "persistentvolumeclaims"}, "get", "list", "watch"),
			rule("", []string{"nodes/status", "pods/status"}, "patch", "update"),
			rule("", []string{"pods"}, "get", "list", "watch", "patch", "update", "delete"),
			rule("", []string{"persistentvolumes"}, "get", "list", "watch", "create", "patch", "delete"),
			rule("", []string{"events"}, "create", "patch"),
			rule("events.k8s.io", []string{"events"}, "create", "patch"),
		},
	}
	roles := client.RbacV1().ClusterRoles()
	if _, err := roles.Create(ctx, role, metav1.CreateOptions{}); apierrors.IsAlreadyExists(err) {
		if _, err := roles.Update(ctx, role, metav1.UpdateOptions{}); err != nil {
			return fmt.Errorf("update role: %w", err)
		}
	} else if err != nil {
		return fmt.Errorf("create role: %w", err)
	}
	_, err := client.RbacV1().ClusterRoleBindings().Create(ctx, &rbacv1.ClusterRoleBinding{
		ObjectMeta: metav1.ObjectMeta{Name: roleName},
		RoleRef:    rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: roleName},
		Subjects:   []rbacv1.Subject{{APIGroup: rbacv1.GroupName, Kind: rbacv1.UserKind, Name: user}},
	}, metav1.CreateOptions{})
	if err != nil && !apierrors.IsAlreadyExists(err) {
		return fmt.Errorf("create role binding: %w", err)
	}
	return nil
}
