package main

import (
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"reflect"
	"regexp"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	argocdv1 "keelson.dev/keelson/api/argocd/v1alpha1"
)

// docRow is one row of a table of docs/argocd.md: | `name` | supported | note |
var docRow = regexp.MustCompile("(?m)^\\| `([^`]+)` \\| ([^|]*) \\| ?(.*?) ?\\|$")

// Every field of Argo CD's kinds, and every annotation and label that the code names, has a row in docs/argocd.md, and no row is
// about anything else.
func TestArgoDocs(t *testing.T) {
	b, err := os.ReadFile("../../docs/argocd.md")
	if err != nil {
		t.Fatal(err)
	}
	text := string(b)
	for _, table := range []struct {
		mark string
		want []string
	}{
		{"application", fieldsOf(argocdv1.Application{})},
		{"project", fieldsOf(argocdv1.AppProject{})},
		{"applicationset", fieldsOf(argocdv1.ApplicationSet{})},
		{"marks", marksOf(t)},
	} {
		_, rest, _ := strings.Cut(text, "<!-- "+table.mark+" -->\n")
		part, _, ok := strings.Cut(rest, "<!-- /"+table.mark+" -->")
		if !ok {
			t.Errorf("the marks of the table %s are missing", table.mark)
		}
		var got []string
		for _, row := range docRow.FindAllStringSubmatch(part, -1) {
			got = append(got, row[1])
			if !strings.Contains(" supported differs refused ignored ", " "+row[2]+" ") {
				t.Errorf("%s is %q: it is supported, differs, is refused or ignored", row[1], row[2])
			}
			if row[2] != "supported" && row[3] == "" {
				t.Errorf("%s: a note says how it is %s", row[1], row[2])
			}
		}
		if diff := cmp.Diff(table.want, got); diff != "" {
			t.Errorf("rows of %s (-the code +the table):\n%s", table.mark, diff)
		}
	}
}

// fieldsOf names the fields of a kind by their paths in JSON, in their order. What a struct holds is listed where it comes first.
func fieldsOf(kind any) []string {
	var names []string
	seen := map[reflect.Type]bool{}
	var walk func(t reflect.Type, path string)
	walk = func(t reflect.Type, path string) {
		for t.Kind() == reflect.Pointer || t.Kind() == reflect.Slice {
			t = t.Elem()
		}
		if t.Kind() != reflect.Struct || seen[t] || !strings.HasPrefix(t.PkgPath(), "keelson.dev/") {
			return
		}
		seen[t] = true
		for i := range t.NumField() {
			name, _, _ := strings.Cut(t.Field(i).Tag.Get("json"), ",")
			if name == "" || name == "-" {
				continue
			}
			at := path + "." + name
			if t.Field(i).Type.Kind() == reflect.Slice && elementIsOurs(t.Field(i).Type) {
				at += "[]"
			}
			names = append(names, at)
			walk(t.Field(i).Type, at)
		}
	}
	for _, part := range []string{"Spec", "Operation", "Status"} {
		if f, ok := reflect.TypeOf(kind).FieldByName(part); ok {
			walk(f.Type, strings.ToLower(part))
		}
	}
	return names
}

func elementIsOurs(t reflect.Type) bool {
	return t.Elem().Kind() == reflect.Struct && strings.HasPrefix(t.Elem().PkgPath(), "keelson.dev/")
}

// marksOf names the annotations, labels and finalizers that the API package has constants for, in their order.
func marksOf(t *testing.T) []string {
	t.Helper()
	file, err := parser.ParseFile(token.NewFileSet(), "../../api/argocd/v1alpha1/doc.go", nil, 0)
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	ast.Inspect(file, func(n ast.Node) bool {
		spec, ok := n.(*ast.ValueSpec)
		if !ok {
			return true
		}
		for _, v := range spec.Values {
			if lit, ok := v.(*ast.BasicLit); ok && lit.Kind == token.STRING {
				if text, err := strconv.Unquote(lit.Value); err == nil && strings.ContainsAny(text, "./") {
					names = append(names, text)
				}
			}
		}
		return true
	})
	if len(names) < 10 {
		t.Fatalf("the package names %d marks only", len(names))
	}
	return names
}
