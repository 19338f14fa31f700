package schedule

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"

	"keelson.dev/keelson/internal/pipeline"
)

var epoch = time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)

func graphOf(t testing.TB, text string) *pipeline.Graph {
	t.Helper()
	g, _, _, err := parseCase(text)
	if err != nil {
		t.Fatal(err)
	}
	return g
}

// TestRefused holds what events are refused, with which words, and that they change nothing.
func TestRefused(t *testing.T) {
	g := graphOf(t, "stages one two\ncompile one\ngate one manual\nlater one delayed\nship two")
	for _, c := range []struct{ event, error string }{
		{"explode compile", `unknown event "explode": it is one of play, enqueue, run, success, drop, cancel, retry, due, unschedule`},
		{"run", `run: no job is named`},
		{"run nobody", `run: there is no job "nobody" in the pipeline`},
		{"run compile,compile", `run: job "compile" is named twice`},
		{"run ship", `run: job "ship" is created`},
		{"play compile", `play: job "compile" is pending`},
		{"retry gate", `retry: job "gate" is manual; play it`},
		{"retry", `retry: no job has failed or was canceled`},
		{"due later", `due: job "later" is due at 2026-01-02T03:05:05Z`},
		{"grant compile", `grant: job "compile" is pending`},
	} {
		s := New(g, epoch)
		before := s.Clone()
		f := strings.Fields(c.event)
		e := Event{Kind: Kind(f[0]), At: epoch}
		if len(f) > 1 {
			e.Jobs = strings.Split(f[1], ",")
		}
		if _, err := s.Apply(e); err == nil || err.Error() != c.error {
			t.Errorf("%s: have %v, want %s", c.event, err, c.error)
		}
		if !same(before, s) {
			t.Errorf("%s: the state has changed", c.event)
		}
	}
}

// TestWhy shows what a person reads about what the scheduler did.
func TestWhy(t *testing.T) {
	g := graphOf(t, `
stages one two three
compile one retry=1
flaky   one allow
gate    two manual allow
check   two
needy   two needs=gate
rescue  three on_failure
later   three delayed
live    three group=prod
ship    three needs=compile`)
	s := New(g, epoch)
	var out []string
	apply := func(e Event) {
		t.Helper()
		e.At = epoch
		changes, err := s.Apply(e)
		if err != nil {
			t.Fatal(err)
		}
		for _, c := range changes {
			if c.Job != "" {
				out = append(out, fmt.Sprintf("%s %s: %s", c.Job, c.To, c.Why))
			}
		}
		out = append(out, "")
	}
	apply(Event{Kind: Run, Jobs: []string{"compile"}})
	apply(Event{Kind: Drop, Jobs: []string{"compile"}, ExitCode: 2, Reason: pipeline.ScriptFailure})
	apply(Event{Kind: Success, Jobs: []string{"compile", "flaky"}})
	apply(Event{Kind: Drop, Jobs: []string{"check"}, Reason: pipeline.ExecutionTimeout})
	apply(Event{Kind: Retry, Jobs: []string{"check"}})
	apply(Event{Kind: Cancel, Why: "canceled by ann"})
	want := `compile running: started

compile failed: script failure, exit code 2
compile created: retry 1 of 1: script failure, exit code 2
compile pending: retry 1 of 1: script failure, exit code 2

compile success: succeeded
flaky success: succeeded
ship pending: its needs have passed
gate manual: waits for a person to play it
check pending: the earlier stages have passed
needy skipped: need "gate" has not been played

check failed: job execution timeout
rescue pending: something before it failed
later skipped: job "check" failed
live skipped: job "check" failed

check created: retried
later created: decided anew
live created: decided anew
check pending: retried

gate canceled: canceled by ann
check canceled: canceled by ann
rescue canceled: canceled by ann
later canceled: canceled by ann
live canceled: canceled by ann
ship canceled: canceled by ann
`
	if have := strings.Join(out, "\n"); have != want {
		t.Errorf("have:\n%s", have)
	}
}

// TestRetries holds which failures run again by themselves.
func TestRetries(t *testing.T) {
	for _, c := range []struct {
		name   string
		retry  pipeline.Retry
		reason pipeline.FailureReason
		code   int
		want   int
	}{
		{"says nothing", pipeline.Retry{}, pipeline.ScriptFailure, 1, 0},
		{"any failure", pipeline.Retry{Max: 2}, pipeline.ScriptFailure, 1, 2},
		{"always", pipeline.Retry{Max: 1, When: []string{"always"}}, pipeline.ScriptFailure, 1, 1},
		{"this reason", pipeline.Retry{Max: 1, When: []string{"api_failure", "script_failure"}}, pipeline.ScriptFailure, 1, 1},
		{"another reason", pipeline.Retry{Max: 1, When: []string{"api_failure"}}, pipeline.ScriptFailure, 1, 0},
		{"this code", pipeline.Retry{Max: 1, ExitCodes: []int{137}}, pipeline.ScriptFailure, 137, 1},
		{"another code", pipeline.Retry{Max: 1, ExitCodes: []int{137}}, pipeline.ScriptFailure, 1, 0},
		{"codes and no code", pipeline.Retry{Max: 1, ExitCodes: []int{137}}, pipeline.RunnerSystemFailure, 0, 0},
		{"code or reason", pipeline.Retry{Max: 1, ExitCodes: []int{137}, When: []string{"runner_system_failure"}}, pipeline.RunnerSystemFailure, 0, 1},
		{"the scheduler's fault", pipeline.Retry{}, pipeline.SchedulerFailure, 0, 2},
		{"the scheduler's fault, but the job says how often", pipeline.Retry{Max: 1}, pipeline.SchedulerFailure, 0, 1},
		{"the scheduler's fault, and another reason is given", pipeline.Retry{Max: 1, When: []string{"api_failure"}}, pipeline.SchedulerFailure, 0, 2},
		{"never", pipeline.Retry{Max: 2}, pipeline.MissingDependency, 0, 0},
		{"never either", pipeline.Retry{Max: 2}, "environment_creation_failure", 0, 0},
	} {
		g := &pipeline.Graph{Stages: []string{"one"}, Jobs: []pipeline.Job{{Name: "job", Stage: "one", When: pipeline.OnSuccess, Retry: c.retry}}}
		s, have := New(g, epoch), -1
		for s.Status != pipeline.StatusFailed {
			if _, err := s.Apply(Event{Kind: Drop, Jobs: []string{"job"}, Reason: c.reason, ExitCode: c.code}); err != nil {
				t.Fatal(err)
			}
			have++
		}
		if have != c.want {
			t.Errorf("%s: %d retries, want %d", c.name, have, c.want)
		}
	}
}

// TestCancelRunning shows a running job that is told to stop, and how it ends.
func TestCancelRunning(t *testing.T) {
	s := New(graphOf(t, "stages one two\ncompile one\nship two"), epoch)
	for _, e := range []struct {
		event Event
		want  string
	}{
		{Event{Kind: Run, Jobs: []string{"compile"}}, "running | running created"},
		{Event{Kind: Cancel}, "canceling | canceling canceled"},
		{Event{Kind: Drop, Jobs: []string{"compile"}, ExitCode: 143}, "canceled | canceled canceled"},
		{Event{Kind: Retry}, "running | pending created"},
	} {
		if _, err := s.Apply(e.event); err != nil {
			t.Fatal(err)
		}
		if have := fmt.Sprintf("%s | %s %s", s.Status, s.Jobs[0].Status, s.Jobs[1].Status); have != e.want {
			t.Errorf("%s: have %s, want %s", e.event.Kind, have, e.want)
		}
	}
}

// TestTimes follows the times of a job.
func TestTimes(t *testing.T) {
	s := New(graphOf(t, "stages one two\ncompile one\nlater two delayed"), epoch)
	at := func(seconds int) time.Time { return epoch.Add(time.Duration(seconds) * time.Second) }
	for _, e := range []Event{
		{Kind: Run, Jobs: []string{"compile"}, At: at(1)},
		{Kind: Success, Jobs: []string{"compile"}, At: at(2)},
	} {
		if _, err := s.Apply(e); err != nil {
			t.Fatal(err)
		}
	}
	j, _ := s.Job("compile")
	if !j.QueuedAt.Equal(at(0)) || !j.StartedAt.Equal(at(1)) || !j.FinishedAt.Equal(at(2)) {
		t.Errorf("compile: %+v", j)
	}
	due, ok := s.NextDue()
	if !ok || !due.Equal(at(62)) || s.Idle() {
		t.Errorf("due %v at %v, idle %v", ok, due, s.Idle())
	}
	if changes, err := s.Apply(Event{Kind: Due, At: at(61)}); err != nil || len(changes) != 0 {
		t.Errorf("too early: %v %v", changes, err)
	}
	if _, err := s.Apply(Event{Kind: Due, At: at(62)}); err != nil || s.Jobs[1].Status != pipeline.StatusPending {
		t.Errorf("in time: %v %+v", err, s.Jobs[1])
	}
	if _, err := s.Apply(Event{Kind: Success, Jobs: []string{"later"}, At: at(70)}); err != nil || !s.FinishedAt.Equal(at(70)) || !s.StartedAt.Equal(at(1)) {
		t.Errorf("the end: %v %v", err, s.FinishedAt)
	}
}

// TestRetryDependantsAtWork refuses to take the ground from under a running job.
func TestRetryDependantsAtWork(t *testing.T) {
	s := New(graphOf(t, "stages one two\ncompile one\nship two"), epoch)
	for _, e := range []Event{{Kind: Success, Jobs: []string{"compile"}}, {Kind: Run, Jobs: []string{"ship"}}} {
		if _, err := s.Apply(e); err != nil {
			t.Fatal(err)
		}
	}
	_, err := s.Apply(Event{Kind: Retry, Jobs: []string{"compile"}, Dependants: true})
	if want := `retry: job "ship", which comes after "compile", is running; cancel it or wait for it`; err == nil || err.Error() != want {
		t.Errorf("have %v, want %s", err, want)
	}
	if _, err := s.Apply(Event{Kind: Retry, Jobs: []string{"compile"}}); err != nil || s.Jobs[1].Status != pipeline.StatusRunning {
		t.Errorf("alone: %v, ship is %s", err, s.Jobs[1].Status)
	}
}

// TestResumeRefuses holds that a state is not taken up with another graph.
func TestResumeRefuses(t *testing.T) {
	data, err := json.Marshal(New(graphOf(t, "stages one\ncompile one"), epoch))
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct{ graph, data, error string }{
		{"stages one\nother one", string(data), `the stored state has the job "compile" where its graph has "other"`},
		{"stages two\ncompile two", string(data), `the stored state has the stage "one" where its graph has "two"`},
		{"stages one\ncompile one\nother one", string(data), `the stored state has 1 jobs in 1 stages, its graph has 2 in 1`},
		{"stages one\ncompile one", strings.Replace(string(data), `"name":"compile","status":"pending"`, `"name":"compile","status":"lost"`, 1), `the stored state has the job "compile" in the unknown status "lost"`},
		{"stages one\ncompile one", "{", `read the state of the pipeline: unexpected end of JSON input`},
	} {
		if _, err := Resume(graphOf(t, c.graph), []byte(c.data)); err == nil || err.Error() != c.error {
			t.Errorf("%s: have %v, want %s", c.graph, err, c.error)
		}
	}
}

// TestSimulateError gives the number of the event.
func TestSimulateError(t *testing.T) {
	g := graphOf(t, "stages one\ncompile one")
	out, err := Simulate(g, []Step{{Event: "run", Jobs: []string{"compile"}}, {Event: "run", Jobs: []string{"compile"}}})
	if err == nil || err.Error() != `event 2: run: job "compile" is running` || len(out) != 2 {
		t.Errorf("have %v after %d snapshots", err, len(out))
	}
	data, _ := json.Marshal(out[1])
	if want := `{"event":"run","pipeline":"running","stages":{"one":"running"},"jobs":{"compile":"running"}}`; string(data) != want {
		t.Errorf("have %s", data)
	}
}

// TestBy holds whose an attempt is: who has asked for it, and nobody's where it is repeated by itself.
func TestBy(t *testing.T) {
	s := New(graphOf(t, "stages one two three\nauto one retry=1\ngate two manual\nlast three"), epoch)
	for _, c := range []struct {
		Event
		want string // of each job: attempt and user
	}{
		{Event{Kind: Drop, Jobs: []string{"auto"}}, "auto/2 gate/1 last/1"},
		{Event{Kind: Drop, Jobs: []string{"auto"}}, "auto/2 gate/1 last/1"},
		{Event{Kind: Retry, By: "bob"}, "auto/3bob gate/1bob last/1bob"}, // skipped jobs that are decided anew are whose wish that was
		{Event{Kind: Success, Jobs: []string{"auto"}}, "auto/3bob gate/1bob last/1bob"},
		{Event{Kind: Play, Jobs: []string{"gate"}, By: "eve"}, "auto/3bob gate/1eve last/1bob"},
		{Event{Kind: Success, Jobs: []string{"gate"}}, "auto/3bob gate/1eve last/1bob"},
		{Event{Kind: Play, Jobs: []string{"gate"}, By: "ann"}, "auto/3bob gate/2ann last/1bob"},
		{Event{Kind: Success, Jobs: []string{"gate", "last"}}, "auto/3bob gate/2ann last/1bob"},
		{Event{Kind: Retry, Jobs: []string{"gate"}, Dependants: true, By: "bob"}, "auto/3bob gate/3bob last/2bob"},
	} {
		if _, err := s.Apply(c.Event); err != nil {
			t.Fatalf("%s %v: %v", c.Kind, c.Jobs, err)
		}
		var have []string
		for _, j := range s.Jobs {
			have = append(have, fmt.Sprintf("%s/%d%s", j.Name, j.Attempt, j.By))
		}
		if strings.Join(have, " ") != c.want {
			t.Errorf("%s %v: have %s\nwant %s", c.Kind, c.Jobs, have, c.want)
		}
	}
}

// TestByOfSkipped holds whose skipped jobs are that somebody lets be decided anew, in each way to do it.
func TestByOfSkipped(t *testing.T) {
	for _, c := range []struct {
		graph string
		ends  []Event
		wish  Event
		want  string // of each job: attempt and user
	}{
		{"stages one two\nauto one\ndeploy two", []Event{{Kind: Drop, Jobs: []string{"auto"}}}, Event{Kind: Retry, By: "bob"}, "auto/2bob deploy/1bob"},
		{"stages one two\nauto one\ndeploy two", []Event{{Kind: Drop, Jobs: []string{"auto"}}}, Event{Kind: Retry, Jobs: []string{"auto"}, By: "bob"}, "auto/2bob deploy/1bob"},
		{"stages one two\nauto one\ndeploy two", []Event{{Kind: Drop, Jobs: []string{"auto"}}}, Event{Kind: Retry, Jobs: []string{"auto"}, Dependants: true, By: "bob"}, "auto/2bob deploy/1bob"},
		{"stages one two\nauto one\ngate one manual allow\ndeploy two", []Event{{Kind: Drop, Jobs: []string{"auto"}}}, Event{Kind: Play, Jobs: []string{"gate"}, By: "bob"}, "auto/1 gate/1bob deploy/1bob"},
		{"stages one two\nauto one\ndeploy two", []Event{{Kind: Drop, Jobs: []string{"auto"}}}, Event{Kind: Retry}, "auto/2 deploy/1"},
	} {
		s := New(graphOf(t, c.graph), epoch)
		for _, e := range append(c.ends, c.wish) {
			if _, err := s.Apply(e); err != nil {
				t.Fatalf("%s %v: %v", e.Kind, e.Jobs, err)
			}
		}
		var have []string
		for _, j := range s.Jobs {
			have = append(have, fmt.Sprintf("%s/%d%s", j.Name, j.Attempt, j.By))
		}
		if strings.Join(have, " ") != c.want {
			t.Errorf("%s %v: have %s\nwant %s", c.wish.Kind, c.wish.Jobs, have, c.want)
		}
	}
}
