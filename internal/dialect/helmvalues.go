package dialect

import (
	"fmt"
	"regexp"
	"strings"

	"github.com/fluxcd/pkg/chartutil"
	"github.com/opencontainers/go-digest"
	"sigs.k8s.io/yaml"

	"keelson.dev/keelson/internal/delivery"
)

// ReasonValues is upstream's reason of conditions and events about values that cannot be composed.
const ReasonValues = "ValuesError"

// ReleaseValues composes the values of an app's release as upstream does: those of ValuesFrom, one after the other, and over them the
// inline ones. A value with a path is set where that leads to, in what there is up to then with the inline values laid over it; whether
// the inline values win over it in the end depends, as upstream, on whether an earlier reference has something beside it.
//
// data gives the data of a ConfigMap or Secret; false: there is none. Errors name the object and its key, never what is in it.
func ReleaseValues(release *delivery.HelmRelease, data func(delivery.ValuesRef) (map[string][]byte, bool)) (map[string]any, error) {
	inline := map[string]any{}
	if err := yaml.Unmarshal(release.Values, &inline); err != nil {
		return nil, valuesFault("spec.values", fmt.Errorf("not a map of values%s", atLine(err)), "")
	}
	values := map[string]any{}
	for i, ref := range release.ValuesFrom {
		where := fmt.Sprintf("spec.valuesFrom[%d] (%s, key %q)", i, ref, ref.Key)
		have, ok := data(ref)
		content, keyed := have[ref.Key]
		switch {
		case (!ok || !keyed) && ref.Optional:
			continue
		case !ok:
			return nil, valuesFault(where, fmt.Errorf("there is no %s", ref), "make it, or set optional")
		case !keyed:
			return nil, valuesFault(where, fmt.Errorf("%s has no such key", ref), "add the key, correct valuesKey, or set optional")
		}
		if ref.Path != "" {
			values = chartutil.MergeMaps(values, inline)
			if err := SetValue(values, ref, string(content)); err != nil {
				return nil, valuesFault(where, fmt.Errorf("the value cannot be set at %q", ref.Path), "values are read as by helm --set; literal takes them as they are")
			}
			continue
		}
		document := map[string]any{}
		if err := yaml.Unmarshal(content, &document); err != nil {
			return nil, valuesFault(where, fmt.Errorf("not a YAML map of values%s", atLine(err)), "set targetPath for a single value")
		}
		values = chartutil.MergeMaps(values, document)
	}
	return chartutil.MergeMaps(values, inline), nil
}

// SetValue sets the value that a reference with a path is to. strvals may panic over paths that nobody would write.
func SetValue(values map[string]any, ref delivery.ValuesRef, value string) (err error) {
	defer func() {
		if recover() != nil {
			err = fmt.Errorf("not a path: %q", ref.Path)
		}
	}()
	if ref.Literal {
		return chartutil.ReplacePathLiteralValue(values, ref.Path, value)
	}
	return chartutil.ReplacePathValue(values, ref.Path, value)
}

func valuesFault(where string, err error, hint string) error {
	return &delivery.Fault{Reason: ReasonValues, Where: where, Hint: hint, Retry: delivery.OnEvent, Err: err}
}

var yamlLine = regexp.MustCompile(`line \d+`)

// atLine is where in a document an error is, without its text, which may quote the document.
func atLine(err error) string {
	if line := yamlLine.FindString(err.Error()); line != "" {
		return ", at " + strings.TrimSpace(line)
	}
	return ""
}

// ValuesDigest identifies the values of a release as upstream does in a status: the SHA-256 of their YAML with sorted keys; that of
// nothing, where there are none.
func ValuesDigest(values map[string]any) string {
	return chartutil.DigestValues(digest.SHA256, values).String()
}
