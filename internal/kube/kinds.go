package kube

import (
	"fmt"
	"net/http"
	"strings"
	"sync"

	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/rest"
	"sigs.k8s.io/controller-runtime/pkg/client/apiutil"
)

// kinds maps kinds to resources as the server offered them when it was last asked. A kind that it does not know it asks the
// server for; that one has gone, or is no longer served in some version, shows only after forget. It is safe for concurrent use.
type kinds struct {
	config *rest.Config
	http   *http.Client

	mu    sync.RWMutex
	now   meta.RESTMapper
	found map[schema.GroupVersionKind]*meta.RESTMapping // what now has given; looking it up there takes long
}

func newKinds(config *rest.Config, httpClient *http.Client) (*kinds, error) {
	k := &kinds{config: config, http: httpClient}
	return k, k.forget()
}

// forget has everything asked for anew. It makes no request by itself.
func (k *kinds) forget() error {
	fresh, err := apiutil.NewDynamicRESTMapper(k.config, k.http)
	if err != nil {
		return fmt.Errorf("make REST mapper: %w", err)
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	k.now, k.found = fresh, map[schema.GroupVersionKind]*meta.RESTMapping{}
	return nil
}

func (k *kinds) mapper() meta.RESTMapper {
	k.mu.RLock()
	defer k.mu.RUnlock()
	return k.now
}

// The methods of a [meta.RESTMapper].

func (k *kinds) KindFor(r schema.GroupVersionResource) (schema.GroupVersionKind, error) {
	return k.mapper().KindFor(r)
}

func (k *kinds) KindsFor(r schema.GroupVersionResource) ([]schema.GroupVersionKind, error) {
	return k.mapper().KindsFor(r)
}

func (k *kinds) ResourceFor(r schema.GroupVersionResource) (schema.GroupVersionResource, error) {
	return k.mapper().ResourceFor(r)
}

func (k *kinds) ResourcesFor(r schema.GroupVersionResource) ([]schema.GroupVersionResource, error) {
	return k.mapper().ResourcesFor(r)
}

func (k *kinds) RESTMapping(gk schema.GroupKind, versions ...string) (*meta.RESTMapping, error) {
	wanted := gk.WithVersion(strings.Join(versions, " "))
	k.mu.RLock()
	mapper, known := k.now, k.found[wanted]
	k.mu.RUnlock()
	if known != nil {
		m := *known
		return &m, nil
	}
	m, err := mapper.RESTMapping(gk, versions...)
	if err != nil {
		return nil, err
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	if mapper == k.now { // else everything was forgotten meanwhile
		kept := *m
		k.found[wanted] = &kept
	}
	return m, nil
}

func (k *kinds) RESTMappings(gk schema.GroupKind, versions ...string) ([]*meta.RESTMapping, error) {
	return k.mapper().RESTMappings(gk, versions...)
}

func (k *kinds) ResourceSingularizer(resource string) (string, error) {
	return k.mapper().ResourceSingularizer(resource)
}
