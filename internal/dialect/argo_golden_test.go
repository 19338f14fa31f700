package dialect_test

import (
	"bytes"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/rogpeppe/go-internal/txtar"
	corev1 "k8s.io/api/core/v1"
	"sigs.k8s.io/yaml"

	argocdv1 "keelson.dev/keelson/api/argocd/v1alpha1"
	"keelson.dev/keelson/internal/dialect"
)

var update = flag.Bool("update", false, "write what Applications come to into testdata/argo")

// TestApplication holds testdata/argo/*.txtar. Each has an Application and what it depends on (application.yaml, project.yaml,
// secrets.yaml, operation.yaml, settings.yaml, all but the first optional), and what it comes to (out.yaml), without what is empty.
func TestApplication(t *testing.T) {
	files, err := filepath.Glob("testdata/argo/*.txtar")
	if err != nil || len(files) == 0 {
		t.Fatalf("no files: %v", err)
	}
	for _, name := range files {
		t.Run(strings.TrimSuffix(filepath.Base(name), ".txtar"), func(t *testing.T) {
			archive, err := txtar.ParseFile(name)
			if err != nil {
				t.Fatal(err)
			}
			a, in := &argocdv1.Application{}, dialect.Argo{Namespace: "argocd", Now: noon}
			var want *txtar.File
			for i := range archive.Files {
				f := &archive.Files[i]
				switch f.Name {
				case "application.yaml":
					decode(t, string(f.Data), a)
				case "project.yaml":
					decode(t, string(f.Data), &in.Project)
				case "operation.yaml":
					decode(t, string(f.Data), &in.Sync)
				case "settings.yaml":
					decode(t, string(f.Data), &in)
				case "secrets.yaml":
					readSecrets(t, f.Data, &in)
				case "out.yaml":
					want = f
				default:
					t.Fatalf("%s: what is %s?", name, f.Name)
				}
			}
			got, err := yaml.Marshal(dump(reflect.ValueOf(dialect.Application(a, in)), "Generation", "Interval", "Timeout", "Env"))
			if err != nil {
				t.Fatal(err)
			}
			if *update {
				if want == nil {
					archive.Files = append(archive.Files, txtar.File{Name: "out.yaml"})
					want = &archive.Files[len(archive.Files)-1]
				}
				want.Data = got
				if err := os.WriteFile(name, txtar.Format(archive), 0o644); err != nil {
					t.Fatal(err)
				}
				return
			}
			if want == nil {
				t.Fatalf("no out.yaml (write it with -update):\n%s", got)
			}
			if diff := cmp.Diff(string(want.Data), string(got)); diff != "" {
				t.Errorf("-want +got:\n%s", diff)
			}
		})
	}
}

// readSecrets reads labelled Secrets as a controller does.
func readSecrets(t *testing.T, data []byte, in *dialect.Argo) {
	t.Helper()
	var secrets []corev1.Secret
	for _, doc := range bytes.Split(data, []byte("\n---\n")) {
		s := corev1.Secret{Data: map[string][]byte{}}
		decode(t, string(doc), &s)
		for k, v := range s.StringData {
			s.Data[k] = []byte(v)
		}
		secrets = append(secrets, s)
	}
	all := dialect.ReadArgo(in.Namespace, nil, secrets)
	if len(all.Repositories)+len(all.Clusters) != len(secrets) {
		t.Fatalf("of %d Secrets some are of no known type", len(secrets))
	}
	in.Repositories, in.Clusters = all.Repositories, all.Clusters
}

// dump gives a value as YAML can hold it, without what is empty, and without some fields.
func dump(v reflect.Value, without ...string) any {
	switch x := v.Interface().(type) {
	case time.Duration:
		return x.String()
	case time.Time:
		return x.Format(time.RFC3339)
	}
	switch v.Kind() {
	case reflect.Pointer:
		return dump(v.Elem(), without...)
	case reflect.Struct:
		out := map[string]any{}
		for i := range v.NumField() {
			field := v.Type().Field(i)
			if v.Field(i).IsZero() || slices.Contains(without, field.Name) {
				continue
			}
			out[field.Name] = dump(v.Field(i), without...)
		}
		return out
	case reflect.Slice:
		if v.Type().Elem().Kind() == reflect.Uint8 {
			return string(v.Bytes())
		}
		out := []any{}
		for i := range v.Len() {
			out = append(out, dump(v.Index(i), without...))
		}
		return out
	case reflect.Map:
		out := map[string]any{}
		for _, k := range v.MapKeys() {
			out[fmt.Sprint(k.Interface())] = dump(v.MapIndex(k), without...)
		}
		return out
	}
	return v.Interface()
}
