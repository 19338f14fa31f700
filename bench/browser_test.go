package main

import (
	"bytes"
	"compress/gzip"
	"testing"
	"testing/fstest"

	dashboard "keelson.dev/keelson/web"
)

// TestWebSizes: the first page is what index.html names, each once; the rest is only part of the whole.
func TestWebSizes(t *testing.T) {
	var packed bytes.Buffer
	w := gzip.NewWriter(&packed)
	_, err := w.Write([]byte(`<link rel="icon" href="/favicon.svg"><link rel="modulepreload" href="/assets/base.js"><script src="/assets/base.js"></script><a href="https://example.com/">`))
	if err != nil || w.Close() != nil {
		t.Fatal(err)
	}
	files := func(n int) *fstest.MapFile { return &fstest.MapFile{Data: make([]byte, n)} }
	built := fstest.MapFS{
		"README": files(7), "index.html.gz": {Data: packed.Bytes()}, "favicon.svg.gz": files(10), "assets/base.js.gz": files(1000), "assets/tree.js.gz": files(50000),
	}
	page := float64(packed.Len())
	if first, whole, err := webSizes(built); first != page+1010 || whole != page+51010 || err != nil {
		t.Errorf("%v first, %v in all, %v", first-page, whole-page, err)
	}
	delete(built, "assets/base.js.gz")
	if _, _, err := webSizes(built); err == nil {
		t.Error("what is named is not there, and no error")
	}
	if first, whole, err := webSizes(fstest.MapFS{"README": files(7)}); first != 0 || whole != 0 || err != nil {
		t.Errorf("of what is not built: %v, %v, %v", first, whole, err)
	}
	first, whole, err := webSizes(dashboard.Files())
	if err != nil || first > whole {
		t.Errorf("of the dashboard: %v, %v, %v", first, whole, err)
	}
	t.Logf("the dashboard: %.0f KiB of %.0f KiB", first/1024, whole/1024)
}
