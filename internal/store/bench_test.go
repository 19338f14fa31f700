package store

import (
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"
	"time"
)

// BenchmarkAdvance keeps a scheduler event of the usual size with the jobs that it changes.
func BenchmarkAdvance(b *testing.B) {
	for _, c := range []struct {
		name    string
		durable bool
		jobs    int
	}{{"event", false, 0}, {"event and job", false, 1}, {"event and job, durable", true, 1}, {"event and 20 jobs", false, 20}} {
		b.Run(c.name, func(b *testing.B) {
			db := newDB(b)
			ctx := b.Context()
			p := newPipeline(b, db, "a/b", nil)
			p.ID, p.IID = 1000, 1000
			graph := make([]byte, 100<<10) // deflated it would be a megabyte of JSON
			rand.NewChaCha8([32]byte{}).Read(graph)
			ok(b, db.CreatePipeline(ctx, p, Inputs{Graph: graph}))
			entry := []byte(`{"kind":"drop","jobs":["build:amd64"],"at":"2026-03-01T12:00:00.123456Z","exitCode":1,"reason":"script_failure"}`)
			jobs := make([]Job, c.jobs)
			for i := range jobs {
				jobs[i] = Job{ID: must(db.NextID(ctx))(b), Name: fmt.Sprint("build", i), Stage: "build", Attempt: 1, Status: "running", Why: "started", Created: day, Started: day}
			}
			var end int64
			for b.Loop() {
				end = must(db.Advance(ctx, p.ID, end, Step{Events: [][]byte{entry}, Status: "running", Why: "job build runs", Started: day, Jobs: jobs, Durable: c.durable}))(b)
			}
		})
	}
}

func BenchmarkNextID(b *testing.B) {
	db := newDB(b)
	for b.Loop() {
		must(db.NextID(b.Context()))(b)
	}
}

// BenchmarkCreate makes pipelines with a graph of 100 KB.
func BenchmarkCreate(b *testing.B) {
	db := newDB(b)
	ctx := b.Context()
	project := must(db.EnsureProject(ctx, "a/b"))(b)
	var graph []byte
	for i := range 1000 {
		graph = fmt.Appendf(graph, `{"name":"job %d","stage":"test","script":["make %x","echo done"],"image":"golang:1.26"},`, i, rand.Uint64())
	}
	for b.Loop() {
		id, iid, err := db.Reserve(ctx, project.ID)
		ok(b, err)
		ok(b, db.CreatePipeline(ctx, Pipeline{ID: id, IID: iid, Project: project.ID, Status: "created"}, Inputs{Graph: graph}))
	}
	b.SetBytes(int64(len(graph)))
}

// BenchmarkPipelines lists 100 of 100,000 pipelines with jobs.
func BenchmarkPipelines(b *testing.B) {
	db := newDB(b)
	ctx := b.Context()
	const n = 100_000
	r := rand.New(rand.NewPCG(1, 2))
	for i := range 20 {
		must(db.EnsureProject(ctx, fmt.Sprint("group/", i)))(b)
	}
	ok(b, db.write(ctx, false, func(tx *tx) error {
		for i := int64(1); i <= n; i++ {
			status := "success"
			if i%10 == 0 {
				status = "failed"
			}
			err := tx.exec(`INSERT INTO pipelines (id, iid, project, source, ref, tag, sha, before, title, author, started_by, status, created, resting)
				VALUES (?, ?, ?, ?, ?, 0, ?, '', 'a commit that does something useful', 'Ann Author', 'ann', ?, ?, 1)`,
				i, i, 1+r.Int64N(20), []string{"push", "web", "schedule"}[r.IntN(3)], fmt.Sprint("branch-", r.IntN(100)), fmt.Sprintf("%040x", r.Uint64()), status, micros(day)+i)
			if err != nil {
				return err
			}
		}
		return nil
	}))
	for _, c := range []struct {
		name string
		f    PipelineFilter
	}{
		{"all", PipelineFilter{}},
		{"project", PipelineFilter{Project: 7}},
		{"project and ref", PipelineFilter{Project: 7, Ref: "branch-42"}},
		{"project, status and source", PipelineFilter{Project: 7, Status: "failed", Source: "web"}},
		{"a page in the middle", PipelineFilter{Project: 7, Top: true, Before: n / 2}},
		{"a status that none has", PipelineFilter{Project: 7, Status: "running"}},
		{"a ref that is rare, in all projects", PipelineFilter{Ref: "none"}},
	} {
		b.Run(c.name, func(b *testing.B) {
			for b.Loop() {
				must(db.Pipelines(ctx, c.f))(b)
			}
		})
	}
	b.Run("one", func(b *testing.B) {
		for b.Loop() {
			must(db.Pipeline(ctx, 1+r.Int64N(n)))(b)
		}
	})
	b.Run("start", func(b *testing.B) {
		path := string(db.engine.(inFile))
		for b.Loop() {
			ok(b, db.Close())
			db = openAt(b, path)
		}
	})
}

func BenchmarkLog(b *testing.B) {
	line := []byte("2026-03-01T12:00:00.123456Z 00O compiling a package with a name of the usual length\n")
	const size = 100 << 20
	for _, c := range []struct {
		name  string
		chunk int
		tail  bool
	}{{"append lines", len(line), false}, {"append 100 MB", 32 << 10, false}, {"append and follow 100 MB", 32 << 10, true}} {
		b.Run(c.name, func(b *testing.B) {
			db := newDB(b)
			chunk := make([]byte, c.chunk)
			total := int64(size)
			if c.chunk == len(line) {
				total = int64(c.chunk) * 1000
			}
			b.SetBytes(total)
			b.ReportAllocs()
			job := int64(0)
			for b.Loop() {
				job++
				w := must(db.LogWriter(job))(b)
				done := make(chan int64, 1)
				if c.tail {
					tail := db.Follow(b.Context(), job, 0)
					go func() {
						defer tail.Close()
						n, err := io.CopyBuffer(struct{ io.Writer }{io.Discard}, struct{ io.Reader }{tail}, make([]byte, 32<<10))
						ok(b, err)
						done <- n
					}()
				}
				for n := int64(0); n < total; n += int64(len(chunk)) {
					if _, err := w.Write(chunk); err != nil {
						b.Fatal(err)
					}
				}
				ok(b, w.Close())
				if c.tail {
					if n := <-done; n != size {
						b.Fatal(n)
					}
				}
				ok(b, db.logs.remove(job))
			}
		})
	}
}

// BenchmarkListWhileDriven lists while 50 pipelines advance, each 20 times a second.
func BenchmarkListWhileDriven(b *testing.B) {
	db := newDB(b)
	ctx, stop := context.WithCancel(b.Context())
	var drivers sync.WaitGroup
	for i := range 50 {
		p := newPipeline(b, db, fmt.Sprint("a/", i%5), nil)
		j := Job{ID: must(db.NextID(ctx))(b), Name: "build", Attempt: 1, Status: "running"}
		drivers.Go(func() {
			var end int64
			for tick := time.Tick(50 * time.Millisecond); ctx.Err() == nil; <-tick {
				end = must(db.Advance(b.Context(), p.ID, end, Step{Events: [][]byte{[]byte(`{"kind":"run"}`)}, Status: "running", Jobs: []Job{j}}))(b)
			}
		})
	}
	var took []time.Duration
	for b.Loop() {
		begin := time.Now()
		must(db.Pipelines(ctx, PipelineFilter{Project: 1}))(b)
		took = append(took, time.Since(begin))
	}
	stop()
	drivers.Wait()
	slices.Sort(took)
	b.ReportMetric(float64(took[len(took)*95/100].Microseconds())/1000, "ms-p95")
}
