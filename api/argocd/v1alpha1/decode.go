package v1alpha1

import (
	"errors"
	"strings"

	"sigs.k8s.io/json"
)

// UnmarshalJSON implements [encoding/json.Unmarshaler] and fills Unknown.
func (a *Application) UnmarshalJSON(data []byte) error {
	type plain Application
	unknown, err := decode(data, (*plain)(a), "spec", "operation")
	a.Unknown = unknown
	return err
}

// UnmarshalJSON implements [encoding/json.Unmarshaler] and fills Unknown.
func (p *AppProject) UnmarshalJSON(data []byte) error {
	type plain AppProject
	unknown, err := decode(data, (*plain)(p), "spec")
	p.Unknown = unknown
	return err
}

// UnmarshalJSON implements [encoding/json.Unmarshaler] and fills Unknown.
func (s *ApplicationSet) UnmarshalJSON(data []byte) error {
	type plain ApplicationSet
	unknown, err := decode(data, (*plain)(s), "spec")
	s.Unknown = unknown
	return err
}

// decode reads an object as the API machinery does (case-sensitive, whole numbers stay integers) and names the fields below
// any of roots that into has not.
func decode(data []byte, into any, roots ...string) (unknown []string, err error) {
	strict, err := json.UnmarshalStrict(data, into)
	if err != nil {
		return nil, err
	}
	for _, e := range strict {
		var field json.FieldError
		if !errors.As(e, &field) {
			continue
		}
		for _, root := range roots {
			if strings.HasPrefix(field.FieldPath(), root+".") || strings.HasPrefix(field.FieldPath(), root+"[") {
				unknown = append(unknown, field.FieldPath())
			}
		}
	}
	return unknown, nil
}
