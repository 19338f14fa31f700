package schedule

import (
	"fmt"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"

	"keelson.dev/keelson/internal/pipeline"
)

// TestProcessing plays the cases of testdata/processing.txt.
func TestProcessing(t *testing.T) {
	data, err := os.ReadFile("testdata/processing.txt")
	if err != nil {
		t.Fatal(err)
	}
	_, text, _ := strings.Cut(string(data), "\n== ")
	for _, c := range strings.Split(text, "\n== ") {
		name, body, _ := strings.Cut(c, "\n")
		t.Run(name, func(t *testing.T) {
			g, steps, want, err := parseCase(body)
			if err != nil {
				t.Fatal(err)
			}
			got, err := Simulate(g, steps)
			if err != nil {
				t.Error(err)
			}
			for i := range want {
				if i >= len(got) {
					t.Fatalf("%d of %d events were played", len(got)-1, len(want)-1)
				}
				if have := line(g, got[i]); have != want[i] {
					event := "init"
					if i > 0 {
						event = fmt.Sprint(steps[i-1])
					}
					t.Errorf("%s:\n have %s\n want %s", event, have, want[i])
				}
			}
		})
	}
}

// line writes a snapshot as the cases do.
func line(g *pipeline.Graph, s Snapshot) string {
	out := string(s.Pipeline) + " |"
	for _, name := range g.Stages {
		out += " " + string(s.Stages[name])
	}
	out += " |"
	for _, j := range g.Jobs {
		out += " " + string(s.Jobs[j.Name])
	}
	return out
}

func parseCase(body string) (*pipeline.Graph, []Step, []string, error) {
	g, steps, want := &pipeline.Graph{}, []Step(nil), []string(nil)
	for _, l := range strings.Split(body, "\n") {
		if text, ok := strings.CutPrefix(l, "> "); ok {
			event, statuses, _ := strings.Cut(text, ":")
			f := strings.Fields(event)
			want = append(want, strings.Join(strings.Fields(statuses), " "))
			if f[0] == "init" {
				continue
			}
			step := Step{Event: f[0]}
			if len(f) > 1 {
				step.Jobs = strings.Split(f[1], ",")
			}
			if len(f) == 3 {
				step.ExitCode, _ = strconv.Atoi(f[2])
			}
			step.Dependants = strings.HasSuffix(event, "with dependants") || strings.Contains(event, "with dependants ")
			steps = append(steps, step)
			continue
		}
		f := strings.Fields(l)
		switch {
		case len(f) == 0 || strings.HasPrefix(l, "#"):
		case f[0] == "stages":
			g.Stages = f[1:]
		case f[0] == "autocancel":
			g.AutoCancel.OnJobFailure = "all"
		default:
			j := pipeline.Job{Name: f[0], Base: f[0], Stage: f[1], When: pipeline.OnSuccess}
			for _, k := range f[2:] {
				if err := keyword(&j, k); err != nil {
					return nil, nil, nil, err
				}
			}
			g.Jobs = append(g.Jobs, j)
		}
	}
	return g, steps, want, nil
}

func keyword(j *pipeline.Job, k string) error {
	key, value, has := strings.Cut(k, "=")
	switch key {
	case "needs":
		j.DAG = true
		for _, n := range strings.FieldsFunc(value, func(r rune) bool { return r == ',' }) {
			j.Needs = append(j.Needs, pipeline.Need{Job: n})
		}
	case "manual", "on_failure", "always":
		j.When = pipeline.When(key)
	case "delayed":
		j.When, j.StartIn = pipeline.Delayed, pipeline.Duration(time.Minute)
	case "allow":
		j.AllowFailure.Allowed = true
		for _, c := range strings.FieldsFunc(value, func(r rune) bool { return has && r == ',' }) {
			n, err := strconv.Atoi(c)
			if err != nil {
				return err
			}
			j.AllowFailure.ExitCodes = append(j.AllowFailure.ExitCodes, n)
		}
	case "retry":
		n, err := strconv.Atoi(value)
		if err != nil {
			return err
		}
		j.Retry.Max = n
	case "group":
		j.ResourceGroup = value
	default:
		return fmt.Errorf("unknown keyword %q", k)
	}
	return nil
}
