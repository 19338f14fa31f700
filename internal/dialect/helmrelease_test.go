package dialect_test

import (
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"

	helmv2 "github.com/fluxcd/helm-controller/api/v2"
	"github.com/google/go-cmp/cmp"
	"github.com/rogpeppe/go-internal/txtar"
	"sigs.k8s.io/yaml"

	"keelson.dev/keelson/internal/delivery"
	"keelson.dev/keelson/internal/dialect"
)

// TestHelmRelease holds testdata/helm/*.txtar: a HelmRelease (release.yaml) and the app that it comes to (app.yaml), without what is
// empty.
func TestHelmRelease(t *testing.T) {
	files, err := filepath.Glob("testdata/helm/*.txtar")
	if err != nil || len(files) == 0 {
		t.Fatalf("no files: %v", err)
	}
	for _, name := range files {
		t.Run(strings.TrimSuffix(filepath.Base(name), ".txtar"), func(t *testing.T) {
			archive, err := txtar.ParseFile(name)
			if err != nil {
				t.Fatal(err)
			}
			hr := &helmv2.HelmRelease{}
			decode(t, string(archive.Files[0].Data), hr)
			app, err := dialect.HelmRelease(hr)
			if err != nil {
				t.Fatal(err)
			}
			got := &txtar.Archive{Comment: archive.Comment, Files: archive.Files[:1]}
			got.Files = append(got.Files, txtar.File{Name: "app.yaml", Data: toYAML(t, dump(reflect.ValueOf(app)))})
			if *update {
				if err := os.WriteFile(name, txtar.Format(got), 0o644); err != nil {
					t.Fatal(err)
				}
				return
			}
			if diff := cmp.Diff(string(txtar.Format(archive)), string(txtar.Format(got))); diff != "" {
				t.Errorf("-want +got:\n%s", diff)
			}
		})
	}
}

func toYAML(t *testing.T, v any) []byte {
	t.Helper()
	b, err := yaml.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// Every field of the spec is set in everything.txtar: whoever adds one to the API sees it here.
func TestHelmReleaseHasEveryField(t *testing.T) {
	archive, err := txtar.ParseFile("testdata/helm/everything.txtar")
	if err != nil {
		t.Fatal(err)
	}
	hr := &helmv2.HelmRelease{}
	decode(t, string(archive.Files[0].Data), hr)
	// What excludes something else, is deprecated or of no effect.
	without := []string{"ChartRef", "SkipCRDs", "Recreate", "PersistentClient"}
	var walk func(v reflect.Value, path string)
	walk = func(v reflect.Value, path string) {
		if v.Kind() == reflect.Pointer && !v.IsNil() {
			v = v.Elem()
		}
		if v.Kind() != reflect.Struct || v.Type().PkgPath() != reflect.TypeFor[helmv2.HelmRelease]().PkgPath() {
			return
		}
		for i := range v.NumField() {
			name := v.Type().Field(i).Name
			if v.Field(i).IsZero() && !slices.Contains(without, name) {
				t.Errorf("%s.%s is not set", path, name)
			}
			walk(v.Field(i), path+"."+name)
		}
	}
	walk(reflect.ValueOf(hr.Spec), "spec")
}

func TestHelmOwner(t *testing.T) {
	app := delivery.ID{Kind: "HelmRelease", Namespace: "apps", Name: "web"}
	if got := dialect.HelmOwner(dialect.HelmLabels(app)); got != app {
		t.Errorf("owner %v", got)
	}
	if got := dialect.HelmOwner(map[string]string{dialect.HelmOwnerNameLabel: "web"}); got != (delivery.ID{}) {
		t.Errorf("half a mark gives %v", got)
	}
}
