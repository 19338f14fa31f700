package run

import (
	"context"

	"keelson.dev/keelson/internal/pipeline/executor"
)

// Sources gives jobs directories with the sources of the project. It is safe for concurrent use.
type Sources interface {
	// Open gives the directory that a job works in; it need not be ready yet.
	Open(j JobRef) (Workspace, error)
}

// Workspace is a directory that a job works in.
type Workspace interface {
	Dir() string
	// InPlace tells whether it is a person's own working tree.
	InPlace() bool
	// Prepare makes it ready; the trace tells how.
	Prepare(ctx context.Context, job executor.Job, trace *executor.Trace) error
	// Close lets go of it when nothing of the job runs any more.
	Close() error
}

// InPlace lets all jobs work in one directory as it is, an absolute path.
func InPlace(dir string) Sources { return inPlace{dir} }

type inPlace struct{ dir string }

func (s inPlace) Open(JobRef) (Workspace, error) { return s, nil }
func (s inPlace) Dir() string                    { return s.dir }
func (s inPlace) InPlace() bool                  { return true }
func (s inPlace) Close() error                   { return nil }
func (s inPlace) Prepare(_ context.Context, _ executor.Job, trace *executor.Trace) error {
	trace.Printf("Using the working tree %s as it is", s.dir)
	return nil
}
