package render

import (
	"bytes"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"

	"helm.sh/helm/v4/pkg/chart/common"
	"helm.sh/helm/v4/pkg/chart/common/util"
	"helm.sh/helm/v4/pkg/chart/loader/archive"
	chartv2 "helm.sh/helm/v4/pkg/chart/v2"
	"helm.sh/helm/v4/pkg/chart/v2/loader"
	chartutil "helm.sh/helm/v4/pkg/chart/v2/util"
	"helm.sh/helm/v4/pkg/engine"
	releasev1 "helm.sh/helm/v4/pkg/release/v1"
	releaseutil "helm.sh/helm/v4/pkg/release/v1/util"
	"helm.sh/helm/v4/pkg/strvals"
	k8sjson "k8s.io/apimachinery/pkg/util/json"
	k8sversion "k8s.io/apimachinery/pkg/util/version"
	"sigs.k8s.io/yaml"

	"keelson.dev/keelson/internal/delivery"
)

// chart is a chart and all that "helm template" is told about it. Its templates are rendered in a child (see child.go), with
// Helm's own packages, except that nothing of it is fetched, looked up in a cluster or read from a disk.
type chart struct {
	Files      []chartFile // of the chart's folder
	Values     []chartFile // over the chart's own, the later ones over the earlier ones
	Parameters []delivery.Parameter
	Contents   []chartFile // parameters whose values are the contents of files
	Name       string      // of the release
	Namespace  string
	Kube       string // the Kubernetes version; empty: Helm's default
	APIs       []string
	SkipCRDs   bool
	SkipTests  bool
	SkipSchema bool

	// Of a command line alone.
	Settings []Setting
	Named    map[string][]byte // contents of the files that settings name
	Flags    bool              // messages speak of flags
}

// chartFile is a named content. The name is a path in the chart, a file for messages, or a parameter.
type chartFile struct {
	Name string
	Data []byte
}

// render gives the chart's objects in the order of "helm template": definitions, what Helm would install in its order, hooks.
// Origins and places are relative to the chart, except places that begin with "/", "spec." or "--".
func (c *chart) render() (made []product, err error) {
	defer func() {
		if r := recover(); r != nil {
			made, err = nil, fault("", "", "rendering the chart panicked: %v", r)
		}
	}()
	loaded, err := c.load()
	if err != nil {
		return nil, err
	}
	values, err := c.values()
	if err != nil {
		return nil, err
	}
	caps, err := c.capabilities(loaded)
	if err != nil {
		return nil, err
	}
	if err := chartutil.ValidateReleaseName(c.Name); err != nil {
		return nil, fault("", c.terms().setName, "release name '%s': %w", c.Name, err)
	}
	if err := chartutil.ProcessDependencies(loaded, values); err != nil {
		return nil, fault("Chart.yaml", "", "chart '%s': dependencies: %s", loaded.Name(), withoutValues(err))
	}
	release := common.ReleaseOptions{Name: c.Name, Namespace: c.Namespace, Revision: 1, IsInstall: true}
	all, err := util.ToRenderValuesWithSchemaValidation(loaded, values, release, caps, c.SkipSchema)
	if err != nil {
		return nil, fault("values.schema.json", c.terms().mend, "chart '%s': %s", loaded.Name(), withoutValues(err))
	}
	files, err := engine.Render(loaded, all)
	if err != nil {
		return nil, templateFault(loaded.Name(), err)
	}
	return c.objects(loaded, files)
}

// load reads the chart and holds it to what can be installed.
func (c *chart) load() (*chartv2.Chart, error) {
	files := make([]*archive.BufferedFile, len(c.Files))
	for i, f := range c.Files {
		files[i] = &archive.BufferedFile{Name: f.Name, Data: bytes.TrimPrefix(f.Data, []byte("\uFEFF"))}
	}
	loaded, err := loader.LoadFiles(files)
	if err != nil {
		return nil, fault("Chart.yaml", "", "load the chart: %s", withoutValues(err))
	}
	if t := loaded.Metadata.Type; t != "" && t != "application" {
		return nil, fault("Chart.yaml", "use it as a dependency of another chart", "chart '%s' is of type '%s', which cannot be installed", loaded.Name(), t)
	}
	sortDependencies(loaded)
	var missing []string
	for _, want := range loaded.Metadata.Dependencies {
		if !slices.ContainsFunc(loaded.Dependencies(), func(d *chartv2.Chart) bool { return d.Name() == want.Name }) {
			missing = append(missing, strings.TrimSpace(fmt.Sprintf("%s %s", want.Name, want.Version)))
		}
	}
	if len(missing) > 0 {
		return nil, fault("Chart.yaml", c.terms().getCharts,
			"chart '%s' depends on %s, which is not in its charts folder", loaded.Name(), strings.Join(missing, ", "))
	}
	return loaded, nil
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

// values are those that are given from outside, by Helm's precedence: files, then parameters, then contents of files.
func (c *chart) values() (map[string]any, error) {
	all := map[string]any{}
	for _, f := range c.Values {
		v, err := loader.LoadValues(bytes.NewReader(f.Data))
		if err != nil {
			if s := syntaxFault("/"+f.Name, f.Data); s != nil {
				return nil, s
			}
			return nil, fault("/"+f.Name, "", "the values are not a YAML object")
		}
		all = loader.MergeMaps(all, v)
	}
	set := func(p delivery.Parameter) error {
		parse := strvals.ParseInto
		if p.Text {
			parse = strvals.ParseIntoString
		}
		if parse(p.Name+"="+escapeCommas(p.Value), all) != nil { // what it says may quote the value
			return fault("spec.source.helm.parameters", "write names as a.b or a[0]", "parameter '%s' cannot be set", p.Name)
		}
		return nil
	}
	for _, text := range []bool{false, true} {
		for _, p := range c.Parameters {
			if p.Text == text {
				if err := set(p); err != nil {
					return nil, err
				}
			}
		}
	}
	for _, f := range c.Contents {
		content := func([]rune) (any, error) { return string(f.Data), nil }
		if strvals.ParseIntoFile(f.Name+"=file", all, content) != nil {
			return nil, fault("spec.source.helm.fileParameters", "write names as a.b or a[0]", "parameter '%s' cannot be set", f.Name)
		}
	}
	return c.set(all)
}

// escapeCommas keeps a parameter's value one value, as Argo CD does: only "{a,b}" is a list.
func escapeCommas(value string) string {
	if strings.HasPrefix(value, "{") && strings.HasSuffix(value, "}") {
		return value
	}
	var b strings.Builder
	var before rune
	for _, r := range value {
		if r == ',' && before != '\\' {
			b.WriteByte('\\')
		}
		b.WriteRune(r)
		before = r
	}
	return b.String()
}

func (c *chart) capabilities(loaded *chartv2.Chart) (*common.Capabilities, error) {
	caps := common.DefaultCapabilities.Copy()
	caps.APIVersions = append(slices.Clip(caps.APIVersions), c.APIs...)
	if c.Kube != "" {
		v, err := k8sversion.ParseGeneric(c.Kube)
		if err != nil {
			return nil, fault(c.terms().kube, "write it as 1.30.0", "Kubernetes version '%s' cannot be read", c.Kube)
		}
		kube, err := common.ParseKubeVersion(v.String())
		if err != nil {
			return nil, fault(c.terms().kube, "write it as 1.30.0", "Kubernetes version '%s' cannot be read", c.Kube)
		}
		caps.KubeVersion = *kube
	}
	if want := loaded.Metadata.KubeVersion; want != "" && !chartutil.IsCompatibleRange(want, caps.KubeVersion.String()) {
		return nil, fault("Chart.yaml", c.terms().setKube,
			"chart '%s' wants Kubernetes %s, and this is %s", loaded.Name(), want, caps.KubeVersion.Version)
	}
	return caps, nil
}

// objects sorts what the templates gave.
func (c *chart) objects(loaded *chartv2.Chart, files map[string]string) ([]product, error) {
	for name := range files {
		if strings.HasSuffix(name, "NOTES.txt") {
			delete(files, name)
		}
	}
	hooks, manifests, err := releaseutil.SortManifests(files, nil, releaseutil.InstallOrder)
	if err != nil {
		return nil, manifestFault(files)
	}
	var out reading
	if !c.SkipCRDs {
		crds := loaded.CRDObjects()
		slices.SortStableFunc(crds, func(a, b chartv2.CRD) int { return strings.Compare(a.Filename, b.Filename) })
		for _, crd := range crds {
			documents := releaseutil.SplitManifests(string(crd.File.Data))
			for i := range len(documents) {
				if err := out.add(crd.Filename, documents[fmt.Sprintf("manifest-%d", i)]); err != nil {
					return nil, err
				}
			}
		}
	}
	for _, m := range manifests {
		if err := out.add(m.Name, m.Content); err != nil {
			return nil, err
		}
	}
	for _, h := range hooks {
		if c.SkipTests && slices.Contains(h.Events, releasev1.HookTest) {
			continue
		}
		if err := out.add(h.Path, h.Manifest); err != nil {
			return nil, err
		}
	}
	return out.all, nil
}

// reading collects objects that are read from text.
type reading struct {
	all  []product
	size sizer
}

// add reads the object that a document of the template name is; an empty one is none.
func (m *reading) add(name, document string) error {
	name = inChart(name)
	converted, err := yaml.YAMLToJSON([]byte(document))
	if err != nil {
		return malformedFault(name, err)
	}
	if string(converted) == "null" {
		return nil
	}
	var object map[string]any
	if err := k8sjson.Unmarshal(converted, &object); err != nil {
		return fault(name, "", "the template gives something that is no object")
	}
	if err := m.size.normalize(object); err != nil {
		return fault(name, "", "%w", err)
	}
	if m.all = append(m.all, product{Object: object, Origin: name}); len(m.all) > maxPlainObjects {
		return fault(name, "split the chart", "the chart makes more than %d objects", maxPlainObjects)
	}
	return nil
}

// inChart is a template's name without the chart's own: "templates/a.yaml", "charts/db/templates/b.yaml".
func inChart(name string) string {
	if _, rest, ok := strings.Cut(name, "/"); ok {
		return rest
	}
	return name
}

// manifestFault finds the template whose result is not YAML.
func manifestFault(files map[string]string) error {
	names := make([]string, 0, len(files))
	for name := range files {
		names = append(names, name)
	}
	slices.Sort(names)
	for _, name := range names {
		if strings.HasPrefix(name[strings.LastIndex(name, "/")+1:], "_") {
			continue
		}
		documents := releaseutil.SplitManifests(files[name])
		for i := range len(documents) {
			var head releaseutil.SimpleHead
			if err := yaml.Unmarshal([]byte(documents[fmt.Sprintf("manifest-%d", i)]), &head); err != nil {
				return malformedFault(inChart(name), err)
			}
		}
	}
	return fault("", "", "a template gives something that is not YAML")
}

// malformedFault is that of a result that is not YAML. The line it names is one of the result.
func malformedFault(name string, err error) error {
	text := withoutValues(err)
	if i := strings.LastIndex(text, "yaml: "); i >= 0 {
		text = text[i+len("yaml: "):]
	}
	return fault(name, "see what it gives with 'helm template --debug'", "what the template gives is not YAML: %s", text)
}

// quoted is what Helm's messages say of values and templates that may be secret.
var quoted = []*regexp.Regexp{
	regexp.MustCompile("()`[^`]*`()"),                                            // an excerpt of a value that has the wrong type
	regexp.MustCompile(`((?:parse template|execution for) )"(?:\\.|[^"\\])*"()`), // what tpl was given
	regexp.MustCompile(`()'[^'\n]*'( (?:does not match|is not valid))`),
	regexp.MustCompile(`(error calling (?:b64dec|b32dec|fromYaml|fromJson|fromToml|mustFromJson|atoi|toDecimal|int64?|float64|semver|toDate|mustToDate|dateModify|mustDateModify|genPrivateKey|decryptAES|buildCustomCert|urlParse)\w*: ).*()`),
}

// withoutValues is a message in one line, without what it quotes of values.
func withoutValues(err error) string {
	text := err.Error()
	for _, q := range quoted {
		text = q.ReplaceAllString(text, "${1}…${2}")
	}
	text = strings.Join(strings.Fields(text), " ")
	const start, end = 300, 700 // what went wrong is said last
	if len(text) > start+end {
		text = strings.ToValidUTF8(text[:start], "") + "…" + strings.ToValidUTF8(text[len(text)-end:], "")
	}
	return text
}

// place is where Helm says that a template went wrong: "chart/templates/a.yaml:12:3".
var place = regexp.MustCompile(`^(?:(?:execution|parse) error (?:at|in) \()?(?:template: )?([^\s:()]+):(\d+)(?::\d+)?\)?:?\s*`)

// templateFault is that of a template that cannot be parsed or executed.
func templateFault(name string, err error) error {
	text, where := err.Error(), ""
	if m := place.FindStringSubmatch(text); m != nil {
		where, text = inChart(m[1])+":"+m[2], text[len(m[0]):]
	}
	return fault(where, "", "chart '%s': %s", name, withoutValues(errors.New(text)))
}

// TemplateFault is the error of a chart's template that cannot be parsed or executed, with its file and line, without what Helm
// quotes of values.
func TemplateFault(chart string, err error) error { return templateFault(chart, err) }

// WithoutValues is what Helm says, in one line, without what it quotes of values and templates that may be secret.
func WithoutValues(err error) string { return withoutValues(err) }
