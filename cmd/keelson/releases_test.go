package main

import (
	"context"
	"fmt"
	"strings"
	"testing"

	helmv2 "github.com/fluxcd/helm-controller/api/v2"
	sourcev1 "github.com/fluxcd/source-controller/api/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

// chartSources is a cluster with HelmRepositories, and the HelmChart "web" of the one called "oci".
type chartSources struct{ client.Client }

func (chartSources) Get(_ context.Context, key client.ObjectKey, into client.Object, _ ...client.GetOption) error {
	into.SetName(key.Name)
	into.SetNamespace(key.Namespace)
	switch obj := into.(type) {
	case *sourcev1.HelmRepository:
		if strings.HasPrefix(key.Name, "oci") {
			obj.Spec.Type = sourcev1.HelmRepositoryTypeOCI
		}
		obj.Spec.Suspend = strings.HasSuffix(key.Name, "suspended")
	case *sourcev1.HelmChart:
		obj.Spec.SourceRef = sourcev1.LocalHelmChartSourceReference{Kind: sourcev1.HelmRepositoryKind, Name: key.Name}
	}
	return nil
}

// A registry has no index that could be asked for: reconciling the HelmRelease, or its HelmChart, asks it.
func TestSourcesOfRelease(t *testing.T) {
	for _, c := range []struct{ chart, ref, want string }{
		{"http", "", "HelmRepository http"},
		{"oci", "", ""},
		{"oci-suspended", "", "source HelmRepository team/oci-suspended is suspended"},
		{"", "http", "HelmRepository http, HelmChart http"},
		{"", "oci", "HelmChart oci"},
	} {
		hr := &helmv2.HelmRelease{ObjectMeta: metav1.ObjectMeta{Namespace: "team", Name: "web"}}
		if c.chart != "" {
			hr.Spec.Chart = &helmv2.HelmChartTemplate{Spec: helmv2.HelmChartTemplateSpec{
				SourceRef: helmv2.CrossNamespaceObjectReference{Kind: sourcev1.HelmRepositoryKind, Name: c.chart},
			}}
		} else {
			hr.Spec.ChartRef = &helmv2.CrossNamespaceSourceReference{Kind: sourcev1.HelmChartKind, Name: c.ref}
		}
		sources, err := sourcesOfRelease(t.Context(), chartSources{}, hr)
		var got []string
		for _, src := range sources {
			_, kind, _ := strings.Cut(fmt.Sprintf("%T", src), ".")
			got = append(got, kind+" "+src.GetName())
		}
		if err != nil {
			got = []string{err.Error()}
		}
		if text := strings.Join(got, ", "); text != c.want {
			t.Errorf("chart %q, ref %q: %q, want %q", c.chart, c.ref, text, c.want)
		}
	}
}
