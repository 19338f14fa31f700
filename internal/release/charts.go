package release

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"path"
	"slices"
	"strings"
	"sync"

	"helm.sh/helm/v4/pkg/chart/common"
	"helm.sh/helm/v4/pkg/chart/loader/archive"
	chartv2 "helm.sh/helm/v4/pkg/chart/v2"
	"helm.sh/helm/v4/pkg/chart/v2/loader"
	"helm.sh/helm/v4/pkg/ignore"

	"keelson.dev/keelson/internal/delivery"
	"keelson.dev/keelson/internal/render"
	"keelson.dev/keelson/internal/source"
)

// Bounds of charts.
const (
	maxChartBytes = 64 << 20
	maxChartFiles = 20000
	maxChartDepth = 64
	// maxKept bounds the charts that are kept parsed, in bytes of their files; what is used is kept beyond it.
	maxKept = 64 << 20
)

// Chart is the chart of a release: a folder in a snapshot.
type Chart struct {
	Digest      string // of the content: charts of equal digests, paths, versions and values files are equal
	Files       fs.FS
	Path        string   // of the chart's folder in Files; empty: the root
	Version     string   // in place of the one in Chart.yaml; empty: that one
	ValuesFiles []string // in Files, in place of the chart's values.yaml; later ones win; none: values.yaml
}

func (c Chart) key() string {
	return strings.Join(append([]string{c.Digest, c.Path, c.Version}, c.ValuesFiles...), "\x00")
}

// charts keeps charts that were parsed, the last used ones of a bounded size.
type charts struct {
	mu    sync.Mutex
	all   map[string]*parsed
	bytes int
	clock int64
}

type parsed struct {
	once  sync.Once
	chart *chartv2.Chart
	err   error
	bytes int
	used  int64
}

// get gives a chart of one's own: Helm changes charts when it looks into their dependencies.
func (c *charts) get(want Chart) (*chartv2.Chart, error) {
	p, err := c.parsed(want)
	if err != nil {
		return nil, err
	}
	return copyChart(p), nil
}

// meta gives what Chart.yaml says. The caller does not change it.
func (c *charts) meta(want Chart) (*chartv2.Metadata, error) {
	p, err := c.parsed(want)
	if err != nil {
		return nil, err
	}
	return p.Metadata, nil
}

func (c *charts) parsed(want Chart) (*chartv2.Chart, error) {
	key := want.key()
	c.mu.Lock()
	p, ok := c.all[key]
	if !ok || want.Digest == "" {
		p = &parsed{}
		c.all[key] = p
	}
	c.clock++
	p.used = c.clock
	c.mu.Unlock()
	p.once.Do(func() {
		var size int
		p.chart, size, p.err = loadChart(want)
		c.mu.Lock()
		defer c.mu.Unlock()
		if p.err != nil { // what cannot be read now may be read later
			delete(c.all, key)
			return
		}
		p.bytes = size
		c.bytes += size
		c.shrink(p)
	})
	return p.chart, p.err
}

// shrink forgets what has not been used for the longest time. The caller holds the lock.
func (c *charts) shrink(keep *parsed) {
	for c.bytes > maxKept {
		oldest := ""
		for key, p := range c.all {
			if p != keep && p.bytes > 0 && (oldest == "" || p.used < c.all[oldest].used) {
				oldest = key
			}
		}
		if oldest == "" {
			return
		}
		c.bytes -= c.all[oldest].bytes
		delete(c.all, oldest)
	}
}

// copyChart copies what Helm changes of a chart and its dependencies; files are shared.
func copyChart(c *chartv2.Chart) *chartv2.Chart {
	out := *c
	if c.Metadata != nil {
		m := *c.Metadata
		m.Dependencies = make([]*chartv2.Dependency, len(c.Metadata.Dependencies))
		for i, d := range c.Metadata.Dependencies {
			one := *d
			m.Dependencies[i] = &one
		}
		if c.Metadata.Dependencies == nil {
			m.Dependencies = nil
		}
		out.Metadata = &m
	}
	out.Values, _ = copyValue(c.Values).(map[string]any)
	dependencies := make([]*chartv2.Chart, len(c.Dependencies()))
	for i, d := range c.Dependencies() {
		dependencies[i] = copyChart(d)
	}
	out.SetDependencies(dependencies...)
	return &out
}

// copyValue copies values as YAML gives them.
func copyValue(v any) any {
	switch v := v.(type) {
	case map[string]any:
		if v == nil {
			return v
		}
		out := make(map[string]any, len(v))
		for k, e := range v {
			out[k] = copyValue(e)
		}
		return out
	case []any:
		if v == nil {
			return v
		}
		out := make([]any, len(v))
		for i, e := range v {
			out[i] = copyValue(e)
		}
		return out
	}
	return v
}

func chartFault(where, hint, format string, args ...any) error {
	return &delivery.Fault{Reason: ReasonChart, Where: where, Hint: hint, Retry: delivery.OnChange, Err: fmt.Errorf(format, args...)}
}

// loadChart reads a chart and holds it to what can be installed.
func loadChart(want Chart) (*chartv2.Chart, int, error) {
	if want.Files == nil {
		return nil, 0, chartFault("", "", "there is no chart")
	}
	root := path.Clean(want.Path)
	g := &gathering{fs: want.Files, root: root, rules: ignore.Empty()}
	err := g.ignored()
	if err != nil {
		return nil, 0, err
	}
	if err := g.folder(".", 0); err != nil {
		return nil, 0, err
	}
	if err := g.values(want.ValuesFiles); err != nil {
		return nil, 0, err
	}
	if g.files, err = g.unpacked(g.files, "", 0); err != nil {
		return nil, 0, err
	}
	loaded, err := loader.LoadFiles(g.files)
	if err != nil {
		return nil, 0, chartFault(path.Join(root, "Chart.yaml"), "", "load the chart: %s", render.WithoutValues(err))
	}
	if t := loaded.Metadata.Type; t != "" && t != "application" {
		return nil, 0, chartFault(path.Join(root, "Chart.yaml"), "use it as a dependency of another chart", "chart '%s' is of type '%s', which cannot be installed", loaded.Name(), t)
	}
	var missing []string
	for _, d := range loaded.Metadata.Dependencies {
		if !slices.ContainsFunc(loaded.Dependencies(), func(c *chartv2.Chart) bool { return c.Name() == d.Name }) {
			missing = append(missing, strings.TrimSpace(d.Name+" "+d.Version))
		}
	}
	if len(missing) > 0 {
		return nil, 0, chartFault(path.Join(root, "Chart.yaml"), "commit what 'helm dependency update' puts into charts",
			"chart '%s' depends on %s, which is not in its charts folder", loaded.Name(), strings.Join(missing, ", "))
	}
	if want.Version != "" {
		loaded.Metadata.Version = want.Version
	}
	sortDependencies(loaded)
	drop(loaded)
	return loaded, g.bytes, nil
}

// drop lets go of what only "helm show" needs: the files once more, as they were read.
func drop(c *chartv2.Chart) {
	c.Raw = nil
	for _, d := range c.Dependencies() {
		drop(d)
	}
}

// sortDependencies gives the dependencies, which are loaded in no order, an order.
func sortDependencies(c *chartv2.Chart) {
	all := slices.SortedFunc(slices.Values(c.Dependencies()), func(a, b *chartv2.Chart) int {
		return strings.Compare(a.Name()+" "+a.Metadata.Version, b.Name()+" "+b.Metadata.Version)
	})
	c.SetDependencies(all...)
	for _, d := range all {
		sortDependencies(d)
	}
}

// gathering reads the files of a chart's folder that are not ignored.
type gathering struct {
	fs    fs.FS
	root  string
	rules *ignore.Rules
	files []*archive.BufferedFile
	bytes int
	count int // of files
}

func (g *gathering) read(name string) ([]byte, error) {
	data, err := fs.ReadFile(g.fs, name)
	if err != nil {
		return nil, chartFault(name, "", "read it: %w", err)
	}
	if g.bytes += len(data); g.bytes > maxChartBytes {
		return nil, chartFault(name, "keep what is no part of the chart out by .helmignore", "the chart is larger than %d MiB", maxChartBytes>>20)
	}
	return data, nil
}

// ignored reads the chart's .helmignore.
func (g *gathering) ignored() error {
	name := path.Join(g.root, ignore.HelmIgnore)
	data, err := fs.ReadFile(g.fs, name)
	if err == nil {
		if g.rules, err = ignore.Parse(bytes.NewReader(data)); err != nil {
			return chartFault(name, "", "malformed rules: %w", err)
		}
	} else if !errors.Is(err, fs.ErrNotExist) {
		return chartFault(name, "", "read it: %w", err)
	}
	g.rules.AddDefaults()
	return nil
}

func (g *gathering) folder(dir string, depth int) error {
	if depth > maxChartDepth {
		return chartFault(path.Join(g.root, dir), "links may not lead to a folder above", "the chart's folders are nested deeper than %d", maxChartDepth)
	}
	entries, err := fs.ReadDir(g.fs, path.Join(g.root, dir))
	if err != nil {
		return chartFault(path.Join(g.root, dir), "", "read the chart: %w", err)
	}
	for _, e := range entries {
		name := path.Join(dir, e.Name())
		info, err := fs.Stat(g.fs, path.Join(g.root, name))
		if err != nil {
			return chartFault(path.Join(g.root, name), "", "read the chart: %w", err)
		}
		if g.rules.Ignore(name, info) {
			continue
		}
		if info.IsDir() {
			if err := g.folder(name, depth+1); err != nil {
				return err
			}
			continue
		}
		data, err := g.read(path.Join(g.root, name))
		if err != nil {
			return err
		}
		if g.count++; g.count > maxChartFiles {
			return chartFault(g.root, "keep what is no part of the chart out by .helmignore", "the chart has more than %d files", maxChartFiles)
		}
		g.files = append(g.files, &archive.BufferedFile{Name: name, Data: bytes.TrimPrefix(data, []byte("\uFEFF"))})
	}
	return nil
}

// unpacked puts the files of the charts that are packed in the folder charts in the place of their archives, so that all of them count
// together; Helm itself bounds each archive alone. inside is the archive that the files come from; empty: none.
func (g *gathering) unpacked(files []*archive.BufferedFile, inside string, depth int) ([]*archive.BufferedFile, error) {
	out := make([]*archive.BufferedFile, 0, len(files))
	for _, f := range files {
		dir, base := path.Split(f.Name)
		if path.Ext(base) != ".tgz" || path.Base(path.Clean(dir)) != "charts" || strings.IndexAny(base, "_.") == 0 {
			out = append(out, f)
			continue
		}
		where := path.Join(g.root, inside, f.Name)
		if depth >= maxChartDepth {
			return nil, chartFault(path.Join(g.root, inside), "unpack it", "charts are nested deeper than %d", maxChartDepth)
		}
		packed, err := source.Packaged(f.Data)
		if err != nil {
			return nil, chartFault(where, "package it anew with 'helm package'", "%w", err)
		}
		more := &gathering{fs: packed.FS, root: ".", rules: ignore.Empty(), bytes: g.bytes, count: g.count}
		if err = more.folder(".", 0); err == nil {
			g.bytes, g.count = more.bytes, more.count
			inner := path.Join(inside, f.Name)
			if depth > 0 { // the outermost is what a person can find
				inner = inside
			}
			more.files, err = g.unpacked(more.files, inner, depth+1)
		} else if f := (*delivery.Fault)(nil); errors.As(err, &f) {
			f.Where = where
		}
		if err != nil {
			return nil, err
		}
		for _, m := range more.files {
			out = append(out, &archive.BufferedFile{Name: path.Join(dir, base+unpackedMark, m.Name), Data: m.Data})
		}
	}
	return out, nil
}

// unpackedMark is what an archive's name has behind it as that of a folder.
const unpackedMark = ".d"

// values puts other files in the place of values.yaml.
func (g *gathering) values(names []string) error {
	if len(names) == 0 {
		return nil
	}
	merged := map[string]any{}
	for _, name := range names {
		data, err := g.read(path.Clean(name))
		if err != nil {
			return err
		}
		one, err := loader.LoadValues(bytes.NewReader(data))
		if err != nil {
			return chartFault(name, "", "the values are not a YAML object")
		}
		merged = loader.MergeMaps(merged, one)
	}
	text, err := yamlOf(merged)
	if err != nil {
		return chartFault(names[0], "", "write the values: %w", err)
	}
	const own = "values.yaml"
	g.files = slices.DeleteFunc(g.files, func(f *archive.BufferedFile) bool { return f.Name == own })
	g.files = append(g.files, &archive.BufferedFile{Name: own, Data: text})
	return nil
}

// capabilities are what templates are told of the cluster.
func capabilities(version string, apis []string) (*common.Capabilities, error) {
	v, err := common.ParseKubeVersion(version)
	if err != nil {
		return nil, fmt.Errorf("the cluster's version '%s' cannot be read: %w", version, err)
	}
	caps := common.DefaultCapabilities.Copy()
	caps.KubeVersion, caps.APIVersions = *v, common.VersionSet(apis)
	return caps, nil
}
