package pod_test

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/clientcmd"

	"keelson.dev/keelson/internal/ci"
	"keelson.dev/keelson/internal/pipeline"
	"keelson.dev/keelson/internal/pipeline/artifact"
	"keelson.dev/keelson/internal/pipeline/executor"
	"keelson.dev/keelson/internal/pipeline/executor/pod"
	"keelson.dev/keelson/internal/store"
)

// childVariable makes this program a server of pipelines that is there to be killed.
const childVariable = "KEELSON_TEST_POD_SERVER"

// childConfig is what such a server is told.
type childConfig struct {
	Kubeconfig, Dir, Repository, Listen, URL, Agent, Image string
	Create                                                 bool // a pipeline; else only what is there is played on
	Die                                                    bool // when a job has ended and nobody knows
}

func TestMain(m *testing.M) {
	if text := os.Getenv(childVariable); text != "" {
		if err := serveAsChild(text); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// one is the only project.
type one struct{ ci.Project }

func (p one) Of(context.Context, string) ([]ci.Project, error)  { return []ci.Project{p.Project}, nil }
func (p one) Named(context.Context, string) (ci.Project, error) { return p.Project, nil }

// dying kills this process when the executor has given a job's result, unless the job's Pod goes.
type dying struct {
	*pod.Executor
	client kubernetes.Interface
}

func (d dying) Run(ctx context.Context, job executor.Job, log executor.Log) executor.Result {
	d.Executor.Run(ctx, job, log)
	for deadline := time.Now().Add(2 * time.Second); time.Now().Before(deadline); time.Sleep(20 * time.Millisecond) {
		list, err := d.client.CoreV1().Pods("").List(ctx, metav1.ListOptions{LabelSelector: fmt.Sprintf("%s=%d", pod.LabelJob, job.ID)})
		if err == nil && len(list.Items) == 0 {
			break
		}
	}
	_ = syscall.Kill(os.Getpid(), syscall.SIGKILL)
	select {}
}

// serveAsChild plays a pipeline until it is over, and writes its status and its jobs'.
func serveAsChild(text string) error {
	var c childConfig
	if err := json.Unmarshal([]byte(text), &c); err != nil {
		return err
	}
	config, err := clientcmd.BuildConfigFromFlags("", c.Kubeconfig)
	if err != nil {
		return err
	}
	client, err := kubernetes.NewForConfig(config)
	if err != nil {
		return err
	}
	key, err := store.OpenKey(filepath.Join(c.Dir, "key"))
	if err != nil {
		return err
	}
	db, err := store.Open(filepath.Join(c.Dir, "store.db"), store.Options{Key: key})
	if err != nil {
		return err
	}
	artifacts, err := artifact.Open(filepath.Join(c.Dir, "artifacts"), artifact.Options{})
	if err != nil {
		return err
	}
	x, err := pod.New(pod.Options{Client: client, URL: c.URL, Image: c.Agent, Key: key, DefaultImage: c.Image, Grace: time.Second,
		Over: func(ctx context.Context, id int64) (bool, error) {
			j, err := db.Job(ctx, id)
			return errors.Is(err, store.ErrNotFound) || err == nil && !j.Finished.IsZero(), nil
		},
	})
	if err != nil {
		return err
	}
	listener, err := net.Listen("tcp", c.Listen)
	if err != nil {
		return err
	}
	go http.Serve(listener, x.Handler())
	builds := filepath.Join(c.Dir, "builds")
	if err := errors.Join(os.RemoveAll(builds), os.MkdirAll(builds, 0o755)); err != nil {
		return err
	}
	project := ci.Project{Path: "group/shop", Repository: "shop", Dir: c.Repository, Variables: pipeline.Variables{{Name: "SECRET", Value: "s3cret-value-of-project", Masked: true, Origin: pipeline.OriginProject}},
		Place: executor.Place{Namespace: "default"}}
	jobs := executor.Executor(x)
	if c.Die {
		jobs = dying{x, client}
	}
	s, err := ci.New(ci.Options{Store: db, Artifacts: artifacts, Projects: one{project}, Executor: jobs, Builds: builds, URL: "http://keelson", GitURL: "http://keelson/git", Jobs: 4, Key: key})
	if err != nil {
		return err
	}
	ctx := context.Background()
	go x.Serve(ctx)
	go s.Serve(ctx)
	if c.Create {
		if _, err := s.Create(ctx, ci.Event{Project: "group/shop", Source: pipeline.SourceWeb, Ref: "refs/heads/main"}); err != nil {
			return err
		}
	}
	for {
		rows, err := db.Pipelines(ctx, store.PipelineFilter{})
		if err != nil {
			return err
		}
		if len(rows) == 1 && rows[0].Resting {
			jobs, err := db.Jobs(ctx, rows[0].ID)
			if err != nil {
				return err
			}
			fmt.Println("pipeline", rows[0].Status)
			for _, j := range jobs {
				if j.Coverage != nil {
					fmt.Println("coverage", *j.Coverage)
				}
				fmt.Println("job", j.ID, j.Name, j.Attempt, j.Status, j.Reason, j.Message)
			}
			return nil
		}
		time.Sleep(50 * time.Millisecond)
	}
}

// killed kills the server of pipelines in the middle of a job, twice, and when it has ended but is not in the journal, and sees the job succeed.
func killed(t *testing.T, w *world) {
	repository := t.TempDir()
	file := `image: ` + w.shell + `
build:
  coverage: '/cover (\d+)%/'
  script:
    - echo "cover 42%"
    - echo "secret $SECRET token $CI_JOB_TOKEN"
    - echo "$CI_JOB_TOKEN" > token
    - for i in $(seq 120); do echo "line $i"; sleep 0.1; done
    - cat source > out
  after_script: ["echo after: $CI_JOB_STATUS"]
  artifacts: {paths: [out], untracked: true}
  cache: {key: {files: [source]}, paths: [cached]}
test:
  stage: deploy
  script: ["cat out", '[ "$(cat token)" != "" ]']
`
	for name, content := range map[string]string{".gitlab-ci.yml": file, "source": "made of the source\n"} {
		if err := os.WriteFile(filepath.Join(repository, name), []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	for _, args := range [][]string{{"init", "-q", "-b", "main"}, {"add", "."}, {"-c", "user.name=x", "-c", "user.email=x@x", "commit", "-q", "-m", "x"}} {
		if out, err := exec.Command("git", append([]string{"-C", repository}, args...)...).CombinedOutput(); err != nil {
			t.Fatalf("git: %s", out)
		}
	}
	config := childConfig{Kubeconfig: w.kubeconfig, Dir: t.TempDir(), Repository: filepath.Join(repository, ".git"), Listen: w.childListen, URL: w.childURL, Agent: w.agent, Image: w.shell, Create: true}
	start := func() (*exec.Cmd, *bufio.Scanner) {
		text, _ := json.Marshal(config)
		cmd := exec.Command(os.Args[0])
		cmd.Env, cmd.Stderr = append(os.Environ(), childVariable+"="+string(text)), os.Stderr
		out, err := cmd.StdoutPipe()
		if err == nil {
			err = cmd.Start()
		}
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { cmd.Process.Kill() })
		return cmd, bufio.NewScanner(out)
	}
	logOf := func() string {
		files, _ := filepath.Glob(filepath.Join(config.Dir, "logs", "*", "*.log"))
		slices.Sort(files)
		var all string
		for _, f := range files {
			text, _ := os.ReadFile(f)
			all += string(text)
		}
		return all
	}
	for i, until := range []string{"line 5\n", "line 40\n"} {
		cmd, _ := start()
		eventually(t, until, func() bool { return strings.Contains(logOf(), until) })
		cmd.Process.Kill()
		cmd.Wait()
		config.Create = false
		if i == 0 {
			time.Sleep(time.Second) // the agent is alone for a while
		}
	}
	config.Die = true
	cmd, _ := start()
	cmd.Wait()
	config.Die = false
	cmd, lines := start()
	var said []string
	for lines.Scan() {
		said = append(said, lines.Text())
	}
	cmd.Wait()
	log := plain(logOf())
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("%q\n%s", said, log)
		}
	})
	if len(said) != 4 || said[0] != "pipeline success" || said[1] != "coverage 42" {
		t.Errorf("it says %q", said)
	}
	if strings.Contains(log, "s3cret-value") || strings.Contains(log, "keelson-job-") || !strings.Contains(log, "secret [MASKED] token [MASKED]") {
		t.Error("a secret")
	}
	at := 0
	for i := range 120 {
		want := fmt.Sprintf("\nline %d\n", i+1)
		n := strings.Index(log[at:], want)
		if n < 0 {
			t.Fatalf("%q is lost", want)
		}
		at += n + 1
	}
	if strings.Count(log, "after: success\n") != 1 || strings.Count(log, "Job succeeded") != 3 || // once more by the process that took it up at its end
		strings.Count(log, "secret [MASKED]") != 1 || !strings.Contains(log, "\nmade of the source\n") {
		t.Error("the end of the jobs")
	}
}
