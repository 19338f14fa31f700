package config

import (
	"fmt"
	"strings"
	"testing"
)

// large is a file of 2,000 jobs as people write them: templates that are extended, references, an include, and their own keywords.
func large() Options {
	var b strings.Builder
	b.WriteString("include: base.yml\nstages: [build, test, deploy]\nvariables: {A: a, B: b}\n")
	for i := range 2000 {
		fmt.Fprintf(&b, `
# The job number %[1]d.
job-%04[1]d:
  extends: [.base, .rules-%[2]d]
  stage: test
  needs:
    - job: build-%[2]d
      artifacts: true
  variables:
    NUMBER: "%[1]d"
    NAME: job-%[1]d
  script:
    - !reference [.setup, script]
    - echo "job %[1]d"   # a comment
    - make test TARGET=$NAME
  artifacts:
    paths: [out/%[1]d/]
    expire_in: 1 week
`, i, i%20)
	}
	base := ".base:\n  image: golang:1.26\n  tags: [linux]\n  retry: {max: 2, when: [runner_system_failure]}\n  cache: {key: x, paths: [a, b]}\n.setup:\n  script: [a, b, c]\n"
	for i := range 20 {
		base += fmt.Sprintf(".rules-%[1]d:\n  rules:\n    - if: $CI_COMMIT_BRANCH == \"main\"\n      when: manual\n    - changes: [a/%[1]d/**/*]\nbuild-%[1]d: {stage: build, script: make}\n", i)
	}
	return Options{Text: []byte(b.String()), Files: repository{"base.yml": base}}
}

func BenchmarkRead(b *testing.B) {
	o := large()
	b.SetBytes(int64(len(o.Text)))
	b.ReportAllocs()
	for b.Loop() {
		if _, problems := Read(o); len(problems) > 0 {
			b.Fatal(showProblems(problems))
		}
	}
}

func BenchmarkParse(b *testing.B) {
	o := large()
	b.SetBytes(int64(len(o.Text)))
	b.ReportAllocs()
	for b.Loop() {
		parse("f", o.Text)
	}
}

func BenchmarkLoad(b *testing.B) {
	o := large()
	b.ReportAllocs()
	for b.Loop() {
		if _, problems := Load(o); problems.Failed() {
			b.Fatal(showProblems(problems))
		}
	}
}
