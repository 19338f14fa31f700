package compile

import (
	"fmt"
	"strings"
	"testing"

	"keelson.dev/keelson/internal/pipeline"
)

// TestTooLarge builds what no file may: too many jobs, needs and values.
func TestTooLarge(t *testing.T) {
	c := benchmarkContext()
	many := func(n int, job func(i int) pipeline.JobSpec) *pipeline.Config {
		cfg := &pipeline.Config{Stages: []string{pipeline.StagePre, "test", pipeline.StagePost}}
		for i := range n {
			j := job(i)
			j.Name, j.Stage, j.When = fmt.Sprintf("j%d", i), "test", pipeline.OnSuccess
			j.Base = j.Name
			cfg.Jobs = append(cfg.Jobs, j)
		}
		return cfg
	}
	wide := []pipeline.MatrixSet{{}}
	for i := range 20 {
		wide[0] = append(wide[0], pipeline.MatrixVariable{Name: fmt.Sprintf("V%d", i), Values: []string{"a", "b", "c"}})
	}
	values := make([]pipeline.VariableSpec, 10_000)
	for i := range values {
		values[i] = pipeline.VariableSpec{Name: fmt.Sprintf("V%d", i), Value: "$V1"}
	}
	for name, test := range map[string]struct {
		cfg  *pipeline.Config
		want string
	}{
		"jobs":   {many(60, func(int) pipeline.JobSpec { return pipeline.JobSpec{Parallel: &pipeline.Parallel{Count: 200}} }), "the jobs of the pipeline are too many with `j50` (maximum is 10000)"},
		"matrix": {many(1, func(int) pipeline.JobSpec { return pipeline.JobSpec{Parallel: &pipeline.Parallel{Matrix: wide}} }), "`j0` parallel:matrix config generates too many jobs (maximum is 200)"},
		"needs": {many(40, func(i int) pipeline.JobSpec {
			j := pipeline.JobSpec{Parallel: &pipeline.Parallel{Count: 200}}
			for k := range i {
				j.NeedSpecs = append(j.NeedSpecs, pipeline.NeedSpec{Need: pipeline.Need{Job: fmt.Sprintf("j%d", k)}})
			}
			return j
		}), "the needs of the pipeline are too many with those of `j5` (maximum is 500000)"},
		"variables": {many(320, func(int) pipeline.JobSpec { return pipeline.JobSpec{Vars: values} }), "the variables of all jobs are too many with those of `j29"},
	} {
		t.Run(name, func(t *testing.T) {
			r := Compile(test.cfg, c)
			if r.Graph != nil || len(r.Problems) == 0 || !strings.HasPrefix(r.Problems[0].Message, test.want) {
				t.Errorf("got %v", r.Problems)
			}
			var said []string
			for _, p := range Lint(test.cfg) {
				said = append(said, p.Message)
			}
			if !strings.Contains(strings.Join(said, "\n"), test.want) {
				t.Errorf("lint says %q", said)
			}
		})
	}
}

// TestChain compiles a long chain, and a long circle.
func TestChain(t *testing.T) {
	const length = 3000
	cfg := &pipeline.Config{Stages: []string{pipeline.StagePre, "test", pipeline.StagePost}}
	for i := range length {
		j := pipeline.JobSpec{}
		j.Name, j.Stage, j.When, j.DAG, j.NeedSpecs = fmt.Sprintf("j%d", i), "test", pipeline.OnSuccess, true, []pipeline.NeedSpec{}
		if i > 0 {
			j.NeedSpecs = append(j.NeedSpecs, pipeline.NeedSpec{Need: pipeline.Need{Job: fmt.Sprintf("j%d", i-1)}})
		}
		cfg.Jobs = append(cfg.Jobs, j)
	}
	r := Compile(cfg, benchmarkContext())
	if r.Graph == nil || len(r.Graph.Jobs) != length {
		t.Fatal(r.Problems)
	}
	cfg.Jobs[0].NeedSpecs = append(cfg.Jobs[0].NeedSpecs, pipeline.NeedSpec{Need: pipeline.Need{Job: fmt.Sprintf("j%d", length-1)}})
	r = Compile(cfg, benchmarkContext())
	if r.Graph != nil || len(r.Problems) != 1 || r.Problems[0].Code != "needs-cycle" {
		t.Fatal(len(r.Problems))
	}
	if n := len(r.Problems[0].Message); n > 1000 {
		t.Errorf("the message has %d bytes", n)
	}
}
