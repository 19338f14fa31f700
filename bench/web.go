package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/exec"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"keelson.dev/keelson/internal/web"
	dashboard "keelson.dev/keelson/web"
)

// serveVerb is the first argument of the process that serves the API of apps.
const serveVerb = "serve-apps"

const (
	webApps    = 10_000
	webChanges = 1000 // a second
	webClients = 100
	webSeconds = 10
)

// serveApps serves the dashboard, and the API of apps as keelson does, over an index that a watch would keep: of 10,000 apps. It writes its URL, and changes
// 1,000 apps a second from the first line on its standard input until that ends.
func serveApps(in io.Reader, out io.Writer) error {
	feed := web.NewFeed(time.Now())
	index := web.NewIndex(feed, "Kustomization")
	fleet := make([]web.App, webApps)
	for i := range fleet {
		fleet[i] = fleetApp(i)
		index.SetApp(fleet[i])
	}
	index.Complete("Kustomization")
	h := web.NewApps(web.AppsOptions{Index: index, Feed: feed, Sight: web.NewSight(everything), Log: slog.New(slog.DiscardHandler)})
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	mux := http.NewServeMux()
	for _, path := range web.AppsPaths {
		mux.Handle(path, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			h.ServeHTTP(w, r.WithContext(web.WithPerson(r.Context(), web.Person{Name: "bench"})))
		}))
	}
	mux.HandleFunc("GET /api/v1/me", func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, `{"name":"bench"}`) }) // the client may be gone
	mux.Handle("/", web.New(web.Options{Assets: dashboard.Files()}))
	server := &http.Server{ReadHeaderTimeout: 10 * time.Second, Handler: mux}
	go func() { _ = server.Serve(l) }() // until the process ends
	if _, err := fmt.Fprintf(out, "http://%s\n", l.Addr()); err != nil {
		return err
	}
	lines := bufio.NewScanner(in)
	if !lines.Scan() {
		return lines.Err()
	}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		for lines.Scan() {
		}
	}()
	const batch = 10 // milliseconds
	tick := time.NewTicker(batch * time.Millisecond)
	defer tick.Stop()
	for n := 0; ; {
		select {
		case <-ended:
			return nil
		case <-tick.C:
			for range webChanges * batch / 1000 {
				a := &fleet[n*7919%webApps]
				if a.State = web.Working; n%2 == 0 {
					a.State = web.Ready
				}
				a.Message = fmt.Sprintf("Applied revision: %d", n)
				index.SetApp(*a)
				n++
			}
		}
	}
}

// everything may be seen by everybody.
func everything(context.Context, web.Person, string, web.Target) error { return nil }

// fleetApp is an app as others have them.
func fleetApp(i int) web.App {
	states := []web.State{web.Ready, web.Ready, web.Ready, web.Working, web.Failing, web.Suspended}
	env := []string{"dev", "staging", "production"}[i%3]
	name := fmt.Sprintf("app-%05d-%s", i/3, env)
	return web.App{
		Status: web.Status{
			Kind: "Kustomization", Namespace: fmt.Sprintf("team-%d", i%100), Name: name, State: states[i%len(states)], Reason: "ReconciliationSucceeded",
			Message: fmt.Sprintf("Applied revision: main@sha1:%040x", i), Revision: fmt.Sprintf("main@sha1:%040x", i),
			Since: time.Now().Add(-time.Duration(i) * time.Second), Created: time.Now().Add(-time.Duration(i) * time.Minute),
		},
		Environment: env, Source: "GitRepository/flux-system/fleet", Path: "apps/" + name, Objects: 12, SHA: fmt.Sprintf("%040x", i), App: name,
	}
}

// startApps starts the process that serves the API of apps; begin makes it change them.
func (b *bench) startApps(ctx context.Context) (base string, pid int, begin func() error, err error) {
	self, err := os.Executable()
	if err != nil {
		return "", 0, nil, err
	}
	cmd := exec.CommandContext(ctx, self, serveVerb, "-")
	cmd.Stderr = os.Stderr
	in, err := cmd.StdinPipe()
	if err != nil {
		return "", 0, nil, err
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		return "", 0, nil, err
	}
	if err := cmd.Start(); err != nil {
		return "", 0, nil, err
	}
	b.stops = append(b.stops, func() error {
		_ = in.Close() // it ends then
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		return nil
	})
	line, err := bufio.NewReader(out).ReadString('\n')
	if err != nil {
		return "", 0, nil, fmt.Errorf("start what serves apps: %w", err)
	}
	return strings.TrimSpace(line), cmd.Process.Pid, func() error { _, err := io.WriteString(in, "go\n"); return err }, nil
}

// measureWebList asks for pages of a list of 10,000 apps, while 1,000 of them change a second.
func (b *bench) measureWebList(ctx context.Context) error {
	base, pid, begin, err := b.startApps(ctx)
	if err != nil {
		return err
	}
	if err := begin(); err != nil {
		return err
	}
	queries := []string{
		"", "q=production+team-7", "state=Failing,Working&sort=since", "namespace=team-42", "environment=production&sort=-state&limit=200",
		"q=app-01&sort=name", "kind=Kustomization&sort=environment&limit=500", "q=nothing-has-this",
	}
	var samples []float64
	before, err := cpuOf(pid)
	if err != nil {
		return err
	}
	for round := range 50 * len(queries) {
		path := "/api/v1/apps?" + queries[round%len(queries)]
		start := time.Now()
		var list web.AppList
		if err := getJSON(ctx, base+path, &list); err != nil {
			return err
		}
		if took := time.Since(start); round >= len(queries) { // the first warm up
			samples = append(samples, milliseconds(took))
		}
		if list.Counts == nil || path == "/api/v1/apps?" && list.Total != webApps {
			return fmt.Errorf("%s: %d of %d apps", path, list.Total, webApps)
		}
	}
	after, err := cpuOf(pid)
	if err != nil {
		return err
	}
	return errors.Join(
		b.add(Result{
			Name: "web-list", Unit: "ms", Tail: target(50), What: "a page of a list of 10,000 apps, filtered, searched and sorted in eight ways, while 1,000 of them change a second",
		}, samples),
		b.add(Result{Name: "web-list-cpu", Unit: "ms", What: "CPU of the server for each of them, with that of the changes"}, []float64{milliseconds(after-before) / float64(50*len(queries))}),
	)
}

func getJSON(ctx context.Context, url string, into any) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return err
	}
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		return err
	}
	defer res.Body.Close()
	if res.StatusCode != http.StatusOK {
		text, _ := io.ReadAll(io.LimitReader(res.Body, 1000))
		return fmt.Errorf("%s: %s: %s", url, res.Status, text)
	}
	return json.NewDecoder(res.Body).Decode(into)
}

// measureWebSSE has 100 clients follow 1,000 changes a second.
func (b *bench) measureWebSSE(ctx context.Context) error {
	base, pid, begin, err := b.startApps(ctx)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	transport := &http.Transport{MaxConnsPerHost: 2 * webClients}
	defer transport.CloseIdleConnections()
	var events atomic.Int64
	var all sync.WaitGroup
	failed := make(chan error, webClients)
	for range webClients {
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, base+web.EventsPath, nil)
		if err != nil {
			return err
		}
		res, err := (&http.Client{Transport: transport}).Do(req)
		if err != nil {
			return err
		}
		all.Go(func() {
			defer res.Body.Close()
			_, err := web.ReadEvents(res.Body, "", func(name string, _ []byte) bool {
				if name == web.EventReset {
					failed <- errors.New("a client was too slow")
				}
				events.Add(1)
				return true
			})
			if ctx.Err() == nil {
				failed <- fmt.Errorf("a stream ended: %w", err)
			}
		})
	}
	if err := begin(); err != nil {
		return err
	}
	if err := pause(ctx, 2*time.Second); err != nil {
		return err
	}
	var cores, told []float64
	for range webSeconds {
		before, err := cpuOf(pid)
		if err != nil {
			return err
		}
		start, had := time.Now(), events.Load()
		if err := pause(ctx, time.Second); err != nil {
			return err
		}
		after, err := cpuOf(pid)
		if err != nil {
			return err
		}
		took := time.Since(start).Seconds()
		cores = append(cores, (after-before).Seconds()/took)
		told = append(told, float64(events.Load()-had)/webClients/took)
	}
	select {
	case err := <-failed:
		return err
	default:
	}
	cancel()
	all.Wait()
	return errors.Join(
		b.add(Result{Name: "web-sse", Unit: "cores", Target: target(1), What: "CPU of the server, whose 100 clients follow 1,000 changes a second"}, cores),
		b.add(Result{Name: "web-sse-events", Unit: "events/s", What: "what each of them is told: of several changes of an app the last"}, told),
	)
}
