package config

import (
	"keelson.dev/keelson/internal/pipeline"
)

// maxParallel bounds what one job may be multiplied by.
const maxParallel = 200

// parallel decodes how many of a job there are.
func (v value) parallel() *pipeline.Parallel {
	p := &pipeline.Parallel{At: v.at()}
	switch v.Kind {
	case Int:
		n, ok := v.integer(1, maxParallel)
		if !ok {
			return nil
		}
		p.Count = n
	case Float:
		v.fail(codeType, "config must be an integer, found %s", v.described())
		return nil
	case Map:
		v.allow("matrix")
		if !v.field("matrix").set() {
			v.fail(codeRequired, "config missing required keys: matrix")
			return nil
		}
		if p.Matrix = v.field("matrix").matrix(); p.Matrix == nil {
			return nil
		}
	default:
		v.wrong("should be an integer or a hash")
		return nil
	}
	return p
}

// matrix decodes the sets of variables of parallel:matrix.
func (v value) matrix() []pipeline.MatrixSet {
	if !v.set() {
		v.fail(codeRequired, "can't be blank")
		return nil
	}
	if v.Kind != List {
		v.wrong("config should be an array of hashes")
		return nil
	}
	if len(v.Items) == 0 {
		v.fail(codeRequired, "config can't be blank")
		return nil
	}
	var sets []pipeline.MatrixSet
	total := 0
	for _, item := range v.items() {
		if item.Node == nil || item.Kind != Map {
			item.wrong("config should be an array of hashes")
			continue
		}
		if len(item.Pairs) == 0 {
			item.fail(codeRequired, "config requires at least 1 item")
			continue
		}
		set, count := item.matrixSet()
		sets = append(sets, set)
		total = min(total+count, maxParallel+1)
	}
	if total > maxParallel {
		v.fail(codeLimit, "config generates too many jobs (maximum is %d)", maxParallel)
		return nil
	}
	return sets
}

// matrixSet decodes one set, and counts its combinations as far as the limit.
func (v value) matrixSet() (pipeline.MatrixSet, int) {
	const should = "config should be a hash of key value pairs, value can be an array"
	set := make(pipeline.MatrixSet, 0, len(v.Pairs))
	count := 1
	for _, f := range v.fields() {
		variable := pipeline.MatrixVariable{Name: f.key(), At: f.at()}
		if !isIdentifier(f.key()) {
			f.warn(codeVariable, "use letters, digits and underscores", "is a name that no shell can use")
		}
		items := []value{f}
		if f.Node != nil && f.Kind == List {
			items = f.items()
		}
		for _, item := range items {
			if !item.set() || !item.IsScalar() {
				item.wrong(should)
				continue
			}
			item.changed("")
			variable.Values = append(variable.Values, item.Text)
		}
		if len(variable.Values) == 0 {
			if len(items) == 0 {
				f.fail(codeRequired, "%s, found an empty list", should)
			}
			continue
		}
		set = append(set, variable)
		count = min(count*len(variable.Values), maxParallel+1)
	}
	return set, count
}
