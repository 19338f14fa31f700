package config

import "go.yaml.in/yaml/v4"

// mapping makes a map. As in Ruby a later value of a key takes the place of an earlier one, and a merge (<<) is a value like any
// other: it takes the place of what is before it, where YAML has the map's own keys win.
func (c *converter) mapping(made *Node, n *yaml.Node) {
	made.Kind = Map
	if n.Style&yaml.TaggedStyle != 0 && n.Tag != "!!map" {
		if n.Tag == "!reference" {
			c.fail("invalid-reference", c.at(n), "write `!reference [job, keyword]`", "the value of `!reference` is not a list of names")
		} else {
			c.tag(n)
		}
	}
	b := newMap(made, len(n.Content)/2)
	for i := 0; i+1 < len(n.Content); i += 2 {
		key, ok := c.key(n.Content[i])
		if !ok {
			continue
		}
		value := c.node(n.Content[i+1])
		if key == "<<" && n.Content[i].Style&yaml.TaggedStyle == 0 {
			c.merge(b, n.Content[i], value)
			continue
		}
		pair := Pair{Key: key, KeyAt: c.at(n.Content[i]), Value: value}
		if old, own := b.set(pair, true); own {
			c.duplicate(old, pair)
		}
	}
	made.measure()
	c.checkDepth(made)
}

func (c *converter) duplicate(old, pair Pair) {
	c.warn("duplicate-key", pair.KeyAt, "remove one of them", "the key `%s` is there twice: this one counts, the one at %v does not", pair.Key, old.KeyAt)
}

// key gives a key as a text. Of a scalar that is no text it is what GitLab makes of the scalar.
func (c *converter) key(n *yaml.Node) (string, bool) {
	made := &c.keyed
	if n.Kind == yaml.ScalarNode && n.Anchor == "" {
		*made = Node{}
		c.scalar(made, n)
	} else {
		made = c.node(n)
	}
	if made.IsScalar() {
		return made.Text, true
	}
	c.fail("yaml-key", c.at(n), "", "a key has to be a text, not a list or a map")
	return "", false
}

// merge puts the entries of a map, or of each map of a list (the first one wins), into the map that it is written in.
func (c *converter) merge(b *mapBuilder, key *yaml.Node, value *Node) {
	from := []*Node{value}
	if value.Kind == List && len(value.Via) == 0 {
		from = value.Items
	}
	merged := newMap(&Node{Kind: Map}, 0)
	for i := len(from) - 1; i >= 0; i-- {
		if from[i].Kind != Map {
			c.fail("yaml-merge", c.at(key), "write `<<: *anchor` or `<<: [*one, *two]`", "`<<` takes a map or a list of maps")
			return
		}
		for _, p := range from[i].Pairs {
			merged.set(p.moved(from[i].Via), false)
		}
	}
	for _, p := range merged.node.Pairs {
		if old, own := b.set(p, false); own {
			c.warn("merge-overrides", c.at(key), "put the `<<` line first",
				"`<<` takes the place of the key `%s` at %v, which is written before it", p.Key, old.KeyAt)
		}
	}
}
