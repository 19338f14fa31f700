package main

import (
	"fmt"
	"path"
	"strings"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"sigs.k8s.io/yaml"
)

// fleet is a number of apps that are all alike, in one repository or spread over several. Everything about it follows
// from these numbers, so that the same fleet is made at every run and for everybody who is measured.
//
// Each app has five objects: a Deployment of no replicas, a Service, two ConfigMaps of 1 KiB and a ServiceAccount. No pod
// runs: what is measured is who delivers, not who schedules.
type fleet struct {
	name         string // of the repository, and the start of the namespaces' names
	apps         int
	repositories int  // at least 1
	argo         bool // its apps are Applications of Argo CD, not Kustomizations of Flux
	helm         bool // its apps are HelmReleases, all of one chart
}

const (
	fleetNamespaces = 50
	objectsPerApp   = 5
	configBytes     = 1 << 10 // of data in each ConfigMap
)

func (f fleet) app(i int) string { return fmt.Sprintf("app-%04d", i) }

// namespace is where the objects of an app are.
func (f fleet) namespace(i int) string { return fmt.Sprintf("%s-%02d", f.name, i%fleetNamespaces) }

// namespaces of the objects; a fleet of few apps does not need all.
func (f fleet) namespaces() []string {
	var all []string
	for i := range min(fleetNamespaces, f.apps) {
		all = append(all, f.namespace(i))
	}
	return all
}

// home is the namespace of the apps and GitRepositories.
func (f fleet) home() string {
	if f.argo {
		return argoHome
	}
	return f.name + "-apps"
}

// resource is what the apps are.
func (f fleet) resource() schema.GroupVersionResource {
	switch {
	case f.argo:
		return applications
	case f.helm:
		return helmReleases
	}
	return kustomizations
}

// ready tells whether an app is ready at a commit.
func (f fleet) ready(u *unstructured.Unstructured, commit string) bool {
	switch {
	case f.argo:
		return syncedAt(u, commit)
	case f.helm:
		return releasedAt(u)
	}
	return readyAt(u, commit)
}

// repository of an app.
func (f fleet) repository(i int) string { return f.repositoryName(i % f.repositories) }

func (f fleet) repositoryName(r int) string {
	if f.repositories == 1 {
		return f.name
	}
	return fmt.Sprintf("%s-%03d", f.name, r)
}

// inRepository lists the apps of a repository.
func (f fleet) inRepository(r int) []int {
	var all []int
	for i := r; i < f.apps; i += f.repositories {
		all = append(all, i)
	}
	return all
}

// folder of an app in its repository.
func (f fleet) folder(i int) string { return "apps/" + f.app(i) }

// config names the ConfigMaps of an app: the first is what a commit changes, the second what somebody harms.
func (f fleet) config(i, n int) string { return fmt.Sprintf("%s-config-%d", f.app(i), n) }

// item is an object of an app, how the API server calls its kind, and its file.
type item struct {
	resource schema.GroupVersionResource
	file     string
	object   *unstructured.Unstructured
}

var (
	services        = schema.GroupVersionResource{Version: "v1", Resource: "services"}
	serviceAccounts = schema.GroupVersionResource{Version: "v1", Resource: "serviceaccounts"}
)

// items are the objects of an app; value is what its first ConfigMap says.
func (f fleet) items(i int, value string) []item {
	name, namespace := f.app(i), f.namespace(i)
	labels := map[string]any{"app.kubernetes.io/name": name}
	object := func(apiVersion, kind, name string, rest map[string]any) *unstructured.Unstructured {
		o := map[string]any{"apiVersion": apiVersion, "kind": kind, "metadata": map[string]any{"namespace": namespace, "name": name, "labels": labels}}
		for k, v := range rest {
			o[k] = v
		}
		return (&unstructured.Unstructured{Object: o}).DeepCopy() // they share labels until here
	}
	config := func(n int, value string) *unstructured.Unstructured {
		pad := strings.Repeat(fmt.Sprintf("%s %d. ", name, n), configBytes)
		return object("v1", "ConfigMap", f.config(i, n), map[string]any{
			"data": map[string]any{"value": value, "text": pad[:configBytes-len("value")-len(value)-len("text")]},
		})
	}
	return []item{
		{serviceAccounts, "serviceaccount.yaml", object("v1", "ServiceAccount", name, nil)},
		{configMaps, "config-1.yaml", config(1, value)},
		{configMaps, "config-2.yaml", config(2, "as Git has it")},
		{services, "service.yaml", object("v1", "Service", name, map[string]any{"spec": map[string]any{
			"selector": labels, "ports": []any{map[string]any{"name": "http", "port": int64(80), "targetPort": "http"}},
		}})},
		{deployments, "deployment.yaml", object("apps/v1", "Deployment", name, map[string]any{"spec": map[string]any{
			"replicas": int64(0), "selector": map[string]any{"matchLabels": labels},
			"template": map[string]any{
				"metadata": map[string]any{"labels": labels},
				"spec": map[string]any{"serviceAccountName": name, "containers": []any{map[string]any{
					"name": "main", "image": "registry.example/" + name + ":1.0.0",
					"ports":     []any{map[string]any{"name": "http", "containerPort": int64(8080)}},
					"envFrom":   []any{map[string]any{"configMapRef": map[string]any{"name": f.config(i, 1)}}},
					"resources": map[string]any{"requests": map[string]any{"cpu": "10m", "memory": "32Mi"}},
				}}},
			},
		}})},
	}
}

// firstValue is what the first ConfigMap of every app says until a commit changes it.
const firstValue = "first"

// files of a repository, by path: a folder for each app with a kustomization that lists its files.
func (f fleet) files(r int) (map[string]string, error) {
	if f.helm {
		return f.chart()
	}
	files := map[string]string{"README.md": "The apps of a fleet.\n"}
	for _, i := range f.inRepository(r) {
		list := "apiVersion: kustomize.config.k8s.io/v1beta1\nkind: Kustomization\nresources:\n"
		for _, it := range f.items(i, firstValue) {
			y, err := yaml.Marshal(it.object.Object)
			if err != nil {
				return nil, fmt.Errorf("write %s of %s: %w", it.file, f.app(i), err)
			}
			files[path.Join(f.folder(i), it.file)] = string(y)
			list += "- " + it.file + "\n"
		}
		files[path.Join(f.folder(i), "kustomization.yaml")] = list
	}
	return files, nil
}

// change gives the file that a one-line commit to an app changes: one value of its first ConfigMap.
func (f fleet) change(i int, value string) (map[string]string, error) {
	for _, it := range f.items(i, value) {
		if it.object.GetName() != f.config(i, 1) {
			continue
		}
		// Only the value is another one; the rest is as long as it was.
		if err := unstructured.SetNestedField(it.object.Object, textOf(f.items(i, firstValue), it.file), "data", "text"); err != nil {
			return nil, err
		}
		y, err := yaml.Marshal(it.object.Object)
		return map[string]string{path.Join(f.folder(i), it.file): string(y)}, err
	}
	return nil, fmt.Errorf("app %d has no ConfigMap %s", i, f.config(i, 1))
}

func textOf(items []item, file string) string {
	for _, it := range items {
		if it.file == file {
			s, _, _ := unstructured.NestedString(it.object.Object, "data", "text")
			return s
		}
	}
	return ""
}

// declaration of an app; base is the URL below which its repository is.
func (f fleet) declaration(i int, base string) *unstructured.Unstructured {
	switch {
	case f.argo:
		return application(f.app(i), base+"/"+f.repository(i)+".git", f.folder(i), f.namespace(i))
	case f.helm:
		return f.release(i)
	}
	return f.kustomization(i)
}

// kustomization is what declares an app.
func (f fleet) kustomization(i int) *unstructured.Unstructured {
	return kustomization(f.home(), f.app(i), f.repository(i), "./"+f.folder(i))
}

func kustomization(namespace, name, source, path string) *unstructured.Unstructured {
	return &unstructured.Unstructured{Object: map[string]any{
		"apiVersion": "kustomize.toolkit.fluxcd.io/v1", "kind": "Kustomization",
		"metadata": map[string]any{"namespace": namespace, "name": name},
		"spec": map[string]any{
			"interval": "1h", "path": path, "prune": true, "wait": true,
			"sourceRef": map[string]any{"kind": "GitRepository", "name": source},
		},
	}}
}

// overlayFiles are a repository of overlays over one base, as most people write them: what a build of one overlay costs
// is what a render costs.
func overlayFiles(overlays int) map[string]string {
	files := map[string]string{
		"base/kustomization.yaml": `apiVersion: kustomize.config.k8s.io/v1beta1
kind: Kustomization
resources: [deployment.yaml, service.yaml, ingress.yaml, configmap.yaml]
`,
		"base/deployment.yaml": `apiVersion: apps/v1
kind: Deployment
metadata: {name: web}
spec:
  replicas: 1
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec:
      containers:
      - name: main
        image: registry.example/web
        ports: [{name: http, containerPort: 8080}]
        envFrom:
        - configMapRef: {name: web}
        - configMapRef: {name: settings}
        readinessProbe: {httpGet: {path: /readyz, port: http}}
        resources: {requests: {cpu: 10m, memory: 32Mi}}
      - name: proxy
        image: registry.example/proxy
        args: [--listen=:8081, --to=localhost:8080]
`,
		"base/service.yaml": `apiVersion: v1
kind: Service
metadata: {name: web}
spec:
  selector: {app: web}
  ports: [{name: http, port: 80, targetPort: http}]
`,
		"base/ingress.yaml": `apiVersion: networking.k8s.io/v1
kind: Ingress
metadata: {name: web}
spec:
  rules:
  - host: web.example
    http:
      paths:
      - {path: /, pathType: Prefix, backend: {service: {name: web, port: {name: http}}}}
`,
		"base/configmap.yaml": "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: web}\ndata: {LEVEL: info, GREETING: hello}\n",
	}
	for i := range overlays {
		dir := overlayFolder(i) + "/"
		files[dir+"kustomization.yaml"] = fmt.Sprintf(`apiVersion: kustomize.config.k8s.io/v1beta1
kind: Kustomization
namespace: team-%02[1]d
namePrefix: t%[1]d-
labels:
- pairs: {team: team-%02[1]d, environment: production}
  includeSelectors: true
  includeTemplates: true
commonAnnotations: {owner: team-%02[1]d@example.com}
resources: [../../base]
images:
- {name: registry.example/web, newTag: 1.4.%[1]d}
- {name: registry.example/proxy, newTag: 2.0.%[1]d}
configMapGenerator:
- name: settings
  literals: [TEAM=%[1]d, CACHE=on]
  files: [settings.ini]
patches:
- path: replicas.yaml
- target: {kind: Ingress, name: web}
  patch: |
    - {op: replace, path: /spec/rules/0/host, value: team-%02[1]d.example}
`, i)
		files[dir+"replicas.yaml"] = fmt.Sprintf(`apiVersion: apps/v1
kind: Deployment
metadata: {name: web}
spec:
  replicas: %d
  template:
    spec:
      containers:
      - name: main
        env: [{name: TEAM, value: "%d"}]
        resources: {limits: {memory: 64Mi}}
`, 2+i%3, i)
		files[dir+"settings.ini"] = fmt.Sprintf("[team]\nnumber = %d\ntimeout = 30s\n", i)
	}
	return files
}

func overlayFolder(i int) string { return fmt.Sprintf("overlays/team-%03d", i) }
