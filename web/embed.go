// Package web holds the dashboard as make build has made it.
package web

import (
	"embed"
	"io/fs"
)

//go:embed all:dist
var dist embed.FS

// Files gives the built dashboard: index.html, and what it loads under assets/, each file as FILE.gz only. Before the first
// make build there is no index.html.
func Files() fs.FS {
	files, err := fs.Sub(dist, "dist")
	if err != nil {
		panic(err) // the name is a constant
	}
	return files
}
