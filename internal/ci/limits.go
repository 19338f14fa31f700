package ci

import (
	"time"

	"keelson.dev/keelson/internal/pipeline"
	"keelson.dev/keelson/internal/pipeline/executor"
)

// Limits bound what the jobs of a project take; what is 0 is not bounded.
type Limits struct {
	Jobs    int           // that run at a time
	Timeout time.Duration // the most that the timeout of a job may be, and that of jobs which name none
	CPU     int64         // of a job, in thousandths of a processor
	Memory  int64         // of a job, in bytes
}

// bound gives a job what it may take.
func (l Limits) bound(job *executor.Job) {
	job.CPU, job.Memory = l.CPU, l.Memory
	if l.Timeout > 0 && (job.Timeout <= 0 || time.Duration(job.Timeout) > l.Timeout) {
		job.Timeout = pipeline.Duration(l.Timeout)
	}
}
