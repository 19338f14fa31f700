package main

import (
	"cmp"
	"context"
	"fmt"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/controller-runtime/pkg/client"

	argocdv1 "keelson.dev/keelson/api/argocd/v1alpha1"
	"keelson.dev/keelson/internal/delivery"
	"keelson.dev/keelson/internal/dialect"
	"keelson.dev/keelson/internal/health"
	"keelson.dev/keelson/internal/lua"
)

// judges tell how objects are doing by the rules of whose they are: those of an Application, and what was made from them, by Argo
// CD's and by the scripts in its settings, as the Application's status does; all others by kstatus.
type judges struct {
	client  client.Reader
	scripts *lua.Pool
	argo    map[string]*health.Rules // by the namespace of the settings
}

// newJudges makes judges for one command. The caller closes them.
func newJudges(c client.Reader) *judges {
	return &judges{client: c, scripts: lua.NewPool(), argo: map[string]*health.Rules{}}
}

func (j *judges) close() { j.scripts.Close() }

// of gives the rules for what an app owns; nil: kstatus decides. Who may not read Argo CD's settings does without their scripts.
func (j *judges) of(ctx context.Context, app foundApp) (*health.Rules, error) {
	if app.argo == nil {
		return nil, nil //nolint:nilnil // nil Rules say nothing
	}
	namespace, _, err := argoProject(ctx, j.client, app.argo)
	switch {
	case apierrors.IsForbidden(err):
		namespace = dialect.ArgoNamespace
	case err != nil:
		return nil, err
	}
	if rules, ok := j.argo[namespace]; ok {
		return rules, nil
	}
	var m corev1.ConfigMap
	err = j.client.Get(ctx, client.ObjectKey{Namespace: namespace, Name: dialect.ArgoConfigMap}, &m)
	if err != nil && !apierrors.IsNotFound(err) && !apierrors.IsForbidden(err) {
		return nil, fmt.Errorf("read ConfigMap %s/%s: %w", namespace, dialect.ArgoConfigMap, err)
	}
	scripts, _ := dialect.ArgoHealthOverrides(m.Data) // what is wrong with them the controllers say
	j.argo[namespace] = health.NewArgo(scripts, j.scripts.Judge)
	return j.argo[namespace], nil
}

// judge tells how an object is doing by an app's rules. Of a Pod that is not healthy it says which container is at fault and why.
func judge(rules *health.Rules, u *unstructured.Unstructured) delivery.Health {
	pod := u.GetKind() == "Pod" && u.GroupVersionKind().Group == ""
	if rules == nil {
		switch {
		case pod:
			return health.OfPod(u)
		case u.GetKind() == argocdv1.ApplicationKind && u.GroupVersionKind().Group == argocdv1.GroupVersion.Group:
			rules = health.NewArgo(nil, nil) // it has none of the conditions that kstatus knows
		default:
			return health.Of(u)
		}
	}
	h := rules.Of(u)
	switch {
	case h.Status == delivery.Healthy:
		h.Message = "" // Argo CD says of some what makes them so
	case pod:
		h.Message = cmp.Or(health.OfPod(u).Message, h.Message)
	}
	return h
}
