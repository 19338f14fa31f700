package e2e

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// TestPipelineReplay goes through what a person looks at afterwards: a pipeline is watched, its artifacts and variables are read, a job is played with
// variables, and the pipeline runs again on this machine.
func TestPipelineReplay(t *testing.T) {
	in := shared
	in.must(t, "git", "create", "team/replayed")
	apply(t, in.Kubeconfig, `
apiVersion: v1
kind: Namespace
metadata: {name: replayed}
---
apiVersion: v1
kind: Secret
metadata: {name: deploy, namespace: replayed}
stringData: {token: t0p-s3cret-token, plain: not-masked-at-all}
---
apiVersion: keelson.dev/v1alpha1
kind: Project
metadata: {name: replayed, namespace: replayed}
spec:
  repository: team/replayed
  path: acme/replayed
  variables:
  - {name: DEPLOY_TOKEN, valueFrom: {secretKeyRef: {name: deploy, key: token}}}
  - {name: PLAIN, masked: false, valueFrom: {secretKeyRef: {name: deploy, key: plain}}}
  - {name: HOST, value: host-of-production, protected: true}
  - {name: COLOUR, value: green}
`)
	c := cloneOf(t, in.Git+"/team/replayed.git")
	write(t, filepath.Join(c.dir, ".gitlab-ci.yml"), `
stages: [build, deploy]
build:
  stage: build
  script: ['mkdir -p dist', 'cat README > dist/readme', 'echo "$CI_PIPELINE_IID $COLOUR $WHO" > dist/out', 'printf "TAG=7\n" > build.env']
  artifacts: {paths: [dist], reports: {dotenv: build.env}}
deploy: {stage: deploy, script: ['echo "token=${#DEPLOY_TOKEN} host=$HOST colour=$COLOUR tag=$TAG"', cat dist/readme], when: manual, allow_failure: false}
child: {stage: build, trigger: {include: child.yml, strategy: depend}}
`)
	write(t, filepath.Join(c.dir, "README"), "as it was pushed\n")
	write(t, filepath.Join(c.dir, "child.yml"), "inner: {script: ['echo \"inner of $CI_PIPELINE_SOURCE, $COLOUR\"']}\n")
	c.git("add", "-A")
	c.git("commit", "-qm", "A pipeline")
	c.git("push", "-q", "-o", "ci.variable=WHO=ada", "origin", "HEAD:main")
	in.newest(t, "acme/replayed", 2) // with its child
	id := fmt.Sprint(in.pipelines(t, "acme/replayed")[1])

	contains(t, in.must(t, "ci", "show", id, "--watch"), "build  success in", "deploy  manual", "Pipeline:")
	contains(t, in.must(t, "ci", "artifacts", id), "build", "dotenv", "in 29d")
	contains(t, in.must(t, "ci", "artifacts", id, "build"), "dist/readme", "dist/out", "build.env")
	if out := in.must(t, "ci", "artifacts", id, "build", "--path", "dist/out"); out != "1 green ada\n" {
		t.Errorf("%q", out)
	}
	fails(t, in.keelson("ci", "artifacts", id, "build", "--path", "../store.key"), 1, "there is none")
	fails(t, in.keelson("ci", "artifacts", id, "deploy"), 1, "has left no artifacts")
	fails(t, in.keelson("ci", "artifacts", id, "--download"), 2, "of which job?")
	to := filepath.Join(t.TempDir(), "out")
	in.must(t, "ci", "artifacts", id, "build", "--download", "--to", to)
	if text, err := os.ReadFile(filepath.Join(to, "dist/readme")); err != nil || string(text) != "as it was pushed\n" {
		t.Errorf("%q %v", text, err)
	}
	in.must(t, "ci", "artifacts", id, "build", "--download", "--to", to+".zip")
	if info, err := os.Stat(to + ".zip"); err != nil || info.Size() < 100 {
		t.Errorf("%v %v", info, err)
	}

	// Nobody is shown what is hidden.
	for _, a := range [][]string{{"variables", id}, {"variables", id, "deploy"}, {"variables", "--project", "acme/replayed"}} {
		out := in.must(t, append([]string{"ci"}, a...)...)
		contains(t, out, "DEPLOY_TOKEN", "HOST", `"green"`)
		for _, secret := range []string{"s3cret", "host-of-production"} {
			if strings.Contains(out, secret) {
				t.Errorf("%v shows %s:\n%s", a, secret, out)
			}
		}
	}
	if out := in.must(t, "ci", "variables", "--project", "acme/replayed"); strings.Contains(out, "not-masked-at-all") || !strings.Contains(out, "Secret deploy, key plain") {
		t.Error(out)
	}
	fails(t, in.keelson("ci", "variables", id, "nosuch"), 2, "has no job nosuch")

	in.must(t, "ci", "play", id, "deploy", "--variable", "COLOUR=blue", "--variable", "DEPLOY_TOKEN=short")
	contains(t, in.must(t, "ci", "logs", id, "deploy", "-f"), "token=5 host=host-of-production colour=blue tag=7")
	fails(t, in.keelson("ci", "play", id, "deploy", "--variable", "a b=c"), 1, "is no name of a variable")

	// The same again here, whatever the working tree is like by now.
	write(t, filepath.Join(c.dir, "README"), "changed\n")
	write(t, filepath.Join(c.dir, ".gitlab-ci.yml"), "nothing: {script: ['false']}\n")
	write(t, filepath.Join(c.dir, "child.yml"), "wrong: {script: ['false']}\n")
	replay := func(dir string, args ...string) result {
		t.Chdir(dir)
		t.Setenv("XDG_CACHE_HOME", filepath.Join(t.TempDir(), "cache"))
		return in.keelson(append([]string{"ci", "replay", id}, args...)...)
	}
	r := replay(c.dir, "--manual", "deploy", "--variable", "DEPLOY_TOKEN=mine-is-longer")
	if r.code != 0 {
		t.Fatalf("%d %s%s", r.code, r.out, r.err)
	}
	contains(t, r.out, "token=14 host= colour=green tag=7", "as it was pushed", "inner of parent_pipeline, green", "pipeline succeeded")
	contains(t, r.err, "HOST (protected)")
	if strings.Contains(r.err, "DEPLOY_TOKEN") {
		t.Error(r.err)
	}
	if out, err := exec.Command("git", "-C", c.dir, "status", "--porcelain").Output(); err != nil || string(out) != " M .gitlab-ci.yml\n M README\n M child.yml\n" {
		t.Errorf("the working tree was touched: %s %v", out, err)
	}
	if r := replay(c.dir, "build"); r.code != 0 || strings.Contains(r.out, "deploy") {
		t.Errorf("%d %s%s", r.code, r.out, r.err)
	}
	elsewhere := t.TempDir()
	if out, err := exec.Command("git", "init", "-q", elsewhere).CombinedOutput(); err != nil {
		t.Fatalf("%s %v", out, err)
	}
	fails(t, replay(elsewhere), 1, "is not in "+elsewhere, "git fetch", "/git/team/replayed.git main")
	fails(t, in.keelson("ci", "replay", "99999"), 1, "99999")
}
