package e2e

import (
	"fmt"
	"path/filepath"
	"strings"
	"testing"
)

// rbac applies what keelson ci rbac writes, and waits until it is in force.
func (in *instance) rbac(t *testing.T, namespace, name string, args ...string) {
	t.Helper()
	file := filepath.Join(t.TempDir(), "rbac.yaml")
	write(t, file, in.must(t, append([]string{"ci", "rbac", "-n", namespace, "--name", name}, args...)...))
	in.kubectl(t, "apply", "-f", file)
	eventually(t, "the role of "+name, func() error { // the server's authorizer watches roles
		r := tryKubectl(in.Kubeconfig, "auth", "can-i", "create", "services", "-n", namespace, "--as", "system:serviceaccount:"+namespace+":"+name)
		if r.code != 0 {
			return fmt.Errorf("%s%s", r.out, r.err)
		}
		return nil
	})
}

// played pushes a configuration to a branch and gives the logs of its jobs, by name, once the pipeline has come to what is wanted.
func (in *instance) played(t *testing.T, c clone, project, branch, config, want string) map[string]string {
	t.Helper()
	before := len(in.pipelines(t, project))
	write(t, filepath.Join(c.dir, ".gitlab-ci.yml"), config)
	c.git("add", "-A")
	c.git("commit", "-q", "--allow-empty", "-m", "play")
	c.git("push", "-q", "-f", "origin", "HEAD:"+branch)
	id := in.newest(t, project, before+1)
	p := in.shownLogs(t, id, want)
	logs := map[string]string{}
	for _, j := range p.Jobs {
		logs[j.Name] = in.must(t, "ci", "logs", fmt.Sprint(id), j.Name)
	}
	return logs
}

// shownLogs waits as shown does; where it comes to something else, the logs of the jobs say why.
func (in *instance) shownLogs(t *testing.T, id int64, want string) pipelineShown {
	t.Helper()
	defer func() {
		if t.Failed() {
			for _, line := range strings.Split(in.must(t, "ci", "show", fmt.Sprint(id)), "\n") {
				t.Log(line)
			}
		}
	}()
	t.Cleanup(func() {
		if t.Failed() {
			for _, j := range strings.Fields(want)[1:] {
				name, _, _ := strings.Cut(j, "/")
				t.Logf("job %s of pipeline %d:\n%s", name, id, in.keelson("ci", "logs", fmt.Sprint(id), name).out)
			}
		}
	})
	return in.shown(t, id, want)
}

// TestJobsReachTheCluster: jobs in the sandbox deploy by the KUBECONFIG that they find, as the service accounts that their Project names for
// their environment and their branch, and do nothing else.
func TestJobsReachTheCluster(t *testing.T) {
	t.Parallel()
	in := shared
	in.must(t, "git", "create", "team/access")
	apply(t, in.Kubeconfig, `
apiVersion: v1
kind: Namespace
metadata: {name: access}
---
apiVersion: v1
kind: Namespace
metadata: {name: access-platform}
---
apiVersion: v1
kind: Secret
metadata: {name: prize, namespace: access-platform}
stringData: {password: s3cret-prize}
---
apiVersion: keelson.dev/v1alpha1
kind: Project
metadata: {name: app, namespace: access}
spec:
  repository: team/access
  path: acme/access
  protected: {branches: [main]}
  access:
  - {name: production, serviceAccount: deploy-production, environment: production, protected: true}
  - {name: review, serviceAccount: deploy-review, environment: "review/*"}
`)
	in.rbac(t, "access", "deploy-production", "--helm")
	in.rbac(t, "access", "deploy-review")
	c := cloneOf(t, in.Git+"/team/access.git")
	write(t, filepath.Join(c.dir, "web.yaml"), deploymentYAML("access-web", "web:v1", ""))
	smallChartIn(t, c.dir)
	config := `
stages: [build, deploy, helm]
build: {stage: build, script: [kubectl get pods]}
deploy:
  stage: deploy
  environment: production
  variables: {CI_COMMIT_REF_PROTECTED: "true"}
  script:
  - kubectl config get-contexts
  - echo "namespace $KUBE_NAMESPACE token $KUBE_TOKEN"
  - cat $KUBECONFIG
  - kubectl apply -f web.yaml
  - kubectl rollout status deployment/access-web --timeout=60s
  - if kubectl get secret prize -n access-platform -o yaml; then exit 9; fi
  - kubectl config use-context acme/access:production
helm:
  stage: helm
  environment: {name: production}
  script: [helm upgrade --install cache chart --wait --timeout 60s, helm upgrade --install cache chart --set tag=2 --wait --timeout 60s]
`
	logs := in.played(t, c, "acme/access", "main", strings.Replace(config, "kubectl get pods", "kubectl get pods || true", 1),
		"success: build/1=success deploy/1=success helm/1=success")
	contains(t, logs["build"], "this job of acme/access has no access to the cluster: production is for jobs with environment production on protected branches and tags only")
	contains(t, logs["deploy"], "acme/access:production", "namespace access token [MASKED]", "token: [MASKED]", "deployment.apps/access-web created", "successfully rolled out",
		`secrets "prize" is forbidden: User "system:serviceaccount:access:deploy-production" cannot get resource "secrets"`, `Switched to context "acme/access:production"`)
	for name, log := range logs {
		if strings.Contains(log, "keelson-job-") || strings.Contains(log, "s3cret-prize") {
			t.Errorf("job %s:\n%s", name, log)
		}
	}
	contains(t, logs["helm"], "REVISION: 2")
	image(t, in.Kubeconfig, "access", "access-web", "web:v1")

	// A branch that is not protected, whatever it says of itself.
	logs = in.played(t, c, "acme/access", "feature", strings.Replace(config, "kubectl get pods", "kubectl get pods || true", 1), "failed: build/1=success deploy/1=failed helm/1=skipped")
	contains(t, logs["deploy"], "this job of acme/access has no access to the cluster")

	// A review app acts as another account, and one of another namespace has to agree.
	review := `
deploy: {environment: review/$CI_COMMIT_REF_NAME, script: [kubectl config current-context, kubectl get deployments, kubectl auth whoami]}
`
	logs = in.played(t, c, "acme/access", "feature", review, "success: deploy/1=success")
	contains(t, logs["deploy"], "acme/access:review", "access-web", "system:serviceaccount:access:deploy-review")
	in.kubectl(t, "patch", "project", "app", "-n", "access", "--type", "json", "-p",
		`[{"op":"add","path":"/spec/access/-","value":{"name":"platform","serviceAccount":"deploy","namespace":"access-platform","environment":"review/*"}}]`)
	logs = in.played(t, c, "acme/access", "feature", review, "failed: deploy/1=failed")
	contains(t, logs["deploy"], "access platform of the Project access/app: there is no service account access-platform/deploy", "keelson ci rbac -n access-platform --name deploy")
	in.rbac(t, "access-platform", "deploy", "--project", "other/app,acme/*")
	logs = in.played(t, c, "acme/access", "feature", review, "failed: deploy/1=failed")
	contains(t, logs["deploy"], "kubectl annotate serviceaccount deploy -n access-platform --overwrite keelson.dev/projects=access/app")
	in.rbac(t, "access-platform", "deploy", "--project", "other/app,access/*")
	logs = in.played(t, c, "acme/access", "feature", `
deploy: {environment: review/$CI_COMMIT_REF_NAME, script: [kubectl config get-contexts -o name, kubectl --context acme/access:platform get secret prize]}
`, "success: deploy/1=success")
	contains(t, logs["deploy"], "acme/access:review", "acme/access:platform", "prize")

	// A project that brings its own way is told that nobody follows it there; one without any access is told what to do.
	logs = in.played(t, c, "acme/access", "feature", `
deploy: {environment: review/x, variables: {KUBECONFIG: $CI_PROJECT_DIR/mine}, script: [kubectl config view || true]}
`, "success: deploy/1=success")
	contains(t, logs["deploy"], "KUBECONFIG (job variables) is not Keelson's: what the job does with it goes past Keelson's proxy")
	if strings.Contains(logs["deploy"], "acme/access:review") {
		t.Errorf("its own KUBECONFIG does not count:\n%s", logs["deploy"])
	}
	in.must(t, "git", "create", "team/bare")
	c = cloneOf(t, in.Git+"/team/bare.git")
	logs = in.played(t, c, "team/bare", "main", "deploy: {script: ['echo \"own [$KUBECONFIG]\"', '${PATH##*:}/helm list || true', '${PATH##*:}/kubectl get pods']}\n", "failed: deploy/1=failed")
	contains(t, logs["deploy"], "own []", "This job has no kubeconfig. So that jobs of team/bare reach the cluster, name a service account in spec.access of its Project")
	if n := strings.Count(logs["deploy"], "This job has no kubeconfig."); n != 2 {
		t.Errorf("kubectl and helm say %d times what to do:\n%s", n, logs["deploy"])
	}
}

// smallChartIn writes a chart with one Deployment.
func smallChartIn(t *testing.T, dir string) {
	t.Helper()
	write(t, filepath.Join(dir, "chart/Chart.yaml"), "apiVersion: v2\nname: cache\nversion: 0.1.0\n")
	write(t, filepath.Join(dir, "chart/values.yaml"), "tag: \"1\"\n")
	write(t, filepath.Join(dir, "chart/templates/all.yaml"), `apiVersion: apps/v1
kind: Deployment
metadata: {name: {{ .Release.Name }}}
spec:
  selector: {matchLabels: {app: cache}}
  template: {metadata: {labels: {app: cache}}, spec: {containers: [{name: cache, image: "cache:{{ .Values.tag }}"}]}}
`)
}
