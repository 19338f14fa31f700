package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"path/filepath"
	"strings"

	"github.com/spf13/pflag"

	"keelson.dev/keelson/internal/delivery"
	"keelson.dev/keelson/internal/redact"
	"keelson.dev/keelson/internal/render"
	"keelson.dev/keelson/internal/source"
)

// chartOptions are the flags of helm template that say which chart is rendered and what it is told.
type chartOptions struct {
	chart, repo, version string
	username, caFile     string
	passwordStdin        bool
	plainHTTP, insecure  bool

	values      []string // files; "-" is the standard input
	settings    []render.Setting
	release     string
	kubeVersion string
	apiVersions []string
	includeCRDs bool
	skipTests   bool
	skipSchema  bool
}

// chartFlags annotates the flags that only count with --chart.
const chartFlags = "keelson_chart"

func (o *chartOptions) bind(to *pflag.FlagSet) {
	f := pflag.NewFlagSet("chart", pflag.ContinueOnError)
	f.StringVar(&o.repo, "repo", "", "the `URL` of the Helm repository that has the chart")
	f.StringVar(&o.version, "version", "", "the chart's `version`, or a range of versions, in its repository (default: the newest)")
	f.StringVar(&o.username, "username", "", "the `name` of the user at the chart's repository")
	f.BoolVar(&o.passwordStdin, "password-stdin", false, "read the user's password from the standard input")
	f.StringVar(&o.caFile, "ca-file", "", "trust the certificate authorities in this `file` too")
	f.BoolVar(&o.insecure, "insecure-skip-tls-verify", false, "trust whatever certificate the repository shows")
	f.BoolVar(&o.plainHTTP, "plain-http", false, "speak to the registry without TLS")
	f.StringSliceVarP(&o.values, "values", "f", nil, "take values from this `file` (-: the standard input); the later ones count over the earlier ones")
	for _, s := range []struct {
		option render.SettingOption
		usage  string
	}{
		{render.Set, "set values, as `key=value`, a.b[0]=c,d=e"},
		{render.SetString, "set values that are text, as `key=value`"},
		{render.SetJSON, "set values in JSON, as `key=json` or {…}"},
		{render.SetFile, "set values to the contents of files, as `key=file`"},
		{render.SetLiteral, "set one value that is taken as it stands, as `key=text`"},
	} {
		f.Func(strings.TrimPrefix(string(s.option), "--"), s.usage, func(text string) error {
			o.settings = append(o.settings, render.Setting{Option: s.option, Text: text})
			return nil
		})
	}
	f.StringVar(&o.release, "release-name", "release-name", "the `name` of the release; its namespace is that of -n (default: default)")
	f.StringVar(&o.kubeVersion, "kube-version", "", "the `version` of Kubernetes that the chart sees (default: Helm's)")
	f.StringSliceVarP(&o.apiVersions, "api-versions", "a", nil, "an API `version` that the chart sees too: apps/v1, or apps/v1/Deployment")
	f.BoolVar(&o.includeCRDs, "include-crds", false, "print the chart's definitions of resources too")
	f.BoolVar(&o.skipTests, "skip-tests", false, "leave the chart's tests out")
	f.BoolVar(&o.skipSchema, "skip-schema-validation", false, "do not hold the values to the chart's schema")
	f.VisitAll(func(flag *pflag.Flag) {
		flag.Annotations = map[string][]string{chartFlags: nil}
		to.AddFlag(flag)
	})
	to.StringVar(&o.chart, "chart", "", "the `chart` to render: a folder, an archive, oci://…, or its name in the repository of --repo")
}

// onlyForCharts refuses flags that say nothing without --chart.
func onlyForCharts(given *pflag.FlagSet) (err error) {
	given.Visit(func(f *pflag.Flag) {
		if _, ok := f.Annotations[chartFlags]; ok && err == nil {
			err = fmt.Errorf("--%s goes with --chart", f.Name)
		}
	})
	return err
}

// remote tells whether the chart is brought from elsewhere.
func (o chartOptions) remote() bool { return o.repo != "" || strings.HasPrefix(o.chart, "oci://") }

func (o chartOptions) check(ref string) error {
	stdin := 0
	for _, v := range o.values {
		if v == "-" {
			stdin++
		}
		if strings.Contains(v, "://") {
			return fmt.Errorf("--values %s is remote, and values are read from files: fetch it first", redact.URL(v))
		}
	}
	switch {
	case o.passwordStdin:
		stdin++
	case o.username != "":
		return errors.New("--username goes with --password-stdin")
	}
	switch {
	case stdin > 1:
		return errors.New("the standard input is asked for more than once")
	case o.repo != "" && strings.Contains(o.chart, "://"):
		return errors.New("with --repo, --chart is the name of a chart in that repository")
	case strings.HasPrefix(o.repo, "oci://"):
		return fmt.Errorf("a registry is no Helm repository: --chart %s", strings.TrimSuffix(redact.URL(o.repo), "/")+"/"+o.chart)
	case o.repo == "" && strings.Contains(o.chart, "://") && !o.remote():
		return fmt.Errorf("--chart %s: name the Helm repository with --repo and the chart with --chart, or download it", redact.URL(o.chart))
	case o.remote() && ref != "":
		return errors.New("--ref goes with a chart's folder in a Git repository; --version says which version of a repository's")
	case !o.remote() && o.version != "":
		return errors.New("--version goes with a chart from a repository; --ref takes a chart's folder as it is at a tag")
	case !o.remote() && (o.passwordStdin || o.caFile != "" || o.plainHTTP || o.insecure):
		return errors.New("credentials go with a chart from a repository")
	}
	return nil
}

// renderChart renders a chart as helm template does.
func renderChart(ctx context.Context, g *global, opts chartOptions, ref string) ([]delivery.Object, error) {
	asked := render.Template{
		Release: opts.release, Namespace: g.namespace, KubeVersion: opts.kubeVersion, APIVersions: opts.apiVersions,
		Settings: opts.settings, Files: map[string][]byte{},
		IncludeCRDs: opts.includeCRDs, SkipTests: opts.skipTests, SkipSchema: opts.skipSchema,
	}
	for _, name := range opts.values {
		data, err := g.readInput(name)
		if err != nil {
			return nil, fmt.Errorf("read values: %w", err)
		}
		if name == "-" {
			name = "the standard input"
		}
		asked.Values = append(asked.Values, render.Values{Name: name, Data: data})
	}
	for _, s := range opts.settings {
		if s.Option != render.SetFile {
			continue
		}
		var failed error
		read := func(name string) error {
			asked.Files[name], failed = os.ReadFile(name)
			return failed
		}
		if err := s.ReadBy(read); err != nil && failed != nil { // what is malformed is told by the render
			return nil, fmt.Errorf("--set-file: %w", failed)
		}
	}
	snap, done, err := openChart(ctx, g, opts, ref, &asked)
	if err != nil {
		return nil, err
	}
	defer done()
	objects, err := render.BuildTemplate(ctx, snap, asked)
	if err != nil {
		return nil, fmt.Errorf("render %s: %w", redact.URL(opts.chart), err)
	}
	return objects, nil
}

// readInput reads a file; "-" is the standard input.
func (g *global) readInput(name string) ([]byte, error) {
	if name == "-" {
		return io.ReadAll(g.in)
	}
	return os.ReadFile(name)
}

// openChart gives the files that the chart is among, and says where: from a repository, an archive, or a folder on disk or in a commit.
func openChart(ctx context.Context, g *global, opts chartOptions, ref string, asked *render.Template) (delivery.Snapshot, func(), error) {
	if opts.remote() {
		src, err := opts.source(g)
		if err != nil {
			return delivery.Snapshot{}, nil, err
		}
		asked.Chart, asked.Shown = ".", src.Chart
		return fetchOnce(func(f *source.Fetcher) (delivery.Snapshot, error) {
			rev, err := f.Resolve(ctx, src)
			if err != nil {
				return delivery.Snapshot{}, byFlags(err)
			}
			snap, err := f.Fetch(ctx, src, rev)
			return snap, byFlags(err)
		})
	}
	info, err := os.Stat(opts.chart)
	switch {
	case errors.Is(err, os.ErrNotExist):
		return delivery.Snapshot{}, nil, hintf(fmt.Errorf("there is no chart %s", opts.chart),
			"name its folder or archive; with --repo URL it is looked for in a Helm repository, as oci://… in a registry")
	case err != nil:
		return delivery.Snapshot{}, nil, fmt.Errorf("open chart: %w", err)
	case info.Mode().IsRegular():
		if ref != "" {
			return delivery.Snapshot{}, nil, usagef("--ref takes a chart's folder, and %s is a file", opts.chart)
		}
		data, err := os.ReadFile(opts.chart)
		if err != nil {
			return delivery.Snapshot{}, nil, fmt.Errorf("open chart: %w", err)
		}
		snap, err := source.Packaged(data)
		if err != nil {
			return snap, nil, fmt.Errorf("open chart %s: %w", opts.chart, err)
		}
		asked.Chart, asked.Shown = ".", opts.chart
		return snap, func() {}, nil
	}
	root, folder, err := placeOf(opts.chart)
	if err != nil {
		return delivery.Snapshot{}, nil, err
	}
	asked.Chart, asked.Shown = folder, filepath.ToSlash(opts.chart)
	return snapshotOf(ctx, root, ref)
}

// inFlags words a hint that speaks of fields.
var inFlags = strings.NewReplacer("chart or targetRevision", "--chart or --version", "correct chart,", "correct --chart,", "repoURL", "--repo or --chart")

// byFlags gives the error of a source, with a hint that speaks of the flags that declare it.
func byFlags(err error) error {
	var f *delivery.Fault
	if !errors.As(err, &f) {
		return err
	}
	of := *f
	of.Hint = inFlags.Replace(f.Hint)
	return &of
}

// source is where a chart is brought from. "oci://host/path/name:version" names the version, too, and "@sha256:…" a digest.
func (o chartOptions) source(g *global) (delivery.Source, error) {
	src := delivery.Source{
		ID: delivery.ID{Kind: "Chart", Namespace: defaultNamespace, Name: "chart"}, URL: o.repo, Chart: o.chart, Ref: delivery.GitRef{SemVer: o.version},
		Credentials: delivery.Credentials{Username: o.username, PlainHTTP: o.plainHTTP, Insecure: o.insecure},
	}
	if o.repo == "" {
		address, version := o.chart, ""
		if at, digest, ok := strings.Cut(address, "@sha256:"); ok {
			address, version = at, "sha256:"+digest
		} else if i := strings.LastIndexByte(address, ':'); i > strings.LastIndexByte(address, '/') {
			address, version = address[:i], address[i+1:]
		}
		if version != "" && o.version != "" {
			return src, usagef("--chart and --version both name a version")
		}
		if version != "" {
			src.Ref.SemVer = version
		}
		host, name := path.Split(strings.TrimSuffix(address, "/"))
		if strings.Trim(host, "/") == "oci:" || name == "" {
			return src, usagef("--chart %s: write it as oci://HOST/PATH/NAME", redact.URL(o.chart))
		}
		src.URL, src.Chart = strings.TrimSuffix(host, "/"), name
	}
	if o.passwordStdin {
		password, err := io.ReadAll(g.in)
		if err != nil {
			return src, fmt.Errorf("read the password: %w", err)
		}
		src.Credentials.Password = string(bytes.TrimRight(password, "\r\n"))
	}
	if o.caFile != "" {
		ca, err := os.ReadFile(o.caFile)
		if err != nil {
			return src, fmt.Errorf("read the authorities: %w", err)
		}
		src.Credentials.CA = string(ca)
	}
	return src, nil
}
