package main

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"

	keelsonv1 "keelson.dev/keelson/api/v1alpha1"
	"keelson.dev/keelson/internal/pipeline"
	"keelson.dev/keelson/internal/pipeline/show"
	"keelson.dev/keelson/internal/web"
)

func isNumber(text string) bool {
	_, err := strconv.ParseInt(text, 10, 64)
	return err == nil
}

// runCISettings shows the variables in the settings of a project.
func runCISettings(ctx context.Context, g *global, project string) error {
	return g.showSettings(ctx, "projects/variables?project="+url.QueryEscape(project), "the variables of project "+project)
}

// runCIVariablesOf shows the variables of a pipeline of the instance, or of one of its jobs.
func runCIVariablesOf(ctx context.Context, g *global, a []string) error {
	p, err := g.pipelineOf(ctx, a[0])
	if err != nil {
		return err
	}
	path := fmt.Sprintf("pipelines/%d/variables", p.ID)
	if len(a) > 1 {
		j, err := jobOf(p, a[1])
		if err != nil {
			return err
		}
		path += "?job=" + url.QueryEscape(j.Name)
	}
	return g.showSettings(ctx, path, "the variables of pipeline "+a[0])
}

func (g *global) showSettings(ctx context.Context, path, what string) error {
	var list web.SettingList
	if _, err := g.callAPI(ctx, http.MethodGet, web.PipelinesPath+path, nil, &list); err != nil {
		return fmt.Errorf("%s: %w", what, err)
	}
	return g.print(list, func(w io.Writer) error { return show.SettingsTable(w, list.Variables) })
}

// settings gives the variables that a project has in its settings. No value of a Secret is among them, masked or not.
func (l *lazyProjects) settings(ctx context.Context, path string) ([]show.Setting, error) {
	all, err := l.all(ctx)
	if err != nil {
		return nil, err
	}
	for i := range all {
		if pathOf(all[i]) == path {
			return settingsOf(all[i]), nil
		}
	}
	if _, err := l.Named(ctx, path); err != nil {
		return nil, fmt.Errorf("project %s: %w", path, err)
	}
	return nil, nil // a repository without a Project
}

func settingsOf(p keelsonv1.Project) []show.Setting {
	var out []show.Setting
	for _, v := range p.Spec.Variables {
		s := show.Settings(pipeline.Variables{{
			Name: v.Name, Value: v.Value, File: v.Type == "file", Protected: v.Protected, Scope: v.Environment, Raw: v.Expand != nil && !*v.Expand,
			Masked: v.Masked != nil && *v.Masked, Origin: pipeline.OriginProject,
		}})[0]
		switch from := v.ValueFrom; {
		case from == nil:
		case from.SecretKeyRef != nil:
			s.Masked = v.Masked == nil || *v.Masked
			s.Value, s.Hidden = "", fmt.Sprintf("Secret %s, key %s", from.SecretKeyRef.Name, from.SecretKeyRef.Key)
		case from.ConfigMapKeyRef != nil:
			s.Value, s.Hidden = "", fmt.Sprintf("ConfigMap %s, key %s", from.ConfigMapKeyRef.Name, from.ConfigMapKeyRef.Key)
		}
		out = append(out, s)
	}
	return out
}

// leave ends the streams of those who follow something: the server of requests is about to end, and waits for them.
func (l *lazyPipelines) leave() {
	if s := l.get(); s != nil {
		close(s.leaving)
	}
}
