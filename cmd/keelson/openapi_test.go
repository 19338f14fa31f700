package main

import (
	"context"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"maps"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/getkin/kin-openapi/openapi3"
	"github.com/google/go-cmp/cmp"

	"keelson.dev/keelson/test/testcluster"
)

// registered finds what is registered on a mux below /api/v1 in the sources of all rooms: "GET /api/v1/apps".
func registered(t *testing.T) []string {
	t.Helper()
	root, err := testcluster.Root()
	if err != nil {
		t.Fatal(err)
	}
	files, err := filepath.Glob(filepath.Join(root, "internal", "*", "*.go"))
	if err != nil {
		t.Fatal(err)
	}
	byRoom := map[string][]*ast.File{}
	for _, file := range files {
		if strings.HasSuffix(file, "_test.go") {
			continue
		}
		f, err := parser.ParseFile(token.NewFileSet(), file, nil, parser.SkipObjectResolution)
		if err != nil {
			t.Fatal(err)
		}
		byRoom[filepath.Dir(file)] = append(byRoom[filepath.Dir(file)], f)
	}
	found := map[string]bool{}
	for _, room := range byRoom {
		constants := stringsOf(room)
		for _, f := range room {
			ast.Inspect(f, func(n ast.Node) bool {
				call, ok := n.(*ast.CallExpr)
				if !ok || len(call.Args) != 2 {
					return true
				}
				if fn, ok := call.Fun.(*ast.SelectorExpr); !ok || fn.Sel.Name != "HandleFunc" && fn.Sel.Name != "Handle" {
					return true
				}
				pattern, ok := textOf(call.Args[0], constants)
				if method, path, has := strings.Cut(pattern, " "); ok && has && strings.HasPrefix(path, "/api/v1/") {
					found[method+" "+path] = true
				}
				return true
			})
		}
	}
	return slices.Sorted(maps.Keys(found))
}

// stringsOf gives the string constants of a package.
func stringsOf(room []*ast.File) map[string]ast.Expr {
	out := map[string]ast.Expr{}
	for _, f := range room {
		ast.Inspect(f, func(n ast.Node) bool {
			if v, ok := n.(*ast.ValueSpec); ok {
				for i, name := range v.Names {
					if i < len(v.Values) {
						out[name.Name] = v.Values[i]
					}
				}
			}
			return true
		})
	}
	return out
}

// textOf gives the value of a constant expression of strings.
func textOf(e ast.Expr, constants map[string]ast.Expr) (string, bool) {
	switch e := e.(type) {
	case *ast.BasicLit:
		s, err := strconv.Unquote(e.Value)
		return s, err == nil
	case *ast.Ident:
		if v, ok := constants[e.Name]; ok {
			return textOf(v, constants)
		}
	case *ast.BinaryExpr:
		a, ok := textOf(e.X, constants)
		b, ok2 := textOf(e.Y, constants)
		return a + b, ok && ok2 && e.Op == token.ADD
	}
	return "", false
}

// TestOpenAPI: the document is valid, and says what is served: no more and no less.
func TestOpenAPI(t *testing.T) {
	text, err := apiDocument()
	if err != nil {
		t.Fatal(err)
	}
	doc, err := openapi3.NewLoader().LoadFromData(text)
	if err != nil {
		t.Fatal(err)
	}
	if err := doc.Validate(context.Background()); err != nil {
		t.Error(err)
	}
	var documented []string
	ids := map[string]string{}
	for path, item := range doc.Paths.Map() {
		for method, op := range item.Operations() {
			documented = append(documented, method+" "+path)
			if other := ids[op.OperationID]; other != "" || op.Summary == "" {
				t.Errorf("%s %s: operation %q, summary %q; as %s", method, path, op.OperationID, op.Summary, other)
			}
			ids[op.OperationID] = method + " " + path
		}
	}
	slices.Sort(documented)
	have := registered(t)
	if len(have) < 30 {
		t.Errorf("the sources register %d routes only: %q", len(have), have)
	}
	if diff := cmp.Diff(have, documented); diff != "" {
		t.Errorf("routes (-served +documented):\n%s", diff)
	}
	for name, want := range map[string][]string{
		"App": {"kind", "namespace", "name", "state", "id", "environment"}, "AppList": {"apps", "total", "counts"}, "TreeNode": {"id", "kind", "name", "owned"},
		"Pipeline": {"id", "status"}, "Problem": {"error"},
	} {
		s := doc.Components.Schemas[name]
		if s == nil {
			t.Errorf("there is no schema %s", name)
			continue
		}
		for _, field := range want {
			if s.Value.Properties[field] == nil || !slices.Contains(s.Value.Required, field) {
				t.Errorf("%s: %s is missing, or not said to be always there: %s", name, field, fmt.Sprint(s.Value.Required))
			}
		}
	}
}
