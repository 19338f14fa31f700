// Package artifact keeps what jobs leave behind: artifacts, caches and reports, in a content-addressed store.
package artifact
