package health

import (
	"fmt"
	"strings"
)

// fields reads the fields of an object, or of a part of it. The first one that is of another type than its kind has it is told.
type fields struct {
	object map[string]any
	where  string // within the object: "status.conditions[0]."
	err    *error
}

func (f fields) wrong(value any, want string, at []string) {
	if *f.err == nil {
		*f.err = fmt.Errorf("%s%s is not %s but %T", f.where, strings.Join(at, "."), want, value)
	}
}

// at gives what is at a path; nil: nothing.
func (f fields) at(at ...string) any {
	value := any(f.object)
	for i, name := range at {
		m, ok := value.(map[string]any)
		if !ok {
			f.wrong(value, "an object", at[:i])
			return nil
		}
		if value = m[name]; value == nil {
			return nil
		}
	}
	return value
}

func (f fields) text(at ...string) string {
	value := f.at(at...)
	text, ok := value.(string)
	if !ok && value != nil {
		f.wrong(value, "a text", at)
	}
	return text
}

func (f fields) flag(at ...string) bool {
	value := f.at(at...)
	flag, ok := value.(bool)
	if !ok && value != nil {
		f.wrong(value, "true or false", at)
	}
	return flag
}

// number gives a whole number, or what stands for none.
func (f fields) number(none int64, at ...string) int64 {
	switch v := f.at(at...).(type) {
	case nil:
		return none
	case int64:
		return v
	default:
		f.wrong(v, "a whole number", at)
		return none
	}
}

func (f fields) list(at ...string) []any {
	value := f.at(at...)
	list, ok := value.([]any)
	if !ok && value != nil {
		f.wrong(value, "a list", at)
	}
	return list
}

// objects are the items of a list.
func (f fields) objects(at ...string) []fields {
	list := f.list(at...)
	out := make([]fields, 0, len(list))
	for i, item := range list {
		where := fmt.Sprintf("%s%s[%d]", f.where, strings.Join(at, "."), i)
		m, ok := item.(map[string]any)
		if !ok {
			if *f.err == nil {
				*f.err = fmt.Errorf("%s is not an object but %T", where, item)
			}
			continue
		}
		out = append(out, fields{object: m, where: where + ".", err: f.err})
	}
	return out
}

// condition is one of status.conditions.
type condition struct{ kind, status, reason, message string }

func (f fields) conditions() []condition {
	list := f.objects("status", "conditions")
	out := make([]condition, len(list))
	for i, c := range list {
		out[i] = condition{c.text("type"), c.text("status"), c.text("reason"), c.text("message")}
	}
	return out
}
