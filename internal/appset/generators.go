package appset

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	"sigs.k8s.io/yaml"

	argocdv1 "keelson.dev/keelson/api/argocd/v1alpha1"
)

// generation is the work of one [Generate].
type generation struct {
	set      *argocdv1.ApplicationSet
	world    World
	render   *renderer
	template map[string]any // of the set
	read     int            // bytes of files so far
}

// found is what a generator gave, and the template that it is for.
type found struct {
	where    string
	params   []params
	template map[string]any
}

// generator is one that a field of an ApplicationSetGenerator names.
type generator struct {
	name     string
	template *runtime.RawExtension
	params   func(g *generation, where string, gen argocdv1.ApplicationSetGenerator, depth int) ([]params, error)
}

// named lists the generators that gen names, in Argo CD's order.
func named(gen argocdv1.ApplicationSetGenerator) ([]generator, error) {
	var all []generator
	if l := gen.List; l != nil {
		all = append(all, generator{"list", l.Template, (*generation).list})
	}
	if c := gen.Clusters; c != nil {
		all = append(all, generator{"clusters", c.Template, (*generation).clusters})
	}
	if git := gen.Git; git != nil {
		all = append(all, generator{"git", git.Template, (*generation).git})
	}
	for _, other := range []struct {
		name string
		is   *runtime.RawExtension
	}{
		{"scmProvider", gen.SCMProvider}, {"clusterDecisionResource", gen.ClusterDecisionResource}, {"pullRequest", gen.PullRequest},
		{"plugin", gen.Plugin}, {"oci", gen.Oci},
	} {
		if other.is != nil {
			return nil, fmt.Errorf("the generator %s is not supported yet; nothing is changed (hint: list, clusters, git, matrix and merge are)", other.name)
		}
	}
	if m := gen.Matrix; m != nil {
		all = append(all, generator{"matrix", m.Template, (*generation).matrix})
	}
	if m := gen.Merge; m != nil {
		all = append(all, generator{"merge", m.Template, (*generation).merge})
	}
	return all, nil
}

// transform gives what the generators of gen find. outer are the parameters that a matrix fills it in with.
func (g *generation) transform(where string, gen argocdv1.ApplicationSetGenerator, outer params, depth int) ([]found, error) {
	kinds, err := named(gen)
	if err == nil && len(kinds) == 0 {
		err = g.unnamed(where)
	}
	if err != nil {
		return nil, fault(ReasonParams, where, err)
	}
	selected, err := selects(gen.Selector)
	if err != nil {
		return nil, fault(ReasonParams, where, err)
	}
	filled := gen
	if len(outer) > 0 {
		if filled, err = g.interpolate(gen, outer); err != nil {
			return nil, fault(ReasonParams, where, err)
		}
	}
	var out []found
	for _, kind := range kinds {
		at := where + "." + kind.name
		all, err := kind.params(g, at, filled, depth)
		if err != nil {
			return nil, fault(ReasonParams, at, err)
		}
		f := found{where: at, template: g.template}
		for _, p := range all {
			if selected(p) {
				f.params = append(f.params, p)
			}
		}
		if len(f.params) > maxParams {
			return nil, fault(ReasonParams, at, tooMany())
		}
		if kind.template != nil && depth == 0 {
			if f.template, err = readTemplate(kind.template.Raw); err != nil {
				return nil, fault(ReasonRender, at+".template", err)
			}
			underlay(f.template, g.template)
		}
		out = append(out, f)
	}
	return out, nil
}

// unnamed tells that a generator has none of the fields that are known; the fields it has are named.
func (g *generation) unnamed(where string) error {
	var fields []string
	for _, field := range g.set.Unknown {
		if rest, ok := strings.CutPrefix(field, where+"."); ok {
			fields = append(fields, rest)
		}
	}
	what := "it names no generator"
	if len(fields) > 0 {
		what = strings.Join(fields, ", ") + ": there is no such generator"
	}
	return errors.New(what + "; nothing is changed (hint: list, clusters, git, matrix or merge)")
}

func tooMany() error {
	return fmt.Errorf("it gives more than %d sets of parameters", maxParams)
}

// child gives the parameters of a generator within another.
func (g *generation) child(where string, i int, gen argocdv1.ApplicationSetGenerator, outer params, depth int) ([]params, error) {
	at := fmt.Sprintf("%s.generators[%d]", where, i)
	if depth > maxNesting {
		return nil, fault(ReasonParams, at, fmt.Errorf("matrix and merge may be nested %d deep at most", maxNesting))
	}
	got, err := g.transform(at, gen, outer, depth)
	if err != nil {
		return nil, err
	}
	if len(got) > 1 {
		return nil, fault(ReasonParams, at, errors.New("found more than one generator where one is wanted"))
	}
	return got[0].params, nil
}

// interpolate fills in a generator with the parameters of another. Its values may use its own parameters too: what cannot be
// filled in now is left for later.
func (g *generation) interpolate(gen argocdv1.ApplicationSetGenerator, outer params) (argocdv1.ApplicationSetGenerator, error) {
	data, err := json.Marshal(gen)
	if err != nil {
		return gen, err
	}
	if !strings.Contains(string(data), "{{") {
		return gen, nil
	}
	tree := map[string]any{}
	if err := json.Unmarshal(data, &tree); err != nil {
		return gen, err
	}
	tree, err = g.interpolated(tree, outer)
	if err != nil {
		return gen, err
	}
	if data, err = json.Marshal(tree); err != nil {
		return gen, err
	}
	var out argocdv1.ApplicationSetGenerator
	if err := json.Unmarshal(data, &out); err != nil {
		return gen, fmt.Errorf("filled in with other parameters it is no generator: %w", err)
	}
	return out, nil
}

func (g *generation) interpolated(tree map[string]any, outer params) (map[string]any, error) {
	for key, v := range tree {
		var err error
		gen, isMap := v.(map[string]any)
		switch {
		case key == "selector" || !isMap: // the selector is for the result
			continue
		case key == "matrix" || key == "merge":
			list, _ := gen["generators"].([]any)
			for i := range list {
				if m, ok := list[i].(map[string]any); ok {
					if list[i], err = g.interpolated(m, outer); err != nil {
						return nil, err
					}
				}
			}
			continue
		}
		values, _ := gen["values"].(map[string]any)
		template, hasTemplate := gen["template"]
		delete(gen, "template") // is filled in with the result
		if key == "clusters" || key == "git" {
			delete(gen, "values")
		}
		filled, err := g.render.tree(gen, outer)
		if err != nil {
			return nil, err
		}
		gen, _ = filled.(map[string]any)
		if hasTemplate {
			gen["template"] = template
		}
		if _, there := gen["values"]; !there && values != nil {
			if gen["values"], err = g.earlyValues(values, outer); err != nil {
				return nil, err
			}
		}
		tree[key] = gen
	}
	return tree, nil
}

// earlyValues fills in the values that the outer parameters suffice for.
func (g *generation) earlyValues(values map[string]any, outer params) (map[string]any, error) {
	out := make(map[string]any, len(values))
	for key, v := range values {
		text, _ := v.(string)
		filled, err := g.render.strictly(text, outer)
		switch {
		case missesKey(err):
			out[key] = text
		case err != nil:
			return nil, fmt.Errorf("values.%s: %w", key, err)
		default:
			out[key] = filled
		}
	}
	return out, nil
}

func missesKey(err error) bool {
	return err != nil && (strings.Contains(err.Error(), "map has no entry for key") || strings.Contains(err.Error(), "can't evaluate field"))
}

// addValues adds the values that a generator names, filled in with the parameters it has found, not with one another.
func (g *generation) addValues(p params, values map[string]string) error {
	filled := make(map[string]string, len(values))
	for key, text := range values {
		v, err := g.render.text(text, p)
		if err != nil {
			return fmt.Errorf("values.%s: %w", key, err)
		}
		filled[key] = v
	}
	if g.set.Spec.GoTemplate {
		if len(values) > 0 {
			p["values"] = filled
		}
		return nil
	}
	for key, v := range filled {
		p["values."+key] = v
	}
	return nil
}

func (g *generation) list(_ string, gen argocdv1.ApplicationSetGenerator, _ int) ([]params, error) {
	var out []params
	if len(gen.List.Elements) > maxParams {
		return nil, tooMany()
	}
	for i, raw := range gen.List.Elements {
		var element map[string]any
		if err := json.Unmarshal(raw.Raw, &element); err != nil {
			return nil, fmt.Errorf("elements[%d]: it is no mapping: %w", i, err)
		}
		if element == nil {
			element = params{}
		}
		if !g.set.Spec.GoTemplate {
			flat, err := flatElement(element)
			if err != nil {
				return nil, fmt.Errorf("elements[%d]: %w", i, err)
			}
			element = flat
		}
		out = append(out, element)
	}
	if gen.List.ElementsYaml != "" {
		var more []map[string]any
		if err := yaml.Unmarshal([]byte(gen.List.ElementsYaml), &more); err != nil {
			return nil, fmt.Errorf("elementsYaml: it is no list of mappings: %w", err)
		}
		for _, p := range more {
			if p == nil {
				p = params{}
			}
			out = append(out, p)
		}
	}
	return out, nil
}

// flatElement reads an element where templates are filled in without goTemplate: everything is text, one level below values too.
func flatElement(element map[string]any) (params, error) {
	out := params{}
	for key, v := range element {
		if key != "values" {
			text, ok := v.(string)
			if !ok {
				return nil, fmt.Errorf("%s: it is no text (hint: quote it, or use goTemplate)", key)
			}
			out[key] = text
			continue
		}
		values, ok := v.(map[string]any)
		if !ok {
			return nil, errors.New("values: it is no mapping")
		}
		for k, v := range values {
			text, ok := v.(string)
			if !ok {
				return nil, fmt.Errorf("values.%s: it is no text (hint: quote it, or use goTemplate)", k)
			}
			out["values."+k] = text
		}
	}
	return out, nil
}

// Annotations of a cluster's Secret that are no parameters: what controllers keep there for themselves (Argo CD: the same).
var privateAnnotations = []string{
	"argocd.argoproj.io/refresh", "argocd.argoproj.io/refresh-timestamp", "argocd.argoproj.io/hydrate", "argocd.argoproj.io/hydrate-timestamp",
	"argocd.argoproj.io/tracking-id", "argocd.argoproj.io/installation-id", "kubectl.kubernetes.io/last-applied-configuration",
}

func (g *generation) clusters(_ string, gen argocdv1.ApplicationSetGenerator, _ int) ([]params, error) {
	selector, err := metav1.LabelSelectorAsSelector(&gen.Clusters.Selector)
	if err != nil {
		return nil, fmt.Errorf("selector: %w", err)
	}
	everything := len(gen.Clusters.Selector.MatchLabels)+len(gen.Clusters.Selector.MatchExpressions) == 0
	known := slices.Clone(g.world.Clusters)
	slices.SortStableFunc(known, func(a, b Cluster) int { return strings.Compare(a.Name, b.Name) })
	out := []params{}
	inCluster := false
	for i, c := range known {
		if i+1 < len(known) && known[i+1].Name == c.Name { // of those with one name the last counts
			continue
		}
		if !selector.Matches(labels.Set(c.Labels)) {
			continue
		}
		inCluster = inCluster || c.Server == inClusterServer
		p := params{"name": c.Name, "nameNormalized": normalize(c.Name), "server": c.Server, "project": c.Project}
		g.metadata(p, c)
		if err := g.addValues(p, gen.Clusters.Values); err != nil {
			return nil, err
		}
		out = append(out, p)
	}
	if everything && !inCluster {
		p := params{"name": inClusterName, "nameNormalized": inClusterName, "server": inClusterServer, "project": ""}
		if err := g.addValues(p, gen.Clusters.Values); err != nil {
			return nil, err
		}
		out = append(out, p)
	}
	if gen.Clusters.FlatList {
		return []params{{"clusters": out}}, nil
	}
	return out, nil
}

func (g *generation) metadata(p params, c Cluster) {
	annotations := make(map[string]string, len(c.Annotations))
	for k, v := range c.Annotations {
		if !slices.Contains(privateAnnotations, k) {
			annotations[k] = v
		}
	}
	if !g.set.Spec.GoTemplate {
		for k, v := range annotations {
			p["metadata.annotations."+k] = v
		}
		for k, v := range c.Labels {
			p["metadata.labels."+k] = v
		}
		return
	}
	meta := map[string]any{}
	if len(c.Annotations) > 0 {
		meta["annotations"] = annotations
	}
	if len(c.Labels) > 0 {
		meta["labels"] = c.Labels
	}
	p["metadata"] = meta
}

func (g *generation) matrix(where string, gen argocdv1.ApplicationSetGenerator, depth int) ([]params, error) {
	two := gen.Matrix.Generators
	if len(two) != 2 {
		return nil, fmt.Errorf("it has %d generators, and a matrix is made of two", len(two))
	}
	first, err := g.child(where, 0, two[0], nil, depth+1)
	if err != nil {
		return nil, err
	}
	data, err := json.Marshal(two[1])
	if err != nil {
		return nil, err
	}
	same := !strings.Contains(string(data), "{{")
	out := []params{}
	var second []params
	for i, a := range first {
		if i == 0 || !same {
			if second, err = g.child(where, 1, two[1], a, depth+1); err != nil {
				return nil, err
			}
		}
		if len(out)+len(second) > maxParams {
			return nil, tooMany()
		}
		for _, b := range second {
			if !g.set.Spec.GoTemplate {
				both, err := combine(a, b)
				if err != nil {
					return nil, err
				}
				out = append(out, both)
				continue
			}
			both := cloned(b)
			overlay(both, a)
			out = append(out, both)
		}
	}
	return out, nil
}

func (g *generation) merge(where string, gen argocdv1.ApplicationSetGenerator, depth int) ([]params, error) {
	m := gen.Merge
	if len(m.Generators) < 2 {
		return nil, fmt.Errorf("it has %d generators, and merge is made of two or more", len(m.Generators))
	}
	if len(m.MergeKeys) == 0 {
		return nil, errors.New("mergeKeys: there are none, and merge needs at least one")
	}
	var base []params
	var at map[string]int
	for i, child := range m.Generators {
		all, err := g.child(where, i, child, nil, depth+1)
		if err != nil {
			return nil, err
		}
		keys, err := byKeys(m.MergeKeys, all)
		if err != nil {
			return nil, fmt.Errorf("generators[%d]: %w", i, err)
		}
		if i == 0 {
			for _, p := range all {
				base = append(base, cloned(p))
			}
			at = keys
			continue
		}
		for key, j := range keys {
			k, ok := at[key]
			switch {
			case !ok:
			case g.set.Spec.GoTemplate:
				overlay(base[k], all[j])
			default:
				for name, v := range all[j] {
					base[k][name] = v
				}
			}
		}
	}
	return base, nil
}

// byKeys finds sets of parameters by the values of keys.
func byKeys(keys []string, all []params) (map[string]int, error) {
	out := make(map[string]int, len(all))
	for i, p := range all {
		values := make(map[string]any, len(keys))
		for _, key := range keys {
			values[key] = p[key]
		}
		data, err := json.Marshal(values)
		if err != nil {
			return nil, err
		}
		if _, there := out[string(data)]; there {
			return nil, fmt.Errorf("the parameters from a generator were not unique by the given mergeKeys. Duplicate key was %s", data)
		}
		out[string(data)] = i
	}
	return out, nil
}
