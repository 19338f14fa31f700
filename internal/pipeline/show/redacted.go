package show

import (
	"reflect"
	"slices"

	"keelson.dev/keelson/internal/pipeline"
	"keelson.dev/keelson/internal/redact"
)

// Secrets are the values that are never shown: those of masked variables, with what they refer to, and the slug of an environment
// whose name holds one.
func Secrets(variables pipeline.Variables) []string {
	var values []string
	for _, v := range variables {
		if !v.Masked || v.Value == "" {
			continue
		}
		values = append(values, v.Value)
		if expanded := variables.Expand(v.Value); !v.Raw && expanded != v.Value {
			values = append(values, expanded)
		}
	}
	if len(values) == 0 {
		return nil
	}
	if name, _ := variables.Get("CI_ENVIRONMENT_NAME"); redact.NewStream(nil, values...).Text(name.Value) != name.Value {
		slug, _ := variables.Get("CI_ENVIRONMENT_SLUG")
		values = append(values, slug.Value)
	}
	return values
}

// Redacted is a deep copy of v without some values, in whatever text they are; texts of a type of their own, as statuses, and the
// keys of maps stay.
func Redacted[T any](v T, secrets []string) T {
	if len(secrets) == 0 {
		return v
	}
	secrets = slices.Clone(secrets)
	slices.Sort(secrets)
	stream := redact.NewStream(nil, slices.Compact(secrets)...)
	out := reflect.New(reflect.TypeFor[T]()).Elem()
	out.Set(redacted(reflect.ValueOf(&v).Elem(), stream))
	return out.Interface().(T) //nolint:forcetypeassert // it was made so
}

func redacted(v reflect.Value, secrets *redact.Stream) reflect.Value {
	switch v.Kind() {
	case reflect.String:
		if v.Type() != reflect.TypeFor[string]() {
			return v
		}
		return reflect.ValueOf(secrets.Text(v.String()))
	case reflect.Pointer, reflect.Interface:
		if v.IsNil() {
			return v
		}
		out := reflect.New(v.Type()).Elem()
		if v.Kind() == reflect.Interface {
			out.Set(redacted(v.Elem(), secrets))
			return out
		}
		out.Set(reflect.New(v.Type().Elem()))
		out.Elem().Set(redacted(v.Elem(), secrets))
		return out
	case reflect.Slice:
		if v.IsNil() {
			return v
		}
		out := reflect.MakeSlice(v.Type(), v.Len(), v.Len())
		for i := range v.Len() {
			out.Index(i).Set(redacted(v.Index(i), secrets))
		}
		return out
	case reflect.Map:
		if v.IsNil() {
			return v
		}
		out := reflect.MakeMapWithSize(v.Type(), v.Len())
		for key, value := range v.Seq2() {
			out.SetMapIndex(key, redacted(value, secrets))
		}
		return out
	case reflect.Struct:
		out := reflect.New(v.Type()).Elem()
		out.Set(v)
		for i := range v.NumField() {
			if v.Type().Field(i).IsExported() {
				out.Field(i).Set(redacted(v.Field(i), secrets))
			}
		}
		return out
	}
	return v
}
