package realnode

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
)

const bindingName = "keelson:kubelet-api-admin"

// Bootstrap lets the API server, which is user, ask the kubelet for logs and
// shells, and removes the volumes below dir whose claims have gone: a directory
// for each PersistentVolume stays.
func Bootstrap(ctx context.Context, client kubernetes.Interface, user, dir string) error {
	_, err := client.RbacV1().ClusterRoleBindings().Create(ctx, &rbacv1.ClusterRoleBinding{
		ObjectMeta: metav1.ObjectMeta{Name: bindingName},
		RoleRef:    rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: "system:kubelet-api-admin"},
		Subjects:   []rbacv1.Subject{{APIGroup: rbacv1.GroupName, Kind: rbacv1.UserKind, Name: user}},
	}, metav1.CreateOptions{})
	if err != nil && !apierrors.IsAlreadyExists(err) {
		return fmt.Errorf("rights of %s: %w", user, err)
	}
	entries, err := os.ReadDir(dir)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("volumes: %w", err)
	}
	volumes, err := client.CoreV1().PersistentVolumes().List(ctx, metav1.ListOptions{})
	if err != nil {
		return fmt.Errorf("list volumes: %w", err)
	}
	used := map[string]bool{}
	for _, volume := range volumes.Items {
		used[volume.Name] = true
	}
	for _, entry := range entries {
		if used[entry.Name()] {
			continue
		}
		if err := os.RemoveAll(filepath.Join(dir, entry.Name())); err != nil {
			return fmt.Errorf("remove volume: %w", err)
		}
	}
	return nil
}

// Ready returns nil once the kubelet of this run, which began at since, says that
// the node at that address is ready, and pods can be scheduled on it.
func Ready(ctx context.Context, client kubernetes.Interface, address string, since time.Time) error {
	node, err := client.CoreV1().Nodes().Get(ctx, Name, metav1.GetOptions{})
	if err != nil {
		return err
	}
	for _, a := range node.Status.Addresses {
		if a.Type == corev1.NodeInternalIP && a.Address != address {
			return fmt.Errorf("%s still has the address %s", Name, a.Address)
		}
	}
	for _, taint := range node.Spec.Taints {
		if taint.Key == corev1.TaintNodeNotReady || taint.Key == corev1.TaintNodeUnreachable {
			return fmt.Errorf("%s has the taint %s", Name, taint.Key)
		}
	}
	for _, condition := range node.Status.Conditions {
		if condition.Type != corev1.NodeReady {
			continue
		}
		if condition.LastHeartbeatTime.Time.Before(since.Truncate(time.Second)) {
			return fmt.Errorf("%s has not been heard of since the start", Name)
		}
		if condition.Status != corev1.ConditionTrue {
			return fmt.Errorf("%s is not ready: %s", Name, condition.Message)
		}
		return nil
	}
	return fmt.Errorf("%s says nothing yet", Name)
}

// Forget removes the node of an earlier run from the cluster, and with it its pods.
func Forget(ctx context.Context, client kubernetes.Interface) error {
	err := client.CoreV1().Nodes().Delete(ctx, Name, metav1.DeleteOptions{})
	if err != nil && !apierrors.IsNotFound(err) {
		return fmt.Errorf("remove node %s: %w", Name, err)
	}
	return nil
}
