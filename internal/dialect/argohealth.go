package dialect

import (
	"cmp"
	"fmt"
	"maps"
	"path"
	"slices"
	"strconv"
	"strings"

	"sigs.k8s.io/yaml"

	"keelson.dev/keelson/internal/delivery"
)

// ArgoConfigMap is the name of the ConfigMap with Argo CD's settings, in its namespace.
const ArgoConfigMap = "argocd-cm"

// Bounds of scripts: how long one may be, in bytes, and how many there may be. A ConfigMap holds 1 MiB.
const maxHealthScript, maxHealthScripts = 256 << 10, 1000

const customizations = "resource.customizations"

// ArgoHealthOverrides reads which scripts tell how objects are doing, from the data of [ArgoConfigMap]: of the keys
// resource.customizations.health.GROUP_KIND and …useOpenLibs.GROUP_KIND, and of the older resource.customizations, a document with
// an entry for each "GROUP/KIND", * for any (operator-manual/health). What cannot be used is left out, and the problems say why.
func ArgoHealthOverrides(data map[string]string) (scripts []delivery.HealthScript, problems []string) {
	byKinds := map[string]delivery.HealthScript{}
	problem := func(key, format string, args ...any) {
		problems = append(problems, ArgoConfigMap+": "+key+": "+fmt.Sprintf(format, args...))
	}
	for kinds, entry := range customized(data[customizations], problem) {
		if entry.Lua != "" {
			byKinds[kinds] = delivery.HealthScript{Kinds: kinds, Lua: entry.Lua, OpenLibs: entry.OpenLibs}
		}
	}
	for _, key := range slices.Sorted(maps.Keys(data)) {
		what, kind, ok := strings.Cut(strings.TrimPrefix(key, customizations+"."), ".")
		if !ok || !strings.HasPrefix(key, customizations+".") || what != "health" && what != "useOpenLibs" {
			continue
		}
		kinds, ok := splitKinds(kind)
		if !ok {
			problem(key, "it has to end with GROUP_KIND, or with KIND where the group has no name")
			continue
		}
		s := byKinds[kinds]
		s.Kinds = kinds
		if what == "health" {
			s.Lua = data[key]
		} else {
			open, err := strconv.ParseBool(strings.TrimSpace(data[key]))
			if err != nil {
				problem(key, "%q is neither true nor false", data[key])
			}
			s.OpenLibs = open
		}
		byKinds[kinds] = s
	}
	for _, kinds := range slices.Sorted(maps.Keys(byKinds)) {
		s := byKinds[kinds]
		switch _, err := path.Match(kinds, ""); {
		case strings.TrimSpace(s.Lua) == "":
		case len(s.Lua) > maxHealthScript:
			problem(kinds, "its script has %d bytes, more than %d", len(s.Lua), maxHealthScript)
		case err != nil:
			problem(kinds, "%q is no pattern: %v", kinds, err)
		case len(scripts) == maxHealthScripts:
			problem(kinds, "there are more than %d scripts", maxHealthScripts)
		default:
			scripts = append(scripts, s)
		}
	}
	return scripts, problems
}

// customization is what counts here of an entry of resource.customizations.
type customization struct {
	Lua      string `json:"health.lua"`
	OpenLibs bool   `json:"health.lua.useOpenLibs"`
}

// customized reads resource.customizations. An entry that cannot be read does not keep the others from being read.
func customized(text string, problem func(key, format string, args ...any)) map[string]customization {
	var raw map[string]any
	if err := yaml.Unmarshal([]byte(text), &raw); err != nil {
		problem(customizations, "%v", err)
		return nil
	}
	out := map[string]customization{}
	for _, kinds := range slices.Sorted(maps.Keys(raw)) {
		var c customization
		b, err := yaml.Marshal(raw[kinds])
		if err = cmp.Or(err, yaml.Unmarshal(b, &c)); err != nil {
			problem(customizations, "%s: %v", kinds, err)
			continue
		}
		out[kinds] = c
	}
	return out
}

// splitKinds gives "GROUP/KIND" for the end of a key, "GROUP_KIND".
func splitKinds(end string) (string, bool) {
	group, kind, grouped := strings.Cut(end, "_")
	switch {
	case end == "all":
		return "*/*", true
	case !grouped:
		return end, end != ""
	default:
		return group + "/" + kind, group != "" && kind != "" && !strings.Contains(kind, "_")
	}
}
