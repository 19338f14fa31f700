package config

import (
	"embed"
	"io/fs"
	"slices"
	"strconv"
	"strings"

	"keelson.dev/keelson/internal/pipeline"
)

// templateFiles are the templates that every installation has. Those with the names of GitLab's mean the same.
//
//go:embed templates
var templateFiles embed.FS

const templateSuffix = ".gitlab-ci.yml"

// template reads include:template: one of ours, or one that Files knows.
func (r *reader) template(_ *frame, inc inclusion) ([]Source, error) {
	text, err := templateFiles.ReadFile("templates/" + inc.Template)
	if err == nil {
		return []Source{{Name: "template:" + inc.Template, Text: text}}, nil
	}
	if r.o.Files == nil {
		return nil, fs.ErrNotExist
	}
	return r.o.Files.Read(inc.Include, Source{})
}

// Templates are the names of the templates that include:template knows everywhere.
func Templates() []string {
	var names []string
	_ = fs.WalkDir(templateFiles, "templates", func(path string, d fs.DirEntry, _ error) error {
		if !d.IsDir() {
			names = append(names, strings.TrimPrefix(path, "templates/"))
		}
		return nil
	})
	slices.Sort(names)
	return names
}

// templateHint names the template that was likely meant, or says how to have one of GitLab's.
func templateHint(name string) string {
	stem := templateStem(name)
	stems := Templates()
	for i, known := range stems {
		stems[i] = templateStem(known)
	}
	if near := pipeline.Nearest(stem, stems); near != "" {
		return "did you mean `" + near + templateSuffix + "`?"
	}
	return "it is not one of the " + strconv.Itoa(len(stems)) + " that are here; one of GitLab's can be copied into the repository and included with `local`, or be included with " +
		"`remote: https://gitlab.com/gitlab-org/gitlab/-/raw/master/lib/gitlab/ci/templates/" + stem + templateSuffix + "`"
}

// templateStem is the name of a template without the end that all of them have, or that somebody takes for it.
func templateStem(name string) string {
	if stem, ok := strings.CutSuffix(name, templateSuffix); ok {
		return stem
	}
	return strings.TrimSuffix(strings.TrimSuffix(name, ".yml"), ".yaml")
}
