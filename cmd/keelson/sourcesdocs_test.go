package main

import (
	"os"
	"reflect"
	"strings"
	"testing"

	sourcev1 "github.com/fluxcd/source-controller/api/v1"
	"github.com/google/go-cmp/cmp"
)

// Every field that the spec of one of these kinds has in Flux's API has a row in docs/flux.md, in its order.
func TestSourcesDocs(t *testing.T) {
	b, err := os.ReadFile("../../docs/flux.md")
	if err != nil {
		t.Fatal(err)
	}
	for mark, spec := range map[string]any{
		"ocirepository": sourcev1.OCIRepositorySpec{}, "helmrepository": sourcev1.HelmRepositorySpec{}, "helmchart": sourcev1.HelmChartSpec{},
	} {
		_, rest, _ := strings.Cut(string(b), "<!-- "+mark+" -->\n")
		part, _, ok := strings.Cut(rest, "<!-- /"+mark+" -->")
		if !ok {
			t.Errorf("the marks of the table %s are missing", mark)
		}
		var got []string
		for _, row := range docRow.FindAllStringSubmatch(part, -1) {
			got = append(got, row[1])
			if !strings.Contains(" supported differs refused ignored ", " "+row[2]+" ") || row[2] != "supported" && row[3] == "" {
				t.Errorf("%s: %s is %q, %q", mark, row[1], row[2], row[3])
			}
		}
		if diff := cmp.Diff(specFields(reflect.TypeOf(spec), ""), got); diff != "" {
			t.Errorf("rows of %s (-the code +the table):\n%s", mark, diff)
		}
	}
}

// specFields names the fields of a struct, and of the structs of its package that it holds, in their order.
func specFields(t reflect.Type, path string) (names []string) {
	own := t.PkgPath()
	for i := range t.NumField() {
		name, _, _ := strings.Cut(t.Field(i).Tag.Get("json"), ",")
		names = append(names, path+name)
		inner := t.Field(i).Type
		if inner.Kind() == reflect.Pointer {
			inner = inner.Elem()
		}
		if inner.Kind() == reflect.Struct && inner.PkgPath() == own {
			names = append(names, specFields(inner, path+name+".")...)
		}
	}
	return names
}
