package config

import (
	"io/fs"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"keelson.dev/keelson/internal/pipeline"
)

// localFiles has the local files of a test.
type localFiles map[string]string

func (l localFiles) Read(include pipeline.Include, _ Source) ([]Source, error) {
	name := strings.TrimPrefix(include.Local, "/")
	text, ok := l[name]
	if !ok {
		return nil, fs.ErrNotExist
	}
	return []Source{{Name: name, Text: []byte(text)}}, nil
}

// TestLoadWays: a problem in a file that is included, extended and referred to points at the line, and says how that line came to
// count for the job.
func TestLoadWays(t *testing.T) {
	_, problems := Load(Options{Path: ".gitlab-ci.yml", Text: []byte(`include: [ci/base.yml]
default:
  imge: ruby
test:
  extends: .base
  script:
    - !reference [.scripts, setup]
    - make
  rules:
    - !reference [.rules, main]
`), Files: localFiles{"ci/base.yml": `.base:
  artifacts:
    path: [out]
  retry: 3
  when: allways
.scripts:
  setup: [echo, {a: b}]
.rules:
  main:
    - if: $CI_COMMIT_BRANCH == 'main
`}})
	var got strings.Builder
	for _, p := range problems {
		got.WriteString(p.Error() + "\n")
		for _, v := range p.Via {
			got.WriteString("    " + strings.TrimSpace(v.How+" "+v.Name) + " " + v.At.String() + "\n")
		}
	}
	want := `.gitlab-ci.yml:3:3: default config contains unknown keys: imge
ci/base.yml:3:5: jobs:test:artifacts config contains unknown keys: path
    extends .base .gitlab-ci.yml:5:12
    include ci/base.yml .gitlab-ci.yml:1:11
ci/base.yml:4:10: jobs:test:retry must be less than or equal to 2, found 3
    extends .base .gitlab-ci.yml:5:12
    include ci/base.yml .gitlab-ci.yml:1:11
ci/base.yml:5:9: jobs:test:when should be one of: on_success, on_failure, always, manual, delayed, found the string ` + "`allways`" + `
    extends .base .gitlab-ci.yml:5:12
    include ci/base.yml .gitlab-ci.yml:1:11
ci/base.yml:7:17: jobs:test:script config should be a string or a nested array of strings up to 10 levels deep, found a map
    reference .scripts, setup .gitlab-ci.yml:7:7
    include ci/base.yml .gitlab-ci.yml:1:11
ci/base.yml:10:32: jobs:test:rules:rule:if invalid expression syntax: Unknown lexeme found, found ` + "`$CI_COMMIT_BRANCH == 'main`" + `
    reference .rules, main .gitlab-ci.yml:10:7
    include ci/base.yml .gitlab-ci.yml:1:11
`
	if diff := cmp.Diff(want, got.String()); diff != "" {
		t.Error(diff)
	}
}

// TestLoadIncomplete: what a missing file may have is not missed.
func TestLoadIncomplete(t *testing.T) {
	c, problems := Load(Options{Path: ".gitlab-ci.yml", Text: []byte(`include: missing.yml
sast:
  variables: {A: b}
scan:
  needs: [sast]
`), Files: localFiles{}})
	if len(problems) != 1 || problems[0].At.Line != 1 || !c.Partial || len(c.Jobs) != 2 {
		t.Errorf("%v\n%+v", problems, c)
	}
}

// TestLoadRefused: an include that is not read makes one problem, and not one more for the jobs that are not there.
func TestLoadRefused(t *testing.T) {
	for _, include := range []string{"{template: Keelson/Go}", "{template: Keelson/God.gitlab-ci.yml}", "{locl: a.yml}", "{local: a.txt}", "[[a]]", "!reference [a, b]", "list.yml"} {
		_, problems := Load(Options{Path: ".gitlab-ci.yml", Text: []byte("include: [" + include + "]\n"), Files: localFiles{"list.yml": "[a]\n"}})
		var errs []string
		for _, p := range problems {
			if p.Severity == pipeline.Error {
				errs = append(errs, p.Error())
			}
		}
		if len(errs) != 1 {
			t.Errorf("%s: %q", include, errs)
		}
	}
}

// A job that cannot be extended may lack just what was meant to come so: that it cannot be is all that is said.
func TestLoadUnextended(t *testing.T) {
	c, problems := Load(Options{Path: ".gitlab-ci.yml", Text: []byte(`.base: {script: x}
.between: {extends: .bsae}
job: {extends: .bsae, needs: [other], image: alpine, tags: [a], artifacts: {paths: [p]}}
next: {extends: .between, needs: [other], image: alpine}
circle: {extends: circle, image: alpine}
other: {script: x}
`)})
	var got strings.Builder
	for _, p := range problems {
		got.WriteString(p.Error() + "\n")
	}
	want := `.gitlab-ci.yml:2:21: .between: unknown keys in ` + "`extends`" + ` (.bsae)
.gitlab-ci.yml:3:16: job: unknown keys in ` + "`extends`" + ` (.bsae)
.gitlab-ci.yml:5:19: circle: circular dependency detected in ` + "`extends`" + `
`
	if diff := cmp.Diff(want, got.String()); diff != "" || len(c.Jobs) != 4 {
		t.Errorf("%d jobs\n%s", len(c.Jobs), diff)
	}
}
