package config

import (
	"slices"

	"keelson.dev/keelson/internal/pipeline"
)

// defaultKeywords are those that may stand under default.
var defaultKeywords = []string{
	"after_script", "artifacts", "before_script", "cache", "hooks", "id_tokens", "identity", "image", "interruptible", "retry", "services",
	"tags", "timeout",
}

// decodeDefaults decodes default, and the globals that are deprecated in its favour.
func (d *decoder) decodeDefaults(root value) {
	d.defaults = &pipeline.JobSpec{Where: map[string]pipeline.Text{}}
	section := root.field("default")
	if isJob("default", section.Node) {
		section.warn(codeNoEffect, "remove its `script`, `run` or `trigger` to make it the defaults of all jobs", "is a job with this name, and no section of defaults")
		section.Node = nil
	}
	if section.set() && section.isMap("config should be a hash") {
		for i := range section.Pairs {
			p := &section.Pairs[i]
			if !slices.Contains(defaultKeywords, p.Key) {
				hint := pipeline.DidYouMean(p.Key, defaultKeywords)
				if _, ok := keywords[p.Key]; ok {
					hint = "`" + p.Key + "` has no default, only jobs have it"
				}
				section.unknownHint(*p, hint)
				continue
			}
			d.keyword(section.child(p.Key, p.KeyAt, p.Value), d.defaults)
		}
	}
	for _, key := range globals {
		v := root.field(key)
		if !v.set() {
			continue
		}
		if section.field(key).set() {
			v.fail(codeConflict, "config is defined in top-level and `default:` entry")
			continue
		}
		v.warn(codeDeprecated, "move it under `default:`", "at the top level is deprecated")
		d.keyword(v, d.defaults)
	}
}

// keyword decodes one keyword of a job, or of default.
func (d *decoder) keyword(v value, j *pipeline.JobSpec) {
	if !v.set() {
		return
	}
	keywords[v.key()].decode(v, j)
	d.record(j.Where, v.key(), v, recorded[v.key()])
}

// inherit takes what a job does not say from the defaults.
func (d *decoder) inherit(v value, j *pipeline.JobSpec, of pipeline.Inherit, names []string) {
	if len(d.defaults.Where) == 0 {
		return
	}
	var taken []string
	for _, name := range names {
		if _, ok := d.defaults.Where[name]; !ok || !of.Takes(name) || v.Get(name) != nil && !v.Get(name).IsNull() {
			continue
		}
		keywords[name].inherit(j, d.defaults)
		taken = append(taken, name)
	}
	for key, text := range d.defaults.Where {
		name := key
		for i := range key {
			if key[i] == '.' {
				name = key[:i]
				break
			}
		}
		if slices.Contains(taken, name) {
			text.Via = append([]pipeline.Via{{How: "default", Name: name, At: v.keyAt}}, text.Via...)
			j.Where[key] = text
		}
	}
}

// recorded says of which keywords the places of what stands under them are kept, and how many levels.
var recorded = map[string]int{
	"environment": 1, "artifacts": 2, "image": 1, "trigger": 1, "release": 1, "retry": 1, "cache": 1, "pages": 1, "allow_failure": 1,
	"parallel": 1, "inherit": 1, "hooks": 1,
}

// record keeps the place of a keyword.
func (d *decoder) record(where map[string]pipeline.Text, path string, v value, levels int) {
	where[path] = pipeline.Text{Value: v.Text, At: v.at(), Via: v.via}
	if levels == 0 || v.Kind != Map {
		return
	}
	for i := range v.Pairs {
		if p := &v.Pairs[i]; !p.Value.IsNull() {
			d.record(where, d.dotted(path, p.Key), value{Node: p.Value, keyAt: p.KeyAt, via: way(p.Value, v.via)}, levels-1)
		}
	}
}

// dotted gives "path.key", the same text for each of many jobs.
func (d *decoder) dotted(path, key string) string {
	pair := [2]string{path, key}
	text, ok := d.paths[pair]
	if !ok {
		text = path + "." + key
		d.paths[pair] = text
	}
	return text
}

// inheritance is the value of inherit:default or inherit:variables.
func (v value) inheritance(words []string) pipeline.Inherit {
	switch {
	case !v.set():
		return pipeline.Inherit{}
	case v.Kind == Bool:
		return pipeline.Inherit{None: !v.Bool}
	case v.Kind != List:
		v.wrong("should be a bool or array of strings")
		return pipeline.Inherit{}
	}
	names := make([]string, 0, len(v.Items))
	for _, item := range v.items() {
		switch {
		case item.Node == nil || item.Kind != String:
			item.wrong("should be an array of strings")
		case words != nil && !slices.Contains(words, item.Text):
			item.hint(codeValue, pipeline.DidYouMean(item.Text, words), "contains unknown values: %s", clip(item.Text))
		default:
			names = append(names, item.Text)
		}
	}
	return pipeline.Inherit{Names: names}
}
