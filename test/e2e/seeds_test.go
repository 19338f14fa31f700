package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// article reads a pipeline of the articles that Keelson grew from, and puts other words in its place where the article names machines of
// its author's. Every one of them has to be there.
func article(t *testing.T, name string, oldnew ...string) string {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(root(), "cmd/keelson/testdata/ci/seeds", name))
	if err != nil {
		t.Fatal(err)
	}
	text := string(b)
	for i := 0; i < len(oldnew); i += 2 {
		if !strings.Contains(text, oldnew[i]) {
			t.Fatalf("%s: there is no %q", name, oldnew[i])
		}
		text = strings.ReplaceAll(text, oldnew[i], oldnew[i+1])
	}
	return text
}

// reader is a project with a repository whose jobs may deploy to the namespaces ("production", or "staging@review/*" for the environments
// that match), and a clone of it.
func (in *instance) reader(t *testing.T, path, spec string, namespaces ...string) clone {
	t.Helper()
	in.must(t, "git", "create", path)
	home := strings.ReplaceAll(path, "/", "-")
	manifest := "{apiVersion: v1, kind: Namespace, metadata: {name: " + home + "}}\n"
	access := "  access:\n"
	all := map[string]bool{}
	for i, ns := range namespaces {
		ns, environment, _ := strings.Cut(ns, "@")
		access += fmt.Sprintf("  - {name: %s-%d, serviceAccount: gitlab-deploy, namespace: %s, environment: %q}\n", ns, i, ns, environment)
		if all[ns] {
			continue
		}
		all[ns] = true
		manifest += "---\n{apiVersion: v1, kind: Namespace, metadata: {name: " + ns + "}}\n"
	}
	apply(t, in.Kubeconfig, manifest+"---\n"+`
apiVersion: keelson.dev/v1alpha1
kind: Project
metadata: {name: project, namespace: `+home+`}
spec:
  repository: `+path+"\n"+access+spec)
	for ns := range all {
		in.rbac(t, ns, "gitlab-deploy", "--helm")
		in.kubectl(t, "annotate", "serviceaccount", "gitlab-deploy", "-n", ns, "--overwrite", "keelson.dev/projects=articles/*,clients/*,environments/*,"+home+"/project")
	}
	t.Cleanup(func() {
		in.kubectl(t, "delete", "namespace", home, "--wait=false")
		for ns := range all {
			in.kubectl(t, "delete", "namespace", ns, "--wait=false")
		}
	})
	return cloneOf(t, in.Git+"/"+path+".git")
}

// job gives the log of a job.
func (in *instance) job(t *testing.T, pipeline int64, name string) string {
	t.Helper()
	return in.must(t, "ci", "logs", fmt.Sprint(pipeline), name)
}

const myapp = `apiVersion: apps/v1
kind: Deployment
metadata: {name: NAME, namespace: production}
spec:
  replicas: 2
  selector: {matchLabels: {app: NAME}}
  template:
    metadata: {labels: {app: NAME, version: VERSION}}
    spec:
      containers: [{name: myapp, image: IMAGE_PLACEHOLDER, ports: [{containerPort: 3000}]}]
`

func deploymentOf(name, version, image string) string {
	return strings.NewReplacer("NAME", name, "VERSION", version, "IMAGE_PLACEHOLDER", image).Replace(myapp)
}

// TestHelmFromATag is the pipeline of the first article: a chart at its tag, credentials that no log shows, a person who says go, and volumes.
func TestHelmFromATag(t *testing.T) {
	t.Parallel()
	in := shared
	charts := in.reader(t, "articles/templates-helm", "  readableBy: [\"clients/*\"]\n")
	stack(t, filepath.Join(charts.dir, "charts/wordpress-stack"), "3.10.9")
	charts.git("add", "-A")
	charts.git("commit", "-qm", "3.10.9")
	charts.git("tag", "wordpress-stack-v3.10.9")
	charts.git("push", "-q", "origin", "HEAD:main", "wordpress-stack-v3.10.9")

	c := in.reader(t, "clients/vitrine", `
  protected: {branches: [prod]}
  variables:
  - {name: KUBE_CONTEXT, value: "clients/vitrine:vitrine-prod-0"}
  - {name: RELEASE_NAME, value: vitrine}
  - {name: NAMESPACE, value: vitrine-prod}
  - {name: MARIADB_PASSWORD, protected: true, masked: true, value: "db-s3cret-1"}
  - {name: WP_ADMIN_PASSWORD, protected: true, masked: true, value: "wp-s3cret-2"}
`, "vitrine-prod")
	writeFiles(t, c.dir,
		"values-prod.yaml", "litespeed:\n  replicas: 2\n  storage:\n    size: 1Gi\nmariadb:\n  storage:\n    size: 1Gi\n",
		"resize-volume.sh", "kubectl get pvc -n vitrine-prod\necho resize $PVC_NAME to $NEW_SIZE\n",
		".gitlab-ci.yml", article(t, "000/pipeline.yml",
			"https://gitlab-ci-token:${CI_JOB_TOKEN}@gitlab.cluster.example/infra/", "$CI_SERVER_PROTOCOL://gitlab-ci-token:${CI_JOB_TOKEN}@$CI_SERVER_FQDN/articles/",
			"      kubectl scale statefulset vitrine-wordpress-stack-mariadb --replicas=0\n", "",
			"      kubectl scale statefulset vitrine-wordpress-stack-mariadb --replicas=1\n", ""))
	c.git("add", "-A")
	c.git("commit", "-qm", "The stack")
	c.git("push", "-q", "origin", "HEAD:prod")
	id := in.newest(t, "clients/vitrine", 1)
	in.shownLogs(t, id, "success: deploy:production/1=manual resize:production/1=success")
	contains(t, in.job(t, id, "resize:production"), "resize vitrine-wordpress-stack-litespeed-data to 1Gi", "resize data-vitrine-wordpress-stack-mariadb-0 to 1Gi")
	if r := tryKubectl(in.Kubeconfig, "get", "statefulset", "-n", "vitrine-prod", "-o", "name"); strings.TrimSpace(r.out) != "" {
		t.Fatalf("deployed before anybody said so: %s", r.out)
	}
	in.must(t, "ci", "play", fmt.Sprint(id), "deploy:production")
	in.shownLogs(t, id, "success: deploy:production/1=success resize:production/1=success")
	log := in.job(t, id, "deploy:production")
	contains(t, log, "STATUS: deployed")
	for _, secret := range []string{"db-s3cret-1", "wp-s3cret-2"} {
		if strings.Contains(log, secret) {
			t.Errorf("the log shows %s", secret)
		}
	}
	contains(t, in.kubectl(t, "get", "secret", "vitrine-wordpress-stack", "-n", "vitrine-prod", "-o", "go-template={{index .data \"mariadb-password\" | base64decode}}"), "db-s3cret-1")
	contains(t, in.kubectl(t, "get", "deployment", "vitrine-wordpress-stack-litespeed", "-n", "vitrine-prod", "-o", "jsonpath={.status.readyReplicas}"), "2")

	// Back by a revert commit, which the person lets through again.
	c.replace("values-prod.yaml", "replicas: 2", "replicas: 3")
	c.git("commit", "-qam", "More")
	c.git("revert", "--no-edit", "HEAD")
	c.git("push", "-q", "origin", "HEAD:prod")
	id = in.newest(t, "clients/vitrine", 2)
	in.shownLogs(t, id, "success: deploy:production/1=manual resize:production/1=success")
	in.must(t, "ci", "play", fmt.Sprint(id), "deploy:production")
	in.shownLogs(t, id, "success: deploy:production/1=success resize:production/1=success")
	contains(t, in.job(t, id, "deploy:production"), "REVISION: 2")

	// Another branch is not told the passwords, and has nothing to run.
	c.git("push", "-q", "origin", "HEAD:other")
	if n := len(in.pipelines(t, "clients/vitrine")); n != 2 {
		t.Errorf("%d pipelines", n)
	}
}

// TestImageSuggested is the third article: the application's pipeline suggests an image to the repository of the environments, whose
// pipelines deploy and promote it.
func TestImageSuggested(t *testing.T) {
	t.Parallel()
	in := shared
	env := in.reader(t, "environments/pick-manager-env", `
  protected: {branches: [master, candidates]}
  variables:
  - {name: DEPLOY_TOKEN, masked: true, value: "`+in.Token+`"}
`, "pick-dev", "pick-uat")
	overlay := func(name string) string {
		return "namespace: pick-" + name + "\nresources: [../../base]\n"
	}
	const tools = `
function install_kubetools { echo "kubectl $(kubectl version --client -o yaml | head -1), kustomize are here"; }
function deploy {
  kustomize build . > target.yaml
  cat ./target.yaml
  kubectl apply -f ./target.yaml
}
function check_success {
  for i in 1 2 3 4 5 6; do
    if kubectl -n $1 rollout status deployment picker --timeout=60s; then return 0; fi
    echo "waiting for deployment"
    sleep 2
  done
  return 1
}
function find_current_image { sed -n 's/^ *newTag: "*\([^"]*\)"*$/\1/p' kustomizations/overlays/dev/kustomization.yaml | head -1; }
function git_commit {
  git config user.email ci@example.com && git config user.name CI
  git checkout -q -B master
  git remote set-url origin "$CI_SERVER_PROTOCOL://oauth2:$DEPLOY_TOKEN@$CI_SERVER_FQDN/environments/pick-manager-env.git"
  git commit -q -m "$2" -- "$1"
}
`
	writeFiles(t, env.dir,
		"functions.sh", tools,
		"kustomizations/base/deployment.yaml", strings.ReplaceAll(strings.ReplaceAll(deploymentOf("picker", "one", "application-image"), ", namespace: production", ""), "name: myapp", "name: main"),
		"kustomizations/base/kustomization.yaml", "resources: [deployment.yaml]\n",
		"kustomizations/overlays/dev/kustomization.yaml", overlay("dev"),
		"kustomizations/overlays/uat/kustomization.yaml", overlay("uat"),
		".gitlab-ci.yml", article(t, "003/environment.yml",
			"  only:\n    - merge_requests\n", "  before_script: [kubectl config use-context environments/pick-manager-env:pick-dev-0]\n  only:\n    - candidates\n",
			"    - deploy\n    - cd -\n    - check_success dev\n", "    - deploy\n    - cd -\n    - check_success pick-dev\n",
			"    - export newTag=", "    - kubectl config use-context environments/pick-manager-env:pick-uat-1\n    - export newTag=",
			"/usr/local/bin/kustomize edit set image image-name=\"some-image:$newTag\"", "kustomize edit set image application-image=\"registry.example.com/picker:$newTag\"",
			"check_success environment", "check_success pick-uat",
			"git push --set-upstream origin master", "git push -o ci.skip --set-upstream origin master"))
	env.git("add", "-A")
	env.git("commit", "-qm", "Environments")
	env.git("push", "-q", "-o", "ci.skip", "origin", "HEAD:master", "HEAD:candidates")

	app := in.reader(t, "articles/pick-manager", `
  variables:
  - {name: GITLAB_ACCESS_TOKEN, masked: true, value: "`+in.Token+`"}
  - {name: DOCKER_IMAGE_NAME, value: registry.example.com/picker}
`)
	writeFiles(t, app.dir,
		"build/docker_image_tag_value.txt", "1.4.2\n",
		".gitlab-ci.yml", article(t, "003/application.yml",
			"https://oauth2:${GITLAB_ACCESS_TOKEN}@gitlab.example.com/group/", "$CI_SERVER_PROTOCOL://oauth2:${GITLAB_ACCESS_TOKEN}@$CI_SERVER_FQDN/environments/",
			"    - git checkout -b \"$newBranch\"\n", "",
			"    - curl -s \"https://install.example.com/install_kustomize.sh\" | bash\n    - chmod +x ./kustomize\n    - mv ./kustomize /usr/local/bin/kustomize\n", "",
			"/usr/local/bin/kustomize", "kustomize",
			"    - git push --set-upstream origin $newBranch\n      -o merge_request.create\n      -o merge_request.target=candidates\n"+
				"      -o merge_request.merge_when_pipeline_succeeds\n      -o merge_request.label=\"$newBranch\"\n      -o merge_request.remove_source_branch\n",
			"    - git push origin candidates\n"))
	app.git("add", "-A")
	app.git("commit", "-qm", "Pick faster")
	app.git("push", "-q", "origin", "HEAD:master")
	id := in.newest(t, "articles/pick-manager", 1)
	in.shownLogs(t, id, "success: suggest-image/1=success")

	dev := in.newest(t, "environments/pick-manager-env", 1)
	in.shownLogs(t, dev, "success: deploy-dev/1=success")
	contains(t, in.job(t, dev, "deploy-dev"), "image: registry.example.com/picker:1.4.2", "successfully rolled out")
	env.git("fetch", "-q")
	contains(t, env.git("log", "-1", "--format=%B", "origin/candidates"), "CI Pipeline tagged commit", "upstream message")

	// What is in dev is merged, and a person promotes it.
	env.git("merge", "-q", "--ff-only", "origin/candidates")
	env.git("push", "-q", "origin", "HEAD:master")
	uat := in.newest(t, "environments/pick-manager-env", 2)
	in.shownLogs(t, uat, "skipped: promote-uat/1=manual")
	in.must(t, "ci", "play", fmt.Sprint(uat), "promote-uat")
	in.shownLogs(t, uat, "success: promote-uat/1=success")
	contains(t, in.kubectl(t, "get", "deployment", "picker", "-n", "pick-uat", "-o", "jsonpath={.spec.template.spec.containers[0].image}"), "registry.example.com/picker:1.4.2")
	env.git("fetch", "-q")
	contains(t, env.git("log", "-1", "--format=%s", "origin/master"), "1.4.2 promoted to UAT")
	if n := len(in.pipelines(t, "environments/pick-manager-env")); n != 2 {
		t.Errorf("%d pipelines: the promotion's own push made one", n)
	}
}

// TestWaysToDeploy are those of the last article, each on a push: sed, kustomize, a kubeconfig, blue-green, canary, and staging and
// production with a way back.
func TestWaysToDeploy(t *testing.T) {
	t.Parallel()
	in := shared
	kubeconfig, err := os.ReadFile(in.Kubeconfig)
	if err != nil {
		t.Fatal(err)
	}
	c := in.reader(t, "articles/myapp", `
  protected: {branches: [main, develop]}
  variables:
  - {name: CI_REGISTRY_IMAGE, value: registry.example.com/articles/myapp}
  - name: KUBECONFIG_FILE
    type: file
    valueFrom: {secretKeyRef: {name: kubeconfig, key: config}}
`, "myapp-staging@staging", "myapp-staging@review/*", "myapp-production")
	file := filepath.Join(t.TempDir(), "config")
	write(t, file, string(kubeconfig))
	in.kubectl(t, "create", "secret", "generic", "kubeconfig", "-n", "articles-myapp", "--from-file", "config="+file)

	// The sample of the instance has the namespaces that the article names.
	elsewhere := strings.NewReplacer("-n production", "-n myapp-production", "namespace: production", "namespace: myapp-production",
		"-n staging", "-n myapp-staging", "namespace: staging", "namespace: myapp-staging", "namespace staging", "namespace myapp-staging",
		"production myapp-green", "myapp-production myapp-green")
	count := 0
	push := func(t *testing.T, branch, config string, files ...string) int64 {
		t.Helper()
		files = append(files, ".gitlab-ci.yml", config)
		for i := range files {
			files[i] = elsewhere.Replace(files[i])
		}
		writeFiles(t, c.dir, files...)
		c.git("add", "-A")
		c.git("commit", "-q", "--allow-empty", "-m", t.Name())
		c.git("push", "-q", "-f", "origin", "HEAD:"+branch)
		count++
		return in.newest(t, "articles/myapp", count)
	}
	imageOf := func(t *testing.T, namespace, name string) string {
		t.Helper()
		return in.kubectl(t, "get", "deployment", name, "-n", namespace, "-o", "jsonpath={.spec.template.spec.containers[0].image}")
	}
	head := func() string { return strings.TrimSpace(c.git("rev-parse", "HEAD")) }

	t.Run("sed", func(t *testing.T) {
		id := push(t, "main", article(t, "004/sed.yml"), "k8s/deployment.yaml", strings.Replace(deploymentOf("myapp", "v1", "IMAGE_PLACEHOLDER"), "replicas: 2", "replicas: 3", 1))
		in.shownLogs(t, id, "success: deploy/1=success")
		if got, want := imageOf(t, "myapp-production", "myapp"), "registry.example.com/articles/myapp:"+head(); got != want {
			t.Errorf("%s, want %s", got, want)
		}
	})
	t.Run("kustomize", func(t *testing.T) {
		id := push(t, "main", article(t, "004/kustomize.yml"),
			"k8s/base/deployment.yaml", strings.ReplaceAll(deploymentOf("myapp", "v1", "myapp"), ", namespace: production", ""),
			"k8s/base/service.yaml", "apiVersion: v1\nkind: Service\nmetadata: {name: myapp}\nspec: {selector: {app: myapp}, ports: [{port: 80, targetPort: 3000}]}\n",
			"k8s/base/kustomization.yaml", "apiVersion: kustomize.config.k8s.io/v1beta1\nkind: Kustomization\nresources:\n- deployment.yaml\n- service.yaml\n",
			"k8s/overlays/production/kustomization.yaml", "apiVersion: kustomize.config.k8s.io/v1beta1\nkind: Kustomization\nresources:\n- ../../base\nnamespace: production\n"+
				"images:\n- name: myapp\n  newName: registry.gitlab.com/mygroup/myapp\n  newTag: latest\n")
		in.shownLogs(t, id, "success: deploy_production/1=success")
		if got, want := imageOf(t, "myapp-production", "myapp"), "registry.example.com/articles/myapp:"+head(); got != want {
			t.Errorf("%s, want %s", got, want)
		}
	})
	t.Run("kubeconfig", func(t *testing.T) {
		id := push(t, "main", article(t, "004/kubeconfig.yml", "apply -f k8s/", "apply -f k8s/base/service.yaml -n staging"))
		in.shownLogs(t, id, "success: deploy/1=success")
	})
	t.Run("blue-green", func(t *testing.T) {
		config := article(t, "004/blue-green.yml", "green.internal.example.com", "production myapp-green")
		const smoke = "#!/bin/sh\ntest \"$(kubectl get deployment $2 -n $1 -o 'jsonpath={.status.readyReplicas}')\" = READY\n"
		blue := strings.Replace(deploymentOf("myapp-blue", "blue", "registry.example.com/articles/myapp:1"), "app: myapp-blue, version", "app: myapp-blue, group: myapp, version", 1)
		green := strings.Replace(blue, "myapp:1", "myapp:2", 1)
		green = strings.NewReplacer("myapp-blue", "myapp-green", "version: blue", "version: green").Replace(green)
		apply(t, in.Kubeconfig, elsewhere.Replace(blue+"---\napiVersion: v1\nkind: Service\nmetadata: {name: myapp, namespace: production}\n"+
			"spec: {selector: {group: myapp, version: blue}, ports: [{port: 80, targetPort: 3000}]}\n"))
		selector := func() string {
			return in.kubectl(t, "get", "service", "myapp", "-n", "myapp-production", "-o", "jsonpath={.spec.selector.version}")
		}
		script := filepath.Join(c.dir, "scripts/smoke-test.sh")
		writeFiles(t, c.dir, "scripts/smoke-test.sh", strings.Replace(smoke, "READY", "17", 1))
		if err := os.Chmod(script, 0o755); err != nil { //nolint:gosec // a script
			t.Fatal(err)
		}
		id := push(t, "main", config, "k8s/deployment-green.yaml", green)
		in.shownLogs(t, id, "failed: deploy/1=failed")
		if got := selector(); got != "blue" {
			t.Errorf("after a smoke test that failed the service is at %s", got)
		}
		id = push(t, "main", config, "scripts/smoke-test.sh", strings.Replace(smoke, "READY", "2", 1))
		in.shownLogs(t, id, "success: deploy/1=success")
		if got := selector(); got != "green" {
			t.Errorf("the service is at %s", got)
		}
		if r := tryKubectl(in.Kubeconfig, "get", "deployment", "myapp-blue", "-n", "myapp-production"); r.code == 0 {
			t.Error("blue is still there")
		}
	})
	t.Run("canary", func(t *testing.T) {
		apply(t, in.Kubeconfig, elsewhere.Replace(deploymentOf("myapp-stable", "stable", "registry.example.com/articles/myapp:1")))
		replicas := func() string {
			return in.kubectl(t, "get", "deployment", "myapp-canary", "myapp-stable", "-n", "myapp-production", "-o", "jsonpath={.items[*].spec.replicas}")
		}
		config := "stages: [deploy]\n" + article(t, "004/canary.yml", "sleep 300", "kubectl rollout status deployment/myapp-canary -n production",
			"./scripts/check-error-rate.sh", "sh scripts/check-error-rate.sh")
		id := push(t, "main", config, "k8s/deployment-canary.yaml", deploymentOf("myapp-canary", "canary", "registry.example.com/articles/myapp:3"),
			"scripts/check-error-rate.sh", "echo 'errors: 12%'; exit 1\n")
		in.shownLogs(t, id, "failed: deploy_canary/1=failed")
		if got := replicas(); got != "1 2" {
			t.Errorf("replicas of canary and stable: %s", got)
		}
		id = push(t, "main", config, "scripts/check-error-rate.sh", "echo 'errors: 0%'\n")
		in.shownLogs(t, id, "success: deploy_canary/1=success")
		if got := replicas(); got != "3 0" {
			t.Errorf("replicas of canary and stable: %s", got)
		}
	})
	t.Run("staging and production", func(t *testing.T) {
		config := article(t, "004/pipeline.yml",
			"  image: docker:24.0\n  services:\n    - docker:24.0-dind\n", "", // containers are for Pods
			"    - docker login -u $CI_REGISTRY_USER -p $CI_REGISTRY_PASSWORD $CI_REGISTRY\n    - docker build -t $IMAGE_TAG -t $CI_REGISTRY_IMAGE:latest .\n"+
				"    - docker push $IMAGE_TAG\n    - docker push $CI_REGISTRY_IMAGE:latest\n", "    - mkdir build\n    - echo $IMAGE_TAG > build/image\n",
			"npm test", "test \"$(cat build/image)\" = $IMAGE_TAG",
			"kubectl rollout undo deployment/myapp\n", "kubectl rollout undo deployment/myapp -n production\n",
			"kubectl apply -f k8s/review/", "kubectl apply -n staging -f k8s/review/")
		apply(t, in.Kubeconfig, elsewhere.Replace(deploymentOf("myapp", "v1", "registry.example.com/articles/myapp:1")))
		id := push(t, "develop", config, "k8s/review/web.yaml", "apiVersion: v1\nkind: ConfigMap\nmetadata:\n  name: review\n")
		want := func(status, deploy string) string {
			return status + ": build/1=success test/1=success " + deploy + " rollback_user_service/1=skipped rollback_production/1=skipped"
		}
		in.shownLogs(t, id, want("success", "deploy_staging/1=success"))
		if got, want := imageOf(t, "myapp-staging", "myapp"), "registry.example.com/articles/myapp:"+head(); got != want {
			t.Errorf("staging: %s, want %s", got, want)
		}
		id = push(t, "main", config)
		in.shownLogs(t, id, want("success", "deploy_production/1=manual"))
		if got := imageOf(t, "myapp-production", "myapp"); got != "registry.example.com/articles/myapp:1" {
			t.Errorf("production before anybody said so: %s", got)
		}
		in.must(t, "ci", "play", fmt.Sprint(id), "deploy_production")
		in.shownLogs(t, id, want("success", "deploy_production/1=success"))
		if got, want := imageOf(t, "myapp-production", "myapp"), "registry.example.com/articles/myapp:"+head(); got != want {
			t.Errorf("production: %s, want %s", got, want)
		}
		id = push(t, "feature/login", config)
		in.shownLogs(t, id, want("success", "deploy_review/1=success"))
		contains(t, in.kubectl(t, "get", "configmap", "review", "-n", "myapp-staging", "-o", "name"), "configmap/review")
	})
}
