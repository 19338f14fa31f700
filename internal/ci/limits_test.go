package ci

import (
	"strings"
	"testing"
	"time"

	"keelson.dev/keelson/internal/pipeline"
	"keelson.dev/keelson/internal/pipeline/executor"
)

func TestLimits(t *testing.T) {
	for _, c := range []struct {
		most, asked, want time.Duration
	}{
		{0, 0, 0}, {0, time.Minute, time.Minute}, {time.Hour, 0, time.Hour}, {time.Hour, time.Minute, time.Minute}, {time.Minute, time.Hour, time.Minute},
		{3 * time.Hour, 0, 3 * time.Hour},
	} {
		job := executor.Job{Job: pipeline.Job{Timeout: pipeline.Duration(c.asked)}}
		Limits{Timeout: c.most, CPU: 500, Memory: 1 << 20}.bound(&job)
		if got := time.Duration(job.Timeout); got != c.want || job.CPU != 500 || job.Memory != 1<<20 {
			t.Errorf("at most %s, %s is asked for: %s, want %s; %d %d", c.most, c.asked, got, c.want, job.CPU, job.Memory)
		}
	}
}

// TestLimitsOfAProject holds that jobs are bounded as their project says.
func TestLimitsOfAProject(t *testing.T) {
	w := newWorld(t, "app")
	app := w.projects.all[0]
	app.Limits = Limits{Timeout: time.Second, Jobs: 1}
	w.projects.set(nil, app)
	dir := w.clone("app")
	w.commit(dir, "First", map[string]string{".gitlab-ci.yml": `
long: {script: ['sleep 60'], timeout: 1h}
lock: {script: ['mkdir $LOCK', 'sleep 0.1', 'rmdir $LOCK'], parallel: 3}
variables: {LOCK: ` + w.dir + `/lock}
`})
	p := w.push(dir, 1, "HEAD")[0]
	w.wants(p, "push main failed: long/1=failed lock 1/3/1=success lock 2/3/1=success lock 3/3/1=success")
	jobs, err := w.db.Jobs(t.Context(), p.ID)
	if err != nil || jobs[0].Reason != string(pipeline.ExecutionTimeout) || !strings.Contains(jobs[0].Message, "longer than 1s") {
		t.Errorf("%+v %v", jobs, err)
	}
}
