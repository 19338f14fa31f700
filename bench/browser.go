package main

import (
	"bytes"
	"compress/gzip"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"

	dashboard "keelson.dev/keelson/web"
)

// The script that makes visits, from the root of the repository; it says what each field means.
const visitScript = "web/tests/speed.mjs"

// How the list of apps is scrolled through: by three rows a frame.
const (
	scrollFrames = 120
	scrollStep   = 156
)

type visits struct {
	Rounds int     `json:"rounds"`
	Visits []visit `json:"visits"`
}

type visit struct {
	Name    string            `json:"name"`
	URL     string            `json:"url"`
	Headers map[string]string `json:"headers,omitempty"`
	Ready   string            `json:"ready,omitempty"`
	End     string            `json:"end,omitempty"`
	Fetch   string            `json:"fetch,omitempty"`
	Scroll  *scroll           `json:"scroll,omitempty"`
}

type scroll struct {
	Selector string `json:"selector"`
	Frames   int    `json:"frames"`
	Step     int    `json:"step"`
}

// visited is what came of a visit; times are milliseconds.
type visited struct {
	Name       string    `json:"name"`
	Ready      float64   `json:"ready"`
	End        float64   `json:"end"`
	Contentful float64   `json:"contentful"` // the first paint of anything
	Took       float64   `json:"took"`       // of a fetch
	CPU        float64   `json:"cpu"`        // of the main thread
	Frame      float64   `json:"frame"`      // of the main thread, for each frame of a scroll
	Gaps       []float64 `json:"gaps"`       // between frames
	Blank      int       `json:"blank"`      // frames without rows
	Requests   int       `json:"requests"`
	Bytes      int       `json:"bytes"`
	Size       int64     `json:"size"` // of a fetch
	Nodes      int       `json:"nodes"`
	Steps      []string  `json:"steps"`
}

// samplesOf gives a figure of each visit of a name.
func samplesOf(all []visited, name string, figure func(visited) float64) (samples []float64) {
	for _, v := range all {
		if v.Name == name {
			samples = append(samples, figure(v))
		}
	}
	return samples
}

// noBrowser says why pages cannot be opened here; empty: they can.
func noBrowser() string {
	if _, err := fs.Stat(dashboard.Files(), "index.html.gz"); err != nil {
		return "the dashboard is not built: make build, with Node.js 20.19 or newer"
	}
	for _, program := range []string{"node", "chromium"} {
		if _, err := exec.LookPath(program); err != nil {
			return "there is no " + program + " (Debian has packages of both: nodejs, chromium)"
		}
	}
	if _, err := os.Stat(filepath.Join("web", "node_modules", "playwright-core")); err != nil {
		return "web/node_modules is not there: make build fetches it; run bench in the root of the repository"
	}
	return ""
}

// visit opens pages in a browser, each round all of them in turn; the first round warms up.
func (b *bench) visit(ctx context.Context, all ...visit) ([]visited, error) {
	plan, err := json.Marshal(visits{Rounds: b.runs + 1, Visits: all})
	if err != nil {
		return nil, err
	}
	cmd := exec.CommandContext(ctx, "node", visitScript)
	cmd.Stdin, cmd.Env = bytes.NewReader(plan), os.Environ()
	out, err := output(ctx, cmd)
	if err != nil {
		return nil, fmt.Errorf("open pages in a browser: %w", err)
	}
	var seen []visited
	for d := json.NewDecoder(bytes.NewReader(out)); d.More(); {
		var v visited
		if err := d.Decode(&v); err != nil {
			return nil, fmt.Errorf("read what %s says: %w", visitScript, err)
		}
		seen = append(seen, v)
	}
	if len(seen) != (b.runs+1)*len(all) {
		return nil, fmt.Errorf("%s made %d visits, and not %d", visitScript, len(seen), (b.runs+1)*len(all))
	}
	return seen[len(all):], nil
}

// measureWebOpen opens the list of 10,000 apps in a browser, and scrolls through it. The floor is an empty page of the same server.
func (b *bench) measureWebOpen(ctx context.Context) error {
	if err := b.measureFirstLoad(); err != nil {
		return err
	}
	if why := noBrowser(); why != "" {
		say("NOT MEASURED: web-open: %s", why)
		return nil
	}
	base, _, _, err := b.startApps(ctx)
	if err != nil {
		return err
	}
	seen, err := b.visit(ctx,
		visit{Name: "apps", URL: base + "/", Ready: ".app-row", Scroll: &scroll{Selector: ".list", Frames: scrollFrames, Step: scrollStep}},
		visit{Name: "empty", URL: base + "/healthz", Ready: "body"},
	)
	if err != nil {
		return err
	}
	for _, v := range seen {
		if v.Name == "apps" && (len(v.Gaps) != scrollFrames || v.Blank > 0) {
			return fmt.Errorf("of %d frames of a scroll through the apps %d show no app", len(v.Gaps), v.Blank)
		}
	}
	var gaps []float64
	for _, v := range seen {
		gaps = append(gaps, v.Gaps...)
	}
	apps := fmt.Sprintf(", of %d apps", webApps)
	detail := map[string]any{"steps": seen[0].Steps}
	return errors.Join(
		b.add(Result{Name: "web-open", Unit: "ms", Target: target(1000), Floor: "web-open-floor", Detail: detail, What: "the dashboard is opened, with an empty cache, until its first apps are seen" + apps},
			samplesOf(seen, "apps", func(v visited) float64 { return v.Ready })),
		b.add(Result{Name: "web-open-floor", Unit: "ms", What: "the same of an empty page of the same server"}, samplesOf(seen, "empty", func(v visited) float64 { return v.Ready })),
		b.add(Result{Name: "web-open-cpu", Unit: "ms", What: "CPU time of the page's main thread in that time"}, samplesOf(seen, "apps", func(v visited) float64 { return v.CPU })),
		b.add(Result{Name: "web-open-kib", Unit: "KiB", What: "what is sent until then, as it is on the wire"}, samplesOf(seen, "apps", func(v visited) float64 { return float64(v.Bytes) / 1024 })),
		b.add(Result{Name: "web-open-requests", Unit: "requests", What: "requests until then"}, samplesOf(seen, "apps", func(v visited) float64 { return float64(v.Requests) })),
		b.add(Result{Name: "web-open-nodes", Unit: "nodes", What: "nodes of the page then"}, samplesOf(seen, "apps", func(v visited) float64 { return float64(v.Nodes) })),
		b.add(Result{Name: "web-scroll", Unit: "ms", Target: target(17), What: "from one frame to the next, when the list is scrolled by three rows each frame" + apps}, gaps),
		b.add(Result{Name: "web-scroll-cpu", Unit: "ms", Target: target(16), What: "CPU time of the page's main thread for each of these frames; 16 is all there is at 60 a second"},
			samplesOf(seen, "apps", func(v visited) float64 { return v.Frame })),
	)
}

// named finds what a page names of its own: scripts, styles, what is loaded ahead, pictures.
var named = regexp.MustCompile(`(?:src|href)="/([^"]+)"`)

// measureFirstLoad takes the size of what the first page is made of, index.html and what that names, and of the whole dashboard, as they are sent.
func (b *bench) measureFirstLoad() error {
	first, whole, err := webSizes(dashboard.Files())
	if err != nil || whole == 0 {
		return err // nothing is built
	}
	return errors.Join(
		b.add(Result{Name: "web-first", Unit: "KiB", Target: target(500), What: "the first page of the dashboard: index.html and all that it names, compressed as it is sent"}, []float64{first / 1024}),
		b.add(Result{Name: "web-size", Unit: "KiB", What: "the whole dashboard, all its pages, compressed as it is sent"}, []float64{whole / 1024}),
	)
}

// webSizes gives how many bytes the first page of a built dashboard has, and all of it; none: it is not built.
func webSizes(files fs.FS) (first, whole float64, err error) {
	sizes := map[string]float64{}
	err = fs.WalkDir(files, ".", func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() || !strings.HasSuffix(path, ".gz") {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		sizes[strings.TrimSuffix(path, ".gz")] = float64(info.Size())
		whole += float64(info.Size())
		return nil
	})
	if err != nil || whole == 0 {
		return 0, 0, err
	}
	packed, err := files.Open("index.html.gz")
	if err != nil {
		return 0, 0, err
	}
	defer packed.Close()
	r, err := gzip.NewReader(packed)
	if err != nil {
		return 0, 0, err
	}
	page, err := io.ReadAll(r)
	if err != nil {
		return 0, 0, err
	}
	first = sizes["index.html"]
	seen := map[string]bool{}
	for _, m := range named.FindAllStringSubmatch(string(page), -1) {
		size, ok := sizes[m[1]]
		if !ok {
			return 0, 0, fmt.Errorf("index.html names %s, which is not there", m[1])
		}
		if !seen[m[1]] {
			seen[m[1]] = true
			first += size
		}
	}
	return first, whole, nil
}

// measureWebLog opens the log of a job, 100 MB of it, in a browser. The floors are an empty page of the same server, and a plain read of the same bytes in
// the same browser.
func (b *bench) measureWebLog(ctx context.Context) error {
	if why := noBrowser(); why != "" {
		say("NOT MEASURED: web-log: %s", why)
		return nil
	}
	w, err := b.newCIWorld(ctx, "web-log", "--ci-log-limit", "200")
	if err != nil {
		return err
	}
	if _, _, err := b.makeRepository(ctx, &w.instance, filepath.Join(b.dir, "clone-web-log"), "bench-web-log",
		map[string]string{pipelineFile: "job:\n  rules: [{if: '$CI_PIPELINE_SOURCE == \"web\"'}]\n  script:\n    - " + strconv.Quote(chatter) + "\n"}); err != nil {
		return err
	}
	id, err := w.api.trigger(ctx, "bench-web-log")
	if err != nil {
		return err
	}
	p, err := w.api.rested(ctx, id)
	if err != nil {
		return err
	}
	log := fmt.Sprintf("%s/api/v1/jobs/%d/log", w.api.base, p.Jobs[0].ID)
	headers := map[string]string{"Authorization": "Bearer " + w.api.token}
	seen, err := b.visit(ctx,
		visit{Name: "log", URL: fmt.Sprintf("%s/pipelines/%d/jobs/%d", w.api.base, id, p.Jobs[0].ID), Headers: headers, Ready: ".log-line", End: ".log[data-state=whole]"},
		visit{Name: "fetch", URL: w.api.base + "/healthz", Headers: headers, Fetch: log},
		visit{Name: "empty", URL: w.api.base + "/healthz", Ready: "body"},
	)
	if err != nil {
		return err
	}
	for _, v := range seen {
		if v.Name == "fetch" && v.Size < logBytes {
			return fmt.Errorf("the log has %d bytes, and not %d", v.Size, logBytes)
		}
	}
	of := fmt.Sprintf(" of a log of %d MB", logBytes/1_000_000)
	return errors.Join(
		b.add(Result{Name: "web-log", Unit: "ms", Target: target(1000), Floor: "web-log-floor", Detail: map[string]any{"steps": seen[0].Steps}, What: "a job's page is opened, with an empty cache, until the first lines" + of + " are seen"},
			samplesOf(seen, "log", func(v visited) float64 { return v.Ready })),
		b.add(Result{Name: "web-log-floor", Unit: "ms", What: "the same of an empty page of the same server"}, samplesOf(seen, "empty", func(v visited) float64 { return v.Ready })),
		b.add(Result{Name: "web-log-whole", Unit: "ms", Floor: "web-log-whole-floor", What: "the same, until all lines" + of + " are there"}, samplesOf(seen, "log", func(v visited) float64 { return v.End })),
		b.add(Result{Name: "web-log-whole-floor", Unit: "ms", What: "a plain read of the same bytes in the same browser"}, samplesOf(seen, "fetch", func(v visited) float64 { return v.Took })),
		b.add(Result{Name: "web-log-cpu", Unit: "ms", What: "CPU time of the page's main thread until all lines are there"}, samplesOf(seen, "log", func(v visited) float64 { return v.CPU })),
	)
}
