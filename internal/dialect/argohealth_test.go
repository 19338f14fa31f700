package dialect_test

import (
	"fmt"
	"strings"
	"testing"

	"sigs.k8s.io/yaml"

	"keelson.dev/keelson/internal/dialect"
)

func TestArgoHealthOverrides(t *testing.T) {
	for _, c := range []struct{ name, data, want string }{
		{"nothing", `{url: https://argocd.example.com, resource.exclusions: "[]"}`, ""},
		{"one kind", `
resource.customizations.health.cert-manager.io_Certificate: return {status = "Healthy"}
`, `cert-manager.io/Certificate: return {status = "Healthy"}`},
		{"a kind of the core group", `
resource.customizations.health.PersistentVolumeClaim: a
`, `PersistentVolumeClaim: a`},
		{"with libraries", `
resource.customizations.useOpenLibs.example.com_Widget: " true\n"
resource.customizations.health.example.com_Widget: a
resource.customizations.useOpenLibs.example.com_Other: "true"
resource.customizations.useOpenLibs.example.com_Gadget: "false"
resource.customizations.health.example.com_Gadget: b
`, `example.com/Gadget: b
example.com/Widget: a (open)`},
		{"all", `{resource.customizations.health.all: a}`, `*/*: a`},
		{"the older way", `
resource.customizations: |
  "*.aws.crossplane.io/*":
    health.lua: a
    ignoreDifferences: |
      jsonPointers: [/spec]
  batch/Job:
    health.lua: b
    health.lua.useOpenLibs: true
    actions: x
  apps/Deployment:
    ignoreDifferences: y
`, `*.aws.crossplane.io/*: a
batch/Job: b (open)`},
		{"both ways", `
resource.customizations: |
  batch/Job: {health.lua: old, health.lua.useOpenLibs: true}
  batch/CronJob: {health.lua: old}
resource.customizations.health.batch_Job: new
resource.customizations.useOpenLibs.batch_CronJob: "true"
`, `batch/CronJob: old (open)
batch/Job: new (open)`},
		{"others' settings", `
resource.customizations.actions.apps_Deployment: x
resource.customizations.ignoreDifferences.all: y
resource.customizations.health: z
resource.customizationsX: z
`, ""},
		{"bad ones", `
resource.customizations.health.a_b_c: x
resource.customizations.health._Job: x
resource.customizations.health.example.com_Widget: fine
resource.customizations.useOpenLibs.example.com_Widget: perhaps
resource.customizations: |
  batch/Job: [1]
  "a[/B": {health.lua: x}
  batch/CronJob: {health.lua: ""}
`, `example.com/Widget: fine
! argocd-cm: resource.customizations: batch/Job: error unmarshaling JSON: while decoding JSON: json: cannot unmarshal array into Go value of type dialect.customization
! argocd-cm: resource.customizations.health._Job: it has to end with GROUP_KIND, or with KIND where the group has no name
! argocd-cm: resource.customizations.health.a_b_c: it has to end with GROUP_KIND, or with KIND where the group has no name
! argocd-cm: resource.customizations.useOpenLibs.example.com_Widget: "perhaps" is neither true nor false
! argocd-cm: a[/B: "a[/B" is no pattern: syntax error in pattern`},
		{"no document", `{resource.customizations: "a: [", resource.customizations.health.Pod: a}`, `Pod: a
! argocd-cm: resource.customizations: error converting YAML to JSON: yaml: line 1: did not find expected node content`},
		{"too long", `{resource.customizations.health.Pod: ` + strings.Repeat("x", 300_000) + `}`, `! argocd-cm: Pod: its script has 300000 bytes, more than 262144`},
	} {
		t.Run(c.name, func(t *testing.T) {
			var data map[string]string
			if err := yaml.Unmarshal([]byte(c.data), &data); err != nil {
				t.Fatal(err)
			}
			scripts, problems := dialect.ArgoHealthOverrides(data)
			var got []string
			for _, s := range scripts {
				line := fmt.Sprintf("%s: %s", s.Kinds, s.Lua)
				if s.OpenLibs {
					line += " (open)"
				}
				got = append(got, line)
			}
			for _, p := range problems {
				got = append(got, "! "+p)
			}
			if text := strings.Join(got, "\n"); text != c.want {
				t.Errorf("got\n%s\nwant\n%s", text, c.want)
			}
		})
	}
}
