package render_test

import (
	"fmt"
	"testing"

	"keelson.dev/keelson/internal/delivery"
	"keelson.dev/keelson/internal/render"
)

// BenchmarkFormats renders the same 500 objects as a folder of manifests of each dialect, and as a chart.
func BenchmarkFormats(b *testing.B) {
	var pairs []string
	for i := range 500 {
		pairs = append(pairs, fmt.Sprintf("templates/%03d.yaml", i), fmt.Sprintf(`apiVersion: apps/v1
kind: Deployment
metadata:
  name: web-%d
  namespace: shop
  labels: {app: web, tier: "1"}
spec:
  replicas: 3
  selector:
    matchLabels: {app: web-%d}
  template:
    metadata:
      labels: {app: web-%d}
    spec:
      containers:
      - name: web
        image: registry.example.org/web:1.2.3
        ports: [{containerPort: 8080, name: http}]
        resources:
          limits: {cpu: 500m, memory: 128Mi}
`, i, i, i))
	}
	snap := delivery.Snapshot{FS: chartOf(pairs...)}
	for name, build := range map[string]delivery.Build{
		"Flux":      {Path: "templates"},
		"Directory": parts(delivery.Part{Root: ".", Path: "templates"}),
		"Helm":      asChart(delivery.Helm{}),
	} {
		b.Run(name, func(b *testing.B) {
			for range b.N {
				if objects, err := render.Build(b.Context(), snap, build, nil); err != nil || len(objects) != 500 {
					b.Fatal(len(objects), err)
				}
			}
		})
	}
}
