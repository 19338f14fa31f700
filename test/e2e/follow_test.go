package e2e

import (
	"fmt"
	"path/filepath"
	"strings"
	"testing"
)

// followed is a repository that apps of three kinds reconcile, and one whose pipeline pushes to it.
const followedApps = `
apiVersion: v1
kind: Namespace
metadata: {name: follow}
---
apiVersion: source.toolkit.fluxcd.io/v1
kind: GitRepository
metadata: {name: shop, namespace: follow}
spec: {interval: 1h, url: %[1]s, ref: {branch: main}}
---
apiVersion: kustomize.toolkit.fluxcd.io/v1
kind: Kustomization
metadata: {name: shop, namespace: follow}
spec: {interval: 1h, path: ./shop, prune: true, targetNamespace: follow, sourceRef: {kind: GitRepository, name: shop}}
---
apiVersion: kustomize.toolkit.fluxcd.io/v1
kind: Kustomization
metadata: {name: idle, namespace: follow}
spec: {interval: 1h, path: ./shop, prune: true, suspend: true, sourceRef: {kind: GitRepository, name: shop}}
---
apiVersion: helm.toolkit.fluxcd.io/v2
kind: HelmRelease
metadata: {name: charted, namespace: follow}
spec:
  interval: 1h
  chart: {spec: {chart: ./chart, reconcileStrategy: Revision, sourceRef: {kind: GitRepository, name: shop}}}
---
apiVersion: v1
kind: Secret
metadata: {name: deploy, namespace: follow}
stringData: {origin: %[2]q}
---
apiVersion: keelson.dev/v1alpha1
kind: Project
metadata: {name: deployer, namespace: follow}
spec:
  repository: team/deployer
  protected: {branches: [main]}
  variables:
  - {name: ORIGIN, valueFrom: {secretKeyRef: {name: deploy, key: origin}}}
  environments:
  - {name: patient, followTimeout: 2m}
  - {name: quiet, follow: false}
  - {name: "*", followTimeout: 1m}
`

const followedPipeline = `
stages: [deploy, after]
variables: {FINE: "example.com/none: x", SIMULATE: "$FINE"}
.push: &push
- git clone -q "$ORIGIN" work
- cd work
- 'sed -i "s#annotations: .*#annotations: {$ANNOTATION}#; s#image: [^,}]*#image: shop:$CI_PIPELINE_ID#" "$FILE"'
- git commit -qam "Deploy $CI_PIPELINE_ID"
- git push -q origin "HEAD:$BRANCH"
- git rev-parse HEAD
deploy:
  stage: deploy
  environment: {name: $WHERE}
  variables: {FILE: shop/shop.yaml, BRANCH: main, ANNOTATION: $SIMULATE, GIT_CONFIG_COUNT: "2", GIT_CONFIG_KEY_0: user.name, GIT_CONFIG_VALUE_0: "Job of $CI_PROJECT_PATH", GIT_CONFIG_KEY_1: user.email, GIT_CONFIG_VALUE_1: job@example.com}
  script: *push
  after_script: ['echo "after $CI_JOB_STATUS"']
rollback:
  stage: after
  environment: {name: $WHERE}
  when: on_failure
  variables: {FILE: shop/shop.yaml, BRANCH: main, ANNOTATION: $FINE, GIT_CONFIG_COUNT: "2", GIT_CONFIG_KEY_0: user.name, GIT_CONFIG_VALUE_0: Job, GIT_CONFIG_KEY_1: user.email, GIT_CONFIG_VALUE_1: job@example.com}
  script: *push
`

const followedShop = `
apiVersion: apps/v1
kind: Deployment
metadata: {name: shop}
spec:
  selector: {matchLabels: {app: shop}}
  template:
    metadata:
      labels: {app: shop}
      annotations: {}
    spec: {containers: [{name: web, image: shop:0}]}
`

// TestJobsFollowCommits: a job that pushes a commit waits until the apps that reconcile it are healthy, and tells what is wrong where they are not.
func TestJobsFollowCommits(t *testing.T) {
	t.Parallel()
	in := shared
	_, url := hosted(t, "team/follow",
		"shop/shop.yaml", followedShop, "argo/map.yaml", "{apiVersion: v1, kind: ConfigMap, metadata: {name: argo}}\n",
		"chart/Chart.yaml", "{apiVersion: v2, name: charted, version: 1.0.0}\n", "chart/templates/map.yaml", "{apiVersion: v1, kind: ConfigMap, metadata: {name: charted}}\n")
	in.must(t, "git", "create", "team/deployer")
	apply(t, in.Kubeconfig, fmt.Sprintf(followedApps, url, in.Git+"/team/follow.git"))
	t.Cleanup(func() {
		kubectl(t, in.Kubeconfig, "-n", "follow", "delete", "--timeout=60s", "kustomization/shop", "kustomization/idle", "helmrelease/charted", "gitrepository/shop")
	})
	declareApp(t, "followed", "project: default\nsource: {repoURL: \""+url+"\", path: argo, targetRevision: main}\ndestination: {server: "+inCluster+", namespace: follow}\nsyncPolicy: {automated: {}}")
	image(t, in.Kubeconfig, "follow", "shop", "shop:0")
	eventually(t, "the HelmRelease", func() error {
		if out := in.kubectl(t, "-n", "follow", "get", "helmrelease", "charted", "-o", `jsonpath={.status.conditions[?(@.type=="Ready")].status}`); out != "True" {
			return fmt.Errorf("Ready is %q", out)
		}
		return nil
	})

	c := cloneOf(t, in.Git+"/team/deployer.git")
	write(t, filepath.Join(c.dir, ".gitlab-ci.yml"), followedPipeline)
	c.git("add", "-A")
	c.git("commit", "-qm", "A pipeline")
	c.git("push", "-q", "-o", "ci.skip", "origin", "HEAD:main")
	deploys := 0
	deploy := func(want string, variables ...string) (log, rollback string) {
		t.Helper()
		args := []string{"ci", "trigger", "team/deployer"}
		for _, v := range variables {
			args = append(args, "--variable", v)
		}
		in.must(t, args...)
		deploys++
		id := in.newest(t, "team/deployer", deploys)
		in.shown(t, id, want)
		log = in.must(t, "ci", "logs", fmt.Sprint(id), "deploy")
		if strings.Contains(log, in.Token) || strings.Contains(log, "keelson-job-") {
			t.Errorf("the log has a token:\n%s", log)
		}
		if strings.HasPrefix(want, "failed") {
			rollback = in.must(t, "ci", "logs", fmt.Sprint(id), "rollback")
		}
		return log, rollback
	}

	log, _ := deploy("success: deploy/1=success rollback/1=skipped", "WHERE=patient")
	contains(t, log, "Following the rollout", " of team/follow in main is reconciled by ", "kustomization/shop in namespace follow", "helmrelease/charted in namespace follow",
		"application/followed in namespace argocd", "kustomization/idle in follow is suspended: it is not waited for", "kustomization/shop in follow is healthy",
		"helmrelease/charted in follow is healthy", "application/followed in argocd is healthy", "deployment/shop is healthy", "after success")
	head := in.kubectl(t, "-n", "follow", "get", "kustomization", "shop", "-o", "jsonpath={.status.lastAppliedRevision}")
	contains(t, log, strings.TrimPrefix(head, "main@sha1:"))

	// The Kustomization does not wait for health; the job does, and its rollback too.
	const bad = "SIMULATE=keelson.dev/simulate: ImagePullBackOff"
	log, rollback := deploy("failed: deploy/1=failed rollback/1=success", "WHERE=patient", bad)
	contains(t, log, "deployment/shop in namespace follow is not healthy: Pod shop-", "container web: ImagePullBackOff", "Warning Failed", "What to do: see to it that the image is there", "after failed")
	contains(t, rollback, "deployment/shop is healthy")

	// One that waits itself is not waited for until it gives up.
	in.kubectl(t, "-n", "follow", "patch", "kustomization", "shop", "--type=merge", "-p", `{"spec": {"wait": true, "timeout": "30m"}}`)
	log, rollback = deploy("failed: deploy/1=failed rollback/1=success", "WHERE=patient", bad)
	contains(t, log, "deployment/shop in namespace follow is not healthy: Pod shop-", "container web: ImagePullBackOff")
	contains(t, rollback, "kustomization/shop in follow is healthy")

	// A commit that cannot be built is told in the app's own words.
	log, _ = deploy("failed: deploy/1=failed rollback/1=success", "WHERE=patient", "SIMULATE=]")
	contains(t, log, "kustomization/shop in namespace follow is not healthy: BuildFailed: ", "shop/shop.yaml")

	log, _ = deploy("success: deploy/1=success rollback/1=skipped", "WHERE=quiet", bad)
	contains(t, log, "The rollout is not followed: KEELSON_FOLLOW, or the Project's settings of environment quiet, switch that off.")
	log, _ = deploy("success: deploy/1=success rollback/1=skipped", "WHERE=quiet", "KEELSON_FOLLOW=true")
	contains(t, log, "kustomization/shop in follow is healthy")
	log, _ = deploy("success: deploy/1=success rollback/1=skipped", "WHERE=patient", "BRANCH=elsewhere")
	contains(t, log, " of team/follow in elsewhere: no app reconciles it, so there is nothing to wait for")
}

// TestJobsFollowObjects: a job that writes objects by the cluster that it is given waits until they are healthy; where they are not, it fails
// with the Pod's reason, and its rollback runs. One with a cluster of its own is not followed.
func TestJobsFollowObjects(t *testing.T) {
	t.Parallel()
	in := shared
	in.must(t, "git", "create", "team/objects")
	apply(t, in.Kubeconfig, `
apiVersion: v1
kind: Namespace
metadata: {name: objects}
---
apiVersion: keelson.dev/v1alpha1
kind: Project
metadata: {name: objects, namespace: objects}
spec:
  repository: team/objects
  protected: {branches: [main]}
  access: [{name: production, serviceAccount: deploy}]
  environments: [{name: production, followTimeout: 2m}]
`)
	in.rbac(t, "objects", "deploy", "--helm")
	c := cloneOf(t, in.Git+"/team/objects.git")
	write(t, filepath.Join(c.dir, "shop.yaml"), followedShop)
	write(t, filepath.Join(c.dir, "chart/Chart.yaml"), "{apiVersion: v2, name: charted, version: 1.0.0}\n")
	write(t, filepath.Join(c.dir, "chart/templates/shop.yaml"), strings.ReplaceAll(strings.ReplaceAll(followedShop, "shop:0", "shop:{{ .Values.tag }}"), "name: shop}", "name: charted}"))
	config := func(simulate string) string {
		return `
stages: [deploy, after]
kubectl:
  stage: deploy
  environment: production
  script:
  - 'sed -i "s#annotations: .*#annotations: {` + simulate + `}#; s#shop:0#shop:$CI_PIPELINE_ID#" shop.yaml'
  - kubectl apply -f shop.yaml
helm: {stage: deploy, environment: production, script: [helm upgrade --install charted chart --set tag=v$CI_PIPELINE_ID]}
rollback: {stage: after, environment: production, when: on_failure, script: [kubectl rollout undo deployment/shop]}
verify: {stage: after, environment: {name: production, action: verify}, script: [kubectl get deployments]}
`
	}
	logs := in.played(t, c, "team/objects", "main", config("example.com/none: x"), "success: kubectl/1=success helm/1=success rollback/1=skipped verify/1=success")
	contains(t, logs["kubectl"], "Following the rollout", "deployment/shop: ", "deployment/shop is healthy")
	contains(t, logs["helm"], "Following the rollout", "deployment/charted is healthy")
	if strings.Contains(logs["helm"], "sh.helm.release") || strings.Contains(logs["helm"], "deployment/shop") || strings.Contains(logs["verify"], "Following") {
		t.Errorf("what a job did not deploy is followed:\n%s\n%s", logs["helm"], logs["verify"])
	}
	before := in.kubectl(t, "-n", "objects", "get", "deployment", "shop", "-o", "jsonpath={.spec.template.spec.containers[0].image}")

	logs = in.played(t, c, "team/objects", "main", config("keelson.dev/simulate: ImagePullBackOff"), "failed: kubectl/1=failed helm/1=success rollback/1=success verify/1=skipped")
	contains(t, logs["kubectl"], "deployment/shop in namespace objects is not healthy: Pod shop-", "container web: ImagePullBackOff", "Warning Failed", "What to do: ")
	contains(t, logs["rollback"], "deployment/shop is healthy")
	if now := in.kubectl(t, "-n", "objects", "get", "deployment", "shop", "-o", "jsonpath={.spec.template.spec.containers[0].image}"); now != before {
		t.Errorf("after the rollback the image is %s, not %s", now, before)
	}

	logs = in.played(t, c, "team/objects", "main", `
bypass:
  environment: production
  script: ['kubectl --kubeconfig "$KUBECONFIG" get deployments']
`, "success: bypass/1=success")
	contains(t, logs["bypass"], "There is nothing to follow")
}
