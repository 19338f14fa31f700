package main

import (
	"context"
	"crypto/subtle"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"time"

	"keelson.dev/keelson/internal/githost"
	"keelson.dev/keelson/internal/pipeline/diskspace"
	"keelson.dev/keelson/internal/pipeline/executor/pod"
	"keelson.dev/keelson/internal/registry"
	"keelson.dev/keelson/internal/web"
)

// Bounds of the registry, in bytes: of a blob, and of everything.
const (
	maxImageBlob = 8 << 30
	maxImages    = 64 << 30
)

// imagesKept is how long what nothing refers to stays in the registry.
const imagesKept = 24 * time.Hour

// jobServer serves what jobs reach of an instance, on a port of its own on 127.0.0.1 that a real node passes on to its pods: the Git host, the
// API and a container registry. Connections of pods seem to come from this machine, so here everybody needs a token, also to read.
type jobServer struct {
	listener net.Listener
	server   *http.Server
	images   *registry.Registry
	agents   lateHandler // of the Pods of jobs
	login    string      // file with the user and password by which the node pulls
	nodePass string
	token    string // the instance's, which may everything
	allow    imageAllower
	log      *slog.Logger
	stop     context.CancelFunc
}

// imageAllower is [ci.Server.AllowImage].
type imageAllower func(ctx context.Context, token, repository string, push bool) (known bool, err error)

// nodeUser is the user by which the node pulls, loginFile the file with it and its password.
const nodeUser, loginFile = "node", "registry.login"

// newJobServer opens the registry and listens, on the port of the last run if nobody else has it.
func newJobServer(dir string, inst instance, host *githost.Host, api, triggers http.Handler, allow imageAllower, log *slog.Logger) (*jobServer, error) {
	j := &jobServer{login: filepath.Join(dir, loginFile), token: inst.Token, allow: allow, log: log}
	var err error
	if j.nodePass, err = nodeLogin(j.login); err != nil {
		return nil, err
	}
	images := filepath.Join(dir, "registry")
	j.images, err = registry.Open(registry.Options{
		Dir: images, MaxBlob: maxImageBlob, MaxTotal: maxImages, Authorize: j.authorize, Log: log,
		Room: func(need int64) error { return diskspace.Room(images, need, diskspace.Reserve) },
	})
	if err != nil {
		return nil, err
	}
	if j.listener, err = listenAgain(inst.JobsPort); err != nil {
		return nil, fmt.Errorf("serve jobs: %w", err)
	}
	mux := http.NewServeMux()
	git := host.Guarded()
	mux.Handle(githost.Prefix, git)
	mux.Handle(web.PipelinesPath, api)
	mux.Handle(web.TriggersPath, triggers)
	mux.Handle(pod.Path, &j.agents)
	mux.Handle("/v2/", j.images)
	mux.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		if githost.Plain(r) {
			git.ServeHTTP(w, r)
			return
		}
		http.NotFound(w, r)
	})
	j.server = &http.Server{Handler: mux, ReadHeaderTimeout: 10 * time.Second, IdleTimeout: idleTimeout, ErrorLog: slog.NewLogLogger(log.Handler(), slog.LevelDebug)}
	ctx, stop := context.WithCancel(context.Background())
	j.stop = stop
	go j.collect(ctx)
	go func() {
		if err := j.server.Serve(j.listener); !errors.Is(err, http.ErrServerClosed) {
			log.Error("serve jobs", "error", err)
		}
	}()
	return j, nil
}

// nodeLogin gives the password by which the node pulls, and makes it at the first start. The file is as keelson-cluster reads it.
func nodeLogin(file string) (string, error) {
	text, err := os.ReadFile(file)
	if err == nil {
		if _, password, ok := strings.Cut(strings.TrimSpace(string(text)), ":"); ok && password != "" {
			return password, nil
		}
	}
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return "", fmt.Errorf("read the node's login: %w", err)
	}
	password := newToken()
	if err := os.WriteFile(file, []byte(nodeUser+":"+password+"\n"), 0o600); err != nil {
		return "", fmt.Errorf("write the node's login: %w", err)
	}
	return password, nil
}

// authorize is the registry's port: the node pulls everything, whoever has the instance's token may do everything, and the tokens of jobs do what
// their projects may.
func (j *jobServer) authorize(ctx context.Context, user, password, repository string, push bool) error {
	same := func(secret string) bool { return subtle.ConstantTimeCompare([]byte(password), []byte(secret)) == 1 }
	switch {
	case password == "":
		return registry.ErrUnauthenticated
	case user == nodeUser && same(j.nodePass):
		if push {
			return errors.New("the node's login only pulls")
		}
		return nil
	case same(j.token):
		return nil
	case push && (repository == helperRepository || strings.HasPrefix(repository, helperRepository+"/")):
		return errors.New("the image of the jobs' helper is Keelson's own")
	}
	known, err := j.allow(ctx, password, repository, push)
	if !known {
		return fmt.Errorf("%w: %w", registry.ErrUnauthenticated, err)
	}
	return err
}

// collect removes from time to time what nothing refers to.
func (j *jobServer) collect(ctx context.Context) {
	tick := time.NewTicker(time.Hour)
	defer tick.Stop()
	for {
		freed, err := j.images.Collect(time.Now().Add(-imagesKept))
		if err != nil {
			j.log.Warn("collect images", "error", err)
		} else if freed > 0 {
			j.log.Info("images that nothing refers to are removed", "bytes", freed)
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

// Close implements [io.Closer].
func (j *jobServer) Close() error {
	j.stop()
	return j.server.Close()
}
