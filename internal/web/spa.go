package web

import (
	"bytes"
	"compress/gzip"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"mime"
	"net/http"
	"path"
	"slices"
	"strings"
)

// policy lets the dashboard load from here only what it is made of, and nothing from elsewhere; there are no inline scripts and styles.
const policy = "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self' data:; font-src 'self'; " +
	"worker-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"

// forever lets browsers keep a file: its name has a hash of what it holds.
const forever = "public, max-age=31536000, immutable"

// pages are the beginnings of the dashboard's addresses (web/src/app.tsx).
var pages = []string{"", "apps", "sources", "pipelines", "environments", "drift", "audit", "history"}

// notBuilt is the page of a program that was built without the dashboard.
const notBuilt = `<!doctype html>
<html lang="en"><meta charset="utf-8"><meta name="color-scheme" content="light dark"><title>Keelson</title>
<h1>Keelson</h1>
<p>The dashboard is not in this program: run <code>make build</code>, which builds it in. Everything else works:
<a href="/api/apps">/api/apps</a>, <a href="/api/sources">/api/sources</a> and the command line.</p>
`

// spa serves the dashboard. Its pages all have the same file; which one is shown is decided in the browser from the address.
type spa struct{ files fs.FS }

func (s spa) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Content-Security-Policy", policy)
	name := strings.TrimPrefix(path.Clean(r.URL.Path), "/")
	switch {
	case r.Method != http.MethodGet && r.Method != http.MethodHead:
		w.Header().Set("Allow", "GET, HEAD")
		refuse(w, http.StatusMethodNotAllowed, fmt.Errorf("/%s can only be read", name))
	case strings.HasPrefix(name, "api/"):
		refuse(w, http.StatusNotFound, fmt.Errorf("there is nothing at /%s", name))
	case strings.HasPrefix(name, "assets/"):
		s.file(w, r, name, forever, http.StatusOK)
	case name == "favicon.svg":
		s.file(w, r, name, "max-age=3600", http.StatusOK)
	case slices.Contains(pages, strings.SplitN(name, "/", 2)[0]):
		s.file(w, r, "index.html", "no-cache", http.StatusOK)
	case strings.Contains(r.Header.Get("Accept"), "text/html"): // the dashboard says in its own way that there is no such page
		s.file(w, r, "index.html", "no-cache", http.StatusNotFound)
	default:
		refuse(w, http.StatusNotFound, fmt.Errorf("there is nothing at /%s", name))
	}
}

// file sends a file, which is kept compressed, as it is to whoever takes that.
func (s spa) file(w http.ResponseWriter, r *http.Request, name, caching string, status int) {
	packed, err := s.read(name + ".gz")
	if errors.Is(err, fs.ErrNotExist) && name == "index.html" {
		w.Header().Set("Content-Type", "text/html; charset=utf-8")
		_, _ = io.WriteString(w, notBuilt) // the browser may be gone
		return
	}
	if err != nil {
		refuse(w, http.StatusNotFound, fmt.Errorf("there is nothing at /%s", name))
		return
	}
	h := w.Header()
	h.Set("Content-Type", mime.TypeByExtension(path.Ext(name)))
	h.Set("Cache-Control", caching)
	h.Set("Vary", "Accept-Encoding")
	if takesGzip(r) {
		h.Set("Content-Encoding", "gzip")
		h.Set("Content-Length", fmt.Sprint(len(packed)))
		w.WriteHeader(status)
		_, _ = w.Write(packed)
		return
	}
	plain, err := gzip.NewReader(bytes.NewReader(packed))
	if err != nil {
		refuse(w, http.StatusInternalServerError, fmt.Errorf("/%s is damaged in this program: build it again", name))
		return
	}
	w.WriteHeader(status)
	_, _ = io.Copy(w, plain)
}

func (s spa) read(name string) ([]byte, error) {
	if s.files == nil {
		return nil, fs.ErrNotExist
	}
	return fs.ReadFile(s.files, name)
}

// takesGzip tells whether an answer may be compressed.
func takesGzip(r *http.Request) bool {
	for part := range strings.SplitSeq(r.Header.Get("Accept-Encoding"), ",") {
		coding, quality, _ := strings.Cut(part, ";")
		if name := strings.TrimSpace(coding); name == "gzip" || name == "*" {
			return strings.Trim(strings.TrimPrefix(strings.TrimSpace(quality), "q="), "0.") != "" || quality == ""
		}
	}
	return false
}
