package config

import (
	"strings"
	"time"

	"keelson.dev/keelson/internal/pipeline"
)

func (v value) release() *pipeline.Release {
	if !v.isMap("config should be a hash") {
		return nil
	}
	v.allow("tag_name", "tag_message", "name", "description", "ref", "released_at", "milestones", "assets")
	r := &pipeline.Release{
		TagName:     v.field("tag_name").required(),
		TagMessage:  v.field("tag_message").string(),
		Name:        v.field("name").string(),
		Description: v.field("description").required(),
		Ref:         v.field("ref").string(),
		Milestones:  v.field("milestones").stringsOrString(),
		ReleasedAt:  v.field("released_at").string(),
	}
	if r.ReleasedAt != "" && !isISOTime(r.ReleasedAt) && !strings.Contains(r.ReleasedAt, "$") {
		v.field("released_at").hint(codeValue, `such as "2026-03-15T08:00:00Z"`, "must be a valid datetime, found %s", quoted(r.ReleasedAt))
	}
	if r.Ref != "" && strings.ContainsAny(r.Ref, " ~^:?*[\\") && !strings.Contains(r.Ref, "$") {
		v.field("ref").fail(codeValue, "must be a valid ref, found %s", quoted(r.Ref))
	}
	assets := v.field("assets")
	if !assets.set() || !assets.isMap("config should be a hash") {
		return r
	}
	assets.allow("links")
	links := assets.field("links")
	if !links.set() || links.Kind != List || len(links.Items) == 0 {
		links.fail(codeRequired, "config should be an array of links, found %s", links.described())
	}
	for _, item := range links.items() {
		if !item.isMap("link config should be a hash") {
			continue
		}
		item.allow("name", "url", "filepath", "link_type")
		r.Links = append(r.Links, pipeline.Link{
			Name:     item.field("name").required(),
			URL:      item.field("url").required(),
			FilePath: item.field("filepath").string(),
			LinkType: item.field("link_type").oneOf("runbook", "package", "image", "other"),
		})
	}
	return r
}

// isISOTime tells whether a text is a date, or a date with a time, of ISO 8601.
func isISOTime(text string) bool {
	for _, layout := range []string{time.RFC3339, "2006-01-02T15:04:05", "2006-01-02T15:04Z07:00", "2006-01-02T15:04", "2006-01-02", "20060102T150405Z0700", "20060102"} {
		if _, err := time.Parse(layout, text); err == nil {
			return true
		}
	}
	return false
}
