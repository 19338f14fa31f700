package appset

import (
	"fmt"
	"maps"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"text/template"
	"time"

	"github.com/Masterminds/sprig/v3"
	"sigs.k8s.io/yaml"
)

// hidden are functions that Argo CD leaves out, as they tell of the machine; unsettled those that give something else each time
// or take long on purpose.
var (
	hidden    = []string{"env", "expandenv", "getHostByName"}
	unsettled = []string{
		"randAlphaNum", "randAlpha", "randAscii", "randNumeric", "randBytes", "randInt", "shuffle", "uuidv4", "bcrypt", "htpasswd", "derivePassword",
		"genPrivateKey", "buildCustomCert", "genCA", "genCAWithKey", "genSelfSignedCert", "genSelfSignedCertWithKey", "genSignedCert",
		"genSignedCertWithKey", "encryptAES",
	}
)

// growing estimates what functions may come to by their arguments.
var growing = map[string]func(args []reflect.Value) int{
	"repeat":  func(a []reflect.Value) int { return times(numberOf(a[0]), length(a[1])) },
	"indent":  func(a []reflect.Value) int { return times(numberOf(a[0]), strings.Count(textOf(a[1]), "\n")+1) },
	"nindent": func(a []reflect.Value) int { return times(numberOf(a[0]), strings.Count(textOf(a[1]), "\n")+1) },
	"until":   func(a []reflect.Value) int { return times(max(numberOf(a[0]), -numberOf(a[0])), 64) },
	"untilStep": func(a []reflect.Value) int {
		return times(max(numberOf(a[0])-numberOf(a[1]), numberOf(a[1])-numberOf(a[0])), 64)
	},
	"seq":      func(a []reflect.Value) int { return sequence(a[0]) },
	"replace":  func(a []reflect.Value) int { return times(strings.Count(textOf(a[2]), textOf(a[0])), length(a[1])) },
	"join":     func(a []reflect.Value) int { return times(length(a[0]), length(a[1])) },
	"wrapWith": func(a []reflect.Value) int { return times(length(a[1])+1, length(a[2])+1) },
	"printf":   formatted,
	"uniq":     func(a []reflect.Value) int { return times(length(a[0]), 64*length(a[0])) },
	"has":      func(a []reflect.Value) int { return 64 * length(a[1]) },
	"without":  func(a []reflect.Value) int { return times(length(a[0]), 64*length(a[1])) },

	"regexMatch":             searching,
	"regexFind":              searching,
	"regexFindAll":           searching,
	"regexSplit":             searching,
	"regexReplaceAll":        substituting,
	"regexReplaceAllLiteral": substituting,
}

// sequence estimates seq with its up to three numbers.
func sequence(list reflect.Value) int {
	total := 0
	for i := range list.Len() {
		n := numberOf(list.Index(i))
		total += max(n, -n)
	}
	return times(total, 16)
}

func searching(a []reflect.Value) int { return times(length(a[0]), length(a[1])) }

func substituting(a []reflect.Value) int {
	return times(length(a[0]), length(a[1])) + times(length(a[1])+1, length(a[2])+1)
}

// functions gives those that templates may call, bound to a renderer.
func functions(r *renderer, now time.Time) template.FuncMap {
	all := sprig.GenericFuncMap()
	for _, name := range hidden {
		delete(all, name)
	}
	maps.Copy(all, map[string]any{
		"normalize": normalize, "slugify": slugify, "toYaml": toYAML, "fromYaml": fromYAML, "fromYamlArray": fromYAMLArray, "tpl": r.tpl,
		"keys": sortedKeys, "values": sortedValues,
		"now": func() time.Time { return now },
		"ago": func(t any) string { return ago(now, t) },
		// Those of text/template, so that they count.
		"print": fmt.Sprint, "printf": fmt.Sprintf, "println": fmt.Sprintln,
		"html": template.HTMLEscaper, "js": template.JSEscaper, "urlquery": template.URLQueryEscaper,
	})
	out := make(template.FuncMap, len(all)+2)
	for name, fn := range all {
		grows, ok := growing[name]
		if !ok && strings.HasPrefix(name, "must") { // mustRegexMatch is regexMatch
			bare := strings.TrimPrefix(name, "must")
			grows = growing[strings.ToLower(bare[:1])+bare[1:]]
		}
		out[name] = guarded(r.work, fn, grows)
	}
	for _, name := range unsettled {
		out[name] = func(...any) (string, error) {
			return "", fmt.Errorf("%s gives something else each time, or takes long on purpose: an Application made with it would never settle (hint: put the value into a parameter)", name)
		}
	}
	out[stepFunction], out[showFunction] = r.step, r.show
	return out
}

var notInNames = regexp.MustCompile(`[^-a-z0-9.]`)

// normalize makes text usable as a name of an object: in lower case, with - for what names may not hold, 253 characters at most.
func normalize(name string) string {
	name = notInNames.ReplaceAllString(strings.ToLower(name), "-")
	return strings.Trim(name[:min(len(name), 253)], "-.")
}

var notInSlugs = regexp.MustCompile(`[^a-z0-9_]+`)

// slugify makes text usable in an address. The last argument is the text; before it may come the most characters (50) and
// whether it is cut between words (true).
func slugify(args ...any) (string, error) {
	most, words, name := 50, true, ""
	for i, arg := range args {
		var ok bool
		switch i {
		case len(args) - 1:
			name, ok = arg.(string)
		case 0:
			most, ok = arg.(int)
		case 1:
			words, ok = arg.(bool)
		}
		if !ok {
			return "", fmt.Errorf("slugify: argument %d is %v (hint: slugify 23 false \"text\")", i+1, arg)
		}
	}
	name = normalize(name)
	if !words {
		name = name[:max(0, min(len(name), most))]
	}
	slug := strings.Trim(notInSlugs.ReplaceAllString(name, "-"), "-_")
	if most <= 0 || len(slug) <= most {
		return slug, nil
	}
	if cut := strings.LastIndexByte(slug[:most+1], '-'); cut >= 0 {
		return slug[:cut], nil
	}
	return slug[:most], nil
}

func toYAML(v any) (string, error) {
	data, err := yaml.Marshal(v)
	return strings.TrimSuffix(string(data), "\n"), err
}

func fromYAML(text string) (map[string]any, error) {
	out := map[string]any{}
	err := yaml.Unmarshal([]byte(text), &out)
	return out, err
}

func fromYAMLArray(text string) ([]any, error) {
	out := []any{}
	err := yaml.Unmarshal([]byte(text), &out)
	return out, err
}

// sortedKeys and sortedValues are sprig's keys and values in an order that stays.
func sortedKeys(dicts ...map[string]any) []string {
	var out []string
	for _, d := range dicts {
		out = append(out, slices.Sorted(maps.Keys(d))...)
	}
	return out
}

func sortedValues(dict map[string]any) []any {
	var out []any
	for _, key := range slices.Sorted(maps.Keys(dict)) {
		out = append(out, dict[key])
	}
	return out
}

// ago is how long before now a time was, as sprig writes it.
func ago(now time.Time, v any) string {
	var t time.Time
	switch v := v.(type) {
	case time.Time:
		t = v
	case int64:
		t = time.Unix(v, 0)
	case int:
		t = time.Unix(int64(v), 0)
	default:
		t = now
	}
	return now.Sub(t).Round(time.Second).String()
}
