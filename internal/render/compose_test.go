package render

import (
	"flag"
	"go/ast"
	"go/constant"
	"go/parser"
	"go/token"
	gotypes "go/types"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/fstest"

	"github.com/google/go-cmp/cmp"
	sigsyaml "sigs.k8s.io/yaml"
)

// TestFieldSpecs holds fieldspecs.yaml to the source of the kustomize that is built in; -update copies it.
func TestFieldSpecs(t *testing.T) {
	out, err := exec.CommandContext(t.Context(), "go", "list", "-m", "-f", "{{.Dir}}", "sigs.k8s.io/kustomize/api").Output()
	if err != nil {
		t.Fatalf("find kustomize's source: %v", err)
	}
	names, err := filepath.Glob(filepath.Join(strings.TrimSpace(string(out)), "internal/konfig/builtinpluginconsts/*.go"))
	if err != nil || len(names) == 0 {
		t.Fatalf("kustomize keeps its field paths elsewhere: %v", err)
	}
	fset := token.NewFileSet()
	var files []*ast.File
	for _, name := range names {
		f, err := parser.ParseFile(fset, name, nil, parser.SkipObjectResolution)
		if err != nil {
			t.Fatal(err)
		}
		files = append(files, f)
	}
	config := gotypes.Config{Error: func(error) {}} // imports are not resolved; constants do not need them
	pkg, _ := config.Check("builtinpluginconsts", fset, files, nil)
	var specs []string
	for _, name := range pkg.Scope().Names() {
		c, ok := pkg.Scope().Lookup(name).(*gotypes.Const)
		if ok && strings.HasSuffix(name, "FieldSpecs") && name != "varReferenceFieldSpecs" && name != "metadataLabelsFieldSpecs" {
			specs = append(specs, strings.TrimSpace(constant.StringVal(c.Val())))
		}
	}
	slices.Sort(specs)
	want := "# The default field paths of sigs.k8s.io/kustomize/api (The Kubernetes Authors, Apache-2.0),\n# copied by go test -run TestFieldSpecs -update.\n" +
		strings.Join(specs, "\n") + "\n"
	if flag.Lookup("update").Value.String() == "true" {
		if err := os.WriteFile("fieldspecs.yaml", []byte(want), 0o600); err != nil {
			t.Fatal(err)
		}
		return
	}
	if diff := cmp.Diff(want, string(fieldSpecs)); diff != "" {
		t.Errorf("run go test -run TestFieldSpecs -update (-kustomize +here):\n%s", diff)
	}
}

// grammar makes kustomizations at random.
type grammar struct{ *rand.Rand }

func (g grammar) maybe(percent int, text ...string) string {
	if g.IntN(100) >= percent {
		return ""
	}
	return text[g.IntN(len(text))]
}

const (
	deploymentA = "apiVersion: apps/v1\nkind: Deployment\nmetadata: {name: a}\nspec: {replicas: 1, selector: {matchLabels: {app: a}}, template: {metadata: {labels: {app: a}}, spec: {serviceAccountName: a, " +
		"initContainers: [{name: i, image: 'x:1'}], containers: [{name: c, image: x, envFrom: [{configMapRef: {name: g}}, {secretRef: {name: s}}], env: [{name: A, valueFrom: {configMapKeyRef: {name: a, key: k}}}]}, {name: d, image: 'y@sha256:0'}], volumes: [{name: v, configMap: {name: a}}, {name: w, secret: {secretName: s}}]}}}}\n"
	autoscalerA = "apiVersion: autoscaling/v2\nkind: HorizontalPodAutoscaler\nmetadata: {name: a}\nspec: {scaleTargetRef: {apiVersion: apps/v1, kind: Deployment, name: a}}\n"
	bindingA    = "apiVersion: rbac.authorization.k8s.io/v1\nkind: RoleBinding\nmetadata: {name: a}\nroleRef: {apiGroup: rbac.authorization.k8s.io, kind: Role, name: a}\nsubjects: [{kind: ServiceAccount, name: a}, {kind: ServiceAccount, name: default}]\n---\napiVersion: rbac.authorization.k8s.io/v1\nkind: Role\nmetadata: {name: a}\nrules: [{apiGroups: [''], resources: [configmaps], resourceNames: [a, g], verbs: [get]}]\n"
	ingressA    = "apiVersion: networking.k8s.io/v1\nkind: Ingress\nmetadata: {name: a, annotations: {nginx.ingress.kubernetes.io/auth-secret: s}}\nspec: {tls: [{secretName: s}], rules: [{host: h, http: {paths: [{path: /, pathType: Prefix, backend: {service: {name: a, port: {name: http}}}}]}}]}\n"
	cronJobA    = "apiVersion: batch/v1\nkind: CronJob\nmetadata: {name: a, labels: {x: y}}\nspec: {schedule: '* * * * *', jobTemplate: {spec: {template: {spec: {containers: [{name: c, image: 'x:2'}], restartPolicy: Never}}}}}\n"
	miscA       = "apiVersion: v1\nkind: Service\nmetadata: {name: a}\nspec: {selector: {app: a}, ports: [{port: 80}]}\n---\napiVersion: v1\nkind: ServiceAccount\nmetadata: {name: a}\nimagePullSecrets: [{name: s}]\n---\napiVersion: v1\nkind: Namespace\nmetadata: {name: a}\n"
	configA     = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: a, annotations: {n: '1'}}\ndata: {k: v, l: 'true'}\n"
	localA      = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: local, annotations: {config.kubernetes.io/local-config: 'true'}}\n"
	customA     = "apiVersion: example.com/v1\nkind: Custom\nmetadata: {name: a, namespace: own}\nspec: {image: x, list: [{name: one, v: 1}, {name: two, v: 2}]}\n"
)

func (g grammar) kustomization(dir string, extra ...string) string {
	resources := []string{}
	for _, r := range append([]string{"a.yaml", "b.yaml", "c.yaml"}, extra...) {
		if g.IntN(4) > 0 {
			resources = append(resources, r)
		}
	}
	if len(resources) == 0 {
		resources = []string{"a.yaml"}
	}
	text := "resources: [" + strings.Join(resources, ", ") + "]\n"
	text += g.maybe(40, "namespace: n1\n", "namespace: n2\n") + g.maybe(40, "namePrefix: p-\n", "namePrefix: "+dir+"-\n") + g.maybe(30, "nameSuffix: -s\n")
	text += g.maybe(40, "labels: [{pairs: {l: '1', app: z}}]\n", "labels: [{pairs: {l: two}, includeSelectors: true}]\n", "labels: [{pairs: {l: two}, includeTemplates: true}, {pairs: {m: x}}]\n",
		"labels: [{pairs: {l: x}, fields: [{path: spec/extra, create: true, kind: Custom}]}]\n")
	text += g.maybe(20, "commonLabels: {c: d}\n") + g.maybe(30, "commonAnnotations: {e: f, g: 'true'}\n")
	text += g.maybe(40, "images: [{name: x, newTag: '2'}]\n", "images: [{name: x, newName: r/x, digest: 'sha256:1'}, {name: 'y', newTag: v}]\n", "images: [{name: x, tagSuffix: -s}]\n")
	text += g.maybe(6, "replicas: [{name: a, count: 3}]\n", "replicas: [{name: absent, count: 3}]\n")
	text += g.maybe(45, "configMapGenerator: [{name: g-"+dir+", literals: [a=b, 'c=\"d\"'], files: [f.txt, k=f.txt]}]\n",
		"configMapGenerator: [{name: g-"+dir+", envs: [e.env], options: {labels: {q: r}}}, {name: h-"+dir+", env: e.env, namespace: n1}]\n",
		"configMapGenerator: [{name: g, literals: [a=b]}]\n", "configMapGenerator: [{name: a, literals: [a=b]}]\n")
	text += g.maybe(25, "secretGenerator: [{name: s-"+dir+", literals: [a=b], type: x/y}]\n", "secretGenerator: [{name: s, files: [f.txt]}]\n")
	text += g.maybe(25, "generatorOptions: {disableNameSuffixHash: true}\n", "generatorOptions: {labels: {o: p}, annotations: {u: v}, immutable: true}\n")
	text += g.maybe(50, "patches: [{target: {kind: Deployment}, path: p.yaml}]\n", "patches: [{target: {kind: Deployment}, patch: '[{op: add, path: /spec/replicas, value: 7}]'}]\n",
		"patches: [{path: p.yaml, target: {kind: Deployment|CronJob}}, {target: {kind: ConfigMap}, patch: '{apiVersion: v1, kind: ConfigMap, metadata: {name: x}, data: {k: null, t: \"u\\u00e9\"}}'}]\n",
		"patches: [{target: {labelSelector: 'app=a'}, patch: \"- op: add\\n  path: /metadata/labels\\n  value: {j: k}\\n\"}]\n",
		"patches: [{target: {name: a}, patch: '{apiVersion: v1, kind: Service, metadata: {name: a}, $patch: delete}'}]\n",
		"patches: [{target: {kind: Custom|Ingress}, path: p.yaml, options: {allowNameChange: true, allowKindChange: true}}]\n")
	text += g.maybe(4, "buildMetadata: [originAnnotations]\n", "sortOptions: {order: legacy}\n", "vars: [{name: V, objref: {apiVersion: v1, kind: ConfigMap, name: a}}]\n")
	if strings.Contains(text, "patches: ") || strings.Contains(text, "configMapGenerator: ") {
		return text
	}
	text += g.maybe(20, "patches: [{path: p.yaml}]\n", "patchesStrategicMerge: [p.yaml]\n", "patchesStrategicMerge: ['{apiVersion: v1, kind: ConfigMap, metadata: {name: a}, data: {new: x}}']\n",
		"patchesJson6902: [{target: {version: v1, kind: Service, name: a}, patch: '[{\"op\": \"add\", \"path\": \"/spec/type\", \"value\": \"NodePort\"}]'}]\n",
		"configMapGenerator: [{name: g, behavior: merge, literals: [z=y]}]\n", "configMapGenerator: [{name: a, behavior: replace, literals: [z=y]}]\n")
	return text
}

func (g grammar) repo() fstest.MapFS {
	repo := fstest.MapFS{}
	put := func(name, data string) { repo[name] = &fstest.MapFile{Data: []byte(data)} }
	all := []string{deploymentA, autoscalerA, bindingA, ingressA, cronJobA, miscA, configA, localA, customA}
	for _, dir := range []string{"base", "other", "over", "comp"} {
		g.Shuffle(len(all), func(i, j int) { all[i], all[j] = all[j], all[i] })
		for i, name := range []string{"a.yaml", "b.yaml", "c.yaml"} {
			text := all[i]
			if dir != "base" { // mostly other objects
				text = strings.ReplaceAll(text, "{name: a", "{name: "+g.maybe(100, dir, dir, dir, dir, dir, "a"))
			}
			put(dir+"/"+name, text)
		}
		put(dir+"/p.yaml", "apiVersion: apps/v1\nkind: Deployment\nmetadata: {name: a, annotations: {patched: 'yes'}}\nspec: {template: {spec: {containers: [{name: c, image: z, ports: [{containerPort: 80}]}, {name: d, $patch: delete}]}}}\n")
		put(dir+"/f.txt", "text\n"+dir+"\n")
		put(dir+"/e.env", "A=1\n# no\nB=\n")
		extra := map[string][]string{"over": {"../base", "../other"}, "other": {"../base"}}[dir]
		if dir == "other" && g.IntN(8) > 0 {
			extra = nil
		}
		text := g.kustomization(dir, extra...)
		switch dir {
		case "comp":
			text = strings.Replace(text, text[:strings.Index(text, "\n")], "apiVersion: kustomize.config.k8s.io/v1alpha1\nkind: Component", 1)
		case "over":
			text += g.maybe(40, "components: [../comp]\n")
		}
		put(dir+"/kustomization.yaml", text)
	}
	return repo
}

// TestComposeIsKustomize composes random overlays: what is composed is what kustomize makes.
func TestComposeIsKustomize(t *testing.T) {
	const repositories = 600
	loadSchema()
	composedN, built := 0, 0
	for seed := range uint64(repositories) {
		g := grammar{rand.New(rand.NewPCG(seed, 3))} //nolint:gosec // repeatable chance is what is wanted
		repo := g.repo()
		in := inspect(newTree(t.Context(), repo))
		where := func() string { return "" }
		name, k, err := in.load("over", where)
		if err != nil {
			t.Fatalf("seed %d: %v", seed, err)
		}
		changed := modernize(k)
		if _, err := in.kustomization("over", name, k, asResources); err != nil {
			continue
		}
		got, ok := in.compose("over")
		if changed {
			if in.overlay[name], err = sigsyaml.Marshal(k); err != nil {
				t.Fatal(err)
			}
		}
		result, err := kustomize(newKustomizeFS(in.tree), mount+"/over")
		if err == nil {
			built++
		}
		if !ok {
			continue
		}
		composedN++
		if err != nil {
			t.Fatalf("seed %d: composed, but kustomize says: %v\n%s", seed, err, repo["over/kustomization.yaml"].Data)
		}
		if diff := cmp.Diff(convert(result.Resources(), new(sizer)), got); diff != "" {
			t.Fatalf("seed %d (-kustomize +composed):\n%s\n%s\n%s", seed, diff, repo["over/kustomization.yaml"].Data, repo["base/kustomization.yaml"].Data)
		}
	}
	t.Logf("%d composed of %d that kustomize builds", composedN, built)
	if composedN < repositories/8 || composedN < built/2 {
		t.Errorf("only %d composed of %d that kustomize builds", composedN, built)
	}
}
