package ci

import (
	"context"
	"io"
	"net/url"
	"time"

	"keelson.dev/keelson/internal/kube/proxy"
	"keelson.dev/keelson/internal/pipeline"
	"keelson.dev/keelson/internal/pipeline/executor"
	"keelson.dev/keelson/internal/pipeline/run"
)

// Access is a job's way to a cluster, as long as it runs. The zero value is none.
type Access struct {
	Variables pipeline.Variables // by which its programs find it: KUBECONFIG and the like
	// Written gives what the cluster has accepted of the job so far; nil: nothing is known.
	Written func() []proxy.Written
	Notes   []string // what the job's log says about it before the script
	Close   func()   // takes it back; nil: there is nothing to take
}

// Work is what a job has deployed.
type Work struct {
	Project     Project
	Environment string
	Job         run.JobRef
	Began       time.Time
	Wrote       []proxy.Written // objects
	Pushed      []Commit        // to repositories of the Git host
	Timeout     time.Duration   // how long it may take to get healthy; 0: as usual
}

// Commit is one that was pushed to a ref ("refs/heads/main").
type Commit struct{ Repository, Ref, SHA string }

// begin gives a job that starts what it has while it runs, and sees to what goes with it.
func (s *Server) begin(ctx context.Context, p Project, ref run.JobRef, job *executor.Job) (_ run.Attendance, err error) {
	var deployed func(executor.Result)
	var ends []func(executor.Result)
	end := func(r executor.Result) {
		if deployed != nil {
			deployed(r) // while it is known what the job has written
		}
		for i := len(ends) - 1; i >= 0; i-- {
			ends[i](r)
		}
	}
	defer func() {
		if err != nil {
			end(executor.FailedWith(err))
		}
	}()
	if job.Job.Environment != nil {
		p = s.ruled(ctx, p)
	}
	s.asPlayed(ctx, ref, job)
	job.LogLimit, job.Place = s.o.LogLimit, p.Place
	p.Limits.bound(job)
	var earlier func(io.Writer) error
	if job.Resume {
		s.sink.open(ref.ID)
		if _, job.Logged, err = s.o.Store.ReadLog(ref.ID, 0, 0); err != nil {
			return run.Attendance{}, err
		}
		earlier = func(w io.Writer) error { return s.copyLog(w, ref.ID, job.Logged) }
	}
	var access Access
	deployed, err = s.deploy(ctx, p, ref, job, func() []proxy.Written {
		if access.Written == nil {
			return nil
		}
		return access.Written()
	})
	if err != nil {
		return run.Attendance{}, err
	}
	token, takeBack := s.credentials(p, ref, job)
	ends = append(ends, func(executor.Result) { takeBack() })
	if s.o.Access != nil {
		if access, err = s.o.Access(ctx, p, ref, job); err != nil {
			return run.Attendance{}, err
		}
		if access.Close != nil {
			ends = append(ends, func(executor.Result) { access.Close() })
		}
		job.Variables = append(job.Variables, access.Variables...)
	}
	verify, forget := s.follow(p, ref, job, token, access)
	ends = append(ends, func(executor.Result) { forget() })
	return run.Attendance{Verify: verify, Notes: access.Notes, Earlier: earlier, End: end}, nil
}

// logPart is how much of a log is read at once.
const logPart = 256 << 10

// copyLog writes the beginning of a job's log.
func (s *Server) copyLog(w io.Writer, job, size int64) error {
	for at := int64(0); at < size; {
		part, _, err := s.o.Store.ReadLog(job, at, int(min(logPart, size-at)))
		if err != nil || len(part) == 0 {
			return err
		}
		if _, err := w.Write(part); err != nil {
			return err
		}
		at += int64(len(part))
	}
	return nil
}

// credentials gives a job its token, and takes it back.
func (s *Server) credentials(p Project, ref run.JobRef, job *executor.Job) (token string, end func()) {
	token, end = s.tokens.give(ref.ID, grant{project: p.Path, repository: p.Repository, job: ref.ID})
	origin := s.o.GitURL + "/" + p.Repository + ".git"
	if u, err := url.Parse(origin); err == nil {
		u.User = url.UserPassword("gitlab-ci-token", token)
		origin = u.String()
	}
	for _, v := range append(s.login(token), pipeline.Variable{Name: "CI_JOB_TOKEN", Value: token, Masked: true}, pipeline.Variable{Name: "CI_REPOSITORY_URL", Value: origin}) {
		v.Raw, v.Origin = true, pipeline.OriginPredefined
		job.Variables = append(job.Variables, v)
	}
	return token, end
}
