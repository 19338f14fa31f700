package render

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"

	"helm.sh/helm/v4/pkg/chart/common"
	chartv2 "helm.sh/helm/v4/pkg/chart/v2"
	"helm.sh/helm/v4/pkg/engine"
	k8sjson "k8s.io/apimachinery/pkg/util/json"
	"sigs.k8s.io/kustomize/kyaml/filesys"
)

// Lookup is Helm's function of that name: an object as it is in the cluster, or a list of them.
type Lookup func(apiVersion, kind, namespace, name string) (map[string]any, error)

// Templates executes the templates of a chart in a child, in the bounds of any child, and gives what each of them made, by the names that
// Helm has for them. The chart's dependencies have been processed; top is what its templates are given: Values, Release and Capabilities. The
// error is a [*delivery.Fault], with the template and its line, or the end of ctx.
func Templates(ctx context.Context, chart *chartv2.Chart, top map[string]any, look Lookup) (map[string]string, error) {
	t := &templates{Chart: partsOf(chart)}
	var err error
	if t.Values, err = tagged(top["Values"]); err == nil {
		t.Release, err = tagged(top["Release"])
	}
	if err != nil {
		return nil, fault("", "", "chart '%s': its values: %w", chart.Name(), err)
	}
	if caps, ok := top["Capabilities"].(*common.Capabilities); ok {
		t.Kube, t.APIs = caps.KubeVersion.Version, caps.APIVersions
	}
	done, err := runTask(ctx, cluster{filesys.MakeFsInMemory(), look}, task{Templates: t})
	var failed *childError
	if errors.As(err, &failed) {
		return nil, fault(failed.where, failed.hint, "%s", failed.text)
	}
	return done.Texts, err
}

// cluster answers a child that looks something up. There are no files.
type cluster struct {
	filesys.FileSystem
	look Lookup
}

func (c cluster) lookup(args []string) ([]byte, error) {
	if len(args) != 4 {
		return nil, errors.New("lookup wants four arguments")
	}
	found, err := c.look(args[0], args[1], args[2], args[3])
	if err != nil {
		return nil, err
	}
	data, err := json.Marshal(found)
	if err == nil && len(data) > maxFileBytes {
		err = fmt.Errorf("lookup %s: what is there takes more than %d MiB", args[1], maxFileBytes>>20)
	}
	return data, err
}

// templates are those of a chart, and what they are given.
type templates struct {
	Chart           chartParts
	Values, Release json.RawMessage // tagged
	Kube            string
	APIs            []string
}

// chartParts is what templates see of a chart.
type chartParts struct {
	Metadata         *chartv2.Metadata
	Templates, Files []*common.File
	Dependencies     []chartParts
}

func partsOf(c *chartv2.Chart) chartParts {
	p := chartParts{Metadata: c.Metadata, Templates: c.Templates, Files: c.Files}
	for _, d := range c.Dependencies() {
		p.Dependencies = append(p.Dependencies, partsOf(d))
	}
	return p
}

func (p chartParts) chart() *chartv2.Chart {
	c := &chartv2.Chart{Metadata: p.Metadata, Templates: p.Templates, Files: p.Files}
	for _, d := range p.Dependencies {
		c.AddDependency(d.chart())
	}
	return c
}

// execute runs in the child.
func (t *templates) execute(look Lookup) (made map[string]string, err error) {
	defer func() {
		if r := recover(); r != nil {
			made, err = nil, fault("", "", "rendering the chart panicked: %v", r)
		}
	}()
	chart := t.Chart.chart()
	values, err := untagged(t.Values)
	if err != nil {
		return nil, err
	}
	release, err := untagged(t.Release)
	if err != nil {
		return nil, err
	}
	kube, err := common.ParseKubeVersion(t.Kube)
	if err != nil {
		return nil, fault("", "", "Kubernetes version '%s' cannot be read", t.Kube)
	}
	caps := common.DefaultCapabilities.Copy()
	caps.KubeVersion, caps.APIVersions = *kube, t.APIs
	all, _ := values.(map[string]any)
	e := engine.Engine{CustomTemplateFuncs: map[string]any{"lookup": (func(string, string, string, string) (map[string]any, error))(look)}}
	made, err = e.RenderWithContext(context.Background(), chart, common.Values{"Values": common.Values(all), "Release": release, "Capabilities": caps})
	if err != nil {
		return nil, templateFault(chart.Name(), err)
	}
	size := 0
	for name, text := range made {
		if size += len(text); size > maxRendered {
			return nil, fault(inChart(name), "split the chart", "chart '%s': its templates give more than %d MiB", chart.Name(), maxRendered>>20)
		}
	}
	return made, nil
}

// lookup asks the parent.
func (c childFS) lookup(apiVersion, kind, namespace, name string) (map[string]any, error) {
	a, err := c.inquire(question{Op: childLookup, Args: []string{apiVersion, kind, namespace, name}})
	if err != nil {
		return nil, err
	}
	var found map[string]any
	return found, k8sjson.Unmarshal(a.Data, &found)
}

// tagged is a value as JSON in which the types of numbers are kept, by a letter before them, as text is by another: templates print 1e6 in one way
// where it came from YAML, and in another where --set has set it.
func tagged(v any) (json.RawMessage, error) {
	plain, err := tag(v)
	if err != nil {
		return nil, err
	}
	return json.Marshal(plain)
}

func tag(v any) (any, error) {
	switch v := v.(type) {
	case nil, bool, float64:
		return v, nil
	case string:
		return "s" + v, nil
	case int:
		return "i" + strconv.Itoa(v), nil
	case int64:
		return "l" + strconv.FormatInt(v, 10), nil
	case json.Number:
		return "n" + v.String(), nil
	case common.Values:
		return tag(map[string]any(v))
	case map[string]any:
		out := make(map[string]any, len(v))
		for key, e := range v {
			var err error
			if out[key], err = tag(e); err != nil {
				return nil, fmt.Errorf("%s: %w", key, err)
			}
		}
		return out, nil
	case []any:
		out := make([]any, len(v))
		for i, e := range v {
			var err error
			if out[i], err = tag(e); err != nil {
				return nil, fmt.Errorf("%d: %w", i, err)
			}
		}
		return out, nil
	}
	return nil, fmt.Errorf("it is a %T, which YAML does not know", v)
}

func untagged(data json.RawMessage) (any, error) {
	var v any
	if err := json.Unmarshal(data, &v); err != nil {
		return nil, err
	}
	return untag(v)
}

func untag(v any) (any, error) {
	var err error
	switch v := v.(type) {
	case map[string]any:
		for key, e := range v {
			if v[key], err = untag(e); err != nil {
				return nil, err
			}
		}
	case []any:
		for i, e := range v {
			if v[i], err = untag(e); err != nil {
				return nil, err
			}
		}
	case string:
		if v == "" {
			return nil, errors.New("a text without its tag")
		}
		switch text := v[1:]; v[0] {
		case 's':
			return text, nil
		case 'i':
			return strconv.Atoi(text)
		case 'l':
			return strconv.ParseInt(text, 10, 64)
		case 'n':
			return json.Number(text), nil
		}
		return nil, fmt.Errorf("a text with the unknown tag %q", v[0])
	}
	return v, nil
}
