package compile

import "keelson.dev/keelson/internal/pipeline"

func predefined(c *pipeline.Context) pipeline.Variables {
	vs := pipeline.Variables{{Name: "CI", Value: "true"}, {Name: "CI_PIPELINE_SOURCE", Value: c.Source}, {Name: "CI_DEFAULT_BRANCH", Value: c.Project.DefaultBranch}, {Name: "CI_COMMIT_REF_NAME", Value: c.Ref}, {Name: "CI_COMMIT_SHA", Value: c.Commit.SHA}}
	switch {
	case c.Tag:
		vs = append(vs, pipeline.Variable{Name: "CI_COMMIT_TAG", Value: c.Ref})
	case !isMergeRequest(c):
		vs = append(vs, pipeline.Variable{Name: "CI_COMMIT_BRANCH", Value: c.Ref})
	}
	return vs
}

func persisted(string) bool { return false }

func predefinedJob(c *pipeline.Context, job *pipeline.Job, env *pipeline.Environment) pipeline.Variables {
	return pipeline.Variables{{Name: "CI_JOB_NAME", Value: job.Name}}
}
