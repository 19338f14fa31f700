package render

import (
	"errors"
	"io"
	"path"
	"reflect"
	"strings"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/kustomize/api/types"
	"sigs.k8s.io/kustomize/kyaml/resid"
	"sigs.k8s.io/kustomize/kyaml/yaml"

	"keelson.dev/keelson/internal/delivery"
)

// Most manifests need nothing of kustomize: where nothing is to be done to them, it gives back what it has read. So they are
// read here, in a third of the time, as long as nothing in them could make kustomize do something after all: aliases, lists
// of objects, its own annotations, references that it completes with a namespace, ids that clash, or what it refuses. Where
// anything is unusual, the answer is "not here", and kustomize has the last word.

// completed are the kinds in which kustomize adds the namespace of an object that they refer to.
var completed = map[string]bool{
	"RoleBinding": true, "ClusterRoleBinding": true, "Node": true, "StorageClass": true, "PersistentVolume": true, "CSIDriver": true,
	"ValidatingWebhookConfiguration": true, "MutatingWebhookConfiguration": true, "APIService": true, "CustomResourceDefinition": true,
}

// direct gives the objects of files, if kustomize would give them back as they are.
func (in *inspection) direct(dir string, names []string) ([]delivery.Object, bool) {
	var all []delivery.Object
	var size sizer
	seen := map[resid.ResId]bool{}
	for _, name := range names {
		name = path.Join(dir, name)
		data, err := in.read(name)
		if err != nil {
			return nil, false
		}
		found, ok := directObjects(data, &size)
		if !ok {
			return nil, false
		}
		for _, m := range found {
			o := delivery.Object{Unstructured: &unstructured.Unstructured{Object: m}, Origin: name}
			id := effectiveID(o)
			if completed[id.Kind] || seen[id] {
				return nil, false
			}
			seen[id] = true
			all = append(all, o)
		}
	}
	return all, true
}

// effectiveID is what kustomize tells objects apart by: of each id there may be one.
func effectiveID(o delivery.Object) resid.ResId {
	gvk := o.GroupVersionKind()
	id := resid.NewResIdWithNamespace(resid.NewGvk(gvk.Group, gvk.Version, gvk.Kind), o.GetName(), o.GetNamespace())
	return resid.ResId{Gvk: resid.Gvk{Group: gvk.Group, Version: gvk.Version, Kind: gvk.Kind}, Name: id.Name, Namespace: id.EffectiveNamespace()}
}

// directObjects reads the objects of one file.
func directObjects(data []byte, size *sizer) ([]map[string]any, bool) {
	nodes, ok := usualNodes(data)
	if !ok {
		return nil, false
	}
	all := make([]map[string]any, len(nodes))
	for i, n := range nodes {
		if n.Decode(&all[i]) != nil || size.normalize(all[i]) != nil {
			return nil, false
		}
	}
	return all, true
}

// usualNodes parses a file of objects that kustomize accepts as they are.
func usualNodes(data []byte) ([]*yaml.Node, bool) {
	documents, ok := splitDocuments(strings.ReplaceAll(string(data), "\r\n", "\n"))
	if !ok {
		return nil, false
	}
	all := make([]*yaml.Node, 0, len(documents))
	for _, text := range documents {
		var doc yaml.Node
		switch err := yaml.NewDecoder(strings.NewReader(text)).Decode(&doc); {
		case errors.Is(err, io.EOF):
			continue
		case err != nil || doc.Kind != yaml.DocumentNode || len(doc.Content) != 1 || !usual(&doc) || !usualObject(doc.Content[0]):
			return nil, false
		}
		all = append(all, doc.Content[0])
	}
	return all, true
}

// splitDocuments cuts a file as kustomize does: at lines that begin with "---".
func splitDocuments(text string) ([]string, bool) {
	const mark = "\n---"
	var all []string
	from := 0
	for {
		at := strings.Index(text[from:], mark)
		if at < 0 {
			return append(all, text[from:]), true
		}
		at += from
		rest, _, ended := strings.Cut(text[at+len(mark):], "\n")
		if !ended || strings.TrimSpace(rest) != "" {
			return nil, false
		}
		all = append(all, text[from:at]+"\n")
		from = at + len(mark) + len(rest) + 1
	}
}

// usual tells whether a node has neither aliases nor tags nor empty items.
func usual(n *yaml.Node) bool {
	if n.Kind == yaml.AliasNode || n.Anchor != "" || n.Style&yaml.TaggedStyle != 0 || n.Tag == "!!merge" {
		return false
	}
	for _, c := range n.Content {
		if n.Kind == yaml.SequenceNode && c.Tag == "!!null" || !usual(c) {
			return false
		}
	}
	return true
}

// usualObject tells whether a node is an object that kustomize accepts and has no plans with.
func usualObject(n *yaml.Node) bool {
	kind, version, metadata := child(n, "kind"), child(n, "apiVersion"), child(n, "metadata")
	if !isText(kind) || !isText(version) || strings.HasSuffix(kind.Value, "List") || metadata == nil || !isText(child(metadata, "name")) {
		return false
	}
	if namespace := child(metadata, "namespace"); namespace != nil && !isText(namespace) {
		return false
	}
	for _, name := range []string{"labels", "annotations"} {
		m := child(metadata, name)
		if m == nil {
			continue
		}
		if m.Kind != yaml.MappingNode || len(m.Content) == 0 {
			return false
		}
		for i, c := range m.Content {
			if c.Tag != "!!str" || i%2 == 0 && strings.Contains(c.Value, "config.k") {
				return false
			}
		}
	}
	return true
}

func isText(n *yaml.Node) bool {
	return n != nil && n.Kind == yaml.ScalarNode && n.Tag == "!!str" && n.Value != ""
}

// listsOnly tells whether a kustomization does nothing but list resources.
func listsOnly(k *types.Kustomization) bool {
	rest := *k
	rest.TypeMeta, rest.MetaData, rest.Resources = types.TypeMeta{}, nil, nil
	return reflect.DeepEqual(rest, types.Kustomization{}) &&
		(k.Kind == "" || k.Kind == types.KustomizationKind) && (k.APIVersion == "" || k.APIVersion == types.KustomizationVersion)
}

// areFiles tells whether all resources of the kustomization in dir are files.
func (in *inspection) areFiles(dir string, k *types.Kustomization) bool {
	for _, r := range k.Resources {
		if mode, err := in.stat(path.Join(dir, r)); err != nil || mode.IsDir() {
			return false
		}
	}
	return true
}
