package deliver

import (
	"bytes"
	"context"
	"strings"
	"testing"
	"text/template"

	corev1 "k8s.io/api/core/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"keelson.dev/keelson/internal/delivery"
	"keelson.dev/keelson/internal/dialect"
)

// secretData is what every Secret holds.
type secretData map[string][]byte

func (s secretData) Get(_ context.Context, _ client.ObjectKey, into client.Object, _ ...client.GetOption) error {
	into.(*corev1.Secret).Data = s
	return nil
}

func (secretData) List(context.Context, client.ObjectList, ...client.ListOption) error { return nil }

// What comes from a Secret is masked in the form that a template prints it in.
func TestSecretValuesAreMasked(t *testing.T) {
	for _, c := range []struct {
		name    string
		ref     delivery.ValuesRef // of the key "k"
		value   string
		prints  string // a template
		printed string // what it gives
		masked  string // what people see of that
	}{
		{"text", delivery.ValuesRef{Path: "pw"}, "hunter22", `{{ .pw }}!`, "hunter22!", "**REDACTED**!"},
		{"literal text", delivery.ValuesRef{Path: "pw", Literal: true}, `{a,"hunter22"}`, `{{ .pw }}!`, `{a,"hunter22"}!`, "**REDACTED**!"},
		{"text with a newline", delivery.ValuesRef{Path: "pw", Literal: true}, "hunter22\n", `{{ trim .pw }}!`, "hunter22!", "**REDACTED**!"},
		{"text in quotes", delivery.ValuesRef{Path: "pw"}, `"12345678"`, `{{ .pw }}!`, "12345678!", "**REDACTED**!"},
		{"a list", delivery.ValuesRef{Path: "pw"}, "{hunter22,12345678}", `{{ index .pw 0 }} {{ index .pw 1 }}!`, "hunter22 12345678!", "**REDACTED** **REDACTED**!"},
		{"an escaped comma", delivery.ValuesRef{Path: "db.pw"}, `hunter\,22`, `{{ .db.pw }}!`, "hunter,22!", "**REDACTED**!"},
		{"what looks like another value", delivery.ValuesRef{Path: "pw"}, `hunter,secretpart=22222`, `{{ . }}!`, "map[pw:hunter secretpart:22222]!", "map[pw:**REDACTED** **REDACTED**:**REDACTED**]!"},
		{"a number", delivery.ValuesRef{Path: "pin"}, "12345678", `{{ .pin }} {{ float .pin }}!`, "12345678 1.2345678e+07!", "**REDACTED** **REDACTED**!"},
		{"a number in a document", delivery.ValuesRef{}, "pin: 12345678\n", `{{ .pin }}!`, "1.2345678e+07!", "**REDACTED**!"},
		{"text in a document", delivery.ValuesRef{}, "db: {users: [{pw: hunter22}]}\n", `{{ . }}!`, "map[db:map[users:[map[pw:hunter22]]]]!", "map[db:map[users:[map[pw:**REDACTED**]]]]!"},
		{"lines in a document", delivery.ValuesRef{}, "pw: |\n  hunter22\n", `{{ trim .pw }}!`, "hunter22!", "**REDACTED**!"},
	} {
		t.Run(c.name, func(t *testing.T) {
			c.ref.Kind, c.ref.Name, c.ref.Key = "Secret", "values", "k"
			app := delivery.App{ID: delivery.ID{Namespace: "team"}, Release: &delivery.HelmRelease{ValuesFrom: []delivery.ValuesRef{c.ref}}}
			data, secrets, err := ReadValues(t.Context(), secretData{"k": []byte(c.value)}, app)
			if err != nil {
				t.Fatal(err)
			}
			values, err := dialect.ReleaseValues(app.Release, data)
			if err != nil {
				t.Fatal(err)
			}
			var out bytes.Buffer
			funcs := template.FuncMap{"trim": strings.TrimSpace, "float": func(n int64) float64 { return float64(n) }}
			if err := template.Must(template.New("").Funcs(funcs).Parse(c.prints)).Execute(&out, values); err != nil {
				t.Fatal(err)
			}
			if out.String() != c.printed {
				t.Errorf("printed %q, want %q", out.String(), c.printed)
			}
			if got := secrets.Text(out.String()); got != c.masked {
				t.Errorf("masked %q, want %q", got, c.masked)
			}
		})
	}
}
