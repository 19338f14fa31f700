package run

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"keelson.dev/keelson/internal/pipeline"
)

// TestVariablesOfVariables holds that values refer to each other over several steps, reports included, as the server resolves them
// before a runner sees them; and that a circle of them does not fail the job.
func TestVariablesOfVariables(t *testing.T) {
	b := newBench(t)
	g := graph(
		with(job("build", "build", "echo VERSION=1.2 > build.env"), func(j *pipeline.Job) {
			j.Artifacts = &pipeline.Artifacts{Reports: map[string][]string{"dotenv": {"build.env"}}}
		}),
		with(job("check", "test", `echo "<$IMAGE|$RAW|$SELF|$LOOP|$URL>"`), func(j *pipeline.Job) {
			j.Variables = pipeline.Variables{
				{Name: "CI_PROJECT_URL", Value: "https://git.example/p", Origin: pipeline.OriginPredefined},
				{Name: "URL", Value: "$CI_JOB_URL", Origin: pipeline.OriginTop},
				{Name: "IMAGE", Value: "$REPOSITORY:$TAG", Origin: pipeline.OriginTop},
				{Name: "TAG", Value: "v%VERSION%", Origin: pipeline.OriginTop},
				{Name: "REPOSITORY", Value: "${HOST}/app", Origin: pipeline.OriginTop},
				{Name: "RAW", Value: "$HOST", Raw: true, Origin: pipeline.OriginTop},
				{Name: "LOOP", Value: "-$LOOPED", Origin: pipeline.OriginJob},
				{Name: "HOST", Value: "registry.example", Origin: pipeline.OriginProject},
				{Name: "SELF", Value: "a", Origin: pipeline.OriginProject},
				{Name: "SELF", Value: "$SELF,b", Origin: pipeline.OriginPipeline},
			}
		}),
		with(job("circle", "test", `echo "<$ONE|$TWO>"`), func(j *pipeline.Job) {
			j.Variables = pipeline.Variables{{Name: "ONE", Value: "1$TWO", Origin: pipeline.OriginTop}, {Name: "TWO", Value: "2$ONE", Origin: pipeline.OriginTop}}
		}),
	)
	b.want(b.run(g), "success: build=success check=success circle=success")
	if log := b.sink.log("check"); !strings.Contains(log, "<registry.example/app:v1.2|$HOST|a,b|-|https://git.example/p/-/jobs/") {
		t.Errorf("check: %s", log)
	}
	if log := b.sink.log("circle"); !strings.Contains(log, "<12$ONE|21$TWO>") {
		t.Errorf("circle: %s", log)
	}
}

// TestProtectedCaches holds that a job of a branch that is not protected cannot put anything into the caches of protected ones by saying that
// it is one.
func TestProtectedCaches(t *testing.T) {
	b := newBench(t)
	caching := func(script, protected string) *pipeline.Graph {
		return graph(with(job("build", "build", script), func(j *pipeline.Job) {
			j.Caches = []pipeline.Cache{{Key: "deps", Paths: []string{"deps"}, Policy: "pull-push"}}
			j.Variables = pipeline.Variables{
				{Name: "CI_COMMIT_REF_PROTECTED", Value: protected, Origin: pipeline.OriginPredefined},
				{Name: "CI_COMMIT_REF_PROTECTED", Value: "true", Origin: pipeline.OriginTop},
			}
		}))
	}
	b.want(b.run(caching("echo poisoned > deps", "false")), "success: build=success")
	if log := b.sink.log("build"); !strings.Contains(log, "Created cache deps-non_protected") {
		t.Errorf("its cache is that of protected branches:\n%s", log)
	}
	if err := os.Remove(filepath.Join(b.dir, "deps")); err != nil {
		t.Fatal(err)
	}
	b.want(b.run(caching("test ! -e deps", "true")), "success: build=success")
}

// TestForwardedSecrets holds that what has a masked value in it is masked in the pipeline that a trigger job starts, too.
func TestForwardedSecrets(t *testing.T) {
	job := &pipeline.Job{Trigger: &pipeline.Trigger{ForwardYAML: true}, Variables: pipeline.Variables{
		{Name: "TOKEN", Value: "s3cr3t-of-prod", Masked: true, Origin: pipeline.OriginProject},
		{Name: "EMPTY", Masked: true, Origin: pipeline.OriginProject},
		{Name: "URL", Value: "https://x:$TOKEN@host", Origin: pipeline.OriginJob},
		{Name: "RAW", Value: "$TOKEN", Raw: true, Origin: pipeline.OriginJob},
		{Name: "PLAIN", Value: "of-prod", Origin: pipeline.OriginTop},
	}}
	var got []string
	for _, v := range forwarded(job) {
		got = append(got, fmt.Sprintf("%s=%s %t", v.Name, v.Value, v.Masked))
	}
	if want := "URL=https://x:s3cr3t-of-prod@host true|RAW=$TOKEN false|PLAIN=of-prod false"; strings.Join(got, "|") != want {
		t.Errorf("have %s\nwant %s", strings.Join(got, "|"), want)
	}
}
