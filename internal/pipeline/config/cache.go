package config

import (
	"net/url"
	"strings"

	"keelson.dev/keelson/internal/pipeline"
)

const (
	maxCaches       = 4 // of a job
	maxKeyFiles     = 2
	maxFallbackKeys = 5
)

// caches decodes one cache or a list of them. One without anything in it says that there is none.
func (v value) caches() []pipeline.Cache {
	items := []value{v}
	switch v.Kind {
	case Map:
	case List:
		if items = v.items(); len(items) > maxCaches {
			v.fail(codeLimit, "config no more than %d caches can be created", maxCaches)
			return nil
		}
	default:
		v.wrong("config can only be a Hash or an Array")
		return nil
	}
	caches := make([]pipeline.Cache, 0, len(items))
	for _, item := range items {
		if !item.isMap("config should be a hash") || len(item.Pairs) == 0 {
			continue
		}
		caches = append(caches, item.cache())
	}
	return caches
}

func (v value) cache() pipeline.Cache {
	known := v.allow("key", "untracked", "paths", "when", "policy", "unprotect", "fallback_keys")
	c := pipeline.Cache{
		Paths:     v.field("paths").strings(),
		Untracked: v.field("untracked").boolean(),
		Unprotect: v.field("unprotect").boolean(),
		When:      pipeline.When(v.field("when").oneOf("on_success", "on_failure", "always")),
		Policy:    v.field("policy").string(),
	}
	switch c.Policy {
	case "", "pull-push", "pull", "push":
	default:
		if !strings.HasPrefix(c.Policy, "$") {
			v.field("policy").hint(codeValue, pipeline.DidYouMean(c.Policy, []string{"pull-push", "pull", "push"}),
				"should be a variable or one of: pull-push, push, pull, found %s", quoted(c.Policy))
			c.Policy = ""
		}
	}
	v.field("paths").checkPaths()
	v.field("key").cacheKey(&c)
	if c.FallbackKeys = v.field("fallback_keys").strings(); len(c.FallbackKeys) > maxFallbackKeys {
		v.field("fallback_keys").fail(codeLimit, "has too many entries (maximum %d)", maxFallbackKeys)
		c.FallbackKeys = c.FallbackKeys[:maxFallbackKeys]
	}
	if known && !v.field("paths").set() && !v.field("untracked").set() {
		v.warn(codeNoEffect, "add `paths`", "has no paths, so nothing is cached")
	}
	return c
}

// cacheKey is a text, or what files say.
func (v value) cacheKey(c *pipeline.Cache) {
	if !v.set() {
		c.Key = "default"
		return
	}
	switch v.Kind {
	case String:
		c.Key = v.Text
		v.checkKey()
	case Map:
		v.allow("files", "files_commits", "prefix")
		files, commits := v.field("files"), v.field("files_commits")
		if (v.Get("files") != nil) == (v.Get("files_commits") != nil) {
			v.fail(codeRequired, "config must use exactly one of these keys: files, files_commits")
		}
		c.KeyFiles, c.KeyCommits = files.keyFiles(), commits.keyFiles()
		if prefix := v.field("prefix"); prefix.set() {
			if c.KeyPrefix = prefix.string(); prefix.Kind == String {
				prefix.checkKey()
			}
		}
	default:
		v.wrong("should be a hash, a string or a symbol")
	}
}

// checkKey checks that a key is no path.
func (v value) checkKey() {
	text := v.Text
	if unescaped, err := url.QueryUnescape(text); err == nil {
		text = unescaped
	}
	switch {
	case strings.Contains(text, "/"):
		v.hint(codeValue, "use variables such as $CI_COMMIT_REF_SLUG, which have no slash", `config cannot contain the "/" character, found %s`, quoted(v.Text))
	case text == "." || text == "..":
		v.fail(codeValue, `config cannot be "." or ".."`)
	}
}

func (v value) keyFiles() []string {
	if v.Node == nil {
		return nil
	}
	files := v.strings()
	switch {
	case v.set() && v.Kind != List:
	case len(v.Items) == 0:
		v.fail(codeRequired, "config requires at least 1 item")
	case len(v.Items) > maxKeyFiles:
		v.fail(codeLimit, "config has too many items (maximum is %d)", maxKeyFiles)
		return nil
	}
	for i, f := range files {
		files[i] = strings.TrimLeft(f, "/")
	}
	return files
}
