package config

import (
	"strings"

	"keelson.dev/keelson/internal/pipeline"
)

// maxEnvironmentURL is GitLab's, in characters.
const maxEnvironmentURL = 255

func (v value) environment() *pipeline.Environment {
	switch v.Kind {
	case String:
		v.environmentName()
		return &pipeline.Environment{Name: v.Text}
	case Map:
	default:
		v.wrong("config should be a hash or a string")
		return nil
	}
	v.allow("name", "url", "action", "on_stop", "auto_stop_in", "kubernetes", "deployment_tier")
	e := &pipeline.Environment{
		URL:        v.field("url").string(),
		OnStop:     v.field("on_stop").string(),
		Action:     v.field("action").oneOf("start", "stop", "prepare", "verify", "access"),
		AutoStopIn: v.field("auto_stop_in").anyDuration(),
		Tier:       v.field("deployment_tier").string(),
	}
	if e.Name = v.field("name").required(); e.Name != "" {
		v.field("name").environmentName()
	}
	if e.URL != "" && !strings.HasPrefix(e.URL, "http://") && !strings.HasPrefix(e.URL, "https://") && !strings.HasPrefix(e.URL, "$") {
		v.field("url").warn(codeNoEffect, "begin it with https://", "is not shown: %s is no URL with http or https", quoted(e.URL))
	}
	if len([]rune(e.URL)) > maxEnvironmentURL {
		v.field("url").fail(codeLimit, "is too long (maximum is %d characters)", maxEnvironmentURL)
	}
	if e.Tier != "" && !strings.Contains(e.Tier, "$") {
		v.field("deployment_tier").oneOf("production", "staging", "testing", "development", "other")
	}
	if kubernetes := v.field("kubernetes"); kubernetes.set() {
		e.Kubernetes = kubernetes.kubernetes()
	}
	return e
}

func (v value) environmentName() {
	name := v.Text
	ok := name != "" && !strings.HasPrefix(name, "/") && !strings.HasSuffix(name, "/")
	for i := range len(name) {
		c := name[i]
		ok = ok && (isWord(c) || strings.IndexByte(`/\${}. -`, c) >= 0)
	}
	if !ok {
		v.fail(codeValue, "name can contain only letters, digits, '-', '_', '/', '$', '{', '}', '.', and spaces, but it cannot start or end with '/', found %s", quoted(name))
	}
}

// kubernetes decodes environment:kubernetes.
func (v value) kubernetes() map[string]any {
	if !v.isMap("should be a hash") {
		return nil
	}
	if len(v.Pairs) == 0 {
		v.fail(codeRequired, "config can't be blank")
	}
	v.allow("agent", "namespace", "flux_resource_path", "managed_resources", "dashboard")
	agent, namespace, flux := v.field("agent").string(), v.field("namespace").string(), v.field("flux_resource_path").string()
	needsAgent := flux != ""
	if flux != "" && namespace == "" {
		v.fail(codeRequired, "namespace can't be blank")
	}
	for key, text := range map[string]string{"namespace": namespace, "flux_resource_path": flux} {
		if text != "" {
			v.field(key).warn(codeDeprecated, "use `dashboard:"+key+"`", "is deprecated")
		}
	}
	if managed := v.field("managed_resources"); managed.set() && managed.isMap("should be a hash") {
		managed.allow("enabled")
		needsAgent = managed.field("enabled").boolean() || needsAgent
	}
	if dashboard := v.field("dashboard"); dashboard.set() && dashboard.isMap("should be a hash") {
		dashboard.allow("namespace", "flux_resource_path")
		needsAgent = needsAgent || len(dashboard.Pairs) > 0
		for key, text := range map[string]string{"namespace": namespace, "flux_resource_path": flux} {
			if dashboard.field(key).string() != "" && text != "" {
				v.field(key).fail(codeConflict, "cannot be specified when dashboard.%s is set", key)
			}
		}
	}
	if needsAgent && agent == "" {
		v.fail(codeRequired, "agent can't be blank")
	}
	all, _ := goValue(v.Node).(map[string]any)
	return all
}
