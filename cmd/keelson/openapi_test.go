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
				if !ok || len(call.Args) < 2 {
					return true
				}
				for _, pattern := range textsOf(call.Args[0], constants) {
					if method, path, has := strings.Cut(pattern, " "); has && strings.HasPrefix(path, "/api/v1/") && strings.ToUpper(method) == method {
						found[method+" "+path] = true
					}
				}
				return true
			})
		}
	}
	return slices.Sorted(maps.Keys(found))
}

// stringsOf gives what the names of a package may stand for: constants and variables, and what loops go over.
func stringsOf(room []*ast.File) map[string][]ast.Expr {
	out := map[string][]ast.Expr{}
	for _, f := range room {
		ast.Inspect(f, func(n ast.Node) bool {
			switch n := n.(type) {
			case *ast.ValueSpec:
				for i, name := range n.Names {
					if i < len(n.Values) {
						out[name.Name] = append(out[name.Name], n.Values[i])
					}
				}
			case *ast.RangeStmt:
				name, ok := n.Value.(*ast.Ident)
				list, ok2 := n.X.(*ast.CompositeLit)
				if ok && ok2 {
					out[name.Name] = append(out[name.Name], list.Elts...)
				}
			}
			return true
		})
	}
	return out
}

// textsOf gives what an expression of strings may be.
func textsOf(e ast.Expr, names map[string][]ast.Expr) (out []string) {
	switch e := e.(type) {
	case *ast.BasicLit:
		if s, err := strconv.Unquote(e.Value); err == nil {
			out = append(out, s)
		}
	case *ast.Ident:
		for _, v := range names[e.Name] {
			if _, again := v.(*ast.Ident); !again {
				out = append(out, textsOf(v, names)...)
			}
		}
	case *ast.BinaryExpr:
		if e.Op != token.ADD {
			return nil
		}
		for _, a := range textsOf(e.X, names) {
			for _, b := range textsOf(e.Y, names) {
				out = append(out, a+b)
			}
		}
	}
	return out
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
