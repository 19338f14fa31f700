package e2e

import (
	"archive/tar"
	"bytes"
	"encoding/base64"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/crane"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
)

// layered lays files and links on an image: in pairs, a path and what it holds, or where it leads if that begins with "-> ".
func layered(t *testing.T, base v1.Image, pairs ...string) v1.Image {
	t.Helper()
	var layer bytes.Buffer
	w := tar.NewWriter(&layer)
	for i := 0; i < len(pairs); i += 2 {
		h := tar.Header{Name: pairs[i], Mode: 0o755, Size: int64(len(pairs[i+1]))}
		content := pairs[i+1]
		if target, is := strings.CutPrefix(content, "-> "); is {
			h.Typeflag, h.Linkname, h.Size, content = tar.TypeSymlink, target, 0, ""
		}
		if err := w.WriteHeader(&h); err != nil {
			t.Fatal(err)
		}
		if _, err := io.WriteString(w, content); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	content, err := tarball.LayerFromOpener(func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(layer.Bytes())), nil })
	if err != nil {
		t.Fatal(err)
	}
	image, err := mutate.AppendLayers(base, content)
	if err != nil {
		t.Fatal(err)
	}
	return image
}

// toolsImage is what deploy jobs run in: a shell, kubectl, helm and kustomize, which are Keelson, the first process of the Pod, and a program
// that pushes images, as kaniko does.
func toolsImage(t *testing.T, base v1.Image) v1.Image {
	t.Helper()
	program := filepath.Join(t.TempDir(), "pushed")
	build := exec.Command("go", "build", "-trimpath", "-ldflags", "-s -w", "-o", program, ".")
	build.Dir, build.Env = filepath.Join(root(), "test/e2e/testdata/pushed"), append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("build: %v\n%s", err, out)
	}
	pushed, err := os.ReadFile(program)
	if err != nil {
		t.Fatal(err)
	}
	return layered(t, base, "etc/passwd", "root:x:0:0:root:/root:/bin/sh\n", "bin/pushed", string(pushed),
		"bin/kubectl", "-> /proc/1/exe", "bin/helm", "-> /proc/1/exe", "bin/kustomize", "-> /proc/1/exe")
}

// webImage is an application that answers on port 3000 with what it is.
func webImage(t *testing.T, base v1.Image, what string) v1.Image {
	t.Helper()
	image := layered(t, base, "www/index.html", what+"\n")
	config, err := image.ConfigFile()
	if err != nil {
		t.Fatal(err)
	}
	config = config.DeepCopy()
	config.Config.Cmd = []string{"httpd", "-f", "-p", "3000", "-h", "/www"}
	if image, err = mutate.ConfigFile(image, config); err != nil {
		t.Fatal(err)
	}
	return image
}

const webDeployment = `apiVersion: apps/v1
kind: Deployment
metadata: {name: NAME, namespace: production}
spec:
  selector: {matchLabels: {app: NAME}}
  template:
    metadata: {labels: {app: NAME, group: GROUP, version: VERSION}}
    spec:
      terminationGracePeriodSeconds: 1
      containers: [{name: myapp, image: "IMAGE", ports: [{containerPort: 3000}]}]
`

const webService = `---
apiVersion: v1
kind: Service
metadata: {name: NAME, namespace: production}
spec: {selector: {group: GROUP, version: VERSION}, ports: [{port: 80, targetPort: 3000}]}
`

func webObjects(text, name, group, version, image string) string {
	return strings.NewReplacer("NAME", name, "GROUP", group, "VERSION", version, "IMAGE", image).Replace(text)
}

// seedPods is an instance whose jobs are Pods, and what the jobs of articles find there.
type seedPods struct {
	*instance
	base  v1.Image // of all images
	tools string   // the image of jobs
}

func (s *seedPods) push(t *testing.T, image v1.Image, name string) string {
	t.Helper()
	name = s.Registry + "/" + name
	if err := crane.Push(image, name, crane.WithAuth(&authn.Basic{Username: "me", Password: s.Token})); err != nil {
		t.Fatal(err)
	}
	return name
}

// running waits until a Deployment has come to rest, and gives its image.
func (s *seedPods) running(t *testing.T, namespace, name string) string {
	t.Helper()
	s.kubectl(t, "rollout", "status", "deployment/"+name, "-n", namespace, "--timeout=60s")
	return s.kubectl(t, "get", "deployment", name, "-n", namespace, "-o", "jsonpath={.spec.template.spec.containers[0].image}")
}

// TestSeedsInPods: the deploy pipelines of the articles, as Pods of a real node, with applications that really run. Building with Docker in
// Docker is not for a Pod without privileges: those jobs push an image that is there, with the login that they are given.
func TestSeedsInPods(t *testing.T) {
	t.Parallel()
	s := &seedPods{instance: realInstance(t, "--ci-executor", "pod"), base: busyboxImage(t)}
	s.tools = s.push(t, toolsImage(t, s.base), "tools/deploy:1")
	apply(t, s.Kubeconfig, `
{apiVersion: v1, kind: Namespace, metadata: {name: production}}
---
{apiVersion: v1, kind: Namespace, metadata: {name: staging}}
---
{apiVersion: v1, kind: Namespace, metadata: {name: articles}}
---
apiVersion: keelson.dev/v1alpha1
kind: Project
metadata: {name: tools, namespace: articles}
spec: {repository: team/tools, path: tools, readableBy: ["*"]}
`)
	s.must(t, "git", "create", "team/tools")
	s.rbac(t, "staging", "deploy", "--project", "articles/*")
	s.rbac(t, "production", "deploy", "--helm", "--project", "articles/*")
	t.Run("a kubeconfig in a variable", s.ownKubeconfig)

	s.must(t, "git", "create", "articles/myapp")
	apply(t, s.Kubeconfig, `
apiVersion: keelson.dev/v1alpha1
kind: Project
metadata: {name: myapp, namespace: articles}
spec:
  repository: articles/myapp
  executor: {image: "`+s.tools+`"}
  protected: {branches: [main, develop]}
  access:
  - {name: staging, serviceAccount: deploy, namespace: staging, environment: staging}
  - {name: production, serviceAccount: deploy, namespace: production, protected: true}
  environments: [{name: "*", followTimeout: 2m}]
`)
	c := cloneOf(t, s.Git+"/articles/myapp.git")
	t.Run("blue-green", func(t *testing.T) { s.blueGreen(t, c) })
	t.Run("staging and production", func(t *testing.T) { s.stagingAndProduction(t, c) })
}

// ownKubeconfig is the second article: the cluster's access is a variable of the project, which the job writes to where kubectl and Helm look.
func (s *seedPods) ownKubeconfig(t *testing.T) {
	file := filepath.Join(t.TempDir(), "config")
	write(t, file, "")
	ca := s.kubectl(t, "get", "configmap", "kube-root-ca.crt", "-n", "production", "-o", `jsonpath={.data.ca\.crt}`)
	token := strings.TrimSpace(s.kubectl(t, "create", "token", "deploy", "-n", "production"))
	server := "https://" + s.kubectl(t, "get", "service", "kubernetes", "-n", "default", "-o", "jsonpath={.spec.clusterIP}")
	write(t, file, fmt.Sprintf(`{apiVersion: v1, kind: Config, current-context: it, contexts: [{name: it, context: {cluster: it, user: it}}],
clusters: [{name: it, cluster: {server: "%s", certificate-authority-data: %s}}], users: [{name: it, user: {token: %s}}]}
`, server, base64.StdEncoding.EncodeToString([]byte(ca)), token))
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	secret := base64.StdEncoding.EncodeToString(text)
	s.kubectl(t, "create", "secret", "generic", "kubeconfig", "-n", "articles", "--from-literal", "config="+secret)
	s.must(t, "git", "create", "articles/api")
	apply(t, s.Kubeconfig, `
apiVersion: keelson.dev/v1alpha1
kind: Project
metadata: {name: api, namespace: articles}
spec:
  repository: articles/api
  protected: {branches: [master]}
  variables:
  - {name: KUBE_CONFIG, masked: true, protected: true, valueFrom: {secretKeyRef: {name: kubeconfig, key: config}}}
`)
	c := cloneOf(t, s.Git+"/articles/api.git")
	if err := crane.Save(webImage(t, s.base, "api"), "api", filepath.Join(c.dir, "image.tar")); err != nil {
		t.Fatal(err)
	}
	writeFiles(t, c.dir, "charts/my-app/Chart.yaml", "{apiVersion: v2, name: my-app, version: 0.1.0}\n", "charts/my-app/values.yaml", "image: {repository: "+s.Registry+"/articles/api, tag: none}\n",
		"charts/my-app/templates/all.yaml", webObjects(strings.ReplaceAll(webDeployment, ", namespace: production", ""), "{{ .Release.Name }}", "api", "v1", "{{ .Values.image.repository }}:{{ .Values.image.tag }}"))
	config := article(t, "001/pipeline.yml",
		"  image: docker:stable\n  services:\n    - docker:dind\n", "  image: "+s.tools+"\n",
		"    - docker login -u $CI_REGISTRY_USER -p $CI_REGISTRY_PASSWORD $CI_REGISTRY\n    - docker build -t $CI_REGISTRY_IMAGE:$CI_COMMIT_SHA .\n", "",
		"docker push ", "pushed push image.tar ",
		"lwolf/helm-kubectl-docker:v1.11.1-v2.10.0", s.tools)
	logs := s.played(t, c, "articles/api", "master", config, "success: build_image/1=success deploy_production/1=success")
	contains(t, logs["build_image"], "pushed "+s.Registry+"/articles/api:")
	contains(t, logs["deploy_production"], "STATUS: deployed", "REVISION: 1")
	if got, want := s.running(t, "production", "my-app"), s.Registry+"/articles/api:"+strings.TrimSpace(c.git("rev-parse", "HEAD")); got != want {
		t.Errorf("the image is %s, want %s", got, want)
	}
	for name, log := range logs {
		if strings.Contains(log, token) || strings.Contains(log, secret) {
			t.Errorf("the log of %s shows the kubeconfig", name)
		}
	}
}

// blueGreen: the smoke test asks the green Pod over the network, and only what it says moves the Service.
func (s *seedPods) blueGreen(t *testing.T, c clone) {
	blue := s.push(t, webImage(t, s.base, "blue"), "articles/myapp:blue")
	sick := s.push(t, webImage(t, s.base, "sick"), "articles/myapp:sick")
	green := s.push(t, webImage(t, s.base, "green"), "articles/myapp:green")
	apply(t, s.Kubeconfig, webObjects(webDeployment, "myapp-blue", "myapp", "blue", blue)+webObjects(webService, "myapp", "myapp", "blue", ""))
	s.running(t, "production", "myapp-blue")
	config := article(t, "004/blue-green.yml", "green.internal.example.com", "$(kubectl get service myapp-green -n production -o 'jsonpath={.spec.clusterIP}')")
	// The node's rules follow a rollout by a moment, in which the Pod before it answers still.
	writeFiles(t, c.dir, "scripts/smoke-test.sh", `#!/bin/sh
for i in 1 2 3 4 5 6 7 8 9 10; do
  if answer=$(wget -qO - "http://$1:80/"); then
    echo "$1 answers: $answer"
    test "$answer" = green && exit
  fi
  sleep 1
done
exit 1
`)
	if err := os.Chmod(filepath.Join(c.dir, "scripts/smoke-test.sh"), 0o755); err != nil { //nolint:gosec // a script
		t.Fatal(err)
	}
	deployed := func(image, want string) (log, version string) {
		t.Helper()
		writeFiles(t, c.dir, "k8s/deployment-green.yaml", webObjects(webDeployment+webService, "myapp-green", "myapp", "green", image))
		log = s.played(t, c, "articles/myapp", "main", config, want)["deploy"]
		return log, s.kubectl(t, "get", "service", "myapp", "-n", "production", "-o", "jsonpath={.spec.selector.version}")
	}
	log, version := deployed(sick, "failed: deploy/1=failed")
	contains(t, log, "successfully rolled out", " answers: sick")
	if version != "blue" {
		t.Errorf("after a smoke test that failed the Service is at %s", version)
	}
	log, version = deployed(green, "success: deploy/1=success")
	contains(t, log, " answers: green", `deployment.apps "myapp-blue" deleted`)
	if version != "green" {
		t.Errorf("the Service is at %s", version)
	}
}

// stagingAndProduction is the last article: staging from develop, production when somebody says so, and the way back when its image is not
// there, which the job learns from the Pod.
func (s *seedPods) stagingAndProduction(t *testing.T, c clone) {
	config := article(t, "004/pipeline.yml",
		"  image: docker:24.0\n  services:\n    - docker:24.0-dind\n", "",
		"    - docker login -u $CI_REGISTRY_USER -p $CI_REGISTRY_PASSWORD $CI_REGISTRY\n    - docker build -t $IMAGE_TAG -t $CI_REGISTRY_IMAGE:latest .\n", "",
		"    - docker push $IMAGE_TAG\n    - docker push $CI_REGISTRY_IMAGE:latest\n", "    - pushed push image.tar $IMAGE_TAG\n    - mkdir build\n    - echo tested > build/mark\n",
		"npm test", `test "$(cat /www/index.html) $(cat build/mark)" = "myapp tested"`, // in the image that was built
		"bitnami/kubectl:latest", s.tools,
		"          spec:\n            containers:\n", "          spec:\n            terminationGracePeriodSeconds: 1\n            containers:\n",
		"  when: manual\n", "  when: manual\n  allow_failure: false\n", // a job that may fail starts no on_failure jobs
		"kubectl rollout undo deployment/myapp\n", "kubectl rollout undo deployment/myapp -n production\n")
	if err := crane.Save(webImage(t, s.base, "myapp"), "myapp", filepath.Join(c.dir, "image.tar")); err != nil {
		t.Fatal(err)
	}
	built := func() string {
		return s.Registry + "/articles/myapp:" + strings.TrimSpace(c.git("rev-parse", "HEAD"))
	}
	const rest = " rollback_user_service/1=skipped rollback_production/1="
	logs := s.played(t, c, "articles/myapp", "develop", config, "success: build/1=success test/1=success deploy_staging/1=success"+rest+"skipped")
	contains(t, logs["deploy_staging"], "successfully rolled out", "deployment/myapp is healthy")
	if got := s.running(t, "staging", "myapp"); got != built() {
		t.Errorf("staging: %s, want %s", got, built())
	}
	first := built()
	apply(t, s.Kubeconfig, webObjects(webDeployment, "myapp", "app", "v1", first))
	play := func(config, want string) int64 {
		t.Helper()
		s.played(t, c, "articles/myapp", "main", config, "manual: build/1=success test/1=success deploy_production/1=manual rollback_user_service/1=skipped rollback_production/1=created")
		id := s.pipelines(t, "articles/myapp")[0]
		s.must(t, "ci", "play", fmt.Sprint(id), "deploy_production")
		s.shownLogs(t, id, want)
		return id
	}
	play(config, "success: build/1=success test/1=success deploy_production/1=success"+rest+"skipped")
	good := built()
	if got := s.running(t, "production", "myapp"); got != good || got == first {
		t.Errorf("production: %s, want %s", got, good)
	}

	// The image is not there. Nothing in the script waits: it is Keelson that follows what was deployed.
	bad := strings.NewReplacer("myapp=$IMAGE_TAG", "myapp=$IMAGE_TAG-none", "    - kubectl rollout status deployment/myapp -n production --timeout=300s\n", "").Replace(config)
	id := play(bad, "failed: build/1=success test/1=success deploy_production/1=failed"+rest+"success")
	log := s.must(t, "ci", "logs", fmt.Sprint(id), "deploy_production")
	contains(t, log, "Following the rollout", "deployment/myapp in namespace production is not healthy: Pod myapp-", "container myapp: ", "ImagePull", built()+"-none", "What to do: ")
	contains(t, s.must(t, "ci", "logs", fmt.Sprint(id), "rollback_production"), "deployment.apps/myapp rolled back")
	if got := s.running(t, "production", "myapp"); got != good {
		t.Errorf("after the way back: %s, want %s", got, good)
	}
}
