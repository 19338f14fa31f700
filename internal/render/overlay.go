package render

import (
	"errors"
	"io/fs"
	"maps"
	"path"
	"slices"
	"strings"

	"sigs.k8s.io/kustomize/api/types"

	"keelson.dev/keelson/internal/delivery"
)

// kustomized renders a part with kustomize. Its options are laid over the kustomization as Argo CD does it, by what
// "kustomize edit" does to the file.
func (t *tree) kustomized(p delivery.Part) ([]delivery.Object, error) {
	var asked delivery.Kustomize
	plain := p.Kustomize == nil
	if !plain {
		asked = *p.Kustomize
	}
	dir, err := t.resolve(path.Clean(p.Path))
	if err != nil {
		return nil, readFault(p.Path, err)
	}
	in := inspect(t)
	name, k, err := in.load(dir, func() string { return dir })
	if err != nil {
		return nil, err
	}
	if !plain {
		err := in.editInline(name, k, asked, p.Env)
		if err != nil {
			return nil, err
		}
	}
	return in.build(dir, name, k, overlay{plain, func(in *inspection, dir string, k *types.Kustomization) error {
		return in.addComponents(dir, k, asked.Components, asked.IgnoreMissingComponents)
	}})
}

const kustomizeOptions = "spec.source.kustomize."

// editInline lays the options over a kustomization that take no look at other files.
func (in *inspection) editInline(name string, k *types.Kustomization, asked delivery.Kustomize, env map[string]string) error {
	if asked.NamePrefix != "" {
		k.NamePrefix = asked.NamePrefix
	}
	if asked.NameSuffix != "" {
		k.NameSuffix = asked.NameSuffix
	}
	if asked.Namespace != "" {
		k.Namespace = asked.Namespace
	}
	if err := setImages(k, asked.Images, env); err != nil {
		return err
	}
	setReplicas(k, asked.Replicas)
	if err := in.addLabels(name, k, asked, env); err != nil {
		return err
	}
	if len(asked.CommonAnnotations) > 0 {
		if k.CommonAnnotations == nil {
			k.CommonAnnotations = map[string]string{}
		}
		add := edit{in, name, "commonAnnotations", "commonAnnotations", asked.ForceCommonAnnotations}
		for _, key := range slices.Sorted(maps.Keys(asked.CommonAnnotations)) {
			value := asked.CommonAnnotations[key]
			if asked.CommonAnnotationsEnvsubst {
				value = expand(value, env)
			}
			if err := add.to(k.CommonAnnotations, key, value); err != nil {
				return err
			}
		}
	}
	for _, patch := range asked.Patches {
		k.Patches = append(k.Patches, types.Patch{Path: patch.Path, Patch: patch.Patch.Patch, Target: selector(patch.Target), Options: &types.PatchArgs{
			AllowNameChange: patch.Options["allowNameChange"], AllowKindChange: patch.Options["allowKindChange"],
		}})
		if len(patch.Options) == 0 {
			k.Patches[len(k.Patches)-1].Options = nil
		}
	}
	return nil
}

// keep in the place of an image's new name, tag or digest leaves that of the kustomization file.
const keep = "*"

// setImages is "kustomize edit set image".
func setImages(k *types.Kustomization, images []string, env map[string]string) error {
	if len(images) == 0 {
		return nil
	}
	all := map[string]types.Image{}
	for _, text := range images {
		image, err := parseImage(expand(text, env))
		if err != nil {
			return err
		}
		all[image.Name] = image
	}
	or := func(value, old string) string {
		if value == keep {
			return old
		}
		return value
	}
	for _, old := range k.Images {
		image, ok := all[old.Name]
		if !ok {
			all[old.Name] = old
			continue
		}
		all[old.Name] = types.Image{
			Name: image.Name, NewName: or(image.NewName, old.NewName), NewTag: or(image.NewTag, old.NewTag), Digest: or(image.Digest, old.Digest),
			TagSuffix: image.TagSuffix,
		}
	}
	k.Images = nil
	for _, name := range slices.Sorted(maps.Keys(all)) {
		image := all[name]
		image.NewName, image.NewTag, image.Digest = or(image.NewName, ""), or(image.NewTag, ""), or(image.Digest, "")
		k.Images = append(k.Images, image)
	}
	return nil
}

// parseImage reads "name=newName:tag@digest", where the part up to "=" or one of the others may be missing.
func parseImage(text string) (types.Image, error) {
	name, value, renamed := strings.Cut(text, "=")
	if !renamed {
		name, value = "", text
	}
	image, digest, _ := strings.Cut(value, "@")
	tag := ""
	if at := strings.LastIndexByte(image, ':'); at > strings.LastIndexByte(image, '/') {
		image, tag = image[:at], image[at+1:]
	}
	switch {
	case image == text, image == "", renamed && name == "":
		return types.Image{}, fault(kustomizeOptions+"images", "write name:tag, name@digest or name=new:tag", "image '%s' says nothing to change", text)
	case renamed:
		return types.Image{Name: name, NewName: image, NewTag: tag, Digest: digest}, nil
	}
	return types.Image{Name: image, NewTag: tag, Digest: digest}, nil
}

// setReplicas is "kustomize edit set replicas".
func setReplicas(k *types.Kustomization, replicas []delivery.Replica) {
	if len(replicas) == 0 {
		return
	}
	all := map[string]types.Replica{}
	for _, r := range k.Replicas {
		all[r.Name] = r
	}
	for _, r := range replicas {
		all[r.Name] = types.Replica{Name: r.Name, Count: r.Count}
	}
	k.Replicas = nil
	for _, name := range slices.Sorted(maps.Keys(all)) {
		k.Replicas = append(k.Replicas, all[name])
	}
}

// edit adds to a map of a kustomization.
type edit struct {
	in     *inspection
	file   string
	field  string // of the file
	option string
	force  bool
}

func (e edit) to(all map[string]string, key, value string) error {
	if _, ok := all[key]; ok && !e.force {
		force := "force" + strings.ToUpper(e.option[:1]) + e.option[1:]
		return fault(at(e.file, e.in.source(e.file), key), "set kustomize."+force+" to override it",
			"%s: '%s' of the application is there already", e.field, key)
	}
	all[key] = value
	return nil
}

// addLabels is "kustomize edit add label".
func (in *inspection) addLabels(name string, k *types.Kustomization, asked delivery.Kustomize, env map[string]string) error {
	if len(asked.CommonLabels) == 0 {
		return nil
	}
	if asked.LabelIncludeTemplates && !asked.LabelWithoutSelector {
		return fault(kustomizeOptions+"labelIncludeTemplates", "set labelWithoutSelector as well", "labels of templates are those of selectors, too")
	}
	add := edit{in, name, "commonLabels", "commonLabels", asked.ForceCommonLabels}
	var to map[string]string
	if asked.LabelWithoutSelector {
		at := slices.IndexFunc(k.Labels, func(l types.Label) bool {
			return !l.IncludeSelectors && l.IncludeTemplates == asked.LabelIncludeTemplates
		})
		if at < 0 {
			at = len(k.Labels)
			k.Labels = append(k.Labels, types.Label{Pairs: map[string]string{}, IncludeTemplates: asked.LabelIncludeTemplates})
		}
		if k.Labels[at].Pairs == nil {
			k.Labels[at].Pairs = map[string]string{}
		}
		add.field, to = "labels", k.Labels[at].Pairs
	} else {
		if k.CommonLabels == nil {
			k.CommonLabels = map[string]string{}
		}
		to = k.CommonLabels
	}
	for _, key := range slices.Sorted(maps.Keys(asked.CommonLabels)) {
		if err := add.to(to, key, expand(asked.CommonLabels[key], env)); err != nil {
			return err
		}
	}
	return nil
}

// addComponents is "kustomize edit add component".
func (in *inspection) addComponents(dir string, k *types.Kustomization, components []string, ignoreMissing bool) error {
	const where = kustomizeOptions + "components"
	for _, c := range components {
		if err := refuseReference("component", c, dir, func() string { return where }); err != nil {
			return err
		}
		mode, err := in.stat(path.Join(dir, c))
		switch {
		case err != nil && !errors.Is(err, fs.ErrNotExist):
			return readFault(where, err)
		case ignoreMissing && (err != nil || !mode.IsDir() || len(in.kustomizationFiles(path.Join(dir, c))) == 0):
			continue
		case err != nil:
			return fault(where, "add it, or set ignoreMissingComponents", "component '%s' does not exist (%s)", c, path.Join(dir, c))
		}
		if !slices.Contains(k.Components, c) {
			k.Components = append(k.Components, c)
		}
	}
	return nil
}
