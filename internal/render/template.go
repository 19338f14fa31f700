package render

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"path"
	"strings"

	"helm.sh/helm/v4/pkg/chart/v2/loader"
	"helm.sh/helm/v4/pkg/strvals"

	"keelson.dev/keelson/internal/delivery"
)

// Template is a chart and what "helm template" is told about it on the command line.
type Template struct {
	Chart string // the chart's folder in the snapshot
	Shown string // what messages call that folder; empty: as Chart

	Release     string
	Namespace   string
	KubeVersion string // empty: Helm's default
	APIVersions []string

	Values   []Values          // over the chart's own, the later ones over the earlier ones
	Settings []Setting         // over Values
	Files    map[string][]byte // the contents of the files that settings name

	IncludeCRDs, SkipTests, SkipSchema bool
}

// Values is the content of a values file; Name is what messages call it.
type Values struct {
	Name string
	Data []byte
}

// Setting is one of Helm's options that set values.
type Setting struct {
	Option SettingOption
	Text   string // "a.b=c", …
}

// SettingOption is the name of such an option.
type SettingOption string

// The options that set values.
const (
	SetJSON    SettingOption = "--set-json"
	Set        SettingOption = "--set"
	SetString  SettingOption = "--set-string"
	SetFile    SettingOption = "--set-file"
	SetLiteral SettingOption = "--set-literal"
)

// settingOrder is the order in which Helm takes them, whatever their order on the command line.
var settingOrder = []SettingOption{SetJSON, Set, SetString, SetFile, SetLiteral}

// BuildTemplate renders a chart as "helm template" does. Its messages speak of the flags of the command line.
func BuildTemplate(ctx context.Context, snap delivery.Snapshot, asked Template) ([]delivery.Object, error) {
	t := newTree(ctx, snap.FS)
	objects, err := t.template(asked)
	return settled(t, objects, err)
}

func (t *tree) template(asked Template) ([]delivery.Object, error) {
	dir := path.Clean(asked.Chart)
	if err := t.checkPath(dir); err != nil {
		return nil, err
	}
	c := &chart{
		Name: asked.Release, Namespace: cmp.Or(asked.Namespace, "default"), Kube: asked.KubeVersion, APIs: asked.APIVersions,
		SkipCRDs: !asked.IncludeCRDs, SkipTests: asked.SkipTests, SkipSchema: asked.SkipSchema,
		Settings: asked.Settings, Named: asked.Files, Flags: true,
	}
	shown := cmp.Or(asked.Shown, dir)
	var err error
	if c.Files, err = t.chartFiles(dir, shown); err != nil {
		return nil, err
	}
	for _, v := range asked.Values {
		if err := checkYAML(v.Name, v.Data, false); err != nil {
			return nil, err
		}
		c.Values = append(c.Values, chartFile(v))
	}
	done, err := runTask(t.ctx, nil, task{Chart: c})
	if err != nil {
		return nil, ofChart(err, shown)
	}
	objects := madeObjects(done.Made, shown)
	if err := checkNamed(objects); err != nil {
		return nil, err
	}
	return flatten(objects), nil
}

// set lays the settings over the values.
func (c *chart) set(all map[string]any) (map[string]any, error) {
	for _, option := range settingOrder {
		for _, s := range c.Settings {
			if s.Option != option {
				continue
			}
			more, err := s.into(all, c.Named)
			if err != nil { // what it says may quote the value
				key, _, _ := strings.Cut(s.Text, "=")
				return nil, fault(string(option), "write names as a.b or a[0]", "'%s' cannot be set", key)
			}
			all = more
		}
	}
	return all, nil
}

// into gives the values with the setting.
func (s Setting) into(all map[string]any, files map[string][]byte) (map[string]any, error) {
	switch s.Option {
	case SetJSON:
		if !strings.HasPrefix(strings.TrimSpace(s.Text), "{") {
			return all, strvals.ParseJSON(s.Text, all)
		}
		var more map[string]any
		if err := json.Unmarshal([]byte(s.Text), &more); err != nil {
			return nil, err
		}
		return loader.MergeMaps(all, more), nil
	case SetString:
		return all, strvals.ParseIntoString(s.Text, all)
	case SetLiteral:
		return all, strvals.ParseLiteralInto(s.Text, all)
	case SetFile:
		return all, strvals.ParseIntoFile(s.Text, all, func(name []rune) (any, error) {
			data, ok := files[string(name)]
			if !ok {
				return nil, errors.New("the file was not read")
			}
			return string(data), nil
		})
	default:
		return all, strvals.ParseInto(s.Text, all)
	}
}

// ReadBy gives each file that a [SetFile] setting names to read.
func (s Setting) ReadBy(read func(name string) error) error {
	return strvals.ParseIntoFile(s.Text, map[string]any{}, func(name []rune) (any, error) { return "", read(string(name)) })
}

// terms are what messages call the things that a chart is told.
type terms struct {
	kube                              string // the place of the version
	setName, setKube, mend, getCharts string // hints
}

var (
	argoTerms = terms{
		kube: "spec.source.helm.kubeVersion", setName: "set helm.releaseName",
		setKube:   "use another version of the chart, or set helm.kubeVersion",
		mend:      "mend the values, or set helm.skipSchemaValidation",
		getCharts: "commit what 'helm dependency update' puts into charts, or give credentials for the dependency's repository",
	}
	flagTerms = terms{
		kube: "--kube-version", setName: "name it with --release-name",
		setKube:   "use another version of the chart, or give --kube-version",
		mend:      "mend the values, or give --skip-schema-validation",
		getCharts: "run 'helm dependency update' in the chart's folder",
	}
)

func (c *chart) terms() terms {
	if c.Flags {
		return flagTerms
	}
	return argoTerms
}
