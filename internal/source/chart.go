package source

import (
	"errors"
	"fmt"
	"io/fs"
	"path"
	"strings"

	"github.com/Masterminds/semver/v3"
	"sigs.k8s.io/yaml"

	"keelson.dev/keelson/internal/delivery"
)

// Reasons of faults with the charts of releases, as Flux's source-controller sets them.
const (
	ReasonChartReference = "InvalidChartReference"
	ReasonValuesFiles    = "ValuesFilesError"
	ReasonChartMetadata  = "MetadataPatchError"
)

// maxValuesFile bounds a file of values, in bytes.
const maxValuesFile = 4 << 20

// Chart is a chart in a snapshot.
type Chart struct {
	Snapshot      delivery.Snapshot
	Path          string // its folder there
	Name, Version string // as its Chart.yaml has them
}

// AnyFolder finds a chart wherever an archive may have it: at its root, or in the only folder there.
const AnyFolder = ""

// Chart finds the chart in a folder of a snapshot, or in an archive that is a file there. Nothing above the snapshot's root can be
// named.
func (f *Fetcher) Chart(snap delivery.Snapshot, dir string) (c Chart, err error) {
	defer caught(&err)
	c = Chart{Snapshot: snap, Path: strings.TrimPrefix(path.Clean("/"+dir), "/")}
	if c.Path == "" {
		c.Path = "."
	}
	if dir == AnyFolder {
		c.Path = folderOfChart(snap.FS)
	}
	info, err := fs.Stat(snap.FS, c.Path)
	if err != nil {
		return c, noChart(c.Path, errors.New("there is no such folder"))
	}
	if !info.IsDir() {
		if c, err = f.packed(c); err != nil {
			return c, err
		}
	}
	v, ok := c.Snapshot.FS.(*view)
	if !ok {
		return c, noChart(c.Path, errors.New("the snapshot is not that of a source"))
	}
	file := pathIn(c.Path, "Chart.yaml")
	data, err := v.ReadAtMost(file, maxChartFile)
	if errors.Is(err, fs.ErrNotExist) {
		return c, noChart(c.Path, errors.New("there is no Chart.yaml"))
	}
	var about dependency
	if err == nil {
		err = yaml.Unmarshal(data, &about)
	}
	switch {
	case err != nil:
		return c, noChart(file, fmt.Errorf("read it: %w", err))
	case about.Name == "" || about.Version == "":
		return c, noChart(file, errors.New("it has no name or no version"))
	}
	c.Name, c.Version = about.Name, about.Version
	return c, nil
}

// packed shows the chart of an archive that is a file of a snapshot.
func (f *Fetcher) packed(c Chart) (Chart, error) {
	v, ok := c.Snapshot.FS.(*view)
	if !ok || !strings.HasSuffix(c.Path, ".tgz") {
		return c, noChart(c.Path, errors.New("it is neither a folder nor an archive (.tgz)"))
	}
	data, err := v.ReadAtMost(c.Path, maxArchive)
	if err != nil {
		return c, noChart(c.Path, err)
	}
	tree, err := f.unpacked(treeKey{digestOf(data), true}, data)
	if err != nil {
		return c, noChart(c.Path, err)
	}
	src := v.src
	src.Whole, src.HasIgnore, src.Ignore, src.Sparse, src.Include = true, false, "", nil, nil
	err = newView(tree, &ignoreIndex{}, src).show(&c.Snapshot)
	c.Path = "."
	return c, err
}

// folderOfChart is the folder of the chart in an archive's files.
func folderOfChart(files fs.FS) string {
	if _, err := fs.Stat(files, "Chart.yaml"); err == nil {
		return "."
	}
	entries, err := fs.ReadDir(files, ".")
	if err != nil || len(entries) != 1 || !entries[0].IsDir() {
		return "."
	}
	return entries[0].Name()
}

func noChart(where string, err error) error {
	return &delivery.Fault{Reason: ReasonChartReference, Where: where, Retry: delivery.OnChange, Err: fmt.Errorf("read the chart: %w", err), Hint: "correct spec.chart, or commit the chart there"}
}

// WithMetadata gives a version with build metadata: "1.2.3" with "abc" is "1.2.3+abc".
func WithMetadata(version, metadata string) (string, error) {
	if metadata == "" {
		return version, nil
	}
	v, err := semver.NewVersion(version)
	if err == nil {
		var with semver.Version
		if with, err = v.SetMetadata(metadata); err == nil {
			return with.String(), nil
		}
	}
	return "", &delivery.Fault{
		Reason: ReasonChartMetadata, Retry: delivery.OnChange, Hint: "write version in Chart.yaml as in \"1.2.3\"",
		Err: fmt.Errorf("the chart's version '%s' cannot be told with '%s': %w", version, metadata, err),
	}
}

// Values merges files of values, named from a folder of a snapshot; later ones win. used are those that are there.
func Values(snap delivery.Snapshot, dir string, files []string, ignoreMissing bool) (values map[string]any, used []string, err error) {
	defer caught(&err)
	if len(files) == 0 {
		return nil, nil, nil
	}
	v, ok := snap.FS.(*view)
	if !ok {
		return nil, nil, errors.New("the snapshot is not that of a source")
	}
	values = map[string]any{}
	for _, name := range files {
		file := pathIn(dir, strings.TrimPrefix(path.Clean("/"+name), "/"))
		data, err := v.ReadAtMost(file, maxValuesFile)
		if errors.Is(err, fs.ErrNotExist) && ignoreMissing {
			continue
		}
		more := map[string]any{}
		if err == nil {
			err = yaml.Unmarshal(data, &more)
		}
		if errors.Is(err, fs.ErrNotExist) {
			err = errors.New("it does not exist")
		}
		if err != nil {
			return nil, nil, &delivery.Fault{
				Reason: ReasonValuesFiles, Where: file, Retry: delivery.OnChange, Err: fmt.Errorf("read values: %w", err),
				Hint: "correct spec.valuesFiles, or commit the file; spec.ignoreMissingValuesFiles does without one that is missing",
			}
		}
		values = merged(values, more)
		used = append(used, name)
	}
	return values, used, nil
}

// merged gives a with b over it; maps are merged, anything else is replaced.
func merged(a, b map[string]any) map[string]any {
	out := make(map[string]any, len(a)+len(b))
	for k, v := range a {
		out[k] = v
	}
	for k, v := range b {
		under, isMap := out[k].(map[string]any)
		if over, ok := v.(map[string]any); ok && isMap {
			v = merged(under, over)
		}
		out[k] = v
	}
	return out
}
