package ci

import (
	"fmt"
	"strings"
	"testing"
)

// A job's token pushes to its own project's images, pulls what its project may read, and nothing else, as long as the job runs.
func TestAllowImage(t *testing.T) {
	w := newWorld(t)
	w.projects.all = []Project{
		{Path: "group/app"}, {Path: "group/app/inner"}, {Path: "group/lib", ReadableBy: []string{"group/app"}}, {Path: "Big/App"}, {Path: "big/app2"}, {Path: "Same"}, {Path: "same"},
	}
	s := w.current()
	s.At(Place{URL: "http://127.0.0.1:1", GitURL: "http://127.0.0.1:1/git", Registry: "127.0.0.1:2"})
	for _, test := range []struct{ project, repository, want string }{
		{"group/app", "", "push pull"},
		{"group/app", "group/app", "push pull"},
		{"group/app", "group/app/web/cache", "push pull"},
		{"group/app", "group/app/inner", ""},
		{"group/app", "group/app/inner/web", ""},
		{"group/app", "group/application", ""},
		{"group/app", "group/lib/base", "pull"},
		{"group/lib", "group/app", ""},
		{"group/app", "nobody/else", ""},
		{"group/app", "group", ""},
		{"Big/App", "big/app/web", "push pull"},
		{"Big/App", "big/app2", ""},
		{"Same", "same/web", ""},
		{"same", "same/web", "push pull"},
	} {
		token, end := s.tokens.give(7, grant{project: test.project})
		var got []string
		for _, push := range []bool{true, false} {
			if known, err := s.AllowImage(t.Context(), token, test.repository, push); err == nil {
				got = append(got, map[bool]string{true: "push", false: "pull"}[push])
			} else if !known || strings.Contains(err.Error(), token) {
				t.Errorf("%s on %s: %t, %v", test.project, test.repository, known, err)
			}
		}
		if strings.Join(got, " ") != test.want {
			t.Errorf("%s on %s: %q, want %q", test.project, test.repository, got, test.want)
		}
		end()
		if known, err := s.AllowImage(t.Context(), token, test.repository, false); known || err == nil {
			t.Errorf("%s: the token of a job that is over is known", test.project)
		}
	}
}

// Jobs are told of a registry where there is one.
func TestRegistryVariables(t *testing.T) {
	for registry, want := range map[string]string{
		"":                  "[] [] [] []",
		"registry.test:443": "[registry.test:443] [registry.test:443/group/app] [gitlab-ci-token] [[MASKED]] same",
	} {
		w := newWorld(t, "app")
		w.current().At(Place{URL: w.url, GitURL: w.url + "/git", Registry: registry})
		dir := w.clone("app")
		w.commit(dir, "First", map[string]string{".gitlab-ci.yml": `
job:
  script:
  - same=; if [ "$CI_REGISTRY_PASSWORD" = "$CI_JOB_TOKEN" ]; then same=same; fi
  - echo "<[$CI_REGISTRY] [$CI_REGISTRY_IMAGE] [$CI_REGISTRY_USER] [$CI_REGISTRY_PASSWORD] $same>"
`})
		p := w.push(dir, 1, "HEAD")[0]
		w.wants(p, "push main success: job/1=success")
		if log := w.log(p, "job"); !strings.Contains(log, fmt.Sprintf("\n<%s", want)) {
			t.Errorf("with %q: %s", registry, log)
		}
	}
}
