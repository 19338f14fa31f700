package pod_test

import (
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"keelson.dev/keelson/internal/pipeline"
	"keelson.dev/keelson/internal/pipeline/executor"
)

// BenchmarkNode measures jobs on a real node whose images are there: how long it takes from Run to the first line of a script, and what a
// job costs where 8 run at once. With KEELSON_BINARY the Pods run that program, else one that is smaller.
func BenchmarkNode(b *testing.B) {
	w := newWorld(b)
	w.measure(b, "warm", nil)
	vars := make(pipeline.Variables, 120)
	for i := range vars {
		vars[i] = pipeline.Variable{Name: "CI_SOME_VARIABLE_" + strconv.Itoa(i), Value: "some value", Origin: pipeline.OriginPredefined}
	}
	b.Run("first line", func(b *testing.B) {
		var all []time.Duration
		for b.Loop() {
			all = append(all, w.measure(b, "job", vars))
		}
		slices.Sort(all)
		b.ReportMetric(float64(all[len(all)/2].Milliseconds()), "ms-to-line-p50")
		b.ReportMetric(float64(all[len(all)*95/100].Milliseconds()), "ms-to-line-p95")
	})
	b.Run("8 at once", func(b *testing.B) {
		slots := make(chan struct{}, 8)
		var wg sync.WaitGroup
		for b.Loop() {
			slots <- struct{}{}
			wg.Go(func() {
				defer func() { <-slots }()
				w.measure(b, "job", vars)
			})
		}
		wg.Wait()
	})
}

// measure runs a job and gives how long it took to its first line.
func (w *world) measure(b *testing.B, name string, vars pipeline.Variables) time.Duration {
	j := job("echo fi''rst line")
	j.Name, j.Dir, j.Variables = name, b.TempDir(), vars
	log := &firstLine{text: "first line\n"}
	begin := time.Now()
	if r := w.x.Run(b.Context(), j, executor.NewTrace(log, j)); r.Status != pipeline.StatusSuccess {
		b.Fatalf("%+v\n%s", r, log.all.String())
	}
	return log.at.Sub(begin)
}

// firstLine notes when a text is written.
type firstLine struct {
	text string
	all  strings.Builder
	at   time.Time
}

func (f *firstLine) Write(p []byte) (int, error) {
	f.all.Write(p)
	if f.at.IsZero() && strings.Contains(f.all.String(), f.text) {
		f.at = time.Now()
	}
	return len(p), nil
}
