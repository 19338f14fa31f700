package run

import (
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
