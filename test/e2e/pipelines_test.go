package e2e

import (
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"path/filepath"
	"strings"
	"sync"
	"testing"
)

// pipelineShown is what "keelson ci show -o json" tells.
type pipelineShown struct {
	ID     int64  `json:"id"`
	Status string `json:"status"`
	Why    string `json:"why"`
	Jobs   []struct {
		ID      int64  `json:"id"`
		Name    string `json:"name"`
		Attempt int    `json:"attempt"`
		Status  string `json:"status"`
		Reason  string `json:"reason"`
	} `json:"jobs"`
}

func (p pipelineShown) sum() string {
	out := p.Status + ":"
	for _, j := range p.Jobs {
		out += fmt.Sprintf(" %s/%d=%s", j.Name, j.Attempt, j.Status)
	}
	return out
}

// pipelines gives the numbers of a project's pipelines, the newest first.
func (in *instance) pipelines(t *testing.T, project string) []int64 {
	t.Helper()
	var list struct {
		Pipelines []struct {
			ID int64 `json:"id"`
		} `json:"pipelines"`
	}
	r := in.keelson("ci", "pipelines", "--project", project, "-o", "json")
	if r.code != 0 { // it has none yet
		return nil
	}
	if err := json.Unmarshal([]byte(r.out), &list); err != nil {
		t.Fatal(err)
	}
	ids := make([]int64, len(list.Pipelines))
	for i, p := range list.Pipelines {
		ids[i] = p.ID
	}
	return ids
}

// shown waits until a pipeline comes to what is wanted.
func (in *instance) shown(t *testing.T, id int64, want string) pipelineShown {
	t.Helper()
	var p pipelineShown
	eventually(t, fmt.Sprintf("pipeline %d", id), func() error {
		p = pipelineShown{}
		if err := json.Unmarshal([]byte(in.must(t, "ci", "show", fmt.Sprint(id), "-o", "json")), &p); err != nil {
			return err
		}
		if p.sum() != want {
			return fmt.Errorf("have %s\nwant %s", p.sum(), want)
		}
		return nil
	})
	return p
}

// newest waits until a project has a number of pipelines, and gives the newest one's number.
func (in *instance) newest(t *testing.T, project string, count int) int64 {
	t.Helper()
	var ids []int64
	eventually(t, "pipelines of "+project, func() error {
		if ids = in.pipelines(t, project); len(ids) != count {
			return fmt.Errorf("%d pipelines, want %d", len(ids), count)
		}
		return nil
	})
	return ids[0]
}

// holding is a server on a port that holds whoever comes until it is opened.
func holding(t *testing.T) (port string, open func()) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	opened := make(chan struct{})
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				<-opened
				c.Close()
			}()
		}
	}()
	_, port, _ = net.SplitHostPort(l.Addr().String())
	return port, sync.OnceFunc(func() { close(opened) })
}

// TestPipelines goes the whole way of a push: a pipeline with a manual gate, variables of a Project, a restart in the middle of a job.
func TestPipelines(t *testing.T) {
	in := shared
	in.must(t, "git", "create", "team/pipes")
	gate, open := holding(t)
	apply(t, in.Kubeconfig, `
apiVersion: v1
kind: Namespace
metadata: {name: shop}
---
apiVersion: v1
kind: Secret
metadata: {name: deploy, namespace: shop}
stringData: {token: t0p-s3cret-token}
---
apiVersion: keelson.dev/v1alpha1
kind: Project
metadata: {name: shop, namespace: shop}
spec:
  repository: team/pipes
  path: acme/shop
  protected: {branches: [main]}
  variables:
  - {name: DEPLOY_TOKEN, protected: true, valueFrom: {secretKeyRef: {name: deploy, key: token}}}
  - {name: COLOUR, value: green}
`)
	c := cloneOf(t, in.Git+"/team/pipes.git")
	write(t, filepath.Join(c.dir, ".gitlab-ci.yml"), `
stages: [build, deploy]
build: {stage: build, script: ['echo "$CI_PROJECT_PATH $COLOUR [$DEPLOY_TOKEN] ${#DEPLOY_TOKEN}"', 'echo made > out'], artifacts: {paths: [out]}}
deploy: {stage: deploy, script: [cat out, echo begun, 'cat < /dev/tcp/127.0.0.1/`+gate+`'], when: manual, allow_failure: false, retry: {max: 1, when: runner_system_failure}}
`)
	c.git("add", "-A")
	c.git("commit", "-qm", "A pipeline")
	c.git("push", "-q", "origin", "HEAD:main")
	id := in.newest(t, "acme/shop", 1)
	in.shown(t, id, "manual: build/1=success deploy/1=manual")
	contains(t, in.must(t, "ci", "logs", fmt.Sprint(id), "build"), "acme/shop green [[MASKED]] 16")
	contains(t, in.must(t, "ci", "pipelines"), "acme/shop", "manual", "A pipeline", "push")
	fails(t, in.keelson("ci", "play", fmt.Sprint(id), "build"), 1, "neither manual nor delayed")
	fails(t, in.keelson("ci", "show", "999"), 1, "999")
	fails(t, in.keelson("ci", "logs", fmt.Sprint(id), "nosuch"), 2, "has no job nosuch")

	// Somewhere in the middle of the job the instance ends, and another one goes on.
	in.must(t, "ci", "play", fmt.Sprint(id), "deploy")
	eventually(t, "deploy", func() error {
		if log := in.must(t, "ci", "logs", fmt.Sprint(id), "deploy"); !strings.Contains(log, "\nbegun\n") {
			return fmt.Errorf("%s", log)
		}
		return nil
	})
	followed := in.follow(t, "ci", "logs", fmt.Sprint(id), "deploy", "-f")
	expect(t, followed, "begun")
	t.Cleanup(open)
	t.Cleanup(func() { in.up() }) // whatever becomes of this test, the others have their instance
	in.kill(t, false)
	open()
	ok(t, in.up(), nil)
	p := in.shown(t, id, "success: build/1=success deploy/1=failed deploy/2=success")
	if p.Jobs[1].Reason != "runner_system_failure" {
		t.Errorf("%+v", p.Jobs[1])
	}
	contains(t, in.must(t, "ci", "logs", fmt.Sprint(id), "deploy"), "\nmade\n")
	told := 0
	for line := range followed {
		if line == "begun" {
			told++
		}
	}
	if told != 1 { // the command comes before
		t.Errorf("who followed the log over the restart was told a line %d times", told)
	}

	// A branch that is not protected, by hand and by push; a configuration with an error.
	c.git("checkout", "-qb", "feature")
	write(t, filepath.Join(c.dir, ".gitlab-ci.yml"), "a: {script: ['echo \"[$DEPLOY_TOKEN] $WHO\"']}\n")
	c.git("commit", "-qam", "small")
	c.git("push", "-q", "origin", "HEAD:feature")
	id = in.newest(t, "acme/shop", 2)
	in.shown(t, id, "success: a/1=success")
	in.must(t, "ci", "trigger", "acme/shop", "--ref", "feature", "--variable", "WHO=me")
	id = in.newest(t, "acme/shop", 3)
	in.shown(t, id, "success: a/1=success")
	contains(t, in.must(t, "ci", "logs", fmt.Sprint(id), "a", "-f"), "[] me")
	fails(t, in.keelson("ci", "trigger", "acme/shop", "--ref", "nosuch"), 1, "no branch or tag nosuch")
	fails(t, in.keelson("ci", "trigger", "team/pipes"), 1, "neither a Project nor a repository")
	write(t, filepath.Join(c.dir, ".gitlab-ci.yml"), "a: {script: ['true'], needs: [b]}\n")
	c.git("commit", "-qam", "wrong")
	c.git("push", "-q", "origin", "HEAD:feature")
	id = in.newest(t, "acme/shop", 4)
	contains(t, in.must(t, "ci", "show", fmt.Sprint(id)), "failed", ".gitlab-ci.yml:1:")

	// Nobody reads anything without the token, and no name but this machine's is answered.
	_, address, _ := strings.Cut(strings.TrimSuffix(in.Git, "/git"), "@")
	for _, host := range []string{"", "evil.example"} {
		req, err := http.NewRequest(http.MethodGet, "http://"+address+"/api/v1/pipelines", nil)
		if err != nil {
			t.Fatal(err)
		}
		req.Host = host
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		if want := map[string]int{"": http.StatusUnauthorized, "evil.example": http.StatusForbidden}[host]; resp.StatusCode != want {
			t.Errorf("host %q: %s", host, resp.Status)
		}
	}
}
