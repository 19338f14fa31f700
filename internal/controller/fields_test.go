package controller_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"keelson.dev/keelson/internal/delivery"
)

// TestFieldsThatShapeObjects: what the Kustomization adds to names and metadata is in the cluster; common metadata wins over
// what an object has itself, but never over the labels that tell whose it is.
func TestFieldsThatShapeObjects(t *testing.T) {
	w := newWorld(t)
	w.app("app", `
  namePrefix: eu-
  nameSuffix: -blue
  buildMetadata: [originAnnotations]
  commonMetadata:
    labels: {team: shop, kustomize.toolkit.fluxcd.io/name: other}
    annotations: {owner: "7"}
`)
	w.ready("app", w.push(map[string]string{"app/a.yaml": strings.Replace(w.configMap("a", "1"), "namespace:", "labels: {team: own, tier: low}, namespace:", 1)}))
	var cm corev1.ConfigMap
	w.must(w.client.Get(w.ctx, client.ObjectKey{Namespace: w.ns, Name: "eu-a-blue"}, &cm))
	want := map[string]string{
		"team": "shop", "tier": "low", "kustomize.toolkit.fluxcd.io/name": "app", "kustomize.toolkit.fluxcd.io/namespace": w.ns,
	}
	if diff := cmp.Diff(want, cm.Labels); diff != "" {
		t.Errorf("labels (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff(map[string]string{"owner": "7", "config.kubernetes.io/origin": "path: a.yaml\n"}, cm.Annotations); diff != "" {
		t.Errorf("annotations (-want +got):\n%s", diff)
	}
}

func TestStrictSubstitution(t *testing.T) {
	w := newWorld(t)
	w.app("app", "\n  postBuild: {substitute: {given: x}}\n")
	w.push(map[string]string{"app/a.yaml": w.configMap("a", "${given}${absent}")})
	w.condition("app", metav1.ConditionFalse, "BuildFailed", "app/a.yaml", `variable not set (strict mode): "absent"`)
	w.ready("app", w.push(map[string]string{"app/a.yaml": w.configMap("a", "${given}${absent:-y}")}))
	w.value("a", "xy")
}

// govern restarts the controller under a policy, until the test ends.
func (w *world) govern(policy delivery.Policy) {
	w.Helper()
	restart := func(p delivery.Policy) {
		running.stop()
		running.policy = p
		w.must(running.start())
	}
	w.Cleanup(func() { restart(delivery.Policy{}) })
	restart(policy)
}

// TestPolicy: what the operator decides holds for all apps.
func TestPolicy(t *testing.T) {
	other := newWorld(t)
	w := newWorld(t)
	w.govern(delivery.Policy{NoCrossNamespaceRefs: true, DefaultServiceAccount: "tenant", LenientSubstitution: true})
	w.push(map[string]string{"app/a.yaml": w.configMap("a", "<${absent}>")})
	w.apply(fmt.Sprintf(`
apiVersion: kustomize.toolkit.fluxcd.io/v1
kind: Kustomization
metadata: {name: foreign}
spec: {interval: 1h, prune: true, sourceRef: {kind: GitRepository, name: repo, namespace: %s}}
`, other.ns))
	c := w.condition("foreign", metav1.ConditionFalse, "AccessDenied", "can't access 'GitRepository/"+other.ns+"/repo', cross-namespace references have been blocked")
	stalled := false
	for _, s := range w.kustomization("foreign").Status.Conditions {
		stalled = stalled || s.Type == "Stalled" && s.Status == metav1.ConditionTrue && s.Reason == c.Reason
	}
	if !stalled {
		t.Error("an app that only another spec can help is not Stalled")
	}
	w.app("app", "  postBuild: {substituteStrategy: Always}")
	w.condition("app", metav1.ConditionFalse, "Forbidden", "system:serviceaccount:"+w.ns+":tenant")
	w.apply(`
apiVersion: v1
kind: ServiceAccount
metadata: {name: tenant}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: RoleBinding
metadata: {name: tenant}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: cluster-admin}
subjects: [{kind: ServiceAccount, name: tenant}]
`)
	w.ready("app", "main@sha1:"+w.head)
	w.value("a", "<>")
}

// TestEncryptedSecret: what is encrypted with SOPS is named, and neither applied nor told.
func TestEncryptedSecret(t *testing.T) {
	w := newWorld(t)
	w.app("app", "")
	secret := fmt.Sprintf("apiVersion: v1\nkind: Secret\nmetadata: {name: s, namespace: %s}\ndata: {k: ENC}\nsops: {mac: x}\n", w.ns)
	w.push(map[string]string{"app/s.yaml": secret})
	w.condition("app", metav1.ConditionFalse, "ReconciliationFailed", "app/s.yaml", "encrypted with SOPS")
	w.app("decrypting", "  decryption: {provider: sops}")
	w.condition("decrypting", metav1.ConditionFalse, "FieldsNotSupported", "spec.decryption: not supported yet", "leave it to Flux")
}
