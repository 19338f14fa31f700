package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"sync"
	"time"

	helmv2 "github.com/fluxcd/helm-controller/api/v2"
	kustomizev1 "github.com/fluxcd/kustomize-controller/api/v1"
	notificationv1beta3 "github.com/fluxcd/notification-controller/api/v1beta3"
	sourcev1 "github.com/fluxcd/source-controller/api/v1"
	authenticationv1 "k8s.io/api/authentication/v1"
	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	"sigs.k8s.io/controller-runtime/pkg/client"

	argocdv1 "keelson.dev/keelson/api/argocd/v1alpha1"
	keelsonv1 "keelson.dev/keelson/api/v1alpha1"
	"keelson.dev/keelson/internal/kube"
)

var crdKind = schema.GroupVersionKind{Group: "apiextensions.k8s.io", Version: "v1", Kind: "CustomResourceDefinition"}

// restConfig finds the cluster: --kubeconfig, else the instance's, else what kubectl would use
// (KUBECONFIG, ~/.kube/config, the service account inside a cluster).
func (g *global) restConfig() (*rest.Config, error) {
	if g.server != "" {
		return nil, usagef("this command asks the cluster itself, so --server is not for it: name the cluster with --kubeconfig")
	}
	path := g.kubeconfig
	if path == "" {
		inst, err := readInstance(g.data)
		switch {
		case err == nil && inst.Kubeconfig != "":
			path = inst.Kubeconfig
		case err == nil || g.dataGiven && errors.Is(err, fs.ErrNotExist):
			return nil, hintf(fmt.Errorf("there is no cluster in %s yet", g.data), "keelson up --data %s starts one", g.data)
		case !errors.Is(err, fs.ErrNotExist):
			return nil, err
		}
	}
	return loadKubeconfig(path)
}

// loadKubeconfig reads a kubeconfig file; an empty path looks where kubectl looks.
func loadKubeconfig(path string) (*rest.Config, error) {
	rules := clientcmd.NewDefaultClientConfigLoadingRules()
	rules.ExplicitPath = path
	config, err := clientcmd.NewNonInteractiveDeferredLoadingClientConfig(rules, nil).ClientConfig()
	switch {
	case err == nil:
	case clientcmd.IsEmptyConfig(err):
		return nil, hintf(errors.New("no cluster was named, and no instance of keelson was found"),
			"keelson up starts one; --data names another instance's directory, --kubeconfig another cluster")
	default:
		return nil, fmt.Errorf("read kubeconfig: %w", err)
	}
	config.QPS, config.Burst = -1, -1 // the server's own flow control is the limit
	config.UserAgent = kube.FieldManager + "/" + version
	return config, nil
}

func (g *global) client() (client.WithWatch, error) {
	config, err := g.restConfig()
	if err != nil {
		return nil, err
	}
	return newClient(config)
}

// connect gives the cluster in both ways that commands use it: by Go types, and by whatever kinds it serves.
func (g *global) connect() (client.WithWatch, *kube.Cluster, error) {
	config, err := g.restConfig()
	if err != nil {
		return nil, nil, err
	}
	c, err := newClient(config)
	if err != nil {
		return nil, nil, err
	}
	cluster, err := kube.NewCluster(config)
	return c, cluster, err
}

// newClient makes a client for the kinds that the commands touch. Their resources are known, so nothing is discovered.
func newClient(config *rest.Config) (client.WithWatch, error) {
	return newClientOn(config, nil)
}

// newClientOn is newClient by an HTTP client that is there already; nil: by one of its own.
func newClientOn(config *rest.Config, by *http.Client) (client.WithWatch, error) {
	known, err := clientKinds()
	if err != nil {
		return nil, err
	}
	c, err := client.NewWithWatch(config, client.Options{HTTPClient: by, Scheme: known.scheme, Mapper: known.mapper})
	if err != nil {
		return nil, fmt.Errorf("make client: %w", err)
	}
	return c, nil
}

// knownKinds are the kinds that the commands touch.
type knownKinds struct {
	scheme *runtime.Scheme
	mapper meta.RESTMapper
}

var clientKinds = sync.OnceValues(func() (knownKinds, error) {
	scheme := runtime.NewScheme()
	if err := errors.Join(corev1.AddToScheme(scheme), coordinationv1.AddToScheme(scheme), kustomizev1.AddToScheme(scheme), sourcev1.AddToScheme(scheme),
		argocdv1.AddToScheme(scheme), keelsonv1.AddToScheme(scheme), helmv2.AddToScheme(scheme), notificationv1beta3.AddToScheme(scheme), authenticationv1.AddToScheme(scheme)); err != nil {
		return knownKinds{}, fmt.Errorf("make client: %w", err)
	}
	mapper := meta.NewDefaultRESTMapper(nil)
	mapper.Add(corev1.SchemeGroupVersion.WithKind("Namespace"), meta.RESTScopeRoot)
	mapper.Add(corev1.SchemeGroupVersion.WithKind("Node"), meta.RESTScopeRoot)
	mapper.Add(coordinationv1.SchemeGroupVersion.WithKind("Lease"), meta.RESTScopeNamespace)
	mapper.Add(crdKind, meta.RESTScopeRoot)
	mapper.Add(rbacv1.SchemeGroupVersion.WithKind("ClusterRoleBinding"), meta.RESTScopeRoot)
	mapper.Add(authenticationv1.SchemeGroupVersion.WithKind("SelfSubjectReview"), meta.RESTScopeRoot)
	for _, kind := range []string{"Event", "ConfigMap", "Secret", "ServiceAccount", "Pod"} {
		mapper.Add(corev1.SchemeGroupVersion.WithKind(kind), meta.RESTScopeNamespace)
	}
	mapper.Add(keelsonv1.GroupVersion.WithKind(keelsonv1.ProjectKind), meta.RESTScopeNamespace)
	mapper.Add(kustomizev1.GroupVersion.WithKind(kustomizev1.KustomizationKind), meta.RESTScopeNamespace)
	mapper.Add(helmv2.GroupVersion.WithKind(helmv2.HelmReleaseKind), meta.RESTScopeNamespace)
	for _, kind := range []string{notificationv1beta3.AlertKind, notificationv1beta3.ProviderKind} {
		mapper.Add(notificationv1beta3.GroupVersion.WithKind(kind), meta.RESTScopeNamespace)
	}
	for _, kind := range []string{sourcev1.GitRepositoryKind, sourcev1.OCIRepositoryKind, sourcev1.HelmRepositoryKind, sourcev1.HelmChartKind} {
		mapper.Add(sourcev1.GroupVersion.WithKind(kind), meta.RESTScopeNamespace)
	}
	for _, kind := range []string{argocdv1.ApplicationKind, argocdv1.AppProjectKind, argocdv1.ApplicationSetKind} {
		mapper.Add(argocdv1.GroupVersion.WithKind(kind), meta.RESTScopeNamespace)
	}
	return knownKinds{scheme, mapper}, nil
})

// explainAPI adds to an error of the API what can be done about it.
func explainAPI(err error) error {
	switch {
	case err == nil:
		return nil
	case meta.IsNoMatchError(err) || isMissingKind(err):
		return hintf(err, "the cluster lacks Keelson's resource definitions: kubectl apply -f config/crd, or keelson up")
	case isUnreachable(err):
		return hintf(err, "keelson up starts the instance; --data names another instance's directory, --kubeconfig another cluster")
	default:
		return err
	}
}

// poll asks again and again, every interval, until done says so or ctx ends.
func poll(ctx context.Context, interval time.Duration, done func(context.Context) (bool, error)) error {
	tick := time.NewTicker(interval)
	defer tick.Stop()
	for {
		if ok, err := done(ctx); ok || err != nil {
			return err
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-tick.C:
		}
	}
}
