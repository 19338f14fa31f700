package main

import (
	"os"
	"reflect"
	"slices"
	"strings"
	"testing"

	helmv2 "github.com/fluxcd/helm-controller/api/v2"
	"github.com/fluxcd/pkg/apis/meta"
	"github.com/google/go-cmp/cmp"

	"keelson.dev/keelson/internal/dialect"
)

// Every field of a HelmRelease, and every annotation and label that says how one is treated, has a row in docs/helm.md, and no row is
// about anything else.
func TestHelmDocs(t *testing.T) {
	b, err := os.ReadFile("../../docs/helm.md")
	if err != nil {
		t.Fatal(err)
	}
	text := string(b)
	for mark, want := range map[string][]string{
		"helmrelease": fluxFields(reflect.TypeFor[helmv2.HelmRelease]()),
		"helmmarks": {
			meta.ReconcileRequestAnnotation, helmv2.ForceRequestAnnotation, helmv2.ResetRequestAnnotation,
			dialect.DriftDetectionMark, dialect.HelmOwnerNameLabel, dialect.HelmOwnerNamespaceLabel, helmv2.HelmReleaseFinalizer,
		},
	} {
		_, rest, _ := strings.Cut(text, "<!-- "+mark+" -->\n")
		part, _, ok := strings.Cut(rest, "<!-- /"+mark+" -->")
		if !ok {
			t.Errorf("the marks of the table %s are missing", mark)
		}
		var got []string
		for _, row := range docRow.FindAllStringSubmatch(part, -1) {
			got = append(got, row[1])
			if !slices.Contains([]string{"supported", "differs", "refused", "ignored"}, row[2]) {
				t.Errorf("%s is %q: it is supported, differs, is refused or ignored", row[1], row[2])
			}
			if row[2] != "supported" && row[3] == "" {
				t.Errorf("%s: a note says how it is %s", row[1], row[2])
			}
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("rows of %s (-the code +the table):\n%s", mark, diff)
		}
	}
}

// fluxFields names the fields of a kind of Flux's by their paths in JSON, in their order.
func fluxFields(kind reflect.Type) []string {
	var names []string
	var walk func(t reflect.Type, path string)
	walk = func(t reflect.Type, path string) {
		for slices.Contains([]reflect.Kind{reflect.Pointer, reflect.Slice, reflect.Map}, t.Kind()) {
			t = t.Elem()
		}
		if t.Kind() != reflect.Struct || !strings.HasPrefix(t.PkgPath(), "github.com/fluxcd/") {
			return
		}
		for i := range t.NumField() {
			field := t.Field(i)
			name, options, _ := strings.Cut(field.Tag.Get("json"), ",")
			if options == "inline" {
				walk(field.Type, path)
				continue
			}
			at := path + "." + name
			if list := field.Type; list.Kind() == reflect.Slice && list.Elem().Kind() != reflect.String {
				at += "[]"
			}
			names = append(names, at)
			walk(field.Type, at)
		}
	}
	for _, part := range []string{"Spec", "Status"} {
		if f, ok := kind.FieldByName(part); ok {
			walk(f.Type, strings.ToLower(part))
		}
	}
	return names
}
