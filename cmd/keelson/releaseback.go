package main

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	helmv2 "github.com/fluxcd/helm-controller/api/v2"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/client-go/rest"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"keelson.dev/keelson/internal/dialect"
	"keelson.dev/keelson/internal/kube"
	"keelson.dev/keelson/internal/redact"
	"keelson.dev/keelson/internal/release"
)

// releaseVersion is one line of a release's history, as JSON.
type releaseVersion struct {
	Version      int       `json:"version"`
	Updated      time.Time `json:"updated"`
	Status       string    `json:"status"`
	Chart        string    `json:"chart"`
	ChartVersion string    `json:"chartVersion"`
	AppVersion   string    `json:"appVersion,omitempty"`
	Description  string    `json:"description,omitempty"`
	By           string    `json:"by,omitempty"` // who made it: keelson, Helm, helm-controller, …

	values map[string]any // that it was made with
}

// releaseHistory reads the versions of a HelmRelease's release in Helm's storage, the newest last.
func releaseHistory(ctx context.Context, c client.Client, hr *helmv2.HelmRelease) ([]releaseVersion, error) {
	if hr.Spec.KubeConfig != nil {
		return nil, hintf(fmt.Errorf("app %s/%s is delivered to another cluster: its release is kept there", hr.Namespace, hr.Name),
			"helm --kubeconfig FILE -n %s does it there", hr.GetStorageNamespace())
	}
	app, err := dialect.HelmRelease(hr)
	if err != nil {
		return nil, err
	}
	at := release.TargetOf(app)
	labels := client.MatchingLabels{"name": at.Name}
	for k, v := range release.StorageLabels {
		labels[k] = v
	}
	var secrets corev1.SecretList
	if err := c.List(ctx, &secrets, client.InNamespace(at.StorageNamespace), labels); err != nil {
		return nil, explainAPI(fmt.Errorf("read the history of release %s: %w", at, err))
	}
	versions := []releaseVersion{}
	for i := range secrets.Items {
		secret := &secrets.Items[i]
		e, ok := release.EntryOf(secret)
		if !ok {
			continue
		}
		v := releaseVersion{Version: e.Version, Status: e.Status, By: cmp.Or(e.Maker, e.Writer)}
		if s, values, err := release.Stored(secret); err != nil {
			v.Description = err.Error()
		} else {
			v.Updated, v.Chart, v.ChartVersion, v.AppVersion = s.LastDeployed.UTC(), s.ChartName, s.ChartVersion, s.AppVersion
			v.Description = redact.Text(s.Description)
			v.values = values
		}
		versions = append(versions, v)
	}
	slices.SortFunc(versions, func(a, b releaseVersion) int { return cmp.Compare(a.Version, b.Version) })
	return versions, nil
}

func printReleaseHistory(ctx context.Context, g *global, c client.Client, hr *helmv2.HelmRelease) error {
	versions, err := releaseHistory(ctx, c, hr)
	if err != nil {
		return err
	}
	if len(versions) == 0 && g.output == "" {
		return printf("no versions of the release of %s/%s are kept", hr.Namespace, hr.Name)(g.out)
	}
	return g.print(map[string]any{"history": versions}, func(w io.Writer) error {
		t := newTable(w, g.output == "wide", "REVISION", "UPDATED", "STATUS", "CHART", "DESCRIPTION", "|", "APP VERSION", "BY")
		for _, v := range versions {
			updated := "-"
			if !v.Updated.IsZero() {
				updated = v.Updated.Local().Format(time.DateTime)
			}
			t.row(fmt.Sprint(v.Version), updated, v.Status, cmp.Or(strings.Trim(v.Chart+"-"+v.ChartVersion, "-"), "-"),
				cmp.Or(strings.Join(strings.Fields(v.Description), " "), "-"), cmp.Or(v.AppVersion, "-"), cmp.Or(v.By, "-"))
		}
		return t.flush()
	})
}

// personManager is the field manager of what a person does to a release by keelson: a controller does not take it for its own doing.
const personManager = "keelson-cli"

// rolledBackRelease is what a rollback has come to, as JSON.
type rolledBackRelease struct {
	Namespace string `json:"namespace"`
	Name      string `json:"name"`
	To        int    `json:"to"`
	Version   int    `json:"version"` // that the rollback has made
	changed   []release.Changed
}

// rollbackRelease rolls the release of a HelmRelease back by Helm's own rollback, as the caller. The controller holds what it finds then,
// as it does after "helm rollback".
func rollbackRelease(ctx context.Context, g *global, c client.Client, hr *helmv2.HelmRelease, opts rollbackOptions) error {
	if opts.prune {
		return usagef("--prune is for Applications: what is not in the earlier version of a release is deleted")
	}
	history, err := releaseHistory(ctx, c, hr)
	if err != nil {
		return err
	}
	to, err := versionToGoTo(hr, history, opts.to)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	config, err := g.restConfig()
	if err != nil {
		return err
	}
	engine, err := releaseEngine(ctx, config, hr.GetStorageNamespace())
	if err != nil {
		return err
	}
	out, err := rollRelease(ctx, engine, hr, to, opts)
	if err != nil {
		err = explainAPI(fmt.Errorf("roll back app %s/%s: %w", hr.Namespace, hr.Name, err))
		if out.Version > 0 {
			return withCode(exitUnhealthy, hintf(err, "keelson history %s -n %s tells what the release came to", hr.Name, hr.Namespace))
		}
		return err
	}
	text := fmt.Sprintf("%s/%s: rolled back to revision %d, as revision %d", hr.Namespace, hr.Name, to, out.Version)
	if len(hr.Status.History) > 0 {
		text += fmt.Sprintf("\nit is held there until Git wants something else, or keelson resume %s -n %s", hr.Name, hr.Namespace)
	}
	return g.print(out, printf("%s", text))
}

// rollRelease rolls the release of a HelmRelease back to a version.
func rollRelease(ctx context.Context, engine *release.Engine, hr *helmv2.HelmRelease, to int, opts rollbackOptions) (rolledBackRelease, error) {
	out := rolledBackRelease{Namespace: hr.Namespace, Name: hr.Name, To: to}
	app, err := dialect.HelmRelease(hr)
	if err != nil {
		return out, err
	}
	if len(app.Refused) > 0 {
		return out, fmt.Errorf("%s: not supported", strings.Join(app.Refused, ", "))
	}
	app.ServiceAccount = "" // it is done as the caller
	if opts.limited {
		app.Release.Rollback.Timeout = opts.timeout
	}
	if opts.noWait {
		app.Release.Rollback.NoWait = true
	}
	result, err := engine.Act(ctx, release.Request{Want: release.Want{App: app}}, release.Decision{
		Action: release.Rollback, Target: release.TargetOf(app), Version: to, Record: dialect.HelmReleaseRecord(&hr.Status),
	})
	out.changed = result.Changed
	for _, s := range result.Snapshots {
		out.Version = max(out.Version, s.Version)
	}
	return out, err
}

// versionToGoTo finds the version of a release to go back to: the one that was said, or the newest that was deployed before the present one.
func versionToGoTo(hr *helmv2.HelmRelease, history []releaseVersion, said string) (int, error) {
	list := func(err error) error {
		return hintf(err, "keelson history %s -n %s lists them", hr.Name, hr.Namespace)
	}
	if len(history) == 0 {
		return 0, fmt.Errorf("app %s/%s has no release that could be rolled back", hr.Namespace, hr.Name)
	}
	newest := history[len(history)-1]
	if strings.HasPrefix(newest.Status, "pending-") || newest.Status == "uninstalling" {
		return 0, hintf(fmt.Errorf("the release of %s/%s is %s since %s, by %s", hr.Namespace, hr.Name, newest.Status, newest.Updated.Local().Format(time.TimeOnly), newest.By),
			"wait for it: keelson get releases")
	}
	if said == "" {
		for _, v := range slices.Backward(history[:len(history)-1]) {
			if v.Status == "superseded" || v.Status == "deployed" {
				return v.Version, nil
			}
		}
		return 0, list(fmt.Errorf("the release of %s/%s has no earlier version that was deployed", hr.Namespace, hr.Name))
	}
	n, err := strconv.Atoi(said)
	if err != nil {
		return 0, usagef("%s is no revision of a release: it is a number", said)
	}
	if !slices.ContainsFunc(history, func(v releaseVersion) bool { return v.Version == n }) {
		return 0, list(fmt.Errorf("the release of %s/%s has no revision %d", hr.Namespace, hr.Name, n))
	}
	return n, nil
}

// releaseEngine gives the engine that makes releases kept in a namespace, as the user of a connection; ctx ends it.
func releaseEngine(ctx context.Context, config *rest.Config, namespace string) (*release.Engine, error) {
	// The server takes the field manager of Secrets from the user agent.
	config.Wrap(func(next http.RoundTripper) http.RoundTripper { return agent{next} })
	cluster, err := kube.NewCluster(config)
	if err != nil {
		return nil, err
	}
	return release.New(ctx, cluster, release.Options{Witness: true, Namespace: namespace})
}

// agent is a transport whose requests are made by [personManager].
type agent struct{ next http.RoundTripper }

// RoundTrip implements [http.RoundTripper].
func (a agent) RoundTrip(req *http.Request) (*http.Response, error) {
	req = req.Clone(req.Context())
	req.Header.Set("User-Agent", personManager+"/"+version)
	return a.next.RoundTrip(req)
}

// WrappedRoundTripper lets client-go find the transport below.
func (a agent) WrappedRoundTripper() http.RoundTripper { return a.next }
