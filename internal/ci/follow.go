package ci

import (
	"context"
	"fmt"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"keelson.dev/keelson/internal/pipeline"
	"keelson.dev/keelson/internal/pipeline/executor"
	"keelson.dev/keelson/internal/pipeline/run"
)

// Following says whether jobs of an environment wait until what they have deployed is healthy.
type Following struct {
	Environment string // * stands for anything
	Off         bool
	Timeout     time.Duration // 0: as usual
}

// followVariable switches it on or off for a job.
const followVariable = "KEELSON_FOLLOW"

// following says what holds for a job.
func following(p Project, job *executor.Job) Following {
	var f Following
	i := slices.IndexFunc(p.Following, func(f Following) bool { return match(f.Environment, job.Job.Environment.Name) })
	if i >= 0 {
		f = p.Following[i]
	}
	f.Off = !job.Is(followVariable, !f.Off)
	return f
}

// follow gives what waits for a job's deployment, nil where the job makes none, and what ends its part of it.
func (s *Server) follow(p Project, ref run.JobRef, job *executor.Job, token string, access Access) (verify func(context.Context, *executor.Trace) error, forget func()) {
	env := job.Job.Environment
	if s.o.Follow == nil || env == nil || env.Action != "" && env.Action != "start" {
		return nil, func() {}
	}
	f := following(p, job)
	if f.Off {
		return func(_ context.Context, trace *executor.Trace) error {
			trace.Printf("The rollout is not followed: %s, or the Project's settings of environment %s, switch that off.", followVariable, env.Name)
			return nil
		}, func() {}
	}
	if vars, ok := jobHeader(s.o.GitURL, token, job.Variables); ok {
		job.Variables = append(job.Variables, vars...)
	}
	s.pushes.begin(ref.ID)
	work := Work{Project: p, Environment: env.Name, Job: ref, Began: job.Started, Timeout: f.Timeout}
	if work.Began.IsZero() {
		work.Began = s.o.Now()
	}
	return func(ctx context.Context, trace *executor.Trace) error {
		if access.Written != nil {
			work.Wrote = access.Written()
		}
		work.Pushed = s.pushes.of(ref.ID)
		return s.o.Follow(ctx, work, trace)
	}, func() { s.pushes.end(ref.ID) }
}

// maxGitConfig bounds the settings that a job's own GIT_CONFIG_COUNT may name.
const maxGitConfig = 1000

// jobHeader gives the variables by which a job's git tells the Git host, and nobody else, which job it is (githost.JobHeader). Settings that
// the job gives in the same way stay; false: these cannot be read.
func jobHeader(gitURL, token string, vars pipeline.Variables) (pipeline.Variables, bool) {
	u, err := url.Parse(gitURL)
	if err != nil || u.Host == "" {
		return nil, false
	}
	n := 0
	if v, ok := vars.Get("GIT_CONFIG_COUNT"); ok {
		value := v.Value
		if !v.Raw {
			value = vars.Expand(value)
		}
		if n, err = strconv.Atoi(strings.TrimSpace(value)); err != nil || n < 0 || n > maxGitConfig {
			return nil, false
		}
	}
	origin := url.URL{Scheme: u.Scheme, Host: u.Host, Path: "/"} // repositories are served with and without the path
	variable := func(name, value string) pipeline.Variable {
		return pipeline.Variable{Name: name, Value: value, Raw: true, Origin: pipeline.OriginDeployment} // goes before the job's own
	}
	header := variable(fmt.Sprintf("GIT_CONFIG_VALUE_%d", n), "X-Keelson-Job: "+token)
	header.Masked = true
	return pipeline.Variables{
		variable("GIT_CONFIG_COUNT", strconv.Itoa(n+1)), variable(fmt.Sprintf("GIT_CONFIG_KEY_%d", n), "http."+origin.String()+".extraHeader"), header,
	}, true
}

// Job is a Git host's port for what jobs say of themselves when they push: it gives the number of the job that a token is of; 0: of none.
func (s *Server) Job(token string) int64 {
	g, ok := s.tokens.of(token)
	if !ok {
		return 0
	}
	return g.job
}

// pushes are those of jobs that run and will be asked what they have pushed.
type pushes struct {
	mu   sync.Mutex
	jobs map[int64][]Commit
}

// maxPushed bounds how many refs are remembered of a job.
const maxPushed = 100

func newPushes() *pushes { return &pushes{jobs: map[int64][]Commit{}} }

func (p *pushes) begin(job int64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if _, ok := p.jobs[job]; !ok {
		p.jobs[job] = []Commit{}
	}
}

func (p *pushes) end(job int64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.jobs, job)
}

// add remembers a push of a job: of each ref what it was moved to last.
func (p *pushes) add(push Push) {
	p.mu.Lock()
	defer p.mu.Unlock()
	all, ok := p.jobs[push.Job]
	if !ok || push.Job == 0 {
		return
	}
	for _, c := range push.Changes {
		all = slices.DeleteFunc(all, func(have Commit) bool { return have.Repository == push.Repository && have.Ref == c.Ref })
		if c.After != zeroes && len(all) < maxPushed {
			all = append(all, Commit{Repository: push.Repository, Ref: c.Ref, SHA: c.After})
		}
	}
	p.jobs[push.Job] = all
}

func (p *pushes) of(job int64) []Commit {
	p.mu.Lock()
	defer p.mu.Unlock()
	return slices.Clone(p.jobs[job])
}
