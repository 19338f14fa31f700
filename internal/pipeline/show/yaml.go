package show

import (
	"fmt"
	"strings"

	"go.yaml.in/yaml/v4"

	"keelson.dev/keelson/internal/pipeline/config"
)

// maxNodes bounds a printed configuration: values that are shared in memory are printed at every place.
const maxNodes = 2_000_000

// YAML prints a tree such that every YAML parser reads the same from it as GitLab does: what is a text is quoted where it might be
// taken for something else (yes, 012, 12:30), numbers and truths are as GitLab takes them.
func YAML(root *config.Node) ([]byte, error) {
	left := maxNodes
	node, err := yamlNode(root, &left)
	if err != nil {
		return nil, err
	}
	return yaml.Dump(node, yaml.WithIndent(2), yaml.WithLineWidth(-1))
}

func yamlNode(n *config.Node, left *int) (*yaml.Node, error) {
	if *left--; *left < 0 {
		return nil, fmt.Errorf("it has more than %d values", maxNodes)
	}
	if n == nil {
		return scalar("!!null", "null"), nil
	}
	switch n.Kind {
	case config.Null:
		return scalar("!!null", "null"), nil
	case config.Bool, config.Int, config.Float:
		tag := map[config.Kind]string{config.Bool: "!!bool", config.Int: "!!int", config.Float: "!!float"}[n.Kind]
		return scalar(tag, n.Text), nil
	case config.Map:
		out := &yaml.Node{Kind: yaml.MappingNode, Tag: "!!map"}
		if len(n.Pairs) == 0 {
			out.Style = yaml.FlowStyle
		}
		for _, p := range n.Pairs {
			value, err := yamlNode(p.Value, left)
			if err != nil {
				return nil, err
			}
			out.Content = append(out.Content, textNode(p.Key), value)
		}
		return out, nil
	case config.List, config.Reference:
		out := &yaml.Node{Kind: yaml.SequenceNode, Tag: "!!seq"}
		if n.Kind == config.Reference {
			out.Tag, out.Style = "!reference", yaml.TaggedStyle|yaml.FlowStyle
		} else if len(n.Items) == 0 {
			out.Style = yaml.FlowStyle
		}
		for _, item := range n.Items {
			value, err := yamlNode(item, left)
			if err != nil {
				return nil, err
			}
			out.Content = append(out.Content, value)
		}
		return out, nil
	}
	return textNode(n.Text), nil
}

func scalar(tag, text string) *yaml.Node {
	return &yaml.Node{Kind: yaml.ScalarNode, Tag: tag, Value: text}
}

// textNode is a text: a block where it has several lines, quoted where it is not plainly one.
func textNode(text string) *yaml.Node {
	n := scalar("!!str", text)
	switch {
	case strings.Contains(text, "\n") && !strings.ContainsAny(text, "\r\t") && !strings.Contains(text, " \n") && strings.TrimLeft(text, " \n") == text:
		n.Style = yaml.LiteralStyle
	case !clearlyText(text):
		n.Style = yaml.DoubleQuotedStyle
	}
	return n
}

// clearlyText tells that no parser takes a plain text for anything else: it begins with a letter, a slash, a dot or a dollar sign,
// holds nothing that YAML gives a meaning, and is no word for a truth.
func clearlyText(text string) bool {
	switch strings.ToLower(text) {
	case "", "y", "n", "yes", "no", "on", "off", "true", "false", "null":
		return false
	}
	if text[0] == '.' {
		return len(text) > 1 && text[1] >= 'a' && text[1] <= 'z' && clearlyText(text[1:])
	}
	if !strings.ContainsRune("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ$/_", rune(text[0])) {
		return false
	}
	return !strings.Contains(text, ": ") && !strings.Contains(text, " #") && !strings.HasSuffix(text, ":") && strings.TrimSpace(text) == text
}
