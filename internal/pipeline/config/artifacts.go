package config

import (
	"math"
	"strings"
	"time"

	"keelson.dev/keelson/internal/pipeline"
)

// reportKinds are those of artifacts:reports.
var reportKinds = []string{
	"accessibility", "annotations", "api_fuzzing", "browser_performance", "cluster_image_scanning", "codequality", "container_scanning",
	"coverage_fuzzing", "coverage_report", "cyclonedx", "dast", "dependency_scanning", "dotenv", "junit", "license_scanning",
	"load_performance", "lsif", "metrics", "performance", "repository_xray", "requirements", "requirements_v2", "sarif", "sast",
	"secret_detection", "terraform",
}

const (
	maxExposedAs   = 100 // characters
	anyLength      = time.Duration(math.MaxInt64)
	longerThanThat = "290 years"
)

func (v value) artifacts() *pipeline.Artifacts {
	if !v.isMap("config should be a hash") {
		return nil
	}
	known := v.allow("name", "untracked", "paths", "reports", "when", "expire_in", "expose_as", "exclude", "public", "access")
	a := &pipeline.Artifacts{
		Name:      v.field("name").string(),
		ExposeAs:  v.field("expose_as").string(),
		Paths:     v.field("paths").strings(),
		Exclude:   v.field("exclude").strings(),
		Untracked: v.field("untracked").boolean(),
		When:      pipeline.When(v.field("when").oneOf("on_success", "on_failure", "always")),
		Access:    v.field("access").oneOf("none", "developer", "maintainer", "all"),
	}
	if public := v.field("public"); public.set() {
		if v.field("access").set() {
			public.fail(codeConflict, "config these keys cannot be used together: access, public")
		} else if !public.boolean() {
			a.Access = "developer"
		}
	}
	if expire := v.field("expire_in"); expire.set() {
		if a.Forever = expire.Kind == String && strings.EqualFold(expire.Text, "never"); !a.Forever {
			a.ExpireIn = expire.duration(anyLength, longerThanThat)
		}
	}
	v.checkExposed(a)
	v.field("paths").checkPaths()
	if reports := v.field("reports"); reports.set() {
		a.Reports, a.Coverage = reports.reports()
	}
	if known && len(v.Pairs) > 0 && !v.field("paths").set() && !v.field("reports").set() && !v.field("untracked").set() {
		v.warn(codeNoEffect, "add `paths`", "has no paths, so nothing is kept")
	}
	return a
}

// checkPaths warns of paths of artifacts and caches that the runner leaves out.
func (v value) checkPaths() {
	for _, item := range v.items() {
		if item.Node == nil || item.Kind != String {
			continue
		}
		switch p := item.Text; {
		case p == "~" || strings.HasPrefix(p, "~/"):
			item.warn(codeNoEffect, "no shell expands `~` there", "is not found: %s is taken as it is written", quoted(p))
		case strings.HasPrefix(p, "/") || p == ".." || strings.HasPrefix(p, "../"):
			item.warn(codeNoEffect, "use paths below the project's directory", "is left out: %s is outside of the project's directory", quoted(p))
		}
	}
}

// checkExposed checks what is shown in merge requests.
func (v value) checkExposed(a *pipeline.Artifacts) {
	exposed := v.field("expose_as")
	if a.ExposeAs == "" {
		if exposed.set() && exposed.Kind == String {
			exposed.fail(codeValue, "can contain only letters, digits, '-', '_' and spaces")
		}
		return
	}
	if len(a.Paths) == 0 {
		exposed.fail(codeRequired, "is there, so paths can't be blank")
	}
	for _, item := range v.field("paths").items() {
		if item.Node != nil && strings.Contains(item.Text, "*") {
			item.fail(codeValue, "can't contain '*' when used with 'expose_as'")
		}
	}
	if len([]rune(a.ExposeAs)) > maxExposedAs {
		exposed.fail(codeLimit, "is too long (maximum is %d characters)", maxExposedAs)
	}
	for i := range len(a.ExposeAs) {
		if c := a.ExposeAs[i]; !isWord(c) && (i == 0 || c != '-' && c != ' ') {
			exposed.fail(codeValue, "can contain only letters, digits, '-', '_' and spaces")
			break
		}
	}
}

// reports gives the paths of each kind of report, and the format of the coverage report.
func (v value) reports() (map[string][]string, string) {
	if !v.isMap("should be a hash") {
		return nil, ""
	}
	v.allow(reportKinds...)
	all, format := map[string][]string{}, ""
	for _, f := range v.fields() {
		switch {
		case !f.set():
		case f.key() == "coverage_report":
			if !f.isMap("config should be a hash") {
				continue
			}
			f.allow("coverage_format", "path")
			f.field("coverage_format").required()
			format = f.field("coverage_format").oneOf("cobertura", "jacoco")
			if path := f.field("path").required(); path != "" {
				all[f.key()] = []string{path}
			}
		default:
			if paths := f.stringsOrString(); len(paths) > 0 {
				all[f.key()] = paths
			}
		}
	}
	if len(all) == 0 {
		return nil, format
	}
	return all, format
}
