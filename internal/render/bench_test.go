package render_test

import (
	"strings"
	"syscall"
	"testing"

	"keelson.dev/keelson/internal/delivery"
	"keelson.dev/keelson/internal/render"
)

// typical is the overlay that throughput is measured with: patches, images, labels and a generator over a base of
// Deployment, Service, Ingress and ConfigMap.
var typical = content{
	"base/kustomization.yaml": `apiVersion: kustomize.config.k8s.io/v1beta1
kind: Kustomization
resources:
  - deployment.yaml
  - service.yaml
  - ingress.yaml
  - configmap.yaml
`,
	"base/deployment.yaml": `apiVersion: apps/v1
kind: Deployment
metadata:
  name: web
  labels:
    app: web
spec:
  replicas: 1
  selector:
    matchLabels:
      app: web
  template:
    metadata:
      labels:
        app: web
    spec:
      containers:
        - name: web
          image: example.com/web:latest
          ports:
            - name: http
              containerPort: 8080
          envFrom:
            - configMapRef:
                name: settings
          env:
            - name: MODE
              value: base
          resources:
            requests: {cpu: 10m, memory: 32Mi}
            limits: {memory: 128Mi}
          readinessProbe:
            httpGet: {path: /healthz, port: http}
          volumeMounts:
            - name: config
              mountPath: /etc/web
      volumes:
        - name: config
          configMap:
            name: web-files
`,
	"base/service.yaml": `apiVersion: v1
kind: Service
metadata:
  name: web
spec:
  selector:
    app: web
  ports:
    - name: http
      port: 80
      targetPort: http
`,
	"base/ingress.yaml": `apiVersion: networking.k8s.io/v1
kind: Ingress
metadata:
  name: web
spec:
  rules:
    - host: web.example.com
      http:
        paths:
          - path: /
            pathType: Prefix
            backend:
              service:
                name: web
                port:
                  name: http
`,
	"base/configmap.yaml": `apiVersion: v1
kind: ConfigMap
metadata:
  name: web-files
data:
  web.conf: |
    listen 8080
    log stdout
`,
	"apps/web/kustomization.yaml": `apiVersion: kustomize.config.k8s.io/v1beta1
kind: Kustomization
namespace: production
resources:
  - ../../base
labels:
  - pairs:
      env: production
      team: web
images:
  - name: example.com/web
    newTag: 1.2.3
configMapGenerator:
  - name: settings
    literals:
      - LOG_LEVEL=info
      - REGION=eu
patches:
  - path: replicas.yaml
  - target:
      kind: Ingress
      name: web
    patch: |
      - op: replace
        path: /spec/rules/0/host
        value: www.example.com
`,
	"apps/web/replicas.yaml": `apiVersion: apps/v1
kind: Deployment
metadata:
  name: web
spec:
  replicas: 3
  template:
    spec:
      containers:
        - name: web
          env:
            - name: MODE
              value: production
`,
}

// heavy is an overlay that uses most of what there is: prefix, selectors, annotations, two images.
var heavy = content{
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
	"apps/web/kustomization.yaml": `apiVersion: kustomize.config.k8s.io/v1beta1
kind: Kustomization
namespace: team-07
namePrefix: t7-
labels:
- pairs: {team: team-07, environment: production}
  includeSelectors: true
  includeTemplates: true
commonAnnotations: {owner: team-07@example.com}
resources: [../../base]
images:
- {name: registry.example/web, newTag: 1.4.7}
- {name: registry.example/proxy, newTag: 2.0.7}
configMapGenerator:
- name: settings
  literals: [TEAM=7, CACHE=on]
  files: [settings.ini]
patches:
- path: replicas.yaml
- target: {kind: Ingress, name: web}
  patch: |
    - {op: replace, path: /spec/rules/0/host, value: team-07.example}
`,
	"apps/web/replicas.yaml": `apiVersion: apps/v1
kind: Deployment
metadata: {name: web}
spec:
  replicas: 3
  template:
    spec:
      containers:
      - name: main
        env: [{name: TEAM, value: "7"}]
        resources: {limits: {memory: 64Mi}}
`,
	"apps/web/settings.ini": "[team]\nnumber = 7\ntimeout = 30s\n",
}

// listing is an app of five plain resources that its kustomization lists, as the fleet of the benchmark has.
func listing() content {
	c := content{"apps/web/kustomization.yaml": "apiVersion: kustomize.config.k8s.io/v1beta1\nkind: Kustomization\nnamespace: production\nresources:\n- deployment.yaml\n- service.yaml\n- a.yaml\n- b.yaml\n- sa.yaml\n",
		"apps/web/deployment.yaml": `apiVersion: apps/v1
kind: Deployment
metadata:
  name: web
  labels: {app: web}
spec:
  replicas: 0
  selector:
    matchLabels: {app: web}
  template:
    metadata:
      labels: {app: web}
    spec:
      serviceAccountName: web
      containers:
        - name: web
          image: registry.k8s.io/pause:3.10
          resources:
            requests: {cpu: 1m, memory: 1Mi}
`,
		"apps/web/service.yaml": typical["base/service.yaml"],
		"apps/web/sa.yaml":      named("ServiceAccount", "web"),
	}
	for _, name := range []string{"a", "b"} {
		c["apps/web/"+name+".yaml"] = named("ConfigMap", "web-"+name) + "data:\n  text: \"" + strings.Repeat("0123456789abcdef", 64) + "\"\n"
	}
	return c
}

// BenchmarkThroughput is how many builds there are in a second, on all processors, from a repository.
func BenchmarkThroughput(b *testing.B) {
	render.Warm()
	plain := listing()
	plain["apps/web/kustomization.yaml"] = strings.Replace(plain["apps/web/kustomization.yaml"], "namespace: production\n", "", 1)
	folder := listing().without("apps/web/kustomization.yaml")
	for _, c := range []struct {
		name string
		repo content
	}{{"overlay", typical}, {"heavy", heavy}, {"listing", plain}, {"listing-namespace", listing()}, {"folder", folder}} {
		b.Run(c.name, func(b *testing.B) {
			snap := commits(b, []content{c.repo})(0)
			b.ReportAllocs()
			b.ResetTimer()
			before := cpu(b)
			b.RunParallel(func(pb *testing.PB) {
				for pb.Next() {
					if _, _, err := render.Track(b.Context(), snap, delivery.Build{Path: "apps/web"}, nil); err != nil {
						b.Fatal(err)
					}
				}
			})
			b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "builds/s")
			b.ReportMetric((cpu(b)-before)*1e3/float64(b.N), "cpu-ms/op")
		})
	}
}

// cpu is the time in seconds that this process has worked, which other work on the machine does not change.
func cpu(b *testing.B) float64 {
	b.Helper()
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		b.Fatal(err)
	}
	return float64(u.Utime.Nano()+u.Stime.Nano()) / 1e9
}
