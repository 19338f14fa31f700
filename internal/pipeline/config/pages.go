package config

import (
	"slices"

	"keelson.dev/keelson/internal/pipeline"
)

func decodePages(v value, j *pipeline.JobSpec) {
	switch v.Kind {
	case Bool:
		if v.Bool {
			j.Pages = &pipeline.Pages{}
		}
	case Map:
		if len(v.Pairs) == 0 {
			return
		}
		v.allow("path_prefix", "expire_in", "publish")
		j.Pages = &pipeline.Pages{
			Publish:    v.field("publish").string(),
			PathPrefix: v.field("path_prefix").string(),
			ExpireIn:   v.field("expire_in").anyDuration(),
		}
	default:
		v.wrong("config should be a hash or a boolean value")
	}
}

func decodePublish(v value, _ *pipeline.JobSpec) {
	if v.Kind != String {
		v.wrong("config should be a string")
		return
	}
	v.warn(codeDeprecated, "use `pages:publish`", "is deprecated")
}

// finishPages makes a job that publishes a site keep the site's directory. A job with the name pages publishes one unless it says
// `pages: false`.
func finishPages(v value, j *pipeline.JobSpec) {
	pages, publish := v.field("pages"), v.field("publish")
	if j.Pages == nil && j.Name == "pages" && (!pages.set() || pages.Kind != Bool) {
		j.Pages = &pipeline.Pages{}
	}
	if j.Pages == nil {
		if publish.set() {
			publish.fail(codeConflict, "can only be used within a `pages` job")
		}
		return
	}
	if publish.set() && publish.Kind == String {
		if pages.field("publish").set() {
			publish.fail(codeConflict, "use either %s:publish or %s:pages:publish", j.Name, j.Name)
		} else {
			j.Pages.Publish = publish.Text
		}
	}
	directory := j.Pages.Publish
	if directory == "" {
		directory = "public"
	}
	var a pipeline.Artifacts
	if j.Artifacts != nil {
		a = *j.Artifacts
	}
	if !slices.Contains(a.Paths, directory) {
		a.Paths = append(slices.Clip(a.Paths), directory)
	}
	j.Artifacts = &a
}
