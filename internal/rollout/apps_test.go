package rollout

import (
	"strings"
	"testing"

	"k8s.io/apimachinery/pkg/runtime/schema"
)

const (
	pushed = "b222222222222222222222222222222222222222"
	later  = "c333333333333333333333333333333333333333"
	older  = "a111111111111111111111111111111111111111"
)

// TestOfApp holds the verdicts on apps that reconcile a commit of the job. In the texts NEW, LATER and OLD stand for revisions of the branch.
func TestOfApp(t *testing.T) {
	source := func(revision, more string) string {
		return `{apiVersion: source.toolkit.fluxcd.io/v1, kind: GitRepository, metadata: {name: app, namespace: flux, generation: 1}, ` + more +
			`status: {observedGeneration: 1, artifact: {revision: ` + revision + `, digest: x, url: x, path: x, lastUpdateTime: "2026-11-22T07:00:00Z"}}}`
	}
	kustomization := func(spec, status string) string {
		return `{apiVersion: kustomize.toolkit.fluxcd.io/v1, kind: Kustomization, metadata: {name: shop, namespace: web, generation: 3}, spec: {` + spec + `}, status: {` + status + `}}`
	}
	release := func(status string) string {
		return `{apiVersion: helm.toolkit.fluxcd.io/v2, kind: HelmRelease, metadata: {name: shop, namespace: web, generation: 3}, spec: {}, status: {` + status + `}}`
	}
	chart := func(revision, version, more string) string {
		return `{apiVersion: source.toolkit.fluxcd.io/v1, kind: HelmChart, metadata: {name: web-shop, namespace: flux, generation: 1}, status: {observedSourceArtifactRevision: ` + revision +
			`, artifact: {revision: ` + version + `, digest: x, url: x, path: x, lastUpdateTime: "2026-11-22T07:00:00Z"}` + more + `}}`
	}
	application := func(policy, status string) string {
		s := `{repoURL: "http://host/git/shop.git", path: "."}`
		return `{apiVersion: argoproj.io/v1alpha1, kind: Application, metadata: {name: shop, namespace: argocd}, spec: {project: default, source: ` + s + `, destination: {namespace: web}` + policy + `}, ` +
			`status: {` + strings.ReplaceAll(status, "COMPARED", `comparedTo: {source: `+s+`, destination: {namespace: web}}`) + `}}`
	}
	const automated = `, syncPolicy: {automated: {}}`
	ready := func(status, reason, message string) string {
		return `conditions: [{type: Ready, status: "` + status + `", reason: ` + reason + `, message: "` + message + `", observedGeneration: 3, lastTransitionTime: "2026-11-22T07:00:00Z"}]`
	}
	for _, test := range []struct {
		name, resource, live, source, chart string
		version                             string // of the chart in the repository; empty: a HelmChart tells
		want                                string
	}{
		{name: "the source has not seen it", resource: "kustomizations", live: kustomization("", "observedGeneration: 3, lastAppliedRevision: OLD, lastAttemptedRevision: OLD, "+ready("True", "ReconciliationSucceeded", "Applied")),
			source: source("OLD", ""), want: "waiting: waits for its GitRepository flux/app to find the commit"},
		{name: "the source has", resource: "kustomizations", live: kustomization("", "observedGeneration: 3, lastAppliedRevision: OLD, lastAttemptedRevision: OLD, "+ready("True", "ReconciliationSucceeded", "Applied")),
			source: source("NEW", ""), want: "waiting: waits for its turn to apply the commit"},
		{name: "applied", resource: "kustomizations", live: kustomization("", "observedGeneration: 3, lastAppliedRevision: NEW, lastAttemptedRevision: NEW, "+ready("True", "ReconciliationSucceeded", "Applied")),
			source: source("NEW", ""), want: "done: is healthy"},
		{name: "a later one is applied", resource: "kustomizations", live: kustomization("", "observedGeneration: 3, lastAppliedRevision: LATER, lastAttemptedRevision: LATER, "+ready("True", "ReconciliationSucceeded", "Applied")),
			source: source("LATER", ""), want: "done: is healthy"},
		{name: "applied, but declared otherwise since", resource: "kustomizations", live: kustomization("", "observedGeneration: 2, lastAppliedRevision: NEW, lastAttemptedRevision: NEW, "+ready("True", "ReconciliationSucceeded", "Applied")),
			source: source("NEW", ""), want: "waiting: Applied"},
		{name: "waiting for health", resource: "kustomizations", live: kustomization("wait: true", "observedGeneration: 3, lastAppliedRevision: OLD, lastAttemptedRevision: NEW, "+ready("Unknown", "Progressing", "waits for Deployment/web/shop")),
			source: source("NEW", ""), want: "waiting: waits for Deployment/web/shop"},
		{name: "a health check that failed", resource: "kustomizations", live: kustomization("wait: true", "observedGeneration: 2, lastAppliedRevision: OLD, lastAttemptedRevision: NEW, "+ready("False", "HealthCheckFailed", "timeout")),
			source: source("NEW", ""), want: "failed: HealthCheckFailed: timeout"},
		{name: "a failure of the commit before", resource: "kustomizations", live: kustomization("", "observedGeneration: 2, lastAppliedRevision: OLD, lastAttemptedRevision: OLD, "+ready("False", "BuildFailed", "no")),
			source: source("NEW", ""), want: "waiting: waits for its turn to apply the commit"},
		{name: "one that may pass", resource: "kustomizations", live: kustomization("", "observedGeneration: 2, lastAppliedRevision: OLD, lastAttemptedRevision: NEW, "+ready("False", "ReconciliationFailed", "no")),
			source: source("NEW", ""), want: "failed: ReconciliationFailed: no, for 20s"},
		{name: "a dependency", resource: "kustomizations", live: kustomization("", "observedGeneration: 2, lastAppliedRevision: OLD, lastAttemptedRevision: NEW, "+ready("False", "DependencyNotReady", "db is not ready")),
			source: source("NEW", ""), want: "waiting: db is not ready"},
		{name: "suspended", resource: "kustomizations", live: kustomization("suspend: true", ""), source: source("NEW", ""), want: "done!: is suspended: it is not waited for"},
		{name: "a suspended source", resource: "kustomizations", live: kustomization("", ""), source: source("OLD", "spec: {suspend: true}, "), want: "done!: is not waited for: its GitRepository flux/app is suspended"},
		{name: "no source", resource: "kustomizations", live: kustomization("", ""), want: "waiting: its GitRepository flux/app is not there"},

		{name: "a chart of before", resource: "helmreleases", live: release("observedGeneration: 3, lastAttemptedRevision: 1.0.0, " + ready("True", "InstallSucceeded", "ok")),
			source: source("NEW", ""), chart: chart("OLD", "1.0.0", ""), want: "waiting: waits for its HelmChart flux/web-shop to be made of the commit"},
		{name: "a release of before", resource: "helmreleases", live: release("observedGeneration: 3, lastAttemptedRevision: 1.0.0, " + ready("True", "InstallSucceeded", "ok")),
			source: source("NEW", ""), chart: chart("NEW", "1.1.0", ""), want: "waiting: waits for its turn to release version 1.1.0"},
		{name: "released", resource: "helmreleases", live: release("observedGeneration: 3, lastAttemptedRevision: 1.1.0, " + ready("True", "UpgradeSucceeded", "ok")),
			source: source("NEW", ""), chart: chart("NEW", "1.1.0", ""), want: "done: is healthy"},
		{name: "an upgrade that failed", resource: "helmreleases", live: release("observedGeneration: 2, lastAttemptedRevision: 1.1.0, " + ready("False", "UpgradeFailed", "no")),
			source: source("NEW", ""), chart: chart("NEW", "1.1.0", ""), want: "failed: UpgradeFailed: no, for 20s"},
		{name: "a chart that cannot be made", resource: "helmreleases", live: release("observedGeneration: 2, lastAttemptedRevision: 1.0.0"), source: source("NEW", ""),
			chart: chart("OLD", "1.0.0", `, conditions: [{type: Ready, status: "False", reason: ChartPackageError, message: bad, observedGeneration: 1, lastTransitionTime: "2026-11-22T07:00:00Z"}]`),
			want:  "failed: its HelmChart flux/web-shop cannot be made of the commit: bad, for 20s"},

		{name: "without a HelmChart", resource: "helmreleases", live: release("observedGeneration: 3, lastAttemptedRevision: 1.1.0, " + ready("True", "UpgradeSucceeded", "ok")),
			source: source("NEW", ""), version: "1.1.0", want: "done: is healthy"},
		{name: "without a HelmChart, with values files", resource: "helmreleases", live: release("observedGeneration: 3, lastAttemptedRevision: 1.1.0+3, " + ready("True", "UpgradeSucceeded", "ok")),
			source: source("NEW", ""), version: "1.1.0", want: "done: is healthy"},
		{name: "without a HelmChart, before", resource: "helmreleases", live: release("observedGeneration: 3, lastAttemptedRevision: 1.1.0, " + ready("True", "UpgradeSucceeded", "ok")),
			source: source("NEW", ""), version: "1.1.01", want: "waiting: waits for its turn to release version 1.1.01"},
		{name: "without a HelmChart, each revision", resource: "helmreleases",
			live:   strings.Replace(release("observedGeneration: 3, lastAttemptedRevision: 1.1.0+"+pushed[:12]+".1, "+ready("True", "UpgradeSucceeded", "ok")), "spec: {}", "spec: {chart: {spec: {reconcileStrategy: Revision}}}", 1),
			source: source("NEW", ""), version: "1.1.0", want: "done: is healthy"},
		{name: "without a HelmChart, each revision, before", resource: "helmreleases",
			live:   strings.Replace(release("observedGeneration: 3, lastAttemptedRevision: 1.1.0+"+older[:12]+", "+ready("True", "UpgradeSucceeded", "ok")), "spec: {}", "spec: {chart: {spec: {reconcileStrategy: Revision}}}", 1),
			source: source("NEW", ""), version: "1.1.0", want: "waiting: waits for its turn to release version 1.1.0+" + pushed[:12]},
		{name: "a chart that nobody can read", resource: "helmreleases", live: release("observedGeneration: 3, lastAttemptedRevision: 1.1.0, " + ready("False", "ChartNotReady", "no Chart.yaml")),
			source: source("NEW", ""), version: "-", want: "failed: ChartNotReady: no Chart.yaml, for 20s"},

		{name: "not looked at", resource: "applications", live: application(automated, "sync: {status: Synced, revision: "+older+", COMPARED}, health: {status: Healthy}"), want: "waiting: waits for its repository to be looked at"},
		{name: "about to sync", resource: "applications", live: application(automated, "sync: {status: OutOfSync, revision: "+pushed+", COMPARED}, health: {status: Healthy}"), want: "waiting: is OutOfSync"},
		{name: "does not sync by itself", resource: "applications", live: application("", "sync: {status: OutOfSync, revision: "+pushed+", COMPARED}, health: {status: Healthy}"),
			want: "done!: is not synced: it does not sync by itself (keelson sync argocd/shop does it), and is not waited for"},
		{name: "synced", resource: "applications", live: application(automated, "sync: {status: Synced, revision: "+later+", COMPARED}, health: {status: Healthy}"), want: "done: is healthy"},
		{name: "under way", resource: "applications", live: application(automated, "sync: {status: Synced, revision: "+pushed+", COMPARED}, health: {status: Progressing, message: soon}"), want: "waiting: soon"},
		{name: "degraded", resource: "applications", live: application(automated, "sync: {status: Synced, revision: "+pushed+", COMPARED}, health: {status: Degraded, message: bad}"), want: "failed: bad, for 20s"},
		{name: "a sync that failed", resource: "applications", live: application(automated, "sync: {status: OutOfSync, revision: "+pushed+", COMPARED}, health: {status: Healthy}, operationState: {operation: {}, phase: Failed, message: bad, startedAt: \"2026-11-22T07:00:00Z\", syncResult: {revision: "+pushed+"}}"),
			want: "failed: its sync failed: bad, for 20s"},
		{name: "an error", resource: "applications", live: application(automated, "sync: {status: Unknown}, health: {status: Healthy}, conditions: [{type: ComparisonError, message: bad}]"), want: "failed: ComparisonError: bad, for 20s"},
	} {
		t.Run(test.name, func(t *testing.T) {
			text := func(s string) string {
				return strings.NewReplacer("NEW", "main@sha1:"+pushed, "LATER", "main@sha1:"+later, "OLD", "main@sha1:"+older).Replace(s)
			}
			f := &follower{contains: map[[3]string]bool{{"shop", later, pushed}: true, {"shop", older, pushed}: false}}
			a := &app{repository: "shop", commits: []string{pushed}, source: place{gitRepositories, "flux", "app"}, chart: place{helmCharts, "flux", "web-shop"}}
			if test.version != "" {
				a.chart = place{}
			}
			tg := target{resource: schema.GroupVersionResource{Resource: test.resource}, app: a}
			for _, r := range []schema.GroupVersionResource{kustomizations, helmReleases, applications} {
				if r.Resource == test.resource {
					tg.resource = r
				}
			}
			s := subject{target: tg, live: object(t, text(test.live)), source: object(t, text(test.source)), chart: object(t, text(test.chart)), began: began, has: f.has(tg),
				version: func(string) string { return strings.TrimPrefix(test.version, "-") }}
			if got := written(decide(s)); got != test.want {
				t.Errorf("have %s\nwant %s", got, test.want)
			}
		})
	}
}
